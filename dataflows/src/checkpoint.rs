//! What a checkpoint is made of, and what a worker asks of whoever writes it.
//!
//! A checkpoint at tick `T` is everything that records with timestamps before `T` did: where each partition stands
//! ([`PartitionCut`]), and rows of state ([`StateRow`]). A worker hands over what changed since the checkpoint before;
//! rows that are handed over again replace earlier ones with the same identity, and rows whose time is over are left
//! out by whoever reads them.
//!
//! Nothing here fails or blocks: writing happens elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
pub use crate::alerts::state::{AlertRow, AlertRowValue};
pub use crate::corrections::Late;
use crate::input::PartitionInfo;
use crate::ledger::Ledger;
pub use crate::outages::Outage;
use crate::patterns::SeenPatterns;
use crate::scores::{Learned, Past, ScoredMeasure};
use crate::time::{Millis, Tick};
use crate::view::{Key, ViewId};

/// Where a partition stands at a cut: every record before `next_offset` has a timestamp before the cut, every other one
/// at or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCut {
    /// The partition.
    pub partition: PartitionInfo,
    /// The first offset that is not in the cut.
    pub next_offset: u64,
    /// The event clock before that offset.
    pub clock: Option<Tick>,
    /// The hold before the cut.
    pub hold: Tick,
    /// When it could not be read, as far back as scores may need it.
    pub outages: Vec<Outage>,
    /// What became of each offset before the cut, but for documents that the store refused while the run lasted: they
    /// are moved with [`Ledger::refuse`] before another run goes on from here.
    pub ledger: Ledger,
    /// By view, in the order of the configuration: the keys that the partition has seen.
    pub keys: Vec<SeenKeys>,
    /// The first cuts of messages that it has seen since the cut before.
    pub patterns: SeenPatterns,
}

/// The keys that count against `max_keys` in a partition and a view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenKeys {
    /// The tick at which silent keys were last let go.
    pub forgotten_at: Tick,
    /// Whether a key has found no room.
    pub has_other: bool,
    /// Keys seen since the cut before, as the combiner knows them, each with the last tick it was seen at. Ascending.
    pub seen: Vec<(Arc<str>, Tick)>,
}

/// A row of state. Rows with the same identity (all fields but the value) replace each other, the newest wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StateRow {
    /// What is counted of a key in a pane.
    Pane(PaneRow),
    /// What late records did to a window of a key.
    Late(LateRow),
    /// What the windows of a key that are gone have taught. One a key.
    Series(SeriesRow),
    /// What a window of a key that is gone teaches, until a [`SeriesRow`] has learned it.
    Values(ValuesRow),
    /// What is known of a key for an alert.
    Alert(Box<AlertRow>),
    /// How often patterns were new in a part of a view.
    Novelty(NoveltyRow),
}

/// What is counted of a key in a pane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaneRow {
    /// The view.
    pub view: ViewId,
    /// The start of the pane.
    pub pane: Millis,
    /// The key.
    pub key: Key,
    /// The last tick that changed it.
    pub changed: Tick,
    /// The whole of it at the cut.
    pub aggregate: Arc<Aggregate>,
}

/// What late records did to a window of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateRow {
    /// The view.
    pub view: ViewId,
    /// The start of the window.
    pub window: Millis,
    /// The key.
    pub key: Key,
    /// What is known of its corrections.
    pub late: Late,
}

/// What the windows of a key that are gone have taught.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesRow {
    /// The view.
    pub view: ViewId,
    /// The key.
    pub key: Key,
    /// The measures that the baselines are of. A view that is now scored by others begins to learn anew.
    pub measures: Vec<ScoredMeasure>,
    /// What they have taught.
    pub learned: Arc<Learned>,
}

/// How often patterns were new in a part of a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoveltyRow {
    /// The view.
    pub view: ViewId,
    /// A key of the part, with an empty pattern.
    pub key: Key,
    /// The measures of the view's series, by which it is known which keys came before.
    pub measures: Vec<ScoredMeasure>,
    /// Of the windows that are gone.
    pub past: Past,
}

