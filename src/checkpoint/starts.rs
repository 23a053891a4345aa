//! Where each start began to read: what a start reads again, the dead letters of earlier ones say no more of.
//!
//! In: the place of checkpoints. Out: the number of a start, higher than those before, and whether a letter is void. A
//! start reads what came after its checkpoint again. Records that cannot be read then either become dead letters again,
//! under its own number; so a letter with a lower number, from where the start began on, has nothing to say.
//!
//! The file is written when a start knows where it goes on, and before a checkpoint that holds partitions that it did
//! not know then; the next start begins behind that checkpoint. On error: a file of which no copy is good is begun anew;
//! letters that were void are listed again then.

use std::collections::BTreeMap;

use bytes::Bytes;
use floodmark_dataflows::input::PartitionInfo;
use serde::{Deserialize, Serialize};

use super::format::{Damage, EncodeError, FileReader, FileWriter, Kind, Tag};
use super::store::{CopyStore, StoreError};
use crate::sources::wall_clock_ms;

/// The name of the file.
pub const NAME: &str = "starts";
/// Steps kept of each partition. Letters that only older ones make void are listed again.
const MAX_STEPS: usize = 100;

/// The number of a start: the wall clock then in epoch milliseconds, or one more than that of the start before.
pub type StartNumber = u64;

/// A start, and the offset from which on it read.
type Step = (StartNumber, u64);

/// Where starts began to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// The newest.
    last: StartNumber,
    /// Of each partition, ascending in both: a start that read from further on says nothing that a later one does not.
    steps: BTreeMap<PartitionInfo, Vec<Step>>,
}

impl Starts {
    /// Those that are recorded.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(store: &CopyStore) -> Result<Self, StoreError> {
        match store.has(NAME).await? {
            true => store.get(NAME, true, decode).await,
            false => Ok(Self::default()),
        }
    }

    /// The number of a start that comes after all of them.
    pub fn next(&self) -> StartNumber {
        wall_clock_ms().max(self.last + 1)
    }

    /// Notes that a start reads partitions from these offsets on, but for those of which it is known where it did.
    /// Returns whether anything was new.
    pub fn note<'a>(&mut self, start: StartNumber, from: impl IntoIterator<Item = (&'a PartitionInfo, u64)>) -> bool {
        let mut is_new = self.last < start;
        self.last = self.last.max(start);
        for (partition, offset) in from {
            let steps = self.steps.entry(partition.clone()).or_default();
            if steps.last().is_some_and(|(last, _)| *last >= start) {
                continue;
            }
            steps.truncate(steps.partition_point(|(_, earlier)| *earlier < offset));
            steps.push((start, offset));
            steps.drain(..steps.len().saturating_sub(MAX_STEPS));
            is_new = true;
        }
        is_new
    }

    /// The file, to be written.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let mut file = FileWriter::new(Kind::Starts);
        file.add(Tag::Starts, self)?;
        Ok(file.finish().into())
    }

    /// Whether a later start read a record again, of which a letter was written by `start`.
    pub fn reads_again(&self, partition: &PartitionInfo, offset: u64, start: StartNumber) -> bool {
        let steps = self.steps.get(partition).map_or(&[][..], Vec::as_slice);
        let later = steps.partition_point(|(number, _)| *number <= start);
        // The first of the later ones has the lowest offset.
        steps.get(later).is_some_and(|(_, from)| *from <= offset)
    }
}

fn decode(bytes: &Bytes) -> Result<Starts, Damage> {
    let mut reader = FileReader::open(bytes.clone(), Kind::Starts)?;
    let Some(section) = reader.next_section()? else { return Err(Damage::CutOff(bytes.len())) };
    let starts = section.decode()?;
    reader.next_section()?;
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Place;
    use super::*;

    fn partition(number: i32) -> PartitionInfo {
        PartitionInfo { topic: "t".into(), identity: "t@1".into(), number }
    }

    #[test]
    fn a_letter_is_void_where_any_later_start_read_from_before_it() {
        use rand::{RngExt, SeedableRng};
        for seed in 0..200 {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let (mut starts, mut all) = (Starts::default(), Vec::new());
            for number in 1..12 {
                let from = random.random_range(0..20);
                assert!(starts.note(number, [(&partition(0), from)]));
                assert!(!starts.note(number, [(&partition(0), 0)]), "the first word holds");
                all.push((number, from));
            }
            for start in 0..13 {
                for offset in 0..20 {
                    let expected = all.iter().any(|(later, from)| *later > start && *from <= offset);
                    assert_eq!(starts.reads_again(&partition(0), offset, start), expected, "seed {seed}");
                    assert!(!starts.reads_again(&partition(1), offset, start));
                }
            }
        }
    }

    #[tokio::test]
    async fn numbers_ascend_also_where_the_clock_was_set_back() {
        let store = CopyStore::over(Place::new(), 2);
        let mut starts = Starts::read(&store).await.unwrap();
        assert_eq!(starts, Starts::default());
        let far = wall_clock_ms() + 1_000_000;
        starts.note(far, [(&partition(0), 7)]);
        store.put(NAME, starts.encode().unwrap()).await.unwrap();
        let again = Starts::read(&store).await.unwrap();
        assert_eq!((&again, again.next()), (&starts, far + 1));
    }
}
