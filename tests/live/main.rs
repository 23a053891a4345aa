//! Tests against real services. Without them they do not run, and the last line says which: see `support`.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod audit;
// Some of what is shared is for the other tests only, here and below.
#[allow(dead_code)]
#[path = "../support/corpus.rs"]
mod corpus;
mod elasticsearch;
mod engine;
mod explain;
mod faults;
mod kafka;
mod latest;
#[allow(dead_code)]
#[path = "../it/support.rs"]
mod process;
#[path = "../support/reading.rs"]
mod reading;
mod redrive;
#[allow(dead_code)]
#[path = "../../dataflows/tests/oracle/reference.rs"]
mod reference;
mod support;

fn main() -> std::process::ExitCode {
    let mut tests = kafka::tests();
    tests.extend(elasticsearch::tests());
    tests.extend(engine::tests());
    tests.extend(audit::tests());
    tests.extend(latest::tests());
    tests.extend(explain::tests());
    tests.extend(redrive::tests());
    tests.extend(faults::tests());
    support::run(&tests)
}
