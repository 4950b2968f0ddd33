//! Sockets of which nothing is wanted but that they are open.

use std::time::Duration;

use crate::{
    LoadError,
    engine::{Hooks, frame::Frame},
};

/// How long each socket took until it was subscribed; what comes to it is passed over.
#[derive(Default)]
pub(crate) struct Opening {
    took: Vec<Duration>,
    reason: Option<String>,
}

impl Opening {
    /// Whether the server ended a socket, or did not open one.
    pub(crate) fn failed(&self) -> bool {
        self.reason.is_some()
    }

    /// An error that names the first such socket, if there is one.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        self.reason.clone().map_or(Ok(()), |reason| Err(LoadError::Failed(reason)))
    }

    /// From `connect` to the subscription, sorted, for percentiles.
    pub(crate) fn took(&mut self) -> &[Duration] {
        self.took.sort_unstable();
        &self.took
    }
}

impl Hooks for Opening {
    fn message(&mut self, _: usize, _: &Frame<'_>) {}

    fn opened(&mut self, _: usize, took: Duration) {
        self.took.push(took);
    }

    fn closed(&mut self, _: usize, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
    }
}
