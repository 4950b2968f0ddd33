//! The NATS adapter, on a real nats-server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use fanfare_broker::{Broker, BrokerError, BrokerOptions, Events, HistoryOptions, Interest, InterestId, Publish, open};
use fanfare_protocol::{Channel, NatsSubjects, Tenant};
use fanfare_testkit::{NatsServer, nats::NatsBuilder};

use crate::{
    fixture::{Fixture, KeepsHistory, Outside, SOON, Server},
    node::{Node, Wanted, number, numbered},
    slow,
};

pub(crate) struct NatsFixture(NatsServer);

impl Fixture for NatsFixture {
    const NAME: &'static str = "nats";

    async fn start() -> Self {
        Self(NatsServer::start().await)
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        open(&BrokerOptions::new(self.0.url())).await.unwrap()
    }

    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(Plain::connect(&self.0).await)
    }

    async fn subscriptions(&self) -> usize {
        self.0.monitor("/connz?subs=1").await.matches("\"rt.pub.").count()
    }

    async fn connections(&self) -> usize {
        connected_nodes(&self.0).await
    }
}

impl KeepsHistory for NatsFixture {
    async fn start_with_history() -> Self {
        Self(NatsServer::builder().jetstream().start().await)
    }

    async fn connect_with(&self, history: HistoryOptions) -> (Arc<dyn Broker>, Events) {
        let signals = ["log".into(), "deep".into()].into();
        open(&BrokerOptions { history, signals, ..BrokerOptions::new(self.0.url()) }).await.unwrap()
    }

    async fn publish_with_headers(
        &self,
        tenant: &str,
        channel: &str,
        body: Bytes,
        event: &str,
        content_type: &str,
    ) -> bool {
        let outside = Plain::connect(&self.0).await;
        let mut headers = HeaderMap::new();
        headers.append("Fanfare-Event", event);
        headers.append("Content-Type", content_type);
        outside.client.publish_with_headers(outside.subject(tenant, channel), headers, body).await.unwrap();
        outside.flush().await;
        true
    }
}

impl Server for NatsFixture {
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
    pub(crate) client: async_nats::Client,
    subjects: NatsSubjects,
}

impl Plain {
    pub(crate) async fn connect(server: &NatsServer) -> Self {
        let client = async_nats::ConnectOptions::new()
            .reconnect_delay_callback(|_| Duration::from_millis(10))
            .connect(server.url())
            .await
            .unwrap();
        Self { client, subjects: NatsSubjects::new("rt").unwrap() }
    }

    pub(crate) fn subject(&self, tenant: &str, channel: &str) -> String {
        self.subjects.publish(&Tenant::parse(tenant).unwrap(), &Channel::parse(channel).unwrap())
    }
}

#[async_trait::async_trait]
impl Outside for Plain {
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool {
        self.client.publish(self.subject(tenant, channel), body).await.is_ok()
    }

