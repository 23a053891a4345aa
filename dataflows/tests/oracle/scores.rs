//! Scores by a plain fold over windows, and runs in which keys fall silent and come back late.

use std::collections::{BTreeMap, BTreeSet};

use differential_dataflow::difference::Semigroup;
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::detect::{Baseline, WindowScore as Combined};
use floodmark_dataflows::output::WindowScore;
use floodmark_dataflows::scores::Plan;
use floodmark_dataflows::time::Millis;
use floodmark_dataflows::view::View;
use floodmark_dataflows::windows::Publish;
use proptest::prelude::*;

use crate::reference::Contents;
use crate::windows::{check, serialised};

/// The score of a window, and the last late tick that changed it.
pub struct Scored {
    pub score: WindowScore,
    pub last: Option<u64>,
}

/// What windows have taught before one.
#[derive(Clone)]
struct Taught {
    baselines: Vec<Baseline>,
    last: Option<u64>,
}

/// The scores of a key's windows as of the end: of those with records that are closed, and of those without whose score
/// is worth a document. With all baselines kept, and with what is there at each late tick counted anew.
pub fn scores_of(
    view: &View,
    windows: &BTreeMap<Millis, &Contents>,
    end: u64,
    tick_ms: u64,
) -> BTreeMap<Millis, Scored> {
    let Some(plan) = Plan::of(view) else { return BTreeMap::new() };
    let late: BTreeSet<u64> = windows.values().flat_map(|row| &row.late).copied().collect();
    let steps = late.iter().flat_map(|&tick| [(tick, None), (tick + 1, Some(tick))]).chain([(u64::MAX, None)]);
    let nothing = || Taught {
        baselines: view.scored.iter().map(|measure| Baseline::new(measure.measure())).collect(),
        last: None,
    };
    let first = windows.keys().next().map_or(0, |start| start / view.slide_ms);
    // What is taught before each window from the first on, and what each contains.
    let mut taught = vec![nothing()];
    let mut contents: BTreeMap<u64, Aggregate> = BTreeMap::new();
    let mut scores: BTreeMap<u64, Scored> = BTreeMap::new();
    let forget_after = view.forget_after_ms / view.slide_ms;
    for (at, late) in steps {
        let closed = at.min(end) * tick_ms;
        let last = (closed + view.slide_ms).saturating_sub(view.width_ms) / view.slide_ms;
        let mut from = first + taught.len() as u64 - 1;
        for (start, row) in windows.range(..last * view.slide_ms) {
            let mut sum = Aggregate::default();
            row.ticks.range(..at).for_each(|(_, records)| sum.plus_equals(records));
            if sum.count() > 0 && contents.get(&(start / view.slide_ms)) != Some(&sum) {
                from = from.min(start / view.slide_ms);
                contents.insert(start / view.slide_ms, sum);
            }
        }
        taught.truncate((from - first) as usize + 1);
        for window in first.max(from)..last.max(from) {
            let value = |content: Option<&Aggregate>, place: usize| {
                content.map(|content| view.scored[place].value(content, view.width_ms).unwrap_or(f64::NAN))
            };
            // The windows that end by this one's start.
            let before = (window * view.slide_ms + view.slide_ms).saturating_sub(view.width_ms) / view.slide_ms;
            let known = match before.checked_sub(first) {
                Some(place) => taught[place as usize].clone(),
                None => nothing(),
            };
            let content = contents.get(&window);
            let is_awake = known.last.is_some_and(|last| window - last <= 1_000);
            let start = window * view.slide_ms;
            if content.is_some() || is_awake {
                let scored: Vec<_> = known
                    .baselines
                    .iter()
                    .enumerate()
                    .map(|(place, of)| of.score(start, value(content, place)))
                    .collect();
                let combined = Combined::of(&scored);
                let is_shown = content.is_some() || combined.score >= 50 && !combined.learning;
                let score = is_shown.then(|| plan.explain(&scored, &combined));
                let old = scores.remove(&window);
                let is_changed = old.as_ref().map(|old| &old.score) != score.as_ref();
                if let Some(score) = score {
                    let last = if is_changed { late } else { None };
                    scores.insert(window, Scored { score, last: last.max(old.and_then(|old| old.last)) });
                }
            }
            let mut next = taught[(window - first) as usize].clone();
            let awake = next.last.is_some_and(|last| window - last <= 1_000);
            if content.is_some() || awake {
                for (place, baseline) in next.baselines.iter_mut().enumerate() {
                    baseline.learn(start, value(content, place));
                }
            }
            if content.is_some() {
                next.last = Some(window);
            } else if next.last.is_some_and(|last| window + 1 > last + forget_after.max(1_001)) {
                next = nothing();
            }
            taught.push(next);
        }
    }
    scores.into_iter().map(|(window, scored)| (window * view.slide_ms, scored)).collect()
}

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

const T0: Millis = 1_700_000_000_000 / 60_000 * 60_000;

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
            r#"{{"timestamp":{},"service_name":"s{service}","level":"{level}","response_time_ms":{}}}"#,
            T0 + event,
            10 + event % 13
        );
        logs[i % partitions].push(text.into_bytes());
    }
    logs
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
fn minutes_of(
    service: &str,
    partitions: &[Vec<Vec<u8>>],
) -> BTreeMap<u64, floodmark_dataflows::output::WindowDocument> {
    let seen = crate::windows::run(partitions, timely::Config::thread(), 64, Publish::Final);
    let of_service = seen.windows.into_iter().filter(|((view, key, _), _)| view == "minutes" && key == service);
    of_service.map(|((_, _, start), all)| ((start - T0) / 60_000, all[all.len() - 1].clone())).collect()
}

#[test]
fn silence_has_documents_and_late_records_take_them_back() {
    let gap = |filled_after| [Gap { minute: 200, minutes: 4, service: 0, filled_after }];
    let silent = minutes_of("s0", &steady(&gap(None), 260, 1));
    let score = |document: &floodmark_dataflows::output::WindowDocument| document.score.clone().unwrap();
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
    for (minute, document) in &steady {
        assert_eq!(filled[minute].score, document.score, "minute {minute}: late records leave no trace");
    }
}
