//! One JSON document a line, to files or standard output.
//!
//! In: batches of log documents, which are lines already, and windows. Out: one write a batch, so lines of different
//! batches never mix. A file that ends within a line, after a crash, is cut back to its last whole line when it is
//! opened. After a restart some lines may come again; `topic`, `partition` and `offset` tell a log document, and of the
//! lines of a window the last one holds. Lines are synchronised to disk when a checkpoint asks for it. On error: a full
//! disk or a reader that left is fatal.
//!
//! What the files hold ([`held`]) is read from those of all processes that are on this host.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use floodmark_dataflows::input::PartitionInfo;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AlertWrite, Held, LogBatch, LogPage, LogQuery, Rejected, SEARCHABLE, Store, StoreError, WindowWrite};
use crate::cluster::{ClusterConfig, paths_of_all};

/// Documents as lines of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NdjsonConfig {
    /// File for log documents; `-` is standard output. May be the same as `windows`. With several processes each writes
    /// its own, with its number in the name: `logs-1.ndjson`.
    pub logs: PathBuf,
    /// File for window documents; `-` is standard output. Every published state of a window is a line: the last one
    /// holds. With several processes each writes its own, as for `logs`.
    pub windows: PathBuf,
    /// File for alerts; `-` is standard output. Every change of an alert is a line: the last one holds. Process 0 writes it.
    pub alerts: PathBuf,
    /// Whether lines are added to files that are there. If not, the files that are written are emptied at a start that goes on
    /// from no checkpoint; not those that a run of another number of processes left.
    pub append: bool,
}

impl Default for NdjsonConfig {
    fn default() -> Self {
        Self {
            logs: "logs.ndjson".into(),
            windows: "windows.ndjson".into(),
            alerts: "alerts.ndjson".into(),
            append: true,
        }
    }
}

/// Writes lines.
#[derive(Debug)]
pub struct Ndjson {
    logs: Arc<Output>,
    windows: Arc<Output>,
    /// Opened with the first alert: most runs have none.
    alerts: OnceLock<Arc<Output>>,
    config: NdjsonConfig,
    /// The name that all processes make the names of their files for log documents of.
    name_of_all: PathBuf,
}

impl Ndjson {
    /// Opens the files, making them and their directories where they are missing. With `logs` false the file for log
    /// documents is left alone.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] naming the file that cannot be opened.
    pub fn open(config: &NdjsonConfig, logs: bool) -> Result<Self, StoreError> {
        let windows = Arc::new(Output::open(&config.windows, config.append)?);
        let logs = match logs && config.logs != config.windows {
            true => Arc::new(Output::open(&config.logs, config.append)?),
            false => windows.clone(),
        };
        let name_of_all = config.logs.clone();
        Ok(Self { logs, windows, alerts: OnceLock::new(), config: config.clone(), name_of_all })
    }

    /// One of several processes, whose files have a number added to the name that `of_all` has. Files that a run of
    /// another number of processes left are cut back to their last whole lines too.
    ///
    /// # Errors
    /// [`StoreError::Fatal`] naming the file that cannot be.
    pub fn among(self, of_all: &NdjsonConfig, cluster: &ClusterConfig) -> Result<Self, StoreError> {
        let logs = (!Arc::ptr_eq(&self.logs, &self.windows)).then_some(&of_all.logs);
        for name in logs.into_iter().chain([&of_all.windows]) {
            let fatal = |path: &Path, error| StoreError::Fatal(format!("cannot put {} right: {error}", path.display()));
            for path in cluster.paths_left(name).map_err(|error| fatal(name, error))? {
                open_file(&path, true).map_err(|error| fatal(&path, error))?;
            }
        }
        Ok(Self { name_of_all: of_all.logs.clone(), ..self })
    }
}

#[async_trait]
impl Store for Ndjson {
    fn name(&self) -> &'static str {
        "ndjson"
    }

    /// One after the other, so that the lines of a partition are in order.
    fn max_in_flight(&self) -> usize {
        1
    }

    async fn write_logs(&self, batch: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        self.logs.clone().write(move |out| out.write_all(&batch.bytes)).await?;
        Ok(Vec::new())
    }

    async fn write_windows(&self, windows: Vec<WindowWrite>) -> Result<(), StoreError> {
        let write = move |out: &mut dyn Write| {
            let mut lines = Vec::with_capacity(windows.len() * 512);
            for window in windows {
                serde_json::to_writer(&mut lines, &window.document)?;
                lines.push(b'\n');
            }
            out.write_all(&lines)
        };
        self.windows.clone().write(write).await
    }

    async fn write_alerts(&self, alerts: Vec<AlertWrite>) -> Result<(), StoreError> {
        let output = match self.alerts.get() {
            Some(output) => output.clone(),
            None => {
                let opened = Arc::new(Output::open(&self.config.alerts, self.config.append)?);
                self.alerts.get_or_init(|| opened).clone()
            }
        };
        let write = move |out: &mut dyn Write| {
            let mut lines = Vec::new();
            for mut alert in alerts {
                lines.append(&mut alert.json);
                lines.push(b'\n');
            }
            out.write_all(&lines)
        };
        output.clone().write(write).await?;
        output.sync().await
    }

    async fn search_logs(&self, _: &LogQuery) -> Result<LogPage, StoreError> {
        let advice = "search the files with jq or grep, or";
        Err(StoreError::NotSearchable(format!("the ndjson store has no index; {advice} {SEARCHABLE}")))
    }

    async fn held(&self, partition: &PartitionInfo, range: Range<u64>, list: usize) -> Result<Held, StoreError> {
        held(&self.name_of_all, partition, range, list).await
    }

    async fn health(&self) -> Result<String, StoreError> {
        Ok(format!("lines to {} (logs) and {} (windows)", self.logs.name(), self.windows.name()))
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.logs.clone().sync().await?;
        if Arc::ptr_eq(&self.logs, &self.windows) {
            return Ok(());
        }
        self.windows.clone().sync().await
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.sync().await
    }
}

