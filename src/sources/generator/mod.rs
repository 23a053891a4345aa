//! The generator: the record at (seed, partition, offset) is a pure function, so it replays and any range can be made
//! alone.
//!
//! In: a [`GeneratorConfig`]. Out: JSON log records of about 350 bytes, as a [`Source`](super::Source) or into a
//! buffer, and the true intervals of the incidents played. Nothing here fails once the configuration is accepted.
//!
//! - [`record`]: the bytes of one record.
//! - [`timeline`]: offsets to times, and the schedule of incidents.
//! - [`services`]: the services and what they say.
//! - [`draw`]: random numbers that are the same on every machine.
//! - [`feed`]: the generator as a source.

mod draw;
pub mod feed;
mod record;
mod services;
mod timeline;

use std::sync::Arc;
use std::time::Duration;

use floodmark_dataflows::time::Millis;
use serde::{Deserialize, Serialize};

pub use feed::{GeneratorFeed, GeneratorSource};
pub use record::Records;
pub use timeline::{Incident, IncidentKind};

use super::SourceError;

/// Where event time starts when neither a start nor a rate is given: 2026-01-01T00:00:00Z.
const DEFAULT_START_MS: Millis = 1_767_225_600_000;

/// Options of the generator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratorConfig {
    /// What everything random is drawn from. The same seed and options give the same records.
    pub seed: u64,
    /// The number of partitions.
    pub partitions: u32,
    /// The number of services. The first five are auth-service, payment-service, inventory-service, user-service and
    /// api-gateway.
    pub services: u32,
    /// Records a second by the wall clock, over all partitions; 0 makes them as fast as they are read.
    pub rate: u64,
    /// Records a second of event time, over all partitions. Not used in a live run (a `rate`, and no `start`), where
    /// event time keeps to the wall clock.
    pub event_rate: u64,
    /// Records over all partitions until the end; 0 never ends.
    pub count: u64,
    /// Event time of the first record: RFC 3339, epoch milliseconds, or empty. Empty stands for now if there is a
    /// `rate` (a live run), else for 2026-01-01T00:00:00Z.
    pub start: String,
    /// Whether something goes wrong now and then: an error burst, a latency shift, a traffic drop, or a new message,
    /// with one service every five minutes of event time.
    pub incidents: bool,
    /// The `topic` field of the documents.
    pub topic: String,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            partitions: 2,
            services: 5,
            rate: 1_000,
            event_rate: 1_000,
            count: 0,
            start: String::new(),
            incidents: true,
            topic: "generator".into(),
        }
    }
}

impl GeneratorConfig {
    /// Whether event time keeps to the wall clock, from when the run began.
    pub fn is_live(&self) -> bool {
        self.rate > 0 && self.start.is_empty()
    }
}

/// The records of all partitions, with the start of event time settled.
#[derive(Clone)]
pub struct Generator {
    config: GeneratorConfig,
    plan: Arc<record::Plan>,
    start_ms: Millis,
    event_rate: u64,
}

impl Generator {
    /// Checks the configuration. `now_ms` is the wall clock, used where the configuration says "now"; to make the
    /// records of an earlier live run again, pass that run's [`Generator::start_ms`].
    pub fn new(config: GeneratorConfig, now_ms: Millis) -> Result<Self, SourceError> {
        let wrong = |what: String| Err(SourceError::Configuration(format!("generator: {what}")));
        if config.partitions == 0 || config.services == 0 {
            return wrong("expected at least one of `partitions` and of `services`".into());
        }
        if config.services > 100_000 || config.partitions > 10_000 {
            return wrong("expected at most 100,000 `services` and 10,000 `partitions`".into());
        }
        let live = config.is_live();
        let event_rate = if live { config.rate } else { config.event_rate };
        if event_rate == 0 || event_rate * 60 < u64::from(config.partitions) {
            return wrong(format!(
                "expected at least one record a minute of event time in each of the {} partitions, got {event_rate} \
                 a second over all of them; raise `{}`",
                config.partitions,
                if live { "rate" } else { "event_rate" }
            ));
        }
        let start_ms = match config.start.as_str() {
            "" if live => now_ms,
            "" => DEFAULT_START_MS,
            text => parse_time(text)
                .ok_or_else(|| SourceError::Configuration(format!("generator: `start`: {}", not_a_time(text))))?,
        };
        let plan = Arc::new(record::Plan::new(config.seed, config.services as usize));
        Ok(Self { config, plan, start_ms, event_rate })
    }

    /// The options it was made with.
    pub fn config(&self) -> &GeneratorConfig {
        &self.config
    }

    /// Event time of the first record.
    pub fn start_ms(&self) -> Millis {
        self.start_ms
    }

    /// The records of a partition, from offset 0 on.
    pub fn records(&self, partition: u32) -> Records {
        Records::new(self.plan.clone(), u64::from(partition), self.timeline(partition))
    }

    /// The number of records of a partition, or `None` without end.
    pub fn count(&self, partition: u32) -> Option<u64> {
        let (count, partitions) = (self.config.count, u64::from(self.config.partitions));
        (count > 0).then(|| count / partitions + u64::from(u64::from(partition) < count % partitions))
    }

