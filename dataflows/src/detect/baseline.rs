//! All that is learned of one measure of one key.
//!
//! In: windows in order, as start and value. Out: a [`Scored`] for a window against the windows learned so far. A
//! baseline is a fold over its windows: the same windows give the same baseline, bit by bit.
//!
//! How the score is made: each [`Part`] gives a number that is larger the more unusual the window is. How rare that
//! number is among its own earlier ones (its [`Tail`]) makes the parts comparable. What they exceed the ordinary by is
//! added up; how rare the sum is, alone and smoothed over some windows, is the rarity of the window. A value beyond
//! all seen is added on top. The parameters, with reasons and figures, are in `docs/decisions/080-window-scores.md`.

use serde::{Deserialize, Serialize};

use super::levels::{Levels, Transitions};
use super::measure::{Direction, Measure, Missing};
use super::parts::{PARTS, Part};
use super::scored::{Scored, coarse, fine_score};
use super::seasons::{Departure, Seasons};
use super::tail::{Place, Tail};
use crate::time::Millis;

/// Windows learned before a score counts: half a day of windows of five minutes.
const LEARNING: u32 = 144;
/// Rarity (powers of ten) that is ordinary for a part: only what exceeds it is added up.
const ORDINARY: f64 = 0.7;
/// The sum of the parts is smoothed over this many windows, to see many small surprises together.
const SMOOTHING: f64 = 20.0;
/// The share of the smoothed sum's rarity in the score; the rest is that of the window's own.
const SMOOTHED_SHARE: f64 = 0.4;
/// A value beyond all seen adds this much rarity, if it is beyond by this share of the range seen.
pub(super) const EXTREME_BONUS: f64 = 1.0;
const EXTREME_MARGIN: f64 = 0.005;
/// A value above twice the highest seen adds this much for each doubling, and a rate below half of the lowest for each
/// halving: in short windows, no history is long enough to make ten where there never was more than one rare enough, or
/// none where there always were twenty. For rates, shares and latencies, whose zero means something; against the highest
/// and not the range, which is nothing for what was always the same.
const EXTREME_DOUBLING: f64 = 2.0;
/// The longer the history, the more often the same rarity occurs by chance: this share of its growth is taken off,
/// beginning at 4,000 windows, the length at which nothing is.
const HISTORY_SHARE: f64 = 0.2;
const HISTORY: f64 = 4_000.0;
/// Likewise windows shorter than this occur more often in a day, and so do chance alerts: ten times as often takes 1.7
/// powers of ten off. One is for how often; with that alone, quiet logs gave 3.4 false alerts a week in windows of 60 s.
/// Windows below 20 s are judged like those: the shares of their history are small enough to tell more, and quiet logs gave
/// none.
pub(super) const USUAL_STEP_MS: f64 = 300_000.0;
const SHORTEST_STEP_MS: f64 = 20_000.0;
const OFTEN_SHARE: f64 = 1.7;
/// After an unusual window the gate closes: only what is rarer by this much is news, ...
const GATE_MARGIN: f64 = 0.2;
/// ... and it opens by this share a window: half in 350 windows.
const GATE_OPENS: f64 = 0.002;
/// A spread is at least this share of the long one: what hardly ever moves may move a little.
const LEAST_SPREAD: f64 = 0.05;
/// The spread of an hour is at least this share of the long one: an hour is known from few windows.
const LEAST_SEASON_SPREAD: f64 = 0.6;
/// Away from the hour's level, on average over this many windows.
const SEASON_SHIFT: f64 = 12.0;
/// The band around what is expected, in mean distances: about three standard deviations of a normal distribution.
const BAND: f64 = 3.75;
/// Windows' distance is learned over this many, and a hole counts as so many distances at the most: the windows behind it
/// are no longer than those before.
const STEP_SCALE: f64 = 48.0;
const LONGEST_STEP: f64 = 2.0;

/// All that is learned of one measure of one key. [`Baseline::BYTES`] bytes, however long the history. To be kept in a
/// binary form: text may lose the last bit of a float, and with it the promise of the same score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    measure: Measure,
    /// Windows with a value.
    seen: u32,
    last_ms: Millis,
    /// Mean distance between windows.
    step_ms: f64,
    /// The first value. All others are kept relative to it, so that nothing is lost to rounding in a series far from 0.
    origin: f64,
    last: f64,
    lowest: f64,
    highest: f64,
    levels: Levels,
    seasons: Seasons,
    season_shift: f64,
    transitions: Transitions,
    tails: [Tail; PARTS],
    sum_tail: Tail,
    smoothed_tail: Tail,
    smoothed: f64,
    gate: f64,
}

