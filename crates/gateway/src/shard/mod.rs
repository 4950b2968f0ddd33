//! A shard: a thread with its own runtime, its part of the subscribers, its sessions and its connections.
//!
//! Nothing in it is shared with other shards, so nothing in it is locked. Publications and completions come through one
//! inbox; a *tick* takes what is there, hands it to the outboxes of subscribers, and then writes every connection that
//! got something once.

mod actions;
mod aside;
pub(crate) mod bench;
mod connection;
mod delivery;
mod greeting;
#[cfg(test)]
mod history_tests;
mod inspection;
mod lifecycle;
mod metrics;
mod outbox;
mod presence;
mod presence_link;
#[cfg(test)]
mod presence_tests;
mod reading;
mod recovery;
mod sockets;
mod stream_body;
mod streaming;
#[cfg(test)]
mod tests;
mod thread;
mod topics;
mod wheel;

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::TcpStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanfare_protocol::CloseCode;
use fanfare_session::{Handshake, Session, SessionConfig, SessionId, Time};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};
use tokio_util::task::TaskTracker;

use crate::{
    auth::Verifier,
    clock::Clock,
    encoding::Variant,
    history::ClientRead,
    hub::{
        ShardInbox,
        message::{ConnectionId, HubRequest, ShardId},
    },
    lifecycle::{Ledger, LifecycleContext, reason_of},
    limits::READ_BUFFER_BYTES,
    presence::message::PresenceRequest,
    publishing::ClientPublish,
    websocket::{Deflater, Parser, Scratch, Upgrade},
};
use connection::{Connection, State, Transport};
use greeting::Greeting;
use metrics::ShardMetrics;
use outbox::OutboxLimits;
use presence_link::PresenceLink;
use sockets::Sockets;
use topics::ShardTopics;
use wheel::Wheel;

pub(crate) use stream_body::{Chunk, Opened, StreamBody};
pub(crate) use streaming::StreamOpening;
pub(crate) use thread::{InHandshake, ShardHandle, ShardThread};

/// What a shard is given. The same for all shards, but for number and inbox.
#[derive(Clone)]
pub(crate) struct ShardContext {
    pub(crate) id: ShardId,
    pub(crate) clock: Clock,
    pub(crate) session_config: Arc<SessionConfig>,
    pub(crate) outbox_bytes: usize,
    pub(crate) outbox_pieces: usize,
    pub(crate) message_bytes: u32,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) hub: mpsc::Sender<HubRequest>,
    pub(crate) publishes: mpsc::Sender<ClientPublish>,
    pub(crate) reads: mpsc::Sender<ClientRead>,
    /// `None` where no namespace has presence.
    pub(crate) presence: Option<mpsc::Sender<PresenceRequest>>,
    /// The node's name, where the presence store keeps where users are connected.
    pub(crate) lists_connections: Option<Arc<str>>,
    /// `None` where services are told nothing of connections and channels.
    pub(crate) lifecycle: Option<LifecycleContext>,
    /// Bytes that one client is given to catch up.
    pub(crate) recovery_bytes: usize,
    /// This shard's own inbox, for completions.
    pub(crate) inbox: ShardInbox,
    /// The main runtime, and who waits for what a shard starts there.
    pub(crate) main: Handle,
    pub(crate) tasks: TaskTracker,
    /// Connections of this shard, for the acceptor.
    pub(crate) connections: Arc<AtomicUsize>,
}

/// See the module.
pub(crate) struct Shard {
    context: ShardContext,
    state: RefCell<ShardState>,
    /// Told when requests wait for the hub.
    asked: Notify,
}

