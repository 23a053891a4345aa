//! The Elasticsearch store against a stub that fails in every way the real one does: nothing may be lost, nothing kept
//! twice, and only what failed is sent again.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use floodmark::stores::elasticsearch::{Compression, ElasticsearchConfig, ElasticsearchStore};
use floodmark::stores::{LogBatch, LogEntry, LogQuery, Store, StoreError, WindowWrite};
use floodmark::units::{ByteSize, Span};
use floodmark_dataflows::input::PartitionInfo;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::stub_elasticsearch::{CA_FILE, Fault, Stub, error};

const DAY_MS: u64 = 86_400_000;
const MONDAY_MS: u64 = 19_786 * DAY_MS;
const MONDAY: &str = "floodmark-logs-2024.03.04";
const TUESDAY: &str = "floodmark-logs-2024.03.05";

fn config(urls: &[&str]) -> ElasticsearchConfig {
    ElasticsearchConfig {
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        retry_initial_delay: Span::from_millis(1),
        retry_max_delay: Span::from_millis(5),
        ..ElasticsearchConfig::default()
    }
}

fn store(stub: &Stub) -> ElasticsearchStore {
    ElasticsearchStore::new(&config(&[&stub.url])).unwrap()
}

/// A batch of `count` documents from offset `first` on, `step_ms` apart from Monday, 00:00 on.
fn batch(first: u64, count: u64, step_ms: u64) -> Arc<LogBatch> {
    let documents: Vec<String> = (first..first + count).map(|n| format!("{{\"n\":{n}}}")).collect();
    batch_of(first, step_ms, &documents)
}

fn batch_of(first: u64, step_ms: u64, documents: &[String]) -> Arc<LogBatch> {
    let (mut bytes, mut entries) = (Vec::new(), Vec::new());
    for (offset, document) in (first..).zip(documents) {
        let start = bytes.len();
        bytes.extend_from_slice(document.as_bytes());
        entries.push(LogEntry {
            start,
            end: bytes.len(),
            offset,
            timestamp_ms: MONDAY_MS + step_ms * (offset - first),
        });
        bytes.push(b'\n');
    }
    let partition = Arc::new(PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: 2 });
    Arc::new(LogBatch { partition, bytes, next_offset: first + documents.len() as u64, entries })
}

fn window(start: u64, version: u64, count: i64) -> WindowWrite {
    let document = serde_json::from_value(json!({
        "view": "v", "key": { "service_name": "a/b" }, "start": start, "end": start + 10_000, "count": count, "levels": {},
        "status": {}, "errors": 0, "anomalies": 0, "max_severity": 0, "first": start, "last": start, "revision": 0,
        "final": false, "as_of": start,
    }));
    WindowWrite { id: format!("v@1/a%2Fb/{start}"), version, document: document.unwrap() }
}

/// Every document of the batch is held once, where it belongs, with its own contents.
fn assert_holds(stub: &Stub, batch: &LogBatch) {
    let state = stub.state.lock();
    for entry in &batch.entries {
        let index = if entry.timestamp_ms < MONDAY_MS + DAY_MS { MONDAY } else { TUESDAY };
        let held = state.documents.get(&(index.into(), format!("logs-2-{}", entry.offset)));
        let document: serde_json::Value = serde_json::from_slice(batch.document(entry)).unwrap();
        assert_eq!(held.map(|(_, document)| document), Some(&document), "offset {}", entry.offset);
    }
    assert_eq!(state.documents.len(), batch.entries.len());
}

