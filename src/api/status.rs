//! `/`, `/health`, `/progress`, `/metrics`: what this process is and how it does.

use std::hash::{BuildHasher, RandomState};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::Millis;
use serde::Serialize;
use utoipa::ToSchema;

use super::Context;
use super::health::CheckResult;
use super::params::Params;
use super::problem::{Problem, ProblemDocument};

const DASHBOARD: &str = include_str!("dashboard.html");

/// What this is, and where to look.
#[derive(Debug, Serialize, ToSchema)]
pub struct RootAnswer {
    /// Always `floodmark`.
    name: &'static str,
    /// In one sentence.
    description: &'static str,
    /// The version of this build.
    version: &'static str,
    /// What is read.
    source: String,
    /// Where documents go and are searched.
    store: &'static str,
    /// Workers in all processes.
    workers: usize,
    /// When this process started, in milliseconds since the epoch.
    started: u64,
    /// Where to look, by name.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    links: serde_json::Map<String, serde_json::Value>,
}

/// Whether this process lives and is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthAnswer {
    /// `ok`, or `unavailable` when a check fails.
    status: &'static str,
    /// Whether the process answers.
    live: bool,
    /// Whether all that it needs works.
    ready: bool,
    /// Each thing that it needs.
    checks: Vec<CheckResult>,
}

/// Whether this process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveAnswer {
    /// Always `ok`.
    status: &'static str,
    /// Always `true`.
    live: bool,
}

/// Where the partitions of all processes stand; those of others as they told within the last seconds. Times are
/// milliseconds since the epoch.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProgressAnswer {
    /// The event-clock time that live reads are exact for; `null` before the first record.
    as_of: Option<Millis>,
    /// The frontier that all workers have reached.
    frontier: Option<Millis>,
    /// Which partition holds the frontier back; `null` when all have ended or there is none.
    held_by: Option<PartitionName>,
    /// Every record with an event-clock timestamp before this is searchable; `null` until every process has told.
    indexed_through: Option<Millis>,
    /// The workers of all processes.
    workers: Vec<WorkerAnswer>,
    /// By topic and number.
    partitions: Vec<PartitionAnswer>,
}

/// A partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionName {
    /// Its topic; for files `source.files.topic`.
    topic: String,
    /// Its number in the topic.
    partition: i32,
    /// What it is known by in document ids: the topic, with its id where it was made again, or a file's fingerprint.
    identity: String,
    /// For files: where it is; `null` for others.
    path: Option<String>,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerAnswer {
    /// Its number among all workers of all processes.
    worker: usize,
    /// The frontier as it knows it.
    frontier: Millis,
}

/// Where a partition stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionAnswer {
    #[serde(flatten)]
    name: PartitionName,
    /// The worker that reads it.
    worker: usize,
    /// Offset to read next: records for Kafka, bytes for files.
    offset: u64,
    /// Offset of its end as last seen; `null` while unknown.
    end: Option<u64>,
    /// From offset to end.
    lag: Option<u64>,
    /// Its event clock; `null` before its first record.
    clock: Option<Millis>,
    /// Its hold: how far it lets the frontier go while nothing comes from it; `null` where it has none.
    hold: Option<Millis>,
    /// It is read to its end, for now.
    at_end: bool,
    /// It was at its end for so long that it does not hold the frontier back.
    idle: bool,
    /// It was unreadable for so long that it does not hold the frontier back.
    stalled: bool,
    /// It is left alone for being too far before the frontier.
    paused: bool,
    /// Nothing more will come from it.
    ended: bool,
    /// It holds the frontier back.
    holds_frontier: bool,
}

