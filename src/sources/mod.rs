//! Partitioned, replayable logs behind one trait.
//!
//! A source gives each worker a [`Feed`] over its share of the partitions:
//! partition `p` of the source goes to worker `p % peers`. Reading blocks, so it happens on threads of the source,
//! joined to the worker by a bounded channel per partition.

pub mod files;
pub mod generator;
pub mod kafka;
pub mod redrive;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use floodmark_dataflows::input::{Feed, PartitionInfo};
use floodmark_dataflows::time::Millis;

/// A worker's place among all workers of all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerPlace {
    /// 0 to `peers - 1`.
    pub index: usize,
    /// The number of workers in all processes.
    pub peers: usize,
}

/// Offsets to read next, by partition.
pub type Positions = BTreeMap<PartitionInfo, u64>;

/// A log that can be read again from any position.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What its workers read from.
    type Feed: Feed + Send + 'static;

    /// Opens the share of one worker. Called once per worker of this process.
    fn feed(&self, worker: WorkerPlace) -> Result<Self::Feed, SourceError>;

    /// Offsets at the end of each partition of this process's workers, as last seen: one past the last record. For lag.
    fn ends(&self) -> Positions;

    /// Where the partitions of this process stand that are files, by their identity.
    fn paths(&self) -> BTreeMap<Arc<str>, String> {
        BTreeMap::new()
    }

    /// Notes positions up to which everything is stored, for tools that show lag. Never moves the source's reading.
    async fn commit(&self, positions: &Positions) -> Result<(), SourceError>;

    /// Why the source cannot go on and the run should end, if something like that happened: the log ends before the
    /// position that was reached, say.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Whether what this run reads of a partition has this offset, or had it before it began. Matters to runs over a part
    /// of the log only.
    fn covers(&self, _partition: &PartitionInfo, _offset: u64) -> bool {
        true
    }

    /// Whether the source answers, and what it has, in one line each.
    async fn health(&self) -> Result<String, SourceError>;
}

/// What can go wrong with a source as a whole. Bad records are not errors of the source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration cannot work.
    #[error("{0}")]
    Configuration(String),
    /// The source does not answer; worth trying again.
    #[error("{0}")]
    Unreachable(String),
    /// A position asked for is not in the log.
    #[error("{0}")]
    OutOfRange(String),
    /// The file system or the network failed.
    #[error("{context}")]
    Io {
        /// What was being done, and to what.
        context: String,
        /// What came back.
        source: std::io::Error,
    },
}

/// The wall clock in milliseconds since the epoch.
pub fn wall_clock_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as Millis
}

/// Gives out the wall clock once a second, for sources whose marks need no recording elsewhere.
#[derive(Debug)]
pub struct MarkClock {
    /// When the next mark is due; `None` for a run without marks.
    next: Option<Instant>,
}

impl MarkClock {
    /// With `marks`, the first mark is due at once; otherwise none ever is.
    pub fn new(marks: bool) -> Self {
        Self { next: marks.then(Instant::now) }
    }

    /// Whether there are marks.
    pub fn is_on(&self) -> bool {
        self.next.is_some()
    }

    /// Makes the next mark due at once.
    pub fn hurry(&mut self) {
        self.next = self.next.map(|_| Instant::now());
    }

    /// Whether a mark is due.
    pub fn is_due(&self) -> bool {
        self.next.is_some_and(|next| Instant::now() >= next)
    }

    /// The wall clock in milliseconds, if a mark is due.
    pub fn due(&mut self) -> Option<Millis> {
        let now = Instant::now();
        let next = self.next.as_mut()?;
        if now < *next {
            return None;
        }
        *next = now + Duration::from_secs(1);
        Some(wall_clock_ms())
    }
}
