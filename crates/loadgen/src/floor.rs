//! The floor: what the kernel demands of a server in each scenario, and nothing else.
//!
//! What a gateway costs above this is its own; what this costs is the kernel's. One thread and one level-triggered epoll: it
//! accepts, reads a request, answers it with one write, notices that clients close, and publishes with one `send()` for each
//! socket and message. It keeps nothing for a client but its descriptor, and never looks into what a client sends afterwards.
//!
//! # Protocol
//!
//! Everything goes to one port. What begins with `GET` is a client: its request is answered by 101, and its channel is the `N` of
//! `channel=N` in the path; without that, channels are given out in turn (`--channels`, of which there is one unless said
//! otherwise). With `--greet BYTES` each client is sent one message right after that, which stands for what it missed while it was away.
//!
//! What begins otherwise is a publisher. It sends three bytes, such as `PUB`, and then lines
//!
//! ```text
//! COUNT BYTES [CHANNEL|* [STAMP]]
//! ```
//!
//! Each publishes `COUNT` messages on a channel, or so many on every channel for `*` (or nothing). A message is one text frame of
//! `BYTES` with its header, in which stands `"t":STAMP`, so that latency is measured as with other servers. With `--join` the
//! messages of one line go out in one write to each socket, else in one write for each message.
//!
//! A publisher is told nothing. A client that takes nothing for [`STUCK`] while others wait for it is hung up on.

mod publication;
mod upgrade;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll},
    fd::AsFd,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};

use self::{
    publication::{Line, Target},
    upgrade::Upgrade,
};
use crate::LoadError;

/// How long a message may wait for sockets whose buffers are full, all of them together.
const STUCK: Duration = Duration::from_secs(1);
/// Connections that the kernel holds for us before they are accepted; it takes no more than net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// What is read at once: a request is far smaller, and so is a publisher's line.
const READ: usize = 16 * 1024;
/// Bytes of a request, or of a line, that is not whole.
const INCOMPLETE: usize = 16 * 1024;
/// Events that are taken from the kernel at once.
const EVENTS: usize = 256;

/// How to run it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to listen, for clients and publishers.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Channels that are given out in turn to clients that name none.
    #[arg(long, default_value_t = 1)]
    channels: usize,
    /// Send one message of so many bytes right after each handshake.
    #[arg(long, value_name = "BYTES")]
    greet: Option<usize>,
    /// Send the messages of one line in one write.
    #[arg(long)]
    join: bool,
}

/// Serves until the process is ended; says where on standard output.
pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let listen = options.listen;
    let mut floor = Floor::listen(options).map_err(LoadError::io(format!("listening on {listen}")))?;
    announce(&floor).map_err(LoadError::io("standard output"))?;
    floor.serve().map_err(LoadError::io("the floor"))
}

