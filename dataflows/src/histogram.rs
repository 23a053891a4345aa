//! Response times in integer buckets: mergeable by addition, at most 1 % relative error.
//!
//! Values are microseconds. Up to 127 each value has its own bucket; above, every power of two is cut into 64 equal
//! parts, so a bucket is at most 1/64 of its lower bound wide and its midpoint is off by at most 1/128 (0.79 %).
//! This is the layout of Gil Tene's HdrHistogram with six bits of precision. Values above 2^40 µs (12.7 days) are
//! counted in the last bucket. Numbers of either sign have the same buckets, mirrored at zero and without that bound.

use serde::{Deserialize, Serialize};

const EXACT: u64 = 128;
const MAX_VALUE: u64 = (1 << 40) - 1;

/// The number of buckets.
pub const BUCKETS: usize = bucket_of(MAX_VALUE) as usize + 1;

/// The bucket that counts `value_us`.
#[inline]
pub const fn bucket_of(value_us: u64) -> u16 {
    unbounded_bucket_of(if value_us > MAX_VALUE { MAX_VALUE } else { value_us })
}

const fn unbounded_bucket_of(value: u64) -> u16 {
    if value < EXACT {
        return value as u16;
    }
    let exponent = 63 - value.leading_zeros();
    let part = (value >> (exponent - 6)) - 64;
    (EXACT + (exponent as u64 - 7) * 64 + part) as u16
}

/// The midpoint of a bucket, in microseconds.
pub const fn midpoint_of(bucket: u16) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let exponent = (bucket - EXACT) / 64 + 7;
    let width = 1 << (exponent - 6);
    let lower = (64 + (bucket - EXACT) % 64) * width;
    lower + (width - 1) / 2
}

/// The bucket of zero among those of numbers of either sign.
const ZERO: u16 = 1 << 15;

/// The bucket that counts a number of either sign: ascending with the number.
pub const fn signed_bucket_of(value: i64) -> u16 {
    let bucket = unbounded_bucket_of(value.unsigned_abs());
    if value < 0 { ZERO - bucket } else { ZERO + bucket }
}

/// The midpoint of a bucket of numbers of either sign.
pub const fn signed_midpoint_of(bucket: u16) -> i64 {
    let midpoint = midpoint_of(bucket.abs_diff(ZERO)) as i64;
    if bucket < ZERO { -midpoint } else { midpoint }
}

/// Sparse bucket counts: sorted by bucket, without zeros. Each entry packs a bucket (upper 16 bits) and a signed count
/// (lower 48 bits) into eight bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Histogram {
    entries: Vec<u64>,
}

const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

fn pack(bucket: u16, count: i64) -> u64 {
    u64::from(bucket) << COUNT_BITS | (count as u64 & COUNT_MASK)
}

fn bucket(entry: u64) -> u16 {
    (entry >> COUNT_BITS) as u16
}

fn count(entry: u64) -> i64 {
    ((entry << (64 - COUNT_BITS)) as i64) >> (64 - COUNT_BITS)
}

