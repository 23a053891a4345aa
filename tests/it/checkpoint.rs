//! Runs that are killed, stopped and started again end with what one run over everything ends with.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use floodmark::units::Span;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};

use crate::corpus::{Outcome, Partitions, VIEWS, partitions};
use crate::s3;
use crate::stub_elasticsearch::Stub;
use crate::support::{Dir, Running, Signal, eventually};

/// Everything a run writes, in one folder. Nothing becomes idle meanwhile.
const HEAD: &str = "\
    data_dir = \"data\"\n\
    [source.files]\npaths = [\"in-*.log\"]\npoll_interval = \"20ms\"\n\
    [store.ndjson]\nlogs = \"data/logs.ndjson\"\nwindows = \"data/windows.ndjson\"\n\
    [api]\nlisten = \"127.0.0.1:0\"\n\
    [time]\nidle_after = \"10m\"\n\
    [patterns]\nmax_patterns = 3\n\
    [checkpoint]\nevery = \"20ms\"\n";

/// A folder with a log in it, and what must come of the log.
struct Scene {
    dir: Dir,
    records: Partitions,
    /// The part of each file that is written, in thousandths.
    written: Cell<usize>,
}

impl Scene {
    fn new(each: usize) -> Self {
        let dir = Dir::new();
        dir.file("floodmark.toml", &format!("{HEAD}{VIEWS}"));
        Self { dir, records: partitions(each), written: Cell::new(0) }
    }

    /// Adds to every file until it has this part of its records, in thousandths.
    fn write(&self, thousandths: usize) {
        for (number, records) in self.records.iter().enumerate() {
            let place = |thousandths| records.len() * thousandths / 1_000;
            let mut text = records[place(self.written.get())..place(thousandths)].join(&b'\n');
            if !text.is_empty() {
                text.push(b'\n');
            }
            let path = self.dir.path().join(format!("in-{number}.log"));
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(&text).unwrap();
        }
        self.written.set(thousandths);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn expected(&self) -> Outcome {
        let places = |records: &Vec<Vec<u8>>| {
            let mut at = 0;
            let place = |record: &Vec<u8>| {
                at += record.len() as u64 + 1;
                (at - record.len() as u64 - 1, record.clone())
            };
            records.iter().map(place).collect()
        };
        let placed: Vec<Vec<_>> = self.records.iter().map(places).collect();
        Outcome::expected(&self.dir.path().join("floodmark.toml"), "files", &placed)
    }

    fn start(&self, flags: &[&str]) -> Running {
        let arguments: Vec<_> = ["run"].into_iter().chain(flags.iter().copied()).collect();
        self.dir.command(&arguments).start()
    }

    /// Runs to the end of the files.
    #[track_caller]
    fn finish(&self, flags: &[&str]) -> String {
        let arguments: Vec<_> = ["run", "--until-end"].into_iter().chain(flags.iter().copied()).collect();
        self.dir.command(&arguments).run().expect_code(0).stderr()
    }

    /// The number of the newest checkpoint.
    fn newest(&self) -> Option<u64> {
        let names = std::fs::read_dir(self.data().join("checkpoints/a")).ok()?;
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("manifest-")?.parse().ok()).max()
    }

    /// Starts a run, adds to the files bit by bit, and kills it when it has made so many more checkpoints.
    fn kill_after(&self, checkpoints: u64, flags: &[&str]) {
        let before = self.newest().unwrap_or(0);
        let run = self.start(flags);
        eventually("a checkpoint is made", || {
            self.write((self.written.get() + 1).min(1_000));
            self.newest().filter(|&newest| newest >= before + checkpoints)
        });
        // SIGKILL.
        drop(run);
    }

    #[track_caller]
    fn assert_is_expected(&self, run: &str) {
        Outcome::read_again(&self.data()).assert_is(&self.expected(), run);
    }
}

#[test]
fn killed_runs_with_other_workers_end_like_one_run() {
    let scene = Scene::new(20_000);
    for (checkpoints, workers) in [(1, "1"), (2, "3"), (3, "2"), (1, "4")] {
        scene.kill_after(checkpoints, &["-w", workers]);
    }
    scene.write(1_000);
    let log = scene.finish(&["-w", "2"]);
    assert!(log.contains("going on from a checkpoint"), "{log}");
    scene.assert_is_expected("after four kills");
}

