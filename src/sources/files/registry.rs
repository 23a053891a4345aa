//! Which files there are, which log each belongs to, and the numbers of the partitions.
//!
//! In: the patterns, matched again and again while following. Out: partitions, in an order that is the same in every
//! process for the files that are there at the start. A file that cannot be looked at is named in the log and in
//! `health`, and looked at again at the next scan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use floodmark_dataflows::input::PartitionInfo;

use super::fingerprint::{self, Fingerprint};
use super::stream::{FileId, read_head};
use super::{FileRange, FilesConfig, FilesRun};
use crate::sources::{Positions, SourceError, WorkerPlace};

/// Two files with the same fingerprint are compared on this many bytes before they count as one log.
const COMPARED_BYTES: usize = 64 << 10;

/// A log: what is behind a partition, under whatever names.
#[derive(Clone, Debug)]
pub struct Log {
    /// The partition.
    pub info: PartitionInfo,
    /// How it is known.
    pub fingerprint: Fingerprint,
    /// The bytes that the fingerprint is made of.
    pub head: Arc<[u8]>,
    /// Position to read from.
    pub from: u64,
    /// Lines that begin at or behind this are not read.
    pub to: Option<u64>,
    /// One past the last byte, as last seen.
    pub end: Arc<AtomicU64>,
    /// Whether it was there at the start.
    initial: bool,
    /// Whether a worker of this process reads it.
    taken: bool,
}

/// A file that holds a log or a part of it from the start on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
    /// Its bytes, if they are not compressed.
    pub plain_length: Option<u64>,
}

/// What a file was when its first bytes were last looked at.
#[derive(Clone)]
struct Seen {
    id: FileId,
    length: u64,
    modified: Option<SystemTime>,
    /// Absent while the file is too short to be known.
    known: Option<Known>,
}

#[derive(Clone)]
struct Known {
    fingerprint: Fingerprint,
    compressed: bool,
}

/// The files and the partitions of this process.
pub struct Registry {
    config: Arc<FilesConfig>,
    /// Numbers and offsets by identity, of an earlier run.
    resumed: HashMap<Arc<str>, (i32, u64)>,
    ranges: Vec<FileRange>,
    seen: HashMap<PathBuf, Seen>,
    candidates: HashMap<Fingerprint, Vec<Candidate>>,
    logs: Vec<Log>,
    by_fingerprint: HashMap<Fingerprint, usize>,
    next_number: i32,
    scanned: Option<Instant>,
    /// What is wrong with which files, as of the last scan.
    problems: BTreeMap<PathBuf, String>,
}

impl Registry {
    /// Scans for the first time.
    pub fn new(config: Arc<FilesConfig>, run: FilesRun) -> Result<Self, SourceError> {
        let FilesRun { positions, ranges, .. } = run;
        // A run that was killed before its first checkpoint may have noted only some of its partitions, none of them read
        // beyond what is read again: the others get the numbers that they had, which were given in order.
        let from_the_beginning = positions.values().all(|&offset| offset == 0);
        let after_last = positions.keys().map(|info| info.number + 1).max().unwrap_or(0);
        let next_number = if from_the_beginning { 0 } else { after_last };
        let resumed = positions.into_iter().map(|(info, offset)| (info.identity, (info.number, offset))).collect();
        let mut registry = Self {
            config,
            resumed,
            ranges,
            seen: HashMap::new(),
            candidates: HashMap::new(),
            logs: Vec::new(),
            by_fingerprint: HashMap::new(),
            next_number,
            scanned: None,
            problems: BTreeMap::new(),
        };
        registry.scan()?;
        if !registry.config.follow {
            if let Some((_, problem)) = registry.problems.first_key_value() {
                return Err(SourceError::Unreachable(problem.clone()));
            }
            if registry.seen.is_empty() {
                let patterns = registry.config.paths.join("\", \"");
                return Err(SourceError::Configuration(format!("no file matches \"{patterns}\"")));
            }
        }
        for range in &registry.ranges {
            if !registry.logs.iter().any(|log| registry.is_of(range, log)) {
                let file = &range.file;
                return Err(SourceError::Configuration(format!(
                    "no file is \"{file}\" or has this identity among those that `paths` matches"
                )));
            }
        }
        Ok(registry)
    }

    /// Scans if the last scan is `poll_interval` old.
    pub fn scan_if_due(&mut self) {
        if self.scanned.is_none_or(|at| at.elapsed() >= self.config.poll_interval.0) {
            // The patterns were good at the start.
            let _ = self.scan();
        }
    }

