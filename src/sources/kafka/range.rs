//! Where reading starts and ends, as people write it.
//!
//! In: text such as `logs_raw:0=1200..9000,logs_raw:1=..` or `2026-07-01T00:00:00Z`. Out: offsets or times, or an error
//! that quotes the part at fault. Offsets are half-open: the end is the first offset that is not read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use floodmark_dataflows::time::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A topic and the number of a partition.
pub type TopicPartition = (String, i32);

/// First offset to read, and first one not to; `None` is the earliest, or the end when the run starts.
pub type Bounds = (Option<u64>, Option<u64>);

/// Where a run starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// The first record there is.
    #[default]
    Earliest,
    /// Behind the last record there is.
    Latest,
    /// The positions that the group committed; the earliest where it has none.
    Committed,
    /// The first record that was appended at this time or later.
    Time(Millis),
    /// These offsets; the earliest for partitions without one.
    Offsets(BTreeMap<TopicPartition, u64>),
}

/// How far a run reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// On and on; new partitions join.
    #[default]
    Live,
    /// From [`StartAt`] to what is there when the run starts.
    UntilEnd,
    /// A replay of a part of the log. It commits nothing.
    Replay(RangeSpec),
}

/// The part of the log that a replay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// These partitions, from an offset up to another.
    Offsets(BTreeMap<TopicPartition, Bounds>),
    /// All partitions: records appended from one time to before another.
    Times {
        /// `None`: from the earliest.
        from: Option<Millis>,
        /// `None`: to the end when the run starts.
        to: Option<Millis>,
    },
}

impl RangeSpec {
    /// Reads `--from` and `--to`. `--from` is offsets by partition with their ends (`topic:0=1200..9000,topic:1=..`),
    /// and then there is no `--to`; or both are times (RFC 3339 or epoch milliseconds), of which one may be missing.
    pub fn parse(from: Option<&str>, to: Option<&str>) -> Result<Self, String> {
        match (from, to) {
            (Some(from), to) if from.contains('=') => match to {
                None => Ok(Self::Offsets(offset_ranges(from)?)),
                Some(to) => Err(format!(
                    "--from gives offsets, so the ends belong there too (topic:0=1200..9000), got --to \"{to}\""
                )),
            },
            (_, Some(to)) if to.contains('=') => {
                Err(format!("offsets belong into --from with their ends (topic:0=1200..9000), got --to \"{to}\""))
            }
            (from, to) => {
                let [from, to] = [from.map(time).transpose()?, to.map(time).transpose()?];
                match (from, to) {
                    (Some(a), Some(b)) if a > b => Err(format!("--from ({a}) is later than --to ({b})")),
                    _ => Ok(Self::Times { from, to }),
                }
            }
        }
    }
}

fn time(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    let rfc3339 = || text.parse::<jiff::Timestamp>().ok().and_then(|t| Millis::try_from(t.as_millisecond()).ok());
    number(text).or_else(rfc3339).ok_or_else(|| {
        format!(
            "expected a time (2026-07-01T00:00:00Z or epoch milliseconds) or offsets (topic:0=1200..9000), got \"{text}\""
        )
    })
}

/// Splits `topic:0=VALUE,topic:1=VALUE`.
fn by_partition<T>(
    text: &str,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<TopicPartition, T>, String> {
    let mut all = BTreeMap::new();
    for item in text.split(',').map(str::trim) {
        let fault =
            |what: &str| format!("{what} in \"{item}\"; expected topic:partition=offset, as in logs_raw:0=1200");
        let (place, offsets) = item.split_once('=').ok_or_else(|| fault("no \"=\""))?;
        let (topic, partition) = place.rsplit_once(':').ok_or_else(|| fault("no partition"))?;
        let (topic, partition) = (topic.trim(), partition.trim());
        if topic.is_empty() {
            return Err(fault("no topic"));
        }
        let partition =
            number(partition).filter(|n| *n <= i32::MAX as u64).ok_or_else(|| fault("no partition number"))?;
        let value = value(offsets.trim()).map_err(|what| fault(&what))?;
        if all.insert((topic.to_owned(), partition as i32), value).is_some() {
            return Err(format!("{topic}:{partition} is given twice"));
        }
    }
    Ok(all)
}

/// Offsets and times are at most `i64::MAX` in Kafka.
fn number(text: &str) -> Option<u64> {
    (!text.starts_with('+')).then(|| text.parse::<u64>().ok().filter(|n| *n <= i64::MAX as u64)).flatten()
}

fn offset_ranges(text: &str) -> Result<BTreeMap<TopicPartition, Bounds>, String> {
    by_partition(text, |offsets| {
        let (from, to) = offsets.split_once("..").ok_or("no \"..\" (a range is 1200..9000, 1200.., ..9000 or ..)")?;
        let bound = |text: &str| match text.trim() {
            "" => Ok(None),
            text => number(text).map(Some).ok_or_else(|| format!("\"{text}\" is no offset")),
        };
        match (bound(from)?, bound(to)?) {
            (Some(from), Some(to)) if from > to => Err(format!("the start {from} is behind the end {to}")),
            range => Ok(range),
        }
    })
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim() {
            "earliest" => Self::Earliest,
            "latest" => Self::Latest,
            "committed" => Self::Committed,
            text if text.contains('=') => Self::Offsets(by_partition(text, |offset| {
                number(offset).ok_or_else(|| format!("\"{offset}\" is no offset"))
            })?),
            text => Self::Time(time(text).map_err(|_| {
                format!(
                    "expected earliest, latest, committed, a time (2026-07-01T00:00:00Z or epoch milliseconds) or \
                     offsets (logs_raw:0=1200,logs_raw:1=900), got \"{text}\""
                )
            })?),
        })
    }
}

