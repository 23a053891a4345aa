//! How the time model and the views are configured, and the checks that turn a [`ViewConfig`] into a [`View`].
//!
//! In: what was written in the configuration. Out: values that hold every invariant the operators rely on, or *all*
//! the mistakes, each with its key.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::Schema;
use crate::numbers::{MAX_NUMBERS, NumberSource, RULE};
use crate::rules::Condition;
use crate::scores::ScoredMeasure;
use crate::time::greatest_common_divisor;
use crate::units::Span;
use crate::view::View;

/// Windows that one record may belong to: `window / slide`. Each late record is a correction of all of them.
const MAX_WINDOWS_PER_RECORD: u64 = 1_440;

/// Panes kept for one key: `(window + retention) / pane`.
const MAX_PANES_PER_KEY: u64 = 100_000;

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Mistake {
    /// The key within the part that was checked: dotted, list items as `[0]`.
    pub key: String,
    /// What was expected, what came and what to do.
    pub message: String,
}

impl Mistake {
    /// A mistake at a key.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }

    /// The same mistake seen from the part that contains the checked one.
    pub fn within(mut self, part: &str) -> Self {
        let separator = if self.key.is_empty() || self.key.starts_with('[') { "" } else { "." };
        self.key = format!("{part}{separator}{}", self.key);
        self
    }
}

/// The event clock: how time moves in the data, and what happens to a partition that does not move it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeConfig {
    /// The step of the event clock, 10ms to 1m. Live results are this far behind the data. A smaller tick means fresher
    /// results and more work per record; every window, slide, lateness and retention is a multiple of it.
    pub tick: Span,
    /// A record whose event time is ahead of its arrival by more than this goes to the dead letters (`clock_ahead`) and
    /// does not move the event clock.
    pub max_future: Span,
    /// A partition that has been at its end for this long no longer holds back the others.
    pub idle_after: Span,
    /// A partition that could not be read for this long no longer holds back the others; its records come later, as
    /// corrections.
    pub stall_after: Span,
    /// A partition that is this far ahead of the slowest one is not read on until that one has caught up. Bounds
    /// memory when partitions are skewed.
    pub max_ahead: Span,
}

impl Default for TimeConfig {
    fn default() -> Self {
        Self {
            tick: Span::from_secs(1),
            max_future: Span::from_secs(60),
            idle_after: Span::from_secs(5),
            stall_after: Span::from_secs(300),
            max_ahead: Span::from_secs(60),
        }
    }
}

impl TimeConfig {
    /// All mistakes in it.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.tick < Span::from_millis(10) || self.tick > Span::from_secs(60) {
            mistakes.push(Mistake::new("tick", format!("expected 10ms to 1m, got {}; 1s suits most logs", self.tick)));
        }
        if self.max_ahead < self.tick {
            let message = format!("expected at least one tick ({}), got {}", self.tick, self.max_ahead);
            mistakes.push(Mistake::new("max_ahead", message));
        }
        mistakes.extend(
            [("idle_after", self.idle_after), ("stall_after", self.stall_after)]
                .into_iter()
                .filter(|(_, span)| span.as_millis() == 0)
                .map(|(key, span)| Mistake::new(key, format!("expected more than zero, got {span}"))),
        );
        mistakes
    }
}

