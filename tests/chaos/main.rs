//! Chaos: random plans on the real binary, checked against a naive reference.
//!
//! A plan is drawn from a seed: an input with everything in it that producers do wrong, a configuration, and a sequence
//! of starts with different numbers of workers and processes that are killed, stopped, cut off from their store and
//! started again. In the end the log documents, windows with their scores, alerts, counts of patterns and dead letters are
//! compared with those of the reference, which works from the raw input and knows nothing of the dataflow.
//!
//! ```text
//! make chaos                       500 plans on embedded parts
//! make chaos SEED=17               one plan again
//! cargo test --test chaos -- --seed 17 [--services] [--keep]
//! cargo test --test chaos -- --plans 100 [--from 1000] [--jobs 2]
//! ```
//!
//! A plan that fails prints its seed, itself and the first differences, and its folder is kept. `cargo test` runs two
//! dozen plans on embedded parts, and four on a real Kafka and a real Elasticsearch where the environment names them.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod alerts;
mod draw;
mod input;
mod live;
#[path = "../support/naive/mod.rs"]
mod naive;
mod plan;
mod process;
mod run;
mod services;
mod source;
mod store;
// Some of it is for the other tests.
#[allow(dead_code)]
#[path = "../support/stub_elasticsearch.rs"]
mod stub_elasticsearch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use plan::{Parts, Plan};
use tokio::runtime::Runtime;

/// Plans that `cargo test` runs.
const EMBEDDED: u64 = 24;
const SERVICES: u64 = 4;

/// What the command line asks for.
struct Arguments {
    /// A part of the names of tests to run.
    names: Vec<String>,
    seed: Option<u64>,
    from: u64,
    plans: Option<u64>,
    jobs: u64,
    services: bool,
    keep: bool,
    list: bool,
}

impl Arguments {
    fn read() -> Self {
        let mut arguments = Self {
            names: Vec::new(),
            seed: None,
            from: 1,
            plans: None,
            jobs: 2 * std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            services: false,
            keep: false,
            list: false,
        };
        let mut rest = std::env::args().skip(1);
        while let Some(argument) = rest.next() {
            let mut number = || rest.next().and_then(|n| n.parse().ok()).expect("a number behind the flag");
            match argument.as_str() {
                "--seed" => arguments.seed = Some(number()),
                "--from" => arguments.from = number(),
                "--plans" => arguments.plans = Some(number()),
                "--jobs" => arguments.jobs = number(),
                "--services" => arguments.services = true,
                "--keep" => arguments.keep = true,
                "--list" => arguments.list = true,
                // Flags of the standard runner.
                flag if flag.starts_with('-') => {}
                name => arguments.names.push(name.to_owned()),
            }
        }
        arguments
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let tests = [("chaos::embedded_parts", Parts::Embedded), ("chaos::real_services", Parts::Services)];
    if arguments.list {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let runner = Runner::new(&arguments);
    if let Some(seed) = arguments.seed {
        let parts = if arguments.services { Parts::Services } else { Parts::Embedded };
        println!("{}", Plan::draw(seed, parts));
        runner.plan(seed, parts);
    } else if let Some(plans) = arguments.plans {
        let (parts, jobs) = if arguments.services { (Parts::Services, 1) } else { (Parts::Embedded, arguments.jobs) };
        runner.plans(parts, arguments.from..arguments.from + plans, jobs);
    } else {
        for (name, parts) in tests.into_iter().filter(|(name, _)| arguments.wants(name)) {
            match parts {
                Parts::Embedded => runner.plans(parts, 1..1 + EMBEDDED, arguments.jobs),
                Parts::Services if services::kafka().is_none() || services::elasticsearch().is_none() => {
                    println!("not run for want of a service: {name}");
                }
                // One after the other: they stop the services.
                Parts::Services => runner.plans(parts, 1..1 + SERVICES, 1),
            }
        }
    }
    runner.finish()
}

struct Runner {
    runtime: Runtime,
    keep: bool,
    passed: AtomicU64,
    events: Mutex<run::Events>,
    failed: Mutex<Vec<u64>>,
    started: Instant,
}

impl Runner {
    fn new(arguments: &Arguments) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self {
            runtime: runtime.expect("a runtime for the stubs"),
            keep: arguments.keep,
            passed: AtomicU64::new(0),
            events: Mutex::default(),
            failed: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Runs the plans of some seeds, so many at a time.
    fn plans(&self, parts: Parts, seeds: std::ops::Range<u64>, jobs: u64) {
        let next = AtomicU64::new(seeds.start);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(seed) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|seed| seeds.contains(seed))
                    {
                        self.plan(seed, parts);
                    }
                });
            }
        });
    }

    /// Runs the plan of a seed and says what came of it.
    fn plan(&self, seed: u64, parts: Parts) {
        let started = Instant::now();
        let plan = Plan::draw(seed, parts);
        let folder = tempfile::Builder::new().prefix(&format!("floodmark-chaos-{seed}-")).tempdir();
        let folder = folder.expect("a temporary folder");
        let ran = catch_unwind(AssertUnwindSafe(|| run::run(&plan, folder.path(), self.runtime.handle())));
        let result = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_default())
        });
        let seconds = started.elapsed().as_secs_f64();
        let kept = |folder: tempfile::TempDir| -> PathBuf { folder.keep() };
        match result {
            Ok(events) => {
                self.events.lock().add(events);
                self.passed.fetch_add(1, Ordering::SeqCst);
                println!("plan {seed} ({:?} to {:?}) ... ok ({seconds:.1} s)", plan.source, plan.store);
                if self.keep {
                    println!("  kept: {}", kept(folder).display());
                }
            }
            Err(what) => {
                self.failed.lock().push(seed);
                let services = if parts == Parts::Services { " --services" } else { "" };
                println!(
                    "plan {seed} ... FAILED ({seconds:.1} s)\n{plan}{what}\n  kept: {}\n  again: cargo test --profile ci \
                     --test chaos -- --seed {seed}{services}",
                    kept(folder).display()
                );
            }
        }
    }

    fn finish(self) -> ExitCode {
        let (passed, failed) = (self.passed.load(Ordering::SeqCst), self.failed.into_inner());
        self.runtime.shutdown_background();
        let (word, code) = if failed.is_empty() { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
        let seconds = self.started.elapsed().as_secs();
        let events = self.events.into_inner();
        let run::Events { starts, restored, kills, damaged, noticed, held, corrections, .. } = events;
        println!(
            "\n{starts} starts, {restored} of them from a checkpoint; {kills} kills; {damaged} files damaged, {noticed} of \
             them needed; holds in {held} plans; {corrections} corrected windows"
        );
        let run::Events { judged, unusual, silences, alerts, notified, looks, counted, redriven, added, .. } = events;
        println!(
            "{judged} windows judged, {unusual} of them unusual, {silences} of these silent; {alerts} alerts, {notified} \
             notifications; patterns read {looks} times, and from {counted} checkpoints; {redriven} records redriven; \
             {added} whole windows of added views"
        );
        println!("test result: {word}. {passed} passed; {} failed; 0 ignored; in {seconds} s", failed.len());
        if !failed.is_empty() {
            println!("failed seeds: {failed:?}");
        }
        code
    }
}
