//! Numbers and rules that a view names: what is kept of them per key and pane, and what is said of them.
//!
//! Numbers are kept in millionths, so that sums are the same in whatever order and on whichever worker they are added. What
//! a record has there is a number within [`MOST`] or the record was refused when decoding; a record without the field adds
//! nothing. A rule is a number that is 1 in the records that it matches, and that others do not have; its name has
//! [`RULE`] before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use differential_dataflow::difference::IsZero;
use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, signed_midpoint_of};
use crate::record::{FieldRef, Record};
use crate::rules::Verdict;

/// Numbers that a view may name, and rules.
pub const MAX_NUMBERS: usize = 8;
/// Stands before the names of rules among those of numbers.
pub const RULE: &str = "rule:";
/// The largest number, and negated the smallest: its millionths fit 64 bits.
pub const MOST: i64 = 9_000_000_000_000;
/// What to say where a number is something else.
pub(crate) const NUMBER_EXPECTED: &str = "a number from -9e12 to 9e12, as a view names this field in `numbers`";

const MILLION: i64 = 1_000_000;

/// Millionths of a JSON number, integers exactly and others rounded; `None` beyond [`MOST`].
pub(crate) fn millionths(number: &str) -> Option<i64> {
    if let Ok(whole) = number.parse::<i64>() {
        return (-MOST..=MOST).contains(&whole).then(|| whole * MILLION);
    }
    let number: f64 = number.parse().ok()?;
    (number.abs() <= MOST as f64).then(|| (number * MILLION as f64).round() as i64)
}

/// Where in a record a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberSource {
    /// In a field.
    Field(FieldRef),
    /// It is 1 where the rule of this place matched.
    Rule(u8),
}

impl NumberSource {
    /// The number of a record, in millionths; `None` where the record does not have it.
    #[inline]
    pub(crate) fn millionths(self, record: &Record<'_>, verdict: Verdict) -> Option<i64> {
        match self {
            NumberSource::Field(field) => record.millionths(field),
            NumberSource::Rule(place) => (verdict.matched >> place & 1 == 1).then_some(MILLION),
        }
    }
}

fn shown(millionths: i64) -> f64 {
    millionths as f64 / MILLION as f64
}

/// What is counted of one number. All but the extremes adds up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Number {
    /// Sum in millionths.
    pub sum: i128,
    /// Values in millionths by bucket, negative ones mirrored at zero.
    pub values: Histogram,
    /// Smallest value in millionths; `i64::MAX` when there is none.
    pub min: i64,
    /// Largest value in millionths; `i64::MIN` when there is none.
    pub max: i64,
}

impl Default for Number {
    fn default() -> Self {
        Self { sum: 0, values: Histogram::default(), min: i64::MAX, max: i64::MIN }
    }
}

impl IsZero for Number {
    fn is_zero(&self) -> bool {
        self.sum == 0 && self.values.is_empty()
    }
}

impl Number {
    pub(crate) fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.values.add(&other.values);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    pub(crate) fn negated(&self) -> Self {
        let mut values = self.values.clone();
        values.negate();
        Self { sum: -self.sum, values, ..Self::default() }
    }

    /// What is said of it; `None` when no record has it.
    pub fn measures(&self) -> Option<NumberMeasures> {
        let percentile = |permille| {
            let bucket = self.values.nearest_rank(permille)?;
            Some(signed_midpoint_of(bucket).clamp(self.min, self.max))
        };
        Some(NumberMeasures {
            count: self.values.total(),
            sum: self.sum,
            min: self.min,
            max: self.max,
            percentiles: [percentile(500)?, percentile(900)?, percentile(950)?, percentile(990)?],
        })
    }
}

/// What is said of a number, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberMeasures {
    /// The number of records that have it.
    pub count: i64,
    /// Sum.
    pub sum: i128,
    /// Smallest.
    pub min: i64,
    /// Largest.
    pub max: i64,
    /// Median, 90th, 95th and 99th percentile (nearest rank), within 1 % and clamped to the exact minimum and maximum.
    pub percentiles: [i64; 4],
}

/// A number of a window: count, extremes, sum and mean are exact to the millionth, the percentiles within 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberSummary {
    /// The number of records that have it.
    pub count: i64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Sum.
    pub sum: f64,
    /// Sum divided by the number of records that have it.
    pub mean: f64,
    /// Median (nearest rank).
    pub p50: f64,
    /// 90th percentile (nearest rank).
    pub p90: f64,
    /// 95th percentile (nearest rank).
    pub p95: f64,
    /// 99th percentile (nearest rank).
    pub p99: f64,
}

impl From<NumberMeasures> for NumberSummary {
    fn from(of: NumberMeasures) -> Self {
        let [p50, p90, p95, p99] = of.percentiles.map(shown);
        Self {
            count: of.count,
            min: shown(of.min),
            max: shown(of.max),
            sum: of.sum as f64 / MILLION as f64,
            mean: (of.sum as f64 / of.count as f64).round() / MILLION as f64,
            p50,
            p90,
            p95,
            p99,
        }
    }
}

/// The numbers of a document by their names, those that some record has.
pub(crate) fn summaries(names: &[Arc<str>], measures: &[Option<NumberMeasures>]) -> BTreeMap<Arc<str>, NumberSummary> {
    let fields = names.iter().zip(measures).filter(|(name, _)| !name.starts_with(RULE));
    fields.filter_map(|(name, of)| Some((name.clone(), (*of)?.into()))).collect()
}

