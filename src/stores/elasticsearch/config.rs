//! The options of the Elasticsearch store, and the checks on them that need no network.

use std::fmt::Write as _;
use std::path::PathBuf;

use elasticsearch::http::Url;
use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Secret, Span};

/// Elasticsearch 7.17, 8, 9 or OpenSearch: where it is, and how documents are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ElasticsearchConfig {
    /// Addresses of nodes, `http://` or `https://`, without credentials. Requests take turns over them; one that does
    /// not answer is passed over for ten seconds.
    pub urls: Vec<String>,
    /// User name for basic authentication. Needs `password`; not together with `api_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password for basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// API key: the encoded form that Elasticsearch hands out, or `id:key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// PEM file with the certificates of the authorities to trust, besides the public ones. For clusters that sign
    /// their own certificate (`http_ca.crt`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether the certificate of an `https://` address is checked. Turning this off lets anyone in between read and
    /// change everything, credentials included: each start warns, and the health line says so. Prefer `ca_file`.
    pub verify_certificates: bool,
    /// Whether requests go through the proxy that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name. Off, since clusters
    /// mostly stand on the same network.
    pub use_proxy: bool,
    /// What the names of indices and templates begin with: `PREFIX-logs-YYYY.MM.DD` and so on, by event day (UTC).
    pub prefix: String,
    /// Bulk requests under way at the same time. Four keep a small cluster busy; more wait in its queue.
    pub in_flight: usize,
    /// Documents in a bulk request at the most. 2,000 to 3,000 measured best; bigger requests are slower.
    pub batch_documents: usize,
    /// Bytes of documents in a bulk request at the most. A single larger document travels alone. Must stay below
    /// `http.max_content_length` of the cluster (100MB by default); requests that are refused as too large are halved.
    pub batch_bytes: ByteSize,
    /// How the bodies of bulk requests are compressed. `gzip` (level 1) saves about four fifths of the network at
    /// some CPU time on both sides: worth it between hosts, not on one.
    pub compression: Compression,
    /// How long an answer may take before the request is sent again. Also how long an address that swallows packets
    /// goes unnoticed.
    pub request_timeout: Span,
    /// How long a search may take before it is given up.
    pub search_timeout: Span,
    /// The wait before a request or document is sent again; it doubles with each failure, and a random part is taken
    /// off so that senders do not come back in step.
    pub retry_initial_delay: Span,
    /// The longest wait between two tries. There is no last try.
    pub retry_max_delay: Span,
    /// Primary shards of each daily index. One takes tens of gigabytes; more spread the writing over nodes.
    pub shards: u32,
    /// Copies of each shard besides the primary. 0 for a single node, which cannot hold copies and stays yellow
    /// otherwise.
    pub replicas: u32,
    /// How long a written document may stay invisible to searches. Longer is cheaper for the cluster. A whole number of
    /// milliseconds; `0ms` leaves it to the cluster's default.
    pub refresh_interval: Span,
    /// Deletes daily log and window indices of days that ended more than this many days ago, by the clock of this host:
    /// once an hour, by name, only indices whose name is exactly of this store. Left out, nothing is ever deleted. Dead
    /// letters are never deleted. Mind it when replaying old logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

/// How the bodies of bulk requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 1.
    Gzip,
}

impl Default for ElasticsearchConfig {
    fn default() -> Self {
        Self {
            urls: vec!["http://127.0.0.1:9200".into()],
            username: None,
            password: None,
            api_key: None,
            ca_file: None,
            verify_certificates: true,
            use_proxy: false,
            prefix: "floodmark".into(),
            in_flight: 4,
            batch_documents: 2_500,
            batch_bytes: ByteSize::from_mib(8),
            compression: Compression::None,
            request_timeout: Span::from_secs(60),
            search_timeout: Span::from_secs(10),
            retry_initial_delay: Span::from_millis(200),
            retry_max_delay: Span::from_secs(30),
            shards: 1,
            replicas: 1,
            refresh_interval: Span::from_secs(5),
            retention_days: None,
        }
    }
}

/// Longest prefix, so that the name of an index stays far below the limit of 255 bytes.
const MAX_PREFIX_BYTES: usize = 100;

