//! A plan: everything that happens in one run of the harness, drawn from a seed.

use std::fmt;

use floodmark_dataflows::scores::ScoredMeasure;

use crate::draw::Draw;
use crate::input::InputSpec;
use crate::naive::alerts::AlertModel;
use crate::naive::{Condition, Model, ViewModel};

/// The limit of records in every plan.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// Which plans are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Files and librdkafka's mock cluster; lines, the embedded store and a stub of Elasticsearch.
    Embedded,
    /// A real Kafka and a real Elasticsearch.
    Services,
}

/// Where records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Files,
    MockKafka,
    Kafka,
}

/// Where documents go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Ndjson,
    Embedded,
    Stub,
    Elasticsearch,
}

/// What happens to one file of the checkpoints, or to all copies of the newest manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Deleted,
    Emptied,
    CutShort,
    ByteChanged,
    Zeroed,
    Longer,
    NewestLost,
}

/// One start of the cluster, to its end.
#[derive(Clone, Debug)]
pub struct Incarnation {
    /// Happens before it.
    pub damage: Option<Damage>,
    pub workers: usize,
    pub processes: usize,
    pub steps: Vec<Step>,
    pub end: End,
}

/// What happens while it runs, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Milliseconds go by.
    Wait(u64),
    /// So many more records are read, or two seconds go by.
    Read(u64),
    /// Each partition grows until it has this many thousandths of its records.
    Append(u64),
    /// The store stands still for so many milliseconds.
    PauseStore(u64),
    /// The source stands still for so many milliseconds.
    PauseSource(u64),
    /// The store fails the next so many requests, each in its own way.
    FailStore(u64),
    /// All dead letters that are there are redriven, with a decoder that can read some of them.
    Redrive,
}

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, at the end of the input.
    OfInput,
    /// A process is killed (`kill -9`), the others notice.
    Kill(usize),
    /// SIGTERM to all.
    Terminate,
    /// All is read and stored, and the audit says so; then SIGTERM.
    Audit,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub source: SourceKind,
    pub store: StoreKind,
    pub input: InputSpec,
    pub model: Model,
    pub max_ahead: u64,
    pub publish_every: u64,
    pub checkpoint_every: u64,
    /// Short where partitions are to become idle: holds then come from marks, which the reference is given.
    pub idle_after: u64,
    /// The last partition joins while the plan runs.
    pub joins: bool,
    pub dead_letters_in_store: bool,
    /// The stub refuses larger bodies.
    pub max_body: Option<usize>,
    /// The stub refuses one in so many documents for the moment.
    pub item_faults: Option<u64>,
    /// The last view is not configured before this incarnation.
    pub adds_view: Option<usize>,
    pub incarnations: Vec<Incarnation>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64, parts: Parts) -> Self {
        let draw = &mut Draw::new(seed, 0);
        let (source, store) = match parts {
            Parts::Services => (SourceKind::Kafka, StoreKind::Elasticsearch),
            Parts::Embedded => (
                draw.pick(&[SourceKind::Files, SourceKind::MockKafka]),
                draw.pick(&[
                    StoreKind::Ndjson,
                    StoreKind::Ndjson,
                    StoreKind::Embedded,
                    StoreKind::Stub,
                    StoreKind::Stub,
                ]),
            ),
        };
        let mut input = InputSpec::draw(&mut Draw::new(seed, 1), source == SourceKind::Files);
        let mut views = views(&mut Draw::new(seed, 2));
        score(&mut Draw::new(seed, 9), &mut views, &mut input);
        let tick = draw.pick(&[1_000, 1_000, 500, 2_000]);
        let is_files = source == SourceKind::Files;
        let mut model = Model {
            topic: match source {
                SourceKind::Files => "files".to_owned(),
                SourceKind::MockKafka => "logs".to_owned(),
                SourceKind::Kafka => format!("chaos-{seed}-{}", std::process::id()),
            },
            tick,
            max_future: 60_000,
            max_record_bytes: MAX_RECORD_BYTES,
            cuts_long_records: is_files,
            arrived_by: 0,
            alerts: alerts(&mut Draw::new(seed, 10), &views),
            max_patterns: Draw::new(seed, 11).pick(&[10_000, 6, 1]),
            views,
        };
        let idles = draw.chance(1, 3);
        let mut incarnations = incarnations(&mut Draw::new(seed, 3), source, store, input.records.iter().sum());
        if idles {
            let draw = &mut Draw::new(seed, 8);
            for incarnation in &mut incarnations {
                let place = draw.below(incarnation.steps.len() as u64 + 1) as usize;
                // Marks are made about once a second.
                incarnation.steps.insert(place, Step::Wait(draw.within(1_200, 3_500)));
            }
            // Where nothing becomes idle, a live run may wait for ever for a partition that is behind the others.
            if let [.., before, _] = &mut incarnations[..]
                && draw.chance(1, 2)
            {
                before.end = End::Audit;
            }
        }
        let dead_letters_in_store = matches!(store, StoreKind::Stub | StoreKind::Elasticsearch) && draw.chance(1, 2);
        let changes = &mut Draw::new(seed, 13);
        // What is redriven in the last one is read by nobody.
        let last = incarnations.len() - 1;
        if (!dead_letters_in_store || store == StoreKind::Elasticsearch) && changes.chance(1, 2) {
            for incarnation in &mut incarnations[..last] {
                let steps = &mut incarnation.steps;
                let place = changes.below(steps.len() as u64 + 1) as usize;
                steps.insert(place, Step::Redrive);
                if changes.chance(1, 2) {
                    steps.extend([Step::Wait(changes.within(50, 500)), Step::Redrive]);
                    // Looked for once a second.
                    steps.extend(changes.chance(1, 2).then_some(Step::Wait(1_300)));
                }
            }
        }
        let adds_view = (last > 0 && changes.chance(1, 3)).then(|| changes.within(1, last as u64) as usize);
        if adds_view.is_some() {
            model.views.push(added_view(changes));
        }
        Self {
            seed,
            source,
            store,
            // A live run with more workers than partitions catches up by no more than this a second.
            max_ahead: match draw.pick(&[5_000, 60_000, 3_600_000]) {
                _ if incarnations.iter().any(|incarnation| incarnation.end == End::Audit) => 3_600_000,
                max_ahead => max_ahead.max(tick),
            },
            publish_every: draw.pick(&[2_000, 10_000, 60_000]),
            checkpoint_every: draw.pick(&[30, 200, 1_000]),
            idle_after: if idles { 300 } else { 3_600_000 },
            joins: source == SourceKind::Files && input.records.len() > 1 && idles && draw.chance(1, 3),
            dead_letters_in_store,
            max_body: draw.chance(1, 4).then_some(100_000),
            item_faults: draw.chance(1, 4).then_some(50),
            adds_view,
            input,
            model,
            incarnations,
        }
    }

    /// The configuration of an incarnation, but for the addresses of source and store, and what each process has for its
    /// own.
    pub fn config(&self, incarnation: usize) -> String {
        let model = &self.model;
        let mut text = format!(
            "[cluster]\nconnect_timeout = \"5s\"\n[records]\nmax_record_bytes = \"{}B\"\n[time]\ntick = \"{}ms\"\nmax_ahead = \"{}ms\"\nidle_after = \"{}ms\"\n\
             [publish]\nevery = \"{}ms\"\n[checkpoint]\nevery = \"{}ms\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
             [patterns]\nmax_patterns = {}\n",
            model.max_record_bytes,
            model.tick,
            self.max_ahead,
            self.idle_after,
            self.publish_every,
            self.checkpoint_every,
            model.max_patterns
        );
        if self.dead_letters_in_store {
            text.push_str("[dead_letters]\nto = \"index\"\n");
        }
        let not_yet = usize::from(self.adds_view.is_some_and(|first| incarnation < first));
        for view in &model.views[..model.views.len() - not_yet] {
            let conditions: Vec<_> = view.conditions.iter().map(condition_text).collect();
            text.push_str(&format!(
                "[[view]]\nname = \"{}\"\nkey = {:?}\nwhere = {conditions:?}\nnumbers = {:?}\nrules = {:?}\nwindow = \"{}ms\"\nslide = \"{}ms\"\n\
                 allowed_lateness = \"{}ms\"\nretention = \"{}ms\"\nmax_keys = {}\nforget_after = \"{}ms\"\nscore = {:?}\n",
                view.name,
                view.key,
                view.numbers,
                view.rules,
                view.width,
                view.slide,
                view.lateness,
                view.retention,
                view.max_keys,
                view.forget_after,
                view.score.iter().map(|measure| measure.name()).collect::<Vec<_>>()
            ));
        }
        for alert in &model.alerts {
            let AlertModel { name, for_windows, close_after, group, .. } = alert;
            let view = &model.views[alert.view].name;
            let when: Vec<_> =
                alert.when.iter().map(|(measure, comparison, than)| format!("{measure} {comparison} {than}")).collect();
            text.push_str(&format!(
                "[[alert]]\nname = \"{name}\"\nview = \"{view}\"\nwhen = {when:?}\nfor = {for_windows}\n\
                 close_after = {close_after}\ngroup = {group}\n"
            ));
            if let Some((field, prefix)) = &alert.key {
                text.push_str(&format!("keys = {{ {field} = [\"{prefix}*\"] }}\n"));
            }
        }
        text
    }
}

