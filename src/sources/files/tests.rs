//! The source as a whole: every line once, whatever happens to the files.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodmark_dataflows::input::{Batch, Feed, PartitionEvent, PartitionInfo};

use super::*;

type Lines = Vec<(u64, String)>;

/// Reads feeds and keeps what came, by identity.
struct Collector {
    feed: FilesFeed,
    infos: Vec<PartitionInfo>,
    lines: BTreeMap<Arc<str>, Lines>,
    positions: Positions,
    at_end: Vec<bool>,
    ended: Vec<bool>,
    unreachable: usize,
}

impl Collector {
    fn new(source: &FilesSource, index: usize, peers: usize) -> Self {
        let feed = source.feed(WorkerPlace { index, peers }).unwrap();
        Self {
            feed,
            infos: Vec::new(),
            lines: BTreeMap::new(),
            positions: Positions::new(),
            at_end: Vec::new(),
            ended: Vec::new(),
            unreachable: 0,
        }
    }

    fn one(config: FilesConfig, run: FilesRun) -> Self {
        Self::new(&FilesSource::new(config, run).unwrap(), 0, 1)
    }

    /// Takes what there is. Returns whether there was anything.
    fn turn(&mut self) -> bool {
        for info in self.feed.joined() {
            self.lines.entry(info.identity.clone()).or_default();
            self.infos.push(info);
            self.at_end.push(false);
            self.ended.push(false);
        }
        let mut any = false;
        for p in 0..self.infos.len() {
            let Some(event) = self.feed.poll(p) else { continue };
            any = true;
            self.at_end[p] = matches!(event, PartitionEvent::AtEnd { .. });
            match event {
                PartitionEvent::Records(mut batch) => {
                    let lines = self.lines.get_mut(&self.infos[p].identity).unwrap();
                    while let Some(record) = batch.current() {
                        let line = String::from_utf8_lossy(record.bytes).into_owned();
                        assert!(lines.last().is_none_or(|(at, _)| *at < record.offset), "offsets grow");
                        assert!(record.offset < batch.next_offset());
                        lines.push((record.offset, line));
                        batch.advance();
                    }
                    self.positions.insert(self.infos[p].clone(), batch.next_offset());
                }
                PartitionEvent::Ended => self.ended[p] = true,
                PartitionEvent::Unreachable => self.unreachable += 1,
                PartitionEvent::AtEnd { next_offset } => {
                    assert_eq!(self.positions.get(&self.infos[p]).copied().unwrap_or(next_offset), next_offset);
                }
                PartitionEvent::Lost { .. } => panic!("lost"),
            }
        }
        any
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let any = self.turn();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "not in time: {what}; {:?}", self.lines);
            if !any {
                std::thread::yield_now();
            }
        }
    }

    fn finish(mut self) -> Self {
        self.until("the end of all files", |c| !c.feed.is_discovering() && c.ended.iter().all(|ended| *ended));
        self
    }

    fn count(&self) -> usize {
        self.lines.values().map(Vec::len).sum()
    }

    fn sorted(&self) -> Vec<String> {
        let mut all: Vec<String> = self.lines.values().flatten().map(|(_, line)| line.clone()).collect();
        all.sort_unstable();
        all
    }
}

