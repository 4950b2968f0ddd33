//! Random inputs against a simple model of the edge, the hub and the clock: whatever comes in, the promises hold.

mod past;
mod present;
mod step;
mod who;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fanfare_protocol::{
    ClientMessage, CloseCode, Command, CommandKind, DecodeError, ErrorBody, ErrorCode, HistoryCommand, HistoryRange,
    PublishCommand, Push, Reply, ServerMessage, Tenant, Topic, Watch,
};
use fanfare_session::{
    Access, Action, Asked, ChannelTemplate, Completion, Grant, Granted, Handshake, Namespace, NamespaceTable, OpId,
    Session, SessionConfig, SessionId, Start, Time, Watching,
};
use past::Past;
use present::Present;
use proptest::{collection::vec, option, prelude::*};
use step::{Back, Step, back, name, step, watch};
use who::{NAMES, WITH_HISTORY, WITH_MEMBERS, Who};

const MAX_SUBSCRIPTIONS: usize = 4;
const MAX_PENDING_COMMANDS: usize = 3;
const MAX_MALFORMED: u32 = 3;
const MAX_HISTORY: u32 = 10;
const CONNECT_TIMEOUT: u64 = 5_000;
const PING_INTERVAL: u64 = 25_000;
const PONG_TIMEOUT: u64 = 10_000;
const IDLE: u64 = 8_000;
const SIGNAL_EXPIRY: u64 = 1_500;

/// What the edge has been asked for and has not completed.
#[derive(Clone, Debug, PartialEq)]
enum InFlight {
    Authentication,
    Subscription(String, Start),
    Publication,
    History(String),
    Presence(String),
    Snapshot(String),
}

impl InFlight {
    fn makes(&self, topic: &str) -> bool {
        matches!(self, Self::Subscription(name, _) if name == topic)
    }
}

/// The session with all that surrounds it.
struct World {
    session: Session,
    anonymous: bool,
    now: u64,
    next_id: u64,
    in_flight: BTreeMap<u32, InFlight>,
    /// What the hub delivers to this session.
    hub: BTreeSet<String>,
    past: Past,
    present: Present,
    who: Option<Who>,
    expires_at: Option<u64>,
    last_activity: u64,
    malformed: u32,
    drained: bool,
    refused: bool,
    /// Commands without their reply.
    unanswered: BTreeSet<u64>,
    closed: Option<CloseCode>,
}

