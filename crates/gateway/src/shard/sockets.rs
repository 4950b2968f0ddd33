//! The sockets of a shard: one event queue for all of them, which is itself one event source of the runtime.
//!
//! A socket that were the runtime's would have a registration and a task there, 400 bytes that a delivery touches too. Here the queue
//! says which connection it is, and the connection has nothing but its descriptor.

use std::{io, net::TcpStream, os::fd::AsRawFd as _, rc::Rc, time::Duration};

use mio::{Events, Interest, Poll, Registry, Token, unix::SourceFd};
use tokio::io::unix::AsyncFd;
use tracing::error;

use super::{
    Shard, ShardState,
    connection::{State, Transport},
};
use crate::{hub::message::ConnectionId, limits::SOCKET_EVENTS};

/// Where sockets are registered; a closed one leaves by itself.
#[derive(Debug)]
pub(super) struct Sockets {
    registry: Registry,
    /// Until the first socket comes: from then on the task that follows it has it.
    queue: Option<Poll>,
}

/// What the queue has told of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    readable: bool,
    writable: bool,
    /// The client will send nothing more, or the socket is broken: reading finds out.
    ended: bool,
}

impl Sockets {
    /// A queue without sockets.
    ///
    /// # Errors
    /// Where the system has none to give.
    pub(super) fn new() -> io::Result<Self> {
        let queue = Poll::new()?;
        Ok(Self { registry: queue.registry().try_clone()?, queue: Some(queue) })
    }

    /// Has the queue tell of a socket from now on, and of what it has to say already.
    fn register(&self, stream: &TcpStream, id: ConnectionId) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut SourceFd(&stream.as_raw_fd()), token(id), both)
    }
}

impl Shard {
    /// Begins to follow a connection's socket.
    pub(super) fn follow(self: &Rc<Self>, state: &mut ShardState, id: ConnectionId) {
        // It may have ended in what was done for it so far.
        if let Some(index) = state.place(id)
            && let Transport::Tcp(stream) = &state.connections[index].transport
            && let Err(error) = state.sockets.register(stream, id)
        {
            error!(%error, "a socket could not be registered");
            self.kill(state, index);
        }
        self.remove_dead(state);
        if let Some(queue) = state.sockets.queue.take() {
            let shard = self.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = follow_all(&shard, queue).await {
                    error!(%error, "the sockets of a shard cannot be followed");
                }
            });
        }
    }

    /// Ends a connection. It is removed at the end of the turn.
    pub(super) fn kill(&self, state: &mut ShardState, index: usize) {
        let connection = &mut state.connections[index];
        connection.kill();
        if connection.has_socket() {
            state.dead.push(state.id(index));
        }
    }

    /// Removes those that were killed.
    pub(super) fn remove_dead(&self, state: &mut ShardState) {
        while let Some(id) = state.dead.pop() {
            if let Some(index) = state.place(id) {
                self.remove(state, index);
            }
        }
        if state.dead.capacity() > SOCKET_EVENTS {
            state.dead = Vec::new();
        }
    }

    /// A socket has something to say. `true` where more is to be read than is read in one turn.
    fn take_readiness(&self, id: ConnectionId, ready: Readiness) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(index) = state.place(id) else { return false };
        if ready.writable && state.connections[index].blocked {
            self.write(state, index);
        }
        let has_more = (ready.readable || ready.ended) && self.read(state, index, ready.ended);
        let is_there = state.connections[index].state != State::Dead;
        self.remove_dead(state);
        has_more && is_there
    }
}

/// Takes what the queue tells, a part at a time, and has it read on where there was more than one turn reads.
#[allow(unsafe_code, reason = "the runtime takes a queue that is not its own in no other way")]
async fn follow_all(shard: &Shard, queue: Poll) -> io::Result<()> {
    // SAFETY: the queue's descriptor is its own from its making to its drop, and it is dropped with the `AsyncFd`.
    let mut queue = unsafe { AsyncFd::register_with_interest(queue, tokio::io::Interest::READABLE)? };
    let mut events = Events::with_capacity(SOCKET_EVENTS);
    let mut unread = Vec::new();
    loop {
        if unread.is_empty() {
            let mut ready = queue.readable_mut().await?;
            take_events(ready.get_inner_mut(), &mut events)?;
            // What comes after this is told again.
            if events.iter().count() < SOCKET_EVENTS {
                ready.clear_ready();
            }
        } else {
            take_events(queue.get_mut(), &mut events)?;
        }
        let before = std::mem::take(&mut unread);
        let read_on = |(id, ended)| (id, Readiness { readable: true, writable: false, ended });
        let told = events.iter().map(|event| {
            let ended = event.is_read_closed() || event.is_error();
            (id(event.token()), Readiness { readable: event.is_readable(), writable: event.is_writable(), ended })
        });
        for (id, ready) in before.into_iter().map(read_on).chain(told) {
            if shard.take_readiness(id, ready) {
                unread.push((id, ready.ended));
            }
        }
        tokio::task::yield_now().await;
    }
}

fn take_events(queue: &mut Poll, events: &mut Events) -> io::Result<()> {
    loop {
        match queue.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn token(id: ConnectionId) -> Token {
    Token((id.generation as usize) << 32 | id.index as usize)
}

fn id(Token(token): Token) -> ConnectionId {
    ConnectionId { index: token as u32, generation: (token >> 32) as u32 }
}
