//! The sections that belong to no single part: which source, which store.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sources::files::FilesConfig;
use crate::sources::generator::GeneratorConfig;
use crate::sources::kafka::KafkaConfig;
use crate::stores::elasticsearch::ElasticsearchConfig;
use crate::stores::embedded::EmbeddedConfig;
use crate::stores::ndjson::NdjsonConfig;
use crate::stores::writer::{Indexed, SpoolOptions, WriterOptions};
use crate::units::{ByteSize, Span};

/// Where records are read from.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSection {
    /// Topics of a Kafka cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaConfig>,
    /// Files, followed or read to their ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesConfig>,
    /// Made-up logs, the same for the same options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<GeneratorConfig>,
}

/// The source that is configured.
#[derive(Clone, Copy, Debug)]
pub enum SourceChoice<'a> {
    /// `source.kafka`.
    Kafka(&'a KafkaConfig),
    /// `source.files`.
    Files(&'a FilesConfig),
    /// `source.generator`.
    Generator(&'a GeneratorConfig),
}

impl SourceSection {
    /// The source that is configured; a mistake if there is none or more than one.
    pub fn chosen(&self) -> Result<SourceChoice<'_>, Mistake> {
        let choices = [
            self.kafka.as_ref().map(|config| ("kafka", SourceChoice::Kafka(config))),
            self.files.as_ref().map(|config| ("files", SourceChoice::Files(config))),
            self.generator.as_ref().map(|config| ("generator", SourceChoice::Generator(config))),
        ];
        only("source", &choices)?.ok_or_else(|| {
            let names = "[source.kafka], [source.files] or [source.generator]";
            Mistake::new("source", format!("expected one of {names}, got none; add the one to read from"))
        })
    }
}

/// The one choice that is there, if any; a mistake if there are more.
fn only<T: Copy>(section: &str, choices: &[Option<(&str, T)>]) -> Result<Option<T>, Mistake> {
    let mut there = choices.iter().flatten();
    let first = there.next();
    match (first, there.next()) {
        (Some((first, _)), Some((second, _))) => {
            let message =
                format!("expected one of them, got both {section}.{first} and {section}.{second}; remove one");
            Err(Mistake::new(section, message))
        }
        _ => Ok(first.map(|(_, choice)| *choice)),
    }
}

/// Where documents go.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Which documents to store.
    pub index: Indexed,
    /// Log documents in memory that may wait for the store or be under way to it, in bytes of JSON. While it is full
    /// nothing is read. More evens out a store that answers in bursts.
    pub queue: ByteSize,
    /// Where a live run keeps on disk what does not fit into half of `queue`, so that a slow or absent store stops
    /// neither windows nor live reads.
    pub spool: SpoolSection,
    /// How long a run that is asked to stop waits for the store to take what was read. What it has not taken by then is in no
    /// checkpoint: the next run reads it again.
    pub stop_timeout: Span,
    /// Elasticsearch 7.17, 8 or 9, or OpenSearch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elasticsearch: Option<ElasticsearchConfig>,
    /// A search index on local disk; needs no other service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedConfig>,
    /// Files or standard output, one JSON document a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ndjson: Option<NdjsonConfig>,
    /// Nowhere: for benchmarks, and where the API's live answers are enough. Has no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none: Option<NoStoreConfig>,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            index: Indexed::default(),
            queue: ByteSize::from_mib(64),
            spool: SpoolSection::default(),
            stop_timeout: Span::from_secs(60),
            elasticsearch: None,
            embedded: None,
            ndjson: None,
            none: None,
        }
    }
}

impl StoreSection {
    /// The store that is configured, the embedded one by default; a mistake if there is more than one.
    pub fn chosen(&self) -> Result<StoreChoice<'_>, Mistake> {
        let choices = [
            self.elasticsearch.as_ref().map(|config| ("elasticsearch", StoreChoice::Elasticsearch(config))),
            self.embedded.as_ref().map(|config| ("embedded", StoreChoice::Embedded(config))),
            self.ndjson.as_ref().map(|config| ("ndjson", StoreChoice::Ndjson(config))),
            self.none.as_ref().map(|_| ("none", StoreChoice::None)),
        ];
        Ok(only("store", &choices)?.unwrap_or(StoreChoice::Embedded(&DEFAULT_STORE)))
    }

    /// What the writer needs of it. The spool of process `process` is for live runs: nobody waits for the windows of a
    /// bounded one.
    pub fn writer_options(&self, data_dir: &Path, process: usize, is_live: bool) -> WriterOptions {
        let queue_bytes = usize::try_from(self.queue.0).unwrap_or(usize::MAX).max(1);
        let SpoolSection { max, path } = &self.spool;
        let spool = (is_live && max.0 > 0).then(|| SpoolOptions {
            directory: path.clone().unwrap_or_else(|| data_dir.join("spool")).join(process.to_string()),
            limit_bytes: max.0,
        });
        WriterOptions { indexed: self.index, queue_bytes, spool }
    }
}

/// What waits for the store on disk. It is emptied at a start: what it held is read from the source again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolSection {
    /// Bytes on disk at the most; once it is full nothing is read until the store takes something. About three million
    /// log documents of the usual size fit into a gibibyte. 0 turns the spool off.
    pub max: ByteSize,
    /// Its directory, with one in it for each process. Left out, `spool` within `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self { max: ByteSize::from_mib(4096), path: None }
    }
}

/// The store where none is configured.
static DEFAULT_STORE: LazyLock<EmbeddedConfig> = LazyLock::new(EmbeddedConfig::default);

/// The store that is configured.
#[derive(Clone, Copy, Debug)]
pub enum StoreChoice<'a> {
    /// `store.elasticsearch`.
    Elasticsearch(&'a ElasticsearchConfig),
    /// `store.embedded`, or no store at all.
    Embedded(&'a EmbeddedConfig),
    /// `store.ndjson`.
    Ndjson(&'a NdjsonConfig),
    /// `store.none`.
    None,
}

/// The options of the store that keeps nothing: none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoStoreConfig {}
