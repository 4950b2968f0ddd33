//! Redis for others than the broker, by the same connections: functions that are called, and channels that are listened to. On one
//! server, on the master that sentinels name, and on a cluster.
//!
//! Functions are called at the master of the slot of their keys. Channels are plain ones (`SUBSCRIBE`), listened to over one more
//! connection: on a cluster to any master, since there what is published by `PUBLISH` comes to all servers.
//!
//! A node needs `+hello +ping +client|setname +fcall +function|load +subscribe +unsubscribe` in its ACL, with sentinels `+role`, on a
//! cluster `+cluster|nodes +cluster|info`, and what its functions do.

mod answer;
mod health;
mod listener;
mod one;
mod place;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fred::types::Value;
use futures_util::future::try_join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::answer::Answer;
pub use crate::redis::library::FunctionLibrary;

use self::{
    listener::{Listener, Request},
    one::OneServer,
    place::Place,
};
use crate::{
    BrokerError, BrokerOptions,
    address::{Address, Servers},
    limits, mask_url,
    redis::functions::Call,
    redis_cluster::{self, masters::Masters, subscriber::Connected},
};

const ONE: &str = "redis";

const CLUSTER: &str = "redis-cluster";

/// Calls that may wait for the task that listens.
const REQUESTS: usize = 64;

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCall {
    /// Which.
    pub function: &'static str,
    /// All in one slot; at least one.
    pub keys: Vec<String>,
    /// What follows the keys.
    pub arguments: Vec<Bytes>,
}

/// What a link tells unasked, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Something was published on a channel that is listened to.
    Message {
        /// Which channel.
        name: Arc<str>,
        /// What.
        body: Bytes,
    },
    /// A connection was lost, or whoever reads the events was too slow: messages may be missing from here on, and functions may
    /// have been called in vain.
    Interrupted,
    /// All connections are there, and all that is listened to is listened to again. The server may be another one than before, or
    /// have lost its data.
    Resumed,
    /// It was only listening that was interrupted, and it goes on: functions have been called at the same servers all the time.
    Relistened,
}

/// The stream of a link's events, bounded by [`limits::LISTENED`].
pub type LinkEvents = mpsc::Receiver<LinkEvent>;

/// Calls functions and listens. Every call is safe to make at the same time as any other.
#[derive(Debug)]
pub struct RedisLink {
    functions: Functions,
    requests: mpsc::Sender<Request>,
    request_timeout: Duration,
    closed: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
enum Functions {
    One(OneServer),
    Cluster(Arc<Masters>),
}

impl RedisLink {
    /// Connects to what the URL of the options names, and makes sure that the library is there and may be used. Of the options
    /// those for history and for NATS count for nothing.
    ///
    /// # Errors
    /// [`BrokerError::Configuration`] for options that cannot be used, [`BrokerError::Unreachable`] where no server answers in
    /// time, [`BrokerError::Refused`] where one refuses this user. No error's text holds a secret.
    pub async fn connect(options: &BrokerOptions, library: FunctionLibrary) -> Result<(Self, LinkEvents), BrokerError> {
        let deadline = Instant::now() + options.connect_timeout;
        match Address::parse(options)? {
            Address::RedisCluster(servers) => Self::at_cluster(options, &servers, library, deadline).await,
            address @ (Address::Redis(_) | Address::RedisSentinel(_)) => {
                Self::at_one(options, &address, library, deadline).await
            }
            _ => Err(BrokerError::Configuration {
                what: "the Redis URL",
                value: mask_url(&options.url),
                allowed: "redis://, redis-sentinel://, redis-cluster://, or each with rediss for TLS".to_owned(),
            }),
        }
    }

    async fn at_one(
        options: &BrokerOptions,
        address: &Address,
        library: FunctionLibrary,
        deadline: Instant,
    ) -> Result<(Self, LinkEvents), BrokerError> {
        let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
        let one = match Box::pin(OneServer::connect(options, address, library, &closed, &tasks, deadline)).await {
            Ok(one) => one,
            Err(error) => {
                end(&closed, &tasks).await;
                return Err(error);
            }
        };
        let (servers, place) = match address {
            Address::RedisSentinel(sentinels) => (&sentinels.servers, Place::Master(one.session())),
            Address::Redis(servers) => (servers, Place::One(servers.servers[0].clone())),
            _ => unreachable!("no other address has one server"),
        };
        let health = health::of_one(one.session(), &closed, &tasks);
        Self::listening(options, servers, Functions::One(one), place, health, (closed, tasks), deadline).await
    }

    async fn at_cluster(
        options: &BrokerOptions,
        servers: &Servers,
        library: FunctionLibrary,
        deadline: Instant,
    ) -> Result<(Self, LinkEvents), BrokerError> {
        let connector = Arc::new(redis_cluster::connect::connector(options, servers)?);
        let masters = Masters::new(connector, servers.servers.clone(), options.request_timeout, Some(library));
        redis_cluster::connect::find(&masters, servers, deadline).await?;
        masters.tasks.spawn(Arc::clone(&masters).run());
        let (closed, tasks) = (masters.closed.clone(), masters.tasks.clone());
        // Where the caller gives up.
        let guard = closed.clone().drop_guard();
        // Nobody subscribes at all masters here.
        let (_subscribed, all) = watch::channel(Connected { any: true, all: true });
        let connected = redis_cluster::connect::first_connections(&masters, all, servers, deadline).await;
        if let Some(error) = connected.err().or_else(|| masters.take_unready()) {
            end(&closed, &tasks).await;
            return Err(error);
        }
        let health = health::of_cluster(&masters);
        let place = Place::Cluster(Arc::clone(&masters));
        guard.disarm();
        let functions = Functions::Cluster(masters);
        Self::listening(options, servers, functions, place, health, (closed, tasks), deadline).await
    }

