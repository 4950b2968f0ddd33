//! Requests to JetStream, and their answers by one inbox.
//!
//! The client library has such an inbox too, but keeps an entry for every request that was given up, for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_nats::{Client, HeaderMap, Message, PublishErrorKind, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Duration, Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::NAME;
use crate::BrokerError;

/// Requests to JetStream's API that are on their way at the same time; more wait. Its own queue holds 10,000 for all its
/// clients.
const REQUESTS: usize = 256;

/// Publications whose acknowledgement is waited for at the same time; more wait. Of their own, so that publications that a
/// stream without a leader does not take keep no one from reading the others.
const PUBLICATIONS: usize = 1_024;

/// Messages of a consumer that only say that a request is over, and may wait beside the others.
const STATUSES: usize = 8;

/// How the names of our consumers begin.
const CONSUMER: &str = "fanfare-";

/// What waits for answers, shared by the calls and the task that reads the inbox.
#[derive(Debug)]
pub(super) struct Requests {
    /// `_INBOX.….`
    inbox: String,
    waiting: Mutex<Waiting>,
    in_flight: Semaphore,
    publications: Semaphore,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    answers: HashMap<u64, Answer>,
}

#[derive(Debug)]
enum Answer {
    One(oneshot::Sender<Message>),
    Many(mpsc::Sender<Message>),
}

/// Requests of one call of the broker: all of them end by its deadline.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    pub(super) requests: Arc<Requests>,
    began: Instant,
    deadline: Instant,
}

/// What one consumer delivers. It is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Deliveries {
    token: Token,
    receiver: mpsc::Receiver<Message>,
    /// Of the consumer.
    name: String,
    /// Requests that were sent to it.
    pulls: u64,
    /// By which a request is told that there is no more.
    reply: String,
}

/// A place in the table of those that wait.
#[derive(Debug)]
struct Token {
    requests: Arc<Requests>,
    number: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// Nobody listens there.
    #[error("nobody answers {0:?}")]
    NoResponders(String),
    /// The connection was lost before the answer came; it may have been done.
    #[error("the connection was lost")]
    Lost,
    /// No answer in time; it may have been done.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Over the server's limit for one message; nothing was sent.
    #[error("the server takes messages up to {0} bytes")]
    TooLarge(usize),
    /// The library did not take it; nothing was sent.
    #[error("{0}")]
    NotSent(String),
}

impl Requests {
    pub(super) fn new(closed: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            inbox: format!("_INBOX.{:032x}.", fastrand::u128(..)),
            waiting: Mutex::default(),
            in_flight: Semaphore::new(REQUESTS),
            publications: Semaphore::new(PUBLICATIONS),
            closed,
        })
    }

    /// What the connection has to be subscribed to.
    pub(super) fn subject(&self) -> String {
        format!("{}*", self.inbox)
    }

    /// Reads the inbox until the adapter is closed.
    pub(super) async fn read(self: Arc<Self>, mut inbox: Subscriber) {
        let closed = self.closed.clone();
        while let Some(Some(message)) = closed.run_until_cancelled(inbox.next()).await {
            self.came(message);
        }
    }

    /// Ends all that waits: the answers would come by a connection that is gone.
    pub(super) fn connection_lost(&self) {
        self.waiting.lock().expect(UNPOISONED).answers.clear();
    }

    fn came(&self, message: Message) {
        let number = match message.subject.strip_prefix(&self.inbox) {
            Some(token) => token.split('-').next().and_then(|number| number.parse().ok()),
            // What a consumer delivers has the subject by which it was published.
            None => message.reply.as_deref().and_then(consumer_number),
        };
        let Some(number) = number else { return };
        let mut waiting = self.waiting.lock().expect(UNPOISONED);
        // Where nobody waits any more, the answer is for nobody.
        if let Some(Answer::Many(sender)) = waiting.answers.get(&number) {
            let _ = sender.try_send(message);
        } else if let Some(Answer::One(sender)) = waiting.answers.remove(&number) {
            let _ = sender.send(message);
        }
    }

    fn wait_for(self: &Arc<Self>, answer: Answer) -> Token {
        let mut waiting = self.waiting.lock().expect(UNPOISONED);
        waiting.last += 1;
        let number = waiting.last;
        waiting.answers.insert(number, answer);
        Token { requests: Arc::clone(self), number }
    }
}

impl Caller {
    pub(super) fn new(client: Arc<Client>, requests: Arc<Requests>, within: Duration) -> Self {
        let began = Instant::now();
        Self { client, requests, began, deadline: began + within }
    }

    /// The same, with less time.
    pub(super) fn for_at_most(&self, within: Duration) -> Self {
        let began = Instant::now();
        Self { began, deadline: self.deadline.min(began + within), ..self.clone() }
    }

    /// How long is left.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sends a request and waits for its one answer.
    pub(super) async fn request(&self, subject: String, payload: Bytes) -> Result<Message, RequestError> {
        self.request_within(&self.requests.in_flight, subject, None, payload).await
    }

    /// Publishes, and waits for the stream's acknowledgement.
    pub(super) async fn publish(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        self.request_within(&self.requests.publications, subject, headers, payload).await
    }

    async fn request_within(
        &self,
        in_flight: &Semaphore,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        let asking = async {
            let _permit = in_flight.acquire().await.map_err(|_| RequestError::Lost)?;
            let (sender, receiver) = oneshot::channel();
            let token = self.requests.wait_for(Answer::One(sender));
            let reply = format!("{}{}", self.requests.inbox, token.number);
            self.send(subject.clone(), reply, headers, payload).await?;
            receiver.await.map_err(|_| RequestError::Lost)
        };
        let answer = self.within(asking).await?;
        match answer.status {
            Some(StatusCode::NO_RESPONDERS) => Err(RequestError::NoResponders(subject)),
            _ => Ok(answer),
        }
    }

