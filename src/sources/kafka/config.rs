//! The options of the Kafka source and producer, and what librdkafka is told.
//!
//! In: options. Out: a librdkafka configuration, or an error that names the option at fault. Nothing is contacted.

use std::collections::BTreeMap;
use std::fmt;

use floodmark_dataflows::units::{ByteSize, Span};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::range::StartAt;
use crate::sources::SourceError;

/// Reading from Kafka.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to ask first, as `host:port` with commas between; the others are found through them.
    pub brokers: String,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Consumer group that positions are committed to, for tools that show lag. Floodmark never joins it: which
    /// partition is read where is fixed, and reading starts where `start` says.
    pub group_id: String,
    /// Where to start: `earliest`, `latest`, `committed` (where the group's positions are; partitions without one start
    /// at the earliest), a time (RFC 3339 or epoch milliseconds: the first record appended then or later), or offsets
    /// (`logs_raw:0=1200,logs_raw:1=900`; partitions not named start at the earliest).
    pub start: StartAt,
    /// How often to look for new partitions. They are read from their beginning.
    pub discover_interval: Span,
    /// How long to wait at the start for the brokers to answer and for the topics to exist.
    pub connect_timeout: Span,
    /// Records fetched ahead, in bytes, divided among the partitions of a worker (at least 256 KiB each). Small, so that
    /// they are still in the processor's cache when they are used: more was slower in every measurement.
    pub queue_bytes: ByteSize,
    /// Any setting of librdkafka, such as `security.protocol`, `sasl.mechanism`, `sasl.username` or `ssl.ca.location`.
    /// Settings that correctness depends on are refused.
    pub properties: Properties,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topics: vec!["logs_raw".to_owned()],
            group_id: "floodmark".to_owned(),
            start: StartAt::Earliest,
            discover_interval: Span::from_secs(30),
            connect_timeout: Span::from_secs(30),
            queue_bytes: ByteSize::from_mib(4),
            properties: Properties::default(),
        }
    }
}

/// Writing to Kafka: dead letters, and generated records.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProducerConfig {
    /// Brokers to ask first, as `host:port` with commas between. Left out, those of `source.kafka`, reached with the same
    /// `security.`, `sasl.`, `ssl.` and `socket.` properties.
    pub brokers: String,
    /// Compression of batches. lz4 costs least; zstd is smallest.
    pub compression: Compression,
    /// How long to wait for a batch to fill up before it is sent.
    pub linger: Span,
    /// How long to keep trying to deliver a record before giving up with an error.
    pub delivery_timeout: Span,
    /// Any setting of librdkafka, as for the source.
    pub properties: Properties,
}

impl ProducerConfig {
    /// Where no brokers are named, goes to those that are read from.
    pub fn inherit(&mut self, source: &KafkaConfig) {
        if self.brokers.is_empty() {
            self.brokers.clone_from(&source.brokers);
            for (name, value) in source.properties.of_connections().0 {
                self.properties.0.entry(name).or_insert(value);
            }
        }
    }
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            compression: Compression::Lz4,
            linger: Span::from_millis(20),
            delivery_timeout: Span::from_secs(300),
            properties: Properties::default(),
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Every codec.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// librdkafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Settings handed to librdkafka as they are. Passwords, keys and tokens are shown as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Adds a setting.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Those that say how brokers are reached and what they are shown, whether to read or to write.
    pub fn of_connections(&self) -> Self {
        const OF: [&str; 6] = ["security.", "sasl.", "ssl.", "enable.ssl", "socket.", "broker."];
        let is_of = |name: &str| OF.iter().any(|of| name.starts_with(of));
        Self(self.0.iter().filter(|(name, _)| is_of(name)).map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), if is_secret(name) { "***" } else { value.as_str() }))
    }
}

fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 5] = ["password", "secret", "token", "key.pem", "oauthbearer.config"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word)) && name != "sasl.oauthbearer.token.endpoint.url"
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.shown() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Properties;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of librdkafka settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
                let mut properties = Properties::default();
                while let Some((name, value)) = map.next_entry::<String, Scalar>()? {
                    properties.set(name, value.0);
                }
                Ok(properties)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// A value as librdkafka wants it, from the kinds that TOML has for it.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a truth value")
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Properties {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KafkaProperties".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
            "examples": [{ "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512" }],
        })
    }
}

