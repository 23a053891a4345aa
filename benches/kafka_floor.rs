//! Reading from a real Kafka: the floor that a bare librdkafka loop sets, and what our source adds to it.
//!
//! - `bytes`: messages in batches in one thread, bytes counted.
//! - `floor`: the same loop with the parsing, rules and 10 s windows of [`floor`], in a hash map.
//! - `feed`: our source, bytes counted.
//! - `feed-floor`: our source with the same work.
//! - `w1`: the product, `floodmark bench --kafka` with one worker, in a process of its own.
//!
//! ```text
//! scripts/services up kafka; eval "$(scripts/services env)"
//! cargo bench --profile ci --bench kafka_floor -- fill --records 2000000
//! cargo bench --profile ci --bench kafka_floor -- run --rounds 3
//! cargo bench --profile ci --bench kafka_floor -- run floor w1    # the product beside the bare loop, and their ratio
//! ```
//!
//! `run JOB…` runs some of the jobs, alternating, and prints records/s and CPU seconds (user and system, all threads of
//! this process) per million records: the median of the rounds and the best. `--brokers` and `--topic` name another
//! cluster or topic; partitions are read from their beginning to where they end now.

mod floor;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use floodmark::sources::generator::{Generator, GeneratorConfig};
use floodmark::sources::kafka::{Extent, KafkaConfig, KafkaProducer, KafkaSource, ProducerConfig};
use floodmark::sources::{Source, WorkerPlace};
use floodmark_dataflows::input::{Batch, Feed, PartitionEvent};

const JOBS: [&str; 5] = ["bytes", "feed", "floor", "feed-floor", "w1"];

/// What a job did with a record.
enum Work {
    Bytes(u64),
    Windows(Box<floor::Windows>),
}

impl Work {
    fn of(job: &str) -> Self {
        if job.ends_with("floor") { Self::Windows(Box::new(floor::Windows::new())) } else { Self::Bytes(0) }
    }

    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Bytes(sum) => *sum += bytes.len() as u64,
            Self::Windows(windows) => windows.add(bytes),
        }
    }

    fn digest(&self) -> u64 {
        match self {
            Self::Bytes(sum) => *sum,
            Self::Windows(windows) => windows.finish().1,
        }
    }
}

/// Reads everything through the source, as a worker does. Returns the number of records.
fn feed(brokers: &str, topic: &str, work: &mut Work) -> Result<u64> {
    let config = KafkaConfig { brokers: brokers.to_owned(), topics: vec![topic.to_owned()], ..KafkaConfig::default() };
    let source = KafkaSource::connect(config, Extent::UntilEnd)?;
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 })?;
    let (wake, woken) = std::sync::mpsc::sync_channel(1);
    feed.attach(std::sync::Arc::new(move || {
        let _ = wake.try_send(());
    }));
    let mut ended = vec![false; feed.joined().len()];
    let mut records = 0;
    while ended.contains(&false) {
        let mut found = false;
        for (partition, ended) in ended.iter_mut().enumerate() {
            match feed.poll(partition) {
                Some(PartitionEvent::Records(mut batch)) => {
                    found = true;
                    while let Some(record) = batch.current() {
                        work.add(record.bytes);
                        records += 1;
                        batch.advance();
                    }
                }
                Some(PartitionEvent::Ended) => *ended = true,
                Some(event) => bail!("did not expect: {}", kind(&event)),
                None => {}
            }
        }
        if !found && ended.contains(&false) {
            let _ = woken.recv_timeout(Duration::from_secs(1));
        }
    }
    Ok(records)
}

fn kind<B>(event: &PartitionEvent<B>) -> &'static str {
    match event {
        PartitionEvent::Records(_) => "records",
        PartitionEvent::AtEnd { .. } => "at the end",
        PartitionEvent::Ended => "ended",
        PartitionEvent::Unreachable => "unreachable",
        PartitionEvent::Lost { .. } => "lost",
    }
}

mod bare {
    //! librdkafka's fastest way: messages in batches from the consumer's queue, payloads borrowed.
    #![allow(unsafe_code, reason = "rdkafka has no safe interface to batches")]

    use std::time::Duration;

    use anyhow::{Context, Result, bail};
    use rdkafka::bindings as rd;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    const BATCH: usize = 1000;

    /// Reads everything. Returns the number of records.
    pub fn read(brokers: &str, topic: &str, work: &mut super::Work) -> Result<u64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "floodmark-floor")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "4096")
            .create()?;
        let timeout = Duration::from_secs(10);
        let metadata = consumer.fetch_metadata(Some(topic), timeout).context("metadata")?;
        let partitions = metadata.topics()[0].partitions().len();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions as i32 {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let (mut records, mut open) = (0, partitions);
        let mut batch = Vec::<*mut rd::rd_kafka_message_t>::with_capacity(BATCH);
        // SAFETY: the consumer outlives the queue and the messages; the buffer has room for `BATCH` pointers; each
        // message is read before it is destroyed, once.
        unsafe {
            let queue = rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
            while open > 0 {
                let count = rd::rd_kafka_consume_batch_queue(queue, 10, batch.as_mut_ptr(), BATCH);
                batch.set_len(usize::try_from(count).unwrap_or(0));
                for message in batch.drain(..) {
                    match (*message).err {
                        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                            let payload = (*message).payload.cast::<u8>();
                            work.add(std::slice::from_raw_parts(payload, (*message).len));
                            records += 1;
                        }
                        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => open -= 1,
                        other => bail!("{other:?}"),
                    }
                    rd::rd_kafka_message_destroy(message);
                }
            }
            rd::rd_kafka_queue_destroy(queue);
        }
        Ok(records)
    }

    /// CPU seconds of this process so far, user and system.
    pub fn cpu_seconds() -> f64 {
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        // SAFETY: `getrusage` fills the structure that it is given, for which zeros are a valid value.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &mut usage);
            usage
        };
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }
}

