//! Messages that are no publications.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts messages that could not be read and logs a few of them: whoever may publish could fill a disk otherwise.
#[derive(Debug, Default)]
pub(crate) struct UnreadableLog {
    count: u64,
    logged: Option<Instant>,
}

impl UnreadableLog {
    pub(crate) fn note(&mut self, broker: &'static str, reason: &dyn fmt::Display) {
        self.count += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::debug!(broker, count = self.count, %reason, "a message is not delivered, for it is no publication");
        }
    }
}
