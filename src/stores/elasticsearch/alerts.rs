//! An alert read back from its index.

use serde_json::{Value, json};

use super::client::Reply;
use crate::stores::StoreError;

/// The body of the request for an alert by its id.
pub(super) fn request(id: &str) -> Value {
    json!({
        "query": { "ids": { "values": [id] } },
        "sort": [{ "as_of": { "order": "desc", "unmapped_type": "date" } }],
        "size": 1,
        "track_total_hits": false,
    })
}

/// The alert in the answer, if there is one.
pub(super) fn answer(reply: &Reply) -> Result<Option<Value>, StoreError> {
    match reply.status {
        200 => {}
        // No index yet: nothing was ever written.
        404 => return Ok(None),
        _ => {
            let message = format!("elasticsearch: reading an alert failed: {}", reply.describe());
            return Err(StoreError::Unavailable(message));
        }
    }
    let mut body: Value = serde_json::from_slice(&reply.body).map_err(|error| {
        StoreError::Unavailable(format!("elasticsearch: cannot read the answer to a search: {error}"))
    })?;
    let found = body.pointer_mut("/hits/hits/0/_source").map(Value::take);
    Ok(found)
}
