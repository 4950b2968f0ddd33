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

/// Does one call. What takes longer than [`PRESENCE_CALL_TIME`] counts as failed; whether it was done is not known then.
pub(super) async fn carry_out(store: Arc<dyn PresenceStore>, call: Call) -> Done {
    let begun = Instant::now();
    let outcome = match timeout(PRESENCE_CALL_TIME, outcome(&*store, &call)).await {
        Ok(outcome) => outcome,
        Err(_) => failed(&call, late(store.name())),
    };
    Done { call, outcome, seconds: begun.elapsed().as_secs_f64() }
}

async fn outcome(store: &dyn PresenceStore, call: &Call) -> Outcome {
    match call {
        Call::Renew(renewal) => Outcome::Renewed(store.renew(renewal.clone()).await),
        Call::Resign { incarnation, after, at_once } => {
            Outcome::Done(store.resign(incarnation, *after, *at_once).await)
        }
        Call::Write(write) => Outcome::Written(store.write(write.clone()).await),
        Call::Note { incarnation, places } => Outcome::Done(store.note(incarnation, places).await),
        Call::Unnote { incarnation, places } => Outcome::Done(store.unnote(incarnation, places).await),
        Call::Noted { incarnation, cursor, limit } => Outcome::Noted(store.noted(incarnation, *cursor, *limit).await),
        Call::Read { place, cursor, limit } => Outcome::Read(store.read(place, *cursor, *limit).await),
        Call::Standings(places) => Outcome::Standings(store.standings(places).await),
        Call::Reap(reap) => Outcome::Reaped(store.reap(reap.clone()).await),
        Call::Reaped { dead, again } => Outcome::Done(store.reaped(dead, *again).await),
        Call::Listen(places) => Outcome::Done(store.listen(places).await),
        Call::Unlisten(places) => {
            store.unlisten(places).await;
            Outcome::Done(Ok(()))
        }
    }
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

/// A word for metrics.
pub(super) fn kind(call: &Call) -> &'static str {
    match call {
        Call::Renew(_) => "renew",
        Call::Resign { .. } => "resign",
        Call::Write(_) => "write",
        Call::Note { .. } => "note",
        Call::Unnote { .. } => "unnote",
        Call::Noted { .. } => "noted",
        Call::Read { .. } => "read",
        Call::Standings(_) => "standings",
        Call::Reap(_) => "reap",
        Call::Reaped { .. } => "reaped",
        Call::Listen(_) => "listen",
        Call::Unlisten(_) => "unlisten",
    }
}

/// Why a call failed, if it did.
pub(super) fn error(outcome: &Outcome) -> Option<&StoreError> {
    match outcome {
        Outcome::Renewed(result) => result.as_ref().err(),
        Outcome::Written(result) => result.as_ref().err(),
        Outcome::Noted(result) => result.as_ref().err(),
        Outcome::Read(result) => result.as_ref().err(),
        Outcome::Standings(result) => result.as_ref().err(),
        Outcome::Reaped(result) => result.as_ref().err(),
        Outcome::Done(result) => result.as_ref().err(),
    }
}
