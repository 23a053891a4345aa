//! Where the documents of a plan go, and what is there in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodmark::dead_letters::Document;
use floodmark::stores::embedded::{EmbeddedConfig, EmbeddedStore};
use floodmark::stores::{LogQuery, Store as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::draw::Draw;
use crate::naive::alerts::{AlertPlace, compared, place_of};
use crate::naive::{Outcome, canonical, is_withdrawn, number_of, without_identities};
use crate::plan::{Plan, StoreKind};
use crate::process::{Signal, send};
use crate::services;
use crate::stub_elasticsearch::{Fault, State, Stub};

/// A store.
pub struct Store {
    kind: StoreKind,
    folder: PathBuf,
    prefix: String,
    runtime: Handle,
    stub: Option<Stub>,
    faults: Draw,
    /// Lines of window files by the incarnation that wrote them, as lengths of the files at its end.
    lengths: Vec<BTreeMap<PathBuf, u64>>,
}

impl Store {
    pub fn new(plan: &Plan, folder: &Path, runtime: &Handle) -> Self {
        let stub = (plan.store == StoreKind::Stub).then(|| {
            let stub = runtime.block_on(Stub::start());
            let mut state = stub.state.lock();
            state.max_body = plan.max_body.unwrap_or(usize::MAX);
            if let Some(one_in) = plan.item_faults {
                let mut draw = Draw::new(plan.seed, 5);
                let error = json!({ "type": "es_rejected_execution_exception", "reason": "busy" });
                state.item_fault = Some(Box::new(move |_| draw.chance(1, one_in).then(|| (429, error.clone()))));
            }
            drop(state);
            stub
        });
        let prefix = match plan.store {
            StoreKind::Elasticsearch => format!("chaos-{}-{}", plan.seed, std::process::id()),
            _ => "floodmark".to_owned(),
        };
        let faults = Draw::new(plan.seed, 4);
        Self {
            kind: plan.store,
            folder: folder.to_owned(),
            prefix,
            runtime: runtime.clone(),
            stub,
            faults,
            lengths: Vec::new(),
        }
    }

    /// The configuration of it.
    pub fn config(&self) -> String {
        let url = match self.kind {
            StoreKind::Ndjson => {
                return "[store.ndjson]\nlogs = \"data/logs.ndjson\"\nwindows = \"data/windows.ndjson\"\n\
                        alerts = \"data/alerts.ndjson\"\n"
                    .to_owned();
            }
            StoreKind::Embedded => {
                return "[store.embedded]\ncommit_interval = \"100ms\"\nthreads = 1\nmemory = \"32MiB\"\n".to_owned();
            }
            StoreKind::Stub => self.stub.as_ref().expect("a stub").url.clone(),
            StoreKind::Elasticsearch => services::elasticsearch().expect("the runner checks that it is there"),
        };
        format!(
            "[store.elasticsearch]\nurls = [\"{url}\"]\nprefix = \"{}\"\nreplicas = 0\nretry_initial_delay = \"5ms\"\n\
             retry_max_delay = \"100ms\"\nbatch_documents = 500\n",
            self.prefix
        )
    }

    /// Stands still for a while.
    pub fn pause(&self, pause: Duration) {
        match (&self.stub, services::process("ES8")) {
            (Some(stub), _) => {
                stub.state.lock().paused = true;
                std::thread::sleep(pause);
                stub.state.lock().paused = false;
            }
            (None, Some(process)) if self.kind == StoreKind::Elasticsearch => {
                send(process, Signal::Stop);
                std::thread::sleep(pause);
                send(process, Signal::Continue);
            }
            _ => {}
        }
    }

    /// Fails the next requests.
    pub fn fail(&mut self, requests: u64) {
        let Some(stub) = &self.stub else { return };
        let busy = r#"{"error":{"type":"es_rejected_execution_exception"},"status":429}"#;
        let fault = |draw: &mut Draw| match draw.below(6) {
            0 => Fault::Status(429, busy),
            1 => Fault::Status(503, "unavailable"),
            2 => Fault::Status(502, "<html>Bad Gateway</html>"),
            3 => Fault::Cut,
            4 => Fault::StoredThenCut,
            _ => Fault::StoredThenSlow(Duration::from_millis(draw.below(100))),
        };
        let faults: Vec<_> = (0..requests).map(|_| fault(&mut self.faults)).collect();
        stub.fail_next(faults);
    }

    /// An incarnation is over.
    pub fn next_incarnation(&mut self) {
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.lengths.push(self.files("windows").into_iter().map(|path| (path.clone(), length(&path))).collect());
    }

    /// What is there, and what is wrong with it by itself.
    pub fn outcome(&self) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        for path in self.files("dead-letters") {
            for (_, line) in lines(&path)? {
                dead_letter(&mut outcome, &line)?;
            }
        }
        match self.kind {
            StoreKind::Ndjson => self.read_lines(&mut outcome)?,
            StoreKind::Embedded => self.read_embedded(&mut outcome)?,
            StoreKind::Stub => {
                let state: &Mutex<State> = &self.stub.as_ref().expect("a stub").state;
                for ((index, id), (_, document)) in &state.lock().documents {
                    self.document(&mut outcome, index, document).map_err(|e| format!("{index}/{id}: {e}"))?;
                }
            }
            StoreKind::Elasticsearch => {
                for kind in ["logs", "windows", "alerts", "dead-letters"] {
                    let index = format!("{}-{kind}", self.prefix);
                    for document in services::documents(&format!("{index}*")) {
                        self.document(&mut outcome, &index, &document)?;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Whether it keeps the bytes of log documents.
    pub fn keeps_bytes(&self) -> bool {
        self.kind == StoreKind::Ndjson
    }

    fn document(&self, outcome: &mut Outcome, index: &str, document: &Value) -> Result<(), String> {
        let kind = index.strip_prefix(&self.prefix).unwrap_or(index);
        let twice = if kind.starts_with("-logs") {
            outcome.documents.insert(record_place(document), canonical(document)).is_some()
        } else if kind.starts_with("-windows") {
            !is_withdrawn(document) && outcome.windows.insert(window_place(document), window_text(document)).is_some()
        } else if kind.starts_with("-alerts") {
            add_alert(&mut outcome.alerts, document)?;
            false
        } else {
            return dead_letter(outcome, &document.to_string());
        };
        if twice { Err(format!("it is there under another id: {document}")) } else { Ok(()) }
    }

    fn read_lines(&self, outcome: &mut Outcome) -> Result<(), String> {
        for path in self.files("logs") {
            for (_, line) in lines(&path)? {
                let document: Value =
                    serde_json::from_str(&line).map_err(|e| format!("{}: {e}: {line}", path.display()))?;
                // After a restart lines may come again.
                let before = outcome.documents.insert(record_place(&document), line.clone());
                if before.as_ref().is_some_and(|before| *before != line) {
                    return Err(format!("a document is there twice and not the same: {before:?}, {line}"));
                }
            }
        }
        // The last line of a window holds; in several files, that of the last incarnation.
        let mut newest: BTreeMap<_, (usize, &PathBuf)> = BTreeMap::new();
        let files = self.files("windows");
        for path in &files {
            for (at, line) in lines(path)? {
                let document: Value =
                    serde_json::from_str(&line).map_err(|e| format!("{}: {e}: {line}", path.display()))?;
                let incarnation =
                    self.lengths.iter().filter(|l| l.get(path).is_none_or(|length| *length <= at)).count();
                let place = window_place(&document);
                match newest.get(&place) {
                    Some((other, in_file)) if *other == incarnation && *in_file != path => {
                        return Err(format!("two processes published {place:?} in incarnation {incarnation}"));
                    }
                    Some((later, _)) if *later > incarnation => continue,
                    _ => {}
                }
                newest.insert(place.clone(), (incarnation, path));
                if is_withdrawn(&document) {
                    outcome.windows.remove(&place);
                } else {
                    outcome.windows.insert(place, window_text(&document));
                }
            }
        }
        let mut alerts = BTreeMap::new();
        for path in self.files("alerts") {
            for (_, line) in lines(&path)? {
                let document: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
                alerts.insert(document["id"].to_string(), document);
            }
        }
        alerts.values().try_for_each(|document| add_alert(&mut outcome.alerts, document))
    }

    fn read_embedded(&self, outcome: &mut Outcome) -> Result<(), String> {
        let directory = self.folder.join("data/store");
        let _entered = self.runtime.enter();
        let store = EmbeddedStore::open(&EmbeddedConfig::default(), &directory).map_err(|e| e.to_string())?;
        let mut query = LogQuery { size: 1_000, ..LogQuery::default() };
        loop {
            let page = self.runtime.block_on(store.search_logs(&query)).map_err(|e| e.to_string())?;
            for document in &page.documents {
                let document: Value = serde_json::from_str(document.get()).map_err(|e| e.to_string())?;
                if outcome.documents.insert(record_place(&document), canonical(&document)).is_some() {
                    return Err(format!("the embedded store has it twice: {document}"));
                }
            }
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        let files = std::fs::read_dir(directory.join("windows")).map_err(|e| e.to_string())?;
        let files: Result<Vec<_>, _> = files.map(|entry| entry.map(|entry| entry.path())).collect();
        for document in newest(files.map_err(|e| e.to_string())?)? {
            self.document(outcome, "floodmark-windows", &document)?;
        }
        let alerts = directory.join("alerts.ndjson");
        for document in newest(alerts.exists().then_some(alerts))? {
            add_alert(&mut outcome.alerts, &document)?;
        }
        Ok(())
    }

    /// The files of this name of all processes: those of several have numbers.
    fn files(&self, name: &str) -> Vec<PathBuf> {
        let names = ["", "-0", "-1", "-2", "-3"].map(|process| format!("{name}{process}.ndjson"));
        names.into_iter().map(|name| self.folder.join("data").join(name)).filter(|path| path.exists()).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.kind == StoreKind::Elasticsearch {
            services::delete(&self.prefix);
        }
    }
}

/// The whole lines of a file with their places.
fn lines(path: &Path) -> Result<Vec<(u64, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(format!("{} ends within a line", path.display()));
    }
    let mut at = 0;
    let place = |line: &str| {
        let start = at;
        at += line.len() as u64 + 1;
        (start, line.to_owned())
    };
    Ok(text.lines().map(place).collect())
}

/// The newest version of each document in files of lines with ids and versions; of equal ones the last.
fn newest(files: impl IntoIterator<Item = PathBuf>) -> Result<Vec<Value>, String> {
    let mut newest: BTreeMap<String, (u64, Value)> = BTreeMap::new();
    for path in files {
        for (_, line) in lines(&path)? {
            let mut line: Value = serde_json::from_str(&line).map_err(|e| e.to_string())?;
            let version = line["version"].as_u64().unwrap_or(0);
            let id = line["id"].as_str().unwrap_or_default();
            if newest.get(id).is_none_or(|(before, _)| *before <= version) {
                newest.insert(id.to_owned(), (version, line["document"].take()));
            }
        }
    }
    Ok(newest.into_values().map(|(_, document)| document).collect())
}

/// Adds an alert, as it is at last, unless it is retracted: whether such ones are there depends on when somebody looked.
pub fn add_alert(alerts: &mut BTreeMap<AlertPlace, String>, document: &Value) -> Result<(), String> {
    match document["state"] == "retracted" || alerts.insert(place_of(document), compared(document)).is_none() {
        true => Ok(()),
        false => Err(format!("an alert is there under another id: {document}")),
    }
}

fn dead_letter(outcome: &mut Outcome, line: &str) -> Result<(), String> {
    let letter: Document<'_> = serde_json::from_str(line).map_err(|e| format!("not a dead letter: {e}: {line}"))?;
    let content = (letter.reason.name().to_owned(), letter.bytes().ok_or("a dead letter without its record")?);
    let place = (number_of(&letter.topic, letter.partition), letter.offset);
    let before = outcome.dead.insert(place, content.clone());
    match before {
        Some(before) if before != content => Err(format!("two different dead letters of {place:?}")),
        _ => Ok(()),
    }
}

/// A window document as the reference has it.
fn window_text(document: &Value) -> String {
    canonical(&without_identities(document.clone()))
}

/// Partition and offset of a log document.
fn record_place(document: &Value) -> (i32, u64) {
    let partition = document["partition"].as_i64().unwrap_or(-1) as i32;
    let number = number_of(document["topic"].as_str().unwrap_or_default(), partition);
    (number, document["offset"].as_u64().unwrap_or(u64::MAX))
}

/// View, key and start of a window document.
fn window_place(document: &Value) -> (String, String, u64) {
    let view = document["view"].as_str().unwrap_or_default().to_owned();
    (view, canonical(&document["key"]), document["start"].as_u64().unwrap_or(0))
}
