//! Who is on which channel, as the node lives it: one task that owns the [`Keeper`](fanfare_presence::Keeper), has the store do
//! what it asks for, takes what shards and the API ask, and hands announcements to the shards with somebody who is told.
//!
//! It waits for no shard and for no call at the store.

mod announcing;
mod answering;
mod calls;
pub(crate) mod connections;
mod driver;
pub(crate) mod message;
mod metrics;
mod outlet;
#[cfg(test)]
mod tests;

use fanfare_presence::{Answer, Incarnation, Place, Query, Row};
use fanfare_protocol::{ErrorBody, ErrorCode};
use tokio::sync::{mpsc, oneshot};

pub(crate) use answering::reply;
pub(crate) use driver::PresenceDriver;
use message::{Asker, PresenceRequest};

/// What the cluster's services may want to know of a channel's turnout.
#[derive(Debug)]
pub(crate) enum Turnout {
    /// Somebody is on the channel, where nobody was.
    Occupied(Place),
    /// Nobody is on the channel any more.
    Vacated(Place),
    /// A dead node's rows were found by this one, which tells of them.
    Lost { place: Place, dead: Incarnation, rows: Vec<Row> },
}

/// Takes what is told of turnouts. It is called by the driver, and must not wait.
pub(crate) type TurnoutSink = Box<dyn FnMut(Turnout) + Send>;

/// The API's way to the driver.
#[derive(Clone, Debug)]
pub(crate) struct PresenceHandle(mpsc::Sender<PresenceRequest>);

impl PresenceHandle {
    pub(crate) fn new(requests: mpsc::Sender<PresenceRequest>) -> Self {
        Self(requests)
    }

    /// Who is there?
    ///
    /// # Errors
    /// Where too many ask, or the node is about to end.
    pub(crate) async fn ask(&self, query: Query) -> Result<Answer, ErrorBody> {
        let (answer, answered) = oneshot::channel();
        let request = PresenceRequest::Ask { query, asker: Asker::Service(answer) };
        let ending = || ErrorBody::new(ErrorCode::Unavailable, "this node is going away");
        self.0.send(request).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    /// Tells that the node goes away, before the shards close connections.
    pub(crate) async fn drain(&self) {
        // Where the driver has ended, there is nothing to be told.
        let _ = self.0.send(PresenceRequest::Drain).await;
    }
}