/// The records that each rule matched, by the names of the rules; those that matched any.
pub(crate) fn matches(names: &[Arc<str>], measures: &[Option<NumberMeasures>]) -> BTreeMap<Arc<str>, i64> {
    let of_rule =
        |(name, of): (&Arc<str>, &Option<NumberMeasures>)| Some((name.strip_prefix(RULE)?.into(), (*of)?.count));
    names.iter().zip(measures).filter_map(of_rule).collect()
}

/// What of a number, or of a rule, is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statistic {
    /// How many records have it.
    Count,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The median.
    P50,
    /// The 90th percentile.
    P90,
    /// The 95th percentile.
    P95,
    /// The 99th percentile.
    P99,
    /// How many records a rule matched.
    Matches,
    /// The share of records that a rule matched.
    MatchRatio,
}

impl Statistic {
    const ALL: [(Statistic, &str); 11] = [
        (Statistic::Count, "count"),
        (Statistic::Min, "min"),
        (Statistic::Max, "max"),
        (Statistic::Sum, "sum"),
        (Statistic::Mean, "mean"),
        (Statistic::P50, "p50"),
        (Statistic::P90, "p90"),
        (Statistic::P95, "p95"),
        (Statistic::P99, "p99"),
        (Statistic::Matches, "rule"),
        (Statistic::MatchRatio, "rule_ratio"),
    ];

    /// Its value, of a number.
    pub fn of(self, number: &NumberSummary) -> f64 {
        match self {
            Statistic::Count | Statistic::Matches | Statistic::MatchRatio => number.count as f64,
            Statistic::Min => number.min,
            Statistic::Max => number.max,
            Statistic::Sum => number.sum,
            Statistic::Mean => number.mean,
            Statistic::P50 => number.p50,
            Statistic::P90 => number.p90,
            Statistic::P95 => number.p95,
            Statistic::P99 => number.p99,
        }
    }

    /// Its value, of a rule that matched so many of so many records; `None` where it is not of a rule, or of no records.
    pub fn of_rule(self, matches: i64, records: i64) -> Option<f64> {
        match self {
            Statistic::Matches => Some(matches as f64),
            Statistic::MatchRatio => (records > 0).then(|| matches as f64 / records as f64),
            _ => None,
        }
    }
}

/// A statistic of a number or of a rule by its name, such as `p95:bytes` or `rule:slow_response`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumberMeasure {
    name: String,
    statistic: Statistic,
    /// As the view names it.
    number: String,
}

impl NumberMeasure {
    /// The measure of this name; `None` if it is none. Measures are as many as configurations name, and live as long as
    /// the process.
    pub fn named(name: &str) -> Option<&'static Self> {
        static KNOWN: Mutex<BTreeMap<String, &'static NumberMeasure>> = Mutex::new(BTreeMap::new());
        let (statistic, of) = name.split_once(':')?;
        let (statistic, _) = *Statistic::ALL.iter().find(|(_, known)| *known == statistic && !of.is_empty())?;
        let number = match statistic {
            Statistic::Matches | Statistic::MatchRatio => format!("{RULE}{of}"),
            // Of a rule there is nothing else.
            _ if of.starts_with(RULE) => return None,
            _ => of.to_owned(),
        };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let leaked = || &*Box::leak(Box::new(Self { name: name.to_owned(), statistic, number }));
        Some(known.entry(name.to_owned()).or_insert_with(leaked))
    }

    /// Its name in configuration and documents.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the number, as the view has it.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// The name of the rule, if it is of one.
    pub fn rule(&self) -> Option<&str> {
        self.number.strip_prefix(RULE)
    }

    /// What of it is looked at.
    pub fn statistic(&self) -> Statistic {
        self.statistic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_in_millionths() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-12", Some(-12_000_000)),
            ("1.25", Some(1_250_000)),
            ("-2e3", Some(-2_000_000_000)),
            ("123456789012", Some(123_456_789_012_000_000)),
            ("9000000000000", Some(MOST * MILLION)),
            ("9000000000001", None),
            ("-1e13", None),
            ("1e999", None),
        ] {
            assert_eq!(millionths(text), expected, "{text}");
        }
    }

    #[test]
    fn measures_have_names() {
        let measure = NumberMeasure::named("p95:queue.depth").unwrap();
        assert_eq!((measure.name(), measure.number()), ("p95:queue.depth", "queue.depth"));
        assert_eq!(measure.statistic(), Statistic::P95);
        assert!(std::ptr::eq(measure, NumberMeasure::named("p95:queue.depth").unwrap()));
        let [matches, ratio] = ["rule:slow", "rule_ratio:slow"].map(|name| NumberMeasure::named(name).unwrap());
        assert_eq!((matches.rule(), ratio.rule(), measure.rule()), (Some("slow"), Some("slow"), None));
        assert_eq!([matches, ratio].map(|of| of.statistic().of_rule(3, 12)), [Some(3.0), Some(0.25)]);
        assert_eq!([matches, ratio, measure].map(|of| of.statistic().of_rule(0, 0)), [Some(0.0), None, None]);
        for name in ["p95", "p95:", "p42:bytes", ":bytes", "rule:", "mean:rule:slow", "count:rule:slow"] {
            assert_eq!(NumberMeasure::named(name), None, "{name}");
        }
    }
}
