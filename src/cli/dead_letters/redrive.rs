//! `floodmark dead-letters redrive`: has chosen letters read again.
//!
//! In: the letters that are kept, which of them are wanted, and what was redriven before. Out: a recorded redrive, which
//! running and later processes read. On error: nothing is recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::time::Millis;
use serde::Serialize;

use super::{Chosen, Id, id};
use crate::cli::{ConfigArgs, Failure};
use crate::config::{Config, Sources};
use crate::dead_letters::{Document, each};
use crate::engine::read_as;
use crate::sources::redrive::recorded::Redriven;
use crate::sources::redrive::{Letter, Recorded, Redrive};
use crate::sources::wall_clock_ms;

/// Bytes of records in a redrive; more become several. A process holds a redrive in memory while it reads it.
const MAX_BYTES: usize = 32 << 20;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark dead-letters redrive -c floodmark.toml --reason unindexable
  floodmark dead-letters redrive --reason wrong_type --topic logs --with fixed.toml --dry-run
  floodmark dead-letters redrive --reason wrong_type --topic logs --with fixed.toml

The records go through the pipeline again, as a partition of their own named __redrive: they are indexed, and correct the
windows that are still retained. A running process takes them in within a second or so, a later one at its start.
A letter that was redriven before is left out; if it became a dead letter again, that one can be redriven.
--with takes the section [records] of a file, and nothing else of it: how these records are to be read.")]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    chosen: Chosen,
    /// How many to redrive at the most, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Decode them by the section `records` of this file, rather than as records are decoded
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Only say what would be redriven, and what would become of it
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// The numbers of the redrives that were recorded.
    redrives: Vec<i32>,
    letters: usize,
    /// Letters whose records can be read now.
    readable: usize,
    /// Letters that would be dead letters again, by reason.
    unreadable: BTreeMap<&'static str, usize>,
    left_out: LeftOut,
    dry_run: bool,
}

/// Letters that were chosen and are not redriven.
#[derive(Debug, Default, Serialize)]
struct LeftOut {
    redriven_before: usize,
    without_record: usize,
    over_limit: usize,
}

pub(super) fn run(args: &RedriveArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    let records = args.with.as_deref().map(records_of).transpose()?;
    let decoder = read_as(&config, records.as_ref().unwrap_or(&config.records)).map_err(|mistakes| {
        let file = args.with.as_deref().map_or_else(String::new, |path| format!("{}: ", path.display()));
        Failure::usage(anyhow!("{file}{mistakes}"))
    })?;
    let mut decoder = decoder.decoder;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorded = Recorded::open(&config)?;
    let before = runtime.block_on(recorded.redriven())?;
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    let letters = letters(&config, args, &before, &mut report.left_out)?;
    if letters.is_empty() {
        return Err(Failure::Running(nothing(&report.left_out)));
    }
    let now = wall_clock_ms();
    let latest = now.saturating_add(config.time.max_future.as_millis());
    for letter in &letters {
        let raw = letter.letter.bytes().unwrap_or_default();
        let again = match decoder.decode(&raw) {
            Ok(record) if record.timestamp_ms > latest => Some(Reason::ClockAhead),
            Ok(_) => None,
            Err(error) => Some(error.reason),
        };
        match again {
            None => report.readable += 1,
            Some(reason) => *report.unreadable.entry(reason.name()).or_default() += 1,
        }
    }
    report.letters = letters.len();
    if !args.dry_run {
        let generation = runtime.block_on(recorded.generation(&config));
        for letters in in_parts(letters) {
            let redrive = Redrive::new(now, generation, records.clone(), letters);
            report.redrives.push(runtime.block_on(recorded.record(&redrive)).context("cannot record the redrive")?);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, &recorded);
    }
    Ok(())
}

