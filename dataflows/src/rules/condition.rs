//! Conditions on a record: `field op value`.
//!
//! | text                                | holds when                                                        |
//! |-------------------------------------|-------------------------------------------------------------------|
//! | `error_code exists`                 | the field is there and not null                                   |
//! | `method = GET`, `method != GET`     | it equals, does not equal the value                               |
//! | `status_code >= 500`, also `< <= >` | it is a number, in this order to the value                        |
//! | `level in ERROR, FATAL`             | it equals one of the values                                       |
//! | `message contains refused`          | the text has the value in it; for an array, an element equals it  |
//!
//! A field is one of our names or a dotted path in the record. A value is the rest of the text, or stands in double
//! quotes (with `\"` and `\\`) where it has commas or spaces at its ends. Two numbers are equal by value (`1.0` and
//! `1`); everything else is equal as text, letter case included. A level is compared by its normalised name in any
//! letter case, `warning` for `WARN`, and ordered `TRACE < DEBUG < INFO < WARN < ERROR < FATAL`; `OTHER` is in no
//! order. A missing field meets `!=` and nothing else.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::decode::{Scanner, Schema, text};
use crate::record::{FieldRef, Kind, Level, Record};

/// A condition on a record, as in a view's `where` and a rule's `when`.
#[derive(Clone, Debug)]
pub struct Condition {
    text: Arc<str>,
    field: FieldRef,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Exists,
    /// The level is in the set, one bit each.
    Level(u8),
    Order(Order, f64),
    Equals {
        any: Box<[Value]>,
        negated: bool,
    },
    Contains(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    #[inline]
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Order::Less => a < b,
            Order::LessOrEqual => a <= b,
            Order::Greater => a > b,
            Order::GreaterOrEqual => a >= b,
        }
    }
}

#[derive(Clone, Debug)]
struct Value {
    text: Box<str>,
    number: Option<f64>,
}

/// A text that is no condition: which, where, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("condition '{text}', at character {}: {message}", text.get(..*.at).unwrap_or_default().chars().count() + 1)]
pub struct ConditionError {
    /// The condition.
    pub text: String,
    /// The byte at which it goes wrong.
    pub at: usize,
    /// What was expected there.
    pub message: String,
}

const OPERATORS: &str = "=, !=, <, <=, >, >=, in, contains or exists";

impl Condition {
    /// Whether it is about the message's pattern.
    pub fn names_pattern(&self) -> bool {
        matches!(self.field, FieldRef::Pattern | FieldRef::PatternId)
    }

