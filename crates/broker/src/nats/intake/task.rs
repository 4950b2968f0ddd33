//! The task that owns the intake: it connects, subscribes, hands publications to the hub, and tells it what was missed.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use fanfare_protocol::NatsSubjects;
use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Lost, Waiting},
    dial::{DialError, Dialer, Greeted, Info},
    publication::publication,
    servers::Pool,
    table::{Held, MAX_INTERESTS, Table},
    wire::{Message, Operation},
};
use crate::{
    BrokerError, Interest, InterestId, Interruption, Scope,
    address::Server,
    backoff,
    nats::{
        NAME,
        stream::{Stream, Streams},
    },
    outlet::Outlet,
    unreadable::UnreadableLog,
};

/// Operations that are taken at once, before others get their turn.
const BATCH: usize = 64;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Interests whose positions the hub is let look at in one tick.
const CHECKS: usize = 1_024;

/// Interests that are told one by one that their stream was made anew; where there are more, everything is interrupted. It
/// leaves room for other interruptions, see [`limits::CONTROL_EVENTS`](crate::limits::CONTROL_EVENTS).
const MANY_RENUMBERED: usize = 64;

/// Refused subjects that are gathered, since whose they are is looked up in the whole table.
const MANY_REFUSED: usize = 1_024;

/// How long the library may take to notice that a server is gone which the intake has found gone.
const NOTICE: Duration = Duration::from_millis(250);

/// Asked of the intake by the calls of the broker.
#[derive(Debug)]
pub(in crate::nats) enum Command {
    Add(Vec<Interest>, oneshot::Sender<Result<(), BrokerError>>),
    Remove(Vec<InterestId>),
    /// Publications of these streams may have been lost, though nothing was interrupted: positions have to be looked at.
    Check(Vec<Arc<Stream>>),
    /// Streams were made anew.
    Renumbered,
}

/// What the intake is made of.
pub(in crate::nats) struct Parts {
    pub(in crate::nats) subjects: NatsSubjects,
    /// Where there is history, or lifecycle events are told.
    pub(in crate::nats) streams: Option<Arc<Streams>>,
    /// Namespaces in which something may be published past the history.
    pub(in crate::nats) signals: HashSet<Box<str>>,
    pub(in crate::nats) commands: mpsc::Receiver<Command>,
    pub(in crate::nats) outlet: Outlet,
    /// Whether the library is connected, by which the hub repairs what it missed.
    pub(in crate::nats) library: watch::Receiver<bool>,
    pub(in crate::nats) closed: CancellationToken,
}

/// Where the intake is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nats) struct Place {
    pub(in crate::nats) server: Server,
    /// Which of its connections it is, from 1.
    pub(in crate::nats) connection: u64,
}

/// The first connection.
pub(in crate::nats) struct Opened {
    dialer: Arc<Dialer>,
    pool: Pool,
    server: Server,
    greeted: Greeted,
    place: watch::Sender<Option<Place>>,
}

pub(in crate::nats) struct Intake {
    parts: Parts,
    dialer: Arc<Dialer>,
    place: watch::Sender<Option<Place>>,
    table: Table,
    state: State,
    /// Connections so far.
    connections: u64,
    /// From when on the library is taken at its word that it is connected.
    trusted_at: Instant,
    /// Interests whose positions are still to be looked at.
    checks: BTreeSet<InterestId>,
    /// Subjects that the server has refused since the last PONG.
    refused: HashSet<String>,
    /// Connections in a row on which the server did not confirm everything.
    failures: usize,
    unreadable: UnreadableLog,
}

/// The connection, as the hub was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    /// There is one again and all is subscribed; the library's is not there yet.
    Confirmed,
}

type Dialing = futures_util::future::BoxFuture<'static, (Pool, Server, Greeted)>;

