//! The form of a recorded redrive: lines of JSON that people can read.
//!
//! The first line is the [`Header`], then comes a line for each letter, and the last one has the checksum of all before
//! it. In: any bytes. Out: a [`Redrive`], or [`Damage`]. A change of the form that an older program cannot read takes
//! another [`VERSION`]; nothing else depends on the version of checkpoints.

use std::sync::Arc;

use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::input::{Origin, PartitionInfo};
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

use super::TOPIC;
use crate::checkpoint::format::Damage;
use crate::dead_letters::Document;

/// The form that is written.
const VERSION: u32 = 1;

/// What a redrive is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the form.
    pub floodmark_redrive: u32,
    /// Tells it from every other one, also from those in other places.
    pub id: String,
    /// When it was recorded, by the wall clock: when its letters arrived.
    pub recorded_ms: Millis,
    /// The generation of the documents at that time.
    pub generation: u64,
    /// How its letters are decoded, where it is not as records are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordsConfig>,
    /// The number of letters.
    pub letters: u64,
}

/// A letter that is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The letter as it was kept.
    pub letter: Document<'static>,
    /// Of a letter of a redrive: the first place where its record was a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Place>,
    /// Of a letter of a redrive: its record was counted before that redrive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
}

/// Where a record stood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The topic's stable identity.
    pub identity: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: u64,
}

impl Place {
    /// Of a letter.
    pub fn of(letter: &Document<'_>) -> Self {
        Self {
            topic: letter.topic.clone().into_owned(),
            identity: letter.identity.clone().into_owned(),
            partition: letter.partition,
            offset: letter.offset,
        }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionInfo {
        let (topic, identity) = (self.topic.as_str().into(), self.identity.as_str().into());
        PartitionInfo { topic, identity, number: self.partition }
    }
}

impl Letter {
    /// Where its record was a dead letter first.
    pub fn origin(&self) -> Place {
        self.origin.clone().unwrap_or_else(|| Place::of(&self.letter))
    }

    /// Whether its record is in windows, totals and patterns: of one that the store refused, all but the document is.
    pub fn was_counted(&self) -> bool {
        self.counted || self.letter.reason == Reason::Unindexable
    }
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct Footer {
    crc32: u32,
}

/// A record to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was a dead letter first.
    pub origin: Origin,
    /// Its bytes.
    pub raw: Box<[u8]>,
}

/// A recorded redrive, to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Redrive {
    /// What it is.
    pub header: Header,
    /// The letters. An offset of the partition is a place here.
    pub letters: Vec<Letter>,
}

impl Redrive {
    /// A new one of these letters.
    pub fn new(recorded_ms: Millis, generation: u64, records: Option<RecordsConfig>, letters: Vec<Letter>) -> Self {
        // Of the contents and the time; a process adds its own number against two that record the same at once.
        let mut hash = crc32fast::Hasher::new();
        for Letter { letter, .. } in &letters {
            hash.update(letter.identity.as_bytes());
            hash.update(&letter.offset.to_le_bytes());
        }
        hash.update(&std::process::id().to_le_bytes());
        let header = Header {
            floodmark_redrive: VERSION,
            id: format!("{recorded_ms:x}-{:08x}", hash.finalize()),
            recorded_ms,
            generation,
            records,
            letters: letters.len() as u64,
        };
        Self { header, letters }
    }

    /// The partition that it is, with its number.
    pub fn partition(&self, number: i32) -> PartitionInfo {
        PartitionInfo { topic: TOPIC.into(), identity: format!("{TOPIC}@{}", self.header.id).into(), number }
    }

