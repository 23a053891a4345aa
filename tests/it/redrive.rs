//! Redrives: dead letters go through the pipeline again, and what comes of it is what good records would have given.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::stub_elasticsearch::Stub;
use crate::support::{Api, Dir, Running, Signal, eventually};

const HEAD: &str = "\
    data_dir = \"data\"\n\
    [source.files]\npaths = [\"in-*.log\"]\npoll_interval = \"20ms\"\ntopic = \"app\"\n\
    [store.ndjson]\nlogs = \"data/logs.ndjson\"\nwindows = \"data/windows.ndjson\"\n\
    [api]\nlisten = \"127.0.0.1:0\"\n\
    [time]\nidle_after = \"10m\"\n\
    [checkpoint]\nevery = \"20ms\"\n\
    [[view]]\nname = \"per_service\"\nwindow = \"10s\"\nallowed_lateness = \"20s\"\nretention = \"2h\"\n\
    [[view]]\nname = \"per_path\"\nkey = [\"url\", \"service_name\"]\nwhere = [\"level in WARN, ERROR\"]\n\
    window = \"1m\"\nallowed_lateness = \"1m\"\nretention = \"3h\"\n";

/// `url` is a field like any other by the configuration, and our own `path` by this.
const FIXED: &str = "[records.fields]\ntimestamp = \"time\"\npath = \"url\"\n";

const RECORDS: u64 = 2_000;
const MORE: u64 = 200;

/// A record in its right form, or as it came.
fn record(file: u64, i: u64, is_right: bool) -> String {
    let time = 1_700_000_000_000 + i * 137 + file * 31;
    let (service, path, level) = (i % 4, i % 7, ["INFO", "WARN", "ERROR"][(i % 3) as usize]);
    let rest = format!(
        "\"service_name\":\"s{service}\",\"url\":\"/p/{path}\",\"level\":\"{level}\",\"response_time_ms\":{i}.5,\
         \"message\":\"m\""
    );
    match i % 10 {
        3 if !is_right => format!("{{\"time\":{time},{rest}}}"),
        7 if !is_right => format!("{{\"time\":{time},\"timestamp\":{{}},{rest}}}"),
        9 if i % 100 == 99 => "no JSON".to_owned(),
        _ => format!("{{\"timestamp\":{time},{rest}}}"),
    }
}

struct Scene(Dir);

impl Scene {
    fn new(is_right: bool) -> Self {
        let dir = Dir::new();
        dir.file("floodmark.toml", HEAD);
        dir.file("fixed.toml", FIXED);
        for file in 0..3 {
            let lines: String = (0..RECORDS).map(|i| record(file, i, is_right) + "\n").collect();
            dir.file(&format!("in-{file}.log"), &lines);
        }
        Self(dir)
    }

    /// Adds records in their right form, so that the event clocks go on.
    fn grow(&self) {
        for file in 0..3 {
            let lines: String = (RECORDS..RECORDS + MORE).map(|i| record(file, i, true) + "\n").collect();
            let path = self.0.path().join(format!("in-{file}.log"));
            OpenOptions::new().append(true).open(path).unwrap().write_all(lines.as_bytes()).unwrap();
        }
    }

    fn run(&self, flags: &[&str]) {
        let arguments: Vec<_> = ["run"].iter().chain(flags).copied().collect();
        self.0.command(&arguments).run().expect_code(0);
    }

