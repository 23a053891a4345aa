//! `floodmark explain`: is an alert right, and why?
//!
//! In: an alert's id, the configuration, and the log. Out: the working, as text or JSON; exit code 1 when the records do
//! not give what the alert says. On error: what is not there any more, or is not what it was, is named.

use anyhow::anyhow;
use clap::Args;
use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::output::{KeyFields, MeasureScore, RecordRange};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{ConfigArgs, Failure, is_terminal, table, time_text};
use crate::explain::{Derived, Deriver, find};

/// Derive an alert again: read its records once more, score them, and show the working.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
An alert carries where the records of its first and its strongest window are, and what its baselines had learned before
them. These records are read again from Kafka or the files, and must give the same score.

Examples:
  floodmark explain 3f2c… -c floodmark.toml                 the alert from the disk or the store of this configuration
  floodmark explain 3f2c… -c floodmark.toml --url http://a:8080
  floodmark explain 3f2c… -c floodmark.toml --json | jq '.windows[].now.score'

Exit codes:
  0  the records give what the alert says
  1  they do not, or cannot be read any more, or there is no such alert
  2  the configuration is wrong, or another one than the alert was raised by")]
pub struct ExplainArgs {
    /// The alert's id, as in GET /alerts and in notifications
    #[arg(value_name = "ALERT")]
    id: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the running process whose API is here for the alert; otherwise it is looked for on the disk, then in the store
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Go on where the configuration is another one than the alert was raised by
    #[arg(long)]
    anyway: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let alert = runtime.block_on(async {
        match &args.url {
            Some(url) => find::from_api(url, &args.id).await,
            None => find::left_behind(&config, &args.id).await,
        }
    })?;
    let deriver = Deriver::new(&config, &alert).map_err(Failure::Usage)?;
    let changed = deriver.changed();
    if !changed.is_empty() && !args.anyway {
        return Err(Failure::Usage(anyhow!(
            "the alert was raised by another configuration: {} changed since; name the one that it was raised by, or \
             go on with --anyway",
            changed.join(", ")
        )));
    }
    let windows = deriver.windows();
    let bar = progress(windows.iter().flat_map(|(_, window)| &window.offsets));
    let mut derived = Vec::with_capacity(windows.len());
    let mut before = 0;
    for (role, window) in windows {
        let mut read = vec![0; window.offsets.len()];
        derived.push(deriver.derive(role, window, |place, offset| {
            read[place] = offset - window.offsets[place].first + 1;
            bar.set_position(before + read.iter().sum::<u64>());
        })?);
        before += length(&window.offsets);
    }
    bar.finish_and_clear();
    let is_same = derived.iter().all(Derived::is_same);
    if args.json {
        derived.iter_mut().for_each(|derived| derived.window.baselines = Vec::new());
        let answer = json!({ "alert": alert.id, "same": is_same, "changed": changed, "windows": derived });
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print(&alert, &changed, &derived);
    }
    match is_same {
        true => Ok(()),
        false => Err(Failure::Running(anyhow!("the records do not give what the alert says"))),
    }
}

fn length<'a>(offsets: impl IntoIterator<Item = &'a RecordRange>) -> u64 {
    offsets.into_iter().map(|range| range.last - range.first + 1).sum()
}

fn progress<'a>(offsets: impl Iterator<Item = &'a RecordRange>) -> ProgressBar {
    if !is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length(offsets));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} offsets") {
        bar.set_style(style);
    }
    bar
}

fn print(alert: &AlertDocument, changed: &[String], derived: &[Derived]) {
    let state = alert.state.name();
    println!("{} of view {}: {}, {state}", alert.alert, alert.view, alert.severity);
    println!("{}", alert.summary);
    if !changed.is_empty() {
        println!("of the configuration changed since: {}", changed.join(", "));
    }
    for of in derived {
        let (window, now) = (&of.window, &of.now);
        println!();
        println!(
            "{} window: {}, {} to {}",
            of.role,
            key_text(&window.key),
            time_text(window.start),
            time_text(window.end)
        );
        for RecordRange { topic, partition, identity, first, last, clock } in &window.offsets {
            let known_as = if identity == topic { String::new() } else { format!(" ({identity})") };
            println!("  {topic}:{partition}{known_as} offsets {first} to {last}, clock {}", time_text(*clock));
        }
        println!("  {} records read, {} of them in the window", of.read, of.matched);
        println!();
        match &now.score {
            Some(score) => {
                let headings = ["measure", "actual", "expected", "usual", "rarity", "score", "because"];
                table(&headings, score.measures.iter().map(row));
                println!();
                println!("score {} ({}); the alert says {}", score.score, score.level, shown_score(of));
            }
            None => {
                let value = of.value.map_or("unknown".to_owned(), |value| value.to_string());
                println!("value {value}; the alert says {}", window.value);
            }
        }
        match of.is_same() {
            true => println!("same"),
            false => of.differences.iter().for_each(|difference| println!("differs: {difference}")),
        }
    }
}

fn shown_score(of: &Derived) -> String {
    of.window.score.as_ref().map_or("nothing".to_owned(), |score| score.score.to_string())
}

fn key_text(key: &KeyFields) -> String {
    let fields: Vec<String> = key.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fields.join(", ")
}

fn row(of: &MeasureScore) -> Vec<String> {
    let short = |number: f64| format!("{}", (number * 1e6).round() / 1e6);
    vec![
        of.measure.to_string(),
        of.actual.map(short).unwrap_or_default(),
        short(of.expected),
        format!("{} to {}", short(of.low), short(of.high)),
        format!("{}", of.rarity),
        of.score.to_string(),
        of.reasons.join(", "),
    ]
}
