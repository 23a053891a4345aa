//! The ids of topics, which tell a topic that was deleted and made again from the first one of its name.
//!
//! In: a client and names of topics. Out: their ids, and the identities made of them. On error: a broker that does not
//! answer is an error that may pass. Blocks: for the source's own thread.
//!
//! Kafka gives ids since version 2.8. The Rust interface cannot ask for them, librdkafka can.
#![allow(unsafe_code, reason = "the id of a topic can be had only through librdkafka's C interface")]

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use rdkafka::bindings as rd;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};

use super::native::Consumer;
use super::plan::{REQUEST_TIMEOUT, is_missing, unreachable};
use crate::sources::SourceError;

/// The id of a broker that has none to give: all zeros.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// What becomes part of the ids of documents.
pub(super) fn identity(topic: &str, id: Option<&str>) -> Arc<str> {
    id.map_or_else(|| topic.into(), |id| format!("{topic}@{id}").into())
}

/// The id within an identity, if it has one.
pub(super) fn id_of<'a>(topic: &str, identity: &'a str) -> Option<&'a str> {
    identity.strip_prefix(topic)?.strip_prefix('@')
}

/// The id as brokers and tools write it, unless it is that of a broker that gives none.
pub(super) fn known(id: &str) -> Option<String> {
    (id != NO_ID && !id.is_empty()).then(|| id.to_owned())
}

/// What a broker says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Described {
    /// It is there, and this is its id, if the broker gives ids.
    Here(Option<String>),
    /// There is no such topic.
    Missing,
}

/// Whether ids can be asked for. librdkafka asks the controller, and waits in vain where the cluster names none of its
/// brokers as that; its mock cluster is such a one.
fn can_be_asked(control: &Consumer) -> Result<bool, SourceError> {
    let metadata = control.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| unreachable(control, &e))?;
    // SAFETY: the client lives as long as `control`.
    let controller =
        unsafe { rd::rd_kafka_controllerid(control.client().native_ptr(), REQUEST_TIMEOUT.as_millis() as i32) };
    if controller < 0 {
        return Err(SourceError::Unreachable("the Kafka brokers name no controller".to_owned()));
    }
    Ok(metadata.brokers().iter().any(|broker| broker.id() == controller))
}

/// Asks for the ids of topics, where they can be asked for; in the order of the topics.
pub(super) fn describe_if_possible(control: &Consumer, topics: &[String]) -> Result<Vec<Described>, SourceError> {
    match can_be_asked(control)? {
        true => describe(control, topics),
        false => Ok(vec![Described::Here(None); topics.len()]),
    }
}

/// Asks for the ids of topics; in the order of the topics.
pub(super) fn describe(control: &Consumer, topics: &[String]) -> Result<Vec<Described>, SourceError> {
    let failed = |code: RDKafkaErrorCode| unreachable(control, &KafkaError::AdminOp(code));
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(topic.as_str()).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = REQUEST_TIMEOUT.as_millis() as i32;
    // SAFETY: the client lives as long as `control`. The names outlive the collection, which copies them. What is made
    // here is destroyed here, once; what is read of an event is read before the event is destroyed. All calls may be
    // made from any thread.
    unsafe {
        let client = control.client().native_ptr();
        let collection = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = rd::rd_kafka_AdminOptions_new(client, kind);
        let mut text = [0; 64];
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        let queue = rd::rd_kafka_queue_new(client);
        rd::rd_kafka_DescribeTopics(client, collection, options, queue);
        // The answer or its timeout comes within the time; a second more is for a busy machine.
        let event = rd::rd_kafka_queue_poll(queue, timeout_ms + 1_000);
        let described = read(event, topics).map_err(failed);
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_TopicCollection_destroy(collection);
        described
    }
}

/// Reads the answer.
///
/// # Safety
/// `event` is null or an event that is not destroyed meanwhile.
unsafe fn read(event: *mut rd::rd_kafka_event_t, topics: &[String]) -> Result<Vec<Described>, RDKafkaErrorCode> {
    if event.is_null() {
        return Err(RDKafkaErrorCode::OperationTimedOut);
    }
    // SAFETY: everything that is pointed to belongs to the event.
    unsafe {
        let code = rd::rd_kafka_event_error(event);
        if code.is_error() {
            return Err(code.into());
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        let mut count = 0;
        let found = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut described = vec![Described::Missing; topics.len()];
        for at in 0..count {
            let topic = *found.add(at);
            let name = CStr::from_ptr(rd::rd_kafka_TopicDescription_name(topic)).to_string_lossy();
            let Some(slot) = topics.iter().position(|topic| *topic == name) else { continue };
            let code: RDKafkaErrorCode = rd::rd_kafka_error_code(rd::rd_kafka_TopicDescription_error(topic)).into();
            if is_missing(code) {
                continue;
            }
            if code != RDKafkaErrorCode::NoError {
                return Err(code);
            }
            let id = CStr::from_ptr(rd::rd_kafka_Uuid_base64str(rd::rd_kafka_TopicDescription_topic_id(topic)));
            described[slot] = Described::Here(known(&id.to_string_lossy()));
        }
        Ok(described)
    }
}

/// Reads `Topic NAME changed id from ID to ID` out of a line of librdkafka's log: the topic and its id from then on.
pub(super) fn changed_id(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once(' ')?;
    let (_, id) = after.split_once(" to ")?;
    Some((topic, id.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_hold_the_id_where_there_is_one() {
        assert_eq!(&*identity("logs", None), "logs");
        let with = identity("logs", Some("x_4-"));
        assert_eq!((&*with, id_of("logs", &with), id_of("logs", "logs")), ("logs@x_4-", Some("x_4-"), None));
        assert_eq!((known(NO_ID), known("x")), (None, Some("x".to_owned())));
    }

    #[test]
    fn changed_ids_are_found_in_the_log() {
        let line = "[thrd:main]: Topic logs.raw changed id from AAAAAAAAAAAAAAAAAAAAAA to 7_Q-abc";
        assert_eq!(changed_id(line), Some(("logs.raw", "7_Q-abc")));
        assert_eq!(changed_id("[thrd:main]: Topic logs.raw [0] Leader 1 Epoch 0"), None);
    }
}
