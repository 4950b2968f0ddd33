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
