//! One connection, from its beginning to its end.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike as _, EventInterface as _},
    prelude::{Builder, Config, Server, ServerConfig},
    types::{CustomCommand, Message, Value},
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{NAME, functions::Durability, replicas::Replicas};
use crate::BrokerError;

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) config: Config,
    /// For each step of a connection.
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) client_name: String,
    /// Messages that may wait between the library and the adapter.
    pub(crate) capacity: usize,
    pub(crate) tasks: TaskTracker,
    pub(crate) closed: CancellationToken,
}

/// A connection that is not made again when it ends: the library would do so, but it does not say when, in relation to
/// the messages that it hands out. A new session has a stream of messages of its own.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// Which server it is, where that was asked for at sentinels.
    server: Option<Server>,
    /// Cancelled by whoever wants it to end, and when it has ended.
    ended: CancellationToken,
    /// What the server promises of its disk, once it was asked.
    durability: OnceLock<Durability>,
    pub(crate) replicas: Replicas,
}

impl Connector {
    /// Connects, logs in and returns the messages that will come.
    pub(crate) async fn open(&self) -> Result<(Arc<Session>, broadcast::Receiver<Message>), Error> {
        let client = Builder::from_config(self.shuffled())
            .with_performance_config(|performance| {
                performance.default_command_timeout = self.request_timeout;
                performance.broadcast_channel_capacity = self.capacity;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = self.connect_timeout;
                connection.internal_command_timeout = self.connect_timeout;
                // A command that was perhaps done is never sent again.
                connection.max_command_attempts = 1;
                connection.tcp.nodelay = Some(true);
            })
            .build()?;
        let messages = client.message_rx();
        let mut connected = client.reconnect_rx();
        let mut connection = AbortOnDrop(client.connect());
        let server = tokio::select! {
            ended = &mut connection.0 => {
                let failed = || Error::new(fred::error::ErrorKind::IO, "the connection was closed");
                return Err(ended.map_err(|_| failed())?.err().unwrap_or_else(failed));
            }
            server = connected.recv() => server.ok(),
        };
        // Only for those who look at the server; an ACL may refuse it.
        let _: Result<Value, Error> = client.custom(command("CLIENT"), vec!["SETNAME", &self.client_name]).await;
        let session = Arc::new(Session {
            client,
            server,
            ended: CancellationToken::new(),
            durability: OnceLock::new(),
            replicas: Replicas::default(),
        });
        let (ended, closed) = (session.ended.clone(), self.closed.clone());
        self.tasks.spawn(async move {
            let has_ended = tokio::select! {
                _ = &mut connection.0 => true,
                () = ended.cancelled() => false,
                () = closed.cancelled() => false,
            };
            if !has_ended {
                connection.0.abort();
                let _ = (&mut connection.0).await;
            }
            // Only now has everything that it received been handed out.
            ended.cancel();
        });
        Ok((session, messages))
    }

    /// The library believes the first sentinel that answers. One that has lost the others names a master that is gone, so
    /// every attempt begins with another.
    fn shuffled(&self) -> Config {
        let mut config = self.config.clone();
        if let ServerConfig::Sentinel { hosts, .. } = &mut config.server {
            fastrand::shuffle(hosts);
        }
        config
    }
}

impl Session {
    /// Whether the server is this one.
    pub(crate) fn is_at(&self, host: &str, port: u16) -> bool {
        self.server.as_ref().is_some_and(|server| &*server.host == host && server.port == port)
    }

    /// Host and port of the server, where they were asked for at sentinels.
    pub(crate) fn server(&self) -> Option<(&str, u16)> {
        self.server.as_ref().map(|server| (&*server.host, server.port))
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability.get().copied().unwrap_or(Durability::Unknown)
    }

    /// Whether the server was asked all that has to be known of it.
    pub(crate) fn is_prepared(&self) -> bool {
        self.durability.get().is_some()
    }

    /// The first that is told counts.
    pub(crate) fn remember_durability(&self, durability: Durability) {
        let _ = self.durability.set(durability);
    }

    /// How many channels and patterns the server says that this connection is subscribed to, after all that was sent
    /// before. The refusal of a subscription may come here instead, since the library does not wait for it.
    pub(crate) async fn subscriptions(&self) -> Result<(usize, usize), Error> {
        let info: String = self.client.custom(command("CLIENT"), vec!["INFO"]).await?;
        let field = |name: &str| {
            let value = info.split_ascii_whitespace().find_map(|field| field.strip_prefix(name));
            value.and_then(|value| value.parse().ok())
        };
        let unreadable = || Error::new(fred::error::ErrorKind::Protocol, "CLIENT INFO names no sub= and psub=");
        field("sub=").zip(field("psub=")).ok_or_else(unreadable)
    }

    /// Asks the server to answer.
    pub(crate) async fn round_trip(&self) -> Result<(), Error> {
        let token = format!("{:016x}", fastrand::u64(..));
        let answer: String = self.client.ping(Some(token.clone())).await?;
        if answer == token {
            Ok(())
        } else {
            Err(Error::new(fred::error::ErrorKind::Protocol, "another ping was answered"))
        }
    }

    /// After a refusal: one answer more may be on its way than the library waits for. Ends the session where the two do not
    /// come together.
    pub(crate) async fn realign(&self) {
        const ATTEMPTS: usize = 5;
        const PAUSE: Duration = Duration::from_millis(20);
        for _ in 0..ATTEMPTS {
            tokio::time::sleep(PAUSE).await;
            if self.round_trip().await.is_ok() {
                return;
            }
        }
        self.end();
    }
}

/// A command that the library has no method for.
pub(crate) fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, None::<u16>, false)
}

#[derive(Debug)]
struct AbortOnDrop(fred::types::ConnectHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for an answer as long as the session lives. Without an answer nobody knows whether it was done.
pub(crate) async fn answer<T>(
    session: &Session,
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, BrokerError> {
    let began = tokio::time::Instant::now();
    let unknown = || BrokerError::Timeout { broker: NAME, waited: began.elapsed() };
    tokio::select! {
        biased;
        answer = timeout(limit, call) => match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if is_refusal(&error) => {
                Err(BrokerError::Refused { broker: NAME, reason: error.details().to_owned() })
            }
            Ok(Err(_)) | Err(_) => Err(unknown()),
        },
        () = session.ended() => Err(unknown()),
    }
}

/// Whether the server has answered, with an error.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use fred::error::ErrorKind;
    !matches!(error.kind(), ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Timeout | ErrorKind::Backpressure)
}
