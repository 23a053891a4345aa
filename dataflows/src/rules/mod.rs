//! Rules that give each record a severity from 0 to 100.
//!
//! In: a [`Record`]. Out: a [`Verdict`]: the highest score among the rules that match, and which ones did. Mistakes in
//! the configuration are found when it is compiled; judging cannot fail and allocates nothing.

mod condition;
mod score;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use condition::{Condition, ConditionError};
use score::Score;

use crate::decode::Schema;
use crate::record::Record;

/// The number of rules at the most: one bit each in [`Verdict::matched`].
pub const MAX_RULES: usize = 64;

/// Rules that give each record a severity from 0 to 100, and with it a `severity_level`: `CRITICAL` from 90 on, `HIGH` from
/// 70, `MEDIUM` from 50, `LOW` from 25, else `INFO`. Scores of windows have the same levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RulesConfig {
    /// A record is an anomaly from this severity on, 0 to 100.
    pub anomaly_threshold: u8,
    /// The rules; the highest score among those that match is the severity. Giving any replaces the default ones. At
    /// most 64.
    pub rule: Vec<RuleConfig>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name in the `reasons` of documents: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// Conditions that must all hold, such as `"status_code >= 500"` or `"level in ERROR, FATAL"`.
    pub when: Vec<String>,
    /// The severity, 0 to 100: a number, or a text like `"50 + 2 * (status_code - 400)"` that depends on a field in a
    /// straight line, rounded down and kept within 0 to 100.
    pub score: ScoreConfig,
}

/// A score: a number, or a text that depends on a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ScoreConfig {
    /// The same for every record.
    Points(u8),
    /// `base + factor * (field - origin)`.
    Formula(String),
}

impl Default for RulesConfig {
    fn default() -> Self {
        let rule =
            |name: &str, when: &str, score| RuleConfig { name: name.to_owned(), when: vec![when.to_owned()], score };
        let points = ScoreConfig::Points;
        let by_status = ScoreConfig::Formula("50 + 2 * (status_code - 400)".to_owned());
        Self {
            anomaly_threshold: 50,
            rule: vec![
                rule("error_level", "level in ERROR, FATAL", points(100)),
                rule("http_error", "status_code >= 400", by_status),
                rule("warn_level", "level = WARN", points(50)),
                rule("slow_response", "response_time_ms > 3000", points(60)),
                rule("error_code", "error_code exists", points(75)),
            ],
        }
    }
}

/// What the rules found in one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// 0 to 100: the highest score among the rules that matched.
    pub severity: u8,
    /// `severity` reached the anomaly threshold.
    pub anomaly: bool,
    /// The rules that matched: bit i stands for the i-th rule.
    pub matched: u64,
}

/// A mistake in the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// More than [`MAX_RULES`].
    #[error("rules: expected at most {MAX_RULES} rules, got {0}")]
    TooMany(usize),
    /// A threshold out of range.
    #[error("rules.anomaly_threshold: expected 0 to 100, got {0}")]
    BadThreshold(u8),
    /// A name that documents cannot carry.
    #[error("rule \"{0}\": expected a name of 1 to 64 letters, digits, '_', '-' and '.'")]
    BadName(String),
    /// A name that another rule has.
    #[error("rule \"{0}\": another rule has the same name")]
    SameName(String),
    /// A rule without conditions.
    #[error("rule \"{0}\": expected at least one condition in when")]
    NoCondition(String),
    /// A condition that cannot be read.
    #[error("rule \"{rule}\": {source}")]
    Condition {
        /// The rule.
        rule: String,
        /// What is wrong.
        source: ConditionError,
    },
    /// A score that cannot be read.
    #[error("rule \"{rule}\": {message}")]
    Score {
        /// The rule.
        rule: String,
        /// What is wrong.
        message: String,
    },
}

#[derive(Clone, Debug)]
struct Rule {
    name: Arc<str>,
    when: Vec<Condition>,
    score: Score,
}

/// Rules, compiled.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    anomaly_threshold: u8,
}

impl Rules {
    /// Compiles rules, with their fields looked for in records from now on. Views find them by their names in the schema.
    pub fn compile(config: &RulesConfig, schema: &mut Schema) -> Result<Self, RuleError> {
        schema.name_rules(config.rule.iter().map(|rule| rule.name.as_str().into()));
        if config.rule.len() > MAX_RULES {
            return Err(RuleError::TooMany(config.rule.len()));
        }
        if config.anomaly_threshold > 100 {
            return Err(RuleError::BadThreshold(config.anomaly_threshold));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(config.rule.len());
        for rule in &config.rule {
            let name = rule.name.clone();
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
                return Err(RuleError::BadName(name));
            }
            if rules.iter().any(|other| *other.name == *name) {
                return Err(RuleError::SameName(name));
            }
            if rule.when.is_empty() {
                return Err(RuleError::NoCondition(name));
            }
            let when = rule.when.iter().map(|text| Condition::compile(text, schema)).collect::<Result<_, _>>();
            let when = when.map_err(|source| RuleError::Condition { rule: name.clone(), source })?;
            let score = Score::compile(&rule.score, schema)
                .map_err(|message| RuleError::Score { rule: name.clone(), message })?;
            rules.push(Rule { name: name.into(), when, score });
        }
        Ok(Self { rules, anomaly_threshold: config.anomaly_threshold })
    }

