//! The Redis adapter, on a real redis-server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_broker::{Broker, BrokerError, BrokerEvent, BrokerOptions, Events, HistoryOptions, Scope, open};
use fanfare_protocol::{Channel, RedisChannels, Tenant};
use fanfare_testkit::{
    RedisServer,
    redis::{RedisBuilder, Reply},
    wait_for,
};
use fred::{
    clients::Client,
    interfaces::{ClientLike as _, PubsubInterface as _},
    prelude::{Builder, Config, ReconnectPolicy},
    types::Value,
};

use crate::{
    fixture::{Fixture, KeepsHistory, Outside, SOON, Server},
    node::{Node, Wanted, number, numbered},
};

pub(crate) struct RedisFixture(RedisServer);

impl Fixture for RedisFixture {
    const NAME: &'static str = "redis";

    async fn start() -> Self {
        // A subscriber in a debug build reads slower than Redis writes; the suite is about our limits, not about its.
        Self(RedisServer::builder().line("client-output-buffer-limit pubsub 0 0 0").start().await)
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions::new(self.0.url())).await.unwrap()
    }

    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(Plain::connect(&self.0).await)
    }

    async fn subscriptions(&self) -> usize {
        let Reply::Array(channels) = self.0.command(&["PUBSUB", "CHANNELS", "rt:*"]).await else { panic!() };
        let Reply::Integer(patterns) = self.0.command(&["PUBSUB", "NUMPAT"]).await else { panic!() };
        channels.len() + patterns as usize
    }

    async fn connections(&self) -> usize {
        let Reply::Bulk(clients) = self.0.command(&["CLIENT", "LIST"]).await else { panic!() };
        String::from_utf8_lossy(&clients).matches("name=fanfare").count()
    }
}

impl Server for RedisFixture {
    async fn stop(&self) {
        self.0.stop().await;
    }

    fn pause(&self) {
        self.0.pause();
    }

    fn resume(&self) {
        self.0.resume();
    }

    async fn restart(&self) {
        self.0.restart().await;
    }
}

pub(crate) struct Plain {
    pub(crate) client: Client,
    names: RedisChannels,
}

impl Plain {
    pub(crate) async fn connect(server: &RedisServer) -> Self {
        Self::over(Config::from_url(&server.url()).unwrap()).await
    }

    pub(crate) async fn over(config: Config) -> Self {
        let client = Builder::from_config(config)
            .with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(5))
            .with_connection_config(|connection| connection.max_command_attempts = 1)
            .set_policy(ReconnectPolicy::new_constant(0, 10))
            .build()
            .unwrap();
        client.init().await.unwrap();
        Self { client, names: RedisChannels::new("rt").unwrap() }
    }
}

#[async_trait::async_trait]
impl Outside for Plain {
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool {
        let name = self.names.publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap());
        self.client.publish::<Value, _, _>(name, Value::Bytes(body)).await.is_ok()
    }

    /// In one pipeline: one answer after the other would take long.
    async fn publish_all(&self, tenant: &str, channel: &str, bodies: Vec<Bytes>) -> bool {
        let name = self.names.publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap());
        let pipeline = self.client.pipeline();
        for body in bodies {
            pipeline.publish::<(), _, _>(name.clone(), Value::Bytes(body)).await.unwrap();
        }
        pipeline.all::<Vec<i64>>().await.is_ok()
    }

    /// Every publication was answered already.
    async fn flush(&self) {}
}

impl KeepsHistory for RedisFixture {
    async fn start_with_history() -> Self {
        Self::start().await
    }

    async fn connect_with(&self, history: HistoryOptions) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions { history, ..BrokerOptions::new(self.0.url()) }).await.unwrap()
    }
}

crate::every_broker!(RedisFixture);
crate::every_server!(RedisFixture);
crate::every_history!(RedisFixture);

/// Connects, and delivers one publication there and back.
pub(crate) async fn works(options: &BrokerOptions) {
    let mut node = Node::over(open(options).await.unwrap());
    node.add_all("acme", &["a:b", "a:*"]).await;
    node.publish("a:b", "x").await.unwrap();
    for _ in 0..2 {
        assert_eq!(node.publication().await.body.bytes, "x");
    }
    node.close().await;
}

async fn start(build: impl FnOnce(RedisBuilder) -> RedisBuilder) -> (RedisServer, BrokerOptions) {
    let server = build(RedisServer::builder()).start().await;
    let options = BrokerOptions { connect_timeout: SOON, ..BrokerOptions::new(server.url()) };
    (server, options)
}

/// The same address without what is in the URL.
fn anonymous(server: &RedisServer) -> BrokerOptions {
    BrokerOptions::new(format!("redis://{}", server.address()))
}

#[tokio::test]
async fn user_and_password() {
    let (server, options) = start(|server| server.user("gateway", "p@ss:w/rd")).await;
    works(&options).await;
    let named = BrokerOptions {
        user: Some("gateway".to_owned()),
        password: Some("p@ss:w/rd".to_owned()),
        ..anonymous(&server)
    };
    works(&named).await;
    let wrong = open(&BrokerOptions { password: Some("hidden".to_owned()), ..named }).await.err().unwrap();
    assert!(matches!(wrong, BrokerError::Refused { .. }), "{wrong:?}");
    assert!(!format!("{wrong} {wrong:?}").contains("hidden"));
    assert!(matches!(open(&anonymous(&server)).await, Err(BrokerError::Refused { .. })));
}

