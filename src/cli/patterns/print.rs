//! How patterns are shown: table, JSON, CSV.
//!
//! In: what was found. Out: standard output. A reader that stops reading (`| head`) is no error.

use std::io::{self, BufWriter, ErrorKind, Write};

use floodmark_dataflows::patterns::Pattern;
use serde::Serialize;

use super::{Found, Seen};

/// A pattern as JSON. Lines are numbered from 1 over all files.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    template: &'a str,
    count: u64,
    share: f64,
    first_line: u64,
    last_line: u64,
    sample: &'a str,
    /// The ids of the first cuts in it.
    cuts: Vec<String>,
}

#[derive(Serialize)]
struct Summary<'a> {
    lines: u64,
    not_understood: u64,
    folded: u64,
    first_cuts: usize,
    patterns: Vec<Row<'a>>,
}

impl<'a> Row<'a> {
    fn new(pattern: &'a Pattern, seen: &'a Seen, lines: u64) -> Self {
        Self {
            id: hex(pattern.id),
            template: &pattern.template,
            count: seen.count,
            share: share(seen.count, lines),
            first_line: seen.first_line,
            last_line: seen.last_line,
            sample: &seen.sample,
            cuts: pattern.cuts.iter().map(|id| hex(*id)).collect(),
        }
    }
}

/// How ids are written.
fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn share(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

/// All patterns as one JSON object.
pub fn json(found: &Found) -> io::Result<()> {
    let summary = Summary {
        lines: found.lines,
        not_understood: found.refused,
        folded: found.folded,
        first_cuts: found.cuts,
        patterns: found.patterns.iter().map(|(pattern, seen)| Row::new(pattern, seen, found.lines)).collect(),
    };
    to_stdout(|out| {
        serde_json::to_writer_pretty(&mut *out, &summary)?;
        out.write_all(b"\n")
    })
}

/// One row a line.
pub fn csv(slots: &[u32], patterns: &[Option<&Pattern>]) -> io::Result<()> {
    let ids: Vec<String> =
        patterns.iter().map(|pattern| pattern.map(|pattern| hex(pattern.id)).unwrap_or_default()).collect();
    to_stdout(|out| {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(["LineId", "EventId", "EventTemplate"])?;
        for (line, slot) in (1u64..).zip(slots) {
            let slot = *slot as usize;
            let template = patterns[slot].map_or("", |pattern| &pattern.template);
            out.write_record([&line.to_string(), &ids[slot], template])?;
        }
        out.flush()
    })
}

/// A table for people: the `top` most frequent patterns, each with a sample.
pub fn table(found: &Found, top: usize) -> io::Result<()> {
    to_stdout(|out| {
        let shown = &found.patterns[..top.min(found.patterns.len())];
        writeln!(out, "{:>9} {:>6} {:>9} {:>9}  pattern", "count", "share", "first", "last")?;
        for (pattern, seen) in shown {
            let percent = 100.0 * share(seen.count, found.lines);
            let template = match Found::is_other(pattern) {
                true => format!("(what did not fit into --max {} first cuts)", found.cuts),
                false => visible(&pattern.template),
            };
            writeln!(
                out,
                "{:>9} {percent:>5.1}% {:>9} {:>9}  {template}",
                seen.count, seen.first_line, seen.last_line
            )?;
            let sample = visible(&seen.sample);
            if sample != template {
                writeln!(out, "{:37} {sample}", "")?;
            }
        }
        let hidden = &found.patterns[shown.len()..];
        writeln!(out, "\n{} lines, {} patterns", found.lines, found.patterns.len())?;
        if !hidden.is_empty() {
            let lines: u64 = hidden.iter().map(|(_, seen)| seen.count).sum();
            writeln!(out, "{} patterns with {lines} lines are not shown: --top 0 shows all", hidden.len())?;
        }
        if found.refused > 0 {
            writeln!(out, "{} lines are no records of the format, and were taken as text", found.refused)?;
        }
        Ok(())
    })
}

/// A text that does nothing to a terminal: control characters, and those that turn the direction of writing, as escapes.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\t' => shown.push(' '),
            _ if c.is_control() || turns => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown
}

fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(visible("a\x1b[31mb\u{202e}c\td\u{9b}é"), "a\\u{1b}[31mb\\u{202e}c d\\u{9b}é");
    }
}
