//! A naive reference of the whole product: what a run over some partitions must end with.
//!
//! In: the raw records of each partition with their offsets, a [`Model`] of the configuration, and the marks that were
//! recorded. Out: an [`Outcome`]. It shares no code with what it checks, but for the first
//! cut of messages, whose own tests fix its ids: records are parsed by `serde_json`, every record
//! of every window is kept, and each window is computed from its records at the end. Slow and plain on purpose.

use std::collections::{BTreeMap, BTreeSet};

use floodmark_dataflows::patterns::Cutter;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

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

/// An object's members as they are written, in their order.
struct Members(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A record as far as anything depends on it.
#[derive(Clone, Debug)]
struct Facts {
    timestamp: u64,
    level: &'static str,
    status: Option<u16>,
    response_us: Option<u64>,
    error_code: bool,
    /// The value of each field that can be a key, as text.
    texts: BTreeMap<String, String>,
    severity: u8,
    reasons: Vec<&'static str>,
}

const LEVELS: [&str; 7] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "OTHER"];
const LAST_TIMESTAMP: u64 = 253_402_300_799_999;

fn level_of(text: &str) -> &'static str {
    match text.to_ascii_uppercase().as_str() {
        "TRACE" | "FINER" | "FINEST" | "T" => "TRACE",
        "DEBUG" | "FINE" | "VERBOSE" | "D" => "DEBUG",
        "" | "INFO" | "INFORMATION" | "INFORMATIONAL" | "NOTICE" | "I" => "INFO",
        "WARN" | "WARNING" | "W" => "WARN",
        "ERROR" | "ERR" | "SEVERE" | "E" => "ERROR",
        "FATAL" | "CRITICAL" | "CRIT" | "ALERT" | "EMERGENCY" | "EMERG" | "PANIC" | "DPANIC" | "F" => "FATAL",
        _ => "OTHER",
    }
}

/// The default rules.
fn judge(facts: &mut Facts) {
    let mut hit = |name, score: u64| {
        facts.reasons.push(name);
        facts.severity = facts.severity.max(score.min(100) as u8);
    };
    if ["ERROR", "FATAL"].contains(&facts.level) {
        hit("error_level", 100);
    }
    if let Some(status) = facts.status.filter(|status| *status >= 400) {
        hit("http_error", 50 + 2 * (u64::from(status) - 400));
    }
    if facts.level == "WARN" {
        hit("warn_level", 50);
    }
    if facts.response_us.is_some_and(|us| us > 3_000_000) {
        hit("slow_response", 60);
    }
    if facts.error_code {
        hit("error_code", 75);
    }
}

