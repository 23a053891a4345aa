//! JSON records: one pass over the object notes where the fields stand that the schema looks for; their types are
//! checked and their values read when the whole record is known to be JSON.
//!
//! Where a name occurs more than once in an object, the last one counts.

use std::borrow::Cow;

use crate::decode::config::NumericLevels;
use crate::decode::names::{ROOT, Target};
use crate::decode::numbers::{RESPONSE_EXPECTED, TimeUnit, epoch_ms, integer, response_us, rfc3339_ms};
use crate::decode::scan::{LearntName, Malformed, Scanner};
use crate::decode::schema::{ALLOWED, Schema};
use crate::decode::{DecodeError, text};
use crate::document::ORIGINAL_PREFIX;
use crate::output::Reason;
use crate::record::{FIELD_NAMES, Kind, Level, Record, Span, slot};

/// The names of the last record's top-level members in their order, with what they stand for. Records of one producer
/// have mostly the same names in the same order, so comparing with the expected one saves finding the end of a name
/// and looking it up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learnt {
    members: Vec<Option<(LearntName, Option<Target>)>>,
}

/// Members of an object whose names are learnt; those behind are looked up.
const MAX_LEARNT: usize = 64;

impl Learnt {
    /// The member that stands here by what was learnt: the one in this place, or the one behind it where a member is
    /// missing. Moves the scanner to the member's value.
    #[inline(always)]
    fn member(&self, scanner: &mut Scanner<'_>, place: &mut usize) -> Option<Option<Target>> {
        for skipped in 0..2 {
            if let Some(Some((name, target))) = self.members.get(*place + skipped)
                && scanner.learnt_name(name)
            {
                *place += skipped + 1;
                return Some(*target);
            }
        }
        None
    }

    #[cold]
    fn learn(&mut self, place: usize, name: Option<LearntName>, target: Option<Target>) {
        if self.members.len() <= place && place < MAX_LEARNT {
            self.members.resize(place + 1, None);
        }
        if let Some(member) = self.members.get_mut(place) {
            *member = name.map(|name| (name, target));
        }
    }
}

/// Decodes a record that is known to be UTF-8.
#[inline]
pub(crate) fn decode<'a>(
    schema: &Schema,
    learnt: &mut Learnt,
    raw: &'a str,
    record: &mut Record<'a>,
) -> Result<(), DecodeError> {
    record.fields.raw = raw;
    let mut scanner = Scanner::new(raw);
    outermost(schema, learnt, &mut scanner, record).map_err(|malformed| DecodeError::malformed(raw, malformed))?;
    record.fields.has_line_feed = scanner.has_line_feed;
    read(schema, record)
}

fn outermost(
    schema: &Schema,
    learnt: &mut Learnt,
    scanner: &mut Scanner<'_>,
    record: &mut Record<'_>,
) -> Result<(), Malformed> {
    scanner.space();
    let mut more = scanner.first_member()?;
    let mut place = 0;
    while more {
        let target = match learnt.member(scanner, &mut place) {
            Some(target) => {
                scanner.space();
                target
            }
            None => {
                let start = scanner.at;
                let name = scanner.key()?;
                let mut target = find(schema, record.fields.raw, ROOT, name);
                // The document has it under another name.
                if text::of_span(record.fields.raw, name).starts_with(ORIGINAL_PREFIX) {
                    target.get_or_insert(Target::NOTHING).reserved = true;
                }
                learnt.learn(place, scanner.learn_name(start), target);
                place += 1;
                target
            }
        };
        member(schema, scanner, record, target)?;
        more = scanner.another_member()?;
    }
    scanner.end()
}

fn find(schema: &Schema, raw: &str, node: usize, name: Span) -> Option<Target> {
    match name.kind() {
        Kind::Text => schema.names.find(node, &raw.as_bytes()[name.range()]),
        _ => schema.names.find(node, text::of_span(raw, name).as_bytes()),
    }
}

/// The members of an object inside the outermost. Calls itself as deep as the paths of the schema go, no deeper.
fn members(schema: &Schema, scanner: &mut Scanner<'_>, record: &mut Record<'_>, node: usize) -> Result<(), Malformed> {
    let mut more = scanner.first_member()?;
    while more {
        let name = scanner.key()?;
        let target = find(schema, record.fields.raw, node, name);
        member(schema, scanner, record, target)?;
        more = scanner.another_member()?;
    }
    Ok(())
}