#[test]
fn counts_of_patterns_are_those_of_a_run_that_was_not_killed() {
    let (killed, whole) = (Scene::new(6_500), Scene::new(6_500));
    whole.write(1_000);
    for (checkpoints, workers) in [(1, "1"), (2, "3"), (1, "2")] {
        killed.kill_after(checkpoints, &["-w", workers]);
    }
    killed.write(1_000);
    let (mut killed_run, mut whole_run) = (killed.start(&["-w", "4"]), whole.start(&[]));
    let (killed_api, whole_api) = (killed_run.api(), whole_run.api());
    let count = |answer: &serde_json::Value| answer["count"].as_i64();
    let records: usize = whole.records.iter().map(Vec::len).sum();
    let (patterns, totals) = eventually("both have come to the end", || {
        let of_whole = whole_api.get("/patterns")?;
        let of_killed = killed_api.get("/patterns").filter(|answer| answer["as_of"] == of_whole["as_of"])?;
        let totals = whole_api.get("/logs/stats").filter(|totals| totals["as_of"] == of_whole["as_of"])?;
        let is_the_end = count(&of_whole)? as usize > records * 9 / 10;
        is_the_end.then(|| assert_eq!(of_killed, of_whole));
        is_the_end.then_some((of_whole, totals))
    });
    assert_eq!(patterns["count"], totals["total_logs"], "patterns add up to the records");
    let listed = patterns["patterns"].as_array().unwrap();
    assert_eq!(listed.iter().filter_map(count).sum::<i64>(), count(&patterns).unwrap());
    assert!(listed.iter().any(|pattern| pattern["template"] == "__other__"), "more cuts than fit: {patterns}");
    assert!(listed.len() > 3, "{patterns}");
    for pattern in listed {
        let levels = pattern["levels"].as_object().unwrap().values().filter_map(|count| count.as_i64());
        assert_eq!(Some(levels.sum::<i64>()), count(pattern));
        assert!(pattern["sample"]["message"].as_str().unwrap().starts_with("request "), "{pattern}");
    }
}

#[test]
fn a_stopped_run_goes_on() {
    let scene = Scene::new(2_000);
    scene.write(400);
    let mut run = scene.start(&["-w", "2"]);
    let api = run.api();
    let counted = || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&total| total > 0);
    eventually("records are counted", counted);
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    scene.write(1_000);
    scene.finish(&[]);
    scene.assert_is_expected("after a stop");
}

#[test]
fn a_run_to_the_end_goes_on_when_the_files_have_grown() {
    let scene = Scene::new(2_000);
    for (thousandths, workers) in [(300, "1"), (700, "2"), (1_000, "1")] {
        scene.write(thousandths);
        scene.finish(&["-w", workers]);
    }
    scene.assert_is_expected("in three parts");
}

/// The newest file of a folder by name. One that was being written when a run was killed has a `#` in its name.
fn last_file(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // What starts have read is written anew again and again.
    let is_one = |path: &PathBuf| path.is_file() && !path.ends_with("starts") && !path.to_string_lossy().contains('#');
    files.filter(is_one).max().expect("a file")
}

#[test]
fn damage_to_a_file_is_named_and_changes_nothing() {
    let scene = Scene::new(6_500);
    for (folder, flags) in [("checkpoints/a/state", ["-w", "1"]), ("checkpoints/b", ["-w", "2"])] {
        scene.kill_after(2, &flags);
        let path = last_file(&scene.data().join(folder));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut run = scene.start(&flags);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let said = run.expect_line(&format!("{name} is damaged"));
        assert!(said.contains("are not what was written") || said.contains("checksum differs"), "{said}");
        run.expect_line("going on from a checkpoint");
    }
    scene.write(1_000);
    scene.finish(&[]);
    scene.assert_is_expected("after damage");
}

