//! The memory adapter: a broker inside the process, for development, tests and a single node.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fanfare_protocol::{Body, Channel, Pattern, Tenant, Topic};
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Broker, BrokerError, Events, Interest, InterestId, Publication, Publish, Published, outlet::Outlet};

/// How often a node that is behind is looked at.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(50);

/// A broker inside the process. Clones are the same broker; nodes [`attach`](Self::attach) to it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// One node's connection to a [`Memory`].
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    node: Arc<Node>,
}

#[derive(Debug, Default)]
struct Shared {
    next_node: AtomicU64,
    index: RwLock<Index>,
}

/// Who wants what.
#[derive(Debug, Default)]
struct Index {
    tenants: HashMap<Tenant, Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    channels: HashMap<Channel, Vec<Holder>>,
    patterns: Vec<(Pattern, Holder)>,
}

/// A node's interest.
#[derive(Clone, Debug)]
struct Holder {
    node: Arc<Node>,
    interest: InterestId,
}

#[derive(Debug)]
struct Node {
    id: u64,
    /// What this node holds, to find it when it is removed.
    held: std::sync::Mutex<HashMap<InterestId, (Tenant, Topic)>>,
    /// Locked while a publisher waits for room, so that publications keep their order.
    outlet: Mutex<Option<Outlet>>,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Memory {
    /// A broker without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a node.
    pub fn attach(&self) -> (Arc<dyn Broker>, Events) {
        let (outlet, events) = Outlet::new();
        let node = Node {
            id: self.shared.next_node.fetch_add(1, Ordering::Relaxed),
            held: std::sync::Mutex::default(),
            outlet: Mutex::new(Some(outlet)),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        (Arc::new(MemoryBroker { shared: Arc::clone(&self.shared), node: Arc::new(node) }), events)
    }

    /// How many interests all nodes hold together.
    pub fn interests(&self) -> usize {
        let index = self.shared.index.read().expect(UNPOISONED);
        let held = |wanted: &Wanted| wanted.channels.values().map(Vec::len).sum::<usize>() + wanted.patterns.len();
        index.tenants.values().map(held).sum()
    }
}

/// No code that holds these locks can panic.
const UNPOISONED: &str = "a lock of the memory broker is never poisoned";

#[async_trait]
impl Broker for MemoryBroker {
    fn name(&self) -> &'static str {
        "memory"
    }

    /// Waits while a node that wants the publication has no room, for [`limits::STALL`](crate::limits::STALL) at most.
    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        if self.node.closed.is_cancelled() {
            return Err(BrokerError::Unavailable { broker: self.name() });
        }
        let (direct, by_pattern) =
            self.shared.index.read().expect(UNPOISONED).holders(&publish.tenant, &publish.channel);
        let direct = direct.into_iter().map(|holder| (holder, None));
        let by_pattern = by_pattern.into_iter().map(|holder| (holder, Some(publish.channel.clone())));
        for (holder, channel) in direct.chain(by_pattern) {
            let body = Body::new(publish.body.clone());
            let publication = Publication { interest: holder.interest, channel, body, timestamp: None, position: None };
            holder.node.deliver(publication).await;
        }
        Ok(Published::default())
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        let mut index = self.shared.index.write().expect(UNPOISONED);
        if self.node.closed.is_cancelled() {
            return Err(BrokerError::Unavailable { broker: self.name() });
        }
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
                index.remove(&tenant, &topic, self.node.id, *id);
            }
        }
    }

    async fn close(&self) {
        {
            let mut index = self.shared.index.write().expect(UNPOISONED);
            self.node.closed.cancel();
            for (id, (tenant, topic)) in self.node.held.lock().expect(UNPOISONED).drain() {
                index.remove(&tenant, &topic, self.node.id, id);
            }
        }
        self.node.tasks.close();
        self.node.tasks.wait().await;
        // The sender goes with it, so the stream of events ends.
        self.node.outlet.lock().await.take();
    }
}

impl Node {
    async fn deliver(self: &Arc<Self>, publication: Publication) {
        let mut outlet = self.outlet.lock().await;
        let Some(outlet) = outlet.as_mut() else { return };
        let was_behind = outlet.is_behind();
        tokio::select! {
            biased;
            () = self.closed.cancelled() => return,
            _ = outlet.ready() => {}
        }
        outlet.publish(publication);
        if outlet.is_behind() && !was_behind {
            self.watch_recovery();
        }
    }

    /// Nobody might publish any more, and the node must still be told what it missed.
    fn watch_recovery(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = node.closed.cancelled() => return,
                    () = tokio::time::sleep(RECOVERY_INTERVAL) => {}
                }
                if node.outlet.lock().await.as_mut().is_none_or(Outlet::recover) {
                    return;
                }
            }
        });
    }
}

impl Index {
    fn add(&mut self, tenant: &Tenant, topic: &Topic, holder: Holder) {
        let wanted = self.tenants.entry(tenant.clone()).or_default();
        match topic {
            Topic::Channel(channel) => wanted.channels.entry(channel.clone()).or_default().push(holder),
            Topic::Pattern(pattern) => wanted.patterns.push((pattern.clone(), holder)),
        }
    }

    /// Leaves no empty entry behind.
    fn remove(&mut self, tenant: &Tenant, topic: &Topic, node: u64, interest: InterestId) {
        let Some(wanted) = self.tenants.get_mut(tenant) else { return };
        let other = |holder: &Holder| holder.node.id != node || holder.interest != interest;
        match topic {
            Topic::Channel(channel) => {
                if let Some(holders) = wanted.channels.get_mut(channel) {
                    holders.retain(other);
                    if holders.is_empty() {
                        wanted.channels.remove(channel);
                    }
                }
            }
            Topic::Pattern(_) => wanted.patterns.retain(|(_, holder)| other(holder)),
        }
        if wanted.channels.is_empty() && wanted.patterns.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    /// Who wants the channel by its name, and who by a pattern.
    fn holders(&self, tenant: &Tenant, channel: &Channel) -> (Vec<Holder>, Vec<Holder>) {
        let Some(wanted) = self.tenants.get(tenant) else { return Default::default() };
        let direct = wanted.channels.get(channel).cloned().unwrap_or_default();
        let matches = |(pattern, _): &&(Pattern, Holder)| pattern.matches(channel.as_str());
        let by_pattern = wanted.patterns.iter().filter(matches).map(|(_, holder)| holder.clone()).collect();
        (direct, by_pattern)
    }
}
