//! The naive reference: every record is kept, every window is computed from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use floodmark_dataflows::aggregate::{Accumulator, Aggregate};
use floodmark_dataflows::corrections::Measures;
use floodmark_dataflows::decode::Decoder;
use floodmark_dataflows::detect::{BaselineState, Scored as Judged};
use floodmark_dataflows::numbers::NumberSummary;
use floodmark_dataflows::output::{
    Evidence, Previous, RecordRange, ResponseTime, WindowDocument, WindowScore, WindowState,
};
use floodmark_dataflows::patterns::{Cutter, FirstCut};
use floodmark_dataflows::record::Level;
use floodmark_dataflows::rules::Rules;
use floodmark_dataflows::scores::ScoredMeasure;
use floodmark_dataflows::time::Millis;
use floodmark_dataflows::view::{Key, OTHER, View};

#[path = "../support/scores.rs"]
mod fold;
use fold::{Content, Scored, with_baselines};

/// What is counted of a first cut, a service and a level: records, first and last event time.
pub type PatternCounts = BTreeMap<(String, String, Level), (u64, Millis, Millis)>;
/// Event time, partition and offset of the sample of each first cut, and the message.
pub type Samples = BTreeMap<String, (Millis, i32, u64, String)>;

/// The topic that records are of; their places in their partitions are their offsets.
pub const TOPIC: &str = "logs";

/// First cuts that a partition keeps.
pub const MAX_PATTERNS: usize = 5;

/// What a run over these partitions must end with.
pub struct Expected {
    /// The last document of each (view, key, start).
    pub windows: BTreeMap<(String, String, Millis), WindowDocument>,
    /// Records per (view, key) that no window took.
    pub too_late: BTreeMap<(usize, Key), i64>,
    /// Records per (view, key).
    pub totals: BTreeMap<(usize, Key), i64>,
    /// Records per first cut, service and level.
    pub patterns: PatternCounts,
    /// The first record of each first cut.
    pub samples: Samples,
}

/// The records of a row by tick, and which ticks were late.
#[derive(Default)]
struct Row {
    ticks: BTreeMap<u64, Accumulator>,
    late: BTreeSet<u64>,
    places: Places,
}

/// By partition: the offset and the clock of each record.
type Places = BTreeMap<i32, Vec<(u64, u64)>>;

/// A row with what is counted at each tick.
struct Contents {
    ticks: BTreeMap<u64, Aggregate>,
    late: BTreeSet<u64>,
    places: Places,
}

impl Contents {
    fn of(row: Row) -> Self {
        let ticks = row.ticks.into_iter().map(|(tick, mut records)| (tick, records.take())).collect();
        Self { ticks, late: row.late, places: row.places }
    }

    fn offsets(&self, tick_ms: u64) -> Vec<RecordRange> {
        let of = |(&number, places): (&i32, &Vec<(u64, u64)>)| RecordRange {
            topic: TOPIC.into(),
            partition: number,
            identity: TOPIC.into(),
            first: places[0].0,
            last: places[places.len() - 1].0,
            clock: places[0].1 * tick_ms,
        };
        self.places.iter().map(of).collect()
    }
}

/// A document of a window without records whose score is not worth one: it had one for a while.
pub fn is_withdrawn(document: &WindowDocument) -> bool {
    document.count == 0 && document.score.as_ref().is_none_or(|score| score.score < 50)
}

