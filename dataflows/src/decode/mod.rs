//! From raw bytes to a [`Record`].
//!
//! In: the bytes of one record. Out: a record that borrows from them, or a [`DecodeError`] for the dead letters. Nothing
//! panics on any input, and nothing is allocated for a record without escapes in the fields that are looked for.
//!
//! - [`RecordsConfig`]: format, names, units. [`Schema`]: which fields are looked for, and where.
//! - `names`: a trie over the paths of the fields. `scan`: finds values in JSON text.
//! - `json`: JSON records. `access_log`: Apache and nginx access logs.
//! - `numbers`: times and durations. `text`: escapes.

mod access_log;
mod config;
mod json;
mod names;
mod numbers;
#[cfg(test)]
mod oracle;
mod scan;
mod schema;
#[cfg(target_arch = "x86_64")]
mod sixteen;
pub(crate) mod text;

pub(crate) use access_log::field_names as access_log_field_names;
pub use config::{Format, NumericLevels, Preset, RecordsConfig};
pub use numbers::{MAX_RESPONSE_US, MAX_TIMESTAMP_MS, TimeUnit};
pub(crate) use scan::Scanner;
pub use schema::{Schema, SchemaError};

use crate::output::Reason;
use crate::record::{Kind, Record};

/// Decodes records of one schema.
#[derive(Clone, Debug)]
pub struct Decoder {
    schema: Schema,
    learnt: json::Learnt,
}

impl Decoder {
    /// A decoder for all fields that were asked of the schema so far.
    pub fn new(schema: Schema) -> Self {
        Self { schema, learnt: json::Learnt::default() }
    }

    /// Decodes one record.
    pub fn decode<'a>(&mut self, raw: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        let mut record = Record::default();
        self.decode_into(raw, &mut record)?;
        Ok(record)
    }

    /// Decodes one record into one that is as [`Record::default`] made it: records are large, and this moves none.
    #[inline]
    pub fn decode_into<'a>(&mut self, raw: &'a [u8], record: &mut Record<'a>) -> Result<(), DecodeError> {
        if raw.len() > self.schema.max_record_bytes {
            return Err(DecodeError::too_long(self.schema.max_record_bytes));
        }
        let raw = simdutf8::basic::from_utf8(raw).map_err(|_| DecodeError::not_utf8(raw))?;
        match self.schema.format {
            Format::Json => json::decode(&self.schema, &mut self.learnt, raw, record),
            Format::AccessLog => access_log::decode(&self.schema, raw, record),
        }?;
        self.schema.check_numbers(record)
    }
}

/// Why a record goes to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.name())]
pub struct DecodeError {
    /// The reason.
    pub reason: Reason,
    /// Which field, what was expected and what came; at most some 200 bytes.
    pub detail: String,
}

/// The bytes of a refused value that are shown.
const SHOWN_BYTES: usize = 64;

impl DecodeError {
    #[cold]
    fn too_long(max: usize) -> Self {
        // A source may give only as much as shows that it is too long.
        let detail = format!("expected at most max_record_bytes = {max} B, got more");
        Self { reason: Reason::TooLong, detail }
    }

    #[cold]
    fn not_utf8(raw: &[u8]) -> Self {
        let at = raw.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
        Self { reason: Reason::Malformed, detail: format!("expected UTF-8, got another byte at {at}") }
    }

    #[cold]
    fn missing_timestamp() -> Self {
        Self { reason: Reason::MissingTimestamp, detail: "timestamp: expected a time, got nothing".to_owned() }
    }

    #[cold]
    fn wrong_type(field: &str, expected: &str, kind: Kind, got: &str) -> Self {
        let cut = got.floor_char_boundary(SHOWN_BYTES);
        let dots = if cut < got.len() { "…" } else { "" };
        let detail = format!("{field}: expected {expected}, got {}: {:?}{dots}", kind.name(), &got[..cut]);
        Self { reason: Reason::WrongType, detail }
    }
}
