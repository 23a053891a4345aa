//! Any bytes as a record, in each format: a record whose document is JSON, or a dead letter with a short reason.

#![no_main]

use floodmark_dataflows::decode::{Decoder, Format, Preset, RecordsConfig, Schema};
use floodmark_dataflows::document::write_document;
use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::rules::{Rules, RulesConfig};
use libfuzzer_sys::fuzz_target;

const PRESETS: [Preset; 7] =
    [Preset::Default, Preset::Ecs, Preset::Otel, Preset::Pino, Preset::Zerolog, Preset::Logrus, Preset::Log4j];

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, raw)) = bytes.split_first() else { return };
    let config = match PRESETS.get(usize::from(choice)) {
        Some(&preset) => RecordsConfig { preset, ..RecordsConfig::default() },
        None => RecordsConfig { format: Format::AccessLog, ..RecordsConfig::default() },
    };
    let mut schema = Schema::new(&config).expect("a schema");
    let rules = Rules::compile(&RulesConfig::default(), &mut schema).expect("rules");
    let mut decoder = Decoder::new(schema);
    // Twice: what was learnt from the first must change nothing.
    for _ in 0..2 {
        match decoder.decode(raw) {
            Ok(record) => {
                let info = PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: 0 };
                let at = RawRecord { offset: 1, bytes: raw, appended_ms: None, redriven_from: None };
                let mut document = Vec::new();
                write_document(&mut document, &info, at, &record, rules.judge(&record), &rules);
                let parsed = serde_json::from_slice::<serde_json::Value>(&document);
                // Numbers that no 64-bit float holds are passed on as they are.
                assert!(parsed.is_ok() || parsed.is_err_and(|e| e.to_string().contains("out of range")));
                assert!(!document.contains(&b'\n'));
            }
            Err(error) => assert!(error.detail.len() < 500, "{}", error.detail),
        }
    }
});
