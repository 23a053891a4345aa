//! What the outside implements to receive documents, dead letters and windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::corrections::{Late, Measures, ResponseMeasures};
use crate::detect::BaselineState;
use crate::input::{PartitionInfo, RawRecord};
use crate::ledger::Ledger;
use crate::numbers::{NumberSummary, matches, summaries};
use crate::patterns::PatternUpdate;
use crate::ranges::{Range, Ranges};
use crate::record::{Level, Record};
use crate::rules::Verdict;
use crate::scores::ScoreUpdate;
use crate::time::{Millis, Tick};
use crate::view::{Key, View, ViewId};

/// Why a record could not be used. The name is the `reason` of the dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The bytes are not in the configured format.
    Malformed,
    /// A field has the wrong type or a value out of range.
    WrongType,
    /// The record has no event time.
    MissingTimestamp,
    /// Event time more than `max_future` ahead of arrival.
    ClockAhead,
    /// Longer than `max_record_bytes`.
    TooLong,
    /// The store refused the document for good.
    Unindexable,
}

impl Reason {
    /// Every reason. The place of each is its number.
    pub const ALL: [Reason; 6] = [
        Reason::Malformed,
        Reason::WrongType,
        Reason::MissingTimestamp,
        Reason::ClockAhead,
        Reason::TooLong,
        Reason::Unindexable,
    ];

    /// The name in documents, metrics and the API.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::WrongType => "wrong_type",
            Reason::MissingTimestamp => "missing_timestamp",
            Reason::ClockAhead => "clock_ahead",
            Reason::TooLong => "too_long",
            Reason::Unindexable => "unindexable",
        }
    }
}

/// Where the records of one worker go. The worker asks [`RecordSink::ready`] before it reads on, so a full sink stops
/// the source; the calls themselves never block and never lose anything.
pub trait RecordSink {
    /// Whether there is room for another batch of records.
    fn ready(&mut self) -> bool;

    /// Whether a record with this verdict is to be stored; the configuration may keep some out.
    fn indexes(&self, _verdict: Verdict) -> bool {
        true
    }

    /// Takes a record that was read, decoded and scored.
    fn log(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, record: &Record<'_>, verdict: Verdict);

    /// Takes a record that could not be used. `detail` says what was expected and what came.
    fn dead_letter(&mut self, partition: &Arc<PartitionInfo>, raw: RawRecord<'_>, reason: Reason, detail: &str);

    /// Takes note that the source no longer had the offsets `from..to` when they were to be read.
    fn lost(&mut self, partition: &Arc<PartitionInfo>, from: u64, to: u64);

    /// Where a partition stands now. Everything before `progress.next_offset` has been passed in. Called at the end of
    /// an activation for each partition that moved.
    fn progress(&mut self, partition: &Arc<PartitionInfo>, progress: PartitionProgress);

    /// The frontier of the dataflow in ticks, as this worker knows it.
    fn frontier(&mut self, frontier: Tick);
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Offset to read next.
    pub next_offset: u64,
    /// Event clock in ticks; absent before the first record.
    pub clock: Option<Tick>,
    /// Hold in ticks; 0 before the partition was first idle or stalled.
    pub hold: Tick,
    /// The source said that this is the end, for now.
    pub at_end: bool,
    /// Released for being at its end for `idle_after`.
    pub idle: bool,
    /// Released for being unreadable for `stall_after`.
    pub stalled: bool,
    /// Left alone for being more than `max_ahead` before the frontier.
    pub paused: bool,
    /// Nothing more will come.
    pub ended: bool,
    /// What became of each of its offsets.
    pub ledger: Ledger,
}

/// A change of a view's state, before any exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViewUpdate {
    /// The view.
    pub view: ViewId,
    /// The start of the pane, or `None` for records too late for every window of the view: they count in the totals
    /// and as `too_late`.
    pub pane: Option<Millis>,
    /// The key.
    pub key: Key,
    /// The timestamp of the records.
    pub time: Tick,
    /// What they add.
    pub aggregate: Aggregate,
}

/// Receives the state for live reads: every process gets every update.
pub trait LiveSink {
    /// Takes all updates with timestamps before `frontier` that were not passed in yet, in no particular order but that
    /// those of patterns are in order of their time, and of their sending within a partition. With them applied, the
    /// state is complete and exact as of `frontier`.
    fn apply(&mut self, frontier: Tick, updates: Vec<ViewUpdate>, patterns: Vec<PatternUpdate>);

    /// Takes the scores that are shown as of the `frontier` of the next [`LiveSink::apply`] and were not passed in yet, in
    /// order of the ticks from which they are.
    fn scores(&mut self, updates: Vec<ScoreUpdate>);

