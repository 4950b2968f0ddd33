//! A node on each kind of broker, and publications by their ids.

use std::time::Instant;

use fanfare_checker::{ClientLog, Position, PublisherLog, Rules, Run, Summary};
use fanfare_testkit::wait_for;
use serde_json::{Value, json};

use super::{TENANT, history_broker::HistoryBroker, logical_client::position_in, node, rules};
use crate::{
    SOON,
    client::Client,
    handshake::TokenPlace,
    node::{Node, NodeBuilder},
};

/// Makes a test of an async function that takes a [`Kind`] for each kind of broker.
macro_rules! on_each_broker {
    ($name:ident) => {
        mod $name {
            use crate::recovery::scene::Kind;

            #[tokio::test]
            async fn on_nats() {
                super::$name(Kind::Nats).await;
            }

            #[tokio::test]
            async fn on_redis() {
                super::$name(Kind::Redis).await;
            }

            #[tokio::test]
            async fn on_the_embedded_broker() {
                super::$name(Kind::Memory).await;
            }
        }
    };
}
pub(super) use on_each_broker;

const OWN_BROKER: &str = "a test that asks for the broker starts one";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nats,
    Redis,
    Memory,
}

/// A node, its broker, and what was published.
pub(super) struct Scene {
    pub(super) node: Node,
    broker: Option<HistoryBroker>,
    pub(super) clock: Instant,
    log: PublisherLog,
}

impl Kind {
    /// A node as the tests of recovery have it.
    pub(super) async fn start(self) -> Scene {
        self.start_with(|node| node).await
    }

    /// A node with more configuration.
    pub(super) async fn start_with(self, configure: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Scene {
        let broker = match self {
            Self::Nats => Some(HistoryBroker::nats().await),
            Self::Redis => Some(HistoryBroker::redis().await),
            Self::Memory => None,
        };
        let url = broker.as_ref().map_or_else(|| "memory:".to_owned(), HistoryBroker::url);
        let node = configure(node(&url)).start().await;
        Scene { node, broker, clock: Instant::now(), log: PublisherLog::new() }
    }
}

impl Scene {
    /// A node that reaches the broker by this URL.
    pub(super) async fn on(broker: HistoryBroker, url: &str) -> Self {
        let node = node(url).start().await;
        Self { node, broker: Some(broker), clock: Instant::now(), log: PublisherLog::new() }
    }

    /// The broker, where it is none inside the node.
    pub(super) fn broker(&self) -> &HistoryBroker {
        self.broker.as_ref().expect(OWN_BROKER)
    }

    /// Publishes through the API, which must accept it.
    pub(super) async fn publish(&mut self, channel: &str, id: &str, data: &str) -> Position {
        self.publish_with(channel, id, data, json!({})).await
    }

    /// The same, with more fields of the envelope.
    pub(super) async fn publish_with(&mut self, channel: &str, id: &str, data: &str, fields: Value) -> Position {
        self.log.attempted(self.clock.elapsed(), channel, id, data);
        let mut body = json!({ "tenant": TENANT, "channel": channel, "event": "tick", "id": id, "data": data });
        body.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
        let (status, answer) = self.node.post("/api/publish", body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let position = position_in(&answer).unwrap_or_else(|| panic!("{answer} is no position"));
        self.log.accepted(channel, id, position.offset, Some(&position.epoch));
        position
    }

    /// Publishes the numbers `first..=last`, each as `id-{n}`; their positions.
    pub(super) async fn publish_numbers(&mut self, channel: &str, first: usize, last: usize) -> Vec<Position> {
        let mut positions = Vec::new();
        for number in first..=last {
            positions.push(self.publish(channel, &format!("id-{number}"), &number.to_string()).await);
        }
        positions
    }

    /// Publishes past the node.
    pub(super) async fn publish_at_broker(&mut self, channel: &str, id: &str, data: &str) -> u64 {
        let broker = self.broker.as_ref().expect(OWN_BROKER);
        self.log.attempted(self.clock.elapsed(), channel, id, data);
        // On a machine that is busy with thousands of clients an answer may come too late, so it is asked again.
        let accepted =
            wait_for("an answer of the broker", SOON, async || broker.publish(channel, id, data).await.ok()).await;
        self.log.accepted(channel, id, accepted.offset, accepted.epoch.as_deref());
        accepted.offset
    }

    /// Publishes to Redis so that no node is told.
    pub(super) async fn publish_untold(&mut self, channel: &str, id: &str, data: &str) {
        let broker = self.broker.as_ref().expect(OWN_BROKER);
        self.log.attempted(self.clock.elapsed(), channel, id, data);
        let accepted = broker.publish_untold(channel, id, data).await;
        self.log.accepted(channel, id, accepted.offset, accepted.epoch.as_deref());
    }

    /// A client that is connected.
    pub(super) async fn client(&self) -> Client {
        self.node.client().connect(TENANT, "ann", TokenPlace::Header).await
    }

    /// Holds what clients received against what was published. All namespaces have the rules of `log`.
    pub(super) fn check(self, namespace: &str, clients: Vec<ClientLog>) -> Summary {
        self.check_by(namespace, rules(), clients)
    }

    pub(super) fn check_by(self, namespace: &str, rules: Rules, clients: Vec<ClientLog>) -> Summary {
        let mut run = Run::new().rules(namespace, rules);
        run.publisher(self.log);
        clients.into_iter().for_each(|log| run.client(log));
        run.check().unwrap_or_else(|report| panic!("{report}\n{}", self.node.process().log()))
    }
}

/// The fields of a position, as commands have them.
pub(super) fn since(position: &Position) -> Value {
    json!({ "offset": position.offset, "epoch": *position.epoch })
}

/// The ids in a reply, in order.
pub(super) fn ids_in(reply: &Value) -> Vec<String> {
    let publications = reply["publications"].as_array().map_or(&[][..], Vec::as_slice);
    publications.iter().map(|one| one["id"].as_str().unwrap_or_else(|| panic!("{one}")).to_owned()).collect()
}

/// `id-{first}` to `id-{last}`.
pub(super) fn ids(first: usize, last: usize) -> Vec<String> {
    (first..=last).map(|number| format!("id-{number}")).collect()
}
