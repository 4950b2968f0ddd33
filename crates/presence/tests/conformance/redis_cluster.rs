//! The Redis store on a cluster of three masters and three replicas.

use std::{sync::Arc, time::Duration};

use fanfare_presence::{PresenceStore, StoreEvents, StoreOptions, open};
use fanfare_testkit::{RedisCluster, RedisServer, redis::Reply, wait_for};

use crate::{
    fixture::{Fixture, Outage, SOON},
    node::{Node, incarnation, place, row, write},
    redis::{forget, interrupted_and_resumed, is_told, kill, refuses_to_reap_the_living, remembers},
    redis_group::{Group, Guest, Owner, Shared},
};

static SHARED: Shared<RedisCluster> = Shared::new();

impl Group for RedisCluster {
    async fn start() -> Self {
        Self::start().await
    }

    async fn mend(&self) {
        self.restart().await;
    }
}

pub(crate) struct ClusterFixture(Guest<RedisCluster>);

/// Alone, since it breaks something.
pub(crate) struct BrokenCluster(Owner<RedisCluster>);

async fn connect(cluster: &RedisCluster, prefix: &str) -> (Arc<dyn PresenceStore>, StoreEvents) {
    open(&StoreOptions { prefix: prefix.to_owned(), ..StoreOptions::new(cluster.url()) }).await.unwrap()
}

impl Fixture for ClusterFixture {
    async fn start() -> Self {
        Self(SHARED.share().await)
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        connect(&self.0, &self.0.prefix).await
    }

    async fn remembers(&self, incarnation: &str) -> bool {
        remembers(self.0.servers(), &self.0.prefix, incarnation).await
    }
}

impl Fixture for BrokenCluster {
    async fn start() -> Self {
        Self(SHARED.take().await)
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        connect(&self.0, &self.0.prefix).await
    }

    async fn remembers(&self, incarnation: &str) -> bool {
        remembers(self.0.servers(), &self.0.prefix, incarnation).await
    }
}

impl Outage for BrokenCluster {
    async fn go_away(&self) {
        kill(self.0.servers()).await;
    }

    async fn come_back(&self, with_data: bool) {
        if !with_data {
            forget(self.0.servers());
        }
        self.0.restart().await;
    }
}

impl BrokenCluster {
    async fn slot(&self, channel: &str) -> u16 {
        self.0.slot(&format!("{}:presence:{{acme:{channel}}}", self.0.prefix)).await
    }

    /// A channel of each master, by their places.
    async fn spread(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for n in 0.. {
            let channel = format!("spread:{n}");
            let owner = self.0.owner(self.slot(&channel).await).await;
            if found.iter().all(|(other, _)| *other != owner) {
                found.push((owner, channel));
            }
            if found.len() == 3 {
                break;
            }
        }
        found
    }

    /// At which server somebody listens to the changes of a channel.
    async fn listener_at(&self, channel: &str) -> Option<usize> {
        let name = format!("{}:presence:change:{{acme:{channel}}}", self.0.prefix);
        for (place, server) in self.0.servers().iter().enumerate() {
            if let Ok(Reply::Array(reply)) = server.try_command(&["PUBSUB", "NUMSUB", &name]).await
                && reply[1] == Reply::Integer(1)
            {
                return Some(place);
            }
        }
        None
    }
}

fn places(spread: &[(usize, String)]) -> Vec<fanfare_presence::Place> {
    spread.iter().map(|(_, channel)| place(channel)).collect()
}

mod shared {
    crate::every_store!(super::ClusterFixture);
}

mod broken {
    crate::every_outage!(super::BrokenCluster);
}

#[tokio::test]
async fn changes_come_from_every_master() {
    let fixture = BrokenCluster::start().await;
    let mut node = Node::connect(&fixture).await;
    let spread = fixture.spread().await;
    node.listen(&places(&spread)).await;
    for (_, channel) in &spread {
        is_told(&mut node, channel).await;
    }
}

#[tokio::test]
async fn who_holds_a_lease_elsewhere_is_not_reaped() {
    let fixture = ClusterFixture::start().await;
    refuses_to_reap_the_living(&Node::connect(&fixture).await).await;
}

