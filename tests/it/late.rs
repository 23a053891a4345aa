//! Late records leave no trace: scores, alerts and counts of patterns end with what they are when everything comes in order,
//! for any number of workers and processes. And an incident of several services is one alert.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Api, Dir, Running, Signal, eventually};

/// Three and a half hours of four services, and of one record for each partition behind them.
const RECORDS: usize = 26_000;
const PARTITIONS: usize = 3;
const START: u64 = 1_767_225_600_000;
const END: u64 = START + RECORDS as u64 / 2 * 1_000;
const MINUTE: u64 = 60_000;
/// What may come late comes so much later at the most: within the retention.
const LATEST: u64 = 15 * MINUTE;
/// Minutes of a service that come late as a whole: in the midst of an incident, which is amended, and in quiet, where what was
/// said of its silence is retracted.
const HELD: [(u64, u64, &str); 2] = [(181, 186, "auth-service"), (194, 198, "inventory-service")];
const HELD_FOR: u64 = 10 * MINUTE;
/// The event time of the last record of each partition.
const CLOSED: u64 = END + 5 * MINUTE;

/// Nothing becomes idle meanwhile: what is final depends on the records alone.
const CONFIG: &str = r#"
    data_dir = "data"
    [source.files]
    paths = ["in-*.log"]
    poll_interval = "20ms"
    [store.ndjson]
    [api]
    listen = "127.0.0.1:0"
    [time]
    idle_after = "10m"
    [[view]]
    name = "per_service"
    window = "1m"
    allowed_lateness = "1m"
    retention = "1h"
    [[view]]
    name = "sliding"
    key = ["service_name", "method"]
    window = "2m"
    slide = "1m"
    allowed_lateness = "1m"
    retention = "1h"
    score = ["rate", "mean"]
    [[alert]]
    name = "unusual"
    when = ["score >= 50"]
    close_after = 2
    [[alert]]
    name = "errors"
    when = ["error_ratio > 0.2", "count >= 5"]
    for = 2
    group = false
    [[alert]]
    name = "sliding"
    view = "sliding"
    when = ["score >= 60"]
"#;

/// Generated records by partition. In minute 180 a service gets slow, and with it two others that fail.
fn records() -> Vec<Vec<(u64, String)>> {
    let dir = Dir::new();
    let (records, partitions) = (RECORDS.to_string(), PARTITIONS.to_string());
    let arguments = ["generate", "--out", ".", "--records", &records, "--partitions", &partitions, "--services", "4"];
    let more = ["--event-rate", "2", "--seed", "7", "--incidents", "none"];
    dir.command(&[&arguments[..], &more].concat()).run().expect_code(0);
    let minutes = |from: u64, to: u64| START + from * MINUTE..START + to * MINUTE;
    let read_one = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let at = record["timestamp"].as_u64().unwrap();
        let (slower, is_error) = match record["service_name"].as_str().unwrap() {
            "payment-service" if minutes(180, 184).contains(&at) => (2.2, false),
            "auth-service" if minutes(181, 186).contains(&at) => (8.0, true),
            "user-service" if minutes(182, 184).contains(&at) => (8.0, true),
            _ => (1.0, false),
        };
        record["response_time_ms"] = json!(record["response_time_ms"].as_f64().unwrap() * slower);
        if is_error {
            record["level"] = json!("ERROR");
        }
        (at, record.to_string())
    };
    let read = |number: usize| {
        let text = std::fs::read_to_string(dir.path().join(format!("part-{number}.jsonl"))).unwrap();
        let mut records: Vec<(u64, String)> = text.lines().map(read_one).collect();
        records.sort_by_key(|(at, _)| *at);
        records
    };
    (0..PARTITIONS).map(read).collect()
}

