//! Any path and query as a request to the API: an answer, and none that says that something of ours is broken.

#![no_main]
#![allow(missing_docs, dead_code)]

#[path = "../../tests/support/synthetic.rs"]
mod synthetic;

use std::future::pending;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};

use floodmark::api::{ApiConfig, ApiInfo, ApiState, Health, Server, serve};
use floodmark::live::LiveView;
use floodmark::live::progress::ProgressBoard;
use floodmark::metrics::Metrics;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use synthetic::{ListStore, SERVICES, TICK_MS, feed, views};
use tokio::runtime::Runtime;

/// 2026-01-31, 08:00 UTC, in ticks.
const START: u64 = 1_769_846_400;

/// The API over made-up views and documents.
static API: LazyLock<(SocketAddr, Runtime, Server)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let live = Arc::new(LiveView::new(views(), TICK_MS, 2));
    feed(&live, START, START + 50);
    let documents = (0..50).map(|i| json!({ "timestamp": START * 1_000 + i, "service_name": SERVICES[i as usize % 5] }));
    let store = Arc::new(ListStore { documents: documents.collect(), ..Default::default() });
    let state = ApiState {
        alerts: None,
        live,
        store: store.clone(),
        progress: Arc::new(ProgressBoard::default()),
        metrics: Arc::new(Metrics::default()),
        health: Arc::new(Health::default().store(store)),
        info: Arc::new(ApiInfo { source: "made-up".into(), workers: 1, started_ms: 5 }),
    };
    let config = ApiConfig { listen: "127.0.0.1:0".parse().expect("an address"), ..ApiConfig::default() };
    let server = runtime.block_on(serve(&config, state, pending())).expect("the API");
    (server.address, runtime, server)
});

fuzz_target!(|target: &[u8]| {
    // What ends the line ends the target; a stream does not end by itself.
    let target: Vec<u8> = target.iter().copied().take_while(|byte| !b"\r\n ".contains(byte)).collect();
    if target.starts_with(b"stream") {
        return;
    }
    let mut stream = TcpStream::connect(API.0).expect("it listens");
    let request = [b"GET /", &target[..], b" HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"].concat();
    let mut answer = Vec::new();
    stream.write_all(&request).and_then(|()| stream.read_to_end(&mut answer)).expect("an answer");
    let status = answer.get(9..12).map(String::from_utf8_lossy).unwrap_or_default();
    // 501 and 503 are what this store cannot do.
    assert!(!status.starts_with('5') || ["501", "503"].contains(&&*status), "{status}");
});
