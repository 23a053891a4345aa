//! Alerts: kept, stored, and sent.
//!
//! ```text
//! dataflow ──► AlertTaker ──► ledger (journal on disk) ──► API
//!                                │        └──► a sender for each route     (process 0)
//!                                └──► store                                 (process 0)
//! ```
//!
//! In: [`AlertEvent`]s from the dataflow, on every process. Out: histories for the API; on process 0 also documents to
//! the store and notifications to routes. Nothing blocks a worker: a thread of its own writes the journal. A checkpoint
//! waits until what was said before it is in the journal ([`Alerts::is_stored`]). Replays and bare runs have no journal
//! and send nothing. On error: a journal that cannot be written is said in the log and tried again; the store is given
//! its documents by another task, so alerts are sent while it is away.
//!
//! - [`config`]: the options. [`ledger`], over a [`journal`]: all that is known. [`sender`]: a task for each route;
//!   [`fates`]: what becomes of a notice; [`groups`]: what it sends together.
//! - [`notice`]: a notification in words. [`routes`], [`template`]: what each kind of route is sent.
//! - [`silences`]: for a time, nobody is told.

pub mod config;
mod fates;
mod groups;
mod journal;
mod ledger;
pub mod notice;
mod routes;
mod sender;
pub mod silences;
mod template;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use floodmark_dataflows::alerts::config::{Alert, AlertConfig};
use floodmark_dataflows::alerts::{AlertDocument, AlertEvent, AlertSink, AlertState};
use floodmark_dataflows::time::{Millis, Tick};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};

use self::config::{AlertsConfig, RouteConfig, routes_of};
pub use self::ledger::{Change, last_in_journal};
use self::ledger::{Known, Ledger};
use self::routes::Fixed;
pub use self::sender::Counters;
use self::silences::{Silence, fits};
use crate::metrics::Samples;
use crate::sources::wall_clock_ms;
use crate::stores::version::Versions;
use crate::stores::{AlertWrite, Store};

/// How long to wait before a journal that cannot be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Documents that the store is given at once.
const STORED_AT_ONCE: usize = 500;

/// What alerts are made of.
#[derive(Debug)]
pub struct Parts {
    /// The options.
    pub config: AlertsConfig,
    /// The alerts.
    pub alerts: Vec<AlertConfig>,
    /// Who is told.
    pub routes: Vec<RouteConfig>,
    /// Where links lead.
    pub public_url: Option<String>,
    /// Where the journal is; `None` for runs that send nothing and leave nothing.
    pub directory: Option<PathBuf>,
    /// Whether this process stores and sends: process 0, whose first worker speaks of alerts.
    pub speaks: bool,
    /// The number of the run's line.
    pub generation: u64,
    /// Of the documents of alerts.
    pub versions: Versions,
    /// The length of a tick.
    pub tick_ms: u64,
    /// The tick of the checkpoint that the run goes on from; `None` where it begins anew.
    pub resumed_at: Option<Tick>,
    /// What is said of a time is said as soon as the event clock is there, and not when windows are final.
    pub is_live: bool,
    /// The alerts that are computed.
    pub computed: Vec<Arc<Alert>>,
}

/// Alerts of a process.
#[derive(Clone, Debug)]
pub struct Alerts {
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<Said>,
}

#[derive(Debug)]
struct Shared {
    config: AlertsConfig,
    public_url: Option<String>,
    /// By alert, the routes to be told.
    routes: BTreeMap<String, Vec<String>>,
    /// By alert, what stays the same of it.
    fixed: BTreeMap<String, Fixed>,
    speaks: bool,
    is_kept: bool,
    ledger: Mutex<Ledger>,
    news: Notify,
    /// Told of each advance of the event clock, too.
    heard: Notify,
    counters: Counters,
    handed_in: AtomicU64,
    kept: AtomicU64,
    /// There is something to be stored.
    to_store: Notify,
}

