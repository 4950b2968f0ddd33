//! The first connection.

use std::sync::Arc;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use fanfare_protocol::NatsSubjects;
use tokio::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    COMMANDS, JetStream, NAME, Nats,
    echo::Echo,
    keeper::{self, Keeper},
    link::Link,
    manage,
    reader::{Command, Parts, Reader},
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

    let (link, closed) = (Link::new(), CancellationToken::new());
    // The library keeps the sender while its tasks run.
    let (alive, library) = mpsc::channel(1);
    let library_options = || {
        let (link, alive, closed) = (Arc::clone(&link), alive.clone(), closed.clone());
        login
            .apply(library_options(options, &servers))
            .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, &closed))
            .event_callback(move |event| {
                let _alive = &alive;
                link.tell(event);
                std::future::ready(())
            })
    };
    let client = Arc::new(first_connection(options, &servers, library_options).await?);
    drop(alive);

    let echo = Echo::new(&options.prefix);
    let refused =
        |error: async_nats::client::SubscribeError| BrokerError::Refused { broker: NAME, reason: error.to_string() };
    // The first of this client: number 1.
    let echoes = client.subscribe(echo.subject()).await.map_err(refused)?;
    let (outlet, events) = Outlet::new();
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let tasks = TaskTracker::new();
    let (jetstream, subscriptions) = if options.history.namespaces.is_empty() && !options.tells {
        (None, 1)
    } else {
        // In a box: most nodes have none, and it is large.
        let jetstream = Box::pin(begin_jetstream(&client, &subjects, options, &commands, &closed, &tasks)).await;
        if jetstream.is_err() {
            closed.cancel();
            tasks.close();
            tasks.wait().await;
        }
        (Some(jetstream?), 3)
    };
    let parts = Parts {
        client: Arc::clone(&client),
        subjects: subjects.clone(),
        link: Arc::clone(&link),
        echo: Arc::clone(&echo),
        echoes,
        commands: receiver,
        outlet,
        subscription_capacity: options.subscription_capacity.max(1),
        jetstream: jetstream.as_ref().map(|begun| (Arc::clone(&begun.streams), Arc::clone(&begun.requests))),
        closed: closed.clone(),
        tasks: tasks.clone(),
        library,
    };
    tasks.spawn(Reader::new(parts).run());
    let nats = Nats {
        client: std::sync::RwLock::new(Some(client)),
        subjects,
        link,
        echo,
        jetstream,
        signals: options.signals.clone(),
        last_sid: Mutex::new(subscriptions),
        commands,
        request_timeout: options.request_timeout,
        closed,
        tasks,
    };
    Ok((Arc::new(nats), events))
}

