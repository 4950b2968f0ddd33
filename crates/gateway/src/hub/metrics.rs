//! The hub's counters.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::metrics as names;

/// See the module.
pub(super) struct HubMetrics {
    pub(super) received: Counter,
    pub(super) topics: Gauge,
    pub(super) shard_interruptions: Counter,
    broker_connected: Gauge,
}

impl HubMetrics {
    pub(super) fn new() -> Self {
        let broker_connected = gauge!(names::BROKER_CONNECTED);
        broker_connected.set(1);
        Self {
            received: counter!(names::PUBLICATIONS_RECEIVED_TOTAL),
            topics: gauge!(names::CHANNELS),
            shard_interruptions: counter!(names::SHARD_INTERRUPTIONS_TOTAL),
            broker_connected,
        }
    }

    pub(super) fn refused(&self, reason: &'static str) {
        counter!(names::PUBLICATIONS_REFUSED_TOTAL, "reason" => reason).increment(1);
    }

    pub(super) fn interrupted(&self, reason: &'static str, everything: bool) {
        counter!(names::BROKER_INTERRUPTIONS_TOTAL, "reason" => reason).increment(1);
        if everything {
            self.broker_connected.set(0);
        }
    }

    pub(super) fn resumed(&self) {
        self.broker_connected.set(1);
    }
}
