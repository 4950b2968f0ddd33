//! The thread and runtime of a shard.

use std::{
    io,
    net::TcpStream as StdTcpStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Shard, ShardContext};
use crate::{
    hub::{ShardInbox, ShardInboxReceiver, message::ShardMessage},
    limits::{ACCEPTED_SOCKETS, FLUSHES_PER_YIELD, MESSAGES_PER_TICK, TIMER_TICK},
    public::PublicHttp,
};

/// What the node needs to reach a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    /// Where the hub and others leave messages.
    pub(crate) inbox: ShardInbox,
    accepted: mpsc::Sender<StdTcpStream>,
    connections: Arc<AtomicUsize>,
}

impl ShardHandle {
    /// Sockets that are with the shard after their handshake.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands an accepted socket over; `false` where the shard has too many in hand or has ended.
    pub(crate) fn accept(&self, stream: StdTcpStream) -> bool {
        self.accepted.try_send(stream).is_ok()
    }
}

/// A running shard. Its owner waits for it with [`join`](Self::join).
#[derive(Debug)]
pub(crate) struct ShardThread {
    pub(crate) handle: ShardHandle,
    ended: oneshot::Receiver<()>,
}

impl ShardThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread or no event queue to give.
    pub(crate) fn start(
        context: ShardContext,
        inbox: ShardInboxReceiver,
        http: Arc<PublicHttp>,
        cancelled: CancellationToken,
    ) -> io::Result<Self> {
        let (accepted, sockets) = mpsc::channel(ACCEPTED_SOCKETS);
        let handle = ShardHandle { inbox: context.inbox.clone(), accepted, connections: context.connections.clone() };
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("shard-{}", context.id.0)).spawn(move || {
            let shard = Shard::new(context);
            LocalSet::new().block_on(&runtime, run(shard, inbox, sockets, http, cancelled));
            let _ = end.send(());
        })?;
        Ok(Self { handle, ended })
    }

    /// Waits until the thread has given back all that it had. It ends when it is cancelled.
    pub(crate) async fn join(self) {
        if self.ended.await.is_err() {
            warn!("a shard's thread ended by a panic");
        }
    }
}

async fn run(
    shard: Rc<Shard>,
    mut inbox: ShardInboxReceiver,
    mut sockets: mpsc::Receiver<StdTcpStream>,
    http: Arc<PublicHttp>,
    cancelled: CancellationToken,
) {
    let mut batch = Vec::with_capacity(MESSAGES_PER_TICK);
    let mut timer = interval(TIMER_TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            count = inbox.recv_many(&mut batch, MESSAGES_PER_TICK) => {
                if count == 0 {
                    return;
                }
                tick(&shard, &mut batch).await;
            }
            Some(socket) = sockets.recv() => serve(&shard, socket, &http),
            _ = timer.tick() => {
                while shard.handle_timers() {
                    tokio::task::yield_now().await;
                }
                write_all(&shard).await;
            }
        }
    }
}

/// Delivers a batch. Reads and timers get their turn between writes.
async fn tick(shard: &Shard, batch: &mut Vec<ShardMessage>) {
    let mut messages = batch.drain(..);
    while messages.len() > 0 {
        shard.take_messages(&mut messages);
        write_all(shard).await;
    }
}

async fn write_all(shard: &Shard) {
    while shard.write_dirty(FLUSHES_PER_YIELD) {
        tokio::task::yield_now().await;
    }
}

fn serve(shard: &Rc<Shard>, socket: StdTcpStream, http: &Arc<PublicHttp>) {
    match TcpStream::from_std(socket) {
        Ok(stream) => {
            tokio::task::spawn_local(http.clone().serve(shard.clone(), stream));
        }
        Err(error) => warn!(%error, "an accepted socket could not be registered"),
    }
}
