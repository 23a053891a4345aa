//! Where checkpoints are: files in several copies, in a local directory or in S3-compatible storage.
//!
//! In: names and bytes. Out: bytes that have been checked, from the first copy that is good; copies that are not are
//! named in the log and put right. Local files and the directories they are in are synchronised before a write counts.
//! A write is repeated by whoever asked for it.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::config::CheckpointConfig;
use super::format::Damage;
use super::{FIRST_DELAY, chain_of};

/// So many times a file is read that cannot be reached, with a growing pause in between.
const READ_TRIES: u32 = 5;
/// The folders of the copies.
const COPIES: [&str; 4] = ["a", "b", "c", "d"];

/// What can go wrong with the place where checkpoints are.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be as it is configured.
    #[error("checkpoint.url: {0}")]
    Configuration(String),
    /// It does not do what it is asked to.
    #[error("{context}")]
    Failed {
        /// What was being done, and to what.
        context: String,
        /// What came back.
        source: object_store::Error,
    },
    /// A file that may be written once only is there already.
    #[error("{0} is there already: does another run write its checkpoints to the same place?")]
    Exists(String),
    /// No copy of a file is good.
    #[error("no copy of {name} is good: {problems}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong with each copy.
        problems: String,
    },
}

/// Files in several copies.
#[derive(Clone, Debug)]
pub struct CopyStore {
    store: Arc<dyn ObjectStore>,
    root: Path,
    copies: usize,
    /// What to call it.
    place: String,
}

