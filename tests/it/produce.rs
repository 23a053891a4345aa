//! What is written to Kafka, on librdkafka's mock cluster: generated records and dead letters.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use floodmark::dead_letters::{DeadLettersConfig, Document, Place};
use floodmark::sources::generator::{Generator, GeneratorConfig};
use floodmark::sources::kafka::{Extent, ProducerConfig};
use floodmark::stores::none::NoStore;
use floodmark::stores::writer::DeadLetters;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::Reason;
use rdkafka::mocking::MockCluster;

use crate::reading::{Reading, config};

#[test]
fn generated_records_arrive_once_and_in_order_in_their_partitions() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs_raw", 3, 1).unwrap();
    let generate = |partitions: &str| {
        Command::new(env!("CARGO_BIN_EXE_floodmark"))
            .args(["generate", "--kafka", &cluster.bootstrap_servers(), "--records", "3001", "--seed", "9"])
            .args(["--partitions", partitions, "--compression", "gzip"])
            .output()
            .unwrap()
    };
    let refused = generate("4");
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && message.contains("has 3 partitions"), "{message}");

    let done = generate("3");
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && message.contains("wrote 3,001 records"), "{message}");
    let mut reading = Reading::open(config(&cluster.bootstrap_servers(), "logs_raw"), Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    let options = GeneratorConfig { seed: 9, partitions: 3, count: 3001, rate: 0, ..GeneratorConfig::default() };
    let generator = Generator::new(options, 0).unwrap();
    for partition in 0..3 {
        let mut records = generator.records(partition);
        let read = &reading.records[&format!("logs_raw:{partition}")];
        assert_eq!(read.len() as u64, generator.count(partition).unwrap());
        for (offset, bytes) in read {
            let mut expected = Vec::new();
            assert_eq!(records.next_offset(), *offset);
            records.write_next(&mut expected);
            assert_eq!(*bytes, expected.trim_ascii_end());
        }
    }
}

#[test]
fn dead_letters_reach_their_topic() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("dead", 1, 1).unwrap();
    let kafka = ProducerConfig { brokers: cluster.bootstrap_servers(), ..ProducerConfig::default() };
    let options = DeadLettersConfig { to: Place::Topic, topic: "dead".into(), kafka, ..DeadLettersConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let queue = options.start(dir.path(), 1, Arc::new(NoStore)).unwrap();
    let partition = Arc::new(PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: 4 });
    for offset in 0..100 {
        queue.send(&partition, offset, Reason::ClockAhead, "an hour ahead", &[offset as u8, 0xff]);
    }
    queue.drain(Duration::from_secs(20)).unwrap();
    let mut reading = Reading::open(config(&cluster.bootstrap_servers(), "dead"), Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    let read = &reading.records["dead:0"];
    assert_eq!(read.len(), 100);
    for (offset, bytes) in read {
        let letter: Document<'_> = serde_json::from_slice(bytes).unwrap();
        assert_eq!((letter.offset, letter.partition, letter.reason), (*offset, 4, Reason::ClockAhead));
        assert_eq!(letter.bytes().unwrap(), [*offset as u8, 0xff]);
    }
}
