//! New patterns and jumps of their rates in the generator's logs: false alerts, and how soon incidents are found.
//!
//! The whole dataflow runs over a quiet week and a day of incidents behind it, with views by service and pattern.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodmark::sources::generator::{Generator, GeneratorConfig, IncidentKind, Label, Records};
use floodmark_dataflows::checkpoint::Restored;
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::decode::{Decoder, RecordsConfig, Schema};
use floodmark_dataflows::detect::ALERT_SCORE;
use floodmark_dataflows::ingest::{ClockConfig, RecordPath};
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use floodmark_dataflows::output::{
    LiveSink, PartitionProgress, Reason, RecordSink, ViewUpdate, WindowDocument, WindowSink,
};
use floodmark_dataflows::patterns::{Cutter, PatternUpdate};
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::{Rules, RulesConfig, Verdict};
use floodmark_dataflows::scores::ScoreUpdate;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::units::Span;
use floodmark_dataflows::view_config::ViewConfig;
use floodmark_dataflows::windows::Publish;

use super::generated::{DAY_MS, RATE, START_MS, TOGETHER, WEEK_MS};

/// A quiet week, and then a day with incidents.
const QUIET_MS: u64 = WEEK_MS;
/// The generator's services.
const SERVICES: f64 = 5.0;
/// Widths of windows.
const WIDTHS_MS: [u64; 2] = [10_000, 60_000];
const BATCH: u64 = 500;

/// Records of a generator, one after the other.
struct Lines {
    records: Records,
    line: Vec<u8>,
    left: u64,
    offset: u64,
}

impl Lines {
    fn next(&mut self) {
        self.line.clear();
        self.records.write_next(&mut self.line);
        self.left -= 1;
        self.offset += 1;
    }
}

/// A batch whose records are made as they are read.
struct Stretch {
    all: Rc<RefCell<Vec<Lines>>>,
    /// The record, empty behind the last one.
    line: Vec<u8>,
    offset: u64,
    left: u64,
}

impl Batch for Stretch {
    fn current(&self) -> Option<RawRecord<'_>> {
        let record = RawRecord { offset: self.offset, bytes: &self.line, appended_ms: None, redriven_from: None };
        (!self.line.is_empty()).then_some(record)
    }

    fn advance(&mut self) {
        self.line.clear();
        let mut all = self.all.borrow_mut();
        if let Some(lines) = all.last_mut().filter(|lines| lines.left > 0 && self.left > 0) {
            lines.next();
            self.line.extend_from_slice(&lines.line);
            self.offset = lines.offset - 1;
            self.left -= 1;
        }
    }

    fn next_offset(&self) -> u64 {
        self.offset + 1
    }
}

/// One partition with the records of several generators, one after the other.
struct Stretches {
    all: Rc<RefCell<Vec<Lines>>>,
    info: Option<PartitionInfo>,
}

impl Feed for Stretches {
    type Batch = Stretch;

    fn attach(&mut self, _: Waker) {}

    fn joined(&mut self) -> Vec<PartitionInfo> {
        self.info.take().into_iter().collect()
    }

    fn is_discovering(&self) -> bool {
        false
    }

    fn is_live(&self) -> bool {
        false
    }

    fn poll(&mut self, _: PartitionIndex) -> Option<PartitionEvent<Stretch>> {
        let mut all = self.all.borrow_mut();
        while all.last().is_some_and(|lines| lines.left == 0) {
            let offset = all.pop().map_or(0, |lines| lines.offset);
            all.iter_mut().for_each(|lines| lines.offset = offset);
        }
        if all.is_empty() {
            return Some(PartitionEvent::Ended);
        }
        drop(all);
        let mut stretch = Stretch { all: self.all.clone(), line: Vec::new(), offset: 0, left: BATCH };
        stretch.advance();
        Some(PartitionEvent::Records(stretch))
    }

    fn mark(&mut self, _: &[MarkPosition]) -> Option<RecordedMarks> {
        None
    }
}

/// Windows from a score of 75 on, by service and pattern and start, with the measure that decided; and all keys.
#[derive(Default)]
struct Found {
    alerts: BTreeMap<(String, String), BTreeMap<Millis, String>>,
    first: BTreeMap<(String, String), Millis>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<BTreeMap<u64, Found>>>);

impl RecordSink for Sink {
    fn ready(&mut self) -> bool {
        true
    }

    fn log(&mut self, _: &Arc<PartitionInfo>, _: RawRecord<'_>, _: &Record<'_>, _: Verdict) {}

    fn dead_letter(&mut self, _: &Arc<PartitionInfo>, raw: RawRecord<'_>, _: Reason, detail: &str) {
        panic!("{detail}: {}", String::from_utf8_lossy(raw.bytes));
    }

    fn lost(&mut self, _: &Arc<PartitionInfo>, _: u64, _: u64) {}

    fn progress(&mut self, _: &Arc<PartitionInfo>, _: PartitionProgress) {}

    fn frontier(&mut self, _: Tick) {}
}

impl LiveSink for Sink {
    fn apply(&mut self, _: Tick, _: Vec<ViewUpdate>, _: Vec<PatternUpdate>) {}

    fn scores(&mut self, _: Vec<ScoreUpdate>) {}

    fn cut(&mut self, _: Tick) {}
}

impl WindowSink for Sink {
    fn windows(&mut self, documents: Vec<WindowDocument>) {
        let mut all = self.0.lock().expect("no panic before");
        for document in documents {
            let found = all.entry(document.end - document.start).or_default();
            let key = (document.key.0[0].1.clone(), document.key.0[1].1.clone());
            if document.count > 0 {
                let first = found.first.entry(key.clone()).or_insert(document.start);
                *first = document.start.min(*first);
            }
            let alerts = found.alerts.entry(key).or_default();
            match &document.score {
                Some(score) if score.score >= ALERT_SCORE && !score.learning => {
                    alerts.insert(document.start, score.measures[0].measure.to_string());
                }
                _ => _ = alerts.remove(&document.start),
            }
        }
    }
}

