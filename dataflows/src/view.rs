//! Views: which key, which window, which records.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::numbers::NumberSource;
use crate::record::FieldRef;
use crate::rules::Condition;
use crate::scores::ScoredMeasure;
use crate::time::{Millis, greatest_common_divisor, window_start};

/// The number of a view, in the order of the configuration.
pub type ViewId = u16;

/// The key that takes the records of keys beyond `max_keys`.
pub const OTHER: &str = "__other__";

/// The values of a view's key fields, as one string: each value with `%`, `/` and control characters percent-encoded,
/// joined by `/`. A missing field is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub Arc<str>);

impl Key {
    /// Encodes the values of the key fields.
    pub fn from_values<S: AsRef<str>>(values: &[S]) -> Self {
        let mut text = String::new();
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                text.push('/');
            }
            push_escaped(&mut text, value.as_ref());
        }
        Self(text.into())
    }

    /// The values of the key fields.
    pub fn values(&self) -> Vec<String> {
        self.0.split('/').map(unescape).collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands before and behind a value in a key.
pub(crate) fn around(key: &Key, place: usize) -> (&str, &str) {
    let mut ends = key.0.match_indices('/').map(|(at, _)| at);
    let start = match place.checked_sub(1) {
        None => 0,
        Some(before) => ends.nth(before).map_or(key.0.len(), |at| at + 1),
    };
    let end = ends.next().unwrap_or(key.0.len());
    (&key.0[..start], &key.0[end..])
}

/// Appends `value` to `text` with `%`, `/` and control characters percent-encoded.
pub fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        if c == '%' || c == '/' || c.is_ascii_control() {
            text.push('%');
            for nibble in [c as u32 >> 4, c as u32 & 15] {
                text.push(char::from_digit(nibble, 16).unwrap_or('0').to_ascii_uppercase());
            }
        } else {
            text.push(c);
        }
    }
}

pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(byte as char);
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A view, checked and with its fields resolved. Times are multiples of the tick, in milliseconds.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name in documents and in the API.
    pub name: Arc<str>,
    /// The names of the key fields.
    pub key: Vec<Arc<str>>,
    /// The key fields in a record.
    pub key_fields: Vec<FieldRef>,
    /// Records that do not meet all of these are not in the view.
    pub conditions: Vec<Condition>,
    /// The same, as they were written.
    pub condition_texts: Vec<String>,
    /// Width of a window.
    pub width_ms: u64,
    /// Distance between the starts of windows; equal to the width for tumbling windows.
    pub slide_ms: u64,
    /// How long after its end a window is corrected without a revision.
    pub lateness_ms: u64,
    /// How long after its end a window is kept.
    pub retention_ms: u64,
    /// Keys kept per partition; records of further keys count under [`OTHER`].
    pub max_keys: usize,
    /// A key silent for this long in a partition leaves and makes room.
    pub forget_after_ms: u64,
    /// The names of the numbers that are kept, and behind them those of rules, with [`RULE`](crate::numbers::RULE) before them.
    pub numbers: Vec<Arc<str>>,
    /// Where these are in a record.
    pub number_sources: Vec<NumberSource>,
    /// What of its windows is scored.
    pub scored: Vec<ScoredMeasure>,
    /// Where the records of its windows are is kept by key: for windows that are scored, and those that alerts look at.
    pub keeps_offsets: bool,
    /// Alerts look at its windows, and take evidence along.
    pub is_watched: bool,
    /// From this score on alerts may be about a window: what it was scored by is handed on with it.
    pub evidence_from: Option<u8>,
}

impl View {
    /// The place of the pattern among the key fields.
    pub fn pattern_place(&self) -> Option<usize> {
        self.key_fields.iter().position(|field| *field == FieldRef::Pattern)
    }

    /// Whether its key or its conditions name the message's pattern.
    pub fn names_pattern(&self) -> bool {
        let is_pattern = |field: &FieldRef| matches!(field, FieldRef::Pattern | FieldRef::PatternId);
        self.key_fields.iter().any(is_pattern) || self.conditions.iter().any(Condition::names_pattern)
    }

    /// The place of the pattern among the key fields, where it is scored whether one is new.
    pub fn news_place(&self) -> Option<usize> {
        self.pattern_place().filter(|_| self.scored.contains(&ScoredMeasure::New))
    }

    /// Whether its windows are nobody's concern: only its totals are. Views whose names begin with `__` are not configured.
    pub fn is_hidden(&self) -> bool {
        self.name.starts_with("__")
    }

    /// The width of a pane: the largest width that both `width_ms` and `slide_ms` are multiples of.
    pub fn pane_ms(&self) -> u64 {
        greatest_common_divisor(self.width_ms, self.slide_ms)
    }

    /// The start of the latest window that contains a pane.
    pub fn last_window_of(&self, pane: Millis) -> Millis {
        window_start(pane, self.slide_ms)
    }

    /// The starts of the windows that contain a pane, ascending.
    pub fn windows_of(&self, pane: Millis) -> impl Iterator<Item = Millis> + use<> {
        let (slide, width, last) = (self.slide_ms, self.width_ms, self.last_window_of(pane));
        let before = (width - (pane - last) - 1) / slide;
        let first = last.saturating_sub(before.min(last / slide) * slide);
        (first..=last).step_by(slide as usize)
    }

    /// The end of a window.
    pub fn end_of(&self, window: Millis) -> Millis {
        window + self.width_ms
    }

    /// From this time on a record is late for the window, in milliseconds of its timestamp.
    pub fn final_at(&self, window: Millis) -> Millis {
        self.end_of(window) + self.lateness_ms
    }

    /// From this time on a record changes the window no more, in milliseconds of its timestamp.
    pub fn gone_at(&self, window: Millis) -> Millis {
        self.end_of(window) + self.retention_ms
    }
}
