//! Publishes of clients on their way to the broker.

use std::sync::Arc;

use fanfare_broker::{Broker, BrokerError, Publish, Published};
use fanfare_protocol::{ErrorBody, ErrorCode};
use fanfare_session::{Completion, Granted, OpId};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    hub::{
        ShardInbox,
        message::{ConnectionId, ShardMessage},
    },
    limits::CLIENT_PUBLISHES_IN_FLIGHT,
};

/// A publish of a client, and where its completion goes.
#[derive(Debug)]
pub(crate) struct ClientPublish {
    pub(crate) publish: Publish,
    pub(crate) shard: ShardInbox,
    pub(crate) connection: ConnectionId,
    pub(crate) op: OpId,
}

/// Hands publishes to the broker in the order in which they came, without waiting for one before the next: an adapter
/// sends in the order of first polls, so a client's own order is kept. Runs until cancelled; then what is in flight is finished.
pub(crate) async fn run(
    broker: Arc<dyn Broker>,
    mut publishes: mpsc::Receiver<ClientPublish>,
    cancelled: CancellationToken,
) {
    let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => break,
            Some(()) = in_flight.next() => {}
            next = publishes.recv(), if in_flight.len() < CLIENT_PUBLISHES_IN_FLIGHT => {
                let Some(next) = next else { break };
                let mut publishing = publish(broker.clone(), next).boxed();
                if futures_util::poll!(&mut publishing).is_pending() {
                    in_flight.push(publishing);
                }
            }
        }
    }
    while in_flight.next().await.is_some() {}
}

async fn publish(broker: Arc<dyn Broker>, job: ClientPublish) {
    let ClientPublish { publish, shard, connection, op } = job;
    let result = match broker.publish(publish).await {
        Ok(Published { .. }) => Ok(Granted {}),
        Err(error) => Err(refusal(&error)),
    };
    shard.send(ShardMessage::Completed { connection, op, completion: Completion::Published(result) }).await;
}

/// What a client is told of a broker's error.
pub(crate) fn refusal(error: &BrokerError) -> ErrorBody {
    let code = match error {
        BrokerError::Unavailable { .. } | BrokerError::Unreachable { .. } => ErrorCode::Unavailable,
        BrokerError::Timeout { .. } => ErrorCode::Timeout,
        BrokerError::TooLarge { .. } => ErrorCode::LimitExceeded,
        BrokerError::Refused { .. } | BrokerError::Configuration { .. } => ErrorCode::Internal,
    };
    // What the broker refuses it refuses again: only what failed on the way may succeed unchanged.
    let retryable = code.retryable() && code != ErrorCode::Internal;
    ErrorBody { retryable, ..ErrorBody::new(code, error.to_string()) }
}
