//! Scores of windows: how unusual each closed window of a key is against those before it.
//!
//! In: the contents of windows as they close and change. Out: the score of each, and which of them changed. A score is a
//! pure function of window contents, explanation included: a correction learns again from there on, and every window
//! whose score shows it is published again. Nothing here fails.
//!
//! - [`ScoredMeasure`]: what of a window can be scored.
//! - `novelty`: patterns that were never there before.
//! - `plan`: the times of a view in numbers of windows, and what a document shows.
//! - `learned`: what windows teach, one after the other; sleep and forgetting.
//! - `series`: the windows of one key, and the baselines kept for corrections.
//! - `shown`: what is shown of a score, as it is kept and sent.
//! - `again`: a window scored again, from the state of its baselines.
//!
//! # Which windows count
//!
//! Those of the grid from the key's first record on; not those of a view that began before the view did. A window
//! without records counts as zero where the measure is a rate and as nothing elsewhere; it has a document only if its
//! score is at least 50 ("withdrawn" is one that had, and no longer does: its last document has a lower score). Where a
//! partition could not be read, a window says nothing of rates, nor of anything that it has no value of. After
//! 1,000 windows without records in a row a key sleeps until it has some; after `forget_after` it is forgotten.

mod again;
mod learned;
mod measure;
mod novelty;
mod plan;
mod series;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use again::score_again;
pub use learned::Learned;
pub use measure::ScoredMeasure;
use novelty::Novelties;
pub use novelty::Past;
pub use plan::{Plan, SLEEP_AFTER, outages_kept_for_ms, windows_until_learned};
pub(crate) use series::News;
pub use shown::{ScoreUpdate, ShownMeasure, ShownScore};

use crate::aggregate::Aggregate;
use crate::checkpoint::{NoveltyRow, Restored, SeriesRow, StateRow, ValuesRow};
use crate::detect::BaselineState;
use crate::outages::Gaps;
use crate::output::WindowScore;
use crate::time::Millis;
use crate::view::{Key, View, ViewId};
use series::Series;

/// The states of the baselines of a key before a window, in the order of the view's measures.
pub(crate) type States = Arc<[BaselineState]>;

/// The scores of all keys of a view on a worker.
pub(crate) struct ViewScores {
    view: ViewId,
    plan: Plan,
    /// Windows from this number on are whole.
    first: u64,
    series: BTreeMap<Key, Series>,
    /// Where it is scored whether a pattern is new.
    unseen: Option<Novelties>,
    /// The first window that is not closed.
    closed: u64,
    /// The first window that is not gone.
    gone: u64,
    /// Windows before this one are gone, and their values are in a checkpoint.
    saved: u64,
}

/// How far windows are: the first that is not to be scored yet, and the first that is not final yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub scored: u64,
    pub settled: u64,
}

impl ViewScores {
    /// Of a view; `None` if nothing of it is scored. Windows that start before `whole_from` lack records.
    pub fn new(id: ViewId, view: &View, whole_from: Millis) -> Option<Self> {
        let plan = Plan::of(view)?;
        let first = plan.number_of(whole_from) + u64::from(plan.start_of(plan.number_of(whole_from)) < whole_from);
        let unseen = plan.news_place.map(Novelties::new);
        Some(Self { view: id, plan, first, series: BTreeMap::new(), unseen, closed: 0, gone: 0, saved: 0 })
    }

    /// The times of the view.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The first window that is not closed.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// The first window of a key that is not scored.
    pub fn scored(&self, key: &Key) -> u64 {
        self.series.get(key).map_or(0, Series::scored)
    }

    /// Takes what a closed window of a key contains. With `is_changed` it is published again whatever its score.
    pub fn set(&mut self, window: u64, key: &Key, content: &Aggregate, is_changed: bool) {
        if window < self.first || content.count() <= 0 {
            return;
        }
        let value = |measure: &ScoredMeasure| self.plan.value_of(*measure, content).unwrap_or(f64::NAN);
        let values = self.plan.measures.iter().map(value).collect();
        let series = match self.series.get_mut(key) {
            Some(series) => series,
            None => self.series.entry(key.clone()).or_insert_with(|| Series::new(&self.plan, key)),
        };
        series.set(window, values, is_changed);
    }

    /// The first of the windows whose keys are to [pass](Self::pass), and the first that is not gone at `now`. `None` where
    /// they do not matter.
    pub fn to_pass(&self, now: Millis) -> Option<(u64, u64)> {
        let next = self.unseen.as_ref()?.next().max(self.first);
        Some((next, self.plan.gone_before(now))).filter(|(next, gone)| next < gone)
    }

    /// Takes the keys of the windows before `gone` that have records.
    pub fn pass(&mut self, gone: u64, windows: &BTreeMap<u64, BTreeSet<Key>>) {
        let Some(unseen) = &mut self.unseen else { return };
        let series = &self.series;
        unseen.pass(&self.plan, windows, |key, window| series.get(key)?.last_before(window));
        unseen.passed(&self.plan, gone);
    }

