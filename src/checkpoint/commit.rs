//! The manifest: what makes a worker's shares a checkpoint. Merging of long chains, and what is deleted.
//!
//! In: descriptions of all workers' shares, on the first worker's process. Out: a manifest, written last and under a name
//! that nobody else has used. After each checkpoint: files that no kept manifest needs are deleted; a chain that has
//! become long is merged into one file, which the next manifest names in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodmark_dataflows::checkpoint::StateRow;
use floodmark_dataflows::time::{Millis, Tick};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::chain::{Living, Merge, Standing, encode};
use super::compare::Fingerprint;
use super::config::CheckpointConfig;
use super::contents::ShardHead;
use super::manifest::{CheckpointId, FileRef, Manifest, id_of, name};
use super::marks::Recorder;
use super::sink::{Description, WorkerSink};
use super::starts::{self, Reading};
use super::store::{CopyStore, StoreError};
use super::{CheckpointError, STATE_FOLDER, Stats, chain_of, marks, repeat, restore};
use crate::alerts::Alerts;
use crate::live::LiveView;
use crate::live::progress::ProgressBoard;
use crate::sources::{Positions, wall_clock_ms};
use crate::stores::writer::Writer;

/// A chain of more files a worker is merged into one.
const LONGEST_CHAIN: usize = 64;
/// Old marks are looked for at every so many checkpoints.
const MARKS_ROUNDS: u64 = 64;
/// The first checkpoint of a run is begun this soon, so that its start is one to go on from.
const FIRST_AFTER: Duration = Duration::from_secs(1);

/// What a line of checkpoints goes on with.
#[derive(Clone, Debug)]
pub struct Line {
    /// The newest one.
    pub manifest: Manifest,
    /// Numbers of those that were newer when it was chosen, and cannot be used. The next number comes after them.
    pub abandoned: Range<CheckpointId>,
    /// The present configuration.
    pub configuration: Fingerprint,
    /// What changed in it since, with the tick from which it applies.
    pub changes: Vec<(Tick, String)>,
}

impl Line {
    /// Begins a generation: its start is a checkpoint too, so that a run that is interrupted before its first one goes
    /// on with the same generation and the marks that it made.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub async fn begin(
        store: &CopyStore,
        generation: u64,
        configuration: Fingerprint,
        workers: usize,
    ) -> Result<Self, CheckpointError> {
        let now = wall_clock_ms();
        let id = restore::ids(store).await?.last().map_or(0, |last| last + 1);
        let manifest = Manifest {
            id,
            at: 0,
            generation,
            created_ms: now,
            began_ms: now,
            origin_ms: now,
            workers: workers as u32,
            files: Vec::new(),
            refused: BTreeMap::new(),
            configuration: configuration.clone(),
            changes: Vec::new(),
        };
        store.create(&manifest.name(), manifest.encode()?.into()).await?;
        Ok(Self { manifest, abandoned: id + 1..id + 1, configuration, changes: Vec::new() })
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// When it cannot be told which numbers are taken.
    pub async fn go_on(
        store: &CopyStore,
        manifest: Manifest,
        configuration: Fingerprint,
        changes: Vec<(Tick, String)>,
    ) -> Result<Self, CheckpointError> {
        let next = manifest.id + 1;
        let taken = restore::ids(store).await?.last().map_or(next, |last| next.max(last + 1));
        Ok(Self { manifest, abandoned: next..taken, configuration, changes })
    }

    fn next_id(&self) -> CheckpointId {
        self.abandoned.end.max(self.manifest.id + 1)
    }
}

/// The checkpoints of a process.
#[derive(Clone)]
pub struct Checkpoints(Arc<Shared>);

