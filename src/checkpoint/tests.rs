use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::checkpoint::{
    LateRow, Outage, PaneRow, PartitionCut, SeenKeys, SeriesRow, StateRow, ValuesRow,
};
use floodmark_dataflows::corrections::Late;
use floodmark_dataflows::histogram::Histogram;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::patterns::SeenPatterns;
use floodmark_dataflows::record::Level;
use floodmark_dataflows::scores::{Learned, ScoredMeasure};
use floodmark_dataflows::view::Key;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::chain::{Living, Merge, encode, sort};
use super::commit::{Line, delete_old};
use super::compare::{Fingerprint, ViewPrint};
use super::contents::{LiveRows, PatternRow, ShardHead, TotalsRow};
use super::format::{EncodeError, read};
use super::manifest::{FileRef, Manifest};
use super::restore::{Loaded, choose, highest_generation, ids, load};
use super::store::{CopyStore, StoreError};
use super::testing::{Place, unreachable};
use super::{CheckpointConfig, CheckpointError};
use crate::live::patterns::PatternCount;
use crate::live::totals::Totals;

fn partition(number: i32) -> PartitionInfo {
    PartitionInfo { topic: "logs".into(), identity: "logs".into(), number }
}

fn pane(key: &str, pane: u64, count: i64) -> StateRow {
    let mut buckets = vec![1, 1, 700];
    let response = Histogram::from_unsorted(&mut buckets);
    let aggregate = Aggregate { levels: [0, 0, count, 0, 0, 0, 0], response, ..Aggregate::default() };
    StateRow::Pane(PaneRow { view: 0, pane, key: Key(key.into()), changed: 3, aggregate: Arc::new(aggregate) })
}

fn late(key: &str, window: u64, records: i64) -> StateRow {
    let mut late = Late::default();
    late.correct(7, Some(&Aggregate::default()));
    late.records = records;
    StateRow::Late(LateRow { view: 0, window, key: Key(key.into()), late })
}

fn cut(number: i32, next_offset: u64, forgotten_at: u64, seen: &[(&str, u64)]) -> PartitionCut {
    let seen = seen.iter().map(|(key, tick)| (Arc::from(*key), *tick)).collect();
    let keys = vec![SeenKeys { forgotten_at, has_other: false, seen }];
    PartitionCut {
        partition: partition(number),
        next_offset,
        clock: Some(9),
        hold: 0,
        outages: vec![Outage { from: 3, to: 8, usual: 1, back: Some(5), is_over: false, made_up_at: None }],
        ledger: Default::default(),
        keys,
        patterns: SeenPatterns::default(),
    }
}

fn with_patterns(mut cut: PartitionCut, cuts_before: u32, cuts: &[&str]) -> PartitionCut {
    let cuts = cuts.iter().map(|cut| (*cut).into()).collect();
    cut.patterns = SeenPatterns { cuts_before, cuts, ..SeenPatterns::default() };
    cut
}

fn of_pattern(id: u64, records: Option<i64>) -> PatternRow {
    match records {
        None => PatternRow::Cut { id, template: "a <*>".into(), first_tick: 3, sample: None },
        Some(records) => {
            let mut count = PatternCount::default();
            count.count = records;
            PatternRow::Count { cut: id, service: "s".into(), level: Level::Info, count }
        }
    }
}

fn totals(key: Option<&str>, count: Option<i64>) -> TotalsRow {
    let totals = count.map(|anomalies| {
        let mut totals = Totals::default();
        totals.anomalies = anomalies;
        (totals, 4)
    });
    TotalsRow { view: 0, key: key.map(|key| Key(key.into())), totals }
}

fn configuration() -> Fingerprint {
    let view = ViewPrint {
        name: "v".into(),
        definition: String::new(),
        width_ms: 10,
        slide_ms: 10,
        lateness_ms: 0,
        retention_ms: 100,
        max_keys: 10,
        forget_after_ms: 50,
        scored: Vec::new(),
        partial_before: 0,
    };
    Fingerprint { tick_ms: 1, views: vec![view], ..Fingerprint::default() }
}

fn file(at: u64, cuts: Vec<PartitionCut>, totals: &[TotalsRow], mut rows: Vec<StateRow>) -> (Vec<u8>, usize) {
    sort(&mut rows);
    encode::<EncodeError>(&ShardHead { at, worker: 0 }, cuts, &live(totals, &[]), rows.into_iter().map(Ok)).unwrap()
}

fn live(totals: &[TotalsRow], patterns: &[PatternRow]) -> LiveRows {
    LiveRows { totals: totals.to_vec(), patterns: patterns.to_vec() }
}

