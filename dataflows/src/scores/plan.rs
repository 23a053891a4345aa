//! How the windows of a view are scored: the view's times in numbers of windows. A window's number is `start / slide`.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::shown::{REASONS, ShownMeasure, ShownScore};
use crate::aggregate::Aggregate;
use crate::detect::{Band, Baseline, Scored, WindowScore as Combined};
use crate::output::WindowScore;
use crate::scores::ScoredMeasure;
use crate::time::Millis;
use crate::view::{Key, View};

/// After this many windows without records a series sleeps until it has some again: bounds what a jump of the event
/// clock costs, and what keys cost that are gone for good.
pub const SLEEP_AFTER: u64 = 1_000;
/// Windows between two kept baselines while they are new.
const KEEP_EVERY: u64 = 16;
/// Windows between two old ones, at the least: each is written to a checkpoint once.
const LEAST_STRETCH: u64 = 32;

/// How the windows of a view are scored. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is scored against baselines.
    pub measures: Arc<[ScoredMeasure]>,
    /// The numbers that the view names.
    numbers: Arc<[Arc<str>]>,
    /// The place of the pattern in the key, where it is scored whether one is new.
    pub(super) news_place: Option<usize>,
    width_ms: u64,
    slide_ms: u64,
    lateness_ms: u64,
    retention_ms: u64,
    /// Windows that begin within one window's width: 1 for tumbling windows.
    pub(super) overlap: u64,
    /// Windows between two kept baselines, once they are old.
    pub(super) stretch: u64,
    /// So many windows of silence, and nothing learned is left.
    pub(super) forget_after: u64,
    /// From this score on alerts may need the states of the baselines.
    evidence_from: Option<u8>,
}

/// After how many windows at the latest one that is gone is part of the first kept baseline: the next one is kept when
/// something is learned again, at the latest when the series would have slept, and what is kept has to be gone itself.
pub fn windows_until_learned(width_ms: u64, slide_ms: u64, retention_ms: u64) -> u64 {
    let retained = (width_ms + retention_ms) / slide_ms;
    2 * width_ms.div_ceil(slide_ms) + 2 * stretch(width_ms, slide_ms, retention_ms) + SLEEP_AFTER + retained
}

/// How long, in milliseconds, it matters for the scores of these views that a partition could not be read: until all windows
/// of that time are learned for good.
pub fn outages_kept_for_ms(views: &[Arc<View>]) -> Millis {
    let of_view = |view: &Arc<View>| {
        let windows = windows_until_learned(view.width_ms, view.slide_ms, view.retention_ms);
        view.width_ms.saturating_add(windows.saturating_mul(view.slide_ms))
    };
    views.iter().filter(|view| !view.scored.is_empty()).map(of_view).max().unwrap_or(0)
}

/// Windows between two old kept baselines: [`KEEP_EVERY`] doubled, up to two fifths of the retention. What lies between
/// is kept as values, which takes less memory than another baseline would; up to this many windows are learned again at
/// a restore, beside those in retention.
fn stretch(width_ms: u64, slide_ms: u64, retention_ms: u64) -> u64 {
    let most = (width_ms + retention_ms) / slide_ms * 2 / 5;
    let mut stretch = LEAST_STRETCH;
    while 2 * stretch <= most {
        stretch *= 2;
    }
    stretch
}

impl Plan {
    /// Of a view; `None` if nothing of it is scored.
    pub fn of(view: &View) -> Option<Self> {
        (!view.scored.is_empty()).then(|| Self {
            measures: view.scored.iter().copied().filter(|measure| *measure != ScoredMeasure::New).collect(),
            numbers: view.numbers.iter().cloned().collect(),
            news_place: view.news_place(),
            width_ms: view.width_ms,
            slide_ms: view.slide_ms,
            lateness_ms: view.lateness_ms,
            retention_ms: view.retention_ms,
            overlap: view.width_ms.div_ceil(view.slide_ms),
            stretch: stretch(view.width_ms, view.slide_ms, view.retention_ms),
            forget_after: (view.forget_after_ms / view.slide_ms).max(SLEEP_AFTER + 1),
            evidence_from: view.evidence_from,
        })
    }

    /// The width of a window.
    pub fn width_ms(&self) -> u64 {
        self.width_ms
    }

    /// The distance between the starts of windows.
    pub fn slide_ms(&self) -> u64 {
        self.slide_ms
    }

    /// Windows kept behind their end.
    pub(super) fn retained(&self) -> u64 {
        self.retention_ms.div_ceil(self.slide_ms)
    }

    /// The value of a measure in a window with this content; `None` where it has no records.
    pub fn value_of(&self, measure: ScoredMeasure, content: &Aggregate) -> Option<f64> {
        (content.count() > 0).then(|| measure.value(content, self.width_ms, &self.numbers))?
    }

    /// Whether alerts may need the states of baselines at all.
    pub(super) fn wants_evidence(&self) -> bool {
        self.evidence_from.is_some()
    }

