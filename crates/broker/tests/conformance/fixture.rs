//! What a case needs to know of a broker.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_broker::{Broker, Events};

/// Generous: the machine may be busy with a build.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A broker of its own for one test.
pub(crate) trait Fixture: Sized + Send + Sync + 'static {
    /// The module in which its tests are.
    const NAME: &'static str;

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
}