/// What a window looks like against the baseline: all that scoring and learning have in common.
struct Look {
    /// The value as given, and relative to the origin.
    given: f64,
    origin: f64,
    value: f64,
    passed_ms: u64,
    next: Levels,
    season_shift: f64,
    season: Option<Departure>,
    quantum: u8,
    /// Of the numbers of the parts, of their sum and of the smoothed sum.
    places: [Place; PARTS],
    sum_place: Place,
    smoothed_place: Place,
    surprises: [f64; PARTS],
    smoothed: f64,
    /// The share of earlier windows as unusual.
    probability: f64,
    /// In powers of ten, with all corrections; what the gate and the score go by.
    rarity: f64,
}

impl Baseline {
    /// The memory of a baseline in bytes; it owns none elsewhere.
    pub const BYTES: usize = size_of::<Baseline>();

    /// Nothing learned yet.
    pub fn new(measure: Measure) -> Self {
        Self {
            measure,
            seen: 0,
            last_ms: 0,
            step_ms: 0.0,
            origin: 0.0,
            last: 0.0,
            lowest: 0.0,
            highest: 0.0,
            levels: Levels::default(),
            seasons: Seasons::default(),
            season_shift: 0.0,
            transitions: Transitions::default(),
            tails: Default::default(),
            sum_tail: Tail::default(),
            smoothed_tail: Tail::default(),
            smoothed: 0.0,
            gate: 0.0,
        }
    }

    /// How the measure is judged.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// Whether there is too little history to judge by: fewer than 144 windows with a value.
    pub fn is_learning(&self) -> bool {
        self.seen < LEARNING
    }

    /// Whether nothing can be said of a window with this value that lacks records: it has none, or one that they add to.
    pub fn is_unknown(&self, value: Option<f64>) -> bool {
        self.measure.missing == Missing::Zero || self.measure.value(value).is_none()
    }

    /// The score of a window of which nothing is known.
    pub fn unjudged(&self) -> Scored {
        Scored::absent(self.is_learning())
    }

    /// Passes a window of which nothing is known. Time goes on: the next one is not the first in a long while.
    pub fn pass(&mut self, start_ms: Millis) {
        if self.seen > 0 {
            self.last_ms = start_ms;
        }
    }

    /// Scores a window that is not learned yet. `value` is `None` where the window has none.
    pub fn score(&self, start_ms: Millis, value: Option<f64>) -> Scored {
        match self.measure.value(value) {
            None => Scored::absent(self.is_learning()),
            Some(value) => self.scored(&self.look(start_ms, value)),
        }
    }

    /// Learns a window. Windows come in the order of their starts; one that is not closed is not to be learned.
    pub fn learn(&mut self, start_ms: Millis, value: Option<f64>) {
        if let Some(value) = self.measure.value(value) {
            let look = self.look(start_ms, value);
            self.take(start_ms, look);
        }
    }

    /// Scores a window and learns it: both at the price of one.
    pub fn step(&mut self, start_ms: Millis, value: Option<f64>) -> Scored {
        let Some(value) = self.measure.value(value) else { return Scored::absent(self.is_learning()) };
        let look = self.look(start_ms, value);
        let scored = self.scored(&look);
        self.take(start_ms, look);
        scored
    }

