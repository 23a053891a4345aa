//! The meeting at the start: two connections to every other process, one for timely and one for control.
//!
//! In: addresses, the secret, what this process is. Out: the connections, once all are made. As with timely's own
//! start, a process listens for those with higher numbers and dials those with lower ones. A peer that is not there yet
//! is dialled again until the time is over; one that leaves before all are there may come again. On error: what cannot
//! get better by waiting ends the meeting at once; a stranger is refused, logged, and forgotten.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::handshake::{Caller, HandshakeError, Limited, Purpose, answer, dial, random};
use super::identity::Identity;
use super::{ClusterConfig, ClusterError};
use crate::units::Secret;

/// How often to look for callers.
const LOOK: Duration = Duration::from_millis(20);
/// How often a peer that is not there is dialled.
const REDIAL: Duration = Duration::from_millis(200);
/// How long one try to reach an address takes.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// How long a caller may take to prove what it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Callers that are listened to at the same time; more are turned away.
const MAX_CALLERS: usize = 64;
/// How often to say who is missing, and when first.
const SAY_MISSING: Duration = Duration::from_secs(5);
const SAY_MISSING_FIRST: Duration = Duration::from_secs(1);

/// The connections to the other processes, by number; `None` for this one.
pub(super) struct Lines {
    pub data: Vec<Option<TcpStream>>,
    pub control: Vec<Option<TcpStream>>,
}

/// Meets the other processes. `stop` says when to give up.
pub(super) fn connect(
    config: &ClusterConfig,
    own: Identity,
    secret: Secret,
    stop: &dyn Fn() -> bool,
) -> Result<Lines, ClusterError> {
    let start = random().map(u64::from_be_bytes).map_err(|error| ClusterError::Failed(error.to_string()))?;
    let addresses = config.addresses();
    let listener = listen(config, &addresses)?;
    let meeting =
        Meeting { own, secret, start, addresses, held: Mutex::default(), notes: Mutex::default(), over: false.into() };
    let meeting = Arc::new(meeting);
    let _over = Over(meeting.clone());
    for peer in 0..config.process {
        let meeting = meeting.clone();
        spawn(format!("cluster:dial-{peer}"), move || meeting.keep_dialling(peer as u16))?;
    }
    let callers = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut say_at = SAY_MISSING_FIRST;
    loop {
        accept(&listener, &meeting, &callers)?;
        if let Some(error) = meeting.notes.lock().fatal.take() {
            return Err(error);
        }
        let missing = meeting.missing(config);
        if missing.is_empty() {
            return Ok(meeting.take_lines(config.processes));
        }
        if stop() {
            return Err(ClusterError::Stopped);
        }
        if begun.elapsed() >= config.connect_timeout.0 {
            return Err(ClusterError::Failed(meeting.gave_up(config, &missing)));
        }
        if begun.elapsed() >= say_at {
            say_at += SAY_MISSING;
            tracing::info!("waiting for {}", meeting.names(&missing));
        }
        std::thread::park_timeout(LOOK);
    }
}

pub(super) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), ClusterError> {
    let spawned = std::thread::Builder::new().name(name).spawn(work);
    spawned.map(drop).map_err(|error| ClusterError::Failed(format!("cannot start a thread: {error}")))
}

fn listen(config: &ClusterConfig, addresses: &[String]) -> Result<TcpListener, ClusterError> {
    let process = config.process;
    let address = config.listen.as_deref().or(addresses.get(process).map(String::as_str)).unwrap_or_default();
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let what = format!("cannot listen on {address}, the address of process {process}");
        match error.kind() {
            ErrorKind::AddrInUse => ClusterError::Failed(format!(
                "{what}: the port is in use, perhaps by another process with number {process}: stop that one, give this \
                 one its own number (-p), or name free ports in cluster.hosts"
            )),
            ErrorKind::AddrNotAvailable => ClusterError::Usage(format!(
                "{what}: this host does not have that address: start the process on the host that has it, give it the \
                 number of this host (-p), or set cluster.listen"
            )),
            _ => ClusterError::Failed(format!("{what}: {error}")),
        }
    })
}

fn accept(listener: &TcpListener, meeting: &Arc<Meeting>, callers: &Arc<AtomicUsize>) -> Result<(), ClusterError> {
    loop {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // A caller that left before it was accepted, or too many open files: neither is the end.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                return Ok(());
            }
        };
        if callers.load(Ordering::SeqCst) >= MAX_CALLERS {
            tracing::warn!(%from, "too many connections at once: refused one");
            continue;
        }
        callers.fetch_add(1, Ordering::SeqCst);
        let (meeting, callers) = (meeting.clone(), callers.clone());
        spawn("cluster:answer".to_owned(), move || {
            meeting.answer(stream, from);
            callers.fetch_sub(1, Ordering::SeqCst);
        })?;
    }
}

/// What the threads of the start share.
struct Meeting {
    own: Identity,
    secret: Secret,
    /// See [`Caller::start`].
    start: u64,
    addresses: Vec<String>,
    held: Mutex<HashMap<(u16, Purpose), Held>>,
    notes: Mutex<Notes>,
    over: AtomicBool,
}

/// A connection that is made.
struct Held {
    stream: TcpStream,
    from: SocketAddr,
    /// Of the process that dialled.
    start: u64,
}

