//! Combining before the exchange: one update per (view, key, pane) and tick instead of one per record.
//!
//! In: decoded records of one partition, in offset order, with their timestamps. Out: [`ViewUpdate`]s. A combiner
//! belongs to one partition, because which keys fit into `max_keys` must be a function of that partition's contents
//! alone. Nothing here fails.
//!
//! # Ticks
//!
//! Of a window that is not final, nothing is published where only final windows are, and nobody asks where there is
//! neither a live state nor a checkpoint. Then it makes no difference at which tick before that a record came, and
//! [`Grain::Reading`] combines what is read in one go. Late records keep their ticks: corrections tell
//! them apart.

use std::collections::HashMap;
use std::sync::Arc;

use differential_dataflow::difference::IsZero;
use foldhash::fast::FixedState;

use crate::aggregate::Accumulator;
use crate::checkpoint::SeenKeys;
use crate::input::PartitionInfo;
use crate::output::ViewUpdate;
use crate::patterns::FirstCut;
use crate::ranges::Range;
use crate::record::{FieldRef, Record};
use crate::rules::Verdict;
use crate::time::{Millis, Tick, window_start};
use crate::view::{Key, OTHER, View, ViewId, unescape};

/// How many times per `forget_after` silent keys are looked for.
const FORGET_CHECKS: u64 = 16;

/// Panes of keys that are gathered over more than a tick, at the most.
const MAX_GATHERED: usize = 1_024;

/// What is combined into one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Records of one tick.
    Tick,
    /// Records read in one go; late ones of one tick.
    Reading,
}

/// The combiner of one partition, over all views.
#[derive(Debug)]
pub struct Combiner {
    partition: Arc<PartitionInfo>,
    tick_ms: u64,
    grain: Grain,
    /// The timestamp of the last record.
    time: Tick,
    views: Vec<ViewCombiner>,
    /// Accumulators whose buffers can be used again.
    spare: Vec<Accumulator>,
}

#[derive(Debug)]
struct ViewCombiner {
    view: Arc<View>,
    pane_ms: u64,
    /// Slots by the value of the key field, or by the encoded key where there are several fields, with the id of the
    /// pattern for its template, which is longer. Never iterated in an order that shows.
    index: HashMap<Arc<str>, u32, FixedState>,
    slots: Vec<Slot>,
    /// Slots of forgotten keys.
    free: Vec<u32>,
    /// The slot of each pane that something is gathered for.
    touched: Vec<u32>,
    /// The slot of [`OTHER`], once a key did not fit.
    other: Option<u32>,
    /// The pane that the last record fell into.
    last_pane: Millis,
    /// The first tick at which a window over that pane is final.
    final_at: Tick,
    /// The encoded key of the last record, where there are several key fields.
    scratch: String,
    /// When silent keys were last looked for.
    forgotten_at: Tick,
    /// When they are looked for again.
    next_forget: Tick,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    last_seen: Tick,
    /// What is gathered, by pane.
    gathered: Vec<Gathered>,
}

/// What is gathered of a key in a pane.
#[derive(Debug)]
struct Gathered {
    /// `None` stands for records too late for every window.
    pane: Option<Millis>,
    /// Its tick; without one, any before a window over the pane is final is as good.
    late: Option<Tick>,
    accumulator: Accumulator,
    first: RecordPlace,
    last: u64,
}

/// Where a record is in its partition.
#[derive(Clone, Copy, Debug)]
pub struct RecordPlace {
    /// Its offset.
    pub offset: u64,
    /// The partition's event clock, with the record.
    pub clock: Tick,
}

impl Combiner {
    /// A combiner of a partition for these views, whose numbers are their places.
    pub fn new(partition: Arc<PartitionInfo>, views: &[Arc<View>], tick_ms: u64, grain: Grain) -> Self {
        let views = views
            .iter()
            .map(|view| ViewCombiner {
                view: view.clone(),
                pane_ms: view.pane_ms(),
                index: HashMap::default(),
                slots: Vec::new(),
                free: Vec::new(),
                touched: Vec::new(),
                other: None,
                last_pane: 0,
                final_at: final_tick(view, 0, tick_ms),
                scratch: String::new(),
                forgotten_at: 0,
                next_forget: 0,
            })
            .collect();
        Self { partition, tick_ms, grain, time: 0, views, spare: Vec::new() }
    }

    /// Goes on with the keys that were seen before a cut, by view.
    pub fn restore(&mut self, keys: &[SeenKeys]) {
        for (view, keys) in self.views.iter_mut().zip(keys) {
            view.restore(keys, self.tick_ms);
        }
    }

