//! What workers tell the progress board and the counters in passing.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::output::{PartitionProgress, Reason, RecordSink};
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::Verdict;
use floodmark_dataflows::time::Tick;

use super::shutdown::Shutdown;
use crate::dead_letters::DeadLetterQueue;
use crate::live::progress::ProgressBoard;
use crate::metrics::Metrics;
use crate::stores::Store;
use crate::stores::writer::Writer;

/// What this process's workers read and found.
#[derive(Debug, Default)]
pub struct RunCounts {
    records: AtomicU64,
    bytes: AtomicU64,
    anomalies: AtomicU64,
    dead_letters: AtomicU64,
    lost: AtomicU64,
}

impl RunCounts {
    /// Records read, with those that could not be used.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of these records.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records whose severity reached the anomaly threshold.
    pub fn anomalies(&self) -> u64 {
        self.anomalies.load(Ordering::Relaxed)
    }

    /// Records that could not be used.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// Offsets that the source no longer had when they were to be read.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A record sink that counts, tells the board, and passes everything on.
pub(super) struct Observed<S> {
    pub sink: S,
    pub worker: usize,
    pub board: Arc<ProgressBoard>,
    pub counts: Arc<RunCounts>,
    pub metrics: Arc<Metrics>,
    pub writer: Writer,
    pub shutdown: Shutdown,
    pub gathered: Gathered,
}

/// Counts of one worker that are not yet added to those of the process: one addition a batch instead of one a record.
#[derive(Default)]
pub(super) struct Gathered {
    records: u64,
    bytes: u64,
    anomalies: u64,
    frontier: Option<Tick>,
}

impl<S> Observed<S> {
    fn count(&mut self, raw: RawRecord<'_>) {
        self.gathered.records += 1;
        self.gathered.bytes += raw.bytes.len() as u64;
    }

    fn add_gathered(&mut self, partition: &PartitionInfo) {
        let Gathered { records, bytes, anomalies, .. } = &mut self.gathered;
        let (records, bytes, anomalies) = (take(records), take(bytes), take(anomalies));
        self.counts.records.fetch_add(records, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counts.anomalies.fetch_add(anomalies, Ordering::Relaxed);
        self.metrics.read(partition, records, bytes);
    }
}

impl<S: RecordSink> RecordSink for Observed<S> {
    fn ready(&mut self) -> bool {
        // After a failure of the store there will be no room any more: what was read is passed over, so that the run
        // ends.
        self.sink.ready() || self.shutdown.is_triggered() && self.writer.failed().is_some()
    }

    #[inline]
    fn indexes(&self, verdict: Verdict) -> bool {
        self.sink.indexes(verdict)
    }

    #[inline]
    fn log(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, record: &Record<'_>, verdict: Verdict) {
        self.count(raw);
        self.gathered.anomalies += u64::from(verdict.anomaly);
        self.sink.log(partition, raw, record, verdict);
    }

    fn dead_letter(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, reason: Reason, detail: &str) {
        self.count(raw);
        self.counts.dead_letters.fetch_add(1, Ordering::Relaxed);
        self.sink.dead_letter(partition, raw, reason, detail);
    }

    fn lost(&mut self, partition: &Arc<PartitionInfo>, from: u64, to: u64) {
        tracing::error!(
            topic = &*partition.topic,
            partition = partition.number,
            from,
            to,
            "the source no longer has these offsets: they are lost"
        );
        self.counts.lost.fetch_add(to.saturating_sub(from), Ordering::Relaxed);
        self.sink.lost(partition, from, to);
    }

    fn progress(&mut self, partition: &Arc<PartitionInfo>, progress: PartitionProgress) {
        self.add_gathered(partition);
        self.board.update(self.worker, partition, progress);
        self.sink.progress(partition, progress);
    }

    fn frontier(&mut self, frontier: Tick) {
        if self.gathered.frontier != Some(frontier) {
            self.gathered.frontier = Some(frontier);
            self.board.set_frontier(self.worker, frontier);
        }
        self.sink.frontier(frontier);
    }
}

/// Plugs what a run counts into its metrics.
pub(super) fn watch(
    metrics: &Metrics,
    counts: Arc<RunCounts>,
    writer: Writer,
    dead_letters: Arc<DeadLetterQueue>,
    store: Arc<dyn Store>,
) {
    metrics.collect(move |samples| {
        store.metrics(samples);
        let stats = writer.stats();
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let size = |value: &AtomicUsize| value.load(Ordering::Relaxed) as f64;
        for (reason, letters) in dead_letters.counts() {
            let labels = [("reason", reason.name())];
            samples.counter("dead_letters", "Records that could not be used, by reason", &labels, letters as f64);
        }
        samples.counter("anomalies", "Records whose severity reached the threshold", &[], counts.anomalies() as f64);
        samples.counter("offsets_lost", "Offsets that were gone when they were to be read", &[], counts.lost() as f64);
        samples.counter("documents_stored", "Log documents stored", &[], count(&stats.documents));
        samples.counter("document_bytes_stored", "Bytes of log documents stored", &[], count(&stats.bytes));
        samples.counter("documents_rejected", "Log documents the store refused for good", &[], count(&stats.rejected));
        samples.counter("window_documents_stored", "Window documents stored", &[], count(&stats.windows));
        samples.gauge(
            "queue_bytes",
            "Bytes of log documents in memory, waiting or under way",
            &[],
            size(&stats.queue_bytes),
        );
        samples.gauge("batches_in_flight", "Batches under way to the store", &[], size(&stats.batches_in_flight));
        samples.gauge(
            "windows_waiting",
            "Window documents in memory, waiting or under way",
            &[],
            size(&stats.windows_waiting),
        );
        if let Some(spool) = writer.spool() {
            samples.gauge("spool_bytes", "Bytes waiting for the store on disk", &[], spool.bytes as f64);
            samples.gauge("spool_limit_bytes", "Bytes that may wait on disk", &[], spool.limit_bytes as f64);
        }
    });
}
