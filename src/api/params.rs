//! Query parameters, each taken by name; what is left over is a mistake. All mistakes are reported at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::Query;
use axum::http::Uri;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::Millis;
use jiff::Timestamp;

use super::config::ApiConfig;
use super::problem::{ParameterError, Problem};

const MAX_TEXT: usize = 1_024;

/// The parameters of one request.
#[derive(Debug)]
pub struct Params {
    given: Vec<(String, String)>,
    known: Vec<String>,
    errors: Vec<ParameterError>,
}

impl Params {
    /// The parameters in a request's address.
    pub fn of(uri: &Uri) -> Self {
        let mut params = Self { given: Vec::new(), known: Vec::new(), errors: Vec::new() };
        match Query::try_from_uri(uri) {
            Ok(Query(given)) => params.given = given,
            Err(error) => params.refuse("query", error.to_string()),
        }
        params
    }

    /// Notes a mistake.
    pub fn refuse(&mut self, parameter: &str, detail: impl Into<String>) {
        self.errors.push(ParameterError { parameter: parameter.to_owned(), detail: detail.into() });
    }

    /// A text of 1 to 1,024 bytes.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.known.push(name.to_owned());
        let at = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(at);
        let count = self.given.len();
        self.given.retain(|(given, _)| given != name);
        if self.given.len() < count {
            self.refuse(name, "expected once, came several times");
            return None;
        }
        if value.is_empty() || value.len() > MAX_TEXT {
            self.refuse(name, format!("expected 1 to {MAX_TEXT} bytes, got {}", value.len()));
            return None;
        }
        Some(value)
    }

    /// A whole number in a range.
    pub fn number<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = range.into_inner();
            self.refuse(name, format!("expected a whole number from {from} to {to}, got \"{}\"", shown(&text)));
        }
        number
    }

    /// Whether a parameter that was not taken yet is there.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    /// The parameters `page`, from 1 to `pages`, and `size`: 1 and the configured size where they are left out.
    pub fn page(&mut self, config: &ApiConfig, pages: usize) -> (usize, usize) {
        let size = self.number("size", 1..=config.max_page_size).unwrap_or(config.default_page_size);
        (self.number("page", 1..=pages).unwrap_or(1), size)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        let flag = text.to_ascii_lowercase().parse().ok();
        if flag.is_none() {
            self.refuse(name, format!("expected true or false, got \"{}\"", shown(&text)));
        }
        flag
    }

    /// A level, by any of its names.
    pub fn level(&mut self, name: &str) -> Option<Level> {
        let text = self.text(name)?;
        let level = Level::of_text(&text);
        if level == Level::Other && !text.eq_ignore_ascii_case(Level::Other.name()) {
            let names: Vec<&str> = Level::ALL.iter().map(|level| level.name()).collect();
            self.refuse(name, format!("expected one of {}, got \"{}\"", names.join(", "), shown(&text)));
            return None;
        }
        Some(level)
    }

    /// The id of a pattern: 16 hexadecimal digits.
    pub fn pattern_id(&mut self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        let id = parse_pattern_id(&text);
        if id.is_none() {
            self.refuse(name, format!("expected 16 hexadecimal digits, got \"{}\"", shown(&text)));
        }
        id
    }

    /// A time, as milliseconds since the epoch or by RFC 3339.
    pub fn time(&mut self, name: &str) -> Option<Millis> {
        let text = self.text(name)?;
        let time = parse_time(&text);
        if time.is_none() {
            let expected = "expected milliseconds since the epoch or RFC 3339 such as 2026-01-31T08:00:00Z";
            self.refuse(name, format!("{expected}, got \"{}\"", shown(&text)));
        }
        time
    }

    /// Two times of which the first must not be behind the second.
    pub fn times(&mut self, from: &str, to: &str) -> (Option<Millis>, Option<Millis>) {
        let times = (self.time(from), self.time(to));
        if let (Some(f), Some(t)) = times
            && f > t
        {
            self.refuse(from, format!("expected a time not after {to} ({t}), got {f}"));
        }
        times
    }

    /// The problem, if there was any mistake or a parameter that is not known.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.given) {
            let near = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, &name), known)).min();
            let detail = match near {
                Some((distance, near)) if distance <= 3 && distance < near.len() => {
                    format!("not a parameter of this path; did you mean {near}?")
                }
                _ if self.known.is_empty() => "not a parameter of this path; it takes none".to_owned(),
                _ => format!("not a parameter of this path; it takes {}", self.known.join(", ")),
            };
            self.refuse(shown(&name), detail);
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::bad_parameters(self.errors)) }
    }
}

/// As much of a value as is worth repeating.
pub fn shown(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(at, _)| &text[..at])
}

/// Reads the id of a pattern.
pub fn parse_pattern_id(text: &str) -> Option<u64> {
    let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { u64::from_str_radix(text, 16).ok() } else { None }
}

/// The id of a pattern as it stands in documents.
pub fn pattern_text(id: u64) -> String {
    format!("{id:016x}")
}

/// Reads milliseconds since the epoch or RFC 3339.
pub fn parse_time(text: &str) -> Option<Millis> {
    if let Ok(ms) = text.parse() {
        return Some(ms);
    }
    let parsed = text.parse::<Timestamp>().ok().or_else(|| {
        // A plus sign in a query means a space; nobody who writes an offset by hand remembers.
        let (time, offset) = text.rsplit_once(' ')?;
        format!("{time}+{offset}").parse().ok()
    })?;
    parsed.as_millisecond().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn times_are_milliseconds_or_rfc_3339() {
        for text in [
            "1769846400000",
            "2026-01-31T08:00:00Z",
            "2026-01-31T09:00:00+01:00",
            "2026-01-31T09:00:00%2B01:00",
            "2026-01-31T08:00:00.000Z",
        ] {
            assert_eq!(params(&format!("t={text}")).time("t"), Some(1_769_846_400_000), "{text}");
        }
        for text in ["yesterday", "-1", "1969-12-31T23:59:59Z", "2026-01-31"] {
            let mut params = params(&format!("t={text}"));
            assert_eq!(params.time("t"), None, "{text}");
            assert!(params.finish().is_err());
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let mut params = params("size=0&level=a&level=b&servce_name=x&zzzzzzzzzz=1&flag=2");
        params.number("size", 1..=100);
        params.text("level");
        params.text("service_name");
        params.flag("flag");
        let problem = serde_json::to_value(params.finish().unwrap_err().document("/x")).unwrap();
        let errors = problem["errors"].as_array().unwrap();
        let of = |name: &str| errors.iter().find(|e| e["parameter"] == name).unwrap()["detail"].as_str().unwrap();
        assert_eq!(of("size"), "expected a whole number from 1 to 100, got \"0\"");
        assert_eq!(of("level"), "expected once, came several times");
        assert_eq!(of("servce_name"), "not a parameter of this path; did you mean service_name?");
        assert!(of("zzzzzzzzzz").contains("it takes size, level, service_name, flag"));
        assert_eq!(of("flag"), "expected true or false, got \"2\"");
        assert_eq!(errors.len(), 5);
        assert_eq!(problem["parameter"], "size");
    }
}
