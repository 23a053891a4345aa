//! Alerts, end to end: files in, notifications out to a receiver of our own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Dir, Running, Signal, eventually};

/// Takes notifications, and answers what it is told to.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Value>>>,
    times: Arc<Mutex<Vec<Instant>>>,
    status: Arc<AtomicU16>,
    /// A header of the answers.
    header: Arc<Mutex<String>>,
}

impl Receiver {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (got, status) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::new(AtomicU16::new(status)));
        let (times, header) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<Mutex<String>>::default());
        let (seen, answer) = (got.clone(), status.clone());
        let (came, says) = (times.clone(), header.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                came.lock().unwrap().push(Instant::now());
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                let status = answer.load(Ordering::SeqCst);
                let header = says.lock().unwrap().clone();
                let answer = format!("HTTP/1.1 {status} X\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n");
                let _ = reader.into_inner().write_all(answer.as_bytes());
            }
        });
        Self { address, got, times, status, header }
    }

    fn kinds(&self) -> Vec<String> {
        let kind = |value: &Value| value["kind"].as_str().unwrap().to_owned();
        self.got.lock().unwrap().iter().map(kind).collect()
    }

    /// Waits for so many notifications.
    #[track_caller]
    fn expect(&self, kinds: &[&str]) {
        eventually(&format!("{kinds:?} came"), || (self.kinds().len() >= kinds.len()).then_some(()));
        assert_eq!(self.kinds(), kinds);
    }
}

/// A folder with a configuration that follows `in.log`, and alerts of errors.
fn setup(receiver: &Receiver, more: &str) -> Dir {
    let dir = Dir::new();
    let text = format!(
        r#"
            [source.files]
            paths = ["in.log"]
            fingerprint_lines = 1
            [store.ndjson]
            [checkpoint]
            every = "1s"
            [time]
            max_future = "1h"
            [[view]]
            name = "per_service"
            allowed_lateness = "10s"
            [api]
            listen = "127.0.0.1:0"
            public_url = "https://floodmark.example"
            [[alert]]
            name = "errors"
            when = ["errors >= 3"]
            [[route]]
            name = "hook"
            webhook.url = "http://{}/hook"
            group_wait = "0s"
            {more}
        "#,
        receiver.address
    );
    dir.file("floodmark.toml", &text);
    dir.file("in.log", "");
    dir
}

fn configuration(dir: &Dir) -> String {
    std::fs::read_to_string(dir.path().join("floodmark.toml")).unwrap()
}

/// Time zero of the records.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    now / 10_000 * 10_000 - 600_000
}

/// Adds records: seconds after time zero, service, level.
fn append(dir: &Dir, zero: u64, records: &[(u64, &str, &str)]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.path().join("in.log")).unwrap();
    for (second, service, level) in records {
        let record = json!({
            "timestamp": zero + second * 1_000, "service_name": service, "level": level, "message": "m",
        });
        writeln!(file, "{record}").unwrap();
    }
}

fn burst(second: u64, service: &str) -> [(u64, &str, &str); 3] {
    [(second, service, "ERROR"); 3]
}

fn run(dir: &Dir) -> (Running, crate::support::Api) {
    let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
    let api = run.api();
    (run, api)
}

/// Waits until the alerts are in these states, those that began last first.
#[track_caller]
fn expect_states(api: &crate::support::Api, states: &[&str]) -> Value {
    eventually(&format!("alerts are {states:?}"), || {
        let answer = api.get("/alerts")?;
        let found: Vec<&str> =
            answer["alerts"].as_array()?.iter().filter_map(|alert| alert["state"].as_str()).collect();
        (found == states).then(|| answer.clone())
    })
}

