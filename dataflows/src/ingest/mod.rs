//! The source operator: from raw records to combined updates.
//!
//! In: a [`Feed`]. Out: [`ViewUpdate`]s, combined per tick; [`SourceNote`]s: when partitions could not be read, and once,
//! when the input has ended, the highest timestamp reached; and [`PatternUpdate`]s, where patterns are counted. Log documents and dead letters go to the [`RecordSink`], not through the dataflow.
//!
//! Capabilities: each partition holds one for the updates, at its timestamp (the higher of event clock and hold), and
//! drops it when it has ended. The operator holds one for each other output at the lowest of these, so that the
//! frontier of that output is the frontier of the sources; it drops them when the input has ended. While partitions may
//! still join, it keeps a spare one at the same place.
//!
//! Each activation reads a bounded number of records a partition. A full sink stops the reading; the next activation
//! goes on with the partition that it stopped at. A record that cannot be used is a dead letter, never an error.
//!
//! The operator runs when the feed has something, when the frontier has moved, when the sink has room again (the last is
//! for whoever made both to see to), and a few times a second in any case.
//!
//! - [`partition`]: one partition: its clock, and the loop over its records.
//! - [`holds`]: marks; idle and stalled partitions.
//! - [`outages`]: when a partition could not be read. [`replay`]: marks of the run before.
//! - [`cutting`]: where partitions stand at a checkpoint.

mod cutting;
mod holds;
mod outages;
mod partition;
mod replay;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::probe;
use timely::dataflow::{Scope, Stream};
use timely::scheduling::Activator;

use crate::checkpoint::{PartitionStart, Restored};
use crate::clocks::ClockBoard;
use crate::combine::{Combiner, Grain};
use crate::cuts::{CutBoard, Gate};
use crate::decode::Decoder;
use crate::input::{Feed, MarkPosition, PartitionInfo};
use crate::ledger::Ledger;
use crate::outages::Outage;
use crate::output::{RecordSink, ViewUpdate};
use crate::patterns::{Cutter, PatternCounter, PatternUpdate};
use crate::rules::Rules;
use crate::scores::outages_kept_for_ms;
use crate::time::{Millis, Tick};
use crate::view::View;

use outages::OutageLog;
use partition::{Partition, Reading};

/// Records read from a partition in one activation.
const BUDGET: usize = 8_192;
/// The clock's limits. All durations in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockConfig {
    /// The length of a tick.
    pub tick_ms: u64,
    /// How far event time may be ahead of arrival.
    pub max_future_ms: u64,
    /// How long a partition must be at its end to be idle.
    pub idle_after_ms: u64,
    /// How long a partition must be unreadable to be stalled.
    pub stall_after_ms: u64,
    /// How far a partition may be before the frontier.
    pub max_ahead_ms: u64,
    /// Feeds without marks: when all that they give had arrived, by the wall clock. Without it, no event time of theirs
    /// is too far ahead.
    pub arrived_by_ms: Option<Millis>,
}

impl ClockConfig {
    /// `max_ahead_ms` in ticks, rounded up.
    pub fn max_ahead(&self) -> Tick {
        self.max_ahead_ms.div_ceil(self.tick_ms)
    }
}

/// What records are decoded, judged and sent to.
#[derive(Debug)]
pub struct RecordPath<S> {
    /// Bytes to records.
    pub decoder: Decoder,
    /// Records to severities.
    pub rules: Arc<Rules>,
    /// Messages to patterns, where these are wanted.
    pub cutter: Option<Cutter>,
    /// Where documents and dead letters go.
    pub sink: S,
}

/// What was combined of the records of a partition and is to be sent.
#[derive(Debug, Default)]
struct Gathered {
    views: Vec<ViewUpdate>,
    patterns: Vec<PatternUpdate>,
}

/// What workers tell each other through.
pub struct Boards {
    /// Of event clocks.
    pub clocks: ClockBoard,
    /// Of checkpoints, where there are any.
    pub cuts: Option<CutBoard>,
}

/// What the source operator tells of the sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SourceNote {
    /// A worker's input has ended, at this timestamp.
    Ended(Tick),
    /// A partition could not be read; what is known of that now.
    Outage(PartitionInfo, Outage),
}

