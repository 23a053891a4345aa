//! Runs that are killed and go on from their last checkpoint, with another number of workers, against the reference.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use floodmark_dataflows::checkpoint::{CheckpointSink, PaneRow, PartitionCut, PartitionStart, Restored, StateRow};
use floodmark_dataflows::dataflow::{Dataflow, build};
use floodmark_dataflows::ingest::RecordPath;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::ViewUpdate;
use floodmark_dataflows::patterns::{Cutter, PatternUpdate};
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::ViewId;
use floodmark_dataflows::windows::Publish;
use proptest::prelude::*;

use crate::memory::{LogFeed, Seen, SeenSink, SlowFeed, sum_of_patterns};
use crate::reference::{MAX_PATTERNS, expected, is_withdrawn};
use crate::windows::{Setup, TICK_MS, computation, log, serialised, setup, views};

type Partitions = Vec<Vec<Vec<u8>>>;
/// What rows replace each other by: the kind, the view, the start, the key.
type Identity = (u8, ViewId, Millis, String);

/// The last committed checkpoint, and the one that is being made.
#[derive(Default)]
pub struct Store {
    pub at: Tick,
    pub cuts: BTreeMap<PartitionInfo, PartitionCut>,
    rows: BTreeMap<Identity, StateRow>,
    commits: usize,
    new_cuts: Vec<PartitionCut>,
    new_rows: Vec<StateRow>,
}

impl Store {
    fn commit(&mut self, at: Tick) {
        assert!(at > self.at, "checkpoints go forward");
        for row in std::mem::take(&mut self.new_rows) {
            let identity = match &row {
                StateRow::Pane(row) => (0, row.view, row.pane, row.key.to_string()),
                StateRow::Late(row) => (1, row.view, row.window, row.key.to_string()),
                StateRow::Series(row) => (2, row.view, 0, row.key.to_string()),
                StateRow::Values(row) => (3, row.view, row.window, row.key.to_string()),
                StateRow::Novelty(row) => (5, row.view, 0, row.key.to_string()),
                StateRow::Alert(row) => panic!("there are no alerts: {row:?}"),
            };
            if let StateRow::Pane(PaneRow { changed, .. }) = &row {
                assert!((self.at..at).contains(changed), "{identity:?} did not change since the checkpoint before");
            }
            self.rows.insert(identity, row);
        }
        for mut cut in std::mem::take(&mut self.new_cuts) {
            let before = self.cuts.remove(&cut.partition);
            for (view, keys) in cut.keys.iter_mut().enumerate() {
                let mut seen: BTreeMap<_, _> =
                    before.iter().flat_map(|cut| cut.keys[view].seen.iter().cloned()).collect();
                seen.extend(keys.seen.drain(..));
                keys.seen = seen.into_iter().collect();
            }
            let mut patterns = before.map(|cut| cut.patterns).unwrap_or_default();
            patterns.extend(std::mem::take(&mut cut.patterns));
            cut.patterns = patterns;
            self.cuts.insert(cut.partition.clone(), cut);
        }
        (self.at, self.commits) = (at, self.commits + 1);
    }

    /// What to go on from. What was not committed is gone.
    pub fn restored(&mut self) -> Restored {
        self.new_cuts.clear();
        self.new_rows.clear();
        let start = |cut: &PartitionCut| PartitionStart { cut: Some(cut.clone()), ..PartitionStart::default() };
        Restored {
            at: self.at,
            partitions: self.cuts.iter().map(|(info, cut)| (info.clone(), start(cut))).collect(),
            rows: Arc::new(self.rows.values().cloned().collect()),
            ..Restored::default()
        }
    }
}

/// One worker's access to the store. A checkpoint is always due.
pub struct MemorySink {
    store: Arc<Mutex<Store>>,
    has_partitions: bool,
    has_rows: bool,
}

impl MemorySink {
    pub fn new(store: Arc<Mutex<Store>>) -> Self {
        Self { store, has_partitions: false, has_rows: false }
    }
}

impl CheckpointSink for MemorySink {
    fn is_due(&mut self) -> bool {
        true
    }

    fn partitions(&mut self, at: Tick, cuts: Vec<PartitionCut>) {
        assert!(!std::mem::replace(&mut self.has_partitions, true));
        assert!(cuts.iter().all(|cut| cut.clock < Some(at) && cut.hold < at));
        self.store.lock().unwrap().new_cuts.extend(cuts);
    }

    fn rows(&mut self, _: Tick, rows: Vec<Vec<StateRow>>) {
        assert!(!std::mem::replace(&mut self.has_rows, true));
        self.store.lock().unwrap().new_rows.extend(rows.into_iter().flatten());
    }

    fn description(&mut self, _: Tick) -> Option<Vec<u8>> {
        assert!(self.has_partitions && self.has_rows);
        Some(vec![1])
    }

