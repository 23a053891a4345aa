//! Opens the source and the store that the configuration names, as the options of the run want them.

use std::sync::Arc;

use floodmark_dataflows::time::Millis;

use super::{EngineError, Replay, ReplayTarget, RunOptions};
use crate::config::{Config, SourceChoice, StoreChoice};
use crate::dead_letters::DeadLettersConfig;
use crate::sources::Positions;
use crate::sources::files::{FileRange, FilesConfig, FilesRun, FilesSource};
use crate::sources::generator::{GeneratorConfig, GeneratorSource};
use crate::sources::kafka::{Extent, KafkaSource, RangeSpec};
use crate::stores::elasticsearch::ElasticsearchStore;
use crate::stores::embedded::EmbeddedStore;
use crate::stores::ndjson::{Ndjson, NdjsonConfig};
use crate::stores::none::NoStore;
use crate::stores::writer::Indexed;
use crate::stores::{Store, StoreError};

/// A store that is ready to be written to. `goes_on` from a checkpoint: what is stored belongs to what comes.
pub(super) async fn open_store(
    config: &Config,
    replay: Option<&Replay>,
    goes_on: bool,
) -> Result<Arc<dyn Store>, EngineError> {
    let logs = config.store.index != Indexed::Windows;
    if let Some(Replay { target: ReplayTarget::Directory(directory), .. }) = replay {
        let (logs_file, windows) = (directory.join("logs.ndjson"), directory.join("windows.ndjson"));
        let target = NdjsonConfig { logs: logs_file, windows, alerts: directory.join("alerts.ndjson"), append: false };
        let own = own_files(config, &target);
        let letters = config.cluster.own_path(&directory.join(&DeadLettersConfig::default().file));
        // They may be those of the live run.
        if let Some(there) = [&own.logs, &own.windows, &own.alerts, &letters].into_iter().find(|file| file.exists()) {
            let there = there.display();
            return Err(EngineError::Usage(format!(
                "--out: {there} is there already; give a folder without such files"
            )));
        }
        return Ok(Arc::new(Ndjson::open(&own, logs)?));
    }
    if let Some(Replay { target: ReplayTarget::Prefix(prefix), .. }) = replay
        && prefix.is_empty()
    {
        let advice = "--prefix: expected some text, got none: documents would be written among those of the live run";
        return Err(EngineError::Usage(advice.to_owned()));
    }
    let prefix = replay.and_then(|replay| match &replay.target {
        ReplayTarget::Prefix(prefix) => Some(prefix.as_str()),
        ReplayTarget::Directory(_) => None,
    });
    let chosen = config.store.chosen().map_err(|mistake| EngineError::Usage(mistake.to_string()))?;
    match (chosen, prefix) {
        (StoreChoice::Elasticsearch(store), prefix) => {
            let prefix = prefix.map_or_else(|| store.prefix.clone(), |prefix| format!("{prefix}{}", store.prefix));
            let mut store = store.clone();
            store.prefix = prefix;
            let store = ElasticsearchStore::new(&store)?;
            match store.setup().await {
                Ok(_) => {}
                // Writes set it up themselves once it answers; until then everything waits.
                Err(error @ StoreError::Unavailable(_)) => tracing::warn!(%error, "Elasticsearch is waited for"),
                Err(error) => return Err(error.into()),
            }
            Ok(Arc::new(store))
        }
        (_, Some(_)) => {
            let advice = "--prefix is for Elasticsearch; use --out DIR with this store";
            Err(EngineError::Usage(advice.to_owned()))
        }
        (StoreChoice::Embedded(store), None) => {
            Ok(Arc::new(EmbeddedStore::open(store, &config.data_dir.join("store"))?))
        }
        (StoreChoice::Ndjson(store), None) => {
            let own = own_files(config, store);
            let own = NdjsonConfig { append: own.append || goes_on, ..own };
            Ok(Arc::new(Ndjson::open(&own, logs)?.among(store, &config.cluster)?))
        }
        (StoreChoice::None, None) => Ok(Arc::new(NoStore)),
    }
}

