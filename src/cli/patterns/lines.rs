//! The lines of files, one after the other.
//!
//! In: paths, `-` for standard input. Out: lines without their ends, as bytes. Of a very long line only the beginning is
//! kept. An error names the file.

use std::fs;
use std::io::{Read, Stdin};
use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::sources::files::Stream;

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// Bytes kept of a line.
const MAX_LINE: usize = 1 << 20;

/// The lines of some files.
pub struct Lines {
    /// Files to come, the next one last.
    files: Vec<PathBuf>,
    current: Option<(PathBuf, Input)>,
    block: Vec<u8>,
    /// What of the block has not been handed out.
    unread: std::ops::Range<usize>,
    line: Vec<u8>,
    progress: ProgressBar,
}

enum Input {
    File(Box<Stream>),
    Standard(Stdin),
}

impl Lines {
    /// Opens nothing yet, but finds out what is not there.
    pub fn new(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut bytes = Some(0);
        for file in files {
            if is_standard(file) {
                bytes = None;
                continue;
            }
            let stream = Stream::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            let length = fs::metadata(file).ok().filter(|_| !stream.is_compressed()).map(|metadata| metadata.len());
            bytes = bytes.zip(length).map(|(sum, length)| sum + length);
        }
        let files = files.iter().rev().cloned().collect();
        let block = vec![0; BLOCK];
        Ok(Self { files, current: None, block, unread: 0..0, line: Vec::new(), progress: progress_bar(bytes) })
    }

    /// The next line.
    pub fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        self.line.clear();
        let mut has_line = false;
        loop {
            if self.unread.is_empty() {
                if self.fill()? {
                    continue;
                }
                // A file's last line may have no end; the next file does not go on with it.
                match has_line {
                    true => break,
                    false if self.files.is_empty() && self.current.is_none() => return Ok(None),
                    false => continue,
                }
            }
            has_line = true;
            let unread = &self.block[self.unread.clone()];
            let (part, used, is_end) = match memchr::memchr(b'\n', unread) {
                Some(end) => (&unread[..end], end + 1, true),
                None => (unread, unread.len(), false),
            };
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.unread.start += used;
            if is_end {
                break;
            }
        }
        Ok(Some(self.line.strip_suffix(b"\r").unwrap_or(&self.line)))
    }

    /// Reads on. Returns false at the end of a file, and when there is no more file.
    fn fill(&mut self) -> anyhow::Result<bool> {
        if self.current.is_none() {
            let Some(path) = self.files.pop() else { return Ok(false) };
            let input = match is_standard(&path) {
                true => Input::Standard(std::io::stdin()),
                false => {
                    let stream = Stream::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    Input::File(Box::new(stream))
                }
            };
            self.current = Some((path, input));
        }
        let Some((path, input)) = &mut self.current else { return Ok(false) };
        let read = match input {
            Input::File(stream) => stream.read(&mut self.block),
            Input::Standard(stdin) => stdin.read(&mut self.block),
        };
        let read = read.with_context(|| format!("cannot read {}", path.display()))?;
        self.progress.inc(read as u64);
        self.unread = 0..read;
        if read == 0 {
            self.current = None;
        }
        Ok(read > 0)
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        self.progress.finish_and_clear();
    }
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// A bar for a person to watch; none where standard error is no terminal.
fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}, {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
