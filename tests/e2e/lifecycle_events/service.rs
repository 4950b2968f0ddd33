//! A service that hears lifecycle events by plain means of its broker, as docs/subjects.md says.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::{Client, Subscriber};
use fanfare_testkit::{NatsServer, RedisServer, wait_for};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::TENANT;
use crate::SOON;

/// How long one request of the consumer waits for events, and for how many it asks.
const PULL: Duration = Duration::from_millis(500);
const BATCH: usize = 100;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) tenant: String,
    pub(super) node: String,
    pub(super) timestamp: u64,
    pub(super) session: Option<String>,
    pub(super) user: Option<String>,
    pub(super) channel: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) duration_ms: Option<u64>,
}

/// See the module.
pub(super) struct Service {
    source: Source,
    /// As they came.
    pub(super) heard: Vec<Event>,
}

enum Source {
    /// A durable consumer of JetStream, named `audit`.
    JetStream { client: Client, inbox: String, delivered: Subscriber },
    /// What one pattern of Redis' pub/sub brings: lines of RESP, of which those with events are JSON objects.
    Redis(BufReader<TcpStream>),
}

impl Service {
    /// Of a stream that a node has made.
    pub(super) async fn of_stream(server: &NatsServer) -> Self {
        let client = async_nats::connect(server.url()).await.expect("the server is there");
        let config = json!({
            "stream_name": "RT_EVENTS",
            "config": { "durable_name": "audit", "ack_policy": "explicit", "filter_subject": format!("rt.event.{TENANT}.>") },
        });
        let subject = "$JS.API.CONSUMER.DURABLE.CREATE.RT_EVENTS.audit";
        let answer = client.request(subject, config.to_string().into()).await.expect("JetStream answers");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert_eq!(answer["error"], Value::Null, "{answer}");
        let inbox = client.new_inbox();
        let delivered = client.subscribe(inbox.clone()).await.expect("it is connected");
        Self { source: Source::JetStream { client, inbox, delivered }, heard: Vec::new() }
    }

    /// Of all that is published from now on.
    pub(super) async fn of_redis(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(server.address()).await.expect("the server is there");
        let subscribe = format!("PSUBSCRIBE rt:event:{TENANT}:*\r\n");
        stream.write_all(subscribe.as_bytes()).await.expect("the server takes it");
        let mut service = Self { source: Source::Redis(BufReader::new(stream)), heard: Vec::new() };
        // It confirms.
        while service.line().await != ":1" {}
        service
    }

    /// Hears events until these are there; what comes beside them is kept too.
    pub(super) async fn hear(&mut self, ids: &[String]) {
        let begun = Instant::now();
        loop {
            let missing: Vec<_> = ids.iter().filter(|id| !self.heard.iter().any(|event| event.id == **id)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain for {missing:?}, heard {:#?}", self.heard);
            self.hear_next().await;
        }
    }

    /// Hears events until one is as wanted.
    pub(super) async fn hear_where(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let begun = Instant::now();
        loop {
            if let Some(event) = self.heard.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain for {what}, heard {:#?}", self.heard);
            self.hear_next().await;
        }
    }

    /// How often each id was heard.
    pub(super) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        self.heard.iter().for_each(|event| *counts.entry(event.id.as_str()).or_default() += 1);
        counts
    }

    /// The events of a session, in the order in which they came: kind, and channel or reason.
    pub(super) fn of_session(&self, session: &str) -> Vec<String> {
        let own = self.heard.iter().filter(|event| event.session.as_deref() == Some(session));
        own.map(|event| {
            let words = [Some(&event.kind), event.channel.as_ref(), event.reason.as_ref()];
            words.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ")
        })
        .collect()
    }

    async fn hear_next(&mut self) {
        let bodies = match &mut self.source {
            Source::JetStream { client, inbox, delivered } => pull(client, inbox, delivered).await,
            Source::Redis(_) => match timeout(PULL, self.line()).await {
                Ok(line) if line.starts_with('{') => vec![line.into_bytes()],
                _ => Vec::new(),
            },
        };
        self.heard.extend(bodies.into_iter().map(|body| {
            serde_json::from_slice::<Event>(&body)
                .unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&body)))
        }));
    }

    async fn line(&mut self) -> String {
        let Source::Redis(reader) = &mut self.source else { panic!("a stream has no lines") };
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("the server goes on");
        line.trim_end().to_owned()
    }
}

/// The next events, acknowledged; none where there are none now, or the server is away.
async fn pull(client: &Client, inbox: &str, delivered: &mut Subscriber) -> Vec<Vec<u8>> {
    let request = json!({ "batch": BATCH, "expires": PULL.as_nanos() as u64 }).to_string();
    let asking =
        client.publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.RT_EVENTS.audit", inbox.to_owned(), request.into());
    asking.await.expect("the library takes it");
    let mut bodies = Vec::new();
    while bodies.len() < BATCH
        && let Ok(Some(message)) = timeout(2 * PULL, delivered.next()).await
    {
        // What has no place to be acknowledged is the end of the request.
        let Some(reply) = message.reply.filter(|_| message.status.is_none()) else { break };
        client.publish(reply, "+ACK".into()).await.expect("the library takes it");
        bodies.push(message.payload.into());
    }
    bodies
}

/// How many events the stream has.
pub(super) async fn stream_messages(server: &NatsServer) -> u64 {
    let client = async_nats::connect(server.url()).await.expect("the server is there");
    wait_for("JetStream", SOON, async || {
        let answer = client.request("$JS.API.STREAM.INFO.RT_EVENTS", "".into()).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
        answer["state"]["messages"].as_u64()
    })
    .await
}