fn rows_of(mut merge: Merge) -> Vec<StateRow> {
    std::iter::from_fn(|| merge.next_row().unwrap()).collect()
}

#[test]
fn patterns_of_later_files_follow_those_of_earlier_ones() {
    let file = |at: u64, cut: PartitionCut, patterns: &[PatternRow]| {
        let head = ShardHead { at, worker: 0 };
        Bytes::from(encode::<EncodeError>(&head, vec![cut], &live(&[], patterns), std::iter::empty()).unwrap().0)
    };
    let at = |next_offset| cut(0, next_offset, 0, &[]);
    let first = file(5, with_patterns(at(10), 0, &["a", "b"]), &[of_pattern(1, None), of_pattern(1, Some(4))]);
    let second = file(6, with_patterns(at(20), 2, &["c"]), &[of_pattern(1, Some(9)), of_pattern(2, None)]);
    let third = file(7, with_patterns(at(30), 3, &[]), &[]);
    let (standing, _) = Merge::open(vec![first, second.clone(), second, third], &configuration()).unwrap();
    assert_eq!(standing.cuts[&partition(0)], with_patterns(at(30), 0, &["a", "b", "c"]));
    assert_eq!(standing.live.patterns, [of_pattern(1, None), of_pattern(2, None), of_pattern(1, Some(9))]);
}

#[test]
fn later_files_replace_rows_and_add_keys() {
    let first = file(
        5,
        vec![cut(0, 10, 0, &[("a", 1), ("b", 2)]), cut(1, 7, 0, &[])],
        &[totals(Some("a"), Some(1)), totals(Some("b"), Some(2)), totals(None, Some(3))],
        vec![pane("b", 20, 1), pane("a", 20, 1), late("a", 20, 1), pane("a", 10, 5)],
    );
    let second = file(
        60,
        vec![cut(0, 90, 55, &[("b", 30), ("c", 31)])],
        &[totals(Some("a"), None), totals(None, Some(9))],
        vec![late("a", 20, 2), pane("a", 20, 2), pane("c", 0, 1)],
    );
    let files = [first.0, second.0].map(Bytes::from).to_vec();
    let (standing, merge) = Merge::open(files, &configuration()).unwrap();
    let expected = [pane("c", 0, 1), pane("a", 10, 5), pane("a", 20, 2), pane("b", 20, 1), late("a", 20, 2)];
    assert_eq!(rows_of(merge), expected);
    let cuts: Vec<_> = standing.cuts.into_values().collect();
    // "a" was silent for 50 ticks when silent keys were last let go, at 55.
    assert_eq!(cuts, [cut(0, 90, 55, &[("b", 30), ("c", 31)]), cut(1, 7, 0, &[])]);
    assert_eq!(standing.live.totals, [totals(None, Some(9)), totals(Some("b"), Some(2))]);
}

#[test]
fn many_rows_come_back_over_many_sections() {
    let rows: Vec<_> = (0..20_000).map(|i| pane(&format!("key-{i:05}"), 10, i)).collect();
    let (bytes, count) = file(1, Vec::new(), &[], rows.clone());
    let summary = read(&bytes).unwrap();
    assert!(summary.sections > 3 && summary.rows == 20_000 && count == 20_000, "{summary:?}");
    let (_, merge) = Merge::open(vec![bytes.into()], &configuration()).unwrap();
    assert_eq!(rows_of(merge), rows);
}

proptest! {
    #[test]
    fn a_changed_byte_or_a_cut_is_found_and_nothing_panics(
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let rows = vec![pane("a", 10, 1), pane("b", 10, 1), late("a", 10, 3)];
        let (good, _) = file(1, vec![cut(0, 1, 0, &[("a", 1)])], &[totals(None, Some(1))], rows);
        prop_assert!(read(&good).is_ok());
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= 1 << bit;
        prop_assert!(read(&flipped).is_err());
        prop_assert!(read(&good[..at.index(good.len())]).is_err());
        let mut longer = good.clone();
        longer.extend(&noise);
        prop_assert!(noise.is_empty() || read(&longer).is_err());
        // With every checksum right, and nonsense inside.
        let mut nonsense = super::format::FileWriter::new(super::format::Kind::Shard);
        for tag in [1u8, 2, 3, 4, 5, 6, 7] {
            let tag = super::format::Tag::of(tag).unwrap();
            nonsense.add_raw(tag, &noise).unwrap();
        }
        let _ = read(&nonsense.finish());
        let _ = read(&noise);
    }
}

fn manifest(id: u64, files: Vec<FileRef>) -> Manifest {
    Manifest {
        id,
        at: id,
        generation: 3,
        created_ms: 1,
        began_ms: 1,
        origin_ms: 1,
        workers: 1,
        files,
        refused: BTreeMap::new(),
        configuration: configuration(),
        changes: Vec::new(),
    }
}

