//! Decoding of JSON records of about 350 bytes: our decoder against the parsers it was chosen over.
//!
//! All read the same records and touch the fields that windows and rules need. `sonic-rs` and `simd-json` fill a struct
//! by a derived deserialiser that borrows text; they check neither types that rules do not need nor ranges, so they are
//! a floor for what a general parser costs. `simd-json` parses in place, so its figure includes the copy that keeps the
//! raw bytes.
//!
//! `cargo bench --bench decode`

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use floodmark_dataflows::decode::{Decoder, RecordsConfig, Schema};
use floodmark_dataflows::document::write_document;
use floodmark_dataflows::input::{PartitionInfo, RawRecord};
use floodmark_dataflows::record::Level;
use floodmark_dataflows::rules::{Rules, RulesConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

const RECORDS: usize = 10_000;

/// What windows and rules need of a record.
#[derive(Deserialize)]
struct Needed<'a> {
    timestamp: u64,
    #[serde(borrow)]
    service_name: Cow<'a, str>,
    #[serde(borrow)]
    level: Cow<'a, str>,
    status_code: Option<u16>,
    response_time_ms: Option<f64>,
    #[serde(borrow)]
    error_code: Option<Cow<'a, str>>,
}

fn records() -> Vec<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    (0..RECORDS)
        .map(|i| {
            let status = [200, 200, 200, 201, 204, 302, 404, 503][rng.random_range(0..8)];
            let (level, error_code) = match status {
                503 => ("ERROR", "\"UPSTREAM_TIMEOUT\""),
                404 => ("WARN", "null"),
                _ => ("INFO", "null"),
            };
            format!(
                concat!(
                    r#"{{"timestamp":{},"service_name":"service-{:02}","level":"{}","#,
                    r#""message":"Handled request for order {} in region eu-west-{}","request_id":"req-{:016x}","#,
                    r#""user_id":"user-{}","path":"/api/v1/orders/{}","method":"{}","status_code":{},"#,
                    r#""response_time_ms":{:.3},"error_code":{},"tags":["web","blue"],"host":"node-{:03}.example"}}"#
                ),
                1_700_000_000_000_u64 + i as u64,
                rng.random_range(0..20),
                level,
                rng.random_range(0..1_000_000),
                rng.random_range(1..4),
                rng.random::<u64>(),
                rng.random_range(0..100_000),
                rng.random_range(0..1_000_000),
                ["GET", "POST", "PUT"][rng.random_range(0..3)],
                status,
                rng.random_range(1.0..4_000.0),
                error_code,
                rng.random_range(0..50),
            )
            .into_bytes()
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    let records = records();
    let bytes: usize = records.iter().map(Vec::len).sum();
    eprintln!("{RECORDS} records of {} bytes on average", bytes / RECORDS);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(RECORDS as u64));

    group.bench_function("sonic-rs, derived struct", |b| {
        b.iter(|| {
            let mut sum = 0;
            for raw in &records {
                let needed: Needed = sonic_rs::from_slice(raw).expect("valid");
                sum += touch(&needed);
            }
            black_box(sum)
        });
    });

    group.bench_function("simd-json, derived struct", |b| {
        let mut copy = Vec::new();
        let mut buffers = simd_json::Buffers::new(1024);
        b.iter(|| {
            let mut sum = 0;
            for raw in &records {
                copy.clear();
                copy.extend_from_slice(raw);
                let needed: Needed = simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers).expect("valid");
                sum += touch(&needed);
            }
            black_box(sum)
        });
    });

    let mut schema = Schema::new(&RecordsConfig::default()).expect("default");
    let rules = Rules::compile(&RulesConfig::default(), &mut schema).expect("default");
    let mut decoder = Decoder::new(schema);

    group.bench_function("ours", |b| {
        b.iter(|| {
            let mut sum = 0;
            for raw in &records {
                let record = decoder.decode(raw).expect("valid");
                sum += record.timestamp_ms + record.service_name.len() as u64 + record.response_time_us.unwrap_or(0);
                sum += u64::from(record.status_code.unwrap_or(0)) + u64::from(record.level == Level::Error);
            }
            black_box(sum)
        });
    });

    group.bench_function("ours, with rules", |b| {
        b.iter(|| {
            let mut sum = 0;
            for raw in &records {
                let record = decoder.decode(raw).expect("valid");
                sum += record.timestamp_ms + u64::from(rules.judge(&record).severity);
            }
            black_box(sum)
        });
    });

    let partition = PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number: 0 };
    group.bench_function("ours, with rules and document", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            for (offset, raw) in records.iter().enumerate() {
                if offset % 1_000 == 0 {
                    out.clear();
                }
                let record = decoder.decode(raw).expect("valid");
                let raw = RawRecord { offset: offset as u64, bytes: raw, appended_ms: None, redriven_from: None };
                write_document(&mut out, &partition, raw, &record, rules.judge(&record), &rules);
            }
            black_box(out.len())
        });
    });
    group.finish();
}

fn touch(needed: &Needed<'_>) -> u64 {
    let text = needed.service_name.len() + needed.error_code.as_ref().map_or(0, |code| code.len());
    let response = needed.response_time_ms.unwrap_or(0.0) as u64;
    needed.timestamp
        + text as u64
        + response
        + u64::from(needed.level == "ERROR")
        + u64::from(needed.status_code.unwrap_or(0))
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = bench
}
criterion_main!(benches);
