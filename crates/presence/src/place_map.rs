//! What is known of channels, by channel.

use ahash::RandomState;
use hashbrown::HashTable;

use crate::Place;

/// Each channel's entry is in memory of its own, with its name: a table of entries themselves has room for up to twice as
/// many as there are, all the time, and at a moment of its growth for three times.
#[derive(Debug)]
pub struct PlaceMap<V> {
    entries: HashTable<Box<Entry<V>>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry<V> {
    place: Place,
    value: V,
}

impl<V> PlaceMap<V> {
    /// How many channels.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a channel is there.
    pub fn contains_key(&self, place: &Place) -> bool {
        self.get(place).is_some()
    }

    /// A channel's entry.
    pub fn get(&self, place: &Place) -> Option<&V> {
        self.entries.find(self.hash(place), |entry| entry.place == *place).map(|entry| &entry.value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, place: &Place) -> Option<&mut V> {
        let hash = self.hash(place);
        self.entries.find_mut(hash, |entry| entry.place == *place).map(|entry| &mut entry.value)
    }

    /// A channel's entry; one that is made where there was none.
    pub fn get_or_insert_with(&mut self, place: &Place, make: impl FnOnce() -> V) -> &mut V {
        let hash = self.hash(place);
        let hasher = &self.hasher;
        let entry = self.entries.entry(hash, |entry| entry.place == *place, |entry| hasher.hash_one(&entry.place));
        let entry = entry.or_insert_with(|| Box::new(Entry { place: place.clone(), value: make() }));
        &mut entry.into_mut().value
    }

    /// Takes a channel's entry out.
    pub fn remove(&mut self, place: &Place) -> Option<V> {
        let hash = self.hash(place);
        let found = self.entries.find_entry(hash, |entry| entry.place == *place).ok()?;
        let (entry, _) = found.remove();
        // A table keeps its memory otherwise.
        if self.entries.capacity() / 4 > self.entries.len() {
            let hasher = &self.hasher;
            self.entries.shrink_to(self.entries.len() * 2, |entry| hasher.hash_one(&entry.place));
        }
        Some(entry.value)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Place, &V)> {
        self.entries.iter().map(|entry| (&entry.place, &entry.value))
    }

    /// All, to be changed, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Place, &mut V)> {
        self.entries.iter_mut().map(|entry| (&entry.place, &mut entry.value))
    }

    /// All channels, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Place> {
        self.iter().map(|(place, _)| place)
    }

    /// All entries, to be changed, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    fn hash(&self, place: &Place) -> u64 {
        self.hasher.hash_one(place)
    }
}

impl<V> Default for PlaceMap<V> {
    fn default() -> Self {
        Self { entries: HashTable::new(), hasher: RandomState::new() }
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Channel, Tenant};

    use super::*;

    fn place(number: usize) -> Place {
        Place { tenant: Tenant::default(), channel: Channel::parse(&format!("crew:{number}")).unwrap() }
    }

    #[test]
    fn a_channel_is_there_once_and_gives_its_memory_back() {
        let mut map = PlaceMap::default();
        for number in (0..1_000).chain(0..1_000) {
            *map.get_or_insert_with(&place(number), || number) += 1;
        }
        assert_eq!(map.len(), 1_000);
        assert!(map.iter().all(|(name, number)| *name == place(*number - 2)));
        assert_eq!(map.remove(&place(7)), Some(9));
        assert_eq!((map.remove(&place(7)), map.contains_key(&place(7))), (None, false));
        for number in 0..995 {
            map.remove(&place(number));
        }
        assert_eq!(map.get_mut(&place(0)), None);
        assert_eq!((map.len(), map.get(&place(999))), (5, Some(&1_001)));
        assert!(map.entries.capacity() < 50, "{}", map.entries.capacity());
    }
}
