//! A shard's table of topics and their subscribers.

use std::{collections::VecDeque, sync::Arc};

use ahash::RandomState;
use fanfare_presence::Audience;
use fanfare_protocol::{Epoch, Position, Tenant, Topic};
use fanfare_session::{OpId, Start, Time};
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::{
    encoding::EncodedPublication,
    hub::message::{ConnectionId, SlotId},
};

/// One topic of one tenant on this shard.
#[derive(Debug)]
pub(super) struct ShardTopic {
    pub(super) tenant: Tenant,
    pub(super) topic: Topic,
    /// For those who are told of the channel's members: its own topic beside the channel's, of which the hub knows nothing.
    pub(super) audience: Option<Audience>,
    generation: u32,
    confirmation: Confirmation,
    /// Places of subscribed connections.
    pub(super) subscribers: SmallVec<[u32; 4]>,
    /// Publications of this tick, until it is sealed.
    pub(super) pending: SmallVec<[Arc<EncodedPublication>; 1]>,
    /// Clients that do not keep up get only the newest publication per key.
    pub(super) conflates: bool,
    /// Where the channel stands on this shard, once confirmed, if it has history.
    pub(super) history: Option<Box<TopicHistory>>,
}

/// A channel with history on this shard.
#[derive(Debug)]
pub(super) struct TopicHistory {
    epoch: Epoch,
    /// Of the last publication that came, held ones included.
    offset: u64,
    /// When the hub or a publication said so. A quiet channel may stand further on meanwhile (on NATS, where offsets are the
    /// stream's), and clients should begin there.
    pub(super) known_at: Time,
    /// Publications were missed; the hub has been asked for them, and what comes before its answer is in the answer too.
    pub(super) broken: bool,
    /// Sessions that the hub will tell what they missed, and since when.
    pub(super) recovering: VecDeque<Waiting>,
    /// Places of connections that are subscribed, and get what they missed first.
    pub(super) catching_up: Vec<u32>,
}

impl TopicHistory {
    fn new(Position { epoch, offset }: Position, known_at: Time) -> Self {
        Self { epoch, offset, known_at, broken: false, recovering: VecDeque::new(), catching_up: Vec::new() }
    }

    /// Where the channel stands.
    pub(super) fn position(&self) -> Position {
        Position { offset: self.offset, epoch: self.epoch.clone() }
    }

    pub(super) fn stands_at(&self, position: &Position) -> bool {
        self.offset == position.offset && self.epoch == position.epoch
    }

    pub(super) fn move_to(&mut self, position: &Position) {
        self.offset = position.offset;
        if self.epoch != position.epoch {
            self.epoch = position.epoch.clone();
        }
    }

    fn is_unused(&self) -> bool {
        self.recovering.is_empty() && self.catching_up.is_empty()
    }
}

/// One that waits for a confirmation, and what it wants first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) connection: ConnectionId,
    pub(super) op: OpId,
    pub(super) start: Start,
    /// It has been unsubscribed from meanwhile; the hub's answer is still to come, and is for nobody.
    pub(super) given_up: bool,
}

/// Whether the hub has confirmed the topic.
#[derive(Debug)]
enum Confirmation {
    /// These wait for it.
    Awaited(Vec<Waiting>),
    Given,
}

/// What came of a subscribe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subscribing {
    /// Subscribed.
    Done,
    /// The channel has history: what the session wants first decides.
    Follows(SlotId),
    /// The hub has been asked already.
    Waits,
    /// The hub has to be asked.
    First(SlotId),
}

/// What came of an unsubscribe.
#[derive(Debug)]
pub(super) enum Unsubscribing {
    /// There are others, or it was not subscribed.
    Done,
    /// That was the last: the hub has to be told.
    Last { slot: SlotId, tenant: Tenant, topic: Topic },
}

/// A topic that the hub has refused or ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) topic: Topic,
    /// These wait for it.
    pub(super) waiting: Vec<(ConnectionId, OpId)>,
    /// Places of the connections that were subscribed, those that catch up included.
    pub(super) subscribers: SmallVec<[u32; 4]>,
}