/// The same records in the order in which they come when some are late: single ones, and minutes of two services. In parts: one
/// ends before each of these minutes comes, when all that is known is that the service said nothing.
fn disordered(records: &[Vec<(u64, String)>]) -> Vec<Vec<Vec<(u64, String)>>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut parts = vec![vec![Vec::new(); records.len()]; HELD.len() + 1];
    for (partition, records) in records.iter().enumerate() {
        let mut coming: Vec<(u64, u64, &String)> = records
            .iter()
            .map(|(at, text)| {
                let is_held = |held: &(u64, u64, &str)| {
                    (START + held.0 * MINUTE..START + held.1 * MINUTE).contains(at) && text.contains(held.2)
                };
                let delay = match rng.random_range(0..100) {
                    _ if *at > END - LATEST => 0,
                    _ if HELD.iter().any(is_held) => HELD_FOR,
                    0..4 => rng.random_range(0..LATEST),
                    4..30 => rng.random_range(0..20_000),
                    _ => 0,
                };
                (at + delay, *at, text)
            })
            .collect();
        coming.sort_by_key(|(comes, at, _)| (*comes, *at));
        for (comes, at, text) in coming {
            let part = HELD.iter().filter(|held| comes >= START + held.0 * MINUTE + HELD_FOR).count();
            parts[part][partition].push((at, text.clone()));
        }
    }
    parts
}

/// What a run ended with, without what tells how it came to be known.
#[derive(Debug, PartialEq)]
struct Outcome {
    scores: BTreeMap<String, Value>,
    alerts: BTreeMap<String, Value>,
    patterns: BTreeMap<String, Value>,
    corrected: usize,
    retracted: usize,
}

/// Documents of a kind, of all processes, the last of each identity.
fn last(dir: &Dir, kind: &str, identity: impl Fn(&Value) -> String) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(kind) && name.ends_with(".ndjson") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let document: Value = serde_json::from_str(line).unwrap();
                found.insert(identity(&document), document);
            }
        }
    }
    found
}

/// Takes fields out of an object.
fn without(mut value: Value, fields: &[&str]) -> Value {
    if let Some(object) = value.as_object_mut() {
        fields.iter().for_each(|field| _ = object.remove(*field));
    }
    value
}

impl Outcome {
    fn read(dir: &Dir, patterns: &Value) -> Self {
        let windows = last(dir, "windows", |w| format!("{} {} {}", w["view"], w["key"], w["start"]));
        let corrected = windows.values().filter(|window| window["revision"] != 0).count();
        let is_shown = |window: &Value| {
            let is_silent = window["count"] == 0 && window["score"]["score"].as_u64() < Some(50);
            window["final"] == true && !is_silent
        };
        let score = |(place, mut window): (String, Value)| {
            window["score"] = without(window["score"].take(), &["offsets"]);
            (place, without(window, &["revision", "late_records", "previous", "as_of"]))
        };
        let alerts = last(dir, "alerts", |alert| alert["id"].as_str().unwrap().to_owned());
        let is_retracted = |alert: &Value| alert["state"] == "retracted";
        let retracted = alerts.values().filter(|alert| is_retracted(alert)).count();
        let alert = |(id, mut alert): (String, Value)| {
            for window in ["first", "strongest"] {
                alert[window] = without(alert[window].take(), &["offsets"]);
            }
            (id, without(alert, &["revision", "as_of"]))
        };
        let pattern = |pattern: &Value| {
            let mut pattern = without(pattern.clone(), &["new", "rate"]);
            pattern["sample"] = without(pattern["sample"].take(), &["offset"]);
            pattern["samples"].as_array_mut().unwrap().iter_mut().for_each(|s| *s = without(s.take(), &["offset"]));
            (pattern["id"].as_str().unwrap().to_owned(), pattern)
        };
        Self {
            scores: windows.into_iter().filter(|(_, window)| is_shown(window)).map(score).collect(),
            alerts: alerts.into_iter().filter(|(_, alert)| !is_retracted(alert)).map(alert).collect(),
            patterns: patterns["patterns"].as_array().unwrap().iter().map(pattern).collect(),
            corrected,
            retracted,
        }
    }

