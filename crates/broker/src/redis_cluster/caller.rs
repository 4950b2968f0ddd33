//! A connection that commands go over: many at once, answered in their order.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use redis_protocol::resp3::types::BytesFrame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    NAME, UNPOISONED,
    connection::{Frames, Writer, command},
};
use crate::BrokerError;

/// Commands that may wait for their answers on one connection; more wait for their turn.
const CALLS: usize = 1_024;

/// Commands up to this size together are written at once, in bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// Replicas that have to have a publication before it counts as accepted.
const ENOUGH: &str = "1";

/// Sends commands to one node.
#[derive(Debug)]
pub(crate) struct Caller {
    calls: mpsc::Sender<Call>,
    turns: Arc<Semaphore>,
    ended: CancellationToken,
    /// How many waits for replicas were sent.
    waits: AtomicU64,
    /// The number of the last one that was answered, and whether there were enough. Held during a wait, so that there is one at
    /// a time; who gives up lets it go.
    waited: tokio::sync::Mutex<(u64, bool)>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The connection had ended before; nothing was sent.
    NotSent,
    /// It ended meanwhile.
    Unknown,
}

#[derive(Debug)]
struct Call {
    command: Bytes,
    answers: VecDeque<Answer>,
}

/// Who waits for one frame; None where nobody does.
#[derive(Debug)]
struct Answer {
    to: Option<oneshot::Sender<BytesFrame>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Caller {
    /// The task that serves the connection has to be run by the caller; it returns when the connection has ended.
    pub(crate) fn new(frames: Frames, writer: Writer) -> (Arc<Self>, impl Future<Output = io::Error> + Send) {
        let (calls, waiting) = mpsc::channel(CALLS);
        let ended = CancellationToken::new();
        let serving = serve(frames, writer, waiting, ended.clone());
        let caller = Self {
            calls,
            turns: Arc::new(Semaphore::new(CALLS)),
            ended,
            waits: AtomicU64::new(0),
            waited: tokio::sync::Mutex::default(),
        };
        (Arc::new(caller), serving)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Nothing is sent any more once the guard is dropped.
    pub(crate) fn end_with(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }

    /// Sends a command and waits for its answer. With `asking` the node is told that it is asked although it does not own
    /// the slot yet.
    pub(crate) async fn call(&self, command: Bytes, asking: bool) -> Result<BytesFrame, Unanswered> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => turn.expect("turns are never closed"),
            () = self.ended.cancelled() => return Err(Unanswered::NotSent),
        };
        if !self.is_alive() {
            return Err(Unanswered::NotSent);
        }
        let (to, answered) = oneshot::channel();
        let mut answers = VecDeque::with_capacity(2);
        if asking {
            answers.push_back(Answer { to: None, _turn: None });
        }
        answers.push_back(Answer { to: Some(to), _turn: Some(turn) });
        let command = match asking {
            true => [&b"*1\r\n$6\r\nASKING\r\n"[..], &command].concat().into(),
            false => command,
        };
        // There is room: turns and places are as many.
        self.calls.send(Call { command, answers }).await.map_err(|_| Unanswered::NotSent)?;
        answered.await.map_err(|_| Unanswered::Unknown)
    }

    /// Waits until a replica has all that was answered on this connection before. While Redis waits it takes nothing else from
    /// the connection, so one wait is made for all publications that were answered before it.
    ///
    /// # Errors
    /// [`BrokerError::Timeout`] where no replica has it in time: it may be lost or not.
    pub(crate) async fn confirm(&self, patience: Duration) -> Result<(), BrokerError> {
        let began = Instant::now();
        let before = self.waits.load(Ordering::SeqCst);
        let mut waited = self.waited.lock().await;
        if waited.0 <= before {
            let number = 1 + self.waits.fetch_add(1, Ordering::SeqCst);
            let millis = patience.as_millis().max(1).to_string();
            let call = self.call(command(&["WAIT", ENOUGH, &millis]), false);
            let enough = match timeout(patience * 2, call).await {
                Ok(Ok(BytesFrame::Number { data, .. })) => data > 0,
                other => {
                    tracing::debug!(?other, "the wait for a replica failed");
                    false
                }
            };
            *waited = (number, enough);
        }
        if waited.1 { Ok(()) } else { Err(BrokerError::Timeout { broker: NAME, waited: began.elapsed() }) }
    }
}

async fn serve(frames: Frames, writer: Writer, waiting: mpsc::Receiver<Call>, ended: CancellationToken) -> io::Error {
    let pending = Mutex::new(VecDeque::new());
    let error = tokio::select! {
        error = write(writer, waiting, &pending) => error,
        error = read(frames, &pending) => error,
        () = ended.cancelled() => io::ErrorKind::ConnectionAborted.into(),
    };
    // Before those that wait learn of it, so that they find it ended.
    ended.cancel();
    error
}

async fn write(mut writer: Writer, mut waiting: mpsc::Receiver<Call>, pending: &Mutex<VecDeque<Answer>>) -> io::Error {
    let mut joined = BytesMut::new();
    while let Some(mut call) = waiting.recv().await {
        loop {
            pending.lock().expect(UNPOISONED).append(&mut call.answers);
            if joined.is_empty() && call.command.len() >= WRITE_BYTES {
                if let Err(error) = writer.write(&call.command).await {
                    return error;
                }
            } else {
                joined.extend_from_slice(&call.command);
            }
            match waiting.try_recv() {
                Ok(next) if joined.len() < WRITE_BYTES => call = next,
                Ok(next) => {
                    if let Err(error) = writer.write(&joined.split()).await {
                        return error;
                    }
                    call = next;
                }
                Err(_) => break,
            }
        }
        if let Err(error) = writer.write(&joined.split()).await {
            return error;
        }
    }
    io::ErrorKind::ConnectionAborted.into()
}

async fn read(mut frames: Frames, pending: &Mutex<VecDeque<Answer>>) -> io::Error {
    loop {
        match frames.next().await {
            Err(error) => return error,
            // Nothing is subscribed to here.
            Ok(BytesFrame::Push { .. }) => {}
            Ok(frame) => match pending.lock().expect(UNPOISONED).pop_front() {
                None => return io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody asked for"),
                // Who does not wait any more does not want it.
                Some(Answer { to, .. }) => _ = to.map(|to| to.send(frame)),
            },
        }
    }
}
