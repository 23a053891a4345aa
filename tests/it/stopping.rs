//! SIGTERM while the store is away.

use crate::memory::cluster;
use crate::support::{Api, Dir, Running, Signal, eventually};

const RECORDS: usize = 12_000;

fn setup(url: &str) -> Dir {
    let dir = Dir::new();
    dir.file(
        "floodmark.toml",
        &format!(
            "data_dir = \"data\"\n[source.generator]\nrate = 2000\ncount = {RECORDS}\n\
             [store]\nstop_timeout = \"4s\"\n[store.elasticsearch]\nurls = [\"{url}\"]\n\
             [checkpoint]\nevery = \"500ms\"\n[api]\nlisten = \"127.0.0.1:0\"\n"
        ),
    );
    dir
}

/// A run that is asked to stop while the store has not answered for a while.
fn stopping(dir: &Dir, pause: impl Fn(bool), stored: impl Fn() -> usize) -> Running {
    let mut run = dir.command(&["run"]).start();
    let api = Api::at(&run.expect_line("the API is at"));
    eventually("something is stored", || (stored() > 0).then_some(()));
    pause(true);
    eventually("something waits", || {
        let audit = api.get("/audit")?;
        audit["partitions"].as_array()?.iter().any(|p| p["pending"].as_u64() > Some(50)).then_some(())
    });
    run.signal(Signal::Terminate);
    let said = run.expect_line("stopping waits for the store to take");
    assert!(said.contains("batches of log documents") && said.contains("a second signal ends at once"), "{said}");
    run
}

#[test]
fn a_stop_says_what_it_waits_for_and_ends_in_time_and_nothing_is_lost() {
    let (url, state) = cluster();
    let dir = setup(&url);
    let logs = || state.lock().documents.keys().filter(|(index, _)| index.contains("-logs-")).count();
    let run = stopping(&dir, |pause| state.lock().paused = pause, logs);
    let ran = run.wait().expect_code(1);
    assert!(ran.stdout().contains("did not take within store.stop_timeout (4s)"), "{}", ran.stdout());
    assert!(logs() < RECORDS);
    state.lock().paused = false;
    dir.command(&["run", "--until-end"]).run().expect_code(0);
    assert_eq!(logs(), RECORDS);
}

#[test]
fn a_second_signal_ends_at_once() {
    let (url, state) = cluster();
    let dir = setup(&url);
    let logs = || state.lock().documents.len();
    let run = stopping(&dir, |pause| state.lock().paused = pause, logs);
    run.signal(Signal::Terminate);
    run.wait().expect_code(143);
}