impl Alerts {
    /// Opens the journal, and begins to send what waits there.
    ///
    /// # Errors
    /// If the journal cannot be opened, or no client can be made.
    pub fn start(parts: Parts, store: Arc<dyn Store>, runtime: &Handle) -> io::Result<Self> {
        let Parts { config, alerts, routes, public_url, directory, speaks, .. } = parts;
        let Parts { generation, versions, tick_ms, resumed_at, is_live, computed, .. } = parts;
        let sends = speaks && directory.is_some();
        let mut ledger = Ledger::open(directory.as_deref(), config.keep)?;
        ledger.begin(generation)?;
        // What was said later is in the journal, and perhaps not in the store.
        let mut again = match resumed_at {
            Some(at) => {
                let named = |name: &str| computed.iter().find(|alert| !is_live && *alert.name == *name);
                ledger.resume(at * tick_ms, |name| named(name).map_or(0, |alert| alert.lateness_ms))
            }
            None => {
                ledger.begin_anew();
                Vec::new()
            }
        };
        let is_computed = |said: &AlertDocument| {
            computed.iter().any(|alert| (&alert.name, &alert.configuration) == (&said.alert, &said.configuration))
        };
        again.extend(ledger.close_others(is_computed)?);
        if speaks {
            ledger.store(again.into_iter().map(|event| event.alert.id));
        }
        let shared = Arc::new(Shared {
            routes: alerts.iter().map(|alert| (alert.name.clone(), routes_of(alert, &routes))).collect(),
            fixed: alerts.iter().map(|alert| (alert.name.clone(), Fixed::of(alert))).collect(),
            ledger: Mutex::new(ledger),
            config,
            public_url,
            speaks,
            is_kept: directory.is_some(),
            news: Notify::new(),
            heard: Notify::new(),
            counters: Counters::default(),
            handed_in: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            to_store: Notify::new(),
        });
        let (events, received) = mpsc::unbounded_channel();
        let keeper = Keeper { shared: shared.clone(), is_live };
        std::thread::Builder::new().name("alerts".to_owned()).spawn(move || keeper.run(received))?;
        runtime.spawn(store_alerts(shared.clone(), store, versions));
        if sends && !routes.is_empty() {
            // Another part may have installed one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            // A redirection would make a request without a body of most notifications.
            let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
            let client = client.user_agent(concat!("floodmark/", env!("CARGO_PKG_VERSION")));
            let client = client.build().map_err(io::Error::other)?;
            for route in routes {
                runtime.spawn(sender::send_to(shared.clone(), route, client.clone()));
            }
        }
        Ok(Self { shared, events })
    }

    /// The half of a worker.
    pub fn taker(&self) -> AlertTaker {
        AlertTaker(self.clone())
    }

    /// How many events were handed in so far; for [`Alerts::is_stored`].
    pub fn handed_in(&self) -> u64 {
        self.shared.handed_in.load(Ordering::SeqCst)
    }

    /// Whether the first so many events are in the journal, and their documents stored.
    pub fn is_stored(&self, handed_in: u64) -> bool {
        self.shared.kept.load(Ordering::SeqCst) >= handed_in && self.unstored() == 0
    }

    /// Documents that are not stored yet.
    pub fn unstored(&self) -> u64 {
        self.shared.ledger.lock().unstored() as u64
    }

    /// The input has ended and everything was said: what an earlier run said and this one did not is taken back.
    pub fn end(&self) {
        self.shared.handed_in.fetch_add(1, Ordering::SeqCst);
        let _ = self.events.send(Said::All);
    }

