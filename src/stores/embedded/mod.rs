//! The embedded search index: the same documents and queries as Elasticsearch, on local disk.
//!
//! In: batches of log documents, and windows. Out: acknowledgements once the documents are on disk and can be found,
//! within `commit_interval`; pages of log documents. On error: a full disk, a damaged part and a directory in use by
//! another process are fatal, and say what to do.
//!
//! - `config`: the options and their checks.
//! - `schema`: the fields; `document`: a log document's values, read by the indexing threads.
//! - `parts`: the directory; `part`: a part of the index, over a span of event time.
//! - `indexer`: the thread that writes: parts that are open, commits, retention.
//! - `search`: a query over all parts.
//! - `windows`: files of window documents.

mod config;
mod document;
mod indexer;
mod part;
mod parts;
mod schema;
mod search;
#[cfg(test)]
mod tests;
mod windows;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use crossbeam_channel::Sender;
use floodmark_dataflows::input::PartitionInfo;
use parking_lot::Mutex;
use tantivy::Searcher;
use tokio::sync::oneshot;

pub use self::config::EmbeddedConfig;
use self::indexer::{Indexer, Job, Readers};
use self::schema::Fields;
use self::windows::WindowFiles;
use super::{AlertWrite, Held, LogBatch, LogPage, LogQuery, Rejected, Store, StoreError, WindowWrite};
use crate::metrics::Samples;

/// A store of documents on local disk.
pub struct EmbeddedStore {
    directory: PathBuf,
    fields: Arc<Fields>,
    readers: Readers,
    windows: Arc<Mutex<WindowFiles>>,
    expired: Arc<AtomicU64>,
    has_retention: bool,
    /// Gone only while the store is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    _lock: File,
}

impl EmbeddedStore {
    /// Opens the index in `config.path`, or else in `default_path`, and starts the thread that writes it.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] when the configuration cannot work, the directory cannot be used or is in use by another
    /// process, or a part of the index is damaged.
    pub fn open(config: &EmbeddedConfig, default_path: &Path) -> Result<Self, StoreError> {
        if let Some(mistake) = config.mistakes().first() {
            return Err(StoreError::Fatal(format!("store.embedded: {mistake}")));
        }
        let directory = config.path.as_deref().unwrap_or(default_path).to_owned();
        let lock = parts::lock(&directory)?;
        parts::check_span(&directory, config.span)?;
        let (schema, fields) = schema::schema();
        let (fields, readers) = (Arc::new(fields), Readers::default());
        let expired = Arc::<AtomicU64>::default();
        let windows = Arc::new(Mutex::new(WindowFiles::open(&directory, config)?));
        let indexer = Indexer::open(&directory, config, (schema, fields.clone()), readers.clone(), expired.clone())?;
        // Unbounded: the writer's queue bounds what is in it.
        let (jobs, receiver) = crossbeam_channel::unbounded();
        let thread = std::thread::Builder::new()
            .name("embedded-store".to_owned())
            .spawn(move || indexer.run(&receiver))
            .map_err(|e| StoreError::Fatal(format!("cannot start the thread of the embedded store: {e}")))?;
        let (jobs, thread) = (Some(jobs), Some(thread));
        let has_retention = config.retention.is_some();
        Ok(Self { directory, fields, readers, windows, expired, has_retention, jobs, thread, _lock: lock })
    }

    /// Documents that were not stored since they were older than the retention when they came, or were deleted for it.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Job) -> Result<(), StoreError> {
        let ended = || StoreError::Fatal("the thread of the embedded store has ended; its message is above".to_owned());
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job(answer)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    fn searchers(&self) -> Vec<Searcher> {
        self.readers.read().values().map(tantivy::IndexReader::searcher).collect()
    }
}

/// What was not acknowledged is not committed either: it comes again.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|e| StoreError::Fatal(format!("the embedded store panicked: {e}")))?
}

#[async_trait]
impl Store for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    /// Many: a batch waits for the commit that contains it. The writer's queue is the bound.
    fn max_in_flight(&self) -> usize {
        4_096
    }

    async fn write_logs(&self, batch: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        self.ask(|answer| Job::Write(batch, answer)).await?;
        Ok(Vec::new())
    }

    async fn write_windows(&self, windows: Vec<WindowWrite>) -> Result<(), StoreError> {
        let files = self.windows.clone();
        blocking(move || files.lock().write(&windows)).await
    }

    async fn write_alerts(&self, alerts: Vec<AlertWrite>) -> Result<(), StoreError> {
        let files = self.windows.clone();
        blocking(move || files.lock().write_alerts(&alerts)).await
    }

    fn metrics(&self, samples: &mut Samples) {
        let help = "Log documents not stored, or deleted, for being older than the retention";
        samples.counter("store_expired_documents", help, &[], self.expired() as f64);
    }

    async fn search_logs(&self, query: &LogQuery) -> Result<LogPage, StoreError> {
        let (searchers, fields, query) = (self.searchers(), self.fields.clone(), query.clone());
        blocking(move || search::search(&searchers, &fields, &query)).await
    }

    async fn held(&self, partition: &PartitionInfo, offsets: Range<u64>, list: usize) -> Result<Held, StoreError> {
        let (searchers, source) = (self.searchers(), schema::source_of(partition));
        let mut held = blocking(move || search::held(&searchers, source, &offsets, list)).await?;
        held.has_retention = self.has_retention;
        held.expired = Some(self.expired());
        Ok(held)
    }

    async fn health(&self) -> Result<String, StoreError> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(StoreError::Fatal("the thread of the embedded store has ended".to_owned()));
        }
        let searchers = self.searchers();
        let documents: u64 = searchers.iter().map(Searcher::num_docs).sum();
        Ok(format!("{documents} documents in {} parts in {}", searchers.len(), self.directory.display()))
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.ask(Job::Flush).await
    }
}
