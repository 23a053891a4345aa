//! `floodmark generate`: writes made-up logs to files, or produces them to Kafka.
//!
//! In: options. Out: one file or Kafka partition for each partition, and the labels of the incidents in them. Any error
//! ends the command; what was written so far stays. A signal ends it in good order: each file and topic is complete up to there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::{Failure, signals};
use crate::sources::generator::{Generator, GeneratorConfig, Records};
use crate::sources::kafka::{self, KafkaProducer, ProducerConfig};
use crate::sources::wall_clock_ms;

/// Bytes handed to a file at once.
const CHUNK_BYTES: usize = 256 << 10;
/// With `--rate`, due records are written this often.
const PACE: Duration = Duration::from_millis(20);

/// The end of a run waits this long for what brokers have not confirmed.
const DELIVERY: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  A million records in two files, and what went wrong in them:
    floodmark generate --out logs --records 1000000 --labels logs/labels.jsonl
  Twenty services without incidents, compressed:
    floodmark generate --out logs --services 20 --incidents none --compression zstd
  A live log to follow, 500 records a second, until Ctrl-C:
    floodmark generate --out logs --records 0 --rate 500
  The same into Kafka, over six partitions:
    floodmark generate --kafka localhost:9092 --topic logs_raw --partitions 6 --records 0 --rate 500

The same seed and options always give the same records.";

/// Makes up realistic logs: out of order, with a daily wave, and with incidents whose true times are known.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder to write part-0.jsonl, part-1.jsonl, … to, one file a partition; made if it is not there. Files of the
    /// same names are replaced.
    #[arg(long, value_name = "DIR", required_unless_present = "kafka")]
    pub out: Option<PathBuf>,

    /// Brokers to produce to, host:port with commas between. Each record arrives once (idempotent producer).
    #[arg(long, value_name = "BROKERS", conflicts_with = "out")]
    pub kafka: Option<String>,

    /// Topic to produce to; made with --partitions if it is not there.
    #[arg(long, value_name = "NAME", default_value = "logs_raw", requires = "kafka")]
    pub topic: String,

    /// Setting of librdkafka, such as security.protocol=SASL_SSL. May be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property, requires = "kafka")]
    pub properties: Vec<(String, String)>,

    /// Records over all partitions; 0 goes on until Ctrl-C.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub records: u64,

    /// Number of partitions.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub partitions: u32,

    /// Number of services.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub services: u32,

    /// What everything random is drawn from.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,

    /// Records a second to write; 0 writes as fast as it goes.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,

    /// Records a second by their own timestamps. Not used with --rate and no --start: then they are those of the wall
    /// clock.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub event_rate: u64,

    /// Timestamp of the first record, RFC 3339 or epoch milliseconds [default: now with --rate, else
    /// 2026-01-01T00:00:00Z].
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub start: String,

    /// Whether something goes wrong now and then.
    #[arg(long, value_enum, default_value_t = Incidents::Scheduled)]
    pub incidents: Incidents,

    /// File to write the incidents to, one JSON object a line: service, kind, start, end (epoch milliseconds).
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// How to compress the files, or the batches to Kafka [default: plain files, lz4 to Kafka].
    #[arg(long, value_enum)]
    pub compression: Option<Compression>,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Whether incidents are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Incidents {
    /// One in every five minutes by the records' timestamps: an error burst, a latency shift, a traffic drop, or a
    /// new kind of message, with one service.
    Scheduled,
    /// None.
    None,
}

/// How what is written is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, level 6; files end in .gz.
    Gzip,
    /// Zstandard, level 3; files end in .zst.
    Zstd,
    /// LZ4, to Kafka only.
    Lz4,
    /// Snappy, to Kafka only.
    Snappy,
}

/// Runs the command: to its end, or until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    signals::on_stop(move || asked.store(true, Ordering::Relaxed))?;
    write(&args, &stop)
}

fn write(args: &Args, stop: &AtomicBool) -> Result<(), Failure> {
    if args.labels.is_some() && args.records == 0 {
        return Err(Failure::usage(anyhow::anyhow!("--labels needs an end: expected --records of at least 1")));
    }
    let config = GeneratorConfig {
        seed: args.seed,
        partitions: args.partitions,
        services: args.services,
        rate: args.rate,
        event_rate: args.event_rate,
        count: args.records,
        start: args.start.clone(),
        incidents: args.incidents == Incidents::Scheduled,
        ..GeneratorConfig::default()
    };
    let generator = Generator::new(config, wall_clock_ms()).map_err(Failure::usage)?;
    let (writers, place) = match (&args.out, &args.kafka) {
        (Some(folder), _) => {
            (files(folder, compression_of_files(args)?, args.partitions)?, format!("files in {}", folder.display()))
        }
        (None, Some(brokers)) => (partitions(brokers, args)?, format!("partitions of the topic {}", args.topic)),
        (None, None) => return Err(Failure::usage(anyhow::anyhow!("expected --out or --kafka"))),
    };
    let part = |(partition, (writer, name))| {
        let limit = generator.count(partition).unwrap_or(u64::MAX);
        Part { records: generator.records(partition), limit, writer, name }
    };
    let parts = (0..).zip(writers).map(part).collect();

    let started = Instant::now();
    let progress = progress_bar(args.records);
    let bytes = write_parts(&generator, parts, started, &progress, stop)?;
    let records = progress.position();
    progress.finish_and_clear();
    if let Some(path) = &args.labels {
        write_labels(&generator, records, path)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "wrote {} records ({}) to {} {place} in {seconds:.1} s, {} records/s",
        HumanCount(records),
        HumanBytes(bytes),
        args.partitions,
        HumanCount((records as f64 / seconds) as u64)
    );
    Ok(())
}

