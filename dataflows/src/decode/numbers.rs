//! Times and durations from the digits of a record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// The unit of a number that stands for a time or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanos,
}

/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
pub const MAX_TIMESTAMP_MS: Millis = 253_402_300_799_999;

/// A day: above what requests take, and small enough for sums, which are in microseconds too: it takes more than 100
/// million such records of one key to go beyond what they hold.
pub const MAX_RESPONSE_US: u64 = 86_400_000_000;
const _: () = assert!(i64::MAX as u64 / MAX_RESPONSE_US > 100_000_000);

/// What to say where a response time is something else.
pub(super) const RESPONSE_EXPECTED: &str = "a number from 0 to 24 hours";

/// The value of ASCII digits; `None` when there are none, more than 19, or other bytes.
#[inline]
pub(crate) fn integer(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| value * 10 + u64::from(digit))
    })
}

/// Epoch milliseconds of a JSON number in `unit`, fractions of a millisecond cut off; `None` when before 1970 or after
/// 9999.
#[inline]
pub(crate) fn epoch_ms(number: &str, unit: TimeUnit) -> Option<Millis> {
    let ms = match integer(number.as_bytes()) {
        Some(value) => match unit {
            TimeUnit::Millis => value,
            TimeUnit::Seconds => value.checked_mul(1_000)?,
            TimeUnit::Micros => value / 1_000,
            TimeUnit::Nanos => value / 1_000_000,
        },
        None => epoch_ms_of_fraction(number, unit)?,
    };
    (ms <= MAX_TIMESTAMP_MS).then_some(ms)
}

#[cold]
fn epoch_ms_of_fraction(number: &str, unit: TimeUnit) -> Option<Millis> {
    if let Some((whole, fraction)) = number.split_once('.')
        && let (Some(value), Some(_)) = (integer(whole.as_bytes()), integer(fraction.as_bytes()))
    {
        if unit != TimeUnit::Seconds {
            return epoch_ms(whole, unit);
        }
        let thousandths = fraction.bytes().chain(*b"00").take(3).fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        return value.checked_mul(1_000)?.checked_add(thousandths);
    }
    let value: f64 = number.parse().ok()?;
    let ms = value * millis_per(unit);
    (ms >= 0.0 && ms <= MAX_TIMESTAMP_MS as f64).then_some(ms as u64)
}

fn millis_per(unit: TimeUnit) -> f64 {
    match unit {
        TimeUnit::Seconds => 1e3,
        TimeUnit::Millis => 1.0,
        TimeUnit::Micros => 1e-3,
        TimeUnit::Nanos => 1e-6,
    }
}

/// Microseconds of a JSON number in `unit`, rounded to the nearest; `None` when negative or above
/// [`MAX_RESPONSE_US`].
#[inline]
pub(crate) fn response_us(number: &str, unit: TimeUnit) -> Option<u64> {
    let us = match (unit, thousandths(number.as_bytes())) {
        (TimeUnit::Millis, Some(us)) => us,
        (TimeUnit::Seconds, Some(ms)) => ms.checked_mul(1_000)?,
        _ => {
            let us = (number.parse::<f64>().ok()? * (millis_per(unit) * 1e3)).round();
            if !(us >= 0.0 && us <= MAX_RESPONSE_US as f64) {
                return None;
            }
            us as u64
        }
    };
    (us <= MAX_RESPONSE_US).then_some(us)
}

/// A thousand times a plain decimal number with at most three digits behind the point, exactly.
#[inline]
fn thousandths(number: &[u8]) -> Option<u64> {
    if number.len() > 16 {
        return None;
    }
    let (mut value, mut behind_point) = (0u64, None);
    for &byte in number {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value * 10 + u64::from(digit);
            behind_point = behind_point.map(|n| n + 1);
        } else if byte == b'.' && behind_point.is_none() {
            behind_point = Some(0);
        } else {
            return None;
        }
    }
    match behind_point.unwrap_or(0) {
        0 => Some(value * 1_000),
        1 => Some(value * 100),
        2 => Some(value * 10),
        3 => Some(value),
        _ => None,
    }
}

/// Days from 1970-01-01 of a date in the Gregorian calendar, from March on so that the leap day is the last (Howard
/// Hinnant, "chrono-compatible low-level date algorithms").
#[inline]
pub(crate) fn days_from_civil(year: i64, month: u64, day: u64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400) as u64;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era as i64 - 719_468
}

pub(crate) fn is_date(year: u64, month: u64, day: u64) -> bool {
    const DAYS: [u64; 13] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    month <= 12 && day >= 1 && day <= DAYS[month as usize] + u64::from(leap && month == 2)
}

