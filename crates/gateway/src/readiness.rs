//! Whether the node should be sent new connections. A node that is not ready goes on serving those that it has.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use fanfare_session::Time;

/// How long the broker may be away before the node says that it is not ready. Shorter breaks are common (a leader
/// changes, a server restarts), and are over sooner than a load balancer acts.
pub const BROKER_AWAY: Duration = Duration::from_secs(2);

/// Stands for "the broker is there" where a time of interruption would stand.
const THERE: u64 = u64::MAX;

/// What the node knows of its own readiness. Shared by whoever tells it and whoever asks; nothing blocks.
#[derive(Debug)]
pub struct Readiness {
    started: AtomicBool,
    draining: AtomicBool,
    /// Since when the broker is away, in milliseconds of [`Time`].
    broker_away_since: AtomicU64,
}

/// One reason why a node is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// Listeners and broker are not all up yet.
    Starting,
    /// The node is going away.
    Draining,
    /// The broker has been away for this long.
    BrokerAway(Duration),
}

impl NotReady {
    /// A word for machines.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::BrokerAway(_) => "broker_away",
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the node is starting"),
            Self::Draining => f.write_str("the node is going away"),
            Self::BrokerAway(away) => write!(f, "the broker has been away for {} ms", away.as_millis()),
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            broker_away_since: AtomicU64::new(THERE),
        }
    }
}

impl Readiness {
    /// Everything is up.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// The node is going away, for good.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The broker is away. Said again while it is away, the first time counts.
    pub fn broker_interrupted(&self, now: Time) {
        let since = now.as_millis().min(THERE - 1);
        // Losing this race means that someone else said so first, which is what counts.
        let _ = self.broker_away_since.compare_exchange(THERE, since, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The broker is back.
    pub fn broker_resumed(&self) {
        self.broker_away_since.store(THERE, Ordering::Relaxed);
    }

    /// Whether the node is ready.
    ///
    /// # Errors
    /// Every reason why it is not.
    pub fn check(&self, now: Time) -> Result<(), Vec<NotReady>> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Relaxed) {
            reasons.push(NotReady::Starting);
        }
        if self.draining.load(Ordering::Relaxed) {
            reasons.push(NotReady::Draining);
        }
        let since = self.broker_away_since.load(Ordering::Relaxed);
        if since != THERE {
            let away = now.since(Time::from_millis(since));
            if away >= BROKER_AWAY {
                reasons.push(NotReady::BrokerAway(away));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn ready_from_start_to_drain() {
        let readiness = Readiness::default();
        assert_eq!(readiness.check(at(0)), Err(vec![NotReady::Starting]));
        readiness.set_started();
        assert_eq!(readiness.check(at(0)), Ok(()));
        readiness.set_draining();
        assert_eq!(readiness.check(at(0)), Err(vec![NotReady::Draining]));
    }

    #[test]
    fn a_broker_that_is_away_for_two_seconds_counts() {
        let readiness = Readiness::default();
        readiness.set_started();
        readiness.broker_interrupted(at(1_000));
        readiness.broker_interrupted(at(2_500));
        assert_eq!(readiness.check(at(2_999)), Ok(()));
        assert_eq!(readiness.check(at(3_000)), Err(vec![NotReady::BrokerAway(Duration::from_secs(2))]));
        readiness.broker_resumed();
        assert_eq!(readiness.check(at(9_000)), Ok(()));
        readiness.broker_interrupted(at(9_000));
        assert_eq!(readiness.check(at(9_001)), Ok(()));
    }

    #[test]
    fn every_reason_is_told() {
        let readiness = Readiness::default();
        readiness.set_draining();
        readiness.broker_interrupted(at(0));
        let reasons = readiness.check(at(5_000)).unwrap_err();
        let texts: Vec<_> = reasons.iter().map(NotReady::to_string).collect();
        assert_eq!(texts, ["the node is starting", "the node is going away", "the broker has been away for 5000 ms"]);
    }
}