fn announce(floor: &Floor) -> io::Result<()> {
    let address = SocketAddr::try_from(rustix::net::getsockname(&floor.listener)?)?;
    writeln!(io::stdout(), r#"{{"ready":true,"public":"{address}"}}"#)
}

struct Floor {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// By descriptor.
    peers: Vec<Option<Peer>>,
    /// The sockets of each channel, one behind the other: publishing touches nothing else.
    channels: Vec<Vec<OwnedFd>>,
    turns: std::iter::Cycle<std::ops::Range<usize>>,
    greeting: Option<Vec<u8>>,
    join: bool,
}

enum Peer {
    /// It has not said what it is, or not all of it.
    Unknown {
        socket: OwnedFd,
        begun: Vec<u8>,
    },
    /// Its socket stands among those of its channel, at this place.
    Client {
        channel: usize,
        place: usize,
    },
    Publisher {
        socket: OwnedFd,
        begun: Vec<u8>,
    },
}

impl Floor {
    fn listen(options: &Options) -> io::Result<Self> {
        let family =
            if options.listen.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&listener, true)?;
        // Accepted sockets inherit it, so it costs no call for each.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        rustix::net::bind(&listener, &options.listen)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &listener)?;
        Ok(Self {
            epoll,
            listener,
            peers: Vec::new(),
            channels: Vec::new(),
            turns: (0..options.channels.max(1)).cycle(),
            greeting: options.greet.map(|bytes| publication::frame(bytes, 0)),
            join: options.join,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ];
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let (place, flags) = (event.data.u64() as usize, event.flags);
                if place == self.listener.as_raw_fd() as usize {
                    self.accept()?
                } else {
                    self.hear(place, flags, &mut buffer)
                }
            }
        }
    }

    /// Takes all connections that wait. Without descriptors left for them the run is void, and ends.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    watch(&self.epoll, &socket)?;
                    let place = socket.as_raw_fd() as usize;
                    if place >= self.peers.len() {
                        self.peers.resize_with(place + 1, || None);
                    }
                    self.peers[place] = Some(Peer::Unknown { socket, begun: Vec::new() });
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Something came from a peer, or it has gone.
    fn hear(&mut self, place: usize, flags: epoll::EventFlags, buffer: &mut [u8]) {
        let gone = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        match self.peers.get_mut(place).and_then(Option::take) {
            Some(Peer::Client { channel, place: among }) => {
                let left = gone || matches!(receive(&self.channels[channel][among], buffer), Received::End);
                if left {
                    self.remove(channel, among)
                } else {
                    self.peers[place] = Some(Peer::Client { channel, place: among })
                }
            }
            Some(Peer::Unknown { socket, begun }) => self.peers[place] = self.introduce(socket, begun, buffer),
            Some(Peer::Publisher { socket, begun }) => match receive(&socket, buffer) {
                Received::Bytes(count) => self.peers[place] = self.take_lines(socket, begun, &buffer[..count]),
                Received::Nothing => self.peers[place] = Some(Peer::Publisher { socket, begun }),
                Received::End => {}
            },
            None => {}
        }
    }

    /// A peer that says what it is. `None`: it is hung up on.
    fn introduce(&mut self, socket: OwnedFd, mut begun: Vec<u8>, buffer: &mut [u8]) -> Option<Peer> {
        let count = match receive(&socket, buffer) {
            Received::Bytes(count) => count,
            Received::Nothing => return Some(Peer::Unknown { socket, begun }),
            Received::End => return None,
        };
        let bytes = if begun.is_empty() {
            &buffer[..count]
        } else {
            begun.extend_from_slice(&buffer[..count]);
            &begun
        };
        match upgrade::read(bytes) {
            Upgrade::Incomplete if bytes.len() > INCOMPLETE => None,
            Upgrade::Incomplete => {
                let begun = if begun.is_empty() { buffer[..count].to_vec() } else { begun };
                Some(Peer::Unknown { socket, begun })
            }
            Upgrade::None => {
                let lines = bytes[3..].to_vec();
                self.take_lines(socket, Vec::new(), &lines)
            }
            Upgrade::Request { channel, response } => {
                let channel = channel.or_else(|| self.turns.next()).expect("turns never end");
                send(&socket, &response, Instant::now() + STUCK);
                if let Some(greeting) = &self.greeting {
                    send(&socket, greeting, Instant::now() + STUCK);
                }
                Some(self.add(channel, socket))
            }
        }
    }

    fn add(&mut self, channel: usize, socket: OwnedFd) -> Peer {
        if channel >= self.channels.len() {
            self.channels.resize_with(channel + 1, Vec::new);
        }
        let sockets = &mut self.channels[channel];
        sockets.push(socket);
        Peer::Client { channel, place: sockets.len() - 1 }
    }

    /// Closes a client's socket; the last one of its channel takes its place.
    fn remove(&mut self, channel: usize, place: usize) {
        let sockets = &mut self.channels[channel];
        drop(sockets.swap_remove(place));
        if let Some(moved) = sockets.get(place) {
            self.peers[moved.as_raw_fd() as usize] = Some(Peer::Client { channel, place });
        }
    }

    /// Publishes what whole lines say.
    fn take_lines(&self, socket: OwnedFd, mut begun: Vec<u8>, bytes: &[u8]) -> Option<Peer> {
        begun.extend_from_slice(bytes);
        let whole = memchr::memrchr(b'\n', &begun).map_or(0, |end| end + 1);
        for line in begun[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.publish(&publication::line(line)?);
        }
        begun.drain(..whole);
        (begun.len() <= INCOMPLETE).then_some(Peer::Publisher { socket, begun })
    }

    fn publish(&self, line: &Line) {
        let mut frame = publication::frame(line.bytes, line.stamp);
        let mut writes = line.count;
        if self.join {
            frame = frame.repeat(line.count);
            writes = 1;
        }
        let sockets = match line.target {
            Target::All => &self.channels[..],
            Target::Channel(channel) => self.channels.get(channel..=channel).unwrap_or_default(),
        };
        for _ in 0..writes {
            let mut patience = None;
            for socket in sockets.iter().flatten() {
                match rustix::net::send(socket, &frame, SendFlags::NOSIGNAL) {
                    Ok(count) if count == frame.len() => {}
                    Ok(count) => finish(socket, &frame[count..], &mut patience),
                    Err(Errno::AGAIN) => finish(socket, &frame, &mut patience),
                    Err(_) => {} // Gone: its event says so.
                }
            }
        }
    }
}

/// What a read brought.
enum Received {
    Bytes(usize),
    Nothing,
    End,
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Received {
    match rustix::net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((0, _)) => Received::End,
        Ok((count, _)) => Received::Bytes(count),
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::End,
    }
}

fn watch(epoll: &OwnedFd, socket: &OwnedFd) -> io::Result<()> {
    let data = epoll::EventData::new_u64(socket.as_raw_fd() as u64);
    Ok(epoll::add(epoll, socket, data, epoll::EventFlags::IN | epoll::EventFlags::RDHUP)?)
}

/// The rest of a message, for a socket whose buffer is full. `patience` ends for all sockets of a message at once.
fn finish(socket: &OwnedFd, rest: &[u8], patience: &mut Option<Instant>) {
    send(socket, rest, *patience.get_or_insert_with(|| Instant::now() + STUCK));
}

/// All of `bytes`. What cannot be sent until the deadline is never sent: then the connection ends, which its event says.
fn send(socket: &OwnedFd, mut bytes: &[u8], deadline: Instant) {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if wait_for_room(socket, deadline) => {}
            Err(_) => {
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                return;
            }
        }
    }
}

fn wait_for_room(socket: &OwnedFd, deadline: Instant) -> bool {
    let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
    let mut wanted = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    matches!(rustix::event::poll(&mut wanted, left.as_ref()), Ok(1..) | Err(Errno::INTR))
}