    fn redrive(&self, flags: &[&str]) -> Value {
        let arguments: Vec<_> = ["dead-letters", "redrive", "--json"].iter().chain(flags).copied().collect();
        let said = self.0.command(&arguments).run().expect_code(0).stdout();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    fn data(&self, name: &str) -> PathBuf {
        self.0.path().join("data").join(name)
    }

    fn windows(&self) -> Windows {
        windows(&self.data("windows.ndjson"))
    }

    /// The records in the windows of services.
    fn records(&self) -> u64 {
        let windows = self.windows();
        windows.values().filter(|w| w["view"] == "per_service").map(|w| w["count"].as_u64().unwrap()).sum()
    }

    fn documents(&self) -> BTreeMap<(String, i64, u64), Value> {
        documents(&self.data("logs.ndjson"))
    }
}

type Windows = BTreeMap<String, Value>;

fn lines(path: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be under way.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Windows that are closed when all is read: an open one is not published at each change.
fn closed(mut windows: Windows) -> Windows {
    windows.retain(|_, window| window["end"].as_u64() <= Some(1_700_000_270_000));
    windows
}

/// What is in each window in the end, but for how it came to be.
fn windows(path: &PathBuf) -> Windows {
    let mut windows = Windows::new();
    for mut document in lines(path) {
        let place = format!("{} {} {}", document["view"], document["key"], document["start"]);
        let fields = document.as_object_mut().unwrap();
        for name in ["revision", "late_records", "previous", "as_of", "final"] {
            fields.remove(name);
        }
        // Where its records are is another place, if they were redriven.
        if let Some(score) = fields.get_mut("score").and_then(Value::as_object_mut) {
            score.remove("offsets");
        }
        windows.insert(place, document);
    }
    windows
}

fn documents(path: &PathBuf) -> BTreeMap<(String, i64, u64), Value> {
    let place = |document: &Value| {
        let topic = document["topic"].as_str().unwrap().to_owned();
        (topic, document["partition"].as_i64().unwrap(), document["offset"].as_u64().unwrap())
    };
    lines(path).into_iter().map(|document| (place(&document), document)).collect()
}

/// The windows that good records give.
fn expected() -> Windows {
    let good = Scene::new(true);
    good.run(&["--until-end"]);
    good.windows()
}

/// The same when there are more.
fn expected_of_more() -> Windows {
    let good = Scene::new(true);
    good.grow();
    good.run(&["--until-end"]);
    good.windows()
}

#[track_caller]
fn assert_same(found: &Windows, expected: &Windows, what: &str) {
    for (place, window) in expected {
        assert_eq!(found.get(place), Some(window), "{what}: {place}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// Letters of each kind in the files.
const FIXABLE: u64 = 3 * RECORDS / 5;
const BROKEN: u64 = 3 * RECORDS / 100;

/// The account of a redrive, once it is stored.
#[track_caller]
fn account(api: Api, number: u64, expected: u64) -> Value {
    eventually("the redrive is read and stored", || {
        let answer = api.get("/audit")?;
        assert_eq!(answer["balanced"], true, "{answer}");
        let partitions = answer["partitions"].as_array()?;
        let found = partitions.iter().find(|p| p["topic"] == "__redrive" && p["partition"] == number)?.clone();
        (found["next_offset"] == expected && found["pending"] == 0).then_some(found)
    })
}

/// Waits until the files are read, and all letters of them are written.
fn all_read(api: Api, each: u64) {
    eventually("the files are read", || {
        let answer = api.get("/audit")?;
        let partitions = answer["partitions"].as_array()?;
        let of_files = partitions.iter().filter(|p| p["topic"] == "app");
        (of_files.filter(|p| p["expected"] == each && p["pending"] == 0).count() == 3).then_some(())
    });
}

fn start(scene: &Scene, flags: &[&str]) -> (Running, Api) {
    let arguments: Vec<_> = ["run"].iter().chain(flags).copied().collect();
    let mut run = scene.0.command(&arguments).start();
    let api = run.api();
    (run, api)
}

#[test]
fn letters_redriven_with_another_decoder_give_what_good_records_give() {
    let scene = Scene::new(false);
    scene.run(&["--until-end"]);
    let short = scene.windows();
    let tried = scene.redrive(&["--with", "fixed.toml", "--dry-run"]);
    assert_eq!((&tried["letters"], &tried["readable"]), (&json!(FIXABLE + BROKEN), &json!(FIXABLE)), "{tried}");
    assert_eq!((&tried["redrives"], &tried["unreadable"]), (&json!([]), &json!({ "malformed": BROKEN })), "{tried}");
    let done = scene.redrive(&["--reason", "missing_timestamp", "--reason", "wrong_type", "--with", "fixed.toml"]);
    assert_eq!((&done["redrives"], &done["letters"]), (&json!([0]), &json!(FIXABLE)), "{done}");

    let expected = expected();
    assert_ne!(short, expected);
    for workers in ["1", "2", "4"] {
        scene.run(&["--until-end", "--fresh", "-w", workers]);
        assert_same(&scene.windows(), &expected, &format!("{workers} workers"));
    }
    let documents = scene.documents();
    assert_eq!(documents.len() as u64, 3 * RECORDS - BROKEN);
    let sources: Vec<Vec<u8>> =
        (0..3).map(|n| std::fs::read(scene.0.path().join(format!("in-{n}.log"))).unwrap()).collect();
    for ((topic, ..), document) in &documents {
        assert_eq!(topic == "__redrive", document["redriven_from"].is_object(), "{document}");
        if topic == "__redrive" {
            let origin = &document["redriven_from"];
            assert_eq!(origin["topic"], "app", "{document}");
            let at = origin["offset"].as_u64().unwrap() as usize;
            let text = &sources[origin["partition"].as_u64().unwrap() as usize][at..];
            let line = text.split(|byte| *byte == b'\n').next().unwrap();
            let line: Value = serde_json::from_slice(line).unwrap();
            assert_eq!((&line["time"], &line["url"]), (&document["timestamp"], &document["path"]), "{document}");
        }
    }
}

#[test]
fn a_running_process_takes_redrives_in_and_a_killed_one_repeats_them() {
    let (whole, scene) = (expected_of_more(), Scene::new(false));
    let expected = closed(whole.clone());
    let (run, api) = start(&scene, &["-w", "2"]);
    all_read(api, RECORDS);
    let short = closed(scene.windows());
    scene.redrive(&["--with", "fixed.toml", "--topic", "app"]);
    let first = account(api, 0, FIXABLE + BROKEN);
    assert_eq!((&first["indexed"], &first["dead_letters"]), (&json!(FIXABLE), &json!({ "malformed": BROKEN })));
    scene.grow();
    eventually("the windows are corrected", || (closed(scene.windows()) == expected).then_some(()));
    assert_ne!(short, expected);
    let corrected = lines(&scene.data("windows.ndjson")).iter().filter(|w| w["revision"].as_u64() > Some(0)).count();
    assert!(corrected > 0, "late records correct windows");
    let documents = scene.documents();
    let written = lines(&scene.data("logs.ndjson")).len();
    assert_eq!(written, documents.len(), "nothing is there twice");
    // SIGKILL, in the middle of nothing, and with other workers.
    drop(run);
    for flags in [&["-w", "1"], &["-w", "4"]] {
        let (run, api) = start(&scene, flags);
        all_read(api, RECORDS + MORE);
        assert_eq!(account(api, 0, FIXABLE + BROKEN), first);
        let url = format!("http://{}", api.address());
        let found = scene.0.command(&["audit", "--json", "--url", &url]).run().expect_code(0).stdout();
        let found: Value = serde_json::from_str(&found).unwrap();
        let redriven = found.as_array().unwrap().iter().find(|f| f["account"]["topic"] == "__redrive").unwrap();
        assert_eq!((&redriven["documents"], &redriven["dead_letters"]), (&json!(FIXABLE), &json!(BROKEN)), "{found}");
        // What is computed again is published again, up to what it was.
        eventually("the windows are as they were", || (closed(scene.windows()) == expected).then_some(()));
        run.signal(Signal::Terminate);
        run.wait().expect_code(0);
        assert_eq!(scene.documents(), documents);
    }
    scene.run(&["--until-end"]);
    assert_same(&scene.windows(), &whole, "at the end");
}

#[test]
fn kills_in_the_middle_of_redrives_change_nothing() {
    let (whole, scene) = (expected_of_more(), Scene::new(false));
    let (run, api) = start(&scene, &[]);
    all_read(api, RECORDS);
    drop(run);
    for (number, workers) in ["2", "1", "3", "4"].into_iter().enumerate() {
        let (run, api) = start(&scene, &["-w", workers]);
        eventually("it reads", || api.get("/audit")?["partitions"].as_array().filter(|p| !p.is_empty()).map(|_| ()));
        let limit = (FIXABLE / 3).to_string();
        let mut flags = vec!["--with", "fixed.toml", "--topic", "app"];
        if number < 3 {
            flags.extend(["--limit", &limit]);
        } else {
            // What is read again is no letter before it is one again.
            all_read(api, RECORDS);
        }
        scene.redrive(&flags);
        eventually("the redrive has joined", || {
            let answer = api.get("/audit")?;
            let partitions = answer["partitions"].as_array()?.iter();
            let joined = partitions.filter(|p| p["topic"] == "__redrive").count();
            (joined > number).then_some(())
        });
        // SIGKILL.
        drop(run);
    }
    scene.grow();
    scene.run(&["--until-end", "-w", "2"]);
    assert_same(&scene.windows(), &whole, "after kills");
    let documents = scene.documents();
    let redriven = documents.values().filter(|document| document["topic"] == "__redrive");
    let origins: Vec<_> = redriven.map(|document| document["redriven_from"].to_string()).collect();
    let distinct: std::collections::BTreeSet<_> = origins.iter().collect();
    assert_eq!((origins.len() as u64, distinct.len() as u64), (FIXABLE, FIXABLE));
}

#[test]
fn a_letter_is_redriven_once_unless_it_died_again_and_keeps_its_origin() {
    let scene = Scene::new(false);
    scene.run(&["--until-end"]);
    let first = scene.redrive(&["--reason", "malformed", "--limit", "10"]);
    assert_eq!((&first["letters"], &first["left_out"]["over_limit"]), (&json!(10), &json!(BROKEN - 10)), "{first}");
    let second = scene.redrive(&["--reason", "malformed"]);
    assert_eq!(second["letters"], json!(BROKEN - 10), "{second}");
    assert_eq!((&second["redrives"], &second["left_out"]["redriven_before"]), (&json!([1]), &json!(10)), "{second}");
    let refused = scene.0.command(&["dead-letters", "redrive", "--reason", "malformed"]).run().expect_code(1).stderr();
    assert!(refused.contains(&format!("nothing to redrive: all {BROKEN} letters")), "{refused}");
    let none = scene.0.command(&["dead-letters", "redrive", "--topic", "other"]).run().expect_code(1).stderr();
    assert!(none.contains("no dead letter is as asked for"), "{none}");

    // They die again, and are other letters then.
    scene.run(&["--until-end"]);
    let again = scene.redrive(&["--reason", "malformed", "--topic", "__redrive", "--partition", "0"]);
    assert_eq!((&again["redrives"], &again["letters"]), (&json!([2]), &json!(10)), "{again}");
    scene.run(&["--until-end"]);
    let shown = |topic: &str, number: &str| {
        scene.0.command(&["dead-letters", "show", topic, number, "3"]).run().expect_code(0).stdout()
    };
    let first_at = |text: &str| text.lines().find(|line| line.starts_with("first at")).map(str::to_owned);
    let (once, twice) = (first_at(&shown("__redrive", "0")), first_at(&shown("__redrive", "2")));
    assert!(once.as_ref().is_some_and(|line| line.contains("app:")), "{once:?}");
    assert_eq!(once, twice);

    let missing = scene.0.command(&["dead-letters", "redrive", "--with", "floodmark.toml"]).run().expect_code(2);
    assert!(missing.stderr().contains("has no section [records]"), "{}", missing.stderr());
    scene.0.file("wrong.toml", "[records]\nformat = \"access_log\"\n");
    let wrong = scene.0.command(&["dead-letters", "redrive", "--with", "wrong.toml"]).run().expect_code(2).stderr();
    assert!(wrong.contains("wrong.toml") && wrong.contains("\"url\" is no field of an access log"), "{wrong}");
}

#[test]
fn a_replay_repeats_what_was_redriven_of_its_range() {
    let scene = Scene::new(false);
    scene.run(&["--until-end"]);
    scene.redrive(&["--with", "fixed.toml"]);
    let half = std::fs::read(scene.0.path().join("in-1.log")).unwrap().len() / 2;
    scene.run(&["--from", &format!("in-1.log=0..{half}"), "--out", "replayed"]);
    let replayed = documents(&scene.0.path().join("replayed/logs.ndjson"));
    let redriven: Vec<_> = replayed.values().filter(|document| document["topic"] == "__redrive").collect();
    let is_in_range = |document: &&&Value| {
        let origin = &document["redriven_from"];
        origin["partition"] == 1 && origin["offset"].as_u64() < Some(half as u64)
    };
    assert!(redriven.len() > 100 && redriven.iter().all(|document| is_in_range(&document)), "{}", redriven.len());
    let records: i64 = windows(&scene.0.path().join("replayed/windows.ndjson"))
        .values()
        .filter(|window| window["view"] == "per_service")
        .map(|window| window["count"].as_i64().unwrap())
        .sum();
    assert_eq!(records as usize, replayed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refused_is_kept_as_it_came_and_counted_once_when_redriven() {
    let stub = Stub::start().await;
    stub.state.lock().item_fault = Some(Box::new(|line| {
        // At its place it is refused always, whatever is read again after the checkpoint.
        let is_redriven = line.document["topic"] == "__redrive";
        let is_refused = !is_redriven && line.document["n"].as_u64().is_some_and(|n| n % 10 == 3);
        is_refused.then(|| (400, json!({ "type": "document_parsing_exception", "reason": "no room" })))
    }));
    let dir = Dir::new();
    let line = |n: u64| {
        let time = format!("2023-11-14T22:{:02}:{:02}Z", n / 60, n % 60);
        format!(
            "{{\"timestamp\": \"{time}\",\"level\":\"warning\",\"original.level\":1,\"service_name\":\"a\",\"n\":{n}}}"
        )
    };
    dir.file("in-0.log", &(0..200).map(|n| line(n) + "\n").collect::<String>());
    let rest = "[source.files]\npaths = [\"in-*.log\"]\n[checkpoint]\nevery = \"20ms\"\n\
        [[view]]\nname = \"per_service\"\nwindow = \"10s\"\nallowed_lateness = \"20s\"\nretention = \"2h\"\n";
    let config = format!("data_dir = \"data\"\n[store.elasticsearch]\nurls = [\"{}\"]\n{rest}", stub.url);
    dir.file("floodmark.toml", &config);
    let scene = Scene(dir);
    let run = || tokio::task::block_in_place(|| scene.run(&["--until-end"]));
    // Log documents, and the records in windows.
    let held = || {
        let state = stub.state.lock();
        let documents = || state.documents.values().map(|(_, document)| document);
        let counts = documents().filter_map(|document| document["count"].as_u64());
        (documents().filter(|document| document["n"].is_u64()).count(), counts.sum::<u64>())
    };
    run();
    assert_eq!(held(), (180, 200));
    let letters = lines(&scene.data("dead-letters.ndjson"));
    let raws: Vec<_> = letters.iter().map(|letter| letter["raw"].as_str().unwrap()).collect();
    assert_eq!(raws, (0..200).filter(|n| n % 10 == 3).map(line).collect::<Vec<_>>());

    let done = tokio::task::block_in_place(|| scene.redrive(&["--reason", "unindexable"]));
    assert_eq!((&done["letters"], &done["readable"]), (&json!(20), &json!(20)), "{done}");
    run();
    assert_eq!(held(), (200, 200));
}

#[test]
fn a_fresh_start_that_can_read_redriven_records_in_their_places_reads_them_once() {
    let scene = Scene(Dir::new());
    scene.0.file("floodmark.toml", HEAD);
    scene.0.file("fixed.toml", TS);
    let line = |i: u64| format!("{{\"ts\":{},\"service_name\":\"a\"}}\n", 1_700_000_000_000 + i * 137);
    scene.0.file("in-0.log", &(0..100).map(line).collect::<String>());
    scene.run(&["--until-end"]);
    let done = scene.redrive(&["--with", "fixed.toml"]);
    assert_eq!(done["readable"], json!(100), "{done}");
    scene.run(&["--until-end", "--fresh"]);
    assert_eq!(scene.records(), 100, "with the old decoder the redrive has them");
    scene.0.file("floodmark.toml", &format!("{HEAD}{TS}"));
    std::fs::remove_file(scene.data("logs.ndjson")).unwrap();
    scene.run(&["--until-end", "--fresh"]);
    assert_eq!(scene.records(), 100);
    let documents = scene.documents();
    assert_eq!(documents.len(), 100);
    assert!(documents.keys().all(|(topic, ..)| topic == "app"));
}

const TS: &str = "[records.fields]\ntimestamp = \"ts\"\n";

/// Records whose time is `ts`; without [`TS`] they are dead letters, but for each tenth.
fn untimed(range: std::ops::Range<u64>) -> String {
    let line = |i: u64| {
        let (time, also) = (1_700_000_000_000 + i * 137, if i.is_multiple_of(10) { "timestamp" } else { "time" });
        format!("{{\"ts\":{time},\"{also}\":{time},\"service_name\":\"a\"}}\n")
    };
    range.map(line).collect()
}

#[test]
fn letters_of_records_that_a_restart_could_read_are_void() {
    let scene = Scene(Dir::new());
    let rarely = HEAD.replace("every = \"20ms\"", "every = \"1h\"");
    scene.0.file("floodmark.toml", &rarely);
    let file = scene.0.file("in-0.log", &untimed(0..30));
    let mut written = 30;
    let mut add = || {
        let mut file = OpenOptions::new().append(true).open(&file).unwrap();
        file.write_all(untimed(written..written + 10).as_bytes()).unwrap();
        written += 10;
        written
    };
    let listed = || {
        let said =
            scene.0.command(&["dead-letters", "list", "--json", "--limit", "100000"]).run().expect_code(0).stdout();
        said.lines().count() as u64
    };
    let dead = |api: Api| {
        let answer = api.get("/audit")?;
        let account = answer["partitions"].as_array()?.iter().find(|p| p["topic"] == "app")?.clone();
        (account["pending"] == 0).then_some((account["expected"].as_u64()?, account["dead_letters"].clone()))
    };
    let (run, api) = start(&scene, &[]);
    eventually("a checkpoint is made", || {
        add();
        api.text("/metrics")?.contains("floodmark_checkpoints_total 1").then_some(())
    });
    // Behind the only one.
    (0..5).for_each(|_| _ = add());
    let all = add();
    let letters = all / 10 * 9;
    eventually("all are read", || (dead(api)? == (all, json!({ "missing_timestamp": letters }))).then_some(()));
    eventually("all letters are written", || (listed() == letters).then_some(()));
    // SIGKILL.
    drop(run);
    scene.0.file("floodmark.toml", &format!("{rarely}{TS}"));
    let (run, api) = start(&scene, &["-w", "2"]);
    eventually("the rest is read again", || (dead(api)?.0 == all).then_some(()));
    let before = dead(api).unwrap().1["missing_timestamp"].as_u64().unwrap();
    assert!(before > 0 && before < letters, "{before} of {letters}");
    eventually("it is noted what was read again", || (listed() == before).then_some(()));
    let url = format!("http://{}", api.address());
    scene.0.command(&["audit", "--url", &url]).run().expect_code(0);
    let done = scene.redrive(&[]);
    assert_eq!((&done["letters"], &done["readable"]), (&json!(before), &json!(before)), "{done}");
    account(api, 0, before);
    drop(run);
    scene.run(&["--until-end"]);
    assert_eq!((scene.records(), scene.documents().len() as u64), (all, all));

    // What reads all of it anew has no need of any letter.
    std::fs::remove_file(scene.data("logs.ndjson")).unwrap();
    scene.run(&["--until-end", "--fresh"]);
    assert_eq!((scene.records(), scene.documents().len() as u64, listed()), (all, all, 0));
    assert!(scene.documents().keys().all(|(topic, ..)| topic == "app"));
}

#[test]
fn a_replay_that_can_read_redriven_records_in_their_places_reads_them_once() {
    let scene = Scene(Dir::new());
    scene.0.file("floodmark.toml", HEAD);
    scene.0.file("in-0.log", &untimed(0..100));
    scene.0.file("fixed.toml", TS);
    scene.run(&["--until-end"]);
    scene.redrive(&["--with", "fixed.toml"]);
    scene.0.file("floodmark.toml", &format!("{HEAD}{TS}"));
    scene.run(&["--from", "in-0.log=0..", "--out", "replayed"]);
    let replayed = documents(&scene.0.path().join("replayed/logs.ndjson"));
    assert_eq!(replayed.len(), 100);
    assert!(replayed.keys().all(|(topic, ..)| topic == "app"));
}
