//! The thread that writes the index.
//!
//! In: batches, by a channel whose content the writer's queue bounds. Documents of parts that are open for writing go to
//! their indexing threads at once; those of further parts are parked until the next commit, which opens part after
//! part. Out: an answer to each batch once the commit that contains it is on disk. On error: every batch that waits
//! gets it, later ones too, and the thread ends; nothing that was not answered is lost to a run that reads it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::RwLock;
use tantivy::IndexReader;
use tantivy::schema::Schema;
use tokio::sync::oneshot;

use super::config::EmbeddedConfig;
use super::part::Part;
use super::parts;
use super::schema::{Fields, source_of};
use crate::stores::{LogBatch, StoreError};

/// While documents come faster than they are indexed, a commit waits up to so many intervals: it stops the indexing for
/// as long as the disk takes.
const BUSY_INTERVALS: u32 = 4;

/// How far indexing stands back, as `nice` counts: whoever waits for an answer, and the dataflow, go first.
const NICE: i32 = 10;

/// What the thread is asked to do.
pub(super) enum Job {
    /// Store a batch.
    Write(Arc<LogBatch>, oneshot::Sender<Result<(), StoreError>>),
    /// Commit now.
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

/// What searches see: the readers of the parts, by the start of their span.
pub(super) type Readers = Arc<RwLock<BTreeMap<u64, IndexReader>>>;

/// Some documents of a batch, by their places.
type Parked = (Arc<LogBatch>, Vec<usize>);

/// The state of the thread.
pub(super) struct Indexer {
    directory: PathBuf,
    config: EmbeddedConfig,
    schema: Schema,
    fields: Arc<Fields>,
    parts: BTreeMap<u64, Part>,
    /// Starts of the parts that are open for writing, the one used last at the end.
    open: Vec<u64>,
    /// Documents of parts that are not open for writing: places in a batch, by part.
    parked: BTreeMap<u64, Vec<Parked>>,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    uncommitted_bytes: u64,
    readers: Readers,
    expired: Arc<AtomicU64>,
}

impl Indexer {
    /// Opens the parts that are there.
    pub(super) fn open(
        directory: &Path,
        config: &EmbeddedConfig,
        (schema, fields): (Schema, Arc<Fields>),
        readers: Readers,
        expired: Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let mut parts = BTreeMap::new();
        for (start, path) in parts::list(directory)? {
            let part = Part::open(&path, &schema)?;
            readers.write().insert(start, part.reader.clone());
            parts.insert(start, part);
        }
        Ok(Self {
            directory: directory.to_owned(),
            config: config.clone(),
            schema,
            fields,
            parts,
            open: Vec::new(),
            parked: BTreeMap::new(),
            waiting: Vec::new(),
            uncommitted_bytes: 0,
            readers,
            expired,
        })
    }

    /// Runs until the senders are gone. What is not committed by then was never acknowledged, and is left.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        stand_back();
        let interval = self.config.commit_interval.0;
        // When the next commit is due, and when it is even if there is more to do.
        let mut due: Option<(Instant, Instant)> = None;
        loop {
            let patience = due.map_or(Duration::MAX, |(due, _)| due.saturating_duration_since(Instant::now()));
            let job = match due {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => jobs.recv_timeout(patience),
            };
            let result = match job {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.commit(),
                Ok(Job::Flush(answer)) => {
                    self.waiting.push(answer);
                    self.commit()
                }
                Ok(Job::Write(batch, answer)) => {
                    self.waiting.push(answer);
                    let now = Instant::now();
                    due.get_or_insert((now + interval, now + interval * BUSY_INTERVALS));
                    self.add(&batch).and_then(|()| {
                        let full = self.uncommitted_bytes >= self.config.commit_bytes.0;
                        let now = Instant::now();
                        let is_due = |(due, busy)| busy <= now || due <= now && jobs.is_empty();
                        if full || due.is_some_and(is_due) { self.commit() } else { Ok(()) }
                    })
                }
            };
            if let Err(error) = result {
                return self.fail(&error, jobs);
            }
            if self.waiting.is_empty() {
                due = None;
            }
        }
    }

    /// Answers everything with an error until nobody asks any more.
    fn fail(mut self, error: &StoreError, jobs: &Receiver<Job>) {
        tracing::error!(%error, "the embedded store stops");
        let refuse = |answer: oneshot::Sender<_>| {
            // Who no longer waits need not know.
            let _ = answer.send(Err(StoreError::Fatal(error.to_string())));
        };
        self.waiting.drain(..).for_each(refuse);
        for job in jobs {
            match job {
                Job::Write(_, answer) | Job::Flush(answer) => refuse(answer),
            }
        }
    }

