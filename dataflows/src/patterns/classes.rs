//! What kind of byte it is: the table that the scanners go by.

/// Ends a word: white space and control bytes.
pub const SPACE: u8 = 1;
/// Ends a word: brackets, quotes, `:`, `=`, `,` and the like.
pub const PUNCTUATION: u8 = 2;
/// `0` to `9`.
pub const DIGIT: u8 = 4;
/// `a` to `f`, in either case.
pub const HEX_LETTER: u8 = 8;
/// Any other letter, and every byte that is not ASCII.
pub const OTHER_LETTER: u8 = 16;
/// `/`, `\` and `@`: in a word with a digit they tell a path, a date or an address.
pub const SLASH: u8 = 32;
/// `.`
pub const DOT: u8 = 64;
/// `-`, `_` and other bytes that join parts of a word.
pub const JOINER: u8 = 128;

/// Ends a word.
pub const STOP: u8 = SPACE | PUNCTUATION;
/// Any letter.
pub const LETTER: u8 = HEX_LETTER | OTHER_LETTER;

/// The class of each byte.
pub static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [PUNCTUATION; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'a'..=b'f' | b'A'..=b'F' => HEX_LETTER,
            b'g'..=b'z' | b'G'..=b'Z' | 0x80..=0xff => OTHER_LETTER,
            0..=b' ' | 0x7f => SPACE,
            b'/' | b'\\' | b'@' => SLASH,
            b'.' => DOT,
            b'-' | b'_' | b'+' | b'$' | b'%' | b'~' => JOINER,
            _ => PUNCTUATION,
        };
        byte += 1;
    }
    table
}

/// The class of a byte.
#[inline]
pub fn class(byte: u8) -> u8 {
    CLASS[byte as usize]
}