pub fn expected(
    partitions: &[Vec<Vec<u8>>],
    decoder: &mut Decoder,
    rules: &Rules,
    views: &[Arc<View>],
    tick_ms: u64,
) -> Expected {
    let mut rows: BTreeMap<(usize, Key, Millis), Row> = BTreeMap::new();
    let (mut too_late, mut totals) = (BTreeMap::new(), BTreeMap::new());
    let (mut patterns, mut samples) = (PatternCounts::new(), Samples::new());
    let mut end = 0;
    for (number, partition) in (0..).zip(partitions) {
        let mut clock = 0;
        let mut templates = BTreeSet::new();
        let mut admitted = vec![BTreeSet::new(); views.len()];
        for (offset, raw) in (0..).zip(partition) {
            let Ok(mut record) = decoder.decode(raw) else { continue };
            clock = clock.max(record.timestamp_ms / tick_ms);
            let event = record.timestamp_ms;
            let message = record.message().into_owned();
            let mut template = Cutter::default().cut(&message).template.to_owned();
            if !templates.contains(&template) {
                if templates.len() < MAX_PATTERNS {
                    templates.insert(template.clone());
                } else {
                    template = OTHER.to_owned();
                }
            }
            let sample = (event, number, offset, message);
            let known = samples.entry(template.clone()).or_insert_with(|| sample.clone());
            *known = known.clone().min(sample);
            let counted = template.clone();
            let place = (template, record.service_name.to_string(), record.level);
            let sum = patterns.entry(place).or_insert((0, Millis::MAX, 0));
            *sum = (sum.0 + 1, sum.1.min(event), sum.2.max(event));
            record.pattern = Some(FirstCut::of_template(&counted));
            let time_ms = clock * tick_ms;
            let verdict = rules.judge(&record);
            for (id, view) in views.iter().enumerate() {
                if !view.conditions.iter().all(|condition| condition.holds(&record)) {
                    continue;
                }
                let values: Vec<_> =
                    view.key_fields.iter().map(|&f| record.text(f).unwrap_or_default().into_owned()).collect();
                let mut key = Key::from_values(&values);
                if !admitted[id].contains(&key) {
                    if admitted[id].len() < view.max_keys {
                        admitted[id].insert(key.clone());
                    } else {
                        key = Key::from_values(&vec![OTHER; values.len()]);
                    }
                }
                *totals.entry((id, key.clone())).or_default() += 1;
                let mut is_taken = false;
                let first = (record.timestamp_ms + 1).saturating_sub(view.width_ms).div_ceil(view.slide_ms);
                for start in (first * view.slide_ms..=record.timestamp_ms).step_by(view.slide_ms as usize) {
                    if time_ms >= start + view.width_ms + view.retention_ms {
                        continue;
                    }
                    is_taken = true;
                    let row = rows.entry((id, key.clone(), start)).or_default();
                    row.ticks.entry(clock).or_default().add(&record, verdict, &view.number_sources);
                    row.places.entry(number).or_default().push((offset, clock));
                    if time_ms >= start + view.width_ms + view.lateness_ms {
                        row.late.insert(clock);
                    }
                }
                if !is_taken {
                    *too_late.entry((id, key)).or_default() += 1;
                }
            }
        }
        end = end.max(clock);
    }
    let rows: BTreeMap<_, _> = rows.into_iter().map(|(place, row)| (place, Contents::of(row))).collect();
    let mut scores = Vec::new();
    for (id, view) in views.iter().enumerate() {
        let mut presence = Presence::new();
        for (_, key, start) in rows.keys().filter(|(of, ..)| *of == id) {
            presence.entry(key.clone()).or_default().insert(start / view.slide_ms);
        }
        for key in presence.keys() {
            let of_key = |(of, other, _): &(usize, Key, Millis)| *of == id && other == key;
            let windows = rows.iter().filter(|(place, _)| of_key(place)).map(|(place, row)| (place.2, row)).collect();
            let news = |window| news_of(view, &presence, key, window);
            scores.extend(
                scores_of(view, &windows, news, end, tick_ms).into_iter().map(|(w, s)| ((id, key.clone(), w), s)),
            );
        }
    }
    let mut scores: BTreeMap<_, _> = scores.into_iter().collect();
    let mut windows: BTreeMap<_, _> = rows
        .into_iter()
        .map(|((id, key, start), row)| {
            let view = &views[id];
            let final_at = start + view.width_ms + view.lateness_ms;
            let is_final = end * tick_ms >= final_at;
            let ticks = &row.ticks;
            let scored = scores.remove(&(id, key.clone(), start));
            let sum = |of: &dyn Fn(u64) -> bool| {
                let mut sum = Aggregate::default();
                ticks.iter().filter(|(tick, _)| of(**tick)).for_each(|(_, records)| sum.plus_equals(records));
                sum
            };
            let as_of = |late: Option<&u64>| final_at.max(late.map_or(0, |tick| (tick + 1) * tick_ms));
            let previous = row.late.last().map(|&last| {
                let before = sum(&|tick| tick < last);
                let measures = Measures::of(&before);
                Previous {
                    count: before.count(),
                    errors: before.errors(),
                    anomalies: before.anomalies,
                    response_time_ms: measures.response.as_ref().map(ResponseTime::of),
                    numbers: summaries(view, &measures),
                    rules: matches(view, &before),
                    as_of: as_of(row.late.range(..last).last()),
                }
            });
            let state = WindowState {
                revision: row.late.len() as u32,
                late_records: sum(&|tick| row.late.contains(&tick)).count(),
                previous: previous.filter(|previous| previous.count > 0),
                is_final,
                partial: false,
                as_of_ms: if is_final { as_of(row.late.last()) } else { end * tick_ms },
            };
            let mut document = WindowDocument::new(view, &key, start, &Measures::of(&sum(&|_| true)), state);
            if let Some(scored) = scored {
                if is_final {
                    document.as_of = document.as_of.max(as_of(scored.last.as_ref()));
                }
                document.evidence = evidence(scored.states);
                document.score = Some(WindowScore { offsets: row.offsets(tick_ms), ..scored.score });
            } else if view.is_watched {
                document.evidence = Some(Arc::new(Evidence { offsets: row.offsets(tick_ms), ..Evidence::default() }));
            }
            let place = (view.name.to_string(), key.values().join("/"), start);
            (place, document)
        })
        .collect();
    // What is left are windows without records.
    for ((id, key, start), scored) in scores {
        let view = &views[id];
        let final_at = start + view.width_ms + view.lateness_ms;
        let is_final = end * tick_ms >= final_at;
        let last = scored.last.map_or(0, |tick| (tick + 1) * tick_ms);
        let as_of_ms = if is_final { final_at.max(last) } else { end * tick_ms };
        let empty = Aggregate { first_ms: start, last_ms: start, ..Aggregate::default() };
        let state = WindowState { is_final, as_of_ms, ..WindowState::default() };
        let mut document = WindowDocument::new(view, &key, start, &Measures::of(&empty), state);
        document.score = Some(scored.score);
        document.evidence = evidence(scored.states);
        windows.insert((view.name.to_string(), key.values().join("/"), start), document);
    }
    Expected { windows, too_late, totals, patterns, samples }
}

