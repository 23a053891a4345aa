//! A chain of state files: each holds what changed since the one before.
//!
//! In: what a worker hands over; files, oldest first. Out: a file; or the state that the files make up together, row by
//! row in order of identity. Of rows with one identity the one of the latest file holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use floodmark_dataflows::checkpoint::{AlertRowValue, PartitionCut, SeenKeys, StateRow};
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::patterns::SeenPatterns;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, ViewId};

use super::compare::Fingerprint;
use super::contents::{LiveRows, PatternPlace, PatternRow, PatternsChunk, SeenChunk, ShardHead, TotalsRow};
use super::format::{Damage, EncodeError, FileReader, FileWriter, Kind, Tag};

/// A section is closed when it has this many bytes before compression.
const SECTION_BYTES: usize = 256 << 10;
/// Keys in one section.
const KEYS_PER_SECTION: usize = 10_000;

/// What identifies a row.
type Place = (ViewId, u8, Millis, Key);

fn place(row: &StateRow) -> Place {
    match row {
        StateRow::Pane(row) => (row.view, 0, row.pane, row.key.clone()),
        StateRow::Late(row) => (row.view, 1, row.window, row.key.clone()),
        StateRow::Series(row) => (row.view, 2, 0, row.key.clone()),
        StateRow::Values(row) => (row.view, 3, row.window, row.key.clone()),
        StateRow::Novelty(row) => (row.view, 5, 0, row.key.clone()),
        // A key has no control characters, so the two cannot run into each other.
        StateRow::Alert(row) => (row.view, 4, row.window, Key(format!("{}\n{}", row.key, row.alert).into())),
    }
}

/// Sorts the rows that a worker hands over as [`encode`] wants them.
pub fn sort(rows: &mut [StateRow]) {
    rows.sort_by_cached_key(place);
}

/// A file. `rows` come in order of identity. Gives the file and the number of its rows.
///
/// # Errors
/// What cannot be encoded, or an error that `rows` gave.
pub fn encode<E: From<EncodeError>>(
    head: &ShardHead,
    mut cuts: Vec<PartitionCut>,
    live: &LiveRows,
    rows: impl Iterator<Item = Result<StateRow, E>>,
) -> Result<(Vec<u8>, usize), E> {
    let mut file = FileWriter::new(Kind::Shard);
    file.add(Tag::Head, head)?;
    for cut in &mut cuts {
        for (view, keys) in (0..).zip(&mut cut.keys) {
            for seen in std::mem::take(&mut keys.seen).chunks(KEYS_PER_SECTION) {
                let chunk = SeenChunk { partition: cut.partition.clone(), view, seen: seen.to_vec() };
                file.add(Tag::Seen, &chunk)?;
            }
        }
    }
    for cut in &mut cuts {
        let seen = std::mem::take(&mut cut.patterns);
        if seen != SeenPatterns::default() {
            file.add(Tag::SeenPatterns, &PatternsChunk { partition: cut.partition.clone(), seen })?;
        }
    }
    let mut encoded = Encoded::new(Tag::Cuts);
    cuts.iter().try_for_each(|cut| encoded.push(&mut file, cut))?;
    encoded.finish(&mut file)?;
    let mut encoded = Encoded::new(Tag::Totals);
    live.totals.iter().try_for_each(|row| encoded.push(&mut file, row))?;
    encoded.finish(&mut file)?;
    let mut encoded = Encoded::new(Tag::Patterns);
    live.patterns.iter().try_for_each(|row| encoded.push(&mut file, row))?;
    encoded.finish(&mut file)?;
    let mut encoded = Encoded::new(Tag::Rows);
    let mut count = 0;
    for row in rows {
        encoded.push(&mut file, &row?)?;
        count += 1;
    }
    encoded.finish(&mut file)?;
    Ok((file.finish(), count))
}

/// Lists that are cut into sections.
struct Encoded {
    tag: Tag,
    items: Vec<u8>,
    count: usize,
}

impl Encoded {
    fn new(tag: Tag) -> Self {
        Self { tag, items: Vec::new(), count: 0 }
    }

    fn push<T: serde::Serialize>(&mut self, file: &mut FileWriter, item: &T) -> Result<(), EncodeError> {
        let items = std::mem::take(&mut self.items);
        self.items = postcard::to_extend(item, items).map_err(|error| EncodeError::new(&error))?;
        self.count += 1;
        if self.items.len() >= SECTION_BYTES { self.close(file) } else { Ok(()) }
    }

    /// A list is its length and its items.
    fn close(&mut self, file: &mut FileWriter) -> Result<(), EncodeError> {
        let mut raw = postcard::to_stdvec(&self.count).map_err(|error| EncodeError::new(&error))?;
        raw.append(&mut self.items);
        self.count = 0;
        file.add_raw(self.tag, &raw)
    }

