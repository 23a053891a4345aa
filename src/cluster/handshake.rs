//! The first words on a connection between two processes: each proves that it knows the secret, and says what it is.
//!
//! ```text
//! dials                                   answers
//!   Hello {numbers, purpose, nonce}  ──►
//!                                    ◄──  Challenge {nonce}
//!   Proof {identity, mac}            ──►
//!                                    ◄──  Proof {verdict, identity, mac}
//! ```
//!
//! Whoever dials proves first, so that a stranger that connects gets nothing to try secrets on. A mac is HMAC-SHA256
//! with the secret over the role of who made it and everything said so far: both nonces, both numbers, the purpose, what
//! is attached. A proof therefore serves for this connection, this direction and these processes only. What is read is
//! bounded before it is read, and all of it has to come within one time limit.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::ring::default_provider;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::identity::{Identity, MAX_IDENTITY};
use crate::units::Secret;

const MAGIC: [u8; 8] = *b"FLOODMRK";
/// The form of these messages.
const PROTOCOL: u16 = 1;
/// What keeps these macs apart from any other use of the same secret.
const DOMAIN: &[u8] = b"floodmark cluster handshake 1";
const NONCE: usize = 32;
const MAC: usize = 32;
const HELLO: usize = MAGIC.len() + 2 + 1 + 2 + 2 + 8 + NONCE;
const CHALLENGE: usize = MAGIC.len() + 2 + NONCE;
/// Verdict, mac, length of what is attached.
const PROOF: usize = 1 + MAC + 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Purpose {
    /// Handed to timely.
    Data = 1,
    /// Heartbeats and the like.
    Control = 2,
}

/// Who dials whom, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub purpose: Purpose,
    /// The process that dials.
    pub from: u16,
    /// The process that it means to reach.
    pub to: u16,
    /// Drawn by each process when it starts, to tell it from another with the same number.
    pub start: u64,
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// It broke off, or was too slow.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not one of us.
    #[error("it does not speak as a process of a cluster does")]
    Stranger,
    /// One of another time.
    #[error("it makes connections in form {0}, this is form {PROTOCOL}: run the same version on all hosts")]
    Protocol(u16),
    /// The secrets differ.
    #[error("its secret (cluster.secret) is another one")]
    Secret,
    /// There is one with the same number already.
    #[error("another process with number {0} is connected already: give each a number of its own (-p)")]
    Duplicate(u16),
    /// They do not go together.
    #[error("{0}")]
    Mismatch(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    Welcome = 0,
    WrongSecret = 1,
    Duplicate = 2,
}

/// Bytes that nobody can foresee.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(bytes)
}

fn encode_hello(caller: &Caller, nonce: &[u8; NONCE]) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    let parts: [&[u8]; 7] = [
        &MAGIC,
        &PROTOCOL.to_be_bytes(),
        &[caller.purpose as u8],
        &caller.from.to_be_bytes(),
        &caller.to.to_be_bytes(),
        &caller.start.to_be_bytes(),
        nonce,
    ];
    bytes.copy_from_slice(&parts.concat());
    bytes
}

fn decode_hello(bytes: &[u8; HELLO]) -> Result<Caller, HandshakeError> {
    check_protocol(bytes)?;
    let at = MAGIC.len() + 2;
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let purpose = match bytes[at] {
        1 => Purpose::Data,
        2 => Purpose::Control,
        _ => return Err(HandshakeError::Stranger),
    };
    let mut start = [0; 8];
    start.copy_from_slice(&bytes[at + 5..at + 13]);
    Ok(Caller { purpose, from: number(at + 1), to: number(at + 3), start: u64::from_be_bytes(start) })
}

fn encode_challenge(nonce: &[u8; NONCE]) -> [u8; CHALLENGE] {
    let mut bytes = [0; CHALLENGE];
    bytes.copy_from_slice(&[&MAGIC[..], &PROTOCOL.to_be_bytes(), nonce].concat());
    bytes
}

/// Both hello and challenge begin with what we are.
fn check_protocol(bytes: &[u8]) -> Result<(), HandshakeError> {
    let (magic, rest) = bytes.split_at(MAGIC.len());
    let protocol = u16::from_be_bytes([rest[0], rest[1]]);
    match (magic == MAGIC, protocol) {
        (false, _) => Err(HandshakeError::Stranger),
        (true, PROTOCOL) => Ok(()),
        (true, other) => Err(HandshakeError::Protocol(other)),
    }
}

