//! The task that knows what is subscribed to where, follows the cluster, and hands publications to the hub.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use fanfare_protocol::{Body, RedisChannels};
use redis_protocol::resp3::types::BytesFrame;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    NAME, UNPOISONED,
    connection::{bytes_of, error_of, text_of},
    link::{self, Asked, FromLink, Link},
    masters::Masters,
    redirection::Redirection,
    table::{AddingId, Arrived, LinkId, Outcome, Table, Wanted},
    teller::Teller,
    topology::{Topology, slot_of},
};
use crate::{
    BrokerError, BrokerEvent, InterestId, Interruption, Scope, address::Server, body, outlet::Outlet, redis::functions,
    unreadable::UnreadableLog,
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// How often each connection is asked whether it is there; it has [`BrokerOptions::request_timeout`](crate::BrokerOptions) to
/// say anything at all.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long is waited for news of the cluster before names that have lost their place are asked for where they were.
const SETTLE: Duration = Duration::from_millis(100);

/// Portions of frames that wait for the task, of all connections together.
pub(super) const INBOX: usize = 8;

/// Frames that are taken before the task looks at everything else again.
const FRAMES_PER_TURN: usize = 64;

/// What the node asks for.
pub(super) enum Request {
    Add { wanted: Vec<Wanted>, answer: oneshot::Sender<Result<(), BrokerError>> },
    Remove(Vec<InterestId>),
}

/// Which connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connected {
    pub(crate) any: bool,
    pub(crate) all: bool,
}

pub(super) struct Subscriber {
    masters: Arc<Masters>,
    names: RedisChannels,
    request_timeout: Duration,
    table: Table,
    teller: Teller,
    outlet: Outlet,
    unreadable: UnreadableLog,
    links: HashMap<LinkId, Link>,
    by_server: HashMap<Server, LinkId>,
    keepers: HashMap<Server, CancellationToken>,
    topology: Arc<Topology>,
    from_links: mpsc::Sender<FromLink>,
    inbox: mpsc::Receiver<FromLink>,
    /// Frames that were taken out of the inbox and not looked at.
    taken: (LinkId, VecDeque<BytesFrame>),
    requests: mpsc::Receiver<Request>,
    answers: HashMap<AddingId, (Instant, oneshot::Sender<Result<(), BrokerError>>)>,
    /// Interests of calls whose caller has gone.
    given_up: Arc<Mutex<Vec<InterestId>>>,
    /// Until when names wait for news of the cluster.
    settling: Option<Instant>,
    next_alive: Instant,
    connected: watch::Sender<Connected>,
    /// Whether there was a connection ever: what never was is not interrupted.
    started: bool,
}

impl Subscriber {
    pub(super) fn new(
        masters: Arc<Masters>,
        request_timeout: Duration,
        outlet: Outlet,
        requests: mpsc::Receiver<Request>,
        given_up: Arc<Mutex<Vec<InterestId>>>,
        names: RedisChannels,
    ) -> (Self, watch::Receiver<Connected>) {
        let (from_links, inbox) = mpsc::channel(INBOX);
        let (connected, is_connected) = watch::channel(Connected::default());
        let subscriber = Self {
            topology: masters.topology().borrow().clone(),
            masters,
            names,
            request_timeout,
            table: Table::default(),
            teller: Teller::default(),
            outlet,
            unreadable: UnreadableLog::default(),
            links: HashMap::new(),
            by_server: HashMap::new(),
            keepers: HashMap::new(),
            from_links,
            inbox,
            taken: (0, VecDeque::new()),
            requests,
            answers: HashMap::new(),
            given_up,
            settling: None,
            next_alive: Instant::now() + ALIVE_INTERVAL,
            connected,
            started: false,
        };
        (subscriber, is_connected)
    }

    /// Runs until the adapter is closed.
    pub(super) async fn run(mut self) {
        let closed = self.masters.closed.clone();
        let _: Option<()> = closed.run_until_cancelled(self.follow_all()).await;
    }

