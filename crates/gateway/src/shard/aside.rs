//! What one connection gets that its topics' other subscribers do not: publications that it missed, and the newest of
//! those that it was too slow for.

use std::{collections::VecDeque, sync::Arc};

use ahash::RandomState;
use fanfare_protocol::Missed;
use hashbrown::HashMap;

use crate::{
    encoding::EncodedPublication,
    hub::message::SlotId,
    limits::{CONFLATED_BYTES, CONFLATED_KEYS},
};

/// See the module. Most connections have none.
#[derive(Debug, Default)]
pub(super) struct Aside {
    catching_up: Vec<CatchUp>,
    /// Of all that waits in `catching_up`.
    bytes: usize,
    conflated: Conflated,
}

/// A subscription whose client is given what it missed. What comes meanwhile waits behind it.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) slot: SlotId,
    items: VecDeque<Item>,
}

/// What waits for a client that catches up.
#[derive(Debug)]
pub(super) enum Item {
    Publication(Arc<EncodedPublication>),
    /// In a box, because a storm may have a million of the others.
    Gap(Box<(&'static str, Option<Missed>)>),
}

/// It has more to catch up with than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooFarBehind;

impl Aside {
    pub(super) fn is_empty(&self) -> bool {
        self.catching_up.is_empty() && self.conflated.newest.is_empty()
    }

    /// A subscription begins, with what its client gets first.
    pub(super) fn begin(&mut self, slot: SlotId, publications: impl IntoIterator<Item = Arc<EncodedPublication>>) {
        let mut catch_up = CatchUp { slot, items: VecDeque::new() };
        catch_up.items.extend(publications.into_iter().map(Item::Publication));
        self.bytes += catch_up.bytes();
        self.catching_up.push(catch_up);
    }

    /// Puts something behind what waits for a subscription; `Err` where more than `limit` bytes wait for the connection.
    pub(super) fn push(&mut self, slot: SlotId, item: Item, limit: usize) -> Result<(), TooFarBehind> {
        let Some(catch_up) = self.catching_up.iter_mut().find(|catch_up| catch_up.slot == slot) else { return Ok(()) };
        self.bytes += item.bytes();
        catch_up.items.push_back(item);
        if self.bytes > limit { Err(TooFarBehind) } else { Ok(()) }
    }

    /// The next thing of a subscription, and which subscription.
    pub(super) fn pop(&mut self) -> Option<(SlotId, Item)> {
        let catch_up = self.catching_up.iter_mut().find(|catch_up| !catch_up.items.is_empty())?;
        let item = catch_up.items.pop_front()?;
        self.bytes -= item.bytes();
        Some((catch_up.slot, item))
    }

    /// Takes a subscription out that has caught up.
    pub(super) fn take_caught_up(&mut self) -> Option<SlotId> {
        let at = self.catching_up.iter().position(|catch_up| catch_up.items.is_empty())?;
        Some(self.catching_up.swap_remove(at).slot)
    }

    /// A subscription has ended.
    pub(super) fn end(&mut self, slot: SlotId) {
        let bytes = &mut self.bytes;
        self.catching_up.retain(|catch_up| {
            if catch_up.slot == slot {
                *bytes -= catch_up.bytes();
            }
            catch_up.slot != slot
        });
        self.conflated.end(slot);
    }

    /// Bytes that wait for a client that catches up.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the client was too slow for.
    pub(super) fn conflated(&mut self) -> &mut Conflated {
        &mut self.conflated
    }
}

impl CatchUp {
    fn bytes(&self) -> usize {
        self.items.iter().map(Item::bytes).sum()
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Publication(publication) => publication.bytes(),
            Self::Gap(_) => 0,
        }
    }
}

/// A publication, and as the how manieth it came.
type Kept = (u64, Arc<EncodedPublication>);

/// The newest publication per topic and key of those that did not fit into an outbox.
#[derive(Debug, Default)]
pub(super) struct Conflated {
    newest: HashMap<(SlotId, Option<Box<str>>), Kept, RandomState>,
    /// Topics of which something is in it, and whether something of them was replaced, and so left out.
    slots: Vec<(SlotId, bool)>,
    bytes: usize,
    count: u64,
}

impl Conflated {
    /// Whether something of the topic waits: then all of it does.
    pub(super) fn holds(&self, slot: SlotId) -> bool {
        self.slots.iter().any(|(own, _)| *own == slot)
    }

    /// Keeps a publication in the place of the one before it with the same key. Says whether there was one; `Err` where
    /// there are more keys or bytes than may wait.
    pub(super) fn keep(&mut self, slot: SlotId, publication: Arc<EncodedPublication>) -> Result<bool, TooFarBehind> {
        if !self.holds(slot) {
            self.slots.push((slot, false));
        }
        self.count += 1;
        self.bytes += publication.bytes();
        let key = (slot, publication.key.clone());
        let replaced = self.newest.insert(key, (self.count, publication)).map(|(_, replaced)| replaced);
        if let Some(replaced) = &replaced {
            self.bytes -= replaced.bytes();
            self.slots.iter_mut().filter(|(own, _)| *own == slot).for_each(|(_, left_out)| *left_out = true);
        }
        let too_much = self.newest.len() > CONFLATED_KEYS || self.bytes > CONFLATED_BYTES;
        if too_much { Err(TooFarBehind) } else { Ok(replaced.is_some()) }
    }

    /// Takes the topics of which something was left out. To be followed by [`take`](Self::take).
    pub(super) fn take_slots(&mut self) -> Vec<SlotId> {
        std::mem::take(&mut self.slots).into_iter().filter(|(_, left_out)| *left_out).map(|(slot, _)| slot).collect()
    }

