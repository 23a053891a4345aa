//! The life of windows: which to publish when the frontier advances, and which to let go.
//!
//! In: batches of the arrangement as they are sealed, and the frontier. Out: documents, and negations of panes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::{BatchCursor, TraceReader};
use timely::dataflow::operators::Capability;

use super::{PaneSpine, PaneUpdate, Place, Publish};
use crate::aggregate::Aggregate;
use crate::corrections::{KEPT_REVISIONS, Late, Measures};
use crate::output::{WindowDocument, WindowState};
use crate::time::{Millis, Tick};
use crate::view::{Key, View, ViewId};

type Batch = <PaneSpine as TraceReader>::Batch;

/// A window of a view: the view and the start.
type WindowId = (ViewId, Millis);

/// What happens to a window at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Closed,
    Final,
    Gone,
}

/// A change of a window of a key in the batches since the last advance; one a tick for late records.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    window: WindowId,
    key: Key,
    late: Option<Tick>,
}

/// Which keys of a window to publish.
#[derive(Debug)]
enum Keys {
    All,
    Some(BTreeSet<Key>),
}

pub(super) struct Windows {
    views: Vec<Arc<View>>,
    tick_ms: u64,
    publish: Publish,
    frontier: Tick,
    /// The highest event clock read, once the input of a worker has ended.
    end: Option<Tick>,
    /// Windows that are kept.
    known: BTreeSet<WindowId>,
    turns: BTreeSet<(Millis, Turn, WindowId)>,
    changes: Vec<Change>,
    late: BTreeMap<(WindowId, Key), Late>,
    /// Open windows that changed since they were last published. Only in [`Publish::Live`].
    unpublished: BTreeMap<WindowId, BTreeSet<Key>>,
    next_open_publish: Millis,
    /// Panes with the tick at which they are let go, and the capability to do so.
    panes: BTreeMap<(Tick, Place), Capability<Tick>>,
}

impl Windows {
    pub fn new(views: &[Arc<View>], tick_ms: u64, publish: Publish) -> Self {
        Self {
            views: views.to_vec(),
            tick_ms,
            publish,
            frontier: 0,
            end: None,
            known: BTreeSet::new(),
            turns: BTreeSet::new(),
            changes: Vec::new(),
            late: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            next_open_publish: 0,
            panes: BTreeMap::new(),
        }
    }

    /// Everything before this tick has been taken in.
    pub fn frontier(&self) -> Tick {
        self.frontier
    }

    /// A worker's input ended at this event clock.
    pub fn end_at(&mut self, highest: Tick) {
        self.end = self.end.max(Some(highest));
    }

    /// Takes note of the changes in a sealed batch. `retain` gives the capability for the negation of a pane.
    pub fn note(&mut self, batch: &Batch, mut retain: impl FnMut(Tick) -> Capability<Tick>) {
        let mut cursor = batch.cursor();
        while let Some(&place) = cursor.get_key(batch) {
            let (id, pane) = place;
            let view = self.views[id as usize].clone();
            let gone = view.gone_at(view.last_window_of(pane)) / self.tick_ms;
            let mut is_live = false;
            while let Some(key) = cursor.get_val(batch) {
                let (tick_ms, changes) = (self.tick_ms, &mut self.changes);
                cursor.map_times(batch, |&time, _| {
                    let time_ms = time * tick_ms;
                    // A window that is gone at this time is not changed: also tells records from negations.
                    for window in view.windows_of(pane).filter(|&w| time_ms < view.gone_at(w)) {
                        is_live = true;
                        let late = (view.final_at(window) <= time_ms).then_some(time);
                        changes.push(Change { window: (id, window), key: key.clone(), late });
                    }
                });
                cursor.step_val(batch);
            }
            if is_live {
                self.panes.entry((gone, place)).or_insert_with(|| retain(gone));
                self.know(id, &view, pane);
            }
            cursor.step_key(batch);
        }
    }

    /// Registers the windows over a pane.
    fn know(&mut self, id: ViewId, view: &View, pane: Millis) {
        for window in view.windows_of(pane) {
            if view.gone_at(window) > self.frontier * self.tick_ms && self.known.insert((id, window)) {
                self.turns.insert((view.end_of(window), Turn::Closed, (id, window)));
                self.turns.insert((view.final_at(window), Turn::Final, (id, window)));
                self.turns.insert((view.gone_at(window), Turn::Gone, (id, window)));
            }
        }
    }

