//! The generator as a source.
//!
//! Making records does not block, so each worker makes its own when it asks for them: no threads, no channels, and in
//! memory nothing but the batches in use. Only a paced run has a thread, which wakes the worker when records are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender, bounded};
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use floodmark_dataflows::time::Millis;

use super::{Generator, GeneratorConfig, Records};
use crate::sources::{MarkClock, Positions, Source, SourceError, WorkerPlace, wall_clock_ms};

/// Bytes of a batch: small enough to stay in the processor's cache until it is decoded.
const BATCH_BYTES: usize = 128 << 10;
/// A paced run looks this often for records that are due.
const PACE: Duration = Duration::from_millis(10);

/// The generator behind the [`Source`] trait.
pub struct GeneratorSource {
    generator: Generator,
    identity: Arc<str>,
    positions: Positions,
    marks: bool,
    /// By partition: one past the last record made.
    ends: Vec<Arc<AtomicU64>>,
}

impl GeneratorSource {
    /// A source that reads on from `positions` (others start at 0). `now_ms` is what "now" means in the configuration:
    /// the wall clock, or the start of an earlier run that is to be continued or replayed. With `marks`, the feeds
    /// give out marks with the wall clock.
    pub fn new(
        config: GeneratorConfig,
        now_ms: Millis,
        positions: Positions,
        marks: bool,
    ) -> Result<Self, SourceError> {
        let generator = Generator::new(config, now_ms)?;
        let identity = generator.identity();
        let mut ends = Vec::new();
        ends.resize_with(generator.config().partitions as usize, Arc::default);
        Ok(Self { generator, identity, positions, marks, ends })
    }

    /// Event time of the first record; part of what a replay must know.
    pub fn start_ms(&self) -> Millis {
        self.generator.start_ms()
    }

    fn info(&self, partition: u32) -> PartitionInfo {
        let topic = self.generator.config().topic.as_str().into();
        PartitionInfo { topic, identity: self.identity.clone(), number: partition as i32 }
    }
}

#[async_trait]
impl Source for GeneratorSource {
    type Feed = GeneratorFeed;

    fn feed(&self, worker: WorkerPlace) -> Result<GeneratorFeed, SourceError> {
        let generator = &self.generator;
        let mut partitions = Vec::new();
        for number in (0..generator.config().partitions).filter(|p| *p as usize % worker.peers == worker.index) {
            let info = self.info(number);
            let mut records = generator.records(number);
            if let Some(offset) = self.positions.get(&info) {
                records.seek(*offset);
            }
            let limit = generator.count(number).unwrap_or(u64::MAX);
            let end = self.ends[number as usize].clone();
            partitions.push(Partition { info, records, limit, told: Told::Nothing, end, buffers: bounded(2) });
        }
        let ahead = if generator.config().is_live() {
            // A run that continues an earlier one catches up with what was due meanwhile.
            Duration::from_millis(wall_clock_ms().saturating_sub(generator.start_ms()))
        } else {
            let next = partitions.iter().map(|p: &Partition| generator.due_ns(p.records.next_arrival_ns()));
            Duration::from_nanos(next.min().unwrap_or(0))
        };
        let clock = MarkClock::new(self.marks);
        Ok(GeneratorFeed {
            generator: generator.clone(),
            partitions,
            announced: false,
            started: Instant::now(),
            ahead,
            clock,
            ticker: None,
        })
    }

    fn ends(&self) -> Positions {
        let end = |p: u32| (self.info(p), self.ends[p as usize].load(Ordering::Relaxed));
        (0..self.generator.config().partitions).map(end).collect()
    }

    fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        partition.identity == self.identity && self.positions.get(partition).is_none_or(|from| offset >= *from)
    }

    async fn commit(&self, _positions: &Positions) -> Result<(), SourceError> {
        Ok(())
    }

    async fn health(&self) -> Result<String, SourceError> {
        let config = self.generator.config();
        Ok(format!("generator: {} partitions, {} services, seed {}", config.partitions, config.services, config.seed))
    }
}

/// What a partition's reader knows of its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    AtEnd,
    Ended,
}

struct Partition {
    info: PartitionInfo,
    records: Records,
    /// One past the last record.
    limit: u64,
    told: Told,
    end: Arc<AtomicU64>,
    /// Where used batches leave their buffers.
    buffers: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

/// One worker's partitions of the generator.
pub struct GeneratorFeed {
    generator: Generator,
    partitions: Vec<Partition>,
    announced: bool,
    started: Instant,
    /// How far the run's start lies before `started`.
    ahead: Duration,
    clock: MarkClock,
    /// Dropping it ends the thread that wakes the worker.
    ticker: Option<Sender<()>>,
}

impl Feed for GeneratorFeed {
    type Batch = GeneratorBatch;

    fn attach(&mut self, waker: Waker) {
        if self.generator.config().rate == 0 {
            return;
        }
        let (stop, stopped) = bounded::<()>(0);
        self.ticker = Some(stop);
        std::thread::spawn(move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(PACE) {
                waker();
            }
        });
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        match std::mem::replace(&mut self.announced, true) {
            false => self.partitions.iter().map(|partition| partition.info.clone()).collect(),
            true => Vec::new(),
        }
    }

    fn is_discovering(&self) -> bool {
        !self.announced
    }

    /// All partitions are there from the start.
    fn is_live(&self) -> bool {
        false
    }

