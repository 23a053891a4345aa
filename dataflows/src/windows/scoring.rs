//! Which windows of which keys are scored when the frontier advances.
//!
//! In: what changed, and the rows of the arrangement. Out: the windows whose scores changed, and for the live state from
//! which tick on.
//!
//! Where late records changed a key, its windows are gone through late tick by late tick, however many of them the
//! frontier has passed at once: as of each late tick, and one tick later. So the last tick that changed a score, and
//! with it the `as_of` of the document, depends on the records alone. With a live state, the same is done for all records
//! that came after their windows closed: workers do not stop at the same ticks, and its reads name one for all keys. And so
//! it is for all keys where an outage was made up for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;

use super::Publish;
use super::life::{Batch, Change, Contents, Keys, Rescored, Windows, contents_of, keys_of};
use crate::aggregate::Aggregate;
use crate::checkpoint::{PaneRow, Restored, StateRow};
use crate::scores::{News, Plan, Progress, ScoreUpdate, ViewScores};
use crate::time::{Millis, Tick};
use crate::view::{Key, View, ViewId};

impl Windows {
    /// Takes in what closed by `now` and what changed, `changes` being sorted. Of the rows, only those before `limit` count.
    /// At the end of the input, what is not final is scored as well. Also returns what the windows that have closed contain.
    pub(super) fn score(
        &mut self,
        changes: &[Change],
        now: Millis,
        rows: &[Batch],
        limit: Tick,
        is_end: bool,
    ) -> (Rescored, Contents) {
        let (mut rescored, mut contents, mut updates) = (Rescored::new(), Contents::new(), Vec::new());
        for id in 0..self.scores.len() {
            // Out of its place, so that the rest can be used meanwhile.
            let Some(mut scores) = self.scores[id].take() else { continue };
            let id = id as ViewId;
            let first = changes.partition_point(|change| change.window.0 < id);
            let end = changes.partition_point(|change| change.window.0 <= id);
            let said =
                Said { windows: self, id, plan: scores.plan().clone(), rescored: &mut rescored, updates: &mut updates };
            let mut of_view = OfView { windows: self, scores: &mut scores, id, now, rows, limit, is_end, said };
            of_view.score(&changes[first..end], &mut contents);
            self.scores[id as usize] = Some(scores);
        }
        self.shown.append(&mut updates);
        self.scored_at = now / self.tick_ms;
        (rescored, contents)
    }

    /// What is shown of scores since the last call. Nothing without a live state.
    pub fn take_shown(&mut self) -> Vec<ScoreUpdate> {
        std::mem::take(&mut self.shown)
    }

    fn update(&self, view: ViewId, window: Millis, key: &Key, from: Tick, news: News) -> ScoreUpdate {
        ScoreUpdate { view, window, key: key.clone(), from, is_silent: news.is_silent, score: news.shown }
    }

    /// The tick as of which a window of a view is scored.
    fn scored_from(&self, view: ViewId, window: Millis) -> Tick {
        let view = &self.views[view as usize];
        match self.publish {
            Publish::Live { .. } => view.end_of(window).div_ceil(self.tick_ms),
            Publish::Final => view.final_at(window).div_ceil(self.tick_ms),
        }
    }

    /// The scores to go on with, of the keys that `is_own` tells.
    pub(super) fn restored_scores(
        &self,
        restored: &Restored,
        is_own: impl Fn(ViewId, &Key) -> bool,
    ) -> (Vec<Option<ViewScores>>, Vec<ScoreUpdate>) {
        let now = restored.at * self.tick_ms;
        let mut shown = Vec::new();
        let new = |(id, view): (ViewId, &Arc<View>)| {
            let whole_from = self.partial_before.get(&id).map_or(0, |tick| tick * self.tick_ms);
            let mut scores = ViewScores::new(id, view, whole_from)?;
            scores.restore(restored, &is_own);
            let progress = self.progress(scores.plan(), now, false);
            let mut by_key: BTreeMap<&Key, Vec<&PaneRow>> = BTreeMap::new();
            for row in restored.rows.iter() {
                if let StateRow::Pane(row) = row
                    && row.view == id
                    && is_own(id, &row.key)
                {
                    by_key.entry(&row.key).or_default().push(row);
                }
            }
            for (key, panes) in by_key {
                let mut windows = BTreeMap::new();
                for row in panes {
                    for window in view.windows_of(row.pane).map(|start| scores.plan().number_of(start)) {
                        if (scores.plan().gone_before(now)..progress.scored).contains(&window) {
                            let content: &mut Aggregate = windows.entry(window).or_default();
                            content.plus_equals(&*row.aggregate);
                        }
                    }
                }
                windows.iter().for_each(|(&window, content)| scores.set(window, key, content, false));
            }
            let plan = scores.plan().clone();
            let gaps = self.outages.gaps(&plan, restored.at, self.tick_ms);
            scores.restored(progress, &gaps, now, |key, news| {
                let window = plan.start_of(news.window);
                if self.has_live && view.gone_at(window) > now {
                    shown.push(self.update(id, window, key, self.scored_from(id, window).min(restored.at), news));
                }
            });
            Some(scores)
        };
        let scores = (0..).zip(&self.views).map(new).collect();
        (scores, shown)
    }

