use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use differential_dataflow::difference::Semigroup;
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::corrections::{KEPT_REVISIONS, Measures};
use floodmark_dataflows::histogram::{Histogram, bucket_of};
use floodmark_dataflows::output::{Previous, ResponseTime};
use floodmark_dataflows::view::OTHER;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::changes::{ChangeKind, ViewChanges};
use super::*;

const TICK_MS: u64 = 1_000;

fn view(name: &str, width_s: u64, slide_s: u64) -> View {
    View {
        name: name.into(),
        key: vec!["service_name".into()],
        key_fields: Vec::new(),
        conditions: Vec::new(),
        condition_texts: Vec::new(),
        width_ms: width_s * 1_000,
        slide_ms: slide_s * 1_000,
        lateness_ms: 5_000,
        retention_ms: 60_000,
        max_keys: 100,
        forget_after_ms: 100_000,
        numbers: Vec::new(),
        number_sources: Vec::new(),
        scored: Vec::new(),
        keeps_offsets: false,
        is_watched: false,
        evidence_from: None,
    }
}

fn aggregate(rng: &mut ChaCha8Rng, at: Millis) -> Aggregate {
    let us: Vec<u64> = (0..rng.random_range(0..4)).map(|_| rng.random_range(1..1_000_000)).collect();
    let mut buckets: Vec<u16> = us.iter().map(|&us| bucket_of(us)).collect();
    let mut aggregate = Aggregate {
        response_sum_us: us.iter().sum::<u64>() as i64,
        response: Histogram::from_unsorted(&mut buckets),
        response_min_us: us.iter().copied().min().unwrap_or(u64::MAX),
        response_max_us: us.iter().copied().max().unwrap_or(0),
        first_ms: at,
        last_ms: at + 3,
        max_severity: rng.random_range(0..=100),
        ..Default::default()
    };
    aggregate.levels[rng.random_range(0..7)] = us.len() as i64 + rng.random_range(1..3);
    aggregate.status[rng.random_range(0..5)] = us.len() as i64;
    aggregate.anomalies = rng.random_range(0..2);
    aggregate
}

/// Random scores of windows of known keys, of which some have no records and some are shown no more.
fn random_scores(rng: &mut ChaCha8Rng, views: &[View], froms: std::ops::RangeInclusive<Tick>) -> Vec<ScoreUpdate> {
    let mut scores: Vec<_> = (0..rng.random_range(0..12))
        .map(|_| {
            let (from, id) = (rng.random_range(froms.clone()), rng.random_range(0..views.len()));
            let event = (from * TICK_MS).saturating_sub(rng.random_range(30_000..80_000));
            let key = Key::from_values(&[format!("service/{}", (from / 60 % 4) * 3 + rng.random_range(0..3))]);
            let score = ShownScore {
                score: rng.random_range(0..100),
                learning: rng.random(),
                stalled: false,
                measures: [].into(),
            };
            ScoreUpdate {
                view: id as ViewId,
                window: event - event % views[id].slide_ms,
                key,
                from,
                is_silent: true,
                score: rng.random_bool(0.7).then(|| Arc::new(score)),
            }
        })
        .collect();
    scores.sort_by_key(|update| update.from);
    scores
}

