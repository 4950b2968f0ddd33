//! From the socket to the session.

use std::io::{ErrorKind, Read as _};

use fanfare_protocol::{ClientMessage, CloseCode, DecodeError, Dialect, json, msgpack};
use fanfare_session::Time;

use super::{
    Shard, ShardState,
    connection::{State, Transport},
};
use crate::{
    limits::READS_PER_TURN,
    websocket::{Event, Parser, ProtocolError, encode},
};

impl Shard {
    /// Reads what is there, up to a bound, into the buffer that serves all connections. `true` where there is more. Less than was asked for
    /// is all that is there, and what comes after it is told, except where the socket has `ended`: then its end is to be read too.
    pub(super) fn read(&self, state: &mut ShardState, index: usize, ended: bool) -> bool {
        let mut buffer = std::mem::take(&mut state.read_buffer);
        let (mut reads, mut has_more) = (0, false);
        loop {
            let connection = &mut state.connections[index];
            if connection.state == State::Dead {
                break;
            }
            if reads == READS_PER_TURN {
                // Others first; the rest is read at the next turn.
                has_more = true;
                break;
            }
            // What a body belongs to is read by hyper.
            let Transport::Tcp(stream) = &mut connection.transport else { break };
            reads += 1;
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    let now = self.context.clock.now();
                    let is_all = count < buffer.len() && !ended;
                    self.take_input(state, index, &mut buffer[..count], now);
                    self.write(state, index);
                    if is_all {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The client is gone, with or without a goodbye.
                Ok(_) | Err(_) => {
                    state.metrics.gone(connection_is_open(state, index));
                    self.kill(state, index);
                }
            }
        }
        state.read_buffer = buffer;
        self.arm(state, index);
        has_more
    }

    /// Parses input and hands every message to the session.
    pub(super) fn take_input(&self, state: &mut ShardState, index: usize, mut input: &mut [u8], now: Time) {
        if input.is_empty() || state.connections[index].events.is_some() {
            return; // a client of server-sent events has nothing to say
        }
        if let Some(session) = state.session(index) {
            session.handle_activity(now);
        }
        let mut parser = std::mem::replace(&mut state.connections[index].parser, Parser::new(0, false));
        let mut scratch = std::mem::take(&mut state.scratch);
        loop {
            match parser.next(&mut input, &mut scratch) {
                Ok(Some(event)) => {
                    self.handle_event(state, index, now, event);
                    self.write_if_crowded(state, index);
                }
                Ok(None) => break,
                Err(error) => {
                    self.handle_violation(state, index, error);
                    break;
                }
            }
        }
        state.scratch = scratch;
        state.connections[index].parser = parser;
    }

    /// The answers to a burst of small messages go out in between: a client that reads them is no slow consumer, though
    /// together they are more than its outbox may hold.
    fn write_if_crowded(&self, state: &mut ShardState, index: usize) {
        let connection = &state.connections[index];
        if !connection.blocked && connection.outbox.is_half_full(self.outbox_limits()) {
            self.write(state, index);
        }
    }

    fn handle_event(&self, state: &mut ShardState, index: usize, now: Time, event: Event<'_>) {
        let dialect = state.connections[index].variant.dialect();
        match (event, dialect) {
            (Event::Text(text), Dialect::Json) => {
                self.take_frame(state, index, now, |each| json::decode_frame(text, each));
            }
            (Event::Binary(bytes), Dialect::MessagePack) => {
                self.take_frame(state, index, now, |each| msgpack::decode_frame(bytes, each));
            }
            (Event::Text(_), Dialect::MessagePack) => {
                self.close(state, index, CloseCode::UnsupportedData, "fanfare.v1.msgpack takes binary frames");
            }
            (Event::Binary(_), Dialect::Json) => {
                self.close(state, index, CloseCode::UnsupportedData, "this connection takes text frames");
            }
            (Event::Ping(payload), _) => self.send_frame(state, index, |out| encode::pong(payload, out)),
            (Event::Pong(_), _) => {}
            (Event::Close { .. }, _) => self.handle_close(state, index),
        }
    }

    /// Hands all that a frame holds to the session, and carries out what it asks for.
    fn take_frame(
        &self,
        state: &mut ShardState,
        index: usize,
        now: Time,
        decode: impl FnOnce(&mut dyn FnMut(Result<ClientMessage, DecodeError>)),
    ) {
        let metrics = &mut state.metrics;
        let Some(session) = state.connections[index].session.as_deref_mut() else { return };
        decode(&mut |message| match message {
            Ok(message) => {
                metrics.command(&message);
                session.handle_message(now, message);
            }
            Err(error) => {
                metrics.malformed();
                session.handle_malformed(now, error);
            }
        });
        self.carry_out(state, index, now);
    }

    /// The client closes: its close is answered (RFC 6455 section 5.5.1), and the node, as the server, ends the connection.
    fn handle_close(&self, state: &mut ShardState, index: usize) {
        if state.connections[index].state == State::Open {
            self.close(state, index, CloseCode::Normal, "");
            self.write(state, index);
        }
        if state.connections[index].outbox.is_empty() {
            self.kill(state, index);
        }
    }

    /// The client does not speak RFC 6455: the connection is failed (section 7.1.7).
    fn handle_violation(&self, state: &mut ShardState, index: usize, error: ProtocolError) {
        state.metrics.violation(error);
        let code = match error.close_code() {
            1007 => CloseCode::InvalidPayload,
            1009 => CloseCode::MessageTooBig,
            _ => CloseCode::ProtocolError,
        };
        self.close(state, index, code, &error.to_string());
    }
}

fn connection_is_open(state: &ShardState, index: usize) -> bool {
    state.connections[index].state == State::Open
}