    async fn listening(
        options: &BrokerOptions,
        servers: &Servers,
        functions: Functions,
        place: Place,
        health: watch::Receiver<health::Health>,
        (closed, tasks): (CancellationToken, TaskTracker),
        deadline: Instant,
    ) -> Result<(Self, LinkEvents), BrokerError> {
        let (events, told) = mpsc::channel(limits::LISTENED);
        let (requests, waiting) = mpsc::channel(REQUESTS);
        let link = Self { functions, requests, request_timeout: options.request_timeout, closed, tasks };
        let connector = redis_cluster::connect::connector(options, servers)?;
        let (listener, mut connected) =
            Listener::new(link.name(), place, connector, options.request_timeout, health, waiting, events);
        let listening = link.closed.clone();
        link.tasks.spawn(async move {
            let _: Option<()> = listening.run_until_cancelled(listener.run()).await;
        });
        let is_connected = matches!(timeout_at(deadline, connected.wait_for(|connected| *connected)).await, Ok(Ok(_)));
        if is_connected {
            return Ok((link, told));
        }
        link.close().await;
        let servers = servers.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let reason = "no connection to listen over".to_owned();
        Err(BrokerError::Unreachable { broker: link.name(), servers, reason })
    }

    /// `redis`, or `redis-cluster`.
    pub fn name(&self) -> &'static str {
        match self.functions {
            Functions::One(_) => ONE,
            Functions::Cluster(_) => CLUSTER,
        }
    }

    /// Whether keys of different slots may be at different servers: a function sees those of its own slot alone.
    pub fn is_cluster(&self) -> bool {
        matches!(self.functions, Functions::Cluster(_))
    }

    /// Calls a function at the master of the slot of its keys. Where the library is missing there, it is loaded.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] where it was not called, [`BrokerError::Refused`] with what the server answered,
    /// [`BrokerError::Timeout`] where nobody knows whether it was called.
    pub async fn call(&self, call: FunctionCall) -> Result<Answer, BrokerError> {
        let mut answers = self.call_all(vec![call]).await?;
        Ok(answers.pop().expect("one call has one answer"))
    }

    /// Calls functions, without waiting for one before the next; the answers are in the order of the calls.
    ///
    /// # Errors
    /// As for [`call`](Self::call), of any of them: some may have been called and others not.
    pub async fn call_all(&self, calls: Vec<FunctionCall>) -> Result<Vec<Answer>, BrokerError> {
        let calls: Vec<Call> = calls.into_iter().map(Call::from).collect();
        let answers: Vec<Value> = match &self.functions {
            Functions::One(one) => one.call_all(calls).await?,
            Functions::Cluster(masters) => {
                let called = try_join_all(calls.into_iter().map(|call| masters.call_function(call))).await?;
                called.into_iter().map(|(answer, _)| answer).collect()
            }
        };
        Ok(answers.into_iter().map(Answer::from).collect())
    }

    /// Listens to channels; those that are listened to already are passed over. When it returns `Ok`, what is published from now on
    /// comes, over reconnects, until [`unlisten`](Self::unlisten).
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] while there is no connection, [`BrokerError::Refused`] where the user may not,
    /// [`BrokerError::Timeout`] where it was not confirmed in time. After an error none of those that were new is listened to.
    pub async fn listen(&self, names: Vec<String>) -> Result<(), BrokerError> {
        let gone = || BrokerError::Unavailable { broker: self.name() };
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let names = names.into_iter().map(Arc::from).collect();
            self.requests.send(Request::Listen { names, answer }).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        let late = |_| BrokerError::Timeout { broker: self.name(), waited: self.request_timeout };
        timeout(self.request_timeout, asking).await.map_err(late)?
    }

    /// Ends listening to channels; those that are not listened to are passed over. Messages already on their way may still come.
    pub async fn unlisten(&self, names: Vec<String>) {
        // Nothing is listened to by who is closed.
        let _ = self.requests.send(Request::Unlisten(names.into_iter().map(Arc::from).collect())).await;
    }

    /// Ends connections and tasks, and waits for them. The stream of events ends.
    pub async fn close(&self) {
        end(&self.closed, &self.tasks).await;
    }
}

async fn end(closed: &CancellationToken, tasks: &TaskTracker) {
    closed.cancel();
    tasks.close();
    tasks.wait().await;
}

impl Drop for RedisLink {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl From<FunctionCall> for Call {
    fn from(call: FunctionCall) -> Self {
        let FunctionCall { function, keys, arguments } = call;
        Self { function, keys, arguments: arguments.into_iter().map(Value::Bytes).collect() }
    }
}