fn request(api: &crate::support::Api, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(api.address()).unwrap();
    let head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_incident_is_told_once_and_a_restart_tells_nothing_again() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let zero = now_ms();
    let (run_1, api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &burst(11, "checkout"));
    append(&dir, zero, &burst(12, "cart"));
    append(&dir, zero, &[(23, "cart", "INFO")]);
    receiver.expect(&["opened"]);
    let open = expect_states(&api, &["open"]);
    let told = receiver.got.lock().unwrap()[0].clone();
    assert_eq!(told["id"], open["alerts"][0]["id"]);
    assert_eq!(told["link"], format!("https://floodmark.example/alerts/{}", told["id"].as_str().unwrap()));
    run_1.signal(Signal::Kill);
    run_1.wait();
    let (run_2, api) = run(&dir);
    append(&dir, zero, &[(60, "cart", "INFO")]);
    receiver.expect(&["opened", "closed"]);
    let closed = expect_states(&api, &["closed"]);
    assert_eq!((&closed["alerts"][0]["key_count"], &closed["alerts"][0]["windows"]), (&json!(2), &json!(3)));
    let id = told["id"].as_str().unwrap();
    let history = api.get(&format!("/alerts/{id}")).unwrap();
    assert_eq!(history["history"][0]["kind"], "opened");
    run_2.signal(Signal::Terminate);
    run_2.wait().expect_code(0);
    let stored = std::fs::read_to_string(dir.path().join("alerts.ndjson")).unwrap();
    let last: Value = serde_json::from_str(stored.lines().last().unwrap()).unwrap();
    assert_eq!(last, closed["alerts"][0]);
}

#[test]
fn late_data_retracts_and_the_receiver_is_told() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let text = configuration(&dir);
    dir.file("floodmark.toml", &text.replace("errors >= 3", "error_ratio > 0.5"));
    let zero = now_ms();
    let (_run, api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(60, "cart", "INFO")]);
    receiver.expect(&["opened", "closed"]);
    append(&dir, zero, &[(2, "checkout", "INFO"); 9]);
    append(&dir, zero, &[(62, "cart", "INFO")]);
    receiver.expect(&["opened", "closed", "retracted"]);
    expect_states(&api, &["retracted"]);
    let got = receiver.got.lock().unwrap();
    assert_eq!(got[0]["id"], got[2]["id"]);
    assert!(got[2]["title"].as_str().unwrap().contains("should not have been raised"), "{}", got[2]);
}

