//! Times at which a partition could not be read: what windows lack then is no silence.
//!
//! In: [`Outage`]s, as the source operator learns of them from marks and from the records behind them. Out: which windows of a
//! view lack records that may be there, as of a tick. Nothing here fails.
//!
//! An outage begins where the partition stood when a mark first said that it cannot be read. Its windows lack records for as
//! long as it has not been read beyond them. Once it has, what came after all is known, and only the time up to the first
//! record behind the outage stays unknown: nobody could write then either, or nobody did, and nothing tells which. Unless that
//! is no longer than the partition had been silent before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Restored;
use crate::input::PartitionInfo;
use crate::scores::Plan;
use crate::time::Tick;

/// A time at which a partition could not be read, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// The partition's timestamp when it began. No window that ends by then lacks anything.
    pub from: Tick,
    /// The partition was let go up to here without its records.
    pub to: Tick,
    /// How long a pause between its records is nothing special: as long as the one before the outage, or `idle_after`.
    pub usual: Tick,
    /// The event clock at the first record behind it; not before `from`, and once it is made up for not behind `to`.
    pub back: Option<Tick>,
    /// It could be read again, and nothing was there.
    pub is_over: bool,
    /// All that the partition had of that time came at this tick or before.
    pub made_up_at: Option<Tick>,
}

/// The outages of all partitions, as the windows operator of a worker knows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outages {
    /// By partition and beginning.
    known: BTreeMap<(PartitionInfo, Tick), Outage>,
}

/// The windows of a view that lack records, as ranges of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps(Vec<Range<u64>>);

impl Gaps {
    /// Whether a window lacks records.
    pub fn has(&self, window: u64) -> bool {
        self.0.iter().any(|range| range.contains(&window))
    }
}

impl Outages {
    /// Those of a checkpoint.
    pub fn restored(restored: &Restored) -> Self {
        let cuts = restored.partitions.values().filter_map(|start| start.cut.as_ref());
        let of_cut = cuts.flat_map(|cut| cut.outages.iter().map(|of| ((cut.partition.clone(), of.from), *of)));
        Self { known: of_cut.collect() }
    }

    /// Takes what is known of an outage now.
    pub fn take(&mut self, partition: PartitionInfo, outage: Outage) {
        self.known.insert((partition, outage.from), outage);
    }

    /// The ticks from `from` on and before `to` behind which an outage is made up for.
    pub fn made_up(&self, from: Tick, to: Tick) -> BTreeSet<Tick> {
        self.known.values().filter_map(|outage| outage.made_up_at).filter(|at| (from..to).contains(at)).collect()
    }

    /// The windows of a view that lack records as of a tick. Those that were gone when the outage was made up for always will.
    pub fn gaps(&self, plan: &Plan, as_of: Tick, tick_ms: u64) -> Gaps {
        let mut ranges = Vec::new();
        for outage in self.known.values() {
            let over = |from: Tick, to: Tick| {
                let is_some = from < to;
                is_some.then(|| plan.closed_before(from * tick_ms)..(to * tick_ms).div_ceil(plan.slide_ms()))
            };
            let all = over(outage.from, outage.to);
            match outage.made_up_at.filter(|at| *at < as_of) {
                None => ranges.extend(all),
                Some(at) => {
                    ranges.extend(over(outage.from, outage.back.unwrap_or(outage.to)));
                    let gone = plan.gone_before((at + 1) * tick_ms);
                    ranges.extend(all.map(|all| all.start..all.end.min(gone)).filter(|range| !range.is_empty()));
                }
            }
        }
        Gaps(ranges)
    }

    /// The first window that an outage made up for at a tick may change.
    pub fn first_of(&self, plan: &Plan, at: Tick, tick_ms: u64) -> Option<u64> {
        let of_tick = self.known.values().filter(|outage| outage.made_up_at == Some(at));
        of_tick.map(|outage| plan.closed_before(outage.from * tick_ms)).min()
    }

    /// Forgets those that ended before a tick.
    pub fn forget(&mut self, before: Tick) {
        self.known.retain(|_, outage| outage.made_up_at.is_none() || outage.to >= before);
    }
}
