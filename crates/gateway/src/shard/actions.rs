//! Carrying out what sessions decide.

use fanfare_broker::Publish;
use fanfare_presence::ConnectionKey;
use fanfare_protocol::{Channel, CloseCode, ErrorBody, ErrorCode, ServerMessage, Tenant, Topic};
use fanfare_session::{Action, Completion, Granted, HistoryRange, OpId, PublishAction, SlowConsumer, Start, Time};
use tokio::sync::mpsc::error::TrySendError;

use super::{
    Shard, ShardState,
    connection::State,
    presence,
    topics::{Subscribing, Unsubscribing, Waiting},
};
use crate::{
    encoding::encode_message,
    history::ClientRead,
    hub::message::{ConnectionId, HubRequest, ShardMessage},
    lifecycle::reason_of,
    limits::CLOSE_LINGER,
    publishing::{ClientPublish, Publisher},
    websocket::{MAX_CLOSE_REASON_BYTES, encode},
};

impl Shard {
    /// Does all that the connection's session asks for now.
    pub(super) fn carry_out(&self, state: &mut ShardState, index: usize, now: Time) {
        loop {
            // Each time: a token may be verified at once, and there may be nothing more to do.
            self.note_beginning(state, index);
            let Some(action) = state.session(index).and_then(|session| session.poll_action()) else { break };
            match action {
                Action::Authenticate { op, token } => self.authenticate(state, index, now, op, token),
                Action::Subscribe { op, topic, start } => self.subscribe(state, index, now, op, topic, start),
                Action::History { op, channel, range, limit } => {
                    self.history(state, index, now, op, (channel, range, limit))
                }
                Action::Unsubscribe { topic } => self.unsubscribe(state, index, &topic),
                Action::Publish(publish) => self.publish(state, index, now, publish),
                Action::Join(join) => self.join(state, index, *join),
                Action::Present(present) => self.present(state, index, *present),
                Action::Presence(presence) => self.ask_presence(state, index, now, *presence),
                Action::Signal(signal) => self.signal(state, index, *signal),
                Action::Send(message) => self.send(state, index, &message),
                Action::Ping if state.connections[index].events.is_some() => self.send_heartbeat(state, index, now),
                Action::Ping => self.send_frame(state, index, |out| encode::ping(b"", out)),
                Action::Close { code, reason } => self.close(state, index, code, &reason),
            }
        }
        state.settle_told();
    }

    /// Counts and tells that a session is connected, once.
    fn note_beginning(&self, state: &mut ShardState, index: usize) {
        let connection = &mut state.connections[index];
        if !connection.counted && connection.session.as_ref().is_some_and(|session| session.tenant().is_some()) {
            connection.counted = true;
            state.metrics.session_began();
            state.tell_connected(index);
            self.list(state, index);
        }
    }

