//! Marks, and the holds of partitions that are idle or stalled.
//!
//! Everything here happens at marks and depends on nothing but marks and reports, so that a run can be repeated from
//! its marks. A hold is offered, recorded, and only then taken; from the offer to the taking the partition is not read.
//! Partitions that are still at the marks of an earlier run are left out.

use super::{Ingest, Partition};
use crate::clocks::Report;
use crate::cuts::Gate;
use crate::input::{Batch, Feed, MarkPosition, RecordedMarks};
use crate::output::RecordSink;
use crate::time::{Millis, Tick};

impl<F: Feed, S: RecordSink> Ingest<F, S> {
    /// Offers a mark, and if one was recorded, does what depends on it.
    pub(super) fn mark(&mut self) {
        if !self.feed.has_marks() {
            return;
        }
        let hold = self.hold();
        let is_waited_for = self.board.all().is_some_and(|all| all.waits)
            && self.partitions.iter().any(|p| {
                (p.idle || p.stalled) && p.can_be_marked() && p.hold.max(p.next_hold.unwrap_or_default().0) < hold
            });
        if is_waited_for {
            self.feed.hurry();
        }
        // An offer that might be taken all the same releases nobody.
        let is_due = self.feed.is_mark_due();
        self.positions.clear();
        for (partition, state) in self.partitions.iter_mut().enumerate() {
            if !state.can_be_marked() {
                continue;
            }
            let raised = if is_due { state.offered_hold(hold) } else { state.hold };
            state.awaits_hold |= raised > state.hold;
            let (next_offset, at_end) = (state.arrived_offset(), state.at_end);
            self.positions.push(MarkPosition { partition, next_offset, at_end, hold: raised, away: state.unreachable });
        }
        // A mark without them would have them wait for the next.
        let are_all_new = self.partitions.iter().all(|p| p.awaits_first_mark);
        if self.positions.is_empty() && are_all_new && !self.partitions.is_empty() {
            return;
        }
        let Some(RecordedMarks { wall_ms: wall, positions }) = self.feed.mark(&self.positions) else { return };
        self.last_mark_ms = self.last_mark_ms.max(Some(wall));
        // A bounded run has nobody who waits for windows: it waits for what is away, for as long as it takes.
        let stall_after_ms = if self.feed.is_live() { self.config.stall_after_ms } else { Millis::MAX };
        for state in &mut self.partitions {
            state.awaits_hold = false;
            if state.read_since_mark {
                state.read_since_mark = false;
                self.last_record_ms = wall;
            }
        }
        for position in positions {
            if let Some(state) = self.partitions.get_mut(position.partition) {
                state.marked(wall, position, self.config.idle_after_ms, stall_after_ms);
            }
        }
        if self.last_record_ms == 0 && self.highest.is_some() {
            self.last_record_ms = wall;
        }
        self.report();
    }

    /// Takes the holds that are recorded, as far as the gate lets them; and where there are no partitions, moves the
    /// worker along.
    pub(super) fn take_holds(&mut self, gate: Gate) {
        let last_cut = self.last_cut;
        for state in &mut self.partitions {
            let Some(hold) = state.next_hold else { continue };
            let mut gate = if state.cut.is_some() { Gate::FREE } else { gate };
            if state.raise_hold(hold, state.next_offset, &mut gate, last_cut) {
                state.next_hold = None;
                if let Some(capability) = &mut state.capability
                    && *capability.time() < hold.0
                {
                    capability.downgrade(&hold.0);
                }
            }
        }
        let hold = self.hold();
        if self.feed.has_marks()
            && !self.feed.is_discovering()
            && self.partitions.iter().all(|p| p.capability.is_none())
            && (hold < gate.barrier || gate.is_open)
            && self.spare.is_some()
        {
            let all = [&mut self.spare, &mut self.notes_capability, &mut self.patterns_capability];
            for capability in all.into_iter().flatten() {
                if *capability.time() < hold {
                    capability.downgrade(&hold);
                }
            }
        }
    }

    /// Tells the others at once what the next mark would: that a partition waits for the frontier, or no longer, and
    /// while one does, how far this worker is. The others' holds follow, so that catching up is not held to
    /// `max_ahead` a mark.
    pub(super) fn report_waiting(&mut self) {
        let Some(last) = self.board.own() else { return };
        let waits = self.partitions.iter().any(|p| p.paused);
        let has_moved = || self.active() > last.active.map(|active| active + self.config.max_ahead() / 8);
        if waits != last.waits || waits && has_moved() {
            self.report();
        }
    }

    /// The lowest timestamp that a partition which is not released may still send.
    fn active(&self) -> Option<Tick> {
        let active = self.partitions.iter().filter(|p| !p.idle && !p.stalled).filter_map(|p| {
            let capability = p.capability.as_ref()?;
            Some(p.timestamp().max(*capability.time()))
        });
        active.min()
    }

    fn report(&mut self) {
        self.board.report(Report {
            active: self.active(),
            highest: self.highest,
            last_record_ms: self.last_record_ms,
            waits: self.partitions.iter().any(|p| p.paused),
        });
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
    /// Whether a mark can say where it stands. A partition that cannot be read from the start is marked at 0, or it
    /// could never be released.
    fn can_be_marked(&self) -> bool {
        self.capability.is_some() && self.marks.is_empty() && (self.is_placed || self.unreachable)
    }

    /// The hold to offer, where released partitions are held at `released`. One that is away is first held where it stands: so the mark says from where on nothing is known. One that can be read again, and has nothing, is let go at once:
    /// so the mark says up to where.
    fn offered_hold(&self, released: Tick) -> Tick {
        match (self.unreachable, self.outages.lasts()) {
            _ if self.idle || self.stalled => self.hold.max(released),
            (true, false) if self.away && self.timestamp() > 0 => self.timestamp().max(self.hold + 1),
            (false, true) if self.at_end => released.max(self.hold + 1),
            _ => self.hold,
        }
    }

    /// Takes note of a mark with this wall clock and position.
    fn marked(&mut self, wall: Millis, position: MarkPosition, idle_after_ms: u64, stall_after_ms: u64) {
        self.awaits_first_mark = false;
        if self.awaits_mark && self.batch.as_ref().is_some_and(|batch| position.next_offset >= batch.next_offset()) {
            self.awaits_mark = false;
            self.covering_mark_ms = Some(wall);
        }
        if position.hold > self.hold {
            self.next_hold = Some((position.hold, position.away));
        }
        if self.at_end || self.unreachable {
            let quiet_for = wall.saturating_sub(*self.quiet_since_ms.get_or_insert(wall));
            let (idle, stalled) =
                (self.at_end && quiet_for >= idle_after_ms, self.unreachable && quiet_for >= stall_after_ms);
            self.moved |= (idle, stalled) != (self.idle, self.stalled);
            (self.idle, self.stalled) = (idle, stalled);
            // Shorter breaks cost no more than pauses that are usual.
            self.away = self.unreachable && quiet_for >= idle_after_ms;
        }
    }
}
