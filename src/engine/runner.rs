//! One run, from start to flush.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::alerts::config::Alert;
use floodmark_dataflows::checkpoint::Restored;
use floodmark_dataflows::dataflow::Computation;
use floodmark_dataflows::decode::RecordsConfig;
use floodmark_dataflows::ingest::RecordPath;
use floodmark_dataflows::patterns::Cutter;
use floodmark_dataflows::time::Tick;
use floodmark_dataflows::view::View;
use floodmark_dataflows::windows::Publish;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::compile::{Compiled, compile, read_as};
use super::ending::Ending;
use super::housekeeping::Housekeeping;
use super::observe::{self, Gathered, Observed, RunCounts};
use super::parts::{Begin, WithSource, open_store, with_source};
use super::resume::{Decided, Resumed, begin_without_checkpoints, lock_data};
use super::shutdown::Stoppable;
use super::workers::{Peers, Stop, WorkerParts, execute};
use super::{EngineError, Replay, ReplayTarget, RunOptions, RunReport};
use crate::alerts::Alerts;
use crate::alerts::config::AlertsConfig;
use crate::api::{ApiInfo, ApiState, Health, Server, serve};
use crate::audit;
use crate::checkpoint::marks::Marked;
use crate::checkpoint::starts::{Reading, Start, StartNumber};
use crate::checkpoint::{self, CheckpointError, Checkpoints};
use crate::cluster::{Cluster, ClusterError, share_progress};
use crate::config::{Config, SourceChoice};
use crate::dead_letters::{DeadLetterQueue, DeadLettersConfig, Place};
use crate::live::LiveView;
use crate::live::progress::ProgressBoard;
use crate::metrics::Metrics;
use crate::sources::kafka::StartAt;
use crate::sources::redrive::{Known, Recorded, Wanted, WithRedrives};
use crate::sources::{Source, WorkerPlace, wall_clock_ms};
use crate::stores::Store;
use crate::stores::version::Versions;
use crate::stores::writer::{SpoolState, WindowIds, Writer};
use crate::units::ByteSize;

/// Threads for the store, the API and housekeeping. The work is in the workers.
const RUNTIME_THREADS: usize = 2;
/// Dead letters have this long to be written at the end of a run.
const DEAD_LETTER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) fn run(config: &Config, mut options: RunOptions) -> Result<RunReport, EngineError> {
    if !config.cluster.is_shared() {
        return run_process(config, options, None);
    }
    // All must read the same in the same way.
    let range = options.replay.as_ref().map(|replay| (&replay.from, &replay.to));
    let how = format!("{:?}", (options.until_end, options.bare, options.fresh, range));
    let stopped = options.shutdown.clone();
    let (cluster, lines) = match Cluster::connect(config, &how, &|| stopped.is_triggered()) {
        Ok(met) => met,
        Err(ClusterError::Stopped) => return Ok(RunReport::default()),
        // Another one, told to stop too, was gone before this one came to it.
        Err(ClusterError::Failed(_)) if stopped.is_triggered() => return Ok(RunReport::default()),
        Err(error) => return Err(error.into()),
    };
    let asking = cluster.clone();
    options.shutdown.on_trigger(move || asking.stop());
    cluster.on_stop(move || stopped.trigger());
    if let Some(on_lost) = options.on_lost.take() {
        cluster.on_lost(on_lost);
    }
    let shutdown = options.shutdown.clone();
    let result = run_process(config, options, Some((cluster.clone(), lines)));
    let why = result.as_ref().err().map(ToString::to_string);
    let ended = cluster.finish(why.as_deref().map_or(Ok(()), Err));
    let has_stopped = |error: &EngineError| error.to_string().ends_with(&ClusterError::Stopped.to_string());
    match result {
        // All were told to stop, and another one was so before all had come.
        Err(error) if shutdown.is_triggered() && has_stopped(&error) => Ok(RunReport::default()),
        result => result.and_then(|report| ended.map(|()| report).map_err(EngineError::from)),
    }
}

