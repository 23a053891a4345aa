//! Up to which offset everything of a partition is stored, although batches are acknowledged out of order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use floodmark_dataflows::input::PartitionInfo;
use parking_lot::Mutex;

use crate::sources::Positions;

/// The acknowledgements of all partitions of this process.
#[derive(Debug, Default)]
pub(super) struct AckTracker {
    partitions: Mutex<BTreeMap<Arc<PartitionInfo>, Arc<PartitionAcks>>>,
}

impl AckTracker {
    /// The acknowledgements of a partition; always the same ones for the same partition.
    pub(super) fn partition(&self, partition: &Arc<PartitionInfo>) -> Arc<PartitionAcks> {
        self.partitions.lock().entry(partition.clone()).or_default().clone()
    }

    /// Whether everything of a partition before this offset is stored. Nothing was handed in of one that is not known.
    pub(super) fn is_stored(&self, partition: &PartitionInfo, next_offset: u64) -> bool {
        let known = self.partitions.lock().get(partition).cloned();
        known.is_none_or(|acks| acks.position().is_some_and(|position| position >= next_offset))
    }

    /// How many documents of a partition before an offset the store refused.
    pub(super) fn refused_before(&self, partition: &PartitionInfo, offset: u64) -> u64 {
        let acks = self.partitions.lock().get(partition).cloned();
        acks.map_or(0, |acks| acks.state.lock().refused_before(offset))
    }

    /// Keeps of the refused documents of a partition before an offset only how many they are.
    pub(super) fn settle_refused(&self, partition: &PartitionInfo, offset: u64) {
        let acks = self.partitions.lock().get(partition).cloned();
        if let Some(acks) = acks {
            acks.state.lock().settle_refused(offset);
        }
    }

    /// Where each partition stands: everything before is stored. Partitions of which nothing is known yet are left out.
    pub(super) fn positions(&self) -> Positions {
        let partitions = self.partitions.lock();
        let known = partitions.iter().filter_map(|(info, acks)| Some((PartitionInfo::clone(info), acks.position()?)));
        known.collect()
    }
}

/// What was handed in of one partition and is not known to be stored with all before it, in offset order.
#[derive(Debug, Default)]
pub(super) struct PartitionAcks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    position: Option<u64>,
    /// Offsets of documents that the store refused.
    refused: BTreeSet<u64>,
    /// Refused documents before all of these, whose offsets nobody asks for any more.
    settled: u64,
    pending: VecDeque<Pending>,
    /// The ticket of the first of `pending`.
    first_ticket: u64,
}

#[derive(Debug)]
struct Pending {
    next_offset: u64,
    stored: bool,
}

impl State {
    fn refused_before(&self, offset: u64) -> u64 {
        self.settled + self.refused.range(..offset).count() as u64
    }

    fn settle_refused(&mut self, offset: u64) {
        let later = self.refused.split_off(&offset);
        self.settled += std::mem::replace(&mut self.refused, later).len() as u64;
    }
}

impl PartitionAcks {
    /// Notes that a batch is under way which ends before `next_offset`. The ticket is for [`PartitionAcks::stored`].
    pub(super) fn hand_in(&self, next_offset: u64) -> u64 {
        let mut state = self.state.lock();
        state.pending.push_back(Pending { next_offset, stored: false });
        state.first_ticket + state.pending.len() as u64 - 1
    }

    /// Notes that everything before `next_offset` was handed in, and that what follows the last batch needs no storing.
    pub(super) fn pass(&self, next_offset: u64) {
        let mut state = self.state.lock();
        match state.pending.back_mut() {
            Some(last) => last.next_offset = last.next_offset.max(next_offset),
            None => state.position = state.position.max(Some(next_offset)),
        }
    }

    /// Notes that a batch is stored.
    pub(super) fn stored(&self, ticket: u64) {
        let mut state = self.state.lock();
        let place = (ticket - state.first_ticket) as usize;
        state.pending[place].stored = true;
        while state.pending.front().is_some_and(|first| first.stored) {
            if let Some(first) = state.pending.pop_front() {
                state.position = state.position.max(Some(first.next_offset));
                state.first_ticket += 1;
            }
        }
    }

    /// Notes that the store refused the document of an offset.
    pub(super) fn refuse(&self, offset: u64) {
        self.state.lock().refused.insert(offset);
    }

    /// Everything before this offset is stored.
    pub(super) fn position(&self) -> Option<u64> {
        self.state.lock().position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_the_stored_prefix() {
        let acks = PartitionAcks::default();
        assert_eq!(acks.position(), None);
        acks.pass(5);
        assert_eq!(acks.position(), Some(5));
        let tickets: Vec<u64> = [10, 20, 30].into_iter().map(|next| acks.hand_in(next)).collect();
        acks.stored(tickets[2]);
        acks.stored(tickets[1]);
        assert_eq!(acks.position(), Some(5), "the first batch is not stored");
        acks.stored(tickets[0]);
        assert_eq!(acks.position(), Some(30));
        let ticket = acks.hand_in(40);
        acks.pass(44);
        assert_eq!(acks.position(), Some(30), "what follows a batch waits for it");
        acks.stored(ticket);
        assert_eq!(acks.position(), Some(44));
    }

    #[test]
    fn refused_documents_are_counted_after_their_offsets_are_forgotten() {
        let tracker = AckTracker::default();
        let partition = Arc::new(PartitionInfo { topic: "t".into(), identity: "t".into(), number: 0 });
        let acks = tracker.partition(&partition);
        for offset in [3, 7, 8, 20] {
            acks.refuse(offset);
        }
        assert_eq!(tracker.refused_before(&partition, 8), 2);
        tracker.settle_refused(&partition, 8);
        assert_eq!(acks.state.lock().refused.len(), 2);
        let counts = [8, 9, 21].map(|offset| tracker.refused_before(&partition, offset));
        assert_eq!(counts, [2, 3, 4]);
    }
}