    /// Waits until everything handed in is in the journal and stored.
    pub async fn drain(&self) {
        while !self.is_stored(self.handed_in()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The alerts for which `wanted` holds, those that began last first, without the states of their baselines. They are as
    /// of the time that is given with them; `None` before anything was heard of the event clock.
    pub fn list(&self, wanted: impl Fn(&AlertDocument) -> bool) -> (Option<Millis>, Vec<AlertDocument>) {
        let ledger = self.shared.ledger.lock();
        let as_of = ledger.as_of();
        let last = ledger.alerts.values().filter_map(Known::last).map(|event| &event.alert);
        let mut alerts: Vec<AlertDocument> = last.filter(|alert| wanted(alert)).cloned().collect();
        alerts.iter_mut().for_each(AlertDocument::drop_baselines);
        alerts.sort_by(|a, b| (b.start, &a.id).cmp(&(a.start, &b.id)));
        (as_of, alerts)
    }

    /// Begins to note changes for [`Alerts::changes`], or ends it. Gives the time that alerts are as of.
    pub fn follow(&self, follow: bool) -> Option<Millis> {
        let mut ledger = self.shared.ledger.lock();
        ledger.follow(follow);
        ledger.as_of()
    }

    /// What changed since the last call, in order, and as of when that is all.
    pub fn changes(&self) -> (Option<Millis>, Vec<Change>) {
        let mut ledger = self.shared.ledger.lock();
        (ledger.as_of(), ledger.take_changes())
    }

    /// Resolves when something was heard after this call, once polled or enabled.
    pub fn heard(&self) -> Notified<'_> {
        self.shared.heard.notified()
    }

    /// What was said of an alert, oldest first.
    pub fn history(&self, id: &str) -> Option<Vec<AlertEvent>> {
        let ledger = self.shared.ledger.lock();
        ledger.alerts.get(id).map(|known| known.notices.iter().map(|(_, notice)| notice.event.clone()).collect())
    }

    /// Whether silences are kept here: where notifications are sent.
    pub fn has_silences(&self) -> bool {
        self.shared.speaks && self.shared.is_kept
    }

    /// Whether the alert of a silence fits one that is configured, or was.
    pub fn has_like(&self, wanted: &str) -> bool {
        let was_said = || {
            let ledger = self.shared.ledger.lock();
            ledger.alerts.values().filter_map(Known::last).any(|event| fits(wanted, &event.alert.alert))
        };
        self.shared.fixed.keys().any(|name| fits(wanted, name)) || was_said()
    }

    /// The names of the alerts that are configured.
    pub fn names(&self) -> Vec<&str> {
        self.shared.fixed.keys().map(String::as_str).collect()
    }

    /// The silences that are not over.
    pub fn silences(&self) -> Vec<Silence> {
        let now = wall_clock_ms();
        self.shared.ledger.lock().silences.values().filter(|silence| silence.until > now).cloned().collect()
    }

    /// Makes a silence, and gives it with its number.
    ///
    /// # Errors
    /// What the disk said.
    pub fn silence(&self, silence: Silence) -> io::Result<Silence> {
        self.shared.ledger.lock().silence(silence, wall_clock_ms())
    }

    /// Removes a silence. Says whether there was one.
    ///
    /// # Errors
    /// What the disk said.
    pub fn unsilence(&self, id: u64) -> io::Result<bool> {
        self.shared.ledger.lock().unsilence(id)
    }

    /// Counters and gauges.
    pub fn collect(&self, samples: &mut Samples) {
        let Counters { sent, retried, dead, silenced, too_old } = &self.shared.counters;
        for (name, help, count) in [
            ("notifications_sent", "Notifications of alerts that their receivers took", sent),
            ("notifications_retried", "Notifications sent again after a failure", retried),
            ("notifications_dead", "Notifications given up", dead),
            ("notifications_silenced", "Notifications that a silence matched", silenced),
            ("notifications_too_old", "Notifications not sent since they were about what is over for long", too_old),
        ] {
            samples.counter(name, help, &[], count.load(Ordering::Relaxed) as f64);
        }
        let open = self.list(|alert| alert.state == AlertState::Open).1.len();
        samples.gauge("alerts_open", "Alerts that are open", &[], open as f64);
    }
}

impl Shared {
    /// Whether it is not over for too long, by the wall clock.
    fn is_fresh(&self, alert: &AlertDocument) -> bool {
        wall_clock_ms() <= alert.end.saturating_add(self.config.notify_max_age.as_millis())
    }

