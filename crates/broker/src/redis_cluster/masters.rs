//! Which masters there are, and a connection for commands to each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fred::types::Value;
use futures_util::future::join_all;
use redis_protocol::resp3::types::BytesFrame;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    NAME, UNPOISONED,
    caller::{Caller, Unanswered},
    connection::{ConnectionError, Connector, command, error_of, text_of},
    library,
    redirection::Redirection,
    table::LinkId,
    topology::{Topology, View, slot_of},
};
use crate::{
    BrokerError,
    address::Server,
    backoff,
    redis::{
        functions::{self, Call, ReplicationId},
        library::{self as libraries, FunctionLibrary},
    },
};

/// How often each master is asked for its view. It has [`BrokerOptions::request_timeout`](crate::BrokerOptions) to answer.
const LOOK: Duration = Duration::from_secs(2);

/// The shortest time between two looks at the same master, whoever asks for them.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a view counts of which nothing newer came: a master that does not answer any more is known by its last words.
const VIEW_AGE: Duration = Duration::from_secs(60);

/// How often somebody looks whether all masters are gone.
const TICK: Duration = Duration::from_millis(250);

/// How long one node may take that is asked for its view once.
const ASK_ONCE: Duration = Duration::from_secs(1);

/// Between two attempts of a call that the cluster could not serve at the moment.
const AGAIN: Duration = Duration::from_millis(20);

