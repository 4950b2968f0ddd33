//! Channels with history: carries out what their [`Timeline`]s decide.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_broker::{
    BrokerError, HistoryPage, HistoryRange, HistoryRead, InterestId, LivePosition, Publication, Standing,
};
use fanfare_protocol::{Body, Channel, ErrorBody, ErrorCode, Missed, Position, Tenant, Topic};
use fanfare_session::Time;
use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{
    CallResult, Hub, INTEREST_CHANGED, Route,
    message::{Recoverer, Recovery, ShardMessage},
    timeline::{Answer, Effect, Entry, Failed, Page, Read, Timeline, TimelineConfig},
    topics::{InterestState, TopicState},
};
use crate::{
    encoding::EncodedPublication,
    limits::{POSITION_CALLS, POSITIONS_PER_CALL, RING_AGE, TIMERS_PER_TURN},
};

/// What a timeline keeps of a publication: nothing where it is no envelope and was refused, but its place is known.
type Kept = Option<Arc<EncodedPublication>>;

/// A channel's timeline, and when the hub looks at it again.
#[derive(Debug)]
pub(super) struct Timekeeper {
    timeline: Timeline<Kept, Recoverer>,
    wakes_at: Option<Time>,
    /// Patterns were told that they miss what came to them after the channel had gone on.
    told_patterns: bool,
    /// Where it began; up to here patterns go their own way.
    began: Option<Position>,
}

/// What the hub is told of history by the configuration.
#[derive(Clone, Debug)]
pub(crate) struct HistoryConfig {
    /// What the broker retains, by namespace.
    pub(crate) namespaces: HashMap<Box<str>, fanfare_broker::Retention>,
    /// Publications that one client is given to catch up.
    pub(crate) recovery_publications: usize,
    /// Bytes that one client is given to catch up.
    pub(crate) recovery_bytes: usize,
    /// Bytes of all rings together.
    pub(crate) ring_bytes: usize,
    /// How often the broker is asked where a channel stands.
    pub(crate) position_check: Duration,
    /// Bounds the reads that the broker works on at one time, those of clients' commands included.
    pub(crate) reads: Arc<Semaphore>,
}

/// What the hub keeps for all timelines together.
#[derive(Debug)]
pub(super) struct Histories {
    config: HistoryConfig,
    /// Channels to ask the broker about, until a call takes them.
    asked: VecDeque<InterestId>,
    /// Calls that ask.
    asking: usize,
    /// When timelines are to be looked at; some entries are stale.
    timers: BinaryHeap<Reverse<(Time, InterestId)>>,
    ring_bytes: usize,
    /// The broker is interrupted: nothing is asked.
    down: bool,
}

/// What a question at the broker came to.
pub(super) enum Told {
    Stand { channels: Vec<InterestId>, result: Result<Vec<Standing>, BrokerError> },
    Read { channel: InterestId, result: Result<HistoryPage, BrokerError> },
}

impl Timekeeper {
    pub(super) fn position(&self) -> Option<&Position> {
        self.timeline.position()
    }

    /// Whether a pattern's copy of a publication is the pattern's own to deliver: the channel was not followed yet.
    pub(super) fn leaves_to_patterns(&self, position: &Position) -> bool {
        self.began.as_ref().is_none_or(|began| began.epoch == position.epoch && position.offset <= began.offset)
    }

    /// Whether the channel has delivered anything of its own.
    pub(super) fn has_moved(&self) -> bool {
        self.began.is_some() && self.began.as_ref() != self.timeline.position()
    }

    pub(super) fn handle_seen(&mut self, position: &Position) {
        if self.began.is_none() {
            self.timeline.handle_seen(position);
        }
    }
}

impl Histories {
    pub(super) fn new(config: HistoryConfig) -> Self {
        Self { config, asked: VecDeque::new(), asking: 0, timers: BinaryHeap::new(), ring_bytes: 0, down: false }
    }

    /// When the next timeline is to be looked at.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn timeline_config(&self, namespace: &str) -> Option<TimelineConfig> {
        let retention = self.config.namespaces.get(namespace)?;
        Some(TimelineConfig {
            recovery_publications: self.config.recovery_publications,
            recovery_bytes: self.config.recovery_bytes,
            size: retention.size as usize,
            ttl: retention.ttl,
            ring_age: RING_AGE,
            check_interval: self.config.position_check,
        })
    }
}

impl Hub {
    /// Begins to follow a channel whose interest the broker has confirmed; `false` where it has no history.
    pub(super) fn begin_timeline(&mut self, id: InterestId) -> bool {
        let now = self.clock.now();
        let Some(state) = self.topics.get_mut(id) else { return false };
        if state.topic.is_pattern() {
            return false;
        }
        let Some(mut config) = self.histories.timeline_config(state.topic.namespace()) else { return false };
        // Else all channels that were subscribed to together would be asked about together for ever.
        config.check_interval = config.check_interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        let timeline = Timeline::new(now, config);
        state.timeline = Some(Box::new(Timekeeper { timeline, wakes_at: None, told_patterns: false, began: None }));
        self.pump(id);
        true
    }

