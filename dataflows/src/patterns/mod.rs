//! Patterns of messages: templates with wildcards.
//!
//! In: messages. Out: patterns, each with the first cuts that belong to it. A function of the set of messages alone:
//! neither their order nor how they are spread over partitions and workers shows. Nothing fails.
//!
//! - [`header`]: time, level and logger of a plain text line, and the message behind them.
//! - [`cut`]: the first cut of a message: its words, with everything that is surely a value masked. A function of the
//!   message alone; its id never changes and can stand in the log document.
//! - [`admission`]: a bounded set of first cuts; what does not fit is counted together.
//! - [`mod@merge`]: from the set of first cuts that occurred to patterns, group by group.
//! - [`counter`]: counts of first cuts by service and level, per partition and tick.
//! - [`config`]: the options.
//! - [`hash`]: what ids are made with.
//!
//! The count of a pattern is the sum of the counts of its first cuts, so that patterns sum to the records however they
//! merge.

pub mod admission;
mod classes;
pub mod config;
pub mod counter;
pub mod cut;
pub mod hash;
pub mod header;
pub mod merge;

pub use admission::{FirstCuts, MAX_FIRST_CUTS, OTHER_CUT, OTHER_SLOT};
pub use config::PatternsConfig;
pub use counter::{PatternCounter, PatternUpdate, SeenPatterns};
pub use cut::{Cutter, FirstCut, WILDCARD};
pub use merge::{Pattern, group_of, merge, merge_group};
