//! One node at a store, and what it writes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fanfare_presence::{
    ConnectionKey, Incarnation, Leases, Place, PresenceStore, Reap, Renewal, Row, RowChange, Standing, State,
    StoreEvent, StoreEvents, User, Version, Write, Written,
};
use fanfare_protocol::{Channel, Tenant};
use serde_json::value::RawValue;

use crate::fixture::{Fixture, SOON};

pub(crate) struct Node {
    pub(crate) store: Arc<dyn PresenceStore>,
    events: StoreEvents,
    /// Where channels stood before they were listened to.
    before: Mutex<HashMap<Place, Version>>,
}

impl Node {
    pub(crate) fn over((store, events): (Arc<dyn PresenceStore>, StoreEvents)) -> Self {
        Self { store, events, before: Mutex::default() }
    }

    pub(crate) async fn connect<F: Fixture>(fixture: &F) -> Self {
        Self::over(fixture.connect().await)
    }

    pub(crate) async fn event(&mut self) -> StoreEvent {
        self.next_event().await.expect("the stream of events goes on")
    }

    /// `None` where the stream has ended. What changed before it was listened to may still come, as on a cluster: it is passed over,
    /// as a mirror does.
    pub(crate) async fn next_event(&mut self) -> Option<StoreEvent> {
        loop {
            let event = tokio::time::timeout(SOON, self.events.recv()).await.expect("an event in time")?;
            let StoreEvent::Changed { place, version, .. } = &event else { return Some(event) };
            let before = self.before.get_mut().unwrap().get(place);
            if before.is_none_or(|before| before.epoch != version.epoch || before.number < version.number) {
                return Some(event);
            }
        }
    }

    pub(crate) async fn listen(&self, places: &[Place]) {
        let standings = self.store.standings(places).await.unwrap();
        let versions = standings.into_iter().map(|standing| standing.version);
        self.before.lock().unwrap().extend(places.iter().cloned().zip(versions));
        self.store.listen(places).await.unwrap();
    }

    /// The next event, which is a change.
    pub(crate) async fn changed(&mut self) -> (Place, Version, Vec<RowChange>) {
        match self.event().await {
            StoreEvent::Changed { place, version, changes } => (place, version, changes),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for an event of this kind; what comes before it is passed over.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&StoreEvent) -> bool) {
        while !wanted(&self.event().await) {}
    }

    /// Nothing was told but this, which is caused for the purpose.
    pub(crate) async fn settle(&mut self) {
        let mark = place("suite:mark");
        self.listen(std::slice::from_ref(&mark)).await;
        let row = row(fastrand::u128(..), "mark");
        self.store.write(write("suite:mark", "mark", vec![row], vec![])).await.unwrap();
        let (place, ..) = self.changed().await;
        assert_eq!(place, mark);
        self.store.unlisten(&[mark]).await;
    }

    pub(crate) async fn renew(&self, name: &str, lease: Duration, begin: bool, reaps: bool) -> Leases {
        self.store.renew(Renewal { incarnation: incarnation(name), lease, begin, reaps }).await.unwrap()
    }

    pub(crate) async fn begin(&self, name: &str, lease: Duration) -> Leases {
        self.renew(name, lease, true, false).await
    }

    /// Writes a row for each connection, of a user named like it.
    pub(crate) async fn put(&self, channel: &str, name: &str, connections: &[u128]) -> Written {
        let puts = connections.iter().map(|n| row(*n, &format!("u{n}"))).collect();
        self.store.write(write(channel, name, puts, vec![])).await.unwrap()
    }

    pub(crate) async fn remove(&self, channel: &str, name: &str, connections: &[u128]) -> Written {
        let removes = connections.iter().copied().map(connection).collect();
        self.store.write(write(channel, name, vec![], removes)).await.unwrap()
    }

    pub(crate) async fn standing(&self, channel: &str) -> Standing {
        self.store.standings(&[place(channel)]).await.unwrap().remove(0)
    }

    /// All rows of a channel, each once, by their connections.
    pub(crate) async fn rows(&self, channel: &str) -> Vec<(Incarnation, Row)> {
        self.pages(channel, 100).await.1
    }

    /// Reads a channel to its end: the version of the first page, and the rows by their connections.
    pub(crate) async fn pages(&self, channel: &str, limit: usize) -> (Version, Vec<(Incarnation, Row)>) {
        let (mut first, mut rows, mut cursor) = (None, Vec::<(Incarnation, Row)>::new(), None);
        loop {
            let page = self.store.read(&place(channel), cursor, limit).await.unwrap();
            first.get_or_insert(page.version);
            rows.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // Of one that comes twice, the later.
        rows.reverse();
        rows.sort_by_key(|(_, row)| row.connection);
        rows.dedup_by_key(|(_, row)| row.connection);
        (first.unwrap(), rows)
    }

    /// Whose the rows of a channel are, by their connections.
    pub(crate) async fn owners(&self, channel: &str) -> Vec<(u128, String)> {
        let rows = self.rows(channel).await.into_iter();
        rows.map(|(incarnation, row)| (row.connection.0, incarnation.node().to_owned())).collect()
    }

    /// Reaps a channel to the end: the connections that were removed, and how often it was said to be vacated.
    pub(crate) async fn reap(&self, channel: &str, dead: &str) -> (Vec<u128>, usize) {
        let (mut removed, mut vacated) = (Vec::new(), 0);
        loop {
            let reap = Reap { place: place(channel), dead: incarnation(dead) };
            let reaped = self.store.reap(reap).await.unwrap();
            removed.extend(reaped.removed.iter().map(|row| row.connection.0));
            vacated += usize::from(reaped.vacated);
            if !reaped.more {
                return (removed, vacated);
            }
        }
    }
}

pub(crate) fn place(channel: &str) -> Place {
    place_of("acme", channel)
}

pub(crate) fn place_of(tenant: &str, channel: &str) -> Place {
    Place { tenant: Tenant::parse(tenant).unwrap(), channel: Channel::parse(channel).unwrap() }
}

pub(crate) fn connection(n: u128) -> ConnectionKey {
    ConnectionKey(n)
}

/// The same for the same name.
pub(crate) fn incarnation(node: &str) -> Incarnation {
    Incarnation::new(node, 7)
}

pub(crate) fn row(n: u128, user: &str) -> Row {
    let user = User::Named(user.into());
    Row { connection: connection(n), user, state: State::Online, info: None, since: 1_700_000_000_000 }
}

pub(crate) fn with_info(row: Row, info: &str) -> Row {
    Row { info: Some(RawValue::from_string(info.to_owned()).unwrap().into()), ..row }
}

pub(crate) fn write(channel: &str, name: &str, puts: Vec<Row>, removes: Vec<ConnectionKey>) -> Write {
    Write { place: place(channel), incarnation: incarnation(name), puts, removes }
}
