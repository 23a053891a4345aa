//! Takes turns over a worker's partitions and follows rotation: in a thread of its own, or called by the worker.
//!
//! In: the partitions that the registry gives this worker. Out: events, over one bounded channel a partition; a full
//! channel only stops its own partition. What happens to a file while it is followed:
//!
//! - renamed: the open file is read on; once its name is out of the patterns and it has been at its end for
//!   [`CLOSE_AFTER`], a last line without a line feed is taken for a record and the file is closed.
//! - copied and cut: the cut shows in the file's first bytes or its length. Reading goes on in a copy that is longer.
//! - compressed and deleted: the open file is read to its end; after a restart, the compressed one is read on.
//!
//! A read that fails is reported as `Unreachable`, and the file is opened again where the last whole line ended.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use floodmark_dataflows::input::{PartitionEvent, PartitionInfo, Waker};
use parking_lot::Mutex;

use super::feed::FileBatch;
use super::registry::{Log, Registry, advice};
use super::stream::Stream;
use super::tail::{Block, Limits, Step, Tail};
use super::{Failure, FilesConfig, SMALLEST_BLOCK};
use crate::sources::WorkerPlace;

/// Events waiting for the worker, a partition.
const QUEUE: usize = 2;
/// A file that was renamed away from the patterns or deleted is closed when it has been at its end for this long:
/// longer than a writer takes to notice the rotation.
const CLOSE_AFTER: Duration = Duration::from_secs(60);
/// How often a copy of a file that was cut is looked for, at intervals of `poll_interval`, before it is given up.
const COPY_TRIES: u32 = 20;
/// A file that cannot be read is tried again after this, and twice that each further time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Attempts at a file, without a record between them, after which a run that does not follow ends: over about 8 s.
const TRIES: u32 = 5;

/// What the thread and the feed share.
#[derive(Default)]
pub struct Shared {
    /// Partitions that the feed has not seen.
    pub joined: Mutex<Vec<Joined>>,
    /// Wakes the worker.
    pub waker: Mutex<Option<Waker>>,
    /// Tells the thread to end.
    pub stop: AtomicBool,
    /// Why reading cannot go on.
    pub failure: Failure,
}

impl Shared {
    /// Ends the run. The first reason counts.
    fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
        if let Some(waker) = &*self.waker.lock() {
            waker();
        }
    }
}

/// A partition on its way to the feed.
pub struct Joined {
    /// The partition.
    pub info: PartitionInfo,
    /// Its events.
    pub events: Receiver<PartitionEvent<FileBatch>>,
}

/// The thread's state.
pub struct Reader {
    config: Arc<FilesConfig>,
    registry: Arc<Mutex<Registry>>,
    shared: Arc<Shared>,
    worker: WorkerPlace,
    /// How many of the registry's logs were looked through for this worker's.
    taken: usize,
    limits: Limits,
    slots: Vec<Slot>,
}

/// A partition as the thread reads it.
struct Slot {
    log: Log,
    /// No more of a line is handed on.
    line_bytes: usize,
    events: Sender<PartitionEvent<FileBatch>>,
    /// Buffers that the worker is done with.
    home: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
    state: State,
    /// Position to open the file at.
    offset: u64,
    /// No turn before this.
    next_turn: Instant,
    /// Whether the last event said that this is the end.
    told_end: bool,
    /// Since when the open file is at its end and not among the files that match.
    away_since: Option<Instant>,
    retry: Duration,
    /// Attempts that failed since the last record.
    failures: u32,
}

enum State {
    /// To be opened. The file that was read until it was cut comes along, with how often a copy was looked for.
    Closed(Option<(Box<Tail>, u32)>),
    Open(Box<Tail>),
    /// Read to its end, and the file is gone or will not grow.
    Finished,
    /// `Ended` was sent.
    Ended,
}