    fn finish(mut self, file: &mut FileWriter) -> Result<(), EncodeError> {
        if self.count > 0 { self.close(file) } else { Ok(()) }
    }
}

/// A file that turned out damaged, by its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its place in the chain.
    pub file: usize,
    /// What is wrong.
    pub damage: Damage,
}

/// What a chain makes up, but for its rows.
#[derive(Debug, Default)]
pub struct Standing {
    /// Where each partition stands, with all keys that count.
    pub cuts: BTreeMap<PartitionInfo, PartitionCut>,
    /// What the live state has beside the rows.
    pub live: LiveRows,
}

/// Merges a chain.
pub struct Merge {
    sources: Vec<Source>,
    /// The first row of each source that has one.
    heads: BinaryHeap<Reverse<(Place, Reverse<usize>)>>,
}

struct Source {
    reader: FileReader,
    rows: IntoIter<StateRow>,
    first: Option<StateRow>,
}

impl Source {
    /// Moves on to the next row.
    fn advance(&mut self) -> Result<(), Damage> {
        loop {
            self.first = self.rows.next();
            if self.first.is_some() {
                return Ok(());
            }
            match self.reader.next_section()? {
                Some(section) if section.tag == Tag::Rows => self.rows = section.decode::<Vec<StateRow>>()?.into_iter(),
                Some(section) => {
                    return Err(Damage::Section { at: section.at, reason: "it does not belong behind rows".into() });
                }
                None => return Ok(()),
            }
        }
    }
}

impl Merge {
    /// Opens files, oldest first. `configuration` is the one that computed them.
    pub fn open(files: Vec<Bytes>, configuration: &Fingerprint) -> Result<(Standing, Self), Damaged> {
        let mut gathered = Gathered::default();
        let mut merge = Self { sources: Vec::new(), heads: BinaryHeap::new() };
        for (file, bytes) in files.into_iter().enumerate() {
            let damaged = |damage| Damaged { file, damage };
            let mut reader = FileReader::open(bytes, Kind::Shard).map_err(damaged)?;
            let rows = gathered.read(&mut reader).map_err(damaged)?.into_iter();
            let mut source = Source { reader, rows, first: None };
            source.advance().map_err(damaged)?;
            merge.sources.push(source);
            merge.push_head(file);
        }
        Ok((gathered.finish(configuration), merge))
    }

    fn push_head(&mut self, file: usize) {
        if let Some(row) = &self.sources[file].first {
            self.heads.push(Reverse((place(row), Reverse(file))));
        }
    }

    /// The next row.
    pub fn next_row(&mut self) -> Result<Option<StateRow>, Damaged> {
        let Some(Reverse((wanted, Reverse(file)))) = self.heads.pop() else { return Ok(None) };
        let row = self.take(file)?;
        while let Some(Reverse((older, Reverse(file)))) = self.heads.peek()
            && *older == wanted
        {
            let file = *file;
            self.heads.pop();
            self.take(file)?;
        }
        Ok(row)
    }

    fn take(&mut self, file: usize) -> Result<Option<StateRow>, Damaged> {
        let row = self.sources[file].first.take();
        self.sources[file].advance().map_err(|damage| Damaged { file, damage })?;
        self.push_head(file);
        Ok(row)
    }
}

/// Tells which rows still count at a tick. To be asked in order of identity: what a key's baselines have learned comes
/// before the values that they may have learned.
pub struct Living<'a> {
    configuration: &'a Fingerprint,
    at: Tick,
    /// Of each key, the first window that its baselines have not learned.
    learned: HashMap<(ViewId, Key), u64>,
}

impl<'a> Living<'a> {
    /// Nothing has been asked yet.
    pub fn new(configuration: &'a Fingerprint, at: Tick) -> Self {
        Self { configuration, at, learned: HashMap::new() }
    }

    /// Whether a row still counts.
    pub fn counts(&mut self, row: &StateRow) -> bool {
        let now = self.at.saturating_mul(self.configuration.tick_ms);
        let view = |view: ViewId| self.configuration.views.get(usize::from(view));
        match row {
            StateRow::Pane(row) => view(row.view).is_some_and(|view| view.pane_gone_at(row.pane) > now),
            StateRow::Late(row) => view(row.view).is_some_and(|view| view.window_gone_at(row.window) > now),
            StateRow::Series(row) => {
                let counts = view(row.view).is_some_and(|view| view.series_gone_at(&row.learned) > now);
                if counts {
                    self.learned.insert((row.view, row.key.clone()), row.learned.next);
                }
                counts
            }
            StateRow::Values(row) => {
                let learned = self.learned.get(&(row.view, row.key.clone()));
                learned.is_none_or(|next| row.window >= *next)
                    && view(row.view).is_some_and(|view| view.values_gone_at(row.window) > now)
            }
            StateRow::Novelty(row) => view(row.view).is_some_and(|view| view.news_gone_at(row.past.last()) > now),
            StateRow::Alert(row) => match &row.value {
                AlertRowValue::Fact(_) => view(row.view).is_some_and(|view| view.window_gone_at(row.window) > now),
                AlertRowValue::Gone { at: of, .. } => *of == self.at,
            },
        }
    }
}