/// How long publishing waits after the owner of any slot has changed. What a node took that is a replica by now goes to the
/// new owner from there, and would be overtaken.
const HANDOVER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Masters {
    connector: Arc<Connector>,
    seeds: Vec<Server>,
    request_timeout: Duration,
    topology: watch::Sender<Arc<Topology>>,
    /// When the owner of any slot changed last.
    changed: Mutex<Option<Instant>>,
    views: Mutex<HashMap<Server, (Instant, View)>>,
    callers: Mutex<HashMap<Server, Arc<Caller>>>,
    /// Counts who wants the masters to be looked at now.
    looks: watch::Sender<u64>,
    /// What each master has to have, where any function is called.
    library: Option<FunctionLibrary>,
    /// Why a master could not be made ready for that, the last time.
    unready: Mutex<Option<BrokerError>>,
    links: AtomicU64,
    /// How many connections for commands have been made; marked as changed when one ends, too.
    opened: watch::Sender<u64>,
    pub(crate) closed: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Masters {
    pub(crate) fn new(
        connector: Arc<Connector>,
        seeds: Vec<Server>,
        request_timeout: Duration,
        library: Option<FunctionLibrary>,
    ) -> Arc<Self> {
        Arc::new(Self {
            connector,
            seeds,
            request_timeout,
            topology: watch::Sender::new(Arc::new(Topology::merge(&[]))),
            changed: Mutex::default(),
            views: Mutex::default(),
            callers: Mutex::default(),
            looks: watch::Sender::new(0),
            library,
            unready: Mutex::default(),
            links: AtomicU64::new(0),
            opened: watch::Sender::new(0),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A number for a subscribing connection, never the same one twice.
    pub(crate) fn next_link(&self) -> LinkId {
        self.links.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// How many connections for commands have been made; changes too when one ends.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Masters to which there is a connection.
    pub(crate) fn connected(&self) -> Vec<Server> {
        let topology = self.topology.borrow().clone();
        topology.masters().iter().filter(|master| self.caller(master).is_some()).cloned().collect()
    }

    /// Something is not where it was: looks at the masters now.
    pub(crate) fn look(&self) {
        self.looks.send_modify(|looks| *looks += 1);
    }

    /// Whether there is a connection to each master.
    pub(crate) fn all_connected(&self) -> bool {
        let topology = self.topology.borrow().clone();
        topology.is_whole() && topology.masters().iter().all(|master| self.caller(master).is_some())
    }

    /// Whether there is a connection to any master.
    pub(crate) fn any_connected(&self) -> bool {
        self.callers.lock().expect(UNPOISONED).values().any(|caller| caller.is_alive())
    }

    /// Why a master is not ready for its functions to be called.
    pub(crate) fn take_unready(&self) -> Option<BrokerError> {
        self.unready.lock().expect(UNPOISONED).take()
    }

    /// Calls a function at the owner of the slot of its keys. Loads the library where the owner does not have it: it may be new,
    /// or somebody has taken it away. Says over which connection it was done.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn call_function(&self, call: Call) -> Result<(Value, Arc<Caller>), BrokerError> {
        let slot = slot_of(call.keys.first().map_or("", String::as_str));
        let command = library::encode_call(call);
        let called = match self.call(slot, command.clone()).await {
            Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => {
                self.prepare(slot).await?;
                self.call(slot, command).await
            }
            called => called,
        };
        let (answer, caller) = called?;
        let answer = Value::try_from(answer)
            .map_err(|error| BrokerError::Refused { broker: NAME, reason: error.to_string() })?;
        Ok((answer, caller))
    }

    /// Makes the owner of a slot ready for its functions to be called.
    async fn prepare(&self, slot: u16) -> Result<(), BrokerError> {
        match (&self.library, self.owner(slot)) {
            (Some(library), Some(caller)) => libraries::prepare(&*caller, library, self.request_timeout).await,
            _ => Err(BrokerError::Unavailable { broker: NAME }),
        }
    }

    /// Whether any master has this replication id, as it says now.
    pub(crate) async fn have(&self, id: ReplicationId) -> bool {
        let callers: Vec<Arc<Caller>> = self.callers.lock().expect(UNPOISONED).values().cloned().collect();
        let asked = callers.iter().map(|caller| self.ask(caller, command(&["INFO", "replication"])));
        join_all(asked).await.into_iter().flatten().any(|answer| {
            let info = text_of(&answer).unwrap_or_default();
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
            field("role:") == Some("master") && field("master_replid:").and_then(ReplicationId::parse) == Some(id)
        })
    }

    /// Asks seeds and known nodes, one after another, until one has said what it knows of the cluster.
    ///
    /// # Errors
    /// Why the last one did not.
    pub(crate) async fn find(&self) -> Result<(), ConnectionError> {
        let mut candidates = self.topology.borrow().others().to_vec();
        candidates.extend(self.topology.borrow().masters().iter().cloned());
        candidates.extend(self.seeds.iter().cloned());
        candidates.sort();
        candidates.dedup();
        fastrand::shuffle(&mut candidates);
        let mut failure = ConnectionError::Refused("no server is named".to_owned());
        for server in candidates {
            let asked = timeout(ASK_ONCE, self.ask_once(&server)).await;
            match asked.unwrap_or(Err(ConnectionError::Timeout(ASK_ONCE))) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask_once(&self, server: &Server) -> Result<(), ConnectionError> {
        let (mut frames, mut writer) = self.connector.open(server).await?;
        writer.write(&cluster_nodes()).await?;
        let view = self.read_view(server, &frames.next().await?)?;
        self.saw(server, view);
        Ok(())
    }

    fn read_view(&self, server: &Server, answer: &BytesFrame) -> Result<View, ConnectionError> {
        if let Some(error) = error_of(answer) {
            return Err(ConnectionError::Refused(error));
        }
        let view = text_of(answer).and_then(|text| View::parse(text, server, self.connector.is_tls()));
        view.ok_or_else(|| ConnectionError::Refused("the answer to CLUSTER NODES cannot be read".to_owned()))
    }

    fn saw(&self, server: &Server, view: View) {
        let now = Instant::now();
        let mut views = self.views.lock().expect(UNPOISONED);
        let before = views.len();
        views.retain(|_, (seen, _)| now.duration_since(*seen) < VIEW_AGE);
        let expired = views.len() < before;
        let old = views.insert(server.clone(), (now, view));
        // As nearly always.
        if !expired && old.is_some_and(|(_, old)| old == views[server].1) {
            return;
        }
        let views: Vec<View> = views.values().map(|(_, view)| view.clone()).collect();
        let topology = Topology::merge(&views);
        self.topology.send_if_modified(|current| {
            let changed = **current != topology;
            if changed {
                *self.changed.lock().expect(UNPOISONED) = Some(now);
                tracing::info!(
                    masters = topology.masters().len(),
                    whole = topology.is_whole(),
                    "the Redis Cluster has changed"
                );
                *current = Arc::new(topology);
            }
            changed
        });
    }

    /// Keeps a connection to each master until the adapter is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut topology = self.topology();
        let mut keepers: HashMap<Server, CancellationToken> = HashMap::new();
        let following = async {
            loop {
                let current = topology.borrow_and_update().clone();
                keepers.retain(|server, keeper| {
                    let stays = current.masters().contains(server);
                    if !stays {
                        keeper.cancel();
                    }
                    stays
                });
                for server in current.masters() {
                    keepers.entry(server.clone()).or_insert_with(|| self.start_keeper(server.clone()));
                }
                let is_quiet = timeout(TICK, topology.changed()).await.is_err();
                if is_quiet
                    && self.callers.lock().expect(UNPOISONED).is_empty()
                    && let Err(error) = self.find().await
                {
                    tracing::debug!(%error, "no node of the Redis Cluster can be asked");
                }
            }
        };
        let _: Option<()> = self.closed.run_until_cancelled(following).await;
    }

    fn start_keeper(self: &Arc<Self>, server: Server) -> CancellationToken {
        let ended = self.closed.child_token();
        let (masters, token) = (Arc::clone(self), ended.clone());
        self.tasks.spawn(async move {
            let _: Option<()> = token.run_until_cancelled(masters.keep(&server)).await;
            masters.forget_ended();
        });
        ended
    }

    /// Keeps a connection to one master.
    async fn keep(&self, server: &Server) {
        let mut attempt = 0;
        loop {
            let reason = match self.connector.open(server).await {
                Ok((frames, writer)) => {
                    let (caller, serving) = Caller::new(frames, writer);
                    let _end = caller.end_with();
                    tokio::select! {
                        error = serving => error.into(),
                        error = self.watch_over(server, &caller, &mut attempt) => error,
                    }
                }
                Err(error) => error,
            };
            self.forget_ended();
            tracing::debug!(%reason, server = %server, attempt, "no connection for commands to a master of the Redis Cluster");
            self.look();
            attempt += 1;
            sleep(backoff::pause(attempt)).await;
        }
    }

    /// Not by the server's name: another connection to it may be there already.
    fn forget_ended(&self) {
        self.callers.lock().expect(UNPOISONED).retain(|_, caller| caller.is_alive());
        self.opened.send_modify(|_| {});
    }

    /// Prepares a connection, lets it be used, and asks for the master's view of the cluster now and then.
    async fn watch_over(&self, server: &Server, caller: &Arc<Caller>, attempt: &mut usize) -> ConnectionError {
        if let Some(library) = &self.library
            && let Err(error) = libraries::prepare(&**caller, library, self.request_timeout).await
        {
            let purpose = library.purpose;
            tracing::warn!(server = %server, %error, "a master of the Redis Cluster is not ready for {purpose}");
            *self.unready.lock().expect(UNPOISONED) = Some(error);
        }
        let mut looks = self.looks.subscribe();
        let mut connected = false;
        loop {
            looks.mark_unchanged();
            let view = match self.ask(caller, cluster_nodes()).await {
                Ok(answer) => self.read_view(server, &answer),
                Err(error) => Err(error),
            };
            match view {
                Ok(view) => self.saw(server, view),
                Err(error) => return error,
            }
            if !connected {
                connected = true;
                *attempt = 0;
                self.callers.lock().expect(UNPOISONED).insert(server.clone(), Arc::clone(caller));
                self.opened.send_modify(|opened| *opened += 1);
            }
            sleep(LOOK_AGAIN).await;
            let pause = LOOK.mul_f64(0.75 + fastrand::f64() / 2.0);
            // A look that is due for everybody is not made by all at once.
            if let Ok(Ok(())) = timeout(pause, looks.changed()).await {
                sleep(LOOK_AGAIN.mul_f64(fastrand::f64())).await;
            }
        }
    }

    async fn ask(&self, caller: &Caller, command: Bytes) -> Result<BytesFrame, ConnectionError> {
        let answer = timeout(self.request_timeout, caller.call(command, false)).await;
        let answer = answer.map_err(|_| ConnectionError::Timeout(self.request_timeout))?;
        answer.map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into())
    }

    /// Returns when what was published before the owner of a slot changed has come to the new one, as far as can be told.
    pub(crate) async fn handed_over(&self) {
        let changed = *self.changed.lock().expect(UNPOISONED);
        if let Some(changed) = changed {
            sleep_until(changed + HANDOVER).await;
        }
    }

    fn caller(&self, server: &Server) -> Option<Arc<Caller>> {
        self.callers.lock().expect(UNPOISONED).get(server).filter(|caller| caller.is_alive()).cloned()
    }

    fn owner(&self, slot: u16) -> Option<Arc<Caller>> {
        let topology = self.topology.borrow().clone();
        topology.owner(slot).and_then(|server| self.caller(server))
    }

    /// Has a command done by the owner of its slot, and follows where that leads. Says over which connection it was done.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] where no node took it, [`BrokerError::Refused`] for all other errors that a node
    /// answers, [`BrokerError::Timeout`] where nobody knows.
    pub(crate) async fn call(&self, slot: u16, command: Bytes) -> Result<(BytesFrame, Arc<Caller>), BrokerError> {
        let began = Instant::now();
        let deadline = began + self.request_timeout;
        let unavailable = BrokerError::Unavailable { broker: NAME };
        let mut next = Redirection::Owner;
        loop {
            let (caller, asking) = match &next {
                Redirection::Owner => (self.owner(slot), false),
                Redirection::Moved(server) => (self.caller(server).or_else(|| self.owner(slot)), false),
                Redirection::Ask(server) => (self.caller(server), true),
            };
            let Some(caller) = caller else { return Err(unavailable) };
            let answer = match timeout_at(deadline, caller.call(command.clone(), asking)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Unanswered::NotSent)) => return Err(unavailable),
                Ok(Err(Unanswered::Unknown)) | Err(_) => {
                    return Err(BrokerError::Timeout { broker: NAME, waited: began.elapsed() });
                }
            };
            let Some(error) = error_of(&answer) else { return Ok((answer, caller)) };
            next = match Redirection::parse(&error) {
                None => return Err(BrokerError::Refused { broker: NAME, reason: error }),
                // It was not done, and will not be for a while.
                Some(None) => {
                    self.look();
                    return Err(unavailable);
                }
                Some(Some(next)) => next,
            };
            if matches!(next, Redirection::Moved(_)) {
                self.look();
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(unavailable);
            }
            sleep(AGAIN).await;
        }
    }
}

fn cluster_nodes() -> Bytes {
    command(&["CLUSTER", "NODES"])
}
