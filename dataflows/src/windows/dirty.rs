//! What changed since the checkpoint before: the rows that the next one has to hold.
//!
//! In: the places and keys that batches change, and the corrections of windows. Out: [`StateRow`]s at a cut. Kept only
//! where checkpoints are made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::cursor::{Cursor, Navigable};

use super::Place;
use super::life::{Batch, WindowId};
use crate::aggregate::Aggregate;
use crate::checkpoint::{PaneRow, StateRow};
use crate::time::Tick;
use crate::view::Key;

/// By place and key, the last tick that changed the row.
type Changed = BTreeMap<Place, BTreeMap<Key, Tick>>;

#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Before the cut that is due, if one is.
    before: Changed,
    /// From that cut on.
    after: Changed,
    /// Windows with corrections before the cut that is due.
    pub late: BTreeSet<(WindowId, Key)>,
}

impl Dirty {
    /// Notes the changes of a row: the last tick before the cut, and the last one from it on.
    pub fn note(&mut self, place: Place, key: &Key, before: Option<Tick>, after: Option<Tick>) {
        for (changed, tick) in [(&mut self.before, before), (&mut self.after, after)] {
            let Some(tick) = tick else { continue };
            let last = changed.entry(place).or_default().entry(key.clone()).or_default();
            *last = tick.max(*last);
        }
    }

    /// Forgets a place that is gone.
    pub fn forget(&mut self, place: Place) {
        self.before.remove(&place);
        self.after.remove(&place);
    }

    /// The rows that changed before `at`, as of `at`; those that `is_gone` then are left out.
    pub fn take(&mut self, at: Tick, rows: &[Batch], is_gone: impl Fn(Place) -> bool) -> Vec<StateRow> {
        let changed = std::mem::replace(&mut self.before, std::mem::take(&mut self.after));
        let mut taken = Vec::with_capacity(changed.values().map(BTreeMap::len).sum());
        for (place, keys) in changed.into_iter().filter(|(place, _)| !is_gone(*place)) {
            let mut cursors: Vec<_> = rows
                .iter()
                .filter_map(|batch| {
                    let mut cursor = batch.cursor();
                    cursor.seek_key(batch, &place);
                    (cursor.get_key(batch) == Some(&place)).then_some((cursor, batch))
                })
                .collect();
            for (key, changed) in keys {
                let mut sum: Option<Arc<Aggregate>> = None;
                for (cursor, batch) in &mut cursors {
                    cursor.seek_val(batch, &key);
                    if cursor.get_val(batch) != Some(&key) {
                        continue;
                    }
                    cursor.map_times(batch, |&time, aggregate| match &mut sum {
                        _ if time >= at => {}
                        Some(sum) => Arc::make_mut(sum).plus_equals(&*aggregate.0),
                        None => sum = Some(aggregate.0.clone()),
                    });
                }
                let Some(aggregate) = sum else { continue };
                taken.push(StateRow::Pane(PaneRow { view: place.0, pane: place.1, key, changed, aggregate }));
            }
        }
        taken
    }
}
