//! The Kafka source and producer against a real broker: what the mock cluster cannot show.

use std::time::{Duration, Instant};

use floodmark::sources::kafka::{
    Compression, Extent, KafkaConfig, KafkaProducer, KafkaSource, ProducerConfig, RangeSpec, StartAt,
};
use floodmark::sources::{Positions, Source, SourceError, WorkerPlace};
use floodmark::units::{ByteSize, Span};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::reading::{self, Reading};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("kafka", [Service::Kafka];
        every_codec_is_read,
        records_larger_than_a_fetch_are_read,
        the_brokers_clock_is_given_where_it_is_the_same_in_every_run,
        aborted_transactions_leave_holes_and_replays_end,
        an_open_transaction_is_not_waited_for,
        replays_by_time_read_what_was_appended_then,
        records_removed_before_the_start_are_reported,
        records_removed_while_reading_are_reported,
        a_topic_made_again_while_it_is_read_is_another_one,
        what_a_deleted_topic_still_had_is_lost_and_counted,
        a_topic_made_again_between_runs_is_read_from_its_beginning,
        new_partitions_join_from_their_beginning,
        a_missing_topic_is_waited_for_and_then_an_error,
        a_broker_that_hangs_is_not_the_end,
    )
}

fn brokers() -> String {
    Service::Kafka.address()
}

fn config(topic: &str) -> KafkaConfig {
    reading::config(&brokers(), topic)
}

/// Runs an administrative request.
fn admin<T>(request: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> KafkaResult<T>) -> T {
    let client = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(request(&client, &options))
        .unwrap()
}

pub fn create_topic(topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    admin(async |client, options| client.create_topics([&new], options).await).remove(0).unwrap();
}

/// Gives a topic more partitions, so many in all.
pub fn add_partitions(topic: &str, partitions: usize) {
    let new = NewPartitions::new(topic, partitions);
    admin(async |client, options| client.create_partitions([&new], options).await).remove(0).unwrap();
}

/// A new topic with records `record 0`, `record 1` … in its first partition.
fn topic_with(records: u64) -> String {
    let topic = unique("floodmark");
    create_topic(&topic, 1, &[]);
    append(&topic, 0, 0..records);
    topic
}

fn append(topic: &str, partition: i32, numbers: std::ops::Range<u64>) {
    let config = ProducerConfig { brokers: brokers(), linger: Span::from_millis(1), ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&config).unwrap();
    for n in numbers {
        producer.send(topic, Some(partition), None, format!("record {n}").as_bytes()).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// Removes the records before an offset, as retention would.
pub fn delete_before(topic: &str, offset: u64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset as i64)).unwrap();
    let done = admin(async |client, options| client.delete_records(&list, options).await);
    done.elements().iter().for_each(|element| element.error().unwrap());
}

