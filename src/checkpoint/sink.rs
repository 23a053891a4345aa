//! What a worker hands over at a cut, until it is durable and everything before it is stored.
//!
//! In: cuts and rows, through [`CheckpointSink`]. Out: a file, and its description. Nothing here blocks: encoding and
//! writing happen on threads of the runtime, and the worker asks for the outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use floodmark_dataflows::checkpoint::{CheckpointSink, PartitionCut, StateRow};
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::ledger::Ledger;
use floodmark_dataflows::time::Tick;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::chain::{encode, sort};
use super::commit::Shared;
use super::contents::{LiveRows, ShardHead};
use super::format::EncodeError;
use super::manifest::FileRef;
use super::{STATE_FOLDER, repeat};
use crate::sources::Positions;

/// A worker's share of a checkpoint, for the worker that commits it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    /// Its file; `None` where nothing has changed.
    pub(super) file: Option<FileRef>,
    /// Of each partition that is cut: documents before the cut that the store refused in this run.
    pub(super) refused: Vec<(PartitionInfo, u64)>,
    /// Of each partition that is cut: its ledger there.
    pub(super) read: Vec<(PartitionInfo, Ledger)>,
}

/// One worker's share of checkpoints.
pub struct WorkerSink {
    shared: Arc<Shared>,
    /// Among all workers of all processes.
    worker: usize,
    share: Option<Share>,
}

/// A share that is not committed yet.
struct Share {
    at: Tick,
    cuts: Option<Vec<PartitionCut>>,
    rows: Option<Vec<Vec<StateRow>>>,
    /// The positions of the cuts.
    positions: Positions,
    /// The ledgers of their partitions there.
    read: Vec<(PartitionInfo, Ledger)>,
    /// Windows that were handed in when all before the cut had been.
    windows: Option<u64>,
    /// Alerts handed in by then.
    alerts: u64,
    /// Whether what is stored is durable; once it is stored.
    durable: Option<Arc<AtomicBool>>,
    writing: Option<Arc<Mutex<Option<Description>>>>,
}

impl WorkerSink {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self { shared, worker, share: None }
    }

    /// The share of the checkpoint at `at`; one that was abandoned before makes way.
    fn share(&mut self, at: Tick) -> &mut Share {
        let new = || Share {
            at,
            cuts: None,
            rows: None,
            positions: Positions::new(),
            read: Vec::new(),
            windows: None,
            alerts: 0,
            durable: None,
            writing: None,
        };
        if self.share.as_ref().is_some_and(|share| share.at != at) {
            self.share = None;
        }
        self.share.get_or_insert_with(new)
    }

    /// Begins to write once all is there.
    fn write(&mut self, at: Tick) -> Option<()> {
        let (shared, worker) = (self.shared.clone(), self.worker);
        let share = self.share.as_mut().filter(|share| share.at == at && share.writing.is_none())?;
        let (true, true) = (share.cuts.is_some(), share.rows.is_some()) else { return None };
        let live = match &shared.live {
            Some(live) if worker == 0 => live.take_rows(at)?,
            _ => LiveRows::default(),
        };
        let (cuts, rows) = (share.cuts.take()?, share.rows.take()?);
        let written = Arc::new(Mutex::new(None));
        share.writing = Some(written.clone());
        let runtime = shared.runtime.clone();
        runtime.spawn(write(shared, worker, at, cuts, live, rows, written));
        Some(())
    }

    /// Whether everything that this worker handed out before the cut is stored, and durable.
    fn is_durable(&mut self) -> bool {
        if !self.is_stored() {
            return false;
        }
        let Self { shared, share: Some(share), .. } = self else { return false };
        let begin = || {
            let durable = Arc::<AtomicBool>::default();
            let (writer, done) = (shared.writer.clone(), durable.clone());
            shared.runtime.spawn(async move { done.store(writer.sync().await, Ordering::SeqCst) });
            durable
        };
        share.durable.get_or_insert_with(begin).load(Ordering::SeqCst)
    }

    /// Whether everything that this worker handed out before the cut is stored.
    fn is_stored(&mut self) -> bool {
        let Some(share) = &mut self.share else { return false };
        let Shared { writer, alerts, board, .. } = &*self.shared;
        if share.windows.is_none() && board.frontier_of(self.worker).is_some_and(|frontier| frontier >= share.at) {
            share.windows = Some(writer.windows_handed_in());
            share.alerts = alerts.as_ref().map_or(0, crate::alerts::Alerts::handed_in);
        }
        share.windows.is_some_and(|windows| writer.windows_stored() >= windows)
            && alerts.as_ref().is_none_or(|alerts| alerts.is_stored(share.alerts))
            && share.positions.iter().all(|(partition, next)| writer.is_stored(partition, *next))
    }
}

