//! Dead letters in the store.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::letter::{DeadLetter, Document};
use super::{Sink, SinkError};
use crate::config::{Config, StoreChoice};
use crate::stores::elasticsearch::ElasticsearchStore;
use crate::stores::{DeadLetterWrite, Store};

/// Hands dead letters to the store.
pub struct StoreSink {
    store: Arc<dyn Store>,
    runtime: Handle,
}

impl StoreSink {
    /// Uses the store on a runtime, from an ordinary thread.
    pub fn new(store: Arc<dyn Store>, runtime: Handle) -> Self {
        Self { store, runtime }
    }
}

impl Sink for StoreSink {
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), SinkError> {
        let write = |letter: &DeadLetter| {
            let mut json = Vec::new();
            letter.write(&mut json);
            DeadLetterWrite { id: letter.id(), timestamp_ms: letter.timestamp_ms, json }
        };
        let letters = letters.iter().map(write).collect();
        let written = self.runtime.block_on(self.store.write_dead_letters(letters));
        written.map_err(|error| SinkError::Refused(error.to_string()))
    }

    fn describe(&self) -> String {
        format!("the store {}", self.store.name())
    }
}

/// Gives every letter away that is in the index, the oldest first.
pub(super) fn each(
    config: &Config,
    take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Ok(StoreChoice::Elasticsearch(store)) = config.store.chosen() else {
        anyhow::bail!("an index for dead letters needs [store.elasticsearch]");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = ElasticsearchStore::new(store)?;
    let mut after = None;
    loop {
        let page = runtime.block_on(store.dead_letters(after.as_ref()))?;
        for letter in page.letters {
            match serde_json::from_str::<Document<'static>>(letter.get()) {
                Ok(letter) => take(letter)?,
                Err(error) => tracing::warn!("a document in the index of dead letters is none: {error}"),
            }
        }
        match page.last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}
