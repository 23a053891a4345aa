//! The measures of a window that can be scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::detect::Measure;

/// What of a window is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoredMeasure {
    /// Records per second; falls and silence count as well as rises.
    Rate,
    /// The share of records of level `ERROR` or `FATAL`; rises count.
    ErrorRatio,
    /// The share of records whose severity reached the anomaly threshold; rises count.
    AnomalyRatio,
    /// Mean response time in milliseconds; rises count.
    Mean,
    /// Median response time in milliseconds; rises count.
    P50,
    /// 90th percentile of response times in milliseconds; rises count.
    P90,
    /// 95th percentile of response times in milliseconds; rises count.
    P95,
    /// 99th percentile of response times in milliseconds; rises count.
    P99,
    /// Whether the key's pattern comes for the first time, judged by how often the rest of the key gets new patterns.
    New,
}

impl ScoredMeasure {
    /// All of them, in the order of their numbers.
    pub const ALL: [ScoredMeasure; 9] = [
        ScoredMeasure::Rate,
        ScoredMeasure::ErrorRatio,
        ScoredMeasure::AnomalyRatio,
        ScoredMeasure::Mean,
        ScoredMeasure::P50,
        ScoredMeasure::P90,
        ScoredMeasure::P95,
        ScoredMeasure::P99,
        ScoredMeasure::New,
    ];

    /// The name in configuration and documents.
    pub fn name(self) -> &'static str {
        match self {
            ScoredMeasure::Rate => "rate",
            ScoredMeasure::ErrorRatio => "error_ratio",
            ScoredMeasure::AnomalyRatio => "anomaly_ratio",
            ScoredMeasure::Mean => "mean",
            ScoredMeasure::P50 => "p50",
            ScoredMeasure::P90 => "p90",
            ScoredMeasure::P95 => "p95",
            ScoredMeasure::P99 => "p99",
            ScoredMeasure::New => "new",
        }
    }

    /// Whether it is judged against a baseline.
    pub fn has_baseline(self) -> bool {
        self != ScoredMeasure::New
    }

    /// How it is judged against a baseline; [`ScoredMeasure::New`] has none.
    pub fn measure(self) -> Measure {
        match self {
            ScoredMeasure::Rate => Measure::RATE,
            ScoredMeasure::ErrorRatio | ScoredMeasure::AnomalyRatio => Measure::RATIO,
            _ => Measure::LATENCY,
        }
    }

    /// Its value in a window of this width that has records.
    pub fn value(self, aggregate: &Aggregate, width_ms: u64) -> Option<f64> {
        let count = aggregate.count() as f64;
        let quantile = |permille| {
            let (least, most) = (aggregate.response_min_us, aggregate.response_max_us);
            (least <= most)
                .then(|| aggregate.response.quantile(permille).unwrap_or(most).clamp(least, most) as f64 / 1e3)
        };
        match self {
            ScoredMeasure::Rate => Some(count * 1e3 / width_ms as f64),
            ScoredMeasure::ErrorRatio => Some(aggregate.errors() as f64 / count),
            ScoredMeasure::AnomalyRatio => Some(aggregate.anomalies as f64 / count),
            ScoredMeasure::Mean => {
                let timed = aggregate.response.total();
                (timed > 0).then(|| aggregate.response_sum_us as f64 / timed as f64 / 1e3)
            }
            ScoredMeasure::P50 => quantile(500),
            ScoredMeasure::P90 => quantile(900),
            ScoredMeasure::P95 => quantile(950),
            ScoredMeasure::P99 => quantile(990),
            ScoredMeasure::New => None,
        }
    }
}
