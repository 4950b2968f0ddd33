//! Which names this node is subscribed to, where, and for whom.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fanfare_protocol::Body;

use super::topology::slot_of;
use crate::{InterestId, LivePosition, Publication};

/// A connection that is subscribed on, never the same one twice.
pub(super) type LinkId = u64;

/// A call that adds interests.
pub(super) type AddingId = u64;

/// The interests of a node, and the names of Redis that they need, each on the connection to the owner of its slot.
#[derive(Debug, Default)]
pub(super) struct Table {
    names: HashMap<Arc<str>, Entry>,
    interests: HashMap<InterestId, Held>,
    adding: HashMap<AddingId, Adding>,
    /// Names that wait for a connection to their owner.
    unplaced: HashSet<Arc<str>>,
    next_adding: AddingId,
}

#[derive(Debug)]
struct Entry {
    slot: u16,
    holders: Vec<InterestId>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    /// Asked for and not confirmed.
    Asked(LinkId),
    Confirmed(LinkId),
}

#[derive(Debug)]
struct Held {
    names: Vec<Arc<str>>,
    /// Names that are not confirmed now.
    missing: usize,
    /// By which call it came, until that is answered.
    adding: Option<AddingId>,
}

#[derive(Debug)]
struct Adding {
    interests: Vec<InterestId>,
    /// Interests with names that are not confirmed.
    missing: usize,
}

/// What follows from something that happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Interests, confirmed before, that may miss publications from now on.
    pub(super) lost: Vec<InterestId>,
    /// Those that do not any more.
    pub(super) restored: Vec<InterestId>,
    /// Calls of which everything is confirmed.
    pub(super) added: Vec<AddingId>,
    /// Calls that cannot be confirmed; their interests are gone.
    pub(super) failed: Vec<AddingId>,
    /// Interests, confirmed before, that the node may not have any more; they are gone.
    pub(super) refused: Vec<InterestId>,
    /// What has to be unsubscribed.
    pub(super) unwanted: Vec<(LinkId, Arc<str>)>,
}

/// What came by a name.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) body: Body,
    /// The node's time in milliseconds since the Unix epoch, where it is known.
    pub(super) timestamp: Option<u64>,
    pub(super) position: Option<LivePosition>,
}

/// An interest and the names that it needs.
pub(super) type Wanted = (InterestId, Vec<String>);

impl Place {
    fn link(self) -> Option<LinkId> {
        match self {
            Self::Nowhere => None,
            Self::Asked(link) | Self::Confirmed(link) => Some(link),
        }
    }
}

impl Table {
    /// Adds interests; the call is among [`Outcome::added`] at once or later, or among [`Outcome::failed`] later.
    pub(super) fn add(&mut self, wanted: Vec<Wanted>) -> (AddingId, Outcome) {
        self.next_adding += 1;
        let call = self.next_adding;
        let mut adding = Adding { interests: Vec::with_capacity(wanted.len()), missing: 0 };
        for (id, names) in wanted {
            let names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
            let mut missing = 0;
            for name in &names {
                let entry = self.names.entry(Arc::clone(name)).or_insert_with(|| {
                    self.unplaced.insert(Arc::clone(name));
                    Entry { slot: slot_of(name), holders: Vec::new(), place: Place::Nowhere }
                });
                entry.holders.push(id);
                missing += usize::from(!matches!(entry.place, Place::Confirmed(_)));
            }
            adding.missing += usize::from(missing > 0);
            adding.interests.push(id);
            self.interests.insert(id, Held { names, missing, adding: Some(call) });
        }
        let mut outcome = Outcome::default();
        let is_complete = adding.missing == 0;
        self.adding.insert(call, adding);
        if is_complete {
            self.complete(call, &mut outcome);
        }
        (call, outcome)
    }

