//! When records are made, and when something goes wrong: offsets to times, and the schedule of incidents.
//!
//! A partition's time is cut into periods of [`PERIOD_MS`]. Each period may hold one incident, drawn from the seed and
//! the period's number alone. Records come at a steady interval, apart from a traffic drop, which stretches it; so
//! the number of records in a period is known without making them, and any offset is found by a search over periods.

use floodmark_dataflows::time::Millis;
use serde::Serialize;

use super::draw::Draws;
use super::services::Service;

/// Length of an incident period.
pub const PERIOD_MS: u64 = 300_000;
/// In a traffic drop a service keeps one in this many records.
pub const DROP_TO_ONE_IN: u64 = 8;
/// The stream of random numbers that incidents are drawn from; partitions use their numbers.
const INCIDENT_STREAM: u64 = 1 << 40;

/// What goes wrong with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// Almost half of the requests end in a server error.
    ErrorBurst,
    /// Response times are six times as long.
    LatencyShift,
    /// Seven of eight requests stay away.
    TrafficDrop,
    /// A third of the records carry a message that was never seen before.
    NewMessage,
}

/// Something going wrong with one service from `start_ms` until before `end_ms`, in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Which one it is of its timeline, from 0 on.
    pub number: u64,
    /// Index of the service.
    pub service: usize,
    /// What goes wrong.
    pub kind: IncidentKind,
    /// Start, inclusive.
    pub start_ms: Millis,
    /// End, exclusive.
    pub end_ms: Millis,
}

impl Incident {
    /// Whether it is on at this time.
    #[inline]
    pub fn covers(&self, time_ms: Millis) -> bool {
        self.start_ms <= time_ms && time_ms < self.end_ms
    }
}

/// Maps offsets of a partition to times.
#[derive(Clone)]
pub struct Timeline {
    seed: u64,
    start_ms: Millis,
    /// Nanoseconds between two records of a partition while nothing drops.
    interval_ns: u64,
    /// Added to each time, so that partitions take turns.
    phase_ns: u64,
    weights: Vec<u32>,
    incidents: bool,
    /// Entry k: how many records come before period k.
    before: Vec<u64>,
}

/// A run of offsets with a steady interval.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First offset.
    pub first: u64,
    /// One past the last offset.
    pub end: u64,
    start_ns: u64,
    interval_ns: u64,
    /// The service whose traffic has dropped.
    pub dropped: Option<usize>,
    /// The period it belongs to.
    pub period: u64,
}

impl Piece {
    /// When the record at this offset arrives, in nanoseconds since the start of the timeline.
    #[inline]
    pub fn arrival_ns(&self, offset: u64) -> u64 {
        self.start_ns + (offset - self.first) * self.interval_ns
    }
}

impl Timeline {
    /// A timeline that starts at `start_ms`, for a partition with a record every `interval_ns`, `phase_ns` (less than
    /// the interval) behind the start.
    pub fn new(
        seed: u64,
        start_ms: Millis,
        interval_ns: u64,
        phase_ns: u64,
        services: &[Service],
        incidents: bool,
    ) -> Self {
        let weights = services.iter().map(|service| service.weight).collect();
        Self { seed, start_ms, interval_ns, phase_ns, weights, incidents, before: vec![0] }
    }

    /// The start of the timeline.
    pub fn start_ms(&self) -> Millis {
        self.start_ms
    }

    /// The incident of a period, if it has one.
    pub fn incident(&self, period: u64) -> Option<Incident> {
        if !self.incidents {
            return None;
        }
        let mut draws = Draws::new(self.seed, INCIDENT_STREAM, period);
        let service = draws.below(self.weights.len() as u64) as usize;
        let kind =
            [IncidentKind::ErrorBurst, IncidentKind::LatencyShift, IncidentKind::TrafficDrop, IncidentKind::NewMessage]
                [draws.below(4) as usize];
        // Starts 60 to 120 s into the period and lasts 30 to 120 s, so there is quiet around it.
        let start_ms = self.start_ms + period * PERIOD_MS + (60 + draws.below(61)) * 1000;
        let end_ms = start_ms + (30 + draws.below(91)) * 1000;
        Some(Incident { number: period, service, kind, start_ms, end_ms })
    }

