//! Tests of the whole: nodes as processes, real brokers, and WebSocket clients of others.

#![allow(clippy::print_stdout)] // what was measured; outside of tests it belongs to the one ready line

mod bad_input;
mod broker;
mod client;
mod client_message;
mod cluster;
mod compression;
mod delivery;
mod faults;
mod handshake;
mod lifecycle;
mod lifecycle_events;
mod metrics;
mod msgpack;
mod node;
mod presence;
mod publication;
mod raw;
mod recovery;
mod slow_consumer;
mod sse;
mod token;

use std::time::Duration;

use tokio::sync::Mutex;

/// How long a test waits for what has to happen. Long, because the machine may be busy with a build; what is promised
/// within a time is measured against that time.
const SOON: Duration = Duration::from_secs(20);

/// The machine is one at a time's, of those tests that measure it or need much of it.
static MACHINE: Mutex<()> = Mutex::const_new(());