/// What changes. Borrowed from one entry point at a time, never across an await.
struct ShardState {
    connections: slab::Slab<Connection>,
    sockets: Sockets,
    /// Connections that are over and have still to be removed.
    dead: Vec<ConnectionId>,
    next_generation: u32,
    topics: ShardTopics,
    /// Topics with publications that are not sealed yet.
    unsealed: Vec<crate::hub::message::SlotId>,
    /// Topics whose subscribers have still to be told of an interruption of everything, and why.
    gaps: VecDeque<(crate::hub::message::SlotId, &'static str)>,
    /// Bytes of what is unsealed.
    unsealed_bytes: usize,
    /// Places of connections to write.
    dirty: VecDeque<u32>,
    /// Counts publications of several topics; see [`Connection::stamp`].
    stamp: u64,
    /// The node is going away; clients are told to wait so many milliseconds, up to twice as long.
    draining: Option<u64>,
    wheel: Wheel,
    /// Requests that the hub's inbox did not take.
    unsent: VecDeque<HubRequest>,
    presence: PresenceLink,
    /// What services were told, where they are.
    ledger: Option<Box<Ledger>>,
    deflater: Deflater,
    scratch: Scratch,
    read_buffer: Box<[u8]>,
    /// Room to put a frame together.
    frame: Vec<u8>,
    greeting: Greeting,
    metrics: ShardMetrics,
}

/// A socket after its handshake's request.
pub(crate) struct Adopted<'a> {
    pub(crate) stream: TcpStream,
    /// The answer, where it is still to be written.
    pub(crate) answer: Option<&'a Upgrade>,
    /// What came behind the request.
    pub(crate) unread: &'a mut [u8],
    pub(crate) variant: Variant,
    pub(crate) handshake: Handshake,
}

impl Shard {
    fn new(context: ShardContext, sockets: Sockets) -> Rc<Self> {
        let state = ShardState {
            connections: slab::Slab::new(),
            sockets,
            dead: Vec::new(),
            next_generation: 0,
            topics: ShardTopics::default(),
            unsealed: Vec::new(),
            gaps: VecDeque::new(),
            unsealed_bytes: 0,
            draining: None,
            dirty: VecDeque::new(),
            stamp: 0,
            wheel: Wheel::new(context.clock.now()),
            unsent: VecDeque::new(),
            presence: PresenceLink::new(context.presence.clone()),
            ledger: context.lifecycle.clone().map(|context| Box::new(Ledger::new(context))),
            deflater: Deflater::new(),
            scratch: Scratch::new(),
            read_buffer: vec![0; READ_BUFFER_BYTES].into(),
            frame: Vec::new(),
            greeting: Greeting::default(),
            metrics: ShardMetrics::new(),
        };
        Rc::new(Self { context, state: RefCell::new(state), asked: Notify::new() })
    }

    /// Takes a socket over from its handshake. What there is to tell it at once goes out in one write, with the answer.
    pub(crate) fn adopt(self: &Rc<Self>, adopted: Adopted<'_>) {
        let Adopted { stream, answer, unread, variant, handshake } = adopted;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let now = self.context.clock.now();
        let parser = Parser::new(self.context.message_bytes, variant.deflates());
        let id = self.admit(state, Transport::Tcp(stream), variant, parser, now);
        let index = id.index as usize;
        state.greeting.begin(index, answer);
        self.begin_session(state, index, handshake, now);
        self.take_input(state, index, unread, now);
        self.greet(state, index);
        self.write(state, index);
        self.arm(state, index);
        self.follow(state, id);
    }

    /// Gives a connection its place and its session.
    fn admit(
        &self,
        state: &mut ShardState,
        transport: Transport,
        variant: Variant,
        parser: Parser,
        now: Time,
    ) -> ConnectionId {
        let session = Session::new(self.context.session_config.clone(), SessionId(rand::random()), now);
        let generation = state.next_generation;
        state.next_generation = generation.wrapping_add(1);
        let connection = Connection::new(transport, variant, generation, parser, Box::new(session));
        let index = state.connections.insert(connection);
        state.metrics.connected();
        self.context.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionId { index: u32::try_from(index).expect("file descriptors are fewer"), generation }
    }