fn condition_text(condition: &Condition) -> String {
    match condition {
        Condition::LevelIn(levels) => format!("level in {}", levels.join(", ")),
        Condition::StatusAtLeast(status) => format!("status_code >= {status}"),
        Condition::SlowerThan(ms) => format!("response_time_ms > {ms}"),
        Condition::HasErrorCode => "error_code exists".to_owned(),
        Condition::PathIs(path) => format!("path = {path}"),
    }
}

/// One to four views. Spans are multiples of every tick.
fn views(draw: &mut Draw) -> Vec<ViewModel> {
    let count = draw.within(1, 4);
    let view = |(id, draw): (u64, &mut Draw)| {
        let key: &[&str] = draw.pick(&[
            &["service_name"],
            &["service_name"],
            &["service_name", "path"],
            &["path", "status_code"],
            &["level"],
            &["region", "service_name"],
        ]);
        let conditions = match draw.below(8) {
            0 => vec![Condition::LevelIn(&["WARN", "ERROR"])],
            1 => vec![Condition::StatusAtLeast(400)],
            2 => vec![Condition::SlowerThan(3_000), Condition::LevelIn(&["INFO", "ERROR", "OTHER"])],
            3 => vec![Condition::HasErrorCode],
            4 => vec![Condition::PathIs("/p/0")],
            _ => Vec::new(),
        };
        let (width, slide) =
            draw.pick(&[(10_000, 10_000), (10_000, 10_000), (60_000, 20_000), (20_000, 6_000), (2_000, 2_000)]);
        let lateness = draw.pick(&[0, 20_000, 60_000]);
        let retention = draw.pick(&[60_000, 180_000, 3_600_000]);
        ViewModel {
            name: format!("view-{id}"),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            conditions,
            width,
            slide,
            lateness,
            retention,
            max_keys: draw.pick(&[100_000, 100_000, 12, 2]) as usize,
            forget_after: draw.pick(&[604_800_000, retention]),
            numbers: draw.pick::<&[_]>(&[&[], &["bytes"], &["queue.depth", "bytes"]]).to_vec(),
            rules: draw.pick::<&[_]>(&[&[], &["http_error"], &["slow_response", "http_error"]]).to_vec(),
            score: Vec::new(),
        }
    };
    (0..count).map(|id| view((id, draw))).collect()
}

