//! The embedded store through its trait, as the writer and the API use it.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::stores::writer::testing::{batch, until};
use crate::units::Span;

const T: u64 = 1_700_006_400_000;
const HOUR: u64 = 3_600_000;

fn config() -> EmbeddedConfig {
    let (threads, commit_interval) = (1, Span::from_millis(20));
    EmbeddedConfig { threads, commit_interval, span: Span::from_millis(HOUR), retention: None, ..Default::default() }
}

/// A configuration under which only a flush commits.
fn patient() -> EmbeddedConfig {
    EmbeddedConfig { commit_interval: Span::from_secs(3_600), ..config() }
}

fn open(directory: &Path, config: &EmbeddedConfig) -> EmbeddedStore {
    EmbeddedStore::open(config, directory).unwrap()
}

fn json(offset: u64, timestamp: u64) -> String {
    let service = ["auth-service", "api-gateway"][offset as usize % 2];
    let (level, anomaly) = if offset.is_multiple_of(5) { ("ERROR", true) } else { ("INFO", false) };
    let status = 200 + offset % 3;
    format!(
        r#"{{"timestamp":{timestamp},"service_name":"{service}","level":"{level}","message":"Request {offset} took-long (x)","status_code":{status},"offset":{offset},"anomaly":{anomaly}}}"#
    )
}

fn logs(number: i32, offsets: impl IntoIterator<Item = (u64, u64)>) -> Arc<LogBatch> {
    let documents: Vec<(u64, String)> =
        offsets.into_iter().map(|(offset, time)| (offset, json(offset, time))).collect();
    let borrowed: Vec<(u64, &str)> = documents.iter().map(|(offset, json)| (*offset, json.as_str())).collect();
    Arc::new(batch(number, &borrowed))
}

async fn found(store: &EmbeddedStore, query: LogQuery) -> (u64, Vec<u64>) {
    let size = if query.size == 0 { 1_000 } else { query.size };
    let page = store.search_logs(&LogQuery { size, ..query }).await.unwrap();
    (page.total, offsets(&page))
}

fn offsets(page: &LogPage) -> Vec<u64> {
    let offset = |raw: &serde_json::value::RawValue| {
        let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap();
        value["offset"].as_u64().unwrap()
    };
    page.documents.iter().map(|raw| offset(raw)).collect()
}

#[tokio::test]
async fn every_filter_finds_what_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &config());
    store.write_logs(logs(0, (0..30).map(|n| (n, T + n)))).await.unwrap();
    let expect = |keep: fn(u64) -> bool| (0..30).rev().filter(|n| keep(*n)).collect::<Vec<u64>>();
    let text = |text: &str| LogQuery { text: Some(text.to_owned()), ..LogQuery::default() };
    let cases: [(LogQuery, Vec<u64>); 11] = [
        (LogQuery::default(), expect(|_| true)),
        (LogQuery { service_name: Some("api-gateway".into()), ..Default::default() }, expect(|n| n % 2 == 1)),
        (LogQuery { level: Some("ERROR".into()), ..Default::default() }, expect(|n| n % 5 == 0)),
        (LogQuery { status_code: Some(201), ..Default::default() }, expect(|n| n % 3 == 1)),
        (LogQuery { anomaly: Some(false), ..Default::default() }, expect(|n| n % 5 != 0)),
        (LogQuery { from_ms: Some(T + 3), to_ms: Some(T + 6), ..Default::default() }, vec![5, 4, 3]),
        (text("7 REQUEST long"), vec![7]),
        (text("request missing"), vec![]),
        (text("(x) OR \"took\" -17"), vec![]),
        (text("?!"), vec![]),
        (
            LogQuery {
                level: Some("ERROR".into()),
                status_code: Some(200),
                text: Some("took".into()),
                ..Default::default()
            },
            expect(|n| n % 15 == 0),
        ),
    ];
    for (query, expected) in cases {
        assert_eq!(found(&store, query.clone()).await, (expected.len() as u64, expected), "{query:?}");
    }
}

#[tokio::test]
async fn newest_first_over_parts_and_partitions_by_page_and_by_cursor() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &config());
    // Two partitions, three parts, equal times, out of order.
    for number in 0..2 {
        let documents = (0..120).map(|n| (n, T + (n * 7 % 12) * HOUR / 4));
        store.write_logs(logs(number, documents)).await.unwrap();
    }
    let mut expected: Vec<(u64, i32, u64)> =
        (0..2).flat_map(|p| (0..120).map(move |n| (T + (n * 7 % 12) * HOUR / 4, p, n))).collect();
    expected.sort_by(|a, b| b.cmp(a));
    let expected: Vec<u64> = expected.into_iter().map(|(_, _, offset)| offset).collect();
    assert_eq!(found(&store, LogQuery::default()).await, (240, expected.clone()));
    let (total, page) = found(&store, LogQuery { skip: 50, size: 25, ..Default::default() }).await;
    assert_eq!((total, page.as_slice()), (240, &expected[50..75]));

    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let query = LogQuery { size: 17, cursor: cursor.take(), ..Default::default() };
        let page = store.search_logs(&query).await.unwrap();
        assert_eq!(page.total, 240);
        pages.extend(offsets(&page));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, expected);
    for cursor in ["", "1.2.3", "1.2.3.zz", "+1.2.3.0000000000000004", "1.2.3.0000000000000004.5"] {
        let query = LogQuery { size: 1, cursor: Some(cursor.to_owned()), ..Default::default() };
        assert!(matches!(store.search_logs(&query).await, Err(StoreError::BadCursor)), "{cursor}");
    }
    let deep = LogQuery { skip: 9_999, size: 2, ..Default::default() };
    assert!(matches!(store.search_logs(&deep).await, Err(StoreError::BadQuery(_))));
}

