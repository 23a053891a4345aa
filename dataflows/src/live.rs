//! Live reads: every process gets every update, and applies what the frontier has passed.
//!
//! In: combined updates of all workers, and the end of the input. Out: calls to a [`LiveSink`] on one worker of each
//! process. Holds no capability.

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
use crate::time::Tick;

/// Feeds the sinks. `first_workers` are the workers that have one, a worker a process; `sink` is this worker's, if it
/// is one of them. What is before `start` is in it already.
pub fn live<'scope, L: LiveSink + 'static>(
    updates: Stream<'scope, Tick, Vec<ViewUpdate>>,
    ends: Stream<'scope, Tick, Vec<Tick>>,
    first_workers: Vec<usize>,
    mut sink: Option<L>,
    start: Tick,
    cuts: Option<Rc<Cuts>>,
) {
    let scope = updates.scope();
    let copies = updates.unary::<CapacityContainerBuilder<Vec<(usize, ViewUpdate)>>, _, _, _>(
        Pipeline,
        "copy per process",
        move |_, _| {
            move |input, output| {
                input.for_each(|capability, updates| {
                    let mut session = output.session(&capability);
                    for update in updates.drain(..) {
                        if let [others @ .., last] = &first_workers[..] {
                            for &worker in others {
                                session.give((worker, update.clone()));
                            }
                            session.give((*last, update));
                        }
                    }
                });
            }
        },
    );
    let mut builder = OperatorBuilder::new("live".to_owned(), scope);
    let mut updates = builder.new_input(copies, Exchange::new(|(worker, _): &(usize, ViewUpdate)| *worker as u64));
    let mut ends = builder.new_input(ends.broadcast(), Pipeline);
    let mut waiting: BTreeMap<Tick, Vec<ViewUpdate>> = BTreeMap::new();
    let mut applied = start;
    let mut end = None;
    builder.build(move |_| {
        move |frontiers| {
            ends.for_each(|_, highest| end = end.max(highest.iter().copied().max()));
            updates.for_each(|_, updates| {
                for (_, update) in updates.drain(..) {
                    waiting.entry(update.time).or_default().push(update);
                }
            });
            let Some(live) = &mut sink else { return };
            match frontiers[0].frontier().first() {
                Some(&frontier) if frontier > applied => {
                    let mut before = |to: Tick| {
                        let later = waiting.split_off(&to);
                        std::mem::replace(&mut waiting, later).into_values().flatten().collect()
                    };
                    let cut = cuts.as_ref().and_then(|cuts| cuts.live_due(frontier));
                    if let Some(at) = cut {
                        live.apply(at, before(at));
                        live.cut(at);
                    }
                    if cut != Some(frontier) {
                        live.apply(frontier, before(frontier));
                    }
                    applied = frontier;
                }
                None if frontiers[1].is_empty() => {
                    if let Some(end) = end {
                        live.apply(end, std::mem::take(&mut waiting).into_values().flatten().collect());
                    }
                    sink = None;
                }
                _ => {}
            }
        }
    });
}
