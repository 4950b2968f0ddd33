//! What shards and the API ask of the driver.

use std::sync::Arc;

use fanfare_presence::{Answer, Audience, ConnectionKey, Place, Query, Row, State};
use fanfare_protocol::ErrorBody;
use fanfare_session::OpId;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::hub::message::{ConnectionId, ShardId, SlotId};

/// One request. Those of one shard are taken in the order in which it made them.
#[derive(Debug)]
pub(crate) enum PresenceRequest {
    /// A connection is on a channel.
    Join { place: Place, row: Row },
    /// A connection is doing something else, or says something else of itself.
    Update { place: Place, connection: ConnectionKey, state: State, info: Option<Arc<RawValue>> },
    /// A connection is not on a channel any more. Passed over where it never was.
    Leave { place: Place, connection: ConnectionKey },
    /// The shard has its first subscriber who is told: announcements go to this slot.
    Watch { shard: ShardId, slot: SlotId, place: Place, audience: Audience },
    /// The shard's last subscriber who is told is gone.
    Unwatch { shard: ShardId, slot: SlotId, place: Place, audience: Audience },
    /// Who is there? Answered once.
    Ask { query: Query, asker: Asker },
    /// The node goes away: what shards tell from now on is not that clients have left.
    Drain,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A session, by [`Completion::Presence`](fanfare_session::Completion::Presence).
    Session { shard: ShardId, connection: ConnectionId, op: OpId },
    /// The API.
    Service(oneshot::Sender<Result<Answer, ErrorBody>>),
}