/// Windows in which keys and groups of keys had records, by the number of the window.
type Presence = BTreeMap<Key, BTreeSet<u64>>;

/// The score of the window in which a key comes for the first time, if its view scores that.
fn news_of(view: &View, presence: &Presence, key: &Key, window: u64) -> Option<Judged> {
    let place = view.news_place()?;
    let group = |key: &Key| {
        let mut values = key.values();
        values.remove(place);
        values
    };
    if key.values()[place] == OTHER {
        return None;
    }
    let forget = (view.forget_after_ms / view.slide_ms).max(1_001);
    // Windows that are gone when this one closes.
    let close = window * view.slide_ms + view.width_ms;
    let is_gone = |at: &u64| at * view.slide_ms + view.width_ms + view.retention_ms <= close;
    let of_group: Vec<_> = presence.iter().filter(|(other, _)| group(other) == group(key)).collect();
    let mut present: Vec<u64> = of_group.iter().flat_map(|(_, at)| at.iter().copied().filter(is_gone)).collect();
    present.sort_unstable();
    let born = |by: u64| {
        let mut life = None;
        for &at in present.iter().filter(|at| **at <= by) {
            life = match life {
                Some((first, last)) if at <= last + forget => Some((first, at)),
                _ => Some((at, at)),
            };
        }
        life
    };
    let horizon = (close - view.width_ms + 1).saturating_sub(view.retention_ms).div_ceil(view.slide_ms);
    let known = born(u64::MAX).filter(|(first, last)| window >= first + 144 && horizon <= last + forget);
    let expected = known.map(|(first, _)| {
        let from = first.max(horizon.saturating_sub(forget));
        let mut news = BTreeSet::new();
        for (_, at) in of_group.iter().filter(|(key, _)| key.values()[place] != OTHER) {
            let mut last: Option<u64> = None;
            for &at in at.iter().filter(|at| is_gone(at)) {
                let is_new = last.is_none_or(|last| at > last + forget);
                if is_new && at >= from && born(at).is_some_and(|(first, _)| at >= first + 144) {
                    news.insert(at);
                }
                last = Some(at);
            }
        }
        assert!(news.len() < 256, "more news than are counted");
        significant((news.len() + 1) as f64 / (window - from) as f64)
    });
    Some(Judged::never_before(expected.unwrap_or(1.0), view.slide_ms, expected.is_none()))
}

/// What a document says of the numbers that its view names.
fn summaries(view: &View, measures: &Measures) -> BTreeMap<Arc<str>, NumberSummary> {
    let named = view.numbers.iter().zip(&measures.numbers).filter(|(name, _)| !name.starts_with("rule:"));
    named.filter_map(|(name, of)| Some((name.clone(), (*of)?.into()))).collect()
}

/// What it says of the rules.
fn matches(view: &View, sum: &Aggregate) -> BTreeMap<Arc<str>, i64> {
    let named = view.numbers.iter().zip(&sum.numbers).map(|(name, of)| (name, of.values.total()));
    named.filter(|(_, n)| *n > 0).filter_map(|(name, n)| Some((name.strip_prefix("rule:")?.into(), n))).collect()
}

/// With three significant digits.
fn significant(number: f64) -> f64 {
    let scale = 10f64.powi(2 - number.log10().floor() as i32);
    (number * scale).round() / scale
}

/// What an alert takes along of a window with a score.
fn evidence(states: Option<Vec<BaselineState>>) -> Option<Arc<Evidence>> {
    states.map(|states| Arc::new(Evidence { offsets: Vec::new(), baselines: states.into() }))
}

/// The scores of a key's windows as of the end.
fn scores_of(
    view: &View,
    windows: &BTreeMap<Millis, &Contents>,
    news: impl Fn(u64) -> Option<Judged>,
    end: u64,
    tick_ms: u64,
) -> BTreeMap<Millis, Scored> {
    let content = |row: &Contents, at: u64| {
        let mut sum = Aggregate::default();
        row.ticks.range(..at).for_each(|(_, records)| sum.plus_equals(records));
        let value = |measure: &ScoredMeasure| measure.value(&sum, view.width_ms, &view.numbers).unwrap_or(f64::NAN);
        (sum.count() > 0).then(|| with_baselines(view).map(value).collect())
    };
    let mut contents = BTreeMap::new();
    for (&start, &row) in windows {
        let ticks = row.ticks.keys().copied().collect();
        contents.insert(start, Content { ticks, late: &row.late, values: Box::new(move |at| content(row, at)) });
    }
    fold::scores_of(view, &contents, &news, end, tick_ms)
}
