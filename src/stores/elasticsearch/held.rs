//! What there is of a range of offsets of a partition: for the audit.

use std::ops::Range;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::Millis;
use serde_json::{Value, json};

use super::client::Reply;
use super::search::MAX_RESULT_WINDOW;
use crate::stores::{Held, StoreError};

fn lists(offsets: &Range<u64>, list: usize) -> bool {
    offsets.end.saturating_sub(offsets.start) <= list.min(MAX_RESULT_WINDOW) as u64
}

/// How much older than its neighbours a record may be that came out of order.
const DISORDER_MS: Millis = 3_600_000;

/// The body of the request. Ids differ where a topic was made anew; the fields do not, so both are counted. Documents
/// from before `kept_from` are deleted, if any are.
pub(super) fn request(
    partition: &PartitionInfo,
    offsets: &Range<u64>,
    list: usize,
    kept_from: Option<Millis>,
) -> Value {
    let size = if lists(offsets, list) { MAX_RESULT_WINDOW } else { 0 };
    let mut body = json!({
        "query": { "bool": { "filter": [
            { "term": { "topic": { "value": &*partition.topic } } },
            { "term": { "partition": { "value": partition.number } } },
            { "range": { "offset": { "gte": offsets.start, "lt": offsets.end.min(i64::MAX as u64) } } },
        ] } },
        "sort": [{ "offset": { "order": "asc", "unmapped_type": "long" } }],
        "_source": false,
        "size": size,
        "track_total_hits": true,
    });
    if let Some(kept_from) = kept_from {
        let hardly = json!({ "format": "epoch_millis", "lt": kept_from.saturating_add(DISORDER_MS) });
        body["aggs"] = json!({ "hardly_kept": {
            "filter": { "range": { "timestamp": hardly } },
            "aggs": { "last": { "max": { "field": "offset" } } },
        } });
    }
    body
}

/// What the answer says.
pub(super) fn answer(offsets: &Range<u64>, list: usize, reply: &Reply) -> Result<Held, StoreError> {
    let lists = lists(offsets, list);
    if reply.status == 404 {
        // No index yet: nothing was ever written.
        return Ok(Held { offsets: lists.then(Vec::new), ..Held::default() });
    }
    if reply.status != 200 {
        return Err(StoreError::Unavailable(format!("elasticsearch: counting failed: {}", reply.describe())));
    }
    let unreadable = || StoreError::Unavailable("elasticsearch: cannot read the answer to a count".to_owned());
    let body: Value = serde_json::from_slice(&reply.body).map_err(|_| unreadable())?;
    let documents = body["hits"]["total"]["value"].as_u64().ok_or_else(unreadable)?;
    let hits = body["hits"]["hits"].as_array().into_iter().flatten();
    let found: Option<Vec<u64>> = hits.map(|hit| hit["sort"][0].as_u64()).collect();
    // As a float; `null` where there is none.
    let hardly_kept = body.pointer("/aggregations/hardly_kept/last/value").and_then(Value::as_f64);
    let hardly_kept = hardly_kept.map(|offset| offset as u64);
    Ok(Held { documents, offsets: found.filter(|_| lists), hardly_kept, ..Held::default() })
}
