//! The first connection.

use std::sync::{Arc, RwLock};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr, client::SubscribeError};
use fanfare_protocol::NatsSubjects;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    COMMANDS, JetStream, NAME, Nats,
    intake::{Command, DialError, Dialer, Intake, Opened, Parts},
    keeper::{self, Keeper},
    library::{Follower, Link},
    login::Login,
    manage,
    requests::{Caller, Requests},
    stream::Streams,
};
use crate::{
    Broker, BrokerError, BrokerOptions, Events,
    address::{Address, Server, Servers},
    backoff, mask_url,
    outlet::Outlet,
    tls,
};

/// How often the server is asked whether it is there. Two missing answers end a connection, so one that is silently lost
/// is noticed within three of these.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Between two rounds through all servers at start.
const START_DELAY: Duration = Duration::from_millis(200);

/// Connects to the first server that answers, and goes on to the others when it is lost.
///
/// # Errors
/// [`BrokerError::Configuration`] for options that cannot be used, [`BrokerError::Unreachable`] where no server answers
/// in time, [`BrokerError::Refused`] where one refuses this user. No error's text holds a secret.
pub async fn connect(options: &BrokerOptions) -> Result<(Arc<dyn Broker>, Events), BrokerError> {
    let Address::Nats(servers) = Address::parse(options)? else {
        return Err(BrokerError::Configuration {
            what: "broker",
            value: mask_url(&options.url),
            allowed: "nats:// or tls://".to_owned(),
        });
    };
    let subjects = NatsSubjects::new(&options.prefix).map_err(|error| BrokerError::Configuration {
        what: "prefix",
        value: options.prefix.clone(),
        allowed: error.to_string(),
    })?;
    manage::check_options(options)?;
    let login = Login::choose(options, &servers).await?;
    tls::check_files(options)?;
    if servers.tls {
        tls::ensure_provider();
    }

    let deadline = Instant::now() + options.connect_timeout;
    // What only publishes has no interests.
    let opened = match options.history.publish_only {
        true => None,
        false => Some(open_intake(options, &servers, &login, deadline).await?),
    };
    let place = opened.as_ref().map(Opened::place);
    let (link, closed) = (Link::new(), CancellationToken::new());
    // The library keeps the sender while its tasks run.
    let (alive, library) = mpsc::channel(1);
    let library_options = || {
        let (told, alive, ended) = (Arc::clone(&link), alive.clone(), closed.clone());
        let library = login
            .apply(library_options(options, &servers))
            .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, &ended))
            .event_callback(move |event| {
                let _alive = &alive;
                told.tell(event);
                std::future::ready(())
            });
        let Some(place) = place.clone() else { return library };
        let (link, ended) = (Arc::clone(&link), closed.clone());
        library
            .reconnect_to_server_callback(move |pool, _| Arc::clone(&link).beside(pool, place.clone(), ended.clone()))
    };
    let client = Arc::new(first_connection(&servers, deadline, library_options).await?);
    drop(alive);

    let (outlet, events) = Outlet::new();
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let tasks = TaskTracker::new();
    let jetstream = if options.history.namespaces.is_empty() && !options.tells {
        None
    } else {
        // In a box: most nodes have none, and it is large.
        let jetstream = Box::pin(begin_jetstream(&client, &subjects, options, &commands, &closed, &tasks)).await;
        if jetstream.is_err() {
            closed.cancel();
            tasks.close();
            tasks.wait().await;
        }
        Some(Arc::new(jetstream?))
    };
    let follower = Follower {
        client: Arc::clone(&client),
        link: Arc::clone(&link),
        jetstream: jetstream.clone(),
        closed: closed.clone(),
        library,
    };
    tasks.spawn(follower.run());
    let takes_interests = opened.is_some();
    if let Some(opened) = opened {
        let parts = Parts {
            subjects: subjects.clone(),
            streams: jetstream.as_ref().map(|jetstream| Arc::clone(&jetstream.streams)),
            signals: options.signals.clone(),
            commands: receiver,
            outlet,
            library: link.up(),
            closed: closed.clone(),
        };
        tasks.spawn(Intake::run(parts, opened));
    } else {
        let closed = closed.clone();
        // The stream of events ends with the adapter, though nothing comes by it.
        tasks.spawn(async move {
            closed.cancelled().await;
            drop(outlet);
        });
    }
    let nats = Nats {
        client: RwLock::new(Some(client)),
        subjects,
        link,
        jetstream,
        takes_interests,
        commands,
        request_timeout: options.request_timeout,
        closed,
        tasks,
    };
    Ok((Arc::new(nats), events))
}

