//! Random disordered logs against the reference.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use floodmark_dataflows::alerts::config::{AlertConfig, compile_alerts};
use floodmark_dataflows::checkpoint::Restored;
use floodmark_dataflows::dataflow::{Computation, Dataflow, build};
use floodmark_dataflows::decode::{Decoder, RecordsConfig, Schema};
use floodmark_dataflows::ingest::{ClockConfig, RecordPath};
use floodmark_dataflows::input::Feed;
use floodmark_dataflows::patterns::Cutter;
use floodmark_dataflows::rules::{Rules, RulesConfig};
use floodmark_dataflows::scores::ScoredMeasure;
use floodmark_dataflows::units::Span;
use floodmark_dataflows::view::View;
use floodmark_dataflows::view_config::ViewConfig;
use floodmark_dataflows::windows::Publish;
use proptest::prelude::*;

use crate::memory::{LogFeed, Seen, SeenSink, sum_of_patterns};
use crate::reference::{MAX_PATTERNS, expected, is_withdrawn};

pub const TICK_MS: u64 = 1_000;

pub fn clock_config() -> ClockConfig {
    ClockConfig {
        tick_ms: TICK_MS,
        max_future_ms: 60_000,
        idle_after_ms: 5_000,
        stall_after_ms: 300_000,
        max_ahead_ms: 20_000,
        arrived_by_ms: None,
    }
}

pub struct Setup {
    pub decoder: Decoder,
    pub rules: Arc<Rules>,
    pub views: Vec<Arc<View>>,
}

pub fn setup(views: &[ViewConfig]) -> Setup {
    let mut schema = Schema::new(&RecordsConfig::default()).unwrap().with_patterns();
    let rules = Arc::new(Rules::compile(&RulesConfig::default(), &mut schema).unwrap());
    // As if alerts looked at all of them: what these would take along is compared as well.
    let watched = |view: View| View { is_watched: true, keeps_offsets: true, evidence_from: Some(50), ..view };
    let views = views.iter().map(|v| Arc::new(watched(v.compile(Span::from_millis(TICK_MS), &mut schema).unwrap())));
    let views = views.collect();
    Setup { decoder: Decoder::new(schema), rules, views }
}

pub fn views() -> Vec<ViewConfig> {
    let seconds = Span::from_secs;
    vec![
        ViewConfig {
            name: "tumbling".into(),
            window: seconds(10),
            allowed_lateness: seconds(20),
            retention: seconds(60),
            ..ViewConfig::default()
        },
        ViewConfig {
            name: "sliding".into(),
            key: vec!["service_name".into(), "path".into()],
            window: seconds(15),
            slide: Some(seconds(6)),
            allowed_lateness: seconds(6),
            retention: seconds(30),
            max_keys: 4,
            numbers: vec!["bytes".into(), "queue.depth".into()],
            rules: vec!["http_error".into(), "warn_level".into()],
            score: ["rate", "mean", "sum:bytes", "p95:queue.depth", "rule:warn_level", "rule_ratio:http_error"]
                .map(|name| ScoredMeasure::named(name).unwrap())
                .into(),
            ..ViewConfig::default()
        },
        ViewConfig {
            name: "minutes".into(),
            window: seconds(60),
            allowed_lateness: seconds(60),
            retention: seconds(600),
            forget_after: seconds(90_000),
            score: vec![ScoredMeasure::ErrorRatio, ScoredMeasure::Rate, ScoredMeasure::P95],
            ..ViewConfig::default()
        },
        ViewConfig {
            name: "patterns".into(),
            key: vec!["service_name".into(), "pattern".into()],
            window: seconds(20),
            allowed_lateness: seconds(20),
            retention: seconds(100),
            max_keys: 12,
            forget_after: seconds(90_000),
            conditions: vec!["pattern_id exists".into()],
            score: vec![ScoredMeasure::New, ScoredMeasure::Rate],
            ..ViewConfig::default()
        },
    ]
}

/// What to compute over some views: with patterns, and for live reads of worker 0.
pub fn computation(views: Vec<Arc<View>>, publish: Publish) -> Computation {
    let (clock, max_patterns) = (clock_config(), Some(MAX_PATTERNS));
    Computation { views, alerts: vec![], clock, publish, max_patterns, live_workers: vec![0] }
}

