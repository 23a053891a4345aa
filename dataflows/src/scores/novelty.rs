//! Patterns that were never there before, and how often that happens.
//!
//! In: the keys of windows that are gone, window by window. Out: how unusual it is that a key comes for the first time,
//! by how often its group (the rest of the key: a service, say) got new patterns before. Nothing here fails.
//!
//! Only windows count that are gone when the scored one closes. No late record changes those any more, so what they say
//! of a window never changes, whatever is corrected, and no correction of one key reaches another. The price: what was
//! new within the last `retention` does not make further news less of a surprise.
//!
//! A group is known in lives: from its first window with records to the last, ended by silence for `forget_after`. News
//! of the first 144 windows of a life are not counted, and none is judged by then: everything is new at first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::plan::{Plan, rounded};
use crate::detect::Scored;
use crate::view::{Key, OTHER, around};

/// Windows of a life in which everything is new.
const LEARNING: u64 = 144;
/// The newest windows with news that are counted: if there are more, they are that often.
const COUNTED: usize = 256;

/// The past of a group, of windows that are gone. At most 2 KiB and 8 bytes for each window of the retention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The first and the last window with records of each life, ascending.
    lives: VecDeque<(u64, u64)>,
    /// Windows in which a pattern was new, ascending.
    news: VecDeque<u64>,
}

/// The pasts of all groups of a view on a worker.
#[derive(Debug)]
pub(super) struct Novelties {
    /// The place of the pattern among the values of a key.
    place: usize,
    groups: BTreeMap<Key, Past>,
    /// Groups that changed since the last cut.
    changed: BTreeSet<Key>,
    /// The first window that did not pass.
    next: u64,
}

impl Past {
    /// A window that is gone had records, and a pattern that was not there before if `is_new`.
    fn pass(&mut self, plan: &Plan, window: u64, is_new: bool) {
        match self.lives.back_mut() {
            Some(life) if window <= life.1 + plan.forget_after => life.1 = window,
            _ => self.lives.push_back((window, window)),
        }
        let born = self.lives.back().map_or(window, |life| life.0);
        if is_new && window >= born + LEARNING {
            self.news.push_back(window);
        }
        // What no window that may still be scored looks at.
        let oldest = window.saturating_sub(plan.retained() + 1);
        let seen = self.news.partition_point(|at| *at < oldest);
        let counted_from = oldest.saturating_sub(plan.forget_after);
        let few = seen.saturating_sub(COUNTED).max(self.news.partition_point(|at| *at < counted_from));
        self.news.drain(..few);
        while self.lives.len() > 1 && self.lives[0].1 + plan.forget_after < oldest {
            self.lives.pop_front();
        }
    }

    /// How many windows with news a window lets expect, by what was before `horizon`; `None` if too little was.
    fn expected(&self, plan: &Plan, window: u64, horizon: u64) -> Option<f64> {
        let &(born, last) = self.lives.iter().rfind(|life| life.0 < horizon)?;
        if horizon > last.saturating_add(plan.forget_after) || window < born + LEARNING {
            return None;
        }
        let from = born.max(horizon.saturating_sub(plan.forget_after));
        let all = self.news.partition_point(|at| *at < from)..self.news.partition_point(|at| *at < horizon);
        // More than are counted: since the oldest of them.
        let (from, count) = match all.len() {
            COUNTED.. => (self.news[all.end - COUNTED], COUNTED),
            fewer => (from, fewer),
        };
        Some(rounded((count + 1) as f64 / (window - from) as f64, 3))
    }

    /// The last window with records.
    pub fn last(&self) -> u64 {
        self.lives.back().map_or(0, |life| life.1)
    }
}

impl Novelties {
    pub fn new(place: usize) -> Self {
        Self { place, groups: BTreeMap::new(), changed: BTreeSet::new(), next: 0 }
    }

    /// The first window that did not pass.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the keys of the next windows that are gone. `last_before` says when a key had records before the first of
    /// them at the latest.
    pub fn pass(
        &mut self,
        plan: &Plan,
        windows: &BTreeMap<u64, BTreeSet<Key>>,
        last_before: impl Fn(&Key, u64) -> Option<u64>,
    ) {
        let first = self.next;
        let mut passed: BTreeMap<&Key, u64> = BTreeMap::new();
        for (&window, keys) in windows {
            let mut groups: BTreeMap<Key, bool> = BTreeMap::new();
            for key in keys {
                let last = passed.insert(key, window).or_else(|| last_before(key, first));
                let is_new = last.is_none_or(|last| plan.is_forgotten(last, window)) && !self.is_other(key);
                *groups.entry(self.group(key)).or_default() |= is_new;
            }
            for (group, is_new) in groups {
                self.groups.entry(group.clone()).or_default().pass(plan, window, is_new);
                self.changed.insert(group);
            }
        }
    }

    /// Windows before `next` have passed.
    pub fn passed(&mut self, plan: &Plan, next: u64) {
        self.next = self.next.max(next);
        let oldest = self.next.saturating_sub(plan.retained() + 1);
        self.groups.retain(|_, past| past.last() + plan.forget_after >= oldest);
    }

    /// The score of a window in which a key comes for the first time; `None` for what is counted together.
    pub fn judge(&self, plan: &Plan, key: &Key, window: u64) -> Option<Scored> {
        if self.is_other(key) {
            return None;
        }
        let horizon = plan.gone_before(plan.start_of(window) + plan.width_ms());
        let past = self.groups.get(&self.group(key));
        let expected = past.and_then(|past| past.expected(plan, window, horizon));
        Some(Scored::never_before(expected.unwrap_or(1.0), plan.slide_ms(), expected.is_none()))
    }

    /// The pasts that changed since the last call.
    pub fn cut(&mut self) -> Vec<(Key, Past)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|group| Some((group.clone(), self.groups.get(&group)?.clone()))).collect()
    }

    /// Puts back the past of a group.
    pub fn restore(&mut self, group: Key, past: Past) {
        self.groups.insert(group, past);
    }

    /// The key without its pattern.
    fn group(&self, key: &Key) -> Key {
        let (before, after) = around(key, self.place);
        Key(format!("{before}{after}").into())
    }

    fn is_other(&self, key: &Key) -> bool {
        key.0.split('/').nth(self.place) == Some(OTHER)
    }
}