type SeenBy = BTreeMap<(PartitionInfo, ViewId), BTreeMap<Arc<str>, Tick>>;

#[derive(Default)]
struct Gathered {
    cuts: BTreeMap<PartitionInfo, PartitionCut>,
    seen: SeenBy,
    totals: BTreeMap<(ViewId, Option<Key>), TotalsRow>,
    seen_patterns: BTreeMap<PartitionInfo, SeenPatterns>,
    patterns: BTreeMap<PatternPlace, PatternRow>,
}

impl Gathered {
    /// Reads a file up to its first rows.
    fn read(&mut self, reader: &mut FileReader) -> Result<Vec<StateRow>, Damage> {
        while let Some(section) = reader.next_section()? {
            match section.tag {
                Tag::Head => {
                    section.decode::<ShardHead>()?;
                }
                Tag::Cuts => {
                    for cut in section.decode::<Vec<PartitionCut>>()? {
                        self.cuts.insert(cut.partition.clone(), cut);
                    }
                }
                Tag::Seen => {
                    let SeenChunk { partition, view, seen } = section.decode()?;
                    self.seen.entry((partition, view)).or_default().extend(seen);
                }
                Tag::Totals => {
                    for row in section.decode::<Vec<TotalsRow>>()? {
                        let at = (row.view, row.key.clone());
                        match row.totals {
                            Some(_) => drop(self.totals.insert(at, row)),
                            None => drop(self.totals.remove(&at)),
                        }
                    }
                }
                Tag::SeenPatterns => {
                    let PatternsChunk { partition, seen } = section.decode()?;
                    self.seen_patterns.entry(partition).or_default().extend(seen);
                }
                Tag::Patterns => {
                    let rows = section.decode::<Vec<PatternRow>>()?.into_iter();
                    self.patterns.extend(rows.map(|row| (row.place(), row)));
                }
                Tag::Rows => return section.decode(),
                Tag::Manifest | Tag::Marks | Tag::Starts => {
                    return Err(Damage::Section { at: section.at, reason: "it does not belong into state".into() });
                }
            }
        }
        // Behind the footer there is nothing, whoever asks again.
        Ok(Vec::new())
    }

    fn finish(self, configuration: &Fingerprint) -> Standing {
        let Self { mut cuts, seen, totals, mut seen_patterns, patterns } = self;
        for (partition, cut) in &mut cuts {
            cut.patterns = seen_patterns.remove(partition).unwrap_or_default();
        }
        for ((partition, view), keys) in seen {
            let Some(cut) = cuts.get_mut(&partition) else { continue };
            let Some(of_view) = cut.keys.get_mut(usize::from(view)) else { continue };
            let forget_after = configuration.views.get(usize::from(view)).map_or(u64::MAX, |view| view.forget_after_ms);
            let after = (forget_after / configuration.tick_ms.max(1)).max(1);
            // The rule of the combiner, as of when it last applied it.
            let stays = |tick: &Tick| tick.saturating_add(after) > of_view.forgotten_at;
            of_view.seen = keys.into_iter().filter(|(_, tick)| stays(tick)).collect();
        }
        let live = LiveRows { totals: totals.into_values().collect(), patterns: patterns.into_values().collect() };
        Standing { cuts, live }
    }
}

/// Gives the rows, cuts and totals of a checkpoint the present numbers of their views. Those of views that are not
/// there any more are left out.
pub fn renumber(views: &[Option<ViewId>], count: usize, standing: &mut Standing, rows: &mut Vec<StateRow>) {
    let now = |view: ViewId| views.get(usize::from(view)).copied().flatten();
    for cut in standing.cuts.values_mut() {
        let mut keys = vec![SeenKeys::default(); count];
        for (then, of_view) in (0..).zip(std::mem::take(&mut cut.keys)) {
            if let Some(place) = now(then).and_then(|view| keys.get_mut(usize::from(view))) {
                *place = of_view;
            }
        }
        cut.keys = keys;
    }
    standing.live.totals.retain_mut(|row| now(row.view).map(|view| row.view = view).is_some());
    rows.retain_mut(|row| {
        let view = row.view_mut();
        now(*view).map(|now| *view = now).is_some()
    });
    sort(rows);
}
