//! On which channels an incarnation may have rows.

use std::collections::{BTreeMap, HashMap};

use crate::Place;

/// Numbered in the order in which they came, so that a cursor skips nothing whatever is taken out.
#[derive(Debug, Default)]
pub(super) struct Notes {
    numbers: HashMap<Place, u64>,
    places: BTreeMap<u64, Place>,
    last: u64,
}

impl Notes {
    pub(super) fn add(&mut self, place: &Place) {
        if !self.numbers.contains_key(place) {
            self.last += 1;
            self.numbers.insert(place.clone(), self.last);
            self.places.insert(self.last, place.clone());
        }
    }

    pub(super) fn remove(&mut self, place: &Place) {
        if let Some(number) = self.numbers.remove(place) {
            self.places.remove(&number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn page(&self, cursor: Option<u64>, limit: usize) -> (Vec<Place>, Option<u64>) {
        let mut behind = self.places.range(cursor.map_or(0, |cursor| cursor + 1)..);
        let page: Vec<_> = behind.by_ref().take(limit.max(1)).collect();
        let next = behind.next().and_then(|_| page.last().map(|(number, _)| **number));
        (page.into_iter().map(|(_, place)| place.clone()).collect(), next)
    }
}
