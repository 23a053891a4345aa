//! Which first cuts each partition admits, and what is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::records::Facts;

const OTHER: &str = "__other__";

/// A record as it is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Its timestamp in ticks.
    pub time: u64,
    /// The first cut, the service and the level that it counts for.
    pub place: (String, String, String),
    /// Event time.
    pub event: u64,
    /// Its partition.
    pub partition: i32,
}

/// Records, first and last event time by first cut, service and level.
pub type Counts = BTreeMap<(String, String, String), (i64, u64, u64)>;

/// What a partition has admitted.
#[derive(Default)]
pub(super) struct Admitted {
    cuts: BTreeSet<String>,
    rows: BTreeSet<(String, String, String)>,
}

impl Admitted {
    /// What a record counts for; records come in the order of their offsets.
    pub(super) fn count(&mut self, max_patterns: usize, facts: &Facts, time: u64, partition: i32) -> Counted {
        let mut cut = facts.cut.clone();
        if !self.cuts.contains(&cut) {
            if self.cuts.len() < max_patterns {
                self.cuts.insert(cut.clone());
            } else {
                cut = OTHER.to_owned();
            }
        }
        let mut place = (cut, facts.texts["service_name"].clone(), facts.level.to_owned());
        if !self.rows.contains(&place) {
            if self.rows.len() >= 8 * max_patterns {
                place.1 = OTHER.to_owned();
            }
            self.rows.insert(place.clone());
        }
        Counted { time, place, event: facts.timestamp, partition }
    }
}

/// The counts as of a tick: of the records before it.
pub fn counts_before(counted: &[Counted], tick: u64) -> Counts {
    let mut counts = Counts::new();
    for record in counted.iter().filter(|record| record.time < tick) {
        let (count, first, last) = counts.entry(record.place.clone()).or_insert((0, u64::MAX, 0));
        (*count, *first, *last) = (*count + 1, record.event.min(*first), record.event.max(*last));
    }
    counts
}
