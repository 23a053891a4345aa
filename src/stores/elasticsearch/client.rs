//! Requests to a cluster of one or more nodes.
//!
//! In: a method, a path and a body. Out: a status and a body, whatever the status; what a status means is for the caller
//! to say. Error: no node answered. A connection that fails is tried on the next node at once; a request that timed out
//! is not, since it may still be under way.

use std::error::Error as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::config::{Compression, ElasticsearchConfig, parse_url};
use crate::stores::StoreError;

/// How long a node that did not answer is passed over while another one is left.
const PASS_OVER: Duration = Duration::from_secs(10);

/// The nodes of a cluster.
#[derive(Debug)]
pub(super) struct Client {
    nodes: Vec<Node>,
    turn: AtomicUsize,
    started: Instant,
    timeout: Duration,
    compression: Compression,
}

#[derive(Debug)]
struct Node {
    url: String,
    transport: Transport,
    /// Milliseconds after `Client::started` until which this node is passed over.
    passed_over_until_ms: AtomicU64,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Bytes,
}

/// No answer, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(pub(super) String);

/// What is sent.
pub(super) enum Payload {
    /// Nothing.
    Empty,
    /// One JSON value.
    Json(Value),
    /// Lines of a bulk request, as [`Client::bulk_body`] made them.
    Bulk(Bytes),
}

impl Client {
    /// A client for the addresses and credentials of a checked configuration. Reads the CA file; opens no connection.
    pub(super) fn new(config: &ElasticsearchConfig) -> Result<Self, StoreError> {
        let nodes = config.urls.iter().map(|url| Node::new(url, config)).collect::<Result<Vec<_>, _>>()?;
        let (turn, started) = (AtomicUsize::new(0), Instant::now());
        Ok(Self { nodes, turn, started, timeout: config.request_timeout.0, compression: config.compression })
    }

    /// Addresses, for messages.
    pub(super) fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.url.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The lines of a bulk request as they travel.
    pub(super) fn bulk_body(&self, lines: Vec<u8>) -> Bytes {
        match self.compression {
            Compression::None => lines.into(),
            Compression::Gzip => {
                let compressed = Vec::with_capacity(lines.len() / 4);
                let mut encoder = flate2::write::GzEncoder::new(compressed, flate2::Compression::fast());
                // Writing to memory does not fail.
                match encoder.write_all(&lines).and_then(|()| encoder.finish()) {
                    Ok(compressed) => compressed.into(),
                    Err(e) => unreachable!("compressing in memory: {e}"),
                }
            }
        }
    }

    /// Sends a request and waits for the answer, `timeout` at the most (the configured time when `None`).
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        payload: Payload,
        timeout: Option<Duration>,
    ) -> Result<Reply, Unreachable> {
        let (body, headers) = self.encode(payload);
        let timeout = timeout.unwrap_or(self.timeout);
        let mut last = None;
        for node in self.order() {
            match node.send(method, path, query, headers.clone(), body.clone(), timeout).await {
                Ok(reply) => {
                    node.passed_over_until_ms.store(0, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) => {
                    let until = self.started.elapsed() + PASS_OVER;
                    node.passed_over_until_ms.store(until.as_millis() as u64, Ordering::Relaxed);
                    let timed_out = error.is_timeout();
                    last = Some(Unreachable(format!("{}: {}", node.url, chain(&error))));
                    if timed_out {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Unreachable("no address is configured".into())))
    }

    fn encode(&self, payload: Payload) -> (Option<Bytes>, HeaderMap) {
        let mut headers = HeaderMap::new();
        let body = match payload {
            Payload::Empty => None,
            Payload::Json(value) => Some(value.to_string().into()),
            Payload::Bulk(lines) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                if self.compression == Compression::Gzip {
                    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                } else {
                    // Answers are small; compressing them would only cost the cluster time.
                    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                }
                Some(lines)
            }
        };
        (body, headers)
    }

    /// The nodes in the order to try them: taking turns, those that failed lately last. Each once, also when one fails
    /// while this order is gone through.
    fn order(&self) -> Vec<&Node> {
        let now = self.started.elapsed().as_millis() as u64;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len().max(1);
        let (later, first) = self.nodes.split_at(turn.min(self.nodes.len()));
        let failed_lately = |node: &&Node| node.passed_over_until_ms.load(Ordering::Relaxed) > now;
        let (failed, mut order): (Vec<_>, Vec<_>) = first.iter().chain(later).partition(failed_lately);
        order.extend(failed);
        order
    }
}

impl Node {
    fn new(url: &str, config: &ElasticsearchConfig) -> Result<Self, StoreError> {
        let fatal = |message: String| StoreError::Fatal(format!("elasticsearch: {message}"));
        let parsed = parse_url(url).map_err(fatal)?;
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(parsed));
        if !config.use_proxy {
            builder = builder.disable_proxy();
        }
        if let Some(credentials) = credentials(config) {
            builder = builder.auth(credentials);
        }
        if !config.verify_certificates {
            builder = builder.cert_validation(CertificateValidation::None);
        } else if let Some(path) = &config.ca_file {
            let shown = path.display();
            let pem = std::fs::read(path).map_err(|e| fatal(format!("cannot read ca_file {shown}: {e}")))?;
            if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
                return Err(fatal(format!("expected PEM certificates in ca_file {shown}, found none")));
            }
            let certificate =
                Certificate::from_pem(&pem).map_err(|e| fatal(format!("ca_file {shown}: {}", chain(&e))))?;
            builder = builder.cert_validation(CertificateValidation::Full(certificate));
        }
        let transport = builder.build().map_err(|e| fatal(format!("cannot set up a client for {url}: {e}")))?;
        Ok(Self { url: url.to_owned(), transport, passed_over_until_ms: AtomicU64::new(0) })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Reply, elasticsearch::Error> {
        let response = self.transport.send(method, path, headers, Some(query), body, Some(timeout)).await?;
        let status = response.status_code().as_u16();
        Ok(Reply { status, body: response.bytes().await? })
    }
}

