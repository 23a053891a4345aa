//! How an alert is configured, and the checks that turn an [`AlertConfig`] into an [`Alert`].
//!
//! In: what was written in the configuration, and the views. Out: alerts, or *all* the mistakes, each with its key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::WindowCondition;
use crate::output::WindowDocument;
use crate::scores::ScoredMeasure;
use crate::time::Millis;
use crate::view::{View, ViewId};
use crate::view_config::Mistake;

/// Windows that `for` and `close_after` may count at the most.
const MAX_WINDOWS: u32 = 1_000;

/// How bad an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// Somebody has to be woken.
    Critical,
    /// Somebody has to look soon.
    High,
    /// Somebody has to look.
    Medium,
    /// Good to know.
    Low,
    /// For the record.
    Info,
}

impl AlertSeverity {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            AlertSeverity::Critical => "critical",
            AlertSeverity::High => "high",
            AlertSeverity::Medium => "medium",
            AlertSeverity::Low => "low",
            AlertSeverity::Info => "info",
        }
    }

    /// The one of a score of 0 to 100, in the ranges of a record's severity.
    pub fn of_score(score: f64) -> Self {
        match score {
            90.0.. => AlertSeverity::Critical,
            70.0.. => AlertSeverity::High,
            50.0.. => AlertSeverity::Medium,
            25.0.. => AlertSeverity::Low,
            _ => AlertSeverity::Info,
        }
    }
}

/// An alert: which windows are worth telling somebody of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertConfig {
    /// Its name in documents and notifications: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// The view whose windows are looked at.
    pub view: String,
    /// Which keys are looked at: by key field, the values; a value may end in `*`. Without any, all keys are.
    pub keys: BTreeMap<String, Vec<String>>,
    /// What a window has to meet, all of it, such as `"score >= 75"` or `"error_ratio > 0.05"`: `score`, `count`, `rate` (records
    /// a second), `errors`, `error_ratio`, `anomalies`, `anomaly_ratio`, `max_severity`, `late_records`, and of the response time
    /// in milliseconds `mean`, `p50`, `p90`, `p95`, `p99`; and `count`, `min`, `max`, `sum`, `mean`, `p50`, `p90`, `p95` and
    /// `p99` of a number that the view names, such as `"p95:bytes > 100000"`; and of a rule that the view names the records that
    /// it matched and their share, `"rule:slow_response >= 10"` and `"rule_ratio:slow_response > 0.05"`. The first one is what the
    /// alert is said to be about.
    pub when: Vec<String>,
    /// Consecutive windows of a key that must meet it before there is an alert.
    #[serde(rename = "for")]
    pub for_windows: u32,
    /// Consecutive windows of a key that must not meet it before the alert is over.
    pub close_after: u32,
    /// Whether keys that meet it while the alert is open belong to the same alert. If not, each key has alerts of its
    /// own.
    pub group: bool,
    /// How bad it is. Left out, it goes by the highest score where `when` begins with the score, and is `high`
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<AlertSeverity>,
    /// The names of the routes that are told. Without any, all are.
    pub routes: Vec<String>,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            view: "per_service".to_owned(),
            keys: BTreeMap::new(),
            when: vec!["score >= 75".to_owned()],
            for_windows: 1,
            close_after: 3,
            group: true,
            severity: None,
            routes: Vec::new(),
        }
    }
}

/// The number of an alert, in the order of the configuration.
pub type AlertNumber = u16;

/// An alert, checked and with its view looked up. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its name.
    pub name: Arc<str>,
    /// The view's name.
    pub view: Arc<str>,
    /// The view's number.
    pub view_id: ViewId,
    /// The names of the view's key fields.
    pub key_fields: Vec<Arc<str>>,
    /// By key field, the values looked at.
    pub keys: Vec<(Arc<str>, Vec<String>)>,
    /// What a window has to meet; at least one.
    pub conditions: Vec<WindowCondition>,
    /// Consecutive windows that open it.
    pub for_windows: u32,
    /// Consecutive windows that close it.
    pub close_after: u32,
    /// Keys share alerts.
    pub group: bool,
    /// How bad it is, if that does not go by the score.
    pub severity: Option<AlertSeverity>,
    /// Width of the view's windows.
    pub width_ms: u64,
    /// Distance of the view's windows.
    pub slide_ms: u64,
    /// The view's allowed lateness.
    pub lateness_ms: u64,
    /// The view's retention.
    pub retention_ms: u64,
    /// What the view scores by baselines.
    pub measures: Vec<ScoredMeasure>,
    /// A hash of what makes it this alert.
    pub configuration: Arc<str>,
    /// The hashes of the sections of the configuration that the view's windows are computed by, by name.
    pub sections: BTreeMap<Arc<str>, Arc<str>>,
}

impl Alert {
    /// The condition that the alert is said to be about.
    pub fn condition(&self) -> &WindowCondition {
        &self.conditions[0]
    }

