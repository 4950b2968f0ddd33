//! What nodes tell services of connections and channels.

use bytes::Bytes;
use fanfare_protocol::Tenant;

/// Something that happened, for services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// Whose connection or channel it is.
    pub tenant: Tenant,
    /// What happened.
    pub kind: LifecycleKind,
    /// The same wherever and however often this very thing is told. At most 512 bytes, without line breaks.
    pub id: String,
    /// What is told of it, as JSON.
    pub body: Bytes,
}

/// What happened: the last segment of the name on which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LifecycleKind {
    /// A client has connected.
    Connected,
    /// A connection has ended.
    Disconnected,
    /// A connection has subscribed to a channel.
    Subscribed,
    /// A subscription has ended.
    Unsubscribed,
    /// Somebody is on a channel, where nobody was.
    Occupied,
    /// Nobody is on a channel any more.
    Vacated,
}

impl LifecycleKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connected, Self::Disconnected, Self::Subscribed, Self::Unsubscribed, Self::Occupied, Self::Vacated];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
        }
    }
}
