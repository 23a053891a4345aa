//! Reads files through the files source, as one worker would, and says how fast that was.
//!
//! `cargo run --release --example read_files -- 'logs/*.jsonl'`

use std::time::Instant;

use anyhow::bail;
use floodmark::sources::files::{FilesConfig, FilesRun, FilesSource};
use floodmark::sources::{Source, WorkerPlace};
use floodmark_dataflows::input::{Batch, Feed, PartitionEvent};

fn main() -> anyhow::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let config = FilesConfig { paths, follow: false, ..FilesConfig::default() };
    let source = FilesSource::new(config, FilesRun::default())?;
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 })?;
    let worker = std::thread::current();
    feed.attach(std::sync::Arc::new(move || worker.unpark()));
    let mut open: Vec<usize> = (0..feed.joined().len()).collect();

    let started = Instant::now();
    let (mut records, mut bytes) = (0u64, 0usize);
    while !open.is_empty() {
        let mut found = false;
        let mut failed = false;
        open.retain(|partition| match feed.poll(*partition) {
            Some(PartitionEvent::Records(mut batch)) => {
                found = true;
                while let Some(record) = batch.current() {
                    records += 1;
                    bytes += record.bytes.len();
                    batch.advance();
                }
                true
            }
            Some(PartitionEvent::Ended) => false,
            Some(PartitionEvent::Unreachable) => {
                failed = true;
                false
            }
            Some(_) | None => true,
        });
        if failed {
            bail!("a file cannot be read; run floodmark to see which, and why");
        }
        if !found && !open.is_empty() {
            std::thread::park();
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{records} records, {:.0} MB in {seconds:.2} s: {:.2} M records/s, {:.0} MB/s",
        bytes as f64 / 1e6,
        records as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e6
    );
    Ok(())
}
