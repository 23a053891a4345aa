//! The Elasticsearch store against Elasticsearch 8 and 7.17 and OpenSearch: the same tests on each that is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, Url};
use floodmark::stores::elasticsearch::{Compression, ElasticsearchConfig, ElasticsearchStore};
use floodmark::stores::{DeadLetterWrite, LogBatch, LogEntry, LogQuery, Store as _, WindowWrite};
use floodmark::units::Span;
use floodmark_dataflows::input::PartitionInfo;
use serde_json::{Value, json};

use crate::support::{Service, Test, unique};
use crate::tests;

const DAY_MS: u64 = 86_400_000;
/// 2024-03-04, 00:00 UTC.
const MONDAY_MS: u64 = 19_786 * DAY_MS;

/// Defines each test once a service.
macro_rules! on_each {
    ($($test:ident),* $(,)?) => {
        mod es8 { use super::*; $(pub fn $test() { super::$test(Service::Elasticsearch8); })* }
        mod es7 { use super::*; $(pub fn $test() { super::$test(Service::Elasticsearch7); })* }
        mod os2 { use super::*; $(pub fn $test() { super::$test(Service::OpenSearch2); })* }

        /// The tests of this module.
        pub fn tests() -> Vec<Test> {
            let mut all = { use es8::*; tests!("es8", [Service::Elasticsearch8]; $($test),*) };
            all.extend({ use es7::*; tests!("es7", [Service::Elasticsearch7]; $($test),*) });
            all.extend({ use os2::*; tests!("os2", [Service::OpenSearch2]; $($test),*) });
            all
        }
    };
}

on_each!(
    templates_give_every_field_its_type,
    each_filter_finds_what_it_should_and_no_more,
    a_cursor_goes_beyond_ten_thousand,
    the_newest_window_wins,
    documents_that_do_not_fit_are_named,
    dead_letters_are_kept_as_they_are,
    old_days_are_deleted,
    a_node_that_halts_under_load_loses_nothing,
);

/// A store with a prefix of its own; what it wrote is deleted at the end.
struct Fixture {
    store: Arc<ElasticsearchStore>,
    transport: Transport,
    prefix: String,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new(service: Service) -> Self {
        Self::with(service, |_| {})
    }

    fn with(service: Service, change: impl FnOnce(&mut ElasticsearchConfig)) -> Self {
        let mut config = ElasticsearchConfig {
            urls: vec![service.address()],
            prefix: unique("live"),
            replicas: 0,
            retry_max_delay: Span::from_millis(500),
            ..ElasticsearchConfig::default()
        };
        change(&mut config);
        let store = Arc::new(ElasticsearchStore::new(&config).expect("a store"));
        let pool = SingleNodeConnectionPool::new(Url::parse(&service.address()).expect("an address"));
        let transport = TransportBuilder::new(pool).disable_proxy().build().expect("a client");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { store, transport, prefix: config.prefix, runtime: runtime.expect("a runtime") }
    }

    fn write(&self, batch: LogBatch) -> Vec<(usize, String)> {
        let rejected = self.runtime.block_on(self.store.write_logs(Arc::new(batch))).expect("a write");
        self.runtime.block_on(self.store.flush()).expect("a refresh");
        rejected.into_iter().map(|r| (r.entry, r.detail)).collect()
    }

    fn search(&self, query: &LogQuery) -> (u64, Vec<Value>, Option<String>) {
        let page = self.runtime.block_on(self.store.search_logs(query)).expect("a page");
        let documents = page.documents.iter().map(|document| serde_json::from_str(document.get()).expect("JSON"));
        (page.total, documents.collect(), page.next_cursor)
    }

    fn get(&self, path: &str) -> Value {
        self.send(Method::Get, path)
    }

    fn send(&self, method: Method, path: &str) -> Value {
        self.runtime.block_on(async {
            let answer = self.transport.send(method, path, HeaderMap::new(), None::<&()>, None::<()>, None).await;
            answer.expect("an answer").json().await.expect("JSON")
        })
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let indices = self.get(&format!("/{}-*/_settings?filter_path=*.settings.index.uuid", self.prefix));
        for index in indices.as_object().into_iter().flatten().map(|(name, _)| name) {
            self.send(Method::Delete, &format!("/{index}"));
        }
        for kind in ["logs", "windows", "dead-letters", "alerts"] {
            self.send(Method::Delete, &format!("/_index_template/{}-{kind}", self.prefix));
        }
    }
}

