//! A log document as tantivy takes it: values that borrow from the batch, found in one pass over the JSON by the
//! indexing thread.

use std::iter::Empty;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use sonic_rs::{JsonValueTrait, LazyValue};
use tantivy::schema::Field;
use tantivy::schema::document::{Document, ReferenceValue, ReferenceValueLeaf, Value};

use super::schema::{Fields, KEYWORDS, MAX_KEYWORD_BYTES};
use crate::stores::LogBatch;

/// A document of a batch.
#[derive(Debug)]
pub(super) struct LogDocument {
    batch: Arc<LogBatch>,
    entry: usize,
    source: u64,
    fields: Arc<Fields>,
    /// Read when the indexing thread first asks.
    values: OnceLock<Vec<(Field, Slot)>>,
}

/// A value, without its lifetime.
#[derive(Clone, Debug)]
enum Slot {
    U64(u64),
    Bool(bool),
    /// Text within the document.
    Span(Range<usize>),
    /// Text with escapes, without them.
    Unescaped(Box<str>),
}

impl LogDocument {
    pub(super) fn new(batch: Arc<LogBatch>, entry: usize, source: u64, fields: Arc<Fields>) -> Self {
        Self { batch, entry, source, fields, values: OnceLock::new() }
    }

    fn json(&self) -> &[u8] {
        self.batch.document(&self.batch.entries[self.entry])
    }

    fn values(&self) -> &[(Field, Slot)] {
        self.values.get_or_init(|| read(self.json(), &self.fields))
    }
}

/// The values of the fields that are taken from the JSON. What has another type than the field is left out: it can be
/// seen and not searched for.
fn read(json: &[u8], fields: &Fields) -> Vec<(Field, Slot)> {
    let mut values = Vec::with_capacity(16);
    for member in sonic_rs::to_object_iter(json) {
        // The document was made from a decoded record, so it is JSON.
        let Ok((name, value)) = member else { break };
        match &*name {
            "message" => values.extend(text(json, &value).map(|text| (fields.message, text))),
            "status_code" => values.extend(value.as_u64().map(|n| (fields.status_code, Slot::U64(n)))),
            "severity" => values.extend(value.as_u64().map(|n| (fields.severity, Slot::U64(n)))),
            "anomaly" => values.extend(value.as_bool().map(|b| (fields.anomaly, Slot::Bool(b)))),
            name => {
                if let Some(place) = KEYWORDS.iter().position(|keyword| *keyword == name) {
                    keywords(json, &value, fields.keywords[place], &mut values);
                }
            }
        }
    }
    values
}

/// Adds a keyword, or each of an array of keywords.
fn keywords(json: &[u8], value: &LazyValue<'_>, field: Field, values: &mut Vec<(Field, Slot)>) {
    if value.as_raw_str().starts_with('[') {
        let items = sonic_rs::to_array_iter(value.as_raw_str().as_bytes());
        for item in items.map_while(Result::ok) {
            values.extend(keyword(json, &item).map(|slot| (field, slot)));
        }
    } else {
        values.extend(keyword(json, value).map(|slot| (field, slot)));
    }
}

/// Text, a number or a truth value, as text.
fn keyword(json: &[u8], value: &LazyValue<'_>) -> Option<Slot> {
    let raw = value.as_raw_str();
    if raw.len() > MAX_KEYWORD_BYTES || raw.starts_with(['{', '[']) || raw == "null" {
        return None;
    }
    if raw.starts_with('"') { text(json, value) } else { Some(Slot::Span(span_in(json, raw))) }
}

fn text(json: &[u8], value: &LazyValue<'_>) -> Option<Slot> {
    let raw = value.as_raw_str();
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Slot::Span(span_in(json, inner)));
    }
    serde_json::from_str::<Box<str>>(raw).ok().map(Slot::Unescaped)
}

/// Where `part` stands in `whole`, of which it is a part.
fn span_in(whole: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

/// A value of a [`LogDocument`].
#[derive(Clone, Debug)]
pub(super) struct LogValue<'a>(ReferenceValueLeaf<'a>);

impl<'a> Value<'a> for LogValue<'a> {
    type ArrayIter = Empty<Self>;
    type ObjectIter = Empty<(&'a str, Self)>;

    fn as_value(&self) -> ReferenceValue<'a, Self> {
        ReferenceValue::Leaf(self.0.clone())
    }
}

impl Document for LogDocument {
    type Value<'a> = LogValue<'a>;
    type FieldsValuesIter<'a> = Box<dyn Iterator<Item = (Field, LogValue<'a>)> + 'a>;

    fn iter_fields_and_values(&self) -> Self::FieldsValuesIter<'_> {
        use ReferenceValueLeaf as Leaf;
        let (entry, fields, partition) = (&self.batch.entries[self.entry], &self.fields, &self.batch.partition);
        let json = self.json();
        let given = [
            (fields.document, Leaf::Bytes(json)),
            (fields.timestamp, Leaf::U64(entry.timestamp_ms)),
            (fields.partition, Leaf::I64(i64::from(partition.number))),
            (fields.offset, Leaf::U64(entry.offset)),
            (fields.source, Leaf::U64(self.source)),
            (fields.topic, Leaf::Str(&partition.topic)),
        ];
        let read = self.values().iter().map(move |(field, slot)| {
            let leaf = match slot {
                Slot::U64(n) => Leaf::U64(*n),
                Slot::Bool(b) => Leaf::Bool(*b),
                // Spans come from text, so they are UTF-8 on whole characters.
                Slot::Span(range) => Leaf::Str(std::str::from_utf8(&json[range.clone()]).unwrap_or_default()),
                Slot::Unescaped(text) => Leaf::Str(text),
            };
            (*field, leaf)
        });
        Box::new(given.into_iter().chain(read).map(|(field, leaf)| (field, LogValue(leaf))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::schema;
    use super::*;
    use crate::stores::writer::testing::batch;

    #[test]
    fn values_are_found_and_other_types_left_out() {
        let json = concat!(
            r#"{"timestamp":5,"service_name":"a","message":"say \"hi\"","user_id":7,"tags":["x",{"y":1},"z\n"],"#,
            r#""status_code":"none","host":{"name":"h"},"path":null,"severity":75,"anomaly":true,"nested":{"level":"X"}}"#
        );
        let (schema, fields) = schema();
        let document = LogDocument::new(Arc::new(batch(3, &[(9, json)])), 0, 1, Arc::new(fields));
        let values: Vec<(String, String)> = document
            .iter_fields_and_values()
            .filter(|(_, value)| value.as_bytes().is_none())
            .map(|(field, value)| {
                let text = match value.0 {
                    ReferenceValueLeaf::Str(text) => text.to_owned(),
                    other => format!("{other:?}"),
                };
                (schema.get_field_name(field).to_owned(), text)
            })
            .collect();
        let expected = [
            ("timestamp", "U64(5)"),
            ("partition", "I64(3)"),
            ("offset", "U64(9)"),
            ("source", "U64(1)"),
            ("topic", "logs_raw"),
            ("service_name", "a"),
            ("message", "say \"hi\""),
            ("user_id", "7"),
            ("tags", "x"),
            ("tags", "z\n"),
            ("severity", "U64(75)"),
            ("anomaly", "Bool(true)"),
        ];
        assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
