//! One socket of the load: connecting → upgrading → waiting for its subscription → open. Without buffers of its own but for
//! the part of a frame that came.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use socket2::{Domain, SockRef, Type};

use super::{
    Hooks,
    frame::{Frame, masked},
    inflate::Inflater,
};
use crate::literal::Literal;

/// The longest answer to a handshake, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not connected: not yet, or no longer.
    Gone,
    /// TCP's handshake is under way.
    Connecting,
    /// The request was sent, its answer is awaited.
    Upgrading,
    /// The answer to its subscription is awaited.
    Waiting,
    /// It gets what its channel gets.
    Open,
}

/// What all sockets look for and answer.
#[derive(Default)]
pub(super) struct Manners {
    /// In the answer to a subscription; empty: the handshake is enough.
    pub(super) subscribed: Vec<u8>,
    /// A ping of the server's own protocol, and what is answered.
    pub(super) heartbeat: Option<(Literal, Literal)>,
    pub(super) inflater: Inflater,
}

/// A socket's end, for people.
pub(super) struct Ended(pub(super) String);

impl Ended {
    fn because(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// One socket, with what is left of it between two reads.
pub(super) struct Socket {
    pub(super) phase: Phase,
    pub(super) begun: Instant,
    /// What it sends once it is upgraded, in place of what all send.
    pub(super) hello: Option<Literal>,
    /// Its receive buffer in the kernel, in bytes, where it is not the kernel's own choice.
    pub(super) receive_buffer: Option<usize>,
    /// It is not read.
    pub(super) paused: bool,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    carry: Vec<u8>,
}

impl Socket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Gone,
            begun: now,
            hello: None,
            receive_buffer: None,
            paused: false,
            stream: None,
            request: Vec::new(),
            carry: Vec::new(),
        }
    }

    /// Begins to connect from `local`; `request` and then `hello` are sent as soon as they can be.
    pub(super) fn connect(
        &mut self,
        local: SocketAddr,
        server: SocketAddr,
        request: Vec<u8>,
        hello: Option<Literal>,
    ) -> io::Result<&TcpStream> {
        let socket = socket2::Socket::new(Domain::for_address(server), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&local.into())?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(&server.into()) {
            // EINPROGRESS, which std has no name for.
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        self.phase = Phase::Connecting;
        self.begun = Instant::now();
        self.request = request;
        self.hello = hello;
        self.carry = Vec::new();
        Ok(self.stream.insert(socket.into()))
    }

    /// The socket itself, while there is one.
    pub(super) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Ends it. With `reset` the server gets RST, as from a client whose network is gone.
    pub(super) fn end(&mut self, reset: bool) {
        if let Some(stream) = self.stream.take()
            && reset
        {
            // Where it fails the socket is gone already.
            let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
        }
        self.phase = Phase::Gone;
        self.paused = false;
        self.carry = Vec::new();
    }

    /// Sends one frame, whole: a server that does not take a few bytes is a failure of the run.
    pub(super) fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Ended> {
        self.write(&masked(opcode, payload))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let mut stream = self.stream.as_ref().ok_or_else(|| Ended("it is not connected".into()))?;
        match stream.write(bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(Ended("the server does not read what a client sends".into())),
            Err(error) => Err(Ended::because("writing")(error)),
        }
    }

    /// It may be written: while it connects that says that it is connected.
    pub(super) fn writable(&mut self) -> Result<(), Ended> {
        if self.phase != Phase::Connecting {
            return Ok(());
        }
        let mut stream = self.stream.as_ref().ok_or_else(|| Ended("it is not connected".into()))?;
        if let Some(error) = stream.take_error().map_err(Ended::because("connecting"))? {
            return Err(Ended::because("connecting")(error));
        }
        match stream.write(&self.request) {
            Ok(count) if count == self.request.len() => {
                self.request = Vec::new();
                self.phase = Phase::Upgrading;
                Ok(())
            }
            Ok(_) => Err(Ended("the server does not take the handshake".into())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(Ended::because("connecting")(error)),
        }
    }

    /// Reads what is there through the shared `buffer`, which grows where a frame is longer. `to_the_end`: the server has
    /// hung up, so that a short read is not the last one.
    pub(super) fn readable(
        &mut self,
        number: usize,
        buffer: &mut Vec<u8>,
        to_the_end: bool,
        manners: &mut Manners,
        hooks: &mut impl Hooks,
    ) -> Result<(), Ended> {
        loop {
            let held = self.carry.len();
            if held == buffer.len() {
                buffer.resize(held * 2, 0);
            }
            buffer[..held].copy_from_slice(&self.carry);
            let Some(mut stream) = self.stream.as_ref() else { return Ok(()) };
            let count = match stream.read(&mut buffer[held..]) {
                Ok(0) => return Err(Ended("the server hung up".into())),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Ended::because("reading")(error)),
            };
            let (filled, room) = (held + count, buffer.len());
            let rest = self.take(number, &buffer[..filled], manners, hooks)?;
            if !rest.is_empty() {
                self.carry.clear();
                self.carry.extend_from_slice(rest);
            } else if held > 0 {
                self.carry = Vec::new();
            }
            // The socket tells again of what comes later, so that the read that would find nothing is spared.
            if filled < room && !to_the_end {
                return Ok(());
            }
        }
    }

    /// Takes all that is whole; gives the rest.
    fn take<'a>(
        &mut self,
        number: usize,
        mut bytes: &'a [u8],
        manners: &mut Manners,
        hooks: &mut impl Hooks,
    ) -> Result<&'a [u8], Ended> {
        if self.phase == Phase::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return if bytes.len() < LONGEST_HEAD {
                    Ok(bytes)
                } else {
                    Err(Ended("the handshake's answer has no end".into()))
                };
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let answer = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
                return Err(Ended(format!("the handshake was answered: {answer}")));
            }
            bytes = &bytes[end + 4..];
            self.upgraded(number, manners, hooks)?;
        }
        while let Some((frame, rest)) = Frame::split(bytes) {
            bytes = rest;
            match frame.opcode {
                0..=2 => self.message(number, &frame, manners, hooks)?,
                8 => {
                    let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default()).into_owned();
                    return Err(Ended(format!("the server closed: {code} {reason}")));
                }
                9 => self.send(10, frame.payload)?,
                _ => {}
            }
        }
        Ok(bytes)
    }

    fn upgraded(&mut self, number: usize, manners: &Manners, hooks: &mut impl Hooks) -> Result<(), Ended> {
        self.phase = Phase::Waiting;
        if let Some(hello) = self.hello.take() {
            self.send(hello.opcode(), &hello.bytes)?;
        }
        if manners.subscribed.is_empty() {
            self.open(number, hooks);
        }
        Ok(())
    }

    fn open(&mut self, number: usize, hooks: &mut impl Hooks) {
        self.phase = Phase::Open;
        hooks.opened(number, self.begun.elapsed());
    }

    #[inline]
    fn message(
        &mut self,
        number: usize,
        frame: &Frame<'_>,
        manners: &mut Manners,
        hooks: &mut impl Hooks,
    ) -> Result<(), Ended> {
        if let Some((ping, pong)) = &manners.heartbeat
            && ping.bytes == frame.payload
        {
            return self.send(pong.opcode(), &pong.bytes);
        }
        hooks.message(number, frame);
        if self.phase == Phase::Waiting {
            let payload = if frame.compressed { manners.inflater.inflate(frame.payload) } else { frame.payload };
            if memchr::memmem::find(payload, &manners.subscribed).is_some() {
                self.open(number, hooks);
            }
        }
        Ok(())
    }
}
