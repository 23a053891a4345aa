//! What the sections of a file hold, beside the dataflow's own rows and cuts.

use std::sync::Arc;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::patterns::SeenPatterns;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, ViewId};
use serde::{Deserialize, Serialize};

use crate::live::patterns::{PatternCount, Sample};
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

/// What a checkpoint holds of the live state beside the workers' rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveRows {
    /// Totals by view and key.
    pub totals: Vec<TotalsRow>,
    /// First cuts and their counts.
    pub patterns: Vec<PatternRow>,
}

/// First cuts and rows of their counts that a partition has admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternsChunk {
    /// The partition.
    pub partition: PartitionInfo,
    /// What it has admitted since the cut before.
    pub seen: SeenPatterns,
}

/// What is counted of patterns, as it is at a checkpoint. A later row replaces an earlier one of the same first
/// cut, service and level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatternRow {
    /// A first cut.
    Cut {
        /// Its id.
        id: u64,
        /// Its template.
        template: Arc<str>,
        /// The first timestamp of its records.
        first_tick: Tick,
        /// Its first record.
        sample: Option<Sample>,
    },
    /// What is counted of a first cut, a service and a level.
    Count {
        /// The id of the first cut.
        cut: u64,
        /// The service.
        service: Arc<str>,
        /// The level.
        level: Level,
        /// The counts.
        count: PatternCount,
    },
}

/// What identifies a [`PatternRow`].
pub(super) type PatternPlace = (bool, u64, Option<(Arc<str>, Level)>);

impl PatternRow {
    /// What identifies it. All cuts come before all counts.
    pub(super) fn place(&self) -> PatternPlace {
        match self {
            PatternRow::Cut { id, .. } => (false, *id, None),
            PatternRow::Count { cut, service, level, .. } => (true, *cut, Some((service.clone(), *level))),
        }
    }
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
    pub positions: Vec<(u32, u64, Tick, bool)>,
}
