//! The function library on a server: whether it is there and may be used, and what the server promises of its disk.
//!
//! What makes it ready is the same on one server and on each master of a cluster; they differ in how they are asked.

use std::{collections::HashMap, time::Duration};

use fred::{interfaces::ClientLike as _, types::Value};

use super::{
    NAME,
    functions::{self, Call, Checked, Durability},
    session::{Session, answer, command},
};
use crate::BrokerError;

/// A library of functions that a server has to have before they are called.
#[derive(Clone, Copy, Debug)]
pub struct FunctionLibrary {
    /// Its name, such as `fanfare_v1`.
    pub name: &'static str,
    /// Its text, with a line `local REVISION = N`: it is loaded where none is there, or one of a smaller revision.
    pub text: &'static str,
    /// The function that answers with the revision that is there, and a list of the commands that the caller may not use. It
    /// takes no keys.
    pub check: &'static str,
    /// What that function is given.
    pub check_arguments: &'static [&'static str],
    /// What needs it, for errors: `history`.
    pub purpose: &'static str,
    /// The command that prints it, for errors.
    pub printed_by: &'static str,
    /// Whether its callers wait for replicas (`WAIT`).
    pub waits: bool,
}

/// A connection over which a server can be asked anything.
pub(crate) trait Ask {
    /// The adapter's name, for its errors.
    const BROKER: &'static str;
    /// Where a library has to be, for those who load it by hand: empty, or ` on every master`.
    const WHERE: &'static str;

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] gives what the server answered; [`BrokerError::Timeout`] where there is no answer.
    fn ask(
        &self,
        command: &'static str,
        words: Vec<Value>,
        limit: Duration,
    ) -> impl Future<Output = Result<Value, BrokerError>> + Send;
}

/// Loads the library where it is missing or older than this node's, and checks that the user may do what it does.
///
/// # Errors
/// [`BrokerError::Refused`] says what to load or to allow; [`BrokerError::Timeout`] where there is no answer.
pub(crate) async fn prepare<S: Ask>(server: &S, library: &FunctionLibrary, limit: Duration) -> Result<(), BrokerError> {
    let found = check(server, library, limit).await?;
    let is_current = found.as_ref().is_some_and(|found| found.revision >= library.revision());
    let found = if is_current { found } else { load(server, library, limit, found).await? };
    let mut missing = found.map(|found| found.missing).unwrap_or_default();
    if library.waits {
        // Answers at once, with or without replicas.
        match server.ask("WAIT", vec![Value::from(0), Value::from(1)], limit).await {
            Err(BrokerError::Refused { reason, .. }) if reason.starts_with("NOPERM") => missing.push("wait".to_owned()),
            // A replica refuses it too; it refuses publications as well.
            Ok(_) | Err(BrokerError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let FunctionLibrary { purpose, .. } = library;
    Err(refused::<S>(format!("{purpose} needs commands that this user may not use: {}", missing.join(", "))))
}

impl FunctionLibrary {
    /// Which revision this program brings.
    pub(crate) fn revision(&self) -> u64 {
        let line = self.text.lines().find_map(|line| line.strip_prefix("local REVISION = "));
        line.and_then(|number| number.trim().parse().ok()).expect("a library names its revision")
    }

    /// Asks which revision is there and whether the user may do what it does.
    pub(crate) fn check_call(&self) -> Call {
        let arguments = self.check_arguments.iter().map(|argument| Value::from_static_str(argument)).collect();
        Call { function: self.check, keys: Vec::new(), arguments }
    }

    fn by_hand<S: Ask>(&self) -> String {
        format!("load it{} with `{} | redis-cli -x FUNCTION LOAD REPLACE`", S::WHERE, self.printed_by)
    }
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

impl Ask for Session {
    const BROKER: &'static str = NAME;
    const WHERE: &'static str = "";

    async fn ask(&self, name: &'static str, words: Vec<Value>, limit: Duration) -> Result<Value, BrokerError> {
        answer(self, limit, self.client.custom(command(name), words)).await
    }
}

/// None where the library is not there.
async fn check<S: Ask>(server: &S, library: &FunctionLibrary, limit: Duration) -> Result<Option<Checked>, BrokerError> {
    match server.ask("FCALL", library.check_call().into_arguments(), limit).await {
        Ok(found) => functions::parse_check(found).map(Some).map_err(|error| refused::<S>(error.to_string())),
        Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => Ok(None),
        Err(BrokerError::Refused { reason, .. }) if reason.contains("unknown command") => {
            let FunctionLibrary { purpose, .. } = library;
            Err(refused::<S>(format!("{purpose} needs Redis 7.0 or later, which has functions ({reason})")))
        }
        Err(error) => Err(error),
    }
}

/// Another node may load it at the same time: both bring the same.
async fn load<S: Ask>(
    server: &S,
    library: &FunctionLibrary,
    limit: Duration,
    found: Option<Checked>,
) -> Result<Option<Checked>, BrokerError> {
    let (broker, name, by_hand) = (S::BROKER, library.name, library.by_hand::<S>());
    let words = ["LOAD", "REPLACE", library.text].map(Value::from_static_str).to_vec();
    match (server.ask("FUNCTION", words, limit).await, found) {
        (Ok(_), _) => {
            tracing::info!(broker, revision = library.revision(), "the function library {name} is loaded");
            check(server, library, limit).await
        }
        (Err(BrokerError::Refused { reason, .. }), Some(found)) => {
            let (own, found_revision) = (library.revision(), found.revision);
            tracing::warn!(broker, own, found = found_revision, %reason, "an older function library {name} stays: {by_hand}");
            Ok(Some(found))
        }
        (Err(BrokerError::Refused { reason, .. }), None) => {
            Err(refused::<S>(format!("the function library {name} is not loaded ({reason}): {by_hand}")))
        }
        (Err(error), _) => Err(error),
    }
}

fn refused<S: Ask>(reason: String) -> BrokerError {
    BrokerError::Refused { broker: S::BROKER, reason }
}
