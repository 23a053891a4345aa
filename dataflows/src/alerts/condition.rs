//! What a window has to meet: a measure, a comparison and a number.

use std::fmt;

use crate::numbers::{NumberMeasure, RULE};
use crate::output::WindowDocument;

/// What can be compared, beside statistics of the view's own numbers and rules. The names are those of the configuration.
const MEASURES: [&str; 14] = [
    "score",
    "count",
    "rate",
    "errors",
    "error_ratio",
    "anomalies",
    "anomaly_ratio",
    "max_severity",
    "late_records",
    "mean",
    "p50",
    "p90",
    "p95",
    "p99",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    Above,
    AtMost,
    Below,
}

/// A condition such as `errors >= 10`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowCondition {
    measure: &'static str,
    number: Option<&'static NumberMeasure>,
    comparison: Comparison,
    threshold: f64,
}

impl WindowCondition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What was expected and what came.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a measure, a comparison (>=, >, <=, <) and a number, such as \"score >= 75\" or \
                 \"error_ratio > 0.05\", got \"{text}\""
            )
        };
        let at = text.find(['<', '>']).ok_or_else(expected)?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let (comparison, number) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
            (Some(number), _) => (Comparison::AtLeast, number),
            (_, Some(number)) => (Comparison::AtMost, number),
            _ if rest.starts_with('>') => (Comparison::Above, &rest[1..]),
            _ => (Comparison::Below, &rest[1..]),
        };
        let threshold: f64 = number.trim().parse().map_err(|_| expected())?;
        if !threshold.is_finite() {
            return Err(expected());
        }
        let number = NumberMeasure::named(name);
        let measure = MEASURES.into_iter().find(|measure| *measure == name).or(number.map(NumberMeasure::name));
        let measure = measure.ok_or_else(|| {
            let names = MEASURES.join(", ");
            format!(
                "expected one of {names}, a statistic of one of the view's numbers such as p95:bytes, or rule:NAME or \
                 rule_ratio:NAME of one of its rules, got \"{name}\""
            )
        })?;
        if measure == "score" && !(0.0..=100.0).contains(&threshold) {
            return Err(format!("expected a score of 0 to 100, got {threshold}"));
        }
        Ok(Self { measure, number, comparison, threshold })
    }

    /// The statistic that it is about, if that is of a number or of a rule that the view names.
    pub fn number(&self) -> Option<&'static NumberMeasure> {
        self.number
    }

    /// Whether it is about the window's score.
    pub fn is_of_score(&self) -> bool {
        self.measure == "score"
    }

    /// The least score that meets it, if it is about scores and high ones meet it.
    pub fn least_score(&self) -> Option<u8> {
        (self.is_of_score() && self.is_upward()).then(|| self.threshold.ceil() as u8)
    }

    /// Whether greater values are worse.
    pub fn is_upward(&self) -> bool {
        matches!(self.comparison, Comparison::AtLeast | Comparison::Above)
    }

    /// The value of a window that meets it. A score that is still being learned meets nothing; nor is there too little of
    /// anything in a window of which a partition could not be read.
    pub fn met_by(&self, window: &WindowDocument) -> Option<f64> {
        if !self.is_upward() && window.score.as_ref().is_some_and(|score| score.stalled) {
            return None;
        }
        let value = self.value(window)?;
        let is_met = match self.comparison {
            Comparison::AtLeast => value >= self.threshold,
            Comparison::Above => value > self.threshold,
            Comparison::AtMost => value <= self.threshold,
            Comparison::Below => value < self.threshold,
        };
        is_met.then_some(value)
    }

    /// Whether it is met by few records, and so by none, of which there is no window to look at.
    pub fn is_of_few(&self) -> bool {
        !self.is_upward()
            && (self.measure == "rate" || self.measure.starts_with("count") || self.measure.starts_with(RULE))
    }

    /// What of a window it compares; a score that is still being learned is none.
    pub fn value(&self, window: &WindowDocument) -> Option<f64> {
        let ratio = |part: i64| (window.count > 0).then(|| part as f64 / window.count as f64);
        let response = window.response_time_ms.as_ref();
        if let Some(measure) = self.number {
            let statistic = measure.statistic();
            return match measure.rule() {
                Some(rule) => statistic.of_rule(window.rules.get(rule).copied().unwrap_or(0), window.count),
                None => window.numbers.get(measure.number()).map(|number| statistic.of(number)),
            };
        }
        match self.measure {
            "score" => window.score.as_ref().filter(|score| !score.learning).map(|score| f64::from(score.score)),
            "count" => Some(window.count as f64),
            "rate" => Some(window.count as f64 * 1_000.0 / (window.end - window.start).max(1) as f64),
            "errors" => Some(window.errors as f64),
            "error_ratio" => ratio(window.errors),
            "anomalies" => Some(window.anomalies as f64),
            "anomaly_ratio" => ratio(window.anomalies),
            "max_severity" => Some(f64::from(window.max_severity)),
            "late_records" => Some(window.late_records as f64),
            "mean" => response.map(|response| response.mean),
            "p50" => response.map(|response| response.p50),
            "p90" => response.map(|response| response.p90),
            "p95" => response.map(|response| response.p95),
            _ => response.map(|response| response.p99),
        }
    }
}

impl fmt::Display for WindowCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comparison = match self.comparison {
            Comparison::AtLeast => ">=",
            Comparison::Above => ">",
            Comparison::AtMost => "<=",
            Comparison::Below => "<",
        };
        write!(f, "{} {comparison} {}", self.measure, self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_shown() {
        for text in [
            "score >= 75",
            "error_ratio > 0.05",
            "count < 10",
            "p95 <= 1500.5",
            "p95:queue.depth > 7",
            "rule:slow >= 3",
        ] {
            assert_eq!(WindowCondition::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(WindowCondition::parse("errors>3").unwrap().to_string(), "errors > 3");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("score", "such as"),
            ("score >= many", "such as"),
            ("errros > 3", "got \"errros\""),
            ("score > 101", "0 to 100"),
            ("errors > inf", "a number"),
        ] {
            let mistake = WindowCondition::parse(text).unwrap_err();
            assert!(mistake.contains(part), "{text}: {mistake}");
        }
    }
}
