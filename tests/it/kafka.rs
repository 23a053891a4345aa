//! The Kafka source and producer on librdkafka's mock cluster. It keeps about 5 MiB a partition, knows no timestamps,
//! deletes nothing, crashes on a partition without a leader, and keeps no transactions apart: those are tested on a real
//! broker in `tests/live`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use floodmark::sources::kafka::{Extent, KafkaProducer, KafkaSource, ProducerConfig, RangeSpec, StartAt};
use floodmark::sources::{Positions, Source, SourceError, WorkerPlace};
use floodmark::units::{ByteSize, Span};
use floodmark_dataflows::input::PartitionInfo;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::reading::{Reading, config};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topic: &str, partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

fn producer(cluster: &Cluster) -> KafkaProducer {
    let linger = Span::from_millis(1);
    KafkaProducer::new(&ProducerConfig { brokers: cluster.bootstrap_servers(), linger, ..ProducerConfig::default() })
        .unwrap()
}

/// Appends `records` to a partition, in order.
fn append(cluster: &Cluster, topic: &str, partition: i32, records: impl IntoIterator<Item = Vec<u8>>) {
    let producer = producer(cluster);
    for record in records {
        producer.send(topic, Some(partition), None, &record).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

fn numbered(range: std::ops::Range<u32>) -> impl Iterator<Item = Vec<u8>> {
    range.map(|n| format!("record {n}").into_bytes())
}

fn open(cluster: &Cluster, topic: &str, start: StartAt, extent: Extent) -> Reading {
    Reading::open(
        floodmark::sources::kafka::KafkaConfig { start, ..config(&cluster.bootstrap_servers(), topic) },
        extent,
    )
}

#[test]
fn a_live_run_reads_what_is_there_says_so_and_goes_on() {
    let cluster = cluster("logs", 2);
    append(&cluster, "logs", 0, numbered(0..1000));
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::Live);
    reading.until("both ends", |r| r.last_told("logs:0") == Some("at_end 1000") && !r.told("logs:1").is_empty());
    assert_eq!(reading.names, ["logs:0", "logs:1"]);
    assert_eq!(reading.told("logs:1"), ["at_end 0"]);
    let read: Vec<_> = reading.records["logs:0"].iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(read, numbered(0..1000).collect::<Vec<_>>());
    assert_eq!(reading.offsets("logs:0"), (0..1000).collect::<Vec<_>>());

    append(&cluster, "logs", 1, numbered(0..10));
    reading.until("the new records", |r| r.last_told("logs:1") == Some("at_end 10"));
    assert_eq!(reading.offsets("logs:1"), (0..10).collect::<Vec<_>>());
}

#[test]
fn starts_where_it_is_told() {
    let cluster = cluster("logs", 2);
    append(&cluster, "logs", 0, numbered(0..100));
    append(&cluster, "logs", 1, numbered(0..100));
    let read = |start: &str| {
        let mut reading = open(&cluster, "logs", start.parse().unwrap(), Extent::UntilEnd);
        reading.until("the end", Reading::has_ended);
        ["logs:0", "logs:1"].map(|name| reading.offsets(name).first().copied())
    };
    assert_eq!(read("earliest"), [Some(0), Some(0)]);
    assert_eq!(read("latest"), [None, None]);
    assert_eq!(read("logs:0=40"), [Some(40), Some(0)]);
    assert_eq!(read("logs:0=99,logs:1=100"), [Some(99), None]);
    assert_eq!(read("committed"), [Some(0), Some(0)], "the group has committed nothing yet");
}

#[test]
fn goes_on_where_the_group_committed() {
    let cluster = cluster("logs", 1);
    append(&cluster, "logs", 0, numbered(0..100));
    let positions = |offset| Positions::from([(info("logs", 0), offset)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let first = |extent: Extent| {
        let mut reading = open(&cluster, "logs", StartAt::Committed, extent);
        reading.until("the end", Reading::has_ended);
        reading.offsets("logs:0").first().copied()
    };
    let reading = open(&cluster, "logs", StartAt::Earliest, Extent::Live);
    runtime.block_on(reading.source.commit(&positions(60))).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while first(Extent::UntilEnd) != Some(60) {
        assert!(std::time::Instant::now() < deadline, "the commit does not arrive");
    }

    let replay = RangeSpec::parse(Some("logs:0=.."), None).unwrap();
    let reading = open(&cluster, "logs", StartAt::Earliest, Extent::Replay(replay));
    runtime.block_on(reading.source.commit(&positions(80))).unwrap();
    drop(reading);
    assert_eq!(first(Extent::UntilEnd), Some(60), "a replay commits nothing");
}

#[test]
fn a_replay_reads_exactly_its_range_and_ends() {
    let cluster = cluster("logs", 3);
    for partition in 0..3 {
        append(&cluster, "logs", partition, numbered(0..2000));
    }
    let spec = RangeSpec::parse(Some("logs:0=1200..1900,logs:2=1990..5000"), None).unwrap();
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::Replay(spec));
    reading.until("the end", Reading::has_ended);
    assert_eq!(reading.names, ["logs:0", "logs:2"]);
    assert_eq!(reading.offsets("logs:0"), (1200..1900).collect::<Vec<_>>());
    assert_eq!(reading.offsets("logs:2"), (1990..2000).collect::<Vec<_>>(), "an end not there yet is the end");
    assert_eq!(reading.told("logs:0"), ["ended"]);
    assert_eq!(reading.mark(), None, "a bounded replay has no marks");
}

#[test]
fn until_end_is_the_end_at_the_start() {
    let cluster = cluster("logs", 2);
    append(&cluster, "logs", 0, numbered(0..500));
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::UntilEnd);
    append(&cluster, "logs", 0, numbered(500..600));
    reading.until("the end", Reading::has_ended);
    assert_eq!(reading.offsets("logs:0"), (0..500).collect::<Vec<_>>());
    assert_eq!(reading.told("logs:1"), ["ended"], "an empty partition ends at once");
}

#[test]
fn a_partition_left_alone_does_not_hold_up_the_other() {
    let cluster = cluster("logs", 2);
    // Far more than the local queue of a partition, which is 256 KiB here.
    let records = || (0..4000).map(|n: u32| [&n.to_be_bytes()[..], &[b'x'; 1000]].concat());
    append(&cluster, "logs", 0, records());
    append(&cluster, "logs", 1, records());
    let small = floodmark::sources::kafka::KafkaConfig {
        queue_bytes: ByteSize(512 << 10),
        ..config(&cluster.bootstrap_servers(), "logs")
    };
    let mut reading = Reading::open(small, Extent::UntilEnd);
    reading.left_alone = vec![0];
    reading.until("the other partition", |r| r.last_told("logs:1") == Some("ended"));
    assert_eq!(reading.counts(), [("logs:1".to_owned(), 4000)].into());
    reading.left_alone.clear();
    reading.until("the one left alone", Reading::has_ended);
    let expected: Vec<_> = records().enumerate().map(|(n, bytes)| (n as u64, bytes)).collect();
    assert!(reading.records["logs:0"] == expected);
}

#[test]
fn workers_share_the_partitions() {
    let cluster = cluster("logs", 5);
    for partition in 0..5 {
        append(&cluster, "logs", partition, numbered(0..10));
    }
    let source = KafkaSource::connect(config(&cluster.bootstrap_servers(), "logs"), Extent::UntilEnd).unwrap();
    let source = Arc::new(source);
    let mut seen = BTreeSet::new();
    for index in 0..3 {
        let mut reading = Reading::of(Arc::clone(&source), WorkerPlace { index, peers: 3 });
        reading.until("the end", Reading::has_ended);
        assert_eq!(reading.count(), 10 * reading.names.len());
        for name in reading.names.clone() {
            assert_eq!(name[5..].parse::<usize>().unwrap() % 3, index);
            assert!(seen.insert(name));
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(source.ends().values().all(|end| *end == 10), "{:?}", source.ends());
}

#[test]
fn big_and_empty_records() {
    let cluster = cluster("logs", 1);
    let big = vec![b'x'; 900_000];
    append(&cluster, "logs", 0, [big.clone(), Vec::new(), big.clone(), b"small".to_vec()]);
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    let lengths: Vec<_> = reading.records["logs:0"].iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
    assert_eq!(lengths, [(0, big.len()), (1, 0), (2, big.len()), (3, 5)]);
}

#[test]
fn a_broker_that_is_away_is_not_the_end() {
    let cluster = cluster("logs", 1);
    append(&cluster, "logs", 0, numbered(0..100));
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::Live);
    reading.until("the end", |r| r.last_told("logs:0") == Some("at_end 100"));
    cluster.broker_down(-1).unwrap();
    let unreachable = |r: &Reading| r.told("logs:0").iter().filter(|event| *event == "unreachable").count();
    reading.until("being told twice", |r| unreachable(r) >= 2);
    assert_eq!(reading.last_told("logs:0"), Some("unreachable"));
    cluster.broker_up(-1).unwrap();
    reading.until("the end again", |r| r.last_told("logs:0") == Some("at_end 100"));
    append(&cluster, "logs", 0, numbered(100..150));
    reading.until("the new records", |r| r.last_told("logs:0") == Some("at_end 150"));
    assert_eq!(reading.offsets("logs:0"), (0..150).collect::<Vec<_>>());
}

#[test]
fn one_broker_away_leaves_the_partitions_of_the_others() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic("logs", 2, 1).unwrap();
    cluster.partition_leader("logs", 0, Some(1)).unwrap();
    cluster.partition_leader("logs", 1, Some(2)).unwrap();
    append(&cluster, "logs", 0, numbered(0..10));
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::Live);
    reading.until("the end", |r| r.last_told("logs:0") == Some("at_end 10") && !r.told("logs:1").is_empty());
    cluster.broker_down(1).unwrap();
    reading.until("being told", |r| r.last_told("logs:0") == Some("unreachable"));
    append(&cluster, "logs", 1, numbered(0..5));
    reading.until("the other partition", |r| r.last_told("logs:1") == Some("at_end 5"));
    assert_eq!(reading.told("logs:1"), ["at_end 0", "at_end 5"]);
    cluster.broker_up(1).unwrap();
    reading.until("the end again", |r| r.last_told("logs:0") == Some("at_end 10"));
}

