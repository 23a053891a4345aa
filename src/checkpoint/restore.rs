//! What a run goes on from: the newest checkpoint that can be read in full.
//!
//! In: the store. Out: a [`Manifest`] from [`choose`], and what it stands for from [`load`]. Copies that are damaged are
//! named in the log and put right; a checkpoint of which a file is lost altogether is named and the one before is used.

use bytes::Bytes;
use floodmark_dataflows::checkpoint::StateRow;

use super::chain::{Living, Merge, Standing};
use super::manifest::{CheckpointId, Manifest, id_of, name};
use super::store::{CopyStore, StoreError};
use super::{CheckpointError, STATE_FOLDER, marks};

/// The state at a checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// What it consists of.
    pub manifest: Manifest,
    /// Where each partition stands, the totals and the counts of patterns.
    pub standing: Standing,
    /// The rows, in order of identity; those whose time is over are left out.
    pub rows: Vec<StateRow>,
}

/// The newest checkpoint that can be read in full; `None` where there is none at all.
///
/// # Errors
/// When there are checkpoints and none can be read, or the store cannot be reached.
pub async fn choose(store: &CopyStore) -> Result<Option<CheckpointId>, CheckpointError> {
    let ids = ids(store).await?;
    let mut problems = Vec::new();
    let mut chosen = None;
    // All are looked at, also those before the one that is good: damage to them is better known now than when they
    // are needed.
    for &id in ids.iter().rev() {
        match verify(store, id, true).await {
            Ok(()) => chosen = chosen.or(Some(id)),
            Err(problem @ StoreError::Damaged { .. }) => {
                tracing::error!("checkpoint {id} cannot be used: {problem}");
                problems.push(format!("checkpoint {id}: {problem}"));
            }
            // What cannot be reached may be good.
            Err(unreachable) => return Err(unreachable.into()),
        }
    }
    match chosen {
        Some(id) => {
            if ids.last() != Some(&id) {
                tracing::error!("checkpoint {id} is used instead: what came after it is read again");
            }
            Ok(Some(id))
        }
        None if ids.is_empty() => Ok(None),
        None => Err(CheckpointError::NoneRestores { place: store.place().to_owned(), problems: problems.join("; ") }),
    }
}

/// The numbers of all checkpoints, ascending.
pub async fn ids(store: &CopyStore) -> Result<Vec<CheckpointId>, StoreError> {
    Ok(store.list("").await?.iter().filter_map(|name| id_of(name)).collect())
}

/// The highest generation of which anything is left; 0 for none.
///
/// # Errors
/// When the store cannot be reached.
pub async fn highest_generation(store: &CopyStore) -> Result<u64, StoreError> {
    let mut highest = marks::generations(store).await?.last().copied().unwrap_or(0);
    for id in ids(store).await? {
        match manifest(store, id, false).await {
            Ok(manifest) => highest = highest.max(manifest.generation),
            Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(highest)
}

/// Reads a manifest.
pub async fn manifest(store: &CopyStore, id: CheckpointId, repair: bool) -> Result<Manifest, StoreError> {
    store.get(&name(id), repair, Manifest::decode).await
}

async fn verify(store: &CopyStore, id: CheckpointId, repair: bool) -> Result<(), StoreError> {
    let manifest = manifest(store, id, repair).await?;
    for file in &manifest.files {
        store.get(&format!("{STATE_FOLDER}/{}", file.name), repair, |bytes| file.check(bytes)).await?;
    }
    Ok(())
}

/// The state at a checkpoint.
///
/// # Errors
/// When a file of it cannot be read.
pub async fn load(store: &CopyStore, id: CheckpointId) -> Result<Loaded, CheckpointError> {
    let manifest = manifest(store, id, false).await?;
    let files = files(store, &manifest).await?;
    let merged = tokio::task::spawn_blocking(move || {
        let (standing, rows) = merge(&manifest, files)?;
        Ok(Loaded { manifest, standing, rows })
    });
    merged.await.unwrap_or_else(|error| Err(CheckpointError::Stopped(error.to_string())))
}

/// The state files of a checkpoint.
pub(super) async fn files(store: &CopyStore, manifest: &Manifest) -> Result<Vec<Bytes>, StoreError> {
    let mut files = Vec::with_capacity(manifest.files.len());
    for file in &manifest.files {
        let name = format!("{STATE_FOLDER}/{}", file.name);
        files.push(store.get(&name, false, |bytes| file.check(bytes).map(|()| bytes.clone())).await?);
    }
    Ok(files)
}

fn merge(manifest: &Manifest, files: Vec<Bytes>) -> Result<(Standing, Vec<StateRow>), CheckpointError> {
    let damaged = |damaged: super::chain::Damaged| CheckpointError::Damaged {
        name: manifest.files.get(damaged.file).map(|file| file.name.clone()).unwrap_or_default(),
        damage: damaged.damage,
    };
    let (standing, mut merge) = Merge::open(files, &manifest.configuration).map_err(damaged)?;
    let (mut rows, mut living) = (Vec::new(), Living::new(&manifest.configuration, manifest.at));
    while let Some(row) = merge.next_row().map_err(damaged)? {
        if living.counts(&row) {
            rows.push(row);
        }
    }
    Ok((standing, rows))
}
