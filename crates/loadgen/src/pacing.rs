//! An even pace, which does not wait for anybody: what is late keeps the time that it was meant for.

use std::time::{Duration, Instant};

/// So many things a second, from a start on, until all are done.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    start: Instant,
    per_second: f64,
    total: u64,
    taken: u64,
}

impl Pace {
    /// The first is due at `start`; as many as fit into `lasting`.
    pub(crate) fn new(start: Instant, per_second: f64, lasting: Duration) -> Self {
        Self { start, per_second, total: (per_second * lasting.as_secs_f64()).round() as u64, taken: 0 }
    }

    /// When the next is due, unless all were taken.
    pub(crate) fn next(&self) -> Option<Instant> {
        let after = || Duration::from_secs_f64(self.taken as f64 / self.per_second);
        (self.taken < self.total).then(|| self.start + after())
    }

    /// The next that is due by `now`: its number, and when it was meant to be.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next().filter(|due| *due <= now)?;
        self.taken += 1;
        Some((self.taken - 1, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_due_at_even_times_whenever_they_are_taken() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start, 4.0, Duration::from_secs(1));
        assert_eq!(pace.take(start), Some((0, start)));
        assert_eq!(pace.take(at(249)), None);
        assert_eq!(pace.next(), Some(at(250)));
        // Late by far, and yet each has its own time.
        assert_eq!(pace.take(at(5_000)), Some((1, at(250))));
        assert_eq!(pace.take(at(5_000)), Some((2, at(500))));
        assert_eq!(pace.take(at(5_000)), Some((3, at(750))));
        assert_eq!((pace.take(at(5_000)), pace.next()), (None, None));
    }

    #[test]
    fn a_pace_of_nothing_has_nothing() {
        assert_eq!(Pace::new(Instant::now(), 0.0, Duration::from_secs(1)).next(), None);
    }
}