    fn parts(&self) -> [(&'static str, &BTreeMap<String, Value>); 3] {
        [("scores", &self.scores), ("alerts", &self.alerts), ("patterns", &self.patterns)]
    }

    /// One hash for each of the three.
    fn hashes(&self) -> [String; 3] {
        self.parts().map(|(_, part)| {
            let digest = Sha256::digest(serde_json::to_vec(part).unwrap());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    #[track_caller]
    fn assert_is(&self, expected: &Self, run: &str) {
        for ((what, is), (_, expected)) in self.parts().into_iter().zip(expected.parts()) {
            let all: BTreeSet<&String> = is.keys().chain(expected.keys()).collect();
            let different: Vec<_> = all.into_iter().filter(|place| is.get(*place) != expected.get(*place)).collect();
            if let Some(first) = different.first() {
                let count = different.len();
                panic!(
                    "{run}: {count} {what} differ, first {first}:\n{:?}\n{:?}",
                    is.get(*first),
                    expected.get(*first)
                );
            }
        }
        assert_eq!(self.hashes(), expected.hashes(), "{run}");
    }
}

/// Puts records at the ends of the files that are read.
fn append(dir: &Dir, records: &[Vec<(u64, String)>]) {
    for (number, records) in records.iter().enumerate() {
        let path = dir.path().join(format!("in-{number}.log"));
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let text: String = records.iter().map(|(_, text)| text.clone() + "\n").collect();
        file.write_all(text.as_bytes()).unwrap();
    }
}

/// Waits until everything is counted and told as of `reached`.
fn read_up_to(api: &Api, reached: u64) {
    eventually("all is counted", || {
        ["/views/per_service?size=1", "/alerts?size=1"]
            .iter()
            .all(|path| api.get(path).is_some_and(|answer| answer["as_of"].as_u64() >= Some(reached)))
            .then_some(())
    });
}

/// Runs over these records until all are in, with a number of processes and workers in each. The records of a part are
/// written when everything of the part before is known.
fn run(parts: &[Vec<Vec<(u64, String)>>], processes: usize, workers: &str) -> Outcome {
    let dir = Dir::new();
    dir.file("floodmark.toml", CONFIG);
    append(&dir, &parts[0]);
    let ports: Vec<_> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let hosts: String = ports.iter().map(|port| format!("{}\n", port.local_addr().unwrap())).collect();
    drop(ports);
    dir.file("hosts", &hosts);
    let start = |process: usize| {
        let (count, process) = (processes.to_string(), process.to_string());
        let cluster = ["-n", &count, "-p", &process, "-h", "hosts"];
        let cluster = if processes > 1 { &cluster[..] } else { &[] };
        dir.command(&[&["run", "-w", workers][..], cluster].concat()).start()
    };
    let mut running: Vec<Running> = (0..processes).map(start).collect();
    let apis: Vec<_> = running.iter_mut().map(Running::api).collect();
    for window in parts.windows(2) {
        let clock = |records: &Vec<(u64, String)>| records.iter().map(|(at, _)| *at).max().unwrap();
        let reached = window[0].iter().map(clock).min().unwrap() / 1_000 * 1_000;
        apis.iter().for_each(|api| read_up_to(api, reached));
        append(&dir, &window[1]);
    }
    // Closes what is before it. Nothing is said as of a time behind it.
    let last = json!({"timestamp": CLOSED, "service_name": "auth-service", "method": "GET", "message": "end"});
    append(&dir, &vec![vec![(CLOSED, last.to_string())]; PARTITIONS]);
    let mut patterns = Value::Null;
    for api in apis {
        read_up_to(&api, CLOSED);
        eventually("all is counted", || (api.get("/logs/stats")?["total_logs"] == RECORDS).then_some(()));
        let answer = api.get("/patterns?size=1000").unwrap();
        assert_eq!(
            (&answer["count"], answer["total"].as_u64()),
            (&json!(RECORDS), Some(answer["patterns"].as_array().unwrap().len() as u64))
        );
        assert!(patterns.is_null() || patterns == answer, "the same on every process");
        patterns = answer;
    }
    running[0].signal(Signal::Terminate);
    running.into_iter().for_each(|process| _ = process.wait().expect_code(0));
    Outcome::read(&dir, &patterns)
}

#[test]
fn late_records_leave_the_scores_alerts_and_patterns_of_a_run_in_order() {
    let in_order = records();
    let late = disordered(&in_order);
    let expected = run(&[in_order], 1, "1");
    assert_eq!((expected.corrected, expected.retracted), (0, 0));
    println!("scores, alerts, patterns: {:?}", expected.hashes());
    let names: BTreeSet<&str> = expected.alerts.values().map(|alert| alert["alert"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["errors", "sliding", "unusual"]));
    assert!(expected.scores.len() > 1_000 && expected.patterns.len() > 10);
    incident_is_one(&expected);
    for (processes, workers) in [(1, "1"), (1, "2"), (1, "4"), (2, "2")] {
        let outcome = run(&late, processes, workers);
        assert!(outcome.corrected > 100, "{} windows corrected", outcome.corrected);
        assert!(outcome.retracted > 0, "the service that was late was silent at first");
        outcome.assert_is(&expected, &format!("{processes} processes, {workers} workers each"));
    }
}

/// What is said of the services that failed together, by the scores of their windows.
fn incident_is_one(outcome: &Outcome) {
    let services = BTreeSet::from(["payment-service", "auth-service", "user-service"]);
    let service = |value: &Value| value["key"]["service_name"].as_str().unwrap().to_owned();
    let of_incident: Vec<&Value> = outcome
        .alerts
        .values()
        .filter(|alert| alert["alert"] == "unusual")
        .filter(|alert| {
            alert["start"].as_u64() < Some(START + 184 * MINUTE) && alert["end"].as_u64() > Some(START + 180 * MINUTE)
        })
        .collect();
    let [incident] = of_incident[..] else { panic!("{} incidents: {of_incident:#?}", of_incident.len()) };
    assert_eq!(incident["state"], "closed");
    let keys: BTreeSet<&str> =
        incident["keys"].as_array().unwrap().iter().map(|key| key["service_name"].as_str().unwrap()).collect();
    assert_eq!(keys, services);
    // The windows that it is made of, by their scores alone.
    let (start, end) = (incident["start"].as_u64().unwrap(), incident["end"].as_u64().unwrap());
    let mut windows: Vec<&Value> = outcome
        .scores
        .values()
        .filter(|window| window["view"] == "per_service" && window["score"]["learning"] == false)
        .filter(|window| window["score"]["score"].as_u64() >= Some(50))
        .filter(|window| (start..end).contains(&window["start"].as_u64().unwrap()))
        .collect();
    windows.sort_by_key(|window| (window["start"].as_u64(), service(window)));
    assert_eq!(incident["windows"], windows.len());
    let first = windows[0];
    assert_eq!((service(&incident["first"]), &incident["first"]["start"]), (service(first), &first["start"]));
    assert_eq!(service(first), "payment-service", "it began there");
    let highest = windows.iter().map(|window| window["score"]["score"].as_u64()).max().unwrap();
    let strongest = windows.iter().find(|window| window["score"]["score"].as_u64() == highest).unwrap();
    assert_eq!(
        (service(&incident["strongest"]), &incident["strongest"]["start"]),
        (service(strongest), &strongest["start"])
    );
    assert_eq!(incident["strongest"]["score"], strongest["score"]);
    assert_ne!(service(strongest), service(first), "it was worst elsewhere");
    let summary = incident["summary"].as_str().unwrap();
    assert!(summary.contains(&service(strongest)) && summary.contains("of 3 keys"), "{summary}");
}