impl ShardTopic {
    /// Notes where a publication stands; `false` where it belongs to a repair that is under way, and comes with that.
    pub(super) fn takes(&mut self, publication: &EncodedPublication) -> bool {
        let (Some(history), Some(position)) = (&mut self.history, &publication.position) else { return true };
        if !history.broken {
            history.move_to(position);
        }
        !history.broken
    }

    /// Whether a publication belongs to a repair that is under way.
    pub(super) fn is_broken_for(&self, publication: &EncodedPublication) -> bool {
        publication.position.is_some() && self.history.as_ref().is_some_and(|history| history.broken)
    }

    /// Connections that are subscribed, those that get first what they missed included.
    fn subscribed(&self) -> usize {
        self.subscribers.len() + self.history.as_ref().map_or(0, |history| history.catching_up.len())
    }

    fn is_unused(&self) -> bool {
        self.subscribers.is_empty() && self.history.as_ref().is_none_or(|history| history.is_unused())
    }
}

/// Topics by place and by name.
#[derive(Debug, Default)]
pub(super) struct ShardTopics {
    places: slab::Slab<ShardTopic>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    next_generation: u32,
    subscriptions: usize,
}

impl ShardTopics {
    /// A table whose look-ups cost the same in every run.
    pub(super) fn with_hasher(hasher: RandomState) -> Self {
        Self { hasher, ..Self::default() }
    }

