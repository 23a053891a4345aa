//! The HTTP API on a port of its own: every route, and what it says when something is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use floodmark::api::{ApiConfig, ApiInfo, ApiState, Health, Server, serve};
use floodmark::live::LiveView;
use floodmark::live::progress::ProgressBoard;
use floodmark::metrics::Metrics;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::PartitionProgress;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::synthetic::{ListStore, SERVICES, TICK_MS, feed, views};

const START: u64 = 1_769_846_400;

pub struct Api {
    pub address: SocketAddr,
    pub live: Arc<LiveView>,
    store: Arc<ListStore>,
    progress: Arc<ProgressBoard>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<Server>,
    runtime: Runtime,
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.finished());
        }
    }
}

pub struct Answer {
    pub status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem document, after checking what every one must have.
    #[track_caller]
    pub fn problem(&self, status: u16, path: &str) -> Value {
        assert_eq!(self.status, status, "{path}: {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["instance"], path.split('?').next().unwrap());
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {problem}");
        }
        problem
    }
}

fn documents() -> Vec<Value> {
    (0..2_500)
        .rev()
        .map(|i: u64| {
            json!({
                "timestamp": START * 1_000 + i, "service_name": SERVICES[i as usize % 5],
                "level": if i.is_multiple_of(20) { "ERROR" } else { "INFO" }, "status_code": 200 + i % 3 * 150,
                "anomaly": i.is_multiple_of(20), "message": format!("request {i} <b>done</b>"), "offset": i,
            })
        })
        .collect()
}

impl Api {
    pub fn new() -> Self {
        Self::with(ApiConfig::default())
    }

    pub fn with(config: ApiConfig) -> Self {
        let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), ..config };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let live = Arc::new(LiveView::new(views(), TICK_MS, 2));
        let store = Arc::new(ListStore { documents: documents(), ..Default::default() });
        let progress = Arc::new(ProgressBoard::default());
        let metrics = Arc::new(Metrics::default());
        metrics.watch_live(live.clone());
        metrics.watch_progress(progress.clone(), TICK_MS);
        let state = ApiState {
            alerts: None,
            live: live.clone(),
            store: store.clone(),
            progress: progress.clone(),
            metrics,
            health: Arc::new(Health::default().store(store.clone()).check("workers", || async { Ok("2".into()) })),
            info: Arc::new(ApiInfo { source: "made-up".into(), workers: 2, started_ms: 5 }),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = serve(&config, state, async { drop(stopped.await) });
        let server = runtime.block_on(serving).unwrap();
        Self { address: server.address, live, store, progress, stop: Some(stop), server: Some(server), runtime }
    }

    fn fed() -> Self {
        let api = Self::new();
        feed(&api.live, START, START + 200);
        api
    }

    fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let host = if headers.contains("host: ") { "" } else { "host: localhost\r\n" };
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has headers");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            body = unchunk(&body);
        }
        Answer { status, headers, body }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    /// Ends the API and waits until it has ended.
    pub fn end(mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.finished());
        }
    }

    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        answer.json()
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(line) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        whole.extend(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    whole
}

#[test]
fn stats_add_up_and_say_as_of_when() {
    let api = Api::new();
    let nothing = json!({
        "total_logs": 0, "services": {}, "levels": {}, "anomaly_count": 0, "error_count": 0, "as_of": null
    });
    assert_eq!(api.json("/logs/stats"), nothing);
    feed(&api.live, START, START + 50);
    let stats = api.json("/logs/stats");
    assert_eq!(stats["as_of"], (START + 50) * 1_000);
    let sum = |field: &str| stats[field].as_object().unwrap().values().map(|n| n.as_i64().unwrap()).sum::<i64>();
    let total = stats["total_logs"].as_i64().unwrap();
    assert!(total > 5_000);
    assert_eq!(sum("services"), total);
    assert_eq!(sum("levels"), total);
    assert_eq!(stats["error_count"], stats["levels"]["ERROR"]);
    assert_eq!(stats["services"].as_object().unwrap().len(), SERVICES.len());
}