    /// Ends the session and begins the closing handshake (RFC 6455 section 7.1.2), behind all that was sent before.
    pub(super) fn close(&self, state: &mut ShardState, index: usize, code: CloseCode, reason: &str) {
        if state.connections[index].state != State::Open {
            return;
        }
        if state.connections[index].events.is_some() {
            self.send_farewell(state, index, code, reason);
        } else {
            self.send_frame(state, index, |out| {
                encode::close(Some(code.as_u16()), &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON_BYTES)], out);
            });
        }
        if state.connections[index].state != State::Open {
            return; // not even the close frame found room: closed as a slow consumer
        }
        state.metrics.closed(code);
        self.end_session(state, index, reason_of(code));
        self.begin_closing(state, index);
    }

    /// The client does not keep up: what waits is dropped, but for a frame that was begun, and the close goes out next.
    pub(super) fn close_slow_consumer(&self, state: &mut ShardState, index: usize) {
        if state.connections[index].state != State::Open {
            return;
        }
        state.metrics.closed(CloseCode::SlowConsumer);
        state.metrics.slow_consumers.increment(1);
        if state.connections[index].events.is_some() {
            // Nothing may follow an event that was begun: cut off it counts as not received, and the client comes back for it.
            state.connections[index].outbox.drop_waiting();
        } else {
            state.frame.clear();
            encode::close(Some(CloseCode::SlowConsumer.as_u16()), "outbox limit reached", &mut state.frame);
            state.connections[index].outbox.finish_with(state.frame.as_slice().into());
        }
        self.end_session(state, index, reason_of(CloseCode::SlowConsumer));
        self.begin_closing(state, index);
    }

    fn begin_closing(&self, state: &mut ShardState, index: usize) {
        if state.connections[index].state == State::Open {
            state.connections[index].state = State::Closing(self.context.clock.now() + CLOSE_LINGER);
            self.mark_dirty(state, index);
            self.arm(state, index);
        }
    }

    /// Gives back what the session holds at the hub. The connection may go on to write what waits. `reason` is for services.
    pub(super) fn end_session(&self, state: &mut ShardState, index: usize, reason: &'static str) {
        let Some(mut session) = state.connections[index].session.take() else { return };
        if std::mem::take(&mut state.connections[index].counted) {
            state.metrics.session_ended();
            state.tell_disconnected(session.id(), reason);
            self.unlist(state, &session);
        }
        let (id, key) = (state.id(index), presence::key(&session));
        let Some(tenant) = session.tenant().cloned() else { return };
        session.end();
        // What it gave up and could not carry out any more, for its outbox was full, is not among its topics. A place left
        // in a topic would be the next connection's.
        while let Some(action) = session.poll_action() {
            match action {
                Action::Unsubscribe { topic } => self.give_back(state, &tenant, &topic, id, key),
                Action::Signal(signal) => self.publish_signal(state, tenant.clone(), *signal),
                _ => {}
            }
        }
        for topic in session.topics() {
            self.give_back(state, &tenant, topic, id, key);
        }
    }

    /// Ends a subscription, and with it being a member.
    fn give_back(&self, state: &mut ShardState, tenant: &Tenant, topic: &Topic, id: ConnectionId, key: ConnectionKey) {
        let ended = state.topics.unsubscribe(tenant, topic, id);
        self.tell_hub_if_last(state, ended);
        self.leave(state, id.index as usize, key, tenant, topic);
    }

    fn authenticate(&self, state: &mut ShardState, index: usize, now: Time, op: OpId, token: String) {
        if let Some(result) = self.context.verifier.try_verify(&token, now) {
            return complete(state, index, now, op, Completion::Authenticated(result));
        }
        // Keys have to be fetched: on the main runtime, which may wait.
        let connection = state.id(index);
        let (verifier, inbox) = (self.context.verifier.clone(), self.context.inbox.clone());
        let verifying = async move {
            let completion = Completion::Authenticated(verifier.verify(&token, now).await);
            inbox.send(ShardMessage::Completed { connection, op, completion }).await;
        };
        self.context.tasks.spawn_on(verifying, &self.context.main);
    }

    fn subscribe(&self, state: &mut ShardState, index: usize, now: Time, op: OpId, topic: Topic, start: Start) {
        let id = state.id(index);
        let Some(tenant) = state.session(index).and_then(|session| session.tenant()).cloned() else { return };
        let conflates = || self.conflates(&topic);
        let waiting = Waiting { connection: id, op, start, given_up: false };
        match state.topics.subscribe(&tenant, topic.clone(), waiting.clone(), conflates) {
            Subscribing::Done => complete(state, index, now, op, Completion::Subscribed(Ok(Granted::default()))),
            Subscribing::Follows(slot) => self.begin(state, slot, waiting),
            Subscribing::Waits => {}
            Subscribing::First(slot) => {
                self.ask_hub(state, HubRequest::Subscribe { shard: self.context.id, slot, tenant, topic });
            }
        }
    }

    fn unsubscribe(&self, state: &mut ShardState, index: usize, topic: &Topic) {
        let id = state.id(index);
        let Some(tenant) = state.session(index).and_then(|session| session.tenant()).cloned() else { return };
        if let (Some(aside), Some(slot)) = (&mut state.connections[index].aside, state.topics.slot(&tenant, topic)) {
            aside.end(slot);
        }
        let Some(key) = state.session(index).map(|session| presence::key(session)) else { return };
        state.tell_unsubscribed(index, topic);
        self.give_back(state, &tenant, topic, id, key);
    }

    /// Whether clients of a topic that do not keep up get only the newest per key.
    pub(super) fn conflates(&self, topic: &Topic) -> bool {
        self.context.session_config.namespaces.get(topic.namespace()).slow_consumer == SlowConsumer::Conflate
    }

    fn history(
        &self,
        state: &mut ShardState,
        index: usize,
        now: Time,
        op: OpId,
        (channel, range, limit): (Channel, HistoryRange, usize),
    ) {
        let connection = state.id(index);
        let Some(tenant) = state.session(index).and_then(|session| session.tenant()).cloned() else { return };
        let read = ClientRead { tenant, channel, range, limit, shard: self.context.inbox.clone(), connection, op };
        if self.context.reads.try_send(read).is_err() {
            let refusal = ErrorBody::new(ErrorCode::Unavailable, "this node has too many reads in hand; try again");
            complete(state, index, now, op, Completion::History(Err(refusal)));
        }
    }

    pub(super) fn tell_hub_if_last(&self, state: &mut ShardState, ended: Unsubscribing) {
        if let Unsubscribing::Last { slot, tenant, topic } = ended {
            self.ask_hub(state, HubRequest::Unsubscribe { shard: self.context.id, slot, tenant, topic });
        }
    }

    /// Sends a request to the hub, in order. What its inbox does not take waits here: for each topic at most one of a kind,
    /// since an unsubscribe takes back a subscribe that has not left yet, and topics are limited.
    pub(super) fn ask_hub(&self, state: &mut ShardState, request: HubRequest) {
        if let HubRequest::Unsubscribe { slot, .. } = &request {
            let asked = |other: &HubRequest| matches!(other, HubRequest::Subscribe { slot: own, .. } if own == slot);
            if let Some(at) = state.unsent.iter().rposition(asked) {
                state.unsent.remove(at);
                return;
            }
        }
        state.unsent.push_back(request);
        self.send_unsent(state);
    }

    pub(super) fn send_unsent(&self, state: &mut ShardState) {
        while let Some(request) = state.unsent.pop_front() {
            if let Err(TrySendError::Full(request)) = self.context.hub.try_send(request) {
                return state.unsent.push_front(request);
            }
        }
        if state.unsent.capacity() > 1_024 {
            state.unsent = std::collections::VecDeque::new();
        }
    }

    fn publish(&self, state: &mut ShardState, index: usize, now: Time, action: PublishAction) {
        let connection = state.id(index);
        let Some(tenant) = state.session(index).and_then(|session| session.tenant()).cloned() else { return };
        let PublishAction { op, channel, body, id } = action;
        let publish = Publish { tenant, channel, body, id, ephemeral: false };
        let job =
            ClientPublish { publish, publisher: Some(Publisher { shard: self.context.inbox.clone(), connection, op }) };
        if self.context.publishes.try_send(job).is_err() {
            let refusal = ErrorBody::new(ErrorCode::Unavailable, "this node has too many publishes in hand; try again");
            complete(state, index, now, op, Completion::Published(Err(refusal)));
        }
    }

    /// Puts a reply or push into the outbox.
    fn send(&self, state: &mut ShardState, index: usize, message: &ServerMessage) {
        state.metrics.told(message);
        state.tell_of(index, message);
        if state.connections[index].events.is_some() {
            self.send_to_stream(state, index, message);
        } else {
            let variant = state.connections[index].variant;
            state.frame.clear();
            encode_message(variant, message, &mut state.deflater, &mut state.frame);
            self.push_frame(state, index);
        }
    }

    /// Puts a frame into the outbox.
    pub(super) fn send_frame(&self, state: &mut ShardState, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
        state.frame.clear();
        write(&mut state.frame);
        self.push_frame(state, index);
    }

    pub(super) fn push_frame(&self, state: &mut ShardState, index: usize) {
        if state.greeting.is_of(index) {
            return self.add_to_greeting(state, index);
        }
        let pushed = state.connections[index].push(state.frame.as_slice().into(), self.outbox_limits());
        if pushed.is_err() {
            self.close_slow_consumer(state, index);
        }
    }

    /// Hands a completion to the session that waits for it, if it is still there.
    pub(super) fn handle_completion(&self, state: &mut ShardState, id: ConnectionId, op: OpId, completion: Completion) {
        let Some(index) = state.place(id) else { return };
        complete(state, index, self.context.clock.now(), op, completion);
        self.settle(state, id);
    }

    /// Does what a session wants after a completion.
    pub(super) fn settle(&self, state: &mut ShardState, id: ConnectionId) {
        let Some(index) = state.place(id) else { return };
        self.carry_out(state, index, self.context.clock.now());
        self.mark_dirty(state, index);
        self.arm(state, index);
    }
}

pub(super) fn complete(state: &mut ShardState, index: usize, now: Time, op: OpId, completion: Completion) {
    if let Some(session) = state.session(index) {
        session.handle_completion(now, op, completion);
    }
}
