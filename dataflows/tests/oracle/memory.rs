//! A log in memory, and sinks that keep everything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use floodmark_dataflows::alerts::{AlertEvent, AlertSink};
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use floodmark_dataflows::output::{
    LiveSink, PartitionProgress, Reason, RecordSink, ViewUpdate, WindowDocument, WindowSink,
};
use floodmark_dataflows::patterns::PatternUpdate;
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::Verdict;
use floodmark_dataflows::scores::ScoreUpdate;
use floodmark_dataflows::time::{Millis, Tick};

use crate::reference::{PatternCounts, Samples};

pub fn partition(number: i32) -> PartitionInfo {
    PartitionInfo { topic: "logs".into(), identity: "logs".into(), number }
}

/// Records with consecutive offsets.
#[derive(Clone)]
pub struct MemoryBatch {
    pub first_offset: u64,
    pub records: VecDeque<Vec<u8>>,
}

impl Batch for MemoryBatch {
    fn current(&self) -> Option<RawRecord<'_>> {
        let bytes = self.records.front()?;
        Some(RawRecord { offset: self.first_offset, bytes, appended_ms: None, redriven_from: None })
    }

    fn advance(&mut self) {
        self.records.pop_front();
        self.first_offset += 1;
    }

    fn next_offset(&self) -> u64 {
        self.first_offset + self.records.len() as u64
    }
}

/// A bounded feed over whole partitions, without marks.
pub struct LogFeed {
    infos: Vec<PartitionInfo>,
    batches: Vec<VecDeque<MemoryBatch>>,
}

impl LogFeed {
    /// The records of some partitions, cut into batches of `cut` records.
    pub fn new<'a>(partitions: impl Iterator<Item = (usize, &'a Vec<Vec<u8>>)>, cut: usize) -> Self {
        Self::from(partitions, cut, &[])
    }

    /// The same from these offsets on, by partition; 0 where there is none.
    pub fn from<'a>(partitions: impl Iterator<Item = (usize, &'a Vec<Vec<u8>>)>, cut: usize, starts: &[u64]) -> Self {
        let batches = |p: usize, records: &Vec<Vec<u8>>| {
            let start = starts.get(p).copied().unwrap_or(0);
            let chunks = records[start as usize..].chunks(cut).enumerate();
            chunks
                .map(|(i, chunk)| MemoryBatch {
                    first_offset: start + (i * cut) as u64,
                    records: chunk.to_vec().into(),
                })
                .collect()
        };
        let (infos, batches) = partitions.map(|(p, records)| (partition(p as i32), batches(p, records))).unzip();
        Self { infos, batches }
    }
}

impl Feed for LogFeed {
    type Batch = MemoryBatch;

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

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<MemoryBatch>> {
        Some(self.batches[partition].pop_front().map_or(PartitionEvent::Ended, PartitionEvent::Records))
    }

    fn mark(&mut self, _: &[MarkPosition]) -> Option<RecordedMarks> {
        None
    }
}

/// A feed that has one batch at a time, so that a run takes many activations.
pub struct SlowFeed {
    inner: LogFeed,
    waker: Option<Waker>,
    has_more: Vec<bool>,
}

impl SlowFeed {
    pub fn new(inner: LogFeed) -> Self {
        Self { inner, waker: None, has_more: Vec::new() }
    }
}

impl Feed for SlowFeed {
    type Batch = MemoryBatch;

    fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        let infos = self.inner.joined();
        self.has_more.resize(self.has_more.len() + infos.len(), false);
        infos
    }

    fn is_discovering(&self) -> bool {
        false
    }

    fn is_live(&self) -> bool {
        false
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<MemoryBatch>> {
        self.waker.as_ref().unwrap()();
        self.has_more[partition] = !self.has_more[partition];
        if self.has_more[partition] { self.inner.poll(partition) } else { None }
    }

    fn mark(&mut self, _: &[MarkPosition]) -> Option<RecordedMarks> {
        None
    }
}

