//! `/patterns`: templates of messages with their counts, from the live state.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::Millis;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::params::{Params, parse_pattern_id, pattern_text, shown};
use super::problem::{Problem, ProblemDocument};
use super::{ApiConfig, Context};
use crate::live::AsOf;
use crate::live::patterns::{CountedPattern, PatternFilter, PatternsRead, Sample};

/// Pages go this far.
const MAX_PAGED: usize = 1_000_000;
/// Services that a pattern in a list names; the rest are counted together.
const SERVICES_LISTED: usize = 20;
/// A pattern is new for so long after it was first counted, and only where counting had gone on for so long before.
const NEW_FOR_MS: u64 = 3_600_000;

/// Filters and paging of patterns. All filters have to match.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PatternParams {
    /// Count only records of this service, exactly.
    pub service_name: Option<String>,
    /// Count only records of this level, in upper or lower case.
    #[param(value_type = Option<String>, example = "ERROR")]
    pub level: Option<Level>,
    /// Last seen at or after (event time): milliseconds since the epoch or RFC 3339.
    #[param(value_type = Option<String>)]
    pub from: Option<Millis>,
    /// Last seen before (event time): milliseconds since the epoch or RFC 3339.
    #[param(value_type = Option<String>)]
    pub to: Option<Millis>,
    /// Text that occurs in the template, in that of a first cut or in a sample, in any case of letters.
    pub q: Option<String>,
    /// The pattern of this id, or with a first cut of this id: the `pattern_id` of a log document.
    #[param(value_type = Option<String>, example = "7f9c2ba4e88f827d")]
    pub id: Option<u64>,
    /// Only patterns that are new, or only those that are not.
    pub new: Option<bool>,
    /// The page, from 1.
    #[param(value_type = Option<usize>, minimum = 1)]
    pub page: usize,
    /// Patterns on a page; 50 unless configured otherwise.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000)]
    pub size: usize,
}

impl PatternParams {
    fn parse(uri: &Uri, config: &ApiConfig) -> Result<Self, Problem> {
        let mut params = Params::of(uri);
        let (from, to) = params.times("from", "to");
        let level = params.level("level");
        let (page, size) = params.page(config, MAX_PAGED);
        let parsed = Self {
            service_name: params.text("service_name"),
            level,
            from,
            to,
            q: params.text("q").map(|text| text.to_lowercase()),
            id: params.pattern_id("id"),
            new: params.flag("new"),
            page,
            size,
        };
        params.finish()?;
        Ok(parsed)
    }

    fn matches(&self, pattern: &CountedPattern, is_new: bool) -> bool {
        let contains = |text: &str, q: &str| text.to_lowercase().contains(q);
        self.from.is_none_or(|from| pattern.last_ms >= from)
            && self.to.is_none_or(|to| pattern.last_ms < to)
            && self.new.is_none_or(|new| new == is_new)
            && self.id.is_none_or(|id| pattern.id == id || pattern.cuts.iter().any(|(cut, ..)| *cut == id))
            && self.q.as_deref().is_none_or(|q| {
                let in_cut = || pattern.cuts.iter().any(|(_, template, _)| contains(template, q));
                let in_sample = || pattern.samples.iter().any(|sample| contains(&sample.message, q));
                contains(&pattern.template, q) || in_sample() || in_cut()
            })
    }
}

/// A page of patterns, the most frequent first.
#[derive(Debug, Serialize, ToSchema)]
pub struct PatternsAnswer {
    /// How many patterns match.
    pub total: usize,
    /// Records counted, of the service and the level that were asked for; the counts of all patterns add up to it.
    pub count: i64,
    /// The page, from 1.
    pub page: usize,
    /// The largest number of patterns on the page.
    pub size: usize,
    /// The patterns.
    pub patterns: Vec<PatternDocument>,
    /// The time before `as_of` that rates are taken over, in milliseconds of the event clock.
    pub rate_window_ms: u64,
    /// The event-clock time that this is exact for, in milliseconds since the epoch; `null` before the first record.
    pub as_of: Option<Millis>,
}

