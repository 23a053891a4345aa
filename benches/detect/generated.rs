//! False alerts and delays on the generator's logs, whose incidents are known.

use std::collections::BTreeMap;

use floodmark::sources::generator::{Generator, GeneratorConfig, Label};
use floodmark_dataflows::detect::{ALERT_SCORE, Baseline, Measure, WindowScore};

pub const WEEK_MS: u64 = 7 * 86_400_000;
pub const DAY_MS: u64 = 86_400_000;
pub const START_MS: u64 = 1_767_225_600_000;
/// Alerts closer than this many windows are one.
pub const TOGETHER: u64 = 30;
/// The seed of the first log without incidents; the others have the next ones.
const FIRST_SEED: u64 = 7;
/// Records a second over five services, of which the smallest has an eighth.
pub const RATE: u64 = 20;

/// Records, server errors and response times of one window.
#[derive(Clone, Default)]
struct Contents {
    records: u32,
    errors: u32,
    micros: Vec<u32>,
}

/// Per service, its windows from the first on.
type Services = BTreeMap<String, Vec<Contents>>;

/// The rate, the share of errors, and the 95th percentile of response times: what a view names by default.
const MEASURES: [Measure; 3] = [Measure::RATE, Measure::RATIO, Measure::LATENCY];

fn values(contents: &mut Contents) -> [Option<f64>; 3] {
    let records = contents.records;
    let share = (records > 0).then(|| f64::from(contents.errors) / f64::from(records));
    contents.micros.sort_unstable();
    let p95 = contents.micros.get(contents.micros.len() * 95 / 100).map(|micros| f64::from(*micros));
    [Some(f64::from(records)), share, p95]
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let from = line.find(name).map_or(line.len(), |at| at + name.len());
    line[from..].split(['"', ',', '}']).next().unwrap_or_default()
}

fn windows(seed: u64, start_ms: u64, span_ms: u64, window_ms: u64, incidents: bool) -> (Services, Vec<Label>) {
    let count = span_ms / 1000 * RATE;
    let start = start_ms.to_string();
    let config = GeneratorConfig {
        seed,
        partitions: 1,
        rate: 0,
        event_rate: RATE,
        count,
        start,
        incidents,
        ..Default::default()
    };
    let generator = Generator::new(config, 0).expect("a generator");
    let mut records = generator.records(0);
    let mut services = Services::new();
    let mut line = Vec::new();
    for _ in 0..count {
        line.clear();
        let at = ((records.write_next(&mut line) - start_ms) / window_ms) as usize;
        let text = std::str::from_utf8(&line).expect("text");
        let name = field(text, "\"service_name\":\"");
        if !services.contains_key(name) {
            services.insert(name.to_owned(), Vec::new());
        }
        let windows = services.get_mut(name).expect("just inserted");
        if windows.len() <= at {
            windows.resize(at + 1, Contents::default());
        }
        let contents = &mut windows[at];
        contents.records += 1;
        contents.errors += u32::from(field(text, "\"status_code\":").starts_with('5'));
        let millis: f64 = field(text, "\"response_time_ms\":").parse().expect("a number");
        contents.micros.push((millis * 1000.0) as u32);
    }
    // The last window is not whole.
    services.values_mut().for_each(|windows| drop(windows.pop()));
    (services, generator.labels(count))
}

/// Scores the windows of one service, teaching the baselines.
fn step(baselines: &mut [Baseline; 3], start_ms: u64, contents: &mut Contents) -> WindowScore {
    let values = values(contents);
    let scored: Vec<_> =
        baselines.iter_mut().zip(values).map(|(baseline, value)| baseline.step(start_ms, value)).collect();
    WindowScore::of(&scored)
}

/// The baselines of each service.
type Learned = BTreeMap<String, [Baseline; 3]>;

/// What two weeks without incidents came to.
#[derive(Default)]
struct Quiet {
    alerts: u32,
    onsets: u32,
    key_weeks: f64,
    /// After a day, and in the end.
    learned: [Learned; 2],
}