    /// Compiles a condition, with its field looked for in records from now on.
    pub fn compile(text: &str, schema: &mut Schema) -> Result<Self, ConditionError> {
        let error = |rest: &str, message: String| ConditionError {
            text: text.to_owned(),
            at: text.len() - rest.len(),
            message,
        };
        let start = text.trim_start();
        let is_sign = |c: char| matches!(c, '=' | '!' | '<' | '>');
        let (name, rest) = start.split_at(start.find(|c: char| c.is_whitespace() || is_sign(c)).unwrap_or(start.len()));
        if name.is_empty() {
            return Err(error(start, "expected the name of a field, such as in \"status_code >= 500\"".to_owned()));
        }
        let field = schema.field(name).map_err(|e| error(start, e.to_string()))?;
        let at_operator = rest.trim_start();
        let length = match at_operator.find(|c| !is_sign(c)).unwrap_or(at_operator.len()) {
            0 => at_operator.find(char::is_whitespace).unwrap_or(at_operator.len()),
            signs => signs,
        };
        let (operator, rest) = at_operator.split_at(length);
        let value = rest.trim();
        let at_value = &rest[rest.len() - rest.trim_start().len()..];
        if operator != "exists" && value.is_empty() {
            let expected =
                if operator.is_empty() { format!("{OPERATORS} after the field") } else { "a value".to_owned() };
            return Err(error(at_value, format!("expected {expected}")));
        }
        let levels = matches!(field, FieldRef::Level);
        let numeric = matches!(field, FieldRef::StatusCode | FieldRef::ResponseTime | FieldRef::Timestamp);
        let values = || -> Result<Vec<Value>, ConditionError> {
            let list = if operator == "in" { split_list(value) } else { vec![value] };
            list.into_iter()
                .map(|item| {
                    let text = unquoted(item).map_err(|message| error(at_value, message))?;
                    let number = text.parse().ok().filter(|n: &f64| n.is_finite());
                    if numeric && number.is_none() {
                        return Err(error(at_value, format!("expected a number for {name}, got \"{text}\"")));
                    }
                    Ok(Value { number, text: text.into() })
                })
                .collect()
        };
        let level_bits = |holds: &dyn Fn(Level, Level) -> bool| -> Result<Test, ConditionError> {
            let mut bits = 0;
            for value in values()? {
                let given = Level::of_text(&value.text);
                if given == Level::Other && !value.text.eq_ignore_ascii_case("other") {
                    let names = Level::ALL.map(Level::name).join(", ");
                    return Err(error(at_value, format!("expected one of {names}, got \"{}\"", value.text)));
                }
                bits |= Level::ALL.into_iter().filter(|l| holds(*l, given)).fold(0, |bits, l| bits | 1 << l as u8);
            }
            Ok(Test::Level(bits))
        };
        let order = |order: Order| {
            if levels {
                return level_bits(&|level, given| {
                    level != Level::Other && given != Level::Other && order.holds(level, given)
                });
            }
            match values()?.first().and_then(|value| value.number) {
                Some(number) => Ok(Test::Order(order, number)),
                None => Err(error(at_value, format!("expected a number after {operator}, got \"{value}\""))),
            }
        };
        let test = match operator {
            "exists" if value.is_empty() => Test::Exists,
            "exists" => return Err(error(at_value, "expected nothing after exists".to_owned())),
            "=" | "in" if levels => level_bits(&|level, given| level == given)?,
            "!=" if levels => level_bits(&|level, given| level != given)?,
            "=" | "in" => Test::Equals { any: values()?.into(), negated: false },
            "!=" => Test::Equals { any: values()?.into(), negated: true },
            "<" => order(Order::Less)?,
            "<=" => order(Order::LessOrEqual)?,
            ">" => order(Order::Greater)?,
            ">=" => order(Order::GreaterOrEqual)?,
            "contains" if levels || numeric => {
                return Err(error(at_operator, format!("{name} contains no text; use =, in or an order")));
            }
            "contains" => Test::Contains(unquoted(value).map_err(|message| error(at_value, message))?.into()),
            other => return Err(error(at_operator, format!("expected {OPERATORS}, got \"{other}\""))),
        };
        Ok(Self { text: text.into(), field, test })
    }

