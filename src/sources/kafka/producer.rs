//! Writing to Kafka from an ordinary thread: dead letters, generated records.
//!
//! In: records. Out: the same on a topic, each once (idempotent producer), in the order of sending within a partition.
//! A full local queue makes the sender wait. A record that could not be delivered is reported by the next call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::client::Context;
use super::config::ProducerConfig;
use crate::sources::SourceError;

/// How many sends go by between two looks at what was delivered.
const SERVE_EVERY: u64 = 256;

/// How long brokers have to name or make a topic.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(15);

/// An idempotent producer.
pub struct KafkaProducer {
    producer: BaseProducer<Deliveries>,
    brokers: String,
    sent: AtomicU64,
}

/// Counts deliveries, and keeps the first failure.
#[derive(Default)]
struct Deliveries {
    client: Context,
    delivered: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failure.lock().get_or_insert_with(|| error.to_string());
            }
        }
    }
}

impl KafkaProducer {
    /// Makes a producer. Brokers are contacted when there is something to send.
    pub fn new(config: &ProducerConfig) -> Result<Self, SourceError> {
        let producer = config
            .client()?
            .create_with_context(Deliveries::default())
            .map_err(|e| SourceError::Configuration(format!("Kafka producer: {e}")))?;
        Ok(Self { producer, brokers: config.brokers.clone(), sent: AtomicU64::new(0) })
    }

    /// How many partitions a topic has; `None` if it is not there. Blocks for up to 15 seconds. Fails when no broker
    /// answers.
    pub fn partitions_of(config: &ProducerConfig, topic: &str) -> Result<Option<usize>, SourceError> {
        find(&admin(config)?, config, topic)
    }

    /// Makes a topic if it is not there, with the brokers' default replication. Blocks for up to 30 seconds. Fails
    /// when the topic has fewer partitions than asked for, or no broker answers.
    pub fn ensure_topic(config: &ProducerConfig, topic: &str, partitions: u32) -> Result<(), SourceError> {
        let admin = admin(config)?;
        match find(&admin, config, topic)? {
            None => {}
            Some(there) if there >= partitions as usize => return Ok(()),
            Some(there) => {
                return Err(SourceError::Configuration(format!(
                    "topic \"{topic}\" has {there} partitions, expected at least {partitions}: ask for fewer, or use \
                     another topic"
                )));
            }
        }
        let context = |what: String| SourceError::Unreachable(format!("Kafka at {}: {what}", config.brokers));
        let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(TOPIC_TIMEOUT)).request_timeout(Some(TOPIC_TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|source| SourceError::Io { context: "cannot start a runtime".to_owned(), source })?;
        let made = runtime.block_on(admin.create_topics([&new], &options)).map_err(|e| context(e.to_string()))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(context(format!("cannot make the topic \"{topic}\": {code}")))
            }
            _ => Ok(()),
        }
    }

    /// Takes a record, to be delivered soon. Without a partition, the key decides, and without a key it varies. Waits
    /// while the local queue is full. Fails when the record cannot be sent at all, or when an earlier one was given up.
    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<(), SourceError> {
        if self.sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(SERVE_EVERY) {
            self.producer.poll(Duration::ZERO);
            self.check()?;
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(payload);
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        if let Some(key) = key {
            record = record.key(key);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    self.producer.poll(Duration::from_millis(100));
                    self.check()?;
                }
                Err((error, _)) => return Err(SourceError::Configuration(format!("topic \"{topic}\": {error}"))),
            }
        }
    }

    /// Waits until everything sent so far is delivered.
    pub fn flush(&self, timeout: Duration) -> Result<(), SourceError> {
        let deadline = Instant::now() + timeout;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            // Served in short waits, so that a delivery given up ends this at once.
            let _ = self.producer.flush(Duration::from_millis(200).min(timeout));
            self.check()?;
        }
        self.check()?;
        match self.producer.in_flight_count() {
            0 => Ok(()),
            left => Err(self.unreachable(&format!("{left} records are not delivered after {timeout:?}"))),
        }
    }

    /// How many records the brokers have confirmed, as of the last call.
    pub fn delivered(&self) -> u64 {
        self.producer.context().delivered.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), SourceError> {
        match self.producer.context().failure.lock().as_ref() {
            Some(failure) => Err(self.unreachable(failure)),
            None => Ok(()),
        }
    }

    fn unreachable(&self, what: &str) -> SourceError {
        let reason = self.producer.context().client.last_error().map(|e| format!(" ({e})")).unwrap_or_default();
        SourceError::Unreachable(format!("writing to Kafka at {}: {what}{reason}", self.brokers))
    }
}

type Admin = AdminClient<DefaultClientContext>;

fn admin(config: &ProducerConfig) -> Result<Admin, SourceError> {
    config.client()?.create().map_err(|e| SourceError::Configuration(format!("Kafka producer: {e}")))
}

/// How many partitions a topic has, if it is there. Asks for all topics: asking for one by its name could make it, with
/// whatever number of partitions the brokers have set.
fn find(admin: &Admin, config: &ProducerConfig, topic: &str) -> Result<Option<usize>, SourceError> {
    let metadata = admin.inner().fetch_metadata(None, TOPIC_TIMEOUT);
    let metadata = metadata.map_err(|e| SourceError::Unreachable(format!("Kafka at {}: {e}", config.brokers)))?;
    Ok(metadata.topics().iter().find(|found| found.name() == topic).map(|found| found.partitions().len()))
}
