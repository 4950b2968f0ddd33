//! When to try again what has failed: a channel that fails has a pause of its own, and a store that does nothing any more is not asked
//! without end. Pure; time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::{Place, StoreError};

/// How long nothing is tried after the store has failed, doubled with each failure up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The store counts as away when nothing has succeeded for so long.
const AWAY_AFTER: Duration = Duration::from_millis(500);
/// The same for one channel, of which another may be the reason.
const FIRST_HOLD: Duration = Duration::from_millis(200);
const LONGEST_HOLD: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Pauses {
    until: Duration,
    pause: Duration,
    last_success: Duration,
    /// How often a channel has failed, one time after the other.
    failures: BTreeMap<Place, u32>,
}

impl Pauses {
    pub(super) fn new(now: Duration) -> Self {
        Self { until: now, pause: FIRST_PAUSE, last_success: now, failures: BTreeMap::new() }
    }

    /// Until when nothing is tried; `None` where it may be.
    pub(super) fn until(&self, now: Duration) -> Option<Duration> {
        (now < self.until).then_some(self.until)
    }

    /// The store is back. Gives the channels that had failed, which may be tried now.
    pub(super) fn end(&mut self, now: Duration) -> impl Iterator<Item = Place> + use<> {
        self.until = now;
        self.pause = FIRST_PAUSE;
        self.last_success = now;
        std::mem::take(&mut self.failures).into_keys()
    }

    pub(super) fn handle_success(&mut self, now: Duration, places: &[Place]) {
        self.pause = FIRST_PAUSE;
        self.last_success = now;
        if !self.failures.is_empty() {
            places.iter().for_each(|place| _ = self.failures.remove(place));
        }
    }

    /// `random` is at most 1.
    pub(super) fn handle_failure(&mut self, now: Duration, error: &StoreError, random: f64) {
        let is_away = now.saturating_sub(self.last_success) >= AWAY_AFTER;
        if matches!(error, StoreError::Unavailable { .. }) && is_away && now >= self.until {
            self.until = now + jittered(self.pause, random);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Nobody wants anything of a channel any more.
    pub(super) fn forget(&mut self, place: &Place) {
        self.failures.remove(place);
    }

    /// When a channel that has failed is tried again.
    pub(super) fn hold(&mut self, now: Duration, place: &Place, random: f64) -> Duration {
        let failures = self.failures.entry(place.clone()).or_insert(0);
        let hold = FIRST_HOLD.saturating_mul(1 << (*failures).min(16)).min(LONGEST_HOLD);
        *failures += 1;
        now + jittered(hold, random)
    }
}

fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Channel, Tenant};

    use super::*;

    fn away() -> StoreError {
        StoreError::Unavailable { store: "x", reason: String::new() }
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_store_that_does_some_things_is_not_away() {
        let mut pauses = Pauses::new(secs(0.0));
        for step in 0..100 {
            let now = secs(f64::from(step) / 10.0);
            pauses.handle_failure(now, &away(), 1.0);
            pauses.handle_success(now, &[]);
            assert_eq!(pauses.until(now), None);
        }
    }

    #[test]
    fn one_that_does_nothing_is_asked_ever_less_often() {
        let mut pauses = Pauses::new(secs(0.0));
        pauses.handle_failure(secs(1.0), &away(), 1.0);
        // Many that failed together count once.
        pauses.handle_failure(secs(1.0), &away(), 1.0);
        assert_eq!(pauses.until(secs(1.0)), Some(secs(1.1)));
        pauses.handle_failure(secs(2.0), &away(), 1.0);
        assert_eq!(pauses.until(secs(2.0)), Some(secs(2.2)));
        for second in 3..10 {
            pauses.handle_failure(secs(f64::from(second) * 3.0), &away(), 1.0);
        }
        assert_eq!(pauses.until(secs(27.0)), Some(secs(29.0)));
        assert_eq!(pauses.end(secs(27.0)).count(), 0);
        assert_eq!(pauses.until(secs(27.0)), None);
    }

    #[test]
    fn a_channel_that_fails_has_a_pause_of_its_own() {
        let mut pauses = Pauses::new(secs(0.0));
        let place = Place { tenant: Tenant::default(), channel: Channel::parse("a").unwrap() };
        let held: Vec<f64> = (0..7).map(|_| pauses.hold(secs(0.0), &place, 1.0).as_secs_f64()).collect();
        assert_eq!(held, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]);
        pauses.handle_success(secs(9.0), std::slice::from_ref(&place));
        assert_eq!(pauses.hold(secs(0.0), &place, 1.0), secs(0.2));
    }
}
