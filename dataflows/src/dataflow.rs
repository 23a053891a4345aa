//! The whole dataflow of one worker.
//!
//! ```text
//! feed ──► ingest ──► panes ──► arrange panes ──► windows ──► publish ──► probe
//!             │                       ▲              │
//!             │                       └── negations ◄┘  (panes that are gone)
//!             └──► copy per process ──► live ◄── scores of `windows`
//! ```
//!
//! With alerts, `publish` sends the facts that they are made of to `alerts` on the first worker.

use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::{self, Probe};
use timely::dataflow::operators::vec::Map;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::alerts::AlertSink;
use crate::alerts::config::Alert;
use crate::alerts::facts::{FactUpdate, facts};
use crate::alerts::operator::{Setting, alerts};
use crate::checkpoint::{CheckpointSink, Restored};
use crate::clocks::ClockBoard;
use crate::combine::Grain;
use crate::cuts::CutBoard;
use crate::ingest::{Boards, ClockConfig, Ingested, RecordPath, ingest};
use crate::input::Feed;
use crate::live::live;
use crate::output::{LiveSink, RecordSink, WindowSink};
use crate::time::Tick;
use crate::view::View;
use crate::windows::{Publish, WindowStreams, windows};

/// What is computed. The same on every worker.
#[derive(Clone, Debug)]
pub struct Computation {
    /// The views; their places are their numbers.
    pub views: Vec<Arc<View>>,
    /// The alerts over them.
    pub alerts: Vec<Arc<Alert>>,
    /// The event clock.
    pub clock: ClockConfig,
    /// When windows are published.
    pub publish: Publish,
    /// First cuts of messages that are kept and counted per partition, for the live state; `None` to count none.
    pub max_patterns: Option<usize>,
    /// The workers that keep the live state: the first of each process. Empty for none.
    pub live_workers: Vec<usize>,
}

/// The dataflow of a worker.
pub struct Dataflow {
    /// The frontier up to which everything is published; done when the input has ended and all is published.
    pub probe: probe::Handle<Tick>,
    /// The source operator. Activate it a few times a second, or it offers no marks while nothing comes in: in here is no
    /// clock to do so.
    pub source: Rc<Activator>,
}

/// Builds the dataflow on a worker. It goes on from `restored`, which is the same on every worker but for rows and
/// partitions of other workers; and makes checkpoints through `checkpoints`, on all workers or on none.
#[expect(clippy::too_many_arguments, reason = "what a worker is given, each of a type of its own")]
pub fn build<F, S, W, L, A, C>(
    worker: &mut Worker,
    computation: &Computation,
    feed: F,
    path: RecordPath<S>,
    mut publisher: W,
    live_sink: Option<L>,
    alert_sink: Option<A>,
    restored: Restored,
    checkpoints: Option<C>,
) -> Dataflow
where
    F: Feed + 'static,
    S: RecordSink + 'static,
    W: WindowSink + 'static,
    L: LiveSink + 'static,
    A: AlertSink + 'static,
    C: CheckpointSink + 'static,
{
    let board = ClockBoard::new(worker);
    let cut_board = checkpoints.map(|sink| CutBoard::new(worker, sink));
    let cuts = cut_board.as_ref().map(CutBoard::cuts);
    worker.dataflow_named("floodmark", |scope| {
        let probe = probe::Handle::new();
        let Computation { views, alerts: watched, clock, publish, max_patterns, live_workers } = computation;
        // Nobody else asks for the counts, or for which patterns found room.
        let is_named = views.iter().any(|view| view.names_pattern()) || path.rules.names_pattern();
        let max_patterns = max_patterns.filter(|_| is_named || !live_workers.is_empty());
        let is_watched = *publish != Publish::Final || cuts.is_some() || !live_workers.is_empty();
        let Ingested { updates, notes, patterns, activator } = ingest(
            scope,
            feed,
            path,
            views,
            max_patterns,
            if is_watched { Grain::Tick } else { Grain::Reading },
            *clock,
            Boards { clocks: board, cuts: cut_board },
            &restored,
            probe.clone(),
        );
        let ends = notes.clone().flat_map(|note| note.end());
        let activator = Rc::new(activator);
        let source = activator.clone();
        let has_live = !live_workers.is_empty();
        let is_scored = views.iter().any(|view| !view.scored.is_empty());
        let to_live = has_live.then(|| updates.clone());
        let WindowStreams { documents, scores } =
            windows(updates, notes.clone(), views, *clock, *publish, &restored, cuts.clone(), has_live);
        if let Some(updates) = to_live {
            let scores = is_scored.then_some(scores);
            let workers = live_workers.clone();
            live(updates, patterns, scores, ends.clone(), workers, live_sink, restored.at, cuts.clone());
        }
        let of_publish = watched.clone();
        let published =
            documents.unary::<CapacityContainerBuilder<Vec<FactUpdate>>, _, _, _>(Pipeline, "publish", move |_, _| {
                move |input, output| {
                    input.for_each(|capability, documents| {
                        if !of_publish.is_empty() {
                            let facts = documents.iter().flat_map(|document| facts(&of_publish, document));
                            output.session(&capability).give_iterator(facts);
                        }
                        publisher.windows(std::mem::take(documents));
                    });
                }
            });
        let said = if watched.is_empty() {
            published.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "no alerts", |_, _| {
                |input, _| input.for_each(|_, _| {})
            })
        } else {
            let setting = Setting {
                alerts: watched,
                tick_ms: clock.tick_ms,
                publish: *publish,
                restored: &restored,
                cuts,
                live_workers: live_workers.clone(),
            };
            alerts(published, ends, setting, alert_sink)
        };
        said.probe_with(&probe).unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "wake ingest",
            move |_, _| {
                move |(input, _), _| {
                    input.for_each(|_, _| {});
                    activator.activate();
                }
            },
        );
        Dataflow { probe, source }
    })
}