/// A view that is added while the plan runs. What it keeps of a record must not decide whether that can be read.
fn added_view(draw: &mut Draw) -> ViewModel {
    let key = draw.pick(&["service_name", "level", "path"]);
    let (width, slide) = draw.pick(&[(10_000, 10_000), (60_000, 20_000)]);
    ViewModel {
        name: "added".to_owned(),
        key: vec![key.to_owned()],
        conditions: Vec::new(),
        width,
        slide,
        lateness: draw.pick(&[0, 20_000]),
        retention: draw.pick(&[60_000, 3_600_000]),
        max_keys: 100_000,
        forget_after: 604_800_000,
        numbers: Vec::new(),
        rules: vec!["http_error"],
        score: Vec::new(),
    }
}

/// Scores some of the views, and has something happen that is worth a score. A score needs 144 windows before it.
fn score(draw: &mut Draw, views: &mut [ViewModel], input: &mut InputSpec) {
    use ScoredMeasure::{AnomalyRatio, ErrorRatio, Mean, P50, P95, P99, Rate};
    for view in views.iter_mut() {
        if draw.chance(1, 3) {
            continue;
        }
        let measures: &[ScoredMeasure] =
            draw.pick(&[&[Rate, ErrorRatio, P95], &[Rate], &[AnomalyRatio, Mean, Rate], &[P50, P99], &[ErrorRatio]]);
        view.score = measures.to_vec();
        if view.numbers.contains(&"bytes") {
            let more = draw.pick(&["sum:bytes", "p95:bytes", "mean:bytes"]);
            view.score.extend(ScoredMeasure::named(more));
        }
        if !view.rules.is_empty() {
            let more = draw.pick(&["rule:http_error", "rule_ratio:http_error"]);
            view.score.extend(ScoredMeasure::named(more));
        }
        if draw.chance(2, 3) {
            (view.width, view.slide) = draw.pick(&[(2_000, 2_000), (4_000, 2_000), (6_000, 6_000)]);
        }
    }
    if views.iter().all(|view| view.score.is_empty()) {
        return;
    }
    // What is scored costs by windows and keys.
    input.paths = input.paths.min(5);
    input.span = draw.pick(&[input.span, 600_000, 1_200_000, 2_400_000]);
    input.services = draw.pick(&[1, 2, input.services]);
    input.gap =
        draw.chance(2, 3).then(|| (input.span * draw.within(4, 8) / 10, draw.pick(&[4_000, 20_000, 90_000, 300_000])));
    input.burst = draw.chance(1, 2);
}

