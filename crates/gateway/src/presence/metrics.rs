//! The driver's counters.

use fanfare_presence::{Outcome, StoreError};
use metrics::{Counter, Gauge, counter, gauge, histogram};

use super::calls::{self, Done};
use crate::telemetry::metrics as names;

/// See the module.
pub(super) struct PresenceMetrics {
    pub(super) dropped: Counter,
    reaped: Counter,
    lease_held: Gauge,
    questions: Gauge,
}

impl PresenceMetrics {
    pub(super) fn new() -> Self {
        let lease_held = gauge!(names::PRESENCE_LEASE_HELD);
        lease_held.set(0);
        Self {
            dropped: counter!(names::PRESENCE_ANNOUNCEMENTS_DROPPED_TOTAL),
            reaped: counter!(names::PRESENCE_REAPED_ROWS_TOTAL),
            lease_held,
            questions: gauge!(names::PRESENCE_QUESTIONS),
        }
    }

    /// Counts a call at the store that is over.
    pub(super) fn called(&self, done: &Done) {
        let call = calls::kind(&done.call);
        let result = match calls::error(&done.outcome) {
            None => "ok",
            Some(StoreError::Unavailable { .. }) => "unavailable",
            Some(StoreError::Refused { .. } | StoreError::Configuration { .. }) => "refused",
        };
        counter!(names::PRESENCE_STORE_CALLS_TOTAL, "call" => call, "result" => result).increment(1);
        histogram!(names::PRESENCE_STORE_CALL_SECONDS, "call" => call).record(done.seconds);
        match &done.outcome {
            Outcome::Renewed(leases) => {
                self.lease_held.set(f64::from(u8::from(leases.as_ref().is_ok_and(|leases| leases.held))));
            }
            Outcome::Reaped(Ok(reaped)) => self.reaped.increment(reaped.removed.len() as u64),
            _ => {}
        }
    }

    pub(super) fn announced(&self, kind: &'static str) {
        counter!(names::PRESENCE_ANNOUNCEMENTS_TOTAL, "event" => kind).increment(1);
    }

    /// Publishes how much is in hand.
    pub(super) fn publish(&self, questions: usize) {
        self.questions.set(questions as f64);
    }
}
