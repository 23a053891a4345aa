//! The baselines of one measure along a key's windows, kept so that a correction goes back and folds forward again.
//!
//! In: which windows have closed and which were corrected, and a function that gives a window's value. Out: scores.
//! Windows are numbered by `start / slide`. The baseline of a window holds the windows that ended at or before its
//! start, and no other; what was late and what was not leaves no trace. A baseline is kept every 16 windows.

use std::collections::VecDeque;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Baseline, Measure, Scored};

/// Windows between two baselines that are kept: a correction folds at most this many windows that did not change.
pub const KEEP_EVERY: u64 = 16;

/// The baselines of one measure of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    slide_ms: u64,
    /// Windows that begin within one window's width: 1 for tumbling windows.
    overlap: u64,
    /// By number of the first window not learned, ascending; never empty.
    kept: VecDeque<(u64, Baseline)>,
    /// Of all windows before `next`.
    head: Baseline,
    next: u64,
}

impl Series {
    /// A series that begins with the window `first`, the earliest that has a record. `overlap` is width / slide.
    pub fn new(measure: Measure, slide_ms: u64, overlap: u64, first: u64) -> Self {
        let head = Baseline::new(measure);
        Self { slide_ms, overlap: overlap.max(1), kept: [(first, head.clone())].into(), head, next: first }
    }

    /// The first window that is not learned yet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The baseline of all closed windows.
    pub fn head(&self) -> &Baseline {
        &self.head
    }

    /// Learns the windows up to `end`, exclusive, which have closed. Costs O(1) each.
    pub fn close(&mut self, end: u64, value: impl Fn(u64) -> Option<f64>) {
        while self.next < end {
            if self.next.is_multiple_of(KEEP_EVERY) && self.kept.back().is_none_or(|(at, _)| *at < self.next) {
                self.kept.push_back((self.next, self.head.clone()));
            }
            self.head.learn(self.next * self.slide_ms, value(self.next));
            self.next += 1;
        }
    }

    /// Learns again from the window `from` on, whose value has changed, and returns the windows whose scores may have
    /// changed with it, closed or not; empty if nothing was learned of it. A window before the first one moves the
    /// beginning there. Costs at most [`KEEP_EVERY`] windows more than have closed since.
    pub fn correct(&mut self, from: u64, value: impl Fn(u64) -> Option<f64>) -> Range<u64> {
        if from >= self.next {
            return from..from;
        }
        while self.kept.len() > 1 && self.kept.back().is_some_and(|(at, _)| *at > from) {
            self.kept.pop_back();
        }
        let Some((at, baseline)) = self.kept.back_mut() else { return from..from };
        // Before the oldest that is kept: either before the beginning, or longer ago than corrections are taken.
        if *at > from && baseline.is_empty() {
            *at = from;
        }
        let end = self.next;
        let from = from.max(*at);
        (self.next, self.head) = (*at, baseline.clone());
        self.close(end, value);
        from..end + self.overlap
    }

    /// Scores windows, in order, each with its number. Those whose baseline is no longer kept are left out. Costs at
    /// most [`KEEP_EVERY`] windows more than there are in the range; O(1) for the window that closes or opens next.
    pub fn scores(&self, windows: Range<u64>, value: impl Fn(u64) -> Option<f64>, mut each: impl FnMut(u64, Scored)) {
        let mut held: Option<(u64, Baseline)> = None;
        for window in windows {
            // The first window that is not in its baseline.
            let end = (window + 1).saturating_sub(self.overlap).min(self.next);
            if end == self.next {
                each(window, self.head.score(window * self.slide_ms, value(window)));
                continue;
            }
            let start = || self.kept.iter().rev().find(|(at, _)| *at <= end).cloned();
            let Some((mut at, mut baseline)) = held.take().or_else(start) else { continue };
            while at < end {
                baseline.learn(at * self.slide_ms, value(at));
                at += 1;
            }
            each(window, baseline.score(window * self.slide_ms, value(window)));
            held = Some((at, baseline));
        }
    }

