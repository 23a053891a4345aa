//! `/stream`: applying all events gives what `/views/{name}` answers, whatever happens to the connection.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use floodmark::api::ApiConfig;
use floodmark::units::ByteSize;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::api::Api;
use crate::support::{self, Dir, Signal, eventually};
use crate::synthetic::{TICK_MS, feed};

const START: u64 = 1_769_846_400;

#[derive(Debug)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Value,
}

/// A connection, read event by event.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr, query: &str, last_id: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let resume = last_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET /stream{query} HTTP/1.0\r\nhost: localhost\r\n{resume}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "the head ends early: {head}");
        }
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        Self(reader)
    }

    /// The next event; `None` at the end of the stream.
    fn next(&mut self) -> Option<Event> {
        let (mut id, mut kind, mut data) = (None, String::new(), Value::Null);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("event", value)) => value.clone_into(&mut kind),
                Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
                _ if line == "\n" && !kind.is_empty() => return Some(Event { id, kind, data }),
                _ => assert!(line == "\n" || line.starts_with(':'), "{line}"),
            }
        }
    }
}

/// What a client has put together from events.
#[derive(Default)]
struct Copy {
    /// By view, start and key.
    windows: BTreeMap<(String, u64, String), Value>,
    /// By id, and as of when they are exact.
    alerts: BTreeMap<String, Value>,
    alerts_as_of: Value,
    last_id: Option<String>,
    kinds: BTreeMap<String, usize>,
}

impl Copy {
    /// Takes in an event. Returns the time that the copy is exact for, if it is.
    fn apply(&mut self, event: Event) -> Option<Value> {
        *self.kinds.entry(event.kind.clone()).or_default() += 1;
        self.last_id = event.id.or(self.last_id.take());
        let data = event.data;
        let text = |field: &str| data[field].as_str().unwrap().to_owned();
        match event.kind.as_str() {
            "window" | "final" | "correction" => {
                assert!(event.kind == "window" || data["final"] == true, "{} {data}", event.kind);
                let place = (text("view"), data["start"].as_u64().unwrap(), data["key"].to_string());
                self.windows.insert(place, data);
            }
            "gone" => {
                let (view, end) = (text("view"), data["end"].as_u64().unwrap());
                self.windows.retain(|(of, ..), window| *of != view || window["end"].as_u64().unwrap() > end);
            }
            "withdrawn" => {
                let place = (text("view"), data["start"].as_u64().unwrap(), data["key"].to_string());
                let dropped = self.windows.remove(&place);
                assert!(dropped.is_some_and(|window| window["count"] == 0 && !window["score"].is_null()), "{data}");
            }
            "alert" | "opened" | "updated" | "amended" | "closed" | "retracted" => {
                assert!(event.kind == "alert" || data["kind"] == event.kind, "{} {data}", event.kind);
                self.alerts.insert(data["alert"]["id"].as_str().unwrap().to_owned(), data["alert"].clone());
            }
            "forgotten" => _ = self.alerts.remove(&text("id")),
            "reset" => {
                self.windows.clear();
                self.alerts.clear();
            }
            "snapshot" | "frontier" => {
                self.alerts_as_of = data["alerts_as_of"].clone();
                return Some(data["as_of"].clone());
            }
            other => panic!("an event of kind {other}"),
        }
        None
    }

    /// Fails unless the copy is what the view's answer is.
    #[track_caller]
    fn assert_is(&self, view: &str, answer: &Value) {
        assert_eq!(answer["more"], false, "the answer is the whole view");
        let of_view = self.windows.iter().filter(|((of, ..), _)| of == view);
        let copied: BTreeMap<_, _> = of_view.map(|((_, start, key), window)| ((*start, key.clone()), window)).collect();
        let windows = answer["windows"].as_array().unwrap().iter();
        let answered: BTreeMap<_, _> =
            windows.map(|w| ((w["start"].as_u64().unwrap(), w["key"].to_string()), w)).collect();
        for (place, window) in &answered {
            assert_eq!(copied.get(place), Some(window), "{view} {place:?} as of {}", answer["as_of"]);
        }
        assert_eq!(copied.len(), answered.len(), "windows that are not there as of {}", answer["as_of"]);
    }
}

