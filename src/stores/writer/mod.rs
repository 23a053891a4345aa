//! Joins the workers to a store: batches, bounded queues, acknowledgements.
//!
//! ```text
//! worker: RecordWriter ──► batches ──► line ──► write_logs, several at once ──► acknowledged positions
//!         WindowWriter ──► windows ──► line ──► write_windows, one at a time, in order
//!                                       ⇅
//!                                     spool
//! ```
//!
//! In: decoded records, unusable ones, windows. Out: documents to the store, dead letters, positions up to which
//! everything of a partition is stored. What does not fit into memory while the store is slow or away goes to a bounded
//! spool on disk. Nothing blocks a worker: it asks [`RecordWriter`] whether it is ready and stops reading while the queue
//! is full, which with a spool it is only once that is full too. On error: the store repeats by itself what may go better later; documents that it
//! refuses for good go to the dead letters; a fatal error of the store is kept for the engine ([`Writer::failure`]),
//! after which nothing is ready and nothing more is acknowledged.

mod acks;
mod background;
mod ids;
mod line;
mod queue;
mod records;
mod spool;
#[cfg(test)]
pub(in crate::stores) mod testing;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use floodmark_dataflows::input::{PartitionInfo, Waker};
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::rules::Rules;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::acks::AckTracker;
use self::background::{Failure, LogJob};
pub use self::ids::{WindowIds, definition};
use self::queue::Queue;
pub use self::queue::WriterStats;
pub use self::records::RecordWriter;
use self::spool::Spool;
pub use self::spool::SpoolOptions;
pub use self::windows::WindowWriter;
use super::{Store, StoreError, WindowWrite};
use crate::sources::Positions;

/// Which documents are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Indexed {
    /// All log documents, and windows.
    #[default]
    All,
    /// Log documents of anomalies, and windows.
    Anomalies,
    /// Windows only.
    Windows,
}

/// How much of what the writer does.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Which documents are stored.
    pub indexed: Indexed,
    /// Bytes of log documents that wait or are under way, above which the workers stop reading. What one activation of
    /// each worker adds comes on top.
    pub queue_bytes: usize,
    /// Where to keep what does not fit into half the queue. Without it, a full queue stops the workers.
    pub spool: Option<SpoolOptions>,
}

/// How full the spool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolState {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes on disk at the most.
    pub limit_bytes: u64,
    /// Why the disk refuses, if it does.
    pub problem: Option<String>,
}

/// Where records go that cannot be used. Never blocks and never loses anything; the caller asks
/// [`DeadLetters::ready`] before it reads on.
pub trait DeadLetters: Send + Sync + 'static {
    /// Whether there is room for what a batch of records may bring.
    fn ready(&self) -> bool;

    /// Takes a record. `detail` says what was expected and what came.
    fn send(&self, partition: &Arc<PartitionInfo>, offset: u64, reason: Reason, detail: &str, raw: &[u8]);

    /// The first offset of each partition that has a record which was sent and is not safely written.
    fn unwritten(&self) -> Positions;
}

/// The writer of a process. The workers' halves are made by [`Writer::records`] and [`Writer::windows`]; the background
/// ends when these and all clones of the writer are dropped.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    batches: mpsc::UnboundedSender<LogJob>,
    windows: mpsc::UnboundedSender<Vec<WindowWrite>>,
}

/// What the workers' halves and the background share.
struct Shared {
    store: Arc<dyn Store>,
    dead_letters: Arc<dyn DeadLetters>,
    options: WriterOptions,
    spool: Option<Arc<Spool>>,
    acks: AckTracker,
    queue: Queue,
    failure: Failure,
    /// Window documents handed in so far; held while handing in, so that numbers are in the order of the queue.
    windows_handed_in: Mutex<u64>,
    /// Window documents stored so far, in the order they were handed in.
    windows_stored: AtomicU64,
}