    /// The baseline that a window is scored against, as an alert carries it.
    pub fn baseline_of(&self, window: u64, value: impl Fn(u64) -> Option<f64>) -> Option<Baseline> {
        let end = (window + 1).saturating_sub(self.overlap).min(self.next);
        if end == self.next {
            return Some(self.head.clone());
        }
        let (at, mut baseline) = self.kept.iter().rev().find(|(at, _)| *at <= end).cloned()?;
        (at..end).for_each(|window| baseline.learn(window * self.slide_ms, value(window)));
        Some(baseline)
    }

    /// Lets go of what only corrections of windows before `first` need.
    pub fn forget_before(&mut self, first: u64) {
        // The baseline of a window reaches back over those that overlap it.
        let needed = (first + 1).saturating_sub(self.overlap);
        while self.kept.len() > 1 && self.kept[1].0 <= needed {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SLIDE_MS: u64 = 10_000;

    fn scores_of(series: &Series, windows: Range<u64>, values: &BTreeMap<u64, f64>) -> Vec<(u64, Scored)> {
        let mut all = Vec::new();
        series.scores(windows, |window| values.get(&window).copied(), |window, scored| all.push((window, scored)));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whatever order windows change in, and whenever they close, the end is that of a run without lateness.
        #[test]
        fn lateness_leaves_no_trace(
            first in 0u64..40,
            values in proptest::collection::vec((0u64..200, 1u32..100), 1..150),
            rate in any::<bool>(),
            overlap in 1u64..7,
            ahead in 1u64..60,
        ) {
            let measure = if rate { Measure::RATE } else { Measure::LATENCY };
            let mut now = BTreeMap::new();
            let mut late: Option<Series> = None;
            let mut clock = 0;
            for &(window, value) in &values {
                let window = first + window;
                *now.entry(window).or_insert(0.0) += f64::from(value);
                let series = late.get_or_insert_with(|| Series::new(measure, SLIDE_MS, overlap, window));
                series.correct(window, |window| now.get(&window).copied());
                clock = clock.max((window + 1).saturating_sub(ahead));
                series.close(clock, |window| now.get(&window).copied());
            }
            let end = first + 201;
            let mut late = late.unwrap();
            late.close(end, |window| now.get(&window).copied());
            let mut in_order = Series::new(measure, SLIDE_MS, overlap, *now.keys().next().unwrap());
            in_order.close(end, |window| now.get(&window).copied());
            prop_assert_eq!(&late, &in_order);
            prop_assert_eq!(scores_of(&late, first..end + 5, &now), scores_of(&in_order, first..end + 5, &now));
        }
    }

    #[test]
    fn a_window_is_scored_against_what_ended_before_it() {
        let values: BTreeMap<u64, f64> = (0..600).map(|n| (n, 50.0 + (n * 7919 % 13) as f64)).collect();
        let value = |window: u64| values.get(&window).copied();
        for overlap in [1, 6] {
            let mut series = Series::new(Measure::RATE, SLIDE_MS, overlap, 0);
            series.close(600, value);
            let mut plain = Baseline::new(Measure::RATE);
            let mut learned = 0;
            for (window, scored) in scores_of(&series, 0..600, &values) {
                while learned + overlap <= window {
                    plain.learn(learned * SLIDE_MS, value(learned));
                    learned += 1;
                }
                assert_eq!(scored, plain.score(window * SLIDE_MS, value(window)), "window {window}");
                assert_eq!(series.baseline_of(window, value).as_ref(), Some(&plain));
            }
        }
    }

    #[test]
    fn a_correction_tells_what_may_have_changed() {
        let mut values: BTreeMap<u64, f64> = (0..300).map(|n| (n, 50.0)).collect();
        let mut series = Series::new(Measure::RATE, SLIDE_MS, 1, 0);
        series.close(300, |window| values.get(&window).copied());
        series.forget_before(250);
        let before = scores_of(&series, 0..301, &values);
        assert_eq!(before.first().unwrap().0, 240, "the kept baseline at or before window 250");
        values.insert(260, 90.0);
        assert_eq!(series.correct(260, |window| values.get(&window).copied()), 260..301);
        let after = scores_of(&series, 240..301, &values);
        assert_eq!(before[..20], after[..20]);
        assert_ne!(before[20..], after[20..]);
        assert_eq!(series.correct(300, |_| None), 300..300, "still open: nothing was learned of it");
    }
}
