//! The tick: publications to outboxes, and outboxes to sockets.

use std::{collections::VecDeque, sync::Arc};

use fanfare_protocol::ErrorBody;
use fanfare_session::{Completion, Granted};

use super::{
    Shard, ShardState,
    connection::{Flushed, State},
    outbox::Piece,
    topics::Ended,
};
use crate::{
    encoding::{EncodedPublication, Variant},
    hub::message::{ShardMessage, SlotId, Targets},
    limits::{GAPS_PER_TURN, TICK_BYTES},
    websocket::Deflater,
};

impl Shard {
    /// Takes messages until all are taken, or until there is so much for one connection that it should be written first.
    pub(super) fn take_messages(&self, messages: &mut impl Iterator<Item = ShardMessage>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.gaps.is_empty() {
            self.tell_waiting_gaps(state);
            return self.send_unsent(state);
        }
        for message in messages {
            if self.take_message(state, message) {
                break;
            }
        }
        self.seal_all(state);
        self.send_unsent(state);
    }

    /// `true` where what is unsealed should be written before more is taken.
    fn take_message(&self, state: &mut ShardState, message: ShardMessage) -> bool {
        match message {
            ShardMessage::Publication { targets: Targets::One(slot), publication }
                if publication.exclude.is_empty() =>
            {
                return state.hold(slot, publication);
            }
            ShardMessage::Publication { targets, publication } => {
                let slots = match &targets {
                    Targets::One(slot) => std::slice::from_ref(slot),
                    Targets::Several(slots) => slots,
                };
                self.deliver_one_by_one(state, slots, &publication);
                state.unsealed_bytes += publication.bytes();
                return state.unsealed_bytes > TICK_BYTES;
            }
            ShardMessage::Subscribed { slot } => {
                self.seal(state, slot);
                for (id, op) in state.topics.confirm(slot) {
                    self.handle_completion(state, id, op, Completion::Subscribed(Ok(Granted::default())));
                }
            }
            ShardMessage::Refused { slot, refusal } => {
                self.seal(state, slot);
                self.end_topic(state, slot, &refusal);
            }
            ShardMessage::Gap { slot, reason } => {
                self.seal(state, slot);
                self.tell_gap(state, slot, reason);
            }
            ShardMessage::GapEverywhere { reason } => {
                self.seal_all(state);
                state.gaps.extend(state.topics.confirmed().map(|slot| (slot, reason)));
                // What follows waits until all are told, a part at a time.
                return true;
            }
            ShardMessage::Completed { connection, op, completion } => {
                // Its reply must not overtake what was published before.
                self.seal_all(state);
                self.handle_completion(state, connection, op, completion);
            }
            ShardMessage::Drain { reconnect_after_ms } => {
                self.seal_all(state);
                self.drain(state, reconnect_after_ms);
            }
        }
        false
    }

    /// Hands the publications that a topic holds to its subscribers, as one piece per variant: an outbox gets one entry
    /// and the kernel one buffer, however many publications a tick brought.
    fn seal(&self, state: &mut ShardState, slot: SlotId) {
        let Some(topic) = state.topics.get_mut(slot) else { return };
        let publications = std::mem::take(&mut topic.pending);
        if publications.is_empty() {
            return;
        }
        let subscribers = std::mem::take(&mut topic.subscribers);
        let limits = self.outbox_limits();
        let mut pieces: [Option<Piece>; Variant::COUNT] = Default::default();
        let (mut slow, mut streams) = (Vec::new(), Vec::new());
        for index in &subscribers {
            let connection = &mut state.connections[*index as usize];
            if connection.variant == Variant::Sse {
                streams.push(*index);
                continue;
            }
            let piece = pieces[connection.variant as usize]
                .get_or_insert_with(|| join(&publications, connection.variant, &mut state.deflater, &mut state.frame));
            if connection.push(piece.clone(), limits).is_err() {
                slow.push(*index);
            } else if !connection.dirty && !connection.blocked {
                connection.dirty = true;
                state.dirty.push_back(*index);
            }
        }
        state.metrics.delivered(publications.len() * (subscribers.len() - slow.len() - streams.len()));
        let mut channel = None;
        if let Some(topic) = state.topics.get_mut(slot) {
            topic.subscribers = subscribers;
            channel = (!streams.is_empty()).then(|| topic.topic.clone());
        }
        if let Some(channel) = channel {
            self.deliver_to_streams(state, &streams, channel.as_str(), &publications);
        }
        for index in slow {
            self.close_slow_consumer(state, index as usize);
        }
    }

    fn seal_all(&self, state: &mut ShardState) {
        let mut unsealed = std::mem::take(&mut state.unsealed);
        for slot in unsealed.drain(..) {
            self.seal(state, slot);
        }
        state.unsealed = unsealed;
        state.unsealed_bytes = 0;
    }

    /// A publication that some subscribers do not get, or that belongs to several topics: each session gets it once.
    fn deliver_one_by_one(&self, state: &mut ShardState, slots: &[SlotId], publication: &Arc<EncodedPublication>) {
        state.stamp += 1;
        let limits = self.outbox_limits();
        let mut pieces: [Option<Piece>; Variant::COUNT] = Default::default();
        let mut slow = Vec::new();
        for slot in slots {
            self.seal(state, *slot);
            let Some(topic) = state.topics.get_mut(*slot) else { continue };
            let (subscribers, topic) = (topic.subscribers.clone(), topic.topic.clone());
            for index in subscribers {
                let connection = &mut state.connections[index as usize];
                let excluded =
                    connection.session.as_ref().is_some_and(|session| publication.exclude.contains(&session.id()));
                if excluded || connection.stamp == state.stamp {
                    continue;
                }
                connection.stamp = state.stamp;
                if connection.variant == Variant::Sse {
                    self.deliver_to_streams(state, &[index], topic.as_str(), std::slice::from_ref(publication));
                    continue;
                }
                let piece = pieces[connection.variant as usize]
                    .get_or_insert_with(|| publication.frame(connection.variant, &mut state.deflater).into());
                if connection.push(piece.clone(), limits).is_err() {
                    slow.push(index as usize);
                } else {
                    state.metrics.delivered(1);
                    self.mark_dirty(state, index as usize);
                }
            }
        }
        for index in slow {
            self.close_slow_consumer(state, index);
        }
    }

