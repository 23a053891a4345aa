//! How a file is known: by a hash of its first bytes, so that it stays the same log when it is renamed, copied or
//! compressed.

use std::fmt;

/// The most bytes that are hashed: a first line longer than this is known by its first bytes.
pub const MAX_BYTES: usize = 4096;

/// A hash of the first lines of a file, uncompressed. Stable for ever: it is part of document ids and checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// The length of the part of `head` that identifies the file: its first `lines` lines with their line feeds, or
    /// [`MAX_BYTES`] where those are longer. `None` if the file must grow before it can be known, so that what is
    /// hashed is never hashed too early.
    pub fn length(head: &[u8], lines: usize) -> Option<usize> {
        let window = &head[..head.len().min(MAX_BYTES)];
        match memchr::memchr_iter(b'\n', window).nth(lines.max(1) - 1) {
            Some(at) => Some(at + 1),
            None => (head.len() >= MAX_BYTES).then_some(MAX_BYTES),
        }
    }

    /// The hash (FNV-1a, 128 bits) of the identifying part.
    pub fn of(identifying: &[u8]) -> Self {
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        Self(identifying.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME)))
    }

    /// A worker's share among `peers` for files that join while running: the same in every process, whatever the
    /// order they were found in.
    pub fn share(self, peers: usize) -> usize {
        (self.0 % peers as u128) as usize
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_lines_however_much_follows() {
        assert_eq!(Fingerprint::length(b"", 1), None);
        assert_eq!(Fingerprint::length(b"no end yet", 1), None);
        assert_eq!(Fingerprint::length(b"one\ntwo\nthr", 1), Some(4));
        assert_eq!(Fingerprint::length(b"one\ntwo\nthr", 2), Some(8));
        assert_eq!(Fingerprint::length(b"one\ntwo\nthr", 3), None);
        let long = vec![b'x'; MAX_BYTES];
        assert_eq!(Fingerprint::length(&long[1..], 1), None);
        assert_eq!(Fingerprint::length(&long, 1), Some(MAX_BYTES));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(Fingerprint::of(b"").to_string(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Fingerprint::of(b"foobar").to_string(), "343e1662793c64bf6f0d3597ba446f18");
    }
}
