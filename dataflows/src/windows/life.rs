//! The life of windows: which to publish when the frontier advances, and which to let go.
//!
//! In: batches of the arrangement as they are sealed, and the frontier. Out: documents, and negations of panes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::{BatchCursor, TraceReader};
use timely::dataflow::operators::Capability;

use super::dirty::{Dirty, Taking};
use super::{PaneSpine, PaneUpdate, Place, Publish, pane_gone_at};
use crate::aggregate::Aggregate;
use crate::checkpoint::{LateRow, Restored, StateRow};
use crate::corrections::{KEPT_REVISIONS, Late, Measures};
use crate::input::PartitionInfo;
use crate::outages::{Outage, Outages};
use crate::output::{Evidence, RecordRange, WindowDocument, WindowScore, WindowState};
use crate::scores::{ScoreUpdate, ViewScores, outages_kept_for_ms};
use crate::time::{Millis, Tick};
use crate::view::{Key, View, ViewId};

pub(super) type Batch = <PaneSpine as TraceReader>::Batch;

/// A window of a view: the view and the start.
pub(super) type WindowId = (ViewId, Millis);

/// What happens to a window at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Closed,
    Final,
    Gone,
}

/// A change of a window of a key in the batches since the last advance; one a tick for late records.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub window: WindowId,
    pub key: Key,
    pub late: Option<Tick>,
    /// Its tick, if the window had closed but was not final. Only where a live state shows scores.
    pub unordered: Option<Tick>,
}

/// Which keys of a window to publish.
#[derive(Debug)]
pub(super) enum Keys {
    All,
    Some(BTreeSet<Key>),
}

/// Windows of keys whose scores changed, each with the last late tick that changed it.
pub(super) type Rescored = BTreeMap<WindowId, BTreeMap<Key, Tick>>;

/// What windows contain, by key.
pub(super) type Contents = BTreeMap<WindowId, BTreeMap<Key, Aggregate>>;

pub(super) struct Windows {
    pub(super) views: Vec<Arc<View>>,
    /// By view; `None` for those that are not scored.
    pub(super) scores: Vec<Option<ViewScores>>,
    pub(super) tick_ms: u64,
    pub(super) publish: Publish,
    frontier: Tick,
    /// The highest event clock read, once the input of a worker has ended.
    end: Option<Tick>,
    /// Windows that are kept.
    pub(super) known: BTreeSet<WindowId>,
    turns: BTreeSet<(Millis, Turn, WindowId)>,
    changes: Vec<Change>,
    /// Those from the cut that is due on.
    later_changes: Vec<Change>,
    late: BTreeMap<(WindowId, Key), Late>,
    /// Open windows that changed since they were last published. Only in [`Publish::Live`].
    unpublished: BTreeMap<WindowId, BTreeSet<Key>>,
    next_open_publish: Millis,
    /// Panes with the tick at which they are let go, and the capability to do so.
    panes: BTreeMap<(Tick, Place), Capability<Tick>>,
    /// What is before this tick is restored: state, not change.
    start: Tick,
    /// Windows of these views that start before these ticks lack records.
    pub(super) partial_before: BTreeMap<ViewId, Tick>,
    /// Only where checkpoints are made.
    dirty: Option<Dirty>,
    /// When partitions could not be read.
    pub(super) outages: Outages,
    /// How long that matters, in ticks.
    outages_kept_for: Tick,
    /// There is a live state to show scores.
    pub(super) has_live: bool,
    /// The tick as of which everything is scored.
    pub(super) scored_at: Tick,
    /// What is shown of scores and was not sent yet.
    pub(super) shown: Vec<ScoreUpdate>,
}

impl Windows {
    /// Goes on from `restored`, of which `is_own` tells this worker's keys.
    pub fn new(
        views: &[Arc<View>],
        tick_ms: u64,
        publish: Publish,
        restored: &Restored,
        is_own: impl Fn(ViewId, &Key) -> bool,
        has_checkpoints: bool,
        has_live: bool,
    ) -> Self {
        let is_kept = |row: &LateRow| {
            let view = views.get(usize::from(row.view));
            view.is_some_and(|view| view.gone_at(row.window) > restored.at * tick_ms) && is_own(row.view, &row.key)
        };
        let late = restored.rows.iter().filter_map(|row| match row {
            StateRow::Late(row) if is_kept(row) => Some((((row.view, row.window), row.key.clone()), row.late.clone())),
            _ => None,
        });
        let mut windows = Self {
            views: views.to_vec(),
            scores: Vec::new(),
            tick_ms,
            publish,
            frontier: restored.at,
            end: None,
            known: BTreeSet::new(),
            turns: BTreeSet::new(),
            changes: Vec::new(),
            later_changes: Vec::new(),
            late: late.collect(),
            unpublished: BTreeMap::new(),
            next_open_publish: match publish {
                Publish::Live { open_every_ms } if restored.at > 0 => next_after(restored.at * tick_ms, open_every_ms),
                _ => 0,
            },
            panes: BTreeMap::new(),
            start: restored.at,
            partial_before: restored.partial_before.clone(),
            dirty: has_checkpoints.then(Dirty::default),
            outages: Outages::restored(restored),
            outages_kept_for: outages_kept_for_ms(views) / tick_ms,
            has_live,
            scored_at: restored.at,
            shown: Vec::new(),
        };
        (windows.scores, windows.shown) = windows.restored_scores(restored, is_own);
        windows
    }