/// What a window must read as, from every update so far.
fn expected_windows(view: &View, frontier: Tick, updates: &[ViewUpdate]) -> Vec<WindowDocument> {
    let now = frontier * TICK_MS;
    let mut windows: BTreeMap<(Millis, Key), Vec<&ViewUpdate>> = BTreeMap::new();
    for update in updates {
        for window in update.pane.into_iter().flat_map(|pane| view.windows_of(pane)) {
            if view.gone_at(window) > now {
                windows.entry((window, update.key.clone())).or_default().push(update);
            }
        }
    }
    let mut documents: Vec<_> = windows
        .into_iter()
        .map(|((start, key), updates)| {
            let mut sum = Aggregate::default();
            updates.iter().for_each(|update| sum.plus_equals(&update.aggregate));
            let ticks: BTreeSet<Tick> = updates.iter().map(|update| update.time).collect();
            let late: Vec<Tick> = ticks.iter().copied().filter(|time| view.final_at(start) <= time * TICK_MS).collect();
            let sum_before = |tick: Tick| {
                let mut sum = Aggregate::default();
                let before = updates.iter().filter(|update| update.time < tick);
                before.for_each(|update| sum.plus_equals(&update.aggregate));
                sum
            };
            let previous = late.last().map(|&last| {
                let before = sum_before(last);
                let measures = Measures::of(&before);
                let changed = late.iter().rev().nth(1).map_or(0, |tick| (tick + 1) * TICK_MS);
                Previous {
                    count: before.count(),
                    errors: before.errors(),
                    anomalies: before.anomalies,
                    response_time_ms: measures.response.as_ref().map(ResponseTime::of),
                    numbers: BTreeMap::new(),
                    rules: BTreeMap::new(),
                    as_of: view.final_at(start).max(changed),
                }
            });
            let late_records = late.first().map_or(0, |&first| sum.count() - sum_before(first).count());
            let mut as_of_ms = (ticks.last().unwrap() + 1) * TICK_MS;
            for at in [view.end_of(start), view.final_at(start)] {
                as_of_ms = if at <= now { as_of_ms.max(at) } else { as_of_ms };
            }
            let is_final = view.final_at(start) <= now;
            let previous = previous.filter(|previous| previous.count > 0);
            let state =
                WindowState { revision: late.len() as u32, late_records, previous, is_final, partial: false, as_of_ms };
            WindowDocument::new(view, &key, start, &Measures::of(&sum), state)
        })
        .collect();
    documents.sort_by(|a, b| b.start.cmp(&a.start).then_with(|| a.key.cmp(&b.key)));
    documents
}

/// Totals by key as they must be when the frontier passes one tick after the other, and their sum.
fn expected_totals(view: &View, ticks: std::ops::Range<Tick>, updates: &[ViewUpdate]) -> BTreeMap<Key, Totals> {
    let mut keys: BTreeMap<Key, (Tick, Totals)> = BTreeMap::new();
    let other = Key(OTHER.into());
    for tick in ticks.start..=ticks.end {
        let silent: Vec<Key> = keys
            .iter()
            .filter(|(key, (changed, _))| **key != other && changed * TICK_MS + view.forget_after_ms <= tick * TICK_MS)
            .map(|(key, _)| key.clone())
            .collect();
        for key in silent {
            let (_, totals) = keys.remove(&key).unwrap();
            keys.entry(other.clone()).or_default().1.add(&totals);
        }
        for update in updates.iter().filter(|update| update.time == tick && tick < ticks.end) {
            let (changed, totals) = keys.entry(update.key.clone()).or_default();
            *changed = tick;
            let mut part = Totals::of(&update.aggregate);
            match update.pane {
                None => part.too_late = part.count(),
                Some(pane) if view.final_at(view.last_window_of(pane)) <= tick * TICK_MS => part.late = part.count(),
                Some(_) => {}
            }
            totals.add(&part);
        }
    }
    keys.into_iter().map(|(key, (_, totals))| (key, totals)).collect()
}

/// Random updates for one advance of the frontier, in random order.
fn random_updates(rng: &mut ChaCha8Rng, views: &[View], times: std::ops::Range<Tick>) -> Vec<ViewUpdate> {
    let mut updates = Vec::new();
    for _ in 0..rng.random_range(0..30) {
        let time = rng.random_range(times.clone());
        // Keys that come and go: each is silent for long enough to be forgotten, some come back.
        let key = (time / 60 % 4) * 3 + rng.random_range(0..3);
        let event = (time * TICK_MS).saturating_sub(rng.random_range(0..90_000));
        for (id, view) in (0..).zip(views) {
            let pane = event - event % view.pane_ms();
            let pane = Some(pane).filter(|&pane| view.gone_at(view.last_window_of(pane)) > time * TICK_MS);
            let key = Key::from_values(&[format!("service/{key}")]);
            updates.push(ViewUpdate { view: id, pane, key, time, aggregate: aggregate(rng, event) });
        }
    }
    for i in (1..updates.len()).rev() {
        updates.swap(i, rng.random_range(0..=i));
    }
    updates
}

