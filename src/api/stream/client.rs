//! One client: the state first, then what changes.
//!
//! The snapshot is read window by window while the state moves on, each part as of its own moment. What changes from
//! before the first part until after the last is then sent again, so that with the `snapshot` event the whole is exact.
//! Events before it have no ids: a client that loses its connection there starts anew, at the `reset` before a snapshot.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use floodmark_dataflows::alerts::AlertDocument;
use floodmark_dataflows::time::Millis;
use floodmark_dataflows::view::ViewId;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hub::{Next, Seat};
use super::step::{EventId, Filter, Position, Reached, write_event};

/// A comment is sent when nothing else was for this long, so that proxies keep the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A client that takes nothing for this long has its connection ended.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Rows of a snapshot read and sent at a time.
const ROWS_AT_ONCE: usize = 256;

/// Where a client starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the state as it is.
    Snapshot,
    /// At what changes from now on.
    Now,
}

/// A client being sent to.
pub struct Client {
    /// Its place among the clients.
    pub seat: Seat,
    /// What it is sent.
    pub filter: Filter,
    /// Where its events go.
    pub sender: mpsc::Sender<Bytes>,
}

/// The client is gone, or as good as gone.
struct Disconnected;

#[derive(Serialize)]
struct Known<'a> {
    alert: &'a AlertDocument,
}

#[derive(Serialize)]
struct Notice {
    detail: &'static str,
}

impl Client {
    /// Sends until the client leaves, falls too far behind or the process ends. `resume` is the id of the last event that
    /// it saw, if it saw any.
    pub async fn run(self, from: From, resume: Option<String>) {
        // A client that is gone needs nothing more.
        let _ = self.send_all(from, resume).await;
    }

    async fn send_all(&self, from: From, resume: Option<String>) -> Result<(), Disconnected> {
        let hub = &*self.seat.0;
        if let Some(id) = resume {
            let known = Position::parse(&hub.instance, &id).filter(|at| !matches!(hub.next(*at), Next::Unknown));
            if let Some(position) = known {
                // Said with the next step.
                return self.follow(position, None, None).await;
            }
            let detail = "what came after the last event is not kept any more: forget the state, a new one follows";
            self.event(None, "reset", &Notice { detail }).await?;
        } else if from == From::Snapshot {
            // It may have part of a snapshot that broke off.
            self.event(None, "reset", &Notice { detail: "the state as it is follows" }).await?;
        }
        let (position, alerts_as_of) = hub.head();
        match from {
            From::Now => {
                let reached = Reached::at(&hub.live, position.tick, alerts_as_of);
                self.event(Some(position), "frontier", &reached).await?;
                self.follow(position, None, alerts_as_of).await
            }
            From::Snapshot => {
                let mut through = 0;
                for (view, _) in hub.live.listed().filter(|(id, _)| self.filter.view.is_none_or(|view| view == *id)) {
                    for start in hub.live.starts(view) {
                        through = through.max(self.send_window(view, start).await?);
                    }
                }
                self.send_alerts().await?;
                self.follow(position, Some(through), alerts_as_of).await
            }
        }
    }

    /// Sends a window of a view as it is. Returns the number of the last advance seen doing so.
    async fn send_window(&self, view: ViewId, start: u64) -> Result<u64, Disconnected> {
        let hub = &*self.seat.0;
        let mut through = 0;
        for keys in hub.live.keys_in(view, start, &self.filter.keys).chunks(ROWS_AT_ONCE) {
            let (version, documents) = hub.live.documents(view, start, keys);
            through = through.max(version);
            let mut bytes = BytesMut::new();
            for document in &documents {
                write_event(&mut bytes, None, "window", document);
            }
            self.send(bytes.freeze()).await?;
        }
        Ok(through)
    }

