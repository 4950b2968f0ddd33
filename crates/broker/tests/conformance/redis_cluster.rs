//! The Redis Cluster adapter, on a real cluster of three masters and three replicas.
//!
//! Starting a cluster takes seconds, so the cases share one, one after another.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_broker::{
    Broker, BrokerError, BrokerEvent, BrokerOptions, Events, HistoryOptions, InterestId, Scope, open,
};
use fanfare_protocol::{Channel, RedisChannels, Tenant};
use fanfare_testkit::{RedisCluster, RedisServer, redis::Reply, wait_for};
use fred::{
    clients::Client,
    interfaces::{ClientLike as _, PubsubInterface as _},
    prelude::{Builder, Config, ReconnectPolicy, ServerConfig},
    types::Value,
};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    fixture::{Fixture, KeepsHistory, Outside, SOON, Server},
    node::{Node, number, numbered},
};

/// A failover: 2 s until a master counts as dead, and a vote.
pub(crate) const FAILOVER: Duration = Duration::from_secs(40);

/// Until a cluster is whole again.
const WHOLE: Duration = Duration::from_secs(30);

/// All cases' cluster. Its servers end with the process.
static SHARED: Mutex<Option<RedisCluster>> = Mutex::const_new(None);

pub(crate) struct ClusterFixture(MutexGuard<'static, Option<RedisCluster>>);

impl ClusterFixture {
    pub(crate) fn cluster(&self) -> &RedisCluster {
        self.0.as_ref().unwrap()
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.cluster().servers().iter().filter(|server| server.process().is_running())
    }

    /// Which server has a channel.
    async fn owner(&self, tenant: &str, channel: &str) -> usize {
        let cluster = self.cluster();
        cluster.owner(cluster.slot(&name(tenant, channel)).await).await
    }

    /// A master that is not this one.
    pub(crate) async fn another_master(&self, not: usize) -> usize {
        for slot in (0..16_384).step_by(1_000) {
            let owner = self.cluster().owner(slot).await;
            if owner != not {
                return owner;
            }
        }
        panic!("there is one master only")
    }

    /// A channel of each master, always the same where nothing has moved.
    async fn spread(&self) -> Vec<String> {
        let mut found = HashMap::new();
        for n in 0.. {
            let channel = format!("spread:{n}");
            found.entry(self.owner("acme", &channel).await).or_insert(channel);
            if found.len() == 3 {
                break;
            }
        }
        found.into_values().collect()
    }

    /// A channel of a server that does not run any more, and one of another.
    async fn one_of(&self, dead: usize) -> (String, String) {
        let servers = self.cluster().servers();
        let of = servers[dead].address().to_string();
        let nodes = self.running().next().unwrap().command(&["CLUSTER", "NODES"]).await;
        let Reply::Bulk(nodes) = nodes else { panic!("{nodes:?}") };
        let nodes = String::from_utf8_lossy(&nodes).into_owned();
        let line = nodes.lines().find(|line| line.contains(&of)).unwrap();
        let owns = |slot: u16| {
            line.split(' ').skip(8).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse().is_ok_and(|first: u16| first <= slot) && last.parse().is_ok_and(|last: u16| slot <= last)
            })
        };
        let (mut of_dead, mut of_living) = (None, None);
        for n in 0.. {
            let channel = format!("more:{n}");
            let place =
                if owns(self.cluster().slot(&name("acme", &channel)).await) { &mut of_dead } else { &mut of_living };
            place.get_or_insert(channel);
            if of_dead.is_some() && of_living.is_some() {
                break;
            }
        }
        (of_dead.unwrap(), of_living.unwrap())
    }

    /// Which server follows a master.
    async fn replica_of(&self, master: usize) -> usize {
        let servers = self.cluster().servers();
        let Reply::Bulk(id) = servers[master].command(&["CLUSTER", "MYID"]).await else { panic!() };
        let Reply::Array(lines) =
            servers[master].command(&["CLUSTER", "REPLICAS", &String::from_utf8_lossy(&id)]).await
        else {
            panic!()
        };
        let Some(Reply::Bulk(line)) = lines.first() else { panic!("{lines:?}") };
        let line = String::from_utf8_lossy(line).into_owned();
        servers.iter().position(|server| line.contains(&format!("{}@", server.address()))).unwrap()
    }
}

fn name(tenant: &str, channel: &str) -> String {
    RedisChannels::new("rt").unwrap().publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap())
}

