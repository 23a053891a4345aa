//! Panes of a checkpoint, put back into the arrangement.
//!
//! In: the rows of the checkpoint. Out: those of this worker, dated one tick before it. Holds a capability for that tick
//! until all are sent; each activation looks at a bounded number of rows.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, Stream};

use super::{PaneUpdate, is_own, pane_gone_at};
use crate::checkpoint::{Restored, StateRow};
use crate::ingest::ClockConfig;
use crate::time::Tick;
use crate::view::View;

/// Rows looked at in one activation.
const BUDGET: usize = 65_536;

pub(super) fn restored_panes<'scope>(
    scope: Scope<'scope, Tick>,
    restored: &Restored,
    views: &[Arc<View>],
    clock: ClockConfig,
) -> Stream<'scope, Tick, Vec<PaneUpdate>> {
    let (at, mut rows, views) = (restored.at, restored.rows.clone(), views.to_vec());
    let (index, peers) = (scope.index(), scope.peers());
    source::<_, CapacityContainerBuilder<Vec<PaneUpdate>>, _, _>(
        scope,
        "restored panes",
        move |mut capability, info| {
            let activator = scope.activator_for(info.address);
            let time = at.saturating_sub(1);
            capability.downgrade(&time);
            let mut capability = Some(capability);
            let mut next = 0;
            move |output| {
                let Some(held) = &capability else { return };
                let mut session = output.session(held);
                for row in &rows[next..rows.len().min(next + BUDGET)] {
                    if let StateRow::Pane(row) = row
                        && let Some(view) = views.get(usize::from(row.view))
                        && pane_gone_at(view, row.pane, clock.tick_ms) > at
                        && is_own(&views, row.view, &row.key, index, peers)
                    {
                        session.give((((row.view, row.pane), row.key.clone()), time, row.aggregate.clone().into()));
                    }
                }
                drop(session);
                next += BUDGET;
                if next < rows.len() {
                    activator.activate();
                } else {
                    capability = None;
                    rows = Arc::default();
                }
            }
        },
    )
}
