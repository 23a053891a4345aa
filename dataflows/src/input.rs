//! What the outside supplies: raw records by partition, and the marks through which the wall clock comes in.
//!
//! In: nothing. Out: traits that sources implement. Nothing here blocks: a feed answers at once with what it has,
//! and calls its [`Waker`] when it has more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::decode::Decoder;
use crate::rules::Rules;
use crate::time::Millis;
use crate::view::View;

/// Called by a feed from any thread when a worker that found nothing should look again.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// One partition of a log, as a worker knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionInfo {
    /// Kafka's topic, or for files the pattern's name; the `topic` field of documents.
    pub topic: Arc<str>,
    /// Stable identity of the topic in document ids: Kafka's topic name (with its id when it was recreated), or a
    /// file's fingerprint in hexadecimal.
    pub identity: Arc<str>,
    /// The partition's number within its topic.
    pub number: i32,
}

/// A raw record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Position in the partition: Kafka's offset, or the byte position of the line in a file.
    pub offset: u64,
    /// The bytes of the record, without a line terminator.
    pub bytes: &'a [u8],
    /// When it arrived, where that is the same in every run: the broker appended it (`LogAppendTime` topics only), or
    /// somebody had it read again.
    pub appended_ms: Option<Millis>,
    /// Where it was a dead letter, if it is read again.
    pub redriven_from: Option<&'a Origin>,
}

/// Where a record stood that became a dead letter and is read again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: u64,
    /// It was read there, and only its document refused later: it is in the windows, totals and patterns.
    pub was_counted: bool,
}

/// How the records of a partition are read where it is not as those of the others: the same rules and views, compiled
/// for the fields that its own decoder finds.
#[derive(Clone, Debug)]
pub struct ReadAs {
    /// Bytes to records.
    pub decoder: Decoder,
    /// Records to severities.
    pub rules: Arc<Rules>,
    /// The views, in the same order.
    pub views: Vec<Arc<View>>,
}

/// Some records of one partition in offset order, with a place in it.
pub trait Batch {
    /// The record at the current place, or `None` behind the last.
    fn current(&self) -> Option<RawRecord<'_>>;
    /// Moves on to the next record.
    fn advance(&mut self);
    /// The offset to read next once this batch is used up: one past the last record in Kafka, the byte behind the
    /// last line in a file.
    fn next_offset(&self) -> u64;
}

/// What a feed has for one partition.
#[derive(Clone, Debug)]
pub enum PartitionEvent<B> {
    /// Records.
    Records(B),
    /// The source answered that there is nothing behind `next_offset` for now.
    AtEnd {
        /// The offset to read next.
        next_offset: u64,
    },
    /// There will never be more: the end of a bounded run.
    Ended,
    /// The source cannot be read at present. Not the same as being at its end. Sent again while it lasts.
    Unreachable,
    /// The source no longer has these offsets (`from..to`); reading goes on at `to`.
    Lost {
        /// First offset that is gone.
        from: u64,
        /// First offset that is there.
        to: u64,
    },
}

/// The number of a partition within its worker, in the order the feed announced them.
pub type PartitionIndex = usize;

/// Where a partition stands when a mark is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkPosition {
    /// The worker's number of the partition.
    pub partition: PartitionIndex,
    /// Offset to read next; every record before it is covered by the mark.
    pub next_offset: u64,
    /// The source said that this is the end.
    pub at_end: bool,
    /// The partition's hold, in ticks, from this mark on.
    pub hold: u64,
    /// The source could not be read: nothing is known of what the hold passes over.
    pub away: bool,
}

/// An offer that was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedMarks {
    /// The wall clock of the mark: everything before the positions had arrived then.
    pub wall_ms: Millis,
    /// The positions, as they were offered.
    pub positions: Vec<MarkPosition>,
}

/// What one worker reads from.
///
/// Partitions are read one by one, so that one far ahead of the others can be left alone: its own bounded channel
/// then stops its reader.
pub trait Feed {
    /// The records of one partition.
    type Batch: Batch + 'static;

    /// Gives the feed the means to wake this worker.
    fn attach(&mut self, waker: Waker);

    /// Partitions that joined since the last call; they take the next numbers in this order. A feed that has not yet
    /// announced all it starts with keeps [`Feed::is_discovering`] true.
    fn joined(&mut self) -> Vec<PartitionInfo>;

    /// Whether the initial partitions are not all announced yet. While true, the worker holds the frontier.
    fn is_discovering(&self) -> bool;

    /// Whether more partitions may join later (a live run).
    fn is_live(&self) -> bool;

    /// Whether the run has marks: a live run, and a bounded one that compares event times with the wall clock.
    fn has_marks(&self) -> bool {
        self.is_live()
    }

    /// Whether a partition's offsets are positions in bytes, rather than numbers of records.
    fn offsets_are_bytes(&self, _partition: PartitionIndex) -> bool {
        false
    }

    /// How a partition that joined is read, where it is not as the others. Asked once, before it is polled.
    fn read_as(&mut self, _partition: PartitionIndex) -> Option<ReadAs> {
        None
    }

    /// The next event of a partition, if there is one now. Never blocks.
    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<Self::Batch>>;

    /// Whether a mark that is offered now would be taken. May say yes too often: a partition that would be released
    /// further by the mark is then left unread until a mark has been recorded.
    fn is_mark_due(&mut self) -> bool {
        true
    }

    /// A mark is wanted as soon as can be: partitions elsewhere wait for a hold here. Until the next mark is taken.
    fn hurry(&mut self) {}

    /// Offers a mark: where the partitions stand now. About once a second while live a feed takes what is offered,
    /// notes the wall clock, and records both, in its own time; it takes nothing else meanwhile. Returns what was
    /// recorded, once, when it is recorded and will be found again by a restart; `None` otherwise. The wall clock of
    /// marks never falls, not by a restart either. Of a bounded replay nothing is ever recorded.
    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks>;
}
