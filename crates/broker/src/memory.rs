//! The memory adapter: a broker inside the process, for development, tests and a single node.

mod faults;
mod ids;
mod index;
mod node;
mod retained;
mod ring;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use fanfare_protocol::{Body, Channel, Tenant};
use tokio::time::Instant;

use self::{
    index::{Holder, Index},
    node::{Node, Ready},
    retained::{Appended, Bounds, Retained},
};
use crate::{
    Broker, BrokerError, Events, HistoryOptions, HistoryPage, HistoryRead, Interest, InterestId, Lifecycle,
    LivePosition, Publication, Publish, Published, Standing, limits, outlet::Outlet,
};

/// A broker inside the process. Clones are the same broker; nodes [`attach`](Self::attach) to it.
#[derive(Clone, Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// One node's connection to a [`Memory`].
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    node: Arc<Node>,
}

#[derive(Debug)]
struct Shared {
    history: HistoryOptions,
    index: RwLock<Index>,
    /// Locked after the index, where both are.
    retained: Mutex<Retained>,
    /// All that were ever attached, by their numbers.
    nodes: Mutex<Vec<Weak<Node>>>,
    history_reads: AtomicU64,
    /// In nanoseconds.
    read_delay: AtomicU64,
    /// What nodes have told, the newest [`limits::MEMORY_TOLD`].
    told: Mutex<VecDeque<Lifecycle>>,
}

impl Memory {
    /// A broker without nodes, all of whose channels are live only.
    pub fn new() -> Self {
        Self::with_history(HistoryOptions::default())
    }

