//! The options of alerts and routes, and their checks.

use std::collections::BTreeSet;
use std::time::Duration;

use floodmark_dataflows::alerts::config::AlertConfig;
use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::template;
use crate::units::{Secret, Span};

/// How often Alertmanager is told of what is open, where nothing is configured.
const ALERTMANAGER_REPEATS: Duration = Duration::from_secs(60);

/// How alerts are kept and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// Says in the log what would be sent, and sends nothing.
    pub dry_run: bool,
    /// An alert whose end lies longer ago than this is recorded and not sent, so that catching up wakes nobody for last night.
    pub notify_max_age: Span,
    /// Alerts that the API remembers with their histories; beyond, the oldest that are not open are forgotten.
    pub keep: usize,
    /// Notifications of a route that may wait for it; beyond, the oldest are given up, loudly.
    pub max_waiting: usize,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { dry_run: false, notify_max_age: Span::from_secs(3_600), keep: 10_000, max_waiting: 10_000 }
    }
}

/// Somebody who is told of alerts: exactly one of `webhook`, `slack`, `pagerduty` and `alertmanager`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    /// Its name, for `routes` of alerts.
    pub name: String,
    /// JSON to any address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookConfig>,
    /// An incoming webhook of Slack, or what takes the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack: Option<SlackConfig>,
    /// The Events API v2 of PagerDuty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pagerduty: Option<PagerDutyConfig>,
    /// The API v2 of Prometheus Alertmanager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<AlertmanagerConfig>,
    /// How long a request may take.
    pub timeout: Span,
    /// An alert that stays open is sent again after this long. Left out, it is not, but for Alertmanager, which is told every
    /// minute. What Alertmanager has not heard of for four times as long it takes for resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_interval: Option<Span>,
    /// What notifications that are sent together have in common: `alert`, `view`, `severity` or key fields of views, whose value
    /// is that of the alert's first window. Empty: all of the route are one group. For `webhook` and `slack`; the others group
    /// by themselves.
    pub group_by: Vec<String>,
    /// How long the first notification of a group waits for others; `0s` sends each by itself at once. Left out, 10s for `webhook` and
    /// `slack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_wait: Option<Span>,
    /// How long after a group was sent what is new in it waits for others. Left out, 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_interval: Option<Span>,
}

/// The names of the routes that are told of an alert: those that it names, or all.
pub fn routes_of(alert: &AlertConfig, all: &[RouteConfig]) -> Vec<String> {
    match alert.routes.is_empty() {
        true => all.iter().map(|route| route.name.clone()).collect(),
        false => alert.routes.clone(),
    }
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            webhook: None,
            slack: None,
            pagerduty: None,
            alertmanager: None,
            timeout: Span::from_secs(10),
            repeat_interval: None,
            group_by: vec!["alert".to_owned()],
            group_wait: None,
            group_interval: None,
        }
    }
}

/// JSON to any address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// The address.
    pub url: Secret,
    /// The body, a JSON text in which `{title}`, `{kind}`, `{id}`, `{thread}` (the incident's, the same in all that is said of
    /// it), `{as_of}`, `{alert}`, `{view}`, `{severity}`, `{state}`, `{summary}`,
    /// `{key}`, `{value}`, `{start}`, `{end}`, `{windows}`, `{key_count}` and `{link}` stand for what they name, escaped as within
    /// a JSON string. Of a group they are those of its most severe alert, but for `{title}` and `{link}`; `{group}` is what its
    /// alerts have in common, `{count}` their number, `{titles}` a line for each. Left out, the body is the event with the alert as the API shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The value of the header `Authorization`, if there is to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Secret>,
}

/// An incoming webhook of Slack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlackConfig {
    /// The address, which is a secret.
    pub url: Secret,
}

/// The Events API v2 of PagerDuty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PagerDutyConfig {
    /// The integration key of a service.
    pub routing_key: Secret,
    /// The address.
    pub url: Secret,
}

impl Default for PagerDutyConfig {
    fn default() -> Self {
        Self { routing_key: Secret::default(), url: Secret::from("https://events.pagerduty.com/v2/enqueue".to_owned()) }
    }
}

/// Prometheus Alertmanager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// The address, such as `http://127.0.0.1:9093`.
    pub url: Secret,
}

impl RouteConfig {
    /// Its address, with what it is called in the configuration.
    pub fn url(&self) -> Option<(&'static str, &Secret)> {
        let urls = [
            self.webhook.as_ref().map(|route| ("webhook.url", &route.url)),
            self.slack.as_ref().map(|route| ("slack.url", &route.url)),
            self.pagerduty.as_ref().map(|route| ("pagerduty.url", &route.url)),
            self.alertmanager.as_ref().map(|route| ("alertmanager.url", &route.url)),
        ];
        let mut there = urls.into_iter().flatten();
        let first = there.next();
        first.filter(|_| there.next().is_none())
    }

    /// How often what stays open is sent again, if it is. Alertmanager has to hear of it.
    pub fn repeats_every(&self) -> Option<Duration> {
        let of_alertmanager = self.alertmanager.as_ref().map(|_| ALERTMANAGER_REPEATS);
        self.repeat_interval.map(|interval| interval.0).or(of_alertmanager)
    }

