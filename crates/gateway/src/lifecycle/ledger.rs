//! What a shard has told of its sessions, so that it knows what has to be told when something ends.

use std::{collections::HashMap, sync::Arc};

use fanfare_protocol::{CloseCode, ErrorCode, Push, Reply, ServerMessage, Tenant, Topic};
use fanfare_session::{Grant, LifecycleEvents, SessionId};

use super::{
    LifecycleContext,
    event::{LifecycleEvent, What, Who},
    wants_any,
};

/// Why a subscription ended that the client gave up.
const BY_CLIENT: &str = "client";

/// See the module. Times are in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Ledger {
    context: LifecycleContext,
    sessions: HashMap<SessionId, Begun>,
    /// A subscription that has ended; the client may be told in a moment why.
    ended: Option<LifecycleEvent>,
}

/// A session that has connected.
#[derive(Debug)]
struct Begun {
    tenant: Tenant,
    user: Option<Arc<str>>,
    since: u64,
    /// The highest number of its subscriptions.
    last: u64,
    /// By channel or pattern, the number by which events tell this subscription from another: when it began, or a little later.
    subscriptions: HashMap<Box<str>, u64>,
}

impl Ledger {
    pub(crate) fn new(context: LifecycleContext) -> Self {
        Self { context, sessions: HashMap::new(), ended: None }
    }

    /// A session has its identity.
    pub(crate) fn connected(&mut self, now: u64, id: SessionId, grant: &Grant) {
        let begun = Begun {
            tenant: grant.tenant.clone(),
            user: grant.user.as_deref().map(Arc::from),
            since: now,
            last: 0,
            subscriptions: HashMap::new(),
        };
        if self.context.events.contains(LifecycleEvents::CONNECTED) {
            self.context.queue.push(self.event(&begun, now, What::Connected(begun.who(id))));
        }
        self.sessions.insert(id, begun);
    }

    /// The client is told something: that it is subscribed, or is not any more.
    pub(crate) fn told(&mut self, now: u64, id: SessionId, message: &ServerMessage) {
        match message {
            ServerMessage::Push(Push::Subscribed(subscribed))
            | ServerMessage::Reply { outcome: Ok(Reply::Subscribed(subscribed)), .. } => {
                self.subscribed(now, id, &subscribed.channel);
            }
            ServerMessage::Reply { outcome: Ok(Reply::SubscribedMany { subscriptions }), .. } => {
                for outcome in subscriptions.iter().filter(|outcome| outcome.error.is_none()) {
                    self.subscribed(now, id, &outcome.channel);
                }
            }
            ServerMessage::Push(Push::Unsubscribed { channel, error }) => {
                let reason = match error.code {
                    ErrorCode::Forbidden | ErrorCode::Unauthorized | ErrorCode::TokenExpired => "permission_withdrawn",
                    _ => "broker_refused",
                };
                self.give_reason(now, id, channel, reason);
            }
            _ => {}
        }
    }

    /// A subscription that the client was told of is given up.
    pub(crate) fn unsubscribed(&mut self, now: u64, id: SessionId, topic: &Topic) {
        self.settle();
        self.ended = self.end(now, id, topic.as_str(), BY_CLIENT);
    }

    /// Nothing more is going to be said of what has ended.
    pub(crate) fn settle(&mut self) {
        if let Some(event) = self.ended.take() {
            self.context.queue.push(event);
        }
    }

    /// A session has ended, with all its subscriptions.
    pub(crate) fn session_ended(&mut self, now: u64, id: SessionId, reason: &'static str) {
        self.settle();
        let Some(mut begun) = self.sessions.remove(&id) else { return };
        let mut subscriptions: Vec<_> = begun.subscriptions.drain().collect();
        // In the order in which they began.
        subscriptions.sort_by_key(|(_, since)| *since);
        for (channel, since) in subscriptions {
            if self.tells(&channel, LifecycleEvents::UNSUBSCRIBED) {
                let what = What::Unsubscribed { who: begun.who(id), channel, since, reason };
                self.context.queue.push(self.event(&begun, now, what));
            }
        }
        if self.context.events.contains(LifecycleEvents::DISCONNECTED) {
            let duration_ms = Some(now.saturating_sub(begun.since));
            let what = What::Disconnected { who: begun.who(id), reason, duration_ms };
            self.context.queue.push(self.event(&begun, now, what));
        }
    }

    /// The number of a session's subscription, where it has one.
    pub(crate) fn subscription(&self, id: SessionId, channel: &str) -> Option<u64> {
        self.sessions.get(&id)?.subscriptions.get(channel).copied()
    }

    fn subscribed(&mut self, now: u64, id: SessionId, channel: &str) {
        // What ended before comes before.
        self.settle();
        if !wants_any(self.context.of(channel), LifecycleEvents::SUBSCRIBED, LifecycleEvents::UNSUBSCRIBED) {
            return;
        }
        let Some(begun) = self.sessions.get_mut(&id) else { return };
        if begun.subscriptions.contains_key(channel) {
            return; // it is told again what it has
        }
        begun.last = now.max(begun.last + 1);
        let since = begun.last;
        begun.subscriptions.insert(channel.into(), since);
        if self.tells(channel, LifecycleEvents::SUBSCRIBED) {
            let begun = &self.sessions[&id];
            let what = What::Subscribed { who: begun.who(id), channel: channel.into(), since };
            self.context.queue.push(self.event(begun, now, what));
        }
    }

    fn give_reason(&mut self, now: u64, id: SessionId, channel: &str, reason: &'static str) {
        match &mut self.ended {
            Some(LifecycleEvent { what: What::Unsubscribed { who, channel: of, reason: why, .. }, .. })
                if who.session == id && **of == *channel =>
            {
                *why = reason;
            }
            _ => {
                self.settle();
                self.ended = self.end(now, id, channel, reason);
            }
        }
        self.settle();
    }

    fn end(&mut self, now: u64, id: SessionId, channel: &str, reason: &'static str) -> Option<LifecycleEvent> {
        let begun = self.sessions.get_mut(&id)?;
        let (channel, since) = begun.subscriptions.remove_entry(channel)?;
        let begun = &self.sessions[&id];
        let tells = self.tells(&channel, LifecycleEvents::UNSUBSCRIBED);
        let what = What::Unsubscribed { who: begun.who(id), channel, since, reason };
        tells.then(|| self.event(begun, now, what))
    }

    fn event(&self, begun: &Begun, timestamp: u64, what: What) -> LifecycleEvent {
        LifecycleEvent { tenant: begun.tenant.clone(), node: self.context.node.clone(), timestamp, what }
    }

    fn tells(&self, channel: &str, event: LifecycleEvents) -> bool {
        self.context.of(channel).contains(event)
    }
}

impl Begun {
    fn who(&self, session: SessionId) -> Who {
        Who { session, user: self.user.clone() }
    }
}

/// Why a session ended that the node closed.
pub(crate) fn reason_of(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Normal => "client_closed",
        CloseCode::ProtocolError
        | CloseCode::UnsupportedData
        | CloseCode::InvalidPayload
        | CloseCode::MessageTooBig => "protocol_error",
        code => code.as_str(),
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
pub(super) mod tests;
