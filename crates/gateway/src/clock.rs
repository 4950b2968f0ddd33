//! The node's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fanfare_session::Time;

/// Milliseconds since the node began; the same for all its shards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        Time::from_millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