    /// Whether any of its conditions is about scores.
    pub fn is_about_scores(&self) -> bool {
        self.conditions.iter().any(WindowCondition::is_of_score)
    }

    /// Lets the view know that its windows are looked at, and from which score on they may be worth an alert.
    pub fn watch(&self, view: &mut View) {
        view.is_watched = true;
        view.keeps_offsets = true;
        // All conditions must hold.
        let least = self.conditions.iter().filter_map(WindowCondition::least_score).max();
        view.evidence_from = [view.evidence_from, least].into_iter().flatten().min();
    }

    /// Whether the windows of this key are looked at.
    pub fn selects(&self, window: &WindowDocument) -> bool {
        self.keys.iter().all(|(field, values)| {
            let value = window.key.0.iter().find(|(name, _)| name == field).map_or("", |(_, value)| value);
            values.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(prefix) => value.starts_with(prefix),
                None => value == wanted,
            })
        })
    }

    /// When a window is gone for good.
    pub fn gone_at(&self, start: Millis) -> Millis {
        start.saturating_add(self.width_ms).saturating_add(self.retention_ms)
    }

    /// When nothing more can be said of an incident whose last window begins here: a segment that begins before it is over joins it,
    /// and that is known once as many windows as it takes cannot change any more.
    pub fn forgotten_at(&self, last: Millis) -> Millis {
        self.gone_at(self.closes_at(last) + u64::from(self.for_windows - 1) * self.slide_ms)
    }

    /// When an incident is over whose last window begins here.
    pub fn closes_at(&self, last: Millis) -> Millis {
        last + u64::from(self.close_after) * self.slide_ms + self.width_ms
    }
}

impl AlertConfig {
    /// The alert over one of these views, or all mistakes.
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn compile(&self, views: &[View]) -> Result<Alert, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(allowed) {
            let message = format!("expected 1 to 100 letters, digits, '_', '-' or '.', got \"{}\"", self.name);
            mistakes.push(Mistake::new("name", message));
        }
        for (key, count, least) in [("for", self.for_windows, 1), ("close_after", self.close_after, 1)] {
            if !(least..=MAX_WINDOWS).contains(&count) {
                mistakes.push(Mistake::new(key, format!("expected {least} to {MAX_WINDOWS} windows, got {count}")));
            }
        }
        if self.when.is_empty() {
            mistakes.push(Mistake::new("when", "expected at least one condition, such as \"score >= 75\", got none"));
        }
        let mut conditions = Vec::with_capacity(self.when.len());
        for (i, text) in self.when.iter().enumerate() {
            match WindowCondition::parse(text) {
                Ok(condition) => conditions.push(condition),
                Err(message) => mistakes.push(Mistake::new(format!("when[{i}]"), message)),
            }
        }
        let found = views.iter().position(|view| *view.name == *self.view);
        let Some(view) = found.map(|place| &views[place]) else {
            let names: Vec<&str> = views.iter().map(|view| &*view.name).collect();
            let message = format!("expected one of the views {}, got \"{}\"", names.join(", "), self.view);
            mistakes.push(Mistake::new("view", message));
            return Err(mistakes);
        };
        for (i, text) in self.when.iter().enumerate() {
            let number = WindowCondition::parse(text).ok().and_then(|condition| condition.number());
            if let Some(number) = number.filter(|of| view.numbers.iter().all(|name| **name != *of.number())) {
                let message = match number.rule() {
                    Some(rule) => format!("expected a rule that the view names in `rules`, got \"{rule}\""),
                    None => format!("expected a number that the view names in `numbers`, got \"{}\"", number.number()),
                };
                mistakes.push(Mistake::new(format!("when[{i}]"), message));
            }
        }
        for (field, values) in &self.keys {
            if !view.key.iter().any(|name| **name == **field) {
                let message = format!("expected a key field of the view ({}), got \"{field}\"", view.key.join(", "));
                mistakes.push(Mistake::new(format!("keys.{field}"), message));
            } else if values.is_empty() {
                mistakes.push(Mistake::new(format!("keys.{field}"), "expected at least one value, got none"));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Alert {
            name: self.name.as_str().into(),
            view: view.name.clone(),
            view_id: found.unwrap_or_default() as ViewId,
            key_fields: view.key.clone(),
            keys: self.keys.iter().map(|(field, values)| (field.as_str().into(), values.clone())).collect(),
            conditions,
            for_windows: self.for_windows,
            close_after: self.close_after,
            group: self.group,
            severity: self.severity,
            width_ms: view.width_ms,
            slide_ms: view.slide_ms,
            lateness_ms: view.lateness_ms,
            retention_ms: view.retention_ms,
            measures: view.scored.iter().copied().filter(|measure| measure.has_baseline()).collect(),
            configuration: self.fingerprint(view).into(),
            sections: BTreeMap::new(),
        })
    }

