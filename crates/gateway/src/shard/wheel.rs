//! A shard's timers: one wheel for all its connections, none per connection.
//!
//! A connection has at most one entry that counts. Deadlines mostly move away (each sign of life moves the next ping), so
//! an entry is not moved with them: when it comes up too early, it is put back.

use fanfare_session::Time;

use crate::{hub::message::ConnectionId, limits::TIMER_TICK};

/// Ticks in one turn of the wheel: about 51 s. What lies further away goes round again.
const TICKS: usize = 1_024;
/// [`TIMER_TICK`] in milliseconds.
pub(super) const TICK_MILLIS: u64 = TIMER_TICK.as_millis() as u64;

/// See the module.
#[derive(Debug)]
pub(super) struct Wheel {
    ticks: Vec<Vec<ConnectionId>>,
    /// The tick that is due next.
    next: u64,
}

impl Wheel {
    pub(super) fn new(now: Time) -> Self {
        Self { ticks: (0..TICKS).map(|_| Vec::new()).collect(), next: tick_of(now) }
    }

    /// Puts an entry at a deadline, rounded up to a tick; returns the time at which it will come up.
    pub(super) fn insert(&mut self, deadline: Time, id: ConnectionId) -> Time {
        let tick = (tick_of(deadline) + 1).clamp(self.next, self.next + TICKS as u64 - 1);
        self.ticks[tick as usize % TICKS].push(id);
        Time::from_millis(tick * TICK_MILLIS)
    }

    /// Takes up to `limit` entries that are due.
    pub(super) fn take_due(&mut self, now: Time, due: &mut Vec<ConnectionId>, limit: usize) {
        while self.next <= tick_of(now) {
            let tick = &mut self.ticks[self.next as usize % TICKS];
            while due.len() < limit
                && let Some(id) = tick.pop()
            {
                due.push(id);
            }
            if !tick.is_empty() {
                return;
            }
            *tick = Vec::new();
            self.next += 1;
        }
    }
}

fn tick_of(time: Time) -> u64 {
    time.as_millis() / TICK_MILLIS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> ConnectionId {
        ConnectionId { index, generation: 0 }
    }

    fn due(wheel: &mut Wheel, millis: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.take_due(Time::from_millis(millis), &mut due, usize::MAX);
        due.into_iter().map(|id| id.index).collect()
    }

    #[test]
    fn nothing_comes_up_before_its_deadline_and_everything_soon_after() {
        let mut wheel = Wheel::new(Time::from_millis(0));
        for index in 0..100 {
            let at = wheel.insert(Time::from_millis(u64::from(index) * 37), id(index));
            assert!(at > Time::from_millis(u64::from(index) * 37));
        }
        let mut seen = Vec::new();
        for now in (0..4_000).step_by(10) {
            for index in due(&mut wheel, now) {
                let deadline = u64::from(index) * 37;
                assert!(deadline <= now && now <= deadline + 2 * TICK_MILLIS);
                seen.push(index);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_far_away_comes_up_early_to_be_put_back() {
        let mut wheel = Wheel::new(Time::from_millis(0));
        let at = wheel.insert(Time::from_millis(3_600_000), id(1));
        assert!(at < Time::from_millis(60_000));
        assert_eq!(due(&mut wheel, 60_000), [1]);
    }

    #[test]
    fn work_per_turn_is_bounded() {
        let mut wheel = Wheel::new(Time::from_millis(0));
        for index in 0..10 {
            wheel.insert(Time::from_millis(5), id(index));
        }
        let mut batch = Vec::new();
        wheel.take_due(Time::from_millis(1_000), &mut batch, 4);
        assert_eq!(batch.len(), 4);
        assert_eq!(due(&mut wheel, 1_000).len(), 6);
    }
}
