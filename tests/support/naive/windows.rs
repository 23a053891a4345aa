//! Records to windows, and windows to their documents.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Value, json};

use super::records::{Facts, LEVELS};
use super::scores::Scored;
use super::{Model, ViewModel};

/// A record of a window.
#[derive(Clone)]
pub(super) struct Record {
    /// Its timestamp in ticks.
    pub time: u64,
    /// Its partition.
    pub number: i32,
    pub offset: u64,
    /// The partition's clock with it, in ticks.
    pub clock: u64,
    pub facts: Rc<Facts>,
}

/// A window of a key.
#[derive(Default)]
pub(super) struct Window {
    /// In the order of their partitions and offsets.
    pub records: Vec<Record>,
    /// Ticks at which late records changed it.
    pub late: BTreeSet<u64>,
}

/// Adds a record to the windows that it belongs to.
pub(super) fn take(
    model: &Model,
    view: &ViewModel,
    id: usize,
    key: &[String],
    record: &Record,
    windows: &mut BTreeMap<(usize, Vec<String>, u64), Window>,
) {
    let (time, event) = (record.time, record.facts.timestamp);
    let mut start = event / view.slide * view.slide;
    while start + view.width > event {
        let end = start + view.width;
        if time * model.tick < end + view.retention {
            let window = windows.entry((id, key.to_vec(), start)).or_default();
            window.records.push(record.clone());
            if time * model.tick >= end + view.lateness {
                window.late.insert(time);
            }
        }
        let Some(before) = start.checked_sub(view.slide) else { break };
        start = before;
    }
}

/// The document of a window with its score, if it has one. Windows without records have one if they are worth it.
pub(super) fn document(
    model: &Model,
    view: &ViewModel,
    key: &[String],
    start: u64,
    (window, scored): (&Window, Option<Scored>),
    end_of_input: u64,
) -> Value {
    let end = start + view.width;
    let final_at = end + view.lateness;
    let is_final = end_of_input >= final_at;
    let records: Vec<&Facts> = window.records.iter().map(|record| &*record.facts).collect();
    let count = |holds: &dyn Fn(&Facts) -> bool| records.iter().filter(|record| holds(record)).count();
    let levels: BTreeMap<_, _> = LEVELS.iter().map(|level| (*level, count(&|record| record.level == *level))).collect();
    let status: BTreeMap<_, _> = (1..=5)
        .map(|class| (format!("{class}xx"), count(&|record| record.status.is_some_and(|s| s / 100 == class))))
        .collect();
    let key: Value = view.key.iter().zip(key).map(|(name, value)| (name.clone(), json!(value))).collect();
    let corrected = |late: Option<&u64>| final_at.max(late.map_or(0, |tick| (tick + 1) * model.tick));
    let last = window.late.last().max(scored.as_ref().and_then(|scored| scored.last.as_ref()));
    let mut document = measures(view, &records);
    for (name, value) in [
        ("view", json!(view.name)),
        ("key", key),
        ("start", json!(start)),
        ("end", json!(end)),
        ("levels", json!(levels.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>())),
        ("status", json!(status.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>())),
        ("max_severity", json!(records.iter().map(|record| record.severity).max().unwrap_or(0))),
        ("first", json!(records.iter().map(|record| record.timestamp).min().unwrap_or(start))),
        ("last", json!(records.iter().map(|record| record.timestamp).max().unwrap_or(start))),
        ("revision", json!(window.late.len())),
        ("late_records", json!(window.records.iter().filter(|record| window.late.contains(&record.time)).count())),
        ("final", json!(is_final)),
        ("as_of", json!(if is_final { corrected(last) } else { end_of_input })),
    ] {
        document[name] = value;
    }
    if let Some(last) = window.late.last() {
        let before: Vec<&Facts> =
            window.records.iter().filter(|record| record.time < *last).map(|record| &*record.facts).collect();
        if !before.is_empty() {
            document["previous"] = measures(view, &before);
            document["previous"]["as_of"] = json!(corrected(window.late.range(..last).last()));
        }
    }
    let places = offsets(model, window);
    let mut evidence = json!({ "offsets": places, "baselines": [] });
    if let Some(scored) = scored {
        document["score"] = json!(scored.score);
        if !window.records.is_empty() {
            document["score"]["offsets"] = json!(places);
        }
        let with_baselines = view.score.iter().filter(|measure| measure.has_baseline());
        let states = with_baselines.zip(scored.states.into_iter().flatten());
        let baselines = states.map(|(measure, state)| json!({ "measure": measure.name(), "state": state }));
        evidence["baselines"] = baselines.collect();
    }
    document[EVIDENCE] = evidence;
    document
}

