//! What each kind of route is sent.
//!
//! In: a [`Batch`] of notices. Out: where to, and a JSON body, within the limits of the receivers. PagerDuty and
//! Alertmanager tell a notification that comes again by its `dedup_key` and its labels, and group by themselves: PagerDuty
//! gets batches of one. Webhooks get the same `id`, `kind` and `as_of` again.

use std::collections::BTreeMap;

use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::alerts::config::{AlertConfig, AlertSeverity};
use floodmark_dataflows::time::Millis;
use serde_json::{Value, json};

use super::config::RouteConfig;
use super::groups::Batch;
use super::notice::{Notice, rfc3339};
use super::template;

/// Characters of a message to Slack. Beyond 4,000 it is cut into several, also within a link; others that take the same
/// messages stop earlier.
const SLACK_CHARS: usize = 3_000;
/// Characters of the title of one alert there.
const SLACK_TITLE_CHARS: usize = 600;
/// Characters of PagerDuty's `summary`; beyond, the event is refused.
const SUMMARY_CHARS: usize = 1_024;
/// Keys that PagerDuty is told of: an event may have 512 KB.
const DETAILED_KEYS: usize = 20;
/// After so many intervals without a word Alertmanager takes an alert for resolved, as for those of Prometheus.
const INTERVALS_HELD: u32 = 4;

/// What a request is made with, beside the batch.
pub(super) struct Sending<'a> {
    /// Where an alert is to be read; without an id, where all are.
    pub link: &'a dyn Fn(Option<&str>) -> String,
    /// What stays the same of an alert of a name.
    pub fixed: &'a dyn Fn(&str) -> Fixed,
    /// The wall clock.
    pub now_ms: Millis,
}

/// What the configuration says of an alert once and for all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fixed {
    /// How bad it is, if that does not go by the score.
    pub severity: Option<&'static str>,
    /// Each of its incidents is of one key.
    pub is_of_one_key: bool,
}

impl Fixed {
    /// What an alert is configured to.
    pub(super) fn of(alert: &AlertConfig) -> Self {
        Self { severity: alert.severity.map(AlertSeverity::name), is_of_one_key: !alert.group }
    }
}

/// A request that tells a route of a notice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub url: String,
    pub body: String,
    pub authorization: Option<String>,
}

/// The request for a batch. `None` where a route has no use for it.
pub(super) fn request(route: &RouteConfig, batch: &Batch, with: &Sending<'_>) -> Option<Request> {
    let to = |url: &str, body: String| Some(Request { url: url.to_owned(), body, authorization: None });
    let of = |notice: &Notice| (with.link)(Some(&notice.event.alert.id));
    if let Some(webhook) = &route.webhook {
        let all = || (with.link)(None);
        let body = match (&webhook.template, &batch.notices[..]) {
            (Some(text), [one]) => template::fill(text, batch, &of(one)),
            (Some(text), _) => template::fill(text, batch, &all()),
            (None, [one]) => webhook_body(one, &of(one)).to_string(),
            (None, notices) => group_body(batch, &all(), notices.iter().map(|one| webhook_body(one, &of(one)))),
        };
        let authorization = webhook.authorization.as_ref().map(|secret| secret.expose().to_owned());
        return Some(Request { url: webhook.url.expose().to_owned(), body, authorization });
    }
    if let Some(slack) = &route.slack {
        return to(slack.url.expose(), json!({ "text": slack_text(batch, with.link) }).to_string());
    }
    let notice = batch.notices.first()?;
    if let Some(pagerduty) = &route.pagerduty {
        let body = pagerduty_body(pagerduty.routing_key.expose(), notice, &of(notice));
        return to(pagerduty.url.expose(), body.to_string());
    }
    let alertmanager = route.alertmanager.as_ref()?;
    let url = format!("{}/api/v2/alerts", alertmanager.url.expose().trim_end_matches('/'));
    let held_ms = route.repeats_every().map_or(0, |every| (every * INTERVALS_HELD).as_millis() as u64);
    let alert = |notice: &Notice| {
        let fixed = (with.fixed)(&notice.event.alert.alert);
        alertmanager_alert(notice, &of(notice), fixed, with.now_ms, held_ms)
    };
    to(&url, Value::Array(batch.notices.iter().map(alert).collect()).to_string())
}

