//! What the sections of a file hold, beside the dataflow's own rows and cuts.

use std::sync::Arc;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, ViewId};
use serde::{Deserialize, Serialize};

use crate::live::totals::Totals;

/// Which share of which checkpoint a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHead {
    /// The tick of the checkpoint; of the newest where several are merged.
    pub at: Tick,
    /// The worker that wrote it.
    pub worker: u32,
}

/// Keys that a partition has seen, of one view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenChunk {
    /// The partition.
    pub partition: PartitionInfo,
    /// The view.
    pub view: ViewId,
    /// The keys as the combiner knows them, each with the last tick it was seen at.
    pub seen: Vec<(Arc<str>, Tick)>,
}

/// Totals since the start, as they are at a checkpoint. A later row replaces an earlier one of the same view and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalsRow {
    /// The view.
    pub view: ViewId,
    /// The key; `None` for the whole view.
    pub key: Option<Key>,
    /// What is counted, and the last tick that changed it; `None` when the key has left.
    pub totals: Option<(Totals, Tick)>,
}

/// Marks of one process, in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarksOfProcess {
    /// The partitions that the marks speak of.
    pub partitions: Vec<PartitionInfo>,
    /// The marks.
    pub marks: Vec<MarkEntry>,
}

/// A mark of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkEntry {
    /// The wall clock.
    pub wall_ms: Millis,
    /// By place in [`MarksOfProcess::partitions`]: the offset to read next, and the hold from there on.
    pub positions: Vec<(u32, u64, Tick)>,
}
