//! Collectors for the live state, the progress board and the process itself.

use std::collections::{BTreeMap, BTreeSet};

use super::Samples;
use super::process::{Status, cpu_seconds};
use crate::audit::accounts;
use crate::live::LiveView;
use crate::live::progress::ProgressBoard;

pub(super) fn live(live: &LiveView, samples: &mut Samples) {
    if let Some(as_of) = live.as_of() {
        let help = "Event-clock time that the live state is exact for, in seconds since the epoch";
        samples.gauge("live_as_of_seconds", help, &[], as_of as f64 / 1_000.0);
    }
    for (summary, (_, view)) in live.summaries().value.into_iter().zip(live.listed()) {
        let labels = [("view", &*view.name)];
        let totals = &summary.totals;
        samples.counter("view_records", "Records counted in the view", &labels, totals.count() as f64);
        let help = "Records that came after their windows were final, and corrected them";
        samples.counter("view_late_records", help, &labels, totals.late as f64);
        let help = "Records that came after their windows were gone";
        samples.counter("view_too_late_records", help, &labels, totals.too_late as f64);
        samples.gauge("view_keys", "Keys of the view in memory", &labels, summary.keys as f64);
        samples.gauge("view_windows", "Windows of the view in memory", &labels, summary.windows as f64);
        let help = "Pairs of a key and a pane in memory";
        samples.gauge("view_rows", help, &labels, summary.memory.rows as f64);
        samples.gauge("view_memory_bytes", "Memory of these rows", &labels, summary.memory.bytes as f64);
    }
}

pub(super) fn progress(board: &ProgressBoard, tick_ms: u64, samples: &mut Samples) {
    let snapshot = board.snapshot();
    let seconds = |ticks: u64| ticks.saturating_mul(tick_ms) as f64 / 1_000.0;
    for (worker, frontier) in &snapshot.frontiers {
        let help = "Frontier as the worker knows it, in seconds since the epoch";
        samples.gauge("frontier_seconds", help, &[("worker", &worker.to_string())], seconds(*frontier));
    }
    if let Some(ms) = snapshot.indexed_through {
        let help = "Event-clock time up to which all log documents are searchable, in seconds since the epoch";
        samples.gauge("indexed_through_seconds", help, &[], ms as f64 / 1_000.0);
    }
    let going_on = snapshot.partitions.iter().filter(|(_, state)| !state.progress.ended);
    let going_on: BTreeSet<_> = going_on.map(|(info, _)| (&*info.topic, info.number)).collect();
    for (partition, state) in &snapshot.partitions {
        // Of a topic that was made again only the one that is read: a series must be there once.
        if state.progress.ended && going_on.contains(&(&*partition.topic, partition.number)) {
            continue;
        }
        let labels = [("topic", &*partition.topic), ("partition", &*partition.number.to_string())];
        let progress = &state.progress;
        let help = "Offset to read next: records for Kafka, bytes for files";
        samples.gauge("partition_offset", help, &labels, progress.next_offset as f64);
        if let Some(lag) = state.lag() {
            samples.gauge("partition_lag", "Offsets to the end of the partition", &labels, lag as f64);
        }
        if let Some(clock) = progress.clock {
            let help = "Event clock of the partition, in seconds since the epoch";
            samples.gauge("partition_clock_seconds", help, &labels, seconds(clock));
        }
        let flags = [("idle", progress.idle), ("stalled", progress.stalled), ("paused", progress.paused)];
        for (state, set) in flags {
            let labels = [labels[0], labels[1], ("state", state)];
            samples.gauge(
                "partition_state",
                "1 while the partition is in this state",
                &labels,
                f64::from(u8::from(set)),
            );
        }
    }
}

/// What became of the offsets of each partition.
pub(super) fn audit(board: &ProgressBoard, samples: &mut Samples) {
    #[derive(Default)]
    struct Sum {
        fates: [u64; 5],
        expected: u64,
        pending: u64,
        unbalanced: bool,
    }
    // A topic that was made again is another one under the same labels: a series must be there once.
    let mut sums: BTreeMap<(String, i32), Sum> = BTreeMap::new();
    for account in accounts(&board.snapshot()) {
        let fates = [account.indexed, account.dead(), account.dropped, account.lost, account.no_record];
        let sum = sums.entry((account.topic, account.partition)).or_default();
        sum.fates.iter_mut().zip(fates).for_each(|(sum, fate)| *sum += fate);
        sum.expected += account.expected;
        sum.pending += account.pending;
        sum.unbalanced |= !account.balanced;
    }
    for ((topic, partition), Sum { fates, expected, pending, unbalanced }) in sums {
        let labels = [("topic", &*topic), ("partition", &*partition.to_string())];
        for (fate, count) in ["indexed", "dead_letter", "dropped", "lost", "no_record"].into_iter().zip(fates) {
            let help = "What became of the offsets read (records where offsets are bytes), by partition";
            samples.gauge("audit_offsets", help, &[labels[0], labels[1], ("fate", fate)], count as f64);
        }
        let help = "Offsets (records where offsets are bytes) to be accounted for";
        samples.gauge("audit_expected", help, &labels, expected as f64);
        let help = "Offsets read and not acknowledged by the store yet";
        samples.gauge("audit_pending", help, &labels, pending as f64);
        let help = "1 while everything read is accounted for";
        samples.gauge("audit_balanced", help, &labels, f64::from(u8::from(!unbalanced)));
    }
}

/// Memory and CPU time, where the system tells.
pub(super) fn process(samples: &mut Samples) {
    let status = Status::now();
    let memory = [
        ("VmRSS", "process_resident_memory_bytes", "Resident memory"),
        ("RssAnon", "process_anonymous_memory_bytes", "Resident memory that is not backed by a file"),
        ("VmHWM", "process_peak_resident_memory_bytes", "Largest resident memory so far"),
    ];
    for (field, name, help) in memory {
        if let Some(kib) = status.number(field) {
            samples.gauge(name, help, &[], kib * 1_024.0);
        }
    }
    if let Some(threads) = status.number("Threads") {
        samples.gauge("process_threads", "Threads", &[], threads);
    }
    if let Some(seconds) = cpu_seconds() {
        samples.counter("process_cpu_seconds", "CPU time in user and system mode", &[], seconds);
    }
}
