//! Publishes of clients on their way to the broker.

use std::{sync::Arc, task::Poll};

use fanfare_broker::{Broker, BrokerError, Publish};
use fanfare_protocol::{ErrorBody, ErrorCode};
use fanfare_session::{Completion, OpId};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    hub::{
        ShardInbox,
        message::{ConnectionId, ShardMessage},
    },
    limits::CLIENT_PUBLISHES_IN_FLIGHT,
    telemetry::metrics::SIGNALS_DROPPED_TOTAL,
};

/// A publish of a client, and where its completion goes: nowhere for a signal.
#[derive(Debug)]
pub(crate) struct ClientPublish {
    pub(crate) publish: Publish,
    pub(crate) publisher: Option<Publisher>,
}

/// Who waits for a completion.
#[derive(Debug)]
pub(crate) struct Publisher {
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
    let mut in_flight: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    // Apart, so that a shard that takes no answers does not hold up the publishes of others. A session has few of them.
    let mut answering: FuturesUnordered<BoxFuture<'static, bool>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => break,
            Some(_) = answering.next() => {}
            Some(answer) = in_flight.next() => answering.push(answer.send().boxed()),
            next = publishes.recv(), if in_flight.len() < CLIENT_PUBLISHES_IN_FLIGHT => {
                let Some(next) = next else { break };
                let mut publishing = publish(broker.clone(), next).boxed();
                match futures_util::poll!(&mut publishing) {
                    Poll::Ready(answer) => answering.push(answer.send().boxed()),
                    Poll::Pending => in_flight.push(publishing),
                }
            }
        }
    }
    while let Some(answer) = in_flight.next().await {
        answering.push(answer.send().boxed());
    }
    while answering.next().await.is_some() {}
}

/// What came of a publish, on its way to the session; nothing for a signal.
struct Answer(Option<(ShardInbox, ShardMessage)>);

impl Answer {
    async fn send(self) -> bool {
        match self.0 {
            Some((shard, message)) => shard.send(message).await,
            None => true,
        }
    }
}

async fn publish(broker: Arc<dyn Broker>, job: ClientPublish) -> Answer {
    let ClientPublish { publish, publisher } = job;
    let result = broker.publish(publish).await;
    let Some(Publisher { shard, connection, op }) = publisher else {
        if let Err(error) = result {
            debug!(%error, "a signal was not published");
            counter!(SIGNALS_DROPPED_TOTAL).increment(1);
        }
        return Answer(None);
    };
    let result = result.map(|published| published.position).map_err(|error| refusal(&error));
    let completion = Completion::Published(result);
    Answer(Some((shard, ShardMessage::Completed { connection, op, completion })))
}

/// What a client is told of a broker's error.
pub(crate) fn refusal(error: &BrokerError) -> ErrorBody {
    let code = match error {
        BrokerError::Unavailable { .. } | BrokerError::Unreachable { .. } => ErrorCode::Unavailable,
        BrokerError::Timeout { .. } => ErrorCode::Timeout,
        BrokerError::TooLarge { .. } => ErrorCode::LimitExceeded,
        BrokerError::Refused { .. }
        | BrokerError::Configuration { .. }
        | BrokerError::NoHistory { .. }
        | BrokerError::NoPatterns { .. } => ErrorCode::Internal,
    };
    // What the broker refuses it refuses again: only what failed on the way may succeed unchanged.
    let retryable = code.retryable() && code != ErrorCode::Internal;
    ErrorBody { retryable, ..ErrorBody::new(code, error.to_string()) }
}
