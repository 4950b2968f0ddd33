//! What services are told of the shard's connections, where they are told anything.

use fanfare_protocol::{ServerMessage, Topic};
use fanfare_session::SessionId;

use super::{Shard, ShardState};
use crate::clock::unix_millis;

/// Why a connection ended that neither side has closed.
pub(super) const CONNECTION_LOST: &str = "connection_lost";
/// Why a connection ended that the node did not wait for.
const DRAINING: &str = "draining";

impl Shard {
    /// The node ends, and what is still open is cut.
    pub(super) fn tell_cut(&self) {
        let mut state = self.state.borrow_mut();
        let sessions = state.connections.iter().filter_map(|(_, connection)| connection.session.as_ref());
        let sessions: Vec<SessionId> = sessions.map(|session| session.id()).collect();
        sessions.into_iter().for_each(|session| state.tell_disconnected(session, DRAINING));
    }
}

impl ShardState {
    pub(super) fn tell_connected(&mut self, index: usize) {
        let Some(ledger) = &mut self.ledger else { return };
        let session = self.connections.get(index).and_then(|connection| connection.session.as_deref());
        if let Some((session, grant)) = session.and_then(|session| Some((session, session.grant()?))) {
            ledger.connected(unix_millis(), session.id(), grant);
        }
    }

    pub(super) fn tell_disconnected(&mut self, session: SessionId, reason: &'static str) {
        if let Some(ledger) = &mut self.ledger {
            ledger.session_ended(unix_millis(), session, reason);
        }
    }

    /// The client is told something, by which a subscription may have begun or ended.
    pub(super) fn tell_of(&mut self, index: usize, message: &ServerMessage) {
        let Some(ledger) = &mut self.ledger else { return };
        if let Some(session) = self.connections.get(index).and_then(|connection| connection.session.as_deref()) {
            ledger.told(unix_millis(), session.id(), message);
        }
    }

    pub(super) fn tell_unsubscribed(&mut self, index: usize, topic: &Topic) {
        let Some(ledger) = &mut self.ledger else { return };
        if let Some(session) = self.connections.get(index).and_then(|connection| connection.session.as_deref()) {
            ledger.unsubscribed(unix_millis(), session.id(), topic);
        }
    }

    /// The session has said all that it had to say.
    pub(super) fn settle_told(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.settle();
        }
    }

    /// When a session's subscription began, by which services know it, in milliseconds since the Unix epoch.
    pub(super) fn subscribed_since(&self, session: SessionId, channel: &str) -> u64 {
        let told = self.ledger.as_ref().and_then(|ledger| ledger.subscription(session, channel));
        told.unwrap_or_else(unix_millis)
    }
}