    /// Moves to a new frontier, with the rows of the arrangement up to there. Returns what is to be published.
    pub fn advance(&mut self, frontier: Tick, rows: &[Batch]) -> Vec<WindowDocument> {
        self.frontier = frontier;
        let now = frontier * self.tick_ms;
        let mut publish = self.sort_changes(now, rows);
        let mut gone = Vec::new();
        while let Some(&(at, turn, window)) = self.turns.first()
            && at <= now
        {
            self.turns.pop_first();
            match turn {
                Turn::Closed if matches!(self.publish, Publish::Live { .. }) => {
                    publish.insert(window, Keys::All);
                    self.unpublished.remove(&window);
                }
                Turn::Closed => {}
                Turn::Final => {
                    publish.insert(window, Keys::All);
                }
                Turn::Gone => gone.push(window),
            }
        }
        if let Publish::Live { open_every_ms } = self.publish
            && now >= self.next_open_publish
        {
            self.next_open_publish = (now / open_every_ms + 1) * open_every_ms;
            for (window, keys) in std::mem::take(&mut self.unpublished) {
                publish.entry(window).or_insert(Keys::Some(keys));
            }
        }
        let documents = self.documents(publish, now, rows);
        for window in gone {
            self.known.remove(&window);
            let of_window = (window, Key(Arc::from("")))..((window.0, window.1 + 1), Key(Arc::from("")));
            let keys: Vec<_> = self.late.range(of_window).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.late.remove(&key);
            }
        }
        documents
    }

    /// The input has ended at the highest event clock read: publishes what is not final, or became so.
    pub fn finish(&mut self, rows: &[Batch]) -> Vec<WindowDocument> {
        let Some(end) = self.end else { return Vec::new() };
        let now = end * self.tick_ms;
        let mut publish = self.sort_changes(now, rows);
        for &(id, window) in &self.known {
            let final_at = self.views[id as usize].final_at(window);
            if final_at > self.frontier * self.tick_ms || final_at > now {
                publish.insert((id, window), Keys::All);
            }
        }
        self.documents(publish, now, rows)
    }

    /// Turns the noted changes into revisions, and into what of them is to be published at `now`.
    fn sort_changes(&mut self, now: Millis, rows: &[Batch]) -> BTreeMap<WindowId, Keys> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        let is_live = matches!(self.publish, Publish::Live { .. });
        let mut publish: BTreeMap<WindowId, Keys> = BTreeMap::new();
        for of_row in changes.chunk_by(|a, b| (a.window, &a.key) == (b.window, &b.key)) {
            let (window, key) = (of_row[0].window, of_row[0].key.clone());
            let ticks: Vec<Tick> = of_row.iter().filter_map(|change| change.late).collect();
            if !ticks.is_empty() {
                self.correct(window, &key, &ticks, rows);
            }
            let view = &self.views[window.0 as usize];
            let is_due = now >= view.final_at(window.1) || is_live && now >= view.end_of(window.1);
            if is_due {
                if let Keys::Some(keys) = publish.entry(window).or_insert_with(|| Keys::Some(BTreeSet::new())) {
                    keys.insert(key);
                }
            } else if is_live {
                self.unpublished.entry(window).or_default().insert(key);
            }
        }
        changes.clear();
        self.changes = changes;
        publish
    }

    /// Makes late ticks of a window of a key, ascending, into revisions. The rows still tell these ticks apart from what
    /// was before: times in the arrangement are compacted only up to the tick before the last frontier.
    fn correct(&mut self, window: WindowId, key: &Key, ticks: &[Tick], rows: &[Batch]) {
        let view = &self.views[window.0 as usize];
        let gone = view.gone_at(window.1).div_ceil(self.tick_ms);
        // What came before the first of the ticks, and from each of them on until the next.
        let mut parts = vec![Aggregate::default(); ticks.len() + 1];
        for pane in (window.1..view.end_of(window.1)).step_by(view.pane_ms() as usize) {
            for batch in rows {
                let mut cursor = batch.cursor();
                cursor.seek_key(batch, &(window.0, pane));
                if cursor.get_key(batch) != Some(&(window.0, pane)) {
                    continue;
                }
                cursor.seek_val(batch, key);
                if cursor.get_val(batch) != Some(key) {
                    continue;
                }
                cursor.map_times(batch, |time, aggregate| {
                    if *time < gone {
                        parts[ticks.partition_point(|tick| tick <= time)].plus_equals(&*aggregate.0);
                    }
                });
            }
        }
        let late = self.late.entry((window, key.clone())).or_default();
        let mut parts = parts.into_iter();
        let mut sum = parts.next().unwrap_or_default();
        for (i, (&tick, part)) in ticks.iter().zip(parts).enumerate() {
            late.correct(tick, (ticks.len() - i <= KEPT_REVISIONS).then_some(&sum));
            late.records += part.count();
            sum.plus_equals(&part);
        }
    }

    fn documents(&self, publish: BTreeMap<WindowId, Keys>, now: Millis, rows: &[Batch]) -> Vec<WindowDocument> {
        let mut documents = Vec::new();
        for (window, keys) in publish {
            let view = &self.views[window.0 as usize];
            let gone = view.gone_at(window.1).div_ceil(self.tick_ms);
            let mut sums = BTreeMap::new();
            for pane in (window.1..view.end_of(window.1)).step_by(view.pane_ms() as usize) {
                add_rows(rows, (window.0, pane), &keys, gone, &mut sums);
            }
            for (key, aggregate) in sums {
                let late = self.late.get(&(window, key.clone()));
                let (final_at, last) = (view.final_at(window.1), late.map_or(0, |late| late.last));
                let is_final = now >= final_at;
                let as_of_ms = if is_final { Late::as_of(last, final_at, self.tick_ms) } else { now };
                let state = WindowState::new(view, window.1, self.tick_ms, late, is_final, as_of_ms);
                documents.push(WindowDocument::new(view, &key, window.1, &Measures::of(&aggregate), state));
            }
        }
        documents
    }

    /// The negations of the panes whose time has come, dated `delay` later, each with its capability.
    pub fn let_go(&mut self, rows: &[Batch], delay: Tick) -> Vec<(Capability<Tick>, Vec<PaneUpdate>)> {
        let mut negations = Vec::new();
        while let Some(entry) = self.panes.first_entry()
            && entry.key().0 <= self.frontier
        {
            let ((gone, place), capability) = entry.remove_entry();
            let mut sums = BTreeMap::new();
            add_rows(rows, place, &Keys::All, Tick::MAX, &mut sums);
            let negate = |(key, sum): (Key, Aggregate)| ((place, key), gone + delay, sum.negated().into());
            negations.push((capability, sums.into_iter().map(negate).collect()));
        }
        negations
    }

    /// Gives up letting go: the input has ended, and what is there stays until the end.
    pub fn keep_all(&mut self) {
        self.panes.clear();
    }
}