#[inline(always)]
fn member(
    schema: &Schema,
    scanner: &mut Scanner<'_>,
    record: &mut Record<'_>,
    target: Option<Target>,
) -> Result<(), Malformed> {
    let Some(target) = target else {
        scanner.value()?;
        return Ok(());
    };
    record.has_reserved_name |= target.reserved;
    let span = match target.node() {
        Some(node) => members_or_value(schema, scanner, record, node)?,
        None => scanner.value()?,
    };
    if let Some(slot) = target.slot() {
        record.fields.spans[slot] = if schema.otel_values { unwrapped(record.fields.raw, span) } else { span };
    }
    Ok(())
}

/// A value in which, if it is an object, fields are looked for.
fn members_or_value(
    schema: &Schema,
    scanner: &mut Scanner<'_>,
    record: &mut Record<'_>,
    node: usize,
) -> Result<Span, Malformed> {
    let start = scanner.at;
    if scanner.peek() == b'{' {
        members(schema, scanner, record, node)?;
        return Ok(Span::new(start, scanner.at, Kind::Object));
    }
    let span = scanner.value()?;
    if schema.otel_values && span.kind() == Kind::Array {
        attributes(schema, record, node, span);
    }
    Ok(span)
}

/// A scanner over a value that was passed over before, and so is known to be well-formed.
fn again(raw: &str, span: Span) -> (Scanner<'_>, usize) {
    let range = span.range();
    (Scanner::new(&raw[range.clone()]), range.start)
}

fn moved(span: Span, by: usize) -> Span {
    let range = span.range();
    Span::new(range.start + by, range.end + by, span.kind())
}

/// The value inside OpenTelemetry's wrapping by type; other values as they are. Integers come as text there.
fn unwrapped(raw: &str, span: Span) -> Span {
    if span.kind() != Kind::Object {
        return span;
    }
    let (mut scanner, start) = again(raw, span);
    let mut inner = || {
        if !scanner.first_member()? {
            return scanner.malformed("a value");
        }
        let name = scanner.key()?;
        let value = moved(scanner.value()?, start);
        let only = !scanner.another_member()?;
        Ok((moved(name, start), value, only))
    };
    let Ok((name, value, true)) = inner() else { return span };
    match (&raw[name.range()], value.kind()) {
        ("intValue", Kind::Text) if integer(raw[value.range()].trim_start_matches('-').as_bytes()).is_some() => {
            let range = value.range();
            Span::new(range.start, range.end, Kind::Number)
        }
        ("stringValue" | "intValue" | "doubleValue" | "boolValue", _) => value,
        _ => span,
    }
}

/// Fields among OpenTelemetry's attributes, an array of objects with `key` and `value`. What is not of that form is
/// passed over.
fn attributes(schema: &Schema, record: &mut Record<'_>, node: usize, span: Span) {
    let raw = record.fields.raw;
    let (mut scanner, start) = again(raw, span);
    let mut each = || -> Result<(), Malformed> {
        scanner.expect(b'[', "an array")?;
        loop {
            scanner.space();
            if scanner.peek() != b'{' {
                return Ok(());
            }
            let (mut key, mut value) = (Span::default(), Span::default());
            let mut more = scanner.first_member()?;
            while more {
                let name = scanner.key()?;
                let found = scanner.value()?;
                match &raw.as_bytes()[moved(name, start).range()] {
                    b"key" => key = moved(found, start),
                    b"value" => value = moved(found, start),
                    _ => {}
                }
                more = scanner.another_member()?;
            }
            let target = schema.names.find(node, text::of_span(raw, key).as_bytes());
            if let Some(slot) = target.and_then(Target::slot) {
                record.fields.spans[slot] = unwrapped(raw, value);
            }
            scanner.space();
            scanner.expect(b',', "','")?;
        }
    };
    // The only error left is the end of the array.
    let _ = each();
}

