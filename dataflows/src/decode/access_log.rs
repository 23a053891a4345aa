//! Apache and nginx access logs, common and combined:
//!
//! ```text
//! 203.0.113.7 - alice [10/Oct/2024:13:55:36 +0200] "GET /a?b=1 HTTP/1.1" 200 2326 "https://ref/" "Mozilla/5.0" 0.123
//! ```
//!
//! In: a line that is known to be UTF-8. Out: spans of its parts, as JSON decoding gives them. `-` stands for a missing
//! part. Referer and agent may be missing (common), and a number of seconds may follow either form: nginx's
//! `$request_time`, which becomes `response_time_ms`. A request that is no `METHOD PATH PROTOCOL` (a scan or a TLS
//! handshake on a plain port) gives a `message` only.

use crate::decode::numbers::{RESPONSE_EXPECTED, TimeUnit, days_from_civil, is_date, response_us};
use crate::decode::{DecodeError, Schema};
use crate::output::Reason;
use crate::record::{FIELD_NAMES, Kind, Record, Span, slot};
use crate::time::Millis;

/// Parts of a line beside the default fields, in the order of their numbers from [`slot::EXTRA`] on.
pub(crate) const PARTS: [&str; 6] = ["client", "ident", "protocol", "bytes", "referer", "user_agent"];

const CLIENT: usize = slot::EXTRA;
const IDENT: usize = slot::EXTRA + 1;
const PROTOCOL: usize = slot::EXTRA + 2;
const BYTES: usize = slot::EXTRA + 3;
const REFERER: usize = slot::EXTRA + 4;
const USER_AGENT: usize = slot::EXTRA + 5;

/// The names of all fields that a line can have, in the order of their numbers.
pub(crate) fn field_names() -> impl Iterator<Item = &'static str> {
    FIELD_NAMES.into_iter().chain(PARTS)
}

/// Decodes a line.
pub(crate) fn decode<'a>(schema: &Schema, raw: &'a str, record: &mut Record<'a>) -> Result<(), DecodeError> {
    record.fields.raw = raw;
    record.fields.is_access_log = true;
    record.service_name = schema.default_service.into();
    let mut line = Line { raw, at: 0 };
    let spans = &mut record.fields.spans;

    spans[CLIENT] = line.word("a client")?;
    spans[IDENT] = line.word("an ident")?;
    spans[slot::USER_ID] = line.user()?;
    line.expect("[")?;
    let time = line.until(']')?;
    record.timestamp_ms = time_ms(&raw[time.range()]).ok_or_else(|| {
        DecodeError::wrong_type(
            "timestamp",
            "a time such as 10/Oct/2024:13:55:36 +0000",
            Kind::Text,
            &raw[time.range()],
        )
    })?;
    line.expect("] ")?;

    let request = line.quoted()?;
    spans[slot::MESSAGE] = request;
    if let Some([method, path, protocol]) = request_parts(raw, request) {
        spans[slot::METHOD] = method;
        spans[slot::PATH] = path;
        spans[PROTOCOL] = protocol;
    }
    line.expect(" ")?;
    let status = line.word("a status")?;
    if status.is_some() {
        let code = raw[status.range()].parse().ok().filter(|code| (100..=599).contains(code));
        let wrong =
            || DecodeError::wrong_type("status_code", "an integer from 100 to 599", Kind::Text, &raw[status.range()]);
        record.status_code = Some(code.ok_or_else(wrong)?);
    }
    let bytes = line.last_word("a number of bytes")?;
    if bytes.is_some() {
        if !raw[bytes.range()].bytes().all(|b| b.is_ascii_digit()) {
            return Err(line.malformed("a number of bytes", bytes.range().start));
        }
        let digits = raw[bytes.range()].trim_start_matches('0');
        // JSON has no leading zeros.
        let end = bytes.range().end;
        spans[BYTES] = Span::new(end - digits.len().max(1), end, Kind::Number);
    }

    if line.rest().starts_with(" \"") {
        line.at += 1;
        spans[REFERER] = line.quoted()?;
        line.expect(" ")?;
        spans[USER_AGENT] = line.quoted()?;
    }
    if !line.rest().is_empty() {
        line.expect(" ")?;
        let seconds = line.last_word("a request time in seconds")?;
        if seconds.is_some() {
            let text = &raw[seconds.range()];
            let wrong = || match text.parse::<f64>() {
                Ok(seconds) if seconds > 0.0 => {
                    DecodeError::wrong_type("response_time_ms", RESPONSE_EXPECTED, Kind::Number, text)
                }
                _ => line.malformed("a request time in seconds", seconds.range().start),
            };
            record.response_time_us = Some(response_us(text, TimeUnit::Seconds).ok_or_else(wrong)?);
        }
        if !line.rest().is_empty() {
            return Err(line.malformed("the end of the line", line.at));
        }
    }
    Ok(())
}

/// A place in a line.
struct Line<'a> {
    raw: &'a str,
    at: usize,
}