    /// The keys seen at or after `since`, by view.
    pub fn seen_since(&self, since: Tick) -> Vec<SeenKeys> {
        self.views.iter().map(|view| view.seen_since(since)).collect()
    }

    /// Adds a record with timestamp `time`, which never falls. What cannot be combined with it is first drained into `out`.
    #[inline]
    pub fn add(
        &mut self,
        time: Tick,
        place: RecordPlace,
        record: &Record<'_>,
        verdict: Verdict,
        out: &mut Vec<ViewUpdate>,
    ) {
        if time != self.time {
            let gathered: usize = self.views.iter().map(|view| view.touched.len()).sum();
            let forgets = self.views.iter().any(|view| time >= view.next_forget);
            if self.grain == Grain::Tick || gathered >= MAX_GATHERED || forgets {
                self.drain(out);
            }
            self.time = time;
            // Here and not in `drain`, which also runs where a batch happens to end.
            for view in &mut self.views {
                if time >= view.next_forget {
                    view.forget(time, self.tick_ms);
                }
            }
        }
        for view in &mut self.views {
            if view.view.conditions.iter().all(|condition| condition.holds(record)) {
                view.add(time, self.tick_ms, place, record, verdict, &mut self.spare);
            }
        }
    }

    /// Moves everything gathered into `out`.
    pub fn drain(&mut self, out: &mut Vec<ViewUpdate>) {
        for (id, view) in self.views.iter_mut().enumerate() {
            for slot in view.touched.drain(..) {
                let slot = &mut view.slots[slot as usize];
                for Gathered { pane, late, mut accumulator, first, last } in slot.gathered.drain(..) {
                    let mut aggregate = accumulator.take();
                    if view.view.keeps_offsets && pane.is_some() {
                        let (partition, RecordPlace { offset: first, clock }) = (self.partition.clone(), first);
                        aggregate.ranges = Range { partition, first, last, clock }.into();
                    }
                    debug_assert!(!aggregate.is_zero());
                    let last_before = |pane| final_tick(&view.view, pane, self.tick_ms).saturating_sub(1);
                    let time = late.unwrap_or_else(|| pane.map_or(self.time, last_before).min(self.time));
                    out.push(ViewUpdate { view: id as ViewId, pane, key: slot.key.clone(), time, aggregate });
                    self.spare.push(accumulator);
                }
            }
        }
    }
}

