//! Reading a channel's publications one after the other, up to one whose sequence the leader has told.

use async_nats::Message;
use fanfare_protocol::Body;
use serde_json::json;
use tokio::time::Duration;

use super::{
    api::{ApiFailure, ConsumerOptions, Stored, Which, nanoseconds},
    requests::{Caller, Deliveries, RequestError},
    stream::Stream,
};
use crate::{Recorded, body::detach};

/// Publications that are asked for one by one, before a consumer is made for the rest. It doubles each time.
const STEPS: u32 = 8;

/// Publications that are asked of a consumer at once.
const PULL: usize = 256;

/// How long a consumer is waited for that has said that it has more.
const PULL_WAIT: Duration = Duration::from_millis(500);

/// How long the making of a consumer may take.
const CONSUMER_WAIT: Duration = Duration::from_millis(500);

/// After so long without a request a consumer ends by itself, where it could not be deleted.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(5);

/// What is passed over: where it is, and how large its body is.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) seq: u64,
    pub(super) bytes: usize,
    /// `None` where only headers were read.
    pub(super) recorded: Option<Recorded>,
}

/// Goes through a channel's publications, oldest first.
///
/// The leader is asked for the first few, one by one; a consumer gives the rest. A consumer may be on a replica that lags
/// behind: when it has no more, the leader is asked again, and only the leader's word ends the walk.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    caller: &'a Caller,
    stream: &'a Stream,
    subject: &'a str,
    headers_only: bool,
    /// All up to here have been passed.
    cursor: u64,
    /// Nothing behind this is wanted.
    target: u64,
    steps: u32,
    next_steps: u32,
    consumer: Option<Consumer>,
}

#[derive(Debug)]
struct Consumer {
    deliveries: Deliveries,
    /// It has so many more, as it says.
    pending: u64,
}

impl<'a> Walk<'a> {
    /// Begins behind `after`.
    pub(super) fn new(caller: &'a Caller, stream: &'a Stream, subject: &'a str, after: u64, target: u64) -> Self {
        Self {
            caller,
            stream,
            subject,
            headers_only: false,
            cursor: after,
            target,
            steps: STEPS,
            next_steps: 2 * STEPS,
            consumer: None,
        }
    }

    /// Reads headers only, as far as that can be had.
    pub(super) fn headers_only(self) -> Self {
        Self { headers_only: true, steps: 0, next_steps: STEPS, ..self }
    }

    /// The next publications, at most so many, and about so many bytes; none at the end.
    pub(super) async fn next(&mut self, limit: usize, bytes: usize) -> Result<Vec<Step>, ApiFailure> {
        while self.cursor < self.target {
            if self.steps > 0 || self.stream.is_wary() {
                self.steps = self.steps.saturating_sub(1);
                return Ok(self.step().await?.into_iter().collect());
            }
            let steps = self.pull(limit, bytes).await?;
            if !steps.is_empty() {
                return Ok(steps);
            }
        }
        Ok(Vec::new())
    }

    /// Whether the leader is asked next, and no consumer is needed yet.
    pub(super) fn asks_leader(&self) -> bool {
        self.cursor >= self.target || self.steps > 0 || self.stream.is_wary()
    }

    /// Ends the consumer, where there is one.
    pub(super) async fn end(mut self) {
        self.drop_consumer().await;
    }

    async fn step(&mut self) -> Result<Option<Step>, ApiFailure> {
        let which = Which::Next { seq: self.cursor + 1, next_by_subj: self.subject };
        let stored = self.caller.stored(self.stream.name(), which).await?;
        let Some(stored) = stored.filter(|stored| stored.seq <= self.target) else {
            self.cursor = self.target;
            return Ok(None);
        };
        self.cursor = stored.seq;
        Ok(Some(stored.into()))
    }

