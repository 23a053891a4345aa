//! What each kind of route is sent.
//!
//! In: a [`Batch`] of notices. Out: where to, and a JSON body. PagerDuty and Alertmanager tell a notification that comes
//! again by its `dedup_key` and its labels, and group by themselves: theirs are batches of one. Webhooks get the same `id`,
//! `kind` and `as_of` again.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::RouteConfig;
use super::groups::Batch;
use super::notice::{Notice, rfc3339};
use super::template;

/// A request that tells a route of a notice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub url: String,
    pub body: String,
    pub authorization: Option<String>,
}

/// The request for a batch. `None` where a route has no use for it. `link` says where an alert is to be read, or all.
pub(super) fn request(route: &RouteConfig, batch: &Batch, link: impl Fn(Option<&str>) -> String) -> Option<Request> {
    let to = |url: &str, body: String| Some(Request { url: url.to_owned(), body, authorization: None });
    let of = |notice: &Notice| link(Some(&notice.event.alert.id));
    if let Some(webhook) = &route.webhook {
        let body = match (&webhook.template, &batch.notices[..]) {
            (Some(text), [one]) => template::fill(text, batch, &of(one)),
            (Some(text), _) => template::fill(text, batch, &link(None)),
            (None, [one]) => webhook_body(one, &of(one)).to_string(),
            (None, notices) => group_body(batch, &link(None), notices.iter().map(|one| webhook_body(one, &of(one)))),
        };
        let authorization = webhook.authorization.as_ref().map(|secret| secret.expose().to_owned());
        return Some(Request { url: webhook.url.expose().to_owned(), body, authorization });
    }
    if let Some(slack) = &route.slack {
        let lines: Vec<String> = batch.notices.iter().map(|notice| slack_text(notice, &of(notice))).collect();
        let text = if lines.len() == 1 { lines.concat() } else { format!("{}\n{}", batch.title(), lines.join("\n")) };
        return to(slack.url.expose(), json!({ "text": text }).to_string());
    }
    let notice = batch.notices.first()?;
    let link = &of(notice);
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

/// Slack takes `&`, `<` and `>` for its own markup.
fn slack_text(notice: &Notice, link: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("{}\n<{link}|details>", escape(&notice.title()))
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
            serde_json::from_str(&request(route, &batch, link).unwrap().body).unwrap()
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
