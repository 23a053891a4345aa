//! Files as a log: one file is one partition, its offsets are byte positions in the uncompressed stream.
//!
//! In: patterns of paths. Out: lines, in blocks, over one bounded channel a partition. A file that cannot be read is
//! reported (`Unreachable`, and in the log with what to do) and tried again; nothing is passed over in silence.
//!
//! A file is known by a fingerprint of its first lines, not by its path, so that renaming it, copying and cutting it, or
//! compressing it neither repeats nor loses a line. What cannot be told apart that way (two logs that begin with the
//! same line) is refused or reported: see [`FilesConfig::fingerprint_lines`].
//!
//! - [`registry`]: looks for files, tells logs apart, numbers partitions.
//! - [`reader`]: one thread a worker, takes turns over the worker's partitions; follows rotation.
//! - [`tail`]: one file, cut into blocks of whole lines.
//! - [`stream`]: plain, gzip and zstd, by their first bytes.
//! - [`fingerprint`]: how a file is known.
//! - [`feed`]: what the worker sees.

pub mod feed;
mod fingerprint;
mod reader;
mod registry;
mod stream;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::units::{ByteSize, Span};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use feed::{FileBatch, FilesFeed};
pub(crate) use stream::Stream;

use super::{Positions, Source, SourceError, WorkerPlace};
use registry::Registry;
use tail::Limits;

/// Blocks are not made smaller than this, however many files there are.
const SMALLEST_BLOCK: u64 = 16 << 10;

/// Options of the files source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilesConfig {
    /// The files: paths or patterns with `*`, `?`, `[a-z]` and `**`. Rotated names should match too (`app.log*`), so
    /// that what was written just before a rotation is still read after it. Plain, gzip and zstd are told apart by
    /// their contents. All processes of a cluster must see the same files.
    pub paths: Vec<String>,
    /// The `topic` field of the documents.
    pub topic: String,
    /// Whether to wait for more lines and more files. Otherwise the run ends at the end of the files, and a last line
    /// without a line feed counts as a record.
    pub follow: bool,
    /// How often a followed file at its end is looked at again, and the patterns are matched again. A shorter interval
    /// costs a few system calls a file.
    pub poll_interval: Span,
    /// How many first lines (at most 4 KiB of them) a file is known by. Raise it if different logs begin with the same
    /// lines, such as a header; a file is read once it has that many.
    pub fingerprint_lines: u32,
    /// Bytes read from a file at once. Up to four blocks are in memory for a file; with many files blocks are made
    /// smaller, so that all of a worker's together stay near `memory`.
    pub block: ByteSize,
    /// What the blocks of one worker may take together.
    pub memory: ByteSize,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            topic: "files".into(),
            follow: true,
            poll_interval: Span::from_millis(250),
            fingerprint_lines: 1,
            block: ByteSize(256 << 10),
            memory: ByteSize::from_mib(16),
        }
    }
}

/// A part of a file, for a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// The file: its path, or the `identity` in its documents.
    pub file: String,
    /// Byte position of the first line.
    pub from: u64,
    /// Lines that begin at or behind this position are not read; absent for the end of the file.
    pub to: Option<u64>,
}

/// Where to begin and end, and what other parts of the configuration say.
#[derive(Clone, Debug)]
pub struct FilesRun {
    /// Where an earlier run stopped. A partition keeps its number; other files are read from the start.
    pub positions: Positions,
    /// If not empty, only these parts of files are read.
    pub ranges: Vec<FileRange>,
    /// Whether the feeds give out marks with the wall clock.
    pub marks: bool,
    /// Whether workers read compressed files that are not followed themselves, for want of a core to do it beside them.
    /// Plain ones they do in any case: handing them over costs more than reading them.
    pub by_workers: bool,
    /// The longest record that decoding accepts. A longer line is read over, and its first bytes, one more than
    /// allowed, are handed on, so that it becomes a dead letter. Also bounds the memory that one line takes.
    pub max_record_bytes: ByteSize,
}

impl Default for FilesRun {
    fn default() -> Self {
        let max_record_bytes = RecordsConfig::default().max_record_bytes;
        Self { positions: Positions::new(), ranges: Vec::new(), marks: false, by_workers: false, max_record_bytes }
    }
}

/// Why reading cannot go on; shared by the source and its threads.
type Failure = Arc<Mutex<Option<String>>>;

/// Files behind the [`Source`] trait.
pub struct FilesSource {
    config: Arc<FilesConfig>,
    registry: Arc<Mutex<Registry>>,
    marks: bool,
    by_workers: bool,
    limits: Limits,
    failure: Failure,
}

impl FilesSource {
    /// Finds the files. Without `follow`, no match and a file that cannot be read are errors; with it, they are waited
    /// for.
    pub fn new(config: FilesConfig, run: FilesRun) -> Result<Self, SourceError> {
        if config.paths.is_empty() {
            return Err(SourceError::Configuration("files: `paths` is empty: expected at least one path".into()));
        }
        let poll_interval = config.poll_interval.max(Span::from_millis(1));
        let config = Arc::new(FilesConfig { poll_interval, ..config });
        let (marks, by_workers) = (run.marks, run.by_workers);
        let block_bytes = config.block.0.max(SMALLEST_BLOCK) as usize;
        let limits = Limits { block_bytes, line_bytes: run.max_record_bytes.0 as usize + 1 };
        let registry = Registry::new(config.clone(), run)?;
        let (registry, failure) = (Arc::new(Mutex::new(registry)), Failure::default());
        Ok(Self { config, registry, marks, by_workers, limits, failure })
    }
}

#[async_trait]
impl Source for FilesSource {
    type Feed = FilesFeed;

    fn feed(&self, worker: WorkerPlace) -> Result<FilesFeed, SourceError> {
        let failure = self.failure.clone();
        let (config, registry) = (self.config.clone(), self.registry.clone());
        let by_worker = self.by_workers || self.registry.lock().is_plain();
        Ok(FilesFeed::start(config, registry, worker, self.limits, self.marks, by_worker, failure))
    }

    fn ends(&self) -> Positions {
        self.registry.lock().ends()
    }

    fn paths(&self) -> BTreeMap<Arc<str>, String> {
        self.registry.lock().paths()
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        self.registry.lock().covers(partition, offset)
    }

    async fn commit(&self, _positions: &Positions) -> Result<(), SourceError> {
        Ok(())
    }

    async fn health(&self) -> Result<String, SourceError> {
        self.registry.lock().health()
    }
}
