//! Alerts for tests.

use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertEventKind, AlertState, AlertWindow};
use floodmark_dataflows::output::KeyFields;

use super::notice::Notice;

/// That an alert of this service was opened.
pub(super) fn notice(service: &str) -> Notice {
    let key = KeyFields(vec![("service_name".into(), service.to_owned())]);
    let window = AlertWindow {
        key: key.clone(),
        start: 10_000,
        end: 20_000,
        value: 7.0,
        score: None,
        offsets: Vec::new(),
        baselines: Vec::new(),
    };
    let alert = AlertDocument {
        id: "0123".to_owned(),
        alert: "errors".into(),
        view: "per_service".into(),
        severity: "high".into(),
        state: AlertState::Open,
        start: 10_000,
        end: 20_000,
        first: window.clone(),
        strongest: window,
        keys: vec![key],
        key_count: 1,
        windows: 1,
        summary: "errors >= 5".to_owned(),
        revision: 0,
        as_of: 20_000,
        configuration: "f00".into(),
        sections: Default::default(),
    };
    let event = AlertEvent {
        kind: AlertEventKind::Opened,
        as_of: 20_000,
        alert,
        previous: None,
        replaces: None,
        replaced_by: None,
    };
    Notice { event, thread: "0123".to_owned() }
}
