//! `floodmark audit` of a run between a real broker and a real cluster: what somebody deleted is named, and what the
//! retention removed is said to be that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use elasticsearch::http::Method;
use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use serde_json::{Value, json};

use crate::engine::Indices;
use crate::kafka::create_topic;
use crate::process::{Api, Dir, Ran, Running, Signal};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

const DAY_MS: u64 = 86_400_000;
/// Records in each of two partitions, over three days; every hundredth cannot be read.
const EACH: u64 = 3_000;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    let mut all = tests!("audit", [Service::Kafka, Service::Elasticsearch8]; gaps_of_es8_are_named);
    all.extend(tests!("audit", [Service::Kafka, Service::Elasticsearch7]; gaps_of_es7_are_named));
    all.extend(tests!("audit", [Service::Kafka, Service::OpenSearch2]; gaps_of_os2_are_named));
    all
}

fn gaps_of_es8_are_named() {
    gaps_are_named(Service::Elasticsearch8);
}

fn gaps_of_es7_are_named() {
    gaps_are_named(Service::Elasticsearch7);
}

fn gaps_of_os2_are_named() {
    gaps_are_named(Service::OpenSearch2);
}

fn config(topic: &str, service: Service, prefix: &str, more: &str) -> String {
    let (brokers, url) = (Service::Kafka.address(), service.address());
    format!(
        "data_dir = \"data\"\n[source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\n\
         [store.elasticsearch]\nurls = [\"{url}\"]\nprefix = \"{prefix}\"\nreplicas = 0\n{more}\n\
         [time]\nidle_after = \"500ms\"\n[checkpoint]\nevery = \"500ms\"\n[api]\nlisten = \"127.0.0.1:0\"\n"
    )
}