    /// Whether the receiver keeps incidents open until it is told of their end. It is told of every end: that of an
    /// incident that it does not know it ignores.
    pub fn keeps_open(&self) -> bool {
        self.pagerduty.is_some() || self.alertmanager.is_some()
    }

    /// Whether notifications wait for each other. PagerDuty and Alertmanager do that on their own, incident by incident.
    pub fn groups(&self) -> bool {
        let is_off = self.group_wait.is_some_and(|wait| wait.as_millis() == 0);
        !is_off && (self.webhook.is_some() || self.slack.is_some())
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let groups_itself = self.pagerduty.is_some() || self.alertmanager.is_some();
        for (key, is_set) in
            [("group_wait", self.group_wait.is_some()), ("group_interval", self.group_interval.is_some())]
        {
            if groups_itself && is_set {
                mistakes.push(Mistake::new(key, "expected none here: PagerDuty and Alertmanager group by themselves"));
            }
        }
        if self.name.is_empty() {
            mistakes.push(Mistake::new("name", "expected a name, got none"));
        }
        match self.url() {
            None => {
                let message = "expected exactly one of webhook, slack, pagerduty and alertmanager";
                mistakes.push(Mistake::new("", message));
            }
            // The address may hold a secret, so it is not repeated.
            Some((key, url)) => match reqwest::Url::parse(url.expose()) {
                Ok(url) if ["http", "https"].contains(&url.scheme()) && url.host_str().is_some() => {}
                _ => mistakes.push(Mistake::new(key, "expected an address that begins with https:// or http://")),
            },
        }
        if self.pagerduty.as_ref().is_some_and(|route| route.routing_key.expose().is_empty()) {
            mistakes.push(Mistake::new("pagerduty.routing_key", "expected the integration key of a service, got none"));
        }
        if let Some(template) = self.webhook.as_ref().and_then(|route| route.template.as_ref())
            && let Err(message) = template::check(template)
        {
            mistakes.push(Mistake::new("webhook.template", message));
        }
        if self.timeout.as_millis() == 0 {
            mistakes.push(Mistake::new("timeout", "expected more than 0s"));
        }
        if self.repeat_interval.is_some_and(|interval| interval < Span::from_secs(1)) {
            mistakes.push(Mistake::new("repeat_interval", "expected at least 1s"));
        }
        mistakes
    }
}

/// What notifications can be grouped by, beside key fields of views.
const GROUPS: [&str; 3] = ["alert", "view", "severity"];

/// All mistakes in routes, and in what alerts say of them. `keys` are the key fields of all views.
pub fn route_mistakes(routes: &[RouteConfig], alerts: &[AlertConfig], keys: &BTreeSet<&str>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut names = BTreeSet::new();
    for (i, route) in routes.iter().enumerate() {
        mistakes.extend(route.mistakes().into_iter().map(|mistake| mistake.within(&format!("route[{i}]"))));
        let is_unknown = |name: &&String| !GROUPS.contains(&name.as_str()) && !keys.contains(name.as_str());
        if let Some(name) = route.group_by.iter().find(is_unknown) {
            let known: Vec<&str> = GROUPS.into_iter().chain(keys.iter().copied()).collect();
            let message = format!("expected some of {}, got \"{name}\"", known.join(", "));
            mistakes.push(Mistake::new(format!("route[{i}].group_by"), message));
        }
        if !names.insert(&*route.name) {
            let message = format!("two routes are named \"{}\"; give one another name", route.name);
            mistakes.push(Mistake::new(format!("route[{i}].name"), message));
        }
    }
    for (i, alert) in alerts.iter().enumerate() {
        for name in alert.routes.iter().filter(|name| !names.contains(name.as_str())) {
            let known: Vec<&str> = names.iter().copied().collect();
            let message = format!("expected names of routes ({}), got \"{name}\"", known.join(", "));
            mistakes.push(Mistake::new(format!("alert[{i}].routes"), message));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_the_key_and_no_secret() {
        let to = |url: &str| Some(WebhookConfig { url: Secret::from(url.to_owned()), ..Default::default() });
        let routes = [
            RouteConfig { name: "a".into(), webhook: to("ftp://token@host"), ..Default::default() },
            RouteConfig { name: "a".into(), webhook: to("http://host/x"), ..Default::default() },
            RouteConfig { name: "c".into(), ..Default::default() },
            RouteConfig {
                name: "d".into(),
                webhook: to("http://host/x"),
                group_by: ["severity", "region", "team"].map(str::to_owned).into(),
                ..Default::default()
            },
        ];
        let alert = AlertConfig { routes: vec!["e".into()], ..Default::default() };
        let mistakes: Vec<String> =
            route_mistakes(&routes, &[alert], &["region"].into()).iter().map(ToString::to_string).collect();
        let begin = ["route[0].webhook.url", "route[1].name", "route[2]", "route[3].group_by", "alert[0].routes"];
        assert_eq!(mistakes.len(), begin.len(), "{mistakes:?}");
        assert!(mistakes.iter().zip(begin).all(|(mistake, begin)| mistake.starts_with(begin)), "{mistakes:?}");
        assert!(!mistakes.concat().contains("token"));
    }
}
