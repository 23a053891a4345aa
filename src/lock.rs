//! A directory that one process uses at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Takes a lock file, making it and its folders where they are missing; held until the file is dropped, or the process ends
/// in whatever way. `None` if another process holds it.
///
/// # Errors
/// When the file cannot be made, or the file system knows no locks.
pub(crate) fn take(path: &Path) -> io::Result<Option<File>> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
