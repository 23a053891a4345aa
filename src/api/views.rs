//! `/views`: windows and totals by key, from the live state.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use floodmark_dataflows::corrections::KEPT_REVISIONS;
use floodmark_dataflows::output::{KeyFields, WindowDocument};
use floodmark_dataflows::time::Millis;
use floodmark_dataflows::view::{Key, View, ViewId};
use serde::Serialize;
use utoipa::ToSchema;

use super::Context;
use super::params::{Params, parse_time, shown};
use super::problem::{Problem, ProblemDocument};
use super::schema::{TotalsAnswer, WindowSchema};
use crate::live::{KeyFilter, WindowQuery, key_fields};

/// How far pages go; a narrower range goes further.
const MAX_PAGED: usize = 10_000;

/// All views.
#[derive(Debug, Serialize, ToSchema)]
pub struct ViewsAnswer {
    /// The event-clock time that this is exact for, in milliseconds since the epoch; `null` before the first record.
    pub as_of: Option<Millis>,
    /// In the order of the configuration.
    pub views: Vec<ViewAnswer>,
}

/// A view: its definition, and what it holds at present.
#[derive(Debug, Serialize, ToSchema)]
pub struct ViewAnswer {
    /// Its name.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// The key fields.
    #[schema(value_type = Vec<String>)]
    key: Vec<Arc<str>>,
    /// Width of a window.
    width_ms: u64,
    /// Distance between the starts of windows; equal to the width for tumbling windows.
    slide_ms: u64,
    /// How long after its end a window is corrected without a revision.
    lateness_ms: u64,
    /// How long after its end a window is kept.
    retention_ms: u64,
    /// Keys known at present.
    keys: usize,
    /// Windows in memory, counted once for all keys.
    windows: usize,
    /// Memory of the windows.
    memory_bytes: usize,
    /// Over all keys, since the start.
    totals: TotalsAnswer,
    /// Records that came after their windows were gone.
    too_late: i64,
}

/// A page of windows, newest first, then by key.
#[derive(Debug, Serialize, ToSchema)]
pub struct WindowsAnswer {
    /// The view's name.
    #[schema(value_type = String)]
    view: Arc<str>,
    /// The event-clock time that this is exact for, in milliseconds since the epoch; `null` before the first record.
    as_of: Option<Millis>,
    /// Since the start, over the keys asked for.
    totals: TotalsAnswer,
    /// The page, from 1.
    page: usize,
    /// The largest number of windows on the page.
    size: usize,
    /// Whether there is another page.
    more: bool,
    /// The windows.
    #[schema(value_type = Vec<WindowSchema>)]
    windows: Vec<WindowDocument>,
}

/// A page of keys, ascending.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeysAnswer {
    /// The view's name.
    #[schema(value_type = String)]
    view: Arc<str>,
    /// The event-clock time that this is exact for, in milliseconds since the epoch; `null` before the first record.
    as_of: Option<Millis>,
    /// How many keys match.
    total: usize,
    /// Over all keys that match; without a filter these are the totals of the view.
    totals: TotalsAnswer,
    /// The page, from 1.
    page: usize,
    /// The largest number of keys on the page.
    size: usize,
    /// The keys.
    keys: Vec<KeyAnswer>,
}

/// A key with its totals since the start.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyAnswer {
    /// The key fields with their values.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    key: KeyFields,
    /// Since the start.
    totals: TotalsAnswer,
}

/// The revisions of a window of a key.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryAnswer {
    /// The view's name.
    #[schema(value_type = String)]
    view: Arc<str>,
    /// The key fields with their values.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    key: KeyFields,
    /// Start of the window, inclusive.
    start: Millis,
    /// End of the window, exclusive.
    end: Millis,
    /// The event-clock time that this is exact for, in milliseconds since the epoch.
    as_of: Option<Millis>,
    /// How many revisions before the latest are kept at the most.
    kept: usize,
    /// The window at each revision, newest first: the first is as it is now. `previous` is left out: it is the next one.
    #[schema(value_type = Vec<WindowSchema>)]
    revisions: Vec<WindowDocument>,
}

