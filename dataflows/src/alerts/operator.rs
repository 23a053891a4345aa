//! The facts of all workers to one, and its events to the first worker of each process.
//!
//! In: facts, and the end of the input. Out: calls to an [`AlertSink`] on one worker of each process; a stream of nothing
//! whose frontier tells when all was said. The first worker has all facts: alerts are few, and what an incident is
//! depends on all keys.
//!
//! The first worker holds a capability at the frontier up to which it has spoken; the others drop theirs at once. Whoever
//! hears holds one for what waits until all of its moment is there: a sink is told of a moment as a whole.
//!
//! # Cuts
//!
//! The windows operator dates what it publishes after a cut at the cut or later, so the facts before a checkpoint's tick
//! can be told from those after it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::dataflow::operators::vec::Broadcast;
use timely::progress::Antichain;

use super::config::{Alert, AlertNumber};
use super::facts::FactUpdate;
use super::incidents::{AlertFold, folds};
use super::{AlertEvent, AlertSink};
use crate::checkpoint::{Restored, StateRow};
use crate::cuts::Cuts;
use crate::time::{Millis, Tick};
use crate::windows::Publish;

/// The worker that has all facts.
const SPEAKER: usize = 0;

/// What it is built from beside its inputs.
pub(crate) struct Setting<'a> {
    /// The alerts.
    pub alerts: &'a [Arc<Alert>],
    /// The length of a tick.
    pub tick_ms: u64,
    /// When windows are published.
    pub publish: Publish,
    /// What the run goes on from.
    pub restored: &'a Restored,
    /// Where checkpoints are made.
    pub cuts: Option<Rc<Cuts>>,
    /// The first worker of each process, if they have sinks; if not, only the very first has one.
    pub live_workers: Vec<usize>,
}

/// Speaks of alerts.
pub(crate) fn alerts<'scope, A: AlertSink + 'static>(
    facts: Stream<'scope, Tick, Vec<FactUpdate>>,
    ends: Stream<'scope, Tick, Vec<Tick>>,
    setting: Setting<'_>,
    mut sink: Option<A>,
) -> Stream<'scope, Tick, Vec<()>> {
    let scope = facts.scope();
    let is_speaker = scope.index() == SPEAKER;
    let cuts = setting.cuts.clone().filter(|_| is_speaker);
    if let Some(cuts) = &cuts {
        cuts.expect_alerts();
    }
    let mut listeners = setting.live_workers.clone();
    if listeners.is_empty() {
        listeners.push(SPEAKER);
    }
    let start = setting.restored.at;
    let mut speaker = Speaker::new(&setting, cuts.is_some());
    // What was so at the checkpoint, to be told first.
    let mut known = if is_speaker { speaker.restore(setting.restored) } else { Vec::new() };

    let mut builder = OperatorBuilder::new("alerts".to_owned(), scope);
    let mut facts = builder.new_input(facts, Exchange::new(|_: &FactUpdate| SPEAKER as u64));
    let mut ends = builder.new_input(ends.broadcast(), Pipeline);
    let (events, events_stream) = builder.new_output_connection([(0, Antichain::from_elem(Default::default()))]);
    let mut events: OutputBuilder<Tick, CapacityContainerBuilder<Vec<(usize, String)>>> = OutputBuilder::from(events);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop().filter(|_| is_speaker);
        if let Some(capability) = &mut capability {
            capability.downgrade(&start);
        }
        let mut end = None;
        let mut spoken = start;
        move |frontiers| {
            ends.for_each(|_, highest| end = end.max(highest.iter().copied().max()));
            facts.for_each(|capability, facts| speaker.note(capability.least().copied().unwrap_or_default(), facts));
            let Some(held) = &mut capability else { return };
            let said = match frontiers[0].frontier().first().copied() {
                Some(frontier) if frontier > spoken => {
                    let mut said = Vec::new();
                    if let Some(cuts) = &cuts
                        && let Some(at) = cuts.alerts_due(frontier)
                    {
                        said = speaker.advance(at);
                        cuts.give_alerts(speaker.cut(at));
                    }
                    said.append(&mut speaker.advance(frontier));
                    spoken = frontier;
                    said
                }
                None if frontiers[1].is_empty() => end.map(|end| speaker.finish(end)).unwrap_or_default(),
                _ => return,
            };
            let mut output = events.activate();
            let mut session = output.session(held);
            for event in known.drain(..).chain(said) {
                let Ok(json) = sonic_rs::to_string(&event) else { continue };
                session.give_iterator(listeners.iter().map(|worker| (*worker, json.clone())));
            }
            drop(session);
            drop(output);
            if frontiers[0].is_empty() {
                capability = None;
            } else {
                held.downgrade(&spoken);
            }
        }
    });
    let to_worker = Exchange::new(|(worker, _): &(usize, String)| *worker as u64);
    let tick_ms = setting.tick_ms;
    events_stream.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(to_worker, "tell alerts", move |_, _| {
        // By moment, what was said and waits for the rest of it, with the capability for it.
        let mut waiting: BTreeMap<Tick, (Option<Capability<Tick>>, Vec<AlertEvent>)> = BTreeMap::new();
        let mut reached = start;
        move |(input, frontier), _| {
            input.for_each(|capability, events| {
                let at = capability.least().copied().unwrap_or_default();
                let (_, said) = waiting.entry(at).or_insert_with(|| (capability.retain_least(0), Vec::new()));
                let parse = |(_, json): (usize, String)| sonic_rs::from_str::<AlertEvent>(&json).ok();
                said.extend(events.drain(..).filter_map(parse));
            });
            let frontier = frontier.frontier().first().copied();
            let later = frontier.map(|frontier| waiting.split_off(&frontier)).unwrap_or_default();
            let whole = std::mem::replace(&mut waiting, later);
            if whole.is_empty() && frontier.is_none_or(|frontier| frontier <= reached) {
                return;
            }
            let events: Vec<AlertEvent> = whole.values().flat_map(|(_, said)| said).cloned().collect();
            reached = frontier.unwrap_or(reached);
            let as_of = events.iter().map(|event| event.as_of).fold(reached * tick_ms, Millis::max);
            if let Some(sink) = &mut sink {
                sink.alerts(events, as_of);
            }
            // Only now, with the capabilities, may anybody take these moments for past.
            drop(whole);
        }
    })
}

