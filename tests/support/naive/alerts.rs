//! Alerts: the windows of each key that meet a condition, in order of time, and those of all keys together.

use std::collections::{BTreeMap, BTreeSet};

use floodmark_dataflows::view::Key;
use serde_json::{Value, json};

use super::windows::EVIDENCE;
use super::{Model, Windows, as_read, canonical, without_identities};

/// An alert.
#[derive(Clone, Debug)]
pub struct AlertModel {
    pub name: String,
    /// The place of its view.
    pub view: usize,
    /// A key field, and what its value begins with.
    pub key: Option<(String, String)>,
    /// A measure, a comparison and a number; all have to hold.
    pub when: Vec<(&'static str, &'static str, f64)>,
    pub for_windows: u64,
    pub close_after: u64,
    pub group: bool,
}

/// The name of the alert, key and start of the first window.
pub type AlertPlace = (String, String, u64);

/// How long after its beginning an incident takes in further keys.
const DAY: u64 = 86_400_000;

/// A window that meets the condition.
#[derive(Clone)]
struct Met {
    key: Vec<String>,
    start: u64,
    value: f64,
    score: Option<Value>,
    evidence: Value,
    revision: u64,
    as_of: u64,
}

/// What of an alert's document does not depend on the configuration's hash.
const COMPARED: [&str; 14] = [
    "alert",
    "view",
    "severity",
    "state",
    "start",
    "end",
    "first",
    "strongest",
    "keys",
    "key_count",
    "windows",
    "revision",
    "as_of",
    "summary",
];

/// The members of an alert's document that are compared.
pub fn compared(document: &Value) -> String {
    let mut document = without_identities(document.clone());
    for name in ["first", "strongest"] {
        let window = &document[name];
        let members =
            ["key", "start", "end", "value", "score"].map(|member| (member.to_owned(), window[member].clone()));
        document[name] = members.into_iter().collect();
    }
    canonical(&COMPARED.iter().map(|name| ((*name).to_owned(), document[*name].clone())).collect())
}

/// Where an alert's document belongs.
pub fn place_of(document: &Value) -> AlertPlace {
    let first = &document["first"];
    let name = document["alert"].as_str().unwrap_or_default().to_owned();
    (name, canonical(&first["key"]), first["start"].as_u64().unwrap_or(0))
}

/// The alerts of final windows, as of the end in milliseconds.
pub(super) fn alerts(model: &Model, windows: &Windows, end: u64) -> BTreeMap<AlertPlace, String> {
    let mut found = BTreeMap::new();
    for alert in &model.alerts {
        let view = &model.views[alert.view];
        let mut by_key: BTreeMap<&Vec<String>, BTreeMap<u64, Met>> = BTreeMap::new();
        for ((_, key, start), document) in windows.iter().filter(|((id, ..), _)| *id == alert.view) {
            if let Some(met) = met(alert, key, *start, document, view.lateness, end) {
                by_key.entry(key).or_default().insert(*start, met);
            }
        }
        let mut segments: Vec<Vec<Met>> = by_key.values().flat_map(|met| segments(alert, view.slide, met)).collect();
        segments.sort_by_key(|segment| (segment[0].start, Key::from_values(&segment[0].key)));
        let closes_at = |segment: &[Met]| {
            let last = segment.iter().map(|met| met.start).max().unwrap_or(0);
            last + alert.close_after * view.slide + view.width
        };
        let mut incidents: Vec<Vec<Vec<Met>>> = Vec::new();
        for segment in segments {
            match incidents.last_mut() {
                Some(incident)
                    if alert.group
                        && segment[0].start < incident.iter().map(|other| closes_at(other)).max().unwrap_or(0)
                        && segment[0].start < incident[0][0].start + DAY =>
                {
                    incident.push(segment);
                }
                _ => incidents.push(vec![segment]),
            }
        }
        for incident in incidents {
            let document = as_read(&document(model, alert, &incident, end));
            found.insert(place_of(&document), compared(&document));
        }
    }
    found
}

/// A closed window that meets the condition.
fn met(alert: &AlertModel, key: &[String], start: u64, document: &Value, lateness: u64, end: u64) -> Option<Met> {
    let number = |name: &str| document[name].as_f64().unwrap_or(0.0);
    let window_end = document["end"].as_u64()?;
    if window_end > end {
        return None;
    }
    if let Some((field, prefix)) = &alert.key
        && !document["key"][field].as_str().unwrap_or_default().starts_with(prefix.as_str())
    {
        return None;
    }
    let value_of = |measure: &str| match measure {
        "score" => document.get("score").filter(|score| score["learning"] == false)?["score"].as_f64(),
        "rate" => Some(number("count") * 1_000.0 / (window_end - start) as f64),
        "error_ratio" => (number("count") > 0.0).then(|| number("errors") / number("count")),
        "p95" => document.get("response_time_ms")?["p95"].as_f64(),
        name => match name.split_once(':') {
            Some(("rule", rule)) => Some(document["rules"][rule].as_f64().unwrap_or(0.0)),
            Some(("rule_ratio", rule)) => {
                (number("count") > 0.0).then(|| document["rules"][rule].as_f64().unwrap_or(0.0) / number("count"))
            }
            Some((statistic, of)) => document.get("numbers")?.get(of)?[statistic].as_f64(),
            None => Some(number(name)),
        },
    };
    let mut first = None;
    for (measure, comparison, than) in &alert.when {
        let value = value_of(measure)?;
        let holds = match *comparison {
            ">=" => value >= *than,
            ">" => value > *than,
            "<=" => value <= *than,
            _ => value < *than,
        };
        if !holds {
            return None;
        }
        first = first.or(Some(value));
    }
    let as_of = document["as_of"].as_u64()?;
    let is_late = document["final"] == true && as_of > window_end + lateness;
    Some(Met {
        key: key.to_vec(),
        start,
        value: first?,
        score: document.get("score").cloned(),
        evidence: document[EVIDENCE].clone(),
        revision: document["revision"].as_u64()?,
        as_of: if is_late { as_of } else { window_end },
    })
}

