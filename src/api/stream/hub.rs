//! The steps that clients are sent, kept for those who come back; and who is connected.
//!
//! With nobody connected, now or a minute ago, nothing is noted, read or kept. From the first client on, a task turns
//! the changes of the live state into [`Step`]s. Advances that come faster than [`EVERY`] become one step. Steps are
//! kept up to `api.stream_buffer` bytes, the newest one in any case; a client whose place is before the oldest one has
//! lost its way and starts again from a snapshot.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::step::{Position, Step};
use crate::api::ApiConfig;
use crate::live::LiveView;
use crate::live::changes::ViewChanges;

/// Steps are no closer than this. A live run advances once a tick; when it catches up, more steps would only say the
/// same windows more often.
const EVERY: Duration = Duration::from_millis(100);
/// How long steps are kept up with nobody connected: a client that lost its connection comes back within seconds.
const GRACE: Duration = Duration::from_secs(60);
/// How often it is looked whether anybody is connected.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Shared by all streams of the process.
#[derive(Debug)]
pub struct Hub {
    /// What is followed.
    pub live: Arc<LiveView>,
    /// Different in each start of the process.
    pub instance: String,
    buffer: usize,
    max_streams: usize,
    ring: Mutex<Ring>,
    /// Held from reading changes until they are in the ring: steps come in order.
    stepping: Mutex<()>,
    /// The advance that the ring has reached.
    reached: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
struct Ring {
    steps: VecDeque<Arc<Step>>,
    bytes: usize,
    /// The place before the oldest step.
    base: Position,
    head: Position,
    streams: usize,
    is_running: bool,
    last_left: Instant,
}

/// What comes after a place.
#[derive(Debug)]
pub enum Next {
    /// This.
    Step(Arc<Step>),
    /// Nothing yet.
    Nothing,
    /// It is not kept any more, or never was.
    Unknown,
}

/// A place among the connected clients, given back when it is dropped.
#[derive(Debug)]
pub struct Seat(pub Arc<Hub>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.0.ring.lock();
        ring.streams -= 1;
        ring.last_left = Instant::now();
    }
}

impl Hub {
    /// For this state, with nobody connected.
    pub fn new(live: Arc<LiveView>, config: &ApiConfig) -> Arc<Self> {
        let ring = Ring {
            steps: VecDeque::new(),
            bytes: 0,
            base: Position::default(),
            head: Position::default(),
            streams: 0,
            is_running: false,
            last_left: Instant::now(),
        };
        Arc::new(Self {
            live,
            instance: format!("{:016x}", RandomState::new().hash_one(0)),
            buffer: config.stream_buffer.0 as usize,
            max_streams: config.max_streams,
            ring: Mutex::new(ring),
            stepping: Mutex::new(()),
            reached: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        })
    }

    /// Takes a place for a client, and begins to keep steps if nobody was there; `None` when all are taken. Must be called
    /// within a runtime.
    pub fn enter(self: &Arc<Self>) -> Option<Seat> {
        let mut ring = self.ring.lock();
        if ring.streams >= self.max_streams {
            return None;
        }
        ring.streams += 1;
        if !ring.is_running {
            let (tick, version) = self.live.track();
            // Behind every id that was given out at this tick: what came since then was not noted.
            let number = if ring.head.tick == tick { ring.head.number + 1 } else { 0 };
            ring.head = Position { tick, number };
            ring.base = ring.head;
            ring.is_running = true;
            self.reached.send_replace(version);
            tokio::spawn(self.clone().keep());
        }
        Some(Seat(self.clone()))
    }

    /// Tells all streams to end once they have sent what there is.
    pub fn close(&self) {
        self.step();
        self.closing.send_replace(true);
    }

    /// Becomes true when streams are to end. What they are to send before is in the ring by then.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The number of the advance of the live state that the ring has reached.
    pub fn reached(&self) -> watch::Receiver<u64> {
        self.reached.subscribe()
    }

    /// The place behind the newest step.
    pub fn head(&self) -> Position {
        self.ring.lock().head
    }

    /// What comes after a place.
    pub fn next(&self, from: Position) -> Next {
        let ring = self.ring.lock();
        if from < ring.base || from > ring.head {
            return Next::Unknown;
        }
        let at = ring.steps.partition_point(|step| step.end <= from);
        ring.steps.get(at).map_or(Next::Nothing, |step| Next::Step(step.clone()))
    }

    async fn keep(self: Arc<Self>) {
        let mut closing = self.closing();
        loop {
            let advanced = self.live.advanced();
            tokio::pin!(advanced);
            // From here on an advance is not missed.
            advanced.as_mut().enable();
            let hub = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || hub.step()).await {
                tracing::error!(%error, "a step of the stream failed");
            }
            if self.stop_if_deserted() {
                return;
            }
            tokio::time::sleep(EVERY).await;
            tokio::select! {
                () = advanced => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = closing.wait_for(|is_closing| *is_closing) => return,
            }
        }
    }

    fn stop_if_deserted(&self) -> bool {
        let mut ring = self.ring.lock();
        let is_deserted = ring.streams == 0 && ring.last_left.elapsed() >= GRACE;
        if is_deserted {
            self.live.untrack();
            ring.is_running = false;
            ring.steps.clear();
            ring.bytes = 0;
        }
        is_deserted
    }

    /// Puts what has changed since the last step into the ring.
    fn step(&self) {
        let _stepping = self.stepping.lock();
        let from = self.head();
        let Some(changes) = self.live.changes(from.tick) else { return };
        let version = changes.version;
        let is_empty = changes.views.iter().all(ViewChanges::is_empty);
        if changes.frontier > from.tick || !is_empty {
            let step = Step::new(&self.live, &self.instance, from, changes);
            let mut ring = self.ring.lock();
            ring.head = step.end;
            ring.bytes += step.size();
            ring.steps.push_back(Arc::new(step));
            while ring.bytes > self.buffer
                && ring.steps.len() > 1
                && let Some(oldest) = ring.steps.pop_front()
            {
                ring.bytes -= oldest.size();
                ring.base = oldest.end;
            }
        }
        self.reached.send_replace(version);
    }
}
