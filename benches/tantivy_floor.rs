//! The embedded store against a bare tantivy loader of the same documents and fields.
//!
//! `cargo bench --bench tantivy_floor [-- DOCUMENTS]` runs both in turn, with one and two indexing threads, and prints
//! documents a second and CPU seconds per million documents, the medians, and their ratios. The bare loader reads the same
//! JSON, adds documents, commits once at the end and waits for its merges; the store commits as it goes, and what is left
//! at the end at once: how long it may wait for more is a matter of delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use floodmark::stores::embedded::{EmbeddedConfig, EmbeddedStore};
use floodmark::stores::{LogBatch, LogEntry, LogQuery, Store};
use floodmark_dataflows::input::PartitionInfo;
use sonic_rs::JsonValueTrait;
use tantivy::schema::{FAST, INDEXED, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, IndexWriter, TantivyDocument};

const ROUNDS: usize = 3;
const BATCH: u64 = 2_500;
const KEYWORDS: [&str; 11] = [
    "service_name",
    "level",
    "severity_level",
    "request_id",
    "user_id",
    "path",
    "method",
    "error_code",
    "tags",
    "host",
    "reasons",
];

fn main() -> anyhow::Result<()> {
    let documents = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(400_000);
    let batches: Vec<Arc<LogBatch>> = (0..documents / BATCH).map(|n| Arc::new(batch(n * BATCH))).collect();
    let count = batches.len() as u64 * BATCH;
    println!("{count} documents of {} bytes", batches[0].bytes.len() as u64 / BATCH);
    for threads in [1, 2] {
        let (mut bare_runs, mut store_runs) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let name = format!("round {round}, {threads} indexing threads");
            bare_runs.push(measured(&format!("{name}, bare "), count, || bare(&batches, threads))?);
            store_runs.push(measured(&format!("{name}, store"), count, || store(&batches, threads))?);
        }
        let (bare, store) = (medians(&bare_runs), medians(&store_runs));
        println!(
            "{threads} indexing threads, medians: bare {:.0}/s, store {:.0}/s; store / bare {:.2} by rate, {:.2} by CPU time",
            bare.0,
            store.0,
            store.0 / bare.0,
            bare.1 / store.1
        );
    }
    Ok(())
}

/// Documents a second, and CPU seconds per million documents.
type Measured = (f64, f64);

fn measured(what: &str, count: u64, run: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<Measured> {
    let (start, cpu) = (Instant::now(), cpu_time());
    let remark = run()?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
    let (rate, per_million) = (count as f64 / wall, cpu / count as f64 * 1e6);
    println!("{what}: {rate:>9.0} documents/s, {per_million:>6.2} CPU-s per million{remark}");
    Ok((rate, per_million))
}

fn medians(runs: &[Measured]) -> Measured {
    let median = |pick: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(|run| run.0), median(|run| run.1))
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    // Linux counts in hundredths of a second.
    Duration::from_millis(ticks * 10)
}

fn anonymous_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

fn batch(first: u64) -> LogBatch {
    let partition = PartitionInfo { topic: "logs_raw".into(), identity: "logs_raw".into(), number: 0 };
    let (mut bytes, mut entries) = (Vec::new(), Vec::new());
    for offset in first..first + BATCH {
        let start = bytes.len();
        let timestamp_ms = 1_700_000_000_000 + offset / 50;
        bytes.extend_from_slice(document(offset, timestamp_ms).as_bytes());
        entries.push(LogEntry { start, end: bytes.len(), offset, timestamp_ms });
        bytes.push(b'\n');
    }
    LogBatch { partition: Arc::new(partition), bytes, entries, next_offset: first + BATCH }
}

fn document(offset: u64, timestamp_ms: u64) -> String {
    // The mixing function of splitmix64: well spread values without a generator.
    let mut h = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let (service, user, page, host) = (h % 20, h % 50_000, h % 300, h % 40);
    let (level, severity, name, reasons) = match h >> 8 & 15 {
        0 => ("ERROR", 100, "CRITICAL", "\"error_level\""),
        1 => ("WARN", 50, "MEDIUM", "\"warn_level\""),
        _ => ("INFO", 0, "INFO", ""),
    };
    let status = if level == "ERROR" { 500 } else { 200 };
    format!(
        concat!(
            r#"{{"timestamp":{},"service_name":"service-{}","level":"{}","message":"GET /api/v1/items/{} finished in "#,
            r#"{} ms for user {}","request_id":"req-{:016x}","user_id":"user-{}","path":"/api/v1/items/{}","#,
            r#""method":"GET","status_code":{},"response_time_ms":{}.5,"tags":["blue","eu-west"],"host":"node-{}","#,
            r#""topic":"logs_raw","partition":0,"offset":{},"severity":{},"severity_level":"{}","anomaly":{},"#,
            r#""reasons":[{}]}}"#
        ),
        timestamp_ms,
        service,
        level,
        page,
        h >> 16 & 511,
        user,
        h,
        user,
        page,
        status,
        h >> 16 & 511,
        host,
        offset,
        severity,
        name,
        severity >= 50,
        reasons
    )
}