fn config(dir: &Path, pattern: &str, follow: bool) -> FilesConfig {
    FilesConfig {
        paths: vec![dir.join(pattern).to_str().unwrap().to_owned()],
        follow,
        poll_interval: Span::from_millis(5),
        ..FilesConfig::default()
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn all_formats_give_the_same_lines_positions_and_identity() {
    let text: String = (0..20_000).map(|i| format!("line {i} {}\n", "x".repeat(i % 97))).collect();
    let half = text.len() / 2;
    let (a, b) = (&text.as_bytes()[..half], &text.as_bytes()[half..]);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let contents = [text.clone().into_bytes(), [gzip(a), gzip(b)].concat(), [zstd(a), zstd(b)].concat()];
    let mut results = Vec::new();
    for bytes in contents {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log"), bytes).unwrap();
        for by_workers in [false, true] {
            let run = FilesRun { by_workers, ..Default::default() };
            let collector = Collector::one(config(dir.path(), "*", false), run).finish();
            results.push((collector.lines.clone(), collector.positions.clone()));
        }
    }
    assert_eq!(results[0].0.values().next().unwrap().len(), 20_000);
    assert_eq!(results[0].1.values().next(), Some(&(text.len() as u64)));
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn files_are_numbered_by_path_and_shared_out() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b", "a", "c"] {
        append(&dir.path().join(name), &format!("{name}1\n{name}2"));
    }
    append(&dir.path().join("empty"), "");
    let source = FilesSource::new(config(dir.path(), "*", false), FilesRun::default()).unwrap();
    let all: Vec<Collector> = (0..2).map(|index| Collector::new(&source, index, 2).finish()).collect();
    let of = |c: &Collector| {
        let mut all = Vec::new();
        for info in &c.infos {
            all.push((info.number, c.lines[&info.identity].clone()));
        }
        all
    };
    let lines = |name: &str| vec![(0, format!("{name}1")), (3, format!("{name}2"))];
    assert_eq!(of(&all[0]), [(0, lines("a")), (2, lines("c"))]);
    assert_eq!(of(&all[1]), [(1, lines("b"))]);
    assert_eq!(source.ends().values().sum::<u64>(), 15);
}

#[test]
fn lines_of_any_length_come_through_blocks_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let lengths = [10, 70_000, 0, 1, 16_384, 16_383, 300_000, 5, 99_999, 100_000, 100_001, 250_000, 7];
    let mut expected: Lines = Vec::new();
    let mut text = String::new();
    for (i, length) in lengths.into_iter().enumerate() {
        let line: String = char::from(b'a' + i as u8).to_string().repeat(length);
        if length > 0 {
            // What is longer than the limit arrives cut, one byte longer than allowed or whole, so that it shows.
            expected.push((text.len() as u64, line.clone()));
        }
        text += &line;
        text += if i % 2 == 0 { "\n" } else { "\r\n" };
    }
    fs::write(&path, &text).unwrap();
    let limit = 100_000;
    let config = FilesConfig { block: ByteSize(16 << 10), ..config(dir.path(), "*", false) };
    for by_workers in [false, true] {
        let run = FilesRun { max_record_bytes: ByteSize(limit), by_workers, ..FilesRun::default() };
        let collector = Collector::one(config.clone(), run).finish();
        let lines = collector.lines.values().next().unwrap();
        assert_eq!(lines.len(), expected.len());
        for (got, expected) in lines.iter().zip(&expected) {
            assert_eq!(got.0, expected.0);
            if expected.1.len() as u64 <= limit {
                assert!(got.1 == expected.1, "line at {}", got.0);
            } else {
                assert!(got.1.len() as u64 > limit && expected.1.starts_with(&got.1), "line at {}", got.0);
            }
        }
        assert_eq!(collector.positions.values().next(), Some(&(text.len() as u64)));
    }
}

#[test]
fn reading_goes_on_at_any_position_and_a_range_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..1000).map(|i| format!("{i}\n")).collect();
    for (name, bytes) in [("plain", text.clone().into_bytes()), ("gzip", gzip(text.as_bytes()))] {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("log"), bytes).unwrap();
        let config = config(&dir, "*", false);
        let all = Collector::one(config.clone(), FilesRun::default()).finish();
        let (info, lines) = (all.infos[0].clone(), all.lines.values().next().unwrap().clone());
        for at in [0, 1, 500, 998, 999] {
            let positions = Positions::from([(PartitionInfo { number: 7, ..info.clone() }, lines[at].0)]);
            let rest = Collector::one(config.clone(), FilesRun { positions, ..Default::default() }).finish();
            assert_eq!(rest.lines.values().next().unwrap(), &lines[at..]);
            assert_eq!(rest.infos[0].number, 7, "a partition keeps its number");
        }
        for (from, to) in [(0, 1), (10, 20), (500, 999), (3, 3)] {
            for file in [dir.join("log").to_str().unwrap().to_owned(), info.identity.to_string()] {
                for by_workers in [false, true] {
                    let range = FileRange { file: file.clone(), from: lines[from].0, to: Some(lines[to].0) };
                    let run = FilesRun { ranges: vec![range], by_workers, ..Default::default() };
                    let part = Collector::one(config.clone(), run).finish();
                    assert_eq!(part.lines.values().next().unwrap(), &lines[from..to]);
                }
            }
        }
    }
}

