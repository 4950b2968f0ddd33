//! The protocol state machine of one connected client, without IO: commands in, actions out.
//!
//! The edge (a shard of the gateway) feeds [`Session`] with `handle_*`, carries out what `poll_action` gives, and calls
//! `handle_timeout` when `poll_timeout` says. Time is an argument, so tests run on virtual time.

mod action;
mod asking;
mod channel;
mod config;
mod connecting;
#[cfg(test)]
mod fixture;
mod grant;
mod history;
mod lifecycle;
mod liveness;
mod members;
mod pending;
mod permission;
mod presence;
mod presenting;
mod publishing;
mod rate;
mod session;
mod signals;
mod start;
mod subscriptions;
mod template;
mod time;
mod token;
mod topic_set;
mod word;

pub use action::{
    Action, Completion, Granted, JoinAction, OpId, PresenceAction, PresentAction, PublishAction, Refusal, SignalAction,
    Watching,
};
pub use config::{Access, Namespace, NamespaceTable, SessionConfig, SlowConsumer};
pub use grant::{Allow, Grant, Permission};
pub use lifecycle::LifecycleEvents;
pub use session::{Handshake, Session, SessionId};
pub use template::ChannelTemplate;
pub use time::Time;
pub use word::PresenceWord;

pub use fanfare_protocol::{Asked, HistoryRange, Start};
