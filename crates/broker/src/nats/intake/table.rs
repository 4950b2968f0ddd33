//! Which interest a subscription is of.
//!
//! An interest has one place, whatever it is subscribed to. Its names are shared with the hub, and what to subscribe to is
//! made of them when it is needed. A subscription's number holds the place, how often that was used before (what comes late
//! for a former interest must not reach the next one), and which of the interest's subscriptions it is.

use std::sync::Arc;

use ahash::RandomState;
use fanfare_protocol::NatsSubjects;
use hashbrown::HashTable;

use super::wire::Message;
use crate::{
    Interest, InterestId,
    nats::stream::{Stream, Streams},
};

/// Interests that one node can hold.
pub(super) const MAX_INTERESTS: usize = 1 << PLACE_BITS;

const PLACE_BITS: u32 = 24;

/// The table grows by a quarter, at least by so many places: doubling would waste half of it.
const GROWTH: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Place {
    held: Option<Held>,
    /// How often it was used before.
    generation: u32,
}

/// An interest and how its publications come.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) interest: Interest,
    /// Where the namespace has history.
    pub(super) recorded: Option<Recorded>,
}

/// What an interest with history needs.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) stream: Arc<Stream>,
    /// The sequence that came last.
    pub(super) last: u64,
    /// The numbering of what may be on its way. When the stream is found to be another, messages of both may be, which
    /// nothing but the server's time tells apart, if the server sends it.
    pub(super) numbering: u32,
    /// Whether there is a second subscription, for what is live only.
    signals: bool,
}

/// By which way publications come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As they are published.
    Published,
    /// As the stream republishes them: the namespace has history.
    Recorded,
    /// Past the stream: what is live only in a namespace with history.
    Signals,
}

/// One subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Its number.
    pub(super) sid: u64,
    pub(super) way: Way,
}

impl Held {
    /// What a new interest will need.
    pub(super) fn new(interest: Interest, streams: Option<&Streams>, has_signals: impl Fn(&str) -> bool) -> Self {
        let stream = streams.and_then(|streams| streams.of_topic(&interest.topic));
        let recorded = stream.map(|stream| Recorded {
            stream: Arc::clone(stream),
            last: 0,
            numbering: stream.numbering(),
            signals: has_signals(interest.topic.namespace()),
        });
        Self { interest, recorded }
    }

    /// Whether its stream is found to be another than the one of which messages may be on their way. None of them is
    /// delivered.
    pub(super) fn is_renumbered(&self) -> bool {
        self.recorded.as_ref().is_some_and(|recorded| recorded.numbering != recorded.stream.numbering())
    }

    /// Nothing is on its way any more that is of another numbering.
    pub(super) fn renew(&mut self) {
        if let Some(recorded) = &mut self.recorded {
            recorded.numbering = recorded.stream.numbering();
            recorded.last = 0;
        }
    }
}

impl Way {
    /// What has to be subscribed to.
    pub(super) fn subject(self, subjects: &NatsSubjects, Interest { tenant, topic, .. }: &Interest) -> String {
        match self {
            Self::Published => subjects.interest(tenant, topic),
            Self::Recorded => subjects.live_interest(tenant, topic),
            Self::Signals => subjects.signal_interest(tenant, topic),
        }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes an interest and says what to subscribe to. `false` where there is no place, or it is held already.
    pub(super) fn insert(&mut self, held: Held) -> bool {
        let id = held.interest.id;
        if self.place_of(id).is_some() || self.len() >= MAX_INTERESTS {
            return false;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            if self.places.len() == self.places.capacity() {
                self.places.reserve_exact((self.places.len() / 4).max(GROWTH));
            }
            self.places.push(Place { held: None, generation: 0 });
            (self.places.len() - 1) as u32
        });
        self.places[place as usize].held = Some(held);
        let (places, hasher) = (&self.places, &self.hasher);
        let rehash = |place: &u32| hasher.hash_one(id_at(places, *place));
        self.by_id.insert_unique(hasher.hash_one(Some(id)), place, rehash);
        true
    }