    /// Gives up a call that is not answered yet, with its interests.
    pub(super) fn give_up(&mut self, call: AddingId) -> Outcome {
        let mut outcome = Outcome::default();
        self.fail(call, &mut outcome);
        outcome.failed.clear();
        outcome
    }

    /// Removes interests; those that are not held are passed over.
    pub(super) fn remove(&mut self, ids: impl IntoIterator<Item = InterestId>) -> Outcome {
        let mut outcome = Outcome::default();
        for id in ids {
            self.drop_interest(id, &mut outcome);
        }
        outcome
    }

    /// Gives names that wait a place, where `owner` names a connection to the owner of their slot, and says which, by
    /// connection and slot: one command can name channels of one slot only.
    pub(super) fn place(
        &mut self,
        owner: impl Fn(u16) -> Option<LinkId>,
    ) -> HashMap<LinkId, HashMap<u16, Vec<Arc<str>>>> {
        let mut placed: HashMap<LinkId, HashMap<u16, Vec<Arc<str>>>> = HashMap::new();
        let names = &mut self.names;
        self.unplaced.retain(|name| {
            let Some(entry) = names.get_mut(name) else { return false };
            let Some(link) = owner(entry.slot) else { return true };
            entry.place = Place::Asked(link);
            placed.entry(link).or_default().entry(entry.slot).or_default().push(Arc::clone(name));
            false
        });
        placed
    }

    /// The node has confirmed a name.
    pub(super) fn confirmed(&mut self, link: LinkId, name: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(entry) = self.names.get_mut(name).filter(|entry| entry.place == Place::Asked(link)) else {
            return outcome;
        };
        entry.place = Place::Confirmed(link);
        for id in entry.holders.clone() {
            self.count_confirmed(id, &mut outcome);
        }
        outcome
    }

    fn count_confirmed(&mut self, id: InterestId, outcome: &mut Outcome) {
        let Some(held) = self.interests.get_mut(&id) else { return };
        held.missing -= 1;
        if held.missing > 0 {
            return;
        }
        let Some(call) = held.adding else { return outcome.restored.push(id) };
        let Some(adding) = self.adding.get_mut(&call) else { return };
        adding.missing -= 1;
        if adding.missing == 0 {
            self.complete(call, outcome);
        }
    }

    fn complete(&mut self, call: AddingId, outcome: &mut Outcome) {
        let Some(adding) = self.adding.remove(&call) else { return };
        for id in adding.interests {
            if let Some(held) = self.interests.get_mut(&id) {
                held.adding = None;
            }
        }
        outcome.added.push(call);
    }

    /// The node has ended a subscription by itself: the slot has moved. What came before a confirmation belongs to an earlier
    /// subscription. None where nothing is lost by it.
    pub(super) fn ended(&mut self, link: LinkId, name: &str) -> Option<Outcome> {
        let is_here = self.names.get(name).is_some_and(|entry| entry.place == Place::Confirmed(link));
        is_here.then(|| {
            let mut outcome = Outcome::default();
            self.displace(&Arc::from(name), &mut outcome);
            outcome
        })
    }

    /// Names that were asked for on a connection, and that it did not confirm, have to be asked for again.
    pub(super) fn unconfirmed(&mut self, link: LinkId, names: &[Arc<str>]) -> Outcome {
        let mut outcome = Outcome::default();
        for name in names {
            if self.names.get(name).is_some_and(|entry| entry.place == Place::Asked(link)) {
                self.displace(name, &mut outcome);
            }
        }
        outcome
    }

    /// Names that were asked for on a connection, and that the node refuses to this user.
    pub(super) fn refused(&mut self, link: LinkId, names: &[Arc<str>]) -> Outcome {
        let mut outcome = Outcome::default();
        for name in names {
            let Some(entry) = self.names.get(name).filter(|entry| entry.place == Place::Asked(link)) else { continue };
            for id in entry.holders.clone() {
                match self.interests.get(&id).map(|held| held.adding) {
                    Some(Some(call)) => self.fail(call, &mut outcome),
                    Some(None) => {
                        self.drop_interest(id, &mut outcome);
                        outcome.refused.push(id);
                    }
                    None => {}
                }
            }
        }
        outcome
    }

