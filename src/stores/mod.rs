//! Where documents go, and where searches are answered, behind one trait.

pub mod elasticsearch;
pub mod embedded;
pub mod ndjson;
pub mod none;
pub mod version;
pub mod writer;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::WindowDocument;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::metrics::Samples;

/// What to do where the store cannot be searched.
const SEARCHABLE: &str = "configure [store.embedded] or [store.elasticsearch] instead";

/// Log documents of one partition in offset order, ready to be stored.
#[derive(Debug)]
pub struct LogBatch {
    /// The partition.
    pub partition: Arc<PartitionInfo>,
    /// The documents' JSON, one after the other, each with a line feed behind it.
    pub bytes: Vec<u8>,
    /// One entry a document.
    pub entries: Vec<LogEntry>,
    /// Everything of the partition before this offset is in this batch, in an earlier one, or needs no storing.
    pub next_offset: u64,
}

/// A document in a [`LogBatch`].
#[derive(Clone, Copy, Debug)]
pub struct LogEntry {
    /// Where its JSON starts in [`LogBatch::bytes`].
    pub start: usize,
    /// Where its JSON ends, before the line feed.
    pub end: usize,
    /// Its offset in the partition.
    pub offset: u64,
    /// Event time.
    pub timestamp_ms: Millis,
}

impl LogBatch {
    /// The JSON of a document.
    pub fn document(&self, entry: &LogEntry) -> &[u8] {
        &self.bytes[entry.start..entry.end]
    }

    /// Appends the id of a log document, `topic-partition-offset`, with the topic's identity.
    pub fn id(&self, entry: &LogEntry) -> String {
        format!("{}-{}-{}", self.partition.identity, self.partition.number, entry.offset)
    }
}

/// A window document with what its id and version are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowWrite {
    /// `view@hash(definition)/escaped key/start`, hashed when over 400 bytes.
    pub id: String,
    /// From [`version::Versions`]: the greater one wins, of equal ones the later.
    pub version: u64,
    /// The document.
    pub document: WindowDocument,
}

/// A dead letter on its way to a store.
#[derive(Clone, Debug)]
pub struct DeadLetterWrite {
    /// Of the record: the same for the same record.
    pub id: String,
    /// When it became a dead letter, by the wall clock.
    pub timestamp_ms: Millis,
    /// The document's JSON.
    pub json: Vec<u8>,
}

/// An alert on its way to a store.
#[derive(Clone, Debug)]
pub struct AlertWrite {
    /// Of the alert: the same in every run.
    pub id: String,
    /// As that of a window.
    pub version: u64,
    /// When the alert began, in event time.
    pub start_ms: Millis,
    /// The document's JSON.
    pub json: Vec<u8>,
}

/// A document that the store refuses for good.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Its place in [`LogBatch::entries`].
    pub entry: usize,
    /// What the store said.
    pub detail: String,
}

/// A search for log documents, newest first (by event time, then partition, then offset).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogQuery {
    /// Exact value of `service_name`.
    pub service_name: Option<String>,
    /// Exact value of `level`, in upper case.
    pub level: Option<String>,
    /// Exact value of `status_code`.
    pub status_code: Option<u16>,
    /// Value of `anomaly`.
    pub anomaly: Option<bool>,
    /// Values of `pattern_id`, of which one is enough.
    pub pattern_ids: Option<Vec<String>>,
    /// Event time at or after.
    pub from_ms: Option<Millis>,
    /// Event time before.
    pub to_ms: Option<Millis>,
    /// Words that must all occur in `message` (free text, no query syntax).
    pub text: Option<String>,
    /// How many documents to pass over; with `size` at most 10,000. Ignored with a cursor.
    pub skip: usize,
    /// How many documents to answer at the most.
    pub size: usize,
    /// Goes on behind the last document of an earlier page.
    pub cursor: Option<String>,
}

/// A page of log documents.
#[derive(Debug, Default)]
pub struct LogPage {
    /// How many documents match in all.
    pub total: u64,
    /// The documents.
    pub documents: Vec<Box<RawValue>>,
    /// Where the next page starts; absent behind the last.
    pub next_cursor: Option<String>,
}

