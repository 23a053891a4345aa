//! What happens for the first time: how unusual that is, by how often something new comes.
//!
//! In: how many new things a window lets expect, from the history. Out: a [`Scored`]. A pure function of what the result
//! shows: whoever has the explanation can compute the score again.

use super::baseline::{EXTREME_BONUS, USUAL_STEP_MS};
use super::scored::{Scored, coarse, fine_score};

impl Scored {
    /// Something that was never there before, in a window of `step_ms`, where `expected` windows with something new are
    /// expected in one. Its rarity is the time between two, in five minutes, in powers of ten, and one more as for every
    /// value beyond all seen. So the score is 50 where something new comes every 7 minutes, 75 where it comes every hour
    /// and a half, 94 for every 11 days.
    pub fn never_before(expected: f64, step_ms: u64, learning: bool) -> Self {
        let expected = expected.clamp(1e-12, 1.0);
        let surprise = libm::log10(step_ms as f64 / expected / USUAL_STEP_MS) + EXTREME_BONUS;
        let fine = fine_score(surprise);
        let (score, onset) = (coarse(fine), coarse(fine));
        Self {
            score,
            fine,
            onset,
            onset_fine: fine,
            value: Some(1.0),
            expected,
            rarity: expected,
            surprise,
            ..Self::absent(learning)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarer_news_is_the_higher_it_scores() {
        const MINUTE: u64 = 60_000;
        let at = |minutes: f64| Scored::never_before(1.0 / minutes, MINUTE, false).score;
        assert_eq!([at(5.0), at(6.7), at(89.0), at(60.0 * 24.0 * 11.0)], [45, 50, 75, 93]);
        assert_eq!(at(600.0), Scored::never_before(1.0 / 60.0, 10 * MINUTE, false).score, "whatever the window");
    }
}
