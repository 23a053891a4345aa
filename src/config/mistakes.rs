//! All mistakes of a configuration, each with where it was written.

use std::fmt;
use std::path::PathBuf;

use floodmark_dataflows::view_config::Mistake;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, as it was written but for its value.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag(text) => f.write_str(text),
        }
    }
}

/// A mistake, and where it was written if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Absent when the mistake is that something is missing.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub mistake: Mistake,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if self.mistake.key.is_empty() { f.write_str(&self.mistake.message) } else { self.mistake.fmt(f) }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}; give another with --config, or start one with \
        `floodmark config --defaults > floodmark.toml`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// It has mistakes: all of them.
    #[error("the configuration has {}{}", count(.0.len()), list(.0))]
    Mistakes(Vec<Located>),
}

fn count(n: usize) -> String {
    if n == 1 { "a mistake:".to_owned() } else { format!("{n} mistakes:") }
}

fn list(mistakes: &[Located]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}
