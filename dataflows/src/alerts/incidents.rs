//! Segments of all keys to incidents, and what there is to say of them.
//!
//! In: facts as they come, and the event clock. Out: [`AlertEvent`]s: the difference between the incidents as they are
//! now and as they were last spoken of. The incidents are a function of the facts and the clock alone, so whatever the
//! order in which facts came, the last that is said of each incident is the same.
//!
//! Segments of several keys are one incident when each begins while those before it are not over yet. An incident takes
//! in no segment that begins more than a day after it did: else one that never ends would take in everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::{Alert, AlertNumber, AlertSeverity, hash};
use super::facts::{Fact, FactUpdate};
use super::segments::{KeyFacts, Point, Segment, is_stronger};
use super::state::{AlertRow, AlertRowValue, alert_rows};
use super::{AlertDocument, AlertEvent, AlertEventKind, AlertState, AlertWindow, MeasureBaseline};
use crate::detect::BaselineState;
use crate::output::{KeyFields, WindowScore};
use crate::scores::ScoredMeasure;
use crate::time::{Millis, Tick};
use crate::view::Key;

/// Keys that an alert lists.
const LISTED_KEYS: usize = 100;

/// How long after its beginning an incident takes in further segments.
const GATHERS_MS: u64 = 86_400_000;

/// What is known of an incident.
#[derive(Clone, Debug, PartialEq)]
struct Incident {
    first: (Key, Point),
    strongest: (Key, Point),
    last: Millis,
    keys: Vec<Key>,
    key_count: u32,
    windows: u32,
    revision: u32,
    as_of: Millis,
    state: AlertState,
    /// Key and first window of its segments.
    segments: Vec<(Key, Millis)>,
}

impl Incident {
    fn id(&self, alert: &Alert) -> String {
        let text = format!("{}\n{}\n{}\n{}", alert.name, alert.configuration, self.first.0, self.first.1.start);
        format!("{:032x}", hash(text.as_bytes()))
    }

    /// Whether it says the same as another of the same id, whatever the two were made by. A late record changes what all
    /// windows after it were scored by, but hardly ever how they look.
    fn reads_like(&self, other: &Self) -> bool {
        let bare = |(key, point): &(Key, Point)| (key.clone(), Point { evidence: None, ..point.clone() });
        let bare = |of: &Self| Self { first: bare(&of.first), strongest: bare(&of.strongest), as_of: 0, ..of.clone() };
        bare(self) == bare(other)
    }

    /// Whether it says the same, whatever became of the rest.
    fn overlaps(&self, other: &Self, alert: &Alert) -> bool {
        let meets = |a: &Self, b: &Self| a.first.1.start <= alert.closes_at(b.last);
        let shares = |key: &Key| other.segments.iter().any(|(other, _)| other == key);
        let of_one_key = || self.segments.iter().any(|(key, _)| shares(key));
        meets(self, other) && meets(other, self) && (alert.group || of_one_key())
    }
}

/// All that is known for one alert.
#[derive(Debug)]
pub struct AlertFold {
    alert: Arc<Alert>,
    keys: BTreeMap<Key, KeyFacts>,
    /// The segments of each key that has any.
    segments: BTreeMap<Key, Vec<Segment>>,
    /// What was last said, by id.
    said: BTreeMap<String, Incident>,
    /// Windows that late records corrected since.
    corrected: BTreeSet<(Key, Millis)>,
    /// Keys whose facts changed since.
    changed: BTreeSet<Key>,
    /// When there is something to say or to forget, whatever comes.
    next: Millis,
    /// When a window is gone.
    next_gone: Millis,
    /// Facts that changed since the last checkpoint. Only where checkpoints are made.
    dirty: Option<BTreeSet<(Key, Millis)>>,
}

