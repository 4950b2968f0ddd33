//! What services are told of connections and channels, on `rt.event.{tenant}.{kind}`: chosen by `events` of the configuration,
//! off by default.
//!
//! Each shard keeps a [`Ledger`] of what it told, the presence driver's turnouts go through [`Turnouts`], and one task, the
//! [`Courier`], hands the events to the broker until it has taken them. An event's id is the same whoever tells it, so that
//! services can pass over what comes twice.

mod courier;
mod event;
mod lanes;
mod ledger;
mod queue;
mod turnouts;

use std::sync::Arc;

use fanfare_session::{LifecycleEvents, SessionConfig};

pub(crate) use courier::{Courier, CourierEnd};
pub(crate) use ledger::{Ledger, reason_of};
pub(crate) use queue::{LifecycleQueue, lifecycle_queue};
pub(crate) use turnouts::Turnouts;

/// What everybody on the node has in common who tells something. There only where something is told.
#[derive(Clone, Debug)]
pub(crate) struct LifecycleContext {
    pub(crate) queue: LifecycleQueue,
    /// The node's name.
    pub(crate) node: Arc<str>,
    /// What is told of connections.
    pub(crate) events: LifecycleEvents,
    /// What is told of channels stands in their namespaces.
    pub(crate) config: Arc<SessionConfig>,
}

impl LifecycleContext {
    /// What is told of a channel or pattern.
    fn of(&self, channel: &str) -> LifecycleEvents {
        let namespace = channel.split_once(':').map_or(channel, |(namespace, _)| namespace);
        self.config.namespaces.get(namespace).events
    }
}

/// Whether either of them is in a set.
fn wants_any(events: LifecycleEvents, one: LifecycleEvents, other: LifecycleEvents) -> bool {
    events.contains(one) || events.contains(other)
}
