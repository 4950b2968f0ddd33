//! How interruptions are told: of each interest where few are affected, of everything where all or many are.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use crate::{BrokerEvent, InterestId, Interruption, Scope};

/// Interests that are interrupted at once and told one by one; more are told as everything.
const ONE_BY_ONE: usize = 200;

/// How long everything counts as interrupted when a part of the cluster is back: what is still missing then is told by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of everything.
const DISCONNECTED: &str = "disconnected";
/// Of one interest; subscribers are told this word.
const INTERRUPTED: &str = "broker_interrupted";

/// What the hub was told, and what is owed to it.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// Interests that are interrupted now.
    down: HashSet<InterestId>,
    /// Those of them that were told one by one.
    told: HashSet<InterestId>,
    /// Everything was told, and that is not over.
    everything: bool,
    /// Since when some connection is there while everything was told.
    there_since: Option<Instant>,
}

impl Teller {
    /// Interests that may miss publications from now on.
    pub(super) fn lost(&mut self, lost: &[InterestId]) -> Vec<BrokerEvent> {
        self.down.extend(lost);
        if self.everything || lost.is_empty() {
            return Vec::new();
        }
        if lost.len() > ONE_BY_ONE {
            self.everything = true;
            return vec![interrupted(Scope::All, DISCONNECTED)];
        }
        self.told.extend(lost);
        lost.iter().map(|id| interrupted(Scope::Interest(*id), INTERRUPTED)).collect()
    }

    /// Interests that do not any more.
    pub(super) fn restored(&mut self, restored: &[InterestId]) -> Vec<BrokerEvent> {
        let mut events = Vec::new();
        for id in restored {
            if !self.down.remove(id) {
                continue;
            }
            if self.told.remove(id) {
                events.push(BrokerEvent::Resumed(Scope::Interest(*id)));
            } else if !self.everything {
                // It was told with everything, and that is over since long. Before anything comes by it, it is told again.
                self.everything = true;
                events.push(interrupted(Scope::All, DISCONNECTED));
            }
        }
        events
    }

    /// Interests that are gone; nobody waits for their end.
    pub(super) fn forget(&mut self, gone: impl IntoIterator<Item = InterestId>) {
        for id in gone {
            self.down.remove(&id);
            self.told.remove(&id);
        }
    }

    /// Whether there is a connection to any master, and to all of them. Has to be called now and then, after all other news.
    pub(super) fn connected(&mut self, any: bool, all: bool, now: Instant) -> Vec<BrokerEvent> {
        let mut events = Vec::new();
        if !any && !self.everything {
            self.everything = true;
            events.push(interrupted(Scope::All, DISCONNECTED));
        }
        self.there_since = if any && self.everything { self.there_since.or(Some(now)) } else { None };
        let Some(since) = self.there_since else { return events };
        if (all && self.down.is_empty()) || now.duration_since(since) >= PATIENCE {
            self.everything = false;
            self.there_since = None;
            events.push(BrokerEvent::Resumed(Scope::All));
            self.tell_rest(&mut events);
        }
        events
    }

    /// Everything is over but for some.
    fn tell_rest(&mut self, events: &mut Vec<BrokerEvent>) {
        let rest: Vec<InterestId> = self.down.iter().copied().collect();
        if rest.len() <= ONE_BY_ONE {
            self.told.extend(&rest);
            events.extend(rest.iter().map(|id| interrupted(Scope::Interest(*id), INTERRUPTED)));
        } else {
            // Those told before are not over by what was said of everything.
            events.extend(self.told.iter().map(|id| interrupted(Scope::Interest(*id), INTERRUPTED)));
        }
    }
}

fn interrupted(scope: Scope, reason: &'static str) -> BrokerEvent {
    BrokerEvent::Interrupted(Interruption { scope, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<InterestId> {
        numbers.into_iter().map(InterestId).collect()
    }

    fn shown(events: Vec<BrokerEvent>) -> String {
        let mut shown: Vec<String> = events
            .into_iter()
            .map(|event| match event {
                BrokerEvent::Interrupted(Interruption { scope: Scope::All, .. }) => "-all".to_owned(),
                BrokerEvent::Interrupted(Interruption { scope: Scope::Interest(id), .. }) => format!("-{}", id.0),
                BrokerEvent::Resumed(Scope::All) => "+all".to_owned(),
                BrokerEvent::Resumed(Scope::Interest(id)) => format!("+{}", id.0),
                BrokerEvent::Publication(_) => unreachable!(),
            })
            .collect();
        if shown.len() > 3 {
            shown = vec![shown[0].clone(), "…".to_owned(), shown.len().to_string()];
        }
        shown.join(" ")
    }

    #[test]
    fn few_are_told_one_by_one() {
        let mut teller = Teller::default();
        assert_eq!(shown(teller.lost(&ids([1, 2]))), "-1 -2");
        assert_eq!(shown(teller.connected(true, false, Instant::now())), "");
        assert_eq!(shown(teller.restored(&ids([2, 9]))), "+2");
        teller.forget(ids([1]));
        assert_eq!(shown(teller.restored(&ids([1]))), "");
        assert_eq!(shown(teller.connected(true, true, Instant::now())), "");
    }

    #[test]
    fn without_any_connection_everything_is_interrupted_until_all_is_back() {
        let now = Instant::now();
        let mut teller = Teller::default();
        assert_eq!(shown(teller.lost(&ids([1]))), "-1");
        assert_eq!(shown(teller.connected(false, false, now)), "-all");
        assert_eq!(shown(teller.lost(&ids([2]))), "");
        assert_eq!(shown(teller.connected(false, false, now + PATIENCE)), "");
        assert_eq!(shown(teller.connected(true, false, now + PATIENCE)), "");
        assert_eq!(shown(teller.restored(&ids([1, 2]))), "+1");
        assert_eq!(shown(teller.connected(true, true, now + PATIENCE)), "+all");
        assert_eq!(shown(teller.connected(false, false, now)), "-all");
        assert_eq!(shown(teller.connected(true, true, now)), "+all");
    }

    #[test]
    fn what_stays_away_does_not_keep_the_rest_interrupted() {
        let now = Instant::now();
        let mut teller = Teller::default();
        assert_eq!(shown(teller.lost(&ids(0..300))), "-all");
        assert_eq!(shown(teller.connected(true, false, now)), "");
        assert_eq!(shown(teller.restored(&ids(0..299))), "");
        assert_eq!(shown(teller.connected(true, false, now + PATIENCE)), "+all -299");
        assert_eq!(shown(teller.restored(&ids([299]))), "+299");
    }

    #[test]
    fn many_that_stay_away_are_told_as_everything_again_when_they_come_back() {
        let now = Instant::now();
        let mut teller = Teller::default();
        assert_eq!(shown(teller.lost(&ids([1_000]))), "-1000");
        assert_eq!(shown(teller.lost(&ids(0..300))), "-all");
        teller.connected(true, false, now);
        assert_eq!(shown(teller.connected(true, false, now + PATIENCE)), "+all -1000");
        assert_eq!(shown(teller.restored(&ids(0..150))), "-all");
        assert_eq!(shown(teller.restored(&ids(150..299))), "");
        assert_eq!(shown(teller.connected(true, false, now)), "");
        assert_eq!(shown(teller.restored(&ids([1_000]))), "+1000");
        assert_eq!(shown(teller.restored(&ids([299]))), "");
        assert_eq!(shown(teller.connected(true, true, now)), "+all");
    }
}
