//! Alerts derived again: the records of a window are read once more, counted, and scored against the state that the
//! baselines had before it.
//!
//! ```text
//! alert ──► offsets ──► source ──► decode, rules ──► content of the window ──► score ──► the same?
//!   └── baselines ────────────────────────────────────────────────────────────┘
//! ```
//!
//! In: an alert as it is published, and the configuration. Out: [`Derived`], a window each. On error: what cannot be
//! read, and what of the configuration is another one, is named. Nothing is written.
//!
//! Which records count is told by the offsets alone: of a key, what is between the first and the last record that the
//! window took is in it, if its event time is, since a partition's clock never falls; what came too late lies behind.
//!
//! - [`read`]: parts of a log, read once more. [`find`]: an alert, from a running process or from the disk.

pub mod find;
pub mod read;

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail};
use floodmark_dataflows::aggregate::{Accumulator, Aggregate};
use floodmark_dataflows::alerts::config::Alert;
use floodmark_dataflows::alerts::{AlertDocument, AlertWindow};
use floodmark_dataflows::corrections::Measures;
use floodmark_dataflows::decode::Decoder;
use floodmark_dataflows::detect::Baseline;
use floodmark_dataflows::output::{WindowDocument, WindowScore, WindowState};
use floodmark_dataflows::patterns::{Cutter, OTHER_CUT};
use floodmark_dataflows::scores::{ScoredMeasure, score_again};
use floodmark_dataflows::view::{Key, OTHER, View};
use serde::Serialize;

use crate::config::Config;
use read::read_ranges;

/// A window of an alert, derived again.
#[derive(Debug, Serialize)]
pub struct Derived {
    /// What it is of the alert: `first` or `strongest`.
    pub role: &'static str,
    /// The window as the alert has it.
    pub window: AlertWindow,
    /// Records read.
    pub read: u64,
    /// Records that are in the window.
    pub matched: u64,
    /// The window as it was counted now, with its score where the alert has one.
    pub now: WindowDocument,
    /// The value of the condition now.
    pub value: Option<f64>,
    /// What is not as the alert says it; empty where all is.
    pub differences: Vec<String>,
}

impl Derived {
    /// Whether everything is as the alert says.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What an alert is derived with.
pub struct Deriver<'a> {
    config: &'a Config,
    compiled: crate::config::Compiled,
    alert: &'a AlertDocument,
    view: usize,
    /// Its definition, if the configuration still has it.
    definition: Option<usize>,
}

impl<'a> Deriver<'a> {
    /// For an alert.
    ///
    /// # Errors
    /// If the configuration has no such view, or is wrong.
    pub fn new(config: &'a Config, alert: &'a AlertDocument) -> anyhow::Result<Self> {
        let compiled = config.compile().map_err(|mistakes| anyhow!("{}", mistakes[0]))?;
        let view = compiled.views.iter().position(|view| view.name == alert.view);
        let view = view.with_context(|| format!("the configuration has no view \"{}\"", alert.view))?;
        let definition = compiled.alerts.iter().position(|definition| definition.name == alert.alert);
        Ok(Self { config, compiled, alert, view, definition })
    }

    fn view(&self) -> &View {
        &self.compiled.views[self.view]
    }

    fn definition(&self) -> Option<&Alert> {
        self.definition.map(|place| &self.compiled.alerts[place])
    }

    /// The parts of the configuration that are others than when the alert was raised.
    pub fn changed(&self) -> Vec<String> {
        let now = self.config.sections(&self.alert.view);
        let of = |(section, hash): &(&std::sync::Arc<str>, &std::sync::Arc<str>)| now.get(*section) != Some(*hash);
        let mut changed: Vec<String> =
            self.alert.sections.iter().filter(of).map(|(section, _)| section.to_string()).collect();
        if self.definition().is_none_or(|definition| definition.configuration != self.alert.configuration) {
            changed.push("alert".to_owned());
        }
        changed
    }

    /// The windows to derive: the first, and the strongest if that is another one.
    pub fn windows(&self) -> Vec<(&'static str, &'a AlertWindow)> {
        let AlertDocument { first, strongest, .. } = self.alert;
        let is_one = (first.start, &first.key) == (strongest.start, &strongest.key);
        if is_one { vec![("first", first)] } else { vec![("first", first), ("strongest", strongest)] }
    }