    fn is_silenced(&self, ledger: &Ledger, alert: &AlertDocument) -> bool {
        let now = wall_clock_ms();
        ledger.silences.values().any(|silence| silence.matches(alert, now))
    }

    /// Where an alert is to be read; without an id, where all are.
    fn link(&self, id: Option<&str>) -> String {
        let base = self.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        id.map_or_else(|| format!("{base}/alerts"), |id| format!("{base}/alerts/{id}"))
    }

    /// Who is told of an event.
    fn routes_of(&self, event: &AlertEvent) -> Vec<String> {
        if !self.speaks || !self.is_kept {
            return Vec::new();
        }
        self.routes.get(&*event.alert.alert).cloned().unwrap_or_default()
    }
}

/// Takes alerts from a worker.
#[derive(Debug)]
pub struct AlertTaker(Alerts);

impl AlertSink for AlertTaker {
    fn alerts(&mut self, events: Vec<AlertEvent>, as_of: Millis) {
        self.0.shared.handed_in.fetch_add(events.len() as u64, Ordering::SeqCst);
        // The thread ends only when all senders are gone.
        let _ = self.0.events.send(Said::Events(events, as_of));
    }
}

/// What the dataflow says.
enum Said {
    /// All that happened by this time of the event clock.
    Events(Vec<AlertEvent>, Millis),
    /// That nothing more will.
    All,
}

impl Said {
    /// How much it is of what was handed in.
    fn count(&self) -> u64 {
        match self {
            Said::Events(events, _) => events.len() as u64,
            Said::All => 1,
        }
    }
}

/// Writes the journal.
struct Keeper {
    shared: Arc<Shared>,
    is_live: bool,
}

impl Keeper {
    fn run(self, mut received: mpsc::UnboundedReceiver<Said>) {
        let routes = |event: &AlertEvent| self.shared.routes_of(event);
        while let Some(said) = received.blocking_recv() {
            let count = said.count();
            loop {
                let mut ledger = self.shared.ledger.lock();
                let noted = match &said {
                    Said::Events(events, as_of) => match events.is_empty() {
                        true => Ok(Vec::new()),
                        false => ledger.say(events.clone(), routes),
                    }
                    .and_then(|_| match self.is_live {
                        true => ledger.settle_by(*as_of, routes),
                        false => Ok(Vec::new()),
                    })
                    .inspect(|_| ledger.reach(*as_of)),
                    Said::All => ledger.settle(routes),
                };
                drop(ledger);
                match noted {
                    Ok(_) => break,
                    Err(error) => report(&error),
                }
                std::thread::sleep(AGAIN);
            }
            self.shared.heard.notify_waiters();
            if count == 0 {
                continue;
            }
            self.shared.to_store.notify_one();
            self.shared.kept.fetch_add(count, Ordering::SeqCst);
            self.shared.news.notify_waiters();
        }
    }
}

fn report(error: &io::Error) {
    tracing::error!(%error, "alerts cannot be written to their journal; it is tried again");
}

/// Stores the newest documents of alerts.
async fn store_alerts(shared: Arc<Shared>, store: Arc<dyn Store>, versions: Versions) {
    loop {
        let events = shared.ledger.lock().to_store(STORED_AT_ONCE);
        if events.is_empty() {
            shared.to_store.notified().await;
            continue;
        }
        let write = |(_, event): &(u64, AlertEvent)| {
            let json = serde_json::to_vec(&event.alert).ok()?;
            let (id, start_ms) = (event.alert.id.clone(), event.alert.start);
            Some(AlertWrite { id, version: versions.at(event.as_of), start_ms, json })
        };
        if let Err(error) = store.write_alerts(events.iter().filter_map(write).collect()).await {
            tracing::error!(%error, "alerts were not stored");
        }
        let mut ledger = shared.ledger.lock();
        events.iter().for_each(|(number, event)| ledger.stored(&event.alert.id, *number));
    }
}
