//! Checkpoints: how long a worker stops for one, what it takes to write, and how long it takes to go on from it.
//!
//! ```text
//! cargo bench --profile ci --bench checkpoint               # 20,000 keys
//! cargo bench --profile ci --bench checkpoint -- 100000     # so many keys
//! ```
//!
//! One worker of the real dataflow with live state, over four partitions that have half of the keys each: 60 windows of
//! 10 s a key, 20 records in each. Checkpoints go through the real writer to a temporary directory. First one of everything,
//! then some that are 10 s apart, while seconds come one by one as in a live run; then all is read back, and computed on.
//!
//! A pause is the longest step of the worker from the beginning of a checkpoint until its last share is taken. Beside it,
//! what the longest step of a second without one usually takes (the median), as a step does the usual work too; and the
//! longest of all, which closes the windows of all keys: no checkpoint is taken in that one. The difference of the first
//! two is what a checkpoint costs at a time. By the clock, and by the CPU time of the worker's thread, which other
//! processes disturb less.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use floodmark::checkpoint::commit::Parts;
use floodmark::checkpoint::compare::Fingerprint;
use floodmark::checkpoint::contents::LiveRows;
use floodmark::checkpoint::restore::{self, Loaded};
use floodmark::checkpoint::starts::{Reading, Start, Starts};
use floodmark::checkpoint::store::CopyStore;
use floodmark::checkpoint::{CheckpointConfig, Checkpoints, Line, Stats, WorkerSink};
use floodmark::config::Config;
use floodmark::live::progress::ProgressBoard;
use floodmark::live::{LiveView, LiveWriter};
use floodmark::metrics::process::Status;
use floodmark::sources::Positions;
use floodmark::stores::none::NoStore;
use floodmark::stores::version::Versions;
use floodmark::stores::writer::{DeadLetters, Indexed, RecordWriter, WindowIds, Writer, WriterOptions};
use floodmark::units::Span;
use floodmark_dataflows::checkpoint::{CheckpointSink, PartitionCut, PartitionStart, Restored, StateRow};
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::decode::Decoder;
use floodmark_dataflows::ingest::{ClockConfig, RecordPath};
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use floodmark_dataflows::output::{LiveSink, PartitionProgress, Reason, RecordSink, ViewUpdate};
use floodmark_dataflows::patterns::PatternUpdate;
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::Verdict;
use floodmark_dataflows::scores::ScoreUpdate;
use floodmark_dataflows::time::Tick;
use floodmark_dataflows::view_config::ViewConfig;
use floodmark_dataflows::windows::Publish;
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};

const START: Tick = 1_700_000_000;
const PARTITIONS: usize = 4;
const WINDOW_S: u64 = 10;
const WINDOWS: u64 = 60;
/// Of a key, in a second.
const RECORDS: usize = 2;
/// Checkpoints behind the full one.
const CHECKPOINTS: u64 = 6;

/// A second of a partition.
struct SecondBatch {
    lines: Rc<[usize]>,
    bytes: Vec<u8>,
    first_offset: u64,
    next: usize,
}

impl Batch for SecondBatch {
    fn current(&self) -> Option<RawRecord<'_>> {
        let end = *self.lines.get(self.next)?;
        let start = self.next.checked_sub(1).map_or(0, |before| self.lines[before]);
        let offset = self.first_offset + self.next as u64;
        Some(RawRecord { offset, bytes: &self.bytes[start..end], appended_ms: None, redriven_from: None })
    }

    fn advance(&mut self) {
        self.next += 1;
    }

    fn next_offset(&self) -> u64 {
        self.first_offset + self.lines.len() as u64
    }
}

/// Gives each partition a second of records after the other, up to a second.
struct SecondsFeed {
    infos: Vec<PartitionInfo>,
    next: Vec<Tick>,
    up_to: Rc<Cell<Tick>>,
    /// The records of a second of each partition, with digits to be replaced, and where the lines end.
    templates: Vec<(Vec<u8>, Rc<[usize]>)>,
}

const TIMESTAMP: std::ops::Range<usize> = 13..23;
const RESPONSE: std::ops::Range<usize> = 46..49;

fn partition(number: usize) -> PartitionInfo {
    PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: number as i32 }
}

