//! The node's configuration: one TOML file, overridden by environment variables, overridden by flags.
//!
//! [`Config::load`] reads all of it and reports every problem at once; what it returns is valid as a whole.
//! docs/operations.md describes every key.

mod build;
mod build_auth;
mod build_history;
mod build_presence;
mod check;
mod load;
mod print;
mod reader;
mod secret;
mod value;

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, time::Duration};

use fanfare_broker::HistoryOptions;
use fanfare_presence::StoreOptions;
use fanfare_protocol::{Tenant, limits};
use fanfare_session::{Access, ChannelTemplate, LifecycleEvents, Namespace, NamespaceTable, SessionConfig};

pub use load::{Inputs, Overrides, Problem, Problems};
pub use secret::Secret;

use crate::{auth::AuthConfig, origin::OriginPolicy};

/// Everything that a node is told. Valid as a whole: made by [`Config::load`] or [`Config::development`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The public listener. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The internal listener: API, metrics, health.
    pub internal_listen: SocketAddr,
    /// Which broker, and how to authenticate there.
    pub broker: BrokerConfig,
    /// The name of this node, for other nodes and for operators.
    pub node: String,
    /// Where presence is kept, where there is such a place.
    pub store: Option<StoreConfig>,
    /// How members come and go.
    pub presence: PresenceConfig,
    /// What services are told of connections.
    pub events: LifecycleEvents,
    /// Channels that every connection is subscribed to when it connects; `{sub}` stands for the token's subject.
    pub auto_subscribe: Vec<ChannelTemplate>,
    /// Shards: single-threaded runtimes with connections. Never 0: one per core where none are named.
    pub shards: usize,
    /// The first segment of every subject.
    pub prefix: String,
    /// Paths of the public port.
    pub paths: Paths,
    /// Which web pages may connect.
    pub origins: OriginPolicy,
    /// Keys of the internal API. Where there are none, development mode needs none, and otherwise every request is refused.
    pub api_keys: Vec<Secret>,
    /// Who may connect.
    pub auth: AuthConfig,
    /// The options of channels.
    pub namespaces: NamespaceTable,
    /// Which namespaces keep history, and how the broker keeps it.
    pub history: HistoryOptions,
    /// Bounds of queues, buffers and tables.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Whether permessage-deflate (RFC 7692) is offered to clients.
    pub compression: bool,
    /// What is logged, and how.
    pub log: LogConfig,
    /// No authentication is configured and both listeners are on loopback.
    pub development: bool,
    /// What is accepted but should not stay as it is; each names its key.
    pub warnings: Vec<String>,
    /// Every key with its value in effect, as `config --print` shows it.
    effective: print::Effective,
}

/// Which broker, and how to authenticate there.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `memory:`, `nats://…`, `tls://…`, `redis://…`, `rediss://…`, `redis-sentinel://…/SERVICE`; several NATS servers or sentinels are separated by commas. May hold a password.
    pub url: Secret,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// NATS token.
    pub token: Option<Secret>,
    /// NATS nkey seed (`SU…`).
    pub nkey_seed: Option<Secret>,
    /// NATS credentials file (`.creds`).
    pub credentials_file: Option<PathBuf>,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM).
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the client certificate (PEM).
    pub tls_key_file: Option<PathBuf>,
}

/// Which store keeps presence, and how to authenticate there.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `memory:`, `redis://…`, `rediss://…`, `redis-sentinel://…/SERVICE`, `redis-cluster://…`. May hold a password.
    pub url: Secret,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate (PEM).
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the client certificate (PEM).
    pub tls_key_file: Option<PathBuf>,
}

/// How members come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceConfig {
    /// How long the members of a node stay that is not heard of any more. It says so at a third of it.
    pub lease: Duration,
    /// How long a leave waits for the member to come back. At most `lease`.
    pub grace: Duration,
    /// How long changes of a channel are gathered before they are told.
    pub batch: Duration,
    /// Members of a channel above which counts are told instead of names.
    pub max_named: usize,
    /// Whether the store keeps where each user is connected.
    pub connections: bool,
}

