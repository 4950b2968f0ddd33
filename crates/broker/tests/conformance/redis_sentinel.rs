//! The Redis adapter, on a real master with replicas and sentinels.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_broker::{Broker, BrokerError, BrokerEvent, BrokerOptions, Events, HistoryOptions, Publication, open};
use fanfare_testkit::{
    RedisSentinel, RedisServer,
    redis::{Reply, SERVICE},
    wait_for,
};
use fred::prelude::{Config, ServerConfig};

use crate::{
    fixture::{Fixture, KeepsHistory, Outside, SOON, Server},
    node::{Node, Wanted, number, numbered},
    redis::{Plain, works},
};

/// A failover: 2 s until the master counts as dead, a vote, and where it was split another one after 6 s.
const FAILOVER: Duration = Duration::from_secs(40);

pub(crate) struct SentinelFixture(RedisSentinel);

impl SentinelFixture {
    async fn replies(&self, words: &[&str]) -> Vec<Reply> {
        let mut replies = Vec::new();
        for server in self.0.servers().iter().filter(|server| server.process().is_running()) {
            replies.push(server.command(words).await);
        }
        replies
    }
}

impl Fixture for SentinelFixture {
    const NAME: &'static str = "redis_sentinel";

    async fn start() -> Self {
        Self(RedisSentinel::start_with_line("client-output-buffer-limit pubsub 0 0 0").await)
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions::new(self.0.url())).await.unwrap()
    }

    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(outside(&self.0).await)
    }

    async fn subscriptions(&self) -> usize {
        let mut count = 0;
        for reply in self.replies(&["PUBSUB", "CHANNELS", "rt:*"]).await {
            let Reply::Array(channels) = reply else { panic!("{reply:?}") };
            count += channels.len();
        }
        for reply in self.replies(&["PUBSUB", "NUMPAT"]).await {
            let Reply::Integer(patterns) = reply else { panic!("{reply:?}") };
            count += patterns as usize;
        }
        count
    }

    async fn connections(&self) -> usize {
        let mut count = 0;
        for reply in self.replies(&["CLIENT", "LIST"]).await {
            let Reply::Bulk(clients) = reply else { panic!("{reply:?}") };
            count += String::from_utf8_lossy(&clients).matches("name=fanfare").count();
        }
        count
    }
}

impl Server for SentinelFixture {
    async fn stop(&self) {
        self.0.stop().await;
    }

    fn pause(&self) {
        for server in self.0.servers() {
            server.pause();
        }
    }

    fn resume(&self) {
        for server in self.0.servers() {
            server.resume();
        }
    }

    async fn restart(&self) {
        if self.0.servers().iter().any(|server| server.process().is_running()) {
            self.0.stop().await;
        }
        self.0.restart().await;
    }
}

/// A plain client that follows the master too.
async fn outside(group: &RedisSentinel) -> Plain {
    let hosts = group.sentinels().map(|address| (address.ip().to_string(), address.port()).into()).collect();
    let server = ServerConfig::Sentinel { hosts, service_name: SERVICE.to_owned(), username: None, password: None };
    Plain::over(Config { server, ..Config::default() }).await
}

impl KeepsHistory for SentinelFixture {
    async fn start_with_history() -> Self {
        Self::start().await
    }

    async fn connect_with(&self, history: HistoryOptions) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions { history, ..BrokerOptions::new(self.0.url()) }).await.unwrap()
    }
}

crate::every_broker!(SentinelFixture);
crate::every_server!(SentinelFixture);
crate::every_history!(SentinelFixture);

#[tokio::test]
async fn passwords_of_servers_and_sentinels() {
    let group = RedisSentinel::start_with_passwords("p@ss,w/rd", "s?cret").await;
    works(&BrokerOptions { connect_timeout: SOON, ..BrokerOptions::new(group.url()) }).await;
    let wrong = group.url().replace("p%40ss", "hidden");
    let error = open(&BrokerOptions::new(wrong)).await.err().unwrap();
    assert!(matches!(error, BrokerError::Refused { .. }) && !format!("{error:?}").contains("hidden"), "{error:?}");
    let stranger = group.url().replace("s%3Fcret", "hidden");
    let options = BrokerOptions { connect_timeout: Duration::from_secs(1), ..BrokerOptions::new(stranger) };
    let error = open(&options).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("redis-sentinel://127.") && !text.contains("hidden"), "{text}");
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_told() {
    let group = RedisSentinel::start().await;
    let url = group.url().replace(&format!("/{SERVICE}"), "/another");
    let options = BrokerOptions { connect_timeout: Duration::from_secs(1), ..BrokerOptions::new(url) };
    let error = open(&options).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }) && error.to_string().contains("/another"), "{error:?}");
}

/// The rights that the adapter's documentation names are enough.
#[tokio::test]
async fn an_acl_with_no_more_than_is_needed() {
    let acl = "user node on >secret resetchannels &rt:pub:acme:* &rt:pub:acme:a:* -@all +hello +ping +publish \
               +subscribe +unsubscribe +psubscribe +punsubscribe +client|info +client|setname +client|id +role";
    let group = RedisSentinel::start_with_line(acl).await;
    let url = group.url().replace("redis-sentinel://", "redis-sentinel://node:secret@");
    works(&BrokerOptions { connect_timeout: SOON, ..BrokerOptions::new(url) }).await;
}

