//! One partition: its event clock, and the loop over its records.

use std::collections::VecDeque;
use std::sync::Arc;

use timely::dataflow::operators::Capability;

use super::outages::OutageLog;
use super::{Gathered, RecordPath};
use crate::checkpoint::{PartitionCut, PartitionStart, RecordedMark};
use crate::combine::{Combiner, RecordPlace};
use crate::cuts::Gate;
use crate::decode::Decoder;
use crate::input::{Batch, PartitionEvent, PartitionInfo};
use crate::ledger::Ledger;
use crate::output::{PartitionProgress, Reason, RecordSink};
use crate::patterns::PatternCounter;
use crate::record::Record;
use crate::rules::Rules;
use crate::time::{Millis, Tick};

/// Bounds on one round of reading.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub tick_ms: u64,
    /// A partition whose clock is beyond this is left alone.
    pub ahead_limit: Tick,
    pub max_future_ms: u64,
    /// Later event times must wait for the next mark to be judged: the last mark's wall clock plus `max_future`.
    pub latest_event_ms: Millis,
    /// Without marks: when everything had arrived.
    pub arrived_by_ms: Option<Millis>,
    /// Where a checkpoint is being made.
    pub gate: Gate,
    /// The tick of the checkpoint before.
    pub last_cut: Tick,
    /// A partition that joined waits for the mark that says where it starts.
    pub joins_by_mark: bool,
    /// Records to read at the most.
    pub budget: usize,
}

/// Why a round of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There may be more at once.
    Budget,
    /// The feed has nothing now.
    Dry,
    /// Too far before the frontier.
    Ahead,
    /// A record cannot be judged, or the partition not be read, before the next mark.
    AwaitsMark,
    /// Further on, a checkpoint comes between.
    AtCut,
}

pub(super) struct Partition<B> {
    pub info: Arc<PartitionInfo>,
    /// `None` once the partition has ended.
    pub capability: Option<Capability<Tick>>,
    pub combiner: Combiner,
    /// Where patterns are counted.
    pub patterns: Option<PatternCounter>,
    /// Its own decoder, and the rules for that, where it is not read as the others.
    pub read_as: Option<(Decoder, Arc<Rules>)>,
    pub batch: Option<B>,
    pub clock: Option<Tick>,
    pub hold: Tick,
    pub next_offset: u64,
    pub ledger: Ledger,
    pub at_end: bool,
    pub unreachable: bool,
    pub ended: bool,
    pub idle: bool,
    pub stalled: bool,
    /// Unreachable for `idle_after`.
    pub away: bool,
    /// The wall clock of the first mark since which it has been at its end or unreachable without a break.
    pub quiet_since_ms: Option<Millis>,
    /// A record awaits a mark.
    pub awaits_mark: bool,
    /// The wall clock of the mark that covers the rest of the batch: all of it had arrived when that was made.
    pub covering_mark_ms: Option<Millis>,
    /// Read something since the last mark.
    pub read_since_mark: bool,
    /// `next_offset` is where the partition stands. Not known of one that joined before the source says so.
    pub is_placed: bool,
    /// No mark with where it starts is recorded yet. Such a partition is not read.
    pub awaits_first_mark: bool,
    /// A mark was offered that raises the hold, from where the partition stands. It is not read before that is recorded.
    pub awaits_hold: bool,
    /// A recorded hold that is still to be taken, and whether the partition could not be read.
    pub next_hold: Option<(Tick, bool)>,
    /// When it could not be read.
    pub outages: OutageLog,
    /// Marks of the run before, behind where the partition stands.
    pub marks: VecDeque<RecordedMark>,
    /// Where it stood at the checkpoint that is being made.
    pub cut: Option<PartitionCut>,
    /// Left alone for being too far before the frontier.
    pub paused: bool,
    /// Something changed that [`PartitionProgress`] shows.
    pub moved: bool,
}