/// A view: windows per key over the records that meet some conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ViewConfig {
    /// Its name in documents and in the API: letters, digits, `_`, `-` and `.`, not beginning with `__`.
    pub name: String,
    /// The fields that make up the key: names of record fields, nested ones with dots. A record without one of them
    /// has the empty string there. `pattern` is the message's pattern (the template of its first cut), `pattern_id` the
    /// id of that; both need `patterns.enabled`.
    pub key: Vec<String>,
    /// The width of a window. A multiple of the tick.
    pub window: Span,
    /// The distance between the starts of windows, for sliding windows. A multiple of the tick, at most the width. Left
    /// out, windows are tumbling: the distance is the width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slide: Option<Span>,
    /// Conditions that a record must meet to be in the view, such as `"status_code >= 500"` or `"level in ERROR, FATAL"`.
    /// All of them must hold; without any, every record is in the view.
    #[serde(rename = "where")]
    pub conditions: Vec<String>,
    /// Fields with numbers of which the windows keep count, minimum, maximum, sum, mean and percentiles: names as in `key`,
    /// at most 8. A record without the field adds nothing; one that has something else there than a number from -9e12 to
    /// 9e12 is a dead letter (`wrong_type`), in all views. Another list starts the view empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<String>,
    /// Rules (`rules.rule.name`) of which the windows count the records that they match, at most 8; for scores and alerts.
    /// Another list starts the view empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// How long after its end a window stays provisional. A record that comes later still corrects it, and raises its
    /// revision. A multiple of the tick.
    pub allowed_lateness: Span,
    /// How long after its end a window is kept, and can be corrected. Decides the memory used: one entry per key and
    /// window kept. A multiple of the tick, at least the width and at least the allowed lateness.
    pub retention: Span,
    /// Keys kept per partition. Records of further keys count under the key `__other__`, so that sums hold and a field
    /// with endless values cannot fill the memory.
    pub max_keys: usize,
    /// A key without records for this long (of the event clock) makes room for another, and what was learned of it is
    /// forgotten.
    pub forget_after: Span,
    /// What of its windows is scored: how unusual it is against the key's earlier windows, 0 to 100, once the window is
    /// closed. Rates count when they rise and when they fall; the others when they rise. `new` is for views with `pattern`
    /// in their key: how unusual it is that a pattern comes for the first time. Of `numbers`, a statistic and the name, such
    /// as `mean:bytes`: `count`, `min`, `max`, `sum`, `mean`, `p50`, `p90`, `p95` or `p99`, when it rises and when it
    /// falls. Of `rules`, `rule:NAME` for the records that it matches, when they become more and when fewer, and
    /// `rule_ratio:NAME` for their share, when it rises. Changing it begins to learn anew.
    /// Empty: nothing is.
    pub score: Vec<ScoredMeasure>,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            name: "per_service".to_owned(),
            key: vec!["service_name".to_owned()],
            window: Span::from_secs(10),
            slide: None,
            conditions: Vec::new(),
            numbers: Vec::new(),
            rules: Vec::new(),
            allowed_lateness: Span::from_secs(60),
            retention: Span::from_secs(3_600),
            max_keys: 100_000,
            forget_after: Span::from_secs(7 * 86_400),
            score: vec![ScoredMeasure::Rate, ScoredMeasure::ErrorRatio, ScoredMeasure::P95],
        }
    }
}

impl ViewConfig {
    /// The rate of each pattern of each service, by the minute, and whether a pattern is new.
    pub fn per_pattern() -> Self {
        Self {
            name: "per_pattern".to_owned(),
            key: vec!["service_name".to_owned(), "pattern".to_owned()],
            window: Span::from_secs(60),
            score: vec![ScoredMeasure::New, ScoredMeasure::Rate],
            ..Self::default()
        }
    }

    /// The distance between the starts of windows.
    pub fn slide(&self) -> Span {
        self.slide.unwrap_or(self.window)
    }

    /// All mistakes in it, given the tick of the event clock.
    pub fn mistakes(&self, tick: Span) -> Vec<Mistake> {
        let mut mistakes = Vec::from_iter(self.name_mistakes());
        mistakes.extend(self.key_mistakes());
        mistakes.extend(self.window_mistakes(tick.as_millis().max(1)));
        for (i, measure) in self.score.iter().enumerate().filter(|(i, measure)| self.score[..*i].contains(measure)) {
            let message = format!("\"{}\" is named twice; remove one", measure.name());
            mistakes.push(Mistake::new(format!("score[{i}]"), message));
        }
        mistakes.extend(self.number_mistakes());
        mistakes.extend(self.news_mistakes());
        if self.max_keys == 0 {
            mistakes.push(Mistake::new("max_keys", "expected at least 1, got 0"));
        }
        if self.forget_after < self.retention {
            let message = format!("expected at least the retention ({}), got {}", self.retention, self.forget_after);
            mistakes.push(Mistake::new("forget_after", message));
        }
        mistakes
    }

