//! Dead letters in a Kafka topic: the value is the JSON object, the key the id of the record.

use std::sync::Arc;
use std::time::Duration;

use floodmark_dataflows::input::{Batch, Feed, PartitionEvent};

use super::letter::{DeadLetter, Document};
use super::{DeadLettersConfig, Sink, SinkError};
use crate::sources::kafka::{Extent, KafkaConfig, KafkaProducer, KafkaSource, ProducerConfig};
use crate::sources::{Source as _, SourceError, WorkerPlace};

/// A write waits this long for the brokers' confirmation before it is reported and tried again.
const DELIVERY: Duration = Duration::from_secs(30);

/// Produces to a topic.
pub struct TopicSink {
    config: ProducerConfig,
    topic: String,
    /// Absent before the first write and after a failure: a producer that gave up a record stays failed.
    producer: Option<KafkaProducer>,
    json: Vec<u8>,
}

impl TopicSink {
    /// Opens no connection.
    pub fn new(config: ProducerConfig, topic: String) -> Self {
        Self { config, topic, producer: None, json: Vec::new() }
    }

    fn produce(&mut self, letters: &[DeadLetter]) -> Result<(), SourceError> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => KafkaProducer::new(&self.config)?,
        };
        for letter in letters {
            self.json.clear();
            letter.write(&mut self.json);
            producer.send(&self.topic, None, Some(letter.id().as_bytes()), &self.json)?;
        }
        producer.flush(DELIVERY)?;
        self.producer = Some(producer);
        Ok(())
    }
}

impl Sink for TopicSink {
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), SinkError> {
        self.produce(letters).map_err(|error| SinkError::Refused(error.to_string()))
    }

    fn describe(&self) -> String {
        format!("the topic {} at {}", self.topic, self.config.brokers)
    }
}

/// Gives every letter away that is in the topic now. A topic that is not there yet has none.
pub(super) fn each(
    config: &DeadLettersConfig,
    take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if KafkaProducer::partitions_of(&config.kafka, &config.topic)?.is_none() {
        return Ok(());
    }
    let source = KafkaSource::connect(reader(config), Extent::UntilEnd)?;
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 })?;
    let reader = std::thread::current();
    feed.attach(Arc::new(move || reader.unpark()));
    let partitions = feed.joined().len();
    let mut is_open = vec![true; partitions];
    while is_open.contains(&true) {
        let mut is_dry = true;
        for partition in (0..partitions).filter(|partition| is_open[*partition]).collect::<Vec<_>>() {
            match feed.poll(partition) {
                Some(PartitionEvent::Records(mut batch)) => {
                    is_dry = false;
                    while let Some(record) = batch.current() {
                        match serde_json::from_slice::<Document<'static>>(record.bytes) {
                            Ok(letter) => take(letter)?,
                            Err(error) => {
                                let (topic, offset) = (&config.topic, record.offset);
                                tracing::warn!("offset {offset} of {topic}:{partition} is no dead letter: {error}");
                            }
                        }
                        batch.advance();
                    }
                }
                Some(PartitionEvent::Ended) => is_open[partition] = false,
                Some(PartitionEvent::Unreachable) => {
                    anyhow::bail!("the topic {} at {} cannot be read at present", config.topic, config.kafka.brokers)
                }
                Some(PartitionEvent::AtEnd { .. } | PartitionEvent::Lost { .. }) | None => {}
            }
        }
        if let Some(failure) = source.failure() {
            anyhow::bail!("the topic {}: {failure}", config.topic);
        }
        if is_dry {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// How the topic is read: as it is written to, but for what only concerns writing.
fn reader(config: &DeadLettersConfig) -> KafkaConfig {
    let ProducerConfig { brokers, properties, .. } = &config.kafka;
    KafkaConfig {
        brokers: brokers.clone(),
        topics: vec![config.topic.clone()],
        properties: properties.of_connections(),
        ..KafkaConfig::default()
    }
}
