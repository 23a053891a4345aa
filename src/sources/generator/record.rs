//! The bytes of one record.

use super::draw::{Draws, LogNormal, scale, take16};
use super::services::{Service, services};
use super::timeline::{DROP_TO_ONE_IN, Incident, IncidentKind, PERIOD_MS, Piece, Timeline};
use floodmark_dataflows::time::Millis;

const REGIONS: [&str; 4] = ["eu-west-1", "eu-central-1", "us-east-1", "ap-south-1"];
const VERSIONS: [&str; 4] = ["v2.8.1", "v2.8.2", "v2.9.0", "v2.9.1"];
const CLIENT_ERRORS: [u16; 8] = [400, 401, 401, 403, 404, 404, 409, 429];
const SERVER_ERRORS: [u16; 4] = [500, 502, 503, 504];
/// Hosts of a service.
const HOSTS: u64 = 6;
/// User ids run from 10000 to below 10000 plus this.
const USERS: u64 = 50_000;
const DAY_MS: u64 = 86_400_000;
/// Width of the logarithm of response times.
const SIGMA: f64 = 0.55;

/// What new messages are made of. Their numbers have no common divisor, so 2,288 incidents pass before a message comes again.
const TROUBLES: [&str; 13] = [
    "fallback engaged",
    "leader lease expired",
    "replica fenced",
    "journal replayed",
    "circuit opened",
    "snapshot discarded",
    "watchdog fired",
    "index rebuilt",
    "backpressure applied",
    "token bucket drained",
    "schema cache dropped",
    "write path degraded",
    "standby promoted",
];
const CAUSES: [&str; 11] = [
    "after quorum loss",
    "on checksum mismatch",
    "by failed handshake",
    "during compaction",
    "beyond heartbeat limit",
    "under disk pressure",
    "upon clock step",
    "within rolling restart",
    "without upstream answer",
    "past descriptor limit",
    "through dns failure",
];
const EFFECTS: [&str; 16] = [
    "serving stale reads",
    "refusing writes",
    "shedding batch load",
    "queueing commits",
    "holding new sessions",
    "skipping audit trail",
    "bypassing cache",
    "retrying quietly",
    "routing elsewhere",
    "pausing consumers",
    "draining connections",
    "sampling traces",
    "rejecting uploads",
    "deferring invoices",
    "limiting logins",
    "freezing rollout",
];

/// What every partition's generator shares.
pub struct Plan {
    seed: u64,
    services: Vec<Service>,
    /// A service's index once per unit of its weight.
    shares: Vec<u32>,
    factors: LogNormal,
}

impl Plan {
    /// The plan for this many services.
    pub fn new(seed: u64, service_count: usize) -> Self {
        let services = services(service_count, seed);
        let shares = services.iter().zip(0u32..).flat_map(|(s, i)| std::iter::repeat_n(i, s.weight as usize)).collect();
        Self { seed, services, shares, factors: LogNormal::new(SIGMA) }
    }

    /// The services.
    pub fn services(&self) -> &[Service] {
        &self.services
    }
}

/// Makes the records of one partition, from any offset on. The record at an offset depends on the plan, the timeline
/// and the partition's number alone, not on what was made before.
pub struct Records {
    plan: std::sync::Arc<Plan>,
    partition: u64,
    timeline: Timeline,
    next: u64,
    piece: Piece,
    /// The incidents of the piece's period and of the one before, whose late records still arrive.
    incidents: [Option<Incident>; 2],
}

impl Records {
    /// Starts at offset 0.
    pub fn new(plan: std::sync::Arc<Plan>, partition: u64, timeline: Timeline) -> Self {
        let mut timeline = timeline;
        let piece = timeline.piece(0);
        let mut records = Self { plan, partition, timeline, next: 0, piece, incidents: [None; 2] };
        records.seek(0);
        records
    }

    /// Goes to an offset.
    pub fn seek(&mut self, offset: u64) {
        self.next = offset;
        self.piece = self.timeline.piece(offset);
        let period = self.piece.period;
        self.incidents =
            [self.timeline.incident(period), period.checked_sub(1).and_then(|before| self.timeline.incident(before))];
    }

