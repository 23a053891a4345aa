//! Rules that give each record a severity.

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

/// A condition on a record, as in a view's `where`.
#[derive(Clone, Debug)]
pub struct Condition {}
