//! Golden tests: what comes of the inputs in `tests/golden`, to the byte.
//!
//! Each folder there is a case:
//!
//! - `input.*`: the records, read as files. `floodmark.toml`: the settings that the case needs, if it needs any.
//! - `expected-logs.ndjson`, `expected-windows.ndjson`, `expected-dead-letters.ndjson`: what the run must end with.
//!   Where there is no file the run must write nothing of the kind: most cases have no dead letters.
//!
//! What is compared is the same on every machine: of the lines of a window the last one, which is the one that holds,
//! and dead letters without the time at which they became dead letters, which is 0 here. The order of lines does not
//! count.
//!
//! `FLOODMARK_BLESS=1 cargo test --test it golden` writes the expected files anew, from what the binary does now. Read
//! each change against the documentation before it is committed: a file that holds a mistake keeps it. Never in CI,
//! where the test would compare nothing: it refuses where `CI` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use floodmark::dead_letters::Document;
use serde_json::Value;

use crate::corpus::record_place;
use crate::support::Dir;

/// Before the settings of a case. Checkpoints and the API have no part in what is compared.
const SETTINGS: &str = r#"data_dir = "data"

[source.files]
paths = ["input.*"]

[store.ndjson]

[checkpoint]
enabled = false

[api]
enabled = false

"#;

/// Lines by what they are about, as [`Kind::place`] names it.
type Lines = BTreeMap<String, String>;

/// What a run writes.
#[derive(Clone, Copy)]
enum Kind {
    Logs,
    Windows,
    DeadLetters,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Logs, Kind::Windows, Kind::DeadLetters];

    /// The file that a run writes.
    fn output(self) -> &'static str {
        match self {
            Kind::Logs => "logs.ndjson",
            Kind::Windows => "windows.ndjson",
            Kind::DeadLetters => "data/dead-letters.ndjson",
        }
    }

    /// The file of a case.
    fn expected(self) -> &'static str {
        match self {
            Kind::Logs => "expected-logs.ndjson",
            Kind::Windows => "expected-windows.ndjson",
            Kind::DeadLetters => "expected-dead-letters.ndjson",
        }
    }

    /// What a line is about. In order: windows by view, key and start, the others by partition and offset.
    fn place(self, line: &str) -> String {
        if let Kind::Windows = self {
            // A window begins with its view, key and start.
            return line.split_once(",\"end\":").expect("the end of a window").0.to_owned();
        }
        let (partition, offset) = record_place(&serde_json::from_str(line).expect("JSON"));
        format!("partition {partition:>3}, offset {offset:>10}")
    }

    /// A line without what depends on the clock of the machine.
    fn normalised(self, line: &str) -> String {
        let Kind::DeadLetters = self else { return line.to_owned() };
        let letter: Document<'_> = serde_json::from_str(line).expect("a dead letter");
        serde_json::to_string(&Document { timestamp: 0, start: 0, ..letter }).expect("JSON")
    }

    /// The lines of a file, none if there is no file. A window may have several, of which the last one holds.
    fn lines(self, path: &Path) -> Lines {
        let text = if path.exists() { read(path) } else { String::new() };
        let mut lines = Lines::new();
        for line in text.lines() {
            let before = lines.insert(self.place(line), self.normalised(line));
            let may_come_again = matches!(self, Kind::Windows);
            assert!(before.is_none() || may_come_again, "{} has it twice: {line}", path.display());
        }
        lines
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// What is in a folder, in order.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.expect("an entry of a folder").path()).collect();
    paths.sort();
    paths
}

/// A folder in which the binary was run over the input of a case.
fn run(case: &Path) -> Dir {
    let dir = Dir::new();
    let mut settings = SETTINGS.to_owned();
    let mut inputs = 0;
    for path in entries(case) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "floodmark.toml" {
            settings.push_str(&read(&path));
        } else if name.starts_with("input.") {
            std::fs::copy(&path, dir.path().join(&name)).expect("cannot copy the input");
            inputs += 1;
        }
    }
    assert!(inputs > 0, "{} has no input", case.display());
    dir.file("floodmark.toml", &settings);
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    dir
}

/// The fields in which two documents differ, or both where it is only their form.
fn differing_fields(expected: &str, got: &str) -> String {
    let [is, was] = [got, expected].map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let objects = [&is, &was].map(|document| document.as_object().expect("an object"));
    let names: BTreeSet<&String> = objects.into_iter().flat_map(|object| object.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let different: String = names
        .into_iter()
        .filter(|name| is.get(name) != was.get(name))
        .map(|name| format!("\n      {name}: expected {}, got {}", shown(was.get(name)), shown(is.get(name))))
        .collect();
    if different.is_empty() { format!("\n    - {expected}\n    + {got}") } else { different }
}

/// Each line that is not as expected, for people.
fn differences(expected: &Lines, got: &Lines) -> Vec<String> {
    let places: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
    let at = |place: &String| match (expected.get(place), got.get(place)) {
        (Some(expected), Some(got)) if expected == got => None,
        (Some(expected), Some(got)) => Some(format!("  {place}: differs{}", differing_fields(expected, got))),
        (Some(expected), None) => Some(format!("  {place}: missing\n    - {expected}")),
        (None, Some(got)) => Some(format!("  {place}: not expected\n    + {got}")),
        (None, None) => None,
    };
    places.into_iter().filter_map(at).collect()
}

/// What is wrong with a file of a case.
fn wrong(path: &Path, kind: Kind, got: &Lines) -> Option<String> {
    if !path.exists() && !got.is_empty() {
        return Some(format!("{} is missing, and the run wrote {} lines of it", path.display(), got.len()));
    }
    let found = differences(&kind.lines(path), got);
    (!found.is_empty()).then(|| format!("{}:\n{}", path.display(), found.join("\n")))
}

/// Makes what came of a run what is expected.
fn bless(path: &Path, got: &Lines) {
    if got.is_empty() {
        if path.exists() {
            std::fs::remove_file(path).expect("cannot remove a file");
        }
        return;
    }
    let text: String = got.values().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).expect("cannot write a file");
}

#[test]
fn every_case_ends_with_what_is_expected() {
    let is_blessed = std::env::var_os("FLOODMARK_BLESS").is_some_and(|value| value == "1");
    assert!(!is_blessed || std::env::var_os("CI").is_none(), "FLOODMARK_BLESS=1 compares nothing: not in CI");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases: Vec<PathBuf> = entries(&folder).into_iter().filter(|path| path.is_dir()).collect();
    assert!(!cases.is_empty(), "{} has no cases", folder.display());
    let mut mistakes = Vec::new();
    for case in cases {
        let dir = run(&case);
        for kind in Kind::ALL {
            let path = case.join(kind.expected());
            let got = kind.lines(&dir.path().join(kind.output()));
            if is_blessed {
                bless(&path, &got);
            } else {
                mistakes.extend(wrong(&path, kind, &got));
            }
        }
    }
    assert!(mistakes.is_empty(), "- expected, + got\n{}", mistakes.join("\n"));
}