/// A setting of ours that properties must not change, and why.
type Fixed = (&'static str, &'static str, &'static str);

const CONSUMER_FIXED: [Fixed; 8] = [
    ("enable.auto.commit", "false", "positions are committed only for what is stored"),
    ("enable.auto.offset.store", "false", "positions are committed only for what is stored"),
    ("auto.offset.reset", "error", "a jump in the offsets must be seen and counted"),
    ("enable.partition.eof", "true", "without it the end of a partition is not known"),
    ("isolation.level", "read_committed", "records of aborted transactions must not be counted"),
    ("statistics.interval.ms", "1000", "an unreachable broker is found by the statistics"),
    ("allow.auto.create.topics", "false", "a mistyped topic must be an error"),
    ("log.queue", "true", "librdkafka's messages go to our log"),
];

const CONSUMER_DEFAULTS: [(&str, &str); 6] = [
    // librdkafka's default of 1000 makes a consumer sleep a second whenever its queue is full.
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "250"),
    ("check.crcs", "true"),
    // A broker that accepts and does not answer is given up after this, not after a minute.
    ("socket.timeout.ms", "10000"),
    ("reconnect.backoff.max.ms", "2000"),
    ("log.connection.close", "false"),
];

const PRODUCER_FIXED: [Fixed; 2] = [
    ("enable.idempotence", "true", "a retry must not write a record twice"),
    ("log.queue", "true", "librdkafka's messages go to our log"),
];

/// A setting that has an option of its own, and the option.
type Taken = (&'static str, &'static str);

const CONSUMER_OPTIONS: [Taken; 4] = [
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("group.id", "group_id"),
    ("queued.max.messages.kbytes", "queue_bytes"),
];

const PRODUCER_OPTIONS: [Taken; 7] = [
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("compression.type", "compression"),
    ("compression.codec", "compression"),
    ("linger.ms", "linger"),
    ("queue.buffering.max.ms", "linger"),
    ("message.timeout.ms", "delivery_timeout"),
];

/// What goes beside the options of a kind of client.
struct Kind {
    options: &'static [Taken],
    /// Properties win.
    defaults: &'static [(&'static str, &'static str)],
    /// Properties that differ are refused.
    fixed: &'static [Fixed],
}

const CONSUMER: Kind = Kind { options: &CONSUMER_OPTIONS, defaults: &CONSUMER_DEFAULTS, fixed: &CONSUMER_FIXED };

const PRODUCER: Kind =
    Kind { options: &PRODUCER_OPTIONS, defaults: &[("log.connection.close", "false")], fixed: &PRODUCER_FIXED };

impl KafkaConfig {
    /// What librdkafka is told, where `partitions` share the local queue.
    pub(super) fn client(&self, partitions: usize) -> Result<ClientConfig, SourceError> {
        if self.topics.is_empty() || self.topics.iter().any(|topic| topic.is_empty()) {
            return Err(SourceError::Configuration("topics: expected at least one name, got none".to_owned()));
        }
        if let Some(twice) = self.topics.iter().enumerate().find(|(i, t)| self.topics[..*i].contains(t)) {
            return Err(SourceError::Configuration(format!("topics: \"{}\" is named twice", twice.1)));
        }
        if self.group_id.is_empty() {
            return Err(SourceError::Configuration("group_id: expected a name, got nothing".to_owned()));
        }
        let queue_kib = (self.queue_bytes.0 / partitions.max(1) as u64 / 1024).clamp(256, 2_000_000).to_string();
        let options =
            [("bootstrap.servers", &*self.brokers), ("group.id", &*self.group_id), ("client.id", "floodmark")];
        let options = options.into_iter().chain([("queued.max.messages.kbytes", &*queue_kib)]);
        client(options, &self.properties, &CONSUMER)
    }

    /// The same for reading. The log then has the ids of topics, which is how one that was made again is noticed before
    /// its records are taken for those of the first one.
    pub(super) fn reader(&self, partitions: usize) -> Result<ClientConfig, SourceError> {
        let mut client = self.client(partitions)?;
        let debug = client.get("debug").map_or_else(|| "metadata".to_owned(), |theirs| format!("{theirs},metadata"));
        client.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
        Ok(client)
    }

    /// Checks all that can be checked without a broker.
    ///
    /// # Errors
    /// The first mistake, beginning with the option's name.
    pub fn check(&self) -> Result<(), SourceError> {
        self.client(1).map(drop)
    }