    /// Sends the alerts as they are. What was said of them until then is in the steps that are kept afterwards.
    async fn send_alerts(&self) -> Result<(), Disconnected> {
        let hub = self.seat.0.clone();
        let Some(alerts) = &hub.alerts else { return Ok(()) };
        let (_, all) = alerts.list(|alert| self.filter.takes_alert(&hub.live, alert));
        for some in all.chunks(ROWS_AT_ONCE) {
            let mut bytes = BytesMut::new();
            for alert in some {
                write_event(&mut bytes, None, "alert", &Known { alert });
            }
            self.send(bytes.freeze()).await?;
        }
        let hub = hub.clone();
        tokio::task::spawn_blocking(move || hub.step()).await.map_err(|_| Disconnected)
    }

    /// Sends what comes after a place, where alerts are as of `alerts_as_of`. With `snapshot` it ends a snapshot once the ring has reached that advance.
    async fn follow(
        &self,
        mut position: Position,
        mut snapshot: Option<u64>,
        mut alerts_as_of: Option<Millis>,
    ) -> Result<(), Disconnected> {
        let hub = &*self.seat.0;
        let (mut reached, mut closing) = (hub.reached(), hub.closing());
        loop {
            // Before looking: what comes in between is then not waited for.
            let (version, is_closing) = (*reached.borrow_and_update(), *closing.borrow_and_update());
            match hub.next(position) {
                Next::Step(step) => {
                    for bytes in step.slices(position, &self.filter, snapshot.is_none()) {
                        self.send(bytes).await?;
                    }
                    (position, alerts_as_of) = (step.end, step.alerts_as_of);
                }
                Next::Unknown => {
                    let detail = "too slow: what comes next is not kept any more; connect again";
                    return self.event(None, "behind", &Notice { detail }).await;
                }
                Next::Nothing => {
                    if snapshot.is_some_and(|through| version >= through) {
                        snapshot = None;
                        let as_of = Reached::at(&hub.live, position.tick, alerts_as_of);
                        self.event(Some(position), "snapshot", &as_of).await?;
                    }
                    if is_closing {
                        return Ok(());
                    }
                    tokio::select! {
                        _ = reached.changed() => {}
                        _ = closing.changed() => {}
                        () = self.sender.closed() => return Err(Disconnected),
                        () = tokio::time::sleep(HEARTBEAT) => self.send(Bytes::from_static(b":\n\n")).await?,
                    }
                }
            }
        }
    }

    async fn event(&self, id: Option<Position>, kind: &str, data: &impl Serialize) -> Result<(), Disconnected> {
        let mut bytes = BytesMut::new();
        write_event(&mut bytes, id.map(|at| EventId(&self.seat.0.instance, at)), kind, data);
        self.send(bytes.freeze()).await
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Disconnected> {
        match timeout(STALLED_AFTER, self.sender.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Disconnected),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use floodmark_dataflows::output::LiveSink;

    use super::super::hub::Hub;
    use super::*;
    use crate::api::ApiConfig;
    use crate::live::LiveView;
    use crate::units::ByteSize;

    #[tokio::test]
    async fn a_client_that_takes_too_little_is_told_and_left() {
        let live = Arc::new(LiveView::new(Vec::new(), 1_000, 0));
        let hub = Hub::new(live.clone(), None, &ApiConfig { stream_buffer: ByteSize(1), ..ApiConfig::default() });
        let seat = hub.enter().unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(Client { seat, filter: Filter::default(), sender }.run(From::Now, None));
        let first = String::from_utf8(receiver.recv().await.unwrap().to_vec()).unwrap();
        assert!(first.contains("event: frontier"), "{first}");
        let (begin, _) = hub.head();
        let mut reached = hub.reached();
        for tick in 1..10 {
            live.writer().apply(tick, Vec::new(), Vec::new());
            reached.wait_for(|&version| version == tick).await.unwrap();
        }
        assert!(matches!(hub.next(begin), Next::Unknown), "only the newest step is kept");
        let mut rest = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            rest.extend(bytes);
        }
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains("event: behind"), "{rest}");
        assert!(!rest.contains(r#""as_of":9000"#), "nothing comes after what was missed: {rest}");
    }
}
