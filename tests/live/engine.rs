//! Whole runs as processes between a real broker and a real cluster: everything arrives, once, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use elasticsearch::http::{Method, Url};
use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::corpus::{Outcome, Partitions, VIEWS, assert_same, partitions, record_place, window_place};
use crate::kafka::create_topic;
use crate::process::{Api, Dir, Signal};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

/// Records in each of three partitions.
const EACH: usize = 6_500;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("engine", [Service::Kafka, Service::Elasticsearch8];
        everything_goes_from_the_topic_to_the_indices_once,
    )
}

/// The cluster, and indices with a prefix of their own, deleted at the end.
pub struct Indices {
    transport: Transport,
    pub prefix: String,
    runtime: tokio::runtime::Runtime,
}

impl Indices {
    pub fn new(prefix: &str) -> Self {
        Self::at(Service::Elasticsearch8, prefix)
    }

    pub fn at(service: Service, prefix: &str) -> Self {
        let url = Url::parse(&service.address()).unwrap();
        let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy().build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { transport, prefix: unique(prefix), runtime }
    }

    pub fn send(&self, method: Method, path: &str, body: Option<&str>) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        self.runtime.block_on(async {
            let answer = self.transport.send(method, path, headers, None::<&()>, body, None).await;
            answer.unwrap().json().await.unwrap()
        })
    }

    /// Those of a replay with a prefix of its own.
    fn of_replay(&self) -> Self {
        let mut indices = Self::new("");
        indices.prefix = format!("replay-{}", self.prefix);
        indices
    }

    /// The windows, without what the topic is known by: only the broker knows.
    fn windows(&self) -> BTreeMap<(String, String, u64), Value> {
        let without_identity = |mut window: Value| {
            let ranges = window.pointer_mut("/score/offsets").and_then(Value::as_array_mut);
            for range in ranges.into_iter().flatten() {
                range.as_object_mut().unwrap().remove("identity").expect("an identity");
            }
            (window_place(&window), window)
        };
        self.all("windows").into_iter().map(without_identity).collect()
    }

    /// Every document of a kind (`logs`, `windows`, `dead-letters`, `alerts`).
    pub fn all(&self, kind: &str) -> Vec<Value> {
        self.send(Method::Post, &format!("/{}-{kind}*/_refresh", self.prefix), None);
        let mut answer = self.send(
            Method::Post,
            &format!("/{}-{kind}*/_search?scroll=1m", self.prefix),
            Some(r#"{"size":10000,"sort":["_doc"]}"#),
        );
        let mut found = Vec::new();
        loop {
            let hits = answer["hits"]["hits"].as_array().unwrap();
            if hits.is_empty() {
                return found;
            }
            found.extend(hits.iter().map(|hit| hit["_source"].clone()));
            let scroll = serde_json::json!({ "scroll": "1m", "scroll_id": answer["_scroll_id"] }).to_string();
            answer = self.send(Method::Post, "/_search/scroll", Some(&scroll));
        }
    }

    /// Fails unless the indices hold exactly these log documents.
    fn assert_documents(&self, run: &str, expected: &Outcome) {
        let found = self.all("logs");
        assert_eq!(found.len(), expected.documents.len(), "{run}: documents in the indices");
        let found: BTreeMap<_, _> = found.into_iter().map(|document| (record_place(&document), document)).collect();
        assert_same(run, "document", &found, &parsed(&expected.documents));
    }
}

impl Drop for Indices {
    fn drop(&mut self) {
        let indices =
            self.send(Method::Get, &format!("/{}-*/_settings?filter_path=*.settings.index.uuid", self.prefix), None);
        for index in indices.as_object().into_iter().flatten().map(|(name, _)| name) {
            self.send(Method::Delete, &format!("/{index}"), None);
        }
        for kind in ["logs", "windows", "dead-letters", "alerts"] {
            self.send(Method::Delete, &format!("/_index_template/{}-{kind}", self.prefix), None);
        }
    }
}

fn parsed<K: Ord + Clone>(lines: &BTreeMap<K, String>) -> BTreeMap<K, Value> {
    lines.iter().map(|(place, line)| (place.clone(), serde_json::from_str(line).unwrap())).collect()
}

