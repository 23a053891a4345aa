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

use floodmark_dataflows::time::Millis;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::step::{AlertChanges, Position, Step};
use crate::alerts::Alerts;
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
    /// Followed as well, where there are any.
    pub alerts: Option<Alerts>,
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
    /// As of when alerts are at the head.
    alerts_as_of: Option<Millis>,
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
    pub fn new(live: Arc<LiveView>, alerts: Option<Alerts>, config: &ApiConfig) -> Arc<Self> {
        let ring = Ring {
            steps: VecDeque::new(),
            bytes: 0,
            base: Position::default(),
            head: Position::default(),
            alerts_as_of: None,
            streams: 0,
            is_running: false,
            last_left: Instant::now(),
        };
        Arc::new(Self {
            live,
            alerts,
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
            ring.alerts_as_of = self.alerts.as_ref().and_then(|alerts| alerts.follow(true));
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

    /// The place behind the newest step, and as of when alerts are there.
    pub fn head(&self) -> (Position, Option<Millis>) {
        let ring = self.ring.lock();
        (ring.head, ring.alerts_as_of)
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
        let (mut closing, nothing) = (self.closing(), Notify::new());
        loop {
            let advanced = self.live.advanced();
            tokio::pin!(advanced);
            let heard = self.alerts.as_ref().map_or_else(|| nothing.notified(), Alerts::heard);
            tokio::pin!(heard);
            // From here on neither is missed.
            advanced.as_mut().enable();
            heard.as_mut().enable();
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
                () = heard => {}
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
            if let Some(alerts) = &self.alerts {
                alerts.follow(false);
            }
            ring.is_running = false;
            ring.steps.clear();
            ring.bytes = 0;
        }
        is_deserted
    }

    /// Puts what has changed since the last step into the ring. Blocks for as long as that takes.
    pub fn step(&self) {
        let _stepping = self.stepping.lock();
        let (from, alerts_as_of) = self.head();
        let Some(changes) = self.live.changes(from.tick) else { return };
        let version = changes.version;
        let (as_of, said) = self.alerts.as_ref().map(Alerts::changes).unwrap_or_default();
        let is_empty = changes.views.iter().all(ViewChanges::is_empty) && said.is_empty() && as_of == alerts_as_of;
        if changes.frontier > from.tick || !is_empty {
            let step = Step::new(&self.live, &self.instance, from, changes, AlertChanges { as_of, said });
            let mut ring = self.ring.lock();
            ring.head = step.end;
            ring.alerts_as_of = as_of;
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
