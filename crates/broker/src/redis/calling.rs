//! Calls of functions over one connection.

use std::time::Duration;

use fred::{error::Error, interfaces::ClientLike as _, types::Value};
use futures_util::future::try_join_all;

use super::{
    NAME,
    functions::{self, Call},
    library::{self, FunctionLibrary},
    session::{Session, answer, command},
};
use crate::BrokerError;

/// Calls one function.
///
/// # Errors
/// As [`call_all`].
pub(crate) async fn call(
    session: &Session,
    library: &FunctionLibrary,
    limit: Duration,
    call: Call,
) -> Result<Value, BrokerError> {
    let mut answers = call_all(session, library, limit, vec![call]).await?;
    Ok(answers.pop().expect("one call has one answer"))
}

/// Calls functions in one round trip. Loads the library once more where somebody has taken it away.
///
/// # Errors
/// [`BrokerError::Unavailable`] where the server does nothing now, [`BrokerError::Refused`] for all other errors that it answers,
/// [`BrokerError::Timeout`] where nobody knows.
pub(crate) async fn call_all(
    session: &Session,
    library: &FunctionLibrary,
    limit: Duration,
    calls: Vec<Call>,
) -> Result<Vec<Value>, BrokerError> {
    let called = answer(session, limit, send_all(session, calls.clone())).await;
    let called = match called {
        Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => {
            library::prepare(session, library, limit).await?;
            answer(session, limit, send_all(session, calls)).await
        }
        called => called,
    };
    called.map_err(|error| unavailable(session, error))
}

async fn send_all(session: &Session, calls: Vec<Call>) -> Result<Vec<Value>, Error> {
    let send = |call: Call| session.client.custom::<Value, _>(command("FCALL"), call.into_arguments());
    try_join_all(calls.into_iter().map(send)).await
}

/// What the server refuses before it has done anything, and will not refuse for ever.
pub(crate) fn unavailable(session: &Session, error: BrokerError) -> BrokerError {
    const FOR_NOW: [&str; 6] = ["READONLY", "LOADING", "BUSY", "NOREPLICAS", "MASTERDOWN", "MISCONF"];
    let BrokerError::Refused { reason, .. } = &error else { return error };
    let kind = reason.split(' ').next().unwrap_or_default();
    if !FOR_NOW.contains(&kind) {
        return error;
    }
    tracing::warn!(%reason, "Redis does not carry out functions now");
    if kind == "READONLY" {
        // Another server is the master.
        session.end();
    }
    BrokerError::Unavailable { broker: NAME }
}
