//! A folder to run the `floodmark` binary in, and what came out of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
        Ran { command: self.command, output }
    }
}

/// A finished run.
pub struct Ran {
    command: Command,
    output: Output,
}

impl Ran {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Fails unless it ended with this exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        assert_eq!(self.output.status.code(), Some(code), "{:?}\n{stdout}\n{stderr}", self.command);
        self
    }
}
