//! One part of the index: a tantivy index over a span of event time.
//!
//! Writing is idempotent without a deletion for each document: with every commit goes, for each partition, the highest
//! offset that the part holds. A document above it is new. For others the offsets that the part holds are looked up, a
//! batch at a time; that happens after a restart only, since batches of a partition come in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::columnar::Column;
use tantivy::directory::MmapDirectory;
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy, UserOperation};
use tantivy::schema::{Field, Schema};
use tantivy::{Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, SegmentReader, TantivyError};

use super::document::LogDocument;
use super::schema::{Fields, tokenizers};
use crate::stores::{LogBatch, StoreError};

/// Documents that go to an indexing thread at once.
const CHUNK: usize = 500;

/// Segments of like size that are merged into one. A commit adds a segment for each indexing thread, so this trades the
/// CPU time of merging against the number of segments that a search goes through.
const SEGMENTS_PER_MERGE: usize = 12;

/// Segments below this count as of like size.
const SMALL_SEGMENT_DOCUMENTS: u32 = 20_000;

/// Segments above this are left as they are.
const LARGE_SEGMENT_DOCUMENTS: usize = 5_000_000;

/// Blocks of 16 KiB with stored documents that a reader keeps for each segment.
const CACHED_BLOCKS: usize = 4;

/// A part, open for searching and, while a writer is there, for writing.
pub(super) struct Part {
    directory: PathBuf,
    index: Index,
    pub(super) reader: IndexReader,
    writer: Option<IndexWriter<LogDocument>>,
    /// The highest offset of each partition among the committed documents.
    committed: BTreeMap<u64, u64>,
    /// Ranges of offsets by partition that were added since the last commit.
    pending: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Something was added since the last commit.
    pub(super) dirty: bool,
}

