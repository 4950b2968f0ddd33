//! A map that nearly always holds one entry or a few, and may hold very many.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

/// Entries up to which it is a list.
const FEW: usize = 8;

/// In the order of its keys. A few entries take as much memory as they are, where a table or a tree would allocate for ten;
/// many are a tree.
#[derive(Debug)]
pub(crate) enum CompactMap<K, V> {
    /// Sorted.
    Few(Vec<(K, V)>),
    #[expect(clippy::box_collection, reason = "the map is in every channel's state, and this is rare")]
    Many(Box<BTreeMap<K, V>>),
}

/// Entries that are few, or else those that are many.
type Parts<'a, K, V> = (&'a [(K, V)], Option<&'a BTreeMap<K, V>>);

impl<K: Ord, V> CompactMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub(crate) fn get_key_value(&self, key: &K) -> Option<(&K, &V)> {
        match self {
            Self::Few(few) => place(few, key).ok().map(|place| (&few[place].0, &few[place].1)),
            Self::Many(many) => many.get_key_value(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Few(few) => place(few, key).ok().map(|place| &mut few[place].1),
            Self::Many(many) => many.get_mut(key),
        }
    }

    /// Gives the value that was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::Many(many) => many.insert(key, value),
            Self::Few(few) => {
                match place(few, &key) {
                    Ok(place) => return Some(std::mem::replace(&mut few[place].1, value)),
                    Err(place) if few.len() < FEW => {
                        // Vec's own first step is four.
                        if few.len() == few.capacity() {
                            few.reserve_exact((few.len() / 2).max(1));
                        }
                        few.insert(place, (key, value));
                    }
                    Err(_) => {
                        let mut many: BTreeMap<K, V> = std::mem::take(few).into_iter().collect();
                        many.insert(key, value);
                        *self = Self::Many(Box::new(many));
                    }
                }
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = match self {
            Self::Few(few) => place(few, key).ok().map(|place| few.remove(place).1),
            Self::Many(many) => many.remove(key),
        };
        self.give_back();
        removed
    }

    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&K, &mut V) -> bool) {
        match self {
            Self::Few(few) => few.retain_mut(|(key, value)| stays(key, value)),
            Self::Many(many) => many.retain(stays),
        }
        self.give_back();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V> {
        let (few, many) = self.parts();
        few.iter().map(|(key, value)| (key, value)).chain(many.into_iter().flatten())
    }

    /// Those behind `after`; all where that is `None`.
    pub(crate) fn behind(&self, after: Option<&K>) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V> {
        let (few, many) = self.parts();
        let begin = after.map_or(0, |after| few.partition_point(|(key, _)| key <= after));
        let bounds = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let many: Option<btree_map::Range<'_, K, V>> = many.map(|many| many.range(bounds));
        few[begin..].iter().map(|(key, value)| (key, value)).chain(many.into_iter().flatten())
    }

    pub(crate) fn into_entries(self) -> Vec<(K, V)> {
        match self {
            Self::Few(few) => few,
            Self::Many(many) => many.into_iter().collect(),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> + use<'_, K, V> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let (few, many) = match self {
            Self::Few(few) => (few.as_mut_slice(), None),
            Self::Many(many) => (Default::default(), Some(many)),
        };
        few.iter_mut().map(|(_, value)| value).chain(many.into_iter().flat_map(|many| many.values_mut()))
    }

    fn parts(&self) -> Parts<'_, K, V> {
        match self {
            Self::Few(few) => (few, None),
            Self::Many(many) => (&[], Some(many)),
        }
    }

    /// A tree becomes a list at half of what makes one, so that one that comes and goes does not turn it over each time.
    fn give_back(&mut self) {
        match self {
            Self::Many(many) if many.len() <= FEW / 2 => {
                *self = Self::Few(std::mem::take(&mut **many).into_iter().collect())
            }
            Self::Few(few) if few.len() <= few.capacity() / 4 => few.shrink_to_fit(),
            Self::Few(_) | Self::Many(_) => {}
        }
    }
}

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

fn place<K: Ord, V>(few: &[(K, V)], key: &K) -> Result<usize, usize> {
    few.binary_search_by(|(other, _)| other.cmp(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<CompactMap<u64, u64>>(), 24);
        let mut map = CompactMap::default();
        map.insert(1, 1);
        assert!(matches!(&map, CompactMap::Few(few) if few.capacity() == 1));
        map.remove(&1);
        assert!(matches!(&map, CompactMap::Few(few) if few.capacity() == 0));
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((any::<bool>(), 0u8..24), 0..200)) {
            let (mut map, mut model) = (CompactMap::default(), BTreeMap::new());
            for (number, (comes, key)) in steps.into_iter().enumerate() {
                if comes {
                    prop_assert_eq!(map.insert(key, number), model.insert(key, number));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!((map.get(&key), map.contains_key(&key)), (model.get(&key), model.contains_key(&key)));
                prop_assert_eq!(map.get_mut(&key), model.get_mut(&key));
                prop_assert!(map.iter().eq(model.iter()) && map.keys().eq(model.keys()) && map.values().eq(model.values()));
                prop_assert!(map.values_mut().eq(model.values_mut()));
                let behind = (Bound::Excluded(key), Bound::Unbounded);
                prop_assert!(map.behind(Some(&key)).eq(model.range(behind)) && map.behind(None).eq(model.iter()));
            }
            map.retain(|key, _| key % 3 == 0);
            model.retain(|key, _| key % 3 == 0);
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(map.into_entries().into_iter().eq(model));
        }
    }
}