/// What a store holds of a range of offsets of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Held {
    /// How many documents.
    pub documents: u64,
    /// Their offsets, ascending, one a document; absent where the range is too long to list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<Vec<u64>>,
    /// Documents of any partition that it did not keep, or deleted, for being older than its retention, since the
    /// process started; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<u64>,
    /// It deletes documents by their age.
    #[serde(default)]
    pub has_retention: bool,
    /// The last document of the range that is hardly younger than what it deletes: records that came out of order, and were
    /// older, may be missing before it. Absent where there is none, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardly_kept: Option<u64>,
}

/// A place for documents. Writes are idempotent: the same document again changes nothing.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Its name in messages and metrics.
    fn name(&self) -> &'static str;

    /// How many calls of [`Store::write_logs`] are worth having under way at the same time.
    fn max_in_flight(&self) -> usize {
        4
    }

    /// Stores log documents. Returns when they are safe, with [`Store::sync`] at the latest, naming those refused for good. Retries by itself what may go
    /// better later, for as long as it takes; an error is fatal.
    async fn write_logs(&self, batch: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError>;

    /// Stores window documents, likewise. An older version never replaces a newer one.
    async fn write_windows(&self, windows: Vec<WindowWrite>) -> Result<(), StoreError>;

    /// Stores dead letters, likewise: those with the same id are the same. A store that has no place for them says so
    /// with a fatal error.
    async fn write_dead_letters(&self, letters: Vec<DeadLetterWrite>) -> Result<(), StoreError> {
        let (count, name) = (letters.len(), self.name());
        Err(StoreError::Fatal(format!(
            "the store {name} has no place for dead letters ({count} waiting): write them to a file or a Kafka topic"
        )))
    }

    /// Stores alerts, likewise. An older version never replaces a newer one. A store that keeps nothing keeps no alerts.
    async fn write_alerts(&self, _: Vec<AlertWrite>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Adds what only this store counts to the metrics. Asked at each scrape; must not block.
    fn metrics(&self, _samples: &mut Samples) {}

    /// Searches log documents.
    async fn search_logs(&self, query: &LogQuery) -> Result<LogPage, StoreError>;

    /// What it holds of the log documents of a partition whose offsets are in a range; with their offsets if the range
    /// is of `list` offsets at the most. Sees what was acknowledged when it was asked.
    async fn held(&self, _: &PartitionInfo, _: Range<u64>, _list: usize) -> Result<Held, StoreError> {
        Err(StoreError::NotSearchable(format!("the store {} cannot be asked what it holds", self.name())))
    }

    /// Whether the store answers, and what it is, in one line.
    async fn health(&self) -> Result<String, StoreError>;

    /// Makes everything written durable: it survives a loss of power. Most stores do so with each write.
    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes everything written durable and searchable.
    async fn flush(&self) -> Result<(), StoreError>;
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The request is at fault: a page too far.
    #[error("{0}")]
    BadQuery(String),
    /// What is to be gone on from is not from an earlier page.
    #[error("expected a cursor from an earlier page")]
    BadCursor,
    /// The store cannot search.
    #[error("{0}")]
    NotSearchable(String),
    /// The store does not answer at present.
    #[error("{0}")]
    Unavailable(String),
    /// The store cannot be used as configured, or failed for good.
    #[error("{0}")]
    Fatal(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources, StoreChoice};

    #[tokio::test]
    async fn the_advice_where_nothing_can_be_searched_loads() {
        let error = none::NoStore.search_logs(&LogQuery::default()).await.unwrap_err().to_string();
        let advice = error.split("configure ").nth(1).unwrap();
        let sections: Vec<&str> = advice.split('[').skip(1).map(|rest| rest.split(']').next().unwrap()).collect();
        assert_eq!(sections.len(), 2, "{error}");
        for section in sections {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("advice.toml");
            std::fs::write(&file, format!("[source.generator]\n[{section}]\n")).unwrap();
            let config = Config::load(&Sources { file: Some(&file), ..Sources::default() }).unwrap();
            let chosen = config.store.chosen().unwrap();
            assert!(matches!(chosen, StoreChoice::Embedded(_) | StoreChoice::Elasticsearch(_)), "{section}");
        }
    }
}
