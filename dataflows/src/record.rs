//! A decoded record, borrowing from its raw bytes, and the names of its fields.
//!
//! In: spans that [`decode`](crate::decode) found. Out: values, as text or numbers. Nothing here fails: what has the
//! wrong type or is out of range was refused when decoding.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::decode::text;
use crate::numbers::millionths;
use crate::patterns::FirstCut;
use crate::time::Millis;
use crate::view::push_escaped;

/// A log level in the vocabulary that counts are kept in. Other spellings are mapped when decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Level {
    /// Finest.
    Trace,
    /// For developers.
    Debug,
    /// The default where a record has none; also `NOTICE`, `INFORMATION`.
    #[default]
    Info,
    /// Warnings.
    Warn,
    /// Errors.
    Error,
    /// Errors that end a process, also `CRITICAL`, `ALERT`, `EMERGENCY`, `PANIC`.
    Fatal,
    /// Any other text.
    Other,
}

impl Level {
    /// Every level, in the order of their numbers.
    pub const ALL: [Level; 7] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal, Level::Other];

    /// The name in documents and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Fatal => "FATAL",
            Level::Other => "OTHER",
        }
    }

    /// The level that a text stands for, in any letter case; [`Level::Other`] for a text that is none.
    #[inline]
    pub fn of_text(text: &str) -> Level {
        match text.as_bytes() {
            b"INFO" => Level::Info,
            b"ERROR" => Level::Error,
            b"WARN" => Level::Warn,
            b"DEBUG" => Level::Debug,
            _ => Self::of_synonym(text),
        }
    }

    fn of_synonym(text: &str) -> Level {
        const SYNONYMS: [(Level, &[&str]); 6] = [
            (Level::Info, &["INFO", "INFORMATION", "INFORMATIONAL", "NOTICE", "I"]),
            (Level::Warn, &["WARN", "WARNING", "W"]),
            (Level::Error, &["ERROR", "ERR", "SEVERE", "E"]),
            (Level::Debug, &["DEBUG", "DBG", "FINE", "VERBOSE", "D"]),
            (Level::Trace, &["TRACE", "FINER", "FINEST", "T"]),
            (Level::Fatal, &["FATAL", "CRITICAL", "CRIT", "ALERT", "EMERGENCY", "EMERG", "PANIC", "DPANIC", "F"]),
        ];
        // OpenTelemetry: the name of a severity number, with a digit for the finer steps.
        let text = text.strip_prefix("SEVERITY_NUMBER_").map_or(text, |name| name.trim_end_matches(['2', '3', '4']));
        let is = |name: &&str| name.eq_ignore_ascii_case(text);
        SYNONYMS.iter().find(|(_, names)| names.iter().any(is)).map_or(Level::Other, |(level, _)| *level)
    }

    /// Whether records of this level count as errors: `ERROR` and `FATAL`.
    #[inline]
    pub fn is_error(self) -> bool {
        matches!(self, Level::Error | Level::Fatal)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A field of a record that a view, a rule or a condition names, resolved once by
/// [`Schema::field`](crate::decode::Schema::field).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldRef {
    /// `timestamp`, in epoch milliseconds.
    Timestamp,
    /// `service_name`.
    ServiceName,
    /// `level`, normalised.
    Level,
    /// `status_code`.
    StatusCode,
    /// `response_time_ms`.
    ResponseTime,
    /// `error_code`.
    ErrorCode,
    /// `pattern`: the template of the message's first cut.
    Pattern,
    /// `pattern_id`: the id of that.
    PatternId,
    /// Any other field that was asked for: its number among the fields that the schema looks for.
    Extra(u8),
}

/// The value of a field, as text or a number.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// A JSON string.
    Text(Cow<'a, str>),
    /// A JSON number.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
    /// An object or an array, as JSON.
    Json(&'a str),
}

/// The number of fields that one schema can look for, the twelve default fields included.
pub const MAX_FIELDS: usize = 32;

/// The default fields, by their number.
pub const FIELD_NAMES: [&str; 12] = [
    "timestamp",
    "service_name",
    "level",
    "message",
    "request_id",
    "user_id",
    "path",
    "method",
    "status_code",
    "response_time_ms",
    "error_code",
    "tags",
];

/// Numbers of default fields, as in [`FIELD_NAMES`].
pub(crate) mod slot {
    pub const TIMESTAMP: usize = 0;
    pub const SERVICE_NAME: usize = 1;
    pub const LEVEL: usize = 2;
    pub const MESSAGE: usize = 3;
    pub const REQUEST_ID: usize = 4;
    pub const USER_ID: usize = 5;
    pub const PATH: usize = 6;
    pub const METHOD: usize = 7;
    pub const STATUS_CODE: usize = 8;
    pub const RESPONSE_TIME: usize = 9;
    pub const ERROR_CODE: usize = 10;
    pub const TAGS: usize = 11;
    /// The first number of a field that is not a default field.
    pub const EXTRA: usize = 12;
}

/// What kind of value stands at a [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// There is no such field.
    Missing,
    Null,
    /// Text as it stands; the span is between the quotes.
    Text,
    /// Text with JSON escapes; the span is between the quotes.
    Escaped,
    /// Text with the escapes of access logs; the span is between the quotes.
    LogEscaped,
    Number,
    True,
    False,
    Object,
    Array,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Missing,
        Kind::Null,
        Kind::Text,
        Kind::Escaped,
        Kind::LogEscaped,
        Kind::Number,
        Kind::True,
        Kind::False,
        Kind::Object,
        Kind::Array,
    ];

    /// As it is named to people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "nothing",
            Kind::Null => "null",
            Kind::Text | Kind::Escaped | Kind::LogEscaped => "text",
            Kind::Number => "a number",
            Kind::True | Kind::False => "a boolean",
            Kind::Object => "an object",
            Kind::Array => "an array",
        }
    }
}

