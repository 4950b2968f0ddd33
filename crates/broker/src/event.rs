//! What an adapter tells the hub.

use fanfare_protocol::{Body, Channel, Position};
use tokio::sync::mpsc;

/// A number that the hub gives an interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterestId(pub u64);

/// The stream of an adapter's events, bounded by [`limits::EVENTS`](crate::limits::EVENTS).
pub type Events = mpsc::Receiver<BrokerEvent>;

/// What an adapter tells the hub, in the order in which it happened.
#[derive(Debug)]
pub enum BrokerEvent {
    /// Something was published on a channel that this node is interested in.
    Publication(Publication),
    /// From here on publications may be missing.
    Interrupted(Interruption),
    /// The interruption of this scope is over: what is published from now on comes. Where there was none, nothing is known
    /// to be missing, but something may be: positions have to be looked at, and nobody has to be told of a gap yet.
    Resumed(Scope),
}

/// An event as it came from the broker. Order is kept per channel.
#[derive(Debug)]
pub struct Publication {
    /// By which interest it came.
    pub interest: InterestId,
    /// The channel, where the interest is a pattern; `None` where it is the interest's own.
    pub channel: Option<Channel>,
    /// What was published.
    pub body: Body,
    /// The broker's time in milliseconds since the Unix epoch, where it has one.
    pub timestamp: Option<u64>,
    /// Where it stands, on channels with history. `None` there means that it was published past the history, and is live
    /// only.
    pub position: Option<LivePosition>,
}

/// Where a publication stands on its channel, and what was before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePosition {
    /// Its own position.
    pub position: Position,
    /// The offset of the publication before it on this channel, 0 for the first; `None` where the broker does not know.
    /// Where that is behind what the node delivered last, something is missing.
    pub previous: Option<u64>,
}

/// What is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything: the connection was lost, or came back.
    All,
    /// One interest.
    Interest(InterestId),
}

/// Publications may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// What is affected.
    pub scope: Scope,
    /// Why, as a word for metrics and for `system:gap`: `disconnected`, `slow_consumer`, `lagged`, `refused`; `new_epoch`
    /// where the history is another one than before.
    pub reason: &'static str,
}
