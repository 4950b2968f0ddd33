//! Pages of history for whoever asks by hand: clients with the command `history`, services through the API.
//!
//! What subscribers missed is the hub's business; here nothing is followed, and a page is as old as its read.

mod reader;

use fanfare_protocol::{Channel, Tenant};
use fanfare_session::{Completion, HistoryRange, OpId};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use reader::HistoryReader;

use crate::hub::{
    ShardInbox,
    message::{ConnectionId, ShardMessage},
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

/// Carries out clients' reads until cancelled.
pub(crate) async fn run(reader: HistoryReader, mut reads: mpsc::Receiver<ClientRead>, cancelled: CancellationToken) {
    let mut working = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            Some(()) = working.next() => {}
            Some(read) = reads.recv(), if working.len() < reader.at_once() => working.push(answer(&reader, read)),
        }
    }
}

async fn answer(reader: &HistoryReader, read: ClientRead) {
    let ClientRead { tenant, channel, range, limit, shard, connection, op } = read;
    let result = reader.read(&tenant, &channel, range, limit).await;
    shard.send(ShardMessage::Completed { connection, op, completion: Completion::History(result) }).await;
}
