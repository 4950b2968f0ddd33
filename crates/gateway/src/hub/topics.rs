//! The hub's table of topics: which shards have subscribers, and how the broker's interest stands.

use std::time::Instant;

use ahash::RandomState;
use fanfare_broker::InterestId;
use fanfare_protocol::{Channel, Tenant, Topic};
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::{
    history::Timekeeper,
    message::{ShardId, SlotId},
};

/// One topic of one tenant on this node.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) tenant: Tenant,
    pub(super) topic: Topic,
    pub(super) interest: InterestState,
    /// Where the subscribers are, one entry per shard.
    pub(super) subscribers: SmallVec<[(ShardId, SlotId); 1]>,
    /// A channel with history, from the broker's confirmation on.
    pub(super) timeline: Option<Box<Timekeeper>>,
    /// Why publications may be missing, from an interruption of this interest alone until it is over.
    pub(super) interrupted: Option<&'static str>,
    /// When the interest ends, where nobody is subscribed.
    pub(super) lingers_until: Option<Instant>,
    /// It stands in the hub's line of interests that linger, where each stands at most once.
    pub(super) in_line: bool,
    generation: u32,
}

/// How the broker's interest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InterestState {
    /// Being added.
    Adding,
    /// Confirmed by the broker. The number says in which order interests were confirmed; it is 0 for a channel with history,
    /// which leads patterns whenever it was confirmed, since only it can be repaired.
    Held(u64),
}

/// Topics by place and by name. A place and its generation make the [`InterestId`], so that a publication finds its
/// topic without hashing its name.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    places: slab::Slab<TopicState>,
    by_name: HashTable<u32>,
    /// Topics that are patterns, by tenant and namespace, which in a pattern is always literal. Nearly always few.
    patterns: HashMap<Tenant, HashMap<Box<str>, Vec<u32>, RandomState>, RandomState>,
    hasher: RandomState,
    next_generation: u32,
}

impl TopicTable {
    /// A table whose look-ups cost the same in every run.
    pub(super) fn with_hasher(hasher: RandomState) -> Self {
        Self { hasher, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, id: InterestId) -> Option<&TopicState> {
        let (index, generation) = split(id);
        self.places.get(index).filter(|state| state.generation == generation)
    }

    pub(super) fn get_mut(&mut self, id: InterestId) -> Option<&mut TopicState> {
        let (index, generation) = split(id);
        self.places.get_mut(index).filter(|state| state.generation == generation)
    }

    pub(super) fn find(&self, tenant: &str, topic: &str) -> Option<InterestId> {
        let hash = self.hasher.hash_one((tenant, topic));
        let same = |index: &u32| {
            let state = &self.places[*index as usize];
            state.topic.as_str() == topic && state.tenant.as_str() == tenant
        };
        self.by_name.find(hash, same).map(|index| self.id(*index))
    }

    /// Adds a topic that is not there.
    pub(super) fn insert(&mut self, tenant: Tenant, topic: Topic) -> InterestId {
        let hash = self.hasher.hash_one((tenant.as_str(), topic.as_str()));
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        let namespace = topic.is_pattern().then(|| Box::from(topic.namespace()));
        let state = TopicState {
            tenant: tenant.clone(),
            topic,
            interest: InterestState::Adding,
            subscribers: SmallVec::new(),
            timeline: None,
            interrupted: None,
            lingers_until: None,
            in_line: false,
            generation,
        };
        let index = u32::try_from(self.places.insert(state)).expect("the limit on channels is below 2^32");
        let (places, hasher) = (&self.places, &self.hasher);
        self.by_name.insert_unique(hash, index, |index| hash_of(hasher, &places[*index as usize]));
        if let Some(namespace) = namespace {
            self.patterns.entry(tenant).or_default().entry(namespace).or_default().push(index);
        }
        self.id(index)
    }

    pub(super) fn remove(&mut self, id: InterestId) -> Option<TopicState> {
        self.get(id)?;
        let (index, _) = split(id);
        let state = self.places.remove(index);
        let hash = hash_of(&self.hasher, &state);
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other as usize == index) {
            entry.remove();
        }
        if state.topic.is_pattern() {
            self.remove_pattern(&state, index);
        }
        Some(state)
    }

