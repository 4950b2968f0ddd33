//! A session on virtual time for this crate's tests, and short ways to say what it is given and what it answers.

use std::{sync::Arc, time::Duration};

use fanfare_protocol::{
    Channel, ClientMessage, CloseCode, Command, CommandKind, Connected, Epoch, ErrorBody, ErrorCode, Info, Pattern,
    Position, PresenceReply, PublishCommand, Push, Reply, ServerMessage, SignalCommand, Subscribed,
    SubscriptionOutcome, Tenant, Topic, Watch,
};
use serde_json::value::RawValue;

use crate::{
    Access, Action, Allow, Asked, Completion, Grant, Granted, Handshake, JoinAction, Namespace, NamespaceTable, OpId,
    Permission, PresenceAction, PresenceWord, PresentAction, Session, SessionConfig, SessionId, SignalAction, Start,
    Time, Watching,
};

/// The id of every session here, as it is on the wire.
pub(crate) const ID: &str = "0000000000000000000000000000002a";

/// A session and the clock that it sees.
pub(crate) struct Driver {
    pub(crate) session: Session,
    pub(crate) now: u64,
}

/// Namespaces for every kind of access; anonymous clients are allowed.
pub(crate) fn config() -> SessionConfig {
    let kept = |namespace| Namespace { history: true, ..namespace };
    let with_members = |namespace, signal| Namespace { presence: true, signal, ..namespace };
    let namespace = |subscribe, publish, patterns| Namespace { subscribe, publish, patterns, ..Namespace::default() };
    SessionConfig {
        namespaces: NamespaceTable {
            declared: [
                ("open".into(), namespace(Access::Anyone, Access::Anyone, true)),
                ("room".into(), namespace(Access::Anyone, Access::Subscribers, true)),
                ("project".into(), namespace(Access::Token, Access::Token, true)),
                ("user".into(), namespace(Access::Owner, Access::Owner, false)),
                ("log".into(), kept(namespace(Access::Anyone, Access::Anyone, true))),
                ("ledger".into(), kept(namespace(Access::Token, Access::Token, true))),
                ("diary".into(), kept(namespace(Access::Owner, Access::Owner, false))),
                ("crew".into(), with_members(namespace(Access::Anyone, Access::Anyone, true), Access::Anyone)),
                ("team".into(), with_members(namespace(Access::Token, Access::Token, true), Access::Token)),
                ("desk".into(), with_members(namespace(Access::Owner, Access::Owner, false), Access::Owner)),
                (
                    "stage".into(),
                    Namespace { signal: Access::Subscribers, ..namespace(Access::Anyone, Access::None, true) },
                ),
                ("closed".into(), namespace(Access::None, Access::None, false)),
            ]
            .into(),
            defaults: Namespace::default(),
        },
        anonymous: Some(tenant()),
        connect_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(10),
        token_expiring: Duration::from_secs(60),
        max_subscriptions: 4,
        max_pending_commands: 3,
        max_malformed: 3,
        max_publication_bytes: 200,
        max_history: 100,
        idle: Duration::from_secs(300),
        signal_expiry: Duration::from_secs(6),
        presence_info_bytes: 40,
        presence_updates_per_second: 10,
        signals_per_second: 10,
        presence_page: 50,
        auto_subscribe: Vec::new(),
    }
}

/// The same, where a token is required.
pub(crate) fn token_config() -> SessionConfig {
    SessionConfig { anonymous: None, ..config() }
}

pub(crate) fn tenant() -> Tenant {
    Tenant::parse("acme").unwrap()
}

/// A grant of `alice` that may subscribe and publish on what these patterns cover.
pub(crate) fn grant(patterns: &[&str], expires_at: Option<u64>) -> Box<Grant> {
    let allow = Allow::SUBSCRIBE.union(Allow::PUBLISH);
    let permission = |text: &&str| Permission { pattern: Pattern::parse(text).unwrap(), allow };
    Box::new(Grant {
        user: Some("alice".into()),
        expires_at: expires_at.map(Time::from_millis),
        permissions: patterns.iter().map(permission).collect(),
        ..Grant::anonymous(tenant())
    })
}

