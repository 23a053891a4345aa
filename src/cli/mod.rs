//! The commands.
//!
//! In: arguments, the environment, a configuration file. Out: results on standard output, messages on standard error,
//! and an [exit code](Failure). An error is printed once, here, with the chain of its causes.

mod audit;
mod bench;
mod check;
mod checkpoints;
mod completions;
mod config;
mod dead_letters;
mod demo;
mod detect;
mod explain;
mod generate;
mod logging;
mod options;
mod patterns;
mod print;
mod restart;
mod run;
mod scratch;
mod signals;
mod silence;

use std::fmt::Write;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use logging::LogArgs;
pub use options::ConfigArgs;

use print::{table, time_text};

const ABOUT: &str = "Log analytics between Kafka and Elasticsearch";

const LONG_ABOUT: &str = "\
Log analytics between Kafka and Elasticsearch.

Floodmark reads log records, scores each one, keeps windows per key that correct themselves when late records \
arrive, writes documents to a store, and answers live queries over HTTP.";

const AFTER_HELP: &str = "\
Start here:
  floodmark demo                                  everything on this machine, nothing to install
  floodmark config --defaults > floodmark.toml    a configuration with every key explained
  floodmark check -c floodmark.toml               is it right, and do the services answer?
  floodmark run -c floodmark.toml                 run it

Exit codes:
  0  done, also after SIGTERM or SIGINT
  1  something failed while running, or another process of the cluster was lost
  2  the command line or the configuration is wrong
  3  `check` found a service that does not answer
  130, 143  a second SIGINT or SIGTERM ended it at once";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "floodmark", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
#[command(max_term_width = 100, propagate_version = true, infer_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch it work on this machine: made-up logs, followed, scored, stored and served
    Demo(demo::DemoArgs),
    /// Read, score, keep windows, store, and serve
    Run(run::RunArgs),
    /// Validate a configuration and reach each service it names
    Check(check::CheckArgs),
    /// Hold what was read against what the store has
    Audit(audit::AuditArgs),
    /// List checkpoints, show what is in one, and verify that all can be read
    Checkpoints(checkpoints::CheckpointsArgs),
    /// List records that could not be used, and show one in full
    DeadLetters(dead_letters::DeadLettersArgs),
    /// For a time, tell nobody of alerts that match
    Silence(silence::SilenceArgs),
    /// Derive an alert again from its records, and show the working
    Explain(explain::ExplainArgs),
    /// Print the effective configuration, commented
    Config(config::ShowArgs),
    /// Make up realistic logs, with incidents whose true times are known
    Generate(generate::Args),
    /// Score a series of numbers: how unusual each is after those before it
    Detect(detect::DetectArgs),
    /// Measure throughput, CPU time and memory on this machine
    Bench(bench::BenchArgs),
    /// Show which patterns the messages of any log file have, and how many of each
    Patterns(patterns::PatternsArgs),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::CompletionsArgs),
}

/// Why a command failed: each class has its exit code.
#[derive(Debug)]
pub enum Failure {
    /// Something failed while running. Exit code 1.
    Running(anyhow::Error),
    /// The command line or the configuration is wrong. Exit code 2.
    Usage(anyhow::Error),
    /// A service does not answer. Exit code 3.
    Unreachable(anyhow::Error),
    /// A supervised run ended with this code, and said why itself.
    Ended(u8),
}

impl Failure {
    /// The command line or the configuration is wrong.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(error.into())
    }

    fn parts(&self) -> (u8, Option<&anyhow::Error>) {
        match self {
            Failure::Running(error) => (1, Some(error)),
            Failure::Usage(error) => (2, Some(error)),
            Failure::Unreachable(error) => (3, Some(error)),
            Failure::Ended(code) => (*code, None),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Running(error.into())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = cli.log.start() {
        return report(&Failure::Usage(error));
    }
    match execute(cli.command, &cli.log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn execute(command: Command, log: &LogArgs) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::start(&args),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Checkpoints(args) => checkpoints::run(&args),
        Command::DeadLetters(args) => dead_letters::run(&args),
        Command::Silence(args) => silence::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Bench(args) => bench::run(&args, log),
        Command::Generate(args) => generate::run(args),
        Command::Patterns(args) => patterns::run(&args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

fn report(failure: &Failure) -> ExitCode {
    let (code, error) = failure.parts();
    if let Some(error) = error {
        eprintln!("floodmark: {}", chain(error));
    }
    ExitCode::from(code)
}

/// An error and its causes on one line, without what a cause only repeats.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// Whether to show progress: only to a person.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_printed_once() {
        let error = anyhow::anyhow!("disk full").context("cannot write x: disk full").context("cannot store");
        assert_eq!(chain(&error), "cannot store: cannot write x: disk full");
    }
}
