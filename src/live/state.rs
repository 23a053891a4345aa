//! The live state of one view: panes by key, totals by key, corrections and scores by window.
//!
//! Of records only panes are kept; a window is the sum of its panes, made when it is read. Everything that is kept has a
//! time at which it leaves, so memory is bounded by the keys times the windows retained.
//!
//! A window without records is there while its score is, which is where silence is unusual. Its key stays as long.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::checkpoint::{LateRow, PaneRow, StateRow};
use floodmark_dataflows::corrections::{Late, Revision};
use floodmark_dataflows::output::{ViewUpdate, WindowState};
use floodmark_dataflows::ranges::Ranges;
use floodmark_dataflows::scores::{ScoreUpdate, ShownScore};
use floodmark_dataflows::time::{Millis, Tick, window_start};
use floodmark_dataflows::view::{Key, OTHER, View, ViewId};

use super::changes::ChangeKind;
use super::totals::Totals;
use super::{Row, ViewSummary, WindowQuery};
use crate::checkpoint::contents::TotalsRow;

/// Keys are numbered, so that each is stored once and not again in every pane.
type KeyId = u32;
type ById<T> = HashMap<KeyId, T, foldhash::fast::RandomState>;

/// Rows that updates changed, and whether late records were among them.
pub(super) type ChangedRows = HashMap<(Millis, KeyId), bool, foldhash::fast::RandomState>;

/// Which keys to read.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum KeyFilter {
    /// Every key.
    #[default]
    All,
    /// This key.
    Exactly(Key),
    /// Keys whose fields have these values, by the field's place in the key; `None` takes any value.
    Fields(Vec<Option<String>>),
}

impl KeyFilter {
    /// Whether a key is asked for.
    pub fn matches(&self, key: &Key) -> bool {
        match self {
            KeyFilter::All => true,
            KeyFilter::Exactly(wanted) => wanted == key,
            KeyFilter::Fields(wanted) => {
                let values = key.values();
                wanted.iter().enumerate().all(|(i, w)| w.is_none() || values.get(i) == w.as_ref())
            }
        }
    }
}

/// What windows take in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Pairs of a key and a pane. For a tumbling view a pane is a window.
    pub rows: usize,
    /// Bytes for them all: the rows, the tables they are in, and the buckets of response times.
    pub bytes: usize,
}

impl MemoryUse {
    /// The sum of two.
    pub fn plus(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }

    /// Bytes for one key in one pane.
    pub fn bytes_per_row(self) -> usize {
        self.bytes / self.rows.max(1)
    }
}

#[derive(Debug)]
struct Cell {
    aggregate: Aggregate,
    /// The latest timestamp of an update.
    changed: Tick,
}

#[derive(Debug)]
struct KeyState {
    key: Key,
    totals: Totals,
    changed: Tick,
    /// Its totals changed since the last cut; it is listed then.
    is_dirty: bool,
    /// The last window that is there without records.
    last_silent: Option<Millis>,
}

/// The score of a window of a key.
#[derive(Debug)]
struct ScoreCell {
    score: Arc<ShownScore>,
    /// The tick as of which it is this.
    from: Tick,
    /// The window has no records.
    is_silent: bool,
}

/// What changed since the last cut, for checkpoints.
#[derive(Debug, Default)]
struct Dirty {
    keys: Vec<KeyId>,
    left: Vec<Key>,
}

#[derive(Debug)]
pub(super) struct ViewState {
    view: View,
    tick_ms: u64,
    /// The key for all others: it has as many values as any other.
    other: Key,
    /// The default hasher: key values come from outside and might be chosen to collide.
    ids: HashMap<Key, KeyId>,
    keys: Vec<Option<KeyState>>,
    free: Vec<KeyId>,
    /// One entry a key, due no later than the key leaves.
    silent: BinaryHeap<Reverse<(Millis, KeyId)>>,
    totals: Totals,
    panes: BTreeMap<Millis, ById<Cell>>,
    late: BTreeMap<Millis, ById<Late>>,
    scores: BTreeMap<Millis, ById<ScoreCell>>,
    /// Windows without records.
    silent_windows: BTreeSet<(Millis, KeyId)>,
    changed: Option<ChangedRows>,
    rows: usize,
    heap_bytes: usize,
    /// `None` while nobody asks for cuts.
    dirty: Option<Dirty>,
    /// Windows that start before this tick lack records: the view was added then.
    pub(super) partial_before: Tick,
}