#[test]
fn partitions_keep_their_numbers_when_a_start_before_noted_only_some() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), format!("{name}\nmore\n")).unwrap();
    }
    let config = config(dir.path(), "*", false);
    let infos = |positions| {
        let run = FilesRun { positions, ..Default::default() };
        let mut infos = Collector::one(config.clone(), run).finish().infos;
        infos.sort_by_key(|info| info.number);
        infos
    };
    let all = infos(Positions::new());
    assert_eq!(all.iter().map(|info| info.number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(infos(Positions::from([(all[1].clone(), 0)])), all);
    let later = infos(Positions::from([(all[1].clone(), 2)]));
    assert_eq!(later.iter().map(|info| info.number).collect::<Vec<_>>(), [1, 2, 3], "others may have been before");
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = |config| FilesSource::new(config, FilesRun::default()).map(|_| ()).unwrap_err().to_string();
    assert!(message(config(dir.path(), "*.log", false)).contains("*.log"));
    assert!(message(FilesConfig::default()).contains("paths"));
    assert!(message(config(dir.path(), "***", false)).contains("pattern"));
    append(&dir.path().join("a.log"), "# header\nfirst of a\n");
    append(&dir.path().join("b.log"), "# header\nfirst of b\n");
    let same = message(config(dir.path(), "*.log", false));
    assert!(same.contains("b.log") && same.contains("fingerprint_lines"), "{same}");
    let two = FilesConfig { fingerprint_lines: 2, ..config(dir.path(), "*.log", false) };
    assert_eq!(Collector::one(two, FilesRun::default()).finish().count(), 4);
}

#[test]
fn a_damaged_file_gives_its_good_lines_and_is_reported_while_it_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
    let whole = gzip(text.as_bytes());
    let path = dir.path().join("log.gz");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let mut collector = Collector::one(config(dir.path(), "*", false), FilesRun::default());
    collector.until("the damage is reported twice", |c| c.unreachable >= 2);
    assert!((1..100_000).contains(&collector.count()) && collector.ended == [false]);
    fs::write(&path, &whole).unwrap();
    let collector = collector.finish();
    assert_eq!(collector.sorted().len(), 100_000);
    assert!(collector.lines.values().next().unwrap().iter().enumerate().all(|(i, (_, l))| *l == format!("line {i}")));
}

#[test]
fn a_partition_that_is_not_taken_from_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let text: String = (0..200_000).map(|i| format!("{name}{i}\n")).collect();
        append(&dir.path().join(name), &text);
    }
    let config = FilesConfig { block: ByteSize(16 << 10), ..config(dir.path(), "*", false) };
    let source = FilesSource::new(config, FilesRun::default()).unwrap();
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 }).unwrap();
    assert_eq!(feed.joined().len(), 2);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut read = |partition: usize| {
        let mut bytes = 0;
        loop {
            match feed.poll(partition) {
                Some(PartitionEvent::Records(batch)) => bytes = batch.next_offset(),
                Some(PartitionEvent::Ended) => return bytes,
                Some(other) => panic!("{other:?}"),
                None => assert!(Instant::now() < deadline),
            }
        }
    };
    assert_eq!(read(1), read(0));
}

/// The lines of a log that is being followed come through whole, each once, however the writes cut them.
#[test]
fn following_waits_for_the_end_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, "fir");
    let mut collector = Collector::one(config(dir.path(), "*", true), FilesRun::default());
    assert!(collector.feed.is_live());
    collector.until("the feed has announced what there is", |c| !c.feed.is_discovering());
    assert!(collector.infos.is_empty(), "not known before its first line is whole");
    append(&path, "st\nsecond");
    collector.until("the first line and the end", |c| c.count() == 1 && c.at_end == [true]);
    append(&path, "\r\n\nthi");
    collector.until("the second line and the end", |c| c.count() == 2 && c.at_end == [true]);
    append(&path, "rd\n");
    append(&dir.path().join("log.2"), "other\n");
    collector.until("the third line and the second file", |c| c.count() == 4 && c.at_end == [true, true]);
    let lines: Vec<&Lines> = collector.infos.iter().map(|info| &collector.lines[&info.identity]).collect();
    assert_eq!(*lines[0], [(0, "first".to_owned()), (6, "second".to_owned()), (15, "third".to_owned())]);
    assert_eq!(*lines[1], [(0, "other".to_owned())]);
    assert_eq!(collector.infos[1].number, 1);
}

#[test]
fn a_file_cut_without_a_copy_goes_on_as_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, "one\ntwo\nhalf");
    let mut collector = Collector::one(config(dir.path(), "*", true), FilesRun::default());
    collector.until("two lines and the end", |c| c.count() == 2 && c.at_end == [true]);
    fs::write(&path, "new one\nnew two\nnew three\n").unwrap();
    collector.until("the new lines, and what there was of the old", |c| c.count() == 6);
    assert_eq!(collector.sorted(), ["half", "new one", "new three", "new two", "one", "two"]);
    assert_eq!(collector.infos.len(), 2);
}

/// A log that is written, rotated in every way and read at the same time, with restarts of the reader in between, in
/// random order: no line is lost, none comes twice.
#[test]
fn rotation_and_restarts_neither_repeat_nor_lose_a_line() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = seed.map_or_else(|| (1..=12).collect::<Vec<u64>>(), |seed| vec![seed]);
    for seed in seeds {
        rotate_and_restart(seed);
    }
}