impl SourceNote {
    /// The timestamp at which a worker's input ended.
    pub fn end(&self) -> Option<Tick> {
        match self {
            SourceNote::Ended(highest) => Some(*highest),
            SourceNote::Outage(..) => None,
        }
    }
}

/// What the source operator gives.
pub struct Ingested<'scope> {
    /// Combined updates.
    pub updates: Stream<'scope, Tick, Vec<ViewUpdate>>,
    /// What else there is to know of the sources. Its frontier is theirs; a note is dated before what it is about.
    pub notes: Stream<'scope, Tick, Vec<SourceNote>>,
    /// Counts of first cuts, each at or before its own time. Its frontier is that of the sources.
    pub patterns: Stream<'scope, Tick, Vec<PatternUpdate>>,
    /// To be activated when the probe has moved, as a partition may have been too far ahead of it; and a few times a
    /// second, as marks are offered and the sink is looked after then.
    pub activator: Activator,
}

/// Reads a feed, from where `restored` stands. With `max_patterns` it counts patterns, of so many first cuts a partition at
/// the most. `grain` says what is combined. `probe` shows the frontier of the whole dataflow, by which partitions far ahead
/// are told.
#[expect(clippy::too_many_arguments, reason = "what the operator is given, each of a type of its own")]
pub fn ingest<'scope, F: Feed + 'static, S: RecordSink + 'static>(
    scope: Scope<'scope, Tick>,
    mut feed: F,
    path: RecordPath<S>,
    views: &[Arc<View>],
    max_patterns: Option<usize>,
    grain: Grain,
    config: ClockConfig,
    boards: Boards,
    restored: &Restored,
    probe: probe::Handle<Tick>,
) -> Ingested<'scope> {
    let mut builder = OperatorBuilder::new("ingest".to_owned(), scope);
    let info = builder.operator_info();
    let activator = scope.activator_for(Rc::clone(&info.address));
    let waker = scope.worker().sync_activator_for(info.address.to_vec());
    // An error here means that the worker is gone, and nothing is left to wake.
    feed.attach(Arc::new(move || _ = waker.activate()));

    let Boards { clocks, cuts } = boards;
    clocks.wake(scope.activator_for(Rc::clone(&info.address)));
    if let Some(cuts) = &cuts {
        cuts.wake(scope.activator_for(Rc::clone(&info.address)));
    }

    let (updates, updates_stream) = builder.new_output();
    let (notes, notes_stream) = builder.new_output();
    let (patterns, patterns_stream) = builder.new_output();
    let mut updates: OutputBuilder<Tick, CapacityContainerBuilder<Vec<ViewUpdate>>> = OutputBuilder::from(updates);
    let mut patterns: OutputBuilder<Tick, CapacityContainerBuilder<Vec<PatternUpdate>>> = OutputBuilder::from(patterns);
    let mut notes: OutputBuilder<Tick, CapacityContainerBuilder<Vec<SourceNote>>> = OutputBuilder::from(notes);

    let views = views.to_vec();
    let outages_kept_for = outages_kept_for_ms(&views) / config.tick_ms;
    let (start, starts) = (restored.at, restored.partitions.clone());
    builder.build(move |mut capabilities| {
        for capability in &mut capabilities {
            capability.downgrade(&start);
        }
        let patterns_capability = capabilities.pop();
        let notes_capability = capabilities.pop();
        let mut state = Ingest {
            feed,
            path,
            views,
            max_patterns,
            grain,
            config,
            board: clocks,
            cuts,
            last_cut: start,
            starts,
            probe,
            partitions: Vec::new(),
            spare: capabilities.pop(),
            notes_capability,
            patterns_capability,
            first_clock: (start > 0).then_some(start),
            highest: None,
            last_mark_ms: None,
            last_record_ms: 0,
            positions: Vec::new(),
            gathered: Gathered::default(),
            first: 0,
            outages_kept_for,
        };
        move |_frontiers| {
            let mut updates = updates.activate();
            let mut patterns = patterns.activate();
            let more = state.step(
                |capability, gathered| updates.session(capability).give_iterator(gathered.drain(..)),
                |capability, gathered| patterns.session(capability).give_iterator(gathered.drain(..)),
                |capability, partition, said| {
                    let said = said.drain(..).map(|outage| SourceNote::Outage(partition.clone(), outage));
                    notes.activate().session(capability).give_iterator(said);
                },
            );
            if let Some((capability, highest)) = state.finish() {
                if let Some(highest) = highest {
                    notes.activate().session(&capability).give(SourceNote::Ended(highest));
                }
                return;
            }
            if more {
                activator.activate();
            }
        }
    });
    let activator = scope.activator_for(info.address);
    Ingested { updates: updates_stream, notes: notes_stream, patterns: patterns_stream, activator }
}

