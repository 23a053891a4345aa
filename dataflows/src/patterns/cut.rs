//! The first cut of a message: its words, with everything that is surely a value replaced by `<*>`.
//!
//! In: a message. Out: its [`FirstCut`], which depends on nothing else. Nothing fails. One pass over the bytes, into a
//! buffer that is used again.
//!
//! What becomes a wildcard: numbers, words with digits (letters before the first digit are kept: `blk_<*>`),
//! hexadecimal words, addresses, dates, times, paths, URLs behind their scheme, the value in `key=value`, a size with
//! its unit. Wildcards in a row become one, so that lists of values do not differ by their lengths.

use super::classes::{CLASS, DIGIT, DOT, HEX_LETTER, LETTER, SLASH, SPACE, STOP, class};
use super::hash::stable_hash;

/// What stands for a value in a template.
pub const WILDCARD: &str = "<*>";
const WILD: &[u8] = WILDCARD.as_bytes();

/// Of a longer message only so many bytes are looked at, and the rest counts as a value.
pub const MAX_MESSAGE_BYTES: usize = 2048;

/// The first cut of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstCut<'a> {
    /// The [hash](stable_hash) of the template: never another one for the same message.
    pub id: u64,
    /// The words of the message with `<*>` for values, one space between words.
    pub template: &'a str,
}

impl<'a> FirstCut<'a> {
    /// The cut with this template.
    pub fn of_template(template: &'a str) -> Self {
        Self { id: stable_hash(template.as_bytes()), template }
    }

    /// The id as it stands in documents: 16 hexadecimal digits.
    pub fn text_id(&self) -> String {
        let mut text = String::with_capacity(16);
        self.push_id(&mut text);
        text
    }

    /// Appends the id as it stands in documents.
    #[inline]
    pub fn push_id(&self, text: &mut String) {
        for place in (0..16).rev() {
            text.push(char::from(b"0123456789abcdef"[(self.id >> (4 * place) & 15) as usize]));
        }
    }
}

/// Makes first cuts.
#[derive(Clone, Debug, Default)]
pub struct Cutter {
    template: Vec<u8>,
}

impl Cutter {
    /// The first cut of a message.
    #[inline]
    pub fn cut(&mut self, message: &str) -> FirstCut<'_> {
        let end = if message.len() <= MAX_MESSAGE_BYTES { message.len() } else { end_of_long(message) };
        let mut scan = Scan { text: &message.as_bytes()[..end], at: 0, out: &mut self.template, is_value: false };
        scan.out.clear();
        scan.run();
        if end < message.len() {
            scan.push_space();
            scan.push_wild();
        }
        while self.template.last() == Some(&b' ') {
            self.template.pop();
        }
        // Only whole words, or parts of them up to an ASCII byte, were copied; so this is UTF-8 and nothing is replaced.
        let template = std::str::from_utf8(&self.template).unwrap_or_default();
        FirstCut { id: stable_hash(template.as_bytes()), template }
    }
}

/// Where a message that is too long is cut: before a word, if one begins not far back.
#[cold]
fn end_of_long(message: &str) -> usize {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    let space = message.as_bytes()[..end].iter().rposition(|byte| class(*byte) & SPACE != 0);
    space.filter(|space| *space > MAX_MESSAGE_BYTES / 2).unwrap_or(end)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    /// Whether the next word is the value of a `key=`.
    is_value: bool,
}

