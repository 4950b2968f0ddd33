//! A Redis Cluster.

use std::time::Duration;

use super::{RedisServer, Reply, eventually, text};

/// Slots of every cluster.
pub const SLOTS: u16 = 16_384;

const MASTERS: usize = 3;

/// How long a node may be silent before the others take it for dead, in milliseconds. A busy machine is not death.
const NODE_TIMEOUT: u32 = 2_000;

/// How long the cluster may take until all of it knows of all, or a replica has taken its master's place.
const CLUSTER_DEADLINE: Duration = Duration::from_secs(40);

/// Three masters that share the slots, and a replica of each, on loopback addresses of their own.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the cluster and waits until every node says that it is well and every replica has its master's data.
    ///
    /// # Panics
    ///
    /// When `redis-server` is not installed, or the cluster does not come together.
    pub async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..2 * MASTERS {
            let builder = RedisServer::builder().announces().cluster().line("protected-mode no");
            let builder = builder.line(&format!("cluster-node-timeout {NODE_TIMEOUT}"));
            servers.push(builder.line("repl-diskless-sync-delay 0").start().await);
        }
        let cluster = Self { servers };
        cluster.join().await;
        cluster
    }

    async fn join(&self) {
        let share = usize::from(SLOTS).div_ceil(MASTERS);
        for (index, server) in self.servers.iter().enumerate() {
            // Different from the beginning, so that nobody has to settle it by election.
            done(server, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            if index < MASTERS {
                let (first, end) = (index * share, usize::from(SLOTS).min((index + 1) * share));
                done(server, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]).await;
            }
            let (ip, port) = (server.address().ip().to_string(), server.address().port().to_string());
            let bus = server.bus_port.expect("a server of a cluster has a bus").to_string();
            done(&self.servers[0], &["CLUSTER", "MEET", &ip, &port, &bus]).await;
        }
        eventually(CLUSTER_DEADLINE, "nodes that know each other", || self.know_each_other()).await;
        for (master, replica) in self.servers[..MASTERS].iter().zip(&self.servers[MASTERS..]) {
            let id = answer(master, &["CLUSTER", "MYID"]).await;
            done(replica, &["CLUSTER", "REPLICATE", &id]).await;
        }
        self.wait_until_whole().await;
    }

    /// Where clients connect: `redis-cluster://` with all nodes.
    pub fn url(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(|server| server.address().to_string()).collect();
        format!("redis-cluster://{}", servers.join(","))
    }

    /// The nodes; the first three were masters at the beginning, the other three their replicas, in this order.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The slot of a key or channel.
    ///
    /// # Panics
    ///
    /// When no node runs.
    pub async fn slot(&self, key: &str) -> u16 {
        let reply = self.running().next().expect("a node runs").command(&["CLUSTER", "KEYSLOT", key]).await;
        let Reply::Integer(slot) = reply else { panic!("CLUSTER KEYSLOT {key:?}: {reply:?}") };
        u16::try_from(slot).expect("a slot is less than 16384")
    }

    /// Which of [`servers`](Self::servers) owns a slot; waits until all that run agree, and it runs.
    ///
    /// # Panics
    ///
    /// When that does not happen in time.
    pub async fn owner(&self, slot: u16) -> usize {
        eventually(CLUSTER_DEADLINE, "nodes that agree about the slot's owner", || self.agreed_owner(slot)).await
    }

    /// Waits until a slot has another owner than this one of [`servers`](Self::servers), and all nodes that run say that the
    /// cluster is well.
    ///
    /// # Panics
    ///
    /// When that does not happen in time.
    pub async fn wait_for_failover(&self, slot: u16, old: usize) {
        eventually(CLUSTER_DEADLINE, "a replica in its master's place", || self.failed_over(slot, old)).await;
    }

    /// Moves a slot with its keys to another master, as `redis-cli --cluster reshard` does.
    ///
    /// # Panics
    ///
    /// When a node refuses.
    pub async fn migrate_slot(&self, slot: u16, to: usize) {
        let from = self.owner(slot).await;
        let (source, target) = (&self.servers[from], &self.servers[to]);
        let (source_id, target_id) =
            (answer(source, &["CLUSTER", "MYID"]).await, answer(target, &["CLUSTER", "MYID"]).await);
        let number = slot.to_string();
        done(target, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &source_id]).await;
        done(source, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &target_id]).await;
        let (ip, port) = (target.address().ip().to_string(), target.address().port().to_string());
        loop {
            let Reply::Array(keys) = source.command(&["CLUSTER", "GETKEYSINSLOT", &number, "100"]).await else {
                panic!("CLUSTER GETKEYSINSLOT is refused")
            };
            let Some(Reply::Bulk(key)) = keys.into_iter().next() else { break };
            done(source, &["MIGRATE", &ip, &port, &String::from_utf8_lossy(&key), "0", "5000"]).await;
        }
        for server in [target, source] {
            done(server, &["CLUSTER", "SETSLOT", &number, "NODE", &target_id]).await;
        }
    }

    /// Starts all nodes that do not run, and waits until the cluster is whole.
    ///
    /// # Panics
    ///
    /// When it does not come together.
    pub async fn restart(&self) {
        for server in &self.servers {
            if !server.process().is_running() {
                server.restart().await;
            }
        }
        self.wait_until_whole().await;
    }

    /// Waits until every node says that the cluster is well, and every replica follows its master.
    ///
    /// # Panics
    ///
    /// When that does not happen in time.
    pub async fn wait_until_whole(&self) {
        eventually(CLUSTER_DEADLINE, "a whole cluster", || self.whole()).await;
    }

    async fn know_each_other(&self) -> Option<()> {
        for server in &self.servers {
            let nodes = answer(server, &["CLUSTER", "NODES"]).await;
            if nodes.lines().count() != self.servers.len() || nodes.contains("handshake") {
                return None;
            }
        }
        Some(())
    }

    async fn agreed_owner(&self, slot: u16) -> Option<usize> {
        let mut owner = None;
        for server in self.running() {
            let found = owner_in(&answer(server, &["CLUSTER", "NODES"]).await, slot)?;
            if *owner.get_or_insert_with(|| found.clone()) != found {
                return None;
            }
        }
        let index = self.servers.iter().position(|server| Some(server.address().to_string()) == owner)?;
        self.servers[index].process().is_running().then_some(index)
    }

    async fn failed_over(&self, slot: u16, old: usize) -> Option<()> {
        (self.agreed_owner(slot).await? != old && self.is_well().await).then_some(())
    }

    async fn whole(&self) -> Option<()> {
        let mut masters = 0;
        for server in &self.servers {
            let info = answer(server, &["INFO", "replication"]).await;
            let is_master = info.contains("role:master");
            masters += usize::from(is_master);
            let follows = is_master || info.contains("master_link_status:up");
            if !follows || answer(server, &["CLUSTER", "NODES"]).await.contains("fail") {
                return None;
            }
        }
        (masters == MASTERS && self.is_well().await).then_some(())
    }

    async fn is_well(&self) -> bool {
        for server in self.running() {
            if !answer(server, &["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
                return false;
            }
        }
        true
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().filter(|server| server.process().is_running())
    }
}