async fn two_checkpoints(directory: &Path) -> CopyStore {
    two_checkpoints_in(CopyStore::in_directory(directory, 2).unwrap()).await
}

async fn two_checkpoints_in(store: CopyStore) -> CopyStore {
    let mut files = Vec::new();
    for id in 1..=2u64 {
        let (bytes, rows) = file(id, vec![cut(0, id, 0, &[])], &[], vec![pane("a", 10, id as i64)]);
        files.push(FileRef::of(format!("{id}"), &bytes, rows));
        store.put(&format!("state/{id}"), bytes.into()).await.unwrap();
        let manifest = manifest(id, files.clone());
        store.create(&manifest.name(), manifest.encode().unwrap().into()).await.unwrap();
    }
    store
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(all_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test]
async fn damage_to_any_one_file_changes_nothing_and_is_put_right() {
    let directory = tempfile::tempdir().unwrap();
    let store = two_checkpoints(directory.path()).await;
    let files = all_files(directory.path());
    assert_eq!(files.len(), 8);
    let contents: BTreeMap<_, _> = files.iter().map(|path| (path, std::fs::read(path).unwrap())).collect();
    for (&path, good) in &contents {
        for way in 0..3 {
            match way {
                0 => std::fs::remove_file(path).unwrap(),
                1 => std::fs::write(path, &good[..good.len() / 2]).unwrap(),
                _ => {
                    let mut bad = good.clone();
                    bad[good.len() / 3] ^= 4;
                    std::fs::write(path, bad).unwrap();
                }
            }
            let id = choose(&store).await.unwrap();
            assert_eq!(id, Some(2), "{}", path.display());
            let Loaded { manifest, standing, rows } = load(&store, 2).await.unwrap();
            assert_eq!((manifest.at, standing.cuts[&partition(0)].next_offset), (2, 2));
            assert_eq!(rows, [pane("a", 10, 2)]);
            assert_eq!(&std::fs::read(path).unwrap(), good, "{} is put right", path.display());
        }
    }
}

#[tokio::test]
async fn of_copies_that_a_kill_came_between_the_longest_holds() {
    let directory = tempfile::tempdir().unwrap();
    let store = CopyStore::in_directory(directory.path(), 2).unwrap();
    store.put("grows", Bytes::from_static(b"one")).await.unwrap();
    for ahead in ["a", "b"] {
        std::fs::write(directory.path().join(ahead).join("grows"), "one two").unwrap();
        let any = |bytes: &Bytes| Ok(bytes.clone());
        assert_eq!(store.get("grows", true, any).await.unwrap(), "one two");
        for copy in ["a", "b"] {
            assert_eq!(std::fs::read(directory.path().join(copy).join("grows")).unwrap(), b"one two");
        }
        store.put("grows", Bytes::from_static(b"one")).await.unwrap();
    }
}

#[tokio::test]
async fn where_all_copies_are_bad_the_checkpoint_before_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let store = two_checkpoints(directory.path()).await;
    for copy in ["a", "b"] {
        std::fs::write(directory.path().join(copy).join("state/2"), b"nothing").unwrap();
    }
    assert_eq!(choose(&store).await.unwrap(), Some(1));
    assert_eq!(load(&store, 1).await.unwrap().rows, [pane("a", 10, 1)]);
    for copy in ["a", "b"] {
        std::fs::remove_file(directory.path().join(copy).join("state/1")).unwrap();
    }
    let error = choose(&store).await.unwrap_err().to_string();
    assert!(error.contains("state/1") && error.contains("--fresh"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(choose(&CopyStore::in_directory(empty.path(), 2).unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_taken_for_damaged() {
    let place = Place::new();
    let store = two_checkpoints_in(CopyStore::over(place.clone(), 2)).await;
    let about_newest =
        |what: &str, path: &object_store::path::Path| what == "get" && path.as_ref().ends_with("state/2");
    place.before(move |what, path| if about_newest(what, path) { Err(unreachable()) } else { Ok(()) });
    let error = choose(&store).await.unwrap_err();
    assert!(matches!(&error, CheckpointError::Store(StoreError::Failed { .. })), "{error}");
    let mut failures = 3;
    place.before(move |what, path| {
        let fails = about_newest(what, path) && failures > 0;
        failures -= u32::from(fails);
        if fails { Err(unreachable()) } else { Ok(()) }
    });
    assert_eq!(choose(&store).await.unwrap(), Some(2), "it is tried again");
    place.before(move |what, path| {
        let fails = about_newest(what, path) && path.as_ref().starts_with("a/");
        if fails { Err(unreachable()) } else { Ok(()) }
    });
    assert_eq!(choose(&store).await.unwrap(), Some(2), "another copy does");
}

fn line(last: Manifest, abandoned: std::ops::Range<u64>) -> Line {
    let configuration = last.configuration.clone();
    Line { manifest: last, abandoned, configuration, changes: Vec::new() }
}

#[tokio::test]
async fn abandoned_checkpoints_make_way_for_good_ones() {
    let directory = tempfile::tempdir().unwrap();
    let store = two_checkpoints(directory.path()).await;
    let (bytes, rows) = file(3, Vec::new(), &[], Vec::new());
    let only = FileRef::of("3".to_owned(), &bytes, rows);
    store.put("state/3", bytes.into()).await.unwrap();
    let last = manifest(3, vec![only]);
    store.create(&last.name(), last.encode().unwrap().into()).await.unwrap();
    delete_old(&store, &CheckpointConfig::default(), &line(last, 2..3)).await.unwrap();
    assert_eq!(ids(&store).await.unwrap(), [1, 3]);
    assert_eq!(store.list("state").await.unwrap().into_iter().collect::<Vec<_>>(), ["state/1", "state/3"]);
}

#[tokio::test]
async fn files_of_a_run_that_goes_on_meanwhile_are_not_deleted() {
    let place = Place::new();
    let store = two_checkpoints_in(CopyStore::over(place.clone(), 1)).await;
    let last = manifest(2, Vec::new());
    let of_other = manifest(3, Vec::new());
    let (name, bytes) = (of_other.name(), Bytes::from(of_other.encode().unwrap()));
    let committing = place.clone();
    place.before(move |what, path| {
        if what == "list" && path.as_ref() == "a/state" {
            let path = object_store::path::Path::from(format!("a/{name}"));
            let put = object_store::ObjectStoreExt::put(&committing.files, &path, bytes.clone().into());
            put.now_or_never().expect("memory does not wait")?;
        }
        Ok(())
    });
    let config = CheckpointConfig { keep: 1, ..CheckpointConfig::default() };
    delete_old(&store, &config, &line(last, 3..3)).await.unwrap();
    place.before(|_, _| Ok(()));
    assert_eq!(ids(&store).await.unwrap(), [2, 3]);
    assert_eq!(store.list("state").await.unwrap().len(), 2);
}

#[tokio::test]
async fn generations_go_on_from_whatever_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = two_checkpoints(directory.path()).await;
    for copy in ["a", "b"] {
        std::fs::write(directory.path().join(copy).join(manifest(2, Vec::new()).name()), b"nothing").unwrap();
    }
    assert_eq!(highest_generation(&store).await.unwrap(), 3);
    store.put("marks/g7/0000000000001-000/0000000000001-00000000", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(highest_generation(&store).await.unwrap(), 7);
}

#[tokio::test]
async fn a_manifest_of_another_run_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = two_checkpoints(directory.path()).await;
    let other = Manifest { generation: 4, ..manifest(2, Vec::new()) };
    let error = store.create(&other.name(), other.encode().unwrap().into()).await.unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
    let bytes: Bytes = std::fs::read(directory.path().join("a").join(other.name())).unwrap().into();
    store.create(&other.name(), bytes).await.expect("the same again");
}

#[test]
fn values_that_a_baseline_has_learned_are_left_out() {
    let values = |key: &str, window: u64| {
        StateRow::Values(ValuesRow {
            view: 0,
            window,
            key: Key(key.into()),
            measures: [ScoredMeasure::Rate].into(),
            values: [1.0].into(),
        })
    };
    let learned = Learned { next: 20, last: Some(19), baselines: Vec::new() };
    let series = SeriesRow { view: 0, key: Key("a".into()), measures: Vec::new(), learned: Arc::new(learned) };
    let mut rows: Vec<_> =
        ["a", "b"].iter().flat_map(|key| [18, 19, 20, 21].map(|window| values(key, window))).collect();
    rows.push(StateRow::Series(series.clone()));
    sort(&mut rows);
    let configuration = configuration();
    let of = |rows: Vec<StateRow>, at: u64| {
        let mut living = Living::new(&configuration, at);
        rows.into_iter().filter(|row| living.counts(row)).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = [("a", 20), ("a", 21), ("b", 18), ("b", 19), ("b", 20), ("b", 21)]
        .map(|(key, window)| values(key, window))
        .into();
    expected.push(StateRow::Series(series));
    sort(&mut expected);
    assert_eq!(of(rows.clone(), 300), expected);
    assert_eq!(of(rows, configuration.views[0].values_gone_at(21)), [], "forgotten");
}
