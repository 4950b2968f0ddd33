//! One life of a node: a keeper, and what is under way for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use fanfare_presence::{
    Call, ConnectionKey, Keeper, KeeperConfig, Outcome, Place, PresenceStore, QueryId, Row, State, StoreError,
    StoreEvent, StoreEvents,
};

use crate::client::Client;

pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const GRACE: Duration = Duration::from_secs(2);
pub(crate) const MAX_NAMED: usize = 4;

pub(crate) struct Node {
    /// Tells lives of the same node apart.
    pub(crate) life: u64,
    pub(crate) keeper: Keeper,
    pub(crate) store: Arc<dyn PresenceStore>,
    pub(crate) events: StoreEvents,
    pub(crate) clients: BTreeMap<u64, Client>,
    /// Questions that are not answered, and since when.
    pub(crate) asked: HashMap<QueryId, Duration>,
    /// What a connection has carried out of it last: one does after the other.
    pub(crate) last_executed: Duration,
    pub(crate) last_told: Duration,
    /// Stopped: what happens waits here.
    pub(crate) stopped: Option<Vec<Inbound>>,
    pub(crate) is_draining: bool,
    pub(crate) wakes_at: Option<Duration>,
}

/// What a keeper is told.
#[derive(Debug)]
pub(crate) enum Inbound {
    Done(Call, Outcome),
    Event(StoreEvent),
    Wake,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        life: u64,
        seed: u64,
        now: Duration,
        (store, events): (Arc<dyn PresenceStore>, StoreEvents),
    ) -> Self {
        let config = KeeperConfig {
            node: name.to_owned(),
            lease: LEASE,
            grace: GRACE,
            batch: Duration::from_millis(250),
            max_named: MAX_NAMED,
            calls: 4,
            snapshot_bytes: 1 << 20,
        };
        Self {
            life,
            keeper: Keeper::new(config, seed, now),
            store,
            events,
            clients: BTreeMap::new(),
            asked: HashMap::new(),
            last_executed: now,
            last_told: now,
            stopped: None,
            is_draining: false,
            wakes_at: None,
        }
    }

    pub(crate) fn takes_requests(&self) -> bool {
        self.stopped.is_none() && !self.is_draining
    }

    pub(crate) fn handle(&mut self, now: Duration, inbound: Inbound) {
        match inbound {
            Inbound::Done(call, outcome) => self.keeper.handle_done(now, call, outcome),
            Inbound::Event(event) => self.keeper.handle_event(now, event),
            Inbound::Wake => self.keeper.handle_timeout(now),
        }
    }

    pub(crate) fn join(&mut self, now: Duration, place: &Place, row: Row) {
        self.keeper.handle_join(now, place, row);
    }

    pub(crate) fn update(&mut self, now: Duration, place: &Place, connection: ConnectionKey, row: &Row) {
        let (state, info): (State, _) = (row.state.clone(), row.info.clone());
        self.keeper.handle_update(now, place, connection, state, info);
    }
}

/// What a call comes to whose answer never comes.
pub(crate) fn unanswered(call: &Call) -> Outcome {
    let error = StoreError::Unavailable { store: "memory", reason: "no answer in time".to_owned() };
    match call {
        Call::Renew(_) => Outcome::Renewed(Err(error)),
        Call::Write(_) => Outcome::Written(Err(error)),
        Call::Noted { .. } => Outcome::Noted(Err(error)),
        Call::Read { .. } => Outcome::Read(Err(error)),
        Call::Standings(_) => Outcome::Standings(Err(error)),
        Call::Reap(_) => Outcome::Reaped(Err(error)),
        Call::Unlisten(_) => Outcome::Done(Ok(())),
        _ => Outcome::Done(Err(error)),
    }
}
