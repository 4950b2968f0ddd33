//! The order in which events are told. Pure.

use std::collections::{HashMap, VecDeque};

/// Of each lane one is being told; those behind it wait for it.
#[derive(Debug)]
pub(super) struct Lanes<E> {
    /// What waits, by lanes of which one is being told.
    busy: HashMap<u128, VecDeque<E>>,
    waiting: usize,
}

impl<E> Lanes<E> {
    pub(super) fn new() -> Self {
        Self { busy: HashMap::new(), waiting: 0 }
    }

    /// How many are being told.
    pub(super) fn busy(&self) -> usize {
        self.busy.len()
    }

    /// How many wait for another of their lane.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes an event: hands it back to be told now, or keeps it until its turn.
    pub(super) fn enter(&mut self, lane: u128, event: E) -> Option<E> {
        if let Some(queue) = self.busy.get_mut(&lane) {
            queue.push_back(event);
            self.waiting += 1;
            return None;
        }
        self.busy.insert(lane, VecDeque::new());
        Some(event)
    }

    /// The one of this lane was told: gives the next.
    pub(super) fn leave(&mut self, lane: u128) -> Option<E> {
        let next = self.busy.get_mut(&lane).and_then(VecDeque::pop_front);
        match &next {
            Some(_) => self.waiting -= 1,
            None => _ = self.busy.remove(&lane),
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_told_in_its_order_and_holds_up_no_other() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.enter(1, "a1"), Some("a1"));
        assert_eq!((lanes.enter(1, "a2"), lanes.enter(1, "a3")), (None, None));
        assert_eq!(lanes.enter(2, "b1"), Some("b1"));
        assert_eq!((lanes.busy(), lanes.waiting()), (2, 2));
        assert_eq!(lanes.leave(1), Some("a2"));
        assert_eq!(lanes.leave(2), None);
        assert_eq!(lanes.enter(2, "b2"), Some("b2"));
        assert_eq!(lanes.leave(1), Some("a3"));
        assert_eq!(lanes.leave(1), None);
        assert_eq!((lanes.busy(), lanes.waiting()), (1, 0));
        assert_eq!(lanes.leave(2), None);
        assert!(lanes.busy.is_empty());
    }
}