    fn look(&self, start_ms: Millis, value: f64) -> Look {
        let first = self.seen == 0;
        // Far beyond any measure; so the arithmetic on it, in single precision too, stays finite.
        let given = value.clamp(-1e30, 1e30);
        let origin = if first { given } else { self.origin };
        let value = given - origin;
        let passed_ms = if first { 0 } else { start_ms.saturating_sub(self.last_ms) };
        let old = &self.levels;
        let long = old.spread[5].max(1e-12);
        let least = LEAST_SPREAD * long + 1e-9 * (1.0 + given.abs());
        let step = if first { 0.0 } else { value - self.last };
        let next = old.next(value, step.abs(), self.seen);

        let mut numbers = [0.0; PARTS];
        let mut set = |part: Part, departure: f64, number: f64| {
            if self.measure.direction.counts(departure) {
                numbers[part as usize] = number;
            }
        };
        for (part, scale) in [(Part::Spike12, 1), (Part::Spike192, 3), (Part::Spike768, 4)] {
            let off = value - old.level[scale];
            set(part, off, off.abs() / (old.spread[scale] + least));
        }
        let hour = self.seasons.departures(start_ms, value, least + LEAST_SEASON_SPREAD * long);
        let mut season_shift = self.season_shift;
        if let Some((daily, nearer)) = hour {
            set(Part::Season, nearer.off, nearer.in_spreads.abs());
            season_shift += (daily.off - season_shift) / SEASON_SHIFT;
            set(Part::SeasonShift, season_shift, season_shift.abs() / daily.spread);
        }
        let shifts = [(Part::Shift4, 0), (Part::Shift12, 1), (Part::Shift48, 2), (Part::Shift192, 3)];
        for (part, scale) in shifts {
            let off = next.level[scale] - next.level[scale + 2];
            set(part, off, off.abs() / (long + least));
        }
        let range = self.highest - self.lowest + least;
        let above = (value - self.highest).max(0.0) - (self.lowest - value).max(0.0);
        set(Part::Extreme, above, if first { 0.0 } else { above.abs() / range });
        let quantum = Transitions::quantum((value - old.level[5]) / (old.spread[5] + 1e-9));
        set(Part::Transition, step, self.transitions.surprise(quantum).unwrap_or(0.0));
        let from_level = value - old.level[5];
        for (part, scale) in [(Part::Unrest12, 0), (Part::Unrest96, 1)] {
            let ratio = libm::log((next.unrest[scale] + least) / (next.unrest[2] + least));
            set(part, from_level, ratio.abs());
        }
        set(Part::Jump, step, step.abs() / (old.unrest[2] + least));

        let mut surprises = [0.0; PARTS];
        let mut sum = 0.0;
        let places = numbers.map(Place::of);
        for ((surprise, tail), place) in surprises.iter_mut().zip(&self.tails).zip(places) {
            *surprise = rarity_of(tail.probability(place));
            sum += (*surprise - ORDINARY).max(0.0);
        }
        let smoothed = self.smoothed + (sum - self.smoothed) / SMOOTHING;
        let (sum_place, smoothed_place) = (Place::of(sum), Place::of(smoothed));
        let probability = self.sum_tail.probability(sum_place);
        let own = rarity_of(probability);
        let together = rarity_of(self.smoothed_tail.probability(smoothed_place));
        let history = HISTORY_SHARE * libm::log10((f64::from(self.seen) + 1.0) / HISTORY);
        let often = OFTEN_SHARE * libm::log10(USUAL_STEP_MS / self.step_ms.clamp(SHORTEST_STEP_MS, USUAL_STEP_MS));
        let beyond = numbers[Part::Extreme as usize] > EXTREME_MARGIN && !self.is_learning();
        let bonus = if beyond { EXTREME_BONUS + EXTREME_DOUBLING * self.doublings_beyond(given) } else { 0.0 };
        let rarity = own + SMOOTHED_SHARE * (together - own) - history - often + bonus;
        Look {
            given,
            origin,
            value,
            passed_ms,
            next,
            season_shift,
            season: hour.map(|(_, nearer)| nearer),
            quantum,
            places,
            sum_place,
            smoothed_place,
            surprises,
            smoothed,
            probability,
            rarity,
        }
    }

    /// How many doublings of the highest seen it is above that by, or a rate's halvings below the lowest; 0 for less than
    /// one.
    fn doublings_beyond(&self, given: f64) -> f64 {
        let Measure { missing, direction } = self.measure;
        let is_rate = missing == Missing::Zero;
        let (lowest, highest) = (self.lowest + self.origin, self.highest + self.origin);
        let times = if given > highest && highest > 0.0 && (is_rate || direction == Direction::Up) {
            given / highest
        } else if given < lowest && given >= 0.0 && is_rate && direction.counts(-1.0) {
            // One more on both sides: from one to none is no more than a halving.
            (lowest + 1.0) / (given + 1.0)
        } else {
            1.0
        };
        libm::log2((times - 1.0).max(1.0))
    }

    fn scored(&self, look: &Look) -> Scored {
        let fine = fine_score(look.rarity);
        let onset_fine = if look.rarity > self.gate + GATE_MARGIN { fine } else { 0 };
        let mut scored = Scored {
            score: coarse(fine),
            fine,
            onset: coarse(onset_fine),
            onset_fine,
            value: Some(look.given),
            rarity: look.probability,
            surprise: look.rarity,
            surprises: look.surprises.map(|surprise| surprise as f32),
            ..Scored::absent(self.is_learning())
        };
        let by_hour = scored.first_part().is_some_and(|part| matches!(part, Part::Season | Part::SeasonShift));
        let (expected, spread) = match look.season.filter(|_| by_hour) {
            Some(season) => (look.value - season.off, season.spread),
            None => (self.levels.level[2], self.levels.spread[2]),
        };
        scored.expected = expected + look.origin;
        scored.low = scored.expected - BAND * spread;
        if self.lowest + self.origin >= 0.0 {
            // What never was negative is not expected to be.
            scored.low = scored.low.max(0.0);
        }
        scored.high = scored.expected + BAND * spread;
        scored
    }

