//! What a checkpoint consists of.

use std::collections::BTreeMap;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::{Millis, Tick};
use serde::{Deserialize, Serialize};

use super::compare::Fingerprint;
use super::format::{Damage, EncodeError, FileReader, FileWriter, Kind, Tag};
use bytes::Bytes;

/// The number of a checkpoint: higher than all before it in the same place. The first, 0, is the start of a generation.
pub type CheckpointId = u64;

/// What a checkpoint consists of. Written last: a checkpoint without its manifest does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its number.
    pub id: CheckpointId,
    /// The tick that it is at: everything before is in.
    pub at: Tick,
    /// The generation of the documents, which a run that goes on from here keeps.
    pub generation: u64,
    /// The wall clock when it was committed.
    pub created_ms: Millis,
    /// The wall clock when it was begun: marks made before are not needed to go on from it.
    pub began_ms: Millis,
    /// The wall clock at the start of the generation: what "now" means to the generator.
    pub origin_ms: Millis,
    /// The workers that wrote it.
    pub workers: u32,
    /// The files that make up its state, oldest first: rows of a later one replace those of an earlier one.
    pub files: Vec<FileRef>,
    /// Documents before the cut of a partition that the store refused, beside those that the ledger of the cut contains.
    pub refused: BTreeMap<PartitionInfo, u64>,
    /// The configuration that computed it.
    pub configuration: Fingerprint,
    /// What changed in the configuration when the run that wrote it was started, with the tick from which it applies.
    pub changes: Vec<(Tick, String)>,
}

/// A file of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name in the folders of the copies.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The checksum of all of it.
    pub crc: u32,
    /// The rows in it.
    pub rows: u64,
}

impl FileRef {
    /// Describes a file.
    pub fn of(name: String, bytes: &[u8], rows: usize) -> Self {
        Self { name, bytes: bytes.len() as u64, crc: crc32fast::hash(bytes), rows: rows as u64 }
    }

    /// Whether these are the bytes of the file.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Damage> {
        match bytes.len() as u64 {
            length if length < self.bytes => Err(Damage::CutOff(bytes.len())),
            length if length > self.bytes => {
                Err(Damage::Other(format!("it has {length} bytes instead of {}", self.bytes)))
            }
            _ if crc32fast::hash(bytes) != self.crc => Err(Damage::Other("its checksum differs".to_owned())),
            _ => Ok(()),
        }
    }
}

impl Manifest {
    /// The name of its file.
    pub fn name(&self) -> String {
        name(self.id)
    }

    /// Its file.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        FileWriter::of_one(Kind::Manifest, Tag::Manifest, self)
    }

    /// Reads its file.
    pub fn decode(bytes: &Bytes) -> Result<Self, Damage> {
        match FileReader::first(bytes, Kind::Manifest)? {
            (manifest, None) => Ok(manifest),
            (_, Some(more)) => Err(Damage::Section { at: more.at, reason: "a manifest has one section".to_owned() }),
        }
    }

    /// Bytes of all its files, one copy of each.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// The name of the file of a manifest.
pub fn name(id: CheckpointId) -> String {
    format!("manifest-{id:016}")
}

/// The number in the name of a manifest's file.
pub fn id_of(name: &str) -> Option<CheckpointId> {
    name.strip_prefix("manifest-")?.parse().ok()
}