/// Starts a run, and waits until everything is read, stored and in a checkpoint: the next one reads nothing again.
fn start(dir: &Dir) -> (Running, String) {
    let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
    let api = Api::at(&run.expect_line("the API is at http://"));
    eventually("all is read and stored", || {
        let answer = api.get("/audit")?;
        assert_eq!(answer["balanced"], true, "{answer}");
        let all = answer["partitions"].as_array()?.clone();
        let is_done = |p: &Value| p["next_offset"].as_u64() == Some(EACH) && p["pending"] == 0;
        (all.len() == 2 && all.iter().all(is_done)).then_some(())
    });
    let number = || {
        let health = api.any("/health")?;
        let check = health["checks"].as_array()?.iter().find(|check| check["name"] == "checkpoints")?.clone();
        check["detail"].as_str()?.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let first = eventually("a checkpoint", number);
    // One that was begun before may end now; the second is behind it.
    eventually("two more checkpoints", || number().filter(|now| *now >= first + 2));
    (run, format!("http://{}", api.address()))
}

fn audit(dir: &Dir, url: &str, more: &[&str]) -> Ran {
    dir.command(&[&["audit", "-c", "floodmark.toml", "--url", url], more].concat()).run()
}

/// The verdict, the documents and the gaps of each partition.
fn findings(ran: &Ran) -> Vec<(String, u64, Value)> {
    let found: Vec<Value> = serde_json::from_str(&ran.stdout()).unwrap();
    let finding =
        |f: &Value| (f["verdict"].as_str().unwrap().to_owned(), f["documents"].as_u64().unwrap(), f["gaps"].clone());
    found.iter().map(finding).collect()
}

/// The record at an offset: minutes apart, and every other one some minutes older than the one before.
fn time_of(zero_ms: u64, offset: u64) -> u64 {
    let disorder = if offset % 2 == 1 { 300_000 } else { 0 };
    (zero_ms + offset * 3 * DAY_MS / EACH).saturating_sub(disorder).max(zero_ms)
}

fn gaps_are_named(service: Service) {
    let (indices, dir, topic) = (Indices::at(service, "audit"), Dir::new(), unique("audit"));
    create_topic(&topic, 2, &[]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let zero_ms = now / DAY_MS * DAY_MS - 3 * DAY_MS;
    let brokers = ProducerConfig { brokers: Service::Kafka.address(), ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&brokers).unwrap();
    for offset in 0..EACH {
        let record = json!({ "timestamp": time_of(zero_ms, offset), "service_name": "a", "message": "m" }).to_string();
        let record = if offset % 100 == 50 { "unreadable" } else { &record };
        (0..2).for_each(|partition| producer.send(&topic, Some(partition), None, record.as_bytes()).unwrap());
    }
    producer.flush(Duration::from_secs(20)).unwrap();

    dir.file("floodmark.toml", &config(&topic, service, &indices.prefix, ""));
    let (run, url) = start(&dir);
    let whole = EACH - EACH / 100;
    let none = json!([]);
    let adds_up = findings(&audit(&dir, &url, &["--json"]).expect_code(0));
    assert_eq!(adds_up, vec![("adds_up".to_owned(), whole, none.clone()); 2]);

    // Somebody deletes two documents.
    let missing = [(0, 2_634_u64), (1, 17)];
    let deleted = missing.map(|(partition, offset)| {
        let query = json!({ "query": { "bool": { "filter": [
            { "term": { "partition": partition } }, { "term": { "offset": offset } },
        ] } } });
        let path = format!("/{}-logs-*/_search", indices.prefix);
        let hit = indices.send(Method::Post, &path, Some(&query.to_string()))["hits"]["hits"][0].clone();
        let id = hit["_id"].as_str().unwrap().replace('@', "%40").replace('/', "%2F").replace('+', "%2B");
        let path = format!("/{}/_doc/{id}", hit["_index"].as_str().unwrap());
        let answer = indices.send(Method::Delete, &path, None);
        assert_eq!(answer["result"], "deleted", "{path}: {answer}");
        (path, hit["_source"].to_string())
    });
    let gap = |offset: u64| json!([{ "start": offset, "end": offset + 1 }]);
    let named = findings(&audit(&dir, &url, &["--json"]).expect_code(1));
    let expected = missing.map(|(_, offset)| ("does_not_add_up".to_owned(), whole - 1, gap(offset)));
    assert_eq!(named, expected);
    let text = audit(&dir, &url, &[]).expect_code(1);
    for (partition, offset) in missing {
        let line = format!("{topic}:{partition}: no document of offset {offset}\n");
        assert!(text.stdout().contains(&line), "{}", text.stdout());
    }
    assert!(text.stderr().contains("2 of 2 partitions do not add up"), "{}", text.stderr());
    for (path, source) in &deleted {
        assert_eq!(indices.send(Method::Put, path, Some(source))["result"], "created");
    }
    audit(&dir, &url, &[]).expect_code(0);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);

    // The first day is too old now; its last records came between those of the second.
    dir.file("floodmark.toml", &config(&topic, service, &indices.prefix, "retention_days = 2"));
    let (run, url) = start(&dir);
    let first_day = |offset: &u64| time_of(zero_ms, *offset) < zero_ms + DAY_MS && offset % 100 != 50;
    let removed = (0..EACH).filter(first_day).count() as u64;
    let count = format!("/{}-logs-*/_count", indices.prefix);
    let gone = || (indices.send(Method::Get, &count, None)["count"] == 2 * (whole - removed)).then_some(());
    eventually("the index of the first day is gone", gone);
    let found = findings(&audit(&dir, &url, &["--json"]).expect_code(0));
    for (verdict, documents, gaps) in &found {
        assert_eq!((verdict.as_str(), *documents), ("adds_up_with_retention", whole - removed), "{gaps}");
        let ranges = gaps.as_array().unwrap().iter();
        let named = ranges.map(|gap| gap["end"].as_u64().unwrap() - gap["start"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(named, removed);
    }
    let text = audit(&dir, &url, &[]).expect_code(0).stdout();
    assert!(text.contains("adds up, with what the retention removed"), "{text}");
    // What is missing beyond that is still found.
    assert_eq!(indices.send(Method::Delete, &deleted[0].0, None)["result"], "deleted");
    let found = findings(&audit(&dir, &url, &["--json"]).expect_code(1));
    assert_eq!([&*found[0].0, &*found[1].0], ["does_not_add_up", "adds_up_with_retention"]);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
}
