//! Late records and alerts: what was said too early is taken back, and in the end the alerts are those of a run in which
//! nothing was late.

use std::collections::BTreeMap;

use floodmark_dataflows::alerts::config::AlertConfig;
use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertEventKind, AlertState, AlertWindow};
use floodmark_dataflows::windows::Publish;

use crate::memory::SlowFeed;
use crate::scores::T0;
use crate::windows::{run_with, serialised};

/// A record a second after [`T0`]: when it comes, its event time, the service, and whether it is an error.
type Record = (u64, u64, u8, bool);

/// Four hours and more of two services; the second one fails for five minutes. With `is_late`, the first service is not
/// heard of for five minutes but comes later, and so do the worst minute of the failure and the one before it.
fn records(is_late: bool) -> Vec<Vec<u8>> {
    let mut records: Vec<Record> = Vec::new();
    for second in (0..260 * 60).step_by(20) {
        let minute = second / 60;
        let later = |is_held: bool| if is_late && is_held { second + 600 } else { second };
        records.push((later((190..195).contains(&minute)), second, 0, false));
        let count = match minute {
            222 => 12,
            220..225 => 3,
            _ => 1,
        };
        for _ in 0..count {
            let is_failing = (220..225).contains(&minute);
            records.push((later((221..223).contains(&minute)), second, 1, is_failing));
        }
    }
    records.sort();
    let text = |(_, second, service, is_error): Record| {
        let level = if is_error { "ERROR" } else { "INFO" };
        let at = T0 + second * 1_000;
        format!(
            r#"{{"timestamp":{at},"service_name":"s{service}","level":"{level}","response_time_ms":{}}}"#,
            10 + second % 13
        )
    };
    records.into_iter().map(|record| text(record).into_bytes()).collect()
}

fn alerts() -> [AlertConfig; 3] {
    let alert = |name: &str, when: &str, group: bool| AlertConfig {
        name: name.to_owned(),
        view: "minutes".to_owned(),
        when: vec![when.to_owned()],
        group,
        ..AlertConfig::default()
    };
    let long = AlertConfig { for_windows: 2, close_after: 2, ..alert("failing", "errors >= 5", true) };
    [alert("unusual", "score >= 50", true), long, alert("slow", "rate < 0.02", false)]
}

/// The alerts that hold or held, without what tells how they came to be known: offsets, revisions and `as_of`.
fn last(events: &[AlertEvent]) -> BTreeMap<String, AlertDocument> {
    let plain = |mut window: AlertWindow| {
        window.offsets.clear();
        window
    };
    let last: BTreeMap<_, _> = events.iter().map(|event| (event.alert.id.clone(), event.alert.clone())).collect();
    let held = last.into_iter().filter(|(_, alert)| alert.state != AlertState::Retracted);
    let plain = |alert: AlertDocument| AlertDocument {
        first: plain(alert.first),
        strongest: plain(alert.strongest),
        revision: 0,
        as_of: 0,
        ..alert
    };
    held.map(|(id, alert)| (id, plain(alert))).collect()
}

#[test]
fn late_records_leave_the_alerts_of_a_run_in_time() {
    let play = |records: Vec<Vec<u8>>, workers, publish| {
        run_with(&alerts(), &[records], workers, 4, publish, SlowFeed::new).alerts
    };
    let live = Publish::Live { open_every_ms: 5_000 };
    let in_time = play(records(false), timely::Config::thread(), live);
    let expected = last(&in_time);
    let by_name = |name: &str| expected.values().find(|alert| &*alert.alert == name);
    assert_eq!(by_name("failing").map(|alert| (alert.windows, alert.strongest.value)), Some((5, 36.0)));
    assert!(by_name("unusual").is_some(), "{expected:?}");
    for (workers, publish) in
        [(timely::Config::thread(), live), (serialised(4), live), (timely::Config::process(2), Publish::Final)]
    {
        let events = play(records(true), workers, publish);
        assert_eq!(last(&events), expected);
        let said = |name: &str, kind| events.iter().any(|event| &*event.alert.alert == name && event.kind == kind);
        assert!(said("unusual", AlertEventKind::Retracted), "silence that was none");
        assert!(said("failing", AlertEventKind::Amended), "{events:?}");
    }
}
