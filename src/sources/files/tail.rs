//! One file, cut into blocks of whole lines.
//!
//! In: a [`Stream`]. Out: [`Block`]s with their byte positions, and what ended the reading. Memory is bounded: a block,
//! the beginning of the line at its end, and for a line longer than a block at most `max_record_bytes` of it.

use std::io::{self, Read};

use super::stream::Stream;

/// Whole lines, one after the other.
#[derive(Debug)]
pub struct Block {
    /// The lines. Bytes from `length` on are left over from earlier use.
    pub bytes: Vec<u8>,
    /// How many of the bytes are lines.
    pub length: usize,
    /// Position of the first line in the file.
    pub offset: u64,
    /// Position behind the last line. Where a line was too long to keep, this is not `offset + length`.
    pub next_offset: u64,
}

/// What reading on gave.
#[derive(Debug)]
pub enum Step {
    /// Lines.
    Block(Block),
    /// No whole line more for now. The buffer comes back.
    AtEnd(Vec<u8>),
    /// The file was cut, or has other contents now: what was read in this step may not be of the log. The buffer comes
    /// back.
    Replaced(Vec<u8>),
}

/// Sizes that bound a tail's memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes read at once.
    pub block_bytes: usize,
    /// The first bytes of a line that are kept: one more than the longest record allowed, so that a line that is too
    /// long shows as such.
    pub line_bytes: usize,
}

/// Reads one file from front to back.
pub struct Tail {
    stream: Stream,
    limits: Limits,
    /// The beginning of the line at `offset`, whose end has not been read.
    partial: Vec<u8>,
    /// Bytes of that line that were read but not kept.
    dropped: u64,
    /// Position of the line to deliver next.
    offset: u64,
    /// The identifying first bytes; while they are unchanged, the file is what it was. Empty to not look.
    head: Vec<u8>,
    scratch: Vec<u8>,
}

impl Tail {
    /// Reads `stream` from `offset` on. With a `head`, it is compared after each read with the file's first bytes, to
    /// notice when the file was cut and written anew.
    pub fn new(mut stream: Stream, offset: u64, head: Vec<u8>, limits: Limits) -> io::Result<Self> {
        stream.skip_to(offset)?;
        let head = if stream.is_compressed() { Vec::new() } else { head };
        let scratch = vec![0; head.len()];
        Ok(Self { stream, limits, partial: Vec::new(), dropped: 0, offset, head, scratch })
    }

    /// Position of the line to deliver next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Position up to which was read.
    pub fn position(&self) -> u64 {
        self.offset + self.partial.len() as u64 + self.dropped
    }

    /// The open file.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Reads the next lines into `buffer`.
    pub fn step(&mut self, mut buffer: Vec<u8>) -> io::Result<Step> {
        let mut kept = self.partial.len();
        let capacity = self.limits.block_bytes.max(kept + self.limits.block_bytes / 2);
        if buffer.len() < capacity {
            buffer.resize(capacity, 0);
        }
        buffer[..kept].copy_from_slice(&self.partial);
        let mut dropped = self.dropped;
        // Up to here there is no line feed. What is kept may hold whole lines that came behind one that was too long.
        let mut searched = 0;
        loop {
            let (length, at_end) = self.fill(&mut buffer, kept)?;
            if !self.is_unchanged(at_end, self.position() + (length - kept) as u64)? {
                return Ok(Step::Replaced(buffer));
            }
            if dropped > 0 || (length > self.limits.line_bytes && !buffer[searched..length].contains(&b'\n')) {
                // Within a line that is too long: its first bytes stay, the others are read over.
                let line_bytes = self.limits.line_bytes.min(if dropped > 0 { kept } else { length });
                match memchr::memchr(b'\n', &buffer[searched..length]) {
                    Some(at) => {
                        let behind = searched + at + 1;
                        let next_offset = self.offset + dropped + behind as u64;
                        self.partial.clear();
                        self.partial.extend_from_slice(&buffer[behind..length]);
                        return Ok(Step::Block(self.deliver(buffer, line_bytes, next_offset)));
                    }
                    None => {
                        dropped += (length - line_bytes) as u64;
                        (kept, searched) = (line_bytes, line_bytes);
                        self.dropped = dropped;
                        self.partial.clear();
                        self.partial.extend_from_slice(&buffer[..kept]);
                        if at_end {
                            return Ok(Step::AtEnd(buffer));
                        }
                        continue;
                    }
                }
            }
            if let Some(at) = memchr::memrchr(b'\n', &buffer[searched..length]) {
                let whole = searched + at + 1;
                self.partial.clear();
                self.partial.extend_from_slice(&buffer[whole..length]);
                let next_offset = self.offset + whole as u64;
                return Ok(Step::Block(self.deliver(buffer, whole, next_offset)));
            }
            self.partial.clear();
            self.partial.extend_from_slice(&buffer[..length]);
            if at_end {
                return Ok(Step::AtEnd(buffer));
            }
            (kept, searched) = (length, length);
            buffer.resize(length + self.limits.block_bytes, 0);
        }
    }

