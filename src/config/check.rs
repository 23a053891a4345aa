//! What reading alone does not find: values that do not fit each other, or that a part does not accept.
//!
//! In: a [`Config`]. Out: what the dataflow is built from, or *all* mistakes, each with its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use floodmark_dataflows::alerts::config::{Alert, compile_alerts};
use floodmark_dataflows::decode::{RecordsConfig, Schema};
use floodmark_dataflows::rules::{Rules, RulesConfig};
use floodmark_dataflows::view::View;
use floodmark_dataflows::view_config::{Mistake, compile_views};
use serde::Serialize;

use super::{ClusterConfig, Config, SourceChoice, SourceSection, StoreChoice, StoreSection, fnv_1a};
use crate::alerts::config::route_mistakes;
use crate::dead_letters::Place;
use crate::sources::generator::Generator;

/// The parts of a configuration that the dataflow is built from, compiled.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The fields that are looked for in records: all that rules and views use.
    pub schema: Schema,
    /// The rules.
    pub rules: Rules,
    /// The views, in the order of the configuration.
    pub views: Vec<View>,
    /// The alerts, in the order of the configuration.
    pub alerts: Vec<Alert>,
}

impl Config {
    /// All mistakes that reading alone does not find.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = within("time", self.time.mistakes());
        mistakes.extend(self.compile().err().unwrap_or_default());
        mistakes.extend(within("cluster", self.cluster.mistakes()));
        mistakes.extend(self.mistakes_of_several_processes());
        mistakes.extend(self.source.mistakes());
        mistakes.extend(self.store.mistakes());
        if self.dead_letters.to == Place::Index && !matches!(self.store.chosen(), Ok(StoreChoice::Elasticsearch(_))) {
            let message = "an index for dead letters needs [store.elasticsearch]; add it, or write them to a file";
            mistakes.push(Mistake::new("dead_letters.to", message));
        }
        mistakes.extend(within("patterns", self.patterns.mistakes()));
        let keys = self.view.iter().flat_map(|view| &view.key).map(String::as_str).collect();
        mistakes.extend(route_mistakes(&self.route, &self.alert, &keys));
        mistakes.extend(within("checkpoint", self.checkpoint.mistakes()));
        mistakes.extend(self.api.mistakes().iter().map(|text| spoken("", text).within("api")));
        let last = ClusterConfig { process: self.cluster.processes.saturating_sub(1), ..self.cluster.clone() };
        if self.api.enabled && self.api.of_process(&last).is_none() {
            let (processes, port) = (self.cluster.processes, self.api.listen.port());
            let message = format!("expected a port with {processes} in a row, one a process, or 0, got {port}");
            mistakes.push(Mistake::new("api.listen", message));
        }
        let (every, tick) = (self.publish.every, self.time.tick);
        if every.as_millis() == 0 || !every.as_millis().is_multiple_of(tick.as_millis().max(1)) {
            let message = format!("expected a multiple of time.tick ({tick}), got {every}");
            mistakes.push(Mistake::new("publish.every", message));
        }
        mistakes
    }

    /// What one process can do and several cannot.
    fn mistakes_of_several_processes(&self) -> Vec<Mistake> {
        if !self.cluster.is_shared() {
            return Vec::new();
        }
        let processes = self.cluster.processes;
        let mut mistakes = Vec::new();
        if let Ok(StoreChoice::Embedded(_)) = self.store.chosen() {
            let advice =
                "add [store.elasticsearch], [store.ndjson] or [store.none], or run one process with more workers";
            let message = format!("the embedded store is for one process, and there are {processes}: {advice}");
            mistakes.push(Mistake::new("store.embedded", message));
        }
        if self.source.files.is_some() && !self.cluster.shared_files && !self.cluster.is_on_one_host() {
            let advice =
                "read from Kafka, or set cluster.shared_files when they are on a file system that all hosts share";
            let message = format!("processes on several hosts may not see the same files: {advice}");
            mistakes.push(Mistake::new("source.files", message));
        }
        let is_local = !self.checkpoint.url.as_deref().unwrap_or_default().starts_with("s3://");
        if self.checkpoint.enabled && is_local && !self.cluster.shared_files && !self.cluster.is_on_one_host() {
            let advice = "name an s3:// address, or set cluster.shared_files when all hosts share the directory";
            let message = format!("processes on several hosts need checkpoints where all can reach them: {advice}");
            mistakes.push(Mistake::new("checkpoint.url", message));
        }
        mistakes
    }

    /// Compiles records, rules and views; or all mistakes in them.
    pub fn compile(&self) -> Result<Compiled, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut schema = Schema::new(&self.records).or_else(|error| {
            mistakes.push(spoken("records", &error.to_string()));
            // Only to look for further mistakes.
            Schema::new(&RecordsConfig::default()).map_err(|_| std::mem::take(&mut mistakes))
        })?;
        if self.patterns.enabled {
            schema = schema.with_patterns();
        }
        let rules = Rules::compile(&self.rules, &mut schema);
        if rules.is_err() {
            mistakes.extend(mistakes_in_rules(&self.rules, schema.clone()));
        }
        let views = compile_views(&self.view, self.time.tick, &mut schema);
        if let Err(found) = &views {
            mistakes.extend(within("view", found.clone()));
        }
        let alerts = match &views {
            Ok(views) => compile_alerts(&self.alert, views).unwrap_or_else(|found| {
                mistakes.extend(within("alert", found));
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        match (rules, views) {
            (Ok(rules), Ok(mut views)) if mistakes.is_empty() => {
                let mut alerts = alerts;
                for alert in &mut alerts {
                    alert.watch(&mut views[usize::from(alert.view_id)]);
                    alert.sections = self.sections(&alert.view);
                }
                Ok(Compiled { schema, rules, views, alerts })
            }
            _ => Err(mistakes),
        }
    }

    /// A hash of how records are read.
    pub fn records_hash(&self) -> u64 {
        hash_of(&self.records)
    }

    /// The hashes of all that decides what is in the windows of a view and how they are scored, by section.
    pub fn sections(&self, view: &str) -> BTreeMap<Arc<str>, Arc<str>> {
        let view = self.view.iter().find(|config| config.name == view);
        [
            ("view", hash_of(&view)),
            ("records", self.records_hash()),
            ("patterns", hash_of(&self.patterns)),
            ("rules", hash_of(&self.rules)),
            ("time", hash_of(&self.time)),
        ]
        .into_iter()
        .map(|(name, hash)| (name.into(), format!("{hash:016x}").into()))
        .collect()
    }
}

/// A hash of a part of the configuration.
fn hash_of(part: &impl Serialize) -> u64 {
    fnv_1a(&serde_json::to_string(part).unwrap_or_default())
}

/// Compiles rule by rule, as compiling all of them ends at the first mistake.
fn mistakes_in_rules(config: &RulesConfig, mut schema: Schema) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (i, rule) in config.rule.iter().enumerate() {
        let alone = RulesConfig { rule: vec![rule.clone()], ..RulesConfig::default() };
        if let Err(error) = Rules::compile(&alone, &mut schema) {
            mistakes.push(Mistake::new(format!("rules.rule[{i}]"), error.to_string()));
        } else if config.rule[..i].iter().any(|other| other.name == rule.name) {
            let message = format!("two rules are named \"{}\"; give one another name", rule.name);
            mistakes.push(Mistake::new(format!("rules.rule[{i}].name"), message));
        }
    }
    // What concerns all rules, or none.
    let few = RulesConfig { rule: Vec::new(), ..config.clone() };
    let whole = if mistakes.is_empty() { config } else { &few };
    mistakes.extend(Rules::compile(whole, &mut schema).err().map(|error| spoken("rules", &error.to_string())));
    mistakes
}

