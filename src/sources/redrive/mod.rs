//! Redrives: dead letters that are read again.
//!
//! A redrive is a small log of its own. In: chosen dead letters, once ([`Recorded`]). Out: one more partition beside those
//! of the source, `__redrive` with the number of the redrive, which joins as partitions join, has a position in every
//! checkpoint and marks of its own, and ends. So a restart and a replay read it again as they read everything else.
//!
//! ```text
//! a/redrives/00000000      b/redrives/00000000      in the place where checkpoints are
//! ```
//!
//! - [`mod@file`]: the form of a recorded redrive.
//! - [`recorded`]: where they are; the numbers; which letters they hold.
//! - [`feed`]: the source with redrives beside it.
//!
//! On error: a redrive that cannot be read, or not with the present views, is left alone, loudly; the run goes on and
//! `/health` is red. Nothing here is ever deleted.

pub mod feed;
pub mod file;
pub mod recorded;

use floodmark_dataflows::input::PartitionInfo;

pub use feed::{Known, Wanted, WithRedrives};
pub use file::{Header, Letter, Redrive};
pub use recorded::Recorded;

/// The topic of redrives. No topic of Kafka's or name of files should be this.
pub const TOPIC: &str = "__redrive";

/// Whether a partition is a redrive.
pub fn is_redrive(partition: &PartitionInfo) -> bool {
    *partition.topic == *TOPIC
}