/// A pattern. Times are milliseconds since the epoch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pattern)]
pub struct PatternDocument {
    /// The id of its template. It changes when first cuts join; those of the cuts do not.
    #[schema(example = "7f9c2ba4e88f827d")]
    pub id: String,
    /// The words of the messages with `<*>` for values; `__other__` for what found no room.
    #[schema(example = "session of <*> was closed")]
    pub template: String,
    /// Records.
    pub count: i64,
    /// `count` over all records of the service and the level that were asked for.
    pub share: f64,
    /// Records per second, over `rate_window_ms`.
    pub rate: f64,
    /// Smallest event time.
    pub first_seen: Millis,
    /// Largest event time.
    pub last_seen: Millis,
    /// First counted in the last hour of the event clock, and at least an hour after counting began.
    pub new: bool,
    /// Its first record by event time, of any service and level.
    pub sample: Option<SampleDocument>,
    /// The first records of its first cuts, up to three with different messages; `sample` is the first of them.
    pub samples: Vec<SampleDocument>,
    /// Records by service; they add up to `count`. In a list the 20 largest, and the rest as `__other__`.
    pub services: BTreeMap<String, i64>,
    /// Records by level; they add up to `count`.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub levels: BTreeMap<Level, i64>,
    /// The first cuts that it is made of. Log documents have their ids as `pattern_id`.
    pub cuts: Vec<CutDocument>,
}

/// A first cut.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FirstCut)]
pub struct CutDocument {
    /// Its id, which is the `pattern_id` of log documents and never changes.
    pub id: String,
    /// Its template.
    pub template: String,
    /// Records.
    pub count: i64,
}

/// A record of a pattern.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PatternSample)]
pub struct SampleDocument {
    /// The message, or its first 512 bytes.
    pub message: String,
    /// Event time in milliseconds since the epoch.
    pub timestamp: Millis,
    /// Topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// Offset.
    pub offset: u64,
}

/// One pattern, with the time that it is exact for.
#[derive(Debug, Serialize, ToSchema)]
pub struct PatternAnswer {
    /// The pattern of today.
    pub pattern: PatternDocument,
    /// The time before `as_of` that rates are taken over, in milliseconds of the event clock.
    pub rate_window_ms: u64,
    /// The event-clock time that this is exact for, in milliseconds since the epoch.
    pub as_of: Option<Millis>,
}

impl From<&Sample> for SampleDocument {
    fn from(sample: &Sample) -> Self {
        Self {
            message: sample.message.to_string(),
            timestamp: sample.timestamp_ms,
            topic: sample.topic.to_string(),
            partition: sample.partition,
            offset: sample.offset,
        }
    }
}

/// What documents are made with.
struct Frame {
    as_of: Option<Millis>,
    began_ms: Millis,
    tick_ms: u64,
    count: i64,
    rate_window_ms: u64,
}

impl Frame {
    fn of(read: &AsOf<PatternsRead>, tick_ms: u64) -> Self {
        let PatternsRead { count, began, rate_ticks, .. } = read.value;
        let began_ms = began.unwrap_or(0) * tick_ms;
        Self { as_of: read.as_of, began_ms, tick_ms, count, rate_window_ms: rate_ticks * tick_ms }
    }

    fn is_new(&self, pattern: &CountedPattern) -> bool {
        let first = pattern.first_tick.saturating_mul(self.tick_ms);
        first >= self.began_ms + NEW_FOR_MS && first.saturating_add(NEW_FOR_MS) > self.as_of.unwrap_or(0)
    }

