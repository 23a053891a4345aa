//! Text as it stands in raw records, without its escapes.

use std::borrow::Cow;

use crate::record::{Kind, Span};

/// The text at a span of any kind; allocates only where there are escapes. JSON escapes are those that the scanner let
/// pass, so they are complete and in range.
pub(crate) fn of_span(raw: &str, span: Span) -> Cow<'_, str> {
    let text = raw.get(span.range()).unwrap_or_default();
    match span.kind() {
        Kind::Missing | Kind::Null => Cow::Borrowed(""),
        Kind::Escaped => Cow::Owned(unescape_json(text)),
        Kind::LogEscaped => Cow::Owned(unescape_log(text)),
        _ => Cow::Borrowed(text),
    }
}

/// Replaces JSON escapes in valid JSON text.
pub(crate) fn unescape_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let mut used = at + 2;
        match rest.as_bytes().get(at + 1) {
            Some(b'n') => out.push('\n'),
            Some(b't') => out.push('\t'),
            Some(b'r') => out.push('\r'),
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'u') => {
                let unit = hex4(rest.as_bytes(), at + 2).unwrap_or(0xfffd);
                used = at + 6;
                let code = if is_high_surrogate(unit) {
                    used = at + 12;
                    let low = hex4(rest.as_bytes(), at + 8).unwrap_or(0xdc00);
                    0x10000 + ((unit - 0xd800) << 10) + (low & 0x3ff)
                } else {
                    unit
                };
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(&other) => out.push(char::from(other)),
            None => {}
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Four hexadecimal digits.
pub(crate) fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |value, &b| Some(value << 4 | char::from(b).to_digit(16)?))
}

pub(crate) fn is_high_surrogate(unit: u32) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

pub(crate) fn is_low_surrogate(unit: u32) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

/// Replaces the escapes of access logs: `\"`, `\\`, `\n`, `\t`, `\r` and `\xHH` for a byte. Bytes that are not
/// UTF-8 when put together become U+FFFD; other sequences stay as they are.
fn unescape_log(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let hex = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
        let (plain, used) = match bytes.get(at + 1) {
            Some(b'n') => (b'\n', 2),
            Some(b't') => (b'\t', 2),
            Some(b'r') => (b'\r', 2),
            Some(b'x') => match (hex(at + 2), hex(at + 3)) {
                (Some(high), Some(low)) => ((high << 4 | low) as u8, 4),
                _ => (byte, 1),
            },
            Some(&quoted @ (b'"' | b'\\')) => (quoted, 2),
            _ => (byte, 1),
        };
        out.push(plain);
        at += used;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes() {
        assert_eq!(unescape_json(r#"a\"b\\c\/d\n\t\r\b\f\u00e9\ud83d\ude00é"#), "a\"b\\c/d\n\t\r\u{8}\u{c}é😀é");
    }

    #[test]
    fn access_log_escapes() {
        assert_eq!(unescape_log(r#"a \"b\" \xC3\xA9 \x4"#), "a \"b\" é \\x4");
        assert_eq!(unescape_log(r"\xff"), "\u{fffd}");
    }
}
