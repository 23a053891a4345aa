//! A disordered log with mistakes in it, and what a run over it must end with: shared by the tests on files, on the mock
//! cluster and on real services.

use std::collections::BTreeMap;
use std::path::Path;

use floodmark::config::{Compiled, Config, Sources};
use floodmark_dataflows::decode::Decoder;
use floodmark_dataflows::document::write_document;
use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::patterns::Cutter;
use serde_json::Value;

use crate::reference;

/// Records of each partition.
pub type Partitions = Vec<Vec<Vec<u8>>>;

/// Two views, one sliding with more keys than it keeps; windows that become final, late and too late.
pub const VIEWS: &str = r#"
[[view]]
name = "per_service"
window = "10s"
allowed_lateness = "20s"
retention = "2m"

[[view]]
name = "slow_paths"
key = ["service_name", "path"]
where = ["level in WARN, ERROR"]
window = "1m"
slide = "20s"
allowed_lateness = "30s"
retention = "3m"
max_keys = 12
"#;

/// 2023-11-14, 22:13:20 UTC.
const START_MS: u64 = 1_700_000_000_000;
/// 2100-01-01, 00:00 UTC.
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;

/// Three partitions of `each` records: out of order, one in fifty broken, a hundred from the future. Always the same.
pub fn partitions(each: usize) -> Partitions {
    (0..3).map(|number| partition(number, each)).collect()
}

fn partition(number: u64, each: usize) -> Vec<Vec<u8>> {
    let mut state = number + 1;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut now = START_MS + number * 7_000;
    let mut records = Vec::with_capacity(each);
    for i in 0..each {
        now += draw(500) + if draw(200) == 0 { 15_000 } else { 0 };
        let behind = match draw(20) {
            0 => draw(250_000),
            1..5 => draw(30_000),
            _ => draw(1_500),
        };
        let timestamp =
            if number == 1 && (each / 2..each / 2 + 100).contains(&i) { FAR_FUTURE_MS } else { now - behind };
        let level = ["INFO", "INFO", "INFO", "WARN", "ERROR"][draw(5) as usize];
        let (service, path, status) = (draw(4), draw(5), [200, 200, 302, 404, 500][draw(5) as usize]);
        let (whole, thousandths) = (draw(900), draw(1_000));
        let verb = ["fetched", "stored", "listed", "merged", "sent"][path as usize];
        let text = format!(
            r#"{{"timestamp":{timestamp},"service_name":"service-{service}","level":"{level}","path":"/p/{path}","status_code":{status},"response_time_ms":{whole}.{thousandths:03},"message":"request {i} of partition {number} {verb}"}}"#
        );
        records.push(match draw(150) {
            0 => text.as_bytes()[..text.len() / 2].to_vec(),
            1 => text.replacen("timestamp", "time", 1).into_bytes(),
            2 => b"no JSON, \xff\xfe not even text".to_vec(),
            _ => text.into_bytes(),
        });
    }
    records
}

/// What a run ends with.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Log documents by partition and offset.
    pub documents: BTreeMap<(i32, u64), String>,
    /// The last document of each window, by view, key and start.
    pub windows: BTreeMap<(String, String, u64), String>,
    /// Reasons of dead letters by partition and offset.
    pub dead: BTreeMap<(i32, u64), String>,
}

impl Outcome {
    /// What must come of partitions whose records have these offsets, in a run long after their time.
    pub fn expected(config: &Path, topic: &str, partitions: &[Vec<(u64, Vec<u8>)>]) -> Self {
        let sources = Sources { file: Some(config), environment: Vec::new(), flags: Vec::new() };
        let config = Config::load(&sources).expect("a configuration without mistakes");
        let Compiled { schema, rules, views, .. } = config.compile().expect("rules and views without mistakes");
        let mut decoder = Decoder::new(schema);
        let mut cutter = config.patterns.enabled.then(Cutter::default);
        let mut outcome = Self::default();
        let (mut used, mut offsets): (Partitions, Vec<Vec<u64>>) = Default::default();
        for (number, records) in (0..).zip(partitions) {
            let info = PartitionInfo { topic: topic.into(), identity: topic.into(), number };
            let (mut taken, mut places) = (Vec::new(), Vec::new());
            for (offset, bytes) in records {
                let raw = RawRecord { offset: *offset, bytes, appended_ms: None, redriven_from: None };
                let dead = match decoder.decode(bytes) {
                    Ok(record) if record.timestamp_ms == FAR_FUTURE_MS => "clock_ahead",
                    Ok(mut record) => {
                        record.pattern_id = cutter.as_mut().map(|cutter| cutter.cut(&record.message()).id);
                        let mut document = Vec::new();
                        write_document(&mut document, &info, raw, &record, rules.judge(&record), &rules);
                        let document = String::from_utf8(document).expect("JSON");
                        outcome.documents.insert((number, *offset), document);
                        taken.push(bytes.clone());
                        places.push(*offset);
                        continue;
                    }
                    Err(error) => error.reason.name(),
                };
                outcome.dead.insert((number, *offset), dead.to_owned());
            }
            used.push(taken);
            offsets.push(places);
        }
        let views: Vec<_> = views.into_iter().map(Into::into).collect();
        let tick_ms = config.time.tick.as_millis();
        let windows = reference::expected(&used, &mut decoder, &rules, &views, tick_ms).windows;
        outcome.windows = windows
            .into_values()
            .map(|mut document| {
                for range in document.score.iter_mut().flat_map(|score| &mut score.offsets) {
                    let places = &offsets[range.partition as usize];
                    (range.first, range.last) = (places[range.first as usize], places[range.last as usize]);
                    range.topic = topic.into();
                }
                let line = without_identity(&serde_json::to_string(&document).expect("JSON"));
                (window_place(&serde_json::from_str(&line).expect("JSON")), line)
            })
            .collect();
        outcome
    }