fn run_process(config: &Config, mut options: RunOptions, peers: Option<Peers>) -> Result<RunReport, EngineError> {
    let mut compiled = compile(config).map_err(|mistakes| {
        let texts: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        EngineError::Usage(texts.join("; "))
    })?;
    let _lock = (!options.bare && options.replay.is_none()).then(|| lock_data(config)).transpose()?;
    compiled.clock.arrived_by_ms = (!options.bare).then(wall_clock_ms);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("floodmark-io")
        .enable_all()
        .build()
        .map_err(|error| EngineError::Process(format!("cannot start the threads for input and output: {error}")))?;
    let result = {
        let _entered = runtime.enter();
        let others = peers.as_ref().map(|(cluster, _)| cluster.clone());
        let resumed = Resumed::find(config, &options, &compiled, &runtime, |choose| decide(others.as_ref(), choose))?;
        let (generation, start, term) = match &resumed {
            Some(resumed) => (resumed.line.manifest.generation, resumed.start, resumed.term),
            None if options.bare || options.replay.is_some() => (0, Start::default(), 0),
            None => {
                let begin = || begin_without_checkpoints(config, &runtime);
                let Decided { from, start, term } = decide(others.as_ref(), begin)?;
                (from, Start { number: start, records: config.records_hash() }, term)
            }
        };
        if term > 0 {
            tracing::info!(term, generation, "this start");
        }
        let redrives = Redrives::of(config, &options, resumed.as_ref(), generation, start)?;
        let positions = resumed.as_ref().map(|resumed| resumed.positions.clone()).unwrap_or_default();
        let origin_ms = resumed.as_ref().map_or_else(wall_clock_ms, |resumed| resumed.line.manifest.origin_ms);
        let begin = Begin { positions, origin_ms };
        let goes_on = resumed.as_ref().is_some_and(|resumed| resumed.restored.at > 0);
        let store = runtime.block_on(open_store(config, options.replay.as_ref(), goes_on))?;
        let dead_letters = open_dead_letters(config, options.replay.as_ref(), start.number, store.clone())?;
        let on_ready = options.on_ready.take();
        let runtime = &runtime;
        let parts = Parts {
            config,
            options: &options,
            compiled,
            runtime,
            store,
            dead_letters,
            peers,
            resumed,
            generation,
            versions: Versions::new(term, config.time.tick.as_millis()),
            redrives,
        };
        with_source(config, &options, begin, Run { parts, on_ready })
    };
    // What is left there are connections that nothing waits for any more.
    runtime.shutdown_background();
    result
}

fn open_dead_letters(
    config: &Config,
    replay: Option<&Replay>,
    start: StartNumber,
    store: Arc<dyn Store>,
) -> Result<Arc<DeadLetterQueue>, EngineError> {
    // Those of a replay go where its documents go, not among those of the live run.
    let place = |to, file: &Path| {
        let file = config.cluster.own_path(file);
        DeadLettersConfig { to, file, ..config.dead_letters.clone() }
    };
    let usual = DeadLettersConfig::default().file;
    let opened = match replay.map(|replay| &replay.target) {
        None => place(config.dead_letters.to, &config.dead_letters.file).start(&config.data_dir, start, store),
        Some(ReplayTarget::Directory(directory)) => place(Place::File, &usual).start(directory, start, store),
        Some(ReplayTarget::Prefix(_)) => place(Place::Index, &usual).start(&config.data_dir, start, store),
    };
    opened.map_err(|error| EngineError::Process(format!("dead letters: {error}")))
}

/// What a run is made of, but for the source.
struct Parts<'a> {
    config: &'a Config,
    options: &'a RunOptions,
    compiled: Compiled,
    runtime: &'a Runtime,
    store: Arc<dyn Store>,
    dead_letters: Arc<DeadLetterQueue>,
    peers: Option<Peers>,
    resumed: Option<Resumed>,
    generation: u64,
    versions: Versions,
    redrives: Redrives,
}