/// What the files for log documents of this name hold, those of all processes. Reads them whole, and changes nothing.
/// Lines that come again after a restart count once.
///
/// # Errors
/// [`StoreError::NotSearchable`] for standard output, [`StoreError::Unavailable`] where one cannot be read.
pub async fn held(logs: &Path, partition: &PartitionInfo, range: Range<u64>, list: usize) -> Result<Held, StoreError> {
    if logs == Path::new("-") {
        return Err(StoreError::NotSearchable("what went to standard output cannot be read again".to_owned()));
    }
    let (partition, name) = (partition.clone(), logs.to_owned());
    let read = move || -> io::Result<Held> {
        let mut offsets = BTreeSet::new();
        for path in paths_of_all(&name)? {
            for line in BufReader::new(File::open(path)?).split(b'\n') {
                // A line without these fields is a window, or one that is being written.
                let line = line?;
                let Ok(place) = serde_json::from_slice::<Place<'_>>(&line) else { continue };
                if place.topic == *partition.topic
                    && place.partition == partition.number
                    && range.contains(&place.offset)
                {
                    offsets.insert(place.offset);
                }
            }
        }
        let documents = offsets.len() as u64;
        let is_short = range.end.saturating_sub(range.start) <= list as u64;
        Ok(Held { documents, offsets: is_short.then(|| offsets.into_iter().collect()), ..Held::default() })
    };
    let failed = |e: &dyn std::fmt::Display| StoreError::Unavailable(format!("cannot read {}: {e}", logs.display()));
    match tokio::task::spawn_blocking(read).await {
        Ok(held) => held.map_err(|e| failed(&e)),
        Err(e) => Err(failed(&e)),
    }
}

/// Where the record of a log document was read.
#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    partition: i32,
    offset: u64,
}

/// Where lines go.
#[derive(Debug)]
enum Output {
    File { path: PathBuf, file: Mutex<File> },
    Stdout,
}

impl Output {
    fn open(path: &Path, append: bool) -> Result<Self, StoreError> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = open_file(path, append)
            .map_err(|e| StoreError::Fatal(format!("cannot open {} for writing: {e}", path.display())))?;
        Ok(Self::File { path: path.to_owned(), file: Mutex::new(file) })
    }

    fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
        }
    }

    /// Runs `write` on a thread that may block.
    async fn write(
        self: Arc<Self>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.blocking(move |output| match output {
            Self::File { file, .. } => write(&mut *file.lock()),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                write(&mut stdout)?;
                stdout.flush()
            }
        })
        .await
    }

    async fn sync(self: Arc<Self>) -> Result<(), StoreError> {
        self.blocking(|output| match output {
            Self::File { file, .. } => {
                // Of its own, so that lines are written meanwhile.
                let file = file.lock().try_clone()?;
                sync(&file)
            }
            Self::Stdout => Ok(()),
        })
        .await
    }

    async fn blocking(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let name = self.name();
        let fatal = |e: &dyn std::fmt::Display| StoreError::Fatal(format!("cannot write to {name}: {e}"));
        match tokio::task::spawn_blocking(move || work(&self)).await {
            Ok(result) => result.map_err(|e| fatal(&e)),
            Err(e) => Err(fatal(&e)),
        }
    }
}

fn sync(file: &File) -> io::Result<()> {
    match file.sync_data() {
        // Pipes and devices cannot be synchronised.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn open_file(path: &Path, append: bool) -> io::Result<File> {
    let is_new = !path.exists();
    let folders = || path.ancestors().skip(1);
    let missing = folders().take_while(|folder| !folder.exists()).count();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        // Pipes and devices: nothing to read, to cut or to empty.
        return OpenOptions::new().write(true).open(path);
    }
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(!append).open(path)?;
    if append {
        let end = end_of_last_line(&mut file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
    }
    if is_new {
        // Its name, and those of the folders that were made for it, are in the folders above.
        for folder in folders().take(missing + 1) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            sync(&File::open(folder)?)?;
        }
    }
    Ok(file)
}