/// What a test gives a feed to say, step by step.
#[derive(Clone)]
pub enum Step {
    Event(PartitionIndex, PartitionEvent<MemoryBatch>),
    /// A mark with this wall clock.
    Mark(Millis),
    /// A partition joins.
    Join(PartitionInfo),
}

/// What marks said: the wall clock and the positions.
pub type Marks = Vec<(Millis, Vec<MarkPosition>)>;

/// A feed with marks that plays a script, and ends behind it.
pub struct ScriptFeed {
    pub infos: Vec<PartitionInfo>,
    pub steps: VecDeque<Step>,
    /// As a run that goes on.
    pub is_live: bool,
    /// Goes on for ever behind the script; told here once there.
    pub goes_on: Option<Arc<AtomicBool>>,
    /// What the marks that were made said.
    pub marks: Arc<Mutex<Marks>>,
    pub waker: Option<Waker>,
}

impl ScriptFeed {
    /// Takes the next step, and has the worker come back for the one behind.
    fn next(&mut self) -> Option<Step> {
        if let Some(wake) = &self.waker {
            wake();
        }
        if let (1, Some(is_done)) = (self.steps.len(), &self.goes_on) {
            is_done.store(true, Ordering::SeqCst);
        }
        self.steps.pop_front()
    }
}

impl Feed for ScriptFeed {
    type Batch = MemoryBatch;

    fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        let mut infos = std::mem::take(&mut self.infos);
        while let Some(Step::Join(_)) = self.steps.front() {
            if let Some(Step::Join(info)) = self.next() {
                infos.push(info);
            }
        }
        infos
    }

    fn is_discovering(&self) -> bool {
        false
    }

    fn is_live(&self) -> bool {
        self.is_live && (!self.steps.is_empty() || self.goes_on.is_some())
    }

    fn has_marks(&self) -> bool {
        true
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<MemoryBatch>> {
        if !matches!(self.steps.front(), Some(Step::Event(p, _)) if *p == partition) {
            let is_over = self.steps.is_empty() && self.goes_on.is_none();
            return is_over.then_some(PartitionEvent::Ended);
        }
        match self.next() {
            Some(Step::Event(_, event)) => Some(event),
            _ => None,
        }
    }

    fn is_mark_due(&mut self) -> bool {
        matches!(self.steps.front(), Some(Step::Mark(_)))
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        let Some(Step::Mark(wall)) = self.steps.front() else { return None };
        let wall = *wall;
        self.next();
        self.marks.lock().unwrap().push((wall, positions.to_vec()));
        Some(RecordedMarks { wall_ms: wall, positions: positions.to_vec() })
    }
}

/// Everything that came out of a run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Offsets of the records logged, by partition number, with their severities.
    pub logged: BTreeMap<(i32, u64), u8>,
    pub dead: BTreeMap<(i32, u64), Reason>,
    pub progress: BTreeMap<i32, PartitionProgress>,
    /// Window documents in the order of publication, by (view, key, start).
    pub windows: BTreeMap<(String, String, Millis), Vec<WindowDocument>>,
    /// Where partitions started that did not start at 0.
    pub starts: BTreeMap<i32, u64>,
    pub live: Vec<(Tick, Vec<ViewUpdate>)>,
    /// Counts of patterns, applied with each entry of `live`.
    pub patterns: Vec<Vec<PatternUpdate>>,
    /// Scores that belong to the next entry of `live`.
    pub coming: Vec<ScoreUpdate>,
    /// Scores for the live state, each with the frontier at which it was passed on.
    pub scores: Vec<(Tick, ScoreUpdate)>,
    /// Cuts of the live state: the tick, and how many entries of `live` are before it.
    pub live_cuts: Vec<(Tick, usize)>,
    /// What was said of alerts, in order.
    pub alerts: Vec<AlertEvent>,
}

