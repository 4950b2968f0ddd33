//! The task that reads all subscriptions and follows the connection.

use std::{
    collections::{BTreeSet, HashMap},
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
};

use async_nats::{Client, Message, Statistics, Subscriber, connection::State};
use fanfare_protocol::{Epoch, NatsSubjects};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    echo::{Echo, EchoToken},
    inflow::Inflow,
    link::Link,
    merge::Merge,
    requests::Requests,
    stream::{Stream, Streams},
};
use crate::{InterestId, Interruption, Scope, limits, outlet::Outlet, unreadable::UnreadableLog};

/// Messages that are taken at once.
const BATCH: usize = 64;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Something flows again when nothing of it was dropped for this long.
const SLOW_PAUSE: Duration = Duration::from_millis(250);

/// How long an echo after a reconnect may take before another is sent.
const ECHO_RETRY: Duration = Duration::from_secs(1);

/// Subscriptions that are ended before the library is waited for; its own queue holds 2,048 commands.
const UNSUBSCRIBE_BATCH: usize = 256;

/// Interests whose positions the hub is let look at in one tick.
const CHECKS: usize = 1_024;

/// Interests that are told one by one that their stream was made anew; where there are more, everything is interrupted. It
/// leaves room for other interruptions, see [`limits::CONTROL_EVENTS`].
const MANY_RENUMBERED: usize = 64;

/// Asked of the reader by the calls of the broker.
#[derive(Debug)]
pub(super) enum Command {
    Add(Vec<Inflow>),
    Remove(Vec<InterestId>),
    /// Publications of these streams may have been lost, though nothing was interrupted: positions have to be looked at.
    Check(Vec<Arc<Stream>>),
    /// Streams were made anew.
    Renumbered,
}

/// What the reader is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) client: Arc<Client>,
    pub(super) subjects: NatsSubjects,
    pub(super) link: Arc<Link>,
    pub(super) echo: Arc<Echo>,
    /// What is subscribed to the echo's subject.
    pub(super) echoes: Subscriber,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) outlet: Outlet,
    /// Messages that may wait in one subscription.
    pub(super) subscription_capacity: usize,
    /// Where there is history, or lifecycle events are told.
    pub(super) jetstream: Option<(Arc<Streams>, Arc<Requests>)>,
    pub(super) closed: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Ends when the library's tasks have ended.
    pub(super) library: mpsc::Receiver<()>,
}

pub(super) struct Reader {
    parts: Parts,
    statistics: Arc<Statistics>,
    flows: Merge<Inflow>,
    slots: HashMap<InterestId, usize>,
    /// Of second subscriptions, where interests have two.
    second_slots: HashMap<InterestId, usize>,
    connection: Connection,
    /// How many connections there were when this one was noticed.
    connects: u64,
    /// What was interrupted because the library dropped of it, and when it last did.
    slow: HashMap<Scope, Instant>,
    batch: Vec<(usize, Message)>,
    /// Bytes that had been received when the outlet became full.
    received_before: Option<u64>,
    /// Interests whose positions are still to be looked at.
    checks: BTreeSet<InterestId>,
    unreadable: UnreadableLog,
}

/// The connection, as the hub was told.
enum Connection {
    Up,
    Down,
    /// There is one again, and the library has subscribed again; the server has not confirmed it yet.
    Confirming {
        echo: EchoToken,
        since: Instant,
    },
}

impl Reader {
    pub(super) fn new(parts: Parts) -> Self {
        let statistics = parts.client.statistics();
        Self {
            connects: statistics.connects.load(Ordering::Relaxed),
            statistics,
            parts,
            flows: Merge::new(),
            slots: HashMap::new(),
            second_slots: HashMap::new(),
            connection: Connection::Up,
            slow: HashMap::new(),
            batch: Vec::with_capacity(BATCH),
            received_before: None,
            checks: BTreeSet::new(),
            unreadable: UnreadableLog::default(),
        }
    }