    /// Whether a condition is about the message's pattern.
    pub fn names_pattern(&self) -> bool {
        self.rules.iter().any(|rule| rule.when.iter().any(Condition::names_pattern))
    }

    /// Scores a record.
    #[inline]
    pub fn judge(&self, record: &Record<'_>) -> Verdict {
        let (mut severity, mut matched) = (0, 0);
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.when.iter().all(|condition| condition.holds(record)) {
                matched |= 1 << number;
                severity = severity.max(rule.score.of(record));
            }
        }
        Verdict { severity, anomaly: severity >= self.anomaly_threshold, matched }
    }

    /// The names of the rules in [`Verdict::matched`], in the order of the configuration.
    pub fn reasons(&self, matched: u64) -> impl Iterator<Item = &str> {
        self.rules.iter().enumerate().filter(move |(i, _)| matched >> i & 1 == 1).map(|(_, rule)| &*rule.name)
    }
}

/// The name of a severity, as in the `severity_level` of documents.
pub fn severity_level(severity: u8) -> &'static str {
    match severity {
        90.. => "CRITICAL",
        70.. => "HIGH",
        50.. => "MEDIUM",
        25.. => "LOW",
        _ => "INFO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RecordsConfig};

    fn judge(config: &RulesConfig, members: &str) -> (u8, bool, Vec<String>) {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let rules = Rules::compile(config, &mut schema).unwrap();
        let raw = format!("{{\"timestamp\":1700000000000{members}}}");
        let verdict = rules.judge(&Decoder::new(schema).decode(raw.as_bytes()).unwrap());
        (verdict.severity, verdict.anomaly, rules.reasons(verdict.matched).map(str::to_owned).collect())
    }

    #[test]
    fn the_default_rules() {
        for (members, severity, reasons) in [
            ("", 0, &[][..]),
            (r#","level":"fatal""#, 100, &["error_level"]),
            (r#","level":"WARNING""#, 50, &["warn_level"]),
            (r#","status_code":399"#, 0, &[]),
            (r#","status_code":400"#, 50, &["http_error"]),
            (r#","status_code":404"#, 58, &["http_error"]),
            (r#","status_code":424"#, 98, &["http_error"]),
            (r#","status_code":503"#, 100, &["http_error"]),
            (r#","response_time_ms":3000"#, 0, &[]),
            (r#","response_time_ms":3000.5"#, 60, &["slow_response"]),
            (r#","error_code":"E1""#, 75, &["error_code"]),
            (r#","error_code":"""#, 0, &[]),
            (r#","level":"WARN","status_code":404,"error_code":7"#, 75, &["http_error", "warn_level", "error_code"]),
        ] {
            let expected = (severity, severity >= 50, reasons.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(judge(&RulesConfig::default(), members), expected, "{members}");
        }
    }

    #[test]
    fn rules_are_configuration() {
        let config: RulesConfig = serde_json::from_str(
            r#"{"anomaly_threshold": 30, "rule": [
                {"name": "slow_login", "when": ["path = /login", "response_time_ms > 100"],
                 "score": "20 + 0.1 * (response_time_ms - 100)"}]}"#,
        )
        .unwrap();
        assert_eq!(
            judge(&config, r#","path":"/login","response_time_ms":195"#),
            (29, false, vec!["slow_login".into()])
        );
        assert_eq!(
            judge(&config, r#","path":"/login","response_time_ms":9e3"#),
            (100, true, vec!["slow_login".into()])
        );
        assert_eq!(judge(&config, r#","path":"/","response_time_ms":9e3"#), (0, false, vec![]));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |config: RulesConfig| {
            let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
            Rules::compile(&config, &mut schema).unwrap_err().to_string()
        };
        let mut config = RulesConfig::default();
        config.rule[0].when[0] = "level in ERROR, LOUD".into();
        assert!(message(config).starts_with("rule \"error_level\": condition 'level in ERROR, LOUD', at character 10"));
        let mut config = RulesConfig::default();
        config.rule[1].name = "warn_level".into();
        assert!(message(config).contains("another rule has the same name"));
        let mut config = RulesConfig::default();
        config.rule[0].score = ScoreConfig::Points(101);
        assert!(message(config).contains("expected 0 to 100, got 101"));
        let mut config = RulesConfig::default();
        config.rule = vec![config.rule[0].clone(); 65];
        assert!(message(config).contains("at most 64 rules, got 65"));
    }

    #[test]
    fn names_of_severities() {
        let names = [100, 90, 89, 70, 69, 50, 49, 25, 24, 0].map(severity_level);
        let expected = ["CRITICAL", "CRITICAL", "HIGH", "HIGH", "MEDIUM", "MEDIUM", "LOW", "LOW", "INFO", "INFO"];
        assert_eq!(names, expected);
    }
}