    /// How long a broker may hold a fetch back when there is nothing new, in milliseconds.
    pub(super) fn fetch_wait_ms(&self) -> i64 {
        let set = self.properties.0.get("fetch.wait.max.ms").map(String::as_str);
        let default = CONSUMER_DEFAULTS.iter().find(|(name, _)| *name == "fetch.wait.max.ms").map(|(_, value)| *value);
        set.or(default).and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl ProducerConfig {
    /// What librdkafka is told.
    pub(super) fn client(&self) -> Result<ClientConfig, SourceError> {
        let linger = self.linger.as_millis().to_string();
        let timeout = self.delivery_timeout.as_millis().to_string();
        let options = [
            ("bootstrap.servers", &*self.brokers),
            ("client.id", "floodmark"),
            ("compression.type", self.compression.name()),
            ("linger.ms", &*linger),
            ("message.timeout.ms", &*timeout),
        ];
        client(options.into_iter(), &self.properties, &PRODUCER)
    }
}

fn client<'a>(
    options: impl Iterator<Item = (&'a str, &'a str)>,
    properties: &Properties,
    kind: &Kind,
) -> Result<ClientConfig, SourceError> {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in options.chain(kind.defaults.iter().copied()) {
        client.set(name, value);
    }
    for (name, value) in &properties.0 {
        if let Some((_, option)) = kind.options.iter().find(|(theirs, _)| theirs == name) {
            return Err(SourceError::Configuration(format!("properties: use the option \"{option}\" for \"{name}\"")));
        }
        if let Some((_, ours, why)) = kind.fixed.iter().find(|(theirs, ours, _)| theirs == name && ours != value) {
            let message = format!("properties: \"{name}\" is always \"{ours}\" here ({why}); take it out");
            return Err(SourceError::Configuration(message));
        }
        client.set(name, value);
    }
    for (name, value, _) in kind.fixed {
        client.set(*name, *value);
    }
    let is_sasl = client.get("security.protocol").is_some_and(|value| value.to_lowercase().starts_with("sasl"));
    let mechanism = client.get("sasl.mechanism").or(client.get("sasl.mechanisms")).unwrap_or("GSSAPI");
    if is_sasl && mechanism == "GSSAPI" {
        let message = "properties: \"sasl.mechanism\" is GSSAPI where nothing is set, and Kerberos is not compiled in; set it \
                       to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
        return Err(SourceError::Configuration(message.to_owned()));
    }
    client.create_native_config().map_err(|e| SourceError::Configuration(format!("properties: {e}")))?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> KafkaConfig {
        let mut config = KafkaConfig::default();
        config.properties.set(name, value);
        config
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = with("sasl.password", "hunter2");
        config.properties.set("ssl.key.pem", "hunter2");
        config.properties.set("sasl.username", "reader");
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("reader"), "{shown}");
        assert_eq!(config.client(1).unwrap().get("sasl.password"), Some("hunter2"));
    }

    #[test]
    fn what_correctness_depends_on_cannot_be_changed() {
        let message = with("auto.offset.reset", "latest").client(1).unwrap_err().to_string();
        assert!(message.contains("\"auto.offset.reset\" is always \"error\""), "{message}");
        assert!(with("auto.offset.reset", "error").client(1).is_ok());
        let message = with("group.id", "other").client(1).unwrap_err().to_string();
        assert!(message.contains("use the option \"group_id\""), "{message}");
        let message = with("fetch.wait.max.mz", "1").client(1).unwrap_err().to_string();
        assert!(message.contains("fetch.wait.max.mz"), "{message}");
        assert!(with("linger.ms", "5").client(1).is_ok(), "the source has no option for it");
        let producer =
            ProducerConfig { properties: with("enable.idempotence", "false").properties, ..ProducerConfig::default() };
        assert!(producer.client().unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn properties_come_through_and_win_over_defaults() {
        let config: KafkaConfig =
            toml::from_str("[properties]\n\"fetch.wait.max.ms\" = 100\n\"check.crcs\" = false\n").unwrap();
        let client = config.client(1).unwrap();
        assert_eq!(client.get("fetch.wait.max.ms"), Some("100"));
        assert_eq!(client.get("check.crcs"), Some("false"));
        assert_eq!(client.get("isolation.level"), Some("read_committed"));
    }

    #[test]
    fn tls_sasl_and_codecs_are_compiled_in() {
        let secured = |mechanism| {
            let mut config = with("security.protocol", "SASL_SSL");
            config.properties.set("sasl.mechanism", mechanism);
            config.client(1)
        };
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"] {
            secured(mechanism).unwrap();
        }
        for refused in [secured("GSSAPI"), with("security.protocol", "SASL_SSL").client(1)] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("set it to PLAIN, SCRAM-SHA-256"), "{message}");
        }
        for compression in Compression::ALL {
            ProducerConfig { compression, ..ProducerConfig::default() }.client().unwrap();
        }
    }

    #[test]
    fn the_queue_is_shared_among_partitions() {
        let config = KafkaConfig::default();
        let queue =
            |partitions| config.client(partitions).unwrap().get("queued.max.messages.kbytes").unwrap().to_owned();
        assert_eq!((queue(1), queue(4), queue(1000)), ("4096".into(), "1024".into(), "256".into()));
    }
}