/// Starts what does not run, and waits until all is well; where that does not happen, says what the nodes say.
pub(crate) async fn whole(cluster: &RedisCluster) {
    if tokio::time::timeout(WHOLE, cluster.restart()).await.is_err() {
        for server in cluster.servers() {
            println!("{}: {:?}", server.address(), server.command(&["CLUSTER", "NODES"]).await);
            println!("{}", server.process().log());
        }
        panic!("the cluster is not whole after {WHOLE:?}");
    }
}

impl Fixture for ClusterFixture {
    const NAME: &'static str = "redis_cluster";
    const PATTERNS: bool = false;

    async fn start() -> Self {
        let mut shared = SHARED.lock().await;
        // Put back when it is whole: what a case has broken is no other's trouble.
        let cluster = match shared.take() {
            Some(cluster) => {
                whole(&cluster).await;
                cluster
            }
            None => RedisCluster::start().await,
        };
        *shared = Some(cluster);
        let fixture = Self(shared);
        for server in fixture.cluster().servers() {
            // A subscriber in a debug build reads slower than Redis writes; the suite is about our limits, not about its.
            let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"];
            assert_eq!(server.command(&limit).await, Reply::Status("OK".to_owned()));
            // On a replica it is refused; its master's is its own.
            server.command(&["FLUSHALL"]).await;
        }
        // A case before this one may have failed.
        let deadline = Instant::now() + SOON;
        while fixture.connections().await > 0 {
            assert!(Instant::now() < deadline, "an earlier case's connections are still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fixture
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions::new(self.cluster().url())).await.unwrap()
    }

    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(Plain::connect(self.cluster()).await)
    }

    async fn subscriptions(&self) -> usize {
        let mut count = 0;
        for server in self.running() {
            let reply = server.command(&["PUBSUB", "SHARDCHANNELS"]).await;
            let Reply::Array(channels) = reply else { panic!("{reply:?}") };
            count += channels.len();
        }
        count
    }

    async fn connections(&self) -> usize {
        let mut count = 0;
        for server in self.running() {
            let reply = server.command(&["CLIENT", "LIST"]).await;
            let Reply::Bulk(clients) = reply else { panic!("{reply:?}") };
            count += String::from_utf8_lossy(&clients).matches("name=fanfare").count();
        }
        count
    }
}

impl Server for ClusterFixture {
    async fn stop(&self) {
        // All at once: else replicas would take their masters' places.
        for server in self.cluster().servers() {
            server.kill();
        }
    }

    fn pause(&self) {
        for server in self.cluster().servers() {
            server.pause();
        }
    }

    fn resume(&self) {
        for server in self.cluster().servers() {
            server.resume();
        }
    }

    async fn restart(&self) {
        self.stop().await;
        whole(self.cluster()).await;
    }
}

/// A client library of others.
pub(crate) struct Plain {
    pub(crate) client: Client,
    names: RedisChannels,
    marks: Vec<String>,
}

impl Plain {
    pub(crate) async fn connect(cluster: &RedisCluster) -> Self {
        let hosts = cluster.servers().iter().filter(|server| server.process().is_running());
        let hosts = hosts.map(|server| (server.address().ip().to_string(), server.address().port()).into()).collect();
        let server = ServerConfig::Clustered { hosts, policy: Default::default() };
        let client = Builder::from_config(Config { server, ..Config::default() })
            .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(2))
            .with_connection_config(|connection| connection.max_command_attempts = 1)
            .set_policy(ReconnectPolicy::new_constant(0, 10))
            .build()
            .unwrap();
        client.init().await.unwrap();
        let mut marks = HashMap::new();
        for n in 0.. {
            let mark = format!("suite:mark{n}");
            let slot = cluster.slot(&name("acme", &mark)).await;
            marks.entry(cluster.owner(slot).await).or_insert(mark);
            if marks.len() == 3 {
                break;
            }
        }
        Self { client, names: RedisChannels::new("rt").unwrap(), marks: marks.into_values().collect() }
    }
}

#[async_trait::async_trait]
impl Outside for Plain {
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool {
        let name = self.names.publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap());
        self.client.spublish::<Value, _, _>(name, Value::Bytes(body)).await.is_ok()
    }

    /// In one pipeline: one answer after the other would take long.
    async fn publish_all(&self, tenant: &str, channel: &str, bodies: Vec<Bytes>) -> bool {
        let name = self.names.publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap());
        let pipeline = self.client.pipeline();
        for body in bodies {
            pipeline.spublish::<(), _, _>(name.clone(), Value::Bytes(body)).await.unwrap();
        }
        pipeline.all::<Vec<i64>>().await.is_ok()
    }

    /// Every publication was answered already.
    async fn flush(&self) {}

    fn marks(&self) -> Vec<String> {
        self.marks.clone()
    }
}

