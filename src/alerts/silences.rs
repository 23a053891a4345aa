//! Silences: for a time, nobody is told of alerts that match.

use std::collections::BTreeMap;

use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// Its number.
    pub id: u64,
    /// The name of the alert; one that ends in `*` stands for all that begin so. Absent for all alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// Key fields with their values, which may end in `*`. All keys that an alert lists must match.
    #[serde(default)]
    pub keys: BTreeMap<String, String>,
    /// Until when, by the wall clock, in milliseconds since the epoch.
    pub until: Millis,
    /// Why.
    #[serde(default)]
    pub comment: String,
}

impl Silence {
    /// Whether nobody is told of an alert at this time of the wall clock.
    pub fn matches(&self, alert: &AlertDocument, now_ms: Millis) -> bool {
        let is_of_key = |(field, wanted): (&String, &String)| {
            alert.keys.iter().all(|key| key.0.iter().any(|(name, value)| **name == **field && fits(wanted, value)))
        };
        now_ms < self.until
            && self.alert.as_ref().is_none_or(|wanted| fits(wanted, &alert.alert))
            && self.keys.iter().all(is_of_key)
    }
}

/// Whether a text is what is wanted, or begins as is wanted.
pub(super) fn fits(wanted: &str, value: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::testing::notice;

    #[test]
    fn a_silence_is_for_what_matches_and_ends() {
        let alert = notice("checkout").event.alert;
        let silence = |name: Option<&str>, service: Option<&str>| Silence {
            id: 1,
            alert: name.map(str::to_owned),
            keys: service.map(|value| ("service_name".to_owned(), value.to_owned())).into_iter().collect(),
            until: 100,
            comment: String::new(),
        };
        assert!(silence(None, None).matches(&alert, 99));
        assert!(!silence(None, None).matches(&alert, 100));
        assert!(silence(Some("err*"), Some("check*")).matches(&alert, 0));
        assert!(!silence(Some("other"), None).matches(&alert, 0));
        assert!(!silence(None, Some("cart")).matches(&alert, 0));
    }
}