#[test]
fn sums_over_keys_equal_totals_while_the_state_moves() {
    let api = Api::fed();
    std::thread::scope(|scope| {
        let live = api.live.clone();
        let writer = scope.spawn(move || (200..300).for_each(|at| feed(&live, START + at, START + at + 1)));
        let mut reads = 0;
        while reads < 5 || !writer.is_finished() {
            let keys = api.json("/views/per_service/keys?size=1000");
            for field in ["count", "errors", "anomalies", "late"] {
                let rows = keys["keys"].as_array().unwrap();
                let sum: i64 = rows.iter().map(|key| key["totals"][field].as_i64().unwrap()).sum();
                assert_eq!(keys["totals"][field], sum, "{field} as of {}", keys["as_of"]);
            }
            reads += 1;
        }
    });
    let (stats, views) = (api.json("/logs/stats"), api.json("/views"));
    assert_eq!(stats["as_of"], (START + 300) * 1_000);
    assert_eq!(views["as_of"], stats["as_of"]);
    assert_eq!(views["views"][0]["totals"]["count"], stats["total_logs"]);
    // Nothing has been dropped yet, so the windows hold every record.
    let windows = api.json("/views/per_service?size=1000");
    assert_eq!(windows["more"], false);
    let sum: i64 = windows["windows"].as_array().unwrap().iter().map(|w| w["count"].as_i64().unwrap()).sum();
    assert_eq!(windows["totals"]["count"], sum);
}

#[test]
fn views_are_listed_and_hidden_ones_are_not() {
    let api = Api::fed();
    let views = api.json("/views");
    let names: Vec<_> = views["views"].as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["per_service", "per_path"]);
    let view = &views["views"][1];
    assert_eq!(view["key"], json!(["service_name", "path"]));
    assert_eq!((&view["width_ms"], &view["slide_ms"]), (&json!(60_000), &json!(20_000)));
    assert_eq!((&view["keys"], &view["too_late"]), (&json!(5), &json!(0)));
    assert!(view["windows"].as_u64().unwrap() > 5 && view["memory_bytes"].as_u64().unwrap() > 1_000);
    let problem = api.get("/views/__services").problem(404, "/views/__services");
    assert!(problem["detail"].as_str().unwrap().contains("per_service, per_path"), "{problem}");
}

#[test]
fn windows_are_found_by_key_and_time_and_paged() {
    let api = Api::fed();
    let all = api.json("/views/per_service?size=1000")["windows"].as_array().unwrap().clone();
    assert!(all.windows(2).all(|two| two[0]["start"].as_u64() >= two[1]["start"].as_u64()), "newest first");
    assert!(all.iter().any(|w| w["revision"].as_u64().unwrap() > 0), "late records came");
    assert!(all.iter().any(|w| w["final"] == true) && all.iter().any(|w| w["final"] == false));

    let by_field = api.json("/views/per_service?service_name=auth-service&size=1000");
    let by_key = api.json("/views/per_service?key=auth-service&size=1000");
    assert_eq!(by_field, by_key);
    let own: Vec<_> = all.iter().filter(|w| w["key"]["service_name"] == "auth-service").cloned().collect();
    assert_eq!(by_field["windows"], Value::Array(own.clone()));
    let sum: i64 = own.iter().map(|w| w["count"].as_i64().unwrap()).sum();
    assert_eq!(by_field["totals"]["count"], sum, "the totals are those of the keys asked for");

    let escaped = api.json("/views/per_path?key=auth-service/%252Fv1%252Fa%20b&size=1000");
    let fields = api.json("/views/per_path?path=/v1/a+b&service_name=auth-service&size=1000");
    assert_eq!(escaped, fields);
    assert_eq!(escaped["windows"][0]["key"], json!({"service_name": "auth-service", "path": "/v1/a b"}));

    let (from, to) = ((START + 100) * 1_000, (START + 120) * 1_000);
    let ranged = api.json(&format!("/views/per_service?from={from}&to={to}&size=1000"));
    let starts: BTreeSet<_> =
        ranged["windows"].as_array().unwrap().iter().map(|w| w["start"].as_u64().unwrap()).collect();
    assert_eq!(starts, BTreeSet::from([from, from + 10_000]));

    let mut paged = Vec::new();
    for page in 1.. {
        let part = api.json(&format!("/views/per_service?size=7&page={page}"));
        paged.extend(part["windows"].as_array().unwrap().clone());
        if part["more"] == false {
            break;
        }
    }
    assert_eq!(paged, all);
}

