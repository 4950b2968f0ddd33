//! The intake: a connection of our own, by which all interests come. It only receives.
//!
//! The client library spends several KiB on a subscription, wakes a task for each message, and gives up the connection
//! for a header that is no text. Here a subscription is a place in a table, and a message a slice of the read buffer. What
//! waits for the hub is bounded by the [`Outlet`](crate::outlet::Outlet) alone: while that is full nothing is read, and the
//! server keeps what comes, up to its `max_pending`; beyond it it ends the connection, which is told as any other loss.
//!
//! - `wire`, `headers`: what a server writes. Pure
//! - `table`: which interest a subscription is of. Pure
//! - `servers`, `dial`: which server, and how to get in
//! - `connection`: the buffers of one connection and what waits for PONGs
//! - `publication`: a message as a publication
//! - `task`: puts them together

mod connection;
mod dial;
mod headers;
mod publication;
mod servers;
mod table;
mod task;
mod wire;

pub(super) use self::{
    dial::{DialError, Dialer},
    headers::Headers,
    task::{Command, Intake, Opened, Parts, Place},
};