impl AlertFold {
    /// Nothing is known yet.
    pub fn new(alert: Arc<Alert>, has_checkpoints: bool) -> Self {
        Self {
            alert,
            keys: BTreeMap::new(),
            segments: BTreeMap::new(),
            said: BTreeMap::new(),
            corrected: BTreeSet::new(),
            changed: BTreeSet::new(),
            next: 0,
            next_gone: 0,
            dirty: has_checkpoints.then(BTreeSet::new),
        }
    }

    /// Goes on from rows of a checkpoint, made when the event clock was at `clock`: what was said of what was so at `now` is not
    /// said again. Gives how all incidents were: whoever is told may have heard less, from a run that spoke later, or before its
    /// memory was lost.
    pub fn restore<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a AlertRow>,
        at: Tick,
        now: Millis,
        clock: Millis,
    ) -> Vec<AlertEvent> {
        for row in rows.filter(|row| row.alert == self.alert.name && row.configuration == self.alert.configuration) {
            match &row.value {
                AlertRowValue::Fact(fact) if self.alert.gone_at(row.window) > clock => {
                    self.keys.entry(row.key.clone()).or_default().set(row.window, fact.clone());
                }
                AlertRowValue::Gone { at: of, fold, past } if *of == at => {
                    self.keys.entry(row.key.clone()).or_default().restore(fold.clone(), past.clone());
                }
                _ => {}
            }
        }
        self.changed = self.keys.keys().cloned().collect();
        self.fold();
        self.said = self.incidents(now);
        (self.next, self.next_gone) = (now, clock);
        let as_it_was = |(id, incident): (&String, &Incident)| {
            let kind = match incident.state {
                AlertState::Open => AlertEventKind::Opened,
                _ => AlertEventKind::Closed,
            };
            self.event(kind, id, incident, None, now)
        };
        self.said.iter().map(as_it_was).collect()
    }

    /// Takes what is known of a window now.
    pub fn take(&mut self, update: FactUpdate) {
        let FactUpdate { key, start, fact, is_late, .. } = update;
        self.set(key, start, fact, is_late);
    }

    fn set(&mut self, key: Key, start: Millis, fact: Option<Fact>, is_late: bool) {
        let is_news = match &fact {
            None => self.keys.get_mut(&key).is_some_and(|facts| facts.set(start, None)),
            Some(_) => self.keys.entry(key.clone()).or_default().set(start, fact),
        };
        if !is_news {
            return;
        }
        if let Some(dirty) = &mut self.dirty {
            dirty.insert((key.clone(), start));
        }
        if is_late {
            self.corrected.insert((key.clone(), start));
        }
        self.changed.insert(key);
    }

    /// What there is to say of what is so at a time, which may be before the event clock.
    pub fn advance(&mut self, now: Millis, clock: Millis) -> Vec<AlertEvent> {
        if self.changed.is_empty() && now < self.next && clock < self.next_gone {
            return Vec::new();
        }
        self.fold();
        let incidents = self.incidents(now);
        let events = self.events(&incidents, now);
        self.said = incidents;
        self.corrected.clear();
        self.let_go(clock);
        self.forget(now);
        events
    }

    /// The rows of what changed since the last checkpoint, as of the last advance.
    pub fn cut(&mut self, at: Tick) -> Vec<AlertRow> {
        let dirty = self.dirty.replace(BTreeSet::new()).unwrap_or_default();
        alert_rows(&self.alert, &self.keys, dirty, at)
    }

    /// Brings the segments of changed keys up to date.
    fn fold(&mut self) {
        for key in std::mem::take(&mut self.changed) {
            let segments = self.keys.get(&key).map(|facts| facts.segments(&self.alert)).unwrap_or_default();
            match segments.is_empty() {
                true => _ = self.segments.remove(&key),
                false => _ = self.segments.insert(key, segments),
            }
        }
    }

    fn incidents(&self, now: Millis) -> BTreeMap<String, Incident> {
        let alert = &*self.alert;
        let mut segments: Vec<(&Key, &Segment)> = self
            .segments
            .iter()
            .flat_map(|(key, segments)| segments.iter().map(move |segment| (key, segment)))
            .collect();
        segments.sort_by_key(|(key, segment)| (segment.first.start, *key));
        let mut groups: Vec<Vec<(&Key, &Segment)>> = Vec::new();
        let (mut over_at, mut gathers_until) = (0, 0);
        for (key, segment) in segments {
            let start = segment.first.start;
            let closes_at = alert.closes_at(segment.last);
            match groups.last_mut() {
                Some(group) if alert.group && start < over_at && start < gathers_until => {
                    group.push((key, segment));
                    over_at = over_at.max(closes_at);
                }
                _ => {
                    groups.push(vec![(key, segment)]);
                    (over_at, gathers_until) = (closes_at, start.saturating_add(GATHERS_MS));
                }
            }
        }
        let of_group = |group: Vec<(&Key, &Segment)>| incident(alert, &group, now);
        groups.into_iter().filter_map(of_group).map(|incident| (incident.id(alert), incident)).collect()
    }

    fn events(&self, incidents: &BTreeMap<String, Incident>, now: Millis) -> Vec<AlertEvent> {
        let alert = &*self.alert;
        let mut events = Vec::new();
        let mut replaces: BTreeMap<&str, &str> = BTreeMap::new();
        for (id, incident) in self.said.iter().filter(|(id, _)| !incidents.contains_key(*id)) {
            let mut others = incidents.iter().filter(|(_, other)| incident.overlaps(other, alert));
            let is_free = |id: &str| !self.said.contains_key(id) && !replaces.contains_key(id);
            let renamed = others.clone().find(|(id, _)| is_free(id));
            let replaced_by = renamed.or_else(|| others.next()).map(|(id, _)| id);
            if let Some((new, _)) = renamed {
                replaces.insert(new, id);
            }
            let retracted =
                Incident { state: AlertState::Retracted, as_of: now.max(incident.as_of), ..incident.clone() };
            let event = self.event(AlertEventKind::Retracted, id, &retracted, Some(incident), now);
            events.push(AlertEvent { replaced_by: replaced_by.cloned(), ..event });
        }
        for (id, incident) in incidents {
            match self.said.get(id) {
                None => {
                    let open = Incident { state: AlertState::Open, ..incident.clone() };
                    let event = self.event(AlertEventKind::Opened, id, &open, None, now);
                    let replaces = replaces.get(&**id).map(|id| (*id).to_owned());
                    events.push(AlertEvent { replaces, ..event });
                    if incident.state == AlertState::Closed {
                        events.push(self.event(AlertEventKind::Closed, id, incident, None, now));
                    }
                }
                Some(said) if said == incident => {}
                Some(said) => {
                    let kind = self.kind(said, incident);
                    let previous = (kind == AlertEventKind::Amended).then_some(said);
                    events.push(self.event(kind, id, incident, previous, now));
                }
            }
        }
        events.sort_by(|a, b| (a.alert.start, &a.alert.id).cmp(&(b.alert.start, &b.alert.id)));
        events
    }

    fn kind(&self, said: &Incident, incident: &Incident) -> AlertEventKind {
        match (said.state, incident.state) {
            (AlertState::Open, AlertState::Closed) => return AlertEventKind::Closed,
            (AlertState::Closed, AlertState::Open) => return AlertEventKind::Amended,
            _ => {}
        }
        if incident.reads_like(said) {
            return AlertEventKind::Updated;
        }
        let from = said.first.1.start.min(incident.first.1.start);
        let to = said.last.max(incident.last);
        let is_of = |key: &Key| said.segments.iter().chain(&incident.segments).any(|(other, _)| other == key);
        let is_corrected = self.corrected.iter().any(|(key, start)| (from..=to).contains(start) && is_of(key));
        if is_corrected { AlertEventKind::Amended } else { AlertEventKind::Updated }
    }

    /// Folds windows that are gone by the event clock, as checkpoints do not keep these, and finds out when the next one is.
    fn let_go(&mut self, clock: Millis) {
        self.next_gone = Millis::MAX;
        for facts in self.keys.values_mut() {
            facts.let_go(&self.alert, clock);
            self.next_gone = self.next_gone.min(facts.next_gone(&self.alert).unwrap_or(Millis::MAX));
        }
    }

    /// Forgets incidents of which nothing will be said any more, and finds out when to speak again.
    fn forget(&mut self, now: Millis) {
        let alert = self.alert.clone();
        self.next = Millis::MAX;
        let forgotten_at = |incident: &Incident| alert.forgotten_at(incident.last);
        let mut forgotten = Vec::new();
        self.said.retain(|_, incident| {
            let is_kept = incident.state == AlertState::Open || forgotten_at(incident) > now;
            if !is_kept {
                forgotten.append(&mut incident.segments);
            }
            is_kept
        });
        for (key, start) in forgotten {
            if let Some(facts) = self.keys.get_mut(&key) {
                facts.forget(start);
                self.changed.insert(key);
            }
        }
        self.fold();
        self.keys.retain(|_, facts| !facts.is_empty());
        for incident in self.said.values() {
            let at = match incident.state {
                AlertState::Open => alert.closes_at(incident.last),
                _ => forgotten_at(incident),
            };
            self.next = self.next.min(at);
        }
    }

    fn event(
        &self,
        kind: AlertEventKind,
        id: &str,
        incident: &Incident,
        previous: Option<&Incident>,
        now: Millis,
    ) -> AlertEvent {
        let previous = previous.map(|previous| self.document(id, previous));
        let alert = self.document(id, incident);
        AlertEvent { kind, as_of: now, alert, previous, replaces: None, replaced_by: None }
    }

    fn document(&self, id: &str, incident: &Incident) -> AlertDocument {
        let alert = &*self.alert;
        let severity = match alert.severity {
            Some(severity) => severity,
            None if alert.condition().is_of_score() => AlertSeverity::of_score(incident.strongest.1.value),
            None => AlertSeverity::High,
        };
        AlertDocument {
            id: id.to_owned(),
            alert: alert.name.clone(),
            view: alert.view.clone(),
            severity: severity.name().into(),
            state: incident.state,
            start: incident.first.1.start,
            end: incident.last + alert.width_ms,
            first: window(alert, &incident.first),
            strongest: window(alert, &incident.strongest),
            keys: incident.keys.iter().map(|key| fields(alert, key)).collect(),
            key_count: incident.key_count,
            windows: incident.windows,
            summary: summary(alert, incident),
            revision: incident.revision,
            as_of: incident.as_of,
            configuration: alert.configuration.clone(),
            sections: alert.sections.clone(),
        }
    }
}