    /// The line at the end that has no line feed, if there is one. For when nothing more will come.
    pub fn last_line(&mut self, mut buffer: Vec<u8>) -> Option<Block> {
        let length = self.partial.len();
        if length == 0 {
            return None;
        }
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        buffer[..length].copy_from_slice(&self.partial);
        let next_offset = self.position();
        self.partial.clear();
        Some(self.deliver(buffer, length, next_offset))
    }

    fn deliver(&mut self, bytes: Vec<u8>, length: usize, next_offset: u64) -> Block {
        let offset = std::mem::replace(&mut self.offset, next_offset);
        self.dropped = 0;
        Block { bytes, length, offset, next_offset }
    }

    /// Fills `buffer` from `start` on. Returns where the bytes end, and whether the file does too.
    fn fill(&mut self, buffer: &mut [u8], start: usize) -> io::Result<(usize, bool)> {
        let mut length = start;
        while length < buffer.len() {
            match self.stream.read(&mut buffer[length..]) {
                Ok(0) => return Ok((length, true)),
                Ok(n) => length += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((length, false))
    }

    /// Whether what was read up to `position` is of the file that it was. Looking after the read is what makes it
    /// sure: a file that still has its head then had it during the read.
    fn is_unchanged(&mut self, at_end: bool, position: u64) -> io::Result<bool> {
        if self.head.is_empty() {
            return Ok(true);
        }
        let length = self.stream.head(&mut self.scratch)?;
        Ok(length == self.head.len()
            && self.scratch == self.head
            && (!at_end || self.stream.metadata()?.len() >= position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(bytes: &[u8], limits: Limits) -> (tempfile::TempDir, Tail) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        (dir, Tail::new(Stream::open(&path).unwrap(), 0, Vec::new(), limits).unwrap())
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_allowed() {
        let limits = Limits { block_bytes: 4096, line_bytes: 10_001 };
        let mut text = vec![b'x'; 20_000_000];
        text.extend_from_slice(b"\nnext\n");
        let (_dir, mut tail) = tail(&text, limits);
        let Step::Block(block) = tail.step(Vec::new()).unwrap() else { panic!("no block") };
        assert_eq!((block.offset, block.next_offset, block.length), (0, 20_000_001, 10_001));
        assert!(block.bytes.len() <= limits.line_bytes + 2 * limits.block_bytes, "{} bytes", block.bytes.len());
        let Step::Block(block) = tail.step(block.bytes).unwrap() else { panic!("no block") };
        assert_eq!(&block.bytes[..block.length], b"next\n");
        assert!(matches!(tail.step(block.bytes).unwrap(), Step::AtEnd(_)));
        assert!(tail.last_line(Vec::new()).is_none());
    }

    /// Against cutting the whole text at its line feeds, for blocks, lines and limits of random sizes.
    #[test]
    fn blocks_hold_the_same_lines_as_the_text() {
        use rand::{RngExt, SeedableRng};
        for seed in 1..=200 {
            let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
            let limits = Limits { block_bytes: random.random_range(8..200), line_bytes: random.random_range(1..300) };
            let mut text = Vec::new();
            for i in 0..random.random_range(0..50) {
                text.extend(std::iter::repeat_n(b'a' + i % 26, random.random_range(0..400)));
                text.push(b'\n');
            }
            text.extend(std::iter::repeat_n(b'!', random.random_range(0..100)));
            let (_dir, mut tail) = tail(&text, limits);
            let (mut buffer, mut position, mut ended) = (Vec::new(), 0, false);
            while !ended {
                let block = match tail.step(buffer).unwrap() {
                    Step::Block(block) => block,
                    Step::AtEnd(rest) => {
                        ended = true;
                        match tail.last_line(rest) {
                            Some(block) => block,
                            None => break,
                        }
                    }
                    Step::Replaced(_) => panic!("seed {seed}: replaced"),
                };
                let (from, to) = (block.offset as usize, block.next_offset as usize);
                assert_eq!(from, position, "seed {seed}");
                let (got, expected) = (&block.bytes[..block.length], &text[from..to]);
                if got.len() == expected.len() {
                    assert_eq!(got, expected, "seed {seed}");
                } else {
                    assert_eq!(got, &expected[..limits.line_bytes], "seed {seed}");
                    assert!(!expected[..expected.len() - 1].contains(&b'\n'), "seed {seed}: one line");
                }
                position = to;
                buffer = block.bytes;
            }
            assert_eq!(position, text.len(), "seed {seed}");
        }
    }
}
