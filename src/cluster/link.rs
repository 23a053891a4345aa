//! What processes say to each other beside timely, while they run: heartbeats, stop, how far each is, its end.
//!
//! In: the control connections. Out: [`Links`], which knows in which phase every peer is and whether one was lost. A
//! message is a kind, a length and that many bytes. Each connection has a thread that reads and one that writes, so a
//! peer that does not read holds up nobody else. On error: a connection that ends before its peer said
//! [`Word::Finished`], or that brings nothing for `peer_timeout`, or that brings what nobody says, is a lost peer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::ClusterError;
use super::connect::spawn;

/// How often a peer hears something.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes of a message at the most.
const MAX_MESSAGE: usize = 16 << 20;
/// How long the last words may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often to ask whether to give up.
const LOOK: Duration = Duration::from_millis(50);
/// How often to say whom the end waits for.
const SAY_WAITING: Duration = Duration::from_secs(10);

/// What is said. The numbers are those on the wire; 0 is a heartbeat.
#[derive(Clone)]
enum Word {
    /// This process is connected to all others.
    Ready,
    /// Stop reading everywhere, cleanly.
    Stop,
    /// This process's workers are through: nothing more comes on the data connection.
    Done,
    /// All that this process had to store is stored. Its last word.
    Finished,
    /// This process failed, and why. Its last word.
    Failed(String),
    /// What process 0 decided for all.
    Payload(Arc<Vec<u8>>),
    /// There is something new in [`Peer::news`].
    News,
    /// Not said: the writer ends.
    Close,
}

/// How far a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Connecting,
    Running,
    Done,
    Finished,
}

/// A handler of what a process tells.
type NewsHook = Box<dyn Fn(usize, &[u8]) + Send + Sync>;
/// A handler, set once.
type Hook<T> = OnceLock<Box<dyn Fn(T) + Send + Sync>>;

/// All peers.
#[derive(Default)]
pub(super) struct Links {
    peers: Vec<Option<Peer>>,
    state: Mutex<State>,
    changed: Condvar,
    peer_timeout: Duration,
    on_stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    on_lost: Hook<String>,
    on_news: OnceLock<NewsHook>,
}

struct Peer {
    address: String,
    words: Mutex<Sender<Word>>,
    /// The newest; one that was not sent in time is replaced.
    news: Mutex<Option<Arc<Vec<u8>>>>,
}

#[derive(Default)]
struct State {
    phases: Vec<Phase>,
    lost: Option<String>,
    payload: Option<Arc<Vec<u8>>>,
    is_stopping: bool,
    /// Nothing that a peer does matters any more.
    is_over: bool,
    /// Threads that write.
    writers: usize,
}

impl Links {
    /// Starts to listen and to talk on the control connections.
    pub fn start(
        lines: Vec<Option<TcpStream>>,
        addresses: &[String],
        peer_timeout: Duration,
    ) -> Result<Arc<Self>, ClusterError> {
        let mut peers = Vec::new();
        let mut ends = Vec::new();
        for (line, address) in lines.into_iter().zip(addresses) {
            peers.push(line.map(|line| {
                let (sender, receiver) = channel();
                ends.push((peers.len(), line, receiver));
                Peer { address: address.clone(), words: Mutex::new(sender), news: Mutex::default() }
            }));
        }
        let state = State { phases: vec![Phase::Connecting; peers.len()], writers: ends.len(), ..State::default() };
        let links = Arc::new(Self { peers, state: Mutex::new(state), peer_timeout, ..Self::default() });
        for (peer, line, words) in ends {
            let failed = |error: io::Error| ClusterError::Failed(format!("control connection: {error}"));
            line.set_read_timeout(Some(peer_timeout)).map_err(failed)?;
            line.set_write_timeout(Some(peer_timeout)).map_err(failed)?;
            let (reading, writing) = (line.try_clone().map_err(failed)?, links.clone());
            spawn(format!("cluster:write-{peer}"), move || writing.write(peer, line, &words))?;
            let links = links.clone();
            spawn(format!("cluster:read-{peer}"), move || links.read(peer, reading))?;
        }
        Ok(links)
    }

    /// What to do when a peer wants all to stop.
    pub fn on_stop(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_stop.set(Box::new(hook));
        if self.state.lock().is_stopping
            && let Some(hook) = self.on_stop.get()
        {
            hook();
        }
    }

    /// What to do when a peer is lost; it is told which and why.
    pub fn on_lost(&self, hook: impl Fn(String) + Send + Sync + 'static) {
        let _ = self.on_lost.set(Box::new(hook));
        if let (Some(lost), Some(hook)) = (self.lost(), self.on_lost.get()) {
            hook(lost);
        }
    }

    /// What to do with news of a peer.
    pub fn on_news(&self, hook: impl Fn(usize, &[u8]) + Send + Sync + 'static) {
        let _ = self.on_news.set(Box::new(hook));
    }