/// The section of a file that says how records are read.
fn records_of(path: &Path) -> Result<RecordsConfig, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let text = text.map_err(Failure::Usage)?;
    let sources = Sources { file: Some(path), environment: Vec::new(), flags: Vec::new() };
    let config = Config::load_unchecked(&sources).map_err(Failure::usage)?;
    let has_records = toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("records"));
    if !has_records {
        let advice = "expected how the records are to be read, such as format, preset or fields";
        return Err(Failure::usage(anyhow!("{} has no section [records]: {advice}", path.display())));
    }
    Ok(config.records)
}

/// The letters to redrive, the oldest first.
fn letters(
    config: &Config,
    args: &RedriveArgs,
    before: &Redriven,
    left_out: &mut LeftOut,
) -> anyhow::Result<Vec<Letter>> {
    // Each once, the newest of those that are there twice.
    let mut found: BTreeMap<(Millis, Id), Document<'static>> = BTreeMap::new();
    let mut places: BTreeMap<Id, Millis> = BTreeMap::new();
    each(config, &mut |letter| {
        if args.chosen.has(&letter) {
            let (id, timestamp) = (id(&letter), letter.timestamp);
            if let Some(other) = places.insert(id.clone(), timestamp) {
                found.remove(&(other, id.clone()));
            }
            found.insert((timestamp, id), letter);
        }
        Ok(())
    })?;
    let mut letters = Vec::new();
    for letter in found.into_values() {
        if before.has(&letter) {
            left_out.redriven_before += 1;
            continue;
        }
        // Of a redrive the record is known as it first came, also where the store refused the document of it.
        let raw = before.of(&letter).map(|first| (first.letter.raw.clone(), first.letter.raw_base64.clone()));
        let origin = before.origin(&letter);
        let counted = before.of(&letter).is_some_and(Letter::was_counted);
        let letter = match raw {
            Some((raw, raw_base64)) => Document { raw, raw_base64, ..letter },
            None => letter,
        };
        if letter.bytes().is_none() {
            left_out.without_record += 1;
        } else if args.limit.is_some_and(|limit| letters.len() as u64 >= limit) {
            left_out.over_limit += 1;
        } else {
            letters.push(Letter { letter, origin, counted });
        }
    }
    Ok(letters)
}

/// Divided so that none is too large for memory.
fn in_parts(letters: Vec<Letter>) -> Vec<Vec<Letter>> {
    let mut parts: Vec<Vec<Letter>> = Vec::new();
    let mut bytes = 0;
    for letter in letters {
        let length = letter.letter.bytes().map_or(0, |raw| raw.len()) + letter.letter.detail.len();
        if parts.is_empty() || bytes + length > MAX_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

fn nothing(left_out: &LeftOut) -> anyhow::Error {
    let mut text = "there is nothing to redrive: no dead letter is as asked for".to_owned();
    if left_out.redriven_before > 0 {
        text = format!(
            "there is nothing to redrive: all {} letters that are as asked for were redriven before",
            left_out.redriven_before
        );
    }
    if left_out.without_record > 0 {
        text = format!("{text}; {} more have no record that can be read", left_out.without_record);
    }
    anyhow!(text)
}

fn print(report: &Report, recorded: &Recorded) {
    let count = |count: usize| if count == 1 { "1 letter".to_owned() } else { format!("{count} letters") };
    let numbers: Vec<_> = report.redrives.iter().map(ToString::to_string).collect();
    match report.dry_run {
        true => println!("{} would be redriven", count(report.letters)),
        false => {
            println!("redrive {}: {}, recorded in {}", numbers.join(", "), count(report.letters), recorded.place())
        }
    }
    println!("  {} can be read now", report.readable);
    for (reason, letters) in &report.unreadable {
        println!("  {letters} would be dead letters again: {reason}");
    }
    let LeftOut { redriven_before, without_record, over_limit } = report.left_out;
    for (letters, why) in [
        (redriven_before, "redriven before"),
        (without_record, "without a record that can be read"),
        (over_limit, "newer than the limit reaches"),
    ] {
        if letters > 0 {
            println!("  {letters} left out: {why}");
        }
    }
}
