//! The memory adapter.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_broker::{
    Broker, BrokerError, BrokerOptions, Events, HistoryOptions, HistoryPage, HistoryRange, HistoryRead, LivePosition,
    Publish, Retention, limits, memory::Memory,
};
use fanfare_protocol::{Channel, Tenant};
use tokio::time::Instant;

use crate::{
    fixture::{Fixture, KeepsHistory, Outside, kept},
    node::{Node, Wanted, number, numbered},
};

pub(crate) struct MemoryFixture(Memory);

impl Fixture for MemoryFixture {
    const NAME: &'static str = "memory";

    async fn start() -> Self {
        Self(Memory::new())
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        self.0.attach()
    }

    /// There is no other way in than a node's.
    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(Attached(self.0.attach().0))
    }

    async fn subscriptions(&self) -> usize {
        self.0.interests()
    }

    /// There are no connections; a node is attached while it holds interests.
    async fn connections(&self) -> usize {
        self.0.interests()
    }
}

struct Attached(Arc<dyn Broker>);

#[async_trait::async_trait]
impl Outside for Attached {
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool {
        let (tenant, channel) = (Tenant::parse(tenant).unwrap(), Channel::parse(channel).unwrap());
        self.0.publish(Publish { tenant, channel, body, id: None, ephemeral: false }).await.is_ok()
    }

    async fn flush(&self) {}
}

impl KeepsHistory for MemoryFixture {
    async fn start_with_history() -> Self {
        Self(Memory::with_history(kept()))
    }

    /// All nodes share the options of the broker that they are attached to.
    async fn connect_with(&self, history: HistoryOptions) -> (Arc<dyn Broker>, Events) {
        assert_eq!(history, kept());
        self.0.attach()
    }
}

crate::every_broker!(MemoryFixture);
crate::every_history!(MemoryFixture);

#[tokio::test]
async fn is_opened_by_its_url() {
    let mut node = Node::over(fanfare_broker::open(&BrokerOptions::default()).await.unwrap());
    assert_eq!(node.broker.name(), "memory");
    node.add("acme", "a:b").await;
    node.publish("a:b", "x").await.unwrap();
    assert_eq!(node.publication().await.body.bytes, "x");
    node.close().await;
}

fn with_history() -> Memory {
    let retention = Retention { size: 1_000, ttl: Duration::from_secs(60) };
    Memory::with_history(HistoryOptions { namespaces: [("log".into(), retention)].into(), ..HistoryOptions::default() })
}

async fn read(node: &Node, after: u64) -> Result<HistoryPage, BrokerError> {
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("log:a").unwrap());
    let range = HistoryRange::After(after);
    node.broker.history(HistoryRead { tenant, channel, range, max_publications: 1_000, max_bytes: 1 << 20 }).await
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|recorded| recorded.offset).collect()
}

#[tokio::test]
async fn what_is_lost_on_purpose_is_in_history_and_comes_to_the_others() {
    let memory = with_history();
    let (mut one, mut two) = (Node::over(memory.attach()), Node::over(memory.attach()));
    for node in [&mut one, &mut two] {
        node.add_all("acme", &["log:a", "log:*"]).await;
    }
    memory.lose_next(1, 2).await;
    for n in 1..=3 {
        one.publish("log:a", numbered(n)).await.unwrap();
    }
    for n in [1, 1, 2, 2, 3, 3] {
        assert_eq!(number(&one.publication().await.body.bytes), n);
    }
    let LivePosition { position, previous } = two.publication().await.position.unwrap();
    assert_eq!((position.offset, previous), (3, Some(2)));
    assert_eq!(offsets(&read(&two, 0).await.unwrap()), [1, 2, 3]);
}

#[tokio::test]
async fn a_node_that_is_interrupted_is_told_and_gets_nothing_until_it_is_resumed() {
    let memory = with_history();
    let (mut one, mut two) = (Node::over(memory.attach()), Node::over(memory.attach()));
    one.add("acme", "log:a").await;
    two.add("acme", "log:a").await;
    memory.interrupt(0).await;
    memory.interrupt(0).await;
    assert!(one.until(Wanted::Interrupted).await.is_empty());
    two.publish("log:a", numbered(1)).await.unwrap();
    assert_eq!(number(&two.publication().await.body.bytes), 1);
    let interest = one.interest("acme", "log:b");
    for refused in [
        one.publish("log:a", numbered(2)).await.err(),
        one.broker.add_interests(&[interest]).await.err(),
        read(&one, 0).await.err(),
        one.broker.positions(&[]).await.err(),
    ] {
        assert!(matches!(refused, Some(BrokerError::Unavailable { .. })), "{refused:?}");
    }
    memory.resume(0).await;
    assert!(one.until(Wanted::Resumed).await.is_empty());
    one.publish("log:a", numbered(2)).await.unwrap();
    let LivePosition { position, previous } = one.publication().await.position.unwrap();
    assert_eq!((position.offset, previous), (2, Some(1)));
    assert_eq!(offsets(&read(&one, 0).await.unwrap()), [1, 2]);
}

