//! What changed since the checkpoint before: the rows that the next one has to hold.
//!
//! In: the places and keys that batches change, and the corrections of windows. Out: [`StateRow`]s as of a cut, piece by
//! piece while the dataflow goes on. Kept only where checkpoints are made.

use std::collections::{BTreeMap, BTreeSet, btree_map};
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

    /// Begins to take the rows that changed before `at`, as of `at`, out of the arrangement as it is then; those that
    /// `is_gone` then are left out.
    pub fn take(&mut self, at: Tick, rows: &[Batch], is_gone: impl Fn(Place) -> bool) -> Taking {
        let mut changed = std::mem::replace(&mut self.before, std::mem::take(&mut self.after));
        changed.retain(|place, _| !is_gone(*place));
        Taking { at, rows: rows.to_vec(), places: changed.into_iter(), current: None, taken: Vec::new() }
    }
}

/// The rows of a cut while they are taken, some at a time: a snapshot, since batches never change. What comes to the
/// arrangement meanwhile is in other batches.
pub(super) struct Taking {
    at: Tick,
    rows: Vec<Batch>,
    places: btree_map::IntoIter<Place, BTreeMap<Key, Tick>>,
    /// The place that is begun, and its keys that are left.
    current: Option<(Place, btree_map::IntoIter<Key, Tick>)>,
    /// Part by part: one vector of all would be copied as it grows, in one step of the worker.
    taken: Vec<Vec<StateRow>>,
}

impl Taking {
    /// Adds rows of another kind.
    pub fn add(&mut self, rows: Vec<StateRow>) {
        self.taken.push(rows);
    }

    /// Takes up to `budget` rows more. Returns all, in parts, once there are no more.
    pub fn step(&mut self, mut budget: usize) -> Option<Vec<Vec<StateRow>>> {
        let mut part = Vec::with_capacity(budget);
        while budget > 0 {
            let Some((place, keys)) = &mut self.current else {
                let (place, keys) = match self.places.next() {
                    Some((place, keys)) => (place, keys.into_iter()),
                    None => {
                        self.taken.push(part);
                        return Some(std::mem::take(&mut self.taken));
                    }
                };
                self.current = Some((place, keys));
                continue;
            };
            let (at, place) = (self.at, *place);
            let mut cursors: Vec<_> = self
                .rows
                .iter()
                .filter_map(|batch| {
                    let mut cursor = batch.cursor();
                    cursor.seek_key(batch, &place);
                    (cursor.get_key(batch) == Some(&place)).then_some((cursor, batch))
                })
                .collect();
            let mut looked_at = 0;
            for (key, changed) in keys.take(budget) {
                looked_at += 1;
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
                part.push(StateRow::Pane(PaneRow { view: place.0, pane: place.1, key, changed, aggregate }));
            }
            if looked_at < budget {
                self.current = None;
            }
            budget -= looked_at;
        }
        self.taken.push(part);
        None
    }
}
