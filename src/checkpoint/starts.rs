//! What each start has read: what it read again, the dead letters of earlier ones say no more of.
//!
//! In: the place of checkpoints, and the ledgers of partitions while they are read. Out: the number of a start, higher
//! than those before, and whether a letter is void. A start reads what came after its checkpoint again. Records that
//! cannot be read then either become dead letters again, under its own number; so a letter with a lower number has nothing
//! to say where the start has read. Of what was lost upstream in between it has not.
//!
//! The file is written at a start, with each checkpoint before its manifest, so that the next start knows of all that is
//! before it, and now and then. On error: a file of which no copy is good is begun anew; letters that were void are listed
//! again then.

use std::collections::BTreeMap;

use bytes::Bytes;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::ledger::Ledger;
use serde::{Deserialize, Serialize};

use super::format::{Damage, EncodeError, FileReader, FileWriter, Kind, Tag};
use super::store::{CopyStore, StoreError};
use crate::sources::wall_clock_ms;

/// The name of the file.
pub const NAME: &str = "starts";
/// Steps kept of each partition. Beyond, the shortest is forgotten: letters that only it makes void are listed again.
const MAX_STEPS: usize = 32;

/// The number of a start: the wall clock then in epoch milliseconds, or one more than that of the start before.
pub type StartNumber = u64;

/// A start of a process or cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its number.
    pub number: StartNumber,
    /// A hash of how it reads records.
    pub records: u64,
}

/// What a start has read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    start: StartNumber,
    from: u64,
    to: u64,
    records: u64,
}

impl Step {
    fn has(&self, offset: u64) -> bool {
        (self.from..self.to).contains(&offset)
    }
}

/// What starts have read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// The newest.
    last: StartNumber,
    /// Of each partition, in the order of starts.
    steps: BTreeMap<PartitionInfo, Vec<Step>>,
}

impl Starts {
    /// Those that are recorded.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(store: &CopyStore) -> Result<Self, StoreError> {
        match store.has(NAME).await? {
            // Not the longest copy, which may be an earlier one: the first is written first.
            true => store.get(NAME, false, decode).await,
            false => Ok(Self::default()),
        }
    }

    /// The number of a start that comes after all of them.
    pub fn next(&self) -> StartNumber {
        wall_clock_ms().max(self.last + 1)
    }

    /// Notes that there was a start of this number.
    pub fn begin(&mut self, number: StartNumber) {
        self.last = self.last.max(number);
    }

    /// Notes what a start has read of a partition by now. Returns whether that is new.
    fn note(&mut self, start: Start, partition: &PartitionInfo, from: u64, to: u64) -> bool {
        let step = Step { start: start.number, from, to, records: start.records };
        let mut known = self.steps.get(partition).into_iter().flatten();
        // It is told of earlier places, too: of those of a checkpoint, which is behind.
        let has_known = known.any(|known| known.start == step.start && known.from == from && known.to >= to);
        if from >= to || has_known {
            return false;
        }
        self.begin(start.number);
        let steps = self.steps.entry(partition.clone()).or_default();
        // What it has read of what an earlier one has, the earlier one says no more of.
        steps.retain(|earlier| !(from <= earlier.from && earlier.to <= to));
        steps.push(step);
        if steps.len() > MAX_STEPS
            && let Some(shortest) = (0..steps.len() - 1).min_by_key(|place| steps[*place].to - steps[*place].from)
        {
            steps.remove(shortest);
        }
        true
    }

    /// The file, to be written.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        FileWriter::of_one(Kind::Starts, Tag::Starts, self).map(Bytes::from)
    }

    fn later(&self, partition: &PartitionInfo, offset: u64, start: StartNumber) -> impl Iterator<Item = &Step> {
        let steps = self.steps.get(partition).into_iter().flatten();
        steps.filter(move |step| step.start > start && step.has(offset))
    }

    /// Whether a later start read a record again, of which a letter was written by `start`. Those of replays, which have no
    /// number, stand.
    pub fn make_void(&self, partition: &PartitionInfo, offset: u64, start: StartNumber) -> bool {
        start > 0 && self.later(partition, offset, start).next().is_some()
    }

    /// Whether a later start did that reads records as this one does.
    pub fn read_alike(&self, partition: &PartitionInfo, offset: u64, letter: StartNumber, own: Start) -> bool {
        self.later(partition, offset, letter).any(|step| step.records == own.records)
    }
}

/// What this start has read.
#[derive(Debug)]
pub struct Reading {
    start: Start,
    starts: Starts,
    /// Where it began to read partitions, and what of them was lost by then. Those that no checkpoint knows begin where their
    /// ledgers do.
    begun: BTreeMap<PartitionInfo, (u64, u64)>,
    /// There is something to be written.
    is_new: bool,
}

