//! `floodmark explain` against a real broker: alerts of a running API and of the index, after corrections and a crash;
//! and what it says once the records are gone.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use floodmark::sources::kafka::{KafkaProducer, ProducerConfig};
use serde_json::{Value, json};

use crate::engine::Indices;
use crate::kafka::{create_topic, delete_before, delete_topic};
use crate::process::{Api, Dir, Ran, Running, Signal};
use crate::support::{Service, Test, eventually, unique};
use crate::tests;

/// Quiet seconds: windows of 10 s enough to know what is rare.
const QUIET_S: u64 = 30_000;

/// The tests of this module.
pub fn tests() -> Vec<Test> {
    tests!("explain", [Service::Kafka, Service::Elasticsearch8];
        alerts_are_derived_again_from_the_topic,
        a_topic_made_anew_is_not_taken_for_the_one_that_was_read,
    )
}

/// A topic of two partitions with records of two services, one every other second each.
struct Log {
    topic: String,
    producer: KafkaProducer,
    zero_ms: u64,
    random: u64,
}

/// What happens to a service for a while: its name, from when, to when.
type Incident<'a> = Option<(&'a str, u64, u64)>;

impl Log {
    fn new() -> Self {
        let topic = unique("explain");
        create_topic(&topic, 2, &[]);
        let config = ProducerConfig { brokers: Service::Kafka.address(), ..ProducerConfig::default() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        // Long enough ago that nothing is ahead of the clock.
        let zero_ms = now / 60_000 * 60_000 - 36_000_000;
        Self { topic, producer: KafkaProducer::new(&config).unwrap(), zero_ms, random: 7 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn send(&self, partition: i32, second: u64, service: &str, status: u16, response_time_ms: u64) {
        let record = json!({
            "timestamp": self.zero_ms + second * 1_000, "service_name": service, "message": "request",
            "level": if status >= 500 { "ERROR" } else { "INFO" },
            "status_code": status, "response_time_ms": response_time_ms,
        });
        self.producer.send(&self.topic, Some(partition), None, record.to_string().as_bytes()).unwrap();
    }

    /// Records of these seconds, with what happens meanwhile.
    fn seconds(&mut self, from: u64, to: u64, incident: Incident<'_>) {
        for second in (from..to).step_by(2) {
            for service in ["cart", "checkout"] {
                let is_bad = incident.is_some_and(|(of, from, to)| of == service && (from..to).contains(&second));
                let (errors, slow) = if is_bad { (50, 1_500) } else { (1, 80) };
                let status = if self.random(100) < errors { 500 } else { 200 };
                let response_time_ms = slow + self.random(40);
                self.send((second / 2 % 2) as i32, second, service, status, response_time_ms);
            }
        }
        self.flush();
    }

    fn flush(&self) {
        self.producer.flush(std::time::Duration::from_secs(20)).unwrap();
    }
}

fn config(log: &Log, indices: &Indices) -> String {
    let (topic, prefix) = (&log.topic, &indices.prefix);
    let (brokers, url) = (Service::Kafka.address(), Service::Elasticsearch8.address());
    format!(
        r#"
            data_dir = "data"
            [source.kafka]
            brokers = "{brokers}"
            topics = ["{topic}"]
            [store.elasticsearch]
            urls = ["{url}"]
            prefix = "{prefix}"
            replicas = 0
            [time]
            idle_after = "1h"
            [checkpoint]
            every = "500ms"
            [api]
            listen = "127.0.0.1:0"
            [[view]]
            name = "tumbling"
            allowed_lateness = "10s"
            score = ["rate", "error_ratio", "p95", "mean"]
            [[view]]
            name = "sliding"
            window = "30s"
            slide = "10s"
            allowed_lateness = "10s"
            score = ["error_ratio", "p50", "p99"]
            [[alert]]
            name = "of_tumbling"
            view = "tumbling"
            when = ["score >= 5"]
            [[alert]]
            name = "of_sliding"
            view = "sliding"
            when = ["score >= 5"]
        "#
    )
}

fn start(dir: &Dir, how: &str) -> (Running, Api, String) {
    let mut run = dir.command(&["run", "-c", "floodmark.toml"]).start();
    run.expect_line(how);
    let api = Api::at(&run.expect_line("the API is at http://"));
    let url = format!("http://{}", api.address());
    (run, api, url)
}

/// The alert of each name that began with an incident, with what it was made by, once all of these hold.
fn alerts(api: &Api, log: &Log, incident: Incident<'_>, wanted: impl Fn(&Value) -> bool) -> BTreeMap<String, Value> {
    let (service, from, to) = incident.unwrap();
    // The first of the sliding windows begins before it.
    let times = log.zero_ms + (from - 30) * 1_000..log.zero_ms + to * 1_000;
    let listed = std::cell::RefCell::new(Vec::new());
    let look = || {
        let mut found = BTreeMap::new();
        listed.borrow_mut().clear();
        for alert in api.get("/alerts?size=1000")?["alerts"].as_array()? {
            if alert["first"]["key"]["service_name"] == service && times.contains(&alert["start"].as_u64()?) {
                let whole = api.get(&format!("/alerts/{}", alert["id"].as_str()?))?["alert"].clone();
                listed
                    .borrow_mut()
                    .push(format!("{} {} {} {}", whole["alert"], whole["state"], whole["revision"], whole["summary"]));
                if wanted(&whole) {
                    found.insert(whole["alert"].as_str()?.to_owned(), whole);
                }
            }
        }
        (found.len() == 2).then_some(found)
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually("the alerts", look)));
    found.unwrap_or_else(|_| panic!("of {service} there is only {:#?}", listed.borrow()))
}

fn explain(dir: &Dir, alert: &Value, more: &[&str]) -> Ran {
    dir.command(&[&["explain", alert["id"].as_str().unwrap(), "-c", "floodmark.toml"], more].concat()).run()
}

/// Derives alerts again; fails unless all is as they say.
#[track_caller]
fn assert_derived(what: &str, dir: &Dir, alerts: &BTreeMap<String, Value>, more: &[&str]) {
    for (name, alert) in alerts {
        let ran = explain(dir, alert, &[&["--json"], more].concat()).expect_code(0);
        let told: Value = serde_json::from_str(&ran.stdout()).unwrap();
        assert_eq!((&told["same"], &told["changed"]), (&json!(true), &json!([])), "{what}, {name}: {told}");
        for derived in told["windows"].as_array().unwrap() {
            let then = &alert[derived["role"].as_str().unwrap()];
            assert_eq!(derived["now"]["score"]["score"], then["score"]["score"], "{what}, {name}");
            assert_eq!(derived["now"]["score"]["measures"], then["score"]["measures"], "{what}, {name}");
            assert!(derived["matched"].as_u64().unwrap() > 0, "{what}, {name}: {derived}");
        }
        let text = explain(dir, alert, more).expect_code(0).stdout();
        let score = &alert["strongest"]["score"]["score"];
        assert!(text.contains(&format!("; the alert says {score}\nsame")), "{what}, {name}: {text}");
    }
}

/// Waits until whatever was read so far is in a checkpoint. Those are made while records come: gives the second that
/// these reach to.
fn kept(api: &Api, log: &mut Log, mut second: u64) -> u64 {
    let number = || {
        let health = api.any("/health")?;
        let check = health["checks"].as_array()?.iter().find(|check| check["name"] == "checkpoints")?.clone();
        check["detail"].as_str()?.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let first = eventually("a checkpoint", number);
    // One that was begun before may end now; the second is behind it.
    eventually("two more checkpoints", || {
        log.seconds(second, second + 4, None);
        second += 4;
        number().filter(|now| *now >= first + 2)
    });
    second
}

fn alerts_are_derived_again_from_the_topic() {
    let (mut log, indices, dir) = (Log::new(), Indices::new("explain"), Dir::new());
    let text = config(&log, &indices);
    dir.file("floodmark.toml", &text);
    let bad = QUIET_S + 5;
    let incident = Some(("checkout", bad, bad + 60));
    log.seconds(0, QUIET_S + 300, incident);
    let (run, api, url) = start(&dir, "elasticsearch is ready");
    let raised = alerts(&api, &log, incident, |alert| alert["state"] == "closed");
    assert_eq!(raised["of_tumbling"]["strongest"]["baselines"].as_array().map(Vec::len), Some(4));
    assert_derived("raised", &dir, &raised, &["--url", &url]);
    assert_derived("raised, of the journal", &dir, &raised, &[]);
    // Late records in both partitions, and seconds that let the frontier pass.
    let end_of_partition = (QUIET_S + 300) / 2;
    for second in bad..bad + 60 {
        log.send((second % 2) as i32, second, "checkout", 200, 2_000);
    }
    log.seconds(QUIET_S + 300, QUIET_S + 320, None);
    let is_corrected = |alert: &Value| alert["revision"].as_u64() > Some(0) && alert["state"] == "closed";
    let corrected = alerts(&api, &log, incident, is_corrected);
    assert_derived("corrected", &dir, &corrected, &["--url", &url]);
    for range in corrected.values().flat_map(|alert| alert["strongest"]["offsets"].as_array().unwrap()) {
        assert!(range["last"].as_u64() >= Some(end_of_partition), "without the late records: {range}");
    }

    let second = kept(&api, &mut log, QUIET_S + 320);
    run.signal(Signal::Kill);
    run.wait();
    let (run, api, url) = start(&dir, "going on from a checkpoint");
    // The first incident changes once more; the second is all after the checkpoint.
    log.send(0, bad + 30, "checkout", 500, 3_000);
    let bad = second + 10;
    let of_cart = Some(("cart", bad, bad + 60));
    log.seconds(second, second + 400, of_cart);
    let again = alerts(&api, &log, of_cart, |alert| alert["state"] == "closed");
    assert_derived("raised after a restart", &dir, &again, &["--url", &url]);
    let revision = |alert: &Value| alert["revision"].as_u64();
    let is_newer = |alert: &Value| revision(alert) > revision(&corrected[alert["alert"].as_str().unwrap()]);
    let corrected = alerts(&api, &log, incident, is_newer);
    assert_derived("corrected after a restart", &dir, &corrected, &["--url", &url]);
    let unknown = explain(&dir, &json!({ "id": "no/such?one" }), &["--url", &url]).expect_code(1).stderr();
    assert!(unknown.contains("knows no alert no/such?one"), "{unknown}");
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);

    // Somewhere else, with nothing but the configuration: what the index has.
    let elsewhere = Dir::new();
    elsewhere.file("floodmark.toml", &text);
    assert_derived("of the index", &elsewhere, &corrected, &[]);
    assert_derived("of the index", &elsewhere, &again, &[]);
    let unknown = explain(&elsewhere, &json!({ "id": "beef" }), &[]).expect_code(1).stderr();
    assert!(unknown.contains(&format!("there is no alert beef in {}-alerts-* at http", indices.prefix)), "{unknown}");
    elsewhere.file("floodmark.toml", &text.replace("\"p95\", \"mean\"", "\"p95\""));
    let changed = explain(&elsewhere, &corrected["of_tumbling"], &[]).expect_code(2).stderr();
    assert!(changed.contains("another configuration: view"), "{changed}");
    let anyway = explain(&elsewhere, &corrected["of_tumbling"], &["--anyway"]).expect_code(1).stderr();
    assert!(anyway.contains("now scores"), "{anyway}");

    // Kafka's retention has removed the records of the first partition.
    let last = corrected["of_tumbling"]["strongest"]["offsets"][0]["last"].as_u64().unwrap();
    delete_before(&log.topic, last);
    let gone = explain(&dir, &corrected["of_tumbling"], &[]).expect_code(1).stderr();
    assert!(gone.contains(&format!("{}:0 no longer has the offsets", log.topic)), "{gone}");
    assert!(gone.contains("they were deleted"), "{gone}");
}

fn a_topic_made_anew_is_not_taken_for_the_one_that_was_read() {
    let (mut log, indices, dir) = (Log::new(), Indices::new("explain"), Dir::new());
    dir.file("floodmark.toml", &config(&log, &indices));
    let bad = QUIET_S + 5;
    let incident = Some(("checkout", bad, bad + 60));
    log.seconds(0, QUIET_S + 300, incident);
    let (run, api, _) = start(&dir, "elasticsearch is ready");
    let raised = alerts(&api, &log, incident, |alert| alert["state"] == "closed");
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    delete_topic(&log.topic);
    let make = || std::panic::catch_unwind(|| create_topic(&log.topic, 2, &[])).ok();
    eventually("the topic is there again", make);
    let gone = explain(&dir, &raised["of_tumbling"], &[]).expect_code(1).stderr();
    assert!(gone.contains("topic") && gone.contains("again"), "{gone}");
    log.random = 7;
    log.seconds(0, QUIET_S + 300, None);
    let another = explain(&dir, &raised["of_tumbling"], &[]).expect_code(1).stderr();
    assert!(another.contains("another one than the alert's"), "{another}");
}