    /// Reads the records of a window and makes its score again. `progress` hears the offset that was read last, by the
    /// place of the range.
    ///
    /// # Errors
    /// If it cannot be read, or the alert does not say what it would take.
    pub fn derive(
        &self,
        role: &'static str,
        window: &AlertWindow,
        mut progress: impl FnMut(usize, u64),
    ) -> anyhow::Result<Derived> {
        let view = self.view();
        let values: Vec<&str> = window.key.0.iter().map(|(_, value)| value.as_str()).collect();
        let is_other = |value: &&str| *value == OTHER || *value == format!("{OTHER_CUT:016x}");
        if values.iter().any(is_other) {
            bail!(
                "this window gathers the keys that found no room ({OTHER}): which ones these are its offsets do not tell"
            );
        }
        let key = Key::from_values(&values);
        let mut decoder = Decoder::new(self.compiled.schema.clone());
        let mut cutter = self.config.patterns.enabled.then(Cutter::default);
        let mut records = Accumulator::default();
        let (mut read, mut matched) = (0, 0);
        let max_future_ms = self.config.time.max_future.as_millis();
        let mut ends: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        read_ranges(self.config, &window.offsets, |place, raw| {
            read += 1;
            progress(place, raw.offset);
            let end = ends.entry(place).or_insert((raw.offset, raw.offset));
            end.1 = raw.offset;
            let Ok(mut record) = decoder.decode(raw.bytes) else { return };
            let time = record.timestamp_ms;
            let is_ahead = raw.appended_ms.is_some_and(|arrival| time > arrival.saturating_add(max_future_ms));
            let is_in = (window.start..window.end).contains(&time) && !is_ahead;
            if !is_in {
                return;
            }
            if let Some(cutter) = &mut cutter {
                let message = record.message();
                let cut = cutter.cut(&message);
                (record.pattern_id, record.pattern) = (Some(cut.id), Some(cut));
            }
            if view.conditions.iter().all(|condition| condition.holds(&record)) {
                let fields = view.key_fields.iter().map(|field| record.text(*field).unwrap_or_default().into_owned());
                if Key::from_values(&fields.collect::<Vec<_>>()) == key {
                    matched += 1;
                    records.add(&record, self.compiled.rules.judge(&record), &view.number_sources);
                }
            }
        })?;
        let content = match matched {
            0 => Aggregate { first_ms: window.start, last_ms: window.start, ..Aggregate::default() },
            _ => records.take(),
        };
        let state = WindowState { is_final: true, as_of_ms: window.end, ..WindowState::default() };
        let mut now = WindowDocument::new(view, &key, window.start, &Measures::of(&content), state);
        let mut differences = Vec::new();
        for (place, range) in window.offsets.iter().enumerate() {
            let found = ends.get(&place);
            for (what, offset) in [("first", range.first), ("last", range.last)] {
                if !found.is_some_and(|(first, last)| *first == offset || *last == offset) {
                    let (topic, partition) = (&range.topic, range.partition);
                    differences.push(format!(
                        "{topic}:{partition}: the {what} record of the window was at offset {offset}, and no record \
                         begins there now"
                    ));
                }
            }
        }
        let is_about_scores = self.definition().is_none_or(Alert::is_about_scores);
        if let Some(then) = window.score.as_ref().filter(|_| is_about_scores) {
            let baselines: Option<Vec<Baseline>> = window.baselines.iter().map(|of| of.state.baseline()).collect();
            let baselines = baselines.context("the states of the baselines are not whole")?;
            let names: Vec<&str> = window.baselines.iter().map(|of| &*of.measure).collect();
            let expected = view.scored.iter().filter(|measure| measure.has_baseline()).map(|measure| measure.name());
            let expected: Vec<&str> = expected.collect();
            if baselines.is_empty() && !expected.is_empty() {
                bail!(
                    "the alert has no states of baselines: it is not about high scores, or was raised by an older version"
                );
            }
            if names != expected {
                bail!(
                    "the alert is about {}, and the view \"{}\" now scores {}",
                    names.join(", "),
                    view.name,
                    expected.join(", ")
                );
            }
            let news = then.measures.iter().find(|of| *of.measure == *ScoredMeasure::New.name());
            let score = score_again(view, window.start, &content, &baselines, then.stalled, news.map(|of| of.expected))
                .context("the view scores nothing any more")?;
            compare(then, &score, &mut differences);
            now.score = Some(WindowScore { offsets: window.offsets.clone(), ..score });
        }
        let value = self.definition().and_then(|definition| definition.condition().value(&now));
        match value {
            Some(value) if is_near(value, window.value) => {}
            Some(value) => differences.push(format!("the value of the condition was {}, and is {value}", window.value)),
            None if self.definition().is_some() => differences.push("there is no value to compare now".to_owned()),
            None if now.score.is_some() => {}
            None => bail!("the configuration has no alert \"{}\", so what it compares is not known", self.alert.alert),
        }
        Ok(Derived { role, window: window.clone(), read, matched, now, value, differences })
    }
}

/// Equal but for the last bits, which text may lose.
fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

fn compare(then: &WindowScore, now: &WindowScore, differences: &mut Vec<String>) {
    if then.score != now.score {
        differences.push(format!("the score was {}, and is {}", then.score, now.score));
    }
    for was in &then.measures {
        let Some(is) = now.measures.iter().find(|is| is.measure == was.measure) else {
            differences.push(format!("{} had a value, and has none", was.measure));
            continue;
        };
        let name = &was.measure;
        if was.score != is.score {
            differences.push(format!("the score of {name} was {}, and is {}", was.score, is.score));
        }
        for (what, was, is) in [
            ("", was.actual.unwrap_or(f64::NAN), is.actual.unwrap_or(f64::NAN)),
            ("expected ", was.expected, is.expected),
            ("lowest usual ", was.low, is.low),
            ("highest usual ", was.high, is.high),
            ("rarity of ", was.rarity, is.rarity),
        ] {
            if !(is_near(was, is) || was.is_nan() && is.is_nan()) {
                differences.push(format!("the {what}{name} was {was}, and is {is}"));
            }
        }
    }
    for is in now.measures.iter().filter(|is| !then.measures.iter().any(|was| was.measure == is.measure)) {
        differences.push(format!("{} had no value, and has one", is.measure));
    }
}
