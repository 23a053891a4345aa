//! Dead letters read back from where they are kept.
//!
//! In: a configuration. Out: every letter, in no particular order where there are several files or partitions; one that
//! was written twice comes twice. Blocks. On error: what cannot be reached is named; what is no letter is passed over with
//! a line in the log.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;

use super::{Document, Place, files};
use crate::config::Config;

/// Gives every letter away that is kept by a configuration, of all its processes.
///
/// # Errors
/// The place cannot be read, or `take` fails.
pub fn each(config: &Config, take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match config.dead_letters.to {
        Place::File => each_in_files(config, take),
        Place::Index => super::store::each(config, take),
        Place::Topic => super::topic::each(&config.dead_letters, take),
    }
}

/// The files of all processes, the oldest of each first.
fn paths(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for process in 0..config.cluster.processes {
        let mut cluster = config.cluster.clone();
        cluster.process = process;
        let path = config.data_dir.join(cluster.own_path(&config.dead_letters.file));
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
