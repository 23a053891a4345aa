//! A naive reference of the whole product: what a run over some partitions must end with.
//!
//! In: the raw records of each partition with their offsets, a [`Model`] of the configuration, and the marks that were
//! recorded. Out: an [`Outcome`]. It shares no code with what it checks, but for the formula of scores and the first
//! cut of messages, whose own tests fix them: records are parsed by `serde_json`, every record of every window is kept,
//! and each window is computed from its records at the end, each score by a fold from the first window on, each alert
//! from final windows. Slow and plain on purpose.

pub mod alerts;
pub mod patterns;
mod records;
mod scores;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use floodmark_dataflows::scores::ScoredMeasure;
use serde_json::Value;

use self::alerts::{AlertModel, AlertPlace};
use self::patterns::{Admitted, Counted};
use self::records::{Facts, read};
use self::windows::{Record, Window, document, take};

/// What the reference knows of the configuration. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Model {
    pub topic: String,
    pub tick: u64,
    pub max_future: u64,
    pub max_record_bytes: usize,
    /// A file source hands on no more than one byte above the limit of a line that is too long.
    pub cuts_long_records: bool,
    /// Records of partitions without marks arrived by then.
    pub arrived_by: u64,
    pub views: Vec<ViewModel>,
    pub alerts: Vec<AlertModel>,
    /// First cuts that each partition keeps.
    pub max_patterns: usize,
}

impl Model {
    /// The topic of a partition, and its number there.
    fn place_of(&self, number: i32) -> (&str, i32) {
        if number >= REDRIVES { (REDRIVE_TOPIC, number - REDRIVES) } else { (&self.topic, number) }
    }

    /// The alerts over a view.
    fn alerts_over<'a>(&'a self, view: &'a ViewModel) -> impl Iterator<Item = &'a AlertModel> {
        self.alerts.iter().filter(move |alert| self.views[alert.view].name == view.name)
    }

    /// The score from which on alerts take along what a window was scored by.
    fn evidence_from(&self, view: &ViewModel) -> Option<u8> {
        let of_scores = |alert: &AlertModel| {
            let upward =
                alert.when.iter().filter(|(name, comparison, _)| *name == "score" && comparison.starts_with('>'));
            upward.map(|(_, _, than)| than.ceil() as u8).max()
        };
        self.alerts_over(view).filter_map(of_scores).min()
    }
}

/// A view.
#[derive(Clone, Debug)]
pub struct ViewModel {
    pub name: String,
    /// Names of fields.
    pub key: Vec<String>,
    pub conditions: Vec<Condition>,
    pub width: u64,
    pub slide: u64,
    pub lateness: u64,
    pub retention: u64,
    pub max_keys: usize,
    pub forget_after: u64,
    /// The numbers that are kept.
    pub numbers: Vec<&'static str>,
    /// The rules whose records are counted.
    pub rules: Vec<&'static str>,
    /// What is scored, if anything.
    pub score: Vec<ScoredMeasure>,
}

/// A condition of a view, in one of the forms that plans use.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    LevelIn(&'static [&'static str]),
    StatusAtLeast(u16),
    SlowerThan(u64),
    HasErrorCode,
    PathIs(&'static str),
}

/// A mark as it was recorded, for one partition.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Records before this offset had arrived.
    pub next_offset: u64,
    pub wall: u64,
    /// The hold from there on, in ticks.
    pub hold: u64,
}

/// A partition as it was read.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    pub records: Vec<(u64, Vec<u8>)>,
    /// In the order they were made.
    pub marks: Vec<Mark>,
    pub redrive: Option<Redrive>,
}

/// What is known of a redrive, which is read as a partition.
#[derive(Clone, Debug)]
pub struct Redrive {
    pub number: i32,
    /// The field that has the time.
    pub timestamp: &'static str,
    /// When all of it arrived.
    pub arrived: u64,
    /// Topic, partition and offset where each record was a dead letter first.
    pub origins: Vec<(String, i32, u64)>,
}