#[test]
fn a_run_that_fell_back_makes_checkpoints_and_is_gone_on_from() {
    let scene = Scene::new(20_000);
    let kept = scene.data().join("checkpoints");
    scene.kill_after(2, &[]);
    let lost = scene.newest().unwrap();
    for copy in ["a", "b"] {
        let path = kept.join(copy).join(format!("manifest-{lost:016}"));
        std::fs::write(path, b"FLOODCKP").unwrap();
    }
    scene.kill_after(2, &["-w", "2"]);
    let numbers: Vec<_> = manifests(&scene.data()).into_iter().map(|(number, _)| number).collect();
    assert!(!numbers.contains(&lost) && numbers.len() >= 2, "{lost} is not among the kept ones: {numbers:?}");

    let lost = scene.newest().unwrap();
    let shown = scene.dir.command(&["checkpoints", "show", &lost.to_string(), "--json"]).run().expect_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout()).unwrap();
    let used = shown["state_files"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap();
    for copy in ["a", "b"] {
        std::fs::remove_file(kept.join(copy).join("state").join(used)).unwrap();
    }
    scene.kill_after(2, &[]);
    scene.write(1_000);
    let log = scene.finish(&[]);
    assert!(log.contains("going on from a checkpoint") && !log.contains("is used instead"), "{log}");
    scene.assert_is_expected("after two checkpoints were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_run_goes_on_from_checkpoints_in_s3() {
    let (url, objects) = s3::start().await;
    let scene = Scene::new(6_500);
    let place = format!(
        "url = \"s3://bucket/some/where\"\nendpoint = \"{url}\"\nallow_http = true\nregion = \"r\"\n\
         access_key_id = \"k\"\nsecret_access_key = \"s\"\n"
    );
    scene.dir.file("floodmark.toml", &format!("{HEAD}{place}{VIEWS}"));
    let newest = || {
        let objects = objects.lock();
        let names = objects.keys().filter_map(|key| key.strip_prefix("some/where/a/manifest-"));
        names.filter_map(|name| name.parse::<u64>().ok()).max()
    };
    let run = scene.start(&["-w", "2"]);
    eventually("checkpoints are made", || {
        scene.write((scene.written.get() + 1).min(1_000));
        newest().filter(|&newest| newest >= 3)
    });
    // SIGKILL.
    drop(run);
    assert!(!scene.data().join("checkpoints").exists());
    let listed = scene.dir.command(&["checkpoints", "list", "--json"]).run().expect_code(0).stdout();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().last().unwrap()["id"].as_u64(), newest(), "{listed}");
    scene.write(1_000);
    let log = scene.finish(&[]);
    assert!(log.contains("going on from a checkpoint"), "{log}");
    let left: Vec<String> = objects.lock().keys().cloned().collect();
    assert!(!left.iter().any(|key| key.ends_with("manifest-0000000000000000")), "not deleted: {left:?}\n{log}");
    scene.assert_is_expected("from S3");
}