    /// A checkpoint is made of the state as it is now, complete and exact as of `at`. Must not block.
    fn cut(&mut self, at: Tick);
}

/// Receives window documents.
pub trait WindowSink {
    /// Takes documents that changed, newest state last.
    fn windows(&mut self, documents: Vec<WindowDocument>);
}

/// A window as it is published: what the store keeps and the API answers. All times are epoch milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowDocument {
    /// The view's name.
    pub view: Arc<str>,
    /// The key fields with their values, in the view's order.
    pub key: KeyFields,
    /// Start of the window, inclusive.
    pub start: Millis,
    /// End of the window, exclusive.
    pub end: Millis,
    /// The number of records.
    pub count: i64,
    /// Records by level; levels without records are left out.
    pub levels: BTreeMap<Level, i64>,
    /// Records by status class (`2xx`); classes without records are left out.
    pub status: BTreeMap<StatusClass, i64>,
    /// Records of level `ERROR` or `FATAL`.
    pub errors: i64,
    /// Records whose severity reached the anomaly threshold.
    pub anomalies: i64,
    /// Response times in milliseconds; absent when no record has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<ResponseTime>,
    /// The numbers that the view names, those that some record has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<Arc<str>, NumberSummary>,
    /// The records that the rules matched that the view names; rules that matched none are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<Arc<str>, i64>,
    /// Highest severity of a record.
    pub max_severity: u8,
    /// Smallest event time.
    pub first: Millis,
    /// Largest event time.
    pub last: Millis,
    /// The number of distinct ticks at which late records changed the window.
    pub revision: u32,
    /// Records among `count` that came after the window was final.
    #[serde(default)]
    pub late_records: i64,
    /// What the last correction changed: the window just before it. Absent for a window without corrections, and for
    /// one that began with a late record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// The allowed lateness is over: only late records change the window from here on.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The window began before its view did: records are missing. Left out when it is not so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// How unusual it is, once it is closed and where its view is scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<WindowScore>,
    /// The event-clock time that the state shown is of: everything before it is in.
    pub as_of: Millis,
    /// What alerts take along of it, where some look at it. Not published with the window.
    #[serde(skip)]
    pub evidence: Option<Arc<Evidence>>,
}

/// What an alert takes along of a window, so that what it says can be derived again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Where the records are, if that is not in the window's score.
    pub offsets: Vec<RecordRange>,
    /// The states of the baselines before the window, in the order of the view's measures, if it has a score that is worth
    /// an alert.
    pub baselines: Arc<[BaselineState]>,
}

/// A window as it was before its last correction, in brief.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// The number of records.
    pub count: i64,
    /// Records of level `ERROR` or `FATAL`.
    pub errors: i64,
    /// Records whose severity reached the anomaly threshold.
    pub anomalies: i64,
    /// Response times in milliseconds; absent when no record has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<ResponseTime>,
    /// The numbers that the view names, those that some record has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<Arc<str>, NumberSummary>,
    /// The records that the rules matched that the view names; rules that matched none are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<Arc<str>, i64>,
    /// The `as_of` of that revision's document.
    pub as_of: Millis,
}

/// How unusual a window is, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowScore {
    /// 0 to 100; 75 means about the same for every key.
    pub score: u8,
    /// The name of its range, as of a severity.
    pub level: Arc<str>,
    /// There is too little history to judge by.
    pub learning: bool,
    /// A partition could not be read at that time, and what it may have had is not in the window: nothing is said of
    /// its rate, and nothing learned. Left out when it is not so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stalled: bool,
    /// The measures that it is made of, the most unusual first.
    pub measures: Vec<MeasureScore>,
    /// Where the records of the window are, by partition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<RecordRange>,
}

/// How unusual a measure of a window is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureScore {
    /// Its name in the configuration.
    pub measure: Arc<str>,
    /// 0 to 100.
    pub score: u8,
    /// What was measured; absent where the window has no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<f64>,
    /// What the windows before let expect.
    pub expected: f64,
    /// The lower end of what is usual.
    pub low: f64,
    /// The upper end of what is usual.
    pub high: f64,
    /// The share of earlier windows that were at least as unusual.
    pub rarity: f64,
    /// The ways in which it is unusual, the most unusual first.
    pub reasons: Vec<Arc<str>>,
}

/// Where the records of a window are in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRange {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// What the topic is known by: its name (with its id when it was recreated), or the fingerprint of a file.
    pub identity: Arc<str>,
    /// The lowest offset.
    pub first: u64,
    /// The highest offset.
    pub last: u64,
    /// The partition's event clock at the lowest offset, that record included, in milliseconds.
    pub clock: Millis,
}

