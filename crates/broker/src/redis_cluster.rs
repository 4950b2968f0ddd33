//! The Redis Cluster adapter: sharded pub/sub (SSUBSCRIBE, SPUBLISH), over RESP3.
//!
//! A channel belongs to a slot, and a slot to a master. There are two connections to each master: one that subscribes to the
//! channels of its slots, and one for commands. They are this adapter's own, since a client library hides what matters
//! here: that a node ends a subscription by itself when its slot moves (`sunsubscribe`), and what came by which connection.
//!
//! Every subscription is confirmed by its node, and is lost by one of these: its connection ends; the node ends it; the node
//! counts fewer than it confirmed (`CLIENT INFO`, every 5 s); or another node owns its slot. Each is told to the hub as an
//! interruption, and the subscription is made where the slot is now. Of the slots' owners each master is asked every 2 s, and at
//! once when anything is not where it was (`CLUSTER NODES`); of two that claim a slot the one with the greater epoch counts, so that a
//! master that was cut off and replaced is left although it still answers.
//!
//! There are no patterns: sharded pub/sub has none.
//!
//! History is kept by the function library `fanfare_v1`, which is loaded into every master, by calls to the master of the
//! channel's slot. What is live of such a channel comes by a second name, in the slot of its keys.
//!
//! A node needs `+hello +ping +client|info +cluster|nodes +spublish +ssubscribe +sunsubscribe` in its ACL, on every node of
//! the cluster, and the channels `&{prefix}:pub:*`. For history see docs/subjects.md.

mod caller;
pub(crate) mod connect;
pub(crate) mod connection;
mod library;
mod link;
pub(crate) mod masters;
mod recorder;
mod redirection;
pub(crate) mod subscriber;
mod table;
mod teller;
mod topology;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fanfare_protocol::{Channel, RedisChannels, Tenant, Topic};
use tokio::sync::{mpsc, oneshot};

pub use connect::connect;

use self::{
    connection::command, masters::Masters, recorder::Recorder, subscriber::Request, table::Wanted, topology::slot_of,
};
use crate::{
    Broker, BrokerError, HistoryPage, HistoryRead, Interest, InterestId, Lifecycle, Publish, Published, Standing,
    redis::MAX_BODY_BYTES,
};

const NAME: &str = "redis-cluster";

const UNPOISONED: &str = "nothing panics while it holds the lock";

#[derive(Debug)]
struct RedisCluster {
    names: RedisChannels,
    masters: Arc<Masters>,
    recorder: Recorder,
    requests: mpsc::Sender<Request>,
    /// Interests of calls that were given up; the subscriber takes them out.
    given_up: Arc<Mutex<Vec<InterestId>>>,
}

#[async_trait]
impl Broker for RedisCluster {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        let bytes = publish.body.len();
        if bytes > MAX_BODY_BYTES {
            return Err(BrokerError::TooLarge { broker: NAME, bytes, limit: MAX_BODY_BYTES });
        }
        if !publish.ephemeral
            && let Some(retention) = self.recorder.options.retention(&publish.channel)
        {
            let position = self.recorder.publish(&self.masters, &publish, retention).await?;
            return Ok(Published { position: Some(position) });
        }
        self.send(&self.names.publish(&publish.tenant, &publish.channel), &publish.body).await?;
        Ok(Published::default())
    }

    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError> {
        self.send(&self.names.event(&lifecycle.tenant, lifecycle.kind.as_str()), &lifecycle.body).await
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        let wanted = interests.iter().map(|interest| self.wanted(interest)).collect::<Result<Vec<_>, _>>()?;
        if self.masters.closed.is_cancelled() {
            return Err(BrokerError::Unavailable { broker: NAME });
        }
        let mut adding = Adding { given_up: &self.given_up, interests, done: false };
        let (answer, answered) = oneshot::channel();
        let gone = |()| BrokerError::Unavailable { broker: NAME };
        self.requests.send(Request::Add { wanted, answer }).await.map_err(|_| gone(()))?;
        let result = answered.await.map_err(|_| gone(()))?;
        adding.done = true;
        result
    }

    async fn remove_interests(&self, interests: &[InterestId]) {
        // Nothing is held by who is closed.
        let _ = self.requests.send(Request::Remove(interests.to_vec())).await;
    }

    async fn history(&self, read: HistoryRead) -> Result<HistoryPage, BrokerError> {
        self.recorder.history(&self.masters, &read).await
    }

    async fn positions(&self, channels: &[(Tenant, Channel)]) -> Result<Vec<Standing>, BrokerError> {
        self.recorder.positions(&self.masters, channels).await
    }

    async fn close(&self) {
        self.masters.closed.cancel();
        self.masters.tasks.close();
        self.masters.tasks.wait().await;
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        self.masters.closed.cancel();
    }
}

impl RedisCluster {
    /// A plain SPUBLISH.
    async fn send(&self, name: &str, body: &[u8]) -> Result<(), BrokerError> {
        let command = command(&[&b"SPUBLISH"[..], name.as_bytes(), body]);
        self.masters.handed_over().await;
        self.masters.call(slot_of(name), command).await.map(drop)
    }

    /// The names that an interest needs.
    fn wanted(&self, interest: &Interest) -> Result<Wanted, BrokerError> {
        match &interest.topic {
            Topic::Channel(channel) => {
                let mut names = vec![self.names.publish(&interest.tenant, channel)];
                if self.recorder.options.retention(channel).is_some() {
                    names.push(self.names.live(&interest.tenant, channel));
                }
                Ok((interest.id, names))
            }
            Topic::Pattern(pattern) => {
                Err(BrokerError::NoPatterns { broker: NAME, topic: pattern.as_str().to_owned() })
            }
        }
    }
}

/// Interests that were asked for; taken out again where nobody waits for the answer.
struct Adding<'a> {
    given_up: &'a Mutex<Vec<InterestId>>,
    interests: &'a [Interest],
    done: bool,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.given_up.lock().expect(UNPOISONED).extend(self.interests.iter().map(|interest| interest.id));
        }
    }
}
