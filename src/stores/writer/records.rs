//! The worker's half of the writer that takes records: formats documents into batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use floodmark_dataflows::document::write_document;
use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::output::{PartitionProgress, Reason, RecordSink};
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::{Rules, Verdict};
use floodmark_dataflows::time::Tick;
use tokio::sync::mpsc;

use super::acks::PartitionAcks;
use super::background::LogJob;
use super::{Indexed, Shared};
use crate::stores::{LogBatch, LogEntry};

/// A batch is handed in when it holds this many bytes or documents: what suits Elasticsearch's `_bulk` best.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_DOCUMENTS: usize = 2_500;

/// A smaller batch is handed in when it is this old, or at the end of an activation while no other batch waits.
const LINGER: Duration = Duration::from_millis(200);

/// The same while [`MANY_BATCHES`] wait: nothing is gained by many small ones behind them.
const LONG_LINGER: Duration = Duration::from_secs(5);
const MANY_BATCHES: usize = 64;

/// Window documents that may wait in memory before the workers stop reading.
pub(super) const MAX_WINDOWS_WAITING: usize = 20_000;

/// Formats the documents of one worker into batches, a batch a partition, and hands them to the background. Looks after
/// batches that linger whenever it is asked whether it is ready, so ask at each activation, and a few times a second.
pub struct RecordWriter {
    shared: Arc<Shared>,
    batches: mpsc::UnboundedSender<LogJob>,
    rules: Arc<Rules>,
    open: Vec<OpenBatch>,
    /// The place in `open` of the partition that came last: most often the next one too.
    last: usize,
    swept: Instant,
}

/// The batch of a partition that is being filled.
struct OpenBatch {
    partition: Arc<PartitionInfo>,
    acks: Arc<PartitionAcks>,
    bytes: Vec<u8>,
    entries: Vec<LogEntry>,
    /// How much of `bytes` the queue's gauge contains.
    counted: usize,
    /// When the first document came in.
    since: Option<Instant>,
    /// Everything before this offset was passed in.
    passed: u64,
}

impl RecordWriter {
    pub(super) fn new(shared: Arc<Shared>, batches: mpsc::UnboundedSender<LogJob>, rules: Arc<Rules>) -> Self {
        Self { shared, batches, rules, open: Vec::new(), last: 0, swept: Instant::now() }
    }

    /// The place in `open` of a partition.
    #[inline]
    fn place(&mut self, partition: &Arc<PartitionInfo>) -> usize {
        match self.open.get(self.last) {
            Some(open) if Arc::ptr_eq(&open.partition, partition) => self.last,
            _ => self.find(partition),
        }
    }

    #[cold]
    fn find(&mut self, partition: &Arc<PartitionInfo>) -> usize {
        let same = |open: &OpenBatch| Arc::ptr_eq(&open.partition, partition);
        let equal = |open: &OpenBatch| open.partition == *partition;
        let place = self.open.iter().position(same).or_else(|| self.open.iter().position(equal));
        self.last = place.unwrap_or_else(|| {
            let (partition, acks) = (partition.clone(), self.shared.acks.partition(partition));
            let (bytes, entries) = Default::default();
            self.open.push(OpenBatch { partition, acks, bytes, entries, counted: 0, since: None, passed: 0 });
            self.open.len() - 1
        });
        self.last
    }

    /// Hands in the batch of a partition, if it has documents.
    fn hand_in(&mut self, place: usize) {
        let queue = &self.shared.queue;
        let open = &mut self.open[place];
        if open.entries.is_empty() {
            return;
        }
        open.count(queue);
        let (mut bytes, mut entries) = (std::mem::take(&mut open.bytes), std::mem::take(&mut open.entries));
        if bytes.len() < bytes.capacity() / 2 {
            // What waits should take the memory that it counts for.
            let small = (bytes.as_slice().into(), entries.as_slice().into());
            queue.recycle((bytes, entries));
            (bytes, entries) = small;
        }
        (open.counted, open.since) = (0, None);
        let ticket = open.acks.hand_in(open.passed);
        let batch = LogBatch { partition: open.partition.clone(), bytes, entries, next_offset: open.passed };
        queue.hand_in(1);
        queue.stats.batches_waiting.fetch_add(1, Ordering::Relaxed);
        // The receiver is gone only after a failure, which the engine knows of.
        let _ = self.batches.send(LogJob { batch, acks: open.acks.clone(), ticket });
    }

