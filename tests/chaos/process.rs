//! The binary under test: one process of a cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running process, with its messages in a file. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    address: Option<String>,
}

/// What a process can be told.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Kill,
    Terminate,
    Stop,
    Continue,
}

impl Process {
    /// Starts it in a folder.
    pub fn start(folder: &Path, arguments: &[String], log: PathBuf) -> Self {
        let messages = File::create(&log).expect("cannot make a file for messages");
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
        command.stdout(messages.try_clone().expect("a file")).stderr(messages);
        Self { child: command.spawn().expect("cannot start floodmark"), log, address: None }
    }

    /// Sends a signal. One that has ended takes none.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id() as i32, signal);
    }

    /// Its exit code once it has ended; -1 for a signal.
    pub fn ended(&mut self) -> Option<i32> {
        let status: ExitStatus = self.child.try_wait().expect("cannot wait for floodmark")?;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(code) = self.ended() {
                return Some(code);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Whether it has said where its API is.
    pub fn is_up(&mut self) -> bool {
        self.address().is_some()
    }

    /// The records that it has read.
    pub fn records(&mut self) -> Option<u64> {
        let metrics = self.get("/metrics")?;
        let samples = metrics.lines().filter(|line| line.starts_with("floodmark_source_records_total{"));
        Some(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
    }

    /// The body of an answer of its API that is 200.
    pub fn get(&mut self, path: &str) -> Option<String> {
        let address = self.address()?;
        crate::services::http(&address, "GET", path, "")
    }

    fn address(&mut self) -> Option<String> {
        if self.address.is_none() {
            let messages = std::fs::read_to_string(&self.log).ok()?;
            let (_, behind) = messages.split_once("the API is at http://")?;
            let address: String = behind.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            self.address = Some(address);
        }
        self.address.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub fn send(process: i32, signal: Signal) {
    let name = match signal {
        Signal::Kill => "-KILL",
        Signal::Terminate => "-TERM",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    let mut kill = Command::new("kill");
    let _ = kill.args([name, &process.to_string()]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