#[test]
fn the_history_of_a_window_leads_from_its_revisions_to_what_it_is() {
    let api = Api::fed();
    let all = api.json("/views/per_path?service_name=user-service&size=1000")["windows"].as_array().unwrap().clone();
    let window = all.iter().find(|w| w["revision"].as_u64().unwrap() > 1).expect("late records came");
    let start = window["start"].as_u64().unwrap();
    let path = format!("/views/per_path/user-service%2F%252Fv1%252Fa%20b/{start}/history");
    let history = api.json(&path);
    let revisions = history["revisions"].as_array().unwrap();
    assert_eq!(revisions.len() as u64, window["revision"].as_u64().unwrap() + 1);
    let mut latest = window.clone();
    let previous = latest.as_object_mut().unwrap().remove("previous").unwrap();
    assert_eq!(revisions[0], latest);
    for (field, value) in previous.as_object().unwrap() {
        assert_eq!(revisions[1][field], *value, "{field} of the revision before");
    }
    for two in revisions.windows(2) {
        let step = |field: &str| two[0][field].as_i64().unwrap() - two[1][field].as_i64().unwrap();
        assert_eq!(step("revision"), 1);
        assert_eq!(step("count"), step("late_records"), "a final window changes by late records only");
        assert!(step("as_of") > 0);
    }
    assert_eq!(revisions.last().unwrap()["late_records"], 0);

    let nobody = "/views/per_service/nobody/1769846400000/history";
    api.get(nobody).problem(404, nobody);
    api.get("/views/none/a/0/history").problem(404, "/views/none/a/0/history");
}

#[test]
fn logs_are_filtered_and_paged() {
    let api = Api::new();
    api.progress.set_indexed_through(77_000);
    let first = api.json("/logs");
    assert_eq!((&first["total"], &first["page"], &first["size"]), (&json!(2_500), &json!(1), &json!(50)));
    assert_eq!(first["logs"].as_array().unwrap().len(), 50);
    assert_eq!(first["indexed_through"], 77_000);
    assert_eq!(first["logs"][0], api.store.documents[0], "documents as they are in the store");

    let total = |query: &str| api.json(&format!("/logs?{query}"))["total"].as_u64().unwrap();
    assert_eq!(total("service_name=auth-service"), 500);
    for level in ["error", "ERR", "severe"] {
        assert_eq!(total(&format!("level={level}")), 125, "{level}");
    }
    assert_eq!(total("level=other"), 0);
    let problem = api.get("/logs?level=eror").problem(400, "/logs");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("INFO") && detail.contains("OTHER") && detail.contains("\"eror\""), "{detail}");
    assert_eq!(total("status_code=350"), 833);
    assert_eq!(total("anomaly=true"), 125);
    assert_eq!(total("q=request+77"), 1 + 10);
    let (from, to) = (START * 1_000 + 10, START * 1_000 + 20);
    assert_eq!(total(&format!("from_timestamp={from}&to_timestamp={to}")), 10);
    assert_eq!(total("from_timestamp=2026-01-31T08:00:02Z"), 500);
    assert_eq!(total("level=ERROR&service_name=user-service"), 0, "all filters have to match");
    let anomalies = api.json("/logs/anomalies?size=1000");
    assert_eq!(anomalies["total"], 125);
    assert!(anomalies["logs"].as_array().unwrap().iter().all(|log| log["anomaly"] == true));

    let second = api.json("/logs?page=2&size=100");
    assert_eq!(second["logs"][0]["offset"], 2_399);
    let mut seen = first["logs"].as_array().unwrap().len();
    let mut cursor = first["next_cursor"].clone();
    while let Some(at) = cursor.as_str() {
        let page = api.json(&format!("/logs?size=1000&cursor={at}"));
        assert_eq!(page["page"], Value::Null);
        seen += page["logs"].as_array().unwrap().len();
        cursor = page["next_cursor"].clone();
    }
    assert_eq!(seen, 2_500);
}

