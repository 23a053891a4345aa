//! Elasticsearch 7.17, 8, 9 and OpenSearch.
//!
//! In: log and window documents with ids that are the same in every run. Out: acknowledgements once the cluster has
//! them on disk, and pages of log documents. A cluster that is slow, full or away makes writes wait, without end and
//! without loss; a document it will never take is named. Only wrong credentials or a cluster that is not one end the
//! run, and only at the start: later on they are retried too, loudly.
//!
//! - `config`: the options and their checks.
//! - `client`: requests over one or more nodes.
//! - `cluster`: version, health, templates, refresh, deletion of old indices.
//! - `templates`: the type of each field.
//! - `index`: days and the names of daily indices.
//! - `bulk`: documents to lines, an answer to outcomes.
//! - `deliver`: requests in flight, what is sent again, what is refused.
//! - `retry`: how long to wait.
//! - `held`: what there is of a range of offsets.
//! - `alerts`: an alert read back. [`letters`]: dead letters read back.
//! - `search`: a query to a request, an answer to a page.
//!
//! # Privileges
//!
//! With security on, the store needs `manage_index_templates` and `monitor` on the cluster, and on `PREFIX-*`
//! `create_index`, `index`, `read`, `view_index_metadata`, `maintenance`, and with `retention_days` `delete_index`.

mod alerts;
mod bulk;
mod client;
mod cluster;
mod config;
mod deliver;
mod held;
mod index;
pub mod letters;
mod retry;
mod search;
mod templates;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use elasticsearch::http::Method;
use floodmark_dataflows::input::PartitionInfo;
use tokio::sync::OnceCell;

use self::bulk::{Alerts, DeadLetters, Documents, Logs, Windows};
use self::client::{Client, Payload};
pub use self::config::{Compression, ElasticsearchConfig};
pub use self::deliver::Counters;
use self::deliver::Delivery;
use self::index::Day;
use super::{AlertWrite, DeadLetterWrite, Held, LogBatch, LogPage, LogQuery, Rejected, Store, StoreError, WindowWrite};
use crate::metrics::Samples;
use crate::sources::wall_clock_ms;

/// How often old indices are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);

/// How often a refresh is tried.
const REFRESH_TRIES: u32 = 5;

/// A store of documents in Elasticsearch or OpenSearch.
#[derive(Debug)]
pub struct ElasticsearchStore {
    shared: Arc<Shared>,
    delivery: Delivery,
    /// What the cluster is, once it has answered and has the templates.
    ready: OnceCell<String>,
}

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    config: ElasticsearchConfig,
}

impl ElasticsearchStore {
    /// A store with a checked configuration. Reads the CA file; opens no connection.
    pub fn new(config: &ElasticsearchConfig) -> Result<Self, StoreError> {
        if let Some(mistake) = config.mistakes().first() {
            return Err(StoreError::Fatal(format!("elasticsearch: {mistake}")));
        }
        if !config.verify_certificates {
            tracing::warn!(
                "elasticsearch: verify_certificates is off: anyone in between can read and change everything"
            );
        }
        let client = Arc::new(Client::new(config)?);
        let delivery = Delivery::new(client.clone(), config);
        let shared = Arc::new(Shared { client, config: config.clone() });
        Ok(Self { shared, delivery, ready: OnceCell::new() })
    }

    /// Asks the cluster what it is, and puts the index templates: one try. Says what it found. Fatal where the cluster
    /// refuses the credentials or will not do. Writes do this by themselves if it was not done, for as long as the
    /// cluster is away.
    pub async fn setup(&self) -> Result<&str, StoreError> {
        let found = self.ready.get_or_try_init(|| async {
            let version = cluster::identify(&self.shared.client).await?;
            cluster::put_templates(&self.shared.client, &self.shared.config).await?;
            let addresses = self.shared.client.addresses();
            tracing::info!(%version, %addresses, prefix = %self.shared.config.prefix, "elasticsearch is ready");
            if let Some(days) = self.shared.config.retention_days {
                tokio::spawn(retain(Arc::downgrade(&self.shared), days));
            }
            Ok(version)
        });
        found.await.map(String::as_str)
    }

    /// Asks the cluster what it is and how it does, and changes nothing there: one try.
    ///
    /// # Errors
    /// The cluster does not answer, refuses the credentials or will not do.
    pub async fn inspect(&self) -> Result<String, StoreError> {
        let version = cluster::identify(&self.shared.client).await?;
        cluster::health(&self.shared.client, &self.shared.config, Some(&version)).await
    }

    /// What has been sent since the start.
    pub fn counters(&self) -> &Counters {
        &self.delivery.counters
    }