impl ViewState {
    pub(super) fn new(view: View, tick_ms: u64) -> Self {
        Self {
            other: Key::from_values(&vec![OTHER; view.key.len()]),
            view,
            tick_ms,
            ids: HashMap::new(),
            keys: Vec::new(),
            free: Vec::new(),
            silent: BinaryHeap::new(),
            totals: Totals::default(),
            panes: BTreeMap::new(),
            late: BTreeMap::new(),
            scores: BTreeMap::new(),
            silent_windows: BTreeSet::new(),
            changed: None,
            rows: 0,
            heap_bytes: 0,
            dirty: None,
            partial_before: 0,
        }
    }

    /// From now on notes what changes, for [`ViewState::take_totals`].
    pub(super) fn track_totals(&mut self) {
        self.dirty.get_or_insert_default();
    }

    /// Totals that changed since the last call.
    pub(super) fn take_totals(&mut self, view: ViewId) -> Vec<TotalsRow> {
        let Some(dirty) = &mut self.dirty else { return Vec::new() };
        let Dirty { keys, left } = std::mem::take(dirty);
        if keys.is_empty() && left.is_empty() {
            return Vec::new();
        }
        let left = left.into_iter().filter(|key| !self.ids.contains_key(key));
        let mut rows: Vec<_> = left.map(|key| TotalsRow { view, key: Some(key), totals: None }).collect();
        for id in keys {
            // Its number may have been given to another key meanwhile, which is listed itself.
            if let Some(state) = self.keys[id as usize].as_mut().filter(|state| state.is_dirty) {
                state.is_dirty = false;
                let totals = Some((state.totals.clone(), state.changed));
                rows.push(TotalsRow { view, key: Some(state.key.clone()), totals });
            }
        }
        rows.push(TotalsRow { view, key: None, totals: Some((self.totals.clone(), 0)) });
        rows
    }

    fn note_dirty(&mut self, id: KeyId) {
        if let (Some(dirty), Some(state)) = (&mut self.dirty, &mut self.keys[id as usize])
            && !std::mem::replace(&mut state.is_dirty, true)
        {
            dirty.keys.push(id);
        }
    }

    /// Puts back totals of a key, or of the whole view.
    pub(super) fn restore_totals(&mut self, key: Option<&Key>, totals: &Totals, changed: Tick) {
        let Some(key) = key else {
            self.totals = totals.clone();
            return;
        };
        let id = self.id_of(key.clone(), changed);
        if let Some(state) = &mut self.keys[id as usize] {
            (state.totals, state.changed) = (totals.clone(), changed);
        }
    }

    /// Puts back a row.
    pub(super) fn restore(&mut self, row: &StateRow) {
        match row {
            StateRow::Pane(PaneRow { pane, key, changed, aggregate, .. }) => {
                let id = self.id_of(key.clone(), *changed);
                // Where the records are is not shown.
                let aggregate = Aggregate { ranges: Ranges::default(), ..Aggregate::clone(aggregate) };
                self.rows += 1;
                self.heap_bytes += aggregate.heap_bytes();
                let cell = Cell { aggregate, changed: *changed };
                self.panes.entry(*pane).or_default().insert(id, cell);
            }
            StateRow::Late(LateRow { window, key, late, .. }) => {
                let id = self.id_of(key.clone(), late.last);
                self.late.entry(*window).or_default().insert(id, late.clone());
            }
            // Not of live reads.
            StateRow::Series(_) | StateRow::Values(_) | StateRow::Alert(_) | StateRow::Novelty(_) => {}
        }
    }