#[test]
fn bad_parameters_are_named() {
    let api = Api::fed();
    for (path, parameter) in [
        ("/logs?size=0", "size"),
        ("/logs?size=1001", "size"),
        ("/logs?page=0", "page"),
        ("/logs?page=-1", "page"),
        ("/logs?page=201&size=50", "page"),
        ("/logs?page=99999999999999999999999", "page"),
        ("/logs?status_code=99", "status_code"),
        ("/logs?anomaly=maybe", "anomaly"),
        ("/logs?from_timestamp=soon", "from_timestamp"),
        ("/logs?from_timestamp=20&to_timestamp=10", "from_timestamp"),
        ("/logs?level=", "level"),
        ("/logs?level=a&level=b", "level"),
        ("/logs?servicename=x", "servicename"),
        ("/logs?page=2&cursor=5", "page"),
        ("/logs/anomalies?anomaly=false", "anomaly"),
        ("/logs/stats?x=1", "x"),
        ("/views?x=1", "x"),
        ("/views/per_service?path=/a", "path"),
        ("/views/per_service?key=a&service_name=a", "key"),
        ("/views/per_service?page=5000", "page"),
        ("/views/per_service/keys?size=none", "size"),
        ("/views/per_service/auth-service/1769846405000/history", "start"),
        ("/views/per_service/auth-service/soon/history", "start"),
        ("/views/per_path/auth-service/1769846400000/history", "key"),
        ("/views/per_service/auth-service/1769846400000/history?x=1", "x"),
        ("/stream?view=none", "view"),
        ("/stream?key=a", "key"),
        ("/stream?service_name=a", "service_name"),
        ("/stream?view=per_service&key=a&service_name=a", "key"),
        ("/stream?from=yesterday", "from"),
        ("/progress?x=1", "x"),
        ("/health?x=1", "x"),
        ("/?x=1", "x"),
    ] {
        let problem = api.get(path).problem(400, path);
        assert_eq!(problem["parameter"], parameter, "{path}: {problem}");
        assert_eq!(problem["errors"][0]["parameter"], parameter);
    }
    let two = api.get("/logs?size=0&servicename=x").problem(400, "/logs");
    assert_eq!(two["errors"].as_array().unwrap().len(), 2, "all mistakes at once");
    assert!(two["detail"].as_str().unwrap().contains("did you mean service_name?"));
    let cursor = api.get("/logs?cursor=nonsense").problem(400, "/logs");
    assert_eq!(
        cursor["errors"],
        json!([{ "parameter": "cursor", "detail": "expected a cursor from an earlier page" }])
    );
}

#[test]
fn other_paths_and_methods_are_problems() {
    let api = Api::new();
    for path in ["/nothing", "/logs/", "/views/none", "/docs/none.js", "/%ff", "/views/%00"] {
        api.get(path).problem(404, path);
    }
    let posted = api.request("POST", "/logs", "content-length: 0\r\n");
    posted.problem(405, "/logs");
    assert_eq!(posted.headers["allow"], "GET,HEAD");
    let large = api.request("GET", "/logs", "content-length: 999999\r\n");
    large.problem(413, "/logs");
    let options = api.request("OPTIONS", "/logs", "");
    assert_eq!((options.status, &*options.headers["allow"]), (204, "GET,HEAD"));
    let head = api.request("HEAD", "/logs/stats", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], api.get("/logs/stats").body.len().to_string());
}