/// Who makes a mac.
#[derive(Clone, Copy)]
enum Role {
    Dials,
    Answers,
}

/// What was said, and the secret to sign it with.
struct Transcript<'a> {
    secret: &'a Secret,
    said: Vec<u8>,
}

impl Transcript<'_> {
    fn mac(&self, role: Role, verdict: Verdict, identity: &[u8]) -> [u8; MAC] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes()) else {
            unreachable!("HMAC takes keys of any length")
        };
        let role: &[u8] = match role {
            Role::Dials => b"dials",
            Role::Answers => b"answers",
        };
        // Each part with its length before it, so that no two sequences of parts are the same bytes.
        for part in [DOMAIN, role, &self.said, &[verdict as u8], identity] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut bytes = [0; MAC];
        bytes.copy_from_slice(&mac.finalize().into_bytes());
        bytes
    }

    fn send_proof(
        &mut self,
        line: &mut impl Write,
        role: Role,
        verdict: Verdict,
        identity: &[u8],
    ) -> Result<(), HandshakeError> {
        let mac = match verdict {
            // For whoever has another secret there is nothing to be learned.
            Verdict::WrongSecret => [0; MAC],
            _ => self.mac(role, verdict, identity),
        };
        let head = [&[verdict as u8][..], &mac, &(identity.len() as u32).to_be_bytes()].concat();
        line.write_all(&[&head[..], identity].concat())?;
        line.flush()?;
        self.said.extend_from_slice(&head);
        self.said.extend_from_slice(identity);
        Ok(())
    }

    fn read_proof(&mut self, line: &mut impl Read, role: Role) -> Result<(Verdict, Identity), HandshakeError> {
        let head = read_exactly::<PROOF>(line)?;
        let verdict = match head[0] {
            0 => Verdict::Welcome,
            1 => return Err(HandshakeError::Secret),
            2 => Verdict::Duplicate,
            _ => return Err(HandshakeError::Stranger),
        };
        let length = u32::from_be_bytes([head[PROOF - 4], head[PROOF - 3], head[PROOF - 2], head[PROOF - 1]]) as usize;
        if length > MAX_IDENTITY {
            return Err(HandshakeError::Stranger);
        }
        let mut identity = vec![0; length];
        line.read_exact(&mut identity)?;
        let expected = self.mac(role, verdict, &identity);
        if !bool::from(expected.ct_eq(&head[1..=MAC])) {
            return Err(HandshakeError::Secret);
        }
        self.said.extend_from_slice(&head);
        self.said.extend_from_slice(&identity);
        // Signed and still not readable: of another build.
        let advice = "it says what it is in a form that this one does not know: run the same version on all hosts";
        let identity = Identity::decode(&identity).ok_or_else(|| HandshakeError::Mismatch(advice.to_owned()))?;
        Ok((verdict, identity))
    }
}

