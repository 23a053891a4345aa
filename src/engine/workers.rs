//! The timely workers of this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodmark_dataflows::checkpoint::Restored;
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::ingest::RecordPath;
use floodmark_dataflows::input::Feed;
use floodmark_dataflows::output::{LiveSink, RecordSink, WindowSink};
use parking_lot::Mutex;
use timely::{CommunicationConfig, WorkerConfig};

use super::EngineError;
use crate::config::ClusterConfig;

/// How long a worker parks when nothing wakes it.
const PARK: Duration = Duration::from_millis(100);
/// How often the source operator looks after marks and the sink while nothing comes in.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// The first port where processes on one host meet, if none are configured: timely's usual one.
const FIRST_PORT: usize = 2101;

/// What one worker runs with.
pub(super) struct WorkerParts<F, S, W, L> {
    pub feed: F,
    pub path: RecordPath<S>,
    pub windows: W,
    pub live: Option<L>,
}

/// Runs the dataflow on this process's workers until the input has ended everywhere. `parts` has one entry for each of
/// them. Returns the seconds it took.
pub(super) fn execute<F, S, W, L>(
    cluster: &ClusterConfig,
    computation: Computation,
    parts: Vec<WorkerParts<F, S, W, L>>,
) -> Result<f64, EngineError>
where
    F: Feed + Send + 'static,
    S: RecordSink + Send + 'static,
    W: WindowSink + Send + 'static,
    L: LiveSink + Send + 'static,
{
    let first = cluster.process * cluster.workers;
    let parts: Vec<_> = parts.into_iter().map(|parts| Mutex::new(Some(parts))).collect();
    let config = timely::Config { communication: communication(cluster), worker: WorkerConfig::default() };
    let start = Instant::now();
    let failed = Arc::new(AtomicBool::new(false));
    let guards = timely::execute(config, move |worker| {
        let Some(parts) = parts[worker.index() - first].lock().take() else { return };
        let _alarm = Alarm(failed.clone());
        let WorkerParts { feed, path, windows, live } = parts;
        let Dataflow { probe, source } =
            build(worker, &computation, feed, path, windows, live, Restored::default(), None::<Infallible>);
        let mut last_beat = Instant::now();
        while !probe.done() {
            worker.step_or_park(Some(PARK));
            if last_beat.elapsed() >= HEARTBEAT {
                last_beat = Instant::now();
                source.activate();
            }
            if failed.load(Ordering::SeqCst) {
                // The frontier will not move any more without the worker that panicked.
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
                return;
            }
        }
    });
    let guards = guards.map_err(|error| EngineError::Process(format!("cannot start the workers: {error}")))?;
    for (worker, result) in guards.join().into_iter().enumerate() {
        result.map_err(|message| EngineError::Worker { worker, message })?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Tells the other workers of the process when this one panics.
struct Alarm(Arc<AtomicBool>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

fn communication(cluster: &ClusterConfig) -> CommunicationConfig {
    let ClusterConfig { workers, processes, process, .. } = *cluster;
    if processes == 1 {
        return if workers == 1 { CommunicationConfig::Thread } else { CommunicationConfig::Process(workers) };
    }
    let addresses = if cluster.hosts.is_empty() {
        (0..processes).map(|process| format!("localhost:{}", FIRST_PORT + process)).collect()
    } else {
        cluster.hosts.clone()
    };
    CommunicationConfig::Cluster { threads: workers, process, addresses, report: false, zerocopy: false }
}
