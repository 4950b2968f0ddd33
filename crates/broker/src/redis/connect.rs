//! Options, the first connections, and the one that publishes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fanfare_protocol::RedisChannels;
use fred::{
    error::{Error, ErrorKind},
    prelude::{Config, Server, ServerConfig, TlsConfig, TlsConnector},
    types::RespVersion,
};
use tokio::{
    sync::watch,
    time::{Instant, interval_at, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    NAME, Redis,
    functions::Functions,
    recorder::Recorder,
    sentinels,
    session::{Connector, Session},
    subscriber::{Subscriber, Subscriptions},
    table::Table,
};
use crate::{
    Broker, BrokerError, BrokerOptions, Events,
    address::{self, Address, Servers},
    backoff, mask_url,
    outlet::Outlet,
    tls,
    unreadable::UnreadableLog,
};

/// How often a server is asked whether it is there; it has [`BrokerOptions::request_timeout`] to answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// What is done on a new connection before it is used.
pub(crate) trait Prepare: Sync {
    /// Where it fails, it says so in the log; the connection is used nevertheless.
    fn prepare(&self, session: &Session) -> impl Future<Output = ()> + Send;
}

/// Between two attempts at start.
const START_DELAY: Duration = Duration::from_millis(200);

/// Connects to one server, or to the one that sentinels name.
///
/// # Errors
/// [`BrokerError::Configuration`] for options that cannot be used, [`BrokerError::Unreachable`] where the server does not
/// answer in time, [`BrokerError::Refused`] where it refuses this user. No error's text holds a secret.
pub async fn connect(options: &BrokerOptions) -> Result<(Arc<dyn Broker>, Events), BrokerError> {
    let address = Address::parse(options)?;
    let names = RedisChannels::new(&options.prefix)
        .map_err(|error| configuration("prefix", options.prefix.clone(), &error.to_string()))?;
    let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (subscribing, servers) = connector(options, &address, &closed, &tasks)?;
    // Nothing is subscribed to there.
    let publishing = Connector { capacity: 1, ..subscribing.clone() };

    let deadline = Instant::now() + options.connect_timeout;
    let (session, messages) = first_connection(&subscribing, servers, deadline).await?;
    let publisher = match first_connection(&publishing, servers, deadline).await {
        Ok((publisher, _)) => publisher,
        Err(error) => {
            session.end();
            return Err(error);
        }
    };
    let recorder = Arc::new(Recorder {
        functions: Functions {
            names: names.clone(),
            sharded: false,
            dedupe_window_ms: u64::try_from(options.history.dedupe_window.as_millis()).unwrap_or(u64::MAX),
        },
        options: options.history.clone(),
        replaceable: matches!(address, Address::RedisSentinel(_)),
        request_timeout: options.request_timeout,
    });
    if let Err(error) = Box::pin(recorder.prepare(&publisher)).await {
        session.end();
        publisher.end();
        return Err(error);
    }

    let (outlet, events) = Outlet::new();
    let subscriptions = Arc::new(Subscriptions {
        table: Mutex::new(Table::new(names.clone(), &options.history)),
        changes: tokio::sync::Mutex::new(()),
        session: watch::Sender::new(Some(Arc::clone(&session))),
        leftover: Mutex::default(),
    });
    let subscriber = Subscriber {
        connector: subscribing,
        names: names.clone(),
        shared: Arc::clone(&subscriptions),
        outlet,
        unreadable: UnreadableLog::default(),
        usual_bytes: 0,
    };
    let (published_by, publisher_receiver) = watch::channel(Some(publisher));
    tasks.spawn(subscriber.run(session, messages));
    tasks.spawn(watch_over(Arc::clone(&subscriptions), closed.clone()));
    for watcher in sentinels::watchers(&publishing, &address) {
        let (subscriptions, publisher) = (Arc::clone(&subscriptions), publisher_receiver.clone());
        let closed = closed.clone();
        tasks.spawn(async move {
            let sessions =
                || [subscriptions.session.borrow().clone(), publisher.borrow().clone()].into_iter().flatten();
            closed.run_until_cancelled(Box::pin(watcher.run(sessions))).await;
        });
    }
    let preparing = Arc::clone(&recorder);
    tasks.spawn(async move {
        let closed = publishing.closed.clone();
        closed.run_until_cancelled(Box::pin(keep_session(&publishing, &*preparing, &published_by))).await;
        published_by.send_replace(None);
    });
    let redis = Redis {
        names,
        recorder,
        subscriptions,
        publisher: publisher_receiver,
        request_timeout: options.request_timeout,
        closed,
        tasks,
    };
    Ok((Arc::new(redis), events))
}

/// How connections are made to what a URL names, and where that is.
pub(crate) fn connector<'a>(
    options: &BrokerOptions,
    address: &'a Address,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(Connector, &'a Servers), BrokerError> {
    let (config, servers) = match address {
        Address::Redis(servers) => (config(options, servers, one_server(servers))?, servers),
        Address::RedisSentinel(sentinels) => {
            let servers = &sentinels.servers;
            (config(options, servers, by_sentinels(sentinels))?, servers)
        }
        _ => {
            let allowed = "redis://, rediss://, redis-sentinel:// or rediss-sentinel://";
            return Err(configuration("broker", mask_url(&options.url), allowed));
        }
    };
    let connector = Connector {
        config,
        connect_timeout: options.connect_timeout,
        request_timeout: options.request_timeout,
        client_name: options.client_name.clone().unwrap_or_else(|| "fanfare".to_owned()),
        capacity: options.broadcast_capacity.max(1),
        tasks: tasks.clone(),
        closed: closed.clone(),
    };
    Ok((connector, servers))
}

