//! The end of a run: what was handed out is stored.
//!
//! In: the writer and the alerts, once the workers are done. Out: when everything is stored, or why not. On error: a store
//! that is away is waited for, and what is waited for is said; once the run was asked to stop, no longer than
//! `store.stop_timeout`. What is not stored by then is in no checkpoint, so the next run reads it again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::EngineError;
use super::shutdown::Shutdown;
use crate::alerts::Alerts;
use crate::stores::Store;
use crate::stores::writer::Writer;
use crate::units::{ByteSize, Span};

/// How long to wait before saying what is waited for, and how long until it is said again.
const SAY_AFTER: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(15);
/// The store has this long to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the end waits for.
pub(super) struct Ending<'a> {
    pub writer: &'a Writer,
    pub alerts: Option<&'a Alerts>,
    pub store: &'a Arc<dyn Store>,
    pub shutdown: &'a Shutdown,
    pub stop_timeout: Span,
}

impl Ending<'_> {
    /// Waits until everything is stored.
    ///
    /// # Errors
    /// The store failed for good, or did not take it in time.
    pub async fn wait(&self) -> Result<(), EngineError> {
        let stored = async {
            self.writer.drain().await.map_err(EngineError::Store)?;
            if let Some(alerts) = self.alerts {
                if !self.shutdown.is_triggered() {
                    alerts.end();
                }
                alerts.drain().await;
            }
            Ok(())
        };
        let given_up = async {
            self.shutdown.triggered().await;
            tokio::time::sleep(self.stop_timeout.0).await;
        };
        tokio::select! {
            done = stored => done,
            () = given_up => Err(EngineError::Process(format!(
                "stopped without {}, which the store did not take within store.stop_timeout ({}); what is in no checkpoint is \
                 read again by the next run",
                self.rest(),
                self.stop_timeout
            ))),
            never = self.say() => match never {},
        }
    }

    /// Says again and again what is waited for.
    async fn say(&self) -> Infallible {
        tokio::time::sleep(SAY_AFTER).await;
        loop {
            let asked = tokio::time::timeout(PATIENCE, self.store.health()).await;
            let health = match asked {
                Ok(Ok(health)) => health,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            let rest = self.rest();
            match self.shutdown.is_triggered() {
                true => tracing::warn!(
                    %health, limit = %self.stop_timeout,
                    "stopping waits for the store to take {rest}; a second signal ends at once, and the next run reads it again"
                ),
                false => tracing::warn!(%health, "the end waits for the store to take {rest}"),
            }
            tokio::time::sleep(SAY_EVERY).await;
        }
    }

    /// What is not stored.
    fn rest(&self) -> String {
        let stats = self.writer.stats();
        let batches = stats.batches_waiting.load(Ordering::Relaxed) + stats.batches_in_flight.load(Ordering::Relaxed);
        let bytes = ByteSize(stats.queue_bytes.load(Ordering::Relaxed) as u64);
        let windows = stats.windows_waiting.load(Ordering::Relaxed);
        let spooled = self.writer.spool().filter(|spool| spool.bytes > 0);
        let spooled = spooled.map(|spool| format!(", {} in the spool", ByteSize(spool.bytes))).unwrap_or_default();
        let alerts = self.alerts.map_or(0, Alerts::unstored);
        format!(
            "{batches} batches of log documents ({bytes} in memory{spooled}), {windows} windows and {alerts} alerts"
        )
    }
}
