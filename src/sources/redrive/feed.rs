//! A source with redrives beside it.
//!
//! In: a source, what is recorded, and [`Wanted`]: which redrives this run takes in. Out: a source whose workers have the
//! redrives that fall to them as further partitions: redrive `n` goes to worker `n % peers`. All that are recorded at
//! the start join with the partitions that are there at the start; while a live run lasts, those recorded later join
//! within a second or so.
//!
//! Which run takes in what:
//! - a run that goes on from a checkpoint: those that the checkpoint or its marks know, and those recorded since its
//!   generation began, but for letters whose records a start after them could read where they are;
//! - a run that begins anew: all, if it reads the source from the beginning, but for letters whose records it can read
//!   where they are; else none, since of the windows that their records belong to it would have nothing but them;
//! - a replay of a range: of all of them the letters whose origins are in the range, but for those whose records it can
//!   read there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, ReadAs, RecordedMarks, Waker,
};
use floodmark_dataflows::output::Reason;
use parking_lot::Mutex;

use super::file::{Letter, Place, Record, Redrive};
use super::is_redrive;
use super::recorded::Recorded;
use crate::checkpoint::starts::{Start, Starts};
use crate::checkpoint::store::StoreError;
use crate::sources::{Positions, Source, SourceError, WorkerPlace};

/// Letters given at a time.
const BATCH: usize = 512;
/// How often to look for another one.
const LOOK: Duration = Duration::from_secs(1);

/// Compiles what is computed for records of another form, or of the run's own; says what does not go with it.
pub type ReadAsFn = dyn Fn(Option<&RecordsConfig>) -> Result<ReadAs, String> + Send + Sync;

/// Which redrives a run takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those that the checkpoint knows, and those recorded in this generation or a later one; with `all`, any.
    Since {
        /// The generation.
        generation: u64,
        /// The run begins anew, and at the beginning of the log.
        all: bool,
    },
    /// Letters whose origins are in what the source reads.
    Covered,
}

/// What is known from earlier starts.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Where those redrives go on that the checkpoint knows.
    pub positions: Positions,
    /// What earlier starts have read.
    pub starts: Starts,
    /// This start.
    pub start: Start,
}

/// A source, and redrives beside it.
pub struct WithRedrives<S> {
    source: Arc<S>,
    shared: Arc<Shared>,
}

impl<S> Clone for WithRedrives<S> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), shared: self.shared.clone() }
    }
}

struct Shared {
    recorded: Option<Recorded>,
    wanted: Wanted,
    known: Known,
    /// The source ends by itself, and with it the run: then none joins later.
    has_end: bool,
    read_as: Box<ReadAsFn>,
    /// Of the workers of this process.
    inboxes: Mutex<Vec<Arc<Inbox>>>,
    /// Those found so far that workers of this process have or will have, with their numbers of letters.
    ends: Mutex<Positions>,
    /// The first number that was not looked for.
    next: Mutex<i32>,
    /// What keeps one from being read, by number.
    problems: Mutex<BTreeMap<i32, String>>,
}

/// Between the thread that looks for redrives, and a worker.
struct Inbox {
    worker: WorkerPlace,
    joining: Mutex<Vec<Joining>>,
    has_joining: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A redrive on its way to its worker.
struct Joining {
    info: PartitionInfo,
    letters: Arc<Letters>,
    read_as: Option<ReadAs>,
    start: u64,
}

/// The letters of a redrive.
#[derive(Debug)]
struct Letters {
    arrived_ms: u64,
    records: Vec<Option<Record>>,
}

impl<S: Source> WithRedrives<S> {
    /// A source with the redrives of `recorded` that are wanted. Where the source has an end, redrives recorded later wait for
    /// the next run.
    pub fn new(
        source: Arc<S>,
        recorded: Option<Recorded>,
        wanted: Wanted,
        known: Known,
        has_end: bool,
        read_as: Box<ReadAsFn>,
    ) -> Self {
        let shared = Shared {
            recorded,
            wanted,
            known,
            has_end,
            read_as,
            inboxes: Mutex::default(),
            ends: Mutex::default(),
            next: Mutex::default(),
            problems: Mutex::default(),
        };
        Self { source, shared: Arc::new(shared) }
    }