fn read_exactly<const N: usize>(line: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    line.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The side that dials. Returns when the other one has proved what it is and goes together with this one.
pub(super) fn dial(
    line: &mut (impl Read + Write),
    secret: &Secret,
    caller: Caller,
    own: &Identity,
) -> Result<(), HandshakeError> {
    let hello = encode_hello(&caller, &random()?);
    line.write_all(&hello)?;
    line.flush()?;
    let challenge = read_exactly::<CHALLENGE>(line)?;
    check_protocol(&challenge)?;
    let mut transcript = Transcript { secret, said: [&hello[..], &challenge].concat() };
    transcript.send_proof(line, Role::Dials, Verdict::Welcome, &own.encode())?;
    let (verdict, other) = transcript.read_proof(line, Role::Answers)?;
    if verdict == Verdict::Duplicate {
        return Err(HandshakeError::Duplicate(caller.from));
    }
    fits(own, &other, caller.to)
}

/// The side that answers. `admit` says whether there is room for this caller, once it has proved what it is.
pub(super) fn answer(
    line: &mut (impl Read + Write),
    secret: &Secret,
    own: &Identity,
    admit: impl FnOnce(&Caller) -> bool,
) -> Result<Caller, HandshakeError> {
    let hello = read_exactly::<HELLO>(line)?;
    let caller = decode_hello(&hello);
    if let Err(HandshakeError::Stranger) = caller {
        return Err(HandshakeError::Stranger);
    }
    // Whoever is of another time learns that from ours.
    let challenge = encode_challenge(&random()?);
    line.write_all(&challenge)?;
    line.flush()?;
    let caller = caller?;
    let mut transcript = Transcript { secret, said: [&hello[..], &challenge].concat() };
    let other = match transcript.read_proof(line, Role::Dials) {
        Ok((_, other)) => other,
        Err(error) => {
            if let HandshakeError::Secret = error {
                transcript.send_proof(line, Role::Answers, Verdict::WrongSecret, &[])?;
            }
            return Err(error);
        }
    };
    let fits = fits(own, &other, caller.from).and_then(|()| match caller.to == own.process {
        true => Ok(()),
        false => Err(HandshakeError::Mismatch(wrong_number(caller.to, own.process))),
    });
    // Who does not fit is told what this is all the same, and says by itself what differs.
    let verdict = if fits.is_err() || admit(&caller) { Verdict::Welcome } else { Verdict::Duplicate };
    transcript.send_proof(line, Role::Answers, verdict, &own.encode())?;
    fits?;
    match verdict {
        Verdict::Duplicate => Err(HandshakeError::Duplicate(caller.from)),
        _ => Ok(caller),
    }
}

/// Whether the two go together, and `other` has the number it is taken to have.
fn fits(own: &Identity, other: &Identity, number: u16) -> Result<(), HandshakeError> {
    if let Some(difference) = own.difference(other) {
        return Err(HandshakeError::Mismatch(difference));
    }
    if other.process != number {
        return Err(HandshakeError::Mismatch(wrong_number(number, other.process)));
    }
    if other.process == own.process {
        return Err(HandshakeError::Duplicate(own.process));
    }
    Ok(())
}

fn wrong_number(expected: u16, found: u16) -> String {
    let advice = "the lists of hosts differ in their order, or a number (-p) is given twice";
    format!("expected process {expected} there, found process {found}: {advice}")
}

/// A connection on which everything has to be over by a time, however slowly bytes come.
pub(super) struct Limited<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Limited<'a> {
    pub fn new(stream: &'a TcpStream, limit: Duration) -> Self {
        Self { stream, deadline: Instant::now() + limit }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long to say what it is")),
            false => Ok(Some(left)),
        }
    }
}

