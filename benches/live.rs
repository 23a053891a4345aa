//! The live state: bytes for each key and window, and what an update and a read cost while it is written to.
//!
//! `cargo bench --profile ci --bench live`. Memory is what the system says (`RssAnon`) beside what the state says of
//! itself; times are wall-clock times of the thread that writes or reads.

#[path = "../tests/support/synthetic.rs"]
mod synthetic;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodmark::api::{ApiConfig, ApiState, Health, serve};
use floodmark::live::{LiveView, WindowQuery};
use floodmark_dataflows::output::{LiveSink, ViewUpdate};
use floodmark_dataflows::view::Key;
use synthetic::{ListStore, TICK_MS, aggregate, feed, view, views};

const START: u64 = 1_769_846_400;

/// A field of `/proc/self/status` in bytes.
fn status(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1_024.0
}

/// 10 s windows of `keys` keys over ten minutes, `records` in each, one update a key and second.
fn fill(keys: usize, records: i64) {
    let live = Arc::new(LiveView::new(vec![view("per_service", &["service_name"], 10, 10)], TICK_MS, 0));
    let names: Vec<Key> = (0..keys).map(|key| Key::from_values(&[format!("service-{key:05}")])).collect();
    let (before, mut writer, mut spent, mut updates) = (status("RssAnon"), live.writer(), Duration::ZERO, 0);
    for time in START..START + 600 {
        let batch: Vec<ViewUpdate> = names
            .iter()
            .enumerate()
            .map(|(k, key)| ViewUpdate {
                view: 0,
                pane: Some(time / 10 * 10_000),
                key: Key(key.0.as_ref().into()),
                time,
                aggregate: aggregate(time * 1_000, records / 10, time * 7 + k as u64),
            })
            .collect();
        updates += batch.len();
        let started = Instant::now();
        writer.apply(time + 1, batch, Vec::new());
        spent += started.elapsed();
    }
    let memory = live.memory();
    println!(
        "{keys} keys x 60 windows of {records} records: {} bytes a key and window by its own count, {:.0} by RssAnon; \
         {:.2} µs an update",
        memory.bytes_per_row(),
        (status("RssAnon") - before) / memory.rows as f64,
        spent.as_secs_f64() * 1e6 / updates as f64
    );
    report("  the newest 50 windows", 200, || {
        let query = WindowQuery { size: 50, ..Default::default() };
        black_box(live.windows(0, &query));
    });
    report("  totals by key", 200, || {
        black_box(live.services());
    });
}

fn report(what: &str, times: usize, mut read: impl FnMut()) {
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let started = Instant::now();
            read();
            started.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("{what}: median {:?}, 99th percentile {:?}", took[times / 2], took[times * 99 / 100]);
}

/// `/logs/stats` over one kept connection while another thread writes a tick after the other without a pause.
fn over_http() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let live = Arc::new(LiveView::new(views(), TICK_MS, 2));
    let state = ApiState {
        alerts: None,
        live: live.clone(),
        store: Arc::new(ListStore::default()),
        progress: Arc::default(),
        metrics: Arc::default(),
        health: Arc::new(Health::default()),
        info: Arc::default(),
    };
    let config = ApiConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Default::default() };
    let server = runtime.block_on(serve(&config, state, std::future::pending())).expect("a free port");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (START..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|tick| feed(&live, tick, tick + 1));
        });
        let mut stream = TcpStream::connect(server.address).expect("the API listens");
        stream.set_nodelay(true).expect("a socket");
        let mut answer = [0; 4_096];
        report("/logs/stats over HTTP, the state being written to", 5_000, || {
            stream.write_all(b"GET /logs/stats HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("the connection is kept");
            assert!(stream.read(&mut answer).expect("an answer") > 100);
        });
        done.store(true, Ordering::Relaxed);
    });
}

fn main() {
    fill(20, 500);
    fill(1_000, 100);
    fill(10_000, 10);
    over_http();
}
