//! The state that live reads are answered from.
//!
//! In: every [`ViewUpdate`] and score of every worker of every process, through a [`LiveWriter`], with each advance of the
//! frontier. Out: totals and windows, each read exact as of one frontier, which it names (`as_of`). Nothing here can
//! fail: a read of a view that is not there is `None`.
//!
//! - [`state`]: the state of one view; what an update changes and when windows leave.
//! - [`changes`]: what changed since an earlier frontier, for those who follow.
//! - [`totals`]: what is kept per key for good. [`patterns`]: counts of patterns of messages.
//! - [`progress`]: where each partition stands, for `/progress` and the metrics.
//!
//! Readers share a lock with the writer. They copy rows out under it and build documents behind it, so the writer
//! waits for copying only.

pub mod changes;
pub mod patterns;
pub mod progress;
mod state;
pub mod totals;

use std::sync::Arc;

use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::checkpoint::{LateRow, PaneRow, Restored, StateRow};
use floodmark_dataflows::corrections::Late;
use floodmark_dataflows::output::{KeyFields, LiveSink, ViewUpdate, WindowDocument, WindowState};
use floodmark_dataflows::patterns::PatternUpdate;
use floodmark_dataflows::scores::{ScoreUpdate, ShownScore};
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, View, ViewId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::checkpoint::contents::LiveRows;
use patterns::{Merged, PatternFilter, PatternState, PatternsRead};
use state::ViewState;
pub use state::{KeyFilter, MemoryUse};
use totals::Totals;

/// The live state of every view. Shared by the worker that writes it and the API that reads it.
#[derive(Debug)]
pub struct LiveView {
    tick_ms: u64,
    views: Vec<View>,
    service_view: ViewId,
    state: RwLock<State>,
    /// Which pattern each first cut belongs to, as of the last read. Locked before `state`.
    merged: Mutex<Merged>,
    /// What changed, as of the last cut.
    cut: Mutex<Option<(Tick, LiveRows)>>,
    /// Told of each advance.
    advanced: Notify,
}

#[derive(Debug)]
struct State {
    frontier: Tick,
    /// Counts the advances, of which the one at the end of the input may leave the frontier where it is.
    version: u64,
    views: Vec<ViewState>,
    patterns: PatternState,
}

impl State {
    fn score(&mut self, frontier: Tick, update: ScoreUpdate) {
        if let Some(view) = self.views.get_mut(usize::from(update.view)) {
            view.score(frontier, update);
        }
    }
}

/// A read of one view or of all, with the time it is exact for.
#[derive(Clone, Debug, PartialEq)]
pub struct AsOf<T> {
    /// The event-clock time in milliseconds that everything before is in; `None` before the first record.
    pub as_of: Option<Millis>,
    /// What was read.
    pub value: T,
}

/// Totals since the start by service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceTotals {
    /// Over all services: the sum of `services`.
    pub all: Totals,
    /// By service name, ascending.
    pub services: Vec<(String, Totals)>,
}

/// A view in brief.
#[derive(Clone, Debug)]
pub struct ViewSummary {
    /// Its number.
    pub id: ViewId,
    /// Keys known at present.
    pub keys: usize,
    /// Windows in memory, counted once for all keys.
    pub windows: usize,
    /// Over all keys, since the start.
    pub totals: Totals,
    /// What the view's windows take.
    pub memory: MemoryUse,
}

/// Which windows to read.
#[derive(Clone, Debug, Default)]
pub struct WindowQuery {
    /// Which keys.
    pub keys: KeyFilter,
    /// Windows that end behind this time.
    pub from_ms: Option<Millis>,
    /// Windows that start before this time.
    pub to_ms: Option<Millis>,
    /// How many to pass over.
    pub skip: usize,
    /// How many to answer at the most.
    pub size: usize,
}

/// A page of windows, newest first, then by key.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowPage {
    /// Totals since the start over the keys that were asked for.
    pub totals: Totals,
    /// The windows.
    pub windows: Vec<WindowDocument>,
    /// Whether there are more behind these.
    pub more: bool,
}

/// A page of a view's keys with their totals since the start, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPage {
    /// How many keys match.
    pub total: usize,
    /// Over the keys that match, also those not on this page.
    pub totals: Totals,
    /// The keys.
    pub keys: Vec<(Key, Totals)>,
}

/// A window's row as it is copied out under the lock.
struct Row {
    key: Key,
    start: Millis,
    aggregate: Aggregate,
    state: WindowState,
    score: Option<Arc<ShownScore>>,
}

