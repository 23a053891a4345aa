//! Runs the dataflow on this process's workers, and joins sources, stores and the API to it.
//!
//! In: a checked [`Config`], and [`RunOptions`]. Out: a [`RunReport`] when the run has ended: when its input has, or when
//! [`Shutdown::trigger`] was called. Ending is always the same: reading stops, what was read is computed and stored,
//! and then the store is flushed.
//!
//! - [`compile`]: from the configuration to what is computed.
//! - [`parts`]: opens the source and the store that the configuration names.
//! - [`resume`]: where a run begins: at a checkpoint, or anew. [`numbers`]: what it is counted by.
//! - [`runner`]: one run, from start to flush.
//! - [`workers`]: the timely workers of this process.
//! - [`observe`]: what workers tell the progress board and the counters in passing.
//! - [`ending`]: the end of a run, once the workers are done.
//! - [`housekeeping`]: what goes on beside the workers: commits, ends of partitions, failures.
//!
//! On error: what cannot be opened ends the run before it starts; a fatal error of the store or the source stops it, and
//! a panic of a worker is reported as one. Then the run ends with that error, and nothing it did not store is
//! acknowledged.

mod compile;
mod ending;
mod housekeeping;
mod numbers;
mod observe;
mod parts;
mod resume;
mod runner;
mod shutdown;
mod workers;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use floodmark_dataflows::alerts::AlertDocument;

use crate::checkpoint::CheckpointError;
use crate::cluster::ClusterError;
use crate::config::Config;
use crate::sources::SourceError;
use crate::stores::StoreError;

pub use compile::read_as;
pub use numbers::last_generation;
pub use observe::RunCounts;
pub use shutdown::Shutdown;

/// How to run.
#[derive(Default)]
pub struct RunOptions {
    /// Process what is there, and end.
    pub until_end: bool,
    /// Read a range again, apart from the live run.
    pub replay: Option<Replay>,
    /// Ends the run early.
    pub shutdown: Shutdown,
    /// Called once with the address of the API.
    pub on_ready: Option<Box<dyn FnOnce(SocketAddr) + Send>>,
    /// Called with the words to say when another process is lost. The run then ends with an error as soon as it can;
    /// but threads may hang for good, so a process should end by itself shortly after.
    pub on_lost: Option<Box<dyn Fn(String) + Send + Sync>>,
    /// Begin anew, whatever checkpoints there are.
    pub fresh: bool,
    /// Names the process that starts the run again after a crash, if there is one: then only the first of its starts is
    /// `fresh`.
    pub supervisor: Option<String>,
    /// Without the API, the live state, marks and checkpoints: for measuring.
    pub bare: bool,
    /// Keep the live state even where nobody can ask for it: for measuring.
    pub keeps_live: bool,
}

impl RunOptions {
    /// Whether the run goes on and on, and somebody watches.
    pub fn is_live(&self) -> bool {
        !self.until_end && self.replay.is_none() && !self.bare
    }
}

/// A bounded replay. It touches no committed offset, no live index and no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Where to start: offsets by partition, or a time. From the beginning if left out.
    pub from: Option<String>,
    /// Where to end, likewise. At the present end if left out.
    pub to: Option<String>,
    /// Where its documents go.
    pub target: ReplayTarget,
}

/// Where the documents of a replay go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayTarget {
    /// To `logs.ndjson`, `windows.ndjson` and `dead-letters.ndjson` in this directory.
    Directory(PathBuf),
    /// To the configured store, under this prefix instead of its own.
    Prefix(String),
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// What this process's workers read and found.
    pub counts: Arc<RunCounts>,
    /// Log documents stored.
    pub documents: u64,
    /// Window documents stored; a window counts each time it was published.
    pub windows: u64,
    /// Wall-clock time from the first worker's start until everything was computed, in seconds.
    pub seconds: f64,
    /// The alerts of a replay, in order of their beginnings, without the states of baselines. Other runs have theirs in `GET
    /// /alerts`.
    pub alerts: Vec<AlertDocument>,
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, documents, windows, seconds, .. } = self;
        let (records, dead) = (counts.records(), counts.dead_letters());
        let rate = records as f64 / seconds.max(0.001);
        write!(f, "{records} records read in {seconds:.1} s ({rate:.0}/s), {dead} of them dead letters; ")?;
        write!(f, "{documents} log documents and {windows} window documents stored")?;
        match counts.lost() {
            0 => Ok(()),
            lost => write!(f, "; {lost} offsets were gone when they were to be read"),
        }
    }
}

/// Why a run could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration is wrong, or does not go with the options.
    #[error("{0}")]
    Usage(String),
    /// The source failed.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// The store failed.
    #[error("store: {0}")]
    Store(#[source] Arc<StoreError>),
    /// There are checkpoints, and there is no going on from them.
    #[error("checkpoints: {0}")]
    Checkpoint(#[source] Arc<CheckpointError>),
    /// The API could not be served.
    #[error("api: {0}")]
    Api(#[from] crate::api::ApiError),
    /// The processes do not work together, or one was lost.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Something of this process's own failed: a file, a thread.
    #[error("{0}")]
    Process(String),
    /// A worker panicked; its message is in the log.
    #[error("worker {worker} panicked: {message}")]
    Worker {
        /// The worker, among those of this process.
        worker: usize,
        /// What it said.
        message: String,
    },
}

impl From<CheckpointError> for EngineError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Arc::new(error))
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Runs until the input has ended or `options.shutdown` is triggered.
pub fn run(config: &Config, options: RunOptions) -> Result<RunReport, EngineError> {
    runner::run(config, options)
}
