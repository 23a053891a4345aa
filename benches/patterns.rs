//! The speed of first cuts, and how well messages are grouped.
//!
//! ```text
//! cargo bench --bench patterns                        # lines like those of HDFS
//! cargo bench --bench patterns -- FILE                # the lines of a file
//! cargo bench --bench patterns -- --loghub DIR        # grouping accuracy on loghub's labelled samples, too
//! ```
//!
//! Speed is by CPU time of one thread: first cut, admission and a count for each line, with the lines in memory.
//! Grouping accuracy of a system: the share of lines whose pattern has exactly the lines of a true template.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use floodmark::metrics::process::cpu_seconds;
use floodmark_dataflows::patterns::{Cutter, FirstCuts, MAX_FIRST_CUTS, merge};

const LINES: usize = 20_000_000;
const ROUNDS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &args[..] {
        [] => speed(&made_up()),
        [flag, folder] if flag == "--loghub" => {
            speed(&made_up());
            accuracy(Path::new(folder));
        }
        [file] => speed(&lines(&std::fs::read(file).expect("the file reads"))),
        _ => panic!("expected nothing, a file, or --loghub and a folder; got {args:?}"),
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// Messages of the kinds that a distributed file system writes, with other numbers in each.
fn made_up() -> Vec<String> {
    let mut state = 7u64;
    let mut number = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) % below
    };
    let mut message = |i: usize| {
        let mut address = || format!("10.25{}.{}.{}", number(2), number(256), number(256));
        let (a, b) = (address(), address());
        let block = number(1 << 44) as i64 * if number(2) == 0 { -524_287 } else { 524_287 };
        let (port, size) = (30_000 + number(30_000), 1 + number(67_108_864));
        match i % 7 {
            0 => format!(
                "BLOCK* NameSystem.addStoredBlock: blockMap updated: {a}:50010 is added to blk_{block} size {size}"
            ),
            1 => format!("PacketResponder {} for block blk_{block} terminating", number(3)),
            2 => format!("Received block blk_{block} of size {size} from /{a}"),
            3 => format!("Receiving block blk_{block} src: /{a}:{port} dest: /{b}:50010"),
            4 => {
                format!("Deleting block blk_{block} file /mnt/hadoop/dfs/data/current/subdir{}/blk_{block}", number(64))
            }
            5 => format!("BLOCK* NameSystem.delete: blk_{block} is added to invalidSet of {a}:50010"),
            _ => format!("{a}:50010 Served block blk_{block} to /{b}"),
        }
    };
    (0..2000).map(&mut message).collect()
}

fn speed(lines: &[String]) {
    let bytes: usize = lines.iter().map(String::len).sum();
    println!("{} different lines, {} bytes each on average", lines.len(), bytes / lines.len().max(1));
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let (mut cutter, mut cuts) = (Cutter::default(), FirstCuts::new(MAX_FIRST_CUTS));
        let mut counts = vec![0u64; MAX_FIRST_CUTS + 1];
        let start = cpu_seconds().unwrap_or(0.0);
        for _ in 0..LINES / ROUNDS / lines.len() {
            for line in lines {
                counts[cuts.admit(cutter.cut(line)) as usize] += 1;
            }
        }
        let seconds = cpu_seconds().unwrap_or(0.0) - start;
        let millions = counts.iter().sum::<u64>() as f64 / 1e6;
        rates.push(millions / seconds);
        println!("{round}: {:.2} M lines/s, {} first cuts", millions / seconds, cuts.cuts().len() - 1);
    }
    rates.sort_by(f64::total_cmp);
    println!("median: {:.2} M lines/s of CPU time", rates[ROUNDS / 2]);
}

/// Grouping accuracy on each system of a folder of loghub's samples.
fn accuracy(folder: &Path) {
    let mut systems: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder reads")
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    systems.sort();
    let mut sum = 0.0;
    for system in &systems {
        let path = folder.join(format!("{system}/{system}_2k.log_structured.csv"));
        let mut reader = csv::Reader::from_path(&path).expect("the labels open");
        let headers = reader.byte_headers().expect("a header").clone();
        let column = |name: &[u8]| headers.iter().position(|header| header == name).expect("the column");
        let (content, event) = (column(b"Content"), column(b"EventId"));
        let mut cutter = Cutter::default();
        let mut templates = BTreeMap::new();
        let (mut truth, mut found) = (Vec::new(), Vec::new());
        for row in reader.byte_records() {
            let row = row.expect("a row");
            let message = String::from_utf8_lossy(&row[content]).into_owned();
            let cut = cutter.cut(&message);
            templates.entry(cut.id).or_insert_with(|| cut.template.to_owned());
            truth.push(row[event].to_vec());
            found.push(cut.id);
        }
        let patterns = merge(templates.iter().map(|(id, template)| (*id, template.as_str())));
        let pattern_of: HashMap<u64, u64> =
            patterns.iter().flat_map(|pattern| pattern.cuts.iter().map(|cut| (*cut, pattern.id))).collect();
        let pairs: Vec<_> = truth.iter().zip(found.iter().map(|cut| pattern_of[cut])).collect();
        let (mut by_truth, mut by_pattern, mut by_both) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (event, pattern) in &pairs {
            *by_truth.entry(*event).or_insert(0usize) += 1;
            *by_pattern.entry(*pattern).or_insert(0usize) += 1;
            *by_both.entry((*event, *pattern)).or_insert(0usize) += 1;
        }
        let is_right = |(event, pattern): &&(&Vec<u8>, u64)| {
            let both = by_both[&(*event, *pattern)];
            both == by_truth[event] && both == by_pattern[pattern]
        };
        let share = pairs.iter().filter(is_right).count() as f64 / pairs.len() as f64;
        sum += share;
        println!("{system:12} {share:.3}  {} patterns, {} true templates", by_pattern.len(), by_truth.len());
    }
    println!("{:12} {:.3}", "average", sum / systems.len() as f64);
}
