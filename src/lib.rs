//! Floodmark: log analytics between Kafka and Elasticsearch, on timely and differential dataflow.
//!
//! # Layout
//!
//! A record goes `sources → floodmark_dataflows → stores`:
//!
//! - [`sources`]: partitioned, replayable logs (Kafka, files, the generator) behind one trait.
//! - [`floodmark_dataflows`]: decoding, rules, windows. No I/O.
//! - [`stores`]: where documents go and searches are answered (Elasticsearch, embedded, ndjson, none).
//! - [`dead_letters`]: where records go that cannot be read, indexed or trusted.
//! - [`checkpoint`]: what a run goes on from after it was stopped or killed.
//! - [`explain`]: alerts derived again from their records.
//! - [`audit`]: what became of every offset, and whether the store has what it should.
//! - [`live`]: the state that live reads are answered from.
//! - [`api`]: the HTTP API.
//! - [`engine`]: builds and runs the dataflow on this process's workers, and joins the above to it.
//! - [`alerts`]: kept, stored, and sent to people.
//! - [`cluster`]: several processes as one.
//! - [`config`], [`units`]: configuration. Each part's options stand beside the part.
//! - [`cli`]: the commands.

pub mod alerts;
pub mod api;
pub mod audit;
pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dead_letters;
pub mod engine;
pub mod explain;
pub mod live;
mod lock;
pub mod metrics;
pub mod sources;
pub mod stores;
pub use floodmark_dataflows::units;

/// Rows come and go by the million, in pieces of a few hundred bytes: the C library's allocator takes more than half of
/// the time of a run with many keys (decision 051).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
