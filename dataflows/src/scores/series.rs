//! The scores of a key's windows.
//!
//! In: the values of windows that have closed, in any order, and how far windows are closed, final and gone. Out: the
//! windows whose scores changed. The baseline of a window holds those that ended at or before its start. Some are kept
//! over the retention, so that a correction goes back to one and learns from there again: what was late and what was
//! not leaves no trace.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::States;
use super::learned::Learned;
use super::plan::{Plan, is_telling};
use super::shown::ShownScore;
use crate::detect::{BaselineState, Scored, WindowScore as Combined};
use crate::outages::Gaps;
use crate::output::WindowScore;
use crate::view::Key;

/// A closed window.
#[derive(Clone, Debug)]
struct Entry {
    window: u64,
    /// The values of its measures, not a number where there is none; `None` if it has no records.
    values: Option<Box<[f64]>>,
    /// What is shown of its score, as a hash; 0 for nothing.
    shown: u64,
    /// Its score, until it is published as final.
    score: Option<Arc<ShownScore>>,
    /// The states of the baselines that it was made by, as long, where alerts may need them.
    states: Option<States>,
}

impl Entry {
    /// Of a window of which nothing is shown yet.
    fn new(window: u64, values: Option<Box<[f64]>>) -> Self {
        Self { window, values, shown: 0, score: None, states: None }
    }
}

/// A window whose score changed.
#[derive(Debug)]
pub(crate) struct News {
    pub window: u64,
    /// It was not scored before.
    pub is_first: bool,
    /// It has no records.
    pub is_silent: bool,
    /// What is shown of it; `None` where there is no document any more.
    pub shown: Option<Arc<ShownScore>>,
}

/// The scores of a key's windows.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Windows with records, and those without that have a document; ascending, from the first kept baseline on.
    entries: VecDeque<Entry>,
    /// Where the grid of kept baselines lies.
    phase: u64,
    /// Ascending; never empty. Corrections reach back to the first one.
    kept: VecDeque<Arc<Learned>>,
    head: Learned,
    /// The first window that is not scored.
    scored: u64,
    /// The first window that is not final.
    settled: u64,
    /// The first window whose content changed since windows were scored.
    dirty: Option<u64>,
    /// The first kept baseline is not in a checkpoint yet.
    is_unsaved: bool,
}

impl Series {
    /// Of a key that had no records before.
    pub fn new(plan: &Plan, key: &Key) -> Self {
        Self::restored(plan, key, Learned::nothing(plan))
    }

    /// Of a key whose windows up to a kept baseline are gone.
    pub fn restored(plan: &Plan, key: &Key, learned: Learned) -> Self {
        Self {
            entries: VecDeque::new(),
            phase: plan.phase(key),
            kept: [Arc::new(learned.clone())].into(),
            scored: first_scored(plan, &learned),
            settled: 0,
            head: learned,
            dirty: None,
            is_unsaved: false,
        }
    }

    /// The first window that is not scored.
    pub fn scored(&self) -> u64 {
        self.scored
    }

    /// Takes what a closed window contains. With `is_changed`, its score is shown again even if it is the same.
    pub fn set(&mut self, window: u64, values: Box<[f64]>, is_changed: bool) {
        let shown = match self.find(window) {
            Ok(place) => {
                let entry = &mut self.entries[place];
                let is_same = entry.values.as_ref().is_some_and(|old| old.iter().zip(&values).all(same_bits));
                if is_same && !is_changed {
                    return;
                }
                entry.values = Some(values);
                &mut entry.shown
            }
            Err(place) => {
                self.entries.insert(place, Entry::new(window, Some(values)));
                &mut self.entries[place].shown
            }
        };
        if is_changed {
            *shown = 0;
        }
        self.reopen(window);
    }

    /// What windows from this one on lack has changed.
    pub fn reopen(&mut self, window: u64) {
        self.dirty = Some(self.dirty.map_or(window, |dirty| dirty.min(window)));
    }

