//! The parts of a score: what is looked at, each by a number that is larger the more unusual the window is.

use serde::{Deserialize, Serialize};

/// How many parts there are.
pub(super) const PARTS: usize = 14;

/// A way to be unusual. Numbers in names are windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Far from the level of the last 12 windows.
    Spike12,
    /// Far from the level of the last 192 windows.
    Spike192,
    /// Far from the level of the last 768 windows.
    Spike768,
    /// Far from what this hour of the day and of the week lets expect.
    Season,
    /// The level of the last 4 windows is far from that of 48.
    Shift4,
    /// The level of the last 12 windows is far from that of 192.
    Shift12,
    /// The level of the last 48 windows is far from that of 768.
    Shift48,
    /// The level of the last 192 windows is far from that of 3,072.
    Shift192,
    /// Outside all values seen.
    Extreme,
    /// A step between two levels that rarely follow each other.
    Transition,
    /// Moves more, or less, than it used to, over 12 windows.
    Unrest12,
    /// Moves more, or less, than it used to, over 96 windows.
    Unrest96,
    /// A large step from the window before.
    Jump,
    /// For about an hour's worth of windows, away from what the hour lets expect.
    SeasonShift,
}

impl Part {
    /// All parts, in the order of their numbers.
    pub const ALL: [Part; PARTS] = [
        Part::Spike12,
        Part::Spike192,
        Part::Spike768,
        Part::Season,
        Part::Shift4,
        Part::Shift12,
        Part::Shift48,
        Part::Shift192,
        Part::Extreme,
        Part::Transition,
        Part::Unrest12,
        Part::Unrest96,
        Part::Jump,
        Part::SeasonShift,
    ];

    /// What it says, as the end of a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Part::Spike12 => "far from the level of the last 12 windows",
            Part::Spike192 => "far from the level of the last 192 windows",
            Part::Spike768 => "far from the level of the last 768 windows",
            Part::Season => "far from what is usual at this hour",
            Part::Shift4 => "the level of the last 4 windows moved",
            Part::Shift12 => "the level of the last 12 windows moved",
            Part::Shift48 => "the level of the last 48 windows moved",
            Part::Shift192 => "the level of the last 192 windows moved",
            Part::Extreme => "outside all values seen before",
            Part::Transition => "a step between levels that rarely follow each other",
            Part::Unrest12 => "more or less unrest than usual over the last 12 windows",
            Part::Unrest96 => "more or less unrest than usual over the last 96 windows",
            Part::Jump => "a large step from the window before",
            Part::SeasonShift => "away from what is usual at this hour for the last 12 windows",
        }
    }
}
