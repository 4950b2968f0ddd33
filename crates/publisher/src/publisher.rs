//! The publisher: a window, retries and a deadline around a transport.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_protocol::{Position, Tenant};
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    BatchError, Builder, ConnectError, Publication, PublishError, RetryPolicy, limits,
    transport::{Attempted, Failure, FailureKind, Prepared, Transport},
};

/// Publishes events, over NATS, Redis or the HTTP API of a node.
///
/// It is cheap to clone; clones share connection and window. All methods may be called at the
/// same time. See the [crate's page](crate) for what it promises.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

/// An event that was accepted. On a channel with history the broker has it for good, as far as it is configured to; on
/// others the connected NATS server was given it, or the Redis server took it. Over HTTP the node's broker took it in the
/// same way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The publication's id, given or made.
    pub id: String,
    /// Where it stands on its channel, where that has a history (and, over NATS and Redis, the publisher was
    /// [told so](Builder::history)). Of an id that was published before, where that stands.
    pub position: Option<Position>,
}

/// How a publisher goes about its work.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) tenant: Tenant,
    pub(crate) in_flight: usize,
    pub(crate) deadline: Duration,
    pub(crate) attempt: Duration,
    pub(crate) retry: RetryPolicy,
}

struct Inner {
    transport: Box<dyn Transport>,
    settings: Settings,
    /// One permit for each publication that may be under way.
    window: Semaphore,
    closing: AtomicBool,
}

