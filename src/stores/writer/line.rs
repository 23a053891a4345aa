//! What waits for the store, oldest first: in memory, and beyond a bound in the spool.
//!
//! In: batches of log documents, and window documents, as the workers hand them in. Out: the same in the same order. What
//! is in memory counts in the queue's gauges, what is in the spool does not: so it is the spool, once full, that stops
//! the workers. On error: what the spool cannot give back is fatal; it is read from the source again after a restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use floodmark_dataflows::input::PartitionInfo;

use super::Shared;
use super::acks::PartitionAcks;
use super::background::LogJob;
use super::spool::{Spool, Spooled};
use crate::stores::{LogBatch, LogEntry, StoreError, WindowWrite};

/// Window documents in memory above which further ones go to the spool; half of what stops the workers.
pub(super) const SPILL_WINDOWS: usize = super::records::MAX_WINDOWS_WAITING / 2;

/// A batch of log documents that waits.
pub(super) enum WaitingLogs {
    InMemory(LogJob),
    OnDisk { block: Spooled, partition: Arc<PartitionInfo>, next_offset: u64, acks: Arc<PartitionAcks>, ticket: u64 },
}

/// Window documents that wait.
pub(super) enum WaitingWindows {
    InMemory(Vec<WindowWrite>),
    OnDisk { block: Spooled, count: usize },
}

impl WaitingLogs {
    /// Has a batch wait: in the spool, if memory is half full and the spool is not.
    pub(super) async fn new(shared: &Arc<Shared>, job: LogJob) -> Self {
        let stats = &shared.queue.stats;
        let Some(spool) = &shared.spool else { return Self::InMemory(job) };
        if stats.queue_bytes.load(Ordering::SeqCst) <= shared.options.queue_bytes / 2 {
            return Self::InMemory(job);
        }
        let LogJob { batch, acks, ticket } = job;
        let (batch, block) = put(spool, batch, |batch| Some(encode_logs(batch))).await;
        let Some(block) = block else { return Self::InMemory(LogJob { batch, acks, ticket }) };
        let LogBatch { partition, bytes, entries, next_offset } = batch;
        stats.queue_bytes.fetch_sub(bytes.len(), Ordering::SeqCst);
        shared.queue.recycle((bytes, entries));
        shared.queue.wake_blocked();
        Self::OnDisk { block, partition, next_offset, acks, ticket }
    }

    /// Whether it is in memory, or fits in: not all that a store takes at once may be.
    pub(super) fn has_room(&self, shared: &Shared) -> bool {
        let Self::OnDisk { block, .. } = self else { return true };
        let stats = &shared.queue.stats;
        let is_alone = stats.batches_in_flight.load(Ordering::SeqCst) == 0;
        is_alone || stats.queue_bytes.load(Ordering::SeqCst) + block.length() <= shared.options.queue_bytes
    }

    /// Notes that the batch will be in memory: until it is read, others look for room as well.
    pub(super) fn reserve(&self, shared: &Shared) {
        if let Self::OnDisk { block, .. } = self {
            shared.queue.stats.queue_bytes.fetch_add(block.length(), Ordering::SeqCst);
        }
    }

    /// The batch, in memory again, after [`WaitingLogs::reserve`].
    pub(super) async fn load(self, shared: &Shared) -> Result<LogJob, StoreError> {
        match self {
            Self::InMemory(job) => Ok(job),
            Self::OnDisk { block, partition, next_offset, acks, ticket } => {
                let reserved = block.length();
                let (bytes, entries) = decode_logs(take(shared, block).await?)?;
                shared.queue.stats.queue_bytes.fetch_sub(reserved - bytes.len(), Ordering::SeqCst);
                Ok(LogJob { batch: LogBatch { partition, bytes, entries, next_offset }, acks, ticket })
            }
        }
    }
}

