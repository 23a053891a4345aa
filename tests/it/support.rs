//! A folder to run the `floodmark` binary in, and what came out of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An empty folder of its own, removed at the end.
pub struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("cannot make a temporary folder") }
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, contents).expect("cannot write a file");
        path
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary, to be run in this folder with nothing of the environment but what is given.
    pub fn command(&self, arguments: &[&str]) -> TestCommand {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        command.args(arguments).current_dir(self.path()).env_clear().stdin(Stdio::null());
        TestCommand { command }
    }
}

/// A run of the binary.
pub struct TestCommand {
    command: Command,
}

impl TestCommand {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Ran {
        let output = self.command.output().expect("cannot run floodmark");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            command: format!("{:?}", self.command),
            status: output.status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let mut running = self.start_unread();
        let stdout = running.child.stdout.take().expect("a pipe");
        running.read(stdout);
        running
    }

    /// Starts it with a standard output that nobody reads.
    pub fn start_unread(mut self) -> Running {
        let command = self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("cannot run floodmark");
        let (sender, lines) = channel();
        let command = format!("{:?}", self.command);
        let mut running = Running { command, child, lines, sender, seen: String::new() };
        let stderr = running.child.stderr.take().expect("a pipe");
        running.read(stderr);
        running
    }
}

/// A finished run.
pub struct Ran {
    command: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ran {
    pub fn stdout(&self) -> String {
        self.stdout.clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.clone()
    }

    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails unless it ended with this exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}\n{}", self.command, self.stdout, self.stderr);
        self
    }
}

/// What a process can be told.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Terminate,
    Interrupt,
    Kill,
}

/// A run that goes on. Killed when dropped.
pub struct Running {
    command: String,
    child: Child,
    lines: Receiver<String>,
    sender: Sender<String>,
    seen: String,
}

impl Running {
    /// Passes on the lines of a pipe, until the process ends or the test no longer listens.
    fn read(&self, pipe: impl Read + Send + 'static) {
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            lines.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
    }

    /// Waits for a line on standard output or standard error that has this text in it.
    #[track_caller]
    pub fn expect_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("{}: no line with \"{text}\": {error}\n{}", self.command, self.seen),
            }
        }
    }

    /// Waits until it says where its API is.
    #[track_caller]
    pub fn api(&mut self) -> Api {
        Api::at(&self.expect_line("http://127.0.0.1:"))
    }

    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::Kill => "KILL",
        };
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("cannot run kill").success());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(line) => self.seen = format!("{}{line}\n", self.seen),
                Err(_) => {
                    if let Some(status) = self.child.try_wait().expect("cannot wait for floodmark") {
                        break status;
                    }
                }
            }
            assert!(!left.is_zero(), "{} did not end\n{}", self.command, self.seen);
        };
        Ran { command: self.command.clone(), status, stdout: std::mem::take(&mut self.seen), stderr: String::new() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The HTTP API of a run.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    address: SocketAddr,
}

impl Api {
    /// The one whose address is in this line.
    #[track_caller]
    pub fn at(line: &str) -> Self {
        let port = line.split("http://127.0.0.1:").nth(1).expect("a port");
        let digits = port.split(|c: char| !c.is_ascii_digit()).next().expect("a port");
        Self { address: SocketAddr::from(([127, 0, 0, 1], digits.parse().expect("a port"))) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The answer, if there is one and it is 200.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (head, body) = self.request(path)?;
        head.lines().next()?.contains(" 200 ").then(|| serde_json::from_str(&body).ok())?
    }

    /// The answer, whatever its status is.
    pub fn any(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.text(path)?).ok()
    }

    /// The same as it came.
    pub fn text(&self, path: &str) -> Option<String> {
        self.request(path).map(|(_, body)| body)
    }

    fn request(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: {}\r\naccept: application/json\r\n\r\n", self.address).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(head, body)| (head.to_owned(), body.to_owned()))
    }
}

/// Waits until `condition` gives something; panics with `what` when it takes too long.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
