//! One page of a channel's history, from the broker to the answer.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fanfare_broker::{Broker, HistoryPage, HistoryRange as BrokerRange, HistoryRead, Recorded};
use fanfare_protocol::{Channel, Delivery, ErrorBody, ErrorCode, HistoryReply, Position, RecordedJson, Tenant};
use fanfare_session::HistoryRange;
use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::debug;

use crate::{clock::unix_millis, config::Config, publishing::refusal, telemetry::metrics::HISTORY_READS_TOTAL};

/// How long a read may wait for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Reads that may wait for their turn.
const WAITING: usize = 1_024;

/// Reads pages; shared by all who ask.
#[derive(Clone)]
pub(crate) struct HistoryReader(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    /// Namespaces that keep history.
    namespaces: HashSet<Box<str>>,
    bounds: Bounds,
    /// Reads that the broker works on at one time, those of the hub included.
    reads: Arc<Semaphore>,
    /// How many of them may be for those who ask by hand: what subscribers missed is not to wait for them.
    by_hand: Semaphore,
    at_once: usize,
    /// Those, and all that wait.
    asked: Semaphore,
}

/// How large things may be.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bytes of the bodies that are read at once.
    read_bytes: usize,
    /// Bytes of the publications in one answer, as they are written: an answer must find room in the outbox of who asks.
    /// One publication alone may be larger.
    answer_bytes: usize,
    /// Bytes of one publication's body.
    publication_bytes: usize,
}

/// Publications with their offsets, oldest first.
type Page = Vec<(u64, RecordedJson)>;

impl HistoryReader {
    /// `reads` bounds how many reads the broker works on at one time, and is shared with the hub.
    pub(crate) fn new(config: &Config, broker: Arc<dyn Broker>, reads: Arc<Semaphore>) -> Self {
        let limits = &config.limits;
        let bounds = Bounds {
            read_bytes: limits.recovery_bytes,
            answer_bytes: limits.recovery_bytes.min(limits.outbox_bytes / 2),
            publication_bytes: limits.publication_bytes,
        };
        let by_hand = limits.history_reads.div_ceil(2);
        Self(Arc::new(Inner {
            broker,
            namespaces: config.history.namespaces.keys().cloned().collect(),
            bounds,
            reads,
            by_hand: Semaphore::new(by_hand),
            at_once: by_hand,
            asked: Semaphore::new(by_hand + WAITING),
        }))
    }

    /// How many reads are worked on at one time.
    pub(crate) fn at_once(&self) -> usize {
        self.0.at_once
    }

    /// Reads a part of a channel's history: at most `limit` publications, which is never 0.
    ///
    /// # Errors
    /// `BAD_REQUEST` where the channel's namespace keeps none, `NOT_FOUND` for what lies before a position of another epoch,
    /// `UNAVAILABLE` where too many are asked for, else what the broker said.
    pub(crate) async fn read(
        &self,
        tenant: &Tenant,
        channel: &Channel,
        range: HistoryRange,
        limit: usize,
    ) -> Result<HistoryReply, ErrorBody> {
        let namespace = channel.namespace();
        if !self.0.namespaces.contains(namespace) {
            let message = format!("history is not possible: channels of namespace {namespace:?} keep no history");
            return Err(ErrorBody::new(ErrorCode::BadRequest, message));
        }
        let _asked = self.0.asked.try_acquire().map_err(|_| busy())?;
        match range {
            HistoryRange::Since(since) => self.behind(tenant, channel, &since, limit).await,
            HistoryRange::Before(before) => self.before(tenant, channel, before, limit).await,
        }
    }

    async fn behind(
        &self,
        tenant: &Tenant,
        channel: &Channel,
        since: &Position,
        limit: usize,
    ) -> Result<HistoryReply, ErrorBody> {
        let mut from = since.offset;
        let mut page = self.page(tenant, channel, BrokerRange::After(from), limit).await?;
        let comparable = page.position.epoch == since.epoch && since.offset <= page.position.offset;
        let mut recovered = comparable && page.whole;
        if !comparable && from > 0 {
            // The offset means nothing here: what there is is behind the beginning.
            from = 0;
            page = self.page(tenant, channel, BrokerRange::After(from), limit).await?;
        }
        loop {
            let mut publications = self.readable(channel, &page);
            let cut = self.cut(&publications, publications.iter());
            let more = page.more || cut < publications.len();
            publications.truncate(cut);
            let last = page.publications.last().map(|recorded| recorded.offset);
            match last {
                // All of the page was refused as no envelope, as it was when it was published: go on behind it.
                Some(last) if publications.is_empty() && page.more => {
                    page = self.page(tenant, channel, BrokerRange::After(last), limit).await?;
                    recovered &= page.whole && page.position.epoch == since.epoch;
                }
                _ => return Ok(reply(publications, page.position, more, Some(recovered))),
            }
        }
    }

