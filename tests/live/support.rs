//! A small test runner for tests that need services. In: the tests of each module, and the addresses of services in
//! the environment (`eval "$(scripts/services env)"`). Out: one line a test, and at the end what did not run, by
//! name. A test whose service is missing never counts as passed.
//!
//! The standard runner cannot say "not run": it hides what a test prints and calls it ok.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A service that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `FLOODMARK_TEST_KAFKA`, `host:port`.
    Kafka,
    /// `FLOODMARK_TEST_ES8`, a URL, like the next two.
    Elasticsearch8,
    /// `FLOODMARK_TEST_ES7`.
    Elasticsearch7,
    /// `FLOODMARK_TEST_OS2`.
    OpenSearch2,
}

impl Service {
    fn short_name(self) -> &'static str {
        match self {
            Service::Kafka => "kafka",
            Service::Elasticsearch8 => "es8",
            Service::Elasticsearch7 => "es7",
            Service::OpenSearch2 => "os2",
        }
    }

    fn variable(self) -> String {
        format!("FLOODMARK_TEST_{}", self.short_name().to_uppercase())
    }

    /// Where the service is. Only for services that the test named in [`Test::needs`].
    pub fn address(self) -> String {
        std::env::var(self.variable()).expect("the runner checks that the service is there")
    }

    /// The service's process, for tests that stop it for a while.
    pub fn process(self) -> Option<i32> {
        std::env::var(format!("{}_PID", self.variable())).ok()?.parse().ok()
    }

    fn is_there(self) -> bool {
        std::env::var(self.variable()).is_ok_and(|address| !address.is_empty())
    }
}

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// `module::what_holds`.
    pub name: &'static str,
    /// The services it needs.
    pub needs: &'static [Service],
    /// Panics when it fails.
    pub run: fn(),
}

/// Lists tests: `tests!("kafka", [Service::Kafka]; a_test, another_test)` gives `Vec<Test>`.
#[macro_export]
macro_rules! tests {
    ($module:literal, $needs:tt; $($test:ident),* $(,)?) => {
        vec![$($crate::support::Test {
            name: concat!($module, "::", stringify!($test)),
            needs: &$needs,
            run: $test,
        }),*]
    };
}

/// Runs the tests one after the other. Arguments that are no flags choose tests by a part of their name; `--list`
/// names them.
pub fn run(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = tests.iter().filter(|t| wanted.is_empty() || wanted.iter().any(|w| t.name.contains(w.as_str())));
    if arguments.iter().any(|a| a == "--list") {
        chosen.for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut not_run) = (0, Vec::new(), Vec::new());
    for test in chosen {
        print!("test {} ... ", test.name);
        std::io::stdout().flush().expect("standard output");
        let missing: Vec<&str> = test.needs.iter().filter(|s| !s.is_there()).map(|s| s.short_name()).collect();
        if !missing.is_empty() {
            let missing = missing.join(" ");
            println!("not run (needs {missing}: scripts/services up {missing}; eval \"$(scripts/services env)\")");
            not_run.push(test.name);
            continue;
        }
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(test.run));
        let seconds = started.elapsed().as_secs_f64();
        if result.is_ok() {
            passed += 1;
            println!("ok ({seconds:.1} s)");
        } else {
            failed.push(test.name);
            println!("FAILED ({seconds:.1} s)");
        }
    }
    println!("\nlive tests: {passed} passed, {} failed, {} not run", failed.len(), not_run.len());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    if !not_run.is_empty() {
        println!("not run for want of a service: {}", not_run.join(", "));
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until `condition` gives something; panics with `what` after 30 s.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A name that no other run uses, for topics and indices.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    format!("{prefix}-{}-{}-{}", std::process::id(), now.as_millis(), NEXT.fetch_add(1, Ordering::Relaxed))
}