/// What a window of a key that is gone teaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValuesRow {
    /// The view.
    pub view: ViewId,
    /// The window's number: its start divided by the slide.
    pub window: u64,
    /// The key.
    pub key: Key,
    /// The measures that the values are of. A view that is now scored by others has no use for them.
    pub measures: Arc<[ScoredMeasure]>,
    /// The values, in this order; not a number where there is none.
    pub values: Box<[f64]>,
}

impl StateRow {
    /// The view that it belongs to.
    pub fn view_mut(&mut self) -> &mut ViewId {
        match self {
            StateRow::Pane(row) => &mut row.view,
            StateRow::Late(row) => &mut row.view,
            StateRow::Series(row) => &mut row.view,
            StateRow::Values(row) => &mut row.view,
            StateRow::Alert(row) => &mut row.view,
            StateRow::Novelty(row) => &mut row.view,
        }
    }
}

/// A mark as it was recorded, for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMark {
    /// Every record before this offset had arrived.
    pub next_offset: u64,
    /// The wall clock of the mark.
    pub wall_ms: Millis,
    /// The partition's hold from `next_offset` on.
    pub hold: Tick,
    /// It could not be read when the mark was made.
    pub away: bool,
}

/// Where a partition goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStart {
    /// Where it stood at the checkpoint, all keys seen included; `None` for a partition that joined after it.
    pub cut: Option<PartitionCut>,
    /// The marks recorded behind the cut, in the order they were made.
    pub marks: VecDeque<RecordedMark>,
}

/// What a worker goes on from. The default is nothing: a start from the beginning.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The tick of the checkpoint; 0 for none.
    pub at: Tick,
    /// By partition; those that are not in it start anew. Every worker may be given all.
    pub partitions: BTreeMap<PartitionInfo, PartitionStart>,
    /// The state rows of all workers, or at least of this one: a worker takes those whose keys are its own.
    pub rows: Arc<Vec<StateRow>>,
    /// Views that an earlier start did not have in this form, by number: their windows that start before this tick lack
    /// records. To be given again at later starts, for as long as there are such windows.
    pub partial_before: BTreeMap<ViewId, Tick>,
}

/// Takes one worker's share of checkpoints. Nothing blocks: it hands over to threads of its own.
pub trait CheckpointSink {
    /// Whether the next checkpoint should begin. Asked on the first worker only, often; a checkpoint begins at once and
    /// the answer is not asked again before it is committed.
    fn is_due(&mut self) -> bool;

    /// Takes the cuts of this worker's partitions for the checkpoint at `at`. Once a checkpoint.
    fn partitions(&mut self, at: Tick, cuts: Vec<PartitionCut>);

    /// Takes the rows of this worker that changed since the checkpoint before, as of `at`, in parts. Once a checkpoint.
    fn rows(&mut self, at: Tick, rows: Vec<Vec<StateRow>>);

    /// This worker's description of its share of the checkpoint at `at`, once that is durable and everything that the
    /// worker handed out before `at` is stored. Given once; asked often.
    fn description(&mut self, at: Tick) -> Option<Vec<u8>>;

    /// All workers' descriptions, in the order of the workers; on the first worker only. It commits the checkpoint.
    fn commit(&mut self, at: Tick, descriptions: Vec<Vec<u8>>);

    /// Whether the checkpoint given to [`CheckpointSink::commit`] is committed. Asked on the first worker, often.
    fn is_committed(&mut self, at: Tick) -> bool;

    /// On every worker: the checkpoint at `at` is committed.
    fn committed(&mut self, at: Tick);
}

/// For runs without checkpoints.
impl CheckpointSink for Infallible {
    fn is_due(&mut self) -> bool {
        match *self {}
    }

    fn partitions(&mut self, _: Tick, _: Vec<PartitionCut>) {
        match *self {}
    }

    fn rows(&mut self, _: Tick, _: Vec<Vec<StateRow>>) {
        match *self {}
    }

    fn description(&mut self, _: Tick) -> Option<Vec<u8>> {
        match *self {}
    }

    fn commit(&mut self, _: Tick, _: Vec<Vec<u8>>) {
        match *self {}
    }

    fn is_committed(&mut self, _: Tick) -> bool {
        match *self {}
    }

    fn committed(&mut self, _: Tick) {
        match *self {}
    }
}