impl RecordRange {
    /// Where the records of a set are.
    pub fn all(ranges: &Ranges, tick_ms: u64) -> Vec<Self> {
        let of = |range: &Range| {
            let Range { partition, first, last, clock } = range;
            Self {
                topic: partition.topic.clone(),
                partition: partition.number,
                identity: partition.identity.clone(),
                first: *first,
                last: *last,
                clock: clock * tick_ms,
            }
        };
        ranges.iter().map(of).collect()
    }
}

/// Names and values of key fields, kept in the view's order. A JSON object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyFields(pub Vec<(Arc<str>, String)>);

impl Serialize for KeyFields {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for KeyFields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = KeyFields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of key fields")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<KeyFields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    fields.push((name.into(), value));
                }
                Ok(KeyFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A class of HTTP status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StatusClass {
    /// 100 to 199.
    #[serde(rename = "1xx")]
    Informational,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    Success,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    Redirection,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// Every class, 1xx first.
    pub const ALL: [StatusClass; 5] = [
        StatusClass::Informational,
        StatusClass::Success,
        StatusClass::Redirection,
        StatusClass::ClientError,
        StatusClass::ServerError,
    ];
}

/// Response times of a window in milliseconds. Minimum, maximum, sum and mean are exact to the microsecond; the
/// percentiles are within 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseTime {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Sum.
    pub sum: f64,
    /// Sum divided by the number of records that have a response time.
    pub mean: f64,
    /// Median (nearest rank).
    pub p50: f64,
    /// 90th percentile (nearest rank).
    pub p90: f64,
    /// 95th percentile (nearest rank).
    pub p95: f64,
    /// 99th percentile (nearest rank).
    pub p99: f64,
}

impl ResponseTime {
    /// The response times in milliseconds.
    pub fn of(measures: &ResponseMeasures) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let sum_us = measures.sum_us as f64;
        let [p50, p90, p95, p99] = measures.percentiles_us.map(ms);
        Self {
            min: ms(measures.min_us),
            max: ms(measures.max_us),
            sum: sum_us / 1000.0,
            mean: (sum_us / measures.count as f64).round() / 1000.0,
            p50,
            p90,
            p95,
            p99,
        }
    }
}

impl WindowDocument {
    /// The document of a window with these contents.
    pub fn new(view: &View, key: &Key, start: Millis, measures: &Measures, state: WindowState) -> Self {
        let nonzero = |n: &i64| *n != 0;
        Self {
            view: view.name.clone(),
            key: KeyFields(view.key.iter().cloned().zip(key.values()).collect()),
            start,
            end: view.end_of(start),
            count: measures.count(),
            levels: Level::ALL.into_iter().zip(measures.levels).filter(|(_, n)| nonzero(n)).collect(),
            status: StatusClass::ALL.into_iter().zip(measures.status).filter(|(_, n)| nonzero(n)).collect(),
            errors: measures.errors(),
            anomalies: measures.anomalies,
            response_time_ms: measures.response.as_ref().map(ResponseTime::of),
            numbers: summaries(&view.numbers, &measures.numbers),
            rules: matches(&view.numbers, &measures.numbers),
            max_severity: measures.max_severity,
            first: measures.first_ms,
            last: measures.last_ms,
            revision: state.revision,
            late_records: state.late_records,
            previous: state.previous,
            is_final: state.is_final,
            partial: state.partial,
            score: None,
            as_of: state.as_of_ms,
            evidence: None,
        }
    }
}

/// Where a window is in its life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowState {
    /// The number of distinct ticks at which late records changed the window.
    pub revision: u32,
    /// Late records in the window.
    pub late_records: i64,
    /// The window before the last of these ticks.
    pub previous: Option<Previous>,
    /// The allowed lateness is over.
    pub is_final: bool,
    /// The window began before its view did.
    pub partial: bool,
    /// The event-clock time of the last change, in milliseconds.
    pub as_of_ms: Millis,
}

impl WindowState {
    /// Of a window of a view that these late records came to.
    pub fn new(
        view: &View,
        start: Millis,
        tick_ms: u64,
        late: Option<&Late>,
        is_final: bool,
        as_of_ms: Millis,
    ) -> Self {
        let Some(late) = late else { return Self { is_final, as_of_ms, ..Self::default() } };
        let previous = late.history.back().map(|revision| {
            let measures = &revision.measures;
            Previous {
                count: measures.count(),
                errors: measures.errors(),
                anomalies: measures.anomalies,
                response_time_ms: measures.response.as_ref().map(ResponseTime::of),
                numbers: summaries(&view.numbers, &measures.numbers),
                rules: matches(&view.numbers, &measures.numbers),
                as_of: Late::as_of(revision.last, view.final_at(start), tick_ms),
            }
        });
        Self { revision: late.revision, late_records: late.records, previous, is_final, partial: false, as_of_ms }
    }
}
