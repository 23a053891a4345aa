//! `/alerts`: alerts with their histories. `/silences`: for a time, nobody is told.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertState};
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Context;
use super::params::{Params, parse_time};
use super::problem::{Problem, ProblemDocument};
use super::status::{VARIES, page, wants_page};
use crate::alerts::silences::Silence;
use crate::sources::wall_clock_ms;
use crate::units::Span;

/// A page of alerts, those that began last first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertsAnswer {
    /// The event-clock time that this is exact for: all that is to be said of windows by then was; `null` before the first
    /// record, and where no alerts are configured.
    as_of: Option<Millis>,
    /// How many match.
    total: usize,
    /// The page, from 1.
    page: usize,
    /// The largest number of alerts on the page.
    size: usize,
    /// The alerts.
    #[schema(value_type = Vec<Object>)]
    alerts: Vec<AlertDocument>,
}

/// An alert with its history.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertAnswer {
    /// As it is now.
    #[schema(value_type = Object)]
    alert: Option<AlertDocument>,
    /// What was said of it, oldest first: what happened, when, the alert afterwards, and before where it was corrected.
    #[schema(value_type = Vec<Object>)]
    history: Vec<AlertEvent>,
}

/// Silences.
#[derive(Debug, Serialize, ToSchema)]
pub struct SilencesAnswer {
    /// Those that are not over.
    silences: Vec<Silence>,
}

/// A silence to be made. One of `until` and `for` says how long it lasts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilenceRequest {
    /// The name of the alert, which may end in `*`. Left out, those with the keys.
    #[serde(default)]
    alert: Option<String>,
    /// Key fields with their values, which may end in `*`.
    #[serde(default)]
    keys: BTreeMap<String, String>,
    /// Until when: milliseconds since the epoch as a text, or RFC 3339.
    #[serde(default)]
    until: Option<String>,
    /// How long from now, such as `2h`.
    #[serde(default, rename = "for")]
    #[schema(value_type = Option<String>)]
    lasts: Option<Span>,
    /// Without an alert or keys: that all alerts are meant.
    #[serde(default)]
    all: bool,
    /// Why. Must not be empty.
    #[serde(default)]
    comment: String,
}

