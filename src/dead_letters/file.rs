//! Dead letters in a file, one JSON object a line.
//!
//! A write is safe when it returns: the file is synced, once for all letters that waited. At `rotate_at` the file is
//! given the next number behind its name; nothing is ever deleted here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::letter::DeadLetter;
use super::{Sink, SinkError};

/// How much of the end of a file is looked at for an unfinished line at once.
const TAIL: u64 = 64 << 10;

/// Appends to a file.
pub struct FileSink {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines in the file.
    length: u64,
    rotate_at: u64,
    max_size: u64,
    buffer: Vec<u8>,
}

impl FileSink {
    /// Opens the file, made with its folder if it is not there. A line that a crash left unfinished is cut off: it was
    /// never reported as safe, so its record is read again.
    pub fn open(path: PathBuf, rotate_at: u64, max_size: u64) -> Result<Self, SinkError> {
        let open = || {
            fs::create_dir_all(folder(&path))?;
            let mut file = open_append(&path)?;
            let length = whole_lines(&mut file)?;
            if length < file.metadata()?.len() {
                tracing::warn!(path = %path.display(), "cut off an unfinished dead letter at {length}");
                file.set_len(length)?;
            }
            io::Result::Ok((file, length))
        };
        let (file, length) = open().map_err(|source| failure("cannot open", &path, source))?;
        Ok(Self { file, length, rotate_at, max_size, buffer: Vec::new(), path })
    }

    /// The file with a number behind its name.
    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Bytes of the numbered files, and the number after the last.
    fn rotated(&self) -> io::Result<(u64, u32)> {
        let (mut bytes, mut last) = (0, 0);
        for (number, path) in numbered(&self.path)? {
            bytes += fs::metadata(path)?.len();
            last = u32::max(last, number);
        }
        Ok((bytes, last + 1))
    }

    fn rotate(&mut self, number: u32) -> io::Result<()> {
        fs::rename(&self.path, self.numbered(number))?;
        self.file = open_append(&self.path)?;
        self.length = 0;
        sync_folder(&self.path)
    }

    fn append(&mut self) -> io::Result<()> {
        // What an earlier try left behind.
        if self.file.metadata()?.len() > self.length {
            self.file.set_len(self.length)?;
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.length += self.buffer.len() as u64;
        Ok(())
    }
}

impl Sink for FileSink {
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), SinkError> {
        self.buffer.clear();
        for letter in letters {
            letter.write(&mut self.buffer);
            self.buffer.push(b'\n');
        }
        let failed = |sink: &Self, source| failure("cannot write to", &sink.path, source);
        let (rotated, next) = self.rotated().map_err(|error| failed(self, error))?;
        let needed = rotated + self.length + self.buffer.len() as u64;
        if needed > self.max_size {
            return Err(SinkError::Full(format!(
                "{} and the numbered files beside it would take {needed} bytes, more than the {} allowed; move them \
                 away, or raise `max_size`",
                self.path.display(),
                self.max_size
            )));
        }
        if self.length > 0 && self.length + self.buffer.len() as u64 > self.rotate_at {
            self.rotate(next).map_err(|error| failed(self, error))?;
        }
        self.append().map_err(|error| failed(self, error))
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// The numbered files beside a file, the oldest first.
fn numbered(path: &Path) -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let number = path.file_name().and_then(|base| name.as_bytes().strip_prefix(base.as_bytes()));
        let number = number.and_then(|rest| std::str::from_utf8(rest.strip_prefix(b".")?).ok()?.parse().ok());
        files.extend(number.map(|number| (number, entry.path())));
    }
    Ok(files)
}

/// All files of a place for dead letters, the oldest first. Empty where there is none.
///
/// # Errors
/// The folder cannot be read.
pub fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(numbered(path)?.into_values().chain([path.to_owned()]).collect())
}

fn failure(what: &str, path: &Path, source: io::Error) -> SinkError {
    SinkError::Io { context: format!("{what} {}", path.display()), source }
}

fn open_append(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    sync_folder(path)?;
    Ok(file)
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes names in the folder of a file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// The length of a file up to its last line feed.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        (&*file).take(end - start).read_to_end(&mut buffer)?;
        if let Some(at) = memchr::memrchr(b'\n', &buffer) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use floodmark_dataflows::input::PartitionInfo;
    use floodmark_dataflows::output::Reason;

    use super::super::letter::Document;
    use super::*;

    fn letters(offsets: std::ops::Range<u64>) -> Vec<DeadLetter> {
        let partition = Arc::new(PartitionInfo { topic: "t".into(), identity: "t".into(), number: 0 });
        let letter = |offset| DeadLetter {
            partition: partition.clone(),
            offset,
            reason: Reason::Malformed,
            detail: "expected an object".into(),
            raw: format!("raw {offset}").into_bytes(),
            timestamp_ms: 1,
            start: 1,
        };
        offsets.map(letter).collect()
    }

    fn offsets(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str::<Document<'_>>(line).unwrap().offset).collect()
    }

    #[test]
    fn an_unfinished_line_is_cut_off_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/dead.ndjson");
        FileSink::open(path.clone(), 1 << 20, 1 << 20).unwrap().write(&letters(0..3)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[b'x'; 100_000]).unwrap();
        FileSink::open(path.clone(), 1 << 20, 1 << 20).unwrap().write(&letters(3..5)).unwrap();
        assert_eq!(offsets(&path), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn files_are_numbered_and_a_full_place_says_so_until_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.ndjson");
        let mut sink = FileSink::open(path.clone(), 1_000, 3_000).unwrap();
        let mut written = 0;
        let full = loop {
            match sink.write(&letters(written..written + 1)) {
                Ok(()) => written += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert!(full.contains("max_size"), "{full}");
        let all = || {
            let mut all = Vec::new();
            for name in ["dead.ndjson.1", "dead.ndjson.2", "dead.ndjson.3", "dead.ndjson"] {
                let path = dir.path().join(name);
                if path.exists() {
                    assert!(fs::metadata(&path).unwrap().len() <= 1_000);
                    all.extend(offsets(&path));
                }
            }
            all
        };
        assert_eq!(all(), (0..written).collect::<Vec<_>>());
        assert!(dir.path().join("dead.ndjson.2").exists());
        fs::remove_file(dir.path().join("dead.ndjson.2")).unwrap();
        sink.write(&letters(written..written + 1)).unwrap();
        assert_eq!(all().last(), Some(&written));
    }
}