/// What was found by width of the windows, and the incidents played behind the quiet week.
fn run() -> (BTreeMap<u64, Found>, Vec<Label>) {
    let generator = |start_ms: u64, span_ms: u64, incidents| {
        let (start, count) = (start_ms.to_string(), span_ms / 1_000 * RATE);
        let config = GeneratorConfig {
            seed: 7,
            partitions: 1,
            rate: 0,
            event_rate: RATE,
            count,
            start,
            incidents,
            ..Default::default()
        };
        (Generator::new(config, 0).expect("a generator"), count)
    };
    let (quiet, quiet_count) = generator(START_MS, QUIET_MS, false);
    let (day, day_count) = generator(START_MS + QUIET_MS, DAY_MS, true);
    let lines =
        |generator: &Generator, left| Lines { records: generator.records(0), line: Vec::new(), left, offset: 0 };
    let labels = day.labels(day_count);
    let sink = Sink::default();
    let out = sink.clone();
    timely::execute_directly(move |worker| {
        let mut schema = Schema::new(&RecordsConfig::default()).expect("the defaults").with_patterns();
        let rules = Arc::new(Rules::compile(&RulesConfig::default(), &mut schema).expect("the defaults"));
        let mut view = |width_ms: u64| {
            let (name, window) = (format!("per_pattern_{width_ms}"), Span::from_millis(width_ms));
            let view = ViewConfig { name, window, ..ViewConfig::per_pattern() };
            Arc::new(view.compile(Span::from_secs(1), &mut schema).expect("a view"))
        };
        let views = WIDTHS_MS.map(&mut view).to_vec();
        let computation = Computation {
            views,
            alerts: vec![],
            clock: ClockConfig {
                tick_ms: 1_000,
                max_future_ms: 60_000,
                idle_after_ms: 5_000,
                stall_after_ms: 300_000,
                max_ahead_ms: 60_000,
                arrived_by_ms: None,
            },
            publish: Publish::Final,
            max_patterns: Some(10_000),
            live_workers: vec![],
        };
        // The last one is read first.
        let all = Rc::new(RefCell::new(vec![lines(&day, day_count), lines(&quiet, quiet_count)]));
        let info = PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: 0 };
        let path =
            RecordPath { decoder: Decoder::new(schema), rules, cutter: Some(Cutter::default()), sink: out.clone() };
        let Dataflow { probe, .. } = build(
            worker,
            &computation,
            Stretches { all, info: Some(info) },
            path,
            out,
            None::<Sink>,
            None::<Infallible>,
            Restored::default(),
            None::<Infallible>,
        );
        while !probe.done() {
            worker.step_or_park(Some(Duration::from_millis(10)));
        }
    });
    let found = std::mem::take(&mut *sink.0.lock().expect("no panic before"));
    (found, labels)
}

pub fn report() {
    let (found, labels) = run();
    for (window_ms, found) in found {
        let quiet_end = START_MS + QUIET_MS;
        let (mut by_measure, mut all, mut key_weeks) = (BTreeMap::<&str, u32>::new(), 0, 0.0);
        for (key, alerts) in &found.alerts {
            let Some(first) = found.first.get(key).filter(|first| **first < quiet_end) else { continue };
            key_weeks += (quiet_end - first) as f64 / WEEK_MS as f64;
            let mut last = None;
            for (&start, measure) in alerts.range(..quiet_end) {
                if last.is_none_or(|last| start - last > TOGETHER * window_ms) {
                    all += 1;
                    *by_measure.entry(measure).or_default() += 1;
                }
                last = Some(start);
            }
        }
        println!(
            "patterns, windows of {} s, no incidents: {} keys, {key_weeks:.0} key-weeks, {:.3} alerts per key and week, {:.2} \
             per service and week ({by_measure:?})",
            window_ms / 1_000,
            found.first.values().filter(|first| **first < quiet_end).count(),
            f64::from(all) / key_weeks,
            f64::from(all) / SERVICES,
        );
        for (kind, words) in [(IncidentKind::NewMessage, "on shard"), (IncidentKind::ErrorBurst, "failed, attempt")] {
            let of_kind: Vec<_> = labels.iter().filter(|label| label.kind == kind).collect();
            let mut delays: Vec<(u64, &str)> = Vec::new();
            let (mut seen, mut at_first) = (BTreeSet::new(), 0);
            for label in &of_kind {
                let from = label.start / window_ms * window_ms;
                let of_key = found
                    .alerts
                    .iter()
                    .filter(|((service, pattern), _)| *service == label.service && pattern.contains(words));
                let first = of_key.filter_map(|(_, alerts)| alerts.range(from..label.end).next()).min();
                at_first += u32::from(seen.insert(&label.service) && first.is_some());
                delays.extend(first.map(|(start, measure)| (start + window_ms - label.start, measure.as_str())));
            }
            delays.sort_unstable();
            let at = |share: usize| delays.get((delays.len() * share / 100).min(delays.len().saturating_sub(1)));
            let seconds = |of: Option<&(u64, &str)>| of.map_or(f64::NAN, |(ms, _)| *ms as f64 / 1_000.0);
            println!(
                "  {kind:?}: {} of {} found by a pattern ({} as new), delay median {:.0} s, 95 % {:.0} s; of the first of \
                 each service {at_first} of {}",
                delays.len(),
                of_kind.len(),
                delays.iter().filter(|(_, measure)| *measure == "new").count(),
                seconds(at(50)),
                seconds(at(95)),
                seen.len(),
            );
        }
    }
}
