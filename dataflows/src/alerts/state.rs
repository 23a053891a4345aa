//! What a checkpoint keeps of alerts: the facts that changed since the one before, and the folds over windows that are
//! gone, of which every checkpoint has all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Alert;
use super::facts::Fact;
use super::segments::{Fold, KeyFacts, Segment};
use crate::time::{Millis, Tick};
use crate::view::{Key, ViewId};

/// What is known of a key for an alert. Rows of the same alert, key and window replace each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertRow {
    /// The view.
    pub view: ViewId,
    /// The start of the window; 0 for windows that are gone.
    pub window: Millis,
    /// The key.
    pub key: Key,
    /// The alert's name.
    pub alert: Arc<str>,
    /// The hash of what makes it this alert.
    pub configuration: Arc<str>,
    /// What is known.
    pub value: AlertRowValue,
}

// Values are compared to tell whether something changed; none of them is NaN, which meets no condition.
impl Eq for AlertRow {}

/// What is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AlertRowValue {
    /// Of a window: the fact, if it meets the condition.
    Fact(Option<Fact>),
    /// Of windows that are gone, as of the checkpoint at `at`. Holds in that checkpoint only.
    Gone {
        /// The tick of the checkpoint.
        at: Tick,
        /// The fold over these windows.
        fold: Fold,
        /// Segments that are over and belong to an incident that is not.
        past: Vec<Segment>,
    },
}

pub(super) fn alert_rows(
    alert: &Alert,
    keys: &BTreeMap<Key, KeyFacts>,
    dirty: BTreeSet<(Key, Millis)>,
    at: Tick,
) -> Vec<AlertRow> {
    let row = |key: &Key, window, value| AlertRow {
        view: alert.view_id,
        window,
        key: key.clone(),
        alert: alert.name.clone(),
        configuration: alert.configuration.clone(),
        value,
    };
    let facts = dirty.iter().map(|(key, start)| {
        let fact = keys.get(key).and_then(|facts| facts.fact(*start)).cloned();
        row(key, *start, AlertRowValue::Fact(fact))
    });
    let gone = keys.iter().filter_map(|(key, facts)| {
        let (fold, past) = facts.gone()?;
        Some(row(key, 0, AlertRowValue::Gone { at, fold: fold.clone(), past: past.to_vec() }))
    });
    facts.chain(gone).collect()
}
