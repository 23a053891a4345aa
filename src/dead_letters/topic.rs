//! Dead letters in a Kafka topic: the value is the JSON object, the key the id of the record.

use std::time::Duration;

use super::letter::DeadLetter;
use super::{Sink, SinkError};
use crate::sources::SourceError;
use crate::sources::kafka::{KafkaProducer, ProducerConfig};

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
