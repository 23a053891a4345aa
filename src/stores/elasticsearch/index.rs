//! Days, and the names of daily indices.

use floodmark_dataflows::time::Millis;
use jiff::civil::Date;
use jiff::{ToSpan, Unit};

/// A day of the event clock in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(u32);

const EPOCH: Date = jiff::civil::date(1970, 1, 1);

/// 9999-12-31. Later times share its index: names of indices have four digits for the year.
const LAST: u32 = 2_932_896;

impl Day {
    /// The day that contains an event time.
    pub(super) fn of(ms: Millis) -> Self {
        Self((ms / 86_400_000).min(u64::from(LAST)) as u32)
    }

    /// So many days earlier, but not before the first.
    pub(super) fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// When it begins.
    pub(super) fn start_ms(self) -> Millis {
        u64::from(self.0) * 86_400_000
    }

    /// The name of the index of this day.
    pub(super) fn index(self, prefix: &str) -> String {
        let date = EPOCH.saturating_add(i64::from(self.0).days());
        format!("{prefix}{:04}.{:02}.{:02}", date.year(), date.month(), date.day())
    }

    /// The day of an index, if the name is exactly one that [`Day::index`] makes.
    pub(super) fn of_index(name: &str, prefix: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(prefix)?.split('.');
        let (year, month, day) =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let date = Date::new(year, month, day).ok()?;
        let days = EPOCH.until((Unit::Day, date)).ok()?.get_days();
        let found = Self(u32::try_from(days).ok()?);
        (found.index(prefix) == name).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_named_after_the_event_day() {
        let name = |ms| Day::of(ms).index("floodmark-logs-");
        assert_eq!(name(0), "floodmark-logs-1970.01.01");
        assert_eq!(name(1_709_164_799_999), "floodmark-logs-2024.02.28");
        assert_eq!(name(1_709_164_800_000), "floodmark-logs-2024.02.29");
        assert_eq!(name(u64::MAX), "floodmark-logs-9999.12.31");
    }

    #[test]
    fn only_names_of_our_own_are_read_back() {
        for ms in [0, 1_709_164_800_000, 1_763_856_000_000, u64::MAX] {
            let day = Day::of(ms);
            assert_eq!(Day::of_index(&day.index("p-logs-"), "p-logs-"), Some(day));
        }
        for name in [
            "p-logs-2024.02.30",
            "p-logs-2024.2.03",
            "p-logs-2024.02.03-copy",
            "p-logs-2024.02.03.04",
            "p-logs-archive",
            "q-logs-2024.02.03",
            "p-logs-+024.02.03",
            "p-logs-1969.12.31",
        ] {
            assert_eq!(Day::of_index(name, "p-logs-"), None, "{name}");
        }
    }
}
