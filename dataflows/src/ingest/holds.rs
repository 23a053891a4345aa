//! Marks, and the holds of partitions that are idle or stalled.
//!
//! Everything here happens at marks and depends on nothing but marks and reports, so that a run can be repeated from
//! its marks.

use super::{Ingest, Partition};
use crate::clocks::Report;
use crate::input::{Batch, Feed, MarkPosition, RecordedMarks};
use crate::output::RecordSink;
use crate::time::{Millis, Tick};

impl<F: Feed, S: RecordSink> Ingest<F, S> {
    /// Offers a mark, and if one was made, does what depends on it.
    pub(super) fn mark(&mut self) {
        if !self.feed.has_marks() {
            return;
        }
        let hold = self.hold();
        self.positions.clear();
        for (partition, state) in self.partitions.iter().enumerate() {
            let released = state.idle || state.stalled;
            self.positions.push(MarkPosition {
                partition,
                next_offset: state.arrived_offset(),
                at_end: state.at_end,
                hold: if released { state.hold.max(hold) } else { state.hold },
            });
        }
        let Some(RecordedMarks { wall_ms: wall, positions }) = self.feed.mark(&self.positions) else { return };
        self.last_mark_ms = Some(wall);
        for position in positions {
            let Some(state) = self.partitions.get_mut(position.partition) else { continue };
            if state.read_since_mark {
                state.read_since_mark = false;
                self.last_record_ms = wall;
            }
            state.marked(wall, position.hold, self.config.idle_after_ms, self.config.stall_after_ms);
        }
        if self.partitions.is_empty()
            && let Some(spare) = &mut self.spare
            && *spare.time() < hold
        {
            spare.downgrade(&hold);
            if let Some(ends) = &mut self.ends_capability {
                ends.downgrade(&hold);
            }
        }
        self.report();
    }

    fn report(&mut self) {
        let active = self
            .partitions
            .iter()
            .filter(|p| p.capability.is_some() && !p.idle && !p.stalled)
            .map(|p| p.timestamp())
            .min();
        self.board.report(Report { active, highest: self.highest, last_record_ms: self.last_record_ms });
    }

    /// What a released partition is held at: the lowest timestamp of the active partitions of all workers; where none
    /// is active, the wall clock minus the lag that the last record had. 0 while that is not known.
    fn hold(&self) -> Tick {
        let (Some(all), Some(wall)) = (self.board.all(), self.last_mark_ms) else { return 0 };
        match (all.active, all.highest) {
            (Some(active), _) => active,
            (None, Some(highest)) => {
                let silence = wall.saturating_sub(all.last_record_ms);
                highest + silence / self.config.tick_ms
            }
            (None, None) => 0,
        }
    }
}

impl<B: Batch> Partition<B> {
    /// Takes note of a mark with this wall clock and hold.
    fn marked(&mut self, wall: Millis, hold: Tick, idle_after_ms: u64, stall_after_ms: u64) {
        if self.awaits_mark {
            self.awaits_mark = false;
            self.covering_mark_ms = Some(wall);
        }
        if self.hold < hold {
            self.hold = hold;
            self.moved = true;
            if let Some(capability) = &mut self.capability
                && *capability.time() < hold
            {
                capability.downgrade(&hold);
            }
        }
        if self.at_end || self.unreachable {
            let quiet_for = wall.saturating_sub(*self.quiet_since_ms.get_or_insert(wall));
            let (idle, stalled) =
                (self.at_end && quiet_for >= idle_after_ms, self.unreachable && quiet_for >= stall_after_ms);
            self.moved |= (idle, stalled) != (self.idle, self.stalled);
            (self.idle, self.stalled) = (idle, stalled);
        }
    }
}
