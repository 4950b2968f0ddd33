//! The function library on a server: whether it is there and may be used, and what the server promises of its disk.

use std::{collections::HashMap, time::Duration};

use fred::{interfaces::ClientLike as _, types::Value};

use super::{
    FUNCTIONS, NAME,
    functions::{self, Checked, Durability, Functions},
    session::{Session, answer, command},
};
use crate::BrokerError;

/// How the library is loaded by hand.
const BY_HAND: &str = "load it with `fanfare redis-functions | redis-cli -x FUNCTION LOAD REPLACE`";

/// Loads the library where it is missing or older than this node's, and checks that the user may do what it does.
///
/// # Errors
/// [`BrokerError::Refused`] says what to load or to allow.
pub(super) async fn prepare(session: &Session, functions: &Functions, limit: Duration) -> Result<(), BrokerError> {
    let found = check(session, functions, limit).await?;
    let is_current = found.as_ref().is_some_and(|found| found.revision >= functions::revision());
    let found = if is_current { found } else { load(session, functions, limit, found).await? };
    let mut missing = found.map(|found| found.missing).unwrap_or_default();
    // Answers at once, with or without replicas.
    let waiting = session.client.custom::<Value, _>(command("WAIT"), vec![Value::from(0), Value::from(1)]);
    match answer(session, limit, waiting).await {
        Err(BrokerError::Refused { reason, .. }) if reason.starts_with("NOPERM") => missing.push("wait".to_owned()),
        // A replica refuses it too; it refuses publications as well.
        Ok(_) | Err(BrokerError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(refused(format!("history needs commands that this user may not use: {}", missing.join(", "))))
}

/// What the server promises of its disk. Asked on every new connection, since it may be another server.
///
/// # Errors
/// Where there is no answer. A refusal is one: then nothing is promised.
pub(super) async fn durability(
    session: &Session,
    replaceable: bool,
    limit: Duration,
) -> Result<Durability, BrokerError> {
    if replaceable {
        return Ok(Durability::Loose);
    }
    let words = vec!["GET", "appendonly", "appendfsync", "no-appendfsync-on-rewrite"];
    let asking = session.client.custom::<HashMap<String, String>, _>(command("CONFIG"), words);
    match answer(session, limit, asking).await {
        Ok(settings) if is_durable(&settings) => Ok(Durability::Durable),
        Ok(_) => Ok(Durability::Loose),
        Err(error @ BrokerError::Refused { .. }) => {
            tracing::info!(%error, "Redis does not say when it writes to its disk, so history begins anew when it restarts");
            Ok(Durability::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn is_durable(settings: &HashMap<String, String>) -> bool {
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|found| found == value);
    is("appendonly", "yes") && is("appendfsync", "always") && is("no-appendfsync-on-rewrite", "no")
}

/// None where the library is not there.
async fn check(session: &Session, functions: &Functions, limit: Duration) -> Result<Option<Checked>, BrokerError> {
    let words = functions.check().into_arguments();
    let asking = session.client.custom::<Value, _>(command("FCALL"), words);
    match answer(session, limit, asking).await {
        Ok(found) => functions::parse_check(found).map(Some).map_err(|error| refused(error.to_string())),
        Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => Ok(None),
        Err(BrokerError::Refused { reason, .. }) if reason.contains("unknown command") => {
            Err(refused(format!("history needs Redis 7.0 or later, which has functions ({reason})")))
        }
        Err(error) => Err(error),
    }
}

/// Another node may load it at the same time: both bring the same.
async fn load(
    session: &Session,
    functions: &Functions,
    limit: Duration,
    found: Option<Checked>,
) -> Result<Option<Checked>, BrokerError> {
    let loading = session.client.custom::<Value, _>(command("FUNCTION"), vec!["LOAD", "REPLACE", FUNCTIONS]);
    match (answer(session, limit, loading).await, found) {
        (Ok(_), _) => {
            tracing::info!(revision = functions::revision(), "the function library fanfare_v1 is loaded into Redis");
            check(session, functions, limit).await
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

fn refused(reason: String) -> BrokerError {
    BrokerError::Refused { broker: NAME, reason }
}
