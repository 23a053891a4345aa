//! What is usual at this hour: level and spread for each hour of the day, and for each hour of the week.
//!
//! In: the start of a window and its value. Out: how far the value is from what the hour lets expect. Hours are those of
//! UTC. The hours of the week count once a week has gone by; then the better of the two answers holds, so a quiet Sunday
//! is not news, and neither is a Monday that is like any other day.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

const HOUR_MS: u64 = 3_600_000;
const DAY_HOURS: usize = 24;
const DAYS: usize = 7;
const WEEK_MS: u64 = 7 * 24 * HOUR_MS;
/// An hour forgets within this much time spent in it: two days for an hour of the day, two weeks for one of the week.
const FORGET_MS: f64 = 2.0 * HOUR_MS as f64;
/// No single window teaches an hour more than this share, however wide windows are.
const MOST: f64 = 0.25;

/// Level and spread (mean distance from the level) of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Hour {
    level: f32,
    /// Negative: nothing learned yet.
    spread: f32,
}

impl Default for Hour {
    fn default() -> Self {
        Self { level: 0.0, spread: -1.0 }
    }
}

impl Hour {
    fn learn(&mut self, value: f64, share: f64) {
        if self.spread < 0.0 {
            *self = Self { level: value as f32, spread: 0.0 };
            return;
        }
        let off = value - f64::from(self.level);
        self.level = (f64::from(self.level) + share * off) as f32;
        let spread = f64::from(self.spread);
        self.spread = (spread + share * (off.abs() - spread)) as f32;
    }

    fn departure(self, value: f64, least_spread: f64) -> Option<Departure> {
        (self.spread >= 0.0).then(|| {
            let spread = f64::from(self.spread) + least_spread;
            Departure {
                off: value - f64::from(self.level),
                in_spreads: (value - f64::from(self.level)) / spread,
                spread,
            }
        })
    }
}

/// How far a value is from what its hour lets expect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    /// Value minus level.
    pub off: f64,
    /// The same in spreads.
    pub in_spreads: f64,
    /// The spread, at least the given one.
    pub spread: f64,
}

/// Hours of the day and of the week. 1.5 KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seasons {
    day: [Hour; DAY_HOURS],
    week: [[Hour; DAY_HOURS]; DAYS],
    /// The first window learned.
    since_ms: Option<Millis>,
}

fn place(start_ms: Millis) -> (usize, usize) {
    let hours = start_ms / HOUR_MS;
    ((hours / DAY_HOURS as u64) as usize % DAYS, hours as usize % DAY_HOURS)
}

impl Seasons {
    /// The departures from the hour of the day, and from the one of day and week that is nearer.
    pub fn departures(&self, start_ms: Millis, value: f64, least_spread: f64) -> Option<(Departure, Departure)> {
        let (day, hour) = place(start_ms);
        let daily = self.day[hour].departure(value, least_spread)?;
        let settled = self.since_ms.is_some_and(|since| start_ms >= since + WEEK_MS);
        let weekly = self.week[day][hour].departure(value, least_spread).filter(|_| settled);
        let nearer = weekly.filter(|weekly| weekly.in_spreads.abs() < daily.in_spreads.abs()).unwrap_or(daily);
        Some((daily, nearer))
    }

    /// Learns a window's value; `passed_ms` since the window before.
    pub fn learn(&mut self, start_ms: Millis, value: f64, passed_ms: u64) {
        let (day, hour) = place(start_ms);
        let share = (passed_ms as f64 / FORGET_MS).min(MOST);
        self.since_ms.get_or_insert(start_ms);
        self.day[hour].learn(value, share);
        self.week[day][hour].learn(value, share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn taught(weeks: u64, value: impl Fn(usize, usize) -> f64) -> Seasons {
        let mut seasons = Seasons::default();
        for minute in (0..weeks * WEEK_MS / MINUTE_MS).step_by(5) {
            let (day, hour) = place(minute * MINUTE_MS);
            seasons.learn(minute * MINUTE_MS, value(day, hour), 5 * MINUTE_MS);
        }
        seasons
    }

    #[test]
    fn an_hour_knows_its_level() {
        let seasons = taught(1, |_, hour| hour as f64);
        let (daily, _) = seasons.departures(WEEK_MS + 13 * HOUR_MS, 15.0, 1.0).unwrap();
        assert!((daily.off - 2.0).abs() < 1e-3 && (daily.in_spreads - 2.0).abs() < 1e-2, "{daily:?}");
    }

    #[test]
    fn a_quiet_sunday_is_not_news_from_the_second_one_on() {
        // Day 3 after the epoch, a Thursday, is a Sunday.
        let quiet = |day, _| if day == 3 { 10.0 } else { 100.0 };
        let noon = 3 * 24 * HOUR_MS + 12 * HOUR_MS;
        let (_, nearer) = taught(1, quiet).departures(WEEK_MS + noon, 10.0, 1.0).unwrap();
        assert!(nearer.off.abs() < 1e-3, "{nearer:?}");
        let (_, nearer) = taught(1, quiet).departures(WEEK_MS + noon - 24 * HOUR_MS, 10.0, 1.0).unwrap();
        assert!(nearer.off < -50.0, "{nearer:?}");
    }
}
