//! The fields of the index.

use floodmark_dataflows::input::PartitionInfo;
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, Schema, SchemaBuilder, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer, TokenizerManager};

/// The analyzer of `message`, for documents and for queries: runs of letters and digits, in lower case, unstemmed.
pub(super) const WORDS: &str = "words";

/// Longer words are not indexed.
const MAX_WORD_BYTES: usize = 255;

/// Longer values are kept in the document and cannot be searched for.
pub(super) const MAX_KEYWORD_BYTES: usize = 1_024;

/// The fields whose values are indexed as they are.
pub(super) const KEYWORDS: [&str; 12] = [
    "service_name",
    "level",
    "severity_level",
    "request_id",
    "user_id",
    "path",
    "method",
    "error_code",
    "tags",
    "host",
    "reasons",
    "pattern_id",
];

/// Handles of the fields.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    /// The document's JSON.
    pub(super) document: Field,
    /// Event time in milliseconds.
    pub(super) timestamp: Field,
    pub(super) partition: Field,
    pub(super) offset: Field,
    /// [`source_of`] the partition.
    pub(super) source: Field,
    pub(super) topic: Field,
    pub(super) message: Field,
    pub(super) status_code: Field,
    pub(super) severity: Field,
    pub(super) anomaly: Field,
    /// In the order of [`KEYWORDS`].
    pub(super) keywords: [Field; KEYWORDS.len()],
}

/// The schema with its handles.
pub(super) fn schema() -> (Schema, Fields) {
    let mut builder = SchemaBuilder::new();
    let keyword = text("raw");
    let fields = Fields {
        document: builder.add_bytes_field("document", STORED),
        timestamp: builder.add_u64_field("timestamp", FAST),
        partition: builder.add_i64_field("partition", FAST),
        offset: builder.add_u64_field("offset", FAST),
        source: builder.add_u64_field("source", FAST),
        topic: builder.add_text_field("topic", keyword.clone()),
        message: builder.add_text_field("message", text(WORDS)),
        status_code: builder.add_u64_field("status_code", INDEXED | FAST),
        severity: builder.add_u64_field("severity", FAST),
        anomaly: builder.add_bool_field("anomaly", INDEXED),
        keywords: KEYWORDS.map(|name| builder.add_text_field(name, keyword.clone())),
    };
    (builder.build(), fields)
}

/// Which documents contain a word, and nothing about where and how often: hits are sorted by time.
fn text(tokenizer: &str) -> TextOptions {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(tokenizer)
        .set_index_option(IndexRecordOption::Basic)
        .set_fieldnorms(false);
    TextOptions::default().set_indexing_options(indexing)
}

/// The analyzers by name.
pub(super) fn tokenizers() -> TokenizerManager {
    let tokenizers = TokenizerManager::default();
    tokenizers.register(WORDS, words());
    tokenizers
}

/// The analyzer of `message`.
pub(super) fn words() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(MAX_WORD_BYTES))
        .filter(LowerCaser)
        .build()
}

/// What tells the partitions of all topics apart: 64-bit FNV-1a of `identity/number`.
pub(super) fn source_of(partition: &PartitionInfo) -> u64 {
    let number = partition.number.to_le_bytes();
    let bytes = partition.identity.bytes().chain(*b"/").chain(number);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
