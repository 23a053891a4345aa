//! Index templates: which field has which type, for every index of this store.
//!
//! Mappings are explicit and closed: a field that is not named here is kept in the document and not indexed, so that
//! no input can grow a mapping (`docs/decisions/030-elasticsearch-documents.md`). Only types that every supported
//! cluster has are used.

use floodmark_dataflows::output::StatusClass;
use floodmark_dataflows::record::Level;
use serde_json::{Map, Value, json};

use super::config::{ElasticsearchConfig, Kind};

/// Higher than the templates that come with Elasticsearch, which stop at 100.
const PRIORITY: u32 = 200;

/// Longer strings are kept and not indexed as keywords; Lucene refuses terms of more than 32,766 bytes.
const KEYWORD_CHARS: u32 = 1_024;

/// The name of the template of a kind of index.
pub(super) fn name(config: &ElasticsearchConfig, kind: Kind) -> String {
    format!("{}-{}", config.prefix, kind.name())
}

/// The template of a kind of index, as `PUT _index_template/NAME` takes it.
pub(super) fn body(config: &ElasticsearchConfig, kind: Kind) -> Value {
    let mut settings = json!({ "number_of_shards": config.shards, "number_of_replicas": config.replicas });
    if config.refresh_interval.as_millis() > 0 {
        settings["refresh_interval"] = json!(format!("{}ms", config.refresh_interval.as_millis()));
    }
    let mappings = match kind {
        Kind::Logs => logs(),
        Kind::Windows => windows(),
        Kind::DeadLetters => dead_letters(),
        Kind::Alerts => alerts(),
    };
    json!({
        "index_patterns": [format!("{}*", config.index_prefix(kind))],
        "priority": PRIORITY,
        "template": { "settings": { "index": settings }, "mappings": mappings },
        "_meta": { "managed_by": "floodmark" },
    })
}

fn keyword() -> Value {
    json!({ "type": "keyword", "ignore_above": KEYWORD_CHARS })
}

/// Free text. Hits are sorted by time, never by relevance, so the norms that scoring needs are left out.
fn text() -> Value {
    json!({ "type": "text", "norms": false })
}

/// An object whose fields are exactly these, all of one type.
fn closed<'a>(names: impl IntoIterator<Item = &'a str>, kind: &str) -> Value {
    let fields: Map<String, Value> = names.into_iter().map(|name| (name.into(), json!({ "type": kind }))).collect();
    json!({ "dynamic": false, "properties": fields })
}

fn logs() -> Value {
    json!({
        "dynamic": false,
        "properties": {
            "timestamp": { "type": "date", "format": "strict_date_optional_time||epoch_millis" },
            "service_name": keyword(),
            "level": keyword(),
            "message": text(),
            "request_id": keyword(),
            "user_id": keyword(),
            "path": keyword(),
            "method": keyword(),
            "status_code": { "type": "short" },
            "response_time_ms": { "type": "double" },
            "error_code": keyword(),
            "tags": keyword(),
            "severity": { "type": "byte" },
            "severity_level": keyword(),
            "anomaly": { "type": "boolean" },
            "reasons": keyword(),
            "pattern_id": keyword(),
            "redriven_from": {
                "dynamic": false,
                "properties": {
                    "topic": keyword(),
                    "partition": { "type": "integer" },
                    "offset": { "type": "long" },
                },
            },
            "topic": keyword(),
            "partition": { "type": "integer" },
            "offset": { "type": "long" },
        },
    })
}

fn windows() -> Value {
    let date = json!({ "type": "date", "format": "epoch_millis" });
    let response_time = closed(["min", "max", "sum", "mean", "p50", "p90", "p95", "p99"], "double");
    // Kept and not searched: names of different views, such as `queue` and `queue.depth`, may exclude each other. So it is
    // with rules.
    let numbers = json!({ "type": "object", "enabled": false });
    let status: Vec<String> =
        StatusClass::ALL.iter().filter_map(|class| Some(json!(class).as_str()?.to_owned())).collect();
    json!({
        "dynamic": false,
        // The fields of `key` are those that the views name: as many as an operator configures, never the data.
        "dynamic_templates": [
            { "key_fields": { "path_match": "key.*", "match_mapping_type": "string", "mapping": keyword() } },
        ],
        "properties": {
            "view": keyword(),
            "key": { "type": "object", "dynamic": true },
            "start": date,
            "end": date,
            "count": { "type": "long" },
            "levels": closed(Level::ALL.map(Level::name), "long"),
            "status": closed(status.iter().map(String::as_str), "long"),
            "errors": { "type": "long" },
            "anomalies": { "type": "long" },
            "response_time_ms": response_time,
            "numbers": numbers,
            "rules": numbers,
            "max_severity": { "type": "byte" },
            "first": date,
            "last": date,
            "revision": { "type": "long" },
            "late_records": { "type": "long" },
            "previous": {
                "properties": {
                    "count": { "type": "long" },
                    "errors": { "type": "long" },
                    "anomalies": { "type": "long" },
                    "response_time_ms": response_time,
                    "numbers": numbers,
                    "rules": numbers,
                    "as_of": date,
                },
            },
            "final": { "type": "boolean" },
            "score": {
                "properties": {
                    "score": { "type": "byte" },
                    "level": keyword(),
                    "learning": { "type": "boolean" },
                    "stalled": { "type": "boolean" },
                    "measures": {
                        "properties": {
                            "measure": keyword(),
                            "score": { "type": "byte" },
                            "reasons": { "type": "keyword", "index": false, "doc_values": false },
                        },
                    },
                },
            },
            "partial": { "type": "boolean" },
            "as_of": date,
        },
    })
}

