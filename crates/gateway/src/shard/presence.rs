//! Members: connections on channels of namespaces with presence, and who of them is told of the others.
//!
//! Those who are told are the subscribers of a topic of its own in the shard's table, one for each audience, in which no broker
//! has a part: announcements are publications like any others from there on.

use fanfare_broker::Publish;
use fanfare_presence::{Audience, ConnectionKey, Place, Query, Row, State as RowState, User};
use fanfare_protocol::{CloseCode, ErrorBody, ErrorCode, Tenant, Topic};
use fanfare_session::{
    Completion, JoinAction, PresenceAction, PresenceWord, PresentAction, Session, SignalAction, Time, Watching,
};

use super::{Shard, ShardState, actions::complete, presence_link::Overloaded};
use crate::{
    clock::unix_millis,
    presence::{
        connections::{self, ConnectionInfo},
        message::{Asker, PresenceRequest},
    },
    publishing::ClientPublish,
};

const AUDIENCES: [Audience; 2] = [Audience::Auto, Audience::Names];

impl Shard {
    /// A session is a member of a channel from now on, or is told of the others in another way.
    pub(super) fn join(&self, state: &mut ShardState, index: usize, action: JoinAction) {
        let JoinAction { channel, watch, state: word, info } = action;
        if !state.presence.is_there() {
            return;
        }
        let Some((session, tenant)) = connected(state, index) else { return };
        let (connection, id) = (key(session), session.id());
        let user = match session.grant().and_then(|grant| grant.user.as_deref()) {
            Some(user) => User::Named(user.into()),
            None => User::Anonymous(connection),
        };
        let since = state.subscribed_since(id, channel.as_str());
        let row = Row {
            connection,
            user,
            state: row_state(word),
            info: info.map(fanfare_protocol::Info::into_raw),
            // The same by which services know the subscription: a reaper tells them its end by this.
            since,
        };
        let place = Place { tenant, channel };
        if state.presence.request(PresenceRequest::Join { place: place.clone(), row }).is_err() {
            return self.close_overloaded(state, index);
        }
        self.watch(state, index, &place, audience(watch));
    }

    /// A user's session has begun: it can be found by services from now on, where that is kept.
    pub(super) fn list(&self, state: &mut ShardState, index: usize) {
        let Some(node) = &self.context.lists_connections else { return };
        let is_stream = state.connections[index].events.is_some();
        let Some((session, tenant)) = connected(state, index) else { return };
        let Some(user) = session.grant().and_then(|grant| grant.user.as_deref()) else { return };
        let (node, transport) = ((**node).into(), connections::transport(is_stream).into());
        let row = connections::row(key(session), unix_millis(), &ConnectionInfo { node, transport, user: user.into() });
        let place = connections::place_of(&tenant, user);
        if state.presence.request(PresenceRequest::Join { place, row }).is_err() {
            self.close_overloaded(state, index);
        }
    }

    /// A session has ended.
    pub(super) fn unlist(&self, state: &mut ShardState, session: &Session) {
        let Some(grant) = session.grant().filter(|_| self.context.lists_connections.is_some()) else { return };
        if let Some(user) = grant.user.as_deref() {
            let place = connections::place_of(&grant.tenant, user);
            state.presence.tell(PresenceRequest::Leave { place, connection: key(session) });
        }
    }

    /// A member is doing something else.
    pub(super) fn present(&self, state: &mut ShardState, index: usize, action: PresentAction) {
        let PresentAction { channel, state: word, info } = action;
        let Some((session, tenant)) = connected(state, index) else { return };
        let update = PresenceRequest::Update {
            place: Place { tenant, channel },
            connection: key(session),
            state: row_state(word),
            info: info.map(fanfare_protocol::Info::into_raw),
        };
        if state.presence.request(update).is_err() {
            self.close_overloaded(state, index);
        }
    }

    /// A session asks who is on a channel.
    pub(super) fn ask_presence(&self, state: &mut ShardState, index: usize, now: Time, action: PresenceAction) {
        let PresenceAction { op, channel, watch, snapshot, after, limit } = action;
        let connection = state.id(index);
        let Some((_, tenant)) = connected(state, index) else { return };
        let refuse = |state: &mut ShardState, code, message: &str| {
            complete(state, index, now, op, Completion::Presence(Err(ErrorBody::new(code, message))));
        };
        if !state.presence.is_there() {
            return refuse(state, ErrorCode::Unavailable, "this node keeps no presence");
        }
        let after = match after.as_deref().map(User::from_cursor) {
            Some(None) => {
                let message = "after has to be what next was: \"u:\" and a user, or \"a:\" and a session's id";
                return refuse(state, ErrorCode::BadRequest, message);
            }
            after => after.flatten(),
        };
        let query = Query {
            place: Place { tenant, channel },
            audience: audience(watch),
            snapshot,
            after,
            limit,
            bytes: self.context.outbox_bytes / 2,
        };
        let asker = Asker::Session { shard: self.context.id, connection, op };
        if let Err(Overloaded) = state.presence.request(PresenceRequest::Ask { query, asker }) {
            refuse(state, ErrorCode::Unavailable, "too many questions who is present wait on this node; try again");
        }
    }