/// What this is: JSON, or a page with moving numbers for browsers.
#[utoipa::path(
    get, path = "/", tag = "status",
    responses(
        (status = 200, content((RootAnswer = "application/json"), (String = "text/html"))),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn root(State(context): State<Context>, headers: HeaderMap, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri).finish()?;
    if wants_page(&headers) {
        return Ok(([VARIES], page(DASHBOARD)).into_response());
    }
    let links = [
        "health",
        "progress",
        "audit",
        "stream",
        "logs",
        "logs/stats",
        "logs/anomalies",
        "views",
        "patterns",
        "alerts",
        "silences",
        "metrics",
        "docs",
        "openapi.json",
    ];
    let answer = RootAnswer {
        name: "floodmark",
        description: "Log analytics between Kafka and Elasticsearch on timely and differential dataflow",
        version: env!("CARGO_PKG_VERSION"),
        source: context.state.info.source.clone(),
        store: context.state.store.name(),
        workers: context.state.info.workers,
        started: context.state.info.started_ms,
        links: links.iter().map(|link| (link.to_string(), format!("/{link}").into())).collect(),
    };
    Ok(([VARIES], Json(answer)).into_response())
}

/// What is answered depends on what is asked for: a page for browsers, or JSON.
pub(super) const VARIES: (header::HeaderName, &str) = (header::VARY, "accept");

/// Whether a browser asks.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("text/html")
}

/// A page for browsers. Only its own script and style may run, each marked with a number made for this answer.
pub(super) fn page(html: &str) -> Response {
    let nonce = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html.replace("{{nonce}}", &nonce))).into_response()
}

/// Whether this process is ready, and each thing that it needs.
#[utoipa::path(
    get, path = "/health", tag = "status",
    responses(
        (status = 200, description = "Ready", body = HealthAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Something that it needs does not work", body = HealthAnswer),
    )
)]
pub async fn health(State(context): State<Context>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri).finish()?;
    let checks = context.state.health.results().await;
    let ready = checks.iter().all(|check| check.ok);
    let (code, status) = if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    Ok((code, Json(HealthAnswer { status, live: true, ready, checks })).into_response())
}

/// Whether this process answers at all. For supervisors: what it needs may be down, and a restart would not help.
#[utoipa::path(
    get, path = "/health/live", tag = "status",
    responses(
        (status = 200, body = LiveAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn alive(uri: Uri) -> Result<Json<LiveAnswer>, Problem> {
    Params::of(&uri).finish()?;
    Ok(Json(LiveAnswer { status: "ok", live: true }))
}

/// Where each partition stands, and which one holds the frontier back.
#[utoipa::path(
    get, path = "/progress", tag = "status",
    responses(
        (status = 200, body = ProgressAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn progress(State(context): State<Context>, uri: Uri) -> Result<Json<ProgressAnswer>, Problem> {
    Params::of(&uri).finish()?;
    let live = &context.state.live;
    let snapshot = context.state.progress.of_all_processes();
    let ms = |ticks: u64| ticks.saturating_mul(live.tick_ms());
    let holder = snapshot.holder();
    let name = |partition: &PartitionInfo| PartitionName {
        topic: partition.topic.to_string(),
        partition: partition.number,
        identity: partition.identity.to_string(),
        path: snapshot.paths.get(&partition.identity).cloned(),
    };
    let partitions = snapshot.partitions.iter().map(|(partition, state)| PartitionAnswer {
        name: name(partition),
        worker: state.worker,
        offset: state.progress.next_offset,
        // The end is asked for now and then, and reading may be ahead of the last answer.
        end: state.end.map(|end| end.max(state.progress.next_offset)),
        lag: state.lag(),
        clock: state.progress.clock.map(ms),
        hold: Some(state.progress.hold).filter(|&hold| hold > 0).map(ms),
        at_end: state.progress.at_end,
        idle: state.progress.idle,
        stalled: state.progress.stalled,
        paused: state.progress.paused,
        ended: state.progress.ended,
        holds_frontier: holder == Some(partition),
    });
    Ok(Json(ProgressAnswer {
        as_of: live.as_of(),
        frontier: snapshot.frontier().map(ms),
        indexed_through: snapshot.indexed_through,
        workers: snapshot.frontiers.iter().map(|(&worker, &f)| WorkerAnswer { worker, frontier: ms(f) }).collect(),
        partitions: partitions.collect(),
        held_by: holder.map(|partition| name(partition)),
    }))
}

/// Metrics of this process for Prometheus: every process of a cluster has its own.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    responses((status = 200, content_type = "application/openmetrics-text", body = String))
)]
pub async fn metrics(State(context): State<Context>) -> Result<Response, Problem> {
    let text = context.state.metrics.text().map_err(|_| Problem::unavailable("the metrics cannot be written"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