/// The topic of redrives.
pub const REDRIVE_TOPIC: &str = "__redrive";
/// Partitions from this number on are redrives.
pub const REDRIVES: i32 = 1_000_000;

/// The number by which a partition is known here.
pub fn number_of(topic: &str, partition: i32) -> i32 {
    if topic == REDRIVE_TOPIC { REDRIVES + partition } else { partition }
}

/// What a run ends with. Documents of windows and of records are JSON with their members in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The exact bytes of log documents by partition and offset.
    pub documents: BTreeMap<(i32, u64), String>,
    /// The last document of each window by view, key and start.
    pub windows: BTreeMap<(String, String, u64), String>,
    /// Reason and raw bytes of dead letters by partition and offset.
    pub dead: BTreeMap<(i32, u64), (String, Vec<u8>)>,
    /// What is compared of the alerts that hold or held.
    pub alerts: BTreeMap<AlertPlace, String>,
    /// What counts for which pattern, of each record that has a document.
    pub counted: Vec<Counted>,
}

/// Documents of windows by view, key and start.
type Windows = BTreeMap<(usize, Vec<String>, u64), Value>;

/// Whether a window is one without records whose score is not worth a document: it had one for a while. Whether such
/// ones are there depends on when somebody looked.
pub fn is_withdrawn(document: &Value) -> bool {
    document["count"] == 0 && document["score"]["score"].as_u64().is_none_or(|score| score < 50)
}

/// JSON text with the members of objects in alphabetical order.
pub fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let members: BTreeMap<_, _> =
                    members.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
                Value::Object(members.into_iter().collect())
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

/// A value as one that was written and read: which may cost a float its last bit.
fn as_read(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).expect("JSON")
}

/// A document of a window or an alert without what its partitions are known by, and these in order of their numbers.
pub fn without_identities(mut document: Value) -> Value {
    for place in ["/score/offsets", "/first/offsets", "/strongest/offsets"] {
        let Some(Value::Array(ranges)) = document.pointer_mut(place) else { continue };
        ranges.iter_mut().filter_map(Value::as_object_mut).for_each(|range| _ = range.remove("identity"));
        ranges.sort_by_key(|range| (range["topic"] == REDRIVE_TOPIC, range["partition"].as_i64()));
    }
    document
}

fn meets(condition: &Condition, facts: &Facts) -> bool {
    match condition {
        Condition::LevelIn(levels) => levels.contains(&facts.level),
        Condition::StatusAtLeast(least) => facts.status.is_some_and(|status| status >= *least),
        Condition::SlowerThan(ms) => facts.response_us.is_some_and(|us| us > ms * 1_000),
        Condition::HasErrorCode => facts.error_code,
        Condition::PathIs(path) => facts.texts["path"] == *path,
    }
}

/// The keys that a partition has let into a view.
#[derive(Default)]
struct Keys {
    /// With the last tick each was seen at.
    seen: BTreeMap<Vec<String>, u64>,
    last_tick: Option<u64>,
    next_check: u64,
}

impl Keys {
    /// Sixteen times per `forget_after`, keys that were silent for that long are let go.
    fn forget(&mut self, view: &ViewModel, tick: u64, now: u64) {
        if self.last_tick == Some(now) {
            return;
        }
        self.last_tick = Some(now);
        if now >= self.next_check {
            let after = (view.forget_after / tick).max(1);
            let step = (after / 16).max(1);
            self.next_check = (now / step + 1) * step;
            self.seen.retain(|_, last| *last + after > now);
        }
    }

    fn admit(&mut self, view: &ViewModel, key: Vec<String>, now: u64) -> Vec<String> {
        if !self.seen.contains_key(&key) && self.seen.len() >= view.max_keys {
            return vec!["__other__".to_owned(); key.len()];
        }
        self.seen.insert(key.clone(), now);
        key
    }
}

