//! Dead letters read back from where they are kept.
//!
//! In: a configuration. Out: every letter, in no particular order where there are several files or partitions; one that
//! was written twice comes twice. Blocks. On error: what cannot be reached is named; what is no letter is passed over with
//! a line in the log.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;

use super::{Document, Place, files};
use crate::checkpoint::starts::Starts;
use crate::checkpoint::store::CopyStore;
use crate::cluster::paths_of_all;
use crate::config::Config;

/// Gives every letter away that is kept by a configuration, of all its processes, but for those that are void: a later
/// start read the record again, and what became of it then is what counts.
///
/// # Errors
/// The place cannot be read, or `take` fails.
pub fn each(config: &Config, take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let starts = starts(config)?;
    let take = &mut |letter: Document<'static>| match starts.make_void(
        &letter.partition_info(),
        letter.offset,
        letter.start,
    ) {
        true => Ok(()),
        false => take(letter),
    };
    match config.dead_letters.to {
        Place::File => each_in_files(config, take),
        Place::Index => super::store::each(config, take),
        Place::Topic => super::topic::each(&config.dead_letters, take),
    }
}

/// What the starts of a configuration have read.
fn starts(config: &Config) -> anyhow::Result<Starts> {
    let store = CopyStore::open(&config.checkpoint, &config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Starts::read(&store)).context("which dead letters were read again is not known")
}

/// The files of all processes, also of runs that had more or fewer, the oldest of each first.
fn paths(config: &Config) -> anyhow::Result<Vec<PathBuf>> {
    let name = config.data_dir.join(&config.dead_letters.file);
    let context = || format!("cannot read the folder of {}", name.display());
    let mut paths = Vec::new();
    for path in paths_of_all(&name).with_context(context)? {
        paths.extend(files(&path).with_context(context)?);
    }
    Ok(paths)
}

/// A last line that is under way is left out.
fn each_in_files(config: &Config, take: &mut dyn FnMut(Document<'static>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for path in paths(config)? {
        let context = || format!("cannot read {}", path.display());
        let mut file = BufReader::new(std::fs::File::open(&path).with_context(context)?);
        let (mut line, mut number) = (Vec::new(), 0);
        while file.read_until(b'\n', &mut line).with_context(context)? > 0 && line.ends_with(b"\n") {
            number += 1;
            match serde_json::from_slice::<Document<'static>>(&line) {
                Ok(letter) => take(letter)?,
                Err(error) => tracing::warn!("line {number} of {} is no dead letter: {error}", path.display()),
            }
            line.clear();
        }
    }
    Ok(())
}
