//! Marks of the run before, for what it had read behind the checkpoint.
//!
//! They do again what they did: a hold is taken before the first record behind its mark, and a record is judged by the
//! first mark that covers it. Once they are used up, the partition lives on with marks of its own.

use super::Partition;
use crate::cuts::Gate;
use crate::input::Batch;
use crate::time::Tick;

impl<B: Batch> Partition<B> {
    /// Applies the marks up to where the partition stands. Returns whether it may be read on: not where a checkpoint
    /// comes between.
    pub(super) fn replay(&mut self, gate: &mut Gate, last_cut: Tick) -> bool {
        let at = match &self.batch {
            Some(batch) => batch.current().map(|raw| raw.offset).unwrap_or_else(|| batch.next_offset()),
            None => self.next_offset,
        };
        while let Some(mark) = self.marks.front().copied().filter(|mark| mark.next_offset <= at) {
            if !self.raise_hold((mark.hold, mark.away), mark.next_offset, gate, last_cut) {
                return false;
            }
            self.marks.pop_front();
        }
        true
    }
}
