//! Having the store do what the keeper asks for.

use std::{sync::Arc, time::Instant};

use fanfare_presence::{Call, Outcome, PresenceStore, StoreError};
use tokio::time::timeout;

use crate::limits::PRESENCE_CALL_TIME;

/// A call that is over.
pub(super) struct Done {
    pub(super) call: Call,
    pub(super) outcome: Outcome,
    /// How long it took, in seconds.
    pub(super) seconds: f64,
}

/// Does one call. What takes longer than [`PRESENCE_CALL_TIME`] counts as failed; whether it was done is not known then. A renewal is
/// given less: there has to be time for another.
pub(super) async fn carry_out(store: Arc<dyn PresenceStore>, call: Call) -> Done {
    let begun = Instant::now();
    let patience = match &call {
        Call::Renew(renewal) => PRESENCE_CALL_TIME.min(renewal.lease / 4),
        _ => PRESENCE_CALL_TIME,
    };
    let outcome = match timeout(patience, call.carry_out(&*store)).await {
        Ok(outcome) => outcome,
        Err(_) => failed(&call, late(store.name())),
    };
    Done { call, outcome, seconds: begun.elapsed().as_secs_f64() }
}

fn failed(call: &Call, error: StoreError) -> Outcome {
    match call {
        Call::Renew(_) => Outcome::Renewed(Err(error)),
        Call::Write(_) => Outcome::Written(Err(error)),
        Call::Noted { .. } => Outcome::Noted(Err(error)),
        Call::Read { .. } => Outcome::Read(Err(error)),
        Call::Standings(_) => Outcome::Standings(Err(error)),
        Call::Reap(_) => Outcome::Reaped(Err(error)),
        Call::Resign { .. }
        | Call::Note { .. }
        | Call::Unnote { .. }
        | Call::Reaped { .. }
        | Call::Listen(_)
        | Call::Unlisten(_) => Outcome::Done(Err(error)),
    }
}

fn late(store: &'static str) -> StoreError {
    StoreError::Unavailable { store, reason: format!("no answer within {} s", PRESENCE_CALL_TIME.as_secs()) }
}
