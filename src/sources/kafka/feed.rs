//! What one worker reads from.
//!
//! In: the local queues of its partitions, and news from the [service](super::service). Out: events of a partition, one
//! a call: records borrowed from librdkafka's buffers, ends, losses, silence. Nothing here blocks; what must wait for a
//! broker is asked of the service.
//!
//! A partition that is not polled fills its own queue (`queue_bytes`), and librdkafka stops fetching it; the others go
//! on.

use std::collections::VecDeque;
use std::sync::Arc;

use floodmark_dataflows::input::{
    Batch, Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, RawRecord, RecordedMarks, Waker,
};
use rdkafka::error::RDKafkaErrorCode;

use super::native::{Messages, PartitionQueue};
use super::service::{FeedLink, Request, Service};
use crate::sources::MarkClock;

/// Messages taken at a time. Enough to make the call cheap, few enough that their headers stay in the first-level
/// cache between being looked at for errors and being used.
const BATCH: usize = 512;

/// One worker's share of the partitions.
pub struct KafkaFeed {
    link: Arc<FeedLink>,
    partitions: Vec<PartitionReader>,
    announced: usize,
    live: bool,
    clock: MarkClock,
    /// Keeps the thread running that this feed depends on.
    _service: Arc<Service>,
}

impl KafkaFeed {
    pub(super) fn new(
        service: Arc<Service>,
        link: Arc<FeedLink>,
        partitions: Vec<PartitionReader>,
        live: bool,
        marks: bool,
    ) -> Self {
        Self { link, partitions, announced: 0, live, clock: MarkClock::new(marks), _service: service }
    }

    fn take_news(&mut self) {
        let Some(news) = self.link.take_news() else { return };
        for (index, end) in news.gone {
            self.partitions[index].gone(end);
        }
        self.partitions.extend(news.joined);
        for (index, from, to) in news.restarted {
            self.partitions[index].restarted(from, to);
        }
        for (partition, trouble) in self.partitions.iter_mut().zip(news.troubles.into_iter().flatten()) {
            partition.hear(trouble);
        }
    }
}

impl Feed for KafkaFeed {
    type Batch = KafkaBatch;