impl SecondsFeed {
    fn new(keys: usize, from: Tick, up_to: Rc<Cell<Tick>>) -> Self {
        let template = |partition: usize| {
            let (mut bytes, mut lines) = (Vec::new(), Vec::new());
            // Of each key as many records a second as partitions have it.
            let step = PARTITIONS / RECORDS;
            for key in (partition % step..keys).step_by(step) {
                let rest = r#","level":"INFO","status_code":200,"path":"/api/items","message":"served"}"#;
                write!(
                    bytes,
                    r#"{{"timestamp":0000000000000,"response_time_ms":000.250,"service_name":"service-{key:06}"{rest}"#
                )
                .expect("memory");
                lines.push(bytes.len());
            }
            (bytes, lines.into())
        };
        Self {
            infos: (0..PARTITIONS).map(partition).collect(),
            next: vec![from; PARTITIONS],
            up_to,
            templates: (0..PARTITIONS).map(template).collect(),
        }
    }
}

impl Feed for SecondsFeed {
    type Batch = SecondBatch;

    fn attach(&mut self, _: Waker) {}

    fn joined(&mut self) -> Vec<PartitionInfo> {
        std::mem::take(&mut self.infos)
    }

    fn is_discovering(&self) -> bool {
        false
    }

    fn is_live(&self) -> bool {
        false
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<SecondBatch>> {
        let second = self.next[partition];
        if second >= self.up_to.get() {
            return None;
        }
        self.next[partition] += 1;
        let (template, lines) = &self.templates[partition];
        let mut bytes = template.clone();
        let digits = second.to_string();
        let mut start = 0;
        for (number, &end) in lines.iter().enumerate() {
            let line = &mut bytes[start..end];
            line[TIMESTAMP].copy_from_slice(digits.as_bytes());
            let mut ms = 100 + ((second * 31 + number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) % 900;
            for digit in line[RESPONSE].iter_mut().rev() {
                *digit = b'0' + (ms % 10) as u8;
                ms /= 10;
            }
            start = end;
        }
        let first_offset = (second - START) * lines.len() as u64;
        Some(PartitionEvent::Records(SecondBatch { lines: lines.clone(), bytes, first_offset, next: 0 }))
    }

    fn mark(&mut self, _: &[MarkPosition]) -> Option<RecordedMarks> {
        None
    }
}

/// What the measured parts tell the loop around the worker.
#[derive(Default)]
struct Watch {
    /// A checkpoint is to begin.
    is_due: Cell<bool>,
    /// The worker's shares of it that are missing: partitions, rows, live state.
    missing: Cell<u32>,
    /// One has begun since this was looked at.
    is_new: Cell<bool>,
    committed: Cell<Option<Tick>>,
    rows: Cell<usize>,
    seen_keys: Cell<usize>,
    live_cut: Cell<Duration>,
}

impl Watch {
    fn given(&self) {
        self.missing.set(self.missing.get() - 1);
    }
}

struct WatchedSink(WorkerSink, Rc<Watch>);

impl CheckpointSink for WatchedSink {
    fn is_due(&mut self) -> bool {
        let is_due = self.1.is_due.get() && self.0.is_due();
        if is_due {
            self.1.is_due.set(false);
            self.1.missing.set(3);
            self.1.is_new.set(true);
            self.1.committed.set(None);
        }
        is_due
    }

    fn partitions(&mut self, at: Tick, cuts: Vec<PartitionCut>) {
        self.1.seen_keys.set(cuts.iter().flat_map(|cut| &cut.keys).map(|keys| keys.seen.len()).sum());
        self.0.partitions(at, cuts);
        self.1.given();
    }

    fn rows(&mut self, at: Tick, rows: Vec<Vec<StateRow>>) {
        self.1.rows.set(rows.iter().map(Vec::len).sum());
        self.0.rows(at, rows);
        self.1.given();
    }

    fn description(&mut self, at: Tick) -> Option<Vec<u8>> {
        self.0.description(at)
    }

    fn commit(&mut self, at: Tick, descriptions: Vec<Vec<u8>>) {
        self.0.commit(at, descriptions);
    }

    fn is_committed(&mut self, at: Tick) -> bool {
        self.0.is_committed(at)
    }

    fn committed(&mut self, at: Tick) {
        self.0.committed(at);
        self.1.committed.set(Some(at));
    }
}

struct WatchedLive(LiveWriter, Rc<Watch>);

impl LiveSink for WatchedLive {
    fn apply(&mut self, frontier: Tick, updates: Vec<ViewUpdate>, patterns: Vec<PatternUpdate>) {
        self.0.apply(frontier, updates, patterns);
    }

    fn scores(&mut self, updates: Vec<ScoreUpdate>) {
        self.0.scores(updates);
    }

    fn cut(&mut self, at: Tick) {
        let started = Instant::now();
        self.0.cut(at);
        self.1.live_cut.set(started.elapsed());
        self.1.given();
    }
}

/// Passes on to the writer, and tells the board of the frontier, as the engine does.
struct Records(RecordWriter, Arc<ProgressBoard>);

impl RecordSink for Records {
    fn ready(&mut self) -> bool {
        self.0.ready()
    }

    fn indexes(&self, verdict: Verdict) -> bool {
        self.0.indexes(verdict)
    }

    fn log(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, record: &Record<'_>, verdict: Verdict) {
        self.0.log(partition, raw, record, verdict);
    }

    fn dead_letter(&mut self, _: &Arc<PartitionInfo>, _: RawRecord<'_>, reason: Reason, detail: &str) {
        panic!("{}: {detail}", reason.name());
    }

    fn lost(&mut self, _: &Arc<PartitionInfo>, _: u64, _: u64) {}

    fn progress(&mut self, partition: &Arc<PartitionInfo>, progress: PartitionProgress) {
        self.0.progress(partition, progress);
    }

    fn frontier(&mut self, frontier: Tick) {
        self.0.frontier(frontier);
        self.1.set_frontier(0, frontier);
    }
}

struct NoDeadLetters;

impl DeadLetters for NoDeadLetters {
    fn ready(&self) -> bool {
        true
    }

    fn send(&self, _: &Arc<PartitionInfo>, _: u64, _: Reason, _: &str, _: &[u8]) {}

    fn unwritten(&self) -> Positions {
        Positions::new()
    }
}

/// CPU time of this thread, where the system tells.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// The longest of some steps, by the clock and by CPU time.
#[derive(Clone, Copy, Debug, Default)]
struct Longest(Duration, Duration);

impl Longest {
    fn add(&mut self, (clock, cpu): (Duration, Duration)) {
        *self = Self(self.0.max(clock), self.1.max(cpu));
    }

    /// The longest of several, and their median.
    fn of(seconds: &[Longest]) -> (Longest, Longest) {
        let mut clock: Vec<_> = seconds.iter().map(|longest| longest.0).collect();
        let mut cpu: Vec<_> = seconds.iter().map(|longest| longest.1).collect();
        clock.sort_unstable();
        cpu.sort_unstable();
        let at = |place: usize| Longest(clock[place], cpu[place]);
        (at(seconds.len() - 1), at(seconds.len() / 2))
    }
}

impl std::fmt::Display for Longest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms ({:.1} ms CPU)", self.0.as_secs_f64() * 1e3, self.1.as_secs_f64() * 1e3)
    }
}