    /// A live publication on a channel with history.
    pub(super) fn take_positioned(&mut self, publication: Publication, live: LivePosition) {
        let id = publication.interest;
        let Some(state) = self.topics.get(id) else { return };
        let Some(keeper) = &state.timeline else { return };
        if keeper.timeline.has_delivered(&live.position) {
            return;
        }
        let entry = self.entry(state, &publication.body, publication.timestamp, &live.position);
        self.with_timeline(id, |timeline, now| timeline.handle_live(now, live, entry));
    }

    /// One who recovers, on a channel that the node follows.
    pub(super) fn recover(&mut self, recoverer: Recoverer, id: Option<InterestId>, start: fanfare_session::Start) {
        let followed = id.filter(|id| self.topics.get(*id).is_some_and(|state| state.timeline.is_some()));
        let Some(id) = followed else {
            // The topic has ended meanwhile, and its subscribers were told; whoever waits still has to be answered.
            let refusal = ErrorBody::new(ErrorCode::Unavailable, "the channel is not followed any more; try again");
            return self.send(recoverer.shard, ShardMessage::Recovered { recoverer, result: Err(refusal) });
        };
        self.with_timeline(id, |timeline, now| timeline.handle_recover(now, recoverer, start));
    }

    /// Whether the broker is away.
    pub(super) fn histories_are_down(&self) -> bool {
        self.histories.down
    }

    /// Nothing is asked while the broker is away: those who wait are told at once.
    pub(super) fn histories_interrupted(&mut self) {
        self.histories.down = true;
    }

    /// What was published while the broker was away has to be read, channel by channel.
    pub(super) fn histories_resumed(&mut self) {
        self.histories.down = false;
        for id in self.topics.with_timeline() {
            self.with_timeline(id, |timeline, now| timeline.handle_resumed(now));
        }
    }

    /// An interruption of one channel is over.
    pub(super) fn history_resumed(&mut self, id: InterestId) {
        self.with_timeline(id, |timeline, now| timeline.handle_resumed(now));
    }

    /// Looks at the timelines whose time has come.
    pub(super) fn handle_timers(&mut self) {
        self.metrics.ring_bytes.set(self.histories.ring_bytes as f64);
        let now = self.clock.now();
        for _ in 0..TIMERS_PER_TURN {
            let Some(Reverse((at, id))) = self.histories.timers.peek().copied().filter(|Reverse((at, _))| *at <= now)
            else {
                return;
            };
            self.histories.timers.pop();
            let Some(keeper) = self.topics.get_mut(id).and_then(|state| state.timeline.as_mut()) else { continue };
            if keeper.wakes_at == Some(at) {
                keeper.wakes_at = None;
                self.with_timeline(id, |timeline, now| timeline.handle_timeout(now));
            }
        }
    }

    /// Starts calls for channels that are to be asked about, as far as the bound on calls allows.
    pub(super) fn start_asking(&mut self) {
        while !self.histories.asked.is_empty() && self.histories.asking < POSITION_CALLS {
            let count = self.histories.asked.len().min(POSITIONS_PER_CALL);
            let (mut channels, mut names) = (Vec::with_capacity(count), Vec::<(Tenant, Channel)>::with_capacity(count));
            let mut others = Vec::new();
            for id in self.histories.asked.drain(..count) {
                let Some(state) = self.topics.get(id) else { continue };
                let Topic::Channel(channel) = &state.topic else { continue };
                // One namespace at a time: another's history may be away.
                if names.first().is_some_and(|(_, first)| first.namespace() != channel.namespace()) {
                    others.push(id);
                    continue;
                }
                channels.push(id);
                names.push((state.tenant.clone(), channel.clone()));
            }
            others.into_iter().rev().for_each(|id| self.histories.asked.push_front(id));
            if names.is_empty() {
                continue;
            }
            self.histories.asking += 1;
            self.metrics.position_checks.increment(names.len() as u64);
            let broker = self.broker.clone();
            let call = async move {
                let result = broker.positions(&names).await;
                CallResult::Told(Told::Stand { channels, result })
            };
            self.calls.push(call.boxed());
        }
    }

    /// A question was answered.
    pub(super) fn handle_told(&mut self, told: Told) {
        match told {
            Told::Stand { channels, result } => {
                self.histories.asking -= 1;
                if let Err(error) = &result
                    && !self.histories.down
                {
                    warn!(broker = self.broker.name(), count = channels.len(), %error, "positions are not known");
                }
                // One that is not among the answers was not answered.
                let standings = result.into_iter().flatten().map(Ok).chain(std::iter::repeat(Err(Failed)));
                for (id, standing) in channels.into_iter().zip(standings) {
                    self.with_timeline(id, |timeline, now| timeline.handle_standing(now, standing));
                }
            }
            Told::Read { channel, result } => self.handle_read(channel, result),
        }
    }