/// What went wrong so far.
#[derive(Default)]
struct Notes {
    /// The first thing that cannot get better.
    fatal: Option<ClusterError>,
    /// Why a peer was not reached, the last time.
    unreached: HashMap<u16, String>,
    /// Who was refused last, and why.
    refused: Option<String>,
}

impl Held {
    /// Whether the other end is still there, as far as this host knows.
    fn is_alive(&self) -> bool {
        let look = || {
            self.stream.set_nonblocking(true)?;
            let seen = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            seen
        };
        match look() {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

impl Meeting {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Processes to which not both connections are there.
    fn missing(&self, config: &ClusterConfig) -> Vec<u16> {
        let mut held = self.held.lock();
        held.retain(|_, held| held.is_alive());
        let start = |peer, purpose| held.get(&(peer, purpose)).map(|held| held.start);
        let peers = (0..config.processes as u16).filter(|&peer| usize::from(peer) != config.process);
        peers
            .filter(|&peer| match (start(peer, Purpose::Data), start(peer, Purpose::Control)) {
                (Some(data), Some(control)) => data != control,
                _ => true,
            })
            .collect()
    }

    fn take_lines(&self, processes: usize) -> Lines {
        let mut held = self.held.lock();
        let mut take =
            |purpose| (0..processes as u16).map(|peer| held.remove(&(peer, purpose)).map(|held| held.stream)).collect();
        Lines { data: take(Purpose::Data), control: take(Purpose::Control) }
    }

    fn names(&self, peers: &[u16]) -> String {
        let name = |peer: &u16| format!("process {peer} ({})", self.addresses[usize::from(*peer)]);
        peers.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn gave_up(&self, config: &ClusterConfig, missing: &[u16]) -> String {
        let limit = config.connect_timeout;
        let mut text = format!("{} did not come within {limit} (cluster.connect_timeout)", self.names(missing));
        let notes = self.notes.lock();
        for peer in missing {
            if let Some(why) = notes.unreached.get(peer) {
                let _ = write!(text, "; process {peer}: {why}");
            }
        }
        if let Some(refused) = &notes.refused {
            let _ = write!(text, "; refused {refused}");
        }
        text
    }

    /// Dials a peer whenever a connection to it is not there.
    fn keep_dialling(&self, peer: u16) {
        while !self.is_over() {
            for purpose in [Purpose::Data, Purpose::Control] {
                if self.held.lock().contains_key(&(peer, purpose)) {
                    continue;
                }
                let caller = Caller { purpose, from: self.own.process, to: peer, start: self.start };
                match self.dial(caller) {
                    Ok(held) if !self.is_over() => _ = self.held.lock().insert((peer, purpose), held),
                    Ok(_) => return,
                    Err(error @ (HandshakeError::Io(_) | HandshakeError::Stranger)) => {
                        self.notes.lock().unreached.insert(peer, error.to_string());
                        break;
                    }
                    Err(error) => {
                        let address = &self.addresses[usize::from(peer)];
                        self.end(format!("process {peer} at {address}: {error}"));
                        return;
                    }
                }
            }
            std::thread::park_timeout(REDIAL);
        }
    }

    fn dial(&self, caller: Caller) -> Result<Held, HandshakeError> {
        let mut last = None;
        for address in self.addresses[usize::from(caller.to)].to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, DIAL_LIMIT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    dial(&mut Limited::new(&stream, HANDSHAKE_LIMIT), &self.secret, caller, &self.own)?;
                    unlimit(&stream)?;
                    return Ok(Held { stream, from: address, start: caller.start });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("the name has no address")).into())
    }

    fn answer(&self, stream: TcpStream, from: SocketAddr) {
        // What is accepted does not inherit this everywhere.
        let result = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_nodelay(true))
            .map_err(HandshakeError::from)
            .and_then(|()| {
                let line = &mut Limited::new(&stream, HANDSHAKE_LIMIT);
                answer(line, &self.secret, &self.own, |caller| self.has_room(caller))
            })
            .and_then(|caller| Ok(unlimit(&stream).map(|()| caller)?));
        match result {
            Ok(caller) if self.has_room(&caller) => {
                self.held.lock().insert((caller.from, caller.purpose), Held { stream, from, start: caller.start });
            }
            // It finds its connection closed and comes again, to hear why.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%from, "refused a connection: {error}");
                match error {
                    HandshakeError::Mismatch(_) => self.end(format!("the process that came from {from}: {error}")),
                    _ => self.notes.lock().refused = Some(format!("{from}: {error}")),
                }
            }
        }
    }

    /// Whether a caller's place is free, left, or its own.
    fn has_room(&self, caller: &Caller) -> bool {
        let held = self.held.lock();
        [Purpose::Data, Purpose::Control].iter().all(|&purpose| {
            held.get(&(caller.from, purpose)).is_none_or(|held| {
                let taken = held.start != caller.start && held.is_alive();
                if taken {
                    tracing::warn!(by = %held.from, "process {} is connected already", caller.from);
                }
                !taken
            })
        })
    }

    fn end(&self, message: String) {
        self.notes.lock().fatal.get_or_insert(ClusterError::Usage(message));
    }
}

/// Takes the time limits of the handshake off again.
fn unlimit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

/// Ends the threads of the meeting.
struct Over(Arc<Meeting>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}
