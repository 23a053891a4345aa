//! `floodmark check`: is the configuration right, and do the services answer?
//!
//! In: a configuration. Out: one line for each thing that a run would use, with what was found. Nothing is written
//! or changed anywhere: files are not opened, indices not made.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use floodmark_dataflows::alerts::condition::WindowCondition;

use super::{ConfigArgs, Failure};
use crate::alerts::config::RouteConfig;
use crate::checkpoint::CheckpointConfig;
use crate::checkpoint::store::CopyStore;
use crate::cluster::ClusterConfig;
use crate::config::{Config, SourceChoice, StoreChoice};
use crate::dead_letters::Place;
use crate::sources::files::{FilesRun, FilesSource};
use crate::sources::generator::GeneratorSource;
use crate::sources::kafka::{Extent, KafkaProducer, KafkaSource};
use crate::sources::{Positions, Source, wall_clock_ms};
use crate::stores::elasticsearch::ElasticsearchStore;
use crate::stores::writer::Indexed;

/// A service has this long to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Validate a configuration and reach each service it names.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Nothing is written anywhere.

Exit codes:
  0  all is well
  2  the configuration is wrong: every mistake is printed
  3  a service does not answer, or a file is not to be had")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    let mut findings = Findings::default();
    findings.note(match args.config.file() {
        Some(path) => ("configuration", Ok(format!("{} is right", path.display()))),
        None => ("configuration", Ok("environment and flags are right; no file".to_owned())),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    findings.note(("source", runtime.block_on(source(&config))));
    findings.note(("store", runtime.block_on(store(&config))));
    findings.note(("dead letters", dead_letters(&config)));
    if config.checkpoint.enabled {
        findings.note(("checkpoints", runtime.block_on(checkpoints(&config))));
    }
    findings.note(("data", folder(&config.data_dir)));
    if config.api.enabled {
        findings.note(("api", api(&config)));
    }
    if config.cluster.is_shared() {
        findings.note(("cluster", cluster(&config.cluster)));
    }
    for view in &config.view {
        let slide = view.slide.map(|slide| format!(" every {slide}")).unwrap_or_default();
        findings.note(("view", Ok(format!("{}: by {}, {}{slide}", view.name, view.key.join(", "), view.window))));
    }
    for alert in &config.alert {
        let mut found = format!("{}: {} on the view {}", alert.name, alert.when.join(" and "), alert.view);
        if alert.when.iter().any(|when| WindowCondition::parse(when).is_ok_and(|condition| condition.is_of_few())) {
            found.push_str("; a key without any record has no window to look at: for silence take \"score >= 75\"");
        }
        findings.note(("alert", Ok(found)));
    }
    for route in &config.route {
        findings.note(("route", runtime.block_on(self::route(route))));
    }
    // Connections that hang must not hold up the exit.
    runtime.shutdown_background();
    findings.finish()
}

/// What is printed: what it is about, and what was found or what is wrong.
type Finding = (&'static str, Result<String, String>);

#[derive(Default)]
struct Findings {
    bad: Vec<&'static str>,
}

impl Findings {
    fn note(&mut self, (about, result): Finding) {
        match result {
            Ok(found) => println!("{about:<14} {found}"),
            Err(wrong) => {
                println!("{about:<14} NOT OK: {wrong}");
                self.bad.push(about);
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        if self.bad.is_empty() {
            return Ok(());
        }
        Err(Failure::Unreachable(anyhow!("not ready to run: {}; see above", self.bad.join(", "))))
    }
}

async fn source(config: &Config) -> Result<String, String> {
    match config.source.chosen().map_err(|mistake| mistake.to_string())? {
        SourceChoice::Kafka(kafka) => {
            let kafka = kafka.clone();
            let connect = move || KafkaSource::connect(kafka, Extent::UntilEnd);
            let source = tokio::task::spawn_blocking(connect).await.map_err(|error| chain(&error))?;
            reach(source.map_err(|error| chain(&error))?.health()).await
        }
        SourceChoice::Files(files) => {
            let source = FilesSource::new(files.clone(), FilesRun::default()).map_err(|error| chain(&error))?;
            reach(source.health()).await
        }
        SourceChoice::Generator(generator) => {
            let source = GeneratorSource::new(generator.clone(), wall_clock_ms(), Positions::new(), false)
                .map_err(|error| chain(&error))?;
            reach(source.health()).await
        }
    }
}

async fn store(config: &Config) -> Result<String, String> {
    let stored = match config.store.index {
        Indexed::All => "all logs, and windows",
        Indexed::Anomalies => "logs that are anomalies, and windows",
        Indexed::Windows => "windows only",
    };
    let store = match config.store.chosen().map_err(|mistake| mistake.to_string())? {
        StoreChoice::Elasticsearch(elasticsearch) => {
            let store = ElasticsearchStore::new(elasticsearch).map_err(|error| chain(&error))?;
            reach(store.inspect()).await?
        }
        StoreChoice::Embedded(embedded) => {
            // Not opened: a run may have it, and opening makes it.
            let path = embedded.path.clone().unwrap_or_else(|| config.data_dir.join("store"));
            format!("embedded: {}", folder(&path)?)
        }
        StoreChoice::Ndjson(ndjson) => {
            let own = |path| own_file(config, path);
            format!("ndjson: {}, {} and {}", own(&ndjson.logs)?, own(&ndjson.windows)?, own(&ndjson.alerts)?)
        }
        StoreChoice::None => "none: nothing is stored".to_owned(),
    };
    Ok(format!("{store} ({stored})"))
}

/// A file of this process, whose folder is there or can be made.
fn own_file(config: &Config, path: &Path) -> Result<String, String> {
    let own = config.cluster.own_path(path);
    let absolute = std::path::absolute(&own).map_err(|error| error.to_string())?;
    folder(absolute.parent().unwrap_or(&absolute))?;
    Ok(own.display().to_string())
}

async fn checkpoints(config: &Config) -> Result<String, String> {
    let url = config.checkpoint.url.as_deref().unwrap_or_default();
    if url.starts_with("s3://") {
        let store = CopyStore::open(&config.checkpoint, &config.data_dir).map_err(|error| chain(&error))?;
        return reach(store.reach()).await.map(|()| format!("{url} answers"));
    }
    // Not opened: opening makes it.
    let default = config.data_dir.join("checkpoints");
    let found = folder(url.strip_prefix("file://").map_or(&default, Path::new))?;
    let CheckpointConfig { keep, copies, .. } = config.checkpoint;
    Ok(match (keep, copies) {
        (_, 1) => format!("{found}; with checkpoint.copies = 1, one damaged file may leave none that can be read"),
        (1, _) => format!("{found}; with checkpoint.keep = 1 there is none before the last"),
        _ => found,
    })
}

/// Whether the receiver of a route can be reached. Nothing is sent to it.
async fn route(route: &RouteConfig) -> Result<String, String> {
    let Some((kind, url)) = route.url() else { return Err(format!("{}: it has no receiver", route.name)) };
    let url = reqwest::Url::parse(url.expose()).map_err(|_| format!("{}: its address cannot be read", route.name))?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
    let place = format!("{kind} at {host}:{port}");
    let connect = tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), port));
    match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(_)) => Ok(format!("{}: {place} can be reached", route.name)),
        Ok(Err(error)) => Err(format!("{}: cannot reach {place}: {error}", route.name)),
        Err(_) => Err(format!("{}: {place} does not answer", route.name)),
    }
}