#[tokio::test]
async fn documents_go_to_the_index_of_their_day_in_bounded_requests() {
    let stub = Stub::start().await;
    let config = ElasticsearchConfig { batch_documents: 100, in_flight: 3, ..config(&[&stub.url]) };
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    let batch = batch(5, 1_550, DAY_MS / 1_000);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);
    assert_eq!((stub.ids(MONDAY).len(), stub.ids(TUESDAY).len()), (1_000, 550));
    let state = stub.state.lock();
    assert_eq!(state.bulks.len(), 16);
    assert!(state.bulks.iter().all(|ids| ids.len() <= 100));
    let most = stub.most_in_flight.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} requests in flight");
    // Templates come before the first document, and once.
    let puts: Vec<&str> = state.requests.iter().filter(|r| r.method == "PUT").map(|r| r.path.as_str()).collect();
    assert_eq!(
        puts,
        [
            "/_index_template/floodmark-logs",
            "/_index_template/floodmark-windows",
            "/_index_template/floodmark-dead-letters",
            "/_index_template/floodmark-alerts"
        ]
    );
}

#[tokio::test]
async fn whole_requests_that_fail_are_sent_again_and_nothing_is_kept_twice() {
    let stub = Stub::start().await;
    let config = ElasticsearchConfig { request_timeout: Span::from_millis(300), ..config(&[&stub.url]) };
    let store = ElasticsearchStore::new(&config).unwrap();
    let faults = [
        Fault::Status(429, "{}"),
        Fault::Status(503, "<html>no upstream</html>"),
        Fault::Status(502, ""),
        // Not from Elasticsearch: a proxy must not be able to send documents to the dead letters.
        Fault::Status(400, "<html>bad request</html>"),
        Fault::Status(200, "<html>log in first</html>"),
        Fault::StoredThenCut,
        Fault::StoredThenSlow(Duration::from_secs(5)),
    ];
    let expected = faults.len() + 1;
    stub.fail_next(faults);
    let batch = batch(0, 50, 1);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);
    assert_eq!(stub.state.lock().bulks.len(), expected);
    assert_eq!(store.counters().failed_requests.load(Ordering::Relaxed), expected as u64 - 1);
    assert_eq!(store.counters().stored.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn only_the_items_that_failed_are_sent_again() {
    let stub = Stub::start().await;
    let mut seen = HashMap::<String, u32>::new();
    stub.state.lock().item_fault = Some(Box::new(move |line| {
        let times = seen.entry(line.id.clone()).or_default();
        *times += 1;
        let offset: u64 = line.id.rsplit('-').next()?.parse().ok()?;
        let kind = ["es_rejected_execution_exception", "unavailable_shards_exception", "cluster_block_exception"];
        let status = [429, 503, 403];
        let which = offset as usize % 3;
        (offset < 6 && *times <= 2).then(|| (status[which], error(kind[which], "later")["error"].clone()))
    }));
    let store = store(&stub);
    let batch = batch(0, 100, 1);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);
    let sizes: Vec<usize> = stub.state.lock().bulks.iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 6, 6]);
    assert_eq!(store.counters().retried.load(Ordering::Relaxed), 12);
}

#[tokio::test]
async fn documents_that_do_not_fit_the_mapping_are_named_and_their_neighbours_stored() {
    let stub = Stub::start().await;
    stub.state.lock().item_fault = Some(Box::new(|line| {
        let cause = json!({ "type": "number_format_exception", "reason": "For input string: \"abc\"" });
        let error = json!({ "type": "document_parsing_exception", "reason": "[1:20] failed", "caused_by": cause });
        (line.document["n"] == 31 || line.document["n"] == 7).then_some((400, error))
    }));
    let config = ElasticsearchConfig { batch_documents: 10, ..config(&[&stub.url]) };
    let store = ElasticsearchStore::new(&config).unwrap();
    let rejected = store.write_logs(batch(0, 50, 1)).await.unwrap();
    assert_eq!(rejected.iter().map(|r| r.entry).collect::<Vec<_>>(), [7, 31]);
    assert!(rejected[0].detail.contains("document_parsing_exception") && rejected[0].detail.contains("\"abc\""));
    assert_eq!(stub.held(), 48);
    assert_eq!(stub.state.lock().bulks.len(), 5);
}

