//! Between the workers and the place that dead letters are written to.
//!
//! In: letters, from any thread, never blocking. Out: batches to a [`Sink`] on a thread of its own, one fsync or request
//! for all that waited. On error the same letters are tried again for as long as it takes; meanwhile the queue fills and
//! [`DeadLetters::ready`] says no.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodmark_dataflows::input::{PartitionInfo, Waker};
use floodmark_dataflows::output::Reason;
use parking_lot::{Condvar, Mutex};

use super::letter::DeadLetter;
use super::{Sink, SinkError};
use crate::checkpoint::starts::StartNumber;
use crate::sources::{Positions, wall_clock_ms};
use crate::stores::writer::DeadLetters;

/// A failed write is tried again after this, and twice that each further time.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Letters written at once.
const BATCH: usize = 4096;
/// Takes dead letters and has them written. Dropping it has the rest written first, unless writing fails.
pub struct DeadLetterQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something to write, or the end.
    filled: Condvar,
    /// Something was written, or failed.
    written: Condvar,
    limit_bytes: usize,
    /// In the order of [`Reason::ALL`].
    counts: [AtomicU64; Reason::ALL.len()],
    place: String,
    start: StartNumber,
}

#[derive(Default)]
struct State {
    waiting: Vec<DeadLetter>,
    /// With the thread. Kept here until they are safe.
    writing: Arc<Vec<DeadLetter>>,
    bytes: usize,
    /// A caller was told that there is no room.
    refused: bool,
    wakers: Vec<Waker>,
    /// Why the last write failed, until one succeeds.
    problem: Option<String>,
    closing: bool,
}

impl DeadLetterQueue {
    /// Starts the thread that writes. Above `limit_bytes` waiting, the queue is not ready. `start` goes into the letters.
    pub fn start(sink: Box<dyn Sink>, limit_bytes: usize, start: StartNumber) -> Arc<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            limit_bytes,
            counts: Default::default(),
            place: sink.describe(),
            start,
        });
        let background = shared.clone();
        std::thread::spawn(move || background.write_all(sink));
        Arc::new(Self { shared })
    }

    /// Has a worker woken when there is room again after there was none.
    pub fn wake_when_ready(&self, waker: Waker) {
        self.shared.state.lock().wakers.push(waker);
    }

    /// Letters taken since the start, by reason.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.shared.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Where the letters go, or why they cannot be written at present.
    ///
    /// # Errors
    /// The last failure, if nothing was written since.
    pub fn health(&self) -> Result<String, String> {
        match &self.shared.state.lock().problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(format!("dead letters go to {}", self.shared.place)),
        }
    }

    /// Waits until all letters taken so far are safe.
    ///
    /// # Errors
    /// Not in time; says why.
    pub fn drain(&self, timeout: Duration) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state.lock();
        while state.bytes > 0 {
            if self.shared.written.wait_until(&mut state, deadline).timed_out() {
                let left = state.waiting.len() + state.writing.len();
                let problem = state.problem.as_deref().unwrap_or("they are still being written");
                return Err(format!("{left} dead letters are not written after {timeout:?}: {problem}"));
            }
        }
        Ok(())
    }
}

impl Drop for DeadLetterQueue {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.filled.notify_all();
    }
}

impl DeadLetters for DeadLetterQueue {
    fn ready(&self) -> bool {
        let mut state = self.shared.state.lock();
        let ready = state.bytes < self.shared.limit_bytes;
        state.refused |= !ready;
        ready
    }

    fn send(&self, partition: &Arc<PartitionInfo>, offset: u64, reason: Reason, detail: &str, raw: &[u8]) {
        let letter = DeadLetter {
            partition: partition.clone(),
            offset,
            reason,
            detail: detail.to_owned(),
            raw: raw.to_vec(),
            timestamp_ms: wall_clock_ms(),
            start: self.shared.start,
        };
        self.shared.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.state.lock();
        state.bytes += letter.bytes();
        state.waiting.push(letter);
        if state.waiting.len() == 1 {
            self.shared.filled.notify_one();
        }
    }

    fn unwritten(&self) -> Positions {
        let state = self.shared.state.lock();
        let mut first = Positions::new();
        for letter in state.writing.iter().chain(&state.waiting) {
            let offset = first.entry(letter.partition.as_ref().clone()).or_insert(letter.offset);
            *offset = letter.offset.min(*offset);
        }
        first
    }
}

