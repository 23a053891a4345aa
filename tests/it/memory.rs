//! Memory while the store is down, measured: what waits goes to disk, and nothing else notices.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::stub_elasticsearch::{Fault, State, Stub};
use crate::support::{Api, Dir, Signal, eventually};

/// What the configuration below allows to wait in memory, and on disk.
const QUEUE_MIB: u64 = 4;
const SPOOL_MIB: u64 = 24;
/// Beyond the queue: a copy of each bulk request under way, and the windows of a longer run.
const SLACK_MIB: u64 = 8;
/// While what waited is made up for, on top of that: the body of each of the four requests under way.
const CATCH_UP_MIB: u64 = 6;

/// A cluster in a thread of its own.
pub fn cluster() -> (String, Arc<Mutex<State>>) {
    let (sender, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stub = Stub::start().await;
            sender.send((stub.url.clone(), stub.state.clone())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    started.recv().unwrap()
}

/// Memory that is not backed by a file, in bytes.
fn anonymous(metrics: &str) -> Option<u64> {
    let line = metrics.lines().find(|line| line.starts_with("floodmark_process_anonymous_memory_bytes "))?;
    line.split(' ').nth(1)?.parse::<f64>().ok().map(|bytes| bytes as u64)
}

fn check(api: &Api, name: &str) -> Option<(bool, String)> {
    let checks = api.any("/health")?["checks"].as_array()?.clone();
    let check = checks.into_iter().find(|check| check["name"] == name)?;
    Some((check["ok"].as_bool()?, check["detail"].as_str()?.to_owned()))
}

/// What goes on while the store does not: the frontier, the records counted in a view, and the records read.
fn standing(api: &Api) -> Option<[u64; 3]> {
    let progress = api.get("/progress")?;
    let read = progress["partitions"].as_array()?.iter().filter_map(|partition| partition["offset"].as_u64()).sum();
    let counted = api.get("/logs/stats")?["total_logs"].as_u64()?;
    Some([progress["frontier"].as_u64()?, counted, read])
}

/// Runs against a cluster that is `broken` for a while, with more records than memory or disk may hold. The allocator is told to
/// give back what is freed: what it keeps otherwise depends on which threads happened to run.
fn outage(broken: fn(&mut State), mended: fn(&mut State)) {
    let (url, state) = cluster();
    let dir = Dir::new();
    dir.file(
        "floodmark.toml",
        &format!(
            "data_dir = \"data\"\n\
             [source.generator]\nrate = 8000\npartitions = 3\n\
             [store]\nqueue = \"{QUEUE_MIB}MiB\"\nspool.max = \"{SPOOL_MIB}MiB\"\n\
             [store.elasticsearch]\nurls = [\"{url}\"]\n\
             [api]\nlisten = \"127.0.0.1:0\"\n\
             [[view]]\nname = \"per_service\"\nkey = [\"service_name\"]\nwindow = \"10s\"\nscore = []\n\
             [patterns]\nenabled = false\n"
        ),
    );
    let mut run = dir.command(&["run"]).env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0").start();
    let api = Api::at(&run.expect_line("the API is at"));
    let indexed = |api: &Api| api.get("/progress")?["indexed_through"].as_u64();
    eventually("documents are stored", || indexed(&api).filter(|_| state.lock().documents.len() > 10_000));
    let memory = || anonymous(&api.text("/metrics")?);
    let before = eventually("memory is known", memory);

    broken(&mut state.lock());
    let held = indexed(&api);
    let mut peak = 0;
    // Windows and live reads go on while records pile up: each look finds more than the one before.
    let mut seen = Vec::new();
    let full = eventually("the spool is full", || {
        peak = peak.max(memory()?);
        let now = standing(&api)?;
        if seen.last().is_none_or(|last: &[u64; 3]| (0..3).all(|at| now[at] > last[at])) {
            seen.push(now);
        }
        check(&api, "spool").filter(|(ok, _)| !ok)
    });
    assert!(full.1.contains("full"), "{full:?}");
    assert!(seen.len() >= 3, "windows and live reads go on: {seen:?}");
    // Now the source waits: nothing more is read.
    let mut last = None;
    eventually("reading has stopped", || {
        peak = peak.max(memory()?);
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        let now = standing(&api)?[2];
        (last.replace(now) == Some(now)).then_some(())
    });
    let grown = peak.saturating_sub(before) >> 20;
    println!("{} MiB before, {} MiB at the most, {SPOOL_MIB} MiB on disk", before >> 20, peak >> 20);
    assert!(grown <= QUEUE_MIB + SLACK_MIB, "{grown} MiB more than the {} MiB before", before >> 20);
    assert!(indexed(&api) <= held.map(|held| held + 2_000), "nothing more is indexed");

    let [frontier, _, read] = eventually("the run answers", || standing(&api));
    mended(&mut state.lock());
    eventually("all that waited is indexed", || indexed(&api).filter(|indexed| *indexed > frontier));
    eventually("reading goes on", || standing(&api).filter(|now| now[2] > read));
    eventually("all is well again", || check(&api, "spool").filter(|(ok, _)| *ok));
    peak = peak.max(eventually("memory is known", memory));
    let grown = peak.saturating_sub(before) >> 20;
    println!("{} MiB at the most while it was made up for", peak >> 20);
    assert!(grown <= QUEUE_MIB + SLACK_MIB + CATCH_UP_MIB, "{grown} MiB more after the outage");
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);

    // Every document is there, once: the offsets of each partition have no gap.
    let state = state.lock();
    let logs = state.documents.iter().filter(|((index, _), _)| index.contains("-logs-"));
    let place = |document: &Value| (document["partition"].as_u64().unwrap(), document["offset"].as_u64().unwrap());
    let places: Vec<_> = logs.map(|(_, (_, document))| place(document)).collect();
    let distinct: BTreeSet<_> = places.iter().copied().collect();
    assert_eq!(distinct.len(), places.len(), "documents that are there twice");
    let dead = std::fs::read_to_string(dir.path().join("data/dead-letters.ndjson")).unwrap_or_default();
    let dead: BTreeSet<_> = dead.lines().map(|line| place(&serde_json::from_str(line).unwrap())).collect();
    for partition in 0..3 {
        let of = |places: &BTreeSet<(u64, u64)>| {
            places.iter().filter(|place| place.0 == partition).map(|place| place.1).collect::<BTreeSet<_>>()
        };
        let all: Vec<u64> = of(&distinct).union(&of(&dead)).copied().collect();
        assert!(all.len() > 1_000, "{}", all.len());
        assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>(), "partition {partition}");
    }
}

#[test]
fn memory_stays_bounded_while_the_store_answers_nothing() {
    outage(|state| state.paused = true, |state| state.paused = false);
}

#[test]
fn memory_stays_bounded_while_the_store_refuses() {
    outage(
        |state| state.faults.extend(std::iter::repeat_n(Fault::Status(429, "too many requests"), 1 << 20)),
        |state| state.faults.clear(),
    );
}
