//! The hash that names first cuts and patterns. It never changes: ids are in stored documents.
//!
//! [`stable_hash`] takes the bytes eight at a time as little-endian words, the last word filled up with zeros. Each
//! word is mixed in with `h = fold((h ^ word) * 0x9E37_79B9_7F4A_7C15)`, where `fold` is the exclusive or of the upper
//! and the lower half of the 128-bit product. It begins with `0xA076_1D64_78BD_642F` exclusive-or the length, and ends
//! with one more such step with the factor `0xE703_7ED1_A0B4_28DB`.

const SEED: u64 = 0xA076_1D64_78BD_642F;
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const LAST: u64 = 0xE703_7ED1_A0B4_28DB;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// The hash of these bytes, the same on every machine and in every version.
#[inline]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), STEP);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = fold(hash ^ u64::from_le_bytes(word), STEP);
    }
    fold(hash ^ STEP, LAST)
}