impl Reader {
    /// A reader with the partitions that are there now.
    pub fn new(
        config: Arc<FilesConfig>,
        registry: Arc<Mutex<Registry>>,
        shared: Arc<Shared>,
        worker: WorkerPlace,
        limits: Limits,
    ) -> Self {
        let mut reader = Self { config, registry, shared, worker, taken: 0, limits, slots: Vec::new() };
        reader.take_new();
        // A queue, a block being filled and one being used.
        let blocks = (QUEUE as u64 + 2) * reader.slots.len().max(1) as u64;
        let share = (reader.config.memory.0 / blocks).max(SMALLEST_BLOCK) as usize;
        reader.limits.block_bytes = limits.block_bytes.min(share);
        reader
    }

    /// Reads until it is told to stop. A panic is a mistake in this program: it ends the run, since the partitions of
    /// this thread would seem to be at their ends for ever.
    pub fn run(self) {
        let shared = self.shared.clone();
        if catch_unwind(AssertUnwindSafe(|| self.read_on())).is_err() {
            shared.fail("the thread that reads files panicked; its message is above".to_owned());
        }
    }

    fn read_on(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.config.follow {
                self.registry.lock().scan_if_due();
                if self.take_new() {
                    self.wake();
                }
            }
            let mut progress = false;
            for i in 0..self.slots.len() {
                while !self.slots[i].events.is_full() && self.turn(i) {
                    progress = true;
                    self.wake();
                }
            }
            if !progress {
                // The feed unparks this thread when it has taken an event.
                std::thread::park_timeout(self.config.poll_interval.0);
            }
        }
    }

    /// A file that stays unreadable ends a run over what is there; a run that follows waits for it.
    fn give_up_on(&self, i: usize) {
        let slot = &self.slots[i];
        if !self.config.follow && slot.failures >= TRIES {
            let (identity, offset) = (&slot.log.info.identity, slot.offset);
            let of = format!("the file with the identity {identity} (partition {})", slot.log.info.number);
            self.shared
                .fail(format!("{of} could not be read at position {offset} in {TRIES} attempts; the errors are above"));
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.shared.waker.lock() {
            waker();
        }
    }

    /// Makes slots for new partitions. Returns whether there were any.
    fn take_new(&mut self) -> bool {
        let (logs, taken) = self.registry.lock().take(self.taken, self.worker);
        self.taken = taken;
        let any = !logs.is_empty();
        for log in logs {
            let (events, received) = bounded(QUEUE);
            let (home, free) = bounded(QUEUE + 2);
            self.shared.joined.lock().push(Joined { info: log.info.clone(), events: received });
            self.slots.push(Slot {
                offset: log.from,
                log,
                line_bytes: self.limits.line_bytes,
                events,
                home,
                free,
                state: State::Closed(None),
                next_turn: Instant::now(),
                told_end: false,
                away_since: None,
                retry: FIRST_RETRY,
                failures: 0,
            });
        }
        any
    }

    /// Reads a partition on; there must be room for an event. Returns whether one was sent.
    pub fn turn(&mut self, i: usize) -> bool {
        let slot = &mut self.slots[i];
        if Instant::now() < slot.next_turn {
            return false;
        }
        let event = loop {
            match std::mem::replace(&mut slot.state, State::Finished) {
                State::Closed(_) | State::Open(_) if slot.is_over() => {
                    slot.state = State::Ended;
                    break Some(PartitionEvent::Ended);
                }
                State::Ended => {
                    slot.state = State::Ended;
                    break None;
                }
                State::Finished => {
                    slot.reopen_if_longer(&self.registry.lock());
                    slot.next_turn = Instant::now() + self.config.poll_interval.0;
                    break slot.at_end();
                }
                State::Closed(cut) => {
                    let event = slot.open(cut, &self.config, &self.registry, self.limits);
                    if !matches!(slot.state, State::Open(_)) {
                        break event;
                    }
                }
                State::Open(tail) => break slot.read(tail, &self.config, &self.registry, self.limits),
            }
        };
        let Some(event) = event else { return false };
        slot.told_end = matches!(event, PartitionEvent::AtEnd { .. });
        // There is room, and nobody else sends. A feed that is gone has set `stop`.
        let _ = slot.events.try_send(event);
        self.give_up_on(i);
        true
    }
}

