//! The hub: which topics this node needs from the broker, and which shards a publication goes to.
//!
//! It runs on the main runtime and owns its state alone. Shards ask it for the first and the last subscriber of a topic;
//! the broker's events come through one stream. It waits for neither: calls at the broker run beside it, and what a
//! shard's inbox does not take is kept for it (see [`link`]).

pub(crate) mod bench;
mod history;
mod link;
pub(crate) mod message;
mod metrics;
mod timeline;
mod topics;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_broker::{
    Broker, BrokerError, BrokerEvent, Events, Interest, InterestId, Interruption, Publication, Scope,
};
use fanfare_protocol::{Body, Delivery, ErrorBody, ErrorCode, Position, Tenant, Topic};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use history::HistoryConfig;
use history::{Histories, Told};
use link::ShardLink;
pub(crate) use link::{STALLED, ShardInbox, ShardInboxReceiver, bytes_of, shard_inbox};
use message::{HubRequest, ShardId, ShardMessage, SlotId, Targets};
use metrics::HubMetrics;
use topics::{InterestState, TopicState, TopicTable};

use crate::{
    clock::{Clock, unix_millis},
    encoding::EncodedPublication,
    limits::{
        HUB_EVENTS_PER_TURN, INTEREST_CALLS, INTERESTS_PER_CALL, PART_CALLS, PATTERNS_PER_NAMESPACE, SHARD_RETRY,
    },
    readiness::Readiness,
};

/// How soon an interest may be looked at again that stays because it leads others, at the least.
const LEAST_LINGER: Duration = Duration::from_millis(1);
/// The reason of an interruption that is never over; see [`Interruption`].
const REFUSED: &str = "refused";
/// Why subscribers are told of a gap when a pattern that led their topic ends.
const INTEREST_CHANGED: &str = "interest_changed";

/// Where a publication goes, by shard.
type Route = SmallVec<[(ShardId, Targets); 2]>;

/// What the hub is told by the configuration.
#[derive(Clone, Debug)]
pub(crate) struct HubConfig {
    /// How long an interest is kept after its last subscriber.
    pub(crate) linger: Duration,
    /// Topics on this node.
    pub(crate) max_topics: usize,
    /// Bytes of a publication's body.
    pub(crate) max_publication_bytes: usize,
    /// Channels with history.
    pub(crate) history: HistoryConfig,
}

/// What a call at the broker came to.
enum CallResult {
    Added { interests: Vec<InterestId>, result: Result<(), BrokerError> },
    Removed,
    Told(Told),
}

/// See the module.
pub(crate) struct Hub {
    config: HubConfig,
    broker: Arc<dyn Broker>,
    clock: Clock,
    readiness: Arc<Readiness>,
    metrics: HubMetrics,
    shards: Vec<ShardLink>,
    topics: TopicTable,
    histories: Histories,
    /// Interests that are to be added, until a call takes them.
    wanted: VecDeque<InterestId>,
    /// Interests that had no subscribers, each once, about in the order in which they end.
    lingering: VecDeque<(Instant, InterestId)>,
    /// Calls that are under way; see [`INTEREST_CALLS`].
    calls: FuturesUnordered<BoxFuture<'static, CallResult>>,
    /// How many of them add interests, and how many remove them.
    adding: usize,
    removing: usize,
    /// How many interests were ever confirmed.
    confirmed: u64,
}

impl Hub {
    pub(crate) fn new(
        config: HubConfig,
        broker: Arc<dyn Broker>,
        clock: Clock,
        readiness: Arc<Readiness>,
        shards: Vec<ShardInbox>,
    ) -> Self {
        Self {
            histories: Histories::new(config.history.clone()),
            config,
            broker,
            clock,
            readiness,
            metrics: HubMetrics::new(),
            shards: shards.into_iter().map(ShardLink::new).collect(),
            topics: TopicTable::default(),
            wanted: VecDeque::new(),
            lingering: VecDeque::new(),
            calls: FuturesUnordered::new(),
            adding: 0,
            removing: 0,
            confirmed: 0,
        }
    }

