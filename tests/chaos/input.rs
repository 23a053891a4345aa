//! The input of a plan: JSON logs over some partitions, with everything in them that producers do wrong.

use std::fmt;

use crate::draw::Draw;

/// 2023-11-14, 22:13:20 UTC.
const START: u64 = 1_700_000_000_000;
/// The field that has the time of some records that are dead letters, until they are redriven.
pub const REDRIVEN_TIME: &str = "ts";
/// 2100-01-01, 00:00 UTC: ahead of any arrival.
const FAR_FUTURE: u64 = 4_102_444_800_000;

/// What the input is like.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// Records of each partition.
    pub records: Vec<usize>,
    /// Event time from the first to the last record of a partition, in milliseconds.
    pub span: u64,
    pub services: u64,
    pub paths: u64,
    /// One in so many records: late by up to two minutes, by up to an hour, the same again, broken.
    pub late: u64,
    pub too_late: u64,
    pub twice: u64,
    pub broken: u64,
    /// Partition whose clock jumps ahead by hours for some records, and by how much.
    pub jump: Option<(usize, u64)>,
    /// Whether a run of records comes from the far future.
    pub far_future: bool,
    /// Records longer than `max_record_bytes`.
    pub long: bool,
    /// Records over several lines; only for sources that have no lines.
    pub line_feeds: bool,
    /// All services are silent for so many milliseconds, after as many from the beginning.
    pub gap: Option<(u64, u64)>,
    /// The first service fails for a tenth of the time.
    pub burst: bool,
}

impl InputSpec {
    /// Draws one. `lines` says that the source has lines.
    pub fn draw(draw: &mut Draw, lines: bool) -> Self {
        let partitions = draw.within(1, 4) as usize;
        let total = draw.within(600, 5_000) as usize;
        let mut records: Vec<usize> = (0..partitions)
            .map(|_| if draw.chance(1, 4) { total / 10 } else { total * draw.within(5, 15) as usize / 10 } / partitions)
            .collect();
        if partitions > 1 && draw.chance(1, 3) {
            // Falls silent after a few records.
            let idle = draw.below(partitions as u64) as usize;
            records[idle] = draw.within(1, 20) as usize;
        }
        records.iter_mut().for_each(|n| *n = (*n).max(1));
        let one_in = |draw: &mut Draw, of: &[u64]| draw.pick(of);
        Self {
            span: draw.pick(&[60_000, 300_000, 1_200_000]),
            services: draw.within(1, 6),
            paths: draw.pick(&[1, 5, 40]),
            late: one_in(draw, &[10, 50, 1_000]),
            too_late: one_in(draw, &[100, 1_000, 100_000]),
            twice: one_in(draw, &[50, 500]),
            broken: one_in(draw, &[20, 100, 1_000]),
            jump: draw.chance(1, 8).then(|| (draw.below(partitions as u64) as usize, draw.within(1, 5) * 3_600_000)),
            far_future: draw.chance(1, 5),
            long: draw.chance(1, 3),
            line_feeds: !lines && draw.chance(1, 3),
            gap: None,
            burst: false,
            records,
        }
    }

    /// The records of each partition.
    pub fn make(&self, draw: &mut Draw, max_record_bytes: usize) -> Vec<Vec<Vec<u8>>> {
        (0..self.records.len()).map(|number| self.partition(number, draw, max_record_bytes)).collect()
    }

