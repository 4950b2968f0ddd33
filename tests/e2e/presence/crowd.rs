//! Many sockets that cost little: each is a member of some channels, reads all that comes, and keeps counts of it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_testkit::wait_until;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{TENANT, claims};
use crate::{
    node::Node,
    raw::{frame, request},
    token::sign,
};

/// Handshakes at one time: the kernel keeps so many for a node that is busy.
const AT_ONCE: usize = 256;
/// How long all of them may take, on a machine that is busy with thousands.
const LONG: Duration = Duration::from_secs(120);
/// How much is read at one time.
const READ_BYTES: usize = 4096;
/// How far into a message its event is named.
const NAMED_WITHIN: usize = 48;

/// Who is to come.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) node: SocketAddr,
    pub(super) user: String,
    pub(super) channels: Vec<String>,
    /// Whether it is told of the others.
    pub(super) told: bool,
}

/// Sockets that are open. They end with their owner, without a word.
#[derive(Default)]
pub(super) struct Crowd {
    sockets: Vec<Socket>,
}

/// One of them.
pub(super) struct Socket {
    seat: Seat,
    reading: JoinHandle<()>,
    counts: Arc<Counts>,
}

/// What came to one of them.
#[derive(Default)]
struct Counts {
    subscribed: AtomicUsize,
    presence: AtomicUsize,
    session: OnceLock<String>,
    ended: AtomicBool,
}

impl Seat {
    /// A user on one channel, who is not told of the others.
    pub(super) fn new(node: SocketAddr, user: impl Into<String>, channels: &[impl AsRef<str>]) -> Self {
        let channels = channels.iter().map(|channel| channel.as_ref().to_owned()).collect();
        Self { node, user: user.into(), channels, told: false }
    }

    /// Users one after the other on these nodes, each on one of the channels, which all nodes have in common.
    pub(super) fn spread(nodes: &[&Node], users: &[String], channels: &[String]) -> Vec<Self> {
        let seat = |(index, user): (usize, &String)| {
            let channel = &channels[index / nodes.len() % channels.len()];
            Self::new(nodes[index % nodes.len()].public(), user, &[channel])
        };
        users.iter().enumerate().map(seat).collect()
    }

    /// Is told of the others.
    pub(super) fn told(mut self) -> Self {
        self.told = true;
        self
    }

    async fn open(self) -> io::Result<Socket> {
        let mut stream = TcpStream::connect(self.node).await?;
        stream.set_nodelay(true)?;
        let told = if self.told { "" } else { "&presence=false" };
        let target = format!("/ws?channels={}{told}&token={}", self.channels.join(","), sign(&claims(&self.user)));
        stream.write_all(request(&target, "").as_bytes()).await?;
        let counts = Arc::<Counts>::default();
        let reading = tokio::spawn(read(stream, Arc::clone(&counts)));
        Ok(Socket { seat: self, reading, counts })
    }
}

impl Crowd {
    /// Opens all of them and waits until each is subscribed to its channels.
    pub(super) async fn come(seats: Vec<Seat>) -> Self {
        let mut crowd = Self::default();
        crowd.join(seats).await;
        crowd
    }

    /// More come.
    pub(super) async fn join(&mut self, seats: Vec<Seat>) {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for seat in seats {
            let turns = Arc::clone(&turns);
            opening.spawn(async move {
                let turn = turns.acquire_owned().await.expect("it is not closed");
                let socket = seat.open().await.unwrap_or_else(|error| panic!("a socket of a crowd: {error}"));
                let counts = Arc::clone(&socket.counts);
                wait_until("the session of a socket", LONG, || counts.session.get().is_some()).await;
                drop(turn);
                socket
            });
        }
        let came = timeout(LONG, opening.join_all()).await.expect("all come in time");
        for socket in &came {
            let (seat, counts) = (&socket.seat, &socket.counts);
            let all = || counts.subscribed.load(Ordering::Relaxed) == seat.channels.len();
            wait_until(&format!("{}'s subscriptions", seat.user), LONG, all).await;
        }
        self.sockets.extend(came);
    }

    /// Closes all of them, and waits for it.
    pub(super) async fn leave(mut self) {
        for socket in &mut self.sockets {
            socket.reading.abort();
            // It was aborted, or had ended with its session.
            let _ = (&mut socket.reading).await;
        }
    }

    /// The one that came first leaves.
    pub(super) async fn first_leaves(&mut self) {
        let first = self.sockets.remove(0);
        Self { sockets: vec![first] }.leave().await;
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// The ids of the sessions, with their seats.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (&str, &Seat)> {
        self.sockets.iter().map(|socket| (socket.counts.session.get().map_or("", String::as_str), &socket.seat))
    }

    /// How many of them have ended, though nobody closed them.
    pub(super) fn ended(&self) -> usize {
        self.sockets.iter().filter(|socket| socket.counts.ended.load(Ordering::Relaxed)).count()
    }

    /// How many events of presence came to each.
    pub(super) fn presence_events(&self) -> Vec<usize> {
        self.sockets.iter().map(|socket| socket.counts.presence.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut stream: TcpStream, counts: Arc<Counts>) {
    let mut input = Vec::new();
    let mut upgraded = false;
    while stream.readable().await.is_ok() {
        match take_bytes(&stream, &mut input) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if !upgraded {
            let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&input[..end]).into_owned();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            input.drain(..end + 4);
            upgraded = true;
        }
        let mut pongs = 0;
        let taken = frames(&input, |first, payload| match first {
            0x89 => pongs += 1,
            0x81 => counts.take(payload),
            _ => {}
        });
        input.drain(..taken);
        if input.is_empty() {
            // Thousands of them wait most of the time.
            input = Vec::new();
        }
        for _ in 0..pongs {
            // Where the node is gone, the next read says so.
            let _ = stream.write_all(&frame(0x8a, b"")).await;
        }
    }
    counts.ended.store(true, Ordering::Relaxed);
}

/// The buffer is no part of the task, which waits without it.
fn take_bytes(stream: &TcpStream, input: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; READ_BYTES];
    let count = stream.try_read(&mut buffer)?;
    input.extend_from_slice(&buffer[..count]);
    Ok(count)
}

/// Gives each whole frame's first byte and payload; how many bytes they took.
fn frames(input: &[u8], mut take: impl FnMut(u8, &[u8])) -> usize {
    let mut taken = 0;
    loop {
        let rest = &input[taken..];
        let (header, length) = match rest {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            [_, 127, length @ ..] => match length.first_chunk() {
                Some(length) => (10, u64::from_be_bytes(*length) as usize),
                None => return taken,
            },
            [_, short @ 0..=125, ..] => (2, usize::from(*short)),
            _ => return taken,
        };
        let Some(payload) = rest.get(header..header + length) else { return taken };
        take(rest[0], payload);
        taken += header + length;
    }
}

impl Counts {
    fn take(&self, payload: &[u8]) {
        let start = &payload[..payload.len().min(NAMED_WITHIN)];
        let names = |event: &[u8]| start.windows(event.len()).any(|bytes| bytes == event);
        if names(b"\"presence:") {
            self.presence.fetch_add(1, Ordering::Relaxed);
        } else if names(b"\"system:subscribed\"") {
            self.subscribed.fetch_add(1, Ordering::Relaxed);
        } else if names(b"\"system:connected\"") {
            let push: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
            let session = push["data"]["session"].as_str().expect("an id").to_owned();
            assert_eq!(push["data"]["tenant"], TENANT, "{push}");
            self.session.set(session).expect("a session begins once");
        } else if names(b"\"system:error\"") {
            panic!("{}", String::from_utf8_lossy(payload));
        }
    }
}