    /// A hash of what makes this alert the one it is: how bad it is and who is told does not. Of the view it takes what was
    /// written: where fields are in a record depends on what else is configured.
    fn fingerprint(&self, view: &View) -> String {
        let of_view = (&view.key, &view.condition_texts, view.width_ms, view.slide_ms);
        let of_alert = (&self.view, &self.keys, &self.when, self.for_windows, self.close_after, self.group);
        format!("{:016x}", hash(format!("{of_view:?}{of_alert:?}").as_bytes()) as u64)
    }
}

/// 128-bit FNV-1a: the same on every machine and in every version.
pub fn hash(bytes: &[u8]) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// The alerts of a list, or all mistakes in it, each with the alert's place in the list: `[1].when[0]`.
///
/// # Errors
/// All mistakes.
pub fn compile_alerts(alerts: &[AlertConfig], views: &[View]) -> Result<Vec<Alert>, Vec<Mistake>> {
    let (mut compiled, mut mistakes) = (Vec::with_capacity(alerts.len()), Vec::new());
    let mut names = BTreeSet::new();
    for (i, alert) in alerts.iter().enumerate() {
        match alert.compile(views) {
            Ok(alert) => compiled.push(alert),
            Err(found) => mistakes.extend(found.into_iter().map(|mistake| mistake.within(&format!("[{i}]")))),
        }
        if !names.insert(&alert.name) {
            let message = format!("two alerts are named \"{}\"; give one another name", alert.name);
            mistakes.push(Mistake::new(format!("[{i}].name"), message));
        }
    }
    if alerts.len() > usize::from(AlertNumber::MAX) {
        mistakes.push(Mistake::new("", format!("expected at most {} alerts, got {}", u16::MAX, alerts.len())));
    }
    if mistakes.is_empty() { Ok(compiled) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{RecordsConfig, Schema};
    use crate::units::Span;
    use crate::view_config::ViewConfig;

    fn views() -> Vec<View> {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        vec![ViewConfig::default().compile(Span::from_secs(1), &mut schema).unwrap()]
    }

    #[test]
    fn every_mistake_is_reported_with_its_key() {
        let bad = AlertConfig {
            name: "a b".to_owned(),
            keys: [("host".to_owned(), vec!["a".to_owned()]), ("service_name".to_owned(), vec![])].into(),
            when: vec![
                "errors > 1".to_owned(),
                "x > 1".to_owned(),
                "sum:bytes > 1".to_owned(),
                "rule:a > 1".to_owned(),
            ],
            for_windows: 0,
            ..AlertConfig::default()
        };
        let lost = AlertConfig { name: "lost".to_owned(), view: "none".to_owned(), ..AlertConfig::default() };
        let mistakes = compile_alerts(&[bad, lost.clone(), lost], &views()).unwrap_err();
        let keys: Vec<&str> = mistakes.iter().map(|mistake| &*mistake.key).collect();
        let expected = [
            "[0].name",
            "[0].for",
            "[0].when[1]",
            "[0].when[2]",
            "[0].when[3]",
            "[0].keys.host",
            "[0].keys.service_name",
            "[1].view",
            "[2].view",
            "[2].name",
        ];
        assert_eq!(keys, expected);
        assert!(mistakes[3].message.contains("got \"bytes\""), "{}", mistakes[3]);
        assert!(mistakes[4].message.contains("in `rules`, got \"a\""), "{}", mistakes[4]);
        assert!(mistakes[7].message.contains("per_service"), "{}", mistakes[7]);
    }

    #[test]
    fn what_is_told_to_whom_is_not_what_an_alert_is() {
        let alert = AlertConfig { name: "a".to_owned(), ..AlertConfig::default() };
        let louder = AlertConfig { severity: Some(AlertSeverity::Critical), ..alert.clone() };
        let longer = AlertConfig { for_windows: 2, ..alert.clone() };
        let of = |config: &AlertConfig| config.compile(&views()).unwrap().configuration;
        assert_eq!(of(&alert), of(&louder));
        assert_ne!(of(&alert), of(&longer));
    }
    #[test]
    fn another_field_of_records_makes_no_other_alert() {
        let alert = AlertConfig { name: "a".to_owned(), ..AlertConfig::default() };
        let after = |others: &[&str], condition: &str| {
            let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
            let view = |key: &str, condition: &str| ViewConfig {
                key: vec![key.to_owned()],
                conditions: vec![condition.to_owned()],
                ..ViewConfig::default()
            };
            for other in others {
                view(other, "level = ERROR").compile(Span::from_secs(1), &mut schema).unwrap();
            }
            let view = view("tenant", condition).compile(Span::from_secs(1), &mut schema).unwrap();
            alert.compile(&[view]).unwrap().configuration
        };
        assert_eq!(after(&[], "zone = a"), after(&["rack"], "zone = a"));
        assert_ne!(after(&[], "zone = a"), after(&[], "zone = b"));
    }
}