/// The owner's address in the answer to `CLUSTER NODES`.
fn owner_in(nodes: &str, slot: u16) -> Option<String> {
    let owns = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().is_ok_and(|first: u16| first <= slot) && last.parse().is_ok_and(|last: u16| slot <= last)
    };
    nodes.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let address = fields.get(1)?.split('@').next()?;
        fields.get(8..)?.iter().any(|range| owns(range)).then(|| address.to_owned())
    })
}

async fn answer(server: &RedisServer, words: &[&str]) -> String {
    text(&server.command(words).await)
}

async fn done(server: &RedisServer, words: &[&str]) {
    let reply = server.command(words).await;
    assert_eq!(reply, Reply::Status("OK".to_owned()), "{words:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_moves_and_a_dead_master_is_replaced() {
        let cluster = RedisCluster::start().await;
        let slot = cluster.slot("{a}").await;
        assert_eq!(slot, cluster.slot("a").await);
        let from = cluster.owner(slot).await;
        done(&cluster.servers()[from], &["SET", "a", "b"]).await;
        let to = (from + 1) % MASTERS;
        cluster.migrate_slot(slot, to).await;
        assert_eq!(cluster.owner(slot).await, to);
        assert_eq!(answer(&cluster.servers()[to], &["GET", "a"]).await, "b");
        let moved = format!("MOVED {slot} {}", cluster.servers()[to].address());
        assert_eq!(answer(&cluster.servers()[from], &["GET", "a"]).await, moved);

        cluster.wait_until_whole().await;
        assert_eq!(cluster.servers()[to].command(&["WAIT", "1", "5000"]).await, Reply::Integer(1));
        cluster.servers()[to].kill();
        cluster.wait_for_failover(slot, to).await;
        let new = cluster.owner(slot).await;
        assert!(new >= MASTERS, "{new} was a replica");
        assert_eq!(answer(&cluster.servers()[new], &["GET", "a"]).await, "b");
        cluster.restart().await;
        assert_eq!(cluster.owner(slot).await, new);
    }
}