impl Histogram {
    /// Counts from bucket numbers in any order. Leaves `buckets` sorted.
    pub fn from_unsorted(buckets: &mut [u16]) -> Self {
        buckets.sort_unstable();
        let mut entries = Vec::with_capacity(buckets.chunk_by(|a, b| a == b).count());
        entries.extend(buckets.chunk_by(|a, b| a == b).map(|run| pack(run[0], run.len() as i64)));
        Self { entries }
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Buckets with their counts, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u16, i64)> + '_ {
        self.entries.iter().map(|&e| (bucket(e), count(e)))
    }

    /// The number of values counted.
    pub fn total(&self) -> i64 {
        self.entries.iter().map(|&e| count(e)).sum()
    }

    /// Heap bytes in use.
    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * 8
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        if other.entries.is_empty() {
            return;
        }
        if self.entries.is_empty() {
            self.entries.clone_from(&other.entries);
            return;
        }
        let (mut at, mut missing, mut has_zero) = (0, 0, false);
        for &theirs in &other.entries {
            at += self.entries[at..].iter().take_while(|mine| bucket(**mine) < bucket(theirs)).count();
            match self.entries.get_mut(at).filter(|mine| bucket(**mine) == bucket(theirs)) {
                Some(mine) => {
                    let sum = count(*mine) + count(theirs);
                    *mine = pack(bucket(theirs), sum);
                    has_zero |= sum == 0;
                }
                None => missing += 1,
            }
        }
        if missing > 0 {
            self.insert_missing(other, missing);
        }
        if has_zero {
            self.entries.retain(|&entry| count(entry) != 0);
            self.entries.shrink_to_fit();
        }
    }

    /// Takes over those entries of `other`, `missing` in number, whose buckets have none here. From behind, so that each
    /// entry moves once.
    fn insert_missing(&mut self, other: &Self, mut missing: usize) {
        let mut mine = self.entries.len();
        self.entries.reserve_exact(missing);
        self.entries.resize(mine + missing, 0);
        for &theirs in other.entries.iter().rev() {
            while mine > 0 && bucket(self.entries[mine - 1]) > bucket(theirs) {
                mine -= 1;
                self.entries[mine + missing] = self.entries[mine];
            }
            if mine == 0 || bucket(self.entries[mine - 1]) < bucket(theirs) {
                missing -= 1;
                self.entries[mine + missing] = theirs;
                if missing == 0 {
                    return;
                }
            }
        }
    }

    /// Changes the sign of every count.
    pub fn negate(&mut self) {
        for entry in &mut self.entries {
            *entry = pack(bucket(*entry), -count(*entry));
        }
    }

    /// The value of rank `ceil(permille / 1000 * total)` (nearest rank), as the midpoint of its bucket in
    /// microseconds. `None` when empty.
    pub fn quantile(&self, permille: u32) -> Option<u64> {
        self.nearest_rank(permille).map(midpoint_of)
    }

    /// The bucket of the value of that rank.
    pub fn nearest_rank(&self, permille: u32) -> Option<u16> {
        let total = self.total();
        if total <= 0 {
            return None;
        }
        let rank = (total * i64::from(permille) + 999) / 1000;
        let mut seen = 0;
        for (bucket, count) in self.iter() {
            seen += count;
            if seen >= rank {
                return Some(bucket);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_either_sign_keep_their_order_and_size() {
        let magnitudes = [0, 1, 127, 128, 1_000_000, 123_456_789_012, 9_000_000_000_000_000_000];
        let numbers: Vec<i64> = magnitudes.iter().rev().map(|n| -n).chain(magnitudes.into_iter().skip(1)).collect();
        assert!(numbers.is_sorted_by_key(|number| signed_bucket_of(*number)));
        for number in numbers {
            let midpoint = signed_midpoint_of(signed_bucket_of(number));
            assert!(midpoint.abs_diff(number) <= number.unsigned_abs() / 100, "{number}: {midpoint}");
        }
    }

    #[test]
    fn buckets_are_contiguous_and_ascending() {
        let mut last = bucket_of(0);
        for value in 1..200_000u64 {
            let bucket = bucket_of(value);
            assert!(bucket == last || bucket == last + 1, "{value} went from bucket {last} to {bucket}");
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX) as usize, BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn midpoints_are_within_one_percent(value in 0u64..MAX_VALUE) {
            let midpoint = midpoint_of(bucket_of(value));
            prop_assert!(midpoint.abs_diff(value) * 100 <= value, "{value} reads as {midpoint}");
        }

        #[test]
        fn merging_equals_counting_together(a in prop::collection::vec(0u16..300, 0..50), b in prop::collection::vec(0u16..300, 0..50)) {
            let mut sum = Histogram::from_unsorted(&mut a.clone());
            sum.add(&Histogram::from_unsorted(&mut b.clone()));
            let mut all = [a.clone(), b.clone()].concat();
            prop_assert_eq!(&sum, &Histogram::from_unsorted(&mut all));
            let mut minus = Histogram::from_unsorted(&mut b.clone());
            minus.negate();
            sum.add(&minus);
            prop_assert_eq!(sum, Histogram::from_unsorted(&mut a.clone()));
        }

        #[test]
        fn quantiles_are_nearest_rank(values in prop::collection::vec(0u64..10_000_000, 1..200), permille in 1u32..=1000) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = (values.len() * permille as usize).div_ceil(1000);
            let mut buckets: Vec<u16> = values.iter().map(|&v| bucket_of(v)).collect();
            let got = Histogram::from_unsorted(&mut buckets).quantile(permille).unwrap();
            prop_assert!(got.abs_diff(sorted[rank - 1]) * 100 <= sorted[rank - 1]);
        }
    }
}