    /// Hands in what lingers.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.swept) < LINGER / 2 {
            return;
        }
        self.swept = now;
        let linger = linger(&self.shared.queue);
        for place in 0..self.open.len() {
            if self.open[place].since.is_some_and(|since| now.duration_since(since) >= linger) {
                self.hand_in(place);
            }
        }
    }
}

/// How long a batch that is not full lingers.
fn linger(queue: &super::Queue) -> Duration {
    if queue.stats.batches_waiting.load(Ordering::Relaxed) < MANY_BATCHES { LINGER } else { LONG_LINGER }
}

impl OpenBatch {
    /// Brings the queue's gauge up to date.
    fn count(&mut self, queue: &super::Queue) {
        queue.stats.queue_bytes.fetch_add(self.bytes.len() - self.counted, Ordering::SeqCst);
        self.counted = self.bytes.len();
    }
}

impl RecordSink for RecordWriter {
    fn ready(&mut self) -> bool {
        self.sweep();
        let Shared { queue, options, failure, dead_letters, .. } = &*self.shared;
        let has_room = |stats: &super::WriterStats| {
            stats.queue_bytes.load(Ordering::SeqCst) < options.queue_bytes
                && stats.windows_waiting.load(Ordering::SeqCst) < MAX_WINDOWS_WAITING
        };
        failure.get().is_none() && queue.ready(has_room) && dead_letters.ready()
    }

    #[inline]
    fn indexes(&self, verdict: Verdict) -> bool {
        match self.shared.options.indexed {
            Indexed::All => true,
            Indexed::Anomalies => verdict.anomaly,
            Indexed::Windows => false,
        }
    }

    #[inline]
    fn log(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, record: &Record<'_>, verdict: Verdict) {
        if !self.indexes(verdict) {
            return;
        }
        let place = self.place(partition);
        let open = &mut self.open[place];
        if open.bytes.len() >= BATCH_BYTES || open.entries.len() >= BATCH_DOCUMENTS {
            open.passed = raw.offset;
            self.hand_in(place);
        }
        let open = &mut self.open[place];
        if open.entries.is_empty() {
            (open.bytes, open.entries) = self.shared.queue.buffers();
            open.since = Some(Instant::now());
        }
        let start = open.bytes.len();
        write_document(&mut open.bytes, partition, raw, record, verdict, &self.rules);
        let end = open.bytes.len();
        open.bytes.push(b'\n');
        open.entries.push(LogEntry { start, end, offset: raw.offset, timestamp_ms: record.timestamp_ms });
    }

    fn dead_letter(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, reason: Reason, detail: &str) {
        self.shared.dead_letters.send(partition, raw.offset, reason, detail, raw.bytes);
    }

    /// The position moves on over offsets that are gone with the next progress.
    fn lost(&mut self, _: &Arc<PartitionInfo>, _: u64, _: u64) {}

    fn progress(&mut self, partition: &Arc<PartitionInfo>, progress: PartitionProgress) {
        let place = self.place(partition);
        let queue = &self.shared.queue;
        let open = &mut self.open[place];
        open.passed = progress.next_offset;
        if open.entries.is_empty() {
            open.acks.pass(progress.next_offset);
            return;
        }
        open.count(queue);
        let lingers = || open.since.is_some_and(|since| since.elapsed() >= linger(queue));
        let idle = || queue.stats.batches_waiting.load(Ordering::Relaxed) == 0;
        if progress.at_end || progress.ended || idle() || lingers() {
            self.hand_in(place);
        }
    }

    fn frontier(&mut self, _: Tick) {}
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        for place in 0..self.open.len() {
            let open = &mut self.open[place];
            if let Some(last) = open.entries.last() {
                // A worker that ends within an activation has not said how far it came: the last record counts as not
                // handed in, since where the next one starts is not known.
                open.passed = open.passed.max(last.offset);
            }
            self.hand_in(place);
        }
    }
}
