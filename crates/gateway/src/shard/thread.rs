//! The thread and runtime of a shard.

use std::{
    io,
    net::TcpStream as StdTcpStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Shard, ShardContext, sockets::Sockets};
use crate::{
    hub::{ShardInbox, ShardInboxReceiver, message::ShardMessage},
    limits::{
        ACCEPTED_SOCKETS, ACCEPTS_PER_TURN, FLUSHES_PER_YIELD, HANDSHAKES, MESSAGES_PER_TICK, TICKS_PER_YIELD,
        TIMER_TICK,
    },
    public::PublicHttp,
};

/// What the node needs to reach a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    /// Where the hub and others leave messages.
    pub(crate) inbox: ShardInbox,
    accepted: mpsc::Sender<StdTcpStream>,
    connections: Arc<AtomicUsize>,
    /// Sockets that were accepted and whose handshake is not done.
    handshakes: Arc<AtomicUsize>,
}

/// A socket whose handshake is not done, as it is counted.
pub(crate) struct InHandshake {
    count: Arc<AtomicUsize>,
    counted: bool,
}

impl InHandshake {
    /// One that was counted when it was accepted.
    fn accepted(count: Arc<AtomicUsize>) -> Self {
        Self { count, counted: true }
    }

    /// Whether it is to be counted from now on: a socket for many streams is in its handshake whenever it has none.
    pub(crate) fn set(&mut self, counted: bool) {
        match (std::mem::replace(&mut self.counted, counted), counted) {
            (false, true) => self.count.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.count.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }
}

impl Drop for InHandshake {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl ShardHandle {
    /// Sockets that are with the shard after their handshake.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sockets that are with the shard, those in their handshake included: many may be accepted before the first is done.
    pub(crate) fn load(&self) -> usize {
        self.connections() + self.handshakes.load(Ordering::Relaxed)
    }

    /// Hands an accepted socket over; `false` where the shard has too many in hand or has ended.
    pub(crate) fn accept(&self, stream: StdTcpStream) -> bool {
        if self.handshakes.fetch_add(1, Ordering::Relaxed) < HANDSHAKES && self.accepted.try_send(stream).is_ok() {
            return true;
        }
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
        false
    }
}

/// How long a thread that was told to end may take.
const THREAD_END: Duration = Duration::from_secs(5);

/// A running shard. Its owner waits for it with [`join`](Self::join).
#[derive(Debug)]
pub(crate) struct ShardThread {
    pub(crate) handle: ShardHandle,
    /// For what is to run on the shard's thread.
    pub(crate) runtime: Handle,
    ended: oneshot::Receiver<()>,
}

impl ShardThread {
    /// Starts the thread. It holds `alive` as long as it lives; when it panics too, that is dropped.
    ///
    /// # Errors
    /// Where the system has no thread or no event queue to give.
    pub(crate) fn start(
        context: ShardContext,
        inbox: ShardInboxReceiver,
        http: Arc<PublicHttp>,
        cancelled: CancellationToken,
        alive: impl Send + 'static,
    ) -> io::Result<Self> {
        let (accepted, sockets) = mpsc::channel(ACCEPTED_SOCKETS);
        let handshakes = Arc::new(AtomicUsize::new(0));
        let handle = ShardHandle {
            inbox: context.inbox.clone(),
            accepted,
            connections: context.connections.clone(),
            handshakes: handshakes.clone(),
        };
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let on = runtime.handle().clone();
        let own_sockets = Sockets::new()?;
        std::thread::Builder::new().name(format!("shard-{}", context.id.0)).spawn(move || {
            let _alive = alive;
            let shard = Shard::new(context, own_sockets);
            let serve =
                move |shard: &Rc<Shard>, socket| http.begin(shard, socket, InHandshake::accepted(handshakes.clone()));
            LocalSet::new().block_on(&runtime, run(shard, inbox, sockets, serve, cancelled));
            let _ = end.send(());
        })?;
        Ok(Self { handle, runtime: on, ended })
    }

    /// Waits until the thread has given back all that it had. It ends when it is cancelled.
    pub(crate) async fn join(self) {
        match tokio::time::timeout(THREAD_END, self.ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!("a shard's thread ended by a panic"),
            Err(_) => warn!("a shard's thread has not ended within {THREAD_END:?}, and is left"),
        }
    }
}

async fn run(
    shard: Rc<Shard>,
    mut inbox: ShardInboxReceiver,
    mut sockets: mpsc::Receiver<StdTcpStream>,
    serve: impl Fn(&Rc<Shard>, StdTcpStream),
    cancelled: CancellationToken,
) {
    let mut ticks = 0;
    let mut batch = Vec::with_capacity(MESSAGES_PER_TICK);
    let mut accepted = Vec::with_capacity(ACCEPTS_PER_TURN);
    let mut timer = interval(TIMER_TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return shard.tell_cut(),
            count = inbox.recv_many(&mut batch, MESSAGES_PER_TICK) => {
                if count == 0 {
                    return;
                }
                tick(&shard, &mut batch).await;
                ticks += 1;
                if count == MESSAGES_PER_TICK || ticks == TICKS_PER_YIELD {
                    ticks = 0;
                    tokio::task::yield_now().await;
                }
            }
            () = shard.asked() => shard.send_requests(),
            1.. = sockets.recv_many(&mut accepted, ACCEPTS_PER_TURN) => {
                accepted.drain(..).for_each(|socket| serve(&shard, socket));
            }
            _ = timer.tick() => {
                while shard.handle_timers() {
                    tokio::task::yield_now().await;
                }
                write_all(&shard).await;
            }
        }
    }
}

/// Delivers a batch. Reads and timers get their turn between writes, and sockets that were full tell that they have room:
/// else a long batch would make slow consumers of clients that keep up.
async fn tick(shard: &Shard, batch: &mut Vec<ShardMessage>) {
    let mut messages = batch.drain(..);
    loop {
        shard.take_messages(&mut messages);
        write_all(shard).await;
        if messages.len() == 0 && !shard.has_gaps() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn write_all(shard: &Shard) {
    while shard.write_dirty(FLUSHES_PER_YIELD) {
        tokio::task::yield_now().await;
    }
}
