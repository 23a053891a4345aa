//! Writing log documents through the Elasticsearch store, against a bare bulk loader of the same documents.
//!
//!     cargo bench --profile ci --bench es_bulk -- http://127.0.0.1:9200 [documents] [rounds]
//!
//! In: the address of a cluster (`scripts/services up es8`). Out: documents/s and CPU seconds per million documents of
//! both, in turn (A B A B), and their ratio. Both send the same lines to indices with the same template, in requests of
//! the same size with as many in flight; the loader builds each body in one pass, looks only at `errors`, and gives up
//! on any failure.

#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, Url};
use floodmark::stores::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use floodmark::stores::{LogBatch, LogEntry, Store as _};
use floodmark_dataflows::input::PartitionInfo;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const IN_FLIGHT: usize = 4;
const BATCH: usize = 2_500;
/// 2024-03-04, 00:00 UTC.
const START_MS: u64 = 1_709_510_400_000;
const DAY: &str = "2024.03.04";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some(url) = arguments.first() else {
        println!("es_bulk: not run, since it needs the address of a cluster: -- http://127.0.0.1:9200");
        return;
    };
    let number = |i: usize, default| arguments.get(i).map_or(default, |text: &String| text.parse().unwrap());
    let (documents, rounds) = (number(1, 300_000), number(2, 3));
    let batches = Arc::new(batches(documents));
    let bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
    println!("{documents} documents of {} bytes, {BATCH} a request, {IN_FLIGHT} in flight", bytes / documents);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        // The first one pays for the cluster's warm-up and is not counted.
        write(url, "warm", &batches, true).await;
        for _ in 0..rounds {
            bare.push(write(url, "bare", &batches, false).await);
            ours.push(write(url, "ours", &batches, true).await);
        }
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        println!("store / loader = {:.3}", mean(&ours) / mean(&bare));
    });
}

