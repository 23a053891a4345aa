//! The background of the writer: hands batches to the store, several at once, and acknowledges what is stored.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use floodmark_dataflows::document::raw_of;
use floodmark_dataflows::output::Reason;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::Shared;
use super::acks::PartitionAcks;
use super::line::{WaitingLogs, WaitingWindows};
use crate::stores::{LogBatch, Rejected, StoreError, WindowWrite};

/// Window documents in one call of the store at the most.
const WINDOWS_PER_WRITE: usize = 2_500;

/// How often a full dead-letter queue is looked at again.
const DEAD_LETTER_RETRY: Duration = Duration::from_millis(10);

/// A batch on its way to the store.
pub(super) struct LogJob {
    pub(super) batch: LogBatch,
    pub(super) acks: Arc<PartitionAcks>,
    /// Its place among the batches of its partition.
    pub(super) ticket: u64,
}

/// The fatal error of the store; the first one stays.
#[derive(Default)]
pub(super) struct Failure {
    error: OnceLock<Arc<StoreError>>,
    occurred: Notify,
}

impl Failure {
    pub(super) fn get(&self) -> Option<Arc<StoreError>> {
        self.error.get().cloned()
    }

    pub(super) fn set(&self, error: StoreError) {
        // A later error follows from the first.
        let _ = self.error.set(Arc::new(error));
        self.occurred.notify_waiters();
    }

    pub(super) async fn occurred(&self) -> Arc<StoreError> {
        loop {
            let occurred = self.occurred.notified();
            if let Some(error) = self.get() {
                return error;
            }
            occurred.await;
        }
    }
}

/// Makes a store that panics a failure, not a writer that waits for ever.
struct Unfinished<'a>(&'a Failure);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(StoreError::Fatal("the store panicked; its message is above".to_owned()));
        }
    }
}

/// Stores batches until the workers' halves are gone or the store fails.
pub(super) async fn write_logs(shared: Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<LogJob>) {
    let _unfinished = Unfinished(&shared.failure);
    let slots = Arc::new(Semaphore::new(shared.store.max_in_flight().clamp(1, Semaphore::MAX_PERMITS)));
    let mut line: VecDeque<WaitingLogs> = VecDeque::new();
    let mut is_open = true;
    while is_open || !line.is_empty() {
        tokio::select! {
            biased;
            Ok(slot) = slots.clone().acquire_owned(), if line.front().is_some_and(|first| first.has_room(&shared)) => {
                let Some(waiting) = line.pop_front() else { continue };
                if shared.failure.get().is_some() {
                    return;
                }
                let stats = &shared.queue.stats;
                stats.batches_waiting.fetch_sub(1, Ordering::Relaxed);
                stats.batches_in_flight.fetch_add(1, Ordering::Relaxed);
                waiting.reserve(&shared);
                let shared = shared.clone();
                tokio::spawn(async move {
                    match WaitingLogs::load(waiting, &shared).await {
                        Ok(job) => write_batch(&shared, job).await,
                        Err(error) => shared.failure.set(error),
                    }
                    drop(slot);
                });
            }
            job = jobs.recv(), if is_open => match job {
                Some(job) => line.push_back(WaitingLogs::new(&shared, job).await),
                None => is_open = false,
            },
            () = shared.queue.moved(), if !line.is_empty() => {}
        }
    }
}

async fn write_batch(shared: &Shared, LogJob { batch, acks, ticket }: LogJob) {
    let _unfinished = Unfinished(&shared.failure);
    let batch = Arc::new(batch);
    let rejected = match shared.store.write_logs(batch.clone()).await {
        Ok(rejected) => rejected,
        Err(error) => return shared.failure.set(error),
    };
    send_rejected(shared, &batch, &acks, &rejected).await;
    acks.stored(ticket);

    let (documents, bytes) = (batch.entries.len() - rejected.len(), batch.bytes.len());
    if let Ok(batch) = Arc::try_unwrap(batch) {
        shared.queue.recycle((batch.bytes, batch.entries));
    }
    let stats = &shared.queue.stats;
    stats.documents.fetch_add(documents as u64, Ordering::Relaxed);
    stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    stats.rejected.fetch_add(rejected.len() as u64, Ordering::Relaxed);
    stats.batches_in_flight.fetch_sub(1, Ordering::Relaxed);
    stats.queue_bytes.fetch_sub(bytes, Ordering::SeqCst);
    shared.queue.done(1);
}

/// A refused document goes to the dead letters as the record it was made of, or as it is where that was not JSON.
async fn send_rejected(shared: &Shared, batch: &LogBatch, acks: &PartitionAcks, rejected: &[Rejected]) {
    for Rejected { entry, detail } in rejected {
        while !shared.dead_letters.ready() {
            tokio::time::sleep(DEAD_LETTER_RETRY).await;
        }
        let entry = &batch.entries[*entry];
        let document = batch.document(entry);
        let raw = raw_of(document);
        let raw = raw.as_deref().unwrap_or(document);
        acks.refuse(entry.offset);
        shared.dead_letters.send(&batch.partition, entry.offset, Reason::Unindexable, detail, raw);
    }
}

/// Stores windows in the order they were handed in, so that of two states of a window the newer one comes last.
pub(super) async fn write_windows(shared: Arc<Shared>, mut windows: mpsc::UnboundedReceiver<Vec<WindowWrite>>) {
    let _unfinished = Unfinished(&shared.failure);
    let mut line: VecDeque<WaitingWindows> = VecDeque::new();
    let mut writing = None;
    let mut is_open = true;
    while is_open || !line.is_empty() || writing.is_some() {
        if writing.is_none() && !line.is_empty() {
            let mut count = 0;
            let fits = |waiting: &&WaitingWindows| {
                count += waiting.count();
                count <= WINDOWS_PER_WRITE
            };
            let taken = line.iter().take_while(fits).count().max(1);
            writing = Some(Box::pin(store_windows(&shared, line.drain(..taken).collect())));
        }
        let written = async {
            match &mut writing {
                Some(writing) => writing.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = written => {
                writing = None;
                if let Err(error) = result {
                    return shared.failure.set(error);
                }
            }
            received = windows.recv(), if is_open => match received {
                Some(received) => line.push_back(WaitingWindows::new(&shared, received).await),
                None => is_open = false,
            },
        }
    }
}

async fn store_windows(shared: &Shared, line: Vec<WaitingWindows>) -> Result<(), StoreError> {
    let mut windows = Vec::new();
    for waiting in line {
        windows.append(&mut waiting.load(shared).await?);
    }
    while !windows.is_empty() {
        let rest = windows.split_off(windows.len().min(WINDOWS_PER_WRITE));
        let count = windows.len();
        shared.store.write_windows(std::mem::replace(&mut windows, rest)).await?;
        let stats = &shared.queue.stats;
        stats.windows.fetch_add(count as u64, Ordering::Relaxed);
        shared.windows_stored.fetch_add(count as u64, Ordering::SeqCst);
        stats.windows_waiting.fetch_sub(count, Ordering::SeqCst);
        shared.queue.done(count);
    }
    Ok(())
}
