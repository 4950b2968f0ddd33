//! What only a Redis Cluster has to show about history: slots that move, masters that are replaced, libraries that are gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_broker::{BrokerEvent, HistoryRange, HistoryRead, Publish, Standing};
use fanfare_protocol::{Channel, Position, Tenant};
use fanfare_testkit::{redis::Reply, wait_for};

use crate::{
    fixture::{Fixture, KeepsHistory, SOON, kept},
    node::{Node, number, numbered},
    redis_cluster::{ClusterFixture, FAILOVER, whole},
};

/// Its keys are in the slot of this.
const TAG: &str = "acme:deep:a";

fn deep() -> (Tenant, Channel) {
    (Tenant::parse("acme").unwrap(), Channel::parse("deep:a").unwrap())
}

async fn publish(node: &Node, number: u64) -> Option<Position> {
    let (tenant, channel) = deep();
    let publish = Publish { tenant, channel, body: numbered(number), id: Some(number.to_string()), ephemeral: false };
    node.broker.publish(publish).await.ok()?.position
}

async fn standing(node: &Node) -> Option<Standing> {
    Some(node.broker.positions(&[deep()]).await.ok()?.remove(0))
}

/// Follows a channel as the hub does: what is missing is read.
struct Follower {
    node: Node,
    /// Offsets and numbers.
    seen: Vec<(u64, u64)>,
    epoch: String,
    interruptions: usize,
    resumptions: usize,
    repaired: usize,
}

impl Follower {
    async fn start(fixture: &ClusterFixture) -> Self {
        let mut node = Node::over(fixture.connect_with(kept()).await);
        node.add("acme", "deep:a").await;
        let epoch = standing(&node).await.unwrap().position.epoch.as_str().to_owned();
        Self { node, seen: Vec::new(), epoch, interruptions: 0, resumptions: 0, repaired: 0 }
    }

    fn last(&self) -> u64 {
        self.seen.last().map_or(0, |(offset, _)| *offset)
    }

    async fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        let following = async {
            while !reached(self) {
                let event = self.node.events.recv().await.unwrap();
                self.take(event).await;
            }
        };
        tokio::time::timeout(FAILOVER, following).await.expect("it comes in time");
    }

    async fn take(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Interrupted(_) => self.interruptions += 1,
            BrokerEvent::Resumed(_) => {
                self.resumptions += 1;
                self.repair().await;
            }
            BrokerEvent::Publication(publication) => {
                let live = publication.position.unwrap();
                assert_eq!(live.position.epoch.as_str(), self.epoch);
                if live.previous.is_none_or(|previous| previous > self.last()) {
                    assert!(self.interruptions > self.resumptions, "{live:?} after {}", self.last());
                    self.repair().await;
                }
                if live.position.offset > self.last() {
                    self.seen.push((live.position.offset, number(&publication.body.bytes)));
                }
            }
        }
    }

    /// Reads what lies behind the last one.
    async fn repair(&mut self) {
        let (tenant, channel) = deep();
        let range = HistoryRange::After(self.last());
        let read = HistoryRead { tenant, channel, range, max_publications: 100_000, max_bytes: 1 << 24 };
        let broker = Arc::clone(&self.node.broker);
        let page = wait_for("a read", FAILOVER, async || broker.history(read.clone()).await.ok()).await;
        assert!(page.whole && !page.more && page.position.epoch.as_str() == self.epoch, "{page:?}");
        self.repaired += page.publications.len();
        self.seen.extend(page.publications.iter().map(|recorded| (recorded.offset, number(&recorded.body.bytes))));
    }
}

/// Nothing is missed, nothing comes twice, and the numbering goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_with_history_moves_under_load() {
    let fixture = ClusterFixture::start().await;
    let cluster = fixture.cluster();
    let mut follower = Follower::start(&fixture).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (stop, publisher) = (Arc::clone(&stop), Node::over(fixture.connect_with(kept()).await));
        async move {
            let mut accepted = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // The id makes it safe to ask again.
                let position = loop {
                    match publish(&publisher, n).await {
                        Some(position) => break position,
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                };
                accepted.push((position.offset, n));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            publisher.close().await;
            accepted
        }
    });
    follower.until(|follower| follower.seen.len() >= 50).await;
    let slot = cluster.slot(TAG).await;
    let home = cluster.owner(slot).await;
    let away = fixture.another_master(home).await;
    for (round, to) in [away, home, away, home].into_iter().enumerate() {
        let before = follower.seen.len();
        cluster.migrate_slot(slot, to).await;
        follower.until(|follower| follower.resumptions > round && follower.seen.len() >= before + 50).await;
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = publishing.await.unwrap();
    follower.until(|follower| follower.last() >= accepted[accepted.len() - 1].0).await;
    assert_eq!(follower.seen, accepted);
    println!("{} accepted, {} of them read after interruptions", accepted.len(), follower.repaired);
    whole(cluster).await;
    follower.node.close().await;
}

/// Redis may lose what it has accepted, and nobody can prove that it has not: a new epoch says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_another_epoch() {
    let fixture = ClusterFixture::start().await;
    let cluster = fixture.cluster();
    let mut node = Node::over(fixture.connect_with(kept()).await);
    node.add("acme", "deep:a").await;
    for n in 1..=3 {
        publish(&node, n).await.unwrap();
    }
    let before = standing(&node).await.unwrap().position;
    let slot = cluster.slot(TAG).await;
    let old = cluster.owner(slot).await;
    cluster.servers()[old].kill();
    cluster.wait_for_failover(slot, old).await;
    let after = wait_for("the node to be back", FAILOVER, async || standing(&node).await).await.position;
    assert!(after.epoch != before.epoch && after.offset <= 3, "{after:?} after {before:?}");
    let next = wait_for("publishing to work", FAILOVER, async || publish(&node, 4).await).await;
    assert!(next.epoch == after.epoch && next.offset == after.offset + 1, "{next:?} after {after:?}");
    whole(cluster).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_is_loaded_where_it_is_gone() {
    let fixture = ClusterFixture::start().await;
    let mut node = Node::over(fixture.connect_with(kept()).await);
    node.add("acme", "deep:a").await;
    let began = Instant::now();
    for n in 1..=3 {
        for server in fixture.cluster().servers() {
            server.command(&["FUNCTION", "FLUSH"]).await;
        }
        let position = publish(&node, n).await.unwrap();
        assert_eq!(node.publication().await.position.unwrap().position, position);
    }
    assert!(began.elapsed() < SOON);
    // Messages that no function has made are not delivered as if.
    let owner = fixture.cluster().owner(fixture.cluster().slot(TAG).await).await;
    let server = &fixture.cluster().servers()[owner];
    assert_eq!(server.command(&["SPUBLISH", "rt:live:{acme:deep:a}", "e 1\n{}"]).await, Reply::Integer(1));
    publish(&node, 4).await.unwrap();
    assert_eq!(number(&node.publication().await.body.bytes), 4);
    node.close().await;
}
