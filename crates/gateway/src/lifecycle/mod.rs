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

use fanfare_session::{LifecycleEvents, NamespaceTable};

pub(crate) use courier::{Courier, CourierEnd};
pub(crate) use ledger::Ledger;
pub(crate) use queue::{LifecycleQueue, lifecycle_queue};
pub(crate) use turnouts::Turnouts;

/// Whether anything is told at all.
pub(crate) fn is_wanted(node: LifecycleEvents, namespaces: &NamespaceTable) -> bool {
    let mut all = namespaces.declared.values().chain([&namespaces.defaults]);
    !node.is_empty() || all.any(|namespace| !namespace.events.is_empty())
}

/// Whether either of them is in a set.
fn wants_any(events: LifecycleEvents, one: LifecycleEvents, other: LifecycleEvents) -> bool {
    events.contains(one) || events.contains(other)
}
