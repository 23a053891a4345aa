//! A data connection as timely reads and writes it.
//!
//! Timely's threads panic when a connection ends, and take it for an end in good order only after a last header. Here
//! the control connection decides which of the two it is: an end is passed on once the peer's workers are through;
//! otherwise the peer is lost, the run ends by that, and the thread stays where it is, out of the way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use timely::communication::allocator::zero_copy::stream::Stream;

use super::link::Links;

/// A data connection.
pub(super) struct DataStream {
    stream: TcpStream,
    peer: usize,
    links: Arc<Links>,
}

impl DataStream {
    pub fn new(stream: TcpStream, peer: usize, links: Arc<Links>) -> Self {
        Self { stream, peer, links }
    }

    /// Does not return: the process ends without this thread.
    fn lose(&self, why: &str) -> ! {
        self.links.lose(self.peer, &format!("its data connection: {why}"));
        loop {
            std::thread::park();
        }
    }
}

impl Read for DataStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let why = match self.stream.read(buffer) {
                Ok(0) => "it was closed".to_owned(),
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error.to_string(),
            };
            if self.links.is_done(self.peer) {
                return Ok(0);
            }
            self.lose(&why);
        }
    }
}

impl Write for DataStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lose(&error.to_string()),
                Ok(0) => self.lose("it takes no more"),
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for DataStream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()?, peer: self.peer, links: self.links.clone() })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // A peer that has everything may be gone already.
        match self.stream.shutdown(how) {
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}
