//! What a process is, as it tells the others: they go together only if all of it is equal but for the number.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ClusterConfig;
use crate::config::Config;

/// The form of what processes send each other. To be raised whenever it changes, also within one version.
pub(super) const WIRE_FORMAT: u32 = 1;
/// Bytes of an identity at the most. A configuration has a few dozen sections of some 50 bytes.
pub(super) const MAX_IDENTITY: usize = 16 << 10;
/// Bytes of a section's hash: chance never makes two equal.
const HASH_BYTES: usize = 16;

/// Keys that each process may have its own value for: where it is, what it writes, how it reaches the store.
const OWN_KEYS: [&str; 14] = [
    "/api",
    "/data_dir",
    "/dead_letters/file",
    "/cluster/process",
    "/cluster/hosts",
    "/cluster/listen",
    "/cluster/secret",
    "/cluster/secret_file",
    "/cluster/connect_timeout",
    "/cluster/peer_timeout",
    "/store/ndjson/logs",
    "/store/ndjson/windows",
    "/store/elasticsearch/urls",
    "/store/elasticsearch/ca_file",
];

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Of the software.
    version: String,
    /// See [`WIRE_FORMAT`].
    wire_format: u32,
    /// Its number.
    pub process: u16,
    /// How many there are, as it thinks.
    processes: u16,
    /// The sections of its configuration with their hashes, and how it was started.
    sections: Vec<(String, [u8; HASH_BYTES])>,
}

impl Identity {
    /// This process. `run` says in some form how it was started, as far as all must be started alike.
    pub fn new(config: &Config, run: &str) -> Self {
        let mut value = serde_json::to_value(config).unwrap_or_default();
        for key in OWN_KEYS {
            remove(&mut value, key);
        }
        let mut sections: Vec<_> = value
            .as_object()
            .into_iter()
            .flatten()
            // Maps are ordered in this form, and secrets are left out.
            .map(|(name, section)| (format!("[{name}]"), hash(&section.to_string())))
            .collect();
        sections.push(("the flags of `run`".to_owned(), hash(run)));
        // Where one listens is its own affair.
        let is_on_one_host = ClusterConfig { listen: None, ..config.cluster.clone() }.is_on_one_host();
        if config.checkpoint.enabled && config.checkpoint.url.is_none() && is_on_one_host {
            // Each would find the checkpoints of its own directory only.
            let directory = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
            sections.push(("data_dir, where the checkpoints are".to_owned(), hash(&directory.to_string_lossy())));
        }
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire_format: WIRE_FORMAT,
            process: config.cluster.process as u16,
            processes: config.cluster.processes as u16,
            sections,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and lists: nothing that could fail.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (identity, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(identity)
    }

    /// What keeps the two from working together, in words; `None` if nothing does. `self` is this process.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.version != other.version {
            let (own, other) = (&self.version, &other.version);
            return Some(format!("it is version {other}, this is version {own}: run the same on all hosts"));
        }
        if self.wire_format != other.wire_format {
            let advice = "run the same build on all hosts";
            return Some(format!("it sends in format {}, this in {}: {advice}", other.wire_format, self.wire_format));
        }
        if self.processes != other.processes {
            let (own, other) = (self.processes, other.processes);
            return Some(format!("it expects {other} processes, this {own}: set cluster.processes (-n) alike"));
        }
        let hash_of = |sections: &[(String, _)], name: &str| sections.iter().find(|(other, _)| other == name).cloned();
        let mut differing: Vec<&str> = Vec::new();
        for (name, _) in self.sections.iter().chain(&other.sections) {
            if hash_of(&self.sections, name) != hash_of(&other.sections, name) && !differing.contains(&name.as_str()) {
                differing.push(name);
            }
        }
        if differing.is_empty() {
            return None;
        }
        // What comes from a peer is printed without surprises.
        let names: Vec<String> = differing.iter().map(|name| name.escape_debug().to_string()).collect();
        let advice = "all processes need the same, but for their own numbers, addresses and directories";
        Some(format!("its configuration differs from this one's in {}: {advice}", names.join(", ")))
    }
}

fn hash(text: &str) -> [u8; HASH_BYTES] {
    let digest = Sha256::digest(text.as_bytes());
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&digest[..HASH_BYTES]);
    hash
}

/// Takes a value out, if it is there.
fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    if let Some(Value::Object(parent)) = value.pointer_mut(parent) {
        parent.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::Span;

    fn identity(change: impl FnOnce(&mut Config)) -> Identity {
        let mut config = Config::default();
        config.cluster.processes = 2;
        change(&mut config);
        Identity::new(&config, "")
    }

    #[test]
    fn a_process_may_have_its_own_addresses_and_directories() {
        let other = identity(|config| {
            config.cluster.process = 1;
            config.cluster.listen = Some("10.0.0.1:1".to_owned());
            config.api.enabled = false;
            config.store.ndjson = Some(Default::default());
        });
        let own = identity(|config| {
            config.store.ndjson =
                Some(crate::stores::ndjson::NdjsonConfig { logs: "other.ndjson".into(), ..Default::default() });
        });
        assert_eq!(own.difference(&other), None);
    }

    #[test]
    fn what_differs_is_named() {
        let own = identity(|_| {});
        let difference = |change: fn(&mut Config)| own.difference(&identity(change)).unwrap_or_default();
        let text = difference(|config| config.time.tick = Span::from_secs(2));
        assert!(text.contains("[time]") && !text.contains("[view]"), "{text}");
        let text = difference(|config| {
            config.view[0].name = "other".to_owned();
            config.cluster.workers = 2;
        });
        assert!(text.contains("[cluster], [view]"), "{text}");
        assert!(difference(|config| config.data_dir = "elsewhere".into()).contains("data_dir"));
        assert!(difference(|config| config.cluster.processes = 3).contains("expects 3 processes, this 2"));
        let text = own.difference(&Identity::new(&Config::default(), "--until-end")).unwrap_or_default();
        assert!(text.contains("processes"), "{text}");
        let other = Identity { version: "9".to_owned(), ..own.clone() };
        assert!(own.difference(&other).is_some_and(|text| text.contains("version 9")));
        let other = Identity { wire_format: 99, ..own.clone() };
        assert!(own.difference(&other).is_some_and(|text| text.contains("format 99")));
    }

    #[test]
    fn an_identity_is_small_and_reads_back() {
        let own = identity(|_| {});
        let bytes = own.encode();
        assert!(bytes.len() < MAX_IDENTITY / 8, "{}", bytes.len());
        assert_eq!(Identity::decode(&bytes), Some(own));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = Identity::decode(&bytes);
        }
    }
}
