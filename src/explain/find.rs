//! An alert by its id: from a running process, or from what a run has left on the disk and in the store.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use floodmark_dataflows::alerts::AlertDocument;
use serde::Deserialize;

use crate::alerts::last_in_journal;
use crate::config::{Config, StoreChoice};
use crate::stores::elasticsearch::ElasticsearchStore;

/// A request has this long to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `GET /alerts/ID` answers, as far as it matters here.
#[derive(Deserialize)]
struct Answer {
    alert: AlertDocument,
}

/// Asks a running process.
///
/// # Errors
/// If it does not answer, or knows no such alert.
pub async fn from_api(url: &str, id: &str) -> anyhow::Result<AlertDocument> {
    // Another part may have installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let no_address = || format!("expected the address of an API, such as http://127.0.0.1:8080, got \"{url}\"");
    let mut address = reqwest::Url::parse(url).with_context(no_address)?;
    // The id is what somebody typed.
    match address.path_segments_mut() {
        Ok(mut segments) => _ = segments.pop_if_empty().extend(["alerts", id]),
        Err(()) => bail!(no_address()),
    }
    let answer = client.get(address.clone()).send().await;
    let answer = answer.with_context(|| format!("{url} does not answer; does it run, with its API on?"))?;
    match answer.status().as_u16() {
        200 => {
            let answer: Answer = answer.json().await.with_context(|| format!("{address} answered no alert"))?;
            Ok(answer.alert)
        }
        404 => bail!("{url} knows no alert {id}; GET /alerts lists them"),
        status => bail!("{address} answered with status {status}"),
    }
}

/// Looks into the journal of alerts, and then into the store.
///
/// # Errors
/// If a file cannot be read, the store does not answer, or there is no such alert.
pub async fn left_behind(config: &Config, id: &str) -> anyhow::Result<AlertDocument> {
    let outbox = config.data_dir.join("outbox");
    let mut looked = Vec::new();
    for directory in directories(&outbox) {
        let found = last_in_journal(&directory, id).with_context(|| format!("cannot read {}", directory.display()))?;
        if let Some(alert) = found {
            return Ok(alert);
        }
        looked.push(directory.display().to_string());
    }
    let files = match config.store.chosen().map_err(|mistake| anyhow!("{mistake}"))? {
        StoreChoice::Ndjson(ndjson) => Some(ndjson.alerts.clone()),
        StoreChoice::Embedded(embedded) => {
            let folder = embedded.path.clone().unwrap_or_else(|| config.data_dir.join("store"));
            Some(folder.join("alerts.ndjson"))
        }
        StoreChoice::Elasticsearch(config) => {
            let found = ElasticsearchStore::new(config)?.alert(id).await?;
            if let Some(alert) = found {
                return serde_json::from_value(alert).with_context(|| format!("what is stored as {id} is no alert"));
            }
            looked.push(format!("{}-alerts-* at {}", config.prefix, config.urls.join(", ")));
            None
        }
        StoreChoice::None => None,
    };
    for path in files.into_iter().filter(|path| path.exists()) {
        let found = last_line(&path, id).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(alert) = found {
            return Ok(alert);
        }
        looked.push(path.display().to_string());
    }
    if looked.is_empty() {
        bail!(
            "nothing is known of alerts in {}: name the configuration of the run with -c, or a running process with --url",
            config.data_dir.display()
        );
    }
    bail!("there is no alert {id} in {}", looked.join(" and "))
}

/// The journals of the processes that have run here.
fn directories(outbox: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(outbox).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// The last line of an alert. A line that is not whole yet is passed over.
fn last_line(path: &Path, id: &str) -> std::io::Result<Option<AlertDocument>> {
    let mut last = None;
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        let line = line?;
        // Most lines are of other alerts, and long.
        if line.contains(id)
            && let Ok(alert) = serde_json::from_str::<AlertDocument>(&line)
            && alert.id == id
        {
            last = Some(alert);
        }
    }
    Ok(last)
}