/// A worker with everything around it.
struct Bench {
    config: Config,
    store: CopyStore,
    keys: usize,
    runtime: Handle,
}

/// A worker at work.
struct Running<'a> {
    worker: &'a mut timely::worker::Worker,
    dataflow: Dataflow,
    up_to: Rc<Cell<Tick>>,
    watch: Rc<Watch>,
    stats: Arc<Stats>,
}

impl Bench {
    fn start<'a>(
        &self,
        worker: &'a mut timely::worker::Worker,
        line: Line,
        restored: Restored,
        live: Arc<LiveView>,
    ) -> Running<'a> {
        let compiled = self.config.compile().expect("a good configuration");
        let views: Vec<_> = compiled.views.into_iter().map(Arc::new).collect();
        let rules = Arc::new(compiled.rules);
        let options = WriterOptions { indexed: Indexed::Windows, queue_bytes: 64 << 20, spool: None };
        let writer =
            Writer::start(Arc::new(NoStore), Arc::new(NoDeadLetters), options, &self.runtime).expect("a writer");
        let board = Arc::new(ProgressBoard::default());
        let checkpoints = Checkpoints::new(Parts {
            alerts: None,
            store: self.store.clone(),
            config: self.config.checkpoint.clone(),
            runtime: self.runtime.clone(),
            writer: writer.clone(),
            board: board.clone(),
            live: Some(live.clone()),
            line,
            process: 0,
            reading: Reading::new(Start::default(), Starts::default(), BTreeMap::new()),
        });
        let (up_to, watch) = (Rc::new(Cell::new(restored.at.max(START))), Rc::new(Watch::default()));
        let feed = SecondsFeed::new(self.keys, restored.at.max(START), up_to.clone());
        let clock = ClockConfig {
            tick_ms: 1_000,
            max_future_ms: 60_000,
            idle_after_ms: 5_000,
            stall_after_ms: 300_000,
            max_ahead_ms: 60_000,
            arrived_by_ms: None,
        };
        let publish = Publish::Live { open_every_ms: 10_000 };
        let computation =
            Computation { views, alerts: vec![], clock, publish, max_patterns: None, live_workers: vec![0] };
        let sink = Records(writer.records(rules.clone()), board);
        let path = RecordPath { decoder: Decoder::new(compiled.schema), rules, cutter: None, sink };
        let windows = writer.windows(WindowIds::new(&self.config.view, Versions::new(1, 1_000)));
        let live = WatchedLive(live.writer(), watch.clone());
        let sink = WatchedSink(checkpoints.sink(0), watch.clone());
        let dataflow = build(
            worker,
            &computation,
            feed,
            path,
            windows,
            Some(live),
            None::<std::convert::Infallible>,
            restored,
            Some(sink),
        );
        let stats = checkpoints.stats().clone();
        Running { worker, dataflow, up_to, watch, stats }
    }

    fn live(&self) -> Arc<LiveView> {
        let views = self.config.compile().expect("a good configuration").views;
        Arc::new(LiveView::new(views, 1_000, 0))
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.config, &self.config.compile().expect("a good configuration").views)
    }
}

