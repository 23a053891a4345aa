//! The decoder and the document against a slow and obvious reference on generated records. A failing case is printed
//! by the test runner, shrunk.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::decode::numbers::rfc3339_ms;
use crate::decode::{Decoder, MAX_TIMESTAMP_MS, Preset, RecordsConfig, Schema};
use crate::document::{COMPUTED_NAMES, raw_of, write_document};
use crate::input::{PartitionInfo, RawRecord};
use crate::output::Reason;
use crate::record::{FieldRef, Level, Record};
use crate::rules::{Rules, RulesConfig};

/// The names and values of an object, in their order.
type Members = Vec<(String, Value)>;

/// Any JSON, three levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        // The reference reads fractions of powers of two exactly, and others nearly so.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z ]{0,20}", "[\"\\\\/\n\t\u{1}\u{7f}é😀x]{0,12}", ".{0,40}"]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d]{1,2}", Just("host".into()), Just("original.level".into()), Just("topic".into()), any_text()]
}

/// A default field with a value that is right in most cases.
fn field() -> impl Strategy<Value = (String, Value)> {
    let text = |name: &'static str| any_text().prop_map(move |text| (name.to_owned(), Value::from(text)));
    let right = prop_oneof![
        text("service_name"),
        prop::sample::select(vec!["INFO", "warn", "Error", "CRITICAL", "err", "", "loud"])
            .prop_map(|level| ("level".to_owned(), json!(level))),
        text("message"),
        text("path"),
        text("error_code"),
        (0i64..1000).prop_map(|code| ("error_code".to_owned(), json!(code))),
        (90i64..610).prop_map(|status| ("status_code".to_owned(), json!(status))),
        (-10i64..10_000_000).prop_map(|us| ("response_time_ms".to_owned(), json!(us as f64 / 1000.0))),
        prop::collection::vec(any_text(), 0..3).prop_map(|tags| ("tags".to_owned(), json!(tags))),
        (0u32..40).prop_map(|severity| ("severity".to_owned(), json!(severity))),
        Just(("timestamp".to_owned(), json!("2024-02-29T01:02:03.456+01:00"))),
    ];
    let default = prop::sample::select(crate::record::FIELD_NAMES.to_vec());
    let any = (default, any_json()).prop_map(|(name, value)| (name.to_owned(), value));
    prop_oneof![8 => right, 1 => any]
}

/// An object's members in any order, each name once.
fn members() -> impl Strategy<Value = Members> {
    let extras = prop::collection::vec((any_name(), any_json()), 0..4);
    (0..=MAX_TIMESTAMP_MS, prop::collection::vec(field(), 0..8), extras)
        .prop_map(|(timestamp, fields, extras)| {
            let mut members = vec![("timestamp".to_owned(), json!(timestamp))];
            for (name, value) in fields.into_iter().chain(extras) {
                match members.iter_mut().find(|(known, _)| *known == name) {
                    Some(member) => member.1 = value,
                    None => members.push((name, value)),
                }
            }
            members
        })
        .prop_shuffle()
}

/// JSON text of the members: compact, spread over lines, or with everything escaped that can be.
fn written(members: &[(String, Value)], style: u8) -> String {
    let escaped = |json: String| -> String {
        let unit = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
        json.chars().map(|c| if c.is_ascii() && c != 'e' { c.to_string() } else { unit(c) }).collect()
    };
    let value = |value: &Value| match (style, value) {
        (1, value) => serde_json::to_string_pretty(value).unwrap(),
        (2, Value::String(text)) => escaped(json!(text).to_string()),
        _ => value.to_string(),
    };
    let name = |name: &str| if style == 2 { escaped(json!(name).to_string()) } else { json!(name).to_string() };
    let (before, between, after) = if style == 1 { (" {\n", " ,\r\n\t", "\n}\n") } else { ("{", ",", "}") };
    let colon = if style == 1 { " : " } else { ":" };
    let members: Vec<String> = members.iter().map(|(n, v)| format!("{}{colon}{}", name(n), value(v))).collect();
    format!("{before}{}{after}", members.join(between))
}

/// What a decoded record says, in plain types.
#[derive(Debug, PartialEq)]
struct Plain {
    timestamp_ms: u64,
    service_name: String,
    level: Level,
    status_code: Option<u16>,
    response_time_us: Option<u64>,
    error_code: Option<String>,
    host: Option<String>,
}