    /// Takes in what is recorded now; after the feeds of this process were opened, before they are used.
    ///
    /// # Errors
    /// When it cannot be found out what is recorded: a run without them would not be the same.
    pub async fn take_recorded(&self) -> Result<(), StoreError> {
        let Some(recorded) = &self.shared.recorded else { return Ok(()) };
        for number in recorded.numbers().await? {
            self.take(recorded, number).await?;
        }
        Ok(())
    }

    /// Looks for further ones, for ever.
    pub async fn watch(self) {
        let Some(recorded) = self.shared.recorded.as_ref().filter(|_| !self.shared.has_end) else { return };
        let mut was_failing = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let number = *self.shared.next.lock();
            let found = match recorded.has(number).await {
                Ok(true) => self.take(recorded, number).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = &found
                && !was_failing
            {
                tracing::warn!("redrives cannot be looked for: {error}; trying again");
            }
            was_failing = found.is_err();
        }
    }

    /// Hands a redrive to its worker, if that is one of this process and the redrive is wanted.
    async fn take(&self, recorded: &Recorded, number: i32) -> Result<(), StoreError> {
        let shared = &self.shared;
        let inbox = shared.inboxes.lock().iter().find(|inbox| inbox.is_for(number)).cloned();
        let taken = match inbox {
            None => Ok(()),
            Some(inbox) => match recorded.read(number).await {
                Ok(redrive) => self.hand_over(&inbox, number, &redrive),
                Err(error @ StoreError::Damaged { .. }) => Err(error.to_string()),
                Err(error) => return Err(error),
            },
        };
        match taken {
            Ok(()) => drop(shared.problems.lock().remove(&number)),
            Err(problem) => {
                tracing::error!("redrive {number} is not read: {problem}");
                shared.problems.lock().insert(number, problem);
            }
        }
        let mut next = shared.next.lock();
        *next = (*next).max(number + 1);
        Ok(())
    }

    fn hand_over(&self, inbox: &Inbox, number: i32, redrive: &Redrive) -> Result<(), String> {
        let shared = &self.shared;
        let info = redrive.partition(number);
        let known = shared.known.positions.get(&info).copied();
        if let Wanted::Since { generation, all: false } = shared.wanted
            && known.is_none()
            && redrive.header.generation < generation
        {
            tracing::info!(number, "a redrive of an earlier generation is left out");
            return Ok(());
        }
        let records = self.not_read_in_place(number, redrive)?;
        // Else it joins in any case: that nothing of it is wanted is to be known behind the next checkpoint, too.
        if shared.wanted == Wanted::Covered && records.iter().all(Option::is_none) {
            return Ok(());
        }
        let read_as = redrive.header.records.as_ref().map(|records| (shared.read_as)(Some(records))).transpose()?;
        let letters = records.len() as u64;
        tracing::info!(number, letters, "a redrive joins");
        shared.ends.lock().insert(info.clone(), letters);
        let letters = Arc::new(Letters { arrived_ms: redrive.header.recorded_ms, records });
        inbox.joining.lock().push(Joining { info, letters, read_as, start: known.unwrap_or(0) });
        inbox.has_joining.store(true, Ordering::Release);
        if let Some(waker) = &*inbox.waker.lock() {
            waker();
        }
        Ok(())
    }

    /// The records of a redrive that are wanted, but for those that this run reads where they first were: its own decoder
    /// can read them by now, and it reads that place, or an earlier start of its generation did after the letter was written.
    fn not_read_in_place(&self, number: i32, redrive: &Redrive) -> Result<Vec<Option<Record>>, String> {
        let is_wanted = |letter: &Letter| self.shared.wanted != Wanted::Covered || self.covers(&letter.origin());
        // Whether it is ahead again depends on when it arrived there.
        let may_be_read =
            |letter: &Letter| letter.letter.reason != Reason::ClockAhead && self.reads_place(redrive, letter);
        if !redrive.letters.iter().any(may_be_read) {
            return Ok(redrive.records(is_wanted));
        }
        let mut decoder = (self.shared.read_as)(None)?.decoder;
        let mut left_out = 0;
        let records = redrive.records(|letter| {
            if !is_wanted(letter) {
                return false;
            }
            let is_read = may_be_read(letter) && letter.letter.bytes().is_some_and(|raw| decoder.decode(&raw).is_ok());
            left_out += u64::from(is_read);
            !is_read
        });
        if left_out > 0 {
            tracing::info!(number, left_out, "letters of a redrive are left out: they are read where they first were");
        }
        Ok(records)
    }