fn dead_letters(config: &Config) -> Result<String, String> {
    Ok(match config.dead_letters.to {
        Place::File => own_file(config, &config.data_dir.join(&config.dead_letters.file))?,
        Place::Index => "an index of their own in the store".to_owned(),
        Place::Topic => {
            let (kafka, topic) = (&config.dead_letters.kafka, &config.dead_letters.topic);
            let found = KafkaProducer::partitions_of(kafka, topic).map_err(|error| chain(&error))?;
            let found = found.map_or("not there yet".to_owned(), |partitions| format!("{partitions} partitions"));
            format!("the topic {topic} at {}: {found}", kafka.brokers)
        }
    })
}

/// Whether the folder is there, or can be made: the nearest one above it that is there decides.
fn folder(path: &Path) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    let there = absolute.ancestors().find(|above| above.exists()).unwrap_or(&absolute);
    let metadata = there.metadata().map_err(|error| format!("{}: {error}", there.display()))?;
    if !metadata.is_dir() {
        return Err(format!("{} is no folder", there.display()));
    }
    if metadata.permissions().readonly() {
        return Err(format!("{} cannot be written to", there.display()));
    }
    let state = if there == absolute { "is there" } else { "will be made" };
    Ok(format!("{} {state}", path.display()))
}

fn api(config: &Config) -> Result<String, String> {
    let address = config.own_api().listen;
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) => Err(format!("cannot listen on {address}: {error}; set api.listen to another port")),
    }
}

fn cluster(cluster: &ClusterConfig) -> Result<String, String> {
    let secret = cluster.read_secret()?;
    let addresses = cluster.addresses();
    let address = cluster.listen.as_ref().unwrap_or(&addresses[cluster.process]);
    TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let trust = if secret.expose().is_empty() { "without a secret" } else { "with a secret" };
    Ok(format!("process {} of {}, {address} is free, {trust}", cluster.process, cluster.processes))
}

/// An answer in time.
async fn reach<T, E: std::error::Error>(health: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, health).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// An error with its causes, as one line.
fn chain<E: std::error::Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
