//! The worker's half of the writer that takes windows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use floodmark_dataflows::output::{WindowDocument, WindowSink};
use tokio::sync::mpsc;

use super::{Shared, WindowIds};
use crate::stores::WindowWrite;

/// Hands windows to the store, in order. Nothing is lost: while too many wait, [`RecordWriter`](super::RecordWriter)
/// is not ready, and no records come that would change more windows.
pub struct WindowWriter {
    shared: Arc<Shared>,
    windows: mpsc::UnboundedSender<Vec<WindowWrite>>,
    ids: WindowIds,
}

impl WindowWriter {
    pub(super) fn new(shared: Arc<Shared>, windows: mpsc::UnboundedSender<Vec<WindowWrite>>, ids: WindowIds) -> Self {
        Self { shared, windows, ids }
    }
}

impl WindowSink for WindowWriter {
    fn windows(&mut self, documents: Vec<WindowDocument>) {
        if documents.is_empty() {
            return;
        }
        let writes: Vec<WindowWrite> = documents.into_iter().map(|document| self.ids.identify(document)).collect();
        self.shared.queue.hand_in(writes.len());
        self.shared.queue.stats.windows_waiting.fetch_add(writes.len(), Ordering::SeqCst);
        let mut handed_in = self.shared.windows_handed_in.lock();
        *handed_in += writes.len() as u64;
        // The receiver is gone only after a failure, which the engine knows of.
        let _ = self.windows.send(writes);
    }
}
