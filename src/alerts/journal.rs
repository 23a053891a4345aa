//! A file of records that survives a crash: one line each, a checksum and JSON.
//!
//! In: records, appended and on disk before the call returns. Out: at the start, every record that is whole. A last line
//! that is not was torn as it was written, and is cut off. One before it was damaged since: a copy is set aside, as
//! `journal.damaged`, and what is whole goes on. The file is written anew
//! from time to time, beside the old one, which it then replaces. On error: what an append left in the file is cut off
//! again, at once or before the next one, so nothing is ever written behind it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a file held when it was opened.
pub(super) struct Opened<T> {
    pub journal: Journal,
    /// Oldest first.
    pub records: Vec<T>,
    /// How many of them stood before the first line that was damaged, if one was.
    pub whole_until: Option<usize>,
}

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// The length of what was written whole. The file may be longer after an error.
    length: u64,
}

impl Journal {
    /// Opens the file, making it where it is missing.
    pub(super) fn open<T: DeserializeOwned>(path: &Path) -> io::Result<Opened<T>> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let bytes = bytes_of(path)?;
        let Found { records, whole_until, torn } = whole_records(&bytes);
        if torn > 0 {
            tracing::warn!(path = %path.display(), bytes = torn, "alerts: a torn end was cut off");
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        if whole_until.is_some() {
            let aside = path.with_extension("damaged");
            std::fs::write(&aside, &bytes)?;
            let (path, aside) = (path.display(), aside.display());
            tracing::error!(%path, "alerts: lines are damaged and left out; the file as it was is {aside}");
        }
        let length = (bytes.len() - torn) as u64;
        file.set_len(length)?;
        let journal = Self { path: path.to_owned(), file, lines: records.len(), length };
        Ok(Opened { journal, records, whole_until })
    }

    /// Records in the file.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Appends records; they are on disk when this returns.
    pub(super) fn append<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            encode(record, &mut lines)?;
        }
        self.append_with(&lines, |file| {
            file.write_all(&lines)?;
            file.sync_data()
        })?;
        self.lines += records.len();
        Ok(())
    }

    fn append_with(&mut self, lines: &[u8], write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        self.file.set_len(self.length)?;
        if let Err(error) = write(&mut self.file) {
            // What fails here, too, is done before the next append.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Writes the file anew with these records only.
    pub(super) fn rewrite<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            encode(record, &mut lines)?;
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&lines)?;
        file.sync_all()?;
        let file = OpenOptions::new().append(true).open(&new)?;
        std::fs::rename(&new, &self.path)?;
        // Whatever fails from here on, the old file is no more.
        (self.file, self.lines, self.length) = (file, records.len(), lines.len() as u64);
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// The records of a file that are whole, oldest first; none where there is no file. Changes nothing.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    Ok(whole_records(&bytes_of(path)?).records)
}

fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// What is in a file.
struct Found<T> {
    records: Vec<T>,
    /// How many records stood before the first line, other than the last, that is not whole.
    whole_until: Option<usize>,
    /// Bytes at the end that are not whole.
    torn: usize,
}

fn whole_records<T: DeserializeOwned>(bytes: &[u8]) -> Found<T> {
    let mut found = Found { records: Vec::new(), whole_until: None, torn: 0 };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        match decode(line) {
            Some(record) => found.records.push(record),
            None if lines.peek().is_none() => found.torn = line.len(),
            None => _ = found.whole_until.get_or_insert(found.records.len()),
        }
    }
    found
}

fn encode<T: Serialize>(record: &T, lines: &mut Vec<u8>) -> io::Result<()> {
    let json = serde_json::to_vec(record)?;
    write!(lines, "{:08x} ", crc32fast::hash(&json))?;
    lines.extend_from_slice(&json);
    lines.push(b'\n');
    Ok(())
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = line.split_at_checked(9)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc32fast::hash(json) == sum).then(|| sonic_rs::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_whole_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outbox/journal");
        let Opened { mut journal, records, .. } = Journal::open::<u32>(&path).unwrap();
        assert!(records.is_empty());
        journal.append(&[1, 2]).unwrap();
        journal.append(&[3]).unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 2);
        std::fs::write(&path, bytes).unwrap();
        let Opened { mut journal, records, .. } = Journal::open::<u32>(&path).unwrap();
        assert_eq!(records, [1, 2], "the torn record is gone");
        journal.append(&[4]).unwrap();
        journal.rewrite(&[2, 4]).unwrap();
        journal.append(&[5]).unwrap();
        assert_eq!(Journal::open::<u32>(&path).unwrap().records, [2, 4, 5]);
    }

    #[test]
    fn a_damaged_line_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open::<u32>(&path).unwrap().journal;
        journal.append(&[11, 12, 13]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let second = bytes.len() / 3;
        bytes[second] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let Opened { mut journal, records, .. } = Journal::open::<u32>(&path).unwrap();
        assert_eq!(records, [11, 13]);
        assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), bytes);
        journal.append(&[14]).unwrap();
        assert_eq!(Journal::open::<u32>(&path).unwrap().records, [11, 13, 14]);
    }

    #[test]
    fn what_a_full_disk_left_of_a_record_is_gone_before_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::open::<u32>(&path).unwrap().journal;
        journal.append(&[1]).unwrap();
        let mut line = Vec::new();
        encode(&2_u32, &mut line).unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for written in [4, line.len()] {
            // A part of it, and all of it that did not reach the disk.
            let failed = journal.append_with(&line, |file| file.write_all(&line[..written]).and(Err(full())));
            assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        journal.append(&[2]).unwrap();
        // Neither could be cut off at once.
        journal.file.write_all(&line[..4]).unwrap();
        journal.append(&[3]).unwrap();
        assert_eq!(Journal::open::<u32>(&path).unwrap().records, [1, 2, 3]);
    }
}
