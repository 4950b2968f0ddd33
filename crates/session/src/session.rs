//! The session.

use std::{fmt, sync::Arc};

use fanfare_protocol::{ClientMessage, DecodeError, Tenant, Topic};

use crate::{Action, Completion, OpId, SessionConfig, Time};

/// A session's id: 128 random bits, so that it cannot be guessed and is unique in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the handshake brought.
#[derive(Debug, Default)]
pub struct Handshake {
    /// A token: it connects at once, and `system:connected` follows.
    pub token: Option<String>,
    /// Channels of `/ws?channels=`: connects anonymously where there is no token, and subscribes; each is told by `system:subscribed` or `system:error`.
    pub channels: Vec<String>,
}

/// One client's protocol state.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// A session that has just been connected.
    pub fn new(_config: Arc<SessionConfig>, _id: SessionId, _now: Time) -> Self {
        Self {}
    }
    /// The session's id.
    pub fn id(&self) -> SessionId {
        SessionId(0)
    }
    /// The tenant, once connected.
    pub fn tenant(&self) -> Option<&Tenant> {
        None
    }
    /// Whether the session is subscribed to exactly this topic.
    pub fn is_subscribed(&self, _topic: &Topic) -> bool {
        false
    }
    /// Takes what the handshake brought. At most once, before anything else.
    pub fn handle_handshake(&mut self, _now: Time, _handshake: Handshake) {}
    /// Takes one decoded message of the client.
    pub fn handle_message(&mut self, _now: Time, _message: ClientMessage) {}
    /// Takes what could not be decoded.
    pub fn handle_malformed(&mut self, _now: Time, _error: DecodeError) {}
    /// Something came from the client, whatever it was: it is alive.
    pub fn handle_activity(&mut self, _now: Time) {}
    /// Takes the answer to an action. One that nobody waits for any more is passed over.
    pub fn handle_completion(&mut self, _now: Time, _op: OpId, _completion: Completion) {}
    /// Publications on a topic were or may have been missed: tells the client, if it is subscribed.
    pub fn handle_gap(&mut self, _now: Time, _topic: &Topic, _reason: &'static str) {}
    /// The hub ended a subscription.
    pub fn handle_unsubscribed(&mut self, _now: Time, _topic: &Topic, _reason: crate::Refusal) {}
    /// Time has reached what `poll_timeout` said.
    pub fn handle_timeout(&mut self, _now: Time) {}
    /// The node is going away: tells the client and closes.
    pub fn handle_drain(&mut self, _now: Time, _reconnect_after_ms: u64) {}
    /// The next thing to do. Call until `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        None
    }
    /// When `handle_timeout` is due; earlier calls are harmless.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }
}
