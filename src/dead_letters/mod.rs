//! Records that cannot be read, indexed or trusted: raw bytes, partition, offset, reason.
//!
//! In: records from the workers and refusals of the store, through [`DeadLetterQueue`]. Out: one JSON object a record,
//! to a file, the store, or a Kafka topic. Nothing is dropped: while the place for them fails or is full, the queue
//! fills, the workers stop reading, and the log and `health` say why. What was not safely written when the process died
//! is found by reading again, so after a crash a record may be there twice, with the same topic, partition and offset.
//!
//! - [`letter`]: the form of a record.
//! - [`queue`]: between the workers and the place; counters.
//! - [`mod@file`], [`store`], [`topic`]: the places.
//! - [`reading`]: letters read back from there.

mod file;
mod letter;
mod queue;
mod reading;
mod store;
mod topic;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

pub use file::files;
pub use letter::{DeadLetter, Document};
pub use queue::DeadLetterQueue;
pub use reading::each;

use crate::checkpoint::starts::StartNumber;
use crate::sources::kafka::ProducerConfig;
use crate::stores::Store;
use crate::units::ByteSize;

/// Where dead letters go, and how much room they have.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// What they are written to.
    pub to: Place,
    /// With `to = "file"`: the file, one JSON object a line. A relative path is below the data directory. With several
    /// processes each writes its own, with its number in the name: `dead-letters-1.ndjson`.
    pub file: PathBuf,
    /// With `to = "file"`: at this size the file gets a number behind its name, and a new one is begun.
    pub rotate_at: ByteSize,
    /// With `to = "file"`: what the file and the numbered ones may take together. When it is reached, reading stops and
    /// says so, rather than losing a record, until files are moved away or this is raised.
    pub max_size: ByteSize,
    /// With `to = "topic"`: the topic.
    pub topic: String,
    /// With `to = "topic"`: where it is and how it is written.
    pub kafka: ProducerConfig,
    /// Dead letters that may wait to be written, above which reading stops.
    pub queue: ByteSize,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            to: Place::File,
            file: "dead-letters.ndjson".into(),
            rotate_at: ByteSize::from_mib(64),
            max_size: ByteSize::from_mib(1024),
            topic: "logs_dead_letters".into(),
            kafka: ProducerConfig::default(),
            queue: ByteSize::from_mib(4),
        }
    }
}

/// What dead letters are written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A file, one JSON object a line.
    #[default]
    File,
    /// An index of their own in the store, which must be Elasticsearch.
    Index,
    /// A Kafka topic: the value is the JSON object.
    Topic,
}

impl DeadLettersConfig {
    /// Opens the place and starts the thread that writes to it, for the start of this number. Must be called within a
    /// tokio runtime if the place is the store.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(
        &self,
        data_dir: &Path,
        start: StartNumber,
        store: Arc<dyn Store>,
    ) -> Result<Arc<DeadLetterQueue>, SinkError> {
        let sink: Box<dyn Sink> = match self.to {
            Place::File => {
                Box::new(file::FileSink::open(data_dir.join(&self.file), self.rotate_at.0, self.max_size.0)?)
            }
            Place::Topic => Box::new(topic::TopicSink::new(self.kafka.clone(), self.topic.clone())),
            Place::Index => Box::new(store::StoreSink::new(store, Handle::current())),
        };
        Ok(DeadLetterQueue::start(sink, self.queue.0 as usize, start))
    }
}

/// A place for dead letters.
pub trait Sink: Send + 'static {
    /// Writes letters, oldest first. When it returns without an error, all of them are safe. After an error it is
    /// called again with the same letters, and must not leave a part of one behind. Blocks.
    ///
    /// # Errors
    /// What went wrong and what to do.
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), SinkError>;

    /// What it writes to, for messages.
    fn describe(&self) -> String;
}

/// Dead letters cannot be written at present.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// There is no room left.
    #[error("{0}")]
    Full(String),
    /// The file system failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and to what.
        context: String,
        /// What came back.
        source: std::io::Error,
    },
    /// What is behind it did not take them.
    #[error("{0}")]
    Refused(String),
}
