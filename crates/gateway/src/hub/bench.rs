//! The hub without its task, for counting instructions; see [`crate::bench`].

use ahash::RandomState;
use fanfare_broker::memory::Memory;
use tokio::sync::Semaphore;

use super::*;
use crate::limits::MESSAGES_PER_TICK;

/// A hub with topics that one shard subscribes to.
pub struct HubAlone {
    hub: Hub,
    tenant: Tenant,
    inbox: ShardInboxReceiver,
    batch: Vec<ShardMessage>,
    ids: Vec<InterestId>,
}

impl HubAlone {
    /// One with so many channels, [`channel`](Self::channel) of each number.
    #[must_use]
    pub fn new(channels: u32) -> Self {
        let history = HistoryConfig {
            namespaces: std::collections::HashMap::new(),
            recovery_publications: 1_000,
            recovery_bytes: 1 << 20,
            ring_bytes: 1 << 20,
            position_check: Duration::from_secs(10),
            reads: Arc::new(Semaphore::new(1)),
        };
        let config = HubConfig {
            linger: Duration::ZERO,
            max_topics: usize::MAX,
            max_publication_bytes: fanfare_protocol::limits::PUBLICATION_BYTES,
            history,
        };
        let (sender, inbox) = shard_inbox(MESSAGES_PER_TICK);
        let (broker, _) = Memory::new().attach();
        let mut hub = Hub::new(config, broker, Clock::start(), Arc::new(Readiness::default()), vec![sender]);
        hub.topics = TopicTable::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        let tenant = Tenant::default();
        let mut alone = Self { hub, tenant, inbox, batch: Vec::new(), ids: Vec::new() };
        for number in 0..channels {
            let topic = Topic::parse(&Self::channel(number)).expect("a channel's name");
            let slot = SlotId { index: number, generation: number };
            alone.hub.subscribe(ShardId(0), slot, alone.tenant.clone(), topic);
            let id = alone.find(&Self::channel(number)).expect("it was subscribed to just now");
            alone.hub.handle_added(InterestId(id));
            alone.ids.push(InterestId(id));
            alone.empty_inbox();
        }
        alone
    }

    /// The name of a channel.
    #[must_use]
    pub fn channel(number: u32) -> String {
        format!("project:clx{number:06}")
    }

    /// Finds a topic by its name.
    #[must_use]
    pub fn find(&self, channel: &str) -> Option<u64> {
        self.hub.topics.find(self.tenant.as_str(), channel).map(|id| id.0)
    }

    /// Finds a topic by its interest, as publications name it; says how many shards subscribe to it.
    #[must_use]
    pub fn get(&self, interest: u64) -> Option<usize> {
        self.hub.topics.get(InterestId(interest)).map(|state| state.subscribers.len())
    }

    /// The publication of a body on a channel, as the broker brings it.
    #[must_use]
    pub fn publication(&self, number: u32, body: Body) -> Publication {
        let interest = self.ids[number as usize];
        Publication { interest, channel: None, body, timestamp: None, position: None }
    }

    /// Which shards and topics a publication goes to; says how many shards.
    #[must_use]
    pub fn route(&self, publication: &Publication) -> usize {
        self.hub.targets(publication).map_or(0, |route| route.len())
    }

    /// Takes a publication from the broker to its shard's inbox.
    pub fn handle(&mut self, publication: Publication) {
        self.hub.handle_event(BrokerEvent::Publication(publication));
    }

    /// Takes what is in the shard's inbox, as the shard would; says how many messages.
    pub fn empty_inbox(&mut self) -> usize {
        self.batch.clear();
        self.inbox.recv_many(&mut self.batch, usize::MAX).now_or_never().unwrap_or_default()
    }
}
