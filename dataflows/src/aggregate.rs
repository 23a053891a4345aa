//! What is kept per key and pane: the differences of the window collection.
//!
//! Counts, sums and bucket counts are an Abelian group. Minimum, maximum, first and last, and where the records are, have
//! no negation; they are kept beside as a semilattice, and an [`Aggregate`] counts as zero when its counts are zero, whatever its extremes.
//! That is sound here because a pane is only ever retracted as a whole: the retraction brings every count to zero at
//! once, the row disappears with its extremes, and no update reaches the pane afterwards (by the operator
//! that sums windows).

use differential_dataflow::difference::{IsZero, Monoid, Semigroup};
use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, bucket_of, signed_bucket_of};
use crate::numbers::{Number, NumberSource};
use crate::ranges::Ranges;
use crate::record::{Level, Record};
use crate::rules::Verdict;
use crate::time::Millis;

/// The number of HTTP status classes counted: 1xx to 5xx.
pub const STATUS_CLASSES: usize = 5;

/// Everything that is counted of a set of records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aggregate {
    /// Records by [`Level`], in the order of [`Level::ALL`].
    pub levels: [i64; Level::ALL.len()],
    /// Records by status class, 1xx first. Records without a status are in none.
    pub status: [i64; STATUS_CLASSES],
    /// Records whose severity reached the anomaly threshold.
    pub anomalies: i64,
    /// Sum of the response times, in microseconds.
    pub response_sum_us: i64,
    /// Response times by bucket.
    pub response: Histogram,
    /// Smallest response time in microseconds; `u64::MAX` when there is none.
    pub response_min_us: u64,
    /// Largest response time in microseconds; 0 when there is none.
    pub response_max_us: u64,
    /// Smallest event time; `u64::MAX` when there is none.
    pub first_ms: Millis,
    /// Largest event time; 0 when there is none.
    pub last_ms: Millis,
    /// Highest severity.
    pub max_severity: u8,
    /// Where the records are, in views that keep that.
    pub ranges: Ranges,
    /// The numbers and the rules that the view names, in its order; empty where it names none or where there are no records.
    pub numbers: Box<[Number]>,
}

impl Default for Aggregate {
    fn default() -> Self {
        Self {
            levels: [0; Level::ALL.len()],
            status: [0; STATUS_CLASSES],
            anomalies: 0,
            response_sum_us: 0,
            response: Histogram::default(),
            response_min_us: u64::MAX,
            response_max_us: 0,
            first_ms: u64::MAX,
            last_ms: 0,
            max_severity: 0,
            ranges: Ranges::default(),
            numbers: Box::default(),
        }
    }
}

impl Aggregate {
    /// The number of records.
    pub fn count(&self) -> i64 {
        self.levels.iter().sum()
    }

    /// Records of level `ERROR` or `FATAL`.
    pub fn errors(&self) -> i64 {
        self.levels[Level::Error as usize] + self.levels[Level::Fatal as usize]
    }

    /// The same counts with the opposite sign, and no extremes.
    pub fn negated(&self) -> Self {
        let mut response = self.response.clone();
        response.negate();
        Self {
            levels: self.levels.map(|n| -n),
            status: self.status.map(|n| -n),
            anomalies: -self.anomalies,
            response_sum_us: -self.response_sum_us,
            response,
            numbers: self.numbers.iter().map(Number::negated).collect(),
            ..Self::default()
        }
    }

    /// Heap bytes beyond the size of the struct.
    pub fn heap_bytes(&self) -> usize {
        let numbers = self.numbers.iter().map(|number| number.values.heap_bytes()).sum::<usize>();
        self.response.heap_bytes() + self.ranges.heap_bytes() + size_of_val(&*self.numbers) + numbers
    }
}

impl IsZero for Aggregate {
    fn is_zero(&self) -> bool {
        self.levels == [0; Level::ALL.len()]
            && self.status == [0; STATUS_CLASSES]
            && self.anomalies == 0
            && self.response_sum_us == 0
            && self.response.is_empty()
            && self.numbers.iter().all(IsZero::is_zero)
    }
}