/// A mistake from a message that may begin with the key.
fn spoken(part: &str, message: &str) -> Mistake {
    match message.split_once(": ") {
        Some((key, rest)) if key.starts_with(part) && !key.contains(' ') => Mistake::new(key, rest),
        _ => Mistake::new(part, message),
    }
}

fn within(part: &str, mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.into_iter().map(|mistake| mistake.within(part)).collect()
}

impl SourceSection {
    fn mistakes(&self) -> Vec<Mistake> {
        let mistake = match self.chosen() {
            Err(mistake) => Some(mistake),
            Ok(SourceChoice::Kafka(config)) => {
                config.check().err().map(|error| spoken("", &error.to_string()).within("source.kafka"))
            }
            Ok(SourceChoice::Files(files)) if files.paths.is_empty() => {
                let message = "expected at least one path or pattern, such as [\"/var/log/app/*.log*\"], got none";
                Some(Mistake::new("source.files.paths", message))
            }
            Ok(SourceChoice::Files(_)) => None,
            Ok(SourceChoice::Generator(config)) => Generator::new(config.clone(), 0)
                .err()
                .map(|error| Mistake::new("source.generator", error.to_string().trim_start_matches("generator: "))),
        };
        Vec::from_iter(mistake)
    }
}

impl StoreSection {
    fn mistakes(&self) -> Vec<Mistake> {
        match self.chosen() {
            Err(mistake) => vec![mistake],
            Ok(StoreChoice::Elasticsearch(config)) => within("store.elasticsearch", config.mistakes()),
            Ok(StoreChoice::Embedded(config)) => within("store.embedded", config.mistakes()),
            Ok(StoreChoice::Ndjson(_) | StoreChoice::None) => Vec::new(),
        }
    }
}