/// The times at which a key is conspicuous: window by window.
fn segments(alert: &AlertModel, slide: u64, met: &BTreeMap<u64, Met>) -> Vec<Vec<Met>> {
    let (Some((&first, _)), Some((&last, _))) = (met.first_key_value(), met.last_key_value()) else {
        return Vec::new();
    };
    let mut segments = Vec::new();
    let (mut run, mut open, mut quiet) = (Vec::new(), None::<Vec<Met>>, 0);
    for start in (first..=last).step_by(slide as usize) {
        match (met.get(&start), &mut open) {
            (Some(window), Some(segment)) => {
                segment.push(window.clone());
                quiet = 0;
            }
            (Some(window), None) => {
                run.push(window.clone());
                if run.len() as u64 == alert.for_windows {
                    open = Some(std::mem::take(&mut run));
                    quiet = 0;
                }
            }
            (None, _) => {
                run.clear();
                quiet += 1;
                if quiet == alert.close_after {
                    segments.extend(open.take());
                }
            }
        }
    }
    segments.extend(open);
    segments
}

fn document(model: &Model, alert: &AlertModel, incident: &[Vec<Met>], end: u64) -> Value {
    let view = &model.views[alert.view];
    let all = || incident.iter().flatten();
    let (measure, comparison, _) = alert.when[0];
    let is_stronger = |value: f64, than: f64| if comparison.starts_with('>') { value > than } else { value < than };
    let first = &incident[0][0];
    let mut strongest = first;
    for met in all() {
        let is_earlier = (met.start, Key::from_values(&met.key)) < (strongest.start, Key::from_values(&strongest.key));
        if is_stronger(met.value, strongest.value) || met.value == strongest.value && is_earlier {
            strongest = met;
        }
    }
    let mut keys: Vec<&Vec<String>> = Vec::new();
    for segment in incident {
        if !keys.contains(&&segment[0].key) {
            keys.push(&segment[0].key);
        }
    }
    let fields =
        |key: &[String]| -> Value { view.key.iter().cloned().zip(key.iter().map(|value| json!(value))).collect() };
    let window = |met: &Met| {
        let mut window =
            json!({ "key": fields(&met.key), "start": met.start, "end": met.start + view.width, "value": met.value });
        if let Some(score) = &met.score {
            window["score"] = score.clone();
            window["score"].as_object_mut().map(|score| score.remove("offsets"));
        }
        let is_about_scores = alert.when.iter().any(|(name, ..)| *name == "score");
        for (name, is_wanted) in [("offsets", true), ("baselines", is_about_scores)] {
            let of = &met.evidence[name];
            if is_wanted && of.as_array().is_some_and(|of| !of.is_empty()) {
                window[name] = of.clone();
            }
        }
        window
    };
    let last = all().map(|met| met.start).max().unwrap_or(0);
    let closes_at = last + alert.close_after * view.slide + view.width;
    let is_over = closes_at <= end;
    let known = all().map(|met| met.as_of).max().unwrap_or(0);
    let severity = match measure {
        "score" => match strongest.value {
            90.0.. => "critical",
            70.0.. => "high",
            50.0.. => "medium",
            25.0.. => "low",
            _ => "info",
        },
        _ => "high",
    };
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let conditions: Vec<_> =
        alert.when.iter().map(|(name, comparison, than)| format!("{name} {comparison} {than}")).collect();
    let long = if alert.for_windows > 1 { format!(" for {} windows", alert.for_windows) } else { String::new() };
    let named: Vec<_> = view.key.iter().zip(&strongest.key).map(|(name, value)| format!("{name}={value}")).collect();
    let reached = if comparison.starts_with('>') { "reached" } else { "fell to" };
    let value = (strongest.value * 1_000.0).round() / 1_000.0;
    let (windows, of_keys) = (count(all().count(), "window"), count(keys.len(), "key"));
    json!({
        "alert": alert.name,
        "view": view.name,
        "severity": severity,
        "state": if is_over { "closed" } else { "open" },
        "start": first.start,
        "end": last + view.width,
        "first": window(first),
        "strongest": window(strongest),
        "keys": keys.iter().take(100).map(|key| fields(key)).collect::<Vec<_>>(),
        "key_count": keys.iter().map(|key| Key::from_values(key)).collect::<BTreeSet<_>>().len(),
        "windows": all().count(),
        "revision": all().map(|met| met.revision).sum::<u64>(),
        "as_of": if is_over { known.max(closes_at) } else { known },
        "summary": format!(
            "{}{long}: {} {reached} {value}; {windows} of {of_keys}",
            conditions.join(" and "),
            named.join(", ")
        ),
    })
}
