//! Log documents: the raw JSON with the computed fields spliced in.
//!
//! In: a record, raw and decoded, with its verdict. Out: one JSON object on one line, appended to a buffer. Nothing
//! fails: what could not be a document was refused when decoding.
//!
//! A document is the raw object, byte for byte up to its closing brace, followed by
//!
//! - `topic`, `partition`, `offset`, `severity`, `severity_level`, `anomaly`, `reasons`; `pattern_id` where patterns are
//!   wanted;
//! - `redriven_from`, of a record that was a dead letter and is read again: the topic, partition and offset of the letter;
//!   and
//! - our default fields that stand elsewhere or otherwise in the raw record: under another name by the field map, or
//!   in another form. `timestamp` is always there in epoch milliseconds, `service_name` as text, `level` by its
//!   normalised name; the others where the record has them.
//!
//! So a name means the same in every document. A raw top-level field that has such a name and is not that value (a
//! producer's own `severity`, a `level` of `"warning"`, an RFC 3339 `timestamp`) is kept as `original.` with its name,
//! and one that begins with `original.` itself gets another one in front: so the raw record can be had back from the
//! document. Line feeds between the tokens of the raw JSON become spaces. Of an access log line, which is no JSON, the
//! document has the fields instead.

use crate::decode::{Scanner, access_log_field_names, text};
use crate::input::{PartitionInfo, RawRecord};
use crate::record::{FIELD_NAMES, Fields, Kind, Record, Span, slot};
use crate::rules::{Rules, Verdict, severity_level};

/// The fields that a document has beside those of the record.
pub const COMPUTED_NAMES: [&str; 9] =
    ["topic", "partition", "offset", "severity", "severity_level", "anomaly", "reasons", "pattern_id", "redriven_from"];

/// Stands before the name of a raw field whose name the document takes for itself.
pub const ORIGINAL_PREFIX: &str = "original.";

/// Begins the computed fields. Cannot be inside JSON text, where quotes are escaped.
const FIRST_COMPUTED: &[u8] = b",\"topic\":";

