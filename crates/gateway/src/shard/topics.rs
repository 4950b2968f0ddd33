//! A shard's table of topics and their subscribers.

use std::sync::Arc;

use ahash::RandomState;
use fanfare_protocol::{Tenant, Topic};
use fanfare_session::OpId;
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
    generation: u32,
    confirmation: Confirmation,
    /// Places of subscribed connections.
    pub(super) subscribers: SmallVec<[u32; 4]>,
    /// Publications of this tick, until it is sealed.
    pub(super) pending: SmallVec<[Arc<EncodedPublication>; 1]>,
}

/// Whether the hub has confirmed the topic.
#[derive(Debug)]
enum Confirmation {
    /// These wait for it.
    Awaited(Vec<(ConnectionId, OpId)>),
    Given,
}

/// What came of a subscribe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subscribing {
    /// Subscribed.
    Done,
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
    /// Places of the connections that were subscribed.
    pub(super) subscribers: SmallVec<[u32; 4]>,
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
    /// Subscriptions that were made and have not ended.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub(super) fn get_mut(&mut self, slot: SlotId) -> Option<&mut ShardTopic> {
        self.places.get_mut(slot.index as usize).filter(|topic| topic.generation == slot.generation)
    }

    /// Topics that the hub has confirmed.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = SlotId> {
        let confirmed = |topic: &ShardTopic| matches!(topic.confirmation, Confirmation::Given);
        let slot = |index, topic: &ShardTopic| SlotId { index: index as u32, generation: topic.generation };
        self.places.iter().filter(move |(_, topic)| confirmed(topic)).map(move |(index, topic)| slot(index, topic))
    }

    pub(super) fn subscribe(
        &mut self,
        tenant: &Tenant,
        topic: Topic,
        connection: ConnectionId,
        op: OpId,
    ) -> Subscribing {
        let Some(index) = self.find(tenant, &topic) else {
            return Subscribing::First(self.insert(tenant.clone(), topic, connection, op));
        };
        let found = &mut self.places[index as usize];
        match &mut found.confirmation {
            Confirmation::Awaited(waiting) => {
                waiting.push((connection, op));
                Subscribing::Waits
            }
            Confirmation::Given => {
                found.subscribers.push(connection.index);
                self.subscriptions += 1;
                Subscribing::Done
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, tenant: &Tenant, topic: &Topic, connection: ConnectionId) -> Unsubscribing {
        let Some(index) = self.find(tenant, topic) else { return Unsubscribing::Done };
        let found = &mut self.places[index as usize];
        let nobody = match &mut found.confirmation {
            Confirmation::Awaited(waiting) => {
                waiting.retain(|(other, _)| *other != connection);
                waiting.is_empty()
            }
            Confirmation::Given => {
                if let Some(at) = found.subscribers.iter().position(|other| *other == connection.index) {
                    found.subscribers.swap_remove(at);
                    self.subscriptions -= 1;
                }
                found.subscribers.is_empty()
            }
        };
        if !nobody {
            return Unsubscribing::Done;
        }
        let slot = SlotId { index, generation: found.generation };
        let removed = self.remove(index);
        Unsubscribing::Last { slot, tenant: removed.tenant, topic: removed.topic }
    }

    /// The hub has confirmed a topic: everyone who waits is subscribed, and returned for the completion.
    pub(super) fn confirm(&mut self, slot: SlotId) -> Vec<(ConnectionId, OpId)> {
        let Some(topic) = self.get_mut(slot) else { return Vec::new() };
        match std::mem::replace(&mut topic.confirmation, Confirmation::Given) {
            Confirmation::Awaited(waiting) => {
                topic.subscribers.extend(waiting.iter().map(|(connection, _)| connection.index));
                self.subscriptions += waiting.len();
                waiting
            }
            Confirmation::Given => Vec::new(),
        }
    }

    /// The hub has refused a topic, or ended it: it is gone, and those whom it concerns are returned, to be told.
    pub(super) fn refuse(&mut self, slot: SlotId) -> Option<Ended> {
        self.get_mut(slot)?;
        let ShardTopic { topic, confirmation, subscribers, .. } = self.remove(slot.index);
        self.subscriptions -= subscribers.len();
        let waiting = match confirmation {
            Confirmation::Awaited(waiting) => waiting,
            Confirmation::Given => Vec::new(),
        };
        Some(Ended { topic, waiting, subscribers })
    }

    fn find(&self, tenant: &Tenant, topic: &Topic) -> Option<u32> {
        let same = |index: &u32| {
            let other = &self.places[*index as usize];
            other.topic == *topic && other.tenant == *tenant
        };
        self.by_name.find(hash(&self.hasher, tenant, topic), same).copied()
    }

    fn insert(&mut self, tenant: Tenant, topic: Topic, connection: ConnectionId, op: OpId) -> SlotId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let hash_of_new = hash(&self.hasher, &tenant, &topic);
        let index = self.places.insert(ShardTopic {
            tenant,
            topic,
            generation,
            confirmation: Confirmation::Awaited(vec![(connection, op)]),
            subscribers: SmallVec::new(),
            pending: SmallVec::new(),
        });
        let index = u32::try_from(index).expect("the limit on channels is below 2^32");
        let (places, hasher) = (&self.places, &self.hasher);
        self.by_name.insert_unique(hash_of_new, index, |index| {
            let other = &places[*index as usize];
            hash(hasher, &other.tenant, &other.topic)
        });
        SlotId { index, generation }
    }

    fn remove(&mut self, index: u32) -> ShardTopic {
        let topic = self.places.remove(index as usize);
        let hash = hash(&self.hasher, &topic.tenant, &topic.topic);
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        topic
    }
}