/// Lets the streams be as they have to be, and begins to watch them. The client's second and third subscriptions.
async fn begin_jetstream(
    client: &Arc<Client>,
    subjects: &NatsSubjects,
    options: &BrokerOptions,
    commands: &mpsc::Sender<Command>,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<JetStream, BrokerError> {
    let refused =
        |error: async_nats::client::SubscribeError| BrokerError::Refused { broker: NAME, reason: error.to_string() };
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

/// How the node says who it is.
#[derive(Clone)]
enum Login {
    Nobody,
    Password(String, String),
    Token(String),
    Nkey(String),
    /// The text of a credentials file.
    Credentials(String),
}

impl Login {
    /// One way, since a server looks at one only.
    async fn choose(options: &BrokerOptions, servers: &Servers) -> Result<Self, BrokerError> {
        let mut ways = Vec::new();
        match (&servers.user, &servers.password) {
            (Some(user), Some(password)) => ways.push(Self::Password(user.clone(), password.clone())),
            // A user alone in a URL is a token, as in other NATS clients.
            (Some(token), None) if options.user.is_none() => ways.push(Self::Token(token.clone())),
            (None, None) => {}
            _ => return Err(login_error("both user and password, or neither")),
        }
        ways.extend(options.token.clone().map(Self::Token));
        ways.extend(options.nkey_seed.clone().map(Self::Nkey));
        if let Some(path) = &options.credentials_file {
            let text = tokio::fs::read_to_string(path).await.map_err(|error| BrokerError::Configuration {
                what: "credentials_file",
                value: path.display().to_string(),
                allowed: format!("a readable file ({error})"),
            })?;
            if ConnectOptions::with_credentials(&text).is_err() {
                return Err(BrokerError::Configuration {
                    what: "credentials_file",
                    value: path.display().to_string(),
                    allowed: "a file with a user's JWT and seed, as `nsc generate creds` writes it".to_owned(),
                });
            }
            ways.push(Self::Credentials(text));
        }
        let way = ways.pop().unwrap_or(Self::Nobody);
        if ways.is_empty() { Ok(way) } else { Err(login_error("one of them")) }
    }

    fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        match self.clone() {
            Self::Nobody => options,
            Self::Password(user, password) => options.user_and_password(user, password),
            Self::Token(token) => options.token(token),
            Self::Nkey(seed) => options.nkey(seed),
            Self::Credentials(text) => {
                options.credentials(&text).expect("the text was read the same way when it was chosen")
            }
        }
    }
}

fn login_error(allowed: &str) -> BrokerError {
    BrokerError::Configuration {
        what: "user and password, token, nkey_seed, credentials_file",
        value: "***".to_owned(),
        allowed: allowed.to_owned(),
    }
}

/// All but who we are and what is called back.
fn library_options(options: &BrokerOptions, servers: &Servers) -> ConnectOptions {
    let mut library = ConnectOptions::new()
        .name(options.client_name.as_deref().unwrap_or("fanfare"))
        .subscription_capacity(options.subscription_capacity.max(1))
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

/// Goes round all servers until one answers or the time is over. A refusal ends it at once.
async fn first_connection(
    options: &BrokerOptions,
    servers: &Servers,
    library_options: impl Fn() -> ConnectOptions,
) -> Result<Client, BrokerError> {
    let scheme = if servers.tls { "tls" } else { "nats" };
    let address = |server: &Server| format!("{scheme}://{server}");
    let addresses: Vec<ServerAddr> = servers
        .servers
        .iter()
        .map(|server| address(server).parse())
        .collect::<Result<_, _>>()
        .expect("an address made of a host and a port is one");
    let deadline = Instant::now() + options.connect_timeout;
    let mut reason = "no answer".to_owned();
    loop {
        let attempt = timeout_at(deadline, library_options().connect(addresses.as_slice())).await;
        match attempt {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) if is_final(&error) => {
                return Err(BrokerError::Refused { broker: NAME, reason: error.to_string() });
            }
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() + START_DELAY >= deadline {
            let servers = servers.servers.iter().map(address).collect::<Vec<_>>().join(",");
            return Err(BrokerError::Unreachable { broker: NAME, servers, reason });
        }
        sleep(START_DELAY).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn choose(options: BrokerOptions) -> Result<Login, String> {
        let Ok(Address::Nats(servers)) = Address::parse(&options) else { panic!("{options:?}") };
        Login::choose(&options, &servers).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn one_way_to_log_in() {
        let options = |url: &str| BrokerOptions::new(url);
        let secret = Some("secret".to_owned());
        assert!(matches!(choose(options("nats://a")).await, Ok(Login::Nobody)));
        assert!(matches!(choose(options("nats://t@a")).await, Ok(Login::Token(t)) if t == "t"));
        assert!(matches!(choose(options("nats://u:p@a")).await, Ok(Login::Password(u, p)) if u == "u" && p == "p"));
        let alone = BrokerOptions { user: Some("u".to_owned()), ..options("nats://a") };
        assert!(choose(alone).await.is_err_and(|error| error.contains("both user and password")));
        let two = BrokerOptions { token: secret.clone(), nkey_seed: secret, ..options("nats://a") };
        assert!(choose(two).await.is_err_and(|error| error.contains("one of them") && !error.contains("secret")));
        let missing = BrokerOptions { credentials_file: Some("/no/such".into()), ..options("nats://a") };
        assert!(choose(missing).await.is_err_and(|error| error.contains("/no/such")));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wrong.creds");
        std::fs::write(&path, "secret").unwrap();
        let wrong = BrokerOptions { credentials_file: Some(path), ..options("nats://a") };
        assert!(choose(wrong).await.is_err_and(|error| error.contains("nsc") && !error.contains("secret")));
    }
}
