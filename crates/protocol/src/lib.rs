//! What crosses a wire: channel names, subjects, the envelope, frames, codes, limits and codecs.
//!
//! This crate is pure: no IO, no clock, no randomness. `docs/protocol.md` is the normative text; the golden frames
//! in `tests/vectors/` are read by this crate's tests and by the clients' tests.

mod channel;
mod code;
mod command;
mod delivery;
mod envelope;
pub mod json;
pub mod limits;
pub mod msgpack;
mod pattern;
mod plain;
mod position;
mod presence;
mod recorded;
mod server;
mod start;
mod subject;
mod tenant;

pub use channel::{Channel, NameError, escape_segment, validate_channel};
pub use code::{CloseCode, ErrorCode};
pub use command::{ClientMessage, Command, CommandKind, DecodeError, HistoryCommand, PublishCommand};
pub use delivery::Delivery;
pub use envelope::{Body, Data, Envelope, EnvelopeError, EnvelopeHeaders};
pub use pattern::{Pattern, Topic};
pub use position::{Epoch, EpochError, Position};
pub use presence::{
    ChangeJson, CountJson, Info, MemberJson, PresenceCommand, PresenceReply, SetPresenceCommand, SignalCommand,
    SignalJson, Watch,
};
pub use recorded::RecordedJson;
pub use server::{
    Connected, ErrorBody, HistoryReply, Missed, Push, Reply, ServerMessage, Subscribed, SubscriptionOutcome,
};
pub use start::{Asked, HistoryRange, Start};
pub use subject::{EVENTS_NAMESPACE, NatsSubjects, RedisChannels, SubjectError};
pub use tenant::Tenant;

/// The version of the native protocol that the reply to `connect` names.
pub const PROTOCOL_VERSION: u32 = 1;

/// How a native client's frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Text frames, one JSON object each. Subprotocol `fanfare.v1.json`, and the default.
    Json,
    /// Binary frames, the same objects in MessagePack. Subprotocol `fanfare.v1.msgpack`.
    MessagePack,
}