fn webhook_body(notice: &Notice, link: &str) -> Value {
    let event = &notice.event;
    json!({
        "title": notice.title(),
        "kind": notice.kind(),
        "id": notice.thread,
        "as_of": event.as_of,
        "link": link,
        "alert": event.alert,
        "previous": event.previous,
    })
}

fn group_body(batch: &Batch, link: &str, alerts: impl Iterator<Item = Value>) -> String {
    let by: BTreeMap<_, _> = batch.by.iter().cloned().collect();
    let as_of = batch.notices.iter().map(|notice| notice.event.as_of).max();
    json!({
        "title": batch.title(),
        "kind": "group",
        "id": batch.id,
        "as_of": as_of,
        "link": link,
        "group": by,
        "count": batch.notices.len(),
        "alerts": alerts.collect::<Vec<_>>(),
    })
    .to_string()
}

/// One message for all, or for as many as there is room for.
fn slack_text(batch: &Batch, link: &dyn Fn(Option<&str>) -> String) -> String {
    let lines = batch.notices.iter().map(|notice| {
        let (title, link) = (cut(&notice.title(), SLACK_TITLE_CHARS), link(Some(&notice.event.alert.id)));
        format!("{}\n{}", slack_escaped(&title), slack_link(&link, "details"))
    });
    let lines: Vec<String> = lines.collect();
    if let [one] = &lines[..] {
        return one.clone();
    }
    let mut text = slack_escaped(&cut(&batch.title(), SLACK_TITLE_CHARS));
    for (place, line) in lines.iter().enumerate() {
        let rest = slack_link(&link(None), &format!("and {} more", lines.len() - place));
        if text.chars().count() + line.chars().count() + rest.chars().count() + 2 > SLACK_CHARS {
            return format!("{text}\n{rest}");
        }
        text = format!("{text}\n{line}");
    }
    text
}

/// Slack takes `&`, `<` and `>` for its own markup.
fn slack_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Without the public address there is only a path, which Slack would not take for a link.
fn slack_link(link: &str, text: &str) -> String {
    match link.starts_with("http") {
        true => format!("<{}|{text}>", slack_escaped(link)),
        false => format!("{text}: {}", slack_escaped(link)),
    }
}

