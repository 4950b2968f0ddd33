//! What a client sends: commands with an id, and the answer to a ping.

use serde_json::value::RawValue;

use crate::{
    Asked, ErrorCode, HistoryRange, limits,
    presence::{PresenceCommand, SetPresenceCommand, SignalCommand},
};

/// One object of a client's frame.
#[derive(Debug)]
pub enum ClientMessage {
    /// A request that gets a reply.
    Command(Command),
    /// `{"type":"pong"}`, the answer to `system:ping`.
    Pong,
}

/// A request with the id that its reply will carry.
#[derive(Debug)]
pub struct Command {
    /// 0 to 2^53 − 1, chosen by the client.
    pub id: u64,
    /// What is asked for.
    pub kind: CommandKind,
}

/// What is asked for. Names of channels are not yet checked: the session answers for each.
#[derive(Debug)]
pub enum CommandKind {
    /// Begin the session, with a token or anonymously.
    Connect {
        /// The token.
        token: Option<String>,
    },
    /// Subscribe to one channel or pattern.
    Subscribe(Asked),
    /// Subscribe to several; each is answered on its own.
    SubscribeMany {
        /// Which, each with where it begins.
        channels: Vec<Asked>,
    },
    /// End one subscription.
    Unsubscribe {
        /// The name that was subscribed to.
        channel: String,
    },
    /// End several subscriptions.
    UnsubscribeMany {
        /// The names.
        channels: Vec<String>,
    },
    /// Publish an event, where the namespace and the token allow it.
    Publish(Box<PublishCommand>),
    /// Read a part of a channel's history.
    History(Box<HistoryCommand>),
    /// Replace the token before it expires.
    Refresh {
        /// The new token.
        token: String,
    },
    /// Ask who is on a channel.
    Presence(Box<PresenceCommand>),
    /// Say what the client is doing.
    SetPresence(Box<SetPresenceCommand>),
    /// Tell the others on a channel something that is soon over.
    Signal(Box<SignalCommand>),
    /// Ask for a sign of life.
    Ping {
        /// Whether the person at the client is active.
        active: bool,
    },
}

/// An event that a client publishes.
#[derive(Debug)]
pub struct PublishCommand {
    /// The channel's name.
    pub channel: String,
    /// The event's name.
    pub event: String,
    /// Any JSON, byte for byte.
    pub data: Option<Box<RawValue>>,
    /// For conflation.
    pub key: Option<String>,
    /// The version of the thing that the event is about.
    pub version: Option<u64>,
    /// The publication's id (`publication_id` on the wire, since `id` is the command's).
    pub publication_id: Option<String>,
    /// Whether the sender gets it too, if subscribed. On by default.
    pub echo: bool,
}

/// A part of a channel's history that a client asks for.
#[derive(Debug)]
pub struct HistoryCommand {
    /// The channel's name.
    pub channel: String,
    /// Which part.
    pub range: HistoryRange,
    /// At most so many publications.
    pub limit: u32,
}

/// Why something in a client's frame is not a command.
#[derive(Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The command's id, where one could be read: then the answer is an error reply, else `system:error`.
    pub id: Option<u64>,
    /// The code of the answer.
    pub code: ErrorCode,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl DecodeError {
    /// A `BAD_REQUEST`. A message longer than [`limits::ERROR_MESSAGE_BYTES`] is cut: it may quote what the client sent.
    pub fn bad_request(id: Option<u64>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > limits::ERROR_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(limits::ERROR_MESSAGE_BYTES - '…'.len_utf8()));
            message.push('…');
        }
        Self { id, code: ErrorCode::BadRequest, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_quotes_much_is_cut_between_characters() {
        let message = DecodeError::bad_request(None, "ü".repeat(limits::ERROR_MESSAGE_BYTES)).message;
        assert!(message.len() <= limits::ERROR_MESSAGE_BYTES && message.ends_with("ü…"), "{message}");
        let short = "ü".repeat(limits::ERROR_MESSAGE_BYTES / 2);
        assert_eq!(DecodeError::bad_request(None, short.clone()).message, short);
    }
}
