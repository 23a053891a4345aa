//! Raw bytes to what is known of a record: `serde_json`, and rules written out.

use std::collections::BTreeMap;

use floodmark_dataflows::patterns::Cutter;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Model, Partition};

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
pub(super) struct Facts {
    pub timestamp: u64,
    pub level: &'static str,
    pub status: Option<u16>,
    pub response_us: Option<u64>,
    /// The numbers that views name, in millionths.
    pub numbers: BTreeMap<&'static str, i64>,
    pub error_code: bool,
    /// The value of each field that can be a key, as text.
    pub texts: BTreeMap<String, String>,
    pub severity: u8,
    pub reasons: Vec<&'static str>,
    /// The first cut of its message.
    pub cut: String,
}

pub(super) const LEVELS: [&str; 7] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "OTHER"];
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
pub(super) fn read(
    model: &Model,
    partition: &Partition,
    (number, offset): (i32, u64),
    bytes: &[u8],
) -> Result<(Facts, String), &'static str> {
    let redrive = partition.redrive.as_ref();
    let time_field = redrive.map_or("timestamp", |redrive| redrive.timestamp);
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
    let timestamp = match get(time_field).ok_or("missing_timestamp")? {
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

    let mut numbers = BTreeMap::new();
    for name in model.views.iter().flat_map(|view| &view.numbers) {
        let value = match name.split_once('.') {
            Some((outer, inner)) => get(outer).and_then(|outer| outer.get(inner)).filter(|value| !value.is_null()),
            None => get(name),
        };
        if let Some(value) = value {
            let millionths = match (value.as_i64(), value.as_f64()) {
                (Some(whole), _) => whole.checked_mul(1_000_000),
                (None, Some(number)) => Some((number * 1e6).round() as i64),
                _ => None,
            };
            let limits = -9_000_000_000_000_000_000..=9_000_000_000_000_000_000;
            numbers.insert(*name, millionths.filter(|number| limits.contains(number)).ok_or("wrong_type")?);
        }
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
    let mut cutter = Cutter::default();
    let cut = cutter.cut(get("message").and_then(Value::as_str).unwrap_or_default());
    let mut facts = Facts {
        timestamp,
        level,
        status,
        response_us,
        numbers,
        error_code: error_code.is_some(),
        texts,
        severity: 0,
        reasons: Vec::new(),
        cut: cut.template.to_owned(),
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
            "timestamp" if time_field != "timestamp" => true,
            name => !as_it_is(name, form),
        })
        .collect();
    let computed = ["topic", "partition", "offset", "severity", "severity_level", "anomaly", "reasons", "pattern_id"];
    let is_taken = |name: &str| computed.contains(&name) || written.iter().any(|(taken, _)| *taken == name);
    let object = text.trim().strip_suffix('}').expect("an object");
    let mut document = renamed(object, |name| is_taken(name) || name.starts_with("original."));
    let severity_level = match facts.severity {
        90.. => "CRITICAL",
        70.. => "HIGH",
        50.. => "MEDIUM",
        25.. => "LOW",
        _ => "INFO",
    };
    let (topic, number) = model.place_of(number);
    document.push_str(&format!(
        r#","topic":{},"partition":{number},"offset":{offset},"severity":{},"severity_level":"{severity_level}","anomaly":{},"reasons":{},"pattern_id":"{:016x}""#,
        json!(topic),
        facts.severity,
        facts.severity >= 50,
        json!(facts.reasons),
        cut.id,
    ));
    if let Some((topic, partition, offset)) = redrive.map(|redrive| &redrive.origins[offset as usize]) {
        let topic = json!(topic);
        document
            .push_str(&format!(r#","redriven_from":{{"topic":{topic},"partition":{partition},"offset":{offset}}}"#));
    }
    for (name, form) in written {
        document.push_str(&format!(",\"{name}\":{form}"));
    }
    document.push('}');
    Ok((facts, document.replace(['\n', '\r'], " ")))
}

/// The beginning of an object, with `original.` before those of its own names that are taken.
fn renamed(object: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let (mut out, mut rest) = (String::new(), object);
    let (mut depth, mut is_name) = (0, false);
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        if c == '"' {
            let mut is_escaped = false;
            let is_end = |c: char| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            };
            length += rest[1..].find(is_end).expect("text that ends") + 1;
            let name: String = serde_json::from_str(&rest[..length]).expect("text");
            let prefix = if depth == 1 && is_name && is_taken(&name) { "original." } else { "" };
            out.push_str(&format!("\"{prefix}{}", &rest[1..length]));
        } else {
            match c {
                '{' | '[' => depth += 1,
                '}' | ']' => depth -= 1,
                _ => {}
            }
            is_name = matches!(c, '{' | ',') || is_name && c.is_whitespace();
            out.push(c);
        }
        rest = &rest[length..];
    }
    out
}
