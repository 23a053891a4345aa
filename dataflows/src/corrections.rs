//! Corrections: what late records did to a window of a key, and what the window was before.
//!
//! A late tick is a tick at which late records changed a window; each raises its revision by one. The state of a
//! revision is that of every record up to its late tick, so revisions depend on the records alone: not on batches,
//! workers, or how many ticks an advance of the frontier passed.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Aggregate, STATUS_CLASSES};
use crate::numbers::{Number, NumberMeasures};
use crate::record::Level;
use crate::time::{Millis, Tick};

/// Earlier states kept of a window of a key. A window with more corrections than this is fed by a source that is late
/// as a rule, and what helps there is a longer `allowed_lateness`; at 200 bytes each, this many cost no more than the
/// window's own buckets.
pub const KEPT_REVISIONS: usize = 16;

/// The corrections of a window of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Distinct ticks at which late records changed the window.
    pub revision: u32,
    /// The last of these ticks.
    pub last: Tick,
    /// Late records in the window.
    pub records: i64,
    /// The states before, newest last: the last is that of `revision` − 1, just before `last`. At most
    /// [`KEPT_REVISIONS`]; a window that began with a late record has no state of revision 0.
    pub history: VecDeque<Revision>,
}

/// The state of a window of a key at an earlier revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The late tick that made it; 0 for revision 0.
    pub last: Tick,
    /// Late records in it.
    pub records: i64,
    /// What was counted.
    pub measures: Measures,
}

impl Late {
    /// Begins the next revision, made at `tick` out of the state `before`. Its records are added to `records` by the
    /// caller. `before` may be left out when at least [`KEPT_REVISIONS`] revisions follow at once.
    pub fn correct(&mut self, tick: Tick, before: Option<&Aggregate>) {
        if let Some(before) = before.filter(|before| before.count() > 0) {
            if self.history.len() == KEPT_REVISIONS {
                self.history.pop_front();
            }
            let (last, records) = (self.last, self.records);
            self.history.push_back(Revision { last, records, measures: Measures::of(before) });
        }
        self.revision += 1;
        self.last = tick;
    }

    /// The event-clock time of a window's state after its last correction, in milliseconds, once it is final. What a
    /// tick changed is there once the tick is over: later than the document that it corrects.
    pub fn as_of(last: Tick, final_at: Millis, tick_ms: u64) -> Millis {
        final_at.max((last + 1).saturating_mul(tick_ms))
    }
}

/// What a document shows of an [`Aggregate`]: everything but the buckets of response times and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// Records by [`Level`], in the order of [`Level::ALL`].
    pub levels: [i64; Level::ALL.len()],
    /// Records by status class, 1xx first.
    pub status: [i64; STATUS_CLASSES],
    /// Records whose severity reached the anomaly threshold.
    pub anomalies: i64,
    /// Response times; `None` when no record has one.
    pub response: Option<ResponseMeasures>,
    /// Smallest event time.
    pub first_ms: Millis,
    /// Largest event time.
    pub last_ms: Millis,
    /// Highest severity.
    pub max_severity: u8,
    /// The numbers that the view names, in its order; `None` for one that no record has.
    pub numbers: Box<[Option<NumberMeasures>]>,
}

/// Response times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseMeasures {
    /// The number of records that have one.
    pub count: i64,
    /// Sum.
    pub sum_us: i64,
    /// Smallest.
    pub min_us: u64,
    /// Largest.
    pub max_us: u64,
    /// Median, 90th, 95th and 99th percentile (nearest rank), within 1 % and clamped to the exact minimum and maximum.
    pub percentiles_us: [u64; 4],
}

impl Measures {
    /// Those of an aggregate.
    pub fn of(aggregate: &Aggregate) -> Self {
        let count = aggregate.response.total();
        let (min_us, max_us) = (aggregate.response_min_us, aggregate.response_max_us);
        let percentile = |permille| aggregate.response.quantile(permille).unwrap_or(max_us).clamp(min_us, max_us);
        let response = (count > 0).then(|| ResponseMeasures {
            count,
            sum_us: aggregate.response_sum_us,
            min_us,
            max_us,
            percentiles_us: [500, 900, 950, 990].map(percentile),
        });
        Self {
            levels: aggregate.levels,
            status: aggregate.status,
            anomalies: aggregate.anomalies,
            response,
            first_ms: aggregate.first_ms,
            last_ms: aggregate.last_ms,
            max_severity: aggregate.max_severity,
            numbers: aggregate.numbers.iter().map(Number::measures).collect(),
        }
    }

    /// The number of records.
    pub fn count(&self) -> i64 {
        self.levels.iter().sum()
    }

    /// Records of level `ERROR` or `FATAL`.
    pub fn errors(&self) -> i64 {
        self.levels[Level::Error as usize] + self.levels[Level::Fatal as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: i64) -> Aggregate {
        let mut aggregate = Aggregate::default();
        aggregate.levels[Level::Info as usize] = records;
        aggregate
    }

    #[test]
    fn the_newest_states_are_kept() {
        let mut late = Late::default();
        for tick in 1..=40 {
            late.correct(tick, Some(&of(tick as i64)));
            late.records += 1;
        }
        assert_eq!((late.revision, late.last, late.records), (40, 40, 40));
        let kept: Vec<_> = late.history.iter().map(|r| (r.last, r.records, r.measures.count())).collect();
        assert_eq!(kept, (24..40).map(|last| (last, last as i64, last as i64 + 1)).collect::<Vec<_>>());
    }

    #[test]
    fn a_window_that_began_late_was_nothing_before() {
        let mut late = Late::default();
        late.correct(7, Some(&of(0)));
        assert_eq!((late.revision, late.history.len()), (1, 0));
    }
}