    /// Subscriptions that were made and have not ended.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub(super) fn get_mut(&mut self, slot: SlotId) -> Option<&mut ShardTopic> {
        self.places.get_mut(slot.index as usize).filter(|topic| topic.generation == slot.generation)
    }

    /// Topics that the hub has confirmed, and that it cannot repair.
    pub(super) fn confirmed_without_history(&self) -> impl Iterator<Item = SlotId> {
        let is_one = |topic: &ShardTopic| {
            matches!(topic.confirmation, Confirmation::Given) && topic.history.is_none() && topic.audience.is_none()
        };
        self.slots(is_one)
    }

    /// Channels with history that the hub has confirmed.
    pub(super) fn with_history(&self) -> impl Iterator<Item = SlotId> {
        self.slots(|topic| topic.history.is_some())
    }

    /// Topics in places from `from` on, as far as `places` of them reach, with how many are subscribed; and where to go on.
    pub(super) fn part(
        &self,
        from: usize,
        places: usize,
    ) -> (impl Iterator<Item = (&Tenant, &Topic, usize)>, Option<usize>) {
        let end = from.saturating_add(places);
        let found = (from..end.min(self.places.capacity())).filter_map(|index| self.places.get(index));
        let counts = found
            .filter(|found| found.audience.is_none())
            .map(|found| (&found.tenant, &found.topic, found.subscribed()));
        (counts, (end < self.places.capacity()).then_some(end))
    }

    fn slots(&self, is_one: impl Fn(&ShardTopic) -> bool) -> impl Iterator<Item = SlotId> {
        let slot = |index, topic: &ShardTopic| SlotId { index: index as u32, generation: topic.generation };
        self.places.iter().filter(move |(_, topic)| is_one(topic)).map(move |(index, topic)| slot(index, topic))
    }

    pub(super) fn subscribe(
        &mut self,
        tenant: &Tenant,
        topic: Topic,
        waiting: Waiting,
        conflates: impl FnOnce() -> bool,
    ) -> Subscribing {
        let Some(index) = self.find(tenant, &topic, None) else {
            let awaited = Confirmation::Awaited(vec![waiting]);
            return Subscribing::First(self.insert(tenant.clone(), topic, None, awaited, conflates()));
        };
        let found = &mut self.places[index as usize];
        match &mut found.confirmation {
            Confirmation::Awaited(others) => {
                others.push(waiting);
                Subscribing::Waits
            }
            Confirmation::Given if found.history.is_some() => {
                Subscribing::Follows(SlotId { index, generation: found.generation })
            }
            Confirmation::Given => {
                found.subscribers.push(waiting.connection.index);
                self.subscriptions += 1;
                Subscribing::Done
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, tenant: &Tenant, topic: &Topic, connection: ConnectionId) -> Unsubscribing {
        let Some(index) = self.find(tenant, topic, None) else { return Unsubscribing::Done };
        let found = &mut self.places[index as usize];
        let nobody = match &mut found.confirmation {
            Confirmation::Awaited(waiting) => {
                waiting.retain(|other| other.connection != connection);
                waiting.is_empty()
            }
            Confirmation::Given => {
                if let Some(at) = place_of(&found.subscribers, connection.index) {
                    found.subscribers.swap_remove(at);
                    self.subscriptions -= 1;
                } else if let Some(history) = &mut found.history {
                    let own = history.recovering.iter_mut().filter(|other| other.connection == connection);
                    own.for_each(|one| one.given_up = true);
                    let before = history.catching_up.len();
                    history.catching_up.retain(|other| *other != connection.index);
                    self.subscriptions -= before - history.catching_up.len();
                }
                found.is_unused()
            }
        };
        if !nobody {
            return Unsubscribing::Done;
        }
        let slot = SlotId { index, generation: found.generation };
        let removed = self.remove(index);
        Unsubscribing::Last { slot, tenant: removed.tenant, topic: removed.topic }
    }

    /// Removes a confirmed topic that nobody uses any more.
    pub(super) fn remove_if_unused(&mut self, slot: SlotId) -> Unsubscribing {
        let unused = |topic: &mut ShardTopic| matches!(topic.confirmation, Confirmation::Given) && topic.is_unused();
        if !self.get_mut(slot).is_some_and(unused) {
            return Unsubscribing::Done;
        }
        let removed = self.remove(slot.index);
        Unsubscribing::Last { slot, tenant: removed.tenant, topic: removed.topic }
    }

    /// The place of a topic.
    pub(super) fn slot(&self, tenant: &Tenant, topic: &Topic) -> Option<SlotId> {
        let index = self.find(tenant, topic, None)?;
        Some(SlotId { index, generation: self.places[index as usize].generation })
    }

    /// The place of those who are told of a channel's members.
    pub(super) fn watched(&self, tenant: &Tenant, topic: &Topic, audience: Audience) -> Option<SlotId> {
        let index = self.find(tenant, topic, Some(audience))?;
        Some(SlotId { index, generation: self.places[index as usize].generation })
    }

    /// A connection is told of a channel's members. Returns the place where it is the first.
    pub(super) fn watch(
        &mut self,
        tenant: &Tenant,
        topic: Topic,
        audience: Audience,
        connection: u32,
        conflates: bool,
    ) -> Option<SlotId> {
        if let Some(index) = self.find(tenant, &topic, Some(audience)) {
            let subscribers = &mut self.places[index as usize].subscribers;
            if !subscribers.contains(&connection) {
                subscribers.push(connection);
            }
            return None;
        }
        let slot = self.insert(tenant.clone(), topic, Some(audience), Confirmation::Given, conflates);
        self.places[slot.index as usize].subscribers.push(connection);
        Some(slot)
    }

    /// A connection is not told any more. Returns the place that it had, where it was the last.
    pub(super) fn unwatch(
        &mut self,
        tenant: &Tenant,
        topic: &Topic,
        audience: Audience,
        connection: u32,
    ) -> Option<SlotId> {
        let slot = self.watched(tenant, topic, audience)?;
        let subscribers = &mut self.places[slot.index as usize].subscribers;
        let at = place_of(subscribers, connection)?;
        subscribers.swap_remove(at);
        if !subscribers.is_empty() {
            return None;
        }
        self.remove(slot.index);
        Some(slot)
    }

    /// Takes one out that recovers; `None` where it has gone.
    pub(super) fn take_recovering(&mut self, slot: SlotId, connection: ConnectionId, op: OpId) -> Option<Waiting> {
        let recovering = &mut self.get_mut(slot)?.history.as_mut()?.recovering;
        // Answers come about in the order in which they were asked for, so it stands in front.
        let at = recovering.iter().position(|own| (own.connection, own.op) == (connection, op))?;
        recovering.remove(at)
    }

    /// A connection is subscribed to a channel with history, and has all.
    pub(super) fn add(&mut self, slot: SlotId, connection: u32) {
        let Some(topic) = self.get_mut(slot) else { return };
        topic.subscribers.push(connection);
        self.subscriptions += 1;
    }

    /// A connection is subscribed to a channel with history, and gets what it missed first.
    pub(super) fn catch_up(&mut self, slot: SlotId, connection: u32) {
        let Some(history) = self.get_mut(slot).and_then(|topic| topic.history.as_mut()) else { return };
        history.catching_up.push(connection);
        self.subscriptions += 1;
    }

    /// A connection has caught up.
    pub(super) fn caught_up(&mut self, slot: SlotId, connection: u32) {
        let Some(topic) = self.get_mut(slot) else { return };
        let Some(history) = &mut topic.history else { return };
        if let Some(at) = place_of(&history.catching_up, connection) {
            history.catching_up.swap_remove(at);
            topic.subscribers.push(connection);
        }
    }

    /// The hub has confirmed a topic. Everyone who waits is returned; without history everyone is subscribed. With history
    /// that is still to be done: until then they recover, so that the topic is used and who leaves meanwhile is found.
    pub(super) fn confirm(&mut self, slot: SlotId, position: Option<Position>, now: Time) -> Vec<Waiting> {
        let Some(topic) = self.get_mut(slot) else { return Vec::new() };
        match std::mem::replace(&mut topic.confirmation, Confirmation::Given) {
            Confirmation::Awaited(waiting) => {
                topic.history = position.map(|position| Box::new(TopicHistory::new(position, now)));
                if let Some(history) = &mut topic.history {
                    history.recovering.extend(waiting.iter().cloned());
                }
                if topic.history.is_none() {
                    topic.subscribers.extend(waiting.iter().map(|waiting| waiting.connection.index));
                    self.subscriptions += waiting.len();
                }
                waiting
            }
            Confirmation::Given => Vec::new(),
        }
    }

    /// The hub has refused a topic, or ended it: it is gone, and those whom it concerns are returned, to be told.
    pub(super) fn refuse(&mut self, slot: SlotId) -> Option<Ended> {
        self.get_mut(slot)?;
        let ShardTopic { topic, confirmation, mut subscribers, history, .. } = self.remove(slot.index);
        let mut waiting = match confirmation {
            Confirmation::Awaited(waiting) => waiting.into_iter().map(|one| (one.connection, one.op)).collect(),
            Confirmation::Given => Vec::new(),
        };
        if let Some(history) = history {
            subscribers.extend(history.catching_up);
            let recovering = history.recovering.into_iter().filter(|one| !one.given_up);
            waiting.extend(recovering.map(|one| (one.connection, one.op)));
        }
        self.subscriptions -= subscribers.len();
        Some(Ended { topic, waiting, subscribers })
    }

    fn find(&self, tenant: &Tenant, topic: &Topic, audience: Option<Audience>) -> Option<u32> {
        let same = |index: &u32| {
            let other = &self.places[*index as usize];
            other.topic == *topic && other.tenant == *tenant && other.audience == audience
        };
        self.by_name.find(hash(&self.hasher, tenant, topic, audience), same).copied()
    }

    fn insert(
        &mut self,
        tenant: Tenant,
        topic: Topic,
        audience: Option<Audience>,
        confirmation: Confirmation,
        conflates: bool,
    ) -> SlotId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let hash_of_new = hash(&self.hasher, &tenant, &topic, audience);
        let index = self.places.insert(ShardTopic {
            tenant,
            topic,
            audience,
            generation,
            confirmation,
            subscribers: SmallVec::new(),
            pending: SmallVec::new(),
            conflates,
            history: None,
        });
        let index = u32::try_from(index).expect("the limit on channels is below 2^32");
        let (places, hasher) = (&self.places, &self.hasher);
        self.by_name.insert_unique(hash_of_new, index, |index| {
            let other = &places[*index as usize];
            hash(hasher, &other.tenant, &other.topic, other.audience)
        });
        SlotId { index, generation }
    }

    fn remove(&mut self, index: u32) -> ShardTopic {
        let topic = self.places.remove(index as usize);
        let hash = hash(&self.hasher, &topic.tenant, &topic.topic, topic.audience);
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        topic
    }
}

