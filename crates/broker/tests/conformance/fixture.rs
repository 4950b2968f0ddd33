//! What a case needs to know of a broker.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_broker::{Broker, Events, HistoryOptions, Retention};

/// Generous: the machine may be busy with a build.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A broker of its own for one test.
pub(crate) trait Fixture: Sized + Send + Sync + 'static {
    /// The module in which its tests are.
    const NAME: &'static str;

    /// Whether a node can be interested in patterns.
    const PATTERNS: bool = true;

    fn start() -> impl Future<Output = Self> + Send;

    /// Connects a node.
    fn connect(&self) -> impl Future<Output = (Arc<dyn Broker>, Events)> + Send;

    /// A client that knows nothing of the adapters.
    fn outside(&self) -> impl Future<Output = Box<dyn Outside>> + Send;

    /// How many subscriptions of nodes the broker itself counts.
    fn subscriptions(&self) -> impl Future<Output = usize> + Send;

    /// How many connections of nodes the broker itself counts.
    fn connections(&self) -> impl Future<Output = usize> + Send;
}

/// What of a list of topics a broker can be asked for.
pub(crate) fn possible<'a, F: Fixture>(topics: &[&'a str]) -> Vec<&'a str> {
    topics.iter().copied().filter(|topic| F::PATTERNS || !topic.contains('*')).collect()
}

/// A broker with a server.
pub(crate) trait Server: Fixture {
    fn stop(&self) -> impl Future<Output = ()> + Send;

    /// Freezes it: its sockets stay open, and nobody answers.
    fn pause(&self);

    /// Lets it go on.
    fn resume(&self);

    /// Starts it where it was.
    fn restart(&self) -> impl Future<Output = ()> + Send;
}

/// A broker that keeps history.
pub(crate) trait KeepsHistory: Fixture {
    /// A broker of its own for one test, which can keep history.
    fn start_with_history() -> impl Future<Output = Self> + Send;

    /// Connects a node with these options of history; the first one makes what the broker needs.
    fn connect_with(&self, history: HistoryOptions) -> impl Future<Output = (Arc<dyn Broker>, Events)> + Send;

    /// Publishes into a channel's history with the headers `Fanfare-Event` and `Content-Type`, as a client that knows
    /// nothing of the adapters; false where the broker has no headers.
    fn publish_with_headers(
        &self,
        _tenant: &str,
        _channel: &str,
        _body: Bytes,
        _event: &str,
        _content_type: &str,
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// What the cases keep: `log` has 50 publications of a channel, `brief` has them for a second, `deep` has all. All other
/// namespaces are live only.
pub(crate) fn kept() -> HistoryOptions {
    let minutes = Duration::from_secs(300);
    let namespaces = [("log", 50, minutes), ("brief", 50, Duration::from_secs(1)), ("deep", 100_000, minutes)];
    let namespaces = namespaces.map(|(namespace, size, ttl)| (namespace.into(), Retention { size, ttl }));
    HistoryOptions { namespaces: namespaces.into(), ..HistoryOptions::default() }
}

/// A plain client.
#[async_trait::async_trait]
pub(crate) trait Outside: Send + Sync {
    /// Publishes and goes on; false where it knows that it failed.
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool;

    /// Publishes many in a row.
    async fn publish_all(&self, tenant: &str, channel: &str, bodies: Vec<Bytes>) -> bool {
        for body in bodies {
            if !self.publish(tenant, channel, body).await {
                return false;
            }
        }
        true
    }

    /// Returns when the server has all that was published.
    async fn flush(&self);

    /// Channels of which each of the broker's servers has one.
    fn marks(&self) -> Vec<String> {
        vec!["suite:mark".to_owned()]
    }
}
