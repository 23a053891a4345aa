//! Sends documents until each of them is stored or refused for good.
//!
//! In: documents. Out: those that were refused, with the reason. What may go better later is sent again for as long as
//! it takes, and only that: a failure of one item does not send its neighbours again. At most `in_flight` requests are
//! under way or waiting for another try; the body of a request is built only once there is room for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::http::Method;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::bulk::{self, Documents, Outcome};
use super::client::{Client, Payload, Reply};
use super::config::ElasticsearchConfig;
use super::retry::{Backoff, Throttle};
use crate::stores::StoreError;
use crate::stores::version::{Term, term_of};

/// So many times a document is sent on which the cluster fails with an internal error, before it is taken for the cause
/// and refused. All other failures are retried without end.
const MAX_INTERNAL_ERRORS: u32 = 10;

/// The least time between two messages about retries.
const MESSAGE_EVERY: Duration = Duration::from_secs(30);

/// What has been sent since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bulk requests answered, whatever the answer, and those that were not.
    pub requests: AtomicU64,
    /// Bytes of the bodies of those requests, as sent.
    pub bytes: AtomicU64,
    /// Documents stored.
    pub stored: AtomicU64,
    /// Window documents that were not stored since a newer version stands in their place.
    pub superseded: AtomicU64,
    /// Documents refused for good.
    pub rejected: AtomicU64,
    /// Documents sent again after a failure of their own or of their request.
    pub retried: AtomicU64,
    /// Requests that failed as a whole: no answer, or one that says try again later.
    pub failed_requests: AtomicU64,
    /// Requests that were halved for being too large.
    pub split_requests: AtomicU64,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// A document that was refused for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its place among the documents.
    pub(super) document: usize,
    /// What the cluster said.
    pub(super) detail: String,
}

/// Everything that was sent for so long has failed: that is no hiccup.
const FAILING_FOR: Duration = Duration::from_secs(5);

/// Sends bulk requests.
#[derive(Debug)]
pub(super) struct Delivery {
    client: Arc<Client>,
    config: ElasticsearchConfig,
    room: Semaphore,
    throttle: Throttle,
    /// Of the documents that stand in the place of ours, if it is higher than ours; 0 for none.
    higher_term: AtomicU64,
    /// That of this run, where there is a higher one.
    own_term: AtomicU64,
    failing: Failing,
    pub(super) counters: Counters,
}

/// Since when nothing was accepted, and what the cluster said last.
#[derive(Debug, Default)]
struct Failing(Mutex<Option<(Instant, String)>>);

impl Failing {
    fn note(&self, now: Instant, detail: String) {
        let mut failing = self.0.lock();
        let since = failing.take().map_or(now, |(since, _)| since);
        *failing = Some((since, detail));
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }

    fn problem(&self, now: Instant) -> Option<String> {
        let failing = self.0.lock();
        let (since, detail) = failing.as_ref()?;
        let lasts = now.duration_since(*since);
        (lasts >= FAILING_FOR).then(|| format!("no document was accepted for {} s: {detail}", lasts.as_secs()))
    }
}

/// Some documents on their way.
struct Run {
    which: Vec<usize>,
    /// How often the cluster failed on them with an internal error.
    internal_errors: u32,
}

/// What became of a request as a whole.
enum Answer {
    /// Each document has an outcome.
    Items(Vec<Outcome>),
    /// It was refused for its size or its contents: smaller ones show which document it was.
    Halve(String),
    /// It may go better later.
    Later(String),
}

impl Delivery {
    pub(super) fn new(client: Arc<Client>, config: &ElasticsearchConfig) -> Self {
        Self {
            client,
            config: config.clone(),
            room: Semaphore::new(config.in_flight),
            throttle: Throttle::new(MESSAGE_EVERY),
            higher_term: AtomicU64::new(0),
            own_term: AtomicU64::new(0),
            failing: Failing::default(),
            counters: Counters::default(),
        }
    }

    /// Stores documents, in as many requests as needed, and names those refused for good, in their order.
    pub(super) async fn deliver(&self, documents: &dyn Documents) -> Result<Vec<Refused>, StoreError> {
        let runs = bulk::cut(documents, self.config.batch_documents, self.config.batch_bytes.0 as usize);
        let mut sending: FuturesUnordered<_> = runs.into_iter().map(|run| self.deliver_run(documents, run)).collect();
        let mut refused = Vec::new();
        while let Some(of_run) = sending.next().await {
            refused.extend(of_run?);
        }
        refused.sort_unstable_by_key(|refused| refused.document);
        Ok(refused)
    }