const KIND_BITS: u32 = 4;

/// Where a value stands in the raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    /// The length, and in the lower bits the kind.
    len_kind: u32,
}

impl Span {
    /// The longest record whose values can be addressed, in bytes.
    pub const MAX_BYTES: usize = (u32::MAX >> KIND_BITS) as usize;

    #[inline]
    pub fn new(start: usize, end: usize, kind: Kind) -> Self {
        Self { start: start as u32, len_kind: ((end - start) as u32) << KIND_BITS | kind as u32 }
    }

    #[inline]
    pub fn kind(self) -> Kind {
        Kind::ALL[(self.len_kind & 15) as usize]
    }

    #[inline]
    pub fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + (self.len_kind >> KIND_BITS) as usize
    }

    /// Whether there is a value other than null.
    #[inline]
    pub fn is_some(self) -> bool {
        self.len_kind & 15 > Kind::Null as u32
    }
}

/// Where the fields that a schema looks for stand in the raw record, and what a document must do about their names.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    pub(crate) raw: &'a str,
    pub(crate) spans: [Span; MAX_FIELDS],
    /// Default fields, by bit, that a document writes: they stand elsewhere or otherwise in the raw JSON.
    pub(crate) write: u16,
    /// Default fields, by bit, whose names a document takes from top-level fields of the raw JSON.
    pub(crate) take: u16,
    /// The raw JSON has line feeds between its tokens.
    pub(crate) has_line_feed: bool,
    /// The raw record is no JSON.
    pub(crate) is_access_log: bool,
}

/// What the rest of the dataflow needs of a record. Only fields that something asked for are decoded; the others stay
/// in the raw bytes.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// Event time.
    pub timestamp_ms: Millis,
    /// The configured default (`unknown`) where the record has none, or an empty one.
    pub service_name: Cow<'a, str>,
    /// [`Level::Info`] where the record has none.
    pub level: Level,
    /// HTTP status, 100 to 599; absent where the record has none.
    pub status_code: Option<u16>,
    /// Response time in microseconds; absent where the record has none.
    pub response_time_us: Option<u64>,
    /// Present and not empty.
    pub error_code: Option<Cow<'a, str>>,
    /// Where all fields stand that were asked for.
    pub fields: Fields<'a>,
    /// The raw JSON has a top-level name that a field of the document takes for itself, or one like those in its place.
    pub has_reserved_name: bool,
    /// The id of the message's [first cut](crate::patterns::FirstCut), where patterns are wanted.
    pub pattern_id: Option<u64>,
    /// The first cut that the message counts as: its own, or the one of all others where it found no room.
    pub pattern: Option<FirstCut<'a>>,
}

