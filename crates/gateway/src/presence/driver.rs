//! The task that owns the keeper.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::RandomState;
use fanfare_presence::{
    Answer, Audience, Effect, Keeper, KeeperConfig, Place, PlaceMap, PresenceStore, QueryId, StoreEvent, StoreEvents,
    Told,
};
use fanfare_protocol::{ErrorBody, ErrorCode};
use fanfare_session::Completion;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Turnout, TurnoutSink, announcing, answering,
    calls::{self, Done},
    message::{Asker, PresenceRequest},
    metrics::PresenceMetrics,
    outlet::Outlet,
};
use crate::{
    encoding::EncodedPublication,
    hub::{
        ShardInbox,
        message::{ShardId, ShardMessage, SlotId},
    },
    limits::{
        PRESENCE_DRAIN_TIME, PRESENCE_EVENTS_PER_TURN, PRESENCE_QUESTIONS, PRESENCE_REQUESTS_PER_TURN, SHARD_RETRY,
    },
};

/// Slots of shards that announcements of a place go to, for each audience.
type Watchers = [SmallVec<[(ShardId, SlotId); 1]>; 2];

/// See the module.
pub(crate) struct PresenceDriver {
    keeper: Keeper,
    store: Arc<dyn PresenceStore>,
    begun: Instant,
    outlets: Vec<Outlet>,
    watchers: PlaceMap<Watchers>,
    questions: HashMap<QueryId, (Place, Asker), RandomState>,
    next_query: u64,
    /// Calls that are under way. The keeper bounds them.
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    turnouts: TurnoutSink,
    metrics: PresenceMetrics,
    draining: bool,
    /// The store tells nothing at the moment.
    away: bool,
    /// The last call failed; told once.
    failing: bool,
    /// Announcements were dropped; told once.
    dropping: bool,
}

impl PresenceDriver {
    /// `random` has to be another for every life of every node.
    pub(crate) fn new(
        config: KeeperConfig,
        store: Arc<dyn PresenceStore>,
        shards: Vec<ShardInbox>,
        turnouts: TurnoutSink,
        random: u64,
    ) -> Self {
        Self {
            keeper: Keeper::new(config, random, Duration::ZERO),
            store,
            begun: Instant::now(),
            outlets: shards.into_iter().map(Outlet::new).collect(),
            watchers: PlaceMap::default(),
            questions: HashMap::default(),
            next_query: 0,
            calls: FuturesUnordered::new(),
            turnouts,
            metrics: PresenceMetrics::new(),
            draining: false,
            away: false,
            failing: false,
            dropping: false,
        }
    }

    /// Runs until cancelled, or until the store's stream ends. Then what has still to be done at the store is done, within
    /// [`PRESENCE_DRAIN_TIME`], and the store is closed.
    pub(crate) async fn run(
        mut self,
        mut events: StoreEvents,
        mut requests: mpsc::Receiver<PresenceRequest>,
        cancelled: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(PRESENCE_REQUESTS_PER_TURN);
        let mut told = Vec::with_capacity(PRESENCE_EVENTS_PER_TURN);
        self.turn();
        loop {
            let wakes_at = self.wakes_at();
            let has_backlog = self.outlets.iter().any(Outlet::has_backlog);
            tokio::select! {
                () = cancelled.cancelled() => break,
                Some(done) = self.calls.next() => self.take_done(done),
                _ = requests.recv_many(&mut batch, PRESENCE_REQUESTS_PER_TURN), if !(requests.is_closed() && requests.is_empty()) => {
                    batch.drain(..).for_each(|request| self.handle_request(request));
                }
                count = events.recv_many(&mut told, PRESENCE_EVENTS_PER_TURN) => {
                    if count == 0 {
                        warn!(store = self.store.name(), "the presence store's event stream has ended");
                        break;
                    }
                    told.drain(..).for_each(|event| self.handle_event(event));
                }
                () = tokio::time::sleep(SHARD_RETRY), if has_backlog => {}
                () = wait_until(wakes_at) => {}
            }
            self.turn();
        }
        self.end().await;
    }

    /// Does what the keeper wants, and hands over what shards did not take.
    fn turn(&mut self) {
        let now = self.now();
        if self.keeper.poll_timeout().is_some_and(|at| at <= now) {
            self.keeper.handle_timeout(now);
        }
        while let Some(effect) = self.keeper.poll_effect() {
            self.carry_out(effect);
        }
        let now = Instant::now();
        let dropped =
            self.outlets.iter_mut().filter(|outlet| outlet.has_backlog()).map(|outlet| outlet.drain(now)).sum();
        self.count_dropped(dropped);
        self.metrics.publish(&self.keeper, self.questions.len(), self.away);
    }

    async fn end(mut self) {
        let until = tokio::time::Instant::now() + PRESENCE_DRAIN_TIME;
        self.drain();
        self.turn();
        while !self.keeper.is_drained() {
            let wakes_at = self.wakes_at();
            tokio::select! {
                () = sleep_until(until) => break,
                Some(done) = self.calls.next() => self.take_done(done),
                () = wait_until(wakes_at) => {}
            }
            self.turn();
        }
        if !self.keeper.is_drained() {
            warn!(store = self.store.name(), "the presence store did not take the farewell: the lease ends by itself");
        }
        self.store.close().await;
    }

