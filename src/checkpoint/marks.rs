//! Recorded marks: how the wall clock that a run saw is kept for the runs that go on from its checkpoints.
//!
//! In: marks that feeds took. Out: the same marks, once they are durable. A segment is written anew with each mark, to the
//! same store as checkpoints, until it is [`SEGMENT_BYTES`] long or would span more than [`SEGMENT_MS`]. Writing is repeated for as long
//! as it takes; meanwhile nothing happens that depends on a mark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use floodmark_dataflows::checkpoint::RecordedMark;
use floodmark_dataflows::input::{
    Feed, MarkPosition, PartitionEvent, PartitionIndex, PartitionInfo, ReadAs, RecordedMarks, Waker,
};
use floodmark_dataflows::time::Millis;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::commit::Shared;
use super::contents::{MarkEntry, MarksOfProcess};
use super::format::{Damage, FileReader, FileWriter, Kind, Tag};
use super::repeat;
use super::store::{CopyStore, StoreError};

/// Where marks are.
const FOLDER: &str = "marks";
/// A segment is closed when it is this long.
const SEGMENT_BYTES: usize = 64 << 10;
/// The marks of a segment are made within this time.
const SEGMENT_MS: Millis = 10 * 60_000;
/// Clocks of different hosts may differ by this much.
const CLOCK_SLACK_MS: Millis = 10 * 60_000;

/// A mark on its way.
struct Job {
    partitions: Vec<PartitionInfo>,
    marks: RecordedMarks,
    slot: Arc<Mutex<Option<RecordedMarks>>>,
    waker: Option<Waker>,
}

/// Records the marks of a process. Ends when it and all its feeds are dropped.
#[derive(Clone)]
pub struct Recorder(mpsc::UnboundedSender<Job>);

impl Recorder {
    /// Starts recording.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (sender, jobs) = mpsc::unbounded_channel();
        let runtime = shared.runtime.clone();
        runtime.spawn(record(shared, jobs));
        Self(sender)
    }
}

async fn record(shared: Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let Shared { store, stats, generation, run, latest_began_ms, .. } = &*shared;
    let mut segment = Segment::default();
    let (mut number, mut named_ms) = (0u64, 0);
    let mut waiting = jobs.recv().await;
    while let Some(first) = waiting.take() {
        if !segment.spans(&first) {
            segment = Segment::default();
            number += 1;
        }
        segment.add(&first);
        let mut taken = vec![first];
        while let Ok(more) = jobs.try_recv() {
            if !segment.spans(&more) {
                waiting = Some(more);
                break;
            }
            segment.add(&more);
            taken.push(more);
        }
        let file = match segment.encode() {
            Ok(file) => Bytes::from(file),
            Err(error) => return shared.fail(format!("marks: {error}")),
        };
        if segment.contents.marks.len() == taken.len() {
            // Where the clock was set back, no earlier than the checkpoint that it may come after, nor than the one before.
            named_ms = named_ms.max(segment.first_ms()).max(latest_began_ms.load(Ordering::Relaxed));
        }
        let name = format!("{FOLDER}/g{generation}/{run}/{named_ms:013}-{number:08}");
        repeat("marks", stats, || store.put(&name, file.clone())).await;
        if file.len() >= SEGMENT_BYTES {
            segment = Segment::default();
            number += 1;
        }
        for Job { marks, slot, waker, .. } in taken {
            *slot.lock() = Some(marks);
            if let Some(waker) = waker {
                waker();
            }
        }
        if waiting.is_none() {
            waiting = jobs.recv().await;
        }
    }
}

#[derive(Default)]
struct Segment {
    contents: MarksOfProcess,
    places: BTreeMap<PartitionInfo, u32>,
}

impl Segment {
    /// Whether a mark was made within the time of the segment, which is what its name stands for.
    fn spans(&self, job: &Job) -> bool {
        self.contents.marks.first().is_none_or(|first| job.marks.wall_ms < first.wall_ms.saturating_add(SEGMENT_MS))
    }

    fn add(&mut self, job: &Job) {
        let Self { contents, places } = self;
        let mut place = |position: &MarkPosition| {
            let partition = job.partitions.get(position.partition)?;
            let place = *places.entry(partition.clone()).or_insert_with(|| {
                contents.partitions.push(partition.clone());
                (contents.partitions.len() - 1) as u32
            });
            Some((place, position.next_offset, position.hold, position.away))
        };
        let positions = job.marks.positions.iter().filter_map(&mut place).collect();
        contents.marks.push(MarkEntry { wall_ms: job.marks.wall_ms, positions });
    }

    fn first_ms(&self) -> Millis {
        self.contents.marks.first().map_or(0, |mark| mark.wall_ms)
    }

    fn encode(&self) -> Result<Vec<u8>, super::format::EncodeError> {
        FileWriter::of_one(Kind::Marks, Tag::Marks, &self.contents)
    }
}

