//! Subscriptions to channels with history: what a client gets first, and what it gets instead of what it missed.
//!
//! A client that catches up is no ordinary subscriber yet: what is published meanwhile waits behind what it missed, and
//! both go out in pages of at most half the outbox, so that catching up can never make a slow consumer of a client that
//! reads.

use std::sync::Arc;

use fanfare_protocol::{ErrorBody, ErrorCode, Missed};
use fanfare_session::{Completion, Granted, Start};

use super::{
    Shard, ShardState,
    actions::complete,
    aside::{Aside, Item, TooFarBehind},
    connection::{Connection, Flushed, State},
    metrics::ShardMetrics,
    outbox::OutboxLimits,
    topics::Waiting,
};
use crate::{
    encoding::EncodedPublication,
    hub::{
        STALLED,
        message::{HubRequest, Recoverer, Recovery, SlotId},
    },
    limits::{CATCH_UP_BYTES, PAGES_PER_TURN, POSITION_AGE},
};

/// Why a client that gets only the newest publication per key is told of a gap.
const CONFLATED: &str = "conflated";

impl Shard {
    /// A session subscribes to a channel with history that the hub has confirmed. Completes what needs no answer of the hub;
    /// carrying out what the session then wants is left to the caller.
    pub(super) fn begin(&self, state: &mut ShardState, slot: SlotId, waiting: Waiting) {
        let Waiting { connection, op, .. } = waiting;
        let Some(index) = state.place(connection) else { return self.drop_if_unused(state, slot) };
        // What is held for the others is before its position.
        self.seal(state, slot);
        let Some(topic) = state.topics.get_mut(slot) else { return };
        let Some(history) = &mut topic.history else { return };
        let start = waiting.start.clone();
        let up_to_date = start.since.as_ref().is_some_and(|since| history.stands_at(since)) && !history.broken;
        let now = self.context.clock.now();
        let is_stale = now.since(history.known_at) > POSITION_AGE;
        if !up_to_date && (start != Start::default() || is_stale) {
            if history.recovering.iter().any(|own| own.connection == connection) {
                // Else a client that gives up and asks again could have any number of recoveries under way.
                let message = "the recovery that was given up is still under way; try again";
                let refusal = ErrorBody { retryable: true, ..ErrorBody::new(ErrorCode::RateLimit, message) };
                return complete(state, index, now, op, Completion::Subscribed(Err(refusal)));
            }
            history.recovering.push_back(waiting);
            let (tenant, topic) = (topic.tenant.clone(), topic.topic.clone());
            let recoverer = Recoverer { shard: self.context.id, slot, session: Some((connection, op)) };
            return self.ask_hub(state, HubRequest::Recover { recoverer, tenant, topic, start });
        }
        let granted = Granted {
            position: Some(history.position()),
            recovered: up_to_date.then_some(true),
            publications: up_to_date.then(Vec::new),
        };
        complete(state, index, now, op, Completion::Subscribed(Ok(granted)));
        state.topics.add(slot, connection.index);
    }

    /// The hub's answer to one who recovers.
    pub(super) fn take_recovery(
        &self,
        state: &mut ShardState,
        recoverer: Recoverer,
        result: Result<Recovery, ErrorBody>,
    ) {
        let slot = recoverer.slot;
        self.seal(state, slot);
        let Some((connection, op)) = recoverer.session else { return self.take_repair(state, slot, result) };
        let Some(waiting) = state.topics.take_recovering(slot, connection, op) else { return };
        if waiting.given_up {
            return self.drop_if_unused(state, slot);
        }
        let Some(history) = state.topics.get_mut(slot).and_then(|topic| topic.history.as_mut()) else { return };
        match result {
            Ok(recovery) if !history.broken => self.subscribe_to(state, slot, waiting, recovery),
            refused => {
                let overloaded = || ErrorBody::new(ErrorCode::Unavailable, "this node is overloaded; try again");
                let refusal = refused.err().unwrap_or_else(overloaded);
                self.handle_completion(state, connection, op, Completion::Subscribed(Err(refusal)));
                self.drop_if_unused(state, slot);
            }
        }
    }

