//! Versions of documents that are written again: the greater one wins.
//!
//! The term is the number of the start that writes, and stands above the tick: what a start writes replaces what earlier
//! ones wrote, and of its own documents the one of the later tick holds.

use floodmark_dataflows::time::Millis;

/// The number of a start: higher than those of all starts before it. Runs apart from the live one have 0.
pub type Term = u64;

/// The place of the tick in a version; a tick of 10 ms fits until the year 7,500.
const TICK_BITS: u32 = 44;

/// The highest term: versions have 63 bits in Elasticsearch.
pub const MAX_TERM: Term = (1 << (63 - TICK_BITS)) - 1;

/// Gives the versions of a start.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    term: Term,
    tick_ms: u64,
}

impl Versions {
    /// Of the start with this term. `tick_ms` is the step of the event clock.
    pub fn new(term: Term, tick_ms: u64) -> Self {
        Self { term: term.min(MAX_TERM), tick_ms: tick_ms.max(1) }
    }

    /// The version of what is so as of a time: `term << 44 | as_of tick`.
    pub fn at(self, as_of: Millis) -> u64 {
        self.term << TICK_BITS | (as_of / self.tick_ms)
    }
}

/// The term of a version.
pub fn term_of(version: u64) -> Term {
    version >> TICK_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_wins_over_any_tick() {
        let version = |term, as_of| Versions::new(term, 1_000).at(as_of);
        assert!(version(2, 0) > version(1, 4_000_000_000_000));
        assert!(version(1, 2_000) > version(1, 1_000));
        assert_eq!(term_of(version(7, 1_000)), 7);
        assert!(i64::try_from(version(u64::MAX, 4_000_000_000_000)).is_ok(), "Elasticsearch has 63 bits");
    }
}