impl Slot {
    /// The event that says that this is the end, unless the last event did.
    fn at_end(&self) -> Option<PartitionEvent<FileBatch>> {
        (!self.told_end).then_some(PartitionEvent::AtEnd { next_offset: self.offset })
    }

    /// Whether the range asked for has been read.
    fn is_over(&self) -> bool {
        self.log.to.is_some_and(|to| self.offset >= to)
    }

    /// Opens the best file that holds the log from `offset` on.
    fn open(
        &mut self,
        cut: Option<(Box<Tail>, u32)>,
        config: &FilesConfig,
        registry: &Mutex<Registry>,
        limits: Limits,
    ) -> Option<PartitionEvent<FileBatch>> {
        let candidates = {
            let mut registry = registry.lock();
            if cut.is_some() {
                // The copy may be newer than the last scan. The patterns were good at the start.
                let _ = registry.scan();
            }
            registry.candidates(self.log.fingerprint).to_vec()
        };
        let is_long_enough = |length: Option<u64>| match &cut {
            Some((tail, _)) => length.is_none_or(|length| length > tail.position()),
            None => length.is_none_or(|length| length >= self.offset),
        };
        let mut problem = None;
        let head = if config.follow { &*self.log.head } else { &[] };
        for file in candidates.iter().filter(|file| is_long_enough(file.plain_length)) {
            match Stream::open(&file.path).and_then(|stream| Tail::new(stream, self.offset, head.to_vec(), limits)) {
                Ok(tail) => {
                    if let Ok(metadata) = tail.stream().metadata()
                        && !tail.stream().is_compressed()
                    {
                        self.log.end.store(metadata.len(), Ordering::Relaxed);
                    }
                    self.state = State::Open(Box::new(tail));
                    return None;
                }
                Err(error) => problem = problem.or(Some((file.path.clone(), error))),
            }
        }
        if let Some((tail, tries)) = cut {
            // Shorter than what was read, all of them: what came after was in the cut file alone, and has been read. One
            // that could not be opened up to here may be a copy that is still being compressed.
            let complete = !candidates.is_empty() && problem.is_none();
            return self.give_up(tail, tries, complete, config);
        }
        let (path, error) = problem.unwrap_or_else(|| {
            let path = candidates.first().map_or_else(PathBuf::new, |file| file.path.clone());
            let what = match candidates.is_empty() {
                true => format!("no file with the identity {} is left", self.log.info.identity),
                false => format!("it ends before position {}, where reading was to go on", self.offset),
            };
            (path, io::Error::new(io::ErrorKind::NotFound, what))
        });
        Some(self.unreachable(&path, &error))
    }

    /// The file was cut and no copy holds more. Looks a few times more before it takes that for the end.
    fn give_up(
        &mut self,
        mut tail: Box<Tail>,
        tries: u32,
        complete: bool,
        config: &FilesConfig,
    ) -> Option<PartitionEvent<FileBatch>> {
        if !complete && tries < COPY_TRIES {
            self.state = State::Closed(Some((tail, tries + 1)));
            self.next_turn = Instant::now() + config.poll_interval.0;
            return None;
        }
        if !complete {
            tracing::error!(
                partition = self.log.info.number,
                identity = %self.log.info.identity,
                "the file was cut at or behind position {} and no file that matches holds a copy of it: lines written between \
                 the last read and the cut are lost; let the patterns match the rotated names too",
                tail.position()
            );
        }
        let block = tail.last_line(Vec::new());
        self.state = State::Finished;
        match block {
            Some(block) => Some(self.records(block)),
            None => self.at_end(),
        }
    }