    async fn follow_all(&mut self) {
        let mut topology = self.masters.topology();
        topology.mark_changed();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                Ok(()) = topology.changed() => {
                    let topology = topology.borrow_and_update().clone();
                    self.follow(topology);
                }
                Some(request) = self.requests.recv() => self.handle(request),
                (room, event) = next(&mut self.outlet, &mut self.inbox, &self.taken.1) => match event {
                    None => self.deliver(room),
                    Some(event) => self.hear(event),
                },
            }
            self.settle();
        }
    }

    fn tick(&mut self) {
        self.outlet.recover();
        let given_up = std::mem::take(&mut *self.given_up.lock().expect(UNPOISONED));
        if !given_up.is_empty() {
            self.remove(given_up);
        }
        let now = Instant::now();
        let late: Vec<AddingId> =
            self.answers.iter().filter(|(_, (deadline, _))| *deadline <= now).map(|(call, _)| *call).collect();
        for call in late {
            let outcome = self.table.give_up(call);
            self.answer(call, Err(BrokerError::Timeout { broker: NAME, waited: self.request_timeout }));
            self.apply(outcome);
        }
        // A node that says nothing while this task does not listen is not silent.
        if !self.outlet.is_full() {
            let silent: Vec<LinkId> =
                self.links.iter().filter(|(_, link)| link.is_silent(self.request_timeout)).map(|(id, _)| *id).collect();
            silent.into_iter().for_each(|id| self.lose(id));
        }
        if self.next_alive <= now {
            self.next_alive = now + ALIVE_INTERVAL;
            self.links.values_mut().for_each(Link::ask);
        }
    }

    /// Keeps a connection to each master and moves names to the owners of their slots.
    fn follow(&mut self, topology: Arc<Topology>) {
        self.topology = topology;
        self.settling = None;
        let gone: Vec<Server> =
            self.keepers.keys().filter(|server| !self.topology.masters().contains(server)).cloned().collect();
        let (links, owners) = (&self.links, &self.topology);
        // A slot without an owner stays where it is: nobody knows better.
        let outcome = self.table.displace_all(|link, slot| {
            let Some(owner) = owners.owner(slot) else { return true };
            links.get(&link).is_some_and(|link| link.server == *owner)
        });
        self.apply(outcome);
        for server in gone {
            if let Some(keeper) = self.keepers.remove(&server) {
                keeper.cancel();
            }
            if let Some(id) = self.by_server.get(&server) {
                self.lose(*id);
            }
        }
        for server in self.topology.masters() {
            if !self.keepers.contains_key(server) {
                let token = self.masters.closed.child_token();
                let keeping = link::keep(server.clone(), Arc::clone(&self.masters), self.from_links.clone());
                self.keepers.insert(server.clone(), token.clone());
                self.masters.tasks.spawn(async move {
                    let _: Option<()> = token.run_until_cancelled(keeping).await;
                });
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Remove(ids) => self.remove(ids),
            // Who has gone does not want it.
            Request::Add { answer, .. } if answer.is_closed() => {}
            Request::Add { wanted, answer } => {
                let (call, outcome) = self.table.add(wanted);
                self.answers.insert(call, (Instant::now() + self.request_timeout, answer));
                self.apply(outcome);
            }
        }
    }

    fn remove(&mut self, ids: Vec<InterestId>) {
        self.teller.forget(ids.iter().copied());
        let outcome = self.table.remove(ids);
        self.apply(outcome);
    }

    fn hear(&mut self, event: FromLink) {
        match event {
            FromLink::Opened(id, link) if self.keepers.contains_key(&link.server) => {
                // A keeper that was cancelled says nothing of its connection's end.
                if let Some(earlier) = self.by_server.get(&link.server) {
                    self.lose(*earlier);
                }
                self.by_server.insert(link.server.clone(), id);
                self.links.insert(id, link);
            }
            FromLink::Opened(_, link) => link.end(),
            FromLink::Frames(id, frames) => self.taken = (id, frames.into()),
            FromLink::Ended(id) => self.lose(id),
        }
    }

    /// A connection has ended, or has to.
    fn lose(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        link.end();
        if self.by_server.get(&link.server) == Some(&id) {
            self.by_server.remove(&link.server);
        }
        let outcome = self.table.link_ended(id);
        self.apply(outcome);
        self.masters.look();
    }

    /// Takes what is there, as far as the hub has room.
    fn deliver(&mut self, room: usize) {
        let mut published = 0;
        for _ in 0..FRAMES_PER_TURN {
            if published >= room {
                return;
            }
            let Some(frame) = self.taken.1.pop_front() else { return };
            published += self.take(self.taken.0, frame);
        }
    }

    /// Says how many publications came of it.
    fn take(&mut self, id: LinkId, frame: BytesFrame) -> usize {
        let Some(link) = self.links.get_mut(&id) else { return 0 };
        link.heard = Instant::now();
        let BytesFrame::Push { data, .. } = frame else {
            self.take_answer(id, &frame);
            return 0;
        };
        let (kind, name) = (data.first().and_then(text_of), data.get(1).and_then(text_of));
        match (kind, name) {
            (Some("smessage"), Some(name)) => {
                let Some(bytes) = data.get(2).and_then(bytes_of) else { return 0 };
                return self.publish(id, name, bytes.clone());
            }
            (Some("ssubscribe"), Some(name)) => {
                link.subscribed.insert(name.into());
                let outcome = self.table.confirmed(id, name);
                self.apply(outcome);
            }
            (Some("sunsubscribe"), Some(name)) => {
                link.subscribed.remove(name);
                if let Some(outcome) = self.table.ended(id, name) {
                    self.wait_for_news();
                    self.apply(outcome);
                }
            }
            _ => self.unreadable.note(NAME, &format_args!("a push of kind {kind:?}")),
        }
        0
    }

    fn publish(&mut self, id: LinkId, name: &str, bytes: Bytes) -> usize {
        let (body, timestamp, position) = match self.names.is_live(name) {
            false => (bytes, None, None),
            true => match functions::parse_live(&bytes) {
                Ok(live) => (live.body, live.timestamp, Some(live.position)),
                Err(reason) => {
                    self.unreadable.note(NAME, &reason);
                    return 0;
                }
            },
        };
        let arrived = Arrived { body: Body::new(body::detach(body)), timestamp, position };
        let publications = self.table.publications(id, name, &arrived);
        let count = publications.len();
        publications.into_iter().for_each(|publication| self.outlet.publish(publication));
        count
    }

    /// Answers come in the order of what was sent; the last one of each is no error, but where it is refused itself.
    fn take_answer(&mut self, id: LinkId, frame: &BytesFrame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(first) = link.under_way.front_mut() else { return self.lose(id) };
        if let (Some(error), Asked::Subscribe(_) | Asked::Unsubscribe) = (error_of(frame), &first.what) {
            return first.errors.push(error);
        }
        let Some(done) = link.under_way.pop_front() else { return };
        match done.what {
            Asked::Unsubscribe => {}
            Asked::Subscribe(names) => self.conclude(id, &names, &done.errors),
            Asked::Alive => {
                let counted = text_of(frame).and_then(|info| {
                    info.split_ascii_whitespace().find_map(|field| field.strip_prefix("ssub=")?.parse::<usize>().ok())
                });
                // Servers before 7.0.3 do not count.
                if counted.is_some_and(|counted| counted != link.subscribed.len()) {
                    tracing::warn!(server = %link.server, ?counted, known = link.subscribed.len(), "a subscription was lost without a word; all are made again");
                    self.lose(id);
                }
            }
        }
    }

    /// A command to subscribe is done: what was not confirmed by now was refused, or belongs to another node.
    fn conclude(&mut self, id: LinkId, names: &[Arc<str>], errors: &[String]) {
        let refusal = errors.iter().find(|error| Redirection::parse(error).is_none());
        let moved: Vec<u16> = errors.iter().filter_map(|error| slot_in(error)).collect();
        let elsewhere = |name: &Arc<str>| refusal.is_none() || moved.contains(&slot_of(name));
        let (elsewhere, refused): (Vec<_>, Vec<_>) = names.iter().cloned().partition(elsewhere);
        let outcome = self.table.unconfirmed(id, &elsewhere);
        if !errors.is_empty() && refusal.is_none() {
            self.wait_for_news();
        }
        self.apply(outcome);
        if let Some(reason) = refusal {
            let outcome = self.table.refused(id, &refused);
            for call in &outcome.failed {
                self.answer(*call, Err(BrokerError::Refused { broker: NAME, reason: reason.clone() }));
            }
            self.apply(outcome);
        }
    }

    /// Something is not where it was thought to be.
    fn wait_for_news(&mut self) {
        self.masters.look();
        self.settling.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    fn answer(&mut self, call: AddingId, result: Result<(), BrokerError>) {
        if let Some((_, answer)) = self.answers.remove(&call) {
            // Who does not wait any more has given the interests up.
            let _ = answer.send(result);
        }
    }

    fn apply(&mut self, outcome: Outcome) {
        let Outcome { lost, restored, added, failed, refused, unwanted } = outcome;
        let lost = self.teller.lost(&lost);
        let restored = self.teller.restored(&restored);
        self.tell(lost.into_iter().chain(restored));
        self.teller.forget(refused.iter().copied());
        let refusal = |id| BrokerEvent::Interrupted(Interruption { scope: Scope::Interest(id), reason: "refused" });
        self.tell(refused.into_iter().map(refusal));
        added.into_iter().for_each(|call| self.answer(call, Ok(())));
        failed.into_iter().for_each(|call| self.answer(call, Err(BrokerError::Unavailable { broker: NAME })));
        let mut by_link: HashMap<LinkId, HashMap<u16, Vec<Arc<str>>>> = HashMap::new();
        for (id, name) in unwanted {
            by_link.entry(id).or_default().entry(slot_of(&name)).or_default().push(name);
        }
        for (id, slots) in by_link {
            if let Some(link) = self.links.get_mut(&id) {
                link.unsubscribe(slots.into_values());
            }
        }
    }

    fn tell(&mut self, events: impl IntoIterator<Item = BrokerEvent>) {
        for event in events {
            match event {
                BrokerEvent::Interrupted(interruption) => self.outlet.interrupted(interruption),
                BrokerEvent::Resumed(scope) => self.outlet.resumed(scope),
                BrokerEvent::Publication(publication) => self.outlet.publish(publication),
            }
        }
    }

    /// Asks for names without a place where their slots are now, and tells the hub how things stand.
    fn settle(&mut self) {
        let now = Instant::now();
        self.settling = self.settling.filter(|until| now < *until);
        if self.settling.is_none() && self.table.has_unplaced() {
            let (topology, by_server) = (&self.topology, &self.by_server);
            let placed = self.table.place(|slot| by_server.get(topology.owner(slot)?).copied());
            for (id, slots) in placed {
                if let Some(link) = self.links.get_mut(&id) {
                    link.subscribe(slots.into_values());
                }
            }
            let outcome = self.table.fail_unplaced();
            self.apply(outcome);
        }
        let connected = Connected {
            any: !self.links.is_empty(),
            all: self.topology.is_whole()
                && self.topology.masters().iter().all(|server| self.by_server.contains_key(server)),
        };
        self.connected.send_if_modified(|current| std::mem::replace(current, connected) != connected);
        self.started |= connected.any;
        if self.started {
            let events = self.teller.connected(connected.any, connected.all, now);
            self.tell(events);
        }
    }
}

/// Waits for room at the hub, then for what comes; nothing where something is here already.
async fn next(
    outlet: &mut Outlet,
    inbox: &mut mpsc::Receiver<FromLink>,
    taken: &VecDeque<BytesFrame>,
) -> (usize, Option<FromLink>) {
    let room = outlet.ready().await;
    if !taken.is_empty() {
        return (room, None);
    }
    match inbox.recv().await {
        Some(event) => (room, Some(event)),
        // The task itself holds a sender.
        None => std::future::pending().await,
    }
}

/// The slot in `MOVED 3999 127.0.0.1:6381` and its like.
fn slot_in(error: &str) -> Option<u16> {
    let mut words = error.split(' ');
    matches!(words.next()?, "MOVED" | "ASK").then(|| words.next()?.parse().ok()).flatten()
}
