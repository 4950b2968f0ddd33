//! The session: its state, and what goes in and comes out. What each input does is in the files beside this one.

use std::{collections::VecDeque, fmt, sync::Arc};

use fanfare_protocol::{
    ClientMessage, CloseCode, Command, CommandKind, DecodeError, ErrorBody, ErrorCode, Missed, Push, Reply,
    ServerMessage, Tenant, Topic,
};

use crate::{
    Action, Asked, Completion, Grant, OpId, SessionConfig, Time,
    liveness::{Liveness, Overdue},
    pending::{Operation, Pending},
    presence::Presence,
    topic_set::TopicSet,
};

/// A session's id: 128 random bits, so that it cannot be guessed and is unique in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the handshake brought.
#[derive(Default)]
pub struct Handshake {
    /// A token: it connects at once, and `system:connected` follows.
    pub token: Option<String>,
    /// Channels of `/ws?channels=`: connects anonymously where there is no token, and subscribes; each is told by `system:subscribed` or `system:error`.
    pub channels: Vec<Asked>,
}

/// Without the token: tokens are never logged.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("has_token", &self.token.is_some())
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

/// One client's protocol state: `handle_*` what happens, then `poll_action` until it gives nothing, then `poll_timeout`.
///
/// After [`Action::Close`] it takes no input and says nothing more; what it was subscribed
/// to can still be read, so that the edge can end it at the hub.
pub struct Session {
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) id: SessionId,
    pub(crate) phase: Phase,
    pub(crate) subscriptions: TopicSet,
    /// There only while something is in flight or waits.
    pub(crate) pending: Option<Box<Pending>>,
    /// There only from the first membership or signal on.
    pub(crate) presence: Option<Box<Presence>>,
    /// There only until the edge has taken them: most sessions are idle most of the time.
    #[expect(clippy::box_collection, reason = "8 bytes in every session where the queue itself would be 32")]
    actions: Option<Box<VecDeque<Action>>>,
    liveness: Liveness,
    last_op: u32,
    malformed: u32,
    /// Whether it has ever sent a command: only then does it know `system:ping`.
    has_commanded: bool,
    /// Whether `system:token_expiring` was pushed for the token in use.
    pub(crate) told_expiring: bool,
    closed: bool,
}

/// How far the session has come.
pub(crate) enum Phase {
    /// Nothing has connected it yet.
    Fresh { connect_by: Time },
    /// A token is being verified.
    Authenticating { connect_by: Time },
    /// It has an identity, which a refresh may replace.
    Connected(Box<Grant>),
}

impl Session {
    /// A session that has just been connected.
    pub fn new(config: Arc<SessionConfig>, id: SessionId, now: Time) -> Self {
        Self {
            phase: Phase::Fresh { connect_by: now + config.connect_timeout },
            liveness: Liveness::new(now, config.ping_interval),
            config,
            id,
            subscriptions: TopicSet::default(),
            pending: None,
            presence: None,
            actions: None,
            last_op: 0,
            malformed: 0,
            has_commanded: false,
            told_expiring: false,
            closed: false,
        }
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The tenant, once connected.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.grant().map(|grant| &grant.tenant)
    }

    /// Who the client is and what it may do, once connected.
    pub fn grant(&self) -> Option<&Grant> {
        match &self.phase {
            Phase::Connected(grant) => Some(grant),
            Phase::Fresh { .. } | Phase::Authenticating { .. } => None,
        }
    }

    /// Whether the session is subscribed to exactly this topic.
    pub fn is_subscribed(&self, topic: &Topic) -> bool {
        self.subscriptions.contains(topic)
    }

