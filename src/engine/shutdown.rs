//! Ending a run from outside.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use floodmark_dataflows::input::{
    Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, ReadAs, RecordedMarks, Waker,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dead_letters::DeadLetterQueue;
use crate::stores::writer::Writer;

/// Ends a run: reading stops, the rest goes its way. Clones end the same run.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Default)]
struct State {
    is_triggered: AtomicBool,
    notify: Notify,
    wakers: Mutex<Vec<Waker>>,
}

impl Shutdown {
    /// Ends the run. Does nothing the second time.
    pub fn trigger(&self) {
        self.0.is_triggered.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
        for wake in self.0.wakers.lock().iter() {
            wake();
        }
    }

    /// Calls `hook` whenever the run is told to end, also if that was before.
    pub fn on_trigger(&self, hook: impl Fn() + Send + Sync + 'static) {
        let hook: Waker = Arc::new(hook);
        self.0.wakers.lock().push(hook.clone());
        if self.is_triggered() {
            hook();
        }
    }

    /// Whether the run is to end.
    pub fn is_triggered(&self) -> bool {
        self.0.is_triggered.load(Ordering::SeqCst)
    }

    /// Resolves when the run is to end.
    pub async fn triggered(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.is_triggered() {
                return;
            }
            notified.await;
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shutdown").field(&self.is_triggered()).finish()
    }
}

/// A feed that ends when the run is to end, and whose worker is also woken when there is room again behind it.
pub(super) struct Stoppable<F> {
    pub feed: F,
    pub shutdown: Shutdown,
    pub writer: Writer,
    pub dead_letters: Arc<DeadLetterQueue>,
    /// When the run is to end, nothing more comes, and no end either: the next run goes on here.
    pub stops_short: bool,
}

impl<F: Feed> Feed for Stoppable<F> {
    type Batch = F::Batch;

    fn attach(&mut self, waker: Waker) {
        self.shutdown.0.wakers.lock().push(waker.clone());
        self.writer.wake_when_ready(waker.clone());
        self.dead_letters.wake_when_ready(waker.clone());
        self.feed.attach(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        self.feed.joined()
    }

    fn is_discovering(&self) -> bool {
        (self.stops_short || !self.shutdown.is_triggered()) && self.feed.is_discovering()
    }

    fn is_live(&self) -> bool {
        (self.stops_short || !self.shutdown.is_triggered()) && self.feed.is_live()
    }

    fn has_marks(&self) -> bool {
        self.feed.has_marks()
    }

    fn offsets_are_bytes(&self, partition: PartitionIndex) -> bool {
        self.feed.offsets_are_bytes(partition)
    }

    fn read_as(&mut self, partition: PartitionIndex) -> Option<ReadAs> {
        self.feed.read_as(partition)
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<Self::Batch>> {
        match (self.shutdown.is_triggered(), self.stops_short) {
            (false, _) => self.feed.poll(partition),
            (true, false) => Some(PartitionEvent::Ended),
            (true, true) => None,
        }
    }

    fn hurry(&mut self) {
        self.feed.hurry();
    }

    fn is_mark_due(&mut self) -> bool {
        self.feed.is_mark_due()
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        self.feed.mark(positions)
    }
}
