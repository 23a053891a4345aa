//! `floodmark dead-letters`: what could not be used, and why; and what is to be read again.
//!
//! In: the letters where they are kept, also while a run writes to them. Out: a table, one letter in full, its raw bytes,
//! or JSON; with [`redrive`], a recorded redrive. On error: a place that cannot be read is named.

mod redrive;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::time::Millis;

use super::detect::parse_time;
use super::{ConfigArgs, Failure, table, time_text};
use crate::dead_letters::{Document, each};
use crate::sources::redrive::{self as redrives, Recorded};

/// Bytes of a record shown in a row of the table.
const SHOWN_BYTES: usize = 60;

/// Look at records that could not be read, indexed or trusted, and have them read again.
#[derive(Clone, Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// List the newest, the oldest of them first
    List(ListArgs),
    /// Show one in full: what was expected, what came, and the record
    Show(ShowArgs),
    /// Send records through the pipeline again, to be indexed and to correct windows
    Redrive(redrive::RedriveArgs),
}

/// Which letters.
#[derive(Clone, Debug, Args)]
struct Chosen {
    /// Only with this reason; as often as needed
    #[arg(long, value_parser = reason)]
    reason: Vec<Reason>,
    /// Only of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only of this partition of the topic
    #[arg(long, value_name = "N", requires = "topic", allow_hyphen_values = true)]
    partition: Option<i32>,
    /// Only those that became dead letters at this time or later: RFC 3339, or milliseconds since the epoch
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Millis>,
    /// Only those that became dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Millis>,
}

impl Chosen {
    fn has(&self, letter: &Document<'_>) -> bool {
        (self.reason.is_empty() || self.reason.contains(&letter.reason))
            && self.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
            && self.partition.is_none_or(|partition| partition == letter.partition)
            && self.from.is_none_or(|from| letter.timestamp >= from)
            && self.to.is_none_or(|to| letter.timestamp < to)
    }
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark dead-letters list -c floodmark.toml --reason wrong_type
  floodmark dead-letters list --from 2026-01-31T08:00:00Z --limit 1000 --json | jq -r .detail | sort | uniq -c")]
struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    chosen: Chosen,
    /// How many to list
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    /// Print the letters as they are kept, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark dead-letters show logs 3 81723
  floodmark dead-letters show logs 3 81723 --raw > record")]
struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The topic
    topic: String,
    /// The partition
    partition: i32,
    /// The offset
    offset: u64,
    /// Write nothing but the bytes of the record
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print the letter as it is kept
    #[arg(long)]
    json: bool,
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::ALL.into_iter().find(|reason| reason.name() == text).ok_or_else(|| {
        let names = Reason::ALL.map(Reason::name);
        format!("expected one of {}", names.join(", "))
    })
}

fn time(text: &str) -> Result<Millis, String> {
    parse_time(text).ok_or_else(|| "expected RFC 3339 or milliseconds since the epoch".to_owned())
}

pub(super) fn run(args: &DeadLettersArgs) -> Result<(), Failure> {
    match &args.command {
        What::List(args) => list(args),
        What::Show(args) => show(args),
        What::Redrive(args) => redrive::run(args),
    }
}

/// A record's place, which is the same whenever it is read.
type Id = (String, i32, u64);

fn id(letter: &Document<'_>) -> Id {
    (letter.identity.clone().into_owned(), letter.partition, letter.offset)
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    let mut newest = Newest::new(args.limit as usize);
    each(&config, &mut |letter| {
        if args.chosen.has(&letter) {
            newest.add(letter);
        }
        Ok(())
    })?;
    if args.json {
        let mut out = BufWriter::new(std::io::stdout().lock());
        for letter in newest.letters.values() {
            serde_json::to_writer(&mut out, letter)?;
            out.write_all(b"\n")?;
        }
        return Ok(out.flush()?);
    }
    let row = |letter: &Document<'_>| {
        let raw = letter.bytes().unwrap_or_default();
        vec![
            time_text(letter.timestamp),
            letter.topic.to_string(),
            letter.partition.to_string(),
            letter.offset.to_string(),
            letter.reason.name().to_owned(),
            escaped(&raw, SHOWN_BYTES),
        ]
    };
    table(&["TIME", "TOPIC", "PARTITION", "OFFSET", "REASON", "RECORD"], newest.letters.values().map(row));
    if newest.left_out > 0 {
        eprintln!("{} older ones are not listed; --limit raises their number", newest.left_out);
    }
    Ok(())
}