    /// A connection has ended. Calls that wait for it fail.
    pub(super) fn link_ended(&mut self, link: LinkId) -> Outcome {
        let mut outcome = Outcome::default();
        for name in self.on(|place, _| place.link() == Some(link)) {
            let waiting: Vec<AddingId> = self.calls_for(&name);
            for call in waiting {
                self.fail(call, &mut outcome);
            }
            self.displace(&name, &mut outcome);
        }
        // It takes its subscriptions with it.
        outcome.unwanted.retain(|(on, _)| *on != link);
        outcome
    }

    /// Fails the calls that wait for names without a connection to their owner.
    pub(super) fn fail_unplaced(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let waiting: Vec<AddingId> = self.unplaced.iter().flat_map(|name| self.calls_for(name)).collect();
        for call in waiting {
            self.fail(call, &mut outcome);
        }
        outcome
    }

    /// Takes names away from connections that do not lead to the owner of their slot any more. `is_owner` says whether one
    /// does.
    pub(super) fn displace_all(&mut self, is_owner: impl Fn(LinkId, u16) -> bool) -> Outcome {
        let mut outcome = Outcome::default();
        for name in self.on(|place, slot| place.link().is_some_and(|link| !is_owner(link, slot))) {
            if let Some(link) = self.names.get(&name).and_then(|entry| entry.place.link()) {
                outcome.unwanted.push((link, Arc::clone(&name)));
            }
            self.displace(&name, &mut outcome);
        }
        outcome
    }

    /// For whom a message is that came by a connection; nobody, where the name has its place elsewhere: it may come there too.
    pub(super) fn publications(&self, link: LinkId, name: &str, arrived: &Arrived) -> Vec<Publication> {
        let Some(entry) = self.names.get(name).filter(|entry| entry.place.link() == Some(link)) else {
            return Vec::new();
        };
        let publication = |id: &InterestId| Publication {
            interest: *id,
            channel: None,
            body: arrived.body.clone(),
            timestamp: arrived.timestamp,
            position: arrived.position.clone(),
        };
        entry.holders.iter().map(publication).collect()
    }

    /// Whether names wait for a place.
    pub(super) fn has_unplaced(&self) -> bool {
        !self.unplaced.is_empty()
    }