    /// Everything before this tick has been taken in.
    pub fn frontier(&self) -> Tick {
        self.frontier
    }

    /// A worker's input ended at this event clock.
    pub fn end_at(&mut self, highest: Tick) {
        self.end = self.end.max(Some(highest));
    }

    /// A partition could not be read.
    pub fn outage(&mut self, partition: PartitionInfo, outage: Outage) {
        self.outages.take(partition, outage);
    }

    /// Takes note of the changes in a sealed batch, those from `cut` on apart. `retain` gives the capability for the negation of a pane.
    pub fn note(&mut self, batch: &Batch, cut: Option<Tick>, mut retain: impl FnMut(Tick) -> Capability<Tick>) {
        let cut = cut.unwrap_or(Tick::MAX);
        let mut cursor = batch.cursor();
        while let Some(&place) = cursor.get_key(batch) {
            let (id, pane) = place;
            let view = self.views[id as usize].clone();
            let gone = pane_gone_at(&view, pane, self.tick_ms);
            // Its panes are let go like any other's; there are no documents of its windows.
            let is_hidden = view.is_hidden();
            let mut is_live = false;
            while let Some(key) = cursor.get_val(batch) {
                let (tick_ms, start) = (self.tick_ms, self.start);
                let shows_scores = self.has_live && self.scores[id as usize].is_some();
                let (changes, later) = (&mut self.changes, &mut self.later_changes);
                let (mut before, mut after) = (None, None);
                let mut is_restored = false;
                cursor.map_times(batch, |&time, _| {
                    if time >= gone {
                        return;
                    }
                    if time < start {
                        is_live = true;
                        is_restored = true;
                        return;
                    }
                    let (changes, last) =
                        if time < cut { (&mut *changes, &mut before) } else { (&mut *later, &mut after) };
                    *last = (*last).max(Some(time));
                    if is_hidden {
                        is_live = true;
                        return;
                    }
                    let time_ms = time * tick_ms;
                    // A window that is gone at this time is not changed.
                    for window in view.windows_of(pane).filter(|&w| time_ms < view.gone_at(w)) {
                        is_live = true;
                        let late = (view.final_at(window) <= time_ms).then_some(time);
                        let is_unordered = shows_scores && late.is_none() && view.end_of(window) <= time_ms;
                        let unordered = is_unordered.then_some(time);
                        changes.push(Change { window: (id, window), key: key.clone(), late, unordered });
                    }
                });
                if let Some(dirty) = &mut self.dirty {
                    dirty.note(place, key, before, after);
                }
                if is_restored && !is_hidden && matches!(self.publish, Publish::Live { .. }) {
                    // Whether it changed since it was last published is not known.
                    let restored_ms = start * tick_ms;
                    for window in view.windows_of(pane).filter(|&w| view.end_of(w) > restored_ms) {
                        self.unpublished.entry((id, window)).or_default().insert(key.clone());
                    }
                }
                cursor.step_val(batch);
            }
            if is_live {
                self.panes.entry((gone, place)).or_insert_with(|| retain(gone));
                if !is_hidden {
                    self.know(id, &view, pane);
                }
            }
            cursor.step_key(batch);
        }
    }

    /// Registers the windows over a pane.
    fn know(&mut self, id: ViewId, view: &View, pane: Millis) {
        for window in view.windows_of(pane) {
            let now = self.frontier * self.tick_ms;
            if view.gone_at(window) > now && self.known.insert((id, window)) {
                let turns = [
                    (view.end_of(window), Turn::Closed),
                    (view.final_at(window), Turn::Final),
                    (view.gone_at(window), Turn::Gone),
                ];
                // What would have been is past: a change of the window publishes it as it is now.
                self.turns
                    .extend(turns.into_iter().filter(|(at, _)| *at > now).map(|(at, turn)| (at, turn, (id, window))));
            }
        }
    }

