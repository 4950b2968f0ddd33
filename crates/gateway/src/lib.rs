//! The node: configuration, listeners, connections, hub, authentication, internal API and metrics.

pub mod auth;
#[doc(hidden)]
pub mod bench;
pub mod cli;
mod clock;
pub mod config;
mod encoding;
mod history;
mod hub;
mod internal;
mod lifecycle;
mod limits;
mod listener;
mod node;
mod origin;
mod presence;
mod public;
mod publishing;
mod readiness;
mod shard;
mod sse;
pub mod telemetry;
pub mod websocket;

pub use node::{Node, NodeError, RunningNode};
