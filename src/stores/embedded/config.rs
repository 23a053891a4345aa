//! The options of the embedded store.

use std::path::PathBuf;

use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Span};

/// A search index on local disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Directory of the index; made if it is not there. One process at a time. Left out, `store` within `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Event time that one part of the index covers; parts are made and deleted as a whole. At least 1m. Cannot be
    /// changed for a directory that is in use.
    pub span: Span,
    /// How much event time is kept. A part of the index is deleted once all of it is this much older than the newest
    /// document; documents older than that are counted and not stored. Left out, everything is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// Threads that index, 1 to 8. One takes about 60,000 documents a second.
    pub threads: usize,
    /// Memory for documents that are indexed and not yet on disk, for all threads together. At least 15MiB a thread.
    pub memory: ByteSize,
    /// The longest time before a document that came in is on disk and can be found; up to four times that while
    /// documents come faster than they are indexed. Shorter costs more CPU time.
    pub commit_interval: Span,
    /// Documents are put on disk before the interval is over when this many bytes of them wait. Keep it at half of
    /// `store.queue`, so that reading goes on meanwhile.
    pub commit_bytes: ByteSize,
    /// Parts of the index that are written at the same time. Documents of further parts, late ones mostly, wait for the
    /// next commit and are written part by part. Each takes at least 15MiB of memory.
    pub open_parts: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            path: None,
            span: Span::from_secs(86_400),
            retention: Some(Span::from_secs(7 * 86_400)),
            threads: 2,
            memory: ByteSize::from_mib(96),
            commit_interval: Span::from_secs(1),
            commit_bytes: ByteSize::from_mib(32),
            open_parts: 2,
        }
    }
}

/// What tantivy needs for a thread at the least.
const MIN_MEMORY_PER_THREAD: u64 = 15_000_000;

impl EmbeddedConfig {
    /// All mistakes in it.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message: String| mistakes.push(Mistake::new(key, message));
        if self.span < Span::from_secs(60) {
            wrong("span", format!("expected at least 1m, got {}; 1d suits most logs", self.span));
        }
        if self.retention.is_some_and(|retention| retention < self.span) {
            wrong("retention", format!("expected at least the span ({}); leave it out to keep everything", self.span));
        }
        if self.threads == 0 || self.threads > 8 {
            wrong("threads", format!("expected 1 to 8, got {}", self.threads));
        }
        if self.memory.0 / (self.threads.max(1) as u64) < MIN_MEMORY_PER_THREAD {
            wrong(
                "memory",
                format!("expected at least 15MiB for each of {} threads, got {}", self.threads, self.memory),
            );
        }
        if self.commit_interval < Span::from_millis(10) {
            wrong("commit_interval", format!("expected at least 10ms, got {}; 1s suits most", self.commit_interval));
        }
        if self.commit_bytes < ByteSize::from_mib(1) {
            wrong("commit_bytes", format!("expected at least 1MiB, got {}", self.commit_bytes));
        }
        if self.open_parts == 0 || self.open_parts > 16 {
            wrong("open_parts", format!("expected 1 to 16, got {}", self.open_parts));
        }
        mistakes
    }

    /// Memory budget of an indexing thread, in bytes.
    pub(super) fn memory_per_thread(&self) -> usize {
        let bytes = (self.memory.0 / (self.threads.max(1) as u64)).clamp(MIN_MEMORY_PER_THREAD, 2 << 30);
        usize::try_from(bytes).unwrap_or(2 << 30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_mistakes_name_their_key() {
        assert_eq!(EmbeddedConfig::default().mistakes(), []);
        let config = EmbeddedConfig {
            span: Span::from_secs(1),
            retention: Some(Span::from_millis(1)),
            threads: 9,
            memory: ByteSize(1),
            commit_interval: Span::from_millis(0),
            commit_bytes: ByteSize(1),
            open_parts: 0,
            ..EmbeddedConfig::default()
        };
        let keys: Vec<String> = config.mistakes().into_iter().map(|m| m.key).collect();
        assert_eq!(keys, ["span", "retention", "threads", "memory", "commit_interval", "commit_bytes", "open_parts"]);
    }
}
