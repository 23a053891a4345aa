//! Any text as a configuration file: a configuration that compiles, or mistakes.

#![no_main]

use floodmark::config::{Config, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("floodmark.toml");
    std::fs::write(&file, text).expect("a file");
    if let Ok(config) = Config::load(&Sources { file: Some(&file), environment: Vec::new(), flags: Vec::new() }) {
        assert!(config.compile().is_ok());
    }
});
