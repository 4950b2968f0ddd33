//! Channels with history, over real servers; what was stored is read by a node's adapter.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_broker::{
    Broker, BrokerEvent, BrokerOptions, Events, HistoryOptions, HistoryPage, HistoryRange, HistoryRead, Interest,
    InterestId, Publication as Delivered,
};
use fanfare_protocol::{Channel, Tenant, Topic};
use fanfare_publisher::{Builder, ConnectError, Position, Publication, Publisher, Retention};
use fanfare_testkit::{NatsServer, RedisServer, redis::Fsync, wait_for};
use serde_json::Value;
use tokio::time::timeout;

use crate::{SOON, command::run};

const RETENTION: Retention = Retention { size: 10_000, ttl: Duration::from_secs(600) };

/// A server that stores what it has acknowledged.
trait Server: Sized + Send + Sync + 'static {
    async fn start() -> Self;
    fn address(&self) -> String;
    fn kill(&self);
    async fn restart(&self);
}

impl Server for RedisServer {
    async fn start() -> Self {
        RedisServer::builder().append_only(Fsync::Always).start().await
    }

    fn address(&self) -> String {
        self.url()
    }

    fn kill(&self) {
        RedisServer::kill(self);
    }

    async fn restart(&self) {
        RedisServer::restart(self).await;
    }
}

impl Server for NatsServer {
    async fn start() -> Self {
        NatsServer::builder().jetstream().start().await
    }

    fn address(&self) -> String {
        self.url()
    }

    fn kill(&self) {
        NatsServer::kill(self);
    }

    async fn restart(&self) {
        NatsServer::restart(self).await;
    }
}

/// A node with the namespace `log`.
struct Node {
    broker: Arc<dyn Broker>,
    events: Events,
}

impl Node {
    async fn connect(server: &impl Server) -> Self {
        let namespaces = [("log".into(), RETENTION)].into();
        let history = HistoryOptions { namespaces, ..HistoryOptions::default() };
        let options = BrokerOptions { history, ..BrokerOptions::new(server.address()) };
        let (broker, events) = fanfare_broker::open(&options).await.unwrap();
        Self { broker, events }
    }

    async fn listen(&self, topic: &str) {
        let interest = Interest { id: InterestId(1), tenant: Tenant::default(), topic: Topic::parse(topic).unwrap() };
        self.broker.add_interests(&[interest]).await.unwrap();
    }

    async fn next(&mut self) -> Delivered {
        loop {
            match timeout(SOON, self.events.recv()).await.expect("an event in time").unwrap() {
                BrokerEvent::Publication(publication) => return publication,
                BrokerEvent::Interrupted(_) | BrokerEvent::Resumed(_) => {}
            }
        }
    }

    /// The newest offset; `None` while there is no connection.
    async fn stands(&self, channel: &str) -> Option<u64> {
        let standings = self.broker.positions(&[(Tenant::default(), Channel::parse(channel).unwrap())]).await.ok()?;
        Some(standings[0].position.offset)
    }

    async fn read(&self, channel: &str) -> HistoryPage {
        let read = HistoryRead {
            tenant: Tenant::default(),
            channel: Channel::parse(channel).unwrap(),
            range: HistoryRange::Before(None),
            max_publications: 10_000,
            max_bytes: 64 << 20,
        };
        self.broker.history(read).await.unwrap()
    }
}

async fn connect(server: &impl Server) -> Publisher {
    Builder::new().history("log", RETENTION).connect(&server.address()).await.unwrap()
}

/// An id that is the data too.
fn event(channel: &str, id: &str) -> Publication {
    Publication::new(channel, "x").data(id).unwrap().id(id)
}

async fn an_event_is_stored_once_and_says_where_it_stands<S: Server>() {
    let server = S::start().await;
    let mut node = Node::connect(&server).await;
    node.listen("log:a").await;
    let publisher = connect(&server).await;
    let first = publisher.send(event("log:a", "first")).await.unwrap().position.unwrap();
    for _ in 0..2 {
        assert_eq!(publisher.send(event("log:a", "first")).await.unwrap().position, Some(first.clone()));
    }
    let more = publisher.batch(["a", "b", "first"].map(|id| event("log:a", id))).await.unwrap();
    let more: Vec<Position> = more.into_iter().map(|published| published.position.unwrap()).collect();
    assert!(first.is_before(&more[0]) && more[0].is_before(&more[1]) && more[2] == first, "{first:?} {more:?}");
    for position in [&first, &more[0], &more[1]] {
        assert_eq!(node.next().await.position.unwrap().position, *position);
    }
    let page = node.read("log:a").await;
    let offsets: Vec<u64> = page.publications.iter().map(|recorded| recorded.offset).collect();
    assert_eq!(offsets, [first.offset, more[0].offset, more[1].offset]);
    assert_eq!(publisher.send(event("live:a", "first")).await.unwrap().position, None);
    publisher.close().await;

    let address = server.address();
    let words = ["publish", "log:a", "x", "1", "--id", "first", "--url", &address, "--history", "log=10000,10m"];
    let ended = run(&words).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&printed["offset"], &printed["epoch"]), (&first.offset.into(), &first.epoch.as_str().into()));
    node.broker.close().await;
}