/// Epoch milliseconds of an RFC 3339 time, fractions of a millisecond cut off. A space may stand for the `T`, and the
/// colon of the offset may be left out, as many loggers do. A leap second counts as the second before it. `None` for
/// anything else, impossible dates, times before 1970 and a missing offset.
#[inline]
pub(crate) fn rfc3339_ms(text: &str) -> Option<Millis> {
    let bytes = text.as_bytes();
    let (clock, rest) = bytes.split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T' | b't' | b' ', h1, h2, b':', mi1, mi2, b':', s1, s2] =
        *clock
    else {
        return None;
    };
    let two = |a: u8, b: u8| {
        let (a, b) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
        (a <= 9 && b <= 9).then_some(u64::from(a) * 10 + u64::from(b))
    };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(mo1, mo2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(mi1, mi2)?, two(s1, s2)?);
    if !is_date(year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, offset) = match rest {
        [b'.', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let (digits, offset) = rest.split_at(digits);
            let digit = |i: usize| digits.get(i).map_or(0, |b| u64::from(b - b'0'));
            (digit(0) * 100 + digit(1) * 10 + digit(2), offset)
        }
        offset => (0, offset),
    };
    let offset_minutes = match *offset {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ahead = (hours * 60 + minutes) as i64;
            if sign == b'+' { ahead } else { -ahead }
        }
        _ => return None,
    };
    let days = days_from_civil(year as i64, month, day);
    let seconds = days * 86_400 + (hour * 3_600 + minute * 60 + second.min(59)) as i64 - offset_minutes * 60;
    let ms = u64::try_from(seconds).ok()? * 1_000 + fraction_ms;
    (ms <= MAX_TIMESTAMP_MS).then_some(ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn epoch_numbers() {
        assert_eq!(epoch_ms("1700000000123", TimeUnit::Millis), Some(1_700_000_000_123));
        assert_eq!(epoch_ms("1700000000.1239", TimeUnit::Seconds), Some(1_700_000_000_123));
        assert_eq!(epoch_ms("1700000000.5", TimeUnit::Seconds), Some(1_700_000_000_500));
        assert_eq!(epoch_ms("1.7E12", TimeUnit::Millis), Some(1_700_000_000_000));
        assert_eq!(epoch_ms("1700000000123456", TimeUnit::Micros), Some(1_700_000_000_123));
        assert_eq!(epoch_ms("1700000000123456789", TimeUnit::Nanos), Some(1_700_000_000_123));
        for text in ["-1", "1e300", "99999999999999999999", "253402300800000"] {
            assert_eq!(epoch_ms(text, TimeUnit::Millis), None, "{text}");
        }
    }

    #[test]
    fn response_times() {
        assert_eq!(response_us("12.345", TimeUnit::Millis), Some(12_345));
        assert_eq!(response_us("12", TimeUnit::Millis), Some(12_000));
        assert_eq!(response_us("0.0006", TimeUnit::Millis), Some(1));
        assert_eq!(response_us("1e3", TimeUnit::Millis), Some(1_000_000));
        assert_eq!(response_us("0.005", TimeUnit::Seconds), Some(5_000));
        assert_eq!(response_us("1500", TimeUnit::Nanos), Some(2));
        assert_eq!(response_us("-0", TimeUnit::Millis), Some(0));
        for text in ["-1", "1e999", "1e13", "86400000.001", "86400001", "999999999999"] {
            assert_eq!(response_us(text, TimeUnit::Millis), None, "{text}");
        }
        let a_day = [("86400000", TimeUnit::Millis), ("86400", TimeUnit::Seconds), ("8.64e13", TimeUnit::Nanos)];
        for (text, unit) in a_day {
            assert_eq!(response_us(text, unit), Some(MAX_RESPONSE_US), "{text}");
        }
    }

    #[test]
    fn rfc3339() {
        assert_eq!(rfc3339_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339_ms("2024-02-29T12:30:00.123456789+02:00"), Some(1_709_202_600_123));
        assert_eq!(rfc3339_ms("2024-02-29 12:30:00.1+0200"), Some(1_709_202_600_100));
        assert_eq!(rfc3339_ms("2016-12-31T23:59:60Z"), rfc3339_ms("2016-12-31T23:59:59Z"));
        for text in [
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2024-01-01",
            "2024-1-1T00:00:00Z",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339_ms(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn rfc3339_agrees_with_jiff(
            year in 1970u64..10_000, month in 0u64..15, day in 0u64..34, hour in 0u64..26, minute in 0u64..62,
            second in 0u64..60, fraction in "(\\.[0-9]{1,9})?", offset in "Z|z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]",
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}");
            let expected = text.parse::<jiff::Timestamp>().ok().and_then(|t| {
                let ms = t.as_nanosecond().div_euclid(1_000_000);
                u64::try_from(ms).ok().filter(|&ms| ms <= MAX_TIMESTAMP_MS)
            });
            // The reference ends a day before 10,000 begins.
            if expected.is_some() || year < 9_999 {
                prop_assert_eq!(rfc3339_ms(&text), expected, "{}", text);
            }
        }
    }
}
