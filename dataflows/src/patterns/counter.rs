//! Counting: how many messages of which first cut, service and level a partition has, combined per tick.
//!
//! In: the records of one partition in offset order, with their first cuts and timestamps. Out: [`PatternUpdate`]s, in
//! which cuts and rows go by numbers that the partition gives them; what a number stands for is said once, with the
//! update that uses it first. Nothing here fails.
//!
//! A row is a first cut, a service and a level. Rows are bounded like cuts, in offset order: services that do not fit are
//! counted as the service [`OTHER`]. So what is counted how is a function of the partition's contents alone.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::admission::FirstCuts;
use super::cut::FirstCut;
use crate::input::PartitionInfo;
use crate::record::{Level, Record};
use crate::time::{Millis, Tick};
use crate::view::OTHER;

/// Rows per first cut, on the average of a partition, before further services are counted together.
const ROWS_PER_CUT: usize = 8;

/// Bytes of a message that are kept as a sample.
pub const SAMPLE_BYTES: usize = 512;

/// What messages of a partition add to the counts, in a tick.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PatternUpdate {
    /// The partition, whose numbers these are.
    pub partition: Arc<PartitionInfo>,
    /// The timestamp of the records.
    pub time: Tick,
    /// Cuts that no update named before in this run.
    pub cuts: Vec<NamedCut>,
    /// Rows that no update named before in this run.
    pub rows: Vec<NamedRow>,
    /// Messages that come before all of their cut that were sent before, by event time.
    pub samples: Vec<CutSample>,
    /// What is added, a row once.
    pub counts: Vec<RowCount>,
}

/// What the number of a cut stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedCut {
    /// Its number in the partition.
    pub cut: u32,
    /// The id of the first cut.
    pub id: u64,
    /// Its template.
    pub template: Arc<str>,
}

/// What the number of a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedRow {
    /// Its number in the partition.
    pub row: u32,
    /// The number of its cut.
    pub cut: u32,
    /// The service.
    pub service: Arc<str>,
    /// The level.
    pub level: Level,
}

/// A message of a cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CutSample {
    /// The number of the cut.
    pub cut: u32,
    /// Event time.
    pub timestamp_ms: Millis,
    /// The offset of the record.
    pub offset: u64,
    /// The message, or its first [`SAMPLE_BYTES`].
    pub message: Box<str>,
}

/// What is added to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowCount {
    /// The number of the row.
    pub row: u32,
    /// Records.
    pub count: u32,
    /// Their smallest event time.
    pub first_ms: Millis,
    /// Their largest event time.
    pub last_ms: Millis,
}

/// Cuts and rows that a partition admitted from a cut of the partition on, in the order of their numbers. Those before
/// them are in the cuts of the partition before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPatterns {
    /// How many cuts were admitted before these.
    pub cuts_before: u32,
    /// Their templates.
    pub cuts: Vec<Box<str>>,
    /// How many rows were admitted before these.
    pub rows_before: u32,
    /// The number of the cut, the service and the level of each.
    pub rows: Vec<(u32, Arc<str>, Level)>,
}

impl SeenPatterns {
    /// Appends what a later cut of the same partition has.
    pub fn extend(&mut self, later: SeenPatterns) {
        self.cuts.truncate(later.cuts_before.saturating_sub(self.cuts_before) as usize);
        self.cuts.extend(later.cuts);
        self.rows.truncate(later.rows_before.saturating_sub(self.rows_before) as usize);
        self.rows.extend(later.rows);
    }
}

/// The counter of one partition.
#[derive(Debug)]
pub struct PatternCounter {
    partition: Arc<PartitionInfo>,
    max_rows: usize,
    cuts: FirstCuts,
    /// By number of the cut.
    known: Vec<Known>,
    /// Numbers of services.
    services: HashMap<Arc<str>, u32, FixedState>,
    names: Vec<Arc<str>>,
    /// Rows by service, cut and level.
    index: HashMap<u64, u32, FixedState>,
    rows: Vec<Row>,
    /// The timestamp of everything gathered and not yet drained.
    time: Tick,
    /// Rows that have something gathered.
    touched: Vec<u32>,
    samples: Vec<CutSample>,
}

#[derive(Debug)]
struct Known {
    admitted: Tick,
    is_named: bool,
    /// The smallest event time of which a sample was sent.
    sampled_ms: Millis,
}

#[derive(Debug)]
struct Row {
    cut: u32,
    service: u32,
    level: Level,
    admitted: Tick,
    is_named: bool,
    count: u32,
    first_ms: Millis,
    last_ms: Millis,
}

/// The number of the service [`OTHER`].
const OTHER_SERVICE: u32 = 0;

impl Known {
    fn new(admitted: Tick) -> Self {
        Self { admitted, is_named: false, sampled_ms: Millis::MAX }
    }
}

