//! The rows of channels. Time is an argument.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    ConnectionKey, Incarnation, Place, PlaceMap, Reap, Reaped, Row, RowChange, RowPage, Standing, StoreEvent, User,
    Version, Write, Written, compact_map::CompactMap,
};

/// How long the numbering of a channel without rows is kept.
const EMPTY_FOR: Duration = Duration::from_secs(3_600);
/// Rows that one call reaps.
const REAPED_ROWS: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Channels {
    channels: PlaceMap<Channel>,
    /// Channels that had no row left, in the order in which that happened.
    empty: VecDeque<(Instant, Place)>,
}

#[derive(Debug)]
struct Channel {
    version: Version,
    rows: CompactMap<ConnectionKey, Kept>,
    /// In the order in which they came, so that a cursor skips nothing whatever is removed.
    order: CompactMap<u64, ConnectionKey>,
    last: u64,
    /// With the number of connections of each.
    users: CompactMap<User, u32>,
    empty_since: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    incarnation: Incarnation,
    row: Row,
}

impl Channels {
    pub(super) fn write(&mut self, now: Instant, write: Write) -> (Written, Option<StoreEvent>) {
        self.forget_empty(now);
        let Write { place, incarnation, puts, removes } = write;
        let channel = self.channels.get_or_insert_with(&place, Channel::new);
        let was_empty = channel.rows.is_empty();
        let mut changes = Vec::new();
        for row in puts {
            changes.extend(channel.put(&incarnation, row));
        }
        for connection in removes {
            if channel.rows.get(&connection).is_some_and(|kept| kept.incarnation == incarnation) {
                changes.extend(channel.remove(connection).map(|row| RowChange::Removed { connection, user: row.user }));
            }
        }
        let is_empty = channel.rows.is_empty();
        let (occupied, vacated) = (was_empty && !is_empty, !was_empty && is_empty);
        let event = self.changed(now, &place, changes);
        let version = self.channels.get(&place).map_or_else(nothing_written, |channel| channel.version.clone());
        (Written { version, occupied, vacated }, event)
    }

    pub(super) fn reap(&mut self, now: Instant, reap: &Reap) -> (Reaped, Option<StoreEvent>) {
        let Reap { place, dead } = reap;
        let Some(channel) = self.channels.get_mut(place) else {
            return (Reaped { removed: Vec::new(), vacated: false, more: false }, None);
        };
        let rows = channel
            .order
            .values()
            .filter(|connection| channel.rows.get(connection).is_some_and(|kept| kept.incarnation == *dead));
        let found: Vec<ConnectionKey> = rows.take(REAPED_ROWS + 1).copied().collect();
        let more = found.len() > REAPED_ROWS;
        let found = found.into_iter().take(REAPED_ROWS);
        let removed: Vec<Row> = found.filter_map(|connection| channel.remove(connection)).collect();
        let vacated = !removed.is_empty() && channel.rows.is_empty();
        let changes =
            removed.iter().map(|row| RowChange::Removed { connection: row.connection, user: row.user.clone() });
        let event = self.changed(now, place, changes.collect());
        (Reaped { removed, vacated, more }, event)
    }

    pub(super) fn read(&self, place: &Place, cursor: Option<u64>, limit: usize) -> RowPage {
        let Some(channel) = self.channels.get(place) else {
            return RowPage { version: nothing_written(), rows: Vec::new(), next: None };
        };
        let mut behind = channel.order.behind(cursor.as_ref());
        let page: Vec<_> = behind.by_ref().take(limit.max(1)).collect();
        let next = behind.next().and_then(|_| page.last().map(|(number, _)| **number));
        let rows = page.into_iter().filter_map(|(_, connection)| channel.rows.get(connection));
        let rows = rows.map(|kept| (kept.incarnation.clone(), kept.row.clone())).collect();
        RowPage { version: channel.version.clone(), rows, next }
    }

    pub(super) fn standing(&self, place: &Place) -> Standing {
        match self.channels.get(place) {
            Some(channel) => Standing {
                version: channel.version.clone(),
                users: channel.users.len() as u64,
                connections: channel.rows.len() as u64,
            },
            None => Standing { version: nothing_written(), users: 0, connections: 0 },
        }
    }

    pub(super) fn rows(&self) -> Vec<(Place, Incarnation, Row)> {
        let all =
            self.channels.iter().flat_map(|(place, channel)| channel.rows.values().map(move |kept| (place, kept)));
        all.map(|(place, kept)| (place.clone(), kept.incarnation.clone(), kept.row.clone())).collect()
    }