/// Adds the rows of a place before a time to `sums`. Batch by batch, not through one merged cursor: of most places only
/// a few batches have anything.
fn add_rows(rows: &[Batch], place: Place, keys: &Keys, before: Tick, sums: &mut BTreeMap<Key, Aggregate>) {
    for batch in rows {
        let mut cursor = batch.cursor();
        cursor.seek_key(batch, &place);
        if cursor.get_key(batch) != Some(&place) {
            continue;
        }
        match keys {
            Keys::All => {
                while let Some(key) = cursor.get_val(batch) {
                    add_row(&mut cursor, batch, key, before, sums);
                    cursor.step_val(batch);
                }
            }
            Keys::Some(keys) => {
                for key in keys {
                    cursor.seek_val(batch, key);
                    if cursor.get_val(batch) == Some(key) {
                        add_row(&mut cursor, batch, key, before, sums);
                    }
                }
            }
        }
    }
}

/// Adds the current row of a cursor, before a time, to the sum of its key.
fn add_row(
    cursor: &mut BatchCursor<PaneSpine>,
    batch: &Batch,
    key: &Key,
    before: Tick,
    sums: &mut BTreeMap<Key, Aggregate>,
) {
    cursor.map_times(batch, |&time, aggregate| {
        if time >= before {
            return;
        }
        match sums.get_mut(key) {
            Some(sum) => sum.plus_equals(&*aggregate.0),
            None => _ = sums.insert(key.clone(), Aggregate::clone(&aggregate.0)),
        }
    });
}
