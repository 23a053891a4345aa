//! What a key's windows have taught, and what the next one does to it.

use serde::{Deserialize, Serialize};

use super::plan::{Plan, SLEEP_AFTER};
use crate::detect::{Baseline, Scored};

/// What all windows of a key before one have taught: a fold over them, the same however it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// The first window that is not learned.
    pub next: u64,
    /// The last window that had records; `None` before the first one, and when all is forgotten.
    pub last: Option<u64>,
    /// By measure, in the order of the view.
    pub baselines: Vec<Baseline>,
}

impl Learned {
    /// Nothing.
    pub fn nothing(plan: &Plan) -> Self {
        Self { next: 0, last: None, baselines: plan.baselines() }
    }

    /// Whether a window without records means something: the key has had some, and not too long ago.
    pub fn is_awake(&self, window: u64) -> bool {
        self.last.is_some_and(|last| window <= last + SLEEP_AFTER)
    }

    /// Learns the next window, with the values of its measures (not a number where it has none) if it has records.
    /// `stalled` says that it lacks some which may be there.
    pub fn learn(&mut self, plan: &Plan, values: Option<&[f64]>, stalled: bool) {
        let start = plan.start_of(self.next);
        if values.is_some() || self.is_awake(self.next) {
            for (place, of) in self.baselines.iter_mut().enumerate() {
                match values.map(|values| values[place]) {
                    value if stalled && of.is_unknown(value) => of.pass(start),
                    value => of.learn(start, value),
                }
            }
        }
        if values.is_some() {
            self.last = Some(self.next);
        }
        self.next += 1;
        self.forget(plan);
    }

    /// Scores the next window and learns it, at the price of one.
    pub fn step(&mut self, plan: &Plan, values: Option<&[f64]>, stalled: bool) -> Vec<Scored> {
        let start = plan.start_of(self.next);
        let each = self.baselines.iter_mut().enumerate();
        let step = |(place, of): (usize, &mut Baseline)| match values.map(|values| values[place]) {
            value if stalled && of.is_unknown(value) => {
                of.pass(start);
                of.unjudged()
            }
            value => of.step(start, value),
        };
        let scored = each.map(step).collect();
        if values.is_some() {
            self.last = Some(self.next);
        }
        self.next += 1;
        self.forget(plan);
        scored
    }

    /// Scores a window.
    pub fn score(&self, plan: &Plan, window: u64, values: Option<&[f64]>, stalled: bool) -> Vec<Scored> {
        let start = plan.start_of(window);
        let score = |(place, of): (usize, &Baseline)| match values.map(|values| values[place]) {
            value if stalled && of.is_unknown(value) => of.unjudged(),
            value => of.score(start, value),
        };
        self.baselines.iter().enumerate().map(score).collect()
    }

    /// Passes windows without records, none of which means anything.
    pub fn skip_to(&mut self, plan: &Plan, window: u64) {
        debug_assert!(!self.is_awake(self.next));
        self.next = self.next.max(window);
        self.forget(plan);
    }

    fn forget(&mut self, plan: &Plan) {
        if self.last.is_some_and(|last| plan.is_forgotten(last, self.next)) {
            self.last = None;
            self.baselines = plan.baselines();
        }
    }
}
