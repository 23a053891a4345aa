//! Sends what waits in the ledger, a task for each route.
//!
//! In: notices in order, put together into groups. Out: requests; what was taken is noted, and not sent again. On error: a
//! request that fails, is answered with 408, 429 or 5xx, or not in time, is sent again after a growing while, or when the
//! answer says (`Retry-After`), and those behind it wait; any other answer, redirections among them, gives the notice
//! up, loudly. An answer that is lost, and a crash before it is noted, repeat one notice at the most; PagerDuty and
//! Alertmanager know it for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodmark_dataflows::alerts::AlertEventKind;
use floodmark_dataflows::time::Millis;

use super::config::RouteConfig;
use super::fates::{Fate, Judge, Why};
use super::groups::{Batch, Groups, group_of};
use super::ledger::Ledger;
use super::notice::Notice;
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
/// Stands for what may be a secret.
const REDACTED: &str = "[redacted]";
/// Bytes of a receiver's refusal that are read, and characters of it that are shown.
const ANSWER_BYTES: usize = 4_096;
const ANSWER_CHARS: usize = 200;
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
    /// Not sent, or not at first, since a silence matched.
    pub silenced: AtomicU64,
    /// Not sent, or not at first, since they were about what is over for long.
    pub too_old: AtomicU64,
}

enum Outcome {
    Taken,
    /// Not now, and why; after so long, if the receiver said.
    Later(String, Option<Duration>),
    Refused(String),
}

/// A route with what its task remembers.
struct Sender {
    shared: Arc<Shared>,
    route: RouteConfig,
    client: reqwest::Client,
    groups: Groups,
    /// When it was last sent something of what is open, by alert.
    sent: BTreeMap<String, Instant>,
    /// The numbers of the notices that are held back.
    held: BTreeSet<u64>,
}

/// Sends to a route until the process ends.
pub(super) async fn send_to(shared: Arc<Shared>, route: RouteConfig, client: reqwest::Client) {
    let (groups, sent, held) = (Groups::default(), BTreeMap::new(), BTreeSet::new());
    let mut sender = Sender { shared: shared.clone(), route, client, groups, sent, held };
    let mut wait = FIRST_WAIT;
    loop {
        let news = shared.news.notified();
        let (numbers, batch) = match sender.next() {
            Ok(Some(next)) => next,
            Ok(None) => {
                sender.repeat().await;
                tokio::select! {
                    () = news => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            }
            Err(error) => {
                report(&error);
                tokio::time::sleep(LONGEST_WAIT).await;
                continue;
            }
        };
        let counters = &shared.counters;
        match sender.send(&batch).await {
            Outcome::Taken => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                for notice in &batch.notices {
                    sender.sent.insert(notice.event.alert.id.clone(), Instant::now());
                }
            }
            Outcome::Later(why, after) => {
                tracing::warn!(route = %sender.route.name, %why, "a notification is sent again later");
                counters.retried.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(jittered(wait).max(after.unwrap_or_default())).await;
                wait = (wait * 2).min(LONGEST_WAIT);
                continue;
            }
            Outcome::Refused(why) => {
                for notice in &batch.notices {
                    let (id, title) = (&notice.event.alert.id, notice.title());
                    tracing::error!(route = %sender.route.name, alert = %id, %title, %why, "a notification was given up");
                }
                counters.dead.fetch_add(1, Ordering::Relaxed);
            }
        }
        sender.groups.sent(&batch, Instant::now());
        wait = FIRST_WAIT;
        let told = batch.notices.iter().map(|notice| &notice.thread);
        let noted = shared.ledger.lock().done(&sender.route.name, &numbers, told);
        if let Err(error) = noted {
            report(&error);
            tokio::time::sleep(LONGEST_WAIT).await;
        }
    }
}