    fn handle_request(&mut self, request: PresenceRequest) {
        let now = self.now();
        match request {
            PresenceRequest::Join { place, row } => self.keeper.handle_join(now, &place, row),
            PresenceRequest::Update { place, connection, state, info } => {
                self.keeper.handle_update(now, &place, connection, state, info);
            }
            PresenceRequest::Leave { place, connection } => self.keeper.handle_leave(now, &place, connection),
            PresenceRequest::Watch { shard, slot, place, audience } => {
                let watchers = &mut self.watchers.get_or_insert_with(&place, Watchers::default)[audience as usize];
                watchers.push((shard, slot));
                if watchers.len() == 1 {
                    self.keeper.handle_watch(now, &place, audience);
                }
            }
            PresenceRequest::Unwatch { shard, slot, place, audience } => {
                let Some(watchers) = self.watchers.get_mut(&place) else { return };
                let concerned = &mut watchers[audience as usize];
                let before = concerned.len();
                concerned.retain(|own| *own != (shard, slot));
                if before > 0 && concerned.is_empty() {
                    if watchers.iter().all(|audience| audience.is_empty()) {
                        self.watchers.remove(&place);
                    }
                    self.keeper.handle_unwatch(now, &place, audience);
                }
            }
            PresenceRequest::Ask { query, asker } if self.questions.len() >= PRESENCE_QUESTIONS => {
                let reason = format!("{PRESENCE_QUESTIONS} questions who is present are in hand; that is the limit");
                self.answer(&query.place, asker, Err(ErrorBody::new(ErrorCode::Unavailable, reason)));
            }
            PresenceRequest::Ask { query, asker } => {
                let id = QueryId(self.next_query);
                self.next_query += 1;
                self.questions.insert(id, (query.place.clone(), asker));
                self.keeper.handle_query(now, id, query);
            }
            PresenceRequest::Drain => self.drain(),
        }
    }

    fn handle_event(&mut self, event: StoreEvent) {
        match &event {
            StoreEvent::Interrupted => {
                self.away = true;
                warn!(store = self.store.name(), "the presence store is away");
            }
            StoreEvent::Resumed | StoreEvent::Relistened => {
                self.away = false;
                info!(store = self.store.name(), "the presence store is back");
            }
            StoreEvent::Changed { .. } => {}
        }
        self.keeper.handle_event(self.now(), event);
    }

    fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.keeper.handle_drain(self.now());
        }
    }

    fn take_done(&mut self, done: Done) {
        self.metrics.called(&done);
        let call = done.call.name();
        match done.outcome.failure() {
            Some(error) if !std::mem::replace(&mut self.failing, true) => {
                warn!(call, %error, "a call at the presence store failed");
            }
            Some(error) => debug!(call, %error, "a call at the presence store failed"),
            None => self.failing = false,
        }
        self.keeper.handle_done(self.now(), done.call, done.outcome);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Call(call) => self.calls.push(calls::carry_out(self.store.clone(), call).boxed()),
            Effect::Announce { place, audience, told } => self.announce(place, audience, told),
            Effect::Answer { query, answer } => {
                if let Some((place, asker)) = self.questions.remove(&query) {
                    self.answer(&place, asker, Ok(answer));
                }
            }
            Effect::Occupied(place) => (self.turnouts)(Turnout::Occupied(place)),
            Effect::Vacated(place) => (self.turnouts)(Turnout::Vacated(place)),
            Effect::Lost { place, dead, rows } => (self.turnouts)(Turnout::Lost { place, dead, rows }),
        }
    }

    fn answer(&mut self, place: &Place, asker: Asker, answer: Result<Answer, ErrorBody>) {
        match asker {
            Asker::Session { shard, connection, op } => {
                let completion = Completion::Presence(answer.map(|answer| Box::new(answering::reply(place, answer))));
                let message = ShardMessage::Completed { connection, op, completion };
                self.outlets[usize::from(shard.0)].answer(message, Instant::now());
            }
            // Who asked may have given up.
            Asker::Service(service) => drop(service.send(answer)),
        }
    }

    fn announce(&mut self, place: Place, audience: Audience, told: Vec<Told>) {
        for told in told {
            self.metrics.announced(&told);
            let publication = match told {
                Told::Change(change) => announcing::change(&place, &change),
                Told::Count(counts) => announcing::count(&place, counts),
                Told::Snapshot(answer) => answering::snapshot(&place, *answer),
            };
            self.tell(&place, audience, Arc::new(publication));
        }
    }

    fn tell(&mut self, place: &Place, audience: Audience, publication: Arc<EncodedPublication>) {
        let Some(watchers) = self.watchers.get(place) else { return };
        let now = Instant::now();
        let announce = |(shard, slot): &(ShardId, SlotId)| {
            self.outlets[usize::from(shard.0)].announce(*slot, publication.clone(), now)
        };
        let dropped = watchers[audience as usize].iter().map(announce).sum();
        self.count_dropped(dropped);
    }

    fn count_dropped(&mut self, dropped: usize) {
        if dropped > 0 {
            self.metrics.dropped.increment(dropped as u64);
            if !std::mem::replace(&mut self.dropping, true) {
                warn!(dropped, "a shard does not keep up: announcements are dropped, and versions show it to clients");
            }
        }
    }

    /// Since the node began.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn wakes_at(&self) -> Option<tokio::time::Instant> {
        self.keeper.poll_timeout().map(|at| (self.begun + at).into())
    }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