struct Ingest<F: Feed, S> {
    feed: F,
    path: RecordPath<S>,
    views: Vec<Arc<View>>,
    max_patterns: Option<usize>,
    grain: Grain,
    config: ClockConfig,
    board: ClockBoard,
    cuts: Option<CutBoard>,
    /// The tick of the last checkpoint that partitions were cut for, or that the run goes on from.
    last_cut: Tick,
    /// Where partitions that have not joined yet go on.
    starts: BTreeMap<PartitionInfo, PartitionStart>,
    probe: probe::Handle<Tick>,
    partitions: Vec<Partition<F::Batch>>,
    /// Where partitions that join take their capability from.
    spare: Option<Capability<Tick>>,
    notes_capability: Option<Capability<Tick>>,
    patterns_capability: Option<Capability<Tick>>,
    /// The first event clock of the run: before the frontier leaves 0, being ahead is counted from here.
    first_clock: Option<Tick>,
    /// The highest event clock read.
    highest: Option<Tick>,
    last_mark_ms: Option<Millis>,
    /// The wall clock of the last mark that covered a new record.
    last_record_ms: Millis,
    positions: Vec<MarkPosition>,
    gathered: Gathered,
    /// The partition to begin with: where a full sink stopped the last reading.
    first: usize,
    /// How long an outage matters, in ticks.
    outages_kept_for: Tick,
}

impl<F: Feed, S: RecordSink> Ingest<F, S> {
    /// Reads once from every partition that may be read. Returns whether there may be more at once.
    fn step(
        &mut self,
        mut send: impl FnMut(&Capability<Tick>, &mut Vec<ViewUpdate>),
        mut send_patterns: impl FnMut(&Capability<Tick>, &mut Vec<PatternUpdate>),
        mut send_outages: impl FnMut(&Capability<Tick>, &PartitionInfo, &mut Vec<Outage>),
    ) -> bool {
        self.join();
        let gate = self.gate();
        self.mark();
        self.take_holds(gate);
        let frontier = self.probe.with_frontier(|frontier| frontier.first().copied());
        if let Some(frontier) = frontier {
            self.path.sink.frontier(frontier);
        }
        let mut more = false;
        let has_marks = self.feed.has_marks();
        let is_live = self.feed.is_live() && has_marks;
        for index in (self.first..self.partitions.len()).chain(0..self.first) {
            let partition = &mut self.partitions[index];
            if partition.capability.is_none() {
                continue;
            }
            if !self.path.sink.ready() {
                self.first = index;
                more = false;
                break;
            }
            let ahead_limit = self
                .first_clock
                .map_or(Tick::MAX, |first| frontier.unwrap_or(0).max(first).saturating_add(self.config.max_ahead()));
            let latest_event_ms = match self.last_mark_ms {
                Some(wall) => wall.saturating_add(self.config.max_future_ms),
                None if self.feed.has_marks() => 0,
                None => Millis::MAX,
            };
            let limits = partition::Limits {
                tick_ms: self.config.tick_ms,
                ahead_limit,
                max_future_ms: self.config.max_future_ms,
                latest_event_ms,
                arrived_by_ms: self.config.arrived_by_ms.filter(|_| !self.feed.has_marks()),
                gate: if partition.cut.is_some() { Gate::FREE } else { gate },
                last_cut: self.last_cut,
                // Behind a checkpoint it starts at that timestamp, which nothing else tells.
                joins_by_mark: is_live || has_marks && partition.hold > 0,
                budget: BUDGET,
            };
            let reading = partition.read(&mut self.path, limits, || self.feed.poll(index), &mut self.gathered);
            if let Some(clock) = partition.clock {
                self.first_clock.get_or_insert(clock);
                self.highest = self.highest.max(Some(clock));
            }
            let time = partition.timestamp();
            if let Some(capability) = &mut partition.capability {
                if !self.gathered.views.is_empty() {
                    send(capability, &mut self.gathered.views);
                }
                if *capability.time() < time {
                    capability.downgrade(&time);
                }
            }
            // No later than any of the updates, which have times of their own.
            if let Some(capability) = &self.patterns_capability
                && !self.gathered.patterns.is_empty()
            {
                send_patterns(capability, &mut self.gathered.patterns);
            }
            if partition.moved {
                partition.moved = false;
                self.path.sink.progress(&partition.info, partition.progress());
            }
            if partition.ended {
                partition.capability = None;
            }
            more |= reading == Reading::Budget;
        }
        // Before the capability moves on: who waits for a tick has heard of what is so by then.
        for partition in self.partitions.iter_mut().filter(|partition| !partition.outages.said.is_empty()) {
            if let Some(capability) = &self.notes_capability {
                send_outages(capability, &partition.info, &mut partition.outages.said);
            }
        }
        self.lower_bound();
        self.give_cuts(gate);
        if is_live {
            self.report_waiting();
        }
        more
    }

