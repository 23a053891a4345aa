//! What librdkafka tells a client apart from records: its log, its errors, its statistics.
//!
//! In: callbacks, on the thread that polls the client. Out: log lines through `tracing`, the last error, and the newest
//! statistics for whoever asks. Nothing here fails.

use std::collections::HashMap;

use floodmark_dataflows::input::PartitionInfo;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde::Deserialize;

use super::topics;

/// Receives what librdkafka reports.
#[derive(Default)]
pub(super) struct Context {
    last_error: Mutex<Option<String>>,
    statistics: Mutex<Option<Statistics>>,
    /// The ids by which the client reads topics.
    ids: Mutex<HashMap<String, String>>,
}

impl Context {
    /// Whether the client reads a topic of that name with another id than this one.
    pub(super) fn reads_another(&self, info: &PartitionInfo) -> bool {
        let Some(id) = topics::id_of(&info.topic, &info.identity) else { return false };
        self.ids.lock().get(&*info.topic).is_some_and(|read| read != id)
    }

    /// What librdkafka complained about last: the reason to give when a broker does not answer.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// The statistics since the last call, if there are any: once a second.
    pub(super) fn take_statistics(&self) -> Option<Statistics> {
        self.statistics.lock().take()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some((topic, id)) = topics::changed_id(message) {
            self.ids.lock().insert(topic.to_owned(), id.to_owned());
        }
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        *self.last_error.lock() = Some(reason.to_owned());
    }

    fn stats_raw(&self, json: &[u8]) {
        match serde_json::from_slice(json) {
            Ok(statistics) => *self.statistics.lock() = Some(statistics),
            Err(error) => tracing::debug!(%error, "librdkafka's statistics could not be read"),
        }
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "positions could not be committed; tools will show too much lag until the next commit");
        }
    }
}

/// What is used of librdkafka's statistics.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    brokers: HashMap<String, BrokerStatistics>,
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
struct BrokerStatistics {
    nodeid: i32,
    state: String,
    /// Microseconds since something was received; -1 before.
    rxidle: i64,
}

#[derive(Debug, Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Debug, Deserialize)]
struct PartitionStatistics {
    leader: i32,
    fetchq_cnt: i64,
    fetch_state: String,
    ls_offset: i64,
}

impl Statistics {
    /// Why a partition cannot be read at present. A broker that keeps its connection and answers no fetch for
    /// `silence_us` counts as well.
    pub(super) fn trouble(&self, topic: &str, partition: i32, silence_us: i64) -> Option<String> {
        let partition = self.partition(topic, partition)?;
        let Some(broker) = self.brokers.values().find(|broker| broker.nodeid == partition.leader) else {
            return Some("the partition has no leader".to_owned());
        };
        if broker.state != "UP" {
            return Some(format!("broker {} is not connected", broker.nodeid));
        }
        let fetching = partition.fetch_state == "active" && partition.fetchq_cnt == 0;
        let silent = fetching && broker.rxidle > silence_us;
        silent.then(|| format!("broker {} has not answered for {} s", broker.nodeid, broker.rxidle / 1_000_000))
    }

    /// One past the last record that can be read, as the broker said last.
    pub(super) fn end(&self, topic: &str, partition: i32) -> Option<u64> {
        u64::try_from(self.partition(topic, partition)?.ls_offset).ok()
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionStatistics> {
        self.topics.get(topic)?.partitions.get(&partition)
    }
}
