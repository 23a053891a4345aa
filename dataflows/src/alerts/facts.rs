//! Documents to facts: which closed windows meet the condition of an alert.
//!
//! In: window documents, on the worker that publishes them. Out: a fact for each alert and window that it looks at, also
//! where the window does not meet the condition: it may have done so before. Open windows say nothing; windows that lack
//! records meet nothing, nor do those without any whose score was withdrawn: whether they have a document depends on
//! when somebody looked.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::{Alert, AlertNumber};
use crate::detect::Band;
use crate::output::{Evidence, WindowDocument, WindowScore};
use crate::time::Millis;
use crate::view::Key;

/// That a window meets a condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The value that the condition is about.
    pub value: f64,
    /// The [`WindowScore`] as JSON, which every format can carry.
    pub score: Option<Arc<str>>,
    /// What it takes to derive the window again.
    pub evidence: Option<Arc<Evidence>>,
    /// The window's revision.
    pub revision: u32,
    /// The event-clock time from which on this was known: the window's end, or that of its last late correction.
    pub as_of: Millis,
}

impl Fact {
    /// The score with its explanation.
    pub fn window_score(&self) -> Option<WindowScore> {
        self.score.as_ref().and_then(|json| sonic_rs::from_str(json).ok())
    }
}

/// What is known of a window now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactUpdate {
    /// The alert.
    pub alert: AlertNumber,
    /// The key of the window.
    pub key: Key,
    /// The start of the window.
    pub start: Millis,
    /// `None` where it does not meet the condition.
    pub fact: Option<Fact>,
    /// Late records corrected the window.
    pub is_late: bool,
}

/// The facts of a document, for each alert that looks at its window.
pub fn facts<'a>(alerts: &'a [Arc<Alert>], window: &'a WindowDocument) -> impl Iterator<Item = FactUpdate> + 'a {
    let is_closed = window.end <= window.as_of;
    let of_view = move |(_, alert): &(AlertNumber, &Arc<Alert>)| {
        is_closed && *alert.view == *window.view && alert.selects(window)
    };
    (0..).zip(alerts).filter(of_view).map(move |(number, alert)| {
        let values: Vec<&str> = window.key.0.iter().map(|(_, value)| value.as_str()).collect();
        let is_late = window.is_final && window.as_of > window.end + alert.lateness_ms;
        let mut met = alert.conditions.iter().map(|condition| condition.met_by(window));
        let value = met.next().flatten();
        let value = value.filter(|_| !window.partial && !is_withdrawn(window) && met.all(|value| value.is_some()));
        let fact = value.map(|value| Fact {
            value,
            score: window.score.as_ref().and_then(|score| sonic_rs::to_string(score).ok()).map(Arc::from),
            evidence: window.evidence.clone().filter(|of| of.baselines.is_empty() || alert.is_about_scores()),
            revision: window.revision,
            as_of: if is_late { window.as_of } else { window.end },
        });
        FactUpdate { alert: number, key: Key::from_values(&values), start: window.start, fact, is_late }
    })
}

fn is_withdrawn(window: &WindowDocument) -> bool {
    window.count == 0 && window.score.as_ref().is_none_or(|score| Band::of(score.score) == Band::Normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Aggregate;
    use crate::alerts::config::AlertConfig;
    use crate::corrections::Measures;
    use crate::decode::{RecordsConfig, Schema};
    use crate::output::WindowState;
    use crate::units::Span;
    use crate::view_config::ViewConfig;

    #[test]
    fn a_withdrawn_window_meets_nothing() {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let view = ViewConfig::default().compile(Span::from_secs(1), &mut schema).unwrap();
        let few = AlertConfig { name: "few".to_owned(), when: vec!["count < 3".to_owned()], ..AlertConfig::default() };
        let alerts = [Arc::new(few.compile(std::slice::from_ref(&view)).unwrap())];
        let state = WindowState { is_final: true, as_of_ms: 100_000, ..WindowState::default() };
        let mut window =
            WindowDocument::new(&view, &Key::from_values(&["a"]), 0, &Measures::of(&Aggregate::default()), state);
        let score = |score| WindowScore {
            score,
            level: "INFO".into(),
            learning: false,
            stalled: false,
            measures: Vec::new(),
            offsets: Vec::new(),
        };
        for (shown, value) in [(Some(score(75)), Some(0.0)), (Some(score(20)), None), (None, None)] {
            window.score = shown;
            let facts: Vec<_> = facts(&alerts, &window).collect();
            assert_eq!(facts[0].fact.as_ref().map(|fact| fact.value), value);
        }
    }
}
