//! The event clock, step by step: idle and stalled partitions, silence, and clocks gone mad.

use floodmark_dataflows::checkpoint::Restored;
use floodmark_dataflows::input::{PartitionEvent, PartitionIndex};
use floodmark_dataflows::output::{Reason, WindowDocument};
use floodmark_dataflows::time::Millis;

use crate::memory::{Marks, MemoryBatch, Seen, Step};
use crate::script;

pub const T0: Millis = 1_700_000_000_000;

/// Records at these seconds after [`T0`], from an offset on.
pub fn records(partition: PartitionIndex, first_offset: u64, seconds: &[u64]) -> Step {
    let records = seconds
        .iter()
        .map(|s| format!(r#"{{"timestamp":{},"service_name":"a"}}"#, T0 + s * 1_000).into_bytes())
        .collect();
    Step::Event(partition, PartitionEvent::Records(MemoryBatch { first_offset, records }))
}

pub fn at_end(partition: PartitionIndex, next_offset: u64) -> Step {
    Step::Event(partition, PartitionEvent::AtEnd { next_offset })
}

/// A mark at this many seconds after [`T0`].
pub fn mark(second: u64) -> Step {
    Step::Mark(T0 + second * 1_000)
}

struct Outcome {
    seen: Seen,
    marks: Marks,
}

impl Outcome {
    /// The hold of a partition from the last mark on, in seconds after [`T0`].
    fn hold(&self, partition: usize) -> i64 {
        let (_, positions) = self.marks.last().unwrap();
        positions.iter().find(|position| position.partition == partition).unwrap().hold as i64 - (T0 / 1_000) as i64
    }

    fn tumbling(&self, second: u64) -> &[WindowDocument] {
        &self.seen.windows[&("tumbling".into(), "a".into(), T0 + second * 1_000)]
    }
}

fn play(partitions: i32, steps: Vec<Step>) -> Outcome {
    // The source first says where each partition stands, or no mark would have them.
    let steps = (0..partitions as usize).map(|p| at_end(p, 0)).chain(steps).collect();
    let (seen, marks) = script::play(partitions, steps, Restored::default(), None, false);
    Outcome { seen, marks }
}

#[test]
fn an_idle_partition_follows_the_active_ones() {
    let mut steps = vec![mark(0), records(1, 0, &[1]), at_end(1, 1)];
    for s in 1..=40 {
        steps.extend([records(0, s - 1, &[s]), mark(s)]);
    }
    let outcome = play(2, steps);
    assert_eq!(outcome.hold(1), 39, "one mark behind the active partition");
    let documents = outcome.tumbling(0);
    assert!(documents[0].as_of < T0 + 20_000, "closed in time although partition 1 stayed silent");
    assert_eq!(documents.last().map(|d| (d.count, d.is_final, d.as_of)), Some((10, true, T0 + 30_000)));
}

#[test]
fn a_partition_not_at_its_end_holds_the_frontier() {
    let mut steps = vec![mark(0), records(1, 0, &[1])];
    for s in 1..=15 {
        steps.extend([records(0, s - 1, &[s]), mark(s)]);
    }
    let outcome = play(2, steps);
    assert_eq!(outcome.hold(1), -((T0 / 1_000) as i64), "never released");
    let as_of: Vec<_> = outcome.tumbling(0).iter().map(|d| d.as_of).collect();
    assert_eq!(as_of, [T0 + 15_000], "published at the end of the input, not before");
}

#[test]
fn total_silence_moves_the_clock_by_the_wall() {
    // The data are 100 s behind the wall clock; silence of 40 s moves the event clock by as much.
    let mut steps = vec![mark(100), records(0, 0, &[0, 1, 2]), at_end(0, 3)];
    steps.extend((101..=141).map(mark));
    let outcome = play(1, steps);
    assert_eq!(outcome.hold(0), 2 + 39, "the last record's clock plus the silence, one mark behind");
    let documents = outcome.tumbling(0);
    assert!(documents.last().unwrap().is_final);
    assert_eq!(documents.last().unwrap().count, 3);
}

#[test]
fn an_unreachable_partition_is_not_idle() {
    let unreachable = || Step::Event(1, PartitionEvent::Unreachable);
    let mut steps = vec![mark(0), records(1, 0, &[1]), unreachable()];
    for s in 1..=15 {
        steps.extend([records(0, s - 1, &[s]), mark(s * 19), unreachable()]);
    }
    assert_eq!(play(2, steps).hold(1), 1, "held where it stands");

    let mut steps = vec![mark(0), records(1, 0, &[1]), unreachable()];
    for s in 1..=15 {
        steps.extend([records(0, s - 1, &[s]), mark(s * 30), unreachable()]);
    }
    let outcome = play(2, steps);
    assert_eq!(outcome.hold(1), 14, "released after stall_after");
    assert!(outcome.seen.progress[&1].stalled);
}

#[test]
fn a_released_partition_comes_back_with_corrections() {
    let mut steps = vec![mark(0), records(1, 0, &[1]), at_end(1, 1)];
    for s in 1..=45 {
        steps.extend([records(0, s - 1, &[s]), mark(s)]);
    }
    steps.push(records(1, 1, &[5, 6]));
    let outcome = play(2, steps);
    let last = outcome.tumbling(0).last().unwrap();
    assert_eq!((last.count, last.revision), (12, 1), "two late records of one tick");
    assert!(!outcome.seen.progress[&1].idle);
}

#[test]
fn a_record_from_the_future_is_a_dead_letter_and_moves_no_clock() {
    let steps = vec![
        mark(0),
        records(0, 0, &[0, 50]),
        // Not known to be ahead before the next mark covers it; by then the wall clock is there.
        records(0, 2, &[70]),
        mark(11),
        records(0, 3, &[9_999_999, 12]),
        mark(12),
        records(0, 5, &[13]),
        mark(13),
    ];
    let outcome = play(1, steps);
    assert_eq!(outcome.seen.dead.into_iter().collect::<Vec<_>>(), [((0, 3), Reason::ClockAhead)]);
    assert_eq!(outcome.seen.logged.len(), 5);
    assert_eq!(outcome.seen.progress[&0].clock, Some(T0 / 1_000 + 70));
    assert!(outcome.marks.iter().any(|(_, positions)| positions[0].next_offset == 3), "the mark covered the record");
}

#[test]
fn one_mark_is_enough_for_a_batch() {
    let far = [1_000_000, 2_000_000, 3_000_000];
    let steps = vec![mark(0), records(0, 0, &[&[0][..], &far, &[5]].concat()), mark(1)];
    let outcome = play(1, steps);
    assert_eq!(outcome.seen.dead.into_keys().collect::<Vec<_>>(), [(0, 1), (0, 2), (0, 3)]);
    assert_eq!(outcome.seen.logged.into_keys().collect::<Vec<_>>(), [(0, 0), (0, 4)]);
}
