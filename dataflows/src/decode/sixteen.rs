//! Sixteen bytes of text at a time.
//!
//! The one place of this crate with `unsafe`: SSE2 instructions are part of every x86-64, but the compiler asks for
//! `unsafe` to call a function that names them. No pointers are involved.
#![allow(unsafe_code)]

/// Which of the bytes end plain text in JSON (a quote, a backslash or a control character), one bit each.
#[inline(always)]
pub(crate) fn specials(bytes: [u8; 16]) -> u32 {
    // SAFETY: this module is compiled for x86-64 only, whose baseline has SSE2.
    unsafe { specials_sse2(bytes) }
}

#[target_feature(enable = "sse2")]
#[inline]
fn specials_sse2(bytes: [u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let both = u128::from_le_bytes(bytes);
    let text = _mm_set_epi64x((both >> 64) as i64, both as i64);
    let quotes = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'"' as i8));
    let backslashes = _mm_cmpeq_epi8(text, _mm_set1_epi8(b'\\' as i8));
    let controls = _mm_cmpeq_epi8(_mm_min_epu8(text, _mm_set1_epi8(0x1f)), text);
    _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, backslashes), controls)) as u32
}