impl Intake {
    /// Runs until the adapter is closed.
    pub(in crate::nats) async fn run(parts: Parts, opened: Opened) {
        let Opened { dialer, mut pool, server, greeted, place } = opened;
        let mut intake = Self {
            parts,
            dialer,
            place,
            table: Table::default(),
            state: State::Up,
            connections: 1,
            trusted_at: Instant::now(),
            checks: BTreeSet::new(),
            refused: HashSet::new(),
            failures: 0,
            unreadable: UnreadableLog::default(),
        };
        let closed = intake.parts.closed.clone();
        let mut connection = Connection::new(server, greeted);
        loop {
            let Some(Err(lost)) = closed.run_until_cancelled(intake.serve(&mut connection, &mut pool)).await else {
                return;
            };
            let preferred = intake.lost(connection, &mut pool, &lost);
            let dialing = dial(Arc::clone(&intake.dialer), pool, preferred, intake.failures).boxed();
            let Some((known, server, greeted)) = closed.run_until_cancelled(intake.wait(dialing)).await else { return };
            pool = known;
            connection = intake.begin(server, greeted);
        }
    }

    /// While there is a connection.
    async fn serve(&mut self, connection: &mut Connection, pool: &mut Pool) -> Result<std::convert::Infallible, Lost> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(command) = self.parts.commands.recv(), if connection.outward.has_room() => {
                    self.obey(command, Some(&mut *connection));
                }
                now = tick.tick() => {
                    self.tick();
                    connection.keep_alive(now)?;
                }
                Ok(()) = self.parts.library.changed(), if self.state == State::Confirmed => self.resume(),
                written = connection.outward.write(), if connection.outward.has_to_write() => written?,
                room = self.parts.outlet.ready(), if connection.inward.has_read => {
                    connection.inward.has_read = self.take(connection, pool, room.min(BATCH))?;
                    tokio::task::consume_budget().await;
                }
                read = connection.inward.read(), if !connection.inward.has_read => {
                    read?;
                    // Most of the time there is room.
                    if let Some(room) = self.parts.outlet.ready().now_or_never() {
                        connection.inward.has_read = self.take(connection, pool, room.min(BATCH))?;
                    }
                }
            }
        }
    }

    /// While there is none: what is asked for is answered, and nobody waits.
    async fn wait(&mut self, mut dialing: Dialing) -> (Pool, Server, Greeted) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(command) = self.parts.commands.recv() => self.obey(command, None),
                _ = tick.tick() => self.tick(),
                connected = &mut dialing => return connected,
            }
        }
    }

    /// Tells that the connection is lost, and says which server to try first.
    fn lost(&mut self, connection: Connection, pool: &mut Pool, lost: &Lost) -> Option<Server> {
        tracing::info!(server = %connection.server, reason = %lost, "the intake's connection to NATS is lost");
        self.place.send_replace(None);
        self.refused.clear();
        for waiting in connection.waiting {
            if let Waiting::Added { ids, reply, .. } = waiting {
                ids.into_iter().for_each(|id| drop(self.table.remove(id)));
                // Nobody might wait any more.
                let _ = reply.send(Err(BrokerError::Unavailable { broker: NAME }));
            }
        }
        if self.state == State::Up {
            self.parts.outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
        }
        self.state = State::Down;
        self.trusted_at = Instant::now() + NOTICE;
        // Where the library still is, the server is there; else it may take long until it is seen that it is not.
        if *self.parts.library.borrow() && !matches!(lost, Lost::LameDuck | Lost::Silent | Lost::Refused(_)) {
            return Some(connection.server);
        }
        pool.failed(&connection.server);
        None
    }

    /// Subscribes to everything again.
    fn begin(&mut self, server: Server, greeted: Greeted) -> Connection {
        tracing::info!(%server, interests = self.table.len(), "the intake is connected to NATS again");
        let mut connection = Connection::new(server, greeted);
        self.failures += 1;
        // Nothing is on its way of what was before.
        self.table.iter_mut().for_each(Held::renew);
        for (held, subscriptions) in self.table.iter() {
            for subscription in subscriptions {
                connection.subscribe(&subscription.way.subject(&self.parts.subjects, &held.interest), subscription.sid);
            }
        }
        connection.confirm(Waiting::All);
        self.connections += 1;
        let place = Place { server: connection.server.clone(), connection: self.connections };
        self.place.send_replace(Some(place));
        connection
    }

    /// Takes up to so many operations of what was read; says whether there may be more.
    fn take(&mut self, connection: &mut Connection, pool: &mut Pool, room: usize) -> Result<bool, Lost> {
        for _ in 0..room {
            match connection.next()? {
                None => {
                    self.tell_refused(connection);
                    return Ok(false);
                }
                Some(Operation::Message(message)) => self.deliver(message),
                Some(Operation::Ping) => connection.pong(),
                Some(Operation::Pong) => self.confirmed(connection),
                Some(Operation::Info(json)) => learn(connection, pool, &json)?,
                Some(Operation::Error(text)) => self.handle_error(connection, text)?,
                Some(Operation::Ok) => {}
            }
        }
        if self.refused.len() >= MANY_REFUSED {
            self.tell_refused(connection);
        }
        Ok(true)
    }

    fn deliver(&mut self, message: Message) {
        // What was removed meanwhile may still come.
        let Some((held, way)) = self.table.of_message(&message) else { return };
        match publication(held, way, &self.parts.subjects, message) {
            Ok(publication) => self.parts.outlet.publish(publication),
            Err(reason) => self.unreadable.note(NAME, &reason),
        }
    }

    /// The server has done all that was asked for before the oldest PING.
    fn confirmed(&mut self, connection: &mut Connection) {
        self.tell_refused(connection);
        match connection.waiting.pop_front() {
            Some(Waiting::All) => {
                (self.state, self.failures) = (State::Confirmed, 0);
                self.resume();
            }
            Some(Waiting::Added { ids, reply, refusal }) => {
                let result = match &refusal {
                    None => Ok(()),
                    Some(reason) => Err(BrokerError::Refused { broker: NAME, reason: reason.clone() }),
                };
                // Where nobody waits any more, nobody knows of them.
                if reply.send(result).is_err() || refusal.is_some() {
                    self.remove(&ids, Some(connection));
                }
            }
            Some(Waiting::Renumbered) => self.interrupt_renumbered(),
            Some(Waiting::Alive) | None => {}
        }
    }

    /// The interruption is over when both connections are there: the hub will ask by the other one what it missed.
    fn resume(&mut self) {
        let library = &mut self.parts.library;
        // It was lost and came back since all was well.
        let is_new = library.has_changed().unwrap_or(false);
        if !*library.borrow_and_update() || (!is_new && Instant::now() < self.trusted_at) {
            return;
        }
        self.state = State::Up;
        if let Some(streams) = &self.parts.streams {
            streams.doubt.notify_one();
        }
        self.parts.outlet.resumed(Scope::All);
    }

    fn handle_error(&mut self, connection: &mut Connection, text: String) -> Result<(), Lost> {
        if let Some(subject) = refused_subject(&text) {
            self.refused.insert(subject.to_owned());
            return Ok(());
        }
        tracing::warn!(error = text, "the NATS server reports an error");
        // It does not say which one it did not take. It was one of those that the next PONG is for.
        if text.to_ascii_lowercase().contains("subscription") {
            match connection.waiting.front_mut() {
                Some(Waiting::Added { refusal, .. }) => *refusal = Some(text),
                Some(Waiting::All) => return Err(Lost::Refused(text)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whom the refused subjects belong to: calls that wait for the next PONG, else interests that were held.
    fn tell_refused(&mut self, connection: &mut Connection) {
        if self.refused.is_empty() {
            return;
        }
        let refused = std::mem::take(&mut self.refused);
        let subject_of = |table: &Table, id| {
            let held = table.get(id)?;
            let mut subjects = table.subscriptions(id).map(|one| one.way.subject(&self.parts.subjects, &held.interest));
            subjects.find(|subject| refused.contains(subject))
        };
        if let Some(Waiting::Added { ids, refusal, .. }) = connection.waiting.front_mut()
            && let Some(subject) = ids.iter().find_map(|id| subject_of(&self.table, *id))
        {
            *refusal = Some(format!("no permission to subscribe to {subject:?}"));
        }
        let added: HashSet<InterestId> = connection.waiting.iter().flat_map(Waiting::ids).copied().collect();
        let ids: Vec<InterestId> = self.table.iter().map(|(held, _)| held.interest.id).collect();
        let held = ids.into_iter().filter(|id| !added.contains(id) && subject_of(&self.table, *id).is_some());
        let held: Vec<InterestId> = held.collect();
        tracing::warn!(
            subjects = refused.len(),
            first = refused.iter().next(),
            "the NATS server does not let this node subscribe"
        );
        for id in held {
            self.parts.outlet.interrupted(Interruption { scope: Scope::Interest(id), reason: "refused" });
        }
    }

    fn tick(&mut self) {
        if self.state == State::Confirmed {
            self.resume();
        }
        self.parts.outlet.recover();
        self.tell_checks();
    }

    fn obey(&mut self, command: Command, connection: Option<&mut Connection>) {
        match (command, connection) {
            (Command::Add(interests, reply), Some(connection)) => self.add(interests, reply, connection),
            // Nobody might wait any more.
            (Command::Add(_, reply), None) => _ = reply.send(Err(BrokerError::Unavailable { broker: NAME })),
            (Command::Remove(ids), connection) => self.remove(&ids, connection),
            (Command::Check(streams), _) => {
                let is_of_these = |held: &Held| {
                    let stream = held.recorded.as_ref().map(|recorded| &recorded.stream);
                    stream.is_some_and(|stream| streams.iter().any(|wanted| Arc::ptr_eq(wanted, stream)))
                };
                let concerned = self.table.iter().filter(|(held, _)| is_of_these(held));
                self.checks.extend(concerned.map(|(held, _)| held.interest.id));
                self.tell_checks();
            }
            // What was sent before has come when the PONG has.
            (Command::Renumbered, Some(connection)) => connection.confirm(Waiting::Renumbered),
            // Where there is no connection, all will be looked at when there is one again.
            (Command::Renumbered, None) => self.table.iter_mut().for_each(Held::renew),
        }
    }

    fn add(
        &mut self,
        mut interests: Vec<Interest>,
        reply: oneshot::Sender<Result<(), BrokerError>>,
        connection: &mut Connection,
    ) {
        // The caller has given up while this waited.
        if reply.is_closed() {
            return;
        }
        interests.retain(|interest| self.table.get(interest.id).is_none());
        if self.table.len() + interests.len() > MAX_INTERESTS {
            let reason = format!("a node can hold {MAX_INTERESTS} interests");
            let _ = reply.send(Err(BrokerError::Refused { broker: NAME, reason }));
            return;
        }
        let waiting = Waiting::added(&interests, reply);
        for interest in interests {
            let id = interest.id;
            let Parts { streams, signals, subjects, .. } = &self.parts;
            let held = Held::new(interest, streams.as_deref(), |namespace| signals.contains(namespace));
            let subjects = subjects.clone();
            self.table.insert(held);
            let Some(held) = self.table.get(id) else { continue };
            for subscription in self.table.subscriptions(id) {
                connection.subscribe(&subscription.way.subject(&subjects, &held.interest), subscription.sid);
            }
        }
        connection.confirm(waiting);
    }

    fn remove(&mut self, ids: &[InterestId], mut connection: Option<&mut Connection>) {
        for id in ids {
            if let Some(subscriptions) = self.table.remove(*id)
                && let Some(connection) = connection.as_mut()
            {
                connection.unsubscribe(subscriptions);
            }
        }
    }

    /// Lets the hub look at positions, a part of them at a time. By the end of an interruption that had no beginning: nothing
    /// is known to be missing. It is told of these interests only, since others have no positions to look at.
    fn tell_checks(&mut self) {
        if self.checks.is_empty() {
            return;
        }
        // Where all is interrupted, its end lets all be looked at.
        if self.state != State::Up || self.parts.outlet.is_behind() {
            self.checks.clear();
            return;
        }
        let room = self.parts.outlet.ready().now_or_never().unwrap_or_default();
        for _ in 0..room.min(CHECKS) {
            let Some(id) = self.checks.pop_first() else { break };
            if self.table.get(id).is_some() {
                self.parts.outlet.resumed(Scope::Interest(id));
            }
        }
    }

    /// Tells all who are interested in streams that were made anew, once each.
    ///
    /// What came until now was not delivered, for it may be of the streams before: all that those have republished came
    /// before the PONG. What of it was new is found when positions are looked at, as the end of an interruption lets the hub
    /// do.
    fn interrupt_renumbered(&mut self) {
        let mut scopes = Vec::new();
        for held in self.table.iter_mut().filter(|held| held.is_renumbered()) {
            held.renew();
            scopes.push(Scope::Interest(held.interest.id));
        }
        // Where all is interrupted, all will be looked at.
        if self.state != State::Up {
            return;
        }
        if scopes.len() > MANY_RENUMBERED {
            scopes = vec![Scope::All];
        }
        for scope in scopes {
            self.parts.outlet.interrupted(Interruption { scope, reason: "new_epoch" });
            self.parts.outlet.resumed(scope);
        }
    }
}

impl Opened {
    /// Where the intake is connected.
    pub(in crate::nats) fn place(&self) -> watch::Receiver<Option<Place>> {
        self.place.subscribe()
    }

    /// Goes round all servers once.
    pub(in crate::nats) async fn open(dialer: Arc<Dialer>, servers: &[Server]) -> Result<Self, DialError> {
        let mut pool = Pool::new(servers);
        let mut last = None;
        for server in pool.order(None) {
            match dialer.open(&server).await {
                Ok(greeted) => {
                    pool.connected(&server);
                    pool.learn(greeted.info.connect_urls.as_deref().unwrap_or_default());
                    let place = watch::Sender::new(Some(Place { server: server.clone(), connection: 1 }));
                    return Ok(Self { dialer, pool, server, greeted, place });
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(DialError::NoGreeting))
    }
}

/// Connects again, for as long as it takes.
async fn dial(
    dialer: Arc<Dialer>,
    mut pool: Pool,
    mut preferred: Option<Server>,
    mut attempt: usize,
) -> (Pool, Server, Greeted) {
    loop {
        for server in pool.order(preferred.take().as_ref()) {
            attempt += 1;
            sleep(backoff::pause(attempt)).await;
            match dialer.open(&server).await {
                Ok(greeted) => {
                    pool.connected(&server);
                    pool.learn(greeted.info.connect_urls.as_deref().unwrap_or_default());
                    return (pool, server, greeted);
                }
                Err(error) => {
                    tracing::debug!(%server, %error, "the intake cannot connect to NATS");
                    pool.failed(&server);
                }
            }
        }
    }
}

/// The server tells something new of itself or its cluster.
fn learn(connection: &mut Connection, pool: &mut Pool, json: &bytes::Bytes) -> Result<(), Lost> {
    let info = match Info::read(json) {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(%error, "INFO cannot be read");
            return Ok(());
        }
    };
    connection.allow_payload(info.max_payload);
    pool.learn(info.connect_urls.as_deref().unwrap_or_default());
    if info.lame_duck && pool.has_others(&connection.server) { Err(Lost::LameDuck) } else { Ok(()) }
}

/// The subject in `'Permissions Violation for Subscription to "rt.pub.acme.x"'`.
fn refused_subject(text: &str) -> Option<&str> {
    let text = text.trim_matches(|c| c == '\'' || c == ' ');
    let kind = "permissions violation for subscription to \"";
    text.get(..kind.len()).filter(|begin| begin.eq_ignore_ascii_case(kind))?;
    text[kind.len()..].split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        let text = "'Permissions Violation for Subscription to \"rt.pub.acme.x.>\"'";
        assert_eq!(refused_subject(text), Some("rt.pub.acme.x.>"));
        assert_eq!(refused_subject("Permissions Violation for Subscription to \"a\" using queue \"q\""), Some("a"));
        assert_eq!(refused_subject("'Permissions Violation for Publish to \"a\"'"), None);
    }
}