    async fn deliver_run(&self, documents: &dyn Documents, which: Vec<usize>) -> Result<Vec<Refused>, StoreError> {
        let closed = |_| StoreError::Fatal("elasticsearch: the store was closed".into());
        let _room = self.room.acquire().await.map_err(closed)?;
        let mut refused = Vec::new();
        let mut waiting = vec![Run { which, internal_errors: 0 }];
        let mut backoff = self.backoff();
        while let Some(run) = waiting.pop() {
            match self.send(documents, &run.which).await {
                Answer::Items(outcomes) => {
                    let (stored, again) = self.sort_out(documents, run, outcomes, &mut refused).await;
                    if stored {
                        backoff = self.backoff();
                    }
                    if let Some(again) = again {
                        waiting.push(again);
                        backoff.wait().await;
                    }
                }
                Answer::Halve(detail) if run.which.len() == 1 => {
                    refused.extend(run.which.iter().map(|&document| Refused { document, detail: detail.clone() }));
                    add(&self.counters.rejected, 1);
                }
                Answer::Halve(_) => {
                    add(&self.counters.split_requests, 1);
                    let Run { mut which, internal_errors } = run;
                    let second = which.split_off(which.len() / 2);
                    waiting.push(Run { which: second, internal_errors });
                    waiting.push(Run { which, internal_errors });
                }
                Answer::Later(detail) => {
                    add(&self.counters.failed_requests, 1);
                    add(&self.counters.retried, run.which.len());
                    self.say(run.which.len(), &detail);
                    self.failing.note(Instant::now(), detail);
                    waiting.push(run);
                    backoff.wait().await;
                }
            }
        }
        Ok(refused)
    }

    async fn send(&self, documents: &dyn Documents, which: &[usize]) -> Answer {
        let Some(&first) = which.first() else { return Answer::Items(Vec::new()) };
        let prefix = self.config.index_prefix(documents.kind());
        let day = documents.day(first);
        let body = self.client.bulk_body(bulk::encode(documents, which, day, &prefix));
        self.post(&day.index(&prefix), body, which.len()).await
    }

    async fn post(&self, index: &str, body: Bytes, documents: usize) -> Answer {
        add(&self.counters.requests, 1);
        add(&self.counters.bytes, body.len());
        let path = format!("/{index}/_bulk");
        let query = [("filter_path", bulk::FILTER_PATH)];
        match self.client.send(Method::Post, &path, &query, Payload::Bulk(body), None).await {
            Ok(reply) if reply.is_success() => match bulk::outcomes(&reply.body, documents) {
                Ok(outcomes) => Answer::Items(outcomes),
                Err(detail) => Answer::Later(detail),
            },
            Ok(reply) => refused_as_a_whole(&reply),
            Err(unreachable) => Answer::Later(unreachable.to_string()),
        }
    }

    /// Acts on the outcome of each document. Says whether any was stored, and which are to be sent again.
    async fn sort_out(
        &self,
        documents: &dyn Documents,
        run: Run,
        outcomes: Vec<Outcome>,
        refused: &mut Vec<Refused>,
    ) -> (bool, Option<Run>) {
        let mut again = Vec::new();
        let (mut stored, mut failed, mut last) = (0, false, String::new());
        for (&document, outcome) in run.which.iter().zip(outcomes) {
            match outcome {
                Outcome::Stored => stored += 1,
                Outcome::Conflict { current } => {
                    if self.is_superseded(documents, document, current).await {
                        add(&self.counters.superseded, 1);
                    } else {
                        last = "version conflict with an older version".into();
                        again.push(document);
                    }
                }
                Outcome::Failed(detail) if run.internal_errors + 1 >= MAX_INTERNAL_ERRORS => {
                    refused.push(Refused { document, detail });
                    add(&self.counters.rejected, 1);
                }
                Outcome::Failed(detail) => {
                    (failed, last) = (true, detail);
                    again.push(document);
                }
                Outcome::Retry(detail) => {
                    last = detail;
                    again.push(document);
                }
                Outcome::Rejected(detail) => {
                    refused.push(Refused { document, detail });
                    add(&self.counters.rejected, 1);
                }
            }
        }
        add(&self.counters.stored, stored);
        if stored > 0 || again.is_empty() {
            self.failing.clear();
        } else {
            self.failing.note(Instant::now(), last.clone());
        }
        if again.is_empty() {
            return (stored > 0, None);
        }
        add(&self.counters.retried, again.len());
        self.say(again.len(), &last);
        let internal_errors = if failed { run.internal_errors + 1 } else { run.internal_errors };
        (stored > 0, Some(Run { which: again, internal_errors }))
    }

