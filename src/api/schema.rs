//! How the answers that are made elsewhere look, for the API's description. A test holds them to what is answered.

use std::collections::BTreeMap;

use floodmark_dataflows::output::StatusClass;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::Millis;
use serde::Serialize;
use utoipa::ToSchema;

use crate::live::totals::Totals;

/// A window of a key. Times are milliseconds since the epoch.
#[derive(ToSchema)]
#[schema(as = Window)]
#[expect(dead_code, reason = "describes WindowDocument, whose crate knows nothing of HTTP")]
pub struct WindowSchema {
    /// The view's name.
    #[schema(example = "per_service")]
    view: String,
    /// The key fields with their values.
    #[schema(example = json!({"service_name": "auth-service"}))]
    key: BTreeMap<String, String>,
    /// Start, inclusive.
    start: Millis,
    /// End, exclusive.
    end: Millis,
    /// The number of records.
    count: i64,
    /// Records by level; levels without records are left out.
    #[schema(example = json!({"INFO": 40, "ERROR": 2}))]
    levels: BTreeMap<String, i64>,
    /// Records by status class; classes without records are left out.
    #[schema(example = json!({"2xx": 40, "5xx": 2}))]
    status: BTreeMap<String, i64>,
    /// Records of level `ERROR` or `FATAL`.
    errors: i64,
    /// Records whose severity reached the anomaly threshold.
    anomalies: i64,
    /// Absent when no record has a response time.
    response_time_ms: Option<ResponseTimeSchema>,
    /// The numbers that the view names, those that some record has. Left out where there are none.
    numbers: Option<BTreeMap<String, NumberSchema>>,
    /// The records that the rules matched that the view names; those that matched none are left out.
    rules: Option<BTreeMap<String, i64>>,
    /// Highest severity of a record, 0 to 100.
    max_severity: u8,
    /// Smallest event time.
    first: Millis,
    /// Largest event time.
    last: Millis,
    /// The number of distinct ticks at which late records changed the window.
    revision: u32,
    /// Records among `count` that came after the window was final.
    late_records: i64,
    /// The window before its last correction; absent for a window without corrections, and for one that began with a late
    /// record.
    previous: Option<PreviousSchema>,
    /// The allowed lateness is over: only late records change the window from here on.
    r#final: bool,
    /// The window began before its view did: records are missing. Left out when it is not so.
    partial: Option<bool>,
    /// How unusual the window is; absent while it is open, and where its view is not scored.
    score: Option<ScoreSchema>,
    /// The event-clock time of the last change shown.
    as_of: Millis,
}

/// How unusual a window is, and why.
#[derive(ToSchema)]
#[schema(as = Score)]
#[expect(dead_code, reason = "describes WindowScore, whose crate knows nothing of HTTP")]
pub struct ScoreSchema {
    /// 0 to 100; 75 means about the same for every key.
    score: u8,
    /// The name of its range, as of a severity.
    #[schema(example = "HIGH")]
    level: String,
    /// There is too little history to judge by.
    learning: bool,
    /// A partition could not be read at that time: nothing is said of the rate. Left out when it is not so.
    stalled: Option<bool>,
    /// The measures that it is made of, the most unusual first.
    measures: Vec<MeasureScoreSchema>,
}

/// How unusual a measure of a window is.
#[derive(ToSchema)]
#[schema(as = MeasureScore)]
#[expect(dead_code, reason = "describes MeasureScore, whose crate knows nothing of HTTP")]
pub struct MeasureScoreSchema {
    /// Its name in the configuration.
    #[schema(example = "rate")]
    measure: String,
    /// 0 to 100.
    score: u8,
    /// What was measured.
    actual: Option<f64>,
    /// What the windows before let expect.
    expected: f64,
    /// The lower end of what is usual.
    low: f64,
    /// The upper end of what is usual.
    high: f64,
    /// The share of earlier windows that were at least as unusual.
    rarity: f64,
    /// The ways in which it is unusual, the most unusual first.
    reasons: Vec<String>,
}

/// A window as it was before its last correction, in brief.
#[derive(ToSchema)]
#[schema(as = Previous)]
#[expect(dead_code, reason = "describes Previous, whose crate knows nothing of HTTP")]
pub struct PreviousSchema {
    /// The number of records.
    count: i64,
    /// Records of level `ERROR` or `FATAL`.
    errors: i64,
    /// Records whose severity reached the anomaly threshold.
    anomalies: i64,
    /// Absent when no record has a response time.
    response_time_ms: Option<ResponseTimeSchema>,
    /// The numbers that the view names, those that some record has. Left out where there are none.
    numbers: Option<BTreeMap<String, NumberSchema>>,
    /// The records that the rules matched that the view names; those that matched none are left out.
    rules: Option<BTreeMap<String, i64>>,
    /// The `as_of` of that revision.
    as_of: Millis,
}

/// Response times of a window in milliseconds. Percentiles are within 1 %, the others exact.
#[derive(ToSchema)]
#[schema(as = ResponseTime)]
#[expect(dead_code, reason = "describes ResponseTime, whose crate knows nothing of HTTP")]
pub struct ResponseTimeSchema {
    min: f64,
    max: f64,
    sum: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
}

/// A number of a window. Percentiles are within 1 %, the others exact to the millionth.
#[derive(ToSchema)]
#[schema(as = Number)]
#[expect(dead_code, reason = "describes NumberSummary, whose crate knows nothing of HTTP")]
pub struct NumberSchema {
    /// The number of records that have it.
    count: i64,
    min: f64,
    max: f64,
    sum: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
}

/// Counts since the start.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Totals)]
pub struct TotalsAnswer {
    /// The number of records.
    count: i64,
    /// Records by level; levels without records are left out.
    #[schema(value_type = BTreeMap<String, i64>)]
    levels: BTreeMap<Level, i64>,
    /// Records by status class; classes without records are left out.
    #[schema(value_type = BTreeMap<String, i64>)]
    status: BTreeMap<StatusClass, i64>,
    /// Records of level `ERROR` or `FATAL`.
    errors: i64,
    /// Records whose severity reached the anomaly threshold.
    anomalies: i64,
    /// Response times; absent when no record has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time_ms: Option<ResponseSum>,
    /// Highest severity of a record, 0 to 100.
    max_severity: u8,
    /// Smallest event time in milliseconds since the epoch; absent without records.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Millis>,
    /// Largest event time in milliseconds since the epoch; absent without records.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Millis>,
    /// Records that came after their windows were final, and corrected them.
    late: i64,
    /// Records that came after their windows were gone: in these totals, and in no window.
    too_late: i64,
}

/// Response times since the start, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResponseSum {
    /// Records that have one.
    count: i64,
    /// Sum.
    sum: f64,
    /// Mean.
    mean: f64,
}

impl From<&Totals> for TotalsAnswer {
    fn from(totals: &Totals) -> Self {
        let count = totals.count();
        let (responses, sum_us) = (totals.response_count, totals.response_sum_us as f64);
        Self {
            count,
            levels: totals.levels(),
            status: totals.status(),
            errors: totals.errors(),
            anomalies: totals.anomalies,
            response_time_ms: (responses > 0).then(|| ResponseSum {
                count: responses,
                sum: sum_us / 1_000.0,
                mean: (sum_us / responses as f64).round() / 1_000.0,
            }),
            max_severity: totals.max_severity,
            first: (count > 0).then_some(totals.first_ms),
            last: (count > 0).then_some(totals.last_ms),
            late: totals.late,
            too_late: totals.too_late,
        }
    }
}
