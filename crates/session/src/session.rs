//! The session: its state, and what goes in and comes out. What each input does is in the files beside this one.

use std::{collections::VecDeque, fmt, sync::Arc};

use fanfare_protocol::{
    ClientMessage, CloseCode, Command, CommandKind, DecodeError, ErrorBody, ErrorCode, Push, Reply, ServerMessage,
    Tenant, Topic,
};

use crate::{
    Action, Completion, Grant, OpId, SessionConfig, Time,
    liveness::{Liveness, Overdue},
    pending::{Operation, Pending},
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
    pub channels: Vec<String>,
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

/// One client's protocol state. After [`Action::Close`] it takes no input and says nothing more; what it was subscribed
/// to can still be read, so that the edge can end it at the hub.
pub struct Session {
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) id: SessionId,
    pub(crate) phase: Phase,
    pub(crate) subscriptions: TopicSet,
    /// There only while something is in flight or waits.
    pub(crate) pending: Option<Box<Pending>>,
    actions: VecDeque<Action>,
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
            actions: VecDeque::new(),
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
    pub fn handle_handshake(&mut self, now: Time, handshake: Handshake) {
        if !self.closed {
            self.open_by_handshake(now, handshake);
        }
    }

    /// Takes one decoded message of the client. It counts as activity.
    ///
    /// Commands that come while a token is being verified wait, at most `max_pending_commands`, and run in order after it.
    /// A first command other than `connect` connects anonymously, where that is allowed.
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
                    self.run(id, kind);
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
            (Phase::Connected(_), kind) => self.run(id, kind),
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
        );
        let Some(operation) = fits.then(|| pending.finish(op)).flatten() else { return };
        match (operation, completion) {
            (Operation::Connect(opening), Completion::Authenticated(result)) => self.opened(now, opening, result),
            (Operation::Refresh { id }, Completion::Authenticated(result)) => self.refreshed(now, id, result),
            (Operation::Subscribe { topic, askers }, Completion::Subscribed(result)) => {
                self.subscribed(topic, askers, result.map(|_| ()));
            }
            (Operation::Publish { id }, Completion::Published(result)) => {
                self.reply(id, result.map(|_| Reply::Done {}));
            }
            (operation, completion) => unreachable!("{operation:?} does not fit {completion:?}"),
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    /// Publications on a topic were or may have been missed: tells the client, if it is subscribed.
    pub fn handle_gap(&mut self, _now: Time, topic: &Topic, reason: &'static str) {
        if !self.closed && self.is_subscribed(topic) {
            self.push(Push::Gap { channel: topic.to_string(), reason });
        }
    }

    /// The hub ended a subscription: tells the client, if it was subscribed.
    pub fn handle_unsubscribed(&mut self, _now: Time, topic: &Topic, reason: crate::Refusal) {
        if !self.closed && self.subscriptions.remove(topic) {
            self.push(Push::Unsubscribed { channel: topic.to_string(), error: reason });
        }
    }

    /// Time has reached what `poll_timeout` said.
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
        let action = self.actions.pop_front();
        if self.actions.is_empty() {
            self.actions = VecDeque::new(); // gives the memory back: most sessions are idle most of the time
        }
        action
    }

    /// When `handle_timeout` is due; earlier calls are harmless. `None` once closed.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = [Some(self.liveness.due()), self.connect_by(), self.token_due()];
        if self.closed { None } else { due.into_iter().flatten().min() }
    }

    /// Carries out a command of a connected session.
    pub(crate) fn run(&mut self, id: u64, kind: CommandKind) {
        match kind {
            CommandKind::Connect { .. } => unreachable!("connect is answered before it can run or wait"),
            CommandKind::Subscribe { channel } => self.subscribe(id, &channel),
            CommandKind::SubscribeMany { channels } => self.subscribe_many(id, channels),
            CommandKind::Unsubscribe { channel } => self.unsubscribe(id, &[channel]),
            CommandKind::UnsubscribeMany { channels } => self.unsubscribe(id, &channels),
            CommandKind::Publish(publish) => self.publish(id, *publish),
            CommandKind::Refresh { token } => self.refresh(id, token),
            CommandKind::Ping => self.reply(id, Ok(Reply::Done {})),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
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
