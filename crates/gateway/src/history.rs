//! Reads of history that clients ask for, on their way to the broker.

use std::sync::Arc;

use fanfare_broker::{Broker, HistoryPage, HistoryRead};
use fanfare_protocol::{Channel, Delivery, ErrorBody, ErrorCode, HistoryReply, Position, RecordedJson, Tenant};
use fanfare_session::{Completion, HistoryRange, OpId};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    encoding::EncodedPublication,
    hub::{
        ShardInbox,
        message::{ConnectionId, ShardMessage},
    },
    publishing::refusal,
    telemetry::metrics::HISTORY_READS_TOTAL,
};

/// A part of a channel's history that a session asked for.
#[derive(Debug)]
pub(crate) struct ClientRead {
    pub(crate) tenant: Tenant,
    pub(crate) channel: Channel,
    pub(crate) range: HistoryRange,
    /// At most so many publications.
    pub(crate) limit: usize,
    /// Who asked, and where the answer goes.
    pub(crate) shard: ShardInbox,
    pub(crate) connection: ConnectionId,
    pub(crate) op: OpId,
}

/// What reads are bounded by.
#[derive(Clone, Debug)]
pub(crate) struct ReadLimits {
    /// Bytes of publications in one answer.
    pub(crate) bytes: usize,
    /// Bytes of one publication's body.
    pub(crate) publication_bytes: usize,
    /// Reads that the broker works on at one time, those of the hub included.
    pub(crate) at_once: Arc<Semaphore>,
    /// How many of them may be clients'.
    pub(crate) of_clients: usize,
}

/// Carries out reads until cancelled.
pub(crate) async fn run(
    broker: Arc<dyn Broker>,
    mut reads: mpsc::Receiver<ClientRead>,
    limits: ReadLimits,
    cancelled: CancellationToken,
) {
    let mut working = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            Some(()) = working.next() => {}
            Some(read) = reads.recv(), if working.len() < limits.of_clients => {
                working.push(answer(broker.clone(), read, &limits));
            }
        }
    }
}

async fn answer(broker: Arc<dyn Broker>, read: ClientRead, limits: &ReadLimits) {
    let ClientRead { tenant, channel, range, limit, shard, connection, op } = read;
    let result = match limits.at_once.acquire().await {
        Ok(_permit) => read_page(&*broker, tenant, channel, range, limit, limits).await,
        Err(_) => Err(ErrorBody::new(ErrorCode::Unavailable, "the node is going away")),
    };
    shard.send(ShardMessage::Completed { connection, op, completion: Completion::History(result) }).await;
}

async fn read_page(
    broker: &dyn Broker,
    tenant: Tenant,
    channel: Channel,
    range: HistoryRange,
    limit: usize,
    limits: &ReadLimits,
) -> Result<HistoryReply, ErrorBody> {
    metrics::counter!(HISTORY_READS_TOTAL, "purpose" => "command").increment(1);
    let (given, forward) = match range {
        HistoryRange::Since(position) => (Some(position), true),
        HistoryRange::Before(position) => (position, false),
    };
    let offset = given.as_ref().map(|position| position.offset);
    let range = match (offset, forward) {
        (Some(offset), true) => fanfare_broker::HistoryRange::After(offset),
        (offset, _) => fanfare_broker::HistoryRange::Before(offset),
    };
    let read =
        HistoryRead { tenant, channel: channel.clone(), range, max_publications: limit, max_bytes: limits.bytes };
    let page = broker.history(read).await.map_err(|error| refusal(&error))?;
    // Offsets of different epochs have nothing to do with each other.
    let same_epoch = given.is_none_or(|given| given.epoch == page.position.epoch);
    let HistoryPage { publications, position, more, whole } = page;
    if !same_epoch {
        let recovered = forward.then_some(false);
        return Ok(HistoryReply { publications: Vec::new(), position, more: false, recovered });
    }
    let publications = publications
        .iter()
        .filter_map(|recorded| {
            let position = Position { offset: recorded.offset, epoch: position.epoch.clone() };
            encode(&channel, recorded, &position, limits.publication_bytes)
        })
        .collect();
    Ok(HistoryReply { publications, position, more, recovered: forward.then_some(whole) })
}

/// `None` where the body is no envelope: it was refused when it came live, too.
fn encode(
    channel: &Channel,
    recorded: &fanfare_broker::Recorded,
    position: &Position,
    max_bytes: usize,
) -> Option<RecordedJson> {
    let envelope = recorded.body.envelope(max_bytes).ok()?;
    let timestamp = envelope.timestamp.or(recorded.timestamp).unwrap_or_default();
    let delivery = Delivery { envelope: &envelope, channel: channel.as_str(), timestamp, position: Some(position) };
    Some(EncodedPublication::new(&delivery).recorded().clone())
}