    fn add(&mut self, batch: &Arc<LogBatch>) -> Result<(), StoreError> {
        self.uncommitted_bytes += batch.bytes.len() as u64;
        let span = self.config.span.as_millis();
        let mut by_part: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, entry) in batch.entries.iter().enumerate() {
            by_part.entry(entry.timestamp_ms - entry.timestamp_ms % span).or_default().push(place);
        }
        for (start, places) in by_part {
            if start + span <= self.kept_from() {
                self.expired.fetch_add(places.len() as u64, Ordering::Relaxed);
            } else if self.make_writable(start, false)? {
                self.add_to(start, batch, &places)?;
            } else {
                self.parked.entry(start).or_default().push((batch.clone(), places));
            }
        }
        Ok(())
    }

    fn add_to(&mut self, start: u64, batch: &Arc<LogBatch>, places: &[usize]) -> Result<(), StoreError> {
        let Some(part) = self.parts.get_mut(&start) else { return Ok(()) };
        part.add(batch, places, source_of(&batch.partition), &self.fields)
    }

    /// Opens a part for writing. If that many are open already, one without uncommitted documents makes room, with
    /// `force` any; otherwise the answer is false.
    fn make_writable(&mut self, start: u64, force: bool) -> Result<bool, StoreError> {
        if let Some(place) = self.open.iter().position(|open| *open == start) {
            let used = self.open.remove(place);
            self.open.push(used);
            return Ok(true);
        }
        if self.open.len() >= self.config.open_parts {
            let is_clean = |start: &u64| !self.parts[start].dirty;
            let Some(place) = self.open.iter().position(is_clean).or(force.then_some(0)) else { return Ok(false) };
            let closed = self.open.remove(place);
            if let Some(part) = self.parts.get_mut(&closed) {
                part.commit()?;
                part.stop_writing();
            }
        }
        let part = match self.parts.entry(start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let part = Part::open(&parts::path(&self.directory, start), &self.schema)?;
                self.readers.write().insert(start, part.reader.clone());
                entry.insert(part)
            }
        };
        part.start_writing(self.config.threads, self.config.memory_per_thread())?;
        self.open.push(start);
        Ok(true)
    }

    /// Makes everything durable and searchable, and answers.
    fn commit(&mut self) -> Result<(), StoreError> {
        for start in self.open.clone() {
            if let Some(part) = self.parts.get_mut(&start) {
                part.commit()?;
            }
        }
        for (start, parked) in std::mem::take(&mut self.parked) {
            self.make_writable(start, true)?;
            for (batch, places) in parked {
                self.add_to(start, &batch, &places)?;
            }
            if let Some(part) = self.parts.get_mut(&start) {
                part.commit()?;
            }
        }
        self.uncommitted_bytes = 0;
        self.expire()?;
        for answer in self.waiting.drain(..) {
            let _ = answer.send(Ok(()));
        }
        Ok(())
    }

    /// Documents of parts that end at or before this are no longer kept.
    fn kept_from(&self) -> u64 {
        match (self.config.retention, self.parts.keys().next_back()) {
            (Some(retention), Some(newest)) => newest.saturating_sub(retention.as_millis()),
            _ => 0,
        }
    }

    /// Deletes parts that are no longer kept.
    fn expire(&mut self) -> Result<(), StoreError> {
        let (kept_from, span) = (self.kept_from(), self.config.span.as_millis());
        while let Some((&start, _)) = self.parts.first_key_value()
            && start + span <= kept_from
        {
            if let Some(reader) = self.readers.write().remove(&start) {
                self.expired.fetch_add(reader.searcher().num_docs(), Ordering::Relaxed);
            }
            self.open.retain(|open| *open != start);
            self.parts.remove(&start);
            let path = parts::path(&self.directory, start);
            std::fs::remove_dir_all(&path)
                .map_err(|e| StoreError::Fatal(format!("cannot delete {}: {e}", path.display())))?;
            tracing::info!(path = %path.display(), "deleted a part of the index that is past its retention");
        }
        Ok(())
    }
}

/// Lowers the priority of this thread and of those that it starts from here on, tantivy's among them.
fn stand_back() {
    // Elsewhere it would be that of the whole process.
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, NICE)
    {
        tracing::debug!(%error, "indexing has the priority of everything else");
    }
}