/// What updates come to that several runs sent, one after the other.
pub fn sum_of_patterns<'a>(updates: impl IntoIterator<Item = &'a PatternUpdate>) -> (PatternCounts, Samples) {
    let (mut cuts, mut rows) = (BTreeMap::new(), BTreeMap::new());
    let (mut counts, mut samples) = (PatternCounts::new(), Samples::new());
    for update in updates {
        let of = update.partition.number;
        cuts.extend(update.cuts.iter().map(|cut| ((of, cut.cut), cut.template.to_string())));
        for row in &update.rows {
            let place = (cuts[&(of, row.cut)].clone(), row.service.to_string(), row.level);
            rows.insert((of, row.row), place);
        }
        for sample in &update.samples {
            let place = (sample.timestamp_ms, of, sample.offset, sample.message.to_string());
            let known = samples.entry(cuts[&(of, sample.cut)].clone()).or_insert_with(|| place.clone());
            *known = known.clone().min(place);
        }
        for count in &update.counts {
            let sum = counts.entry(rows[&(of, count.row)].clone()).or_insert((0, Millis::MAX, 0));
            *sum = (sum.0 + u64::from(count.count), sum.1.min(count.first_ms), sum.2.max(count.last_ms));
        }
    }
    (counts, samples)
}

/// A sink of all kinds that writes to a shared [`Seen`].
#[derive(Clone, Default)]
pub struct SeenSink(pub Arc<Mutex<Seen>>);

impl RecordSink for SeenSink {
    fn ready(&mut self) -> bool {
        true
    }

    fn log(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, _: &Record<'_>, verdict: Verdict) {
        let before = self.0.lock().unwrap().logged.insert((partition.number, raw.offset), verdict.severity);
        assert!(before.is_none(), "{}@{} was logged twice", partition.number, raw.offset);
    }

    fn dead_letter(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, reason: Reason, _: &str) {
        let before = self.0.lock().unwrap().dead.insert((partition.number, raw.offset), reason);
        assert!(before.is_none(), "{}@{} died twice", partition.number, raw.offset);
    }

    fn lost(&mut self, _: &Arc<PartitionInfo>, _: u64, _: u64) {}

    fn progress(&mut self, partition: &Arc<PartitionInfo>, progress: PartitionProgress) {
        let mut seen = self.0.lock().unwrap();
        let number = partition.number;
        let of_partition = (number, 0)..=(number, u64::MAX);
        let logged = seen.logged.range(of_partition.clone()).next_back().map(|((_, offset), _)| *offset);
        let dead = seen.dead.range(of_partition).next_back().map(|((_, offset), _)| *offset);
        let start = seen.starts.get(&number).copied().unwrap_or(0);
        let passed = logged.max(dead).map_or(start, |last| last + 1);
        assert!(progress.next_offset <= passed, "{number}@{} is said to be passed in", progress.next_offset - 1);
        let ledger = progress.ledger;
        assert!(ledger.is_balanced() && ledger.next_offset == progress.next_offset, "{progress:?}");
        seen.progress.insert(number, progress);
    }

    fn frontier(&mut self, _: Tick) {}
}

impl WindowSink for SeenSink {
    fn windows(&mut self, documents: Vec<WindowDocument>) {
        let windows = &mut self.0.lock().unwrap().windows;
        for document in documents {
            let key: Vec<_> = document.key.0.iter().map(|(_, value)| value.as_str()).collect();
            windows.entry((document.view.to_string(), key.join("/"), document.start)).or_default().push(document);
        }
    }
}

impl AlertSink for SeenSink {
    fn alerts(&mut self, events: Vec<AlertEvent>, _: Millis) {
        self.0.lock().unwrap().alerts.extend(events);
    }
}

impl LiveSink for SeenSink {
    fn apply(&mut self, frontier: Tick, updates: Vec<ViewUpdate>, patterns: Vec<PatternUpdate>) {
        let mut seen = self.0.lock().unwrap();
        seen.live.push((frontier, updates));
        let coming = std::mem::take(&mut seen.coming);
        seen.scores.extend(coming.into_iter().map(|update| (frontier, update)));
        seen.patterns.push(patterns);
    }

    fn scores(&mut self, updates: Vec<ScoreUpdate>) {
        self.0.lock().unwrap().coming.extend(updates);
    }

    fn cut(&mut self, at: Tick) {
        let mut seen = self.0.lock().unwrap();
        let applied = seen.live.len();
        seen.live_cuts.push((at, applied));
    }
}
