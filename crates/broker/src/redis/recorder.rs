//! History by the function library: publishes, reads and positions over one connection.

use std::time::Duration;

use fanfare_protocol::{Channel, Position, Tenant};
use fred::{error::Error, interfaces::ClientLike as _, types::Value};
use futures_util::future::try_join_all;

use super::{
    NAME,
    functions::{self, Call, Functions, Malformed},
    library,
    session::{Session, answer, command},
};
use crate::{BrokerError, HistoryOptions, HistoryPage, HistoryRead, Publish, Retention, Standing};

/// Channels whose positions are asked for in one go. Each keeps the server busy for some 15 µs.
const POSITIONS_AT_ONCE: usize = 256;

/// Calls the functions.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub(super) functions: Functions,
    pub(super) options: HistoryOptions,
    /// A replica may take the server's place, so that nothing that it says of its disk is a promise.
    pub(super) replaceable: bool,
    pub(super) request_timeout: Duration,
}

impl Recorder {
    /// Makes a new connection ready: the library is there, and the user may use it. Nothing where no namespace keeps history.
    pub(super) async fn prepare(&self, session: &Session) -> Result<(), BrokerError> {
        if self.options.namespaces.is_empty() {
            return Ok(());
        }
        library::prepare(session, &self.functions, self.request_timeout).await?;
        let durability = library::durability(session, self.replaceable, self.request_timeout).await?;
        session.remember_durability(durability);
        Ok(())
    }

    /// What could not be made ready when the connection was new, such as on a server that was loading its data, is made so
    /// now: a call that does not know what the server promises would begin a new epoch for nothing.
    async fn ready(&self, session: &Session) -> Result<(), BrokerError> {
        if session.is_prepared() {
            return Ok(());
        }
        Box::pin(self.prepare(session)).await.map_err(|error| unavailable(session, error))
    }

    /// Where it stands, once a replica has it too where there are any.
    pub(super) async fn publish(
        &self,
        session: &Session,
        publish: &Publish,
        retention: Retention,
    ) -> Result<Position, BrokerError> {
        self.ready(session).await?;
        let call = self.functions.publish(publish, retention, session.durability());
        let appended = functions::parse_publish(self.call(session, call).await?).map_err(refused)?;
        if appended.replicas > 0 {
            // Half of it, since the wait for others' publications may come before.
            session.replicas.confirm(session, self.request_timeout / 2).await?;
        }
        Ok(appended.position)
    }

    pub(super) async fn history(&self, session: &Session, read: &HistoryRead) -> Result<HistoryPage, BrokerError> {
        let retention = self.retention(&read.channel)?;
        self.ready(session).await?;
        let call = self.functions.history(read, retention, session.durability());
        functions::parse_history(self.call(session, call).await?, read.range).map_err(refused)
    }

    pub(super) async fn positions(
        &self,
        session: &Session,
        channels: &[(Tenant, Channel)],
    ) -> Result<Vec<Standing>, BrokerError> {
        let mut standings = Vec::with_capacity(channels.len());
        for channels in channels.chunks(POSITIONS_AT_ONCE) {
            let call = |(tenant, channel): &(Tenant, Channel)| {
                let retention = self.retention(channel)?;
                Ok(self.functions.position(tenant, channel, retention, session.durability()))
            };
            self.ready(session).await?;
            let calls = channels.iter().map(call).collect::<Result<Vec<_>, BrokerError>>()?;
            for answer in self.call_all(session, calls).await? {
                standings.push(functions::parse_position(answer).map_err(refused)?);
            }
        }
        Ok(standings)
    }

    fn retention(&self, channel: &Channel) -> Result<Retention, BrokerError> {
        self.options.retention(channel).ok_or_else(|| BrokerError::no_history(NAME, channel))
    }

    async fn call(&self, session: &Session, call: Call) -> Result<Value, BrokerError> {
        let mut answers = self.call_all(session, vec![call]).await?;
        Ok(answers.pop().expect("one call has one answer"))
    }

    /// In one round trip. Loads the library once more where somebody has taken it away.
    async fn call_all(&self, session: &Session, calls: Vec<Call>) -> Result<Vec<Value>, BrokerError> {
        let called = answer(session, self.request_timeout, send_all(session, calls.clone())).await;
        let called = match called {
            Err(BrokerError::Refused { reason, .. }) if functions::is_missing(&reason) => {
                library::prepare(session, &self.functions, self.request_timeout).await?;
                answer(session, self.request_timeout, send_all(session, calls)).await
            }
            called => called,
        };
        called.map_err(|error| unavailable(session, error))
    }
}

async fn send_all(session: &Session, calls: Vec<Call>) -> Result<Vec<Value>, Error> {
    let send = |call: Call| session.client.custom::<Value, _>(command("FCALL"), call.into_arguments());
    try_join_all(calls.into_iter().map(send)).await
}

/// What the server refuses before it has done anything, and will not refuse for ever.
fn unavailable(session: &Session, error: BrokerError) -> BrokerError {
    const FOR_NOW: [&str; 6] = ["READONLY", "LOADING", "BUSY", "NOREPLICAS", "MASTERDOWN", "MISCONF"];
    let BrokerError::Refused { reason, .. } = &error else { return error };
    let kind = reason.split(' ').next().unwrap_or_default();
    if !FOR_NOW.contains(&kind) {
        return error;
    }
    tracing::warn!(%reason, "Redis does not take publications now");
    if kind == "READONLY" {
        // Another server is the master.
        session.end();
    }
    BrokerError::Unavailable { broker: NAME }
}

fn refused(malformed: Malformed) -> BrokerError {
    BrokerError::Refused { broker: NAME, reason: malformed.to_string() }
}
