//! A node: everything put together, from bound addresses to the last task's end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_broker::{Broker, Events};
use fanfare_presence::{KeeperConfig, PresenceStore, StoreEvents};
use fanfare_session::SessionConfig;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    auth::{KeyError, Verifier},
    clock::{Clock, unix_millis},
    config::Config,
    history::{self, HistoryReader},
    hub::{
        HistoryConfig, Hub, HubConfig,
        message::{ShardId, ShardMessage},
        shard_inbox,
    },
    internal::{self, InternalState, Served},
    lifecycle::{Courier, CourierEnd, LifecycleContext, Turnouts, lifecycle_queue},
    limits::{
        CLIENT_PUBLISHES, CLIENT_READS, HUB_INBOX_REQUESTS, PRESENCE_CALLS, PRESENCE_DRAIN_TIME,
        PRESENCE_INBOX_REQUESTS,
    },
    listener,
    presence::{PresenceDriver, PresenceHandle, TurnoutSink},
    public::PublicHttp,
    publishing,
    readiness::Readiness,
    shard::{ShardContext, ShardHandle, ShardThread},
};

/// How long clients are told to wait before they reconnect elsewhere, at the least: each another time, up to twice this.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// How often a drain looks whether the connections are gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long the node waits for its tasks once all is told to end: a request to the internal port may never be finished.
const TASKS_END: Duration = Duration::from_secs(2);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A listener could not be bound.
    #[error("{0}")]
    Listen(io::Error),
    /// A shard could not be started.
    #[error("a shard could not be started: {0}")]
    Shard(io::Error),
    /// A key of the configuration cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A node with its addresses, before it serves.
pub struct Node {
    config: Config,
    broker: Arc<dyn Broker>,
    events: Events,
    presence: Option<(Arc<dyn PresenceStore>, StoreEvents)>,
    prometheus: PrometheusHandle,
    verifier: Arc<Verifier>,
    public: TcpListener,
    internal: TcpListener,
    public_address: SocketAddr,
    internal_address: SocketAddr,
}

/// A node that serves. Its owner ends it with [`drain`](Self::drain).
pub struct RunningNode {
    public_address: SocketAddr,
    internal_address: SocketAddr,
    broker: Arc<dyn Broker>,
    presence: Option<PresenceHandle>,
    /// Where services are told of connections and channels.
    courier: Option<CourierEnd>,
    readiness: Arc<Readiness>,
    shards: Vec<ShardThread>,
    /// Sockets for many streams; each has still to write when its last stream has ended.
    http2_sockets: Arc<AtomicUsize>,
    tasks: TaskTracker,
    /// Ends the acceptor.
    accepting: CancellationToken,
    /// Ends everything else.
    running: CancellationToken,
    /// Cancelled when something that must not end has ended.
    failed: CancellationToken,
}

/// What the node cannot do without: dropped before its time, because it ended or panicked, it has the node fail.
struct Essential {
    name: &'static str,
    /// Cancelled when it is to end.
    ending: CancellationToken,
    failed: CancellationToken,
}

impl Drop for Essential {
    fn drop(&mut self) {
        if !self.ending.is_cancelled() {
            warn!(name = self.name, "something that the node cannot do without has ended");
            self.failed.cancel();
        }
    }
}

impl Node {
    /// Binds both listeners. `presence` is where presence is kept, needed where a namespace has presence. From here on the addresses are known; nothing is served yet.
    ///
    /// # Errors
    /// [`NodeError`] names what could not be had.
    pub async fn bind(
        config: Config,
        (broker, events): (Arc<dyn Broker>, Events),
        presence: Option<(Arc<dyn PresenceStore>, StoreEvents)>,
        prometheus: PrometheusHandle,
    ) -> Result<Self, NodeError> {
        let verifier = Arc::new(Verifier::new(&config.auth)?);
        let notsent_lowat = u32::try_from(config.limits.notsent_lowat_bytes).unwrap_or(u32::MAX);
        let public = listener::bind(config.listen, Some(notsent_lowat)).map_err(NodeError::Listen)?;
        let internal = listener::bind(config.internal_listen, None).map_err(NodeError::Listen)?;
        let public_address = public.local_addr().map_err(NodeError::Listen)?;
        let internal_address = internal.local_addr().map_err(NodeError::Listen)?;
        Ok(Self {
            config,
            broker,
            events,
            presence,
            prometheus,
            verifier,
            public,
            internal,
            public_address,
            internal_address,
        })
    }

