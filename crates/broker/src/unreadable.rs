//! Messages that are no publications.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// Least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The counter of everything that the broker brought and nobody gets, here and in the gateway, which describes it.
const REFUSED: &str = "fanfare_publications_refused_total";
/// Under which reason messages are counted here.
const REASON: &str = "no_channel";

/// Counts messages whose name is no channel's, or that could not be read at all, and logs a few of them: whoever may publish could fill a disk otherwise.
#[derive(Debug, Default)]
pub(crate) struct UnreadableLog {
    count: u64,
    logged: Option<Instant>,
}

impl UnreadableLog {
    pub(crate) fn note(&mut self, broker: &'static str, reason: &dyn fmt::Display) {
        self.count += 1;
        metrics::counter!(REFUSED, "reason" => REASON).increment(1);
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::debug!(broker, count = self.count, %reason, "a message is not delivered, for it is no publication");
        }
    }
}