impl ElasticsearchConfig {
    /// All mistakes that show without asking the cluster.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message: String| mistakes.push(Mistake::new(key, message));
        if self.urls.is_empty() {
            wrong("urls", "expected at least one address, such as \"http://127.0.0.1:9200\"".into());
        }
        for (i, url) in self.urls.iter().enumerate() {
            if let Err(message) = parse_url(url) {
                wrong(&format!("urls[{i}]"), message);
            }
        }
        if self.username.is_some() != self.password.is_some() {
            wrong("username", "expected username and password together, got only one of them".into());
        }
        if self.username.is_some() && self.api_key.is_some() {
            wrong("api_key", "expected an API key or username and password, got both".into());
        }
        if self.api_key.as_ref().is_some_and(|key| key.expose().is_empty() || !is_header_text(key.expose())) {
            wrong("api_key", "expected printable ASCII characters without spaces".into());
        }
        if let Err(message) = check_prefix(&self.prefix) {
            wrong("prefix", message);
        }
        let counts = [("in_flight", self.in_flight, 64), ("batch_documents", self.batch_documents, 100_000)];
        for (key, value, max) in counts {
            if value == 0 || value > max {
                wrong(key, format!("expected 1 to {max}, got {value}"));
            }
        }
        if self.batch_bytes < ByteSize(1024) || self.batch_bytes > ByteSize::from_mib(100) {
            wrong("batch_bytes", format!("expected 1KiB to 100MiB, got {}", self.batch_bytes));
        }
        let spans = [
            ("request_timeout", self.request_timeout),
            ("search_timeout", self.search_timeout),
            ("retry_initial_delay", self.retry_initial_delay),
        ];
        for (key, span) in spans {
            if span.as_millis() == 0 {
                wrong(key, format!("expected more than zero, got {span}"));
            }
        }
        if self.retry_max_delay < self.retry_initial_delay {
            let least = self.retry_initial_delay;
            wrong(
                "retry_max_delay",
                format!("expected at least retry_initial_delay ({least}), got {}", self.retry_max_delay),
            );
        }
        if self.shards == 0 || self.shards > 1024 {
            wrong("shards", format!("expected 1 to 1024, got {}", self.shards));
        }
        if self.retention_days == Some(0) {
            wrong("retention_days", "expected at least 1 day; leave it out to keep everything".into());
        }
        mistakes
    }

    /// What the name of every index of a kind begins with; the day follows.
    pub(super) fn index_prefix(&self, kind: Kind) -> String {
        format!("{}-{}-", self.prefix, kind.name())
    }
}

/// What an index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Log documents.
    Logs,
    /// Window documents.
    Windows,
    /// Records that cannot be read, indexed or trusted.
    DeadLetters,
    /// Alerts.
    Alerts,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Kind; 4] = [Kind::Logs, Kind::Windows, Kind::DeadLetters, Kind::Alerts];

    /// The part of index names that says the kind.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Logs => "logs",
            Kind::Windows => "windows",
            Kind::DeadLetters => "dead-letters",
            Kind::Alerts => "alerts",
        }
    }
}

/// Checks an address. Credentials in it would end up in logs, so they have options of their own.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let example = "such as \"https://search.example.org:9200\"";
    let url = Url::parse(text).map_err(|e| format!("expected an address {example}: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("expected an address {example}, got the scheme \"{}\"", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected no credentials in the address; use username and password, or api_key".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("expected no query or fragment in the address".into());
    }
    Ok(url)
}

fn is_header_text(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// Checks the rules for index names.
fn check_prefix(prefix: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let mut problems = String::new();
    if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES {
        let _ = write!(problems, ", 1 to {MAX_PREFIX_BYTES} characters long");
    }
    if !prefix.chars().all(allowed) {
        problems.push_str(", only a-z, 0-9, '-', '_' and '.'");
    }
    if prefix.starts_with(['-', '_', '.', '+']) {
        problems.push_str(", beginning with a letter or digit");
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("expected a prefix for index names{problems}, got \"{prefix}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(ElasticsearchConfig::default().mistakes(), []);
    }

    #[test]
    fn all_mistakes_are_reported_at_once_and_name_the_key() {
        let config = ElasticsearchConfig {
            urls: vec!["localhost:9200".into(), "http://elastic:hunter2@es:9200".into()],
            username: Some("elastic".into()),
            api_key: Some("a key".to_owned().into()),
            prefix: "-Logs".into(),
            in_flight: 0,
            retention_days: Some(0),
            ..ElasticsearchConfig::default()
        };
        let mistakes = config.mistakes();
        let keys: Vec<&str> = mistakes.iter().map(|m| m.key.as_str()).collect();
        assert_eq!(
            keys,
            ["urls[0]", "urls[1]", "username", "api_key", "api_key", "prefix", "in_flight", "retention_days"]
        );
        assert!(!format!("{mistakes:?}").contains("hunter2"));
    }

    #[test]
    fn secrets_do_not_show() {
        let config = ElasticsearchConfig { password: Some("hunter2".to_owned().into()), ..Default::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
