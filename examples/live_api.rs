//! The HTTP API on a live state that is fed with made-up updates, a tick a second: how the two are put together
//! without a source and an engine. `cargo run --example live_api`, then look at the address that it prints.

#[path = "../tests/support/synthetic.rs"]
mod synthetic;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodmark::api::{ApiConfig, ApiInfo, ApiState, Health, serve};
use floodmark::live::LiveView;
use floodmark::live::progress::ProgressBoard;
use floodmark::metrics::Metrics;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::PartitionProgress;
use serde_json::json;
use synthetic::{ListStore, SERVICES, TICK_MS, feed, views};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let documents = (0..500).map(|i: u64| {
        json!({
            "timestamp": (now - i) * 1_000, "service_name": SERVICES[i as usize % 5], "level": "ERROR", "anomaly": true,
            "status_code": 503, "message": format!("upstream <timeout> after {i} ms, giving up & answering 503"),
        })
    });
    let store = Arc::new(ListStore { documents: documents.collect(), ..Default::default() });
    let live = Arc::new(LiveView::new(views(), TICK_MS, 2));
    let progress = Arc::new(ProgressBoard::default());
    let metrics = Arc::new(Metrics::default());
    metrics.watch_live(live.clone());
    metrics.watch_progress(progress.clone(), TICK_MS);
    let state = ApiState {
        alerts: None,
        live: live.clone(),
        store: store.clone(),
        progress: progress.clone(),
        metrics,
        health: Arc::new(Health::default().store(store)),
        info: Arc::new(ApiInfo { source: "made-up".into(), workers: 1, started_ms: now * 1_000 }),
    };
    let config = ApiConfig { listen: "127.0.0.1:0".parse()?, ..Default::default() };
    let server = serve(&config, state, async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("http://{}/", server.address);

    let mut tick = now;
    feed(&live, now - 600, tick);
    let feeding = tokio::spawn(async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            feed(&live, tick, tick + 1);
            tick += 1;
            for number in 0..4 {
                let partition = PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number };
                let clock = Some(tick - u64::from(number == 2));
                let next_offset = tick % 100_000 * 60;
                let at = PartitionProgress { next_offset, clock, idle: number == 3, ..Default::default() };
                progress.update(0, &Arc::new(partition.clone()), at);
                progress.set_ends([(&partition, &(next_offset + number as u64 * 7))]);
            }
            progress.set_frontier(0, tick);
        }
    });
    server.finished().await;
    feeding.abort();
    Ok(())
}