#[test]
fn every_read_equals_a_naive_reference() {
    let given = std::env::var("FLOODMARK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("FLOODMARK_TEST_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let views = vec![view("tumbling", 10, 10), view("sliding", 30, 20), view("__hidden", 5, 5)];
    let live = Arc::new(LiveView::new(views.clone(), TICK_MS, 2));
    let mut writer = live.writer();
    let (mut frontier, mut all) = (1_000_000, Vec::new());
    let start = frontier;
    let mut revised = false;
    while frontier < start + 500 {
        // Steps of one tick, and jumps as in a catch-up.
        let next = frontier + if rng.random_bool(0.8) { 1 } else { rng.random_range(2..60) };
        let updates = random_updates(&mut rng, &views, frontier..next);
        all.extend(updates.clone());
        writer.apply(next, updates, Vec::new());
        frontier = next;
        if !rng.random_bool(0.2) {
            continue;
        }
        for (id, view) in (0u16..).zip(&views) {
            let own: Vec<_> = all.iter().filter(|update| update.view == id).cloned().collect();
            let expected = expected_windows(view, frontier, &own);
            let query = WindowQuery { size: usize::MAX / 2, ..Default::default() };
            let read = live.windows(id, &query).unwrap();
            assert_eq!(read.as_of, Some(frontier * TICK_MS));
            assert_eq!(read.value.windows, expected, "view {} at {frontier}", view.name);

            let keys = live.keys(id, &KeyFilter::All, 0, usize::MAX).unwrap();
            assert_eq!(keys.as_of, read.as_of);
            assert_eq!(keys.value.totals, read.value.totals, "keys add up to the totals");
            assert_eq!(
                keys.value.keys.into_iter().collect::<BTreeMap<_, _>>(),
                expected_totals(view, start..frontier, &own),
                "view {} at {frontier}",
                view.name
            );
            for window in &expected {
                check_history(&live, id, view, window, &own);
            }
            revised |= expected.iter().any(|window| window.revision > 1);
            check_pages(&live, id, &expected, &mut rng);
        }
        let services = live.services();
        assert_eq!(services.value.all, Totals::sum(services.value.services.iter().map(|(_, totals)| totals)));
        assert_eq!(services.as_of, live.as_of());
    }
    assert_eq!(live.summaries().value.len(), 2, "the hidden view is not listed");
    let totals = live.services().value;
    assert!(totals.all.late > 0 && totals.all.too_late > 0, "the stream had late records: {:?}", totals.all);
    assert!(totals.services.iter().any(|(name, _)| name == OTHER), "the stream had keys that were forgotten");
    assert!(revised, "the stream had windows that were corrected");
}

/// The revisions of a window are its states up to each late tick.
fn check_history(live: &LiveView, id: ViewId, view: &View, window: &WindowDocument, updates: &[ViewUpdate]) {
    let values: Vec<_> = window.key.0.iter().map(|(_, value)| value.as_str()).collect();
    let key = Key::from_values(&values);
    let own = |update: &&ViewUpdate| {
        update.key == key && update.pane.is_some_and(|pane| view.windows_of(pane).any(|w| w == window.start))
    };
    let updates: Vec<_> = updates.iter().filter(own).collect();
    let late: BTreeSet<Tick> =
        updates.iter().map(|u| u.time).filter(|time| view.final_at(window.start) <= time * TICK_MS).collect();
    let late: Vec<Tick> = late.into_iter().collect();
    let mut expected = vec![WindowDocument { previous: None, ..window.clone() }];
    for before in (0..late.len()).rev().take(KEPT_REVISIONS) {
        let state_of = |from: Tick| {
            let mut sum = Aggregate::default();
            let taken = updates.iter().filter(|u| u.time >= from && u.time < late[before]);
            taken.for_each(|u| sum.plus_equals(&u.aggregate));
            sum
        };
        let (sum, late_records) = (state_of(0), late.first().map_or(0, |&first| state_of(first).count()));
        if sum.count() > 0 {
            let changed = before.checked_sub(1).map_or(0, |last| (late[last] + 1) * TICK_MS);
            let as_of_ms = view.final_at(window.start).max(changed);
            let state = WindowState {
                revision: before as u32,
                late_records,
                previous: None,
                is_final: true,
                partial: false,
                as_of_ms,
            };
            expected.push(WindowDocument::new(view, &key, window.start, &Measures::of(&sum), state));
        }
    }
    assert_eq!(live.history(id, &key, window.start).value, Some(expected));
    assert_eq!(live.history(id, &key, window.start + 1).value, None);
}

fn check_pages(live: &LiveView, id: ViewId, expected: &[WindowDocument], rng: &mut ChaCha8Rng) {
    let size = rng.random_range(1..7);
    let mut pages = Vec::new();
    loop {
        let query = WindowQuery { skip: pages.len(), size, ..Default::default() };
        let page = live.windows(id, &query).unwrap().value;
        assert!(page.windows.len() <= size);
        pages.extend(page.windows);
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, expected, "pages of {size}");
    let Some(some) = expected.get(rng.random_range(0..expected.len().max(1))) else { return };
    let value = some.key.0[0].1.clone();
    let (from, to) = (some.start.saturating_sub(10_000), some.end);
    for keys in [KeyFilter::Exactly(Key::from_values(&[&value])), KeyFilter::Fields(vec![Some(value.clone())])] {
        let query = WindowQuery { keys, from_ms: Some(from), to_ms: Some(to), size: 1_000, ..Default::default() };
        let read = live.windows(id, &query).unwrap().value.windows;
        let filtered: Vec<_> =
            expected.iter().filter(|w| w.key == some.key && w.end > from && w.start < to).cloned().collect();
        assert_eq!(read, filtered);
    }
}

#[test]
fn memory_is_given_back_when_windows_are_gone() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let live = Arc::new(LiveView::new(vec![view("v", 10, 10)], TICK_MS, 0));
    let mut writer = live.writer();
    let updates = random_updates(&mut rng, &[view("v", 10, 10)], 1_000..1_030);
    assert!(!updates.is_empty());
    writer.apply(1_030, updates, Vec::new());
    assert!(live.memory().rows > 0 && live.memory().bytes > 0);
    writer.apply(1_200, Vec::new(), Vec::new());
    assert_eq!(live.memory(), MemoryUse::default());
    let keys = live.keys(0, &KeyFilter::All, 0, 10).unwrap().value;
    assert_eq!(keys.keys.len(), 1, "silent keys have left for {OTHER}: {:?}", keys.keys);
    assert!(keys.totals.count() > 0);
}

