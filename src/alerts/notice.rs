//! A notification: an event of an alert on its way to a route, in words.

use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertEventKind, AlertState};
use floodmark_dataflows::output::KeyFields;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

/// A notification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    pub event: AlertEvent,
    /// By what receivers know the incident: the id that it had when it was first sent.
    pub thread: String,
}

impl Notice {
    /// The key of the strongest window.
    pub fn key(&self) -> String {
        shown(&self.event.alert.strongest.key)
    }

    /// What happened, as documents name it.
    pub fn kind(&self) -> &'static str {
        match self.event.kind {
            AlertEventKind::Opened => "opened",
            AlertEventKind::Updated => "updated",
            AlertEventKind::Amended => "amended",
            AlertEventKind::Retracted => "retracted",
            AlertEventKind::Closed => "closed",
        }
    }

    /// Where the alert is in its life, as documents name it.
    pub fn state(&self) -> &'static str {
        self.event.alert.state.name()
    }

    /// Whether it holds.
    pub fn is_open(&self) -> bool {
        self.event.alert.state == AlertState::Open
    }

    /// Whether it is an amendment that reads like what was said before: another revision, or a band that moved a little.
    pub fn changes_nothing(&self) -> bool {
        let AlertEvent { kind: AlertEventKind::Amended, alert, previous: Some(before), .. } = &self.event else {
            return false;
        };
        let told = |alert: &AlertDocument| {
            let AlertDocument { id, severity, state, start, end, keys, key_count, windows, summary, .. } =
                alert.clone();
            let strongest = (alert.strongest.key.clone(), alert.strongest.start, alert.strongest.value.to_bits());
            ((id, severity, state, start, end), (keys, key_count, windows, summary), strongest)
        };
        told(alert) == told(before)
    }

    /// One line.
    pub fn title(&self) -> String {
        let alert = &self.event.alert;
        let about = format!("[{}] {}", alert.severity, alert.alert);
        match (self.event.kind, &self.event.previous) {
            (AlertEventKind::Retracted, _) => match &self.event.replaced_by {
                Some(id) => format!("{about} retracted: late data showed that it is a part of {id}"),
                None => format!("{about} retracted: late data showed that it should not have been raised"),
            },
            (AlertEventKind::Amended, Some(previous)) => {
                format!("{about} amended by late data: {}", changes(previous, alert))
            }
            (AlertEventKind::Amended, None) => format!("{about} amended by late data: {}", alert.summary),
            (AlertEventKind::Closed, _) => format!("{about} is over: {}", alert.summary),
            (AlertEventKind::Updated, _) => format!("{about} goes on: {}", alert.summary),
            (AlertEventKind::Opened, _) => format!("{about}: {}", alert.summary),
        }
    }
}

/// What of an alert changed, in words.
fn changes(before: &AlertDocument, after: &AlertDocument) -> String {
    let mut changes = Vec::new();
    if before.strongest.value != after.strongest.value {
        changes.push(format!("{} instead of {}", after.strongest.value, before.strongest.value));
    }
    if before.windows != after.windows {
        changes.push(format!("{} windows instead of {}", after.windows, before.windows));
    }
    if before.state != after.state {
        changes.push("open again".to_owned());
    }
    if changes.is_empty() { after.summary.clone() } else { format!("{} ({})", changes.join(", "), after.summary) }
}

fn shown(key: &KeyFields) -> String {
    let fields: Vec<String> = key.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fields.join(", ")
}

/// A time by RFC 3339.
pub(super) fn rfc3339(ms: Millis) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |time| time.to_string())
}
