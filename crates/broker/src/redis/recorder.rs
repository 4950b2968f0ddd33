//! History by the function library: publishes, reads and positions over one connection.

use std::time::Duration;

use fanfare_protocol::{Channel, Position, Tenant};
use fred::types::Value;

use super::{
    NAME, calling,
    functions::{self, Call, Functions, Malformed},
    library::{self, FunctionLibrary},
    session::Session,
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
        library::prepare(session, &self.library(), self.request_timeout).await?;
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
        Box::pin(self.prepare(session)).await.map_err(|error| calling::unavailable(session, error))
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
            for answer in calling::call_all(session, &self.library(), self.request_timeout, calls).await? {
                standings.push(functions::parse_position(answer).map_err(refused)?);
            }
        }
        Ok(standings)
    }

    fn library(&self) -> FunctionLibrary {
        self.functions.library()
    }

    async fn call(&self, session: &Session, call: Call) -> Result<Value, BrokerError> {
        calling::call(session, &self.library(), self.request_timeout, call).await
    }

    fn retention(&self, channel: &Channel) -> Result<Retention, BrokerError> {
        self.options.retention(channel).ok_or_else(|| BrokerError::no_history(NAME, channel))
    }
}

fn refused(malformed: Malformed) -> BrokerError {
    BrokerError::Refused { broker: NAME, reason: malformed.to_string() }
}
