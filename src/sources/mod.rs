//! Partitioned, replayable logs behind one trait.
//!
//! A source gives each worker a [`Feed`](floodmark_dataflows::input::Feed) over its share of the partitions:
//! partition `p` of the source goes to worker `p % peers`. Reading blocks, so it happens on threads of the source,
//! joined to the worker by a bounded channel per partition.

pub mod files;
pub mod generator;
pub mod kafka;

use std::collections::BTreeMap;

use async_trait::async_trait;
use floodmark_dataflows::input::{Feed, PartitionInfo};

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

    /// Notes positions up to which everything is stored, for tools that show lag. Never moves the source's reading.
    async fn commit(&self, positions: &Positions) -> Result<(), SourceError>;

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
