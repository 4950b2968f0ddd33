//! What a session asks of its edge, and what the edge answers.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use fanfare_protocol::{
    Channel, CloseCode, ErrorBody, HistoryRange, HistoryReply, Info, Position, PresenceReply, RecordedJson,
    ServerMessage, Start, Topic,
};

use crate::{Grant, PresenceWord};

/// Names an action that has a completion. Unique within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u32);

/// What the edge has to do, in this order.
#[derive(PartialEq)]
pub enum Action {
    /// Verify a token; answer with [`Completion::Authenticated`].
    Authenticate {
        /// For the completion.
        op: OpId,
        /// The token. Never logged.
        token: String,
    },
    /// Subscribe at the hub in the session's tenant; answer with [`Completion::Subscribed`]. The session has checked that it may.
    Subscribe {
        /// For the completion.
        op: OpId,
        /// The channel or pattern.
        topic: Topic,
        /// Which publications the client wants first. Anything but the default only for a channel whose namespace keeps history.
        start: Start,
    },
    /// Read a channel's history; answer with [`Completion::History`]. The session has checked that it may.
    History {
        /// For the completion.
        op: OpId,
        /// Which channel; its namespace keeps history.
        channel: Channel,
        /// Which part of it.
        range: HistoryRange,
        /// At most so many publications.
        limit: usize,
    },
    /// End a subscription at the hub, or one that is still being made. No completion, except that one being made is not completed any more.
    Unsubscribe {
        /// The channel or pattern.
        topic: Topic,
    },
    /// The session is a member of a channel to which it was just told to be subscribed, until the edge carries out its
    /// [`Unsubscribe`](Self::Unsubscribe) or ends the session. Given again where only `watch` is new.
    Join(Box<JoinAction>),
    /// A member is doing something else, or says something else of itself. No completion.
    Present(Box<PresentAction>),
    /// Ask who is on a channel; answer with [`Completion::Presence`]. The session has checked that it may.
    Presence(Box<PresenceAction>),
    /// Publish live only, never into the history. No completion.
    Signal(Box<SignalAction>),
    /// Publish at the broker; answer with [`Completion::Published`].
    Publish(PublishAction),
    /// Send to the client.
    Send(ServerMessage),
    /// Send a WebSocket ping (RFC 6455 section 5.5.2). An edge without such pings sends its own sign of life.
    Ping,
    /// Close with this code after what was sent before. Nothing follows it.
    Close {
        /// The close code.
        code: CloseCode,
        /// For people; at most 123 bytes.
        reason: Cow<'static, str>,
    },
}

/// Without the token: tokens are never logged.
impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticate { op, .. } => f.debug_struct("Authenticate").field("op", op).finish_non_exhaustive(),
            Self::Subscribe { op, topic, start } => {
                f.debug_struct("Subscribe").field("op", op).field("topic", topic).field("start", start).finish()
            }
            Self::History { op, channel, range, limit } => {
                let mut history = f.debug_struct("History");
                history.field("op", op).field("channel", channel).field("range", range).field("limit", limit).finish()
            }
            Self::Unsubscribe { topic } => f.debug_struct("Unsubscribe").field("topic", topic).finish(),
            Self::Join(join) => f.debug_tuple("Join").field(join).finish(),
            Self::Present(present) => f.debug_tuple("Present").field(present).finish(),
            Self::Presence(presence) => f.debug_tuple("Presence").field(presence).finish(),
            Self::Signal(signal) => f.debug_tuple("Signal").field(signal).finish(),
            Self::Publish(publish) => f.debug_tuple("Publish").field(publish).finish(),
            Self::Send(message) => f.debug_tuple("Send").field(message).finish(),
            Self::Ping => f.write_str("Ping"),
            Self::Close { code, reason } => {
                f.debug_struct("Close").field("code", code).field("reason", reason).finish()
            }
        }
    }
}

/// An event of a client that was allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishAction {
    /// For the completion.
    pub op: OpId,
    /// Where to.
    pub channel: Channel,
    /// The envelope, as JSON.
    pub body: Bytes,
    /// The publication's id.
    pub id: Option<String>,
}

/// Who of those who watch a channel a session belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watching {
    /// It is told nothing.
    #[default]
    Nobody,
    /// It is told names, and counts alone where there are too many.
    Auto,
    /// It is told names, however many.
    Names,
}

/// A member of a channel whose namespace has presence.
#[derive(Debug, PartialEq)]
pub struct JoinAction {
    /// Which channel.
    pub channel: Channel,
    /// What it is told of the others.
    pub watch: Watching,
    /// What it is doing.
    pub state: PresenceWord,
    /// What its application says of it.
    pub info: Option<Info>,
}

/// What a member's row says from now on, both parts.
#[derive(Debug, PartialEq)]
pub struct PresentAction {
    /// Which channel.
    pub channel: Channel,
    /// What it is doing.
    pub state: PresenceWord,
    /// What its application says of it.
    pub info: Option<Info>,
}

/// Who is on a channel?
#[derive(Debug, PartialEq, Eq)]
pub struct PresenceAction {
    /// For the completion.
    pub op: OpId,
    /// Which channel; its namespace has presence.
    pub channel: Channel,
    /// How the asker watches it: the answer has the version of what was told to those.
    pub watch: Watching,
    /// Whether it is the snapshot of a subscription: for [`Watching::Auto`] too many members are not named in it.
    pub snapshot: bool,
    /// Members behind this one: `u:{user}` or `a:{session}`.
    pub after: Option<String>,
    /// At most so many members; 0 for counts alone.
    pub limit: usize,
}

/// Something that is never in a channel's history.
#[derive(Debug, PartialEq, Eq)]
pub struct SignalAction {
    /// Where to.
    pub channel: Channel,
    /// The envelope, as JSON. It excludes the session itself.
    pub body: Bytes,
}

/// The answer to an action.
#[derive(Debug)]
pub enum Completion {
    /// To [`Action::Authenticate`].
    Authenticated(Result<Box<Grant>, Refusal>),
    /// To [`Action::Subscribe`].
    Subscribed(Result<Granted, Refusal>),
    /// To [`Action::Publish`].
    Published(Result<Option<Position>, Refusal>),
    /// To [`Action::History`].
    History(Result<HistoryReply, Refusal>),
    /// To [`Action::Presence`].
    Presence(Result<Box<PresenceReply>, Refusal>),
}

/// A subscription was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    /// Where the subscription begins: every publication behind it comes. On channels with history only.
    pub position: Option<Position>,
    /// Whether `publications` are all that lie behind the client's `since`; `None` where it gave none.
    pub recovered: Option<bool>,
    /// What the client gets first, oldest first; the last one's position is `position`. `None` where it asked for nothing.
    pub publications: Option<Vec<RecordedJson>>,
}

/// It was not done: the error that the client is told.
pub type Refusal = ErrorBody;
