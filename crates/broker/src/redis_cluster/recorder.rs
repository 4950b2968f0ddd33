//! History by the function library, on the master of each channel's slot.

use std::{sync::Arc, time::Duration};

use fanfare_protocol::{Channel, Position, Tenant};
use fred::types::Value;
use futures_util::future::try_join_all;

use super::{NAME, caller::Caller, masters::Masters};
use crate::{
    BrokerError, HistoryOptions, HistoryPage, HistoryRead, Publish, Retention, Standing,
    redis::functions::{self, Call, Durability, Functions, Malformed},
};

/// Channels whose positions are asked for in one go. Each keeps its master busy for some 15 µs.
const POSITIONS_AT_ONCE: usize = 256;

/// Calls the functions.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub(super) functions: Functions,
    pub(super) options: HistoryOptions,
    pub(super) request_timeout: Duration,
}

impl Recorder {
    /// Where it stands, once a replica has it too where there are any.
    pub(super) async fn publish(
        &self,
        masters: &Masters,
        publish: &Publish,
        retention: Retention,
    ) -> Result<Position, BrokerError> {
        let call = |durability| self.functions.publish(publish, retention, durability);
        let (answer, caller) = self.call(masters, call).await?;
        let appended = functions::parse_publish(answer).map_err(refused)?;
        if appended.replicas > 0 {
            // Half of it, since the wait for others' publications may come before.
            caller.confirm(self.request_timeout / 2).await?;
        }
        Ok(appended.position)
    }

    pub(super) async fn history(&self, masters: &Masters, read: &HistoryRead) -> Result<HistoryPage, BrokerError> {
        let retention = self.retention(&read.channel)?;
        let call = |durability| self.functions.history(read, retention, durability);
        let (answer, _) = self.call(masters, call).await?;
        functions::parse_history(answer, read.range).map_err(refused)
    }

    pub(super) async fn positions(
        &self,
        masters: &Masters,
        channels: &[(Tenant, Channel)],
    ) -> Result<Vec<Standing>, BrokerError> {
        let mut standings = Vec::with_capacity(channels.len());
        for channels in channels.chunks(POSITIONS_AT_ONCE) {
            let call = async |(tenant, channel): &(Tenant, Channel)| {
                let retention = self.retention(channel)?;
                let call = |durability| self.functions.position(tenant, channel, retention, durability);
                self.call(masters, call).await
            };
            for (answer, _) in try_join_all(channels.iter().map(call)).await? {
                standings.push(functions::parse_position(answer).map_err(refused)?);
            }
        }
        Ok(standings)
    }

    fn retention(&self, channel: &Channel) -> Result<Retention, BrokerError> {
        self.options.retention(channel).ok_or_else(|| BrokerError::no_history(NAME, channel))
    }

    /// Says over which connection it was done.
    ///
    /// A replica may take any master's place, so nothing that a master says of its disk is a promise. But a channel whose slot
    /// has moved has lost nothing if the master that it comes from is still there, as it was.
    async fn call(
        &self,
        masters: &Masters,
        call: impl Fn(Durability) -> Call,
    ) -> Result<(Value, Arc<Caller>), BrokerError> {
        let mut durability = Durability::Ask;
        loop {
            let called = masters.call_function(call(durability)).await;
            let Err(BrokerError::Refused { reason, .. }) = &called else { return called };
            let Some(origin) = functions::unproven(reason).filter(|_| durability == Durability::Ask) else {
                return called;
            };
            durability = match masters.have(origin).await {
                true => Durability::From(origin),
                false => Durability::Loose,
            };
        }
    }
}

fn refused(malformed: Malformed) -> BrokerError {
    BrokerError::Refused { broker: NAME, reason: malformed.to_string() }
}
