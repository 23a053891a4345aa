//! Sends what waits in the ledger, a task for each route.
//!
//! In: notices in order, put together into groups. Out: requests; what was taken is noted, and not sent again. On error: a
//! request that fails, is answered with 408, 429 or 5xx, or not in time, is sent again after a growing while, or when the
//! answer says (`Retry-After`), and those behind it wait; any other answer, redirections among them, gives the notice
//! up, loudly. An answer that is lost, and a crash before it is noted, repeat one notice at the most; PagerDuty and
//! Alertmanager know it for the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodmark_dataflows::alerts::AlertEventKind;
use floodmark_dataflows::time::Millis;

use super::config::RouteConfig;
use super::groups::{Batch, Groups, group_of};
use super::routes::{Request, Sending, request};
use super::{Shared, report};
use crate::sources::wall_clock_ms;

/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often to look for alerts to be repeated.
const LOOK: Duration = Duration::from_secs(1);
/// A receiver is not left alone for longer, whatever it asks for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Open alerts that Alertmanager is told of at once.
const ALERTMANAGER_AT_ONCE: usize = 64;

/// What became of notifications.
#[derive(Debug, Default)]
pub struct Counters {
    /// Taken by their receivers.
    pub sent: AtomicU64,
    /// Sent again after a failure.
    pub retried: AtomicU64,
    /// Given up since the receiver refused them, or too many waited.
    pub dead: AtomicU64,
    /// Not sent since a silence matched.
    pub silenced: AtomicU64,
    /// Not sent since they were about what is over for long.
    pub too_old: AtomicU64,
}

enum Outcome {
    Taken,
    /// Not now, and why; after so long, if the receiver said.
    Later(String, Option<Duration>),
    Refused(String),
}

