//! Bulk requests: documents become lines, and the answer becomes one outcome a document.
//!
//! A document is copied once, from its batch into the body. The index of the first document stands in the path of the
//! request and is left out of the lines, since nearly all documents of a request are of one day.

use std::io::Write as _;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::ErrorCause;
use super::config::Kind;
use super::index::Day;
use crate::stores::{AlertWrite, DeadLetterWrite, LogBatch, WindowWrite};

/// Documents that can be sent, in an order of their own.
pub(super) trait Documents: Sync {
    /// What they are.
    fn kind(&self) -> Kind;
    /// How many.
    fn len(&self) -> usize;
    /// The day whose index a document belongs to.
    fn day(&self, i: usize) -> Day;
    /// The JSON of a document, on one line or several.
    fn json(&self, i: usize) -> &[u8];
    /// Appends the fields of the action: `"_id":"…"`, and the version if there is one.
    fn push_action(&self, i: usize, body: &mut Vec<u8>);
    /// The id of a document.
    fn id(&self, i: usize) -> String;
    /// The version of a document whose writes are ordered.
    fn version(&self, i: usize) -> Option<u64>;
}

/// Log documents. They never change, so writing one again under its id is harmless and needs no version.
pub(super) struct Logs<'a> {
    batch: &'a LogBatch,
    /// The id in JSON up to the offset, with the opening quote.
    id_prefix: String,
}

impl<'a> Logs<'a> {
    pub(super) fn new(batch: &'a LogBatch) -> Self {
        let partition = &batch.partition;
        let mut id_prefix = json_string(&format!("{}-{}-", partition.identity, partition.number));
        id_prefix.pop();
        Self { batch, id_prefix }
    }
}

impl Documents for Logs<'_> {
    fn kind(&self) -> Kind {
        Kind::Logs
    }

    fn len(&self) -> usize {
        self.batch.entries.len()
    }

    fn day(&self, i: usize) -> Day {
        Day::of(self.batch.entries[i].timestamp_ms)
    }

    fn json(&self, i: usize) -> &[u8] {
        self.batch.document(&self.batch.entries[i])
    }

    fn push_action(&self, i: usize, body: &mut Vec<u8>) {
        body.extend_from_slice(b"\"_id\":");
        body.extend_from_slice(self.id_prefix.as_bytes());
        push_number(self.batch.entries[i].offset, body);
        body.push(b'"');
    }

    fn id(&self, i: usize) -> String {
        self.batch.id(&self.batch.entries[i])
    }

    fn version(&self, _: usize) -> Option<u64> {
        None
    }
}

/// Window documents, serialised. The greater version wins, whatever the order of arrival.
pub(super) struct Windows {
    json: Vec<u8>,
    entries: Vec<WindowEntry>,
}

struct WindowEntry {
    json: Range<usize>,
    day: Day,
    id: String,
    version: u64,
}

impl Windows {
    pub(super) fn new(windows: &[WindowWrite]) -> Result<Self, serde_json::Error> {
        let mut json = Vec::with_capacity(windows.len() * 512);
        let mut entries = Vec::with_capacity(windows.len());
        for window in windows {
            let start = json.len();
            serde_json::to_writer(&mut json, &window.document)?;
            let (day, id) = (Day::of(window.document.start), window.id.clone());
            entries.push(WindowEntry { json: start..json.len(), day, id, version: window.version });
        }
        Ok(Self { json, entries })
    }
}

impl Documents for Windows {
    fn kind(&self) -> Kind {
        Kind::Windows
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn day(&self, i: usize) -> Day {
        self.entries[i].day
    }

    fn json(&self, i: usize) -> &[u8] {
        &self.json[self.entries[i].json.clone()]
    }

    fn push_action(&self, i: usize, body: &mut Vec<u8>) {
        let entry = &self.entries[i];
        push_versioned(&entry.id, entry.version, body);
    }

    fn id(&self, i: usize) -> String {
        self.entries[i].id.clone()
    }

    fn version(&self, i: usize) -> Option<u64> {
        Some(self.entries[i].version)
    }
}

/// Alerts, by the day they began. The greater version wins.
pub(super) struct Alerts<'a>(pub(super) &'a [AlertWrite]);

impl Documents for Alerts<'_> {
    fn kind(&self) -> Kind {
        Kind::Alerts
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn day(&self, i: usize) -> Day {
        Day::of(self.0[i].start_ms)
    }

    fn json(&self, i: usize) -> &[u8] {
        &self.0[i].json
    }

    fn push_action(&self, i: usize, body: &mut Vec<u8>) {
        push_versioned(&self.0[i].id, self.0[i].version, body);
    }

    fn id(&self, i: usize) -> String {
        self.0[i].id.clone()
    }

    fn version(&self, i: usize) -> Option<u64> {
        Some(self.0[i].version)
    }
}

