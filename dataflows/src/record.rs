//! A decoded record, borrowing from its raw bytes, and the names of its fields.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// A log level in the vocabulary that counts are kept in. Other spellings are mapped when decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Level {
    /// Finest.
    Trace,
    /// For developers.
    Debug,
    /// The default where a record has none.
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
/// [`Schema`](crate::decode::Schema).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldRef {
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
    /// Any other field that was asked for: its number among [`Record::extra`].
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
}

/// What the rest of the dataflow needs of a record. Only fields that something asked for are decoded; the others stay
/// in the raw bytes.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Event time.
    pub timestamp_ms: Millis,
    /// `unknown` where the record has none.
    pub service_name: Cow<'a, str>,
    /// [`Level::Info`] where the record has none.
    pub level: Level,
    /// HTTP status, 100 to 599; absent where the record has none.
    pub status_code: Option<u16>,
    /// Response time in microseconds; absent where the record has none.
    pub response_time_us: Option<u64>,
    /// Present and not empty.
    pub error_code: Option<Cow<'a, str>>,
    /// The further fields that were asked for, in the order of asking. Allocates only when there are any.
    pub extra: Vec<Option<FieldValue<'a>>>,
    /// The raw JSON has a top-level name that a computed field of the document uses.
    pub has_reserved_name: bool,
}
