//! Counts of patterns: what each first cut has by service and level, and which pattern each cut belongs to.
//!
//! In: every [`PatternUpdate`] of every partition, in order of time. Out: reads, exact as of the frontier that the state
//! is at. Cuts never leave, so the state is bounded by the partitions times `patterns.max_patterns`.
//!
//! Which cuts make up a pattern is a function of the set of cuts (see [`merge`](floodmark_dataflows::patterns::merge())). It is
//! computed here, when somebody reads, and only for groups that have got a new cut since the last read: so it is the same
//! in every process, and costs the workers nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::patterns::counter::{CutSample, NamedCut, NamedRow, RowCount};
use floodmark_dataflows::patterns::{OTHER_CUT, PatternUpdate, group_of, merge_group};
use floodmark_dataflows::record::Level;
use floodmark_dataflows::time::{Millis, Tick};
use serde::{Deserialize, Serialize};

use crate::checkpoint::contents::PatternRow;

/// The time over which rates are taken, in event-clock milliseconds.
pub const RATE_WINDOW_MS: u64 = 300_000;
/// Parts of that time that are counted by themselves; the newest is not over yet.
const PARTS: u64 = 10;

/// What is counted of a first cut, a service and a level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternCount {
    /// Records.
    pub count: i64,
    /// Smallest event time.
    pub first_ms: Millis,
    /// Largest event time.
    pub last_ms: Millis,
    /// The number of the newest part of the time over which rates are taken that has records.
    newest: u64,
    /// Records by number of the part, modulo their number.
    recent: [u32; PARTS as usize],
}

impl Default for PatternCount {
    fn default() -> Self {
        Self { count: 0, first_ms: Millis::MAX, last_ms: 0, newest: 0, recent: [0; PARTS as usize] }
    }
}

impl PatternCount {
    /// Adds records of a part, which is not before the newest.
    fn add(&mut self, part: u64, added: &RowCount) {
        self.count += i64::from(added.count);
        self.first_ms = self.first_ms.min(added.first_ms);
        self.last_ms = self.last_ms.max(added.last_ms);
        for passed in (self.newest + 1..=part).rev().take(PARTS as usize) {
            self.recent[(passed % PARTS) as usize] = 0;
        }
        self.newest = self.newest.max(part);
        self.recent[(part % PARTS) as usize] += added.count;
    }

    /// Records in the parts up to this one.
    fn recent(&self, part: u64) -> u64 {
        let kept = (part + 1).saturating_sub(PARTS)..=self.newest;
        let oldest = (self.newest + 1).saturating_sub(PARTS);
        kept.filter(|part| *part >= oldest).map(|part| u64::from(self.recent[(part % PARTS) as usize])).sum()
    }
}

/// Samples of a pattern at the most.
pub const MAX_SAMPLES: usize = 3;

/// A record of a first cut: the first by event time, partition and offset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sample {
    /// Event time.
    pub timestamp_ms: Millis,
    /// Topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
    /// Offset.
    pub offset: u64,
    /// The message, or its beginning.
    pub message: Box<str>,
}

#[derive(Debug)]
struct Cut {
    id: u64,
    template: Arc<str>,
    /// The first timestamp of its records.
    first_tick: Tick,
    sample: Option<Arc<Sample>>,
    is_dirty: bool,
}

#[derive(Debug)]
struct Row {
    cut: u32,
    service: Arc<str>,
    level: Level,
    count: PatternCount,
    is_dirty: bool,
}

/// What the numbers of a partition stand for here.
#[derive(Debug, Default)]
struct Numbers {
    cuts: Vec<u32>,
    rows: Vec<u32>,
}

/// What changed since the last cut, for checkpoints.
#[derive(Debug, Default)]
struct Dirty {
    cuts: Vec<u32>,
    rows: Vec<u32>,
}

/// The counts.
#[derive(Debug)]
pub(super) struct PatternState {
    /// Ticks of a part of the time over which rates are taken.
    part: Tick,
    cuts: Vec<Cut>,
    cut_numbers: HashMap<u64, u32>,
    rows: Vec<Row>,
    /// The default hasher: names of services come from outside.
    row_numbers: HashMap<(u32, Arc<str>, Level), u32>,
    partitions: HashMap<Arc<PartitionInfo>, Numbers>,
    /// The first timestamp of all.
    began: Option<Tick>,
    /// `None` while nobody asks for cuts.
    dirty: Option<Dirty>,
}

/// Puts a number in its place.
fn set(numbers: &mut Vec<u32>, place: u32, number: u32) {
    let place = place as usize;
    if numbers.len() <= place {
        numbers.resize(place + 1, u32::MAX);
    }
    numbers[place] = number;
}