fn hash(hasher: &RandomState, tenant: &Tenant, topic: &Topic) -> u64 {
    hasher.hash_one((tenant.as_str(), topic.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(index: u32) -> ConnectionId {
        ConnectionId { index, generation: 7 }
    }

    fn names() -> (Tenant, Topic) {
        (Tenant::default(), Topic::parse("project:1").unwrap())
    }

    #[test]
    fn only_the_first_and_the_last_concern_the_hub() {
        let mut topics = ShardTopics::default();
        let (tenant, topic) = names();
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), connection(0), OpId(1)) else {
            panic!("the first asks the hub");
        };
        assert_eq!(topics.subscribe(&tenant, topic.clone(), connection(1), OpId(2)), Subscribing::Waits);
        assert_eq!(topics.confirm(slot), [(connection(0), OpId(1)), (connection(1), OpId(2))]);
        assert_eq!(topics.subscribe(&tenant, topic.clone(), connection(2), OpId(3)), Subscribing::Done);
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
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), connection(0), OpId(1)) else {
            panic!("the first asks the hub");
        };
        topics.subscribe(&tenant, topic.clone(), connection(1), OpId(2));
        topics.unsubscribe(&tenant, &topic, connection(0));
        assert_eq!(topics.confirm(slot), [(connection(1), OpId(2))]);
    }

    #[test]
    fn a_refused_topic_is_gone_and_asked_for_anew() {
        let mut topics = ShardTopics::default();
        let (tenant, topic) = names();
        let Subscribing::First(slot) = topics.subscribe(&tenant, topic.clone(), connection(0), OpId(1)) else {
            panic!("the first asks the hub");
        };
        assert_eq!(topics.refuse(slot).unwrap().waiting, [(connection(0), OpId(1))]);
        let Subscribing::First(again) = topics.subscribe(&tenant, topic, connection(0), OpId(2)) else {
            panic!("the hub is asked anew");
        };
        assert_ne!(again, slot);
        assert!(topics.confirm(slot).is_empty());
        assert!(topics.refuse(slot).is_none());
        topics.confirm(again);
        assert_eq!(topics.subscriptions(), 1);
        assert_eq!(topics.refuse(again).unwrap().subscribers.as_slice(), [0]);
        assert_eq!(topics.subscriptions(), 0);
    }
}