    /// The offset of the record that [`Records::write_next`] makes.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// When the next record arrives, in nanoseconds since the start of the timeline. Event time is at or before it.
    pub fn next_arrival_ns(&self) -> u64 {
        self.piece.arrival_ns(self.next)
    }

    /// Appends the next record with a line feed and returns its event time.
    pub fn write_next(&mut self, out: &mut Vec<u8>) -> Millis {
        if self.next >= self.piece.end {
            self.seek(self.next);
        }
        let plan = &*self.plan;
        let mut draws = Draws::new(plan.seed, self.partition, self.next);
        let (mut choice, delay, time_bits, spread, id_high, id_low) =
            (draws.bits(), draws.bits(), draws.bits(), draws.bits(), draws.bits(), draws.bits());

        let mut service = plan.shares[scale(spread, plan.shares.len() as u64) as usize] as usize;
        // Drawing again in place of the records that a drop keeps away leaves the other services' proportions alone.
        while self.piece.dropped == Some(service) && draws.below(DROP_TO_ONE_IN) != 0 {
            service = plan.shares[draws.below(plan.shares.len() as u64) as usize] as usize;
        }
        let start_ms = self.timeline.start_ms();
        let arrival_ms = start_ms + self.next_arrival_ns() / 1_000_000;
        let time_ms = (arrival_ms - delay_ms(delay).min(arrival_ms)).max(start_ms);
        let incident = self.incidents.iter().flatten().find(|i| i.service == service && i.covers(time_ms));
        let kind = incident.map(|incident| incident.kind);

        let service = &plan.services[service];
        let route = &service.routes[take16(&mut choice, service.routes.len() as u64) as usize];
        let outcome = take16(&mut choice, 1000);
        let (client_error, server_error) = match kind {
            Some(IncidentKind::ErrorBurst) => (20, 450),
            _ => (20, 3),
        };
        let status = if outcome < server_error {
            SERVER_ERRORS[take16(&mut choice, 4) as usize]
        } else if outcome < server_error + client_error {
            CLIENT_ERRORS[take16(&mut choice, 8) as usize]
        } else if route.method == "POST" {
            201
        } else {
            200
        };
        let slow = if kind == Some(IncidentKind::LatencyShift) { 6.0 } else { 1.0 };
        let outcome_factor = if status >= 500 { 2.5 } else { 1.0 };
        let factor = plan.factors.factor(time_bits) * daily_wave(time_ms) * slow * outcome_factor;
        // Tenths of a millisecond, the precision that is written.
        let response_tenths = (f64::from(route.median_us) * factor) as u64 / 100;
        let unseen = incident.filter(|i| i.kind == IncidentKind::NewMessage && take16(&mut choice, 3) == 0);
        let level = match status {
            500.. if id_low & 63 == 0 => "FATAL",
            500.. => "ERROR",
            400.. => "WARN",
            _ if unseen.is_some() || response_tenths > 10_000 => "WARN",
            _ if id_low & 15 == 1 => "DEBUG",
            _ => "INFO",
        };
        let user = 10_000 + scale(id_high.rotate_left(32), USERS);
        let entity = 100_000 + scale(id_low.rotate_left(32), 900_000);
        let host = scale(delay.rotate_left(32), HOSTS);
        let spread_low = spread as usize;

        let mut line = Line(out);
        line.text("{\"timestamp\":").number(time_ms).text(",\"service_name\":\"").text(&service.name);
        line.text("\",\"level\":\"").text(level).text("\",\"message\":\"");
        if let Some(incident) = unseen {
            let word = |words: &[&'static str]| words[(incident.number % words.len() as u64) as usize];
            line.text(word(&TROUBLES)).text(" ").text(word(&CAUSES)).text(" on shard ").number(host + 1);
            line.text(", epoch ").number(entity).text(": ").text(word(&EFFECTS)).text(" for ");
            line.number(response_tenths / 10).text(" ms");
        } else {
            match status {
                500.. => line.text(route.method).text(" failed, attempt ").number(1 + (id_high & 1)),
                400.. => line.text(route.method).text(" refused: request not acceptable"),
                _ => line.text(route.message),
            };
            line.text(" in ").number(response_tenths / 10);
            line.text(" ms for user ").number(user);
        }
        line.text("\",\"request_id\":\"").uuid(id_high, id_low).text("\",\"user_id\":\"user-").number(user);
        line.text("\",\"path\":\"").text(route.path.0);
        if let Some(after) = route.path.1 {
            line.number(entity).text(after);
        }
        line.text("\",\"method\":\"").text(route.method).text("\",\"status_code\":").number(u64::from(status));
        line.text(",\"response_time_ms\":").number(response_tenths / 10).text(".").digit(response_tenths % 10);
        if status >= 500 {
            line.text(",\"error_code\":\"")
                .text(service.error_codes[spread_low % service.error_codes.len()])
                .text("\"");
        }
        line.text(",\"tags\":[\"").text(REGIONS[spread_low >> 8 & 3]).text("\",\"");
        line.text(VERSIONS[spread_low >> 10 & 3]).text("\"],\"host\":\"").text(&service.name);
        line.text("-").number(host + 1).text("\"}\n");
        self.next += 1;
        time_ms
    }
}

/// How long a record was on its way: most a few milliseconds, one in 20 up to 2 s, one in 250 up to 20 s, and one in
/// 5,000 up to a whole incident period, so later than the default lateness of a minute.
fn delay_ms(bits: u64) -> u64 {
    let up_to = match bits & 0xffff {
        0..13 => PERIOD_MS,
        13..275 => 20_000,
        275..3_550 => 2_000,
        _ => 50,
    };
    scale(bits, up_to)
}

/// Response times over the day: 0.8 at midnight (UTC), 1.3 at noon, by a parabola.
fn daily_wave(time_ms: Millis) -> f64 {
    let day = (time_ms % DAY_MS) as f64 / DAY_MS as f64;
    0.8 + 2.0 * day * (1.0 - day)
}

/// Two decimal digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

/// Appends to a line. Much cheaper than `write!`, which takes more time than all the rest of a record.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    #[inline]
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    #[inline]
    fn digit(&mut self, digit: u64) -> &mut Self {
        self.0.push(b'0' + digit as u8);
        self
    }

