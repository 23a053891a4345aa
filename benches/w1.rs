//! Job W1 against the floor: `floodmark bench` and a plain single-threaded loop over the same files, in turn.
//!
//! ```text
//! cargo bench --bench w1                      # over files it makes: logs of 1,000 and of 10,000 records a second
//! cargo bench --bench w1 -- logs/*.jsonl      # over all files of a directory
//! ```
//!
//! Prints each run, and the medians with their ratio. The floor runs in a process of its own too (`--floor`).

#[path = "floor/mod.rs"]
mod floor;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use floodmark::metrics::process::{Status, cpu_seconds};

const ROUNDS: usize = 5;
const RECORDS: &str = "4000000";
/// Records a second of event time. The fewer there are, the fewer a key has in a tick, and the more updates each makes.
const EVENT_RATES: [&str; 2] = ["1000", "10000"];
const PROGRAM: &str = env!("CARGO_BIN_EXE_floodmark");

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.split_first() {
        Some((first, files)) if first == "--floor" => run_floor(files),
        None => compare_made(),
        _ => compare(&args),
    }
}

/// The plain loop: one line with seconds, CPU seconds and peak memory.
fn run_floor(files: &[String]) {
    let (start, cpu) = (Instant::now(), cpu_seconds().unwrap_or(0.0));
    let mut windows = floor::Windows::new();
    let mut records = 0u64;
    let mut line = Vec::new();
    for file in files {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(file).expect("the file opens"));
        loop {
            // Lines are borrowed from the buffer where they lie in it whole.
            let buffer = reader.fill_buf().expect("the file reads");
            if buffer.is_empty() {
                break;
            }
            let mut used = 0;
            for end in memchr::memchr_iter(b'\n', buffer) {
                if line.is_empty() {
                    windows.add(&buffer[used..end]);
                } else {
                    line.extend_from_slice(&buffer[used..end]);
                    windows.add(&line);
                    line.clear();
                }
                records += 1;
                used = end + 1;
            }
            line.extend_from_slice(&buffer[used..]);
            let read = buffer.len();
            reader.consume(read);
        }
    }
    let digest = windows.finish();
    assert_eq!(windows.bad, 0);
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds().unwrap_or(0.0) - cpu;
    let peak = Status::now().number("VmHWM").unwrap_or(0.0) / 1024.0;
    println!("{{\"records\":{records},\"seconds\":{seconds},\"cpu_seconds\":{cpu},\"peak_memory_mib\":{peak}}}");
    eprintln!("floor: {digest:?}");
}

/// Over files that it makes.
fn compare_made() {
    for rate in EVENT_RATES {
        println!("a log of {rate} records a second:");
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let out = scratch.path().to_str().expect("a plain path");
        let options = ["generate", "--out", out, "--records", RECORDS, "--services", "20", "--partitions", "2"];
        let of = ["--incidents", "none", "--event-rate", rate];
        let status = Command::new(PROGRAM).args(options).args(of).status().expect("generate starts");
        assert!(status.success(), "generate failed");
        compare(&[0, 1].map(|partition| format!("{out}/part-{partition}.jsonl")));
    }
}

fn compare(files: &[String]) {
    let directory = Path::new(&files[0]).parent().expect("a directory");
    let pattern = directory.join("*.jsonl").to_str().expect("a plain path").to_owned();
    let mut runs = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let this = std::env::current_exe().expect("this program");
        let mut commands = [Command::new(this), Command::new(PROGRAM), Command::new(PROGRAM)];
        commands[0].arg("--floor").args(files);
        commands[1].args(["bench", "--json", "--workers", "1", "--input", &pattern]);
        commands[2].args(["bench", "--json", "--workers", "2", "--input", &pattern]);
        for (name, (command, runs)) in ["floor", "1 worker", "2 workers"].iter().zip(commands.iter_mut().zip(&mut runs))
        {
            let measured = floor::measured(command).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let millions = measured["records"] / 1e6;
            let run = (millions / measured["seconds"], measured["cpu_seconds"] / millions, measured["peak_memory_mib"]);
            println!("{round} {name:>10}: {:.2} M records/s, {:.3} CPU s/M, {:.1} MiB", run.0, run.1, run.2);
            runs.push(run);
        }
    }
    let median = |runs: &Vec<(f64, f64, f64)>, pick: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rates: Vec<f64> = runs.iter().map(|runs| median(runs, |run| run.0)).collect();
    let cpu: Vec<f64> = runs.iter().map(|runs| median(runs, |run| run.1)).collect();
    println!("\nmedians: floor {:.2} M/s, 1 worker {:.2} M/s, 2 workers {:.2} M/s", rates[0], rates[1], rates[2]);
    println!("1 worker / floor: {:.2} by rate, {:.2} by CPU time", rates[1] / rates[0], cpu[0] / cpu[1]);
    println!("2 workers / 1 worker: {:.2}", rates[2] / rates[1]);
}
