//! What a collector writes into: samples, put together by metric.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::MAX_SERIES;

/// The samples of one scrape. Several collectors may add to the same metric.
#[derive(Debug, Default)]
pub struct Samples {
    metrics: BTreeMap<&'static str, Metric>,
    omitted: usize,
}

#[derive(Debug)]
struct Metric {
    help: &'static str,
    counter: bool,
    series: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Samples {
    /// Adds a value that only grows. `name` without `floodmark_` before and `_total` behind.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.add(name, help, true, labels, value);
    }

    /// Adds a value that goes up and down. `name` without `floodmark_` before.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.add(name, help, false, labels, value);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        counter: bool,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        let metric = self.metrics.entry(name).or_insert(Metric { help, counter, series: Vec::new() });
        if metric.series.len() == MAX_SERIES {
            self.omitted += 1;
            return;
        }
        metric.series.push((labels.iter().map(|&(name, value)| (name, value.to_owned())).collect(), value));
    }

    pub(super) fn encode(mut self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Series left out of this answer because their metric has too many";
        self.gauge("metrics_series_omitted", help, &[], self.omitted as f64);
        for (name, metric) in &self.metrics {
            let kind = if metric.counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for (labels, value) in &metric.series {
                if labels.is_empty() {
                    write_value(&mut family, metric.counter, *value)?;
                } else {
                    write_value(&mut family.encode_family(labels)?, metric.counter, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn write_value(encoder: &mut prometheus_client::encoding::MetricEncoder<'_>, counter: bool, value: f64) -> fmt::Result {
    if counter { encoder.encode_counter::<NoLabelSet, _, f64>(&value, None) } else { encoder.encode_gauge(&value) }
}