impl PatternState {
    pub(super) fn new(tick_ms: u64) -> Self {
        Self {
            part: (RATE_WINDOW_MS / PARTS / tick_ms.max(1)).max(1),
            cuts: Vec::new(),
            cut_numbers: HashMap::new(),
            rows: Vec::new(),
            row_numbers: HashMap::new(),
            partitions: HashMap::new(),
            began: None,
            dirty: None,
        }
    }

    /// From now on notes what changes, for [`PatternState::take_rows`].
    pub(super) fn track(&mut self) {
        self.dirty.get_or_insert_default();
    }

    /// Rows that changed since the last call.
    pub(super) fn take_rows(&mut self) -> Vec<PatternRow> {
        let Some(dirty) = &mut self.dirty else { return Vec::new() };
        let Dirty { cuts, rows } = std::mem::take(dirty);
        let mut taken = Vec::with_capacity(cuts.len() + rows.len());
        for number in cuts {
            let cut = &mut self.cuts[number as usize];
            cut.is_dirty = false;
            let (id, template, first_tick) = (cut.id, cut.template.clone(), cut.first_tick);
            let sample = cut.sample.as_deref().cloned();
            taken.push(PatternRow::Cut { id, template, first_tick, sample });
        }
        for number in rows {
            let row = &mut self.rows[number as usize];
            row.is_dirty = false;
            let (cut, service) = (self.cuts[row.cut as usize].id, row.service.clone());
            taken.push(PatternRow::Count { cut, service, level: row.level, count: row.count.clone() });
        }
        taken
    }

    /// Puts back the rows of a checkpoint, those of cuts before those of their counts.
    pub(super) fn restore(&mut self, rows: &[PatternRow]) {
        for row in rows {
            match row {
                PatternRow::Cut { id, template, first_tick, sample } => {
                    let number = self.cut(*id, template, *first_tick);
                    self.cuts[number as usize].sample = sample.clone().map(Arc::new);
                    self.began = Some(self.began.map_or(*first_tick, |began| began.min(*first_tick)));
                }
                PatternRow::Count { cut, service, level, count } => {
                    if let Some(&cut) = self.cut_numbers.get(cut) {
                        let number = self.row(cut, service, *level);
                        self.rows[number as usize].count = count.clone();
                    }
                }
            }
        }
    }

    fn cut(&mut self, id: u64, template: &Arc<str>, first_tick: Tick) -> u32 {
        if let Some(&number) = self.cut_numbers.get(&id) {
            let cut = &mut self.cuts[number as usize];
            cut.first_tick = cut.first_tick.min(first_tick);
            return number;
        }
        let number = self.cuts.len() as u32;
        self.cuts.push(Cut { id, template: template.clone(), first_tick, sample: None, is_dirty: false });
        self.cut_numbers.insert(id, number);
        number
    }

    fn row(&mut self, cut: u32, service: &Arc<str>, level: Level) -> u32 {
        let place = (cut, service.clone(), level);
        if let Some(&number) = self.row_numbers.get(&place) {
            return number;
        }
        let number = self.rows.len() as u32;
        self.rows.push(Row { cut, service: service.clone(), level, count: PatternCount::default(), is_dirty: false });
        self.row_numbers.insert(place, number);
        number
    }

    /// Adds an update. They come in order of time.
    pub(super) fn update(&mut self, update: PatternUpdate) {
        let PatternUpdate { partition, time, cuts, rows, samples, counts } = update;
        self.began.get_or_insert(time);
        let mut numbers = match self.partitions.get_mut(&partition) {
            Some(numbers) => std::mem::take(numbers),
            None => Numbers::default(),
        };
        for NamedCut { cut, id, template } in cuts {
            let number = self.cut(id, &template, time);
            set(&mut numbers.cuts, cut, number);
            self.note_cut(number);
        }
        for NamedRow { row, cut, service, level } in rows {
            let number = self.row(numbers.cuts[cut as usize], &service, level);
            set(&mut numbers.rows, row, number);
        }
        for CutSample { cut, timestamp_ms, offset, message } in samples {
            let topic = partition.topic.as_ref().into();
            let sample = Sample { timestamp_ms, topic, partition: partition.number, offset, message };
            let number = numbers.cuts[cut as usize];
            let known = &mut self.cuts[number as usize].sample;
            if known.as_deref().is_none_or(|known| sample < *known) {
                *known = Some(Arc::new(sample));
                self.note_cut(number);
            }
        }
        let part = time / self.part;
        for count in counts {
            let number = numbers.rows[count.row as usize];
            let row = &mut self.rows[number as usize];
            row.count.add(part, &count);
            if let Some(dirty) = &mut self.dirty
                && !std::mem::replace(&mut row.is_dirty, true)
            {
                dirty.rows.push(number);
            }
        }
        self.partitions.insert(partition, numbers);
    }