fn incident(alert: &Alert, group: &[(&Key, &Segment)], now: Millis) -> Option<Incident> {
    let (key, segment) = group.first()?;
    let mut strongest = (*key, &segment.strongest);
    let mut keys: Vec<Key> = Vec::new();
    let mut seen: BTreeSet<&Key> = BTreeSet::new();
    let (mut last, mut windows, mut revision, mut as_of) = (0, 0, 0, 0);
    for (key, segment) in group {
        if seen.insert(key) && keys.len() < LISTED_KEYS {
            keys.push((*key).clone());
        }
        let (point, than) = (&segment.strongest, strongest.1);
        let is_earlier = point.value == than.value && (point.start, *key) < (than.start, strongest.0);
        if is_stronger(alert, point.value, than.value) || is_earlier {
            strongest = (key, point);
        }
        last = segment.last.max(last);
        windows += segment.windows;
        revision += segment.revision;
        as_of = segment.as_of.max(as_of);
    }
    let is_over = alert.closes_at(last) <= now;
    Some(Incident {
        first: ((*key).clone(), segment.first.clone()),
        strongest: (strongest.0.clone(), strongest.1.clone()),
        last,
        keys,
        key_count: seen.len() as u32,
        windows,
        revision,
        as_of: if is_over { alert.closes_at(last).max(as_of) } else { as_of },
        state: if is_over { AlertState::Closed } else { AlertState::Open },
        segments: group.iter().map(|(key, segment)| ((*key).clone(), segment.first.start)).collect(),
    })
}

