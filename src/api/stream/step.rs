//! Events as they go over the wire, and their ids.
//!
//! The changes of one advance are a [`Step`]: serialised once, shared by all clients. An id is
//! `instance-tick-number`: the instance is of this process alone, so that no other's ids are taken for our own.

use std::fmt;
use std::io::Write;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::output::KeyFields;
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::view::{Key, ViewId};
use serde::Serialize;

use crate::alerts::Change;
use crate::live::changes::{ChangeKind, Changes};
use crate::live::{KeyFilter, LiveView, key_fields};

/// A place in the stream: behind this many events of a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The frontier that the events lead to.
    pub tick: Tick,
    /// How many of its events are before.
    pub number: u64,
}

/// The id of the event before a place.
#[derive(Clone, Copy, Debug)]
pub struct EventId<'a>(pub &'a str, pub Position);

impl fmt::Display for EventId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.0, self.1.tick, self.1.number)
    }
}

impl Position {
    /// Reads an id of this instance; `None` for any other.
    pub fn parse(instance: &str, id: &str) -> Option<Self> {
        let (tick, number) = id.strip_prefix(instance)?.strip_prefix('-')?.split_once('-')?;
        Some(Self { tick: tick.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Which events a client is sent.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this view only.
    pub view: Option<ViewId>,
    /// Of these keys only.
    pub keys: KeyFilter,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        let is_wanted = event.view.is_none() || self.view.is_none() || self.view == event.view;
        is_wanted
            && match &event.keys {
                Keys::All => true,
                Keys::One(key) => self.keys.matches(key),
                Keys::Some(keys) => keys.iter().any(|key| self.keys.matches(key)),
            }
    }

    /// Whether it is about this alert: of its view, with one of its keys that are listed.
    pub fn takes_alert(&self, live: &LiveView, alert: &AlertDocument) -> bool {
        self.takes(&Event { view: Some(view_of(live, alert)), keys: keys_of(alert), range: 0..0, body: 0 })
    }
}

/// The view of an alert; one that there is not where the view has left the configuration.
fn view_of(live: &LiveView, alert: &AlertDocument) -> ViewId {
    live.find(&alert.view).map_or(ViewId::MAX, |(id, _)| id)
}

fn keys_of(alert: &AlertDocument) -> Keys {
    let key = |fields: &KeyFields| {
        let values: Vec<&str> = fields.0.iter().map(|(_, value)| value.as_str()).collect();
        Key::from_values(&values)
    };
    Keys::Some(alert.keys.iter().map(key).collect())
}

/// Which keys an event is about.
#[derive(Debug)]
enum Keys {
    /// Whatever the key.
    All,
    /// This one.
    One(Key),
    /// These.
    Some(Vec<Key>),
}

/// What changed of alerts in a step.
#[derive(Debug, Default)]
pub struct AlertChanges {
    /// As of when they are afterwards.
    pub as_of: Option<Millis>,
    /// What was said, in order.
    pub said: Vec<Change>,
}

/// An event in the bytes of a step.
#[derive(Debug)]
struct Event {
    view: Option<ViewId>,
    keys: Keys,
    range: Range<usize>,
    /// Where the id ends and the rest begins.
    body: usize,
}

/// The events of one advance.
#[derive(Debug)]
pub struct Step {
    /// The place before it.
    start: Position,
    /// The place behind it.
    pub end: Position,
    /// As of when alerts are behind it.
    pub alerts_as_of: Option<Millis>,
    events: Vec<Event>,
    bytes: Bytes,
}

#[derive(Serialize)]
struct Gone<'a> {
    view: &'a str,
    end: Millis,
}

#[derive(Serialize)]
struct Withdrawn<'a> {
    view: &'a str,
    key: KeyFields,
    start: Millis,
}

#[derive(Serialize)]
struct Forgotten<'a> {
    id: &'a str,
}

/// The data of `frontier` and `snapshot`.
#[derive(Serialize)]
pub struct Reached {
    /// The event-clock time that what was sent of windows is exact for; `null` before the first record.
    pub as_of: Option<Millis>,
    /// The same of alerts. Left out before anything was heard of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alerts_as_of: Option<Millis>,
}