/// The reference: builds the whole object and looks at each field. `None` where a field has the wrong type.
fn naive(object: &Map<String, Value>) -> Option<Plain> {
    let get = |name: &str| object.get(name).filter(|value| !value.is_null());
    let text_of = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = |name: &str| get(name).map_or(Some(None), |value| Some(Some(value.as_str()?.to_owned())));
    let text_or_number = |name: &str| match get(name) {
        None => Some(None),
        Some(value) => (value.is_string() || value.is_number()).then(|| Some(text_of(value))),
    };
    let timestamp_ms = match get("timestamp")? {
        Value::String(text) => rfc3339_ms(text)?,
        number => number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64))?,
    };
    for name in ["message", "path", "method"] {
        text(name)?;
    }
    text_or_number("request_id")?;
    text_or_number("user_id")?;
    match get("tags") {
        Some(Value::Array(tags)) if !tags.iter().all(Value::is_string) => return None,
        None | Some(Value::Array(_) | Value::String(_)) => {}
        _ => return None,
    }
    let status_code = match get("status_code") {
        Some(value) => Some(u16::try_from(value.as_u64()?).ok().filter(|status| (100..=599).contains(status))?),
        None => None,
    };
    let response_time_us = match get("response_time_ms") {
        Some(value) => {
            let us = (value.as_f64().filter(|ms| *ms >= 0.0)? * 1000.0).round() as u64;
            Some(Some(us).filter(|us| *us <= crate::decode::numbers::MAX_RESPONSE_US)?)
        }
        None => None,
    };
    let level = text("level")?.unwrap_or_default();
    Some(Plain {
        timestamp_ms,
        service_name: text("service_name")?.filter(|name| !name.is_empty()).unwrap_or("unknown".to_owned()),
        level: if level.is_empty() { Level::Info } else { Level::of_text(&level) },
        status_code,
        response_time_us,
        error_code: text_or_number("error_code")?.filter(|code| !code.is_empty()),
        host: get("host").filter(|value| !value.is_array() && !value.is_object()).map(text_of),
    })
}

fn plain(record: &Record<'_>, host: FieldRef) -> Plain {
    let is_json = matches!(record.field(host), Some(crate::record::FieldValue::Json(_)));
    Plain {
        timestamp_ms: record.timestamp_ms,
        service_name: record.service_name.to_string(),
        level: record.level,
        status_code: record.status_code,
        response_time_us: record.response_time_us,
        error_code: record.error_code.as_deref().map(str::to_owned),
        host: record.text(host).filter(|_| !is_json).map(|text| text.into_owned()),
    }
}

/// An OpenTelemetry record with some of the four fields that stand for each other, and what its time and level are.
fn otel() -> impl Strategy<Value = (Members, Option<(u64, Level)>)> {
    let nanos = || {
        let some = (1u64..2_000_000_000_000).prop_map(|ms| ms * 1_000_000);
        let written = some.prop_flat_map(|n| prop_oneof![Just(json!(n)), Just(json!(n.to_string()))]);
        prop_oneof![
            Just(None),
            Just(Some(Value::Null)),
            Just(Some(json!(0))),
            Just(Some(json!("0"))),
            written.prop_map(Some)
        ]
    };
    let number = prop_oneof![Just(None), Just(Some(Value::Null)), (0u64..25).prop_map(|n| Some(json!(n)))];
    let text = prop::option::of(prop::sample::select(vec!["TRACE", "Debug", "warning", "ERROR3", "fatal"]));
    (nanos(), nanos(), number, text.prop_map(|text| text.map(Value::from))).prop_flat_map(
        |(time, seen, number, text)| {
            let nanos_of = |value: &Option<Value>| {
                let value = value.as_ref()?;
                value.as_u64().or_else(|| value.as_str()?.parse().ok())
            };
            let given = |value: Option<u64>| value.filter(|n| *n > 0);
            let either = given(nanos_of(&time)).or(given(nanos_of(&seen))).or(nanos_of(&time)).or(nanos_of(&seen));
            let steps = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal];
            let by_number = given(nanos_of(&number)).map(|n| steps[(n as usize - 1) / 4]);
            let by_text = text.as_ref().and_then(Value::as_str).map(Level::of_text);
            let expected = either.map(|nanos| (nanos / 1_000_000, by_number.or(by_text).unwrap_or_default()));
            let fields = [
                ("timeUnixNano", time),
                ("observedTimeUnixNano", seen),
                ("severityNumber", number),
                ("severityText", text),
            ];
            let members: Vec<_> =
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            (Just(members).prop_shuffle(), Just(expected))
        },
    )
}

struct Parts {
    decoder: Decoder,
    rules: Rules,
    host: FieldRef,
}

