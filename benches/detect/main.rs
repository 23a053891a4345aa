//! How good the detector is, and what it costs.
//!
//! `cargo bench --profile ci --bench detect -- [NAB_FOLDER]` prints, with a folder of the Numenta Anomaly Benchmark
//! (`data/` and `labels/combined_windows.json`), its score; then nanoseconds a window, bytes of state, false alerts per key
//! and week on the generator's logs without incidents, and how soon its incidents are found, by services
//! and by patterns. `-- --patterns` does the last alone, `-- --false-alerts N` the false alerts and delays of services, the
//! former on N logs.

mod generated;
mod nab;
mod patterns;

use std::time::Instant;

use floodmark_dataflows::detect::{Baseline, Measure};

fn main() {
    if std::env::args().any(|argument| argument == "--patterns") {
        return patterns::report();
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--false-alerts");
    if arguments.next().is_some() {
        let logs = arguments.next().and_then(|logs| logs.parse().ok()).filter(|logs| *logs > 0);
        return generated::report(logs.expect("a number of logs behind --false-alerts"));
    }
    // Cargo passes --bench.
    if let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) {
        nab::report(folder.as_ref());
    }
    cost();
    generated::report(1);
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
    println!("state: {} bytes a measure and key, for each baseline that is kept", Baseline::BYTES);
    // A kept baseline is at most twice as far back, or 16 windows; from there all is scored and learned again.
    for behind in [1, 10, 60, 360] {
        const TIMES: u64 = 200;
        let windows = u64::max(2 * behind, 16);
        let start = Instant::now();
        for _ in 0..TIMES {
            let mut again = baseline.clone();
            (WINDOWS..WINDOWS + windows).for_each(|n| _ = std::hint::black_box(again.step(n * 10_000, value(n))));
        }
        let micros = start.elapsed().as_nanos() as f64 / 1e3 / TIMES as f64;
        println!("correction of the window {behind} before the last: at most {micros:.1} us");
    }
}