    fn remove_pattern(&mut self, state: &TopicState, index: usize) {
        let Some(namespaces) = self.patterns.get_mut(state.tenant.as_str()) else { return };
        let Some(patterns) = namespaces.get_mut(state.topic.namespace()) else { return };
        patterns.retain(|other| *other as usize != index);
        if patterns.is_empty() {
            namespaces.remove(state.topic.namespace());
        }
        if namespaces.is_empty() {
            self.patterns.remove(state.tenant.as_str());
        }
    }

    /// How many patterns a tenant has in a namespace. Where there are any, a publication may belong to several topics.
    pub(super) fn patterns(&self, tenant: &Tenant, namespace: &str) -> usize {
        self.patterns_in(tenant, namespace).len()
    }

    fn patterns_in(&self, tenant: &Tenant, namespace: &str) -> &[u32] {
        if self.patterns.is_empty() {
            return &[];
        }
        self.patterns.get(tenant.as_str()).and_then(|namespaces| namespaces.get(namespace)).map_or(&[], Vec::as_slice)
    }

    /// Every topic with a held interest that a channel belongs to, the one that was confirmed first in front. The broker
    /// sends a copy by each of them; the node takes the first topic's.
    pub(super) fn matching(&self, tenant: &Tenant, channel: &Channel) -> SmallVec<[InterestId; 4]> {
        let exact = self.find(tenant.as_str(), channel.as_str());
        let patterns = self.patterns_in(tenant, channel.namespace()).iter();
        let patterns = patterns
            .filter(|index| self.places[**index as usize].topic.matches(channel.as_str()))
            .map(|index| self.id(*index));
        let mut held: SmallVec<[(u64, InterestId); 4]> = exact
            .into_iter()
            .chain(patterns)
            .filter_map(|id| match self.get(id)?.interest {
                InterestState::Held(order) => Some((order, id)),
                InterestState::Adding => None,
            })
            .collect();
        held.sort_unstable();
        held.into_iter().map(|(_, id)| id).collect()
    }

    /// The topic, and all of its tenant that may have publications in common with it: those that it may have led. Goes
    /// through all topics where the tenant has patterns; for interruptions only.
    pub(super) fn overlapping(&self, id: InterestId) -> Vec<InterestId> {
        let Some(state) = self.get(id) else { return Vec::new() };
        if self.patterns(&state.tenant, state.topic.namespace()) == 0 {
            return vec![id];
        }
        let overlaps = |other: &TopicState| other.tenant == state.tenant && overlap(&other.topic, &state.topic);
        let found = self.places.iter().filter(|(_, other)| overlaps(other));
        found.map(|(index, _)| self.id(index as u32)).collect()
    }

    /// Topics with subscribers that this one leads: they have publications in common, and its interest was confirmed
    /// first. For a channel that is a look at patterns; for a pattern at all topics.
    pub(super) fn led_by(&self, id: InterestId) -> Vec<InterestId> {
        let Some(state) = self.get(id) else { return Vec::new() };
        let InterestState::Held(own) = state.interest else { return Vec::new() };
        let is_led = |other: &InterestId| {
            let other = self.get(*other).filter(|other| !other.subscribers.is_empty());
            other.is_some_and(|other| matches!(other.interest, InterestState::Held(order) if order > own))
        };
        match &state.topic {
            Topic::Channel(channel) => self.matching(&state.tenant, channel).into_iter().filter(is_led).collect(),
            Topic::Pattern(_) => self.overlapping(id).into_iter().filter(is_led).collect(),
        }
    }

    /// Channels with history that are followed. Goes through all topics; for interruptions only.
    pub(super) fn with_timeline(&self) -> Vec<InterestId> {
        let followed = self.places.iter().filter(|(_, state)| state.timeline.is_some());
        followed.map(|(index, _)| self.id(index as u32)).collect()
    }

    fn id(&self, index: u32) -> InterestId {
        InterestId(u64::from(self.places[index as usize].generation) << 32 | u64::from(index))
    }
}

