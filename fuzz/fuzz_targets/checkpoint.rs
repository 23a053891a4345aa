//! Any bytes as a file of a checkpoint: its contents, or what is wrong with it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = floodmark::checkpoint::format::read(bytes);
});
