//! Listening, and shutting down.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ApiConfig, ApiState, router};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The options cannot work. Fatal.
    #[error("{0}")]
    Configuration(String),
    /// The address cannot be listened on. Fatal.
    #[error("cannot listen on {address}; choose another with api.listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A running API.
#[derive(Debug)]
pub struct Server {
    /// Where it listens; with the port that was chosen where the configuration says 0.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Returns when the shutdown is complete.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the API ended early");
        }
    }
}

/// Serves the API until `shutdown` completes: then it accepts nothing more, ends the streams, lets open requests finish within
/// `shutdown_timeout`, and ends. Returns once it listens.
pub async fn serve(
    config: &ApiConfig,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Server, ApiError> {
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        return Err(ApiError::Configuration(mistakes.join("; ")));
    }
    let bind_error = |source| ApiError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind_error)?;
    let address = listener.local_addr().map_err(bind_error)?;
    let (router, streams) = router(config, state);
    let patience = config.shutdown_timeout.0;
    let task = tokio::spawn(async move {
        let (stopping, stopped) = oneshot::channel();
        let served = axum::serve(listener, router).with_graceful_shutdown(async move {
            shutdown.await;
            streams.close();
            // The receiver is gone only when serving has ended already.
            let _ = stopping.send(());
        });
        let cut_off = async {
            if stopped.await.is_ok() {
                tokio::time::sleep(patience).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            result = served.into_future() => if let Err(error) = result {
                tracing::error!(%error, "the API stopped listening");
            },
            () = cut_off => tracing::warn!("requests still open at shutdown were cut off"),
        }
    });
    tracing::info!(%address, "the API listens");
    Ok(Server { address, task })
}
