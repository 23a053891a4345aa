//! The command line as a user meets it.

use std::io::Read;

use serde_json::json;

use crate::stub_elasticsearch::Stub;
use crate::support::{Dir, Signal};

#[test]
fn help_leads_to_the_demo() {
    let dir = Dir::new();
    let help = dir.command(&["--help"]).run().expect_code(0).stdout();
    assert!(help.contains("floodmark demo"), "{help}");
    assert!(help.contains("Exit codes"), "{help}");
}

#[test]
fn all_mistakes_are_printed_once_and_the_code_is_2() {
    let dir = Dir::new();
    dir.file("floodmark.toml", "[time]\ntock = \"1s\"\nidle_after = \"soon\"\n");
    let stderr = dir.command(&["check"]).run().expect_code(2).stderr();
    for expected in [
        "floodmark: the configuration has 3 mistakes",
        "floodmark.toml:2: time.tock: unknown key; did you mean \"tick\"?",
        "floodmark.toml:3: time.idle_after: expected a whole number with a unit",
        "source: expected one of",
    ] {
        assert_eq!(stderr.matches(expected).count(), 1, "{expected}\nin {stderr}");
    }
}

#[test]
fn check_says_what_it_found() {
    let dir = Dir::new();
    dir.file("app.log", "{\"timestamp\":1}\n");
    dir.file(
        "floodmark.toml",
        "[source.files]\npaths = [\"app.log*\"]\n[store.none]\n[api]\nlisten = \"127.0.0.1:0\"\n",
    );
    let stdout = dir.command(&["check"]).run().expect_code(0).stdout();
    for expected in
        ["floodmark.toml is right", "files: 1 file", "nothing is stored", "per_service: by service_name, 10s"]
    {
        assert!(stdout.contains(expected), "{expected}\nnot in {stdout}");
    }
    assert!(!dir.path().join("floodmark-data").exists(), "a check writes nothing");
}

#[test]
fn check_ends_with_3_when_a_service_does_not_answer() {
    let dir = Dir::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let store = format!("store.elasticsearch.urls=[\"http://{free}\"]");
    let arguments = ["check", "--set", "source.generator={}", "--set", &store, "--set", "api.enabled=false"];
    let ran = dir.command(&arguments).run().expect_code(3);
    assert!(ran.stdout().contains("NOT OK"), "{}", ran.stdout());
    assert!(ran.stderr().contains("not ready to run: store"), "{}", ran.stderr());
}

#[test]
fn check_says_what_elasticsearch_is_and_refuses_what_a_run_refuses() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stub = runtime.block_on(Stub::start());
    let dir = Dir::new();
    let store = format!("store.elasticsearch.urls=[\"{}\"]", stub.url);
    let check =
        || dir.command(&["check", "--set", "source.generator={}", "--set", &store, "--set", "api.enabled=false"]);
    let stdout = check().run().expect_code(0).stdout();
    assert!(stdout.contains("elasticsearch 9.1.0"), "{stdout}");
    stub.state.lock().root = (200, json!({ "version": { "number": "6.8.23" } }));
    let stdout = check().run().expect_code(3).stdout();
    assert!(stdout.contains("NOT OK") && stdout.contains("this is Elasticsearch 6.8.23"), "{stdout}");
    assert!(stub.state.lock().requests.iter().all(|request| request.method == "GET"), "a check only reads");
}

#[test]
fn check_looks_at_the_places_of_checkpoints_and_files() {
    let dir = Dir::new();
    dir.file("taken", "");
    let base = ["check", "--set", "source.generator={}", "--set", "api.enabled=false", "--set"];
    let check = |settings: &[&str]| dir.command(&[&base[..], settings].concat()).run().expect_code(3);
    let ran = check(&["store.ndjson.windows=\"taken/windows.ndjson\""]);
    assert!(ran.stdout().contains("taken is no folder") && ran.stderr().contains(": store;"), "{}", ran.stdout());
    let url = format!("checkpoint.url=\"file://{}/taken/checkpoints\"", dir.path().display());
    let ran = check(&["store.none={}", "--set", &url]);
    assert!(ran.stderr().contains(": checkpoints;"), "{}", ran.stdout());
}

#[test]
fn endless_generation_ends_in_good_order_when_interrupted() {
    let dir = Dir::new();
    let arguments = ["generate", "--out", "logs", "--records", "0", "--rate", "2000", "--compression", "gzip"];
    let running = dir.command(&arguments).start();
    let parts = ["part-0.jsonl.gz", "part-1.jsonl.gz"].map(|name| dir.path().join("logs").join(name));
    let written = || parts.iter().all(|part| part.metadata().is_ok_and(|found| found.len() > 1_000));
    crate::support::eventually("something is written", || written().then_some(()));
    running.signal(Signal::Interrupt);
    let said = running.wait().expect_code(0).stdout();
    assert!(said.contains("wrote ") && said.contains("records/s"), "{said}");
    for part in parts {
        let mut text = String::new();
        let file = std::fs::File::open(&part).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the whole of a gzip file");
        assert!(text.ends_with("}\n"));
    }
}