    fn note_cut(&mut self, number: u32) {
        if let Some(dirty) = &mut self.dirty
            && !std::mem::replace(&mut self.cuts[number as usize].is_dirty, true)
        {
            dirty.cuts.push(number);
        }
    }

    /// Id and template of each cut behind the first `known`.
    pub(super) fn named(&self, known: usize) -> Vec<(u64, Arc<str>)> {
        self.cuts[known..].iter().map(|cut| (cut.id, cut.template.clone())).collect()
    }

    /// What a read needs, copied.
    pub(super) fn copy(&self, frontier: Tick, known: usize, filter: &PatternFilter) -> Copied {
        let part = frontier.saturating_sub(1) / self.part;
        let count = |row: &Row| CopiedRow {
            cut: row.cut,
            service: row.service.clone(),
            level: row.level,
            count: row.count.count,
            recent: row.count.recent(part),
            first_ms: row.count.first_ms,
            last_ms: row.count.last_ms,
        };
        let matches = |row: &&Row| {
            filter.service.as_deref().is_none_or(|service| *row.service == *service)
                && filter.level.is_none_or(|level| row.level == level)
                && row.count.count > 0
        };
        let rate_from = ((part + 1).saturating_sub(PARTS) * self.part).max(self.began.unwrap_or(0));
        Copied {
            new: self.named(known),
            cuts: self.cuts.iter().map(|cut| (cut.first_tick, cut.sample.clone())).collect(),
            rows: self.rows.iter().filter(matches).map(count).collect(),
            began: self.began,
            rate_ticks: frontier.saturating_sub(rate_from),
        }
    }
}

/// Which records are counted in a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatternFilter {
    /// Of this service.
    pub service: Option<String>,
    /// Of this level.
    pub level: Option<Level>,
}

/// What was copied under the lock.
pub(super) struct Copied {
    new: Vec<(u64, Arc<str>)>,
    /// First timestamp and sample by number of the cut.
    cuts: Vec<(Tick, Option<Arc<Sample>>)>,
    rows: Vec<CopiedRow>,
    began: Option<Tick>,
    rate_ticks: Tick,
}

struct CopiedRow {
    cut: u32,
    service: Arc<str>,
    level: Level,
    count: i64,
    recent: u64,
    first_ms: Millis,
    last_ms: Millis,
}

/// A pattern of today with what is counted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedPattern {
    /// Its id.
    pub id: u64,
    /// Its template.
    pub template: Arc<str>,
    /// Its first cuts with their templates and counts, ascending by id.
    pub cuts: Vec<(u64, Arc<str>, i64)>,
    /// Records.
    pub count: i64,
    /// Records in the time that rates are taken over.
    pub recent: u64,
    /// Smallest event time.
    pub first_ms: Millis,
    /// Largest event time.
    pub last_ms: Millis,
    /// The first timestamp at which one of its cuts was counted, for any service and level.
    pub first_tick: Tick,
    /// The first records of its first cuts, of any service and level, by event time, partition and offset; up to
    /// [`MAX_SAMPLES`] with different messages.
    pub samples: Vec<Arc<Sample>>,
    /// Records by service.
    pub services: BTreeMap<Arc<str>, i64>,
    /// Records by level.
    pub levels: BTreeMap<Level, i64>,
}

/// All patterns that have records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatternsRead {
    /// In no particular order.
    pub patterns: Vec<CountedPattern>,
    /// The sum of their counts.
    pub count: i64,
    /// The first timestamp of all.
    pub began: Option<Tick>,
    /// The time that rates are taken over, in ticks.
    pub rate_ticks: Tick,
}

/// The patterns that the cuts known at the last read make up.
#[derive(Debug, Default)]
pub(super) struct Merged {
    cuts: Vec<(u64, Arc<str>)>,
    groups: HashMap<u64, Group>,
}

#[derive(Debug, Default)]
struct Group {
    cuts: Vec<u32>,
    patterns: Vec<MergedPattern>,
}

#[derive(Debug)]
struct MergedPattern {
    id: u64,
    template: Arc<str>,
    /// Numbers of cuts.
    cuts: Vec<u32>,
}

