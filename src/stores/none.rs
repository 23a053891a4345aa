//! No store: documents are formatted and dropped. For benchmarks, and for runs that only serve live views.

use std::sync::Arc;

use async_trait::async_trait;

use super::{LogBatch, LogPage, LogQuery, Rejected, SEARCHABLE, Store, StoreError, WindowWrite};

/// Takes everything and keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

#[async_trait]
impl Store for NoStore {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn write_logs(&self, _: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        Ok(Vec::new())
    }

    async fn write_windows(&self, _: Vec<WindowWrite>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn search_logs(&self, _: &LogQuery) -> Result<LogPage, StoreError> {
        Err(StoreError::NotSearchable(format!("no documents are stored ([store.none]); to search, {SEARCHABLE}")))
    }

    async fn health(&self) -> Result<String, StoreError> {
        Ok("nothing is stored".to_owned())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