fn credentials(config: &ElasticsearchConfig) -> Option<Credentials> {
    if let Some(key) = &config.api_key {
        return Some(match key.expose().split_once(':') {
            Some((id, key)) => Credentials::ApiKey(id.into(), key.into()),
            None => Credentials::EncodedApiKey(key.expose().into()),
        });
    }
    let (username, password) = (config.username.as_ref()?, config.password.as_ref()?);
    Some(Credentials::Basic(username.clone(), password.expose().into()))
}

/// An error with its causes, without repeating what the outer message already says.
fn chain(error: &elasticsearch::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// An error as Elasticsearch describes it, in a whole answer or in an item of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorCause {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) reason: Option<String>,
    pub(super) caused_by: Option<Box<ErrorCause>>,
}

impl ErrorCause {
    /// Type and reason, with the causes behind it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{}: {}", self.kind, self.reason.as_deref().unwrap_or("no reason given"));
        if let Some(cause) = &self.caused_by {
            text = format!("{text}; caused by {}", cause.describe());
        }
        text
    }
}

impl Reply {
    /// The error of an answer of Elasticsearch; `None` when the body is not one, as from a proxy in between.
    pub(super) fn cause(&self) -> Option<ErrorCause> {
        #[derive(Deserialize)]
        struct Failure {
            error: ErrorCause,
        }
        serde_json::from_slice::<Failure>(&self.body).ok().map(|failure| failure.error)
    }

    /// One line for people: the status, and what the body says about it.
    pub(super) fn describe(&self) -> String {
        let detail = match self.cause() {
            Some(cause) => cause.describe(),
            None => String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(200).collect(),
        };
        format!("status {} ({detail})", self.status)
    }

    /// Whether the request did what it should.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_turns_and_one_that_failed_comes_last() {
        let urls = ["http://a:1", "http://b:1", "http://c:1"];
        let config = ElasticsearchConfig { urls: urls.map(String::from).to_vec(), ..Default::default() };
        let client = Client::new(&config).unwrap();
        let order = |client: &Client| client.order().iter().map(|node| node.url.clone()).collect::<Vec<_>>();
        assert_eq!(order(&client), ["http://a:1", "http://b:1", "http://c:1"]);
        assert_eq!(order(&client), ["http://b:1", "http://c:1", "http://a:1"]);
        client.nodes[2].passed_over_until_ms.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(order(&client), ["http://a:1", "http://b:1", "http://c:1"]);
    }

    #[test]
    fn answers_are_described_with_their_causes() {
        let body = r#"{"error":{"type":"a","reason":"b \"c\"","caused_by":{"type":"d","reason":null}},"status":400}"#;
        let reply = Reply { status: 400, body: body.into() };
        assert_eq!(reply.describe(), "status 400 (a: b \"c\"; caused by d: no reason given)");
        let reply = Reply { status: 502, body: "<html>\nBad gateway</html>".into() };
        assert_eq!(reply.describe(), "status 502 (<html>Bad gateway</html>)");
    }
}