    /// Whether gaps of an interruption of everything have still to be told; see [`take_messages`](Self::take_messages).
    pub(super) fn has_gaps(&self) -> bool {
        !self.state.borrow().gaps.is_empty()
    }

    fn tell_waiting_gaps(&self, state: &mut ShardState) {
        let mut told = 0;
        while told < GAPS_PER_TURN
            && let Some((slot, reason)) = state.gaps.pop_front()
        {
            told += self.tell_gap(state, slot, reason);
        }
        if state.gaps.is_empty() {
            state.gaps = VecDeque::new();
        }
    }

    /// Tells subscribers of a topic that they missed something; returns how many they are.
    fn tell_gap(&self, state: &mut ShardState, slot: SlotId, reason: &'static str) -> usize {
        let Some(topic) = state.topics.get_mut(slot) else { return 0 };
        let (subscribers, topic) = (topic.subscribers.clone(), topic.topic.clone());
        let count = subscribers.len();
        state.metrics.gap(reason, count);
        let now = self.context.clock.now();
        for index in subscribers {
            let index = index as usize;
            if let Some(session) = state.session(index) {
                session.handle_gap(now, &topic, reason, None);
            }
            self.carry_out(state, index, now);
            self.mark_dirty(state, index);
        }
        count
    }

    /// The hub does not have a topic, or not any more: tells those who wait for it, and those who are subscribed.
    fn end_topic(&self, state: &mut ShardState, slot: SlotId, refusal: &ErrorBody) {
        let Some(Ended { topic, waiting, subscribers }) = state.topics.refuse(slot) else { return };
        for (id, op) in waiting {
            self.handle_completion(state, id, op, Completion::Subscribed(Err(refusal.clone())));
        }
        let now = self.context.clock.now();
        for index in subscribers {
            let index = index as usize;
            if let Some(session) = state.session(index) {
                session.handle_unsubscribed(now, &topic, refusal.clone());
            }
            self.carry_out(state, index, now);
            self.mark_dirty(state, index);
        }
    }

    fn drain(&self, state: &mut ShardState, reconnect_after_ms: u64) {
        state.draining = Some(reconnect_after_ms);
        let now = self.context.clock.now();
        let open: Vec<_> = state.connections.iter().map(|(index, _)| index).collect();
        for index in open {
            if let Some(session) = state.session(index) {
                session.handle_drain(now, spread(reconnect_after_ms));
            }
            self.carry_out(state, index, now);
            self.mark_dirty(state, index);
        }
    }

    /// Has the connection written at the end of the tick.
    pub(super) fn mark_dirty(&self, state: &mut ShardState, index: usize) {
        let connection = &mut state.connections[index];
        if !connection.dirty && !connection.blocked {
            connection.dirty = true;
            state.dirty.push_back(index as u32);
        }
    }

    /// Writes up to `limit` connections that got something. `true` where there are more.
    pub(super) fn write_dirty(&self, limit: usize) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for _ in 0..limit {
            let Some(index) = state.dirty.pop_front() else { break };
            let index = index as usize;
            // Its connection may be gone, and another one in its place.
            if state.connections.get(index).is_some_and(|connection| connection.dirty) {
                self.write(state, index);
            }
        }
        state.metrics.publish(state.topics.subscriptions());
        !state.dirty.is_empty()
    }

    /// Writes what the connection's outbox holds, as far as the socket takes it.
    pub(super) fn write(&self, state: &mut ShardState, index: usize) {
        let connection = &mut state.connections[index];
        connection.dirty = false;
        if connection.state == State::Dead {
            return;
        }
        let flushed = connection.flush(&mut state.metrics.delivered_bytes);
        match (flushed, connection.state) {
            (Flushed::Broken, was) => {
                connection.kill();
                state.metrics.gone(was == State::Open);
            }
            // The close frame is out: nothing follows it. The client's answer, or the end of its patience, ends the rest.
            (Flushed::Empty, State::Closing(_)) => connection.transport.finish(),
            _ => {}
        }
    }
}

impl ShardState {
    /// Keeps a publication until its topic is sealed. `true` where the tick has enough for one write.
    fn hold(&mut self, slot: SlotId, publication: Arc<EncodedPublication>) -> bool {
        let Some(topic) = self.topics.get_mut(slot) else { return false };
        if topic.pending.is_empty() {
            self.unsealed.push(slot);
        }
        self.unsealed_bytes += publication.bytes();
        topic.pending.push(publication);
        self.unsealed_bytes > TICK_BYTES
    }
}

/// One to two times as long, so that not all clients come back at once.
pub(super) fn spread(millis: u64) -> u64 {
    millis + fastrand::u64(..=millis)
}

/// The frames of several publications as one piece.
fn join(
    publications: &[Arc<EncodedPublication>],
    variant: Variant,
    deflater: &mut Deflater,
    scratch: &mut Vec<u8>,
) -> Piece {
    if let [publication] = publications {
        return publication.frame(variant, deflater).into();
    }
    scratch.clear();
    for publication in publications {
        scratch.extend_from_slice(publication.frame(variant, deflater));
    }
    scratch.as_slice().into()
}
