//! Searches for log documents: a [`LogQuery`] becomes a request body, and the answer becomes a [`LogPage`].
//!
//! Bodies are built as JSON values, so that nothing in a query can change its shape. Newest first: by event time, then
//! partition, then offset, all descending; the topic makes the order total, so that a cursor neither repeats nor skips.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::Reply;
use crate::stores::{LogPage, LogQuery, StoreError};

/// `index.max_result_window`, at its default: how far into the hits a page may reach without a cursor.
pub(super) const MAX_RESULT_WINDOW: usize = 10_000;

/// Longest free text, in bytes. Far below the number of clauses that Lucene accepts.
const MAX_TEXT_BYTES: usize = 1_000;

/// Longest cursor that can be one of ours, in bytes.
const MAX_CURSOR_BYTES: usize = 1_024;

/// The body of a search request.
pub(super) fn request(query: &LogQuery, timeout: Duration) -> Result<Value, StoreError> {
    let skip = if query.cursor.is_some() { 0 } else { query.skip };
    if skip.saturating_add(query.size) > MAX_RESULT_WINDOW {
        return Err(StoreError::BadQuery(format!(
            "expected a page within the first {MAX_RESULT_WINDOW} documents, got {} to {}; use the cursor of the page before",
            skip,
            skip.saturating_add(query.size)
        )));
    }
    let mut body = json!({
        "query": { "bool": { "filter": filters(query)? } },
        "sort": [
            { "timestamp": { "order": "desc", "unmapped_type": "date" } },
            { "partition": { "order": "desc", "unmapped_type": "integer" } },
            { "offset": { "order": "desc", "unmapped_type": "long" } },
            { "topic": { "order": "desc", "unmapped_type": "keyword" } },
        ],
        "from": skip,
        "size": query.size,
        "track_total_hits": true,
        "timeout": format!("{}ms", timeout.as_millis().max(1)),
    });
    if let Some(cursor) = &query.cursor {
        body["search_after"] = Cursor::parse(cursor)?.search_after();
    }
    Ok(body)
}

fn filters(query: &LogQuery) -> Result<Vec<Value>, StoreError> {
    let mut filters = Vec::new();
    let mut term = |field: &str, value: Option<Value>| {
        filters.extend(value.map(|value| json!({ "term": { field: { "value": value } } })));
    };
    term("service_name", query.service_name.as_deref().map(Value::from));
    term("level", query.level.as_deref().map(Value::from));
    term("status_code", query.status_code.map(Value::from));
    term("anomaly", query.anomaly.map(Value::from));
    if let Some(ids) = &query.pattern_ids {
        filters.push(json!({ "terms": { "pattern_id": ids } }));
    }
    if query.from_ms.is_some() || query.to_ms.is_some() {
        let mut range = json!({ "format": "epoch_millis" });
        if let Some(from) = query.from_ms {
            range["gte"] = json!(bound(from));
        }
        if let Some(to) = query.to_ms {
            range["lt"] = json!(bound(to));
        }
        filters.push(json!({ "range": { "timestamp": range } }));
    }
    if let Some(text) = &query.text {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("expected a text of at most {MAX_TEXT_BYTES} bytes, got {}", text.len());
            return Err(StoreError::BadQuery(message));
        }
        filters.push(json!({ "match": { "message": { "query": text, "operator": "and" } } }));
    }
    Ok(filters)
}

/// An event time as a date field takes it: later ones than 9999-12-31 do not occur.
fn bound(ms: u64) -> u64 {
    ms.min(253_402_300_799_999)
}

/// The place of a document in the order of hits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    timestamp_ms: i64,
    partition: i64,
    offset: i64,
    topic: String,
}

impl Cursor {
    /// The place of a hit, from its sort values.
    fn of(sort: &[Value]) -> Option<Self> {
        let [timestamp, partition, offset, topic] = sort else { return None };
        Some(Self {
            timestamp_ms: timestamp.as_i64()?,
            partition: partition.as_i64()?,
            offset: offset.as_i64()?,
            topic: topic.as_str()?.to_owned(),
        })
    }

    fn search_after(&self) -> Value {
        json!([self.timestamp_ms, self.partition, self.offset, self.topic])
    }