    fn number_mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (list, names) in [("numbers", &self.numbers), ("rules", &self.rules)] {
            if names.len() > MAX_NUMBERS {
                mistakes.push(Mistake::new(list, format!("expected at most {MAX_NUMBERS}, got {}", names.len())));
            }
            for (i, name) in names.iter().enumerate().filter(|(i, name)| names[..*i].contains(name)) {
                mistakes.push(Mistake::new(format!("{list}[{i}]"), format!("\"{name}\" is named twice; remove one")));
            }
        }
        for (i, name) in self.numbers.iter().enumerate().filter(|(_, name)| name.starts_with(RULE)) {
            let message = format!("expected a field, got \"{name}\"; rules are named in `rules`");
            mistakes.push(Mistake::new(format!("numbers[{i}]"), message));
        }
        for (i, measure) in self.score.iter().enumerate() {
            let ScoredMeasure::Number(of) = measure else { continue };
            let (what, list, name, names) = match of.rule() {
                Some(rule) => ("rule", "rules", rule, &self.rules),
                None => ("number", "numbers", of.number(), &self.numbers),
            };
            if !names.iter().any(|named| named == name) {
                let message = format!("\"{}\" is of a {what} that `{list}` does not name; add it there", of.name());
                mistakes.push(Mistake::new(format!("score[{i}]"), message));
            }
        }
        mistakes
    }

    fn news_mistakes(&self) -> Option<Mistake> {
        let place = self.score.iter().position(|measure| *measure == ScoredMeasure::New)?;
        let message = if !self.key.iter().any(|field| field == "pattern") {
            "\"new\" says whether a pattern is new, and needs \"pattern\" among the fields of the key"
        } else if self.slide() != self.window {
            "\"new\" is for tumbling windows; leave out the slide"
        } else if self.score.len() == 1 {
            "\"new\" is scored in the first window of a pattern only; add a measure for the others, such as \"rate\""
        } else {
            return None;
        };
        Some(Mistake::new(format!("score[{place}]"), message))
    }

    fn name_mistakes(&self) -> Option<Mistake> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let message = if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(allowed) {
            format!("expected 1 to 100 letters, digits, '_', '-' or '.', got \"{}\"", self.name)
        } else if self.name.starts_with("__") {
            format!("names beginning with \"__\" are reserved, got \"{}\"; choose another", self.name)
        } else {
            return None;
        };
        Some(Mistake::new("name", message))
    }

    fn key_mistakes(&self) -> Vec<Mistake> {
        if self.key.is_empty() {
            return vec![Mistake::new("key", "expected at least one field, such as [\"service_name\"], got none")];
        }
        let mut seen = BTreeSet::new();
        let mut mistakes = Vec::new();
        for (i, field) in self.key.iter().enumerate() {
            if field.is_empty() {
                mistakes.push(Mistake::new(format!("key[{i}]"), "expected the name of a field, got an empty string"));
            } else if !seen.insert(field) {
                mistakes.push(Mistake::new(format!("key[{i}]"), format!("\"{field}\" is named twice; remove one")));
            }
        }
        mistakes
    }

    fn window_mistakes(&self, tick_ms: u64) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let spans = [
            ("window", self.window, true),
            ("slide", self.slide(), true),
            ("allowed_lateness", self.allowed_lateness, false),
            ("retention", self.retention, true),
            ("forget_after", self.forget_after, true),
        ];
        for (key, span, above_zero) in spans {
            if key == "slide" && self.slide.is_none() {
                continue;
            }
            if above_zero && span.as_millis() == 0 {
                mistakes.push(Mistake::new(key, format!("expected more than zero, got {span}")));
            } else if !span.as_millis().is_multiple_of(tick_ms) {
                let tick = Span::from_millis(tick_ms);
                mistakes.push(Mistake::new(key, format!("expected a multiple of time.tick ({tick}), got {span}")));
            }
        }
        if !mistakes.is_empty() {
            return mistakes;
        }
        let (width, slide) = (self.window.as_millis(), self.slide().as_millis());
        if slide > width {
            let message = format!("expected at most the window ({}), got {}", self.window, self.slide());
            mistakes.push(Mistake::new("slide", format!("{message}: records between windows would be in none")));
        } else if width / slide > MAX_WINDOWS_PER_RECORD {
            let message = format!("a record would be in {} windows, {MAX_WINDOWS_PER_RECORD} at most", width / slide);
            mistakes.push(Mistake::new("slide", format!("{message}; choose a larger slide or a smaller window")));
        }
        let least = self.window.max(self.allowed_lateness);
        if self.retention < least {
            let message = format!("expected at least {least} (the larger of window and allowed_lateness), got ");
            mistakes.push(Mistake::new("retention", format!("{message}{}", self.retention)));
        }
        let pane = greatest_common_divisor(width, slide);
        let panes = (width + self.retention.as_millis()) / pane;
        if panes > MAX_PANES_PER_KEY {
            let message = format!("{panes} panes of {} would be kept per key, ", Span::from_millis(pane));
            let advice = format!("{MAX_PANES_PER_KEY} at most; shorten the retention or choose wider windows");
            mistakes.push(Mistake::new("retention", message + &advice));
        }
        mistakes
    }

    /// The view, with its fields looked for in records from now on; or all mistakes.
    pub fn compile(&self, tick: Span, schema: &mut Schema) -> Result<View, Vec<Mistake>> {
        let mut mistakes = self.mistakes(tick);
        let mut key_fields = Vec::with_capacity(self.key.len());
        for (i, field) in self.key.iter().enumerate().filter(|(_, field)| !field.is_empty()) {
            match schema.field(field) {
                Ok(field) => key_fields.push(field),
                Err(error) => mistakes.push(Mistake::new(format!("key[{i}]"), error.to_string())),
            }
        }
        let mut conditions = Vec::with_capacity(self.conditions.len());
        for (i, text) in self.conditions.iter().enumerate() {
            match Condition::compile(text, schema) {
                Ok(condition) => conditions.push(condition),
                Err(error) => mistakes.push(Mistake::new(format!("where[{i}]"), error.to_string())),
            }
        }
        let mut number_sources = Vec::with_capacity(self.numbers.len() + self.rules.len());
        for (i, name) in self.numbers.iter().enumerate() {
            match schema.number(name) {
                Ok(field) => number_sources.push(NumberSource::Field(field)),
                Err(error) => mistakes.push(Mistake::new(format!("numbers[{i}]"), error.to_string())),
            }
        }
        for (i, name) in self.rules.iter().enumerate() {
            match schema.rule(name) {
                Ok(place) => number_sources.push(NumberSource::Rule(place)),
                Err(error) => mistakes.push(Mistake::new(format!("rules[{i}]"), error.to_string())),
            }
        }
        let of_rules = self.rules.iter().map(|name| format!("{RULE}{name}").into());
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(View {
            name: self.name.as_str().into(),
            key: self.key.iter().map(|field| field.as_str().into()).collect(),
            key_fields,
            conditions,
            condition_texts: self.conditions.clone(),
            width_ms: self.window.as_millis(),
            slide_ms: self.slide().as_millis(),
            lateness_ms: self.allowed_lateness.as_millis(),
            retention_ms: self.retention.as_millis(),
            max_keys: self.max_keys,
            forget_after_ms: self.forget_after.as_millis(),
            numbers: self.numbers.iter().map(|name| name.as_str().into()).chain(of_rules).collect(),
            number_sources,
            scored: self.score.clone(),
            keeps_offsets: !self.score.is_empty(),
            is_watched: false,
            evidence_from: None,
        })
    }
}