impl Reading {
    /// Of a start that goes on at these offsets, with so much lost before.
    pub fn new(start: Start, starts: Starts, begun: BTreeMap<PartitionInfo, (u64, u64)>) -> Self {
        Self { start, starts, begun, is_new: false }
    }

    /// The number of the start.
    pub fn number(&self) -> StartNumber {
        self.start.number
    }

    /// Notes how far a partition is read.
    pub fn note(&mut self, partition: &PartitionInfo, ledger: &Ledger) {
        let Some(first) = ledger.first_offset else { return };
        let (from, lost) = self.begun.entry(partition.clone()).or_insert((first, 0));
        if ledger.lost > *lost {
            // Where in between that was is not known.
            (*from, *lost) = (ledger.next_offset, ledger.lost);
        }
        self.is_new |= self.starts.note(self.start, partition, *from, ledger.next_offset);
    }

    /// The file, if there is anything new in it.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn to_write(&self) -> Result<Option<Bytes>, EncodeError> {
        self.is_new.then(|| self.starts.encode()).transpose()
    }

    /// The file was written.
    pub fn written(&mut self) {
        self.is_new = false;
    }
}

fn decode(bytes: &Bytes) -> Result<Starts, Damage> {
    FileReader::first(bytes, Kind::Starts).map(|(starts, _)| starts)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Place;
    use super::*;

    fn partition(number: i32) -> PartitionInfo {
        PartitionInfo { topic: "t".into(), identity: "t@1".into(), number }
    }

    #[test]
    fn a_letter_is_void_where_any_later_start_has_read_it() {
        use rand::{RngExt, SeedableRng};
        for seed in 0..200 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let (mut starts, mut all) = (Starts::default(), Vec::new());
            for number in 1..12 {
                let from = random.random_range(0..20);
                let start = Start { number, records: 0 };
                let mut to = from;
                for _ in 0..random.random_range(0..3) {
                    to += random.random_range(0..5);
                    starts.note(start, &partition(0), from, to);
                }
                all.push((number, from..to));
            }
            for start in 1..13 {
                for offset in 0..30 {
                    let expected = all.iter().any(|(later, read)| *later > start && read.contains(&offset));
                    assert_eq!(starts.make_void(&partition(0), offset, start), expected, "seed {seed}");
                    assert!(!starts.make_void(&partition(1), offset, start));
                }
            }
        }
    }

    #[test]
    fn what_was_lost_before_it_could_be_read_again_stays_a_letter() {
        let ledger =
            |first, next_offset, lost| Ledger { first_offset: Some(first), next_offset, lost, ..Ledger::default() };
        // The checkpoint was at 100, and what was before 150 is gone.
        let begun = [(partition(0), (100, 7))].into();
        let mut reading = Reading::new(Start { number: 9, records: 1 }, Starts::default(), begun);
        reading.note(&partition(0), &ledger(0, 150, 57));
        assert!(reading.to_write().unwrap().is_none());
        reading.note(&partition(0), &ledger(0, 180, 57));
        assert!(reading.to_write().unwrap().is_some());
        let void = |offset| reading.starts.make_void(&partition(0), offset, 8);
        assert_eq!([99, 100, 149, 150, 179, 180].map(void), [false, false, false, true, true, false]);
        assert!(!reading.starts.make_void(&partition(0), 160, 0), "a letter of a replay");
        assert!(reading.starts.read_alike(&partition(0), 160, 8, Start { number: 10, records: 1 }));
        assert!(!reading.starts.read_alike(&partition(0), 160, 8, Start { number: 10, records: 2 }));
    }

    #[test]
    fn the_longest_steps_are_kept() {
        let mut starts = Starts::default();
        starts.note(Start { number: 1, records: 0 }, &partition(0), 0, 1_000);
        for number in 2..200 {
            starts.note(Start { number, records: 0 }, &partition(0), 1_000 * number, 1_000 * number + number);
        }
        assert_eq!(starts.steps[&partition(0)].len(), MAX_STEPS);
        assert!(starts.later(&partition(0), 500, 0).next().is_some(), "the longest is there");
    }

    #[tokio::test]
    async fn numbers_ascend_also_where_the_clock_was_set_back() {
        let store = CopyStore::over(Place::new(), 2);
        let mut starts = Starts::read(&store).await.unwrap();
        assert_eq!(starts, Starts::default());
        let far = wall_clock_ms() + 1_000_000;
        starts.begin(far);
        store.put(NAME, starts.encode().unwrap()).await.unwrap();
        let again = Starts::read(&store).await.unwrap();
        assert_eq!((&again, again.next()), (&starts, far + 1));
    }
}