impl Driver {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self { session: Session::new(Arc::new(config), SessionId(0x2a), Time::from_millis(0)), now: 0 }
    }

    /// Connected anonymously, with nothing left to do.
    pub(crate) fn anonymous() -> Self {
        let mut driver = Self::new(config());
        driver.send(1_000, connect(None));
        assert_eq!(driver.actions().len(), 1);
        driver
    }

    /// Connected with a token, with nothing left to do. The op of the authentication was 1.
    pub(crate) fn with_grant(grant: Box<Grant>) -> Self {
        let mut driver = Self::new(token_config());
        driver.send(1_000, connect(Some("t")));
        driver.complete(1, authenticated(grant));
        assert_eq!(driver.actions().len(), 2);
        driver
    }

    pub(crate) fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    pub(crate) fn send(&mut self, id: u64, kind: CommandKind) {
        self.session.handle_message(self.time(), ClientMessage::Command(Command { id, kind }));
    }

    pub(crate) fn shake(&mut self, token: Option<&str>, channels: &[&str]) {
        let handshake = Handshake { token: token.map(Into::into), channels: asked(channels) };
        self.session.handle_handshake(self.time(), handshake);
    }

    pub(crate) fn complete(&mut self, op: u32, completion: Completion) {
        self.session.handle_completion(self.time(), OpId(op), completion);
    }

    /// Subscribed to these, with nothing left to do.
    pub(crate) fn subscribed(mut self, names: &[&str]) -> Self {
        for name in names {
            self.send(2_000, subscribe(name));
            let ops: Vec<OpId> = self.actions().iter().filter_map(subscribe_op).collect();
            self.complete(ops[0].0, made());
            assert_eq!(self.actions()[0], reply(2_000, subscribed(name)));
        }
        self
    }

    /// What there is to do now.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.session.poll_action()).collect()
    }

    /// Goes to the next deadline and gives what it brings; the clock stands at it.
    pub(crate) fn expire(&mut self) -> Vec<Action> {
        self.now = self.session.poll_timeout().expect("a session that is not closed has a deadline").as_millis();
        self.session.handle_timeout(self.time());
        self.actions()
    }

    /// Goes to a moment, without a sign of life, and gives what it brings.
    pub(crate) fn at(&mut self, now: u64) -> Vec<Action> {
        self.now = now;
        self.session.handle_timeout(self.time());
        self.actions()
    }
}

fn subscribe_op(action: &Action) -> Option<OpId> {
    if let Action::Subscribe { op, .. } = action { Some(*op) } else { None }
}

pub(crate) fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).into()).collect()
}

/// Names of a handshake that asks for nothing first.
pub(crate) fn asked(names: &[&str]) -> Vec<Asked> {
    names.iter().map(|name| Asked { name: (*name).into(), ..Asked::default() }).collect()
}

/// A position of the only numbering there is.
pub(crate) fn at(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("e").unwrap() }
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

pub(crate) fn connect(token: Option<&str>) -> CommandKind {
    CommandKind::Connect { token: token.map(Into::into) }
}

pub(crate) fn subscribe(channel: &str) -> CommandKind {
    CommandKind::Subscribe(Asked { name: channel.into(), ..Asked::default() })
}

pub(crate) fn subscribe_many(channels: &[&str]) -> CommandKind {
    CommandKind::SubscribeMany { channels: asked(channels) }
}

pub(crate) fn subscribe_watching(channel: &str, watch: Watch) -> CommandKind {
    CommandKind::Subscribe(Asked { name: channel.into(), watch, ..Asked::default() })
}

/// Without data.
pub(crate) fn signal(channel: &str, event: &str) -> CommandKind {
    CommandKind::Signal(Box::new(SignalCommand { channel: channel.into(), event: event.into(), data: None }))
}

pub(crate) fn unsubscribe(channel: &str) -> CommandKind {
    CommandKind::Unsubscribe { channel: channel.into() }
}

pub(crate) fn refresh(token: &str) -> CommandKind {
    CommandKind::Refresh { token: token.into() }
}

/// An event `e` without data.
pub(crate) fn publication(channel: &str) -> PublishCommand {
    PublishCommand {
        channel: channel.into(),
        event: "e".into(),
        data: None,
        key: None,
        version: None,
        publication_id: None,
        echo: true,
    }
}

pub(crate) fn publish(channel: &str) -> CommandKind {
    CommandKind::Publish(Box::new(publication(channel)))
}

pub(crate) fn authenticated(grant: Box<Grant>) -> Completion {
    Completion::Authenticated(Ok(grant))
}

pub(crate) fn made() -> Completion {
    Completion::Subscribed(Ok(Granted::default()))
}

pub(crate) fn published() -> Completion {
    Completion::Published(Ok(None))
}

pub(crate) fn authenticate(op: u32, token: &str) -> Action {
    Action::Authenticate { op: OpId(op), token: token.into() }
}

