//! Where a run begins: at a checkpoint, or anew.
//!
//! In: the configuration and the place where checkpoints are. Out: [`Resumed`]: positions for the source, state for the
//! workers and for live reads, and the line of checkpoints to go on with. On error: a checkpoint that cannot be read or
//! does not go with the configuration ends the start, with a sentence that says what to do.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use floodmark_dataflows::checkpoint::{PartitionStart, Restored};
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::Tick;
use tokio::runtime::Runtime;

use super::compile::Compiled;
use super::numbers::{cannot, next_generation, next_term, replace};
use super::{EngineError, RunOptions};
use crate::checkpoint::chain::{Living, renumber};
use crate::checkpoint::commit::rewrite;
use crate::checkpoint::compare::{Carried, Fingerprint, compare};
use crate::checkpoint::contents::LiveRows;
use crate::checkpoint::manifest::{CheckpointId, Manifest};
use crate::checkpoint::restore::{self, Loaded};
use crate::checkpoint::starts::{self, Start, StartNumber, Starts};
use crate::checkpoint::store::{CopyStore, StoreError};
use crate::checkpoint::{CheckpointError, Line, marks};
use crate::config::{Config, SourceChoice};
use crate::lock;
use crate::sources::redrive::is_redrive;
use crate::sources::{Positions, wall_clock_ms};
use crate::stores::version::Term;

/// Takes the data directory for this process of a run, before anything in it is touched; held until the file is dropped.
pub(super) fn lock_data(config: &Config) -> Result<File, EngineError> {
    let (directory, process) = (&config.data_dir, config.cluster.process);
    let path = directory.join(format!("lock-{process}"));
    lock::take(&path).map_err(|error| cannot("use", &path, &error))?.ok_or_else(|| {
        EngineError::Usage(format!(
            "data_dir {} is in use by another run, as process {process}; end that one, or set data_dir to another directory",
            directory.display()
        ))
    })
}

/// Names the supervisor that began anew last, in the data directory of the first process.
const FRESH_FILE: &str = "fresh";
/// Changes of the configuration that a manifest remembers.
const CHANGES_KEPT: usize = 100;

/// What a run goes on from. A run that begins anew has an empty one, at tick 0.
pub(super) struct Resumed {
    /// Where checkpoints are.
    pub store: CopyStore,
    /// The line that it goes on with.
    pub line: Line,
    /// For the workers; all of it for each.
    pub restored: Restored,
    /// For live reads.
    pub live: LiveRows,
    /// Where reading goes on.
    pub positions: Positions,
    /// Where redrives go on.
    pub redrives: Positions,
    /// The tick that it goes on from, if a run before it began there; its first checkpoint is at tick 0, too.
    pub continues: Option<Tick>,
    /// This start.
    pub start: Start,
    /// The term of it.
    pub term: Term,
    /// What those before have read.
    pub starts: Starts,
    /// Where this one goes on, and how much was lost of each partition before.
    pub begun: BTreeMap<PartitionInfo, (u64, u64)>,
}

/// What process 0 decides for all.
#[derive(Clone, Copy)]
pub(super) struct Decided {
    /// The checkpoint to go on from; of a run without checkpoints, its generation.
    pub from: u64,
    /// The number of this start.
    pub start: StartNumber,
    /// What stands first in the versions of the documents of this start.
    pub term: Term,
}