    /// What the consumer has. Nothing, where it has no more; then the leader is to be asked.
    async fn pull(&mut self, limit: usize, bytes: usize) -> Result<Vec<Step>, ApiFailure> {
        let mut consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => match self.make_consumer().await? {
                Some(consumer) => consumer,
                None => return Ok(Vec::new()),
            },
        };
        let steps = match self.pull_batch(&mut consumer, limit, bytes).await {
            Ok(steps) => steps,
            Err(error) => {
                if matches!(error, ApiFailure::Request(RequestError::Lost)) {
                    self.stream.be_wary();
                }
                return Err(error);
            }
        };
        let is_dry = consumer.pending == 0 || steps.is_empty();
        self.consumer = Some(consumer);
        if is_dry {
            self.drop_consumer().await;
            self.steps = self.next_steps;
            self.next_steps = self.next_steps.saturating_mul(2);
        }
        Ok(steps)
    }

    async fn pull_batch(
        &mut self,
        consumer: &mut Consumer,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Step>, ApiFailure> {
        let Consumer { deliveries, pending } = consumer;
        let batch = limit.min(PULL).min(usize::try_from(*pending).unwrap_or(PULL));
        let mut steps = Vec::with_capacity(batch);
        if batch == 0 {
            return Ok(steps);
        }
        let request = json!({
            "batch": batch,
            "max_bytes": if self.headers_only { 0 } else { bytes.max(1) },
            "expires": nanoseconds(PULL_WAIT),
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream.name(), deliveries.consumer());
        self.caller.pull(deliveries, subject, request.to_string().into()).await?;
        for _ in 0..batch {
            let Some(message) = self.caller.delivered(deliveries, 2 * PULL_WAIT).await? else { break };
            let Some(delivery) = message.reply.as_deref().and_then(Delivery::parse) else {
                return Err(ApiFailure::Unreadable(format!("a delivery by {:?}", message.reply)));
            };
            *pending = delivery.pending;
            if delivery.seq > self.target {
                self.cursor = self.target;
                break;
            }
            // A consumer on a replica that lags begins before what it was asked for.
            if delivery.seq > self.cursor {
                self.cursor = delivery.seq;
                steps.push(delivery.step(message, self.headers_only));
            }
        }
        Ok(steps)
    }

    /// Where it is not there soon, the leader has to be asked for all: a cluster gives a consumer to one of the stream's
    /// replicas, which may be one that is away.
    async fn make_consumer(&self) -> Result<Option<Consumer>, ApiFailure> {
        let deliveries = self.caller.deliveries(PULL);
        let options = ConsumerOptions {
            stream: self.stream.name(),
            name: deliveries.consumer(),
            filter: self.subject,
            start: self.cursor + 1,
            headers_only: self.headers_only,
            inactive: CONSUMER_INACTIVE,
        };
        match self.caller.for_at_most(CONSUMER_WAIT).create_consumer(&options).await {
            Ok(pending) => Ok(Some(Consumer { deliveries, pending })),
            Err(ApiFailure::Request(RequestError::TimedOut(waited))) if !self.caller.left().is_zero() => {
                tracing::warn!(
                    stream = self.stream.name(),
                    ?waited,
                    "no consumer can be made; history is read one by one"
                );
                self.caller.delete_consumer(self.stream.name(), deliveries.consumer()).await;
                self.stream.be_wary();
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn drop_consumer(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            self.caller.delete_consumer(self.stream.name(), consumer.deliveries.consumer()).await;
        }
    }
}

impl From<Stored> for Step {
    fn from(stored: Stored) -> Self {
        Self { seq: stored.seq, bytes: stored.body.bytes.len(), recorded: Some(stored.into()) }
    }
}

impl From<Stored> for Recorded {
    fn from(stored: Stored) -> Self {
        Self { offset: stored.seq, body: stored.body, timestamp: stored.timestamp }
    }
}

/// What a consumer says of a message, in the subject for its acknowledgement.
#[derive(Debug, PartialEq, Eq)]
struct Delivery {
    seq: u64,
    /// In milliseconds since the Unix epoch.
    timestamp: u64,
    pending: u64,
}

impl Delivery {
    /// `$JS.ACK.{stream}.{consumer}.{delivered}.{stream seq}.{consumer seq}.{time}.{pending}`; newer servers put domain and
    /// account before the stream, and may put one more behind.
    fn parse(reply: &str) -> Option<Self> {
        let fields: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let fields = if fields.len() == 7 { &fields[..] } else { fields.get(2..)? };
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self { seq: number(3)?, timestamp: number(5)? / 1_000_000, pending: number(6)? })
    }

    fn step(self, message: Message, headers_only: bool) -> Step {
        let header = |name: &'static str| {
            message.headers.as_ref().and_then(|headers| headers.get_last(name)).map(|value| value.as_str())
        };
        if headers_only {
            let bytes = header("Nats-Msg-Size").and_then(|size| size.parse().ok()).unwrap_or_default();
            return Step { seq: self.seq, bytes, recorded: None };
        }
        let body = Body {
            event: header("Fanfare-Event").map(Into::into),
            content_type: header("Content-Type").map(Into::into),
            bytes: detach(message.payload),
        };
        let bytes = body.bytes.len();
        Step {
            seq: self.seq,
            bytes,
            recorded: Some(Recorded { offset: self.seq, body, timestamp: Some(self.timestamp) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_read_in_both_forms() {
        let expected = Delivery { seq: 41, timestamp: 1_795_276_800_123, pending: 7 };
        for reply in [
            "$JS.ACK.RT_a.fanfare-1.1.41.3.1795276800123456789.7",
            "$JS.ACK._.acc.RT_a.fanfare-1.1.41.3.1795276800123456789.7",
            "$JS.ACK.hub.acc.RT_a.fanfare-1.1.41.3.1795276800123456789.7.xyz",
        ] {
            assert_eq!(Delivery::parse(reply).as_ref(), Some(&expected), "{reply}");
        }
        assert_eq!(Delivery::parse("$JS.ACK.RT_a.x.1"), None);
        assert_eq!(Delivery::parse("_INBOX.x"), None);
    }
}
