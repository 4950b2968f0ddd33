//! The Redis store: one server, the master that sentinels name, or a cluster.
//!
//! What is written, removed and told is done by a function library, see `fanfare_presence_v1.lua`, which nodes load themselves where
//! they may. Each function works on keys of one slot and for a bounded time. Changes are told by `PUBLISH` in the function itself, so
//! that their order is that of the versions. The connections are the broker's, see [`fanfare_broker::redis_link`].
//!
//! Leases are in one slot, and each channel is in one. On one server, and with sentinels, `reap` refuses an incarnation that
//! holds a lease in the very step that would remove its rows. On a cluster it asks the leases' master before: an incarnation that has
//! lost its lease never gets one again, so the answer stays true.
//!
//! Redis may lose what it has acknowledged when a replica takes over, and all that it had when it starts empty. Either ends a
//! connection, and is told as [`Interrupted`](crate::StoreEvent::Interrupted) and [`Resumed`](crate::StoreEvent::Resumed): every node then writes its own rows again.
//! Where the leases were lost, each node takes a new incarnation with its next renewal.
//!
//! A node whose members sit still costs one call of a function in each third of a lease, which Redis counts as five commands, and a
//! `PING` on each of two connections in 5 s; on a cluster each master is asked for its view (`CLUSTER NODES`) every 2 s as well.
//!
//! A node needs in its ACL what [`fanfare_broker::redis_link`] names, the keys `~{prefix}:presence:*`, the channels
//! `&{prefix}:presence:change:*`, and `+hdel +hincrby +hlen +hmget +hscan +hset +persist +pexpire +publish +sadd +srem +sscan +time
//! +unlink +zadd +zrange +zrem +zscore`.

mod codec;
mod functions;
mod keys;
mod listening;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fanfare_broker::{
    BrokerError,
    redis_link::{Answer, FunctionCall, RedisLink},
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use self::functions::FUNCTIONS;

use self::{codec::Malformed, functions::Functions, keys::Keys};
use crate::{
    Incarnation, Leases, Place, PresenceStore, Reap, Reaped, Renewal, RowPage, Standing, StoreError, StoreEvents,
    StoreOptions, Write, Written,
};

/// Events that may wait for a node, beside those that wait in the link.
const EVENTS: usize = 256;

/// Channels whose standing is asked for in one go. Each keeps the server busy for some 10 µs.
const STANDINGS_AT_ONCE: usize = 256;

/// Channels that are noted by one call.
const NOTES_AT_ONCE: usize = 500;

/// Rows that one call of `reap` removes, about.
const REAPED_ROWS: usize = 500;

/// Places of unfinished reaping that are remembered. Beyond it one begins anew, which costs time alone.
const CURSORS: usize = 1_024;

#[derive(Debug)]
struct Redis {
    link: RedisLink,
    functions: Functions,
    /// Where the reaping of a channel goes on.
    cursors: Mutex<HashMap<(Place, Incarnation), u64>>,
    tasks: TaskTracker,
}

/// Connects to what the URL names.
pub(crate) async fn connect(options: &StoreOptions) -> Result<(Arc<dyn PresenceStore>, StoreEvents), StoreError> {
    let keys = Keys::new(&options.prefix).map_err(|error| StoreError::Configuration {
        what: "prefix",
        value: options.prefix.clone(),
        allowed: error.to_string(),
    })?;
    let (link, told) = RedisLink::connect(options, functions::LIBRARY).await.map_err(at_start)?;
    let (events, receiver) = mpsc::channel(EVENTS);
    let tasks = TaskTracker::new();
    tasks.spawn(listening::follow(told, keys.clone(), events));
    let functions = Functions { keys, one_slot: !link.is_cluster() };
    Ok((Arc::new(Redis { link, functions, cursors: Mutex::default(), tasks }), receiver))
}

/// The store's word for what the broker calls `broker`.
fn at_start(error: BrokerError) -> StoreError {
    match error {
        BrokerError::Configuration { what, value, allowed } => {
            StoreError::Configuration { what: if what == "broker" { "store" } else { what }, value, allowed }
        }
        BrokerError::Refused { broker, reason } => StoreError::Refused { store: broker, reason },
        BrokerError::Unreachable { broker, .. } => StoreError::Unavailable { store: broker, reason: error.to_string() },
        other => StoreError::Unavailable { store: "redis", reason: other.to_string() },
    }
}

impl Redis {
    async fn call<T>(
        &self,
        call: FunctionCall,
        parse: impl FnOnce(Answer) -> Result<T, Malformed>,
    ) -> Result<T, StoreError> {
        let answer = self.link.call(call).await.map_err(|error| self.failed(error))?;
        parse(answer).map_err(|error| self.malformed(&error))
    }

    fn failed(&self, error: BrokerError) -> StoreError {
        let store = self.link.name();
        match error {
            // No memory is left for what is new; what frees some goes on.
            BrokerError::Refused { reason, .. } if reason.starts_with("OOM") => {
                StoreError::Unavailable { store, reason }
            }
            BrokerError::Refused { reason, .. } => StoreError::Refused { store, reason },
            other => StoreError::Unavailable { store, reason: other.to_string() },
        }
    }

    fn malformed(&self, error: &Malformed) -> StoreError {
        StoreError::Refused { store: self.link.name(), reason: error.to_string() }
    }