/// Appends the document of a record to `out`, without a line feed.
pub fn write_document(
    out: &mut Vec<u8>,
    partition: &PartitionInfo,
    raw: RawRecord<'_>,
    record: &Record<'_>,
    verdict: Verdict,
    rules: &Rules,
) {
    let start = out.len();
    let fields = &record.fields;
    // What follows the raw JSON is about 200 bytes with a topic's name and two reasons.
    out.reserve(fields.raw.len() + 256);
    if fields.is_access_log {
        write_access_log(out, record);
    } else if record.has_reserved_name {
        write_renamed(out, fields);
    } else {
        let object = fields.raw.trim_ascii();
        out.extend_from_slice(object.strip_suffix('}').unwrap_or(object).as_bytes());
    }
    out.extend_from_slice(FIRST_COMPUTED);
    write_place(out, &partition.topic, partition.number, raw.offset);
    out.extend_from_slice(b",\"severity\":");
    write_integer(out, u64::from(verdict.severity));
    out.extend_from_slice(b",\"severity_level\":\"");
    out.extend_from_slice(severity_level(verdict.severity).as_bytes());
    out.extend_from_slice(if verdict.anomaly {
        b"\",\"anomaly\":true,\"reasons\":["
    } else {
        b"\",\"anomaly\":false,\"reasons\":["
    });
    for (i, reason) in rules.reasons(verdict.matched).enumerate() {
        out.extend_from_slice(if i == 0 { b"\"" } else { b",\"" });
        out.extend_from_slice(reason.as_bytes());
        out.push(b'"');
    }
    out.push(b']');
    if let Some(id) = record.pattern_id {
        out.extend_from_slice(b",\"pattern_id\":\"");
        out.extend_from_slice(&hexadecimal(id));
        out.push(b'"');
    }
    if let Some(origin) = raw.redriven_from {
        out.extend_from_slice(b",\"redriven_from\":{\"topic\":");
        write_place(out, &origin.topic, origin.partition, origin.offset);
        out.push(b'}');
    }
    if fields.write != 0 {
        write_defaults(out, record);
    }
    out.push(b'}');
    if fields.has_line_feed {
        // Outside text only: JSON text has its line feeds escaped.
        for byte in out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
}

/// The values of `topic`, `partition` and `offset`, with the names of the last two.
fn write_place(out: &mut Vec<u8>, topic: &str, partition: i32, offset: u64) {
    write_text(out, topic);
    out.extend_from_slice(b",\"partition\":");
    if partition < 0 {
        out.push(b'-');
    }
    write_integer(out, u64::from(partition.unsigned_abs()));
    out.extend_from_slice(b",\"offset\":");
    write_integer(out, offset);
}

/// The raw record of a document, for when a store refuses it: byte for byte, but that line feeds between tokens are spaces
/// and white space at the ends is gone. An access log line comes back as the JSON of its fields. `None` for what is no
/// document.
pub fn raw_of(document: &[u8]) -> Option<Vec<u8>> {
    let end = memchr::memmem::rfind(document, FIRST_COMPUTED)?;
    let object = String::from_utf8([&document[..end], b"}"].concat()).ok()?;
    let (mut raw, mut copied) = (Vec::with_capacity(object.len()), 0);
    for name in top_level_names(&object) {
        let name = name.range();
        if object[name.clone()].starts_with(ORIGINAL_PREFIX) {
            raw.extend_from_slice(&object.as_bytes()[copied..name.start]);
            copied = name.start + ORIGINAL_PREFIX.len();
        }
    }
    raw.extend_from_slice(&object.as_bytes()[copied..]);
    Some(raw)
}

/// The raw object without its closing brace, with the fields renamed whose names the document takes.
fn write_renamed(out: &mut Vec<u8>, fields: &Fields<'_>) {
    let object = fields.raw.trim_ascii();
    let object = object.strip_suffix('}').unwrap_or(object);
    let start = fields.raw.len() - fields.raw.trim_ascii_start().len();
    let mut copied = 0;
    for name in top_level_names(fields.raw) {
        if is_taken(fields, &text::of_span(fields.raw, name)) {
            let at = name.range().start - start;
            out.extend_from_slice(&object.as_bytes()[copied..at]);
            out.extend_from_slice(ORIGINAL_PREFIX.as_bytes());
            copied = at;
        }
    }
    out.extend_from_slice(&object.as_bytes()[copied..]);
}

/// Where the names of an object are, without their quotes. The object was decoded, so the scan goes through to the end.
fn top_level_names(object: &str) -> impl Iterator<Item = Span> {
    let mut scanner = Scanner::new(object);
    scanner.space();
    let mut more = scanner.first_member().unwrap_or(false);
    std::iter::from_fn(move || {
        let name = more.then(|| scanner.key().ok()).flatten()?;
        more = scanner.value().is_ok() && scanner.another_member().unwrap_or(false);
        Some(name)
    })
}

fn is_taken(fields: &Fields<'_>, name: &str) -> bool {
    COMPUTED_NAMES.contains(&name)
        || FIELD_NAMES.iter().position(|known| *known == name).is_some_and(|number| fields.take >> number & 1 == 1)
        || name.starts_with(ORIGINAL_PREFIX)
}

/// The object of an access log line, without its closing brace: the fields that the line has.
fn write_access_log(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b"{\"timestamp\":");
    write_integer(out, record.timestamp_ms);
    out.extend_from_slice(b",\"service_name\":");
    write_text(out, &record.service_name);
    out.extend_from_slice(b",\"level\":");
    write_text(out, record.level.name());
    if let Some(status) = record.status_code {
        out.extend_from_slice(b",\"status_code\":");
        write_integer(out, u64::from(status));
    }
    if let Some(us) = record.response_time_us {
        out.extend_from_slice(b",\"response_time_ms\":");
        write_millis(out, us);
    }
    for (name, span) in access_log_field_names().zip(&record.fields.spans).filter(|(_, span)| span.is_some()) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        match span.kind() {
            Kind::Number => out.extend_from_slice(record.at(*span).as_bytes()),
            _ => write_text(out, &record.text_at(*span)),
        }
    }
}

/// The default fields that the raw JSON does not have in their place and form.
fn write_defaults(out: &mut Vec<u8>, record: &Record<'_>) {
    let fields = &record.fields;
    for (number, name) in FIELD_NAMES.into_iter().enumerate().filter(|(number, _)| fields.write >> number & 1 == 1) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        let span = fields.spans[number];
        match (number, span.kind()) {
            (slot::TIMESTAMP, _) => write_integer(out, record.timestamp_ms),
            (slot::LEVEL, _) => write_text(out, record.level.name()),
            (slot::STATUS_CODE, _) => write_integer(out, u64::from(record.status_code.unwrap_or_default())),
            (slot::RESPONSE_TIME, _) => write_millis(out, record.response_time_us.unwrap_or_default()),
            (_, Kind::Text | Kind::Escaped) if !span.range().is_empty() => {
                out.push(b'"');
                out.extend_from_slice(record.at(span).as_bytes());
                out.push(b'"');
            }
            (slot::SERVICE_NAME, _) => write_text(out, &record.service_name),
            (_, Kind::Text) => out.extend_from_slice(b"\"\""),
            _ => out.extend_from_slice(record.at(span).as_bytes()),
        }
    }
}

