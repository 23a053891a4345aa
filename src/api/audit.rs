//! `/audit`: what became of every offset, and what the store holds of them.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use floodmark_dataflows::input::PartitionInfo;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Context;
use super::params::Params;
use super::problem::{ParameterError, Problem, ProblemDocument};
use crate::audit::{Account, accounts};
use crate::stores::{Held, StoreError};

/// Offsets that are listed at the most.
const MAX_LIST: usize = 1_000;

/// What became of the offsets of the partitions of all processes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditAnswer {
    /// Every account balances.
    pub balanced: bool,
    /// Offsets that the source no longer had when they were to be read.
    pub lost: u64,
    /// Offsets read and not acknowledged by the store yet.
    pub pending: u64,
    /// By topic and number.
    pub partitions: Vec<Account>,
}

impl From<Vec<Account>> for AuditAnswer {
    fn from(partitions: Vec<Account>) -> Self {
        Self {
            balanced: partitions.iter().all(|account| account.balanced),
            lost: partitions.iter().map(|account| account.lost).sum(),
            pending: partitions.iter().map(|account| account.pending).sum(),
            partitions,
        }
    }
}

/// Which documents.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what is taken by name")]
pub struct DocumentsParams {
    /// The topic.
    topic: String,
    /// The topic's identity; if left out, that of the topic of this name that is read now.
    identity: Option<String>,
    /// The partition.
    partition: i32,
    /// The first offset.
    from: u64,
    /// The offset behind the last.
    to: u64,
}

/// What became of every offset of each partition: offsets = indexed + dead letters + dropped + lost + no record.
#[utoipa::path(
    get, path = "/audit", tag = "status",
    responses(
        (status = 200, body = AuditAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn audit(State(context): State<Context>, uri: Uri) -> Result<Json<AuditAnswer>, Problem> {
    Params::of(&uri).finish()?;
    Ok(Json(accounts(&context.state.progress.of_all_processes()).into()))
}

/// How many log documents the store holds of a range of offsets; with their offsets if the range is of 1,000 at the most.
#[utoipa::path(
    get, path = "/audit/documents", tag = "status", params(DocumentsParams),
    responses(
        (status = 200, body = Held),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 501, description = "This store cannot be asked", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn documents(State(context): State<Context>, uri: Uri) -> Result<Json<Held>, Problem> {
    let mut params = Params::of(&uri);
    let (topic, identity) = (params.text("topic"), params.text("identity"));
    let number = params.number("partition", i32::MIN..=i32::MAX);
    let (from, to) = (params.number("from", 0..=u64::MAX), params.number("to", 0..=u64::MAX));
    params.finish()?;
    let (Some(topic), Some(number), Some(from), Some(to)) = (topic, number, from, to) else {
        let detail = "expected topic, partition, from and to".to_owned();
        return Err(Problem::bad_parameters(vec![ParameterError { parameter: "query".into(), detail }]));
    };
    let identity = identity.unwrap_or_else(|| {
        // Of topics of that name the one that is read now.
        let now = context.state.progress.of_all_processes();
        let mut found = now.partitions.iter().filter(|(info, _)| *info.topic == *topic && info.number == number);
        let found = found.clone().find(|(_, state)| !state.progress.ended).or_else(|| found.next());
        found.map_or_else(|| topic.clone(), |(info, _)| info.identity.to_string())
    });
    let partition = PartitionInfo { topic: topic.into(), identity: identity.into(), number };
    let held = context.state.store.held(&partition, from..to, MAX_LIST).await;
    held.map(Json).map_err(|error| match error {
        StoreError::NotSearchable(detail) => Problem::new(StatusCode::NOT_IMPLEMENTED, detail),
        error => Problem::unavailable(error.to_string()),
    })
}