    /// Takes in partitions that joined.
    fn join(&mut self) {
        let Some(spare) = &self.spare else { return };
        for info in self.feed.joined() {
            let start = self.starts.remove(&info).unwrap_or_default();
            if let Some(mark) = start.marks.back() {
                self.last_record_ms = self.last_record_ms.max(mark.wall_ms);
            }
            let index = self.partitions.len();
            let ledger = Ledger::new(self.feed.offsets_are_bytes(index));
            let read_as = self.feed.read_as(index);
            let views = read_as.as_ref().map_or(&self.views, |own| &own.views);
            let info = Arc::new(info);
            let combiner = Combiner::new(info.clone(), views, self.config.tick_ms, self.grain);
            let patterns = self.max_patterns.map(|max| PatternCounter::new(info.clone(), max));
            let known = start.cut.as_ref().map_or(&[][..], |cut| &cut.outages);
            let usual = self.config.idle_after_ms.div_ceil(self.config.tick_ms);
            let outages = OutageLog::new(known, usual, self.outages_kept_for);
            let mut partition = Partition::new(info, spare.clone(), combiner, patterns, ledger, start, outages);
            partition.read_as = read_as.map(|own| (own.decoder, own.rules));
            // Of what went on while the run was down nothing is known; its silence is counted from its holds.
            self.highest = self.highest.max(Some(partition.timestamp()).filter(|&time| time > 0));
            self.partitions.push(partition);
        }
        if !self.feed.is_live() && !self.feed.is_discovering() {
            self.spare = None;
        }
    }

    /// Moves the spare capability and those of the other outputs up to the lowest of the partitions'. Not before all are
    /// known: those of a checkpoint go on from its tick.
    fn lower_bound(&mut self) {
        if self.feed.is_discovering() {
            return;
        }
        let lowest = self.partitions.iter().filter_map(|p| p.capability.as_ref().map(|c| *c.time())).min();
        let Some(lowest) = lowest else { return };
        let others = [&mut self.spare, &mut self.notes_capability, &mut self.patterns_capability];
        for capability in others.into_iter().flatten() {
            if *capability.time() < lowest {
                capability.downgrade(&lowest);
            }
        }
    }

    /// Once nothing more can come: the capability of the second output, and the highest timestamp reached.
    fn finish(&mut self) -> Option<(Capability<Tick>, Option<Tick>)> {
        if self.spare.is_some() || self.partitions.iter().any(|p| p.capability.is_some()) {
            return None;
        }
        self.patterns_capability = None;
        let holds = self.partitions.iter().map(|p| p.hold).filter(|&hold| hold > 0).max();
        Some((self.notes_capability.take()?, self.highest.max(holds)))
    }
}
