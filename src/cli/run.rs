//! `floodmark run`: the dataflow on this process's workers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, ArgGroup, Args};
use floodmark_dataflows::alerts::AlertDocument;

use super::restart::{RestartArgs, follow_supervisor, supervise, supervisor};
use super::{ConfigArgs, Failure, signals, table, time_text};
use crate::alerts::config::routes_of;
use crate::cluster::ClusterError;
use crate::config::Config;
use crate::engine::{self, EngineError, Replay, ReplayTarget, RunOptions, RunReport, Shutdown};
use crate::sources::SourceError;

/// How long a run may take to end when another process was lost.
const AFTER_LOSS: Duration = Duration::from_millis(700);

const AFTER_HELP: &str = "\
Examples:
  floodmark run -c floodmark.toml                      until SIGTERM or Ctrl-C; a second one ends at once
  floodmark run -c floodmark.toml --until-end          process what is there, write everything out, exit 0
  floodmark run -w 2 --set store.index=windows
  floodmark run -c floodmark.toml -n 2 -p 0 &          two processes on this host, their APIs on ports 8000 and 8001;
  floodmark run -c floodmark.toml -n 2 -p 1            not with the embedded store
  floodmark run -c floodmark.toml --restart            start again after a crash, from the last checkpoint
  floodmark run --from 'logs_raw:0=1200..9000,logs_raw:1=..' --out replayed/
  floodmark run -c files.toml --from '/var/log/app.log=0..4096' --out replayed/
  floodmark run --from 2026-01-31T08:00:00Z --to 2026-01-31T09:00:00Z --prefix replay-

A replay (--from, --to) ends by itself and touches no committed offset and no live index. It tells nobody of alerts: what would
have been told, and whom, is printed at its end.";

/// Read, score, keep windows, store, and serve.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_flag = true)]
#[command(group = ArgGroup::new("range").args(["from", "to"]).multiple(true).requires("target"))]
#[command(group = ArgGroup::new("target").args(["out", "prefix"]).requires("range"))]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Process what is there, write everything out, and exit
    #[arg(long, conflicts_with = "range")]
    until_end: bool,
    /// Begin anew, as a new generation, whatever checkpoints there are; with --restart at the first start only. The embedded
    /// store keeps the log documents that it has: remove its folder too if the records are to be stored otherwise than before
    #[arg(long, conflicts_with = "range")]
    fresh: bool,
    /// Replay from here: of Kafka offsets by partition with their ends (topic:0=1200..9000,topic:1=..), or a time; of files
    /// positions in bytes, with the path or the identity (FILE=0..4096,FILE2=100..)
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
    /// Replay up to this time (Kafka)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Write the documents of a replay to files in this folder, which must not have such files yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the documents of a replay to indices whose names begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Workers of each process
    #[arg(short, long, value_name = "N")]
    workers: Option<usize>,
    /// Processes
    #[arg(short = 'n', long, value_name = "N")]
    processes: Option<usize>,
    /// The number of this process, from 0
    #[arg(short, long, value_name = "N")]
    process: Option<usize>,
    /// File with host:port of each process, one a line
    #[arg(short = 'h', long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
    #[command(flatten)]
    restart: RestartArgs,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl RunArgs {
    /// The flags that stand for keys of the configuration.
    fn settings(&self) -> anyhow::Result<Vec<String>> {
        let mut settings = Vec::new();
        let mut processes = self.processes;
        if let Some(path) = &self.hostfile {
            let mut hosts = hosts(path)?;
            hosts.truncate(*processes.get_or_insert(hosts.len()));
            settings.push(format!("cluster.hosts={}", toml::Value::from(hosts)));
        }
        let numbers = [("workers", self.workers), ("processes", processes), ("process", self.process)];
        settings.extend(numbers.iter().filter_map(|(key, n)| n.map(|n| format!("cluster.{key}={n}"))));
        Ok(settings)
    }

    fn replay(&self) -> Option<Replay> {
        let target = match (&self.out, &self.prefix) {
            (Some(directory), _) => ReplayTarget::Directory(directory.clone()),
            (None, Some(prefix)) => ReplayTarget::Prefix(prefix.clone()),
            (None, None) => return None,
        };
        Some(Replay { from: self.from.clone(), to: self.to.clone(), target })
    }
}

/// The lines of a host file.
fn hosts(path: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the host file {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let hosts: Vec<String> = lines.map(str::to_owned).collect();
    if hosts.is_empty() {
        bail!("expected host:port of each process in {}, one a line, got nothing", path.display());
    }
    Ok(hosts)
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    let settings = args.settings().map_err(Failure::Usage)?;
    let config = args.config.load(&settings)?;
    if args.restart.supervises() {
        return supervise(&args.restart);
    }
    let shutdown = Shutdown::default();
    let (stop, asked, stopped) = (shutdown.clone(), shutdown.clone(), shutdown.clone());
    signals::on_stop(move || stop.trigger())?;
    follow_supervisor(move || asked.trigger())?;
    let replay = args.replay();
    let is_replay = replay.is_some();
    let options = RunOptions {
        until_end: args.until_end,
        fresh: args.fresh,
        supervisor: supervisor(),
        replay,
        shutdown,
        on_lost: Some(Box::new(end_after_loss)),
        on_ready: Some(Box::new(|address| tracing::info!("the API is at http://{address}"))),
        ..RunOptions::default()
    };
    let report = engine::run(&config, options).map_err(failure)?;
    tracing::info!("done: {}", summary(&report));
    if is_replay && !stopped.is_triggered() && config.cluster.process == 0 && !config.alert.is_empty() {
        print_alerts(&config, &report.alerts);
    }
    Ok(())
}

/// What a replay would have told, and whom.
fn print_alerts(config: &Config, alerts: &[AlertDocument]) {
    let told = |alert: &AlertDocument| {
        let named = config.alert.iter().find(|named| *named.name == *alert.alert);
        named.map(|named| routes_of(named, &config.route).join(", ")).unwrap_or_default()
    };
    let row = |alert: &AlertDocument| {
        let times = [alert.start, alert.end].map(time_text);
        let texts = [&alert.severity, alert.state.name(), &alert.alert, &alert.summary].map(str::to_owned);
        times.into_iter().chain(texts).chain([told(alert)]).collect()
    };
    table(&["start", "end", "severity", "state", "alert", "what", "told"], alerts.iter().map(row));
}

/// Ends the process if the run does not do so shortly: its workers may wait for ever for a process that is gone.
fn end_after_loss(why: String) {
    tracing::error!("{why}: a cluster ends as a whole, so this process ends too");
    let wait = move || {
        std::thread::sleep(AFTER_LOSS);
        eprintln!("floodmark: cluster: {why}");
        std::process::exit(1);
    };
    if std::thread::Builder::new().name("end".to_owned()).spawn(wait).is_err() {
        std::process::exit(1);
    }
}

/// What a run did, in one line.
pub(super) fn summary(report: &RunReport) -> String {
    let counts = &report.counts;
    format!(
        "{} records in {:.1} s, {} anomalies, {} dead letters; stored {} log and {} window documents",
        counts.records(),
        report.seconds,
        counts.anomalies(),
        counts.dead_letters(),
        report.documents,
        report.windows
    )
}

/// The exit code that an error of the engine stands for.
pub(super) fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Usage(_) | EngineError::Cluster(ClusterError::Usage(_)) => Failure::usage(error),
        EngineError::Source(SourceError::Configuration(_)) => Failure::usage(error),
        error => Failure::from(error),
    }
}