#[test]
fn a_receiver_that_is_down_is_told_later_and_one_that_refuses_is_not_asked_again() {
    let receiver = Receiver::start(503);
    let dir = setup(&receiver, "");
    let zero = now_ms();
    let (mut run, api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    eventually("it was tried twice", || (receiver.kinds().len() >= 2).then_some(()));
    receiver.status.store(400, Ordering::SeqCst);
    run.expect_line("a notification was given up");
    let tries = receiver.kinds().len();
    receiver.status.store(200, Ordering::SeqCst);
    append(&dir, zero, &[(60, "cart", "INFO")]);
    eventually("the end came", || (receiver.kinds().len() > tries).then_some(()));
    assert_eq!(receiver.kinds()[tries..], ["closed"]);
    expect_states(&api, &["closed"]);
}

#[test]
fn a_receiver_that_says_when_is_asked_then_and_one_that_has_moved_is_not_followed() {
    let receiver = Receiver::start(429);
    *receiver.header.lock().unwrap() = "retry-after: 3\r\n".to_owned();
    let dir = setup(&receiver, "");
    let zero = now_ms();
    let (mut run, _api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    eventually("it was tried", || (!receiver.kinds().is_empty()).then_some(()));
    receiver.status.store(200, Ordering::SeqCst);
    receiver.expect(&["opened", "opened"]);
    let times = receiver.times.lock().unwrap().clone();
    // Without being told, it would be tried again after half a second.
    assert!(times[1] - times[0] >= Duration::from_secs(3), "{times:?}");
    *receiver.header.lock().unwrap() = format!("location: http://{}/else\r\n", receiver.address);
    receiver.status.store(301, Ordering::SeqCst);
    append(&dir, zero, &[(60, "cart", "INFO")]);
    let given_up = run.expect_line("a notification was given up");
    assert!(given_up.contains("301") && given_up.contains("give the route the address"), "{given_up}");
    receiver.expect(&["opened", "opened", "closed"]);
}

/// Or the incident would stay open there for ever.
#[test]
fn pagerduty_is_told_of_the_end_also_when_it_is_silenced() {
    let receiver = Receiver::start(202);
    let dir = setup(&receiver, "");
    let text = configuration(&dir);
    let url = format!("webhook.url = \"http://{}/hook\"\n            group_wait = \"0s\"", receiver.address);
    assert!(text.contains(&url), "{text}");
    let pagerduty = format!("pagerduty = {{ routing_key = \"k\", url = \"http://{}/v2\" }}", receiver.address);
    dir.file("floodmark.toml", &text.replace(&url, &pagerduty));
    let zero = now_ms();
    let (_run, api) = run(&dir);
    let actions =
        || -> Vec<Value> { receiver.got.lock().unwrap().iter().map(|body| body["event_action"].clone()).collect() };
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    eventually("it was told", || (actions() == ["trigger"]).then_some(()));
    let answer = request(&api, "POST", "/silences", r#"{"all":true,"for":"1h","comment":"enough"}"#);
    assert!(answer.contains(" 201 "), "{answer}");
    append(&dir, zero, &[(60, "cart", "INFO")]);
    eventually("it was told of the end", || (actions() == ["trigger", "resolve"]).then_some(()));
    let got = receiver.got.lock().unwrap();
    assert_eq!(got[0]["dedup_key"], got[1]["dedup_key"]);
}

#[test]
fn nobody_is_told_of_what_is_silenced_or_over_for_long() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "[alerts]\nnotify_max_age = \"9m\"");
    let zero = now_ms();
    let (_run, api) = run(&dir);
    let answer =
        request(&api, "POST", "/silences", r#"{"keys":{"service_name":"check*"},"for":"1h","comment":"move"}"#);
    assert!(answer.contains(" 201 "), "{answer}");
    // Ten minutes ago.
    append(&dir, zero, &burst(1, "cart"));
    append(&dir, zero, &burst(201, "checkout"));
    append(&dir, zero, &[(300, "cart", "INFO")]);
    expect_states(&api, &["closed", "closed"]);
    append(&dir, zero, &burst(401, "cart"));
    append(&dir, zero, &[(412, "cart", "INFO")]);
    receiver.expect(&["opened"]);
    let start = receiver.got.lock().unwrap()[0]["alert"]["start"].clone();
    assert_eq!(start, json!(zero + 400_000));
    assert!(request(&api, "DELETE", "/silences/1", "").contains(" 204 "));
    assert_eq!(api.get("/silences").unwrap()["silences"], json!([]));
}

#[test]
fn silences_are_made_listed_and_ended_on_the_command_line() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let (_run, api) = run(&dir);
    let url = format!("http://{}", api.address());
    let silence = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["silence"].iter().chain(arguments).chain(&["--url", &url]).copied().collect();
        dir.command(&arguments).run()
    };
    let made = silence(&["add", "--key", "service_name=check*", "--for", "1h", "--comment", "move"]);
    let text = made.expect_code(0).stdout();
    assert!(text.starts_with("silence 1 until ") && text.contains("service_name=check*"), "{text}");
    silence(&["add", "--alert", "errors", "--until", "2100-01-01T00:00:00Z", "--comment", "x"]).expect_code(0);
    let listed: Value = serde_json::from_str(&silence(&["list", "--json"]).expect_code(0).stdout()).unwrap();
    assert_eq!((&listed[0]["comment"], &listed[1]["alert"]), (&json!("move"), &json!("errors")));
    assert_eq!(listed[1]["until"], 4_102_444_800_000_u64);
    let table = silence(&["list"]).expect_code(0).stdout();
    assert!(table.contains("2100-01-01T00:00:00.000Z") && table.contains("move"), "{table}");
    silence(&["end", "1"]).expect_code(0);
    assert_eq!(api.get("/silences").unwrap()["silences"].as_array().unwrap().len(), 1);
    // What is wrong is said, with what to do.
    let gone = silence(&["end", "1"]).expect_code(1).stderr();
    assert!(gone.contains("there is no such silence"), "{gone}");
    let unknown = silence(&["add", "--alert", "erors", "--for", "1h", "--comment", "x"]).expect_code(1).stderr();
    assert!(unknown.contains("expected the name of an alert (errors)"), "{unknown}");
    silence(&["add", "--alert", "err*", "--for", "1h", "--comment", "x"]).expect_code(0);
    let everything = silence(&["add", "--for", "1h", "--comment", "x"]).expect_code(2).stderr();
    assert!(everything.contains("--alert"), "{everything}");
    let nobody = dir.command(&["silence", "list", "--url", "http://127.0.0.1:9"]).run().expect_code(1).stderr();
    assert!(nobody.contains("is it running"), "{nobody}");
}