/// Documents at `first_ms` and each `step_ms` later; `number` is in the ids.
fn batch(number: i32, first_ms: u64, step_ms: u64, documents: &[Value]) -> LogBatch {
    let (mut bytes, mut entries) = (Vec::new(), Vec::new());
    for (i, document) in documents.iter().enumerate() {
        let (offset, timestamp_ms) = (i as u64, first_ms + step_ms * i as u64);
        let mut document = document.clone();
        document["timestamp"] = json!(timestamp_ms);
        document["topic"] = json!("logs");
        document["partition"] = json!(number);
        document["offset"] = json!(offset);
        let start = bytes.len();
        serde_json::to_writer(&mut bytes, &document).expect("JSON");
        entries.push(LogEntry { start, end: bytes.len(), offset, timestamp_ms });
        bytes.push(b'\n');
    }
    let partition = Arc::new(PartitionInfo { topic: "logs".into(), identity: "logs".into(), number });
    LogBatch { partition, bytes, next_offset: documents.len() as u64, entries }
}

fn log(service: &str, level: &str, status: u16, message: &str) -> Value {
    json!({
        "service_name": service, "level": level, "status_code": status, "message": message, "anomaly": status >= 400,
        "response_time_ms": 12.5, "severity": 0, "severity_level": "INFO", "reasons": [], "tags": ["a", "b"],
        "user_id": 17, "host": { "name": "node-1" }, "original.severity": "high",
    })
}

fn templates_give_every_field_its_type(service: Service) {
    let at = Fixture::new(service);
    let version = at.runtime.block_on(at.store.setup()).expect("setup").to_owned();
    let expected = match service {
        Service::Elasticsearch7 => "7.17.29",
        Service::OpenSearch2 => "2.19.5",
        _ => "8.19.0",
    };
    assert!(version.contains(expected), "{version}");
    let health = at.runtime.block_on(at.store.health()).expect("health");
    assert!(health.contains("green") && health.contains(expected), "{health}");

    assert_eq!(at.search(&LogQuery { size: 10, ..LogQuery::default() }), (0, Vec::new(), None), "no index yet");
    assert_eq!(
        at.write(batch(0, MONDAY_MS + DAY_MS - 1, 1, &[log("a", "INFO", 200, "x"), log("b", "INFO", 200, "y")])),
        []
    );
    for day in ["2024.03.04", "2024.03.05"] {
        let index = format!("{}-logs-{day}", at.prefix);
        assert_eq!(at.get(&format!("/{index}/_count"))["count"], 1, "{day}");
        let mapping = at.get(&format!("/{index}/_mapping"))[&index]["mappings"].clone();
        let kind = |field: &str| mapping["properties"][field]["type"].clone();
        assert_eq!(kind("timestamp"), "date");
        assert_eq!(kind("service_name"), "keyword");
        assert_eq!(kind("status_code"), "short");
        assert_eq!(kind("offset"), "long");
        // What is not named in the template is kept, and does not grow the mapping.
        assert!(kind("host").is_null() && kind("original").is_null());
    }
    let (_, documents, _) = at.search(&LogQuery { size: 10, ..LogQuery::default() });
    assert_eq!((&documents[0]["host"]["name"], &documents[0]["original.severity"]), (&json!("node-1"), &json!("high")));
}