/// Which redrives are taken in.
struct Redrives {
    /// `None` for none at all.
    recorded: Option<Recorded>,
    wanted: Wanted,
    known: Known,
}

impl Redrives {
    fn of(
        config: &Config,
        options: &RunOptions,
        resumed: Option<&Resumed>,
        generation: u64,
        start: Start,
    ) -> Result<Self, EngineError> {
        let recorded = (!options.bare).then(|| Recorded::open(config)).transpose().map_err(CheckpointError::from)?;
        let begins_anew = resumed.is_none_or(|resumed| resumed.restored.at == 0);
        let wanted = match options.replay {
            Some(_) => Wanted::Covered,
            None => Wanted::Since { generation, all: begins_anew && reads_from_the_beginning(config) },
        };
        let (positions, starts) =
            resumed.map(|resumed| (resumed.redrives.clone(), resumed.starts.clone())).unwrap_or_default();
        Ok(Self { recorded, wanted, known: Known { positions, starts, start } })
    }
}

/// Whether a run that begins anew reads all that the source has.
fn reads_from_the_beginning(config: &Config) -> bool {
    match config.source.chosen() {
        Ok(SourceChoice::Kafka(kafka)) => kafka.start == StartAt::Earliest,
        Ok(SourceChoice::Files(_) | SourceChoice::Generator(_)) => true,
        Err(_) => false,
    }
}

/// Whether the source has an end also in a live run.
fn ends_by_itself(config: &Config) -> bool {
    match config.source.chosen() {
        Ok(SourceChoice::Generator(generator)) => generator.count > 0,
        Ok(SourceChoice::Files(files)) => !files.follow,
        Ok(SourceChoice::Kafka(_)) | Err(_) => false,
    }
}

struct Run<'a> {
    parts: Parts<'a>,
    on_ready: Option<Box<dyn FnOnce(std::net::SocketAddr) + Send>>,
}