    /// Deletes daily log and window indices of days that ended more than `days` days before `now_ms`. Returns their
    /// names.
    pub async fn delete_older_than(&self, days: u32, now_ms: u64) -> Result<Vec<String>, StoreError> {
        self.shared.delete_older_than(days, now_ms).await
    }

    /// A page of the dead letters that are in the index, by when they became that; the first one, or the one behind the
    /// last of another.
    ///
    /// # Errors
    /// The cluster does not answer, or refuses.
    pub async fn dead_letters(&self, after: Option<&letters::Place>) -> Result<letters::Page, StoreError> {
        let Shared { client, config } = &*self.shared;
        if after.is_none() {
            // What was written a moment ago is to be seen.
            cluster::refresh(client, config).await?;
        }
        let path = format!("/{}*/_search", config.index_prefix(config::Kind::DeadLetters));
        let parameters =
            [("ignore_unavailable", "true"), ("allow_no_indices", "true"), ("allow_partial_search_results", "false")];
        let body = Payload::Json(letters::request(after));
        letters::page(&client.send(Method::Post, &path, &parameters, body, None).await?)
    }

    /// An alert by its id, as it was last stored, if it was.
    ///
    /// # Errors
    /// The cluster does not answer, or refuses.
    pub async fn alert(&self, id: &str) -> Result<Option<serde_json::Value>, StoreError> {
        let Shared { client, config } = &*self.shared;
        // What was written a moment ago is to be seen.
        cluster::refresh(client, config).await?;
        let path = format!("/{}*/_search", config.index_prefix(config::Kind::Alerts));
        let parameters =
            [("ignore_unavailable", "true"), ("allow_no_indices", "true"), ("allow_partial_search_results", "false")];
        alerts::answer(&client.send(Method::Post, &path, &parameters, Payload::Json(alerts::request(id)), None).await?)
    }

    async fn wait_until_ready(&self) -> Result<(), StoreError> {
        let mut backoff = self.delivery.backoff();
        loop {
            match self.setup().await {
                Ok(_) => return Ok(()),
                Err(StoreError::Unavailable(detail)) => {
                    self.delivery.say(0, &detail);
                    backoff.wait().await;
                }
                Err(fatal) => return Err(fatal),
            }
        }
    }

    async fn deliver(&self, documents: &dyn Documents) -> Result<Vec<deliver::Refused>, StoreError> {
        if documents.len() == 0 {
            return Ok(Vec::new());
        }
        self.wait_until_ready().await?;
        self.delivery.deliver(documents).await
    }
}

impl Shared {
    async fn delete_older_than(&self, days: u32, now_ms: u64) -> Result<Vec<String>, StoreError> {
        cluster::delete_before(&self.client, &self.config, Day::of(now_ms).minus(days)).await
    }
}

/// Deletes old indices once an hour for as long as the store exists.
async fn retain(store: Weak<Shared>, days: u32) {
    let mut hourly = tokio::time::interval(RETENTION_EVERY);
    loop {
        hourly.tick().await;
        let Some(store) = store.upgrade() else { return };
        match store.delete_older_than(days, wall_clock_ms()).await {
            Ok(deleted) if deleted.is_empty() => {}
            Ok(deleted) => tracing::info!(?deleted, days, "elasticsearch: deleted old indices"),
            Err(error) => tracing::warn!(%error, "elasticsearch: old indices are kept for now"),
        }
    }
}