    fn ms(&self, tick: Tick) -> Millis {
        tick.saturating_mul(self.tick_ms)
    }

    /// Takes the score of a window that is part of an advance to `frontier`. Scores and updates come in order of time: a
    /// score as of a tick before the updates of that tick.
    pub(super) fn score(&mut self, frontier: Tick, update: ScoreUpdate) {
        let ScoreUpdate { window, key, from, is_silent, score, .. } = update;
        if self.view.gone_at(window) <= self.ms(frontier) {
            return;
        }
        // A key that has left has no windows any more.
        let Some(&id) = self.ids.get(&key) else { return };
        if self.leaves_at(id).is_some_and(|at| at <= self.ms(from)) {
            return;
        }
        let cells = self.scores.entry(window).or_default();
        if let Some(changed) = self.changed.as_mut().filter(|_| score.is_some() || cells.contains_key(&id)) {
            changed.entry((window, id)).or_default();
        }
        let before = match score {
            Some(score) => {
                self.heap_bytes += score.heap_bytes();
                cells.insert(id, ScoreCell { score, from, is_silent })
            }
            None => cells.remove(&id),
        };
        self.heap_bytes -= before.map_or(0, |cell| cell.score.heap_bytes());
        let is_shown = self.scores.get(&window).is_some_and(|cells| cells.contains_key(&id));
        self.set_silent(window, id, is_silent && is_shown);
    }

    fn set_silent(&mut self, window: Millis, id: KeyId, is_silent: bool) {
        let is_changed = match is_silent {
            true => self.silent_windows.insert((window, id)),
            false => self.silent_windows.remove(&(window, id)),
        };
        if is_changed {
            let last = self.silent_windows.iter().rev().find(|(_, of)| *of == id).map(|(window, _)| *window);
            if let Some(state) = &mut self.keys[id as usize] {
                state.last_silent = last;
            }
        }
    }

    /// Adds an update that is part of an advance to `frontier`. Updates come in order of their timestamps.
    pub(super) fn update(&mut self, frontier: Tick, update: ViewUpdate) {
        let ViewUpdate { pane, key, time, aggregate, .. } = update;
        let (now, frontier_ms) = (self.ms(time), self.ms(frontier));
        let mut totals = Totals::of(&aggregate);
        match pane {
            None => totals.too_late = totals.count(),
            Some(pane) if self.view.final_at(self.view.last_window_of(pane)) <= now => totals.late = totals.count(),
            Some(_) => {}
        }
        let id = self.count_key(key, time, &totals);
        self.totals.add(&totals);
        let Some(pane) = pane.filter(|&pane| self.view.gone_at(self.view.last_window_of(pane)) > frontier_ms) else {
            return;
        };
        for window in self.view.windows_of(pane) {
            if self.view.gone_at(window) <= frontier_ms {
                continue;
            }
            let is_late = self.view.final_at(window) <= now;
            if is_late {
                self.correct(window, id, time, aggregate.count());
            }
            if let Some(changed) = &mut self.changed {
                *changed.entry((window, id)).or_default() |= is_late;
            }
        }
        match self.panes.entry(pane).or_default().entry(id) {
            Entry::Vacant(entry) => {
                self.rows += 1;
                self.heap_bytes += aggregate.heap_bytes();
                entry.insert(Cell { aggregate, changed: time });
            }
            Entry::Occupied(mut entry) => {
                let cell = entry.get_mut();
                let before = cell.aggregate.heap_bytes();
                cell.aggregate.plus_equals(&aggregate);
                cell.changed = time;
                self.heap_bytes = self.heap_bytes + cell.aggregate.heap_bytes() - before;
            }
        }
    }