/// What the workers of a process share.
pub(super) struct Shared {
    pub(super) store: CopyStore,
    pub(super) runtime: Handle,
    pub(super) writer: Writer,
    pub(super) alerts: Option<Alerts>,
    pub(super) board: Arc<ProgressBoard>,
    /// The live state of the process of the first worker.
    pub(super) live: Option<Arc<LiveView>>,
    pub(super) stats: Arc<Stats>,
    /// Tells the files of this start from those of others. Ascending from start to start.
    pub(super) run: String,
    pub(super) generation: u64,
    /// Cut positions of committed checkpoints, that the source has not been told of.
    pub(super) committed_positions: Mutex<Positions>,
    config: CheckpointConfig,
    /// Locked while a checkpoint is committed, and while its chain is merged.
    line: tokio::sync::Mutex<Line>,
    /// What this start has read; written down by the first process.
    reading: tokio::sync::Mutex<Reading>,
    process: usize,
    begun: Mutex<(Instant, Millis)>,
    /// The latest wall clock at which a checkpoint of this line was begun; the clock may be set back since.
    pub(super) latest_began_ms: AtomicU64,
    /// The tick of the last committed checkpoint, plus one.
    committed: AtomicU64,
    under_way: AtomicBool,
    pause_us: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// What checkpoints have to do with.
pub struct Parts {
    /// Where they are.
    pub store: CopyStore,
    /// Options.
    pub config: CheckpointConfig,
    /// Where encoding and writing happen.
    pub runtime: Handle,
    /// Whose acknowledgements are waited for.
    pub writer: Writer,
    /// Alerts, which are waited for too.
    pub alerts: Option<Alerts>,
    /// Where each worker's frontier is noted.
    pub board: Arc<ProgressBoard>,
    /// The live state whose totals are kept; on the process of the first worker.
    pub live: Option<Arc<LiveView>>,
    /// The checkpoint to go on from.
    pub line: Line,
    /// The number of the process.
    pub process: usize,
    /// What this start has read.
    pub reading: Reading,
}

impl Checkpoints {
    /// Checkpoints that go on from one.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, config, runtime, writer, alerts, board, live, line, process, reading } = parts;
        let stats = Arc::new(Stats::default());
        let now = Instant::now();
        let manifest = &line.manifest;
        stats.last_id.store(manifest.id, Ordering::Relaxed);
        stats.last_at.store(manifest.at, Ordering::Relaxed);
        stats.last_ms.store(manifest.created_ms, Ordering::Relaxed);
        stats.files.store(manifest.files.len() as u64, Ordering::Relaxed);
        stats.chain_bytes.store(manifest.bytes(), Ordering::Relaxed);
        let every = config.every.0;
        let begun = now.checked_sub(every.saturating_sub(FIRST_AFTER.min(every))).unwrap_or(now);
        Self(Arc::new(Shared {
            store,
            runtime,
            writer,
            alerts,
            board,
            live,
            stats,
            run: format!("{:013}-{process:03}", reading.number()),
            latest_began_ms: AtomicU64::new(line.manifest.began_ms),
            generation: line.manifest.generation,
            committed_positions: Mutex::default(),
            config,
            line: tokio::sync::Mutex::new(line),
            reading: tokio::sync::Mutex::new(reading),
            process,
            begun: Mutex::new((begun, wall_clock_ms())),
            committed: AtomicU64::new(0),
            under_way: AtomicBool::new(false),
            pause_us: AtomicU64::new(0),
            failure: Mutex::default(),
        }))
    }

    /// What records the marks of this process.
    pub fn recorder(&self) -> Recorder {
        Recorder::start(self.0.clone())
    }

    /// The share of a worker, by its number among all.
    pub fn sink(&self, worker: usize) -> WorkerSink {
        WorkerSink::new(self.0.clone(), worker)
    }

    /// Cut positions of checkpoints committed since the last call.
    pub fn take_committed_positions(&self) -> Positions {
        std::mem::take(&mut *self.0.committed_positions.lock())
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    /// Notes what was read by now, also where no checkpoint comes. On the first process; the others need not.
    ///
    /// # Errors
    /// When it cannot be written. It is tried again with the next call or checkpoint.
    pub async fn note_reading(&self) -> Result<(), CheckpointError> {
        if self.0.process > 0 {
            return Ok(());
        }
        // A checkpoint that is being written notes it.
        let Ok(mut reading) = self.0.reading.try_lock() else { return Ok(()) };
        for (partition, state) in self.0.board.of_all_processes().partitions {
            // Behind that, letters may not be written yet.
            let mut ledger = state.progress.ledger;
            ledger.next_offset = ledger.next_offset.min(state.acknowledged.unwrap_or(0));
            reading.note(&partition, &ledger);
        }
        if let Some(file) = reading.to_write()? {
            self.0.store.put(starts::NAME, file).await?;
            reading.written();
        }
        Ok(())
    }

    /// Why the run has to end, if it has to.
    pub fn failure(&self) -> Option<String> {
        self.0.failure.lock().clone()
    }

    /// Whether a checkpoint is being made: then steps of the workers are of interest.
    pub fn is_under_way(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed)
    }