#[test]
fn a_group_waits_for_others_and_is_told_once_through_a_kill() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let text = configuration(&dir);
    let grouped = text.replace("group_wait = \"0s\"", "group_wait = \"3s\"\ngroup_by = []");
    let second = "[[alert]]\nname = \"more\"\nwhen = [\"errors >= 2\"]\n[[route]]";
    dir.file("floodmark.toml", &grouped.replace("[[route]]", second));
    let zero = now_ms();
    let (run_1, api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    expect_states(&api, &["open", "open"]);
    run_1.signal(Signal::Kill);
    run_1.wait();
    assert!(receiver.kinds().is_empty(), "both wait");
    let (_run, api) = run(&dir);
    expect_states(&api, &["open", "open"]);
    receiver.expect(&["group"]);
    let told = receiver.got.lock().unwrap()[0].clone();
    assert_eq!(told["count"], 2);
    let mut names: Vec<&str> =
        told["alerts"].as_array().unwrap().iter().map(|of| of["alert"]["alert"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["errors", "more"]);
}

#[test]
fn a_replay_tells_nobody() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let zero = now_ms();
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(40, "cart", "INFO")]);
    let range = format!("in.log=0..{}", std::fs::metadata(dir.path().join("in.log")).unwrap().len());
    let run = dir.command(&["run", "-c", "floodmark.toml", "--from", &range, "--out", "replayed"]).run();
    let printed = run.expect_code(0).stdout();
    assert!(printed.starts_with("start") && printed.contains("errors >= 3: service_name=checkout"), "{printed}");
    assert!(printed.trim_end().ends_with("hook"), "{printed}");
    let said = std::fs::read_to_string(dir.path().join("replayed/alerts.ndjson")).unwrap();
    assert!(said.contains("\"alert\":\"errors\""), "{said}");
    assert_eq!(receiver.kinds(), [""; 0]);
}

#[test]
fn an_alert_that_outlasts_its_silence_is_told_then_as_it_is() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let zero = now_ms();
    let (mut run_1, api) = run(&dir);
    assert!(request(&api, "POST", "/silences", r#"{"all":true,"for":"1h","comment":"move"}"#).contains(" 201 "));
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    run_1.expect_line("recorded and not sent: it is silenced");
    append(&dir, zero, &burst(13, "checkout"));
    append(&dir, zero, &[(23, "cart", "INFO")]);
    eventually("it has two windows", || (api.get("/alerts")?["alerts"][0]["windows"] == 2).then_some(()));
    run_1.signal(Signal::Kill);
    run_1.wait();
    let (_run, api) = run(&dir);
    assert!(receiver.kinds().is_empty());
    assert!(request(&api, "DELETE", "/silences/1", "").contains(" 204 "));
    receiver.expect(&["opened"]);
    assert_eq!(receiver.got.lock().unwrap()[0]["alert"]["windows"], 2, "what is known by now");
    append(&dir, zero, &[(90, "cart", "INFO")]);
    receiver.expect(&["opened", "closed"]);
}

#[test]
fn an_incident_that_goes_on_is_told_when_the_reading_has_caught_up() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "[alerts]\nnotify_max_age = \"9m\"");
    let zero = now_ms();
    let (mut run, _api) = run(&dir);
    // Ten minutes ago.
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    run.expect_line("recorded and not sent: it is over for long");
    for second in (21..500).step_by(20) {
        append(&dir, zero, &burst(second, "checkout"));
    }
    receiver.expect(&["opened"]);
    assert_eq!(receiver.got.lock().unwrap()[0]["alert"]["start"], json!(zero));
    append(&dir, zero, &[(590, "cart", "INFO")]);
    receiver.expect(&["opened", "closed"]);
}