    /// Whether the version that is stored is at least as new as the one that was refused.
    async fn is_superseded(&self, documents: &dyn Documents, document: usize, current: Option<u64>) -> bool {
        let Some(version) = documents.version(document) else { return false };
        let current = match current {
            Some(current) => Some(current),
            None => self.stored_version(documents, document).await,
        };
        let newer = current.filter(|&current| current >= version);
        if let Some(newer) = newer.filter(|newer| term_of(*newer) > term_of(version)) {
            self.note_higher_term(term_of(newer), term_of(version));
        }
        newer.is_some()
    }

    fn note_higher_term(&self, term: Term, own: Term) {
        self.own_term.store(own, Ordering::Relaxed);
        if self.higher_term.fetch_max(term, Ordering::Relaxed) < term
            && let Some(problem) = self.superseded()
        {
            tracing::error!("elasticsearch: {problem}");
        }
    }

    /// What is wrong with everything that is sent, if something is.
    pub(super) fn problem(&self) -> Option<String> {
        self.superseded().or_else(|| self.failing.problem(Instant::now()))
    }

    /// Said where another run's documents stand in the place of ours.
    fn superseded(&self) -> Option<String> {
        let term = Some(self.higher_term.load(Ordering::Relaxed)).filter(|&term| term > 0)?;
        Some(format!(
            "documents of term {term} are in the indices and are not replaced by those of this run, which has term {}: a later \
             start writes to them, or the terms in data_dir and beside the checkpoints were lost; in that case stop, write {term} \
             into the file `term` in the data_dir of process 0, and start with --fresh",
            self.own_term.load(Ordering::Relaxed)
        ))
    }

    /// Asks for the version of a document; `None` when there is none, or no answer.
    async fn stored_version(&self, documents: &dyn Documents, document: usize) -> Option<u64> {
        let index = documents.day(document).index(&self.config.index_prefix(documents.kind()));
        let path = format!("/{index}/_doc/{}", escape_path(&documents.id(document)));
        let query = [("_source", "false")];
        let reply = self.client.send(Method::Get, &path, &query, Payload::Empty, None).await.ok()?;
        serde_json::from_slice::<serde_json::Value>(&reply.body).ok()?.get("_version")?.as_u64()
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_initial_delay.0, self.config.retry_max_delay.0)
    }

    /// Says that something is tried again, now and then.
    pub(super) fn say(&self, documents: usize, detail: &dyn fmt::Display) {
        if let Some(held_back) = self.throttle.due() {
            let cluster = self.client.addresses();
            tracing::warn!(%cluster, documents, held_back, "elasticsearch: trying again: {detail}");
        }
    }
}

/// What an answer other than success says about the whole request.
fn refused_as_a_whole(reply: &Reply) -> Answer {
    let detail = reply.describe();
    match reply.status {
        413 => Answer::Halve(detail),
        // A line that cannot be read fails the whole request. Only an answer of Elasticsearch itself is believed: a
        // proxy that is set up wrongly must not send everything to the dead letters.
        400 if reply.cause().is_some() => Answer::Halve(detail),
        401 | 403 => Answer::Later(format!("the cluster refuses the credentials or they lack a privilege: {detail}")),
        _ => Answer::Later(detail),
    }
}

/// Percent-encodes an id for use as one segment of a path.
fn escape_path(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_accepts_nothing_is_a_problem_until_it_does() {
        let (failing, start) = (Failing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        failing.note(at(0), "read-only".to_owned());
        assert_eq!(failing.problem(at(4)), None, "it may be a hiccup");
        failing.note(at(6), "disk full".to_owned());
        assert_eq!(failing.problem(at(9)).unwrap(), "no document was accepted for 9 s: disk full");
        failing.clear();
        failing.note(at(10), "again".to_owned());
        assert_eq!(failing.problem(at(11)), None);
    }

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        assert_eq!(escape_path("v@1f/a b%2Fc/17"), "v%401f%2Fa%20b%252Fc%2F17");
    }

    #[test]
    fn only_elasticsearch_itself_can_refuse_contents() {
        let reply = |status, body: &'static str| Reply { status, body: Bytes::from_static(body.as_bytes()) };
        let own = r#"{"error":{"type":"illegal_argument_exception","reason":"Malformed action/metadata line [1]"}}"#;
        assert!(matches!(refused_as_a_whole(&reply(400, own)), Answer::Halve(_)));
        assert!(matches!(refused_as_a_whole(&reply(400, "<html>bad request</html>")), Answer::Later(_)));
        assert!(matches!(refused_as_a_whole(&reply(413, "")), Answer::Halve(_)));
        assert!(matches!(refused_as_a_whole(&reply(429, "")), Answer::Later(_)));
        assert!(matches!(refused_as_a_whole(&reply(403, "")), Answer::Later(_)));
    }
}
