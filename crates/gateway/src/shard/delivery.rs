//! The tick: publications to outboxes, and outboxes to sockets.

use std::{collections::VecDeque, sync::Arc};

use fanfare_protocol::{ErrorBody, Missed};
use fanfare_session::{Completion, Granted};

use super::{
    Shard, ShardState,
    aside::Item,
    connection::{Flushed, State},
    outbox::Piece,
    recovery::conflate,
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
            state.presence.send_unsent();
            return self.send_unsent(state);
        }
        for message in messages {
            if self.take_message(state, message) {
                break;
            }
        }
        self.seal_all(state);
        state.presence.send_unsent();
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
            ShardMessage::Subscribed { slot, position } => {
                self.seal(state, slot);
                let has_history = position.is_some();
                for waiting in state.topics.confirm(slot, position, self.context.clock.now()) {
                    let (connection, op) = (waiting.connection, waiting.op);
                    if has_history {
                        // One before it may have gone, and have taken others with it.
                        let Some(waiting) = state.topics.take_recovering(slot, connection, op) else { continue };
                        if waiting.given_up {
                            self.drop_if_unused(state, slot);
                            continue;
                        }
                        self.begin(state, slot, waiting);
                        self.settle(state, connection);
                    } else {
                        let completion = Completion::Subscribed(Ok(Granted::default()));
                        self.handle_completion(state, connection, op, completion);
                    }
                }
            }
            ShardMessage::Recovered { recoverer, result } => self.take_recovery(state, recoverer, result),
            ShardMessage::Refused { slot, refusal } => {
                self.seal(state, slot);
                self.end_topic(state, slot, &refusal);
            }
            ShardMessage::Gap { slot, reason, missed } => {
                self.seal(state, slot);
                self.tell_gap(state, slot, reason, missed);
            }
            ShardMessage::GapEverywhere { reason, repair } => {
                self.seal_all(state);
                state.gaps.extend(state.topics.confirmed_without_history().map(|slot| (slot, reason)));
                if repair {
                    self.repair_all(state);
                }
                // What follows waits until all are told, a part at a time.
                return true;
            }
            ShardMessage::Completed { connection, op, completion } => {
                // Its reply must not overtake what was published before.
                self.seal_all(state);
                self.handle_completion(state, connection, op, completion);
            }
            ShardMessage::Inspect(inspection) => state.inspect(*inspection),
            ShardMessage::Drain { reconnect_after_ms } => {
                self.seal_all(state);
                self.drain(state, reconnect_after_ms);
            }
        }
        false
    }

    /// Hands the publications that a topic holds to its subscribers, as one piece per variant: an outbox gets one entry
    /// and the kernel one buffer, however many publications a tick brought.
    pub(super) fn seal(&self, state: &mut ShardState, slot: SlotId) {
        let Some(topic) = state.topics.get_mut(slot) else { return };
        let publications = std::mem::take(&mut topic.pending);
        if publications.is_empty() {
            return;
        }
        let subscribers = std::mem::take(&mut topic.subscribers);
        let conflates = topic.conflates;
        if let Some(history) = &mut topic.history {
            history.known_at = self.context.clock.now();
        }
        let catching_up = topic.history.as_ref().map_or_else(Vec::new, |history| history.catching_up.clone());
        let limits = self.outbox_limits();
        let mut pieces: [Option<Piece>; Variant::COUNT] = Default::default();
        let (mut slow, mut streams) = (Vec::new(), Vec::new());
        for index in catching_up {
            let items = publications.iter().cloned().map(Item::Publication);
            if items.into_iter().any(|item| self.put_aside(state, index, slot, item).is_err()) {
                slow.push(index);
            }
        }
        let behind = slow.len();
        for index in &subscribers {
            let connection = &mut state.connections[*index as usize];
            if conflates && connection.is_behind(slot, limits) {
                if conflate(connection, slot, &publications, &state.metrics).is_err() {
                    slow.push(*index);
                }
                continue;
            }
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
        state.metrics.delivered(publications.len() * (subscribers.len() + behind - slow.len() - streams.len()));
        if let Some(topic) = state.topics.get_mut(slot) {
            topic.subscribers = subscribers;
        }
        if !streams.is_empty() {
            self.deliver_to_streams(state, &streams, &publications);
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
    pub(super) fn deliver_one_by_one(
        &self,
        state: &mut ShardState,
        slots: &[SlotId],
        publication: &Arc<EncodedPublication>,
    ) {
        state.stamp += 1;
        let limits = self.outbox_limits();
        let mut pieces: [Option<Piece>; Variant::COUNT] = Default::default();
        let mut slow = Vec::new();
        slots.iter().for_each(|slot| self.seal(state, *slot));
        // Who catches up first, so that nobody gets by a pattern what has to wait.
        for slot in slots {
            let Some(topic) = state.topics.get_mut(*slot) else { continue };
            if !topic.takes(publication) {
                // It comes with the repair, and must not go before it by a pattern.
                let catching_up = topic.history.iter().flat_map(|history| history.catching_up.iter().copied());
                let concerned: Vec<u32> = topic.subscribers.iter().copied().chain(catching_up).collect();
                concerned.into_iter().for_each(|index| _ = state.is_new_to(index, publication));
                continue;
            }
            let catching_up = topic.history.as_ref().map_or_else(Vec::new, |history| history.catching_up.clone());
            for index in catching_up {
                if state.is_new_to(index, publication)
                    && self.put_aside(state, index, *slot, Item::Publication(publication.clone())).is_err()
                {
                    slow.push(index as usize);
                }
            }
        }
        for slot in slots {
            let Some(topic) = state.topics.get_mut(*slot).filter(|topic| !topic.is_broken_for(publication)) else {
                continue;
            };
            let (subscribers, conflates) = (topic.subscribers.clone(), topic.conflates);
            for index in subscribers {
                if !state.is_new_to(index, publication) {
                    continue;
                }
                let connection = &mut state.connections[index as usize];
                if conflates && connection.is_behind(*slot, limits) {
                    let one = std::slice::from_ref(publication);
                    if conflate(connection, *slot, one, &state.metrics).is_err() {
                        slow.push(index as usize);
                    }
                    continue;
                }
                if connection.variant == Variant::Sse {
                    self.deliver_to_streams(state, &[index], std::slice::from_ref(publication));
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
            told += self.tell_gap(state, slot, reason, None);
        }
        if state.gaps.is_empty() {
            state.gaps = VecDeque::new();
        }
    }

    /// Tells subscribers of a topic that they missed something; returns how many they are.
    pub(super) fn tell_gap(
        &self,
        state: &mut ShardState,
        slot: SlotId,
        reason: &'static str,
        missed: Option<Missed>,
    ) -> usize {
        let Some(topic) = state.topics.get_mut(slot) else { return 0 };
        let mut catching_up = Vec::new();
        if missed.is_some() && topic.history.as_ref().is_some_and(|history| history.broken) {
            // The repair's answer spans it.
            return 0;
        }
        if let Some(history) = &mut topic.history {
            catching_up.clone_from(&history.catching_up);
            missed.iter().for_each(|missed| history.move_to(&missed.to));
        }
        let (subscribers, topic) = (topic.subscribers.clone(), topic.topic.clone());
        for index in catching_up {
            // A gap has no bytes, so that it always finds room.
            let _ = self.put_aside(state, index, slot, Item::Gap(Box::new((reason, missed.clone()))));
        }
        let count = subscribers.len();
        state.metrics.gap(reason, count);
        let now = self.context.clock.now();
        for index in subscribers {
            let index = index as usize;
            if let Some(session) = state.session(index) {
                session.handle_gap(now, &topic, reason, missed.clone());
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
            self.leave_ended(state, index, &topic);
            if let Some(aside) = &mut state.connections[index].aside {
                aside.end(slot);
            }
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
        self.remove_dead(state);
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
        let mut flushed = connection.flush(&mut state.metrics.delivered_bytes);
        if connection.aside.is_some() {
            flushed = self.give_what_is_aside(state, index, flushed);
        }
        let connection = &mut state.connections[index];
        match (flushed, connection.state) {
            (Flushed::Broken, was) => {
                self.kill(state, index);
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
        if !topic.takes(&publication) {
            return false;
        }
        if topic.pending.is_empty() {
            self.unsealed.push(slot);
        }
        self.unsealed_bytes += publication.bytes();
        topic.pending.push(publication);
        self.unsealed_bytes > TICK_BYTES
    }

    /// Whether a publication of several topics, or one that excludes sessions, is for this connection, and has not gone to
    /// it by another of the topics.
    fn is_new_to(&mut self, index: u32, publication: &EncodedPublication) -> bool {
        let connection = &mut self.connections[index as usize];
        let excluded = connection.session.as_ref().is_some_and(|session| publication.exclude.contains(&session.id()));
        !excluded && std::mem::replace(&mut connection.stamp, self.stamp) != self.stamp
    }
}

/// One to two times as long, so that not all clients come back at once.
pub(super) fn spread(millis: u64) -> u64 {
    millis + fastrand::u64(..=millis)
}

/// The frames of several publications as one piece.
pub(super) fn join(
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