fn hash(hasher: &RandomState, tenant: &Tenant, topic: &Topic, audience: Option<Audience>) -> u64 {
    hasher.hash_one((tenant.as_str(), topic.as_str(), audience))
}

/// Where a connection stands among others. It is looked for when it leaves: in a storm all do, so that this is quadratic. Whole
/// lanes are compared without a branch, which the compiler makes vectors of: four times as fast as one by one, 1 µs of 15,000.
fn place_of(connections: &[u32], connection: u32) -> Option<usize> {
    const LANES: usize = 64;
    let among = |lanes: &[u32]| lanes.iter().fold(false, |found, other| found | (*other == connection));
    let lanes = connections.chunks(LANES).position(among)? * LANES;
    let at = connections[lanes..].iter().position(|other| *other == connection)?;
    Some(lanes + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(index: u32, op: u32) -> Waiting {
        Waiting { connection: connection(index), op: OpId(op), start: Start::default(), given_up: false }
    }

    fn connection(index: u32) -> ConnectionId {
        ConnectionId { index, generation: 7 }
    }

    fn names() -> (Tenant, Topic) {
        (Tenant::default(), Topic::parse("project:1").unwrap())
    }

    #[test]
    fn a_connection_is_found_in_every_lane() {
        let connections: Vec<u32> = (0..200).map(|number| number * 3).collect();
        for (at, connection) in connections.iter().enumerate() {
            assert_eq!(place_of(&connections, *connection), Some(at));
        }
        assert_eq!(place_of(&connections, 1), None);
        assert_eq!(place_of(&[], 0), None);
    }

    #[test]
    fn only_the_first_and_the_last_concern_the_hub() {
        let mut topics = ShardTopics::default();
        let (tenant, topic) = names();
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), waiting(0, 1), || false) else {
            panic!("the first asks the hub");
        };
        assert_eq!(topics.subscribe(&tenant, topic.clone(), waiting(1, 2), || false), Subscribing::Waits);
        assert_eq!(topics.confirm(slot, None, Time::default()), [waiting(0, 1), waiting(1, 2)]);
        assert_eq!(topics.subscribe(&tenant, topic.clone(), waiting(2, 3), || false), Subscribing::Done);
        assert_eq!(topics.get_mut(slot).unwrap().subscribers.as_slice(), [0, 1, 2]);
        for index in [0, 2] {
            assert!(matches!(topics.unsubscribe(&tenant, &topic, connection(index)), Unsubscribing::Done));
        }
        let last = topics.unsubscribe(&tenant, &topic, connection(1));
        assert!(matches!(last, Unsubscribing::Last { slot: ended, .. } if ended == slot));
        assert!(topics.get_mut(slot).is_none());
        assert!(matches!(topics.unsubscribe(&tenant, &topic, connection(1)), Unsubscribing::Done));
    }

    #[test]
    fn who_leaves_while_waiting_is_not_completed() {
        let mut topics = ShardTopics::default();
        let (tenant, topic) = names();
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), waiting(0, 1), || false) else {
            panic!("the first asks the hub");
        };
        topics.subscribe(&tenant, topic.clone(), waiting(1, 2), || false);
        topics.unsubscribe(&tenant, &topic, connection(0));
        assert_eq!(topics.confirm(slot, None, Time::default()), [waiting(1, 2)]);
    }

    #[test]
    fn a_refused_topic_is_gone_and_asked_for_anew() {
        let mut topics = ShardTopics::default();
        let (tenant, topic) = names();
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), waiting(0, 1), || false) else {
            panic!("the first asks the hub");
        };
        assert_eq!(topics.refuse(slot).unwrap().waiting, [(connection(0), OpId(1))]);
        let Subscribing::First(again) = topics.subscribe(&tenant, topic, waiting(0, 2), || false) else {
            panic!("the hub is asked anew");
        };
        assert_ne!(again, slot);
        assert!(topics.confirm(slot, None, Time::default()).is_empty());
        assert!(topics.refuse(slot).is_none());
        topics.confirm(again, None, Time::default());
        assert_eq!(topics.subscriptions(), 1);
        assert_eq!(topics.refuse(again).unwrap().subscribers.as_slice(), [0]);
        assert_eq!(topics.subscriptions(), 0);
    }
}