    /// Whether a record meets the condition.
    #[inline]
    pub fn holds(&self, record: &Record<'_>) -> bool {
        match &self.test {
            Test::Level(bits) => bits >> record.level as u8 & 1 == 1,
            Test::Order(order, value) => record.number(self.field).is_some_and(|number| order.holds(number, *value)),
            Test::Exists => record.has(self.field),
            Test::Equals { any, negated } => equals_any(record, self.field, any) != *negated,
            Test::Contains(value) => contains(record, self.field, value),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn equals_any(record: &Record<'_>, field: FieldRef, any: &[Value]) -> bool {
    if let Some(number) = record.number(field)
        && any.iter().any(|value| value.number == Some(number))
    {
        return true;
    }
    match field {
        // These are numbers, and nothing else.
        FieldRef::StatusCode | FieldRef::ResponseTime | FieldRef::Timestamp => false,
        _ => record.text(field).is_some_and(|text| any.iter().any(|value| *value.text == *text)),
    }
}

fn contains(record: &Record<'_>, field: FieldRef, value: &str) -> bool {
    if let FieldRef::Extra(number) = field
        && record.span(number).kind() == Kind::Array
    {
        return array_contains(record.at(record.span(number)), value);
    }
    let finds = |text: Cow<'_, str>| memchr::memmem::find(text.as_bytes(), value.as_bytes()).is_some();
    record.text(field).is_some_and(finds)
}

/// Whether an element of an array, which is known to be JSON, equals `value` as text.
fn array_contains(array: &str, value: &str) -> bool {
    let mut scanner = Scanner::new(array);
    scanner.at = 1;
    loop {
        scanner.space();
        let Ok(element) = scanner.value() else { return false };
        if text::of_span(array, element) == value {
            return true;
        }
        scanner.space();
        scanner.at += 1;
    }
}

/// The items of a list, separated by commas outside quotes, with brackets around it or not.
fn split_list(list: &str) -> Vec<&str> {
    let list = list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(list);
    let (mut quoted, mut escaped) = (false, false);
    list.split(|c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    })
    .map(str::trim)
    .collect()
}

fn unquoted(value: &str) -> Result<Cow<'_, str>, String> {
    let Some(inner) = value.strip_prefix('"') else {
        return if value.is_empty() { Err("expected a value between commas".to_owned()) } else { Ok(value.into()) };
    };
    let mut text = String::new();
    let mut chars = inner.chars();
    loop {
        match chars.next() {
            Some('"') if chars.as_str().is_empty() => return Ok(text.into()),
            Some('"') => return Err(format!("expected nothing behind the closing quote, got {}", chars.as_str())),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => text.push(c),
                _ => return Err("expected \\\" or \\\\ after a backslash in quotes".to_owned()),
            },
            Some(c) => text.push(c),
            None => return Err("expected a closing quote".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RecordsConfig};

    fn holds(condition: &str, members: &str) -> bool {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let condition = Condition::compile(condition, &mut schema).unwrap();
        let raw = format!("{{\"timestamp\":1700000000000,{members}}}");
        condition.holds(&Decoder::new(schema).decode(raw.as_bytes()).unwrap())
    }

    #[test]
    fn each_operator() {
        assert!(holds("status_code >= 500", r#""status_code":500"#));
        assert!(!holds("status_code>500", r#""status_code":500"#));
        assert!(holds("status_code<=500", r#""status_code":500"#));
        assert!(holds("status_code in 500, 502", r#""status_code":502"#));
        assert!(holds("status_code = 502.0", r#""status_code":502"#));
        assert!(holds("response_time_ms > 3000", r#""response_time_ms":3000.001"#));
        assert!(!holds("response_time_ms > 3000", r#""response_time_ms":3000"#));
        assert!(holds("level = error", r#""level":"Err""#));
        assert!(holds("level >= WARN", r#""level":"critical""#));
        assert!(!holds("level >= WARN", r#""level":"strange""#));
        assert!(holds("level = OTHER", r#""level":"strange""#));
        assert!(holds("level != ERROR", r#""level":"INFO""#));
        assert!(holds("method = GET", r#""method":"GET""#));
        assert!(!holds("method = get", r#""method":"GET""#));
        assert!(holds("message contains refused", r#""message":"connection refused""#));
        assert!(holds(r#"message contains "a \"b\"""#, r#""message":"say a \"b\" now""#));
        assert!(holds("tags contains blue", r#""tags":["red" , "blue"]"#));
        assert!(!holds("tags contains lue", r#""tags":["red","blue"]"#));
        assert!(holds("http.port = 80", r#""http":{"port":80.0}"#));
        assert!(holds("http.secure = true", r#""http":{"secure":true}"#));
        assert!(holds(r#"region in [eu, "us, east"]"#, r#""region":"us, east""#));
    }

    #[test]
    fn a_missing_field_meets_only_not_equal() {
        for members in [r#""x":1"#, r#""region":null"#] {
            assert!(holds("region != eu", members));
            for condition in ["region exists", "region = eu", "region < 5", "region in eu, us", "region contains e"] {
                assert!(!holds(condition, members), "{condition}");
            }
        }
        assert!(holds("region exists", r#""region":false"#));
        assert!(holds("level = INFO", r#""x":1"#));
        assert!(holds("service_name = unknown", r#""x":1"#));
    }

    #[test]
    fn mistakes_name_text_and_place() {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let mut message = |text: &str| Condition::compile(text, &mut schema).unwrap_err().to_string();
        assert_eq!(
            message("status_code >= many"),
            "condition 'status_code >= many', at character 16: expected a number for status_code, got \"many\""
        );
        assert!(message("status_code >> 5").contains("at character 13: expected =, !=, <, <=, >, >=, in"));
        assert!(message("level = LOUD").contains("expected one of TRACE, DEBUG, INFO"));
        assert!(message("level contains ERR").contains("level contains no text"));
        assert!(message("path").contains("after the field"));
        assert!(message("path =").contains("expected a value"));
        assert!(message(" = 5").contains("at character 2: expected the name of a field"));
        assert!(message("path exists now").contains("expected nothing after exists"));
        assert!(message("path = \"a").contains("expected a closing quote"));
        assert!(message("a..b = 1").contains("is not a path"));
        assert!(message("path < x").contains("expected a number after <"));
    }
}