/// A client that loses its connection now and then.
struct Client {
    /// What it asks for, and where the same is answered: views with their queries.
    query: &'static str,
    views: &'static [(&'static str, &'static str)],
    connection: Option<Connection>,
    copy: Copy,
}

impl Client {
    fn connect(&mut self, api: &Api) {
        if self.copy.last_id.is_none() {
            self.copy.windows.clear();
        }
        self.connection = Some(Connection::open(api.address, self.query, self.copy.last_id.as_deref()));
    }

    /// Reads until the copy is exact for this time, and compares.
    fn catch_up(&mut self, api: &Api, as_of: u64) {
        let connection = self.connection.as_mut().unwrap();
        loop {
            let event = connection.next().expect("the stream goes on");
            if self.copy.apply(event) == Some(json!(as_of)) {
                break;
            }
        }
        for (view, query) in self.views {
            let answer = api.json(&format!("/views/{view}?size=1000{query}"));
            assert_eq!(answer["as_of"], as_of);
            self.copy.assert_is(view, &answer);
        }
    }
}

#[test]
fn applying_all_events_gives_the_views_through_lost_connections() {
    let given = std::env::var("FLOODMARK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("FLOODMARK_TEST_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let api = Api::with(ApiConfig { stream_buffer: ByteSize(120 << 10), ..ApiConfig::default() });
    let client = |query, views| Client { query, views, connection: None, copy: Copy::default() };
    let mut clients = [
        client("", &[("per_service", ""), ("per_path", "")]),
        client("?view=per_path&service_name=user-service", &[("per_path", "&service_name=user-service")]),
        client("?view=per_service&from=snapshot", &[("per_service", "")]),
    ];
    // One is connected before there is anything.
    clients[0].connect(&api);
    let mut at = START;
    for _ in 0..60 {
        let next = at + [1, 1, 1, 1, 7, rng.random_range(2..60), 900][rng.random_range(0..7)];
        feed(&api.live, at, next);
        at = next;
        for client in &mut clients {
            match &mut client.connection {
                Some(_) if rng.random_bool(0.2) => client.connection = None,
                // Lost in the middle of what there was to read: at least the frontier of this round.
                Some(connection) if rng.random_bool(0.1) => {
                    client.copy.apply(connection.next().unwrap());
                    client.connection = None;
                }
                Some(_) => client.catch_up(&api, at * TICK_MS),
                None if rng.random_bool(0.4) => {
                    client.connect(&api);
                    // Nothing new need come for one that has seen everything.
                    feed(&api.live, at, at + 1);
                    at += 1;
                    client.catch_up(&api, at * TICK_MS);
                }
                None => {}
            }
        }
        // Those that are connected and did not read are behind by now, and catch up in the next round.
    }
    let count = |kind: &str| clients.iter().filter_map(|client| client.copy.kinds.get(kind)).sum::<usize>();
    for kind in ["window", "final", "correction", "gone", "frontier", "snapshot", "reset"] {
        assert!(count(kind) > 0, "no {kind} in {:?}", clients.map(|client| client.copy.kinds));
    }
}

#[test]
fn a_client_goes_on_where_it_was() {
    let api = Api::new();
    feed(&api.live, START, START + 30);
    let mut first = Connection::open(api.address, "?from=now", None);
    let begin = first.next().unwrap();
    assert_eq!((begin.kind.as_str(), &begin.data), ("frontier", &json!({"as_of": (START + 30) * 1_000})));
    feed(&api.live, START + 30, START + 31);
    let seen = first.next().unwrap();
    drop(first);
    feed(&api.live, START + 31, START + 32);
    let mut second = Connection::open(api.address, "?from=now", seen.id.as_deref());
    let mut whole = Connection::open(api.address, "?from=now", begin.id.as_deref());
    assert_eq!(whole.next().unwrap().id, seen.id);
    for _ in 0..10 {
        let (a, b) = (second.next().unwrap(), whole.next().unwrap());
        assert_eq!((a.id, a.data), (b.id, b.data));
    }
    // An id of another start of the process.
    let foreign = seen.id.unwrap().replace(|c: char| c.is_ascii_hexdigit(), "0");
    let mut lost = Connection::open(api.address, "", Some(&foreign));
    assert_eq!(lost.next().unwrap().kind, "reset");
    assert_eq!(lost.next().unwrap().kind, "window");
}

#[test]
fn streams_are_limited_and_end_with_the_api() {
    let api = Api::with(ApiConfig { max_streams: 1, ..ApiConfig::default() });
    feed(&api.live, START, START + 10);
    let mut only = Connection::open(api.address, "", None);
    // It may have part of a snapshot that broke off.
    assert_eq!(only.next().unwrap().kind, "reset");
    assert_eq!(only.next().unwrap().kind, "window");
    let problem = api.get("/stream").problem(503, "/stream");
    assert!(problem["detail"].as_str().unwrap().contains("api.max_streams"), "{problem}");
    drop(only);
    let address = api.address;
    let mut next = eventually("the place is free again", || {
        let mut stream = TcpStream::connect(address).ok()?;
        write!(stream, "GET /stream?from=now HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.contains(" 200 ").then_some(reader)
    });
    feed(&api.live, START + 10, START + 11);
    api.end();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut next, &mut rest).unwrap();
    let last = format!("data: {{\"as_of\":{}}}\n\n", (START + 11) * 1_000);
    assert!(rest.ends_with(&last), "what there was is sent before the end: {rest}");
}

/// JSON records of the seconds `from..to`, with late ones among them.
fn records(from: u64, to: u64) -> String {
    (from..to).fold(String::new(), |mut text, second| {
        for behind in [0, 1, if second.is_multiple_of(5) { 25 } else { 2 }] {
            let (at, service) = ((second - behind) * 1_000, second % 3);
            let _ = writeln!(text, r#"{{"timestamp":{at},"service_name":"s{service}","response_time_ms":{behind}.5}}"#);
        }
        text
    })
}

const FOLLOWED: &str = "\
    [source.files]\npaths = [\"in.log\"]\npoll_interval = \"20ms\"\n[store.ndjson]\n\
    [api]\nlisten = \"127.0.0.1:0\"\n\
    [[view]]\nname = \"per_service\"\nwindow = \"10s\"\nallowed_lateness = \"5s\"\nretention = \"1m\"\n";

/// Reads until what is answered is of the same time as the copy, and compares.
fn meet(api: &support::Api, connection: &mut Connection, copy: &mut Copy, from_ms: u64) {
    loop {
        let Some(as_of) = copy.apply(connection.next().expect("the stream goes on")) else { continue };
        let answer = api.get("/views/per_service?size=1000").expect("an answer");
        if answer["as_of"] == as_of {
            copy.assert_is("per_service", &answer);
            if as_of.as_u64().is_some_and(|as_of| as_of >= from_ms) {
                return;
            }
        }
    }
}

#[test]
fn a_run_is_followed_until_it_ends_and_after() {
    let dir = Dir::new();
    dir.file("floodmark.toml", FOLLOWED);
    dir.file("in.log", &records(START, START + 40));
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    let mut connection = Connection::open(api.address(), "", None);
    let mut copy = Copy::default();
    for step in 1..6 {
        let (from, to) = (START + step * 40, START + step * 40 + 40);
        let mut log = std::fs::OpenOptions::new().append(true).open(dir.path().join("in.log")).unwrap();
        log.write_all(records(from, to).as_bytes()).unwrap();
        // The clock stands at the last record until another comes.
        meet(&api, &mut connection, &mut copy, (to - 1) * 1_000);
    }
    for kind in ["window", "final", "correction", "gone", "frontier"] {
        assert!(copy.kinds.contains_key(kind), "no {kind} in {:?}", copy.kinds);
    }
    run.signal(Signal::Terminate);
    while let Some(event) = connection.next() {
        copy.apply(event);
    }
    run.wait().expect_code(0);

    let mut again = dir.command(&["run"]).start();
    let api = again.api();
    let mut connection = Connection::open(api.address(), "", copy.last_id.as_deref());
    let first = connection.next().unwrap();
    assert_eq!(first.kind, "reset", "another start has other ids");
    copy.apply(first);
    meet(&api, &mut connection, &mut copy, START * 1_000);
    again.signal(Signal::Terminate);
    again.wait().expect_code(0);
}

const WATCHED: &str = "\
    data_dir = \"data\"\n\
    [source.files]\npaths = [\"in.log\"]\npoll_interval = \"20ms\"\n[store.ndjson]\n\
    [api]\nlisten = \"127.0.0.1:0\"\n[alerts]\nkeep = 5\n\
    [[view]]\nname = \"per_service\"\nwindow = \"10s\"\nallowed_lateness = \"5s\"\nretention = \"5m\"\nscore = []\n\
    [[alert]]\nname = \"errors\"\nwhen = [\"error_ratio > 0.5\"]\nclose_after = 1\n\
    [[alert]]\nname = \"each\"\nwhen = [\"errors >= 2\"]\nclose_after = 2\ngroup = false\n";

/// Records of three services, each second one of each; `failing` says which are errors.
fn failing(from: u64, to: u64, failing: impl Fn(u64, u64) -> bool) -> String {
    (from..to).fold(String::new(), |mut text, second| {
        for service in 0..3 {
            let level = if failing(second, service) { "ERROR" } else { "INFO" };
            let at = second * 1_000;
            let _ = writeln!(text, r#"{{"timestamp":{at},"service_name":"s{service}","level":"{level}"}}"#);
        }
        text
    })
}

/// Reads until `/alerts` answers for the time that the copy of the alerts is exact for, and compares.
fn meet_alerts(api: &support::Api, connection: &mut Connection, copy: &mut Copy, from_ms: u64) {
    loop {
        if copy.apply(connection.next().expect("the stream goes on")).is_none() {
            continue;
        }
        let answer = api.get("/alerts?size=1000").expect("an answer");
        if answer["as_of"] == copy.alerts_as_of {
            let alerts = answer["alerts"].as_array().unwrap().iter();
            let alerts: BTreeMap<String, Value> =
                alerts.map(|alert| (alert["id"].as_str().unwrap().to_owned(), alert.clone())).collect();
            assert_eq!(copy.alerts, alerts, "as of {}", answer["as_of"]);
            if answer["as_of"].as_u64().is_some_and(|as_of| as_of >= from_ms) {
                return;
            }
        }
    }
}

#[test]
fn alerts_are_followed_like_windows() {
    let dir = Dir::new();
    dir.file("floodmark.toml", WATCHED);
    let start = START / 10 * 10;
    // One that is over by the time anybody looks.
    dir.file("in.log", &failing(start, start + 60, |second, service| second < start + 10 && service == 0));
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    let append = |text: &str| {
        let mut log = std::fs::OpenOptions::new().append(true).open(dir.path().join("in.log")).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    };
    eventually("it is over", || {
        let answer = api.get("/alerts?state=closed")?;
        (answer["as_of"] == (start + 59) * 1_000 && answer["total"] == 2).then_some(())
    });
    let mut copy = Copy::default();
    let mut connection = Connection::open(api.address(), "", None);
    let (mut of_one, query) = (Copy::default(), "?view=per_service&service_name=s2");
    let mut connection_of_one = Connection::open(api.address(), query, None);
    meet_alerts(&api, &mut connection, &mut copy, (start + 59) * 1_000);
    assert_eq!((copy.alerts.len(), copy.kinds.get("alert")), (2, Some(&2)));
    // Two services fail together; then a window of one turns out to be as usual, and one that was quiet to be part of it.
    let together = |second: u64, service: u64| second < start + 80 && service > 0;
    append(&failing(start + 60, start + 75, together));
    meet_alerts(&api, &mut connection, &mut copy, (start + 74) * 1_000);
    append(&failing(start + 75, start + 90, together));
    meet_alerts(&api, &mut connection, &mut copy, (start + 89) * 1_000);
    let late = |from: u64, service: u64, level: &str| {
        let record = |second| {
            format!("{{\"timestamp\":{},\"service_name\":\"s{service}\",\"level\":\"{level}\"}}\n", second * 1_000)
        };
        (from..from + 30).map(|second| record(second.min(from + 9))).collect::<String>()
    };
    append(
        &(late(start + 60, 1, "INFO") + &late(start + 70, 1, "INFO") + &failing(start + 90, start + 100, |_, _| false)),
    );
    meet_alerts(&api, &mut connection, &mut copy, (start + 99) * 1_000);
    append(&(late(start + 10, 0, "ERROR") + &failing(start + 100, start + 110, |_, _| false)));
    // Lost, and found again where it was.
    connection = Connection::open(api.address(), "", copy.last_id.as_deref());
    meet_alerts(&api, &mut connection, &mut copy, (start + 109) * 1_000);
    append(&(late(start, 0, "INFO") + &late(start + 10, 0, "INFO") + &failing(start + 110, start + 120, |_, _| false)));
    meet_alerts(&api, &mut connection, &mut copy, (start + 119) * 1_000);
    // More than are remembered.
    for round in 0..4 {
        let from = start + 120 + round * 60;
        append(&failing(from, from + 60, |second, service| second < from + 10 && service == 0));
        meet_alerts(&api, &mut connection, &mut copy, (from + 59) * 1_000);
    }
    for kind in ["alert", "opened", "updated", "amended", "closed", "retracted", "forgotten"] {
        assert!(copy.kinds.contains_key(kind), "no {kind} in {:?}", copy.kinds);
    }
    run.signal(Signal::Terminate);
    while let Some(event) = connection_of_one.next() {
        of_one.apply(event);
    }
    run.wait().expect_code(0);
    assert!(of_one.kinds.contains_key("opened") && !of_one.kinds.contains_key("alert"), "{:?}", of_one.kinds);
}

const SCORED: &str = "\
    data_dir = \"data\"\n\
    [source.files]\npaths = [\"in.log\"]\npoll_interval = \"20ms\"\n[store.ndjson]\n[checkpoint]\nevery = \"1s\"\n\
    [api]\nlisten = \"127.0.0.1:0\"\n\
    [[view]]\nname = \"per_service\"\nwindow = \"10s\"\nallowed_lateness = \"5s\"\nretention = \"5m\"\n\
    score = [\"rate\", \"p95\"]\n";

/// JSON records of two services, each second one of each but those of `s0` in `gap`.
fn steady(from: u64, to: u64, gap: std::ops::Range<u64>) -> String {
    (from..to).fold(String::new(), |mut text, second| {
        for service in 0..2 {
            let at = second * 1_000 + second * 7 % 13;
            if service > 0 || !gap.contains(&second) {
                let ms = 10 + second * 31 % 17;
                let _ = writeln!(text, r#"{{"timestamp":{at},"service_name":"s{service}","response_time_ms":{ms}}}"#);
            }
        }
        text
    })
}

#[test]
fn scores_are_read_and_followed_like_the_windows_they_are_of() {
    let dir = Dir::new();
    dir.file("floodmark.toml", SCORED);
    let (start, gap) = (START / 10 * 10, START / 10 * 10 + 2_000..START / 10 * 10 + 2_040);
    dir.file("in.log", &steady(start, start + 1_900, gap.clone()));
    let run = dir.command(&["run"]).start();
    let mut run = run;
    let api = run.api();
    let mut connection = Connection::open(api.address(), "", None);
    let mut copy = Copy::default();
    let append = |text: &str| {
        let mut log = std::fs::OpenOptions::new().append(true).open(dir.path().join("in.log")).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    };
    append(&steady(start + 1_900, start + 2_085, gap.clone()));
    meet(&api, &mut connection, &mut copy, (start + 2_084) * 1_000);
    let silent = |copy: &Copy| {
        let without = copy.windows.values().filter(|window| window["count"] == 0);
        without.map(|window| window["start"].as_u64().unwrap() / 1_000 - start).collect::<Vec<_>>()
    };
    assert!(silent(&copy).starts_with(&[2_000]), "{:?}", silent(&copy));
    let scores = copy.windows.values().filter(|window| window["score"]["learning"] == false).count();
    assert!(scores > 40, "{scores} windows are scored");

    // A restart answers the same.
    let before = api.get("/views/per_service?size=1000").unwrap();
    // The second from now is of all of this.
    let checkpoints = || {
        let entries = std::fs::read_dir(dir.path().join("data/checkpoints/a")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("manifest-")?.parse::<u64>().ok()).max().unwrap_or(0)
    };
    let newest = checkpoints();
    eventually("two more checkpoints", || (checkpoints() >= newest + 2).then_some(()));
    run.signal(Signal::Kill);
    run.wait();
    let mut again = dir.command(&["run"]).start();
    let api = again.api();
    let after = eventually("the same as before, scores after everything else", || {
        let answer = api.get("/views/per_service?size=1000")?;
        let is_scored = |window: &Value| window["final"] == false || !window["score"].is_null();
        let is_there = answer["as_of"].as_u64() >= before["as_of"].as_u64();
        (is_there && answer["windows"].as_array()?.iter().all(is_scored)).then_some(answer)
    });
    // The clock may go on a little: those that are not final at first may be later, and the oldest may be gone.
    let finals = |answer: &Value| {
        let windows = answer["windows"].as_array().unwrap().iter();
        windows.map(|window| (window["start"].to_string() + &window["key"].to_string(), window.clone())).collect()
    };
    let (before, mut after): (BTreeMap<_, _>, BTreeMap<_, _>) = (finals(&before), finals(&after));
    let is_kept = |window: &Value| window["final"] == true && window["start"].as_u64() >= Some((start + 1_900) * 1_000);
    for (place, window) in before.into_iter().filter(|(_, window)| is_kept(window)) {
        assert_eq!(after.remove(&place), Some(window), "{place}");
    }

    // The records of the gap come after all: nobody was silent.
    let late = steady(gap.start, gap.end, 0..0);
    let late: String = late.lines().filter(|line| line.contains("s0")).map(|line| format!("{line}\n")).collect();
    let mut connection = Connection::open(api.address(), "", None);
    let mut copy = Copy::default();
    meet(&api, &mut connection, &mut copy, (start + 2_084) * 1_000);
    append(&late);
    append(&steady(start + 2_085, start + 2_100, 0..0));
    meet(&api, &mut connection, &mut copy, (start + 2_099) * 1_000);
    assert!(silent(&copy).is_empty(), "{:?}", silent(&copy));
    again.signal(Signal::Terminate);
    again.wait().expect_code(0);

    // What was published last is what was answered.
    let stored = std::fs::read_to_string(dir.path().join("windows.ndjson")).unwrap();
    let mut last = BTreeMap::new();
    for mut document in stored.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        // Only the document says where the records are.
        if let Some(score) = document["score"].as_object_mut() {
            score.remove("offsets");
        }
        last.insert((document["start"].as_u64().unwrap(), document["key"].to_string()), document);
    }
    for ((_, start, key), window) in &copy.windows {
        if window["final"] == true {
            assert_eq!(last.get(&(*start, key.clone())), Some(window));
        }
    }
}