    fn on(&self, wanted: impl Fn(Place, u16) -> bool) -> Vec<Arc<str>> {
        let found = self.names.iter().filter(|(_, entry)| wanted(entry.place, entry.slot));
        found.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn calls_for(&self, name: &Arc<str>) -> Vec<AddingId> {
        let holders = self.names.get(name).map(|entry| entry.holders.as_slice()).unwrap_or_default();
        holders.iter().filter_map(|id| self.interests.get(id)?.adding).collect()
    }

    /// The name has no place any more and needs a new one.
    fn displace(&mut self, name: &Arc<str>, outcome: &mut Outcome) {
        let Some(entry) = self.names.get_mut(name) else { return };
        let was_confirmed = matches!(entry.place, Place::Confirmed(_));
        entry.place = Place::Nowhere;
        let holders = if was_confirmed { entry.holders.clone() } else { Vec::new() };
        self.unplaced.insert(Arc::clone(name));
        for id in holders {
            let Some(held) = self.interests.get_mut(&id) else { continue };
            held.missing += 1;
            if held.missing > 1 {
                continue;
            }
            match held.adding.and_then(|call| self.adding.get_mut(&call)) {
                Some(adding) => adding.missing += 1,
                None => outcome.lost.push(id),
            }
        }
    }

    fn fail(&mut self, call: AddingId, outcome: &mut Outcome) {
        let Some(adding) = self.adding.remove(&call) else { return };
        for id in adding.interests {
            self.drop_interest(id, outcome);
        }
        outcome.failed.push(call);
    }

    fn drop_interest(&mut self, id: InterestId, outcome: &mut Outcome) {
        let Some(held) = self.interests.remove(&id) else { return };
        if let Some(adding) = held.adding.and_then(|call| self.adding.get_mut(&call)) {
            adding.interests.retain(|other| *other != id);
            adding.missing -= usize::from(held.missing > 0);
            if adding.missing == 0 {
                self.complete(held.adding.unwrap_or_default(), outcome);
            }
        }
        for name in held.names {
            let Some(entry) = self.names.get_mut(&name) else { continue };
            entry.holders.retain(|holder| *holder != id);
            if entry.holders.is_empty() {
                outcome.unwanted.extend(entry.place.link().map(|link| (link, Arc::clone(&name))));
                self.names.remove(&name);
                self.unplaced.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two names of one slot, and one of another.
    const A: &str = "a{06S}";
    const B: &str = "b{06S}";
    const C: &str = "c";

    fn ids(numbers: &[u64]) -> Vec<InterestId> {
        numbers.iter().copied().map(InterestId).collect()
    }

    fn wanted(id: u64, names: &[&str]) -> Wanted {
        (InterestId(id), names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().copied().map(Arc::from).collect()
    }

    /// Places all that waits on one connection and says what it is asked for.
    fn place(table: &mut Table, link: LinkId) -> Vec<String> {
        let placed = table.place(|_| Some(link));
        let mut names: Vec<String> =
            placed.into_values().flat_map(HashMap::into_values).flatten().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    /// A table with one confirmed interest in `A` and `C`, on connection 1.
    fn held() -> Table {
        let mut table = Table::default();
        table.add(vec![wanted(1, &[A, C])]);
        assert_eq!(place(&mut table, 1), [A, C]);
        assert_eq!(table.confirmed(1, A), Outcome::default());
        assert_eq!(table.confirmed(1, C).added, [1]);
        table
    }

    fn arrived() -> Arrived {
        Arrived { body: Body::new("x"), timestamp: None, position: None }
    }

    #[test]
    fn a_call_is_answered_when_all_of_it_is_confirmed() {
        let mut table = Table::default();
        let (call, outcome) = table.add(vec![wanted(1, &[A]), wanted(2, &[A, B])]);
        assert_eq!(outcome, Outcome::default());
        assert!(table.has_unplaced());
        let placed = table.place(|slot| (slot == slot_of(A)).then_some(7));
        let mut asked = placed[&7][&slot_of(A)].clone();
        asked.sort();
        assert_eq!(asked, names(&[A, B]));
        assert!(!table.has_unplaced());
        // Another connection's word does not count.
        assert_eq!(table.confirmed(8, A), Outcome::default());
        assert!(table.confirmed(7, A).added.is_empty());
        assert_eq!(table.confirmed(7, B).added, [call]);
        // What is confirmed already needs nothing more.
        let (second, outcome) = table.add(vec![wanted(3, &[B])]);
        assert_eq!(outcome.added, [second]);
        assert_eq!(table.add(Vec::new()).1.added.len(), 1);
        assert!(table.remove(ids(&[1, 3, 9])).unwanted.is_empty());
        let mut unwanted = table.remove(ids(&[2])).unwanted;
        unwanted.sort();
        assert_eq!(unwanted, [(7, A.into()), (7, B.into())]);
        assert!(table.names.is_empty() && table.interests.is_empty() && table.adding.is_empty());
    }

    #[test]
    fn an_interest_is_lost_with_its_first_name_and_restored_with_its_last() {
        let mut table = held();
        assert_eq!(table.ended(1, A).unwrap().lost, ids(&[1]));
        assert_eq!(table.ended(1, A), None, "once is enough");
        assert_eq!(table.ended(1, C).unwrap(), Outcome::default());
        assert_eq!(place(&mut table, 2), [A, C]);
        assert_eq!(table.ended(2, A), None, "an end that came before the confirmation is of an earlier subscription");
        assert_eq!(table.confirmed(2, A), Outcome::default());
        assert_eq!(table.confirmed(2, C).restored, ids(&[1]));
    }

    #[test]
    fn a_message_counts_only_from_where_its_name_has_its_place() {
        let mut table = held();
        assert_eq!(table.publications(1, A, &arrived()).len(), 1);
        assert!(table.publications(2, A, &arrived()).is_empty() && table.publications(1, B, &arrived()).is_empty());
        let moved = table.displace_all(|_, slot| slot != slot_of(A));
        assert_eq!((moved.lost, moved.unwanted), (ids(&[1]), vec![(1, A.into())]));
        assert!(table.publications(1, A, &arrived()).is_empty(), "it may come from the new place too");
        assert_eq!(place(&mut table, 2), [A]);
        assert_eq!(table.publications(2, A, &arrived()).len(), 1);
    }

    #[test]
    fn a_connection_that_ends_interrupts_what_was_there_and_fails_who_waits_for_it() {
        let mut table = held();
        let (call, _) = table.add(vec![wanted(2, &[A, B])]);
        assert_eq!(place(&mut table, 1), [B]);
        let outcome = table.link_ended(1);
        assert_eq!((outcome.lost, outcome.failed, outcome.unwanted), (ids(&[1]), vec![call], vec![]));
        assert_eq!(place(&mut table, 2), [A, C], "nobody wants the other name any more");
        // A call that finds no connection fails at once, and what is held waits.
        table.link_ended(2);
        let (call, _) = table.add(vec![wanted(3, &[A])]);
        assert!(table.place(|_| None).is_empty());
        assert_eq!(table.fail_unplaced().failed, [call]);
        assert_eq!(place(&mut table, 3), [A, C]);
    }

    #[test]
    fn a_confirmation_that_is_lost_before_the_call_is_answered_has_to_come_again() {
        let mut table = Table::default();
        let (call, _) = table.add(vec![wanted(1, &[A]), wanted(2, &[B])]);
        place(&mut table, 1);
        table.confirmed(1, A);
        assert_eq!(table.ended(1, A), Some(Outcome::default()), "the hub does not hold it yet");
        assert!(table.confirmed(1, B).added.is_empty());
        assert_eq!(place(&mut table, 2), [A]);
        assert_eq!(table.confirmed(2, A).added, [call]);
    }

    #[test]
    fn what_is_refused_fails_its_call_and_ends_what_was_held() {
        let mut table = held();
        let (call, _) = table.add(vec![wanted(2, &[B]), wanted(3, &[C])]);
        place(&mut table, 1);
        let outcome = table.refused(1, &names(&[B]));
        assert_eq!((outcome.failed, outcome.refused), (vec![call], vec![]));
        assert!(table.publications(1, C, &arrived()).len() == 1, "the other holder keeps it");
        table.ended(1, A);
        place(&mut table, 1);
        let outcome = table.refused(1, &names(&[A]));
        assert_eq!((outcome.refused, outcome.unwanted), (ids(&[1]), vec![(1, A.into()), (1, C.into())]));
        assert!(table.names.is_empty());
    }

    #[test]
    fn what_was_not_confirmed_is_asked_for_again_until_the_call_is_given_up() {
        let mut table = Table::default();
        let (call, _) = table.add(vec![wanted(1, &[A])]);
        place(&mut table, 1);
        assert_eq!(table.unconfirmed(1, &names(&[A, B])), Outcome::default());
        assert_eq!(place(&mut table, 2), [A]);
        let outcome = table.give_up(call);
        assert_eq!((outcome.failed, outcome.unwanted), (vec![], vec![(2, A.into())]));
        assert_eq!(table.confirmed(2, A), Outcome::default());
        assert!(table.names.is_empty() && table.interests.is_empty());
    }
}