    /// A session's subscription has ended: it is no member any more, and is told nothing.
    pub(super) fn leave(
        &self,
        state: &mut ShardState,
        index: usize,
        connection: ConnectionKey,
        tenant: &Tenant,
        topic: &Topic,
    ) {
        let has_presence = self.context.session_config.namespaces.get(topic.namespace()).presence;
        if !has_presence || !state.presence.is_there() {
            return;
        }
        let Topic::Channel(channel) = topic else { return };
        let channel = channel.clone();
        let place = Place { tenant: tenant.clone(), channel };
        self.watch(state, index, &place, None);
        state.presence.tell(PresenceRequest::Leave { place, connection });
    }

    /// The same, where it was the hub that ended the subscription.
    pub(super) fn leave_ended(&self, state: &mut ShardState, index: usize, topic: &Topic) {
        let Some((session, tenant)) = connected(state, index) else { return };
        let connection = key(session);
        self.leave(state, index, connection, &tenant, topic);
    }

    /// Publishes a signal of a session.
    pub(super) fn signal(&self, state: &mut ShardState, index: usize, action: SignalAction) {
        if let Some((_, tenant)) = connected(state, index) {
            self.publish_signal(state, tenant, action);
        }
    }

    /// The same for one that may have ended. A signal is soon over: where there is no room for it, nobody waits.
    pub(super) fn publish_signal(&self, state: &mut ShardState, tenant: Tenant, action: SignalAction) {
        let SignalAction { channel, body } = action;
        let publish = Publish { tenant, channel, body, id: None, ephemeral: true };
        if self.context.publishes.try_send(ClientPublish { publish, publisher: None }).is_err() {
            state.metrics.signal_dropped();
        }
    }

    /// Has a connection told of a channel's members as one of this audience, and of no other.
    fn watch(&self, state: &mut ShardState, index: usize, place: &Place, audience: Option<Audience>) {
        let (shard, topic) = (self.context.id, Topic::Channel(place.channel.clone()));
        for other in AUDIENCES.into_iter().filter(|other| Some(*other) != audience) {
            let slot = state.topics.watched(&place.tenant, &topic, other);
            if let (Some(aside), Some(slot)) = (&mut state.connections[index].aside, slot) {
                aside.end(slot);
            }
            if let Some(slot) = state.topics.unwatch(&place.tenant, &topic, other, index as u32) {
                state.presence.tell(PresenceRequest::Unwatch { shard, slot, place: place.clone(), audience: other });
            }
        }
        let Some(audience) = audience else { return };
        if let Some(slot) = state.topics.watched(&place.tenant, &topic, audience) {
            // What is held for the others is older.
            self.seal(state, slot);
        }
        let conflates = self.conflates(&topic);
        if let Some(slot) = state.topics.watch(&place.tenant, topic, audience, index as u32, conflates) {
            state.presence.tell(PresenceRequest::Watch { shard, slot, place: place.clone(), audience });
        }
    }

    /// Without it the channel's members would not know of the session, or know it as it was: it comes back to another node.
    fn close_overloaded(&self, state: &mut ShardState, index: usize) {
        self.close(state, index, CloseCode::Unavailable, "this node is overloaded");
    }
}

/// A connection's session and tenant.
fn connected(state: &mut ShardState, index: usize) -> Option<(&mut Session, Tenant)> {
    let session = state.session(index)?;
    let tenant = session.tenant()?.clone();
    Some((session, tenant))
}

/// By what the store knows a session.
pub(super) fn key(session: &Session) -> ConnectionKey {
    ConnectionKey(session.id().0)
}

fn row_state(word: PresenceWord) -> RowState {
    match word {
        PresenceWord::Online => RowState::Online,
        PresenceWord::Idle => RowState::Idle,
        PresenceWord::Own(word) => RowState::Own(word),
    }
}

fn audience(watch: Watching) -> Option<Audience> {
    match watch {
        Watching::Nobody => None,
        Watching::Auto => Some(Audience::Auto),
        Watching::Names => Some(Audience::Names),
    }
}
