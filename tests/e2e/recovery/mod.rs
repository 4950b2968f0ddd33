//! No silent gap: history, recovery and repair, with nodes and brokers that fail. What clients received is held against what
//! was accepted by `fanfare-checker`.

mod chaos;
mod chaos_faults;
mod commands;
mod history_broker;
mod history_reads;
mod ids;
mod logical_client;
mod pages;
mod publishing;
mod retained;
mod retention;
mod scene;
mod slow;
mod storm;
mod swallowing_proxy;
mod untold;

use fanfare_checker::Rules;

use crate::node::{Node, NodeBuilder};

/// The tenant of all these tests.
const TENANT: &str = "acme";

/// What the namespace `log` retains of a channel, unless a test says otherwise: more than a test publishes.
const SIZE: usize = 5_000;

/// What the namespace `short` retains: so little that a client that is away for a second or two misses some.
const SHORT_SIZE: usize = 3;

/// A node whose namespaces `log` and `short` keep history and may be read by anyone.
fn node(broker: &str) -> NodeBuilder {
    let node =
        Node::builder(broker).set("namespaces.log.subscribe", "anyone").set("namespaces.short.subscribe", "anyone");
    node.history("log", SIZE, "10m").history("short", SHORT_SIZE, "10m")
}

/// How many publications of a channel are retained.
fn size_of(channel: &str) -> usize {
    if channel.starts_with("short:") { SHORT_SIZE } else { SIZE }
}

/// What holds for the clients of such nodes.
fn rules() -> Rules {
    Rules { size: SIZE, ..Rules::default() }
}

/// History in a node's configuration.
trait NodeHistory {
    /// A namespace keeps so many publications of each channel, for so long.
    fn history(self, namespace: &str, size: usize, ttl: &str) -> Self;
}

impl NodeHistory for NodeBuilder {
    fn history(self, namespace: &str, size: usize, ttl: &str) -> Self {
        self.set(&format!("namespaces.{namespace}.history.size"), size as i64)
            .set(&format!("namespaces.{namespace}.history.ttl"), ttl)
    }
}
