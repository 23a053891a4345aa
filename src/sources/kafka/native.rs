//! Messages in batches, straight from a partition's queue in librdkafka: the one place that calls its C interface.
//!
//! In: a consumer and the name of a partition. Out: [`Messages`], whose payloads are borrowed where librdkafka put
//! them, so nothing is copied. Taking messages never blocks. Errors of a partition arrive between its messages, as a
//! message that says so.
//!
//! Why `unsafe`: the safe interface gives one message a call, each with an event of its own around it. On the same
//! machine and topic that took 0.75 to 0.95 CPU-seconds per million messages of 350 bytes, batches 0.40 to 0.45.
//!
//! Why one queue a partition: a partition that nobody takes from fills its own queue, librdkafka then stops fetching
//! it, and the others go on.
#![allow(unsafe_code, reason = "halves the CPU time per message; see above")]

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use floodmark_dataflows::input::Waker;
use floodmark_dataflows::time::Millis;
use rdkafka::ClientContext as _;
use rdkafka::bindings as rd;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{IsError, RDKafkaErrorCode};

use super::client::Context;

/// The client that a worker's partitions are read with.
pub(super) type Consumer = BaseConsumer<Context>;

/// The means to wake a worker, once it has given one.
pub(super) type WakerCell = Arc<OnceLock<Waker>>;