    /// Labels of the incidents in the first `records` records of all partitions together.
    pub fn labels(&self, records: u64) -> Vec<Label> {
        let last = (records / u64::from(self.config.partitions)).saturating_sub(1);
        let mut timeline = self.timeline(0);
        let end_ms = self.start_ms + timeline.piece(last).arrival_ns(last) / 1_000_000 + 1;
        let label = |incident: Incident| Label {
            service: self.plan.services()[incident.service].name.clone(),
            kind: incident.kind,
            start: incident.start_ms,
            end: incident.end_ms.min(end_ms),
        };
        timeline.incidents_before(end_ms).map(label).collect()
    }

    /// What its records are known by: another text where they are others.
    pub fn identity(&self) -> Arc<str> {
        let GeneratorConfig { seed, partitions, services, incidents, .. } = self.config;
        let parts = [seed, partitions.into(), services.into(), incidents.into(), self.start_ms, self.event_rate];
        let hash = parts.into_iter().fold(0, |hash, part| draw::Draws::new(hash, part, 0).bits());
        format!("{hash:016x}").into()
    }

    /// Whether the next record is due this long after the run's start; always, where the run is not paced.
    pub fn is_due(&self, records: &Records, since_start: Duration) -> bool {
        self.config.rate == 0 || u128::from(self.due_ns(records.next_arrival_ns())) <= since_start.as_nanos()
    }

    /// Nanoseconds of wall clock from the start of a paced run until a record is due, given its arrival on the
    /// timeline; 0 where the run is not paced.
    fn due_ns(&self, arrival_ns: u64) -> u64 {
        match self.config.rate {
            0 => 0,
            rate if rate == self.event_rate => arrival_ns,
            rate => (u128::from(arrival_ns) * u128::from(self.event_rate) / u128::from(rate)) as u64,
        }
    }

    fn timeline(&self, partition: u32) -> timeline::Timeline {
        let partitions = u64::from(self.config.partitions);
        let interval_ns = (partitions * 1_000_000_000 / self.event_rate).max(1);
        let phase_ns = interval_ns * u64::from(partition) / partitions;
        let (seed, incidents) = (self.config.seed, self.config.incidents);
        timeline::Timeline::new(seed, self.start_ms, interval_ns, phase_ns, self.plan.services(), incidents)
    }
}

/// What was wrong, with what, and when: the truth that detection is measured against. Times are event time in epoch
/// milliseconds; the end is exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// `service_name`.
    pub service: String,
    /// What went wrong.
    pub kind: IncidentKind,
    /// Start, inclusive.
    pub start: Millis,
    /// End, exclusive; cut at the last record.
    pub end: Millis,
}

/// Epoch milliseconds of RFC 3339 text or of a number.
pub fn parse_time(text: &str) -> Option<Millis> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<jiff::Timestamp>().ok()?.as_millisecond().try_into().ok())
}

fn not_a_time(text: &str) -> String {
    format!("expected RFC 3339 such as \"2026-01-01T00:00:00Z\" or epoch milliseconds, got \"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GeneratorConfig {
        GeneratorConfig { rate: 0, partitions: 3, ..Default::default() }
    }

    #[test]
    fn a_live_run_starts_now_and_any_other_at_a_stated_time() {
        let start = |config: GeneratorConfig| Generator::new(config, 77_000).unwrap().start_ms();
        assert_eq!(start(GeneratorConfig::default()), 77_000);
        assert_eq!(start(config()), DEFAULT_START_MS);
        assert_eq!(start(GeneratorConfig { start: "1970-01-01T00:01:00Z".into(), ..config() }), 60_000);
        assert_eq!(start(GeneratorConfig { start: "5000".into(), ..config() }), 5_000);
    }

    #[test]
    fn mistakes_are_named() {
        let message = |config| Generator::new(config, 0).map(|_| ()).unwrap_err().to_string();
        assert!(message(GeneratorConfig { start: "soon".into(), ..config() }).contains("\"soon\""));
        assert!(message(GeneratorConfig { event_rate: 0, ..config() }).contains("event_rate"));
        assert!(message(GeneratorConfig { partitions: 0, ..config() }).contains("partitions"));
    }

    #[test]
    fn the_count_is_shared_out_and_the_event_rate_holds() {
        let generator = Generator::new(GeneratorConfig { count: 10, ..config() }, 0).unwrap();
        assert_eq!((0..3).map(|p| generator.count(p).unwrap()).collect::<Vec<_>>(), [4, 3, 3]);
        let generator = Generator::new(GeneratorConfig { incidents: false, event_rate: 300, ..config() }, 0).unwrap();
        let mut records = generator.records(0);
        records.seek(100 * 60);
        assert_eq!(records.next_arrival_ns() / 1_000_000_000, 60);
    }

    #[test]
    fn pacing_stretches_event_time_to_the_wall_clock() {
        let paced = |rate, start: &str| {
            Generator::new(GeneratorConfig { rate, start: start.into(), ..config() }, 0).unwrap().due_ns(1_000_000)
        };
        assert_eq!(paced(0, ""), 0);
        assert_eq!(paced(250, ""), 1_000_000, "live: event time is wall time");
        assert_eq!(paced(2_000, "0"), 500_000, "twice the event rate of 1,000");
    }
}
