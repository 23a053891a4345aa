//! Checkpoints: what a run goes on from after it was stopped or killed.
//!
//! In: what the workers hand over at a cut ([`floodmark_dataflows::checkpoint`]). Out: files in a directory or in
//! S3-compatible storage, and at the next start the state that they hold. A checkpoint is a chain of state files, one a
//! worker and checkpoint with what changed, and a manifest that names them, written last. Each file is written in
//! several copies, so that any one may be damaged.
//!
//! ```text
//! a/manifest-0000000000000012      b/manifest-0000000000000012
//! a/state/0000000000000012-…       b/state/0000000000000012-…
//! a/marks/g3/…                     b/marks/g3/…
//! a/starts, a/terms/…              b/starts, b/terms/…
//! ```
//!
//! - [`config`]: the options in the configuration.
//! - [`mod@format`]: the form of every file; [`contents`], [`manifest`]: what is in them.
//! - [`store`]: where files are, in copies.
//! - [`chain`]: a worker's share as a file, and many of these as one state.
//! - [`sink`]: what a worker hands over, until it is durable; [`commit`]: the manifest, merging of long chains, and
//!   what is deleted.
//! - [`restore`]: choosing a checkpoint and loading it. [`compare`]: whether it goes with the configuration.
//! - [`marks`]: the wall clock as a run saw it. [`starts`]: what each start has read. [`terms`]: their
//!   numbers in versions.
//!
//! On error: what cannot be written is tried again for as long as it takes, and `/health` says so: the run goes on,
//! and nothing is acknowledged to the source. What cannot be read is named; the run starts from what can.

pub mod chain;
pub mod commit;
pub mod compare;
pub mod config;
pub mod contents;
pub mod format;
pub mod manifest;
pub mod marks;
pub mod restore;
pub mod sink;
pub mod starts;
pub mod store;
pub mod terms;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use floodmark_dataflows::time::Millis;
use parking_lot::Mutex;

pub use commit::{Checkpoints, Line};
pub use config::CheckpointConfig;
pub use sink::WorkerSink;

use crate::metrics::Samples;
use crate::sources::wall_clock_ms;
use format::{Damage, EncodeError};
use store::StoreError;

/// The folder of state files, in the folder of each copy.
const STATE_FOLDER: &str = "state";
/// What failed is tried again after this long, and ever later up to [`LONGEST_DELAY`].
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Why there is no going on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The place where checkpoints are cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are checkpoints, and none can be read.
    #[error("none of the checkpoints in {place} can be read ({problems}); put a copy back, or start anew with --fresh")]
    NoneRestores {
        /// Where they are.
        place: String,
        /// What is wrong with each.
        problems: String,
    },
    /// The contents of a file make no sense.
    #[error("checkpoint file {name}: {damage}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        damage: Damage,
    },
    /// Something cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A thread ended early.
    #[error("reading a checkpoint was stopped: {0}")]
    Stopped(String),
}

/// Counters and gauges. All may be read at any time.
#[derive(Debug, Default)]
pub struct Stats {
    /// Checkpoints committed since the start.
    pub committed: AtomicU64,
    /// Attempts to write something that failed.
    pub failures: AtomicU64,
    /// Bytes of state files written, one copy of each.
    pub bytes: AtomicU64,
    /// The number of the last checkpoint.
    pub last_id: AtomicU64,
    /// Its tick.
    pub last_at: AtomicU64,
    /// The wall clock when it was committed; 0 for none.
    pub last_ms: AtomicU64,
    /// Bytes of the files written for it.
    pub last_bytes: AtomicU64,
    /// How long it took from its beginning until it was committed, in milliseconds.
    pub last_duration_ms: AtomicU64,
    /// The longest step of a worker of this process while it was made, in microseconds.
    pub last_pause_us: AtomicU64,
    /// Files of the chain.
    pub files: AtomicU64,
    /// Bytes of the chain, one copy.
    pub chain_bytes: AtomicU64,
    /// What went wrong last, until it works again.
    pub problem: Mutex<Option<String>>,
}

impl Stats {
    /// Age of the last checkpoint, if there is one.
    pub fn age_ms(&self) -> Option<Millis> {
        let last = self.last_ms.load(Ordering::Relaxed);
        (last > 0).then(|| wall_clock_ms().saturating_sub(last))
    }

    /// Adds all to the metrics.
    pub fn collect(&self, samples: &mut Samples) {
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        samples.counter("checkpoints", "Checkpoints committed", &[], number(&self.committed));
        samples.counter("checkpoint_failures", "Attempts to write that failed", &[], number(&self.failures));
        samples.counter("checkpoint_bytes", "Bytes of state written, one copy", &[], number(&self.bytes));
        let Some(age) = self.age_ms() else { return };
        samples.gauge("checkpoint_age_seconds", "Age of the last checkpoint", &[], age as f64 / 1e3);
        samples.gauge("checkpoint_last_id", "Number of the last checkpoint", &[], number(&self.last_id));
        samples.gauge("checkpoint_last_tick", "Tick of the last checkpoint", &[], number(&self.last_at));
        let help = "Bytes of state written for the last checkpoint, one copy";
        samples.gauge("checkpoint_last_bytes", help, &[], number(&self.last_bytes));
        let help = "From the beginning of the last checkpoint until it was committed";
        samples.gauge("checkpoint_last_duration_seconds", help, &[], number(&self.last_duration_ms) / 1e3);
        let help = "Longest step of a worker of this process while the last checkpoint was made";
        samples.gauge("checkpoint_last_pause_seconds", help, &[], number(&self.last_pause_us) / 1e6);
        samples.gauge("checkpoint_files", "State files that the last checkpoint needs", &[], number(&self.files));
        let help = "Bytes of these files, one copy";
        samples.gauge("checkpoint_chain_bytes", help, &[], number(&self.chain_bytes));
    }
}

/// Repeats a write until it works. Says so in the log, and in the statistics.
async fn repeat<F: Future<Output = Result<(), StoreError>>>(what: &str, stats: &Stats, write: impl Fn() -> F) {
    let mut delay = FIRST_DELAY;
    let mut has_failed = false;
    while let Err(error) = write().await {
        stats.failures.fetch_add(1, Ordering::Relaxed);
        let text = chain_of(&error);
        tracing::warn!("{what}: {text}; trying again");
        *stats.problem.lock() = Some(text);
        has_failed = true;
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
    if has_failed {
        *stats.problem.lock() = None;
    }
}

/// An error with its causes, in a line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
