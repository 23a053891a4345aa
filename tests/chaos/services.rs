//! The real services that the environment names (`eval "$(scripts/services env)"`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// `host:port` of Kafka.
pub fn kafka() -> Option<String> {
    variable("FLOODMARK_TEST_KAFKA")
}

/// The URL of Elasticsearch.
pub fn elasticsearch() -> Option<String> {
    variable("FLOODMARK_TEST_ES8")
}

/// The process of a service.
pub fn process(service: &str) -> Option<i32> {
    variable(&format!("FLOODMARK_TEST_{service}_PID"))?.parse().ok()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The body of an answer with status 200 or 201.
pub fn http(address: &str, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body)? } else { body.to_owned() };
    head.lines().next()?.contains(" 20").then_some(body)
}

/// A body that came in chunks, each behind its length in hexadecimal.
fn unchunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, behind) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(behind.get(..length)?);
        rest = behind.get(length + 2..)?;
    }
}

/// Every document in the indices that a pattern names.
pub fn documents(pattern: &str) -> Vec<Value> {
    let url = elasticsearch().expect("the runner checks that it is there");
    let address = url.trim_start_matches("http://");
    let send = |path: &str, body: &str| -> Value {
        let answer = http(address, "POST", path, body).unwrap_or_else(|| panic!("Elasticsearch refuses {path}"));
        serde_json::from_str(&answer).expect("JSON")
    };
    send(&format!("/{pattern}/_refresh"), "");
    let mut answer = send(&format!("/{pattern}/_search?scroll=1m"), r#"{"size":5000,"sort":["_doc"]}"#);
    let mut found = Vec::new();
    loop {
        let hits = answer["hits"]["hits"].as_array().expect("hits");
        if hits.is_empty() {
            return found;
        }
        found.extend(hits.iter().map(|hit| hit["_source"].clone()));
        let scroll = serde_json::json!({ "scroll": "1m", "scroll_id": answer["_scroll_id"] }).to_string();
        answer = send("/_search/scroll", &scroll);
    }
}

/// Deletes the indices whose names begin with this.
pub fn delete(prefix: &str) {
    let Some(url) = elasticsearch() else { return };
    let address = url.trim_start_matches("http://");
    let listed = http(address, "GET", &format!("/{prefix}*/_settings?filter_path=*.settings.index.uuid"), "");
    let listed: Value = listed.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    for index in listed.as_object().into_iter().flatten().map(|(name, _)| name) {
        http(address, "DELETE", &format!("/{index}"), "");
    }
    for kind in ["logs", "windows", "alerts", "dead-letters"] {
        http(address, "DELETE", &format!("/_index_template/{prefix}-{kind}"), "");
    }
}
