//! Who is on a channel, and signals: what a client asks, and what it is told.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Whether a subscriber is told who is on the channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Of changes, where it may see presence.
    #[default]
    Default,
    /// Of nothing.
    Off,
    /// Of who is there, then of changes. Of more members than the node names unasked: how many they are.
    Snapshot,
    /// The same with names, however many members there are.
    Names,
}

impl Watch {
    /// What `presence` of a query says: `true`, `false` or `names`.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "true" => Some(Self::Snapshot),
            "false" => Some(Self::Off),
            "names" => Some(Self::Names),
            _ => None,
        }
    }
}

/// Who is on a channel?
#[derive(Debug)]
pub struct PresenceCommand {
    /// The channel's name.
    pub channel: String,
    /// Counts alone are asked for.
    pub counts: bool,
    /// At most so many members; `None` for what the node gives unasked.
    pub limit: Option<u32>,
    /// Members behind this one, as `next` named it.
    pub after: Option<String>,
}

/// What a client is doing, and what its application says of it.
#[derive(Debug)]
pub struct SetPresenceCommand {
    /// The channel's name; `None` for all of the connection that have presence.
    pub channel: Option<String>,
    /// A word, not yet checked; `None` leaves it.
    pub state: Option<String>,
    /// Any JSON; `None` leaves it, `Some(None)` (`null` on the wire) takes it away.
    pub info: Option<Option<Box<RawValue>>>,
}

/// An event to the others on a channel that is never in its history.
#[derive(Debug)]
pub struct SignalCommand {
    /// The channel's name.
    pub channel: String,
    /// The event's name. One that ends in `:start` is held: it ends by itself.
    pub event: String,
    /// Any JSON, byte for byte.
    pub data: Option<Box<RawValue>>,
}

/// Who is on a channel: the result of `presence`, and `data` of `presence:snapshot`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PresenceReply {
    /// The channel. In a snapshot it stands beside `data`, not in it.
    pub channel: String,
    /// Members.
    pub users: u64,
    /// Their connections.
    pub connections: u64,
    /// In the order of pages; absent where only counts were asked for, or where there are too many to be named unasked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<MemberJson>>,
    /// Whom to go on behind (`after`), where these were not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The version of what was told last to those who watch; absent where the asker does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The store is away, or was a moment ago: this is what the node knew last.
    pub stale: bool,
}

/// A member of a channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberJson {
    /// The token's subject; the session's id of an anonymous member.
    #[serde(rename = "userId")]
    pub user_id: String,
    /// Whether it is an anonymous connection; absent where it is a user.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// `online`, `idle`, or an application's own word.
    pub status: String,
    /// What the application says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Info>,
    /// How many connections.
    pub connections: u32,
    /// When the first of them came, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// What became of a member: `data` of `presence:change`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangeJson {
    /// The token's subject; the session's id of an anonymous member.
    #[serde(rename = "userId")]
    pub user_id: String,
    /// Whether it is an anonymous connection; absent where it is a user.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// `online`, `idle`, an application's own word, or `offline`.
    pub status: String,
    /// What the application says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Info>,
    /// How many connections; 0 where it is offline.
    pub connections: u32,
    /// By one higher than that of what was told before.
    pub version: u64,
}

/// How many there are: `data` of `presence:count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CountJson {
    /// Members.
    pub users: u64,
    /// Their connections.
    pub connections: u64,
    /// By one higher than that of what was told before.
    pub version: u64,
}

/// Whose a signal is, and what it says: `data` of every signal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SignalJson<'a> {
    /// The token's subject; the session's id of an anonymous sender.
    #[serde(rename = "userId")]
    pub user_id: &'a str,
    /// Whether the sender has no token; absent where it has one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// What the sender gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// Milliseconds after which it is over, unless it comes again; absent where it is over at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// What an application says of a member: any JSON, byte for byte. Cheap to clone; compared by its text.
#[derive(Clone)]
pub struct Info(Arc<RawValue>);

impl Info {
    /// The JSON.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The JSON, shared.
    pub fn into_raw(self) -> Arc<RawValue> {
        self.0
    }
}

impl From<Box<RawValue>> for Info {
    fn from(json: Box<RawValue>) -> Self {
        Self(json.into())
    }
}

impl From<Arc<RawValue>> for Info {
    fn from(json: Arc<RawValue>) -> Self {
        Self(json)
    }
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Info {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for Info {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
