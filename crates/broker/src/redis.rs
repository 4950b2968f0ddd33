//! The Redis adapter: plain pub/sub on one server, over RESP3.
//!
//! One connection publishes and one subscribes, so that a server that ends a subscriber because it reads too slowly does
//! not keep the node from publishing. The library's own reconnecting is not used, see `session`.
//!
//! Channels are subscribed to with SUBSCRIBE; the patterns of a namespace share one PSUBSCRIBE to all of it, and the node
//! filters. What comes by a channel and by a pattern comes twice, once by each interest.
//!
//! A node needs `+hello +ping +publish +subscribe +unsubscribe +psubscribe +punsubscribe +client|setname +client|id` and
//! the channels `{prefix}:pub:*` in its ACL.

mod connect;
mod session;
mod subscriber;
mod table;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_protocol::RedisChannels;
use fred::{interfaces::PubsubInterface as _, types::Value};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use connect::connect;

use self::{
    session::{Session, answer},
    subscriber::{Subscriptions, UNPOISONED},
};
use crate::{Broker, BrokerError, Interest, InterestId, Publish, Published};

const NAME: &str = "redis";

/// What Redis takes as one value, in bytes (`proto-max-bulk-len`, unless configured otherwise).
const MAX_BODY_BYTES: usize = 512 * 1024 * 1024;

#[derive(Debug)]
struct Redis {
    names: RedisChannels,
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
        let name = self.names.publish(&publish.tenant, &publish.channel);
        let call = session.client.publish::<Value, _, _>(name, Value::Bytes(publish.body));
        answer(&session, self.request_timeout, call).await?;
        Ok(Published::default())
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        let _changing = self.subscriptions.changes.lock().await;
        let session = alive(&self.subscriptions.session.borrow())?;
        let mut adding = Adding { subscriptions: &self.subscriptions, interests, done: false };
        let new = self.subscriptions.table.lock().expect(UNPOISONED).add(interests);
        if !new.is_empty() {
            let confirmed = answer(&session, self.request_timeout, subscriber::subscribe(&session, &new)).await;
            if let Err(error) = confirmed {
                let unwanted = adding.undo();
                // Where it does not arrive the session is lost, and with it the subscriptions.
                let _ = answer(&session, self.request_timeout, subscriber::unsubscribe(&session, &unwanted)).await;
                if matches!(error, BrokerError::Refused { .. }) {
                    session.realign().await;
                }
                return Err(if session.is_alive() { error } else { BrokerError::Unavailable { broker: NAME } });
            }
        }
        adding.done = true;
        Ok(())
    }

    async fn remove_interests(&self, interests: &[InterestId]) {
        let _changing = self.subscriptions.changes.lock().await;
        let unwanted = self.subscriptions.table.lock().expect(UNPOISONED).remove(interests.iter().copied());
        let session = alive(&self.subscriptions.session.borrow());
        if let (Ok(session), false) = (session, unwanted.is_empty()) {
            // Where it does not arrive the session is lost, and with it the subscriptions.
            let _ = answer(&session, self.request_timeout, subscriber::unsubscribe(&session, &unwanted)).await;
        }
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

/// Interests that are in the table but not confirmed; taken out where the call is given up.
struct Adding<'a> {
    subscriptions: &'a Subscriptions,
    interests: &'a [Interest],
    done: bool,
}

impl Adding<'_> {
    fn undo(&mut self) -> table::Names {
        self.done = true;
        let ids = self.interests.iter().map(|interest| interest.id);
        self.subscriptions.table.lock().expect(UNPOISONED).remove(ids)
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Redis may go on sending what nobody wants; it is passed over, and ends with the connection.
            self.undo();
        }
    }
}

fn alive(session: &Option<Arc<Session>>) -> Result<Arc<Session>, BrokerError> {
    session.clone().filter(|session| session.is_alive()).ok_or(BrokerError::Unavailable { broker: NAME })
}
