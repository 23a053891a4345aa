//! The score of the Numenta Anomaly Benchmark, standard profile, as its `README` and code define it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use floodmark_dataflows::detect::{ALERT_SCORE, Baseline, FINE, Measure};

const FALSE_ALERT: f64 = 0.11;

struct File {
    name: String,
    /// Per row: start in milliseconds and value.
    rows: Vec<(u64, f64)>,
    /// First and last row of each labelled window.
    windows: Vec<(usize, usize)>,
}

fn load(folder: &Path) -> Vec<File> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let labels: BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_str(&read(&folder.join("labels/combined_windows.json"))).expect("labels");
    let file = |(name, labels): (String, Vec<[String; 2]>)| {
        let text = read(&folder.join("data").join(&name));
        let rows: Vec<(&str, &str)> = text.lines().skip(1).filter_map(|line| line.split_once(',')).collect();
        let row_of = |time: &String| {
            let seconds = time.split('.').next().unwrap_or_default();
            rows.iter().position(|(time, _)| *time == seconds).expect("a label's time is a row's")
        };
        let windows = labels.iter().map(|[first, last]| (row_of(first), row_of(last))).collect();
        let rows = rows.iter().map(|(time, value)| (start_ms(time), value.trim().parse().expect("a number"))).collect();
        File { name, rows, windows }
    };
    labels.into_iter().map(file).collect()
}

fn start_ms(time: &str) -> u64 {
    let time: jiff::civil::DateTime = time.parse().expect("a time");
    jiff::tz::TimeZone::UTC.to_timestamp(time).expect("a time").as_millisecond() as u64
}

fn sigmoid(y: f64) -> f64 {
    if y > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * y).exp()) - 1.0 }
}

/// Rows that are neither rewarded nor punished.
fn probation(rows: usize) -> usize {
    (rows * 15 / 100).min(750)
}

/// What a file's alerts are worth, before normalising; and how many windows could be missed.
fn raw(file: &File, alerts: &[usize]) -> (f64, usize) {
    let first = probation(file.rows.len());
    let mut best = vec![None; file.windows.len()];
    let mut score = 0.0;
    for &row in alerts.iter().filter(|row| **row >= first) {
        if let Some(at) = file.windows.iter().position(|(a, b)| (*a..=*b).contains(&row)) {
            let (a, b) = file.windows[at];
            let y = -((b - row + 1) as f64) / (b - a + 1) as f64;
            let gain = sigmoid(y) / sigmoid(-1.0);
            best[at] = Some(best[at].map_or(gain, |best: f64| best.max(gain)));
        } else {
            let before = file.windows.iter().rev().find(|(_, b)| *b < row);
            let worth = before.map_or(-1.0, |(a, b)| sigmoid((row - b) as f64 / (b - a) as f64));
            score += FALSE_ALERT * worth;
        }
    }
    let live = file.windows.iter().filter(|(_, b)| *b >= first).count();
    let hit = best.iter().flatten().count();
    (score + best.iter().flatten().sum::<f64>() - live.saturating_sub(hit) as f64, live)
}

/// The normalised score of some files at a threshold in millionths.
fn score(files: &[(&File, &[u32])], threshold: u32) -> f64 {
    let (mut sum, mut live, mut windows) = (0.0, 0, 0);
    for (file, scores) in files {
        let alerts: Vec<usize> = (0..scores.len()).filter(|row| scores[*row] >= threshold).collect();
        let (raw, could_miss) = raw(file, &alerts);
        (sum, live, windows) = (sum + raw, live + could_miss, windows + file.windows.len());
    }
    100.0 * (sum + live as f64) / (windows + live).max(1) as f64
}

fn thresholds() -> impl Iterator<Item = u32> {
    (500_000..FINE).step_by(2_500)
}

fn best(files: &[(&File, &[u32])]) -> (f64, u32) {
    thresholds().map(|threshold| (score(files, threshold), threshold)).max_by(|a, b| a.0.total_cmp(&b.0)).expect("some")
}

pub fn report(folder: &Path) {
    let files = load(folder);
    let scores: Vec<Vec<u32>> = files
        .iter()
        .map(|file| {
            let mut baseline = Baseline::new(Measure::NUMBER);
            let step = |(start, value): &(u64, f64)| {
                let scored = baseline.step(*start, Some(*value));
                if scored.learning { 0 } else { scored.onset_fine }
            };
            file.rows.iter().map(step).collect()
        })
        .collect();
    let all: Vec<(&File, &[u32])> = files.iter().zip(&scores).map(|(file, scores)| (file, scores.as_slice())).collect();
    let (found, threshold) = best(&all);
    let default = score(&all, u32::from(ALERT_SCORE) * (FINE / 100));
    println!("NAB, {} files: {found:.1} at the best threshold ({:.3})", files.len(), f64::from(threshold) / 1e6);
    println!("NAB at the default threshold of alerts: {default:.1}");
    // Each fifth of the files at the threshold that is best for the others.
    let held_out: f64 = (0..5)
        .map(|fold| {
            let (out, rest): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(i, _)| i % 5 == fold);
            let rest: Vec<_> = rest.into_iter().map(|(_, file)| *file).collect();
            let threshold = best(&rest).1;
            let worth = |(_, (file, scores)): &(usize, &(&File, &[u32]))| {
                let alerts: Vec<usize> = (0..scores.len()).filter(|row| scores[*row] >= threshold).collect();
                let (raw, live) = raw(file, &alerts);
                raw + live as f64
            };
            out.iter().map(worth).sum::<f64>()
        })
        .sum();
    let most: usize = files.iter().map(|file| file.windows.len() + raw(file, &[]).1).sum();
    println!("NAB with the threshold of the other four fifths: {:.1}", 100.0 * held_out / most as f64);
    let mut kinds: Vec<&str> = files.iter().filter_map(|file| file.name.split('/').next()).collect();
    kinds.dedup();
    for kind in kinds {
        let of_kind: Vec<_> = all.iter().filter(|(file, _)| file.name.starts_with(kind)).copied().collect();
        let windows: usize = of_kind.iter().map(|(file, _)| file.windows.len()).sum();
        if windows > 0 {
            println!("  {kind}: {:.1}, {windows} windows", score(&of_kind, threshold));
        }
    }
}
