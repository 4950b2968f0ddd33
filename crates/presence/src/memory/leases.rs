//! Who holds a lease, and who held one. Time is an argument.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{Incarnation, Leases, Renewal};

#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    /// With the end of each.
    held: BTreeMap<Incarnation, Instant>,
    dead: BTreeMap<Incarnation, Dead>,
}

#[derive(Debug)]
struct Dead {
    /// Since when that is known. Not since the lease has ended: perhaps nobody was there to see it.
    since: Instant,
    /// It is given to nobody before.
    reap_at: Instant,
    /// Somebody has removed what it had.
    was_reaped: bool,
}

impl LeaseTable {
    /// Forgets those who have been dead for long enough, and says whom.
    pub(super) fn forget_dead(&mut self, now: Instant) -> Vec<Incarnation> {
        let is_over = |_: &Incarnation, dead: &mut Dead| dead.was_reaped && dead.since + Leases::REAP_AGAIN_FOR <= now;
        self.dead.extract_if(.., is_over).map(|(incarnation, _)| incarnation).collect()
    }

    pub(super) fn renew(&mut self, now: Instant, renewal: &Renewal) -> Leases {
        self.bury(now);
        let Renewal { incarnation, lease, begin, reaps } = renewal;
        let held = self.held.contains_key(incarnation) || (*begin && !self.dead.contains_key(incarnation));
        if held {
            self.held.insert(incarnation.clone(), now + *lease);
        } else {
            // What it writes from now on is nobody's, even where the store has lost all that it knew of it.
            self.dead.entry(incarnation.clone()).or_insert_with(|| Dead::now(now));
        }
        let others = self.held.iter().filter(|(other, _)| *other != incarnation);
        let others = others.map(|(other, until)| (other.clone(), *until - now)).collect();
        let reap = if held && *reaps { self.claim(now) } else { Vec::new() };
        Leases { held, others, dead: self.dead.keys().cloned().collect(), reap }
    }

    pub(super) fn shorten(&mut self, incarnation: &Incarnation, until: Instant) {
        if let Some(held) = self.held.get_mut(incarnation) {
            *held = until.min(*held);
        }
    }

    pub(super) fn forget(&mut self, incarnation: &Incarnation) {
        self.held.remove(incarnation);
        self.dead.remove(incarnation);
    }

    pub(super) fn reaped(&mut self, now: Instant, incarnation: &Incarnation, again: Duration) {
        if let Some(dead) = self.dead.get_mut(incarnation) {
            dead.was_reaped = true;
            dead.reap_at = now + again.max(now.duration_since(dead.since));
        }
    }

    pub(super) fn known(&self) -> impl Iterator<Item = Incarnation> {
        self.held.keys().chain(self.dead.keys()).cloned()
    }

    pub(super) fn holders(&self, now: Instant) -> Vec<Incarnation> {
        self.held.iter().filter(|(_, until)| **until > now).map(|(holder, _)| holder.clone()).collect()
    }

    /// Finds out whose lease has ended.
    fn bury(&mut self, now: Instant) {
        for (incarnation, _) in self.held.extract_if(.., |_, until| *until <= now) {
            self.dead.insert(incarnation, Dead::now(now));
        }
    }

    fn claim(&mut self, now: Instant) -> Vec<Incarnation> {
        let due = self.dead.iter_mut().filter(|(_, dead)| dead.reap_at <= now);
        due.map(|(incarnation, dead)| {
            dead.reap_at = now + Leases::REAP_CLAIM;
            incarnation.clone()
        })
        .collect()
    }
}

impl Dead {
    fn now(now: Instant) -> Self {
        Self { since: now, reap_at: now, was_reaped: false }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn renew(table: &mut LeaseTable, now: Instant, name: &str, begin: bool) -> Leases {
        table.forget_dead(now);
        let incarnation = Incarnation::parse(name).unwrap();
        table.renew(now, &Renewal { incarnation, lease: LEASE, begin, reaps: true })
    }

    fn names(incarnations: &[Incarnation]) -> Vec<&str> {
        incarnations.iter().map(Incarnation::as_str).collect()
    }

    #[test]
    fn the_dead_are_known_for_an_hour_since_somebody_saw_it_and_until_they_are_reaped() {
        let mut table = LeaseTable::default();
        let start = Instant::now();
        renew(&mut table, start, "a.1", true);
        // Nobody was there for a day.
        let mut now = start + Duration::from_secs(86_400);
        let leases = renew(&mut table, now, "b.1", true);
        assert_eq!((names(&leases.dead), names(&leases.reap)), (vec!["a.1"], vec!["a.1"]));
        // Nobody has said that it was done.
        now += 2 * Leases::REAP_AGAIN_FOR;
        assert!(!renew(&mut table, now, "b.1", false).held);
        let leases = renew(&mut table, now, "b.2", true);
        assert_eq!(names(&leases.reap), ["a.1", "b.1"]);
        table.reaped(now, &leases.reap[0], Duration::from_secs(60));
        let leases = renew(&mut table, now, "b.2", false);
        assert_eq!(names(&leases.dead), ["b.1"], "an hour had passed");
        table.reaped(now, &leases.dead[0], Duration::from_secs(60));
        now += Leases::REAP_AGAIN_FOR - Duration::from_nanos(1);
        assert_eq!(names(&renew(&mut table, now, "b.3", true).dead), ["b.1", "b.2"]);
        now += Duration::from_nanos(1);
        assert_eq!(names(&renew(&mut table, now, "b.3", false).dead), ["b.2"]);
    }
}
