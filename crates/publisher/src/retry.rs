//! When to try again: exponential backoff with full jitter.

use std::time::Duration;

/// How long to pause between attempts. The pause before attempt *n* + 1 is drawn evenly from zero to
/// `base` × 2^(*n* − 1), never above `cap` ("full jitter"), so that publishers that failed together do not come back
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest pause after the first attempt.
    pub base: Duration,
    /// The longest pause after any attempt.
    pub cap: Duration,
}

impl RetryPolicy {
    /// The pause after `attempt` attempts have failed (from 1). `random` is from 0 (inclusive) to 1 (exclusive); what is
    /// outside is taken as the nearest of the two.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        self.longest(attempt).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The pause when the other side asked for at least `hint`: that, and the jitter on top, so that all who were given
    /// the same hint do not come back at once.
    pub fn delay_with_hint(&self, attempt: u32, random: f64, hint: Option<Duration>) -> Duration {
        hint.unwrap_or_default().saturating_add(self.delay(attempt, random))
    }

    fn longest(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1);
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

impl Default for RetryPolicy {
    /// From 50 ms to 1 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(50), cap: Duration::from_secs(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { base: Duration::from_millis(100), cap: Duration::from_millis(1_500) };

    #[test]
    fn the_longest_pause_doubles_up_to_the_cap() {
        let longest: Vec<u128> = (1..=7).map(|attempt| POLICY.delay(attempt, 1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1_500, 1_500, 1_500]);
    }

    #[test]
    fn the_pause_is_drawn_from_all_between_zero_and_the_longest() {
        assert_eq!(POLICY.delay(3, 0.0), Duration::ZERO);
        assert_eq!(POLICY.delay(3, 0.25), Duration::from_millis(100));
        assert_eq!(POLICY.delay(3, 0.5), Duration::from_millis(200));
    }

    #[test]
    fn numbers_out_of_range_stay_within_bounds() {
        assert_eq!(POLICY.delay(0, 1.0), POLICY.base);
        assert_eq!(POLICY.delay(u32::MAX, 1.0), POLICY.cap);
        assert_eq!(POLICY.delay(1, 7.0), POLICY.base);
        assert_eq!(POLICY.delay(1, -1.0), Duration::ZERO);
        let endless = RetryPolicy { base: Duration::MAX, cap: Duration::from_secs(1) };
        assert_eq!(endless.delay(40, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn a_hint_is_the_least_and_the_jitter_comes_on_top() {
        let hint = Some(Duration::from_secs(2));
        assert_eq!(POLICY.delay_with_hint(1, 0.0, hint), Duration::from_secs(2));
        assert_eq!(POLICY.delay_with_hint(1, 0.5, hint), Duration::from_millis(2_050));
        assert_eq!(POLICY.delay_with_hint(1, 0.5, None), Duration::from_millis(50));
        assert_eq!(POLICY.delay_with_hint(1, 0.5, Some(Duration::MAX)), Duration::MAX);
    }
}