    /// Starts serving on the current runtime, the main one, and on a thread per shard.
    ///
    /// # Errors
    /// [`NodeError::Shard`], and [`NodeError::Listen`] where the listener cannot be handed over.
    pub fn start(self) -> Result<RunningNode, NodeError> {
        let clock = Clock::start();
        let readiness = Arc::new(Readiness::default());
        let tasks = TaskTracker::new();
        let (accepting, running, failed) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (hub_requests, requests) = mpsc::channel(HUB_INBOX_REQUESTS);
        let (publishes, client_publishes) = mpsc::channel(CLIENT_PUBLISHES);
        let (reads, client_reads) = mpsc::channel(CLIENT_READS);
        let (presence, presence_requests) = mpsc::channel(PRESENCE_INBOX_REQUESTS);
        let presence = self.presence.is_some().then_some(presence);
        let reads_at_once = Arc::new(Semaphore::new(self.config.limits.history_reads));
        let keeper = self.keeper_config();
        let reader = HistoryReader::new(&self.config, self.broker.clone(), reads_at_once.clone());

        let counts: Vec<_> = (0..self.config.shards).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let session_config = Arc::new(self.config.session_config());
        let http = Arc::new(self.public_http(session_config.clone(), counts.clone(), accepting.clone()));
        let http2_sockets = http.http2_sockets.clone();
        let essential = |name: &'static str, ending: &CancellationToken| Essential {
            name,
            ending: ending.clone(),
            failed: failed.clone(),
        };
        let (lifecycle, courier) = self.lifecycle(&session_config).unzip();
        let mut shards = Vec::with_capacity(self.config.shards);
        for (number, connections) in counts.into_iter().enumerate() {
            let (inbox, receiver) = shard_inbox(self.config.limits.shard_inbox);
            let context = ShardContext {
                id: ShardId(number as u16),
                clock,
                session_config: session_config.clone(),
                outbox_bytes: self.config.limits.outbox_bytes,
                outbox_pieces: self.config.limits.outbox_frames,
                message_bytes: u32::try_from(self.config.limits.message_bytes).unwrap_or(u32::MAX),
                verifier: self.verifier.clone(),
                hub: hub_requests.clone(),
                publishes: publishes.clone(),
                reads: reads.clone(),
                presence: presence.clone(),
                lists_connections: self.config.presence.connections.then(|| self.config.node.as_str().into()),
                lifecycle: lifecycle.clone(),
                recovery_bytes: self.config.limits.recovery_bytes,
                inbox,
                main: Handle::current(),
                tasks: tasks.clone(),
                connections,
            };
            let alive = essential("shard", &running);
            let shard = ShardThread::start(context, receiver, http.clone(), running.clone(), alive);
            shards.push(shard.map_err(NodeError::Shard)?);
        }
        let handles: Vec<ShardHandle> = shards.iter().map(|shard| shard.handle.clone()).collect();

