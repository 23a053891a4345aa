//! The floor: what a plain single-threaded loop costs that parses, judges and aggregates the same as job W1, with a hash
//! map and nothing else. No disorder, no lateness, no corrections, no other worker.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use floodmark_dataflows::decode::{Decoder, RecordsConfig, Schema};
use floodmark_dataflows::histogram::{BUCKETS, bucket_of, midpoint_of};
use floodmark_dataflows::record::Record;
use floodmark_dataflows::rules::{Rules, RulesConfig};

const WINDOW_MS: u64 = 10_000;

/// Runs a command, and returns the numbers that it prints as a JSON object, as `floodmark bench --json` does; 0 for what
/// the system does not tell.
pub fn measured(command: &mut Command) -> Result<BTreeMap<String, f64>> {
    let output = command.output().context("the run does not start")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let numbers: BTreeMap<String, Option<f64>> =
        serde_json::from_slice(&output.stdout).context("expected a JSON object of numbers")?;
    Ok(numbers.into_iter().map(|(name, number)| (name, number.unwrap_or_default())).collect())
}

struct Row {
    count: u64,
    levels: [u64; 7],
    status: [u64; 5],
    anomalies: u64,
    sum_us: u64,
    min_us: u64,
    max_us: u64,
    first: u64,
    last: u64,
    max_severity: u8,
    buckets: Vec<u32>,
}

/// Windows per service in a hash map.
pub struct Windows {
    decoder: Decoder,
    rules: Rules,
    rows: HashMap<(u32, u64), Row, foldhash::fast::FixedState>,
    services: HashMap<String, u32, foldhash::fast::FixedState>,
    /// Records that could not be read.
    pub bad: u64,
}

impl Windows {
    /// Without any rows.
    pub fn new() -> Self {
        let mut schema = Schema::new(&RecordsConfig::default()).expect("the defaults are valid");
        let rules = Rules::compile(&RulesConfig::default(), &mut schema).expect("the defaults are valid");
        Self { decoder: Decoder::new(schema), rules, rows: HashMap::default(), services: HashMap::default(), bad: 0 }
    }

    /// Adds a record.
    #[inline]
    pub fn add(&mut self, raw: &[u8]) {
        let mut record = Record::default();
        if self.decoder.decode_into(raw, &mut record).is_err() {
            self.bad += 1;
            return;
        }
        let verdict = self.rules.judge(&record);
        let service = match self.services.get(&*record.service_name) {
            Some(service) => *service,
            None => {
                let service = self.services.len() as u32;
                self.services.insert(record.service_name.to_string(), service);
                service
            }
        };
        let row = self.rows.entry((service, record.timestamp_ms / WINDOW_MS)).or_insert_with(|| Row {
            count: 0,
            levels: [0; 7],
            status: [0; 5],
            anomalies: 0,
            sum_us: 0,
            min_us: u64::MAX,
            max_us: 0,
            first: u64::MAX,
            last: 0,
            max_severity: 0,
            buckets: vec![0; BUCKETS],
        });
        row.count += 1;
        row.levels[record.level as usize] += 1;
        if let Some(status) = record.status_code {
            row.status[usize::from(status / 100 - 1)] += 1;
        }
        row.anomalies += u64::from(verdict.anomaly);
        row.max_severity = row.max_severity.max(verdict.severity);
        row.first = row.first.min(record.timestamp_ms);
        row.last = row.last.max(record.timestamp_ms);
        if let Some(us) = record.response_time_us {
            row.sum_us += us;
            row.min_us = row.min_us.min(us);
            row.max_us = row.max_us.max(us);
            row.buckets[usize::from(bucket_of(us))] += 1;
        }
    }

    /// The number of rows, and a number that depends on all of them, so that nothing is optimised away.
    pub fn finish(&self) -> (usize, u64) {
        let digest = self.rows.values().fold(0u64, |digest, row| {
            let rank = row.count * 99 / 100;
            let mut seen = 0;
            let p99 = row.buckets.iter().position(|&n| {
                seen += u64::from(n);
                seen > rank
            });
            digest
                .wrapping_add(midpoint_of(p99.unwrap_or(0) as u16))
                .wrapping_add(row.levels[4] + row.status[4] + row.anomalies + u64::from(row.max_severity))
                .wrapping_add(row.sum_us ^ row.min_us ^ row.max_us ^ row.first ^ row.last)
        });
        (self.rows.len(), digest)
    }
}