/// Microseconds as decimal milliseconds.
fn write_millis(out: &mut Vec<u8>, us: u64) {
    write_integer(out, us / 1_000);
    let rest = us % 1_000;
    if rest != 0 {
        out.push(b'.');
        let digits = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
        let needed = 3 - digits.iter().rev().take_while(|digit| **digit == b'0').count();
        out.extend_from_slice(&digits[..needed]);
    }
}

/// The 16 digits of an id of a pattern.
fn hexadecimal(id: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(id >> (4 * place) & 15) as usize];
    }
    digits
}

fn write_integer(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Text in quotes, with JSON escapes where needed.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let needs_escape = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    out.push(b'"');
    if !text.bytes().any(needs_escape) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                0..b' ' => {
                    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                }
                _ => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::{Decoder, Format, Preset, RecordsConfig, Schema};
    use crate::input::Origin;
    use crate::rules::RulesConfig;

    const PATTERN: &str = "00000000000001ab";

    fn document(config: &RecordsConfig, raw: &str) -> String {
        let mut schema = Schema::new(config).unwrap();
        let rules = Rules::compile(&RulesConfig::default(), &mut schema).unwrap();
        let record = Decoder::new(schema).decode(raw.as_bytes());
        let mut record = record.unwrap_or_else(|e| panic!("{e}: {raw}"));
        record.pattern_id = Some(0x1ab);
        let partition = PartitionInfo { topic: "logs \"raw\"".into(), identity: "x".into(), number: 3 };
        let mut out = b"before".to_vec();
        let raw = RawRecord { offset: 1234567, bytes: raw.as_bytes(), appended_ms: None, redriven_from: None };
        write_document(&mut out, &partition, raw, &record, rules.judge(&record), &rules);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    fn parsed(config: &RecordsConfig, raw: &str) -> Value {
        serde_json::from_str(&document(config, raw)).unwrap()
    }

    #[test]
    fn the_raw_json_is_kept_byte_for_byte() {
        let raw = r#"{"timestamp":1700000000000, "service_name":"a","level":"ERROR","status_code":404,"x":1.50 }"#;
        let document = document(&RecordsConfig::default(), raw);
        let computed = concat!(
            r#","topic":"logs \"raw\"","partition":3,"offset":1234567,"severity":100,"severity_level":"CRITICAL","#,
            r#""anomaly":true,"reasons":["error_level","http_error"],"pattern_id":"00000000000001ab"}"#
        );
        assert_eq!(document, raw.strip_suffix('}').unwrap().to_owned() + computed);
        assert_eq!(raw_of(document.as_bytes()).unwrap(), raw.as_bytes());
    }

    #[test]
    fn where_a_redriven_record_was_a_dead_letter_is_in_the_document() {
        let text = r#"{"timestamp":5,"redriven_from":"theirs"}"#;
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let rules = Rules::compile(&RulesConfig::default(), &mut schema).unwrap();
        let record = Decoder::new(schema).decode(text.as_bytes()).unwrap();
        let partition = PartitionInfo { topic: "__redrive".into(), identity: "x".into(), number: 2 };
        let origin = Origin { topic: "a\"b".into(), partition: -3, offset: 17, was_counted: false };
        let raw = RawRecord { offset: 1, bytes: text.as_bytes(), appended_ms: None, redriven_from: Some(&origin) };
        let mut out = Vec::new();
        write_document(&mut out, &partition, raw, &record, rules.judge(&record), &rules);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["redriven_from"], json!({ "topic": "a\"b", "partition": -3, "offset": 17 }));
        assert_eq!((&value["topic"], &value["offset"]), (&json!("__redrive"), &json!(1)));
        assert_eq!(value["original.redriven_from"], json!("theirs"));
    }

    #[test]
    fn the_id_of_the_pattern_is_in_the_document() {
        let value = parsed(&RecordsConfig::default(), r#"{"timestamp":5,"message":"m","pattern_id":"theirs"}"#);
        assert_eq!((&value["pattern_id"], &value["original.pattern_id"]), (&json!(PATTERN), &json!("theirs")));
    }

    #[test]
    fn defaults_are_written_where_missing() {
        let value = parsed(&RecordsConfig::default(), r#"{"timestamp":5}"#);
        assert_eq!((&value["service_name"], &value["level"]), (&json!("unknown"), &json!("INFO")));
        assert_eq!((&value["severity"], &value["severity_level"]), (&json!(0), &json!("INFO")));
        assert_eq!((&value["anomaly"], &value["reasons"]), (&json!(false), &json!([])));
        assert_eq!(value.get("message"), None);
    }

    #[test]
    fn names_that_we_take_are_kept_under_another() {
        let raw = r#"{ "sever\u0069ty" : {"topic":1}, "timestamp":"1970-01-01T00:00:01Z", "original.x": 1,
            "offset":null, "level":"warning","nested":{"severity":2}}"#;
        let document = document(&RecordsConfig::default(), raw);
        assert!(!document.contains('\n'));
        let value: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(value["original.severity"], json!({"topic": 1}));
        assert_eq!(value["original.timestamp"], json!("1970-01-01T00:00:01Z"));
        assert_eq!(value["original.level"], json!("warning"));
        assert_eq!(value["original.offset"], Value::Null);
        assert_eq!(value["original.original.x"], json!(1));
        assert_eq!(value["nested"], json!({"severity": 2}));
        assert_eq!(String::from_utf8(raw_of(document.as_bytes()).unwrap()).unwrap(), raw.replace('\n', " "));
        assert_eq!((&value["timestamp"], &value["level"]), (&json!(1000), &json!("WARN")));
        assert_eq!((&value["severity"], &value["offset"]), (&json!(50), &json!(1234567)));
        for name in ["severity", "timestamp", "level", "offset"] {
            assert_eq!(document.matches(&format!(r#","{name}":"#)).count(), 1, "{document}");
        }
    }

    #[test]
    fn a_record_with_names_like_renamed_ones_comes_back() {
        for raw in [
            r#"{"timestamp":5,"original.topic":"a","x": 1 }"#,
            r#"{"original.original.level":1,"timestamp":5,"\u006friginal.x":{"original.y":2}}"#,
            r#"{"level":"warning","timestamp":5,"original.level":"theirs","level":"warning"}"#,
        ] {
            let document = document(&RecordsConfig::default(), raw);
            assert_eq!(String::from_utf8(raw_of(document.as_bytes()).unwrap()).unwrap(), raw, "{document}");
        }
    }

    #[test]
    fn mapped_fields_come_under_our_names() {
        let config = RecordsConfig { preset: Preset::Ecs, ..Default::default() };
        let raw = r#"{"@timestamp":"2023-11-14T22:13:20.5Z","log.level":"info","message":"m\n","path":"/not",
            "service":{"name":"sh\"op"},"event":{"duration":1500000},"http":{"response":{"status_code":200}},
            "url":{"path":"/a"}}"#;
        let value = parsed(&config, raw);
        for (name, expected) in [
            ("timestamp", json!(1_700_000_000_500_u64)),
            ("level", json!("INFO")),
            ("service_name", json!("sh\"op")),
            ("response_time_ms", json!(1.5)),
            ("status_code", json!(200)),
            ("path", json!("/a")),
            ("original.path", json!("/not")),
            ("log.level", json!("info")),
            ("message", json!("m\n")),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
    }

    #[test]
    fn access_logs_become_json() {
        let config = RecordsConfig { format: Format::AccessLog, ..Default::default() };
        let line = r#"::1 - - [01/Jan/1970:00:00:01 +0000] "GET /\"a\" HTTP/1.1" 200 0012 "-" "x\x0a" 0.0015"#;
        let mut value = parsed(&config, line);
        for name in COMPUTED_NAMES.into_iter().filter(|name| *name != "redriven_from") {
            assert!(value.as_object_mut().unwrap().remove(name).is_some(), "{name}");
        }
        let expected = json!({
            "timestamp": 1000, "service_name": "web", "level": "INFO", "status_code": 200, "response_time_ms": 1.5,
            "message": "GET /\"a\" HTTP/1.1", "path": "/\"a\"", "method": "GET", "client": "::1",
            "protocol": "HTTP/1.1", "bytes": 12, "user_agent": "x\n",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn milliseconds() {
        for (us, text) in [(0, "0"), (1_500, "1.5"), (1_050, "1.05"), (1, "0.001"), (12_345_678, "12345.678")] {
            let mut out = Vec::new();
            write_millis(&mut out, us);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