    /// Runs until cancelled, or until the broker's stream ends.
    pub(crate) async fn run(
        mut self,
        mut events: Events,
        mut requests: mpsc::Receiver<HubRequest>,
        cancelled: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(HUB_EVENTS_PER_TURN);
        loop {
            // At every turn: while publications keep coming, the sleep below is never over.
            self.shards.iter_mut().filter(|shard| shard.has_backlog()).for_each(ShardLink::drain);
            let has_backlog = self.shards.iter().any(ShardLink::has_backlog);
            let linger_ends = self.lingering.front().map(|(at, _)| (*at).into());
            let timer = self.histories.next_timer().map(|at| history::instant(self.clock.now(), at).into());
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return,
                Some(result) = self.calls.next() => {
                    self.handle_call_result(result);
                    self.handle_waiting_events(&mut events);
                }
                Some(request) = requests.recv() => {
                    self.handle_requests(request, &mut requests);
                    self.handle_waiting_events(&mut events);
                }
                () = tokio::time::sleep(SHARD_RETRY), if has_backlog => {}
                () = sleep_until(linger_ends), if self.removing == 0 => self.handle_linger_end(Instant::now()),
                () = sleep_until(timer) => {
                    self.handle_timers();
                    self.handle_waiting_events(&mut events);
                }
                count = events.recv_many(&mut batch, HUB_EVENTS_PER_TURN) => {
                    if count == 0 {
                        warn!(broker = self.broker.name(), "the broker's event stream has ended");
                        return;
                    }
                    batch.drain(..).for_each(|event| self.handle_event(event));
                }
            }
            self.start_calls();
            self.start_asking();
        }
    }

    /// Takes the request that woke the hub, and those that are there already up to a bound: subscribes that come together
    /// become one call at the broker.
    fn handle_requests(&mut self, first: HubRequest, requests: &mut mpsc::Receiver<HubRequest>) {
        self.handle_request(first);
        for _ in 1..INTERESTS_PER_CALL {
            match requests.try_recv() {
                Ok(request) => self.handle_request(request),
                Err(_) => return,
            }
        }
    }

    /// Takes what the broker has told meanwhile, up to a bound: clients that subscribe without end keep nothing waiting.
    fn handle_waiting_events(&mut self, events: &mut Events) {
        for _ in 0..HUB_EVENTS_PER_TURN {
            match events.try_recv() {
                Ok(event) => self.handle_event(event),
                Err(_) => return,
            }
        }
    }

    fn handle_request(&mut self, request: HubRequest) {
        match request {
            HubRequest::Subscribe { shard, slot, tenant, topic } => self.subscribe(shard, slot, tenant, topic),
            HubRequest::Recover { recoverer, tenant, topic, start } => {
                let id = self.topics.find(tenant.as_str(), topic.as_str());
                self.recover(recoverer, id, start);
            }
            HubRequest::Unsubscribe { shard, slot, tenant, topic } => self.unsubscribe(shard, slot, &tenant, &topic),
        }
    }

    fn subscribe(&mut self, shard: ShardId, slot: SlotId, tenant: Tenant, topic: Topic) {
        let id = match self.topics.find(tenant.as_str(), topic.as_str()) {
            Some(id) => id,
            None => {
                if let Some(refusal) = self.full(&tenant, &topic) {
                    return self.send(shard, ShardMessage::Refused { slot, refusal });
                }
                let id = self.topics.insert(tenant, topic);
                self.wanted.push_back(id);
                self.metrics.topics.set(self.topics.len() as f64);
                id
            }
        };
        let state = self.topics.get_mut(id).expect("it was found or made just now");
        state.subscribers.push((shard, slot));
        state.lingers_until = None;
        if matches!(state.interest, InterestState::Held(_)) {
            let position = state.timeline.as_ref().and_then(|timeline| timeline.position()).cloned();
            self.send(shard, ShardMessage::Subscribed { slot, position });
        }
    }

    /// Why there is no room for a new topic. Patterns have a bound of their own: each publication in their namespace is
    /// held against them.
    fn full(&self, tenant: &Tenant, topic: &Topic) -> Option<ErrorBody> {
        let patterns = self.topics.patterns(tenant, topic.namespace());
        let message = if self.topics.len() >= self.config.max_topics {
            format!("this node has {} channels; that is its limit", self.topics.len())
        } else if topic.is_pattern() && patterns >= PATTERNS_PER_NAMESPACE {
            format!("namespace {:?} has {patterns} patterns on this node; that is the limit", topic.namespace())
        } else {
            return None;
        };
        Some(ErrorBody { retryable: true, ..ErrorBody::new(ErrorCode::LimitExceeded, message) })
    }

    fn unsubscribe(&mut self, shard: ShardId, slot: SlotId, tenant: &Tenant, topic: &Topic) {
        let Some(id) = self.topics.find(tenant.as_str(), topic.as_str()) else { return };
        let state = self.topics.get_mut(id).expect("it was found just now");
        state.subscribers.retain(|entry| *entry != (shard, slot));
        if state.subscribers.is_empty() && matches!(state.interest, InterestState::Held(_)) {
            self.linger(id);
        }
    }

    /// Keeps the interest for a while after its last subscriber, who often comes back.
    fn linger(&mut self, id: InterestId) {
        let until = Instant::now() + self.config.linger.max(LEAST_LINGER);
        if let Some(state) = self.topics.get_mut(id) {
            state.lingers_until = Some(until);
            if !std::mem::replace(&mut state.in_line, true) {
                self.lingering.push_back((until, id));
            }
        }
    }

    /// Starts calls for what is wanted, as far as the bound on calls allows. What does not fill a call waits for the answer
    /// to those before: under load each call has many interests, and costs about what it costs for one.
    fn start_calls(&mut self) {
        while !self.wanted.is_empty() {
            let fills = self.wanted.len() >= INTERESTS_PER_CALL;
            if self.adding >= if fills { INTEREST_CALLS } else { PART_CALLS } {
                return;
            }
            self.adding += 1;
            let count = self.wanted.len().min(INTERESTS_PER_CALL);
            let ids: Vec<_> = self.wanted.drain(..count).filter(|id| self.topics.get(*id).is_some()).collect();
            let interests: Vec<_> = ids.iter().filter_map(|id| self.interest(*id)).collect();
            let broker = self.broker.clone();
            self.calls.push(
                async move {
                    let result = broker.add_interests(&interests).await;
                    CallResult::Added { interests: ids, result }
                }
                .boxed(),
            );
        }
    }

    fn interest(&self, id: InterestId) -> Option<Interest> {
        let state = self.topics.get(id)?;
        Some(Interest { id, tenant: state.tenant.clone(), topic: state.topic.clone() })
    }

    fn handle_call_result(&mut self, result: CallResult) {
        let (interests, result) = match result {
            CallResult::Added { interests, result } => (interests, result),
            CallResult::Removed => return self.removing -= 1,
            CallResult::Told(told) => return self.handle_told(told),
        };
        self.adding -= 1;
        match result {
            Ok(()) => interests.into_iter().for_each(|id| self.handle_added(id)),
            Err(error) => {
                warn!(broker = self.broker.name(), count = interests.len(), %error, "interests were not added");
                let code = match error {
                    BrokerError::Timeout { .. } => ErrorCode::Timeout,
                    _ => ErrorCode::Unavailable,
                };
                let refusal = ErrorBody::new(code, format!("the subscription was not made: {error}"));
                interests.into_iter().for_each(|id| self.handle_not_added(id, &refusal));
            }
        }
    }

    fn handle_added(&mut self, id: InterestId) {
        if self.begin_timeline(id) {
            return;
        }
        let Some(state) = self.topics.get_mut(id) else { return };
        self.confirmed += 1;
        state.interest = InterestState::Held(self.confirmed);
        let subscribers = state.subscribers.clone();
        if subscribers.is_empty() {
            self.linger(id);
        }
        for (shard, slot) in subscribers {
            self.send(shard, ShardMessage::Subscribed { slot, position: None });
        }
    }

    fn handle_not_added(&mut self, id: InterestId, refusal: &ErrorBody) {
        let Some(state) = self.topics.remove(id) else { return };
        self.timeline_ended(&state);
        self.metrics.topics.set(self.topics.len() as f64);
        for (shard, slot) in state.subscribers {
            self.send(shard, ShardMessage::Refused { slot, refusal: refusal.clone() });
        }
    }

    /// Removes interests whose linger is over and that nobody has subscribed to again.
    fn handle_linger_end(&mut self, now: Instant) {
        let mut ended = Vec::new();
        while let Some((at, id)) = self.lingering.front().copied()
            && at <= now
            && ended.len() < INTERESTS_PER_CALL
        {
            self.lingering.pop_front();
            let Some(state) = self.topics.get_mut(id) else { continue };
            state.in_line = false;
            match state.lingers_until {
                Some(until) if until <= now => {
                    if self.end_leading(id) {
                        if let Some(state) = self.topics.remove(id) {
                            self.timeline_ended(&state);
                        }
                        ended.push(id);
                    } else {
                        self.linger(id);
                    }
                }
                // Somebody has subscribed again, and left again.
                Some(until) => {
                    state.in_line = true;
                    self.lingering.push_back((until, id));
                }
                None => {}
            }
        }
        self.remove_at_broker(ended);
    }

    /// Prepares the end of an interest for those that it leads: what is on its way at the moment at which another begins to
    /// lead may be lost or doubled. A channel therefore stays as long as it leads, which costs one interest; a pattern may
    /// bring much that nobody wants, so it goes, and those that it led are told of a gap. `false`: it stays.
    fn end_leading(&mut self, id: InterestId) -> bool {
        let led = self.topics.led_by(id);
        if led.is_empty() {
            return true;
        }
        let is_pattern = self.topics.get(id).is_some_and(|state| state.topic.is_pattern());
        if is_pattern {
            self.tell_gap(&led, INTEREST_CHANGED);
        }
        is_pattern
    }

    fn remove_at_broker(&mut self, ended: Vec<InterestId>) {
        self.metrics.topics.set(self.topics.len() as f64);
        if ended.is_empty() {
            return;
        }
        let broker = self.broker.clone();
        let call = async move {
            broker.remove_interests(&ended).await;
            CallResult::Removed
        };
        self.removing += 1;
        self.calls.push(call.boxed());
    }

    fn handle_event(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Publication(publication) => self.handle_publication(publication),
            BrokerEvent::Interrupted(interruption) => self.handle_interrupted(interruption),
            BrokerEvent::Resumed(scope) => self.handle_resumed(scope),
        }
    }

    fn handle_publication(&mut self, mut publication: Publication) {
        self.metrics.received.increment(1);
        if publication.position.is_some() {
            if publication.channel.is_none() {
                let live = publication.position.take().expect("it is some");
                return self.take_positioned(publication, live);
            }
            if !self.pattern_delivers(&publication) {
                return;
            }
        }
        let Some(targets) = self.targets(&publication) else { return };
        if targets.is_empty() {
            return;
        }
        let state = self.topics.get(publication.interest).expect("it has targets");
        let channel = match (&publication.channel, &state.topic) {
            (Some(channel), _) | (None, Topic::Channel(channel)) => channel,
            (None, Topic::Pattern(pattern)) => {
                return warn!(%pattern, "a publication by a pattern came without its channel");
            }
        };
        let position = publication.position.as_ref().map(|live| &live.position);
        let encoded = self.encode(&state.tenant, channel.as_str(), &publication.body, publication.timestamp, position);
        let Some(publication) = encoded else { return };
        for (shard, targets) in targets {
            self.send(shard, ShardMessage::Publication { targets, publication: publication.clone() });
        }
    }

    /// Makes a publication ready to be delivered; `None` where its body is no envelope, which is counted.
    fn encode(
        &self,
        tenant: &Tenant,
        channel: &str,
        body: &Body,
        timestamp: Option<u64>,
        position: Option<&Position>,
    ) -> Option<Arc<EncodedPublication>> {
        let envelope = match body.envelope(self.config.max_publication_bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                debug!(%tenant, channel, %error, "a publication was refused");
                self.metrics.refused(error.reason());
                return None;
            }
        };
        let timestamp = envelope.timestamp.or(timestamp).unwrap_or_else(unix_millis);
        let delivery = Delivery { envelope: &envelope, channel, timestamp, position };
        Some(Arc::new(EncodedPublication::new(&delivery)))
    }

    /// Where a publication goes, by shard; `None` where it is a copy that another interest brings, or a late one.
    fn targets(&self, publication: &Publication) -> Option<Route> {
        let id = publication.interest;
        let state = self.topics.get(id)?;
        match &publication.channel {
            None => self.targets_of(id, state),
            Some(channel) => {
                let mut matching = self.topics.matching(&state.tenant, channel);
                if publication.position.is_some() {
                    // The channel itself is not followed yet, or was not then: this is the patterns' alone.
                    matching.retain(|id| self.topics.get(*id).is_some_and(|state| state.topic.is_pattern()));
                }
                self.joined_targets(id, &matching)
            }
        }
    }

    /// Where publications go that came by a topic's own name.
    fn targets_of(&self, id: InterestId, state: &TopicState) -> Option<Route> {
        let Topic::Channel(channel) = &state.topic else { return Some(Route::new()) };
        if self.topics.patterns(&state.tenant, channel.namespace()) == 0 {
            return Some(state.subscribers.iter().map(|(shard, slot)| (*shard, Targets::One(*slot))).collect());
        }
        self.joined_targets(id, &self.topics.matching(&state.tenant, channel))
    }

    /// Where a publication goes that all of these topics get; `None` where another than this one leads.
    fn joined_targets(&self, interest: InterestId, matching: &[InterestId]) -> Option<Route> {
        if matching.first() != Some(&interest) {
            return None;
        }
        let mut entries: SmallVec<[(ShardId, SlotId); 8]> =
            matching.iter().filter_map(|id| self.topics.get(*id)).flat_map(|s| s.subscribers.iter().copied()).collect();
        entries.sort_by_key(|(shard, _)| *shard);
        let by_shard = entries.chunk_by(|a, b| a.0 == b.0).map(|entries| {
            let targets = match entries {
                [(_, slot)] => Targets::One(*slot),
                several => Targets::Several(several.iter().map(|(_, slot)| *slot).collect()),
            };
            (entries[0].0, targets)
        });
        Some(by_shard.collect())
    }

    fn handle_interrupted(&mut self, Interruption { scope, reason }: Interruption) {
        self.metrics.interrupted(reason, scope == Scope::All);
        match scope {
            Scope::All => {
                warn!(broker = self.broker.name(), reason, "the broker is interrupted");
                self.readiness.broker_interrupted(self.clock.now());
                self.histories_interrupted();
            }
            Scope::Interest(id) if reason == REFUSED => self.end_refused(id),
            Scope::Interest(id) => {
                if let Some(state) = self.topics.get_mut(id) {
                    warn!(broker = self.broker.name(), topic = %state.topic, reason, "a channel is interrupted");
                    state.interrupted = Some(reason);
                }
            }
        }
    }

    /// Tells subscribers of the gap now that it is over: whoever fetches the state after this misses nothing.
    fn handle_resumed(&mut self, scope: Scope) {
        match scope {
            // An adapter may doubt what it has told without having been away: then only history can say.
            Scope::All if !self.histories_are_down() => self.histories_resumed(),
            Scope::All => {
                tracing::info!(broker = self.broker.name(), "the broker is back");
                self.readiness.broker_resumed();
                self.metrics.resumed();
                for shard in 0..self.shards.len() {
                    let shard = ShardId(u16::try_from(shard).expect("shards are numbered in 16 bits"));
                    let reason = "broker_interrupted";
                    self.send(shard, ShardMessage::GapEverywhere { reason, repair: false });
                }
                self.histories_resumed();
            }
            Scope::Interest(id) => {
                let Some(state) = self.topics.get_mut(id) else { return };
                if state.timeline.is_some() {
                    return self.history_resumed(id);
                }
                let Some(reason) = state.interrupted.take() else { return };
                // Where it leads others, what it missed was theirs too.
                self.tell_gap(&self.topics.overlapping(id), reason);
            }
        }
    }

    /// Tells subscribers of topics without history; channels with history are repaired.
    fn tell_gap(&mut self, topics: &[InterestId], reason: &'static str) {
        for id in topics {
            let Some(state) = self.topics.get(*id).filter(|state| state.timeline.is_none()) else { continue };
            for (shard, slot) in state.subscribers.clone() {
                self.send(shard, ShardMessage::Gap { slot, reason, missed: None });
            }
        }
    }

    /// The broker does not let this node have what it had confirmed: that never resumes, so the subscriptions end.
    fn end_refused(&mut self, id: InterestId) {
        let overlapping = self.topics.overlapping(id);
        let Some(state) = self.topics.remove(id) else { return };
        self.timeline_ended(&state);
        warn!(broker = self.broker.name(), topic = %state.topic, "the broker refuses a channel; its subscriptions end");
        let refusal = ErrorBody::new(ErrorCode::Internal, "the broker does not let this node have the channel");
        for (shard, slot) in state.subscribers {
            self.send(shard, ShardMessage::Refused { slot, refusal: refusal.clone() });
        }
        self.remove_at_broker(vec![id]);
        self.tell_gap(&overlapping, REFUSED);
    }

    fn send(&mut self, shard: ShardId, message: ShardMessage) {
        if self.shards[usize::from(shard.0)].send(message, Instant::now()) {
            warn!(shard = shard.0, "a shard does not keep up; its subscribers will be told of the gap");
            self.metrics.shard_interruptions.increment(1);
        }
    }
}

/// Sleeps until a moment, or for ever where there is none.
async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