fn quiet(seed: u64, window_ms: u64) -> Quiet {
    let (mut services, _) = windows(seed, START_MS, 2 * WEEK_MS, window_ms, false);
    let mut quiet = Quiet::default();
    for (name, windows) in &mut services {
        let mut baselines = MEASURES.map(Baseline::new);
        let (mut last_alert, mut last_onset) = (None, None);
        for (n, contents) in windows.iter_mut().enumerate() {
            let n = n as u64;
            if n * window_ms == DAY_MS {
                quiet.learned[0].insert(name.clone(), baselines.clone());
            }
            let score = step(&mut baselines, START_MS + n * window_ms, contents);
            let count = |score: u8, last: &mut Option<u64>, alerts: &mut u32| {
                if score >= ALERT_SCORE {
                    *alerts += u32::from(last.is_none_or(|last| n - last > TOGETHER));
                    *last = Some(n);
                }
            };
            if !score.learning {
                count(score.score, &mut last_alert, &mut quiet.alerts);
                count(score.onset, &mut last_onset, &mut quiet.onsets);
            }
        }
        quiet.key_weeks += windows.len() as f64 * window_ms as f64 / WEEK_MS as f64;
        quiet.learned[1].insert(name.clone(), baselines);
    }
    quiet
}

/// False alerts on so many logs, and delays against what was learned of the first.
pub fn report(logs: u64) {
    for window_ms in [10_000, 60_000] {
        let seconds = window_ms / 1000;
        let mut all = quiet(FIRST_SEED, window_ms);
        let mut alerts = vec![all.alerts];
        for seed in FIRST_SEED + 1..FIRST_SEED + logs {
            let quiet = quiet(seed, window_ms);
            alerts.push(quiet.alerts);
            all.onsets += quiet.onsets;
            all.key_weeks += quiet.key_weeks;
        }
        let Quiet { onsets, key_weeks, learned, .. } = all;
        println!(
            "windows of {seconds} s, no incidents, {key_weeks:.0} key-weeks: {:.2} alerts by score, {:.2} by onset per key \
             and week; alerts by log {alerts:?}",
            f64::from(alerts.iter().sum::<u32>()) / key_weeks,
            f64::from(onsets) / key_weeks
        );
        for (after, learned) in ["a quiet day", "two quiet weeks"].iter().zip(&learned) {
            println!("  after {after}:");
            delays(window_ms, learned);
        }
    }
}

/// Each incident against what was learned before its day; what came on that day is not among it.
fn delays(window_ms: u64, learned: &Learned) {
    let start_ms = START_MS + 2 * WEEK_MS;
    let (mut services, labels) = windows(11, start_ms, DAY_MS, window_ms, true);
    let mut kinds: BTreeMap<String, (usize, Vec<u64>)> = BTreeMap::new();
    for label in &labels {
        let (all, found) = kinds.entry(format!("{:?}", label.kind)).or_default();
        *all += 1;
        let mut baselines = learned[&label.service].clone();
        let windows = services.get_mut(&label.service).expect("a service");
        let first = (label.start - start_ms) / window_ms;
        let last = ((label.end - 1 - start_ms) / window_ms).min(windows.len() as u64 - 1);
        // The minute before is quiet.
        let from = first.saturating_sub(60_000 / window_ms);
        baselines
            .iter_mut()
            .for_each(|baseline| baseline.pass((start_ms + from * window_ms).saturating_sub(window_ms)));
        for n in from..=last {
            let score = step(&mut baselines, start_ms + n * window_ms, &mut windows[n as usize]);
            if n >= first && score.score >= ALERT_SCORE {
                found.push(start_ms + (n + 1) * window_ms - label.start);
                break;
            }
        }
    }
    for (kind, (all, mut found)) in kinds {
        found.sort_unstable();
        let at = |share: usize| found.get((found.len() * share / 100).min(found.len().saturating_sub(1)));
        let seconds = |ms: Option<&u64>| ms.map_or("none".to_owned(), |ms| format!("{:.0} s", *ms as f64 / 1000.0));
        println!(
            "    {kind}: {} of {all} found, delay median {}, 95 % {}",
            found.len(),
            seconds(at(50)),
            seconds(at(95))
        );
    }
}
