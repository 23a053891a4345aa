//! Where each partition stands: of this process, written by the workers; of the others, as they told last.
//! Read by the API and the metrics.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use floodmark_dataflows::checkpoint::{PartitionCut, Restored};
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::PartitionProgress;
use floodmark_dataflows::time::{Millis, Tick};
use parking_lot::Mutex;

use crate::sources::Positions;

/// The state of this process's partitions and of its workers' frontiers, and what other processes told of theirs.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    partitions: Mutex<BTreeMap<Arc<PartitionInfo>, PartitionState>>,
    /// Those that an earlier run read and none joined again, as a checkpoint has them: their accounts stand.
    former: Mutex<BTreeMap<Arc<PartitionInfo>, PartitionState>>,
    frontiers: Mutex<BTreeMap<usize, Tick>>,
    paths: Mutex<BTreeMap<Arc<str>, String>>,
    indexed_through_ms: AtomicU64,
    peers: Mutex<BTreeMap<usize, ProgressSnapshot>>,
}

/// A partition on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The worker that reads it, among all workers of all processes.
    pub worker: usize,
    /// Where it stands.
    pub progress: PartitionProgress,
    /// The offset at its end as last seen; `None` while unknown.
    pub end: Option<u64>,
    /// Everything before this offset is stored, or needs no storing.
    pub acknowledged: Option<u64>,
    /// Documents before `progress.next_offset` that the store refused in this run.
    pub refused: u64,
}

impl PartitionState {
    /// How far reading is behind the end: records for Kafka, bytes for files.
    pub fn lag(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.progress.next_offset))
    }

    /// The tick up to which it lets the frontier go.
    pub fn allows(&self) -> Tick {
        self.progress.clock.unwrap_or(0).max(self.progress.hold)
    }
}

/// A copy of the board.
#[derive(Clone, Debug, Default)]
pub struct ProgressSnapshot {
    /// In order of topic identity and number.
    pub partitions: Vec<(Arc<PartitionInfo>, PartitionState)>,
    /// The frontier as each worker knows it, in ticks.
    pub frontiers: BTreeMap<usize, Tick>,
    /// Where the partitions stand that are files, by identity.
    pub paths: BTreeMap<Arc<str>, String>,
    /// Every log document with an event-clock timestamp before this is searchable, in milliseconds.
    pub indexed_through: Option<Millis>,
}

impl ProgressSnapshot {
    /// The frontier that every worker has reached.
    pub fn frontier(&self) -> Option<Tick> {
        self.frontiers.values().copied().min()
    }

    /// The partition that holds the frontier back: of those that may still bring something the one whose clock and
    /// hold let it go the least far. `None` when all have ended.
    pub fn holder(&self) -> Option<&Arc<PartitionInfo>> {
        let active = self.partitions.iter().filter(|(_, state)| !state.progress.ended);
        active.min_by_key(|(_, state)| state.allows()).map(|(partition, _)| partition)
    }
}

impl ProgressBoard {
    /// Notes the partitions of a checkpoint, as ended and stored. On one process of a cluster only.
    pub fn restore(&self, restored: &Restored) {
        let cuts = restored.partitions.values().filter_map(|start| start.cut.as_ref());
        let state = |cut: &PartitionCut| {
            let PartitionCut { next_offset, clock, hold, ledger, .. } = *cut;
            let progress =
                PartitionProgress { next_offset, clock, hold, ledger, ended: true, ..PartitionProgress::default() };
            let acknowledged = Some(next_offset);
            let state = PartitionState { worker: 0, progress, end: None, acknowledged, refused: 0 };
            (Arc::new(cut.partition.clone()), state)
        };
        self.former.lock().extend(cuts.map(state));
    }