    /// Hands the session what the handshake brought, and carries out what it asks for.
    fn begin_session(&self, state: &mut ShardState, index: usize, handshake: Handshake, now: Time) {
        if let Some(session) = state.session(index) {
            session.handle_handshake(now, handshake);
        }
        if let (Some(reconnect_after_ms), Some(session)) = (state.draining, state.session(index)) {
            session.handle_drain(now, delivery::spread(reconnect_after_ms));
        }
        self.carry_out(state, index, now);
    }

    /// The connection is over: gives back all that it has.
    fn remove(&self, state: &mut ShardState, index: usize) {
        let is_stream = state.connections[index].events.is_some();
        // Nobody has closed it; a client of a stream has no other way to.
        self.end_session(
            state,
            index,
            if is_stream { reason_of(CloseCode::Normal) } else { lifecycle::CONNECTION_LOST },
        );
        state.connections.remove(index);
        state.metrics.disconnected();
        self.context.connections.fetch_sub(1, Ordering::Relaxed);
        // A slab keeps its memory otherwise; after a storm has left, there is nothing to keep it for.
        if state.connections.is_empty() {
            state.connections.shrink_to_fit();
        }
    }

    /// Handles timers that are due, up to a bound. `true` where more are due.
    fn handle_timers(&self) -> bool {
        const TIMERS_PER_TURN: usize = 256;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        // No answer of the hub may come that would have it tried again.
        self.send_unsent(state);
        state.presence.send_unsent();
        let now = self.context.clock.now();
        let mut due = Vec::new();
        state.wheel.take_due(now, &mut due, TIMERS_PER_TURN);
        for id in &due {
            let Some(index) = state.place(*id) else { continue };
            let connection = &mut state.connections[index];
            if connection.wakes_at.is_none_or(|at| at > now) {
                continue;
            }
            connection.wakes_at = None;
            match connection.state {
                State::Closing(until) if until <= now => self.kill(state, index),
                State::Open => {
                    if let Some(session) = state.session(index) {
                        session.handle_timeout(now);
                    }
                    self.carry_out(state, index, now);
                    self.write(state, index);
                }
                _ => {}
            }
            self.arm(state, index);
        }
        self.remove_dead(state);
        due.len() == TIMERS_PER_TURN
    }

    /// Sees to it that the wheel wakes the connection in time.
    fn arm(&self, state: &mut ShardState, index: usize) {
        let Some(connection) = state.connections.get_mut(index) else { return };
        let deadline = match connection.state {
            State::Open => connection.session.as_ref().and_then(|session| session.poll_timeout()),
            State::Closing(until) => Some(until),
            State::Dead => None,
        };
        let Some(deadline) = deadline else { return };
        // An entry that comes up earlier will be put back; see the wheel.
        if connection.wakes_at.is_none_or(|at| at.as_millis() > deadline.as_millis() + 2 * wheel::TICK_MILLIS) {
            let id = ConnectionId { index: index as u32, generation: connection.generation };
            connection.wakes_at = Some(state.wheel.insert(deadline, id));
        }
    }

    /// Lends the buffer that everything is read into.
    pub(crate) fn with_read_buffer<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = std::mem::take(&mut self.state.borrow_mut().read_buffer);
        let result = read(&mut buffer);
        self.state.borrow_mut().read_buffer = buffer;
        result
    }

    fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { bytes: self.context.outbox_bytes, pieces: self.context.outbox_pieces }
    }
}

impl ShardState {
    /// The place of a connection that is still there.
    fn place(&self, id: ConnectionId) -> Option<usize> {
        let index = id.index as usize;
        self.connections.get(index).filter(|connection| connection.generation == id.generation).map(|_| index)
    }

    fn id(&self, index: usize) -> ConnectionId {
        ConnectionId { index: index as u32, generation: self.connections[index].generation }
    }

    fn session(&mut self, index: usize) -> Option<&mut Session> {
        self.connections.get_mut(index)?.session.as_deref_mut()
    }
}
