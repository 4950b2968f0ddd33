//! A node under bad input, and clients on it who must not notice.

use std::{
    io::{self, Write as _},
    thread,
};

use fanfare_testkit::wait_for;
use serde_json::{Value, json};

use crate::{
    SOON,
    client::Client,
    handshake::TokenPlace,
    metrics::Metrics,
    node::{Node, NodeBuilder},
};

/// Where the well-behaved clients are subscribed; whoever is let in where it may not be, could publish on the second.
const CALM: [&str; 2] = ["project:calm", "board:calm"];

/// Rises with every check that the well-behaved are not disturbed.
pub(super) const RECEIVED: &str = "fanfare_publications_received_total";

/// A sample of `/metrics`, and by how much a case raises it.
pub(super) type Count<'a> = (&'a str, u32);

/// A node with one well-behaved client in each of two tenants, both on the same channels.
pub(super) struct Scene {
    node: Node,
    /// Tenant and client.
    calm: [(&'static str, Client); 2],
    rounds: u32,
}

/// Names the case that failed.
struct Named<'a>(&'a str);

impl Scene {
    pub(super) async fn start(builder: NodeBuilder) -> Self {
        // The well-behaved do not read between cases, and so could not answer a ping.
        let node = builder.set("timeouts.ping_interval", "10m").start().await;
        let mut calm = Vec::new();
        for tenant in ["acme", "globex"] {
            let mut client = node.client().connect(tenant, "calm", TokenPlace::Command).await;
            for channel in CALM {
                client.subscribe(channel).await;
            }
            calm.push((tenant, client));
        }
        // Gauges follow replies, and are compared from here on.
        let all = [("fanfare_connections", 2.0), ("fanfare_sessions", 2.0), ("fanfare_subscriptions", 4.0)];
        node.wait_for_metrics("the well-behaved", |metrics| {
            all.iter().all(|(name, count)| metrics.sum(name) == *count)
        })
        .await;
        let calm = calm.try_into().unwrap_or_else(|_| unreachable!("two tenants"));
        Self { node, calm, rounds: 0 }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Does something bad, then checks that it was counted exactly so, and that nobody else noticed.
    pub(super) async fn case<T>(&mut self, name: &str, counts: &[Count<'_>], act: impl AsyncFnOnce(&Node) -> T) -> T {
        let named = Named(name);
        let before = self.node.metrics().await;
        let result = act(&self.node).await;
        self.counted(&before, counts).await;
        self.undisturbed().await;
        // Nor was more of it counted since.
        let after = self.node.metrics().await;
        for (sample, by) in counts.iter().filter(|(sample, _)| *sample != RECEIVED) {
            assert_eq!(after.sample(sample), before.sample(sample) + f64::from(*by), "{sample}");
        }
        drop(named);
        result
    }

    /// Waits until each sample has risen by exactly as much.
    async fn counted(&self, before: &Metrics, counts: &[Count<'_>]) {
        for (sample, by) in counts {
            let wanted = before.sample(sample) + f64::from(*by);
            let what = format!("{sample} to rise by {by} to {wanted}");
            wait_for(&what, SOON, async || (self.node.metrics().await.sample(sample) == wanted).then_some(())).await;
        }
    }

    /// The node lives, has not panicked, has counted the end of every connection once, and delivers to each of the well-behaved what is its tenant's. Nothing else may
    /// have come to them since the last time.
    pub(super) async fn undisturbed(&mut self) {
        self.rounds += 1;
        let data = |tenant: &str| json!([tenant, self.rounds]).to_string();
        for (tenant, _) in &self.calm {
            let body =
                format!(r#"{{"tenant":"{tenant}","channel":"{}","event":"calm","data":{}}}"#, CALM[0], data(tenant));
            let answer = self.node.post("/api/publish", body).await;
            assert_eq!(answer, (200, "{}".to_owned()));
        }
        for (tenant, client) in &mut self.calm {
            let publication = client.publication().await;
            assert_eq!((publication.channel.as_str(), publication.data()), (CALM[0], data(tenant).as_str()));
        }
        self.node
            .wait_for_metrics("one end for each connection", |metrics| {
                let ended = metrics.sum("fanfare_disconnections_total");
                metrics.sample("fanfare_connections_total") == metrics.sample("fanfare_connections") + ended
            })
            .await;
        assert!(self.node.process().is_running(), "{}", self.node.process().log());
        let log = self.node.process().stderr();
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            // A failed write to standard error cannot be told to anybody.
            let _ = writeln!(io::stderr(), "in the case {:?}:", self.0);
        }
    }
}

/// An error reply.
pub(super) fn error(id: u64, code: &str, message: &str) -> Value {
    json!({ "id": id, "type": "error", "code": code, "message": message, "retryable": false })
}

/// The push `system:error`.
pub(super) fn error_push(code: &str, message: &str) -> Value {
    json!({ "event": "system:error", "data": { "code": code, "message": message, "retryable": false } })
}

/// The reply to `ping`, `unsubscribe` and `publish`.
pub(super) fn done(id: u64) -> Value {
    json!({ "id": id, "type": "reply", "result": {} })
}
