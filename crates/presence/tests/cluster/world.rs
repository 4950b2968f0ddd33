//! The cluster: what happens when, and whether what it comes to is right.

use std::{collections::BTreeMap, time::Duration};

use fanfare_presence::{
    Audience, Call, ConnectionKey, Effect, Outcome, Place, PresenceStore, Query, QueryId, Row, State, StoreEvent, Told,
    User, memory::Memory,
};
use fanfare_protocol::{Channel, Tenant};
use serde_json::value::RawValue;

use crate::{
    chance::Chance,
    client::Client,
    node::{GRACE, Inbound, LEASE, Node, unanswered},
    plan::{Plan, Step},
    trace::{described, shown},
    truth::Truth,
};

pub(crate) const NODES: usize = 3;
const PLACES: u64 = 3;
const USERS: u64 = 7;
/// How long the driver of a keeper waits for a call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a question may wait where nothing is wrong with the node.
const ANSWERED_WITHIN: Duration = Duration::from_millis(2_500);
/// How long a client waits before it asks again.
const ASKS_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) is_calm: bool,
    pub(crate) is_shown: bool,
    pub(crate) now: Duration,
    pub(crate) memory: Memory,
    pub(crate) nodes: [Option<Node>; NODES],
    /// In the order in which they were attached, to name them for faults.
    pub(crate) attached: usize,
    /// What each life is attached as.
    pub(crate) lines: BTreeMap<u64, usize>,
    pub(crate) queue: BTreeMap<(Duration, u64), Happening>,
    pub(crate) happenings: u64,
    pub(crate) calls: u64,
    pub(crate) names: u64,
    pub(crate) truth: Truth,
    /// All is well from now on.
    pub(crate) is_healed: bool,
    /// Of each life: how often its connection was lost, with what was under way on it.
    pub(crate) broken: BTreeMap<u64, u64>,
    /// Calls that are not answered.
    pub(crate) waiting: BTreeMap<u64, (usize, u64, Call)>,
    pub(crate) flushed: Option<Duration>,
    pub(crate) outages: u32,
    pub(crate) cuts: [u32; NODES],
    /// When each was continued: what it tells then may be old.
    pub(crate) continued: [Duration; NODES],
    pub(crate) trace: Vec<String>,
}

pub(crate) enum Happening {
    Step(Step),
    /// A call reaches the store; whoever sent it may be gone.
    Execute {
        node: usize,
        life: u64,
        store: std::sync::Arc<dyn PresenceStore>,
        call: Call,
        number: u64,
        /// How often the connection was lost before.
        broken: u64,
    },
    /// What a call came to; `None` where that is not known in time.
    Answer {
        number: u64,
        outcome: Option<Outcome>,
    },
    Inbound {
        node: usize,
        life: u64,
        inbound: Inbound,
    },
    Start {
        node: usize,
    },
    Continue {
        node: usize,
        life: u64,
    },
    Mend {
        node: usize,
        life: u64,
    },
    ComeBack,
    AskAgain {
        node: usize,
        life: u64,
        client: u64,
    },
    Return {
        node: u64,
        rows: Vec<(Place, Row)>,
    },
    Heal,
    Check,
}

/// Runs a plan to its end, and says what happened.
pub(crate) async fn run(plan: &Plan, is_shown: bool) -> Vec<String> {
    let mut world = World {
        chance: Chance(plan.seed),
        is_calm: plan.is_calm,
        is_shown,
        now: Duration::ZERO,
        memory: Memory::new(),
        nodes: [None, None, None],
        attached: 0,
        lines: BTreeMap::new(),
        queue: BTreeMap::new(),
        happenings: 0,
        calls: 0,
        names: 0,
        truth: Truth::default(),
        is_healed: false,
        broken: BTreeMap::new(),
        waiting: BTreeMap::new(),
        flushed: None,
        outages: 0,
        cuts: [0; NODES],
        continued: [Duration::ZERO; NODES],
        trace: Vec::new(),
    };
    for node in 0..NODES {
        world.after(Duration::from_millis(node as u64 * 400), Happening::Start { node });
    }
    let mut at = Duration::from_secs(2);
    for (after, step) in &plan.steps {
        at += *after;
        world.after(at, Happening::Step(step.clone()));
    }
    world.after(at + Duration::from_secs(1), Happening::Heal);
    while let Some(((at, _), happening)) = world.queue.pop_first() {
        tokio::time::advance(at - world.now).await;
        world.now = at;
        if matches!(happening, Happening::Check) {
            world.check();
            break;
        }
        world.happen(happening).await;
        world.collect_events();
    }
    world.trace
}