#[test]
fn the_key_for_all_others_has_a_value_for_each_field() {
    let mut two_fields = view("v", 10, 10);
    two_fields.key.push("path".into());
    let live = Arc::new(LiveView::new(vec![two_fields], TICK_MS, 0));
    let mut writer = live.writer();
    let aggregate = aggregate(&mut ChaCha8Rng::seed_from_u64(1), 1_000_000);
    let key = Key::from_values(&["a", "/x"]);
    writer.apply(1_001, vec![ViewUpdate { view: 0, pane: Some(1_000_000), key, time: 1_000, aggregate }], Vec::new());
    writer.apply(2_000, Vec::new(), Vec::new());
    let keys = live.keys(0, &KeyFilter::All, 0, 10).unwrap().value.keys;
    assert_eq!(keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [Key::from_values(&[OTHER, OTHER])]);
}

#[test]
fn nothing_is_known_before_the_first_advance() {
    let live = LiveView::new(vec![view("v", 10, 10)], TICK_MS, 0);
    assert_eq!(
        live.services(),
        AsOf { as_of: None, value: ServiceTotals { all: Totals::default(), services: vec![] } }
    );
    assert!(live.find("__totals").is_none() && live.find("v").is_some());
}

/// A copy of a view's windows that only changes are applied to. Returns how many changed, and how many of the windows that
/// were passed on did not: a score that changed and changed back between two reads is passed on.
fn follow(windows: &mut BTreeMap<(Reverse<Millis>, Key), WindowDocument>, changes: ViewChanges) -> (usize, usize) {
    let (mut changed, mut unchanged) = (0, 0);
    for (start, key) in changes.withdrawn {
        let before = windows.remove(&(Reverse(start), key));
        assert!(before.is_none_or(|before| before.count == 0), "records do not go away");
    }
    for (kind, key, document) in changes.changed {
        let before = windows.insert((Reverse(document.start), key), document.clone());
        let revision = before.as_ref().map_or(0, |before| before.revision);
        let was_final = before.as_ref().is_some_and(|before| before.is_final);
        let expected = match (document.revision > revision, document.is_final && !was_final) {
            (true, _) => ChangeKind::Correction,
            (false, true) => ChangeKind::Final,
            (false, false) => ChangeKind::Window,
        };
        // One that is there again, without records, may have become final meanwhile.
        if before.is_some() || document.count > 0 {
            assert_eq!(kind, expected, "{document:?} after {before:?}");
        }
        *if before.as_ref() == Some(&document) { &mut unchanged } else { &mut changed } += 1;
    }
    if let Some(gone) = changes.gone {
        windows.retain(|_, document| document.end > gone);
    }
    (changed, unchanged)
}