/// Runs the whole dataflow over partitions, cut into batches of `cut` records.
pub fn run(partitions: &[Vec<Vec<u8>>], workers: timely::Config, cut: usize, publish: Publish) -> Seen {
    run_with(&[], partitions, workers, cut, publish, |feed| feed)
}

/// The same with alerts, and another feed made of that of a worker.
pub fn run_with<F: Feed + 'static>(
    alerts: &[AlertConfig],
    partitions: &[Vec<Vec<u8>>],
    workers: timely::Config,
    cut: usize,
    publish: Publish,
    feed: impl Fn(LogFeed) -> F + Send + Sync + 'static,
) -> Seen {
    run_from(Restored::default(), alerts, partitions, workers, cut, publish, feed)
}

/// The same from what is restored, by the marks of an earlier run.
pub fn run_from<F: Feed + 'static>(
    restored: Restored,
    alerts: &[AlertConfig],
    partitions: &[Vec<Vec<u8>>],
    workers: timely::Config,
    cut: usize,
    publish: Publish,
    feed: impl Fn(LogFeed) -> F + Send + Sync + 'static,
) -> Seen {
    let alerts = alerts.to_vec();
    let seen = SeenSink::default();
    let out = seen.clone();
    let partitions = partitions.to_vec();
    let guards = timely::execute(workers, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let Setup { decoder, rules, views } = setup(&views());
        let mine = partitions.iter().enumerate().filter(|(p, _)| p % peers == index);
        let feed = feed(LogFeed::new(mine, cut));
        let plain: Vec<View> = views.iter().map(|view| View::clone(view)).collect();
        let alerts = compile_alerts(&alerts, &plain).unwrap().into_iter().map(Arc::new).collect();
        let computation = Computation { alerts, ..computation(views, publish) };
        let path = RecordPath { decoder, rules, cutter: Some(Cutter::default()), sink: out.clone() };
        let live = (index == 0).then(|| out.clone());
        let Dataflow { probe, .. } = build(
            worker,
            &computation,
            feed,
            path,
            out.clone(),
            live,
            (index == 0).then(|| out.clone()),
            restored.clone(),
            None::<Infallible>,
        );
        while !probe.done() {
            worker.step_or_park(Some(std::time::Duration::from_millis(10)));
        }
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let seen = seen.0.lock().unwrap();
    seen.clone()
}

pub fn check(partitions: &[Vec<Vec<u8>>], workers: timely::Config, cut: usize, publish: Publish) {
    let seen = run(partitions, workers, cut, publish);
    let Setup { mut decoder, rules, views } = setup(&views());
    let expected = expected(partitions, &mut decoder, &rules, &views, TICK_MS);

    let mut last: BTreeMap<_, _> =
        seen.windows.iter().map(|(place, all)| (place.clone(), all[all.len() - 1].clone())).collect();
    last.retain(|_, document| !is_withdrawn(document));
    for (place, document) in &expected.windows {
        assert_eq!(last.get(place), Some(document), "window {place:?}");
    }
    assert_eq!(last.len(), expected.windows.len(), "windows that should not be there");
    if publish == Publish::Final {
        for (place, all) in &seen.windows {
            assert!(all.iter().rev().skip(1).all(|d| d.is_final), "{place:?} was published before it was final");
            assert!(all.windows(2).all(|pair| pair[0].as_of < pair[1].as_of), "{place:?} was published twice");
        }
    }

    let (mut totals, mut too_late) = (BTreeMap::new(), BTreeMap::new());
    for (frontier, updates) in &seen.live {
        for update in updates {
            assert!(update.time <= *frontier);
            *totals.entry((update.view as usize, update.key.clone())).or_default() += update.aggregate.count();
            if update.pane.is_none() {
                *too_late.entry((update.view as usize, update.key.clone())).or_default() += update.aggregate.count();
            }
        }
    }
    assert_eq!(totals, expected.totals);
    assert_eq!(too_late, expected.too_late);

    let (counts, samples) = sum_of_patterns(seen.patterns.iter().flatten());
    assert_eq!((counts, samples), (expected.patterns, expected.samples));
    for ((frontier, updates), patterns) in seen.live.iter().zip(&seen.patterns) {
        let counted = updates.iter().filter(|update| update.view == 0).map(|update| update.aggregate.count());
        let in_patterns = patterns.iter().flat_map(|update| &update.counts).map(|count| i64::from(count.count));
        assert_eq!(in_patterns.sum::<i64>(), counted.sum::<i64>(), "patterns add up to the records at {frontier}");
    }

    let records: usize = partitions.iter().map(Vec::len).sum();
    assert_eq!(seen.logged.len() + seen.dead.len(), records, "records logged and dead");
}

/// One record in a random log: how far the partition's time moves, how far behind it the record is, and what it holds.
#[derive(Clone, Debug)]
struct Drawn {
    advance_ms: u64,
    behind_ms: u64,
    service: u8,
    path: u8,
    status: u16,
    response_us: u32,
    broken: bool,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let behind = prop_oneof![6 => 0..1_500u64, 2 => 0..30_000u64, 1 => 0..120_000u64];
    let advance = prop_oneof![20 => 0..900u64, 1 => 0..40_000u64];
    (advance, behind, 0..4u8, 0..3u8, 100..600u16, any::<u32>(), prop::bool::weighted(0.02)).prop_map(
        |(advance_ms, behind_ms, service, path, status, response_us, broken)| Drawn {
            advance_ms,
            behind_ms,
            service,
            path,
            status,
            response_us,
            broken,
        },
    )
}

pub fn log() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    prop::collection::vec(prop::collection::vec(drawn(), 0..400), 1..5).prop_map(|partitions| {
        partitions
            .into_iter()
            .enumerate()
            .map(|(p, records)| {
                let mut now = 1_700_000_000_000 + p as u64 * 7_000;
                records
                    .into_iter()
                    .map(|r| {
                        now += r.advance_ms;
                        let mut text = String::new();
                        write!(
                            text,
                            r#"{{"timestamp":{},"service_name":"s{}","path":"/p/{}","status_code":{},"response_time_ms":{}.{:03},"message":"{} of {} took {} us"}}"#,
                            now - r.behind_ms,
                            r.service,
                            r.path,
                            r.status,
                            r.response_us / 1_000_000,
                            r.response_us % 1_000,
                            ["read", "write", "scan", "check"][usize::from(r.service)],
                            ["a", "b", "c"][usize::from(r.path)],
                            r.response_us
                        )
                        .unwrap();
                        text.truncate(text.len() - 1);
                        match r.response_us % 50 {
                            0..20 => {}
                            20 => text.push_str(r#","queue":{"depth":"deep"}"#),
                            rest => write!(text, r#","bytes":{},"queue":{{"depth":{}.25}}"#, r.response_us, rest as i64 - 30)
                                .unwrap(),
                        }
                        text.push('}');
                        if r.broken {
                            text.truncate(text.len() / 2);
                        }
                        text.into_bytes()
                    })
                    .collect()
            })
            .collect()
    })
}

pub fn serialised(threads: usize) -> timely::Config {
    timely::Config {
        communication: timely::CommunicationConfig::ProcessBinary(threads),
        worker: timely::WorkerConfig::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_end_result_is_that_of_the_reference(partitions in log(), cut in 1..500usize) {
        check(&partitions, timely::Config::thread(), cut, Publish::Final);
        check(&partitions, timely::Config::process(2), cut, Publish::Live { open_every_ms: 5_000 });
        check(&partitions, serialised(4), 7, Publish::Final);
    }
}

#[test]
fn windows_that_are_gone_do_not_come_back() {
    let records: Vec<Vec<u8>> = (0..7_200u64)
        .map(|s| format!(r#"{{"timestamp":{},"service_name":"a"}}"#, 1_700_000_000_000 + s * 1_000).into_bytes())
        .collect();
    let seen = run(std::slice::from_ref(&records), timely::Config::thread(), 100, Publish::Final);
    let tumbling: Vec<_> = seen.windows.iter().filter(|((view, ..), _)| view == "tumbling").collect();
    assert_eq!(tumbling.len(), 720);
    assert!(tumbling.iter().all(|(_, all)| all.len() == 1 && all[0].count == 10));
}