impl fmt::Display for StartAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Committed => f.write_str("committed"),
            Self::Time(ms) => write!(f, "{ms}"),
            Self::Offsets(offsets) => {
                for (n, ((topic, partition), offset)) in offsets.iter().enumerate() {
                    write!(f, "{}{topic}:{partition}={offset}", if n == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for StartAt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StartAt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for StartAt {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StartAt".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "examples": ["earliest", "latest", "committed", "2026-07-01T00:00:00Z", "logs_raw:0=1200,logs_raw:1=900"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        (topic.to_owned(), partition)
    }

    #[test]
    fn offsets_by_partition() {
        let spec = RangeSpec::parse(Some("a:0=1200..9000, a:1=..,b.c-d:12=5..,b.c-d:3=..7"), None).unwrap();
        let RangeSpec::Offsets(ranges) = spec else { panic!("{spec:?}") };
        assert_eq!(ranges[&at("a", 0)], (Some(1200), Some(9000)));
        assert_eq!(ranges[&at("a", 1)], (None, None));
        assert_eq!(ranges[&at("b.c-d", 12)], (Some(5), None));
        assert_eq!(ranges[&at("b.c-d", 3)], (None, Some(7)));
    }

    #[test]
    fn times() {
        assert_eq!(
            RangeSpec::parse(Some("2026-07-01T00:00:00Z"), Some("1782864060000")).unwrap(),
            RangeSpec::Times { from: Some(1_782_864_000_000), to: Some(1_782_864_060_000) }
        );
        assert_eq!(
            RangeSpec::parse(None, Some("2026-07-01T02:00:00+02:00")).unwrap(),
            RangeSpec::Times { from: None, to: Some(1_782_864_000_000) }
        );
    }

    #[test]
    fn mistakes_are_quoted() {
        for (from, to, part) in [
            ("a:0=9..5", None, "the start 9 is behind the end 5"),
            ("a:0=5", None, "no \"..\""),
            ("a=1..2", None, "no partition in \"a=1..2\""),
            ("a:x=1..2", None, "no partition number"),
            ("a:0=1..2,a:0=3..4", None, "a:0 is given twice"),
            ("a:0=-1..2", None, "\"-1\" is no offset"),
            ("a:0=1..99999999999999999999", None, "is no offset"),
            (":0=1..2", None, "no topic"),
            ("yesterday", None, "got \"yesterday\""),
            ("a:0=1..2", Some("3"), "the ends belong there too"),
            ("5", Some("a:0=3..4"), "offsets belong into --from"),
            ("20", Some("10"), "--from (20) is later than --to (10)"),
            ("-5", None, "got \"-5\""),
        ] {
            let message = RangeSpec::parse(Some(from), to).unwrap_err();
            assert!(message.contains(part), "{from} {to:?}: {message}");
        }
    }

    #[test]
    fn starts_round_trip() {
        for text in ["earliest", "latest", "committed", "1782864000000", "a:0=5,a:1=7"] {
            assert_eq!(text.parse::<StartAt>().unwrap().to_string(), text);
        }
        assert!("first".parse::<StartAt>().unwrap_err().contains("got \"first\""));
        assert!("a:0=".parse::<StartAt>().unwrap_err().contains("is no offset"));
    }
}