pub(crate) fn to_subscribe(op: u32, name: &str) -> Action {
    Action::Subscribe { op: OpId(op), topic: topic(name), start: Start::default() }
}

pub(crate) fn to_unsubscribe(name: &str) -> Action {
    Action::Unsubscribe { topic: topic(name) }
}

/// A member that does what every new one does.
pub(crate) fn to_join(name: &str, watch: Watching) -> Action {
    to_join_with(name, watch, None)
}

pub(crate) fn to_join_with(name: &str, watch: Watching, info: Option<&str>) -> Action {
    let (channel, state) = (channel(name), PresenceWord::Online);
    Action::Join(Box::new(JoinAction { channel, watch, state, info: info.map(self::info) }))
}

pub(crate) fn to_present(name: &str, state: &str, info: Option<&str>) -> Action {
    let state = PresenceWord::parse(state).unwrap();
    Action::Present(Box::new(PresentAction { channel: channel(name), state, info: info.map(self::info) }))
}

pub(crate) fn to_take_snapshot(op: u32, name: &str, watch: Watching) -> Action {
    let (op, channel) = (OpId(op), channel(name));
    Action::Presence(Box::new(PresenceAction { op, channel, watch, snapshot: true, after: None, limit: 50 }))
}

/// Of a sender without a token.
pub(crate) fn to_signal(name: &str, event: &str, data: &str) -> Action {
    let body = format!(r#"{{"event":"{event}","data":{{"userId":"{ID}","anonymous":true{data}}},"exclude":["{ID}"]}}"#);
    Action::Signal(Box::new(SignalAction { channel: channel(name), body: body.into() }))
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

pub(crate) fn info(json: &str) -> Info {
    RawValue::from_string(json.to_owned()).unwrap().into()
}

/// Who is there, as the edge answers.
pub(crate) fn who(name: &str, users: u64) -> PresenceReply {
    PresenceReply {
        channel: name.into(),
        users,
        connections: users,
        members: None,
        next: None,
        version: None,
        stale: false,
    }
}

/// An event `e` without data.
pub(crate) fn to_publish(op: u32, channel: &str) -> Action {
    Action::Publish(crate::PublishAction {
        op: OpId(op),
        channel: Channel::parse(channel).unwrap(),
        body: br#"{"event":"e"}"#.as_slice().into(),
        id: None,
    })
}

pub(crate) fn reply(id: u64, reply: Reply) -> Action {
    Action::Send(ServerMessage::Reply { id, outcome: Ok(reply) })
}

pub(crate) fn error(id: u64, code: ErrorCode, message: &str) -> Action {
    Action::Send(ServerMessage::Reply { id, outcome: Err(ErrorBody::new(code, message)) })
}

pub(crate) fn push(push: Push) -> Action {
    Action::Send(ServerMessage::Push(push))
}

pub(crate) fn push_error(channel: Option<&str>, code: ErrorCode, message: &str) -> Action {
    push(Push::Error { channel: channel.map(Into::into), error: ErrorBody::new(code, message) })
}

pub(crate) fn close(code: CloseCode, reason: &'static str) -> Action {
    assert!(reason.len() <= 123, "a close frame has no room for {reason:?}");
    Action::Close { code, reason: reason.into() }
}

pub(crate) fn subscribed(name: &str) -> Reply {
    Reply::Subscribed(Subscribed { channel: name.into(), ..Subscribed::default() })
}

/// To a publish on a channel without history.
pub(crate) fn live_only() -> Reply {
    Reply::Published { position: None }
}

/// To a list: each with its error, where it was refused.
pub(crate) fn outcomes(outcomes: &[(&str, Option<(ErrorCode, &str)>)]) -> Reply {
    let outcome = |(channel, error): &(&str, Option<(ErrorCode, &str)>)| SubscriptionOutcome {
        channel: (*channel).into(),
        error: error.map(|(code, message)| ErrorBody::new(code, message)),
    };
    Reply::SubscribedMany { subscriptions: outcomes.iter().map(outcome).collect() }
}

pub(crate) fn done() -> Reply {
    Reply::Done {}
}

/// What a client is told that connected.
pub(crate) fn connected(user: Option<&str>, expires_in_ms: Option<u64>) -> Connected {
    Connected {
        session: ID.into(),
        protocol: 1,
        features: vec!["history", "presence", "signal"],
        user: user.map(Into::into),
        tenant: "acme".into(),
        expires_in_ms,
        ping_interval_ms: 25_000,
    }
}
