//! Recorded marks: a run that is killed behind any mark, and begins again with what was recorded, ends like one that was
//! not: the same windows, and the same dead letters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use floodmark_dataflows::checkpoint::{RecordedMark, Restored};
use floodmark_dataflows::input::PartitionEvent;
use floodmark_dataflows::output::{Reason, WindowDocument};
use floodmark_dataflows::time::Millis;

use crate::checkpoints::Store;
use crate::clock::{T0, at_end, mark, records};
use crate::memory::{Marks, MemoryBatch, Seen, Step, partition};
use crate::script::{SETTLING, play, play_as};

type Windows = BTreeMap<(String, String, Millis), WindowDocument>;

fn last_of(seen: &Seen) -> Windows {
    seen.windows.iter().map(|(place, all)| (place.clone(), all[all.len() - 1].clone())).collect()
}

/// What the marks of a run say of its partitions, none of which had joined another worker.
pub fn recorded(marks: &Marks) -> BTreeMap<i32, VecDeque<RecordedMark>> {
    let mut by_partition = BTreeMap::<i32, VecDeque<RecordedMark>>::new();
    for (wall_ms, positions) in marks {
        for of in positions {
            let mark = RecordedMark { next_offset: of.next_offset, wall_ms: *wall_ms, hold: of.hold, away: of.away };
            by_partition.entry(of.partition as i32).or_default().push_back(mark);
        }
    }
    by_partition
}

/// What a run goes on from that was killed with these marks and this checkpoint.
fn restored(marks: &Marks, store: &Mutex<Store>) -> Restored {
    let mut restored = store.lock().unwrap().restored();
    for (number, mut marks) in recorded(marks) {
        let start = restored.partitions.entry(partition(number)).or_default();
        if let Some(cut) = &start.cut {
            marks.retain(|mark| mark.next_offset >= cut.next_offset);
        }
        start.marks = marks;
    }
    restored
}

/// The records that a script has for a partition, by offset.
fn log(script: &[Step], number: usize) -> BTreeMap<u64, Vec<u8>> {
    let batches = script.iter().filter_map(|step| match step {
        Step::Event(p, PartitionEvent::Records(batch)) if *p == number => Some(batch),
        _ => None,
    });
    batches.flat_map(|batch| (batch.first_offset..).zip(batch.records.iter().cloned())).collect()
}

/// What a feed says at a restart: all that a partition has from where it goes on, and marks for what had none.
fn again(script: &[Step], restored: &Restored) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    for (info, start) in &restored.partitions {
        let (number, mut log) = (info.number as usize, log(script, info.number as usize));
        let from = start.cut.as_ref().map_or_else(|| start.marks[0].next_offset, |cut| cut.next_offset);
        let log = log.split_off(&from);
        if !log.is_empty() {
            let batch = MemoryBatch { first_offset: from, records: log.into_values().collect() };
            steps.push_back(Step::Event(number, PartitionEvent::Records(batch)));
        }
    }
    // Of the wall clock of the kill. Nothing is idle by then.
    steps.extend(script.last().cloned().into_iter().cycle().take(SETTLING));
    steps
}

/// Kills the run behind every mark, and compares. Returns the uninterrupted run, and how many went on from a checkpoint.
fn check(partitions: i32, script: Vec<Step>) -> (Seen, usize) {
    let script: Vec<_> = (0..partitions as usize).map(|p| at_end(p, 0)).chain(script).collect();
    let (mut whole, mut from_checkpoints) = (Seen::default(), 0);
    let ends = (1..=script.len()).filter(|&end| matches!(script[end - 1], Step::Mark(_)));
    for end in ends {
        let steps = || VecDeque::from(script[..end].to_vec());
        for has_checkpoints in [false, true] {
            // With checkpoints some marks come before records that they would have covered.
            let checkpoints = has_checkpoints.then(Arc::default);
            (whole, _) = play(partitions, steps(), Restored::default(), checkpoints, false);
            let store = Arc::new(Mutex::new(Store::default()));
            let checkpoints = has_checkpoints.then(|| store.clone());
            let (killed, marks) = play(partitions, steps(), Restored::default(), checkpoints, true);
            let restored = restored(&marks, &store);
            let what = format!("killed behind step {end}, from a checkpoint at {}", restored.at);
            from_checkpoints += usize::from(restored.at > 0);
            let steps = again(&script[..end], &restored);
            let (seen, _) = play(restored.partitions.len() as i32, steps, restored, None, false);

            let mut windows = last_of(&killed);
            windows.extend(last_of(&seen));
            assert_eq!(windows, last_of(&whole), "{what}");
            let mut dead = killed.dead;
            dead.extend(seen.dead);
            assert_eq!(dead, whole.dead, "{what}");
            let logged: BTreeMap<_, _> = killed.logged.into_iter().chain(seen.logged).collect();
            assert_eq!(logged, whole.logged, "{what}");
        }
    }
    (whole, from_checkpoints)
}

fn tumbling(seen: &Seen, second: u64) -> &WindowDocument {
    seen.windows[&("tumbling".into(), "a".into(), T0 + second * 1_000)].last().unwrap()
}

#[test]
fn an_idle_partition_that_comes_back() {
    let mut script = vec![mark(0), records(1, 0, &[1]), at_end(1, 1)];
    for s in 1..=36 {
        script.extend([records(0, s - 1, &[s]), mark(s)]);
    }
    // Late by the hold, and by the hold alone.
    script.extend([
        records(1, 1, &[5, 6]),
        mark(36),
        records(0, 36, &[50]),
        mark(50),
        records(1, 3, &[7, 40]),
        mark(51),
    ]);
    let (whole, from_checkpoints) = check(2, script);
    assert_eq!((tumbling(&whole, 0).count, tumbling(&whole, 0).late_records), (13, 3));
    assert!(from_checkpoints > 20, "{from_checkpoints}");
}

