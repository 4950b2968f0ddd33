//! What a session needs to know of the node's configuration.

use std::{collections::HashMap, time::Duration};

use fanfare_protocol::Tenant;

use crate::{ChannelTemplate, LifecycleEvents};

/// Shared by all sessions of a node.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The options of channels.
    pub namespaces: NamespaceTable,
    /// Whether clients without a token may connect, and to which tenant. `None`: they may not.
    pub anonymous: Option<Tenant>,
    /// How long a client may take to authenticate before it is closed with `ConnectTimeout`.
    pub connect_timeout: Duration,
    /// How long a client may be silent before it is pinged.
    pub ping_interval: Duration,
    /// How long after a ping a client that stays silent is closed with `PingTimeout`.
    pub pong_timeout: Duration,
    /// How long before the token's end `system:token_expiring` is pushed.
    pub token_expiring: Duration,
    /// Subscriptions of one session, those that are being made included.
    pub max_subscriptions: usize,
    /// Commands that wait for the connect before them, and, once connected, those that wait for their completion. Beyond
    /// it a command is answered `LIMIT_EXCEEDED`; a `publish` of a connected session `RATE_LIMIT`, since it may be tried
    /// again as soon as another has its reply. A `refresh` is not counted: there is one at a time.
    pub max_pending_commands: usize,
    /// Malformed frames after which the client is closed with `BadRequest`.
    pub max_malformed: u32,
    /// Bytes of an event that a client publishes, as the envelope that goes to the broker.
    pub max_publication_bytes: usize,
    /// Publications that one command may ask for of a channel's past: the most that `rewind` and the `limit` of `history`
    /// may be.
    pub max_history: usize,
    /// How long after its last activity a connection is `idle`.
    pub idle: Duration,
    /// How long a signal that ends in `:start` is held without being renewed.
    pub signal_expiry: Duration,
    /// Bytes of the `info` of `set_presence`, as JSON.
    pub presence_info_bytes: usize,
    /// Commands `set_presence` of one session in a second; as many may come at once.
    pub presence_updates_per_second: u32,
    /// Commands `signal` of one session in a second; as many may come at once.
    pub signals_per_second: u32,
    /// Members in one snapshot, and the most that the `limit` of `presence` may be.
    pub presence_page: usize,
    /// Channels that every connection is subscribed to when it connects, where it may.
    pub auto_subscribe: Vec<ChannelTemplate>,
}

/// Options of the namespaces that are declared, and of all others.
#[derive(Clone, Debug, Default)]
pub struct NamespaceTable {
    /// By name.
    pub declared: HashMap<Box<str>, Namespace>,
    /// For those that are not declared.
    pub defaults: Namespace,
}

impl NamespaceTable {
    /// The options of a namespace.
    pub fn get(&self, name: &str) -> &Namespace {
        self.declared.get(name).unwrap_or(&self.defaults)
    }

    /// Whether any namespace keeps history.
    pub fn keep_history(&self) -> bool {
        self.any(|namespace| namespace.history)
    }

    /// Whether channels of any namespace have members.
    pub fn have_presence(&self) -> bool {
        self.any(|namespace| namespace.presence)
    }

    /// Whether clients may send signals in any namespace.
    pub fn have_signals(&self) -> bool {
        self.any(|namespace| namespace.signal != Access::None)
    }

    fn any(&self, has: impl Fn(&Namespace) -> bool) -> bool {
        self.declared.values().any(&has) || has(&self.defaults)
    }
}

/// The options of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Who may subscribe.
    pub subscribe: Access,
    /// Which clients may publish.
    pub publish: Access,
    /// Whether patterns may be subscribed to.
    pub patterns: bool,
    /// Whether its channels keep history.
    pub history: bool,
    /// Whether its channels have members.
    pub presence: bool,
    /// Which clients may send signals.
    pub signal: Access,
    /// Which events of its channels are told to services.
    pub events: LifecycleEvents,
    /// What becomes of a client that does not keep up.
    pub slow_consumer: SlowConsumer,
}

impl Default for Namespace {
    /// Subscribe by token, no publish, no patterns, no history, no presence, no signals.
    fn default() -> Self {
        Self {
            subscribe: Access::Token,
            publish: Access::None,
            patterns: false,
            history: false,
            presence: false,
            signal: Access::None,
            events: LifecycleEvents::NONE,
            slow_consumer: SlowConsumer::Disconnect,
        }
    }
}

/// What becomes of a client that does not keep up, with the publications of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is closed, and recovers where there is history.
    #[default]
    Disconnect,
    /// It gets only the newest publication per channel and `key`.
    Conflate,
}

/// Who may do something on the channels of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No client.
    None,
    /// Every client, with a token or without.
    Anyone,
    /// Clients whose token has a claim for it.
    Token,
    /// The user whose channel it is: the second segment is the escaped subject, as in `user:{sub}`.
    Owner,
    /// Clients that are subscribed to the channel. For `publish` and `signal` only.
    Subscribers,
}
