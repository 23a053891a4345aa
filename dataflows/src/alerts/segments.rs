//! The facts of a key to its segments: the times at which it is conspicuous.
//!
//! A segment begins with the first of `for` consecutive windows that meet the condition, goes on with each one that does,
//! and is over when `close_after` consecutive windows did not. Where nothing is known of a window, it does not.
//!
//! It is a fold over the windows in order of time. Windows that are gone cannot change any more, so the fold over them is
//! kept in their place: a key that never calms down needs no more memory for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Alert;
use super::facts::Fact;
use crate::output::Evidence;
use crate::time::Millis;

/// A window of a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The start of the window.
    pub start: Millis,
    /// The value that the condition is about.
    pub value: f64,
    /// The window's score as JSON.
    pub score: Option<Arc<str>>,
    /// What it takes to derive the window again.
    pub evidence: Option<Arc<Evidence>>,
}

impl Point {
    fn of(start: Millis, fact: &Fact) -> Self {
        Self { start, value: fact.value, score: fact.score.clone(), evidence: fact.evidence.clone() }
    }
}

/// A time at which a key is conspicuous.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its first window.
    pub first: Point,
    /// Its strongest window, the earliest of equal ones.
    pub strongest: Point,
    /// The start of its last window that meets the condition.
    pub last: Millis,
    /// The number of windows that meet it.
    pub windows: u32,
    /// How often late records corrected them.
    pub revision: u32,
    /// From which time on all that was known.
    pub as_of: Millis,
}

impl Segment {
    fn of(run: &[(Millis, Fact)], alert: &Alert) -> Option<Self> {
        let ((start, fact), rest) = run.split_first()?;
        let first = Point::of(*start, fact);
        let strongest = first.clone();
        let (revision, as_of) = (fact.revision, fact.as_of);
        let mut segment = Self { first, strongest, last: *start, windows: 1, revision, as_of };
        for (start, fact) in rest {
            segment.extend(*start, fact, alert);
        }
        Some(segment)
    }

    fn extend(&mut self, start: Millis, fact: &Fact, alert: &Alert) {
        if is_stronger(alert, fact.value, self.strongest.value) {
            self.strongest = Point::of(start, fact);
        }
        self.last = start;
        self.windows += 1;
        self.revision += fact.revision;
        self.as_of = self.as_of.max(fact.as_of);
    }
}

/// Whether a value says more than another.
pub(super) fn is_stronger(alert: &Alert, value: f64, than: f64) -> bool {
    if alert.condition().is_upward() { value > than } else { value < than }
}

/// The fold over the windows of a key up to some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// Consecutive windows that meet the condition, too few for a segment.
    run: Vec<(Millis, Fact)>,
    /// The segment that may go on.
    segment: Option<Segment>,
}

impl Fold {
    /// Takes the next window that meets the condition. Gives the segment that is over by it.
    fn push(&mut self, start: Millis, fact: &Fact, alert: &Alert) -> Option<Segment> {
        if let Some(segment) = &mut self.segment {
            let quiet = (start - segment.last) / alert.slide_ms - 1;
            if quiet < u64::from(alert.close_after) {
                segment.extend(start, fact, alert);
                return None;
            }
        }
        let over = self.segment.take();
        if self.run.last().is_some_and(|(last, _)| last + alert.slide_ms != start) {
            self.run.clear();
        }
        self.run.push((start, fact.clone()));
        if self.run.len() >= alert.for_windows as usize {
            self.segment = Segment::of(&std::mem::take(&mut self.run), alert);
        }
        over
    }

    fn is_empty(&self) -> bool {
        self.run.is_empty() && self.segment.is_none()
    }
}

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// The fold over the windows that are gone.
    gone: Fold,
    /// Segments among these that are over, oldest first.
    past: Vec<Segment>,
    /// The windows after them that meet the condition, by start.
    facts: BTreeMap<Millis, Fact>,
}

impl KeyFacts {
    /// Takes what is known of a window now. Says whether that is news.
    pub fn set(&mut self, start: Millis, fact: Option<Fact>) -> bool {
        match fact {
            Some(fact) if self.facts.get(&start) == Some(&fact) => false,
            Some(fact) => {
                self.facts.insert(start, fact);
                true
            }
            None => self.facts.remove(&start).is_some(),
        }
    }

    /// All segments that are known, oldest first.
    pub fn segments(&self, alert: &Alert) -> Vec<Segment> {
        let mut fold = self.gone.clone();
        let mut segments = self.past.clone();
        for (start, fact) in &self.facts {
            segments.extend(fold.push(*start, fact, alert));
        }
        segments.extend(fold.segment);
        segments
    }

    /// The time at which the next window is gone.
    pub fn next_gone(&self, alert: &Alert) -> Option<Millis> {
        self.facts.keys().next().map(|start| alert.gone_at(*start))
    }

    /// Folds the windows that are gone at `now`. Changes nothing of the segments.
    pub fn let_go(&mut self, alert: &Alert, now: Millis) {
        while let Some(entry) = self.facts.first_entry()
            && alert.gone_at(*entry.key()) <= now
        {
            let (start, fact) = entry.remove_entry();
            self.past.extend(self.gone.push(start, &fact, alert));
        }
        // The window after it did not meet the condition and never will.
        if self.gone.run.last().is_some_and(|(last, _)| alert.gone_at(last + alert.slide_ms) <= now) {
            self.gone.run.clear();
        }
    }

    /// Forgets the segment that begins here, of which nothing is to be said any more.
    pub fn forget(&mut self, start: Millis) {
        self.past.retain(|segment| segment.first.start != start);
        if self.gone.segment.as_ref().is_some_and(|segment| segment.first.start == start) {
            self.gone.segment = None;
        }
    }

    /// How many windows are remembered one by one.
    #[cfg(test)]
    pub(super) fn facts(&self) -> usize {
        self.facts.len()
    }

    /// What is known of a window.
    pub(super) fn fact(&self, start: Millis) -> Option<&Fact> {
        self.facts.get(&start)
    }

    /// What is known of windows that are gone, if anything is.
    pub(super) fn gone(&self) -> Option<(&Fold, &[Segment])> {
        (!self.gone.is_empty() || !self.past.is_empty()).then_some((&self.gone, &self.past))
    }

    /// Puts back what was known of windows that are gone.
    pub(super) fn restore(&mut self, gone: Fold, past: Vec<Segment>) {
        (self.gone, self.past) = (gone, past);
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.past.is_empty() && self.facts.is_empty()
    }
}