#[test]
fn applying_the_changes_gives_the_state() {
    let seed: u64 = RandomState::new().hash_one(1);
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let views = vec![view("tumbling", 10, 10), view("sliding", 30, 20), view("__hidden", 5, 5)];
    let live = Arc::new(LiveView::new(views.clone(), TICK_MS, 2));
    let mut writer = live.writer();
    assert!(live.changes(0).is_none(), "nothing is noted yet");
    let (mut frontier, mut read) = (1_000_000, live.track().0);
    let mut copies = [BTreeMap::new(), BTreeMap::new()];
    let (mut changed, mut unchanged, mut seen) = (0, 0, [false; 3]);
    for _ in 0..300 {
        let next = frontier + if rng.random_bool(0.8) { 1 } else { rng.random_range(2..90) };
        writer.scores(random_scores(&mut rng, &views, frontier + 1..=next));
        writer.apply(next, random_updates(&mut rng, &views, frontier..next), Vec::new());
        frontier = next;
        if rng.random_bool(0.3) {
            continue;
        }
        let changes = live.changes(read).unwrap();
        read = changes.frontier;
        for (changes, copy) in changes.views.into_iter().zip(&mut copies) {
            let view = changes.view;
            let followed = follow(copy, changes);
            changed += followed.0;
            unchanged += followed.1;
            for document in copy.values() {
                seen[0] |= document.revision > 0;
                seen[1] |= document.count == 0 && document.score.is_some();
                seen[2] |= document.count > 0 && document.score.is_some();
            }
            let all = live.windows(view, &WindowQuery { size: usize::MAX / 2, ..Default::default() }).unwrap();
            assert_eq!(all.as_of, Some(read * TICK_MS));
            assert_eq!(copy.values().cloned().collect::<Vec<_>>(), all.value.windows);
        }
    }
    assert!(unchanged * 100 < changed, "what did not change is not passed on: {unchanged} beside {changed}");
    assert_eq!(seen, [true; 3], "corrections, silence that is shown, scores");
    live.untrack();
    assert!(live.changes(read).is_none());
}

