//! Plays a script of what a live feed says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use floodmark_dataflows::checkpoint::{PartitionStart, Restored};
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::ingest::RecordPath;
use floodmark_dataflows::windows::Publish;

use crate::checkpoints::{MemorySink, Store};
use crate::memory::{Marks, ScriptFeed, Seen, SeenSink, Step, partition};
use crate::windows::{Setup, computation, setup, views};

/// More steps of a worker than any of these runs takes.
const PATIENCE: usize = 100_000;
/// What a worker still does behind the last step of a script.
pub const SETTLING: usize = 50;

/// Plays a script from what is restored, over partitions that are there from the start. It ends with the script, or is
/// killed there. Returns the marks, too.
pub fn play(
    partitions: i32,
    steps: VecDeque<Step>,
    restored: Restored,
    checkpoints: Option<Arc<Mutex<Store>>>,
    is_killed: bool,
) -> (Seen, Marks) {
    play_as(true, partitions, steps, restored, checkpoints, is_killed)
}

/// The same; without `is_live`, as a run that reads what is there.
pub fn play_as(
    is_live: bool,
    partitions: i32,
    steps: VecDeque<Step>,
    restored: Restored,
    checkpoints: Option<Arc<Mutex<Store>>>,
    is_killed: bool,
) -> (Seen, Marks) {
    let seen = SeenSink::default();
    let start = |start: &PartitionStart| {
        start.cut.as_ref().map(|cut| cut.next_offset).or(start.marks.front().map(|mark| mark.next_offset))
    };
    seen.0.lock().unwrap().starts =
        restored.partitions.iter().filter_map(|(info, of)| Some((info.number, start(of)?))).collect();
    let marks = Arc::new(Mutex::new(Marks::new()));
    let is_done = Arc::new(AtomicBool::new(false));
    let (out, made) = (seen.clone(), marks.clone());
    timely::execute_directly(move |worker| {
        let Setup { decoder, rules, views } = setup(&views());
        let feed = ScriptFeed {
            infos: (0..partitions).map(partition).collect(),
            steps,
            is_live,
            goes_on: is_killed.then(|| is_done.clone()),
            marks: made,
            waker: None,
        };
        let publish = Publish::Live { open_every_ms: 1_000_000_000 };
        let computation = Computation { max_patterns: None, live_workers: vec![], ..computation(views, publish) };
        let path = RecordPath { decoder, rules, cutter: None, sink: out.clone() };
        let sink = checkpoints.map(MemorySink::new);
        let Dataflow { probe, source } = build(
            worker,
            &computation,
            feed,
            path,
            out,
            None::<SeenSink>,
            None::<std::convert::Infallible>,
            restored,
            sink,
        );
        let (mut steps, mut behind) = (0, 0);
        while !probe.done() && behind < SETTLING {
            source.activate();
            worker.step();
            behind += usize::from(is_done.load(Ordering::SeqCst));
            steps += 1;
            assert!(steps < PATIENCE, "the run does not end");
        }
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    });
    let seen = seen.0.lock().unwrap().clone();
    let marks = marks.lock().unwrap().clone();
    (seen, marks)
}