impl KeepsHistory for ClusterFixture {
    async fn start_with_history() -> Self {
        Self::start().await
    }

    async fn connect_with(&self, history: HistoryOptions) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions { history, ..BrokerOptions::new(self.cluster().url()) }).await.unwrap()
    }
}

crate::every_channel!(ClusterFixture);
crate::every_server!(ClusterFixture);
crate::every_history!(ClusterFixture);

/// Connects, and delivers one publication there and back on each master.
async fn works(options: &BrokerOptions, channels: &[String]) {
    let mut node = Node::over(open(options).await.unwrap());
    for channel in channels {
        node.add("acme", channel).await;
        node.publish(channel, "x").await.unwrap();
        assert_eq!(node.publication().await.body.bytes, "x");
    }
    node.close().await;
}

#[tokio::test]
async fn patterns_are_refused_and_leave_nothing_behind() {
    let fixture = ClusterFixture::start().await;
    let mut node = Node::connect(&fixture).await;
    let interests = [node.interest("acme", "a:b"), node.interest("acme", "a:*")];
    let refused = node.broker.add_interests(&interests).await;
    assert!(matches!(&refused, Err(BrokerError::NoPatterns { topic, .. }) if topic == "a:*"), "{refused:?}");
    assert_eq!(fixture.subscriptions().await, 0);
    node.close().await;
}

