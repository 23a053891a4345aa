//! `floodmark bench`: throughput, CPU time and memory of the whole pipeline on this machine.
//!
//! The job is W1: read JSON records to the end, decode, judge, keep windows of 10 s per service, and write the windows
//! as lines of JSON. Each number of workers runs in a process of its own, so that memory and CPU time are its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use floodmark_dataflows::view_config::ViewConfig;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::LogArgs;
use super::scratch::Scratch;
use crate::config::Config;
use crate::engine::{self, RunOptions};
use crate::metrics::process::{Status, cpu_seconds};
use crate::sources::files::FilesConfig;
use crate::sources::kafka::KafkaConfig;
use crate::stores::ndjson::NdjsonConfig;
use crate::stores::writer::Indexed;

const EXAMPLES: &str = "\
Examples:
  floodmark generate --out logs --records 4000000 --services 20 --incidents none
  floodmark bench --input 'logs/*.jsonl'                         one worker
  floodmark bench --input 'logs/*.jsonl' --workers 1,2           how it scales
  floodmark bench --input 'logs/*.jsonl' --logs logs.ndjson      with log documents
  floodmark bench --input 'logs/*.jsonl' --live --patterns       with patterns, counted for /patterns
  floodmark bench --input 'logs/*.jsonl' --scores                with scores of the windows
  floodmark bench --kafka 127.0.0.1:9092 --topic logs_raw        from Kafka, to the end of the topic
  floodmark bench --input 'logs/*.jsonl' --out windows.ndjson    keep the windows

Numbers of a machine that does other things are noise: run it a few times, and compare in one sitting.";

/// Measure throughput, CPU time and memory on this machine
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Files to read: a pattern
    #[arg(long, value_name = "FILES", required_unless_present = "kafka")]
    input: Option<String>,
    /// Brokers to read from instead: host:port, with commas between
    #[arg(long, value_name = "BROKERS", conflicts_with = "input")]
    kafka: Option<String>,
    /// Topic to read with --kafka
    #[arg(long, value_name = "NAME", default_value = "logs_raw", requires = "kafka")]
    topic: String,
    /// Numbers of workers to measure, with commas between
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    workers: Vec<usize>,
    /// Keep the window documents in this file [default: a temporary one]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write log documents too, to this file
    #[arg(long, value_name = "FILE")]
    logs: Option<PathBuf>,
    /// Find the pattern of each message; with --live, count patterns too
    #[arg(long)]
    patterns: bool,
    /// Score each window: rate, error ratio and p95
    #[arg(long)]
    scores: bool,
    /// Keep windows of a minute by service and pattern too; with --scores, scored by their rate and whether they are new
    #[arg(long, requires = "patterns")]
    per_pattern: bool,
    /// Keep the state that the API answers from
    #[arg(long)]
    live: bool,
    /// Print one JSON object for each number of workers
    #[arg(long)]
    json: bool,
}

/// What was measured of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    workers: usize,
    records: u64,
    bytes: u64,
    dead_letters: u64,
    windows: u64,
    log_documents: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    /// User and system time of the whole process.
    cpu_seconds: Option<f64>,
    cpu_seconds_per_million: Option<f64>,
    peak_memory_mib: Option<f64>,
}

