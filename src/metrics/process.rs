//! CPU time and memory of this process, where the system tells.

use std::fs::read_to_string;

/// CPU time in user and system mode so far, in seconds, to a hundredth.
pub fn cpu_seconds() -> Option<f64> {
    let stat = read_to_string("/proc/self/stat").ok()?;
    // The name of the command comes in parentheses and may hold anything: count fields behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // What /proc counts in, the same on every architecture that Linux supports.
    const TICKS_PER_SECOND: f64 = 100.0;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// What `/proc/self/status` says.
#[derive(Debug)]
pub struct Status(String);

impl Status {
    /// As it is now; empty where there is no such file.
    pub fn now() -> Self {
        Self(read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// The number in a line, such as `VmHWM`: kibibytes for memory.
    pub fn number(&self, name: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }
}