    /// Gives an interest up, and says which subscriptions have to end.
    pub(super) fn remove(&mut self, id: InterestId) -> Option<impl Iterator<Item = Subscription> + use<>> {
        let place = self.place_of(id)?;
        let subscriptions = self.subscriptions_at(place);
        let places = &self.places;
        if let Ok(entry) =
            self.by_id.find_entry(self.hasher.hash_one(Some(id)), |other| id_at(places, *other) == Some(id))
        {
            entry.remove();
        }
        let freed = &mut self.places[place as usize];
        freed.held = None;
        // A place whose generations are used up is never used again.
        if let Some(generation) = freed.generation.checked_add(1) {
            freed.generation = generation;
            self.free.push(place);
        }
        Some(subscriptions)
    }

    pub(super) fn get(&self, id: InterestId) -> Option<&Held> {
        self.places[self.place_of(id)? as usize].held.as_ref()
    }

    /// What an interest is subscribed to.
    pub(super) fn subscriptions(&self, id: InterestId) -> impl Iterator<Item = Subscription> + use<> {
        self.place_of(id).map(|place| self.subscriptions_at(place)).into_iter().flatten()
    }

    /// Whose message it is, and by which way it came; `None` where that interest was given up.
    pub(super) fn of_message(&mut self, message: &Message) -> Option<(&mut Held, Way)> {
        let place = self.places.get_mut((message.sid >> 1) as usize & (MAX_INTERESTS - 1))?;
        if message.sid >> (PLACE_BITS + 1) != u64::from(place.generation) {
            return None;
        }
        let held = place.held.as_mut()?;
        let way = match (&held.recorded, message.sid & 1) {
            (None, 0) => Way::Published,
            (Some(_), 0) => Way::Recorded,
            (Some(recorded), _) if recorded.signals => Way::Signals,
            _ => return None,
        };
        Some((held, way))
    }