fn fields(alert: &Alert, key: &Key) -> KeyFields {
    KeyFields(alert.key_fields.iter().cloned().zip(key.values()).collect())
}

fn window(alert: &Alert, (key, point): &(Key, Point)) -> AlertWindow {
    let mut score: Option<WindowScore> = point.score.as_ref().and_then(|json| sonic_rs::from_str(json).ok());
    let evidence = point.evidence.as_deref();
    let offsets = match &mut score {
        Some(score) => std::mem::take(&mut score.offsets),
        None => evidence.map(|evidence| evidence.offsets.clone()).unwrap_or_default(),
    };
    let states = evidence.iter().flat_map(|evidence| &*evidence.baselines);
    let state = |(measure, state): (&ScoredMeasure, &BaselineState)| MeasureBaseline {
        measure: measure.name().into(),
        state: state.clone(),
    };
    AlertWindow {
        key: fields(alert, key),
        start: point.start,
        end: point.start + alert.width_ms,
        value: point.value,
        score,
        offsets,
        baselines: alert.measures.iter().zip(states).map(state).collect(),
    }
}

/// Such as `error_ratio > 0.05 for 2 windows: service_name=checkout reached 0.31; 7 windows of 2 keys`.
fn summary(alert: &Alert, incident: &Incident) -> String {
    let conditions: Vec<String> = alert.conditions.iter().map(ToString::to_string).collect();
    let long = if alert.for_windows > 1 { format!(" for {} windows", alert.for_windows) } else { String::new() };
    let (key, point) = &incident.strongest;
    let key: Vec<String> = fields(alert, key).0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let reached = if alert.condition().is_upward() { "reached" } else { "fell to" };
    let value = (point.value * 1_000.0).round() / 1_000.0;
    let count = |n: u32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (windows, keys) = (count(incident.windows, "window"), count(incident.key_count, "key"));
    format!("{}{long}: {} {reached} {value}; {windows} of {keys}", conditions.join(" and "), key.join(", "))
}