    /// Takes all, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<Arc<EncodedPublication>> {
        self.bytes = 0;
        let mut newest: Vec<_> = std::mem::take(&mut self.newest).into_values().collect();
        newest.sort_unstable_by_key(|(count, _)| *count);
        newest.into_iter().map(|(_, publication)| publication).collect()
    }

    fn end(&mut self, slot: SlotId) {
        self.slots.retain(|(own, _)| *own != slot);
        let bytes = &mut self.bytes;
        self.newest.retain(|(own, _), (_, publication)| {
            if *own == slot {
                *bytes -= publication.bytes();
            }
            *own != slot
        });
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Body, Delivery, Epoch, Position};

    use super::*;

    fn slot(index: u32) -> SlotId {
        SlotId { index, generation: 0 }
    }

    fn publication(offset: u64, key: &str) -> Arc<EncodedPublication> {
        let body = Body::new(format!(r#"{{"event":"e","data":1,"key":"{key}"}}"#).into_bytes());
        let envelope = body.envelope(1 << 20).unwrap();
        let position = Position { offset, epoch: Epoch::parse("e").unwrap() };
        let delivery = Delivery { envelope: &envelope, channel: "a:b", timestamp: 1, position: Some(&position) };
        Arc::new(EncodedPublication::new(&delivery))
    }

    fn offset(publication: &EncodedPublication) -> u64 {
        publication.position.as_ref().unwrap().offset
    }

    /// All that can be popped: topic, and offset or 0 for a gap.
    fn popped(aside: &mut Aside) -> Vec<(u32, u64)> {
        let place = |(slot, item): (SlotId, Item)| match item {
            Item::Publication(publication) => (slot.index, offset(&publication)),
            Item::Gap(_) => (slot.index, 0),
        };
        std::iter::from_fn(|| aside.pop()).map(place).collect()
    }

    #[test]
    fn what_comes_waits_behind_what_was_missed_of_the_same_subscription() {
        let mut aside = Aside::default();
        aside.begin(slot(1), [publication(3, "a"), publication(4, "a")]);
        aside.begin(slot(2), [publication(7, "a")]);
        aside.push(slot(1), Item::Gap(Box::new(("test", None))), usize::MAX).unwrap();
        aside.push(slot(1), Item::Publication(publication(9, "a")), usize::MAX).unwrap();
        aside.push(slot(2), Item::Publication(publication(8, "a")), usize::MAX).unwrap();
        aside.push(slot(3), Item::Publication(publication(1, "a")), 0).unwrap();
        assert!(aside.take_caught_up().is_none() && aside.bytes() > 0);
        assert_eq!(popped(&mut aside), [(1, 3), (1, 4), (1, 0), (1, 9), (2, 7), (2, 8)]);
        assert_eq!(aside.bytes(), 0);
        let mut caught_up: Vec<u32> = std::iter::from_fn(|| aside.take_caught_up()).map(|slot| slot.index).collect();
        caught_up.sort_unstable();
        assert_eq!(caught_up, [1, 2]);
        assert!(aside.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_its_bytes_are_given_back() {
        let mut aside = Aside::default();
        let one = publication(1, "a").bytes();
        aside.begin(slot(1), [publication(1, "a")]);
        aside.begin(slot(2), [publication(1, "a")]);
        assert_eq!(aside.push(slot(1), Item::Publication(publication(2, "a")), 3 * one), Ok(()));
        assert_eq!(aside.push(slot(2), Item::Publication(publication(2, "a")), 3 * one), Err(TooFarBehind));
        assert_eq!(aside.bytes(), 4 * one);
        aside.end(slot(1));
        assert_eq!(aside.bytes(), 2 * one);
        aside.pop();
        assert_eq!(aside.bytes(), one);
        aside.end(slot(2));
        assert!(aside.is_empty() && aside.bytes() == 0);
    }

    #[test]
    fn only_the_newest_of_a_key_is_kept_in_the_order_in_which_they_came() {
        let mut conflated = Conflated::default();
        let came = [(1, 1, "a"), (1, 2, "b"), (2, 1, "a"), (1, 3, "a"), (1, 4, "c")];
        let replaced: Vec<bool> = came
            .iter()
            .map(|(at, offset, key)| conflated.keep(slot(*at), publication(*offset, key)).unwrap())
            .collect();
        assert_eq!(replaced, [false, false, false, true, false]);
        assert!(conflated.holds(slot(1)) && conflated.holds(slot(2)) && !conflated.holds(slot(3)));
        assert_eq!(conflated.bytes, 4 * publication(1, "a").bytes());
        assert_eq!(conflated.take_slots(), [slot(1)], "of the other nothing was left out");
        let kept: Vec<u64> = conflated.take().iter().map(|publication| offset(publication)).collect();
        assert_eq!(kept, [2, 1, 3, 4]);
        assert!(conflated.bytes == 0 && !conflated.holds(slot(1)) && conflated.take().is_empty());
    }

    #[test]
    fn keys_that_wait_are_bounded_and_a_topic_that_ends_takes_its_own_along() {
        let mut aside = Aside::default();
        let one = publication(1, "0001").bytes();
        for key in 0..CONFLATED_KEYS {
            assert_eq!(aside.conflated().keep(slot(1), publication(1, &format!("{key:04}"))), Ok(false));
        }
        assert_eq!(aside.conflated().keep(slot(1), publication(2, "0001")), Ok(true), "no key more");
        assert_eq!(aside.conflated().keep(slot(2), publication(1, "0001")), Err(TooFarBehind));
        assert!(!aside.is_empty());
        aside.end(slot(1));
        assert_eq!(aside.conflated().bytes, one);
        assert!(!aside.conflated().holds(slot(1)) && aside.conflated().take_slots().is_empty());
        aside.end(slot(2));
        assert!(aside.is_empty() && aside.conflated().bytes == 0);
    }
}
