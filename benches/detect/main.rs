//! How good the detector is, and what it costs.
//!
//! `cargo bench --profile ci --bench detect -- [NAB_FOLDER]` prints, with a folder of the Numenta Anomaly Benchmark
//! (`data/` and `labels/combined_windows.json`), its score; then nanoseconds a window, bytes of state, false alerts per key
//! and week on the generator's logs without incidents, and how soon its incidents are found, by services
//! and by patterns. `-- --patterns` does the last alone.

mod generated;
mod nab;
mod patterns;

use std::time::Instant;

use floodmark_dataflows::detect::{Baseline, KEEP_EVERY, Measure, Series};

fn main() {
    if std::env::args().any(|argument| argument == "--patterns") {
        return patterns::report();
    }
    // Cargo passes --bench.
    if let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) {
        nab::report(folder.as_ref());
    }
    cost();
    generated::report();
    patterns::report();
}

/// Nanoseconds of one thread, and bytes.
fn cost() {
    const WINDOWS: u64 = 200_000;
    let value = |n: u64| Some(100.0 + (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as f64);
    let mut baseline = Baseline::new(Measure::RATE);
    let start = Instant::now();
    let sum: u64 = (0..WINDOWS).map(|n| u64::from(baseline.step(n * 10_000, value(n)).score)).sum();
    let step = start.elapsed().as_nanos() as f64 / WINDOWS as f64;
    println!("cost: {step:.0} ns a window and measure, scored and learned (sum of scores {sum})");
    println!("state: {} bytes a measure and key, one more every {KEEP_EVERY} windows kept", Baseline::BYTES);
    for behind in [1, 10, 60, 360] {
        let mut series = Series::new(Measure::RATE, 10_000, 1, 0);
        series.close(2_000, value);
        let start = Instant::now();
        const TIMES: u64 = 200;
        (0..TIMES).for_each(|_| _ = series.correct(2_000 - behind, value));
        let micros = start.elapsed().as_nanos() as f64 / 1e3 / TIMES as f64;
        println!("correction of the window {behind} before the last: {micros:.1} us");
    }
}
