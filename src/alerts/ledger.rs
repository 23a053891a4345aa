//! All that is known of alerts, notifications and silences, in memory and on disk.
//!
//! In: events as the dataflow says them, some of which come again after a restart; what became of notifications. Out:
//! the history of each alert, and the notifications that are to be sent. Every change is on disk before it takes effect,
//! in one journal: an event and the notifications that it is due are one record, so there is never one without the
//! other. On error: what the disk refuses is an error of the call, and nothing changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertEventKind, AlertState};
use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

use super::journal::{self, Journal, Opened};
use super::notice::Notice;
use super::silences::Silence;

/// The file in the directory.
const JOURNAL: &str = "journal";
/// Events that are remembered of an alert; beyond, the oldest updates are forgotten.
const EVENTS_KEPT: usize = 200;
/// Events other than updates that are remembered of an alert; beyond, the oldest but the first are forgotten.
const CHANGES_KEPT: usize = 2_000;
/// The journal is written anew when it has this many more lines than it needs, and twice as many.
const SLACK_LINES: usize = 1_000;

/// What the journal says.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Record {
    /// An event, and the routes to be told.
    Said { notice: Box<Notice>, routes: Vec<String> },
    /// Nothing more is to be done about a notification.
    Done { route: String, number: u64 },
    /// A route was sent something of an incident.
    Told { route: String, thread: String },
    /// A silence was made.
    Silenced(Silence),
    /// A silence was removed.
    Unsilenced(u64),
    /// The number of the next event.
    Next(u64),
    /// A generation began, with the number of its first event.
    Began { generation: u64, number: u64 },
}

/// An alert with its history.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Its notices by number, oldest first.
    pub notices: VecDeque<(u64, Notice)>,
    pub thread: String,
}

impl Known {
    /// Forgets an event if there are too many.
    fn shorten(&mut self) {
        if self.notices.len() <= EVENTS_KEPT {
            return;
        }
        let newest = self.notices.len() - 1;
        let is_update = |(_, notice): &(u64, Notice)| notice.event.kind == AlertEventKind::Updated;
        match self.notices.iter().take(newest).position(is_update) {
            Some(place) => _ = self.notices.remove(place),
            None if self.notices.len() > CHANGES_KEPT => _ = self.notices.remove(1),
            None => {}
        }
    }

    /// What was last said.
    pub fn last(&self) -> Option<&AlertEvent> {
        self.notices.back().map(|(_, notice)| &notice.event)
    }

    /// What was last known by a time of the event clock, whenever it was said: another run says it in other steps.
    fn as_of(&self, at: Millis) -> Option<&AlertEvent> {
        let mut events = self.notices.iter().rev().map(|(_, notice)| &notice.event);
        events.find(|event| event.as_of.min(event.alert.as_of) <= at)
    }
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    journal: Option<Journal>,
    pub alerts: BTreeMap<String, Known>,
    /// By route, the numbers of the notices that it is still to be told.
    pub waiting: BTreeMap<String, BTreeMap<u64, Notice>>,
    /// By route, the incidents of which it was sent something.
    told: BTreeMap<String, BTreeSet<String>>,
    pub silences: BTreeMap<u64, Silence>,
    /// The alerts whose newest documents are not stored yet, each with the number of its newest event.
    unstored: BTreeMap<String, u64>,
    /// What is said is to be stored.
    stores: bool,
    next: u64,
    /// The generation, and the number of its first event.
    generation: (u64, u64),
    keep: usize,
    /// By the alert's id.
    doubts: BTreeMap<String, Doubt>,
    /// By the alert's name, up to when everything was said: each speaks of a time of its own, since views are final at
    /// different times.
    reached: BTreeMap<Arc<str>, Millis>,
    /// The event-clock time by which all that happened is known.
    as_of: Option<Millis>,
    /// What changed since somebody looked, where somebody follows.
    changes: Option<Vec<Change>>,
}

/// A change of what is known.
#[derive(Clone, Debug)]
pub enum Change {
    /// Something was said of an alert.
    Said(Box<AlertEvent>),
    /// The alert of this id is not remembered any more.
    Forgotten(String),
}

/// What an earlier run said of an alert after the checkpoint that this one goes on from. Some of it may not be said again:
/// this run gets there in other steps, and need not pass through what was so for a while. What exists at any time is the
/// same, so once this run is past the last thing that was said, the alert is as this run knows it.
#[derive(Debug)]
struct Doubt {
    /// The time of that last thing.
    until: Millis,
    known: Knows,
}

/// What this run knows of an alert that is in doubt.
#[derive(Debug)]
enum Knows {
    /// That there was none at the checkpoint. One of which nothing is said again did not last.
    Absent,
    /// How it was at the checkpoint, and then, as this run says.
    This(Box<AlertDocument>),
    /// Nothing: it is of an earlier generation, whose log may have begun before this one's, and was open. If this run does not
    /// come upon it, it would never say that it is over.
    Unknown,
}

/// Whether two documents of an alert are the same, but for the states of baselines, which are not kept of all.
fn says_the_same(one: &AlertDocument, other: &AlertDocument) -> bool {
    let bare = |alert: &AlertDocument| {
        let mut alert = alert.clone();
        alert.drop_baselines();
        alert
    };
    bare(one) == bare(other)
}

/// An alert that is over since nobody will say so.
fn closed(alert: &AlertDocument, why: &str) -> AlertDocument {
    let summary = format!("{why} ({})", alert.summary);
    AlertDocument { state: AlertState::Closed, summary, ..alert.clone() }
}

/// An alert as the journal in a directory knows it last. Changes nothing there; a process may be writing to it.
///
/// # Errors
/// If there is a journal that cannot be read.
pub fn last_in_journal(directory: &Path, id: &str) -> io::Result<Option<AlertDocument>> {
    let mut last = None;
    for record in journal::read::<Record>(&directory.join(JOURNAL))? {
        if let Record::Said { notice, .. } = record
            && notice.event.alert.id == id
        {
            last = Some(notice.event.alert);
        }
    }
    Ok(last)
}

