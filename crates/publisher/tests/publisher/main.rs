//! The publisher and the `fanfare` command line against real brokers and small servers of the tests' own.

// Clippy takes only functions marked as tests for tests; all of this is.
#![allow(clippy::unwrap_used)]

mod cli_publish;
mod cli_redis_functions;
mod cli_subscribe;
mod cli_token;
mod command;
mod history;
mod http;
mod nats;
mod node;
mod redis;
mod socket;

use std::time::Duration;

/// How long a test waits for what has to happen.
const SOON: Duration = Duration::from_secs(20);
