//! Parts of a log, read once more.
//!
//! In: the source as configured, and ranges of offsets. Out: their records, partition by partition in offset order; those
//! of the generator are made again. On error: what is not there any more, or belongs to another log, is named.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::bounded;
use floodmark_dataflows::input::{Batch, Feed, PartitionEvent, PartitionInfo, RawRecord};
use floodmark_dataflows::output::RecordRange;
use floodmark_dataflows::time::Millis;

use crate::checkpoint::restore;
use crate::checkpoint::store::CopyStore;
use crate::config::{Config, SourceChoice};
use crate::sources::files::{FileRange, FilesConfig, FilesRun, FilesSource};
use crate::sources::generator::{Generator, GeneratorConfig};
use crate::sources::kafka::{Extent, KafkaSource, RangeSpec};
use crate::sources::{Positions, Source, WorkerPlace, redrive};

/// A source that gives nothing for this long does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a source that gives nothing is looked at.
const EVERY: Duration = Duration::from_millis(100);

/// Reads ranges, each of another partition. `each` gets every record with the place of its range.
///
/// # Errors
/// If the source does not answer, or has these offsets no longer.
pub fn read_ranges(
    config: &Config,
    ranges: &[RecordRange],
    each: impl FnMut(usize, RawRecord<'_>),
) -> anyhow::Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    if ranges.iter().any(|range| *range.topic == *redrive::TOPIC) {
        bail!("dead letters that were redriven are among the records: these are not read again");
    }
    match config.source.chosen().map_err(|mistake| anyhow!("{mistake}"))? {
        SourceChoice::Kafka(kafka) => {
            let is_same = |a: &RecordRange, b: &RecordRange| (&a.topic, a.partition) == (&b.topic, b.partition);
            if let Some(both) = ranges.windows(2).find(|pair| is_same(&pair[0], &pair[1])) {
                bail!(
                    "the topic {} was made anew while the window was open: what the first one held is gone",
                    both[0].topic
                );
            }
            let mut kafka = kafka.clone();
            kafka.topics = ranges.iter().map(|range| range.topic.to_string()).collect();
            kafka.topics.dedup();
            let parts = ranges.iter().map(|range| {
                let (from, to) = (range.first, range.last + 1);
                ((range.topic.to_string(), range.partition), (Some(from), Some(to)))
            });
            let extent = Extent::Replay(RangeSpec::Offsets(parts.collect()));
            // So that each topic is known by what the alert knows it by.
            let positions: Positions = ranges.iter().map(|range| (info(range), range.first)).collect();
            let source = KafkaSource::resume(kafka, extent, &positions).context("the records cannot be read again")?;
            drain(source, ranges, each)
        }
        SourceChoice::Files(files) => {
            let files = FilesConfig { follow: false, ..files.clone() };
            let parts = ranges.iter().map(|range| FileRange {
                file: range.identity.to_string(),
                from: range.first,
                to: Some(range.last + 1),
            });
            let max_record_bytes = config.records.max_record_bytes;
            let run = FilesRun { ranges: parts.collect(), max_record_bytes, ..FilesRun::default() };
            let source = FilesSource::new(files, run).context("the records cannot be read again")?;
            drain(source, ranges, each)
        }
        SourceChoice::Generator(generator) => make_again(config, generator, ranges, each),
    }
}