fn each_filter_finds_what_it_should_and_no_more(service: Service) {
    let at = Fixture::with(service, |config| config.compression = Compression::Gzip);
    let documents = [
        log("auth", "INFO", 200, "User logged in from Paris"),
        log("auth", "ERROR", 503, "Upstream timed out"),
        log("pay", "ERROR", 500, "card refused: timed out at upstream"),
        log("pay", "WARN", 404, "no such order"),
    ];
    at.write(batch(0, MONDAY_MS, 1_000, &documents));
    let found = |query: LogQuery| -> Vec<u64> {
        let (total, documents, _) = at.search(&LogQuery { size: 10, ..query });
        let offsets: Vec<u64> = documents.iter().map(|d| d["offset"].as_u64().expect("an offset")).collect();
        assert_eq!(total, offsets.len() as u64);
        offsets
    };
    let q = LogQuery::default;
    assert_eq!(found(q()), [3, 2, 1, 0], "newest first");
    assert_eq!(found(LogQuery { service_name: Some("auth".into()), ..q() }), [1, 0]);
    assert_eq!(found(LogQuery { level: Some("ERROR".into()), ..q() }), [2, 1]);
    assert_eq!(found(LogQuery { status_code: Some(404), ..q() }), [3]);
    assert_eq!(found(LogQuery { anomaly: Some(false), ..q() }), [0]);
    assert_eq!(found(LogQuery { from_ms: Some(MONDAY_MS + 1_000), to_ms: Some(MONDAY_MS + 3_000), ..q() }), [2, 1]);
    assert_eq!(found(LogQuery { from_ms: Some(0), to_ms: Some(u64::MAX), ..q() }).len(), 4);
    assert_eq!(found(LogQuery { text: Some("TIMED upstream".into()), ..q() }), [2, 1], "all words, any order and case");
    assert_eq!(found(LogQuery { text: Some("timed order".into()), ..q() }), [0_u64; 0]);
    assert_eq!(found(LogQuery { text: Some("refused: OR *".into()), ..q() }), [0_u64; 0], "no query syntax");
    let both = LogQuery { service_name: Some("pay".into()), level: Some("ERROR".into()), anomaly: Some(true), ..q() };
    assert_eq!(found(both), [2]);
    assert_eq!(found(LogQuery { service_name: Some("Auth".into()), ..q() }), [0_u64; 0], "exact");

    let (total, page, _) = at.search(&LogQuery { skip: 1, size: 2, ..q() });
    assert_eq!((total, page[0]["offset"].as_u64(), page[1]["offset"].as_u64()), (4, Some(2), Some(1)));
}