/// Reads the values of the default fields and settles what the document does about their names.
#[inline]
fn read(schema: &Schema, record: &mut Record<'_>) -> Result<(), DecodeError> {
    let raw = record.fields.raw;
    for &(number, other) in &schema.fallbacks {
        let spans = &mut record.fields.spans;
        if spans[other].is_some() && is_missing_or_0(raw, spans[number]) {
            spans[number] = spans[other];
        }
    }
    let spans = &record.fields.spans;
    // Default fields whose raw value is also that of the document.
    let mut in_form = schema.in_place;
    let mut present: u16 = 0;
    for (number, (allowed, expected)) in ALLOWED.into_iter().enumerate() {
        let span = spans[number];
        if allowed >> span.kind() as u16 & 1 == 0 {
            return wrong_type(raw, number, expected, span);
        }
        present |= u16::from(span.is_some()) << number;
    }

    let span = spans[slot::TIMESTAMP];
    let at = |span: Span| raw.get(span.range()).unwrap_or_default();
    record.timestamp_ms = match span.kind() {
        Kind::Number => {
            let digits = at(span);
            if schema.timestamp_unit != TimeUnit::Millis || integer(digits.as_bytes()).is_none() {
                in_form &= !(1 << slot::TIMESTAMP);
            }
            epoch_ms(digits, schema.timestamp_unit)
        }
        Kind::Missing | Kind::Null => return Err(DecodeError::missing_timestamp()),
        _ => {
            in_form &= !(1 << slot::TIMESTAMP);
            timestamp_of(schema, raw, span)
        }
    }
    .map_or_else(|| wrong_type(raw, slot::TIMESTAMP, "epoch time from 1970 to 9999, or RFC 3339", span), Ok)?;

    let span = spans[slot::SERVICE_NAME];
    record.service_name = text::of_span(raw, span);
    if record.service_name.is_empty() {
        record.service_name = Cow::Borrowed(schema.default_service);
        in_form &= !(1 << slot::SERVICE_NAME);
    }

    let span = spans[slot::LEVEL];
    let name = match span.kind() {
        Kind::Missing | Kind::Null => "",
        Kind::Text => at(span),
        Kind::Number => {
            let level = schema.numeric_levels.and_then(|levels| level_of(levels, at(span)));
            let Some(level) = level else { return wrong_type(raw, slot::LEVEL, "the name of a level", span) };
            record.level = level;
            ""
        }
        Kind::Escaped => {
            record.level = Level::of_text(&text::of_span(raw, span));
            ""
        }
        _ => return wrong_type(raw, slot::LEVEL, "the name of a level", span),
    };
    if !name.is_empty() {
        record.level = Level::of_text(name);
    }
    if name != record.level.name() {
        in_form &= !(1 << slot::LEVEL);
    }

    let span = spans[slot::STATUS_CODE];
    if span.is_some() {
        let status = integer(at(span).as_bytes()).filter(|status| (100..=599).contains(status));
        match (status, span.kind()) {
            (Some(status), Kind::Number) => record.status_code = Some(status as u16),
            _ => return wrong_type(raw, slot::STATUS_CODE, "an integer from 100 to 599", span),
        }
    }

    let span = spans[slot::RESPONSE_TIME];
    if span.is_some() {
        match (response_us(at(span), schema.response_time_unit), span.kind()) {
            (Some(us), Kind::Number) => record.response_time_us = Some(us),
            _ => return wrong_type(raw, slot::RESPONSE_TIME, RESPONSE_EXPECTED, span),
        }
        if schema.response_time_unit != TimeUnit::Millis {
            in_form &= !(1 << slot::RESPONSE_TIME);
        }
    }

    let span = spans[slot::ERROR_CODE];
    if span.is_some() {
        record.error_code = Some(text::of_span(raw, span)).filter(|code| !code.is_empty());
    }

    let span = spans[slot::TAGS];
    if span.kind() == Kind::Array && !is_array_of_texts(raw, span) {
        return wrong_type(raw, slot::TAGS, "text or an array of texts", span);
    }

    const ALWAYS: u16 = 1 << slot::TIMESTAMP | 1 << slot::SERVICE_NAME | 1 << slot::LEVEL;
    record.fields.write = (present | ALWAYS) & !in_form;
    record.fields.take = !in_form;
    // In its place, but not in form: the document renames it. A missing one has nothing to rename.
    let out_of_form = schema.in_place & !in_form;
    if out_of_form != 0 {
        let named = |number: usize| out_of_form >> number & 1 == 1 && spans[number].kind() != Kind::Missing;
        record.has_reserved_name |= (0..FIELD_NAMES.len()).any(named);
    }
    Ok(())
}