/// The alerts of a view's windows as they are once nothing changes any more, from facts in any order: what the events of
/// any run come down to.
pub fn final_alerts(
    alert: &Arc<Alert>,
    facts: impl IntoIterator<Item = FactUpdate>,
    now: Millis,
) -> Vec<AlertDocument> {
    let mut fold = AlertFold::new(alert.clone(), false);
    facts.into_iter().for_each(|fact| fold.take(fact));
    fold.fold();
    fold.incidents(now).iter().map(|(id, incident)| fold.document(id, incident)).collect()
}

/// The numbers of alerts with what is known of each.
pub(super) fn folds(alerts: &[Arc<Alert>], has_checkpoints: bool) -> BTreeMap<AlertNumber, AlertFold> {
    (0..).zip(alerts).map(|(number, alert)| (number, AlertFold::new(alert.clone(), has_checkpoints))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alerts::config::AlertConfig;
    use crate::decode::{RecordsConfig, Schema};
    use crate::units::Span;
    use crate::view_config::ViewConfig;

    /// Windows of 10 s, kept for an hour; two in a row open an alert, two quiet ones close it.
    fn alert(change: impl FnOnce(&mut AlertConfig)) -> Arc<Alert> {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let views = [ViewConfig::default().compile(Span::from_secs(1), &mut schema).unwrap()];
        let mut config = AlertConfig {
            name: "errors".to_owned(),
            when: vec!["errors >= 5".to_owned()],
            for_windows: 2,
            close_after: 2,
            ..AlertConfig::default()
        };
        change(&mut config);
        Arc::new(config.compile(&views).unwrap())
    }

    /// The value of the n-th window of a key; below 5 it does not meet the condition.
    fn fact(key: &str, window: u64, value: u32, is_late: bool) -> FactUpdate {
        let as_of = if is_late { window * 10_000 + 90_000 } else { window * 10_000 + 10_000 };
        let fact = (value >= 5).then(|| Fact {
            value: f64::from(value),
            score: None,
            evidence: None,
            revision: u32::from(is_late),
            as_of,
        });
        FactUpdate { alert: 0, key: Key(key.into()), start: window * 10_000, fact, is_late }
    }

    fn said(fold: &mut AlertFold, now: u64) -> Vec<(AlertEventKind, AlertDocument)> {
        fold.advance(now, now).into_iter().map(|event| (event.kind, event.alert)).collect()
    }

    fn kinds(fold: &mut AlertFold, now: u64) -> Vec<AlertEventKind> {
        said(fold, now).into_iter().map(|(kind, _)| kind).collect()
    }

    use AlertEventKind::*;

    #[test]
    fn an_alert_is_an_incident_and_not_a_window() {
        let mut fold = AlertFold::new(alert(|_| {}), false);
        let mut all = Vec::new();
        for (window, value) in [(1, 9), (2, 7), (3, 0), (4, 12), (5, 0), (6, 0), (7, 8), (8, 0)] {
            fold.take(fact("a", window, value, false));
            all.extend(kinds(&mut fold, window * 10_000 + 10_000));
        }
        assert_eq!(all, [Opened, Updated, Closed], "one window at 7 is too few for another");
        let incident = fold.said.values().next().unwrap();
        assert_eq!((incident.first.1.start, incident.last, incident.windows), (10_000, 40_000, 3));
        assert_eq!(incident.strongest.1.value, 12.0);
    }

    #[test]
    fn the_latest_record_there_can_be_joins_an_incident() {
        let mut fold = AlertFold::new(alert(|_| {}), false);
        for window in [1, 2] {
            fold.take(fact("a", window, 6, false));
        }
        assert_eq!(kinds(&mut fold, 30_000), [Opened]);
        fold.take(fact("b", 5, 6, false));
        assert_eq!(
            kinds(&mut fold, 60_000),
            [Closed],
            "it is over at 50 s; and of the other key one window is too few"
        );
        assert_eq!(kinds(&mut fold, 3_649_000), []);
        // Gone at 3,650 s. With it the other key began at 40 s.
        fold.take(fact("b", 4, 6, true));
        assert_eq!(kinds(&mut fold, 3_649_500), [Amended]);
        // The same by a window that is gone later.
        let mut fold = AlertFold::new(alert(|_| {}), false);
        for (key, window) in [("a", 1), ("a", 2), ("b", 4)] {
            fold.take(fact(key, window, 6, false));
        }
        assert_eq!(kinds(&mut fold, 60_000), [Opened, Closed]);
        assert_eq!(kinds(&mut fold, 3_659_000), []);
        fold.take(fact("b", 5, 6, true));
        assert_eq!(kinds(&mut fold, 3_659_500), [Amended]);
        assert_eq!(kinds(&mut fold, 3_700_000), []);
        assert!(fold.said.is_empty() && fold.keys.is_empty(), "and then it is forgotten");
    }

    #[test]
    fn a_correction_retracts_amends_or_moves_the_beginning() {
        let mut fold = AlertFold::new(alert(|_| {}), false);
        for window in [1, 2, 3] {
            fold.take(fact("a", window, 6, false));
        }
        assert_eq!(kinds(&mut fold, 40_000), [Opened]);
        fold.take(fact("a", 2, 9, true));
        assert_eq!(kinds(&mut fold, 41_000), [Amended]);
        fold.take(fact("a", 2, 0, true));
        let events = fold.advance(42_000, 42_000);
        assert_eq!(events[0].kind, Retracted);
        assert_eq!(events[0].previous.as_ref().unwrap().strongest.value, 9.0);
        assert_eq!(events[0].alert.state, AlertState::Retracted);
        assert_eq!(kinds(&mut fold, 43_000), []);
        fold.take(fact("a", 2, 5, true));
        let again = fold.advance(44_000, 44_000);
        assert_eq!((again[0].kind, &again[0].alert.id), (Opened, &events[0].alert.id), "the same incident after all");
        fold.take(fact("a", 0, 5, true));
        let moved = fold.advance(45_000, 45_000);
        let [first, second] = &moved[..] else { panic!("{moved:?}") };
        assert_eq!((first.kind, second.kind), (Opened, Retracted));
        assert_eq!(first.replaces.as_ref(), Some(&second.alert.id));
        assert_eq!(second.replaced_by.as_ref(), Some(&first.alert.id));
    }

    #[test]
    fn keys_that_rise_together_are_one_incident() {
        let both = |group| {
            let mut fold = AlertFold::new(alert(|config| config.group = group), false);
            for (key, window, value) in [("b", 2, 6), ("b", 3, 8), ("a", 4, 20), ("a", 5, 6), ("c", 9, 9), ("c", 10, 9)]
            {
                fold.take(fact(key, window, value, false));
            }
            said(&mut fold, 110_000)
        };
        let grouped: Vec<AlertDocument> =
            both(true).into_iter().filter(|(kind, _)| *kind == Opened).map(|(_, alert)| alert).collect();
        assert_eq!(grouped.len(), 2, "{grouped:?}");
        assert_eq!((grouped[0].key_count, grouped[0].windows), (2, 4));
        assert_eq!((&*grouped[0].first.key.0[0].1, &*grouped[0].strongest.key.0[0].1), ("b", "a"));
        assert_eq!(both(false).iter().filter(|(kind, _)| *kind == Opened).count(), 3);
    }

    #[test]
    fn an_incident_longer_than_the_retention_keeps_its_beginning_and_little_memory() {
        let mut fold = AlertFold::new(alert(|_| {}), true);
        let mut opened = 0;
        for window in 0..2_000 {
            fold.take(fact("a", window, 6, false));
            opened += kinds(&mut fold, window * 10_000 + 10_000).iter().filter(|kind| **kind == Opened).count();
        }
        assert_eq!(opened, 1);
        let (start, windows) =
            fold.said.values().map(|incident| (incident.first.1.start, incident.windows)).next().unwrap();
        assert_eq!((start, windows), (0, 2_000));
        assert!(fold.keys.values().all(|facts| facts.facts() <= 362), "only what can still change");
        // And a restart changes nothing of it.
        let at = 20_000;
        let rows = fold.cut(at);
        let mut restored = AlertFold::new(fold.alert.clone(), true);
        let told = restored.restore(rows.iter(), at, 20_000_000, 20_000_000);
        assert_eq!(restored.said, fold.said);
        assert_eq!(told.iter().map(|event| (event.kind, event.alert.windows)).collect::<Vec<_>>(), [(Opened, 2_000)]);
        assert_eq!(kinds(&mut restored, 20_000_000), []);
        assert_eq!(kinds(&mut restored, 20_020_000), [Closed]);
        assert_eq!(kinds(&mut restored, 30_000_000), []);
        assert!(restored.said.is_empty() && restored.keys.is_empty(), "nothing is left of it");
    }

    #[test]
    fn what_is_spoken_of_later_goes_on_from_a_checkpoint_in_one_piece() {
        const LAG: u64 = 60_000;
        let alert = alert(|_| {});
        let mut fold = AlertFold::new(alert.clone(), true);
        let mut rows: BTreeMap<(Key, Millis), AlertRow> = BTreeMap::new();
        for window in 0..500 {
            let clock = window * 10_000 + 10_000 + LAG;
            fold.take(fact("a", window, 6, false));
            fold.advance(clock - LAG, clock);
            // As in a chain of checkpoints: what is gone by the event clock is not kept.
            let at = clock / 1_000;
            rows.extend(fold.cut(at).into_iter().map(|row| ((row.key.clone(), row.window), row)));
            rows.retain(|_, row| !matches!(row.value, AlertRowValue::Fact(_)) || alert.gone_at(row.window) > clock);
            let mut restored = AlertFold::new(alert.clone(), true);
            restored.restore(rows.values(), at, clock - LAG, clock);
            assert_eq!(restored.said, fold.said, "window {window}");
        }
    }

    /// Facts with corrections: key, window, values one after the other.
    fn histories() -> impl Strategy<Value = Vec<(u8, u64, Vec<u32>)>> {
        prop::collection::btree_map((0u8..3, 0u64..30), prop::collection::vec(0u32..10, 1..4), 1..60)
            .prop_map(|map| map.into_iter().map(|((key, window), values)| (key, window, values)).collect())
    }

    proptest! {
        /// Whatever the order in which windows and their corrections come, and however many at a time: what was last said
        /// of each alert is what its windows come down to in the end, and what was said holds together.
        #[test]
        fn every_order_of_corrections_ends_with_the_same(
            histories in histories(),
            seed in prop::collection::vec(any::<u32>(), 64),
            group in any::<bool>(),
        ) {
            let alert = alert(|config| config.group = group);
            let end = 400_000;
            let last = histories.iter().map(|(key, window, values)| {
                let late = values.len() > 1;
                fact(&key.to_string(), *window, values[values.len() - 1], late)
            });
            let expected: BTreeMap<String, AlertDocument> =
                final_alerts(&alert, last, end).into_iter().map(|alert| (alert.id.clone(), alert)).collect();

            let mut steps = Vec::new();
            for (i, (key, window, values)) in histories.iter().enumerate() {
                for (n, value) in values.iter().enumerate() {
                    let after = u64::from(seed[(i + n) % seed.len()] % 20) * if n == 0 { 0 } else { 10_000 };
                    let before = steps.last().map_or(0, |(key, window, at, _): &(u8, u64, u64, FactUpdate)| {
                        if (*key, *window) == (histories[i].0, histories[i].1) { *at } else { 0 }
                    });
                    let at = (window * 10_000 + 10_000 + after).max(before);
                    steps.push((*key, *window, at, fact(&key.to_string(), *window, *value, n > 0)));
                }
            }
            steps.sort_by_key(|(_, _, at, _)| *at);
            let mut known: BTreeMap<String, AlertDocument> = BTreeMap::new();
            let mut fold = AlertFold::new(alert, true);
            let mut last = 0;
            let mut hear = |events: Vec<AlertEvent>| {
                for event in events {
                    let known_before = known.get(&event.alert.id).map(|alert| alert.state);
                    let is_sound = match event.kind {
                        Opened => matches!(known_before, None | Some(AlertState::Retracted)),
                        Retracted => matches!(known_before, Some(AlertState::Open | AlertState::Closed)),
                        Closed => known_before == Some(AlertState::Open),
                        Updated | Amended => known_before.is_some(),
                    };
                    assert!(is_sound, "{:?} after {known_before:?}", event.kind);
                    known.insert(event.alert.id.clone(), event.alert);
                }
            };
            for (i, (.., at, update)) in steps.into_iter().enumerate() {
                if at > last && seed[i % seed.len()] % 3 > 0 {
                    hear(fold.advance(at - 1, at - 1));
                }
                last = at;
                fold.take(update);
            }
            hear(fold.advance(end, end));
            known.retain(|_, alert| alert.state != AlertState::Retracted);
            prop_assert_eq!(known, expected);
        }
    }
}