fn decode(bytes: &Bytes) -> Result<MarksOfProcess, Damage> {
    FileReader::first(bytes, Kind::Marks).map(|(contents, _)| contents)
}

/// The wall clock of the first mark in a segment, by its name.
fn first_ms(name: &str) -> Option<Millis> {
    name.rsplit('/').next()?.split('-').next()?.parse().ok()
}

/// All marks of a generation made since `began_ms`, by partition, in the order they were made.
///
/// # Errors
/// When a segment cannot be read: what happened then cannot be made to happen again.
pub async fn read(
    store: &CopyStore,
    generation: u64,
    began_ms: Millis,
) -> Result<BTreeMap<PartitionInfo, VecDeque<RecordedMark>>, StoreError> {
    let mut found: BTreeMap<PartitionInfo, VecDeque<RecordedMark>> = BTreeMap::new();
    // Names are in the order of starts, then of time.
    for name in store.list(&format!("{FOLDER}/g{generation}")).await? {
        let last_ms = first_ms(&name).unwrap_or(Millis::MAX).saturating_add(SEGMENT_MS + CLOCK_SLACK_MS);
        if last_ms < began_ms {
            continue;
        }
        let MarksOfProcess { partitions, marks } = store.get(&name, true, decode).await?;
        for MarkEntry { wall_ms, positions } in marks {
            for (place, next_offset, hold, away) in positions {
                let Some(partition) = partitions.get(place as usize) else { continue };
                let of_partition = found.entry(partition.clone()).or_default();
                // A run that catches up with the one before says again what that one said.
                if of_partition.back().is_none_or(|last| last.next_offset <= next_offset) {
                    of_partition.push_back(RecordedMark { next_offset, wall_ms, hold, away });
                }
            }
        }
    }
    Ok(found)
}

/// The generations that marks are of.
///
/// # Errors
/// When they cannot be listed.
pub async fn generations(store: &CopyStore) -> Result<BTreeSet<u64>, StoreError> {
    let names = store.list(FOLDER).await?;
    Ok(names.iter().filter_map(|name| name.split('/').find_map(|part| part.strip_prefix('g')?.parse().ok())).collect())
}

/// Deletes segments all of whose marks were made before `before_ms`.
///
/// # Errors
/// When they cannot be listed or deleted.
pub async fn delete_before(store: &CopyStore, before_ms: Millis) -> Result<(), StoreError> {
    for name in store.list(FOLDER).await? {
        if first_ms(&name).is_some_and(|first| first.saturating_add(SEGMENT_MS + CLOCK_SLACK_MS) < before_ms) {
            store.delete(&name).await?;
        }
    }
    Ok(())
}

/// How long a feed waits for a mark before it says so.
const SLOW: Duration = Duration::from_secs(30);

/// Where the recorded mark will be, since when it is waited for, and whether that was said to be long.
type UnderWay = (Arc<Mutex<Option<RecordedMarks>>>, std::time::Instant, bool);

/// A feed whose marks are recorded, if there is a recorder.
pub struct Marked<F> {
    feed: F,
    recorder: Option<Recorder>,
    partitions: Vec<PartitionInfo>,
    waker: Option<Waker>,
    /// A mark that is being recorded, and since when.
    under_way: Option<UnderWay>,
}

impl<F> Marked<F> {
    /// A feed whose marks count once they are recorded. Without a recorder they count at once.
    pub fn new(feed: F, recorder: Option<Recorder>) -> Self {
        Self { feed, recorder, partitions: Vec::new(), waker: None, under_way: None }
    }
}

impl<F: Feed> Feed for Marked<F> {
    type Batch = F::Batch;

    fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker.clone());
        self.feed.attach(waker);
    }

    fn joined(&mut self) -> Vec<PartitionInfo> {
        let joined = self.feed.joined();
        self.partitions.extend_from_slice(&joined);
        joined
    }

    fn is_discovering(&self) -> bool {
        self.feed.is_discovering()
    }

    fn is_live(&self) -> bool {
        self.feed.is_live()
    }

    fn offsets_are_bytes(&self, partition: PartitionIndex) -> bool {
        self.feed.offsets_are_bytes(partition)
    }

    fn read_as(&mut self, partition: PartitionIndex) -> Option<ReadAs> {
        self.feed.read_as(partition)
    }

    fn has_marks(&self) -> bool {
        self.feed.has_marks()
    }

    fn poll(&mut self, partition: PartitionIndex) -> Option<PartitionEvent<Self::Batch>> {
        self.feed.poll(partition)
    }

    fn hurry(&mut self) {
        self.feed.hurry();
    }

    fn is_mark_due(&mut self) -> bool {
        self.under_way.is_none() && self.feed.is_mark_due()
    }

    fn mark(&mut self, positions: &[MarkPosition]) -> Option<RecordedMarks> {
        let Some(recorder) = &self.recorder else { return self.feed.mark(positions) };
        if let Some((slot, since, said)) = &mut self.under_way {
            let recorded = slot.lock().take();
            if recorded.is_some() {
                self.under_way = None;
            } else if !*said && since.elapsed() > SLOW {
                *said = true;
                tracing::warn!("a mark has not been recorded for {} s: idle partitions wait for it", SLOW.as_secs());
            }
            return recorded;
        }
        let marks = self.feed.mark(positions)?;
        let slot = Arc::new(Mutex::new(None));
        let job = Job { partitions: self.partitions.clone(), marks, slot: slot.clone(), waker: self.waker.clone() };
        // The receiver is gone only when the run ends.
        let _ = recorder.0.send(job);
        self.under_way = Some((slot, std::time::Instant::now(), false));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Place, checkpoints, checkpoints_of, until};
    use super::*;
    use crate::stores::none::NoStore;

    fn partition(topic: &str) -> PartitionInfo {
        PartitionInfo { topic: topic.into(), identity: topic.into(), number: 0 }
    }

    /// Has a mark recorded; it is there when it is.
    fn send(recorder: &Recorder, topic: &str, wall_ms: Millis) -> Arc<Mutex<Option<RecordedMarks>>> {
        send_at(recorder, topic, wall_ms, wall_ms)
    }

    /// The same with the offset that was reached.
    fn send_at(
        recorder: &Recorder,
        topic: &str,
        wall_ms: Millis,
        next_offset: u64,
    ) -> Arc<Mutex<Option<RecordedMarks>>> {
        let positions = vec![MarkPosition { partition: 0, next_offset, at_end: true, hold: 0, away: false }];
        let marks = RecordedMarks { wall_ms, positions };
        let slot = Arc::new(Mutex::new(None));
        let job = Job { partitions: vec![partition(topic)], marks, slot: slot.clone(), waker: None };
        assert!(recorder.0.send(job).is_ok());
        slot
    }

    #[tokio::test]
    async fn a_mark_after_a_pause_is_read_by_its_own_time() {
        let store = CopyStore::over(Place::new(), 2);
        let recorder = checkpoints(store.clone(), Arc::new(NoStore)).await.recorder();
        let late = 1_000 + SEGMENT_MS + CLOCK_SLACK_MS + 1;
        // The first one on its own, then one after a pause, and one more after another pause at the same time.
        for walls in [vec![1_000], vec![late, 3 * late]] {
            let slots: Vec<_> = walls.into_iter().map(|wall_ms| send(&recorder, "logs", wall_ms)).collect();
            until("they are recorded", || slots.iter().all(|slot| slot.lock().is_some())).await;
        }
        let walls = async |began_ms| -> Vec<Millis> {
            let marks = read(&store, 3, began_ms).await.unwrap();
            marks.get(&partition("logs")).into_iter().flatten().map(|mark| mark.wall_ms).collect()
        };
        assert_eq!(walls(0).await, [1_000, late, 3 * late]);
        assert_eq!(walls(late + CLOCK_SLACK_MS).await, [late, 3 * late]);
        assert_eq!(walls(3 * late).await, [3 * late]);
        delete_before(&store, 3 * late).await.unwrap();
        assert_eq!(walls(0).await, [3 * late]);
    }

    #[tokio::test]
    async fn marks_made_after_the_clock_was_set_back_are_read() {
        let store = CopyStore::over(Place::new(), 2);
        let hour = 3_600_000;
        let mut place = 0;
        // The second start goes on from a checkpoint that was begun before the clock was set back.
        for (start, walls) in [(1, [8 * hour, 9 * hour]), (2, [5 * hour, 6 * hour])] {
            let recorder =
                checkpoints_of(store.clone(), Arc::new(NoStore), start, (start - 1) * 9 * hour).await.recorder();
            for wall_ms in walls {
                place += 1;
                let slot = send_at(&recorder, "logs", wall_ms, place);
                until("it is recorded", || slot.lock().is_some()).await;
            }
        }
        let marks = read(&store, 3, 9 * hour).await.unwrap();
        let places: Vec<u64> = marks[&partition("logs")].iter().map(|mark| mark.next_offset).collect();
        assert_eq!(places, [2, 3, 4]);
    }

    #[tokio::test]
    async fn marks_that_cannot_be_encoded_end_the_run() {
        let checkpoints = checkpoints(CopyStore::over(Place::new(), 2), Arc::new(NoStore)).await;
        let recorder = checkpoints.recorder();
        send(&recorder, &"x".repeat(65 << 20), 1_000);
        until("the run ends", || checkpoints.failure().is_some_and(|why| why.starts_with("marks: "))).await;
    }
}