/// Makes records of the generator once more.
fn make_again(
    config: &Config,
    generator: &GeneratorConfig,
    ranges: &[RecordRange],
    mut each: impl FnMut(usize, RawRecord<'_>),
) -> anyhow::Result<()> {
    let origin_ms = if generator.is_live() { origin_ms(config)? } else { None };
    let generator = Generator::new(generator.clone(), origin_ms.unwrap_or(0))?;
    let identity = generator.identity();
    if let Some(range) = ranges.iter().find(|range| range.identity != identity) {
        bail!(
            "the records are of another run of the generator ({}, and not {identity}): its options changed, or the checkpoints \
             that say when it began are not in this data directory",
            range.identity
        );
    }
    for (place, range) in ranges.iter().enumerate() {
        let mut records = generator.records(range.partition.unsigned_abs());
        records.seek(range.first);
        let mut line = Vec::new();
        while records.next_offset() <= range.last {
            let offset = records.next_offset();
            line.clear();
            records.write_next(&mut line);
            let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
            each(place, RawRecord { offset, bytes, appended_ms: None, redriven_from: None });
        }
    }
    Ok(())
}

/// When the newest generation began, by the wall clock, if its checkpoints are here.
fn origin_ms(config: &Config) -> anyhow::Result<Option<Millis>> {
    let store = CopyStore::open(&config.checkpoint, &config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let Some(&newest) = restore::ids(&store).await?.last() else { return Ok(None) };
        Ok(Some(restore::manifest(&store, newest, false).await?.origin_ms))
    })
}

fn info(range: &RecordRange) -> PartitionInfo {
    PartitionInfo { topic: range.topic.clone(), identity: range.identity.clone(), number: range.partition }
}

/// Reads all that a bounded source gives.
fn drain<S: Source>(
    source: S,
    ranges: &[RecordRange],
    mut each: impl FnMut(usize, RawRecord<'_>),
) -> anyhow::Result<()> {
    let mut feed = source.feed(WorkerPlace { index: 0, peers: 1 })?;
    let (news, wake) = bounded(1);
    feed.attach(Arc::new(move || _ = news.try_send(())));
    // By partition of the feed, the place of its range; and whether more may come.
    let mut partitions: Vec<(usize, bool)> = Vec::new();
    let mut moved_at = Instant::now();
    loop {
        for info in feed.joined() {
            partitions.push((place_of(&info, ranges)?, true));
        }
        for (partition, (place, is_open)) in partitions.iter_mut().enumerate() {
            while *is_open && let Some(event) = feed.poll(partition) {
                moved_at = Instant::now();
                match event {
                    PartitionEvent::Records(mut batch) => {
                        while let Some(raw) = batch.current() {
                            each(*place, raw);
                            batch.advance();
                        }
                    }
                    PartitionEvent::Lost { from, to } => {
                        let RecordRange { topic, partition, .. } = &ranges[*place];
                        bail!("{topic}:{partition} no longer has the offsets {from} to {}: they were deleted", to - 1);
                    }
                    PartitionEvent::Ended => *is_open = false,
                    PartitionEvent::AtEnd { .. } | PartitionEvent::Unreachable => {}
                }
            }
        }
        if let Some(failure) = source.failure() {
            bail!("the records cannot be read again: {failure}");
        }
        if !feed.is_discovering() && partitions.iter().all(|(_, is_open)| !is_open) {
            return Ok(());
        }
        if moved_at.elapsed() > PATIENCE {
            bail!("the source does not answer");
        }
        let _ = wake.recv_timeout(EVERY);
    }
}

/// The range of a partition. It must be that of the log that was read, not of another one by the same name.
fn place_of(info: &PartitionInfo, ranges: &[RecordRange]) -> anyhow::Result<usize> {
    let is_it = |range: &RecordRange| range.identity == info.identity && range.partition == info.number;
    if let Some(place) = ranges.iter().position(is_it) {
        return Ok(place);
    }
    // The number of a file is given anew by each run; its identity is enough.
    let mut of_file = ranges.iter().enumerate().filter(|(_, range)| range.identity == info.identity);
    match (of_file.next(), of_file.next()) {
        (Some((place, _)), None) => Ok(place),
        _ => Err(anyhow!(
            "the topic {} is another one than the alert's: it is known as {} and not as {}; it was made anew since",
            info.topic,
            info.identity,
            ranges.iter().find(|range| range.topic == info.topic).map_or("", |range| &range.identity),
        )),
    }
}