    fn has_marks(&self) -> bool {
        self.clock.is_on()
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<GeneratorBatch>> {
        let now = self.started.elapsed() + self.ahead;
        let partition = &mut self.partitions[partition];
        let records = &mut partition.records;
        if records.next_offset() >= partition.limit {
            let first = std::mem::replace(&mut partition.told, Told::Ended) != Told::Ended;
            return first.then_some(PartitionEvent::Ended);
        }
        let is_due = |records: &Records| self.generator.is_due(records, now);
        if !is_due(records) {
            let first = std::mem::replace(&mut partition.told, Told::AtEnd) != Told::AtEnd;
            return first.then(|| PartitionEvent::AtEnd { next_offset: records.next_offset() });
        }
        let mut bytes = partition.buffers.1.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH_BYTES + 1024));
        bytes.clear();
        let first = records.next_offset();
        while bytes.len() < BATCH_BYTES && records.next_offset() < partition.limit && is_due(records) {
            records.write_next(&mut bytes);
        }
        partition.told = Told::Nothing;
        partition.end.store(records.next_offset(), Ordering::Relaxed);
        Some(PartitionEvent::Records(GeneratorBatch::new(
            bytes,
            first,
            records.next_offset(),
            partition.buffers.0.clone(),
        )))
    }

    fn hurry(&mut self) {
        self.clock.hurry();
    }

    fn is_mark_due(&mut self) -> bool {
        self.clock.is_due()
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        Some(RecordedMarks { wall_ms: self.clock.due()?, positions: positions.to_vec() })
    }
}

/// Records of one partition, one after the other. Offsets count records.
#[derive(Debug)]
pub struct GeneratorBatch {
    bytes: Vec<u8>,
    /// Place of the current line and of its line feed.
    line: (usize, usize),
    offset: u64,
    next_offset: u64,
    home: Sender<Vec<u8>>,
}

impl GeneratorBatch {
    fn new(bytes: Vec<u8>, offset: u64, next_offset: u64, home: Sender<Vec<u8>>) -> Self {
        let mut batch = Self { bytes, line: (0, 0), offset, next_offset, home };
        batch.line.1 = batch.end_of_line(0);
        batch
    }

    fn end_of_line(&self, start: usize) -> usize {
        memchr::memchr(b'\n', &self.bytes[start..]).map_or(self.bytes.len(), |at| start + at)
    }
}

impl Batch for GeneratorBatch {
    #[inline]
    fn current(&self) -> Option<RawRecord<'_>> {
        let (start, end) = self.line;
        (self.offset < self.next_offset).then(|| RawRecord {
            offset: self.offset,
            bytes: &self.bytes[start..end],
            appended_ms: None,
            redriven_from: None,
        })
    }

    #[inline]
    fn advance(&mut self) {
        let start = (self.line.1 + 1).min(self.bytes.len());
        self.line = (start, self.end_of_line(start));
        self.offset += 1;
    }

    fn next_offset(&self) -> u64 {
        self.next_offset
    }
}

impl Drop for GeneratorBatch {
    fn drop(&mut self) {
        // A full home has buffers enough.
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(feed: &mut GeneratorFeed, partition: usize) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Vec::new();
        loop {
            match feed.poll(partition).unwrap() {
                PartitionEvent::Records(mut batch) => {
                    while let Some(record) = batch.current() {
                        lines.push((record.offset, record.bytes.to_vec()));
                        batch.advance();
                    }
                    assert_eq!(batch.next_offset(), lines.last().unwrap().0 + 1);
                }
                PartitionEvent::Ended => return lines,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    #[test]
    fn a_source_gives_each_record_once_and_goes_on_from_a_position() {
        let config = GeneratorConfig { rate: 0, count: 2_501, partitions: 3, ..Default::default() };
        let source = GeneratorSource::new(config.clone(), 0, Positions::new(), true).unwrap();
        let mut all = Vec::new();
        for index in 0..2 {
            let mut feed = source.feed(WorkerPlace { index, peers: 2 }).unwrap();
            for (i, info) in feed.joined().into_iter().enumerate() {
                all.push((info, drain(&mut feed, i)));
            }
            assert!(!feed.is_discovering() && !feed.is_live());
        }
        assert_eq!(all.iter().map(|(_, lines)| lines.len()).sum::<usize>(), 2_501);
        assert_eq!(source.ends().values().sum::<u64>(), 2_501);
        for (info, lines) in &all {
            let mut expected = Vec::new();
            let mut records = source.generator.records(info.number as u32);
            for _ in lines {
                records.write_next(&mut expected);
            }
            assert_eq!(lines.iter().flat_map(|(_, line)| [line, &b"\n"[..]].concat()).collect::<Vec<_>>(), expected);
        }
        let positions = Positions::from([(all[0].0.clone(), 800)]);
        let source = GeneratorSource::new(config, 0, positions, true).unwrap();
        let mut feed = source.feed(WorkerPlace { index: 0, peers: 2 }).unwrap();
        feed.joined();
        assert_eq!(drain(&mut feed, 0), all[0].1[800..]);
    }

    #[test]
    fn a_paced_partition_is_at_its_end_until_the_next_record_is_due() {
        let config = GeneratorConfig { rate: 1, count: 2, partitions: 1, ..Default::default() };
        let hour = 3_600_000;
        let now = wall_clock_ms();
        let feed = |start_ms| {
            let source = GeneratorSource::new(config.clone(), start_ms, Positions::new(), true).unwrap();
            let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 }).unwrap();
            feed.joined();
            assert!(!feed.is_live() && feed.has_marks());
            feed
        };
        let mut early = feed(now + hour);
        assert!(matches!(early.poll(0), Some(PartitionEvent::Records(batch)) if batch.next_offset() == 1));
        assert!(matches!(early.poll(0), Some(PartitionEvent::AtEnd { next_offset: 1 })));
        assert!(early.poll(0).is_none());
        assert_eq!(drain(&mut feed(now - hour), 0).len(), 2, "a continued run catches up");
    }
}