    /// Notes late records that are about to be added to a window. The first of a tick see the window as it was before.
    fn correct(&mut self, window: Millis, id: KeyId, time: Tick, records: i64) {
        let known = self.late.get(&window).and_then(|of| of.get(&id));
        let before = known.is_none_or(|late| late.last != time).then(|| self.sum(window, id));
        let late = self.late.entry(window).or_default().entry(id).or_default();
        if let Some(before) = before {
            late.correct(time, Some(&before.map_or_else(Aggregate::default, |(aggregate, _)| aggregate)));
        }
        late.records += records;
    }

    /// Adds to a key's totals. A key that was silent for too long before `time` starts anew.
    fn count_key(&mut self, key: Key, time: Tick, totals: &Totals) -> KeyId {
        let id = self.id_of(key, time);
        let now = self.ms(time);
        if self.leaves_at(id).is_some_and(|at| at <= now) {
            let before = self.keys[id as usize].as_mut().map(|state| std::mem::take(&mut state.totals));
            if let Some(before) = before {
                self.count_other(time, &before);
            }
        }
        if let Some(state) = &mut self.keys[id as usize] {
            state.totals.add(totals);
            state.changed = time;
        }
        self.note_dirty(id);
        id
    }

    fn count_other(&mut self, time: Tick, totals: &Totals) {
        let other = self.id_of(self.other.clone(), time);
        if let Some(state) = &mut self.keys[other as usize] {
            state.totals.add(totals);
        }
        self.note_dirty(other);
    }