    /// Notes where a partition stands.
    pub fn update(&self, worker: usize, partition: &Arc<PartitionInfo>, progress: PartitionProgress) {
        self.former.lock().remove(partition);
        let mut partitions = self.partitions.lock();
        match partitions.get_mut(partition) {
            Some(state) => (state.worker, state.progress) = (worker, progress),
            None => {
                let state = PartitionState { worker, progress, end: None, acknowledged: None, refused: 0 };
                partitions.insert(partition.clone(), state);
            }
        }
    }

    /// Notes the ends of partitions. Partitions that no worker has reported on yet are passed over.
    pub fn set_ends<'a>(&self, ends: impl IntoIterator<Item = (&'a PartitionInfo, &'a u64)>) {
        let mut partitions = self.partitions.lock();
        for (partition, &end) in ends {
            if let Some(state) = partitions.get_mut(partition) {
                state.end = Some(end);
            }
        }
    }

    /// Notes where the partitions stand that are files, by identity.
    pub fn set_paths(&self, paths: BTreeMap<Arc<str>, String>) {
        *self.paths.lock() = paths;
    }

    /// Notes up to where partitions are stored, and by `refused(partition, offset)` how many documents before an offset
    /// the store refused in this run.
    pub fn set_stored(&self, acknowledged: &Positions, refused: impl Fn(&PartitionInfo, u64) -> u64) {
        for (partition, state) in self.partitions.lock().iter_mut() {
            state.acknowledged = acknowledged.get(&**partition).copied().or(state.acknowledged);
            state.refused = refused(partition, state.progress.ledger.next_offset);
        }
    }

    /// Notes the frontier as a worker knows it.
    pub fn set_frontier(&self, worker: usize, frontier: Tick) {
        self.frontiers.lock().insert(worker, frontier);
    }

    /// The frontier as a worker of this process knows it.
    pub fn frontier_of(&self, worker: usize) -> Option<Tick> {
        self.frontiers.lock().get(&worker).copied()
    }

    /// Notes that every log document with an event-clock timestamp before `ms` is searchable.
    pub fn set_indexed_through(&self, ms: Millis) {
        self.indexed_through_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Every log document with an event-clock timestamp before this is searchable, in milliseconds.
    pub fn indexed_through(&self) -> Option<Millis> {
        Some(self.indexed_through_ms.load(Ordering::Relaxed)).filter(|&ms| ms > 0)
    }

    /// Notes what another process tells of its partitions and workers.
    pub fn set_peer(&self, process: usize, told: ProgressSnapshot) {
        self.former.lock().retain(|partition, _| !told.partitions.iter().any(|(other, _)| other == partition));
        self.peers.lock().insert(process, told);
    }

    /// A copy of all, with what other processes told last.
    pub fn of_all_processes(&self) -> ProgressSnapshot {
        let mut all = self.snapshot();
        for told in self.peers.lock().values() {
            all.partitions.extend(told.partitions.iter().cloned());
            all.frontiers.extend(&told.frontiers);
            all.paths.extend(told.paths.iter().map(|(identity, path)| (identity.clone(), path.clone())));
            all.indexed_through = all.indexed_through.zip(told.indexed_through).map(|(own, told)| own.min(told));
        }
        sort(&mut all.partitions);
        // One that joined elsewhere stands twice until that is known to the process that restored it.
        all.partitions.dedup_by(|(later, _), (first, _)| later == first);
        all
    }

    /// A copy of what is this process's own.
    pub fn snapshot(&self) -> ProgressSnapshot {
        // First: what a worker read before it saw a frontier is then among the positions.
        let frontiers = self.frontiers.lock().clone();
        let former = self.former.lock();
        let joined = self.partitions.lock();
        let mut partitions: Vec<_> = former.iter().chain(&*joined).map(|(p, state)| (p.clone(), *state)).collect();
        sort(&mut partitions);
        let paths = self.paths.lock().clone();
        ProgressSnapshot { partitions, frontiers, paths, indexed_through: self.indexed_through() }
    }
}