impl Writer {
    /// Starts the background on a runtime.
    ///
    /// # Errors
    /// If the directory of the spool cannot be made or cleared.
    pub fn start(
        store: Arc<dyn Store>,
        dead_letters: Arc<dyn DeadLetters>,
        options: WriterOptions,
        runtime: &Handle,
    ) -> std::io::Result<Self> {
        let spool = options.spool.clone().map(Spool::open).transpose()?.map(Arc::new);
        let queue = Queue::new(options.queue_bytes);
        let shared = Arc::new(Shared {
            store,
            dead_letters,
            options,
            spool,
            acks: AckTracker::default(),
            queue,
            failure: Failure::default(),
            windows_handed_in: Mutex::default(),
            windows_stored: AtomicU64::new(0),
        });
        let (batches, batch_receiver) = mpsc::unbounded_channel();
        let (windows, window_receiver) = mpsc::unbounded_channel();
        runtime.spawn(background::write_logs(shared.clone(), batch_receiver));
        runtime.spawn(background::write_windows(shared.clone(), window_receiver));
        Ok(Self { shared, batches, windows })
    }

    /// The half of a worker that takes records. What it holds is handed in when it is dropped.
    /// `rules` name those that matched.
    pub fn records(&self, rules: Arc<Rules>) -> RecordWriter {
        RecordWriter::new(self.shared.clone(), self.batches.clone(), rules)
    }

    /// The half of a worker that takes windows.
    pub fn windows(&self, ids: WindowIds) -> WindowWriter {
        WindowWriter::new(self.shared.clone(), self.windows.clone(), ids)
    }

    /// Has a worker woken when it may be ready again after it was not.
    pub fn wake_when_ready(&self, waker: Waker) {
        self.shared.queue.wakers.lock().push(waker);
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &WriterStats {
        &self.shared.queue.stats
    }

    /// How full the spool is, if there is one.
    pub fn spool(&self) -> Option<SpoolState> {
        let spool = self.shared.spool.as_ref()?;
        Some(SpoolState { bytes: spool.bytes(), limit_bytes: spool.limit_bytes(), problem: spool.problem() })
    }

    /// Up to which offset (exclusive) everything of each partition is stored or needs no storing.
    pub fn acknowledged(&self) -> Positions {
        let mut positions = self.shared.acks.positions();
        // Asked after the positions: a letter is sent before its position is passed.
        for (partition, offset) in self.shared.dead_letters.unwritten() {
            if let Some(position) = positions.get_mut(&partition) {
                *position = offset.min(*position);
            }
        }
        positions
    }

    /// Whether everything of a partition before this offset is stored, as far as it was handed in. Ask once the workers
    /// have passed the offset.
    pub fn is_stored(&self, partition: &PartitionInfo, next_offset: u64) -> bool {
        if !self.shared.acks.is_stored(partition, next_offset) {
            return false;
        }
        // Asked after the position: a letter is sent before its position is passed.
        self.shared.dead_letters.unwritten().get(partition).is_none_or(|&unwritten| unwritten >= next_offset)
    }

    /// How many window documents were handed in so far; for [`Writer::windows_stored`].
    pub fn windows_handed_in(&self) -> u64 {
        *self.shared.windows_handed_in.lock()
    }

    /// How many window documents are stored. They are stored in the order they were handed in.
    pub fn windows_stored(&self) -> u64 {
        self.shared.windows_stored.load(Ordering::SeqCst)
    }

    /// How many documents of a partition before an offset the store has refused since the start.
    pub fn refused_before(&self, partition: &PartitionInfo, offset: u64) -> u64 {
        self.shared.acks.refused_before(partition, offset)
    }

    /// Nobody will ask any more how many documents before an earlier offset than this one were refused.
    pub fn settle_refused(&self, partition: &PartitionInfo, offset: u64) {
        self.shared.acks.settle_refused(partition, offset);
    }

    /// Waits until everything handed in is stored, durable and searchable. Call it when the workers' halves are
    /// dropped or no longer used.
    ///
    /// # Errors
    /// The fatal error of the store, if there was one.
    pub async fn drain(&self) -> Result<(), Arc<StoreError>> {
        self.shared.queue.emptied(&self.shared.failure).await?;
        self.shared.store.flush().await.map_err(Arc::new)
    }

    /// Makes what is stored by now durable. `false` when that failed, with which the store has failed.
    pub async fn sync(&self) -> bool {
        let synced = self.shared.store.sync().await;
        synced.map_err(|error| self.shared.failure.set(error)).is_ok()
    }

    /// The fatal error of the store, once there is one: the run has to stop with it.
    pub async fn failure(&self) -> Arc<StoreError> {
        self.shared.failure.occurred().await
    }

    /// The fatal error of the store, if there was one.
    pub fn failed(&self) -> Option<Arc<StoreError>> {
        self.shared.failure.get()
    }
}