/// Alerts, those that began last first.
#[utoipa::path(
    get, path = "/alerts", tag = "alerts",
    params(
        ("state" = Option<String>, Query, description = "`open`, `closed` or `retracted`"),
        ("alert" = Option<String>, Query, description = "The name in the configuration"),
        ("view" = Option<String>, Query, description = "The view"),
        ("from" = Option<String>, Query, description = "Alerts that end after: milliseconds since the epoch or RFC 3339"),
        ("to" = Option<String>, Query, description = "Alerts that start before: milliseconds since the epoch or RFC 3339"),
        ("page" = Option<usize>, Query, minimum = 1, description = "The page, from 1"),
        ("size" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "Alerts on a page; 50 unless \
            configured otherwise"),
    ),
    responses(
        (status = 200, body = AlertsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(context): State<Context>, uri: Uri) -> Result<Json<AlertsAnswer>, Problem> {
    let mut params = Params::of(&uri);
    let state = params.text("state").and_then(|text| {
        let state = match &*text {
            "open" => Some(AlertState::Open),
            "closed" => Some(AlertState::Closed),
            "retracted" => Some(AlertState::Retracted),
            _ => None,
        };
        if state.is_none() {
            params.refuse("state", "expected open, closed or retracted");
        }
        state
    });
    let (alert, view) = (params.text("alert"), params.text("view"));
    let (from_ms, to_ms) = params.times("from", "to");
    let (page, size) = params.page(&context.config, 1_000_000);
    params.finish()?;
    let wanted = |found: &AlertDocument| {
        state.is_none_or(|state| found.state == state)
            && alert.as_ref().is_none_or(|name| **name == *found.alert)
            && view.as_ref().is_none_or(|name| **name == *found.view)
            && from_ms.is_none_or(|from| found.end > from)
            && to_ms.is_none_or(|to| found.start < to)
    };
    let (as_of, all) = context.state.alerts.as_ref().map(|alerts| alerts.list(wanted)).unwrap_or_default();
    let total = all.len();
    let alerts = all.into_iter().skip((page - 1) * size).take(size).collect();
    Ok(Json(AlertsAnswer { as_of, total, page, size, alerts }))
}

const ALERT_PAGE: &str = include_str!("alert.html");

/// An alert with its whole history; for browsers as a page.
#[utoipa::path(
    get, path = "/alerts/{id}", tag = "alerts",
    params(("id" = String, Path, description = "The alert's id")),
    responses(
        (status = 200, content((AlertAnswer = "application/json"), (String = "text/html"))),
        (status = 404, description = "There is no such alert", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn history(
    State(context): State<Context>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri).finish()?;
    if wants_page(&headers) {
        return Ok(([VARIES], page(ALERT_PAGE)).into_response());
    }
    let history = context.state.alerts.as_ref().and_then(|alerts| alerts.history(&id));
    let history = history.ok_or_else(|| Problem::not_found("there is no such alert; GET /alerts lists them"))?;
    let alert = history.last().map(|event| event.alert.clone());
    Ok(([VARIES], Json(AlertAnswer { alert, history })).into_response())
}

/// Where silences are.
fn alerts(context: &Context) -> Result<&crate::alerts::Alerts, Problem> {
    let alerts = context.state.alerts.as_ref();
    let alerts = alerts.ok_or_else(|| Problem::not_found("no alerts are configured; add [[alert]]"))?;
    match alerts.has_silences() {
        true => Ok(alerts),
        false => Err(Problem::not_found("silences are kept by process 0, which sends notifications: ask that one")),
    }
}

/// The silences that are not over.
#[utoipa::path(
    get, path = "/silences", tag = "alerts",
    responses(
        (status = 200, body = SilencesAnswer),
        (status = 404, description = "Not of this process", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn silences(State(context): State<Context>, uri: Uri) -> Result<Json<SilencesAnswer>, Problem> {
    Params::of(&uri).finish()?;
    Ok(Json(SilencesAnswer { silences: alerts(&context)?.silences() }))
}

/// Makes a silence: for a time, nobody is told of alerts that match.
#[utoipa::path(
    post, path = "/silences", tag = "alerts",
    request_body = SilenceRequest,
    responses(
        (status = 201, body = Silence),
        (status = 400, description = "The silence is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site asks", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not sent as JSON", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn silence(
    State(context): State<Context>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Silence>), Problem> {
    Params::of(&uri).finish()?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Any page may send plain text and forms anywhere without asking first.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let detail = "expected the header content-type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let alerts = alerts(&context)?;
    let wrong = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let request: SilenceRequest =
        serde_json::from_slice(&body).map_err(|error| wrong(format!("the body is not a silence: {error}")))?;
    let now = wall_clock_ms();
    let until = match (&request.until, request.lasts) {
        (Some(text), None) => {
            parse_time(text).ok_or_else(|| wrong(format!("until: expected a time, got \"{text}\"")))?
        }
        (None, Some(span)) => now.saturating_add(span.as_millis()),
        _ => return Err(wrong("expected one of until and for".to_owned())),
    };
    if until <= now {
        return Err(wrong(format!("expected an end in the future, got {until}")));
    }
    let SilenceRequest { alert, keys, comment, all, .. } = request;
    if alert.is_none() && keys.is_empty() && !all {
        return Err(wrong("expected alert, keys, or \"all\": true, got none: it would silence everything".to_owned()));
    }
    if let Some(name) = alert.as_ref().filter(|name| !alerts.has_like(name)) {
        let names = alerts.names().join(", ");
        return Err(wrong(format!("alert: expected the name of an alert ({names}), got \"{name}\"")));
    }
    if comment.trim().is_empty() {
        return Err(wrong("comment: expected why, got nothing".to_owned()));
    }
    let made = alerts.silence(Silence { id: 0, alert, keys, until, comment });
    made.map(|silence| (StatusCode::CREATED, Json(silence))).map_err(|error| Problem::unavailable(error.to_string()))
}

/// Removes a silence.
#[utoipa::path(
    delete, path = "/silences/{id}", tag = "alerts",
    params(("id" = u64, Path, description = "The silence's number")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is no such silence", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn unsilence(
    State(context): State<Context>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::of(&uri).finish()?;
    let alerts = alerts(&context)?;
    let none = || Problem::not_found("there is no such silence; GET /silences lists them");
    let id: u64 = id.parse().map_err(|_| none())?;
    match alerts.unsilence(id) {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(none()),
        Err(error) => Err(Problem::unavailable(error.to_string())),
    }
}
