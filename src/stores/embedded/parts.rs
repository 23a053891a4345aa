//! The directory of the store: a directory for each part, named by the start of its span; a lock; what was decided when
//! it was made.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::lock;
use crate::stores::StoreError;
use crate::units::Span;

/// The directory of the part that starts at a time.
pub(super) fn path(directory: &Path, start_ms: u64) -> PathBuf {
    let time = i64::try_from(start_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let day = time.map_or_else(|| "later".to_owned(), |time| time.strftime("%Y-%m-%dT%H-%M").to_string());
    directory.join(format!("{day}_{start_ms}"))
}

/// The parts that are there, by their starts.
pub(super) fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let unreadable = |e| StoreError::Fatal(format!("cannot read the directory {}: {e}", directory.display()));
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let start = path.file_name().and_then(|name| name.to_str()?.rsplit_once('_')?.1.parse().ok());
        // A directory without an index is left over from a start that was cut short.
        if let Some(start) = start.filter(|_| path.join("meta.json").exists()) {
            parts.push((start, path));
        }
    }
    Ok(parts)
}

/// Takes the directory for this process; held until the file is dropped.
pub(super) fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let taken = lock::take(&path).map_err(|e| StoreError::Fatal(format!("cannot use {}: {e}", path.display())))?;
    taken.ok_or_else(|| {
        StoreError::Fatal(format!(
            "the index in {} is in use by another process; end that one, or set store.embedded.path to another directory",
            directory.display()
        ))
    })
}

/// Checks that the directory was made with this span, or notes it down.
pub(super) fn check_span(directory: &Path, span: Span) -> Result<(), StoreError> {
    let path = directory.join("span");
    let failed = |e| StoreError::Fatal(format!("cannot use {}: {e}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == span.to_string() => Ok(()),
        Ok(text) => Err(StoreError::Fatal(format!(
            "the index in {} was made with a span of {}, and store.embedded.span is {span}; set it back, or set \
             store.embedded.path to another directory",
            directory.display(),
            text.trim()
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::write(&path, span.to_string()).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}
