//! What the tests of the writer and of the stores share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::{KeyFields, Reason, WindowDocument};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::DeadLetters;
use crate::sources::Positions;
use crate::stores::{LogBatch, LogEntry, LogPage, LogQuery, Rejected, Store, StoreError, WindowWrite};

pub(in crate::stores) fn partition(number: i32) -> Arc<PartitionInfo> {
    Arc::new(PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number })
}

/// A batch of documents given as offset and JSON. The event time is the field `timestamp`, or else 0.
pub(in crate::stores) fn batch(number: i32, documents: &[(u64, &str)]) -> LogBatch {
    let mut batch = LogBatch { partition: partition(number), bytes: Vec::new(), entries: Vec::new(), next_offset: 0 };
    for &(offset, json) in documents {
        let start = batch.bytes.len();
        batch.bytes.extend_from_slice(json.as_bytes());
        let end = batch.bytes.len();
        batch.bytes.push(b'\n');
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let timestamp_ms = value["timestamp"].as_u64().unwrap_or(0);
        batch.entries.push(LogEntry { start, end, offset, timestamp_ms });
        batch.next_offset = offset + 1;
    }
    batch
}

pub(in crate::stores) fn window(service: &str, start: u64, as_of: u64) -> WindowDocument {
    WindowDocument {
        view: "per_service".into(),
        key: KeyFields(vec![("service_name".into(), service.to_owned())]),
        start,
        end: start + 10_000,
        count: 1,
        levels: BTreeMap::new(),
        status: BTreeMap::new(),
        errors: 0,
        anomalies: 0,
        response_time_ms: None,
        numbers: BTreeMap::new(),
        rules: BTreeMap::new(),
        max_severity: 0,
        first: start,
        last: start,
        revision: 0,
        late_records: 0,
        previous: None,
        is_final: false,
        partial: false,
        score: None,
        evidence: None,
        as_of,
    }
}

pub(in crate::stores) fn window_write(service: &str, start: u64, version: u64) -> WindowWrite {
    WindowWrite { id: format!("per_service@0/{service}/{start}"), version, document: window(service, start, version) }
}

/// Waits for a condition, with a deadline.
pub(in crate::stores) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a call of the fake store is answered with.
pub(in crate::stores) type Answer = Result<Vec<Rejected>, StoreError>;

/// Keeps what it is given. While held, each batch waits for its answer.
#[derive(Default)]
pub(in crate::stores) struct FakeStore {
    pub(in crate::stores) held: AtomicBool,
    /// While this is set, windows wait.
    pub(in crate::stores) windows_held: AtomicBool,
    pub(in crate::stores) calls: Mutex<VecDeque<oneshot::Sender<Answer>>>,
    pub(in crate::stores) documents: Mutex<BTreeMap<(i32, u64), String>>,
    pub(in crate::stores) windows: Mutex<Vec<WindowWrite>>,
    pub(in crate::stores) flushed: AtomicBool,
}

impl FakeStore {
    /// Answers the `n`-th of the waiting calls.
    pub(in crate::stores) fn answer(&self, n: usize, answer: Answer) {
        self.calls.lock().remove(n).unwrap().send(answer).unwrap();
    }
}

#[async_trait]
impl Store for FakeStore {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn write_logs(&self, batch: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        let rejected = if self.held.load(Ordering::SeqCst) {
            let (answer, answered) = oneshot::channel();
            self.calls.lock().push_back(answer);
            answered.await.expect("an answer")?
        } else {
            Vec::new()
        };
        let mut documents = self.documents.lock();
        for (i, entry) in batch.entries.iter().enumerate() {
            if rejected.iter().all(|r| r.entry != i) {
                let json = String::from_utf8(batch.document(entry).to_vec()).unwrap();
                documents.insert((batch.partition.number, entry.offset), json);
            }
        }
        Ok(rejected)
    }

    async fn write_windows(&self, windows: Vec<WindowWrite>) -> Result<(), StoreError> {
        until("windows are held no more", || !self.windows_held.load(Ordering::SeqCst)).await;
        self.windows.lock().extend(windows);
        Ok(())
    }

    async fn search_logs(&self, _: &LogQuery) -> Result<LogPage, StoreError> {
        Err(StoreError::NotSearchable(String::new()))
    }

    async fn health(&self) -> Result<String, StoreError> {
        Ok(String::new())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.flushed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// A dead letter, with its raw record as text.
#[derive(Debug, PartialEq)]
pub(in crate::stores) struct Letter {
    pub(in crate::stores) partition: i32,
    pub(in crate::stores) offset: u64,
    pub(in crate::stores) reason: Reason,
    pub(in crate::stores) detail: String,
    pub(in crate::stores) raw: String,
}

/// Keeps dead letters.
#[derive(Default)]
pub(in crate::stores) struct FakeDeadLetters {
    pub(in crate::stores) full: AtomicBool,
    pub(in crate::stores) letters: Mutex<Vec<Letter>>,
}

impl DeadLetters for FakeDeadLetters {
    fn ready(&self) -> bool {
        !self.full.load(Ordering::SeqCst)
    }

    fn send(&self, partition: &Arc<PartitionInfo>, offset: u64, reason: Reason, detail: &str, raw: &[u8]) {
        let raw = String::from_utf8(raw.to_vec()).unwrap();
        let (partition, detail) = (partition.number, detail.to_owned());
        self.letters.lock().push(Letter { partition, offset, reason, detail, raw });
    }

    /// While it is full, nothing was written.
    fn unwritten(&self) -> Positions {
        let letters = self.letters.lock();
        let letters = letters.iter().filter(|_| !self.ready()).rev();
        letters.map(|letter| (PartitionInfo::clone(&partition(letter.partition)), letter.offset)).collect()
    }
}
