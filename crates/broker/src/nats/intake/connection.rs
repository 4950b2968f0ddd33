//! One connection: its buffers in both directions, and what waits for the server's PONGs.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::oneshot,
    time::Instant,
};

use super::{
    dial::{Duplex, Greeted},
    table::Subscription,
    wire::{Operation, Parser, WireError},
};
use crate::{BrokerError, Interest, InterestId, address::Server};

/// Room that is made before the socket is read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The least room that is read into, in bytes: less of it would be too many reads, more of it too many buffers.
const LEAST_ROOM_BYTES: usize = 8 * 1024;

/// Room that is made at once for a large message, in bytes. A line alone, that announces one, takes no more.
const LARGE_ROOM_BYTES: usize = 1024 * 1024;

/// How often the server is asked whether it is there. Two missing answers end a connection, so one that is silently lost
/// is noticed within three of these.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Intervals in which nothing comes at all, until the connection is taken for lost.
const SILENT_INTERVALS: u32 = 2;

/// Bytes that wait to be written until no more is asked for.
const MAX_OUT_BYTES: usize = 1024 * 1024;

/// A connection that the server has confirmed. Its two directions are used at the same time.
pub(super) struct Connection {
    pub(super) server: Server,
    pub(super) inward: Inward,
    pub(super) outward: Outward,
    /// What waits for a PONG, the oldest first: one for each PING that was sent.
    pub(super) waiting: VecDeque<Waiting>,
    /// When the server is asked next whether it is there.
    next_ping: Instant,
    silent: u32,
}

/// What the server writes.
pub(super) struct Inward {
    source: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    parser: Parser,
    /// Whether complete operations may be in the buffer.
    pub(super) has_read: bool,
    /// Something came since the server was asked, or nothing was read.
    alive: bool,
}

/// What is written to the server.
pub(super) struct Outward {
    sink: WriteHalf<Box<dyn Duplex>>,
    out: BytesMut,
    unflushed: bool,
}

/// What a PONG confirms.
#[derive(Debug)]
pub(super) enum Waiting {
    /// That the server is there.
    Alive,
    /// All subscriptions after a reconnect.
    All,
    /// New interests.
    Added {
        ids: Vec<InterestId>,
        reply: oneshot::Sender<Result<(), BrokerError>>,
        /// What the server said instead of one of them.
        refusal: Option<String>,
    },
    /// That nothing is on its way any more that was sent before a stream was found to be another.
    Renumbered,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server has ended it")]
    Ended,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the server did not answer")]
    Silent,
    #[error("the server is about to go away")]
    LameDuck,
    #[error("the server does not take all subscriptions: {0}")]
    Refused(String),
}

impl Connection {
    pub(super) fn new(server: Server, greeted: Greeted) -> Self {
        let Greeted { stream, buffer, parser, .. } = greeted;
        let (source, sink) = tokio::io::split(stream);
        Self {
            server,
            inward: Inward { source, buffer, parser, has_read: true, alive: true },
            outward: Outward { sink, out: BytesMut::new(), unflushed: false },
            waiting: VecDeque::new(),
            next_ping: Instant::now() + PING_INTERVAL,
            silent: 0,
        }
    }

    /// Subscribes; the server says nothing unless it refuses.
    pub(super) fn subscribe(&mut self, subject: &str, sid: u64) {
        self.outward.put(format_args!("SUB {subject} {sid}\r\n"));
    }

    pub(super) fn unsubscribe(&mut self, subscriptions: impl IntoIterator<Item = Subscription>) {
        for Subscription { sid, .. } in subscriptions {
            self.outward.put(format_args!("UNSUB {sid}\r\n"));
        }
    }

    /// Lets the server confirm what it was sent before.
    pub(super) fn confirm(&mut self, what: Waiting) {
        self.outward.out.put_slice(b"PING\r\n");
        self.waiting.push_back(what);
    }

    pub(super) fn pong(&mut self) {
        self.outward.out.put_slice(b"PONG\r\n");
    }

    pub(super) fn allow_payload(&mut self, bytes: usize) {
        self.inward.parser.allow_payload(bytes);
    }

    /// The next operation that was read.
    pub(super) fn next(&mut self) -> Result<Option<Operation>, WireError> {
        self.inward.parser.next(&mut self.inward.buffer)
    }

    /// Asks the server whether it is there, when it is time.
    pub(super) fn keep_alive(&mut self, now: Instant) -> Result<(), Lost> {
        // While nothing is read, nothing can be heard.
        self.inward.alive |= self.inward.has_read;
        if now < self.next_ping {
            return Ok(());
        }
        self.silent = if std::mem::take(&mut self.inward.alive) { 0 } else { self.silent + 1 };
        if self.silent >= SILENT_INTERVALS {
            return Err(Lost::Silent);
        }
        self.next_ping = now + PING_INTERVAL;
        if !matches!(self.waiting.back(), Some(Waiting::Alive)) {
            self.confirm(Waiting::Alive);
        }
        Ok(())
    }
}

impl Outward {
    /// Whether the server has taken enough of what was asked for to be asked for more.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < MAX_OUT_BYTES
    }

    pub(super) fn has_to_write(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }

    /// Writes a part of what waits. Cancel-safe.
    pub(super) async fn write(&mut self) -> Result<(), Lost> {
        if self.out.is_empty() {
            self.sink.flush().await?;
            self.unflushed = false;
            return Ok(());
        }
        if self.sink.write_buf(&mut self.out).await? == 0 {
            return Err(Lost::Ended);
        }
        self.unflushed = true;
        if self.out.is_empty() {
            // What all subscriptions took after a reconnect is not kept.
            self.out = BytesMut::new();
        }
        Ok(())
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        (&mut self.out).writer().write_fmt(text).expect("a buffer takes all that is written into it");
    }
}

impl Inward {
    /// Reads what there is. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<(), Lost> {
        let room = self.buffer.capacity() - self.buffer.len();
        let missing = self.parser.missing(&self.buffer);
        if room < missing.clamp(LEAST_ROOM_BYTES, LARGE_ROOM_BYTES) {
            self.buffer.reserve(missing.clamp(READ_BYTES, LARGE_ROOM_BYTES));
        }
        if self.source.read_buf(&mut self.buffer).await? == 0 {
            return Err(Lost::Ended);
        }
        (self.has_read, self.alive) = (true, true);
        Ok(())
    }
}

impl Waiting {
    pub(super) fn added(interests: &[Interest], reply: oneshot::Sender<Result<(), BrokerError>>) -> Self {
        Self::Added { ids: interests.iter().map(|interest| interest.id).collect(), reply, refusal: None }
    }

    /// Which interests are not confirmed yet.
    pub(super) fn ids(&self) -> &[InterestId] {
        match self {
            Self::Added { ids, .. } => ids,
            Self::Alive | Self::All | Self::Renumbered => &[],
        }
    }
}