    /// The file.
    ///
    /// # Errors
    /// When something cannot be JSON, which is not so of letters that were read from JSON.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut file = serde_json::to_vec(&self.header)?;
        for letter in &self.letters {
            file.push(b'\n');
            serde_json::to_writer(&mut file, letter)?;
        }
        file.push(b'\n');
        let footer = Footer { crc32: crc32fast::hash(&file) };
        serde_json::to_writer(&mut file, &footer)?;
        file.push(b'\n');
        Ok(file)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Damage`] that says what is wrong. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let whole = bytes.strip_suffix(b"\n").ok_or(Damage::CutOff(bytes.len()))?;
        let at = memchr::memrchr(b'\n', whole).map_or(0, |at| at + 1);
        let Ok(Footer { crc32 }) = serde_json::from_slice(&whole[at..]) else {
            return Err(Damage::CutOff(bytes.len()));
        };
        if crc32fast::hash(&bytes[..at]) != crc32 {
            return Err(Damage::Checksum(0));
        }
        let wrong = |at: usize, error: &dyn std::fmt::Display| Damage::Section { at, reason: error.to_string() };
        let mut lines = bytes[..at].split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let header: Header = serde_json::from_slice(first).map_err(|error| wrong(0, &error))?;
        if header.floodmark_redrive != VERSION {
            let version = header.floodmark_redrive;
            return Err(wrong(0, &format!("it has version {version}, and this program reads {VERSION}")));
        }
        let mut at = first.len();
        let mut letters = Vec::new();
        for line in lines {
            let letter: Letter = serde_json::from_slice(line).map_err(|error| wrong(at, &error))?;
            letters.push(letter);
            at += line.len();
        }
        if letters.len() as u64 != header.letters {
            let (found, letters) = (letters.len(), header.letters);
            return Err(wrong(at, &format!("it has {found} letters instead of {letters}")));
        }
        Ok(Self { header, letters })
    }

    /// The records, to be read; of letters that are not `wanted`, nothing.
    pub fn records(&self, mut wanted: impl FnMut(&Letter) -> bool) -> Vec<Option<Record>> {
        let mut topics: Vec<Arc<str>> = Vec::new();
        let record = |letter: &Letter| {
            if !wanted(letter) {
                return None;
            }
            let origin = letter.origin();
            let known = topics.iter().find(|topic| ***topic == *origin.topic).cloned();
            let topic = known.unwrap_or_else(|| {
                let topic: Arc<str> = origin.topic.as_str().into();
                topics.push(topic.clone());
                topic
            });
            let raw = letter.letter.bytes()?.into();
            let Place { partition, offset, .. } = origin;
            Some(Record { origin: Origin { topic, partition, offset, was_counted: letter.was_counted() }, raw })
        };
        self.letters.iter().map(record).collect()
    }

    /// What it is of, in a few words.
    pub fn reasons(&self) -> Vec<Reason> {
        let has = |reason: &Reason| self.letters.iter().any(|letter| letter.letter.reason == *reason);
        Reason::ALL.into_iter().filter(has).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redrive(raws: &[&[u8]]) -> Redrive {
        let letter = |(offset, raw): (u64, &&[u8])| {
            let dead = crate::dead_letters::DeadLetter {
                partition: Arc::new(PartitionInfo { topic: "t\n".into(), identity: "t@1".into(), number: 3 }),
                offset,
                reason: Reason::WrongType,
                detail: "expected a number".into(),
                raw: raw.to_vec(),
                timestamp_ms: 5,
                start: 1,
            };
            let mut json = Vec::new();
            dead.write(&mut json);
            Letter { letter: serde_json::from_slice(&json).unwrap(), origin: None, counted: false }
        };
        Redrive::new(7, 2, Some(RecordsConfig::default()), (10..).zip(raws).map(letter).collect())
    }

    #[test]
    fn what_is_recorded_comes_back_byte_for_byte() {
        let mut written = redrive(&[b"{\"a\":1", b"\xff\xfe\0", b"", b"two\nlines"]);
        written.letters[1].origin =
            Some(Place { topic: "first".into(), identity: "first".into(), partition: 0, offset: 8 });
        let read = Redrive::decode(&written.encode().unwrap()).unwrap();
        assert_eq!(read, written);
        let records = read.records(|letter| letter.letter.offset != 12);
        assert!(records[2].is_none());
        let second = records[1].as_ref().unwrap();
        assert_eq!((&second.raw[..], &*second.origin.topic, second.origin.offset), (&b"\xff\xfe\0"[..], "first", 8));
        assert_eq!(&records[3].as_ref().unwrap().raw[..], b"two\nlines");
        assert_eq!(read.partition(4).number, 4);
    }

    #[test]
    fn every_damage_is_found() {
        let file = redrive(&[b"{}", b"more"]).encode().unwrap();
        for length in 0..file.len() {
            assert!(Redrive::decode(&file[..length]).is_err(), "cut off at {length}");
        }
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(Redrive::decode(&bad).is_err(), "changed at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Redrive::decode(&bytes).is_err());
        }
    }
}
