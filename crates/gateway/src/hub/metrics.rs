//! The hub's counters.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::metrics as names;

/// See the module.
pub(super) struct HubMetrics {
    pub(super) received: Counter,
    pub(super) topics: Gauge,
    pub(super) shard_interruptions: Counter,
    pub(super) position_checks: Counter,
    pub(super) ring_bytes: Gauge,
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
            position_checks: counter!(names::POSITION_CHECKS_TOTAL),
            ring_bytes: gauge!(names::HISTORY_RING_BYTES),
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

    /// Counts a read of history at the broker.
    pub(super) fn history_read(&self, purpose: &'static str) {
        counter!(names::HISTORY_READS_TOTAL, "purpose" => purpose).increment(1);
    }

    /// Counts a subscription that recovered or did not, or began with the newest publications.
    pub(super) fn recovered(&self, recovered: Option<bool>) {
        let result = match recovered {
            Some(true) => "recovered",
            Some(false) => "not_recovered",
            None => "rewound",
        };
        counter!(names::RECOVERIES_TOTAL, "result" => result).increment(1);
    }

    /// Counts a subscription that could not be told what it missed.
    pub(super) fn not_answered(&self) {
        counter!(names::RECOVERIES_TOTAL, "result" => "unavailable").increment(1);
    }

    pub(super) fn resumed(&self) {
        self.broker_connected.set(1);
    }
}