    /// A broker without nodes that keeps history. Of the options it takes the namespaces and the dedupe window; it keeps
    /// [`limits::MEMORY_BYTES`] at most. Its history ends with the process.
    pub fn with_history(options: HistoryOptions) -> Self {
        let shared = Shared {
            index: RwLock::default(),
            retained: Mutex::new(Retained::new(options.clone(), Bounds::default())),
            history: options,
            nodes: Mutex::default(),
            history_reads: AtomicU64::new(0),
            read_delay: AtomicU64::new(0),
            told: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Attaches a node.
    pub fn attach(&self) -> (Arc<dyn Broker>, Events) {
        let (outlet, events) = Outlet::new();
        let mut nodes = self.shared.nodes.lock().expect(UNPOISONED);
        let node = Arc::new(Node::new(nodes.len() as u64, outlet));
        nodes.push(Arc::downgrade(&node));
        (Arc::new(MemoryBroker { shared: Arc::clone(&self.shared), node }), events)
    }

    /// What nodes have told services, each id once: the newest [`limits::MEMORY_TOLD`], oldest first.
    pub fn told(&self) -> Vec<Lifecycle> {
        self.shared.told.lock().expect(UNPOISONED).iter().cloned().collect()
    }

    /// How many interests all nodes hold together.
    pub fn interests(&self) -> usize {
        self.shared.index.read().expect(UNPOISONED).len()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// No code that holds these locks can panic.
const UNPOISONED: &str = "a lock of the memory broker is never poisoned";

#[async_trait]
impl Broker for MemoryBroker {
    fn name(&self) -> &'static str {
        "memory"
    }

    /// Waits while a node that wants the publication has no room, for [`limits::STALL`] at most. Where
    /// the call is dropped before it returns, it was published to all or to none.
    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        self.check_connected()?;
        let Publish { tenant, channel, body, id, ephemeral } = publish;
        let channel = Arc::new((tenant, channel));
        loop {
            // Every publisher locks them in the same order, that of their numbers.
            let nodes = self.shared.index.read().expect(UNPOISONED).nodes(&channel.0, &channel.1);
            let mut ready = Vec::with_capacity(nodes.len());
            for node in nodes.values() {
                ready.extend(node.ready().await);
            }
            let kept = (!ephemeral).then_some(id.as_deref());
            if let Some(published) = self.shared.commit(&channel, kept, &body, ready) {
                return Ok(published);
            }
        }
    }

    /// Services do not hear of it: they are not in this process. It is kept for [`Memory::told`].
    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError> {
        self.check_connected()?;
        let mut told = self.shared.told.lock().expect(UNPOISONED);
        if told.iter().any(|earlier| earlier.id == lifecycle.id) {
            return Ok(());
        }
        if told.len() == limits::MEMORY_TOLD {
            told.pop_front();
        }
        told.push_back(lifecycle);
        Ok(())
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        let mut index = self.shared.index.write().expect(UNPOISONED);
        self.check_connected()?;
        let mut held = self.node.held.lock().expect(UNPOISONED);
        for interest in interests {
            held.insert(interest.id, (interest.tenant.clone(), interest.topic.clone()));
            let holder = Holder { node: Arc::clone(&self.node), interest: interest.id };
            index.add(&interest.tenant, &interest.topic, holder);
        }
        Ok(())
    }

    async fn remove_interests(&self, interests: &[InterestId]) {
        let mut index = self.shared.index.write().expect(UNPOISONED);
        let mut held = self.node.held.lock().expect(UNPOISONED);
        for id in interests {
            if let Some((tenant, topic)) = held.remove(id) {
                index.remove(&tenant, &topic, self.node.number, *id);
            }
        }
    }

    async fn history(&self, read: HistoryRead) -> Result<HistoryPage, BrokerError> {
        self.shared.history_reads.fetch_add(1, Ordering::Relaxed);
        self.await_read().await?;
        let page = self.shared.retained.lock().expect(UNPOISONED).read(Instant::now(), &read);
        page.ok_or_else(|| self.no_history(&read.channel))
    }

    async fn positions(&self, channels: &[(Tenant, Channel)]) -> Result<Vec<Standing>, BrokerError> {
        self.await_read().await?;
        let standings = self.shared.retained.lock().expect(UNPOISONED).stand(Instant::now(), channels);
        standings.map_err(|channel| self.no_history(channel))
    }

    async fn close(&self) {
        {
            let mut index = self.shared.index.write().expect(UNPOISONED);
            self.node.closed.cancel();
            for (id, (tenant, topic)) in self.node.held.lock().expect(UNPOISONED).drain() {
                index.remove(&tenant, &topic, self.node.number, id);
            }
        }
        self.node.close().await;
    }
}

impl MemoryBroker {
    fn check_connected(&self) -> Result<(), BrokerError> {
        if self.node.is_connected() { Ok(()) } else { Err(BrokerError::Unavailable { broker: self.name() }) }
    }

    /// A read takes as long as a test wants.
    async fn await_read(&self) -> Result<(), BrokerError> {
        let delay = Duration::from_nanos(self.shared.read_delay.load(Ordering::Relaxed));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.check_connected()
    }

    fn no_history(&self, channel: &Channel) -> BrokerError {
        BrokerError::no_history(self.name(), channel)
    }
}

impl Shared {
    /// Publishes to nodes that are ready, all at once: no interest is added and nothing else is published on the channel in
    /// between. `None` where one is missing, because it has become interested since. `kept` is whether the history takes it,
    /// by which id.
    fn commit(
        &self,
        channel: &Arc<(Tenant, Channel)>,
        kept: Option<Option<&str>>,
        bytes: &bytes::Bytes,
        ready: Vec<Ready<'_>>,
    ) -> Option<Published> {
        let index = self.index.read().expect(UNPOISONED);
        let is_ready = |holder: &Holder| ready.iter().any(|ready| ready.node.number == holder.node.number);
        let holders: Vec<(&Holder, bool)> = index.holders(&channel.0, &channel.1).collect();
        if !holders.iter().all(|(holder, _)| is_ready(holder)) {
            return None;
        }
        let body = Body::new(bytes.clone());
        let (position, timestamp) = match kept.and_then(|id| self.append(channel, id, &body)) {
            None => (None, None),
            Some((Appended::New(position), timestamp)) => (Some(position), Some(timestamp)),
            Some((Appended::Known(position), _)) => return Some(Published { position: Some(position) }),
        };
        for mut ready in ready {
            let own = holders.iter().filter(|(holder, _)| holder.node.number == ready.node.number);
            let copies = own.map(|(holder, by_pattern)| Publication {
                interest: holder.interest,
                channel: by_pattern.then(|| channel.1.clone()),
                body: body.clone(),
                timestamp,
                position: position.clone(),
            });
            ready.deliver(copies);
        }
        Some(Published { position: position.map(|LivePosition { position, .. }| position) })
    }

    /// With the time at which it was, in milliseconds since the Unix epoch.
    fn append(&self, channel: &Arc<(Tenant, Channel)>, id: Option<&str>, body: &Body) -> Option<(Appended, u64)> {
        self.history.retention(&channel.1)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut retained = self.retained.lock().expect(UNPOISONED);
        Some((retained.append(Instant::now(), channel, id, body.clone(), timestamp)?, timestamp))
    }
}
