//! The function library `fanfare_v1` on a master: loaded where it is missing or old, and whether the user may use it.

use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use tokio::time::timeout;

use super::{
    NAME,
    caller::Caller,
    connection::{command, error_of},
};
use crate::{
    BrokerError,
    redis::{
        FUNCTIONS,
        functions::{self, Call, Checked, Functions},
    },
};

/// How the library is loaded by hand.
const BY_HAND: &str = "load it on every master with `fanfare redis-functions | redis-cli -x FUNCTION LOAD REPLACE`";

/// Makes a master ready.
///
/// # Errors
/// [`BrokerError::Refused`] says what to load or to allow; [`BrokerError::Timeout`] where there is no answer.
pub(super) async fn prepare(caller: &Caller, functions: &Functions, limit: Duration) -> Result<(), BrokerError> {
    let found = check(caller, functions, limit).await?;
    let is_current = found.as_ref().is_some_and(|found| found.revision >= functions::revision());
    let found = if is_current { found } else { load(caller, functions, limit, found).await? };
    let mut missing = found.map(|found| found.missing).unwrap_or_default();
    // Answers at once, with or without replicas.
    match ask(caller, command(&["WAIT", "0", "1"]), limit).await {
        Err(BrokerError::Refused { reason, .. }) if reason.starts_with("NOPERM") => missing.push("wait".to_owned()),
        Ok(_) | Err(BrokerError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(refused(format!("history needs commands that this user may not use: {}", missing.join(", "))))
}

/// A call of a function as a command.
pub(super) fn encode_call(call: Call) -> Bytes {
    let words: Vec<Bytes> = std::iter::once(Bytes::from_static(b"FCALL"))
        .chain(call.into_arguments().into_iter().map(|word| match word {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            other => other.as_string().unwrap_or_default().into(),
        }))
        .collect();
    command(&words)
}

/// None where the library is not there.
async fn check(caller: &Caller, functions: &Functions, limit: Duration) -> Result<Option<Checked>, BrokerError> {
    match ask(caller, encode_call(functions.check()), limit).await {
        Ok(found) => functions::parse_check(found).map(Some).map_err(|error| refused(error.to_string())),
        Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Another node may load it at the same time: both bring the same.
async fn load(
    caller: &Caller,
    functions: &Functions,
    limit: Duration,
    found: Option<Checked>,
) -> Result<Option<Checked>, BrokerError> {
    let loading = ask(caller, command(&["FUNCTION", "LOAD", "REPLACE", FUNCTIONS]), limit).await;
    match (loading, found) {
        (Ok(_), _) => {
            tracing::info!(revision = functions::revision(), "the function library fanfare_v1 is loaded into a master");
            check(caller, functions, limit).await
        }
        (Err(BrokerError::Refused { reason, .. }), Some(found)) => {
            let (own, found_revision) = (functions::revision(), found.revision);
            tracing::warn!(own, found = found_revision, %reason, "an older function library fanfare_v1 stays: {BY_HAND}");
            Ok(Some(found))
        }
        (Err(BrokerError::Refused { reason, .. }), None) => {
            Err(refused(format!("the function library fanfare_v1 is not loaded ({reason}): {BY_HAND}")))
        }
        (Err(error), _) => Err(error),
    }
}

async fn ask(caller: &Caller, command: Bytes, limit: Duration) -> Result<Value, BrokerError> {
    let unanswered = || BrokerError::Timeout { broker: NAME, waited: limit };
    let answer = timeout(limit, caller.call(command, false)).await.map_err(|_| unanswered())?;
    let answer = answer.map_err(|_| unanswered())?;
    match error_of(&answer) {
        Some(reason) => Err(refused(reason)),
        None => Value::try_from(answer).map_err(|error| refused(error.to_string())),
    }
}

fn refused(reason: String) -> BrokerError {
    BrokerError::Refused { broker: NAME, reason }
}