impl World {
    fn new(anonymous: bool, automatic: bool) -> Self {
        Self {
            session: Session::new(Arc::new(config(anonymous, automatic)), SessionId(1), Time::from_millis(0)),
            anonymous,
            now: 0,
            next_id: 0,
            in_flight: BTreeMap::new(),
            hub: BTreeSet::new(),
            past: Past::default(),
            present: Present::default(),
            who: None,
            expires_at: None,
            last_activity: 0,
            malformed: 0,
            drained: false,
            refused: false,
            unanswered: BTreeSet::new(),
            closed: None,
        }
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn shake(&mut self, with_token: bool, names: &[(&'static str, Back, Watch)]) {
        let token = with_token.then(|| "t".into());
        self.open_anonymously(with_token || names.is_empty());
        self.session.handle_handshake(self.time(), Handshake { token, channels: self.asked(names) });
        self.settle();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect { with_token } => self.send(CommandKind::Connect { token: with_token.then(|| "t".into()) }),
            Step::Subscribe(name, from, watch) => {
                self.send(CommandKind::Subscribe(self.asked(&[(name, from, watch)]).remove(0)));
            }
            Step::SubscribeMany(names) => self.send(CommandKind::SubscribeMany { channels: self.asked(&names) }),
            Step::Unsubscribe(name) => self.send(CommandKind::Unsubscribe { channel: name.into() }),
            Step::UnsubscribeMany(names) => self.send(CommandKind::UnsubscribeMany { channels: strings(&names) }),
            Step::Publish(name) => self.send(CommandKind::Publish(Box::new(publication(name)))),
            Step::Published(name) => self.past.publish(name, self.hub.contains(name) && self.closed.is_none()),
            Step::History(channel, limit) => {
                let range = HistoryRange::Before(None);
                self.send(CommandKind::History(Box::new(HistoryCommand { channel: channel.into(), range, limit })));
            }
            Step::Refresh => self.send(CommandKind::Refresh { token: "t".into() }),
            Step::Presence(name) => self.send(CommandKind::Presence(present::question(name))),
            Step::SetPresence(name, word) => {
                self.present.set(self.next_id + 1, name, word);
                self.send(CommandKind::SetPresence(present::setting(name, word)));
            }
            Step::Signal(name, event) => self.send(CommandKind::Signal(present::signal(name, event))),
            Step::Ping { active } => self.send(CommandKind::Ping { active }),
            Step::Pong => {
                self.last_activity = self.now;
                self.session.handle_message(self.time(), ClientMessage::Pong);
            }
            Step::Malformed { with_id } => {
                self.last_activity = self.now;
                self.malformed += 1;
                let id = with_id.then(|| self.expect_reply());
                self.session.handle_malformed(self.time(), DecodeError::bad_request(id, "?"));
            }
            Step::Activity => {
                self.last_activity = self.now;
                self.session.handle_activity(self.time());
            }
            Step::Complete { nth, who } => self.complete(nth, who),
            Step::CompleteUnknown => {
                let completion = Completion::Subscribed(Ok(Granted::default()));
                self.session.handle_completion(self.time(), OpId(u32::MAX), completion);
                for op in std::mem::take(&mut self.present.given_up) {
                    self.session.handle_completion(self.time(), OpId(op), present::answer("crew:a", None));
                }
            }
            Step::Wait(millis) => return self.wait(millis),
            Step::Gap(name) => {
                if let Ok(topic) = Topic::parse(name) {
                    self.session.handle_gap(self.time(), &topic, "interrupted", None);
                }
            }
            Step::EndAtHub(name) => {
                if self.hub.remove(name) {
                    self.past.end(name);
                    self.end_membership(name);
                    let topic = Topic::parse(name).expect("the hub has only names that are valid");
                    self.session.handle_unsubscribed(self.time(), &topic, refusal(ErrorCode::Unavailable));
                    self.settle();
                    assert!(
                        self.closed.is_some() || !self.present.holds(name),
                        "{name} has ended, but what is held there has not"
                    );
                }
            }
            Step::Drain => {
                self.drained = true;
                self.session.handle_drain(self.time(), 1_000);
            }
        }
        self.settle();
    }

    /// A client's `since` is of the past: it may reach further back than what is retained.
    fn asked(&self, names: &[(&'static str, Back, Watch)]) -> Vec<Asked> {
        let start = |name: &str, from: Back| Start {
            since: from.since.map(|ago| past::at(self.past.head(name).saturating_sub(ago))),
            rewind: from.rewind,
        };
        let asked = |(name, from, watch): &(&str, Back, Watch)| Asked {
            name: (*name).into(),
            start: start(name, *from),
            watch: *watch,
        };
        names.iter().map(asked).collect()
    }

    fn send(&mut self, kind: CommandKind) {
        self.last_activity = self.now;
        self.present.doing(self.now, &kind);
        let with_token = matches!(kind, CommandKind::Connect { token: Some(_) });
        self.open_anonymously(with_token);
        let id = self.expect_reply();
        self.session.handle_message(self.time(), ClientMessage::Command(Command { id, kind }));
    }

    /// Whatever a new client does without a token makes it anonymous, where that is allowed.
    fn open_anonymously(&mut self, with_token: bool) {
        let fresh = self.who.is_none() && !self.in_flight.values().any(|other| *other == InFlight::Authentication);
        if fresh && self.anonymous && !with_token && self.closed.is_none() {
            self.who = Some(Who::Anonymous);
        }
    }

    fn expect_reply(&mut self) -> u64 {
        self.next_id += 1;
        if self.closed.is_none() {
            self.unanswered.insert(self.next_id);
        }
        self.next_id
    }

    fn complete(&mut self, nth: usize, who: Option<Who>) {
        let Some(op) = self.in_flight.keys().copied().nth(nth % self.in_flight.len().max(1)) else { return };
        let granted = || who.map(|_| Granted::default()).ok_or_else(|| refusal(ErrorCode::Unavailable));
        let completion = match self.in_flight.remove(&op) {
            Some(InFlight::Authentication) => Completion::Authenticated(self.authenticate(who)),
            Some(InFlight::Subscription(name, start)) => {
                let made = who.is_some() && self.closed.is_none();
                let granted = if made && WITH_HISTORY.contains(&name.as_str()) {
                    Ok(self.past.grant(&name, &start))
                } else {
                    granted()
                };
                if made {
                    self.hub.insert(name);
                } else {
                    self.end_membership(&name);
                }
                Completion::Subscribed(granted)
            }
            Some(InFlight::History(name)) => Completion::History(granted().map(|_| self.past.page(&name))),
            Some(InFlight::Presence(name)) => present::answer(&name, granted().err()),
            Some(InFlight::Snapshot(name)) => {
                self.present.answered = (who.is_some() && self.closed.is_none()).then(|| name.clone());
                present::answer(&name, granted().err())
            }
            Some(InFlight::Publication) => Completion::Published(granted().map(|_| None)),
            None => return,
        };
        self.session.handle_completion(self.time(), OpId(op), completion);
    }

    /// The edge ends being a member with the subscription; a snapshot that was asked for is given up.
    fn end_membership(&mut self, name: &str) {
        self.present.end(name);
        self.give_up_snapshot(name);
    }

    fn give_up_snapshot(&mut self, name: &str) {
        let of_it = |operation: &InFlight| matches!(operation, InFlight::Snapshot(other) if other == name);
        let ops = self.in_flight.extract_if(.., |_, operation| of_it(operation)).map(|(op, _)| op);
        self.present.given_up.extend(ops);
    }

    fn authenticate(&mut self, who: Option<Who>) -> Result<Box<Grant>, ErrorBody> {
        let Some(who) = who else {
            self.refused |= self.who.is_none();
            return Err(refusal(ErrorCode::Unauthorized));
        };
        let grant = who.grant(self.now);
        self.present.latest = self.now;
        if self.closed.is_none() && self.who.is_none_or(|old| old.may_become(who)) {
            self.who = Some(who);
            self.expires_at = grant.expires_at.map(Time::as_millis);
        }
        Ok(Box::new(grant))
    }

    /// Passes time, keeping every deadline on the way, as the edge does.
    fn wait(&mut self, millis: u64) {
        let until = self.now + millis;
        let mut wakes = 0;
        while let Some(due) = self.session.poll_timeout().map(Time::as_millis).filter(|due| *due <= until) {
            assert!(due >= self.now || wakes == 0, "a deadline in the past stays there");
            self.now = due.max(self.now);
            self.session.handle_timeout(self.time());
            self.settle();
            wakes += 1;
            assert!(wakes < 20, "time does not pass: {due} of {until}");
        }
        self.now = until;
        if self.closed.is_none() {
            assert!(self.who.is_some() || self.now < CONNECT_TIMEOUT, "not connected at {}", self.now);
            assert!(self.expires_at.is_none_or(|at| self.now < at), "the token ended before {}", self.now);
            assert!(self.now < self.last_activity + PING_INTERVAL + PONG_TIMEOUT, "silent until {}", self.now);
            assert!(self.session.poll_timeout().is_some_and(|due| due.as_millis() > self.now));
        }
    }

    /// Carries out what the session asks for, and checks what must always be true.
    fn settle(&mut self) {
        while let Some(action) = self.session.poll_action() {
            assert_eq!(self.closed, None, "{action:?} follows a close");
            self.carry_out(action);
        }
        if let Some(code) = self.closed {
            assert!(self.session.is_closed() && self.session.poll_timeout().is_none(), "{code:?}");
            return;
        }
        self.past.check_told();
        self.present.check(self.now, self.who, &self.hub);
        let expected: BTreeSet<&str> = self.hub.iter().map(String::as_str).collect();
        for name in NAMES {
            let subscribed = Topic::parse(name).is_ok_and(|topic| self.session.is_subscribed(&topic));
            assert_eq!(subscribed, expected.contains(name), "{name}");
        }
        let making = self.in_flight.values().filter_map(|operation| match operation {
            InFlight::Subscription(name, _) => Some(name.as_str()),
            _ => None,
        });
        let all: BTreeSet<&str> = expected.into_iter().chain(making).collect();
        assert_eq!(self.session.topics().map(Topic::as_str).collect::<BTreeSet<_>>(), all);
        for name in &all {
            assert!(self.who.is_some_and(|who| who.may_subscribe(name)), "{:?} gets {name}", self.who);
        }
        assert!(all.len() <= MAX_SUBSCRIPTIONS, "{all:?}");
        assert!(self.in_flight.len() <= 2 * MAX_SUBSCRIPTIONS + MAX_PENDING_COMMANDS + 1, "{:?}", self.in_flight);
        // Beside those that are limited, a connect or a refresh.
        assert!(self.unanswered.len() <= MAX_PENDING_COMMANDS + 1, "{:?}", self.unanswered);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Authenticate { op, .. } => self.begin(op, InFlight::Authentication),
            Action::Subscribe { op, topic, start } => {
                let name = topic.to_string();
                assert!(self.who.is_some_and(|who| who.may_subscribe(&name)), "{:?} may not {name}", self.who);
                assert!(!self.hub.contains(&name), "{name} is subscribed to twice");
                assert!(start.is_live() || WITH_HISTORY.contains(&name.as_str()), "{name} has no {start:?}");
                assert!(start.rewind <= MAX_HISTORY, "{start:?}");
                self.begin(op, InFlight::Subscription(name, start));
            }
            Action::Unsubscribe { topic } => {
                let name = topic.to_string();
                let before = self.in_flight.len();
                self.in_flight.retain(|_, operation| !operation.makes(&name));
                let ended = self.hub.remove(&name) || self.in_flight.len() < before;
                assert!(ended, "{name} was not subscribed to");
                assert!(!self.present.holds(&name), "{name} is left, and what is held there has not ended");
                self.past.end(&name);
                self.end_membership(&name);
            }
            Action::Publish(publish) => {
                let name = publish.channel.as_str();
                assert!(self.who.is_some_and(|who| who.may_publish(name, &self.hub)), "{:?} on {name}", self.who);
                self.begin(publish.op, InFlight::Publication);
            }
            Action::History { op, channel, limit, .. } => {
                let name = channel.as_str();
                assert!(self.who.is_some_and(|who| who.may_read(name)), "{:?} reads {name}", self.who);
                assert!((1..=MAX_HISTORY as usize).contains(&limit), "{limit}");
                self.begin(op, InFlight::History(name.to_owned()));
            }
            Action::Join(join) => {
                let name = join.channel.to_string();
                assert!(self.hub.contains(&name) && WITH_MEMBERS.contains(&name.as_str()), "{name} is joined");
                if join.watch == Watching::Nobody {
                    self.give_up_snapshot(&name);
                }
                self.present.join(self.now, &join);
            }
            Action::Present(present) => self.present.update(&present),
            Action::Presence(presence) => {
                let name = presence.channel.to_string();
                assert!(self.who.is_some_and(|who| who.may_see(&name)), "{:?} may not see {name}", self.who);
                if presence.snapshot {
                    self.give_up_snapshot(&name);
                    self.present.check_snapshot(&name, presence.watch);
                    self.begin(presence.op, InFlight::Snapshot(name));
                } else {
                    self.begin(presence.op, InFlight::Presence(name));
                }
            }
            Action::Signal(signal) => {
                let who = self.who.expect("signals are of a connected session");
                let allowed = who.may_signal(signal.channel.as_str(), &self.hub);
                self.present.signal(self.now, &signal, allowed, self.hub.contains(signal.channel.as_str()));
            }
            Action::Send(message) => self.hear(message),
            Action::Ping => assert!(self.now >= self.last_activity + PING_INTERVAL),
            Action::Close { code, reason } => {
                assert!(reason.len() <= 123);
                self.check_close(code);
                self.closed = Some(code);
            }
        }
    }

    fn begin(&mut self, op: OpId, operation: InFlight) {
        if let InFlight::Subscription(name, _) = &operation {
            assert!(!self.in_flight.values().any(|other| other.makes(name)), "{name} is subscribed to twice");
        }
        assert_eq!(self.in_flight.insert(op.0, operation), None, "{op:?} is in use");
    }

    fn hear(&mut self, message: ServerMessage) {
        match message {
            ServerMessage::Reply { id, outcome } => {
                assert!(self.unanswered.remove(&id), "{id} is answered twice, or was not asked: {outcome:?}");
                let making = self.in_flight.values().filter_map(|operation| match operation {
                    InFlight::Subscription(name, _) => Some(name),
                    _ => None,
                });
                self.present.answered(id, outcome.is_ok(), self.hub.iter().chain(making));
                match outcome {
                    Ok(Reply::Subscribed(subscribed)) => {
                        assert!(self.hub.contains(&subscribed.channel));
                        self.past.hear(&subscribed);
                    }
                    Ok(
                        Reply::Refreshed { .. }
                        | Reply::Connected(_)
                        | Reply::Done {}
                        | Reply::SubscribedMany { .. }
                        | Reply::Published { .. }
                        | Reply::History(_)
                        | Reply::Presence(_),
                    ) => {
                        assert!(self.who.is_some(), "{id} succeeded without an identity");
                    }
                    Err(_) => {}
                }
            }
            ServerMessage::Push(push) => match push {
                Push::Connected(_) => assert!(self.who.is_some()),
                Push::Ping {} => assert!(self.now >= self.last_activity + PING_INTERVAL),
                Push::TokenExpiring { expires_in_ms } => {
                    assert_eq!(self.expires_at, Some(self.now + expires_in_ms));
                }
                Push::Subscribed(subscribed) => {
                    assert!(self.hub.contains(&subscribed.channel));
                    self.past.hear(&subscribed);
                }
                // It was taken from the hub just before.
                Push::Unsubscribed { channel, .. } => assert!(!self.hub.contains(&channel)),
                Push::Gap { channel, .. } => assert!(self.hub.contains(&channel)),
                Push::Draining { .. } => assert!(self.drained),
                Push::PresenceSnapshot(snapshot) => self.present.hear(&snapshot.channel),
                Push::Error { .. } => {}
            },
        }
    }

    /// Each close has its reason.
    fn check_close(&self, code: CloseCode) {
        let justified = match code {
            CloseCode::ConnectTimeout => self.now >= CONNECT_TIMEOUT,
            CloseCode::TokenExpired => self.expires_at.is_some_and(|at| self.now >= at),
            CloseCode::PingTimeout => self.now >= self.last_activity + PING_INTERVAL + PONG_TIMEOUT,
            CloseCode::BadRequest => self.malformed >= MAX_MALFORMED,
            CloseCode::Draining => self.drained,
            CloseCode::Unauthorized => self.who.is_none(),
            _ => false,
        };
        assert!(justified, "closed with {code:?} at {}", self.now);
        assert!(!self.refused || code == CloseCode::Unauthorized);
    }

    /// Completes all that is in flight: then every command has its reply, and there is room for others.
    fn finish(mut self) {
        while !self.in_flight.is_empty() && self.closed.is_none() {
            self.complete(0, Some(Who::Alice));
            self.settle();
        }
        if self.closed.is_none() {
            assert_eq!(self.unanswered, BTreeSet::new());
            if self.who.is_some() {
                self.step(Step::Publish("open:a"));
                assert_eq!(self.in_flight.len(), 1, "something in flight was not given up");
            }
        }
        self.session.end();
        let left: Vec<Action> = std::iter::from_fn(|| self.session.poll_action()).collect();
        self.present.check_end(&left);
        assert!(self.session.is_closed() && self.session.poll_timeout().is_none());
    }
}

fn config(anonymous: bool, automatic: bool) -> SessionConfig {
    let with_members = |namespace, signal| Namespace { presence: true, signal, ..namespace };
    let kept = |namespace| Namespace { history: true, ..namespace };
    let namespace = |subscribe, publish, patterns| Namespace { subscribe, publish, patterns, ..Namespace::default() };
    SessionConfig {
        namespaces: NamespaceTable {
            declared: [
                ("open".into(), namespace(Access::Anyone, Access::Anyone, true)),
                (
                    "room".into(),
                    Namespace { signal: Access::Subscribers, ..namespace(Access::Anyone, Access::Subscribers, false) },
                ),
                ("project".into(), with_members(kept(namespace(Access::Token, Access::Token, true)), Access::Token)),
                ("crew".into(), with_members(namespace(Access::Anyone, Access::Anyone, true), Access::Anyone)),
                ("log".into(), kept(namespace(Access::Anyone, Access::None, true))),
                ("user".into(), namespace(Access::Owner, Access::Owner, true)),
                ("closed".into(), namespace(Access::None, Access::None, true)),
            ]
            .into(),
            defaults: Namespace::default(),
        },
        anonymous: anonymous.then(tenant),
        connect_timeout: Duration::from_millis(CONNECT_TIMEOUT),
        ping_interval: Duration::from_millis(PING_INTERVAL),
        pong_timeout: Duration::from_millis(PONG_TIMEOUT),
        token_expiring: Duration::from_secs(2),
        max_subscriptions: MAX_SUBSCRIPTIONS,
        max_pending_commands: MAX_PENDING_COMMANDS,
        max_malformed: MAX_MALFORMED,
        max_publication_bytes: 1_000,
        max_history: MAX_HISTORY as usize,
        idle: Duration::from_millis(IDLE),
        signal_expiry: Duration::from_millis(SIGNAL_EXPIRY),
        presence_info_bytes: 1_000,
        presence_updates_per_second: 10,
        signals_per_second: 10,
        presence_page: 50,
        auto_subscribe: if automatic { templates() } else { Vec::new() },
    }
}

fn templates() -> Vec<ChannelTemplate> {
    ["user:{sub}", "crew:a"].map(|text| ChannelTemplate::parse(text).expect("a template")).into()
}

fn tenant() -> Tenant {
    Tenant::default()
}

fn refusal(code: ErrorCode) -> ErrorBody {
    ErrorBody::new(code, "why")
}

fn strings(names: &[&'static str]) -> Vec<String> {
    names.iter().map(|name| (*name).into()).collect()
}

fn publication(channel: &str) -> PublishCommand {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_the_promises_hold(
        anonymous in any::<bool>(),
        automatic in prop::bool::weighted(0.3),
        handshake in option::weighted(0.6, (prop::bool::weighted(0.8), vec((name(), back(), watch()), 0..5))),
        steps in vec(step(), 1..80),
        drain in any::<bool>(),
    ) {
        let mut world = World::new(anonymous, automatic);
        if let Some((with_token, names)) = handshake {
            world.shake(with_token, &names);
        }
        for step in steps {
            world.step(step);
        }
        if drain {
            world.step(Step::Drain);
            world.step(Step::Subscribe("open:a", Back { since: None, rewind: 0 }, Watch::Default));
        }
        world.finish();
    }
}
