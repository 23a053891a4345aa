//! The writer against a store that answers late, out of order, with refusals or not at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use floodmark_dataflows::decode::{Decoder, RecordsConfig, Schema};
use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::output::{PartitionProgress, Reason, RecordSink, ResponseTime, WindowDocument, WindowSink};
use floodmark_dataflows::rules::{Rules, RulesConfig};
use floodmark_dataflows::view_config::ViewConfig;
use tokio::runtime::Handle;

use super::testing::{FakeDeadLetters, FakeStore, Letter, partition, until, window};
use super::*;
use crate::stores::Rejected;
use crate::stores::version::Versions;

struct Setup {
    store: Arc<FakeStore>,
    dead_letters: Arc<FakeDeadLetters>,
    writer: Writer,
}

fn setup(indexed: Indexed, queue_bytes: usize) -> Setup {
    setup_with(WriterOptions { indexed, queue_bytes, spool: None })
}

fn setup_with(options: WriterOptions) -> Setup {
    let (store, dead_letters) = (Arc::<FakeStore>::default(), Arc::<FakeDeadLetters>::default());
    let writer = Writer::start(store.clone(), dead_letters.clone(), options, &Handle::current()).unwrap();
    Setup { store, dead_letters, writer }
}

/// Decodes and scores as the dataflow does.
struct Records {
    decoder: Decoder,
    rules: Arc<Rules>,
}

impl Records {
    fn new() -> Self {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let rules = Rules::compile(&RulesConfig::default(), &mut schema).unwrap();
        Self { decoder: Decoder::new(schema), rules: Arc::new(rules) }
    }

    fn log(&mut self, sink: &mut impl RecordSink, partition: &Arc<PartitionInfo>, offset: u64, anomaly: bool) {
        let json = raw(offset, anomaly);
        let record = self.decoder.decode(json.as_bytes()).unwrap();
        let verdict = self.rules.judge(&record);
        assert_eq!(verdict.anomaly, anomaly);
        sink.log(
            partition,
            RawRecord { offset, bytes: json.as_bytes(), appended_ms: None, redriven_from: None },
            &record,
            verdict,
        );
    }
}

