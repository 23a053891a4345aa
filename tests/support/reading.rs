//! Reading a Kafka feed to somewhere, the way a worker does: shared by the tests on the mock cluster and on a real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use floodmark::sources::kafka::{Extent, KafkaConfig, KafkaFeed, KafkaSource};
use floodmark::sources::{Source, WorkerPlace};
use floodmark_dataflows::input::{Batch, Feed, PartitionEvent};

/// A record as it was read.
pub type Read = (u64, Vec<u8>);

/// A feed being read, and all that it said.
pub struct Reading {
    pub source: Arc<KafkaSource>,
    feed: KafkaFeed,
    woken: Receiver<()>,
    /// `topic:partition` by the worker's number.
    pub names: Vec<String>,
    /// Partitions that are not polled for now.
    pub left_alone: Vec<usize>,
    pub records: BTreeMap<String, Vec<Read>>,
    /// Everything else in the order it came, such as `at_end 12`.
    pub events: BTreeMap<String, Vec<String>>,
    /// Broker timestamps seen.
    pub appended: usize,
}

/// Options for a topic at some brokers.
pub fn config(brokers: &str, topic: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_owned(),
        topics: vec![topic.to_owned()],
        group_id: format!("{topic}-group"),
        ..KafkaConfig::default()
    }
}

impl Reading {
    pub fn open(config: KafkaConfig, extent: Extent) -> Self {
        let source = Arc::new(KafkaSource::connect(config, extent).expect("the source opens"));
        Self::of(source, WorkerPlace { index: 0, peers: 1 })
    }

    pub fn of(source: Arc<KafkaSource>, worker: WorkerPlace) -> Self {
        let mut feed = source.feed(worker).expect("the feed opens");
        let (wake, woken) = channel();
        feed.attach(Arc::new(move || {
            let _ = wake.send(());
        }));
        Self {
            source,
            feed,
            woken,
            names: Vec::new(),
            left_alone: Vec::new(),
            records: BTreeMap::new(),
            events: BTreeMap::new(),
            appended: 0,
        }
    }

    /// Takes everything that is there now. Says whether there was anything.
    pub fn step(&mut self) -> bool {
        let joined = self.feed.joined();
        self.names.extend(joined.iter().map(|info| format!("{}:{}", info.topic, info.number)));
        let mut found = !joined.is_empty();
        for partition in (0..self.names.len()).filter(|p| !self.left_alone.contains(p)) {
            let name = &self.names[partition];
            while let Some(event) = self.feed.poll(partition) {
                found = true;
                let event = match event {
                    PartitionEvent::Records(mut batch) => {
                        let records = self.records.entry(name.clone()).or_default();
                        while let Some(record) = batch.current() {
                            records.push((record.offset, record.bytes.to_vec()));
                            self.appended += usize::from(record.appended_ms.is_some());
                            batch.advance();
                        }
                        continue;
                    }
                    PartitionEvent::AtEnd { next_offset } => format!("at_end {next_offset}"),
                    PartitionEvent::Ended => "ended".to_owned(),
                    PartitionEvent::Unreachable => "unreachable".to_owned(),
                    PartitionEvent::Lost { from, to } => format!("lost {from}..{to}"),
                };
                self.events.entry(name.clone()).or_default().push(event);
            }
        }
        found
    }

    /// Goes on until `done`, sleeping only while the feed has nothing and wakes nobody. Panics after 30 s.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.step();
            if done(self) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = if found { Ok(()) } else { self.woken.recv_timeout(left) };
            assert!(
                !matches!(woken, Err(RecvTimeoutError::Timeout)) && !left.is_zero(),
                "waited 30 s in vain: {what}; read {:?}, told {:?}",
                self.counts(),
                self.events
            );
        }
    }

    /// How many records of each partition were read.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.records.iter().map(|(name, records)| (name.clone(), records.len())).collect()
    }

    /// How many records were read.
    pub fn count(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    /// The offsets read of a partition.
    pub fn offsets(&self, name: &str) -> Vec<u64> {
        self.records.get(name).into_iter().flatten().map(|(offset, _)| *offset).collect()
    }

    /// What was said of a partition besides records.
    pub fn told(&self, name: &str) -> &[String] {
        self.events.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a partition's last word was this.
    pub fn last_told(&self, name: &str) -> Option<&str> {
        self.told(name).last().map(String::as_str)
    }

    /// Whether every partition ended.
    pub fn has_ended(&self) -> bool {
        !self.names.is_empty() && self.names.iter().all(|name| self.last_told(name) == Some("ended"))
    }

    /// Offers a mark.
    pub fn mark(&mut self) -> Option<u64> {
        self.feed.mark(&[]).map(|marks| marks.wall_ms)
    }
}
