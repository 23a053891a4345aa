//! Dead letters read back from where they are kept.
//!
//! In: a configuration. Out: every letter, in no particular order where there are several files or partitions; one that
//! was written twice comes twice. Blocks. On error: what cannot be reached is named; what is no letter is passed over with
//! a line in the log.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;

use super::superseded::Superseded;
use super::{Document, Place, files};
use crate::checkpoint::store::CopyStore;
use crate::cluster::paths_of_all;
use crate::config::Config;

/// Gives every letter away that is kept by a configuration, of all its processes, but for those whose records were read
/// again by a later start.
///
/// # Errors
/// The place cannot be read, or `take` fails.
pub fn each(config: &Config, take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let superseded = superseded(config)?;
    let take = &mut |letter: Document<'static>| if superseded.has(&letter) { Ok(()) } else { take(letter) };
    match config.dead_letters.to {
        Place::File => each_in_files(config, take),
        Place::Index => super::store::each(config, take),
        Place::Topic => super::topic::each(&config.dead_letters, take),
    }
}

fn superseded(config: &Config) -> anyhow::Result<Superseded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = CopyStore::open(&config.checkpoint, &config.data_dir)?;
    // A running process may have removed the checkpoint meanwhile: then there is another one.
    let read = || runtime.block_on(Superseded::read(&store));
    read().or_else(|_| read()).context("cannot find out which dead letters were read again")
}

/// The files of all processes, the oldest of each first.
fn paths(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let name = config.data_dir.join(&config.dead_letters.file);
    let own = paths_of_all(&name).with_context(|| format!("cannot read the folder of {}", name.display()))?;
    for path in own {
        paths.extend(files(&path).with_context(|| format!("cannot read the folder of {}", path.display()))?);
    }
    Ok(paths)
}

/// A last line that is under way is left out.
fn each_in_files(config: &Config, take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for path in paths(config)? {
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            match serde_json::from_slice::<Document<'static>>(&line) {
                Ok(letter) => take(letter)?,
                Err(error) => tracing::warn!("line {number} of {} is no dead letter: {error}", path.display()),
            }
        }
    }
    Ok(())
}