impl Running<'_> {
    fn step(&mut self) -> (Duration, Duration) {
        let (started, cpu) = (Instant::now(), thread_cpu());
        self.dataflow.source.activate();
        self.worker.step();
        (started.elapsed(), thread_cpu() - cpu)
    }

    fn has_reached(&self, tick: Tick) -> bool {
        !self.dataflow.probe.less_than(&tick)
    }

    /// Reads on to the second `to`, second by second, and waits for each. Returns the longest step in which a checkpoint
    /// was taken, if one was, and the longest other step of each second.
    fn read_to(&mut self, to: Tick) -> (Longest, Vec<Longest>) {
        let (mut pause, mut seconds) = (Longest::default(), Vec::new());
        while self.up_to.get() < to {
            self.up_to.set(self.up_to.get() + 1);
            let mut other = Longest::default();
            while !self.has_reached(self.up_to.get() - 1) {
                let missing = self.watch.missing.get();
                let took = self.step();
                // It may be the step in which it began.
                let is_of_checkpoint = self.watch.is_new.take() || missing > 0;
                (if is_of_checkpoint { &mut pause } else { &mut other }).add(took);
            }
            seconds.push(other);
        }
        (pause, seconds)
    }

    /// One checkpoint, in the middle of so many seconds.
    fn checkpoint(&mut self, what: &str, seconds: u64) -> Longest {
        let begin = self.up_to.get();
        let (_, mut others) = self.read_to(begin + seconds / 2);
        self.watch.is_due.set(true);
        let started = Instant::now();
        let (mut pause, after) = self.read_to(begin + seconds);
        // The rows of many keys are taken in many steps.
        while self.watch.missing.get() > 0 {
            pause.add(self.step());
        }
        self.watch.is_new.set(false);
        assert!(!self.watch.is_due.get(), "the checkpoint is taken");
        while self.watch.committed.get().is_none() {
            self.step();
            std::thread::sleep(Duration::from_millis(1));
        }
        others.extend(after);
        let (longest, usual) = Longest::of(&others);
        let (bytes, took) = (&self.stats.last_bytes, &self.stats.last_duration_ms);
        println!(
            "{what}: {} rows, {} keys seen; step {pause}, usual {usual}, longest {longest}; cut of live state {:.1} ms; \
             {:.1} MB written in {:.1} s, committed after {:.1} s",
            self.watch.rows.get(),
            self.watch.seen_keys.get(),
            self.watch.live_cut.get().as_secs_f64() * 1e3,
            bytes.load(Ordering::Relaxed) as f64 / 1e6,
            took.load(Ordering::Relaxed) as f64 / 1e3,
            started.elapsed().as_secs_f64()
        );
        Longest(pause.0.saturating_sub(usual.0), pause.1.saturating_sub(usual.1))
    }

    fn stop(self) {
        for dataflow in self.worker.installed_dataflows() {
            self.worker.drop_dataflow(dataflow);
        }
    }
}

fn memory() -> f64 {
    Status::now().number("VmRSS").unwrap_or(0.0) / 1024.0
}