    fn id_of(&mut self, key: Key, time: Tick) -> KeyId {
        if let Some(&id) = self.ids.get(&key) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.keys.push(None);
            (self.keys.len() - 1) as KeyId
        });
        self.ids.insert(key.clone(), id);
        self.keys[id as usize] =
            Some(KeyState { key, totals: Totals::default(), changed: time, is_dirty: false, last_silent: None });
        if let Some(at) = self.leaves_at(id) {
            self.silent.push(Reverse((at, id)));
        }
        id
    }

    /// When a key leaves if nothing more comes: after `forget_after`, and never before its windows are gone. The key
    /// for all others stays.
    fn leaves_at(&self, id: KeyId) -> Option<Millis> {
        let state = self.keys[id as usize].as_ref().filter(|state| state.key != self.other)?;
        let last_window_gone = self.tick_ms + self.view.width_ms + self.view.retention_ms;
        let forgotten = self.ms(state.changed).saturating_add(self.view.forget_after_ms.max(last_window_gone));
        Some(state.last_silent.map_or(forgotten, |window| forgotten.max(self.view.gone_at(window))))
    }

    /// Drops what is gone when the frontier is here. All updates before it have been added.
    pub(super) fn advance(&mut self, frontier: Tick) {
        let now = self.ms(frontier);
        while let Some(entry) = self.panes.first_entry() {
            if self.view.gone_at(self.view.last_window_of(*entry.key())) > now {
                break;
            }
            let cells = entry.remove();
            self.rows -= cells.len();
            self.heap_bytes -= cells.values().map(|cell| cell.aggregate.heap_bytes()).sum::<usize>();
        }
        while let Some(entry) = self.late.first_entry() {
            if self.view.gone_at(*entry.key()) > now {
                break;
            }
            entry.remove();
        }
        while let Some(entry) = self.scores.first_entry() {
            if self.view.gone_at(*entry.key()) > now {
                break;
            }
            self.heap_bytes -= entry.remove().values().map(|cell| cell.score.heap_bytes()).sum::<usize>();
        }
        while self.silent_windows.first().is_some_and(|(window, _)| self.view.gone_at(*window) <= now) {
            self.silent_windows.pop_first();
        }
        while let Some(&Reverse((due, id))) = self.silent.peek() {
            if due > now {
                break;
            }
            self.silent.pop();
            match self.leaves_at(id) {
                Some(at) if at > now => self.silent.push(Reverse((at, id))),
                _ => {
                    if let Some(state) = self.keys[id as usize].take() {
                        self.ids.remove(&state.key);
                        self.free.push(id);
                        if let Some(dirty) = &mut self.dirty {
                            dirty.left.push(state.key);
                        }
                        self.count_other(frontier, &state.totals);
                    }
                }
            }
        }
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The keys that match with their totals, in no particular order.
    pub(super) fn keys(&self, filter: &KeyFilter) -> Vec<(Key, Totals)> {
        self.matching(filter).map(|(_, state)| (state.key.clone(), state.totals.clone())).collect()
    }

    pub(super) fn totals_of(&self, filter: &KeyFilter) -> Totals {
        match filter {
            KeyFilter::All => self.totals.clone(),
            _ => Totals::sum(self.matching(filter).map(|(_, state)| &state.totals)),
        }
    }

    fn matching<'a>(&'a self, filter: &'a KeyFilter) -> Box<dyn Iterator<Item = (KeyId, &'a KeyState)> + 'a> {
        let state = |id: KeyId| Some((id, self.keys[id as usize].as_ref()?));
        match filter {
            KeyFilter::Exactly(key) => Box::new(self.ids.get(key).copied().and_then(state).into_iter()),
            _ => Box::new(
                (0..)
                    .zip(&self.keys)
                    .filter_map(|(id, key)| Some((id, key.as_ref()?)))
                    .filter(|(_, state)| filter.matches(&state.key)),
            ),
        }
    }

    pub(super) fn memory(&self) -> MemoryUse {
        // A table has one byte of control for each slot, and a seventh more slots than it can hold entries.
        let slot = size_of::<(KeyId, Cell)>() + 1;
        let tables: usize = self.panes.values().map(|cells| cells.capacity() * 8 / 7 * slot).sum();
        // A score is shared by reference, with two counts beside it.
        let score = size_of::<(KeyId, ScoreCell)>() + 1;
        let shared = size_of::<ShownScore>() + 2 * size_of::<usize>();
        let scores: usize =
            self.scores.values().map(|cells| cells.capacity() * 8 / 7 * score + cells.len() * shared).sum();
        MemoryUse { rows: self.rows, bytes: tables + scores + self.heap_bytes }
    }

    pub(super) fn summary(&self, id: ViewId) -> ViewSummary {
        ViewSummary {
            id,
            keys: self.ids.len(),
            windows: self.windows(None, None).count(),
            totals: self.totals.clone(),
            memory: self.memory(),
        }
    }

    /// The rows of a page of windows, newest first, then by key; and whether there are more.
    pub(super) fn rows(&self, frontier: Tick, query: &WindowQuery) -> (Vec<Row>, bool) {
        let now = self.ms(frontier);
        let mut skip = query.skip;
        let mut rows = Vec::new();
        let wanted: Option<ById<()>> = match &query.keys {
            KeyFilter::All => None,
            filter => Some(self.matching(filter).map(|(id, _)| (id, ())).collect()),
        };
        for window in self.windows(query.from_ms, query.to_ms).filter(|&window| self.view.gone_at(window) > now) {
            let mut ids = self.ids_in(window, wanted.as_ref());
            if ids.len() <= skip {
                skip -= ids.len();
                continue;
            }
            let last = (skip + query.size - rows.len()).min(ids.len());
            let name = |id: &KeyId| self.keys[*id as usize].as_ref().map(|state| &state.key);
            // Sorting only as far as the page goes: a window may have a hundred thousand keys.
            if last < ids.len() {
                ids.select_nth_unstable_by(last, |a, b| name(a).cmp(&name(b)));
            }
            ids[..last].sort_unstable_by(|a, b| name(a).cmp(&name(b)));
            rows.extend(ids[skip..last].iter().filter_map(|&id| self.row(now, window, id)));
            if last < ids.len() {
                return (rows, true);
            }
            skip = 0;
        }
        (rows, false)
    }

    /// The windows that have a pane in memory, or a score without one, and overlap `[from, to)`, newest first.
    fn windows(&self, from: Option<Millis>, to: Option<Millis>) -> impl Iterator<Item = Millis> {
        let mut windows: BTreeSet<Millis> = self.panes.keys().flat_map(|&pane| self.view.windows_of(pane)).collect();
        windows.extend(self.silent_windows.iter().map(|(window, _)| *window));
        let width = self.view.width_ms;
        windows
            .into_iter()
            .rev()
            .filter(move |w| from.is_none_or(|from| w + width > from) && to.is_none_or(|to| *w < to))
    }

    fn panes_of(&self, window: Millis) -> impl Iterator<Item = &ById<Cell>> {
        self.panes.range(window..self.view.end_of(window)).map(|(_, cells)| cells)
    }

    fn silent_in(&self, window: Millis) -> impl Iterator<Item = KeyId> {
        self.silent_windows.range((window, KeyId::MIN)..=(window, KeyId::MAX)).map(|(_, id)| *id)
    }

    fn ids_in(&self, window: Millis, wanted: Option<&ById<()>>) -> Vec<KeyId> {
        if let Some(wanted) = wanted {
            return wanted
                .keys()
                .copied()
                .filter(|id| {
                    self.silent_windows.contains(&(window, *id))
                        || self.panes_of(window).any(|cells| cells.contains_key(id))
                })
                .collect();
        }
        let mut ids: Vec<KeyId> = self.panes_of(window).flat_map(|cells| cells.keys().copied()).collect();
        let with_records = ids.len();
        ids.extend(self.silent_in(window));
        if self.view.width_ms != self.view.pane_ms() || ids.len() > with_records {
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    /// Begins to note which rows change, or ends it.
    pub(super) fn track(&mut self, on: bool) {
        self.changed = on.then(ChangedRows::default);
    }

    /// The rows noted since the last call; `None` when none are being noted.
    pub(super) fn take_changed(&mut self) -> Option<ChangedRows> {
        self.changed.as_mut().map(std::mem::take)
    }

    /// The rows that read differently at `frontier` than at `since`, by start and in no order within: those that updates
    /// changed, and all of windows that closed or became final in between.
    pub(super) fn changed_rows(&self, since: Tick, frontier: Tick, changed: &ChangedRows) -> Vec<(ChangeKind, Row)> {
        let (since, now) = (self.ms(since), self.ms(frontier));
        let kind_of = |is_late: bool| if is_late { ChangeKind::Correction } else { ChangeKind::Window };
        let mut kinds: BTreeMap<(Millis, KeyId), ChangeKind> =
            changed.iter().map(|(&row, &is_late)| (row, kind_of(is_late))).collect();
        let reached = |at: Millis| since < at && at <= now;
        for window in self.windows(None, None) {
            let is_now_final = reached(self.view.final_at(window));
            if is_now_final || reached(self.view.end_of(window)) {
                for id in self.ids_in(window, None) {
                    let kind = kinds.entry((window, id)).or_insert(ChangeKind::Window);
                    if is_now_final && *kind == ChangeKind::Window {
                        *kind = ChangeKind::Final;
                    }
                }
            }
        }
        let kept = kinds.into_iter().filter(|((window, _), _)| self.view.gone_at(*window) > now);
        kept.filter_map(|((window, id), kind)| Some((kind, self.row(now, window, id)?))).collect()
    }

    /// Of the rows noted, those that are not there any more, though their windows are: their silence is not unusual after
    /// all.
    pub(super) fn withdrawn(&self, frontier: Tick, changed: &ChangedRows) -> Vec<(Millis, Key)> {
        let now = self.ms(frontier);
        let gone = changed.keys().filter(|(window, id)| {
            self.view.gone_at(*window) > now
                && !self.silent_windows.contains(&(*window, *id))
                && self.sum(*window, *id).is_none()
        });
        let mut withdrawn: Vec<_> =
            gone.filter_map(|&(window, id)| Some((window, self.keys[id as usize].as_ref()?.key.clone()))).collect();
        withdrawn.sort_unstable();
        withdrawn
    }

    /// The end of the latest window that is gone at a frontier.
    pub(super) fn gone_through(&self, frontier: Tick) -> Option<Millis> {
        let latest = self.ms(frontier).checked_sub(self.view.width_ms + self.view.retention_ms)?;
        Some(window_start(latest, self.view.slide_ms) + self.view.width_ms)
    }

    /// The windows at a frontier, newest first.
    pub(super) fn starts(&self, frontier: Tick) -> Vec<Millis> {
        let now = self.ms(frontier);
        self.windows(None, None).filter(|&window| self.view.gone_at(window) > now).collect()
    }

    /// The keys in a window that match, in no order.
    pub(super) fn keys_in(&self, start: Millis, filter: &KeyFilter) -> Vec<Key> {
        let key = |id: KeyId| self.keys[id as usize].as_ref().map(|state| state.key.clone());
        self.ids_in(start, None).into_iter().filter_map(key).filter(|key| filter.matches(key)).collect()
    }

    /// The rows of keys in a window, as far as they are there.
    pub(super) fn rows_of(&self, frontier: Tick, start: Millis, keys: &[Key]) -> Vec<Row> {
        let now = self.ms(frontier);
        if self.view.gone_at(start) <= now {
            return Vec::new();
        }
        keys.iter().filter_map(|key| self.row(now, start, *self.ids.get(key)?)).collect()
    }

    /// The row of a window of a key as it is, and the states before, oldest first.
    pub(super) fn history(&self, frontier: Tick, key: &Key, start: Millis) -> Option<(Row, Vec<Revision>)> {
        let (now, id) = (self.ms(frontier), *self.ids.get(key)?);
        let is_kept = start.is_multiple_of(self.view.slide_ms) && self.view.gone_at(start) > now;
        let row = self.row(now, start, id).filter(|_| is_kept)?;
        let late = self.late.get(&start).and_then(|of| of.get(&id));
        Some((row, late.map(|late| late.history.iter().cloned().collect()).unwrap_or_default()))
    }

    /// What is in a window of a key, with the last tick that changed it.
    fn sum(&self, start: Millis, id: KeyId) -> Option<(Aggregate, Tick)> {
        let mut cells = self.panes_of(start).filter_map(|cells| cells.get(&id));
        let first = cells.next()?;
        let (mut aggregate, mut changed) = (first.aggregate.clone(), first.changed);
        for cell in cells {
            aggregate.plus_equals(&cell.aggregate);
            changed = changed.max(cell.changed);
        }
        Some((aggregate, changed))
    }

    fn row(&self, now: Millis, start: Millis, id: KeyId) -> Option<Row> {
        let score = self.scores.get(&start).and_then(|of| of.get(&id));
        let silent = || Aggregate { first_ms: start, last_ms: start, ..Aggregate::default() };
        let (aggregate, seen) = match self.sum(start, id) {
            Some((aggregate, changed)) => (aggregate, self.ms(changed + 1)),
            None => (score.filter(|score| score.is_silent).map(|_| silent())?, 0),
        };
        let (end, final_at) = (self.view.end_of(start), self.view.final_at(start));
        let reached = [end, final_at].into_iter().filter(|&at| at <= now).max().unwrap_or(0);
        let late = self.late.get(&start).and_then(|of| of.get(&id));
        let as_of_ms = seen.max(reached).max(score.map_or(0, |score| self.ms(score.from)));
        let state = WindowState::new(&self.view, start, self.tick_ms, late, final_at <= now, as_of_ms);
        let state = WindowState { partial: start < self.ms(self.partial_before), ..state };
        let score = score.map(|score| score.score.clone());
        Some(Row { key: self.keys[id as usize].as_ref()?.key.clone(), start, aggregate, state, score })
    }
}