#[tokio::test]
async fn a_library_that_was_taken_away_is_loaded_again() {
    let fixture = BrokenCluster::start().await;
    let node = Node::connect(&fixture).await;
    for server in fixture.0.servers() {
        // A replica refuses; it does what its master does.
        server.command(&["FUNCTION", "FLUSH"]).await;
    }
    for (_, channel) in fixture.spread().await {
        assert!(node.put(&channel, "a", &[1]).await.occupied);
    }
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_rows_along() {
    let fixture = BrokenCluster::start().await;
    let mut node = Node::connect(&fixture).await;
    let spread = fixture.spread().await;
    let [(from, channel), (to, _), ..] = &spread[..] else { panic!("{spread:?}") };
    node.listen(&[place(channel)]).await;
    node.put(channel, "a", &[1]).await;
    node.changed().await;
    let slot = fixture.slot(channel).await;
    fixture.0.migrate_slot(slot, *to).await;
    let written = wait_for("a write behind the move", SOON, async || {
        node.store.write(write(channel, "a", vec![row(2, "bob")], vec![])).await.ok()
    })
    .await;
    assert_eq!((written.version.number, written.occupied), (2, false));
    assert_eq!(node.changed().await.1, written.version);
    assert_eq!(node.owners(channel).await.len(), 2);
    fixture.0.migrate_slot(slot, *from).await;
}

/// The listener is at one master; changes of its channels go on, and those of its slots after the failover.
#[tokio::test]
async fn a_master_that_dies_is_replaced_and_listened_to_elsewhere() {
    let fixture = BrokenCluster::start().await;
    let mut node = Node::connect(&fixture).await;
    let spread = fixture.spread().await;
    node.listen(&places(&spread)).await;
    node.begin("a", Duration::from_secs(600)).await;
    let at = fixture.listener_at(&spread[0].1).await.unwrap();
    let (_, channel) = spread.iter().find(|(owner, _)| *owner == at).unwrap();
    node.put(channel, "a", &[1]).await;
    fixture.0.servers()[at].kill();
    // A failover of 2 s, at least, and until all is well again no word of it.
    interrupted_and_resumed(&mut node).await;
    assert_ne!(fixture.listener_at(channel).await, Some(at));
    for (_, channel) in &spread {
        wait_for("a write", SOON, async || {
            node.store.write(write(channel, "b", vec![row(7, "bob")], vec![])).await.ok()
        })
        .await;
        let (told, version, _) = node.changed().await;
        assert_eq!((told, version), (place(channel), node.standing(channel).await.version));
    }
    assert!(node.renew("a", Duration::from_secs(600), false, false).await.held || at == lease_owner(&fixture).await);
}

async fn lease_owner(fixture: &BrokenCluster) -> usize {
    fixture.0.owner(fixture.0.slot("x{leases}").await).await
}

/// What the documentation names is enough.
#[tokio::test]
async fn an_acl_with_no_more_than_is_needed() {
    let fixture = BrokenCluster::start().await;
    let acl = format!(
        "ACL SETUSER node reset on >p@ss,w/rd ~{prefix}:presence:* &{prefix}:presence:change:* -@all +hello +ping \
         +client|setname +fcall +function|load +subscribe +unsubscribe +cluster|nodes +cluster|info +hdel +hincrby +hlen \
         +hmget +hscan +hset +persist +pexpire +publish +sadd +srem +sscan +time +unlink +zadd +zrange +zrem +zscore",
        prefix = fixture.0.prefix
    );
    let words: Vec<&str> = acl.split_whitespace().collect();
    for server in fixture.0.servers() {
        assert_eq!(server.command(&words).await, Reply::Status("OK".to_owned()));
    }
    let options = StoreOptions {
        prefix: fixture.0.prefix.clone(),
        user: Some("node".to_owned()),
        password: Some("p@ss,w/rd".to_owned()),
        ..StoreOptions::new(fixture.0.url())
    };
    let mut node = Node::over(open(&options).await.unwrap());
    node.listen(&[place("crew:1")]).await;
    is_told(&mut node, "crew:1").await;
    node.begin("a", Duration::from_secs(600)).await;
    node.put("crew:1", "b", &[1]).await;
    node.changed().await;
    assert_eq!(node.reap("crew:1", "b").await.0, [1]);
    assert!(node.store.noted(&incarnation("b"), None, 10).await.unwrap().0.is_empty());
    node.store.close().await;
    for server in fixture.0.servers() {
        server.command(&["ACL", "DELUSER", "node"]).await;
    }
}

/// One server that is none of a cluster is told at the start.
#[tokio::test]
async fn one_server_is_no_cluster() {
    let server = RedisServer::start().await;
    let url = server.url().replace("redis://", "redis-cluster://");
    let options = StoreOptions { connect_timeout: Duration::from_secs(2), ..StoreOptions::new(url) };
    let error = open(&options).await.err().unwrap();
    assert!(error.to_string().contains("cluster"), "{error}");
}