/// The files of this process.
fn own_files(config: &Config, files: &NdjsonConfig) -> NdjsonConfig {
    let own = |path| config.cluster.own_path(path);
    NdjsonConfig { logs: own(&files.logs), windows: own(&files.windows), ..files.clone() }
}

/// What is to be done with a source, whatever its kind.
pub(super) trait WithSource {
    /// What comes of it.
    type Output;
    /// Does it.
    fn with<S: crate::sources::Source>(self, source: S) -> Self::Output;
}

/// Where reading begins.
pub(super) struct Begin {
    /// Where it goes on; partitions that are not there begin as configured.
    pub positions: Positions,
    /// What "now" means to the generator.
    pub origin_ms: Millis,
}

/// Opens the source and hands it on.
pub(super) fn with_source<T, W>(config: &Config, options: &RunOptions, begin: Begin, then: W) -> Result<T, EngineError>
where
    W: WithSource<Output = Result<T, EngineError>>,
{
    let chosen = config.source.chosen().map_err(|mistake| EngineError::Usage(mistake.to_string()))?;
    match chosen {
        SourceChoice::Kafka(kafka) => {
            then.with(KafkaSource::resume(kafka.clone(), extent(options)?, &begin.positions)?)
        }
        SourceChoice::Files(files) => {
            let follow = files.follow && !options.until_end && options.replay.is_none();
            let files = FilesConfig { follow, ..files.clone() };
            then.with(FilesSource::new(files, files_run(config, options, begin.positions)?)?)
        }
        SourceChoice::Generator(generator) => {
            if options.replay.is_some() {
                let advice = "a generated log is replayed by its seed: run it again with the same options";
                return Err(EngineError::Usage(advice.to_owned()));
            }
            if options.until_end && generator.count == 0 {
                let advice = "--until-end needs source.generator.count: without it the generated log has no end";
                return Err(EngineError::Usage(advice.to_owned()));
            }
            let source: GeneratorConfig = generator.clone();
            then.with(GeneratorSource::new(source, begin.origin_ms, begin.positions, !options.bare)?)
        }
    }
}

fn extent(options: &RunOptions) -> Result<Extent, EngineError> {
    Ok(match &options.replay {
        Some(replay) => {
            let range = RangeSpec::parse(replay.from.as_deref(), replay.to.as_deref());
            Extent::Replay(range.map_err(EngineError::Usage)?)
        }
        None if options.until_end => Extent::UntilEnd,
        None => Extent::Live,
    })
}

fn files_run(config: &Config, options: &RunOptions, positions: Positions) -> Result<FilesRun, EngineError> {
    let mut ranges = Vec::new();
    if let Some(replay) = &options.replay {
        if replay.to.is_some() {
            let advice = "files are replayed by position: --from FILE=0..4096,FILE2=100.. holds the ends too";
            return Err(EngineError::Usage(advice.to_owned()));
        }
        for part in replay.from.as_deref().unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
            ranges.push(file_range(part)?);
        }
    }
    Ok(FilesRun {
        positions,
        ranges,
        marks: !options.bare && options.replay.is_none(),
        by_workers: std::thread::available_parallelism().is_ok_and(|cores| config.cluster.workers >= cores.get()),
        max_record_bytes: config.records.max_record_bytes,
    })
}

/// Reads `FILE=from..to`, where both ends may be left out.
fn file_range(text: &str) -> Result<FileRange, EngineError> {
    let wrong =
        || EngineError::Usage(format!("expected FILE=from..to in bytes, such as app.log=0..4096, got \"{text}\""));
    let (file, range) = text.rsplit_once('=').ok_or_else(wrong)?;
    let (from, to) = range.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    Ok(FileRange {
        file: file.to_owned(),
        from: if from.is_empty() { 0 } else { number(from)? },
        to: if to.is_empty() { None } else { Some(number(to)?) },
    })
}