fn raw(n: u64, anomaly: bool) -> String {
    let level = if anomaly { "ERROR" } else { "INFO" };
    format!(r#"{{"timestamp":1700000000000,"service_name":"a","level":"{level}","n":{n}}}"#)
}

fn progress(sink: &mut impl RecordSink, partition: &Arc<PartitionInfo>, next_offset: u64, at_end: bool) {
    sink.progress(partition, PartitionProgress { next_offset, at_end, ..PartitionProgress::default() });
}

fn position(writer: &Writer, partition: &PartitionInfo) -> Option<u64> {
    writer.acknowledged().get(partition).copied()
}

#[tokio::test]
async fn acknowledges_in_order_what_is_stored_out_of_order() {
    let Setup { store, writer, .. } = setup(Indexed::All, 1 << 20);
    store.held.store(true, Ordering::SeqCst);
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    for offset in 0..3 {
        records.log(&mut sink, &p, offset * 10, false);
        progress(&mut sink, &p, offset * 10 + 10, true);
    }
    until("three calls", || store.calls.lock().len() == 3).await;
    store.answer(2, Ok(Vec::new()));
    store.answer(1, Ok(Vec::new()));
    until("two batches", || store.documents.lock().len() == 2).await;
    assert_eq!(position(&writer, &p), None);
    store.answer(0, Ok(Vec::new()));
    until("the position", || position(&writer, &p) == Some(30)).await;
}

#[tokio::test]
async fn a_full_queue_stops_the_worker_and_wakes_it() {
    let Setup { store, writer, .. } = setup(Indexed::All, 10);
    store.held.store(true, Ordering::SeqCst);
    let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = woken.clone();
    writer.wake_when_ready(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    assert!(sink.ready());
    records.log(&mut sink, &p, 1, false);
    records.log(&mut sink, &p, 2, false);
    progress(&mut sink, &p, 3, false);
    assert!(!sink.ready(), "{} bytes wait", writer.stats().queue_bytes.load(Ordering::SeqCst));
    until("the call", || store.calls.lock().len() == 1).await;
    store.answer(0, Ok(Vec::new()));
    until("the wake-up", || woken.load(Ordering::SeqCst) == 1).await;
    assert!(sink.ready());
}

#[tokio::test]
async fn a_full_dead_letter_queue_stops_the_worker() {
    let Setup { dead_letters, writer, .. } = setup(Indexed::All, 1 << 20);
    let records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    dead_letters.full.store(true, Ordering::SeqCst);
    assert!(!sink.ready());
}

#[tokio::test]
async fn refused_documents_become_dead_letters_and_are_acknowledged() {
    let Setup { store, dead_letters, writer } = setup(Indexed::All, 1 << 20);
    store.held.store(true, Ordering::SeqCst);
    let p = partition(3);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    records.log(&mut sink, &p, 7, false);
    records.log(&mut sink, &p, 8, false);
    progress(&mut sink, &p, 9, true);
    until("the call", || store.calls.lock().len() == 1).await;
    let refusal = Rejected { entry: 1, detail: "no such type".to_owned() };
    store.answer(0, Ok(vec![refusal]));
    drop(sink);
    writer.drain().await.unwrap();
    let (reason, detail) = (Reason::Unindexable, "no such type".to_owned());
    let letter = Letter { partition: 3, offset: 8, reason, detail, raw: raw(8, false) };
    assert_eq!(*dead_letters.letters.lock(), [letter]);
    assert_eq!(position(&writer, &p), Some(9));
    dead_letters.full.store(true, Ordering::SeqCst);
    assert_eq!(position(&writer, &p), Some(8), "a letter that is not safe holds the position back");
    let stats = writer.stats();
    assert_eq!((stats.documents.load(Ordering::SeqCst), stats.rejected.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn drain_waits_for_everything_and_flushes() {
    let Setup { store, writer, .. } = setup(Indexed::All, 1 << 20);
    let partitions = [partition(0), partition(1)];
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    const COUNT: u64 = 20_000;
    for offset in 0..COUNT {
        for p in &partitions {
            records.log(&mut sink, p, offset, false);
        }
        if offset % 777 == 0 {
            partitions.iter().for_each(|p| progress(&mut sink, p, offset + 1, false));
        }
    }
    partitions.iter().for_each(|p| progress(&mut sink, p, COUNT, false));
    drop(sink);
    writer.drain().await.unwrap();
    assert!(store.flushed.load(Ordering::SeqCst));
    let documents = store.documents.lock();
    assert_eq!(documents.len() as u64, 2 * COUNT);
    for ((partition, offset), json) in documents.iter() {
        let document: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((&document["n"], &document["offset"]), (&(*offset).into(), &(*offset).into()));
        assert_eq!(document["partition"], *partition);
    }
    assert_eq!(writer.acknowledged().into_values().collect::<Vec<_>>(), [COUNT, COUNT]);
    let stats = writer.stats();
    assert_eq!(stats.queue_bytes.load(Ordering::SeqCst), 0);
    assert_eq!(stats.batches_waiting.load(Ordering::SeqCst) + stats.batches_in_flight.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_interrupted_activation_claims_no_offset_that_it_has_not_passed() {
    let Setup { writer, .. } = setup(Indexed::All, 1 << 20);
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    progress(&mut sink, &p, 100, false);
    records.log(&mut sink, &p, 100, false);
    records.log(&mut sink, &p, 250, false);
    drop(sink);
    writer.drain().await.unwrap();
    assert_eq!(position(&writer, &p), Some(250));
}

#[tokio::test]
async fn a_fatal_error_stops_everything_and_is_handed_on() {
    let Setup { store, writer, .. } = setup(Indexed::All, 1 << 20);
    store.held.store(true, Ordering::SeqCst);
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    records.log(&mut sink, &p, 0, false);
    progress(&mut sink, &p, 1, true);
    until("the call", || store.calls.lock().len() == 1).await;
    store.answer(0, Err(StoreError::Fatal("disk is gone".to_owned())));
    assert_eq!(writer.failure().await.to_string(), "disk is gone");
    assert!(!sink.ready());
    assert_eq!(writer.drain().await.unwrap_err().to_string(), "disk is gone");
    assert_eq!(position(&writer, &p), None, "what is not stored is not acknowledged");
}

#[tokio::test]
async fn only_what_is_asked_for_is_stored_and_the_position_moves_anyway() {
    let Setup { store, writer, .. } = setup(Indexed::Anomalies, 1 << 20);
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    for offset in 0..10 {
        records.log(&mut sink, &p, offset, offset == 4);
    }
    progress(&mut sink, &p, 10, false);
    drop(sink);
    writer.drain().await.unwrap();
    assert_eq!(store.documents.lock().keys().copied().collect::<Vec<_>>(), [(0, 4)]);
    assert_eq!(position(&writer, &p), Some(10));

    let Setup { store, writer, .. } = setup(Indexed::Windows, 1 << 20);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    records.log(&mut sink, &p, 0, true);
    progress(&mut sink, &p, 1, false);
    assert_eq!(position(&writer, &p), Some(1));
    drop(sink);
    writer.drain().await.unwrap();
    assert!(store.documents.lock().is_empty());
}

#[tokio::test]
async fn windows_keep_their_order() {
    let Setup { store, writer, .. } = setup(Indexed::Windows, 1 << 20);
    let mut sink = writer.windows(WindowIds::new(&[ViewConfig::default()], Versions::new(1, 1_000)));
    for as_of in 0..50 {
        sink.windows((0..100).map(|n| window(&format!("s{n}"), 0, as_of * 1_000)).collect());
    }
    writer.drain().await.unwrap();
    let windows = store.windows.lock();
    assert_eq!(windows.len(), 5_000);
    assert!(windows.is_sorted_by_key(|w| w.version));
    assert_eq!(writer.stats().windows_waiting.load(Ordering::SeqCst), 0);
}

/// A writer whose memory is full at once, with this much room on disk.
fn spooling(limit_bytes: u64) -> (Setup, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let spool = Some(SpoolOptions { directory: directory.path().to_owned(), limit_bytes });
    (setup_with(WriterOptions { indexed: Indexed::All, queue_bytes: 4_000, spool }), directory)
}

#[tokio::test]
async fn a_store_that_is_away_stops_nobody_until_the_spool_is_full() {
    let (Setup { store, writer, .. }, _directory) = spooling(30_000);
    store.held.store(true, Ordering::SeqCst);
    let p = partition(0);
    let mut records = Records::new();
    let mut sink = writer.records(records.rules.clone());
    let mut count = 0;
    // Every batch is handed in at once; the writer takes it into memory or the spool a little later.
    let settled = |stats: &WriterStats| stats.queue_bytes.load(Ordering::SeqCst) < 4_000;
    while writer.spool().unwrap().bytes < 27_000 {
        until("room", || settled(writer.stats())).await;
        assert!(sink.ready(), "after {count} records");
        records.log(&mut sink, &p, count, count % 3 == 0);
        count += 1;
        progress(&mut sink, &p, count, true);
    }
    while sink.ready() {
        records.log(&mut sink, &p, count, count % 3 == 0);
        count += 1;
        progress(&mut sink, &p, count, true);
        tokio::task::yield_now().await;
        assert!(count < 1_000, "a full spool stops the worker");
    }
    assert_eq!(position(&writer, &p), None);

    // The store is back: everything comes, in order, each once.
    store.held.store(false, Ordering::SeqCst);
    let held = std::mem::take(&mut *store.calls.lock());
    held.into_iter().for_each(|call| call.send(Ok(Vec::new())).unwrap());
    drop(sink);
    writer.drain().await.unwrap();
    let documents = store.documents.lock();
    assert_eq!(documents.keys().map(|(_, offset)| *offset).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    for ((_, offset), json) in documents.iter() {
        let document: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((&document["n"], &document["anomaly"]), (&(*offset).into(), &(*offset % 3 == 0).into()));
    }
    assert_eq!(position(&writer, &p), Some(count));
    assert_eq!(writer.spool().unwrap().bytes, 0);
    assert_eq!(writer.stats().queue_bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn windows_pass_through_the_spool_unchanged_and_in_order() {
    let (Setup { store, writer, .. }, _directory) = spooling(64 << 20);
    let mut sink = writer.windows(WindowIds::new(&[ViewConfig::default()], Versions::new(1, 1_000)));
    let mut expected = Vec::new();
    store.windows_held.store(true, Ordering::SeqCst);
    for as_of in 0..40u64 {
        let windows: Vec<_> = (0..1_000)
            .map(|n| {
                let mean = (n as f64 + 0.1) / (as_of as f64 + 7.0);
                let quantiles = (mean / 3.0, mean * 1.1, mean * 1.3, mean * 1e9);
                let (p50, p90, p95, p99) = quantiles;
                let times = ResponseTime { min: 0.001, max: 1e12 / 7.0, sum: mean * 1e3, mean, p50, p90, p95, p99 };
                WindowDocument { response_time_ms: Some(times), ..window(&format!("s{n}"), 0, as_of * 1_000) }
            })
            .collect();
        expected.extend(windows.clone());
        sink.windows(windows);
    }
    until("the spool", || writer.spool().unwrap().bytes > 0 && sink_has_room(&writer)).await;
    store.windows_held.store(false, Ordering::SeqCst);
    writer.drain().await.unwrap();
    let stored: Vec<_> = store.windows.lock().iter().map(|write| write.document.clone()).collect();
    assert!(stored == expected, "every number to the last bit");
    assert_eq!((writer.spool().unwrap().bytes, writer.stats().windows_waiting.load(Ordering::SeqCst)), (0, 0));
}

fn sink_has_room(writer: &Writer) -> bool {
    writer.stats().windows_waiting.load(Ordering::SeqCst) < records::MAX_WINDOWS_WAITING
}