fn rotate_and_restart(seed: u64) {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut events: Vec<String> = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = FilesConfig { block: ByteSize(16 << 10), ..config(dir.path(), "log*", true) };
    let (mut written, mut partial) = (Vec::<String>::new(), String::new());
    let mut collector = Collector::one(config.clone(), FilesRun::default());
    let (mut seen, mut positions) = (Vec::<String>::new(), Positions::new());
    let mut rotations = 0;
    for _ in 0..60 {
        match random.random_range(0..10) {
            0..5 => {
                // Some lines, the last perhaps not whole; an earlier half is completed first.
                let mut text = std::mem::take(&mut partial);
                let before = text.len();
                for _ in 0..random.random_range(1..200) {
                    let line = format!("{seed}-{} {}", written.len(), "y".repeat(random.random_range(0..300)));
                    if before > 0 && text.len() == before {
                        text += "\n";
                    }
                    text += &line;
                    text += "\n";
                    written.push(line);
                }
                append(&path("log"), &text[before..]);
                if random.random_bool(0.3) {
                    partial = format!("{seed}-{} half", written.len());
                    append(&path("log"), &partial);
                    written.push(partial.clone());
                }
                events.push(format!("write to {} lines, half: {}", written.len(), !partial.is_empty()));
            }
            5 if path("log").exists() && partial.is_empty() => {
                rotations += 1;
                fs::rename(path("log"), path(&format!("log.{rotations}"))).unwrap();
                events.push(format!("rename to log.{rotations}"));
            }
            6 if path("log").exists() && partial.is_empty() => {
                rotations += 1;
                fs::copy(path("log"), path(&format!("log.{rotations}"))).unwrap();
                OpenOptions::new().write(true).open(path("log")).unwrap().set_len(0).unwrap();
                events.push(format!("copy to log.{rotations} and cut"));
            }
            7 if rotations > 0 && path(&format!("log.{rotations}")).exists() => {
                // As gzip does: the compressed file grows beside the other, which is then deleted.
                let (from, to) = (path(&format!("log.{rotations}")), path(&format!("log.{rotations}.gz")));
                let bytes = gzip(&fs::read(&from).unwrap());
                let half = bytes.len() / 2;
                fs::write(&to, &bytes[..half]).unwrap();
                collector.turn();
                let mut file = OpenOptions::new().append(true).open(&to).unwrap();
                file.write_all(&bytes[half..]).unwrap();
                fs::remove_file(&from).unwrap();
                events.push(format!("compress log.{rotations}"));
            }
            8 => {
                seen.extend(collector.sorted());
                positions.extend(std::mem::take(&mut collector.positions));
                let run = FilesRun { positions: positions.clone(), ..Default::default() };
                collector = Collector::one(config.clone(), run);
                events.push("restart".into());
            }
            _ => {
                for _ in 0..random.random_range(1..50) {
                    collector.turn();
                }
            }
        }
    }
    if !partial.is_empty() {
        append(&path("log"), "\n");
    }
    let count = seen.len();
    let deadline = Instant::now() + Duration::from_secs(20);
    while count + collector.count() < written.len() && Instant::now() < deadline {
        collector.turn();
    }
    collector.until("the end of all files", |c| c.at_end.iter().all(|at_end| *at_end));
    seen.extend(collector.sorted());
    seen.sort_unstable();
    written.sort_unstable();
    if seen != written {
        let (lost, extra): (Vec<&String>, Vec<&String>) = (
            written.iter().filter(|line| seen.binary_search(line).is_err()).collect(),
            seen.iter().filter(|line| written.binary_search(line).is_err()).collect(),
        );
        let short =
            |lines: &[&String]| lines.iter().take(5).map(|l| l[..l.len().min(20)].to_owned()).collect::<Vec<_>>();
        panic!(
            "SEED={seed}: {} written, {} read; {} lost {:?}; {} never written {:?}\n{}",
            written.len(),
            seen.len(),
            lost.len(),
            short(&lost),
            extra.len(),
            short(&extra),
            events.join("\n")
        );
    }
}

/// Its partitions would seem to be at their ends for ever.
#[test]
fn a_reader_that_panics_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.log"), "one\n").unwrap();
    let source = FilesSource::new(config(dir.path(), "*.log", true), FilesRun::default()).unwrap();
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 }).unwrap();
    let (test, is_done) = (std::thread::current().id(), AtomicBool::new(false));
    feed.attach(Arc::new(move || {
        let is_reader = std::thread::current().id() != test;
        assert!(!is_reader || is_done.swap(true, Ordering::SeqCst), "a mistake in the thread that reads");
    }));
    append(&dir.path().join("a.log"), "two\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut partitions = 0;
    while source.failure().is_none() {
        assert!(Instant::now() < deadline, "the panic went unnoticed");
        // So that there is room for events.
        partitions += feed.joined().len();
        (0..partitions).for_each(|partition| drop(feed.poll(partition)));
        std::thread::yield_now();
    }
    assert!(source.failure().unwrap().contains("panicked"));
}
