//! Who is there, as the edge is told of it, and signals that the others have heard.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_protocol::{CommandKind, ErrorBody, PresenceCommand, PresenceReply, SetPresenceCommand, SignalCommand};
use fanfare_session::{Action, Completion, JoinAction, PresentAction, SignalAction, Watching};
use serde_json::{Value, value::RawValue};

use crate::{
    IDLE, SIGNAL_EXPIRY,
    who::{WITH_MEMBERS, Who},
};

/// What the edge and the others know of one session.
#[derive(Default)]
pub(crate) struct Present {
    rows: BTreeMap<String, Row>,
    /// What the client has set.
    own: BTreeMap<String, &'static str>,
    /// Commands `set_presence` without their reply.
    setting: BTreeMap<u64, (Option<&'static str>, &'static str)>,
    /// A snapshot that the edge has just given.
    pub(crate) answered: Option<String>,
    /// Snapshots that nobody waits for any more.
    pub(crate) given_up: Vec<u32>,
    /// `typing` that the others have heard to begin, and when it is over.
    held: BTreeMap<String, u64>,
    /// Where it was ended before it was over: then the subscription ends too.
    early: BTreeSet<String>,
    /// Since when the person may have done nothing at all: when the last command of a person was sent.
    sent: u64,
    /// And when the session may have known of it last: it waits for the connect, and for the first membership.
    pub(crate) latest: u64,
}

struct Row {
    watch: Watching,
    state: String,
    info: Option<String>,
}

pub(crate) fn question(name: &str) -> Box<PresenceCommand> {
    Box::new(PresenceCommand { channel: name.into(), counts: false, limit: None, after: None })
}

pub(crate) fn setting(name: Option<&str>, word: &str) -> Box<SetPresenceCommand> {
    Box::new(SetPresenceCommand { channel: name.map(Into::into), state: Some(word.into()), info: None })
}

/// With data, by which it is told from what the session sends itself.
pub(crate) fn signal(name: &str, event: &str) -> Box<SignalCommand> {
    let data = Some(RawValue::from_string("1".to_owned()).expect("JSON"));
    Box::new(SignalCommand { channel: name.into(), event: event.into(), data })
}

pub(crate) fn answer(name: &str, refused: Option<ErrorBody>) -> Completion {
    let reply = PresenceReply {
        channel: name.into(),
        users: 1,
        connections: 1,
        members: None,
        next: None,
        version: None,
        stale: false,
    };
    Completion::Presence(refused.map_or_else(|| Ok(Box::new(reply)), Err))
}

impl Present {
    /// The client is about to send a command.
    pub(crate) fn doing(&mut self, now: u64, kind: &CommandKind) {
        use CommandKind::{Ping, Publish, SetPresence, Signal, Subscribe, SubscribeMany};
        if matches!(kind, Publish(_) | SetPresence(_) | Signal(_) | Subscribe(_) | SubscribeMany { .. })
            || matches!(kind, Ping { active: true })
        {
            self.sent = now;
            self.latest = now;
        }
    }

    pub(crate) fn set(&mut self, id: u64, name: Option<&'static str>, word: &'static str) {
        self.setting.insert(id, (name, word));
    }

