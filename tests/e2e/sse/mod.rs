//! Server-sent events: streams over HTTP/1.1 by a client of our own, over HTTP/2 by curl, and in a browser.

mod browser;
mod event_stream;
mod http2;
mod memory;
mod presence;
mod recovery;
mod requests;
mod streams;
mod tokens;

use fanfare_testkit::{NatsServer, RedisServer};
use serde_json::Value;

use crate::node::{Node, NodeBuilder};

/// The tenant of clients without a token.
const TENANT: &str = "default";

/// A broker with history that several nodes share.
enum SharedBroker {
    Nats(Box<NatsServer>),
    Redis(Box<RedisServer>),
}

impl SharedBroker {
    async fn nats() -> Self {
        Self::Nats(Box::new(NatsServer::builder().jetstream().start().await))
    }

    async fn redis() -> Self {
        Self::Redis(Box::new(RedisServer::start().await))
    }

    fn url(&self) -> String {
        match self {
            Self::Nats(server) => server.url(),
            Self::Redis(server) => server.url(),
        }
    }
}

/// A node that anyone may listen at: `log` keeps history, `live` does not.
fn node(broker: &str) -> NodeBuilder {
    Node::builder(broker)
        .set("auth.anonymous", true)
        .set("namespaces.log.subscribe", "anyone")
        .set("namespaces.log.history.size", 10_000)
        .set("namespaces.log.history.ttl", "10m")
        .set("namespaces.live.subscribe", "anyone")
}

/// The same with outboxes of 32 KiB, so that little is enough to fill one.
fn node_of_small_outboxes() -> NodeBuilder {
    node("memory:")
        .set("limits.publication_bytes", "8KiB")
        .set("limits.outbox_bytes", "32KiB")
        .set("limits.notsent_lowat_bytes", "8KiB")
}

/// Publishes a number, or any other data, through the node.
async fn publish(node: &Node, channel: &str, data: impl Into<Value>) {
    let body = serde_json::json!({ "tenant": TENANT, "channel": channel, "event": "tick", "data": data.into() });
    let (status, answer) = node.post("/api/publish", body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
}
