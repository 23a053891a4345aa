//! Dead letters in the store.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::letter::DeadLetter;
use super::{Sink, SinkError};
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