#[tokio::test]
async fn a_request_too_large_is_halved_and_a_document_too_large_is_named() {
    let stub = Stub::start().await;
    stub.state.lock().max_body = 1_000;
    let mut documents: Vec<String> = (0..60).map(|n| format!("{{\"n\":{n}}}")).collect();
    documents[17] = format!("{{\"n\":17,\"blob\":\"{}\"}}", "x".repeat(2_000));
    let store = store(&stub);
    let rejected = store.write_logs(batch_of(0, 1, &documents)).await.unwrap();
    assert_eq!(rejected.iter().map(|r| r.entry).collect::<Vec<_>>(), [17]);
    assert!(rejected[0].detail.contains("413"), "{}", rejected[0].detail);
    assert_eq!(stub.held(), 59);
    assert!(store.counters().split_requests.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_halved_until_the_document_is_found() {
    let stub = Stub::start().await;
    let mut documents: Vec<String> = (0..8).map(|n| format!("{{\"n\":\n{n}}}")).collect();
    documents[5] = "not JSON\nat all".into();
    let rejected = store(&stub).write_logs(batch_of(0, 1, &documents)).await.unwrap();
    assert_eq!(rejected.iter().map(|r| r.entry).collect::<Vec<_>>(), [5]);
    assert_eq!(stub.held(), 7);
}

#[tokio::test]
async fn a_document_that_the_cluster_always_fails_on_does_not_stop_the_others_for_ever() {
    let stub = Stub::start().await;
    stub.state.lock().item_fault = Some(Box::new(|line| {
        (line.document["n"] == 3).then(|| (500, json!({ "type": "stack_overflow_error", "reason": null })))
    }));
    let rejected = store(&stub).write_logs(batch(0, 10, 1)).await.unwrap();
    assert_eq!(rejected.iter().map(|r| r.entry).collect::<Vec<_>>(), [3]);
    assert_eq!(stub.held(), 9);
    assert_eq!(stub.state.lock().bulks.len(), 10);
}

#[tokio::test]
async fn the_newest_window_wins_whatever_the_order() {
    let stub = Stub::start().await;
    let store = store(&stub);
    store.write_windows(vec![window(MONDAY_MS, 5, 50), window(MONDAY_MS + 10_000, 5, 1)]).await.unwrap();
    store.write_windows(vec![window(MONDAY_MS, 4, 40)]).await.unwrap();
    store.write_windows(vec![window(MONDAY_MS, 5, 50)]).await.unwrap();
    let key = ("floodmark-windows-2024.03.04".to_owned(), format!("v@1/a%2Fb/{MONDAY_MS}"));
    {
        let state = stub.state.lock();
        let (version, document) = &state.documents[&key];
        assert_eq!((*version, &document["count"], &document["key"]["service_name"]), (5, &json!(50), &json!("a/b")));
    }
    assert_eq!(store.counters().superseded.load(Ordering::Relaxed), 1);
    store.write_windows(vec![window(MONDAY_MS, 6, 60)]).await.unwrap();
    assert_eq!(stub.state.lock().documents[&key].0, 6);
}

#[tokio::test]
async fn windows_of_a_higher_term_are_a_problem_with_a_way_out() {
    let stub = Stub::start().await;
    let store = store(&stub);
    store.write_windows(vec![window(MONDAY_MS, (7 << 44) + 5, 50)]).await.unwrap();
    store.write_windows(vec![window(MONDAY_MS, (7 << 44) + 4, 40)]).await.unwrap();
    assert!(store.health().await.is_ok(), "what the same run wrote");
    store.write_windows(vec![window(MONDAY_MS, (1 << 44) + 9, 90)]).await.unwrap();
    let problem = store.health().await.unwrap_err().to_string();
    assert!(problem.contains("write 7 into the file `term`"), "{problem}");
}

/// A conflict that does not say with which version is believed only after asking for it.
#[tokio::test]
async fn a_conflict_counts_only_when_a_newer_version_is_there() {
    let stub = Stub::start().await;
    let mut first = true;
    stub.state.lock().item_fault = Some(Box::new(move |_| {
        std::mem::take(&mut first).then(|| (409, json!({ "type": "version_conflict_engine_exception", "reason": "?" })))
    }));
    let store = store(&stub);
    store.write_windows(vec![window(MONDAY_MS, 5, 50)]).await.unwrap();
    assert_eq!(stub.held(), 1, "the window was taken for written");
    assert_eq!(store.counters().superseded.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_window_that_will_never_be_taken_ends_the_run_with_its_name() {
    let stub = Stub::start().await;
    stub.state.lock().item_fault = Some(Box::new(|_| {
        Some((400, json!({ "type": "mapper_parsing_exception", "reason": "object mapping for [key]" })))
    }));
    match store(&stub).write_windows(vec![window(MONDAY_MS, 5, 50)]).await {
        Err(StoreError::Fatal(message)) => {
            assert!(message.contains("v@1/a%2Fb/") && message.contains("[key]"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn random_faults_lose_nothing_and_keep_nothing_twice() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(random_seed);
    println!("SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let stub = Stub::start().await;
    stub.state.lock().max_body = 4_000;
    let all = [Fault::Status(429, ""), Fault::Status(503, ""), Fault::StoredThenCut];
    stub.fail_next((0..60).map(|_| all[random.random_range(0..all.len())].clone()));
    let mut of_items = ChaCha8Rng::seed_from_u64(seed ^ 1);
    stub.state.lock().item_fault = Some(Box::new(move |line| {
        if line.document["n"].as_u64()? % 97 == 0 {
            return Some((400, json!({ "type": "mapper_parsing_exception", "reason": "no" })));
        }
        (of_items.random_range(0..10) == 0).then(|| (429, json!({ "type": "busy", "reason": null })))
    }));
    let config = ElasticsearchConfig { batch_documents: 200, ..config(&[&stub.url]) };
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    let writes = (0..8).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.write_logs(batch(i * 500, 500, DAY_MS / 400)).await.unwrap() })
    });
    let mut rejected = BTreeSet::new();
    for (i, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
        rejected.extend(write.await.unwrap().iter().map(|r| r.entry + 500 * i));
    }
    assert_eq!(rejected, (0..4_000).filter(|n| n % 97 == 0).collect());
    let state = stub.state.lock();
    let held: BTreeSet<usize> = state.documents.values().map(|(_, d)| d["n"].as_u64().unwrap() as usize).collect();
    assert_eq!(state.documents.len(), held.len(), "kept twice");
    assert_eq!(held.len() + rejected.len(), 4_000, "lost");
}

fn random_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64
}

#[tokio::test]
async fn a_cluster_that_is_away_at_the_start_is_waited_for() {
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let store = Arc::new(ElasticsearchStore::new(&config(&[&format!("http://{address}")])).unwrap());
    assert!(matches!(store.setup().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.health().await, Err(StoreError::Unavailable(_))));
    let batch = batch(0, 10, 1);
    let write = tokio::spawn({
        let (store, batch) = (store.clone(), batch.clone());
        async move { store.write_logs(batch).await }
    });
    let stub = Stub::on(tokio::net::TcpListener::bind(address).await.unwrap());
    assert!(write.await.unwrap().unwrap().is_empty());
    assert_holds(&stub, &batch);
    assert_eq!(store.setup().await.unwrap(), "elasticsearch 9.1.0");
    assert_eq!(store.health().await.unwrap(), "elasticsearch 9.1.0, cluster \"stub\" green, 1 node(s)");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_passed_over() {
    let stub = Stub::start().await;
    let dead = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let config = ElasticsearchConfig { batch_documents: 10, ..config(&[&dead, &stub.url]) };
    let store = ElasticsearchStore::new(&config).unwrap();
    let batch = batch(0, 200, 1);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);
    assert_eq!(store.counters().failed_requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn wrong_credentials_are_fatal_at_the_start_and_waited_out_later() {
    let stub = Stub::start().await;
    stub.state.lock().authorization = Some("ApiKey aWQ6a2V5".into());
    match store(&stub).setup().await {
        Err(StoreError::Fatal(message)) => assert!(message.contains("refuses the credentials"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store(&stub).write_logs(batch(0, 1, 1)).await, Err(StoreError::Fatal(_))));

    let config = ElasticsearchConfig { api_key: Some("id:key".to_owned().into()), ..config(&[&stub.url]) };
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    store.setup().await.unwrap();
    // The key is revoked while running, and put back once the store has noticed.
    stub.state.lock().authorization = Some("ApiKey other".into());
    let write = tokio::spawn({
        let store = store.clone();
        async move { store.write_logs(batch(0, 10, 1)).await }
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while store.counters().failed_requests.load(Ordering::Relaxed) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the store has not noticed");
        tokio::task::yield_now().await;
    }
    assert_eq!(stub.held(), 0);
    stub.state.lock().authorization = Some("ApiKey aWQ6a2V5".into());
    assert!(write.await.unwrap().unwrap().is_empty());
    assert_eq!(stub.held(), 10);
}

#[tokio::test]
async fn each_kind_of_credentials_reaches_the_cluster_in_its_header() {
    let stub = Stub::start().await;
    let set_up = async |expected: &str, config: ElasticsearchConfig| {
        stub.state.lock().authorization = Some(expected.to_owned());
        ElasticsearchStore::new(&config).unwrap().setup().await.map(str::to_owned).unwrap();
    };
    let plain = config(&[&stub.url]);
    let basic = ElasticsearchConfig {
        username: Some("elastic".into()),
        password: Some("changeme".to_owned().into()),
        ..plain.clone()
    };
    set_up("Basic ZWxhc3RpYzpjaGFuZ2VtZQ==", basic).await;
    let key = |key: &str| ElasticsearchConfig { api_key: Some(key.to_owned().into()), ..plain.clone() };
    set_up("ApiKey aWQ6a2V5", key("id:key")).await;
    set_up("ApiKey aWQ6a2V5", key("aWQ6a2V5")).await;
}

#[tokio::test]
async fn certificates_are_checked_unless_that_is_said_aloud() {
    let stub = Stub::start_tls().await;
    let plain = config(&[&stub.url]);
    match ElasticsearchStore::new(&plain).unwrap().setup().await {
        Err(StoreError::Fatal(message)) => assert!(message.contains("ca_file"), "{message}"),
        other => panic!("{other:?}"),
    }
    let trusting = ElasticsearchConfig { ca_file: Some(CA_FILE.into()), ..plain.clone() };
    let store = ElasticsearchStore::new(&trusting).unwrap();
    let batch = batch(0, 10, 1);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);

    let careless =
        ElasticsearchStore::new(&ElasticsearchConfig { verify_certificates: false, ..plain.clone() }).unwrap();
    assert!(careless.health().await.unwrap().contains("CERTIFICATES NOT VERIFIED"));

    for (file, expected) in [("/nowhere/ca.pem", "cannot read ca_file"), (file!(), "expected PEM certificates")] {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let config = ElasticsearchConfig { ca_file: Some(file), ..plain.clone() };
        assert!(ElasticsearchStore::new(&config).err().unwrap().to_string().contains(expected));
    }
}

#[tokio::test]
async fn compressed_requests_arrive_whole() {
    let stub = Stub::start().await;
    let config = ElasticsearchConfig { compression: Compression::Gzip, ..config(&[&stub.url]) };
    let store = ElasticsearchStore::new(&config).unwrap();
    let batch = batch(0, 2_000, 1);
    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
    assert_holds(&stub, &batch);
    let sent = store.counters().bytes.load(Ordering::Relaxed);
    assert!(sent < 2_000 * 20, "{sent} bytes for 2,000 documents");
}

#[tokio::test]
async fn clusters_are_told_apart_with_and_without_an_answer_at_the_root() {
    let stub = Stub::start().await;
    let set_up = async |root: (u16, serde_json::Value)| {
        stub.state.lock().root = root;
        let store = store(&stub);
        store.setup().await.map(str::to_owned)
    };
    let version = |body: serde_json::Value| (200, json!({ "version": body }));
    let opensearch = version(json!({ "distribution": "opensearch", "number": "2.19.5" }));
    assert_eq!(set_up(opensearch).await.unwrap(), "opensearch 2.19.5");
    assert_eq!(set_up(version(json!({ "number": "7.17.29" }))).await.unwrap(), "elasticsearch 7.17.29");
    assert_eq!(set_up((405, json!({}))).await.unwrap(), "elasticsearch 8.19.0");
    let refused = [version(json!({ "number": "7.6.2" })), (200, json!({ "hello": "I am Kibana" })), (401, json!({}))];
    for root in refused {
        assert!(matches!(set_up(root.clone()).await, Err(StoreError::Fatal(_))), "{root:?}");
    }
    assert!(matches!(set_up((503, json!({}))).await, Err(StoreError::Unavailable(_))));
    stub.state.lock().refuse_templates = Some(403);
    match set_up(version(json!({ "number": "8.19.0" }))).await {
        Err(StoreError::Fatal(message)) => assert!(message.contains("privilege"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_search_asks_all_days_and_refuses_half_an_answer() {
    let stub = Stub::start().await;
    let store = store(&stub);
    let hit = json!({ "_source": { "message": "hello" }, "sort": [9, 0, 4, "t"] });
    stub.state.lock().search = (200, json!({ "timed_out": false, "hits": { "total": { "value": 7 }, "hits": [hit] } }));
    let query = LogQuery { text: Some("hello".into()), size: 1, ..LogQuery::default() };
    let page = store.search_logs(&query).await.unwrap();
    assert_eq!((page.total, page.documents[0].get()), (7, r#"{"message":"hello"}"#));
    let next = LogQuery { cursor: page.next_cursor, ..query.clone() };
    store.search_logs(&next).await.unwrap();
    {
        let state = stub.state.lock();
        let [first, second] = &state.requests[..] else { panic!("{:?}", state.requests) };
        assert_eq!(first.path, "/floodmark-logs-*/_search");
        assert!(first.query.contains("allow_partial_search_results=false"), "{}", first.query);
        assert_eq!(second.body["search_after"], json!([9, 0, 4, "t"]));
    }
    stub.state.lock().search = (503, error("search_phase_execution_exception", "all shards failed"));
    assert!(matches!(store.search_logs(&query).await, Err(StoreError::Unavailable(_))));
    let bad = LogQuery { cursor: Some("../../etc".into()), ..query };
    assert!(matches!(store.search_logs(&bad).await, Err(StoreError::BadCursor)));
}

#[tokio::test]
async fn old_days_are_deleted_by_name_and_nothing_else() {
    let stub = Stub::start().await;
    let store = store(&stub);
    store.write_logs(batch(0, 3, DAY_MS)).await.unwrap();
    store.write_windows(vec![window(MONDAY_MS, 1, 1)]).await.unwrap();
    for name in ["floodmark-logs-archive", "floodmark-dead-letters-2024.03.04", "other-logs-2024.03.04"] {
        stub.state.lock().documents.insert((name.into(), "1".into()), (1, json!({})));
    }
    let now = MONDAY_MS + 8 * DAY_MS + 1;
    let deleted = store.delete_older_than(7, now).await.unwrap();
    assert_eq!(deleted, [MONDAY, "floodmark-windows-2024.03.04"]);
    assert_eq!(stub.held(), 5);
}

#[tokio::test]
async fn nothing_to_write_asks_nothing() {
    let stub = Stub::start().await;
    let config = ElasticsearchConfig { batch_bytes: ByteSize(1024), ..config(&[&stub.url]) };
    let store = ElasticsearchStore::new(&config).unwrap();
    assert!(store.write_logs(batch(0, 0, 1)).await.unwrap().is_empty());
    store.write_windows(Vec::new()).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(stub.state.lock().requests.len(), 1);
}
