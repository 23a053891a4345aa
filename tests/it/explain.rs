//! `floodmark explain`: alerts of generated incidents, derived again from the files they were read from.

use std::path::Path;

use serde_json::Value;

use crate::support::{Dir, Ran, Signal, eventually};

/// Six hours are quiet, half an hour with incidents follows.
const QUIET_RECORDS: u64 = 5 * 6 * 3_600;
const RECORDS: u64 = 5 * 1_800;

const CONFIG: &str = r#"
    [source.files]
    paths = ["logs/*.jsonl"]
    fingerprint_lines = 1
    [store.ndjson]
    [api]
    enabled = false
    [time]
    max_future = "1h"
    [[view]]
    name = "per_service"
    window = "60s"
    [[alert]]
    name = "unusual"
    when = ["score >= 50"]
    [[alert]]
    name = "errors"
    when = ["error_ratio > 0.3"]
"#;

/// A folder with a log of two partitions: hours without incidents, and then some.
fn setup() -> Dir {
    let dir = Dir::new();
    dir.file("floodmark.toml", CONFIG);
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    for (out, start, records, incidents) in [
        ("quiet", "2026-01-01T00:00:00Z", QUIET_RECORDS, "none"),
        ("loud", "2026-01-01T06:00:00Z", RECORDS, "scheduled"),
    ] {
        let records = records.to_string();
        let options = ["--records", &records, "--event-rate", "5", "--start", start, "--incidents", incidents];
        let labels = ["--labels", "labels.jsonl", "--seed", "7", "--out", out];
        dir.command(&[&["generate"], &options[..], &labels[..]].concat()).run().expect_code(0);
    }
    for part in ["part-0.jsonl", "part-1.jsonl"] {
        let read = |out: &str| std::fs::read(dir.path().join(out).join(part)).unwrap();
        std::fs::write(log(&dir, part), [read("quiet"), read("loud")].concat()).unwrap();
    }
    dir
}

fn log(dir: &Dir, part: &str) -> std::path::PathBuf {
    dir.path().join("logs").join(part)
}

/// What a run to the end of the log leaves of the alerts of a name, by the start of their strongest windows.
fn alerts(dir: &Dir, name: &str) -> Vec<Value> {
    for left in ["floodmark-data", "alerts.ndjson", "windows.ndjson", "logs.ndjson"] {
        let path = dir.path().join(left);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    dir.command(&["run", "-c", "floodmark.toml", "--until-end"]).run().expect_code(0);
    let text = std::fs::read_to_string(dir.path().join("alerts.ndjson")).unwrap();
    let mut last = std::collections::BTreeMap::new();
    for alert in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        last.insert(alert["id"].to_string(), alert);
    }
    let mut alerts: Vec<Value> = last.into_values().filter(|alert| alert["alert"] == name).collect();
    alerts.sort_by_key(|alert| alert["strongest"]["start"].as_u64());
    alerts
}

fn explain(dir: &Dir, alert: &Value, more: &[&str]) -> Ran {
    let id = alert["id"].as_str().unwrap();
    dir.command(&[&["explain", id, "-c", "floodmark.toml"], more].concat()).run()
}

/// A line of a record that is in the alert's strongest window, as it is in the file, with the place of the line.
fn line_of(path: &Path, alert: &Value) -> (usize, String) {
    let text = std::fs::read_to_string(path).unwrap();
    let window = &alert["strongest"];
    let range = window["start"].as_u64().unwrap()..window["end"].as_u64().unwrap();
    let is_in = |line: &&str| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["service_name"] == window["key"]["service_name"]
            && range.contains(&record["timestamp"].as_u64().unwrap())
    };
    // Behind the first one of the window, so that its offsets stay.
    let line = text.lines().filter(is_in).nth(1).expect("a record of the window");
    (line.as_ptr() as usize - text.as_ptr() as usize, line.to_owned())
}

#[test]
fn alerts_are_derived_again_with_the_same_score() {
    let dir = setup();
    let unusual = alerts(&dir, "unusual");
    assert!(!unusual.is_empty(), "the incidents raise no alert");
    for alert in &unusual {
        let window = &alert["strongest"];
        assert_eq!(window["baselines"].as_array().unwrap().len(), 3, "{window}");
        assert!(!window["offsets"].as_array().unwrap().is_empty(), "{window}");
        let ran = explain(&dir, alert, &[]).expect_code(0);
        let score = &window["score"]["score"];
        assert!(ran.stdout().contains(&format!("; the alert says {score}\nsame")), "{}", ran.stdout());
        let ran = explain(&dir, alert, &["--json"]).expect_code(0);
        let told: Value = serde_json::from_str(&ran.stdout()).unwrap();
        let last = told["windows"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["now"]["score"]["score"], &told["same"]), (score, &Value::Bool(true)));
        let of_window = last["now"]["score"]["measures"].as_array().unwrap();
        let rate = of_window.iter().find(|measure| measure["measure"] == "rate").unwrap();
        assert_eq!((rate["actual"].as_f64().unwrap() * 60.0).round(), last["matched"].as_f64().unwrap());
    }
    // An alert about something that is no score carries where its records are.
    let errors = alerts(&dir, "errors");
    assert!(!errors.is_empty(), "no error burst");
    assert!(errors[0]["first"].get("baselines").is_none());
    explain(&dir, &errors[0], &[]).expect_code(0);

    // A record that came late belongs to it.
    let alert = unusual.last().unwrap();
    let part = log(&dir, "part-0.jsonl");
    let (place, line) = line_of(&part, alert);
    let text = std::fs::read_to_string(&part).unwrap();
    let late_at = text.len() - 100 * line.len();
    let late_at = late_at + text[late_at..].find('\n').unwrap() + 1;
    assert!(late_at > place);
    std::fs::write(&part, format!("{}{line}\n{}", &text[..late_at], &text[late_at..])).unwrap();
    let amended = alerts(&dir, "unusual");
    let strongest = |alert: &&Value| alert["strongest"]["start"] == amended_start(&unusual);
    let amended = amended.iter().find(strongest).expect("the alert still holds");
    let last = |alert: &Value| alert["strongest"]["offsets"][0]["last"].as_u64().unwrap();
    assert!(last(amended) > last(alert), "the late record is in the range");
    explain(&dir, amended, &[]).expect_code(0);

    // Records that were changed since are noticed, also where everything keeps its place.
    let (place, line) = line_of(&part, amended);
    let mut bytes = std::fs::read(&part).unwrap();
    let time = line.find("\"timestamp\":").unwrap() + "\"timestamp\":".len();
    let moved = line[time..time + 13].parse::<u64>().unwrap() - 3_600_000;
    bytes[place + time..place + time + 13].copy_from_slice(moved.to_string().as_bytes());
    std::fs::write(&part, bytes).unwrap();
    let ran = explain(&dir, amended, &[]).expect_code(1);
    assert!(ran.stdout().contains("differs: "), "{}", ran.stdout());
    assert!(ran.stderr().contains("do not give what the alert says"), "{}", ran.stderr());

    // And those that are gone.
    std::fs::remove_file(&part).unwrap();
    let ran = explain(&dir, amended, &[]).expect_code(1);
    assert!(ran.stderr().contains("cannot be read again"), "{}", ran.stderr());
}

