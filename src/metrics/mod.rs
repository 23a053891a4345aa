//! Counters and gauges for Prometheus.
//!
//! In: counts that the workers and the API add to as they go, and collectors: closures that each part plugs in and
//! that are asked at each scrape. Out: the OpenMetrics text of `/metrics`. Nothing here blocks or fails.
//!
//! - [`process`]: CPU time and memory of this process.
//! - [`samples`]: what a collector writes into.
//! - [`parts`]: collectors for the live state, the progress board and the process itself.
//!
//! Labels are bounded: at most [`MAX_SERIES`] series a metric. What exceeds that is left out and counted in
//! `floodmark_metrics_series_omitted`.

mod parts;
pub mod process;
mod samples;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::input::PartitionInfo;
use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use samples::Samples;

/// The largest number of series of one metric.
pub const MAX_SERIES: usize = 1_000;

type Labels<const N: usize> = [(&'static str, String); N];
type Collect = Box<dyn Fn(&mut Samples) + Send + Sync>;
type ReadCounts = BTreeMap<(Arc<str>, i32), ReadCount>;
type Durations = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    collectors: Collectors,
    read: Arc<Mutex<ReadCounts>>,
    requests: Family<Labels<2>, Counter>,
    durations: Durations,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("floodmark");
        let requests = Family::<Labels<2>, Counter>::default();
        let durations = Durations::new_with_constructor(request_histogram);
        let collectors = Collectors::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version of this build", Info::new(version));
        registry.register("http_requests", "Requests answered, by route and status", requests.clone());
        let help = "Time until the answer was ready, by route";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, durations.clone());
        registry.register_collector(Box::new(collectors.clone()));
        let metrics = Self { registry, collectors, read: Arc::default(), requests, durations };
        metrics.collect(parts::process);
        let read = metrics.read.clone();
        metrics.collect(move |samples| collect_read(&read.lock(), samples));
        metrics
    }
}

fn request_histogram() -> Histogram {
    Histogram::new([0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Metrics {
    /// Counts records read from a partition. For a batch, not for each record.
    pub fn read(&self, partition: &PartitionInfo, records: u64, bytes: u64) {
        let mut counts = self.read.lock();
        let mut at = (partition.topic.clone(), partition.number);
        if counts.len() + 1 >= MAX_SERIES && !counts.contains_key(&at) {
            at = ("other".into(), -1);
        }
        let count = counts.entry(at).or_default();
        count.records += records;
        count.bytes += bytes;
    }

    /// Counts a request that was answered. `route` is the pattern of the path, never the path itself.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        self.requests.get_or_create(&[("route", route.into()), ("status", status.to_string())]).inc();
        self.durations.get_or_create(&[("route", route.into())]).observe(took.as_secs_f64());
    }

    /// Plugs in a collector: it is asked at each scrape, from any thread, and must not block.
    pub fn collect(&self, collector: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.collectors.0.write().push(Box::new(collector));
    }

    /// Plugs in the live state.
    pub fn watch_live(&self, live: Arc<crate::live::LiveView>) {
        self.collect(move |samples| parts::live(&live, samples));
    }

    /// Plugs in the progress board. Clocks and frontiers are given in seconds, from ticks of this length.
    pub fn watch_progress(&self, board: Arc<crate::live::progress::ProgressBoard>, tick_ms: u64) {
        self.collect(move |samples| {
            parts::progress(&board, tick_ms, samples);
            parts::audit(&board, samples);
        });
    }

    /// The OpenMetrics text of all metrics.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(16 << 10);
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[derive(Debug, Default)]
struct ReadCount {
    records: u64,
    bytes: u64,
}

fn collect_read(counts: &ReadCounts, samples: &mut Samples) {
    for ((topic, number), count) in counts {
        let labels = [("topic", &**topic), ("partition", &*number.to_string())];
        samples.counter("source_records", "Records read, by partition", &labels, count.records as f64);
        samples.counter("source_bytes", "Bytes of records read, by partition", &labels, count.bytes as f64);
    }
}

#[derive(Clone, Default)]
struct Collectors(Arc<RwLock<Vec<Collect>>>);

impl fmt::Debug for Collectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} collectors", self.0.read().len())
    }
}

impl Collector for Collectors {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let started = Instant::now();
        let mut samples = Samples::default();
        self.0.read().iter().for_each(|collect| collect(&mut samples));
        samples.gauge("collect_seconds", "Time that the collectors took", &[], started.elapsed().as_secs_f64());
        samples.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> PartitionInfo {
        PartitionInfo { topic: "logs".into(), identity: "logs".into(), number }
    }

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.read(&partition(3), 10, 3_500);
        metrics.read(&partition(3), 5, 100);
        metrics.request("/views/{name}", 200, Duration::from_millis(2));
        metrics.collect(|samples| samples.gauge("queue_bytes", "Waiting", &[("store", "a \"b\"")], 7.0));
        metrics.collect(|samples| samples.gauge("queue_bytes", "Waiting", &[("store", "c")], 8.0));
        metrics.collect(|samples| samples.counter("store_retries", "Requests sent again", &[], 2.0));
        let text = metrics.text().unwrap();
        for line in [
            "floodmark_source_records_total{topic=\"logs\",partition=\"3\"} 15.0",
            "floodmark_source_bytes_total{topic=\"logs\",partition=\"3\"} 3600.0",
            "floodmark_http_requests_total{route=\"/views/{name}\",status=\"200\"} 1",
            "floodmark_http_request_duration_seconds_bucket{le=\"0.0025\",route=\"/views/{name}\"} 1",
            "floodmark_queue_bytes{store=\"a \\\"b\\\"\"} 7.0",
            "floodmark_queue_bytes{store=\"c\"} 8.0",
            "floodmark_store_retries_total 2.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE floodmark_queue_bytes gauge").count(), 1, "one family, two collectors");
    }

    #[test]
    fn series_are_bounded() {
        let metrics = Metrics::default();
        (0..MAX_SERIES as i32 + 50).for_each(|number| metrics.read(&partition(number), 1, 1));
        let text = metrics.text().unwrap();
        let series = text.lines().filter(|line| line.starts_with("floodmark_source_records_total{")).count();
        assert_eq!(series, MAX_SERIES, "the last takes all others");
        metrics.collect(|samples| {
            (0..MAX_SERIES + 7).for_each(|i| samples.gauge("many", "Many", &[("i", &i.to_string())], 0.0));
        });
        assert!(metrics.text().unwrap().contains("floodmark_metrics_series_omitted 7"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let text = Metrics::default().text().unwrap();
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_anonymous_memory_bytes"] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("floodmark_{name} "))).unwrap();
            assert!(line.parse::<f64>().unwrap() >= 0.0);
        }
    }
}