impl Shared {
    /// Writes until the queue is dropped.
    fn write_all(&self, mut sink: Box<dyn Sink>) {
        let mut retry = FIRST_RETRY;
        while let Some(batch) = self.next_batch() {
            match sink.write(&batch) {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    self.done(&batch);
                }
                Err(error) => {
                    if self.failed(&error, retry) {
                        return;
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// What to write next: after a failure, the same again. `None` when there will be nothing more.
    fn next_batch(&self) -> Option<Arc<Vec<DeadLetter>>> {
        let mut state = self.state.lock();
        if state.writing.is_empty() {
            while state.waiting.is_empty() {
                if state.closing {
                    return None;
                }
                self.filled.wait(&mut state);
            }
            let count = state.waiting.len().min(BATCH);
            state.writing = Arc::new(state.waiting.drain(..count).collect());
        }
        Some(state.writing.clone())
    }

    fn done(&self, batch: &[DeadLetter]) {
        let mut state = self.state.lock();
        state.bytes -= batch.iter().map(DeadLetter::bytes).sum::<usize>();
        state.writing = Arc::default();
        if state.problem.take().is_some() {
            tracing::info!(place = %self.place, "dead letters are written again");
        }
        if state.refused && state.bytes < self.limit_bytes {
            state.refused = false;
            state.wakers.iter().for_each(|wake| wake());
        }
        self.written.notify_all();
    }

    /// Reports a failure and waits. Returns whether to give up, since nobody is left to wait for the letters.
    fn failed(&self, error: &SinkError, retry: Duration) -> bool {
        let mut state = self.state.lock();
        let (waiting, place) = (state.waiting.len() + state.writing.len(), &self.place);
        tracing::error!(waiting, %place, "dead letters cannot be written: {error}; trying again in {retry:?}");
        state.problem = Some(error.to_string());
        self.written.notify_all();
        let until = Instant::now() + retry;
        while !state.closing && !self.filled.wait_until(&mut state, until).timed_out() {}
        state.closing
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    /// Writes to memory, and fails while it is told to.
    #[derive(Clone, Default)]
    struct Memory {
        failing: Arc<AtomicBool>,
        offsets: Arc<Mutex<Vec<u64>>>,
    }

    impl Sink for Memory {
        fn write(&mut self, letters: &[DeadLetter]) -> Result<(), SinkError> {
            if self.failing.load(Ordering::SeqCst) {
                return Err(SinkError::Full("no room".into()));
            }
            self.offsets.lock().extend(letters.iter().map(|letter| letter.offset));
            Ok(())
        }

        fn describe(&self) -> String {
            "memory".into()
        }
    }

    const WAIT: Duration = Duration::from_secs(20);

    fn partition() -> Arc<PartitionInfo> {
        Arc::new(PartitionInfo { topic: "t".into(), identity: "t".into(), number: 0 })
    }

    #[test]
    fn a_failing_place_stops_the_workers_and_loses_nothing() {
        let memory = Memory::default();
        memory.failing.store(true, Ordering::SeqCst);
        let queue = DeadLetterQueue::start(Box::new(memory.clone()), 10_000, 1);
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = woken.clone();
        queue.wake_when_ready(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let (partition, mut sent) = (partition(), 0);
        while queue.ready() {
            queue.send(&partition, 100 + sent, Reason::Malformed, "detail", &[b'x'; 100]);
            sent += 1;
        }
        assert!(sent < 100, "{sent} letters of over 100 bytes in 10,000");
        assert!(queue.drain(Duration::from_millis(1)).unwrap_err().contains("not written"));
        let deadline = Instant::now() + WAIT;
        while queue.health().is_ok() {
            assert!(Instant::now() < deadline);
        }
        assert!(queue.health().unwrap_err().contains("no room"));
        assert_eq!(queue.unwritten().values().copied().collect::<Vec<_>>(), [100]);

        memory.failing.store(false, Ordering::SeqCst);
        queue.drain(WAIT).unwrap();
        assert!(queue.ready() && queue.health().is_ok() && queue.unwritten().is_empty());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert_eq!(*memory.offsets.lock(), (100..100 + sent).collect::<Vec<_>>());
        assert_eq!(queue.counts().find(|(reason, _)| *reason == Reason::Malformed), Some((Reason::Malformed, sent)));
    }

    #[test]
    fn what_waits_is_written_after_the_queue_is_dropped() {
        let memory = Memory::default();
        let queue = DeadLetterQueue::start(Box::new(memory.clone()), 1 << 20, 1);
        for offset in 0..10_000 {
            queue.send(&partition(), offset, Reason::TooLong, "", b"");
        }
        drop(queue);
        let deadline = Instant::now() + WAIT;
        while memory.offsets.lock().len() < 10_000 {
            assert!(Instant::now() < deadline);
        }
    }
}
