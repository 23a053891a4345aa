//! The header of a plain text line: time, level, logger.
//!
//! In: a line. Out: the parts that could be told without knowing the system, and the message behind them. Nothing
//! fails: a line that does not begin with a time is all message. Understood are ISO dates and most other numeric ones,
//! syslog's, `asctime`'s, glog's, and behind them levels, process and thread numbers, threads in brackets, names of
//! loggers, with spaces, dashes or bars between.

use crate::record::Level;

/// The parts of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The time as it is written.
    pub timestamp: Option<&'a str>,
    /// The level.
    pub level: Option<Level>,
    /// The logger, component or program.
    pub logger: Option<&'a str>,
    /// What is left of the line.
    pub message: &'a str,
}

/// Words before the time (a host, a priority, a file name): at most so many, none of plain letters.
const MAX_BEFORE_TIME: usize = 3;
/// At most so many fields between the time and the message.
const MAX_FIELDS: usize = 8;

/// Splits a line into header and message.
pub fn split(line: &str) -> Header<'_> {
    if let Some(header) = glog(line) {
        return header;
    }
    let mut start = line.trim_start();
    if let Some((rest, has_version)) = priority(start) {
        start = rest;
        if has_version && let Some((timestamp, _, rest)) = timestamp(start) {
            return syslog_5424(Header { timestamp: Some(timestamp), level: None, logger: None, message: rest });
        }
    }
    for _ in 0..=MAX_BEFORE_TIME {
        if let Some((timestamp, is_syslog, rest)) = timestamp(start) {
            let header = Header { timestamp: Some(timestamp), level: None, logger: None, message: rest };
            return match rest.as_bytes().first() {
                Some(b'|') => bars(header),
                _ if is_syslog => syslog(header),
                _ => fields(header),
            };
        }
        let Some((word, rest)) = start.split_once(' ') else { break };
        if word != "-" && !word.bytes().any(|byte| byte.is_ascii_digit()) {
            break;
        }
        start = rest.trim_start();
    }
    Header { timestamp: None, level: None, logger: None, message: line }
}

/// The time that a text begins with, whether it is of the form that syslog uses, and the rest.
fn timestamp(text: &str) -> Option<(&str, bool, &str)> {
    let is_bracketed = text.starts_with('[');
    let inner = &text[usize::from(is_bracketed)..];
    let (length, is_syslog) = match named_date(inner) {
        Some(found) => found,
        None => {
            (numeric_date(inner).or_else(|| clock(inner).filter(|_| inner.as_bytes()[digits(inner)] == b':'))?, false)
        }
    };
    let (time, rest) = inner.split_at(length);
    let rest = if is_bracketed { rest.strip_prefix(']')? } else { rest };
    let is_over = rest.is_empty() || rest.starts_with([' ', '\t', ',', '|', ':', ']', ';']);
    is_over.then_some((time, is_syslog && !is_bracketed, rest))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// `16:13:38`, with a fraction and a zone if there are any; also with dots for colons.
fn clock(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let first = digits(text);
    let separator = *bytes.get(first)?;
    if !(1..=2).contains(&first) || !matches!(separator, b':' | b'.') {
        return None;
    }
    let mut at = first;
    for _ in 0..2 {
        // Some do not pad.
        let length = if bytes.get(at) == Some(&separator) { digits(&text[at + 1..]) } else { 0 };
        if !(1..=2).contains(&length) {
            return None;
        }
        at += 1 + length;
    }
    if let Some(b'.' | b',' | b':') = bytes.get(at) {
        let fraction = digits(&text[at + 1..]);
        at += if fraction > 0 { 1 + fraction } else { 0 };
    }
    match bytes.get(at) {
        Some(b'Z') => at += 1,
        Some(b'+' | b'-') if digits(&text[at + 1..]) == 4 => at += 5,
        Some(b'+' | b'-') if digits(&text[at + 1..]) == 2 && text[at + 3..].starts_with(':') => at += 6,
        _ => {}
    }
    Some(at)
}

/// `2005-06-03`, `17/06/09`, `03-17`, `081109`, `20171223` and the time of day behind it.
fn numeric_date(text: &str) -> Option<usize> {
    let first = digits(text);
    let mut at = first;
    match text.as_bytes().get(first)? {
        separator @ (b'-' | b'/' | b'.') if matches!(first, 1 | 2 | 4) => {
            for part in 0..2 {
                if text.as_bytes().get(at) != Some(separator) {
                    // Without the year.
                    if part == 1 { break } else { return None }
                }
                let length = digits(&text[at + 1..]);
                if !matches!(length, 1 | 2 | 4) {
                    return None;
                }
                at += 1 + length;
            }
        }
        b' ' | b'-' | b'T' | b'_' if matches!(first, 6 | 8) => {
            let rest = &text[first + 1..];
            if digits(rest) == 6 && rest.as_bytes().get(6).is_none_or(|byte| *byte == b' ') {
                return Some(first + 7);
            }
        }
        _ => return None,
    }
    let rest = &text[at..];
    let gap = rest.bytes().take_while(|byte| matches!(byte, b' ' | b'T' | b'-' | b'_' | b':')).count();
    if !(1..=2).contains(&gap) {
        return None;
    }
    Some(at + gap + clock(&rest[gap..])?)
}

/// `Jun 14 15:16:01`, `Sun Dec 04 04:47:44 2005`: its length, and whether it is the first form.
fn named_date(text: &str) -> Option<(usize, bool)> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let begins = |text: &str, names: &[&str]| names.iter().any(|name| text.starts_with(name));
    let has_day = begins(text, &DAYS);
    let mut rest = if has_day { text[3..].trim_start_matches([',', ' ']) } else { text };
    if !begins(rest, &MONTHS) {
        return None;
    }
    rest = rest[3..].trim_start_matches(' ');
    let day = digits(rest);
    if !(1..=2).contains(&day) {
        return None;
    }
    rest = rest[day..].trim_start_matches(' ');
    rest = &rest[clock(rest)?..];
    let year = rest.strip_prefix(' ').filter(|rest| digits(rest) == 4);
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([' ', ']']);
    if let Some(year) = year.filter(|year| ends(&year[4..])) {
        rest = &year[4..];
    }
    Some((text.len() - rest.len(), !has_day && year.is_none()))
}

