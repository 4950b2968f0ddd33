//! The client's side of every measurement: all sockets, and the publisher, in one epoll loop on one thread.
//!
//! The load shares its core with the broker, and must not be what limits a server: a delivery costs it one event, one
//! `read` into a buffer that all sockets share, and a look for the marker. What is done with messages is said by [`Hooks`].

pub(crate) mod frame;
pub(crate) mod inflate;
mod socket;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
};

use self::{
    frame::Frame,
    socket::{Ended, Manners, Phase, Socket},
};
use crate::{LoadError, literal::Literal, publisher::Publisher, target::Target};

/// Handshakes at one time, unless a scenario wants others.
pub(crate) const CONNECTING: usize = 64;
/// Sockets from one local address: far below the number of its ports, since those of earlier runs may still be taken.
const SOCKETS_PER_ADDRESS: usize = 1_000;
/// Bytes that are read at once.
const BUFFER: usize = 256 * 1024;
/// Sockets that are told of at once.
const EVENTS: usize = 1_024;
/// How the publisher's events are told from those of sockets.
const PUBLISHER: u64 = u64::MAX;

/// What a scenario does with what comes.
pub(crate) trait Hooks {
    /// A data frame came, the answer to a subscription included. Not for pings of the server's own protocol.
    fn message(&mut self, socket: usize, frame: &Frame<'_>);
    /// A socket is subscribed, `took` after its connecting began.
    fn opened(&mut self, socket: usize, took: Duration) {
        let _ = (socket, took);
    }
    /// The server ended a socket, or it could not be opened. Not called for [`Engine::cut`].
    fn closed(&mut self, socket: usize, reason: &str);
}

/// All sockets of a run, numbered from 0, and at most one publisher.
pub(crate) struct Engine<'a> {
    target: &'a Target,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    sockets: Vec<Socket>,
    manners: Manners,
    waiting: VecDeque<usize>,
    concurrency: usize,
    connecting: usize,
    open: usize,
    publisher: Option<Publisher>,
}

impl<'a> Engine<'a> {
    /// As many sockets as the target says, none of them connected. At most `concurrency` connect at one time.
    pub(crate) fn new(target: &'a Target, concurrency: usize) -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| LoadError::io("epoll")(error.into()))?;
        let now = Instant::now();
        let manners = Manners {
            subscribed: target.subscribed.bytes.clone(),
            heartbeat: target.ping.clone().zip(target.pong.clone()),
            ..Manners::default()
        };
        Ok(Self {
            target,
            epoll,
            events: Vec::with_capacity(EVENTS),
            buffer: vec![0; BUFFER],
            sockets: (0..target.sockets).map(|_| Socket::new(now)).collect(),
            manners,
            waiting: VecDeque::new(),
            concurrency: concurrency.max(1),
            connecting: 0,
            open: 0,
            publisher: None,
        })
    }

    /// Sockets that are subscribed.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Sockets that have yet to be subscribed, and will be unless the server ends them.
    pub(crate) fn pending(&self) -> usize {
        self.connecting + self.waiting.len()
    }

    /// Whether this socket is subscribed.
    pub(crate) fn is_open(&self, socket: usize) -> bool {
        self.sockets[socket].phase == Phase::Open
    }

    /// Lets a socket connect when its turn comes. One that is connected is let be.
    pub(crate) fn dial(&mut self, socket: usize) {
        if self.sockets[socket].phase == Phase::Gone {
            self.waiting.push_back(socket);
        }
    }

    /// Lets all sockets connect that are not connected.
    pub(crate) fn dial_all(&mut self) {
        (0..self.sockets.len()).for_each(|socket| self.dial(socket));
    }

    /// What a socket says after its next handshake, in place of what the target says.
    pub(crate) fn set_hello(&mut self, socket: usize, hello: Literal) {
        self.sockets[socket].hello = Some(hello);
    }

    /// How much the kernel may hold for a socket, in bytes, from its next connecting on.
    pub(crate) fn set_receive_buffer(&mut self, socket: usize, bytes: usize) {
        self.sockets[socket].receive_buffer = Some(bytes);
    }

    /// Ends a socket from this side: with RST where `reset` is said, else with FIN.
    pub(crate) fn cut(&mut self, socket: usize, reset: bool) {
        self.leave(socket);
        self.sockets[socket].end(reset);
    }

    /// Ends all sockets at once.
    pub(crate) fn cut_all(&mut self, reset: bool) {
        self.waiting.clear();
        (0..self.sockets.len()).for_each(|socket| self.cut(socket, reset));
    }

    /// Stops reading a socket.
    pub(crate) fn pause(&mut self, socket: usize) -> Result<(), LoadError> {
        let socket = &mut self.sockets[socket];
        if let (false, Some(stream)) = (socket.paused, socket.stream()) {
            epoll::delete(&self.epoll, stream).map_err(|error| LoadError::io("epoll")(error.into()))?;
            socket.paused = true;
        }
        Ok(())
    }

    /// Reads a socket again, beginning with what came meanwhile.
    pub(crate) fn resume(&mut self, socket: usize) -> Result<(), LoadError> {
        if std::mem::take(&mut self.sockets[socket].paused) {
            self.watch(socket)?;
        }
        Ok(())
    }

    /// Sends a message from a socket.
    pub(crate) fn send(&mut self, socket: usize, message: &Literal) -> Result<(), LoadError> {
        let sent = self.sockets[socket].send(message.opcode(), &message.bytes);
        sent.map_err(|Ended(reason)| LoadError::Failed(format!("sending from socket {socket}: {reason}")))
    }