/// The first so many characters.
fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some(_) => text.chars().take(chars - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

fn pagerduty_body(routing_key: &str, notice: &Notice, link: &str) -> Value {
    let alert = &notice.event.alert;
    let severity = match &*alert.severity {
        "critical" => "critical",
        "high" => "error",
        "medium" => "warning",
        _ => "info",
    };
    let source = if notice.key().is_empty() { alert.view.to_string() } else { cut(&notice.key(), SUMMARY_CHARS) };
    let mut body = json!({
        "routing_key": routing_key,
        "dedup_key": notice.thread,
        "event_action": if notice.is_open() { "trigger" } else { "resolve" },
        "client": "Floodmark",
        "payload": {
            "summary": cut(&notice.title(), SUMMARY_CHARS),
            "source": source,
            "severity": severity,
            "timestamp": rfc3339(alert.start),
            "component": alert.view,
            "class": alert.alert,
            "custom_details": details(alert),
        },
    });
    if link.starts_with("http") {
        body["client_url"] = json!(link);
        body["links"] = json!([{ "href": link, "text": "history" }]);
    }
    body
}

/// An alert as somebody wants to see it who was woken by it: without where its records are, and with some of its keys.
fn details(alert: &AlertDocument) -> AlertDocument {
    let mut alert = alert.clone();
    alert.drop_baselines();
    alert.keys.truncate(DETAILED_KEYS);
    for window in [&mut alert.first, &mut alert.strongest] {
        window.offsets.clear();
        window.score.iter_mut().for_each(|score| score.offsets.clear());
    }
    alert
}

/// Labels tell alerts apart, so only what does not change is in them. `endsAt` is said of what is open, too: what is said
/// here counts, and not for how long this Alertmanager waits by its configuration.
fn alertmanager_alert(notice: &Notice, link: &str, fixed: Fixed, now_ms: Millis, held_ms: u64) -> Value {
    let alert = &notice.event.alert;
    // A start that is not in the past, or an end before it, would be refused; a resolved one must have ended by now.
    let start = alert.start.min(now_ms);
    let end = match notice.is_open() {
        true => now_ms + held_ms,
        false => alert.end.clamp(start, now_ms),
    };
    let mut body = json!({
        "labels": {
            "alertname": alert.alert,
            "view": alert.view,
            "incident": notice.thread,
        },
        "annotations": {
            "summary": notice.title(),
            "severity": alert.severity,
            "key": notice.key(),
            "link": link,
        },
        "startsAt": rfc3339(start),
        "endsAt": rfc3339(end),
    });
    if let Some(severity) = fixed.severity {
        body["labels"]["severity"] = json!(severity);
    }
    if fixed.is_of_one_key {
        for (name, value) in &alert.first.key.0 {
            body["labels"][label_name(name)] = json!(value);
        }
    }
    if link.starts_with("http") {
        body["generatorURL"] = json!(link);
    }
    body
}

/// The label of a key field: what a name of a label may not hold is `_`, and none takes the place of another label.
fn label_name(field: &str) -> String {
    let name = field.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
    let is_taken = ["alertname", "view", "incident", "severity"].contains(&&*name);
    if is_taken || name.starts_with(|c: char| c.is_ascii_digit()) { format!("key_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::alerts::{AlertEventKind, AlertState};
    use floodmark_dataflows::output::KeyFields;

    use super::*;
    use crate::alerts::testing::notice;

    #[test]
    fn pagerduty_resolves_what_it_was_sent() {
        let mut notice = notice("a");
        let opened = pagerduty_body("key", &notice, "https://x/alerts/a");
        notice.event.kind = AlertEventKind::Retracted;
        notice.event.alert.state = AlertState::Retracted;
        let retracted = pagerduty_body("key", &notice, "https://x/alerts/a");
        assert_eq!((&opened["event_action"], &retracted["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!(opened["dedup_key"], retracted["dedup_key"]);
        assert!(retracted["payload"]["summary"].as_str().unwrap().contains("should not have been raised"));
    }

    #[test]
    fn pagerduty_gets_no_more_than_it_takes() {
        let mut notice = notice("a");
        let alert = &mut notice.event.alert;
        alert.summary = "ä".repeat(2_000);
        alert.keys = vec![alert.keys[0].clone(); 100];
        alert.strongest.key.0.clear();
        let body = pagerduty_body("key", &notice, "/alerts/a");
        let payload = &body["payload"];
        assert_eq!(payload["summary"].as_str().unwrap().chars().count(), 1_024);
        assert_eq!(payload["source"], "per_service", "it must not be empty");
        assert_eq!(payload["custom_details"]["keys"].as_array().unwrap().len(), 20);
        assert!(body["dedup_key"].as_str().unwrap().len() <= 255);
        assert!(body.get("links").is_none() && body.get("client_url").is_none(), "a path is no address");
    }

    #[test]
    fn alertmanager_gets_the_same_labels_and_an_end() {
        let mut notice = notice("a");
        let opened = alertmanager_alert(&notice, "/alerts/a", Fixed::default(), 60_000, 240_000);
        notice.event.alert.state = AlertState::Closed;
        notice.event.alert.severity = "low".into();
        let closed = alertmanager_alert(&notice, "https://x/alerts/a", Fixed::default(), 60_000, 240_000);
        assert_eq!(opened["labels"], closed["labels"]);
        assert_eq!((&opened["startsAt"], &closed["startsAt"]), (&json!(rfc3339(10_000)), &json!(rfc3339(10_000))));
        assert_eq!((&opened["endsAt"], &closed["endsAt"]), (&json!(rfc3339(300_000)), &json!(rfc3339(20_000))));
        assert!(opened.get("generatorURL").is_none(), "a path is no address");
        assert_eq!(closed["generatorURL"], "https://x/alerts/a");
        // Records ahead of this machine's clock: never an end before the start, and none to come.
        notice.event.alert.first.key = KeyFields(
            [("service_name", "cart"), ("host.name", "h1"), ("view", "v"), ("0", "z")]
                .map(|(name, value)| (name.into(), value.to_owned()))
                .to_vec(),
        );
        let fixed = Fixed { severity: Some("critical"), is_of_one_key: true };
        let ahead = alertmanager_alert(&notice, "/alerts/a", fixed, 5_000, 240_000);
        assert_eq!((&ahead["startsAt"], &ahead["endsAt"]), (&json!(rfc3339(5_000)), &json!(rfc3339(5_000))));
        let labels = &ahead["labels"];
        assert_eq!((&labels["severity"], &labels["view"]), (&json!("critical"), &json!("per_service")));
        let of_key = ["service_name", "host_name", "key_view", "key_0"].map(|name| labels[name].as_str().unwrap());
        assert_eq!(of_key, ["cart", "h1", "v", "z"]);
    }

    #[test]
    fn slack_gets_what_fits_and_a_link_to_the_rest() {
        let mut one = notice("a");
        one.event.alert.summary = "<!channel> & more".to_owned();
        let link = |id: Option<&str>| format!("https://x/alerts/{}?a=1&b=2", id.unwrap_or_default());
        let text = |count: usize| {
            slack_text(&Batch::new(&RouteConfig::default(), Vec::new(), vec![one.clone(); count]), &link)
        };
        assert_eq!(text(1), "[high] errors: &lt;!channel&gt; &amp; more\n<https://x/alerts/0123?a=1&amp;b=2|details>");
        let many = text(100);
        assert!(many.chars().count() <= 3_000, "{}", many.chars().count());
        let listed = many.matches("|details>").count();
        assert!(listed > 10 && many.ends_with(&format!("|and {} more>", 100 - listed)), "{many}");
        one.event.alert.summary = "x".repeat(10_000);
        let long = slack_text(&Batch::new(&RouteConfig::default(), Vec::new(), vec![one]), &|_| "/alerts/a".to_owned());
        assert!(long.chars().count() < 1_000 && long.ends_with("details: /alerts/a"), "{long}");
    }

    #[test]
    fn a_group_is_one_message_that_names_each_alert() {
        let route = |text: &str| -> RouteConfig { toml::from_str(&format!("name = \"r\"\n{text}")).unwrap() };
        let mut over = notice("b");
        (over.event.kind, over.event.alert.state) = (AlertEventKind::Closed, AlertState::Closed);
        over.event.alert.id = "4567".into();
        let body = |route: &RouteConfig| -> Value {
            let by = vec![("alert".to_owned(), "errors".to_owned())];
            let batch = Batch::new(route, by, vec![notice("a"), over.clone()]);
            let link = |id: Option<&str>| format!("/alerts/{}", id.unwrap_or_default());
            let with = Sending { link: &link, fixed: &|_| Fixed::default(), now_ms: 60_000 };
            serde_json::from_str(&request(route, &batch, &with).unwrap().body).unwrap()
        };
        let hook = body(&route("webhook.url = \"http://x\""));
        assert_eq!(
            (&hook["kind"], &hook["count"], &hook["group"]["alert"]),
            (&json!("group"), &json!(2), &json!("errors"))
        );
        assert_eq!(hook["title"], "2 alerts: 1 opened, 1 closed (alert=errors)");
        assert_eq!(
            (&hook["alerts"][0]["kind"], &hook["alerts"][1]["link"]),
            (&json!("opened"), &json!("/alerts/4567"))
        );
        let text = body(&route("slack.url = \"http://x\""))["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("2 alerts") && text.contains("is over") && text.contains("/alerts/4567"), "{text}");
        let template = r#"webhook.url = "http://x"
            webhook.template = '{"t":"{title}","n":{count},"g":"{group}","all":"{titles}","id":"{id}"}'"#;
        let filled = body(&route(template));
        assert_eq!((&filled["n"], &filled["g"], &filled["id"]), (&json!(2), &json!("alert=errors"), &json!("0123")));
        assert_eq!(filled["all"].as_str().unwrap().lines().count(), 2);
    }
}