#[test]
fn a_store_that_does_not_answer_is_unavailable_and_the_live_state_is_not() {
    let api = Api::fed();
    let health = api.json("/health");
    assert_eq!((&health["status"], &health["ready"]), (&json!("ok"), &json!(true)));
    assert_eq!(health["checks"][0], json!({"name": "store", "ok": true, "detail": "2500 documents"}));
    api.store.down.store(true, Ordering::Relaxed);
    let problem = api.get("/logs").problem(503, "/logs");
    assert_eq!(problem["detail"], "the list store does not answer");
    let deadline = Instant::now() + Duration::from_secs(10);
    let health = loop {
        let answer = api.get("/health");
        if answer.status == 503 {
            break answer.json();
        }
        assert!(Instant::now() < deadline, "the health check never noticed");
    };
    assert_eq!((&health["live"], &health["ready"]), (&json!(true), &json!(false)));
    assert_eq!(health["checks"][0]["ok"], false);
    assert_eq!(health["checks"][1]["ok"], true);
    assert_eq!(api.json("/health/live"), json!({"status": "ok", "live": true}));
    assert!(api.json("/logs/stats")["total_logs"].as_i64().unwrap() > 0);
}

#[test]
fn progress_names_the_partition_that_holds_the_frontier() {
    let api = Api::new();
    let partition = |number| Arc::new(PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number });
    let at = |clock| PartitionProgress { next_offset: 90, clock: Some(clock), ..Default::default() };
    api.progress.update(0, &partition(0), at(START + 9));
    api.progress.update(1, &partition(1), PartitionProgress { idle: true, hold: START + 4, ..at(START) });
    api.progress.set_ends([(&*partition(0), &100)]);
    api.progress.set_frontier(0, START + 4);
    api.progress.set_frontier(1, START + 3);
    let progress = api.json("/progress");
    assert_eq!(progress["held_by"], json!({"topic": "logs_raw", "partition": 1, "identity": "logs_raw", "path": null}));
    assert_eq!(progress["frontier"], (START + 3) * 1_000);
    assert_eq!(
        progress["partitions"][0],
        json!({
            "topic": "logs_raw", "partition": 0, "identity": "logs_raw", "path": null, "worker": 0, "offset": 90, "end": 100, "lag": 10,
            "clock": (START + 9) * 1_000, "hold": null, "at_end": false, "idle": false, "stalled": false,
            "paused": false, "ended": false, "holds_frontier": false,
        })
    );
    let second = &progress["partitions"][1];
    assert_eq!(
        (&second["lag"], &second["idle"], &second["holds_frontier"]),
        (&Value::Null, &json!(true), &json!(true))
    );
}

