//! What those who watch a channel are told, and when. Pure; time is an argument.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{Changed, Member, Roster, User, compact_map::CompactMap};

/// Who is told what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// Names, and counts alone where there are too many.
    Auto,
    /// Names, however many.
    Names,
}

/// What became of one member: `data` of `presence:change`.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// Who.
    pub user: User,
    /// `online`, `idle`, an own word, or `offline`.
    pub status: Arc<str>,
    /// The info of the connection whose state it is.
    pub info: Option<Arc<RawValue>>,
    /// How many connections; 0 when offline.
    pub connections: u32,
    /// By one higher than in the announcement before, for this audience.
    pub version: u64,
}

/// How many there are: `data` of `presence:count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Members.
    pub users: usize,
    /// Their connections.
    pub connections: usize,
    /// By one higher than in the announcement before, for this audience.
    pub version: u64,
}

/// One event to tell.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// `presence:change`
    Change(MemberChange),
    /// `presence:count`
    Count(Counts),
    /// There are few enough again to be named: everybody is to get a snapshot, whose version is this.
    Snapshot(u64),
}

/// Gathers changes of one channel for one audience, and says what is told after the batch time.
#[derive(Debug)]
pub struct Announcer {
    batch: Duration,
    /// [`usize::MAX`] for those who want names however many there are.
    max_named: usize,
    version: u64,
    /// When what waits is told.
    due: Option<Duration>,
    /// Changes in this batch so far.
    changes: u64,
    /// How many of them somebody has been shown before they are told.
    shown: u64,
    telling: Telling,
}

#[derive(Debug)]
enum Telling {
    /// With what each was before its first change in this batch.
    Names(CompactMap<User, First>),
    /// With what was told last.
    Counts { users: usize, connections: usize },
}

/// The first change of a member in a batch.
#[derive(Debug)]
struct First {
    /// Which change of the batch it was, counted from 0.
    number: u64,
    before: Option<Member>,
}

/// Counts give way to names again below this part of `max_named`, so that one who comes and goes does not turn it over each time.
const NAMED_AGAIN_PERCENT: usize = 90;

impl Announcer {
    /// Tells nothing of what is there already. `batch` is how long changes are gathered; above `max_named` members
    /// [`Audience::Auto`] gets counts.
    pub fn new(audience: Audience, batch: Duration, max_named: usize, roster: &Roster) -> Self {
        let max_named = match audience {
            Audience::Auto => max_named,
            Audience::Names => usize::MAX,
        };
        let telling = if roster.users() > max_named {
            Telling::Counts { users: roster.users(), connections: roster.connections() }
        } else {
            Telling::Names(CompactMap::default())
        };
        Self { batch, max_named, version: 0, due: None, changes: 0, shown: 0, telling }
    }

    /// A member has changed, as the roster says.
    pub fn handle_change(&mut self, now: Duration, changed: &Changed) {
        self.due.get_or_insert(now + self.batch);
        if let Telling::Names(waiting) = &mut self.telling
            && !waiting.contains_key(&changed.user)
        {
            let first = First { number: self.changes, before: changed.before.clone() };
            waiting.insert(changed.user.clone(), first);
        }
        self.changes += 1;
    }