    /// As text that is safe in an address: four parts joined by dots, the topic in hexadecimal.
    fn encode(&self) -> String {
        let topic: String = self.topic.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{}.{}.{}.{topic}", self.timestamp_ms, self.partition, self.offset)
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        if text.len() > MAX_CURSOR_BYTES {
            return Err(StoreError::BadCursor);
        }
        // Numbers have several spellings; only ours is a cursor.
        Self::decode(text).filter(|cursor| cursor.encode() == text).ok_or(StoreError::BadCursor)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let (timestamp_ms, partition, offset) = (number()?, number()?, number()?);
        let hex = parts.next()?.as_bytes();
        if parts.next().is_some() || hex.len() % 2 != 0 {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let topic = hex.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
        Some(Self { timestamp_ms, partition, offset, topic: String::from_utf8(topic).ok()? })
    }
}

#[derive(Deserialize)]
struct Answer {
    timed_out: bool,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    total: Total,
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    source: Box<RawValue>,
    sort: Vec<Value>,
}

/// The page in the answer to a search.
pub(super) fn page(query: &LogQuery, reply: &Reply) -> Result<LogPage, StoreError> {
    match reply.status {
        200 => {}
        // No index yet: nothing was ever written.
        404 => return Ok(LogPage::default()),
        400 => return Err(StoreError::BadQuery(format!("elasticsearch refused the search: {}", reply.describe()))),
        _ => return Err(StoreError::Unavailable(format!("elasticsearch: search failed: {}", reply.describe()))),
    }
    let unreadable = |e| StoreError::Unavailable(format!("elasticsearch: cannot read the answer to a search: {e}"));
    let answer: Answer = serde_json::from_slice(&reply.body).map_err(unreadable)?;
    if answer.timed_out {
        let message = "elasticsearch: the search took longer than search_timeout; narrow it by time or service";
        return Err(StoreError::Unavailable(message.into()));
    }
    let hits = answer.hits.hits;
    // Without a cursor the total says whether more follow; with one, a full page means that there may be.
    let more = match &query.cursor {
        None => (query.skip.saturating_add(hits.len()) as u64) < answer.hits.total.value,
        Some(_) => hits.len() == query.size,
    };
    let last = hits.last().filter(|_| more);
    let next_cursor = last.and_then(|hit| Cursor::of(&hit.sort)).map(|cursor| cursor.encode());
    let documents = hits.into_iter().map(|hit| hit.source).collect();
    Ok(LogPage { total: answer.hits.total.value, documents, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_filters_and_nothing_in_it_changes_their_shape() {
        let query = LogQuery {
            service_name: Some("a\"}},{\"match_all\":{}".into()),
            level: Some("ERROR".into()),
            status_code: Some(503),
            anomaly: Some(true),
            pattern_ids: Some(vec!["0123456789abcdef".into()]),
            from_ms: Some(10),
            to_ms: Some(u64::MAX),
            text: Some("user:* OR \"x".into()),
            skip: 40,
            size: 20,
            cursor: None,
        };
        let body = request(&query, Duration::from_secs(3)).unwrap();
        assert_eq!(
            body["query"]["bool"]["filter"],
            json!([
                { "term": { "service_name": { "value": "a\"}},{\"match_all\":{}" } } },
                { "term": { "level": { "value": "ERROR" } } },
                { "term": { "status_code": { "value": 503 } } },
                { "term": { "anomaly": { "value": true } } },
                { "terms": { "pattern_id": ["0123456789abcdef"] } },
                { "range": { "timestamp": { "format": "epoch_millis", "gte": 10, "lt": 253_402_300_799_999_u64 } } },
                { "match": { "message": { "query": "user:* OR \"x", "operator": "and" } } },
            ])
        );
        assert_eq!((&body["from"], &body["size"], &body["timeout"]), (&json!(40), &json!(20), &json!("3000ms")));
    }

    #[test]
    fn a_page_too_far_or_a_text_too_long_is_refused() {
        let refused = |query: LogQuery| match request(&query, Duration::from_secs(1)) {
            Err(StoreError::BadQuery(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(refused(LogQuery { skip: 9_999, size: 2, ..Default::default() }).contains("cursor"));
        assert!(refused(LogQuery { skip: usize::MAX, size: 2, ..Default::default() }).contains("cursor"));
        assert!(refused(LogQuery { text: Some("x".repeat(1_001)), ..Default::default() }).contains("1000 bytes"));
        assert!(request(&LogQuery { skip: 9_998, size: 2, ..Default::default() }, Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_cursor_comes_back_as_it_was_and_nothing_else_is_taken_for_one() {
        let cursor =
            Cursor { timestamp_ms: 1_700_000_000_000, partition: 3, offset: 1 << 40, topic: "lögs/*.log".into() };
        assert_eq!(Cursor::parse(&cursor.encode()).unwrap(), cursor);
        let long = format!("1.2.3.{}", "61".repeat(2_000));
        for text in ["", "1", "1.2.3", "1.2.x.61", "1.2.3.6", "1.2.3.zz", "1.2.3.61.4", "1.2.3.ff", "1.2.3.+1", &long] {
            assert!(matches!(Cursor::parse(text), Err(StoreError::BadCursor)), "{text}");
        }
    }

    #[test]
    fn a_cursor_is_given_while_more_follows() {
        let body = r#"{"timed_out":false,"hits":{"total":{"value":5},"hits":[
            {"_source":{"a":1},"sort":[9,0,4,"t"]},{"_source":{"a":2},"sort":[8,0,3,"t"]}]}}"#;
        let reply = Reply { status: 200, body: body.into() };
        let get = |skip, size, cursor: Option<&str>| {
            let query = LogQuery { skip, size, cursor: cursor.map(String::from), ..Default::default() };
            page(&query, &reply).unwrap()
        };
        let first = get(0, 2, None);
        assert_eq!((first.total, first.documents[1].get()), (5, r#"{"a":2}"#));
        assert_eq!(first.next_cursor.as_deref(), Some("8.0.3.74"));
        assert_eq!(get(3, 2, None).next_cursor, None);
        assert!(get(0, 2, Some("9.0.9.74")).next_cursor.is_some());
        assert_eq!(get(0, 3, Some("9.0.9.74")).next_cursor, None);
    }

    #[test]
    fn half_an_answer_is_not_passed_off_as_a_whole_one() {
        let body = r#"{"timed_out":true,"hits":{"total":{"value":5},"hits":[]}}"#;
        let reply = Reply { status: 200, body: body.into() };
        assert!(matches!(page(&LogQuery::default(), &reply), Err(StoreError::Unavailable(_))));
        let missing = Reply { status: 404, body: "{}".into() };
        assert_eq!(page(&LogQuery::default(), &missing).unwrap().total, 0);
    }
}