impl Reached {
    /// At a tick.
    pub fn at(live: &LiveView, tick: Tick, alerts_as_of: Option<Millis>) -> Self {
        Self { as_of: (tick > 0).then(|| tick.saturating_mul(live.tick_ms())), alerts_as_of }
    }
}

/// Writes one event, with an id or without.
pub fn write_event(out: &mut BytesMut, id: Option<EventId<'_>>, kind: &str, data: &impl Serialize) -> usize {
    let mut out = out.writer();
    // Nothing of this can fail: the writer is memory, and the data are maps with names as keys.
    let _ = id.map(|id| writeln!(out, "id: {id}"));
    let body = out.get_ref().len();
    let _ = write!(out, "event: {kind}\ndata: ");
    let _ = serde_json::to_writer(&mut out, data);
    let _ = out.write_all(b"\n\n");
    body
}

impl Step {
    /// The events that lead from a place to where the changes do. The last is `frontier`.
    pub fn new(live: &LiveView, instance: &str, from: Position, changes: Changes, alerts: AlertChanges) -> Self {
        let tick = changes.frontier;
        let start = Position { tick, number: if tick == from.tick { from.number } else { 0 } };
        let mut step = Builder { instance, end: start, events: Vec::new(), bytes: BytesMut::new() };
        for of_view in changes.views {
            let view = Some(of_view.view);
            for (kind, key, document) in of_view.changed {
                step.add(view, Keys::One(key), kind_name(kind), &document);
            }
            let Some((_, definition)) = live.listed().find(|(id, _)| *id == of_view.view) else { continue };
            for (start, key) in of_view.withdrawn {
                let data = Withdrawn { view: &definition.name, key: key_fields(definition, &key), start };
                step.add(view, Keys::One(key), "withdrawn", &data);
            }
            if let Some(end) = of_view.gone {
                step.add(view, Keys::All, "gone", &Gone { view: &definition.name, end });
            }
        }
        let AlertChanges { as_of: alerts_as_of, said } = alerts;
        for change in said {
            match change {
                Change::Said(event) => {
                    step.add(Some(view_of(live, &event.alert)), keys_of(&event.alert), event.kind.name(), &event);
                }
                Change::Forgotten(id) => step.add(None, Keys::All, "forgotten", &Forgotten { id: &id }),
            }
        }
        step.add(None, Keys::All, "frontier", &Reached::at(live, tick, alerts_as_of));
        Self { start, end: step.end, alerts_as_of, events: step.events, bytes: step.bytes.freeze() }
    }

    /// Bytes in memory, nearly.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.events.capacity() * size_of::<Event>()
    }

    /// What a client at a place is to be sent: slices of the shared bytes, as few as there can be.
    pub fn slices(&self, from: Position, filter: &Filter, with_ids: bool) -> Vec<Bytes> {
        let skip = if from.tick == self.start.tick { from.number.saturating_sub(self.start.number) } else { 0 };
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for event in self.events.iter().skip(skip as usize).filter(|event| filter.takes(event)) {
            let at = if with_ids { event.range.start } else { event.body };
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end = event.range.end,
                _ => ranges.push(at..event.range.end),
            }
        }
        ranges.into_iter().map(|range| self.bytes.slice(range)).collect()
    }
}

struct Builder<'a> {
    instance: &'a str,
    end: Position,
    events: Vec<Event>,
    bytes: BytesMut,
}

impl Builder<'_> {
    fn add(&mut self, view: Option<ViewId>, keys: Keys, kind: &str, data: &impl Serialize) {
        self.end.number += 1;
        let start = self.bytes.len();
        let body = write_event(&mut self.bytes, Some(EventId(self.instance, self.end)), kind, data);
        self.events.push(Event { view, keys, range: start..self.bytes.len(), body });
    }
}

/// The name of the event of a change.
pub fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Window => "window",
        ChangeKind::Final => "final",
        ChangeKind::Correction => "correction",
    }
}