impl Ledger {
    /// Opens the journal in a directory; without one, nothing survives the process.
    pub(super) fn open(directory: Option<&Path>, keep: usize) -> io::Result<Self> {
        let mut ledger = Self {
            journal: None,
            alerts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            silences: BTreeMap::new(),
            unstored: BTreeMap::new(),
            stores: false,
            next: 1,
            generation: (0, 0),
            keep,
            doubts: BTreeMap::new(),
            reached: BTreeMap::new(),
            as_of: None,
            changes: None,
        };
        if let Some(directory) = directory {
            let Opened { journal, records, whole_until } = Journal::open(&directory.join(JOURNAL))?;
            ledger.journal = Some(journal);
            for (place, record) in records.into_iter().enumerate() {
                // Behind a damaged line, numbers may be others than they were: rather is somebody told twice than not at all.
                let is_of_another = whole_until.is_some_and(|until| place >= until);
                if !(is_of_another && matches!(record, Record::Done { .. })) {
                    ledger.apply(record);
                }
            }
            match whole_until {
                Some(_) => ledger.rewrite()?,
                None => ledger.compact()?,
            }
        }
        Ok(ledger)
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Said { notice, routes } => {
                let number = self.next;
                self.next += 1;
                // Who is told has no use for the states of baselines; and here the newest are enough.
                let mut told = (*notice).clone();
                told.event.drop_baselines();
                if let Some(changes) = &mut self.changes {
                    changes.push(Change::Said(Box::new(told.event.clone())));
                }
                for route in routes {
                    self.waiting.entry(route).or_default().insert(number, told.clone());
                }
                if self.stores {
                    self.unstored.insert(notice.event.alert.id.clone(), number);
                }
                let new = Known { notices: VecDeque::new(), thread: notice.thread.clone() };
                let known = self.alerts.entry(notice.event.alert.id.clone()).or_insert(new);
                known.thread.clone_from(&notice.thread);
                if let Some((_, before)) = known.notices.back_mut() {
                    before.event.drop_baselines();
                }
                known.notices.push_back((number, *notice));
                known.shorten();
            }
            Record::Done { route, number } => {
                if let Some(waiting) = self.waiting.get_mut(&route) {
                    waiting.remove(&number);
                }
            }
            Record::Told { route, thread } => _ = self.told.entry(route).or_default().insert(thread),
            Record::Silenced(silence) => _ = self.silences.insert(silence.id, silence),
            Record::Unsilenced(id) => _ = self.silences.remove(&id),
            Record::Next(number) => self.next = number,
            // Behind a damaged line numbers are lower than they were.
            Record::Began { generation, number } => self.generation = (generation, number.min(self.next)),
        }
    }

    fn write(&mut self, records: Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if let Some(journal) = &mut self.journal {
            journal.append(&records)?;
        }
        records.into_iter().for_each(|record| self.apply(record));
        self.compact()
    }

    /// Forgets the oldest alerts beyond `keep` that are not open and stored, and writes the journal anew if it has grown.
    fn compact(&mut self) -> io::Result<()> {
        if self.alerts.len() > self.keep {
            let is_open = |known: &Known| known.last().is_some_and(|event| event.alert.state == AlertState::Open);
            let over = self.alerts.iter().filter(|(id, known)| !is_open(known) && !self.unstored.contains_key(*id));
            let mut over: Vec<(Millis, String)> =
                over.map(|(id, known)| (known.last().map_or(0, |event| event.as_of), id.clone())).collect();
            over.sort_unstable();
            for (_, id) in over.into_iter().take(self.alerts.len() - self.keep) {
                self.alerts.remove(&id);
                if let Some(changes) = &mut self.changes {
                    changes.push(Change::Forgotten(id));
                }
            }
            let waiting = self.waiting.values().flat_map(BTreeMap::values).map(|notice| &notice.thread);
            let threads: BTreeSet<&String> = self.alerts.values().map(|known| &known.thread).chain(waiting).collect();
            self.told.values_mut().for_each(|told| told.retain(|thread| threads.contains(thread)));
        }
        let needed = self.alerts.values().map(|known| known.notices.len()).sum::<usize>() + self.silences.len();
        let needed = needed + self.told.values().map(BTreeSet::len).sum::<usize>();
        if self.journal.as_ref().is_none_or(|journal| journal.lines() < 2 * needed + SLACK_LINES) {
            return Ok(());
        }
        self.rewrite()
    }

    /// Writes the journal anew, with what is known now.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut said: BTreeMap<u64, (Notice, Vec<String>)> = BTreeMap::new();
        for (number, notice) in self.alerts.values().flat_map(|known| &known.notices) {
            said.insert(*number, (notice.clone(), Vec::new()));
        }
        for (route, waiting) in &self.waiting {
            for (number, notice) in waiting {
                said.entry(*number).or_insert_with(|| (notice.clone(), Vec::new())).1.push(route.clone());
            }
        }
        let mut records: Vec<Record> = self.silences.values().cloned().map(Record::Silenced).collect();
        for (route, threads) in &self.told {
            let told = |thread: &String| Record::Told { route: route.clone(), thread: thread.clone() };
            records.extend(threads.iter().map(told));
        }
        for (number, (notice, routes)) in said {
            records.extend([Record::Next(number), Record::Said { notice: Box::new(notice), routes }]);
        }
        let (generation, number) = self.generation;
        records.extend([Record::Next(self.next), Record::Began { generation, number }]);
        match &mut self.journal {
            Some(journal) => journal.rewrite(&records),
            None => Ok(()),
        }
    }

    /// All that happened by then is known.
    pub(super) fn reach(&mut self, as_of: Millis) {
        self.as_of = self.as_of.max(Some(as_of));
    }

    /// The event-clock time by which all that happened is known.
    pub(super) fn as_of(&self) -> Option<Millis> {
        self.as_of
    }

    /// Begins to note changes, or ends it.
    pub(super) fn follow(&mut self, follow: bool) {
        self.changes = follow.then(Vec::new);
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The run goes on from a checkpoint at this time of the event clock: what was said later is in doubt. It speaks of alerts of
    /// a name so long after the event clock: from the checkpoint less that on it says everything anew. Gives the last that was said
    /// of each such alert.
    pub(super) fn resume(&mut self, at: Millis, lag: impl Fn(&str) -> Millis) -> Vec<AlertEvent> {
        let exists = |event: &AlertEvent| event.alert.state != AlertState::Retracted;
        let later = self.alerts.iter().filter_map(|(id, known)| Some((id, known, known.last()?)));
        let later = later.filter(|(_, _, last)| last.as_of > at.saturating_sub(lag(&last.alert.alert)));
        let doubt = |(id, known, last): (&String, &Known, &AlertEvent)| {
            let before = known.as_of(at);
            let knows = match before {
                _ if self.is_earlier(known) => (last.alert.state == AlertState::Open).then_some(Knows::Unknown)?,
                Some(before) if exists(before) || !exists(last) => Knows::This(Box::new(before.alert.clone())),
                _ if exists(last) => Knows::Absent,
                _ => return None,
            };
            Some((id.clone(), Doubt { until: last.as_of, known: knows }))
        };
        let doubts = later.clone().filter_map(doubt).collect();
        let said = later.map(|(_, _, last)| last.clone()).collect();
        self.doubts = doubts;
        said
    }

    /// The run goes on from no checkpoint. What was said stands, but for alerts that are open.
    pub(super) fn begin_anew(&mut self) {
        let open = self.alerts.iter().filter_map(|(id, known)| Some((id, known.last()?)));
        let open = open.filter(|(_, last)| last.alert.state == AlertState::Open);
        let doubt =
            |(id, last): (&String, &AlertEvent)| (id.clone(), Doubt { until: last.as_of, known: Knows::Unknown });
        self.doubts = open.map(doubt).collect();
    }

    /// The run is of this generation. What was said before its first one is of an earlier one.
    pub(super) fn begin(&mut self, generation: u64) -> io::Result<()> {
        match self.generation.0 == generation {
            true => Ok(()),
            false => self.write(vec![Record::Began { generation, number: self.next }]),
        }
    }

    /// Whether an alert was first said by an earlier generation.
    fn is_earlier(&self, known: &Known) -> bool {
        known.notices.front().is_some_and(|(number, _)| *number < self.generation.1)
    }

    /// This run is at its end: all alerts are as it knows them. Gives what is news.
    pub(super) fn settle(&mut self, routes: impl Fn(&AlertEvent) -> Vec<String>) -> io::Result<Vec<AlertEvent>> {
        self.settle_where(|_, _| true, routes)
    }

    /// The same where all was said by a time of the event clock that happened before.
    pub(super) fn settle_by(
        &mut self,
        as_of: Millis,
        routes: impl Fn(&AlertEvent) -> Vec<String>,
    ) -> io::Result<Vec<AlertEvent>> {
        self.settle_where(|_, doubt| doubt.until < as_of, routes)
    }

    /// Settles some doubts. What comes of that is dated by what was said last: whoever goes on from a later checkpoint takes it
    /// for known.
    fn settle_where(
        &mut self,
        is_past: impl Fn(&AlertDocument, &Doubt) -> bool,
        routes: impl Fn(&AlertEvent) -> Vec<String>,
    ) -> io::Result<Vec<AlertEvent>> {
        let mut settled = Vec::new();
        let mut events: Vec<(AlertEvent, String)> = Vec::new();
        for (id, doubt) in &self.doubts {
            let Some(known) = self.alerts.get(id) else { continue };
            let Some(before) = known.last().map(|event| &event.alert).filter(|before| is_past(before, doubt)) else {
                continue;
            };
            settled.push(id.clone());
            let as_of = doubt.until;
            let (kind, alert) = match &doubt.known {
                Knows::Absent if before.state != AlertState::Retracted => {
                    let as_of = as_of.max(before.as_of);
                    let alert = AlertDocument { state: AlertState::Retracted, as_of, ..before.clone() };
                    (AlertEventKind::Retracted, alert)
                }
                Knows::Unknown if before.state == AlertState::Open => {
                    (AlertEventKind::Closed, closed(before, "a run that began anew did not come upon it"))
                }
                Knows::This(alert) if !says_the_same(before, alert) => {
                    let kind = match (before.state, alert.state) {
                        (_, AlertState::Retracted) => AlertEventKind::Retracted,
                        (AlertState::Open, AlertState::Closed) => AlertEventKind::Closed,
                        _ => AlertEventKind::Amended,
                    };
                    (kind, AlertDocument::clone(alert))
                }
                _ => continue,
            };
            let mut previous = (kind != AlertEventKind::Closed).then(|| before.clone());
            previous.iter_mut().for_each(AlertDocument::drop_baselines);
            let event = AlertEvent { kind, as_of, alert, previous, replaces: None, replaced_by: None };
            events.push((event, known.thread.clone()));
        }
        events.sort_by_key(|(event, _)| event.as_of);
        let record = |(event, thread): &(AlertEvent, String)| {
            let (notice, routes) = (Notice { event: event.clone(), thread: thread.clone() }, routes(event));
            Record::Said { notice: Box::new(notice), routes }
        };
        self.write(events.iter().map(record).collect())?;
        settled.iter().for_each(|id| _ = self.doubts.remove(id));
        Ok(events.into_iter().map(|(event, _)| event).collect())
    }

    /// Whether this run got where an earlier one was, in one step: the last of these events of an alert says what is known.
    fn repeats(&self, id: &str, events: &[AlertEvent]) -> bool {
        let last = events.iter().rfind(|event| event.alert.id == id);
        let known = self.alerts.get(id).and_then(Known::last);
        let facts = |event: &AlertEvent| {
            let AlertDocument { state, start, end, windows, revision, as_of, .. } = event.alert;
            (event.as_of, state, start, end, windows, revision, as_of)
        };
        last.zip(known).is_some_and(|(last, known)| facts(last) == facts(known))
    }

    /// Takes events as the dataflow says them. `routes` tells who is to hear of an event. Gives those that are news.
    pub(super) fn say(
        &mut self,
        events: Vec<AlertEvent>,
        routes: impl Fn(&AlertEvent) -> Vec<String>,
    ) -> io::Result<Vec<AlertEvent>> {
        let mut times: BTreeMap<Arc<str>, Millis> = BTreeMap::new();
        for AlertEvent { alert, as_of, .. } in &events {
            let time = times.entry(alert.alert.clone()).or_default();
            *time = (*time).max(*as_of);
        }
        // Of the moment that was spoken of last some may still have come, before this.
        let past: BTreeMap<Arc<str>, Millis> = times
            .iter()
            .filter_map(|(name, now)| Some((name.clone(), *self.reached.get(name).filter(|reached| now > *reached)?)))
            .collect();
        let is_past =
            |alert: &AlertDocument, doubt: &Doubt| past.get(&alert.alert).is_some_and(|at| doubt.until <= *at);
        let mut settled = self.settle_where(is_past, &routes)?;
        for (name, now) in times {
            let reached = self.reached.entry(name).or_default();
            *reached = now.max(*reached);
        }
        let repeated: BTreeSet<String> = events.iter().map(|event| event.alert.id.clone()).collect();
        let repeated: BTreeSet<String> = repeated.into_iter().filter(|id| self.repeats(id, &events)).collect();
        let renamed: BTreeSet<String> = events.iter().filter_map(|event| event.replaces.clone()).collect();
        let mut news = Vec::new();
        let mut records = Vec::new();
        // What one of these events does to an alert matters to the next one.
        let mut said: BTreeMap<String, (AlertState, String)> = BTreeMap::new();
        for mut event in events {
            match self.doubts.get_mut(&event.alert.id) {
                Some(Doubt { known: Knows::Unknown, .. }) => _ = self.doubts.remove(&event.alert.id),
                Some(doubt) => doubt.known = Knows::This(Box::new(event.alert.clone())),
                None => {}
            }
            let known = self.alerts.get(&event.alert.id);
            let last = known.and_then(Known::last);
            // More may come of the moment that was spoken of last.
            let says_more = || {
                let is_in_doubt = self.doubts.contains_key(&event.alert.id);
                let is_more =
                    |last: &AlertEvent| last.as_of == event.as_of && !says_the_same(&last.alert, &event.alert);
                !is_in_doubt && last.is_some_and(is_more)
            };
            let is_said =
                |(_, other): &(u64, Notice)| (other.event.kind, other.event.as_of) == (event.kind, event.as_of);
            let earlier = said.get(&event.alert.id);
            // A run tells first how all was at its checkpoint.
            let is_as_known = |last: &AlertEvent| {
                let kinds = [(AlertEventKind::Opened, AlertState::Open), (AlertEventKind::Closed, AlertState::Closed)];
                // It was computed by the configuration of then.
                let sections = last.alert.sections.clone();
                let of_then = AlertDocument { sections, ..event.alert.clone() };
                kinds.contains(&(event.kind, last.alert.state)) && says_the_same(&last.alert, &of_then)
            };
            let is_old = repeated.contains(&event.alert.id)
                || earlier.is_none() && last.is_some_and(is_as_known)
                || last.is_some_and(|last| event.as_of < last.as_of)
                || known.is_some_and(|known| known.notices.iter().any(is_said)) && !says_more();
            if is_old {
                continue;
            }
            let before = earlier.map(|(state, _)| *state);
            let before = before.or_else(|| last.map(|last| last.alert.state));
            let was_renamed = event.kind == AlertEventKind::Retracted && renamed.contains(&event.alert.id);
            let thread = earlier.map(|(_, thread)| thread).or(known.map(|known| &known.thread));
            let mut thread = thread.unwrap_or(&event.alert.id).clone();
            let is_open = event.alert.state == AlertState::Open;
            // After a restart it may be said in other steps than before: what counts is what receivers know.
            match (event.kind, before) {
                (AlertEventKind::Opened, Some(AlertState::Open)) => event.kind = AlertEventKind::Updated,
                (AlertEventKind::Closed, Some(AlertState::Closed)) => event.kind = AlertEventKind::Updated,
                // The run before it spoke of it later than this one does, and did not come to it; or the journal is lost.
                (AlertEventKind::Updated | AlertEventKind::Amended, None | Some(AlertState::Retracted)) if is_open => {
                    event.kind = AlertEventKind::Opened;
                }
                (AlertEventKind::Updated, Some(AlertState::Closed)) if is_open => {
                    event.kind = AlertEventKind::Amended;
                    event.previous = last.map(|last| last.alert.clone());
                }
                (AlertEventKind::Opened, _) => {
                    if let Some(old) = event.replaces.as_ref().and_then(|id| self.alerts.get(id)) {
                        thread.clone_from(&old.thread);
                        event.kind = AlertEventKind::Amended;
                        event.previous = old.last().map(|last| last.alert.clone());
                    }
                }
                _ => {}
            }
            event.previous.iter_mut().for_each(AlertDocument::drop_baselines);
            said.insert(event.alert.id.clone(), (event.alert.state, thread.clone()));
            let is_told = !was_renamed && event.kind != AlertEventKind::Updated;
            let routes = if is_told { routes(&event) } else { Vec::new() };
            records.push(Record::Said { notice: Box::new(Notice { event: event.clone(), thread }), routes });
            news.push(event);
        }
        self.write(records)?;
        settled.append(&mut news);
        Ok(settled)
    }

    /// Nothing more is to be done about notifications; the route was sent something of these incidents.
    pub(super) fn done<'a>(
        &mut self,
        route: &str,
        numbers: &[u64],
        told: impl Iterator<Item = &'a String>,
    ) -> io::Result<()> {
        let done = |number: &u64| Record::Done { route: route.to_owned(), number: *number };
        let told: BTreeSet<&String> = told.filter(|thread| !self.is_told(route, thread)).collect();
        let told = told.into_iter().map(|thread| Record::Told { route: route.to_owned(), thread: thread.clone() });
        // In this order: of a write that is torn something may be sent again, and no end is withheld.
        self.write(told.chain(numbers.iter().map(done)).collect())
    }

    /// Whether a route was sent something of an incident.
    pub(super) fn is_told(&self, route: &str, thread: &str) -> bool {
        self.told.get(route).is_some_and(|told| told.contains(thread))
    }

    /// What was last said of an alert.
    pub(super) fn newest(&self, id: &str) -> Option<&Notice> {
        self.alerts.get(id)?.notices.back().map(|(_, notice)| notice)
    }

    /// Closes the open alerts that are not computed any more: nothing would ever be said of them again. Those who were sent
    /// something of them are told. Gives what is news.
    pub(super) fn close_others(&mut self, is_computed: impl Fn(&AlertDocument) -> bool) -> io::Result<Vec<AlertEvent>> {
        let others = self.alerts.values().filter_map(|known| Some((known.last()?, &known.thread)));
        let others = others.filter(|(last, _)| last.alert.state == AlertState::Open && !is_computed(&last.alert));
        let notices: Vec<Notice> = others
            .map(|(last, thread)| {
                let mut alert = closed(&last.alert, "its definition changed");
                alert.drop_baselines();
                let (kind, as_of) = (AlertEventKind::Closed, last.as_of);
                let event = AlertEvent { kind, as_of, alert, previous: None, replaces: None, replaced_by: None };
                Notice { event, thread: thread.clone() }
            })
            .collect();
        let to = |notice: &Notice| {
            let told = self.told.iter().filter(|(_, threads)| threads.contains(&notice.thread));
            told.map(|(route, _)| route.clone()).collect()
        };
        let records =
            notices.iter().map(|notice| Record::Said { routes: to(notice), notice: Box::new(notice.clone()) });
        self.write(records.collect())?;
        let alerts = &self.alerts;
        self.doubts.retain(|id, _| alerts.get(id).and_then(Known::last).is_some_and(|last| is_computed(&last.alert)));
        Ok(notices.into_iter().map(|notice| notice.event).collect())
    }

    /// From now on what is said is to be stored, and the newest documents of these alerts.
    pub(super) fn store(&mut self, ids: impl Iterator<Item = String>) {
        self.stores = true;
        for id in ids {
            if let Some((number, _)) = self.alerts.get(&id).and_then(|known| known.notices.back()) {
                self.unstored.insert(id, *number);
            }
        }
    }

    /// How many alerts have documents that are not stored.
    pub(super) fn unstored(&self) -> usize {
        self.unstored.len()
    }

    /// The newest events of so many alerts whose documents are not stored, each with its number.
    pub(super) fn to_store(&self, count: usize) -> Vec<(u64, AlertEvent)> {
        let newest = |id| self.alerts.get(id)?.notices.back().map(|(number, notice)| (*number, notice.event.clone()));
        self.unstored.keys().take(count).filter_map(newest).collect()
    }

    /// The document of an alert as of this event was stored, or refused.
    pub(super) fn stored(&mut self, id: &str, number: u64) {
        if self.unstored.get(id).is_some_and(|newest| *newest <= number) {
            self.unstored.remove(id);
        }
    }

    /// Makes a silence. Gives it with its number; forgets those that are over.
    pub(super) fn silence(&mut self, mut silence: Silence, now_ms: Millis) -> io::Result<Silence> {
        silence.id = self.silences.keys().next_back().map_or(1, |id| id + 1);
        let over = self.silences.values().filter(|silence| silence.until <= now_ms);
        let mut records: Vec<Record> = over.map(|silence| Record::Unsilenced(silence.id)).collect();
        records.push(Record::Silenced(silence.clone()));
        self.write(records)?;
        Ok(silence)
    }

    /// Removes a silence. Says whether there was one.
    pub(super) fn unsilence(&mut self, id: u64) -> io::Result<bool> {
        let is_there = self.silences.contains_key(&id);
        if is_there {
            self.write(vec![Record::Unsilenced(id)])?;
        }
        Ok(is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::testing::notice;

    fn event(kind: AlertEventKind, state: AlertState, as_of: Millis) -> AlertEvent {
        let mut event = notice("checkout").event;
        (event.kind, event.as_of, event.alert.state) = (kind, as_of, state);
        event
    }

    /// Of an alert of this id, which is open unless that is its end.
    fn named(id: &str, kind: AlertEventKind, as_of: Millis) -> AlertEvent {
        let state = if kind == AlertEventKind::Closed { AlertState::Closed } else { AlertState::Open };
        let mut event = event(kind, state, as_of);
        event.alert.id = id.to_owned();
        event
    }

    /// The same incident with an earlier beginning, and so another id.
    fn moved(first: &AlertEvent) -> AlertEvent {
        let mut moved = event(AlertEventKind::Opened, AlertState::Open, 200);
        moved.alert.id = "earlier".to_owned();
        moved.replaces = Some(first.alert.id.clone());
        moved
    }

    fn to_a(_: &AlertEvent) -> Vec<String> {
        vec!["a".to_owned()]
    }

    #[test]
    fn a_damaged_line_withholds_nothing_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Some(directory.path()), 10).unwrap();
        let mut ledger = open();
        ledger.say(vec![event(AlertEventKind::Opened, AlertState::Open, 100)], to_a).unwrap();
        let first = *ledger.waiting["a"].keys().next().unwrap();
        let mut other = event(AlertEventKind::Opened, AlertState::Open, 150);
        other.alert.id = "other".to_owned();
        ledger.say(vec![other], to_a).unwrap();
        ledger.done("a", &[first], std::iter::empty()).unwrap();
        drop(ledger);
        let path = directory.path().join(JOURNAL);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        // The second time the journal is whole again, with the numbers that hold now.
        for _ in 0..2 {
            let ledger = open();
            let waiting: Vec<&str> = ledger.waiting["a"].values().map(|notice| &*notice.event.alert.id).collect();
            assert_eq!(waiting, ["other"], "who was to be told of the second alert still is");
        }
    }

    #[test]
    fn what_comes_again_after_a_restart_is_not_told_again() {
        use AlertEventKind::{Closed, Opened, Retracted};
        let directory = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Some(directory.path()), 10).unwrap();
        let mut ledger = open();
        ledger.say(vec![event(Opened, AlertState::Open, 100)], to_a).unwrap();
        assert_eq!(ledger.waiting["a"].len(), 1);
        drop(ledger);
        // Not sent yet when it ended: still to be sent, once.
        let mut ledger = open();
        assert!(ledger.say(vec![event(Opened, AlertState::Open, 100)], to_a).unwrap().is_empty());
        let number = *ledger.waiting["a"].keys().next().unwrap();
        ledger.done("a", &[number], std::iter::empty()).unwrap();
        drop(ledger);
        let mut ledger = open();
        // Said in coarser steps, and so later; but it is known to be open.
        ledger.say(vec![event(Opened, AlertState::Open, 110)], to_a).unwrap();
        assert!(ledger.waiting["a"].is_empty());
        ledger.say(vec![event(Closed, AlertState::Closed, 120)], to_a).unwrap();
        assert_eq!(ledger.waiting["a"].len(), 1);
        ledger.say(vec![event(Retracted, AlertState::Retracted, 130)], to_a).unwrap();
        ledger.say(vec![event(Opened, AlertState::Open, 140)], to_a).unwrap();
        assert_eq!(ledger.waiting["a"].len(), 3, "it holds after all");
    }

    #[test]
    fn an_alert_that_is_opened_and_closed_in_one_step_after_a_restart_stays_closed() {
        use AlertEventKind::{Closed, Opened};
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.say(vec![event(Opened, AlertState::Open, 100)], to_a).unwrap();
        ledger.say(vec![event(Closed, AlertState::Closed, 200)], to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(50, |_| 0);
        let again = vec![event(Opened, AlertState::Open, 200), event(Closed, AlertState::Closed, 200)];
        assert!(ledger.say(again, to_a).unwrap().is_empty());
        let last = ledger.alerts.values().next().and_then(Known::last).unwrap();
        assert_eq!(last.alert.state, AlertState::Closed);
        assert_eq!(ledger.waiting["a"].len(), 2);
    }

    #[test]
    fn what_is_not_said_again_after_a_restart_is_taken_back() {
        use AlertEventKind::Opened;
        let of = |id: &str, as_of| {
            let mut event = event(Opened, AlertState::Open, as_of);
            event.alert.id = id.to_owned();
            event
        };
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.say(vec![of("before", 100), of("passing", 200), of("lasting", 220)], to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(150, |_| 0);
        assert!(ledger.say(vec![of("lasting", 220)], to_a).unwrap().is_empty());
        assert!(ledger.say(vec![of("lasting", 220)], to_a).unwrap().is_empty(), "more of that moment may come");
        let news = ledger.say(vec![of("last", 240)], to_a).unwrap();
        let news: Vec<(&str, AlertState)> =
            news.iter().map(|event| (event.alert.id.as_str(), event.alert.state)).collect();
        assert_eq!(news, [("passing", AlertState::Retracted), ("last", AlertState::Open)]);
        let told: Vec<&str> = ledger.waiting["a"].values().map(Notice::kind).collect();
        assert_eq!(told, ["opened", "opened", "opened", "retracted", "opened"]);
        assert!(ledger.settle(to_a).unwrap().is_empty());
    }

    #[test]
    fn one_alert_is_not_judged_by_how_far_another_is() {
        use AlertEventKind::Opened;
        let of = |alert: &str, as_of| {
            let mut event = event(Opened, AlertState::Open, as_of);
            (event.alert.alert, event.alert.id) = (alert.into(), alert.to_owned());
            event
        };
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.say(vec![of("ahead", 200), of("behind", 140)], to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(50, |_| 0);
        // Windows of the other view are final a minute later.
        for as_of in [200, 210, 220] {
            let news = ledger.say(vec![of("ahead", as_of)], to_a).unwrap();
            assert!(news.iter().all(|event| event.alert.state == AlertState::Open), "{news:?}");
        }
        assert!(ledger.say(vec![of("behind", 140)], to_a).unwrap().is_empty(), "it stands");
        assert!(ledger.settle(to_a).unwrap().is_empty());
    }

    #[test]
    fn what_is_taken_back_before_the_time_it_was_last_spoken_of_stays_so() {
        use AlertEventKind::{Amended, Opened, Retracted};
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.say(vec![event(Opened, AlertState::Open, 100)], to_a).unwrap();
        ledger.say(vec![event(Amended, AlertState::Open, 200)], to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(50, |_| 0);
        ledger.say(vec![event(Opened, AlertState::Open, 110)], to_a).unwrap();
        ledger.say(vec![event(Retracted, AlertState::Retracted, 120)], to_a).unwrap();
        let news = ledger.settle(to_a).unwrap();
        assert_eq!(
            news.iter().map(|event| (event.alert.state, event.as_of)).collect::<Vec<_>>(),
            [(AlertState::Retracted, 200)]
        );
    }

    #[test]
    fn a_run_that_begins_anew_takes_nothing_back_and_reopens_nothing() {
        use AlertEventKind::{Closed, Opened};
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.begin(1).unwrap();
        ledger
            .say(vec![named("open", Opened, 150), named("over", Opened, 300), named("over", Closed, 400)], to_a)
            .unwrap();
        drop(ledger);
        // The second start is killed before its first checkpoint, so the third goes on from its beginning.
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.begin(2).unwrap();
        ledger.begin_anew();
        assert!(ledger.say(vec![named("over", Opened, 300)], to_a).unwrap().is_empty());
        assert!(ledger.settle_by(150, to_a).unwrap().is_empty(), "more may come that was said before");
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.begin(2).unwrap();
        ledger.resume(0, |_| 0);
        assert!(ledger.say(vec![named("over", Opened, 300)], to_a).unwrap().is_empty());
        let news = ledger.say(vec![named("over", Closed, 400)], to_a).unwrap();
        let news: Vec<_> = news.iter().map(|event| (event.alert.id.as_str(), event.kind, event.as_of)).collect();
        assert_eq!(news, [("open", Closed, 150)]);
        assert!(ledger.settle(to_a).unwrap().is_empty());
        // A checkpoint behind that: it stays so. And what is open then, and was said before, is so still.
        let mut again = named("again", Opened, 402);
        again.alert.start = 402;
        ledger.say(vec![again], to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        for generation in [2, 3] {
            ledger.begin(generation).unwrap();
            ledger.resume(405, |_| 0);
            assert!(ledger.settle_by(1_000, to_a).unwrap().is_empty());
        }
        assert_eq!(ledger.alerts["open"].last().unwrap().alert.state, AlertState::Closed);
    }

    #[test]
    fn what_is_open_is_closed_by_a_run_that_begins_anew_and_does_not_come_upon_it() {
        use AlertEventKind::{Closed, Opened, Updated};
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        let said = vec![
            named("gone", Opened, 100),
            named("again", Opened, 100),
            named("over", Opened, 90),
            named("over", Closed, 110),
        ];
        ledger.say(said, to_a).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.begin_anew();
        assert!(ledger.say(vec![named("again", Opened, 100)], to_a).unwrap().is_empty());
        let news = ledger.say(vec![named("again", Updated, 120)], to_a).unwrap();
        let news: Vec<_> = news.iter().map(|event| (event.alert.id.as_str(), event.kind)).collect();
        assert_eq!(news, [("gone", Closed), ("again", Updated)]);
        assert!(ledger.alerts["gone"].last().unwrap().alert.summary.contains("began anew"));
        assert!(ledger.settle(to_a).unwrap().is_empty(), "what was over stays so");
    }

    #[test]
    fn what_is_said_otherwise_after_a_restart_is_amended() {
        use AlertEventKind::{Amended, Closed, Opened, Updated};
        let of = |id: &str, kind, state, as_of, windows| {
            let mut event = event(kind, state, as_of);
            (event.alert.id, event.alert.windows, event.alert.as_of) = (id.to_owned(), windows, as_of);
            // Not the shortest of numbers.
            event.alert.strongest.value = f64::from(windows) / 7.0;
            event
        };
        let (open, closed) = (AlertState::Open, AlertState::Closed);
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.say(vec![of("same", Opened, open, 100, 1), of("kept", Opened, open, 100, 1)], to_a).unwrap();
        // After the checkpoint, by records that came in another order then.
        let first = of("evidence", Closed, closed, 200, 3);
        ledger
            .say(vec![first.clone(), of("same", Updated, open, 200, 2), of("kept", Updated, open, 210, 2)], to_a)
            .unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(150, |_| 0);
        let mut other = first;
        other.alert.first.value = 8.0;
        assert!(ledger.say(vec![other, of("same", Updated, open, 200, 2)], to_a).unwrap().is_empty());
        let mut news = ledger.say(vec![of("later", Opened, open, 210, 1)], to_a).unwrap();
        news.append(&mut ledger.say(vec![of("last", Opened, open, 240, 1)], to_a).unwrap());
        let news: Vec<_> = news.iter().map(|event| (event.alert.id.as_str(), event.kind, event.as_of)).collect();
        assert_eq!(
            news,
            [("evidence", Amended, 200), ("later", Opened, 210), ("kept", Amended, 210), ("last", Opened, 240)]
        );
        let last = |id: &str| ledger.alerts[id].last().unwrap().alert.clone();
        assert_eq!((last("evidence").first.value, last("kept").windows, last("same").windows), (8.0, 1, 2));
        assert!(ledger.settle(to_a).unwrap().is_empty());
    }

    #[test]
    fn what_is_known_by_a_checkpoint_is_not_taken_back_where_it_was_said_later() {
        use AlertEventKind::{Closed, Opened};
        let of = |kind, state, as_of| {
            let mut event = event(kind, state, as_of);
            event.alert.as_of = 37;
            event
        };
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        // In one step, by a run that caught up.
        let said = vec![of(Opened, AlertState::Open, 55), of(Closed, AlertState::Closed, 55)];
        ledger.say(said, to_a).unwrap();
        drop(ledger);
        // Another one has said it in finer steps, and made a checkpoint: nothing is said of it again.
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(53, |_| 0);
        assert!(ledger.settle_by(100, to_a).unwrap().is_empty());
        assert_eq!(ledger.alerts.values().next().and_then(Known::last).unwrap().alert.state, AlertState::Closed);
    }

    #[test]
    fn a_run_that_speaks_later_takes_back_what_was_said_before_the_checkpoint() {
        use AlertEventKind::{Closed, Opened, Retracted, Updated};
        let directory = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Some(directory.path()), 10).unwrap();
        open()
            .say(vec![named("gone", Opened, 100), named("gone", Closed, 130), named("kept", Opened, 120)], to_a)
            .unwrap();
        let mut ledger = open();
        assert_eq!(ledger.resume(140, |_| 60).len(), 2);
        // It turned out to be a part of another one, by what joined behind the checkpoint.
        let mut gone = named("gone", Retracted, 86);
        gone.alert.state = AlertState::Retracted;
        assert!(
            ledger.say(vec![gone], to_a).unwrap().is_empty(),
            "it may be said otherwise until it is where the other was"
        );
        let news = [131, 141].map(|as_of| ledger.say(vec![named("other", Updated, as_of)], to_a).unwrap());
        let news: Vec<_> =
            news.concat().iter().map(|event| (event.alert.id.clone(), event.kind, event.as_of)).collect();
        let expected = [("other", Opened, 131), ("gone", Retracted, 130), ("other", Updated, 141)];
        assert_eq!(news, expected.map(|(id, kind, as_of)| (id.to_owned(), kind, as_of)));
        assert!(ledger.settle(to_a).unwrap().is_empty(), "what was so at the checkpoint is so");
    }

    #[test]
    fn how_all_was_at_the_checkpoint_is_news_to_who_has_forgotten_it() {
        use AlertEventKind::{Closed, Opened, Updated};
        let directory = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Some(directory.path()), 10).unwrap();
        let over = named("over", Closed, 90);
        open().say(vec![named("open", Opened, 80), named("over", Opened, 80), over.clone()], to_a).unwrap();
        let restored = || vec![named("open", Opened, 100), AlertEvent { as_of: 100, ..over.clone() }];
        let mut ledger = open();
        ledger.resume(100, |_| 0);
        assert!(ledger.say(restored(), to_a).unwrap().is_empty());
        let mut forgetful = Ledger::open(None, 10).unwrap();
        forgetful.resume(100, |_| 0);
        let mut more = restored();
        more.push(named("open", Updated, 101));
        let news: Vec<_> =
            forgetful.say(more, to_a).unwrap().into_iter().map(|event| (event.alert.id, event.kind)).collect();
        let expected = [("open", Opened), ("over", Closed), ("open", Updated)];
        assert_eq!(news, expected.map(|(id, kind)| (id.to_owned(), kind)));
    }

    #[test]
    fn what_an_earlier_generation_said_and_the_checkpoint_has_is_not_closed() {
        use AlertEventKind::Opened;
        let directory = tempfile::tempdir().unwrap();
        let open = |generation| {
            let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
            ledger.begin(generation).unwrap();
            ledger
        };
        open(1).say(vec![named("open", Opened, 120)], to_a).unwrap();
        let mut ledger = open(2);
        ledger.resume(140, |_| 60);
        assert!(ledger.say(vec![named("open", Opened, 80)], to_a).unwrap().is_empty());
        assert!(ledger.settle(to_a).unwrap().is_empty());
    }

    #[test]
    fn what_was_over_and_goes_on_is_told() {
        use AlertEventKind::{Amended, Closed, Opened, Retracted, Updated};
        let mut ledger = Ledger::open(None, 10).unwrap();
        let mut gone = named("gone", Retracted, 120);
        gone.alert.state = AlertState::Retracted;
        ledger.say(vec![named("over", Closed, 120), gone], to_a).unwrap();
        let news = ledger.say(vec![named("gone", Updated, 130), named("over", Updated, 130)], to_a).unwrap();
        assert_eq!(news.iter().map(|event| event.kind).collect::<Vec<_>>(), [Opened, Amended]);
        assert_eq!(news[1].previous.as_ref().map(|before| before.state), Some(AlertState::Closed));
        assert_eq!(ledger.waiting["a"].len(), 4);
    }

    #[test]
    fn what_nobody_has_heard_of_is_opened() {
        use AlertEventKind::{Opened, Updated};
        let mut ledger = Ledger::open(None, 10).unwrap();
        ledger.resume(100, |_| 0);
        let news = [120, 130].map(|as_of| ledger.say(vec![named("open", Updated, as_of)], to_a).unwrap()[0].kind);
        assert_eq!(news, [Opened, Updated]);
        assert_eq!(ledger.waiting["a"].len(), 1);
    }

    #[test]
    fn more_of_the_same_moment_is_said() {
        use AlertEventKind::{Amended, Opened};
        let mut ledger = Ledger::open(None, 10).unwrap();
        ledger.say(vec![event(Opened, AlertState::Open, 60)], to_a).unwrap();
        let amended = event(Amended, AlertState::Open, 72);
        assert_eq!(ledger.say(vec![amended.clone()], to_a).unwrap().len(), 1);
        assert!(ledger.say(vec![amended.clone()], to_a).unwrap().is_empty());
        let mut more = amended;
        more.alert.as_of += 1;
        assert_eq!(ledger.say(vec![more], to_a).unwrap().len(), 1, "at the end of the input");
    }

    #[test]
    fn a_moved_beginning_is_told_as_a_change_of_the_same_incident() {
        let mut ledger = Ledger::open(None, 10).unwrap();
        let first = event(AlertEventKind::Opened, AlertState::Open, 100);
        ledger.say(vec![first.clone()], to_a).unwrap();
        let moved = moved(&first);
        let mut gone = event(AlertEventKind::Retracted, AlertState::Retracted, 200);
        gone.replaced_by = Some("earlier".to_owned());
        ledger.say(vec![moved, gone], to_a).unwrap();
        let told: Vec<(&str, &str)> =
            ledger.waiting["a"].values().map(|notice| (notice.kind(), notice.thread.as_str())).collect();
        assert_eq!(told, [("opened", &*first.alert.id), ("amended", &*first.alert.id)]);
    }

    #[test]
    fn a_moved_beginning_and_its_end_in_one_step_are_of_the_same_incident() {
        let mut ledger = Ledger::open(None, 10).unwrap();
        let first = event(AlertEventKind::Opened, AlertState::Open, 100);
        ledger.say(vec![first.clone()], to_a).unwrap();
        let moved = moved(&first);
        let mut closed = event(AlertEventKind::Closed, AlertState::Closed, 200);
        closed.alert.id = "earlier".to_owned();
        ledger.say(vec![moved, closed], to_a).unwrap();
        assert!(ledger.waiting["a"].values().all(|notice| notice.thread == first.alert.id));
        assert_eq!(ledger.waiting["a"].len(), 3);
    }

    #[test]
    fn the_journal_and_the_alerts_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 3).unwrap();
        let silence = Silence { id: 0, alert: None, keys: BTreeMap::new(), until: 10, comment: String::new() };
        ledger.silence(silence, 0).unwrap();
        for i in 0..700 {
            let mut closed = event(AlertEventKind::Closed, AlertState::Closed, i);
            closed.alert.id = i.to_string();
            ledger.say(vec![closed], to_a).unwrap();
            let number = *ledger.waiting["a"].keys().next().unwrap();
            ledger.done("a", &[number], std::iter::empty()).unwrap();
        }
        assert_eq!(ledger.alerts.len(), 3);
        assert!(ledger.journal.as_ref().unwrap().lines() < 1_200);
        let again = Ledger::open(Some(directory.path()), 3).unwrap();
        assert_eq!(again.alerts.keys().collect::<Vec<_>>(), ["697", "698", "699"]);
        assert_eq!((again.next, again.silences.len()), (ledger.next, 1));
        assert!(again.waiting.values().all(BTreeMap::is_empty));
    }

    #[test]
    fn an_alert_that_is_not_computed_any_more_is_closed_where_it_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        let opened = event(AlertEventKind::Opened, AlertState::Open, 200);
        let both = |_: &AlertEvent| vec!["a".to_owned(), "b".to_owned()];
        ledger.say(vec![opened.clone()], both).unwrap();
        ledger.done("a", &[1], [opened.alert.id.clone()].iter()).unwrap();
        ledger.done("b", &[1], std::iter::empty()).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(Some(directory.path()), 10).unwrap();
        ledger.resume(100, |_| 0);
        assert!(ledger.close_others(|_| true).unwrap().is_empty());
        let closed = ledger.close_others(|alert| *alert.configuration != *opened.alert.configuration).unwrap();
        assert_eq!((closed[0].kind, closed[0].alert.state), (AlertEventKind::Closed, AlertState::Closed));
        assert!(closed[0].alert.summary.contains("its definition changed"), "{}", closed[0].alert.summary);
        let told = |route: &str| ledger.waiting[route].values().map(Notice::kind).collect::<Vec<_>>();
        assert_eq!((told("a"), told("b")), (vec!["closed"], vec![]));
        assert!(ledger.settle(both).unwrap().is_empty(), "it was right while it was computed");
    }

    #[test]
    fn of_a_long_history_updates_are_forgotten_first() {
        use AlertEventKind::{Amended, Opened, Updated};
        let mut ledger = Ledger::open(None, 10).unwrap();
        ledger.say(vec![event(Opened, AlertState::Open, 1)], to_a).unwrap();
        for i in 0..300 {
            let kind = if i == 3 { Amended } else { Updated };
            ledger.say(vec![event(kind, AlertState::Open, 10 + i)], to_a).unwrap();
        }
        let kinds = |ledger: &Ledger| -> Vec<AlertEventKind> {
            ledger.alerts.values().flat_map(|known| &known.notices).map(|(_, notice)| notice.event.kind).collect()
        };
        assert_eq!((kinds(&ledger).len(), &kinds(&ledger)[..3]), (EVENTS_KEPT, &[Opened, Amended, Updated][..]));
        for i in 0..CHANGES_KEPT as u64 + 10 {
            ledger.say(vec![event(Amended, AlertState::Open, 1_000 + i)], to_a).unwrap();
        }
        let all = kinds(&ledger);
        assert_eq!((all.len(), all[0]), (CHANGES_KEPT, Opened));
        assert!(all[1..].iter().all(|kind| *kind == Amended));
    }

    #[test]
    fn of_each_alert_only_the_newest_document_waits_for_the_store() {
        let mut ledger = Ledger::open(None, 1).unwrap();
        ledger.store(std::iter::empty());
        let say = |ledger: &mut Ledger, id: &str, as_of| {
            let mut closed = event(AlertEventKind::Closed, AlertState::Closed, as_of);
            (closed.alert.id, closed.alert.as_of) = (id.to_owned(), as_of);
            ledger.say(vec![closed], |_| Vec::new()).unwrap();
        };
        say(&mut ledger, "x", 100);
        let first = ledger.to_store(10);
        say(&mut ledger, "x", 200);
        say(&mut ledger, "y", 300);
        ledger.stored("x", first[0].0);
        let waiting = ledger.to_store(10);
        let ids: Vec<(&str, Millis)> =
            waiting.iter().map(|(_, event)| (event.alert.id.as_str(), event.as_of)).collect();
        assert_eq!(ids, [("x", 200), ("y", 300)], "neither is forgotten before it is stored");
        waiting.iter().for_each(|(number, event)| ledger.stored(&event.alert.id, *number));
        assert_eq!(ledger.unstored(), 0);
    }

    #[test]
    fn whom_incidents_were_told_outlives_a_rewritten_journal() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(directory.path()), 3).unwrap();
        let opened = event(AlertEventKind::Opened, AlertState::Open, 1);
        ledger.say(vec![opened.clone()], to_a).unwrap();
        ledger.done("a", &[1], [opened.alert.id.clone()].iter()).unwrap();
        for i in 0..1_200 {
            let mut closed = event(AlertEventKind::Closed, AlertState::Closed, 10 + i);
            closed.alert.id = i.to_string();
            ledger.say(vec![closed.clone()], to_a).unwrap();
            ledger.done("a", &[i + 2], [closed.alert.id].iter()).unwrap();
        }
        assert!(ledger.told["a"].len() <= 3, "those of forgotten alerts are forgotten");
        let again = Ledger::open(Some(directory.path()), 3).unwrap();
        assert!(again.is_told("a", &opened.alert.id) && !again.is_told("a", "0"));
    }
}