    /// Runs until the adapter is closed.
    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.follow_connection();
            self.follow_losses();
            let closed = self.parts.closed.clone();
            tokio::select! {
                biased;
                () = closed.cancelled() => break,
                Some(command) = self.parts.commands.recv() => self.obey(command),
                Some(echo) = self.parts.echoes.next() => self.parts.echo.came(&echo.payload),
                () = self.parts.link.changed() => {}
                _ = tick.tick() => self.tick(),
                () = next_batch(&mut self.parts.outlet, &mut self.flows, &mut self.batch) => self.deliver(),
            }
        }
        self.end().await;
    }

    /// Tells the hub when the connection is lost and when it is back. The library's events can be dropped, so its state
    /// and its count of connections are what counts; events only say when to look.
    fn follow_connection(&mut self) {
        // In this order: the count grows before the state says so.
        let connected = self.parts.client.connection_state() == State::Connected;
        let connects = self.statistics.connects.load(Ordering::Relaxed);
        let same = connected && connects == self.connects;
        self.parts.link.set_up(connected);
        if !same && let Some((_, requests)) = &self.parts.jetstream {
            requests.connection_lost();
        }
        let confirmed = match &mut self.connection {
            Connection::Confirming { echo, .. } => echo.has_come(),
            Connection::Up | Connection::Down => false,
        };
        match &self.connection {
            Connection::Up if same => {}
            Connection::Up => {
                self.parts.outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
                self.connection = Connection::Down;
            }
            Connection::Confirming { .. } if same && confirmed => {
                self.connection = Connection::Up;
                if let Some((streams, _)) = &self.parts.jetstream {
                    streams.doubt.notify_one();
                }
                self.resume_all();
            }
            Connection::Confirming { since, .. } if same && since.elapsed() < ECHO_RETRY => {}
            Connection::Confirming { .. } | Connection::Down => self.connection = Connection::Down,
        }
        if matches!(self.connection, Connection::Down) && connected {
            self.connects = connects;
            self.connection = Connection::Confirming { echo: self.send_echo(), since: Instant::now() };
        }
    }

    /// The library writes its subscriptions before any command that comes after them, so this echo confirms them.
    fn send_echo(&self) -> EchoToken {
        let token = self.parts.echo.token();
        let sending = token.sending();
        let (client, closed) = (Arc::clone(&self.parts.client), self.parts.closed.clone());
        self.parts.tasks.spawn(async move { closed.run_until_cancelled(sending.send(&client)).await });
        token
    }

    /// Tells the hub what the library dropped and what the server refused.
    fn follow_losses(&mut self) {
        let news = self.parts.link.take_news();
        if news.many_slow {
            self.interrupt_slow(Scope::All);
        } else if !news.slow.is_empty() {
            // Rare, so that no index by this number is kept.
            let slow: Vec<InterestId> =
                self.flows.iter().filter(|flow| news.slow.contains(&flow.sid)).map(|flow| flow.interest.id).collect();
            for id in slow {
                self.interrupt_slow(Scope::Interest(id));
            }
        }
        if news.refused {
            self.interrupt_refused();
        }
    }

    fn interrupt_slow(&mut self, scope: Scope) {
        if self.slow.insert(scope, Instant::now()).is_none() {
            self.parts.outlet.interrupted(Interruption { scope, reason: "slow_consumer" });
        }
    }

    /// A refusal that came too late for the call that asked.
    fn interrupt_refused(&mut self) {
        let refused = |flow: &&Inflow| self.parts.link.is_refused(&flow.subject(&self.parts.subjects));
        let refused: Vec<InterestId> = self.flows.iter().filter(refused).map(|flow| flow.interest.id).collect();
        for id in refused {
            self.parts.outlet.interrupted(Interruption { scope: Scope::Interest(id), reason: "refused" });
        }
    }

    fn tick(&mut self) {
        self.parts.outlet.recover();
        self.tell_checks();
        let received = self.statistics.in_bytes.load(Ordering::Relaxed);
        if self.parts.outlet.is_full() {
            self.parts.outlet.held_back(received - *self.received_before.get_or_insert(received));
        } else {
            self.received_before = None;
        }
        let over: Vec<Scope> =
            self.slow.iter().filter(|(_, last)| last.elapsed() >= SLOW_PAUSE).map(|(scope, _)| *scope).collect();
        for scope in over {
            self.slow.remove(&scope);
            match scope {
                Scope::All => self.resume_all(),
                // One that is slow is not told that it is over.
                Scope::Interest(_) if self.slow.contains_key(&scope) => {}
                Scope::Interest(_) => self.parts.outlet.resumed(scope),
            }
        }
    }

    /// Everything may be interrupted for two reasons at once.
    fn resume_all(&mut self) {
        if matches!(self.connection, Connection::Up) && !self.slow.contains_key(&Scope::All) {
            self.parts.outlet.resumed(Scope::All);
        }
    }

    fn deliver(&mut self) {
        // What came by a new connection must not be told before the loss of the old one.
        if self.statistics.connects.load(Ordering::Relaxed) != self.connects {
            self.follow_connection();
        }
        for (slot, message) in self.batch.drain(..) {
            let Some(flow) = self.flows.get(slot) else { continue };
            match flow.publication(&self.parts.subjects, message) {
                Ok(publication) => self.parts.outlet.publish(publication),
                Err(reason) => self.unreadable.note("nats", &reason),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(flows) => {
                let mut renumbered = false;
                for flow in flows {
                    let id = flow.interest.id;
                    renumbered |= flow.renumbered().is_some();
                    let slots = if flow.is_second() { &mut self.second_slots } else { &mut self.slots };
                    slots.insert(id, self.flows.insert(flow));
                }
                if renumbered {
                    self.interrupt_renumbered();
                }
                if self.parts.link.has_refusals() {
                    self.interrupt_refused();
                }
            }
            Command::Remove(ids) => {
                let mut removed = Vec::new();
                for id in ids {
                    let slots = [self.slots.remove(&id), self.second_slots.remove(&id)];
                    removed.extend(slots.into_iter().flatten().filter_map(|slot| self.flows.remove(slot)));
                    self.slow.remove(&Scope::Interest(id));
                }
                let (client, closed) = (Arc::clone(&self.parts.client), self.parts.closed.clone());
                self.parts.tasks.spawn(async move { closed.run_until_cancelled(unsubscribe(&client, removed)).await });
            }
            Command::Check(streams) => {
                let interests: Vec<InterestId> = self.interests_of(&streams).collect();
                self.checks.extend(interests);
                self.tell_checks();
            }
            Command::Renumbered => self.interrupt_renumbered(),
        }
    }

    fn interests_of(&self, streams: &[Arc<Stream>]) -> impl Iterator<Item = InterestId> {
        let of_these = |flow: &&Inflow| {
            flow.stream().is_some_and(|stream| streams.iter().any(|wanted| Arc::ptr_eq(wanted, stream)))
        };
        self.flows.iter().filter(of_these).map(|flow| flow.interest.id)
    }

    /// Lets the hub look at positions, a part of them at a time. By the end of an interruption that had no beginning: nothing
    /// is known to be missing. It is told of these interests only, since others have no positions to look at.
    fn tell_checks(&mut self) {
        if self.checks.is_empty() {
            return;
        }
        // Where all is interrupted, its end lets all be looked at.
        if !matches!(self.connection, Connection::Up) || self.parts.outlet.is_behind() {
            self.checks.clear();
            return;
        }
        let room = self.parts.outlet.ready().now_or_never().unwrap_or_default();
        for _ in 0..room.min(CHECKS) {
            let Some(id) = self.checks.pop_first() else { break };
            let scope = Scope::Interest(id);
            if self.slots.contains_key(&id) && !self.slow.contains_key(&scope) {
                self.parts.outlet.resumed(scope);
            }
        }
    }

    /// Tells all who are interested in streams that were made anew, once each.
    ///
    /// What waits in their subscriptions is thrown away first, for it may be of the streams before: all that those have
    /// republished came before the answer by which the others became known. What of it was new is found when positions are
    /// looked at, as the end of an interruption lets the hub do.
    fn interrupt_renumbered(&mut self) {
        let renumbered: Vec<(usize, Epoch)> =
            self.flows.iter_slots().filter_map(|(slot, flow)| Some((slot, flow.renumbered()?))).collect();
        let mut scopes = Vec::with_capacity(renumbered.len());
        for (slot, epoch) in renumbered {
            let Some(flow) = self.flows.discard(slot, self.parts.subscription_capacity) else { continue };
            flow.renew(epoch);
            scopes.push(Scope::Interest(flow.interest.id));
        }
        // Where there is no connection, all will be looked at when there is one again.
        if !matches!(self.connection, Connection::Up) {
            return;
        }
        if scopes.len() > MANY_RENUMBERED {
            scopes = vec![Scope::All];
        }
        for scope in scopes {
            self.parts.outlet.interrupted(Interruption { scope, reason: "new_epoch" });
            match scope {
                Scope::All => self.resume_all(),
                Scope::Interest(_) => self.parts.outlet.resumed(scope),
            }
        }
    }

    async fn end(self) {
        let Parts { client, outlet, mut library, link, .. } = self.parts;
        drop(outlet);
        let ending = async {
            if client.connection_state() == State::Connected {
                // It fails only where the library's task has ended.
                let _ = client.drain().await;
            }
            drop(client);
            // It holds senders of the library's commands; without them its task ends.
            drop((self.flows, self.parts.echoes));
            let _ = library.recv().await;
        };
        if timeout(limits::CLOSE, ending).await.is_err() {
            tracing::warn!("the connection to NATS has not ended within {:?}", limits::CLOSE);
        }
        drop(link);
    }
}

/// Ends subscriptions, in parts: the library's queue is bounded, and each that finds it full would spawn a task.
pub(super) async fn unsubscribe<T>(client: &Client, mut subscriptions: Vec<T>) {
    while !subscriptions.is_empty() {
        subscriptions.truncate(subscriptions.len().saturating_sub(UNSUBSCRIBE_BATCH));
        if client.flush().await.is_err() {
            return;
        }
    }
}

async fn next_batch(outlet: &mut Outlet, flows: &mut Merge<Inflow>, batch: &mut Vec<(usize, Message)>) {
    let room = outlet.ready().await.min(BATCH);
    poll_fn(|context| flows.poll_items(context, room, batch)).await;
}
