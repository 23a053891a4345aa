//! Whole runs as processes: the same results for any number of workers and processes, and replays that touch nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use floodmark::units::Span;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::corpus::{Outcome, Partitions, VIEWS, assert_same, partitions};
use crate::support::{Dir, Signal, eventually};

/// Positions of the lines of a file.
fn with_positions(records: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let mut at = 0;
    let place = |record: &Vec<u8>| {
        let start = at;
        at += record.len() as u64 + 1;
        (start, record.clone())
    };
    records.iter().map(place).collect()
}

fn write_files(dir: &Dir, partitions: &Partitions) {
    for (number, records) in partitions.iter().enumerate() {
        let mut text = records.join(&b'\n');
        text.push(b'\n');
        std::fs::write(dir.path().join(format!("in-{number}.log")), text).unwrap();
    }
}

/// Settings that put everything a run writes into a folder.
fn into_folder(folder: &str) -> Vec<String> {
    let settings = [
        format!("data_dir={folder}"),
        format!("store.ndjson.logs={folder}/logs.ndjson"),
        format!("store.ndjson.windows={folder}/windows.ndjson"),
    ];
    settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

#[test]
fn any_number_of_workers_and_processes_ends_with_what_the_reference_says() {
    let dir = Dir::new();
    let partitions = partitions(6_500);
    write_files(&dir, &partitions);
    let head = "[source.files]\npaths = [\"in-*.log\"]\n[store.ndjson]\n[api]\nlisten = \"127.0.0.1:0\"\n";
    let config = dir.file("floodmark.toml", &format!("{head}{VIEWS}"));
    let placed: Vec<_> = partitions.iter().map(|records| with_positions(records)).collect();
    let expected = Outcome::expected(&config, "files", &placed);
    assert_eq!(expected.documents.len() + expected.dead.len(), 3 * 6_500);
    let late = expected.windows.values().filter(|window| !window.contains(r#""revision":0"#)).count();
    assert!(late > 100 && expected.dead.len() > 100, "{late} corrected windows, {} dead", expected.dead.len());

    let start = |folder: &str, flags: &[&str]| {
        let settings = into_folder(folder);
        let arguments: Vec<_> = ["run", "--until-end"].into_iter().chain(flags.iter().copied()).collect();
        let arguments: Vec<_> = arguments.into_iter().chain(settings.iter().map(String::as_str)).collect();
        dir.command(&arguments).start()
    };
    for workers in ["1", "2", "4"] {
        let folder = format!("workers-{workers}");
        start(&folder, &["-w", workers]).wait().expect_code(0);
        let run = format!("{workers} workers");
        Outcome::read(&[&dir.path().join(folder)]).assert_is(&expected, &run);
    }

    let hosts: String = free_ports::<2>().iter().map(|port| format!("127.0.0.1:{port}\n")).collect();
    dir.file("hosts", &hosts);
    let flags = |process| ["-n", "2", "-p", process, "-h", "hosts", "-w", "2", "--set", "api.enabled=false"];
    let [first, second] = ["0", "1"].map(|process| start("processes", &flags(process)));
    first.wait().expect_code(0);
    second.wait().expect_code(0);
    let folder = dir.path().join("processes");
    Outcome::read(&[&folder]).assert_is(&expected, "two processes");
    for name in ["windows-0.ndjson", "windows-1.ndjson"] {
        assert!(folder.join(name).metadata().unwrap().len() > 0, "{name} is empty");
    }
}

/// Every file below a folder, with its contents.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn committed(brokers: &str, group: &str, topic: &str) -> Vec<Offset> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, 2);
    let list = consumer.committed_offsets(list, Duration::from_secs(20)).unwrap();
    list.elements().iter().map(|element| element.offset()).collect()
}

#[test]
fn a_replay_of_a_topic_gives_the_same_again_and_leaves_the_live_run_alone() {
    let dir = Dir::new();
    let partitions = partitions(2_000);
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", 3, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let linger = Span::from_millis(1);
    let producer = ProducerConfig { brokers: brokers.clone(), linger, ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&producer).unwrap();
    for (number, records) in (0..).zip(&partitions) {
        records.iter().for_each(|record| producer.send("logs", Some(number), None, record).unwrap());
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let head = format!(
        "data_dir = \"live\"\n\
         [source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"logs\"]\ngroup_id = \"live\"\n\
         [store.embedded]\n[api]\nlisten = \"127.0.0.1:0\"\n[time]\nidle_after = \"500ms\"\n"
    );
    let config = dir.file("floodmark.toml", &format!("{head}{VIEWS}"));
    let ranges: Vec<_> = [300..1_700, 0..0, 500..2_000]
        .into_iter()
        .zip(&partitions)
        .map(|(range, records)| range.map(|at| (at as u64, records[at].clone())).collect())
        .collect();
    let expected = Outcome::expected(&config, "logs", &ranges);
    let replay = |folder: &str| {
        let range = "logs:0=300..1700,logs:2=500..";
        dir.command(&["run", "--from", range, "--out", folder, "-w", "2"]).run().expect_code(0);
        Outcome::read(&[&dir.path().join(folder)]).assert_is(&expected, folder);
    };

    let mut live = dir.command(&["run"]).start();
    let api = live.api();
    let all = partitions.iter().zip(0..).map(|(records, _)| records.len()).sum::<usize>();
    let everything: Vec<Vec<_>> = partitions
        .iter()
        .map(|records| (0..).zip(records).map(|(at, record)| (at, record.clone())).collect())
        .collect();
    let everything = Outcome::expected(&config, "logs", &everything);
    assert_eq!(everything.documents.len() + everything.dead.len(), all);
    let found = || api.get("/logs?size=1")?["total"].as_u64();
    eventually("all documents can be found", || found().filter(|&total| total == everything.documents.len() as u64));
    replay("beside-the-live-run");
    assert_eq!(found(), Some(everything.documents.len() as u64));
    live.signal(Signal::Terminate);
    live.wait().expect_code(0);

    let positions = committed(&brokers, "live", "logs");
    // All that is stored: what lag tools should see after a clean stop.
    assert_eq!(positions, [Offset::Offset(2_000); 3]);
    let before = contents(&dir.path().join("live"));
    assert!(before.keys().any(|path| path.ends_with("generation")) && before.len() > 5, "{:?}", before.keys());
    replay("after-the-live-run");
    assert_same("a replay", "file", &contents(&dir.path().join("live")), &before);
    assert_eq!(committed(&brokers, "live", "logs"), positions);
}

#[test]
fn a_replay_of_a_file_reads_exactly_its_lines() {
    let dir = Dir::new();
    let partitions = partitions(500);
    write_files(&dir, &partitions);
    let head = "data_dir = \"live\"\n[source.files]\npaths = [\"in-*.log\"]\n\
                [store.ndjson]\nlogs = \"live/logs.ndjson\"\nwindows = \"live/windows.ndjson\"\n";
    let config = dir.file("floodmark.toml", &format!("{head}{VIEWS}"));
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    let before = contents(&dir.path().join("live"));

    let records = with_positions(&partitions[1]);
    let (first, end) = (records[100].0, records[400].0);
    let expected = Outcome::expected(&config, "files", &[Vec::new(), records[100..400].to_vec()]);
    let range = format!("in-1.log={first}..{end}");
    dir.command(&["run", "--from", &range, "--out", "replayed"]).run().expect_code(0);
    Outcome::read(&[&dir.path().join("replayed")]).assert_is(&expected, "the replay");
    assert_same("the replay", "file", &contents(&dir.path().join("live")), &before);

    // What is there already is not written over, whoever's it is.
    for (folder, file) in [("live", "live/logs.ndjson"), ("replayed", "replayed/logs.ndjson")] {
        let refused = dir.command(&["run", "--from", &range, "--out", folder]).run().expect_code(2);
        assert!(refused.stderr().contains(&format!("--out: {file} is there already")), "{}", refused.stderr());
    }
    assert_same("a refused replay", "file", &contents(&dir.path().join("live")), &before);
    let refused = dir.command(&["run", "--from", &range, "--prefix", ""]).run().expect_code(2);
    assert!(refused.stderr().contains("--prefix: expected some text"), "{}", refused.stderr());
}

#[test]
fn files_that_are_not_appended_to_are_emptied_only_at_a_beginning() {
    let dir = Dir::new();
    let config = "[source.files]\npaths = [\"in.log\"]\n[api]\nlisten = \"127.0.0.1:0\"\n\
                  [store.ndjson]\nappend = false\n";
    dir.file("floodmark.toml", config);
    let line = |second: u64| format!("{{\"timestamp\":{},\"message\":\"m\"}}\n", 1_700_000_000_000 + second * 1_000);
    let mut log = String::new();
    // In the end there is a checkpoint, which the second start goes on from, and the third does not.
    for (to, arguments) in [(10, &["run"][..]), (20, &["run"]), (30, &["run", "--fresh"])] {
        log.extend((to - 10..to).map(line));
        dir.file("in.log", &log);
        let mut run = dir.command(arguments).start();
        let api = run.api();
        eventually("all is read", || (api.get("/logs/stats")?["total_logs"] == to).then_some(()));
        run.signal(Signal::Terminate);
        run.wait().expect_code(0);
        let stored = std::fs::read_to_string(dir.path().join("logs.ndjson")).unwrap();
        assert_eq!(stored.lines().count() as u64, to);
    }
}

#[test]
fn a_data_directory_has_one_run_at_a_time() {
    let dir = Dir::new();
    write_files(&dir, &partitions(200));
    let config = "[source.files]\npaths = [\"in-*.log\"]\n[store.ndjson]\n[api]\nlisten = \"127.0.0.1:0\"\n";
    dir.file("floodmark.toml", config);
    let mut first = dir.command(&["run"]).start();
    let api = first.api();
    eventually("it has begun", || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&total| total > 0));
    let generation = || std::fs::read_to_string(dir.path().join("floodmark-data/generation")).unwrap();
    let before = generation();
    let refused = dir.command(&["run", "--fresh"]).run().expect_code(2);
    assert!(refused.stderr().contains("data_dir floodmark-data is in use by another run"), "{}", refused.stderr());
    assert_eq!(generation(), before, "nothing was touched");
    first.signal(Signal::Terminate);
    first.wait().expect_code(0);
    dir.command(&["run", "--until-end"]).run().expect_code(0);
}