#[test]
fn metrics_are_counted() {
    let api = Api::fed();
    api.get("/views/per_service");
    api.get("/views/none");
    api.get("/nowhere");
    let answer = api.get("/metrics");
    assert!(answer.headers["content-type"].starts_with("application/openmetrics-text"));
    let text = String::from_utf8(answer.body).unwrap();
    for line in [
        "floodmark_http_requests_total{route=\"/views/{name}\",status=\"200\"} 1",
        "floodmark_http_requests_total{route=\"/views/{name}\",status=\"404\"} 1",
        "floodmark_http_requests_total{route=\"none\",status=\"404\"} 1",
        "floodmark_view_keys{view=\"per_service\"} 5.0",
        "floodmark_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_description_is_openapi_and_names_every_route() {
    let api = Api::fed();
    let document = api.json("/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "/",
        "/alerts",
        "/alerts/{id}",
        "/audit",
        "/audit/documents",
        "/health",
        "/health/live",
        "/logs",
        "/logs/anomalies",
        "/logs/stats",
        "/metrics",
        "/openapi.json",
        "/patterns",
        "/patterns/{id}",
        "/progress",
        "/silences",
        "/silences/{id}",
        "/stream",
        "/views",
        "/views/{name}",
        "/views/{name}/keys",
        "/views/{name}/{key}/{start}/history",
    ];
    assert_eq!(paths, BTreeSet::from(expected));
    let schemas = &document["components"]["schemas"];
    let items = document["paths"].as_object().unwrap().iter();
    let operations = items.flat_map(|(path, item)| item.as_object().unwrap().values().map(move |one| (path, one)));
    for (path, operation) in operations {
        assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{path} says what it is");
        assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')), "{path}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string() && parameter["schema"].is_object(), "{path}: {parameter}");
            let is_needed = parameter["in"] == "path" || path == "/audit/documents" && parameter["name"] != "identity";
            assert_eq!(parameter["required"].as_bool().unwrap_or(false), is_needed, "{path}: {parameter}");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let name = reference.strip_prefix("#/components/schemas/").expect(reference);
        assert!(schemas[name].is_object(), "{reference} leads nowhere");
    }
    // What is answered has the fields that the description says, and no others.
    for (path, schema) in [
        ("/", "RootAnswer"),
        ("/health", "HealthAnswer"),
        ("/health/live", "LiveAnswer"),
        ("/logs", "LogsAnswer"),
        ("/logs/stats", "StatsAnswer"),
        ("/views", "ViewsAnswer"),
        ("/views/per_service", "WindowsAnswer"),
        ("/views/per_service/keys", "KeysAnswer"),
        ("/views/per_service/auth-service/1769846500000/history", "HistoryAnswer"),
        ("/progress", "ProgressAnswer"),
    ] {
        same_fields(&api.json(path), &schemas[schema], path);
    }
    let windows = api.json("/views/per_service");
    let all = api.json("/views/per_service?size=1000");
    let is_corrected = |window: &&Value| window["previous"].is_object();
    let corrected = all["windows"].as_array().unwrap().iter().find(is_corrected).expect("late records came");
    // A whole window of a view that is not scored.
    let mut window = schemas["Window"].clone();
    for absent in ["partial", "score", "numbers", "rules"] {
        assert!(window["properties"].as_object_mut().unwrap().remove(absent).is_some(), "{absent}");
        assert!(!window["required"].as_array().unwrap().contains(&absent.into()), "{absent} may be absent");
    }
    same_fields(corrected, &window, "a window");
    let mut previous = schemas["Previous"].clone();
    for absent in ["numbers", "rules"] {
        previous["properties"].as_object_mut().unwrap().remove(absent);
    }
    same_fields(&corrected["previous"], &previous, "a window before its correction");
    same_fields(&windows["windows"][0]["response_time_ms"], &schemas["ResponseTime"], "response times");
    same_fields(&windows["totals"], &schemas["Totals"], "totals");
    same_fields(&api.json("/views")["views"][0], &schemas["ViewAnswer"], "a view");
    same_fields(&api.get("/logs?size=0").json(), &schemas["Problem"], "a problem");
}

#[track_caller]
fn same_fields(answer: &Value, schema: &Value, what: &str) {
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(answer), names(&schema["properties"]), "{what}");
}

#[test]
fn pages_need_nothing_from_elsewhere() {
    let api = Api::new();
    let links = api.json("/")["links"].clone();
    for link in ["docs", "patterns", "alerts", "silences", "stream", "audit"] {
        assert_eq!(links[link], format!("/{link}"));
    }
    for path in ["/", "/alerts/any"] {
        let page = api.request("GET", path, "accept: text/html,application/xhtml+xml\r\n");
        assert!(page.headers["content-type"].starts_with("text/html"));
        let policy = &page.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let html = String::from_utf8(page.body).unwrap();
        let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        for outside in ["innerHTML", "https://", "src=\"", "{{"] {
            assert!(!html.contains(outside), "{outside} in the page {path}");
        }
        let second = api.request("GET", path, "accept: text/html\r\n");
        assert_ne!(&second.headers["content-security-policy"], policy, "a nonce is used once");
    }

    assert_eq!(api.get("/docs").headers["location"], "/docs/");
    let docs = api.get("/docs/");
    let html = String::from_utf8(docs.body).unwrap();
    assert!(docs.headers.contains_key("content-security-policy"));
    let assets = html.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let assets: Vec<&str> = assets.map(|asset| asset.trim_start_matches("./")).collect();
    assert!(assets.len() >= 4, "{html}");
    for asset in assets {
        let answer = api.get(&format!("/docs/{asset}"));
        assert_eq!(answer.status, 200, "{asset}");
        assert!(!answer.body.is_empty(), "{asset}");
    }
    let start = String::from_utf8(api.get("/docs/swagger-initializer.js").body).unwrap();
    assert!(start.contains("/openapi.json"), "{start}");
}

