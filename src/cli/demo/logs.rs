//! The demo's log files: written at a rate, as a service would, and rotated so that they stay small.
//!
//! In: a generator. Out: `part-N.log` and one rotated `part-N.log.1` for each partition. An error ends the writing and
//! is reported by [`Writing::stop`].

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::sources::generator::{Generator, Records};

/// A file is rotated when it is larger.
const ROTATE_BYTES: u64 = 16 << 20;

/// Due records are written this often.
const PACE: Duration = Duration::from_millis(50);

/// Records written without looking at the clock.
const CHUNK_BYTES: usize = 256 << 10;

/// Files being written by a thread.
pub struct Writing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Writing {
    /// Starts writing into a folder.
    pub fn start(generator: Generator, folder: &Path) -> anyhow::Result<Self> {
        let partitions = 0..generator.config().partitions;
        let mut logs = partitions
            .map(|number| Log::create(folder.join(format!("part-{number}.log")), generator.records(number)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let started = Instant::now();
        let write = move || -> anyhow::Result<()> {
            while !stopped.load(Ordering::Relaxed) {
                let now = started.elapsed();
                for log in &mut logs {
                    log.write_due(|records| generator.is_due(records, now), ROTATE_BYTES)?;
                }
                std::thread::park_timeout(PACE);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("demo-logs".to_owned()).spawn(write)?;
        Ok(Self { stop, thread })
    }

    /// Stops writing, and says what went wrong meanwhile.
    pub fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// One partition's file.
struct Log {
    path: PathBuf,
    file: File,
    written: u64,
    records: Records,
    buffer: Vec<u8>,
}

impl Log {
    fn create(path: PathBuf, records: Records) -> anyhow::Result<Self> {
        let file = File::create(&path).with_context(|| format!("cannot write to {}", path.display()))?;
        Ok(Self { path, file, written: 0, records, buffer: Vec::new() })
    }

    /// Writes the records that are due, whole lines at a time.
    fn write_due(&mut self, is_due: impl Fn(&Records) -> bool, rotate_bytes: u64) -> anyhow::Result<()> {
        let context = |path: &Path| format!("cannot write to {}", path.display());
        while is_due(&self.records) {
            self.buffer.clear();
            while self.buffer.len() < CHUNK_BYTES && is_due(&self.records) {
                self.records.write_next(&mut self.buffer);
            }
            if self.written > rotate_bytes {
                let rotated = self.path.with_extension("log.1");
                fs::rename(&self.path, &rotated).with_context(|| context(&rotated))?;
                self.file = File::create(&self.path).with_context(|| context(&self.path))?;
                self.written = 0;
            }
            self.file.write_all(&self.buffer).with_context(|| context(&self.path))?;
            self.written += self.buffer.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::generator::GeneratorConfig;

    #[test]
    fn rotation_bounds_the_disk_and_keeps_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let config = GeneratorConfig { partitions: 1, rate: 0, count: 5_000, ..GeneratorConfig::default() };
        let generator = Generator::new(config, 0).unwrap();
        let mut log = Log::create(dir.path().join("part-0.log"), generator.records(0)).unwrap();
        for due in (100..=5_000).step_by(100) {
            log.write_due(|records| records.next_offset() < due, 200_000).unwrap();
        }
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        for name in ["part-0.log", "part-0.log.1"] {
            let text = text(name);
            assert!(text.len() < 300_000, "{name} has {} bytes", text.len());
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
    }
}
