//! What the store keeps: one row for each connection on a channel.

use std::{fmt, sync::Arc};

use fanfare_protocol::{Channel, Tenant};
use serde_json::value::RawValue;

/// A channel of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Whose channel it is.
    pub tenant: Tenant,
    /// Which channel.
    pub channel: Channel,
}

/// A connection, by its session's id: unique in the cluster, never used twice. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, packed(8))] // as u128 wants it, rows and users would be larger by 8 bytes each
pub struct ConnectionKey(pub u128);

/// One life of a node, as the store knows it: `{node}.{16 hexadecimal digits}`, of `A-Z a-z 0-9 _ - .`. A node that lost its lease
/// takes a new one, so that it cannot come back as the one that was reaped. Of one process a later one is greater as text, in its last four digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(Arc<str>);

/// Who is a member: one for all connections of a user, or one anonymous connection alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum User {
    /// The token's subject.
    Named(Arc<str>),
    /// A client without one.
    Anonymous(ConnectionKey),
}

/// What a connection is doing: `online`, `idle`, or an application's own word such as `editing`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// There.
    #[default]
    Online,
    /// There, but without activity for a while.
    Idle,
    /// An application's own word.
    Own(Arc<str>),
}

/// A connection on a channel.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which connection.
    pub connection: ConnectionKey,
    /// Whose.
    pub user: User,
    /// What it is doing.
    pub state: State,
    /// What the application says of it: any JSON.
    pub info: Option<Arc<RawValue>>,
    /// When it came to the channel, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// A row was written or removed.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// The connection is on the channel now, or its row says something else now.
    Put(Incarnation, Row),
    /// It is not any more. `user` is whose it was.
    Removed {
        /// Which connection.
        connection: ConnectionKey,
        /// Whose.
        user: User,
    },
}

/// A word that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state {word:?} is not allowed; allowed are 1 to {max} of a-z 0-9 _ -, except \"offline\"", max = State::BYTES)]
pub struct StateError {
    word: String,
}

impl ConnectionKey {
    /// Reads 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl User {
    /// A text by which clients name whom to go on behind.
    pub fn to_cursor(&self) -> String {
        match self {
            Self::Named(user) => format!("u:{user}"),
            Self::Anonymous(connection) => format!("a:{connection}"),
        }
    }

    /// Reads [`to_cursor`](Self::to_cursor).
    pub fn from_cursor(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("u", user) => Some(Self::Named(user.into())),
            ("a", connection) => ConnectionKey::parse(connection).map(Self::Anonymous),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", { self.0 })
    }
}

impl Incarnation {
    /// A life of the node. `number` tells it from every other, and is greater than those of the process before.
    pub fn new(node: &str, number: u64) -> Self {
        let node: String = node
            .chars()
            .map(|char| if char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.') { char } else { '_' })
            .take(64)
            .collect();
        Self(format!("{node}.{number:016x}").into())
    }

    /// Reads what a store gave.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        (!text.is_empty() && text.len() <= 96 && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a later life of the same process, of which lives differ in their last four digits alone.
    pub fn is_later_than(&self, other: &Self) -> bool {
        const LIFE: usize = 4;
        let process =
            |incarnation: &Self| incarnation.0.len().checked_sub(LIFE).map(|end| incarnation.0[..end].to_owned());
        process(self).is_some() && process(self) == process(other) && self.0 > other.0
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        self.0.rsplit_once('.').map_or(&*self.0, |(node, _)| node)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl State {
    /// Bytes of the longest word.
    pub const BYTES: usize = 32;

    /// Reads a word.
    ///
    /// # Errors
    /// Where it has other than 1 to 32 of `a-z 0-9 _ -`, or is `offline`, which is what a member is who is not there.
    pub fn parse(word: &str) -> Result<Self, StateError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        match word {
            "online" => Ok(Self::Online),
            "idle" => Ok(Self::Idle),
            "offline" => Err(StateError { word: word.to_owned() }),
            _ if (1..=Self::BYTES).contains(&word.len()) && word.bytes().all(allowed) => Ok(Self::Own(word.into())),
            // Cut, since nobody knows how long it is.
            _ => Err(StateError { word: word.chars().take(Self::BYTES).collect() }),
        }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Online => "online",
            Self::Idle => "idle",
            Self::Own(word) => word,
        }
    }
}

impl RowChange {
    /// Whose row it is or was.
    pub fn user(&self) -> &User {
        match self {
            Self::Put(_, row) => &row.user,
            Self::Removed { user, .. } => user,
        }
    }
}

/// The info byte for byte.
impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        let (info, other_info) = (self.info.as_deref().map(RawValue::get), other.info.as_deref().map(RawValue::get));
        (self.connection, &self.user, &self.state, self.since, info)
            == (other.connection, &other.user, &other.state, other.since, other_info)
    }
}