    /// A command has its reply.
    pub(crate) fn answered<'a>(&mut self, id: u64, done: bool, subscribed: impl Iterator<Item = &'a String>) {
        let Some((name, word)) = self.setting.remove(&id).filter(|_| done) else { return };
        let subscribed = subscribed.filter(|other| WITH_MEMBERS.contains(&other.as_str()));
        let to: Vec<&String> = subscribed.filter(|other| name.is_none_or(|name| *other == name)).collect();
        assert!(name.is_none() || to.len() == 1, "{name:?} is not subscribed to, and was set");
        for other in to {
            self.own.insert(other.clone(), word);
        }
    }

    pub(crate) fn join(&mut self, now: u64, join: &JoinAction) {
        let row = Row {
            watch: join.watch,
            state: join.state.as_str().to_owned(),
            info: join.info.as_ref().map(|info| info.as_str().to_owned()),
        };
        self.rows.insert(join.channel.to_string(), row);
        self.latest = now;
    }

    pub(crate) fn update(&mut self, present: &PresentAction) {
        let row = self.rows.get_mut(present.channel.as_str()).expect("only a member does something else");
        let before = (row.state.clone(), row.info.clone());
        row.state = present.state.as_str().to_owned();
        row.info = present.info.as_ref().map(|info| info.as_str().to_owned());
        assert_ne!(before, (row.state.clone(), row.info.clone()), "nothing is another");
    }

    pub(crate) fn end(&mut self, name: &str) {
        self.rows.remove(name);
        self.own.remove(name);
        self.early.remove(name);
    }

    pub(crate) fn check_snapshot(&self, name: &str, watch: Watching) {
        assert_eq!(self.rows.get(name).map(|row| row.watch), Some(watch), "{name}: a snapshot, but no member");
        assert_ne!(watch, Watching::Nobody, "{name}");
    }

    pub(crate) fn hear(&mut self, channel: &str) {
        assert_eq!(self.answered.take().as_deref(), Some(channel), "a snapshot that was not given");
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    /// The others hear a signal.
    pub(crate) fn signal(&mut self, now: u64, signal: &SignalAction, allowed: bool, subscribed: bool) {
        let name = signal.channel.to_string();
        let (event, by_client) = read(signal);
        assert!(allowed || !by_client, "{event} on {name} is not allowed");
        match event.as_str() {
            "typing:start" => _ = self.held.insert(name, now + SIGNAL_EXPIRY),
            "typing:stop" => {
                let until = self.held.remove(&name);
                assert!(by_client || until.is_some(), "{name} is ended, and was not held");
                if !by_client && until.is_some_and(|until| now < until && subscribed && allowed) {
                    self.early.insert(name);
                }
            }
            "wave" => assert!(by_client),
            other => panic!("nobody sends {other}"),
        }
    }

    /// What must be true between steps.
    pub(crate) fn check(&self, now: u64, who: Option<Who>, hub: &BTreeSet<String>) {
        assert_eq!(self.answered, None, "the client is not told");
        assert_eq!(self.early, BTreeSet::new(), "ended before it was over");
        let members: BTreeSet<&str> = self.rows.keys().map(String::as_str).collect();
        let expected = hub.iter().map(String::as_str).filter(|name| WITH_MEMBERS.contains(name)).collect();
        assert_eq!(members, expected);
        for (name, row) in &self.rows {
            let who = who.expect("members are connected");
            assert!(row.watch == Watching::Nobody || who.may_see(name), "{who:?} watches {name}");
            assert_eq!(row.info.as_deref(), who.info(), "{name}");
            let own = self.own.get(name).copied().unwrap_or("online");
            if now >= self.latest + IDLE {
                assert_eq!(row.state, "idle", "{name} at {now}, nothing since {}", self.latest);
            } else if row.state != own {
                assert!(row.state == "idle" && now >= self.sent + IDLE, "{name}: {}, and not {own}", row.state);
            }
        }
        for (name, until) in &self.held {
            assert!(now < *until, "{name} is held at {now}, and is over at {until}");
        }
    }

    /// The session is over: what the others have heard to begin, they hear to end, once.
    pub(crate) fn check_end(&mut self, left: &[Action]) {
        for action in left {
            let Action::Signal(signal) = action else { panic!("{action:?} is left") };
            assert_eq!(read(signal), ("typing:stop".to_owned(), false));
            let name = signal.channel.as_str();
            assert!(self.held.remove(name).is_some(), "{name} was not held");
        }
        assert!(self.held.is_empty(), "{:?} does not end", self.held.keys());
    }
}

/// The event's name, and whether it is the client's.
fn read(signal: &SignalAction) -> (String, bool) {
    let body: Value = serde_json::from_slice(&signal.body).expect("an envelope");
    let session = format!("{:032x}", 1);
    assert_eq!(body["exclude"], serde_json::json!([session]), "the sender does not get it");
    let data = &body["data"];
    assert_eq!(data["userId"] == session, data["anonymous"] == true, "{data}");
    let event = body["event"].as_str().expect("a name").to_owned();
    let expires = event.ends_with(":start").then_some(SIGNAL_EXPIRY);
    assert_eq!(data["expires_in_ms"].as_u64(), expires, "{event}");
    (event, data["data"] == 1)
}
