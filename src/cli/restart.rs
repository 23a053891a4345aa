//! `floodmark run --restart`: a small process that starts the run, and starts it again when it crashes.
//!
//! In: how the run ended. Out: another start after a pause that grows, until the run ends by itself (0), or a restart
//! cannot help (2, a wrong configuration), or there were too many. The run hears of its supervisor through a pipe, its
//! standard input: a byte asks for a clean stop, and the end of the pipe means that the supervisor is gone, on which the
//! run ends at once. That takes neither process ids, which may be used again, nor anything of one operating system.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use parking_lot::{Condvar, Mutex};

use super::{Failure, signals};
use crate::units::Span;

/// Tells a run that its standard input is the pipe, and which supervisor started it.
const SUPERVISED: &str = "FLOODMARK_SUPERVISED";

/// The pause before the first restart; each further one within the window doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Exit codes after which a restart would change nothing, or is not wanted: wrong configuration, stopped at once.
const FINAL_CODES: [i32; 3] = [2, 130, 143];

/// When to start again.
#[derive(Clone, Debug, Args)]
pub struct RestartArgs {
    /// Start again after a crash, with a pause that grows from 1s to 30s
    #[arg(long)]
    pub restart: bool,
    /// With --restart: give up after so many restarts within --restart-window
    #[arg(long, value_name = "N", default_value_t = 10, requires = "restart")]
    pub max_restarts: usize,
    /// With --restart: the time within which restarts are counted
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "restart")]
    pub restart_window: Span,
}

impl RestartArgs {
    /// Whether this process is to supervise, rather than to run.
    pub fn supervises(&self) -> bool {
        self.restart && supervisor().is_none()
    }
}

/// The supervisor of this run, if it has one: another name for each.
pub(super) fn supervisor() -> Option<String> {
    std::env::var(SUPERVISED).ok()
}

/// In a run that is supervised: calls `stop` when the supervisor asks for it, and ends the process with it.
pub(super) fn follow_supervisor(stop: impl Fn() + Send + 'static) -> std::io::Result<()> {
    if supervisor().is_none() {
        return Ok(());
    }
    let follow = move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {
            stop();
        }
        eprintln!("floodmark: the process that supervises this one is gone");
        std::process::exit(1);
    };
    std::thread::Builder::new().name("supervisor".to_owned()).spawn(follow).map(drop)
}

/// What signals and the loop share.
#[derive(Default)]
struct State {
    is_stopping: Mutex<bool>,
    changed: Condvar,
    /// To the run that goes on.
    pipe: Mutex<Option<ChildStdin>>,
}

impl State {
    fn stop(&self) {
        *self.is_stopping.lock() = true;
        self.changed.notify_all();
        self.pass_on();
    }

    fn pass_on(&self) {
        if let Some(pipe) = &mut *self.pipe.lock() {
            // A run that has ended needs no stop.
            let _ = pipe.write_all(b"s").and_then(|()| pipe.flush());
        }
    }

    fn is_stopping(&self) -> bool {
        *self.is_stopping.lock()
    }

    /// Waits; `false` if the end was asked for.
    fn pause(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut is_stopping = self.is_stopping.lock();
        while !*is_stopping {
            if self.changed.wait_until(&mut is_stopping, deadline).timed_out() {
                return true;
            }
        }
        false
    }
}

/// Runs this command line again and again, as long as that helps.
pub(super) fn supervise(args: &RestartArgs) -> Result<(), Failure> {
    let state = Arc::new(State::default());
    let stopping = state.clone();
    // The second signal ends this process, and with it the run.
    signals::on_stop(move || stopping.stop())?;
    let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
    let mut restarts = Restarts { times: VecDeque::new(), window: args.restart_window.0 };
    loop {
        let mut child = start(&name)?;
        tracing::info!("started the run as process {}", child.id());
        *state.pipe.lock() = child.stdin.take();
        if state.is_stopping() {
            state.pass_on();
        }
        let status = child.wait().context("cannot wait for the run")?;
        *state.pipe.lock() = None;
        match status.code() {
            Some(0) => return Ok(()),
            Some(code) if FINAL_CODES.contains(&code) || state.is_stopping() => return Err(Failure::Ended(code as u8)),
            None if state.is_stopping() => {
                return Err(anyhow!("the run was asked to stop and {}", ended(status)).into());
            }
            _ => {}
        }
        let count = restarts.add(Instant::now());
        let window = args.restart_window;
        if count > args.max_restarts {
            let advice = "see above why it does not stay up; --max-restarts and --restart-window set the limit";
            let (max, how) = (args.max_restarts, ended(status));
            return Err(anyhow!("the run {how}, after {max} restarts within {window}: {advice}").into());
        }
        let pause = jittered(pause(count), RandomState::new().hash_one(count));
        let seconds = pause.as_secs_f64();
        tracing::error!("the run {}: starting it again in {seconds:.1} s ({count} within {window})", ended(status));
        if !state.pause(pause) {
            return Ok(());
        }
    }
}

fn start(supervisor: &str) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(SUPERVISED, supervisor).stdin(Stdio::piped());
    // A Ctrl-C reaches only this process, which passes it on, once.
    command.process_group(0);
    command.spawn().context("cannot start the run")
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Restarts within a time.
struct Restarts {
    times: VecDeque<Instant>,
    window: Duration,
}

impl Restarts {
    /// Notes one, and says how many there were within the window.
    fn add(&mut self, now: Instant) -> usize {
        self.times.push_back(now);
        while self.times.front().is_some_and(|&first| now.duration_since(first) > self.window) {
            self.times.pop_front();
        }
        self.times.len()
    }
}

/// The pause before the `count`th restart.
fn pause(count: usize) -> Duration {
    let doublings = count.saturating_sub(1).min(16) as u32;
    LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(doublings))
}

/// Half to all of a pause, so that processes that went down together do not all come back in the same instant.
fn jittered(pause: Duration, random: u64) -> Duration {
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<_> = [1, 2, 3, 5, 6, 100].map(|count| pause(count).as_secs()).to_vec();
        assert_eq!(pauses, [1, 2, 4, 16, 30, 30]);
        assert_eq!(jittered(pause(3), 0), Duration::from_secs(2));
        assert_eq!(jittered(pause(3), u64::MAX), Duration::from_secs(4));
    }

    #[test]
    fn restarts_long_ago_do_not_count() {
        let mut restarts = Restarts { times: VecDeque::new(), window: Duration::from_secs(60) };
        let start = Instant::now();
        let counts: Vec<_> = [0, 10, 59, 65, 200].map(|s| restarts.add(start + Duration::from_secs(s))).to_vec();
        assert_eq!(counts, [1, 2, 3, 3, 1]);
    }
}