    async fn before(
        &self,
        tenant: &Tenant,
        channel: &Channel,
        before: Option<Position>,
        limit: usize,
    ) -> Result<HistoryReply, ErrorBody> {
        let mut from = before.as_ref().map(|before| before.offset);
        loop {
            let page = self.page(tenant, channel, BrokerRange::Before(from), limit).await?;
            if let Some(before) = &before
                && before.epoch != page.position.epoch
            {
                let message = format!(
                    "before is of epoch {}, and the channel's is {}: its numbering began anew; ask without before",
                    before.epoch, page.position.epoch
                );
                return Err(ErrorBody::new(ErrorCode::NotFound, message));
            }
            let mut publications = self.readable(channel, &page);
            let cut = self.cut(&publications, publications.iter().rev());
            let more = page.more || cut < publications.len();
            publications.drain(..publications.len() - cut);
            let first = page.publications.first().map(|recorded| recorded.offset);
            match first {
                Some(first) if publications.is_empty() && page.more => from = Some(first),
                _ => return Ok(reply(publications, page.position, more, None)),
            }
        }
    }

    async fn page(
        &self,
        tenant: &Tenant,
        channel: &Channel,
        range: BrokerRange,
        limit: usize,
    ) -> Result<HistoryPage, ErrorBody> {
        let read = HistoryRead {
            tenant: tenant.clone(),
            channel: channel.clone(),
            range,
            max_publications: limit,
            max_bytes: self.0.bounds.read_bytes,
        };
        let _turn = self.turn().await?;
        metrics::counter!(HISTORY_READS_TOTAL, "purpose" => "command").increment(1);
        self.0.broker.history(read).await.map_err(|error| refusal(&error))
    }

    async fn turn(&self) -> Result<[SemaphorePermit<'_>; 2], ErrorBody> {
        let turn = async { Ok([self.0.by_hand.acquire().await?, self.0.reads.acquire().await?]) };
        match timeout(TURN, turn).await {
            Ok(Ok::<_, AcquireError>(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// The publications of a page as clients get them. What is no envelope was never delivered, and is passed over.
    fn readable(&self, channel: &Channel, page: &HistoryPage) -> Page {
        let written = page.publications.iter().filter_map(|recorded| {
            let position = Position { offset: recorded.offset, epoch: page.position.epoch.clone() };
            Some((recorded.offset, self.write(channel, recorded, &position)?))
        });
        written.collect()
    }

    fn write(&self, channel: &Channel, recorded: &Recorded, position: &Position) -> Option<RecordedJson> {
        let envelope = match recorded.body.envelope(self.0.bounds.publication_bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                debug!(%channel, offset = recorded.offset, %error, "a publication of the history is passed over");
                return None;
            }
        };
        let timestamp = envelope.timestamp.or(recorded.timestamp).unwrap_or_else(unix_millis);
        let mut json = Vec::new();
        Delivery { envelope: &envelope, channel: channel.as_str(), timestamp, position: Some(position) }
            .write_json(&mut json);
        let json = String::from_utf8(json).expect("a delivery is written as JSON");
        Some(RecordedJson::new(json).expect("a delivery is written as one JSON object"))
    }

    /// How many publications, in the order in which they are given, an answer has room for: one at least.
    fn cut<'a>(&self, all: &Page, in_order: impl Iterator<Item = &'a (u64, RecordedJson)>) -> usize {
        let mut bytes = 0;
        let fits = in_order.take_while(|(_, json)| {
            bytes += json.as_str().len() + 1;
            bytes <= self.0.bounds.answer_bytes
        });
        fits.count().max(1).min(all.len())
    }
}

fn reply(publications: Page, position: Position, more: bool, recovered: Option<bool>) -> HistoryReply {
    let publications = publications.into_iter().map(|(_, json)| json).collect();
    HistoryReply { publications, position, more, recovered }
}

fn busy() -> ErrorBody {
    ErrorBody::new(ErrorCode::Unavailable, "this node has too many reads of history in hand; try again")
}
