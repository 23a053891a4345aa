//! The flags that say where the configuration comes from.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::config::{Config, ConfigError, Sources};

/// Read when it is there and no other file is named.
const DEFAULT_FILE: &str = "floodmark.toml";

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML); without it, floodmark.toml here if there is one
    #[arg(short, long, value_name = "FILE", env = "FLOODMARK_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set a key, over the file and the environment; as often as needed
    ///
    /// The key is dotted, the value TOML or plain text: --set time.tick=500ms --set 'source.kafka.topics=["logs"]'
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration, checked. `more` are settings from other flags, which win.
    pub fn load(&self, more: &[String]) -> Result<Config, Failure> {
        self.with(more, Config::load)
    }

    /// The configuration, without asking whether it can run.
    pub fn load_unchecked(&self) -> Result<Config, Failure> {
        self.with(&[], Config::load_unchecked)
    }

    fn with(&self, more: &[String], load: fn(&Sources<'_>) -> Result<Config, ConfigError>) -> Result<Config, Failure> {
        let sources = Sources {
            file: self.file(),
            // Names and values that are not Unicode are no keys of ours.
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            flags: self.set.iter().chain(more).cloned().collect(),
        };
        load(&sources).map_err(Failure::usage)
    }

    /// The file that is read.
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref().or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()))
    }
}