/// A bar with rate and time left; nothing where standard error is not a terminal.
fn progress_bar(records: u64) -> ProgressBar {
    let (bar, template) = match records {
        0 => (ProgressBar::new_spinner(), "{spinner} {human_pos} records, {per_sec}, {elapsed}"),
        n => (ProgressBar::new(n), "{wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left"),
    };
    // A template that does not parse leaves the default one.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A partition being written.
struct Part {
    records: Records,
    limit: u64,
    writer: PartWriter,
    name: String,
}

enum PartWriter {
    Plain(File),
    Gzip(flate2::write::GzEncoder<File>),
    Zstd(zstd::Encoder<'static, File>),
    Kafka { producer: Arc<KafkaProducer>, topic: String, partition: i32 },
}

/// How files are compressed, and how their names end.
fn compression_of_files(args: &Args) -> Result<(Compression, &'static str), Failure> {
    match args.compression.unwrap_or(Compression::Plain) {
        Compression::Plain => Ok((Compression::Plain, "")),
        Compression::Gzip => Ok((Compression::Gzip, ".gz")),
        Compression::Zstd => Ok((Compression::Zstd, ".zst")),
        other @ (Compression::Lz4 | Compression::Snappy) => {
            Err(Failure::usage(anyhow::anyhow!("--compression: expected plain, gzip or zstd for files, got {other:?}")))
        }
    }
}

/// A file for each partition.
fn files(
    folder: &Path,
    (compression, suffix): (Compression, &str),
    partitions: u32,
) -> anyhow::Result<Vec<(PartWriter, String)>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = |partition| {
        let path = folder.join(format!("part-{partition}.jsonl{suffix}"));
        let open = || {
            let file = File::create(&path)?;
            io::Result::Ok(match compression {
                Compression::Gzip => PartWriter::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::new(6))),
                Compression::Zstd => PartWriter::Zstd(zstd::Encoder::new(file, 3)?),
                _ => PartWriter::Plain(file),
            })
        };
        let writer = open().with_context(|| format!("cannot write to {}", path.display()))?;
        Ok((writer, path.display().to_string()))
    };
    (0..partitions).map(file).collect()
}

/// A partition of a Kafka topic for each partition.
fn partitions(brokers: &str, args: &Args) -> anyhow::Result<Vec<(PartWriter, String)>> {
    let compression = match args.compression {
        Some(Compression::Plain) => kafka::Compression::None,
        Some(Compression::Gzip) => kafka::Compression::Gzip,
        Some(Compression::Zstd) => kafka::Compression::Zstd,
        Some(Compression::Snappy) => kafka::Compression::Snappy,
        Some(Compression::Lz4) | None => kafka::Compression::Lz4,
    };
    let mut config = ProducerConfig { brokers: brokers.to_owned(), compression, ..ProducerConfig::default() };
    for (name, value) in &args.properties {
        config.properties.set(name, value);
    }
    KafkaProducer::ensure_topic(&config, &args.topic, args.partitions)?;
    let producer = Arc::new(KafkaProducer::new(&config)?);
    let writer = |partition: u32| {
        let (producer, topic, partition) = (producer.clone(), args.topic.clone(), partition as i32);
        let name = format!("{topic}:{partition} at {brokers}");
        (PartWriter::Kafka { producer, topic, partition }, name)
    };
    Ok((0..args.partitions).map(writer).collect())
}

impl PartWriter {
    /// Writes whole lines.
    fn write(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        match self {
            PartWriter::Plain(writer) => writer.write_all(lines)?,
            PartWriter::Gzip(writer) => writer.write_all(lines)?,
            PartWriter::Zstd(writer) => writer.write_all(lines)?,
            PartWriter::Kafka { producer, topic, partition } => {
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    producer.send(topic, Some(*partition), None, line.trim_ascii_end())?;
                }
            }
        }
        Ok(())
    }

    /// Writes what is held back.
    fn finish(self) -> anyhow::Result<()> {
        match self {
            PartWriter::Plain(_) => {}
            PartWriter::Gzip(writer) => drop(writer.finish()?),
            PartWriter::Zstd(writer) => drop(writer.finish()?),
            PartWriter::Kafka { producer, .. } => producer.flush(DELIVERY)?,
        }
        Ok(())
    }
}