/// What a run over these partitions, read to their ends, must end with.
pub fn expected(model: &Model, partitions: &[Partition]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut windows: BTreeMap<(usize, Vec<String>, u64), Window> = BTreeMap::new();
    let mut end = None;
    for (place, partition) in (0..).zip(partitions) {
        let number = partition.redrive.as_ref().map_or(place, |redrive| REDRIVES + redrive.number);
        let mut clock = None;
        let mut admitted = Admitted::default();
        let mut keys: Vec<Keys> = model.views.iter().map(|_| Keys::default()).collect();
        for (offset, bytes) in &partition.records {
            let place = (number, *offset);
            let (facts, document) = match read(model, partition, place, bytes) {
                Ok(read) => read,
                Err(reason) => {
                    let cut = model.cuts_long_records && reason == "too_long";
                    let kept = if cut { &bytes[..model.max_record_bytes + 1] } else { &bytes[..] };
                    outcome.dead.insert(place, (reason.to_owned(), kept.to_vec()));
                    continue;
                }
            };
            let covering = partition.marks.iter().find(|mark| mark.next_offset > *offset);
            let arrival = match &partition.redrive {
                Some(redrive) => redrive.arrived,
                None => covering.map_or(model.arrived_by, |mark| mark.wall),
            };
            if facts.timestamp > arrival + model.max_future {
                outcome.dead.insert(place, ("clock_ahead".to_owned(), bytes.clone()));
                continue;
            }
            outcome.documents.insert(place, document);
            let now = (facts.timestamp / model.tick).max(clock.unwrap_or(0));
            clock = Some(now);
            let time = now.max(hold(partition, *offset));
            outcome.counted.push(admitted.count(model.max_patterns, &facts, time, number));
            let facts = Rc::new(facts);
            for (view, (id, keys)) in model.views.iter().zip(keys.iter_mut().enumerate()) {
                keys.forget(view, model.tick, time);
                if view.conditions.iter().all(|condition| meets(condition, &facts)) {
                    let key = view.key.iter().map(|name| facts.texts[name].clone()).collect();
                    let key = keys.admit(view, key, time);
                    let record = Record { time, number, offset: *offset, clock: now, facts: facts.clone() };
                    take(model, view, id, &key, &record, &mut windows);
                }
            }
        }
        let held = hold(partition, u64::MAX);
        end = end.max(clock).max((held > 0).then_some(held));
    }
    let documents = documents(model, windows, end.unwrap_or(0));
    outcome.alerts = alerts::alerts(model, &documents, end.unwrap_or(0) * model.tick);
    for ((id, _, start), mut document) in documents {
        document.as_object_mut().map(|document| document.remove(windows::EVIDENCE));
        let place = (model.views[id].name.clone(), canonical(&document["key"]), start);
        outcome.windows.insert(place, canonical(&as_read(&document)));
    }
    outcome
}

/// The documents of windows, as of the end, which is a tick.
fn documents(model: &Model, mut windows: BTreeMap<(usize, Vec<String>, u64), Window>, end: u64) -> Windows {
    let mut scores = BTreeMap::new();
    let keys: BTreeSet<_> = windows.keys().map(|(id, key, _)| (*id, key.clone())).collect();
    for (id, key) in keys.into_iter().filter(|(id, _)| !model.views[*id].score.is_empty()) {
        let range = (id, key.clone(), 0)..=(id, key.clone(), u64::MAX);
        let of_key = windows.range(range).map(|((.., start), window)| (*start, window)).collect();
        let scored = scores::scores_of(model, &model.views[id], &of_key, end);
        scores.extend(scored.into_iter().map(|(start, scored)| ((id, key.clone(), start), scored)));
    }
    for place in scores.keys() {
        windows.entry(place.clone()).or_default();
    }
    let each = windows.into_iter().map(|(place, window)| {
        let (id, key, start) = &place;
        let scored = scores.remove(&place);
        let document = document(model, &model.views[*id], key, *start, (&window, scored), end * model.tick);
        (place, document)
    });
    each.collect()
}

/// The hold of a partition when the record at an offset was read, in ticks.
fn hold(partition: &Partition, offset: u64) -> u64 {
    let before = partition.marks.iter().filter(|mark| mark.next_offset <= offset);
    before.map(|mark| mark.hold).max().unwrap_or(0)
}