    /// Takes a publisher into the loop.
    pub(crate) fn attach(&mut self, publisher: Publisher) -> Result<(), LoadError> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, publisher.stream(), EventData::new_u64(PUBLISHER), flags)
            .map_err(|error| LoadError::io("epoll")(error.into()))?;
        self.publisher = Some(publisher);
        Ok(())
    }

    /// The publisher that was attached.
    pub(crate) fn publisher(&mut self) -> &mut Publisher {
        self.publisher.as_mut().expect("scenarios publish after they have attached a publisher")
    }

    /// Waits for what comes, until `until` at most, and deals with it; without a time, only with what is there.
    pub(crate) fn turn(&mut self, until: Option<Instant>, hooks: &mut impl Hooks) -> Result<(), LoadError> {
        self.dial_waiting(hooks);
        let timeout = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        self.events.clear();
        let events = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, events, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(LoadError::io("epoll")(error.into())),
        }
        for index in 0..self.events.len() {
            let (data, flags) = (self.events[index].data, self.events[index].flags);
            match data.u64() {
                PUBLISHER => self.publisher().ready()?,
                socket => self.ready(socket as usize, flags, hooks),
            }
        }
        Ok(())
    }

    /// Turns until `done` or the deadline; says whether it was `done`.
    pub(crate) fn run<H: Hooks>(
        &mut self,
        deadline: Instant,
        hooks: &mut H,
        mut done: impl FnMut(&Self, &mut H) -> bool,
    ) -> Result<bool, LoadError> {
        while !done(self, hooks) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.turn(Some(deadline), hooks)?;
        }
        Ok(true)
    }

    /// Turns until every socket that was dialled is open; fails at the deadline, or where some could not be opened.
    pub(crate) fn open_all(&mut self, within: Duration, hooks: &mut impl Hooks) -> Result<(), LoadError> {
        self.dial_all();
        let all = self.sockets.len();
        let mut first = None;
        let mut watching = Watching { hooks, first: &mut first };
        self.run(Instant::now() + within, &mut watching, |engine, watching| {
            engine.pending() == 0 || watching.first.is_some()
        })?;
        match (first, self.open) {
            (Some(reason), _) => Err(LoadError::Failed(reason)),
            (None, open) if open == all => Ok(()),
            (None, open) => Err(LoadError::Failed(format!("{open} of {all} sockets were open after {within:?}"))),
        }
    }

    fn dial_waiting(&mut self, hooks: &mut impl Hooks) {
        while self.connecting < self.concurrency
            && let Some(number) = self.waiting.pop_front()
        {
            if self.sockets[number].phase != Phase::Gone {
                continue;
            }
            if let Err(error) = self.begin(number) {
                self.sockets[number].end(true);
                hooks.closed(number, &format!("socket {number}: {error}"));
            } else {
                self.connecting += 1;
            }
        }
    }

    fn begin(&mut self, number: usize) -> Result<(), LoadError> {
        let (server, local) = (self.target.server(number), local_address(number));
        let request = self.target.request(number);
        let hello = match self.sockets[number].hello.take() {
            Some(own) => Some(own),
            None => self.target.hello(number)?,
        };
        let connected = self.sockets[number].connect(local, server, request, hello);
        connected.map_err(LoadError::io(format!("connecting to {server} from {local}")))?;
        self.watch(number)
    }

    fn watch(&mut self, number: usize) -> Result<(), LoadError> {
        let Some(stream) = self.sockets[number].stream() else { return Ok(()) };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, stream, EventData::new_u64(number as u64), flags)
            .map_err(|error| LoadError::io("epoll")(error.into()))
    }

    #[inline]
    fn ready(&mut self, number: usize, flags: EventFlags, hooks: &mut impl Hooks) {
        let socket = &mut self.sockets[number];
        if socket.paused {
            return;
        }
        let before = socket.phase;
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let mut result = Ok(());
        if before == Phase::Connecting {
            result = socket.writable();
        }
        if result.is_ok() && (hung_up || flags.contains(EventFlags::IN)) {
            result = socket.readable(number, &mut self.buffer, hung_up, &mut self.manners, hooks);
        }
        if let Err(Ended(reason)) = result {
            // Told by the phase that it began in: what it came to meanwhile was not counted yet.
            self.sockets[number].phase = before;
            self.leave(number);
            self.sockets[number].end(false);
            hooks.closed(number, &format!("socket {number}: {reason}"));
        } else if before != Phase::Open && self.sockets[number].phase == Phase::Open {
            self.connecting -= 1;
            self.open += 1;
        }
    }

    /// Takes a socket out of the counts.
    fn leave(&mut self, number: usize) {
        match self.sockets[number].phase {
            Phase::Gone => {}
            Phase::Open => self.open -= 1,
            _ => self.connecting -= 1,
        }
    }
}

/// Looks on while sockets are opened: the first that cannot be is the run's end.
struct Watching<'a, H> {
    hooks: &'a mut H,
    first: &'a mut Option<String>,
}

impl<H: Hooks> Hooks for Watching<'_, H> {
    fn message(&mut self, socket: usize, frame: &Frame<'_>) {
        self.hooks.message(socket, frame);
    }

    fn opened(&mut self, socket: usize, took: Duration) {
        self.hooks.opened(socket, took);
    }

    fn closed(&mut self, socket: usize, reason: &str) {
        self.first.get_or_insert_with(|| reason.to_owned());
        self.hooks.closed(socket, reason);
    }
}

/// An address of this machine that other runs do not use at the same time.
pub(crate) fn local_address(number: usize) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 2 + (number / SOCKETS_PER_ADDRESS) as u8, high, low.clamp(1, 254));
    SocketAddr::new(IpAddr::V4(address), 0)
}
