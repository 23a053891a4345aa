//! `floodmark checkpoints`: which there are, what is in one, and whether all can be read.
//!
//! In: the place where checkpoints are, also while a run writes there. Out: tables or JSON. Nothing is changed; a start
//! puts right what has a good copy. Exit code 1 when a file is bad.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};
use floodmark_dataflows::time::{Millis, Tick};
use serde::Serialize;

use super::{ConfigArgs, Failure, table, time_text};
use crate::checkpoint::format::{self, Damage};
use crate::checkpoint::manifest::{CheckpointId, Manifest, name};
use crate::checkpoint::restore;
use crate::checkpoint::store::CopyStore;
use crate::sources::redrive::Redrive;
use crate::units::ByteSize;

/// What a running process may be writing or deleting is looked at again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Look at checkpoints.
#[derive(Clone, Debug, Args)]
pub struct CheckpointsArgs {
    #[command(subcommand)]
    command: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// List the checkpoints that are kept
    List(CommonArgs),
    /// Show what a checkpoint is made of, and where each partition stands in it
    Show {
        /// Its number
        id: CheckpointId,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Read every file of every checkpoint, and name those that are damaged; exit code 1 if there are any
    Verify(CommonArgs),
}

#[derive(Clone, Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckpointsArgs) -> Result<(), Failure> {
    let (What::List(common) | What::Show { common, .. } | What::Verify(common)) = &args.command;
    let config = common.config.load(&[])?;
    if config.checkpoint.url.is_none() && !config.data_dir.join("checkpoints").exists() {
        // Opening it would make it.
        let place = config.data_dir.display();
        return Err(Failure::Running(anyhow!("there are no checkpoints in {place}; is data_dir right?")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let store = CopyStore::open(&config.checkpoint, &config.data_dir)?;
    match &args.command {
        What::List(_) => Ok(runtime.block_on(list(&store, common.json))?),
        What::Show { id, .. } => Ok(runtime.block_on(show(&store, *id, common.json))?),
        What::Verify(_) => {
            let Verified { files, damaged } = runtime.block_on(verify(&store, common.json))?;
            match damaged.len() {
                0 => Ok(()),
                bad => Err(Failure::Running(anyhow!("{bad} of {files} files have a bad copy"))),
            }
        }
    }
}

/// A checkpoint, in short.
#[derive(Debug, Serialize)]
struct Head {
    id: CheckpointId,
    /// The tick that it is at, and the same in milliseconds of the event clock.
    tick: Tick,
    event_time_ms: Millis,
    created_ms: Millis,
    generation: u64,
    workers: u32,
    files: usize,
    bytes: u64,
}

impl Head {
    fn of(manifest: &Manifest) -> Self {
        Self {
            id: manifest.id,
            tick: manifest.at,
            event_time_ms: manifest.at.saturating_mul(manifest.configuration.tick_ms),
            created_ms: manifest.created_ms,
            generation: manifest.generation,
            workers: manifest.workers,
            files: manifest.files.len(),
            bytes: manifest.bytes(),
        }
    }

    /// The start of a generation has no time.
    fn time(&self) -> String {
        if self.tick == 0 { "start".to_owned() } else { time_text(self.event_time_ms) }
    }
}

async fn list(store: &CopyStore, json: bool) -> anyhow::Result<()> {
    let mut heads = Vec::new();
    for id in restore::ids(store).await? {
        match restore::manifest(store, id, false).await {
            Ok(manifest) => heads.push(Head::of(&manifest)),
            Err(error) => tracing::warn!("checkpoint {id} cannot be read: {error}"),
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&heads)?);
        return Ok(());
    }
    let row = |head: &Head| {
        vec![
            head.id.to_string(),
            head.time(),
            time_text(head.created_ms),
            head.generation.to_string(),
            head.workers.to_string(),
            head.files.to_string(),
            ByteSize(head.bytes).to_string(),
        ]
    };
    table(&["ID", "EVENT TIME", "MADE AT", "GENERATION", "WORKERS", "FILES", "SIZE"], heads.iter().map(row));
    Ok(())
}

/// A checkpoint in full.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    head: Head,
    rows: usize,
    state_files: Vec<StateFile>,
    partitions: Vec<Standing>,
    views: Vec<String>,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct StateFile {
    name: String,
    bytes: u64,
    rows: u64,
}

/// Where a partition stands.
#[derive(Debug, Serialize)]
struct Standing {
    topic: String,
    identity: String,
    partition: i32,
    next_offset: u64,
    clock_ms: Option<Millis>,
    indexed: u64,
    dead_letters: u64,
}

/// What changed in the configuration, and from which tick on.
#[derive(Debug, Serialize)]
struct Change {
    tick: Tick,
    text: String,
}

async fn show(store: &CopyStore, id: CheckpointId, json: bool) -> anyhow::Result<()> {
    let ids = restore::ids(store).await?;
    if !ids.contains(&id) {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        return Err(anyhow!("there is no checkpoint {id} in {}; there are {}", store.place(), ids.join(", ")));
    }
    let restore::Loaded { manifest, standing, rows } =
        restore::load(store, id).await.with_context(|| format!("checkpoint {id} cannot be read"))?;
    let tick_ms = manifest.configuration.tick_ms;
    let partitions = standing.cuts.into_iter().map(|(partition, mut cut)| {
        cut.ledger.refuse(manifest.refused.get(&partition).copied().unwrap_or(0));
        Standing {
            topic: partition.topic.to_string(),
            identity: partition.identity.to_string(),
            partition: partition.number,
            next_offset: cut.next_offset,
            clock_ms: cut.clock.map(|clock| clock.saturating_mul(tick_ms)),
            indexed: cut.ledger.indexed,
            dead_letters: cut.ledger.dead(),
        }
    });
    let file = |file: &crate::checkpoint::manifest::FileRef| StateFile {
        name: file.name.clone(),
        bytes: file.bytes,
        rows: file.rows,
    };
    let shown = Shown {
        head: Head::of(&manifest),
        rows: rows.len(),
        state_files: manifest.files.iter().map(file).collect(),
        partitions: partitions.collect(),
        views: manifest.configuration.views.iter().map(|view| view.name.clone()).collect(),
        changes: manifest.changes.iter().map(|(tick, text)| Change { tick: *tick, text: text.clone() }).collect(),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        print(&shown, tick_ms);
    }
    Ok(())
}

fn print(shown: &Shown, tick_ms: u64) {
    let head = &shown.head;
    println!("checkpoint  {} of generation {}, made at {}", head.id, head.generation, time_text(head.created_ms));
    println!("event time  {} (tick {})", head.time(), head.tick);
    println!("state       {} rows in memory at a start, views {}", shown.rows, shown.views.join(", "));
    println!("written by  {} workers, {} files, {}\n", head.workers, head.files, ByteSize(head.bytes));
    let row = |file: &StateFile| vec![file.name.clone(), ByteSize(file.bytes).to_string(), file.rows.to_string()];
    table(&["FILE", "SIZE", "ROWS"], shown.state_files.iter().map(row));
    println!();
    let row = |at: &Standing| {
        vec![
            format!("{}:{}", at.topic, at.partition),
            at.next_offset.to_string(),
            at.clock_ms.map_or_else(|| "-".to_owned(), time_text),
            at.indexed.to_string(),
            at.dead_letters.to_string(),
        ]
    };
    table(&["PARTITION", "NEXT OFFSET", "EVENT CLOCK", "INDEXED", "DEAD"], shown.partitions.iter().map(row));
    for change in &shown.changes {
        println!("\nfrom {}: {}", time_text(change.tick.saturating_mul(tick_ms)), change.text);
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Verified {
    /// Files that were read, in all copies.
    files: usize,
    damaged: Vec<DamagedFile>,
}

#[derive(Debug, Serialize)]
struct DamagedFile {
    name: String,
    /// What is wrong with each bad copy.
    problems: Vec<String>,
}

async fn verify(store: &CopyStore, json: bool) -> anyhow::Result<Verified> {
    let mut verified = Verified::default();
    let mut looked_at = BTreeSet::new();
    for id in restore::ids(store).await? {
        let still_there = async || Ok(restore::ids(store).await?.contains(&id));
        let of_manifest = name(id);
        verified.file(of_manifest.clone(), || store.problems(&of_manifest, Manifest::decode), still_there).await?;
        // Without a good copy nothing is known of its files.
        let Ok(manifest) = restore::manifest(store, id, false).await else { continue };
        for file in &manifest.files {
            let path = format!("state/{}", file.name);
            if looked_at.insert(path.clone()) {
                let check = |bytes: &Bytes| file.check(bytes).and_then(|()| contents(bytes));
                verified.file(path.clone(), || store.problems(&path, check), still_there).await?;
            }
        }
    }
    for path in store.list("marks").await? {
        let still_there = async || Ok(store.list("marks").await?.contains(&path));
        verified.file(path.clone(), || store.problems(&path, contents), still_there).await?;
    }
    for path in store.list("redrives").await? {
        // They are never deleted.
        verified
            .file(path.clone(), || store.problems(&path, |bytes| Redrive::decode(bytes)), async || Ok(true))
            .await?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&verified)?);
    } else {
        for problem in verified.damaged.iter().flat_map(|file| &file.problems) {
            println!("{problem}");
        }
        if verified.damaged.is_empty() {
            println!("{} files in {}, all copies good", verified.files, store.place());
        }
    }
    Ok(verified)
}

fn contents(bytes: &Bytes) -> Result<(), Damage> {
    format::read(bytes).map(drop)
}

impl Verified {
    /// Looks at all copies of a file. A running process writes them one after the other, and deletes what is old.
    async fn file<F: Future<Output = Vec<String>>>(
        &mut self,
        name: String,
        look: impl Fn() -> F,
        still_there: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.files += 1;
        if look().await.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
        let problems = look().await;
        if !problems.is_empty() && still_there().await? {
            self.damaged.push(DamagedFile { name, problems });
        }
        Ok(())
    }
}