fn a_cursor_goes_beyond_ten_thousand(service: Service) {
    let at = Fixture::new(service);
    let documents: Vec<Value> = (0..6_100).map(|n| json!({ "n": n })).collect();
    // Two partitions with the same times, and two documents a millisecond: only the whole order tells them apart.
    for partition in [0, 1] {
        let mut batch = batch(partition, MONDAY_MS, 0, &documents);
        batch.entries.iter_mut().for_each(|entry| entry.timestamp_ms = MONDAY_MS);
        at.write(batch);
    }
    let mut query = LogQuery { size: 2_600, ..LogQuery::default() };
    let mut seen = BTreeSet::new();
    let mut pages = 0;
    loop {
        let (total, documents, next) = at.search(&query);
        assert_eq!(total, 12_200);
        pages += 1;
        let places = documents.iter().map(|d| (d["partition"].as_i64(), d["offset"].as_i64()));
        places.for_each(|place| assert!(seen.insert(place), "twice: {place:?}"));
        match next {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (12_200, 5));
    let too_far = LogQuery { skip: 10_000, size: 1, ..LogQuery::default() };
    assert!(at.runtime.block_on(at.store.search_logs(&too_far)).is_err());
}

fn window(version: u64, count: i64) -> WindowWrite {
    let document = json!({
        "view": "v", "key": { "service_name": "a/b", "http.method": "GET" }, "start": MONDAY_MS, "end": MONDAY_MS + 10_000,
        "count": count, "levels": { "INFO": count }, "status": { "2xx": count }, "errors": 0, "anomalies": 0,
        "max_severity": 0, "first": MONDAY_MS, "last": MONDAY_MS, "revision": 0, "final": false, "as_of": MONDAY_MS,
    });
    let document = serde_json::from_value(document).expect("a window document");
    WindowWrite { id: format!("v@1/a%2Fb/GET/{MONDAY_MS}"), version, document }
}

fn the_newest_window_wins(service: Service) {
    let at = Fixture::new(service);
    let term = |n: u64| n << 44;
    let steps = [(term(1) + 5, 50), (term(1) + 4, 40), (term(1) + 5, 50), (term(2), 7)];
    for ((version, count), expected) in steps.into_iter().zip([50, 50, 50, 7]) {
        at.runtime.block_on(at.store.write_windows(vec![window(version, count)])).expect("a write");
        at.runtime.block_on(at.store.flush()).expect("a refresh");
        let hits = at.get(&format!("/{}-windows-2024.03.04/_search?q=key.service_name:%22a/b%22", at.prefix));
        assert_eq!(hits["hits"]["total"]["value"], 1);
        assert_eq!(hits["hits"]["hits"][0]["_source"]["count"], expected);
    }
    let superseded = &at.store.counters().superseded;
    assert_eq!(superseded.load(std::sync::atomic::Ordering::Relaxed), 1);
}

fn documents_that_do_not_fit_are_named(service: Service) {
    let at = Fixture::new(service);
    let mut documents: Vec<Value> = (0..20).map(|_| log("a", "INFO", 200, "x")).collect();
    documents[3]["status_code"] = json!("teapot");
    documents[7]["level.name"] = json!("a part of a field that has no parts");
    documents[11]["message"] = json!({ "nested": true });
    documents[12]["_id"] = json!("mine");
    documents[15]["service_name"] = json!("long ".repeat(10_000));
    let rejected = at.write(batch(0, MONDAY_MS, 1, &documents));
    assert_eq!(rejected.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [3, 7, 11, 12], "{rejected:?}");
    assert!(rejected[0].1.contains("status_code") && rejected[0].1.contains("teapot"), "{}", rejected[0].1);
    assert_eq!(at.search(&LogQuery { size: 1, ..LogQuery::default() }).0, 16);
}

fn dead_letters_are_kept_as_they_are(service: Service) {
    let at = Fixture::new(service);
    let json =
        json!({ "topic": "logs", "partition": 0, "offset": 4, "reason": "malformed", "detail": "expected {", "x": {} });
    let letter =
        DeadLetterWrite { id: "logs-0-4".into(), timestamp_ms: MONDAY_MS, json: json.to_string().into_bytes() };
    for _ in 0..2 {
        at.runtime.block_on(at.store.write_dead_letters(vec![letter.clone()])).expect("a write");
    }
    at.runtime.block_on(at.store.flush()).expect("a refresh");
    let hits = at.get(&format!("/{}-dead-letters-2024.03.04/_search?q=reason:malformed", at.prefix));
    assert_eq!((&hits["hits"]["total"]["value"], &hits["hits"]["hits"][0]["_source"]), (&json!(1), &json));
}

fn old_days_are_deleted(service: Service) {
    let at = Fixture::new(service);
    let documents: Vec<Value> = (0..4).map(|_| log("a", "INFO", 200, "x")).collect();
    at.write(batch(0, MONDAY_MS, DAY_MS, &documents));
    let now = MONDAY_MS + 9 * DAY_MS;
    let deleted = at.runtime.block_on(at.store.delete_older_than(7, now)).expect("a deletion");
    assert_eq!(deleted, ["04", "05"].map(|day| format!("{}-logs-2024.03.{day}", at.prefix)));
    assert_eq!(at.search(&LogQuery { size: 10, ..LogQuery::default() }).0, 2);
}

/// Stops the node's process while requests are under way, until several of them have timed out.
fn a_node_that_halts_under_load_loses_nothing(service: Service) {
    let pid = service.process().expect("the process of the service, from scripts/services env");
    let at = Fixture::with(service, |config| {
        config.batch_documents = 200;
        config.request_timeout = Span::from_millis(700);
    });
    let documents: Vec<Value> = (0..3_000).map(|_| log("a", "INFO", 200, "x")).collect();
    let writes: Vec<_> = (0..4)
        .map(|partition| {
            let (store, batch) = (at.store.clone(), batch(partition, MONDAY_MS, 1, &documents));
            at.runtime.spawn(async move { store.write_logs(Arc::new(batch)).await.expect("a write") })
        })
        .collect();
    let failed = || at.store.counters().failed_requests.load(std::sync::atomic::Ordering::Relaxed);
    let stored = || at.store.counters().stored.load(std::sync::atomic::Ordering::Relaxed);
    crate::support::eventually("some documents", || (stored() > 0).then_some(()));
    signal(pid, "STOP");
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        crate::support::eventually("requests that time out", || (failed() >= 4 || stored() == 12_000).then_some(()));
    }));
    signal(pid, "CONT");
    noticed.expect("the store to notice");
    for write in writes {
        let write = async { tokio::time::timeout(Duration::from_secs(60), write).await };
        let rejected = at.runtime.block_on(write).expect("an end").expect("a write");
        assert!(rejected.is_empty());
    }
    at.runtime.block_on(at.store.flush()).expect("a refresh");
    assert_eq!(at.search(&LogQuery { size: 1, ..LogQuery::default() }).0, 12_000);
    assert!(failed() >= 4, "everything was written before the node stopped: make the load larger");
}

fn signal(pid: i32, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill").success(), "kill -{name} {pid}");
}
