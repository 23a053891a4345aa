//! Tests that cross modules, with embedded parts, mocks and stubs only.

// Helpers outside test functions are tests too.
#![allow(clippy::unwrap_used)]

mod alerts;
mod api;
mod audit;
mod checkpoint;
mod cli;
mod cluster;
#[path = "../support/corpus.rs"]
mod corpus;
mod dead_letters;
mod docs;
mod elasticsearch;
mod engine;
mod explain;
mod golden;
mod hostile;
mod kafka;
mod late;
mod memory;
mod patterns;
mod produce;
#[path = "../support/reading.rs"]
mod reading;
mod redrive;
// Its totals are compared in the tests of the dataflow.
#[allow(dead_code)]
#[path = "../../dataflows/tests/oracle/reference.rs"]
mod reference;
mod run;
mod s3;
mod stopping;
mod stream;
// Some of it is for the other tests.
#[allow(dead_code)]
#[path = "../support/stub_elasticsearch.rs"]
mod stub_elasticsearch;
mod support;
#[path = "../support/synthetic.rs"]
mod synthetic;
