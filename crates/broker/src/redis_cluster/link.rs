//! The subscribing connection to one master: kept alive by a task, and what is under way on it.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use redis_protocol::resp3::types::BytesFrame;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Frames, Writer, append, begin, encode},
    masters::Masters,
    table::LinkId,
};
use crate::{address::Server, backoff};

/// Frames that are handed over together, at most.
const FRAMES: usize = 256;

/// Bytes of frames that are handed over together, at most, and what crosses the limit.
const FRAME_BYTES: usize = 256 * 1024;

/// Portions of commands that may wait for one connection. One that does not take them has stopped reading, and is ended.
const COMMANDS: usize = 256;

/// Names in one command.
const NAMES_PER_COMMAND: usize = 1_000;

/// What comes from the connections, in the order in which it happened on each.
pub(super) enum FromLink {
    /// There is a connection.
    Opened(LinkId, Link),
    /// This came by it.
    Frames(LinkId, Vec<BytesFrame>),
    /// It has ended.
    Ended(LinkId),
}

/// A connection, as its reader sees it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: Server,
    commands: mpsc::Sender<Bytes>,
    end: CancellationToken,
    /// What the node has confirmed and not ended.
    pub(super) subscribed: HashSet<Box<str>>,
    /// What is not answered yet, oldest first.
    pub(super) under_way: VecDeque<UnderWay>,
    /// When anything came last.
    pub(super) heard: Instant,
}

/// Something that was sent, up to the answer that ends it.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) what: Asked,
    /// Errors that came meanwhile: none of the answers before the last has another form.
    pub(super) errors: Vec<String>,
    pub(super) sent: Instant,
}

#[derive(Debug)]
pub(super) enum Asked {
    /// Names to subscribe to, then PING.
    Subscribe(Vec<Arc<str>>),
    /// Names to unsubscribe from, then PING.
    Unsubscribe,
    /// `CLIENT INFO`: whether it is there, and how many subscriptions it counts.
    Alive,
}

impl Link {
    /// Ends the connection; another is made.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Asks for channels, which are given by slot.
    pub(super) fn subscribe(&mut self, slots: impl IntoIterator<Item = Vec<Arc<str>>>) {
        let mut bytes = BytesMut::new();
        let mut names = Vec::new();
        for slot in slots {
            command(&mut bytes, b"SSUBSCRIBE", &slot);
            names.extend(slot);
        }
        encode(&mut bytes, &["PING"]);
        self.send(bytes, Asked::Subscribe(names));
    }

    /// Gives channels up, which are given by slot.
    pub(super) fn unsubscribe(&mut self, slots: impl IntoIterator<Item = Vec<Arc<str>>>) {
        let mut bytes = BytesMut::new();
        for slot in slots {
            command(&mut bytes, b"SUNSUBSCRIBE", &slot);
        }
        encode(&mut bytes, &["PING"]);
        self.send(bytes, Asked::Unsubscribe);
    }

    /// Asks whether it is there.
    pub(super) fn ask(&mut self) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &["CLIENT", "INFO"]);
        self.send(bytes, Asked::Alive);
    }

    /// Whether it owes an answer and has said nothing for so long.
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        self.under_way.front().is_some_and(|first| self.heard.max(first.sent).elapsed() >= limit)
    }

    fn send(&mut self, bytes: BytesMut, what: Asked) {
        self.under_way.push_back(UnderWay { what, errors: Vec::new(), sent: Instant::now() });
        if self.commands.try_send(bytes.freeze()).is_err() {
            self.end();
        }
    }
}

/// Appends a command for channels of one slot.
fn command(bytes: &mut BytesMut, word: &[u8], names: &[Arc<str>]) {
    for names in names.chunks(NAMES_PER_COMMAND) {
        begin(bytes, names.len() + 1);
        append(bytes, word);
        for name in names {
            append(bytes, name.as_bytes());
        }
    }
}

/// Keeps a connection to a master; runs until it is cancelled.
pub(super) async fn keep(server: Server, masters: Arc<Masters>, inbox: mpsc::Sender<FromLink>) {
    let mut attempt = 0;
    loop {
        match masters.connector().open(&server).await {
            Ok((frames, writer)) => {
                attempt = 0;
                let id = masters.next_link();
                let (commands, waiting) = mpsc::channel(COMMANDS);
                let end = CancellationToken::new();
                let link = Link {
                    server: server.clone(),
                    commands,
                    end: end.clone(),
                    subscribed: HashSet::new(),
                    under_way: VecDeque::new(),
                    heard: Instant::now(),
                };
                if inbox.send(FromLink::Opened(id, link)).await.is_err() {
                    return;
                }
                let reason = tokio::select! {
                    reason = read(id, frames, &inbox) => reason,
                    reason = write(writer, waiting) => reason,
                    () = end.cancelled() => io::ErrorKind::ConnectionAborted.into(),
                };
                tracing::debug!(%reason, server = %server, "a subscribing connection to a master of the Redis Cluster has ended");
                if inbox.send(FromLink::Ended(id)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, server = %server, attempt, "no subscribing connection to a master of the Redis Cluster");
            }
        }
        masters.look();
        attempt += 1;
        sleep(backoff::pause(attempt)).await;
    }
}

async fn read(id: LinkId, mut frames: Frames, inbox: &mpsc::Sender<FromLink>) -> io::Error {
    loop {
        let mut portion = Vec::new();
        let error = fill(&mut frames, &mut portion).await.err();
        // What came before the end came.
        if !portion.is_empty() && inbox.send(FromLink::Frames(id, portion)).await.is_err() {
            return io::ErrorKind::ConnectionAborted.into();
        }
        if let Some(error) = error {
            return error;
        }
    }
}

/// Waits for a frame and takes those that are there with it.
async fn fill(frames: &mut Frames, portion: &mut Vec<BytesFrame>) -> io::Result<()> {
    portion.push(frames.next().await?);
    let mut taken = 0;
    while portion.len() < FRAMES && taken < FRAME_BYTES {
        let waiting = frames.waiting();
        let Some(frame) = frames.buffered()? else { break };
        taken += waiting - frames.waiting();
        portion.push(frame);
    }
    Ok(())
}

async fn write(mut writer: Writer, mut waiting: mpsc::Receiver<Bytes>) -> io::Error {
    while let Some(bytes) = waiting.recv().await {
        if let Err(error) = writer.write(&bytes).await {
            return error;
        }
    }
    io::ErrorKind::ConnectionAborted.into()
}