fn find<'a>(context: &'a Context, name: &str) -> Result<(ViewId, &'a View), Problem> {
    context.state.live.find(name).ok_or_else(|| {
        let names: Vec<&str> = context.state.live.listed().map(|(_, view)| &*view.name).collect();
        Problem::not_found(format!("there is no such view; there are: {}", names.join(", ")))
    })
}

/// The keys that the parameters named after key fields ask for.
pub(super) fn fields(params: &mut Params, view: &View, taken: &[&str]) -> Vec<Option<String>> {
    view.key.iter().map(|field| if taken.contains(&&**field) { None } else { params.text(field) }).collect()
}

/// The keys that are asked for either as one or by their fields.
pub(super) fn key_filter(params: &mut Params, key: Option<String>, fields: Vec<Option<String>>) -> KeyFilter {
    let by_field = fields.iter().any(Option::is_some);
    match key {
        Some(_) if by_field => {
            params.refuse("key", "expected either a key or key fields, not both");
            KeyFilter::All
        }
        Some(key) => KeyFilter::Exactly(Key(key.into())),
        None if by_field => KeyFilter::Fields(fields),
        None => KeyFilter::All,
    }
}

fn page(params: &mut Params, context: &Context) -> (usize, usize) {
    let (page, size) = params.page(&context.config, usize::MAX);
    if page.saturating_mul(size) > MAX_PAGED {
        params.refuse("page", format!("page × size is at most {MAX_PAGED}; ask for less by key or time"));
    }
    (page, size)
}