/// What is known of all alerts, and which facts are still to come in.
struct Speaker {
    folds: BTreeMap<AlertNumber, AlertFold>,
    /// By alert: by how much windows come later than their ends.
    lags: Vec<Millis>,
    waiting: BTreeMap<Tick, Vec<FactUpdate>>,
    tick_ms: u64,
}

impl Speaker {
    fn new(setting: &Setting<'_>, has_checkpoints: bool) -> Self {
        let lag = |alert: &Arc<Alert>| match setting.publish {
            Publish::Live { .. } => 0,
            Publish::Final => alert.lateness_ms,
        };
        Self {
            folds: folds(setting.alerts, has_checkpoints),
            lags: setting.alerts.iter().map(lag).collect(),
            waiting: BTreeMap::new(),
            tick_ms: setting.tick_ms,
        }
    }

    fn restore(&mut self, restored: &Restored) -> Vec<AlertEvent> {
        let now = restored.at * self.tick_ms;
        let each = self.folds.values_mut().zip(&self.lags);
        each.flat_map(|(fold, lag)| {
            let rows = restored.rows.iter().filter_map(|row| match row {
                StateRow::Alert(row) => Some(&**row),
                _ => None,
            });
            fold.restore(rows, restored.at, now.saturating_sub(*lag), now)
        })
        .collect()
    }

    fn note(&mut self, time: Tick, facts: &mut Vec<FactUpdate>) {
        self.waiting.entry(time).or_default().append(facts);
    }

    /// Takes the facts before a tick. Gives what there is to say then.
    fn advance(&mut self, frontier: Tick) -> Vec<AlertEvent> {
        let later = self.waiting.split_off(&frontier);
        self.take(later);
        let now = frontier * self.tick_ms;
        let each = self.folds.values_mut().zip(&self.lags);
        each.flat_map(|(fold, lag)| fold.advance(now.saturating_sub(*lag), now)).collect()
    }

    /// Everything has been published, at the highest event clock read.
    fn finish(&mut self, end: Tick) -> Vec<AlertEvent> {
        self.take(BTreeMap::new());
        let now = end * self.tick_ms;
        self.folds.values_mut().flat_map(|fold| fold.advance(now, now)).collect()
    }

    fn take(&mut self, later: BTreeMap<Tick, Vec<FactUpdate>>) {
        for update in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            if let Some(fold) = self.folds.get_mut(&update.alert) {
                fold.take(update);
            }
        }
    }

    fn cut(&mut self, at: Tick) -> Vec<StateRow> {
        self.folds.values_mut().flat_map(|fold| fold.cut(at)).map(|row| StateRow::Alert(Box::new(row))).collect()
    }
}
