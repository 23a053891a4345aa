//! What the input looks like: format, field names, units.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::numbers::TimeUnit;
use crate::units::ByteSize;

/// What the records look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordsConfig {
    /// `json`: one JSON object a record. `access_log`: Apache and nginx access logs, common or combined; their fields
    /// are `client`, `ident`, `user_id`, `message` (the request), `method`, `path`, `protocol`, `status_code`, `bytes`,
    /// `referer`, `user_agent` and, with a request time in seconds at the end, `response_time_ms`.
    pub format: Format,
    /// Where the fields stand in JSON records: `default` (under our own names), `ecs` (Elastic Common Schema), `otel`
    /// (OpenTelemetry log records, one a record), `pino`, `zerolog`, `logrus` or `log4j` (JsonLayout).
    pub preset: Preset,
    /// Where single fields stand, over the preset: our name to a dotted path in the record, such as
    /// `service_name = "kubernetes.labels.app"`. A path finds nested objects and names with dots alike.
    pub fields: BTreeMap<String, String>,
    /// Unit of a `timestamp` that is a number: `s`, `ms`, `us` or `ns`. Without it the preset's (`ms`; for `zerolog`
    /// `s`, for `otel` `ns`). RFC 3339 text is understood in any case.
    pub timestamp_unit: Option<TimeUnit>,
    /// Unit of the response time: `s`, `ms`, `us` or `ns`. Without it the preset's (`ms`; for `ecs` and `otel` `ns`).
    pub response_time_unit: Option<TimeUnit>,
    /// How a `level` that is a number is read: `pino` (10 to 60), `otel` (1 to 24) or `syslog` (7 to 0). Without it
    /// the preset's, and without that a number is refused.
    pub numeric_levels: Option<NumericLevels>,
    /// `service_name` of records that have none. Without it `unknown`, for access logs `web`.
    pub default_service: Option<String>,
    /// Longer records go to the dead letters. At most 256 MiB.
    pub max_record_bytes: ByteSize,
}

impl Default for RecordsConfig {
    fn default() -> Self {
        Self {
            format: Format::Json,
            preset: Preset::Default,
            fields: BTreeMap::new(),
            timestamp_unit: None,
            response_time_unit: None,
            numeric_levels: None,
            default_service: None,
            max_record_bytes: ByteSize::from_mib(1),
        }
    }
}

/// The format of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a record.
    #[default]
    Json,
    /// Access logs of Apache and nginx, common or combined, with or without a request time in seconds at the end.
    AccessLog,
}

/// Names of fields as a known producer writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Our own names, at the top level.
    #[default]
    #[serde(alias = "none")]
    Default,
    /// Elastic Common Schema.
    Ecs,
    /// OpenTelemetry: one log record of the OTLP JSON encoding. Attributes may be an object or the encoding's array of
    /// keys and values. Where `timeUnixNano` or `severityNumber` is missing or 0, `observedTimeUnixNano` or
    /// `severityText` counts.
    Otel,
    /// pino, for Node.js.
    Pino,
    /// zerolog, for Go.
    Zerolog,
    /// logrus, for Go.
    Logrus,
    /// The JsonLayout of Log4j 2, with `timeMillis` or `instant`.
    Log4j,
}

/// The meaning of a level that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NumericLevels {
    /// 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal; numbers between count as the one below.
    Pino,
    /// OpenTelemetry's severity numbers: four each, from 1 (trace) to 24 (fatal).
    Otel,
    /// Syslog's severities (RFC 5424): 7 debug, 6 and 5 info, 4 warn, 3 error, 2 to 0 fatal.
    Syslog,
}

impl Preset {
    /// The paths of our fields where they differ from their names. A field may stand at one of several paths; where a
    /// record has more than one of them, the last in the record counts.
    pub(crate) fn paths(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Preset::Default => &[],
            Preset::Ecs => &[
                ("timestamp", &["@timestamp"]),
                ("service_name", &["service.name"]),
                ("level", &["log.level"]),
                ("request_id", &["http.request.id"]),
                ("user_id", &["user.id"]),
                ("path", &["url.path"]),
                ("method", &["http.request.method"]),
                ("status_code", &["http.response.status_code"]),
                ("response_time_ms", &["event.duration"]),
                ("error_code", &["error.code"]),
            ],
            Preset::Otel => &[
                ("timestamp", &["timeUnixNano"]),
                ("service_name", &["resource.attributes.service.name", "attributes.service.name"]),
                ("level", &["severityNumber"]),
                ("message", &["body"]),
                ("request_id", &["traceId"]),
                ("user_id", &["attributes.user.id"]),
                ("path", &["attributes.url.path"]),
                ("method", &["attributes.http.request.method"]),
                ("status_code", &["attributes.http.response.status_code"]),
                ("response_time_ms", &["attributes.event.duration"]),
                ("error_code", &["attributes.error.type"]),
                ("tags", &["attributes.tags"]),
            ],
            Preset::Pino => &[
                ("timestamp", &["time"]),
                ("service_name", &["name"]),
                ("message", &["msg"]),
                ("request_id", &["req.id"]),
                ("path", &["req.url"]),
                ("method", &["req.method"]),
                ("status_code", &["res.statusCode"]),
                ("response_time_ms", &["responseTime"]),
                ("error_code", &["err.code"]),
            ],
            Preset::Zerolog => &[
                ("timestamp", &["time"]),
                ("service_name", &["service"]),
                ("request_id", &["req_id"]),
                ("path", &["url"]),
                ("status_code", &["status"]),
                ("response_time_ms", &["duration"]),
            ],
            Preset::Logrus => &[("timestamp", &["time"]), ("service_name", &["service"]), ("message", &["msg"])],
            Preset::Log4j => &[
                ("timestamp", &["timeMillis", "instant"]),
                ("request_id", &["contextMap.request_id"]),
                ("user_id", &["contextMap.user_id"]),
                ("error_code", &["contextMap.error_code"]),
            ],
        }
    }

    /// Paths that count where a field is missing or 0.
    pub(crate) fn fallbacks(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Preset::Otel => &[("timestamp", "observedTimeUnixNano"), ("level", "severityText")],
            _ => &[],
        }
    }

    pub(crate) fn timestamp_unit(self) -> TimeUnit {
        match self {
            Preset::Otel => TimeUnit::Nanos,
            Preset::Zerolog => TimeUnit::Seconds,
            _ => TimeUnit::Millis,
        }
    }

    pub(crate) fn response_time_unit(self) -> TimeUnit {
        match self {
            Preset::Ecs | Preset::Otel => TimeUnit::Nanos,
            _ => TimeUnit::Millis,
        }
    }

    pub(crate) fn numeric_levels(self) -> Option<NumericLevels> {
        match self {
            Preset::Pino => Some(NumericLevels::Pino),
            Preset::Otel => Some(NumericLevels::Otel),
            _ => None,
        }
    }
}