/// Attempts whose answers are lost with the server are made again.
async fn nothing_is_lost_and_nothing_doubled_when_the_server_is_killed<S: Server>() {
    const CHANNELS: usize = 4;
    const KILLS: usize = 3;
    let server = Arc::new(S::start().await);
    let node = Node::connect(&*server).await;
    let publisher = connect(&*server).await;
    let done = Arc::new(AtomicBool::new(false));
    let publishing: Vec<_> = (0..CHANNELS)
        .map(|channel| {
            let (publisher, done) = (publisher.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    // Several at a time, so that some are under way whenever the server goes.
                    let batch: Vec<String> = (0..20).map(|n| format!("{channel}-{}", ids.len() + n)).collect();
                    publisher.batch(batch.iter().map(|id| event(&format!("log:{channel}"), id))).await.unwrap();
                    ids.extend(batch);
                }
                ids
            })
        })
        .collect();
    for _ in 0..KILLS {
        let before = node.stands("log:0").await.unwrap();
        wait_for("some publications", SOON, async || (node.stands("log:0").await? > before + 50).then_some(())).await;
        server.kill();
        server.restart().await;
        wait_for("the node to be back", SOON, async || node.stands("log:0").await).await;
    }
    done.store(true, Ordering::Relaxed);
    for (channel, task) in publishing.into_iter().enumerate() {
        let ids = timeout(SOON, task).await.expect("an end in time").unwrap();
        let mut stored: HashMap<String, usize> = HashMap::new();
        let page = node.read(&format!("log:{channel}")).await;
        for recorded in &page.publications {
            let body: Value = serde_json::from_slice(&recorded.body.bytes).unwrap();
            *stored.entry(body["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let missing: Vec<_> = ids.iter().filter(|id| !stored.contains_key(*id)).collect();
        let twice: Vec<_> = stored.iter().filter(|(_, times)| **times > 1).collect();
        assert!(missing.is_empty() && twice.is_empty(), "{missing:?} are lost, {twice:?} doubled of {}", ids.len());
        assert_eq!(stored.len(), ids.len());
    }
    publisher.close().await;
    node.broker.close().await;
}

/// A publisher needs the stream, and does not care how else it is kept.
#[tokio::test]
async fn a_stream_that_is_not_there_is_told_and_never_made() {
    let server = <NatsServer as Server>::start().await;
    for _ in 0..2 {
        let refused = Builder::new().history("log", RETENTION).connect(&server.url()).await.unwrap_err();
        let ConnectError::Configuration { option: "NATS stream", value, allowed } = &refused else {
            panic!("{refused}")
        };
        assert!(value == "RT_log" && allowed.contains("does not exist; a node makes it"), "{refused}");
    }
    let node = Node::connect(&server).await;
    let other = Retention { size: 5, ttl: Duration::from_secs(3_600) };
    let publisher = Builder::new().history("log", other).connect(&server.url()).await.unwrap();
    let published = publisher.send(event("log:a", "x")).await.unwrap();
    assert_eq!(node.read("log:a").await.position, published.position.unwrap());
    publisher.close().await;
    node.broker.close().await;
}

macro_rules! every_server {
    ($($module:ident: $server:ty),+ $(,)?) => {
        $(
            mod $module {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn an_event_is_stored_once_and_says_where_it_stands() {
                    super::an_event_is_stored_once_and_says_where_it_stands::<$server>().await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn nothing_is_lost_and_nothing_doubled_when_the_server_is_killed() {
                    super::nothing_is_lost_and_nothing_doubled_when_the_server_is_killed::<$server>().await;
                }
            }
        )+
    };
}

every_server!(nats: fanfare_testkit::NatsServer, redis: fanfare_testkit::RedisServer);
