//! Window documents: one append-only file for each span of event time, a line `{"id":…,"version":…,"document":…}` for
//! each published state. The greatest version of an id holds, whatever the order, and of equal ones the last.
//!
//! A file is cut back to its last whole line when it is opened, and deleted when its span is past its retention. Live
//! windows are answered from memory; these files are the record of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use floodmark_dataflows::output::WindowDocument;
use serde::{Deserialize, Serialize};

use super::config::EmbeddedConfig;
use super::parts;
use crate::stores::ndjson::end_of_last_line;
use crate::stores::{AlertWrite, StoreError, WindowWrite};

/// Files that are kept open.
const OPEN_FILES: usize = 4;

/// A line of a file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    id: Cow<'a, str>,
    version: u64,
    document: Cow<'a, WindowDocument>,
}

/// The files of window documents.
pub(super) struct WindowFiles {
    directory: PathBuf,
    span_ms: u64,
    retention_ms: Option<u64>,
    open: BTreeMap<u64, File>,
}

impl WindowFiles {
    pub(super) fn open(directory: &Path, config: &EmbeddedConfig) -> Result<Self, StoreError> {
        let directory = directory.join("windows");
        std::fs::create_dir_all(&directory).map_err(|e| failed(&directory, &e))?;
        let retention_ms = config.retention.map(crate::units::Span::as_millis);
        Ok(Self { directory, span_ms: config.span.as_millis(), retention_ms, open: BTreeMap::new() })
    }

    /// Appends windows; they are on disk when this returns.
    pub(super) fn write(&mut self, windows: &[WindowWrite]) -> Result<(), StoreError> {
        let mut by_file: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for WindowWrite { id, version, document } in windows {
            let lines = by_file.entry(document.start - document.start % self.span_ms).or_default();
            let line = Line { id: id.into(), version: *version, document: Cow::Borrowed(document) };
            serde_json::to_writer(&mut *lines, &line).map_err(|e| failed(&self.directory, &e))?;
            lines.push(b'\n');
        }
        for (start, lines) in by_file {
            let path = self.path(start);
            let written = self.file(start).and_then(|file| file.write_all(&lines).and_then(|()| file.sync_data()));
            written.map_err(|e| failed(&path, &e))?;
        }
        Ok(())
    }

    /// Appends alerts to their file, a line `{"id":…,"version":…,"document":…}` for each state; they are on disk when this
    /// returns. The file is not cut by age: alerts are few.
    pub(super) fn write_alerts(&mut self, alerts: &[AlertWrite]) -> Result<(), StoreError> {
        let path = self.directory.with_file_name("alerts.ndjson");
        let mut lines = Vec::new();
        for AlertWrite { id, version, json, .. } in alerts {
            let id = serde_json::to_string(id).map_err(|e| failed(&path, &e))?;
            lines.extend_from_slice(format!("{{\"id\":{id},\"version\":{version},\"document\":").as_bytes());
            lines.extend_from_slice(json);
            lines.extend_from_slice(b"}\n");
        }
        let write = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let end = end_of_last_line(&mut file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        write().map_err(|e: io::Error| failed(&path, &e))
    }

    fn file(&mut self, start: u64) -> io::Result<&mut File> {
        if !self.open.contains_key(&start) {
            if self.open.len() >= OPEN_FILES {
                self.open.pop_first();
            }
            let path = self.path(start);
            let is_new = !path.exists();
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let end = end_of_last_line(&mut file)?;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            if is_new {
                self.expire(start)?;
            }
            self.open.insert(start, file);
        }
        self.open.get_mut(&start).ok_or_else(|| io::Error::other("the file was not opened"))
    }

    /// Deletes the files that are past their retention when a new one begins at `start`.
    fn expire(&mut self, start: u64) -> io::Result<()> {
        let Some(retention) = self.retention_ms else { return Ok(()) };
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(other) = path.file_stem().and_then(|s| s.to_str()?.rsplit_once('_')?.1.parse::<u64>().ok()) else {
                continue;
            };
            if other + self.span_ms <= start.saturating_sub(retention) {
                self.open.remove(&other);
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, start: u64) -> PathBuf {
        parts::path(&self.directory, start).with_extension("ndjson")
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Fatal(format!("cannot write windows to {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::writer::testing::window_write;
    use crate::units::Span;

    const DAY: u64 = 86_400_000;

    fn lines(directory: &Path) -> Vec<(String, u64)> {
        let mut paths: Vec<_> =
            std::fs::read_dir(directory.join("windows")).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
        let texts: Vec<String> = paths.iter().map(read).collect();
        let parse = |line: &str| {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            (line.id.into_owned(), line.version)
        };
        texts.iter().flat_map(|text| text.lines().map(parse).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn every_state_is_kept_and_a_torn_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::default();
        let (first, second) = (window_write("a", 10_000, 1), window_write("a", 10_000, 2));
        let mut files = WindowFiles::open(directory.path(), &config).unwrap();
        files.write(std::slice::from_ref(&first)).unwrap();
        drop(files);
        let path = std::fs::read_dir(directory.path().join("windows")).unwrap().next().unwrap().unwrap().path();
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"id\":\"torn").unwrap();
        let mut files = WindowFiles::open(directory.path(), &config).unwrap();
        files.write(std::slice::from_ref(&second)).unwrap();
        assert_eq!(lines(directory.path()), [(first.id, 1), (second.id, 2)]);
    }

    #[test]
    fn files_past_their_retention_are_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { retention: Some(Span::from_millis(DAY)), ..EmbeddedConfig::default() };
        let mut files = WindowFiles::open(directory.path(), &config).unwrap();
        for day in 0..4 {
            files.write(&[window_write("a", day * DAY, day)]).unwrap();
        }
        let versions: Vec<u64> = lines(directory.path()).into_iter().map(|(_, version)| version).collect();
        assert_eq!(versions, [2, 3]);
    }
}
