//! Tests against real services. Without them they do not run, and the last line says which: see `support`.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod elasticsearch;
mod kafka;
#[path = "../support/reading.rs"]
mod reading;
mod support;

fn main() -> std::process::ExitCode {
    let mut tests = kafka::tests();
    tests.extend(elasticsearch::tests());
    support::run(&tests)
}
