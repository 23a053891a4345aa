//! Windows: an arrangement of panes, and the operator that turns its changes into window documents.
//!
//! In: combined updates of all workers, the end of the input, and when partitions could not be read. Out: [`WindowDocument`]s, each window at the times
//! that [`Publish`] says, and [`ScoreUpdate`]s for the live state. Nothing here fails.
//!
//! Panes are arranged by (view, start) with the key as value and the aggregate as difference, sharded by (view,
//! key). So a row is there once per (key, pane), whatever the number of records; a window is the sum of its panes; and
//! all keys of a window lie side by side, which is how windows are closed, made final and let go.
//!
//! # Letting go
//!
//! When the frontier reaches the time at which the last window over a pane is gone, the operator reads the pane and
//! sends its negation through a feedback loop into the arrangement. The arrangement then compacts both away. No record
//! reaches the pane any more: [`Combiner`](crate::combine::Combiner) turns away what is too late, by the same rule. The
//! capability for that negation is taken from the first message with records for the pane; it is for the time at which
//! the pane is gone, so it holds nobody back before.
//!
//! The loop adds `max_ahead` to the time. As the arrangement can be sealed no further than what may still come out of
//! the loop, a loop of one tick would have it sealed tick by tick when catching up; no source is further than
//! `max_ahead` before the frontier, so this loop never holds it back. A pane stays in memory that much longer.
//!
//! # Cuts
//!
//! A checkpoint's tick is known here before anything from it on arrives. Before the frontier goes past it, the operator
//! goes to it exactly, with the changes and rows before it, and keeps the batches of that moment. The times in them are
//! compacted to the frontier before, so they still tell the two sides of the cut apart. The rows that changed since the
//! cut before are then read from these batches, some in each activation, while the frontier goes on.
//!
//! Restored rows come from a source of their own, dated before the tick of the checkpoint. They are neither changes nor
//! published, and what was to happen by that tick has happened.
//!
//! # Capabilities
//!
//! One for the documents and one for the scores, at the frontier of the arrangement; one a pane start for its negation. At
//! the end of the input, which the second input tells, all are dropped.

mod dirty;
mod life;
mod restore;
mod scoring;
mod shared;

use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::{ValBatcher, ValSpine};
use foldhash::fast::FixedState;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Concat, ConnectLoop, Feedback};
use timely::progress::Antichain;

use crate::checkpoint::Restored;
use crate::cuts::Cuts;
use crate::ingest::{ClockConfig, SourceNote};
use crate::output::{ViewUpdate, WindowDocument};
use crate::scores::ScoreUpdate;
use crate::time::{Millis, Tick};
use crate::view::{Key, View, ViewId, around};
use dirty::Taking;
use life::Windows;
use restore::restored_panes;
use shared::Shared;

/// What the arrangement is ordered by: a view and the start of a pane.
type Place = (ViewId, Millis);
type PaneUpdate = ((Place, Key), Tick, Shared);
type PaneSpine = ValSpine<Place, Key, Tick, Shared>;

/// Rows of a cut taken in one activation: some 10 ms.
const ROWS_AT_ONCE: usize = 8_192;

/// When windows are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// While somebody watches: open windows that changed every so many milliseconds of event clock, every window when
    /// it closes and when it is final, and each change in between and after.
    Live {
        /// Milliseconds between publications of an open window.
        open_every_ms: u64,
    },
    /// When they are final, each change after that, and at the end of the input what is not final yet.
    Final,
}

/// By which panes and windows are spread over the workers. Keys that differ only in their pattern are on one worker,
/// where it is scored whether a pattern is new.
fn shard(views: &[Arc<View>], view: ViewId, key: &Key) -> u64 {
    let hasher = FixedState::with_seed(1);
    match views.get(usize::from(view)).and_then(|view| view.news_place()) {
        Some(place) => hasher.hash_one((view, around(key, place))),
        None => hasher.hash_one((view, key)),
    }
}