/// Paths of the public port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Where WebSocket clients connect; never empty.
    pub ws: Vec<String>,
    /// Where clients of server-sent events connect; empty where none are served.
    pub sse: Vec<String>,
}

/// Bounds of queues, buffers and tables. None of them is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of this node.
    pub connections: usize,
    /// Channels and patterns that this node's sessions are subscribed to.
    pub channels: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Commands of one session that wait for a completion.
    pub pending_commands: usize,
    /// Malformed frames of one session after which it is closed.
    pub malformed_frames: u32,
    /// Bytes that wait for one connection's socket; at the limit it is closed as a slow consumer.
    pub outbox_bytes: usize,
    /// Frames that wait for one connection's socket; at the limit it is closed as a slow consumer.
    pub outbox_frames: usize,
    /// Bytes in one message of a client.
    pub message_bytes: usize,
    /// Bytes in a publication's body.
    pub publication_bytes: usize,
    /// Messages that wait for one shard.
    pub shard_inbox: usize,
    /// Bytes that the kernel may hold unsent for one connection before it counts as not writable (`TCP_NOTSENT_LOWAT`).
    pub notsent_lowat_bytes: usize,
    /// Bytes in one request body of the internal API.
    pub api_body_bytes: usize,
    /// Publications in one request of `/api/batch`, and channels in one of `/api/broadcast`.
    pub api_batch: usize,
    /// Publications that one client gets of a channel's past at once: by `since`, `rewind` or `history`.
    pub recovery_publications: usize,
    /// The same in bytes of bodies.
    pub recovery_bytes: usize,
    /// Bytes of recent publications that the node keeps, of all channels with history.
    pub ring_bytes: usize,
    /// Reads of history at the broker at one time.
    pub history_reads: usize,
    /// Bytes of what a connection says of itself in presence, as JSON.
    pub presence_info_bytes: usize,
    /// Members in one answer to who is there.
    pub presence_page: usize,
    /// Changes of its own presence that one session may make in a second.
    pub presence_updates_per_second: u32,
    /// Signals that one session may send in a second.
    pub signals_per_second: u32,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the accepted socket to the end of the HTTP handshake.
    pub handshake: Duration,
    /// From the handshake to the authenticated session.
    pub connect: Duration,
    /// How long a client may be silent before it is pinged.
    pub ping_interval: Duration,
    /// How long after a ping a client that stays silent is closed.
    pub pong: Duration,
    /// How long before the token's end the client is told.
    pub token_expiring: Duration,
    /// How long interest is kept at the broker after the last subscriber has left.
    pub linger: Duration,
    /// How often the node asks the broker where its channels with history stand.
    pub position_check: Duration,
    /// How long a connection may be without activity before its presence says `idle`.
    pub idle: Duration,
    /// How long a signal that was started holds without being renewed.
    pub signal: Duration,
    /// How long a node that was told to stop waits for its connections to close.
    pub shutdown: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing`'s filter: `info`, or `info,fanfare_gateway=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 19_000,
            channels: 100_000,
            subscriptions: 1_000,
            pending_commands: 1_000,
            malformed_frames: 100,
            outbox_bytes: 4 * 1024 * 1024,
            outbox_frames: 8_192,
            message_bytes: limits::MESSAGE_BYTES,
            publication_bytes: limits::PUBLICATION_BYTES,
            shard_inbox: 8_192,
            notsent_lowat_bytes: 32 * 1024,
            api_body_bytes: 8 * 1024 * 1024,
            api_batch: 1_000,
            recovery_publications: limits::RECOVERY_PUBLICATIONS,
            recovery_bytes: 1024 * 1024,
            ring_bytes: 64 * 1024 * 1024,
            history_reads: 16,
            presence_info_bytes: 1024,
            presence_page: 500,
            presence_updates_per_second: 10,
            signals_per_second: 10,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            pong: Duration::from_secs(10),
            token_expiring: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            position_check: Duration::from_secs(10),
            idle: Duration::from_secs(5 * 60),
            signal: Duration::from_secs(6),
            shutdown: Duration::from_secs(10),
        }
    }
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            batch: Duration::from_millis(250),
            max_named: 500,
            connections: false,
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self { ws: vec!["/ws".into()], sse: vec!["/sse".into()] }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Config {
    /// Development mode on free loopback ports with the embedded broker: what an empty configuration gives, but for the ports.
    pub fn development() -> Self {
        let overrides = Overrides {
            listen: Some("127.0.0.1:0".into()),
            internal_listen: Some("127.0.0.1:0".into()),
            ..Overrides::default()
        };
        Self::load(&Inputs { overrides, ..Inputs::default() }).expect("the defaults are a valid configuration")
    }

    /// Threads of the main runtime: it parses publications and serves the API, the shards do the rest.
    pub fn main_threads(&self) -> usize {
        self.shards.clamp(1, 4)
    }

    /// What a session needs to know.
    pub fn session_config(&self) -> SessionConfig {
        SessionConfig {
            namespaces: self.namespaces.clone(),
            anonymous: self.auth.anonymous.then(Tenant::default),
            connect_timeout: self.timeouts.connect,
            ping_interval: self.timeouts.ping_interval,
            pong_timeout: self.timeouts.pong,
            token_expiring: self.timeouts.token_expiring,
            max_subscriptions: self.limits.subscriptions,
            max_pending_commands: self.limits.pending_commands,
            max_malformed: self.limits.malformed_frames,
            max_publication_bytes: self.limits.publication_bytes,
            max_history: self.limits.recovery_publications,
            idle: self.timeouts.idle,
            signal_expiry: self.timeouts.signal,
            presence_info_bytes: self.limits.presence_info_bytes,
            presence_updates_per_second: self.limits.presence_updates_per_second,
            signals_per_second: self.limits.signals_per_second,
            presence_page: self.limits.presence_page,
            auto_subscribe: self.auto_subscribe.clone(),
        }
    }
}