impl Part {
    fn is_done(&self) -> bool {
        self.records.next_offset() >= self.limit
    }

    /// Writes the records that are due, a chunk at the most. Returns how many, and their bytes before compression.
    fn write_due(&mut self, is_due: impl Fn(&Records) -> bool, buffer: &mut Vec<u8>) -> anyhow::Result<(u64, u64)> {
        buffer.clear();
        let first = self.records.next_offset();
        while !self.is_done() && buffer.len() < CHUNK_BYTES && is_due(&self.records) {
            self.records.write_next(buffer);
        }
        self.writer.write(buffer).with_context(|| format!("cannot write to {}", self.name))?;
        Ok((self.records.next_offset() - first, buffer.len() as u64))
    }

    fn finish(self) -> anyhow::Result<()> {
        self.writer.finish().with_context(|| format!("cannot write the end of {}", self.name))
    }
}

/// Writes all parts to their ends, or until `stop`, on as many threads as there are cores. Returns the bytes before compression.
fn write_parts(
    generator: &Generator,
    parts: Vec<Part>,
    started: Instant,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(parts.len());
    let mut shares: Vec<Vec<Part>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    for (i, part) in parts.into_iter().enumerate() {
        shares[i % threads].push(part);
    }
    std::thread::scope(|scope| {
        let share = |share| scope.spawn(move || write_share(generator, share, started, bar, stop));
        let writers: Vec<_> = shares.into_iter().map(share).collect();
        let join = |writer: std::thread::ScopedJoinHandle<'_, anyhow::Result<u64>>| match writer.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        writers.into_iter().map(join).sum()
    })
}

/// Writes some parts, taking turns.
fn write_share(
    generator: &Generator,
    mut parts: Vec<Part>,
    started: Instant,
    progress: &ProgressBar,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES + 1024);
    let mut bytes = 0;
    while !parts.is_empty() {
        let now = started.elapsed();
        let mut behind = generator.config().rate == 0;
        for part in &mut parts {
            let written = part.write_due(|records| generator.is_due(records, now), &mut buffer)?;
            progress.inc(written.0);
            bytes += written.1;
            behind |= written.1 >= CHUNK_BYTES as u64;
        }
        let stopped = stop.load(Ordering::Relaxed);
        for part in parts.extract_if(.., |part| stopped || part.is_done()) {
            part.finish()?;
        }
        if !behind && !parts.is_empty() {
            std::thread::sleep(PACE);
        }
    }
    Ok(bytes)
}

fn write_labels(generator: &Generator, records: u64, path: &Path) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for label in generator.labels(records) {
        serde_json::to_writer(&mut text, &label)?;
        text.push(b'\n');
    }
    fs::write(path, text).with_context(|| format!("cannot write the labels to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn generate(dir: &Path, flags: &[&str]) -> Result<(), Failure> {
        let base = ["generate", "--out", dir.to_str().unwrap(), "--event-rate", "10"];
        write(&Cli::try_parse_from(base.iter().chain(flags)).unwrap().args, &AtomicBool::new(false))
    }

    #[test]
    fn every_compression_writes_the_same_records() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| dir.path().join(name);
        generate(&folder("plain"), &["--records", "5001"]).unwrap();
        generate(&folder("gzip"), &["--records", "5001", "--compression", "gzip"]).unwrap();
        generate(&folder("zstd"), &["--records", "5001", "--compression", "zstd"]).unwrap();
        let mut lines = 0;
        for part in ["part-0.jsonl", "part-1.jsonl"] {
            let plain = fs::read_to_string(folder("plain").join(part)).unwrap();
            let gzip = File::open(folder("gzip").join(format!("{part}.gz"))).unwrap();
            let zstd = File::open(folder("zstd").join(format!("{part}.zst"))).unwrap();
            let mut text = String::new();
            flate2::read::GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
            assert_eq!(text, plain);
            text.clear();
            zstd::Decoder::new(zstd).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, plain);
            lines += plain.lines().count();
        }
        assert_eq!(lines, 5001);
    }

    #[test]
    fn labels_name_the_incidents_in_the_records_written() {
        let dir = tempfile::tempdir().unwrap();
        let labels = dir.path().join("labels.jsonl");
        generate(dir.path(), &["--records", "5001", "--labels", labels.to_str().unwrap()]).unwrap();
        let labels: Vec<serde_json::Value> =
            fs::read_to_string(labels).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // 5,001 records at 10 a second are 500 s and a little more, for what a traffic drop keeps away.
        assert_eq!(labels.len(), 2);
        let logs = fs::read_to_string(dir.path().join("part-0.jsonl")).unwrap();
        for label in labels {
            assert!(logs.contains(label["service"].as_str().unwrap()) && label["kind"].is_string());
            assert!(label["start"].as_u64().unwrap() < label["end"].as_u64().unwrap());
        }
        let endless = generate(dir.path(), &["--records", "0", "--labels", "x"]);
        assert!(endless.is_err(), "{endless:?}");
    }
}
