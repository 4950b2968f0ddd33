//! What a case needs to know of a store.

use std::{future::Future, sync::Arc, time::Duration};

use fanfare_presence::{PresenceStore, StoreEvents};

/// Generous: the machine may be busy with a build.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A store of its own for one test.
pub(crate) trait Fixture: Sized + Send + Sync + 'static {
    fn start() -> impl Future<Output = Self> + Send;

    /// Attaches a node.
    fn connect(&self) -> impl Future<Output = (Arc<dyn PresenceStore>, StoreEvents)> + Send;

    /// Whether the store itself still has anything of an incarnation: a lease or the memory of one, or notes.
    fn remembers(&self, incarnation: &str) -> impl Future<Output = bool> + Send;
}

/// A store that can be away.
pub(crate) trait Outage: Fixture {
    fn go_away(&self) -> impl Future<Output = ()> + Send;

    /// It is back, with its data or without.
    fn come_back(&self, with_data: bool) -> impl Future<Output = ()> + Send;
}