impl WaitingWindows {
    /// Has windows wait: in the spool, if memory is half full and the spool is not.
    pub(super) async fn new(shared: &Arc<Shared>, windows: Vec<WindowWrite>) -> Self {
        let stats = &shared.queue.stats;
        let Some(spool) = &shared.spool else { return Self::InMemory(windows) };
        if stats.windows_waiting.load(Ordering::SeqCst) <= SPILL_WINDOWS {
            return Self::InMemory(windows);
        }
        let (windows, block) = put(spool, windows, |windows| sonic_rs::to_vec(windows).ok()).await;
        let Some(block) = block else { return Self::InMemory(windows) };
        stats.windows_waiting.fetch_sub(windows.len(), Ordering::SeqCst);
        shared.queue.wake_blocked();
        Self::OnDisk { block, count: windows.len() }
    }

    /// How many documents.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::InMemory(windows) => windows.len(),
            Self::OnDisk { count, .. } => *count,
        }
    }

    /// The documents, in memory again.
    pub(super) async fn load(self, shared: &Shared) -> Result<Vec<WindowWrite>, StoreError> {
        match self {
            Self::InMemory(windows) => Ok(windows),
            Self::OnDisk { block, count } => {
                // Of the parsers at hand the one that gives every number back to the last bit.
                let windows = sonic_rs::from_slice(&take(shared, block).await?).map_err(|e| unreadable(&e))?;
                shared.queue.stats.windows_waiting.fetch_add(count, Ordering::SeqCst);
                Ok(windows)
            }
        }
    }
}

/// Writes something to the spool, on a thread that may wait for the disk.
async fn put<T: Send + 'static>(
    spool: &Arc<Spool>,
    what: T,
    encode: fn(&T) -> Option<Vec<u8>>,
) -> (T, Option<Spooled>) {
    let spool = spool.clone();
    let written = tokio::task::spawn_blocking(move || {
        let block = encode(&what).and_then(|block| spool.put(&block));
        (what, block)
    });
    match written.await {
        Ok(written) => written,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn take(shared: &Shared, block: Spooled) -> Result<Vec<u8>, StoreError> {
    let Some(spool) = shared.spool.clone() else { return Err(unreadable(&"there is none")) };
    match tokio::task::spawn_blocking(move || spool.take(block)).await {
        Ok(block) => block.map_err(|error| unreadable(&error)),
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Fatal(format!(
        "the spool cannot be read: {error}; what it held is read from the source again at a restart"
    ))
}

/// The number of entries, the entries, the bytes; numbers in eight bytes, little-endian.
fn encode_logs(batch: &LogBatch) -> Vec<u8> {
    let mut block = Vec::with_capacity(8 + batch.entries.len() * ENTRY_BYTES + batch.bytes.len());
    block.extend_from_slice(&(batch.entries.len() as u64).to_le_bytes());
    for entry in &batch.entries {
        for number in [entry.start as u64, entry.end as u64, entry.offset, entry.timestamp_ms] {
            block.extend_from_slice(&number.to_le_bytes());
        }
    }
    block.extend_from_slice(&batch.bytes);
    block
}

const ENTRY_BYTES: usize = 32;

fn decode_logs(mut block: Vec<u8>) -> Result<(Vec<u8>, Vec<LogEntry>), StoreError> {
    let too_short = || unreadable(&"a block is too short");
    let count = block.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes) as usize).ok_or_else(too_short)?;
    let end = count.checked_mul(ENTRY_BYTES).and_then(|length| length.checked_add(8)).ok_or_else(too_short)?;
    let entries = block.get(8..end).ok_or_else(too_short)?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let entries = entries.chunks_exact(ENTRY_BYTES).map(|entry| LogEntry {
        start: number(&entry[..8]) as usize,
        end: number(&entry[8..16]) as usize,
        offset: number(&entry[16..24]),
        timestamp_ms: number(&entry[24..]),
    });
    let entries = entries.collect();
    block.drain(..end);
    Ok((block, entries))
}

#[cfg(test)]
mod tests {
    use super::super::testing::batch;
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let batch = batch(0, &[(7, r#"{"timestamp":5}"#), (1 << 40, r#"{"timestamp":1700000000000}"#)]);
        let (bytes, entries) = decode_logs(encode_logs(&batch)).unwrap();
        let text = |batch: &LogBatch| format!("{batch:?}");
        let back = LogBatch { bytes, entries, partition: batch.partition.clone(), next_offset: batch.next_offset };
        assert_eq!(text(&back), text(&batch));
        assert!(decode_logs(vec![1; 40]).is_err() && decode_logs(vec![2]).is_err());
    }
}