impl<B: Batch> Partition<B> {
    pub fn new(
        info: Arc<PartitionInfo>,
        capability: Capability<Tick>,
        mut combiner: Combiner,
        mut patterns: Option<PatternCounter>,
        ledger: Ledger,
        start: PartitionStart,
        outages: OutageLog,
    ) -> Self {
        let PartitionStart { cut, marks } = start;
        let next_offset = cut.as_ref().map(|cut| cut.next_offset).or(marks.front().map(|mark| mark.next_offset));
        if let Some(cut) = &cut {
            combiner.restore(&cut.keys);
            if let Some(patterns) = &mut patterns {
                patterns.restore(&cut.patterns);
            }
        }
        Self {
            info,
            hold: cut.as_ref().map_or(*capability.time(), |cut| cut.hold),
            capability: Some(capability),
            combiner,
            patterns,
            read_as: None,
            batch: None,
            ledger: cut.as_ref().map_or(ledger, |cut| cut.ledger),
            clock: cut.and_then(|cut| cut.clock),
            is_placed: next_offset.is_some(),
            awaits_first_mark: next_offset.is_none(),
            awaits_hold: false,
            next_hold: None,
            outages,
            marks,
            cut: None,
            next_offset: next_offset.unwrap_or(0),
            at_end: false,
            unreachable: false,
            ended: false,
            idle: false,
            stalled: false,
            away: false,
            quiet_since_ms: None,
            awaits_mark: false,
            covering_mark_ms: None,
            read_since_mark: false,
            paused: false,
            moved: true,
        }
    }

    /// Reads until a limit; what was combined is in `out` afterwards, all of it.
    pub fn read<S: RecordSink>(
        &mut self,
        path: &mut RecordPath<S>,
        limits: Limits,
        mut poll: impl FnMut() -> Option<PartitionEvent<B>>,
        out: &mut Gathered,
    ) -> Reading {
        let mut budget = limits.budget;
        let mut gate = limits.gate;
        let reading = loop {
            if self.clock.is_some_and(|clock| clock > limits.ahead_limit) {
                break Reading::Ahead;
            }
            if self.awaits_hold || self.next_hold.is_some() {
                break Reading::AwaitsMark;
            }
            if !self.marks.is_empty() && !self.replay(&mut gate, limits.last_cut) {
                break Reading::AtCut;
            }
            if self.awaits_first_mark && self.is_placed && limits.joins_by_mark {
                break Reading::AwaitsMark;
            }
            let Some(batch) = &mut self.batch else {
                match poll() {
                    Some(event) => self.take(event, path),
                    None => break Reading::Dry,
                }
                if self.ended {
                    break Reading::Dry;
                }
                continue;
            };
            let Some(raw) = batch.current() else {
                self.next_offset = batch.next_offset();
                self.ledger.pass(self.next_offset);
                self.batch = None;
                self.covering_mark_ms = None;
                continue;
            };
            if budget == 0 {
                break Reading::Budget;
            }
            let (decoder, rules) = match &mut self.read_as {
                None => (&mut path.decoder, &path.rules),
                Some((decoder, rules)) => (decoder, &*rules),
            };
            let mut record = Record::default();
            match decoder.decode_into(raw.bytes, &mut record) {
                Ok(()) => {
                    let covering_ms = self.marks.front().map(|mark| mark.wall_ms).or(self.covering_mark_ms);
                    let is_ahead = match raw.appended_ms.or(covering_ms).or(limits.arrived_by_ms) {
                        Some(arrival) => record.timestamp_ms > arrival.saturating_add(limits.max_future_ms),
                        None if record.timestamp_ms > limits.latest_event_ms => {
                            self.awaits_mark = true;
                            break Reading::AwaitsMark;
                        }
                        None => false,
                    };
                    if is_ahead {
                        self.ledger.read(raw.offset, raw.bytes.len());
                        self.ledger.kill(Reason::ClockAhead);
                        let detail = "the event time is further ahead of the arrival than time.max_future allows";
                        path.sink.dead_letter(&self.info, raw, Reason::ClockAhead, detail);
                    } else {
                        let tick = record.timestamp_ms / limits.tick_ms;
                        let clock = self.clock.map_or(tick, |clock| clock.max(tick));
                        let time = clock.max(self.hold);
                        let before = self.clock.unwrap_or(0).max(self.hold);
                        self.outages.read(before, clock, self.hold);
                        if time >= gate.barrier {
                            if !gate.is_open {
                                break Reading::AtCut;
                            }
                            self.ledger.pass(raw.offset);
                            self.cut = Some(PartitionCut {
                                partition: (*self.info).clone(),
                                next_offset: raw.offset,
                                clock: self.clock,
                                hold: self.hold,
                                outages: self.outages.all(before),
                                ledger: self.ledger,
                                keys: self.combiner.seen_since(limits.last_cut),
                                patterns: self
                                    .patterns
                                    .as_ref()
                                    .map_or_else(Default::default, |patterns| patterns.seen_since(limits.last_cut)),
                            });
                            gate = Gate::FREE;
                        }
                        self.clock = Some(clock);
                        let is_new = !raw.redriven_from.is_some_and(|origin| origin.was_counted);
                        // First, as rules and views may name the pattern.
                        if let Some(cutter) = &mut path.cutter {
                            let message = record.message();
                            let cut = cutter.cut(&message);
                            record.pattern_id = Some(cut.id);
                            record.pattern = Some(match &mut self.patterns {
                                Some(patterns) if is_new => {
                                    patterns.add(time, raw.offset, &record, &message, cut, &mut out.patterns)
                                }
                                _ => cut,
                            });
                        }
                        let verdict = rules.judge(&record);
                        self.ledger.read(raw.offset, raw.bytes.len());
                        self.ledger.take(path.sink.indexes(verdict));
                        if is_new {
                            let place = RecordPlace { offset: raw.offset, clock };
                            self.combiner.add(time, place, &record, verdict, &mut out.views);
                        }
                        path.sink.log(&self.info, raw, &record, verdict);
                    }
                }
                Err(error) => {
                    self.ledger.read(raw.offset, raw.bytes.len());
                    self.ledger.kill(error.reason);
                    path.sink.dead_letter(&self.info, raw, error.reason, &error.detail);
                }
            }
            batch.advance();
            budget -= 1;
        };
        // What comes behind a record is known by the one that does: a line of a file is longer than its offset tells.
        if let Some(batch) = &self.batch {
            self.next_offset = batch.current().map_or_else(|| batch.next_offset(), |raw| raw.offset);
            self.ledger.pass(self.next_offset);
        }
        self.combiner.drain(&mut out.views);
        if let Some(patterns) = &mut self.patterns {
            patterns.drain(&mut out.patterns);
        }
        let paused = reading == Reading::Ahead;
        self.moved |= budget < limits.budget || paused != self.paused;
        self.paused = paused;
        reading
    }