#[test]
fn an_alert_that_is_configured_no_more_is_closed_and_its_receivers_are_told() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let zero = now_ms();
    let (run_1, _api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    receiver.expect(&["opened"]);
    run_1.signal(Signal::Terminate);
    run_1.wait().expect_code(0);
    let text = configuration(&dir);
    let (before, rest) = text.split_once("[[alert]]").unwrap();
    let (_, after) = rest.split_once("[[route]]").unwrap();
    dir.file("floodmark.toml", &format!("{before}[[route]]{after}"));
    let (_run, api) = run(&dir);
    receiver.expect(&["opened", "closed"]);
    let title = receiver.got.lock().unwrap()[1]["title"].clone();
    assert!(title.as_str().unwrap().contains("its definition changed"), "{title}");
    expect_states(&api, &["closed"]);
}

#[test]
fn a_dry_run_says_what_would_be_sent_and_no_secret() {
    let receiver = Receiver::start(200);
    let dir =
        setup(&receiver, "[[route]]\nname = \"oncall\"\npagerduty.routing_key = \"k3y\"\n[alerts]\ndry_run = true");
    let zero = now_ms();
    let (mut run, _api) = run(&dir);
    append(&dir, zero, &burst(1, "checkout"));
    append(&dir, zero, &[(12, "cart", "INFO")]);
    let lines = [run.expect_line("dry run: would send to"), run.expect_line("dry run: would send to")];
    let of = |kind: &str| lines.iter().find(|line| line.contains(kind)).unwrap_or_else(|| panic!("{lines:?}"));
    let hook = of("webhook.url http://127.0.0.1/[redacted]: ");
    assert!(hook.contains(r#""kind":"opened""#) && !hook.contains("/hook"), "{hook}");
    let oncall = of("pagerduty.url https://events.pagerduty.com/[redacted]: ");
    assert!(oncall.contains(r#""event_action":"trigger""#) && !oncall.contains("k3y"), "{oncall}");
    assert!(receiver.kinds().is_empty());
}

#[test]
fn an_alert_can_be_about_one_rule_and_is_corrected_with_it() {
    let receiver = Receiver::start(200);
    let dir = setup(&receiver, "");
    let text = configuration(&dir);
    let text = text.replace("\"errors >= 3\"", "\"rule:warn_level >= 2\", \"rule_ratio:warn_level > 0.4\"");
    dir.file("floodmark.toml", &text.replace("[[view]]", "[[view]]\nrules = [\"warn_level\"]"));
    let zero = now_ms();
    let (_run, api) = run(&dir);
    append(&dir, zero, &burst(1, "cart"));
    append(&dir, zero, &[(1, "checkout", "WARN"), (2, "checkout", "WARN"), (3, "checkout", "INFO")]);
    append(&dir, zero, &[(25, "cart", "INFO")]);
    receiver.expect(&["opened"]);
    let body = receiver.got.lock().unwrap()[0].clone();
    assert!(body["title"].as_str().unwrap().contains("rule:warn_level"), "{body}");
    assert_eq!(body["alert"]["keys"][0]["service_name"], "checkout", "{body}");
    // Two of five are not more than two of five.
    append(&dir, zero, &[(4, "checkout", "INFO"), (5, "checkout", "INFO"), (33, "cart", "INFO")]);
    receiver.expect(&["opened", "retracted"]);
    expect_states(&api, &["retracted"]);
}