    fn partition(&self, number: usize, draw: &mut Draw, max_record_bytes: usize) -> Vec<Vec<u8>> {
        let count = self.records[number];
        let mut records: Vec<Vec<u8>> = Vec::with_capacity(count);
        let mut now = START + draw.below(20_000);
        // The slowest of the idle ones keep the pace of a partition with a hundred records.
        let step = self.span / count.max(100) as u64;
        let jump_at = count / 3..count / 3 + 1 + count / 50;
        let future_at = count / 2..count / 2 + 3;
        for i in 0..count {
            now += draw.below(2 * step + 1);
            if let Some((after, silence)) = self.gap
                && (START + after..START + after + silence).contains(&now)
            {
                now = START + after + silence;
            }
            let mut timestamp = match () {
                () if i > 0 && draw.chance(1, self.too_late) => now - draw.below(3_600_000),
                () if i > 0 && draw.chance(1, self.late) => now - draw.below(120_000),
                () => now - draw.below(2_000),
            };
            match self.jump {
                Some((partition, by)) if partition == number && jump_at.contains(&i) => timestamp += by,
                _ => {}
            }
            if self.far_future && number == 0 && i > 0 && future_at.contains(&i) {
                timestamp = FAR_FUTURE + i as u64;
            }
            let record = if i > 0 && draw.chance(1, self.twice) {
                records[i - 1].clone()
            } else if i > 0 && self.long && draw.chance(1, 200) {
                let filler = "x".repeat(max_record_bytes + draw.below(20_000) as usize - 1_000);
                format!(r#"{{"timestamp":{timestamp},"service_name":"long","message":"{filler}"}}"#).into_bytes()
            } else if i > 0 && draw.chance(1, self.broken) {
                let members = self.members(number, i, timestamp, draw_of(draw));
                broken(draw, &members, self.line_feeds)
            } else {
                // A log file is known by its first line, which must be that of no other.
                let members = self.members(number, i, timestamp, draw_of(draw));
                written(draw, &members, self.line_feeds && i > 0)
            };
            records.push(record);
        }
        records
    }

    /// The members of a record in the order of a producer.
    fn members(&self, number: usize, i: usize, timestamp: u64, mut draw: Draw) -> Vec<(&'static str, String)> {
        let draw = &mut draw;
        let service = draw.below(self.services);
        let service = if draw.chance(1, 30) { "caf\\u00e9/%41".to_owned() } else { format!("service-{service}") };
        let at = match draw.below(40) {
            0 => format!("\"{}\"", rfc3339(timestamp, draw)),
            1 => format!("{timestamp}.5"),
            _ => timestamp.to_string(),
        };
        let is_failing = self.burst && service == "service-0" && (i * 10 / self.records[number]) == 7;
        let level = draw.pick(&["INFO", "INFO", "INFO", "WARN", "ERROR", "DEBUG", "warning", "Critical", "loud", ""]);
        let level = if is_failing { "ERROR" } else { level };
        let mut members = vec![("timestamp", at)];
        if !draw.chance(1, 40) {
            members.push(("service_name", format!("\"{service}\"")));
        }
        if !draw.chance(1, 40) {
            members.push(("level", format!("\"{level}\"")));
        }
        let word = draw.pick(&["alpha", "beta", "gamma", "delta", "kappa", "sigma"]);
        let message = match draw.below(6) {
            0 => format!("worker {word} has begun"),
            1 => format!("cannot reach {word}-{}.example: timeout after {i} ms", draw.below(3)),
            2 => String::new(),
            _ => format!("request {i} of partition {number}: \\\"ok\\\" ž"),
        };
        members.push(("message", format!("\"{message}\"")));
        if !draw.chance(1, 10) {
            members.push(("path", format!("\"/p/{}\"", draw.below(self.paths))));
            members.push((
                "status_code",
                draw.pick(&["200", "200", "204", "302", "404", "429", "500", "null"]).to_owned(),
            ));
        }
        if !draw.chance(1, 8) {
            let (whole, thousandths) = (draw.below(4_000), draw.below(1_000));
            members.push(("response_time_ms", format!("{whole}.{thousandths:03}")));
        }
        if draw.chance(1, 2) {
            let bytes = match draw.below(40) {
                0 => draw.pick(&["null", "\"many\"", "9000000000001", "[1]"]).to_owned(),
                1 => format!("-{}", draw.below(3_000)),
                _ => draw.below(10_000).to_string(),
            };
            members.push(("bytes", bytes));
            members.push(("queue", format!("{{\"depth\":{}.{:02}}}", draw.below(100), draw.below(100))));
        }
        if draw.chance(1, 20) {
            members.push(("error_code", draw.pick(&["\"E42\"", "17", "\"\"", "null"]).to_owned()));
        }
        if draw.chance(1, 20) {
            members.push(("tags", draw.pick(&["[\"a\",\"b\"]", "\"a\"", "[]"]).to_owned()));
        }
        if draw.chance(1, 20) {
            let own = draw.pick(&["severity", "offset", "original.offset", "reasons", "nested", "region"]);
            members.push((own, draw.pick(&["7", "{\"severity\":[1,2]}", "\"eu\""]).to_owned()));
        }
        members
    }
}

/// Numbers for one record, so that what it looks like changes nothing for the next.
fn draw_of(draw: &mut Draw) -> Draw {
    Draw::new(draw.below(u64::MAX), 0)
}

fn rfc3339(ms: u64, draw: &mut Draw) -> String {
    let text = |ms: u64| format!("{:.3}", jiff::Timestamp::from_millisecond(ms as i64).expect("a time"));
    match draw.below(2) {
        0 => text(ms),
        // Two hours east of Greenwich.
        _ => text(ms + 7_200_000).replace('Z', "+02:00"),
    }
}

/// JSON in one of several styles.
fn written(draw: &mut Draw, members: &[(&str, String)], line_feeds: bool) -> Vec<u8> {
    let (open, colon, comma, close) = match draw.below(12) {
        0 => ("{ ", ": ", ", ", " }"),
        1 if line_feeds => (" {\n", " :\r\n", ",\n\t", "\n}\n"),
        _ => ("{", ":", ",", "}"),
    };
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\"{colon}{value}")).collect();
    format!("{open}{}{close}", members.join(comma)).into_bytes()
}

