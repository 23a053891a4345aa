//! How long to wait before the next try, and how often to say that one is needed.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Waits that double up to a limit. Between half of the wait and all of it is taken, at random, so that many senders do
/// not come back in step.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(initial: Duration, max: Duration) -> Self {
        Self { next: initial, max }
    }

    /// How long to wait now.
    pub(super) fn delay(&mut self) -> Duration {
        let full = self.next.min(self.max);
        self.next = full.saturating_mul(2);
        // The standard library seeds every hash state differently: random enough for this.
        let random = RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64;
        full.mul_f64(0.5 + 0.5 * random)
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}

/// Lets one message through in a while, and counts those held back.
#[derive(Debug)]
pub(super) struct Throttle {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new((None, 0)) }
    }

    /// `Some(n)` when a message is due, with the number of those held back since the last one.
    pub(super) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.0.is_some_and(|last| now.duration_since(last) < self.every) {
            state.1 += 1;
            return None;
        }
        let held_back = state.1;
        *state = (Some(now), 0);
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_vary() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000));
        for full in [100, 200, 400, 800, 1_000, 1_000] {
            let delay = backoff.delay();
            assert!(delay >= ms(full / 2) && delay <= ms(full), "{delay:?} of {full}ms");
        }
        let distinct: std::collections::BTreeSet<_> = (0..20).map(|_| Backoff::new(ms(500), ms(500)).delay()).collect();
        assert!(distinct.len() > 1, "no jitter: {distinct:?}");
    }

    #[test]
    fn one_message_gets_through_in_a_while() {
        let throttle = Throttle::new(Duration::from_secs(3_600));
        assert_eq!(throttle.due(), Some(0));
        assert_eq!(throttle.due(), None);
    }
}
