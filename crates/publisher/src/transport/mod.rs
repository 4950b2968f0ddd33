//! Where publications go: a broker, or the HTTP API of a node.

mod broker;
mod http;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_protocol::{Channel, Position, Tenant};
use std::time::Duration;
use tokio::time::Instant;

pub(crate) use broker::BrokerTransport;
pub(crate) use http::HttpTransport;

use crate::publication::Checked;

/// A publication as it is sent, the same in every attempt.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) tenant: Tenant,
    pub(crate) channel: Channel,
    pub(crate) id: String,
    pub(crate) body: Bytes,
}

/// What became of one attempt. A publication that was accepted has its position where its channel has a history.
pub(crate) type Attempted = Result<Option<Position>, Failure>;

/// One attempt, without policy: no retries, no window.
#[async_trait]
pub(crate) trait Transport: Send + Sync + 'static {
    /// A word for errors and logs.
    fn name(&self) -> &'static str;

    /// Writes a publication as this transport sends it, or says why it cannot be sent.
    fn encode(&self, checked: &Checked) -> Result<Bytes, String>;

    /// Sends all of them, those of one channel in the order given, and gives one outcome for each, by `until` at the
    /// latest. `publications` is not empty.
    async fn send(&self, publications: &[&Prepared], until: Instant) -> Vec<Attempted>;

    /// Ends connections and tasks, and waits for them.
    async fn close(&self);
}

/// Why one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
    /// The least pause before the next attempt that the other side asked for.
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Not accepted, and never will be.
    Refused,
    /// Not accepted, but may be later.
    NotAccepted,
    /// Perhaps accepted.
    Unknown,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), retry_after: None }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, reason)
    }

    pub(crate) fn not_accepted(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::NotAccepted, reason)
    }

    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self::new(FailureKind::Unknown, reason)
    }
}