impl World {
    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((self.now + delay, self.happenings), happening);
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let line = format!("{:>8.3} {}", self.now.as_secs_f64(), what());
        if self.is_shown {
            println!("{line}");
        }
        self.trace.push(line);
    }

    async fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Step(step) => {
                self.note(|| format!("{step:?}"));
                self.step(step).await;
            }
            Happening::Execute { life, broken, number, .. } if self.broken_of(life) != broken => {
                self.answered(number, None);
            }
            Happening::Execute { node, life, store, call, number, .. } => {
                self.execute(node, life, &*store, call, number).await;
            }
            Happening::Answer { number, outcome } => self.answered(number, outcome),
            Happening::Inbound { node, life, inbound } => self.inbound(node, life, inbound),
            Happening::Start { node } => self.start(node).await,
            Happening::Continue { node, life } => self.go_on(node, life),
            Happening::Mend { node, life } => self.mend(node, life).await,
            Happening::ComeBack => {
                self.outages -= 1;
                if self.outages == 0 {
                    self.note(|| "the store is back".to_owned());
                    if self.truth.lost_lately(self.now) {
                        self.flushed = Some(self.now);
                    }
                    self.memory.come_back().await;
                    for node in 0..NODES {
                        let Some(there) = &self.nodes[node] else { continue };
                        let (line, is_stopped) = (self.lines[&there.life], there.stopped.is_some());
                        if self.cuts[node] > 0 {
                            self.memory.interrupt(line).await;
                        } else if !is_stopped {
                            self.truth.trust(self.now, node);
                        }
                    }
                }
            }
            Happening::AskAgain { node, life, client } => self.ask(node, life, client),
            Happening::Return { node, rows } => {
                let Some(node) = self.up(node) else { return };
                for (place, row) in rows {
                    self.join(node, &place, row);
                }
            }
            Happening::Heal => self.heal(),
            Happening::Check => {}
        }
    }

    /// The node of that number, or the next that takes requests.
    pub(crate) fn up(&self, number: u64) -> Option<usize> {
        let start = number as usize % NODES;
        let takes = |node: &usize| self.nodes[*node].as_ref().is_some_and(Node::takes_requests);
        (start..start + NODES).map(|node| node % NODES).find(takes)
    }

    async fn start(&mut self, node: usize) {
        match &self.nodes[node] {
            // The one before has still to go.
            Some(there) if there.is_draining => return self.after(CALL_TIMEOUT, Happening::Start { node }),
            Some(_) => return,
            None => {}
        }
        let life = self.attached as u64;
        self.lines.insert(life, self.attached);
        self.attached += 1;
        let seed = self.chance.draw(("life", life));
        let attached = self.memory.attach();
        if self.outages > 0 {
            self.memory.interrupt(self.lines[&life]).await;
        }
        self.nodes[node] = Some(Node::new(&format!("n{node}"), life, seed, self.now, attached));
        self.cuts[node] = 0;
        self.note(|| format!("n{node} starts"));
        self.pump(node);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Join { node, place, user, again } => self.step_join(node, place, user, again),
            Step::Update { connection, state, info } => {
                let Some((node, place, mut row)) = self.connection(connection) else { return };
                row.state = State::parse(["online", "idle", "editing", "away"][state as usize % 4]).unwrap();
                row.info = [None, Some("{}"), Some("[1]")][info as usize % 3]
                    .map(|info| RawValue::from_string(info.to_owned()).unwrap().into());
                self.truth.update(&place, row.connection, |kept| *kept = row.clone());
                let now = self.now;
                self.with(node, |node| node.update(now, &place, row.connection, &row));
            }
            Step::Leave { connection } => {
                if let Some((node, place, row)) = self.connection(connection) {
                    self.leave(node, &place, row.connection);
                }
            }
            Step::Disconnect { connection, returns } => {
                let Some((node, _, gone)) = self.connection(connection) else { return };
                let rows = self.truth.rows_of(node);
                let rows: Vec<_> = rows.into_iter().filter(|(_, row)| row.connection == gone.connection).collect();
                for (place, row) in &rows {
                    self.leave(node, place, row.connection);
                }
                if let Some((node, after)) = returns {
                    self.come_again(node, after, rows);
                }
            }
            Step::Watch { node, place, names } => {
                let Some(node) = self.up(node) else { return };
                self.watch(node, place_of(place), if names { Audience::Names } else { Audience::Auto });
            }
            Step::Unwatch { client } => self.unwatch(client),
            Step::Count { node, place } => {
                let Some(node) = self.up(node) else { return };
                let query = query(place_of(place), None, 0);
                self.query(node, query);
            }
            // Who has not found out yet that its lease was lost behind its back cannot be told to be dead by anybody: a store that
            // loses its data and no connection is not also cut off, nor are nodes killed in that moment.
            Step::Crash { .. } | Step::Drain { .. } | Step::Cut { .. } | Step::Outage { .. } if self.is_flushed() => {}
            Step::Crash { node, until } => {
                let node = node as usize % NODES;
                if let Some(ended) = self.nodes[node].take() {
                    self.end(ended.life);
                    self.truth.end(self.now, node);
                    self.after(until, Happening::Start { node });
                }
            }
            Step::Drain { node, until } => self.drain(node, until),
            Step::Pause { node, until } => {
                let node = node as usize % NODES;
                let Some(stopping) = self.nodes[node].as_mut().filter(|node| node.stopped.is_none()) else { return };
                stopping.stopped = Some(Vec::new());
                let life = stopping.life;
                self.truth.doubt(self.now, node);
                self.after(until, Happening::Continue { node, life });
            }
            Step::Cut { node, until } => {
                let node = node as usize % NODES;
                let Some(life) = self.nodes[node].as_ref().map(|node| node.life) else { return };
                self.cuts[node] += 1;
                self.truth.doubt(self.now, node);
                self.memory.interrupt(self.lines[&life]).await;
                self.disconnect(life);
                self.after(until, Happening::Mend { node, life });
            }
            Step::Outage { until, loses } => {
                self.outages += 1;
                self.memory.go_away().await;
                (0..self.attached as u64).for_each(|life| self.disconnect(life));
                if loses && self.is_calm {
                    self.lose();
                }
                self.after(until, Happening::ComeBack);
            }
            // Where calls arrive seconds late, rows may come after the loss of whoever could know of them.
            Step::Flush if !self.is_calm => {}
            Step::Flush => {
                self.flushed = Some(self.now);
                self.lose();
            }
        }
    }

    fn step_join(&mut self, node: u64, place: u64, user: u64, again: bool) {
        let Some(node) = self.up(node) else { return };
        let of_node = self.truth.rows_of(node);
        let row = match of_node.get(user as usize % of_node.len().max(1)).filter(|_| again) {
            Some((_, row)) => Row { since: self.millis(), ..row.clone() },
            None => self.new_row(user),
        };
        self.join(node, &place_of(place), row);
    }

    fn new_row(&mut self, user: u64) -> Row {
        self.names += 1;
        let connection = ConnectionKey(u128::from(self.chance.draw(("connection", self.names))));
        let user = match user % (USERS + 1) {
            USERS => User::Anonymous(connection),
            user => User::Named(format!("u{user}").into()),
        };
        Row { connection, user, state: State::Online, info: None, since: self.millis() }
    }

    fn millis(&self) -> u64 {
        self.now.as_millis() as u64
    }

    /// A row on a channel, of a node that takes requests.
    fn connection(&self, number: u64) -> Option<(usize, Place, Row)> {
        let takes = |node: usize| self.nodes[node].as_ref().is_some_and(Node::takes_requests);
        let rows: Vec<_> = self.truth.rows().filter(|(_, node, _)| takes(*node)).collect();
        let (place, node, row) = rows.get(number as usize % rows.len().max(1))?;
        Some((*node, (*place).clone(), (*row).clone()))
    }

    fn join(&mut self, node: usize, place: &Place, row: Row) {
        // A connection that comes again within the grace has been there since it came first, which only its node remembers.
        let since = self.truth.rows().find(|(at, _, kept)| *at == place && kept.connection == row.connection);
        let row = Row { since: since.map_or(row.since, |(_, _, kept)| kept.since), ..row };
        let writes = self.outages == 0 && self.cuts[node] == 0;
        self.truth.join(self.now, node, place, row.clone(), writes);
        let now = self.now;
        self.with(node, |node| node.join(now, place, row));
    }

    fn leave(&mut self, node: usize, place: &Place, connection: ConnectionKey) {
        self.truth.leave(self.now, GRACE, place, connection);
        let now = self.now;
        self.with(node, |node| node.keeper.handle_leave(now, place, connection));
    }

    /// The same users come by other connections.
    pub(crate) fn come_again(&mut self, node: u64, after: Duration, rows: Vec<(Place, Row)>) {
        let mut names = BTreeMap::new();
        let since = (self.now + after).as_millis() as u64;
        let rows = rows.into_iter().map(|(place, row)| {
            let fresh = names.entry(row.connection).or_insert_with(|| self.new_row(0).connection);
            let user = match row.user {
                User::Anonymous(_) => User::Anonymous(*fresh),
                named => named,
            };
            (place, Row { connection: *fresh, user, since, ..row })
        });
        let rows = rows.collect();
        self.after(after, Happening::Return { node, rows });
    }

    fn watch(&mut self, node: usize, place: Place, audience: Audience) {
        self.names += 1;
        let (now, number, client) = (self.now, self.names, Client::new(place.clone(), audience, QueryId(0)));
        let Some(life) = self.nodes[node].as_ref().map(|node| node.life) else { return };
        self.with(node, |node| {
            let is_first = !node.clients.values().any(|other| other.place == place && other.audience == audience);
            node.clients.insert(number, client);
            if is_first {
                node.keeper.handle_watch(now, &place, audience);
            }
        });
        self.ask(node, life, number);
    }

    fn unwatch(&mut self, client: u64) {
        let clients: Vec<(usize, u64)> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((index, node.as_ref()?)))
            .filter(|(_, node)| node.takes_requests())
            .flat_map(|(index, node)| node.clients.keys().map(move |number| (index, *number)))
            .collect();
        let Some((node, number)) = clients.get(client as usize % clients.len().max(1)).copied() else { return };
        let now = self.now;
        self.with(node, |node| {
            let Some(Client { place, audience, asked, .. }) = node.clients.remove(&number) else { return };
            asked.map(|id| node.asked.remove(&id));
            if !node.clients.values().any(|other| other.place == place && other.audience == audience) {
                node.keeper.handle_unwatch(now, &place, audience);
            }
        });
    }

    fn ask(&mut self, node: usize, life: u64, client: u64) {
        let Some(asking) = self.nodes[node].as_ref().filter(|node| node.life == life) else { return };
        if asking.stopped.is_some() {
            return self.after(ASKS_AGAIN, Happening::AskAgain { node, life, client });
        }
        let Some(Client { place, audience, .. }) = asking.clients.get(&client) else { return };
        let query = query(place.clone(), Some(*audience), 1_000);
        let id = self.query(node, query);
        if let Some(client) = self.nodes[node].as_mut().and_then(|node| node.clients.get_mut(&client)) {
            client.asked = Some(id);
        }
        self.pump(node);
    }

    fn query(&mut self, node: usize, query: Query) -> QueryId {
        self.names += 1;
        let (now, id) = (self.now, QueryId(self.names));
        if let Some(node) = &mut self.nodes[node] {
            node.asked.insert(id, now);
            node.keeper.handle_query(now, id, query);
        }
        // The caller has to know its number before it is answered.
        id
    }

    pub(crate) fn with(&mut self, node: usize, act: impl FnOnce(&mut Node)) {
        if let Some(acting) = &mut self.nodes[node] {
            act(acting);
            self.pump(node);
        }
    }

    pub(crate) fn inbound(&mut self, node: usize, life: u64, inbound: Inbound) {
        let now = self.now;
        let Some(taking) = self.nodes[node].as_mut().filter(|node| node.life == life) else { return };
        if matches!(inbound, Inbound::Wake) {
            taking.wakes_at = None;
        }
        match &mut taking.stopped {
            Some(waiting) => waiting.push(inbound),
            None => {
                taking.handle(now, inbound);
                self.pump(node);
            }
        }
    }

    /// Does what the keeper wants done.
    pub(crate) fn pump(&mut self, node: usize) {
        loop {
            let Some(acting) = self.nodes[node].as_mut().filter(|node| node.stopped.is_none()) else { return };
            let Some(effect) = acting.keeper.poll_effect() else { break };
            match effect {
                Effect::Call(call) => self.send(node, call),
                Effect::Announce { place, audience, told } => self.announce(node, &place, audience, &told),
                Effect::Answer { query, answer } => self.answer(node, query, answer),
                Effect::Occupied(_) | Effect::Vacated(_) => {}
                Effect::Lost { place, dead, rows } => {
                    self.note(|| format!("n{node} reaped {} rows of {dead} on {}", rows.len(), place.channel));
                }
            }
        }
        let Some(acting) = &mut self.nodes[node] else { return };
        if acting.is_draining && acting.keeper.is_drained() {
            let life = acting.life;
            self.note(|| format!("n{node} has gone"));
            self.end(life);
            self.nodes[node] = None;
            return;
        }
        let Some(at) = acting.keeper.poll_timeout() else { return };
        if acting.wakes_at.is_none_or(|wakes| at < wakes) {
            acting.wakes_at = Some(at);
            let life = acting.life;
            self.after(at.saturating_sub(self.now), Happening::Inbound { node, life, inbound: Inbound::Wake });
        }
    }

    fn send(&mut self, node: usize, call: Call) {
        self.calls += 1;
        let (number, now) = (self.calls, self.now);
        let delay = self.delay(("call", node, number));
        let Some(sending) = &mut self.nodes[node] else { return };
        // One connection carries them in their order.
        let at = (now + delay).max(sending.last_executed);
        sending.last_executed = at;
        let (life, store) = (sending.life, sending.store.clone());
        let broken = self.broken_of(life);
        self.waiting.insert(number, (node, life, call.clone()));
        self.after(CALL_TIMEOUT, Happening::Answer { number, outcome: None });
        self.after(at - now, Happening::Execute { node, life, store, call, number, broken });
    }

    fn broken_of(&self, life: u64) -> u64 {
        self.broken.get(&life).copied().unwrap_or(0)
    }

    /// A connection is lost, and what was under way on it.
    pub(crate) fn disconnect(&mut self, life: u64) {
        *self.broken.entry(life).or_default() += 1;
    }

    async fn execute(&mut self, node: usize, life: u64, store: &dyn PresenceStore, call: Call, number: u64) {
        if let Call::Reap(reap) = &call {
            let held = self.memory.holders();
            assert!(!held.contains(&reap.dead), "n{node} reaps {}, which holds a lease", reap.dead);
        }
        let outcome = call.carry_out(store).await;
        self.note(|| match outcome.failure() {
            Some(_) => format!("n{node}.{life} {} failed", call.name()),
            None => format!("n{node}.{life} {}", described(&call)),
        });
        let delay = self.delay(("answer", node, number));
        let is_lost = !self.is_calm && !self.is_healed && self.chance.percent(3, ("lost", node, self.now, number));
        if !is_lost {
            self.after(delay, Happening::Answer { number, outcome: Some(outcome) });
        }
    }

    fn delay(&self, what: impl std::hash::Hash + Copy) -> Duration {
        let longest = self.latency((what, self.now));
        self.chance.up_to(longest, ("delay", what, self.now))
    }

    fn answered(&mut self, number: u64, outcome: Option<Outcome>) {
        if let Some((node, life, call)) = self.waiting.remove(&number) {
            let outcome = outcome.unwrap_or_else(|| unanswered(&call));
            self.inbound(node, life, Inbound::Done(call, outcome));
        }
    }

    /// How long something may be under way.
    fn latency(&self, what: impl std::hash::Hash) -> Duration {
        let longest = match self.chance.draw(("latency", what)) % 100 {
            0..2 if !self.is_calm && !self.is_healed => 5_000,
            0..10 if !self.is_calm && !self.is_healed => 500,
            _ => 20,
        };
        Duration::from_millis(longest)
    }

    /// What the store has told is on its way.
    fn collect_events(&mut self) {
        for node in 0..NODES {
            while let Some(listening) = self.nodes[node].as_mut() {
                let Ok(event) = listening.events.try_recv() else { break };
                let (life, now, last) = (listening.life, self.now, listening.last_told);
                let at = (now + self.delay(("event", node, self.happenings))).max(last);
                if let Some(listening) = self.nodes[node].as_mut() {
                    listening.last_told = at;
                }
                if !matches!(event, StoreEvent::Changed { .. }) {
                    self.note(|| format!("n{node} is told {event:?}"));
                }
                self.after(at - now, Happening::Inbound { node, life, inbound: Inbound::Event(event) });
            }
        }
    }

    fn announce(&mut self, node: usize, place: &Place, audience: Audience, told: &[Told]) {
        for one in told {
            self.note(|| format!("n{node} {} {audience:?} {}", place.channel, shown(one)));
            if let Told::Change(change) = one
                && change.connections == 0
                && self.is_calm
                && self.cuts[node] == 0
                && self.now >= self.continued[node] + LEASE
            {
                let was_there = self.truth.was_there_lately(self.now, place, &change.user);
                assert!(!was_there, "n{node} says that {:?} is away from {}", change.user, place.channel);
            }
            let Some(telling) = &mut self.nodes[node] else { return };
            let clients = telling.clients.iter_mut();
            for (number, client) in clients.filter(|(_, client)| client.place == *place && client.audience == audience)
            {
                let taken = client.handle_told(one);
                assert!(taken.is_ok(), "n{node}, client {number}: {taken:?}");
            }
        }
    }

    fn answer(&mut self, node: usize, query: QueryId, answer: fanfare_presence::Answer) {
        let (now, is_calm) = (self.now, self.is_calm);
        self.note(|| {
            format!(
                "n{node} answers {}: {} users, version {:?}, stale {}",
                query.0, answer.users, answer.version, answer.stale
            )
        });
        let Some(answering) = &mut self.nodes[node] else { return };
        let Some(since) = answering.asked.remove(&query) else { return };
        let waited = now - since;
        assert!(!is_calm || waited <= ANSWERED_WITHIN || answering.is_draining, "a question waited for {waited:?}");
        let life = answering.life;
        let mut clients = answering.clients.iter_mut();
        let Some((number, client)) = clients.find(|(_, client)| client.asked == Some(query)) else { return };
        let number = *number;
        if client.handle_answer(answer) {
            self.after(ASKS_AGAIN, Happening::AskAgain { node, life, client: number });
        }
    }
}

fn place_of(number: u64) -> Place {
    Place { tenant: Tenant::default(), channel: Channel::parse(&format!("crew:{}", number % PLACES)).unwrap() }
}

fn query(place: Place, audience: Option<Audience>, limit: usize) -> Query {
    Query { place, audience, snapshot: audience.is_some(), after: None, limit, bytes: 1 << 20 }
}