        let hub = Hub::new(
            HubConfig {
                linger: self.config.timeouts.linger,
                max_topics: self.config.limits.channels,
                max_publication_bytes: self.config.limits.publication_bytes,
                history: self.history_config(reads_at_once),
            },
            self.broker.clone(),
            clock,
            readiness.clone(),
            handles.iter().map(|shard| shard.inbox.clone()).collect(),
        );
        let spawn = |alive: Essential, task: BoxFuture<'static, ()>| {
            tasks.spawn(async move {
                let _alive = alive;
                task.await;
            });
        };
        spawn(essential("hub", &running), hub.run(self.events, requests, running.clone()).boxed());
        if let Some((store, events)) = self.presence {
            let turnouts: TurnoutSink = match lifecycle.clone().map(Turnouts::new) {
                Some(mut turnouts) => Box::new(move |turnout| turnouts.handle(unix_millis(), turnout)),
                None => Box::new(|_| ()),
            };
            let inboxes = handles.iter().map(|shard| shard.inbox.clone()).collect();
            let driver = PresenceDriver::new(keeper, store, inboxes, turnouts, rand::random());
            spawn(essential("presence", &running), driver.run(events, presence_requests, running.clone()).boxed());
        }
        let courier = courier.map(|courier| {
            let (end, ended) = oneshot::channel();
            let alive = essential("lifecycle events", &running);
            let task = tasks.spawn(async move {
                let _alive = alive;
                courier.run(ended).await;
            });
            CourierEnd::new(end, task)
        });
        let reading = history::run(reader.clone(), client_reads, running.clone());
        spawn(essential("reads of clients", &running), reading.boxed());
        let publishing = publishing::run(self.broker.clone(), client_publishes, running.clone());
        spawn(essential("publishes of clients", &running), publishing.boxed());
        let inboxes = handles.iter().map(|shard| shard.inbox.clone()).collect();
        let public = self.public.into_std().map_err(NodeError::Listen)?;
        let alive = essential("acceptor", &accepting);
        let accepting_sockets = listener::accept(public, handles, accepting.clone());
        let acceptor = async move {
            let _alive = alive;
            accepting_sockets.await;
        };
        // One shard accepts its own sockets: no other thread has to be woken for them.
        let accepts = match &shards[..] {
            [only] => only.runtime.clone(),
            _ => Handle::current(),
        };
        tasks.spawn_on(acceptor, &accepts);
        let (verifier, stop) = (self.verifier.clone(), running.clone());
        tasks.spawn(async move { verifier.run(stop).await });
        let presence = presence.map(PresenceHandle::new);
        let served = Served {
            broker: self.broker.clone(),
            history: reader,
            presence: presence.clone(),
            shards: inboxes,
            readiness: readiness.clone(),
            prometheus: self.prometheus,
            clock,
        };
        let state = InternalState::new(&self.config, served);
        let api = axum::serve(self.internal, internal::router(state))
            .with_graceful_shutdown(running.clone().cancelled_owned());
        let api = async move {
            if let Err(error) = api.await {
                warn!(%error, "the internal listener failed");
            }
        };
        spawn(essential("internal listener", &running), api.boxed());
        readiness.set_started();
        Ok(RunningNode {
            public_address: self.public_address,
            internal_address: self.internal_address,
            broker: self.broker,
            presence,
            courier,
            readiness,
            shards,
            http2_sockets,
            tasks,
            accepting,
            running,
            failed,
        })
    }

    /// What is told to services, and who tells it.
    fn lifecycle(&self, session_config: &Arc<SessionConfig>) -> Option<(LifecycleContext, Courier)> {
        self.config.tells().then(|| {
            let (queue, events) = lifecycle_queue();
            let context = LifecycleContext {
                queue,
                node: self.config.node.as_str().into(),
                events: self.config.events,
                config: session_config.clone(),
            };
            (context, Courier::new(self.broker.clone(), events))
        })
    }

    fn history_config(&self, reads: Arc<Semaphore>) -> HistoryConfig {
        let limits = &self.config.limits;
        HistoryConfig {
            namespaces: self.config.history.namespaces.clone(),
            recovery_publications: limits.recovery_publications,
            recovery_bytes: limits.recovery_bytes,
            ring_bytes: limits.ring_bytes,
            position_check: self.config.timeouts.position_check,
            reads,
        }
    }

    fn keeper_config(&self) -> KeeperConfig {
        let presence = &self.config.presence;
        KeeperConfig {
            node: self.config.node.clone(),
            lease: presence.lease,
            grace: presence.grace,
            batch: presence.batch,
            max_named: presence.max_named,
            calls: PRESENCE_CALLS,
            snapshot_bytes: self.config.limits.outbox_bytes / 2,
        }
    }

    fn public_http(
        &self,
        session_config: Arc<SessionConfig>,
        connections: Vec<Arc<AtomicUsize>>,
        draining: CancellationToken,
    ) -> PublicHttp {
        PublicHttp {
            websocket_paths: self.config.paths.ws.clone(),
            sse_paths: self.config.paths.sse.clone(),
            origins: self.config.origins.clone(),
            cookie: self.config.auth.cookie.clone(),
            compression: self.config.compression,
            handshake_timeout: self.config.timeouts.handshake,
            session_config,
            max_connections: self.config.limits.connections,
            connections,
            http2_sockets: Arc::default(),
            draining,
        }
    }
}

impl RunningNode {
    /// Where clients connect.
    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// Where the API, metrics and health are.
    pub fn internal_address(&self) -> SocketAddr {
        self.internal_address
    }

    /// Waits until something has ended that the node cannot do without.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Tells every client that the node goes away, closes them, and ends; what is left at the deadline is cut. `true` where
    /// every connection closed in time.
    pub async fn drain(self, deadline: Duration) -> bool {
        let begun = Instant::now();
        self.readiness.set_draining();
        self.accepting.cancel();
        if let Some(presence) = &self.presence {
            // Before the shards close anything: that members leave is not to be told, they come back on other nodes.
            let _ = tokio::time::timeout(deadline.min(PRESENCE_DRAIN_TIME), presence.drain()).await;
        }
        let reconnect_after_ms = RECONNECT_AFTER.as_millis() as u64;
        let told = self.shards.iter().map(|shard| shard.handle.inbox.send(ShardMessage::Drain { reconnect_after_ms }));
        // A shard that takes nothing keeps neither the others nor the deadline waiting.
        let _ = tokio::time::timeout(deadline, join_all(told)).await;
        while self.connections() > 0 && begun.elapsed() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        let left = self.connections();
        info!(left, elapsed_ms = begun.elapsed().as_millis() as u64, "connections are closed");
        self.running.cancel();
        for shard in self.shards {
            shard.join().await;
        }
        if let Some(courier) = self.courier {
            // All that ends has been told to it by now.
            courier.finish(begun + deadline).await;
        }
        self.broker.close().await;
        self.tasks.close();
        if tokio::time::timeout(TASKS_END, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "tasks have not ended, and are cut");
        }
        left == 0
    }

    fn connections(&self) -> usize {
        let connections: usize = self.shards.iter().map(|shard| shard.handle.connections()).sum();
        connections + self.http2_sockets.load(Ordering::Relaxed)
    }
}
