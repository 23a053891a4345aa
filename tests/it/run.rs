//! `floodmark run` and `floodmark demo` as processes: end of input, signals, the API.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Dir, Signal, eventually};

const SERVICES: [&str; 3] = ["auth-service", "payment-service", "user-service"];

/// JSON records a tenth of a second apart, ending now.
fn records(count: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64;
    (0..count).fold(String::new(), |mut text, i| {
        let timestamp = now - (count - i) * 100;
        let service = SERVICES[i as usize % SERVICES.len()];
        let _ =
            writeln!(text, r#"{{"timestamp":{timestamp},"service_name":"{service}","level":"INFO","message":"m{i}"}}"#);
        text
    })
}

fn lines(dir: &Dir, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The last state of each window, summed.
fn counted(windows: &[Value]) -> u64 {
    let last =
        windows.iter().map(|w| ((w["key"].to_string(), w["start"].as_u64()), w["count"].as_u64().expect("a count")));
    last.collect::<std::collections::BTreeMap<_, _>>().values().sum()
}

const TO_FILES: &str = "\
    [source.files]\npaths = [\"in.log*\"]\npoll_interval = \"20ms\"\n\
    [store.ndjson]\nlogs = \"logs.ndjson\"\nwindows = \"windows.ndjson\"\n\
    [api]\nlisten = \"127.0.0.1:0\"\n";

#[test]
fn until_end_writes_everything_and_exits_0() {
    let dir = Dir::new();
    dir.file("in.log", &records(1_000));
    dir.file("floodmark.toml", TO_FILES);
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    assert_eq!(lines(&dir, "logs.ndjson").len(), 1_000);
    assert_eq!(counted(&lines(&dir, "windows.ndjson")), 1_000);
}

#[test]
fn sigterm_writes_what_was_read_and_exits_0() {
    let dir = Dir::new();
    dir.file("in.log", &records(1_000));
    dir.file("floodmark.toml", TO_FILES);
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    eventually("all records are counted", || {
        let stats = api.get("/logs/stats")?;
        (stats["total_logs"] == 1_000 || stats["total_logs"] == 999).then_some(())
    });
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    assert_eq!(lines(&dir, "logs.ndjson").len(), 1_000);
}

#[test]
fn a_store_that_fails_ends_the_run_with_an_error() {
    let dir = Dir::new();
    dir.file("in.log", &records(1_000));
    dir.file("floodmark.toml", &TO_FILES.replace("logs.ndjson", "/dev/full"));
    dir.command(&["run", "--until-end"]).run().expect_code(1);
}

#[test]
fn a_paced_generated_log_ends_after_its_last_record() {
    let dir = Dir::new();
    let generator = "[source.generator]\ncount = 500\nrate = 2000\n";
    let store = TO_FILES.split_once("[store").expect("a store").1;
    dir.file("floodmark.toml", &format!("{generator}[store{store}"));
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    assert_eq!(lines(&dir, "logs.ndjson").len(), 500);
}

#[test]
fn a_second_signal_ends_at_once() {
    let dir = Dir::new();
    dir.file("in.log", &records(2_000));
    // Standard output is a pipe that nobody reads: what was read cannot be stored, and stopping waits.
    dir.file("floodmark.toml", &TO_FILES.replace("logs.ndjson", "-"));
    let mut run = dir.command(&["run"]).start_unread();
    let api = run.api();
    eventually("records are read", || (api.get("/progress")?["partitions"][0]["offset"].as_u64()? > 0).then_some(()));
    run.signal(Signal::Terminate);
    run.expect_line("stopping");
    run.signal(Signal::Terminate);
    run.wait().expect_code(143);
}

#[test]
fn the_demo_moves_and_cleans_up() {
    let dir = Dir::new();
    let temporary = dir.path().to_string_lossy().into_owned();
    let mut demo = dir.command(&["demo", "--port", "0", "--rate", "2000"]).env("TMPDIR", &temporary).start();
    let api = demo.api();
    let total = || api.get("/logs/stats")?["total_logs"].as_u64().filter(|total| *total > 0);
    let first = eventually("records are counted", total);
    eventually("more records are counted", || total().filter(|total| *total > first));
    let found = eventually("records can be searched", || {
        api.get("/logs?size=1")?["logs"].as_array().filter(|logs| !logs.is_empty()).cloned()
    });
    assert!(found[0]["service_name"].is_string(), "{found:?}");
    eventually("windows are there", || api.get("/views/per_service?size=1")?["windows"].as_array()?.first().cloned());
    demo.signal(Signal::Interrupt);
    demo.wait().expect_code(0);
    assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 0, "the demo removes its folder");
}

/// An idle partition takes its hold from marks, a worker without partitions from what the others tell. Neither may hold a
/// backlog to `max_ahead` a second.
#[test]
fn a_backlog_is_read_fast_beside_an_idle_partition_and_an_idle_worker() {
    let dir = Dir::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64;
    const HOURS: u64 = 6;
    let record = |ms: u64| format!("{{\"timestamp\":{ms},\"service_name\":\"a\",\"level\":\"INFO\"}}\n");
    let start = now - HOURS * 3_600_000;
    dir.file("in.log.1", &record(start));
    dir.file("in.log.2", &(0..HOURS * 3_600).map(|second| record(start + second * 1_000 + 1)).collect::<String>());
    let time = "[time]\nidle_after = \"1s\"\n";
    dir.file("floodmark.toml", &format!("{time}{TO_FILES}"));
    let mut run = dir.command(&["run", "-w", "3"]).start();
    let api = run.api();
    // Held to time.max_ahead (1 minute) a second, this would take six minutes.
    eventually("the backlog is counted", || {
        let stats = api.get("/logs/stats")?;
        (stats["total_logs"].as_u64()? >= HOURS * 3_600).then_some(())
    });
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
}

#[test]
fn a_damaged_file_ends_a_run_over_what_is_there() {
    use std::io::Write as _;
    let dir = Dir::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for n in 0..20_000u64 {
        let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let ms = 1_700_000_000_000 + n;
        writeln!(gzip, "{{\"timestamp\":{ms},\"service_name\":\"a\",\"message\":\"{word:x}\"}}").unwrap();
    }
    let whole = gzip.finish().unwrap();
    std::fs::write(dir.path().join("in.log.gz"), &whole[..whole.len() / 2]).unwrap();
    let head = "data_dir = \"data\"\n[source.files]\npaths = [\"in.log.gz\"]\n[store.none]\n";
    dir.file("floodmark.toml", head);
    let ran = dir.command(&["run", "--until-end"]).run().expect_code(1);
    let said = ran.stdout() + &ran.stderr();
    assert!(said.contains("could not be read at position"), "{said}");
}

#[test]
fn progress_says_which_file_a_partition_is() {
    let dir = Dir::new();
    dir.file("a.jsonl", "{\"timestamp\":1700000000000,\"message\":\"a\"}\n");
    dir.file("b.jsonl", "{\"timestamp\":1700000000000,\"message\":\"b\"}\n");
    dir.file(
        "floodmark.toml",
        "[source.files]\npaths = [\"*.jsonl\"]\n[store.none]\n[api]\nlisten = \"127.0.0.1:0\"\n",
    );
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    let progress = eventually("both files are there", || {
        let found = api.get("/progress")?;
        let has_path = |partition: &serde_json::Value| partition["path"].is_string();
        let partitions = found["partitions"].as_array()?;
        (partitions.len() == 2 && partitions.iter().all(has_path) && has_path(&found["held_by"])).then_some(found)
    });
    let partitions = progress["partitions"].as_array().unwrap();
    let names = ["a.jsonl", "b.jsonl"];
    assert!(names.iter().all(|name| partitions.iter().any(|of| of["path"].as_str().unwrap().ends_with(name))));
    assert_ne!(partitions[0]["identity"], partitions[1]["identity"]);
}