#[async_trait]
impl Store for ElasticsearchStore {
    fn name(&self) -> &'static str {
        "elasticsearch"
    }

    fn max_in_flight(&self) -> usize {
        self.shared.config.in_flight
    }

    async fn write_logs(&self, batch: Arc<LogBatch>) -> Result<Vec<Rejected>, StoreError> {
        let refused = self.deliver(&Logs::new(&batch)).await?;
        Ok(refused.into_iter().map(|r| Rejected { entry: r.document, detail: r.detail }).collect())
    }

    async fn write_windows(&self, windows: Vec<WindowWrite>) -> Result<(), StoreError> {
        let documents = Windows::new(&windows)
            .map_err(|e| StoreError::Fatal(format!("elasticsearch: a window document is not JSON: {e}")))?;
        match self.deliver(&documents).await?.first() {
            None => Ok(()),
            // Nothing in a window document comes from a record but the key's values, which are text: what the cluster
            // refuses is the shape, so every later document of the view would be refused as well.
            Some(refused) => Err(StoreError::Fatal(format!(
                "elasticsearch refuses the window document {}: {}; its index was made with another mapping, or two views \
                 use one name both for a field and for an object: use another prefix, or delete the index",
                windows[refused.document].id, refused.detail
            ))),
        }
    }

    async fn write_dead_letters(&self, letters: Vec<DeadLetterWrite>) -> Result<(), StoreError> {
        match self.deliver(&DeadLetters(&letters)).await?.first() {
            None => Ok(()),
            Some(refused) => Err(StoreError::Fatal(format!(
                "elasticsearch refuses the dead letter {}: {}; its index was made with another mapping: use another \
                 prefix, or delete the index",
                letters[refused.document].id, refused.detail
            ))),
        }
    }

    async fn write_alerts(&self, alerts: Vec<AlertWrite>) -> Result<(), StoreError> {
        // Of several states of an alert only the last one is sent: the order within a request is not that of arrival.
        let last: BTreeMap<String, AlertWrite> = alerts.into_iter().map(|alert| (alert.id.clone(), alert)).collect();
        let alerts: Vec<AlertWrite> = last.into_values().collect();
        match self.deliver(&Alerts(&alerts)).await?.first() {
            None => Ok(()),
            Some(refused) => Err(StoreError::Fatal(format!(
                "elasticsearch refuses the alert {}: {}; its index was made with another mapping: use another prefix, or \
                 delete the index",
                alerts[refused.document].id, refused.detail
            ))),
        }
    }

    async fn search_logs(&self, query: &LogQuery) -> Result<LogPage, StoreError> {
        let timeout = self.shared.config.search_timeout.0;
        let body = search::request(query, timeout)?;
        let path = format!("/{}*/_search", self.shared.config.index_prefix(config::Kind::Logs));
        let parameters = [
            ("ignore_unavailable", "true"),
            ("allow_no_indices", "true"),
            // Half of the documents would look like all of them.
            ("allow_partial_search_results", "false"),
        ];
        // The cluster gives up by itself; the margin is for the way there and back.
        let patience = Some(timeout + Duration::from_secs(5));
        let reply = self.shared.client.send(Method::Post, &path, &parameters, Payload::Json(body), patience).await?;
        search::page(query, &reply)
    }

    async fn held(&self, partition: &PartitionInfo, offsets: Range<u64>, list: usize) -> Result<Held, StoreError> {
        cluster::refresh(&self.shared.client, &self.shared.config).await?;
        let path = format!("/{}*/_search", self.shared.config.index_prefix(config::Kind::Logs));
        let parameters =
            [("ignore_unavailable", "true"), ("allow_no_indices", "true"), ("allow_partial_search_results", "false")];
        let days = self.shared.config.retention_days;
        let kept_from = days.map(|days| Day::of(wall_clock_ms()).minus(days).start_ms());
        let body = held::request(partition, &offsets, list, kept_from);
        let reply = self.shared.client.send(Method::Post, &path, &parameters, Payload::Json(body), None).await?;
        let mut held = held::answer(&offsets, list, &reply)?;
        held.has_retention = days.is_some();
        Ok(held)
    }

    fn metrics(&self, samples: &mut Samples) {
        let Counters { requests, bytes, stored, superseded, rejected, retried, failed_requests, split_requests } =
            self.counters();
        for (name, help, count) in [
            ("elasticsearch_requests", "Bulk requests sent", requests),
            ("elasticsearch_request_bytes", "Bytes of their bodies, as sent", bytes),
            ("elasticsearch_stored", "Documents stored", stored),
            ("elasticsearch_superseded", "Window documents in whose place a newer version stands", superseded),
            ("elasticsearch_rejected", "Documents refused for good", rejected),
            ("elasticsearch_retried", "Documents sent again", retried),
            ("elasticsearch_failed_requests", "Requests that failed as a whole", failed_requests),
            ("elasticsearch_split_requests", "Requests halved for being too large", split_requests),
        ] {
            samples.counter(name, help, &[], count.load(Ordering::Relaxed) as f64);
        }
    }

    async fn health(&self) -> Result<String, StoreError> {
        let version = self.ready.get().map(String::as_str);
        let found = cluster::health(&self.shared.client, &self.shared.config, version).await?;
        match self.delivery.problem() {
            Some(problem) => Err(StoreError::Unavailable(format!("{found}; {problem}"))),
            None => Ok(found),
        }
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let mut backoff = self.delivery.backoff();
        let mut tries = 1;
        loop {
            match cluster::refresh(&self.shared.client, &self.shared.config).await {
                Err(StoreError::Unavailable(_)) if tries < REFRESH_TRIES => tries += 1,
                result => return result,
            }
            backoff.wait().await;
        }
    }
}