    /// Scores the windows that have closed, those before `closed`, and again those whose score may have changed.
    /// `gaps` are the windows that lack records; `changed` gets each window whose score changed.
    /// Where the key comes for the first time, `unseen` says how unusual that is.
    pub fn score(
        &mut self,
        plan: &Plan,
        closed: u64,
        gaps: &Gaps,
        unseen: impl Fn(u64) -> Option<Scored>,
        mut changed: impl FnMut(News),
    ) {
        let scored_before = self.scored;
        let mut window = scored_before;
        if let Some(dirty) = self.dirty.take().filter(|dirty| *dirty < window) {
            // What is before the first kept baseline is gone.
            window = dirty.max(first_scored(plan, &self.kept[0])).min(window);
            self.go_back(plan.learned_before(window));
        }
        self.scored = self.scored.max(closed);
        while window < self.scored {
            let learned_before = plan.learned_before(window);
            self.learn_before(plan, gaps, learned_before);
            let (place, stalled) = (self.find(window), gaps.has(window));
            let values = place.ok().and_then(|place| self.entries[place].values.as_deref());
            if values.is_none() && !self.head.is_awake(window) {
                // Nothing to score before the next window with records, if none is waiting to be learned.
                let next = self.entries.range(self.place_of(learned_before)..).find(|entry| entry.values.is_some());
                window = next.map_or(self.scored, |next| next.window).max(window + 1);
                continue;
            }
            let is_new = values.is_some() && self.head.last.is_none();
            let mut before = None;
            let mut scored = if plan.overlap == 1 {
                before = plan.wants_evidence().then(|| self.head.baselines.clone());
                keep(&mut self.kept, &self.head, self.phase, plan);
                self.head.step(plan, values, stalled)
            } else {
                self.head.score(plan, window, values, stalled)
            };
            scored.extend(Some(window).filter(|_| is_new).and_then(&unseen));
            let combined = Combined::of(&scored);
            let is_shown = values.is_some() || is_telling(&combined);
            let was_shown = place.is_ok_and(|place| self.entries[place].shown != 0);
            if is_shown || was_shown {
                let is_silent = values.is_none();
                let score = Arc::new(plan.shown(&scored, &combined, stalled));
                let before = before.as_ref().unwrap_or(&self.head.baselines);
                let states = plan.is_evidence(&combined).then(|| before.iter().map(BaselineState::of).collect());
                let shown = if is_shown { hash(&score, states.as_ref()) } else { 0 };
                let place = place.unwrap_or_else(|place| {
                    self.entries.insert(place, Entry::new(window, None));
                    place
                });
                let entry = &mut self.entries[place];
                if entry.shown != shown {
                    (entry.shown, entry.score, entry.states) = (shown, Some(score.clone()), states);
                    let is_first = window >= scored_before;
                    changed(News { window, is_first, is_silent, shown: is_shown.then_some(score) });
                }
            }
            window += 1;
        }
    }

    /// Windows before `settled` are final. `changed` gets those without records that have a document.
    pub fn settle(&mut self, settled: u64, mut changed: impl FnMut(u64)) {
        let windows = self.entries.range(self.place_of(self.settled)..self.place_of(settled.max(self.settled)));
        windows.filter(|entry| entry.values.is_none() && entry.shown != 0).for_each(|entry| changed(entry.window));
        self.settled = self.settled.max(settled);
    }

    /// The score of a closed window, to be published. That of a final window is given once after each change.
    pub fn take_score(&mut self, window: u64, is_final: bool) -> Option<(WindowScore, Option<States>)> {
        let place = self.find(window).ok()?;
        let Entry { score, states, .. } = &mut self.entries[place];
        let (score, states) = if is_final { (score.take(), states.take()) } else { (score.clone(), states.clone()) };
        debug_assert!(score.is_some(), "window {window}");
        score.map(|score| (score.document(), states))
    }

    /// Lets go of the scores of windows that are published as final.
    pub fn drop_published(&mut self) {
        let settled = self.place_of(self.settled);
        self.entries.range_mut(..settled).for_each(|entry| (entry.score, entry.states) = (None, None));
    }

    /// Lets go of what only corrections of windows before `first` need, which are gone. Returns whether anything is left.
    pub fn forget(&mut self, plan: &Plan, gaps: &Gaps, first: u64) -> bool {
        let needed = plan.learned_before(first);
        while self.kept.len() > 1 && self.kept[1].next <= needed {
            self.kept.pop_front();
            self.is_unsaved = true;
        }
        let newest = self.entries.iter().rev().find(|entry| entry.values.is_some()).map(|entry| entry.window);
        let Some(last) = newest.max(self.kept.back().and_then(|kept| kept.last)) else { return false };
        if plan.is_forgotten(last, needed) {
            return false;
        }
        let asleep = last + super::plan::SLEEP_AFTER + 1;
        if asleep <= needed && self.kept.front().is_some_and(|kept| kept.next < asleep) {
            self.go_back(asleep);
            self.learn_before(plan, gaps, asleep);
            self.kept = [Arc::new(self.head.clone())].into();
            self.is_unsaved = true;
        }
        let oldest = self.kept[0].next;
        while self.entries.front().is_some_and(|entry| entry.window < oldest) {
            self.entries.pop_front();
        }
        true
    }