/// Writes all documents to an index of their own and deletes it again. Returns documents/s.
async fn write(url: &str, name: &str, batches: &Arc<Vec<Arc<LogBatch>>>, through_store: bool) -> f64 {
    let config = ElasticsearchConfig {
        urls: vec![url.to_owned()],
        prefix: format!("bench-{name}-{}", std::process::id()),
        in_flight: IN_FLIGHT,
        batch_documents: BATCH,
        replicas: 0,
        ..ElasticsearchConfig::default()
    };
    let index = format!("{}-logs-{DAY}", config.prefix);
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    store.setup().await.unwrap();
    let pool = SingleNodeConnectionPool::new(Url::parse(url).unwrap());
    let transport = TransportBuilder::new(pool).disable_proxy().build().unwrap();
    send(&transport, Method::Put, &format!("/{index}"), None).await;

    let (started, cpu_before) = (Instant::now(), cpu());
    let next = Arc::new(AtomicUsize::new(0));
    let writers = (0..IN_FLIGHT).map(|_| {
        let (store, transport, batches) = (store.clone(), transport.clone(), batches.clone());
        let (next, index) = (next.clone(), index.clone());
        tokio::spawn(async move {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if through_store {
                    assert!(store.write_logs(batch.clone()).await.unwrap().is_empty());
                } else {
                    load(&transport, &index, batch).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), (cpu() - cpu_before).as_secs_f64());

    store.flush().await.unwrap();
    let count = send(&transport, Method::Get, &format!("/{index}/_count"), None).await;
    let documents: usize = batches.iter().map(|batch| batch.entries.len()).sum();
    assert!(count.starts_with(&format!("{{\"count\":{documents},")), "{count}");
    send(&transport, Method::Delete, &format!("/{index}"), None).await;
    for kind in ["logs", "windows", "dead-letters"] {
        send(&transport, Method::Delete, &format!("/_index_template/{}-{kind}", config.prefix), None).await;
    }
    let rate = documents as f64 / seconds;
    println!("{name}: {rate:>8.0} documents/s, {:.3} CPU-s per million", cpu_seconds / documents as f64 * 1e6);
    rate
}

/// One bulk request, with as little around it as there can be.
async fn load(transport: &Transport, index: &str, batch: &LogBatch) {
    let mut body = Vec::with_capacity(batch.bytes.len() + 64 * batch.entries.len());
    for entry in &batch.entries {
        body.extend_from_slice(b"{\"index\":{\"_id\":\"");
        body.extend_from_slice(batch.id(entry).as_bytes());
        body.extend_from_slice(b"\"}}\n");
        body.extend_from_slice(&batch.bytes[entry.start..=entry.end]);
    }
    let answer = send(transport, Method::Post, &format!("/{index}/_bulk?filter_path=errors"), Some(body.into())).await;
    assert_eq!(answer, "{\"errors\":false}");
}

async fn send(transport: &Transport, method: Method, path: &str, body: Option<Bytes>) -> String {
    let mut headers = HeaderMap::new();
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    }
    let response = transport.send(method, path, headers, None::<&()>, body, None).await.unwrap();
    let status = response.status_code();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{path}: {text}");
    text
}

/// CPU time of this process.
fn cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::uninit();
    #[allow(unsafe_code, reason = "the standard library does not tell CPU time")]
    // SAFETY: getrusage fills the structure that it is given when it returns 0.
    let usage: libc::rusage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Documents as the dataflow makes them: about 350 bytes of a record, and the computed fields.
fn batches(documents: usize) -> Vec<Arc<LogBatch>> {
    const SERVICES: [&str; 5] = ["auth-service", "payment-service", "inventory-service", "user-service", "api-gateway"];
    const MESSAGES: [&str; 4] = [
        "request completed",
        "payment accepted for order",
        "cache miss, loading from storage",
        "upstream took too long",
    ];
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let partition = Arc::new(PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number: 0 });
    let mut made = Vec::new();
    for first in (0..documents).step_by(BATCH) {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for offset in first..(first + BATCH).min(documents) {
            let timestamp_ms = START_MS + offset as u64;
            let start = bytes.len();
            let status = [200, 200, 200, 201, 404, 500][random.random_range(0..6)];
            let anomaly = status >= 400;
            let document = format!(
                "{{\"timestamp\":{timestamp_ms},\"service_name\":\"{}\",\"level\":\"{}\",\"message\":\"{} {}\",\
                 \"request_id\":\"req-{:016x}\",\"user_id\":\"user-{}\",\"path\":\"/api/v1/orders/{}\",\"method\":\"GET\",\
                 \"status_code\":{status},\"response_time_ms\":{}.{:03},\"error_code\":null,\"tags\":[\"eu-west\",\"canary\"],\
                 \"host\":\"node-{}\",\"topic\":\"logs_raw\",\"partition\":0,\"offset\":{offset},\"severity\":{},\
                 \"severity_level\":\"{}\",\"anomaly\":{anomaly},\"reasons\":[{}]}}",
                SERVICES[random.random_range(0..5)],
                if anomaly { "ERROR" } else { "INFO" },
                MESSAGES[random.random_range(0..4)],
                random.random_range(0..1_000_000),
                random.random::<u64>(),
                random.random_range(0..50_000),
                random.random_range(0..1_000_000),
                random.random_range(1..900),
                random.random_range(0..1_000),
                random.random_range(0..32),
                if anomaly { 100 } else { 0 },
                if anomaly { "CRITICAL" } else { "INFO" },
                if anomaly { "\"error_level\"" } else { "" },
            );
            bytes.extend_from_slice(document.as_bytes());
            entries.push(LogEntry { start, end: bytes.len(), offset: offset as u64, timestamp_ms });
            bytes.push(b'\n');
        }
        let next_offset = (first + entries.len()) as u64;
        made.push(Arc::new(LogBatch { partition: partition.clone(), bytes, entries, next_offset }));
    }
    made
}
