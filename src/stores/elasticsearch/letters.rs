//! Dead letters read back from their index, page by page.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::Reply;
use crate::stores::StoreError;

/// Letters of a page. Each may be as long as a record.
const PAGE: usize = 200;

/// The place of a letter in the order of pages.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Place(Vec<Value>);

/// Some letters.
#[derive(Debug, Default)]
pub struct Page {
    /// As they were written.
    pub letters: Vec<Box<RawValue>>,
    /// Behind which the next page begins; absent at the end.
    pub last: Option<Place>,
}

/// The body of the request.
pub(super) fn request(after: Option<&Place>) -> Value {
    let by = |field: &str, kind: &str| json!({ field: { "order": "asc", "unmapped_type": kind } });
    let mut body = json!({
        "query": { "match_all": {} },
        "sort": [by("timestamp", "date"), by("identity", "keyword"), by("partition", "integer"), by("offset", "long")],
        "size": PAGE,
        "track_total_hits": false,
    });
    if let Some(Place(after)) = after {
        body["search_after"] = json!(after);
    }
    body
}

#[derive(Deserialize)]
struct Answer {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    source: Box<RawValue>,
    sort: Place,
}

/// The page in the answer.
pub(super) fn page(reply: &Reply) -> Result<Page, StoreError> {
    match reply.status {
        200 => {}
        // No index yet: nothing was ever written.
        404 => return Ok(Page::default()),
        _ => {
            let message = format!("elasticsearch: reading dead letters failed: {}", reply.describe());
            return Err(StoreError::Unavailable(message));
        }
    }
    let unreadable =
        |error| StoreError::Unavailable(format!("elasticsearch: cannot read the answer to a search: {error}"));
    let answer: Answer = serde_json::from_slice(&reply.body).map_err(unreadable)?;
    let hits = answer.hits.hits;
    let last = hits.last().filter(|_| hits.len() == PAGE).map(|hit| hit.sort.clone());
    Ok(Page { letters: hits.into_iter().map(|hit| hit.source).collect(), last })
}