impl<'a> Record<'a> {
    /// The message; empty where the record has none. Allocates only for text with escapes.
    #[inline]
    pub fn message(&self) -> Cow<'a, str> {
        let span = self.span(slot::MESSAGE as u8);
        if span.is_some() { self.text_at(span) } else { Cow::Borrowed("") }
    }

    /// The value of a field; `None` where it is missing or null and has no default.
    pub fn field(&self, field: FieldRef) -> Option<FieldValue<'_>> {
        Some(match field {
            FieldRef::Timestamp => FieldValue::Number(self.timestamp_ms as f64),
            FieldRef::ServiceName => FieldValue::Text(Cow::Borrowed(&self.service_name)),
            FieldRef::Level => FieldValue::Text(Cow::Borrowed(self.level.name())),
            FieldRef::StatusCode => FieldValue::Number(f64::from(self.status_code?)),
            FieldRef::ResponseTime => FieldValue::Number(self.response_time_us? as f64 / 1000.0),
            FieldRef::ErrorCode => FieldValue::Text(Cow::Borrowed(self.error_code.as_ref()?)),
            FieldRef::Pattern | FieldRef::PatternId => FieldValue::Text(self.text(field)?),
            FieldRef::Extra(number) => {
                let span = self.span(number);
                match span.kind() {
                    Kind::Missing | Kind::Null => return None,
                    Kind::Text | Kind::Escaped | Kind::LogEscaped => FieldValue::Text(self.text_at(span)),
                    Kind::Number => FieldValue::Number(self.at(span).parse().ok()?),
                    Kind::True => FieldValue::Bool(true),
                    Kind::False => FieldValue::Bool(false),
                    Kind::Object | Kind::Array => FieldValue::Json(self.at(span)),
                }
            }
        })
    }

    /// The value of a field as text: numbers as they are written, objects and arrays as JSON. Allocates only for text
    /// with escapes, and for `status_code`, `response_time_ms`, `timestamp` and `pattern_id`.
    pub fn text(&self, field: FieldRef) -> Option<Cow<'_, str>> {
        match field {
            FieldRef::ServiceName => Some(Cow::Borrowed(&self.service_name)),
            FieldRef::Level => Some(Cow::Borrowed(self.level.name())),
            FieldRef::ErrorCode => self.error_code.as_deref().map(Cow::Borrowed),
            FieldRef::StatusCode => Some(Cow::Owned(self.status_code?.to_string())),
            FieldRef::ResponseTime => Some(Cow::Owned(self.field(field).and_then(|value| match value {
                FieldValue::Number(ms) => Some(ms.to_string()),
                _ => None,
            })?)),
            FieldRef::Timestamp => Some(Cow::Owned(self.timestamp_ms.to_string())),
            FieldRef::Pattern => Some(Cow::Borrowed(self.pattern?.template)),
            FieldRef::PatternId => Some(Cow::Owned(self.pattern?.text_id())),
            FieldRef::Extra(number) => {
                let span = self.span(number);
                span.is_some().then(|| self.text_at(span))
            }
        }
    }

    /// Appends the value of a field as it stands in a [`Key`](crate::view::Key): as text, escaped by
    /// [`push_escaped`]. Appends nothing for a missing field.
    #[inline]
    pub fn key_text(&self, field: FieldRef, key: &mut String) {
        if let FieldRef::ServiceName = field {
            push_escaped(key, &self.service_name);
        } else if let FieldRef::StatusCode = field {
            let Some(status) = self.status_code else { return };
            for digit in [status / 100, status / 10 % 10, status % 10] {
                key.push(char::from(b'0' + digit as u8));
            }
        } else if let FieldRef::PatternId = field {
            self.pattern.iter().for_each(|pattern| pattern.push_id(key));
        } else if let Some(text) = self.text(field) {
            push_escaped(key, &text);
        }
    }

    /// The value of a field that is a number.
    #[inline]
    pub fn number(&self, field: FieldRef) -> Option<f64> {
        match field {
            FieldRef::StatusCode => self.status_code.map(f64::from),
            FieldRef::ResponseTime => self.response_time_us.map(|us| us as f64 / 1000.0),
            FieldRef::Timestamp => Some(self.timestamp_ms as f64),
            FieldRef::ServiceName | FieldRef::Level | FieldRef::Pattern | FieldRef::PatternId => None,
            FieldRef::ErrorCode => self.number_at(slot::ERROR_CODE as u8),
            FieldRef::Extra(number) => self.number_at(number),
        }
    }

    /// The value of a field that a view names among its numbers, in millionths.
    pub(crate) fn millionths(&self, field: FieldRef) -> Option<i64> {
        match field {
            FieldRef::StatusCode => self.status_code.map(|status| i64::from(status) * 1_000_000),
            FieldRef::ResponseTime => self.response_time_us.map(|us| us as i64 * 1_000),
            FieldRef::Extra(number) => {
                let span = self.span(number);
                if span.kind() == Kind::Number { millionths(self.at(span)) } else { None }
            }
            _ => None,
        }
    }

    /// Whether a field has a value: its own, or a default.
    #[inline]
    pub fn has(&self, field: FieldRef) -> bool {
        match field {
            FieldRef::Timestamp | FieldRef::ServiceName | FieldRef::Level => true,
            FieldRef::StatusCode => self.status_code.is_some(),
            FieldRef::ResponseTime => self.response_time_us.is_some(),
            FieldRef::ErrorCode => self.error_code.is_some(),
            FieldRef::Pattern | FieldRef::PatternId => self.pattern.is_some(),
            FieldRef::Extra(number) => self.span(number).is_some(),
        }
    }

    fn number_at(&self, number: u8) -> Option<f64> {
        let span = self.span(number);
        if span.kind() == Kind::Number { self.at(span).parse().ok() } else { None }
    }

    pub(crate) fn span(&self, number: u8) -> Span {
        self.fields.spans.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The raw bytes of a value, without the quotes of text.
    pub(crate) fn at(&self, span: Span) -> &'a str {
        self.fields.raw.get(span.range()).unwrap_or_default()
    }

    pub(crate) fn text_at(&self, span: Span) -> Cow<'a, str> {
        text::of_span(self.fields.raw, span)
    }
}
