//! The options of the HTTP API.

use std::net::{Ipv4Addr, SocketAddr};

use floodmark_dataflows::units::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterConfig;

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Whether the API is served at all.
    pub enabled: bool,
    /// Address and port to listen on; port 0 takes any free one. Anything but a loopback address needs `allow_public`,
    /// because there is no authentication: put a proxy in front that has it. Of several processes without `cluster.hosts`
    /// each listens on this port plus its number. Without `allow_public`, requests are answered only if they were
    /// addressed (`Host`) to `localhost`, `127.0.0.1`, `[::1]`, this address or the host of `public_url`.
    pub listen: SocketAddr,
    /// Allows an address that other hosts can reach.
    pub allow_public: bool,
    /// The address at which people reach the API, such as `"https://floodmark.example.com"`: for links in notifications, and
    /// requests to its host are answered. Left out, links are paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// A request that takes longer is answered with 503. Searches of a slow store are what takes long.
    pub request_timeout: Span,
    /// Requests worked on at the same time; further ones are answered with 503 at once.
    pub max_concurrent_requests: usize,
    /// The largest body of a request. Only silences have one, and a small one.
    pub max_body: ByteSize,
    /// Rows on a page where a request does not say.
    pub default_page_size: usize,
    /// The largest number of rows on a page.
    pub max_page_size: usize,
    /// Streams (`/stream`) open at the same time; further ones are answered with 503.
    pub max_streams: usize,
    /// Memory for recent changes, for clients of `/stream` that are slow or come back. A client that is further behind
    /// starts again from the whole state. Used only while there are clients, and for a minute after.
    pub stream_buffer: ByteSize,
    /// How long open requests may take to finish at shutdown.
    pub shutdown_timeout: Span,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            allow_public: false,
            public_url: None,
            request_timeout: Span::from_secs(30),
            max_concurrent_requests: 256,
            max_body: ByteSize(64 << 10),
            default_page_size: 50,
            max_page_size: 1_000,
            max_streams: 64,
            stream_buffer: ByteSize(32 << 20),
            shutdown_timeout: Span::from_secs(5),
        }
    }
}

impl ApiConfig {
    /// The options of one process of a cluster. Processes that share a host by default need a port each; `None` where
    /// there is none so high.
    pub fn of_process(&self, cluster: &ClusterConfig) -> Option<Self> {
        let mut own = self.clone();
        if cluster.hosts.is_empty() && self.listen.port() != 0 {
            let process = u16::try_from(cluster.process).ok()?;
            own.listen.set_port(self.listen.port().checked_add(process)?);
        }
        Some(own)
    }

    /// Every mistake in the options, each with the option's name.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.listen.ip().is_loopback() && !self.allow_public {
            mistakes.push(format!(
                "listen: {} can be reached from other hosts and the API has no authentication; \
                 set allow_public = true if that is meant, or listen on 127.0.0.1",
                self.listen
            ));
        }
        if self.request_timeout.as_millis() == 0 {
            mistakes.push("request_timeout: expected more than 0s".into());
        }
        let positive = [
            ("max_concurrent_requests", self.max_concurrent_requests),
            ("max_streams", self.max_streams),
            ("default_page_size", self.default_page_size),
            ("max_page_size", self.max_page_size),
        ];
        for (name, value) in positive {
            if value == 0 {
                mistakes.push(format!("{name}: expected at least 1, got 0"));
            }
        }
        if self.default_page_size > self.max_page_size {
            mistakes.push(format!(
                "default_page_size: expected at most max_page_size ({}), got {}",
                self.max_page_size, self.default_page_size
            ));
        }
        if self.max_page_size > 10_000 {
            mistakes.push(format!("max_page_size: expected at most 10000, got {}", self.max_page_size));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_has_to_be_allowed() {
        assert!(ApiConfig::default().mistakes().is_empty());
        let public = ApiConfig { listen: "0.0.0.0:8000".parse().unwrap(), ..Default::default() };
        assert!(public.mistakes()[0].contains("allow_public = true"), "{:?}", public.mistakes());
        assert!(ApiConfig { allow_public: true, ..public }.mistakes().is_empty());
        assert!(ApiConfig { listen: "[::1]:0".parse().unwrap(), ..Default::default() }.mistakes().is_empty());
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let config = ApiConfig { max_concurrent_requests: 0, max_page_size: 10, ..Default::default() };
        assert_eq!(config.mistakes().len(), 2, "{:?}", config.mistakes());
    }
}
