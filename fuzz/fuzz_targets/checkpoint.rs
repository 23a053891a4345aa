//! Any bytes as a file of a checkpoint, and as the contents of one whose checksums are right: what is in it, or what is
//! wrong with it.

#![no_main]

use floodmark::checkpoint::format::{FileWriter, Kind, Tag, read};
use libfuzzer_sys::fuzz_target;
use serde::ser::SerializeTuple;
use serde::{Serialize, Serializer};

const TAGS: [(Kind, Tag); 9] = [
    (Kind::Shard, Tag::Head),
    (Kind::Shard, Tag::Cuts),
    (Kind::Shard, Tag::Seen),
    (Kind::Shard, Tag::Totals),
    (Kind::Shard, Tag::Rows),
    (Kind::Shard, Tag::SeenPatterns),
    (Kind::Shard, Tag::Patterns),
    (Kind::Manifest, Tag::Manifest),
    (Kind::Marks, Tag::Marks),
];

/// Bytes that are written as they are: in postcard a tuple has no length.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = read(bytes);
    let Some((&choice, contents)) = bytes.split_first() else { return };
    let (kind, tag) = TAGS[usize::from(choice) % TAGS.len()];
    let mut file = FileWriter::new(kind);
    if file.add(tag, &Raw(contents)).is_ok() {
        let _ = read(&file.finish());
    }
});