    fn document(&self, pattern: &CountedPattern, services_listed: usize) -> PatternDocument {
        let mut services: Vec<_> = pattern.services.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        services.sort_by_key(|(_, count)| -count);
        let rest: i64 = services.drain(services_listed.min(services.len())..).map(|(_, count)| count).sum();
        let mut services: BTreeMap<_, _> = services.into_iter().collect();
        if rest > 0 {
            *services.entry(floodmark_dataflows::view::OTHER.to_owned()).or_default() += rest;
        }
        let cut = |(id, template, count): &(u64, std::sync::Arc<str>, i64)| CutDocument {
            id: pattern_text(*id),
            template: template.to_string(),
            count: *count,
        };
        PatternDocument {
            id: pattern_text(pattern.id),
            template: pattern.template.to_string(),
            count: pattern.count,
            share: pattern.count as f64 / self.count.max(1) as f64,
            rate: pattern.recent as f64 * 1_000.0 / self.rate_window_ms.max(1) as f64,
            first_seen: pattern.first_ms,
            last_seen: pattern.last_ms,
            new: self.is_new(pattern),
            sample: pattern.samples.first().map(|sample| SampleDocument::from(&**sample)),
            samples: pattern.samples.iter().map(|sample| SampleDocument::from(&**sample)).collect(),
            services,
            levels: pattern.levels.clone(),
            cuts: pattern.cuts.iter().filter(|(.., count)| *count > 0).map(cut).collect(),
        }
    }
}

/// The patterns of messages with their counts, the most frequent first.
#[utoipa::path(
    get, path = "/patterns", tag = "patterns", params(PatternParams),
    responses(
        (status = 200, body = PatternsAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(context): State<Context>, uri: Uri) -> Result<Json<PatternsAnswer>, Problem> {
    let params = PatternParams::parse(&uri, &context.config)?;
    let filter = PatternFilter { service: params.service_name.clone(), level: params.level };
    let read = read(&context, filter).await?;
    let frame = Frame::of(&read, context.state.live.tick_ms());
    let mut found: Vec<_> =
        read.value.patterns.iter().filter(|pattern| params.matches(pattern, frame.is_new(pattern))).collect();
    found.sort_unstable_by_key(|pattern| (-pattern.count, pattern.id));
    let PatternParams { page, size, .. } = params;
    let shown = found.iter().skip((page - 1).saturating_mul(size)).take(size);
    Ok(Json(PatternsAnswer {
        total: found.len(),
        count: frame.count,
        page,
        size,
        patterns: shown.map(|pattern| frame.document(pattern, SERVICES_LISTED)).collect(),
        rate_window_ms: frame.rate_window_ms,
        as_of: frame.as_of,
    }))
}

/// The pattern of today that an id stands for: its own, or that of a first cut, as log documents have it.
#[utoipa::path(
    get, path = "/patterns/{id}", tag = "patterns",
    params(("id" = String, Path, description = "The id of a pattern or of a first cut: 16 hexadecimal digits")),
    responses(
        (status = 200, body = PatternAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such pattern", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn one(
    State(context): State<Context>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<PatternAnswer>, Problem> {
    let mut params = Params::of(&uri);
    let wanted = parse_pattern_id(&id);
    if wanted.is_none() {
        params.refuse("id", format!("expected 16 hexadecimal digits, got \"{}\"", shown(&id)));
    }
    params.finish()?;
    let wanted = wanted.unwrap_or_default();
    let read = read(&context, PatternFilter::default()).await?;
    let frame = Frame::of(&read, context.state.live.tick_ms());
    let patterns = &read.value.patterns;
    let by_id = patterns.iter().find(|pattern| pattern.id == wanted);
    let found = by_id.or_else(|| patterns.iter().find(|pattern| pattern.cuts.iter().any(|(id, ..)| *id == wanted)));
    let found = found.ok_or_else(|| {
        Problem::not_found(
            "there is no pattern with this id, and none with a first cut of this id; a first cut that found no room is \
             counted in the pattern __other__",
        )
    })?;
    Ok(Json(PatternAnswer {
        pattern: frame.document(found, usize::MAX),
        rate_window_ms: frame.rate_window_ms,
        as_of: frame.as_of,
    }))
}

/// Reads the counts away from the threads that answer: many first cuts take a while to merge.
async fn read(context: &Context, filter: PatternFilter) -> Result<AsOf<PatternsRead>, Problem> {
    let live = context.state.live.clone();
    let read = tokio::task::spawn_blocking(move || live.patterns(&filter)).await;
    read.map_err(|error| Problem::unavailable(error.to_string()))
}