    /// All interests, with what they are subscribed to.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Held, impl Iterator<Item = Subscription> + use<>)> {
        let held = self.places.iter().enumerate().filter_map(|(place, at)| Some((place as u32, at.held.as_ref()?)));
        held.map(|(place, held)| (held, self.subscriptions_at(place)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.places.iter_mut().filter_map(|place| place.held.as_mut())
    }

    fn place_of(&self, id: InterestId) -> Option<u32> {
        let is_it = |place: &u32| id_at(&self.places, *place) == Some(id);
        self.by_id.find(self.hasher.hash_one(Some(id)), is_it).copied()
    }

    fn subscriptions_at(&self, place: u32) -> impl Iterator<Item = Subscription> + use<> {
        let Place { held, generation } = &self.places[place as usize];
        let first = (u64::from(*generation) << PLACE_BITS | u64::from(place)) << 1;
        let recorded = held.as_ref().and_then(|held| held.recorded.as_ref());
        let way = if recorded.is_some() { Way::Recorded } else { Way::Published };
        let second = recorded.is_some_and(|recorded| recorded.signals);
        let second = second.then_some(Subscription { sid: first | 1, way: Way::Signals });
        [Subscription { sid: first, way }].into_iter().chain(second)
    }
}

fn id_at(places: &[Place], place: u32) -> Option<InterestId> {
    places[place as usize].held.as_ref().map(|held| held.interest.id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::BytesMut;
    use fanfare_protocol::{Tenant, Topic};

    use super::*;
    use crate::{
        HistoryOptions, Retention,
        nats::intake::wire::{Operation, Parser},
    };

    fn interest(id: u64, topic: &str) -> Interest {
        Interest { id: InterestId(id), tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse(topic).unwrap() }
    }

    fn plain(id: u64) -> Held {
        Held::new(interest(id, "a:b"), None, |_| true)
    }

    fn message(sid: u64) -> Message {
        let mut buffer = BytesMut::from(&*format!("MSG a {sid} 0\r\n\r\n"));
        match Parser::new().next(&mut buffer) {
            Ok(Some(Operation::Message(message))) => message,
            other => panic!("{other:?}"),
        }
    }

    fn owner(table: &mut Table, sid: u64) -> Option<(u64, Way)> {
        table.of_message(&message(sid)).map(|(held, way)| (held.interest.id.0, way))
    }

    fn sids(table: &Table, id: u64) -> Vec<u64> {
        table.subscriptions(InterestId(id)).map(|subscription| subscription.sid).collect()
    }

    #[test]
    fn what_comes_late_reaches_no_other() {
        let mut table = Table::default();
        assert!(table.insert(plain(1)) && table.insert(plain(2)) && !table.insert(plain(2)));
        let (one, two) = (sids(&table, 1)[0], sids(&table, 2)[0]);
        assert_eq!(owner(&mut table, one), Some((1, Way::Published)));
        assert_eq!(owner(&mut table, one | 1), None, "it has no second subscription");
        let removed: Vec<u64> = table.remove(InterestId(1)).unwrap().map(|subscription| subscription.sid).collect();
        assert_eq!(removed, [one]);
        assert!(table.remove(InterestId(1)).is_none() && sids(&table, 1).is_empty());
        assert!(table.insert(plain(3)));
        let three = sids(&table, 3)[0];
        assert_ne!(three, one);
        assert_eq!((owner(&mut table, one), owner(&mut table, three)), (None, Some((3, Way::Published))));
        assert_eq!(owner(&mut table, two), Some((2, Way::Published)));
        assert_eq!((table.len(), table.places.len()), (2, 2));
        for sid in [u64::MAX, 1 << 40, 1 << 20] {
            assert_eq!(owner(&mut table, sid), None);
        }
    }

    #[test]
    fn history_and_signals_are_two_subscriptions_of_one_interest() {
        let namespaces = ["log", "quiet"]
            .map(|namespace| (namespace.into(), Retention { size: 10, ttl: std::time::Duration::from_secs(60) }));
        let options = HistoryOptions { namespaces: HashMap::from(namespaces), ..HistoryOptions::default() };
        let subjects = NatsSubjects::new("rt").unwrap();
        let streams = Streams::new(&subjects, &options, false);
        let mut table = Table::default();
        for (id, topic) in [(1, "log:**"), (2, "quiet:a"), (3, "live:a")] {
            assert!(table.insert(Held::new(interest(id, topic), Some(&streams), |namespace| namespace == "log")));
        }
        let mut all = Vec::new();
        for (held, subscriptions) in table.iter() {
            all.extend(subscriptions.map(|one| (held.interest.id.0, one.way.subject(&subjects, &held.interest))));
        }
        let expected = [
            (1, "rt.live.acme.log.>"),
            (1, "rt.sig.acme.log.>"),
            (2, "rt.live.acme.quiet.a"),
            (3, "rt.pub.acme.live.a"),
        ];
        assert_eq!(all, expected.map(|(id, subject)| (id, subject.to_owned())));
        let ways: Vec<_> = sids(&table, 1).into_iter().filter_map(|sid| owner(&mut table, sid)).collect();
        assert_eq!(ways, [(1, Way::Recorded), (1, Way::Signals)]);
        let second = sids(&table, 2)[0] | 1;
        assert_eq!(owner(&mut table, second), None);
        assert_eq!(table.remove(InterestId(1)).unwrap().count(), 2);
    }

    #[test]
    fn an_interest_costs_little() {
        const INTERESTS: usize = 20_000;
        let mut table = Table::default();
        for id in 0..INTERESTS as u64 {
            assert!(table.insert(plain(id)));
        }
        let bytes = table.places.capacity() * size_of::<Place>() + table.by_id.allocation_size();
        println!("{} bytes per interest, of them {} in its place", bytes / INTERESTS, size_of::<Place>());
        assert!(bytes / INTERESTS <= 128, "{} bytes per interest", bytes / INTERESTS);
        for id in (0..INTERESTS as u64).rev() {
            assert!(table.remove(InterestId(id)).is_some());
        }
        assert_eq!((table.len(), table.iter().count()), (0, 0));
    }
}
