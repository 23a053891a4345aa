//! A live state fed with made-up updates, and a store of made-up documents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use floodmark::live::LiveView;
use floodmark::stores::{LogBatch, LogPage, LogQuery, Rejected, Store, StoreError, WindowWrite};
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::histogram::{Histogram, bucket_of};
use floodmark_dataflows::output::{LiveSink, ViewUpdate};
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, View};
use serde_json::Value;
use serde_json::value::RawValue;

pub const TICK_MS: u64 = 1_000;
pub const SERVICES: [&str; 5] = ["auth-service", "payment-service", "inventory-service", "user-service", "api-gateway"];

pub fn view(name: &str, key: &[&str], width_s: u64, slide_s: u64) -> View {
    View {
        name: name.into(),
        key: key.iter().map(|&field| field.into()).collect(),
        key_fields: Vec::new(),
        conditions: Vec::new(),
        condition_texts: Vec::new(),
        width_ms: width_s * 1_000,
        slide_ms: slide_s * 1_000,
        lateness_ms: 20_000,
        retention_ms: 600_000,
        max_keys: 100_000,
        forget_after_ms: 7 * 86_400_000,
        numbers: Vec::new(),
        number_sources: Vec::new(),
        scored: Vec::new(),
        keeps_offsets: false,
        is_watched: false,
        evidence_from: None,
    }
}

/// `per_service` and `per_path`, and one that is not listed.
pub fn views() -> Vec<View> {
    vec![
        view("per_service", &["service_name"], 10, 10),
        view("per_path", &["service_name", "path"], 60, 20),
        view("__services", &["service_name"], 10, 10),
    ]
}

/// `count` records of one key at a time; the numbers vary with `seed` alone.
pub fn aggregate(at: Millis, count: i64, seed: u64) -> Aggregate {
    let mix = |n: u64| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let us: Vec<u64> = (0..count as u64).map(|n| 2_000 + mix(n) % 180_000).collect();
    let mut aggregate = Aggregate {
        response_sum_us: us.iter().sum::<u64>() as i64,
        response: Histogram::from_unsorted(&mut us.iter().map(|&us| bucket_of(us)).collect::<Vec<_>>()),
        response_min_us: us.iter().copied().min().unwrap_or(u64::MAX),
        response_max_us: us.iter().copied().max().unwrap_or(0),
        first_ms: at,
        last_ms: at,
        max_severity: 100,
        anomalies: count / 10,
        ..Default::default()
    };
    aggregate.levels[Level::Error as usize] = count / 20;
    aggregate.levels[Level::Info as usize] = count - count / 20;
    aggregate.status = [0, count - count / 20, 0, 0, count / 20];
    aggregate
}

/// Brings the live state from one tick to a later one.
pub fn feed(live: &Arc<LiveView>, from: Tick, to: Tick) {
    let mut updates = Vec::new();
    for time in from..to {
        for (s, service) in (0u64..).zip(SERVICES) {
            for late_ms in [0, 35_000] {
                let at = (time * TICK_MS).saturating_sub(late_ms);
                let wave = 30 + ((time as f64 / 40.0 + s as f64).sin() * 20.0) as i64;
                let count = if late_ms > 0 { i64::from(time % 7 == s) } else { wave + s as i64 * 10 };
                if count > 0 {
                    push(&mut updates, time, at, service, aggregate(at, count, time * 31 + s));
                }
            }
        }
    }
    live.writer().apply(to, updates, Vec::new());
}

fn push(updates: &mut Vec<ViewUpdate>, time: Tick, at: Millis, service: &str, aggregate: Aggregate) {
    for (id, view) in (0..).zip(views()) {
        let values = if view.key.len() == 2 { vec![service, "/v1/a b"] } else { vec![service] };
        updates.push(ViewUpdate {
            view: id,
            pane: Some(at - at % view.pane_ms()),
            key: Key::from_values(&values),
            time,
            aggregate: aggregate.clone(),
        });
    }
}

/// Answers searches from a list, newest first, and can be made to fail.
#[derive(Default)]
pub struct ListStore {
    pub documents: Vec<Value>,
    pub down: AtomicBool,
}

impl ListStore {
    fn state(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the list store does not answer".into()));
        }
        Ok(())
    }
}

fn matches(document: &Value, query: &LogQuery) -> bool {
    let at = document["timestamp"].as_u64().unwrap_or(0);
    query.service_name.as_ref().is_none_or(|name| document["service_name"] == **name)
        && query.level.as_ref().is_none_or(|level| document["level"] == **level)
        && query.status_code.is_none_or(|status| document["status_code"] == status)
        && query.anomaly.is_none_or(|anomaly| document["anomaly"] == anomaly)
        && query.from_ms.is_none_or(|from| at >= from)
        && query.to_ms.is_none_or(|to| at < to)
        && query.text.as_ref().is_none_or(|text| document["message"].as_str().unwrap_or("").contains(text.as_str()))
}

#[async_trait]
impl Store for ListStore {
    fn name(&self) -> &'static str {
        "list"
    }

    async fn write_logs(&self, _: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        Ok(Vec::new())
    }

    async fn write_windows(&self, _: Vec<WindowWrite>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn search_logs(&self, query: &LogQuery) -> Result<LogPage, StoreError> {
        self.state()?;
        let skip = match &query.cursor {
            Some(cursor) => cursor.parse().map_err(|_| StoreError::BadCursor)?,
            None => query.skip,
        };
        let found: Vec<&Value> = self.documents.iter().filter(|document| matches(document, query)).collect();
        let page: Vec<_> = found.iter().skip(skip).take(query.size).map(|d| d.to_string()).collect();
        let behind = skip + page.len();
        let documents = page.into_iter().map(|json| RawValue::from_string(json).expect("it was JSON")).collect();
        Ok(LogPage {
            total: found.len() as u64,
            documents,
            next_cursor: (behind < found.len()).then(|| behind.to_string()),
        })
    }

    async fn health(&self) -> Result<String, StoreError> {
        self.state().map(|()| format!("{} documents", self.documents.len()))
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