impl Semigroup for Aggregate {
    fn plus_equals(&mut self, other: &Self) {
        for (a, b) in self.levels.iter_mut().zip(&other.levels) {
            *a += b;
        }
        for (a, b) in self.status.iter_mut().zip(&other.status) {
            *a += b;
        }
        self.anomalies += other.anomalies;
        self.response_sum_us += other.response_sum_us;
        self.response.add(&other.response);
        self.response_min_us = self.response_min_us.min(other.response_min_us);
        self.response_max_us = self.response_max_us.max(other.response_max_us);
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
        self.max_severity = self.max_severity.max(other.max_severity);
        self.ranges.join(&other.ranges);
        if self.numbers.is_empty() {
            self.numbers.clone_from(&other.numbers);
        } else {
            self.numbers.iter_mut().zip(&other.numbers).for_each(|(number, other)| number.add(other));
        }
    }
}

impl Monoid for Aggregate {
    fn zero() -> Self {
        Self::default()
    }
}

/// An [`Aggregate`] being filled record by record: response times are collected as bucket numbers and counted once,
/// in [`Accumulator::take`].
#[derive(Debug, Default)]
pub struct Accumulator {
    aggregate: Aggregate,
    buckets: Vec<u16>,
    /// The place of a number, and the bucket that its value is in.
    number_buckets: Vec<(u8, u16)>,
}

impl Accumulator {
    /// Adds one record, with these numbers of it.
    #[inline]
    pub fn add(&mut self, record: &Record<'_>, verdict: Verdict, numbers: &[NumberSource]) {
        let a = &mut self.aggregate;
        a.levels[record.level as usize] += 1;
        if let Some(status) = record.status_code {
            a.status[usize::from(status / 100 - 1)] += 1;
        }
        a.anomalies += i64::from(verdict.anomaly);
        if let Some(us) = record.response_time_us {
            a.response_sum_us += us as i64;
            a.response_min_us = a.response_min_us.min(us);
            a.response_max_us = a.response_max_us.max(us);
            self.buckets.push(bucket_of(us));
        }
        a.first_ms = a.first_ms.min(record.timestamp_ms);
        a.last_ms = a.last_ms.max(record.timestamp_ms);
        a.max_severity = a.max_severity.max(verdict.severity);
        if !numbers.is_empty() {
            self.add_numbers(record, verdict, numbers);
        }
    }

    fn add_numbers(&mut self, record: &Record<'_>, verdict: Verdict, sources: &[NumberSource]) {
        let numbers = &mut self.aggregate.numbers;
        if numbers.is_empty() {
            *numbers = vec![Number::default(); sources.len()].into();
        }
        for ((place, source), number) in (0..).zip(sources).zip(numbers) {
            let Some(value) = source.millionths(record, verdict) else { continue };
            number.sum += i128::from(value);
            number.min = number.min.min(value);
            number.max = number.max.max(value);
            self.number_buckets.push((place, signed_bucket_of(value)));
        }
    }

    /// The aggregate of what was added, leaving the accumulator empty with its buffers kept.
    pub fn take(&mut self) -> Aggregate {
        let mut aggregate = std::mem::take(&mut self.aggregate);
        aggregate.response = Histogram::from_unsorted(&mut self.buckets);
        self.buckets.clear();
        self.number_buckets.sort_unstable();
        for of_number in self.number_buckets.chunk_by(|a, b| a.0 == b.0) {
            let mut buckets: Vec<u16> = of_number.iter().map(|(_, bucket)| *bucket).collect();
            if let Some(number) = aggregate.numbers.get_mut(usize::from(of_number[0].0)) {
                number.values = Histogram::from_unsorted(&mut buckets);
            }
        }
        self.number_buckets.clear();
        aggregate
    }
}
