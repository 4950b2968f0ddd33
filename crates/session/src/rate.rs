//! How often something may be done.

use std::time::Duration;

use fanfare_protocol::{ErrorBody, ErrorCode};

use crate::Time;

/// A token bucket: so many in a second, and as many at once. In the eight bytes of a generic cell rate algorithm: the moment, in
/// microseconds, at which the bucket is full again.
#[derive(Debug, Default)]
pub(crate) struct Rate(u64);

impl Rate {
    /// Takes one, or says how long there is none.
    pub(crate) fn take(&mut self, now: Time, per_second: u32) -> Result<(), Duration> {
        let per_second = u64::from(per_second.max(1));
        let interval = 1_000_000 / per_second;
        let now = now.as_millis().saturating_mul(1_000);
        let full_at = self.0.max(now).saturating_add(interval);
        let over = (full_at - now).saturating_sub(per_second * interval);
        if over > 0 {
            return Err(Duration::from_micros(over));
        }
        self.0 = full_at;
        Ok(())
    }

    /// Takes more for what was allowed and turned out to be as much as several: none is left for so much longer.
    pub(crate) fn charge(&mut self, per_second: u32, more: usize) {
        let interval = 1_000_000 / u64::from(per_second.max(1));
        self.0 = self.0.saturating_add(interval.saturating_mul(more as u64));
    }
}

/// The answer where there was none.
pub(crate) fn refusal(what: &str, per_second: u32, wait: Duration) -> ErrorBody {
    let message = format!("too many: {what} is allowed {per_second} times in a second");
    let wait = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    ErrorBody { reconnect_after_ms: Some(wait), ..ErrorBody::new(ErrorCode::RateLimit, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn as_many_at_once_as_in_a_second() {
        let mut rate = Rate::default();
        for _ in 0..10 {
            assert_eq!(rate.take(at(5_000), 10), Ok(()));
        }
        assert_eq!(rate.take(at(5_000), 10), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(at(5_099), 10), Err(Duration::from_millis(1)));
        assert_eq!(rate.take(at(5_100), 10), Ok(()));
        assert_eq!(rate.take(at(5_100), 10), Err(Duration::from_millis(100)));
    }

    #[test]
    fn ten_thousand_in_a_second_are_twice_the_rate_at_most() {
        let mut rate = Rate::default();
        let taken = (0..10_000).filter(|tenth| rate.take(at(tenth / 10), 10).is_ok()).count();
        assert!((19..=20).contains(&taken), "{taken}");
    }

    #[test]
    fn what_was_as_much_as_several_counts_so_much() {
        let mut rate = Rate::default();
        assert_eq!(rate.take(at(0), 10), Ok(()));
        rate.charge(10, 29);
        assert_eq!(rate.take(at(0), 10), Err(Duration::from_millis(2_100)));
        assert_eq!(rate.take(at(2_099), 10), Err(Duration::from_millis(1)));
        assert_eq!(rate.take(at(2_100), 10), Ok(()));
    }

    #[test]
    fn a_rest_fills_it_and_not_more() {
        let mut rate = Rate::default();
        assert_eq!((0..20).filter(|_| rate.take(at(0), 7).is_ok()).count(), 7);
        assert_eq!((0..20).filter(|_| rate.take(at(3_600_000), 7).is_ok()).count(), 7);
    }
}
