//! Where redrives are, by number.
//!
//! In: a [`Redrive`]. Out: its number, once all copies are durable; or what is recorded. They are in the place where
//! checkpoints are (`checkpoint.url`), also where none are made, so that every process of a cluster sees them.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Letter, Place, Redrive};
use crate::checkpoint::store::{CopyStore, StoreError};
use crate::checkpoint::{CheckpointError, restore};
use crate::config::Config;
use crate::dead_letters::Document;
use crate::engine::last_generation;

/// Where they are.
const FOLDER: &str = "redrives";

/// The redrives in a place.
#[derive(Clone, Debug)]
pub struct Recorded(CopyStore);

impl Recorded {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When the place cannot be opened.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        CopyStore::open(&config.checkpoint, &config.data_dir).map(Self)
    }

    /// What to call the place.
    pub fn place(&self) -> &str {
        self.0.place()
    }

    fn name(number: i32) -> String {
        format!("{FOLDER}/{number:08}")
    }

    /// The numbers of all.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn numbers(&self) -> Result<BTreeSet<i32>, StoreError> {
        let names = self.0.list(FOLDER).await?;
        Ok(names.iter().filter_map(|name| name.rsplit('/').next()?.parse().ok()).collect())
    }

    /// Reads one. Copies that are damaged are put right.
    ///
    /// # Errors
    /// When no copy is good.
    pub async fn read(&self, number: i32) -> Result<Redrive, StoreError> {
        self.0.get(&Self::name(number), true, |bytes| Redrive::decode(bytes)).await
    }

    /// Whether there is one of this number.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn has(&self, number: i32) -> Result<bool, StoreError> {
        self.0.has(&Self::name(number)).await
    }

    /// Records one under the next number, which it returns.
    ///
    /// # Errors
    /// When it cannot be written. It may be there all the same, in one copy, and is then taken for recorded.
    pub async fn record(&self, redrive: &Redrive) -> Result<i32, CheckpointError> {
        let file = redrive.encode().map_err(|error| CheckpointError::Stopped(error.to_string()))?;
        let file = bytes::Bytes::from(file);
        loop {
            let number = self.numbers().await?.last().map_or(0, |last| last + 1);
            match self.0.create(&Self::name(number), file.clone()).await {
                // Somebody else was quicker.
                Err(StoreError::Exists(_)) => {}
                written => return Ok(written.map(|()| number)?),
            }
        }
    }

    /// The generation of the documents that are being written, as far as is known here.
    pub async fn generation(&self, config: &Config) -> u64 {
        let ids = restore::ids(&self.0).await.unwrap_or_default();
        for &id in ids.iter().rev() {
            if let Ok(manifest) = restore::manifest(&self.0, id, false).await {
                return manifest.generation;
            }
        }
        last_generation(&config.data_dir).unwrap_or(0)
    }

    /// What all of them hold.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn redriven(&self) -> Result<Redriven, StoreError> {
        let mut redriven = Redriven::default();
        for number in self.numbers().await? {
            let redrive = self.read(number).await?;
            let partition = redrive.partition(number);
            redriven.letters.extend(redrive.letters.iter().map(|letter| key(&letter.letter)));
            redriven.redrives.insert(partition.identity.to_string(), redrive);
        }
        Ok(redriven)
    }
}

/// A record's place: identity, partition, offset.
type Key = (String, i32, u64);

fn key(letter: &Document<'_>) -> Key {
    (letter.identity.clone().into_owned(), letter.partition, letter.offset)
}

/// Which letters were redriven.
#[derive(Debug, Default)]
pub struct Redriven {
    letters: BTreeSet<Key>,
    /// By identity.
    redrives: BTreeMap<String, Redrive>,
}

impl Redriven {
    /// Whether a letter was. What became of it is in the account of that redrive: if it was a dead letter again, that one
    /// is another letter.
    pub fn has(&self, letter: &Document<'_>) -> bool {
        self.letters.contains(&key(letter))
    }

    /// The letter of a redrive that a letter is of, if it is of one.
    pub fn of(&self, letter: &Document<'_>) -> Option<&Letter> {
        let redrive = self.redrives.get(&*letter.identity)?;
        redrive.letters.get(usize::try_from(letter.offset).ok()?)
    }

    /// Where a letter's record was a dead letter first, if not where the letter says.
    pub fn origin(&self, letter: &Document<'_>) -> Option<Place> {
        self.of(letter).map(Letter::origin)
    }
}