    fn handle_read(&mut self, id: InterestId, result: Result<HistoryPage, BrokerError>) {
        let Some(state) = self.topics.get(id) else { return };
        let result = match result {
            Ok(HistoryPage { publications, position, more, whole }) => {
                let place = |offset| Position { offset, epoch: position.epoch.clone() };
                let entries = publications
                    .into_iter()
                    .map(|recorded| self.entry(state, &recorded.body, recorded.timestamp, &place(recorded.offset)))
                    .collect();
                Ok(Page { entries, position, more, whole })
            }
            Err(error) => {
                if !self.histories.down {
                    warn!(broker = self.broker.name(), topic = %state.topic, %error, "history was not read");
                }
                Err(Failed)
            }
        };
        self.with_timeline(id, |timeline, now| timeline.handle_page(now, result));
    }

    /// Encodes a publication for its timeline.
    fn entry(&self, state: &TopicState, body: &Body, timestamp: Option<u64>, position: &Position) -> Entry<Kept> {
        let publication = self.encode(&state.tenant, state.topic.as_str(), body, timestamp, Some(position));
        let bytes = publication.as_ref().map_or(0, |publication| publication.bytes());
        Entry { offset: position.offset, bytes, publication }
    }

    /// Hands something to a timeline and does what it then wants.
    fn with_timeline(&mut self, id: InterestId, handle: impl FnOnce(&mut Timeline<Kept, Recoverer>, Time)) {
        let now = self.clock.now();
        let Some(keeper) = self.topics.get_mut(id).and_then(|state| state.timeline.as_mut()) else { return };
        let before = memory(&keeper.timeline);
        handle(&mut keeper.timeline, now);
        let limit = self.histories.config.ring_bytes;
        let others = self.histories.ring_bytes.saturating_sub(before);
        while others + memory(&keeper.timeline) > limit && keeper.timeline.give_back() {}
        self.histories.ring_bytes = others + memory(&keeper.timeline);
        self.pump(id);
    }

    /// The topic is gone, with its ring.
    pub(super) fn timeline_ended(&mut self, state: &TopicState) {
        if let Some(keeper) = &state.timeline {
            self.histories.ring_bytes = self.histories.ring_bytes.saturating_sub(memory(&keeper.timeline));
        }
    }

    /// Does what a timeline wants.
    fn pump(&mut self, id: InterestId) {
        // Nothing changes who is subscribed while effects are carried out, so one look serves a whole page.
        let mut route: Option<Route> = None;
        loop {
            let Some(keeper) = self.topics.get_mut(id).and_then(|state| state.timeline.as_mut()) else { return };
            let Some(effect) = keeper.timeline.poll_effect() else { break };
            match effect {
                Effect::Began(position) => self.began(id, position),
                Effect::NotBegun => return self.not_begun(id),
                Effect::Deliver(None) => {}
                Effect::Deliver(Some(publication)) => {
                    let route = route.get_or_insert_with(|| self.route(id));
                    for (shard, targets) in route {
                        let message =
                            ShardMessage::Publication { targets: targets.clone(), publication: publication.clone() };
                        self.send(*shard, message);
                    }
                }
                Effect::Gap { reason, from, to } => self.tell_missed(id, reason, Missed { from, to }),
                Effect::Answer(recoverer, answer) => self.answer(recoverer, answer),
                Effect::Ask => self.ask(id),
                Effect::Read(read) => self.read(id, read),
            }
        }
        self.schedule(id);
    }

    fn schedule(&mut self, id: InterestId) {
        let Some(keeper) = self.topics.get_mut(id).and_then(|state| state.timeline.as_mut()) else { return };
        let due = keeper.timeline.poll_timeout();
        // A later entry stays in the heap and is passed over when its time comes; an earlier one looks again.
        if keeper.wakes_at.is_none_or(|at| due < at) {
            keeper.wakes_at = Some(due);
            self.histories.timers.push(Reverse((due, id)));
        }
    }

    fn began(&mut self, id: InterestId, position: Position) {
        let Some(state) = self.topics.get_mut(id) else { return };
        state.interest = InterestState::Held(0);
        if let Some(keeper) = &mut state.timeline {
            keeper.began = Some(position.clone());
        }
        let subscribers = state.subscribers.clone();
        if subscribers.is_empty() {
            self.linger(id);
        }
        for (shard, slot) in subscribers {
            self.send(shard, ShardMessage::Subscribed { slot, position: Some(position.clone()) });
        }
    }