    /// By when which windows of a view are done. What is not final is not published, and so not scored, where only final
    /// windows are.
    fn progress(&self, plan: &Plan, now: Millis, is_end: bool) -> Progress {
        let settled = plan.final_before(now);
        let is_early = is_end || matches!(self.publish, Publish::Live { .. });
        Progress { scored: if is_early { plan.closed_before(now) } else { settled }, settled }
    }
}

/// The scoring of a view in an advance.
struct OfView<'a> {
    windows: &'a Windows,
    scores: &'a mut ViewScores,
    id: ViewId,
    now: Millis,
    rows: &'a [Batch],
    limit: Tick,
    is_end: bool,
    said: Said<'a>,
}

/// What is said of the scores of a view in an advance.
struct Said<'a> {
    windows: &'a Windows,
    id: ViewId,
    plan: Plan,
    rescored: &'a mut Rescored,
    updates: &'a mut Vec<ScoreUpdate>,
}

impl Said<'_> {
    /// The score of a window changed as of `at`; by `late`, if by late records.
    fn take(&mut self, key: &Key, news: News, at: Tick, is_after: bool, late: Option<Tick>) {
        let window = self.plan.start_of(news.window);
        self.note(key, window, late);
        if self.windows.has_live {
            // A window that was only waiting to be closed was scored when it was, whenever somebody looked.
            let was_due = news.is_first && !is_after;
            let from = if was_due { self.windows.scored_from(self.id, window).min(at) } else { at };
            self.updates.push(self.windows.update(self.id, window, key, from, news));
        }
    }

    fn note(&mut self, key: &Key, window: Millis, late: Option<Tick>) {
        let last = self.rescored.entry((self.id, window)).or_default().entry(key.clone()).or_default();
        *last = late.unwrap_or(0).max(*last);
    }
}

