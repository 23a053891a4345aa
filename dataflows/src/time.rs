//! The three times of Floodmark, and the arithmetic between them.
//!
//! *Event time* is milliseconds since the epoch, from the payload. The *event clock* of a partition and the
//! *timestamp* of a record are in [`Tick`]s. Windows are half-open, `[start, end)`, in milliseconds.

/// The timely timestamp: event-clock ticks since the epoch.
pub type Tick = u64;

/// Milliseconds since the epoch.
pub type Millis = u64;

/// The tick that contains `ms`.
#[inline]
pub fn tick_of(ms: Millis, tick_ms: u64) -> Tick {
    ms / tick_ms
}

/// The start of the pane or tumbling window of width `width` (any unit) that contains `t` (same unit).
#[inline]
pub fn window_start(t: u64, width: u64) -> u64 {
    t - t % width
}

/// The largest number that both are multiples of (Euclid).
pub fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_half_open() {
        assert_eq!(window_start(9_999, 10_000), 0);
        assert_eq!(window_start(10_000, 10_000), 10_000);
        assert_eq!(tick_of(1_999, 1_000), 1);
    }
}