impl Resumed {
    /// The checkpoint to go on from; a new line where there is none. `None` for a run without checkpoints. `decide`
    /// has the first process of a cluster choose, and tells the others.
    pub(super) fn find(
        config: &Config,
        options: &RunOptions,
        compiled: &Compiled,
        runtime: &Runtime,
        decide: impl FnOnce(&dyn Fn() -> Result<Decided, EngineError>) -> Result<Decided, EngineError>,
    ) -> Result<Option<Self>, EngineError> {
        if !config.checkpoint.enabled || options.bare || options.replay.is_some() {
            return Ok(None);
        }
        let store = CopyStore::open(&config.checkpoint, &config.data_dir).map_err(CheckpointError::from)?;
        let present = Fingerprint::of(config, compiled.views.iter().map(|view| &**view));
        let began_ms = wall_clock_ms();
        let starts = runtime.block_on(recorded_starts(&store))?;
        let decided = decide(&|| {
            // First, for what fails here must not have begun anything.
            let term = runtime.block_on(next_term(&config.data_dir, &store, true))?;
            let from = runtime.block_on(choose(config, options, &store, &present))?;
            Ok(Decided { from, start: starts.next(), term })
        })?;
        let mut resumed = runtime.block_on(Self::load(config, store, decided, starts, present))?;
        let at = resumed.restored.at;
        resumed.continues = (at > 0 || resumed.line.manifest.created_ms < began_ms).then_some(at);
        Ok(Some(resumed))
    }

    async fn load(
        config: &Config,
        store: CopyStore,
        Decided { from: id, start: number, term }: Decided,
        mut starts: Starts,
        mut present: Fingerprint,
    ) -> Result<Self, EngineError> {
        let loaded = restore::load(&store, id).await.map_err(|error| match error {
            CheckpointError::Store(StoreError::Damaged { name, .. }) if config.cluster.process > 0 => {
                EngineError::Usage(format!(
                    "process 0 goes on from checkpoint {id}, and {name} is not in {}: all processes must reach the same \
                     place; set checkpoint.url",
                    store.place()
                ))
            }
            error => error.into(),
        })?;
        let Loaded { manifest, mut standing, mut rows } = loaded;
        let carried = compare(&manifest.configuration, &present, manifest.at).map_err(EngineError::Usage)?;
        carried.note_partial(&manifest.configuration, &mut present, manifest.at);
        let (is_same, Carried { views, changes, .. }) = (carried.is_same(), carried);
        let at = manifest.at;
        for change in &changes {
            tracing::warn!("the configuration changed since the checkpoint: {change}");
        }
        let mut all_changes = manifest.changes.clone();
        all_changes.extend(changes.into_iter().map(|change| (at, change)));
        all_changes.drain(..all_changes.len().saturating_sub(CHANGES_KEPT));
        let mut line = Line::go_on(&store, manifest, present, all_changes).await?;
        if !is_same {
            renumber(&views, line.configuration.views.len(), &mut standing, &mut rows);
            if config.cluster.process == 0 {
                rewrite(&store, &mut line, &standing, &rows).await?;
            }
        }
        // A retention may have become shorter.
        let mut living = Living::new(&line.configuration, at);
        rows.retain(|row| living.counts(row));
        let Manifest { generation, began_ms, .. } = line.manifest;
        let mut recorded = marks::read(&store, generation, began_ms).await.map_err(|error| match error {
            StoreError::Damaged { name, problems } => EngineError::Usage(format!(
                "no copy of {name} is good ({problems}), and without its marks the run would not go on as it went; put back \
                 the file if there is one, or start anew with --fresh"
            )),
            error => CheckpointError::from(error).into(),
        })?;
        let mut partitions = BTreeMap::new();
        let (mut positions, mut redrives) = (Positions::new(), Positions::new());
        let mut begun = BTreeMap::new();
        for (partition, mut cut) in standing.cuts {
            cut.ledger.refuse(line.manifest.refused.get(&partition).copied().unwrap_or(0));
            let mut marks = recorded.remove(&partition).unwrap_or_default();
            marks.retain(|mark| mark.next_offset >= cut.next_offset);
            let of_whom = if is_redrive(&partition) { &mut redrives } else { &mut positions };
            of_whom.insert(partition.clone(), cut.next_offset);
            begun.insert(partition.clone(), (cut.next_offset, cut.ledger.lost));
            partitions.insert(partition, PartitionStart { cut: Some(cut), marks });
        }
        let source = config.source.chosen();
        for (partition, marks) in recorded {
            if is_redrive(&partition) {
                redrives.insert(partition.clone(), 0);
                partitions.insert(partition, PartitionStart { cut: None, marks });
                continue;
            }
            // Where it began: it was not read before its first mark was recorded.
            let began = marks.front().map(|mark| mark.next_offset);
            let began = match source {
                _ if at > 0 => began,
                // A start that is settled anew may be another one: the end is further on by now.
                Ok(SourceChoice::Kafka(_)) => began,
                // Read from their beginnings, by the numbers that they had.
                Ok(SourceChoice::Files(_)) => began.map(|_| 0),
                Ok(SourceChoice::Generator(_)) | Err(_) => None,
            };
            if let Some(offset) = began {
                positions.insert(partition.clone(), offset);
            }
            partitions.insert(partition, PartitionStart { cut: None, marks });
        }
        if at > 0 {
            let (rows, partitions) = (rows.len(), partitions.len());
            tracing::info!(id, at, generation, rows, partitions, "going on from a checkpoint");
        }
        let views = (0..).zip(&line.configuration.views).filter(|(_, view)| view.partial_before > 0);
        let partial_before = views.map(|(id, view)| (id, view.partial_before)).collect();
        let restored = Restored { at, partitions, rows: Arc::new(rows), partial_before };
        starts.begin(number);
        if config.cluster.process == 0 {
            let file = starts.encode().map_err(CheckpointError::from)?;
            store.put(starts::NAME, file).await.map_err(CheckpointError::from)?;
        }
        let start = Start { number, records: config.records_hash() };
        let (live, continues) = (standing.live, None);
        Ok(Self { store, line, restored, live, positions, redrives, continues, start, term, starts, begun })
    }
}