/// `I0517 12:00:00.123456 1234 file.cc:12] message`.
fn glog(line: &str) -> Option<Header<'_>> {
    let level = line.get(..1).filter(|level| matches!(*level, "I" | "W" | "E" | "F"))?;
    let time = line[1..].strip_prefix(|c: char| c.is_ascii_digit()).filter(|rest| digits(rest) == 3)?;
    let length = clock(time[3..].strip_prefix(' ')?)?;
    let (head, message) = line[6 + length..].split_once("] ")?;
    let logger = head.rsplit(' ').next()?;
    (logger.contains(':')).then(|| Header {
        timestamp: Some(&line[1..6 + length]),
        level: Some(Level::of_text(level)),
        logger: Some(logger),
        message,
    })
}

/// What stands behind the priority of a syslog message, and whether it has a version (RFC 5424).
fn priority(text: &str) -> Option<(&str, bool)> {
    let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
    let is_number = (1..=3).contains(&number.len()) && digits(number) == number.len();
    is_number.then(|| rest.strip_prefix("1 ").map_or((rest, false), |rest| (rest, true)))
}

/// Behind the time of RFC 5424: host, program, process, kind of message, structured data.
fn syslog_5424(header: Header<'_>) -> Header<'_> {
    let mut fields = header.message.trim_start().splitn(5, ' ');
    let (_, program) = (fields.next(), fields.next());
    let rest = fields.nth(2).unwrap_or_default();
    let mut message = rest.strip_prefix('-').unwrap_or(rest);
    while let Some(length) = bracketed(message) {
        message = &message[length..];
    }
    Header { logger: program.filter(|name| *name != "-"), message: message.trim_start(), ..header }
}

/// Behind a syslog time: host, program and its process number.
fn syslog(header: Header<'_>) -> Header<'_> {
    let rest = header.message.trim_start();
    let Some((host, rest)) = rest.split_once(' ') else { return Header { message: rest, ..header } };
    if host.ends_with(':') {
        return Header { logger: Some(program(host)), message: rest.trim_start(), ..header };
    }
    let rest = rest.trim_start();
    // The program has no spaces, but may be followed by something in parentheses.
    let tag = match rest.find(": ") {
        Some(colon) => &rest[..colon],
        None => rest.strip_suffix(':').unwrap_or_default(),
    };
    let is_tag = match tag.split_once(' ') {
        None => !tag.is_empty(),
        Some((_, more)) => more.starts_with('(') && more.ends_with(')') || tag.ends_with(']') && tag.contains('['),
    };
    if !is_tag {
        return Header { message: rest, ..header };
    }
    let message = rest[tag.len() + 1..].trim_start();
    Header { logger: Some(program(tag)), message, ..header }
}

/// A program without its process number.
fn program(tag: &str) -> &str {
    tag.split(['[', '(', ':']).next().filter(|name| !name.is_empty()).unwrap_or(tag)
}

/// Fields with bars between: what has a space in it is message.
fn bars(header: Header<'_>) -> Header<'_> {
    let mut header = header;
    let mut rest = &header.message[1..];
    while let Some((field, more)) = rest.split_once('|') {
        let field = field.trim();
        if field.contains(' ') || field.is_empty() {
            break;
        }
        match level(field) {
            Some(level) => header.level = Some(level),
            None if header.logger.is_none() && digits(field) < field.len() => header.logger = Some(field),
            None => {}
        }
        rest = more;
    }
    Header { message: rest.trim_start(), ..header }
}

fn level(field: &str) -> Option<Level> {
    let word = field.trim_matches(['[', ']', '<', '>', ':', ',', '(', ')']);
    let is_word = word.len() > 1 || field.len() == 1 && matches!(field, "I" | "W" | "E" | "D" | "F" | "T");
    if field.len() == 1 && field == "V" {
        return Some(Level::Trace);
    }
    Some(Level::of_text(word)).filter(|level| is_word && *level != Level::Other)
}

/// Behind a numeric time: numbers, a thread in brackets, the level, the logger. Without a level, only the time is taken.
fn fields(header: Header<'_>) -> Header<'_> {
    let is_separator = |c: char| c.is_whitespace() || matches!(c, '-' | '|' | ',' | ':' | ';');
    let rest = header.message.trim_start_matches([',', ':', ']', ';']);
    let without_level = Header { message: rest.trim_start_matches(|c: char| c.is_whitespace() || c == '|'), ..header };
    let mut found = without_level;
    let mut text = rest;
    for _ in 0..MAX_FIELDS {
        // A dash alone separates; one that belongs to a word does not.
        let mut next = text.trim_start();
        while next.starts_with(is_separator) && next[1..].starts_with([' ', '\t']) {
            next = next[1..].trim_start();
        }
        text = next;
        let length = match bracketed(text) {
            Some(length) => length,
            None => text.find([' ', '\t']).unwrap_or(text.len()),
        };
        let (field, more) = text.split_at(length);
        if field.is_empty() {
            break;
        }
        let is_before_dash = more.starts_with(" - ");
        let is_column = more.starts_with("  ");
        if found.level.is_none()
            && let Some(level) = level(field)
        {
            found.level = Some(level);
        } else if digits(field) == field.len() && found.logger.is_none() {
            // A process or a thread.
        } else if field.starts_with('[') {
            let is_name = !field.contains(' ') && field.len() > 2 && found.logger.is_none();
            if !(is_name || found.logger.is_some() && is_context(field)) {
                break;
            }
            if is_name && found.level.is_some() && is_before_dash {
                found.logger = Some(&field[1..field.len() - 1]);
            }
        } else if found.logger.is_none()
            && (found.level.is_some() && (is_name(field) || is_column) || is_before_dash && !field.contains('='))
        {
            found.logger = Some(field.trim_end_matches(':'));
            if field.ends_with(':') {
                text = more;
                break;
            }
        } else {
            break;
        }
        text = more;
    }
    if found.level.is_none() {
        return without_level;
    }
    let mut message = text.trim_start();
    while message.starts_with(['-', '|', ':']) && message[1..].starts_with(' ') {
        message = message[1..].trim_start();
    }
    Header { message, ..found }
}

/// The length of what is in brackets at the start, brackets in it included.
fn bracketed(text: &str) -> Option<usize> {
    if !text.starts_with('[') {
        return None;
    }
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth == 1 => return Some(at + 1),
            b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether what is in brackets are ids alone, of a request and the like: each with a digit, or a dash for none.
fn is_context(field: &str) -> bool {
    let is_id = |word: &str| word == "-" || word.bytes().any(|byte| byte.is_ascii_digit());
    !field.contains([':', '=']) && field[1..field.len() - 1].split_whitespace().all(is_id)
}

/// Whether this looks like the name of a logger: dotted, or ending in a colon.
fn is_name(field: &str) -> bool {
    let name = field.trim_end_matches(':');
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$-/@#".contains(&byte));
    let is_dotted = name.split('.').count() > 2 && !name.ends_with('.') && !name.starts_with('/');
    !name.is_empty() && is_plain && (field.ends_with(':') || is_dotted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_headers_are_understood() {
        type Case = (&'static str, Option<&'static str>, Option<Level>, Option<&'static str>, &'static str);
        let cases: [Case; 20] = [
            (
                "2017-05-16 00:00:00.008 25746 INFO nova.compute.server went on",
                Some("2017-05-16 00:00:00.008"),
                Some(Level::Info),
                Some("nova.compute.server"),
                "went on",
            ),
            (
                "a.log 2017-05-16 00:00:04 2931 WARN x.y.Z [-] hello",
                None,
                None,
                None,
                "a.log 2017-05-16 00:00:04 2931 WARN x.y.Z [-] hello",
            ),
            (
                "2017-05-16 00:00:00.008 25746 INFO nova.compute.server [req-38 113d3a - -] [instance: 9] started",
                Some("2017-05-16 00:00:00.008"),
                Some(Level::Info),
                Some("nova.compute.server"),
                "[instance: 9] started",
            ),
            (
                "2015-10-18T18:01:47,978Z ERROR [main] org.acme.App: no disk",
                Some("2015-10-18T18:01:47,978Z"),
                Some(Level::Error),
                Some("org.acme.App"),
                "no disk",
            ),
            (
                "2015-07-29 17:41:44,747 - INFO  [Peer[id=1]/0:0:0:FastElection@774] - elected",
                Some("2015-07-29 17:41:44,747"),
                Some(Level::Info),
                Some("Peer[id=1]/0:0:0:FastElection@774"),
                "elected",
            ),
            (
                "12:00:01.123 [main] DEBUG com.acme.Foo - bar baz",
                Some("12:00:01.123"),
                Some(Level::Debug),
                Some("com.acme.Foo"),
                "bar baz",
            ),
            (
                "2020-01-01 12:00:00,123 - worker - WARNING - slow",
                Some("2020-01-01 12:00:00,123"),
                Some(Level::Warn),
                Some("worker"),
                "slow",
            ),
            (
                "17/06/09 20:10:40 INFO exec.Backend: Registered [TERM]",
                Some("17/06/09 20:10:40"),
                Some(Level::Info),
                Some("exec.Backend"),
                "Registered [TERM]",
            ),
            (
                "081109 203615 148 INFO dfs.Node$Responder: done",
                Some("081109 203615"),
                Some(Level::Info),
                Some("dfs.Node$Responder"),
                "done",
            ),
            (
                "03-17 16:13:38.811  1702  2395 D WindowManager: printing",
                Some("03-17 16:13:38.811"),
                Some(Level::Debug),
                Some("WindowManager"),
                "printing",
            ),
            (
                "2016-09-28 04:30:30, Info                  CBS    Loaded it",
                Some("2016-09-28 04:30:30"),
                Some(Level::Info),
                Some("CBS"),
                "Loaded it",
            ),
            (
                "20171223-22:15:29:606|Step_LSC|30002312|onStand 5|6",
                Some("20171223-22:15:29:606"),
                None,
                Some("Step_LSC"),
                "onStand 5|6",
            ),
            (
                "[Sun Dec 04 04:47:44 2005] [error] mod_x in state 6",
                Some("Sun Dec 04 04:47:44 2005"),
                Some(Level::Error),
                None,
                "mod_x in state 6",
            ),
            (
                "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: check pass; user unknown",
                Some("Jun 14 15:16:01"),
                None,
                Some("sshd"),
                "check pass; user unknown",
            ),
            ("<34>Oct 11 22:14:15 host su: failed", Some("Oct 11 22:14:15"), None, Some("su"), "failed"),
            (
                "<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [x@1 k=\"v\"] started up",
                Some("2003-10-11T22:14:15.003Z"),
                None,
                Some("app"),
                "started up",
            ),
            (
                "I0517 12:00:00.123456 1234 file.cc:12] it works",
                Some("0517 12:00:00.123456"),
                Some(Level::Info),
                Some("file.cc:12"),
                "it works",
            ),
            ("Warning: no header here", None, None, None, "Warning: no header here"),
            ("10.11.10.1 \"GET /\" 200", None, None, None, "10.11.10.1 \"GET /\" 200"),
            ("", None, None, None, ""),
        ];
        for (line, timestamp, level, logger, message) in cases {
            assert_eq!(split(line), Header { timestamp, level, logger, message }, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_splits_and_ends_with_its_message(
            line in "(2020-01-02 |Jan 2 |\\[)?[0-9:.,-]{0,12}[ \\[\\]:|-]{0,3}(INFO|x\\.y\\.z|W)?[ -~]{0,30}|\\PC{0,40}|[0-9:. äé-]{0,30}"
        ) {
            let header = split(&line);
            prop_assert!(line.ends_with(header.message), "{header:?}");
        }
    }
}