impl Sender {
    /// What is to be sent now. Notices beyond the bound are given up, and those that nobody is to be told of are done.
    fn next(&mut self) -> io::Result<Option<(Vec<u64>, Batch)>> {
        let Self { shared, route, groups, held, .. } = self;
        let mut ledger = shared.ledger.lock();
        let Some(waiting) = ledger.waiting.get(&route.name) else { return Ok(None) };
        held.retain(|number| waiting.contains_key(number));
        let beyond = waiting.len().saturating_sub(held.len() + shared.config.max_waiting);
        if beyond > 0 {
            let numbers = waiting.keys().filter(|number| !held.contains(number));
            let numbers: Vec<u64> = numbers.take(beyond).copied().collect();
            tracing::error!(route = %route.name, count = beyond, "notifications were given up: too many wait");
            shared.counters.dead.fetch_add(beyond as u64, Ordering::Relaxed);
            ledger.done(&route.name, &numbers, std::iter::empty())?;
        }
        let (due, dropped) = sort_out(shared, route, &ledger, held);
        if !dropped.is_empty() {
            ledger.done(&route.name, &dropped, std::iter::empty())?;
        }
        Ok(groups.due(route, due.iter().map(|(number, notice)| (*number, notice)), Instant::now()))
    }

    /// Sends what is open again, where its time has come. What fails is left to the next time.
    async fn repeat(&mut self) {
        let Self { shared, route, sent, .. } = &mut *self;
        let Some(interval) = route.repeats_every() else { return };
        let mut batches: Vec<Batch> = Vec::new();
        {
            let ledger = shared.ledger.lock();
            // Of what was sent before the start it is not known when.
            let is_told = |notice: &Notice| notice.is_open() && ledger.is_told(&route.name, &notice.thread);
            for id in ledger.alerts.keys().filter(|id| ledger.newest(id).is_some_and(is_told)) {
                sent.entry(id.clone()).or_insert_with(Instant::now);
            }
            sent.retain(|id, _| ledger.newest(id).is_some_and(is_told));
            for (id, at) in sent.iter_mut().filter(|(_, at)| at.elapsed() >= interval) {
                *at = Instant::now();
                let Some(mut notice) = ledger.newest(id).cloned() else { continue };
                // What it does not hear of any more, Alertmanager takes for resolved.
                if !route.keeps_open() && shared.is_silenced(&ledger, &notice.event.alert) {
                    continue;
                }
                notice.event.kind = AlertEventKind::Updated;
                notice.event.drop_baselines();
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
        }
        for batch in batches {
            match self.send(&batch).await {
                Outcome::Taken => _ = self.shared.counters.sent.fetch_add(1, Ordering::Relaxed),
                Outcome::Later(why, _) | Outcome::Refused(why) => {
                    tracing::warn!(route = %self.route.name, %why, "a repeated notification was not taken");
                }
            }
        }
    }

    async fn send(&self, batch: &Batch) -> Outcome {
        let Some(to) = request_for(&self.shared, &self.route, batch) else { return Outcome::Taken };
        if self.shared.config.dry_run {
            let (kind, address) = self.route.url().map_or(("", ""), |(kind, url)| (kind, url.expose()));
            let address = redacted_address(address);
            let body = match &self.route.pagerduty {
                Some(pagerduty) => to.body.replace(pagerduty.routing_key.expose(), REDACTED),
                None => to.body,
            };
            tracing::info!(route = %self.route.name, "dry run: would send to {kind} {address}: {body}");
            return Outcome::Taken;
        }
        let mut builder = self.client.post(&to.url).timeout(self.route.timeout.0);
        builder = builder.header("content-type", "application/json").body(to.body);
        if let Some(authorization) = &to.authorization {
            builder = builder.header("authorization", authorization);
        }
        match builder.send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Taken,
            Ok(mut answer) => {
                let status = answer.status();
                let why = match self.said(&mut answer).await {
                    said if said.is_empty() => format!("the receiver answered {status}"),
                    said => format!("the receiver answered {status}: {said}"),
                };
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

    /// The beginning of what a receiver answered with.
    async fn said(&self, answer: &mut reqwest::Response) -> String {
        let mut text = Vec::new();
        while text.len() < ANSWER_BYTES
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            text.extend_from_slice(&chunk);
        }
        text.truncate(ANSWER_BYTES);
        shown_of(&text, self.route.pagerduty.as_ref().map(|pagerduty| pagerduty.routing_key.expose()))
    }
}

/// What may be shown of a text that a receiver sent: its beginning, on one line, without the key that it may repeat.
fn shown_of(text: &[u8], secret: Option<&str>) -> String {
    let text = String::from_utf8_lossy(text);
    let text =
        secret.filter(|secret| !secret.is_empty()).map_or(text.to_string(), |secret| text.replace(secret, REDACTED));
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(ANSWER_CHARS).collect()
}

/// The notices that wait for a route and are to be sent, and the numbers of those that nobody is to be told of. Where each is
/// sent by itself, they are sorted out up to the first.
fn sort_out(
    shared: &Shared,
    route: &RouteConfig,
    ledger: &Ledger,
    held: &mut BTreeSet<u64>,
) -> (Vec<(u64, Notice)>, Vec<u64>) {
    let judge = Judge {
        keeps_open: route.keeps_open(),
        is_fresh: &|alert| shared.is_fresh(alert),
        is_silenced: &|alert| shared.is_silenced(ledger, alert),
    };
    let (mut due, mut dropped) = (Vec::new(), Vec::new());
    // What was said of an incident before in this round.
    let (mut sent, mut kept): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for (&number, notice) in ledger.waiting.get(&route.name).into_iter().flatten() {
        let (id, thread) = (&notice.event.alert.id, &*notice.thread);
        let is_told = sent.contains(thread) || ledger.is_told(&route.name, thread);
        let fate = judge.fate(notice, ledger.newest(id), is_told, kept.contains(thread));
        match &fate {
            Fate::Send(_) => _ = sent.insert(thread),
            Fate::Hold(_) => _ = kept.insert(thread),
            Fate::Drop(_) => {}
        }
        let is_new = !held.contains(&number);
        match fate {
            Fate::Send(notice) => {
                held.remove(&number);
                due.push((number, *notice));
                if !route.groups() {
                    break;
                }
            }
            Fate::Hold(why) => {
                held.insert(number);
                count(shared, route, id, why, is_new);
            }
            Fate::Drop(why) => {
                dropped.push(number);
                count(shared, route, id, why, is_new);
            }
        }
    }
    (due, dropped)
}

fn count(shared: &Shared, route: &RouteConfig, id: &str, why: Why, is_new: bool) {
    let counters = &shared.counters;
    let (counter, text) = match why {
        Why::Old => (&counters.too_old, "recorded and not sent: it is over for long"),
        Why::Silenced => (&counters.silenced, "recorded and not sent: it is silenced"),
        Why::Unknown | Why::Same => return,
    };
    if is_new {
        tracing::info!(route = %route.name, alert = %id, "{text}");
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// An address without what may be a secret in it.
fn redacted_address(address: &str) -> String {
    match reqwest::Url::parse(address) {
        Ok(url) => format!("{}://{}/{REDACTED}", url.scheme(), url.host_str().unwrap_or_default()),
        Err(_) => REDACTED.to_owned(),
    }
}

fn request_for(shared: &Shared, route: &RouteConfig, batch: &Batch) -> Option<Request> {
    let fixed = |alert: &str| shared.fixed.get(alert).copied().unwrap_or_default();
    request(route, batch, &Sending { link: &|id| shared.link(id), fixed: &fixed, now_ms: wall_clock_ms() })
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
    fn what_a_receiver_says_is_shown_without_its_key() {
        let text = b"{\"errors\": [\n  \"key s3cret is unknown\x07\"]}";
        assert_eq!(shown_of(text, Some("s3cret")), "{\"errors\": [ \"key [redacted] is unknown\"]}");
        assert_eq!(shown_of(&[b'x'; 5_000], None).len(), ANSWER_CHARS);
    }

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