#[tokio::test]
async fn the_same_documents_again_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &patient());
    let all: Vec<u64> = (0..40).rev().collect();
    let documents = |range: std::ops::Range<u64>| logs(0, range.map(|n| (n, T + n)));
    // Twice within a commit, then overlapping what is committed, then after a restart.
    let (first, again) = (store.write_logs(documents(0..20)), store.write_logs(documents(10..30)));
    let flushed = async {
        tokio::task::yield_now().await;
        store.flush().await
    };
    let (a, b, c) = tokio::join!(first, again, flushed);
    for result in [a.map(drop), b.map(drop), c] {
        result.unwrap();
    }
    drop(store);
    let store = open(directory.path(), &config());
    store.write_logs(documents(5..40)).await.unwrap();
    assert_eq!(found(&store, LogQuery::default()).await, (40, all));
}

#[tokio::test]
async fn a_gap_left_before_is_filled_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &config());
    store.write_logs(logs(0, (0..40).filter(|n| n % 5 == 0).map(|n| (n, T + n)))).await.unwrap();
    store.write_logs(logs(0, (0..40).map(|n| (n, T + n)))).await.unwrap();
    assert_eq!(found(&store, LogQuery::default()).await, (40, (0..40).rev().collect()));
}

#[tokio::test]
async fn a_kill_before_the_commit_loses_only_what_was_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path(), &patient()));
    let write = tokio::spawn({
        let store = store.clone();
        async move { store.write_logs(logs(0, (0..10).map(|n| (n, T + n)))).await }
    });
    let jobs = || store.jobs.as_ref().is_some_and(|jobs| jobs.is_empty());
    until("the write to be taken", || Arc::strong_count(&store) == 2 && jobs()).await;
    write.abort();
    until("the task to end", || Arc::strong_count(&store) == 1).await;
    drop(store);
    let store = open(directory.path(), &config());
    assert_eq!(found(&store, LogQuery::default()).await.0, 0);
    store.write_logs(logs(0, (0..15).map(|n| (n, T + n)))).await.unwrap();
    assert_eq!(found(&store, LogQuery::default()).await.0, 15);
}

#[tokio::test]
async fn late_documents_of_many_parts_are_stored_with_few_parts_open() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &EmbeddedConfig { open_parts: 1, ..config() });
    store.write_logs(logs(0, (0..60).map(|n| (n, T + n % 6 * HOUR)))).await.unwrap();
    assert_eq!(found(&store, LogQuery::default()).await.0, 60);
    let third = LogQuery { from_ms: Some(T + 2 * HOUR), to_ms: Some(T + 3 * HOUR), ..Default::default() };
    assert_eq!(found(&store, third).await.0, 10);
    assert!(store.health().await.unwrap().starts_with("60 documents in 6 parts"));
}

#[tokio::test]
async fn parts_past_their_retention_are_deleted_and_later_documents_of_them_counted() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { retention: Some(Span::from_millis(2 * HOUR)), ..config() };
    let store = open(directory.path(), &config);
    for hour in 0..5 {
        store.write_logs(logs(0, [(hour, T + hour * HOUR)])).await.unwrap();
    }
    assert_eq!(found(&store, LogQuery::default()).await, (3, vec![4, 3, 2]));
    store.write_logs(logs(0, [(5, T)])).await.unwrap();
    // Two in the parts that were deleted, and one that came after.
    assert_eq!((store.expired(), found(&store, LogQuery::default()).await.0), (3, 3));
    drop(store);
    assert_eq!(parts::list(directory.path()).unwrap().len(), 3);
}

#[tokio::test]
async fn a_directory_in_use_damaged_or_of_another_span_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &config());
    store.write_logs(logs(0, [(0, T)])).await.unwrap();
    let refusal = |config: &EmbeddedConfig| EmbeddedStore::open(config, directory.path()).err().unwrap().to_string();
    assert!(refusal(&config()).contains("in use by another process"));
    drop(store);
    let other_span = EmbeddedConfig { span: Span::from_secs(60), ..config() };
    assert!(refusal(&other_span).contains("was made with a span of 1h"), "{}", refusal(&other_span));
    let part = parts::list(directory.path()).unwrap().remove(0).1;
    std::fs::write(part.join("meta.json"), "{").unwrap();
    let message = refusal(&config());
    assert!(message.contains(&part.display().to_string()) && message.contains("move that directory away"), "{message}");
}

#[tokio::test]
async fn what_is_held_of_a_range_is_counted_and_listed_by_partition() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { retention: Some(Span::from_millis(HOUR)), ..config() };
    let store = open(directory.path(), &config);
    let (first, second) = (logs(0, (0..50).map(|offset| (offset, T))), logs(1, [(7, T), (8, T)]));
    store.write_logs(first.clone()).await.unwrap();
    store.write_logs(second).await.unwrap();
    let held = store.held(&first.partition, 10..40, 30).await.unwrap();
    assert_eq!((held.documents, held.offsets), (30, Some((10..40).collect())));
    let held = store.held(&first.partition, 45..100, 54).await.unwrap();
    assert_eq!((held.documents, held.offsets, held.expired, held.has_retention), (5, None, Some(0), true));
    // The part is deleted once all of it is past the retention.
    store.write_logs(logs(0, [(50, T + 10 * HOUR)])).await.unwrap();
    store.flush().await.unwrap();
    let held = store.held(&first.partition, 0..100, 100).await.unwrap();
    assert_eq!((held.offsets, held.expired), (Some(vec![50]), Some(52)));
}
