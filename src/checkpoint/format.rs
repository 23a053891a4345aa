//! The form of every file of a checkpoint: a header, sections, a footer.
//!
//! ```text
//! header   "FLOODCKP", format version u32, kind u8, crc32 of these
//! section  tag u8, method u8, packed length u32, raw length u32, crc32 of these and the payload; payload
//! footer   tag 0, number of sections u32, crc32 of these, "FLOODEND"
//! ```
//!
//! Numbers are little-endian, payloads are postcard, compressed with zstd. In: any bytes. Out: sections, or [`Damage`]
//! that says what is wrong and where: a file that is torn, cut off or changed in one bit is always found out. Memory
//! and work are bounded by the length of the file, whatever is in it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::contents::{MarksOfProcess, PatternRow, PatternsChunk, SeenChunk, ShardHead, TotalsRow};
use super::manifest::Manifest;
use super::starts::Starts;
use floodmark_dataflows::checkpoint::{PartitionCut, StateRow};

/// Written into each file. Raise it with every change of what is in a section.
pub const FORMAT_VERSION: u32 = 6;

const MAGIC: [u8; 8] = *b"FLOODCKP";
const END: [u8; 8] = *b"FLOODEND";
const HEADER_BYTES: usize = 17;
const SECTION_HEADER_BYTES: usize = 14;
const FOOTER_BYTES: usize = 17;
/// The longest section, uncompressed.
const MAX_SECTION_BYTES: usize = 64 << 20;
/// What compresses better than this is kept as it is, so that reading a file is bounded by its length.
const MAX_RATIO: usize = 256;
/// Fast: what changed in ten seconds is written over and over.
const ZSTD_LEVEL: i32 = 1;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A worker's share of a checkpoint, or several merged.
    Shard = 1,
    /// What a checkpoint consists of.
    Manifest = 2,
    /// Recorded marks.
    Marks = 3,
    /// What each start has read.
    Starts = 4,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Shard => "state",
            Kind::Manifest => "manifest",
            Kind::Marks => "marks",
            Kind::Starts => "starts",
        }
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// A [`ShardHead`].
    Head = 1,
    /// [`PartitionCut`]s without their keys.
    Cuts = 2,
    /// A [`SeenChunk`].
    Seen = 3,
    /// [`TotalsRow`]s.
    Totals = 4,
    /// [`StateRow`]s, ascending by identity over all sections of the file.
    Rows = 5,
    /// A [`Manifest`].
    Manifest = 6,
    /// A [`MarksOfProcess`].
    Marks = 7,
    /// A [`PatternsChunk`].
    SeenPatterns = 8,
    /// [`PatternRow`]s.
    Patterns = 9,
    /// [`Starts`].
    Starts = 10,
}

impl Tag {
    pub(super) fn of(byte: u8) -> Option<Self> {
        let state = [Tag::Head, Tag::Cuts, Tag::Seen, Tag::Totals, Tag::Rows, Tag::SeenPatterns, Tag::Patterns];
        state.into_iter().chain([Tag::Manifest, Tag::Marks, Tag::Starts]).find(|tag| *tag as u8 == byte)
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as these files do.
    #[error("it is not a file of a checkpoint, or its header is damaged")]
    Header,
    /// Another program wrote it.
    #[error(
        "it has format version {0}, this program reads {FORMAT_VERSION}; use the program that wrote it, or --fresh"
    )]
    Version(u32),
    /// A file of another kind.
    #[error("expected a file of kind {expected}, got kind {found}")]
    Kind {
        /// What it should be.
        expected: &'static str,
        /// The number of the kind that is in it.
        found: u8,
    },
    /// It ends too early.
    #[error("it is cut off at byte {0}")]
    CutOff(usize),
    /// A checksum is wrong.
    #[error("its bytes from {0} on are not what was written")]
    Checksum(usize),
    /// The checksum is right and the contents make no sense.
    #[error("the section at byte {at} cannot be read: {reason}")]
    Section {
        /// Where it begins.
        at: usize,
        /// Why.
        reason: String,
    },
    /// It is not the file that the manifest names.
    #[error("it is not the file that the manifest means: {0}")]
    Other(String),
}

/// Puts a file together.
#[derive(Debug)]
pub struct FileWriter {
    bytes: Vec<u8>,
    sections: u32,
}

impl FileWriter {
    /// An empty file.
    pub fn new(kind: Kind) -> Self {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.push(kind as u8);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        Self { bytes, sections: 0 }
    }