    /// Tells the session that it is subscribed, with as much of what it gets first as half the outbox has room for. The
    /// rest follows as ordinary publications.
    fn subscribe_to(&self, state: &mut ShardState, slot: SlotId, waiting: Waiting, recovery: Recovery) {
        let Waiting { connection, op, start, .. } = waiting;
        let Some(index) = state.place(connection) else { return self.drop_if_unused(state, slot) };
        let Recovery { mut position, recovered, mut publications } = recovery;
        if let Some(own) = state.session(index).map(|session| session.id()) {
            publications.retain(|publication| !publication.exclude.contains(&own));
        }
        if state.connections[index].aside.as_ref().is_some_and(|aside| aside.bytes() > self.catch_up_bytes()) {
            let message = "too much that this session missed waits to be read; try again when it is";
            let refusal = ErrorBody::new(ErrorCode::Unavailable, message);
            self.handle_completion(state, connection, op, Completion::Subscribed(Err(refusal)));
            return self.drop_if_unused(state, slot);
        }
        let own = &state.connections[index];
        // A stream gets all of it as events: each says where the client is to come back.
        let is_stream = own.events.is_some();
        let room = match is_stream {
            true => 0,
            false => (self.context.outbox_bytes / 2).saturating_sub(own.outbox.bytes()),
        };
        let (first, rest) = publications.split_at(fitting(&publications, room));
        if let Some(next) = rest.first().and_then(|publication| publication.position.as_ref()) {
            let last = first.last().and_then(|publication| publication.position.as_ref());
            let since = start.since.as_ref().filter(|_| recovered == Some(true));
            let before = last.or(since).map(|position| position.offset);
            position.offset = before.unwrap_or(next.offset.saturating_sub(1));
        }
        state.metrics.delivered(first.len());
        if rest.is_empty()
            && let Some(history) = state.topics.get_mut(slot).and_then(|topic| topic.history.as_mut())
        {
            history.move_to(&position);
            history.known_at = self.context.clock.now();
        }
        let first: Vec<_> = first.iter().map(|publication| publication.recorded().clone()).collect();
        let position = (!is_stream || rest.is_empty()).then_some(position);
        let granted = Granted { position, recovered, publications: (start != Start::default()).then_some(first) };
        self.handle_completion(state, connection, op, Completion::Subscribed(Ok(granted)));
        // Its outbox may have been too small for the reply.
        if state.session(index).is_none() {
            return self.drop_if_unused(state, slot);
        }
        if rest.is_empty() {
            return state.topics.add(slot, connection.index);
        }
        let aside = state.connections[index].aside.get_or_insert_default();
        aside.begin(slot, rest.iter().cloned());
        state.topics.catch_up(slot, connection.index);
        self.mark_dirty(state, index);
    }

    /// Puts something behind what waits for a subscription that catches up.
    pub(super) fn put_aside(
        &self,
        state: &mut ShardState,
        index: u32,
        slot: SlotId,
        item: Item,
    ) -> Result<(), TooFarBehind> {
        let limit = self.catch_up_bytes() + self.context.recovery_bytes + self.context.outbox_bytes;
        match &mut state.connections[index as usize].aside {
            Some(aside) => aside.push(slot, item, limit),
            None => Ok(()),
        }
    }

    /// Gives the connection what waits for it alone, page by page, as long as its socket takes it.
    pub(super) fn give_what_is_aside(&self, state: &mut ShardState, index: usize, mut flushed: Flushed) -> Flushed {
        for _ in 0..PAGES_PER_TURN {
            if flushed == Flushed::Broken || state.connections[index].state != State::Open {
                return flushed;
            }
            let gave = self.give_page(state, index) | self.give_conflated(state, index);
            self.release_caught_up(state, index);
            if state.connections[index].state != State::Open {
                // Closed meanwhile: the close frame is still to be written.
                return Flushed::Blocked;
            }
            if !gave || state.connections[index].blocked {
                return flushed;
            }
            flushed = state.connections[index].flush(&mut state.metrics.delivered_bytes);
        }
        // More after the others.
        self.mark_dirty(state, index);
        flushed
    }

    /// Fills the outbox up to its half with what the connection missed; `false` where there is nothing or no room.
    fn give_page(&self, state: &mut ShardState, index: usize) -> bool {
        let limits = self.outbox_limits();
        let mut gave = false;
        while !state.connections[index].outbox.is_half_full(limits) {
            let Some(aside) = &mut state.connections[index].aside else { return gave };
            let Some((slot, item)) = aside.pop() else { return gave };
            gave = true;
            match item {
                Item::Publication(publication) => self.push_publications(state, index, &[publication]),
                Item::Gap(gap) => self.tell_one_gap(state, index, slot, gap.0, gap.1),
            }
            if state.connections[index].state != State::Open {
                return false;
            }
        }
        gave
    }

    /// Gives a connection that has read all what is newest of what it was too slow for.
    fn give_conflated(&self, state: &mut ShardState, index: usize) -> bool {
        if !state.connections[index].outbox.is_empty() {
            return false;
        }
        let Some(aside) = &mut state.connections[index].aside else { return false };
        let slots = aside.conflated().take_slots();
        let newest = aside.conflated().take();
        for slot in slots {
            self.tell_one_gap(state, index, slot, CONFLATED, None);
        }
        if !newest.is_empty() {
            self.push_publications(state, index, &newest);
        }
        !newest.is_empty()
    }

