//! The account of a partition: what became of each of its offsets.
//!
//! In: what the source operator reads, in order. Out: a [`Ledger`], a function of the partition's contents, the start and
//! the configuration, so a restart that begins with the ledger of a cut goes on with the same numbers. Nothing fails.
//!
//! Where every record takes one offset (Kafka), what lies between two of them that came one after the other never was a
//! record: a marker of a transaction, or something that compaction took. Then at every moment
//!
//! > next − first = indexed + dead letters + dropped + lost + no record
//!
//! Where offsets are positions in bytes (files), the account is in records: records = indexed + dead letters + dropped.

use serde::{Deserialize, Serialize};

use crate::output::Reason;

/// What became of the offsets of a partition from [`Ledger::first_offset`] to [`Ledger::next_offset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Where the account begins; `None` before anything came.
    pub first_offset: Option<u64>,
    /// Where it ends: the offset to read next.
    pub next_offset: u64,
    /// Offsets are positions in bytes: a record takes as many as it is long, and nothing can be said of those between.
    pub in_bytes: bool,
    /// Records read.
    pub records: u64,
    /// Bytes of these records.
    pub bytes: u64,
    /// Records handed to the store. It may refuse some: they move to the dead letters with [`Ledger::refuse`].
    pub indexed: u64,
    /// Dead letters, in the order of [`Reason::ALL`].
    pub dead_letters: [u64; Reason::ALL.len()],
    /// Records that the configuration keeps out of the store.
    pub dropped: u64,
    /// Offsets that the source no longer had when they were to be read.
    pub lost: u64,
    /// Offsets without a record.
    pub no_record: u64,
}

impl Ledger {
    /// An empty account.
    pub fn new(in_bytes: bool) -> Self {
        Self { in_bytes, ..Self::default() }
    }

    /// The source has nothing more before `offset`: what is between here and there never was a record.
    pub fn pass(&mut self, offset: u64) {
        let first = *self.first_offset.get_or_insert(offset);
        let from = self.next_offset.max(first);
        if offset > from && !self.in_bytes {
            self.no_record += offset - from;
        }
        self.next_offset = from.max(offset);
    }

    /// A record at `offset` of so many bytes is read; what became of it is noted next.
    #[inline]
    pub fn read(&mut self, offset: u64, bytes: usize) {
        self.pass(offset);
        self.records += 1;
        self.bytes += bytes as u64;
        if !self.in_bytes {
            self.next_offset = offset + 1;
        }
    }

    /// The record read last goes to the store, or is kept out of it by the configuration.
    #[inline]
    pub fn take(&mut self, is_indexed: bool) {
        if is_indexed {
            self.indexed += 1;
        } else {
            self.dropped += 1;
        }
    }

    /// The record read last is a dead letter.
    pub fn kill(&mut self, reason: Reason) {
        self.dead_letters[reason as usize] += 1;
    }

    /// The source no longer has the offsets `from..to`.
    pub fn lose(&mut self, from: u64, to: u64) {
        self.pass(from);
        self.lost += to.saturating_sub(self.next_offset);
        self.next_offset = self.next_offset.max(to);
    }

    /// The store refused so many of the documents that were handed to it.
    pub fn refuse(&mut self, documents: u64) {
        let documents = documents.min(self.indexed);
        self.indexed -= documents;
        self.dead_letters[Reason::Unindexable as usize] += documents;
    }

    /// All dead letters.
    pub fn dead(&self) -> u64 {
        self.dead_letters.iter().sum()
    }

    /// What the account is of: offsets, or records where offsets are bytes.
    pub fn span(&self) -> u64 {
        if self.in_bytes { self.records } else { self.next_offset - self.first_offset.unwrap_or(self.next_offset) }
    }

    /// What is accounted for, in the same unit.
    pub fn sum(&self) -> u64 {
        let records = self.indexed + self.dead() + self.dropped;
        if self.in_bytes { records } else { records + self.lost + self.no_record }
    }

    /// Whether everything is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.span() == self.sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A record behind a hole, of some length, with its fate: dead, indexed, or dropped.
        Record {
            hole: u64,
            bytes: usize,
            fate: Result<bool, Reason>,
        },
        Lost {
            hole: u64,
            length: u64,
        },
        End {
            hole: u64,
        },
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let hole = || prop_oneof![3 => Just(0_u64), 1 => 1..50_u64];
        let fate = prop_oneof![any::<bool>().prop_map(Ok), proptest::sample::select(&Reason::ALL[..]).prop_map(Err)];
        let record = (hole(), 0..100_usize, fate).prop_map(|(hole, bytes, fate)| Step::Record { hole, bytes, fate });
        let lost = (hole(), 0..100_u64).prop_map(|(hole, length)| Step::Lost { hole, length });
        let end = hole().prop_map(|hole| Step::End { hole });
        proptest::collection::vec(prop_oneof![10 => record, 1 => lost, 1 => end, 1 => Just(Step::Restart)], 0..200)
    }

    proptest! {
        #[test]
        fn every_offset_is_accounted_for_at_every_moment(start in 0..1_000_u64, steps in steps()) {
            let mut ledger = Ledger::default();
            let mut counted = [0_u64; 5];
            let mut at = start;
            for step in &steps {
                match *step {
                    Step::Record { hole, bytes, fate } => {
                        // A hole before the first thing that came is not in the account.
                        counted[4] += if ledger.first_offset.is_some() { hole } else { 0 };
                        ledger.read(at + hole, bytes);
                        match fate {
                            Ok(indexed) => ledger.take(indexed),
                            Err(reason) => ledger.kill(reason),
                        }
                        counted[match fate { Ok(true) => 0, Err(_) => 1, Ok(false) => 2 }] += 1;
                        at += hole + 1;
                    }
                    Step::Lost { hole, length } => {
                        counted[4] += if ledger.first_offset.is_some() { hole } else { 0 };
                        counted[3] += length;
                        ledger.lose(at + hole, at + hole + length);
                        at += hole + length;
                    }
                    Step::End { hole } => {
                        counted[4] += if ledger.first_offset.is_some() { hole } else { 0 };
                        ledger.pass(at + hole);
                        // The same end again, and one seen before, change nothing.
                        ledger.pass(at + hole);
                        ledger.pass(at);
                        at += hole;
                    }
                    Step::Restart => {
                        ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
                    }
                }
                prop_assert!(ledger.is_balanced(), "{:?}", ledger);
                let Ledger { indexed, dropped, lost, no_record, .. } = ledger;
                prop_assert_eq!([indexed, ledger.dead(), dropped, lost, no_record], counted);
                prop_assert_eq!(ledger.next_offset, if ledger.first_offset.is_some() { at } else { 0 });
            }
            let refused = ledger.indexed / 2;
            ledger.refuse(refused);
            prop_assert!(ledger.is_balanced());
            prop_assert_eq!(ledger.indexed, counted[0] - refused);
        }
    }

    #[test]
    fn positions_in_bytes_leave_no_holes() {
        let mut ledger = Ledger::new(true);
        ledger.read(0, 10);
        ledger.take(true);
        // An empty line between them.
        ledger.read(12, 5);
        ledger.kill(Reason::Malformed);
        ledger.pass(18);
        assert_eq!((ledger.span(), ledger.no_record, ledger.bytes, ledger.next_offset), (2, 0, 15, 18));
        assert!(ledger.is_balanced());
        ledger.records += 1;
        assert!(!ledger.is_balanced());
    }
}