#[test]
fn pages_of_other_sites_can_neither_read_nor_change_anything() {
    let api = Api::new();
    let read = |api: &Api, host: &str| api.request("GET", "/logs/stats", &format!("host: {host}\r\n")).status;
    for own in ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "[::1]"] {
        assert_eq!(read(&api, own), 200, "{own}");
    }
    for other in ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", ""] {
        assert_eq!(read(&api, other), 403, "{other}");
    }
    let refused = api.request("GET", "/logs/stats", "host: evil.example\r\n").problem(403, "/logs/stats");
    assert!(refused["detail"].as_str().unwrap().contains("api.allow_public"), "{refused}");
    let public = Api::with(ApiConfig { allow_public: true, ..Default::default() });
    assert_eq!(read(&public, "evil.example"), 200);
    let proxied = Api::with(ApiConfig { public_url: Some("https://logs.example.com".into()), ..Default::default() });
    assert_eq!((read(&proxied, "logs.example.com"), read(&proxied, "evil.example")), (200, 403));

    let mut old = TcpStream::connect(api.address).unwrap();
    old.write_all(b"GET /logs/stats HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "no browser asks without a host: {answer}");

    let change = |api: &Api, method: &str, path: &str, headers: &str| api.request(method, path, headers);
    let json = "host: localhost:8000\r\ncontent-type: application/json; charset=utf-8\r\n";
    for origin in ["http://evil.example", "http://localhost:9000", "null"] {
        let headers = format!("{json}origin: {origin}\r\n");
        change(&api, "POST", "/silences", &headers).problem(403, "/silences");
        change(&public, "DELETE", "/silences/1", &headers).problem(403, "/silences/1");
    }
    for own in ["", "origin: http://localhost:8000\r\n"] {
        let problem = change(&api, "POST", "/silences", &format!("{json}{own}")).problem(404, "/silences");
        assert!(problem["detail"].as_str().unwrap().contains("no alerts"), "it was looked at: {problem}");
    }
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"] {
        change(&api, "POST", "/silences", kind).problem(415, "/silences");
    }
}

#[test]
fn answers_are_compressed_for_those_who_ask() {
    let api = Api::fed();
    let plain = api.get("/views/per_service?size=100");
    let small = api.request("GET", "/views/per_service?size=100", "accept-encoding: gzip\r\n");
    assert_eq!(small.headers["content-encoding"], "gzip");
    assert!(small.body.len() * 4 < plain.body.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&*small.body).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.body);
    assert_eq!(plain.headers["x-content-type-options"], "nosniff");
    assert_eq!(plain.headers["cache-control"], "no-store");
}

#[test]
fn an_address_that_others_reach_has_to_be_allowed() {
    let api = Api::new();
    let state = ApiState {
        alerts: None,
        live: api.live.clone(),
        store: api.store.clone(),
        progress: api.progress.clone(),
        metrics: Arc::default(),
        health: Arc::default(),
        info: Arc::default(),
    };
    let serve_at = |listen: &str, state| {
        let config = ApiConfig { listen: listen.parse().unwrap(), ..Default::default() };
        api.runtime.block_on(serve(&config, state, async {})).unwrap_err().to_string()
    };
    assert!(serve_at("0.0.0.0:0", state.clone()).contains("allow_public = true"));
    assert!(serve_at(&api.address.to_string(), state).contains("cannot listen on 127.0.0.1"), "the port is taken");
}

#[test]
fn shutting_down_ends_open_connections() {
    let mut api = Api::new();
    let mut idle = TcpStream::connect(api.address).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    drop(api.stop.take());
    let server = api.server.take().unwrap();
    api.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(15), server.finished()).await }).unwrap();
    assert_eq!(idle.read(&mut [0; 8]).unwrap_or(0), 0, "the connection is closed");
    assert!(TcpStream::connect(api.address).is_err(), "nobody listens");
}
