//! The NATS adapter: core NATS, by interest, and JetStream for namespaces with history.
//!
//! A node has two connections to NATS. By the *intake*, which is ours and only receives, all interests come: one
//! subscription for each, and one task that reads them. By the client library's everything else is done: publishing,
//! requests, JetStream, lifecycle events. Interests follow the intake, calls follow the library's connection: where only
//! one is lost, only what goes by it fails. Both are made to one server where possible, since only there what this node
//! publishes reaches an interest that was confirmed before without fail; an interruption ends when both are there again.
//!
//! Interests are confirmed by the server that the intake is connected to: by its PONG behind the subscriptions. In a
//! cluster its routes pass an interest on without an answer, within milliseconds: a publication through another server in
//! that moment may not come.
//!
//! A server that is there but does not answer is noticed within 15 s, by either connection.
//!
//! What only publishes ([`HistoryOptions::publish_only`](crate::HistoryOptions::publish_only)) has no intake.
//!
//! The client library ends its connection where a message's header is not UTF-8 or has no colon. It can get one only from a
//! stream: then history is read one by one for a minute, in a form in which it does no harm.
//!
//! # History
//!
//! A namespace with history has a stream. What is published there comes to nodes as the stream republishes it on
//! `{prefix}.live.…`, with its sequence, which is its offset; so there is no consumer per channel. The epoch stands for the
//! stream's name and when it was created. What is to be live only goes past the stream, on `{prefix}.sig.…`, to which nodes listen
//! where the namespace has signals. Sequences are the stream's, shared by all its channels: what it takes to prove
//! that nothing is missing is in `reading`.
//!
//! Of what can go wrong the hub hears by one of these: a publication's `previous` is not what came before (a hole); an
//! interruption; [`Resumed`](crate::BrokerEvent::Resumed) of an interest without an interruption before it, when its
//! stream's leader was elected, since the former one may have taken a publication and not republished it; an interruption
//! `new_epoch` of an interest whose stream was made anew.
//!
//! # Lifecycle events
//!
//! Where there is JetStream they have a stream of their own, which acknowledges each; else they are published to whoever
//! listens, until one is found.
//!
//! A node needs permission to publish on and to subscribe to `{prefix}.pub.>`; with history also to what docs/subjects.md
//! lists.

mod api;
mod connect;
mod intake;
mod keeper;
mod library;
mod login;
mod manage;
mod reading;
mod recording;
mod requests;
mod stream;
mod stream_config;
mod walk;

use std::{
    sync::{Arc, RwLock, atomic::Ordering},
    time::Duration,
};

use async_nats::{Client, HeaderMap, HeaderValue, PublishErrorKind, connection::State};
use async_trait::async_trait;
use bytes::Bytes;
use fanfare_protocol::{Channel, NatsSubjects, Tenant};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use connect::connect;

use self::{
    intake::Command,
    library::Link,
    requests::{Caller, Requests},
    stream::Streams,
};
use crate::{
    Broker, BrokerError, HistoryPage, HistoryRead, Interest, InterestId, Lifecycle, Publish, Published, Standing,
};

const NAME: &str = "nats";

/// Calls that wait for the intake.
const COMMANDS: usize = 64;

#[derive(Debug)]
struct Nats {
    /// None when closed.
    client: RwLock<Option<Arc<Client>>>,
    subjects: NatsSubjects,
    link: Arc<Link>,
    /// Where a namespace keeps history, or lifecycle events are told.
    jetstream: Option<Arc<JetStream>>,
    /// Whether there is an intake.
    takes_interests: bool,
    commands: mpsc::Sender<Command>,
    request_timeout: Duration,
    closed: CancellationToken,
    tasks: TaskTracker,
}

/// What history needs, and telling.
#[derive(Debug)]
struct JetStream {
    streams: Arc<Streams>,
    requests: Arc<Requests>,
}