    /// The partitions of a worker from the `seen`-th log on, and how many logs there are now.
    pub fn take(&mut self, seen: usize, worker: WorkerPlace) -> (Vec<Log>, usize) {
        let mut mine = Vec::new();
        for log in &mut self.logs[seen..] {
            let share = match log.initial {
                true => log.info.number as usize % worker.peers,
                false => log.fingerprint.share(worker.peers),
            };
            if share == worker.index {
                log.taken = true;
                mine.push(log.clone());
            }
        }
        (mine, self.logs.len())
    }

    /// The files that hold a log as of the last scan, the best to read first: plain, then the longest.
    pub fn candidates(&self, fingerprint: Fingerprint) -> &[Candidate] {
        self.candidates.get(&fingerprint).map_or(&[], Vec::as_slice)
    }

    /// Whether each log can be read without unpacking anything, as of the last scan.
    pub fn is_plain(&self) -> bool {
        self.candidates.values().all(|files| files.iter().any(|file| file.plain_length.is_some()))
    }

    /// The ends of the partitions that this process reads.
    pub fn ends(&self) -> Positions {
        let taken = self.logs.iter().filter(|log| log.taken);
        taken.map(|log| (log.info.clone(), log.end.load(Ordering::Relaxed))).collect()
    }

    /// The paths of the logs that this process reads, by identity: of several copies the first.
    pub fn paths(&self) -> BTreeMap<Arc<str>, String> {
        let path = |log: &Log| self.candidates(log.fingerprint).first().map(|file| file.path.display().to_string());
        let taken = self.logs.iter().filter(|log| log.taken);
        taken.filter_map(|log| Some((log.info.identity.clone(), path(log)?))).collect()
    }

    /// How many files there are, or what is wrong.
    pub fn health(&self) -> Result<String, SourceError> {
        match self.problems.first_key_value() {
            Some((_, problem)) => Err(SourceError::Unreachable(problem.clone())),
            None => Ok(format!(
                "files: {} files with {} logs match \"{}\"",
                self.seen.len(),
                self.logs.len(),
                self.config.paths.join("\", \"")
            )),
        }
    }

    /// Matches the patterns, and looks at what is new or has changed.
    pub fn scan(&mut self) -> Result<(), SourceError> {
        let initial = self.scanned.replace(Instant::now()).is_none();
        let mut paths = Vec::new();
        let mut problems = BTreeMap::new();
        for pattern in &self.config.paths {
            let matches = glob::glob(pattern).map_err(|error| {
                SourceError::Configuration(format!("files: \"{pattern}\" is not a pattern: {error}"))
            })?;
            for found in matches {
                match found {
                    Ok(path) => paths.push(path),
                    Err(error) => drop(problems.insert(error.path().to_owned(), advice(error.path(), error.error()))),
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        let before = std::mem::take(&mut self.seen);
        let mut candidates: HashMap<Fingerprint, Vec<Candidate>> = HashMap::new();
        for path in paths {
            match self.look_at(&path, &before, initial) {
                Ok(Some(now)) => {
                    if let Some(known) = &now.known {
                        let plain_length = (!known.compressed).then_some(now.length);
                        let candidate = Candidate { path: path.clone(), id: now.id, plain_length };
                        candidates.entry(known.fingerprint).or_default().push(candidate);
                    }
                    self.seen.insert(path, now);
                }
                // A folder, or gone since the patterns were matched.
                Ok(None) => {}
                Err(problem) => drop(problems.insert(path, problem)),
            }
        }
        for files in candidates.values_mut() {
            files.sort_by_key(|file| std::cmp::Reverse(file.plain_length));
        }
        self.candidates = candidates;
        for (path, problem) in &problems {
            if !self.problems.contains_key(path) {
                tracing::error!(path = %path.display(), "{problem}");
            }
        }
        self.problems = problems;
        Ok(())
    }

    /// The log of a file; a new one where its fingerprint is new. `Err` says what is wrong and what to do.
    fn look_at(&mut self, path: &Path, before: &HashMap<PathBuf, Seen>, initial: bool) -> Result<Option<Seen>, String> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(advice(path, &error)),
        };
        let id = FileId::of(&metadata);
        let unchanged =
            |seen: &&Seen| seen.id == id && seen.length == metadata.len() && seen.modified == metadata.modified().ok();
        if let Some(seen) = before.get(path).filter(unchanged) {
            return Ok(Some(seen.clone()));
        }
        let lines = self.config.fingerprint_lines as usize;
        let mut head = vec![0; fingerprint::MAX_BYTES];
        let (stream, length) = match read_head(path, &mut head) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(advice(path, &error)),
        };
        head.truncate(length);
        // Without following, or where it is compressed, the file will not grow: it is known by what is there.
        let complete = !self.config.follow || stream.is_compressed();
        let identifying = Fingerprint::length(&head, lines).or((complete && length > 0).then_some(length));
        let known = match identifying {
            None => None,
            Some(identifying) => {
                head.truncate(identifying);
                let fingerprint = Fingerprint::of(&head);
                let was = before.get(path).filter(|seen| seen.id == id).and_then(|seen| seen.known.as_ref());
                if was.is_none_or(|known| known.fingerprint != fingerprint) {
                    self.check_same_log(path, id, fingerprint, before)?;
                }
                if !self.by_fingerprint.contains_key(&fingerprint) {
                    self.add(path, fingerprint, head, &metadata, initial);
                }
                Some(Known { fingerprint, compressed: stream.is_compressed() })
            }
        };
        Ok(Some(Seen { id, length: metadata.len(), modified: metadata.modified().ok(), known }))
    }