    /// Whether alerts may need those of a window with this score.
    pub(super) fn is_evidence(&self, combined: &Combined) -> bool {
        !combined.learning && self.evidence_from.is_some_and(|from| combined.score >= from)
    }

    /// The number of the first window that ends after a time.
    pub fn closed_before(&self, at_ms: Millis) -> u64 {
        self.ended(at_ms, 0)
    }

    /// The number of the first window that is not final at a time.
    pub fn final_before(&self, at_ms: Millis) -> u64 {
        self.ended(at_ms, self.lateness_ms)
    }

    /// The number of the first window that is not gone at a time.
    pub fn gone_before(&self, at_ms: Millis) -> u64 {
        self.ended(at_ms, self.retention_ms)
    }

    fn ended(&self, at_ms: Millis, after_ms: u64) -> u64 {
        at_ms.checked_sub(self.width_ms + after_ms).map_or(0, |start| start / self.slide_ms + 1)
    }

    /// The start of a window.
    pub fn start_of(&self, window: u64) -> Millis {
        window * self.slide_ms
    }

    /// The number of the window that starts then.
    pub fn number_of(&self, start: Millis) -> u64 {
        start / self.slide_ms
    }

    /// The first window that does not count in the baseline of a window: it ends after that one's start.
    pub fn learned_before(&self, window: u64) -> u64 {
        (window + 1).saturating_sub(self.overlap)
    }

    /// Windows between two kept baselines that are this many windows old. What lies before a corrected window and is
    /// learned again is at most twice as much as what lies behind it, which is scored again, or the least.
    pub(super) fn spacing(&self, age: u64) -> u64 {
        let mut spacing = KEEP_EVERY;
        while 2 * spacing <= age && spacing < self.stretch {
            spacing *= 2;
        }
        spacing
    }

    /// By how many windows the grid of kept baselines of a key is moved: so keys move on from their oldest one in turn, and
    /// no checkpoint has those of all keys.
    pub(super) fn phase(&self, key: &Key) -> u64 {
        FixedState::with_seed(3).hash_one(key) % self.stretch
    }

    /// Whether nothing is left of what was learned, before a window, of a key that had its last records in `last`.
    pub(super) fn is_forgotten(&self, last: u64, next: u64) -> bool {
        next > last + self.forget_after
    }

    /// Baselines that have learned nothing.
    pub(super) fn baselines(&self) -> Vec<Baseline> {
        self.measures.iter().map(|measure| Baseline::new(measure.measure())).collect()
    }

    /// What a document shows of the scores of a window's measures. `stalled` says that it lacks records which may be there.
    pub fn explain(&self, scored: &[Scored], combined: &Combined, stalled: bool) -> WindowScore {
        self.shown(scored, combined, stalled).document()
    }

    /// The same, as it is kept.
    pub(super) fn shown(&self, scored: &[Scored], combined: &Combined, stalled: bool) -> ShownScore {
        let mut places: Vec<usize> = (0..scored.len()).collect();
        // Of equals the first that is configured.
        places.sort_by_key(|&place| std::cmp::Reverse((scored[place].value.is_some(), scored[place].fine)));
        let measure = |place: usize| {
            let of = &scored[place];
            let mut reasons = [None; REASONS];
            for (reason, (part, _)) in reasons.iter_mut().zip(of.parts()) {
                *reason = Some(part);
            }
            Some(ShownMeasure {
                // What has no baseline comes behind all that have.
                measure: self.measures.get(place).copied().unwrap_or(ScoredMeasure::New),
                score: of.score,
                actual: of.value?,
                expected: rounded(of.expected, 3),
                low: rounded(of.low, 3),
                high: rounded(of.high, 3),
                rarity: rounded(of.rarity, 1),
                reasons,
            })
        };
        let measures = places.into_iter().filter_map(measure).collect();
        ShownScore { score: combined.score, learning: combined.learning, stalled, measures }
    }
}

/// Whether a window without records is worth a document.
pub(super) fn is_telling(combined: &Combined) -> bool {
    combined.band() > Band::Normal && !combined.learning
}

/// With so many significant digits. A correction reaches far into what is expected of later windows, and gets ever
/// smaller there: what does not show in this many digits is no reason to publish a document again.
pub(super) fn rounded(number: f64, digits: i32) -> f64 {
    if number.abs() < 1e-30 || !number.is_finite() {
        return 0.0;
    }
    let magnitude = libm::floor(libm::log10(number.abs())) as i32;
    let scale = libm::exp10(f64::from((digits - 1 - magnitude).abs()));
    if magnitude < digits { libm::round(number * scale) / scale } else { libm::round(number / scale) * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_significant_digits() {
        let cases = [(1234.5, 1230.0), (-0.012_345, -0.012_3), (0.0, 0.0), (99.96, 100.0), (7.0, 7.0), (f64::NAN, 0.0)];
        for (number, expected) in cases {
            assert_eq!(rounded(number, 3), expected, "{number}");
        }
        assert_eq!(rounded(0.0034, 1), 0.003);
    }
}
