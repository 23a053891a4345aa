//! What each kind of route is sent.
//!
//! In: a [`Notice`]. Out: where to, and a JSON body. PagerDuty and Alertmanager tell a notification that comes again by its
//! `dedup_key` and its labels; webhooks get the same `id`, `kind` and `as_of` again.

use serde_json::{Value, json};

use super::config::RouteConfig;
use super::notice::{Notice, rfc3339};
use super::template;

/// A request that tells a route of a notice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub url: String,
    pub body: String,
    pub authorization: Option<String>,
}

/// The request for a notice. `None` where a route has no use for it.
pub(super) fn request(route: &RouteConfig, notice: &Notice, link: &str) -> Option<Request> {
    let to = |url: &str, body: String| Some(Request { url: url.to_owned(), body, authorization: None });
    if let Some(webhook) = &route.webhook {
        let body = match &webhook.template {
            Some(text) => template::fill(text, notice, link),
            None => webhook_body(notice, link).to_string(),
        };
        let authorization = webhook.authorization.as_ref().map(|secret| secret.expose().to_owned());
        return Some(Request { url: webhook.url.expose().to_owned(), body, authorization });
    }
    if let Some(slack) = &route.slack {
        return to(slack.url.expose(), slack_body(notice, link).to_string());
    }
    if let Some(pagerduty) = &route.pagerduty {
        let body = pagerduty_body(pagerduty.routing_key.expose(), notice, link);
        return to(pagerduty.url.expose(), body.to_string());
    }
    let alertmanager = route.alertmanager.as_ref()?;
    let url = format!("{}/api/v2/alerts", alertmanager.url.expose().trim_end_matches('/'));
    to(&url, alertmanager_body(notice, link).to_string())
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

/// Slack takes `&`, `<` and `>` for its own markup.
fn slack_body(notice: &Notice, link: &str) -> Value {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": format!("{}\n<{link}|details>", escape(&notice.title())) })
}

fn pagerduty_body(routing_key: &str, notice: &Notice, link: &str) -> Value {
    let alert = &notice.event.alert;
    let severity = match &*alert.severity {
        "critical" => "critical",
        "high" => "error",
        "medium" => "warning",
        _ => "info",
    };
    let title: String = notice.title().chars().take(1_024).collect();
    json!({
        "routing_key": routing_key,
        "dedup_key": notice.thread,
        "event_action": if notice.is_open() { "trigger" } else { "resolve" },
        "payload": {
            "summary": title,
            "source": notice.key(),
            "severity": severity,
            "timestamp": rfc3339(alert.start),
            "component": alert.view,
            "class": alert.alert,
            "custom_details": alert,
        },
        "links": if link.starts_with("http") { json!([{ "href": link, "text": "history" }]) } else { json!([]) },
    })
}

/// Labels tell alerts apart, so only what does not change is in them.
fn alertmanager_body(notice: &Notice, link: &str) -> Value {
    let alert = &notice.event.alert;
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
        "startsAt": rfc3339(alert.start),
    });
    if !notice.is_open() {
        // In the past by the wall clock, or it would still be taken as firing.
        body["endsAt"] = json!(rfc3339(alert.end.min(crate::sources::wall_clock_ms())));
    }
    if link.starts_with("http") {
        body["generatorURL"] = json!(link);
    }
    json!([body])
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::alerts::{AlertEventKind, AlertState};

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
    fn alertmanager_gets_the_same_labels_and_an_end() {
        let mut notice = notice("a");
        let opened = alertmanager_body(&notice, "/alerts/a");
        notice.event.alert.state = AlertState::Closed;
        notice.event.alert.severity = "low".into();
        let closed = alertmanager_body(&notice, "/alerts/a");
        assert_eq!(opened[0]["labels"], closed[0]["labels"]);
        assert!(opened[0].get("endsAt").is_none() && closed[0]["endsAt"].is_string());
        assert!(opened[0].get("generatorURL").is_none(), "a path is no address");
    }
}