impl ViewCombiner {
    #[inline]
    fn add(
        &mut self,
        time: Tick,
        tick_ms: u64,
        place: RecordPlace,
        record: &Record<'_>,
        verdict: Verdict,
        spare: &mut Vec<Accumulator>,
    ) {
        let event = record.timestamp_ms;
        if event.wrapping_sub(self.last_pane) >= self.pane_ms {
            self.last_pane = window_start(event, self.pane_ms);
            self.final_at = final_tick(&self.view, self.last_pane, tick_ms);
        }
        let late = (time >= self.final_at).then_some(time);
        let is_too_late =
            late.is_some() && self.view.gone_at(self.view.last_window_of(self.last_pane)) <= time * tick_ms;
        let pane = (!is_too_late).then_some(self.last_pane);

        let slot = match self.view.key_fields[..] {
            [field] => {
                let text = record.text(field).unwrap_or_default();
                self.slot(&text, |text| Key::from_values(&[text]))
            }
            _ => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let text = encode(record, &self.view.key_fields, &mut scratch, true);
                let slot = match self.index.get(text) {
                    Some(&slot) => slot,
                    None => {
                        let view = self.view.clone();
                        self.new_slot(text, |text| match view.pattern_place() {
                            Some(_) => Key(encode(record, &view.key_fields, &mut String::new(), false).into()),
                            None => Key(text.into()),
                        })
                    }
                };
                self.scratch = scratch;
                slot
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.last_seen = time;
        // The last ones first: there may be many panes, but records are mostly of the same few.
        match entry.gathered.iter_mut().rev().find(|gathered| gathered.pane == pane && gathered.late == late) {
            Some(gathered) => {
                gathered.accumulator.add(record, verdict, &self.view.number_sources);
                gathered.last = place.offset;
            }
            None => {
                let mut accumulator = spare.pop().unwrap_or_default();
                accumulator.add(record, verdict, &self.view.number_sources);
                self.touched.push(slot);
                entry.gathered.push(Gathered { pane, late, accumulator, first: place, last: place.offset });
            }
        }
    }

    /// The slot of a key, made if need be and if there is room, else the slot of [`OTHER`].
    #[inline]
    fn slot(&mut self, text: &str, key: impl FnOnce(&str) -> Key) -> u32 {
        match self.index.get(text) {
            Some(&slot) => slot,
            None => self.new_slot(text, key),
        }
    }

    #[cold]
    fn new_slot(&mut self, text: &str, key: impl FnOnce(&str) -> Key) -> u32 {
        if self.index.len() >= self.view.max_keys {
            return self.other();
        }
        let key = key(text);
        let shared = if *key.0 == *text { key.0.clone() } else { text.into() };
        let slot = self.push(key);
        self.index.insert(shared, slot);
        slot
    }

    /// The slot of [`OTHER`], made if need be.
    fn other(&mut self) -> u32 {
        match self.other {
            Some(slot) => slot,
            None => {
                let slot = self.push(Key::from_values(&vec![OTHER; self.view.key_fields.len()]));
                self.other = Some(slot);
                slot
            }
        }
    }

    fn push(&mut self, key: Key) -> u32 {
        let slot = Slot { key, last_seen: 0, gathered: Vec::new() };
        match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// How many ticks of silence make a key leave.
    fn forget_after(&self, tick_ms: u64) -> Tick {
        (self.view.forget_after_ms / tick_ms).max(1)
    }

    /// Notes when silent keys were looked for.
    fn forgotten(&mut self, at: Tick, tick_ms: u64) {
        let step = (self.forget_after(tick_ms) / FORGET_CHECKS).max(1);
        self.forgotten_at = at;
        self.next_forget = (at / step + 1) * step;
    }

    fn restore(&mut self, keys: &SeenKeys, tick_ms: u64) {
        let after = self.forget_after(tick_ms);
        self.forgotten(keys.forgotten_at, tick_ms);
        // Of a key that has left, its last time is still known.
        for (text, last_seen) in keys.seen.iter().filter(|(_, last_seen)| last_seen + after > keys.forgotten_at) {
            let key = match self.view.key_fields[..] {
                [_] => Key::from_values(&[text]),
                _ => Key(text.clone()),
            };
            let shared = match self.view.pattern_place() {
                Some(place) if self.view.key_fields.len() > 1 => by_id(&key, place),
                _ if key.0 == *text => key.0.clone(),
                _ => text.clone(),
            };
            let slot = self.push(key);
            self.slots[slot as usize].last_seen = *last_seen;
            self.index.insert(shared, slot);
        }
        if keys.has_other {
            self.other();
        }
    }

    fn seen_since(&self, since: Tick) -> SeenKeys {
        let seen = self.index.iter().map(|(text, &slot)| (text, &self.slots[slot as usize]));
        let seen = seen.filter(|(_, slot)| slot.last_seen >= since);
        let is_key = self.view.key_fields.len() > 1;
        let text = |text: &Arc<str>, slot: &Slot| if is_key { slot.key.0.clone() } else { text.clone() };
        let mut seen: Vec<_> = seen.map(|(of, slot)| (text(of, slot), slot.last_seen)).collect();
        seen.sort_unstable();
        SeenKeys { forgotten_at: self.forgotten_at, has_other: self.other.is_some(), seen }
    }

    /// Lets go of keys silent for `forget_after`, so that others find room.
    fn forget(&mut self, now: Tick, tick_ms: u64) {
        let after = self.forget_after(tick_ms);
        self.forgotten(now, tick_ms);
        let (slots, free) = (&self.slots, &mut self.free);
        self.index.retain(|_, &mut slot| {
            let keep = slots[slot as usize].last_seen + after > now;
            if !keep {
                free.push(slot);
            }
            keep
        });
    }
}

/// The first tick at which a window over a pane is final.
fn final_tick(view: &View, pane: Millis, tick_ms: u64) -> Tick {
    view.windows_of(pane).next().map_or(Tick::MAX, |first| view.final_at(first).div_ceil(tick_ms))
}

/// The encoded key of several fields; with the pattern's id for its template, if `by_id`.
fn encode<'s>(record: &Record<'_>, fields: &[FieldRef], scratch: &'s mut String, by_id: bool) -> &'s str {
    scratch.clear();
    for (i, &field) in fields.iter().enumerate() {
        if i > 0 {
            scratch.push('/');
        }
        let field = if by_id && field == FieldRef::Pattern { FieldRef::PatternId } else { field };
        record.key_text(field, scratch);
    }
    scratch
}

/// The encoded key with the pattern's id for its template, which stands at this place among the values.
fn by_id(key: &Key, place: usize) -> Arc<str> {
    let mut text = String::with_capacity(key.0.len());
    for (i, value) in key.0.split('/').enumerate() {
        if i > 0 {
            text.push('/');
        }
        match i == place {
            true => FirstCut::of_template(&unescape(value)).push_id(&mut text),
            false => text.push_str(value),
        }
    }
    text.into()
}