impl Scan<'_> {
    #[inline]
    fn peek(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(b' ')
    }

    #[inline]
    fn run(&mut self) {
        while self.at < self.text.len() {
            let byte = self.text[self.at];
            let class = class(byte);
            if class & STOP == 0 {
                self.word();
            } else if class & SPACE != 0 {
                self.push_space();
                self.at += 1;
            } else {
                self.punctuation(byte);
            }
        }
    }

    #[inline]
    fn push_space(&mut self) {
        if !matches!(self.out.last(), None | Some(b' ')) {
            self.out.push(b' ');
        }
    }

    /// A wildcard, or nothing if one stands before, with a space or a comma between.
    #[inline]
    fn push_wild(&mut self) {
        let mut end = self.out.len();
        if end > 3 {
            while matches!(self.out[end - 1], b' ' | b',') && end > 3 {
                end -= 1;
            }
            if self.out[..end].ends_with(WILD) {
                self.out.truncate(end);
                return;
            }
        }
        self.out.extend_from_slice(WILD);
    }

    /// `prefix<*>`, or nothing if the same stands before.
    fn push_numbered(&mut self, prefix: &[u8]) {
        let before = self.out.strip_suffix(b" ").and_then(|out| out.strip_suffix(WILD));
        if let Some(before) = before.and_then(|out| out.strip_suffix(prefix))
            && before.last().is_none_or(|byte| class(*byte) & STOP != 0)
        {
            self.out.pop();
            return;
        }
        self.out.extend_from_slice(prefix);
        self.out.extend_from_slice(WILD);
    }

    fn punctuation(&mut self, byte: u8) {
        match byte {
            b'=' => self.equals(),
            // An empty pair of brackets that is no call: a value is missing.
            b'(' if self.peek(self.at + 1) == b')' && self.out.last().is_none_or(|last| *last == b' ') => {
                self.out.extend_from_slice(b"(<*>)");
                self.at += 2;
            }
            // Less than a unit: `<1 sec`.
            b'<' if class(self.peek(self.at + 1)) & DIGIT != 0 && self.less_than() => {}
            b':' if self.text[self.at..].starts_with(b"://") => self.url(),
            b'?' if self.out.ends_with(WILD) && class(self.peek(self.at + 1)) & STOP == 0 => {
                // The query of a URL.
                let rest = &self.text[self.at..];
                let is_end = |byte: &u8| class(*byte) & SPACE != 0 || matches!(byte, b'"' | b'\'' | b')' | b']' | b'>');
                self.at += rest.iter().position(is_end).unwrap_or(rest.len());
            }
            _ => {
                self.out.push(byte);
                self.at += 1;
                self.is_value &= matches!(byte, b'"' | b'\'' | b'[' | b'{' | b'(' | b'<');
            }
        }
    }

    /// What stands behind a scheme.
    fn url(&mut self) {
        let is_end = |byte: &u8| {
            class(*byte) & SPACE != 0 || matches!(byte, b'"' | b'\'' | b',' | b')' | b']' | b'}' | b'>' | b'|')
        };
        let rest = &self.text[self.at..];
        let rest = &rest[..rest.iter().position(is_end).unwrap_or(rest.len())];
        let length = rest.iter().rposition(|byte| !matches!(byte, b'.' | b':' | b';')).map_or(3, |last| last + 1);
        self.at += length.max(3);
        let scheme = self.out.iter().rposition(|byte| class(*byte) & STOP != 0).map_or(0, |stop| stop + 1);
        if self.out[scheme..].contains(&b'.') {
            // A name of its own rather than a scheme.
            self.out.truncate(scheme);
        } else {
            self.out.extend_from_slice(b"://");
        }
        self.push_wild();
    }

    /// `=`: what follows is a value, if this is neither a comparison nor an arrow. No value at all counts as one too.
    fn equals(&mut self) {
        let before = self.out.last().copied().unwrap_or(b' ');
        self.out.push(b'=');
        self.at += 1;
        let next = self.peek(self.at);
        if matches!(before, b'=' | b'!' | b'<' | b'>') || matches!(next, b'=' | b'>' | b'~') {
            self.is_value = false;
            return;
        }
        self.is_value = true;
        let is_missing = match next {
            b',' | b';' | b'&' | b')' | b']' | b'}' => true,
            _ if before != b' ' && class(next) & SPACE != 0 => {
                let rest = &self.text[self.at..];
                let word = rest.iter().position(|byte| class(*byte) & SPACE == 0);
                word.is_none_or(|word| {
                    let word = &rest[word..];
                    let end = word.iter().position(|byte| class(*byte) & STOP != 0);
                    end.is_some_and(|end| end > 0 && word[end] == b'=')
                })
            }
            _ => false,
        };
        if is_missing {
            self.out.extend_from_slice(WILD);
            self.is_value = false;
        }
    }

    /// `<1 sec` as one value.
    fn less_than(&mut self) -> bool {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let unit = rest[digits..].strip_prefix(b" ").unwrap_or(&rest[digits..]);
        let length = unit.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        if !matches!(&unit[..length], b"s" | b"ms" | b"us" | b"sec" | b"secs" | b"second" | b"min" | b"KB" | b"MB") {
            return false;
        }
        self.at = self.text.len() - unit.len() + length;
        self.push_wild();
        true
    }

    #[inline]
    fn word(&mut self) {
        let start = self.at;
        let mut end = start;
        let mut seen = 0;
        while let Some(&byte) = self.text.get(end) {
            let class = CLASS[byte as usize];
            if class & STOP != 0 {
                break;
            }
            seen |= class;
            end += 1;
        }
        self.at = end;
        // A full stop behind a word is none of it.
        let mut stop = end;
        while stop > start && self.text[stop - 1] == b'.' {
            stop -= 1;
        }
        let is_value = std::mem::take(&mut self.is_value);
        let text = self.text;
        let word = &text[start..stop];
        if word.is_empty() || seen & (LETTER | DIGIT) == 0 && !(is_value && word != b"-") {
            self.out.extend_from_slice(&text[start..end]);
            return;
        }
        if seen & !LETTER == 0 && !is_value {
            self.plain(word);
        } else if is_value {
            self.push_wild();
        } else if seen & DIGIT != 0 {
            self.with_digits(word, seen);
        } else {
            self.joined(word, seen);
        }
        self.out.extend_from_slice(&text[stop..end]);
    }

    /// A word of letters.
    #[inline]
    fn plain(&mut self, word: &[u8]) {
        let next = self.peek(self.at);
        let is_value = match word.len() {
            3 => class(next) & SPACE != 0 && is_date_word(word) && self.is_date_next(),
            1..=4 if next == b':' => self.colons(word),
            8.. => word.iter().all(|byte| class(*byte) == HEX_LETTER),
            _ => false,
        };
        if is_value {
            self.push_wild();
        } else {
            self.out.extend_from_slice(word);
        }
    }

    /// A word of letters with joiners, dots or slashes between.
    fn joined(&mut self, word: &[u8], seen: u8) {
        let count = |wanted: u8| word.iter().filter(|byte| **byte == wanted).count();
        let is_value = if seen & SLASH != 0 {
            word[0] == b'/' || count(b'/') >= 2 || count(b'\\') >= 2 || word[1..].contains(&b'@')
        } else {
            // A name with a port is that of a host.
            let has_port = || self.peek(self.at) == b':' && class(self.peek(self.at + 1)) & DIGIT != 0;
            seen & DOT != 0 && (count(b'.') >= 2 && has_port() || is_host(word))
        };
        if is_value {
            self.push_wild();
        } else {
            self.out.extend_from_slice(word);
        }
    }

    fn with_digits(&mut self, word: &[u8], seen: u8) {
        if seen & LETTER == 0 {
            // Digits and what joins them. A time or an address goes on behind the colon, a size has its unit.
            if self.peek(self.at) == b':' {
                self.colons(word);
            } else if self.peek(self.at) == b' ' {
                self.unit();
            }
            return self.push_wild();
        }
        let digit = word.iter().position(u8::is_ascii_digit).unwrap_or(0);
        let is_hex = |least: usize| {
            word.len() >= least && word.iter().all(|byte| class(*byte) & (DIGIT | HEX_LETTER) != 0 || *byte == b'-')
        };
        if word.len() == 4 && (word.eq_ignore_ascii_case(b"ipv4") || word.eq_ignore_ascii_case(b"ipv6")) {
            self.out.extend_from_slice(word);
            return;
        }
        let starts_with_letter = class(word[0]) & LETTER != 0;
        if word.len() <= 4 && self.peek(self.at) == b':' && is_hex(1) && self.colons(word) {
            return self.push_wild();
        }
        // In a dotted name, a number at its end is one; anywhere else the name is that of a host or a version.
        let is_mixed = seen & SLASH != 0
            || seen & DOT != 0 && word[digit..].contains(&b'.')
            || !starts_with_letter
            || is_hex(6)
            || switches(word) > 3;
        if is_mixed {
            return self.push_wild();
        }
        // The sign of a number behind `_` belongs to the number.
        let prefix = word[..digit].strip_suffix(b"-").filter(|rest| rest.ends_with(b"_")).unwrap_or(&word[..digit]);
        self.push_numbered(prefix);
    }

    /// Goes on to the end of groups of hexadecimal digits with colons between (times, MAC and IPv6 addresses), if there
    /// are three or more groups.
    fn colons(&mut self, word: &[u8]) -> bool {
        if word.len() > 4 || word.iter().any(|byte| class(*byte) & (DIGIT | HEX_LETTER) == 0) {
            return false;
        }
        let mut at = self.at;
        let (mut groups, mut has_digit) = (1, word.iter().any(u8::is_ascii_digit));
        while self.peek(at) == b':' {
            let group = self.text[at + 1..].iter().take_while(|byte| class(**byte) & (DIGIT | HEX_LETTER) != 0).count();
            if group > 4 || group == 0 && self.peek(at + 1) != b':' {
                break;
            }
            has_digit |= self.text[at + 1..at + 1 + group].iter().any(u8::is_ascii_digit);
            at += 1 + group;
            groups += 1;
        }
        // Two digits, a colon and two digits are a time too.
        let is_short_time = groups == 2 && has_digit && word.len() == 2 && at == self.at + 3;
        if groups < 3 && !is_short_time || !has_digit || class(self.peek(at)) & LETTER != 0 {
            return false;
        }
        // The fraction of a second.
        while class(self.peek(at)) & DIGIT != 0 || self.peek(at) == b'.' && class(self.peek(at + 1)) & DIGIT != 0 {
            at += 1;
        }
        self.at = at;
        true
    }

    /// Passes over the unit of a size.
    #[inline]
    fn unit(&mut self) {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let length = match rest {
            [b'B', ..] => 1,
            [b'K' | b'k' | b'M' | b'G' | b'T', b'B', ..] => 2,
            [b'K' | b'M' | b'G' | b'T', b'i', b'B', ..] => 3,
            _ => return,
        };
        if rest.get(length).is_none_or(|byte| class(*byte) & STOP != 0) {
            self.at += 1 + length;
        }
    }

    /// Whether behind the spaces comes a number or another word of a date.
    fn is_date_next(&self) -> bool {
        let rest = self.text[self.at..].trim_ascii_start();
        rest.first().is_some_and(u8::is_ascii_digit) || rest.len() > 3 && is_date_word(&rest[..3]) && rest[3] == b' '
    }
}

