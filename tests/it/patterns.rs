//! `floodmark patterns`.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{Dir, eventually};

fn text() -> String {
    (0..30)
        .map(|i| match i % 3 {
            0 => format!("2024-05-01 10:00:{i:02} INFO  app.Disk: disk {i} has {}.5 GB left\n", i * 7),
            1 => format!("2024-05-01 10:00:{i:02} WARN  app.Net: connection to 10.0.0.{i}:80 lost\n"),
            _ => format!("2024-05-01 10:00:{i:02} INFO  app.Net: user=u{i} logged in\n"),
        })
        .collect()
}

fn json(dir: &Dir, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["patterns", "--json"].iter().chain(arguments).copied().collect();
    let stdout = dir.command(&arguments).run().expect_code(0).stdout();
    serde_json::from_str(&stdout).expect("JSON")
}

#[test]
fn a_table_shows_counts_and_a_sample() {
    let dir = Dir::new();
    dir.file("app.log", &text());
    let table = dir.command(&["patterns", "app.log"]).run().expect_code(0).stdout();
    for expected in [
        "       10  33.3%         1        28  disk <*> has <*> left\n",
        "disk 0 has 0.5 GB left\n",
        "connection to <*>:<*> lost\n",
        "user=<*> logged in\n",
        "\n30 lines, 3 patterns\n",
    ] {
        assert!(table.contains(expected), "{expected}\nnot in\n{table}");
    }
    let top = dir.command(&["patterns", "app.log", "--top", "1"]).run().expect_code(0).stdout();
    assert!(top.contains("2 patterns with 20 lines are not shown"), "{top}");
}

#[test]
fn compressed_files_give_the_same_and_counts_sum_to_the_lines() {
    let dir = Dir::new();
    dir.file("app.log", &text());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text().as_bytes()).unwrap();
    std::fs::write(dir.path().join("app.log.gz"), gzip.finish().unwrap()).unwrap();
    std::fs::write(dir.path().join("app.log.zst"), zstd::encode_all(text().as_bytes(), 1).unwrap()).unwrap();
    let plain = json(&dir, &["app.log"]);
    assert_eq!(json(&dir, &["app.log.gz"]), plain);
    assert_eq!(json(&dir, &["app.log.zst"]), plain);
    let all = json(&dir, &["app.log", "app.log.gz", "app.log.zst"]);
    let ids = |found: &Value| -> Vec<Value> {
        found["patterns"].as_array().unwrap().iter().map(|pattern| pattern["id"].clone()).collect()
    };
    assert_eq!(ids(&all), ids(&plain));
    let sum: u64 = all["patterns"].as_array().unwrap().iter().map(|pattern| pattern["count"].as_u64().unwrap()).sum();
    assert_eq!((sum, &all["lines"]), (90, &Value::from(90)));
}