/// By name; of two states of a partition, the one of the run comes first.
fn sort(partitions: &mut [(Arc<PartitionInfo>, PartitionState)]) {
    partitions.sort_by_key(|(partition, PartitionState { progress, .. })| {
        let PartitionInfo { topic, identity, number } = (**partition).clone();
        (topic, number, identity, Reverse(progress.next_offset), progress.ended)
    });
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::checkpoint::PartitionStart;
    use floodmark_dataflows::ledger::Ledger;

    use super::*;

    fn partition(number: i32) -> Arc<PartitionInfo> {
        Arc::new(PartitionInfo { topic: "t".into(), identity: "t".into(), number })
    }

    #[test]
    fn the_slowest_partition_that_may_bring_more_holds_the_frontier() {
        let board = ProgressBoard::default();
        let at = |clock, hold, ended| PartitionProgress { clock, hold, ended, ..Default::default() };
        board.update(0, &partition(0), at(Some(50), 0, false));
        board.update(1, &partition(1), at(Some(10), 60, false));
        board.update(0, &partition(2), at(Some(5), 0, true));
        assert_eq!(board.snapshot().holder().map(|p| p.number), Some(0));
        board.update(0, &partition(3), at(None, 0, false));
        assert_eq!(board.snapshot().holder().map(|p| p.number), Some(3));
    }

    /// A checkpoint that has partitions 0 and 1 up to offset 5.
    fn restored() -> Restored {
        let cut = |number| {
            let mut ledger = Ledger::default();
            ledger.lose(2, 5);
            let partition = (*partition(number)).clone();
            let cut = PartitionCut {
                partition: partition.clone(),
                next_offset: 5,
                clock: None,
                hold: 0,
                outages: Vec::new(),
                ledger,
                keys: Vec::new(),
                patterns: Default::default(),
            };
            (partition, PartitionStart { cut: Some(cut), ..Default::default() })
        };
        Restored { at: 3, partitions: [cut(0), cut(1)].into(), ..Default::default() }
    }

    #[test]
    fn the_account_of_a_partition_that_does_not_join_again_stands() {
        let (first, second) = (ProgressBoard::default(), ProgressBoard::default());
        first.restore(&restored());
        let ended = |board: &ProgressBoard| -> Vec<(i32, u64, bool)> {
            let of = |(p, state): &(Arc<PartitionInfo>, PartitionState)| {
                (p.number, state.progress.ledger.lost, state.progress.ended)
            };
            board.of_all_processes().partitions.iter().map(of).collect()
        };
        assert_eq!(ended(&first), [(0, 3, true), (1, 3, true)]);
        assert!(first.snapshot().partitions.iter().all(|(_, state)| state.acknowledged == Some(5)));
        // Each joins another process, and is there once, also before the processes told each other.
        let joined = PartitionProgress { next_offset: 5, ..Default::default() };
        first.update(0, &partition(0), joined);
        second.update(1, &partition(1), joined);
        second.set_peer(0, first.snapshot());
        assert_eq!(ended(&second), [(0, 0, false), (1, 0, false)]);
        first.set_peer(1, second.snapshot());
        assert_eq!(ended(&first), [(0, 0, false), (1, 0, false)]);
        assert_eq!(first.snapshot().partitions.len(), 1);
    }

    #[test]
    fn lag_is_known_once_the_end_is() {
        let board = ProgressBoard::default();
        board.update(0, &partition(0), PartitionProgress { next_offset: 7, ..Default::default() });
        assert_eq!(board.snapshot().partitions[0].1.lag(), None);
        board.set_ends([(&*partition(0), &10)]);
        assert_eq!(board.snapshot().partitions[0].1.lag(), Some(3));
        board.update(0, &partition(0), PartitionProgress { next_offset: 12, ..Default::default() });
        assert_eq!(board.snapshot().partitions[0].1.lag(), Some(0), "an end seen before the last read is no debt");
    }
}