impl LiveView {
    /// An empty state. `service_view` is the view whose key is `service_name` alone, without conditions: it supplies
    /// the totals by service.
    pub fn new(views: Vec<View>, tick_ms: u64, service_view: ViewId) -> Self {
        let states = views.iter().map(|view| ViewState::new(view.clone(), tick_ms)).collect();
        Self {
            tick_ms,
            views,
            service_view,
            state: RwLock::new(State { frontier: 0, version: 0, views: states, patterns: PatternState::new(tick_ms) }),
            merged: Mutex::default(),
            cut: Mutex::default(),
            advanced: Notify::new(),
        }
    }

    /// Puts back the state of a checkpoint. With `track`, what changes from now on and is not in the workers' rows is noted
    /// at each cut, for [`LiveView::take_rows`].
    pub fn restore(&self, restored: &Restored, live: &LiveRows, track: bool) {
        let mut state = self.state.write();
        state.frontier = restored.at;
        for (&view, &tick) in &restored.partial_before {
            if let Some(view) = state.views.get_mut(usize::from(view)) {
                view.partial_before = tick;
            }
        }
        state.patterns.restore(&live.patterns);
        for row in &live.totals {
            let view = state.views.get_mut(usize::from(row.view));
            if let (Some(view), Some((totals, changed))) = (view, &row.totals) {
                view.restore_totals(row.key.as_ref(), totals, *changed);
            }
        }
        for row in restored.rows.iter() {
            let (StateRow::Pane(PaneRow { view, .. }) | StateRow::Late(LateRow { view, .. })) = row else { continue };
            if let Some(view) = state.views.get_mut(usize::from(*view)) {
                view.restore(row);
            }
        }
        if track {
            state.views.iter_mut().for_each(ViewState::track_totals);
            state.patterns.track();
        }
    }

    /// What changed between the cut before and the one at `at`; `None` before that one was made. Given once.
    pub fn take_rows(&self, at: Tick) -> Option<LiveRows> {
        self.cut.lock().take_if(|(cut, _)| *cut == at).map(|(_, rows)| rows)
    }

    /// The receiving end.
    pub fn writer(self: &Arc<Self>) -> LiveWriter {
        LiveWriter { live: self.clone(), scores: Vec::new() }
    }

    /// The length of a tick.
    pub fn tick_ms(&self) -> u64 {
        self.tick_ms
    }

    /// The views that are listed, in the order of the configuration. Names that start with `__` are not.
    pub fn listed(&self) -> impl Iterator<Item = (ViewId, &View)> {
        (0..).zip(&self.views).filter(|(_, view)| !view.is_hidden())
    }

    /// The listed view of this name.
    pub fn find(&self, name: &str) -> Option<(ViewId, &View)> {
        self.listed().find(|(_, view)| &*view.name == name)
    }

    /// The event-clock time in milliseconds that everything before is in; `None` before the first record.
    pub fn as_of(&self) -> Option<Millis> {
        self.ms(self.state.read().frontier)
    }

    fn ms(&self, frontier: Tick) -> Option<Millis> {
        (frontier > 0).then(|| frontier.saturating_mul(self.tick_ms))
    }

    /// Totals by service since the start.
    pub fn services(&self) -> AsOf<ServiceTotals> {
        let state = self.state.read();
        let as_of = self.ms(state.frontier);
        let view = &state.views[usize::from(self.service_view)];
        let (all, mut keys) = (view.totals().clone(), view.keys(&KeyFilter::All));
        drop(state);
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let services = keys.into_iter().map(|(key, totals)| (key.values().swap_remove(0), totals)).collect();
        AsOf { as_of, value: ServiceTotals { all, services } }
    }

    /// All listed views in brief.
    pub fn summaries(&self) -> AsOf<Vec<ViewSummary>> {
        let state = self.state.read();
        let value = self.listed().map(|(id, _)| state.views[usize::from(id)].summary(id)).collect();
        AsOf { as_of: self.ms(state.frontier), value }
    }

    /// A page of a view's keys with their totals; `None` when there is no such view.
    pub fn keys(&self, view: ViewId, filter: &KeyFilter, skip: usize, size: usize) -> Option<AsOf<KeyPage>> {
        let state = self.state.read();
        let as_of = self.ms(state.frontier);
        let mut keys = state.views.get(usize::from(view))?.keys(filter);
        drop(state);
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let totals = Totals::sum(keys.iter().map(|(_, totals)| totals));
        let total = keys.len();
        let keys = keys.into_iter().skip(skip).take(size).collect();
        Some(AsOf { as_of, value: KeyPage { total, totals, keys } })
    }

    /// A page of a view's windows; `None` when there is no such view.
    pub fn windows(&self, view: ViewId, query: &WindowQuery) -> Option<AsOf<WindowPage>> {
        let state = self.state.read();
        let as_of = self.ms(state.frontier);
        let view_state = state.views.get(usize::from(view))?;
        let totals = view_state.totals_of(&query.keys);
        let (rows, more) = view_state.rows(state.frontier, query);
        drop(state);
        let windows = rows.iter().map(|row| self.document(view, row)).collect();
        Some(AsOf { as_of, value: WindowPage { totals, windows, more } })
    }