    fn commit(&mut self, at: Tick, descriptions: Vec<Vec<u8>>) {
        assert!(descriptions.iter().all(|description| description == &[1]));
        self.store.lock().unwrap().commit(at);
    }

    fn is_committed(&mut self, _: Tick) -> bool {
        true
    }

    fn committed(&mut self, at: Tick) {
        assert!(self.store.lock().unwrap().at >= at);
        (self.has_partitions, self.has_rows) = (false, false);
    }
}

/// Runs from the last checkpoint until the end of the input, or until so many records are logged.
fn run(
    partitions: &Partitions,
    workers: timely::Config,
    batch: usize,
    publish: Publish,
    store: &Arc<Mutex<Store>>,
    kill_at: usize,
) -> (Seen, bool) {
    let seen = SeenSink::default();
    seen.0.lock().unwrap().starts =
        store.lock().unwrap().cuts.values().map(|cut| (cut.partition.number, cut.next_offset)).collect();
    let (out, partitions, store) = (seen.clone(), partitions.clone(), store.clone());
    let restored = store.lock().unwrap().restored();
    let killed = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let is_killed = killed.clone();
    let guards = timely::execute(workers, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let Setup { decoder, rules, views } = setup(&views());
        let starts: Vec<u64> = (0..partitions.len())
            .map(|p| restored.partitions.get(&crate::memory::partition(p as i32)))
            .map(|start| start.and_then(|start| Some(start.cut.as_ref()?.next_offset)).unwrap_or(0))
            .collect();
        // Another worker reads a partition after each restart.
        let is_mine = |p: usize| (p + restored.at as usize) % peers == index;
        let mine = partitions.iter().enumerate().filter(|(p, _)| is_mine(*p));
        let feed = SlowFeed::new(LogFeed::from(mine, batch, &starts));
        let computation = computation(views, publish);
        let path = RecordPath { decoder, rules, cutter: Some(Cutter::default()), sink: out.clone() };
        let live = (index == 0).then(|| out.clone());
        let sink = MemorySink::new(store.clone());
        let Dataflow { probe, .. } = build(
            worker,
            &computation,
            feed,
            path,
            out.clone(),
            live,
            None::<std::convert::Infallible>,
            restored.clone(),
            Some(sink),
        );
        while !probe.done() {
            worker.step_or_park(Some(std::time::Duration::from_millis(10)));
            let count = || out.0.lock().unwrap().logged.len();
            if killed.load(Ordering::SeqCst) || done.load(Ordering::SeqCst) == 0 && count() >= kill_at {
                killed.store(true, Ordering::SeqCst);
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
                return;
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let seen = seen.0.lock().unwrap().clone();
    (seen, is_killed.load(Ordering::SeqCst))
}

/// Kills and restarts a run, then lets it end, and compares with the reference. Returns how many checkpoints were made.
pub fn check(partitions: &Partitions, plan: &[(u8, usize)], batch: usize, publish: Publish) -> usize {
    let store = Arc::new(Mutex::new(Store::default()));
    let (mut last, mut dead) = (BTreeMap::new(), BTreeMap::new());
    let mut live: Vec<(Tick, Vec<ViewUpdate>)> = Vec::new();
    let mut patterns: Vec<Vec<PatternUpdate>> = Vec::new();
    for (run_number, &(workers, kill_at)) in plan.iter().chain(&[(1, usize::MAX)]).enumerate() {
        let workers = match workers {
            1 => timely::Config::thread(),
            2 => timely::Config::process(2),
            _ => serialised(4),
        };
        let from = store.lock().unwrap().at;
        let (seen, is_killed) = run(partitions, workers, batch, publish, &store, kill_at);
        for (place, all) in &seen.windows {
            last.insert(place.clone(), all[all.len() - 1].clone());
        }
        for (at, reason) in seen.dead {
            assert_eq!(*dead.entry(at).or_insert(reason), reason, "{at:?} died of something else before");
        }
        if !is_killed {
            live.extend(seen.live);
            patterns.extend(seen.patterns);
            break;
        }
        let at = store.lock().unwrap().at;
        if at > from {
            let (_, length) = seen.live_cuts.iter().find(|(cut, _)| *cut == at).expect("the live state is cut as well");
            live.extend_from_slice(&seen.live[..*length]);
            patterns.extend_from_slice(&seen.patterns[..*length]);
        }
        assert!(run_number < plan.len());
    }

    let whole = crate::windows::run(partitions, timely::Config::thread(), batch, publish);
    assert_eq!(dead, whole.dead, "the dead letters");
    let whole: BTreeMap<_, _> = whole
        .windows
        .into_iter()
        .map(|(place, mut all)| (place, all.pop().expect("published once at least")))
        .collect();
    assert_eq!(last, whole, "the windows of a run that was not interrupted");

    let Setup { mut decoder, rules, views } = setup(&views());
    let expected = expected(partitions, &mut decoder, &rules, &views, TICK_MS);
    last.retain(|_, document| !is_withdrawn(document));
    for (place, document) in &expected.windows {
        assert_eq!(last.get(place), Some(document), "window {place:?}");
    }
    assert_eq!(last.len(), expected.windows.len(), "windows that should not be there");
    let mut totals = BTreeMap::new();
    for update in live.iter().flat_map(|(_, updates)| updates) {
        *totals.entry((update.view as usize, update.key.clone())).or_default() += update.aggregate.count();
    }
    assert_eq!(totals, expected.totals, "the live state");
    let (counts, samples) = sum_of_patterns(patterns.iter().flatten());
    // Beyond as many rows as are counted apart, the reference knows more.
    if expected.patterns.len() <= 8 * MAX_PATTERNS {
        assert_eq!((counts, samples), (expected.patterns, expected.samples), "patterns");
    }
    let store = store.lock().unwrap();
    for (info, cut) in &store.cuts {
        assert!(cut.ledger.is_balanced(), "{:?}", cut.ledger);
        assert!(cut.next_offset <= partitions[info.number as usize].len() as u64);
    }
    store.commits
}

fn plan() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((prop::sample::select(vec![1u8, 2, 4]), 0..600usize), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_killed_run_ends_like_one_that_was_not(
        partitions in log(),
        plan in plan(),
        batch in 1..30usize,
        is_live in any::<bool>(),
    ) {
        let publish = if is_live { Publish::Live { open_every_ms: 5_000 } } else { Publish::Final };
        check(&partitions, &plan, batch, publish);
    }
}

const T0_S: u64 = 1_700_000_000;

/// One record each of so many seconds after a start, of several services.
fn seconds(seconds: impl Iterator<Item = u64>) -> Vec<Vec<u8>> {
    let record = |s: u64| format!(r#"{{"timestamp":{},"service_name":"s{}"}}"#, 1_700_000_000_000 + s * 1_000, s % 7);
    seconds.map(|s| record(s).into_bytes()).collect()
}

#[test]
fn checkpoints_are_made_on_the_way() {
    let partitions = vec![seconds(0..600), seconds((0..600).map(|s| s / 2 * 2)), seconds(5..605)];
    for publish in [Publish::Final, Publish::Live { open_every_ms: 5_000 }] {
        let commits = check(&partitions, &[(4, 300), (2, 500), (1, 300)], 3, publish);
        assert!(commits > 10, "{commits} checkpoints");
    }
}

#[test]
fn many_rows_are_taken_while_the_dataflow_goes_on() {
    // More rows in one second than are taken in one activation, and some of them change at once again.
    let record = |n: u64| {
        let (second, key) = if n < 9_500 { (0, n) } else { (1 + (n - 9_500) / 200, n % 4_000) };
        let timestamp = 1_700_000_000_000 + second * 1_000;
        format!(r#"{{"timestamp":{timestamp},"service_name":"s{key}"}}"#).into_bytes()
    };
    let partitions = vec![(0..12_000).map(record).collect()];
    let commits = check(&partitions, &[(1, 9_900), (2, 11_000)], 200, Publish::Final);
    assert!(commits > 1, "{commits} checkpoints");
}

#[test]
fn a_partition_may_jump_by_hours() {
    let partitions =
        vec![seconds((0..300).map(|s| s + s / 100 * 10_000)), seconds((0..300).map(|s| s + s / 150 * 9_000))];
    let commits = check(&partitions, &[(2, 150), (4, 200), (1, 150)], 2, Publish::Final);
    assert!(commits > 3, "{commits} checkpoints");
}

#[test]
fn open_windows_of_a_checkpoint_are_published_on_the_usual_schedule() {
    // The first record is the only one of its service in its window, which stays open for nine seconds more.
    let mut records = seconds((1..60).filter(|s| s % 7 != 3));
    records.insert(2, seconds(3..4).remove(0));
    let publish = Publish::Live { open_every_ms: 2_000 };
    let store = Arc::new(Mutex::new(Store::default()));
    let partitions = vec![records];
    // Nothing is published of what is read by then, but a checkpoint is made.
    for kill_at in 1..30 {
        let (_, is_killed) = run(&partitions, timely::Config::thread(), 1, publish, &store, kill_at);
        if !is_killed || store.lock().unwrap().at > T0_S + 3 {
            break;
        }
    }
    let at = store.lock().unwrap().at;
    assert!((T0_S + 4..T0_S + 8).contains(&at), "a checkpoint while the window is open, got {at}");
    let (seen, _) = run(&partitions, timely::Config::thread(), 1, publish, &store, usize::MAX);
    let first = &seen.windows[&("tumbling".into(), "s3".into(), T0_S * 1_000)][0];
    assert!(first.as_of < (T0_S + 10) * 1_000 && first.count == 1, "{first:?}");
}
