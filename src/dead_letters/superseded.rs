//! Letters that no longer hold, since a later start read their records again.
//!
//! In: each start that went on from a checkpoint: when it was, and from where it read. Out: [`Superseded`]. A start that
//! began anew needs no record: where it began and when is in the newest checkpoint. Letters and starts are compared by
//! the wall clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

use super::Document;
use crate::checkpoint::format::Damage;
use crate::checkpoint::store::{CopyStore, StoreError};
use crate::checkpoint::{CheckpointError, restore};
use crate::sources::Positions;

/// Where starts are recorded, beside the checkpoints.
const FOLDER: &str = "starts";

/// Identity of the topic, and the partition's number.
type Partition = (String, i32);

/// A start that read a partition from an offset on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReadAgain {
    identity: String,
    partition: i32,
    at_ms: Millis,
    from: u64,
}

/// Which letters no longer hold.
#[derive(Debug, Default)]
pub struct Superseded(BTreeMap<Partition, Vec<ReadAgain>>);

/// Records that a start goes on from these positions.
///
/// # Errors
/// When it cannot be written.
pub async fn record_start(store: &CopyStore, at_ms: Millis, positions: &Positions) -> Result<(), StoreError> {
    if positions.is_empty() {
        return Ok(());
    }
    let of = positions.iter().map(|(partition, &from)| ReadAgain {
        identity: partition.identity.to_string(),
        partition: partition.number,
        at_ms,
        from,
    });
    // Text and numbers always serialise.
    let json = serde_json::to_vec(&of.collect::<Vec<_>>()).unwrap_or_default();
    store.put(&format!("{FOLDER}/{at_ms:015}"), Bytes::from(json)).await
}

impl Superseded {
    /// What is known where checkpoints are.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(store: &CopyStore) -> Result<Self, CheckpointError> {
        let mut superseded = Self::default();
        for name in store.list(FOLDER).await? {
            let parse = |bytes: &Bytes| {
                serde_json::from_slice::<Vec<ReadAgain>>(bytes)
                    .map_err(|error| Damage::Section { at: 0, reason: error.to_string() })
            };
            superseded.extend(store.get(&name, false, parse).await?);
        }
        let Some(&newest) = restore::ids(store).await?.last() else { return Ok(superseded) };
        let restore::Loaded { manifest, standing, .. } = restore::load(store, newest).await?;
        superseded.extend(standing.cuts.into_iter().filter_map(|(partition, cut)| {
            Some(ReadAgain {
                identity: partition.identity.to_string(),
                partition: partition.number,
                at_ms: manifest.origin_ms,
                from: cut.ledger.first_offset?,
            })
        }));
        Ok(superseded)
    }

    fn extend(&mut self, again: impl IntoIterator<Item = ReadAgain>) {
        for again in again {
            self.0.entry((again.identity.clone(), again.partition)).or_default().push(again);
        }
    }

    /// Whether a letter was written before a start that read its record again.
    pub fn has(&self, letter: &Document<'_>) -> bool {
        let again = self.0.get(&(letter.identity.to_string(), letter.partition));
        again.is_some_and(|again| {
            again.iter().any(|again| letter.timestamp < again.at_ms && letter.offset >= again.from)
        })
    }
}