/// The local queue of one partition.
pub(super) struct PartitionQueue {
    /// From `rd_kafka_queue_get_partition`; ours until `rd_kafka_queue_destroy`.
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// What the callback was given a pointer to: it must outlive the callback.
    _waker: WakerCell,
    /// The queue must not outlive its client.
    consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used and destroyed from any thread; access is through `&mut` or read-only.
unsafe impl Send for PartitionQueue {}

/// Runs on a thread of librdkafka, holding the queue's lock, when the queue is no longer empty.
unsafe extern "C" fn wake(_: *mut rd::rd_kafka_t, waker: *mut c_void) {
    // SAFETY: `waker` is what `PartitionQueue::open` passed: a `OnceLock<Waker>` in an `Arc` that the queue holds until
    // it has switched this callback off.
    let waker = unsafe { &*waker.cast::<OnceLock<Waker>>() };
    if let Some(waker) = waker.get() {
        waker();
    }
}

impl PartitionQueue {
    /// Gives a partition a queue of its own. To be called before the partition is assigned; it stays its own when the
    /// partition is unassigned and assigned again. `None` when the name cannot be a topic's.
    pub(super) fn open(consumer: &Arc<Consumer>, topic: &str, partition: i32, waker: WakerCell) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client is alive for as long as `consumer` is, and the name ends with a zero. The new reference to
        // the queue is ours. Forwarding it to nothing keeps it apart from the consumer's queue.
        let queue = unsafe {
            let client = consumer.client().native_ptr();
            let queue = NonNull::new(rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition))?;
            rd::rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut());
            let cell = Arc::as_ptr(&waker).cast_mut().cast::<c_void>();
            rd::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), cell);
            queue
        };
        Some(Self { queue, _waker: waker, consumer: Arc::clone(consumer) })
    }

    /// Takes what is there, up to `max` messages, without waiting. `None` when there is nothing.
    pub(super) fn take(&mut self, max: usize) -> Option<Messages> {
        // An empty queue is asked about often: no allocation for that.
        if self.is_empty() {
            return None;
        }
        let mut messages: Vec<Option<Message>> = Vec::with_capacity(max);
        // SAFETY: `Option<Message>` is a nullable pointer to a message (`Message` is transparent over `NonNull`), and
        // the buffer has room for `max` of them. librdkafka writes as many as it returns, each then ours.
        unsafe {
            let buffer = messages.as_mut_ptr().cast::<*mut rd::rd_kafka_message_t>();
            let count = rd::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, buffer, max);
            messages.set_len(usize::try_from(count).unwrap_or(0));
        }
        (!messages.is_empty()).then(|| Messages { messages, at: 0, _consumer: Arc::clone(&self.consumer) })
    }

    fn is_empty(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { rd::rd_kafka_queue_length(self.queue.as_ptr()) == 0 }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the callback runs under the queue's lock, which this call takes: afterwards no callback is running
        // or will. The queue is ours to destroy once.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, std::ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// The log of a client, heard by whoever needs to know what the client has said by now.
///
/// When librdkafka learns that a topic was made again, it says so in its log and goes on reading the new one where it was
/// in the old one. The line is in this queue before the first record of the new topic is in a partition's.
pub(super) struct ClientLog {
    /// From `rd_kafka_queue_new`; ours until `rd_kafka_queue_destroy`.
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// The queue must not outlive its client.
    consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used and destroyed from any thread.
unsafe impl Send for ClientLog {}

impl ClientLog {
    /// Has the log come here. `None` when librdkafka has no memory.
    pub(super) fn of(consumer: &Arc<Consumer>) -> Option<Self> {
        // SAFETY: the client is alive for as long as `consumer` is; the queue is ours.
        let queue = unsafe {
            let client = consumer.client().native_ptr();
            let queue = NonNull::new(rd::rd_kafka_queue_new(client))?;
            rd::rd_kafka_set_log_queue(client, queue.as_ptr());
            queue
        };
        Some(Self { queue, consumer: Arc::clone(consumer) })
    }

    /// Passes on what was said until now.
    pub(super) fn hear(&mut self) {
        // SAFETY: queue and event are alive; the strings belong to the event.
        unsafe {
            while rd::rd_kafka_queue_length(self.queue.as_ptr()) > 0 {
                let event = rd::rd_kafka_queue_poll(self.queue.as_ptr(), 0);
                if event.is_null() {
                    return;
                }
                let (mut facility, mut line, mut level) = (std::ptr::null(), std::ptr::null(), 0);
                if rd::rd_kafka_event_log(event, &mut facility, &mut line, &mut level) == 0 {
                    // As of syslog: 4 is a warning, 7 is for debugging.
                    let level = match level {
                        ..=4 => RDKafkaLogLevel::Warning,
                        5 | 6 => RDKafkaLogLevel::Info,
                        _ => RDKafkaLogLevel::Debug,
                    };
                    let (facility, line) = (CStr::from_ptr(facility), CStr::from_ptr(line));
                    self.consumer.context().log(level, &facility.to_string_lossy(), &line.to_string_lossy());
                }
                rd::rd_kafka_event_destroy(event);
            }
        }
    }
}

impl Drop for ClientLog {
    fn drop(&mut self) {
        // SAFETY: the log goes to the client's own queue again; then nothing refers to ours, which is destroyed once.
        unsafe {
            rd::rd_kafka_set_log_queue(self.consumer.client().native_ptr(), std::ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// A message, or a partition's error in its place; given back to librdkafka when dropped.
#[repr(transparent)]
pub(super) struct Message(NonNull<rd::rd_kafka_message_t>);

// SAFETY: a message is read-only and may be destroyed on any thread.
unsafe impl Send for Message {}

impl Message {
    fn raw(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: alive and unchanging until destroyed in `drop`.
        unsafe { self.0.as_ref() }
    }

    /// The offset of a record, or where the partition's error was met.
    #[inline]
    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// What is wrong with the partition, when this is no record.
    #[inline]
    pub(super) fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = self.raw().err;
        code.is_error().then(|| code.into())
    }

    /// The record's value; empty for a tombstone.
    #[inline]
    pub(super) fn payload(&self) -> &[u8] {
        let raw = self.raw();
        if raw.payload.is_null() {
            return &[];
        }
        // SAFETY: librdkafka says where the payload is and how long; it lives as long as the message.
        unsafe { std::slice::from_raw_parts(raw.payload.cast::<u8>(), raw.len) }
    }

    /// When the broker appended the record; `None` when the timestamp is the producer's.
    #[inline]
    pub(super) fn appended_ms(&self) -> Option<Millis> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: reads the message and writes `kind`.
        let time = unsafe { rd::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        let appended = kind == rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
        appended.then(|| Millis::try_from(time).ok()).flatten()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, and destroyed once.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// Messages in the order of the queue, each destroyed as soon as it is passed.
pub(super) struct Messages {
    /// Declared before the client: dropped before it.
    messages: Vec<Option<Message>>,
    at: usize,
    _consumer: Arc<Consumer>,
}

impl Messages {
    /// The message at the current place.
    #[inline]
    pub(super) fn current(&self) -> Option<&Message> {
        self.messages.get(self.at)?.as_ref()
    }

    /// Gives the current message back and moves on.
    #[inline]
    pub(super) fn advance(&mut self) {
        if let Some(message) = self.messages.get_mut(self.at) {
            *message = None;
            self.at += 1;
        }
    }

    /// The last message.
    pub(super) fn last(&self) -> Option<&Message> {
        self.messages.last()?.as_ref()
    }

    /// How many messages are left.
    pub(super) fn len(&self) -> usize {
        self.messages.len() - self.at
    }

    /// Cuts off everything from the first message on for which `cut` is true, and gives it back.
    pub(super) fn split_at(&mut self, cut: impl Fn(&Message) -> bool) -> Option<Messages> {
        let found = self.messages[self.at..].iter().position(|message| message.as_ref().is_some_and(&cut))?;
        let messages = self.messages.split_off(self.at + found);
        Some(Messages { messages, at: 0, _consumer: Arc::clone(&self._consumer) })
    }
}