impl Prepare for Recorder {
    async fn prepare(&self, session: &Session) {
        // What needs no history goes on where it cannot be kept now; what needs it is told why.
        if let Err(error) = Self::prepare(self, session).await {
            tracing::warn!(%error, "Redis cannot keep history now");
        }
    }
}

fn one_server(servers: &Servers) -> ServerConfig {
    ServerConfig::Centralized { server: server(&servers.servers[0]) }
}

fn by_sentinels(sentinels: &address::Sentinels) -> ServerConfig {
    ServerConfig::Sentinel {
        hosts: sentinels.servers.servers.iter().map(server).collect(),
        service_name: sentinels.service.clone(),
        username: sentinels.user.clone(),
        password: sentinels.password.clone(),
    }
}

fn server(server: &address::Server) -> Server {
    Server::new(server.host.clone(), server.port)
}

fn config(options: &BrokerOptions, servers: &Servers, server: ServerConfig) -> Result<Config, BrokerError> {
    let others = options.token.is_some() || options.nkey_seed.is_some() || options.credentials_file.is_some();
    if others {
        let what = "token, nkey_seed, credentials_file";
        return Err(configuration(what, "***".to_owned(), "none of them on Redis, which knows user and password"));
    }
    if servers.user.is_some() && servers.password.is_none() {
        return Err(configuration("user", "without a password".to_owned(), "user and password, or a password alone"));
    }
    tls::check_files(options)?;
    Ok(Config {
        fail_fast: true,
        username: servers.user.clone(),
        password: servers.password.clone(),
        server,
        version: RespVersion::RESP3,
        tls: if servers.tls { Some(tls_config(options)?) } else { None },
        ..Config::default()
    })
}

fn tls_config(options: &BrokerOptions) -> Result<TlsConfig, BrokerError> {
    if let Some(config) = tls::client_config(options)? {
        return Ok(TlsConnector::from(config).into());
    }
    tls::ensure_provider();
    let system = TlsConnector::default_rustls().map_err(|error| {
        configuration(
            "tls_ca_file",
            "not set".to_owned(),
            &format!("a file, since the system's cannot be read ({error})"),
        )
    })?;
    Ok(system.into())
}

fn configuration(what: &'static str, value: String, allowed: &str) -> BrokerError {
    BrokerError::Configuration { what, value, allowed: allowed.to_owned() }
}

/// Tries until the time is over. A refusal ends it at once.
pub(crate) async fn first_connection(
    connector: &Connector,
    servers: &Servers,
    deadline: Instant,
) -> Result<(Arc<Session>, tokio::sync::broadcast::Receiver<fred::types::Message>), BrokerError> {
    let mut reason = "no answer".to_owned();
    loop {
        match timeout_at(deadline, connector.open()).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) if is_final(&error) => {
                return Err(BrokerError::Refused { broker: NAME, reason: error.details().to_owned() });
            }
            Ok(Err(error)) => reason = error.details().to_owned(),
            Err(_) => {}
        }
        if Instant::now() + START_DELAY >= deadline {
            return Err(BrokerError::Unreachable { broker: NAME, servers: shown(connector, servers), reason });
        }
        sleep(START_DELAY).await;
    }
}

/// Where was looked, for errors.
fn shown(connector: &Connector, servers: &Servers) -> String {
    let scheme = if servers.tls { "rediss" } else { "redis" };
    let list = servers.servers.iter().map(address::Server::to_string).collect::<Vec<_>>().join(",");
    match &connector.config.server {
        ServerConfig::Sentinel { service_name, .. } => format!("{scheme}-sentinel://{list}/{service_name}"),
        _ => format!("{scheme}://{list}"),
    }
}

/// Whether another attempt would fail just the same.
fn is_final(error: &Error) -> bool {
    // What the server that a sentinel named refuses comes as an error of the sentinel's kind.
    let refused = || ["WRONGPASS", "NOAUTH", "NOPERM"].iter().any(|kind| error.details().starts_with(kind));
    match error.kind() {
        ErrorKind::Auth | ErrorKind::Config => true,
        ErrorKind::Sentinel => refused(),
        _ => false,
    }
}

/// Keeps a connection for commands; each new one is prepared before it is used.
pub(crate) async fn keep_session(
    connector: &Connector,
    preparation: &impl Prepare,
    current: &watch::Sender<Option<Arc<Session>>>,
) {
    let mut attempt = 0;
    loop {
        let session = current.borrow().clone();
        if let Some(session) = session {
            live(&session).await;
            current.send_replace(None);
            attempt = 0;
        }
        attempt += 1;
        sleep(backoff::pause(attempt)).await;
        match connector.open().await {
            Ok((session, _)) => {
                preparation.prepare(&session).await;
                current.send_replace(Some(session));
            }
            Err(error) => tracing::debug!(%error, attempt, "cannot connect to Redis for commands"),
        }
    }
}

/// Waits for the end of a session, which it ends itself where the server does not answer.
pub(super) async fn live(session: &Session) {
    let asking = async {
        let mut interval = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        loop {
            interval.tick().await;
            if session.round_trip().await.is_err() {
                return session.end();
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = session.ended() => {}
    }
}

/// Ends the subscribing session where the server does not answer.
async fn watch_over(subscriptions: Arc<Subscriptions>, closed: CancellationToken) {
    let watching = async {
        loop {
            sleep(PING_INTERVAL).await;
            let session = subscriptions.session.borrow().clone();
            let Some(session) = session else { continue };
            // Nobody else's answer may be taken for this one's.
            let _changing = subscriptions.changes.lock().await;
            if session.is_alive() && session.round_trip().await.is_err() {
                session.end();
            }
        }
    };
    closed.run_until_cancelled(watching).await;
}
