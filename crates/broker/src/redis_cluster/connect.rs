//! Options, and the first connections.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fanfare_protocol::RedisChannels;
use fred::prelude::TlsConnector;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    NAME, RedisCluster,
    connection::{ConnectionError, Connector},
    masters::Masters,
    recorder::Recorder,
    subscriber::{Connected, Subscriber},
};
use crate::{
    Broker, BrokerError, BrokerOptions, Events,
    address::{Address, Server, Servers},
    mask_url,
    outlet::Outlet,
    redis::functions::Functions,
    tls,
};

/// Between two attempts at start.
const START_DELAY: Duration = Duration::from_millis(200);

/// How long the start waits for the rest of the masters when the first is there.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Calls that may wait for the task that subscribes.
const REQUESTS: usize = 64;

/// Connects to the masters of a cluster, which any of the servers that the URL names knows.
///
/// # Errors
/// [`BrokerError::Configuration`] for options that cannot be used, [`BrokerError::Unreachable`] where no node answers in
/// time, [`BrokerError::Refused`] where one refuses this user, or belongs to no cluster. No error's text holds a secret.
pub async fn connect(options: &BrokerOptions) -> Result<(Arc<dyn Broker>, Events), BrokerError> {
    let Address::RedisCluster(servers) = Address::parse(options)? else {
        let allowed = "redis-cluster:// or rediss-cluster://";
        return Err(configuration("broker", mask_url(&options.url), allowed));
    };
    let names = RedisChannels::new(&options.prefix)
        .map_err(|error| configuration("prefix", options.prefix.clone(), &error.to_string()))?;
    let functions = Functions {
        names: names.clone(),
        sharded: true,
        dedupe_window_ms: u64::try_from(options.history.dedupe_window.as_millis()).unwrap_or(u64::MAX),
    };
    let keeps_history = !options.history.namespaces.is_empty();
    let connector = Arc::new(connector(options, &servers)?);
    let masters = Masters::new(
        connector,
        servers.servers.clone(),
        options.request_timeout,
        keeps_history.then(|| functions.library()),
    );
    let recorder = Recorder { functions, options: options.history.clone(), request_timeout: options.request_timeout };
    let deadline = Instant::now() + options.connect_timeout;
    find(&masters, &servers, deadline).await?;

    let (outlet, events) = Outlet::new();
    let (requests, waiting) = mpsc::channel(REQUESTS);
    let given_up: Arc<Mutex<Vec<_>>> = Arc::default();
    let (subscriber, connected) = Subscriber::new(
        Arc::clone(&masters),
        options.request_timeout,
        outlet,
        waiting,
        Arc::clone(&given_up),
        names.clone(),
    );
    masters.tasks.spawn(Arc::clone(&masters).run());
    masters.tasks.spawn(subscriber.run());
    let cluster = RedisCluster { names, masters, recorder, requests, given_up };
    let connected = first_connections(&cluster.masters, connected, &servers, deadline).await;
    if let Some(error) = connected.err().or_else(|| cluster.masters.take_unready()) {
        cluster.close().await;
        return Err(error);
    }
    Ok((Arc::new(cluster), events))
}

pub(crate) fn connector(options: &BrokerOptions, servers: &Servers) -> Result<Connector, BrokerError> {
    if options.token.is_some() || options.nkey_seed.is_some() || options.credentials_file.is_some() {
        let what = "token, nkey_seed, credentials_file";
        return Err(configuration(what, "***".to_owned(), "none of them on Redis, which knows user and password"));
    }
    if servers.user.is_some() && servers.password.is_none() {
        return Err(configuration("user", "without a password".to_owned(), "user and password, or a password alone"));
    }
    tls::check_files(options)?;
    let tls = match servers.tls {
        true => Some(tls_connector(options)?),
        false => None,
    };
    Ok(Connector {
        tls,
        user: servers.user.clone(),
        password: servers.password.clone(),
        client_name: options.client_name.clone().unwrap_or_else(|| "fanfare".to_owned()),
        timeout: options.connect_timeout,
    })
}

fn tls_connector(options: &BrokerOptions) -> Result<TlsConnector, BrokerError> {
    if let Some(config) = tls::client_config(options)? {
        return Ok(config.into());
    }
    tls::ensure_provider();
    TlsConnector::default_rustls().map_err(|error| {
        let allowed = format!("a file, since the system's cannot be read ({error})");
        configuration("tls_ca_file", "not set".to_owned(), &allowed)
    })
}

fn configuration(what: &'static str, value: String, allowed: &str) -> BrokerError {
    BrokerError::Configuration { what, value, allowed: allowed.to_owned() }
}

/// Asks until somebody knows the cluster. A refusal ends it at once.
pub(crate) async fn find(masters: &Masters, servers: &Servers, deadline: Instant) -> Result<(), BrokerError> {
    let mut reason = "no answer".to_owned();
    loop {
        match timeout_at(deadline, masters.find()).await {
            Ok(Ok(())) if !masters.topology().borrow().masters().is_empty() => return Ok(()),
            Ok(Ok(())) => "no node of the cluster owns slots".clone_into(&mut reason),
            Ok(Err(ConnectionError::Refused(refusal))) if is_final(&refusal) => {
                return Err(BrokerError::Refused { broker: NAME, reason: refusal });
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() + START_DELAY >= deadline {
            return Err(unreachable(servers, reason));
        }
        sleep(START_DELAY).await;
    }
}

/// Waits for connections to all masters; where some stay away, for a part of the time only.
pub(crate) async fn first_connections(
    masters: &Masters,
    mut subscribing: watch::Receiver<Connected>,
    servers: &Servers,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let all = async {
        while !(subscribing.borrow_and_update().all && masters.all_connected()) {
            // The other kind of connection is not told of.
            let _ = tokio::time::timeout(Duration::from_millis(10), subscribing.changed()).await;
        }
    };
    let patience = deadline.min(Instant::now() + START_PATIENCE);
    if timeout_at(patience, all).await.is_ok() {
        return Ok(());
    }
    let any = async {
        while !(subscribing.borrow_and_update().any && masters.any_connected()) {
            let _ = tokio::time::timeout(Duration::from_millis(10), subscribing.changed()).await;
        }
    };
    timeout_at(deadline, any).await.map_err(|_| unreachable(servers, "no master can be reached".to_owned()))
}

fn unreachable(servers: &Servers, reason: String) -> BrokerError {
    let scheme = if servers.tls { "rediss-cluster" } else { "redis-cluster" };
    let list = servers.servers.iter().map(Server::to_string).collect::<Vec<_>>().join(",");
    BrokerError::Unreachable { broker: NAME, servers: format!("{scheme}://{list}"), reason }
}

/// Whether another attempt would fail just the same.
fn is_final(refusal: &str) -> bool {
    ["WRONGPASS", "NOAUTH", "NOPERM", "ERR This instance has cluster support disabled", "NOPROTO"]
        .iter()
        .any(|kind| refusal.starts_with(kind))
}
