//! One connection: the socket with what is read from it and written to it. Protocol state is the session's.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use fanfare_session::{Session, Time};
use tokio::net::TcpStream;

use super::{
    Shard,
    aside::Aside,
    outbox::{Outbox, OutboxLimits, Overflow, Piece},
    streaming::EventStream,
};
use crate::{encoding::Variant, hub::message::ConnectionId, websocket::Parser};

/// See the module. What a delivery touches stands first.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) outbox: Outbox,
    pub(super) variant: Variant,
    /// It stands in the shard's list of connections to write.
    pub(super) dirty: bool,
    /// The socket took less than there was; its waker is registered for more room.
    pub(super) blocked: bool,
    /// Its session is connected, and counted.
    pub(super) counted: bool,
    pub(super) state: State,
    pub(super) generation: u32,
    /// The last publication of several topics that it got, so that it gets each once.
    pub(super) stamp: u64,
    /// When its entry in the wheel comes up.
    pub(super) wakes_at: Option<Time>,
    /// Its task's waker; there from the first poll on.
    waker: Option<Waker>,
    pub(super) parser: Parser,
    pub(super) session: Option<Box<Session>>,
    /// What it gets that others do not; nearly always nothing.
    pub(super) aside: Option<Box<Aside>>,
    /// Only where it is a stream of server-sent events.
    pub(super) events: Option<Box<EventStream>>,
}

/// Where a connection's bytes go.
#[derive(Debug)]
pub(super) enum Transport {
    /// Its own socket.
    Tcp(TcpStream),
    /// The body of an answer over HTTP/2, which takes them from the outbox; its waker is the connection's.
    Body,
}

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its session lives.
    Open,
    /// The close frame is in the outbox; the client has until then to read it and to answer.
    Closing(Time),
    /// Nothing is read or written any more; its task is about to remove it.
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
            waker: None,
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
        let Transport::Tcp(stream) = &self.transport else { return self.offer() };
        while !self.outbox.is_empty() {
            let result = match self.outbox.single() {
                Some(piece) => stream.try_write(piece),
                None => stream.try_write_vectored(&self.outbox.pieces()),
            };
            match result {
                Ok(count) => {
                    self.outbox.advance(count);
                    *written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    if is_full(stream, self.waker.as_ref()) {
                        return Flushed::Blocked;
                    }
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
        self.wake();
        if self.blocked { Flushed::Blocked } else { Flushed::Empty }
    }

    /// Wakes whoever has the connection.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Keeps the task's waker for [`wake`](Self::wake) and for the socket.
    pub(super) fn keep_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Ends the connection: its task removes it.
    pub(super) fn kill(&mut self) {
        self.state = State::Dead;
        // A body may have to wait for a client that takes nothing; it has nothing to wait with.
        self.outbox = Outbox::default();
        self.wake();
    }
}

/// Has the connection's task woken once the socket takes more. `false` where it does already.
fn is_full(stream: &TcpStream, waker: Option<&Waker>) -> bool {
    // Before its first poll the task has no waker; that poll writes.
    let Some(waker) = waker else { return true };
    stream.poll_write_ready(&mut Context::from_waker(waker)).is_pending()
}

/// The task of a connection. It reads, and writes when the socket was full; everything else happens in ticks.
/// A future by hand, because an `async fn` would be several times as large, for every idle connection.
pub(super) struct ConnectionTask {
    pub(super) shard: Rc<Shard>,
    pub(super) id: ConnectionId,
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.shard.poll_connection(self.id, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of an idle connection is a promise; see docs/benchmarks.md.
    #[test]
    fn it_is_small() {
        assert!(size_of::<Connection>() <= 176, "{}", size_of::<Connection>());
        assert!(size_of::<ConnectionTask>() <= 16, "{}", size_of::<ConnectionTask>());
    }
}