impl CopyStore {
    /// Opens the place that is configured.
    ///
    /// # Errors
    /// When the URL is wrong, or a local directory cannot be made.
    pub fn open(config: &CheckpointConfig, data_dir: &FilePath) -> Result<Self, StoreError> {
        let copies = usize::from(config.copies).clamp(1, COPIES.len());
        let url = config.url.as_deref().unwrap_or_default();
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let wrong = |error: &dyn std::fmt::Display| StoreError::Configuration(error.to_string());
            let root = Path::parse(prefix.trim_end_matches('/')).map_err(|error| wrong(&error))?;
            // The first one stays, if another part has installed it.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(config.allow_http);
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(region) = &config.region {
                builder = builder.with_region(region);
            }
            if let Some(key) = &config.access_key_id {
                builder = builder.with_access_key_id(key);
            }
            if let Some(secret) = &config.secret_access_key {
                builder = builder.with_secret_access_key(secret.expose());
            }
            let store = builder.build().map_err(|error| wrong(&error))?;
            return Ok(Self { store: Arc::new(store), root, copies, place: url.to_owned() });
        }
        let directory = match url.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => path.into(),
            None if url.is_empty() => data_dir.join("checkpoints"),
            _ => {
                let advice = "expected file:///absolute/path or s3://bucket/prefix";
                return Err(StoreError::Configuration(format!("{advice}, got \"{url}\"")));
            }
        };
        Self::in_directory(&directory, copies)
    }

    /// Copies in a local directory, made if it is not there.
    pub fn in_directory(directory: &FilePath, copies: usize) -> Result<Self, StoreError> {
        let place = directory.display().to_string();
        let failed = |error: &dyn std::fmt::Display| StoreError::Configuration(format!("{place}: {error}"));
        for copy in &COPIES[..copies] {
            std::fs::create_dir_all(directory.join(copy)).map_err(|error| failed(&error))?;
        }
        let store = LocalFileSystem::new_with_prefix(directory).map_err(|error| failed(&error))?.with_fsync(true);
        Ok(Self { store: Arc::new(store), root: Path::default(), copies, place })
    }

    /// Copies in any other place.
    #[cfg(test)]
    pub(super) fn over(store: Arc<dyn ObjectStore>, copies: usize) -> Self {
        Self { store, root: Path::default(), copies, place: "elsewhere".to_owned() }
    }

    /// What to call it.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, copy: &str, name: &str) -> Path {
        let folder = self.root.parts().map(|part| part.as_ref().to_owned()).chain([copy.to_owned()]);
        folder.chain(name.split('/').map(str::to_owned)).collect::<Vec<_>>().join("/").into()
    }

    /// The name of a copy in messages.
    fn shown(&self, copy: &str, name: &str) -> String {
        format!("{}/{copy}/{name}", self.place)
    }

    /// Writes all copies. They are durable when this returns.
    ///
    /// # Errors
    /// When a copy could not be written; the others may have been.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        for copy in &COPIES[..self.copies] {
            self.put_copy(copy, name, bytes.clone(), PutMode::Overwrite).await?;
        }
        Ok(())
    }

    /// Writes all copies of a file that nobody else may have written. The same bytes may be there already.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when other bytes are there.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        for copy in &COPIES[..self.copies] {
            match self.put_copy(copy, name, bytes.clone(), PutMode::Create).await {
                Err(StoreError::Failed { source: object_store::Error::AlreadyExists { .. }, .. }) => {
                    // Perhaps of an attempt of our own whose answer did not come.
                    match self.get_copy(copy, name).await {
                        Ok(there) if there == bytes => {}
                        // Or it was deleted by whoever wrote it.
                        Ok(_) | Err(StoreError::Failed { source: object_store::Error::NotFound { .. }, .. }) => {
                            return Err(StoreError::Exists(self.shown(copy, name)));
                        }
                        Err(error) => return Err(error),
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn put_copy(&self, copy: &str, name: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.store.put_opts(&self.path(copy, name), bytes.into(), options).await;
        let context = || format!("cannot write {}", self.shown(copy, name));
        put.map(drop).map_err(|source| StoreError::Failed { context: context(), source })
    }

    async fn get_copy(&self, copy: &str, name: &str) -> Result<Bytes, StoreError> {
        let failed = |source| StoreError::Failed { context: format!("cannot read {}", self.shown(copy, name)), source };
        self.store.get(&self.path(copy, name)).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Reads a file from the first copy that `check` finds good. With `repair`, all copies are read, and bad ones
    /// replaced; where good ones differ, the longest holds: a kill came between the copies of a file that only grows.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when all copies were looked at and none is good; [`StoreError::Failed`] when one that may be
    /// good cannot be reached, after some tries.
    pub async fn get<T>(
        &self,
        name: &str,
        repair: bool,
        check: impl Fn(&Bytes) -> Result<T, Damage>,
    ) -> Result<T, StoreError> {
        let mut delay = FIRST_DELAY;
        for _ in 1..READ_TRIES {
            match self.try_get(name, repair, &check).await {
                Err(StoreError::Failed { .. }) => tokio::time::sleep(delay).await,
                result => return result,
            }
            delay *= 2;
        }
        self.try_get(name, repair, &check).await
    }

    async fn try_get<T>(
        &self,
        name: &str,
        repair: bool,
        check: &impl Fn(&Bytes) -> Result<T, Damage>,
    ) -> Result<T, StoreError> {
        let mut bad = Vec::new();
        let mut unreachable = None;
        let mut good: Option<(T, Bytes)> = None;
        let mut behind = Vec::new();
        for copy in &COPIES[..self.copies] {
            let problem = match self.get_copy(copy, name).await {
                Ok(bytes) => match check(&bytes) {
                    Ok(value) => {
                        match &good {
                            Some((_, longest)) if longest.len() >= bytes.len() => {}
                            _ => good = Some((value, bytes.clone())),
                        }
                        behind.push((copy, bytes));
                        if !repair {
                            break;
                        }
                        continue;
                    }
                    Err(damage) => damage.to_string(),
                },
                Err(StoreError::Failed { source: object_store::Error::NotFound { .. }, .. }) => {
                    "it is not there".to_owned()
                }
                Err(error) => {
                    tracing::warn!("{}", chain_of(&error));
                    unreachable = Some(error);
                    continue;
                }
            };
            tracing::warn!("checkpoint file {} is damaged: {problem}", self.shown(copy, name));
            bad.push((copy, problem));
        }
        let Some((value, bytes)) = good else {
            if let Some(error) = unreachable {
                return Err(error);
            }
            let problems = bad.iter().map(|(copy, problem)| format!("in {copy}, {problem}"));
            let problems = problems.collect::<Vec<_>>().join("; ");
            return Err(StoreError::Damaged { name: name.to_owned(), problems });
        };
        behind.retain(|(_, of_copy)| *of_copy != bytes);
        let behind = behind.iter().map(|(copy, _)| copy);
        for copy in bad.iter().map(|(copy, _)| copy).chain(behind).filter(|_| repair) {
            match self.put_copy(copy, name, bytes.clone(), PutMode::Overwrite).await {
                Ok(()) => tracing::info!("checkpoint file {} is replaced by a good copy", self.shown(copy, name)),
                Err(error) => tracing::warn!("checkpoint file {} stays damaged: {error}", self.shown(copy, name)),
            }
        }
        Ok(value)
    }

    /// Whether there is a copy of a file.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn has(&self, name: &str) -> Result<bool, StoreError> {
        for copy in &COPIES[..self.copies] {
            match self.store.head(&self.path(copy, name)).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    let context = format!("cannot look for {}", self.shown(copy, name));
                    return Err(StoreError::Failed { context, source });
                }
            }
        }
        Ok(false)
    }

    /// What is wrong with each copy of a file, if something is.
    pub async fn problems<T>(&self, name: &str, check: impl Fn(&Bytes) -> Result<T, Damage>) -> Vec<String> {
        let mut problems = Vec::new();
        for copy in &COPIES[..self.copies] {
            let problem = match self.get_copy(copy, name).await {
                Ok(bytes) => check(&bytes).err().map(|damage| damage.to_string()),
                Err(StoreError::Failed { source, .. }) => Some(source.to_string()),
                Err(error) => Some(error.to_string()),
            };
            problems.extend(problem.map(|problem| format!("{}: {problem}", self.shown(copy, name))));
        }
        problems
    }

    /// The names of all files below a folder (none for all), of which there is at least one copy. Ascending.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn list(&self, folder: &str) -> Result<BTreeSet<String>, StoreError> {
        let mut names = BTreeSet::new();
        for copy in &COPIES[..self.copies] {
            let root = self.path(copy, "");
            let prefix = if folder.is_empty() { root.clone() } else { self.path(copy, folder) };
            let failed =
                |source| StoreError::Failed { context: format!("cannot list {}", self.shown(copy, folder)), source };
            let found: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.map_err(failed)?;
            for meta in found {
                let parts = meta.location.prefix_match(&root);
                let parts: Vec<_> = parts
                    .into_iter()
                    .flatten()
                    .map(|part| part.as_ref().to_owned())
                    .filter(|p| !p.is_empty())
                    .collect();
                names.insert(parts.join("/"));
            }
        }
        Ok(names)
    }

    /// Whether it can be read from: one listing.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn reach(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Failed { context: format!("cannot list {}", self.place), source };
        self.store.list_with_delimiter(Some(&self.root)).await.map(drop).map_err(failed)
    }

    /// Deletes all copies of a file.
    ///
    /// # Errors
    /// When a copy cannot be deleted. One that is not there is no error.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        for copy in &COPIES[..self.copies] {
            match self.store.delete(&self.path(copy, name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    let context = format!("cannot delete {}", self.shown(copy, name));
                    return Err(StoreError::Failed { context, source });
                }
            }
        }
        Ok(())
    }
}
