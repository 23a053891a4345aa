//! The options of patterns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::admission::MAX_FIRST_CUTS;
use crate::view_config::Mistake;

/// Patterns of messages: templates with wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatternsConfig {
    /// Whether messages are looked at. Without it log documents have no `pattern_id` and `/patterns` is empty.
    pub enabled: bool,
    /// Different first cuts kept per partition, in the order of the offsets; further ones are counted together as
    /// `__other__`. A first cut takes up to 2 KiB.
    pub max_patterns: usize,
}

impl Default for PatternsConfig {
    fn default() -> Self {
        Self { enabled: true, max_patterns: MAX_FIRST_CUTS }
    }
}

impl PatternsConfig {
    /// Every mistake in the options.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let range = 1..=1_000_000;
        if range.contains(&self.max_patterns) {
            return Vec::new();
        }
        let message = format!("expected a number from 1 to 1,000,000, got {}", self.max_patterns);
        vec![Mistake::new("max_patterns", message)]
    }
}
