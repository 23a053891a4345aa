//! How much waits or is under way between the workers and the store, and the buffers that go round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use floodmark_dataflows::input::Waker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::background::Failure;
use crate::stores::{LogEntry, StoreError};

/// Buffers kept for reuse take at most this share of what may wait: they are memory too, and after an outage there would
/// be one for each batch that came back from disk.
const SPARE_SHARE: usize = 4;

/// Counters and gauges of the writer. All may be read at any time.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Log documents stored.
    pub documents: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Log documents that the store refused for good.
    pub rejected: AtomicU64,
    /// Window documents stored.
    pub windows: AtomicU64,
    /// Bytes of log documents that wait in memory or are under way.
    pub queue_bytes: AtomicUsize,
    /// Batches of log documents that wait.
    pub batches_waiting: AtomicUsize,
    /// Batches of log documents under way.
    pub batches_in_flight: AtomicUsize,
    /// Window documents that wait in memory or are under way.
    pub windows_waiting: AtomicUsize,
}

/// What waits or is under way.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) stats: WriterStats,
    /// Batches of log documents and window documents that were handed in and are not stored.
    outstanding: AtomicUsize,
    emptied: Notify,
    /// Something was done.
    moved: Notify,
    /// Some worker found the queue full since the last wake-up.
    blocked: AtomicBool,
    pub(super) wakers: Mutex<Vec<Waker>>,
    spare: Mutex<Spare>,
    /// Bytes that spare buffers may take.
    most_spare: usize,
}

/// The vectors of a batch.
pub(super) type Buffers = (Vec<u8>, Vec<LogEntry>);

/// Buffers that wait to be used again.
#[derive(Default)]
struct Spare {
    buffers: Vec<Buffers>,
    bytes: usize,
}

fn bytes_of((bytes, entries): &Buffers) -> usize {
    bytes.capacity() + entries.capacity() * size_of::<LogEntry>()
}

impl Queue {
    /// A queue in which so many bytes may wait.
    pub(super) fn new(queue_bytes: usize) -> Self {
        Self { most_spare: queue_bytes / SPARE_SHARE, ..Self::default() }
    }

    /// Whether `has_room`; if not, the workers are woken when something is done.
    pub(super) fn ready(&self, has_room: impl Fn(&WriterStats) -> bool) -> bool {
        if has_room(&self.stats) {
            return true;
        }
        self.blocked.store(true, Ordering::SeqCst);
        // Once more: what made room in between has not seen that somebody waits.
        has_room(&self.stats)
    }

    pub(super) fn hand_in(&self, items: usize) {
        self.outstanding.fetch_add(items, Ordering::SeqCst);
    }

    /// Notes that `items` are done, once the gauges are lowered.
    pub(super) fn done(&self, items: usize) {
        if self.outstanding.fetch_sub(items, Ordering::SeqCst) == items {
            self.emptied.notify_waiters();
        }
        self.moved.notify_one();
        self.wake_blocked();
    }

    /// Resolves when something was done since the last time.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Wakes the workers that found the queue full, once the gauges are lowered.
    pub(super) fn wake_blocked(&self) {
        if self.blocked.swap(false, Ordering::SeqCst) {
            self.wakers.lock().iter().for_each(|wake| wake());
        }
    }

    /// Waits until nothing is outstanding, or for the failure that prevents it.
    pub(super) async fn emptied(&self, failure: &Failure) -> Result<(), Arc<StoreError>> {
        loop {
            let emptied = self.emptied.notified();
            if let Some(error) = failure.get() {
                return Err(error);
            }
            if self.outstanding.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            tokio::select! {
                () = emptied => {}
                error = failure.occurred() => return Err(error),
            }
        }
    }

    /// Empty buffers, used ones if there are any.
    pub(super) fn buffers(&self) -> Buffers {
        let mut spare = self.spare.lock();
        let buffers = spare.buffers.pop().unwrap_or_default();
        spare.bytes -= bytes_of(&buffers);
        buffers
    }

    /// Takes buffers back.
    pub(super) fn recycle(&self, (mut bytes, mut entries): Buffers) {
        bytes.clear();
        entries.clear();
        let buffers = (bytes, entries);
        let size = bytes_of(&buffers);
        let mut spare = self.spare.lock();
        if spare.bytes + size <= self.most_spare {
            spare.bytes += size;
            spare.buffers.push(buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_buffers_are_bounded_in_bytes() {
        let queue = Queue::new(1_000);
        let buffers = |bytes| (Vec::with_capacity(bytes), Vec::new());
        for bytes in [100, 200, 100, 50] {
            queue.recycle(buffers(bytes));
        }
        assert_eq!(queue.spare.lock().bytes, 250, "a quarter");
        assert_eq!([50, 100, 100].map(|bytes| queue.buffers().0.capacity() - bytes), [0; 3]);
        assert_eq!(queue.buffers().0.capacity(), 0);
        assert_eq!(queue.spare.lock().bytes, 0);
    }
}