    /// The first kept baseline, if it is not in a checkpoint yet; from now on it is.
    pub fn take_unsaved(&mut self) -> Option<Arc<Learned>> {
        std::mem::take(&mut self.is_unsaved).then(|| self.kept[0].clone())
    }

    /// The values of some windows that have records.
    pub fn values(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &[f64])> {
        let places = self.place_of(from)..self.place_of(to.max(from));
        self.entries.range(places).filter_map(|entry| Some((entry.window, entry.values.as_deref()?)))
    }

    /// The last window with records before one, which is not before the first kept baseline.
    pub fn last_before(&self, window: u64) -> Option<u64> {
        let entries = self.entries.range(..self.place_of(window));
        let last = entries.rev().find(|entry| entry.values.is_some()).map(|entry| entry.window);
        last.or(self.kept[0].last)
    }

    fn find(&self, window: u64) -> Result<usize, usize> {
        match self.entries.back() {
            Some(last) if last.window < window => Err(self.entries.len()),
            _ => self.entries.binary_search_by_key(&window, |entry| entry.window),
        }
    }

    fn place_of(&self, window: u64) -> usize {
        self.find(window).unwrap_or_else(|place| place)
    }

    /// Goes back to a baseline that holds no window from `before` on.
    fn go_back(&mut self, before: u64) {
        while self.kept.len() > 1 && self.kept.back().is_some_and(|kept| kept.next > before) {
            self.kept.pop_back();
        }
        if self.head.next > before
            && let Some(kept) = self.kept.back()
        {
            self.head = Learned::clone(kept);
        }
    }

    /// Learns the windows before `before`.
    fn learn_before(&mut self, plan: &Plan, gaps: &Gaps, before: u64) {
        while self.head.next < before {
            let place = self.place_of(self.head.next);
            let next = self.entries.range(place..).find(|entry| entry.values.is_some());
            match next.filter(|next| next.window == self.head.next) {
                Some(next) => {
                    keep(&mut self.kept, &self.head, self.phase, plan);
                    self.head.learn(plan, next.values.as_deref(), gaps.has(next.window));
                }
                None if self.head.is_awake(self.head.next) => {
                    keep(&mut self.kept, &self.head, self.phase, plan);
                    self.head.learn(plan, None, gaps.has(self.head.next));
                }
                None => self.head.skip_to(plan, next.map_or(before, |next| next.window.min(before))),
            }
        }
    }
}

/// Keeps what is learned, if it is the first of a block of windows that something is learned of. Of older baselines only
/// the first of a larger block stays. Blocks of a key are the same in every run.
fn keep(kept: &mut VecDeque<Arc<Learned>>, head: &Learned, phase: u64, plan: &Plan) {
    let block = |window: u64, windows: u64| (window + phase) / windows;
    let Some(newest) = kept.back() else { return };
    if head.last.is_none() || block(head.next, plan.spacing(0)) == block(newest.next, plan.spacing(0)) {
        return;
    }
    let mut before = None;
    kept.retain(|kept| {
        let windows = plan.spacing(head.next - kept.next);
        let is_first = before.is_none_or(|before| block(before, windows) != block(kept.next, windows));
        if is_first {
            before = Some(kept.next);
        }
        is_first
    });
    kept.push_back(Arc::new(head.clone()));
}

/// The first window that is scored against a baseline, or against one that learns more windows.
fn first_scored(plan: &Plan, learned: &Learned) -> u64 {
    if learned.next == 0 { 0 } else { learned.next + plan.overlap - 1 }
}

fn same_bits((a, b): (&f64, &f64)) -> bool {
    a.to_bits() == b.to_bits()
}

