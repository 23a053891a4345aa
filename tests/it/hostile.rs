//! Whatever is in a configuration or a request: an answer or a mistake, never a panic, and soon.

use std::time::{Duration, Instant};

use floodmark::config::{Config, Sources};
use proptest::prelude::*;

use crate::api::Api;

/// How long one case may take.
const SOON: Duration = Duration::from_secs(5);

/// TOML that looks like a configuration in places: known tables and keys with values of any kind, and noise.
fn configuration() -> impl Strategy<Value = String> {
    let keys = vec![
        "data_dir",
        "source.files",
        "source.kafka.start",
        "source.kafka.properties",
        "records.fields",
        "records.preset",
        "rules.rule",
        "time.tick",
        "time.max_ahead",
        "view",
        "publish.every",
        "store.ndjson",
        "store.queue",
        "dead_letters.to",
        "api.listen",
        "cluster.hosts",
        "cluster.workers",
        "checkpoint.url",
        "checkpoint.copies",
    ];
    let values = prop_oneof![
        Just("\"10s\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[{}]".to_owned()),
        Just("true".to_owned()),
        Just("[{ name = \"a\", key = [\"x\"], window = \"1s\", slide = \"7ms\" }]".to_owned()),
        Just("[{ name = \"r\", when = [\"level in\"], score = \"1 + 2 * (a - 3)\" }]".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
        "[0-9]{1,25}(ms|s|m|h|d|KiB|TiB|x)?".prop_map(|text| format!("\"{text}\"")),
        "\\PC{0,30}".prop_map(|text| format!("{text:?}")),
        "\\PC{0,30}",
    ];
    let line = prop_oneof![
        4 => (prop::sample::select(keys), values).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => "\\[{1,2}[a-z.]{0,20}\\]{1,2}",
        1 => "\\PC{0,60}",
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

/// The part of a request behind the name of the host.
fn target() -> impl Strategy<Value = String> {
    let paths = vec![
        "/logs",
        "/logs/anomalies",
        "/logs/stats",
        "/views",
        "/views/per_service",
        "/views/per_service/keys",
        "/progress",
        "/views/per_service/auth-service/1769846400000/history",
        "/audit",
        "/audit/documents",
        "/health",
        "/metrics",
    ];
    let names = vec![
        "size",
        "page",
        "cursor",
        "from_timestamp",
        "to_timestamp",
        "q",
        "level",
        "status_code",
        "anomaly",
        "key",
        "from",
        "to",
        "topic",
        "partition",
    ];
    let value = prop_oneof![
        "[0-9]{1,25}",
        "-?[0-9a-fA-Fx.:TZ+-]{0,40}",
        "(%[0-9a-fA-F]{2}|[a-zA-Z0-9+*~]){0,60}",
        "%[g-z]?",
        "x{1000,3000}",
    ];
    let parameter = (prop_oneof![9 => prop::sample::select(names).prop_map(str::to_owned), 1 => "[a-z%]{0,9}"], value)
        .prop_map(|(name, value)| format!("{name}={value}"));
    let query = prop::collection::vec(parameter, 0..5).prop_map(|parameters| parameters.join("&"));
    let path = prop_oneof![
        9 => prop::sample::select(paths).prop_map(str::to_owned),
        1 => "(/(%[0-9a-fA-F]{2}|[a-z.]){0,20}){1,6}",
    ];
    (path, query).prop_map(|(path, query)| format!("{path}?{query}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_is_read_or_refused(text in configuration()) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("floodmark.toml");
        std::fs::write(&file, &text).unwrap();
        let started = Instant::now();
        let loaded = Config::load(&Sources { file: Some(&file), environment: Vec::new(), flags: Vec::new() });
        prop_assert!(started.elapsed() < SOON);
        match loaded {
            Ok(config) => prop_assert!(config.compile().is_ok(), "{}", text),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn any_request_is_answered() {
    let api = Api::new();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let answered = runner.run(&target(), |target| {
        let started = Instant::now();
        let answer = api.get(&target);
        prop_assert!(started.elapsed() < SOON);
        // 501 and 503 are what this store of a test cannot do; 500 is a panic or a mistake of ours.
        prop_assert!(answer.status < 500 || [501, 503].contains(&answer.status), "{}: {}", target, answer.status);
        Ok(())
    });
    answered.unwrap();
}