impl Part {
    /// Opens the part in a directory, making it if it is not there.
    pub(super) fn open(directory: &Path, schema: &Schema) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)
            .map_err(|e| StoreError::Fatal(format!("cannot make the directory {}: {e}", directory.display())))?;
        let opened = (|| {
            let mut index = Index::builder()
                .schema(schema.clone())
                .settings(IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() })
                .open_or_create(MmapDirectory::open(directory)?)?;
            index.set_tokenizers(tokenizers());
            let reader = index
                .reader_builder()
                .reload_policy(ReloadPolicy::Manual)
                .doc_store_cache_num_blocks(CACHED_BLOCKS)
                .try_into()?;
            let payload = index.load_metas()?.payload;
            Ok((index, reader, payload))
        })();
        let (index, reader, payload) = opened.map_err(|e: TantivyError| damaged(directory, &e))?;
        let committed = match payload {
            Some(payload) => parse_payload(&payload).ok_or_else(|| damaged(directory, &"its offsets are not there"))?,
            None => BTreeMap::new(),
        };
        let directory = directory.to_owned();
        Ok(Self { directory, index, reader, writer: None, committed, pending: BTreeMap::new(), dirty: false })
    }

    /// Starts the threads for writing.
    pub(super) fn start_writing(&mut self, threads: usize, memory_per_thread: usize) -> Result<(), StoreError> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(threads)
            .memory_budget_per_thread(memory_per_thread)
            .num_merge_threads(1)
            .build();
        let writer = self.index.writer_with_options(options).map_err(|e| self.failed("open for writing", &e))?;
        let mut policy = LogMergePolicy::default();
        policy.set_min_num_segments(SEGMENTS_PER_MERGE);
        policy.set_min_layer_size(SMALL_SEGMENT_DOCUMENTS);
        policy.set_max_docs_before_merge(LARGE_SEGMENT_DOCUMENTS);
        writer.set_merge_policy(Box::new(policy));
        self.writer = Some(writer);
        Ok(())
    }

    /// Ends the threads for writing; nothing may be pending. A merge under way is given up and done another time.
    pub(super) fn stop_writing(&mut self) {
        self.writer = None;
    }

    /// Adds documents of a batch, given by their places in offset order, but for those that are there.
    pub(super) fn add(
        &mut self,
        batch: &Arc<LogBatch>,
        places: &[usize],
        source: u64,
        fields: &Arc<Fields>,
    ) -> Result<(), StoreError> {
        let (Some(&first), Some(&last)) = (places.first(), places.last()) else { return Ok(()) };
        let (first, last) = (batch.entries[first].offset, batch.entries[last].offset);
        let overlaps = |&(from, to): &(u64, u64)| first <= to && from <= last;
        if self.pending.get(&source).is_some_and(|ranges| ranges.iter().any(overlaps)) {
            // The same documents twice within one commit: make the first ones visible to the look-up.
            self.commit()?;
        }
        let known = match self.committed.get(&source) {
            Some(&highest) if first <= highest => self.offsets_between(source, first, last)?,
            _ => BTreeSet::new(),
        };
        let Some(writer) = &self.writer else { return Err(self.failed("write to", &"it is not open for writing")) };
        for chunk in places.chunks(CHUNK) {
            let new = chunk.iter().filter(|place| !known.contains(&batch.entries[**place].offset));
            let add = |&place| UserOperation::Add(LogDocument::new(batch.clone(), place, source, fields.clone()));
            let operations: Vec<_> = new.map(add).collect();
            writer.run(operations).map_err(|e| self.failed("write to", &e))?;
        }
        self.pending.entry(source).or_default().push((first, last));
        self.dirty = true;
        Ok(())
    }

    /// The offsets from `first` to `last` that committed documents of a partition have.
    fn offsets_between(&self, source: u64, first: u64, last: u64) -> Result<BTreeSet<u64>, StoreError> {
        let mut found = BTreeSet::new();
        for segment in self.reader.searcher().segment_readers() {
            let (sources, offsets) = (|| Ok((column(segment, "source")?, column(segment, "offset")?)))()
                .map_err(|e: TantivyError| self.failed("read", &e))?;
            if offsets.min_value() > last || offsets.max_value() < first {
                continue;
            }
            for document in segment.doc_ids_alive() {
                let offset = offsets.values.get_val(document);
                if (first..=last).contains(&offset) && sources.values.get_val(document) == source {
                    found.insert(offset);
                }
            }
        }
        Ok(found)
    }

    /// Makes what was added durable and searchable.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        if !self.dirty {
            return Ok(());
        }
        let mut committed = self.committed.clone();
        for (source, ranges) in &self.pending {
            let highest = committed.entry(*source).or_default();
            *highest = ranges.iter().map(|(_, last)| *last).fold(*highest, u64::max);
        }
        let Some(writer) = &mut self.writer else { return Err(self.failed("write to", &"it is not open for writing")) };
        let result = writer.prepare_commit().and_then(|mut prepared| {
            prepared.set_payload(&payload(&committed));
            prepared.commit()
        });
        result.and_then(|_| self.reader.reload()).map_err(|e| self.failed("write to", &e))?;
        (self.committed, self.dirty) = (committed, false);
        self.pending.clear();
        Ok(())
    }

    fn failed(&self, what: &str, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Fatal(format!("cannot {what} the index in {}: {error}", self.directory.display()))
    }
}

/// A column that every document has.
pub(super) fn column(segment: &SegmentReader, name: &str) -> tantivy::Result<Column<u64>> {
    segment.fast_fields().u64(name)
}

/// The document field of a hit.
pub(super) fn stored(document: &tantivy::TantivyDocument, field: Field) -> Option<&[u8]> {
    use tantivy::schema::Value;
    document.get_first(field)?.as_bytes()
}

fn damaged(directory: &Path, error: &dyn std::fmt::Display) -> StoreError {
    let directory = directory.display();
    StoreError::Fatal(format!(
        "the index in {directory} cannot be opened: {error}; move that directory away to go on without the documents of \
         its span, and read the logs of that time again to have them back"
    ))
}

/// The offsets as text, to go with a commit: `source:offset`, hexadecimal, separated by spaces.
fn payload(committed: &BTreeMap<u64, u64>) -> String {
    let entries: Vec<String> = committed.iter().map(|(source, offset)| format!("{source:x}:{offset:x}")).collect();
    entries.join(" ")
}

fn parse_payload(text: &str) -> Option<BTreeMap<u64, u64>> {
    let number = |text| u64::from_str_radix(text, 16).ok();
    text.split_whitespace()
        .map(|entry| {
            let (source, offset) = entry.split_once(':')?;
            Some((number(source)?, number(offset)?))
        })
        .collect()
}
