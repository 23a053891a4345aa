//! Where the input of a plan stands: files, or topics of a mock cluster or of a real one. It grows while plans run.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use floodmark::units::Span;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::naive::{Mark, Partition};
use crate::plan::{Plan, SourceKind};
use crate::process::{Signal, send};
use crate::services;

/// The input, as far as it is written.
pub struct Source {
    records: Vec<Vec<Vec<u8>>>,
    written: Vec<usize>,
    /// The last partition is not there before more than its first record is written.
    joins: bool,
    place: Place,
}

enum Place {
    Files(PathBuf),
    Kafka {
        producer: KafkaProducer,
        brokers: String,
        topic: String,
        /// Ends with the plan.
        _mock: Option<MockCluster<'static, DefaultProducerContext>>,
    },
}

impl Source {
    /// An empty source with one partition for each list of records.
    pub fn new(plan: &Plan, folder: &Path, records: Vec<Vec<Vec<u8>>>) -> Self {
        let written = vec![0; records.len()];
        let count = records.len() as u32;
        let place = match plan.source {
            SourceKind::Files => Place::Files(folder.to_owned()),
            SourceKind::MockKafka => {
                let mock = MockCluster::new(1).expect("a mock cluster");
                mock.create_topic(&plan.model.topic, count as i32, 1).expect("a topic");
                let brokers = mock.bootstrap_servers();
                let producer = KafkaProducer::new(&producer_config(&brokers)).expect("a producer");
                Place::Kafka { producer, brokers, topic: plan.model.topic.clone(), _mock: Some(mock) }
            }
            SourceKind::Kafka => {
                let brokers = services::kafka().expect("the runner checks that it is there");
                let config = producer_config(&brokers);
                KafkaProducer::ensure_topic(&config, &plan.model.topic, count).expect("a topic");
                let producer = KafkaProducer::new(&config).expect("a producer");
                Place::Kafka { producer, brokers, topic: plan.model.topic.clone(), _mock: None }
            }
        };
        Self { records, written, joins: plan.joins, place }
    }

    /// The configuration of it.
    pub fn config(&self) -> String {
        match &self.place {
            Place::Files(_) => {
                "[source.files]\npaths = [\"in-*.log\"]\npoll_interval = \"10ms\"\nblock = \"16KiB\"\n".to_owned()
            }
            Place::Kafka { brokers, topic, .. } => format!(
                "[source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup_id = \"{topic}\"\n\
                 [source.kafka.properties]\n\"fetch.wait.max.ms\" = 20\n\"reconnect.backoff.ms\" = 20\n\
                 \"reconnect.backoff.max.ms\" = 200\n"
            ),
        }
    }

    /// Grows each partition to so many thousandths of its records, at least one.
    pub fn append(&mut self, thousandths: u64) {
        for (number, records) in self.records.iter().enumerate() {
            let from = self.written[number];
            let to = (records.len() * thousandths as usize / 1_000).clamp(1, records.len());
            let is_waiting = self.joins && thousandths == 0 && number + 1 == self.records.len();
            if to <= from || is_waiting {
                continue;
            }
            self.written[number] = to;
            match &self.place {
                Place::Files(folder) => {
                    let path = folder.join(format!("in-{number}.log"));
                    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a log file");
                    let mut lines = records[from..to].join(&b'\n');
                    lines.push(b'\n');
                    // In two pieces, the first of which ends within a line.
                    let (first, second) = lines.split_at(if from == 0 { lines.len() } else { lines.len() / 2 });
                    file.write_all(first).and_then(|()| file.write_all(second)).expect("cannot write a log file");
                }
                Place::Kafka { producer, topic, .. } => {
                    for record in &records[from..to] {
                        producer.send(topic, Some(number as i32), None, record).expect("a record can be sent");
                    }
                }
            }
        }
        if let Place::Kafka { producer, .. } = &self.place {
            producer.flush(Duration::from_secs(30)).expect("records are delivered");
        }
    }

    /// Stands still for a while.
    pub fn pause(&self, pause: Duration) {
        if let (Place::Kafka { _mock: None, .. }, Some(process)) = (&self.place, services::process("KAFKA")) {
            send(process, Signal::Stop);
            std::thread::sleep(pause);
            send(process, Signal::Continue);
        }
    }

    /// The partitions with the offsets of their records, once all is written, and with the marks that were recorded.
    pub fn partitions(&self, mut marks: BTreeMap<i32, Vec<Mark>>) -> Vec<Partition> {
        let mut place = |(number, records): (i32, &Vec<Vec<u8>>)| {
            let mut next = 0;
            let offsets = records.iter().map(|record| {
                let offset = next;
                next += if matches!(self.place, Place::Files(_)) { record.len() as u64 + 1 } else { 1 };
                (offset, record.clone())
            });
            Partition { records: offsets.collect(), marks: marks.remove(&number).unwrap_or_default(), redrive: None }
        };
        (0..).zip(&self.records).map(&mut place).collect()
    }
}

fn producer_config(brokers: &str) -> ProducerConfig {
    ProducerConfig { brokers: brokers.to_owned(), linger: Span::from_millis(1), ..ProducerConfig::default() }
}
