//! The form of a dead letter: a JSON object from which the raw bytes come back exactly.

use std::sync::Arc;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

use crate::checkpoint::starts::StartNumber;

/// A record that could not be used.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Where it was read.
    pub partition: Arc<PartitionInfo>,
    /// Its offset there.
    pub offset: u64,
    /// Why it could not be used.
    pub reason: Reason,
    /// What was expected and what came.
    pub detail: String,
    /// The record; of one that was too long, its first bytes.
    pub raw: Vec<u8>,
    /// When it became a dead letter, by the wall clock.
    pub timestamp_ms: Millis,
    /// The number of the start that wrote it; 0 for a replay.
    pub start: StartNumber,
}

impl DeadLetter {
    /// Stable: the same record has the same id whenever it is read.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.partition.identity, self.partition.number, self.offset)
    }

    /// Appends the JSON object, without a line feed.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (raw, raw_base64) = match std::str::from_utf8(&self.raw) {
            Ok(text) => (Some(text.into()), None),
            Err(_) => (None, Some(base64(&self.raw))),
        };
        let document = Document {
            timestamp: self.timestamp_ms,
            topic: self.partition.topic.as_ref().into(),
            identity: self.partition.identity.as_ref().into(),
            partition: self.partition.number,
            offset: self.offset,
            reason: self.reason,
            detail: self.detail.as_str().into(),
            raw,
            raw_base64,
            start: self.start,
        };
        // Strings and numbers always serialise, and a vector takes any bytes.
        let _ = serde_json::to_writer(out, &document);
    }

    /// About the memory it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.detail.len() + self.raw.len()
    }
}

/// A dead letter as it is written, and can be read again. Exactly one of `raw` and `raw_base64` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document<'a> {
    /// When it became a dead letter, in epoch milliseconds by the wall clock.
    pub timestamp: Millis,
    /// The topic.
    pub topic: std::borrow::Cow<'a, str>,
    /// The topic's stable identity.
    pub identity: std::borrow::Cow<'a, str>,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: u64,
    /// Why it could not be used.
    pub reason: Reason,
    /// What was expected and what came.
    pub detail: std::borrow::Cow<'a, str>,
    /// The record, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<std::borrow::Cow<'a, str>>,
    /// The record in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_base64: Option<String>,
    /// The number of the start that wrote it: the wall clock then in epoch milliseconds, or one more than that of the
    /// start before. 0, which is left out, for a replay.
    #[serde(default, skip_serializing_if = "is_of_none")]
    pub start: StartNumber,
}

fn is_of_none(start: &StartNumber) -> bool {
    *start == 0
}

impl Document<'_> {
    /// The partition that its record is of.
    pub fn partition_info(&self) -> PartitionInfo {
        let (topic, identity) = (self.topic.as_ref().into(), self.identity.as_ref().into());
        PartitionInfo { topic, identity, number: self.partition }
    }

    /// The bytes of the record. `None` if there are none, or their base64 is not right.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.raw, &self.raw_base64) {
            (Some(raw), _) => Some(raw.as_bytes().to_vec()),
            (None, Some(text)) => from_base64(text),
            (None, None) => None,
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for group in digits.chunks(4) {
        let mut bits = 0;
        for i in 0..4 {
            let value = match group.get(i) {
                Some(digit) => ALPHABET.iter().position(|letter| letter == digit)?,
                None => 0,
            };
            bits = bits << 6 | value as u32;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(raw: &[u8]) -> DeadLetter {
        let partition = PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw@2".into(), number: 3 };
        DeadLetter {
            partition: Arc::new(partition),
            offset: 17,
            reason: Reason::WrongType,
            detail: "expected a number, got \"x\"".into(),
            raw: raw.to_vec(),
            timestamp_ms: 5,
            start: 1,
        }
    }

    #[test]
    fn the_raw_bytes_come_back_exactly() {
        let every_byte: Vec<u8> = (0..=255).collect();
        let cases: [&[u8]; 9] = [
            b"",
            b"{\"a\":1",
            b"\0\x1f\"\\\n",
            "žluť".as_bytes(),
            &every_byte,
            &[0xff],
            b"\xff\xfe",
            b"\xff\0\0",
            &[0xc0; 4],
        ];
        for raw in cases {
            let mut json = Vec::new();
            letter(raw).write(&mut json);
            assert!(!json.contains(&b'\n'));
            let document: Document<'_> = serde_json::from_slice(&json).unwrap();
            assert_eq!(document.bytes().unwrap(), raw);
            assert_eq!(document.raw.is_some(), std::str::from_utf8(raw).is_ok());
            assert_eq!((document.offset, document.partition, document.reason), (17, 3, Reason::WrongType));
        }
        assert_eq!(letter(b"").id(), "logs_raw@2-3-17");
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        assert!(from_base64("Zg=").is_none() && from_base64("Z?==").is_none());
    }
}