    fn attach(&mut self, waker: Waker) {
        self.link.attach(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        self.take_news();
        let new = self.partitions[self.announced..].iter().map(|partition| partition.info.clone()).collect();
        self.announced = self.partitions.len();
        new
    }

    fn is_discovering(&self) -> bool {
        false
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn has_marks(&self) -> bool {
        self.clock.is_on()
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<KafkaBatch>> {
        self.take_news();
        let (event, request) = self.partitions[partition].poll(&self.link);
        if let Some(request) = request {
            self.link.ask(partition, request);
        }
        event
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

/// Where one partition stands.
pub(super) struct PartitionReader {
    info: PartitionInfo,
    queue: PartitionQueue,
    next_offset: u64,
    /// First offset that is not read; `None` in a live run.
    end: Option<u64>,
    events: VecDeque<PartitionEvent<KafkaBatch>>,
    /// Taken from the queue, from an error on.
    held: Option<Messages>,
    /// The broker said that this is the end, and nothing came since.
    at_end: bool,
    /// Nothing more is read.
    ended: bool,
    /// The offset is gone; the service is finding out where to go on.
    resetting: bool,
    /// What the broker said when it refused this partition.
    refused: Option<String>,
    /// Told to the worker as unreachable, and not yet well again.
    troubled: bool,
    /// To be asked of the service with the next poll.
    request: Option<Request>,
}

impl PartitionReader {
    pub(super) fn new(
        info: PartitionInfo,
        queue: PartitionQueue,
        start: u64,
        end: Option<u64>,
        lost_from: Option<u64>,
    ) -> Self {
        let mut reader = Self {
            info,
            queue,
            next_offset: start,
            end,
            events: VecDeque::new(),
            held: None,
            at_end: false,
            ended: false,
            resetting: false,
            refused: None,
            troubled: false,
            request: None,
        };
        if let Some(from) = lost_from {
            reader.lost(from, start);
        }
        reader.end_when_done();
        reader
    }

    /// Whether there is nothing to read in the first place.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    fn poll(&mut self, link: &FeedLink) -> (Option<PartitionEvent<KafkaBatch>>, Option<Request>) {
        let event = self.events.pop_front().or_else(|| self.read(link));
        (event, self.request.take())
    }

    fn read(&mut self, link: &FeedLink) -> Option<PartitionEvent<KafkaBatch>> {
        while !self.ended && !self.resetting {
            let mut messages = match self.held.take() {
                Some(held) => held,
                None => {
                    let taken = self.queue.take(BATCH)?;
                    if link.reads_another(&self.info) {
                        // Perhaps records of the new topic: the service finds out what to do.
                        self.reset();
                        return None;
                    }
                    taken
                }
            };
            self.held = messages.split_at(|message| message.error().is_some());
            if messages.len() > 0 {
                if let Some(batch) = self.records(messages) {
                    return Some(PartitionEvent::Records(batch));
                }
            } else if let Some(event) = self.held.take().and_then(|held| self.error(held)) {
                return Some(event);
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
        }
        None
    }

    /// Records in offset order. Those read before, after a seek, are passed over; those behind the end are not read.
    fn records(&mut self, mut messages: Messages) -> Option<KafkaBatch> {
        while messages.current().is_some_and(|message| (message.offset() as u64) < self.next_offset) {
            messages.advance();
        }
        let last = messages.last()?.offset() as u64;
        let mut next_offset = last + 1;
        if let Some(end) = self.end.filter(|end| last >= *end) {
            messages.split_at(|message| message.offset() as u64 >= end);
            next_offset = end;
        }
        self.next_offset = next_offset;
        self.at_end = false;
        self.refused = None;
        self.end_when_done();
        (messages.len() > 0).then_some(KafkaBatch { messages, next_offset })
    }

    /// Takes the error in front of `held`, and keeps what is behind it.
    fn error(&mut self, mut held: Messages) -> Option<PartitionEvent<KafkaBatch>> {
        let message = held.current()?;
        let (code, offset) = (message.error()?, message.offset());
        held.advance();
        self.held = (held.len() > 0).then_some(held);
        let PartitionInfo { topic, number, .. } = &self.info;
        match code {
            RDKafkaErrorCode::PartitionEOF => {
                // Past the last record there may be offsets without one: markers of transactions, compacted records.
                self.next_offset = self.next_offset.max(u64::try_from(offset).unwrap_or(0));
                self.at_end = true;
                self.refused = None;
                if self.end.is_some() {
                    self.finish();
                    return None;
                }
                Some(PartitionEvent::AtEnd { next_offset: self.next_offset })
            }
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                self.reset();
                None
            }
            other => {
                tracing::warn!(%topic, partition = number, offset, "the broker refuses to be read: {other}");
                self.refused = Some(other.to_string());
                self.troubled = true;
                Some(PartitionEvent::Unreachable)
            }
        }
    }

    /// Asks where to go on; until then nothing is read.
    fn reset(&mut self) {
        self.held = None;
        self.resetting = true;
        self.request = Some(Request::Reset { from: self.next_offset });
    }

    /// The topic is no more; its log ended at `end`.
    fn gone(&mut self, end: u64) {
        if self.ended {
            return;
        }
        self.held = None;
        self.request = None;
        self.ended = true;
        self.lost(self.next_offset, end);
        self.events.push_back(PartitionEvent::Ended);
    }

    /// Reading goes on at `to`, and what was before it from `from` on is gone.
    fn restarted(&mut self, from: u64, to: u64) {
        self.held = None;
        self.resetting = false;
        self.at_end = false;
        self.next_offset = to;
        if from < to {
            self.lost(from, to);
        }
        self.end_when_done();
    }

    fn lost(&mut self, from: u64, to: u64) {
        let to = self.end.map_or(to, |end| to.min(end));
        if from < to {
            let PartitionInfo { topic, number, .. } = &self.info;
            tracing::error!(%topic, partition = number, from, to, "records were removed before they were read");
            self.events.push_back(PartitionEvent::Lost { from, to });
        }
    }

    fn end_when_done(&mut self) {
        if self.end.is_some_and(|end| self.next_offset >= end) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if !self.ended {
            self.ended = true;
            self.held = None;
            self.request = Some(Request::Release);
            self.events.push_back(PartitionEvent::Ended);
        }
    }

    /// The state of the broker, once a second.
    fn hear(&mut self, trouble: Option<String>) {
        if self.ended {
            return;
        }
        let PartitionInfo { topic, number, .. } = &self.info;
        match trouble.or_else(|| self.refused.clone()) {
            Some(reason) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::warn!(%topic, partition = number, "cannot be read: {reason}");
                }
                // One is enough for a worker that does not look at the moment.
                if !self.events.iter().any(|event| matches!(event, PartitionEvent::Unreachable)) {
                    self.events.push_back(PartitionEvent::Unreachable);
                }
            }
            None if std::mem::take(&mut self.troubled) => {
                tracing::info!(%topic, partition = number, "can be read again");
                self.events.retain(|event| !matches!(event, PartitionEvent::Unreachable));
                // librdkafka reports an end once; whether it is still the end has to be asked.
                if std::mem::take(&mut self.at_end) {
                    self.request = Some(Request::Seek { to: self.next_offset });
                }
            }
            None => {}
        }
    }
}

/// Records of one partition, borrowed from librdkafka and given back one by one as they are passed.
pub struct KafkaBatch {
    messages: Messages,
    next_offset: u64,
}

impl Batch for KafkaBatch {
    #[inline]
    fn current(&self) -> Option<RawRecord<'_>> {
        self.messages.current().map(|message| RawRecord {
            offset: message.offset() as u64,
            bytes: message.payload(),
            appended_ms: message.appended_ms(),
            redriven_from: None,
        })
    }

    #[inline]
    fn advance(&mut self) {
        self.messages.advance();
    }

    fn next_offset(&self) -> u64 {
        self.next_offset
    }
}