/// No alert, or one or two that are easily raised.
fn alerts(draw: &mut Draw, views: &[ViewModel]) -> Vec<AlertModel> {
    let alert = |number: u64, draw: &mut Draw| {
        let place = draw.below(views.len() as u64) as usize;
        let view = &views[place];
        let mut conditions = vec![
            ("errors", ">=", draw.within(1, 4) as f64),
            ("error_ratio", ">", draw.pick(&[0.1, 0.3, 0.6])),
            ("count", "<=", draw.within(1, 3) as f64),
            ("rate", ">", draw.pick(&[0.25, 1.0, 4.0])),
            ("p95", ">=", draw.pick(&[1_000.5, 3_000.0])),
            ("anomalies", "<", 2.0),
            ("max_severity", ">=", 75.0),
            ("late_records", ">", 0.0),
        ];
        if view.numbers.contains(&"bytes") {
            conditions.extend([("sum:bytes", ">=", 20_000.5), ("p90:bytes", "<", 4_000.0)]);
        }
        if !view.rules.is_empty() {
            conditions.extend([("rule:http_error", ">=", 2.0), ("rule_ratio:http_error", "<=", 0.25)]);
        }
        if !view.score.is_empty() {
            let score = ("score", ">=", draw.pick(&[1.0, 10.0, 50.0, 75.0]));
            conditions.extend([score; 8]);
        }
        let mut when = vec![draw.pick(&conditions)];
        if draw.chance(1, 4) {
            when.push(draw.pick(&conditions[..4]));
        }
        let of_services = view.key.contains(&"service_name".to_owned()) && draw.chance(1, 4);
        AlertModel {
            name: format!("alert-{number}"),
            view: place,
            key: of_services.then(|| ("service_name".to_owned(), "service-".to_owned())),
            when,
            for_windows: draw.pick(&[1, 1, 2, 3]),
            close_after: draw.within(1, 4),
            group: draw.chance(2, 3),
        }
    };
    let count = draw.pick(&[0, 1, 1, 2, 2]);
    (0..count).map(|number| alert(number, draw)).collect()
}