impl WithSource for Run<'_> {
    type Output = Result<RunReport, EngineError>;

    fn with<S: Source>(self, source: S) -> Self::Output {
        let Run { parts, on_ready } = self;
        let Parts {
            config,
            options,
            compiled,
            runtime,
            store,
            dead_letters,
            peers: met,
            resumed,
            generation,
            versions,
            redrives,
        } = parts;
        let others = met.as_ref().map(|(cluster, _)| cluster.clone());
        let is_live = options.is_live();
        let source = {
            let Redrives { recorded, wanted, known } = redrives;
            let of_run = config.clone();
            let read_as =
                Box::new(move |records: Option<&RecordsConfig>| read_as(&of_run, records.unwrap_or(&of_run.records)));
            let has_end = !is_live || ends_by_itself(config);
            Arc::new(WithRedrives::new(Arc::new(source), recorded, wanted, known, has_end, read_as))
        };
        let options_of_writer = config.store.writer_options(&config.data_dir, config.cluster.process, is_live);
        let writer = Writer::start(store.clone(), dead_letters.clone(), options_of_writer, runtime.handle())
            .map_err(|error| EngineError::Process(format!("cannot prepare the directory of the spool: {error}")))?;
        let board = Arc::new(ProgressBoard::default());
        if let (Some(Resumed { restored, .. }), 0) = (&resumed, config.cluster.process) {
            board.restore(restored);
        }
        let counts = Arc::new(RunCounts::default());
        let views: Vec<View> = compiled.views.iter().map(|view| View::clone(view)).collect();
        let serves = config.api.enabled && !options.bare && options.replay.is_none();
        let live = (serves || options.keeps_live)
            .then(|| Arc::new(LiveView::new(views, compiled.clock.tick_ms, compiled.service_view)));

        let first_of_cluster = config.cluster.process == 0;
        if let (Some(live), Some(Resumed { restored, live: rows, .. })) = (&live, &resumed) {
            live.restore(restored, rows, first_of_cluster);
        }

        let served = Arc::new(Notify::new());
        let metrics = Arc::new(Metrics::default());
        metrics.watch_progress(board.clone(), compiled.clock.tick_ms);
        observe::watch(&metrics, counts.clone(), writer.clone(), dead_letters.clone(), store.clone());

        let continues = resumed.as_ref().and_then(|resumed| resumed.continues);
        let lineage = Lineage { generation, versions, continues };
        let alerts = alerts(config, options, &compiled.alerts, lineage, store.clone(), runtime)?;
        if let Some(alerts) = &alerts {
            let alerts = alerts.clone();
            metrics.collect(move |samples| alerts.collect(samples));
        }

        let (checkpoints, restored, recorder) = match resumed {
            Some(Resumed { store, line, restored, start, starts, begun, .. }) => {
                let checkpoints = Checkpoints::new(checkpoint::commit::Parts {
                    store,
                    config: config.checkpoint.clone(),
                    runtime: runtime.handle().clone(),
                    writer: writer.clone(),
                    alerts: alerts.clone(),
                    board: board.clone(),
                    live: live.clone().filter(|_| first_of_cluster),
                    line,
                    process: config.cluster.process,
                    reading: Reading::new(start, starts, begun),
                });
                let (stats, recorder) = (checkpoints.stats().clone(), checkpoints.recorder());
                metrics.collect(move |samples| stats.collect(samples));
                (Some(checkpoints), restored, Some(recorder))
            }
            None => (None, Restored::default(), None),
        };

        let server = match &live {
            Some(live) if serves => {
                metrics.watch_live(live.clone());
                let (audited, accepted) = (board.clone(), config.audit.clone());
                let audit = move || std::future::ready(audit::check(&audited, &accepted));
                let of_redrives = source.clone();
                let redrives = move || std::future::ready(of_redrives.redrives_health());
                let state = ApiState {
                    live: live.clone(),
                    alerts: alerts.clone(),
                    store: store.clone(),
                    progress: board.clone(),
                    metrics: metrics.clone(),
                    health: Arc::new(
                        health(&store, &source, &dead_letters, &writer, others.clone(), checkpoints.clone())
                            .check("audit", audit)
                            .check("redrives", redrives),
                    ),
                    info: Arc::new(info(config, runtime, &*source)),
                };
                let stop = served.clone();
                let server = runtime.block_on(serve(&config.own_api(), state, async move { stop.notified().await }))?;
                if let Some(on_ready) = on_ready {
                    on_ready(server.address);
                }
                Some(server)
            }
            _ => None,
        };

        let publish = match is_live {
            true => Publish::Live { open_every_ms: config.publish.every.as_millis() },
            false => Publish::Final,
        };
        let cluster = &config.cluster;
        let live_workers = match live {
            Some(_) => (0..cluster.processes).map(|process| process * cluster.workers).collect(),
            None => Vec::new(),
        };
        let ids = WindowIds::new(&config.view, versions);
        let peers = cluster.processes * cluster.workers;
        let mut parts = Vec::with_capacity(cluster.workers);
        for worker in 0..cluster.workers {
            let place = WorkerPlace { index: cluster.process * cluster.workers + worker, peers };
            let sink = Observed {
                sink: writer.records(compiled.rules.clone()),
                worker: place.index,
                board: board.clone(),
                counts: counts.clone(),
                metrics: metrics.clone(),
                writer: writer.clone(),
                shutdown: options.shutdown.clone(),
                gathered: Gathered::default(),
            };
            parts.push(WorkerParts {
                feed: Stoppable {
                    feed: Marked::new(source.feed(place)?, recorder.clone()),
                    shutdown: options.shutdown.clone(),
                    writer: writer.clone(),
                    dead_letters: dead_letters.clone(),
                    stops_short: checkpoints.is_some(),
                },
                path: RecordPath {
                    decoder: compiled.decoder.clone(),
                    rules: compiled.rules.clone(),
                    cutter: config.patterns.enabled.then(Cutter::default),
                    sink,
                },
                windows: writer.windows(ids.clone()),
                live: live.as_ref().filter(|_| worker == 0).map(|live| live.writer()),
                alerts: alerts.as_ref().filter(|_| worker == 0).map(Alerts::taker),
                restored: restored.clone(),
                checkpoints: checkpoints.as_ref().map(|checkpoints| checkpoints.sink(place.index)),
            });
        }
        drop((restored, recorder));
        runtime.block_on(source.take_recorded()).map_err(CheckpointError::from)?;

        let housekeeping = Housekeeping {
            source: source.clone(),
            writer: writer.clone(),
            board,
            shutdown: options.shutdown.clone(),
            tick_ms: compiled.clock.tick_ms,
            checkpoints: checkpoints.clone(),
        };
        let stop = checkpoints.clone().map(|checkpoints| Stop { shutdown: options.shutdown.clone(), checkpoints });
        if let Some(others) = &others {
            runtime.spawn(share_progress(others, housekeeping.board.clone()));
        }
        let keeping = runtime.spawn(housekeeping.clone().run());
        let watching = is_live.then(|| runtime.spawn((*source).clone().watch()));
        let Compiled { views, alerts: watched, clock, .. } = compiled;
        let max_patterns = config.patterns.enabled.then_some(config.patterns.max_patterns);
        let computation = Computation { views, alerts: watched, clock, publish, max_patterns, live_workers };
        let computed = execute(cluster, met, computation, parts, stop);
        keeping.abort();
        if let Some(watching) = watching {
            watching.abort();
        }
        let finished = computed.and_then(|seconds| {
            let ending = Ending {
                writer: &writer,
                alerts: alerts.as_ref(),
                store: &store,
                shutdown: &options.shutdown,
                stop_timeout: config.store.stop_timeout,
            };
            runtime.block_on(ending.wait())?;
            dead_letters
                .drain(DEAD_LETTER_PATIENCE)
                .map_err(|error| EngineError::Process(format!("dead letters: {error}")))?;
            runtime.block_on(housekeeping.commit_at_end());
            if let Some(failure) = source.failure() {
                return Err(EngineError::Process(format!("source: {failure}")));
            }
            match checkpoints.and_then(|checkpoints| checkpoints.failure()) {
                Some(failure) => Err(EngineError::Process(format!("checkpoints: {failure}"))),
                None => Ok(seconds),
            }
        });
        // Kept by the permit if the server is not waiting yet.
        served.notify_one();
        if let Some(server) = server
            && others.is_none_or(|others| others.lost().is_none())
        {
            runtime.block_on(Server::finished(server));
        }
        let stats = writer.stats();
        finished.map(|seconds| RunReport {
            counts,
            documents: stats.documents.load(Ordering::Relaxed),
            windows: stats.windows.load(Ordering::Relaxed),
            seconds,
            alerts: alerts.filter(|_| options.replay.is_some()).map(|alerts| of_replay(&alerts)).unwrap_or_default(),
        })
    }
}