/// Job W1's records: 20 services, two partitions, about 350 bytes each.
fn fill(brokers: &str, topic: &str, records: u64) -> Result<()> {
    const PARTITIONS: u32 = 2;
    let config = GeneratorConfig { services: 20, partitions: PARTITIONS, ..GeneratorConfig::default() };
    let generator = Generator::new(config, 1_767_225_600_000)?;
    let producer = KafkaProducer::new(&ProducerConfig { brokers: brokers.to_owned(), ..ProducerConfig::default() })?;
    let mut parts: Vec<_> = (0..PARTITIONS).map(|partition| generator.records(partition)).collect();
    let (mut record, mut bytes) = (Vec::new(), 0);
    for n in 0..records {
        let partition = n as usize % parts.len();
        record.clear();
        parts[partition].write_next(&mut record);
        let line = record.trim_ascii_end();
        bytes += line.len() as u64;
        producer.send(topic, Some(partition as i32), None, line)?;
    }
    producer.flush(Duration::from_secs(60))?;
    println!("{} records of {} bytes on average in {topic}", producer.delivered(), bytes / records.max(1));
    Ok(())
}

/// The product over the same records. Returns their number, and wall and CPU seconds as it measured them.
fn product(brokers: &str, topic: &str) -> Result<(u64, f64, f64)> {
    let arguments = ["bench", "--json", "--workers", "1", "--kafka", brokers, "--topic", topic];
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
    let measured = floor::measured(command.args(arguments)).context("floodmark bench")?;
    Ok((measured["records"] as u64, measured["seconds"], measured["cpu_seconds"]))
}

fn run(brokers: &str, topic: &str, jobs: &[&str], rounds: usize) -> Result<()> {
    let mut figures = vec![Vec::new(); jobs.len()];
    for _ in 0..rounds {
        for (job, figures) in jobs.iter().zip(&mut figures) {
            let mut work = Work::of(job);
            let (started, cpu) = (Instant::now(), bare::cpu_seconds());
            let measured = |records| (records, started.elapsed().as_secs_f64(), bare::cpu_seconds() - cpu);
            let (records, seconds, cpu_seconds) = match *job {
                "w1" => product(brokers, topic)?,
                "feed" | "feed-floor" => measured(feed(brokers, topic, &mut work)?),
                _ => measured(bare::read(brokers, topic, &mut work)?),
            };
            match *job {
                "w1" => println!("{job:<12} {records} records"),
                _ => println!("{job:<12} {records} records, digest {:x}", work.digest()),
            }
            figures.push((records as f64 / seconds, cpu_seconds / (records as f64 / 1e6)));
        }
    }
    println!("\n{:<12} {:>12} {:>12} {:>14} {:>12}", "job", "rec/s", "best", "CPU-s/M rec", "best");
    let mut medians = BTreeMap::new();
    for (job, figures) in jobs.iter().zip(&mut figures) {
        figures.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (rate, best_rate) = (figures[rounds / 2].0, figures[0].0);
        figures.sort_by(|a, b| a.1.total_cmp(&b.1));
        println!("{job:<12} {rate:>12.0} {best_rate:>12.0} {:>14.3} {:>12.3}", figures[rounds / 2].1, figures[0].1);
        medians.insert(*job, (rate, figures[rounds / 2].1));
    }
    if let (Some(floor), Some(w1)) = (medians.get("floor"), medians.get("w1")) {
        println!("\nw1 / floor: {:.2} by rate, {:.2} by CPU time", w1.0 / floor.0, floor.1 / w1.1);
    }
    Ok(())
}

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut words, mut records, mut rounds) = (Vec::new(), 2_000_000, 3);
    let mut brokers = std::env::var("FLOODMARK_TEST_KAFKA").ok();
    let mut topic = "floodmark-w1".to_owned();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--records" => records = value()?.parse().context("--records")?,
            "--rounds" => rounds = value()?.parse().context("--rounds")?,
            "--brokers" => brokers = Some(value()?),
            "--topic" => topic = value()?,
            _ => words.push(argument),
        }
    }
    let Some(brokers) = brokers else {
        println!("not run: kafka_floor (needs Kafka: scripts/services up kafka; eval \"$(scripts/services env)\")");
        return Ok(());
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fill"] => fill(&brokers, &topic, records),
        ["run"] => run(&brokers, &topic, &JOBS, rounds.max(1)),
        ["run", jobs @ ..] if jobs.iter().all(|job| JOBS.contains(job)) => run(&brokers, &topic, jobs, rounds.max(1)),
        _ => bail!("expected fill [--records N], or run [--rounds N] [{}]", JOBS.join("|")),
    }
}
