//! Several processes as one: how they meet, whom they refuse, and that they end together.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Dir, Running, Signal, eventually};

/// Others have ended this soon after a process was lost.
const PROMPT: Duration = Duration::from_secs(5);
const SECRET: &str = "a secret of the tests";

/// A folder with a list of free addresses and a configuration for `processes` of them.
struct Cluster {
    dir: Dir,
    processes: usize,
    hosts: Vec<String>,
}

impl Cluster {
    fn new(processes: usize) -> Self {
        let dir = Dir::new();
        let listeners: Vec<_> = (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let hosts: Vec<_> = listeners.iter().map(|l| format!("127.0.0.1:{}", l.local_addr().unwrap().port())).collect();
        dir.file("hosts", &hosts.join("\n"));
        dir.file(
            "floodmark.toml",
            "[source.generator]\nrate = 500\npartitions = 4\n[store.ndjson]\n[api]\nlisten = \"127.0.0.1:0\"\n",
        );
        Self { dir, processes, hosts }
    }

    fn start(&self, process: usize, more: &[&str]) -> Running {
        self.start_with_secret(process, more, SECRET)
    }

    fn start_with_secret(&self, process: usize, more: &[&str], secret: &str) -> Running {
        let (processes, process) = (self.processes.to_string(), process.to_string());
        let flags = ["run", "-h", "hosts", "-n", &processes, "-p", &process];
        let flags: Vec<_> = flags.into_iter().chain(more.iter().copied()).collect();
        self.dir.command(&flags).env("FLOODMARK_CLUSTER__SECRET", secret).start()
    }

    /// All processes, computing and serving.
    fn start_all(&self) -> Vec<Running> {
        let mut running: Vec<_> = (0..self.processes).map(|process| self.start(process, &[])).collect();
        for process in &mut running {
            let api = process.api();
            eventually("records are counted", || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&n| n > 0));
        }
        running
    }
}

#[test]
fn a_killed_process_takes_all_others_down_and_they_name_it() {
    let cluster = Cluster::new(3);
    let mut running = cluster.start_all();
    let killed = running.remove(1);
    killed.signal(Signal::Kill);
    let begun = Instant::now();
    for process in running {
        let stdout = process.wait().expect_code(1).stdout();
        let expected = format!("lost process 1 ({})", cluster.hosts[1]);
        assert!(stdout.contains(&expected), "{expected} not in {stdout}");
    }
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

/// The example of the README, with one configuration for both.
#[test]
fn two_processes_on_this_host_have_an_api_each_from_one_configured_port() {
    let dir = Dir::new();
    // Two free ports in a row; another test may take one of them meanwhile, so that the run says it is in use.
    let free = || {
        let first = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = first.local_addr().ok()?.port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
    };
    let port = eventually("two ports in a row are free", free);
    let config = format!("[source.generator]\nrate = 500\n[store.none]\n[api]\nlisten = \"127.0.0.1:{port}\"\n");
    dir.file("floodmark.toml", &config);
    let start = |process| dir.command(&["run", "-n", "2", "-p", process]).start();
    let mut running = [start("0"), start("1")];
    for (process, running) in (0..).zip(&mut running) {
        let api = running.api();
        assert_eq!(api.address().port(), port + process);
        eventually("records are counted", || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&n| n > 0));
    }
}