    /// Every incident that starts before `end_ms`.
    pub fn incidents_before(&self, end_ms: Millis) -> impl Iterator<Item = Incident> + '_ {
        let periods = end_ms.saturating_sub(self.start_ms).div_ceil(PERIOD_MS);
        (0..periods).filter_map(|period| self.incident(period)).filter(move |incident| incident.start_ms < end_ms)
    }

    /// The pieces of a period, in order.
    fn pieces(&self, period: u64, first: u64) -> [Piece; 3] {
        let period_ms = period * PERIOD_MS;
        let (from, to, interval_ns, dropped) = match self.incident(period) {
            Some(Incident { service, kind: IncidentKind::TrafficDrop, start_ms, end_ms, .. }) => {
                let total: u64 = self.weights.iter().map(|weight| u64::from(*weight)).sum();
                let lost = u64::from(self.weights[service]) * (DROP_TO_ONE_IN - 1);
                let interval_ns = self.interval_ns * (total * DROP_TO_ONE_IN) / (total * DROP_TO_ONE_IN - lost);
                (start_ms - self.start_ms, end_ms - self.start_ms, interval_ns, Some(service))
            }
            _ => (period_ms + PERIOD_MS, period_ms + PERIOD_MS, self.interval_ns, None),
        };
        let piece = |first: u64, from_ms: u64, to_ms: u64, interval_ns: u64, dropped| Piece {
            first,
            end: first + (to_ms - from_ms) * 1_000_000 / interval_ns,
            start_ns: from_ms * 1_000_000 + self.phase_ns,
            interval_ns,
            dropped,
            period,
        };
        let a = piece(first, period_ms, from, self.interval_ns, None);
        let b = piece(a.end, from, to, interval_ns, dropped);
        let c = piece(b.end, to, period_ms + PERIOD_MS, self.interval_ns, None);
        [a, b, c]
    }

    /// The piece that holds an offset.
    pub fn piece(&mut self, offset: u64) -> Piece {
        while self.before[self.before.len() - 1] <= offset {
            let period = self.before.len() - 1;
            self.before.push(self.pieces(period as u64, self.before[period])[2].end);
        }
        let period = self.before.partition_point(|before| *before <= offset) - 1;
        let [a, b, c] = self.pieces(period as u64, self.before[period]);
        if offset < a.end {
            a
        } else if offset < b.end {
            b
        } else {
            c
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::services::services;
    use super::*;

    fn timeline(incidents: bool) -> Timeline {
        Timeline::new(3, 1_000_000, 1_000_000, 0, &services(5, 3), incidents)
    }

    #[test]
    fn offsets_map_to_growing_times_without_gaps_in_the_offsets() {
        let mut sequential = timeline(true);
        let (mut offset, mut last) = (0, 0);
        while offset < 3_000_000 {
            let piece = sequential.piece(offset);
            assert_eq!(piece.first, offset);
            assert!(piece.arrival_ns(piece.first) >= last);
            last = piece.arrival_ns(piece.end - 1);
            offset = piece.end;
        }
        let mut random = timeline(true);
        for offset in [2_999_999, 5, 1_234_567, 0] {
            let (a, b) = (random.piece(offset), sequential.piece(offset));
            assert_eq!(a.arrival_ns(offset), b.arrival_ns(offset));
        }
    }

    #[test]
    fn without_incidents_time_is_linear() {
        let mut timeline = timeline(false);
        for offset in [0, 299_999, 300_000, 12_345_678] {
            assert_eq!(timeline.piece(offset).arrival_ns(offset), offset * 1_000_000);
        }
        assert_eq!(timeline.incidents_before(u64::MAX >> 20).count(), 0);
    }

    #[test]
    fn incidents_are_apart_and_of_every_kind() {
        let timeline = timeline(true);
        let incidents: Vec<Incident> = timeline.incidents_before(1_000_000 + 100 * PERIOD_MS).collect();
        assert_eq!(incidents.len(), 100);
        assert!(incidents.windows(2).all(|pair| pair[0].end_ms + 60_000 < pair[1].start_ms));
        for kind in [IncidentKind::ErrorBurst, IncidentKind::LatencyShift, IncidentKind::TrafficDrop] {
            assert!(incidents.iter().any(|incident| incident.kind == kind));
        }
    }
}
