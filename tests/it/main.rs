//! Tests that cross modules, with embedded parts, mocks and stubs only.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod api;
mod cli;
mod dead_letters;
mod docs;
mod elasticsearch;
mod kafka;
mod produce;
#[path = "../support/reading.rs"]
mod reading;
mod run;
mod stub_elasticsearch;
mod support;
#[path = "../support/synthetic.rs"]
mod synthetic;