fn is_missing_or_0(raw: &str, span: Span) -> bool {
    match span.kind() {
        Kind::Missing | Kind::Null => true,
        Kind::Number | Kind::Text => integer(raw[span.range()].as_bytes()) == Some(0),
        _ => false,
    }
}

/// A timestamp that is not a number.
fn timestamp_of(schema: &Schema, raw: &str, span: Span) -> Option<u64> {
    match span.kind() {
        Kind::Text => {
            let text = &raw[span.range()];
            // 64 bits do not fit the numbers of many JSON libraries, so nanoseconds are often text.
            let digits = schema.timestamp_unit == TimeUnit::Nanos && integer(text.as_bytes()).is_some();
            if digits { epoch_ms(text, TimeUnit::Nanos) } else { rfc3339_ms(text) }
        }
        Kind::Escaped => rfc3339_ms(&text::of_span(raw, span)),
        Kind::Object => instant(raw, span),
        _ => None,
    }
}

/// A Java `Instant`: `{"epochSecond":1700000000,"nanoOfSecond":123000000}`.
fn instant(raw: &str, span: Span) -> Option<u64> {
    let (mut scanner, start) = again(raw, span);
    let (mut seconds, mut nanos) = (None, 0);
    let mut more = scanner.first_member().ok()?;
    while more {
        let name = moved(scanner.key().ok()?, start);
        let value = moved(scanner.value().ok()?, start);
        match &raw[name.range()] {
            "epochSecond" => seconds = Some(epoch_ms(&raw[value.range()], TimeUnit::Seconds)?),
            "nanoOfSecond" => nanos = integer(raw[value.range()].as_bytes()).filter(|n| *n < 1_000_000_000)?,
            _ => {}
        }
        more = scanner.another_member().ok()?;
    }
    seconds?.checked_add(nanos / 1_000_000)
}

fn level_of(levels: NumericLevels, number: &str) -> Option<Level> {
    let number = integer(number.as_bytes())?;
    let steps: &[(u64, Level)] = match levels {
        NumericLevels::Pino => &[
            (60, Level::Fatal),
            (50, Level::Error),
            (40, Level::Warn),
            (30, Level::Info),
            (20, Level::Debug),
            (10, Level::Trace),
        ],
        NumericLevels::Otel if number > 24 => return None,
        NumericLevels::Otel => &[
            (21, Level::Fatal),
            (17, Level::Error),
            (13, Level::Warn),
            (9, Level::Info),
            (5, Level::Debug),
            (1, Level::Trace),
        ],
        NumericLevels::Syslog if number > 7 => return None,
        NumericLevels::Syslog => {
            &[(7, Level::Debug), (5, Level::Info), (4, Level::Warn), (3, Level::Error), (0, Level::Fatal)]
        }
    };
    let found = steps.iter().find(|(least, _)| number >= *least).map(|(_, level)| *level);
    // OpenTelemetry's 0 is "unspecified".
    found.or((levels == NumericLevels::Otel).then_some(Level::Info))
}

fn is_array_of_texts(raw: &str, span: Span) -> bool {
    let (mut scanner, _) = again(raw, span);
    scanner.at = 1;
    loop {
        scanner.space();
        match scanner.peek() {
            b'"' if scanner.string().is_ok() => {}
            b']' => return true,
            _ => return false,
        }
        scanner.space();
        if scanner.peek() == b',' {
            scanner.at += 1;
        }
    }
}

#[cold]
fn wrong_type<T>(raw: &str, number: usize, expected: &str, span: Span) -> Result<T, DecodeError> {
    let got = raw.get(span.range()).unwrap_or_default();
    Err(DecodeError::wrong_type(FIELD_NAMES[number], expected, span.kind(), got))
}

impl DecodeError {
    #[cold]
    fn malformed(raw: &str, Malformed { at, expected }: Malformed) -> Self {
        let detail = match raw.get(at..).and_then(|rest| rest.chars().next()) {
            Some(got) => format!("not JSON: expected {expected} at byte {at}, got {got:?}"),
            None => format!("not JSON: expected {expected} at byte {at}, got the end of the record"),
        };
        Self { reason: Reason::Malformed, detail }
    }
}