#[test]
fn live_runs_have_marks_about_once_a_second() {
    let cluster = cluster("logs", 1);
    let mut reading = open(&cluster, "logs", StartAt::Earliest, Extent::Live);
    let mut marks = Vec::new();
    while marks.len() < 2 {
        marks.extend(reading.mark());
        reading.step();
    }
    assert!(marks[1] >= marks[0] + 1000, "{marks:?}");
}

#[test]
fn mistakes_are_errors_that_say_what_to_do() {
    let cluster = cluster("logs", 2);
    append(&cluster, "logs", 0, numbered(0..10));
    let refused = |topic: &str, start: &str, extent: Extent| {
        let config = floodmark::sources::kafka::KafkaConfig {
            start: start.parse().unwrap(),
            connect_timeout: Span::from_millis(100),
            ..config(&cluster.bootstrap_servers(), topic)
        };
        KafkaSource::connect(config, extent).err().expect("an error")
    };
    let error = refused("logs", "logs:0=11", Extent::Live);
    assert!(matches!(&error, SourceError::OutOfRange(m) if m.contains("ends at offset 10")), "{error}");
    let error = refused("logs", "logs:5=0", Extent::Live);
    assert!(error.to_string().contains("no partition logs:5; there are logs:0 to logs:1"), "{error}");
    let spec = RangeSpec::parse(Some("other:0=.."), None).unwrap();
    let error = refused("logs", "earliest", Extent::Replay(spec));
    assert!(error.to_string().contains("no partition other:0"), "{error}");

    cluster.broker_down(-1).unwrap();
    let error = refused("logs", "earliest", Extent::Live);
    assert!(matches!(error, SourceError::Unreachable(_)), "{error}");
}

