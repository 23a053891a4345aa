//! What is shown of a score, in a form that is small to keep and to send.
//!
//! In: the scores of a window's measures. Out: the [`WindowScore`] of documents, made when one is written; and
//! [`ScoreUpdate`]s for the live state.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::ScoredMeasure;
use crate::detect::Part;
use crate::output::{MeasureScore, WindowScore};
use crate::rules::severity_level;
use crate::time::{Millis, Tick};
use crate::view::{Key, ViewId};

/// Reasons named of a measure.
pub(super) const REASONS: usize = 3;

/// A window's score with its explanation: 64 bytes a measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownScore {
    /// 0 to 100.
    pub score: u8,
    /// There is too little history to judge by.
    pub learning: bool,
    /// A partition could not be read at that time.
    pub stalled: bool,
    /// The measures that it is made of, the most unusual first.
    pub measures: Box<[ShownMeasure]>,
}

/// How unusual a measure of a window is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownMeasure {
    /// What was measured.
    pub measure: ScoredMeasure,
    /// 0 to 100.
    pub score: u8,
    /// The value.
    pub actual: f64,
    /// What the windows before let expect.
    pub expected: f64,
    /// The lower end of what is usual.
    pub low: f64,
    /// The upper end of what is usual.
    pub high: f64,
    /// The share of earlier windows that were at least as unusual.
    pub rarity: f64,
    /// The ways in which it is unusual, the most unusual first.
    pub reasons: [Option<Part>; REASONS],
}

/// What documents say, shared by all of them.
struct Texts {
    /// By measure, its name.
    measures: [Arc<str>; ScoredMeasure::ALL.len()],
    /// By part, what it says.
    reasons: [Arc<str>; Part::ALL.len()],
    /// What is said of a pattern that is new.
    never_before: Arc<str>,
    /// By score, the name of its range.
    levels: Vec<Arc<str>>,
}

static TEXTS: LazyLock<Texts> = LazyLock::new(|| Texts {
    measures: ScoredMeasure::ALL.map(|measure| measure.name().into()),
    reasons: Part::ALL.map(|part| part.describe().into()),
    never_before: "never seen before".into(),
    levels: (0..=100).map(|score| severity_level(score).into()).collect(),
});

impl Texts {
    fn name_of(&self, measure: ScoredMeasure) -> Arc<str> {
        let place = ScoredMeasure::ALL.iter().position(|known| *known == measure);
        place.map_or_else(|| measure.name().into(), |place| self.measures[place].clone())
    }
}

impl ShownScore {
    /// As it is in documents.
    pub fn document(&self) -> WindowScore {
        let texts = &*TEXTS;
        let measures = self.measures.iter().map(|of| MeasureScore {
            measure: texts.name_of(of.measure),
            score: of.score,
            actual: Some(of.actual),
            expected: of.expected,
            low: of.low,
            high: of.high,
            rarity: of.rarity,
            reasons: match of.measure {
                ScoredMeasure::New => vec![texts.never_before.clone()],
                _ => of.reasons.iter().flatten().map(|part| texts.reasons[*part as usize].clone()).collect(),
            },
        });
        WindowScore {
            score: self.score,
            level: texts.levels[usize::from(self.score.min(100))].clone(),
            learning: self.learning,
            stalled: self.stalled,
            measures: measures.collect(),
            offsets: Vec::new(),
        }
    }

    /// A hash of all of it; never 0.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = FixedState::with_seed(2).build_hasher();
        (self.score, self.learning, self.stalled, self.measures.len()).hash(&mut hasher);
        for of in &self.measures {
            (of.measure, of.score, of.reasons.map(|part| part.map(|part| part as u8))).hash(&mut hasher);
            for number in [of.actual, of.expected, of.low, of.high, of.rarity] {
                number.to_bits().hash(&mut hasher);
            }
        }
        hasher.finish() | 1
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.measures)
    }
}

/// What is shown of the score of a window of a key from a tick on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreUpdate {
    /// The view.
    pub view: ViewId,
    /// The start of the window.
    pub window: Millis,
    /// The key.
    pub key: Key,
    /// It is part of the state as of this tick, and was not as of the one before.
    pub from: Tick,
    /// The window has no records: there is a document for its score's sake.
    pub is_silent: bool,
    /// The score; `None` where there is no document any more.
    pub score: Option<Arc<ShownScore>>,
}
