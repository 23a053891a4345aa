//! Live reads: every process gets every update, and applies what the frontier has passed.
//!
//! In: combined updates of all workers, counts of patterns, scores of windows, and the end of the input. Out: calls to a
//! [`LiveSink`] on one worker of each process. Holds no capability.
//!
//! Scores come from the windows operator of each worker, each with the tick from which it is shown, so they are passed on
//! with the updates that they are made of, whatever steps those operators take.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use crate::cuts::Cuts;
use crate::output::{LiveSink, ViewUpdate};
use crate::patterns::PatternUpdate;
use crate::ranges::Ranges;
use crate::scores::ScoreUpdate;
use crate::time::Tick;

/// What waits for the frontier, by time.
#[derive(Default)]
struct Waiting {
    views: BTreeMap<Tick, Vec<ViewUpdate>>,
    patterns: BTreeMap<Tick, Vec<PatternUpdate>>,
    /// By the tick as of which they are shown.
    scores: BTreeMap<Tick, Vec<ScoreUpdate>>,
}

/// Feeds the sinks. `first_workers` are the workers that have one, a worker a process; `sink` is this worker's, if it
/// is one of them. What is before `start` is in it already, but for scores. `scores` is `None` where nothing is scored.
#[expect(clippy::too_many_arguments, reason = "what the operator is given, each of a type of its own")]
pub fn live<'scope, L: LiveSink + 'static>(
    updates: Stream<'scope, Tick, Vec<ViewUpdate>>,
    patterns: Stream<'scope, Tick, Vec<PatternUpdate>>,
    scores: Option<Stream<'scope, Tick, Vec<ScoreUpdate>>>,
    ends: Stream<'scope, Tick, Vec<Tick>>,
    first_workers: Vec<usize>,
    mut sink: Option<L>,
    start: Tick,
    cuts: Option<Rc<Cuts>>,
) {
    let scope = updates.scope();
    let updates = copies(updates, "copy per process", first_workers.clone());
    let patterns = copies(patterns, "copy patterns per process", first_workers.clone());
    let scores = scores.map(|scores| copies(scores, "copy scores per process", first_workers));
    let mut builder = OperatorBuilder::new("live".to_owned(), scope);
    let mut updates = builder.new_input(updates, Exchange::new(|(worker, _): &(usize, ViewUpdate)| *worker as u64));
    let mut ends = builder.new_input(ends.broadcast(), Pipeline);
    let to_worker = Exchange::new(|(worker, _): &(usize, PatternUpdate)| *worker as u64);
    let mut patterns = builder.new_input(patterns, to_worker);
    let to_worker = Exchange::new(|(worker, _): &(usize, ScoreUpdate)| *worker as u64);
    let mut scores = scores.map(|scores| builder.new_input(scores, to_worker));
    let waited_for: &[usize] = if scores.is_some() { &[0, 2, 3] } else { &[0, 2] };
    let mut waiting = Waiting::default();
    let mut applied = start;
    let mut end = None;
    builder.build(move |_| {
        move |frontiers| {
            ends.for_each(|_, highest| end = end.max(highest.iter().copied().max()));
            updates.for_each(|_, updates| {
                for (_, mut update) in updates.drain(..) {
                    // Live reads do not show them.
                    update.aggregate.ranges = Ranges::default();
                    waiting.views.entry(update.time).or_default().push(update);
                }
            });
            patterns.for_each(|_, updates| {
                for (_, update) in updates.drain(..) {
                    waiting.patterns.entry(update.time).or_default().push(update);
                }
            });
            if let Some(scores) = &mut scores {
                scores.for_each(|_, updates| {
                    for (_, update) in updates.drain(..) {
                        waiting.scores.entry(update.from).or_default().push(update);
                    }
                });
            }
            let Some(live) = &mut sink else { return };
            let lowest = waited_for.iter().filter_map(|&input| frontiers[input].frontier().first().copied()).min();
            // At first the scores of what was restored are shown.
            let is_due =
                |at: Tick| at > applied || waiting.scores.first_key_value().is_some_and(|(&from, _)| from <= at);
            match lowest {
                Some(frontier) if frontier >= applied && is_due(frontier) => {
                    let cut = cuts.as_ref().and_then(|cuts| cuts.live_due(frontier));
                    if let Some(at) = cut {
                        waiting.apply(live, at);
                        live.cut(at);
                    }
                    if cut != Some(frontier) {
                        waiting.apply(live, frontier);
                    }
                    applied = frontier;
                }
                None if frontiers[1].is_empty() => {
                    if let Some(end) = end {
                        let Waiting { views, patterns, scores } = std::mem::take(&mut waiting);
                        live.scores(in_order(scores));
                        live.apply(end, in_order(views), in_order(patterns));
                    }
                    sink = None;
                }
                _ => {}
            }
        }
    });
}

impl Waiting {
    /// Applies what is before a tick, with the scores as of it.
    fn apply(&mut self, live: &mut impl LiveSink, to: Tick) {
        live.scores(before(&mut self.scores, to + 1));
        let views = before(&mut self.views, to);
        live.apply(to, views, before(&mut self.patterns, to));
    }
}

fn before<D>(waiting: &mut BTreeMap<Tick, Vec<D>>, to: Tick) -> Vec<D> {
    let later = waiting.split_off(&to);
    in_order(std::mem::replace(waiting, later))
}

fn in_order<D>(waiting: BTreeMap<Tick, Vec<D>>) -> Vec<D> {
    waiting.into_values().flatten().collect()
}

/// A copy of everything for each of these workers.
fn copies<'scope, D: Clone + 'static>(
    stream: Stream<'scope, Tick, Vec<D>>,
    name: &str,
    workers: Vec<usize>,
) -> Stream<'scope, Tick, Vec<(usize, D)>> {
    stream.unary::<CapacityContainerBuilder<Vec<(usize, D)>>, _, _, _>(Pipeline, name, move |_, _| {
        move |input, output| {
            input.for_each(|capability, updates| {
                let mut session = output.session(&capability);
                for update in updates.drain(..) {
                    if let [others @ .., last] = &workers[..] {
                        for &worker in others {
                            session.give((worker, update.clone()));
                        }
                        session.give((*last, update));
                    }
                }
            });
        }
    })
}