/// A record's facts and its document, or the reason why it is a dead letter.
fn read(model: &Model, number: i32, offset: u64, bytes: &[u8]) -> Result<(Facts, String), &'static str> {
    if bytes.len() > model.max_record_bytes {
        return Err("too_long");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "malformed")?;
    let Members(members) = serde_json::from_str(text).map_err(|_| "malformed")?;
    let values: BTreeMap<&str, Value> =
        members.iter().map(|(name, raw)| (name.as_str(), serde_json::from_str(raw).expect("it was JSON"))).collect();
    let get = |name: &str| values.get(name).filter(|value| !value.is_null());

    for name in ["service_name", "message", "path", "method"] {
        if get(name).is_some_and(|value| !value.is_string()) {
            return Err("wrong_type");
        }
    }
    for name in ["request_id", "user_id", "error_code"] {
        if get(name).is_some_and(|value| !value.is_string() && !value.is_number()) {
            return Err("wrong_type");
        }
    }
    if get("tags").is_some_and(|value| !value.is_string() && !value.is_array()) {
        return Err("wrong_type");
    }
    let timestamp = match get("timestamp").ok_or("missing_timestamp")? {
        Value::String(text) => {
            let time = text.parse::<jiff::Timestamp>().map_err(|_| "wrong_type")?;
            u64::try_from(time.as_millisecond()).map_err(|_| "wrong_type")?
        }
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(ms), _) => ms,
            (None, Some(ms)) if ms >= 0.0 => ms as u64,
            _ => return Err("wrong_type"),
        },
        _ => return Err("wrong_type"),
    };
    if timestamp > LAST_TIMESTAMP {
        return Err("wrong_type");
    }
    let level = match values.get("level") {
        None | Some(Value::Null) => "INFO",
        Some(Value::String(text)) => level_of(text),
        Some(_) => return Err("wrong_type"),
    };
    let status = match get("status_code") {
        None => None,
        Some(value) => match value.as_u64() {
            Some(status @ 100..=599) => Some(status as u16),
            _ => return Err("wrong_type"),
        },
    };
    let response_us = match get("response_time_ms") {
        None => None,
        Some(Value::Number(ms)) if ms.as_f64().is_some_and(|ms| ms >= 0.0) => {
            Some((ms.as_f64().unwrap_or_default() * 1_000.0).round() as u64)
        }
        Some(_) => return Err("wrong_type"),
    };
    if let Some(Value::Array(tags)) = get("tags")
        && !tags.iter().all(Value::is_string)
    {
        return Err("wrong_type");
    }

    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let service = get("service_name").map(plain).filter(|name| !name.is_empty()).unwrap_or("unknown".to_owned());
    let error_code = get("error_code").map(plain).filter(|code| !code.is_empty());
    let mut texts = BTreeMap::from([
        ("service_name".to_owned(), service.clone()),
        ("level".to_owned(), level.to_owned()),
        ("path".to_owned(), get("path").map(plain).unwrap_or_default()),
        ("region".to_owned(), get("region").map(plain).unwrap_or_default()),
    ]);
    texts.insert("status_code".to_owned(), status.map(|status| status.to_string()).unwrap_or_default());
    let mut facts = Facts {
        timestamp,
        level,
        status,
        response_us,
        error_code: error_code.is_some(),
        texts,
        severity: 0,
        reasons: Vec::new(),
    };
    judge(&mut facts);

    // Which of the fields that every document has must be written, since the record has them otherwise or not at all.
    let as_it_is =
        |name: &str, form: &str| members.iter().rfind(|(n, _)| n == name).is_some_and(|(_, raw)| raw == form);
    let ours = [
        ("timestamp", timestamp.to_string()),
        ("service_name", json!(service).to_string()),
        ("level", json!(level).to_string()),
    ];
    let written: Vec<_> = ours
        .iter()
        .filter(|(name, form)| match *name {
            // Any text that is not empty stands for itself, however it is escaped.
            "service_name" => get("service_name").is_none_or(|value| value == ""),
            name => !as_it_is(name, form),
        })
        .collect();
    let computed = ["topic", "partition", "offset", "severity", "severity_level", "anomaly", "reasons", "pattern_id"];
    let is_taken = |name: &str| computed.contains(&name) || written.iter().any(|(taken, _)| *taken == name);
    let mut document = if members.iter().any(|(name, _)| is_taken(name)) {
        let member = |(name, raw): &(String, String)| {
            let kept = is_taken(name) || name.starts_with("original.");
            format!("{}:{raw}", json!(format!("{}{name}", if kept { "original." } else { "" })))
        };
        format!("{{{}", members.iter().map(member).collect::<Vec<_>>().join(","))
    } else {
        text.trim().strip_suffix('}').expect("an object").to_owned()
    };
    let severity_level = match facts.severity {
        90.. => "CRITICAL",
        70.. => "HIGH",
        50.. => "MEDIUM",
        25.. => "LOW",
        _ => "INFO",
    };
    document.push_str(&format!(
        r#","topic":{},"partition":{number},"offset":{offset},"severity":{},"severity_level":"{severity_level}","anomaly":{},"reasons":{},"pattern_id":"{:016x}""#,
        json!(model.topic),
        facts.severity,
        facts.severity >= 50,
        json!(facts.reasons),
        Cutter::default().cut(get("message").and_then(Value::as_str).unwrap_or_default()).id,
    ));
    for (name, form) in written {
        document.push_str(&format!(",\"{name}\":{form}"));
    }
    document.push('}');
    Ok((facts, document.replace(['\n', '\r'], " ")))
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

/// A window of a key.
#[derive(Default)]
struct Window {
    /// Each with its timestamp in ticks.
    records: Vec<(u64, Facts)>,
    /// Ticks at which late records changed it.
    late: BTreeSet<u64>,
}

/// What a run over these partitions, read to their ends, must end with.
pub fn expected(model: &Model, partitions: &[Partition]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut windows: BTreeMap<(usize, Vec<String>, u64), Window> = BTreeMap::new();
    let mut end = None;
    for (number, partition) in (0..).zip(partitions) {
        let mut clock = None;
        let mut keys: Vec<Keys> = model.views.iter().map(|_| Keys::default()).collect();
        for (offset, bytes) in &partition.records {
            let place = (number, *offset);
            let (facts, document) = match read(model, number, *offset, bytes) {
                Ok(read) => read,
                Err(reason) => {
                    let cut = model.cuts_long_records && reason == "too_long";
                    let kept = if cut { &bytes[..model.max_record_bytes + 1] } else { &bytes[..] };
                    outcome.dead.insert(place, (reason.to_owned(), kept.to_vec()));
                    continue;
                }
            };
            let covering = partition.marks.iter().find(|mark| mark.next_offset > *offset);
            let arrival = covering.map_or(model.arrived_by, |mark| mark.wall);
            if facts.timestamp > arrival + model.max_future {
                outcome.dead.insert(place, ("clock_ahead".to_owned(), bytes.clone()));
                continue;
            }
            outcome.documents.insert(place, document);
            let now = (facts.timestamp / model.tick).max(clock.unwrap_or(0));
            clock = Some(now);
            let time = now.max(hold(partition, *offset));
            for (view, (id, keys)) in model.views.iter().zip(keys.iter_mut().enumerate()) {
                keys.forget(view, model.tick, time);
                if view.conditions.iter().all(|condition| meets(condition, &facts)) {
                    let key = view.key.iter().map(|name| facts.texts[name].clone()).collect();
                    let key = keys.admit(view, key, time);
                    take(model, view, id, &key, &facts, time, &mut windows);
                }
            }
        }
        let held = hold(partition, u64::MAX);
        end = end.max(clock).max((held > 0).then_some(held));
    }
    let end = end.unwrap_or(0) * model.tick;
    for ((id, key, start), window) in windows {
        let view = &model.views[id];
        let (place, document) = document(model, view, &key, start, &window, end);
        outcome.windows.insert(place, document);
    }
    outcome
}