pub(super) fn run(args: &BenchArgs, log: &LogArgs) -> Result<(), Failure> {
    if args.workers.is_empty() || args.workers.contains(&0) {
        return Err(Failure::usage(anyhow::anyhow!("expected numbers of workers from 1 up, got {:?}", args.workers)));
    }
    if let [workers] = args.workers[..] {
        let measured = measure(args, workers)?;
        if args.json {
            println!("{}", serde_json::to_string(&measured)?);
        } else {
            print_table(&[measured]);
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    for &workers in &args.workers {
        let measured = measure_apart(args, log, workers)?;
        if args.json {
            println!("{}", serde_json::to_string(&measured)?);
        }
        rows.push(measured);
    }
    if !args.json {
        print_table(&rows);
    }
    Ok(())
}

/// Runs the job in this process.
fn measure(args: &BenchArgs, workers: usize) -> Result<Measured, Failure> {
    let scratch = Scratch::new("bench")?;
    let mut config = Config { data_dir: scratch.path().to_owned(), ..Config::default() };
    config.cluster.workers = workers;
    config.api.enabled = false;
    config.patterns.enabled = args.patterns;
    if args.per_pattern {
        config.view.push(ViewConfig::per_pattern());
    }
    if !args.scores {
        config.view.iter_mut().for_each(|view| view.score.clear());
    }
    config.source.files =
        args.input.clone().map(|pattern| FilesConfig { paths: vec![pattern], ..FilesConfig::default() });
    config.source.kafka = args.kafka.clone().map(|brokers| KafkaConfig {
        brokers,
        topics: vec![args.topic.clone()],
        start: crate::sources::kafka::StartAt::Earliest,
        ..KafkaConfig::default()
    });
    config.store.index = if args.logs.is_some() { Indexed::All } else { Indexed::Windows };
    config.store.ndjson = Some(NdjsonConfig {
        logs: args.logs.clone().unwrap_or_else(|| scratch.path().join("logs.ndjson")),
        windows: args.out.clone().unwrap_or_else(|| scratch.path().join("windows.ndjson")),
        append: false,
        ..NdjsonConfig::default()
    });
    let cpu_before = cpu_seconds();
    let options = RunOptions { until_end: true, bare: true, keeps_live: args.live, ..RunOptions::default() };
    let report = engine::run(&config, options)?;
    let cpu = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
    let (records, bytes, seconds) = (report.counts.records(), report.counts.bytes(), report.seconds);
    if records == 0 {
        return Err(Failure::Running(anyhow::anyhow!(
            "no records in {}",
            args.input.as_deref().unwrap_or(&args.topic)
        )));
    }
    let millions = records as f64 / 1e6;
    Ok(Measured {
        workers,
        records,
        bytes,
        dead_letters: report.counts.dead_letters(),
        windows: report.windows,
        log_documents: report.documents,
        seconds,
        records_per_second: records as f64 / seconds,
        megabytes_per_second: bytes as f64 / 1e6 / seconds,
        cpu_seconds: cpu,
        cpu_seconds_per_million: cpu.map(|cpu| cpu / millions),
        peak_memory_mib: Status::now().number("VmHWM").map(|kib| kib / 1024.0),
    })
}

/// Runs the job in a process of its own.
fn measure_apart(args: &BenchArgs, log: &LogArgs, workers: usize) -> anyhow::Result<Measured> {
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let mut command = Command::new(program);
    command.args(["bench", "--json", "--workers", &workers.to_string()]);
    command.args(["--log", &log.log, "--log-format", log.log_format.name()]);
    let flags = [
        ("--patterns", args.patterns),
        ("--per-pattern", args.per_pattern),
        ("--scores", args.scores),
        ("--live", args.live),
    ];
    command.args(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag));
    let mut option = |name: &str, value: Option<&std::ffi::OsStr>| {
        if let Some(value) = value {
            command.arg(name).arg(value);
        }
    };
    option("--input", args.input.as_ref().map(|input| input.as_ref()));
    option("--kafka", args.kafka.as_ref().map(|brokers| brokers.as_ref()));
    option("--topic", args.kafka.as_ref().map(|_| args.topic.as_ref()));
    option("--out", args.out.as_ref().map(|file| file.as_os_str()));
    option("--logs", args.logs.as_ref().map(|file| file.as_os_str()));
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start a run")?;
    if !output.status.success() {
        bail!("the run with {workers} workers ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("cannot read what a run measured")
}

fn print_table(rows: &[Measured]) {
    println!(
        "{:>7} {:>12} {:>8} {:>12} {:>8} {:>10} {:>8} {:>12} {:>8}",
        "workers", "records", "seconds", "records/s", "MB/s", "/s/worker", "scaling", "CPU s/M rec", "peak MiB"
    );
    let known = |value: Option<f64>, digits: usize| value.map_or("?".to_owned(), |value| format!("{value:.digits$}"));
    for row in rows {
        println!(
            "{:>7} {:>12} {:>8.2} {:>12.0} {:>8.0} {:>10.0} {:>8} {:>12} {:>8}",
            row.workers,
            row.records,
            row.seconds,
            row.records_per_second,
            row.megabytes_per_second,
            row.records_per_second / row.workers as f64,
            format!("{:.2}x", row.records_per_second / rows[0].records_per_second),
            known(row.cpu_seconds_per_million, 3),
            known(row.peak_memory_mib, 1),
        );
    }
    let dead: u64 = rows.iter().map(|row| row.dead_letters).max().unwrap_or(0);
    println!("\n{} windows and {} log documents written, {dead} dead letters", rows[0].windows, rows[0].log_documents);
}