#[tokio::test]
async fn a_password_alone() {
    let (server, _) = start(|server| server).await;
    server.command(&["CONFIG", "SET", "requirepass", "secret"]).await;
    assert!(matches!(open(&anonymous(&server)).await, Err(BrokerError::Refused { .. })));
    works(&BrokerOptions::new(format!("redis://:secret@{}/0", server.address()))).await;
}

#[tokio::test]
async fn tls() {
    let (server, options) = start(RedisBuilder::tls).await;
    assert!(options.url.starts_with("rediss://"));
    works(&BrokerOptions { tls_ca_file: server.authority_file().map(Into::into), ..options.clone() }).await;
    let distrusting = BrokerOptions { connect_timeout: Duration::from_millis(500), ..options };
    let error = open(&distrusting).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
}

/// The rights that the adapter's documentation names are enough, and one that is missing is told.
#[tokio::test]
async fn an_acl_with_no_more_than_is_needed() {
    let acl = "user node on >secret resetchannels &rt:pub:acme:* &rt:pub:acme:a:* -@all +hello +ping +publish \
               +subscribe +unsubscribe +psubscribe +punsubscribe +client|info +client|setname +client|id";
    let (server, _) = start(|server| server.line(acl)).await;
    let options = BrokerOptions::new(format!("redis://node:secret@{}", server.address()));
    works(&options).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:kept").await;
    for round in 0..5 {
        for (tenant, topic) in [("other", "a:b"), ("other", "a:*"), ("acme", "b:*")] {
            let refused = [node.interest("acme", "a:also"), node.interest(tenant, topic)];
            let added = node.broker.add_interests(&refused).await;
            assert!(matches!(added, Err(BrokerError::Refused { .. })), "{added:?}");
        }
        // What was refused leaves nothing behind, and later answers are not taken for earlier ones.
        let id = node.add("acme", "a:b").await;
        let held = server.command(&["PUBSUB", "CHANNELS"]).await;
        assert!(matches!(&held, Reply::Array(held) if held.len() == 2), "{held:?}");
        node.publish("a:b", numbered(round)).await.unwrap();
        let publication = node.publication().await;
        assert_eq!((publication.interest, number(&publication.body.bytes)), (id, round));
        node.broker.remove_interests(&[id]).await;
    }
}

#[tokio::test]
async fn nobody_there_is_told_in_time_and_without_secrets() {
    let server = RedisServer::start().await;
    server.stop().await;
    let url = format!("redis://user:hidden@{}", server.address());
    let options = BrokerOptions { connect_timeout: Duration::from_millis(700), ..BrokerOptions::new(url) };
    let began = Instant::now();
    let error = open(&options).await.err().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let text = format!("{error} {error:?}");
    assert!(matches!(error, BrokerError::Unreachable { .. }) && !text.contains("hidden"), "{text}");
}

#[tokio::test]
async fn options_of_other_brokers_are_refused() {
    let options = BrokerOptions { token: Some("hidden".to_owned()), ..BrokerOptions::new("redis://127.0.0.1:1") };
    let error = open(&options).await.err().unwrap();
    assert!(matches!(error, BrokerError::Configuration { .. }) && !format!("{error:?}").contains("hidden"));
}

/// As Redis does to a subscriber that reads too slowly; publishing goes on.
#[tokio::test]
async fn a_subscriber_that_the_server_ends_is_back_at_once() {
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add_all("acme", &["a:b", "a:*"]).await;
    let began = Instant::now();
    for round in 0..3 {
        assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, Reply::Integer(1));
        node.publish("a:b", numbered(99)).await.unwrap();
        node.until(Wanted::Interrupted).await;
        node.until(Wanted::Resumed).await;
        node.publish("a:b", numbered(round)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(number(&node.publication().await.body.bytes), round);
        }
    }
    // Noticed by the connection's end, not only by a ping without an answer.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// The library overwrites what is not taken from it in time.
#[tokio::test(flavor = "current_thread")]
async fn what_the_library_overwrites_is_told() {
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&BrokerOptions { broadcast_capacity: 2, ..options }).await.unwrap());
    node.add("acme", "a:b").await;
    let outside = Plain::connect(&server).await;
    let (mut next, mut last, mut told) = (0, None, 0);
    wait_for("an interruption", SOON, async || {
        assert!(outside.publish_all("acme", "a:b", (next..next + 200).map(numbered).collect()).await);
        next += 200;
        let mut interrupted = false;
        while let Ok(event) = node.events.try_recv() {
            match event {
                BrokerEvent::Publication(publication) => {
                    let number = number(&publication.body.bytes);
                    assert!(last.is_none_or(|last| number == last + 1) || interrupted, "{last:?} and then {number}");
                    (last, interrupted) = (Some(number), false);
                }
                BrokerEvent::Interrupted(interruption) => {
                    assert_eq!((interruption.scope, interruption.reason), (Scope::All, "lagged"));
                    interrupted = true;
                    told += 1;
                }
                BrokerEvent::Resumed(scope) => assert_eq!(scope, Scope::All),
            }
        }
        (told > 0).then_some(())
    })
    .await;
}