    fn take(&mut self, start_ms: Millis, look: Look) {
        self.origin = look.origin;
        for (tail, place) in self.tails.iter_mut().zip(look.places) {
            tail.add(place);
        }
        self.sum_tail.add(look.sum_place);
        self.smoothed_tail.add(look.smoothed_place);
        self.smoothed = look.smoothed;
        self.gate = self.gate.max(look.rarity) * (1.0 - GATE_OPENS);
        self.lowest = self.lowest.min(look.value);
        self.highest = self.highest.max(look.value);
        self.levels = look.next;
        self.season_shift = look.season_shift;
        self.seasons.learn(start_ms, look.value, look.passed_ms);
        self.transitions.learn(look.quantum);
        if self.seen > 0 {
            let share = (1.0 / STEP_SCALE).max(1.0 / f64::from(self.seen));
            let passed_ms = look.passed_ms as f64;
            let longest = if self.seen > 1 { LONGEST_STEP * self.step_ms } else { passed_ms };
            self.step_ms += share * (passed_ms.min(longest) - self.step_ms);
        }
        self.last = look.value;
        self.last_ms = start_ms;
        self.seen = self.seen.saturating_add(1);
    }
}

/// In powers of ten.
fn rarity_of(probability: f64) -> f64 {
    // Most parts of most windows are ordinary.
    if probability == 1.0 { -0.0 } else { -libm::log10(probability) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_MS: u64 = 60_000;

    /// A number from 0 to 1 that depends on `n` alone.
    fn noise(n: u64) -> f64 {
        (n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64
            / f64::from(1 << 24)
    }

    fn taught(measure: Measure, windows: u64, value: impl Fn(u64) -> f64) -> Baseline {
        let mut baseline = Baseline::new(measure);
        (0..windows).for_each(|n| baseline.learn(n * STEP_MS, Some(value(n))));
        baseline
    }

    fn steady(n: u64) -> f64 {
        100.0 + 10.0 * noise(n)
    }

    #[test]
    fn a_baseline_is_small() {
        const { assert!(Baseline::BYTES <= 4096) };
    }

    #[test]
    fn what_is_usual_scores_low_and_what_is_not_high() {
        let baseline = taught(Measure::NUMBER, 3000, steady);
        let at = |value| baseline.score(3000 * STEP_MS, Some(value));
        let (usual, far) = (at(105.0), at(180.0));
        assert!(usual.score < 50, "{usual:?}");
        assert!(far.score >= 75 && far.onset == far.score, "{far:?}");
        assert!((far.expected - 105.0).abs() < 3.0 && far.low < 101.0 && far.high < 130.0, "{far:?}");
        assert!(far.rarity < 0.001 && usual.rarity > far.rarity);
        assert!(far.parts().iter().any(|(part, _)| *part == Part::Extreme), "{:?}", far.parts());
        assert!(at(20.0).score >= 75, "falls count too");
    }

    /// Hardly ever anything, as of the failures of one request.
    #[test]
    fn what_was_rare_and_comes_in_numbers_scores_high_in_short_windows_too() {
        let mut baseline = Baseline::new(Measure::RATE);
        let rare = |n: u64| [0.94, 0.998].map(|least| f64::from(u8::from(noise(n * n) > least))).iter().sum();
        let usual = (0..30_000).map(|n| baseline.step(n * 10_000, Some(rare(n)))).filter(|scored| !scored.learning);
        assert!(usual.map(|scored| scored.score).max() < Some(75));
        let scores = [2.0, 4.0, 10.0, 20.0].map(|count| baseline.score(30_000 * 10_000, Some(count)).score);
        assert!(scores[1] < 75 && scores[2] >= 75, "{scores:?}");
        assert!(scores.is_sorted(), "{scores:?}");
    }

    #[test]
    fn what_never_stopped_and_stops_scores_high_in_short_windows_too() {
        let mut baseline = Baseline::new(Measure::RATE);
        let count = |n: u64| (0..40).filter(|k| noise(n * 40 + k) < 0.5).count() as f64;
        let usual = (0..9_000).map(|n| baseline.step(n * 10_000, Some(count(n)))).filter(|scored| !scored.learning);
        assert!(usual.map(|scored| scored.score).max() < Some(75));
        let stopped = baseline.score(9_000 * 10_000, None).score;
        assert!(stopped >= 75, "{stopped}");
        // A night without windows does not make them longer.
        let later = 9_000 * 10_000 + 12 * 3_600_000;
        let mut after = baseline.clone();
        (0..5).for_each(|n| after.learn(later + n * 10_000, Some(count(n))));
        let usual = [12.0, 20.0, 28.0].map(|count| after.score(later + 50_000, Some(count)).surprise);
        let before = [12.0, 20.0, 28.0].map(|count| baseline.score(9_000 * 10_000, Some(count)).surprise);
        assert!(usual.iter().zip(before).all(|(after, before)| after - before < 1.0), "{usual:?}, {before:?}");
    }

    #[test]
    fn a_direction_ignores_the_other_side() {
        let up = taught(Measure::LATENCY, 3000, steady);
        assert!(up.score(3000 * STEP_MS, Some(20.0)).score < 50);
        assert!(up.score(3000 * STEP_MS, Some(180.0)).score >= 75);
    }

    #[test]
    fn silence_of_a_rate_is_a_zero_and_of_a_latency_nothing() {
        let silent = |measure| taught(measure, 3000, steady).score(3000 * STEP_MS, None);
        assert!(silent(Measure::RATE).score >= 75);
        assert_eq!(silent(Measure::RATE).value, Some(0.0));
        assert_eq!(silent(Measure::LATENCY), Scored::absent(false));
        let before = taught(Measure::LATENCY, 200, steady);
        let mut after = before.clone();
        after.learn(200 * STEP_MS, None);
        after.learn(201 * STEP_MS, Some(f64::NAN));
        assert_eq!(before, after, "nothing to learn from");
    }

    #[test]
    fn warm_up_is_stated() {
        assert!(taught(Measure::NUMBER, 143, steady).score(143 * STEP_MS, Some(100.0)).learning);
        assert!(!taught(Measure::NUMBER, 144, steady).score(144 * STEP_MS, Some(100.0)).learning);
    }

    #[test]
    fn an_incident_is_news_once() {
        let mut baseline = taught(Measure::NUMBER, 3000, steady);
        let scores: Vec<Scored> = (3000..3020).map(|n| baseline.step(n * STEP_MS, Some(steady(n) + 80.0))).collect();
        assert!(scores[0].onset >= 75, "{:?}", scores[0]);
        assert!(scores[1..].iter().filter(|scored| scored.onset >= 75).count() <= 1, "no news");
    }

    #[test]
    fn scores_do_not_depend_on_the_unit_or_the_origin() {
        let series = |n: u64| if n == 2500 { 190.0 } else { steady(n) };
        let moved = |n| 1e6 + 4.0 * series(n);
        let (mut one, mut other) = (Baseline::new(Measure::NUMBER), Baseline::new(Measure::NUMBER));
        for n in 0..2600 {
            let (a, b) = (one.step(n * STEP_MS, Some(series(n))), other.step(n * STEP_MS, Some(moved(n))));
            assert!(n < 144 || a.score.abs_diff(b.score) <= 8, "window {n}: {} and {}", a.score, b.score);
        }
    }

    #[test]
    fn any_number_is_survived() {
        let mut baseline = Baseline::new(Measure::RATE);
        let values = [0.0, f64::MAX, f64::MIN, f64::INFINITY, f64::NAN, 1e-308, -0.0, 5.0];
        for n in 0..2000 {
            let scored = baseline.step(n * STEP_MS / 3 * 3, Some(values[n as usize * 7 % values.len()]));
            assert!(scored.score <= 100 && scored.expected.is_finite() && scored.rarity > 0.0, "{scored:?}");
        }
    }

    /// Alerts and checkpoints hold baselines, and a replay on another machine must find the same bits.
    #[test]
    fn every_machine_gives_the_same_bits() {
        let mut baseline = Baseline::new(Measure::NUMBER);
        let hash = (0..4000).fold(0xcbf2_9ce4_8422_2325u64, |hash, n| {
            let scored = baseline.step(n * 10_000, Some(steady(n) * if n % 700 == 699 { 3.0 } else { 1.0 }));
            (hash ^ u64::from(scored.fine)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(hash, 5_446_021_793_497_721_985);
    }
}