/// Encodes and writes a share.
async fn write(
    shared: Arc<Shared>,
    worker: usize,
    at: Tick,
    cuts: Vec<PartitionCut>,
    live: LiveRows,
    rows: Vec<Vec<StateRow>>,
    written: Arc<Mutex<Option<Description>>>,
) {
    if cuts.is_empty() && live == LiveRows::default() && rows.iter().all(Vec::is_empty) {
        *written.lock() = Some(Description::default());
        return;
    }
    let encoded = tokio::task::spawn_blocking(move || {
        let mut rows: Vec<StateRow> = rows.into_iter().flatten().collect();
        sort(&mut rows);
        let head = ShardHead { at, worker: worker as u32 };
        encode::<EncodeError>(&head, cuts, &live, rows.into_iter().map(Ok))
    });
    let (file, rows) = match encoded.await {
        Ok(Ok(encoded)) => encoded,
        Ok(Err(error)) => return shared.fail(error.to_string()),
        Err(error) => return shared.fail(error.to_string()),
    };
    let file = Bytes::from(file);
    // Of its own for each run: one that is being stopped may still be writing.
    let name = format!("{at:016}-{}-{worker:05}", shared.run);
    let description = FileRef::of(name, &file, rows);
    let path = format!("{STATE_FOLDER}/{}", description.name);
    repeat("checkpoint", &shared.stats, || shared.store.put(&path, file.clone())).await;
    *written.lock() = Some(Description { file: Some(description), ..Description::default() });
}

impl CheckpointSink for WorkerSink {
    fn is_due(&mut self) -> bool {
        self.shared.begin_if_due(Instant::now())
    }

    fn partitions(&mut self, at: Tick, cuts: Vec<PartitionCut>) {
        self.shared.note_under_way(true);
        let share = self.share(at);
        share.positions = cuts.iter().map(|cut| (cut.partition.clone(), cut.next_offset)).collect();
        share.read = cuts.iter().map(|cut| (cut.partition.clone(), cut.ledger)).collect();
        share.cuts = Some(cuts);
        self.write(at);
    }

    fn rows(&mut self, at: Tick, rows: Vec<Vec<StateRow>>) {
        self.share(at).rows = Some(rows);
        self.write(at);
    }

    fn description(&mut self, at: Tick) -> Option<Vec<u8>> {
        self.write(at);
        let is_durable = self.is_durable();
        let share = self.share.as_mut()?;
        let mut description = share.writing.as_ref()?.lock().take_if(|_| is_durable)?;
        // Not before everything is stored: only then is it known what is refused.
        let refused = |(partition, next): (&PartitionInfo, &u64)| {
            (partition.clone(), self.shared.writer.refused_before(partition, *next))
        };
        description.refused = share.positions.iter().map(refused).collect();
        description.read = std::mem::take(&mut share.read);
        // Of a list and a few numbers: it cannot fail.
        postcard::to_stdvec(&description).ok()
    }

    fn commit(&mut self, at: Tick, descriptions: Vec<Vec<u8>>) {
        self.shared.clone().commit(at, descriptions);
    }

    fn is_committed(&mut self, at: Tick) -> bool {
        self.shared.is_committed(at)
    }

    fn committed(&mut self, at: Tick) {
        self.shared.note_under_way(false);
        if let Some(share) = self.share.take_if(|share| share.at == at) {
            for (partition, next) in &share.positions {
                self.shared.writer.settle_refused(partition, *next);
            }
            self.shared.committed_positions.lock().extend(share.positions);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use super::super::testing::{Place, checkpoints, until};
    use super::*;
    use crate::checkpoint::store::CopyStore;
    use crate::stores::{LogBatch, LogPage, LogQuery, Rejected, Store, StoreError, WindowWrite};

    /// A store that is not durable before it is let.
    struct Volatile(Semaphore);

    #[async_trait]
    impl Store for Volatile {
        fn name(&self) -> &'static str {
            "volatile"
        }

        async fn write_logs(&self, _: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
            Ok(Vec::new())
        }

        async fn write_windows(&self, _: Vec<WindowWrite>) -> Result<(), StoreError> {
            Ok(())
        }

        async fn search_logs(&self, _: &LogQuery) -> Result<LogPage, StoreError> {
            Ok(LogPage::default())
        }

        async fn health(&self) -> Result<String, StoreError> {
            Ok(String::new())
        }

        async fn sync(&self) -> Result<(), StoreError> {
            self.0.acquire().await.unwrap().forget();
            Ok(())
        }

        async fn flush(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_share_is_not_handed_over_before_what_was_stored_is_durable() {
        let documents = Arc::new(Volatile(Semaphore::new(0)));
        let checkpoints = checkpoints(CopyStore::over(Place::new(), 2), documents.clone()).await;
        let mut sink = checkpoints.sink(0);
        sink.partitions(5, Vec::new());
        sink.rows(5, Vec::new());
        until("it is written", || {
            let writing = sink.share.as_ref().and_then(|share| share.writing.as_ref());
            writing.is_some_and(|written| written.lock().is_some())
        })
        .await;
        assert!(sink.is_stored());
        assert_eq!(sink.description(5), None);
        documents.0.add_permits(1);
        until("it is handed over", || sink.description(5).is_some()).await;
    }
}