/// Sends to a route until the process ends.
pub(super) async fn send_to(shared: Arc<Shared>, route: RouteConfig, client: reqwest::Client) {
    let mut sent: BTreeMap<String, Instant> = BTreeMap::new();
    let mut groups = Groups::default();
    let mut wait = FIRST_WAIT;
    loop {
        let news = shared.news.notified();
        let Some((numbers, mut batch)) = next(&shared, &route, &mut groups) else {
            repeat(&shared, &route, &client, &mut sent).await;
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            continue;
        };
        let counters = &shared.counters;
        batch.notices.retain(|notice| {
            // Or the receiver would take the incident for open for ever.
            if route.keeps_open() && !notice.is_open() {
                return true;
            }
            if !shared.is_fresh(notice) {
                let id = &notice.event.alert.id;
                tracing::info!(route = %route.name, alert = %id, "recorded and not sent: it is over for long");
                counters.too_old.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            let is_silenced = shared.is_silenced(notice);
            counters.silenced.fetch_add(u64::from(is_silenced), Ordering::Relaxed);
            !is_silenced
        });
        if !batch.notices.is_empty() {
            match send(&shared, &route, &client, &batch).await {
                Outcome::Taken => {
                    counters.sent.fetch_add(1, Ordering::Relaxed);
                    for notice in &batch.notices {
                        sent.insert(notice.event.alert.id.clone(), Instant::now());
                    }
                }
                Outcome::Later(why, after) => {
                    tracing::warn!(route = %route.name, %why, "a notification is sent again later");
                    counters.retried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(jittered(wait).max(after.unwrap_or_default())).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
                Outcome::Refused(why) => {
                    for notice in &batch.notices {
                        let (id, title) = (&notice.event.alert.id, notice.title());
                        tracing::error!(route = %route.name, alert = %id, %title, %why, "a notification was given up");
                    }
                    counters.dead.fetch_add(1, Ordering::Relaxed);
                }
            }
            groups.sent(&batch, Instant::now());
        } else {
            groups.passed(&batch);
        }
        wait = FIRST_WAIT;
        let noted = shared.ledger.lock().done(&route.name, &numbers);
        if let Err(error) = noted {
            report(&error);
            tokio::time::sleep(LONGEST_WAIT).await;
        }
    }
}

/// What is to be sent now. Notices beyond the bound are given up.
fn next(shared: &Shared, route: &RouteConfig, groups: &mut Groups) -> Option<(Vec<u64>, Batch)> {
    let mut ledger = shared.ledger.lock();
    let waiting = ledger.waiting.get(&route.name)?;
    let beyond = waiting.len().saturating_sub(shared.config.max_waiting);
    if beyond > 0 {
        let numbers: Vec<u64> = waiting.keys().take(beyond).copied().collect();
        tracing::error!(route = %route.name, count = beyond, "notifications were given up: too many wait");
        shared.counters.dead.fetch_add(beyond as u64, Ordering::Relaxed);
        if let Err(error) = ledger.done(&route.name, &numbers) {
            report(&error);
        }
    }
    let waiting = ledger.waiting.get(&route.name)?;
    groups.due(route, waiting.iter().map(|(number, notice)| (*number, notice)), Instant::now())
}

/// Sends what is open again, where its time has come. What fails is left to the next time.
async fn repeat(shared: &Shared, route: &RouteConfig, client: &reqwest::Client, sent: &mut BTreeMap<String, Instant>) {
    let Some(interval) = route.repeats_every() else { return };
    let mut due = Vec::new();
    {
        let ledger = shared.ledger.lock();
        let open = |id: &String| {
            let known = ledger.alerts.get(id)?;
            let (_, notice) = known.notices.back().filter(|(_, notice)| notice.is_open())?;
            Some(notice.clone())
        };
        // What was open at the start was sent by the run before.
        for (id, known) in &ledger.alerts {
            if known.notices.back().is_some_and(|(_, notice)| notice.is_open() && shared.tells(&route.name, notice)) {
                sent.entry(id.clone()).or_insert_with(Instant::now);
            }
        }
        sent.retain(|id, _| open(id).is_some());
        due.extend(sent.iter().filter(|(_, at)| at.elapsed() >= interval).filter_map(|(id, _)| open(id)));
    }
    let mut batches: Vec<Batch> = Vec::new();
    for mut notice in due {
        notice.event.kind = AlertEventKind::Updated;
        sent.insert(notice.event.alert.id.clone(), Instant::now());
        if !shared.is_fresh(&notice) || shared.is_silenced(&notice) {
            continue;
        }
        let by = if route.groups() { group_of(route, &notice) } else { Vec::new() };
        let has_room = |batch: &Batch| match route.alertmanager {
            Some(_) => batch.notices.len() < ALERTMANAGER_AT_ONCE,
            None => route.groups() && batch.by == by,
        };
        match batches.iter_mut().find(|batch| has_room(batch)) {
            Some(batch) => batch.notices.push(notice),
            None => batches.push(Batch::new(route, by, vec![notice])),
        }
    }
    for batch in batches {
        match send(shared, route, client, &batch).await {
            Outcome::Taken => _ = shared.counters.sent.fetch_add(1, Ordering::Relaxed),
            Outcome::Later(why, _) | Outcome::Refused(why) => {
                tracing::warn!(route = %route.name, %why, "a repeated notification was not taken");
            }
        }
    }
}

fn request_for(shared: &Shared, route: &RouteConfig, batch: &Batch) -> Option<Request> {
    let severity = |alert: &str| shared.severities.get(alert).copied();
    request(route, batch, &Sending { link: &|id| shared.link(id), severity: &severity, now_ms: wall_clock_ms() })
}

async fn send(shared: &Shared, route: &RouteConfig, client: &reqwest::Client, batch: &Batch) -> Outcome {
    let Some(to) = request_for(shared, route, batch) else { return Outcome::Taken };
    let mut builder = client.post(&to.url).timeout(route.timeout.0);
    builder = builder.header("content-type", "application/json").body(to.body);
    if let Some(authorization) = &to.authorization {
        builder = builder.header("authorization", authorization);
    }
    match builder.send().await {
        Ok(answer) if answer.status().is_success() => Outcome::Taken,
        Ok(answer) => {
            let status = answer.status();
            let why = format!("the receiver answered {status}");
            if status.is_redirection() {
                return Outcome::Refused(format!("{why}; give the route the address that it is to be sent to"));
            }
            let is_passing = status.is_server_error() || [408, 429].contains(&status.as_u16());
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            let after = after.and_then(|text| retry_after(text, wall_clock_ms()));
            if is_passing { Outcome::Later(why, after) } else { Outcome::Refused(why) }
        }
        // The address may hold a secret.
        Err(error) if error.is_builder() => Outcome::Refused(chain(&error.without_url())),
        Err(error) => Outcome::Later(chain(&error.without_url()), None),
    }
}

/// How long a receiver wants to be left alone: seconds, or a date as in HTTP.
fn retry_after(text: &str, now_ms: Millis) -> Option<Duration> {
    let text = text.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            Duration::from_millis(u64::try_from(at).ok()?.saturating_sub(now_ms))
        }
    };
    Some(asked.min(LONGEST_RETRY_AFTER))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Between half of it and all, so that several that failed together do not come together again.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + f64::from(wall_clock_ms() as u32 % 512) / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_when_in_seconds_or_by_a_date() {
        let at = 1_445_412_480_000;
        assert_eq!(retry_after("30", at), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:20 GMT", at), Some(Duration::from_secs(20)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:20:00 GMT", at), Some(Duration::ZERO));
        assert_eq!(retry_after("999999999", at), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after("soon", at), None);
    }
}