fn push_versioned(id: &str, version: u64, body: &mut Vec<u8>) {
    body.extend_from_slice(b"\"_id\":");
    body.extend_from_slice(json_string(id).as_bytes());
    body.extend_from_slice(b",\"version_type\":\"external_gte\",\"version\":");
    push_number(version, body);
}

/// Dead letters, by the day they became such. The same letter under its id is the same.
pub(super) struct DeadLetters<'a>(pub(super) &'a [DeadLetterWrite]);

impl Documents for DeadLetters<'_> {
    fn kind(&self) -> Kind {
        Kind::DeadLetters
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn day(&self, i: usize) -> Day {
        Day::of(self.0[i].timestamp_ms)
    }

    fn json(&self, i: usize) -> &[u8] {
        &self.0[i].json
    }

    fn push_action(&self, i: usize, body: &mut Vec<u8>) {
        body.extend_from_slice(b"\"_id\":");
        body.extend_from_slice(json_string(&self.0[i].id).as_bytes());
    }

    fn id(&self, i: usize) -> String {
        self.0[i].id.clone()
    }

    fn version(&self, _: usize) -> Option<u64> {
        None
    }
}

/// The lines of a request for some documents, each of which goes to the index of `day` unless its line says otherwise.
pub(super) fn encode(documents: &dyn Documents, which: &[usize], day: Day, index_prefix: &str) -> Vec<u8> {
    let size: usize = which.iter().map(|&i| documents.json(i).len() + 128).sum();
    let mut body = Vec::with_capacity(size);
    for &i in which {
        body.extend_from_slice(b"{\"index\":{");
        if documents.day(i) != day {
            body.extend_from_slice(b"\"_index\":");
            body.extend_from_slice(json_string(&documents.day(i).index(index_prefix)).as_bytes());
            body.push(b',');
        }
        documents.push_action(i, &mut body);
        body.extend_from_slice(b"}}\n");
        let start = body.len();
        body.extend_from_slice(documents.json(i));
        // A line feed would end the document early. In JSON it can only stand between tokens, where a space does as
        // well.
        let mut line = &mut body[start..];
        while let Some(at) = memchr::memchr(b'\n', line) {
            line[at] = b' ';
            line = &mut line[at + 1..];
        }
        body.push(b'\n');
    }
    body
}

/// Cuts documents into runs of at most `max_documents` and `max_bytes`; a larger document is a run of its own.
pub(super) fn cut(documents: &dyn Documents, max_documents: usize, max_bytes: usize) -> Vec<Vec<usize>> {
    let mut runs = Vec::new();
    let (mut run, mut bytes) = (Vec::new(), 0);
    for i in 0..documents.len() {
        let size = documents.json(i).len();
        if !run.is_empty() && (run.len() == max_documents || bytes + size > max_bytes) {
            runs.push(std::mem::take(&mut run));
            bytes = 0;
        }
        run.push(i);
        bytes += size;
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// The parts of the answer that are asked for: the status of each item in order, and errors.
pub(super) const FILTER_PATH: &str = "errors,items.*.status,items.*.error";

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stored.
    Stored,
    /// Something else stands in its place; `current` is its version if the answer said so.
    Conflict {
        /// The version that is stored.
        current: Option<u64>,
    },
    /// It may be stored another time.
    Retry(String),
    /// The cluster failed on it. That may pass, or be this document's doing.
    Failed(String),
    /// It will never be stored.
    Rejected(String),
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<Action<'a>>,
}

#[derive(Deserialize)]
struct Action<'a> {
    #[serde(borrow)]
    index: Item<'a>,
}

#[derive(Deserialize)]
struct Item<'a> {
    status: u16,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

/// Reads the answer to a bulk request of so many documents. An answer that is not complete says nothing about any of
/// them.
pub(super) fn outcomes(body: &[u8], expected: usize) -> Result<Vec<Outcome>, String> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| format!("cannot read the answer: {e}"))?;
    if answer.items.len() != expected {
        return Err(format!("expected an answer of {expected} items, got {}", answer.items.len()));
    }
    Ok(answer.items.iter().map(|action| outcome(&action.index)).collect())
}

fn outcome(item: &Item<'_>) -> Outcome {
    if item.error.is_none() && (200..300).contains(&item.status) {
        return Outcome::Stored;
    }
    let raw = item.error.map_or("", RawValue::get);
    let cause = serde_json::from_str::<ErrorCause>(raw).unwrap_or_else(|_| ErrorCause {
        kind: "error".into(),
        reason: Some(raw.to_owned()),
        caused_by: None,
    });
    let detail = cause.describe();
    match item.status {
        409 => Outcome::Conflict { current: cause.reason.as_deref().and_then(current_version) },
        // The state of the index or the cluster, which an operator can mend: never this document's fault.
        400 if is_state_of_cluster(&cause) => Outcome::Retry(detail),
        401 | 403 | 404 | 408 | 429 | 502..=504 => Outcome::Retry(detail),
        400..=499 => Outcome::Rejected(detail),
        _ => Outcome::Failed(detail),
    }
}