    /// On a cluster, where `reap` itself cannot see leases.
    async fn check_dead(&self, dead: &Incarnation) -> Result<(), StoreError> {
        if self.functions.one_slot || !self.call(self.functions.lease(dead), codec::parse_flag).await? {
            return Ok(());
        }
        Err(StoreError::Refused { store: self.link.name(), reason: format!("LIVE {dead} holds a lease") })
    }

    fn take_cursor(&self, place: &Place, dead: &Incarnation) -> u64 {
        let key = (place.clone(), dead.clone());
        self.cursors.lock().expect(UNPOISONED).remove(&key).unwrap_or(0)
    }

    fn keep_cursor(&self, place: Place, dead: Incarnation, cursor: u64) {
        let mut cursors = self.cursors.lock().expect(UNPOISONED);
        if cursors.len() < CURSORS {
            cursors.insert((place, dead), cursor);
        }
    }
}

const UNPOISONED: &str = "nothing panics while it holds the cursors";

#[async_trait]
impl PresenceStore for Redis {
    fn name(&self) -> &'static str {
        self.link.name()
    }

    async fn renew(&self, renewal: Renewal) -> Result<Leases, StoreError> {
        self.call(self.functions.renew(&renewal), codec::parse_leases).await
    }

    async fn resign(&self, incarnation: &Incarnation, after: Duration, at_once: bool) -> Result<(), StoreError> {
        let ending = self.functions.resign(incarnation, (!at_once).then_some(after));
        self.call(ending, codec::ignore).await?;
        match at_once {
            true => self.call(self.functions.unnote_all(incarnation), codec::ignore).await,
            false => Ok(()),
        }
    }

    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let mut whole: Option<Written> = None;
        // One after the other: a version belongs to each.
        for call in self.functions.write(&write) {
            let written = self.call(call, codec::parse_written).await?;
            whole = Some(match whole {
                None => written,
                // Who came and went again within it was never there.
                Some(before) => Written {
                    version: written.version,
                    occupied: (before.occupied || written.occupied) && !(before.vacated || written.vacated),
                    vacated: (before.vacated || written.vacated) && !(before.occupied || written.occupied),
                },
            });
        }
        Ok(whole.expect("a write is at least one call"))
    }

    async fn note(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError> {
        for places in places.chunks(NOTES_AT_ONCE) {
            self.call(self.functions.note(incarnation, places), codec::ignore).await?;
        }
        Ok(())
    }

    async fn unnote(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError> {
        for places in places.chunks(NOTES_AT_ONCE) {
            self.call(self.functions.unnote(incarnation, places), codec::ignore).await?;
        }
        Ok(())
    }

    async fn noted(
        &self,
        incarnation: &Incarnation,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Place>, Option<u64>), StoreError> {
        let call = self.functions.noted(incarnation, cursor.unwrap_or(0), limit);
        self.call(call, codec::parse_noted).await
    }

    async fn read(&self, place: &Place, cursor: Option<u64>, limit: usize) -> Result<RowPage, StoreError> {
        self.call(self.functions.read(place, cursor.unwrap_or(0), limit), codec::parse_page).await
    }

    async fn standings(&self, places: &[Place]) -> Result<Vec<Standing>, StoreError> {
        let mut standings = Vec::with_capacity(places.len());
        for places in places.chunks(STANDINGS_AT_ONCE) {
            let calls = places.iter().map(|place| self.functions.standing(place)).collect();
            for answer in self.link.call_all(calls).await.map_err(|error| self.failed(error))? {
                standings.push(codec::parse_standing(answer).map_err(|error| self.malformed(&error))?);
            }
        }
        Ok(standings)
    }

    async fn reap(&self, reap: Reap) -> Result<Reaped, StoreError> {
        let Reap { place, dead } = reap;
        self.check_dead(&dead).await?;
        let mut reaped = Reaped { removed: Vec::new(), vacated: false, more: true };
        let mut cursor = self.take_cursor(&place, &dead);
        while reaped.removed.len() < REAPED_ROWS {
            let portion = self.functions.reap(&place, &dead, cursor);
            let portion = match self.call(portion, codec::parse_reaped).await {
                Ok(portion) => portion,
                // What was removed is removed and has to be told; the rest follows.
                Err(error) if reaped.removed.is_empty() => return Err(error),
                Err(_) => break,
            };
            reaped.removed.extend(portion.removed);
            reaped.vacated |= portion.vacated;
            cursor = portion.next;
            if cursor == 0 {
                reaped.more = false;
                return Ok(reaped);
            }
        }
        self.keep_cursor(place, dead, cursor);
        Ok(reaped)
    }

    async fn reaped(&self, dead: &Incarnation, again: Duration) -> Result<(), StoreError> {
        // Each time for as long again, so that they do not go before the last reaping.
        self.call(self.functions.keep_notes(dead), codec::ignore).await?;
        self.call(self.functions.reaped(dead, again), codec::ignore).await
    }

    async fn listen(&self, places: &[Place]) -> Result<(), StoreError> {
        self.link.listen(self.functions.changes(places)).await.map_err(|error| self.failed(error))
    }

    async fn unlisten(&self, places: &[Place]) {
        self.link.unlisten(self.functions.changes(places)).await;
    }

    async fn close(&self) {
        self.link.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}