/// All views with their totals.
#[utoipa::path(
    get, path = "/views", tag = "views",
    responses(
        (status = 200, body = ViewsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(context): State<Context>, uri: Uri) -> Result<Json<ViewsAnswer>, Problem> {
    Params::of(&uri).finish()?;
    let live = &context.state.live;
    let read = live.summaries();
    let views = read.value.iter().zip(live.listed()).map(|(summary, (_, view))| ViewAnswer {
        name: view.name.clone(),
        key: view.key.clone(),
        width_ms: view.width_ms,
        slide_ms: view.slide_ms,
        lateness_ms: view.lateness_ms,
        retention_ms: view.retention_ms,
        keys: summary.keys,
        windows: summary.windows,
        memory_bytes: summary.memory.bytes,
        totals: (&summary.totals).into(),
        too_late: summary.totals.too_late,
    });
    Ok(Json(ViewsAnswer { as_of: read.as_of, views: views.collect() }))
}

/// The windows of a view, newest first.
///
/// Each key field of the view is a parameter too and takes its value exactly, as in
/// `/views/per_service?service_name=auth-service`.
#[utoipa::path(
    get, path = "/views/{name}", tag = "views",
    params(
        ("name" = String, Path, description = "The view's name"),
        ("key" = Option<String>, Query, description = "The key: its values joined by `/`, with `%`, `/` and control \
            characters in them percent-encoded. Not together with key fields."),
        ("from" = Option<String>, Query, description = "Windows that end after: milliseconds since the epoch or RFC 3339"),
        ("to" = Option<String>, Query, description = "Windows that start before: milliseconds since the epoch or RFC 3339"),
        ("page" = Option<usize>, Query, minimum = 1, description = "The page, from 1. `page × size` is at most 10,000; go \
            on with a narrower range from there."),
        ("size" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "Windows on a page; 50 unless \
            configured otherwise"),
    ),
    responses(
        (status = 200, body = WindowsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such view", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn windows(
    State(context): State<Context>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<WindowsAnswer>, Problem> {
    let (id, view) = find(&context, &name)?;
    let mut params = Params::of(&uri);
    let key = params.text("key");
    let (from_ms, to_ms) = params.times("from", "to");
    let (page, size) = page(&mut params, &context);
    let fields = fields(&mut params, view, &["key", "from", "to", "page", "size"]);
    let keys = key_filter(&mut params, key, fields);
    params.finish()?;
    let query = WindowQuery { keys, from_ms, to_ms, skip: (page - 1) * size, size };
    let read = context.state.live.windows(id, &query).ok_or_else(|| Problem::not_found("there is no such view"))?;
    Ok(Json(WindowsAnswer {
        view: view.name.clone(),
        as_of: read.as_of,
        totals: (&read.value.totals).into(),
        page,
        size,
        more: read.value.more,
        windows: read.value.windows,
    }))
}

/// The keys of a view with their totals since the start, ascending.
///
/// Each key field of the view is a parameter too and takes its value exactly.
#[utoipa::path(
    get, path = "/views/{name}/keys", tag = "views",
    params(
        ("name" = String, Path, description = "The view's name"),
        ("page" = Option<usize>, Query, minimum = 1, description = "The page, from 1"),
        ("size" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "Keys on a page; 50 unless configured \
            otherwise"),
    ),
    responses(
        (status = 200, body = KeysAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such view", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn keys(
    State(context): State<Context>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<KeysAnswer>, Problem> {
    let (id, view) = find(&context, &name)?;
    let mut params = Params::of(&uri);
    let (page, size) = params.page(&context.config, 10_000_000);
    let fields = fields(&mut params, view, &["page", "size"]);
    params.finish()?;
    let filter = if fields.iter().any(Option::is_some) { KeyFilter::Fields(fields) } else { KeyFilter::All };
    let read = context
        .state
        .live
        .keys(id, &filter, (page - 1) * size, size)
        .ok_or_else(|| Problem::not_found("there is no such view"))?;
    let keys = read.value.keys.iter();
    Ok(Json(KeysAnswer {
        view: view.name.clone(),
        as_of: read.as_of,
        total: read.value.total,
        totals: (&read.value.totals).into(),
        page,
        size,
        keys: keys.map(|(key, totals)| KeyAnswer { key: key_fields(view, key), totals: totals.into() }).collect(),
    }))
}

/// What late records did to a window: each of its revisions, newest first.
///
/// A window that is final has revision 0; each tick of the event clock that brings late records to it makes the next.
#[utoipa::path(
    get, path = "/views/{name}/{key}/{start}/history", tag = "views",
    params(
        ("name" = String, Path, description = "The view's name"),
        ("key" = String, Path, description = "The key: its values joined by `/`, with `%`, `/` and control characters in \
            them percent-encoded; all of it percent-encoded once more as a part of a path, so that `/` is `%2F`"),
        ("start" = String, Path, description = "Start of the window: milliseconds since the epoch or RFC 3339"),
    ),
    responses(
        (status = 200, body = HistoryAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such window", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn history(
    State(context): State<Context>,
    Path((name, key, start)): Path<(String, String, String)>,
    uri: Uri,
) -> Result<Json<HistoryAnswer>, Problem> {
    let (id, view) = find(&context, &name)?;
    let mut params = Params::of(&uri);
    let (key, time) = (Key(key.into()), parse_time(&start));
    if !time.is_some_and(|start| start.is_multiple_of(view.slide_ms)) {
        let expected = format!("expected a multiple of {} milliseconds since the epoch, or as RFC 3339", view.slide_ms);
        params.refuse("start", format!("{expected}, got \"{}\"", shown(&start)));
    }
    if key.values().len() != view.key.len() {
        params.refuse("key", format!("expected the values of {} joined by %2F", view.key.join(", ")));
    }
    params.finish()?;
    let start = time.unwrap_or_default();
    let read = context.state.live.history(id, &key, start);
    let revisions = read.value.ok_or_else(|| {
        let seconds = view.retention_ms / 1_000;
        Problem::not_found(format!(
            "there is no window of this key at this start; windows are kept for {seconds} s of event time after their end"
        ))
    })?;
    Ok(Json(HistoryAnswer {
        view: view.name.clone(),
        key: key_fields(view, &key),
        start,
        end: view.end_of(start),
        as_of: read.as_of,
        kept: KEPT_REVISIONS,
        revisions,
    }))
}
