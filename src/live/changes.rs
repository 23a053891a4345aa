//! What changed: for those who follow the live state instead of reading it again and again.
//!
//! Nothing is noted until [`LiveView::track`]; then each update notes which rows it changed, which is all that following
//! costs the writer. [`LiveView::changes`] reads those rows as they are by then: several advances may have become one
//! step, and the state after it is exact.

use floodmark_dataflows::corrections::Measures;
use floodmark_dataflows::output::WindowDocument;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, ViewId};
use parking_lot::RwLockWriteGuard;
use tokio::sync::futures::Notified;

use super::state::{KeyFilter, ViewState};
use super::{LiveView, Row, State};

/// How a window of a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It got records, closed, or has another score.
    Window,
    /// Its allowed lateness is over, and no late record has come in the same step.
    Final,
    /// Late records came.
    Correction,
}

/// What is different at a frontier from what was at an earlier one.
#[derive(Debug)]
pub struct Changes {
    /// The frontier.
    pub frontier: Tick,
    /// The number of the advance that led there.
    pub version: u64,
    /// By listed view.
    pub views: Vec<ViewChanges>,
}

/// What is different in a view.
#[derive(Debug)]
pub struct ViewChanges {
    /// The view.
    pub view: ViewId,
    /// Windows of keys as they are now, those of one window side by side.
    pub changed: Vec<(ChangeKind, Key, WindowDocument)>,
    /// Windows of keys, by their starts, that are not there any more: they had no records, and their silence is not unusual
    /// after all.
    pub withdrawn: Vec<(Millis, Key)>,
    /// Windows that end at this time or before are gone; absent when it is the same as at the earlier frontier.
    pub gone: Option<Millis>,
}

impl ViewChanges {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.withdrawn.is_empty() && self.gone.is_none()
    }
}

impl LiveView {
    /// Resolves at the next advance after this call, once polled or enabled.
    pub fn advanced(&self) -> Notified<'_> {
        self.advanced.notified()
    }

    /// Begins to note changes. Returns the frontier and the number of the advance that they are noted from.
    pub fn track(&self) -> (Tick, u64) {
        let mut state = self.state.write();
        for (id, _) in self.listed() {
            state.views[usize::from(id)].track(true);
        }
        (state.frontier, state.version)
    }

    /// Ends it.
    pub fn untrack(&self) {
        self.state.write().views.iter_mut().for_each(|view| view.track(false));
    }

    /// What changed since the last call, or since [`LiveView::track`], at which the frontier was `since`. `None` when
    /// nothing is noted. Rows are copied while the writer waits, documents are made behind that.
    pub fn changes(&self, since: Tick) -> Option<Changes> {
        let mut state = self.state.write();
        let noted: Option<Vec<_>> =
            self.listed().map(|(id, _)| Some((id, state.views[usize::from(id)].take_changed()?))).collect();
        let noted = noted?;
        let state = RwLockWriteGuard::downgrade(state);
        let State { frontier, version, .. } = *state;
        let read = |id: ViewId| -> &ViewState { &state.views[usize::from(id)] };
        let rows: Vec<_> = noted
            .iter()
            .map(|(id, changed)| {
                let gone = read(*id).gone_through(frontier).filter(|_| frontier > since);
                let gone = gone.filter(|&end| read(*id).gone_through(since) != Some(end));
                (*id, read(*id).changed_rows(since, frontier, changed), read(*id).withdrawn(frontier, changed), gone)
            })
            .collect();
        drop(state);
        let views = rows.into_iter().map(|(view, rows, withdrawn, gone)| {
            let changed = rows.into_iter().map(|(kind, row)| (kind, row.key.clone(), self.document(view, &row)));
            ViewChanges { view, changed: changed.collect(), withdrawn, gone }
        });
        Some(Changes { frontier, version, views: views.collect() })
    }

    /// The windows of a view that there are, newest first.
    pub fn starts(&self, view: ViewId) -> Vec<Millis> {
        let state = self.state.read();
        state.views[usize::from(view)].starts(state.frontier)
    }

    /// The keys in a window that match, in no order.
    pub fn keys_in(&self, view: ViewId, start: Millis, filter: &KeyFilter) -> Vec<Key> {
        self.state.read().views[usize::from(view)].keys_in(start, filter)
    }

    /// The documents of keys in a window, as far as they are there, and the number of the advance they are exact for.
    pub fn documents(&self, view: ViewId, start: Millis, keys: &[Key]) -> (u64, Vec<WindowDocument>) {
        let state = self.state.read();
        let (version, rows) = (state.version, state.views[usize::from(view)].rows_of(state.frontier, start, keys));
        drop(state);
        (version, rows.iter().map(|row| self.document(view, row)).collect())
    }

    pub(super) fn document(&self, view: ViewId, row: &Row) -> WindowDocument {
        let measures = Measures::of(&row.aggregate);
        let score = row.score.as_ref().map(|score| score.document());
        let document =
            WindowDocument::new(&self.views[usize::from(view)], &row.key, row.start, &measures, row.state.clone());
        WindowDocument { score, ..document }
    }
}