#[tokio::test]
async fn history_begins_anew_in_another_epoch() {
    let memory = with_history();
    let mut node = Node::over(memory.attach());
    node.add("acme", "log:a").await;
    let mut epochs = Vec::new();
    for _ in 0..2 {
        for n in 1..=2 {
            node.publish("log:a", numbered(n)).await.unwrap();
            let LivePosition { position, previous } = node.publication().await.position.unwrap();
            assert_eq!((position.offset, previous), (n, Some(n - 1)));
            epochs.push(position.epoch);
        }
        memory.begin_anew();
    }
    assert!(epochs[0] == epochs[1] && epochs[1] != epochs[2] && epochs[2] == epochs[3], "{epochs:?}");
    assert!(read(&node, 0).await.unwrap().publications.is_empty());
}

#[tokio::test(start_paused = true)]
async fn publications_have_their_time_and_reads_take_as_long_as_is_said() {
    let memory = with_history();
    let node = Node::over(memory.attach());
    node.publish("log:a", numbered(1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(30)).await;
    node.publish("log:a", numbered(2)).await.unwrap();
    memory.delay_reads(Duration::from_secs(3));
    let began = Instant::now();
    assert_eq!(offsets(&read(&node, 0).await.unwrap()), [1, 2]);
    assert_eq!(began.elapsed().as_secs(), 3);
    memory.delay_reads(Duration::ZERO);
    tokio::time::advance(Duration::from_secs(27)).await;
    let page = read(&node, 0).await.unwrap();
    assert!(offsets(&page) == [2] && !page.whole, "{page:?}");
    assert_eq!(memory.history_reads(), 2);
}

#[tokio::test]
async fn a_publish_that_is_given_up_is_published_to_nobody() {
    let memory = with_history();
    let (mut slow, other) = (Node::over(memory.attach()), Node::over(memory.attach()));
    slow.add("acme", "log:a").await;
    let full = limits::EVENTS as u64;
    for n in 1..=full {
        other.publish("log:a", numbered(n)).await.unwrap();
    }
    let waits = other.publish("log:a", numbered(0));
    assert!(tokio::time::timeout(Duration::from_millis(20), waits).await.is_err());
    assert_eq!(read(&other, full).await.unwrap().position.offset, full);
    for n in 1..=full {
        assert_eq!(number(&slow.publication().await.body.bytes), n);
    }
    other.publish("log:a", numbered(full + 1)).await.unwrap();
    let LivePosition { position, previous } = slow.publication().await.position.unwrap();
    assert_eq!((position.offset, previous), (full + 1, Some(full)));
}

/// Nodes come and go, and several publish at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_in_order_for_every_node_however_many_publish() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 200;
    let memory = with_history();
    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let node = Node::over(memory.attach());
            tokio::spawn(async move {
                for n in 0..EACH {
                    node.publish("log:a", numbered(n)).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut reading = Vec::new();
    for _ in 0..4 {
        let mut node = Node::over(memory.attach());
        node.add_all("acme", &["log:a", "log:**"]).await;
        let began =
            node.broker.positions(&[(Tenant::parse("acme").unwrap(), Channel::parse("log:a").unwrap())]).await.unwrap()
                [0]
            .position
            .offset;
        reading.push(tokio::spawn(async move {
            // What is behind the position comes; what is before it may, since it was read after the interest was added.
            let mut last: HashMap<_, u64> = HashMap::new();
            let all = PUBLISHERS * EACH;
            while began < all && (last.len() < 2 || last.values().any(|last| *last < all)) {
                let publication = node.publication().await;
                let live = publication.position.unwrap();
                let before = last.insert(publication.interest, live.position.offset);
                assert_eq!(live.previous, Some(live.position.offset - 1));
                assert!(before.map_or(live.position.offset <= began + 1, |before| live.previous == Some(before)));
            }
        }));
    }
    for task in publishing.into_iter().chain(reading) {
        task.await.unwrap();
    }
}