    fn read(
        &mut self,
        mut tail: Box<Tail>,
        config: &FilesConfig,
        registry: &Mutex<Registry>,
        limits: Limits,
    ) -> Option<PartitionEvent<FileBatch>> {
        // A buffer that a long line has blown up is not kept.
        let buffer = self.free.try_recv().ok().filter(|buffer| buffer.len() <= 2 * limits.block_bytes);
        let (buffer, event) = match tail.step(buffer.unwrap_or_default()) {
            Ok(Step::Block(block)) => {
                self.state = State::Open(tail);
                return Some(self.records(block));
            }
            Ok(Step::Replaced(buffer)) => {
                self.offset = tail.offset();
                self.state = State::Closed(Some((tail, 0)));
                (buffer, None)
            }
            Ok(Step::AtEnd(buffer)) => {
                let metadata = tail.stream().metadata().ok();
                let will_not_grow = !config.follow || tail.stream().is_compressed();
                if !will_not_grow && let Some(metadata) = &metadata {
                    self.log.end.store(metadata.len(), Ordering::Relaxed);
                }
                if will_not_grow || self.is_away(&tail, registry) {
                    if let Some(block) = tail.last_line(buffer) {
                        self.state = State::Open(tail);
                        return Some(self.records(block));
                    }
                    if !config.follow {
                        self.state = State::Ended;
                        return Some(PartitionEvent::Ended);
                    }
                    self.state = State::Finished;
                    return self.at_end();
                }
                self.state = State::Open(tail);
                self.next_turn = Instant::now() + config.poll_interval.0;
                (buffer, self.at_end())
            }
            Err(error) => {
                let path = registry.lock().candidates(self.log.fingerprint).first().map(|file| file.path.clone());
                return Some(self.unreachable(&path.unwrap_or_default(), &error));
            }
        };
        // A full home has buffers enough.
        let _ = self.home.try_send(buffer);
        event
    }

    /// Whether the open file has been at its end, and not among the files that match, for [`CLOSE_AFTER`].
    fn is_away(&mut self, tail: &Tail, registry: &Mutex<Registry>) -> bool {
        let id = tail.stream().id();
        let matches = registry.lock().candidates(self.log.fingerprint).iter().any(|file| file.id == id);
        if matches || !self.told_end {
            self.away_since = None;
            return false;
        }
        self.away_since.get_or_insert_with(Instant::now).elapsed() >= CLOSE_AFTER
    }

    /// Opens a finished log again if a file of it has grown beyond what was read.
    fn reopen_if_longer(&mut self, registry: &Registry) {
        let files = registry.candidates(self.log.fingerprint);
        if files.iter().any(|file| file.plain_length.is_some_and(|length| length > self.offset)) {
            self.away_since = None;
            self.state = State::Closed(None);
        }
    }

    /// Reports a file that cannot be read, to be opened again later.
    fn unreachable(&mut self, path: &Path, error: &io::Error) -> PartitionEvent<FileBatch> {
        tracing::error!(
            partition = self.log.info.number,
            position = self.offset,
            "{}; trying again in {:?}",
            advice(path, error),
            self.retry
        );
        self.next_turn = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
        self.failures += 1;
        self.state = State::Closed(None);
        PartitionEvent::Unreachable
    }

    fn records(&mut self, mut block: Block) -> PartitionEvent<FileBatch> {
        if let Some(to) = self.log.to {
            cut_at(&mut block, to);
        }
        self.retry = FIRST_RETRY;
        self.failures = 0;
        self.offset = block.next_offset;
        self.log.end.fetch_max(block.next_offset, Ordering::Relaxed);
        PartitionEvent::Records(FileBatch::new(block, self.line_bytes, self.home.clone()))
    }
}

/// Cuts off the lines that begin at or behind `to`.
fn cut_at(block: &mut Block, to: u64) {
    if to >= block.next_offset || block.next_offset != block.offset + block.length as u64 {
        return;
    }
    let at = to.saturating_sub(block.offset) as usize;
    // The line before `to` is kept whole.
    let end = match at {
        0 => 0,
        at => memchr::memchr(b'\n', &block.bytes[at - 1..block.length]).map_or(block.length, |found| at + found),
    };
    block.length = end;
    block.next_offset = block.offset + end as u64;
}