    /// All keys that have windows.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.series.keys()
    }

    /// What windows of a key lack from this one on has changed.
    pub fn reopen(&mut self, key: &Key, window: u64) {
        if let Some(series) = self.series.get_mut(key) {
            series.reopen(window);
        }
    }

    /// Scores the windows of a key that have closed or changed, where those in `gaps` lack records. `changed` gets those
    /// whose score did.
    pub fn score_key(&mut self, key: &Key, progress: Progress, gaps: &Gaps, changed: impl FnMut(News)) {
        if let Some(series) = self.series.get_mut(key) {
            let unseen = |window| self.unseen.as_ref()?.judge(&self.plan, key, window);
            series.score(&self.plan, progress.scored, gaps, unseen, changed);
        }
    }

    /// The same for all keys. Of windows without records that became final there is no news.
    pub fn score_all(&mut self, progress: Progress, gaps: &Gaps, mut changed: impl FnMut(&Key, u64, Option<News>)) {
        self.closed = progress.scored.max(self.closed);
        for (key, series) in &mut self.series {
            let unseen = |window| self.unseen.as_ref()?.judge(&self.plan, key, window);
            series.score(&self.plan, progress.scored, gaps, unseen, |news| changed(key, news.window, Some(news)));
            series.settle(progress.settled, |window| changed(key, window, None));
        }
    }

    /// Lets go of what only windows need that are gone by `now`. `gaps` says which lack records.
    pub fn forget(&mut self, now: Millis, gaps: impl FnOnce(&Plan) -> Gaps) {
        let gone = self.plan.gone_before(now);
        if gone > self.gone {
            self.gone = gone;
            let gaps = gaps(&self.plan);
            self.series.retain(|_, series| series.forget(&self.plan, &gaps, gone));
        }
    }

    /// The score of a closed window, to be published, and the states of the baselines that it was made by, if alerts may
    /// need them. Those of a final one are given once after each change.
    pub fn take(&mut self, window: u64, key: &Key, is_final: bool) -> Option<(WindowScore, Option<States>)> {
        self.series.get_mut(key)?.take_score(window, is_final)
    }

    /// What has to be kept to go on from here, after what is gone was forgotten, and was not kept by an earlier call.
    pub fn cut(&mut self) -> Vec<StateRow> {
        let (gone, mut rows) = (self.gone, Vec::new());
        for (key, series) in &mut self.series {
            let (view, key) = (self.view, key.clone());
            for (window, values) in series.values(self.saved, gone) {
                let (key, measures) = (key.clone(), self.plan.measures.clone());
                rows.push(StateRow::Values(ValuesRow { view, window, key, measures, values: values.into() }));
            }
            if let Some(learned) = series.take_unsaved() {
                let measures = self.plan.measures.to_vec();
                rows.push(StateRow::Series(SeriesRow { view, key, measures, learned }));
            }
        }
        for (key, past) in self.unseen.iter_mut().flat_map(Novelties::cut) {
            rows.push(StateRow::Novelty(NoveltyRow {
                view: self.view,
                key,
                measures: self.plan.measures.to_vec(),
                past,
            }));
        }
        self.saved = self.saved.max(gone);
        rows
    }

    /// Goes on from the rows of a checkpoint, of which `is_own` tells this worker's. The contents of windows that are not
    /// gone are to be [set](Self::set) after that.
    pub fn restore(&mut self, restored: &Restored, is_own: impl Fn(ViewId, &Key) -> bool) {
        for row in restored.rows.iter() {
            if let StateRow::Series(SeriesRow { view, key, measures, learned }) = row
                && *view == self.view
                && measures[..] == self.plan.measures[..]
                && is_own(*view, key)
            {
                self.series.insert(key.clone(), Series::restored(&self.plan, key, Learned::clone(learned)));
            }
        }
        for row in restored.rows.iter() {
            if let (StateRow::Novelty(NoveltyRow { view, key, measures, past }), Some(unseen)) = (row, &mut self.unseen)
                && *view == self.view
                && measures[..] == self.plan.measures[..]
                && is_own(*view, key)
            {
                unseen.restore(key.clone(), past.clone());
            }
        }
        for row in restored.rows.iter() {
            if let StateRow::Values(ValuesRow { view, window, key, measures, values }) = row
                && *view == self.view
                && measures[..] == self.plan.measures[..]
                && is_own(*view, key)
            {
                let series = self.series.entry(key.clone()).or_insert_with(|| Series::new(&self.plan, key));
                series.set(*window, values.clone(), false);
            }
        }
    }

    /// Ends the restoration: what happened before the checkpoint was published. `scored` gets what is shown now.
    pub fn restored(&mut self, progress: Progress, gaps: &Gaps, now: Millis, mut scored: impl FnMut(&Key, News)) {
        self.unseen.iter_mut().for_each(|unseen| unseen.passed(&self.plan, self.plan.gone_before(now)));
        self.score_all(progress, gaps, |key, _, news| {
            if let Some(news) = news {
                scored(key, news);
            }
        });
        self.series.values_mut().for_each(Series::drop_published);
        self.forget(now, |_| gaps.clone());
        self.saved = self.gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_other_measures_teach_nothing() {
        let view = View {
            name: "v".into(),
            key: vec!["service_name".into()],
            key_fields: Vec::new(),
            conditions: Vec::new(),
            condition_texts: Vec::new(),
            width_ms: 10_000,
            slide_ms: 10_000,
            lateness_ms: 0,
            retention_ms: 60_000,
            max_keys: 10,
            forget_after_ms: 7 * 86_400_000,
            numbers: Vec::new(),
            number_sources: Vec::new(),
            scored: vec![ScoredMeasure::Rate],
            keeps_offsets: false,
            is_watched: false,
            evidence_from: None,
        };
        for (measure, known) in [(ScoredMeasure::Rate, 1), (ScoredMeasure::P95, 0)] {
            let (key, measures, values) = (Key("a".into()), [measure].into(), [5.0].into());
            let row = StateRow::Values(ValuesRow { view: 0, window: 7, key, measures, values });
            let restored = Restored { at: 1_000, rows: Arc::new(vec![row]), ..Restored::default() };
            let mut scores = ViewScores::new(0, &view, 0).unwrap();
            scores.restore(&restored, |_, _| true);
            assert_eq!(scores.keys().count(), known, "{measure:?}");
        }
    }
}