impl Publisher {
    /// A publisher with default options, see [`Builder::connect`].
    ///
    /// # Errors
    /// [`ConnectError`], as [`Builder::connect`].
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Builder::new().connect(url).await
    }

    /// For a publisher with options.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Publishes an event with data, which is written as JSON. It waits for a place in the window first.
    ///
    /// # Errors
    /// [`PublishError`] says whether it was accepted, see [`PublishError::acceptance`].
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        channel: &str,
        event: &str,
        data: &T,
    ) -> Result<Published, PublishError> {
        self.send(Publication::new(channel, event).data(data)?).await
    }

    /// Publishes an event with data that is JSON already; clients get it byte for byte. Of a
    /// [`RawValue`](serde_json::value::RawValue) give `raw.get()`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`PublishError::Invalid`] where the data is not one JSON value.
    pub async fn publish_raw(
        &self,
        channel: &str,
        event: &str,
        json: impl AsRef<[u8]>,
    ) -> Result<Published, PublishError> {
        self.send(Publication::new(channel, event).raw_data(json)?).await
    }

    /// Publishes an event with all its fields.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn send(&self, publication: Publication) -> Result<Published, PublishError> {
        let call = Call::begin(&self.inner.settings);
        let prepared = self.inner.prepare(publication)?;
        let mut outcomes = self.inner.deliver(vec![prepared], &call).await;
        outcomes.pop().expect("one publication has one outcome")
    }

    /// Publishes many events. Those of one channel are sent in the order given; over NATS and Redis none is sent before
    /// the one before it on its channel was accepted or refused. The deadline is for all of them together.
    ///
    /// ```no_run
    /// use fanfare_publisher::{Acceptance, Publication, Publisher};
    ///
    /// # async fn example(publisher: Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// let changed = (1..=3).map(|n| Publication::new(format!("project:{n}"), "project:changed"));
    /// if let Err(error) = publisher.batch(changed).await {
    ///     for outcome in error.outcomes() {
    ///         match outcome {
    ///             Ok(published) => println!("{} was accepted", published.id),
    ///             Err(error) if error.acceptance() == Acceptance::Refused => println!("never: {error}"),
    ///             Err(error) => println!("try later, with the same id: {error}"),
    ///         }
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`BatchError`] where not all were accepted; it has the outcome of each.
    pub async fn batch(
        &self,
        publications: impl IntoIterator<Item = Publication>,
    ) -> Result<Vec<Published>, BatchError> {
        let call = Call::begin(&self.inner.settings);
        let mut outcomes: Vec<Option<Result<Published, PublishError>>> = Vec::new();
        let mut waiting = VecDeque::new();
        for publication in publications {
            match self.inner.prepare(publication) {
                Ok(prepared) => {
                    waiting.push_back((outcomes.len(), prepared));
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        while let Some((places, chunk)) = self.inner.next_chunk(&mut waiting) {
            for (place, outcome) in places.into_iter().zip(self.inner.deliver(chunk, &call).await) {
                outcomes[place] = Some(outcome);
            }
        }
        let outcomes: Vec<_> =
            outcomes.into_iter().map(|outcome| outcome.expect("every publication was in one chunk")).collect();
        if outcomes.iter().any(Result::is_err) {
            return Err(BatchError::new(outcomes));
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Ends the publisher and all its clones: new calls are refused from now on, those under way are waited for (each has
    /// its deadline; what a batch has not sent yet is refused), then the connection is closed.
    pub async fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        let all = u32::try_from(self.inner.settings.in_flight).expect("the builder bounds the window");
        // The window is fair: who waits for a place now gets it before this call. An error means that it is closed already.
        if let Ok(_everything) = self.inner.window.acquire_many(all).await {
            self.inner.transport.close().await;
            self.inner.window.close();
        }
    }

    pub(crate) fn new(transport: Box<dyn Transport>, settings: Settings) -> Self {
        let window = Semaphore::new(settings.in_flight);
        Self { inner: Arc::new(Inner { transport, settings, window, closing: AtomicBool::new(false) }) }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("over", &self.inner.transport.name())
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn prepare(&self, publication: Publication) -> Result<Prepared, PublishError> {
        let checked = publication.check(&self.settings.tenant)?;
        let body = self.transport.encode(&checked);
        let body = body.map_err(|reason| PublishError::Invalid { channel: checked.channel.to_string(), reason })?;
        Ok(Prepared { tenant: checked.tenant, channel: checked.channel, id: checked.id, body })
    }

    /// The next publications that go out together, with their places in the batch.
    fn next_chunk(&self, waiting: &mut VecDeque<(usize, Prepared)>) -> Option<(Vec<usize>, Vec<Prepared>)> {
        let most = limits::BATCH_PUBLICATIONS.min(self.settings.in_flight);
        let (mut places, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, next)) = waiting.front()
            && chunk.len() < most
            && (chunk.is_empty() || bytes + next.body.len() <= limits::BATCH_BYTES)
        {
            let (place, prepared) = waiting.pop_front()?;
            bytes += prepared.body.len();
            places.push(place);
            chunk.push(prepared);
        }
        (!chunk.is_empty()).then_some((places, chunk))
    }

    /// Sends a chunk that is no larger than the window, again and again until each was accepted, refused, or has no time left.
    async fn deliver(&self, chunk: Vec<Prepared>, call: &Call) -> Vec<Result<Published, PublishError>> {
        let mut states: Vec<State> = chunk.into_iter().map(State::new).collect();
        let _places = match self.places(states.len(), call).await {
            Ok(places) => places,
            Err(none) => return states.into_iter().map(|state| self.not_sent(state, &none, call)).collect(),
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let until = call.deadline.min(Instant::now() + self.settings.attempt);
            let hint = self.attempt(&mut states, until).await;
            if states.iter().all(State::is_done) {
                break;
            }
            let delay = self.settings.retry.delay_with_hint(attempt, fastrand::f64(), hint);
            if call.deadline.saturating_duration_since(Instant::now()) <= delay {
                break;
            }
            tracing::debug!(over = self.transport.name(), attempt, ?delay, "publishing again");
            sleep(delay).await;
        }
        states.into_iter().map(|state| self.outcome(state, call)).collect()
    }

    /// Places in the window, or why there are none.
    async fn places(&self, count: usize, call: &Call) -> Result<SemaphorePermit<'_>, NoPlace> {
        if self.closing.load(Ordering::Acquire) {
            return Err(NoPlace::Closed);
        }
        if call.deadline <= Instant::now() {
            return Err(NoPlace::Late);
        }
        let count = u32::try_from(count).expect("a chunk is no larger than the window, which the builder bounds");
        match timeout_at(call.deadline, self.window.acquire_many(count)).await {
            Ok(Ok(places)) => Ok(places),
            Ok(Err(_)) => Err(NoPlace::Closed),
            Err(_) => Err(NoPlace::Full),
        }
    }

    /// Sends what is not done once. Gives the longest pause that was asked for.
    async fn attempt(&self, states: &mut [State], until: Instant) -> Option<Duration> {
        let pending: Vec<&mut State> = states.iter_mut().filter(|state| !state.is_done()).collect();
        let publications: Vec<&Prepared> = pending.iter().map(|state| &state.prepared).collect();
        let outcomes = self.transport.send(&publications, until).await;
        let mut hint = None;
        for (state, outcome) in pending.into_iter().zip(outcomes) {
            hint = hint.max(outcome.as_ref().err().and_then(|failure| failure.retry_after));
            state.take(outcome);
        }
        hint
    }

    fn not_sent(&self, state: State, none: &NoPlace, call: &Call) -> Result<Published, PublishError> {
        let channel = state.prepared.channel.to_string();
        let reason = match none {
            NoPlace::Closed => return Err(PublishError::Closed { channel }),
            NoPlace::Full => format!("there was no place among the {} that may be under way", self.settings.in_flight),
            NoPlace::Late => "the time was up before its turn came".into(),
        };
        let (id, by, waited) = (state.prepared.id, self.transport.name(), call.waited());
        Err(PublishError::NotAccepted { id, channel, by, attempts: 0, waited, reason })
    }

    fn outcome(&self, state: State, call: &Call) -> Result<Published, PublishError> {
        let State { prepared, attempts, perhaps, last } = state;
        let (id, by) = (prepared.id, self.transport.name());
        let failure = match last {
            Some(Ok(position)) => return Ok(Published { id, position }),
            Some(Err(failure)) => failure,
            None => Failure::not_accepted("no attempt was made"),
        };
        let (channel, waited, reason) = (prepared.channel.to_string(), call.waited(), failure.reason);
        Err(match failure.kind {
            _ if perhaps => PublishError::Unknown { id, channel, by, attempts, waited, reason },
            FailureKind::Refused => PublishError::Refused { id, channel, by, reason },
            FailureKind::NotAccepted | FailureKind::Unknown => {
                PublishError::NotAccepted { id, channel, by, attempts, waited, reason }
            }
        })
    }
}

/// Why there was no place in the window.
enum NoPlace {
    /// The publisher is closed.
    Closed,
    /// Others held all places until the deadline.
    Full,
    /// The deadline had passed before.
    Late,
}

/// One call of the publisher, with its deadline.
struct Call {
    began: Instant,
    deadline: Instant,
}

impl Call {
    fn begin(settings: &Settings) -> Self {
        let began = Instant::now();
        Self { began, deadline: began + settings.deadline }
    }

    fn waited(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A publication on its way, over all attempts.
struct State {
    prepared: Prepared,
    attempts: u32,
    /// Whether an attempt that failed may have been accepted all the same.
    perhaps: bool,
    last: Option<Attempted>,
}

impl State {
    fn new(prepared: Prepared) -> Self {
        Self { prepared, attempts: 0, perhaps: false, last: None }
    }

    fn is_done(&self) -> bool {
        match &self.last {
            None => false,
            Some(Ok(_)) => true,
            Some(Err(failure)) => failure.kind == FailureKind::Refused,
        }
    }

    fn take(&mut self, outcome: Attempted) {
        self.attempts += 1;
        self.perhaps |= matches!(&outcome, Err(failure) if failure.kind == FailureKind::Unknown);
        self.last = Some(outcome);
    }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