    /// What is in `logs.ndjson`, `windows.ndjson` and `dead-letters.ndjson` of each folder, together with the files of
    /// up to four processes there (`logs-1.ndjson`). A document twice, or a window of two processes, is a failure.
    pub fn read(folders: &[&Path]) -> Self {
        let mut outcome = Self::default();
        for (folder, process) in folders.iter().flat_map(|folder| ["", "-0", "-1", "-2", "-3"].map(|p| (folder, p))) {
            let lines = |name: &str| lines(&folder.join(format!("{name}{process}.ndjson")));
            for (line, document) in lines("logs") {
                let twice = outcome.documents.insert(record_place(&document), line);
                assert_eq!(twice, None, "a document is there twice");
            }
            for (_, letter) in lines("dead-letters") {
                let reason = letter["reason"].as_str().expect("a reason").to_owned();
                let twice = outcome.dead.insert(record_place(&letter), reason);
                assert_eq!(twice, None, "a dead letter is there twice");
            }
            let windows = lines("windows").into_iter();
            let place = |(line, document): (String, Value)| (window_place(&document), without_identity(&line));
            let windows: BTreeMap<_, _> = windows.map(place).collect();
            for (place, line) in windows {
                let twice = outcome.windows.insert(place, line);
                assert_eq!(twice, None, "two processes published a window");
            }
        }
        outcome
    }

    /// What is in the files of a folder that several runs have added to, each going on from a checkpoint of the one
    /// before: a document may be there several times, and is always the same; the last state of a window holds.
    #[allow(dead_code)]
    pub fn read_again(folder: &Path) -> Self {
        let mut outcome = Self::default();
        for (line, document) in lines(&folder.join("logs.ndjson")) {
            let before = outcome.documents.insert(record_place(&document), line.clone());
            assert!(before.is_none_or(|before| before == line), "another document for the same record: {line}");
        }
        for (_, letter) in lines(&folder.join("dead-letters.ndjson")) {
            outcome.dead.insert(record_place(&letter), letter["reason"].as_str().expect("a reason").to_owned());
        }
        let windows = lines(&folder.join("windows.ndjson")).into_iter();
        let place = |(line, document): (String, Value)| (window_place(&document), without_identity(&line));
        outcome.windows = windows.map(place).collect();
        outcome
    }

    /// Fails with the first difference to what is expected.
    #[track_caller]
    pub fn assert_is(&self, expected: &Self, run: &str) {
        assert_same(run, "document", &self.documents, &expected.documents);
        assert_same(run, "dead letter", &self.dead, &expected.dead);
        assert_same(run, "window", &self.windows, &expected.windows);
    }
}

/// Fails with the first entry that differs.
#[track_caller]
pub fn assert_same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    run: &str,
    what: &str,
    is: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) {
    for (place, value) in expected {
        assert_eq!(is.get(place), Some(value), "{run}: {what} {place:?}");
    }
    let more = is.keys().find(|place| !expected.contains_key(place));
    assert!(more.is_none(), "{run}: {what} {more:?} should not be there");
}

fn lines(path: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", path.display());
    text.lines().map(|line| (line.to_owned(), serde_json::from_str(line).expect("JSON"))).collect()
}

/// A window without what topics are known by: only the broker knows.
fn without_identity(line: &str) -> String {
    let mut parts = line.split("\"identity\":\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once("\",").map_or(part, |(_, rest)| rest))
}

/// Partition and offset of a log document or a dead letter.
pub fn record_place(document: &Value) -> (i32, u64) {
    let partition = document["partition"].as_i64().expect("a partition");
    (partition as i32, document["offset"].as_u64().expect("an offset"))
}

/// View, key and start of a window document.
pub fn window_place(document: &Value) -> (String, String, u64) {
    let view = document["view"].as_str().expect("a view").to_owned();
    (view, document["key"].to_string(), document["start"].as_u64().expect("a start"))
}
