//! The protocol state machine of one connected client, without IO: commands in, actions out.
//!
//! The edge (a shard of the gateway) feeds [`Session`] with `handle_*`, carries out what `poll_action` gives, and calls
//! `handle_timeout` when `poll_timeout` says. Time is an argument, so tests run on virtual time.

mod action;
mod config;
mod connecting;
#[cfg(test)]
mod fixture;
mod grant;
mod history;
mod liveness;
mod pending;
mod permission;
mod publishing;
mod session;
mod start;
mod subscriptions;
mod time;
mod token;
mod topic_set;

pub use action::{Action, Completion, Granted, OpId, PublishAction, Refusal};
pub use config::{Access, Namespace, NamespaceTable, SessionConfig, SlowConsumer};
pub use grant::{Allow, Grant, Permission};
pub use session::{Handshake, Session, SessionId};
pub use time::Time;

pub use fanfare_protocol::{Asked, HistoryRange, Start};
