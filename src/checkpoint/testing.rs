//! What tests of checkpoints share: a place that does what they say, and the checkpoints of a process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::output::Reason;
use floodmark_dataflows::time::{Millis, Tick};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::commit::Parts;
use super::compare::Fingerprint;
use super::starts::{Reading, Start, StartNumber, Starts};
use super::store::CopyStore;
use super::{CheckpointConfig, Checkpoints, Line};
use crate::live::progress::ProgressBoard;
use crate::sources::Positions;
use crate::stores::Store;
use crate::stores::writer::{DeadLetters, Indexed, Writer, WriterOptions};

type Before = Box<dyn FnMut(&str, &Path) -> Result<()> + Send>;

/// Files in memory. What a test says happens before each request.
pub struct Place {
    pub files: InMemory,
    before: Mutex<Before>,
}

impl Place {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { files: InMemory::new(), before: Mutex::new(Box::new(|_, _| Ok(()))) })
    }

    /// Has this happen before each request: "get", "list" or "put", with the place that it is about.
    pub fn before(&self, before: impl FnMut(&str, &Path) -> Result<()> + Send + 'static) {
        *self.before.lock() = Box::new(before);
    }

    fn ask(&self, what: &str, path: &Path) -> Result<()> {
        (*self.before.lock())(what, path)
    }
}

/// What a place says that cannot be reached.
pub fn unreachable() -> Error {
    Error::Generic { store: "test", source: "connection refused".into() }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Place {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.ask("put", path)?;
        self.files.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask("get", path)?;
        self.files.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        // What is found is found now, and what happens then is not.
        let found = self.files.list(prefix);
        match self.ask("list", prefix.unwrap_or(&Path::default())) {
            Ok(()) => found,
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

struct NoLetters;

impl DeadLetters for NoLetters {
    fn ready(&self) -> bool {
        true
    }

    fn send(&self, _: &Arc<PartitionInfo>, _: u64, _: Reason, _: &str, _: &[u8]) {}

    fn unwritten(&self) -> Positions {
        Positions::new()
    }
}

/// The checkpoints of a run of one worker that begins anew, and has come to the end of time.
pub async fn checkpoints(store: CopyStore, documents: Arc<dyn Store>) -> Checkpoints {
    checkpoints_of(store, documents, 1, 0).await
}

/// The same of a start, behind a checkpoint that was begun at this wall clock.
pub async fn checkpoints_of(
    store: CopyStore,
    documents: Arc<dyn Store>,
    start: StartNumber,
    began_ms: Millis,
) -> Checkpoints {
    let runtime = Handle::current();
    let options = WriterOptions { indexed: Indexed::All, queue_bytes: 1 << 20, spool: None };
    let writer = Writer::start(documents, Arc::new(NoLetters), options, &runtime).unwrap();
    let board = Arc::new(ProgressBoard::default());
    board.set_frontier(0, Tick::MAX);
    let mut line = Line::begin(&store, 3, Fingerprint::default(), 1).await.unwrap();
    line.manifest.began_ms = began_ms;
    Checkpoints::new(Parts {
        store,
        config: CheckpointConfig::default(),
        runtime,
        writer,
        alerts: None,
        board,
        live: None,
        line,
        process: 0,
        reading: Reading::new(Start { number: start, records: 0 }, Starts::default(), BTreeMap::new()),
    })
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