#[test]
fn checkpoints_are_listed_shown_and_verified_file_by_file() {
    let scene = Scene::new(6_500);
    let none = scene.dir.command(&["checkpoints", "list"]).run().expect_code(1);
    assert!(none.stderr().contains("there are no checkpoints in data"), "{}", none.stderr());
    assert!(!scene.data().exists(), "looking changes nothing");
    scene.kill_after(3, &["-w", "2"]);
    let newest = scene.newest().unwrap().to_string();
    let ask = |arguments: &[&str], code: i32| -> Value {
        let arguments: Vec<_> = ["checkpoints"].iter().chain(arguments).chain(&["--json"]).copied().collect();
        let ran = scene.dir.command(&arguments).run().expect_code(code);
        serde_json::from_str(&ran.stdout()).unwrap()
    };
    let listed = ask(&["list"], 0);
    let last = listed.as_array().unwrap().last().unwrap();
    assert_eq!((last["id"].to_string(), last["workers"].as_u64()), (newest.clone(), Some(2)), "{listed}");
    let shown = ask(&["show", &newest], 0);
    let partitions = shown["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), scene.records.len(), "{shown}");
    assert!(partitions.iter().any(|partition| partition["indexed"].as_u64() > Some(0)), "{shown}");
    let table = scene.dir.command(&["checkpoints", "show", &newest]).run().expect_code(0).stdout();
    assert!(table.contains(&format!("checkpoint  {newest} of generation 1")) && table.contains("files:0"), "{table}");

    // A kill may come between the copies of a file; the next start makes them whole, and then nothing is written.
    let kept = scene.data().join("checkpoints");
    let names = |found: &Value| -> Vec<String> {
        let damaged = found["damaged"].as_array().unwrap().iter();
        damaged.map(|file| file["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    for (_, path) in manifests(&scene.data()) {
        std::fs::copy(&path, kept.join("b").join(name(&path))).unwrap();
    }
    let whole = ask(&["verify"], 0);
    assert!(names(&whole).is_empty() && whole["files"].as_u64() > Some(3), "{whole}");

    let listed = manifests(&scene.data());
    let manifest = kept.join("b").join(name(&listed.iter().max().unwrap().1));
    let used = shown["state_files"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap();
    let state = kept.join("a/state").join(used);
    std::fs::write(&state, b"FLOODCKP").unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let mut damaged = names(&ask(&["verify"], 1));
    damaged.sort();
    let mut expected = vec![name(&state), name(&manifest)];
    expected.sort();
    assert_eq!(damaged, expected);
    let text = scene.dir.command(&["checkpoints", "verify"]).run().expect_code(1);
    let (stdout, stderr) = (text.stdout(), text.stderr());
    assert!(stdout.contains(&format!("a/state/{used}: ")) && stdout.contains("cut off at byte 8"), "{stdout}");
    assert!(stderr.contains("2 of "), "{stderr}");
    // Named and not touched: a start puts them right.
    assert!(!manifest.exists());
    scene.start(&[]).expect_line(&format!("{used} is replaced by a good copy"));
}

#[test]
fn another_tick_is_refused_unless_the_run_begins_anew() {
    let scene = Scene::new(6_500);
    scene.kill_after(1, &[]);
    let refused = scene.dir.command(&["run", "--until-end", "--set", "time.tick=500ms"]).run().expect_code(2);
    assert!(refused.stderr().contains("time.tick was 1000 ms"), "{}", refused.stderr());
    let generation = || std::fs::read_to_string(scene.data().join("generation")).unwrap();
    assert_eq!(generation(), "1\n");
    scene.finish(&["--fresh", "--set", "time.tick=500ms"]);
    assert_eq!(generation(), "2\n");
}

#[test]
fn a_fresh_run_is_not_begun_anew_when_it_crashes() {
    let scene = Scene::new(20_000);
    scene.kill_after(1, &[]);
    let generation = || std::fs::read_to_string(scene.data().join("generation")).unwrap();
    assert_eq!(generation(), "1\n");
    let before = scene.newest().unwrap();
    let mut supervisor = scene.start(&["--fresh", "--restart"]);
    let started = supervisor.expect_line("started the run as process ");
    eventually("the fresh run makes checkpoints", || {
        scene.write((scene.written.get() + 1).min(1_000));
        scene.newest().filter(|&newest| newest >= before + 3)
    });
    let run = started.rsplit(' ').next().unwrap();
    assert!(Command::new("kill").args(["-KILL", run]).status().unwrap().success());
    supervisor.expect_line("starting it again");
    supervisor.expect_line("going on from a checkpoint");
    assert_eq!(generation(), "2\n");
    let api = supervisor.api();
    drop(supervisor);
    eventually("the run is gone", || api.get("/health/live").is_none().then_some(()));
    scene.write(1_000);
    scene.finish(&["--fresh", "--restart"]);
    assert_eq!(generation(), "3\n", "asked for again");
    scene.assert_is_expected("after a fresh run");
}

#[test]
fn an_added_view_starts_partial_and_the_others_go_on() {
    let scene = Scene::new(6_500);
    scene.kill_after(3, &[]);
    let expected = scene.expected();
    scene.write(1_000);
    let more = "[[view]]\nname = \"a_minute\"\nwindow = \"1m\"\nretention = \"3m\"\n";
    scene.dir.file("floodmark.toml", &format!("{HEAD}{more}{VIEWS}"));
    let log = scene.finish(&["-w", "2"]);
    assert!(log.contains("the view a_minute is new and starts empty here"), "{log}");
    let mut outcome = Outcome::read_again(&scene.data());
    let added = |place: &(String, String, u64)| place.0 == "a_minute";
    let new: Vec<_> = outcome.windows.extract_if(.., |place, _| added(place)).collect();
    outcome.assert_is(&expected, "with a view added");
    let first = new.iter().map(|((.., start), _)| *start).min().expect("windows of the new view");
    for ((.., start), line) in &new {
        assert!(*start > first || line.contains(r#""partial":true"#), "{line}");
    }
    assert!(new.iter().any(|(_, line)| !line.contains(r#""partial":true"#)), "later windows are whole");
}

/// The manifests of checkpoints in a data directory, by number; one copy of each.
fn manifests(data: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(data.join("checkpoints/a")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let numbered = paths.filter_map(|path| {
        let number = path.file_name()?.to_str()?.strip_prefix("manifest-")?.parse().ok()?;
        Some((number, path))
    });
    numbered.collect()
}

#[test]
fn a_run_from_the_latest_offset_goes_on_where_it_began_when_it_is_killed_before_a_checkpoint() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", 1, 1).unwrap();
    let append = |offsets: std::ops::Range<u64>| {
        let linger = Span::from_millis(1);
        let config = ProducerConfig { brokers: cluster.bootstrap_servers(), linger, ..ProducerConfig::default() };
        let producer = KafkaProducer::new(&config).unwrap();
        for offset in offsets {
            let timestamp = 1_700_000_000_000 + offset * 100;
            let record = json!({ "timestamp": timestamp, "service_name": "a", "level": "INFO", "message": "m" });
            producer.send("logs", Some(0), None, record.to_string().as_bytes()).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
    };
    let dir = Dir::new();
    let source = format!(
        "[source.kafka]\nbrokers = \"{}\"\ntopics = [\"logs\"]\nstart = \"latest\"\n",
        cluster.bootstrap_servers()
    );
    let rest = "[store.ndjson]\nlogs = \"data/logs.ndjson\"\nwindows = \"data/windows.ndjson\"\n\
                [api]\nlisten = \"127.0.0.1:0\"\n[checkpoint]\nevery = \"1h\"\n";
    dir.file("floodmark.toml", &format!("data_dir = \"data\"\n{source}{rest}"));
    append(0..50);
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    eventually("the end is found", || {
        let progress = api.get("/audit")?;
        progress["partitions"][0]["next_offset"].as_u64().filter(|&next| next == 50)
    });
    append(50..80);
    eventually("records are read", || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&total| total == 30));
    drop(run);
    // As if it had been killed before its first checkpoint.
    let data = dir.path().join("data");
    for (number, path) in manifests(&data) {
        if number > 0 {
            std::fs::remove_file(data.join("checkpoints/b").join(path.file_name().unwrap())).unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }
    append(80..100);
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    let text = std::fs::read_to_string(data.join("logs.ndjson")).unwrap();
    let offset = |line: &str| serde_json::from_str::<Value>(line).unwrap()["offset"].as_u64().unwrap();
    let offsets: std::collections::BTreeSet<u64> = text.lines().map(offset).collect();
    assert_eq!(offsets.into_iter().collect::<Vec<_>>(), (50..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refused_before_a_checkpoint_stays_a_dead_letter_in_the_account() {
    let stub = Stub::start().await;
    stub.state.lock().item_fault = Some(Box::new(|line| {
        let is_refused = line.index.contains("logs") && line.document["offset"] == 3;
        is_refused.then(|| (400, json!({ "type": "document_parsing_exception", "reason": "no room" })))
    }));
    let dir = Dir::new();
    let store = format!("[store.elasticsearch]\nurls = [\"{}\"]\n", stub.url);
    let rest = "[source.generator]\nrate = 2000\n[api]\nlisten = \"127.0.0.1:0\"\n[checkpoint]\nevery = \"50ms\"\n";
    dir.file("floodmark.toml", &format!("data_dir = \"data\"\n{store}{rest}"));
    let data = dir.path().join("data");
    let newest = || manifests(&data).into_iter().map(|(number, _)| number).max().unwrap_or(0);
    let refused = |answer: &Value| -> Vec<u64> {
        let partitions = answer["partitions"].as_array().unwrap();
        partitions.iter().map(|p| p["dead_letters"]["unindexable"].as_u64().unwrap_or(0)).collect()
    };
    let read_beyond = |api: crate::support::Api, offset: u64| {
        eventually("enough is read", || {
            let answer = api.get("/audit")?;
            let partitions = answer["partitions"].as_array()?;
            let far = partitions.iter().all(|p| p["next_offset"].as_u64() > Some(offset));
            (far && !partitions.is_empty()).then_some(answer)
        })
    };
    // The log names the stub too.
    let api_of = |run: &mut Running| crate::support::Api::at(&run.expect_line("the API is at http://"));
    let mut run = dir.command(&["run"]).start();
    let api = api_of(&mut run);
    let first = eventually("all refusals are known", || {
        let answer = read_beyond(api, 100);
        refused(&answer).iter().all(|&count| count == 1).then_some(answer)
    });
    let before = newest();
    eventually("checkpoints are made", || (newest() >= before + 2).then_some(()));
    drop(run);
    let next = |p: &Value| p["next_offset"].as_u64().unwrap();
    let highest = first["partitions"].as_array().unwrap().iter().map(next).max().unwrap();
    let mut run = dir.command(&["run"]).start();
    let again = read_beyond(api_of(&mut run), highest);
    assert_eq!(refused(&again), refused(&first), "{again}");
    assert_eq!(again["balanced"], true, "{again}");
}