/// What alerts take along of a window, under this name; not a part of its document.
pub(super) const EVIDENCE: &str = "evidence";

/// Where the records of a window are.
fn offsets(model: &Model, window: &Window) -> Vec<Value> {
    let mut partitions: BTreeMap<i32, Vec<&Record>> = BTreeMap::new();
    window.records.iter().for_each(|record| partitions.entry(record.number).or_default().push(record));
    let range = |(number, records): (i32, Vec<&Record>)| {
        let (first, last) = (records[0], records[records.len() - 1]);
        let (topic, number) = model.place_of(number);
        json!({
            "topic": topic,
            "partition": number,
            "first": first.offset,
            "last": last.offset,
            "clock": first.clock * model.tick,
        })
    };
    partitions.into_iter().map(range).collect()
}

/// What a window says of its records, and of those before its last correction.
fn measures(view: &ViewModel, records: &[&Facts]) -> Value {
    let count = |holds: &dyn Fn(&Facts) -> bool| records.iter().filter(|record| holds(record)).count();
    let mut measures = json!({
        "count": records.len(),
        "errors": count(&|record| ["ERROR", "FATAL"].contains(&record.level)),
        "anomalies": count(&|record| record.severity >= 50),
    });
    let mut times: Vec<u64> = records.iter().filter_map(|record| record.response_us).collect();
    times.sort_unstable();
    if let (Some(&min), Some(&max)) = (times.first(), times.last()) {
        let ms = |us: u64| us as f64 / 1_000.0;
        let rank = |permille: usize| times[(times.len() * permille).div_ceil(1_000) - 1];
        let about = |permille| ms(middle_of_bucket(rank(permille)).clamp(min, max));
        let sum: u64 = times.iter().sum();
        measures["response_time_ms"] = json!({
            "min": ms(min),
            "max": ms(max),
            "sum": ms(sum),
            "mean": (sum as f64 / times.len() as f64).round() / 1_000.0,
            "p50": about(500),
            "p90": about(900),
            "p95": about(950),
            "p99": about(990),
        });
    }
    let numbers: serde_json::Map<String, Value> =
        view.numbers.iter().filter_map(|name| Some(((*name).to_owned(), number(name, records)?))).collect();
    if !numbers.is_empty() {
        measures["numbers"] = numbers.into();
    }
    let matches = view.rules.iter().map(|rule| ((*rule).to_owned(), count(&|record| record.reasons.contains(rule))));
    let rules: serde_json::Map<String, Value> =
        matches.filter(|(_, n)| *n > 0).map(|(rule, n)| (rule, n.into())).collect();
    if !rules.is_empty() {
        measures["rules"] = rules.into();
    }
    measures
}

/// What is said of a number; `None` where no record has it.
pub(super) fn number(name: &str, records: &[&Facts]) -> Option<Value> {
    let mut values: Vec<i64> = records.iter().filter_map(|record| record.numbers.get(name).copied()).collect();
    values.sort_unstable();
    let (min, max) = (*values.first()?, *values.last()?);
    let shown = |millionths: i64| millionths as f64 / 1e6;
    let about = |permille: usize| {
        let value = values[(values.len() * permille).div_ceil(1_000) - 1];
        let middle = middle_of_bucket(value.unsigned_abs()) as i64;
        shown((middle * value.signum()).clamp(min, max))
    };
    let sum: i128 = values.iter().map(|value| i128::from(*value)).sum();
    Some(json!({
        "count": values.len(),
        "min": shown(min),
        "max": shown(max),
        "sum": sum as f64 / 1e6,
        "mean": (sum as f64 / values.len() as f64).round() / 1e6,
        "p50": about(500),
        "p90": about(900),
        "p95": about(950),
        "p99": about(990),
    }))
}

/// The value that percentiles give for all values near this one: below 128 µs the value itself, above the middle of one of
/// 64 equal parts between two powers of two.
pub(super) fn middle_of_bucket(us: u64) -> u64 {
    if us < 128 {
        return us;
    }
    let width = 1 << (us.ilog2() - 6);
    us / width * width + (width - 1) / 2
}