/// The rights that the adapter's documentation names are enough, and one that is missing is told.
#[tokio::test]
async fn a_user_with_no_more_than_is_needed_and_one_node_that_is_known() {
    let fixture = ClusterFixture::start().await;
    let servers = fixture.cluster().servers();
    for server in servers {
        let acl = "ACL SETUSER node reset on >p@ss,w/rd &rt:pub:acme:* -@all +hello +ping +client|info +cluster|nodes \
                   +spublish +ssubscribe +sunsubscribe";
        let done = server.command(&acl.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(done, Reply::Status("OK".to_owned()));
    }
    let channels = fixture.spread().await;
    let url = |password: &str, server: &RedisServer| format!("redis-cluster://node:{password}@{}", server.address());
    for server in [&servers[0], &servers[5]] {
        works(&BrokerOptions::new(url("p%40ss%2Cw%2Frd", server)), &channels).await;
    }
    // One that is gone is passed over.
    let gone = RedisServer::start().await;
    gone.stop().await;
    let both = format!("{},{}", url("p%40ss%2Cw%2Frd", &gone), servers[1].address());
    let mut node = Node::over(open(&BrokerOptions::new(both)).await.unwrap());
    let kept = node.add("acme", &channels[0]).await;
    let refused = [node.interest("acme", &channels[1]), node.interest("other", &channels[2])];
    let added = node.broker.add_interests(&refused).await;
    assert!(matches!(added, Err(BrokerError::Refused { .. })), "{added:?}");
    wait_for("one subscription", SOON, async || (fixture.subscriptions().await == 1).then_some(())).await;
    node.publish(&channels[0], numbered(1)).await.unwrap();
    assert_eq!(node.publication().await.interest, kept);
    node.close().await;

    let error = open(&BrokerOptions::new(url("hidden", &servers[2]))).await.err().unwrap();
    assert!(matches!(error, BrokerError::Refused { .. }) && !format!("{error:?}").contains("hidden"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_in_no_cluster_and_one_that_is_not_there() {
    let server = RedisServer::start().await;
    let options = BrokerOptions {
        connect_timeout: Duration::from_millis(700),
        ..BrokerOptions::new(format!("redis-cluster://{}", server.address()))
    };
    let error = open(&options).await.err().unwrap();
    assert!(
        matches!(&error, BrokerError::Refused { reason, .. } if reason.contains("cluster support disabled")),
        "{error:?}"
    );
    server.stop().await;
    let error = open(&options).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("redis-cluster://127."), "{error}");

    // Over TLS it is the server's own word only for who trusts its authority.
    let server = RedisServer::builder().tls().start().await;
    let secure =
        BrokerOptions { url: format!("rediss-cluster://{}", server.address()), connect_timeout: SOON, ..options };
    let trusting = BrokerOptions { tls_ca_file: server.authority_file().map(Into::into), ..secure.clone() };
    let error = open(&trusting).await.err().unwrap();
    assert!(error.to_string().contains("cluster support disabled"), "{error}");
    let distrusting = BrokerOptions { connect_timeout: Duration::from_millis(500), ..secure };
    let error = open(&distrusting).await.err().unwrap();
    assert!(
        matches!(error, BrokerError::Unreachable { .. }) && error.to_string().contains("rediss-cluster://"),
        "{error:?}"
    );
}

/// As Redis does to a subscriber that reads too slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_one_master_ends_is_back_at_once() {
    let fixture = ClusterFixture::start().await;
    let mut load = Load::start(&fixture).await;
    let began = Instant::now();
    for round in 0..3 {
        let owner = fixture.owner("acme", &load.channels[round]).await;
        let killed = fixture.cluster().servers()[owner].command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert!(matches!(killed, Reply::Integer(1..)), "{killed:?}");
        load.until_back(round).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // The other masters' channels were not touched.
    load.finish(&[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load() {
    let fixture = ClusterFixture::start().await;
    let cluster = fixture.cluster();
    let mut load = Load::start(&fixture).await;
    let slot = cluster.slot(&name("acme", &load.channels[1])).await;
    let home = cluster.owner(slot).await;
    let away = fixture.owner("acme", &load.channels[2]).await;
    for to in [away, home, away, home] {
        let began = Instant::now();
        cluster.migrate_slot(slot, to).await;
        load.until_back(1).await;
        println!("resumed {:?} after the slot began to move", began.elapsed());
    }
    cluster.wait_until_whole().await;
    load.finish(&[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_under_load() {
    let fixture = ClusterFixture::start().await;
    let mut load = Load::start(&fixture).await;
    let old = fixture.owner("acme", &load.channels[0]).await;
    let began = Instant::now();
    fixture.cluster().servers()[old].kill();
    load.until_cut(0).await;
    assert!(began.elapsed() < Duration::from_secs(2), "interrupted only after {:?}", began.elapsed());
    // Nothing waits for a master that is not there; the others go on.
    let (dead, living) = fixture.one_of(old).await;
    let at_once = Instant::now();
    let refused = load.node.interest("acme", &dead);
    let added = load.node.broker.add_interests(std::slice::from_ref(&refused)).await;
    assert!(matches!(added, Err(BrokerError::Unavailable { .. })), "{added:?}");
    let added = load.node.add("acme", &living).await;
    load.node.broker.remove_interests(&[added]).await;
    assert!(at_once.elapsed() < Duration::from_secs(1), "{:?}", at_once.elapsed());
    load.until_back(0).await;
    println!("resumed {:?} after the kill", began.elapsed());
    load.node.broker.add_interests(std::slice::from_ref(&refused)).await.unwrap();
    let (node, dead) = (&load.node, &dead);
    wait_for("publishing to work again", SOON, async || node.publish(dead, numbered(1)).await.ok()).await;
    load.expect(refused.id, 1).await;
    whole(fixture.cluster()).await;
    load.finish(&[0]).await;
}

/// It is there but does not answer, and its replica takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_frozen_under_load() {
    let fixture = ClusterFixture::start().await;
    let mut load = Load::start(&fixture).await;
    let old = fixture.owner("acme", &load.channels[0]).await;
    let began = Instant::now();
    fixture.cluster().servers()[old].pause();
    load.until_back(0).await;
    println!("resumed {:?} after the freeze", began.elapsed());
    fixture.cluster().servers()[old].resume();
    fixture.cluster().wait_until_whole().await;
    load.finish(&[0]).await;
}

/// Nothing is wrong with the node's connections but that they lead to a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_replaced_while_it_is_well() {
    let fixture = ClusterFixture::start().await;
    let cluster = fixture.cluster();
    let mut load = Load::start(&fixture).await;
    let slot = cluster.slot(&name("acme", &load.channels[0])).await;
    let old = cluster.owner(slot).await;
    let replica = fixture.replica_of(old).await;
    let began = Instant::now();
    let done = cluster.servers()[replica].command(&["CLUSTER", "FAILOVER"]).await;
    assert_eq!(done, Reply::Status("OK".to_owned()));
    load.until_back(0).await;
    println!("resumed {:?} after the order", began.elapsed());
    cluster.wait_for_failover(slot, old).await;
    cluster.wait_until_whole().await;
    load.finish(&[0]).await;
}

/// What a publisher ends with.
const LAST: u64 = 1_000_000_000;

/// A node, and publishers that count on three channels, one of each master.
struct Load {
    node: Node,
    channels: Vec<String>,
    ids: Vec<InterestId>,
    history: HashMap<InterestId, Vec<Heard>>,
    /// How often each channel has resumed.
    rounds: [usize; 3],
    stop: Arc<AtomicBool>,
    publishing: Vec<tokio::task::JoinHandle<Vec<u64>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Heard {
    Number(u64),
    Cut,
    Back,
}

impl Load {
    async fn start(fixture: &ClusterFixture) -> Self {
        let channels = fixture.spread().await;
        let mut node = Node::connect(fixture).await;
        let ids = node.add_all("acme", &channels.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut publishing = Vec::new();
        for channel in &channels {
            let (stop, channel) = (Arc::clone(&stop), channel.clone());
            let publisher = Node::connect(fixture).await;
            publishing.push(tokio::spawn(async move {
                let mut accepted = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if publisher.publish(&channel, numbered(n)).await.is_ok() {
                        accepted.push(n);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // It is waited for, with a deadline.
                while publisher.publish(&channel, numbered(LAST)).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                publisher.close().await;
                accepted
            }));
        }
        let history = ids.iter().map(|id| (*id, Vec::new())).collect();
        let mut load = Self { node, channels, ids, history, rounds: [0; 3], stop, publishing };
        for index in 0..load.ids.len() {
            let id = load.ids[index];
            load.until(id, |heard| heard.len() >= 20).await;
        }
        load
    }

    async fn until(&mut self, id: InterestId, reached: impl Fn(&[Heard]) -> bool) {
        let waiting = async {
            while !self.history.get(&id).is_some_and(|heard| reached(heard)) {
                let event = self.node.events.recv().await.unwrap();
                self.note(event);
            }
        };
        tokio::time::timeout(FAILOVER, waiting).await.expect("it comes in time");
    }

    fn note(&mut self, event: BrokerEvent) {
        let (scope, heard) = match event {
            BrokerEvent::Publication(publication) => {
                (Scope::Interest(publication.interest), Heard::Number(number(&publication.body.bytes)))
            }
            BrokerEvent::Interrupted(interruption) => (interruption.scope, Heard::Cut),
            BrokerEvent::Resumed(scope) => (scope, Heard::Back),
        };
        match scope {
            Scope::Interest(id) => self.history.entry(id).or_default().push(heard),
            Scope::All => self.history.values_mut().for_each(|all| all.push(heard)),
        }
    }

    /// Until one of the channels is interrupted.
    async fn until_cut(&mut self, index: usize) {
        let (id, before) = (self.ids[index], self.history[&self.ids[index]].len());
        self.until(id, |heard| heard[before..].contains(&Heard::Cut)).await;
    }

    /// Until one of the channels was interrupted once more, has resumed, and brings publications again.
    async fn until_back(&mut self, index: usize) {
        self.rounds[index] += 1;
        let (id, rounds) = (self.ids[index], self.rounds[index]);
        let is_back = |heard: &[Heard]| {
            let backs = heard.iter().filter(|heard| **heard == Heard::Back).count();
            backs >= rounds && matches!(heard.last(), Some(Heard::Number(_)))
        };
        self.until(id, is_back).await;
    }

    async fn expect(&mut self, id: InterestId, number: u64) {
        self.until(id, |heard| heard.contains(&Heard::Number(number))).await;
    }

    /// All that was accepted has come, in order and once, but where an interruption was told; only channels that are named were
    /// interrupted.
    async fn finish(mut self, interrupted: &[usize]) {
        self.stop.store(true, Ordering::Relaxed);
        let mut accepted = Vec::new();
        for task in std::mem::take(&mut self.publishing) {
            accepted.push(task.await.unwrap());
        }
        for index in 0..self.channels.len() {
            self.expect(self.ids[index], LAST).await;
        }
        for (index, accepted) in accepted.iter().enumerate() {
            let heard = &self.history[&self.ids[index]];
            assert_eq!(heard.contains(&Heard::Cut), interrupted.contains(&index), "channel {index}: {heard:?}");
            let (mut cut, mut told, mut last, mut missed) = (false, false, None, 0);
            for heard in heard {
                match heard {
                    Heard::Cut => (cut, told) = (true, true),
                    Heard::Back => cut = false,
                    // What a frozen master took and did not answer may come when it goes on as a replica.
                    Heard::Number(number) if *number < LAST && !accepted.contains(number) => {}
                    Heard::Number(number) => {
                        assert!(last < Some(*number), "{number} came after {last:?} on channel {index}");
                        let hole = accepted.iter().filter(|n| last < Some(**n) && *n < number).count();
                        assert!(
                            hole == 0 || told,
                            "{hole} before {number} are missing on channel {index}, and nobody said so"
                        );
                        missed += hole;
                        (last, told) = (Some(*number), cut);
                    }
                }
            }
            println!("channel {index}: {} accepted, {missed} of them missed and told", accepted.len());
        }
        self.node.close().await;
    }
}