fn every_codec_is_read() {
    let topic = unique("floodmark");
    create_topic(&topic, 1, &[]);
    for compression in Compression::ALL {
        let config = ProducerConfig { brokers: brokers(), compression, ..ProducerConfig::default() };
        let producer = KafkaProducer::new(&config).unwrap();
        for n in 0..1000 {
            let record = format!("{} {n} {}", compression.name(), "x".repeat(300));
            producer.send(&topic, Some(0), None, record.as_bytes()).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
        assert_eq!(producer.delivered(), 1000);
    }
    let mut reading = Reading::open(config(&topic), Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    let records = &reading.records[&format!("{topic}:0")];
    assert_eq!(records.len(), 5000);
    for (n, (offset, bytes)) in records.iter().enumerate() {
        let expected = format!("{} {} x", Compression::ALL[n / 1000].name(), n % 1000);
        assert!(*offset == n as u64 && bytes.starts_with(expected.as_bytes()), "offset {offset}");
    }
}

fn records_larger_than_a_fetch_are_read() {
    let topic = unique("floodmark");
    create_topic(&topic, 1, &[("max.message.bytes", "8000000")]);
    let mut config = ProducerConfig { brokers: brokers(), ..ProducerConfig::default() };
    config.properties.set("message.max.bytes", "8000000");
    let producer = KafkaProducer::new(&config).unwrap();
    // Random enough that compression does not make them small.
    let mut state = 7u64;
    let mut record = |len: usize| -> Vec<u8> {
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    };
    let records = [record(5_000_000), record(10), record(3_000_000), record(10)];
    for record in &records {
        producer.send(&topic, Some(0), None, record).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let mut reading = Reading::open(self::config(&topic), Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    let read: Vec<_> = reading.records[&format!("{topic}:0")].iter().map(|(_, bytes)| bytes).collect();
    assert!(
        read == records.iter().collect::<Vec<_>>(),
        "lengths {:?}",
        read.iter().map(|r| r.len()).collect::<Vec<_>>()
    );
}

fn the_brokers_clock_is_given_where_it_is_the_same_in_every_run() {
    for (kind, expected) in [("LogAppendTime", 100), ("CreateTime", 0)] {
        let topic = unique("floodmark");
        create_topic(&topic, 1, &[("message.timestamp.type", kind)]);
        append(&topic, 0, 0..100);
        let mut reading = Reading::open(config(&topic), Extent::UntilEnd);
        reading.until("the end", Reading::has_ended);
        assert_eq!((reading.count(), reading.appended), (100, expected), "{kind}");
    }
}

fn transactional() -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("transactional.id", unique("floodmark"))
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(20)).unwrap();
    producer
}

fn in_transaction(producer: &BaseProducer, topic: &str, records: u64) {
    producer.begin_transaction().unwrap();
    for _ in 0..records {
        producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload("in a transaction")).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn aborted_transactions_leave_holes_and_replays_end() {
    let topic = topic_with(0);
    let producer = transactional();
    for committed in [true, false, true, false] {
        in_transaction(&producer, &topic, 10);
        match committed {
            true => producer.commit_transaction(Duration::from_secs(20)).unwrap(),
            false => producer.abort_transaction(Duration::from_secs(20)).unwrap(),
        }
    }
    // Each transaction is ten records and a marker: 0..10, 11..21 aborted, 22..32, 33..43 aborted, and the end is 44.
    let expected: Vec<u64> = (0..10).chain(22..32).collect();
    let name = format!("{topic}:0");
    let mut live = Reading::open(config(&topic), Extent::Live);
    live.until("the end", |r| r.last_told(&name) == Some("at_end 44"));
    assert_eq!(live.offsets(&name), expected);
    for (range, part) in [("..", 0..20), ("..44", 0..20), ("5..15", 5..10), ("12..20", 0..0), ("25..40", 13..20)] {
        let spec = RangeSpec::parse(Some(&format!("{name}={range}")), None).unwrap();
        let mut replay = Reading::open(config(&topic), Extent::Replay(spec));
        replay.until("the end of a replay", Reading::has_ended);
        assert_eq!(replay.offsets(&name), expected[part], "{range}");
    }
}

fn an_open_transaction_is_not_waited_for() {
    let topic = topic_with(10);
    let producer = transactional();
    in_transaction(&producer, &topic, 10);
    let mut reading = Reading::open(config(&topic), Extent::UntilEnd);
    reading.until("the end", Reading::has_ended);
    assert_eq!(reading.count(), 10);
    producer.abort_transaction(Duration::from_secs(20)).unwrap();
}

fn replays_by_time_read_what_was_appended_then() {
    let topic = topic_with(0);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    // Within the broker's default limits for timestamps: now, a second apart.
    let start = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 - 1_000_000;
    for n in 0..100 {
        let record = BaseRecord::<(), str>::to(&topic).partition(0).payload("timed").timestamp(start + 1000 * n);
        producer.send(record).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let name = format!("{topic}:0");
    let read = |extent: Extent, from: StartAt| {
        let mut reading = Reading::open(KafkaConfig { start: from, ..config(&topic) }, extent);
        reading.until("the end", Reading::has_ended);
        reading.offsets(&name)
    };
    let time = |n: i64| (start + n).to_string();
    let replay = |from: Option<i64>, to: Option<i64>| {
        let spec = RangeSpec::parse(from.map(time).as_deref(), to.map(time).as_deref()).unwrap();
        read(Extent::Replay(spec), StartAt::Earliest)
    };
    assert_eq!(replay(Some(20_000), Some(30_000)), (20..30).collect::<Vec<_>>());
    assert_eq!(replay(Some(19_001), Some(30_001)), (20..31).collect::<Vec<_>>());
    assert_eq!(replay(None, Some(5_000)), (0..5).collect::<Vec<_>>());
    assert_eq!(replay(Some(95_000), None), (95..100).collect::<Vec<_>>());
    assert_eq!(replay(Some(500_000), None), [0; 0]);
    assert_eq!(read(Extent::UntilEnd, time(90_500).parse().unwrap()), (91..100).collect::<Vec<_>>());
}

fn records_removed_before_the_start_are_reported() {
    let topic = topic_with(100);
    let name = format!("{topic}:0");
    delete_before(&topic, 40);
    let start = StartAt::Offsets([((topic.clone(), 0), 10)].into());
    let mut reading = Reading::open(KafkaConfig { start, ..config(&topic) }, Extent::Live);
    reading.until("the end", |r| r.last_told(&name) == Some("at_end 100"));
    assert_eq!(reading.told(&name)[0], "lost 10..40");
    assert_eq!(reading.offsets(&name), (40..100).collect::<Vec<_>>());

    let spec = RangeSpec::parse(Some(&format!("{name}=10..30")), None).unwrap();
    let mut replay = Reading::open(config(&topic), Extent::Replay(spec));
    replay.until("the end", Reading::has_ended);
    assert_eq!((replay.told(&name), replay.count()), (&["lost 10..30".to_owned(), "ended".to_owned()][..], 0));
}

fn records_removed_while_reading_are_reported() {
    let topic = unique("floodmark");
    create_topic(&topic, 1, &[]);
    let name = format!("{topic}:0");
    // Sixteen times what is fetched ahead, so that most of it is fetched after the removal.
    let uncompressed = ProducerConfig {
        brokers: brokers(),
        compression: Compression::None,
        linger: Span::from_millis(1),
        ..ProducerConfig::default()
    };
    let producer = KafkaProducer::new(&uncompressed).unwrap();
    for _ in 0..20_000 {
        producer.send(&topic, Some(0), None, &[b'x'; 1000]).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let mut small = KafkaConfig { queue_bytes: ByteSize(256 << 10), ..config(&topic) };
    small.properties.set("fetch.message.max.bytes", "100000");
    let mut reading = Reading::open(small, Extent::Live);
    reading.until("the first records", |r| r.count() > 0);
    delete_before(&topic, 15_000);
    reading.until("the end", |r| r.last_told(&name) == Some("at_end 20000"));
    let offsets = reading.offsets(&name);
    let first_gap =
        offsets.iter().zip(0..).find(|(offset, expected)| *offset != expected).map(|(_, expected)| expected);
    let from = first_gap.expect("a gap");
    assert_eq!(reading.told(&name)[0], format!("lost {from}..15000"));
    assert_eq!(offsets, (0..from).chain(15_000..20_000).collect::<Vec<_>>());
    assert_eq!(reading.source.failure(), None);
}

pub fn delete_topic(topic: &str) {
    admin(async |client, options| client.delete_topics(&[topic], options).await).remove(0).unwrap();
}

/// Deletes a topic and makes it again, with records `record 0` … in its first partition.
fn make_again(topic: &str, records: u64) {
    delete_topic(topic);
    eventually("the topic to be gone", || {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        admin(async |client, options| client.create_topics([&new], options).await).remove(0).ok()
    });
    append(topic, 0, 0..records);
}

/// The new log may be shorter than what was read of the old one, or longer, which no offset tells.
fn a_topic_made_again_while_it_is_read_is_another_one() {
    for again in [5, 100, 250] {
        let topic = topic_with(100);
        let name = format!("{topic}:0");
        let mut reading = Reading::open(config(&topic), Extent::Live);
        reading.until("the end", |r| r.last_told(&name) == Some("at_end 100"));
        make_again(&topic, again);
        let end = format!("at_end {again}");
        reading.until("the end of the new one", |r| r.names.len() == 2 && r.last_told(&name) == Some(&end));
        let expected: Vec<u64> = (0..100).chain(0..again).collect();
        assert_eq!(reading.offsets(&name), expected, "{again}");
        let told = reading.told(&name);
        assert!(told.iter().any(|event| event == "ended"), "{told:?}");
        assert!(!told.iter().any(|event| event.starts_with("lost")), "all of the first one was read: {told:?}");
        assert_eq!(reading.source.failure(), None);
        let identities: Vec<_> = reading.source.ends().into_keys().map(|info| info.identity).collect();
        assert!(identities.len() == 2 && identities[0] != identities[1], "{identities:?}");
    }
}

fn what_a_deleted_topic_still_had_is_lost_and_counted() {
    let topic = topic_with(100);
    let name = format!("{topic}:0");
    let mut reading = Reading::open(config(&topic), Extent::Live);
    reading.until("the end", |r| r.last_told(&name) == Some("at_end 100"));
    reading.left_alone.push(0);
    append(&topic, 0, 100..130);
    let end = |r: &Reading| r.source.ends().into_values().max();
    eventually("the end is known", || (end(&reading) == Some(130)).then_some(()));
    make_again(&topic, 10);
    reading.until("the new one", |r| r.names.len() == 2);
    reading.left_alone.clear();
    reading.until("the end of the new one", |r| r.last_told(&name) == Some("at_end 10"));
    assert!(reading.told(&name).contains(&"lost 100..130".to_owned()), "{:?}", reading.told(&name));
    assert_eq!(reading.offsets(&name), (0..100).chain(0..10).collect::<Vec<_>>());
}

fn a_topic_made_again_between_runs_is_read_from_its_beginning() {
    let topic = topic_with(100);
    let name = format!("{topic}:0");
    let mut first = Reading::open(config(&topic), Extent::Live);
    first.until("the end", |r| r.last_told(&name) == Some("at_end 100"));
    let positions = first.source.ends();
    drop(first);
    let resume = |positions: &Positions| {
        let latest = KafkaConfig { start: StartAt::Latest, ..config(&topic) };
        let source = KafkaSource::resume(latest, Extent::UntilEnd, positions).unwrap();
        let mut reading = Reading::of(std::sync::Arc::new(source), WorkerPlace { index: 0, peers: 1 });
        reading.until("the end", Reading::has_ended);
        reading.count()
    };
    append(&topic, 0, 100..110);
    assert_eq!(resume(&positions), 10, "the same topic goes on");
    make_again(&topic, 130);
    assert_eq!(resume(&positions), 130, "another one is read from its beginning");
}

fn new_partitions_join_from_their_beginning() {
    let topic = topic_with(10);
    let every = Span::from_millis(200);
    let mut reading = Reading::open(KafkaConfig { discover_interval: every, ..config(&topic) }, Extent::Live);
    reading.until("the end", |r| r.last_told(&format!("{topic}:0")) == Some("at_end 10"));
    assert!(reading.mark().is_some(), "a live run has marks");
    add_partitions(&topic, 3);
    append(&topic, 2, 0..50);
    let last = format!("{topic}:2");
    reading.until("the new partitions", |r| r.last_told(&last) == Some("at_end 50"));
    assert_eq!(reading.offsets(&last), (0..50).collect::<Vec<_>>());
    assert_eq!(reading.names, [0, 1, 2].map(|n| format!("{topic}:{n}")));
    append(&topic, 0, 10..20);
    reading.until("the old one", |r| r.last_told(&format!("{topic}:0")) == Some("at_end 20"));
}

fn a_missing_topic_is_waited_for_and_then_an_error() {
    let topic = unique("floodmark");
    let connect = |wait| KafkaSource::connect(KafkaConfig { connect_timeout: wait, ..config(&topic) }, Extent::Live);
    let error = connect(Span::from_millis(200)).err().expect("an error");
    let message = error.to_string();
    assert!(matches!(error, SourceError::Configuration(_)), "{message}");
    assert!(message.contains(&topic) && message.contains("does not exist; create it"), "{message}");
    let source = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(Span::from_secs(30)));
        create_topic(&topic, 1, &[]);
        connecting.join().unwrap()
    });
    source.unwrap();
}

fn a_broker_that_hangs_is_not_the_end() {
    let Some(process) = Service::Kafka.process() else { panic!("FLOODMARK_TEST_KAFKA_PID is not set") };
    /// Lets the broker go on whatever happens.
    struct Stopped(i32);
    impl Drop for Stopped {
        fn drop(&mut self) {
            signal(self.0, "-CONT");
        }
    }
    let topic = topic_with(10);
    let name = format!("{topic}:0");
    let mut reading = Reading::open(config(&topic), Extent::Live);
    reading.until("the end", |r| r.last_told(&name) == Some("at_end 10"));
    signal(process, "-STOP");
    let stopped = Stopped(process);
    let since = Instant::now();
    reading.until("being told", |r| r.last_told(&name) == Some("unreachable"));
    assert!(since.elapsed() < Duration::from_secs(10), "told after {:?}", since.elapsed());
    let unreachable = |r: &Reading| r.told(&name).iter().filter(|event| *event == "unreachable").count();
    reading.until("being told again", |r| unreachable(r) >= 3);
    drop(stopped);
    reading.until("the end again", |r| r.last_told(&name) == Some("at_end 10"));
    append(&topic, 0, 10..20);
    reading.until("the new records", |r| r.last_told(&name) == Some("at_end 20"));
    assert_eq!(reading.offsets(&name), (0..20).collect::<Vec<_>>());
}

fn signal(process: i32, signal: &str) {
    let done = std::process::Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "kill {signal} {process}");
}