#[test]
fn a_signal_to_one_process_stops_all_in_good_order() {
    let cluster = Cluster::new(3);
    let running = cluster.start_all();
    running[2].signal(Signal::Terminate);
    let mut documents = 0;
    for (process, running) in running.into_iter().enumerate() {
        running.wait().expect_code(0);
        let path = cluster.dir.path().join(format!("logs-{process}.ndjson"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        documents += text.lines().count();
    }
    assert!(documents > 0);
}

#[test]
fn every_process_shows_the_progress_of_all_partitions() {
    let cluster = Cluster::new(2);
    let mut running: Vec<_> = (0..2).map(|process| cluster.start(process, &[])).collect();
    for process in &mut running {
        let api = process.api();
        let answer = eventually("all partitions are there", || {
            let answer = api.get("/progress")?;
            (answer["partitions"].as_array()?.len() == 4 && answer["workers"].as_array()?.len() == 2).then_some(answer)
        });
        let workers: Vec<_> = answer["partitions"].as_array().unwrap().iter().map(|p| p["worker"].as_u64()).collect();
        assert!(workers.contains(&Some(0)) && workers.contains(&Some(1)), "{answer}");
    }
}

#[test]
fn a_wrong_secret_is_refused_and_does_not_disturb() {
    let cluster = Cluster::new(2);
    let until_end = ["--until-end", "--set", "source.generator.count=1000"];
    let mut first = cluster.start(0, &until_end);
    let stranger = cluster.start_with_secret(1, &until_end, "another secret of the tests");
    let stdout = stranger.wait().expect_code(2).stdout();
    assert!(stdout.contains("process 0 at") && stdout.contains("cluster.secret"), "{stdout}");
    first.expect_line("refused a connection");
    let second = cluster.start(1, &until_end);
    first.wait().expect_code(0);
    second.wait().expect_code(0);
}

#[test]
fn bytes_of_a_stranger_do_not_disturb() {
    let cluster = Cluster::new(2);
    let until_end = ["--until-end", "--set", "source.generator.count=1000"];
    let mut first = cluster.start(0, &until_end);
    let dial = || TcpStream::connect(&*cluster.hosts[0]).ok();
    let mut browser = eventually("process 0 listens", dial);
    browser.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\nconnection: keep-alive\r\n\r\n").unwrap();
    // Says nothing, and stays.
    let _silent = dial().unwrap();
    drop(dial().unwrap());
    first.expect_line("refused a connection");
    let mut answer = Vec::new();
    let _ = browser.read_to_end(&mut answer);
    assert!(answer.is_empty(), "a stranger is told nothing, not {answer:?}");
    let second = cluster.start(1, &until_end);
    first.wait().expect_code(0);
    second.wait().expect_code(0);
}

#[test]
fn a_process_that_does_not_come_is_named() {
    let cluster = Cluster::new(3);
    let limit = ["--set", "cluster.connect_timeout=3s"];
    let first = cluster.start(0, &limit);
    let last = cluster.start(2, &limit);
    for process in [first, last] {
        let stdout = process.wait().expect_code(1).stdout();
        let expected = format!("waiting for process 1 ({})", cluster.hosts[1]);
        assert!(stdout.contains(&expected), "{expected} not in {stdout}");
        // One that is slow to start may be named beside it.
        let named = |line: &&str| line.contains(&format!("process 1 ({})", cluster.hosts[1]));
        let last = stdout.lines().rfind(named).unwrap_or_default();
        assert!(last.contains("did not come within 3s"), "not in {stdout}");
    }
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let cluster = Cluster::new(2);
    let _other = TcpListener::bind(&*cluster.hosts[1]).unwrap();
    let stdout = cluster.start(1, &[]).wait().expect_code(1).stdout();
    for expected in [&*cluster.hosts[1], "the port is in use", "cluster.hosts"] {
        assert!(stdout.contains(expected), "{expected} not in {stdout}");
    }
}

#[test]
fn different_configurations_are_refused_by_both_with_the_section() {
    let cluster = Cluster::new(2);
    let first = cluster.start(0, &[]);
    let second = cluster.start(1, &["--set", "time.idle_after=9s"]);
    for process in [first, second] {
        let stdout = process.wait().expect_code(2).stdout();
        assert!(stdout.contains("differs from this one's in [time]:"), "{stdout}");
    }
}

#[test]
fn a_failure_of_one_process_is_known_to_all() {
    let cluster = Cluster::new(2);
    // A file where the folder of the other one's documents should be.
    cluster.dir.file("taken", "");
    let first = cluster.start(0, &[]);
    let second = cluster.start(1, &["--set", "store.ndjson.logs=taken/logs.ndjson"]);
    assert!(second.wait().expect_code(1).stdout().contains("taken/logs-1.ndjson"));
    let stdout = first.wait().expect_code(1).stdout();
    assert!(stdout.contains("process 1 (") && stdout.contains("taken/logs-1.ndjson"), "{stdout}");
}

/// The process id of the run that a supervisor has started.
fn run_of(supervisor: &mut Running) -> u32 {
    let line = supervisor.expect_line("started the run as process ");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn supervisors_start_a_cluster_again_after_a_kill_and_stop_with_it() {
    let cluster = Cluster::new(2);
    let mut supervisors: Vec<_> = (0..2).map(|process| cluster.start(process, &["--restart"])).collect();
    let run = supervisors.iter_mut().map(run_of).collect::<Vec<_>>()[1];
    supervisors.iter_mut().for_each(|supervisor| _ = supervisor.api());
    assert!(Command::new("kill").args(["-KILL", &run.to_string()]).status().unwrap().success());
    supervisors[1].expect_line("was ended by signal 9: starting it again");
    supervisors[0].expect_line("ended with code 1: starting it again");
    for supervisor in &mut supervisors {
        run_of(supervisor);
        let api = supervisor.api();
        eventually("records are counted", || api.get("/logs/stats")?["total_logs"].as_u64().filter(|&n| n > 0));
    }
    supervisors[0].signal(Signal::Terminate);
    for supervisor in supervisors {
        supervisor.wait().expect_code(0);
    }
}

#[test]
fn a_run_does_not_outlive_its_supervisor() {
    let dir = Dir::new();
    dir.file("floodmark.toml", "[source.generator]\n[store.none]\n[api]\nlisten = \"127.0.0.1:0\"\n");
    let mut supervisor = dir.command(&["run", "--restart"]).start();
    let api = supervisor.api();
    assert!(api.get("/health/live").is_some());
    supervisor.signal(Signal::Kill);
    eventually("the run is gone", || api.get("/health/live").is_none().then_some(()));
}

#[test]
fn a_restart_is_not_tried_where_it_cannot_help() {
    let cluster = Cluster::new(2);
    let _first = cluster.start(0, &[]);
    let second = cluster.start(1, &["--restart", "--set", "time.idle_after=9s"]);
    let stdout = second.wait().expect_code(2).stdout();
    assert!(stdout.contains("[time]") && !stdout.contains("starting it again"), "{stdout}");
}

#[test]
fn too_many_restarts_end_it() {
    let dir = Dir::new();
    dir.file("floodmark.toml", "[source.generator]\n[store.ndjson]\nlogs = \"floodmark.toml/x\"\n");
    let ran = dir.command(&["run", "--restart", "--max-restarts", "1"]).run().expect_code(1);
    assert_eq!(
        ran.stdout().matches("starting it again").count() + ran.stderr().matches("starting it again").count(),
        1
    );
    assert!(ran.stderr().contains("after 1 restarts within 5m"), "{}", ran.stderr());
}

#[test]
fn what_only_one_process_can_do_is_refused_for_several() {
    let dir = Dir::new();
    dir.file("hosts", "10.0.0.1:2101\n10.0.0.2:2101\n");
    let flags = ["run", "-h", "hosts", "--set", "source.files.paths=[\"x\"]"];
    let stderr = dir.command(&flags).run().expect_code(2).stderr();
    for expected in
        ["store.embedded: the embedded", "source.files: processes", "checkpoint.url: processes", "shared secret"]
    {
        assert!(stderr.contains(expected), "{expected} not in {stderr}");
    }
}
