//! Dead letters: into an index, through the queue, over failures, to the stub of Elasticsearch; and as a user looks at
//! those in files.

use std::sync::Arc;
use std::time::Duration;

use floodmark::dead_letters::{DeadLettersConfig, Document, Place};
use floodmark::stores::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use floodmark::stores::writer::DeadLetters;
use floodmark::units::Span;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::Reason;
use rdkafka::mocking::MockCluster;

use crate::stub_elasticsearch::{Fault, Stub};
use crate::support::Dir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_reach_their_index_over_failures_and_keep_their_bytes() {
    let stub = Stub::start().await;
    stub.fail_next([Fault::Status(503, "{}"), Fault::Status(429, "{}")]);
    let config = ElasticsearchConfig {
        urls: vec![stub.url.clone()],
        retry_initial_delay: Span::from_millis(1),
        retry_max_delay: Span::from_millis(5),
        ..ElasticsearchConfig::default()
    };
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let config = DeadLettersConfig { to: Place::Index, ..DeadLettersConfig::default() };
    let queue = config.start(dir.path(), 1, store).unwrap();
    let partition = Arc::new(PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number: 1 });
    let raw: [&[u8]; 2] = [b"{\"broken\":", b"\xff\xfe\0"];
    for (offset, raw) in (7..).zip(raw) {
        queue.send(&partition, offset, Reason::Malformed, "expected an object", raw);
    }
    let waiting = queue.clone();
    tokio::task::spawn_blocking(move || waiting.drain(Duration::from_secs(20))).await.unwrap().unwrap();
    let state = stub.state.lock();
    let held: Vec<_> = state.documents.iter().map(|((index, id), (_, document))| (index, id, document)).collect();
    assert_eq!(held.len(), 2);
    for ((index, id, document), (offset, raw)) in held.into_iter().zip((7..).zip(raw)) {
        assert!(index.starts_with("floodmark-dead-letters-20"), "{index}");
        assert_eq!(*id, format!("logs_raw-1-{offset}"));
        let letter: Document<'_> = serde_json::from_value(document.clone()).unwrap();
        assert_eq!((letter.bytes().unwrap(), letter.offset, letter.reason), (raw.to_vec(), offset, Reason::Malformed));
    }
}

const CONFIG: &str = "\
    data_dir = \"data\"\n[source.files]\npaths = [\"in.log\"]\ntopic = \"app\"\n[store.none]\n\
    [api]\nlisten = \"127.0.0.1:0\"\n";

#[test]
fn letters_in_all_files_are_listed_filtered_and_shown_byte_by_byte() {
    let dir = Dir::new();
    dir.file("floodmark.toml", CONFIG);
    let good = "{\"timestamp\":1700000000000,\"service_name\":\"a\",\"level\":\"INFO\",\"message\":\"m\"}";
    let bad: [&[u8]; 4] = [b"{\"broken\":", b"{\"message\":\"no time\"}", b"not json \x1b[2J", b"\xff\xfe{"];
    let mut text = Vec::new();
    let mut offsets = Vec::new();
    for record in bad {
        for line in [good.as_bytes(), record] {
            offsets.push(text.len() as u64);
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    std::fs::write(dir.path().join("in.log"), &text).unwrap();
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    // In one file, the one before it, and again as a crash leaves it.
    let kept = dir.path().join("data/dead-letters.ndjson");
    let written = std::fs::read_to_string(&kept).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 4, "{written}");
    std::fs::write(dir.path().join("data/dead-letters.ndjson.1"), format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    std::fs::write(&kept, format!("{}\n{}\n{}\n", lines[1], lines[2], lines[3])).unwrap();

    let list = |flags: &[&str]| -> Vec<serde_json::Value> {
        let arguments: Vec<_> = ["dead-letters", "list", "--json"].iter().chain(flags).copied().collect();
        let listed = dir.command(&arguments).run().expect_code(0).stdout();
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let offsets_of = |letters: Vec<serde_json::Value>| -> Vec<u64> {
        letters.iter().map(|letter| letter["offset"].as_u64().unwrap()).collect()
    };
    let dead = [offsets[1], offsets[3], offsets[5], offsets[7]];
    assert_eq!(offsets_of(list(&[])), dead);
    assert_eq!(offsets_of(list(&["--limit", "2"])), dead[2..]);
    assert_eq!(offsets_of(list(&["--reason", "missing_timestamp"])), [dead[1]]);
    assert_eq!(offsets_of(list(&["--topic", "other"])), [0; 0]);
    assert_eq!(offsets_of(list(&["--to", "2020-01-01T00:00:00Z"])), [0; 0]);
    let table = dir.command(&["dead-letters", "list"]).run().expect_code(0).stdout();
    assert!(table.contains("not json \\u{1b}[2J") && table.contains("\\xff\\xfe{"), "{table}");

    let show = |offset: u64, flags: &[&str]| {
        let offset = offset.to_string();
        let arguments: Vec<_> = ["dead-letters", "show", "app", "0", &offset].iter().chain(flags).copied().collect();
        dir.command(&arguments).run()
    };
    let shown = show(dead[2], &[]).expect_code(0).stdout();
    assert!(shown.contains("reason     malformed") && shown.contains("bytes      13"), "{shown}");
    assert_eq!(show(dead[2], &["--raw"]).expect_code(0).stdout().as_bytes(), bad[2]);
    let none = show(offsets[0], &[]).expect_code(1).stderr();
    assert!(none.contains("there is no dead letter of app:0 at offset 0"), "{none}");
}

#[test]
fn letters_in_a_topic_are_listed() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs_dead_letters", 2, 1).unwrap();
    let dir = Dir::new();
    let to = format!("[dead_letters]\nto = \"topic\"\nkafka.brokers = \"{}\"\n", cluster.bootstrap_servers());
    dir.file("floodmark.toml", &format!("{CONFIG}{to}"));
    dir.file("in.log", "{\"broken\":\n{\"message\":\"no time\"}\nnot json\n");
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    let list = |flags: &[&str]| {
        let arguments: Vec<_> = ["dead-letters", "list", "--json"].iter().chain(flags).copied().collect();
        dir.command(&arguments).run().expect_code(0).stdout()
    };
    let reasons: Vec<String> = list(&[])
        .lines()
        .map(|line| serde_json::from_str::<Document<'_>>(line).unwrap().reason.name().to_owned())
        .collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "malformed").count(), 2, "{reasons:?}");
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(list(&["--reason", "missing_timestamp"]).contains("no time"));
    // A topic that is not there yet has none.
    assert_eq!(list(&["--set", "dead_letters.topic=other"]), "");
}
