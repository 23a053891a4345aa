//! The computation of Floodmark, apart from the world: no network, files, threads or clock in here.
//!
//! # Data path
//!
//! 1. [`input`]: batches of raw records arrive through a [`Feed`](input::Feed), one position per partition.
//! 2. [`decode`]: raw bytes become a [`Record`](record::Record) that borrows from them.
//! 3. [`rules`]: each record gets a severity from 0 to 100 and the names of the rules that matched.
//! 4. [`document`]: the log document is the raw JSON with the computed fields spliced in.
//! 5. [`ingest`]: the source operator does 1 to 4, and [`combine`]s per tick what goes on.
//! 6. [`windows`]: a differential arrangement of panes, and the documents of the windows over them.
//!    [`scores`]: how unusual each is, by the baselines of [`detect`]. [`outages`]: what they lack where a partition could not
//!    be read. [`live`]: the same updates for live reads on every process. [`clocks`]: what workers tell each other of time.
//! 7. [`view`] (configured by [`view_config`]), [`aggregate`], [`histogram`], [`numbers`]: what is kept per key and window.
//!    [`corrections`]: what late records did to windows. [`checkpoint`]: what is kept to go on from after a restart.
//!    [`cuts`]: how workers agree on when. [`ledger`]: what became of each offset.
//! 8. [`patterns`]: templates of messages, with wildcards.
//! 9. [`alerts`]: windows that meet a condition, as incidents that correct themselves.
//! 10. [`output`]: what the outside implements to receive documents, dead letters and windows.
//!
//! [`dataflow::build`] puts it together on a worker.

pub mod aggregate;
pub mod alerts;
pub mod checkpoint;
pub mod clocks;
pub mod combine;
pub mod corrections;
pub mod cuts;
pub mod dataflow;
pub mod decode;
pub mod detect;
pub mod document;
pub mod histogram;
pub mod ingest;
pub mod input;
pub mod ledger;
pub mod live;
pub mod numbers;
pub mod outages;
pub mod output;
pub mod patterns;
pub mod ranges;
pub mod record;
pub mod rules;
pub mod scores;
pub mod time;
pub mod units;
pub mod view;
pub mod view_config;
pub mod windows;