/// Errors with status 400 that are about the index or the cluster and not about the document.
fn is_state_of_cluster(cause: &ErrorCause) -> bool {
    let reason = cause.reason.as_deref().unwrap_or_default();
    matches!(cause.kind.as_str(), "index_closed_exception" | "cluster_block_exception" | "process_cluster_event_timeout_exception")
        // "this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open"
        || (reason.contains("maximum") && reason.contains("shards open"))
}

/// The stored version in the reason of a version conflict: `…, current version [7] is higher than the one provided [5]`.
fn current_version(reason: &str) -> Option<u64> {
    let rest = reason.split_once("current version [")?.1;
    rest.split_once(']')?.0.parse().ok()
}

fn push_number(number: u64, body: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = write!(body, "{number}");
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use floodmark_dataflows::input::PartitionInfo;

    use super::*;
    use crate::stores::LogEntry;

    /// A batch of the given documents with consecutive offsets, one second apart.
    pub(crate) fn batch(documents: &[&str], first_ms: u64) -> LogBatch {
        let partition = PartitionInfo { topic: "logs".into(), identity: "lo\"gs".into(), number: 3 };
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for (i, document) in documents.iter().enumerate() {
            let start = bytes.len();
            bytes.extend_from_slice(document.as_bytes());
            let (end, offset, timestamp_ms) = (bytes.len(), 7 + i as u64, first_ms + 1_000 * i as u64);
            entries.push(LogEntry { start, end, offset, timestamp_ms });
            bytes.push(b'\n');
        }
        let next_offset = 7 + documents.len() as u64;
        LogBatch { partition: Arc::new(partition), bytes, entries, next_offset }
    }

    #[test]
    fn lines_name_the_index_only_where_it_differs() {
        let batch = batch(&["{\"a\":1}", "{\n\"b\":\n2}"], 1_709_164_799_000);
        let documents = Logs::new(&batch);
        let lines = encode(&documents, &[0, 1], documents.day(0), "p-logs-");
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "{\"index\":{\"_id\":\"lo\\\"gs-3-7\"}}\n{\"a\":1}\n\
             {\"index\":{\"_index\":\"p-logs-2024.02.29\",\"_id\":\"lo\\\"gs-3-8\"}}\n{ \"b\": 2}\n"
        );
    }

    #[test]
    fn runs_keep_both_limits_and_lose_nothing() {
        let long = format!("{{\"m\":\"{}\"}}", "x".repeat(500));
        let batch = batch(&["{}", "{}", "{}", &long, "{}"], 0);
        let documents = Logs::new(&batch);
        assert_eq!(cut(&documents, 2, 100), [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert_eq!(cut(&documents, 100, 1_000_000), [vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn each_item_has_an_outcome_of_its_own() {
        let body = br#"{"errors":true,"items":[
            {"index":{"status":201}},
            {"index":{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"queue full"}}},
            {"index":{"status":400,"error":{"type":"document_parsing_exception","reason":"failed to parse",
                "caused_by":{"type":"number_format_exception","reason":"For input string: \"x\""}}}},
            {"index":{"status":409,"error":{"type":"version_conflict_engine_exception",
                "reason":"[a]: version conflict, current version [7] is higher than the one provided [5]"}}},
            {"index":{"status":409,"error":"conflict"}},
            {"index":{"status":400,"error":{"type":"validation_exception","reason":"Validation Failed: 1: this action
                would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;"}}},
            {"index":{"status":503,"error":{"type":"unavailable_shards_exception","reason":"primary not active"}}},
            {"index":{"status":403,"error":{"type":"cluster_block_exception","reason":"index [x] blocked"}}},
            {"index":{"status":500,"error":{"type":"stack_overflow","reason":null}}}]}"#;
        let body = String::from_utf8_lossy(body).replace("this action\n                would", "this action would");
        let kinds: Vec<char> = outcomes(body.as_bytes(), 9)
            .unwrap()
            .iter()
            .map(|outcome| match outcome {
                Outcome::Stored => 's',
                Outcome::Conflict { current: Some(7) } => '7',
                Outcome::Conflict { current: None } => 'c',
                Outcome::Conflict { .. } => '?',
                Outcome::Retry(_) => 'r',
                Outcome::Failed(_) => 'f',
                Outcome::Rejected(detail) => {
                    assert!(detail.contains("failed to parse") && detail.contains("number_format"), "{detail}");
                    'x'
                }
            })
            .collect();
        assert_eq!(kinds.iter().collect::<String>(), "srx7crrrf");
    }

    #[test]
    fn an_incomplete_answer_says_nothing() {
        assert!(outcomes(br#"{"errors":false,"items":[{"index":{"status":201}}"#, 1).is_err());
        assert!(
            outcomes(br#"{"errors":false,"items":[{"index":{"status":201}}]}"#, 2).unwrap_err().contains("2 items")
        );
        assert!(outcomes(b"{}", 1).is_err());
    }
}