/// The newest letters. One that is there twice, because a run was killed, is there once.
struct Newest {
    limit: usize,
    /// By when they became dead letters, then in the order in which they were read.
    letters: BTreeMap<(Millis, u64), Document<'static>>,
    places: BTreeMap<Id, (Millis, u64)>,
    next: u64,
    left_out: u64,
}

impl Newest {
    fn new(limit: usize) -> Self {
        Self { limit, letters: BTreeMap::new(), places: BTreeMap::new(), next: 0, left_out: 0 }
    }

    fn add(&mut self, letter: Document<'static>) {
        let place = (letter.timestamp, self.next);
        if let Some(before) = self.places.insert(id(&letter), place) {
            self.letters.remove(&before);
        }
        self.letters.insert(place, letter);
        self.next += 1;
        if self.letters.len() > self.limit
            && let Some((_, oldest)) = self.letters.pop_first()
        {
            self.places.remove(&id(&oldest));
            self.left_out += 1;
        }
    }
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    // A topic that was made anew has the same offsets again, under another identity.
    let mut found = BTreeMap::new();
    each(&config, &mut |letter| {
        if (&*letter.topic, letter.partition, letter.offset) == (&*args.topic, args.partition, args.offset) {
            found.insert(id(&letter), letter);
        }
        Ok(())
    })?;
    let place = format!("{}:{} at offset {}", args.topic, args.partition, args.offset);
    if found.is_empty() {
        return Err(Failure::Running(anyhow!("there is no dead letter of {place}")));
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.raw && found.len() > 1 {
        return Err(Failure::Running(anyhow!(
            "there are {} dead letters of {place}, of topics of the same name; see them without --raw",
            found.len()
        )));
    }
    let redriven = match args.topic == redrives::TOPIC {
        true => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Some(runtime.block_on(Recorded::open(&config)?.redriven())?)
        }
        false => None,
    };
    for letter in found.values() {
        let first = redriven.as_ref().and_then(|redriven| redriven.origin(letter));
        let raw = letter.bytes().ok_or_else(|| anyhow!("the letter of {place} has no record that can be read"))?;
        if args.raw {
            out.write_all(&raw)?;
        } else if args.json {
            serde_json::to_writer(&mut out, letter)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(out, "topic      {}", letter.topic)?;
            writeln!(out, "identity   {}", letter.identity)?;
            writeln!(out, "partition  {}", letter.partition)?;
            writeln!(out, "offset     {}", letter.offset)?;
            if let Some(first) = &first {
                writeln!(out, "first at   {}:{} at offset {}", first.topic, first.partition, first.offset)?;
            }
            writeln!(out, "time       {}", time_text(letter.timestamp))?;
            writeln!(out, "reason     {}", letter.reason.name())?;
            writeln!(out, "detail     {}", escaped(letter.detail.as_bytes(), usize::MAX))?;
            writeln!(out, "bytes      {}", raw.len())?;
            writeln!(out, "record     {}", escaped(&raw, usize::MAX))?;
        }
    }
    Ok(out.flush()?)
}

/// The first bytes as text that is safe to print: what is not UTF-8, and what steers a terminal, in escapes.
fn escaped(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for chunk in bytes[..bytes.len().min(most)].utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    if bytes.len() > most {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_cannot_steer_a_terminal() {
        assert_eq!(escaped("{\"a\": \"žluť\"}".as_bytes(), 100), "{\"a\": \"žluť\"}");
        assert_eq!(escaped(b"\x1b[2J\n\xff\0", 100), "\\u{1b}[2J\\n\\xff\\0");
        assert_eq!(escaped(b"0123456789", 4), "0123…");
    }

    #[test]
    fn a_letter_that_came_twice_is_listed_once() {
        let letter = |offset| -> Document<'static> {
            let json = format!(
                "{{\"timestamp\":1,\"topic\":\"t\",\"identity\":\"t\",\"partition\":0,\"offset\":{offset},\
                 \"reason\":\"malformed\",\"detail\":\"\",\"raw\":\"x\"}}"
            );
            serde_json::from_str(&json).unwrap()
        };
        let mut newest = Newest::new(3);
        for offset in [1, 2, 3, 2, 4] {
            newest.add(letter(offset));
        }
        let offsets: Vec<u64> = newest.letters.values().map(|letter| letter.offset).collect();
        assert_eq!((offsets, newest.left_out), (vec![3, 2, 4], 1));
    }
}