#[async_trait]
impl Broker for Nats {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        let client = self.connected()?;
        let stream = self.jetstream.as_ref().and_then(|jetstream| jetstream.streams.of_channel(&publish.channel));
        if let (Some(jetstream), Some(stream)) = (&self.jetstream, stream)
            && !publish.ephemeral
        {
            let caller = self.caller(jetstream, client);
            let subject = self.subjects.publish(&publish.tenant, &publish.channel);
            return recording::record(&caller, stream, subject, headers(&publish)?, publish.body).await;
        }
        let Publish { tenant, channel, .. } = &publish;
        let (subject, headers) = match stream {
            // The id is the stream's business.
            Some(_) => (self.subjects.signal(tenant, channel), None),
            None => (self.subjects.publish(tenant, channel), headers(&publish)?),
        };
        self.send(&client, subject, headers, publish.body).await?;
        Ok(Published::default())
    }

    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError> {
        let client = self.connected()?;
        let subject = self.subjects.event(&lifecycle.tenant, lifecycle.kind.as_str());
        let headers = message_id(lifecycle.id)?;
        if let Some(jetstream) = &self.jetstream
            && let Some(stream) = jetstream.streams.present_events()
        {
            let caller = self.caller(jetstream, client);
            return recording::record(&caller, stream, subject, Some(headers), lifecycle.body).await.map(drop);
        }
        self.send(&client, subject, Some(headers), lifecycle.body).await
    }

    async fn add_interests(&self, interests: &[Interest]) -> Result<(), BrokerError> {
        if !self.takes_interests {
            let reason = "this connection only publishes".to_owned();
            return Err(BrokerError::Refused { broker: NAME, reason });
        }
        if interests.is_empty() {
            return Ok(());
        }
        let adding = async {
            let (reply, answer) = oneshot::channel();
            let unavailable = || BrokerError::Unavailable { broker: NAME };
            self.commands.send(Command::Add(interests.to_vec(), reply)).await.map_err(|_| unavailable())?;
            answer.await.map_err(|_| unavailable())?
        };
        // Where the answer comes too late, nobody takes it, and the intake gives them up.
        let waited = self.request_timeout;
        timeout(waited, adding).await.unwrap_or(Err(BrokerError::Timeout { broker: NAME, waited }))
    }

    async fn remove_interests(&self, interests: &[InterestId]) {
        // The intake is gone only when all is closed.
        let _ = self.commands.send(Command::Remove(interests.to_vec())).await;
    }

    async fn history(&self, read: HistoryRead) -> Result<HistoryPage, BrokerError> {
        let (jetstream, caller) = self.history_of(&read.channel)?;
        reading::history(&caller, &self.subjects, &jetstream.streams, &read).await
    }

    async fn positions(&self, channels: &[(Tenant, Channel)]) -> Result<Vec<Standing>, BrokerError> {
        let Some((_, first)) = channels.first() else { return Ok(Vec::new()) };
        let (jetstream, caller) = self.history_of(first)?;
        reading::positions(&caller, &self.subjects, &jetstream.streams, channels).await
    }

    async fn close(&self) {
        self.closed.cancel();
        drop(self.client.write().expect(UNPOISONED).take());
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Nats {
    fn history_of(&self, channel: &Channel) -> Result<(&JetStream, Caller), BrokerError> {
        let jetstream = self.jetstream.as_ref().ok_or_else(|| BrokerError::no_history(NAME, channel))?;
        Ok((jetstream, self.caller(jetstream, self.connected()?)))
    }

    fn caller(&self, jetstream: &JetStream, client: Arc<Client>) -> Caller {
        Caller::new(client, Arc::clone(&jetstream.requests), self.request_timeout)
    }

    fn connected(&self) -> Result<Arc<Client>, BrokerError> {
        let client = self.client.read().expect(UNPOISONED).clone();
        client
            .filter(|client| client.connection_state() == State::Connected)
            .ok_or(BrokerError::Unavailable { broker: NAME })
    }

    /// Publishes past all streams; `Ok` says that it was written to a server that is connected.
    async fn send(
        &self,
        client: &Client,
        subject: String,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<(), BrokerError> {
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        let bytes = body.len();
        let sending = async {
            match headers {
                Some(headers) => client.publish_with_headers(subject, headers, body).await,
                None => client.publish(subject, body).await,
            }
            .map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => {
                    BrokerError::TooLarge { broker: NAME, bytes, limit: client.max_payload() }
                }
                _ => BrokerError::Refused { broker: NAME, reason: error.to_string() },
            })?;
            client.flush().await.map_err(|_| BrokerError::Unavailable { broker: NAME })
        };
        let began = Instant::now();
        let unknown = || BrokerError::Timeout { broker: NAME, waited: began.elapsed() };
        tokio::select! {
            biased;
            sent = timeout(self.request_timeout, sending) => sent.map_err(|_| unknown())??,
            () = self.link.lost() => return Err(unknown()),
        }
        // A flush after a reconnect says nothing about what was written before it.
        if client.statistics().connects.load(Ordering::Relaxed) == connects { Ok(()) } else { Err(unknown()) }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// No code that holds this lock can panic.
const UNPOISONED: &str = "the client's lock is never poisoned";

/// `Nats-Msg-Id`, by which a stream drops what it has already. The window is per stream, so the channel belongs in it.
fn headers(publish: &Publish) -> Result<Option<HeaderMap>, BrokerError> {
    let Some(id) = &publish.id else { return Ok(None) };
    message_id(format!("{}/{}/{id}", publish.tenant, publish.channel)).map(Some)
}

fn message_id(id: String) -> Result<HeaderMap, BrokerError> {
    let value: HeaderValue = id
        .parse()
        .map_err(|_| BrokerError::Refused { broker: NAME, reason: format!("the id {id:?} holds a line break") })?;
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, value);
    Ok(headers)
}