impl PatternCounter {
    /// A counter that keeps at most `max_cuts` first cuts.
    pub fn new(partition: Arc<PartitionInfo>, max_cuts: usize) -> Self {
        let other: Arc<str> = OTHER.into();
        Self {
            partition,
            max_rows: max_cuts.saturating_mul(ROWS_PER_CUT),
            cuts: FirstCuts::new(max_cuts),
            known: vec![Known::new(0)],
            services: HashMap::from_iter([(other.clone(), OTHER_SERVICE)]),
            names: vec![other],
            index: HashMap::default(),
            rows: Vec::new(),
            time: 0,
            touched: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Goes on with what was admitted before a cut of the partition.
    pub fn restore(&mut self, seen: &SeenPatterns) {
        for template in &seen.cuts {
            self.cuts.restore(FirstCut::of_template(template));
            self.known.push(Known::new(0));
        }
        for (cut, service, level) in &seen.rows {
            let service = self.intern(service);
            self.push(*cut, service, *level, 0);
        }
    }

    /// What was admitted at or after `since`.
    pub fn seen_since(&self, since: Tick) -> SeenPatterns {
        // The first stands for all others and is always there.
        let cuts_before = self.known.partition_point(|known| known.admitted < since).max(1);
        let rows_before = self.rows.partition_point(|row| row.admitted < since);
        let row = |row: &Row| (row.cut, self.names[row.service as usize].clone(), row.level);
        SeenPatterns {
            cuts_before: cuts_before as u32 - 1,
            cuts: self.cuts.cuts().skip(cuts_before).map(|(_, template)| template.into()).collect(),
            rows_before: rows_before as u32,
            rows: self.rows[rows_before..].iter().map(row).collect(),
        }
    }

    /// Counts a record with timestamp `time`, which never falls. Updates of an earlier timestamp are first drained into
    /// `out`. Returns the cut that the record counts as.
    #[inline]
    pub fn add(
        &mut self,
        time: Tick,
        offset: u64,
        record: &Record<'_>,
        message: &str,
        cut: FirstCut<'_>,
        out: &mut Vec<PatternUpdate>,
    ) -> FirstCut<'_> {
        if time != self.time {
            self.drain(out);
            self.time = time;
        }
        let cut = self.cuts.admit(cut);
        if cut as usize == self.known.len() {
            self.known.push(Known::new(time));
        }
        let event = record.timestamp_ms;
        if event < self.known[cut as usize].sampled_ms {
            self.sample(cut, event, offset, message);
        }
        let number = self.row(cut, &record.service_name, record.level);
        let row = &mut self.rows[number as usize];
        if row.count == 0 {
            self.touched.push(number);
        }
        row.count += 1;
        row.first_ms = row.first_ms.min(event);
        row.last_ms = row.last_ms.max(event);
        let (id, template) = self.cuts.cut(cut);
        FirstCut { id, template }
    }

    #[cold]
    fn sample(&mut self, cut: u32, event: Millis, offset: u64, message: &str) {
        self.known[cut as usize].sampled_ms = event;
        let message = message[..message.floor_char_boundary(SAMPLE_BYTES)].into();
        self.samples.retain(|sample| sample.cut != cut);
        self.samples.push(CutSample { cut, timestamp_ms: event, offset, message });
    }

    #[inline]
    fn row(&mut self, cut: u32, service: &str, level: Level) -> u32 {
        let known = self.services.get(service).and_then(|service| self.index.get(&place(cut, *service, level)));
        match known {
            Some(&row) => row,
            None => self.new_row(cut, service, level),
        }
    }

    #[cold]
    fn new_row(&mut self, cut: u32, service: &str, level: Level) -> u32 {
        let service = if self.rows.len() < self.max_rows { self.intern(service) } else { OTHER_SERVICE };
        match self.index.get(&place(cut, service, level)) {
            Some(&row) => row,
            None => self.push(cut, service, level, self.time),
        }
    }

    fn intern(&mut self, service: &str) -> u32 {
        if let Some(&number) = self.services.get(service) {
            return number;
        }
        let (number, name) = (self.names.len() as u32, Arc::<str>::from(service));
        self.names.push(name.clone());
        self.services.insert(name, number);
        number
    }

    fn push(&mut self, cut: u32, service: u32, level: Level, admitted: Tick) -> u32 {
        let number = self.rows.len() as u32;
        let (count, first_ms, last_ms) = (0, Millis::MAX, 0);
        self.rows.push(Row { cut, service, level, admitted, is_named: false, count, first_ms, last_ms });
        self.index.insert(place(cut, service, level), number);
        number
    }

    /// Moves everything gathered into `out`.
    pub fn drain(&mut self, out: &mut Vec<PatternUpdate>) {
        if self.touched.is_empty() {
            return;
        }
        let mut update = PatternUpdate {
            partition: self.partition.clone(),
            time: self.time,
            cuts: Vec::new(),
            rows: Vec::new(),
            samples: std::mem::take(&mut self.samples),
            counts: Vec::with_capacity(self.touched.len()),
        };
        for number in self.touched.drain(..) {
            let row = &mut self.rows[number as usize];
            if !std::mem::replace(&mut row.is_named, true) {
                let Row { cut, service, level, .. } = *row;
                if !std::mem::replace(&mut self.known[cut as usize].is_named, true) {
                    let (id, template) = self.cuts.cut(cut);
                    update.cuts.push(NamedCut { cut, id, template: template.into() });
                }
                let service = self.names[service as usize].clone();
                update.rows.push(NamedRow { row: number, cut, service, level });
            }
            let Row { count, first_ms, last_ms, .. } = *row;
            update.counts.push(RowCount { row: number, count, first_ms, last_ms });
            (row.count, row.first_ms, row.last_ms) = (0, Millis::MAX, 0);
        }
        out.push(update);
    }
}

/// A row's place in the index. There are fewer than 2^29 cuts and eight levels.
#[inline]
fn place(cut: u32, service: u32, level: Level) -> u64 {
    u64::from(service) << 32 | u64::from(cut) << 3 | level as u64
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use super::*;
    use crate::patterns::Cutter;

    fn counter(max: usize) -> PatternCounter {
        PatternCounter::new(Arc::new(PartitionInfo { topic: "t".into(), identity: "t".into(), number: 0 }), max)
    }

    fn add(counter: &mut PatternCounter, time: Tick, service: &str, message: &str, out: &mut Vec<PatternUpdate>) {
        let record = Record {
            timestamp_ms: time * 1_000 + 5,
            service_name: Cow::Borrowed(service),
            level: Level::Warn,
            ..Record::default()
        };
        counter.add(time, time, &record, message, Cutter::default().cut(message), out);
    }

    /// Counts by template and service.
    fn counts(updates: &[PatternUpdate]) -> BTreeMap<(String, String), u32> {
        let (mut cuts, mut rows, mut counts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for update in updates {
            cuts.extend(update.cuts.iter().map(|cut| (cut.cut, cut.template.to_string())));
            let named = |row: &NamedRow| (row.row, (cuts[&row.cut].clone(), row.service.to_string()));
            rows.extend(update.rows.iter().map(named));
            for count in &update.counts {
                *counts.entry(rows[&count.row].clone()).or_default() += count.count;
            }
        }
        counts
    }

    #[test]
    fn what_was_admitted_goes_on_after_a_cut() {
        let (mut whole, mut first) = (counter(3), counter(3));
        let (mut expected, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let messages = ["a b", "c d", "e f", "g h", "a b", "c d", "i j", "e f"];
        for (time, message) in (0..).zip(messages) {
            add(&mut whole, time, ["x", "y"][time as usize % 2], message, &mut expected);
        }
        whole.drain(&mut expected);
        for (time, message) in (0..2).zip(messages) {
            add(&mut first, time, ["x", "y"][time as usize % 2], message, &mut before);
        }
        let mut seen = first.seen_since(0);
        for (time, message) in (0..4).zip(messages).skip(2) {
            add(&mut first, time, ["x", "y"][time as usize % 2], message, &mut before);
        }
        first.drain(&mut before);
        let later = first.seen_since(2);
        assert_eq!((later.cuts_before, later.cuts.len(), later.rows_before), (2, 1, 2));
        seen.extend(later.clone());
        seen.extend(later);
        let mut second = counter(3);
        second.restore(&seen);
        for (time, message) in (0..).zip(messages).skip(4) {
            add(&mut second, time, ["x", "y"][time as usize % 2], message, &mut after);
        }
        second.drain(&mut after);
        let mut sum = counts(&before);
        counts(&after).into_iter().for_each(|(row, count)| *sum.entry(row).or_default() += count);
        assert_eq!(sum, counts(&expected));
        assert_eq!(sum.values().sum::<u32>(), 8);
        assert!(sum.keys().any(|(template, _)| template == OTHER), "the fourth did not fit: {sum:?}");
    }

    #[test]
    fn services_that_do_not_fit_are_counted_together() {
        let (mut counter, mut out) = (counter(1), Vec::new());
        for n in 0..100 {
            add(&mut counter, 7, &format!("service-{n}"), "hello", &mut out);
        }
        counter.drain(&mut out);
        let counts = counts(&out);
        assert_eq!(counts.len(), ROWS_PER_CUT + 1);
        assert_eq!(counts[&("hello".to_owned(), OTHER.to_owned())], 100 - ROWS_PER_CUT as u32);
        assert_eq!(out[0].samples.len(), 1, "one sample a cut");
    }
}