fn parts() -> Parts {
    let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
    let rules = Rules::compile(&RulesConfig::default(), &mut schema).unwrap();
    let host = schema.field("host").unwrap();
    Parts { decoder: Decoder::new(schema), rules, host }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(records in prop::collection::vec((members(), 0u8..3), 1..6)) {
        // One decoder for all, so that it expects names of one record in another.
        let Parts { mut decoder, host, .. } = parts();
        for (members, style) in records {
            let raw = written(&members, style);
            let object: Map<String, Value> = serde_json::from_str(&raw).expect("the test writes JSON");
            match (decoder.decode(raw.as_bytes()), naive(&object)) {
                (Ok(record), Some(expected)) => prop_assert_eq!(plain(&record, host), expected, "{}", raw),
                (Err(error), None) => {
                    let missing = object.get("timestamp").is_none_or(Value::is_null);
                    prop_assert!(error.reason == Reason::WrongType || missing, "{}: {}", error, raw);
                    prop_assert!(error.detail.len() <= 250, "{}", error);
                }
                (got, expected) => prop_assert!(false, "got {got:?}, expected {expected:?} for {raw}"),
            }
        }
    }

    #[test]
    fn opentelemetry_fields_stand_for_each_other(records in prop::collection::vec((otel(), 0u8..3), 1..6)) {
        let config = RecordsConfig { preset: Preset::Otel, ..RecordsConfig::default() };
        let mut decoder = Decoder::new(Schema::new(&config).unwrap());
        for ((members, expected), style) in records {
            let raw = written(&members, style);
            let got = decoder.decode(raw.as_bytes());
            let got = got.map(|record| (record.timestamp_ms, record.level)).map_err(|error| error.reason);
            prop_assert_eq!(got, expected.ok_or(Reason::MissingTimestamp), "{}", raw);
        }
    }

    #[test]
    fn refuses_what_is_not_json(members in members(), style in 0u8..3, at in any::<prop::sample::Index>(),
                                byte in any::<u8>(), change in 0u8..4) {
        let mut raw = written(&members, style).into_bytes();
        let at = at.index(raw.len());
        match change {
            0 => raw[at] = byte,
            1 => raw.insert(at, byte),
            2 => { raw.remove(at); }
            _ => raw.truncate(at),
        }
        let Parts { mut decoder, .. } = parts();
        let is_object = serde_json::from_slice::<Map<String, Value>>(&raw);
        match (decoder.decode(&raw), is_object) {
            (Ok(_), Ok(_)) => {}
            (Err(error), Ok(_)) => prop_assert_ne!(error.reason, Reason::Malformed, "{}", error),
            // The reference refuses numbers that no 64-bit float holds; we look only at the size of those that we use.
            (_, Err(e)) if e.to_string().contains("out of range") => {}
            (Err(error), Err(_)) => prop_assert_eq!(error.reason, Reason::Malformed, "{}", error),
            (Ok(_), Err(e)) => prop_assert!(false, "{e}: {raw:?}"),
        }
    }

    #[test]
    fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parts().decoder.decode(&raw).is_err());
    }

    #[test]
    fn documents_have_every_original_field(members in members(), style in 0u8..3) {
        let Parts { mut decoder, rules, .. } = parts();
        let raw = written(&members, style);
        let Ok(mut record) = decoder.decode(raw.as_bytes()) else { return Ok(()) };
        record.pattern_id = Some(7);
        let partition = PartitionInfo { topic: "t\"\n".into(), identity: "t".into(), number: -1 };
        let mut out = Vec::new();
        let verdict = rules.judge(&record);
        let offset = RawRecord { offset: u64::MAX, bytes: raw.as_bytes(), appended_ms: None, redriven_from: None };
        write_document(&mut out, &partition, offset, &record, verdict, &rules);

        prop_assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
        let document: Map<String, Value> = serde_json::from_slice(&out).expect("a document is JSON");
        prop_assert_eq!(&document["topic"], "t\"\n");
        prop_assert_eq!(&document["partition"], -1);
        prop_assert_eq!(&document["offset"], u64::MAX);
        prop_assert_eq!(&document["severity"], verdict.severity);
        prop_assert_eq!(&document["timestamp"], record.timestamp_ms);
        prop_assert_eq!(&document["service_name"], &*record.service_name);
        prop_assert_eq!(&document["level"], record.level.name());
        let original: Map<String, Value> = serde_json::from_str(&raw).expect("the test writes JSON");
        let mut fields = original.len() + COMPUTED_NAMES.len() - 1; // It is not redriven.
        for (name, value) in &original {
            let renamed = document.get(&format!("original.{name}"));
            prop_assert!(renamed == Some(value) || document.get(name) == Some(value), "{} is lost", name);
        }
        // Neither lost nor twice: the only further fields are ours.
        for name in ["service_name", "level"] {
            let kept = original.get(name) == document.get(name);
            fields += usize::from(!kept || !original.contains_key(name));
        }
        fields += usize::from(original["timestamp"] != document["timestamp"]);
        prop_assert_eq!(document.len(), fields, "{}", String::from_utf8_lossy(&out));
        let restored = String::from_utf8(raw_of(&out).expect("was JSON")).expect("is text");
        prop_assert_eq!(restored, raw.trim_ascii().replace(['\n', '\r'], " "));
    }
}