/// Of what is shown of a score, and of what alerts take along of it; never 0.
fn hash(score: &ShownScore, states: Option<&States>) -> u64 {
    let Some(states) = states else { return score.hash() };
    FixedState::with_seed(3).hash_one((score.hash(), states)) | 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scores::ScoredMeasure;
    use crate::view::View;

    const RETAINED: u64 = 360;

    fn plan() -> Plan {
        let view = View {
            name: "v".into(),
            key: vec!["service_name".into()],
            key_fields: Vec::new(),
            conditions: Vec::new(),
            condition_texts: Vec::new(),
            width_ms: 10_000,
            slide_ms: 10_000,
            lateness_ms: 60_000,
            retention_ms: RETAINED * 10_000,
            max_keys: 10,
            forget_after_ms: 7 * 86_400_000,
            numbers: Vec::new(),
            number_sources: Vec::new(),
            scored: vec![ScoredMeasure::Rate],
            keeps_offsets: false,
            is_watched: false,
            evidence_from: None,
        };
        Plan::of(&view).unwrap()
    }

    fn value(window: u64) -> Box<[f64]> {
        [5.0 + (window * 7919 % 13) as f64].into()
    }

    /// Goes on to a window, one by one, as the operator does. Calls `at_each` behind each window.
    fn go_on(
        plan: &Plan,
        series: &mut Series,
        windows: std::ops::Range<u64>,
        mut at_each: impl FnMut(u64, &mut Series),
    ) {
        for window in windows {
            series.set(window, value(window), false);
            series.score(plan, window + 1, &Gaps::default(), |_| None, |_| {});
            series.settle(window.saturating_sub(6), |_| {});
            series.drop_published();
            assert!(series.forget(plan, &Gaps::default(), (window + 1).saturating_sub(RETAINED)));
            at_each(window, series);
        }
    }

    fn kept(series: &Series) -> Vec<u64> {
        series.kept.iter().map(|kept| kept.next).collect()
    }

    #[test]
    fn the_way_back_is_at_most_twice_the_way_there() {
        let plan = plan();
        let mut most = 0;
        for key in ["a", "b", "c"] {
            let mut series = Series::new(&plan, &Key(key.into()));
            go_on(&plan, &mut series, 1_000_000..1_001_400, |window, series| {
                let kept = kept(series);
                most = most.max(kept.len());
                if window < 1_000_800 {
                    return;
                }
                for age in 0..RETAINED {
                    let corrected = window - age;
                    let from = kept.iter().rev().find(|next| **next <= corrected).unwrap();
                    assert!(
                        corrected - from <= (2 * age).max(16),
                        "{window}: window {corrected} from {from}: {kept:?}"
                    );
                }
            });
        }
        assert!(most <= 8, "{most} baselines");
    }

    #[test]
    fn keys_move_on_from_their_oldest_baseline_in_turn() {
        let plan = plan();
        let mut unsaved: BTreeMap<u64, usize> = BTreeMap::new();
        for key in 0..256 {
            let mut series = Series::new(&plan, &Key(format!("service-{key}").into()));
            go_on(&plan, &mut series, 1_000_000..1_000_600, |window, series| {
                *unsaved.entry(window).or_default() += usize::from(series.take_unsaved().is_some());
            });
        }
        // Behind the first stretch: all begin together.
        let later: Vec<usize> = unsaved.range(1_000_000 + RETAINED + 20..).map(|(_, count)| *count).collect();
        assert_eq!(later.iter().sum::<usize>() / later.len(), 256 / plan.stretch as usize, "one a stretch and key");
        assert!(later.iter().all(|count| *count <= 10), "{later:?}");
    }

    #[test]
    fn a_restored_series_keeps_the_same_baselines() {
        let plan = plan();
        let key = Key("k".into());
        let mut series = Series::new(&plan, &key);
        let mut saved = Learned::nothing(&plan);
        let mut values = BTreeMap::new();
        go_on(&plan, &mut series, 1_000_000..1_000_777, |_, series| {
            if let Some(learned) = series.take_unsaved() {
                saved = Learned::clone(&learned);
            }
        });
        values.extend(series.values(saved.next, u64::MAX).map(|(window, values)| (window, values.to_vec())));
        let mut restored = Series::restored(&plan, &key, saved);
        for (window, values) in values {
            restored.set(window, values.into(), false);
        }
        restored.score(&plan, 1_000_777, &Gaps::default(), |_| None, |_| {});
        assert_eq!(kept(&restored), kept(&series));
        go_on(&plan, &mut series, 1_000_777..1_001_000, |_, _| {});
        go_on(&plan, &mut restored, 1_000_777..1_001_000, |_, _| {});
        assert_eq!(kept(&restored), kept(&series));
        assert_eq!(restored.head, series.head);
    }
}