/// The views of a list, or all mistakes in it, each with the view's place in the list: `[1].window`.
pub fn compile_views(views: &[ViewConfig], tick: Span, schema: &mut Schema) -> Result<Vec<View>, Vec<Mistake>> {
    let (mut compiled, mut mistakes) = (Vec::with_capacity(views.len()), Vec::new());
    let mut names = BTreeSet::new();
    for (i, view) in views.iter().enumerate() {
        match view.compile(tick, schema) {
            Ok(view) => compiled.push(view),
            Err(found) => mistakes.extend(found.into_iter().map(|mistake| mistake.within(&format!("[{i}]")))),
        }
        if !names.insert(&view.name) {
            let message = format!("two views are named \"{}\"; give one another name", view.name);
            mistakes.push(Mistake::new(format!("[{i}].name"), message));
        }
    }
    if views.len() > usize::from(u16::MAX) {
        mistakes.push(Mistake::new("", format!("expected at most {} views, got {}", u16::MAX, views.len())));
    }
    if mistakes.is_empty() { Ok(compiled) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::RecordsConfig;
    use crate::record::FieldRef;

    fn schema() -> Schema {
        Schema::new(&RecordsConfig::default()).unwrap()
    }

    const TICK: Span = Span::from_secs(1);

    fn keys(view: &ViewConfig) -> Vec<String> {
        view.mistakes(TICK).into_iter().map(|mistake| mistake.key).collect()
    }

    fn seconds(s: u64) -> Span {
        Span::from_secs(s)
    }

    #[test]
    fn defaults_compile() {
        assert_eq!(TimeConfig::default().mistakes(), []);
        let view = ViewConfig::default().compile(TICK, &mut schema()).unwrap();
        assert_eq!((view.width_ms, view.slide_ms, view.pane_ms()), (10_000, 10_000, 10_000));
        assert_eq!(view.key_fields, [FieldRef::ServiceName]);
    }

    #[test]
    fn every_mistake_is_reported() {
        let view = ViewConfig {
            name: "__mine".to_owned(),
            key: vec!["a".to_owned(), "a".to_owned()],
            window: Span::from_millis(1_500),
            max_keys: 0,
            ..ViewConfig::default()
        };
        assert_eq!(keys(&view), ["name", "key[1]", "window", "max_keys"]);
    }

    #[test]
    fn spans_fit_each_other() {
        let view = |window, slide, allowed_lateness, retention| ViewConfig {
            window: seconds(window),
            slide: Some(seconds(slide)),
            allowed_lateness: seconds(allowed_lateness),
            retention: seconds(retention),
            ..ViewConfig::default()
        };
        assert_eq!(keys(&view(60, 10, 60, 60)), [""; 0]);
        assert_eq!(keys(&view(60, 7, 60, 60)), [""; 0], "the slide need not divide the width");
        assert_eq!(keys(&view(10, 20, 60, 60)), ["slide"]);
        assert_eq!(keys(&view(10, 0, 60, 60)), ["slide"]);
        assert_eq!(keys(&view(10, 10, 60, 59)), ["retention"]);
        assert_eq!(keys(&view(120, 10, 60, 60)), ["retention"]);
        assert_eq!(keys(&view(86_400, 1, 60, 86_400)), ["slide", "retention"]);
    }

    #[test]
    fn names_are_unique() {
        let views = [ViewConfig::default(), ViewConfig::default()];
        let mistakes = compile_views(&views, TICK, &mut schema()).unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert_eq!(mistakes[0].key, "[1].name");
    }

    #[test]
    fn fields_and_conditions_are_resolved() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let view = ViewConfig {
            key: texts(&["cloud.region", "level"]),
            conditions: texts(&["status_code >= 500", "method = GET"]),
            ..ViewConfig::default()
        };
        let compiled = view.compile(TICK, &mut schema()).unwrap();
        assert_eq!((compiled.key_fields.len(), compiled.conditions.len()), (2, 2));
        let wrong = ViewConfig { key: texts(&["a..b"]), conditions: texts(&["level", "path ~ x"]), ..view };
        let keys: Vec<_> = wrong.compile(TICK, &mut schema()).unwrap_err().into_iter().map(|m| m.key).collect();
        assert_eq!(keys, ["key[0]", "where[0]", "where[1]"]);
    }

    #[test]
    fn numbers_are_few_and_named_before_they_are_scored() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let score = |name| vec![ScoredMeasure::named(name).unwrap()];
        let view = ViewConfig { numbers: names(&["bytes", "a.b"]), score: score("p95:a.b"), ..ViewConfig::default() };
        let compiled = view.compile(TICK, &mut schema()).unwrap();
        assert_eq!((compiled.numbers.len(), compiled.number_sources.len()), (2, 2));
        let wrong = ViewConfig { numbers: names(&["a", "a"]), score: score("sum:bytes"), ..view.clone() };
        assert_eq!(keys(&wrong), ["numbers[1]", "score[0]"]);
        let many = ViewConfig { numbers: (0..9).map(|n| format!("n{n}")).collect(), score: vec![], ..view.clone() };
        assert_eq!(keys(&many), ["numbers"]);
        let text = ViewConfig { numbers: names(&["message"]), score: vec![], ..view };
        let mistakes = text.compile(TICK, &mut schema()).unwrap_err();
        assert_eq!(mistakes[0].to_string(), "numbers[0]: \"message\" is not a field of numbers");
    }

    #[test]
    fn rules_are_found_by_their_names() {
        use crate::rules::{Rules, RulesConfig};
        let mut schema = schema();
        Rules::compile(&RulesConfig::default(), &mut schema).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let score = |name| vec![ScoredMeasure::named(name).unwrap()];
        let rules = names(&["slow_response"]);
        let view = ViewConfig {
            numbers: names(&["bytes"]),
            rules,
            score: score("rule:slow_response"),
            ..ViewConfig::default()
        };
        let compiled = view.compile(TICK, &mut schema).unwrap();
        assert_eq!((&*compiled.numbers[1], compiled.number_sources[1]), ("rule:slow_response", NumberSource::Rule(3)));
        let wrong = ViewConfig { numbers: names(&["rule:slow_response"]), rules: vec![], ..view.clone() };
        assert_eq!(keys(&wrong), ["numbers[0]", "score[0]"]);
        let unknown = ViewConfig { rules: names(&["slow"]), score: vec![], ..view };
        let mistakes = unknown.compile(TICK, &mut schema).unwrap_err();
        let expected = "rules[0]: there is no rule named \"slow\", there are error_level, ";
        assert!(mistakes[0].to_string().starts_with(expected), "{}", mistakes[0]);
    }

    #[test]
    fn mistakes_carry_their_path() {
        let mistake = Mistake::new("key[1]", "m").within("[0]").within("view");
        assert_eq!(mistake.to_string(), "view[0].key[1]: m");
    }
}
