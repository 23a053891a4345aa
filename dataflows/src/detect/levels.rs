//! Levels and spreads that forget, at six scales, and the steps between quantised levels.

use serde::{Deserialize, Serialize};

/// Over how many windows each level forgets: a factor of four apart, so that a change of any length stands out at one.
pub(super) const SCALES: [f64; 6] = [4.0, 12.0, 48.0, 192.0, 768.0, 3072.0];
/// The same for the mean step from window to window.
const UNREST_SCALES: [f64; 3] = [12.0, 96.0, 1536.0];
/// Levels that transitions are counted between.
const QUANTA: usize = 12;
/// A row of transitions is halved here, so that old habits fade.
const ROW_FULL: u32 = 60_000;

/// The share that a window gets of a mean that forgets over `scale` windows, after `seen` of them: a plain mean first.
fn share(scale: f64, seen: u32) -> f64 {
    (1.0 / scale).max(1.0 / (f64::from(seen) + 1.0))
}

/// Means at several scales: of the value, of the distance from it, and of the step between windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Levels {
    pub level: [f64; 6],
    pub spread: [f64; 6],
    pub unrest: [f64; 3],
}

impl Levels {
    /// With one more window; `step` is its distance from the one before.
    pub fn next(&self, value: f64, step: f64, seen: u32) -> Self {
        let mut next = *self;
        for (scale, &windows) in SCALES.iter().enumerate() {
            let share = share(windows, seen);
            let off = value - self.level[scale];
            next.level[scale] += share * off;
            next.spread[scale] += share * (off.abs() - self.spread[scale]);
        }
        for (scale, &windows) in UNREST_SCALES.iter().enumerate() {
            next.unrest[scale] += share(windows, seen) * (step - self.unrest[scale]);
        }
        next
    }
}

/// Counts of steps from level to level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transitions {
    counts: [[u16; QUANTA]; QUANTA],
    last: Option<u8>,
}

impl Transitions {
    /// The quantum of a value that is this many spreads away from the long level.
    pub fn quantum(in_spreads: f64) -> u8 {
        (in_spreads + QUANTA as f64 / 2.0).clamp(0.0, QUANTA as f64 - 1.0) as u8
    }

    /// Minus the natural logarithm of the share of steps from the last level that led here.
    pub fn surprise(&self, quantum: u8) -> Option<f64> {
        let row = &self.counts[usize::from(self.last?)];
        let total: u32 = row.iter().map(|count| u32::from(*count)).sum();
        // A tenth of a step to each level beforehand.
        let share = (f64::from(row[usize::from(quantum)]) + 0.1) / (f64::from(total) + 0.1 * QUANTA as f64);
        Some(-libm::log(share))
    }

    /// Counts the step to this level.
    pub fn learn(&mut self, quantum: u8) {
        if let Some(last) = self.last {
            let row = &mut self.counts[usize::from(last)];
            row[usize::from(quantum)] += 1;
            if row.iter().map(|count| u32::from(*count)).sum::<u32>() > ROW_FULL {
                row.iter_mut().for_each(|count| *count /= 2);
            }
        }
        self.last = Some(quantum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_never_taken_surprises() {
        let mut steps = Transitions::default();
        for _ in 0..200 {
            steps.learn(3);
            steps.learn(7);
        }
        assert!(steps.surprise(3).unwrap() < 0.1, "after 7 comes 3");
        assert!(steps.surprise(7).unwrap() > 5.0, "7 never followed 7");
        (0..200_000).for_each(|_| steps.learn(3));
        assert!(steps.counts[3].iter().map(|count| u32::from(*count)).sum::<u32>() <= ROW_FULL);
    }

    #[test]
    fn levels_begin_as_plain_means() {
        let mut levels = Levels::default();
        for seen in 0..4 {
            levels = levels.next(f64::from(seen), 1.0, seen);
        }
        assert_eq!(levels.level, [1.5; 6]);
    }
}