/// What the starts before this one have read.
async fn recorded_starts(store: &CopyStore) -> Result<Starts, EngineError> {
    match Starts::read(store).await {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!("{error}: dead letters of records that were read again since are listed again");
            Ok(Starts::default())
        }
        read => Ok(read.map_err(CheckpointError::from)?),
    }
}

/// The number of a start that makes no checkpoints, and its generation.
pub(super) fn begin_without_checkpoints(config: &Config, runtime: &Runtime) -> Result<Decided, EngineError> {
    let store = CopyStore::open(&config.checkpoint, &config.data_dir).map_err(CheckpointError::from)?;
    let starts = runtime.block_on(recorded_starts(&store))?;
    let term = runtime.block_on(next_term(&config.data_dir, &store, false))?;
    Ok(Decided { from: next_generation(&config.data_dir, 0)?, start: starts.next(), term })
}

/// The checkpoint to go on from; where there is none, the start of a new generation.
async fn choose(
    config: &Config,
    options: &RunOptions,
    store: &CopyStore,
    present: &Fingerprint,
) -> Result<CheckpointId, EngineError> {
    let is_fresh = options.fresh && !has_begun_anew(&config.data_dir, options)?;
    if !is_fresh && let Some(id) = restore::choose(store).await? {
        let manifest = restore::manifest(store, id, false).await.map_err(CheckpointError::from)?;
        match compare(&manifest.configuration, present, manifest.at) {
            Ok(_) => return Ok(id),
            Err(why) if manifest.at > 0 => return Err(EngineError::Usage(why)),
            // Nothing was computed yet.
            Err(why) => tracing::info!("beginning anew: {why}"),
        }
    }
    let highest = restore::highest_generation(store).await.map_err(CheckpointError::from)?;
    let generation = next_generation(&config.data_dir, highest)?;
    let peers = config.cluster.processes * config.cluster.workers;
    let line = Line::begin(store, generation, present.clone(), peers).await?;
    if let Some(supervisor) = options.supervisor.as_ref().filter(|_| is_fresh) {
        replace(&config.data_dir.join(FRESH_FILE), supervisor)?;
    }
    Ok(line.manifest.id)
}

/// Whether an earlier start by the same supervisor has begun anew: then this one goes on from there.
fn has_begun_anew(data_dir: &Path, options: &RunOptions) -> Result<bool, EngineError> {
    let path = data_dir.join(FRESH_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(options.supervisor.as_deref() == Some(text.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("read", &path, &error)),
    }
}
