//! The configuration: defaults, then the file, the environment and flags.
//!
//! Each part's options stand beside the part; here they are composed ([`Config`]), read ([`load`], from [`layers`]),
//! checked ([`check`]) and printed ([`render`]). What the keys are is read from the JSON schema ([`keys`]), so texts and checks cannot differ
//! from the code.

pub mod check;
pub mod keys;
pub mod layers;
pub mod load;
pub mod mistakes;
pub mod render;
pub mod sections;

use std::path::PathBuf;
use std::sync::OnceLock;

use floodmark_dataflows::alerts::config::AlertConfig;
use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::patterns::PatternsConfig;
use floodmark_dataflows::rules::RulesConfig;
use floodmark_dataflows::view_config::{TimeConfig, ViewConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alerts::config::{AlertsConfig, RouteConfig};
use crate::api::ApiConfig;
use crate::audit::AuditConfig;
use crate::checkpoint::CheckpointConfig;
pub use crate::cluster::ClusterConfig;
use crate::dead_letters::DeadLettersConfig;
use crate::units::Span;
pub use check::Compiled;
pub use load::Sources;
pub use mistakes::ConfigError;
pub use sections::{NoStoreConfig, SourceChoice, SourceSection, StoreChoice, StoreSection};

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where Floodmark keeps its own files: the embedded store, dead letters, positions. Made if it is not there.
    pub data_dir: PathBuf,
    /// Workers and processes.
    pub cluster: ClusterConfig,
    /// Where records are read from: exactly one of `source.kafka`, `source.files` and `source.generator`.
    pub source: SourceSection,
    /// What the records look like.
    pub records: RecordsConfig,
    /// Rules that give each record a severity.
    pub rules: RulesConfig,
    /// The event clock.
    pub time: TimeConfig,
    /// Views: windows per key. Without any, one view named `per_service` per `service_name`, with windows of 10s.
    pub view: Vec<ViewConfig>,
    /// Patterns of messages.
    pub patterns: PatternsConfig,
    /// When window documents go to the store.
    pub publish: PublishConfig,
    /// Alerts: which windows somebody is told of.
    pub alert: Vec<AlertConfig>,
    /// Who is told of alerts.
    pub route: Vec<RouteConfig>,
    /// How alerts are kept and sent.
    pub alerts: AlertsConfig,
    /// Where documents go, and where searches are answered: at most one of `store.elasticsearch`, `store.embedded`,
    /// `store.ndjson` and `store.none`. Without any, the embedded store.
    pub store: StoreSection,
    /// Records that cannot be read, indexed or trusted.
    pub dead_letters: DeadLettersConfig,
    /// Checkpoints: what a run goes on from after it was stopped or killed.
    pub checkpoint: CheckpointConfig,
    /// What became of every offset.
    pub audit: AuditConfig,
    /// The HTTP API.
    pub api: ApiConfig,
}

impl Config {
    /// The API of this process.
    pub fn own_api(&self) -> ApiConfig {
        self.api.of_process(&self.cluster).unwrap_or_else(|| self.api.clone())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "floodmark-data".into(),
            cluster: ClusterConfig::default(),
            source: SourceSection::default(),
            records: RecordsConfig::default(),
            rules: RulesConfig::default(),
            time: TimeConfig::default(),
            view: vec![ViewConfig::default()],
            patterns: PatternsConfig::default(),
            publish: PublishConfig::default(),
            alert: Vec::new(),
            route: Vec::new(),
            alerts: AlertsConfig::default(),
            store: StoreSection::default(),
            dead_letters: DeadLettersConfig::default(),
            checkpoint: CheckpointConfig::default(),
            audit: AuditConfig::default(),
            api: ApiConfig::default(),
        }
    }
}

/// When window documents go to the store.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublishConfig {
    /// How often windows that are still open are stored (by the event clock; a multiple of the tick). Closed, final and
    /// corrected windows are stored at once, and the API shows every change after a tick anyway.
    pub every: Span,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self { every: Span::from_secs(10) }
    }
}

impl Config {
    /// A number that is the same for equal configurations, in every process and version of Rust. Secrets do not count.
    pub fn hash(&self) -> u64 {
        // Maps are ordered in this form, and the order of struct fields is that of the code.
        let text = serde_json::to_string(self).unwrap_or_default();
        fnv_1a(&text)
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fnv_1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The keys of [`Config`].
pub fn known_keys() -> &'static keys::Kind {
    static KEYS: OnceLock<keys::Kind> = OnceLock::new();
    KEYS.get_or_init(keys::Kind::of::<Config>)
}
