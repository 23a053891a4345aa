//! What waits for the store and does not fit into memory: bounded files on local disk.
//!
//! In: blocks of bytes. Out: the same blocks, each once, checked. The files are an extension of memory, not a log: a
//! process that starts removes what an earlier one left, since what was not stored is read from the source again.
//!
//! Files are written one after the other and deleted when everything in them was taken. On error: a block that cannot
//! be written is given back to the caller, who keeps it in memory; one that cannot be read again is an error.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// A file is closed at this size, or at an eighth of the limit.
const FILE_BYTES: u64 = 64 << 20;
/// Of files that are the spool's.
const EXTENSION: &str = "spool";

/// Where the spool is and how much it may hold.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// A directory of its own for each process; made if it is not there.
    pub directory: PathBuf,
    /// Bytes on disk at the most.
    pub limit_bytes: u64,
}

/// Blocks on disk.
pub(super) struct Spool {
    options: SpoolOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, SpoolFile>,
    /// The number that the next file gets.
    next: u64,
    /// Bytes of all files.
    bytes: u64,
    /// Why the last block could not be written.
    problem: Option<String>,
}

struct SpoolFile {
    file: std::sync::Arc<File>,
    length: u64,
    /// Blocks that were not taken.
    blocks: usize,
    /// No more is written to it.
    full: bool,
}

/// A block on disk. Dropping it without taking it keeps its file.
#[derive(Debug)]
pub(super) struct Spooled {
    file: u64,
    at: u64,
    length: usize,
    checksum: u32,
}

impl Spooled {
    /// Its bytes.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl Spool {
    /// Makes the directory, and removes what an earlier process left in it.
    pub(super) fn open(options: SpoolOptions) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.directory)?;
        for entry in fs::read_dir(&options.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { options, state: Mutex::default() })
    }

    /// Writes a block, if there is room. Blocks the thread. `None` if there is none or the disk refuses, which
    /// [`Spool::problem`] then tells.
    pub(super) fn put(&self, block: &[u8]) -> Option<Spooled> {
        let mut state = self.state.lock();
        if state.bytes + block.len() as u64 > self.options.limit_bytes {
            return None;
        }
        match self.append(&mut state, block) {
            Ok(spooled) => {
                if state.problem.take().is_some() {
                    tracing::info!(directory = %self.options.directory.display(), "the spool can be written again");
                }
                Some(spooled)
            }
            Err(error) => {
                let directory = self.options.directory.display();
                let problem = format!("cannot write the spool in {directory}: {error}; what waits stays in memory");
                if state.problem.replace(problem.clone()).is_none() {
                    tracing::error!("{problem}");
                }
                None
            }
        }
    }

    fn append(&self, state: &mut State, block: &[u8]) -> io::Result<Spooled> {
        let number = match state.files.last_entry() {
            Some(last) if !last.get().full => *last.key(),
            _ => {
                let number = state.next;
                let path = path(&self.options.directory, number);
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
                state.next += 1;
                let file = SpoolFile { file: file.into(), length: 0, blocks: 0, full: false };
                state.files.insert(number, file);
                number
            }
        };
        let Some(file) = state.files.get_mut(&number) else { return Err(io::ErrorKind::NotFound.into()) };
        let at = file.length;
        // What a failed write left behind is overwritten by the next one.
        file.file.write_all_at(block, at)?;
        file.length += block.len() as u64;
        file.blocks += 1;
        file.full = file.length >= FILE_BYTES.min(self.options.limit_bytes / 8);
        state.bytes += block.len() as u64;
        Ok(Spooled { file: number, at, length: block.len(), checksum: crc32fast::hash(block) })
    }

    /// Reads a block and gives up its place. Blocks the thread.
    pub(super) fn take(&self, spooled: Spooled) -> io::Result<Vec<u8>> {
        let file = self.state.lock().files.get(&spooled.file).map(|file| file.file.clone());
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let mut block = vec![0; spooled.length];
        file.read_exact_at(&mut block, spooled.at)?;
        if crc32fast::hash(&block) != spooled.checksum {
            let (path, at) = (path(&self.options.directory, spooled.file), spooled.at);
            let what = format!("{} is damaged at position {at}: its bytes are not those written", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut state = self.state.lock();
        if let Some(file) = state.files.get_mut(&spooled.file) {
            file.blocks -= 1;
            if file.blocks == 0 {
                let length = file.length;
                state.files.remove(&spooled.file);
                state.bytes -= length;
                drop(state);
                fs::remove_file(path(&self.options.directory, spooled.file))?;
            }
        }
        Ok(block)
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Bytes on disk at the most.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.options.limit_bytes
    }

    /// Why the last block could not be written.
    pub(super) fn problem(&self) -> Option<String> {
        self.state.lock().problem.clone()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        for number in self.state.get_mut().files.keys() {
            // The next start removes it otherwise.
            let _ = fs::remove_file(path(&self.options.directory, *number));
        }
    }
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn blocks_come_back_and_files_go_when_all_of_them_were_taken() {
        let directory = tempfile::tempdir().unwrap();
        let options = SpoolOptions { directory: directory.path().to_owned(), limit_bytes: 8_000 };
        let spool = Spool::open(options).unwrap();
        let blocks: Vec<Vec<u8>> = (0..16u8).map(|n| vec![n; 500]).collect();
        let mut spooled: Vec<Spooled> = blocks.iter().map(|block| spool.put(block).unwrap()).collect();
        assert_eq!((spool.bytes(), files(directory.path())), (8_000, 8), "a file is full at an eighth of the limit");
        assert!(spool.put(&[1]).is_none(), "there is no room");
        assert_eq!(spool.problem(), None, "being full is none");
        while let Some(last) = spooled.pop() {
            assert_eq!(spool.take(last).unwrap(), blocks[spooled.len()]);
        }
        assert_eq!((spool.bytes(), files(directory.path())), (0, 0));
        assert!(spool.put(&[1]).is_some(), "there is room again");
    }

    #[test]
    fn a_start_removes_what_is_left_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("000000000003.spool"), "left").unwrap();
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        let options = SpoolOptions { directory: directory.path().to_owned(), limit_bytes: 100 };
        let spool = Spool::open(options).unwrap();
        spool.put(b"block").unwrap();
        assert_eq!(files(directory.path()), 2);
        drop(spool);
        assert_eq!(files(directory.path()), 1);
    }

    #[test]
    fn damage_is_found_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let options = SpoolOptions { directory: directory.path().to_owned(), limit_bytes: 1_000 };
        let spool = Spool::open(options).unwrap();
        let spooled = spool.put(b"a block").unwrap();
        fs::write(directory.path().join("000000000000.spool"), b"a clock").unwrap();
        let error = spool.take(spooled).unwrap_err().to_string();
        assert!(error.contains("000000000000.spool is damaged at position 0"), "{error}");
    }

    #[test]
    fn a_disk_that_refuses_is_a_problem_until_it_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("spool");
        let spool = Spool::open(SpoolOptions { directory: inner.clone(), limit_bytes: 1_000 }).unwrap();
        fs::remove_dir(&inner).unwrap();
        assert!(spool.put(b"block").is_none());
        assert!(spool.problem().unwrap().contains("cannot write the spool"));
        fs::create_dir(&inner).unwrap();
        assert!(spool.put(b"block").is_some());
        assert_eq!(spool.problem(), None);
    }
}