fn incarnations(draw: &mut Draw, source: SourceKind, store: StoreKind, records: usize) -> Vec<Incarnation> {
    let count = draw.pick(&[1, 2, 2, 3, 3, 4]);
    let mut appended = 0;
    // Once a plan: any one file may be damaged, or the newest checkpoint be lost, not more.
    let damaged = (count > 1 && draw.chance(1, 2)).then(|| draw.within(1, count - 1));
    (0..count)
        .map(|i| {
            let is_last = i + 1 == count;
            let (workers, processes) = match store {
                // One process at a time has the index open.
                StoreKind::Embedded => (draw.within(1, 4) as usize, 1),
                _ => draw.pick(&[(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (1, 3)]),
            };
            let mut steps = Vec::new();
            if !is_last || draw.chance(1, 3) {
                for _ in 0..draw.within(1, 4) {
                    steps.extend(step(draw, source, store, records as u64));
                    if !is_last && draw.chance(1, 2) {
                        appended = draw.within(appended, 1_000);
                        steps.push(Step::Append(appended));
                    }
                }
            }
            let end = match () {
                () if is_last => End::OfInput,
                () if draw.chance(3, 4) => End::Kill(draw.below(processes as u64) as usize),
                () => End::Terminate,
            };
            let damage = (damaged == Some(i)).then(|| {
                draw.pick(&[
                    Damage::Deleted,
                    Damage::Emptied,
                    Damage::CutShort,
                    Damage::ByteChanged,
                    Damage::Zeroed,
                    Damage::Longer,
                    Damage::NewestLost,
                ])
            });
            Incarnation { damage, workers, processes, steps, end }
        })
        .collect()
}

fn step(draw: &mut Draw, source: SourceKind, store: StoreKind, records: u64) -> Option<Step> {
    let is_stub = store == StoreKind::Stub;
    match draw.below(6) {
        0 => Some(Step::Wait(draw.within(1, 50))),
        1 => Some(Step::Wait(draw.within(50, 1_200))),
        2 | 3 => Some(Step::Read(draw.within(1, records))),
        4 if is_stub && draw.chance(1, 2) => Some(Step::FailStore(draw.within(1, 20))),
        4 if is_stub || store == StoreKind::Elasticsearch => Some(Step::PauseStore(draw.within(50, 1_000))),
        5 if source == SourceKind::Kafka => Some(Step::PauseSource(draw.within(50, 1_000))),
        _ => None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} to {:?}: {}", self.source, self.store, self.input)?;
        for view in &self.model.views {
            let spans = [view.width, view.slide, view.lateness, view.retention, view.forget_after].map(|ms| ms / 1_000);
            let (name, max_keys) = (&view.name, view.max_keys);
            writeln!(f, "  {name}: by {:?}, {max_keys} keys, {:?}, {spans:?} s", view.key, view.conditions)?;
            if !view.numbers.is_empty() {
                writeln!(f, "    numbers: {:?}", view.numbers)?;
            }
            if !view.rules.is_empty() {
                writeln!(f, "    rules: {:?}", view.rules)?;
            }
            if !view.score.is_empty() {
                writeln!(f, "    scored: {:?}", view.score)?;
            }
        }
        for AlertModel { name, view, key, when, for_windows, close_after, group } in &self.model.alerts {
            let group = if *group { "grouped" } else { "each key alone" };
            writeln!(f, "  {name}: view-{view} {key:?}, {when:?} for {for_windows}, closed by {close_after}, {group}")?;
        }
        let (tick, max_ahead, every) = (self.model.tick, self.max_ahead, self.checkpoint_every);
        writeln!(f, "  tick {tick} ms, max_ahead {max_ahead} ms, a checkpoint every {every} ms")?;
        if self.idle_after < 60_000 {
            let joins = if self.joins { ", the last one joins late" } else { "" };
            writeln!(f, "  partitions are idle after {} ms{joins}", self.idle_after)?;
        }
        if self.store == StoreKind::Stub {
            writeln!(f, "  bodies up to {:?}, one document refused in {:?}", self.max_body, self.item_faults)?;
        }
        if let Some(first) = self.adds_view {
            writeln!(f, "  the last view is added with incarnation {first}")?;
        }
        for (i, incarnation) in self.incarnations.iter().enumerate() {
            let Incarnation { damage, workers, processes, steps, end } = incarnation;
            if let Some(damage) = damage {
                writeln!(f, "  a file of the checkpoints is damaged: {damage:?}")?;
            }
            writeln!(f, "  {i}: -n {processes} -w {workers}: {steps:?}, ends: {end:?}")?;
        }
        Ok(())
    }
}