    /// Makes ordinary subscribers of the subscriptions that have caught up.
    fn release_caught_up(&self, state: &mut ShardState, index: usize) {
        while let Some(slot) = state.connections[index].aside.as_mut().and_then(|aside| aside.take_caught_up()) {
            state.topics.caught_up(slot, index as u32);
        }
        state.connections[index].aside.take_if(|aside| aside.is_empty());
    }

    fn push_publications(&self, state: &mut ShardState, index: usize, publications: &[Arc<EncodedPublication>]) {
        if state.connections[index].events.is_some() {
            return self.deliver_to_streams(state, &[index as u32], publications);
        }
        let variant = state.connections[index].variant;
        let piece = super::delivery::join(publications, variant, &mut state.deflater, &mut state.frame);
        state.metrics.delivered(publications.len());
        if state.connections[index].push(piece, self.outbox_limits()).is_err() {
            self.close_slow_consumer(state, index);
        }
    }

    fn tell_one_gap(
        &self,
        state: &mut ShardState,
        index: usize,
        slot: SlotId,
        reason: &'static str,
        missed: Option<Missed>,
    ) {
        let Some(topic) = state.topics.get_mut(slot).filter(|topic| topic.audience.is_none()) else {
            return; // announcements that were left out show by the version of the newest
        };
        let topic = topic.topic.clone();
        state.metrics.gap(reason, 1);
        let now = self.context.clock.now();
        if let Some(session) = state.session(index) {
            session.handle_gap(now, &topic, reason, missed);
        }
        self.carry_out(state, index, now);
    }

    /// The shard could not keep up and missed publications: asks the hub for those of its channels with history. What
    /// comes before the answer is in the answer too.
    pub(super) fn repair_all(&self, state: &mut ShardState) {
        let slots: Vec<SlotId> = state.topics.with_history().collect();
        for slot in slots {
            let Some(topic) = state.topics.get_mut(slot) else { continue };
            let Some(history) = &mut topic.history else { continue };
            history.broken = true;
            let start = Start { since: Some(history.position()), rewind: 0 };
            let (tenant, topic) = (topic.tenant.clone(), topic.topic.clone());
            let recoverer = Recoverer { shard: self.context.id, slot, session: None };
            self.ask_hub(state, HubRequest::Recover { recoverer, tenant, topic, start });
        }
    }

    /// What the shard missed of a channel.
    fn take_repair(&self, state: &mut ShardState, slot: SlotId, result: Result<Recovery, ErrorBody>) {
        let Some(history) = state.topics.get_mut(slot).and_then(|topic| topic.history.as_mut()) else { return };
        if !std::mem::take(&mut history.broken) {
            return;
        }
        let from = history.position();
        match result {
            Ok(Recovery { recovered: Some(true), publications, .. }) => {
                for publication in publications {
                    self.deliver_one_by_one(state, &[slot], &publication);
                }
            }
            Ok(Recovery { position, .. }) => {
                _ = self.tell_gap(state, slot, STALLED, Some(Missed { from, to: position }));
            }
            Err(_) => _ = self.tell_gap(state, slot, STALLED, None),
        }
    }

    /// What may wait for one connection that catches up, before it is refused more.
    fn catch_up_bytes(&self) -> usize {
        CATCH_UP_BYTES.max(self.context.recovery_bytes)
    }

    pub(super) fn drop_if_unused(&self, state: &mut ShardState, slot: SlotId) {
        let ended = state.topics.remove_if_unused(slot);
        self.tell_hub_if_last(state, ended);
    }
}

impl Connection {
    /// Whether the client is too slow to be given everything of a topic of which it may get the newest only.
    pub(super) fn is_behind(&mut self, slot: SlotId, limits: OutboxLimits) -> bool {
        self.outbox.is_half_full(limits) || self.aside.as_mut().is_some_and(|aside| aside.conflated().holds(slot))
    }
}

/// Keeps publications for a client that is too slow for all of them.
pub(super) fn conflate(
    connection: &mut Connection,
    slot: SlotId,
    publications: &[Arc<EncodedPublication>],
    metrics: &ShardMetrics,
) -> Result<(), TooFarBehind> {
    let aside: &mut Aside = connection.aside.get_or_insert_default();
    for publication in publications {
        if aside.conflated().keep(slot, publication.clone())? {
            metrics.conflated();
        }
    }
    Ok(())
}

/// How many of the publications a reply may hold.
fn fitting(publications: &[Arc<EncodedPublication>], room: usize) -> usize {
    let mut bytes = 0;
    let fits = |publication: &&Arc<EncodedPublication>| {
        bytes += publication.bytes();
        bytes <= room
    };
    publications.iter().take_while(fits).count()
}
