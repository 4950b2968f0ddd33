//! Pauses between attempts to connect.

use std::time::Duration;

use crate::limits;

/// First pause, at most; it doubles up to [`limits::RECONNECT_DELAY`].
const FIRST: Duration = Duration::from_millis(50);

/// How long to wait before an attempt; the first is number 1. Jittered wholly, so that the nodes of a cluster do not
/// come back all at once.
pub(crate) fn pause(attempt: usize) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(10));
    doubled.min(limits::RECONNECT_DELAY).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_jittered_and_at_most_half_a_second() {
        let pauses: Vec<Duration> = (0..1_000).map(pause).collect();
        assert!(pauses.iter().all(|pause| *pause <= limits::RECONNECT_DELAY));
        assert!(pauses.iter().any(|pause| *pause > limits::RECONNECT_DELAY / 2));
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
        assert!((0..100).all(|_| pause(1) <= FIRST));
    }
}
