//! Scores log records without running anything: JSON lines on standard input, documents on standard output.
//!
//! `floodmark generate --out logs --records 1000 && cargo run --example score < logs/part-0.jsonl`

use std::io::{BufRead, Write, stdin, stdout};

use floodmark::config::Config;
use floodmark_dataflows::decode::Decoder;
use floodmark_dataflows::document::write_document;
use floodmark_dataflows::input::{PartitionInfo, RawRecord};

fn main() -> anyhow::Result<()> {
    let compiled = Config::default().compile().map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let mut decoder = Decoder::new(compiled.schema);
    let partition = PartitionInfo { topic: "stdin".into(), identity: "stdin".into(), number: 0 };
    let mut out = Vec::new();
    for (offset, line) in (0..).zip(stdin().lock().split(b'\n')) {
        let line = line?;
        match decoder.decode(&line) {
            Ok(record) => {
                let verdict = compiled.rules.judge(&record);
                let raw = RawRecord { offset, bytes: &line, appended_ms: None, redriven_from: None };
                out.clear();
                write_document(&mut out, &partition, raw, &record, verdict, &compiled.rules);
                out.push(b'\n');
                stdout().write_all(&out)?;
            }
            Err(error) => eprintln!("line {}: {}: {}", offset + 1, error.reason.name(), error.detail),
        }
    }
    Ok(())
}