    /// A whole file of one section.
    ///
    /// # Errors
    /// When that would be longer than a section may be.
    pub(super) fn of_one<T: Serialize>(kind: Kind, tag: Tag, content: &T) -> Result<Vec<u8>, EncodeError> {
        let mut file = Self::new(kind);
        file.add(tag, content)?;
        Ok(file.finish())
    }

    /// Adds a section.
    ///
    /// # Errors
    /// When it would be longer than a section may be.
    pub fn add<T: Serialize + ?Sized>(&mut self, tag: Tag, content: &T) -> Result<(), EncodeError> {
        let raw = postcard::to_stdvec(content).map_err(|error| EncodeError::new(&error))?;
        self.add_raw(tag, &raw)
    }

    /// Adds a section whose content is encoded already.
    pub(super) fn add_raw(&mut self, tag: Tag, raw: &[u8]) -> Result<(), EncodeError> {
        if raw.len() > MAX_SECTION_BYTES {
            return Err(EncodeError(format!("a section of {} bytes is longer than {MAX_SECTION_BYTES}", raw.len())));
        }
        let packed = zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(|error| EncodeError::new(&error))?;
        let (method, payload) = match packed.len() < raw.len() && raw.len() <= packed.len() * MAX_RATIO {
            true => (ZSTD, &packed[..]),
            false => (PLAIN, raw),
        };
        let start = self.bytes.len();
        self.bytes.extend([tag as u8, method]);
        self.bytes.extend((payload.len() as u32).to_le_bytes());
        self.bytes.extend((raw.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.bytes[start..]);
        crc.update(payload);
        self.bytes.extend(crc.finalize().to_le_bytes());
        self.bytes.extend_from_slice(payload);
        self.sections += 1;
        Ok(())
    }

    /// The whole file.
    pub fn finish(mut self) -> Vec<u8> {
        let start = self.bytes.len();
        self.bytes.push(0);
        self.bytes.extend(self.sections.to_le_bytes());
        self.bytes.extend(crc32fast::hash(&self.bytes[start..]).to_le_bytes());
        self.bytes.extend(END);
        self.bytes
    }
}

/// What cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode a part of a checkpoint: {0}")]
pub struct EncodeError(String);

impl EncodeError {
    pub(super) fn new(error: &impl ToString) -> Self {
        Self(error.to_string())
    }
}

/// A section as it was written.
#[derive(Clone, Debug)]
pub struct Section {
    /// What it holds.
    pub tag: Tag,
    /// Where it begins in the file.
    pub at: usize,
    raw: Vec<u8>,
}

impl Section {
    /// Its content.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Damage> {
        let failed = |reason: String| Damage::Section { at: self.at, reason };
        match postcard::take_from_bytes(&self.raw) {
            Ok((content, [])) => Ok(content),
            Ok((_, rest)) => Err(failed(format!("{} bytes are left over", rest.len()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Reads a file section by section. After an error or the end there is nothing more.
#[derive(Debug)]
pub struct FileReader {
    bytes: Bytes,
    at: usize,
    sections: u32,
}

impl FileReader {
    /// Checks the header.
    pub fn open(bytes: Bytes, kind: Kind) -> Result<Self, Damage> {
        let Some(header) = bytes.get(..HEADER_BYTES) else { return Err(Damage::CutOff(bytes.len())) };
        if header[..8] != MAGIC || crc32fast::hash(&header[..13]) != number(&header[13..]) {
            return Err(Damage::Header);
        }
        let version = number(&header[8..]);
        if version != FORMAT_VERSION {
            return Err(Damage::Version(version));
        }
        if header[12] != kind as u8 {
            return Err(Damage::Kind { expected: kind.name(), found: header[12] });
        }
        Ok(Self { bytes, at: HEADER_BYTES, sections: 0 })
    }

    /// What the first section of a file holds, and the section behind it, if there is one.
    ///
    /// # Errors
    /// [`Damage`] to what was read.
    pub(super) fn first<T: DeserializeOwned>(bytes: &Bytes, kind: Kind) -> Result<(T, Option<Section>), Damage> {
        let mut reader = Self::open(bytes.clone(), kind)?;
        let Some(section) = reader.next_section()? else { return Err(Damage::CutOff(bytes.len())) };
        Ok((section.decode()?, reader.next_section()?))
    }

    /// The next section; `None` behind the last, once the footer has been found right.
    pub fn next_section(&mut self) -> Result<Option<Section>, Damage> {
        let at = self.at;
        let rest = &self.bytes[at..];
        match rest.first() {
            None => return Err(Damage::CutOff(self.bytes.len())),
            Some(0) => return self.footer(at),
            Some(_) => {}
        }
        let Some(header) = rest.get(..SECTION_HEADER_BYTES) else { return Err(Damage::CutOff(self.bytes.len())) };
        let (packed, raw) = (number(&header[2..]) as usize, number(&header[6..]) as usize);
        let Some(payload) = rest.get(SECTION_HEADER_BYTES..).and_then(|rest| rest.get(..packed)) else {
            return Err(Damage::CutOff(self.bytes.len()));
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..10]);
        crc.update(payload);
        if crc.finalize() != number(&header[10..]) {
            return Err(Damage::Checksum(at));
        }
        let failed = |reason: &str| Damage::Section { at, reason: reason.to_owned() };
        let tag = Tag::of(header[0]).ok_or_else(|| failed("its tag is unknown"))?;
        let content = match header[1] {
            PLAIN if raw == packed => payload.to_vec(),
            ZSTD if raw <= MAX_SECTION_BYTES && raw <= packed.saturating_mul(MAX_RATIO) => {
                zstd::bulk::decompress(payload, raw).map_err(|error| failed(&error.to_string()))?
            }
            _ => return Err(failed("its lengths make no sense")),
        };
        if content.len() != raw {
            return Err(failed("it is shorter than it says"));
        }
        self.at += SECTION_HEADER_BYTES + packed;
        self.sections += 1;
        Ok(Some(Section { tag, at, raw: content }))
    }

    fn footer(&mut self, at: usize) -> Result<Option<Section>, Damage> {
        let rest = &self.bytes[at..];
        let Some(footer) = rest.get(..FOOTER_BYTES) else { return Err(Damage::CutOff(self.bytes.len())) };
        let right = crc32fast::hash(&footer[..5]) == number(&footer[5..]) && footer[9..] == END;
        if !right || rest.len() > FOOTER_BYTES || number(&footer[1..]) != self.sections {
            return Err(Damage::Checksum(at));
        }
        Ok(None)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sections.
    pub sections: usize,
    /// Cuts of partitions.
    pub cuts: usize,
    /// Keys seen by partitions.
    pub seen: usize,
    /// Totals of keys.
    pub totals: usize,
    /// First cuts that partitions have seen.
    pub seen_patterns: usize,
    /// First cuts and their counts.
    pub patterns: usize,
    /// Rows of state.
    pub rows: usize,
    /// Files that a manifest names.
    pub files: usize,
    /// Marks.
    pub marks: usize,
}

/// Reads a file of any kind to its end, and everything in it.
///
/// # Errors
/// [`Damage`] for anything that a reader of its contents could stumble over. Never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<Summary, Damage> {
    let kind = match bytes.get(12) {
        Some(2) => Kind::Manifest,
        Some(3) => Kind::Marks,
        Some(4) => Kind::Starts,
        _ => Kind::Shard,
    };
    let mut reader = FileReader::open(Bytes::copy_from_slice(bytes), kind)?;
    let mut summary = Summary::default();
    while let Some(section) = reader.next_section()? {
        summary.sections += 1;
        match section.tag {
            Tag::Head => {
                section.decode::<ShardHead>()?;
            }
            Tag::Cuts => summary.cuts += section.decode::<Vec<PartitionCut>>()?.len(),
            Tag::Seen => summary.seen += section.decode::<SeenChunk>()?.seen.len(),
            Tag::Totals => summary.totals += section.decode::<Vec<TotalsRow>>()?.len(),
            Tag::Rows => summary.rows += section.decode::<Vec<StateRow>>()?.len(),
            Tag::SeenPatterns => summary.seen_patterns += section.decode::<PatternsChunk>()?.seen.cuts.len(),
            Tag::Patterns => summary.patterns += section.decode::<Vec<PatternRow>>()?.len(),
            Tag::Manifest => summary.files += section.decode::<Manifest>()?.files.len(),
            Tag::Marks => summary.marks += section.decode::<MarksOfProcess>()?.marks.len(),
            Tag::Starts => drop(section.decode::<Starts>()?),
        }
    }
    Ok(summary)
}
