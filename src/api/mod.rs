//! The HTTP API: live reads from memory, searches from the store.
//!
//! In: requests on one address, loopback unless the configuration says otherwise. Out: JSON, or a problem document
//! (RFC 9457) for everything that goes wrong; never more of an error than its message.
//!
//! - [`config`]: the options. [`server`]: listening, and shutting down.
//! - [`guard`]: what is done for every request: limits, time, counting, and errors made into problems.
//!   [`origin`]: whom is answered.
//! - [`params`]: query parameters, all mistakes found at once. [`problem`]: problem documents.
//! - [`logs`]: `/logs`, `/logs/anomalies`, `/logs/stats`. [`views`]: `/views`. [`patterns`]: `/patterns`.
//!   [`alerts`]: `/alerts`, `/silences`. [`stream`]: `/stream`. [`status`]: `/`, `/health`,
//!   `/progress`, `/metrics`. [`audit`]: `/audit`. [`docs`]: `/openapi.json`, `/docs`.

mod alerts;
mod audit;
pub mod config;
mod docs;
mod guard;
mod health;
mod logs;
mod origin;
mod params;
mod patterns;
mod problem;
mod schema;
mod server;
mod status;
mod stream;
mod views;

use std::sync::Arc;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::alerts::Alerts;
use crate::live::LiveView;
use crate::live::progress::ProgressBoard;
use crate::metrics::Metrics;
use crate::stores::Store;

pub use audit::AuditAnswer;
pub use config::ApiConfig;
pub use health::Health;
pub use server::{ApiError, Server, serve};
use stream::Hub;

/// What the API answers from.
#[derive(Clone)]
pub struct ApiState {
    /// The live state.
    pub live: Arc<LiveView>,
    /// Alerts, if any are configured.
    pub alerts: Option<Alerts>,
    /// Where logs are searched.
    pub store: Arc<dyn Store>,
    /// Where the partitions stand.
    pub progress: Arc<ProgressBoard>,
    /// Counted into, and shown.
    pub metrics: Arc<Metrics>,
    /// What has to work for the process to be ready.
    pub health: Arc<Health>,
    /// What this process is, for `/`.
    pub info: Arc<ApiInfo>,
}

/// What this process is, in words.
#[derive(Clone, Debug, Default)]
pub struct ApiInfo {
    /// What it reads, in a few words.
    pub source: String,
    /// Workers in all processes.
    pub workers: usize,
    /// When it started, in milliseconds since the epoch.
    pub started_ms: u64,
}

#[derive(Clone)]
struct Context {
    state: ApiState,
    config: Arc<ApiConfig>,
    openapi: Arc<str>,
    hub: Arc<Hub>,
}

/// The API as a service without a listener, and its streams, which have to be told when it ends.
fn router(config: &ApiConfig, state: ApiState) -> (Router, Arc<Hub>) {
    let routes = OpenApiRouter::with_openapi(docs::document())
        .routes(routes!(status::root))
        .routes(routes!(status::health))
        .routes(routes!(status::alive))
        .routes(routes!(logs::search))
        .routes(routes!(logs::anomalies))
        .routes(routes!(logs::stats))
        .routes(routes!(views::list))
        .routes(routes!(views::windows))
        .routes(routes!(views::keys))
        .routes(routes!(views::history))
        .routes(routes!(patterns::list))
        .routes(routes!(patterns::one))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::history))
        .routes(routes!(alerts::silences, alerts::silence))
        .routes(routes!(alerts::unsilence))
        .routes(routes!(stream::stream))
        .routes(routes!(status::progress))
        .routes(routes!(audit::audit))
        .routes(routes!(audit::documents))
        .routes(routes!(status::metrics))
        .routes(routes!(docs::openapi));
    let (router, document) = routes.split_for_parts();
    let openapi = serde_json::to_string_pretty(&document).unwrap_or_default().into();
    let hub = Hub::new(state.live.clone(), state.alerts.clone(), config);
    let context = Context { state, config: Arc::new(config.clone()), openapi, hub: hub.clone() };
    (guard::layers(router.with_state(context.clone()).merge(docs::swagger()), &context), hub)
}
