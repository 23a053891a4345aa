//! Dead letters kept in an index and in a topic are read back from there, redriven, and accounted for.

use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use serde_json::{Value, json};

use crate::kafka::create_topic;
use crate::process::{Dir, Signal};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

/// Records, and how many of them can be read by another name of the time only: more than a page of the index.
const RECORDS: u64 = 900;
const DEAD: u64 = RECORDS / 2;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("redrive", [Service::Kafka, Service::Elasticsearch8];
        letters_in_an_index_are_redriven,
        letters_in_a_topic_are_redriven,
    )
}

fn letters_in_an_index_are_redriven() {
    redriven("to = \"index\"");
}

fn letters_in_a_topic_are_redriven() {
    let topic = unique("redrive-letters");
    create_topic(&topic, 2, &[]);
    let brokers = Service::Kafka.address();
    redriven(&format!("to = \"topic\"\ntopic = \"{topic}\"\nkafka.brokers = \"{brokers}\""));
}

fn redriven(place: &str) {
    let (topic, prefix, brokers) = (unique("redrive"), unique("redrive"), Service::Kafka.address());
    create_topic(&topic, 2, &[]);
    let producer = KafkaProducer::new(&ProducerConfig { brokers: brokers.clone(), ..ProducerConfig::default() });
    let producer = producer.unwrap();
    for i in 0..RECORDS {
        let name = if i % 2 == 0 { "timestamp" } else { "time" };
        let record = json!({ name: 1_700_000_000_000_u64 + i * 50, "service_name": "a", "message": "m" });
        producer.send(&topic, Some((i / 2 % 2) as i32), None, record.to_string().as_bytes()).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();

    let dir = Dir::new();
    let store = format!("[store.elasticsearch]\nurls = [\"{}\"]\nprefix = \"{prefix}\"\nreplicas = 0\n", {
        Service::Elasticsearch8.address()
    });
    let rest = "[api]\nlisten = \"127.0.0.1:0\"\n[time]\nidle_after = \"1s\"\n";
    let source = format!("[source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\n");
    dir.file("floodmark.toml", &format!("data_dir = \"data\"\n{source}{store}{rest}[dead_letters]\n{place}\n"));
    dir.file("fixed.toml", "[records]\nfields.timestamp = \"time\"\n");
    let mut run = dir.command(&["run"]).start();
    // The log names the cluster too.
    let line = run.expect_line("the API is at http://");
    let (api, url) = (crate::process::Api::at(&line), line[line.find("http://").unwrap()..].trim().to_owned());
    let partitions = |count: usize| {
        let answer = api.get("/audit")?;
        assert_eq!(answer["balanced"], true, "{answer}");
        let all = answer["partitions"].as_array()?.clone();
        let is_done = |p: &Value| p["next_offset"].as_u64() == Some(450) && p["pending"] == 0;
        (all.len() == count && all.iter().all(is_done)).then_some(all)
    };
    eventually("the topic is read, and its letters are written", || partitions(2));
    let listed = dir.command(&["dead-letters", "list", "--json", "--limit", "10000"]).run().expect_code(0).stdout();
    let letter = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let places: std::collections::BTreeSet<(u64, u64)> = listed
        .lines()
        .map(letter)
        .map(|letter| (letter["partition"].as_u64().unwrap(), letter["offset"].as_u64().unwrap()))
        .collect();
    assert_eq!((listed.lines().count() as u64, places.len() as u64), (DEAD, DEAD));

    let redrive = ["dead-letters", "redrive", "--with", "fixed.toml", "--json"];
    let said: Value = serde_json::from_str(&dir.command(&redrive).run().expect_code(0).stdout()).unwrap();
    assert_eq!((&said["letters"], &said["readable"]), (&json!(DEAD), &json!(DEAD)), "{said}");
    let all = eventually("the redrive is read and stored", || partitions(3));
    let of_redrive = all.iter().find(|p| p["topic"] == "__redrive").unwrap();
    assert_eq!((&of_redrive["indexed"], &of_redrive["dead_letters"]), (&json!(DEAD), &json!({})), "{of_redrive}");
    let found = dir.command(&["audit", "--json", "--url", &url]).run().expect_code(0).stdout();
    let found: Value = serde_json::from_str(&found).unwrap();
    for finding in found.as_array().unwrap() {
        let is_redrive = finding["account"]["topic"] == "__redrive";
        let (documents, letters) = if is_redrive { (DEAD, 0) } else { (DEAD / 2, DEAD / 2) };
        assert_eq!(
            (&finding["documents"], &finding["dead_letters"]),
            (&json!(documents), &json!(letters)),
            "{finding}"
        );
    }
    let logs = eventually("documents are found", || {
        api.get("/logs?size=1000").filter(|page| page["total"].as_u64() == Some(RECORDS))
    });
    let documents = logs["logs"].as_array().unwrap();
    let of_redrive: Vec<_> = documents.iter().filter(|document| document["topic"] == "__redrive").collect();
    assert!(of_redrive.iter().all(|document| document["redriven_from"]["topic"] == *topic), "{of_redrive:?}");
    assert_eq!(of_redrive.len() as u64, DEAD);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
}