fn bare(batches: &[Arc<LogBatch>], threads: usize) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let text = |tokenizer: &str| {
        let indexing = TextFieldIndexing::default().set_tokenizer(tokenizer).set_fieldnorms(false);
        TextOptions::default().set_indexing_options(indexing.set_index_option(IndexRecordOption::Basic))
    };
    let mut builder = Schema::builder();
    let json = builder.add_bytes_field("document", STORED);
    let timestamp = builder.add_u64_field("timestamp", FAST);
    let partition = builder.add_i64_field("partition", FAST);
    let offset = builder.add_u64_field("offset", FAST);
    let source = builder.add_u64_field("source", FAST);
    let topic = builder.add_text_field("topic", text("raw"));
    let message = builder.add_text_field("message", text("default"));
    let status_code = builder.add_u64_field("status_code", INDEXED | FAST);
    let severity = builder.add_u64_field("severity", FAST);
    let anomaly = builder.add_bool_field("anomaly", INDEXED);
    let keywords = KEYWORDS.map(|name| builder.add_text_field(name, text("raw")));
    let index = Index::create_in_dir(directory.path(), builder.build())?;
    let mut writer: IndexWriter = index.writer_with_num_threads(threads, 96 << 20)?;
    for batch in batches {
        for entry in &batch.entries {
            let raw = batch.document(entry);
            let mut document = TantivyDocument::default();
            document.add_bytes(json, raw);
            document.add_u64(timestamp, entry.timestamp_ms);
            document.add_i64(partition, 0);
            document.add_u64(offset, entry.offset);
            document.add_u64(source, 1);
            document.add_text(topic, "logs_raw");
            for member in sonic_rs::to_object_iter(raw) {
                let (name, value) = member?;
                match &*name {
                    "message" => document.add_text(message, value.as_str().unwrap_or_default()),
                    "status_code" => document.add_u64(status_code, value.as_u64().unwrap_or_default()),
                    "severity" => document.add_u64(severity, value.as_u64().unwrap_or_default()),
                    "anomaly" => document.add_bool(anomaly, value.as_bool().unwrap_or_default()),
                    name => {
                        let Some(place) = KEYWORDS.iter().position(|keyword| *keyword == name) else { continue };
                        if value.as_raw_str().starts_with('[') {
                            for item in sonic_rs::to_array_iter(value.as_raw_str().as_bytes()) {
                                document.add_text(keywords[place], item?.as_str().unwrap_or_default());
                            }
                        } else {
                            document.add_text(keywords[place], value.as_str().unwrap_or_default());
                        }
                    }
                }
            }
            writer.add_document(document)?;
        }
    }
    writer.commit()?;
    writer.wait_merging_threads()?;
    Ok(String::new())
}

fn store(batches: &[Arc<LogBatch>], threads: usize) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let config = EmbeddedConfig { threads, ..EmbeddedConfig::default() };
    let store = Arc::new(EmbeddedStore::open(&config, directory.path())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // As many bytes under way as the writer's queue allows by default.
        let most = (64 << 20) / batches[0].bytes.len();
        let slots = Arc::new(tokio::sync::Semaphore::new(most));
        let handed_in = Arc::new(AtomicUsize::new(0));
        for batch in batches {
            let (store, batch, slot) = (store.clone(), batch.clone(), slots.clone().acquire_owned().await?);
            let handed_in = handed_in.clone();
            tokio::spawn(async move {
                let mut write = store.write_logs(batch);
                let first = std::future::poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
                handed_in.fetch_add(1, Ordering::SeqCst);
                let written = if let Poll::Ready(written) = first { written } else { write.await };
                if let Err(error) = written {
                    eprintln!("{error}");
                }
                drop(slot);
            });
        }
        while handed_in.load(Ordering::SeqCst) < batches.len() {
            tokio::task::yield_now().await;
        }
        store.flush().await?;
        let acknowledged = slots.acquire_many(most as u32).await?;
        drop(acknowledged);
        let total = store.search_logs(&LogQuery { size: 1, ..LogQuery::default() }).await?.total;
        let expected = batches.len() as u64 * BATCH;
        anyhow::ensure!(total == expected, "{total} of {expected} documents are there");
        let memory = anonymous_mib();
        Ok(format!("; {memory} MiB anonymous, documents included"))
    })
}
