//! Runs in which keys fall silent and come back late.

use std::collections::BTreeMap;

use floodmark_dataflows::output::{WindowDocument, WindowScore};
use floodmark_dataflows::scores::{ScoreUpdate, ShownScore};
use floodmark_dataflows::time::{Millis, Tick};
use floodmark_dataflows::windows::Publish;
use proptest::prelude::*;

use crate::windows::{check, serialised};

/// A steady log of two services in minutes, with gaps. A gap is filled late, or not at all.
#[derive(Clone, Debug)]
struct Gap {
    minute: u64,
    minutes: u64,
    service: u8,
    /// The records of the gap come this many minutes after it, if they come.
    filled_after: Option<u64>,
}

fn gaps() -> impl Strategy<Value = Vec<Gap>> {
    let gap = (150..240u64, 1..6u64, 0..2u8, prop::option::of(0..14u64));
    prop::collection::vec(gap, 0..5).prop_map(|gaps| {
        let gap = |(minute, minutes, service, filled_after)| Gap { minute, minutes, service, filled_after };
        gaps.into_iter().map(gap).collect()
    })
}

pub const T0: Millis = 1_700_000_000_000 / 60_000 * 60_000;

/// Partitions of records: every 20 s one of each service, every fifth an error where the service has a gap nearby.
fn steady(gaps: &[Gap], minutes: u64, partitions: usize) -> Vec<Vec<Vec<u8>>> {
    let mut records: Vec<(u64, u64, u8)> = Vec::new();
    for second in (0..minutes * 60).step_by(20) {
        for service in 0..2u8 {
            let jitter = second.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60;
            let minute = second / 60;
            let gap = gaps
                .iter()
                .find(|gap| gap.service == service && (gap.minute..gap.minute + gap.minutes).contains(&minute));
            let event = second * 1_000 + jitter;
            match gap.map(|gap| (gap, gap.filled_after)) {
                None => records.push((event, event, service)),
                Some((gap, Some(after))) => {
                    records.push(((gap.minute + gap.minutes + after) * 60_000 + second % 60 * 1_000, event, service));
                }
                Some((_, None)) => {}
            }
        }
    }
    records.sort_unstable();
    let mut logs = vec![Vec::new(); partitions];
    for (i, (_, event, service)) in records.into_iter().enumerate() {
        let level = if event % 7 == 0 { "ERROR" } else { "INFO" };
        let text = format!(
            r#"{{"timestamp":{},"service_name":"s{service}","level":"{level}","response_time_ms":{},"message":"{}"}}"#,
            T0 + event,
            10 + event % 13,
            message(gaps, event / 60_000)
        );
        logs[i % partitions].push(text.into_bytes());
    }
    logs
}

/// After each gap, for three minutes, another message than usual.
fn message(gaps: &[Gap], minute: u64) -> &'static str {
    let is_behind = |gap: &Gap| (gap.minute + gap.minutes..gap.minute + gap.minutes + 3).contains(&minute);
    let words = ["quorum lost", "disk is full", "no route to peer", "fallback engaged", "lease expired"];
    gaps.iter().position(is_behind).map_or("all is well", |number| words[number % words.len()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn silence_is_scored_and_corrected(gaps in gaps(), cut in 1..500usize) {
        let partitions = steady(&gaps, 260, 2);
        check(&partitions, timely::Config::thread(), cut, Publish::Final);
        check(&partitions, serialised(2), cut, Publish::Live { open_every_ms: 5_000 });
    }

    #[test]
    fn silence_survives_kills(gaps in gaps(), kills in prop::collection::vec((1..3u8, 100..1_500usize), 1..3), live in any::<bool>()) {
        let publish = if live { Publish::Live { open_every_ms: 5_000 } } else { Publish::Final };
        crate::checkpoints::check(&steady(&gaps, 260, 2), &kills, 40, publish);
    }
}

/// The last documents of a service in minutes.
fn minutes_of(service: &str, partitions: &[Vec<Vec<u8>>]) -> BTreeMap<u64, WindowDocument> {
    let seen = crate::windows::run(partitions, timely::Config::thread(), 64, Publish::Final);
    let of_service = seen.windows.into_iter().filter(|((view, key, _), _)| view == "minutes" && key == service);
    of_service.map(|((_, _, start), all)| ((start - T0) / 60_000, all[all.len() - 1].clone())).collect()
}

#[test]
fn silence_has_documents_and_late_records_take_them_back() {
    let gap = |filled_after| [Gap { minute: 200, minutes: 4, service: 0, filled_after }];
    let silent = minutes_of("s0", &steady(&gap(None), 260, 1));
    let score = |document: &WindowDocument| document.score.clone().unwrap();
    let first = &silent[&200];
    assert_eq!((first.count, first.is_final, score(first).learning), (0, true, false));
    assert!(score(first).score >= 50, "{first:?}");
    let rate = &score(first).measures[0];
    assert_eq!((&*rate.measure, rate.actual), ("rate", Some(0.0)));
    assert!(rate.low > 0.0 && !rate.reasons.is_empty(), "{rate:?}");
    assert!(score(&silent[&100]).learning && !score(&silent[&190]).learning);

    let filled = minutes_of("s0", &steady(&gap(Some(3)), 260, 1));
    let steady = minutes_of("s0", &steady(&[], 260, 1));
    assert_eq!((filled[&201].revision, filled[&201].count), (3, 3), "a tick for each late record");
    let shown =
        |document: &WindowDocument| document.score.clone().map(|score| WindowScore { offsets: Vec::new(), ..score });
    for (minute, document) in &steady {
        assert_eq!(shown(&filled[minute]), shown(document), "minute {minute}: late records leave no trace");
    }
}

/// By view, key and start: what is shown of a score, with the tick from which it is so.
type Shown = BTreeMap<(String, String, Millis), Vec<(Tick, bool, Option<ShownScore>)>>;

/// What the live state shows of the scores of each window.
fn shown(partitions: &[Vec<Vec<u8>>], workers: timely::Config, cut: usize) -> Shown {
    let seen = crate::windows::run(partitions, workers, cut, Publish::Live { open_every_ms: 5_000 });
    let views = crate::windows::views();
    let mut shown = Shown::new();
    let mut reached = 0;
    for (frontier, ScoreUpdate { view, window, key, from, is_silent, score }) in seen.scores {
        assert!(from <= frontier && from > reached, "as of {from}, passed on with {frontier} after {reached}");
        let of = shown.entry((views[usize::from(view)].name.clone(), key.values().join("/"), window)).or_default();
        let state = (from, is_silent, score.map(|score| ShownScore::clone(&score)));
        if of.last().is_none_or(|(_, was_silent, last)| (was_silent, last) != (&state.1, &state.2)) {
            of.push(state);
        }
        reached = seen.live.iter().map(|(at, _)| *at).take_while(|at| *at < frontier).last().unwrap_or(0);
    }
    // The live state shows exactly the scores of the documents.
    for (place, all) in &seen.windows {
        let document = &all[all.len() - 1];
        let last = shown.get(place).and_then(|states| states.last()).and_then(|(_, _, score)| score.clone());
        let expected = document.score.clone().filter(|score| document.count > 0 || score.score >= 50);
        // Where the records are is not shown there.
        let expected = expected.map(|score| WindowScore { offsets: Vec::new(), ..score });
        assert_eq!(last.map(|score| score.document()), expected, "{place:?}");
    }
    shown
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]

    /// From which tick on a score is shown depends on the records alone: reads of the live state name one tick for all keys,
    /// and the workers that score them take steps of their own.
    #[test]
    fn scores_of_live_reads_are_exact_for_their_tick(mut gaps in gaps()) {
        // One of which a part comes after the windows have closed and before they are final. It lies behind all others: the
        // other service goes on meanwhile, and moves the clock.
        gaps.insert(0, Gap { minute: 246, minutes: 2, service: 0, filled_after: Some(0) });
        let partitions = steady(&gaps, 260, 2);
        let every_tick = shown(&partitions, timely::Config::thread(), 1);
        assert!(every_tick.values().any(|states| states.len() > 1));
        for (workers, cut) in [(timely::Config::thread(), 500), (serialised(2), 64), (serialised(4), 300)] {
            assert_eq!(every_tick, shown(&partitions, workers, cut));
        }
    }
}

