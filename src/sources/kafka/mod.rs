//! Kafka.
//!
//! In: topics of a Kafka cluster. Out: a [`KafkaFeed`] a worker. Which worker reads which partition is fixed, without a
//! consumer group's rebalancing; positions are ours, and the group's are only written, for tools that show lag.
//!
//! - [`config`]: options, and what librdkafka is told.
//! - [`range`]: where a run starts and ends, as people write it.
//! - [`plan`]: that settled with the brokers into offsets.
//! - [`feed`]: a worker's share: records, ends, losses, silence. Never blocks.
//! - [`service`]: the thread that waits for brokers on behalf of the feeds.
//! - [`topics`]: who a topic is, beyond its name.
//! - [`native`]: batches of messages from librdkafka without a copy; `unsafe` code is there and in [`topics`] only.
//! - [`client`]: librdkafka's log, errors and statistics.
//! - [`producer`]: writing to topics.
//!
//! # Errors
//!
//! A broker that does not answer is waited for, and the worker hears of it; offsets that the broker removed are
//! reported as lost. A topic that was deleted and made again is another topic: its partitions join, those of the first
//! one end, and what was not read of them is lost. Where brokers give topics no ids (before Kafka 2.8), and in bounded
//! runs, a log that is no longer the one that was read is a [failure](crate::sources::Source::failure).

mod client;
mod config;
mod feed;
mod native;
mod plan;
mod producer;
mod range;
mod service;
mod topics;

use std::sync::Arc;

use async_trait::async_trait;
use floodmark_dataflows::input::PartitionInfo;
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;

pub use config::{Compression, KafkaConfig, ProducerConfig, Properties};
pub use feed::{KafkaBatch, KafkaFeed};
pub use producer::KafkaProducer;
pub use range::{Bounds, Extent, RangeSpec, StartAt, TopicPartition};

use crate::sources::{Positions, Source, SourceError, WorkerPlace};
use service::{Service, State};

/// Topics of a Kafka cluster.
pub struct KafkaSource {
    service: Arc<Service>,
    /// It goes on from where an earlier run stopped, and a later one from where it does.
    is_of_line: bool,
}

impl KafkaSource {
    /// Reaches the brokers, finds the partitions and settles where each starts and ends. Blocks for up to
    /// `connect_timeout`. Fails when a topic does not exist, a partition or an offset asked for is not there, a setting
    /// is wrong, or no broker answers.
    pub fn connect(config: KafkaConfig, extent: Extent) -> Result<Self, SourceError> {
        Self::resume(config, extent, &Positions::new())
    }

    /// Like [`KafkaSource::connect`], but partitions in `positions` go on there. Offsets that are gone by now are
    /// reported as lost; a log that ends before its position is an error.
    pub fn resume(config: KafkaConfig, extent: Extent, positions: &Positions) -> Result<Self, SourceError> {
        let control = service::consumer(config.client(1)?)?;
        let (plan, identities) = plan::settle(&control, &config, &extent, positions)?;
        let live = extent == Extent::Live;
        let is_of_line = !matches!(extent, Extent::Replay(_));
        Ok(Self { service: Arc::new(Service::start(config, control, live, plan, identities)?), is_of_line })
    }

    fn state(&self) -> &State {
        &self.service.state
    }
}

#[async_trait]
impl Source for KafkaSource {
    type Feed = KafkaFeed;

    fn feed(&self, worker: WorkerPlace) -> Result<KafkaFeed, SourceError> {
        let (link, readers) = self.service.open(worker)?;
        Ok(KafkaFeed::new(Arc::clone(&self.service), link, readers, self.state().live, self.is_of_line))
    }

    fn ends(&self) -> Positions {
        self.state().ends.lock().clone()
    }

    fn failure(&self) -> Option<String> {
        self.state().failure.lock().clone()
    }

    fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        self.state().covers(partition, offset)
    }

    /// Sends the group's positions without waiting for the answer; a failure is logged. A replay commits nothing.
    async fn commit(&self, positions: &Positions) -> Result<(), SourceError> {
        if !self.is_of_line || positions.is_empty() {
            return Ok(());
        }
        let control = &self.state().control;
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (info, offset) in positions {
            list.add_partition_offset(&info.topic, info.number, Offset::Offset(*offset as i64))
                .map_err(|e| plan::unreachable(control, &e))?;
        }
        control.commit(&list, CommitMode::Async).map_err(|e| plan::unreachable(control, &e))
    }

    async fn health(&self) -> Result<String, SourceError> {
        if let Some(failure) = self.failure() {
            return Err(SourceError::OutOfRange(failure));
        }
        let state = Arc::clone(&self.service.state);
        let asked = tokio::task::spawn_blocking(move || {
            let counts = plan::partition_counts(&state.control, &state.config.topics)?;
            let topics = state.config.topics.iter().zip(counts);
            let topics: Vec<_> = topics.map(|(topic, count)| format!("{topic} ({count} partitions)")).collect();
            Ok(format!("Kafka at {}: {}", state.config.brokers, topics.join(", ")))
        });
        asked.await.unwrap_or_else(|e| Err(SourceError::Unreachable(format!("asking Kafka was stopped: {e}"))))
    }
}