/// The alerts of a replay, in order of their beginnings.
fn of_replay(alerts: &Alerts) -> Vec<AlertDocument> {
    let (_, mut alerts) = alerts.list(|_| true);
    alerts.reverse();
    alerts
}

/// Where a run stands among others.
struct Lineage {
    generation: u64,
    versions: Versions,
    /// The tick that it goes on from.
    continues: Option<Tick>,
}

/// What takes alerts, where there are or were any.
fn alerts(
    config: &Config,
    options: &RunOptions,
    computed: &[Arc<Alert>],
    lineage: Lineage,
    store: Arc<dyn Store>,
    runtime: &Runtime,
) -> Result<Option<Alerts>, EngineError> {
    let process = config.cluster.process;
    let is_apart = options.bare || options.replay.is_some();
    let directory = (!is_apart).then(|| config.data_dir.join("outbox").join(process.to_string()));
    // Alerts that are configured no more may be open.
    if config.alert.is_empty() && !directory.as_ref().is_some_and(|directory| directory.exists()) {
        return Ok(None);
    }
    // A replay gives all of its alerts at its end.
    let keep = options.replay.as_ref().map_or(config.alerts.keep, |_| usize::MAX);
    let parts = crate::alerts::Parts {
        config: AlertsConfig { keep, ..config.alerts.clone() },
        alerts: config.alert.clone(),
        routes: config.route.clone(),
        public_url: config.api.public_url.clone(),
        directory,
        speaks: process == 0,
        generation: lineage.generation,
        versions: lineage.versions,
        tick_ms: config.time.tick.as_millis(),
        resumed_at: lineage.continues,
        is_live: options.is_live(),
        computed: computed.to_vec(),
    };
    let started = Alerts::start(parts, store, runtime.handle());
    started.map(Some).map_err(|error| EngineError::Process(format!("cannot prepare the outbox of alerts: {error}")))
}