#[test]
fn csv_has_a_row_for_each_line() {
    let dir = Dir::new();
    // A line that is not UTF-8, an empty one, and a last one without an end.
    let bytes = b"a, \"quoted\" 5\n\n\xff\xfe broken\r\na, \"quoted\" 6";
    std::fs::write(dir.path().join("odd.log"), bytes).unwrap();
    let csv = dir.command(&["patterns", "--csv", "odd.log"]).run().expect_code(0).stdout();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(reader.headers().unwrap(), vec!["LineId", "EventId", "EventTemplate"]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let column = |at: usize| rows.iter().map(|row| row[at].to_owned()).collect::<Vec<_>>();
    assert_eq!(column(0), ["1", "2", "3", "4"]);
    assert_eq!(column(2), ["a, \"quoted\" <*>", "", "\u{fffd}\u{fffd} broken", "a, \"quoted\" <*>"]);
    assert_eq!(rows[0][1], rows[3][1]);
    assert_ne!(rows[0][1], rows[1][1]);
}

#[test]
fn json_lines_count_by_their_message() {
    let dir = Dir::new();
    dir.file(
        "app.jsonl",
        "{\"timestamp\":1,\"message\":\"took 5 ms\"}\n{\"timestamp\":2,\"message\":\"took 6 ms\"}\n{\"no\":\"time\"}\n",
    );
    dir.file("pino.jsonl", "{\"time\":1,\"level\":30,\"msg\":\"took 7 ms\"}\n");
    let found = json(&dir, &["app.jsonl"]);
    assert_eq!(found["patterns"][0]["template"], "took <*> ms");
    assert_eq!(found["patterns"][0]["count"], 2);
    assert_eq!(found["not_understood"], 1);
    let pino = json(&dir, &["--preset", "pino", "pino.jsonl"]);
    assert_eq!(pino["patterns"][0]["id"], found["patterns"][0]["id"]);
}

#[test]
fn a_terminal_is_safe_and_memory_is_bounded() {
    let dir = Dir::new();
    let mut text = "\x1b]0;owned\x07 title\n".to_owned();
    for a in b'a'..=b'z' {
        for b in b'a'..=b'z' {
            text.push_str(&format!("x{}{}\n", a as char, b as char));
        }
    }
    dir.file("odd.log", &text);
    let table = dir.command(&["patterns", "odd.log", "--max", "10", "--top", "0"]).run().expect_code(0).stdout();
    assert!(!table.contains('\x1b') && !table.contains('\x07'), "{table:?}");
    assert!(table.contains("\\u{1b}]0;owned"), "{table}");
    assert!(
        table.contains("      667  98.5%        11       677  (what did not fit into --max 10 first cuts)"),
        "{table}"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = Dir::new();
    let stderr = dir.command(&["patterns", "nowhere.log"]).run().expect_code(1).stderr();
    assert!(stderr.contains("cannot read nowhere.log: No such file"), "{stderr}");
    dir.command(&["patterns"]).run().expect_code(2);
}

#[test]
fn the_patterns_of_a_run_lead_to_its_documents() {
    let dir = Dir::new();
    let line = |second: u64, service: &str, level: &str, message: &str| {
        let timestamp = 1_700_000_000_000 + second * 1_000;
        json!({ "timestamp": timestamp, "service_name": service, "level": level, "message": message }).to_string()
    };
    let names = ["root", "alice", "bob", "carol", "dave", "eve", "mallory"];
    let mut lines: Vec<String> =
        (0..70).map(|n| line(n, "auth", "INFO", &format!("session of {} was closed", names[n as usize % 7]))).collect();
    lines.extend((70..100).map(|n| line(n, "disk", "ERROR", &format!("sector {n} is bad"))));
    // One second more, so that the frontier passes all before it.
    lines.push(line(101, "end", "INFO", "end"));
    dir.file("app.jsonl", &(lines.join("\n") + "\n"));
    dir.file(
        "floodmark.toml",
        "[source.files]\npaths = [\"app.jsonl\"]\n[time]\nidle_after = \"10m\"\n[api]\nlisten = \"127.0.0.1:0\"\n",
    );
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    let patterns = eventually("everything is counted", || api.get("/patterns").filter(|answer| answer["count"] == 100));
    assert_eq!(patterns["total"], 2);
    let (sessions, sectors) = (&patterns["patterns"][0], &patterns["patterns"][1]);
    assert_eq!((&sessions["template"], &sessions["count"]), (&json!("session of <*> was closed"), &json!(70)));
    assert_eq!((&sectors["services"], &sectors["levels"]), (&json!({ "disk": 30 }), &json!({ "ERROR": 30 })));
    assert_eq!(sessions["sample"]["message"], "session of root was closed");
    let samples: Vec<_> = sessions["samples"].as_array().unwrap().iter().map(|of| &of["message"]).collect();
    assert_eq!(
        samples,
        ["root", "alice", "bob"].map(|name| format!("session of {name} was closed")).iter().collect::<Vec<_>>()
    );
    assert_eq!(
        (&sessions["first_seen"], &sessions["last_seen"]),
        (&json!(1_700_000_000_000_u64), &json!(1_700_000_069_000_u64))
    );
    assert_eq!(sectors["share"], 0.3);
    assert_eq!(sectors["rate"].as_f64().unwrap(), 30_000.0 / patterns["rate_window_ms"].as_f64().unwrap());

    // The seven names are first cuts of their own; documents know these, and the pattern leads to all of them.
    let cuts = sessions["cuts"].as_array().unwrap();
    assert_eq!(cuts.len(), 7);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_cut = api.get(&format!("/patterns/{}", text(&cuts[3]["id"]))).unwrap();
    assert_eq!(of_cut["pattern"]["id"], sessions["id"]);
    let found = |id: &Value, expected: u64| {
        let path = format!("/logs?size=100&pattern_id={}", text(id));
        eventually("they are indexed", || api.get(&path).filter(|answer| answer["total"] == expected))
    };
    found(&sessions["id"], 70);
    for document in found(&cuts[3]["id"], 10)["logs"].as_array().unwrap() {
        assert_eq!(document["pattern_id"], cuts[3]["id"]);
    }
    assert_eq!(api.get("/patterns?level=error").unwrap()["count"], 30);
    assert_eq!(api.get("/patterns?q=SECTOR&service_name=disk").unwrap()["total"], 1);
    assert_eq!(api.get("/patterns?from=1700000099000").unwrap()["total"], 1);
    assert_eq!(api.get("/patterns?to=1700000070000").unwrap()["patterns"][0]["id"], sessions["id"]);
    assert_eq!(api.get("/patterns?new=true").unwrap()["total"], 0, "at the beginning nothing is");
}

#[test]
fn a_new_pattern_raises_an_alert_that_names_it() {
    let dir = Dir::new();
    let line = |second: u64, message: &str| {
        let timestamp = 1_700_000_000_000 + second * 1_000;
        json!({ "timestamp": timestamp, "service_name": "api", "message": message }).to_string()
    };
    let mut lines: Vec<String> = (0..8_000).step_by(5).map(|s| line(s, &format!("request {s} done"))).collect();
    // Everything is new at first; two hours later only this is.
    lines.insert(1_500, line(7_500, "fallback engaged on shard 7"));
    dir.file("app.jsonl", &(lines.join("\n") + "\n"));
    dir.file(
        "floodmark.toml",
        r#"
            [source.files]
            paths = ["app.jsonl"]
            [time]
            idle_after = "10m"
            [api]
            listen = "127.0.0.1:0"
            [store.none]
            [[view]]
            name = "per_pattern"
            key = ["service_name", "pattern"]
            window = "10s"
            score = ["new", "rate"]
            [[alert]]
            name = "news"
            view = "per_pattern"
            when = ["score >= 75"]
        "#,
    );
    let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
    let api = run.api();
    let is_raised = |answer: &Value| answer["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
    let alerts = eventually("an alert", || api.get("/alerts").filter(is_raised));
    assert_eq!(alerts["alerts"].as_array().unwrap().len(), 1, "{alerts}");
    let first = &alerts["alerts"][0]["first"];
    let template = "fallback engaged on shard <*>";
    assert_eq!(first["key"], json!({ "service_name": "api", "pattern": template }));
    assert_eq!(first["score"]["measures"][0]["measure"], "new");
    assert!(alerts["alerts"][0]["summary"].as_str().unwrap().contains(template), "{alerts}");
    let found = api.get("/patterns?q=fallback%20engaged%20on%20shard%20%3C*%3E").unwrap();
    let id = found["patterns"][0]["cuts"][0]["id"].as_str().unwrap();
    let by_id = api.get(&format!("/patterns?id={id}")).unwrap();
    assert_eq!((&by_id["total"], &by_id["patterns"][0]["template"]), (&json!(1), &json!(template)));
}

#[test]
fn a_pattern_needs_patterns_to_be_looked_for() {
    let dir = Dir::new();
    let config = |patterns: &str, key: &str, more: &str| {
        let source = "[source.files]\npaths = [\"app.jsonl\"]\n";
        let view = format!("[[view]]\nname = \"v\"\nkey = [{key}]\nscore = [\"new\", \"rate\"]\n{more}");
        dir.file("floodmark.toml", &format!("{source}[patterns]\nenabled = {patterns}\n{view}"));
        dir.command(&["check", "-c", "floodmark.toml"]).run()
    };
    for (patterns, key, more, expected) in [
        ("false", "\"pattern\"", "", "patterns.enabled = true"),
        ("true", "\"service_name\"", "", "needs \"pattern\" among the fields of the key"),
        ("true", "\"pattern\"", "slide = \"5s\"\n", "for tumbling windows"),
    ] {
        let stderr = config(patterns, key, more).expect_code(2).stderr();
        assert!(stderr.contains(expected), "{expected} not in {stderr}");
    }
}
