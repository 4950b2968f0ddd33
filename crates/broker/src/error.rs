//! Why a broker did not do what was asked.

use std::time::Duration;

use fanfare_protocol::Channel;

/// Why a broker did not do what was asked, or could not be reached at start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection now; nothing was sent.
    #[error("{broker} is not connected; nothing was sent")]
    Unavailable {
        /// Which broker, by name.
        broker: &'static str,
    },
    /// No answer in time; it may or may not have been done.
    #[error("{broker} did not answer within {waited:?}")]
    Timeout {
        /// Which broker, by name.
        broker: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// A body over the broker's own limit.
    #[error("the body has {bytes} bytes; {broker} allows {limit}")]
    TooLarge {
        /// Which broker, by name.
        broker: &'static str,
        /// The body's size in bytes.
        bytes: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// No server could be reached in time at start.
    #[error("{broker} at {servers} cannot be reached: {reason}")]
    Unreachable {
        /// Which broker, by name.
        broker: &'static str,
        /// Where it was looked for, without secrets.
        servers: String,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The broker refused.
    #[error("{broker} refused: {reason}")]
    Refused {
        /// Which broker, by name.
        broker: &'static str,
        /// What it said.
        reason: String,
    },
    /// History is asked for where none is kept.
    #[error("{broker} keeps no history of namespace {namespace:?}")]
    NoHistory {
        /// Which broker, by name.
        broker: &'static str,
        /// The channel's namespace.
        namespace: String,
    },
    /// An interest in a pattern where the broker knows none.
    #[error("{broker} knows no patterns; {topic} cannot be subscribed to")]
    NoPatterns {
        /// Which broker, by name.
        broker: &'static str,
        /// The pattern.
        topic: String,
    },
    /// A URL or option that cannot be used. The secret parts of a URL are left out.
    #[error("{what}: {value:?} cannot be used: {allowed}")]
    Configuration {
        /// Which option.
        what: &'static str,
        /// Its value, without secrets.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

impl BrokerError {
    /// History is asked for on a channel whose namespace keeps none.
    pub(crate) fn no_history(broker: &'static str, channel: &Channel) -> Self {
        Self::NoHistory { broker, namespace: channel.namespace().to_owned() }
    }
}