    /// Which peer was lost, and why.
    pub fn lost(&self) -> Option<String> {
        self.state.lock().lost.clone()
    }

    /// How many peers have not ended.
    pub fn connected(&self) -> usize {
        let own = self.peers.iter().map(Option::is_none);
        let state = self.state.lock();
        state.phases.iter().zip(own).filter(|(phase, own)| **phase < Phase::Finished && !own).count()
    }

    /// Tells all peers that this process is connected to all, and waits until they are too: before that nothing
    /// starts, so whoever fails can tell everyone.
    pub fn meet(&self, deadline: Instant, stop: &dyn Fn() -> bool) -> Result<(), ClusterError> {
        self.say(&Word::Ready);
        let mut state = self.state.lock();
        loop {
            if let Some(lost) = &state.lost {
                return Err(ClusterError::Failed(lost.clone()));
            }
            let is_waited_for = |peer: &usize| self.peers[*peer].is_some() && state.phases[*peer] < Phase::Running;
            let Some(peer) = (0..self.peers.len()).find(is_waited_for) else { return Ok(()) };
            let failed = match (stop(), Instant::now() >= deadline) {
                (true, _) => ClusterError::Stopped,
                (false, true) => {
                    let name = self.name(peer);
                    ClusterError::Failed(format!("{name} could not reach all others in time: its log says which"))
                }
                (false, false) => {
                    self.changed.wait_for(&mut state, LOOK);
                    continue;
                }
            };
            drop(state);
            let _ = self.finish(Err(&failed.to_string()));
            return Err(failed);
        }
    }

    /// Asks all peers to stop.
    pub fn stop(&self) {
        let is_first = !std::mem::replace(&mut self.state.lock().is_stopping, true);
        if is_first {
            self.say(&Word::Stop);
        }
    }

    /// Tells all peers that the workers of this process are through.
    pub fn done(&self) {
        self.say(&Word::Done);
    }

    /// Tells all peers why this process ends.
    pub fn fail(&self, why: &str) {
        self.say(&Word::Failed(why.to_owned()));
    }

    /// Gives something to all peers.
    pub fn give(&self, payload: Vec<u8>) {
        self.say(&Word::Payload(Arc::new(payload)));
    }

    /// Gives all peers the newest state of something. What is too long is left out.
    pub fn tell(&self, news: Vec<u8>) {
        if news.len() > MAX_MESSAGE {
            return;
        }
        let news = Arc::new(news);
        for peer in self.peers.iter().flatten() {
            if peer.news.lock().replace(news.clone()).is_none() {
                let _ = peer.words.lock().send(Word::News);
            }
        }
    }

    /// Waits for what process 0 gives; or for the loss of a peer.
    pub fn given(&self) -> Result<Arc<Vec<u8>>, String> {
        let mut state = self.state.lock();
        loop {
            match (&state.payload, &state.lost) {
                (Some(payload), _) => return Ok(payload.clone()),
                (None, Some(lost)) => return Err(lost.clone()),
                (None, None) => self.changed.wait(&mut state),
            }
        }
    }

    /// Waits until a peer's workers are through. `false` if a peer was lost, or it takes longer than a peer may be
    /// silent.
    pub fn is_done(&self, peer: usize) -> bool {
        let deadline = Instant::now() + self.peer_timeout;
        let mut state = self.state.lock();
        while state.phases[peer] < Phase::Done && state.lost.is_none() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.phases[peer] >= Phase::Done
    }

    /// Tells all peers that this process has stored everything, and waits until they have too; or that it failed.
    /// Returns which peer was lost, if one was.
    pub fn finish(&self, result: Result<(), &str>) -> Result<(), String> {
        match result {
            Err(why) => self.fail(why),
            Ok(()) => {
                self.say(&Word::Finished);
                self.wait_until_finished();
            }
        }
        let lost = {
            let mut state = self.state.lock();
            state.is_over = true;
            state.lost.clone()
        };
        self.say(&Word::Close);
        let deadline = Instant::now() + LAST_WORDS;
        let mut state = self.state.lock();
        while state.writers > 0 && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        match lost {
            Some(lost) if result.is_ok() => Err(lost),
            _ => Ok(()),
        }
    }

    fn wait_until_finished(&self) {
        let mut state = self.state.lock();
        loop {
            let is_waited_for = |peer: &usize| self.peers[*peer].is_some() && state.phases[*peer] < Phase::Finished;
            let waiting: Vec<usize> = (0..self.peers.len()).filter(is_waited_for).collect();
            if waiting.is_empty() || state.lost.is_some() {
                return;
            }
            if self.changed.wait_for(&mut state, SAY_WAITING).timed_out() {
                tracing::info!(processes = ?waiting, "done here; others are still storing what they have");
            }
        }
    }

    fn say(&self, word: &Word) {
        for peer in self.peers.iter().flatten() {
            // A writer that has ended has no one to write to.
            let _ = peer.words.lock().send(word.clone());
        }
    }

