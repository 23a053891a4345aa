//! What an exchange between processes costs: `bincode` (which timely uses), `columnar` and `abomonation` on the updates
//! that the windows exchange, batches of 1,000 as one activation sends them.
//!
//! `abomonation` stands here for comparison only and nowhere else: it makes references out of received bytes without
//! looking at them, which is unsound on bytes from outside (RUSTSEC-2021-0120).
//!
//! `cargo bench --bench codec`
// Its derive expands to `unsafe` implementations, and so do its two functions.
#![allow(unsafe_code, non_local_definitions)]

use std::hint::black_box;

use abomonation_derive::Abomonation;
use columnar::bytes::indexed;
use columnar::{Borrow, BorrowedOf, Clear, Columnar, FromBytes, Index, Len, Push};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use floodmark_dataflows::aggregate::Aggregate;
use floodmark_dataflows::histogram::{Histogram, bucket_of};
use floodmark_dataflows::view::Key;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// As the windows exchange it: ((view, pane), key), tick, aggregate.
type Update = (((u16, u64), Key), u64, Aggregate);

/// The same with plain types, for the codecs that know neither shared text nor our types.
#[derive(Clone, Debug, PartialEq, Abomonation, Columnar)]
struct Mirror {
    view: u16,
    pane: u64,
    key: String,
    time: u64,
    levels: [i64; 7],
    status: [i64; 5],
    anomalies: i64,
    response_sum_us: i64,
    response: Vec<u64>,
    response_min_us: u64,
    response_max_us: u64,
    first_ms: u64,
    last_ms: u64,
    max_severity: u8,
}

const BATCH: usize = 1_000;

fn updates() -> Vec<Update> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    (0..BATCH as u64)
        .map(|i| {
            let start = 1_700_000_000_000 + i / 20 * 1_000;
            let mut buckets: Vec<u16> = (0..50).map(|_| bucket_of(rng.random_range(1_000..400_000))).collect();
            let aggregate = Aggregate {
                levels: [0, 2, 41, 4, 3, 0, 0],
                status: [0, 40, 3, 4, 3],
                anomalies: 7,
                response_sum_us: rng.random_range(1_000_000..20_000_000),
                response: Histogram::from_unsorted(&mut buckets),
                response_min_us: 1_000,
                response_max_us: 400_000,
                first_ms: start,
                last_ms: start + 999,
                max_severity: 100,
                ..Aggregate::default()
            };
            (((0, start), Key(format!("service-{:02}", i % 20).into())), start / 1_000, aggregate)
        })
        .collect()
}

fn mirror((((view, pane), key), time, aggregate): &Update) -> Mirror {
    Mirror {
        view: *view,
        pane: *pane,
        key: key.to_string(),
        time: *time,
        levels: aggregate.levels,
        status: aggregate.status,
        anomalies: aggregate.anomalies,
        response_sum_us: aggregate.response_sum_us,
        response: aggregate.response.iter().map(|(bucket, count)| u64::from(bucket) << 48 | count as u64).collect(),
        response_min_us: aggregate.response_min_us,
        response_max_us: aggregate.response_max_us,
        first_ms: aggregate.first_ms,
        last_ms: aggregate.last_ms,
        max_severity: aggregate.max_severity,
    }
}

fn bench(c: &mut Criterion) {
    let updates = updates();
    let mirrors: Vec<Mirror> = updates.iter().map(mirror).collect();
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(BATCH as u64));

    let mut bytes = Vec::new();
    bincode::serialize_into(&mut bytes, &updates).expect("to memory");
    eprintln!("bincode: {} bytes an update", bytes.len() / BATCH);
    group.bench_function("bincode, encode", |b| {
        b.iter(|| {
            bytes.clear();
            bincode::serialize_into(&mut bytes, &updates).expect("to memory");
            black_box(bytes.len())
        });
    });
    group.bench_function("bincode, decode", |b| {
        b.iter(|| black_box(bincode::deserialize::<Vec<Update>>(&bytes).expect("our own bytes")));
    });

    let mut container = <Mirror as Columnar>::Container::default();
    let mut words = Vec::new();
    let mut encode = |words: &mut Vec<u64>| {
        container.clear();
        mirrors.iter().for_each(|update| container.push(update));
        words.clear();
        indexed::encode(words, &container.borrow());
    };
    encode(&mut words);
    eprintln!("columnar: {} bytes an update", words.len() * 8 / BATCH);
    group.bench_function("columnar, encode", |b| {
        b.iter(|| {
            encode(&mut words);
            black_box(words.len())
        });
    });
    // The arrangement behind the exchange keeps owned updates, so they are made here as well.
    group.bench_function("columnar, decode to owned", |b| {
        b.iter(|| {
            let borrowed = BorrowedOf::<'_, Mirror>::from_bytes(&mut indexed::decode(&words));
            let owned: Vec<Mirror> = (0..borrowed.len()).map(|i| Columnar::into_owned(borrowed.get(i))).collect();
            black_box(owned)
        });
    });

    let mut bytes = Vec::new();
    // SAFETY: encoding copies memory that we own; its padding is never looked at.
    unsafe { abomonation::encode(&mirrors, &mut bytes) }.expect("to memory");
    eprintln!("abomonation: {} bytes an update", bytes.len() / BATCH);
    group.bench_function("abomonation, encode", |b| {
        b.iter(|| {
            bytes.clear();
            // SAFETY: as above.
            unsafe { abomonation::encode(&mirrors, &mut bytes) }.expect("to memory");
            black_box(bytes.len())
        });
    });
    group.bench_function("abomonation, decode to owned", |b| {
        b.iter(|| {
            // SAFETY: the bytes were encoded above, by this program, from the same type.
            let (decoded, _) = unsafe { abomonation::decode::<Vec<Mirror>>(&mut bytes) }.expect("our own bytes");
            black_box(decoded.clone())
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = bench
}
criterion_main!(benches);