    #[inline]
    fn number(&mut self, mut n: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        while n >= 100 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&PAIRS[(n % 100) as usize]);
            n /= 100;
        }
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[n as usize]);
        at += usize::from(n < 10);
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    /// A random (version 4) UUID.
    fn uuid(&mut self, high: u64, low: u64) -> &mut Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let high = high & !0xf000 | 0x4000;
        let low = low & (u64::MAX >> 2) | 1 << 63;
        let mut text = [b'-'; 36];
        let mut at = 0;
        for byte in high.to_be_bytes().into_iter().chain(low.to_be_bytes()) {
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
            at += usize::from(matches!(at, 8 | 13 | 18 | 23));
        }
        self.0.extend_from_slice(&text);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn records(seed: u64, partition: u64, incidents: bool) -> Records {
        records_every(1_000_000, seed, partition, incidents)
    }

    fn records_every(interval_ns: u64, seed: u64, partition: u64, incidents: bool) -> Records {
        let plan = Arc::new(Plan::new(seed, 5));
        let timeline = Timeline::new(seed, 1_767_225_600_000, interval_ns, 0, plan.services(), incidents);
        Records::new(plan, partition, timeline)
    }

    fn lines(records: &mut Records, from: u64, count: u64) -> Vec<String> {
        records.seek(from);
        (0..count)
            .map(|_| {
                let mut line = Vec::new();
                records.write_next(&mut line);
                String::from_utf8(line).unwrap()
            })
            .collect()
    }

    #[test]
    fn any_range_can_be_made_alone() {
        let all = lines(&mut records(42, 1, true), 0, 400_000);
        let mut other = records(42, 1, true);
        for (from, count) in [(399_000, 1_000), (0, 10), (123_456, 100), (299_990, 20)] {
            assert_eq!(lines(&mut other, from, count), all[from as usize..(from + count) as usize]);
        }
        assert_ne!(lines(&mut records(43, 1, true), 0, 1), all[..1]);
        assert_ne!(lines(&mut records(42, 0, true), 0, 1), all[..1]);
    }

    /// Replays of old runs depend on this: a change of these bytes is a change of the format.
    #[test]
    fn the_bytes_never_change() {
        let text = lines(&mut records(42, 0, true), 0, 100_000).concat();
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 4_670_540_142_770_407_645, "first line: {}", &text[..text.find('\n').unwrap()]);
    }

    #[test]
    fn records_are_json_of_about_350_bytes_with_the_default_fields() {
        let lines = lines(&mut records(42, 0, true), 0, 20_000);
        let bytes: usize = lines.iter().map(String::len).sum();
        let mean = bytes / lines.len();
        assert!((335..365).contains(&mean), "mean length {mean}");
        for line in &lines {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            for field in ["message", "request_id", "user_id", "path", "method", "host", "service_name", "level"] {
                assert!(value[field].is_string(), "{field} in {line}");
            }
            assert!(value["timestamp"].is_u64() && value["response_time_ms"].is_f64() && value["tags"].is_array());
            assert_eq!(value["status_code"].as_u64().unwrap() >= 500, value["error_code"].is_string());
        }
    }

    #[test]
    fn records_arrive_out_of_order_but_never_early() {
        let mut records = records(42, 0, true);
        let (mut late, mut newest, mut behind) = (0, 0, 0);
        for _ in 0..100_000 {
            let arrival = 1_767_225_600_000 + records.next_arrival_ns() / 1_000_000;
            let time = records.write_next(&mut Vec::new());
            assert!(time <= arrival);
            late += u64::from(arrival - time > 60_000);
            behind += u64::from(time < newest);
            newest = newest.max(time);
        }
        assert!((5..100).contains(&late), "{late} records are later than a minute");
        assert!(behind > 30_000, "{behind} records are out of order");
    }

    #[test]
    fn labels_tell_the_truth() {
        let mut records = records_every(10_000_000, 7, 0, true);
        let periods = 24;
        let end_ms = 1_767_225_600_000 + periods * PERIOD_MS;
        let incidents: Vec<Incident> = records.timeline.incidents_before(end_ms).collect();
        let names: Vec<String> = records.plan.services().iter().map(|service| service.name.clone()).collect();
        // Per incident, for its service: records inside, server errors, response times, new messages; and outside.
        let mut inside = vec![[0.0; 4]; incidents.len()];
        let mut outside = vec![[0.0; 4]; names.len()];
        let mut quiet_ms = vec![(periods * PERIOD_MS) as f64; names.len()];
        for incident in &incidents {
            quiet_ms[incident.service] -= (incident.end_ms - incident.start_ms) as f64;
        }
        let mut line = Vec::new();
        while records.next_arrival_ns() / 1_000_000 < periods * PERIOD_MS {
            line.clear();
            let time = records.write_next(&mut line);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let service = names.iter().position(|name| value["service_name"] == name.as_str()).unwrap();
            let counts = match incidents.iter().position(|i| i.service == service && i.covers(time)) {
                Some(incident) => &mut inside[incident],
                None => &mut outside[service],
            };
            counts[0] += 1.0;
            counts[1] += f64::from(u8::from(value["error_code"].is_string()));
            counts[2] += value["response_time_ms"].as_f64().unwrap();
            counts[3] += f64::from(u8::from(value["message"].as_str().unwrap().contains(" on shard ")));
        }
        for (incident, counts) in incidents.iter().zip(inside) {
            let normal = outside[incident.service];
            let length = (incident.end_ms - incident.start_ms) as f64;
            let (errors, normal_errors) = (counts[1] / counts[0], normal[1] / normal[0]);
            let slower = (counts[2] / counts[0]) / (normal[2] / normal[0]);
            let traffic = (counts[0] / length) / (normal[0] / quiet_ms[incident.service]);
            let is = |kind| incident.kind == kind;
            assert_eq!(
                errors > 0.35,
                is(IncidentKind::ErrorBurst),
                "{incident:?}: errors {errors}, normal {normal_errors}"
            );
            assert!(normal_errors < 0.01 && normal[3] == 0.0);
            assert_eq!(slower > 4.0, is(IncidentKind::LatencyShift), "{incident:?}: response times × {slower}");
            assert_eq!(traffic < 0.25, is(IncidentKind::TrafficDrop), "{incident:?}: traffic × {traffic}");
            assert_eq!(counts[3] / counts[0] > 0.25, is(IncidentKind::NewMessage), "{incident:?}");
        }
    }
}