fn amended_start(alerts: &[Value]) -> Value {
    alerts.last().unwrap()["strongest"]["start"].clone()
}

#[test]
fn another_configuration_and_an_unknown_alert_are_named() {
    let dir = setup();
    let unusual = alerts(&dir, "unusual");
    dir.file("floodmark.toml", &CONFIG.replace("max_future = \"1h\"", "max_future = \"2h\""));
    let ran = explain(&dir, &unusual[0], &[]).expect_code(2);
    assert!(ran.stderr().contains("another configuration: time changed since"), "{}", ran.stderr());
    explain(&dir, &unusual[0], &["--anyway"]).expect_code(0);
    let ran = explain(&dir, &serde_json::json!({ "id": "beef" }), &[]).expect_code(1);
    assert!(ran.stderr().contains("there is no alert beef"), "{}", ran.stderr());
}

/// A window without records is derived from where nothing is, and a pattern that is new from what was expected of new ones.
#[test]
fn silence_and_new_patterns_are_derived_again() {
    let dir = Dir::new();
    let config = r#"
        [source.files]
        paths = ["in.log"]
        fingerprint_lines = 1
        [store.ndjson]
        [api]
        enabled = false
        [[view]]
        name = "per_service"
        score = ["rate", "p50"]
        [[view]]
        name = "per_pattern"
        key = ["service_name", "pattern"]
        score = ["new", "rate"]
        [[alert]]
        name = "silent"
        view = "per_service"
        when = ["score >= 50", "count < 1"]
        [[alert]]
        name = "new"
        view = "per_pattern"
        group = false
        when = ["score >= 20"]
    "#;
    dir.file("floodmark.toml", config);
    let mut log = String::new();
    let message = |second: u64| if second == 18_000 { "the sky has fallen" } else { "request served" };
    for second in (0..20_000_u64).step_by(2) {
        // As many as usual, more or less.
        for (service, is_there) in [("a", !(19_000..19_300).contains(&second)), ("b", second % 14 != 0)] {
            let (time, took) = (1_769_846_400_000 + second * 1_000, 50 + second * 7 % 40);
            let record = serde_json::json!({
                "timestamp": time, "service_name": service, "message": message(second), "response_time_ms": took,
            });
            if is_there {
                log.push_str(&format!("{record}\n"));
            }
        }
    }
    dir.file("in.log", &log);
    let silent = alerts(&dir, "silent");
    assert!(silent.iter().any(|alert| alert["first"].get("offsets").is_none()), "{silent:?}");
    let new = alerts(&dir, "new");
    let is_new = |alert: &Value| alert["strongest"]["score"]["measures"][0]["measure"] == "new";
    assert!(new.iter().any(is_new), "{new:?}");
    for alert in silent.iter().chain(&new) {
        let told = explain(&dir, alert, &["--json"]).expect_code(0).stdout();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["same"], true, "{told}");
    }
}

/// What the generator made is made again, also where it began by the clock.
#[test]
fn alerts_of_generated_records_are_derived_again() {
    let dir = Dir::new();
    dir.file(
        "floodmark.toml",
        r#"
        [source.generator]
        rate = 2000
        [store.ndjson]
        [api]
        listen = "127.0.0.1:0"
        [[view]]
        name = "per_service"
        window = "1s"
        [[alert]]
        name = "busy"
        when = ["count >= 3"]
        "#,
    );
    let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
    let api = run.api();
    let alert = eventually("an alert is raised", || api.get("/alerts")?["alerts"].get(0).cloned());
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    let ran = explain(&dir, &alert, &["--json"]).expect_code(0);
    let told: Value = serde_json::from_str(&ran.stdout()).unwrap();
    assert!(told["windows"][0]["matched"].as_u64() >= Some(3), "{told}");

    let text = std::fs::read_to_string(dir.path().join("floodmark.toml")).unwrap();
    dir.file("floodmark.toml", &text.replace("rate = 2000", "rate = 2000\n        seed = 7"));
    let ran = explain(&dir, &alert, &["--anyway"]).expect_code(1);
    assert!(ran.stderr().contains("another run of the generator"), "{}", ran.stderr());
}