/// Whether a name ends like that of a host, and does not begin like that of a package.
fn is_host(word: &[u8]) -> bool {
    const LAST: [&[u8]; 12] =
        [b"com", b"net", b"org", b"edu", b"gov", b"cn", b"de", b"fr", b"uk", b"jp", b"ru", b"local"];
    const PACKAGES: [&[u8]; 6] = [b"com", b"org", b"net", b"java", b"javax", b"android"];
    let label = |label: Option<&[u8]>, of: &[&[u8]]| label.is_some_and(|label| of.contains(&label));
    label(word.rsplit(|byte| *byte == b'.').next(), &LAST) && !label(word.split(|byte| *byte == b'.').next(), &PACKAGES)
}

/// How often letters and digits alternate.
fn switches(word: &[u8]) -> usize {
    let mut kinds = word.iter().filter(|byte| class(**byte) & (LETTER | DIGIT) != 0).map(u8::is_ascii_digit);
    let mut last = kinds.next();
    kinds.filter(|kind| last.replace(*kind) != Some(*kind)).count()
}

fn is_date_word(word: &[u8]) -> bool {
    const WORDS: [&[u8; 3]; 19] = [
        b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun", b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul",
        b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
    ];
    WORDS.iter().any(|date| date[..] == *word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(message: &str) -> String {
        Cutter::default().cut(message).template.to_owned()
    }

    #[test]
    fn values_are_masked_and_words_are_not() {
        for (message, expected) in [
            ("Received block blk_-38 of size 67108864 from /10.0.0.1", "Received block blk_<*> of size <*> from <*>"),
            ("connected to 10.1.2.3:50010, mask 0x1F, took 3.5ms", "connected to <*>:<*>, mask <*>, took <*>"),
            ("id bf1a281b-ad7b-4476-ac95-f47682990ce7 and a489c868f0c3", "id <*> and <*>"),
            ("at Mon Jul 25 23:23:13 2005 by fe80:0:0:0:c6b3:1ff:fecd:467f", "at <*> by <*>"),
            ("free 5.2 KB of 16 GiB", "free <*> of <*>"),
            ("took <1 sec", "took <*>"),
            ("reading /etc/passwd and C:\\Windows\\System32\\x.dll", "reading <*> and C:<*>"),
            ("GET https://a.example.org/x?y=1, see http://b/", "GET https://<*>, see http://<*>"),
            ("\"GET /a/b?x=1&y=z HTTP/1.1\"", "\"GET <*>\""),
            ("open www.example.com:443 for java.lang.String", "open <*>:<*> for java.lang.String"),
            ("uid=0 user=root tty= ruser= rhost=", "uid=<*> user=<*> tty=<*> ruser=<*> rhost=<*>"),
            ("a == b, c => d, e != f", "a == b, c => d, e != f"),
            ("connection from 1.2.3.4 () and clear()", "connection from <*> (<*>) and clear()"),
            ("Worker 5 done. Next.", "Worker <*> done. Next."),
            ("power/control of eth0 is off -- ok", "power/control of eth<*> is off -- ok"),
            ("values 1, 2, 3 and 4 5", "values <*> and <*>"),
            ("deleted blk_1 blk_2 blk_3", "deleted blk_<*>"),
            ("  two\t  spaces ", "two spaces"),
            ("größe 5 日本語", "größe <*> 日本語"),
            ("", ""),
        ] {
            assert_eq!(template(message), expected, "{message}");
        }
    }

    #[test]
    fn ids_never_change() {
        for (message, id) in [
            ("", 0x7f40_f511_7e11_298b),
            ("Received block blk_-38 of size 67108864 from /10.0.0.1", 0x66ed_c3ab_02b9_bfe6),
            ("größe 5 日本語", 0x00c7_ec46_bbf3_90fb),
            ("session opened for user root by (uid=0)", 0x3158_b1d6_2697_ead9),
        ] {
            assert_eq!(Cutter::default().cut(message).id, id, "{message}: {:#018x}", Cutter::default().cut(message).id);
        }
    }

    #[test]
    fn a_very_long_message_is_cut_before_a_word() {
        let long = "word ".repeat(1_000_000);
        let cut = template(&long);
        assert!(cut.len() <= MAX_MESSAGE_BYTES && cut.ends_with("word <*>"), "{}", cut.len());
        let other = long.clone() + "more";
        assert_eq!(template(&other), cut);
        let umlauts = "ä".repeat(100_000);
        assert_eq!(template(&umlauts), "ä".repeat(MAX_MESSAGE_BYTES / 2) + " <*>");
    }

    proptest! {
        #[test]
        fn any_message_has_a_cut_and_a_used_cutter_makes_the_same(
            messages in prop::collection::vec("[ -~]{0,60}|\\PC{0,40}|[=<:()/.0-9a-f ]{0,40}", 1..20)
        ) {
            let mut used = Cutter::default();
            for message in &messages {
                let cut = used.cut(message);
                let fresh = template(message);
                prop_assert_eq!(cut.template, &fresh);
                prop_assert_eq!(cut.id, stable_hash(fresh.as_bytes()));
                prop_assert!(fresh.len() <= 3 * message.len() + 16);
                prop_assert!(!fresh.chars().any(|c| c.is_ascii_control()));
            }
        }
    }
}