    /// Moves to a new frontier, with the rows of the arrangement up to there or further. Returns what is to be published.
    pub fn advance(&mut self, frontier: Tick, rows: &[Batch]) -> Vec<WindowDocument> {
        self.frontier = frontier;
        let now = frontier * self.tick_ms;
        let (mut publish, rescored, contents) = self.sort_changes(now, rows, frontier, false);
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
            self.next_open_publish = next_after(now, open_every_ms);
            for (window, keys) in std::mem::take(&mut self.unpublished) {
                publish.entry(window).or_insert(Keys::Some(keys));
            }
        }
        let documents = self.documents(publish, &rescored, contents, now, rows, frontier);
        for window in gone {
            self.known.remove(&window);
            let of_window = (window, Key(Arc::from("")))..((window.0, window.1 + 1), Key(Arc::from("")));
            let keys: Vec<_> = self.late.range(of_window).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.late.remove(&key);
            }
        }
        self.outages.forget(frontier.saturating_sub(self.outages_kept_for));
        for scores in self.scores.iter_mut().flatten() {
            scores.forget(now, |plan| self.outages.gaps(plan, frontier, self.tick_ms));
        }
        documents
    }

    /// The rows that changed since the last cut, as of the frontier, to which the last advance went. Those of panes are
    /// still to be taken: they are most of them.
    pub fn cut(&mut self, rows: &[Batch]) -> Option<Taking> {
        self.changes.append(&mut self.later_changes);
        let dirty = self.dirty.as_mut()?;
        let (at, tick_ms, views) = (self.frontier, self.tick_ms, &self.views);
        let mut taken = dirty.take(at, rows, |(id, pane)| pane_gone_at(&views[id as usize], pane, tick_ms) <= at);
        let late = std::mem::take(&mut dirty.late).into_iter().filter_map(|of| {
            let late = self.late.get(&of)?.clone();
            let ((view, window), key) = of;
            Some(StateRow::Late(LateRow { view, window, key, late }))
        });
        taken.add(late.collect());
        for scores in self.scores.iter_mut().flatten() {
            taken.add(scores.cut());
        }
        Some(taken)
    }

    /// The input has ended at the highest event clock read: publishes what is not final, or became so.
    pub fn finish(&mut self, rows: &[Batch]) -> Vec<WindowDocument> {
        let Some(end) = self.end else { return Vec::new() };
        let now = end * self.tick_ms;
        self.changes.append(&mut self.later_changes);
        let (mut publish, rescored, contents) = self.sort_changes(now, rows, Tick::MAX, true);
        for &(id, window) in &self.known {
            let final_at = self.views[id as usize].final_at(window);
            if final_at > self.frontier * self.tick_ms || final_at > now {
                publish.insert((id, window), Keys::All);
            }
        }
        self.documents(publish, &rescored, contents, now, rows, Tick::MAX)
    }

    /// Turns the noted changes into revisions and scores, and into what of them is to be published at `now`. Of the rows,
    /// only those before `limit` count.
    fn sort_changes(
        &mut self,
        now: Millis,
        rows: &[Batch],
        limit: Tick,
        is_end: bool,
    ) -> (BTreeMap<WindowId, Keys>, Rescored, Contents) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        let (rescored, contents) = self.score(&changes, now, rows, limit, is_end);
        let is_live = matches!(self.publish, Publish::Live { .. });
        let mut publish: BTreeMap<WindowId, Keys> = BTreeMap::new();
        for of_row in changes.chunk_by(|a, b| (a.window, &a.key) == (b.window, &b.key)) {
            let (window, key) = (of_row[0].window, of_row[0].key.clone());
            let ticks: Vec<Tick> = of_row.iter().filter_map(|change| change.late).collect();
            if !ticks.is_empty() {
                self.correct(window, &key, &ticks, rows, limit);
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
        for (&window, keys) in &rescored {
            if let Keys::Some(all) = publish.entry(window).or_insert_with(|| Keys::Some(BTreeSet::new())) {
                all.extend(keys.keys().cloned());
            }
        }
        changes.clear();
        self.changes = changes;
        (publish, rescored, contents)
    }

    /// Makes late ticks of a window of a key, ascending, into revisions. The rows still tell these ticks apart from what
    /// was before: times in the arrangement are compacted only up to the tick before the last frontier.
    fn correct(&mut self, window: WindowId, key: &Key, ticks: &[Tick], rows: &[Batch], limit: Tick) {
        let view = &self.views[window.0 as usize];
        let limit = limit.min(view.gone_at(window.1).div_ceil(self.tick_ms));
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
                    if *time < limit {
                        parts[ticks.partition_point(|tick| tick <= time)].plus_equals(&*aggregate.0);
                    }
                });
            }
        }
        if let Some(dirty) = &mut self.dirty {
            dirty.late.insert((window, key.clone()));
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

    fn documents(
        &mut self,
        publish: BTreeMap<WindowId, Keys>,
        rescored: &Rescored,
        mut contents: Contents,
        now: Millis,
        rows: &[Batch],
        limit: Tick,
    ) -> Vec<WindowDocument> {
        let mut documents = Vec::new();
        for (window, keys) in publish {
            let view = &self.views[window.0 as usize];
            let limit = limit.min(view.gone_at(window.1).div_ceil(self.tick_ms));
            let partial = self.partial_before.get(&window.0).is_some_and(|&tick| window.1 < tick * self.tick_ms);
            let mut sums = match keys {
                Keys::All if contents.contains_key(&window) => contents.remove(&window).unwrap_or_default(),
                _ => contents_of(view, rows, window, &keys, limit),
            };
            let rescored = rescored.get(&window);
            for key in rescored.iter().flat_map(|keys| keys.keys()) {
                // Without records, but not without meaning.
                if !sums.contains_key(key) {
                    sums.insert(
                        key.clone(),
                        Aggregate { first_ms: window.1, last_ms: window.1, ..Aggregate::default() },
                    );
                }
            }
            let final_at = view.final_at(window.1);
            let is_final = now >= final_at;
            let mut scores = self.scores[window.0 as usize].as_mut();
            let number = scores.as_ref().map(|scores| scores.plan().number_of(window.1));
            for (key, aggregate) in sums {
                let late = self.late.get(&(window, key.clone()));
                let last_scored = rescored.and_then(|keys| keys.get(&key)).copied();
                let last = late.map(|late| late.last).max(last_scored).unwrap_or(0);
                let as_of_ms = if is_final { Late::as_of(last, final_at, self.tick_ms) } else { now };
                let state = WindowState::new(view, window.1, self.tick_ms, late, is_final, as_of_ms);
                let state = WindowState { partial, ..state };
                let mut document = WindowDocument::new(view, &key, window.1, &Measures::of(&aggregate), state);
                let scores = scores.as_mut().zip(number);
                let score = scores.and_then(|(scores, number)| scores.take(number, &key, is_final));
                let offsets = RecordRange::all(&aggregate.ranges, self.tick_ms);
                document.evidence = match score {
                    Some((score, states)) => {
                        document.score = Some(WindowScore { offsets, ..score });
                        states.map(|baselines| Arc::new(Evidence { offsets: Vec::new(), baselines }))
                    }
                    None => view.is_watched.then(|| Arc::new(Evidence { offsets, baselines: Arc::default() })),
                };
                documents.push(document);
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
            if let Some(dirty) = &mut self.dirty {
                dirty.forget(place);
            }
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

/// What a window contains, of rows before `limit`, by key.
pub(super) fn contents_of(
    view: &View,
    rows: &[Batch],
    window: WindowId,
    keys: &Keys,
    limit: Tick,
) -> BTreeMap<Key, Aggregate> {
    let mut sums = BTreeMap::new();
    for pane in (window.1..view.end_of(window.1)).step_by(view.pane_ms() as usize) {
        add_rows(rows, (window.0, pane), keys, limit, &mut sums);
    }
    sums
}

/// The keys of a window that have records before `limit`.
pub(super) fn keys_of(view: &View, rows: &[Batch], window: WindowId, limit: Tick) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for pane in (window.1..view.end_of(window.1)).step_by(view.pane_ms() as usize) {
        for batch in rows {
            let mut cursor = batch.cursor();
            cursor.seek_key(batch, &(window.0, pane));
            if cursor.get_key(batch) != Some(&(window.0, pane)) {
                continue;
            }
            while let Some(key) = cursor.get_val(batch) {
                let mut has_records = false;
                cursor.map_times(batch, |&time, _| has_records |= time < limit);
                if has_records {
                    keys.insert(key.clone());
                }
                cursor.step_val(batch);
            }
        }
    }
    keys
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

/// When something that is due every so many milliseconds is due next.
fn next_after(now: Millis, every_ms: u64) -> Millis {
    (now / every_ms + 1) * every_ms
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
