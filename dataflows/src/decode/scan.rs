//! A scanner over JSON text: finds where values begin and end, builds nothing, and refuses what is not JSON (RFC 8259).
//!
//! In: text that is known to be UTF-8. Out: [`Span`]s. On error: what was expected, and at which byte.
//!
//! Beyond the grammar it checks that escapes are complete and surrogates paired, and bounds the nesting. Numbers are
//! checked for their form, not their size.

use crate::decode::text::{hex4, is_high_surrogate, is_low_surrogate};
use crate::record::{Kind, Span};

/// Objects and arrays inside each other, at the most.
pub(crate) const MAX_DEPTH: u32 = 127;

/// Not JSON, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub at: usize,
    pub expected: &'static str,
}

/// A place in JSON text.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    pub at: usize,
    /// Line feeds or carriage returns were passed over between tokens.
    pub has_line_feed: bool,
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// The high bit of each byte of `word` that equals `byte`; exact for the lowest such byte, which is all we use.
#[inline]
const fn equal_bytes(word: u64, byte: u8) -> u64 {
    let x = word ^ (ONES * byte as u64);
    x.wrapping_sub(ONES) & !x
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, has_line_feed: false }
    }

    #[inline]
    pub fn peek(&self) -> u8 {
        // NUL stands for the end: it is in no token.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[cold]
    pub fn malformed<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    #[inline]
    pub fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), Malformed> {
        if self.peek() != byte {
            return self.malformed(expected);
        }
        self.at += 1;
        Ok(())
    }

    /// Passes over white space.
    #[inline]
    pub fn space(&mut self) {
        if self.peek() <= b' ' {
            self.spaces();
        }
    }

    fn spaces(&mut self) {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t') => {}
                Some(b'\n' | b'\r') => self.has_line_feed = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    /// The end of the text.
    pub fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at < self.bytes.len() { self.malformed("nothing after the object") } else { Ok(()) }
    }

    /// Text, from its opening quote on. The span is between the quotes.
    #[inline]
    pub fn string(&mut self) -> Result<Span, Malformed> {
        self.expect(b'"', "text in quotes")?;
        let start = self.at;
        self.at = self.special(start);
        if self.peek() == b'"' {
            self.at += 1;
            return Ok(Span::new(start, self.at - 1, Kind::Text));
        }
        self.string_with_escapes(start)
    }

    /// The first byte from `at` on that ends plain text: a quote, a backslash or a control character.
    #[inline(always)]
    fn special(&self, mut at: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        while let Some(sixteen) = self.bytes.get(at..).and_then(<[u8]>::first_chunk) {
            let found = crate::decode::sixteen::specials(*sixteen);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
            at += 16;
        }
        while let Some(eight) = self.bytes.get(at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_le_bytes(*eight);
            let control = word.wrapping_sub(ONES * 0x20) & !word;
            let found = (equal_bytes(word, b'"') | equal_bytes(word, b'\\') | control) & HIGHS;
            if found != 0 {
                return at + (found.trailing_zeros() / 8) as usize;
            }
            at += 8;
        }
        while self.bytes.get(at).is_some_and(|&b| b >= b' ' && b != b'"' && b != b'\\') {
            at += 1;
        }
        at
    }

    fn string_with_escapes(&mut self, start: usize) -> Result<Span, Malformed> {
        loop {
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(Span::new(start, self.at - 1, Kind::Escaped));
                }
                b'\\' => self.escape()?,
                _ if self.at >= self.bytes.len() => return self.malformed("a closing quote"),
                _ => return self.malformed("no control character in text"),
            }
            self.at = self.special(self.at);
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let Some(unit) = hex4(self.bytes, self.at + 2) else {
                    return self.malformed("four hexadecimal digits");
                };
                if is_low_surrogate(unit) {
                    return self.malformed("no lone surrogate");
                }
                self.at += 6;
                if is_high_surrogate(unit) {
                    let second = if self.bytes.get(self.at..self.at + 2) == Some(br"\u") {
                        hex4(self.bytes, self.at + 2)
                    } else {
                        None
                    };
                    if !second.is_some_and(is_low_surrogate) {
                        return self.malformed("the second half of a surrogate pair");
                    }
                    self.at += 6;
                }
            }
            _ => return self.malformed("an escape that JSON has"),
        }
        Ok(())
    }

    /// A value of any kind, passed over.
    #[inline]
    pub fn value(&mut self) -> Result<Span, Malformed> {
        match self.peek() {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b'{' | b'[' => self.container(),
            b't' => self.literal(b"true", Kind::True),
            b'f' => self.literal(b"false", Kind::False),
            b'n' => self.literal(b"null", Kind::Null),
            _ => self.malformed("a value"),
        }
    }

    #[inline(always)]
    fn literal(&mut self, literal: &'static [u8], kind: Kind) -> Result<Span, Malformed> {
        let start = self.at;
        if self.bytes.get(start..start + literal.len()) != Some(literal) {
            return self.malformed("true, false or null");
        }
        self.at += literal.len();
        Ok(Span::new(start, self.at, kind))
    }

    #[inline(always)]
    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    #[inline(always)]
    fn number(&mut self) -> Result<Span, Malformed> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let leading_zero = self.peek() == b'0';
        let digits = self.digits();
        if digits == 0 || leading_zero && digits > 1 {
            return self.malformed("a number");
        }
        if self.peek() == b'.' {
            self.at += 1;
            if self.digits() == 0 {
                return self.malformed("a digit");
            }
        }
        if self.peek() | 0x20 == b'e' {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.malformed("a digit");
            }
        }
        Ok(Span::new(start, self.at, Kind::Number))
    }

    /// An object or an array with all that is in it, without recursion.
    fn container(&mut self) -> Result<Span, Malformed> {
        let start = self.at;
        let kind = if self.peek() == b'{' { Kind::Object } else { Kind::Array };
        // The containers around the current place, one bit each, innermost lowest: 1 for an object.
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            // At the beginning of a value.
            match self.peek() {
                open @ (b'{' | b'[') => {
                    if depth == MAX_DEPTH {
                        return self.malformed("less nesting");
                    }
                    self.at += 1;
                    self.space();
                    let is_object = open == b'{';
                    if self.peek() != if is_object { b'}' } else { b']' } {
                        depth += 1;
                        objects = objects << 1 | u128::from(is_object);
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                _ => {
                    self.value()?;
                }
            }
            // Behind a value.
            loop {
                if depth == 0 {
                    return Ok(Span::new(start, self.at, kind));
                }
                self.space();
                let in_object = objects & 1 == 1;
                match self.peek() {
                    b',' => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return self.malformed(if in_object { "',' or '}'" } else { "',' or ']'" }),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// A member's name, its colon and the white space around, up to the value.
    #[inline]
    pub fn key(&mut self) -> Result<Span, Malformed> {
        let name = self.string()?;
        self.space();
        self.expect(b':', "':'")?;
        self.space();
        Ok(name)
    }

    /// Behind a member's value: `true` when there is another member, with the place moved to its name.
    #[inline]
    pub fn another_member(&mut self) -> Result<bool, Malformed> {
        self.space();
        match self.peek() {
            b',' => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            b'}' => {
                self.at += 1;
                Ok(false)
            }
            _ => self.malformed("',' or '}'"),
        }
    }

    /// Passes over a name that was learnt, with its colon and the space around, if it stands here.
    #[inline(always)]
    pub fn learnt_name(&mut self, name: &LearntName) -> bool {
        let Some(bytes) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) else { return false };
        let differs =
            words(bytes).into_iter().zip(name.words).zip(name.masks).fold(0, |d, ((a, b), m)| d | (a ^ b) & m);
        if differs == 0 {
            self.at += name.length;
        }
        differs == 0
    }

    /// The name, colon and space from `start` up to this place, to be compared with other records; `None` where it is
    /// too long or has line feeds, or stands too near to the end.
    pub fn learn_name(&self, start: usize) -> Option<LearntName> {
        let length = self.at - start;
        let bytes = self.bytes.get(start..)?.first_chunk::<LEARNT_BYTES>()?;
        let name = bytes.get(..length)?;
        if name.iter().any(|b| matches!(b, b'\n' | b'\r')) {
            return None;
        }
        let mut mask = [0; LEARNT_BYTES];
        mask[..length].fill(0xff);
        Some(LearntName { words: words(bytes), masks: words(&mask), length })
    }

    /// The opening of an object: `true` when it has members, with the place moved to the first name.
    #[inline]
    pub fn first_member(&mut self) -> Result<bool, Malformed> {
        self.expect(b'{', "an object")?;
        self.space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }
}

/// The longest name that is learnt, with quotes, colon and space.
const LEARNT_BYTES: usize = 24;

/// A name as it stood in another record, ready to be compared in a few instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LearntName {
    words: [u64; 3],
    masks: [u64; 3],
    length: usize,
}

#[inline(always)]
fn words(bytes: &[u8; LEARNT_BYTES]) -> [u64; 3] {
    let (eights, _) = bytes.as_chunks::<8>();
    [0, 1, 2].map(|i| u64::from_le_bytes(eights[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Result<(Kind, usize), Malformed> {
        let mut scanner = Scanner::new(text);
        let span = scanner.value()?;
        scanner.end()?;
        Ok((span.kind(), span.range().len()))
    }

    #[test]
    fn values() {
        assert_eq!(scan("\"abc\""), Ok((Kind::Text, 3)));
        assert_eq!(scan(r#""a\"bcdefghijkl""#), Ok((Kind::Escaped, 14)));
        assert_eq!(scan("-12.5e+3"), Ok((Kind::Number, 8)));
        assert_eq!(scan("{\"a\" : [1, {}, [ ], {\"b\":null}] }\n"), Ok((Kind::Object, 33)));
        assert_eq!(scan("true"), Ok((Kind::True, 4)));
    }

    #[test]
    fn what_is_not_json() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "+1",
            "tru",
            "nul",
            "NaN",
            "\"abc",
            "\"\u{1}\"",
            r#""\x""#,
            r#""\u12""#,
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            "[1 2]",
            "[}",
            "{]",
            "[1}",
            "1 1",
            "'a'",
            "{} x",
            "\u{a0}1",
        ] {
            assert!(scan(text).is_err(), "{text:?} passes");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text:?} is JSON");
        }
        let deep = |n| "[".repeat(n) + &"]".repeat(n);
        assert!(scan(&deep(127)).is_ok());
        assert_eq!(scan(&deep(128)).unwrap_err().expected, "less nesting");
    }
}