/// A time limit of a socket that ran out is `WouldBlock`, which nobody would understand.
fn spoken(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it closed the connection"),
        _ => error,
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(spoken)
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer).map_err(spoken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::units::Span;

    fn identity(process: usize, change: impl FnOnce(&mut Config)) -> Identity {
        let mut config = Config::default();
        (config.cluster.processes, config.cluster.process) = (3, process);
        change(&mut config);
        Identity::new(&config, "")
    }

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    type Ends = (Result<(), HandshakeError>, Result<Caller, HandshakeError>);

    fn meet(dials: (&str, Identity), answers: (&str, Identity), to: u16, admit: bool) -> Ends {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        let caller = Caller { purpose: Purpose::Control, from: dials.1.process, to, start: 7 };
        std::thread::scope(|scope| {
            let answering = scope.spawn(move || answer(&mut far, &secret(answers.0), &answers.1, |_| admit));
            let dialled = dial(&mut near, &secret(dials.0), caller, &dials.1);
            drop(near);
            (dialled, answering.join().unwrap())
        })
    }

    #[test]
    fn two_that_go_together_meet() {
        let (dialled, answered) = meet(("s", identity(1, |_| {})), ("s", identity(0, |_| {})), 0, true);
        dialled.unwrap();
        let caller = answered.unwrap();
        assert_eq!((caller.from, caller.to, caller.start, caller.purpose), (1, 0, 7, Purpose::Control));
    }

    #[test]
    fn another_secret_is_refused_on_both_sides() {
        for (one, other) in [("s", "t"), ("", "t"), ("s", "")] {
            let (dialled, answered) = meet((one, identity(1, |_| {})), (other, identity(0, |_| {})), 0, true);
            assert!(matches!(dialled, Err(HandshakeError::Secret)), "{dialled:?}");
            assert!(matches!(answered, Err(HandshakeError::Secret)), "{answered:?}");
        }
    }

    #[test]
    fn what_differs_is_known_on_both_sides() {
        let other = identity(0, |config| config.time.tick = Span::from_secs(2));
        let (dialled, answered) = meet(("s", identity(1, |_| {})), ("s", other), 0, true);
        assert!(dialled.unwrap_err().to_string().contains("[time]"));
        assert!(answered.unwrap_err().to_string().contains("[time]"));
    }

    #[test]
    fn numbers_that_are_taken_or_wrong_are_named_on_both_sides() {
        let (dialled, answered) = meet(("s", identity(1, |_| {})), ("s", identity(0, |_| {})), 0, false);
        assert!(matches!(dialled, Err(HandshakeError::Duplicate(1))), "{dialled:?}");
        assert!(matches!(answered, Err(HandshakeError::Duplicate(1))), "{answered:?}");
        let (dialled, answered) = meet(("s", identity(1, |_| {})), ("s", identity(2, |_| {})), 0, true);
        assert!(dialled.unwrap_err().to_string().contains("expected process 0 there, found process 2"));
        assert!(answered.unwrap_err().to_string().contains("expected process 0 there, found process 2"));
    }

    /// What one side of a good handshake says, to be said again.
    struct Recorder {
        line: UnixStream,
        said: Vec<u8>,
    }

    impl Read for Recorder {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.line.read(buffer)
        }
    }

    impl Write for Recorder {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            let written = self.line.write(buffer)?;
            self.said.extend_from_slice(&buffer[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_said_once_opens_no_second_connection() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || answer(&mut far, &secret("s"), &identity(0, |_| {}), |_| true));
        let caller = Caller { purpose: Purpose::Data, from: 1, to: 0, start: 7 };
        let mut near = Recorder { line: near, said: Vec::new() };
        dial(&mut near, &secret("s"), caller, &identity(1, |_| {})).unwrap();
        answering.join().unwrap().unwrap();
        let mut again = Script { says: near.said, at: 0 };
        let answered = answer(&mut again, &secret("s"), &identity(0, |_| {}), |_| true);
        assert!(matches!(answered, Err(HandshakeError::Secret)), "{answered:?}");
    }

    /// Says what it was told to, whatever it hears.
    struct Script {
        says: Vec<u8>,
        at: usize,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = (&self.says[self.at..]).read(buffer)?;
            self.at += read;
            Ok(read)
        }
    }

    impl Write for Script {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_not_believed() {
        let caller = Caller { purpose: Purpose::Data, from: 1, to: 0, start: 7 };
        let mut says = encode_hello(&caller, &[0; NONCE]).to_vec();
        says.push(0);
        says.extend([0; MAC]);
        says.extend(u32::MAX.to_be_bytes());
        let mut script = Script { says, at: 0 };
        let answered = answer(&mut script, &secret("s"), &identity(0, |_| {}), |_| true);
        assert!(matches!(answered, Err(HandshakeError::Stranger)), "{answered:?}");
    }

    proptest! {
        /// The secret is not among the bytes, so nobody gets in; and no more is read than a handshake has.
        #[test]
        fn any_bytes_are_refused(
            prefix in 0..=HELLO,
            bytes in proptest::collection::vec(any::<u8>(), 0..40_000),
        ) {
            let caller = Caller { purpose: Purpose::Data, from: 1, to: 0, start: 7 };
            let mut says = encode_hello(&caller, &[0; NONCE])[..prefix].to_vec();
            says.extend(&bytes);
            let mut script = Script { says, at: 0 };
            let answered = answer(&mut script, &secret("s"), &identity(0, |_| {}), |_| true);
            prop_assert!(answered.is_err());
            prop_assert!(script.at <= HELLO + PROOF + MAX_IDENTITY);
            let mut says = encode_challenge(&[0; NONCE])[..prefix.min(CHALLENGE)].to_vec();
            says.extend(bytes);
            let mut script = Script { says, at: 0 };
            let dialled = dial(&mut script, &secret("s"), caller, &identity(1, |_| {}));
            prop_assert!(dialled.is_err());
            prop_assert!(script.at <= CHALLENGE + PROOF + MAX_IDENTITY);
        }
    }
}
