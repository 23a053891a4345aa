//! Where partitions stand at a checkpoint.
//!
//! A partition is cut before the first record, or hold, with a timestamp at or behind the tick of the checkpoint; one
//! that has ended, where it ended. Once all of the worker's are cut they are given away together.

use super::{Ingest, Partition};
use crate::checkpoint::PartitionCut;
use crate::cuts::Gate;
use crate::input::{Batch, Feed};
use crate::output::RecordSink;
use crate::time::Tick;

impl<F: Feed, S: RecordSink> Ingest<F, S> {
    /// Goes on with the checkpoint that is being made, if one is. Returns where partitions may go.
    pub(super) fn gate(&mut self) -> Gate {
        let held = self.partitions.iter().filter_map(|p| p.capability.as_ref());
        let times = held.chain(&self.spare).chain(&self.notes_capability).map(|capability| *capability.time());
        let highest = times.chain(self.partitions.iter().map(Partition::timestamp)).max().unwrap_or(0);
        self.cuts.as_mut().map_or(Gate::FREE, |cuts| cuts.step(highest))
    }

    /// Gives the cuts away once this worker sends nothing more before the gate.
    pub(super) fn give_cuts(&mut self, gate: Gate) {
        let Some(cuts) = &mut self.cuts else { return };
        let may_join_before = self.spare.as_ref().is_some_and(|spare| *spare.time() < gate.barrier);
        let is_cut = |p: &Partition<F::Batch>| p.cut.is_some() || p.capability.is_none();
        if !gate.is_open || may_join_before || !self.partitions.iter().all(is_cut) {
            return;
        }
        let last_cut = std::mem::replace(&mut self.last_cut, gate.barrier);
        let of_partition =
            |p: &mut Partition<F::Batch>| p.cut.take().unwrap_or_else(|| p.cut_at(p.next_offset, last_cut));
        cuts.give(gate.barrier, self.partitions.iter_mut().map(of_partition).collect());
    }
}

impl<B: Batch> Partition<B> {
    /// Where it stands, at this offset.
    pub(super) fn cut_at(&self, next_offset: u64, last_cut: Tick) -> PartitionCut {
        let mut ledger = self.ledger;
        if self.is_placed {
            ledger.pass(next_offset);
        }
        PartitionCut {
            partition: (*self.info).clone(),
            next_offset,
            clock: self.clock,
            hold: self.hold,
            outages: self.outages.all(self.timestamp()),
            ledger,
            keys: self.combiner.seen_since(last_cut),
            patterns: self.patterns.as_ref().map_or_else(Default::default, |patterns| patterns.seen_since(last_cut)),
        }
    }

    /// Takes a hold that is from `next_offset` on, after being cut there if a checkpoint comes between. `away` says whether
    /// the partition could not be read. Returns whether it could be taken.
    pub(super) fn raise_hold(
        &mut self,
        (hold, away): (Tick, bool),
        next_offset: u64,
        gate: &mut Gate,
        last_cut: Tick,
    ) -> bool {
        if hold <= self.hold {
            return true;
        }
        if hold >= gate.barrier && !gate.is_open {
            return false;
        }
        // Part of the cut: it is so from the timestamp on that the partition has now.
        self.outages.hold(self.timestamp(), self.clock, hold, away);
        if hold >= gate.barrier {
            self.cut = Some(self.cut_at(next_offset, last_cut));
            *gate = Gate::FREE;
        }
        self.hold = hold;
        self.moved = true;
        true
    }
}