    /// When [`poll`](Self::poll) has something; `None` while nothing waits.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// What is to be told now: nothing before the batch time is over. Changes that came to nothing are not told, except to where
    /// somebody has been [shown](Self::show) them.
    pub fn poll(&mut self, now: Duration, roster: &Roster) -> Vec<Announcement> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let shown = self.shown;
        (self.due, self.changes, self.shown) = (None, 0, 0);
        let (users, connections) = (roster.users(), roster.connections());
        match &mut self.telling {
            Telling::Names(waiting) if users <= self.max_named => {
                let waiting = std::mem::take(waiting);
                waiting
                    .into_entries()
                    .into_iter()
                    .filter_map(|(user, first)| self.tell(user, &first, shown, roster))
                    .collect()
            }
            Telling::Counts { .. } if users * 100 < self.max_named.saturating_mul(NAMED_AGAIN_PERCENT) => {
                self.telling = Telling::Names(CompactMap::default());
                vec![Announcement::Snapshot(self.next_version())]
            }
            Telling::Counts { users: told_users, connections: told_connections }
                if shown == 0 && (*told_users, *told_connections) == (users, connections) =>
            {
                Vec::new()
            }
            _ => {
                self.telling = Telling::Counts { users, connections };
                vec![Announcement::Count(Counts { users, connections, version: self.next_version() })]
            }
        }
    }

    /// Somebody is shown the roster as it is now, all of it or a part: gives the version of the last announcement, behind which it
    /// goes on for them. Of what waits they have seen something already, so that it is told even where it comes to nothing.
    pub fn show(&mut self) -> u64 {
        self.shown = self.changes;
        self.version
    }

    /// Whether members are told by counts alone at the moment. Whoever is shown the roster unasked gets members only where not.
    pub fn counts_only(&self) -> bool {
        matches!(self.telling, Telling::Counts { .. })
    }

    fn tell(&mut self, user: User, first: &First, shown: u64, roster: &Roster) -> Option<Announcement> {
        let now = roster.member(&user);
        let same = match (&first.before, &now) {
            (Some(before), Some(now)) => before.looks_like(now),
            (None, None) => true,
            _ => false,
        };
        if same && first.number >= shown {
            return None;
        }
        let version = self.next_version();
        let change = match now {
            Some(Member { state, info, connections, .. }) => {
                MemberChange { user, status: state.as_str().into(), info, connections, version }
            }
            None => MemberChange { user, status: "offline".into(), info: None, connections: 0, version },
        };
        Some(Announcement::Change(change))
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectionKey, Incarnation, Row, RowChange, State};

    const BATCH: Duration = Duration::from_millis(250);

    /// A roster with an announcer, at a time.
    struct Watched {
        roster: Roster,
        announcer: Announcer,
        now: Duration,
    }

    impl Watched {
        fn new(audience: Audience, max_named: usize, users: u128) -> Self {
            let mut roster = Roster::default();
            for n in 0..users {
                roster.apply(put(n, &n.to_string(), "online"));
            }
            let announcer = Announcer::new(audience, BATCH, max_named, &roster);
            Self { roster, announcer, now: Duration::from_secs(1) }
        }

        fn apply(&mut self, change: RowChange) {
            for changed in self.roster.apply(change) {
                self.announcer.handle_change(self.now, &changed);
            }
        }

        fn put(&mut self, connection: u128, user: &str, state: &str) {
            self.apply(put(connection, user, state));
        }

        fn remove(&mut self, connection: u128) {
            let user = User::Named("whoever".into());
            self.apply(RowChange::Removed { connection: ConnectionKey(connection), user });
        }

        /// What is told at the end of the batch.
        fn told(&mut self) -> Vec<String> {
            let Some(due) = self.announcer.poll_timeout() else { return Vec::new() };
            assert!(self.announcer.poll(due - Duration::from_nanos(1), &self.roster).is_empty());
            self.now = due;
            let told = self.announcer.poll(due, &self.roster);
            assert_eq!(self.announcer.poll_timeout(), None);
            let told = told.into_iter().map(|announcement| match announcement {
                Announcement::Change(MemberChange { user, status, connections, version, .. }) => {
                    format!("{version} {} {status} {connections}", user.to_cursor())
                }
                Announcement::Count(Counts { users, connections, version }) => {
                    format!("{version} count {users} {connections}")
                }
                Announcement::Snapshot(version) => format!("{version} snapshot"),
            });
            told.collect()
        }
    }

    fn put(connection: u128, user: &str, state: &str) -> RowChange {
        let connection = ConnectionKey(connection);
        let (user, state) = (User::Named(user.into()), State::parse(state).unwrap());
        RowChange::Put(Incarnation::new("n", 1), Row { connection, user, state, info: None, since: 1 })
    }

    #[test]
    fn a_batch_tells_each_member_once_as_it_is_at_its_end() {
        let mut watched = Watched::new(Audience::Auto, 500, 2);
        let began = watched.now;
        watched.put(10, "bob", "online");
        assert_eq!(watched.announcer.poll_timeout(), Some(began + BATCH));
        watched.now += BATCH / 2;
        watched.put(11, "bob", "editing");
        watched.put(12, "alice", "online");
        watched.remove(0);
        // Later changes do not put the batch off.
        assert_eq!(watched.announcer.poll_timeout(), Some(began + BATCH));
        assert_eq!(watched.told(), ["1 u:0 offline 0", "2 u:alice online 1", "3 u:bob editing 2"]);
        assert!(watched.told().is_empty());
        watched.remove(11);
        assert_eq!(watched.told(), ["4 u:bob online 1"]);
    }

    #[test]
    fn what_came_to_nothing_is_not_told() {
        let mut watched = Watched::new(Audience::Auto, 500, 1);
        watched.put(5, "guest", "online");
        watched.put(0, "0", "idle");
        watched.remove(5);
        watched.put(0, "0", "online");
        assert_eq!(watched.announcer.poll_timeout(), Some(watched.now + BATCH));
        assert!(watched.told().is_empty());
        // A reconnect under another key within the batch neither.
        watched.remove(0);
        watched.put(1, "0", "online");
        assert!(watched.told().is_empty());
        assert_eq!(watched.announcer.show(), 0);
    }

    #[test]
    fn what_somebody_was_shown_is_told_even_where_it_came_to_nothing() {
        let mut watched = Watched::new(Audience::Auto, 500, 1);
        watched.put(5, "guest", "online");
        assert_eq!(watched.announcer.show(), 0);
        // Those that changed only behind it need not be told.
        watched.put(6, "late", "online");
        watched.remove(6);
        watched.remove(5);
        assert_eq!(watched.told(), ["1 u:guest offline 0"]);
        // It counts for its own batch only.
        watched.put(5, "guest", "online");
        watched.remove(5);
        assert!(watched.told().is_empty());

        let mut counted = Watched::new(Audience::Auto, 0, 3);
        counted.remove(2);
        counted.announcer.show();
        counted.put(2, "2", "online");
        assert_eq!(counted.told(), ["1 count 3 3"]);
    }

    #[test]
    fn above_a_size_there_is_one_count_for_a_batch_and_names_again_well_below() {
        let mut watched = Watched::new(Audience::Auto, 10, 9);
        watched.put(9, "9", "online");
        assert_eq!(watched.told(), ["1 u:9 online 1"]);
        watched.put(10, "10", "online");
        watched.put(11, "10", "online");
        assert!(!watched.announcer.counts_only());
        assert_eq!(watched.told(), ["2 count 11 12"]);
        assert!(watched.announcer.counts_only());
        // A state is no count.
        watched.put(0, "0", "idle");
        assert!(watched.told().is_empty());
        for n in [9, 10, 11] {
            watched.remove(n);
        }
        assert_eq!(watched.told(), ["3 count 9 9"]);
        watched.remove(8);
        assert_eq!(watched.told(), ["4 snapshot"]);
        assert!(!watched.announcer.counts_only());
        watched.put(0, "0", "online");
        assert_eq!(watched.told(), ["5 u:0 online 1"]);
    }

    #[test]
    fn those_who_want_names_get_them_however_many() {
        let mut watched = Watched::new(Audience::Names, 1, 100);
        watched.put(1, "1", "idle");
        watched.remove(7);
        assert_eq!(watched.told(), ["1 u:1 idle 1", "2 u:7 offline 0"]);
        assert!(!watched.announcer.counts_only());
    }

    /// The storm of an issue: 10,000 in ten seconds.
    #[test]
    fn a_storm_of_joins_is_few_events() {
        let mut watched = Watched::new(Audience::Auto, 500, 0);
        let mut told = 0;
        for n in 0..10_000_u64 {
            watched.now = Duration::from_millis(n);
            if watched.announcer.poll_timeout().is_some_and(|due| due <= watched.now) {
                told += watched.announcer.poll(watched.now, &watched.roster).len();
            }
            watched.put(n.into(), &n.to_string(), "online");
        }
        told += watched.told().len();
        assert!(told <= 500 + 40, "{told}");
    }
}
