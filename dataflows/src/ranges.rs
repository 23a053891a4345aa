//! Where the records of a set are: by partition, the first and the last offset, and the event clock at the first.
//!
//! Ranges of sets are joined partition by partition, in any order, with the same result. They have no negation: see
//! [`Aggregate`](crate::aggregate::Aggregate).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Deserializer, Serialize};

use crate::input::PartitionInfo;
use crate::time::Tick;

/// The partition of a range, shared by all ranges of a thread that are in it.
type Partition = Arc<PartitionInfo>;

/// Where the records of one partition are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// The partition.
    #[serde(deserialize_with = "shared")]
    pub partition: Partition,
    /// The lowest offset.
    pub first: u64,
    /// The highest offset.
    pub last: u64,
    /// The partition's event clock at the lowest offset, with that record.
    pub clock: Tick,
}

/// Where the records of a set are. In order of the partitions, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ranges(Vec<Range>);

impl From<Range> for Ranges {
    fn from(range: Range) -> Self {
        Self(vec![range])
    }
}

impl Ranges {
    /// The ranges, in order of the partitions.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Range> {
        self.0.iter()
    }

    /// Joins those of another set.
    pub fn join(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for range in &other.0 {
            // Mostly the very same partition, so that no text has to be compared.
            let known = self.0.iter().position(|known| Arc::ptr_eq(&known.partition, &range.partition));
            let place = match known {
                Some(place) => Ok(place),
                None => self.0.binary_search_by(|known| known.partition.cmp(&range.partition)),
            };
            match place {
                Ok(place) => {
                    let known = &mut self.0[place];
                    known.first = known.first.min(range.first);
                    known.last = known.last.max(range.last);
                    // Clocks rise with offsets.
                    known.clock = known.clock.min(range.clock);
                }
                Err(place) => self.0.insert(place, range.clone()),
            }
        }
    }

    /// Heap bytes, without the partitions, which are shared.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Range>()
    }
}

/// A partition as it is written: with texts that need no copy where it is known.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    identity: Cow<'a, str>,
    number: i32,
}

/// The partitions that a thread has read, by number. Those that nobody uses any more are let go from time to time.
#[derive(Default)]
struct Known {
    by_number: BTreeMap<i32, Vec<Weak<PartitionInfo>>>,
    count: usize,
    let_go_at: usize,
}

thread_local! {
    /// What is read of partitions here. Only saves memory: nothing that is computed depends on what is in it.
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// Reads a partition. A window of a key has a range in each partition, so all of them share what says which one it is.
fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Partition, D::Error> {
    let written = Written::deserialize(deserializer)?;
    Ok(KNOWN.with_borrow_mut(|known| known.partition(&written)))
}

impl Known {
    fn partition(&mut self, written: &Written<'_>) -> Partition {
        let of_number = self.by_number.entry(written.number).or_default();
        let is_it = |info: &Partition| *info.topic == *written.topic && *info.identity == *written.identity;
        if let Some(found) = of_number.iter().filter_map(Weak::upgrade).find(is_it) {
            return found;
        }
        let info = Arc::new(PartitionInfo {
            topic: (&*written.topic).into(),
            identity: (&*written.identity).into(),
            number: written.number,
        });
        of_number.push(Arc::downgrade(&info));
        self.count += 1;
        if self.count > self.let_go_at {
            self.by_number.retain(|_, of_number| {
                of_number.retain(|info| info.strong_count() > 0);
                !of_number.is_empty()
            });
            self.count = self.by_number.values().map(Vec::len).sum();
            self.let_go_at = 2 * self.count + 64;
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> Partition {
        Arc::new(PartitionInfo { topic: "logs".into(), identity: "logs".into(), number })
    }

    fn range(number: i32, first: u64, last: u64, clock: Tick) -> Range {
        Range { partition: partition(number), first, last, clock }
    }

    #[test]
    fn ranges_are_joined_by_partition_in_any_order() {
        let all = [range(1, 5, 9, 50), range(0, 3, 3, 7), range(1, 2, 4, 20), range(1, 8, 30, 60), range(2, 0, 0, 1)];
        let expected = [range(0, 3, 3, 7), range(1, 2, 30, 20), range(2, 0, 0, 1)];
        for rotated in 0..all.len() {
            let (mut joined, mut others) = (Ranges::default(), Ranges::default());
            for (place, range) in all.iter().cycle().skip(rotated).take(all.len()).enumerate() {
                if place % 2 == 0 { &mut joined } else { &mut others }.join(&range.clone().into());
            }
            joined.join(&others);
            assert_eq!(joined.iter().cloned().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_is_read_shares_its_partition() {
        let ranges: Vec<Ranges> = (0..10).map(|n| range(n % 2, n as u64, 9, 3).into()).collect();
        let json = serde_json::to_vec(&ranges).unwrap();
        let read: Vec<Ranges> = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, ranges);
        let partition = |ranges: &Ranges| ranges.0[0].partition.clone();
        assert!(Arc::ptr_eq(&partition(&read[0]), &partition(&read[8])));
        assert!(!Arc::ptr_eq(&partition(&read[0]), &partition(&read[1])));
        // Escaped text, which cannot be borrowed.
        let text = serde_json::to_string(&read[0]).unwrap().replacen("logs", "l\\u006fgs", 1);
        let again: Ranges = serde_json::from_str(&text).unwrap();
        assert!(Arc::ptr_eq(&partition(&read[0]), &partition(&again)));
    }

    #[test]
    fn partitions_that_nobody_uses_are_let_go() {
        let mut known = Known::default();
        for n in 0..10_000 {
            let identity = n.to_string().into();
            known.partition(&Written { topic: "files".into(), identity, number: n % 7 });
        }
        assert!(known.count < 200, "{}", known.count);
    }
}