    /// Whether the place where a letter's record first was is read, after the letter was written.
    fn reads_place(&self, redrive: &Redrive, of: &Letter) -> bool {
        let letter = &of.letter;
        match self.shared.wanted {
            Wanted::Covered => true,
            // What the source has is asked at the beginning only: later it is known of no offset before the checkpoint.
            Wanted::Since { generation, all } if redrive.header.generation < generation => {
                !all || self.covers(&of.origin())
            }
            // A document that the store refused may have been written by way of the redrive by now.
            Wanted::Since { .. } if of.origin.is_some() || letter.reason == Reason::Unindexable => false,
            Wanted::Since { .. } => {
                let Known { starts, start, .. } = &self.shared.known;
                let by_this = letter.start < start.number && self.covers(&of.origin());
                by_this || starts.read_alike(&letter.partition_info(), letter.offset, letter.start, *start)
            }
        }
    }

    fn covers(&self, place: &Place) -> bool {
        self.source.covers(&place.partition(), place.offset)
    }

    /// Whether all that are recorded are read, in one line.
    ///
    /// # Errors
    /// Which ones are not, and why.
    pub fn redrives_health(&self) -> Result<String, String> {
        let problems = self.shared.problems.lock();
        match problems.is_empty() {
            true => Ok(format!("{} redrives", self.shared.next.lock())),
            false => {
                let problems = problems.iter().map(|(number, problem)| format!("redrive {number}: {problem}"));
                Err(problems.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl Inbox {
    /// Whether its worker reads this redrive.
    fn is_for(&self, number: i32) -> bool {
        number.unsigned_abs() as usize % self.worker.peers == self.worker.index
    }
}

#[async_trait]
impl<S: Source> Source for WithRedrives<S> {
    type Feed = FeedWithRedrives<S::Feed>;

    fn feed(&self, worker: WorkerPlace) -> Result<Self::Feed, SourceError> {
        let inbox = Arc::new(Inbox {
            worker,
            joining: Mutex::default(),
            has_joining: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        self.shared.inboxes.lock().push(inbox.clone());
        Ok(FeedWithRedrives {
            feed: self.source.feed(worker)?,
            inbox,
            partitions: Vec::new(),
            redrives: Vec::new(),
            of_source: 0,
            has_end: self.shared.has_end,
        })
    }

    fn ends(&self) -> Positions {
        let mut ends = self.source.ends();
        ends.extend(self.shared.ends.lock().iter().map(|(info, end)| (info.clone(), *end)));
        ends
    }

    fn paths(&self) -> BTreeMap<Arc<str>, String> {
        self.source.paths()
    }

    async fn commit(&self, positions: &Positions) -> Result<(), SourceError> {
        let of_source = positions.iter().filter(|(partition, _)| !is_redrive(partition));
        self.source.commit(&of_source.map(|(partition, offset)| (partition.clone(), *offset)).collect()).await
    }

    fn failure(&self) -> Option<String> {
        self.source.failure()
    }

    fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        self.source.covers(partition, offset)
    }

    async fn health(&self) -> Result<String, SourceError> {
        self.source.health().await
    }
}

/// A worker's share of a source, and of redrives.
pub struct FeedWithRedrives<F> {
    feed: F,
    inbox: Arc<Inbox>,
    /// By the worker's number.
    partitions: Vec<Whose>,
    redrives: Vec<Reading>,
    /// Partitions of the source.
    of_source: PartitionIndex,
    has_end: bool,
}

/// Whose partition it is, with its number there.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Source(PartitionIndex),
    Redrive(usize),
}

/// A redrive that is being read.
struct Reading {
    /// `None` once all was given.
    letters: Option<Arc<Letters>>,
    read_as: Option<ReadAs>,
    next: usize,
}

impl<F: Feed> Feed for FeedWithRedrives<F> {
    type Batch = EitherBatch<F::Batch>;

    fn attach(&mut self, waker: Waker) {
        *self.inbox.waker.lock() = Some(waker.clone());
        self.feed.attach(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        let mut joined = self.feed.joined();
        for _ in &joined {
            self.partitions.push(Whose::Source(self.of_source));
            self.of_source += 1;
        }
        if self.inbox.has_joining.swap(false, Ordering::AcqRel) {
            for Joining { info, letters, read_as, start } in self.inbox.joining.lock().drain(..) {
                joined.push(info);
                self.partitions.push(Whose::Redrive(self.redrives.len()));
                self.redrives.push(Reading { letters: Some(letters), read_as, next: start as usize });
            }
        }
        joined
    }

    fn is_discovering(&self) -> bool {
        self.feed.is_discovering()
    }

    fn is_live(&self) -> bool {
        self.feed.is_live() || !self.has_end
    }

    fn has_marks(&self) -> bool {
        self.feed.has_marks()
    }

    fn offsets_are_bytes(&self, partition: PartitionIndex) -> bool {
        match self.partitions[partition] {
            Whose::Source(partition) => self.feed.offsets_are_bytes(partition),
            Whose::Redrive(_) => false,
        }
    }

    fn read_as(&mut self, partition: PartitionIndex) -> Option<ReadAs> {
        match self.partitions[partition] {
            Whose::Source(partition) => self.feed.read_as(partition),
            Whose::Redrive(number) => self.redrives[number].read_as.take(),
        }
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<Self::Batch>> {
        match self.partitions[partition] {
            Whose::Redrive(number) => self.redrives[number].poll(),
            Whose::Source(partition) => Some(match self.feed.poll(partition)? {
                PartitionEvent::Records(batch) => PartitionEvent::Records(EitherBatch::Source(batch)),
                PartitionEvent::AtEnd { next_offset } => PartitionEvent::AtEnd { next_offset },
                PartitionEvent::Ended => PartitionEvent::Ended,
                PartitionEvent::Unreachable => PartitionEvent::Unreachable,
                PartitionEvent::Lost { from, to } => PartitionEvent::Lost { from, to },
            }),
        }
    }

    fn hurry(&mut self) {
        self.feed.hurry();
    }

    fn is_mark_due(&mut self) -> bool {
        self.feed.is_mark_due()
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        self.feed.mark(positions)
    }
}

impl Reading {
    fn poll<B>(&mut self) -> Option<PartitionEvent<EitherBatch<B>>> {
        let letters = self.letters.as_ref()?;
        let (next, end) = (self.next, letters.records.len());
        if next >= end {
            self.letters = None;
            return Some(PartitionEvent::Ended);
        }
        self.next = end.min(next + BATCH);
        let mut batch = LetterBatch { letters: letters.clone(), at: next, end: self.next };
        batch.pass_over();
        Some(PartitionEvent::Records(EitherBatch::Letters(batch)))
    }
}

/// Records of the source, or letters.
#[derive(Debug)]
pub enum EitherBatch<B> {
    /// Records.
    Source(B),
    /// Letters.
    Letters(LetterBatch),
}

/// Letters that follow each other.
#[derive(Debug)]
pub struct LetterBatch {
    letters: Arc<Letters>,
    at: usize,
    end: usize,
}

impl LetterBatch {
    /// Goes on to the next letter that is wanted.
    fn pass_over(&mut self) {
        while self.at < self.end && self.letters.records[self.at].is_none() {
            self.at += 1;
        }
    }
}

impl<B: Batch> Batch for EitherBatch<B> {
    #[inline]
    fn current(&self) -> Option<RawRecord<'_>> {
        match self {
            EitherBatch::Source(batch) => batch.current(),
            EitherBatch::Letters(LetterBatch { letters, at, end }) => {
                let record = letters.records[..*end].get(*at)?.as_ref()?;
                Some(RawRecord {
                    offset: *at as u64,
                    bytes: &record.raw,
                    appended_ms: Some(letters.arrived_ms),
                    redriven_from: Some(&record.origin),
                })
            }
        }
    }

    #[inline]
    fn advance(&mut self) {
        match self {
            EitherBatch::Source(batch) => batch.advance(),
            EitherBatch::Letters(batch) => {
                batch.at += 1;
                batch.pass_over();
            }
        }
    }

    fn next_offset(&self) -> u64 {
        match self {
            EitherBatch::Source(batch) => batch.next_offset(),
            EitherBatch::Letters(batch) => batch.end as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::dead_letters::Document;
    use crate::engine::read_as;
    use crate::sources::generator::{GeneratorConfig, GeneratorSource};
    use crate::sources::redrive::Letter;

    fn letter(offset: u64) -> Letter {
        let json = format!(
            "{{\"timestamp\":1,\"topic\":\"t\",\"identity\":\"t\",\"partition\":0,\"offset\":{offset},\
             \"reason\":\"malformed\",\"detail\":\"\",\"raw\":\"record {offset}\"}}"
        );
        Letter { letter: serde_json::from_str::<Document<'static>>(&json).unwrap(), origin: None, counted: false }
    }

    /// The records that the workers of a run are given of redrives, by number and place.
    async fn taken(recorded: &Recorded, wanted: Wanted, positions: Positions) -> Vec<(i32, u64, String)> {
        let config = GeneratorConfig { rate: 0, count: 10, ..GeneratorConfig::default() };
        let source = GeneratorSource::new(config, 0, Positions::new(), true).unwrap();
        let own = Config::default();
        let read_as = Box::new(move |records: Option<&RecordsConfig>| read_as(&own, records.unwrap_or(&own.records)));
        let known = Known { positions, ..Known::default() };
        let source = WithRedrives::new(Arc::new(source), Some(recorded.clone()), wanted, known, true, read_as);
        let mut feeds: Vec<_> = (0..2).map(|index| source.feed(WorkerPlace { index, peers: 2 }).unwrap()).collect();
        source.take_recorded().await.unwrap();
        let mut found = Vec::new();
        for feed in &mut feeds {
            for (partition, info) in feed.joined().into_iter().enumerate().filter(|(_, info)| is_redrive(info)) {
                while let Some(PartitionEvent::Records(mut batch)) = feed.poll(partition) {
                    while let Some(RawRecord { offset, bytes, appended_ms, redriven_from }) = batch.current() {
                        assert_eq!((appended_ms, redriven_from.unwrap().partition), (Some(7), 0));
                        found.push((info.number, offset, String::from_utf8_lossy(bytes).into_owned()));
                        batch.advance();
                    }
                }
            }
        }
        found.sort();
        found
    }

    #[tokio::test]
    async fn a_run_takes_in_what_belongs_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let recorded = Recorded::open(&config).unwrap();
        for (number, generation) in [(0, 1), (1, 2)] {
            let redrive = Redrive::new(7, generation, None, (0..3).map(|i| letter(10 * generation + i)).collect());
            assert_eq!(recorded.record(&redrive).await.unwrap(), number);
        }
        let record = |number: i32, place: u64| (number, place, format!("record {}", 10 * (number as u64 + 1) + place));
        let (first, second) = ((0..3).map(|i| record(0, i)), (0..3).map(|i| record(1, i)));
        let since = |generation, all| Wanted::Since { generation, all };
        let none = Positions::new;
        assert_eq!(
            taken(&recorded, since(2, true), none()).await,
            first.clone().chain(second.clone()).collect::<Vec<_>>()
        );
        assert_eq!(taken(&recorded, since(2, false), none()).await, second.clone().collect::<Vec<_>>());
        assert!(taken(&recorded, since(3, false), none()).await.is_empty());
        // One that a checkpoint knows goes on where that stands.
        let known = recorded.read(0).await.unwrap().partition(0);
        let goes_on = taken(&recorded, since(2, false), Positions::from([(known, 2)])).await;
        assert_eq!(goes_on, [record(0, 2)].into_iter().chain(second).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_damaged_redrive_is_left_alone_loudly() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let recorded = Recorded::open(&config).unwrap();
        for number in 0..2 {
            recorded.record(&Redrive::new(7, 1, None, vec![letter(number)])).await.unwrap();
        }
        for copy in ["a", "b"] {
            std::fs::write(dir.path().join("checkpoints").join(copy).join("redrives/00000000"), b"{}").unwrap();
        }
        let config = GeneratorConfig { rate: 0, count: 10, ..GeneratorConfig::default() };
        let source = GeneratorSource::new(config, 0, Positions::new(), true).unwrap();
        let wanted = Wanted::Since { generation: 1, all: true };
        let nothing = Box::new(|_: Option<&RecordsConfig>| Err("is not asked".to_owned()));
        let source = WithRedrives::new(Arc::new(source), Some(recorded), wanted, Known::default(), true, nothing);
        let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 }).unwrap();
        source.take_recorded().await.unwrap();
        let joined: Vec<i32> = feed.joined().iter().filter(|info| is_redrive(info)).map(|info| info.number).collect();
        assert_eq!(joined, [1]);
        let problem = source.redrives_health().unwrap_err();
        assert!(problem.contains("redrive 0") && problem.contains("no copy of redrives/00000000 is good"), "{problem}");
    }
}
