//! Where the partitions of all processes stand: each tells all others once a second, so that each can answer for all.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::PartitionProgress;
use floodmark_dataflows::time::{Millis, Tick};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::Cluster;
use crate::live::progress::{PartitionState, ProgressBoard, ProgressSnapshot};

const EVERY: Duration = Duration::from_secs(1);

/// What one process tells.
#[derive(Serialize, Deserialize)]
struct Report {
    partitions: Vec<Partition>,
    frontiers: BTreeMap<usize, Tick>,
    paths: BTreeMap<Arc<str>, String>,
    indexed_through: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
struct Partition {
    topic: String,
    identity: String,
    number: i32,
    worker: usize,
    progress: PartitionProgress,
    end: Option<u64>,
    acknowledged: Option<u64>,
    refused: u64,
}

impl Report {
    fn of(snapshot: ProgressSnapshot) -> Self {
        let partition = |(info, state): (Arc<PartitionInfo>, PartitionState)| Partition {
            topic: info.topic.to_string(),
            identity: info.identity.to_string(),
            number: info.number,
            worker: state.worker,
            progress: state.progress,
            end: state.end,
            acknowledged: state.acknowledged,
            refused: state.refused,
        };
        Self {
            partitions: snapshot.partitions.into_iter().map(partition).collect(),
            frontiers: snapshot.frontiers,
            paths: snapshot.paths,
            indexed_through: snapshot.indexed_through,
        }
    }

    fn into_snapshot(self) -> ProgressSnapshot {
        let state = |partition: Partition| {
            let Partition { topic, identity, number, worker, progress, end, acknowledged, refused } = partition;
            let info = PartitionInfo { topic: topic.into(), identity: identity.into(), number };
            (Arc::new(info), PartitionState { worker, progress, end, acknowledged, refused })
        };
        ProgressSnapshot {
            partitions: self.partitions.into_iter().map(state).collect(),
            frontiers: self.frontiers,
            paths: self.paths,
            indexed_through: self.indexed_through,
        }
    }
}

/// Puts what others tell on the board. Resolves never: tells them what stands there of this process, until it is
/// dropped.
pub fn share_progress(cluster: &Cluster, board: Arc<ProgressBoard>) -> impl Future<Output = ()> + Send + 'static {
    let heard = board.clone();
    cluster.links.on_news(move |process, news| {
        // All processes are of one build: what does not read was damaged on its way, and the next comes in a second.
        if let Ok(report) = postcard::from_bytes::<Report>(news) {
            heard.set_peer(process, report.into_snapshot());
        }
    });
    let links = cluster.links.clone();
    async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(news) = postcard::to_stdvec(&Report::of(board.snapshot())) {
                links.tell(news);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_told_is_what_stands_there() {
        let board = ProgressBoard::default();
        let partition = Arc::new(PartitionInfo { topic: "t".into(), identity: "i".into(), number: 3 });
        let progress = PartitionProgress { next_offset: 7, clock: Some(9), idle: true, ..Default::default() };
        board.update(1, &partition, progress);
        board.set_frontier(1, 8);
        board.set_paths([("i".into(), "/var/log/a.log".to_owned())].into());
        let told = postcard::to_stdvec(&Report::of(board.snapshot())).unwrap();
        let heard = ProgressBoard::default();
        heard.set_frontier(0, 5);
        heard.set_peer(1, postcard::from_bytes::<Report>(&told).unwrap().into_snapshot());
        assert!(heard.snapshot().partitions.is_empty(), "what others read is not this process's");
        let all = heard.of_all_processes();
        assert_eq!(all.partitions, board.snapshot().partitions);
        assert_eq!(all.paths[&*partition.identity], "/var/log/a.log");
        assert_eq!(all.frontiers, BTreeMap::from([(0, 5), (1, 8)]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = postcard::from_bytes::<Report>(&bytes);
        }
    }
}
