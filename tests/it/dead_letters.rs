//! Dead letters into an index: through the queue, over failures, to the stub of Elasticsearch.

use std::sync::Arc;
use std::time::Duration;

use floodmark::dead_letters::{DeadLettersConfig, Document, Place};
use floodmark::stores::elasticsearch::{ElasticsearchConfig, ElasticsearchStore};
use floodmark::stores::writer::DeadLetters;
use floodmark::units::Span;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::Reason;

use crate::stub_elasticsearch::{Fault, Stub};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_reach_their_index_over_failures_and_keep_their_bytes() {
    let stub = Stub::start().await;
    stub.fail_next([Fault::Status(503, "{}"), Fault::Status(429, "{}")]);
    let config = ElasticsearchConfig {
        urls: vec![stub.url.clone()],
        retry_initial_delay: Span::from_millis(1),
        retry_max_delay: Span::from_millis(5),
        ..ElasticsearchConfig::default()
    };
    let store = Arc::new(ElasticsearchStore::new(&config).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let config = DeadLettersConfig { to: Place::Index, ..DeadLettersConfig::default() };
    let queue = config.start(dir.path(), store).unwrap();
    let partition = Arc::new(PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number: 1 });
    let raw: [&[u8]; 2] = [b"{\"broken\":", b"\xff\xfe\0"];
    for (offset, raw) in (7..).zip(raw) {
        queue.send(&partition, offset, Reason::Malformed, "expected an object", raw);
    }
    let waiting = queue.clone();
    tokio::task::spawn_blocking(move || waiting.drain(Duration::from_secs(20))).await.unwrap().unwrap();
    let state = stub.state.lock();
    let held: Vec<_> = state.documents.iter().map(|((index, id), (_, document))| (index, id, document)).collect();
    assert_eq!(held.len(), 2);
    for ((index, id, document), (offset, raw)) in held.into_iter().zip((7..).zip(raw)) {
        assert!(index.starts_with("floodmark-dead-letters-20"), "{index}");
        assert_eq!(*id, format!("logs_raw-1-{offset}"));
        let letter: Document<'_> = serde_json::from_value(document.clone()).unwrap();
        assert_eq!((letter.bytes().unwrap(), letter.offset, letter.reason), (raw.to_vec(), offset, Reason::Malformed));
    }
}