/// What process 0 decides.
fn decide(
    others: Option<&Cluster>,
    decide: impl FnOnce() -> Result<Decided, EngineError>,
) -> Result<Decided, EngineError> {
    let Some(others) = others else { return decide() };
    let told = others
        .share(|| decide().map(|Decided { from, start, term }| [from, start, term].map(u64::to_be_bytes).concat()))?;
    match told.as_chunks() {
        ([from, start, term], []) => {
            let [from, start, term] = [from, start, term].map(|number| u64::from_be_bytes(*number));
            Ok(Decided { from, start, term })
        }
        _ => Err(EngineError::Process("process 0 did not send what it goes on from".to_owned())),
    }
}

fn info(config: &Config, runtime: &Runtime, source: &impl Source) -> ApiInfo {
    ApiInfo {
        source: runtime.block_on(source.health()).unwrap_or_else(|error| error.to_string()),
        workers: config.cluster.workers * config.cluster.processes,
        started_ms: wall_clock_ms(),
    }
}

fn health<S: Source>(
    store: &Arc<dyn Store>,
    source: &Arc<S>,
    dead_letters: &Arc<DeadLetterQueue>,
    writer: &Writer,
    others: Option<Cluster>,
    checkpoints: Option<Checkpoints>,
) -> Health {
    let (store, source) = (store.clone(), source.clone());
    let (dead_letters, writer) = (dead_letters.clone(), writer.clone());
    let health = Health::default()
        .check("store", move || {
            let store = store.clone();
            async move { store.health().await.map_err(|error| error.to_string()) }
        })
        .check("source", move || {
            let source = source.clone();
            async move { source.health().await.map_err(|error| error.to_string()) }
        })
        .check("dead letters", move || std::future::ready(dead_letters.health()))
        .check("spool", {
            let writer = writer.clone();
            move || std::future::ready(spool_health(&writer))
        })
        .check("writer", move || {
            std::future::ready(match writer.failed() {
                Some(error) => Err(error.to_string()),
                None => Ok("storing".to_owned()),
            })
        });
    let health = match checkpoints {
        Some(checkpoints) => health.check("checkpoints", move || std::future::ready(checkpoints.health())),
        None => health,
    };
    let Some(others) = others else { return health };
    health.check("cluster", move || {
        std::future::ready(match others.lost() {
            Some(lost) => Err(lost.to_string()),
            None => Ok(format!("connected to {} other processes", others.connected())),
        })
    })
}

/// What waits on disk is no harm; a spool that is full stops the reading, and one that cannot be written will.
fn spool_health(writer: &Writer) -> Result<String, String> {
    let Some(SpoolState { bytes, limit_bytes, problem }) = writer.spool() else { return Ok("off".to_owned()) };
    let (held, limit) = (ByteSize(bytes), ByteSize(limit_bytes));
    match problem {
        Some(problem) => Err(problem),
        // A batch no longer fits.
        None if limit_bytes - bytes < 1 << 20 => Err(format!(
            "{held} of {limit}: full, reading waits for the store; bring the store back, or raise store.spool.max"
        )),
        None => Ok(format!("{held} of {limit}")),
    }
}
