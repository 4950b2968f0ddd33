//! What a connection is told first: the handshake's answer and all that follows from it at once, in one write.

use socket2::SockRef;

use super::{Shard, ShardState, connection::Transport};
use crate::websocket::Upgrade;

/// Bytes of room that are kept for the next connection.
const KEPT_BYTES: usize = 16 * 1024;

/// What is put together for the connection that is being taken over; there is one at a time.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// The place of the connection.
    of: Option<usize>,
    bytes: Vec<u8>,
}

impl Greeting {
    /// Begins with the answer, where that is still to be written.
    pub(super) fn begin(&mut self, index: usize, answer: Option<&Upgrade>) {
        self.bytes.clear();
        self.of = answer.map(|answer| {
            answer.write_response(&mut self.bytes);
            index
        });
    }

    /// Whether what this connection is told belongs to it.
    pub(super) fn is_of(&self, index: usize) -> bool {
        self.of == Some(index)
    }
}

impl Shard {
    /// Puts the frame behind what is there already. What is more than an outbox may hold begins to go out.
    pub(super) fn add_to_greeting(&self, state: &mut ShardState, index: usize) {
        state.greeting.bytes.extend_from_slice(&state.frame);
        if state.greeting.bytes.len() > self.context.outbox_bytes / 2 {
            self.greet(state, index);
        }
    }

    /// Writes the greeting; what the socket does not take goes to the outbox.
    pub(super) fn greet(&self, state: &mut ShardState, index: usize) {
        if state.greeting.of.take().is_none() {
            return;
        }
        let bytes = &mut state.greeting.bytes;
        let connection = &mut state.connections[index];
        let written = match &connection.transport {
            Transport::Tcp(stream) => SockRef::from(stream).send(bytes).unwrap_or(0),
            Transport::Body => 0,
        };
        state.metrics.delivered_bytes += written as u64;
        if written < bytes.len() {
            // What went wrong with the socket, if anything, shows when the rest is written. An empty outbox takes any piece.
            let _ = connection.outbox.push(bytes.as_slice().into(), self.outbox_limits());
            connection.outbox.advance(written);
        }
        if bytes.capacity() > KEPT_BYTES {
            *bytes = Vec::new();
        }
    }
}
