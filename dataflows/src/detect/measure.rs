//! What kind of number a measure is.

use serde::{Deserialize, Serialize};

/// Which departures count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Above and below what is expected.
    #[default]
    Both,
    /// Only above.
    Up,
    /// Only below.
    Down,
}

impl Direction {
    /// Whether a departure to this side counts.
    pub(super) fn counts(self, departure: f64) -> bool {
        match self {
            Direction::Both => true,
            Direction::Up => departure > 0.0,
            Direction::Down => departure < 0.0,
        }
    }
}

/// What a window without a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Missing {
    /// It is a zero: nothing happened, and that is news if something usually does.
    Zero,
    /// There is nothing to judge and nothing to learn.
    Absent,
}

/// How a measure is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Measure {
    /// What a window without a value means.
    pub missing: Missing,
    /// Which departures count.
    pub direction: Direction,
}

impl Measure {
    /// A count or a rate: silence is a zero, and falls are as telling as rises.
    pub const RATE: Measure = Measure { missing: Missing::Zero, direction: Direction::Both };
    /// A share such as errors to all: absent where there are no records, and only rises count.
    pub const RATIO: Measure = Measure { missing: Missing::Absent, direction: Direction::Up };
    /// A latency: absent where there are no records, and only rises count.
    pub const LATENCY: Measure = Measure { missing: Missing::Absent, direction: Direction::Up };
    /// Any other number: absent where there is none, both directions.
    pub const NUMBER: Measure = Measure { missing: Missing::Absent, direction: Direction::Both };

    /// The value that a window counts as; `None` if it is neither judged nor learned.
    pub(super) fn value(self, value: Option<f64>) -> Option<f64> {
        match (value.filter(|value| value.is_finite()), self.missing) {
            (None, Missing::Zero) => Some(0.0),
            (value, _) => value,
        }
    }
}
