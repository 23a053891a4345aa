//! The Kafka source and producer against a real broker.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::{Service, Test, eventually};
use crate::tests;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("kafka", [Service::Kafka]; the_broker_answers)
}

fn the_broker_answers() {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", Service::Kafka.address()).create().expect("a client");
    let brokers = eventually("metadata", || consumer.fetch_metadata(None, std::time::Duration::from_secs(5)).ok());
    assert_eq!(brokers.brokers().len(), 1);
}