impl Config {
    /// Whether anything is kept of who is there.
    pub fn has_presence(&self) -> bool {
        self.presence.connections
            || self.namespaces.defaults.presence
            || self.namespaces.declared.values().any(|namespace| namespace.presence)
    }

    /// Whether services are told of anything.
    pub fn tells(&self) -> bool {
        let of_channels = |namespace: &Namespace| !namespace.events.is_empty();
        !self.events.is_empty()
            || of_channels(&self.namespaces.defaults)
            || self.namespaces.declared.values().any(of_channels)
    }

    /// Declared namespaces in which somebody may send signals. How others signal does not matter to a broker: they keep no history.
    fn namespaces_with_signals(&self) -> HashSet<Box<str>> {
        let declared = self.namespaces.declared.iter();
        let with = declared.filter(|(_, namespace)| namespace.signal != Access::None);
        with.map(|(name, _)| name.clone()).collect()
    }

    /// How to reach the store, where a namespace has presence: without one nobody asks it.
    pub fn store_options(&self) -> Option<StoreOptions> {
        let store = self.store.as_ref().filter(|_| self.has_presence())?;
        Some(StoreOptions {
            prefix: self.prefix.clone(),
            user: store.user.clone(),
            password: store.password.as_ref().map(|password| password.expose().to_owned()),
            tls_ca_file: store.tls_ca_file.clone(),
            tls_cert_file: store.tls_cert_file.clone(),
            tls_key_file: store.tls_key_file.clone(),
            ..StoreOptions::new(store.url.expose())
        })
    }
}

impl From<&Config> for fanfare_broker::BrokerOptions {
    fn from(config: &Config) -> Self {
        let expose = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let broker = &config.broker;
        Self {
            prefix: config.prefix.clone(),
            user: broker.user.clone(),
            password: expose(&broker.password),
            token: expose(&broker.token),
            nkey_seed: expose(&broker.nkey_seed),
            credentials_file: broker.credentials_file.clone(),
            tls_ca_file: broker.tls_ca_file.clone(),
            tls_cert_file: broker.tls_cert_file.clone(),
            tls_key_file: broker.tls_key_file.clone(),
            history: config.history.clone(),
            signals: config.namespaces_with_signals(),
            tells: config.tells(),
            ..Self::new(broker.url.expose())
        }
    }
}

#[cfg(test)]
mod tests;
