//! `/logs`, `/logs/anomalies`: searches in the store. `/logs/stats`: counts from the live state.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use floodmark_dataflows::time::Millis;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::params::{Params, pattern_text};
use super::problem::{ParameterError, Problem, ProblemDocument};
use super::{ApiConfig, Context};
use crate::stores::{LogQuery, StoreError};

/// How far pages go; a cursor goes on.
const MAX_PAGED: usize = 10_000;

/// Filters and paging of a search. All filters have to match.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogParams {
    /// The service, exactly.
    pub service_name: Option<String>,
    /// The level, by its name or another for it, such as `warning`, in upper or lower case.
    #[param(example = "ERROR")]
    pub level: Option<String>,
    /// The HTTP status.
    #[param(minimum = 100, maximum = 599)]
    pub status_code: Option<u16>,
    /// Only anomalies, or only what is none.
    pub anomaly: Option<bool>,
    /// The pattern: its id, which stands for all its first cuts, or that of a first cut. 16 hexadecimal digits.
    #[param(value_type = Option<String>, example = "7f9c2ba4e88f827d")]
    pub pattern_id: Option<u64>,
    /// Event time at or after: milliseconds since the epoch or RFC 3339.
    #[param(value_type = Option<String>)]
    pub from_timestamp: Option<Millis>,
    /// Event time before: milliseconds since the epoch or RFC 3339.
    #[param(value_type = Option<String>)]
    pub to_timestamp: Option<Millis>,
    /// Words that must all occur in the message.
    pub q: Option<String>,
    /// The page, from 1. `page × size` is at most 10,000; go on with `cursor` from there.
    #[param(value_type = Option<usize>, minimum = 1)]
    pub page: usize,
    /// Documents on a page; 50 unless configured otherwise.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000)]
    pub size: usize,
    /// `next_cursor` of the page before. Not together with `page`.
    pub cursor: Option<String>,
}

/// A page of log documents, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogsAnswer {
    /// How many documents match in all.
    pub total: u64,
    /// The page, from 1; `null` with a cursor.
    pub page: Option<usize>,
    /// The largest number of documents on the page.
    pub size: usize,
    /// The documents: the records as they came, with the computed fields.
    #[schema(value_type = Vec<Object>)]
    pub logs: Vec<Box<RawValue>>,
    /// Where the next page starts; `null` behind the last.
    pub next_cursor: Option<String>,
    /// Every record with an event-clock timestamp before this was searched, in milliseconds since the epoch; `null`
    /// before the first.
    pub indexed_through: Option<Millis>,
}

/// Counts since the start.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatsAnswer {
    /// Records counted.
    pub total_logs: i64,
    /// Records by service; they add up to `total_logs`.
    #[schema(example = json!({"auth-service": 512, "api-gateway": 2048}))]
    pub services: BTreeMap<String, i64>,
    /// Records by level; they add up to `total_logs`.
    #[schema(value_type = BTreeMap<String, i64>, example = json!({"INFO": 2400, "ERROR": 160}))]
    pub levels: BTreeMap<floodmark_dataflows::record::Level, i64>,
    /// Records whose severity reached the anomaly threshold.
    pub anomaly_count: i64,
    /// Records of level `ERROR` or `FATAL`.
    pub error_count: i64,
    /// The event-clock time that this is exact for, in milliseconds since the epoch; `null` before the first record.
    pub as_of: Option<Millis>,
}

impl LogParams {
    fn parse(uri: &Uri, config: &ApiConfig) -> Result<Self, Problem> {
        let mut params = Params::of(uri);
        let (from_timestamp, to_timestamp) = params.times("from_timestamp", "to_timestamp");
        let is_paged = params.is_given("page");
        let (page, size) = params.page(config, MAX_PAGED);
        let parsed = Self {
            service_name: params.text("service_name"),
            level: params.level("level").map(|level| level.name().to_owned()),
            status_code: params.number("status_code", 100..=599),
            anomaly: params.flag("anomaly"),
            pattern_id: params.pattern_id("pattern_id"),
            from_timestamp,
            to_timestamp,
            q: params.text("q"),
            page,
            size,
            cursor: params.text("cursor"),
        };
        if parsed.cursor.is_some() && is_paged {
            params.refuse("page", "expected either a page or a cursor, not both");
        }
        if is_paged && page.saturating_mul(size) > MAX_PAGED {
            params.refuse("page", format!("page × size is at most {MAX_PAGED}; go on with the cursor of a page"));
        }
        params.finish()?;
        Ok(parsed)
    }
}

async fn answer(context: &Context, params: LogParams) -> Result<Json<LogsAnswer>, Problem> {
    let size = params.size;
    let page = params.cursor.is_none().then_some(params.page);
    let query = LogQuery {
        service_name: params.service_name,
        level: params.level,
        status_code: params.status_code,
        anomaly: params.anomaly,
        pattern_ids: params.pattern_id.map(|id| {
            let cuts = context.state.live.cuts_of_pattern(id);
            cuts.into_iter().map(pattern_text).collect()
        }),
        from_ms: params.from_timestamp,
        to_ms: params.to_timestamp,
        text: params.q,
        skip: page.map_or(0, |page| (page - 1) * size),
        size,
        cursor: params.cursor,
    };
    // Read before searching: what is indexed meanwhile may be found, but is not promised.
    let indexed_through = context.state.progress.indexed_through();
    let found = context.state.store.search_logs(&query).await.map_err(|error| match error {
        StoreError::BadCursor => {
            let (parameter, detail) = ("cursor".to_owned(), error.to_string());
            Problem::bad_parameters(vec![ParameterError { parameter, detail }])
        }
        error => error.into(),
    })?;
    Ok(Json(LogsAnswer {
        total: found.total,
        page,
        size,
        logs: found.documents,
        next_cursor: found.next_cursor,
        indexed_through,
    }))
}

/// Search logs, newest first.
#[utoipa::path(
    get, path = "/logs", tag = "logs", params(LogParams),
    responses(
        (status = 200, body = LogsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 501, description = "This store cannot be searched", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn search(State(context): State<Context>, uri: Uri) -> Result<Json<LogsAnswer>, Problem> {
    let params = LogParams::parse(&uri, &context.config)?;
    answer(&context, params).await
}

/// Search logs that are anomalies, newest first: `/logs` with `anomaly=true`.
#[utoipa::path(
    get, path = "/logs/anomalies", tag = "logs", params(LogParams),
    responses(
        (status = 200, body = LogsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 501, description = "This store cannot be searched", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn anomalies(State(context): State<Context>, uri: Uri) -> Result<Json<LogsAnswer>, Problem> {
    let params = LogParams::parse(&uri, &context.config)?;
    if params.anomaly == Some(false) {
        let detail = "expected true or nothing: this path answers anomalies only".to_owned();
        return Err(Problem::bad_parameters(vec![ParameterError { parameter: "anomaly".into(), detail }]));
    }
    answer(&context, LogParams { anomaly: Some(true), ..params }).await
}

/// Counts since the start, from the live state.
#[utoipa::path(
    get, path = "/logs/stats", tag = "logs",
    responses(
        (status = 200, body = StatsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn stats(State(context): State<Context>, uri: Uri) -> Result<Json<StatsAnswer>, Problem> {
    Params::of(&uri).finish()?;
    let read = context.state.live.services();
    let all = read.value.all;
    Ok(Json(StatsAnswer {
        total_logs: all.count(),
        services: read.value.services.into_iter().map(|(name, totals)| (name, totals.count())).collect(),
        levels: all.levels(),
        anomaly_count: all.anomalies,
        error_count: all.errors(),
        as_of: read.as_of,
    }))
}
