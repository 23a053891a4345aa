//! A source that cannot be read is not silence: nothing is said of rates meanwhile, nothing learned, and what comes after all
//! leaves the scores of a run that was never interrupted.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use floodmark_dataflows::checkpoint::{PartitionStart, Restored};
use floodmark_dataflows::input::PartitionEvent;
use floodmark_dataflows::output::{WindowDocument, WindowScore};
use floodmark_dataflows::windows::Publish;

use crate::clock::at_end;
use crate::marks::recorded;
use crate::memory::{Marks, MemoryBatch, Seen, SlowFeed, Step, partition};
use crate::script::play;
use crate::windows::{run_from, serialised};

const T0: u64 = crate::clock::T0 / 60_000 * 60;
/// Minutes of records before anything happens: more than are learned.
const BEFORE: u64 = 160;
const MINUTES: u64 = 190;
const LIVE: Publish = Publish::Live { open_every_ms: 1_000_000_000 };

/// What happens in a run.
struct Story {
    /// Minutes in which these partitions cannot be read.
    outage: Range<u64>,
    away: Range<usize>,
    /// Whether records were written meanwhile, and come then.
    is_written: bool,
}

/// The records of a partition in these minutes: two services, unsteadily.
fn records(partition: u64, minutes: Range<u64>) -> Vec<Vec<u8>> {
    let seconds = (minutes.start * 60..minutes.end * 60).filter(|second| second % 4 == 2 * partition);
    let each = seconds.flat_map(|second| (0..2u64).map(move |service| (second, service)));
    let noise = |second: u64, service: u64| (second * 2 + service).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61;
    let wanted = each.filter(|(second, service)| noise(*second, *service) > 0);
    let text = |(second, service): (u64, u64)| {
        let (at, ms) = ((T0 + second) * 1_000, 10 + second % 13);
        format!(r#"{{"timestamp":{at},"service_name":"s{service}","response_time_ms":{ms}}}"#)
    };
    wanted.map(|record| text(record).into_bytes()).collect()
}

/// What the source says, step by step.
struct Script {
    steps: VecDeque<Step>,
    /// The next offset of each partition.
    next: [u64; 2],
}

impl Script {
    /// A mark at this second.
    fn mark(&mut self, second: u64) {
        self.steps.push_back(Step::Mark((T0 + second) * 1_000));
    }

    /// The records of a partition in these minutes.
    fn give(&mut self, p: usize, minutes: Range<u64>) {
        let batch = MemoryBatch { first_offset: self.next[p], records: records(p as u64, minutes).into() };
        self.next[p] += batch.records.len() as u64;
        self.steps.push_back(Step::Event(p, PartitionEvent::Records(batch)));
    }

    /// Minutes in which both partitions can be read, with a mark a second.
    fn go_on(&mut self, minutes: Range<u64>) {
        for minute in minutes {
            (0..2).for_each(|p| self.give(p, minute..minute + 1));
            (1..=60).for_each(|second| self.mark(minute * 60 + second));
        }
    }
}

impl Story {
    /// The records of each partition.
    fn logs(&self) -> Vec<Vec<Vec<u8>>> {
        let of = |p: u64| match self.is_written || !self.away.contains(&(p as usize)) {
            true => records(p, 0..MINUTES),
            false => [records(p, 0..self.outage.start), records(p, self.outage.end..MINUTES)].concat(),
        };
        (0..2).map(of).collect()
    }

    /// What the source says.
    fn script(&self) -> VecDeque<Step> {
        let mut script = Script { steps: [at_end(0, 0), at_end(1, 0)].into(), next: [0; 2] };
        script.mark(BEFORE * 60);
        (0..2).for_each(|p| script.give(p, 0..BEFORE));
        let Range { start, end } = self.outage;
        script.go_on(BEFORE..start);
        for minute in start..end {
            script.steps.extend(self.away.clone().map(|p| Step::Event(p, PartitionEvent::Unreachable)));
            script.mark((minute + 1) * 60);
        }
        // Others could be read all the time; here they wait until the rest is let go.
        for p in (0..2).filter(|p| !self.away.contains(p)) {
            for minute in start..end {
                script.give(p, minute..minute + 1);
                (0..60).for_each(|_| script.mark(end * 60));
            }
        }
        if self.is_written {
            self.away.clone().for_each(|p| script.give(p, start..end));
        }
        script.go_on(end..MINUTES);
        script.steps
    }

    fn play(&self) -> (Seen, Marks) {
        play(2, self.script(), Restored::default(), None, false)
    }
}

type Scores = BTreeMap<(String, u64), WindowScore>;

/// The last documents of the windows of a minute, by service and minute.
fn last(seen: &Seen) -> BTreeMap<(String, u64), WindowDocument> {
    let of_view = seen.windows.iter().filter(|((view, ..), _)| view == "minutes");
    of_view
        .map(|((_, key, start), all)| ((key.clone(), (start / 1_000 - T0) / 60), all[all.len() - 1].clone()))
        .collect()
}

/// Their scores, without where the records are.
fn scores(seen: &Seen) -> Scores {
    let score = |document: WindowDocument| Some(WindowScore { offsets: Vec::new(), ..document.score? });
    last(seen).into_iter().filter_map(|(place, document)| Some((place, score(document)?))).collect()
}

/// The scores of a run without an outage.
fn undisturbed() -> Scores {
    let story = Story { outage: BEFORE + 10..BEFORE + 10, away: 0..0, is_written: true };
    scores(&story.play().0)
}

#[test]
fn what_was_written_meanwhile_leaves_the_scores_of_a_run_without_an_outage() {
    for away in [0..2, 1..2] {
        let story = Story { outage: BEFORE + 10..BEFORE + 18, away: away.clone(), is_written: true };
        let (seen, _) = story.play();
        let expected = undisturbed();
        for (place, score) in &expected {
            assert_eq!(scores(&seen).get(place), Some(score), "{place:?} with {away:?} away");
        }
        assert_eq!(scores(&seen), expected);
        // Meanwhile, as far as there were records at all, nothing was said of their rate.
        let windows = seen.windows.iter().filter(|((view, ..), _)| view == "minutes");
        let all = windows.flat_map(|(_, documents)| documents.iter().filter_map(|document| document.score.as_ref()));
        let stalled: Vec<_> = all.filter(|score| score.stalled).collect();
        assert!(
            !stalled.is_empty() && stalled.iter().all(|score| score.measures.iter().all(|of| &*of.measure != "rate"))
        );
        let worst = seen.windows.values().flatten().filter(|document| document.count == 0).count();
        assert_eq!(worst, 0, "nobody was silent");
    }
}

#[test]
fn an_outage_in_which_nobody_wrote_is_not_silence() {
    // Long enough to be let go, and not.
    for minutes in [8, 3] {
        let outage = BEFORE + 10..BEFORE + 10 + minutes;
        let (seen, _) = Story { outage: outage.clone(), away: 0..2, is_written: false }.play();
        let expected = undisturbed();
        for document in seen.windows.values().flatten().filter(|document| document.end > (T0 + BEFORE * 60) * 1_000) {
            let score = document.score.as_ref().map_or(0, |score| score.score);
            assert!(document.count > 0 && score < 50, "{minutes} minutes away: {document:?}");
        }
        let stalled: Vec<u64> =
            scores(&seen).into_iter().filter(|(_, of)| of.stalled).map(|((_, minute), _)| minute).collect();
        assert!(stalled.iter().all(|minute| (outage.start - 1..=outage.end).contains(minute)), "{stalled:?}");
        // As if that time had not been.
        for (place, score) in scores(&seen).into_iter().filter(|(place, _)| place.1 < outage.start - 1) {
            assert_eq!(expected[&place], score, "{place:?}");
        }
        // Without an outage the same log is one of silence.
        let logs = Story { outage: outage.clone(), away: 0..2, is_written: false }.logs();
        let plain = crate::windows::run(&logs, timely::Config::thread(), 64, Publish::Final);
        assert!(scores(&plain).iter().any(|((_, minute), score)| outage.contains(minute) && score.score >= 50));
    }
}

#[test]
fn outages_are_the_same_for_any_workers() {
    for (away, is_written) in [(1..2, true), (0..2, false)] {
        let story = Story { outage: BEFORE + 10..BEFORE + 17, away, is_written };
        let (live, marks) = story.play();
        let start = |(number, marks)| (partition(number), PartitionStart { cut: None, marks });
        let restored =
            Restored { partitions: recorded(&marks).into_iter().map(start).collect(), ..Restored::default() };
        for (workers, publish) in
            [(timely::Config::thread(), LIVE), (serialised(4), LIVE), (timely::Config::process(2), Publish::Final)]
        {
            let again = run_from(restored.clone(), &[], &story.logs(), workers, 16, publish, SlowFeed::new);
            let finals = |seen| last(seen).into_iter().filter(|(_, document)| document.is_final);
            assert_eq!(finals(&again).collect::<BTreeMap<_, _>>(), finals(&live).collect::<BTreeMap<_, _>>());
        }
    }
}