    /// Whether a file that is new here holds the same log as the others with its fingerprint.
    fn check_same_log(
        &self,
        path: &Path,
        id: FileId,
        fingerprint: Fingerprint,
        before: &HashMap<PathBuf, Seen>,
    ) -> Result<(), String> {
        let is_alike = |other: &Path, seen: &Seen| {
            seen.known.as_ref().is_some_and(|known| known.fingerprint == fingerprint) && seen.id != id && other != path
        };
        let others = before.iter().chain(&self.seen).filter(|(other, seen)| is_alike(other, seen));
        let others: HashSet<&Path> = others.map(|(other, _)| other.as_path()).collect();
        for other in others {
            let (mut a, mut b) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
            let (Ok((_, a_length)), Ok((_, b_length))) = (read_head(path, &mut a), read_head(other, &mut b)) else {
                continue;
            };
            let common = a_length.min(b_length);
            if a[..common] != b[..common] {
                return Err(format!(
                    "{} and {} begin alike but are different logs: {} is not read; raise `fingerprint_lines` (now {})",
                    path.display(),
                    other.display(),
                    path.display(),
                    self.config.fingerprint_lines
                ));
            }
        }
        Ok(())
    }

    /// Whether what is read of a file has this position.
    pub fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        let log = self.logs.iter().find(|log| log.info == *partition);
        log.is_some_and(|log| offset >= log.from && log.to.is_none_or(|to| offset < to))
    }

    fn is_of(&self, range: &FileRange, log: &Log) -> bool {
        let is_path = |path: &Path| path == Path::new(&range.file);
        *range.file == *log.info.identity || self.candidates(log.fingerprint).iter().any(|file| is_path(&file.path))
    }

    fn add(&mut self, path: &Path, fingerprint: Fingerprint, head: Vec<u8>, metadata: &Metadata, initial: bool) {
        let identity: Arc<str> = fingerprint.to_string().into();
        let (mut from, mut to) = (0, None);
        let number = match self.resumed.get(&identity) {
            Some((number, offset)) => {
                from = *offset;
                *number
            }
            None => {
                let taken = |number| self.resumed.values().any(|(other, _)| *other == number);
                while taken(self.next_number) {
                    self.next_number += 1;
                }
                self.next_number += 1;
                self.next_number - 1
            }
        };
        // A file that is passed over has a number all the same: the others keep theirs, and their documents their ids.
        if !self.ranges.is_empty() {
            let is_this = |range: &&FileRange| range.file == *identity || Path::new(&range.file) == path;
            match self.ranges.iter().find(is_this) {
                Some(range) => (from, to) = (range.from, range.to),
                None => return,
            }
        }
        tracing::info!(path = %path.display(), partition = number, %identity, from, "file found");
        let info = PartitionInfo { topic: self.config.topic.as_str().into(), identity, number };
        let end = Arc::new(AtomicU64::new(metadata.len()));
        self.by_fingerprint.insert(fingerprint, self.logs.len());
        self.logs.push(Log { info, fingerprint, head: head.into(), from, to, end, initial, taken: false });
    }
}

/// What went wrong with a file, and what to do.
pub fn advice(path: &Path, error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the user that runs floodmark the right to read it and to enter the folders above it"
        }
        _ if error.raw_os_error() == Some(libc::EMFILE) => {
            "; raise the limit of open files (`ulimit -n`), or read fewer files at once"
        }
        io::ErrorKind::UnexpectedEof => "; the compressed file is cut short, or is still being written",
        _ => "",
    };
    format!("cannot read {}: {error}{what}", path.display())
}
