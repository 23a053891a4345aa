//! The result for one window.

use serde::{Deserialize, Serialize};

use super::parts::{PARTS, Part};

/// The upper end of the fine scores.
pub const FINE: u32 = 1_000_000;
/// The score from which on a window is worth an alert, unless configured otherwise.
pub const ALERT_SCORE: u8 = 75;
/// The rarity that gives [`ALERT_SCORE`], in powers of ten: once in about 180 windows of five minutes, before the gate.
const ALERT_RARITY: f64 = 2.25;

/// How unusual one window was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// 0 to 100; each [`ALERT_SCORE`] means about the same for every series.
    pub score: u8,
    /// The same in millionths.
    pub fine: u32,
    /// The score of what is new in the window, 0 to 100: after an unusual window only a more unusual one counts, until
    /// the series has been quiet for a while. An incident counts when it begins and when it gets worse.
    pub onset: u8,
    /// The same in millionths.
    pub onset_fine: u32,
    /// What was judged: `None` where the window had no value and none was assumed.
    pub value: Option<f64>,
    /// What the windows before let expect.
    pub expected: f64,
    /// The lower end of the expected band.
    pub low: f64,
    /// The upper end of the expected band.
    pub high: f64,
    /// The share of earlier windows that were at least as unusual, counting this one.
    pub rarity: f64,
    /// Rarity in powers of ten, with all corrections: what the score is made of.
    pub surprise: f64,
    /// There is too little history to judge by; the score is provisional and should not alert.
    pub learning: bool,
    /// Of each part, how rare it was by itself, in powers of ten.
    pub(super) surprises: [f32; PARTS],
}

/// The name of a range of scores, as with severities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// Below 50.
    Normal,
    /// 50 to 74: unusual, not by itself worth an alert.
    Minor,
    /// 75 to 89: worth an alert.
    Major,
    /// From 90 on.
    Critical,
}

impl Band {
    /// The range that a score is in.
    pub fn of(score: u8) -> Self {
        match score {
            0..50 => Band::Normal,
            50..ALERT_SCORE => Band::Minor,
            ALERT_SCORE..90 => Band::Major,
            _ => Band::Critical,
        }
    }
}

/// The score of a rarity, in millionths: 50 at half the rarity that is worth an alert, 75 there, 93.75 at twice that.
pub(super) fn fine_score(rarity_log10: f64) -> u32 {
    let share = 1.0 - libm::exp2(-2.0 * rarity_log10.max(0.0) / ALERT_RARITY);
    (share * f64::from(FINE)) as u32
}

/// Millionths as a score from 0 to 100, rounded down.
pub(super) fn coarse(fine: u32) -> u8 {
    (fine / (FINE / 100)).min(100) as u8
}

impl Scored {
    /// A window without a value.
    pub(super) fn absent(learning: bool) -> Self {
        Self {
            score: 0,
            fine: 0,
            onset: 0,
            onset_fine: 0,
            value: None,
            expected: 0.0,
            low: 0.0,
            high: 0.0,
            rarity: 1.0,
            surprise: 0.0,
            learning,
            surprises: [0.0; PARTS],
        }
    }

    /// The most unusual part, if one is rarer than one in ten: the first of [`Scored::parts`].
    pub(super) fn first_part(&self) -> Option<Part> {
        let parts = Part::ALL.into_iter().zip(self.surprises).filter(|(_, surprise)| *surprise >= 1.0);
        // Of equals the first.
        parts.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(part, _)| part)
    }

    /// The parts that made the score, the most unusual first, each with its rarity in powers of ten: those that are
    /// rarer than one in ten.
    pub fn parts(&self) -> Vec<(Part, f32)> {
        let mut parts: Vec<(Part, f32)> =
            Part::ALL.into_iter().zip(self.surprises).filter(|(_, surprise)| *surprise >= 1.0).collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        parts
    }

    /// The name of the range that the score is in.
    pub fn band(&self) -> Band {
        Band::of(self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_grow_with_rarity_up_to_100() {
        let at = |rarity| coarse(fine_score(rarity));
        assert_eq!([at(-1.0), at(0.0), at(ALERT_RARITY / 2.0), at(ALERT_RARITY + 1e-9)], [0, 0, 50, ALERT_SCORE]);
        assert_eq!([at(2.0 * ALERT_RARITY), at(100.0)], [93, 100]);
        assert_eq!(Band::of(at(ALERT_RARITY + 1e-9)), Band::Major);
        assert_eq!([Band::of(0), Band::of(74), Band::of(90)], [Band::Normal, Band::Minor, Band::Critical]);
    }
}
