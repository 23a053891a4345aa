//! Alerts: what is said of windows that meet a condition, and what becomes of that.
//!
//! An alert is one incident, not one window: consecutive windows of a key, and those of several keys that overlap them,
//! belong to the same one. It is a function of the documents of its view's windows, so a correction of a window may
//! amend or retract it, and a run that is made again says the same of the same ids.
//!
//! - [`config`]: how an alert is configured; [`condition`]: what a window has to meet.
//! - [`facts`]: documents to facts, on the worker that publishes them: which windows meet the condition.
//! - [`segments`]: the facts of a key to the times at which it is conspicuous.
//! - [`incidents`]: these times of all keys to incidents, and what changed since they were last spoken of.
//! - [`operator`]: the facts of all workers to one, its events to the first worker of each process.
//! - [`state`]: what a checkpoint keeps of it.
//!
//! In: window documents that are closed. Out: [`AlertEvent`]s. Nothing here fails.

pub mod condition;
pub mod config;
pub mod facts;
pub mod incidents;
pub mod operator;
pub mod segments;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::detect::BaselineState;
use crate::output::{KeyFields, RecordRange, WindowScore};
use crate::time::Millis;

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEventKind {
    /// A window met the condition for long enough.
    Opened,
    /// Further windows belong to it.
    Updated,
    /// A correction changed what was said of it, and it still holds.
    Amended,
    /// A correction left no window that meets the condition: it should not have been raised.
    Retracted,
    /// It is over.
    Closed,
}

impl AlertEventKind {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            AlertEventKind::Opened => "opened",
            AlertEventKind::Updated => "updated",
            AlertEventKind::Amended => "amended",
            AlertEventKind::Retracted => "retracted",
            AlertEventKind::Closed => "closed",
        }
    }
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// The condition holds.
    Open,
    /// It held, and no longer does.
    Closed,
    /// It never held, as is known now.
    Retracted,
}

impl AlertState {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            AlertState::Open => "open",
            AlertState::Closed => "closed",
            AlertState::Retracted => "retracted",
        }
    }
}

/// A window of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertWindow {
    /// The key of the window.
    pub key: KeyFields,
    /// Its start.
    pub start: Millis,
    /// Its end.
    pub end: Millis,
    /// The value that the condition is about.
    pub value: f64,
    /// Its score with the explanation, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<WindowScore>,
    /// Where its records are, by partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<RecordRange>,
    /// What its score was made by: the states of the baselines of all measures before the window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baselines: Vec<MeasureBaseline>,
}

/// The state that the baseline of a measure had before a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureBaseline {
    /// The measure's name in the configuration.
    pub measure: Arc<str>,
    /// The state.
    pub state: BaselineState,
}

/// An alert as it is published. All times are epoch milliseconds of event time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertDocument {
    /// The same in every run: of the alert's name and definition, and the key and start of its first window.
    pub id: String,
    /// The name in the configuration.
    pub alert: Arc<str>,
    /// The view.
    pub view: Arc<str>,
    /// How bad, as configured or by the strongest score: `critical`, `high`, `medium`, `low` or `info`.
    pub severity: Arc<str>,
    /// Where it is in its life.
    pub state: AlertState,
    /// Start of the first window that meets the condition.
    pub start: Millis,
    /// End of the last window that meets the condition.
    pub end: Millis,
    /// The window that it began with.
    pub first: AlertWindow,
    /// The window with the highest score or value.
    pub strongest: AlertWindow,
    /// The keys that take part, in order of their first windows; at most 100.
    pub keys: Vec<KeyFields>,
    /// How many keys take part.
    pub key_count: u32,
    /// How many windows meet the condition.
    pub windows: u32,
    /// The condition, and what met it, in one sentence.
    pub summary: String,
    /// How often late records corrected the windows that meet the condition.
    pub revision: u32,
    /// The event-clock time from which on all this was known: ends of windows, late corrections, and where it is closed
    /// the end of the quiet after it. The same in every run.
    pub as_of: Millis,
    /// The hash of the definitions of the alert and its view that it was raised by.
    pub configuration: Arc<str>,
    /// The hashes of the sections of the configuration that its windows were computed by: `view`, `records`,
    /// `patterns`, `rules`, `time`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sections: BTreeMap<Arc<str>, Arc<str>>,
}

impl AlertDocument {
    /// Lets go of the states of baselines, which are large, and of use only to derive the alert again.
    pub fn drop_baselines(&mut self) {
        self.first.baselines = Vec::new();
        self.strongest.baselines = Vec::new();
    }
}

/// A change of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertEvent {
    /// What happened.
    pub kind: AlertEventKind,
    /// The event-clock time at which it was said. What is said of an alert later has a greater one, or the same.
    pub as_of: Millis,
    /// The alert afterwards.
    pub alert: AlertDocument,
    /// The alert before, where it was amended or retracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<AlertDocument>,
    /// Where it was opened: the id that the same incident had before a correction changed how it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Where it was retracted: the id of the incident that it turned out to be a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

impl AlertEvent {
    /// Lets go of the states of baselines.
    pub fn drop_baselines(&mut self) {
        self.alert.drop_baselines();
        self.previous.iter_mut().for_each(AlertDocument::drop_baselines);
    }
}

/// Receives alerts.
pub trait AlertSink {
    /// Takes all that happened by a time of the event clock and was not passed in yet, in order. The same event of the same
    /// revision may come again after a restart.
    fn alerts(&mut self, events: Vec<AlertEvent>, as_of: Millis);
}

/// For runs without alerts.
impl AlertSink for std::convert::Infallible {
    fn alerts(&mut self, _: Vec<AlertEvent>, _: Millis) {
        match *self {}
    }
}