#[test]
fn health_names_the_topics() {
    let cluster = cluster("logs", 4);
    let source = KafkaSource::connect(config(&cluster.bootstrap_servers(), "logs"), Extent::Live).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let health = runtime.block_on(source.health()).unwrap();
    assert!(health.contains("logs (4 partitions)"), "{health}");
}

#[test]
fn a_record_that_cannot_be_delivered_is_an_error() {
    let cluster = cluster("logs", 1);
    let config = ProducerConfig {
        brokers: cluster.bootstrap_servers(),
        delivery_timeout: Span::from_millis(1500),
        ..ProducerConfig::default()
    };
    let producer = KafkaProducer::new(&config).unwrap();
    producer.send("logs", None, Some(b"key"), b"value").unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    assert_eq!(producer.delivered(), 1);
    let error = producer.send("logs", Some(0), None, &vec![0; 2_000_000]).unwrap_err();
    assert!(error.to_string().contains("logs"), "{error}");
    cluster.broker_down(-1).unwrap();
    producer.send("logs", Some(0), None, b"value").unwrap();
    let error = producer.flush(Duration::from_secs(20)).unwrap_err();
    assert!(matches!(error, SourceError::Unreachable(_)), "{error}");
}

fn info(topic: &str, number: i32) -> PartitionInfo {
    PartitionInfo { topic: topic.into(), identity: topic.into(), number }
}
