//! Kafka failing under whole runs as processes: what each fault does to the documents, the audit and the health.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use floodmark::units::Span;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;

use crate::kafka::{create_topic, delete_before, delete_topic};
use crate::process::{Api, Dir, Running, Signal, eventually};
use crate::support::{Service, Test, unique};
use crate::tests;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("faults", [Service::Kafka];
        a_broker_killed_and_started_again_costs_nothing,
        a_partition_without_a_leader_holds_back_nothing_but_time,
        a_broker_that_is_away_is_not_silence,
        removed_records_are_lost_aloud_and_the_run_goes_on,
        a_topic_made_again_under_a_run_and_between_runs_repeats_and_skips_nothing,
    )
}

/// Appends records `from..to` to a partition.
fn append(brokers: &str, topic: &str, partition: i32, numbers: std::ops::Range<u64>) {
    let linger = Span::from_millis(1);
    let config = ProducerConfig { brokers: brokers.to_owned(), linger, ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&config).unwrap();
    for n in numbers {
        let ms = 1_700_000_000_000 + 10 * n;
        let record =
            format!("{{\"timestamp\":{ms},\"service_name\":\"a\",\"level\":\"INFO\",\"message\":\"record {n}\"}}");
        producer.send(topic, Some(partition), None, record.as_bytes()).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn config(dir: &Dir, brokers: &str, topic: &str) {
    dir.file(
        "floodmark.toml",
        &format!(
            "data_dir = \"data\"\n[source.kafka]\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup_id = \"{topic}\"\n\
             [store.ndjson]\nlogs = \"logs.ndjson\"\nwindows = \"windows.ndjson\"\n\
             [checkpoint]\nevery = \"500ms\"\n[time]\nidle_after = \"500ms\"\n[api]\nlisten = \"127.0.0.1:0\"\n"
        ),
    );
}

fn start(dir: &Dir) -> (Running, Api) {
    let mut run = dir.command(&["run"]).start();
    let api = Api::at(&run.expect_line("the API is at"));
    (run, api)
}

/// Waits until so many records are counted over all, and stored.
fn counted(api: &Api, records: u64) -> Value {
    eventually("the records are counted", || (api.get("/logs/stats")?["total_logs"] == records).then_some(()));
    eventually("they are accounted for", || {
        let audit = api.get("/audit")?;
        (audit["balanced"] == true && audit["pending"] == 0).then_some(audit)
    })
}

fn check(api: &Api, name: &str) -> Option<(bool, String)> {
    let checks = api.any("/health")?["checks"].as_array()?.clone();
    let check = checks.into_iter().find(|check| check["name"] == name)?;
    Some((check["ok"].as_bool()?, check["detail"].as_str()?.to_owned()))
}

/// Partition, offset and message of every document; one may be in the file twice after a restart, but not two.
fn documents(dir: &Dir) -> Vec<(u64, u64, String)> {
    let text = std::fs::read_to_string(dir.path().join("logs.ndjson")).unwrap();
    let documents = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let place = |document: Value| {
        let message = document["message"].as_str().unwrap().to_owned();
        (document["partition"].as_u64().unwrap(), document["offset"].as_u64().unwrap(), message)
    };
    documents.map(place).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The documents of records `record N` at offset N.
fn plain(partition: u64, offsets: std::ops::Range<u64>) -> Vec<(u64, u64, String)> {
    offsets.map(|n| (partition, n, format!("record {n}"))).collect()
}

/// A broker of its own, with data that outlives its process.
struct Broker {
    state: tempfile::TempDir,
    address: String,
    command: Vec<String>,
    again: Option<Child>,
}

impl Broker {
    fn script(state: &std::path::Path, action: &str) -> String {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let output = Command::new(script).args([action, "kafka"]).env("SERVICES_DIR", state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let lines = Self::script(state.path(), "up");
        let value = |name: &str| {
            let (_, rest) = lines.split_once(&format!("{name}=")).expect(name);
            rest.lines().next().unwrap().to_owned()
        };
        let process = value("FLOODMARK_TEST_KAFKA_PID");
        let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
        let command = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let command = command.map(|word| String::from_utf8(word.to_vec()).unwrap()).collect();
        Self { address: value("FLOODMARK_TEST_KAFKA"), command, state, again: None }
    }

    fn kill(&mut self) {
        match &mut self.again {
            Some(child) => child.kill().and_then(|()| child.wait().map(drop)).unwrap(),
            None => {
                let process = std::fs::read_to_string(self.state.path().join("kafka/pid")).unwrap();
                assert!(Command::new("kill").args(["-KILL", process.trim()]).status().unwrap().success());
            }
        }
    }

    fn start_again(&mut self) {
        self.again = Some(spawn(&self.command));
    }
}

/// Starts a broker by its command line.
fn spawn(command: &[String]) -> Child {
    let mut start = Command::new(&command[0]);
    start.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start.spawn().unwrap()
}

/// A second broker of a cluster, with data that outlives its process.
struct Second {
    command: Vec<String>,
    child: Child,
    _state: tempfile::TempDir,
}

impl Second {
    /// Joins the cluster of a broker as node 2, and waits until it is known there.
    fn join(first: &Broker) -> Self {
        let home = first.state.path().join("kafka");
        let state = tempfile::tempdir().unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let of_first = read(home.join("server.properties"));
        let lines = of_first.lines().filter(|line| {
            let own = ["process.roles", "node.id", "listeners", "advertised.listeners", "log.dirs"];
            !own.contains(&line.split('=').next().unwrap())
        });
        let own = format!(
            "process.roles=broker\nnode.id=2\nlisteners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\n",
            state.path().join("data").display()
        );
        let properties = state.path().join("server.properties");
        std::fs::write(&properties, own + &lines.collect::<Vec<_>>().join("\n")).unwrap();
        let cluster = read(home.join("data/meta.properties"));
        let cluster = cluster.lines().find_map(|line| line.strip_prefix("cluster.id=")).unwrap().to_owned();
        let mut command = first.command.clone();
        *command.last_mut().unwrap() = properties.to_str().unwrap().to_owned();
        let place = command.iter().position(|word| word == "kafka.Kafka").unwrap();
        let mut format = Command::new(&command[0]);
        format.args(&command[1..place]).args(["kafka.tools.StorageTool", "format", "-t", &cluster, "-c"]);
        let formatted = format.arg(&properties).output().unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        Self { child: spawn(&command), command, _state: state }
    }

    fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait().map(drop)).unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.command);
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.again {
            let _ = child.kill();
            let _ = child.wait();
        }
        Self::script(self.state.path(), "down");
    }
}

/// Makes the topic `logs` of two partitions. Says why it cannot be made.
fn make_logs(broker: &Broker, replication: TopicReplication<'_>) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &broker.address).create().unwrap();
    let new = NewTopic::new("logs", 2, replication);
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(admin.create_topics([&new], &options)).map_err(|error| error.to_string())?;
    made.into_iter().try_for_each(|made| made.map(drop).map_err(|(_, error)| error.to_string()))
}

fn a_partition_without_a_leader_holds_back_nothing_but_time() {
    let broker = Broker::start();
    let mut second = Second::join(&broker);
    // Partition 1 has its only replica on the second broker.
    let replicas = || TopicReplication::Variable(&[&[1], &[2]]);
    eventually("the second broker is there", || make_logs(&broker, replicas()).ok());
    (0..2).for_each(|partition| append(&broker.address, "logs", partition, 0..1_000));
    let dir = Dir::new();
    config(&dir, &broker.address, "logs");
    let (run, api) = start(&dir);
    counted(&api, 2_000);
    let partition = |number: usize| Some(api.get("/progress")?["partitions"].as_array()?.get(number)?.clone());

    second.kill();
    eventually("the partition does not count as at its end", || partition(1).filter(|p| p["at_end"] == false));
    append(&broker.address, "logs", 0, 1_000..2_000);
    eventually("the other partition is read and stored", || (documents(&dir).len() == 3_000).then_some(()));
    let (ok, detail) = check(&api, "source").unwrap();
    assert!(ok, "the other broker answers: {detail}");
    // Its records may still come: the windows in which they would be stay open.
    let behind = partition(1).unwrap();
    assert_eq!((&behind["at_end"], &behind["idle"]), (&Value::from(false), &Value::from(false)), "{behind}");
    let as_of = || api.get("/views/per_service?size=1")?["as_of"].as_u64();
    // Until the broker was gone, both were silent for a while, and that moves the clock a little.
    assert!(as_of().is_some_and(|as_of| as_of < 1_700_000_018_000), "{:?}", as_of());

    second.start_again();
    eventually("the partition has a leader again", || partition(1).filter(|p| p["at_end"] == true));
    append(&broker.address, "logs", 1, 1_000..2_000);
    let audit = counted(&api, 4_000);
    assert_eq!(audit["lost"], 0);
    eventually("time goes on", || as_of().filter(|as_of| *as_of > 1_700_000_018_000));
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    assert_eq!(documents(&dir), [plain(0, 0..2_000), plain(1, 0..2_000)].concat());
}

fn a_broker_killed_and_started_again_costs_nothing() {
    let mut broker = Broker::start();
    make_logs(&broker, TopicReplication::Fixed(1)).unwrap();
    (0..2).for_each(|partition| append(&broker.address, "logs", partition, 0..1_000));
    let dir = Dir::new();
    config(&dir, &broker.address, "logs");
    let (run, api) = start(&dir);
    counted(&api, 2_000);

    // The only broker: the partitions have no leader.
    broker.kill();
    eventually("health is red", || check(&api, "source").filter(|(ok, _)| !ok));
    assert_eq!(api.get("/logs/stats").unwrap()["total_logs"], 2_000, "live reads go on");
    let unreachable =
        || api.get("/progress")?["partitions"].as_array()?.iter().all(|p| p["at_end"] == false).then_some(());
    eventually("no partition counts as at its end", unreachable);

    broker.start_again();
    eventually("health is green again", || check(&api, "source").filter(|(ok, _)| *ok));
    (0..2).for_each(|partition| append(&broker.address, "logs", partition, 1_000..1_500));
    let audit = counted(&api, 3_000);
    assert_eq!(audit["lost"], 0);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    assert_eq!(documents(&dir), [plain(0, 0..1_500), plain(1, 0..1_500)].concat());
}

/// Appends five records a second of two services, of these seconds.
fn append_steady(brokers: &str, topic: &str, seconds: std::ops::Range<u64>) {
    let config =
        ProducerConfig { brokers: brokers.to_owned(), linger: Span::from_millis(1), ..ProducerConfig::default() };
    let producer = KafkaProducer::new(&config).unwrap();
    for ms in (seconds.start * 1_000..seconds.end * 1_000).step_by(200) {
        for service in ["a", "b"] {
            let record = format!("{{\"timestamp\":{ms},\"service_name\":\"{service}\",\"message\":\"m\"}}");
            producer.send(topic, Some(0), None, record.as_bytes()).unwrap();
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn a_broker_that_is_away_is_not_silence() {
    let mut broker = Broker::start();
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs()
    };
    let began = now();
    let (stop, address) = (Arc::new(AtomicBool::new(false)), broker.address.clone());
    append_steady(&broker.address, "logs", began - 300..began);
    let dir = Dir::new();
    config(&dir, &broker.address, "logs");
    let path = dir.path().join("floodmark.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("idle_after = \"500ms\"", "stall_after = \"3s\"");
    let more = "[[view]]\nname = \"per_service\"\nwindow = \"1s\"\nallowed_lateness = \"1s\"\nretention = \"10m\"\n\
                score = [\"rate\"]\n[[alert]]\nname = \"silence\"\nwhen = [\"score >= 50\"]\n\
                [[alert]]\nname = \"few\"\nwhen = [\"count < 5\"]\n";
    std::fs::write(&path, text + more).unwrap();
    let (run, api) = start(&dir);
    // Nobody is silent until the broker is.
    let is_over = stop.clone();
    let writer = std::thread::spawn(move || {
        let mut written = began;
        loop {
            let until = if is_over.load(Ordering::SeqCst) { written } else { now() };
            if until > written {
                append_steady(&address, "logs", written..until);
                written = until;
            }
            if is_over.load(Ordering::SeqCst) {
                return written;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    eventually("the records are counted", || (api.get("/logs/stats")?["total_logs"].as_u64()? > 3_000).then_some(()));
    stop.store(true, Ordering::SeqCst);
    let last = writer.join().unwrap();
    broker.kill();
    // Let go, and windows close in which nothing could be read: for longer than a partition may be silent, 5 s, as less
    // would count as such a pause.
    let as_of = || api.get("/views/per_service?size=1")?["as_of"].as_u64();
    eventually("windows close meanwhile", || as_of().filter(|as_of| *as_of >= (last + 10) * 1_000));
    let partition = api.get("/progress").unwrap()["partitions"][0].clone();
    assert_eq!(partition["stalled"], true, "{partition}");
    // Behind what is written last everybody is silent, and that is said.
    let nothing_is_said = |before: u64| {
        let alerts = api.get(&format!("/alerts?to={}", before * 1_000)).unwrap();
        assert_eq!(alerts["total"], 0, "{alerts}");
        let windows = api.get("/views/per_service?size=1000").unwrap();
        let is_scored = |window: &&Value| {
            let is_unusual = window["score"]["score"].as_u64().is_some_and(|score| score >= 50);
            is_unusual && window["start"].as_u64() < Some(before * 1_000)
        };
        let scored: Vec<&Value> = windows["windows"].as_array().unwrap().iter().filter(is_scored).collect();
        assert!(scored.is_empty(), "{scored:?}");
    };
    nothing_is_said(now());

    // From before it can be read again: nobody is silent then.
    let back = now();
    broker.start_again();
    eventually("health is green again", || check(&api, "source").filter(|(ok, _)| *ok));
    let end = now() + 20;
    append_steady(&broker.address, "logs", back..end);
    counted(&api, 3_000 + (last - began) * 10 + (end - back) * 10);
    eventually("the next windows close", || as_of().filter(|as_of| *as_of >= (end - 1) * 1_000));
    nothing_is_said(end);
    // As if that time had not been: what comes behind it is scored again.
    let windows = api.get("/views/per_service?size=100").unwrap();
    let last = windows["windows"].as_array().unwrap().iter().find(|window| window["start"] == (end - 5) * 1_000);
    let rate = last.map(|window| window["score"]["measures"][0]["actual"].clone());
    assert_eq!(rate, Some(Value::from(5.0)), "{windows}");
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
}

fn removed_records_are_lost_aloud_and_the_run_goes_on() {
    let (brokers, topic) = (Service::Kafka.address(), unique("floodmark"));
    create_topic(&topic, 1, &[]);
    append(&brokers, &topic, 0, 0..100);
    let dir = Dir::new();
    config(&dir, &brokers, &topic);
    let (run, api) = start(&dir);
    counted(&api, 100);
    // One that was begun before the records were counted may end after that; the second is behind them.
    let number = || check(&api, "checkpoints")?.1.split(' ').nth(1)?.parse::<u64>().ok();
    let first = eventually("a checkpoint", number);
    eventually("two more checkpoints", || number().filter(|now| *now >= first + 2));
    assert_eq!(check(&api, "audit").map(|(ok, _)| ok), Some(true));
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);

    append(&brokers, &topic, 0, 100..200);
    delete_before(&topic, 150);
    let (run, api) = start(&dir);
    let audit = eventually("the rest is read", || {
        let audit = api.get("/audit")?;
        (audit["partitions"][0]["next_offset"] == 200 && audit["pending"] == 0).then_some(audit)
    });
    assert_eq!((&audit["lost"], &audit["balanced"]), (&Value::from(50), &Value::from(true)), "{audit}");
    let (_, detail) = eventually("health is red", || check(&api, "audit").filter(|(ok, _)| !ok));
    assert!(detail.contains("50"), "{detail}");
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    assert_eq!(documents(&dir), [plain(0, 0..100), plain(0, 150..200)].concat());
}

fn a_topic_made_again_under_a_run_and_between_runs_repeats_and_skips_nothing() {
    let (brokers, topic) = (Service::Kafka.address(), unique("floodmark"));
    let make = |records| {
        eventually("the topic is there", || std::panic::catch_unwind(|| create_topic(&topic, 1, &[])).ok());
        append(&brokers, &topic, 0, 0..records);
    };
    make(100);
    let dir = Dir::new();
    config(&dir, &brokers, &topic);
    let (run, api) = start(&dir);
    counted(&api, 100);
    // Longer than the first one: its records begin at offsets that were read already.
    delete_topic(&topic);
    make(300);
    let audit = counted(&api, 400);
    let partitions = audit["partitions"].as_array().unwrap();
    assert_eq!((partitions.len(), &audit["lost"]), (2, &Value::from(0)), "{audit}");
    assert_ne!(partitions[0]["identity"], partitions[1]["identity"]);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);

    delete_topic(&topic);
    make(500);
    let (run, api) = start(&dir);
    let read = || api.get("/audit")?["partitions"].as_array()?.iter().any(|p| p["next_offset"] == 500).then_some(());
    eventually("all of the third one is read", read);
    eventually("all of it is stored", || (documents(&dir).len() == 500).then_some(()));
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    assert_eq!(documents(&dir), plain(0, 0..500));
}
