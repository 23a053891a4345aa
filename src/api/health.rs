//! What has to work for the process to be ready, and whether it does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use crate::stores::Store;

type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long answers are used again, so that whoever asks often does not load what is checked.
const ANSWER_LIFE: Duration = Duration::from_secs(1);

/// Checks by name: the store, the source, the workers.
#[derive(Default)]
pub struct Health {
    checks: Vec<(String, Arc<Check>)>,
    last: Mutex<Option<(Instant, Vec<CheckResult>)>>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CheckResult {
    /// What was checked.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// What it is, or what is wrong.
    pub detail: String,
}

impl Health {
    /// Adds a check. It answers in one line: `Ok` with what is there, `Err` with what is wrong.
    pub fn check<F>(mut self, name: &str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.checks.push((name.to_owned(), Arc::new(Box::new(move || Box::pin(check())))));
        self
    }

    /// Adds the check of a store.
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        self.check("store", move || {
            let store = store.clone();
            async move { store.health().await.map_err(|error| error.to_string()) }
        })
    }

    /// The results of all checks, at most a second old.
    pub async fn results(&self) -> Vec<CheckResult> {
        // Held while checking: those who ask at the same time wait for one answer instead of asking again.
        let mut last = self.last.lock().await;
        if let Some((at, results)) = &*last
            && at.elapsed() < ANSWER_LIFE
        {
            return results.clone();
        }
        let running: Vec<_> = self
            .checks
            .iter()
            .map(|(name, check)| {
                let (name, check) = (name.clone(), check.clone());
                (name, tokio::spawn(async move { timeout(CHECK_TIMEOUT, check()).await }))
            })
            .collect();
        let mut results = Vec::with_capacity(running.len());
        for (name, task) in running {
            let (ok, detail) = match task.await {
                Ok(Ok(Ok(detail))) => (true, detail),
                Ok(Ok(Err(detail))) => (false, detail),
                Ok(Err(_)) => (false, format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
                Err(_) => (false, "the check itself failed".into()),
            };
            results.push(CheckResult { name, ok, detail });
        }
        *last = Some((Instant::now(), results.clone()));
        results
    }
}
