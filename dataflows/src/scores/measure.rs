//! The measures of a window that can be scored.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::detect::Measure;
use crate::numbers::{NumberMeasure, Statistic};

/// What of a window is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// A statistic of a number that the view names, such as `p95:bytes`, or of a rule, such as `rule:slow_response`; rises
    /// and falls count, of the share of a rule rises.
    Number(&'static NumberMeasure),
}

impl ScoredMeasure {
    /// All of them in the order of their numbers, but those of a view's own numbers.
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
            ScoredMeasure::Number(measure) => measure.name(),
        }
    }

    /// The measure of this name.
    pub fn named(name: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|measure| measure.name() == name);
        known.or_else(|| NumberMeasure::named(name).map(ScoredMeasure::Number))
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
            ScoredMeasure::Number(measure) => match measure.statistic() {
                Statistic::Count | Statistic::Sum | Statistic::Matches => Measure::RATE,
                Statistic::MatchRatio => Measure::RATIO,
                _ => Measure::NUMBER,
            },
            _ => Measure::LATENCY,
        }
    }

    /// Its value in a window of this width that has records, in a view that names these numbers.
    pub fn value(self, aggregate: &Aggregate, width_ms: u64, numbers: &[Arc<str>]) -> Option<f64> {
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
            ScoredMeasure::Number(measure) => {
                let place = numbers.iter().position(|name| **name == *measure.number())?;
                let number = aggregate.numbers.get(place)?;
                let statistic = measure.statistic();
                match measure.rule() {
                    Some(_) => statistic.of_rule(number.values.total(), aggregate.count()),
                    None => Some(statistic.of(&number.measures()?.into())),
                }
            }
        }
    }
}

impl Serialize for ScoredMeasure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ScoredMeasure {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl serde::de::Visitor<'_> for Name {
            type Value = ScoredMeasure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let names = ScoredMeasure::ALL.map(ScoredMeasure::name).join(", ");
                write!(
                    f,
                    "one of {names}, a statistic of one of the view's numbers such as mean:bytes, or rule:NAME or \
                     rule_ratio:NAME of one of its rules"
                )
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ScoredMeasure, E> {
                ScoredMeasure::named(name).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

impl JsonSchema for ScoredMeasure {
    fn schema_name() -> Cow<'static, str> {
        "ScoredMeasure".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["rate", "p95", "mean:bytes", "rule:slow_response"] })
    }
}
