//! What a worker sees of its files.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use crossbeam_channel::{Receiver, Sender};
use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use parking_lot::Mutex;

use super::reader::{Joined, Reader, Shared};
use super::registry::Registry;
use super::tail::{Block, Limits};
use super::{Failure, FilesConfig};
use crate::sources::{MarkClock, WorkerPlace};

/// One worker's files. Dropping it ends the thread that reads them.
pub struct FilesFeed {
    shared: Arc<Shared>,
    reader: ReadBy,
    partitions: Vec<Receiver<PartitionEvent<FileBatch>>>,
    announced: bool,
    follow: bool,
    clock: MarkClock,
}

/// Who reads the files.
enum ReadBy {
    /// A thread of its own: the worker goes on while the disk is waited for.
    Thread(Thread),
    /// The worker, whenever it has nothing left of a file: what is read is used by the same core while it is in its cache.
    /// The system reads ahead of it.
    Worker(Box<Reader>),
}

impl FilesFeed {
    /// Starts reading.
    pub(super) fn start(
        config: Arc<FilesConfig>,
        registry: Arc<Mutex<Registry>>,
        worker: WorkerPlace,
        limits: Limits,
        marks: bool,
        by_worker: bool,
        failure: Failure,
    ) -> Self {
        let shared = Arc::new(Shared { failure, ..Shared::default() });
        let follow = config.follow;
        let reader = Reader::new(config, registry, shared.clone(), worker, limits);
        let reader = match by_worker && !follow {
            true => ReadBy::Worker(Box::new(reader)),
            false => ReadBy::Thread(std::thread::spawn(|| reader.run()).thread().clone()),
        };
        Self { shared, reader, partitions: Vec::new(), announced: false, follow, clock: MarkClock::new(marks) }
    }
}

impl Drop for FilesFeed {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let ReadBy::Thread(thread) = &self.reader {
            thread.unpark();
        }
    }
}

impl Feed for FilesFeed {
    type Batch = FileBatch;

    fn attach(&mut self, waker: Waker) {
        *self.shared.waker.lock() = Some(waker.clone());
        // There may be events already, sent when there was nobody to wake.
        waker();
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        self.announced = true;
        let joined = std::mem::take(&mut *self.shared.joined.lock());
        let mut infos = Vec::with_capacity(joined.len());
        for Joined { info, events } in joined {
            infos.push(info);
            self.partitions.push(events);
        }
        infos
    }

    fn is_discovering(&self) -> bool {
        !self.announced
    }

    fn is_live(&self) -> bool {
        self.follow
    }

    fn offsets_are_bytes(&self, _: PartitionIndex) -> bool {
        true
    }

    fn has_marks(&self) -> bool {
        self.clock.is_on()
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<FileBatch>> {
        let events = &self.partitions[partition];
        match &mut self.reader {
            ReadBy::Thread(thread) => {
                let event = events.try_recv().ok()?;
                thread.unpark();
                Some(event)
            }
            ReadBy::Worker(reader) => {
                reader.turn(partition);
                events.try_recv().ok()
            }
        }
    }

    fn hurry(&mut self) {
        self.clock.hurry();
    }

    fn is_mark_due(&mut self) -> bool {
        self.clock.is_due()
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        Some(RecordedMarks { wall_ms: self.clock.due()?, positions: positions.to_vec() })
    }
}

/// Lines of one file. Empty ones are passed over; a carriage return at the end is not part of a record.
#[derive(Debug)]
pub struct FileBatch {
    block: Block,
    /// Where the current line begins and where its record ends; the same place behind the last line.
    line: (usize, usize),
    /// Where the line after it begins.
    next: usize,
    /// No more of a line is handed on, whether it was read at once or in pieces.
    line_bytes: usize,
    home: Sender<Vec<u8>>,
}

impl FileBatch {
    /// The lines of a block, `line_bytes` of each at the most. The buffer goes `home` afterwards.
    pub(super) fn new(block: Block, line_bytes: usize, home: Sender<Vec<u8>>) -> Self {
        let mut batch = Self { block, line: (0, 0), next: 0, line_bytes, home };
        batch.advance();
        batch
    }
}

impl Batch for FileBatch {
    #[inline]
    fn current(&self) -> Option<RawRecord<'_>> {
        let (start, end) = self.line;
        (start < end).then(|| RawRecord {
            offset: self.block.offset + start as u64,
            bytes: &self.block.bytes[start..end],
            appended_ms: None,
            redriven_from: None,
        })
    }

    #[inline]
    fn advance(&mut self) {
        let bytes = &self.block.bytes[..self.block.length];
        loop {
            let start = self.next;
            let rest = &bytes[start..];
            let (length, next) = match memchr::memchr(b'\n', rest) {
                Some(at) => (at, start + at + 1),
                None => (rest.len(), bytes.len()),
            };
            self.next = next;
            let length = if rest[..length].ends_with(b"\r") { length - 1 } else { length };
            self.line = (start, start + length.min(self.line_bytes));
            if length > 0 || start == bytes.len() {
                return;
            }
        }
    }

    fn next_offset(&self) -> u64 {
        self.block.next_offset
    }
}

impl Drop for FileBatch {
    fn drop(&mut self) {
        // A full home has buffers enough.
        let _ = self.home.try_send(std::mem::take(&mut self.block.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_lines_with_their_positions() {
        type Case<'a> = (&'a [u8], &'a [(u64, &'a str)]);
        let cases: [Case<'_>; 6] = [
            (b"one\ntwo\n", &[(100, "one"), (104, "two")]),
            (b"one\r\n\r\n\ntwo\r\n", &[(100, "one"), (108, "two")]),
            (b"\n\n", &[]),
            (b"last without end", &[(100, "last without end")]),
            (b"one that is too long\ntwo\n", &[(100, "one that is too l"), (121, "two")]),
            (b"a\rb\n\n", &[(100, "a\rb")]),
        ];
        for (bytes, expected) in cases {
            let length = bytes.len();
            // What is left over from earlier use must not show.
            let bytes = [bytes, b"old\nold"].concat();
            let block = Block { bytes, length, offset: 100, next_offset: 100 + length as u64 };
            let (home, used) = crossbeam_channel::bounded(1);
            let mut batch = FileBatch::new(block, 17, home);
            let mut lines = Vec::new();
            while let Some(record) = batch.current() {
                lines.push((record.offset, std::str::from_utf8(record.bytes).unwrap().to_owned()));
                batch.advance();
            }
            batch.advance();
            assert!(batch.current().is_none());
            assert_eq!(lines.iter().map(|(at, line)| (*at, line.as_str())).collect::<Vec<_>>(), expected);
            drop(batch);
            assert!(used.try_recv().is_ok(), "the buffer goes home");
        }
    }
}