/// Whether a channel may belong to both. Of two patterns in one namespace it is taken for granted.
fn overlap(a: &Topic, b: &Topic) -> bool {
    match (a, b) {
        (Topic::Channel(a), Topic::Channel(b)) => a == b,
        (Topic::Channel(channel), pattern @ Topic::Pattern(_))
        | (pattern @ Topic::Pattern(_), Topic::Channel(channel)) => pattern.matches(channel.as_str()),
        (Topic::Pattern(_), Topic::Pattern(_)) => a.namespace() == b.namespace(),
    }
}

fn split(id: InterestId) -> (usize, u32) {
    ((id.0 & u64::from(u32::MAX)) as usize, (id.0 >> 32) as u32)
}

fn hash_of(hasher: &RandomState, state: &TopicState) -> u64 {
    hasher.hash_one((state.tenant.as_str(), state.topic.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut TopicTable, tenant: &str, topic: &str) -> InterestId {
        table.insert(Tenant::parse(tenant).unwrap(), Topic::parse(topic).unwrap())
    }

    #[test]
    fn tenants_do_not_share_a_topic() {
        let mut table = TopicTable::default();
        let a = insert(&mut table, "a", "project:1");
        let b = insert(&mut table, "b", "project:1");
        assert_ne!(a, b);
        assert_eq!(table.find("a", "project:1"), Some(a));
        assert_eq!(table.find("b", "project:1"), Some(b));
        assert_eq!(table.find("c", "project:1"), None);
    }

    #[test]
    fn an_id_is_dead_once_its_topic_is_gone_even_if_the_place_is_used_again() {
        let mut table = TopicTable::default();
        let first = insert(&mut table, "a", "project:1");
        assert!(table.remove(first).is_some());
        let second = insert(&mut table, "a", "project:2");
        assert!(table.get(first).is_none());
        assert!(table.remove(first).is_none());
        assert_eq!(table.get(second).unwrap().topic.as_str(), "project:2");
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn of_overlapping_topics_the_one_confirmed_first_leads() {
        let mut table = TopicTable::default();
        let exact = insert(&mut table, "a", "project:1");
        let star = insert(&mut table, "a", "project:*");
        let rest = insert(&mut table, "a", "project:**");
        insert(&mut table, "b", "project:*");
        table.get_mut(star).unwrap().interest = InterestState::Held(1);
        table.get_mut(exact).unwrap().interest = InterestState::Held(2);
        let tenant = Tenant::parse("a").unwrap();
        let channel = Channel::parse("project:1").unwrap();
        assert_eq!(table.matching(&tenant, &channel).as_slice(), [star, exact]);
        table.get_mut(rest).unwrap().interest = InterestState::Held(3);
        table.remove(star);
        assert_eq!(table.matching(&tenant, &channel).as_slice(), [exact, rest]);
        assert_eq!(table.patterns(&tenant, "project"), 1);
        assert_eq!(table.patterns(&tenant, "other"), 0);
        table.remove(rest);
        assert_eq!(table.patterns(&tenant, "project"), 0);
        assert!(!table.patterns.contains_key("a"));
    }

    #[test]
    fn a_topic_leads_those_with_subscribers_that_were_confirmed_later() {
        let mut table = TopicTable::default();
        let subscribed = (ShardId(0), SlotId { index: 0, generation: 0 });
        let mut held = |topic: &str, order| {
            let id = insert(&mut table, "a", topic);
            table.get_mut(id).unwrap().interest = InterestState::Held(order);
            table.get_mut(id).unwrap().subscribers.push(subscribed);
            id
        };
        let (first, star, second) = (held("project:1", 1), held("project:*", 2), held("project:2", 3));
        assert_eq!(table.led_by(first), [star]);
        assert_eq!(table.led_by(star), [second]);
        assert_eq!(table.led_by(second), []);
        table.get_mut(star).unwrap().subscribers.clear();
        assert_eq!(table.led_by(first), []);
    }

    #[test]
    fn what_an_interest_may_have_led_overlaps_with_it() {
        let mut table = TopicTable::default();
        let one = insert(&mut table, "a", "project:1");
        let two = insert(&mut table, "a", "project:2");
        assert_eq!(table.overlapping(one), [one]);
        let star = insert(&mut table, "a", "project:*");
        insert(&mut table, "a", "board:*");
        insert(&mut table, "b", "project:*");
        assert_eq!(table.overlapping(one), [one, star]);
        assert_eq!(table.overlapping(star), [one, two, star]);
    }
}
