//! The Redis adapter: plain pub/sub on one server, over RESP3; with sentinels, on the one that they name as master.
//!
//! One connection publishes and one subscribes, so that a server that ends a subscriber because it reads too slowly does
//! not keep the node from publishing. The library's own reconnecting is not used, see `session`.
//!
//! What keeps history is published by a function library, see `fanfare_v1.lua`, which this adapter loads, and which publishes on
//! channels of its own, `{prefix}:live:{…}`. Nodes listen to those and to the plain ones, where anybody publishes past the history.
//!
//! Channels are subscribed to with SUBSCRIBE; the patterns of a namespace share one PSUBSCRIBE to all of it, and the node
//! filters. What comes by a channel and by a pattern comes twice, once by each interest.
//!
//! A server that is there but does not answer is noticed within 10 s.
//!
//! With sentinels every new connection asks them which server is the master and checks its role, since after a failover it
//! is another. They are listened to as well: where they replace a master that still answers, the connections to it are ended
//! at once. A node that hears none of them learns of it when they make a replica of the old master, which ends its clients.
//!
//! A node needs `+hello +ping +publish +subscribe +unsubscribe +psubscribe +punsubscribe +client|info +client|setname
//! +client|id` in its ACL, and the channels `&{prefix}:pub:*`. Redis compares a pattern with those literally: who wants
//! patterns needs `&*`, or `&{prefix}:pub:{tenant}:{namespace}:*` for each namespace. With sentinels it needs `+role` too. What it
//! needs for history stands in docs/subjects.md.

pub(crate) mod calling;
pub(crate) mod connect;
pub(crate) mod functions;
pub(crate) mod library;
mod recorder;
mod replicas;
pub(crate) mod sentinels;
pub(crate) mod session;
mod subscriber;
mod table;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_protocol::{Channel, RedisChannels, Tenant};
use fred::{interfaces::PubsubInterface as _, types::Value};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use connect::connect;

use self::{
    recorder::Recorder,
    session::{Session, answer},
    subscriber::{Subscriptions, UNPOISONED},
};
use crate::{
    Broker, BrokerError, HistoryPage, HistoryRead, Interest, InterestId, Lifecycle, Publish, Published, Standing,
};

/// The function library `fanfare_v1`, which keeps history; ready for `FUNCTION LOAD REPLACE`. Nodes load it themselves where
/// they may.
pub const FUNCTIONS: &str = include_str!("redis/fanfare_v1.lua");

const NAME: &str = "redis";

/// What Redis takes as one value, in bytes (`proto-max-bulk-len`, unless configured otherwise).
pub(crate) const MAX_BODY_BYTES: usize = 512 * 1024 * 1024;

#[derive(Debug)]
struct Redis {
    names: RedisChannels,
    recorder: Arc<Recorder>,
    subscriptions: Arc<Subscriptions>,
    /// None while there is no connection.
    publisher: watch::Receiver<Option<Arc<Session>>>,
    request_timeout: Duration,
    closed: CancellationToken,
    tasks: TaskTracker,
}

#[async_trait]
impl Broker for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        let bytes = publish.body.len();
        if bytes > MAX_BODY_BYTES {
            return Err(BrokerError::TooLarge { broker: NAME, bytes, limit: MAX_BODY_BYTES });
        }
        let session = alive(&self.publisher.borrow())?;
        if !publish.ephemeral
            && let Some(retention) = self.recorder.options.retention(&publish.channel)
        {
            let position = self.recorder.publish(&session, &publish, retention).await?;
            return Ok(Published { position: Some(position) });
        }
        self.send(&session, self.names.publish(&publish.tenant, &publish.channel), publish.body).await?;
        Ok(Published::default())
    }

    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError> {
        let session = alive(&self.publisher.borrow())?;
        let name = self.names.event(&lifecycle.tenant, lifecycle.kind.as_str());
        self.send(&session, name, lifecycle.body).await
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        let _changing = self.subscriptions.changes.lock().await;
        let session = alive(&self.subscriptions.session.borrow())?;
        self.end_leftover(&session).await;
        let mut adding = Adding { subscriptions: &self.subscriptions, interests, done: false };
        let (new, expected) = {
            let mut table = self.subscriptions.table.lock().expect(UNPOISONED);
            (table.add(interests), table.count())
        };
        let confirmed = match new.is_empty() {
            true => Ok(()),
            false => answer(&session, self.request_timeout, subscriber::subscribe(&session, &new, expected)).await,
        };
        adding.done = confirmed.is_ok();
        drop(adding);
        match confirmed {
            Err(BrokerError::Refused { .. }) => {
                self.end_leftover(&session).await;
                session.realign().await;
            }
            // Nobody knows what it is subscribed to.
            Err(BrokerError::Timeout { .. }) if session.is_alive() => session.end(),
            Err(BrokerError::Timeout { .. }) => return Err(BrokerError::Unavailable { broker: NAME }),
            _ => {}
        }
        confirmed
    }

    async fn remove_interests(&self, interests: &[InterestId]) {
        let _changing = self.subscriptions.changes.lock().await;
        self.subscriptions.give_up(interests);
        let session = alive(&self.subscriptions.session.borrow());
        if let Ok(session) = session {
            self.end_leftover(&session).await;
        }
    }

    async fn history(&self, read: HistoryRead) -> Result<HistoryPage, BrokerError> {
        let session = alive(&self.publisher.borrow())?;
        self.recorder.history(&session, &read).await
    }

    async fn positions(&self, channels: &[(Tenant, Channel)]) -> Result<Vec<Standing>, BrokerError> {
        let session = alive(&self.publisher.borrow())?;
        self.recorder.positions(&session, channels).await
    }

    async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl Redis {
    /// A plain PUBLISH.
    async fn send(&self, session: &Session, name: String, body: Bytes) -> Result<(), BrokerError> {
        let call = session.client.publish::<Value, _, _>(name, Value::Bytes(body));
        answer(session, self.request_timeout, call).await.map(drop)
    }

    /// Ends what nobody wants any more. Has to be called with `changes` held.
    async fn end_leftover(&self, session: &Session) {
        let unwanted = std::mem::take(&mut *self.subscriptions.leftover.lock().expect(UNPOISONED));
        if !unwanted.is_empty()
            && answer(session, self.request_timeout, subscriber::unsubscribe(session, &unwanted)).await.is_err()
        {
            // The subscriptions end with it.
            session.end();
        }
    }
}

/// Interests that are in the table but not confirmed; taken out where the call fails or is given up.
struct Adding<'a> {
    subscriptions: &'a Subscriptions,
    interests: &'a [Interest],
    done: bool,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if !self.done {
            let ids: Vec<InterestId> = self.interests.iter().map(|interest| interest.id).collect();
            self.subscriptions.give_up(&ids);
        }
    }
}

fn alive(session: &Option<Arc<Session>>) -> Result<Arc<Session>, BrokerError> {
    session.clone().filter(|session| session.is_alive()).ok_or(BrokerError::Unavailable { broker: NAME })
}
