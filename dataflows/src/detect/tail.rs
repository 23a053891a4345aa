//! How rare a number is among those seen before: a histogram of its logarithm.
//!
//! In: numbers of at least 0, in any unit. Out: the share of earlier ones that were at least as large. Two buckets to a
//! doubling cover 2^-6 to 2^10, smaller and larger ones go to the ends; a number inside the top bucket, or beyond what
//! was ever seen, is told apart by extrapolation, so that a record by far is rarer than a record by a hair.

use serde::{Deserialize, Serialize};

const BUCKETS: usize = 32;
/// log2 of the upper end of the lowest bucket.
const LOWEST_LOG2: f64 = -6.0;
const BUCKETS_PER_DOUBLING: f64 = 2.0;
/// Each bucket beyond the highest one seen makes a number rarer by e^-0.15: a power tail with the exponent 0.43, heavier
/// than any measure in practice, so that extrapolation alone rarely makes an alert.
const BEYOND: f64 = 0.15;
/// Counts are halved here: a week of windows of 10 s is remembered at full weight.
const FULL: u32 = 60_480;

/// Counts of earlier numbers by the size of their logarithm. 68 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tail {
    counts: [u16; BUCKETS],
    total: u32,
}

/// Where a number belongs: its position in buckets and fractions of one; beyond the last bucket it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(f64);

impl Place {
    /// The place of a number.
    pub fn of(number: f64) -> Self {
        Self(if number <= 0.015_625 {
            0.0
        } else {
            ((libm::log2(number) - LOWEST_LOG2) * BUCKETS_PER_DOUBLING).min(200.0)
        })
    }

    fn bucket(self) -> usize {
        (self.0 as usize).min(BUCKETS - 1)
    }
}

impl Tail {
    /// The share of earlier numbers that were at least as large as the one at this place, counting that itself: above 0,
    /// at most 1.
    pub fn probability(&self, place: Place) -> f64 {
        let (position, bucket) = (place.0, place.bucket());
        if bucket == 0 {
            // What is too small for the second bucket cannot be told apart: all are at least as large.
            return 1.0;
        }
        let above: u32 = self.counts[bucket + 1..].iter().map(|count| u32::from(*count)).sum();
        // Within a bucket numbers are taken as even.
        let inside = (1.0 - (position - bucket as f64)).max(0.0);
        let is_beyond = above == 0 && self.counts[bucket] == 0;
        let itself = if is_beyond {
            let top = self.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
            libm::exp(-BEYOND * (position - top as f64 - 1.0).max(0.0))
        } else {
            1.0
        };
        (f64::from(above) + f64::from(self.counts[bucket]) * inside + itself) / (f64::from(self.total) + 1.0)
    }

    /// Counts the number at this place.
    pub fn add(&mut self, place: Place) {
        self.counts[place.bucket()] += 1;
        self.total += 1;
        if self.total > FULL {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rarity_is_the_share_of_what_was_larger() {
        let mut tail = Tail::default();
        (1..=1000).for_each(|n| tail.add(Place::of(f64::from(n) / 100.0)));
        for (number, share) in [(0.01, 1.0), (2.0, 0.8), (5.0, 0.5), (9.0, 0.1)] {
            let found = tail.probability(Place::of(number));
            assert!((found - share).abs() < 0.06, "{number}: {found}, expected {share}");
        }
    }

    #[test]
    fn what_was_never_seen_is_rarer_the_farther_it_is() {
        let mut tail = Tail::default();
        (0..1000).for_each(|_| tail.add(Place::of(1.0)));
        let shares: Vec<f64> = [1.0, 2.0, 8.0, 64.0, 1e9].map(|number| tail.probability(Place::of(number))).to_vec();
        assert!(shares.windows(2).all(|pair| pair[0] > pair[1]), "{shares:?}");
        assert!(shares[4] > 0.0);
    }

    #[test]
    fn counts_stay_bounded_and_forget() {
        let mut tail = Tail::default();
        tail.add(Place::of(500.0));
        (0..1_000_000).for_each(|_| tail.add(Place::of(1.0)));
        assert!(tail.total <= FULL);
        assert_eq!(tail.counts[BUCKETS - 2..], [0, 0], "seen once, long ago");
    }
}
