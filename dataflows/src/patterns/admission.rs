//! Which first cuts are kept: a bounded set.
//!
//! In: first cuts, in an order that is a function of the input (the offsets of a partition). Out: a slot for each, the
//! same one again for the same cut. What does not fit gets the slot of [`OTHER_CUT`], so that nothing is lost from the
//! sums and a stream of messages that are all different cannot take the memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::cut::FirstCut;
use super::hash::stable_hash;
use crate::view::OTHER;

/// The id of the cut that stands for all that did not fit: the hash of its template, `__other__`.
pub const OTHER_CUT: u64 = 0x5402_1830_8bd7_d256;

/// The slot of [`OTHER_CUT`].
pub const OTHER_SLOT: u32 = 0;

/// How many first cuts are kept by default.
pub const MAX_FIRST_CUTS: usize = 10_000;

/// A bounded set of first cuts.
#[derive(Clone, Debug)]
pub struct FirstCuts {
    max: usize,
    /// Never iterated.
    slots: HashMap<u64, u32, BuildHasherDefault<IdHasher>>,
    /// By slot.
    cuts: Vec<(u64, Box<str>)>,
}

impl FirstCuts {
    /// An empty set for at most `max` cuts.
    pub fn new(max: usize) -> Self {
        Self { max, slots: HashMap::default(), cuts: vec![(OTHER_CUT, OTHER.into())] }
    }

    /// The slot of a cut: its own, or [`OTHER_SLOT`] if it is not in the set and the set is full.
    #[inline]
    pub fn admit(&mut self, cut: FirstCut<'_>) -> u32 {
        match self.slots.get(&cut.id) {
            Some(&slot) => slot,
            None => self.insert(cut),
        }
    }

    #[cold]
    fn insert(&mut self, cut: FirstCut<'_>) -> u32 {
        if self.slots.len() >= self.max || cut.id == OTHER_CUT {
            return OTHER_SLOT;
        }
        let slot = self.cuts.len() as u32;
        self.cuts.push((cut.id, cut.template.into()));
        self.slots.insert(cut.id, slot);
        slot
    }

    /// The cuts by slot: id and template. The first is [`OTHER_CUT`], whether anything was folded into it or not.
    pub fn cuts(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        self.cuts.iter().map(|(id, template)| (*id, &**template))
    }

    /// Puts back a cut that had the next slot, also where there is no room for further ones.
    pub fn restore(&mut self, cut: FirstCut<'_>) {
        self.slots.insert(cut.id, self.cuts.len() as u32);
        self.cuts.push((cut.id, cut.template.into()));
    }

    /// The cut of a slot that [`FirstCuts::admit`] gave: id and template.
    pub fn cut(&self, slot: u32) -> (u64, &str) {
        let (id, template) = &self.cuts[slot as usize];
        (*id, template)
    }

    /// Whether every further cut is folded into [`OTHER_CUT`].
    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.max
    }
}

/// Ids are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = stable_hash(bytes);
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::cut::Cutter;

    #[test]
    fn the_id_for_all_others_is_the_hash_of_their_name() {
        assert_eq!(stable_hash(OTHER.as_bytes()), OTHER_CUT);
    }

    #[test]
    fn messages_that_are_all_different_are_folded_and_the_known_ones_are_not() {
        let (mut cutter, mut cuts) = (Cutter::default(), FirstCuts::new(100));
        let first = cuts.admit(cutter.cut("a known message"));
        let mut counts = vec![0u64; 101];
        for n in 0..100_000u64 {
            // Letters only, or the numbers would be masked.
            let word: String = n.to_string().bytes().map(|digit| char::from(digit - b'0' + b'g')).collect();
            counts[cuts.admit(cutter.cut(&word)) as usize] += 1;
        }
        assert!(cuts.is_full());
        assert_eq!(cuts.cuts().len(), 101);
        assert_eq!(counts.iter().sum::<u64>(), 100_000);
        assert_eq!(counts[OTHER_SLOT as usize], 100_000 - 99);
        assert_eq!(cuts.admit(cutter.cut("a known message")), first);
    }
}