    /// A place for what a consumer will deliver, up to `limit` messages for each request.
    pub(super) fn deliveries(&self, limit: usize) -> Deliveries {
        let (sender, receiver) = mpsc::channel(limit + STATUSES);
        let token = self.requests.wait_for(Answer::Many(sender));
        let name = format!("{CONSUMER}{:016x}-{}", fastrand::u64(..), token.number);
        Deliveries { token, receiver, name, pulls: 0, reply: String::new() }
    }

    /// Sends a consumer a request for messages.
    pub(super) async fn pull(
        &self,
        deliveries: &mut Deliveries,
        subject: String,
        payload: Bytes,
    ) -> Result<(), RequestError> {
        deliveries.pulls += 1;
        deliveries.reply = format!("{}{}-{}", self.requests.inbox, deliveries.token.number, deliveries.pulls);
        self.within(self.send(subject, deliveries.reply.clone(), None, payload)).await
    }

    /// The next message that a consumer delivers, waited for at most so long; `None` where the request is over.
    pub(super) async fn delivered(
        &self,
        deliveries: &mut Deliveries,
        within: Duration,
    ) -> Result<Option<Message>, RequestError> {
        let came = async {
            loop {
                let message = deliveries.receiver.recv().await.ok_or(RequestError::Lost)?;
                if !message.subject.starts_with(&self.requests.inbox) {
                    return Ok(Some(message));
                }
                // That an earlier request is over may be told late.
                if *message.subject == *deliveries.reply {
                    return Ok(None);
                }
            }
        };
        self.within(async { timeout(within, came).await.unwrap_or(Ok(None)) }).await
    }

    /// Sends something whose answer nobody waits for.
    pub(super) async fn tell(&self, subject: String, payload: Bytes) {
        let reply = format!("{}0", self.requests.inbox);
        if let Err(error) = self.client.publish_with_reply(subject, reply, payload).await {
            tracing::debug!(%error, "a request was not sent");
        }
    }

    async fn send(
        &self,
        subject: String,
        reply: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<(), RequestError> {
        let sent = match headers {
            Some(headers) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            None => self.client.publish_with_reply(subject, reply, payload).await,
        };
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => RequestError::TooLarge(self.client.max_payload()),
            _ => RequestError::NotSent(error.to_string()),
        })
    }

    async fn within<T>(&self, doing: impl Future<Output = Result<T, RequestError>>) -> Result<T, RequestError> {
        tokio::select! {
            biased;
            done = timeout_at(self.deadline, doing) => {
                done.unwrap_or_else(|_| Err(RequestError::TimedOut(self.began.elapsed())))
            }
            () = self.requests.closed.cancelled() => Err(RequestError::Lost),
        }
    }
}

impl Deliveries {
    /// The name that the consumer has to have.
    pub(super) fn consumer(&self) -> &str {
        &self.name
    }
}

/// For whom a message of a consumer is: the consumer's name says it, in the subject for the acknowledgement.
fn consumer_number(acknowledgement: &str) -> Option<u64> {
    let mut fields = acknowledgement.strip_prefix("$JS.ACK.")?.split('.');
    fields.find_map(|field| field.strip_prefix(CONSUMER)?.rsplit('-').next()?.parse().ok())
}

impl Drop for Token {
    fn drop(&mut self) {
        self.requests.waiting.lock().expect(UNPOISONED).answers.remove(&self.number);
    }
}

/// For calls that change nothing, so that it does not matter whether they were done.
impl From<RequestError> for BrokerError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Lost => Self::Unavailable { broker: NAME },
            RequestError::TimedOut(waited) => Self::Timeout { broker: NAME, waited },
            error => Self::Refused { broker: NAME, reason: error.to_string() },
        }
    }
}

const UNPOISONED: &str = "nothing panics while it holds the table";

#[cfg(test)]
mod tests {
    use super::*;

    fn message(requests: &Requests, number: u64) -> Message {
        Message {
            subject: format!("{}{number}", requests.inbox).into(),
            reply: None,
            payload: Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_request_that_is_over() {
        let requests = Requests::new(CancellationToken::new());
        let (sender, mut one) = oneshot::channel();
        let first = requests.wait_for(Answer::One(sender));
        let (sender, mut many) = mpsc::channel(2);
        let second = requests.wait_for(Answer::Many(sender));
        for number in [0, second.number, first.number, first.number] {
            requests.came(message(&requests, number));
        }
        for reply in
            ["RT_a.fanfare-07-2.1.7.3.1.0", "_.acc.RT_a.fanfare-07-2.1.7.3.1.0.x", "RT_a.fanfare-07-1.1.7.3.1.0"]
        {
            let reply = Some(format!("$JS.ACK.{reply}").into());
            requests.came(Message { subject: "rt.pub.acme.a".into(), reply, ..message(&requests, 0) });
        }
        assert!(one.try_recv().is_ok());
        assert!(many.try_recv().is_ok() && many.try_recv().is_ok() && many.try_recv().is_err());
        drop((first, second));
        assert!(requests.waiting.lock().unwrap().answers.is_empty());
    }

    #[tokio::test]
    async fn a_lost_connection_ends_what_waits() {
        let requests = Requests::new(CancellationToken::new());
        let (sender, one) = oneshot::channel();
        let _token = requests.wait_for(Answer::One(sender));
        let (sender, mut many) = mpsc::channel(1);
        let _token = requests.wait_for(Answer::Many(sender));
        requests.connection_lost();
        assert!(one.await.is_err());
        assert!(many.recv().await.is_none());
    }
}