impl Merged {
    /// Takes in new cuts, and merges the groups that they are in.
    pub(super) fn take(&mut self, new: Vec<(u64, Arc<str>)>) {
        let mut changed = Vec::new();
        for (id, template) in new {
            // What was folded away is a group of its own.
            let group = if id == OTHER_CUT { OTHER_CUT } else { group_of(&template) };
            self.groups.entry(group).or_default().cuts.push(self.cuts.len() as u32);
            self.cuts.push((id, template));
            changed.push(group);
        }
        changed.sort_unstable();
        changed.dedup();
        for group in changed {
            let Some(group) = self.groups.get_mut(&group) else { continue };
            let cut = |number: &u32| {
                let (id, template) = &self.cuts[*number as usize];
                (*id, &**template)
            };
            let numbers: HashMap<u64, u32> = group.cuts.iter().map(|number| (cut(number).0, *number)).collect();
            let merged = merge_group(group.cuts.iter().map(cut).collect()).into_iter();
            group.patterns = merged
                .map(|pattern| MergedPattern {
                    id: pattern.id,
                    template: pattern.template.into(),
                    cuts: pattern.cuts.iter().filter_map(|id| numbers.get(id).copied()).collect(),
                })
                .collect();
        }
    }

    fn patterns(&self) -> impl Iterator<Item = &MergedPattern> {
        self.groups.values().flat_map(|group| &group.patterns)
    }

    /// How many cuts it knows.
    pub(super) fn known(&self) -> usize {
        self.cuts.len()
    }

    /// Brings the patterns up to what was copied for [`Merged::known`] cuts, and gives those that have records.
    pub(super) fn read(&mut self, copied: Copied) -> PatternsRead {
        let Copied { new, cuts, rows, began, rate_ticks } = copied;
        self.take(new);
        let mut by_cut: Vec<Vec<CopiedRow>> = Vec::new();
        by_cut.resize_with(cuts.len(), Vec::new);
        for row in rows {
            by_cut[row.cut as usize].push(row);
        }
        let mut read = PatternsRead { patterns: Vec::new(), count: 0, began, rate_ticks };
        for merged in self.patterns() {
            let mut pattern = CountedPattern {
                id: merged.id,
                template: merged.template.clone(),
                cuts: Vec::with_capacity(merged.cuts.len()),
                count: 0,
                recent: 0,
                first_ms: Millis::MAX,
                last_ms: 0,
                first_tick: Tick::MAX,
                samples: Vec::new(),
                services: BTreeMap::new(),
                levels: BTreeMap::new(),
            };
            for &number in &merged.cuts {
                let (first_tick, sample) = &cuts[number as usize];
                pattern.first_tick = pattern.first_tick.min(*first_tick);
                pattern.samples.extend(sample.clone());
                let mut of_cut = 0;
                for row in &by_cut[number as usize] {
                    of_cut += row.count;
                    pattern.recent += row.recent;
                    pattern.first_ms = pattern.first_ms.min(row.first_ms);
                    pattern.last_ms = pattern.last_ms.max(row.last_ms);
                    *pattern.services.entry(row.service.clone()).or_default() += row.count;
                    *pattern.levels.entry(row.level).or_default() += row.count;
                }
                let (id, template) = &self.cuts[number as usize];
                pattern.cuts.push((*id, template.clone(), of_cut));
                pattern.count += of_cut;
            }
            pattern.samples.sort_unstable();
            let mut messages = HashSet::new();
            pattern.samples.retain(|sample| messages.len() < MAX_SAMPLES && messages.insert(sample.message.clone()));
            if pattern.count > 0 {
                read.count += pattern.count;
                read.patterns.push(pattern);
            }
        }
        read
    }

    /// The ids of the first cuts that an id stands for in documents: those of the pattern of today that has it, else
    /// itself.
    pub(super) fn cuts_of(&self, id: u64) -> Vec<u64> {
        match self.patterns().find(|pattern| pattern.id == id) {
            Some(pattern) => pattern.cuts.iter().map(|number| self.cuts[*number as usize].0).collect(),
            None => vec![id],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_newest_parts() {
        let mut count = PatternCount::default();
        let add = |count: &mut PatternCount, part: u64, records: u32| {
            count.add(part, &RowCount { row: 0, count: records, first_ms: part, last_ms: part });
        };
        for part in 100..125 {
            add(&mut count, part, 1);
        }
        assert_eq!((count.count, count.recent(124), count.recent(126), count.recent(133)), (25, 10, 8, 1));
        assert_eq!((count.recent(134), count.recent(10_000)), (0, 0));
        add(&mut count, 130, 7);
        assert_eq!((count.recent(130), count.recent(131), count.recent(139)), (4 + 7, 3 + 7, 7));
        add(&mut count, 1_000, 5);
        assert_eq!(count.recent(1_000), 5);
        let mut early = PatternCount::default();
        add(&mut early, 0, 1);
        add(&mut early, 3, 1);
        assert_eq!((early.recent(3), early.recent(9), early.recent(10)), (2, 2, 1));
    }
}
