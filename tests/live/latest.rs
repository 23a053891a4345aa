//! A run that begins at the end of a topic: nothing between its first look and its first fetch is missed, nor what comes to
//! partitions that are made later.

use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use serde_json::{Value, json};

use crate::kafka::{add_partitions, create_topic};
use crate::process::{Api, Dir, Running, Signal};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("latest", [Service::Kafka]; what_comes_after_the_first_look_is_read_once)
}

fn append(topic: &str, partition: i32, count: u64) {
    let config = ProducerConfig { brokers: Service::Kafka.address(), ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&config).unwrap();
    for n in 0..count {
        let record = json!({ "timestamp": 1_700_000_000_000_u64 + n, "service_name": "a", "message": "m" });
        producer.send(topic, Some(partition), None, record.to_string().as_bytes()).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// Where each partition's account begins and ends, once that is so.
fn read(api: &Api, wanted: &[(u64, u64)]) {
    let mut last = Value::Null;
    let what = format!("{wanted:?} is read");
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&what, || {
            last = api.get("/audit")?;
            let accounts = last["partitions"].as_array()?;
            let found: Option<Vec<(u64, u64)>> =
                accounts.iter().map(|p| Some((p["first_offset"].as_u64()?, p["next_offset"].as_u64()?))).collect();
            (found.as_deref() == Some(wanted) && last["pending"] == 0).then_some(())
        });
    }));
    assert!(done.is_ok(), "{last}");
}

fn what_comes_after_the_first_look_is_read_once() {
    let (topic, dir) = (unique("latest"), Dir::new());
    create_topic(&topic, 2, &[]);
    (0..2).for_each(|partition| append(&topic, partition, 100));
    let brokers = Service::Kafka.address();
    dir.file(
        "floodmark.toml",
        &format!(
            "data_dir = \"data\"\n[source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\n\
             start = \"latest\"\ndiscover_interval = \"1s\"\n[store.ndjson]\n[checkpoint]\nevery = \"1h\"\n\
             [time]\nidle_after = \"500ms\"\n[api]\nlisten = \"127.0.0.1:0\"\n"
        ),
    );
    let start = |dir: &Dir| -> (Running, Api) {
        let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
        let api = Api::at(&run.expect_line("the API is at"));
        (run, api)
    };
    // The API is there once the offsets are settled, and before anything is fetched.
    let (run, api) = start(&dir);
    (0..2).for_each(|partition| append(&topic, partition, 50));
    read(&api, &[(100, 150), (100, 150)]);
    // Records are in the new partition before anybody has looked.
    add_partitions(&topic, 3);
    append(&topic, 2, 30);
    read(&api, &[(100, 150), (100, 150), (0, 30)]);
    run.signal(Signal::Kill);
    run.wait();

    // No checkpoint was made: where the partitions began was recorded, and the end is another one by now.
    (0..3).for_each(|partition| append(&topic, partition, 5));
    let (run, api) = start(&dir);
    read(&api, &[(100, 155), (100, 155), (0, 35)]);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
}