impl<'a> Line<'a> {
    fn rest(&self) -> &'a str {
        self.raw.get(self.at..).unwrap_or_default()
    }

    #[cold]
    fn malformed(&self, expected: &str, at: usize) -> DecodeError {
        let got = match self.raw.get(at..).and_then(|rest| rest.chars().next()) {
            Some(got) => format!("{got:?}"),
            None => "the end of the line".to_owned(),
        };
        let detail = format!("not an access log line: expected {expected} at byte {at}, got {got}");
        DecodeError { reason: Reason::Malformed, detail }
    }

    fn expect(&mut self, text: &'static str) -> Result<(), DecodeError> {
        if !self.rest().starts_with(text) {
            return Err(self.malformed(text, self.at));
        }
        self.at += text.len();
        Ok(())
    }

    fn span(&self, start: usize) -> Span {
        let text = &self.raw[start..self.at];
        let kind = match text {
            "-" => Kind::Missing,
            _ if text.contains('\\') => Kind::LogEscaped,
            _ => Kind::Text,
        };
        Span::new(start, self.at, kind)
    }

    /// Text up to a space or the end.
    fn last_word(&mut self, expected: &str) -> Result<Span, DecodeError> {
        let start = self.at;
        self.at += memchr::memchr(b' ', self.rest().as_bytes()).unwrap_or(self.rest().len());
        if self.at == start {
            return Err(self.malformed(expected, start));
        }
        Ok(self.span(start))
    }

    /// Text up to a space, and the space.
    fn word(&mut self, expected: &str) -> Result<Span, DecodeError> {
        let span = self.last_word(expected)?;
        self.expect(" ")?;
        Ok(span)
    }

    /// The user, who may have spaces: up to the opening of the time.
    fn user(&mut self) -> Result<Span, DecodeError> {
        let start = self.at;
        let length = memchr::memmem::find(self.rest().as_bytes(), b" [");
        self.at += length.ok_or_else(|| self.malformed("a user and \" [\"", self.raw.len()))?;
        let span = self.span(start);
        self.at += 1;
        Ok(span)
    }

    fn until(&mut self, end: char) -> Result<Span, DecodeError> {
        let start = self.at;
        let length = self.rest().find(end);
        self.at += length.ok_or_else(|| self.malformed("a closing bracket", self.raw.len()))?;
        Ok(self.span(start))
    }

    /// Text in quotes, in which a backslash hides a quote.
    fn quoted(&mut self) -> Result<Span, DecodeError> {
        self.expect("\"")?;
        let start = self.at;
        loop {
            let special = memchr::memchr2(b'"', b'\\', self.rest().as_bytes());
            self.at += special.ok_or_else(|| self.malformed("a closing quote", self.raw.len()))?;
            if self.rest().starts_with('"') {
                let span = self.span(start);
                self.at += 1;
                return Ok(span);
            }
            // Whatever the backslash hides is at least one character.
            self.at += 1 + self.rest().chars().nth(1).map_or(0, char::len_utf8);
        }
    }
}

/// Method, path and protocol of a request.
fn request_parts(raw: &str, request: Span) -> Option<[Span; 3]> {
    let range = request.range();
    let text = &raw[range.clone()];
    let (first, last) = (text.find(' ')?, text.rfind(' ')?);
    let is_request = first > 0
        && last > first + 1
        && text[..first].bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_')
        && text[last + 1..].starts_with("HTTP/");
    let span = |from: usize, to: usize| Span::new(range.start + from, range.start + to, request.kind());
    is_request.then(|| [span(0, first), span(first + 1, last), span(last + 1, text.len())])
}