fn write(bench: &Arc<Bench>) {
    let line = Line::begin(&bench.store, 1, bench.fingerprint(), 1);
    let line = bench.runtime.block_on(line).expect("a line of checkpoints");
    let live = bench.live();
    let (parts, bench) = (Mutex::new(Some(line)), bench.clone());
    timely::execute::execute_directly(move |worker| {
        let line = parts.lock().take().expect("one worker");
        live.restore(&Restored::default(), &LiveRows::default(), true);
        let mut running = bench.start(worker, line, Restored::default(), live.clone());
        let started = Instant::now();
        // At full speed: nothing waits for the frontier.
        running.up_to.set(START + WINDOW_S * WINDOWS - 1);
        while !running.has_reached(START + WINDOW_S * WINDOWS - 2) {
            running.step();
        }
        let rows = live.memory().rows;
        println!("{rows} rows after {:.1} s; {:.0} MiB", started.elapsed().as_secs_f64(), memory());
        // The middle of its seconds, and of those of each further one, lies just behind the close of a window.
        running.checkpoint("first, of everything", 8);
        let pauses: Vec<_> = (1..=CHECKPOINTS).map(|number| running.checkpoint(&number.to_string(), 10)).collect();
        let (longest, median) = Longest::of(&pauses);
        println!("a checkpoint adds to a step: {median} (median), {longest} at the most; {:.0} MiB", memory());
        running.stop();
    });
}

fn go_on(bench: &Arc<Bench>) {
    let started = Instant::now();
    let id = bench.runtime.block_on(restore::choose(&bench.store)).expect("readable").expect("a checkpoint");
    let chosen = started.elapsed();
    let Loaded { manifest, standing, rows } =
        bench.runtime.block_on(restore::load(&bench.store, id)).expect("readable");
    let loaded = started.elapsed();
    let (at, bytes, count) = (manifest.at, manifest.bytes(), rows.len());
    let live = bench.live();
    let starts = standing.cuts.into_iter();
    let starts = starts.map(|(info, cut)| (info, PartitionStart { cut: Some(cut), ..Default::default() }));
    let restored = Restored { at, partitions: starts.collect(), rows: Arc::new(rows), ..Default::default() };
    live.restore(&restored, &standing.live, true);
    let restored_live = started.elapsed();
    let line = Line::go_on(&bench.store, manifest, bench.fingerprint(), Vec::new());
    let line = bench.runtime.block_on(line).expect("readable");
    let (parts, bench) = (Mutex::new(Some((line, restored))), bench.clone());
    timely::execute::execute_directly(move |worker| {
        let (line, restored) = parts.lock().take().expect("one worker");
        let mut running = bench.start(worker, line, restored, live.clone());
        running.up_to.set(at + 1);
        while !running.has_reached(at) {
            running.step();
        }
        let whole = started.elapsed();
        let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        println!(
            "going on: {} in all; checked after {}, read after {}, live state after {}; {:.1} MB in files, {count} rows; \
             {:.0} MiB",
            seconds(whole),
            seconds(chosen),
            seconds(loaded),
            seconds(restored_live),
            bytes as f64 / 1e6,
            memory()
        );
        let (_, seconds) = running.read_to(at + 20);
        let (longest, usual) = Longest::of(&seconds);
        println!("the next 20 s: usual step {usual}, longest {longest}");
        assert_eq!(live.memory().rows, live_rows(bench.keys), "all windows are there");
        running.stop();
    });
}

/// Rows that are kept in the end: of each key, the windows of the retention and those that are open.
fn live_rows(keys: usize) -> usize {
    keys * (WINDOWS as usize + 1)
}

fn main() {
    let keys = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let config = Config {
        view: vec![ViewConfig {
            allowed_lateness: Span::from_secs(60),
            retention: Span::from_secs(WINDOW_S * WINDOWS),
            max_keys: keys,
            ..ViewConfig::default()
        }],
        checkpoint: CheckpointConfig { every: Span::from_millis(1), ..CheckpointConfig::default() },
        ..Config::default()
    };
    let path: &Path = directory.path();
    let store = CopyStore::in_directory(path, 2).expect("a directory");
    let bench = Arc::new(Bench { config, store, keys, runtime: runtime.handle().clone() });
    println!("{keys} keys x {WINDOWS} windows x {} records, one worker", RECORDS as u64 * WINDOW_S);
    write(&bench);
    go_on(&bench);
}
