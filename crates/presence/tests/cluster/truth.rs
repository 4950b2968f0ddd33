//! What the sockets say: who is there, and who was there all the time.

use std::{collections::BTreeMap, time::Duration};

use fanfare_presence::{ConnectionKey, Incarnation, Place, Roster, Row, RowChange, User};

/// How long a join, a change or a return may take until everybody has to know, in a calm run.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a connection has to have been there before whoever says that it is not is wrong.
const LATELY: Duration = Duration::from_secs(2);
/// How long after all data was lost somebody may be told to be away.
const LOST_FOR: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// With the node that each is on.
    rows: BTreeMap<(Place, ConnectionKey), (usize, Row)>,
    covers: Vec<Cover>,
    lost: Option<Duration>,
}

/// A time in which a connection is on a channel for all to see.
#[derive(Debug)]
struct Cover {
    place: Place,
    connection: ConnectionKey,
    user: User,
    node: usize,
    from: Duration,
    until: Option<Duration>,
}

impl Truth {
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Place, usize, &Row)> {
        self.rows.iter().map(|((place, _), (node, row))| (place, *node, row))
    }

    pub(crate) fn rows_of(&self, node: usize) -> Vec<(Place, Row)> {
        let of_node = self.rows().filter(|(_, on, _)| *on == node);
        of_node.map(|(place, _, row)| (place.clone(), row.clone())).collect()
    }

    /// Who is on a channel, as a roster.
    pub(crate) fn roster(&self, place: &Place) -> Roster {
        let mut roster = Roster::default();
        for (_, node, row) in self.rows().filter(|(at, ..)| *at == place) {
            roster.apply(RowChange::Put(Incarnation::new("truth", node as u64), row.clone()));
        }
        roster
    }

    /// Where the node cannot write, nobody else can know.
    pub(crate) fn join(&mut self, now: Duration, node: usize, place: &Place, row: Row, writes: bool) {
        let (connection, user) = (row.connection, row.user.clone());
        let key = (place.clone(), connection);
        let was_there = self.rows.insert(key, (node, row)).is_some();
        if !was_there && writes {
            let place = place.clone();
            self.covers.push(Cover { place, connection, user, node, from: now + SETTLE, until: None });
        }
    }

    pub(crate) fn update(&mut self, place: &Place, connection: ConnectionKey, change: impl FnOnce(&mut Row)) {
        if let Some((_, row)) = self.rows.get_mut(&(place.clone(), connection)) {
            change(row);
        }
    }

    /// It is seen for the grace.
    pub(crate) fn leave(&mut self, now: Duration, grace: Duration, place: &Place, connection: ConnectionKey) {
        self.rows.remove(&(place.clone(), connection));
        for cover in self.covers.iter_mut().filter(|cover| cover.connection == connection && cover.place == *place) {
            cover.until.get_or_insert(now + grace);
        }
    }

    /// Nothing can be said of what a node has from now on.
    pub(crate) fn doubt(&mut self, now: Duration, node: usize) {
        for cover in self.covers.iter_mut().filter(|cover| cover.node == node) {
            cover.until = Some(cover.until.map_or(now, |until| until.min(now)));
        }
    }

    /// It is as good as any again, with what it has.
    pub(crate) fn trust(&mut self, now: Duration, node: usize) {
        for (place, row) in self.rows_of(node) {
            let (connection, user) = (row.connection, row.user);
            let is_this = |cover: &Cover| cover.connection == connection && cover.place == place;
            if self.covers.iter().any(|cover| is_this(cover) && cover.until.is_none()) {
                continue;
            }
            self.covers.push(Cover { place, connection, user, node, from: now + 2 * SETTLE, until: None });
        }
    }

    /// Its process has ended.
    pub(crate) fn end(&mut self, now: Duration, node: usize) {
        self.doubt(now, node);
        self.rows.retain(|_, (on, _)| *on != node);
    }

    pub(crate) fn lose(&mut self, now: Duration) {
        self.lost = Some(now);
    }

    pub(crate) fn lost_lately(&self, now: Duration) -> bool {
        self.lost.is_some_and(|lost| now < lost + LOST_FOR)
    }

    /// Whether a user was on a channel all the time lately, so that nobody may be told that it is not.
    pub(crate) fn was_there_lately(&self, now: Duration, place: &Place, user: &User) -> bool {
        if self.lost_lately(now) {
            return false;
        }
        let covers = self.covers.iter().filter(|cover| cover.place == *place && cover.user == *user);
        let mut covers: Vec<_> = covers.map(|cover| (cover.from, cover.until.unwrap_or(Duration::MAX))).collect();
        covers.sort();
        let mut covered = now.saturating_sub(LATELY);
        for (from, until) in covers {
            if from <= covered {
                covered = covered.max(until);
            }
        }
        covered > now
    }
}