/// One past the last line feed of a file; 0 when there is none.
pub(super) fn end_of_last_line(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        if let Some(place) = memchr::memrchr(b'\n', &block) {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::writer::testing::{batch, window_write};

    fn config(directory: &Path) -> NdjsonConfig {
        NdjsonConfig {
            logs: directory.join("out/logs.ndjson"),
            windows: directory.join("out/windows.ndjson"),
            alerts: directory.join("out/alerts.ndjson"),
            append: true,
        }
    }

    #[tokio::test]
    async fn a_document_is_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let store = Ndjson::open(&config, true).unwrap();
        let first = Arc::new(batch(0, &[(1, r#"{"a":1}"#), (2, r#"{"a":2}"#)]));
        assert!(store.write_logs(first).await.unwrap().is_empty());
        store.write_windows(vec![window_write("checkout", 10_000, 1)]).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(std::fs::read_to_string(&config.logs).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        let windows = std::fs::read_to_string(&config.windows).unwrap();
        assert!(windows.starts_with(r#"{"view":"per_service","key":{"service_name":"checkout"},"start":10000,"#));
        assert!(windows.ends_with("}\n"));
        let refusal = store.search_logs(&LogQuery::default()).await.unwrap_err();
        assert!(matches!(&refusal, StoreError::NotSearchable(text) if text.contains("embedded")), "{refusal}");
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off_when_appending() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        std::fs::create_dir_all(config.logs.parent().unwrap()).unwrap();
        std::fs::write(&config.logs, format!("{{\"a\":1}}\n{{\"torn\":\"{}", "x".repeat(200_000))).unwrap();
        let store = Ndjson::open(&config, true).unwrap();
        store.write_logs(Arc::new(batch(0, &[(2, r#"{"a":2}"#)]))).await.unwrap();
        assert_eq!(std::fs::read_to_string(&config.logs).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
    }

    #[tokio::test]
    async fn what_is_held_is_read_from_the_files_of_all_processes_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let line = |offset: u64| format!("{{\"topic\":\"t\",\"partition\":0,\"offset\":{offset}}}\n");
        let torn = format!("{}{{\"topic\":\"t\"", line(3));
        let other = ("logs-x.ndjson", line(9));
        for (name, lines) in
            [("logs.ndjson", line(1) + &line(2)), ("logs-0.ndjson", line(2)), ("logs-11.ndjson", torn.clone()), other]
        {
            std::fs::write(directory.path().join(name), lines).unwrap();
        }
        let partition = PartitionInfo { topic: "t".into(), identity: "t".into(), number: 0 };
        let found = held(&directory.path().join("logs.ndjson"), &partition, 0..100, 1_000).await.unwrap();
        assert_eq!((found.documents, found.offsets), (3, Some(vec![1, 2, 3])));
        assert_eq!(std::fs::read_to_string(directory.path().join("logs-11.ndjson")).unwrap(), torn);
    }

    #[test]
    fn files_of_another_number_of_processes_are_put_right() {
        let directory = tempfile::tempdir().unwrap();
        let of_all = NdjsonConfig {
            logs: directory.path().join("logs.ndjson"),
            windows: directory.path().join("windows.ndjson"),
            ..config(directory.path())
        };
        let cluster = ClusterConfig { processes: 2, process: 1, ..ClusterConfig::default() };
        let own = NdjsonConfig {
            logs: cluster.own_path(&of_all.logs),
            windows: cluster.own_path(&of_all.windows),
            ..of_all.clone()
        };
        let (whole, torn) = ("{\"a\":1}\n", "{\"a\":1}\n{\"torn");
        let left = ["logs.ndjson", "windows.ndjson", "windows-2.ndjson", "logs-1.ndjson"];
        // Another process of this run puts its own right; and some are none of ours.
        let others = ["logs-0.ndjson", "logs-2026.ndjson", "logs-03.ndjson", "logs-x.ndjson"];
        for name in left.iter().chain(&others) {
            std::fs::write(directory.path().join(name), torn).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        Ndjson::open(&own, true).unwrap().among(&of_all, &cluster).unwrap();
        assert_eq!(left.map(text), [whole; 4]);
        assert_eq!(others.map(text), [torn; 4]);
    }

    #[tokio::test]
    async fn without_append_files_start_empty() {
        let directory = tempfile::tempdir().unwrap();
        let config = NdjsonConfig { append: false, ..config(directory.path()) };
        for _ in 0..2 {
            let store = Ndjson::open(&config, true).unwrap();
            store.write_logs(Arc::new(batch(0, &[(2, r#"{"a":2}"#)]))).await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&config.logs).unwrap(), "{\"a\":2}\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let config = NdjsonConfig { logs: directory.path().to_owned(), ..config(directory.path()) };
        let error = Ndjson::open(&config, true).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_fatal() {
        let directory = tempfile::tempdir().unwrap();
        let config = NdjsonConfig { logs: "/dev/full".into(), ..config(directory.path()) };
        let store = Ndjson::open(&config, true).unwrap();
        let error = store.write_logs(Arc::new(batch(0, &[(1, "{}")]))).await.unwrap_err();
        assert!(matches!(&error, StoreError::Fatal(text) if text.contains("/dev/full")), "{error}");
    }
}
