//! One connection: the socket with what is read from it and written to it. Protocol state is the session's.

use std::{
    io::{self, Write as _},
    net::TcpStream,
};

use fanfare_session::{Session, Time};

use super::{
    aside::Aside,
    outbox::{Outbox, OutboxLimits, Overflow, Piece},
    streaming::EventStream,
};
use crate::{encoding::Variant, websocket::Parser};

/// See the module. What a delivery touches stands first, in the first 64 of its 128 bytes: at thousands of connections each
/// cache line is a miss.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Connection {
    pub(super) outbox: Outbox,
    pub(super) transport: Transport,
    pub(super) variant: Variant,
    /// It stands in the shard's list of connections to write.
    pub(super) dirty: bool,
    /// The socket took less than there was; its readiness for more will be told.
    pub(super) blocked: bool,
    /// Its session is connected, and counted.
    pub(super) counted: bool,
    /// What it gets that others do not; nearly always nothing.
    pub(super) aside: Option<Box<Aside>>,
    pub(super) state: State,
    /// The last publication of several topics that it got, so that it gets each once.
    pub(super) stamp: u64,
    pub(super) session: Option<Box<Session>>,
    pub(super) parser: Parser,
    /// When its entry in the wheel comes up.
    pub(super) wakes_at: Option<Time>,
    pub(super) generation: u32,
    /// Only where it is a stream of server-sent events.
    pub(super) events: Option<Box<EventStream>>,
}

/// Where a connection's bytes go.
#[derive(Debug)]
pub(super) enum Transport {
    /// Its own socket.
    Tcp(TcpStream),
    /// The body of an answer over HTTP/2, which takes them from the outbox; its waker is the stream's.
    Body,
}

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its session lives.
    Open,
    /// The close frame is in the outbox; the client has until then to read it and to answer.
    Closing(Time),
    /// Nothing is read or written any more; it is about to be removed.
    Dead,
}

/// What a write came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is written.
    Empty,
    /// The socket takes no more for now.
    Blocked,
    /// The socket is broken.
    Broken,
}

impl Connection {
    pub(super) fn new(
        transport: Transport,
        variant: Variant,
        generation: u32,
        parser: Parser,
        session: Box<Session>,
    ) -> Self {
        Self {
            transport,
            outbox: Outbox::default(),
            variant,
            dirty: false,
            blocked: false,
            counted: false,
            state: State::Open,
            generation,
            stamp: 0,
            wakes_at: None,
            parser,
            session: Some(session),
            aside: None,
            events: None,
        }
    }

    /// Adds a piece to what waits, unless the connection is closing.
    pub(super) fn push(&mut self, piece: Piece, limits: OutboxLimits) -> Result<(), Overflow> {
        match self.state {
            State::Open => self.outbox.push(piece, limits),
            State::Closing(_) | State::Dead => Ok(()),
        }
    }

    /// Writes what waits, as far as the socket takes it. `written` counts the bytes.
    pub(super) fn flush(&mut self, written: &mut u64) -> Flushed {
        let Transport::Tcp(stream) = &mut self.transport else { return self.offer() };
        while !self.outbox.is_empty() {
            let result = match self.outbox.single() {
                Some(piece) => stream.write(piece),
                None => stream.write_vectored(&self.outbox.pieces()),
            };
            match result {
                Ok(count) => {
                    self.outbox.advance(count);
                    *written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Flushed::Blocked;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Broken,
            }
        }
        self.blocked = false;
        Flushed::Empty
    }

    /// Has the body take what there is.
    fn offer(&mut self) -> Flushed {
        self.blocked = !self.outbox.is_empty();
        self.wake_body();
        if self.blocked { Flushed::Blocked } else { Flushed::Empty }
    }

    /// Whether it has a socket of its own.
    pub(super) fn has_socket(&self) -> bool {
        matches!(self.transport, Transport::Tcp(_))
    }

    /// Wakes whoever has the body, where there is one.
    fn wake_body(&self) {
        if let Some(events) = &self.events {
            events.wake();
        }
    }

    /// Ends the connection: whoever has its body removes it; where it has a socket, the shard does.
    pub(super) fn kill(&mut self) {
        self.state = State::Dead;
        // A body may have to wait for a client that takes nothing; it has nothing to wait with.
        self.outbox = Outbox::default();
        self.wake_body();
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// Memory of an idle connection is a promise; see docs/benchmarks.md.
    #[test]
    fn it_is_small() {
        assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
        assert_eq!(size_of::<Transport>(), 4);
        // What a delivery touches is one cache line.
        assert!(offset_of!(Connection, state) + size_of::<State>() <= 64);
    }
}
