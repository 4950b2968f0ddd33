//! Whether the client is still there.

use std::time::Duration;

use crate::Time;

/// One deadline: of the next ping, or of the answer to the last one.
#[derive(Debug)]
pub(crate) struct Liveness {
    due: Time,
    pinged: bool,
}

/// What a deadline that was reached asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The client has been silent: ping it.
    Ping,
    /// It stayed silent after the ping.
    Dead,
}

impl Liveness {
    pub(crate) fn new(now: Time, ping_interval: Duration) -> Self {
        Self { due: now + ping_interval, pinged: false }
    }

    /// Something came from the client, whatever it was.
    pub(crate) fn heard(&mut self, now: Time, ping_interval: Duration) {
        *self = Self::new(now, ping_interval);
    }

    pub(crate) fn due(&self) -> Time {
        self.due
    }

    /// The time for an answer begins when the ping is sent, however late that is: a node that was held up blames no client.
    pub(crate) fn check(&mut self, now: Time, pong_timeout: Duration) -> Option<Overdue> {
        if now < self.due {
            return None;
        }
        if self.pinged {
            return Some(Overdue::Dead);
        }
        *self = Self { due: now + pong_timeout, pinged: true };
        Some(Overdue::Ping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const ANSWER: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    #[test]
    fn silence_is_pinged_and_then_dead() {
        let mut liveness = Liveness::new(at(0), INTERVAL);
        assert_eq!(liveness.due(), at(25));
        assert_eq!(liveness.check(at(24), ANSWER), None);
        assert_eq!(liveness.check(at(25), ANSWER), Some(Overdue::Ping));
        assert_eq!(liveness.due(), at(35));
        assert_eq!(liveness.check(at(34), ANSWER), None);
        assert_eq!(liveness.check(at(35), ANSWER), Some(Overdue::Dead));
    }

    #[test]
    fn any_sign_of_life_starts_anew() {
        let mut liveness = Liveness::new(at(0), INTERVAL);
        assert_eq!(liveness.check(at(25), ANSWER), Some(Overdue::Ping));
        liveness.heard(at(34), INTERVAL);
        assert_eq!(liveness.check(at(35), ANSWER), None);
        assert_eq!(liveness.due(), at(59));
        assert_eq!(liveness.check(at(59), ANSWER), Some(Overdue::Ping));
    }

    #[test]
    fn a_late_ping_leaves_the_whole_time_to_answer() {
        let mut liveness = Liveness::new(at(0), INTERVAL);
        assert_eq!(liveness.check(at(100), ANSWER), Some(Overdue::Ping));
        assert_eq!(liveness.check(at(109), ANSWER), None);
        assert_eq!(liveness.check(at(110), ANSWER), Some(Overdue::Dead));
    }
}
