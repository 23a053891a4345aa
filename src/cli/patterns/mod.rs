//! `floodmark patterns`: the patterns in log files.
//!
//! In: files, plain or compressed, or standard input: text lines with or without a header, or JSON records. Out: a
//! table, JSON, or CSV with one row a line. A file that cannot be read ends the command; a line that is not what it
//! should be is taken as text. Memory: the distinct first cuts (at most `--max`), and 4 bytes a line with `--csv`.

mod lines;
mod print;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use floodmark_dataflows::decode::{Decoder, Preset, RecordsConfig, Schema};
use floodmark_dataflows::patterns::{Cutter, FirstCuts, MAX_FIRST_CUTS, OTHER_CUT, OTHER_SLOT, Pattern, header, merge};
use floodmark_dataflows::record::FieldRef;

use super::Failure;
use lines::Lines;

const EXAMPLES: &str = "\
Examples:
  floodmark patterns /var/log/syslog
  floodmark patterns app.log app.log.1.gz --top 20
  kubectl logs my-pod | floodmark patterns -
  floodmark patterns --json app.jsonl | jq '.patterns[0]'
  floodmark patterns --csv app.log > patterns.csv       one row a line: LineId,EventId,EventTemplate

Numbers, addresses, paths and the like are values and show as <*>; so do words in whose place many others occur.
The result depends on the lines alone, not on their order.";

/// Show which patterns the messages of any log file have, and how many of each
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PatternsArgs {
    /// Files to read, plain, gzip or zstd; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What the lines are
    #[arg(long, value_enum, default_value_t = LineFormat::Auto)]
    format: LineFormat,
    /// Where the message stands in JSON lines: default, ecs, otel, pino, zerolog, logrus, log4j
    #[arg(long, value_name = "PRESET", default_value = "default", value_parser = preset)]
    preset: Preset,
    /// Show so many patterns, the most frequent first; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    top: usize,
    /// Keep at most so many different first cuts; what comes after them is counted together as __other__
    #[arg(long, value_name = "N", default_value_t = MAX_FIRST_CUTS)]
    max: usize,
    /// Print one JSON object with all patterns
    #[arg(long, conflicts_with_all = ["csv", "top"])]
    json: bool,
    /// Print CSV, one row a line: LineId,EventId,EventTemplate
    #[arg(long, conflicts_with = "top")]
    csv: bool,
}

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineFormat {
    /// JSON where a line is a record, else text
    Auto,
    /// JSON records: their message
    Json,
    /// Access logs of Apache and nginx: the request
    AccessLog,
    /// Text: what stands behind time, level and logger
    Text,
    /// Text without a header: the whole line
    Message,
}

fn preset(name: &str) -> Result<Preset, String> {
    let value = serde_json::Value::String(name.to_owned());
    serde_json::from_value(value).map_err(|error| error.to_string())
}

pub(super) fn run(args: &PatternsArgs) -> Result<(), Failure> {
    if args.max == 0 {
        return Err(Failure::usage(anyhow!("expected --max of at least 1, got 0")));
    }
    let mut miner = Miner::new(args)?;
    let mut lines = Lines::new(&args.files)?;
    while let Some(line) = lines.next()? {
        miner.add(&String::from_utf8_lossy(line));
    }
    lines.finish();
    let found = miner.finish();
    match &miner.counts.slots {
        Some(slots) => print::csv(slots, &found.by_slot())?,
        None if args.json => print::json(&found)?,
        None => print::table(&found, if args.top == 0 { usize::MAX } else { args.top })?,
    }
    Ok(())
}

/// Finds the message of each line.
struct Miner {
    format: LineFormat,
    decoder: Decoder,
    message: FieldRef,
    refused: u64,
    counts: Counts,
}

/// Counts first cuts.
struct Counts {
    cutter: Cutter,
    cuts: FirstCuts,
    /// By slot.
    seen: Vec<Seen>,
    /// The slot of each line, for `--csv`.
    slots: Option<Vec<u32>>,
    lines: u64,
}

/// What is known of a first cut or a pattern.
#[derive(Clone, Debug, Default)]
struct Seen {
    count: u64,
    /// Numbers of lines, from 1 over all files.
    first_line: u64,
    last_line: u64,
    /// The message of the first line.
    sample: String,
}

/// What was found.
struct Found {
    lines: u64,
    /// Lines that are no records of the format asked for, and were taken as text.
    refused: u64,
    /// Lines whose first cuts did not fit.
    folded: u64,
    cuts: usize,
    /// The most frequent first.
    patterns: Vec<(Pattern, Seen)>,
    /// The slot of each first cut, by id ascending.
    slots: Vec<(u64, u32)>,
}