fn produce(topic: &str, partitions: &Partitions) {
    let config = ProducerConfig { brokers: Service::Kafka.address(), ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&config).unwrap();
    for (number, records) in (0..).zip(partitions) {
        records.iter().for_each(|record| producer.send(topic, Some(number), None, record).unwrap());
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn committed(group: &str, topic: &str) -> Vec<Offset> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", Service::Kafka.address()).set("group.id", group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, 2);
    let list = consumer.committed_offsets(list, Duration::from_secs(20)).unwrap();
    list.elements().iter().map(|element| element.offset()).collect()
}

fn config(topic: &str, indices: &Indices) -> String {
    let (brokers, url, prefix) = (Service::Kafka.address(), Service::Elasticsearch8.address(), &indices.prefix);
    format!(
        "data_dir = \"{prefix}\"\n\
         [source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup_id = \"{prefix}\"\n\
         [store.elasticsearch]\nurls = [\"{url}\"]\nprefix = \"{prefix}\"\nreplicas = 0\n\
         [time]\nidle_after = \"500ms\"\n\
         [api]\nlisten = \"127.0.0.1:0\"\n{VIEWS}"
    )
}

fn everything_goes_from_the_topic_to_the_indices_once() {
    let dir = Dir::new();
    let (topic, partitions) = (unique("floodmark"), partitions(EACH));
    create_topic(&topic, 3, &[]);
    produce(&topic, &partitions);
    let offsets = [Offset::Offset(EACH as i64); 3];

    let bounded = Indices::new("bounded");
    let file = dir.file("bounded.toml", &config(&topic, &bounded));
    let numbered = |records: &Vec<Vec<u8>>| -> Vec<_> { (0..).zip(records.iter().cloned()).collect() };
    let placed: Vec<_> = partitions.iter().map(numbered).collect();
    let expected = Outcome::expected(&file, &topic, &placed);
    assert_eq!(expected.documents.len() + expected.dead.len(), 3 * EACH);
    dir.command(&["run", "-c", "bounded.toml", "--until-end", "-w", "2"]).run().expect_code(0);
    bounded.assert_documents("until the end", &expected);
    assert_same("until the end", "window", &bounded.windows(), &parsed(&expected.windows));
    let dead = Outcome::read(&[&dir.path().join(&bounded.prefix)]).dead;
    assert_same("until the end", "dead letter", &dead, &expected.dead);
    assert_eq!(committed(&bounded.prefix, &topic), offsets);

    let range = format!("{topic}:0=100..1100,{topic}:1=3000..3500");
    dir.command(&["run", "-c", "bounded.toml", "--from", &range, "--prefix", "replay-"]).run().expect_code(0);
    let ranges = [placed[0][100..1_100].to_vec(), placed[1][3_000..3_500].to_vec()];
    let replayed = Outcome::expected(&file, &topic, &ranges);
    let indices = bounded.of_replay();
    indices.assert_documents("the replay", &replayed);
    assert_same("the replay", "window", &indices.windows(), &parsed(&replayed.windows));
    assert_eq!(indices.all("dead-letters").len(), replayed.dead.len());
    bounded.assert_documents("after the replay", &expected);
    let after = Outcome::read(&[&dir.path().join(&bounded.prefix)]).dead;
    assert_same("after the replay", "dead letter", &after, &expected.dead);
    assert_eq!(committed(&bounded.prefix, &topic), offsets);

    let live = Indices::new("unbounded");
    dir.file("live.toml", &config(&topic, &live));
    let mut run = dir.command(&["run", "-c", "live.toml", "-w", "2"]).start();
    let api = Api::at(&run.expect_line("the API is at"));
    let count = expected.documents.len() as u64;
    eventually("all records are counted", || (api.get("/logs/stats")?["total_logs"] == count).then_some(()));
    eventually("all records can be found", || (api.get("/logs?size=1")?["total"] == count).then_some(()));
    let documents = parsed(&expected.documents);
    for (query, field, value) in [
        ("service_name=service-2", "service_name", Value::from("service-2")),
        ("level=error", "level", "ERROR".into()),
        ("status_code=404", "status_code", 404.into()),
        ("anomaly=true", "anomaly", true.into()),
    ] {
        let matching = documents.values().filter(|document| document[field] == value).count();
        let found = api.get(&format!("/logs?size=1&{query}")).unwrap();
        assert_eq!(found["total"], matching, "{query}");
    }
    let found = api.get("/logs?q=request+17+of+partition+2&service_name=service-0").map(|page| page["total"].clone());
    let wanted = |document: &&Value| {
        let message = document["message"].as_str().unwrap();
        let has_all = ["request", "17", "of", "partition", "2"].iter().all(|w| message.split(' ').any(|m| m == *w));
        has_all && document["service_name"] == "service-0"
    };
    assert_eq!(found, Some(documents.values().filter(wanted).count().into()));

    // What comes while it stops is either read or left for the next run; here all of it is counted first.
    let more: Partitions = partitions.iter().map(|records| records[..500].to_vec()).collect();
    produce(&topic, &more);
    let all: Vec<_> =
        partitions.iter().zip(&more).map(|(first, more)| numbered(&[first.clone(), more.clone()].concat())).collect();
    let all = Outcome::expected(&file, &topic, &all);
    let count = all.documents.len() as u64;
    eventually("the new records are counted", || (api.get("/logs/stats")?["total_logs"] == count).then_some(()));
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    live.assert_documents("the live run", &all);
    assert_eq!(committed(&live.prefix, &topic), [Offset::Offset(EACH as i64 + 500); 3]);
}