/// Whether a key's windows are kept on the worker `index` of `peers`. As timely exchanges by [`shard`].
fn is_own(views: &[Arc<View>], view: ViewId, key: &Key, index: usize, peers: usize) -> bool {
    shard(views, view, key) % peers as u64 == index as u64
}

/// The tick from which on no window over a pane is kept.
fn pane_gone_at(view: &View, pane: Millis, tick_ms: u64) -> Tick {
    view.gone_at(view.last_window_of(pane)) / tick_ms
}

/// The windows of all views, and their scores.
pub struct WindowStreams<'scope> {
    /// Documents, as they are published.
    pub documents: Stream<'scope, Tick, Vec<WindowDocument>>,
    /// What is shown of scores, for the live state: all that is so before a tick has been sent when the frontier is there.
    pub scores: Stream<'scope, Tick, Vec<ScoreUpdate>>,
}

/// The windows of all views, as documents. They go on from `restored`. `has_live` says whether there is a live state.
#[expect(clippy::too_many_arguments, reason = "what the operator is given, each of a type of its own")]
pub fn windows<'scope>(
    updates: Stream<'scope, Tick, Vec<ViewUpdate>>,
    notes: Stream<'scope, Tick, Vec<SourceNote>>,
    views: &[Arc<View>],
    clock: ClockConfig,
    publish: Publish,
    restored: &Restored,
    cuts: Option<Rc<Cuts>>,
    has_live: bool,
) -> WindowStreams<'scope> {
    let scope = updates.scope();
    let delay = clock.max_ahead().max(1);
    let (gone_handle, gone) = scope.feedback::<Vec<PaneUpdate>>(delay);
    let panes = updates
        .unary::<CapacityContainerBuilder<Vec<PaneUpdate>>, _, _, _>(Pipeline, "panes", |_, _| {
            |input, output| {
                input.for_each(|capability, updates| {
                    output.session(&capability).give_iterator(updates.drain(..).filter_map(|update| {
                        Some((((update.view, update.pane?), update.key), update.time, update.aggregate.into()))
                    }));
                });
            }
        })
        .concat(gone)
        .concat(restored_panes(scope, restored, views, clock));
    let of_exchange = views.to_vec();
    let by_key = Exchange::new(move |((place, key), _, _): &PaneUpdate| shard(&of_exchange, place.0, key));
    let arranged = arrange_core::<_, _, ValBatcher<Place, Key, Tick, Shared>, PaneSpine>(
        panes,
        by_key,
        "arrange panes",
        ValBatcher::new,
    );
    let mut trace = arranged.trace;

    let mut builder = OperatorBuilder::new("windows".to_owned(), scope);
    let mut batches = builder.new_input(arranged.stream, Pipeline);
    let mut notes = builder.new_input(notes.broadcast(), Pipeline);
    // Nothing is sent because of the second input.
    let of_batches = [(0, Antichain::from_elem(Default::default()))];
    let (documents, documents_stream) = builder.new_output_connection(of_batches.clone());
    let (negations, negations_stream) = builder.new_output_connection(of_batches.clone());
    let (scores, scores_stream) = builder.new_output_connection(of_batches);
    let mut documents: OutputBuilder<Tick, CapacityContainerBuilder<Vec<WindowDocument>>> =
        OutputBuilder::from(documents);
    let mut negations: OutputBuilder<Tick, CapacityContainerBuilder<Vec<PaneUpdate>>> = OutputBuilder::from(negations);
    let mut scores: OutputBuilder<Tick, CapacityContainerBuilder<Vec<ScoreUpdate>>> = OutputBuilder::from(scores);
    let (index, peers, start) = (scope.index(), scope.peers(), restored.at);
    let is_own = |view, key: &Key| is_own(views, view, key, index, peers);
    let mut windows = Windows::new(views, clock.tick_ms, publish, restored, is_own, cuts.is_some(), has_live);

    let activator = scope.activator_for(builder.operator_info().address);
    // The rows of a cut that are still to be given.
    let mut taking: Option<Taking> = None;
    // Where the batches received so far end.
    let mut upper = Antichain::from_elem(Tick::MIN);
    builder.build(move |mut capabilities| {
        // What is restored is sent before `start`: whoever waits for that tick has it.
        let mut scores_capability = capabilities.pop();
        capabilities.truncate(1);
        let mut documents_capability = capabilities.pop();
        if let Some(capability) = &mut documents_capability {
            capability.downgrade(&start);
        }
        let negations_port = 1;
        move |frontiers| {
            notes.for_each(|_, notes| {
                for note in notes.drain(..) {
                    match note {
                        SourceNote::Ended(highest) => windows.end_at(highest),
                        SourceNote::Outage(partition, outage) => windows.outage(partition, outage),
                    }
                }
            });
            if let (Some(cuts), Some(of_cut)) = (&cuts, &mut taking) {
                match of_cut.step(ROWS_AT_ONCE) {
                    Some(rows) => {
                        cuts.give_rows(rows);
                        taking = None;
                    }
                    None => activator.activate(),
                }
            }
            // One that is being taken is behind.
            let cut = cuts.as_ref().and_then(|cuts| cuts.rows_due()).filter(|_| taking.is_none());
            batches.for_each(|capability, spans| {
                for span in spans.iter() {
                    upper.clone_from(span.upper());
                    if let Some(batch) = &span.inner {
                        windows.note(batch, cut, |gone| capability.delayed(&gone, negations_port));
                    }
                }
            });
            let (Some(capability), Some(of_scores)) = (&mut documents_capability, &mut scores_capability) else {
                return;
            };
            if *of_scores.time() < start {
                scores.activate().session(of_scores).give_iterator(windows.take_shown().into_iter());
                of_scores.downgrade(&start);
            }
            // Not this operator's frontier: the trace may have been sealed beyond it, and can be cut at its seals only.
            trace.advance_upper(&mut upper);
            // What the sources have reached, whatever still comes out of the loop.
            let sources = frontiers[1].frontier().first().copied();
            let has_ended = sources.is_none();
            match upper.first().copied() {
                Some(frontier) if frontier > windows.frontier() && sources.is_some_and(|s| frontier <= s) => {
                    let rows = trace.batches_through(upper.borrow()).unwrap_or_default();
                    let mut documents = documents.activate();
                    if let Some(at) = cut
                        && at <= frontier
                    {
                        documents.session(capability).give_iterator(windows.advance(at, &rows).into_iter());
                        taking = windows.cut(&rows);
                        activator.activate();
                        // So that what is published from here on can be told from what was before the cut.
                        capability.downgrade(&at);
                    }
                    if frontier > windows.frontier() {
                        documents.session(capability).give_iterator(windows.advance(frontier, &rows).into_iter());
                    }
                    drop(documents);
                    scores.activate().session(of_scores).give_iterator(windows.take_shown().into_iter());
                    of_scores.downgrade(&frontier);
                    let mut negations = negations.activate();
                    for (capability, mut updates) in windows.let_go(&rows, delay) {
                        negations.session(&capability).give_iterator(updates.drain(..));
                    }
                    capability.downgrade(&frontier);
                    // One less: what was before the frontier must not come to look like what is at it.
                    trace.set_logical_compaction(Antichain::from_elem(frontier.saturating_sub(1)).borrow());
                    trace.set_physical_compaction(upper.borrow());
                }
                None if has_ended => {
                    let rows = trace.batches_through(upper.borrow()).unwrap_or_default();
                    documents.activate().session(capability).give_iterator(windows.finish(&rows).into_iter());
                    scores.activate().session(of_scores).give_iterator(windows.take_shown().into_iter());
                    (documents_capability, scores_capability) = (None, None);
                }
                _ => {}
            }
            if has_ended {
                windows.keep_all();
            }
        }
    });
    negations_stream.connect_loop(gone_handle);
    WindowStreams { documents: documents_stream, scores: scores_stream }
}