#[test]
fn windows_that_began_before_their_view_say_so() {
    let live = Arc::new(LiveView::new(vec![view("v", 10, 10)], TICK_MS, 0));
    live.restore(
        &Restored { at: 1_015, partial_before: [(0, 1_015)].into(), ..Restored::default() },
        &LiveRows::default(),
        false,
    );
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let key = Key::from_values(&["a"]);
    let mut update = |time: Tick| {
        let (at, key) = (time * TICK_MS, key.clone());
        ViewUpdate { view: 0, pane: Some(at - at % 10_000), key, time, aggregate: aggregate(&mut rng, at) }
    };
    let late = ViewUpdate { pane: Some(1_010_000), ..update(1_026) };
    live.writer().apply(1_027, vec![update(1_016), update(1_021), late], Vec::new());
    let page = live.windows(0, &WindowQuery { size: 9, ..Default::default() }).unwrap().value.windows;
    assert_eq!(page.iter().map(|w| (w.start, w.partial)).collect::<Vec<_>>(), [(1_020_000, false), (1_010_000, true)]);
    let history = live.history(0, &key, 1_010_000).value.unwrap();
    assert_eq!(history.iter().map(|w| (w.revision, w.partial)).collect::<Vec<_>>(), [(1, true), (0, true)]);
}

#[test]
fn a_score_comes_with_its_window_and_silence_goes_when_it_is_withdrawn() {
    let views = vec![view("v", 10, 10)];
    let live = Arc::new(LiveView::new(views, TICK_MS, 0));
    let mut writer = live.writer();
    let key = Key::from_values(&["a"]);
    let aggregate = aggregate(&mut ChaCha8Rng::seed_from_u64(1), 1_000_000);
    let score = |window: Millis, from: Tick, is_silent: bool, score: Option<u8>| {
        let shown = |score| Arc::new(ShownScore { score, learning: false, stalled: false, measures: [].into() });
        ScoreUpdate { view: 0, window, key: key.clone(), from, is_silent, score: score.map(shown) }
    };
    let update = ViewUpdate { view: 0, pane: Some(1_000_000), key: key.clone(), time: 1_000, aggregate };
    writer.scores(vec![score(1_000_000, 1_010, false, Some(20)), score(1_030_000, 1_040, true, Some(90))]);
    writer.apply(1_041, vec![update], Vec::new());
    let read = || {
        let page = live.windows(0, &WindowQuery { size: 9, ..Default::default() }).unwrap().value.windows;
        page.iter().map(|w| (w.start, w.count > 0, w.score.as_ref().map(|s| s.score))).collect::<Vec<_>>()
    };
    assert_eq!(read(), [(1_030_000, false, Some(90)), (1_000_000, true, Some(20))]);
    let of_silence = &live.history(0, &key, 1_030_000).value.unwrap()[0];
    assert_eq!((of_silence.first, of_silence.as_of, of_silence.is_final), (1_030_000, 1_040_000, false));
    assert_eq!(of_silence.score.as_ref().map(|score| &*score.level), Some("CRITICAL"));

    writer.scores(vec![score(1_030_000, 1_042, true, None)]);
    writer.apply(1_042, Vec::new(), Vec::new());
    assert_eq!(read(), [(1_000_000, true, Some(20))]);

    // A key stays as long as its silence is shown, and leaves then.
    writer.scores(vec![score(1_080_000, 1_090, true, Some(90))]);
    writer.apply(1_149, Vec::new(), Vec::new());
    let keys = || live.keys(0, &KeyFilter::All, 0, 10).unwrap().value.keys;
    assert_eq!((read(), keys().len()), (vec![(1_080_000, false, Some(90))], 1));
    assert_eq!(keys()[0].0, key);
    writer.apply(1_150, Vec::new(), Vec::new());
    assert_eq!((read(), keys()[0].0.clone()), (vec![], Key(OTHER.into())));
    assert_eq!(live.memory(), MemoryUse::default());
}