/// Of a message, so much is kept as a sample.
const SAMPLE_BYTES: usize = 1024;

impl Miner {
    fn new(args: &PatternsArgs) -> Result<Self, Failure> {
        let format = match args.format {
            LineFormat::AccessLog => floodmark_dataflows::decode::Format::AccessLog,
            _ => floodmark_dataflows::decode::Format::Json,
        };
        let config = RecordsConfig { format, preset: args.preset, ..RecordsConfig::default() };
        let mut schema = Schema::new(&config).map_err(Failure::usage)?;
        let message = schema.field("message").map_err(Failure::usage)?;
        Ok(Self {
            format: args.format,
            decoder: Decoder::new(schema),
            message,
            refused: 0,
            counts: Counts {
                cutter: Cutter::default(),
                cuts: FirstCuts::new(args.max),
                seen: vec![Seen::default()],
                slots: args.csv.then(Vec::new),
                lines: 0,
            },
        })
    }

    fn add(&mut self, line: &str) {
        let is_record = match self.format {
            LineFormat::Auto => line.starts_with('{'),
            LineFormat::Json | LineFormat::AccessLog => true,
            LineFormat::Text | LineFormat::Message => false,
        };
        if is_record {
            if let Ok(record) = self.decoder.decode(line.as_bytes()) {
                let message = record.text(self.message).unwrap_or_default();
                return self.counts.add(&message);
            }
            self.refused += 1;
        }
        self.counts.add(if self.format == LineFormat::Message { line } else { header::split(line).message });
    }

    fn finish(&self) -> Found {
        let counts = &self.counts;
        let cuts = counts.cuts.cuts().zip(&counts.seen).filter(|(_, seen)| seen.count > 0);
        let mut slots: Vec<_> = counts.cuts.cuts().map(|(id, _)| id).zip(0..).collect();
        slots.sort_unstable();
        let slot = |id: &u64| slots.binary_search_by_key(id, |(id, _)| *id).map_or(OTHER_SLOT, |at| slots[at].1);
        let with_seen = |pattern: Pattern| {
            let seen = pattern.cuts.iter().map(|id| &counts.seen[slot(id) as usize]);
            let mut sum = Seen { first_line: u64::MAX, ..Seen::default() };
            for seen in seen {
                sum.count += seen.count;
                sum.last_line = sum.last_line.max(seen.last_line);
                if seen.first_line < sum.first_line {
                    sum.first_line = seen.first_line;
                    sum.sample.clone_from(&seen.sample);
                }
            }
            (pattern, sum)
        };
        let mut patterns: Vec<_> = merge(cuts.map(|(cut, _)| cut)).into_iter().map(with_seen).collect();
        patterns.sort_by_key(|(_, seen)| (std::cmp::Reverse(seen.count), seen.first_line));
        Found {
            lines: counts.lines,
            refused: self.refused,
            folded: counts.seen[OTHER_SLOT as usize].count,
            cuts: counts.cuts.cuts().len() - 1,
            patterns,
            slots,
        }
    }
}

impl Counts {
    /// Counts the message of the next line.
    fn add(&mut self, message: &str) {
        self.lines += 1;
        let slot = self.cuts.admit(self.cutter.cut(message));
        if slot as usize == self.seen.len() {
            self.seen.push(Seen::default());
        }
        let seen = &mut self.seen[slot as usize];
        if seen.count == 0 {
            seen.first_line = self.lines;
            message[..message.floor_char_boundary(SAMPLE_BYTES)].clone_into(&mut seen.sample);
        }
        seen.count += 1;
        seen.last_line = self.lines;
        if let Some(slots) = &mut self.slots {
            slots.push(slot);
        }
    }
}

impl Found {
    /// The pattern of each slot.
    fn by_slot(&self) -> Vec<Option<&Pattern>> {
        let mut patterns = vec![None; self.slots.len()];
        for (pattern, _) in &self.patterns {
            for cut in &pattern.cuts {
                if let Ok(at) = self.slots.binary_search_by_key(cut, |(id, _)| *id) {
                    patterns[self.slots[at].1 as usize] = Some(pattern);
                }
            }
        }
        patterns
    }

    /// Whether a pattern is what was folded away.
    fn is_other(pattern: &Pattern) -> bool {
        pattern.id == OTHER_CUT
    }
}
