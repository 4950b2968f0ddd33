//! What hub and shards say to each other. All of it goes through bounded inboxes.

use std::sync::Arc;

use fanfare_protocol::{ErrorBody, Missed, Position, Tenant, Topic};
use fanfare_session::{Completion, OpId, SessionId, Start};
use tokio::sync::oneshot;

use crate::encoding::EncodedPublication;

/// A shard's number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ShardId(pub(crate) u16);

/// A place in a shard's table of topics. The generation keeps what is still on its way to a former topic from the next
/// one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A place in a shard's table of connections, with its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What a shard wants of the hub. Only the first and the last subscriber of a topic on a shard make one.
#[derive(Debug)]
pub(crate) enum HubRequest {
    /// The shard has its first subscriber of a topic; answered by `Subscribed` or `Refused`.
    Subscribe { shard: ShardId, slot: SlotId, tenant: Tenant, topic: Topic },
    /// What lies behind a position on a channel with history, or its newest publications; answered by `Recovered`, unless
    /// the topic has ended meanwhile.
    Recover { recoverer: Recoverer, tenant: Tenant, topic: Topic, start: Start },
    /// The shard has no subscriber of the topic any more. Not answered.
    Unsubscribe { shard: ShardId, slot: SlotId, tenant: Tenant, topic: Topic },
}

/// Who wants what it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recoverer {
    pub(crate) shard: ShardId,
    pub(crate) slot: SlotId,
    /// A session that subscribes; `None` for the topic with all its subscribers on the shard.
    pub(crate) session: Option<(ConnectionId, OpId)>,
}

/// The answer to one who recovers. What lies behind `position` comes after it.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) position: Position,
    /// Whether `publications` are all that lie behind the position that was given; `None` where none was.
    pub(crate) recovered: Option<bool>,
    pub(crate) publications: Vec<Arc<EncodedPublication>>,
}

/// What a shard is told. One FIFO for all of it, so that a subscription and the publications after it cannot race.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// Deliver to the subscribers of these topics, each session once.
    Publication { targets: Targets, publication: Arc<EncodedPublication> },
    /// The broker holds the interest: what is published from now on comes.
    /// On a channel with history `position` is where it stands.
    Subscribed { slot: SlotId, position: Option<Position> },
    /// What one that recovers gets, or why not.
    Recovered { recoverer: Recoverer, result: Result<Recovery, ErrorBody> },
    /// The broker does not hold the interest, or not any more: who waits is refused, who is subscribed is told the end.
    Refused { slot: SlotId, refusal: ErrorBody },
    /// Publications on the topic were or may have been missed.
    Gap { slot: SlotId, reason: &'static str, missed: Option<Missed> },
    /// Publications on every topic of the shard were or may have been missed. Channels with history are repaired: by the hub,
    /// or where `repair` says so, by the shard, which asks for what it missed.
    GapEverywhere { reason: &'static str, repair: bool },
    /// An action of a session is done.
    Completed { connection: ConnectionId, op: OpId, completion: Completion },
    /// A service asks what the shard has.
    Inspect(Box<Inspection>),
    /// The node is going away: tell every session and close.
    Drain { reconnect_after_ms: u64 },
}

/// What a service asks of a shard: a part of one of its tables, from a place on, so that nothing waits long for it.
#[derive(Debug)]
pub(crate) enum Inspection {
    /// Topics of a tenant that begin with `prefix` and come behind `after` in the order of their names.
    Topics { tenant: Tenant, prefix: Box<str>, after: Box<str>, from: usize, answer: Inspector<TopicCount> },
    /// Connections of a user.
    Connections { tenant: Tenant, user: Box<str>, from: usize, answer: Inspector<ConnectionReport> },
}

/// Where the part of a table goes.
pub(crate) type Inspector<T> = oneshot::Sender<Inspected<T>>;

/// A part of a table.
#[derive(Debug)]
pub(crate) struct Inspected<T> {
    pub(crate) found: Vec<T>,
    /// The place to go on from; `None` at the end.
    pub(crate) next: Option<usize>,
}

/// A topic on one shard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TopicCount {
    pub(crate) topic: Topic,
    /// Connections that are subscribed.
    pub(crate) subscribers: usize,
}

/// A connection, as operators see it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectionReport {
    pub(crate) session: SessionId,
    /// Whether it is a stream of server-sent events; else a WebSocket.
    pub(crate) is_stream: bool,
    pub(crate) subscriptions: usize,
    /// Some of what it is subscribed to, in no order.
    pub(crate) topics: Vec<Topic>,
}

/// Topics of one shard that a publication belongs to: nearly always one; several where patterns overlap.
#[derive(Clone, Debug)]
pub(crate) enum Targets {
    One(SlotId),
    Several(Box<[SlotId]>),
}