/// The connection by which interests come. It is opened first: the library's goes where it is.
async fn open_intake(
    options: &BrokerOptions,
    servers: &Servers,
    login: &Login,
    deadline: Instant,
) -> Result<Opened, BrokerError> {
    let dialer = Arc::new(Dialer {
        login: login.clone(),
        name: format!("{} intake", client_name(options)),
        tls: servers.tls,
        options: Arc::new(options.clone()),
        timeout: options.connect_timeout,
    });
    first(servers, deadline, DialError::is_final, || Opened::open(Arc::clone(&dialer), &servers.servers)).await
}

/// Lets the streams be as they have to be, and begins to watch them.
async fn begin_jetstream(
    client: &Arc<Client>,
    subjects: &NatsSubjects,
    options: &BrokerOptions,
    commands: &mpsc::Sender<Command>,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<JetStream, BrokerError> {
    let refused = |error: SubscribeError| BrokerError::Refused { broker: NAME, reason: error.to_string() };
    let requests = Requests::new(closed.clone());
    let inbox = client.subscribe(requests.subject()).await.map_err(refused)?;
    tasks.spawn(Arc::clone(&requests).read(inbox));
    let advisories = client.subscribe(keeper::advisories()).await.map_err(refused)?;
    let streams = Arc::new(Streams::new(subjects, &options.history, options.tells));
    let caller = Caller::new(Arc::clone(client), Arc::clone(&requests), options.connect_timeout);
    manage::prepare(&caller, &streams).await?;
    manage::prepare_events(&caller, &streams).await?;
    let keeper = Keeper {
        client: Arc::clone(client),
        requests: Arc::clone(&requests),
        streams: Arc::clone(&streams),
        advisories,
        commands: commands.clone(),
        request_timeout: options.request_timeout,
        closed: closed.clone(),
    };
    tasks.spawn(keeper.run());
    Ok(JetStream { streams, requests })
}

/// All but who we are and what is called back.
fn library_options(options: &BrokerOptions, servers: &Servers) -> ConnectOptions {
    let mut library = ConnectOptions::new()
        .name(client_name(options))
        .connection_timeout(options.connect_timeout)
        .ping_interval(PING_INTERVAL)
        .require_tls(servers.tls);
    if let Some(authorities) = &options.tls_ca_file {
        library = library.add_root_certificates(authorities.clone());
    }
    if let (Some(certificate), Some(key)) = (&options.tls_cert_file, &options.tls_key_file) {
        library = library.add_client_certificate(certificate.clone(), key.clone());
    }
    library
}

fn client_name(options: &BrokerOptions) -> &str {
    options.client_name.as_deref().unwrap_or("fanfare")
}

/// The library's first connection.
async fn first_connection(
    servers: &Servers,
    deadline: Instant,
    library_options: impl Fn() -> ConnectOptions,
) -> Result<Client, BrokerError> {
    let addresses: Vec<ServerAddr> = addresses(servers)
        .map(|address| address.parse())
        .collect::<Result<_, _>>()
        .expect("an address made of a host and a port is one");
    first(servers, deadline, is_final, || library_options().connect(addresses.as_slice())).await
}

/// Goes round all servers until one answers or the time is over. A refusal ends it at once.
async fn first<T, E: std::error::Error, F: Future<Output = Result<T, E>>>(
    servers: &Servers,
    deadline: Instant,
    is_final: impl Fn(&E) -> bool,
    connect: impl Fn() -> F,
) -> Result<T, BrokerError> {
    let mut reason = "no answer".to_owned();
    loop {
        match timeout_at(deadline, connect()).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) if is_final(&error) => {
                return Err(BrokerError::Refused { broker: NAME, reason: error.to_string() });
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() + START_DELAY >= deadline {
            let servers = addresses(servers).collect::<Vec<_>>().join(",");
            return Err(BrokerError::Unreachable { broker: NAME, servers, reason });
        }
        sleep(START_DELAY).await;
    }
}

fn addresses(servers: &Servers) -> impl Iterator<Item = String> {
    let scheme = if servers.tls { "tls" } else { "nats" };
    servers.servers.iter().map(move |server: &Server| format!("{scheme}://{server}"))
}

/// Whether another attempt would fail just the same.
fn is_final(error: &ConnectError) -> bool {
    matches!(
        error.kind(),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication | ConnectErrorKind::ServerParse
    )
}

/// Called by the library before each attempt.
fn reconnect_delay(attempts: usize, closed: &CancellationToken) -> Duration {
    if closed.is_cancelled() {
        // The library would try for ever, and has no other way out while there is no server: its task, which has nothing
        // left to do, is unwound, without a message. Where panics abort it sleeps instead.
        #[cfg(panic = "unwind")]
        std::panic::resume_unwind(Box::new("the NATS adapter is closed"));
        #[cfg(not(panic = "unwind"))]
        return Duration::MAX;
    }
    backoff::pause(attempts)
}