    /// Notes how long a step of a worker took.
    pub fn note_step(&self, took: Duration) {
        self.0.pause_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// How it is going, in one line.
    pub fn health(&self) -> Result<String, String> {
        let stats = &self.0.stats;
        let last = match stats.age_ms() {
            Some(age) => {
                let (id, age) = (stats.last_id.load(Ordering::Relaxed), age / 1_000);
                format!("checkpoint {id} was made {age} s ago in {}", self.0.store.place())
            }
            None => format!("no checkpoint yet in {}", self.0.store.place()),
        };
        match &*stats.problem.lock() {
            Some(problem) => Err(format!("{last}; {problem}")),
            None => Ok(last),
        }
    }
}

impl Shared {
    pub(super) fn begin_if_due(&self, now: Instant) -> bool {
        let mut begun = self.begun.lock();
        let is_due = now.duration_since(begun.0) >= self.config.every.0;
        if is_due {
            *begun = (now, wall_clock_ms());
            self.latest_began_ms.fetch_max(begun.1, Ordering::Relaxed);
            self.pause_us.store(0, Ordering::Relaxed);
        }
        is_due
    }

    pub(super) fn note_under_way(&self, is: bool) {
        self.under_way.store(is, Ordering::Relaxed);
        if !is {
            self.stats.last_pause_us.store(self.pause_us.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) fn is_committed(&self, at: Tick) -> bool {
        self.committed.load(Ordering::SeqCst) == at + 1
    }

    /// Ends the run.
    pub(super) fn fail(&self, error: String) {
        tracing::error!("checkpoints cannot go on: {error}");
        self.failure.lock().get_or_insert(error);
    }

    pub(super) fn commit(self: Arc<Self>, at: Tick, descriptions: Vec<Vec<u8>>) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let mut line = self.line.lock().await;
            if let Err(error) = self.write_manifest(&mut line, at, &descriptions).await {
                return self.fail(chain_of(&error));
            }
            // Before it is said: as soon as it is, the next files are written.
            if let Err(error) = delete_old(&self.store, &self.config, &line).await {
                tracing::warn!("old checkpoints stay for now: {}", chain_of(&error));
            }
            self.committed.store(at + 1, Ordering::SeqCst);
            let longest = LONGEST_CHAIN * line.manifest.workers.max(1) as usize;
            if line.manifest.files.len() > longest
                && let Err(error) = self.merge(&mut line).await
            {
                tracing::warn!("the chain of checkpoints is not merged: {}", chain_of(&error));
            }
        });
    }

    async fn write_manifest(&self, line: &mut Line, at: Tick, descriptions: &[Vec<u8>]) -> Result<(), CheckpointError> {
        let (begun, began_ms) = *self.begun.lock();
        let mut manifest = Manifest {
            id: line.next_id(),
            at,
            created_ms: wall_clock_ms(),
            began_ms,
            workers: descriptions.len() as u32,
            configuration: line.configuration.clone(),
            changes: line.changes.clone(),
            ..line.manifest.clone()
        };
        let mut written = 0;
        let mut reading = self.reading.lock().await;
        for description in descriptions {
            let Description { file, refused, read } =
                postcard::from_bytes(description).map_err(|error| CheckpointError::Stopped(error.to_string()))?;
            if let Some(file) = file {
                written += file.bytes;
                manifest.files.push(file);
            }
            // The new cuts contain what was refused in earlier runs; partitions without one keep what they had.
            manifest.refused.extend(refused);
            read.iter().for_each(|(partition, ledger)| reading.note(partition, ledger));
        }
        manifest.refused.retain(|_, refused| *refused > 0);
        if let Some(file) = reading.to_write()? {
            repeat("starts", &self.stats, || self.store.put(starts::NAME, file.clone())).await;
            reading.written();
        }
        drop(reading);
        let bytes = Bytes::from(manifest.encode()?);
        let taken = Mutex::new(None);
        repeat("checkpoint", &self.stats, || async {
            match self.store.create(&manifest.name(), bytes.clone()).await {
                Err(error @ StoreError::Exists(_)) => {
                    *taken.lock() = Some(error);
                    Ok(())
                }
                result => result,
            }
        })
        .await;
        if let Some(error) = taken.into_inner() {
            return Err(error.into());
        }
        let stats = &self.stats;
        stats.committed.fetch_add(1, Ordering::Relaxed);
        stats.bytes.fetch_add(written, Ordering::Relaxed);
        stats.last_id.store(manifest.id, Ordering::Relaxed);
        stats.last_at.store(at, Ordering::Relaxed);
        stats.last_ms.store(manifest.created_ms, Ordering::Relaxed);
        stats.last_bytes.store(written, Ordering::Relaxed);
        stats.last_duration_ms.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        stats.files.store(manifest.files.len() as u64, Ordering::Relaxed);
        stats.chain_bytes.store(manifest.bytes(), Ordering::Relaxed);
        tracing::debug!(id = manifest.id, at, bytes = written, "checkpoint");
        line.manifest = manifest;
        Ok(())
    }

