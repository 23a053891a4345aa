//! Durations and sizes as people write them: `"10s"`, `"64MiB"`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration in configuration and on the command line: a number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// A span of whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }

    /// Whole milliseconds.
    pub fn as_millis(self) -> u64 {
        self.0.as_millis() as u64
    }
}

/// An amount of bytes in configuration and on the command line: a number with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// An amount of mebibytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

/// A password, key or token. Shown as `***` wherever it is printed or serialised; never in a log.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, to be handed to a client and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn parse(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let expected =
        || format!("expected a whole number with a unit ({}), such as \"{example}\", got \"{text}\"", names());
    let number: u64 = number.parse().map_err(|_| expected())?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    number.checked_mul(*factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

fn format(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let smallest = units[units.len() - 1];
    let (name, factor) =
        units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)).unwrap_or(&smallest);
    write!(f, "{}{name}", value / factor)
}

macro_rules! unit {
    ($type:ty, $units:ident, $example:literal, $to:expr, $from:expr) => {
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                parse(text, &$units, $example).map($from)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format($to(*self), &$units, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "examples": [$example] })
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

unit!(Span, SPAN_UNITS, "10s", Span::as_millis, Span::from_millis);
unit!(ByteSize, SIZE_UNITS, "64MiB", |size: ByteSize| size.0, ByteSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_round_trip() {
        for text in ["250ms", "10s", "5m", "1h", "7d", "90s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["512B", "64KiB", "64MiB", "4GiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        assert_eq!("1000ms".parse::<Span>().unwrap().to_string(), "1s");
    }

    #[test]
    fn mistakes_are_named() {
        let message = "10 parsecs".parse::<Span>().unwrap_err();
        assert!(message.contains("\"10 parsecs\"") && message.contains("\"10s\""), "{message}");
        assert!("".parse::<ByteSize>().is_err());
        assert!("10".parse::<Span>().is_err());
        assert!("999999999999d".parse::<Span>().unwrap_err().contains("too large"));
    }
}