/// The time has a name that only redrives know.
fn rename_time(members: &mut [(&'static str, String)]) {
    members.iter_mut().filter(|(name, _)| *name == "timestamp").for_each(|(name, _)| *name = REDRIVEN_TIME);
}

/// A record that cannot be used.
fn broken(draw: &mut Draw, members: &[(&'static str, String)], line_feeds: bool) -> Vec<u8> {
    let mut members = members.to_vec();
    let put = |members: &mut Vec<(&'static str, String)>, name: &'static str, value: &str| {
        members.retain(|(n, _)| *n != name);
        members.push((name, value.to_owned()));
    };
    match draw.below(16) {
        0 => {
            let whole = written(draw, &members, false);
            // Shorter by at least the closing brace, and not within a character.
            let text = String::from_utf8(whole).expect("text");
            let at = text.floor_char_boundary(1 + draw.below(text.len() as u64 - 1) as usize);
            return text.as_bytes()[..at].to_vec();
        }
        1 => return b"no JSON, \xff\xfe not even text".to_vec(),
        2 => return draw.pick(&["[1,2]", "17", "\"text\"", "null", "{}", "{\"a\":1}}"]).as_bytes().to_vec(),
        3 | 12 | 13 => rename_time(&mut members),
        4 | 14 => {
            rename_time(&mut members);
            put(&mut members, "timestamp", draw.pick(&["null", "true", "-1", "\"yesterday\"", "99999999999999999"]));
        }
        5 => put(&mut members, "level", draw.pick(&["5", "[\"INFO\"]", "{}"])),
        6 => put(&mut members, "status_code", draw.pick(&["99", "600", "\"200\"", "200.5", "true"])),
        7 => put(&mut members, "response_time_ms", draw.pick(&["-0.5", "\"12\"", "[]"])),
        8 => put(&mut members, "service_name", draw.pick(&["5", "[]", "false"])),
        9 => put(&mut members, "tags", draw.pick(&["5", "[1]", "{\"a\":\"b\"}"])),
        10 => put(&mut members, "message", draw.pick(&["17", "{}"])),
        _ => put(&mut members, "error_code", draw.pick(&["{}", "[]", "true"])),
    }
    written(draw, &members, line_feeds)
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "records {:?} over {} s, {} services, {} paths; one in {} late, {} too late, {} twice, {} broken",
            self.records,
            self.span / 1_000,
            self.services,
            self.paths,
            self.late,
            self.too_late,
            self.twice,
            self.broken
        )?;
        if let Some((partition, by)) = self.jump {
            write!(f, "; partition {partition} jumps ahead {} h", by / 3_600_000)?;
        }
        for (is, what) in
            [(self.far_future, "records from 2100"), (self.long, "long ones"), (self.line_feeds, "line feeds")]
        {
            if is {
                write!(f, "; {what}")?;
            }
        }
        Ok(())
    }
}