#[test]
fn secrets_are_not_shown() {
    let dir = Dir::new();
    let shown = dir
        .command(&["config", "--set", "store.elasticsearch.username=me"])
        .env("FLOODMARK_STORE__ELASTICSEARCH__PASSWORD", "hunter2")
        .run()
        .expect_code(0)
        .stdout();
    assert!(shown.contains("password = \"***\""), "{shown}");
    let refused = dir.command(&["check", "--set", "store.elasticsearch.password={a=\"hunter2\"}"]).run().expect_code(2);
    assert!(!shown.contains("hunter2") && !refused.stderr().contains("hunter2"), "{}", refused.stderr());
}

#[test]
fn a_missing_file_is_named() {
    let dir = Dir::new();
    let stderr = dir.command(&["check", "-c", "nowhere.toml"]).run().expect_code(2).stderr();
    assert!(stderr.starts_with("floodmark: cannot read the configuration file nowhere.toml"), "{stderr}");
    assert!(stderr.contains("No such file"), "{stderr}");
}

#[test]
fn the_printed_configuration_reads_back() {
    let dir = Dir::new();
    let first = dir
        .command(&["config", "--set", "view=[{name=\"v\",key=[\"a.b\"],window=\"1m\",slide=\"10s\"}]"])
        .env("FLOODMARK_TIME__TICK", "2s")
        .run()
        .expect_code(0)
        .stdout();
    assert!(first.contains("tick = \"2s\""), "{first}");
    assert!(first.contains("# The step of the event clock"), "{first}");
    dir.file("floodmark.toml", &first);
    let second = dir.command(&["config"]).run().expect_code(0).stdout();
    assert_eq!(first, second);
}

#[test]
fn the_defaults_are_a_file_to_start_from() {
    let dir = Dir::new();
    let defaults = dir.command(&["config", "--defaults"]).run().expect_code(0).stdout();
    let plain = dir.command(&["config"]).run().expect_code(0).stdout();
    dir.file("floodmark.toml", &defaults);
    assert_eq!(dir.command(&["config"]).run().expect_code(0).stdout(), plain);
}

#[test]
fn the_reference_is_up_to_date() {
    let reference = Dir::new().command(&["config", "--reference"]).run().expect_code(0).stdout();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &reference).expect("cannot write docs/configuration.md");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let advice = "docs/configuration.md is out of date: run `make docs`";
    assert!(written == reference, "{advice}");
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Dir::new().command(&["completions", shell]).run().expect_code(0).stdout();
        assert!(script.contains("floodmark") && script.contains("check"), "{shell}");
    }
}

#[test]
fn a_wrong_log_filter_is_a_usage_error() {
    let stderr = Dir::new().command(&["config", "--log", "a=b=c"]).run().expect_code(2).stderr();
    assert!(stderr.contains("expected --log"), "{stderr}");
}

#[test]
fn a_replay_needs_a_place_of_its_own() {
    let dir = Dir::new();
    dir.file("floodmark.toml", "[source.files]\npaths = [\"in.log\"]\n[store.none]\n");
    let stderr = dir.command(&["run", "--from", "in.log=0..100"]).run().expect_code(2).stderr();
    assert!(stderr.contains("--out") && stderr.contains("--prefix"), "{stderr}");
    let stderr = dir.command(&["run", "--out", "x"]).run().expect_code(2).stderr();
    assert!(stderr.contains("--from"), "{stderr}");
    dir.command(&["run", "--until-end", "--from", "x", "--out", "x"]).run().expect_code(2);
}

#[test]
fn hosts_come_from_a_file_as_with_timely() {
    let dir = Dir::new();
    dir.file("floodmark.toml", "[source.files]\npaths = [\"in.log\"]\n[store.none]\n");
    let hosts = dir.file("hosts.txt", "# two\na.example.org:2101\nno-port\n");
    let stderr = dir.command(&["run", "-h", &hosts.to_string_lossy(), "-p", "7"]).run().expect_code(2).stderr();
    assert!(stderr.contains("hosts[1]: expected host:port, got \"no-port\""), "{stderr}");
    assert!(stderr.contains("cluster.process: expected less than cluster.processes (2), got 7"), "{stderr}");
    let help = dir.command(&["run", "--help"]).run().expect_code(0).stdout();
    assert!(help.contains("-h, --hostfile <FILE>"), "{help}");
}

#[test]
fn what_a_generator_cannot_be_is_a_wrong_command_line() {
    let dir = Dir::new();
    for args in [["--services", "0"], ["--partitions", "0"], ["--event-rate", "0"], ["--labels", "labels.csv"]] {
        let ran = dir.command(&["generate", "--out", "logs", "--records", "0", args[0], args[1]]).run().expect_code(2);
        assert!(ran.stderr().contains("expected"), "{}", ran.stderr());
    }
}