/// Epoch milliseconds of `10/Oct/2024:13:55:36 +0200`.
fn time_ms(text: &str) -> Option<Millis> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let bytes: &[u8; 26] = text.as_bytes().try_into().ok()?;
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    };
    let separators = [2, 6, 11, 14, 17, 20].map(|at: usize| bytes[at]);
    if separators != *b"//::: " {
        return None;
    }
    let month = MONTHS.iter().position(|month| *month == &bytes[3..6])? as u64 + 1;
    let (day, year) = (number(0, 2)?, number(7, 11)?);
    let (hour, minute, second) = (number(12, 14)?, number(15, 17)?, number(18, 20)?);
    let (offset_hours, offset_minutes) = (number(22, 24)?, number(24, 26)?);
    if !is_date(year, month, day) || hour > 23 || minute > 59 || second > 60 || offset_hours > 23 || offset_minutes > 59
    {
        return None;
    }
    let ahead = (offset_hours * 60 + offset_minutes) as i64 * 60;
    let offset = match bytes[21] {
        b'+' => ahead,
        b'-' => -ahead,
        _ => return None,
    };
    let of_day = (hour * 3_600 + minute * 60 + second.min(59)) as i64;
    u64::try_from(days_from_civil(year as i64, month, day) * 86_400 + of_day - offset).ok()?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::decode::{Decoder, Format, RecordsConfig, Schema};
    use crate::output::Reason;
    use crate::record::{FieldRef, Level};

    fn schema() -> Schema {
        Schema::new(&RecordsConfig { format: Format::AccessLog, ..Default::default() }).unwrap()
    }

    fn texts<const N: usize>(line: &str, names: [&str; N]) -> [Option<String>; N] {
        let mut schema = schema();
        let fields: Vec<FieldRef> = names.iter().map(|name| schema.field(name).unwrap()).collect();
        let mut decoder = Decoder::new(schema);
        let record = decoder.decode(line.as_bytes()).unwrap();
        std::array::from_fn(|i| record.text(fields[i]).map(|text| text.into_owned()))
    }

    fn some<const N: usize>(values: [&str; N]) -> [Option<String>; N] {
        values.map(|value| (!value.is_empty()).then(|| value.to_owned()))
    }

    const COMBINED: &str = concat!(
        r#"2001:db8::1 - jo ann [10/Oct/2024:13:55:36 +0200] "GET /a?q=\"x\" HTTP/1.1" 404 2326 "#,
        r#""https://ref/" "Agent \x22A\x22 \\ 1""#
    );

    #[test]
    fn combined() {
        let names = ["client", "ident", "user_id", "method", "path", "protocol", "bytes", "referer", "user_agent"];
        let expected =
            ["2001:db8::1", "", "jo ann", "GET", "/a?q=\"x\"", "HTTP/1.1", "2326", "https://ref/", "Agent \"A\" \\ 1"];
        assert_eq!(texts(COMBINED, names), some(expected));
        let mut decoder = Decoder::new(schema());
        let record = decoder.decode(COMBINED.as_bytes()).unwrap();
        assert_eq!(record.timestamp_ms, 1_728_561_336_000);
        assert_eq!((record.status_code, record.response_time_us), (Some(404), None));
        assert_eq!((&*record.service_name, record.level), ("web", Level::Info));
    }

    #[test]
    fn common_with_missing_parts_and_request_time() {
        let line = r#"127.0.0.1 - - [01/Jan/1970:00:00:01 +0000] "-" 200 - 0.123"#;
        let mut decoder = Decoder::new(schema());
        let record = decoder.decode(line.as_bytes()).unwrap();
        assert_eq!((record.timestamp_ms, record.response_time_us), (1_000, Some(123_000)));
        assert_eq!(texts(line, ["user_id", "message", "path", "bytes"]), some(["", "", "", ""]));
        let after_agent = format!("{COMBINED} 1.5");
        assert_eq!(decoder.decode(after_agent.as_bytes()).unwrap().response_time_us, Some(1_500_000));
    }

    #[test]
    fn a_request_that_is_none_is_a_message() {
        let line = r#"1.2.3.4 - - [01/Jan/2024:00:00:00 +0000] "\x16\x03\x01 hello" 400 0"#;
        assert_eq!(texts(line, ["method", "path", "message"]), some(["", "", "\u{16}\u{3}\u{1} hello"]));
    }

    #[test]
    fn what_is_no_line() {
        let time = "[01/Jan/2024:00:00:00 +0000]";
        for (line, reason, detail) in [
            (String::new(), Reason::Malformed, "a client"),
            ("hello".to_owned(), Reason::Malformed, "at byte 5, got the end"),
            (format!("a - - {time} \"GET / HTTP/1.1"), Reason::Malformed, "a closing quote"),
            (format!("a - - {time} \"GET / HTTP/1.1\\"), Reason::Malformed, "a closing quote"),
            (format!("a - - {time} \"-\" 200 x"), Reason::Malformed, "a number of bytes"),
            (format!("a - - {time} \"-\" 200 1 fast"), Reason::Malformed, "a request time"),
            (format!("a - - {time} \"-\" 200 1 \"-\" \"-\" 1 2"), Reason::Malformed, "the end of the line"),
            (format!("a - - {time} \"-\" 200 1 86400.001"), Reason::WrongType, "from 0 to 24 hours, got"),
            (format!("a - - {time} \"-\" 200 1 1e9"), Reason::WrongType, "1e9"),
            (format!("a - - {time} \"-\" 999 1"), Reason::WrongType, "from 100 to 599"),
            ("a - - [31/Feb/2024:00:00:00 +0000] \"-\" 200 1".to_owned(), Reason::WrongType, "timestamp"),
        ] {
            let error = Decoder::new(schema()).decode(line.as_bytes()).unwrap_err();
            assert_eq!(error.reason, reason, "{line}");
            assert!(error.detail.contains(detail), "{line}: {error}");
        }
    }

    #[test]
    fn fields_are_the_parts_of_a_line() {
        let message = schema().field("region").unwrap_err().to_string();
        assert!(message.contains("\"region\"") && message.contains("user_agent"), "{message}");
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[-0-9a/: \\[\\]\"\\\\+é]{0,80}", cut in 0usize..200) {
            let mut decoder = Decoder::new(schema());
            let _ = decoder.decode(line.as_bytes());
            let _ = decoder.decode(&COMBINED.as_bytes()[..cut.min(COMBINED.len())]);
            let mut mixed = COMBINED.to_owned();
            mixed.insert_str(cut.min(COMBINED.len()), &line);
            let _ = decoder.decode(mixed.as_bytes());
        }
    }
}