    /// The revisions of a window of a key that are kept, newest first, each without what it was before: that is the next
    /// one. `None` when there is no such window.
    pub fn history(&self, view: ViewId, key: &Key, start: Millis) -> AsOf<Option<Vec<WindowDocument>>> {
        let state = self.state.read();
        let as_of = self.ms(state.frontier);
        let found = state.views.get(usize::from(view)).and_then(|of| of.history(state.frontier, key, start));
        drop(state);
        let value = found.map(|(row, before)| {
            let definition = &self.views[usize::from(view)];
            let document = |measures, state| WindowDocument::new(definition, key, start, measures, state);
            let latest = WindowState { previous: None, ..row.state };
            let partial = latest.partial;
            let earlier = (0..row.state.revision).rev().zip(before.iter().rev()).map(|(revision, before)| {
                let as_of_ms = Late::as_of(before.last, definition.final_at(start), self.tick_ms);
                let late_records = before.records;
                let state = WindowState { revision, late_records, previous: None, is_final: true, partial, as_of_ms };
                document(&before.measures, state)
            });
            let latest = self.document(view, &Row { state: latest, ..row });
            std::iter::once(latest).chain(earlier).collect()
        });
        AsOf { as_of, value }
    }

    /// The patterns that have records, with the counts of those that match.
    pub fn patterns(&self, filter: &PatternFilter) -> AsOf<PatternsRead> {
        let mut merged = self.merged.lock();
        let state = self.state.read();
        let as_of = self.ms(state.frontier);
        let copied = state.patterns.copy(state.frontier, merged.known(), filter);
        drop(state);
        AsOf { as_of, value: merged.read(copied) }
    }

    /// The ids that documents of a pattern of today have as `pattern_id`: those of its first cuts. Of an id that is no
    /// pattern's, itself.
    pub fn cuts_of_pattern(&self, id: u64) -> Vec<u64> {
        let mut merged = self.merged.lock();
        let new = self.state.read().patterns.named(merged.known());
        merged.take(new);
        merged.cuts_of(id)
    }

    /// What all windows in memory take, hidden views included.
    pub fn memory(&self) -> MemoryUse {
        self.state.read().views.iter().map(ViewState::memory).fold(MemoryUse::default(), MemoryUse::plus)
    }
}

/// The names of a view's key fields with the values of a key.
pub fn key_fields(view: &View, key: &Key) -> KeyFields {
    KeyFields(view.key.iter().cloned().zip(key.values()).collect())
}

/// Writes the live state. There is one for each [`LiveView`], held by one worker of the process.
#[derive(Debug)]
pub struct LiveWriter {
    live: Arc<LiveView>,
    /// For the next advance.
    scores: Vec<ScoreUpdate>,
}

impl LiveSink for LiveWriter {
    fn apply(&mut self, frontier: Tick, mut updates: Vec<ViewUpdate>, patterns: Vec<PatternUpdate>) {
        // In order of their timestamps, so that distinct ticks are counted and silent keys leave as they would have
        // if the frontier had passed each tick by itself.
        updates.sort_by_key(|update| update.time);
        let mut scores = std::mem::take(&mut self.scores).into_iter().peekable();
        let mut state = self.live.state.write();
        for update in updates {
            // Equal only at the end of the input, where the frontier stays at the last tick read.
            debug_assert!(update.time >= state.frontier && update.time <= frontier);
            while let Some(score) = scores.next_if(|score| score.from <= update.time) {
                state.score(frontier, score);
            }
            if let Some(view) = state.views.get_mut(usize::from(update.view)) {
                view.update(frontier, update);
            }
        }
        for score in scores {
            state.score(frontier, score);
        }
        for update in patterns {
            state.patterns.update(update);
        }
        for view in &mut state.views {
            view.advance(frontier);
        }
        state.frontier = frontier;
        state.version += 1;
        drop(state);
        self.live.advanced.notify_waiters();
    }

    fn scores(&mut self, updates: Vec<ScoreUpdate>) {
        self.scores.extend(updates);
    }

    fn cut(&mut self, at: Tick) {
        let mut state = self.live.state.write();
        let views = (0..).zip(&mut state.views);
        let totals: Vec<_> = views.flat_map(|(id, view)| view.take_totals(id)).collect();
        let patterns = state.patterns.take_rows();
        drop(state);
        let mut cut = self.live.cut.lock();
        // Of a checkpoint that came to nothing: what changed then is of this one. Later rows replace earlier ones.
        let mut all = cut.take().map(|(_, rows)| rows).unwrap_or_default();
        all.totals.extend(totals);
        all.patterns.extend(patterns);
        *cut = Some((at, all));
    }
}

#[cfg(test)]
mod tests;
