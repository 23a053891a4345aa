//! `floodmark detect`: scores a series of numbers with the detector of the engine.
//!
//! In: CSV files with a timestamp and a value in each row. Out: the same rows with an anomaly score from 0 to 1, in the
//! order they came. Row by row, so a pipe is scored as it comes. A row that cannot be read ends the command, naming it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use csv::StringRecord;
use floodmark_dataflows::detect::{Baseline, Direction, FINE, Measure};
use floodmark_dataflows::time::Millis;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;

const EXAMPLES: &str = "\
Examples:
  One series:
    floodmark detect --input latency.csv --output scored.csv
  A folder of series, each to the file of the same name:
    floodmark detect --input a.csv b.csv c.csv --output scored/
  In a pipe, only what is worth an alert:
    cat latency.csv | floodmark detect --input - | awk -F, 'NR == 1 || $3 >= 0.75'

The input has a timestamp and a value in each row: columns of these names if there is a header, else the first two.
Timestamps are RFC 3339, YYYY-MM-DD HH:MM:SS (UTC), or seconds or milliseconds since the epoch. An empty value is a
window without one: neither scored nor learned.

The score is of what is new: after an unusual row only a more unusual one counts, until the series has been quiet for a
while. 0.75 is the default threshold of alerts. The first 144 rows only teach, and score 0.";

/// Score a series of numbers: how unusual each is after those before it
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DetectArgs {
    /// Files to score; `-` is standard input
    #[arg(long, short, value_name = "FILE", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// File to write to, `-` for standard output; for several inputs, or with a slash at the end, a folder, made if it
    /// is not there
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Which departures count
    #[arg(long, value_enum, default_value_t = Side::Both)]
    direction: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// Above and below what is expected
    Both,
    /// Only above
    Up,
    /// Only below
    Down,
}

pub(super) fn run(args: &DetectArgs) -> Result<(), Failure> {
    let direction = match args.direction {
        Side::Both => Direction::Both,
        Side::Up => Direction::Up,
        Side::Down => Direction::Down,
    };
    let measure = Measure { direction, ..Measure::NUMBER };
    for (input, output) in pairs(&args.input, &args.output)? {
        score(&input, &output, measure)?;
    }
    Ok(())
}

/// Each input with its output.
fn pairs(inputs: &[PathBuf], output: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let folder = inputs.len() > 1 || output.is_dir() || output.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
    if !folder {
        return Ok(vec![(inputs[0].clone(), output.to_owned())]);
    }
    if is_stream(output) {
        return Err(Failure::usage(anyhow::anyhow!("--output: expected a folder for {} inputs, got -", inputs.len())));
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make the folder {}", output.display()))?;
    let mut pairs: Vec<(PathBuf, PathBuf)> = Vec::new();
    for input in inputs {
        let name = input.file_name().filter(|_| !is_stream(input)).map_or_else(|| "stdin.csv".into(), PathBuf::from);
        let to = output.join(name);
        if let Some((other, _)) = pairs.iter().find(|(_, taken)| *taken == to) {
            let (a, b, to) = (other.display(), input.display(), to.display());
            return Err(Failure::usage(anyhow::anyhow!("{a} and {b} would both be written to {to}")));
        }
        pairs.push((input.clone(), to));
    }
    Ok(pairs)
}

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Scores one input.
fn score(input: &Path, output: &Path, measure: Measure) -> anyhow::Result<()> {
    if !is_stream(input) && !is_stream(output) && fs::canonicalize(input).ok() == fs::canonicalize(output).ok() {
        // Both may be absent: then opening the input says so.
        if input.exists() {
            bail!("{} would be overwritten; give another --output", input.display());
        }
    }
    let (reader, bar): (Box<dyn Read>, ProgressBar) = if is_stream(input) {
        (Box::new(io::stdin().lock()), ProgressBar::hidden())
    } else {
        let file = File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
        let bar = progress_bar(file.metadata().map_or(0, |metadata| metadata.len()), input);
        (Box::new(bar.wrap_read(file)), bar)
    };
    let result = if is_stream(output) {
        rows(reader, &mut io::stdout().lock(), measure)
    } else {
        let file = File::create(output).with_context(|| format!("cannot write to {}", output.display()))?;
        let mut file = BufWriter::new(file);
        rows(reader, &mut file, measure).and_then(|()| Ok(file.flush()?))
    };
    bar.finish_and_clear();
    match result {
        // Whoever reads the output has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        result => result.with_context(|| format!("cannot score {}", input.display())),
    }
}

/// A bar over the bytes of a file; nothing where standard error is not a terminal.
fn progress_bar(bytes: u64, input: &Path) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}, {eta} left {msg}");
    // A template that does not parse leaves the default one.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(input.display().to_string())
}

fn rows(input: impl Read, output: &mut impl Write, measure: Measure) -> anyhow::Result<()> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(input);
    let mut row = StringRecord::new();
    let mut columns = (0, 1);
    let mut baseline = Baseline::new(measure);
    let mut first = true;
    writeln!(output, "timestamp,value,anomaly_score")?;
    while reader.read_record(&mut row)? {
        let line = row.position().map_or(0, csv::Position::line);
        if std::mem::take(&mut first)
            && let Some(named) = header(&row).with_context(|| format!("line {line}"))?
        {
            columns = named;
            continue;
        }
        let (Some(time), Some(value)) = (row.get(columns.0), row.get(columns.1)) else {
            bail!("line {line}: expected a timestamp and a value, got {} column(s)", row.len());
        };
        let Some(start_ms) = parse_time(time) else {
            bail!(
                "line {line}: expected a timestamp such as 2026-01-31 13:45:00, 2026-01-31T13:45:00Z or 1769867100, got \
                 \"{time}\""
            );
        };
        let number = match value {
            "" => None,
            text => Some(text.parse::<f64>().ok().filter(|number| number.is_finite()).with_context(|| {
                format!("line {line}: expected a number, or nothing where there is none, got \"{text}\"")
            })?),
        };
        let scored = baseline.step(start_ms, number);
        let score = if scored.learning { 0 } else { scored.onset_fine };
        writeln!(output, "{time},{value},{:.6}", f64::from(score) / f64::from(FINE))?;
    }
    if first {
        bail!("expected rows of timestamp and value, got nothing");
    }
    Ok(())
}

