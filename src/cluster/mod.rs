//! Several processes as one: how they find each other, what they say beside timely, and how they end together.
//!
//! In: a configuration with `cluster.processes` above 1. Out: a [`Cluster`], whose sockets timely computes over. All
//! processes start together, stop together, and end together: a process that is lost ends all others within about a
//! second, each with an error that names it, and what supervises them starts all of them again.
//!
//! - [`mod@config`]: the options.
//! - [`identity`]: what a process is, so that only those that go together meet.
//! - [`handshake`]: the proof that both ends of a connection know the secret.
//! - [`connect`]: the meeting at the start.
//! - [`link`]: control connections: heartbeats, stop, progress, the end.
//! - [`stream`]: data connections, as timely uses them.
//! - [`progress`]: where the partitions of other processes stand.
//!
//! On error: see [`ClusterError`]. After the handshake nothing is encrypted or signed: the network between the
//! processes has to be private.

mod config;
mod connect;
mod handshake;
mod identity;
mod link;
mod progress;
mod stream;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks};

pub use self::config::{ClusterConfig, paths_of_all};
pub use progress::share_progress;

use self::connect::Lines;
use self::identity::Identity;
use self::link::Links;
use self::stream::DataStream;
use crate::config::Config;

/// How much later than this process others may have all their connections.
const AFTER_ALL_CAME: Duration = Duration::from_secs(5);

/// Why the processes do not work together.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// They cannot, however often they are started: configurations, versions, secrets or numbers do not fit.
    #[error("cluster: {0}")]
    Usage(String),
    /// A port is in use, a process did not come, or one was lost.
    #[error("cluster: {0}")]
    Failed(String),
    /// The run was stopped before all had come.
    #[error("cluster: stopped before all processes had come")]
    Stopped,
}

/// The connections to all other processes. Clones are the same ones.
#[derive(Clone)]
pub struct Cluster {
    process: usize,
    links: Arc<Links>,
}

/// The connections that timely computes over, to be used once.
pub struct DataLines {
    process: usize,
    lines: Vec<Option<DataStream>>,
}

impl Cluster {
    /// Meets all other processes. `run` says in some form how this one was started, as far as all must be started alike;
    /// `stop` is asked now and then whether to give up. Blocks for `cluster.connect_timeout` at the most.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn connect(config: &Config, run: &str, stop: &dyn Fn() -> bool) -> Result<(Self, DataLines), ClusterError> {
        let cluster = &config.cluster;
        // Those that came last have a little longer to meet each other.
        let deadline = Instant::now() + cluster.connect_timeout.0 + AFTER_ALL_CAME;
        let secret = cluster.read_secret().map_err(ClusterError::Usage)?;
        let Lines { data, control } = connect::connect(cluster, Identity::new(config, run), secret, stop)?;
        let links = Links::start(control, &cluster.addresses(), cluster.peer_timeout.0)?;
        links.meet(deadline, stop)?;
        tracing::info!("process {} of {} is connected to all others", cluster.process, cluster.processes);
        let lines = data.into_iter().enumerate().map(|(peer, line)| Some(DataStream::new(line?, peer, links.clone())));
        let lines = DataLines { process: cluster.process, lines: lines.collect() };
        Ok((Self { process: cluster.process, links }, lines))
    }

    /// What process 0 decides, for all: `decide` is called there, and its result is what every process gets. The others
    /// wait for it as long as process 0 lives. To be called once.
    ///
    /// # Errors
    /// What `decide` fails with; or a peer was lost.
    pub fn share<E: From<ClusterError>>(&self, decide: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        if self.process == 0 {
            let decided = decide()?;
            self.links.give(decided.clone());
            return Ok(decided);
        }
        let given = self.links.given().map_err(ClusterError::Failed)?;
        Ok(given.to_vec())
    }

    /// Calls `hook` when another process wants all to stop.
    pub fn on_stop(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.links.on_stop(hook);
    }

    /// Calls `hook`, with the words to say, when another process is lost.
    pub fn on_lost(&self, hook: impl Fn(String) + Send + Sync + 'static) {
        self.links.on_lost(hook);
    }

    /// Asks all other processes to stop too.
    pub fn stop(&self) {
        self.links.stop();
    }

    /// Which process was lost, and why.
    pub fn lost(&self) -> Option<ClusterError> {
        self.links.lost().map(ClusterError::Failed)
    }

    /// Tells all others that this process's workers are through, so that closed data connections are no loss.
    pub fn done(&self) {
        self.links.done();
    }

    /// Tells all others that this process fails, and why: they end too.
    pub fn fail(&self, why: &str) {
        self.links.fail(why);
    }

    /// The end of the run on this process: well, then it waits until all others have ended well too; or not, then they
    /// are told why.
    ///
    /// # Errors
    /// [`ClusterError::Failed`]: another process was lost or failed.
    pub fn finish(&self, result: Result<(), &str>) -> Result<(), ClusterError> {
        self.links.finish(result).map_err(ClusterError::Failed)
    }

    /// How many other processes are there.
    pub fn connected(&self) -> usize {
        self.links.connected()
    }
}

impl DataLines {
    /// What timely's workers are made of, and what has to be kept until they have ended; dropped then, it waits until
    /// everything is sent and all others have closed their connections.
    ///
    /// # Errors
    /// [`ClusterError::Failed`]: the threads could not be started.
    pub fn into_allocators(self, workers: usize) -> Result<(Vec<AllocatorBuilder>, Box<dyn Any + Send>), ClusterError> {
        let hooks = Hooks::default();
        let local = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), hooks.spill.clone());
        let (builders, guard) = initialize_networking_from_sockets(local, self.lines, self.process, workers, hooks)
            .map_err(|error| ClusterError::Failed(format!("cannot start the threads of the connections: {error}")))?;
        Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
    }
}