/// One sentinel that does not answer, or is gone, keeps nobody from starting.
#[tokio::test]
async fn the_sentinels_that_are_left_serve() {
    let group = RedisSentinel::start().await;
    group.sentinel_processes().next().unwrap().kill();
    for _ in 0..3 {
        works(&BrokerOptions::new(group.url())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_under_load() {
    Box::pin(failover_under_load(Kill::Killed)).await;
}

/// A master that comes back, and is made a replica of the one that took its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_frozen_under_load() {
    Box::pin(failover_under_load(Kill::Frozen)).await;
}

/// Nothing is wrong with the node's connections but that they lead to the wrong server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_replaced_while_it_is_well() {
    Box::pin(failover_under_load(Kill::Replaced)).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Kill {
    Killed,
    Frozen,
    Replaced,
}

const CHANNELS: u64 = 10;

/// What came, by interest: numbers only grow, so that nothing comes twice or in the wrong order.
#[derive(Default)]
struct Came(HashMap<(u64, Option<String>), u64>);

impl Came {
    fn check(&mut self, publication: &Publication) -> u64 {
        let channel = publication.channel.as_ref().map(|channel| channel.as_str().to_owned());
        let number = number(&publication.body.bytes);
        if let Some(last) = self.0.insert((publication.interest.0, channel), number) {
            assert!(last < number, "{number} came after {last}");
        }
        number
    }
}

async fn failover_under_load(kill: Kill) {
    let group = RedisSentinel::start().await;
    let mut node = Node::over(open(&BrokerOptions::new(group.url())).await.unwrap());
    let topics: Vec<String> = (0..CHANNELS).map(|channel| format!("load:{channel}")).collect();
    node.add_all("acme", &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    node.add("acme", "load:*").await;

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (stop, outside) = (Arc::clone(&stop), outside(&group).await);
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                for channel in 0..CHANNELS {
                    outside.publish("acme", &format!("load:{channel}"), numbered(number)).await;
                }
                number += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut came = Came::default();
    for _ in 0..200 {
        came.check(&node.publication().await);
    }
    let began = Instant::now();
    let old = group.agreed_master().await;
    match kill {
        Kill::Killed => group.servers()[old].kill(),
        Kill::Frozen => group.servers()[old].pause(),
        Kill::Replaced => group.fail_over().await,
    }
    until(&mut node, Wanted::Interrupted, &mut came).await;
    let told = began.elapsed();
    match kill {
        // By the connection's end, not by the sentinels' patience.
        Kill::Killed => assert!(told < Duration::from_secs(2), "interrupted only after {told:?}"),
        Kill::Frozen => {}
        // By the sentinels' word: the old master has not been made a replica yet, which would end its clients.
        Kill::Replaced => {
            let role = group.servers()[old].command(&["ROLE"]).await;
            let master = Reply::Bulk(b"master".to_vec());
            assert!(matches!(&role, Reply::Array(fields) if fields[0] == master), "{role:?} after {told:?}");
        }
    }
    until(&mut node, Wanted::Resumed, &mut came).await;
    println!("interrupted after {told:?}, resumed after {:?}", began.elapsed());
    let new = group.agreed_master().await;
    assert_ne!(new, old);
    assert!(is_subscribed(&group.servers()[new]).await);
    if kill == Kill::Frozen {
        group.servers()[old].resume();
    }

    // From now on all that is published comes, while the load goes on: from outside, and from the node itself.
    const AFTER: u64 = 1_000_000;
    const MARKS: u64 = 200;
    let plain = outside(&group).await;
    wait_for("publishing to work again", SOON, async || node.publish("load:node", numbered(AFTER)).await.ok()).await;
    for number in AFTER + 1..AFTER + MARKS {
        assert!(plain.publish("acme", "load:marks", numbered(number)).await);
        node.publish("load:node", numbered(number)).await.unwrap();
    }
    let mut next = HashMap::from([("load:marks", AFTER + 1), ("load:node", AFTER)]);
    while next.values().any(|next| *next < AFTER + MARKS) {
        let publication = node.publication().await;
        let number = came.check(&publication);
        let channel = publication.channel.as_ref().map_or("", |channel| channel.as_str());
        if let Some(next) = next.get_mut(channel) {
            assert_eq!(number, *next, "on {channel}");
            *next += 1;
        }
    }
    // The load came to the new master too.
    let seen = came.0.clone();
    while !(1..=CHANNELS).all(|id| came.0[&(id, None)] > seen[&(id, None)]) {
        came.check(&node.publication().await);
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    // The old master is a replica now: it takes nobody away from the new one.
    group.restart().await;
    assert_eq!(group.agreed_master().await, new);
    while let Ok(event) = node.events.try_recv() {
        let BrokerEvent::Publication(publication) = event else { panic!("{event:?}") };
        came.check(&publication);
    }
    node.close().await;
}

/// As [`Node::until`], with more patience.
async fn until(node: &mut Node, wanted: Wanted, came: &mut Came) {
    let waiting = async {
        loop {
            match (node.events.recv().await.unwrap(), wanted) {
                (BrokerEvent::Publication(publication), _) => _ = came.check(&publication),
                (BrokerEvent::Interrupted(_), Wanted::Interrupted) | (BrokerEvent::Resumed(_), Wanted::Resumed) => {
                    return;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(FAILOVER, waiting).await.unwrap_or_else(|_| panic!("not {wanted:?} after {FAILOVER:?}"));
}

async fn is_subscribed(server: &RedisServer) -> bool {
    let reply = server.command(&["PUBSUB", "NUMSUB", "rt:pub:acme:load:0"]).await;
    matches!(reply, Reply::Array(fields) if fields.get(1) == Some(&Reply::Integer(1)))
}