    fn name(&self, peer: usize) -> String {
        let address = self.peers[peer].as_ref().map(|peer| peer.address.as_str());
        format!("process {peer} ({})", address.unwrap_or_default())
    }

    /// Notes that a peer is gone: the first loss counts, and all others hear of it.
    pub fn lose(&self, peer: usize, why: &str) {
        self.end(format!("lost {}: {why}", self.name(peer)));
    }

    fn end(&self, message: String) {
        {
            let mut state = self.state.lock();
            if state.is_over || state.lost.is_some() {
                return;
            }
            state.lost = Some(message.clone());
        }
        self.changed.notify_all();
        self.fail(&message);
        if let Some(hook) = self.on_lost.get() {
            hook(message);
        }
    }

    fn reached(&self, peer: usize, phase: Phase) {
        self.state.lock().phases[peer] = phase;
        self.changed.notify_all();
    }

    /// The thread that writes to a peer.
    fn write(&self, peer: usize, mut line: TcpStream, words: &Receiver<Word>) {
        let mut is_finished = false;
        loop {
            let word = match words.recv_timeout(HEARTBEAT) {
                Ok(Word::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(word) => Some(word),
                Err(RecvTimeoutError::Timeout) => None,
            };
            if is_finished {
                continue;
            }
            is_finished = matches!(word, Some(Word::Finished | Word::Failed(_)));
            if let Err(error) = self.write_word(peer, &mut line, word) {
                self.lose(peer, &format!("its control connection: {}", spoken(&error)));
                break;
            }
        }
        let _ = line.shutdown(Shutdown::Write);
        self.state.lock().writers -= 1;
        self.changed.notify_all();
    }

    fn write_word(&self, peer: usize, line: &mut TcpStream, word: Option<Word>) -> io::Result<()> {
        match word {
            None => write_message(line, 0, &[]),
            Some(Word::Stop) => write_message(line, 1, &[]),
            Some(Word::Done) => write_message(line, 2, &[]),
            Some(Word::Finished) => write_message(line, 3, &[]),
            Some(Word::Failed(why)) => write_message(line, 4, why.as_bytes()),
            Some(Word::Payload(payload)) => write_message(line, 5, &payload),
            Some(Word::News) => {
                let news = self.peers[peer].as_ref().and_then(|peer| peer.news.lock().take());
                news.map_or(Ok(()), |news| write_message(line, 6, &news))
            }
            Some(Word::Ready) => write_message(line, 7, &[]),
            Some(Word::Close) => Ok(()),
        }
    }

    /// The thread that reads what a peer says.
    fn read(&self, peer: usize, mut line: TcpStream) {
        loop {
            let (kind, body) = match read_message(&mut line) {
                Ok(message) => message,
                Err(error) => {
                    if self.state.lock().phases[peer] < Phase::Finished {
                        self.lose(peer, &spoken(&error));
                    }
                    return;
                }
            };
            match kind {
                0 => {}
                1 => {
                    tracing::info!("{} asks all to stop", self.name(peer));
                    self.state.lock().is_stopping = true;
                    // Everyone was asked by the one who began.
                    if let Some(hook) = self.on_stop.get() {
                        hook();
                    }
                }
                2 => self.reached(peer, Phase::Done),
                3 => self.reached(peer, Phase::Finished),
                4 => {
                    let why = String::from_utf8_lossy(&body);
                    return self.end(format!("{} ended: {}", self.name(peer), why.escape_debug()));
                }
                5 => {
                    self.state.lock().payload = Some(Arc::new(body));
                    self.changed.notify_all();
                }
                6 => {
                    if let Some(hook) = self.on_news.get() {
                        hook(peer, &body);
                    }
                }
                7 => self.reached(peer, Phase::Running),
                _ => return self.lose(peer, "it said something that nobody says"),
            }
        }
    }
}

fn write_message(line: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(5 + body.len());
    message.push(kind);
    message.extend_from_slice(&(body.len() as u32).to_be_bytes());
    message.extend_from_slice(body);
    line.write_all(&message)
}

/// A message: its kind and what is in it. Memory grows with what comes, not with what is promised.
fn read_message(line: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    line.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it announced a message of {length} bytes")));
    }
    let mut body = Vec::new();
    line.take(length as u64).read_to_end(&mut body)?;
    match body.len() == length {
        true => Ok((head[0], body)),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// What the end of a control connection means.
fn spoken(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "it broke the connection off".to_owned(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            "nothing was heard of it for too long (cluster.peer_timeout)".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while let Ok((_, body)) = read_message(&mut rest) {
                prop_assert!(body.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_message_reads_back() {
        let mut line = Vec::new();
        write_message(&mut line, 6, b"news").unwrap();
        write_message(&mut line, 0, b"").unwrap();
        let mut line = &line[..];
        assert_eq!(read_message(&mut line).unwrap(), (6, b"news".to_vec()));
        assert_eq!(read_message(&mut line).unwrap(), (0, Vec::new()));
        assert!(read_message(&mut line).is_err());
    }
}