    /// What the session is subscribed to, and what it has asked for and not got an answer to: all that the edge may have
    /// to end at the hub when the connection ends.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.subscriptions.iter().chain(self.pending.iter().flat_map(|pending| pending.making()))
    }

    /// Whether [`Action::Close`] was given, or waits to be.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes what the handshake brought. At most once, before anything else.
    ///
    /// A token, or channels alone where anonymous clients are allowed, connects: `system:connected` is pushed, then each
    /// of the first [`HANDSHAKE_CHANNELS`](fanfare_protocol::limits::HANDSHAKE_CHANNELS) is answered by
    /// `system:subscribed` or `system:error`; all beyond are told by one `system:error` with `LIMIT_EXCEEDED`.
    pub fn handle_handshake(&mut self, now: Time, handshake: Handshake) {
        if !self.closed {
            self.open_by_handshake(now, handshake);
        }
    }

    /// Takes one decoded message of the client. It counts as activity.
    ///
    /// Commands that come while a token is being verified wait, at most `max_pending_commands`, and run in order after it.
    /// A first command other than `connect` connects anonymously, where that is allowed. Every command has exactly one
    /// reply, unless the session is closed before.
    pub fn handle_message(&mut self, now: Time, message: ClientMessage) {
        if self.closed {
            return;
        }
        self.liveness.heard(now, self.config.ping_interval);
        let ClientMessage::Command(command) = message else { return };
        self.has_commanded = true;
        let Command { id, kind } = command;
        match (&self.phase, kind) {
            (Phase::Fresh { .. }, CommandKind::Connect { token }) => self.open_by_command(now, id, token),
            (_, CommandKind::Connect { .. }) => {
                self.refuse(id, ErrorCode::BadRequest, "the session is connected, or is being connected; use refresh");
            }
            (Phase::Fresh { .. }, kind) => {
                if self.connect_anonymously() {
                    self.run(now, id, kind);
                    self.subscribe_automatically();
                } else {
                    self.refuse(id, ErrorCode::Unauthorized, "not connected: send connect with a token first");
                }
            }
            (Phase::Authenticating { .. }, kind) => {
                let max = self.config.max_pending_commands;
                if let Err(error) = self.pending_mut().wait(Command { id, kind }, max) {
                    self.reply(id, Err(error));
                }
            }
            (Phase::Connected(_), kind) => self.run(now, id, kind),
        }
    }

    /// Takes what could not be decoded: answers it by id where one could be read, else by `system:error`. The
    /// `max_malformed`-th closes.
    pub fn handle_malformed(&mut self, now: Time, error: DecodeError) {
        if self.closed {
            return;
        }
        self.liveness.heard(now, self.config.ping_interval);
        let body = ErrorBody::new(error.code, error.message);
        match error.id {
            Some(id) => self.reply(id, Err(body)),
            None => self.push(Push::Error { channel: None, error: body }),
        }
        self.malformed += 1;
        if self.malformed >= self.config.max_malformed {
            self.close(CloseCode::BadRequest, "too many malformed commands");
        }
    }

    /// Something came from the client, whatever it was: it is alive.
    pub fn handle_activity(&mut self, now: Time) {
        self.liveness.heard(now, self.config.ping_interval);
    }

    /// Takes the answer to an action. One that nobody waits for any more is passed over.
    pub fn handle_completion(&mut self, now: Time, op: OpId, completion: Completion) {
        if self.closed {
            return;
        }
        let Some(pending) = &mut self.pending else { return };
        let fits = matches!(
            (pending.operation(op), &completion),
            (Some(Operation::Connect(_) | Operation::Refresh { .. }), Completion::Authenticated(_))
                | (Some(Operation::Subscribe { .. }), Completion::Subscribed(_))
                | (Some(Operation::Publish { .. }), Completion::Published(_))
                | (Some(Operation::History { .. }), Completion::History(_))
                | (Some(Operation::Presence { .. } | Operation::Snapshot { .. }), Completion::Presence(_))
        );
        let Some(operation) = fits.then(|| pending.finish(op)).flatten() else { return };
        match (operation, completion) {
            (Operation::Connect(opening), Completion::Authenticated(result)) => self.opened(now, opening, result),
            (Operation::Refresh { id }, Completion::Authenticated(result)) => self.refreshed(now, id, result),
            (Operation::Subscribe { topic, askers, watch }, Completion::Subscribed(result)) => {
                self.subscribed(now, (topic, askers, watch), result);
            }
            (Operation::Publish { id }, Completion::Published(result)) => {
                self.reply(id, result.map(|position| Reply::Published { position }));
            }
            (Operation::History { id }, Completion::History(result)) => self.history_read(id, result),
            (Operation::Presence { id }, Completion::Presence(result)) => {
                self.presence_read(id, result.map(|read| *read))
            }
            (Operation::Snapshot { channel }, Completion::Presence(result)) => {
                self.snapshot_read(&channel, result.map(|read| *read));
            }
            (operation, completion) => unreachable!("{operation:?} does not fit {completion:?}"),
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    /// Publications on a topic were or may have been missed: tells the client, if it is subscribed.
    pub fn handle_gap(&mut self, _now: Time, topic: &Topic, reason: &'static str, missed: Option<Missed>) {
        if !self.closed && self.is_subscribed(topic) {
            self.push(Push::Gap { channel: topic.to_string(), reason, missed });
        }
    }

    /// The hub ended a subscription: tells the client, if it was subscribed.
    pub fn handle_unsubscribed(&mut self, _now: Time, topic: &Topic, reason: crate::Refusal) {
        if !self.closed && self.subscriptions.remove(topic) {
            self.push(Push::Unsubscribed { channel: topic.to_string(), error: reason });
            self.leave(topic);
        }
    }

    /// Time has reached what `poll_timeout` said: closes who has not connected in time, tells of the token's end and closes
    /// at it, marks idle who does nothing, ends signals that are over, pings who is silent and closes who stays so.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.closed {
            return;
        }
        if self.connect_by().is_some_and(|due| now >= due) {
            return self.close(CloseCode::ConnectTimeout, "not connected in time");
        }
        self.check_token(now);
        if self.closed {
            return;
        }
        self.check_idle(now);
        self.check_signals(now);
        match self.liveness.check(now, self.config.pong_timeout) {
            Some(Overdue::Ping) if self.has_commanded => self.push(Push::Ping {}),
            Some(Overdue::Ping) => self.act(Action::Ping),
            Some(Overdue::Dead) => self.close(CloseCode::PingTimeout, "no answer to a ping"),
            None => {}
        }
    }

    /// The node is going away: tells the client and closes.
    pub fn handle_drain(&mut self, _now: Time, reconnect_after_ms: u64) {
        if !self.closed {
            self.push(Push::Draining { reconnect_after_ms });
            self.close(CloseCode::Draining, "the node is going away");
        }
    }

    /// The next thing to do. Call until `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let actions = self.actions.as_mut()?;
        let action = actions.pop_front();
        if actions.is_empty() {
            self.actions = None;
        }
        action
    }

    /// When `handle_timeout` is due; earlier calls are harmless. `None` once closed.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = [Some(self.liveness.due()), self.connect_by(), self.token_due(), self.idle_due(), self.signals_due()];
        if self.closed { None } else { due.into_iter().flatten().min() }
    }

    /// Carries out a command of a connected session.
    pub(crate) fn run(&mut self, now: Time, id: u64, kind: CommandKind) {
        if is_activity(&kind) {
            self.note_activity(now);
        }
        match kind {
            CommandKind::Connect { .. } => unreachable!("connect is answered before it can run or wait"),
            CommandKind::Subscribe(asked) => self.subscribe(id, asked),
            CommandKind::SubscribeMany { channels } => self.subscribe_many(id, channels),
            CommandKind::Unsubscribe { channel } => self.unsubscribe(id, &[channel]),
            CommandKind::UnsubscribeMany { channels } => self.unsubscribe(id, &channels),
            CommandKind::Publish(publish) => self.publish(id, *publish),
            CommandKind::History(history) => self.history(id, *history),
            CommandKind::Refresh { token } => self.refresh(id, token),
            CommandKind::Presence(presence) => self.presence(id, *presence),
            CommandKind::SetPresence(set) => self.set_presence(now, id, *set),
            CommandKind::Signal(signal) => self.signal(now, id, *signal),
            CommandKind::Ping { .. } => self.reply(id, Ok(Reply::Done {})),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.get_or_insert_default().push_back(action);
    }

    pub(crate) fn push(&mut self, push: Push) {
        self.act(Action::Send(ServerMessage::Push(push)));
    }

    pub(crate) fn reply(&mut self, id: u64, outcome: Result<Reply, ErrorBody>) {
        self.act(Action::Send(ServerMessage::Reply { id, outcome }));
    }

    pub(crate) fn refuse(&mut self, id: u64, code: ErrorCode, message: impl Into<String>) {
        self.reply(id, Err(ErrorBody::new(code, message)));
    }

    pub(crate) fn close(&mut self, code: CloseCode, reason: &'static str) {
        self.act(Action::Close { code, reason: reason.into() });
        self.closed = true;
    }

    /// Without a word: the connection is gone.
    pub(crate) fn set_closed(&mut self) {
        self.closed = true;
    }

    /// Whether one more command may wait for its completion.
    pub(crate) fn room_for_command(&self) -> Result<(), ErrorBody> {
        let allowed = self.config.max_pending_commands;
        if self.pending.as_ref().is_some_and(|pending| pending.in_flight() >= allowed) {
            let message = format!("{allowed} commands wait for their reply; wait for one of them");
            return Err(ErrorBody::new(ErrorCode::RateLimit, message));
        }
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed
    }

    pub(crate) fn pending_mut(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    /// Begins an operation and gives the name for its action.
    pub(crate) fn begin(&mut self, operation: Operation) -> OpId {
        let op = self.next_op();
        self.pending_mut().begin(op, operation);
        op
    }

    /// A name that nothing in flight has, even after all of them have been used once.
    pub(crate) fn next_op(&mut self) -> OpId {
        loop {
            self.last_op = self.last_op.wrapping_add(1);
            let op = OpId(self.last_op);
            if !self.pending.as_ref().is_some_and(|pending| pending.knows(op)) {
                return op;
            }
        }
    }

    fn connect_by(&self) -> Option<Time> {
        match self.phase {
            Phase::Fresh { connect_by } | Phase::Authenticating { connect_by } => Some(connect_by),
            Phase::Connected(_) => None,
        }
    }
}

/// Whether a command says that there is a person at the client. `set_presence` does, and notes it itself.
fn is_activity(kind: &CommandKind) -> bool {
    matches!(
        kind,
        CommandKind::Subscribe(_)
            | CommandKind::SubscribeMany { .. }
            | CommandKind::Publish(_)
            | CommandKind::Signal(_)
            | CommandKind::Ping { active: true }
    )
}

/// Says how far it has come and how much it holds, but no token and no data.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("tenant", &self.tenant())
            .field("subscriptions", &self.subscriptions.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;

    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<Session>() <= 128, "{}", size_of::<Session>());
        assert!(size_of::<Grant>() <= 96, "{}", size_of::<Grant>());
        let driver = Driver::anonymous().subscribed(&["open:a"]);
        assert!(driver.session.pending.is_none());
        assert!(driver.session.actions.is_none());
    }

    #[test]
    fn the_first_silence_is_pinged_in_the_way_that_the_client_knows() {
        let mut quiet = Driver::new(config());
        quiet.shake(None, &["open:a"]);
        quiet.actions();
        assert_eq!(quiet.expire(), [Action::Ping]);
        assert_eq!(quiet.now, 25_000);
        let mut talking = Driver::anonymous();
        assert_eq!(talking.expire(), [push(Push::Ping {})]);
        assert_eq!(talking.now, 25_000);
    }

    #[test]
    fn silence_after_a_ping_closes() {
        let mut driver = Driver::anonymous();
        driver.expire();
        assert_eq!(driver.expire(), [close(CloseCode::PingTimeout, "no answer to a ping")]);
        assert_eq!(driver.now, 35_000);
    }

    #[test]
    fn every_sign_of_life_puts_the_ping_off() {
        type Sign = fn(&mut Driver);
        let signs: [Sign; 4] = [
            |driver| driver.session.handle_activity(driver.time()),
            |driver| driver.session.handle_message(driver.time(), ClientMessage::Pong),
            |driver| driver.send(1, CommandKind::Ping { active: false }),
            |driver| driver.session.handle_malformed(driver.time(), DecodeError::bad_request(None, "?")),
        ];
        for sign in signs {
            let mut driver = Driver::anonymous();
            driver.expire();
            driver.now = 34_999;
            sign(&mut driver);
            driver.actions();
            assert_eq!(driver.at(35_000), []);
            assert_eq!(driver.session.poll_timeout(), Some(Time::from_millis(59_999)));
        }
    }

    #[test]
    fn a_ping_of_the_client_is_answered_and_a_pong_is_not() {
        let mut driver = Driver::anonymous();
        driver.send(9, CommandKind::Ping { active: false });
        driver.session.handle_message(driver.time(), ClientMessage::Pong);
        assert_eq!(driver.actions(), [reply(9, done())]);
    }

    #[test]
    fn malformed_frames_are_answered_and_the_last_closes() {
        let mut driver = Driver::anonymous();
        let mut malformed = |id, message| {
            driver.session.handle_malformed(driver.time(), DecodeError::bad_request(id, message));
            driver.actions()
        };
        assert_eq!(malformed(Some(7), "no type"), [error(7, ErrorCode::BadRequest, "no type")]);
        assert_eq!(malformed(None, "no JSON"), [push_error(None, ErrorCode::BadRequest, "no JSON")]);
        assert_eq!(
            malformed(Some(8), "again"),
            [error(8, ErrorCode::BadRequest, "again"), close(CloseCode::BadRequest, "too many malformed commands")]
        );
        assert_eq!(malformed(Some(9), "more"), []);
    }

    #[test]
    fn a_drain_says_when_to_come_back() {
        let mut driver = Driver::new(config());
        driver.session.handle_drain(driver.time(), 1_500);
        assert_eq!(
            driver.actions(),
            [push(Push::Draining { reconnect_after_ms: 1_500 }), close(CloseCode::Draining, "the node is going away")]
        );
    }

    #[test]
    fn a_gap_is_told_to_subscribers_of_exactly_this_topic() {
        let mut driver = Driver::anonymous().subscribed(&["open:*"]);
        driver.session.handle_gap(Time::default(), &topic("open:a"), "interrupted", None);
        assert_eq!(driver.actions(), []);
        driver.session.handle_gap(Time::default(), &topic("open:*"), "interrupted", None);
        assert_eq!(
            driver.actions(),
            [push(Push::Gap { channel: "open:*".into(), reason: "interrupted", missed: None })]
        );
    }

    #[test]
    fn a_subscription_that_the_hub_ended_is_told_once() {
        let mut driver = Driver::anonymous().subscribed(&["open:a"]);
        let reason = || ErrorBody::new(ErrorCode::Unavailable, "the broker refused");
        driver.session.handle_unsubscribed(Time::default(), &topic("open:b"), reason());
        driver.session.handle_unsubscribed(Time::default(), &topic("open:a"), reason());
        driver.session.handle_unsubscribed(Time::default(), &topic("open:a"), reason());
        assert_eq!(driver.actions(), [push(Push::Unsubscribed { channel: "open:a".into(), error: reason() })]);
        assert!(!driver.session.is_subscribed(&topic("open:a")));
    }

    #[test]
    fn nothing_follows_a_close_and_nothing_is_taken() {
        let mut driver = Driver::anonymous().subscribed(&["open:a"]);
        driver.send(1, subscribe("open:b"));
        driver.session.handle_drain(driver.time(), 0);
        driver.actions();
        driver.complete(2, made());
        driver.send(2, subscribe("open:c"));
        driver.shake(Some("t"), &["open:d"]);
        driver.session.handle_malformed(driver.time(), DecodeError::bad_request(None, "?"));
        driver.session.handle_gap(driver.time(), &topic("open:a"), "interrupted", None);
        driver.session.handle_unsubscribed(driver.time(), &topic("open:a"), ErrorBody::new(ErrorCode::Internal, "?"));
        driver.session.handle_activity(driver.time());
        driver.session.handle_drain(driver.time(), 0);
        assert_eq!(driver.at(u64::MAX), []);
        assert_eq!(driver.session.poll_timeout(), None);
        // What the edge has to end at the hub can still be read.
        assert_eq!(driver.session.topics().collect::<Vec<_>>(), [&topic("open:a"), &topic("open:b")]);
        assert_eq!(driver.session.tenant(), Some(&tenant()));
    }

    #[test]
    fn a_completion_that_nobody_waits_for_is_passed_over() {
        let mut driver = Driver::anonymous();
        driver.complete(99, made());
        driver.send(1, publish("open:a"));
        driver.actions();
        driver.complete(1, made());
        assert_eq!(driver.actions(), []);
        driver.complete(1, published());
        driver.complete(1, published());
        assert_eq!(driver.actions(), [reply(1, live_only())]);
    }

    #[test]
    fn names_of_actions_in_flight_are_not_given_again() {
        let mut driver = Driver::anonymous();
        driver.send(1, publish("open:a"));
        driver.session.last_op = u32::MAX - 1;
        driver.send(2, publish("open:b"));
        driver.send(3, publish("open:c"));
        assert_eq!(
            driver.actions(),
            [to_publish(1, "open:a"), to_publish(u32::MAX, "open:b"), to_publish(0, "open:c")]
        );
        driver.complete(0, published());
        driver.session.last_op = 0;
        driver.send(4, publish("open:d"));
        assert_eq!(driver.actions(), [reply(3, live_only()), to_publish(2, "open:d")]);
    }

    #[test]
    fn no_token_is_ever_in_a_log() {
        let mut driver = Driver::new(config());
        let handshake = Handshake { token: Some("secret".into()), channels: Vec::new() };
        let mut logged = format!("{handshake:?}");
        driver.session.handle_handshake(Time::default(), handshake);
        driver.send(1, refresh("secret"));
        logged += &format!("{:?}", driver.session);
        logged += &format!("{:?}", driver.actions());
        assert!(logged.contains("Authenticate") && !logged.contains("secret"), "{logged}");
    }
}
