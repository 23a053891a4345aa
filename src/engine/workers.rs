//! The timely workers of this process.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use floodmark_dataflows::alerts::AlertSink;
use floodmark_dataflows::checkpoint::{CheckpointSink, Restored};
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::ingest::RecordPath;
use floodmark_dataflows::input::Feed;
use floodmark_dataflows::output::{LiveSink, RecordSink, WindowSink};
use parking_lot::Mutex;
use timely::communication::WorkerGuards;
use timely::execute::execute_from;
use timely::{CommunicationConfig, WorkerConfig};

use super::EngineError;
use super::shutdown::Shutdown;
use crate::checkpoint::Checkpoints;
use crate::cluster::{Cluster, ClusterConfig, DataLines};

/// How long a worker parks when nothing wakes it.
const PARK: Duration = Duration::from_millis(100);
/// How long it parks while a checkpoint is made, so that the time of a step is that of its work.
const SHORT_PARK: Duration = Duration::from_millis(1);
/// How often the source operator looks after marks and the sink while nothing comes in.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// How often to see whether another process was lost.
const LOOK: Duration = Duration::from_millis(20);

/// What one worker runs with.
pub(super) struct WorkerParts<F, S, W, L, A, C> {
    pub feed: F,
    pub path: RecordPath<S>,
    pub windows: W,
    pub live: Option<L>,
    pub alerts: Option<A>,
    pub restored: Restored,
    pub checkpoints: Option<C>,
}

/// How a run with checkpoints ends early: with what is stored, and without the end of the input, since the next run goes
/// on from there.
#[derive(Clone)]
pub(super) struct Stop {
    pub shutdown: Shutdown,
    pub checkpoints: Checkpoints,
}

/// The other processes, and the connections to them.
pub(super) type Peers = (Cluster, DataLines);

/// Runs the dataflow on this process's workers until the input has ended everywhere. `parts` has one entry for each of
/// them. Returns the seconds it took. When another process is lost, the workers are left to themselves: they may hang.
pub(super) fn execute<F, S, W, L, A, C>(
    cluster: &ClusterConfig,
    peers: Option<Peers>,
    computation: Computation,
    parts: Vec<WorkerParts<F, S, W, L, A, C>>,
    early: Option<Stop>,
) -> Result<f64, EngineError>
where
    F: Feed + Send + 'static,
    S: RecordSink + Send + 'static,
    W: WindowSink + Send + 'static,
    L: LiveSink + Send + 'static,
    A: AlertSink + Send + 'static,
    C: CheckpointSink + Send + 'static,
{
    let first = cluster.process * cluster.workers;
    let parts: Vec<_> = parts.into_iter().map(|parts| Mutex::new(Some(parts))).collect();
    let cannot_start = |error| EngineError::Process(format!("cannot start the workers: {error}"));
    let (peers, (builders, connections)) = match peers {
        Some((peers, lines)) => (Some(peers), lines.into_allocators(cluster.workers)?),
        None if cluster.workers == 1 => (None, CommunicationConfig::Thread.try_build().map_err(cannot_start)?),
        None => (None, CommunicationConfig::Process(cluster.workers).try_build().map_err(cannot_start)?),
    };
    let start = Instant::now();
    let failed = Arc::new(AtomicBool::new(false));
    let stop = failed.clone();
    let guards = execute_from(builders, Box::new(()), WorkerConfig::default(), move |worker| {
        let Some(parts) = parts[worker.index() - first].lock().take() else { return };
        let _alarm = Alarm(failed.clone());
        let WorkerParts { feed, path, windows, live, alerts, restored, checkpoints } = parts;
        let Dataflow { probe, source } =
            build(worker, &computation, feed, path, windows, live, alerts, restored, checkpoints);
        let mut last_beat = Instant::now();
        while !probe.done() {
            match &early {
                Some(Stop { checkpoints, .. }) if checkpoints.is_under_way() => {
                    let started = Instant::now();
                    worker.step_or_park(Some(SHORT_PARK));
                    checkpoints.note_step(started.elapsed());
                }
                _ => drop(worker.step_or_park(Some(PARK))),
            }
            if last_beat.elapsed() >= HEARTBEAT {
                last_beat = Instant::now();
                source.activate();
            }
            let stops = early.as_ref().is_some_and(|early| early.shutdown.is_triggered());
            if stops || failed.load(Ordering::SeqCst) {
                // The frontier will not move any more without the worker that panicked.
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
                return;
            }
        }
    });
    let guards = guards.map_err(cannot_start)?;
    let results = match peers {
        None => guards.join(),
        Some(peers) => {
            join_with_peers(peers, guards, connections).inspect_err(|_| stop.store(true, Ordering::SeqCst))?
        }
    };
    for (worker, result) in results.into_iter().enumerate() {
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

/// Waits for the workers, and until everything is sent and received; or for the loss of another process.
fn join_with_peers(
    peers: Cluster,
    guards: WorkerGuards<()>,
    connections: Box<dyn Any + Send>,
) -> Result<Vec<Result<(), String>>, EngineError> {
    let (sender, ended) = channel();
    let joining = peers.clone();
    let join = move || {
        let results = guards.join();
        if results.iter().all(Result::is_ok) && joining.lost().is_none() {
            joining.done();
            drop(connections);
        } else {
            // Its threads wait for a proper end of what has none.
            std::mem::forget(connections);
        }
        let _ = sender.send(results);
    };
    let spawned = std::thread::Builder::new().name("workers:join".to_owned()).spawn(join);
    spawned.map_err(|error| EngineError::Process(format!("cannot start a thread: {error}")))?;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(results) => return Ok(results),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(EngineError::Process("the connections to other processes broke down".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(lost) = peers.lost() {
                    return Err(lost.into());
                }
            }
        }
    }
}
