//! From the generator to searchable documents, with windows and the API on: how much is sustained, and how fast the API
//! answers meanwhile.
//!
//! ```text
//! cargo bench --bench end_to_end -- [RECORDS] [RECORDS_PER_SECOND]
//! ```
//!
//! Runs the `floodmark` binary with the generator as its source and the embedded store. 0 records a second is as fast as
//! it goes. The generator has no end; the benchmark does, when that many documents are searchable and durable. Memory is
//! anonymous memory (`RssAnon`), the largest seen.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_floodmark");
const SEARCHES: [&str; 3] = [
    "/logs?service_name=auth-service&level=ERROR&size=20",
    "/logs?anomaly=true&status_code=500&size=20",
    "/logs?q=user&service_name=api-gateway&size=20",
];

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let records = numbers.first().copied().unwrap_or(2_000_000);
    let rate = numbers.get(1).copied().unwrap_or(0);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = format!("data_dir = {:?}\n", dir.path().join("data"));
    write!(config, "[source.generator]\ncount = 0\nrate = {rate}\nevent_rate = 50000\n").expect("text");
    config.push_str("start = \"2026-01-01T00:00:00Z\"\n");
    config.push_str("[api]\nlisten = \"127.0.0.1:0\"\n");
    let file = dir.path().join("floodmark.toml");
    std::fs::write(&file, config).expect("the configuration is written");

    let mut process =
        Command::new(PROGRAM).args(["run", "-c"]).arg(&file).stderr(Stdio::piped()).spawn().expect("floodmark starts");
    let address = address_of(&mut process);
    let started = Instant::now();
    let (mut searches, mut stats, mut peak_kib) = (Vec::new(), Vec::new(), 0);
    let seconds = loop {
        for path in SEARCHES {
            searches.push(timed(&address, path).0);
        }
        let (took, _) = timed(&address, "/logs/stats");
        stats.push(took);
        peak_kib = peak_kib.max(anonymous_kib(process.id()));
        let (_, body) = timed(&address, "/logs?size=1");
        let total: u64 = number_behind(&body, "\"total\":");
        if total >= records {
            break started.elapsed().as_secs_f64();
        }
        assert!(started.elapsed() < Duration::from_secs(600), "only {total} documents after 600 s");
        std::thread::sleep(Duration::from_millis(20));
    };
    println!("{records} records searchable in {seconds:.1} s: {:.0}/s", records as f64 / seconds);
    report("/logs with filters", &mut searches);
    report("/logs/stats", &mut stats);
    println!("RssAnon at the most {} MiB", peak_kib / 1024);
    process.kill().expect("floodmark is killed");
    process.wait().expect("floodmark ends");
}

/// Reads the log until the API listens, and goes on reading so that the pipe never fills.
fn address_of(process: &mut Child) -> String {
    let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("address=")?.1.trim().to_owned()))
        .expect("the API listens");
    std::thread::spawn(move || lines.for_each(drop));
    address
}

fn timed(address: &str, path: &str) -> (Duration, String) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).expect("the API answers");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", answer.lines().next().unwrap_or_default());
    (start.elapsed(), answer)
}

fn number_behind(text: &str, name: &str) -> u64 {
    let digits = text.split_once(name).map_or("", |(_, rest)| rest);
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

fn anonymous_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000].as_secs_f64() * 1e3;
    println!("{what}: median {:.1} ms, p99 {:.1} ms, of {} requests", at(500), at(990), times.len());
}