#[test]
fn silence_and_records_behind_it() {
    // The event clock goes on by the wall clock; what comes then is dated by it.
    let mut script = vec![mark(100), records(0, 0, &[0, 1, 2]), at_end(0, 3)];
    script.extend((101..=141).map(mark));
    script.extend([records(0, 3, &[4]), mark(142)]);
    let (whole, _) = check(1, script);
    assert_eq!(tumbling(&whole, 0).late_records, 1);
}

#[test]
fn records_from_the_future() {
    let script = vec![
        mark(0),
        records(0, 0, &[0, 50]),
        records(0, 2, &[70]),
        mark(11),
        records(0, 3, &[9_999_999, 12]),
        mark(12),
        records(0, 5, &[13]),
        mark(13),
        // Once this would have been too far ahead, and much later it would not.
        records(0, 6, &[100, 14]),
        mark(14),
        records(0, 8, &[100]),
        mark(60),
    ];
    let (whole, _) = check(1, script);
    assert_eq!(whole.dead, [((0, 3), Reason::ClockAhead), ((0, 6), Reason::ClockAhead)].into());
}

#[test]
fn an_unreachable_partition() {
    let unreachable = || Step::Event(1, PartitionEvent::Unreachable);
    let mut script = vec![mark(0), records(1, 0, &[1]), unreachable()];
    for s in 1..=32 {
        script.extend([records(0, s - 1, &[s]), mark(s * 30), unreachable()]);
    }
    script.extend([records(1, 1, &[2]), mark(32 * 30)]);
    let (whole, _) = check(2, script);
    assert_eq!(tumbling(&whole, 0).late_records, 1, "released after stall_after");
}

#[test]
fn an_outage_that_nobody_wrote_in() {
    let away = |p| Step::Event(p, PartitionEvent::Unreachable);
    let mut script = vec![mark(0)];
    for s in 1..=30 {
        script.extend([records(0, s - 1, &[s]), records(1, s - 1, &[s]), mark(s)]);
    }
    // Too short to be let go; then long enough, and the rest of one partition is written behind it.
    for s in 30..50 {
        script.extend([away(0), away(1), mark(s)]);
    }
    script.extend([records(0, 30, &[50, 51]), records(1, 30, &[50, 51]), mark(52)]);
    for minute in 1..=8 {
        script.extend([away(0), away(1), mark(52 + minute * 60)]);
    }
    script.extend([records(0, 32, &[52, 531, 540, 545]), records(1, 32, &[535, 541, 545]), mark(545)]);
    let (whole, from_checkpoints) = check(2, script);
    let is_stalled = |second| tumbling(&whole, second).score.as_ref().unwrap().stalled;
    assert_eq!([10, 20, 30, 50, 530].map(is_stalled), [false, false, true, true, true]);
    assert!(from_checkpoints > 20, "{from_checkpoints}");
}

#[test]
fn a_partition_that_joins() {
    let mut script = vec![mark(0)];
    for s in 1..=35 {
        script.extend([records(0, s - 1, &[s]), mark(s)]);
    }
    script.extend([Step::Join(partition(1)), at_end(1, 0), mark(35), records(1, 0, &[3, 34]), mark(36)]);
    script.extend([records(0, 35, &[37]), mark(37), records(1, 2, &[36, 37]), mark(38)]);
    let (whole, _) = check(1, script);
    assert!(tumbling(&whole, 0).late_records == 1, "it starts where the frontier was");
}

#[test]
fn a_partition_that_joins_behind_a_checkpoint() {
    let at = T0 / 1_000 + 50;
    for is_live in [true, false] {
        let steps = VecDeque::from([records(0, 0, &[29, 51]), mark(60)]);
        let (seen, marks) = play_as(is_live, 1, steps, Restored { at, ..Restored::default() }, None, false);
        assert_eq!(seen.logged.len(), 2);
        let [(_, positions)] = &marks[..] else { panic!("{marks:?}") };
        let [position] = &positions[..] else { panic!("{positions:?}") };
        assert_eq!((position.next_offset, position.hold), (0, at), "the mark says that it starts at the checkpoint");
    }
}

#[test]
fn a_log_that_comes_back_shorter() {
    let script = vec![at_end(0, 0), mark(0), records(0, 0, &[0, 1, 2, 3, 4]), mark(5), mark(6)];
    let (_, marks) = play(1, script.clone().into(), Restored::default(), None, true);
    let restored = restored(&marks, &Mutex::default());
    // The broker has lost three; what is written in their place was covered by the marks, as far as anyone can tell.
    let mut steps =
        VecDeque::from([records(0, 0, &[0, 1]), at_end(0, 2), mark(10), records(0, 2, &[11, 500]), mark(11)]);
    steps.extend([records(0, 4, &[12, 13, 500]), mark(14)]);
    let (seen, marks) = play(1, steps, restored, None, false);
    assert_eq!(seen.logged.into_keys().collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2), (0, 4), (0, 5)]);
    assert_eq!(seen.dead, [((0, 3), Reason::ClockAhead), ((0, 6), Reason::ClockAhead)].into());
    assert!(marks[0].1.is_empty() && marks[1].1.is_empty(), "it is still at the marks of the run before");
}