    fn not_begun(&mut self, id: InterestId) {
        let refusal = ErrorBody::new(ErrorCode::Unavailable, "the broker does not say where the channel stands");
        self.handle_not_added(id, &refusal);
        self.remove_at_broker(vec![id]);
    }

    /// Tells all who get the channel's publications what they will not get; those who get them by a pattern too.
    fn tell_missed(&mut self, id: InterestId, reason: &'static str, missed: Missed) {
        warn!(id = id.0, reason, from = missed.from.offset, to = missed.to.offset, "publications are lost");
        let Some(state) = self.topics.get(id) else { return };
        let Topic::Channel(channel) = &state.topic else { return };
        for id in self.topics.matching(&state.tenant, channel) {
            let Some(state) = self.topics.get(id) else { continue };
            // A pattern has no positions of its own.
            let missed = (!state.topic.is_pattern()).then(|| missed.clone());
            for (shard, slot) in state.subscribers.clone() {
                self.send(shard, ShardMessage::Gap { slot, reason, missed: missed.clone() });
            }
        }
    }

    fn answer(&mut self, recoverer: Recoverer, answer: Answer<Kept>) {
        let result = match answer {
            Answer::Begin { position, recovered, publications } => {
                self.metrics.recovered(recovered);
                Ok(Recovery { position, recovered, publications: publications.into_iter().flatten().collect() })
            }
            Answer::Unavailable => {
                self.metrics.not_answered();
                Err(ErrorBody::new(ErrorCode::Unavailable, "the broker's history cannot be read now; try again"))
            }
        };
        self.send(recoverer.shard, ShardMessage::Recovered { recoverer, result });
    }

    fn ask(&mut self, id: InterestId) {
        if self.histories.down {
            let failed = async move { CallResult::Told(Told::Stand { channels: vec![id], result: Err(away()) }) };
            self.histories.asking += 1;
            return self.calls.push(failed.boxed());
        }
        self.histories.asked.push_back(id);
    }

    fn read(&mut self, id: InterestId, read: Read) {
        let Some(state) = self.topics.get(id) else { return };
        let Topic::Channel(channel) = &state.topic else { return };
        let config = &self.histories.config;
        let (purpose, range, count) = match read {
            Read::Missed { after } => ("repair", HistoryRange::After(after), config.recovery_publications),
            Read::Recovery { after } => ("recovery", HistoryRange::After(after), config.recovery_publications),
            Read::Newest { count } => ("newest", HistoryRange::Before(None), count),
        };
        let read = HistoryRead {
            tenant: state.tenant.clone(),
            channel: channel.clone(),
            range,
            max_publications: count,
            max_bytes: config.recovery_bytes,
        };
        let (broker, reads, down) = (self.broker.clone(), config.reads.clone(), self.histories.down);
        self.metrics.history_read(purpose);
        let call = async move {
            let result = match reads.acquire().await {
                Ok(_permit) if !down => broker.history(read).await,
                _ => Err(away()),
            };
            CallResult::Told(Told::Read { channel: id, result })
        };
        self.calls.push(call.boxed());
    }

    /// Where publications of a channel that is followed go.
    fn route(&self, id: InterestId) -> Route {
        let Some(state) = self.topics.get(id) else { return SmallVec::new() };
        self.targets_of(id, state).unwrap_or_default()
    }

    /// A pattern's copy of a publication on a channel with history: `true` where the pattern delivers it.
    pub(super) fn pattern_delivers(&mut self, publication: &Publication) -> bool {
        let (Some(channel), Some(live)) = (&publication.channel, &publication.position) else { return true };
        let Some(tenant) = self.topics.get(publication.interest).map(|state| &state.tenant) else { return false };
        let Some(id) = self.topics.find(tenant.as_str(), channel.as_str()) else { return true };
        let Some(keeper) = self.topics.get_mut(id).and_then(|state| state.timeline.as_mut()) else { return true };
        keeper.handle_seen(&live.position);
        if !keeper.leaves_to_patterns(&live.position) {
            return false;
        }
        if keeper.has_moved() {
            // The channel's own interest was faster: delivered now, this would come after what is newer. Told once.
            if std::mem::replace(&mut keeper.told_patterns, true) {
                return false;
            }
            let id = publication.interest;
            self.tell_gap(&[id], INTEREST_CHANGED);
            return false;
        }
        true
    }
}

/// Bytes that a timeline's publications take, about: the frame, the copy that replies contain, and what is around them.
fn memory(timeline: &Timeline<Kept, Recoverer>) -> usize {
    2 * timeline.bytes() + timeline.publications() * size_of::<EncodedPublication>()
}

fn away() -> BrokerError {
    BrokerError::Unavailable { broker: "broker" }
}

/// A moment of the node's clock, to sleep until.
pub(super) fn instant(clock_now: Time, at: Time) -> Instant {
    Instant::now() + at.since(clock_now)
}