    /// Replaces the files of the chain by one. The next manifest names it.
    async fn merge(&self, line: &mut Line) -> Result<(), CheckpointError> {
        let files = restore::files(&self.store, &line.manifest).await?;
        let Manifest { at, configuration, .. } = line.manifest.clone();
        let merged = tokio::task::spawn_blocking(move || merge(files, &configuration, at)).await;
        let (file, rows) = merged.unwrap_or_else(|error| Err(CheckpointError::Stopped(error.to_string())))?;
        line.manifest.files = vec![write_merged(&self.store, &self.run, at, file, rows).await?];
        Ok(())
    }
}

/// Deletes manifests beyond those to be kept, then files that none of these needs.
pub(super) async fn delete_old(store: &CopyStore, config: &CheckpointConfig, line: &Line) -> Result<(), StoreError> {
    let last = &line.manifest;
    let ids = restore::ids(store).await?;
    let usable = ids.iter().rev().filter(|id| !line.abandoned.contains(id));
    let kept: Vec<CheckpointId> = usable.take(usize::from(config.keep)).copied().collect();
    let mut needed: BTreeSet<String> = last.files.iter().map(|file| file.name.clone()).collect();
    let mut began_ms = last.began_ms;
    for &id in kept.iter().filter(|&&id| id != last.id) {
        match restore::manifest(store, id, false).await {
            Ok(manifest) => {
                began_ms = began_ms.min(manifest.began_ms);
                needed.extend(manifest.files.into_iter().map(|file| file.name));
            }
            // It needs nothing.
            Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for id in ids.iter().filter(|id| !kept.contains(id)) {
        store.delete(&name(*id)).await?;
    }
    let files = store.list(STATE_FOLDER).await?;
    if restore::ids(store).await?.last() != Some(&last.id) {
        // Another run goes on from here: the files may be those of its checkpoints.
        return Ok(());
    }
    for path in files {
        let file = path.rsplit('/').next().unwrap_or(&path);
        if id_of(file).is_none() && !needed.contains(file) {
            store.delete(&path).await?;
        }
    }
    if last.id.is_multiple_of(MARKS_ROUNDS) {
        let before = last.created_ms.saturating_sub(config.marks_retention.as_millis()).min(began_ms);
        marks::delete_before(store, before).await?;
    }
    Ok(())
}

fn merge(files: Vec<Bytes>, configuration: &Fingerprint, at: Tick) -> Result<(Vec<u8>, usize), CheckpointError> {
    let damaged = |damaged: super::chain::Damaged| CheckpointError::Damaged {
        name: format!("number {} of the chain", damaged.file),
        damage: damaged.damage,
    };
    let (standing, mut merge) = Merge::open(files, configuration).map_err(damaged)?;
    let rows = std::iter::from_fn(|| merge.next_row().map_err(damaged).transpose());
    let mut living = Living::new(configuration, at);
    let rows = rows.filter(|row| row.as_ref().map_or(true, |row| living.counts(row)));
    let Standing { cuts, live } = standing;
    encode(&ShardHead { at, worker: 0 }, cuts.into_values().collect(), &live, rows)
}

async fn write_merged(
    store: &CopyStore,
    run: &str,
    at: Tick,
    file: Vec<u8>,
    rows: usize,
) -> Result<FileRef, CheckpointError> {
    let file = Bytes::from(file);
    let merged = FileRef::of(format!("{at:016}-{run}-merged"), &file, rows);
    store.put(&format!("{STATE_FOLDER}/{}", merged.name), file).await?;
    Ok(merged)
}

/// Writes a state as the only file of a chain, for a checkpoint whose views have other numbers now.
///
/// # Errors
/// When it cannot be written.
pub async fn rewrite(
    store: &CopyStore,
    line: &mut Line,
    standing: &Standing,
    rows: &[StateRow],
) -> Result<(), CheckpointError> {
    let head = ShardHead { at: line.manifest.at, worker: 0 };
    let cuts = standing.cuts.values().cloned().collect();
    let (file, count) = encode::<EncodeOrStop>(&head, cuts, &standing.live, rows.iter().cloned().map(Ok))?;
    let run = format!("{:013}-000-renumbered", wall_clock_ms());
    line.manifest.files = vec![write_merged(store, &run, head.at, file, count).await?];
    Ok(())
}

type EncodeOrStop = super::format::EncodeError;
