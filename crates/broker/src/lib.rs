//! The [`Broker`] trait, the stream of its events, and the adapters behind it: memory, NATS and Redis.
//!
//! An adapter knows subjects and connections, never sessions. It hands the hub one bounded stream of
//! [`BrokerEvent`]s; the hub tells it what this node is interested in. All adapters pass one conformance suite.

mod address;
#[cfg(any(feature = "nats", feature = "redis"))]
mod backoff;
#[cfg(any(feature = "nats", feature = "redis"))]
mod body;
mod error;
mod event;
mod history;
mod lifecycle;
pub mod limits;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
mod open;
mod options;
mod outlet;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "redis")]
pub mod redis_cluster;
#[cfg(feature = "redis")]
pub mod redis_link;
#[cfg(any(feature = "nats", feature = "redis"))]
mod tls;
#[cfg(any(feature = "nats", feature = "redis"))]
mod unreadable;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_protocol::{Channel, Position, Tenant, Topic};

pub use error::BrokerError;
pub use event::{BrokerEvent, Events, InterestId, Interruption, LivePosition, Publication, Scope};
pub use history::{HistoryOptions, HistoryPage, HistoryRange, HistoryRead, Recorded, Retention, Standing, Storage};
pub use lifecycle::{Lifecycle, LifecycleKind};
pub use open::open;
pub use options::{BrokerOptions, check_url, mask_url};

/// What the adapters' libraries should log at most, as directives of `tracing`'s filter, before those that a person names.
/// The NATS client tells at info of every connection that it makes.
pub const LOG_DIRECTIVES: &str = "async_nats=warn";

/// What a node wants from the broker: a channel or pattern of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Chosen by the hub; comes back with every publication, so that nothing is looked up by name. Never used twice.
    pub id: InterestId,
    /// Whose channel it is.
    pub tenant: Tenant,
    /// Which channel or pattern.
    pub topic: Topic,
}

/// An event to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Whose channel it is.
    pub tenant: Tenant,
    /// Where to.
    pub channel: Channel,
    /// The envelope, as JSON.
    pub body: Bytes,
    /// The publication's id, for idempotence where the broker keeps history.
    pub id: Option<String>,
    /// Live only, whatever the namespace keeps: it comes without a position, is in no history, and whoever is away misses
    /// it. The `id` has no effect.
    pub ephemeral: bool,
}

/// What the broker said to a publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Where it stands on a channel with history; where its id had been published before, where that stands.
    pub position: Option<Position>,
}

/// A message broker, as a node sees it. Every call is safe to make at the same time as any other.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// A word for logs and metrics: `memory`, `nats`, `redis`.
    fn name(&self) -> &'static str;

    /// Publishes one event. `Ok` means on a channel with history that the broker has it for good, as far as it is
    /// configured to; on one without, that the broker's connection took it: on Redis that the server answered, on NATS that
    /// it was written to a server that is connected.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] while there is no connection (nothing was sent), [`BrokerError::Timeout`] where it may or
    /// may not have been sent, [`BrokerError::TooLarge`] for a body over the broker's limit.
    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError>;

    /// Tells services of something that happened to a connection or a channel. `Ok` means on NATS with a stream for these that
    /// the stream has it for good; elsewhere what it means for a publication without history. Telling the same `id` again
    /// within the broker's window for duplicates stores nothing new.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish). What was refused will be refused again.
    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError>;

    /// Adds interests, many in one round trip. When it returns `Ok`, every publication that the broker takes from now on
    /// will come, whoever publishes it: the broker itself has confirmed the interest. An interest, once added, is kept
    /// over reconnects until it is removed.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] while there is no connection, [`BrokerError::Timeout`] where it was not confirmed in
    /// time. After an error none of them is held.
    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError>;

    /// Removes interests; those that are not held are passed over. Publications already on their way may still come.
    async fn remove_interests(&self, interests: &[InterestId]);

    /// Reads a part of a channel's history.
    ///
    /// # Errors
    /// [`BrokerError::NoHistory`] where the channel's namespace keeps none, else as for the other calls.
    async fn history(&self, read: HistoryRead) -> Result<HistoryPage, BrokerError> {
        Err(BrokerError::no_history(self.name(), &read.channel))
    }

    /// Where channels stand, as the broker's leader says now: in the order asked for, many in one round trip.
    ///
    /// # Errors
    /// As for [`history`](Self::history).
    async fn positions(&self, channels: &[(Tenant, Channel)]) -> Result<Vec<Standing>, BrokerError> {
        let namespace = channels.first().map_or_else(String::new, |(_, channel)| channel.namespace().to_owned());
        Err(BrokerError::NoHistory { broker: self.name(), namespace })
    }

    /// Ends connections and tasks, and waits for them. The stream of events ends.
    async fn close(&self);
}