    /// A round trip: a request that nobody answers is refused by the server itself.
    async fn flush(&self) {
        let answer = self.client.request("nobody.here", Bytes::new()).await;
        assert_eq!(answer.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
    }
}

crate::every_broker!(NatsFixture);
crate::every_server!(NatsFixture);
crate::every_history!(NatsFixture);

/// Connects, and delivers one publication there and back.
async fn works(options: &BrokerOptions) {
    let mut node = Node::over(open(options).await.unwrap());
    node.add("acme", "a:b").await;
    node.publish("a:b", "x").await.unwrap();
    assert_eq!(node.publication().await.body.bytes, "x");
    node.close().await;
}

pub(crate) async fn start(build: impl FnOnce(NatsBuilder) -> NatsBuilder) -> (NatsServer, BrokerOptions) {
    let server = build(NatsServer::builder()).start().await;
    let options = BrokerOptions { connect_timeout: SOON, ..BrokerOptions::new(server.url()) };
    (server, options)
}

/// The same address without what is in the URL.
fn anonymous(server: &NatsServer) -> BrokerOptions {
    BrokerOptions::new(format!("nats://{}", server.address()))
}

#[tokio::test]
async fn user_and_password() {
    let (server, options) = start(|server| server.password("gate way", "p@ss:w/rd,%")).await;
    works(&options).await;
    let named = BrokerOptions {
        user: Some("gate way".to_owned()),
        password: Some("p@ss:w/rd,%".to_owned()),
        ..anonymous(&server)
    };
    works(&named).await;
    let wrong = open(&BrokerOptions { password: Some("hidden".to_owned()), ..named }).await.err().unwrap();
    assert!(matches!(wrong, BrokerError::Refused { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("authorization") && !format!("{wrong:?}").contains("hidden"), "{wrong}");
}

#[tokio::test]
async fn token() {
    let (server, options) = start(|server| server.token("s3cret")).await;
    works(&options).await;
    works(&BrokerOptions { token: Some("s3cret".to_owned()), ..anonymous(&server) }).await;
    let wrong = open(&anonymous(&server)).await.err().unwrap();
    assert!(matches!(wrong, BrokerError::Refused { .. }), "{wrong:?}");
}

#[tokio::test]
async fn nkey() {
    let (server, options) = start(NatsBuilder::nkey).await;
    works(&BrokerOptions { nkey_seed: server.nkey_seed().map(str::to_owned), ..options.clone() }).await;
    let wrong = BrokerOptions { nkey_seed: Some("SUhidden".to_owned()), ..options };
    let wrong = open(&wrong).await.err().unwrap();
    assert!(matches!(wrong, BrokerError::Refused { .. }) && !wrong.to_string().contains("hidden"), "{wrong:?}");
}

#[tokio::test]
async fn credentials_file() {
    let (server, options) = start(NatsBuilder::credentials).await;
    works(&BrokerOptions { credentials_file: server.credentials_file(), ..options.clone() }).await;
    assert!(matches!(open(&options).await, Err(BrokerError::Refused { .. })));
}

#[tokio::test]
async fn tls() {
    let (server, options) = start(NatsBuilder::tls).await;
    assert!(options.url.starts_with("tls://"));
    let trusting = BrokerOptions { tls_ca_file: server.authority_file().map(Into::into), ..options.clone() };
    works(&trusting).await;
    works(&BrokerOptions { url: format!("nats://{}", server.address()), ..trusting }).await;
    let distrusting = BrokerOptions { connect_timeout: Duration::from_millis(500), ..options };
    let error = open(&distrusting).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_used_where_tls_is_asked_for() {
    let (server, _) = start(|server| server).await;
    let directory = tempfile::tempdir().unwrap();
    let files = fanfare_testkit::tls::Authority::generate().write(directory.path(), &["localhost"]);
    let options = BrokerOptions {
        tls_ca_file: Some(files.authority),
        connect_timeout: Duration::from_millis(500),
        ..anonymous(&server)
    };
    assert!(matches!(open(&options).await, Err(BrokerError::Unreachable { .. })));
}

#[tokio::test]
async fn the_first_of_several_servers_may_be_dead_and_the_next_may_die() {
    let (dead, one, two) = tokio::join!(NatsServer::start(), NatsServer::start(), NatsServer::start());
    dead.stop().await;
    let list = format!("{},{}", dead.url(), one.url());
    works(&BrokerOptions::new(list)).await;

    let list = format!("{},{},{}", dead.url(), one.url(), two.address());
    let mut node = Node::over(open(&BrokerOptions::new(list)).await.unwrap());
    node.add("acme", "a:b").await;
    // Which one it is is chance.
    let (first, second) = if connected_nodes(&one).await == 1 { (one, two) } else { (two, one) };
    first.stop().await;
    node.until(Wanted::Interrupted).await;
    node.until(Wanted::Resumed).await;
    assert_eq!(connected_nodes(&second).await, 1);
    node.publish("a:b", numbered(1)).await.unwrap();
    assert_eq!(number(&node.publication().await.body.bytes), 1);
}

pub(crate) async fn connected_nodes(server: &NatsServer) -> usize {
    server.monitor("/connz").await.matches("\"name\": \"fanfare\"").count()
}

#[tokio::test]
async fn nobody_there_is_told_in_time_and_without_secrets() {
    let server = NatsServer::start().await;
    server.stop().await;
    let url = format!("nats://user:hidden@{}", server.address());
    let options = BrokerOptions { connect_timeout: Duration::from_millis(700), ..BrokerOptions::new(url) };
    let began = Instant::now();
    let error = open(&options).await.err().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let text = format!("{error} {error:?}");
    assert!(matches!(error, BrokerError::Unreachable { .. }) && !text.contains("hidden"), "{text}");
    assert!(text.contains(&server.address().to_string()), "{text}");
}

#[tokio::test]
async fn a_body_over_the_servers_limit() {
    let (_server, options) = start(|server| server.line("max_payload: 1000")).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:b").await;
    let refused = node.publish("a:b", vec![b'x'; 1001]).await;
    assert!(matches!(refused, Err(BrokerError::TooLarge { bytes: 1001, limit: 1000, .. })), "{refused:?}");
    node.publish("a:b", vec![b'x'; 1000]).await.unwrap();
    assert_eq!(node.publication().await.body.bytes.len(), 1000);
}

#[tokio::test]
async fn headers() {
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:b").await;
    let outside = Plain::connect(&server).await;
    let mut headers = HeaderMap::new();
    headers.append("Fanfare-Event", "first");
    headers.append("Fanfare-Event", "last");
    headers.append("Content-Type", "application/octet-stream");
    headers.append("X-Other", "other");
    outside.client.publish_with_headers(outside.subject("acme", "a:b"), headers, "bytes".into()).await.unwrap();
    let body = node.publication().await.body;
    assert_eq!((body.event.as_deref(), body.content_type.as_deref()), (Some("last"), Some("application/octet-stream")));
    assert_eq!(body.bytes, "bytes");
}

#[tokio::test]
async fn an_id_is_a_message_id_of_its_channel() {
    let (server, options) = start(|server| server).await;
    let node = Node::over(open(&options).await.unwrap());
    let outside = Plain::connect(&server).await;
    let mut subscriber = outside.client.subscribe("rt.pub.>").await.unwrap();
    outside.flush().await;
    let publish = |id: &str| Publish {
        tenant: Tenant::parse("acme").unwrap(),
        channel: Channel::parse("a:b").unwrap(),
        body: Bytes::from_static(b"x"),
        id: Some(id.to_owned()),
        ephemeral: false,
    };
    node.broker.publish(publish("17")).await.unwrap();
    let message = futures_util::StreamExt::next(&mut subscriber).await.unwrap();
    assert_eq!(message.subject.as_str(), "rt.pub.acme.a.b");
    assert_eq!(message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(), "acme/a:b/17");
    let refused = node.broker.publish(publish("1\r\n7")).await;
    assert!(matches!(refused, Err(BrokerError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn subjects_that_are_no_channels_are_passed_over() {
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:**").await;
    let outside = Plain::connect(&server).await;
    let long = format!("rt.pub.acme.a.{}", "x".repeat(300));
    for subject in ["rt.pub.acme.a.b:c", "rt.pub.acme.a.$SYS", "rt.pub.acme.a.\u{fc}", &long] {
        outside.client.publish(subject.to_owned(), "x".into()).await.unwrap();
    }
    assert_eq!(node.settle(&outside).await, []);
}

#[tokio::test]
async fn no_permission_is_a_refusal() {
    let permissions = "authorization { users: [ { user: u, password: p, permissions: { \
                       publish: \"rt.>\", subscribe: { allow: [\"rt.pub.acme.>\"] } } } ] }";
    let (server, _) = start(|server| server.line(permissions)).await;
    let options = BrokerOptions::new(format!("nats://u:p@{}", server.address()));
    let mut node = Node::over(open(&options).await.unwrap());
    let refused = node.interest("other", "a:b");
    match node.broker.add_interests(&[refused]).await {
        Err(BrokerError::Refused { reason, .. }) => assert!(reason.contains("rt.pub.other.a.b"), "{reason}"),
        other => panic!("{other:?}"),
    }
    node.add("acme", "a:b").await;
    node.publish("a:b", "x").await.unwrap();
    assert_eq!(node.publication().await.body.bytes, "x");
}

/// A hub may hold 15,000 interests per node, so memory per interest matters.
#[tokio::test]
async fn memory_per_interest() {
    const INTERESTS: u64 = 15_000;
    if !slow::alone("nats::memory_per_interest").await {
        return;
    }
    let (_server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    let before = slow::resident_bytes();
    let interests: Vec<Interest> = (0..INTERESTS).map(|n| node.interest("acme", &format!("memory:{n}"))).collect();
    let own = slow::resident_bytes() - before;
    let before = slow::resident_bytes();
    let began = Instant::now();
    for part in interests.chunks(1_000) {
        node.broker.add_interests(part).await.unwrap();
    }
    let took = began.elapsed();
    let grown = slow::resident_bytes() - before;
    println!(
        "{INTERESTS} interests: {} bytes each (the test's own: {}), added in {took:?}",
        grown / INTERESTS,
        own / INTERESTS
    );
    assert!(grown / INTERESTS < 512, "{} bytes per interest", grown / INTERESTS);
    let ids: Vec<InterestId> = interests.iter().map(|interest| interest.id).collect();
    node.broker.remove_interests(&ids).await;
    node.close().await;
}