/// Records of a service, one every 20 s, with another message in these seconds, which come so many seconds late.
fn messages(others: &[(u64, u64)]) -> Vec<Vec<u8>> {
    let mut records: Vec<(u64, u64)> = (0..260 * 60).step_by(20).map(|second| (second, second)).collect();
    records.extend(others.iter().map(|(second, late)| (second + late, second + 1)));
    records.sort_unstable();
    let record = |(_, second): (u64, u64)| {
        let message = if second % 20 == 0 { "all is well" } else { "quorum lost on shard 7" };
        format!(r#"{{"timestamp":{},"service_name":"s0","message":"{message}"}}"#, T0 + second * 1_000).into_bytes()
    };
    records.into_iter().map(record).collect()
}

/// The scores of the windows of the other message, by second.
fn of_new_message(others: &[(u64, u64)]) -> BTreeMap<u64, (u8, Vec<String>, u32)> {
    let seen = crate::windows::run(&[messages(others)], timely::Config::thread(), 64, Publish::Final);
    let key = "s0/quorum lost on shard <*>";
    let windows = seen
        .windows
        .iter()
        .filter(|((view, of, _), all)| view == "patterns" && of == key && all[all.len() - 1].count > 0);
    windows
        .map(|((.., start), all)| {
            let document = &all[all.len() - 1];
            let score = document.score.as_ref().unwrap();
            let measures = score.measures.iter().map(|of| of.measure.to_string()).collect();
            ((start - T0) / 1_000, (score.score, measures, document.revision))
        })
        .collect()
}

#[test]
fn a_new_pattern_is_an_anomaly_until_it_turns_out_to_be_known() {
    let second = 14_000;
    let alone = of_new_message(&[(second, 0), (second + 40, 0)]);
    let (score, measures, _) = &alone[&second];
    assert!(*score >= 75 && measures[0] == "new", "{alone:?}");
    assert_eq!(alone[&(second + 40)].1, ["rate"], "only its first window is new");
    let early = of_new_message(&[(600, 0), (second, 0)]);
    assert_eq!((early[&600].0, &early[&second].1[..]), (0, &["rate".to_owned()][..]), "at first everything is new");
    // A minute after its window was final, a record from before comes in: it was not the first, and says so.
    let corrected = of_new_message(&[(second - 20, 70), (second, 0)]);
    assert_eq!(corrected[&second].1, ["rate"], "{corrected:?}");
    assert!(corrected[&(second - 20)].1.contains(&"new".to_owned()) && corrected[&(second - 20)].2 == 1);
    let in_time = of_new_message(&[(second - 20, 0), (second, 0)]);
    assert_eq!(corrected[&second], in_time[&second], "lateness leaves no trace");
}