impl OfView<'_> {
    fn score(&mut self, changes: &[Change], contents: &mut Contents) {
        self.pass();
        let view = &*self.windows.views[self.id as usize];
        let mut progress = self.windows.progress(self.scores.plan(), self.now, self.is_end);
        let (closed_before, closed) = (self.scores.closed(), progress.scored);
        // Changes of closed windows, by key.
        let mut changed: BTreeMap<&Key, Vec<&Change>> = BTreeMap::new();
        for change in changes.iter().take_while(|change| self.number(change) < closed) {
            changed.entry(&change.key).or_default().push(change);
        }
        let made_up = self.windows.outages.made_up(self.windows.scored_at, self.as_of(self.now));
        if !made_up.is_empty() {
            // Of windows of all keys more is known then, also of those without records.
            let all: Vec<Key> = self.scores.keys().filter(|key| !changed.contains_key(key)).cloned().collect();
            all.iter().for_each(|key| self.go_through(key, &[], &made_up));
        }
        for (key, changes) in &changed {
            self.go_through(key, changes, &made_up);
        }
        let start = self.scores.plan().start_of(closed_before);
        let end = self.scores.plan().start_of(closed);
        for &window in self.windows.known.range((self.id, start)..(self.id, end.max(start))) {
            let of_window = contents_of(view, self.rows, window, &Keys::All, self.content_limit(window.1, self.limit));
            let number = self.scores.plan().number_of(window.1);
            for (key, content) in &of_window {
                self.scores.set(number, key, content, false);
            }
            contents.insert(window, of_window);
        }
        for (key, changes) in &changed {
            self.read(key, changes.iter().map(|change| change.window.1).filter(|window| *window < start), self.limit);
        }
        let at = self.now / self.windows.tick_ms;
        let gaps = self.windows.outages.gaps(self.scores.plan(), self.as_of(self.now), self.windows.tick_ms);
        let said = &mut self.said;
        if closed > closed_before || self.is_end {
            if self.is_end {
                progress.settled = u64::MAX;
            }
            self.scores.score_all(progress, &gaps, |key, window, news| match news {
                Some(news) => said.take(key, news, at, false, None),
                None => said.note(key, said.plan.start_of(window), None),
            });
        } else {
            for key in changed.into_keys() {
                self.scores.score_key(key, progress, &gaps, |news| said.take(key, news, at, false, None));
            }
        }
    }

    /// The tick as of which it is `now`; at the end of the input everything is known.
    fn as_of(&self, now: Millis) -> Tick {
        if self.is_end { Tick::MAX } else { now / self.windows.tick_ms }
    }

    /// Goes through the ticks of changes of a key one by one, and through those behind which outages are made up for.
    fn go_through(&mut self, key: &Key, changes: &[&Change], made_up: &BTreeSet<Tick>) {
        let ticks: BTreeSet<Tick> = changes.iter().filter_map(|change| change.late.or(change.unordered)).collect();
        // So far the last advance has gone.
        let mut before = self.windows.scored_at;
        for &tick in ticks.union(made_up) {
            if before != tick {
                self.step(key, changes, tick, None);
            }
            self.step(key, changes, tick + 1, Some(tick));
            before = tick + 1;
        }
    }

    /// Tells the keys of windows that are gone since the last time. Nothing changes those any more, also not by what came
    /// in this advance.
    fn pass(&mut self) {
        let Some((next, gone)) = self.scores.to_pass(self.now) else { return };
        let plan = self.scores.plan();
        let (start, end) = (plan.start_of(next), plan.start_of(gone));
        let keys = |&(_, window): &(ViewId, Millis)| {
            let view = &*self.windows.views[self.id as usize];
            let limit = self.content_limit(window, self.limit);
            (plan.number_of(window), keys_of(view, self.rows, (self.id, window), limit))
        };
        let windows = self.windows.known.range((self.id, start)..(self.id, end)).map(keys).collect();
        self.scores.pass(gone, &windows);
    }

    /// Goes to the state of a key as of `at`: the tick before which records came, or with `came` the one after they did.
    fn step(&mut self, key: &Key, changes: &[&Change], at: Tick, came: Option<Tick>) {
        let now = (at * self.windows.tick_ms).min(self.now);
        let progress = self.windows.progress(self.scores.plan(), now, self.is_end);
        let start = self.scores.plan().start_of(self.scores.scored(key).max(self.scores.closed()));
        let end = self.scores.plan().start_of(progress.scored);
        let closed: Vec<Millis> =
            self.windows.known.range((self.id, start)..(self.id, end.max(start))).map(|(_, window)| *window).collect();
        let of_late = changes.iter().filter(|change| came.is_some() && change.late == came);
        let of_late: BTreeSet<Millis> = of_late.map(|change| change.window.1).collect();
        let others = changes.iter().map(|change| change.window.1).filter(|window| *window < end);
        self.read(key, others.chain(closed).filter(|window| !of_late.contains(window)).collect::<BTreeSet<_>>(), at);
        for &window in &of_late {
            self.read_one(key, window, at, true);
        }
        let plan = self.scores.plan().clone();
        let made_up = came.and_then(|tick| self.windows.outages.first_of(&plan, tick, self.windows.tick_ms));
        if let Some(first) = made_up {
            self.scores.reopen(key, first);
        }
        let late = came.filter(|_| !of_late.is_empty() || made_up.is_some());
        let gaps = self.windows.outages.gaps(&plan, at, self.windows.tick_ms);
        let said = &mut self.said;
        self.scores.score_key(key, progress, &gaps, |news| said.take(key, news, at, came.is_some(), late));
    }

    fn read(&mut self, key: &Key, windows: impl IntoIterator<Item = Millis>, limit: Tick) {
        for window in windows {
            self.read_one(key, window, limit, false);
        }
    }

    fn read_one(&mut self, key: &Key, window: Millis, limit: Tick, is_changed: bool) {
        let view = &*self.windows.views[self.id as usize];
        let limit = self.content_limit(window, limit);
        let keys = Keys::Some([key.clone()].into());
        if let Some(content) = contents_of(view, self.rows, (self.id, window), &keys, limit).remove(key) {
            self.scores.set(self.scores.plan().number_of(window), key, &content, is_changed);
        }
    }

    fn number(&self, change: &Change) -> u64 {
        self.scores.plan().number_of(change.window.1)
    }

    /// What comes to the panes of a window when it is gone does not count in it.
    fn content_limit(&self, window: Millis, limit: Tick) -> Tick {
        let view = &self.windows.views[self.id as usize];
        limit.min(view.gone_at(window).div_ceil(self.windows.tick_ms))
    }
}
