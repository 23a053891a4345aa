//! What is counted of a key's records for good: everything of an [`Aggregate`] that takes a fixed number of bytes.

use std::collections::BTreeMap;

use floodmark_dataflows::aggregate::{Aggregate, STATUS_CLASSES};
use floodmark_dataflows::output::StatusClass;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

/// Counts since the start, of one key or of several. Percentiles are not among them: their buckets would take up to
/// 18 KiB a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    levels: [i64; Level::ALL.len()],
    status: [i64; STATUS_CLASSES],
    /// Records whose severity reached the anomaly threshold.
    pub anomalies: i64,
    /// Records that have a response time.
    pub response_count: i64,
    /// Sum of the response times, in microseconds.
    pub response_sum_us: i64,
    /// Records late for every window they are in: they corrected it after it was final.
    pub late: i64,
    /// Records too late for every window they would have been in.
    pub too_late: i64,
    /// Highest severity.
    pub max_severity: u8,
    /// Smallest event time; `u64::MAX` when there is none.
    pub first_ms: Millis,
    /// Largest event time; 0 when there is none.
    pub last_ms: Millis,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            levels: [0; Level::ALL.len()],
            status: [0; STATUS_CLASSES],
            anomalies: 0,
            response_count: 0,
            response_sum_us: 0,
            late: 0,
            too_late: 0,
            max_severity: 0,
            first_ms: u64::MAX,
            last_ms: 0,
        }
    }
}

impl Totals {
    /// The totals of these records alone, none of them late.
    pub fn of(aggregate: &Aggregate) -> Self {
        Self {
            levels: aggregate.levels,
            status: aggregate.status,
            anomalies: aggregate.anomalies,
            response_count: aggregate.response.total(),
            response_sum_us: aggregate.response_sum_us,
            late: 0,
            too_late: 0,
            max_severity: aggregate.max_severity,
            first_ms: aggregate.first_ms,
            last_ms: aggregate.last_ms,
        }
    }

    /// The sum of several.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Totals>) -> Self {
        let mut sum = Self::default();
        parts.into_iter().for_each(|part| sum.add(part));
        sum
    }

    /// Adds what `other` counts.
    pub fn add(&mut self, other: &Totals) {
        self.levels.iter_mut().zip(&other.levels).for_each(|(a, b)| *a += b);
        self.status.iter_mut().zip(&other.status).for_each(|(a, b)| *a += b);
        self.anomalies += other.anomalies;
        self.response_count += other.response_count;
        self.response_sum_us += other.response_sum_us;
        self.late += other.late;
        self.too_late += other.too_late;
        self.max_severity = self.max_severity.max(other.max_severity);
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
    }

    /// The number of records.
    pub fn count(&self) -> i64 {
        self.levels.iter().sum()
    }

    /// Records of level `ERROR` or `FATAL`.
    pub fn errors(&self) -> i64 {
        self.levels[Level::Error as usize] + self.levels[Level::Fatal as usize]
    }

    /// Records by level; levels without records are left out.
    pub fn levels(&self) -> BTreeMap<Level, i64> {
        Level::ALL.into_iter().zip(self.levels).filter(|(_, n)| *n != 0).collect()
    }

    /// Records by status class; classes without records are left out.
    pub fn status(&self) -> BTreeMap<StatusClass, i64> {
        StatusClass::ALL.into_iter().zip(self.status).filter(|(_, n)| *n != 0).collect()
    }
}