/// The columns of timestamp and value, if this is a header: a row whose first two columns begin with no digit.
fn header(row: &StringRecord) -> anyhow::Result<Option<(usize, usize)>> {
    let is_data = row.get(0).is_some_and(|time| parse_time(time).is_some())
        || row.get(1).is_some_and(|value| value.parse::<f64>().is_ok());
    if is_data {
        return Ok(None);
    }
    let column = |name: &str| {
        let found = row.iter().position(|column| column.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name));
        let names: Vec<&str> = row.iter().collect();
        found.with_context(|| format!("expected a column named {name}, got {}", names.join(", ")))
    };
    Ok(Some((column("timestamp")?, column("value")?)))
}

/// A point in time: RFC 3339, a date with a time of day (UTC), or seconds or milliseconds since the epoch.
pub(super) fn parse_time(text: &str) -> Option<Millis> {
    /// Later than this many seconds since the epoch is the year 5138: then they are milliseconds.
    const SECONDS: f64 = 1e11;
    if let Ok(number) = text.parse::<f64>() {
        let ms = if number < SECONDS { number * 1000.0 } else { number };
        return (0.0..1e15).contains(&ms).then_some(ms as Millis);
    }
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()
    })?;
    time.as_millisecond().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(text: &str) -> anyhow::Result<String> {
        let mut out = Vec::new();
        rows(text.as_bytes(), &mut out, Measure::NUMBER)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_form_of_time_is_the_same_time() {
        let forms = ["2026-01-31 13:45:00", "2026-01-31T13:45:00Z", "2026-01-31T14:45:00+01:00", "1769867100"];
        for form in forms.into_iter().chain(["1769867100000", "1769867100.000", "2026-01-31T13:45:00"]) {
            assert_eq!(parse_time(form), Some(1_769_867_100_000), "{form}");
        }
        for form in ["", "yesterday", "-1", "1e300", "2026-13-01 00:00:00"] {
            assert_eq!(parse_time(form), None, "{form}");
        }
    }

    #[test]
    fn a_jump_out_of_a_quiet_series_scores_and_rows_keep_their_order() {
        let mut text = String::from("value,other,timestamp\n");
        for i in 0..600 {
            let value = if i == 500 { 99.5 } else { 10.0 + f64::from(i * 7919 % 13) / 10.0 };
            text += &format!("{value},x,{}\n", 1_700_000_000 + i * 300);
        }
        let out = scored(&text).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines.len(), lines[0]), (601, "timestamp,value,anomaly_score"));
        assert!(lines[1].starts_with("1700000000,10,0."), "{}", lines[1]);
        let score = |i: usize| lines[i + 1].rsplit_once(',').unwrap().1.parse::<f64>().unwrap();
        assert!(score(500) >= 0.75, "{}", lines[501]);
        assert!((0..500).all(|i| score(i) < 0.75), "a false alert");
        assert!(lines[501].contains(",99.5,"));
    }

    #[test]
    fn mistakes_name_their_line() {
        let message = |text: &str| format!("{:#}", scored(text).unwrap_err());
        assert!(message("").contains("got nothing"));
        assert!(message("timestamp,value\n1,2\nsoon,3\n").contains("line 3: expected a timestamp"));
        assert!(message("1,2\n2,many\n").contains("line 2: expected a number"));
        assert!(message("1,2\n2\n").contains("line 2: expected a timestamp and a value, got 1 column(s)"));
        assert!(message("time,value\n1,2\n").contains("expected a column named timestamp, got time, value"));
        assert!(scored("1,2\n2,\n3,4\n").is_ok(), "a window without a value");
    }

    /// A restart in the middle of a series: what was kept goes on as if nothing had happened.
    #[test]
    fn a_baseline_survives_as_bytes() {
        let value = |n: u64| Some(50.0 + (n * 7919 % 13) as f64 / 7.0);
        let mut baseline = Baseline::new(Measure::RATE);
        (0..500).for_each(|n| baseline.learn(n * 10_000, value(n)));
        let bytes = postcard::to_stdvec(&baseline).unwrap();
        assert!(bytes.len() <= 4096, "{} bytes", bytes.len());
        let mut read: Baseline = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(read, baseline);
        (500..600).for_each(|n| assert_eq!(read.step(n * 10_000, value(n)), baseline.step(n * 10_000, value(n))));
    }

    #[test]
    fn several_inputs_go_to_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let inputs = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let found = pairs(&inputs(&["x/a.csv", "y/b.csv"]), &out).unwrap();
        assert_eq!(found[1], (PathBuf::from("y/b.csv"), out.join("b.csv")));
        assert!(out.is_dir());
        assert!(matches!(pairs(&inputs(&["x/a.csv", "y/a.csv"]), &out), Err(Failure::Usage(_))), "one would be lost");
        assert!(matches!(pairs(&inputs(&["a", "b"]), Path::new("-")), Err(Failure::Usage(_))));
    }
}
