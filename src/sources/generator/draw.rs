//! Draws for one record: a seeded generator from `rand`, and integer arithmetic on its bits.
//!
//! Only `next_u64` of a named, portable generator is used, and floats only with operations that IEEE 754 rounds
//! exactly, so a record has the same bytes on every machine.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// The random numbers of one record or one incident period.
pub struct Draws(Xoshiro256PlusPlus);

/// Spreads every bit of `x` over all bits of the result (the finaliser of SplitMix64).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Draws {
    /// Draws that depend on these three numbers alone.
    #[inline]
    pub fn new(seed: u64, stream: u64, index: u64) -> Self {
        let stream = mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        Self(Xoshiro256PlusPlus::seed_from_u64(stream ^ mix(index)))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        scale(self.bits(), n)
    }
}

/// Maps 64 random bits to a number below `n`.
#[inline]
pub fn scale(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// Takes the lowest 16 bits to a number below `n` and moves the bits on.
#[inline]
pub fn take16(bits: &mut u64, n: u64) -> u64 {
    let low = *bits & 0xffff;
    *bits >>= 16;
    (low * n) >> 16
}

/// The sum of 8 random bytes has this mean.
const MEAN: usize = 1020;
/// The largest sum of 8 random bytes.
const MAX: usize = 2040;
/// Its standard deviation, `sqrt(8 · (256² − 1) / 12)`.
const DEVIATION: f64 = 209.02;

/// Log-normal factors with median 1, by the sum of 8 random bytes, which is very nearly normal.
pub struct LogNormal([f64; MAX + 1]);

impl LogNormal {
    /// Factors whose logarithm has this standard deviation (at most 1).
    pub fn new(sigma: f64) -> Self {
        // The Taylor series of exp, for a step so small that three terms are exact enough: `exp` of the standard
        // library may differ in the last bit between machines.
        let x = sigma / DEVIATION;
        let step = 1.0 + x + x * x / 2.0 + x * x * x / 6.0;
        let mut factors = [1.0; MAX + 1];
        for i in MEAN + 1..=MAX {
            factors[i] = factors[i - 1] * step;
            factors[MAX - i] = 1.0 / factors[i];
        }
        Self(factors)
    }

    /// The factor for 64 random bits.
    #[inline]
    pub fn factor(&self, bits: u64) -> f64 {
        // Adds the bytes pairwise: four 16-bit sums, then one multiplication adds those in its highest 16 bits.
        let pairs = (bits & 0x00ff_00ff_00ff_00ff) + ((bits >> 8) & 0x00ff_00ff_00ff_00ff);
        self.0[(pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_normal_factors_have_median_one_and_the_asked_spread() {
        let table = LogNormal::new(0.5);
        let mut factors: Vec<f64> = (0..100_000).map(|i| table.factor(Draws::new(1, 2, i).bits())).collect();
        factors.sort_by(f64::total_cmp);
        let quantile = |q: f64| factors[(q * factors.len() as f64) as usize];
        assert!((quantile(0.5) - 1.0).abs() < 0.02, "median {}", quantile(0.5));
        let expected = (0.5f64 * 1.2816).exp();
        assert!((quantile(0.9) / expected - 1.0).abs() < 0.03, "p90 {} instead of {expected}", quantile(0.9));
    }

    #[test]
    fn draws_depend_on_each_input() {
        let first = |a, b, c| Draws::new(a, b, c).bits();
        let all = [first(1, 1, 1), first(2, 1, 1), first(1, 2, 1), first(1, 1, 2)];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
        assert_eq!(first(7, 8, 9), first(7, 8, 9));
    }
}
