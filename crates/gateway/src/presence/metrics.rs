//! The driver's counters.

use fanfare_presence::{Keeper, Outcome, StoreError, Told};
use metrics::{Counter, Gauge, counter, gauge, histogram};

use super::calls::Done;
use crate::telemetry::metrics as names;

/// See the module.
pub(super) struct PresenceMetrics {
    pub(super) dropped: Counter,
    reaped: Counter,
    rows: Gauge,
    mirrored: Gauge,
    unwritten: Gauge,
    lease_held: Gauge,
    store_connected: Gauge,
    questions: Gauge,
}

impl PresenceMetrics {
    pub(super) fn new() -> Self {
        Self {
            dropped: counter!(names::PRESENCE_ANNOUNCEMENTS_DROPPED_TOTAL),
            reaped: counter!(names::PRESENCE_REAPED_ROWS_TOTAL),
            rows: gauge!(names::PRESENCE_ROWS),
            mirrored: gauge!(names::PRESENCE_CHANNELS_MIRRORED),
            unwritten: gauge!(names::PRESENCE_CHANNELS_UNWRITTEN),
            lease_held: gauge!(names::PRESENCE_LEASE_HELD),
            store_connected: gauge!(names::PRESENCE_STORE_CONNECTED),
            questions: gauge!(names::PRESENCE_QUESTIONS),
        }
    }

    /// Counts a call at the store that is over.
    pub(super) fn called(&self, done: &Done) {
        let call = done.call.name();
        let result = match done.outcome.failure() {
            None => "ok",
            Some(StoreError::Unavailable { .. }) => "unavailable",
            Some(StoreError::Refused { .. } | StoreError::Configuration { .. }) => "refused",
        };
        counter!(names::PRESENCE_STORE_CALLS_TOTAL, "call" => call, "result" => result).increment(1);
        histogram!(names::PRESENCE_STORE_CALL_SECONDS, "call" => call).record(done.seconds);
        if let Outcome::Reaped(Ok(reaped)) = &done.outcome {
            self.reaped.increment(reaped.removed.len() as u64);
        }
    }

    pub(super) fn announced(&self, told: &Told) {
        let event = match told {
            Told::Change(_) => "change",
            Told::Count(_) => "count",
            Told::Snapshot(_) => "snapshot",
        };
        counter!(names::PRESENCE_ANNOUNCEMENTS_TOTAL, "event" => event).increment(1);
    }

    /// Publishes how things stand.
    pub(super) fn publish(&self, keeper: &Keeper, questions: usize, away: bool) {
        self.rows.set(keeper.rows() as f64);
        self.mirrored.set(keeper.mirrored() as f64);
        self.unwritten.set(keeper.unwritten() as f64);
        self.lease_held.set(f64::from(u8::from(keeper.holds_lease())));
        self.store_connected.set(f64::from(u8::from(!away)));
        self.questions.set(questions as f64);
    }
}
