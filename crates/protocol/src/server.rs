//! What a node sends: replies to commands, and pushes.

use serde::Serialize;

use crate::{ErrorCode, Position, PresenceReply, RecordedJson};

/// One frame of a node other than a publication (see [`Delivery`](crate::Delivery)).
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// The answer to a command.
    Reply {
        /// The command's id.
        id: u64,
        /// What was asked for, or why not.
        outcome: Result<Reply, ErrorBody>,
    },
    /// What the node says unasked.
    Push(Push),
}

/// What a command was answered with. On the wire `result`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// Done, and there is nothing to say: `{}`.
    Done {},
    /// The session has begun.
    Connected(Connected),
    /// Subscribed to one channel.
    Subscribed(Subscribed),
    /// Several channels, each with its own outcome, in the order asked for.
    SubscribedMany {
        /// One for each channel.
        subscriptions: Vec<SubscriptionOutcome>,
    },
    /// An event was published.
    Published {
        /// Where it stands, on channels with history.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
    },
    /// A part of a channel's history.
    History(HistoryReply),
    /// Who is on a channel.
    Presence(PresenceReply),
    /// The token was replaced.
    Refreshed {
        /// Milliseconds until the new token expires; absent where it does not.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
    },
}

/// The result of `connect`, and the data of `system:connected`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connected {
    /// The session's id, which envelopes may `exclude`.
    pub session: String,
    /// The protocol's version, [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
    pub protocol: u32,
    /// What this node can do beyond the version.
    pub features: Vec<&'static str>,
    /// The token's subject; absent for an anonymous client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The tenant.
    pub tenant: String,
    /// Milliseconds until the token expires; absent where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// Milliseconds between pings of the node: hearing nothing for much longer means a dead connection.
    pub ping_interval_ms: u64,
}

/// A subscription that was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Subscribed {
    /// The channel or pattern, as it was asked for.
    pub channel: String,
    /// Where the subscription begins, on channels with history: the client continues from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Whether `publications` and those that are pushed after it are all that lie behind the client's `since`; absent where
    /// it gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// What the client gets first, oldest first; absent where it asked for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publications: Option<Vec<RecordedJson>>,
}

/// The result of `history`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryReply {
    /// Oldest first.
    pub publications: Vec<RecordedJson>,
    /// Where the channel stands.
    pub position: Position,
    /// Whether there are more in the direction asked for.
    pub more: bool,
    /// Whether nothing between `since` and the first of them is lost; absent where the client gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
}

/// What a gap is about: the client has everything up to `from`, and gets everything behind `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missed {
    /// The last position before the gap.
    pub from: Position,
    /// The position from which on publications come again.
    pub to: Position,
}

/// One of several subscriptions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriptionOutcome {
    /// The channel or pattern, as it was asked for.
    pub channel: String,
    /// Why it was not subscribed; absent where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The code, see docs/protocol.md.
    pub code: ErrorCode,
    /// For people: who, what, and what is allowed.
    pub message: String,
    /// Whether the same request may succeed later unchanged.
    pub retryable: bool,
    /// Milliseconds to wait before trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnect_after_ms: Option<u64>,
}

impl ErrorBody {
    /// An error whose `retryable` is its code's.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: code.retryable(), reconnect_after_ms: None }
    }
}

/// What the node says unasked: `{"event":"system:…","data":{…}}`. Written by `write_message` of either dialect.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", content = "data")]
pub enum Push {
    /// The session began with the token of the handshake.
    #[serde(rename = "system:connected")]
    Connected(Connected),
    /// Answer with `{"type":"pong"}`.
    #[serde(rename = "system:ping")]
    Ping {},
    /// The token is about to expire: send `refresh`.
    #[serde(rename = "system:token_expiring")]
    TokenExpiring {
        /// Milliseconds until it does.
        expires_in_ms: u64,
    },
    /// A subscription that was asked for in the handshake.
    #[serde(rename = "system:subscribed")]
    Subscribed(Subscribed),
    /// A subscription ended by the node.
    #[serde(rename = "system:unsubscribed")]
    Unsubscribed {
        /// The channel or pattern.
        channel: String,
        /// Why.
        #[serde(flatten)]
        error: ErrorBody,
    },
    /// Publications on a channel were or may have been missed.
    #[serde(rename = "system:gap")]
    Gap {
        /// The channel or pattern.
        channel: String,
        /// Why: a word, for people and logs.
        reason: &'static str,
        /// Which part, on channels with history where it is known.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        missed: Option<Missed>,
    },
    /// The node is going away.
    #[serde(rename = "system:draining")]
    Draining {
        /// Milliseconds to wait before reconnecting.
        reconnect_after_ms: u64,
    },
    /// Who is on a channel, behind the answer to a subscription that asked for it. Its channel stands beside its data.
    #[serde(rename = "presence:snapshot")]
    PresenceSnapshot(PresenceReply),
    /// Something that cannot be answered by id went wrong.
    #[serde(rename = "system:error")]
    Error {
        /// The channel that it is about, where it is about one.
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<String>,
        /// What went wrong.
        #[serde(flatten)]
        error: ErrorBody,
    },
}