    /// Counts a write that has changed something. A channel where nothing was ever written leaves nothing behind.
    fn changed(&mut self, now: Instant, place: &Place, changes: Vec<RowChange>) -> Option<StoreEvent> {
        let channel = self.channels.get_mut(place)?;
        if changes.is_empty() {
            if channel.version.number == 0 {
                self.channels.remove(place);
            }
            return None;
        }
        if channel.version.number == 0 {
            channel.version.epoch = format!("{:016x}", fastrand::u64(..));
        }
        channel.version.number += 1;
        channel.empty_since = channel.rows.is_empty().then_some(now);
        if channel.rows.is_empty() {
            self.empty.push_back((now, place.clone()));
        }
        Some(StoreEvent::Changed { place: place.clone(), version: channel.version.clone(), changes })
    }

    fn forget_empty(&mut self, now: Instant) {
        while let Some((since, _)) = self.empty.front()
            && *since + EMPTY_FOR <= now
        {
            let Some((since, place)) = self.empty.pop_front() else { return };
            if self.channels.get(&place).is_some_and(|channel| channel.empty_since == Some(since)) {
                self.channels.remove(&place);
            }
        }
    }
}

impl Channel {
    fn new() -> Self {
        Self {
            version: nothing_written(),
            rows: CompactMap::default(),
            order: CompactMap::default(),
            last: 0,
            users: CompactMap::default(),
            empty_since: None,
        }
    }

    fn put(&mut self, incarnation: &Incarnation, row: Row) -> Option<RowChange> {
        let connection = row.connection;
        let number = match self.rows.get(&connection) {
            Some(kept) if kept.incarnation == *incarnation && kept.row == row => return None,
            // This write has been overtaken.
            Some(kept) if kept.incarnation.is_later_than(incarnation) => return None,
            Some(kept) => {
                let (number, user) = (kept.number, kept.row.user.clone());
                self.leave(&user);
                number
            }
            None => {
                self.last += 1;
                self.order.insert(self.last, connection);
                self.last
            }
        };
        match self.users.get_mut(&row.user) {
            Some(connections) => *connections += 1,
            None => _ = self.users.insert(row.user.clone(), 1),
        }
        self.rows.insert(connection, Kept { number, incarnation: incarnation.clone(), row: row.clone() });
        Some(RowChange::Put(incarnation.clone(), row))
    }

    fn remove(&mut self, connection: ConnectionKey) -> Option<Row> {
        let Kept { number, row, .. } = self.rows.remove(&connection)?;
        self.order.remove(&number);
        self.leave(&row.user);
        Some(row)
    }

    fn leave(&mut self, user: &User) {
        let connections = self.users.get_mut(user).expect("the user of every row is counted");
        *connections -= 1;
        if *connections == 0 {
            self.users.remove(user);
        }
    }
}

fn nothing_written() -> Version {
    Version { epoch: String::new(), number: 0 }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Channel as Name, Tenant};

    use super::*;
    use crate::State;

    #[test]
    fn the_numbering_of_an_empty_channel_is_kept_for_a_while() {
        let mut channels = Channels::default();
        let start = Instant::now();
        let place = Place { tenant: Tenant::default(), channel: Name::parse("crew:1").unwrap() };
        let connection = ConnectionKey(1);
        let row = Row { connection, user: User::Anonymous(connection), state: State::Online, info: None, since: 1 };
        let write = |puts: Vec<Row>, removes| Write {
            place: place.clone(),
            incarnation: Incarnation::new("a", 1),
            puts,
            removes,
        };
        // Nothing was ever written.
        let (written, event) = channels.write(start, write(vec![], vec![connection]));
        assert!(written.version == nothing_written() && event.is_none() && channels.channels.is_empty());
        let epoch = channels.write(start, write(vec![row.clone()], vec![])).0.version.epoch;
        assert!(channels.write(start, write(vec![], vec![connection])).0.vacated);
        let later = start + EMPTY_FOR - Duration::from_nanos(1);
        let written = channels.write(later, write(vec![row.clone()], vec![])).0;
        assert_eq!(written.version, Version { epoch: epoch.clone(), number: 3 });
        channels.write(later, write(vec![], vec![connection]));
        channels.forget_empty(start + EMPTY_FOR);
        assert_eq!(channels.standing(&place).version.number, 4, "it was in use since");
        let written = channels.write(later + EMPTY_FOR, write(vec![row], vec![])).0;
        assert!(written.version.number == 1 && written.version.epoch != epoch && written.occupied, "{written:?}");
    }
}