/// The hold of a partition when the record at an offset was read, in ticks.
fn hold(partition: &Partition, offset: u64) -> u64 {
    let before = partition.marks.iter().filter(|mark| mark.next_offset <= offset);
    before.map(|mark| mark.hold).max().unwrap_or(0)
}

/// Adds a record to the windows that it belongs to.
fn take(
    model: &Model,
    view: &ViewModel,
    id: usize,
    key: &[String],
    facts: &Facts,
    time: u64,
    windows: &mut BTreeMap<(usize, Vec<String>, u64), Window>,
) {
    let mut start = facts.timestamp / view.slide * view.slide;
    while start + view.width > facts.timestamp {
        let end = start + view.width;
        if time * model.tick < end + view.retention {
            let window = windows.entry((id, key.to_vec(), start)).or_default();
            window.records.push((time, facts.clone()));
            if time * model.tick >= end + view.lateness {
                window.late.insert(time);
            }
        }
        let Some(before) = start.checked_sub(view.slide) else { break };
        start = before;
    }
}

fn document(
    model: &Model,
    view: &ViewModel,
    key: &[String],
    start: u64,
    window: &Window,
    end_of_input: u64,
) -> ((String, String, u64), String) {
    let end = start + view.width;
    let final_at = end + view.lateness;
    let is_final = end_of_input >= final_at;
    let records: Vec<&Facts> = window.records.iter().map(|(_, facts)| facts).collect();
    let count = |holds: &dyn Fn(&Facts) -> bool| records.iter().filter(|record| holds(record)).count();
    let levels: BTreeMap<_, _> = LEVELS.iter().map(|level| (*level, count(&|record| record.level == *level))).collect();
    let status: BTreeMap<_, _> = (1..=5)
        .map(|class| (format!("{class}xx"), count(&|record| record.status.is_some_and(|s| s / 100 == class))))
        .collect();
    let key: Value = view.key.iter().zip(key).map(|(name, value)| (name.clone(), json!(value))).collect();
    let corrected = |late: Option<&u64>| final_at.max(late.map_or(0, |tick| (tick + 1) * model.tick));
    let mut document = measures(&records);
    for (name, value) in [
        ("view", json!(view.name)),
        ("key", key),
        ("start", json!(start)),
        ("end", json!(end)),
        ("levels", json!(levels.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>())),
        ("status", json!(status.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>())),
        ("max_severity", json!(records.iter().map(|record| record.severity).max())),
        ("first", json!(records.iter().map(|record| record.timestamp).min())),
        ("last", json!(records.iter().map(|record| record.timestamp).max())),
        ("revision", json!(window.late.len())),
        ("late_records", json!(window.records.iter().filter(|(time, _)| window.late.contains(time)).count())),
        ("final", json!(is_final)),
        ("as_of", json!(if is_final { corrected(window.late.last()) } else { end_of_input })),
    ] {
        document[name] = value;
    }
    if let Some(last) = window.late.last() {
        let before: Vec<&Facts> =
            window.records.iter().filter(|(time, _)| time < last).map(|(_, facts)| facts).collect();
        if !before.is_empty() {
            document["previous"] = measures(&before);
            document["previous"]["as_of"] = json!(corrected(window.late.range(..last).last()));
        }
    }
    ((view.name.clone(), canonical(&document["key"]), start), canonical(&document))
}

/// What a window says of its records, and of those before its last correction.
fn measures(records: &[&Facts]) -> Value {
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
    measures
}

/// The value that percentiles give for all values near this one: below 128 µs the value itself, above the middle of one of
/// 64 equal parts between two powers of two.
fn middle_of_bucket(us: u64) -> u64 {
    if us < 128 {
        return us;
    }
    let width = 1 << (us.ilog2() - 6);
    us / width * width + (width - 1) / 2
}