    /// The timestamp of its next record at the least: the higher of event clock and hold.
    pub fn timestamp(&self) -> Tick {
        self.clock.unwrap_or(0).max(self.hold)
    }

    /// Where a mark may cover the partition to: everything that arrived, so that one mark is enough for a batch.
    pub fn arrived_offset(&self) -> u64 {
        match &self.batch {
            Some(batch) if self.awaits_mark => batch.next_offset(),
            _ => self.next_offset,
        }
    }

    fn take<S: RecordSink>(&mut self, event: PartitionEvent<B>, path: &mut RecordPath<S>) {
        self.moved = true;
        match event {
            PartitionEvent::Records(batch) => {
                if let Some(first) = batch.current() {
                    (self.next_offset, self.is_placed) = (first.offset, true);
                }
                self.batch = Some(batch);
                self.read_since_mark = true;
                (self.at_end, self.unreachable, self.quiet_since_ms) = (false, false, None);
                (self.idle, self.stalled, self.away) = (false, false, false);
            }
            PartitionEvent::AtEnd { next_offset } => {
                (self.next_offset, self.is_placed) = (next_offset, true);
                self.ledger.pass(next_offset);
                if self.unreachable {
                    (self.unreachable, self.stalled, self.away, self.quiet_since_ms) = (false, false, false, None);
                }
                self.at_end = true;
            }
            PartitionEvent::Unreachable => {
                if self.at_end {
                    (self.at_end, self.idle, self.quiet_since_ms) = (false, false, None);
                }
                self.unreachable = true;
            }
            PartitionEvent::Lost { from, to } => {
                path.sink.lost(&self.info, from, to);
                self.ledger.lose(from, to);
                (self.next_offset, self.is_placed) = (to, true);
            }
            PartitionEvent::Ended => self.ended = true,
        }
    }

    pub fn progress(&self) -> PartitionProgress {
        PartitionProgress {
            next_offset: self.next_offset,
            clock: self.clock,
            hold: self.hold,
            at_end: self.at_end,
            idle: self.idle,
            stalled: self.stalled,
            paused: self.paused,
            ended: self.ended,
            ledger: self.ledger,
        }
    }
}