/// Explanations of scores are kept and not searched.
fn alerts() -> Value {
    let date = json!({ "type": "date", "format": "epoch_millis" });
    let window = json!({
        "dynamic": false,
        "properties": {
            "key": { "type": "object", "dynamic": true },
            "start": date,
            "end": date,
            "value": { "type": "double" },
        },
    });
    json!({
        "dynamic": false,
        "dynamic_templates": [
            { "key_fields": { "path_match": "*.key.*", "match_mapping_type": "string", "mapping": keyword() } },
            { "keys_fields": { "path_match": "keys.*", "match_mapping_type": "string", "mapping": keyword() } },
        ],
        "properties": {
            "id": keyword(),
            "alert": keyword(),
            "view": keyword(),
            "severity": keyword(),
            "state": keyword(),
            "start": date,
            "end": date,
            "first": window,
            "strongest": window,
            "keys": { "type": "object", "dynamic": true },
            "key_count": { "type": "long" },
            "windows": { "type": "long" },
            "summary": text(),
            "revision": { "type": "long" },
            "as_of": date,
            "configuration": keyword(),
        },
    })
}

fn dead_letters() -> Value {
    json!({
        "dynamic": false,
        "properties": {
            "timestamp": { "type": "date", "format": "strict_date_optional_time||epoch_millis" },
            "topic": keyword(),
            "identity": keyword(),
            "partition": { "type": "integer" },
            "offset": { "type": "long" },
            "reason": keyword(),
            "detail": text(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use floodmark_dataflows::document::COMPUTED_NAMES;
    use floodmark_dataflows::record::FIELD_NAMES;

    use super::*;
    use crate::units::Span;

    #[test]
    fn a_template_matches_the_daily_indices_of_its_kind_only() {
        let config = ElasticsearchConfig { prefix: "acme".into(), ..Default::default() };
        assert_eq!(name(&config, Kind::Logs), "acme-logs");
        assert_eq!(body(&config, Kind::Logs)["index_patterns"], json!(["acme-logs-*"]));
        assert_eq!(body(&config, Kind::DeadLetters)["index_patterns"], json!(["acme-dead-letters-*"]));
    }

    #[test]
    fn settings_come_from_the_configuration() {
        let config =
            ElasticsearchConfig { shards: 3, replicas: 0, refresh_interval: Span::from_secs(7), ..Default::default() };
        let settings = body(&config, Kind::Windows)["template"]["settings"]["index"].clone();
        assert_eq!(settings, json!({ "number_of_shards": 3, "number_of_replicas": 0, "refresh_interval": "7000ms" }));
        let config = ElasticsearchConfig { refresh_interval: Span::from_millis(0), ..Default::default() };
        assert_eq!(body(&config, Kind::Logs)["template"]["settings"]["index"].get("refresh_interval"), None);
    }

    #[test]
    fn every_field_that_log_documents_agree_on_is_mapped_and_no_other() {
        let mapping = logs();
        let mapped: BTreeSet<&str> = mapping["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(mapped, FIELD_NAMES.into_iter().chain(COMPUTED_NAMES).collect());
    }

    /// A field that a window document has and the mapping does not would be kept but could not be searched for.
    #[test]
    fn every_field_of_a_window_document_is_mapped() {
        let response_time = json!({
            "min": 1.5, "max": 3.5, "sum": 5.0, "mean": 2.5, "p50": 1.5, "p90": 3.5, "p95": 3.5, "p99": 3.5,
        });
        let number = json!({
            "count": 2, "min": 1.5, "max": 3.5, "sum": 5.0, "mean": 2.5, "p50": 1.5, "p90": 3.5, "p95": 3.5, "p99": 3.5,
        });
        let document = json!({
            "view": "v", "key": { "service_name": "a" }, "start": 0, "end": 10_000, "count": 3,
            "levels": { "TRACE": 1, "DEBUG": 1, "INFO": 1, "WARN": 1, "ERROR": 1, "FATAL": 1, "OTHER": 1 },
            "status": { "1xx": 1, "2xx": 1, "3xx": 1, "4xx": 1, "5xx": 1 }, "errors": 1, "anomalies": 2,
            "response_time_ms": response_time, "numbers": { "bytes": number }, "rules": { "slow_response": 1 },
            "max_severity": 100, "first": 1, "last": 9_999, "revision": 1, "late_records": 1,
            "previous": {
                "count": 2, "errors": 1, "anomalies": 1, "response_time_ms": response_time,
                "numbers": { "bytes": number }, "rules": { "slow_response": 1 }, "as_of": 80_000,
            },
            "final": true, "as_of": 90_000,
        });
        // Through the type, so that a new field of it shows up here.
        let document: floodmark_dataflows::output::WindowDocument = serde_json::from_value(document).unwrap();
        let document = serde_json::to_value(document).unwrap();
        let mapped = windows();
        for (field, value) in document.as_object().unwrap() {
            let mapping = &mapped["properties"][field];
            assert!(mapping.is_object(), "{field} is not mapped");
            if let (Some(object), Some(properties)) = (value.as_object(), mapping["properties"].as_object()) {
                for inner in object.keys() {
                    assert!(properties.contains_key(inner), "{field}.{inner} is not mapped");
                }
            }
        }
    }
}
