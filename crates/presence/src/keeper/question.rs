//! Questions: who is there?

use std::{collections::BTreeSet, time::Duration};

use super::{Effect, Keeper, mirror::Waiting};
use crate::{Audience, MemberPage, Place, Roster, User};

/// How long a question may wait for the store before it is answered with what the node knows.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

/// Who is there?
#[derive(Clone, Debug)]
pub struct Query {
    /// On which channel.
    pub place: Place,
    /// For one who watches: the version that its announcements go on from.
    pub audience: Option<Audience>,
    /// Nobody has counted on names: counts alone where the audience is told counts.
    pub snapshot: bool,
    /// Members behind this one.
    pub after: Option<User>,
    /// At most so many; 0 for counts alone.
    pub limit: usize,
    /// At most so many bytes of them, as JSON.
    pub bytes: usize,
}

/// Who is there.
#[derive(Debug)]
pub struct Answer {
    /// How many members.
    pub users: u64,
    /// How many connections.
    pub connections: u64,
    /// Members; `None` where only counts were asked for, or there are too many to be named unasked.
    pub members: Option<MemberPage>,
    /// The version of what was announced last, for one who watches.
    pub version: Option<u64>,
    /// The store is away, or was a moment ago: this is what the node knew last.
    pub stale: bool,
}

impl Keeper {
    /// Whether calls fail, or changes are not told.
    pub(super) fn is_away(&self) -> bool {
        !self.is_connected || self.pauses.until(self.now).is_some() || self.lease.is_unanswered(self.now)
    }

    pub(super) fn is_stale(&self, place: &Place) -> bool {
        let confirmed = self.mirrors.get(place).is_some_and(|mirror| mirror.is_confirmed());
        let is_written = !self.own.is_held(place);
        !self.is_connected || !confirmed || !is_written || !self.holds_lease() || self.lease.is_unanswered(self.now)
    }

    pub(super) fn answer_all(&mut self) {
        let waiting = self.mirrors.iter().filter(|(_, mirror)| !mirror.waiting.is_empty());
        let places: BTreeSet<Place> = waiting.map(|(place, _)| place.clone()).collect();
        places.iter().for_each(|place| self.answer_waiting(place));
    }

    /// Answers what can be answered: from a mirror that follows the store, or, once that cannot be waited for, from what is known.
    pub(super) fn answer_waiting(&mut self, place: &Place) {
        let (stale, away) = (self.is_stale(place), self.is_away());
        let Some(mirror) = self.mirrors.get_mut(place) else { return };
        let Some(first) = mirror.waiting.first() else { return self.drop_if_unwatched(place) };
        // As often as not, thousands wait for the same.
        if stale && !away && first.until > self.now {
            return;
        }
        let waiting = std::mem::take(&mut mirror.waiting);
        let (now, own) = (self.now, &self.own);
        let is_settled = |one: &Waiting| {
            let Some(awaited) = one.awaited else { return true };
            match own.came_to(place, awaited) {
                None => false,
                Some(written) => match (written, mirror.version()) {
                    // Where nothing was written before, there was no epoch yet.
                    (Some(written), Some(at)) => {
                        at.number >= written.number || (at.epoch != written.epoch && at.number > 0)
                    }
                    _ => true,
                },
            }
        };
        let (ready, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|one| away || one.until <= now || (!stale && is_settled(one)));
        mirror.waiting = waiting;
        let knows_nothing = mirror.version().is_none() && mirror.roster.connections() == 0;
        for Waiting { id, query, .. } in ready {
            if let (Some(mirror), Some(audience)) = (self.mirrors.get_mut(place), query.audience) {
                mirror.owe(audience);
            }
            if knows_nothing {
                self.answer_from_own(id, &query);
                continue;
            }
            let Some(mirror) = self.mirrors.get_mut(place) else { return };
            let announcer = query.audience.and_then(|audience| mirror.announcer(audience));
            let counts_only = query.snapshot && announcer.as_ref().is_some_and(|announcer| announcer.counts_only());
            let version = announcer.map(|announcer| announcer.show());
            let query = if counts_only { Query { limit: 0, ..query } } else { query };
            let answer = Answer { version, ..answer(&mirror.roster, &query, stale) };
            self.effects.push_back(Effect::Answer { query: id, answer });
        }
        self.drop_if_unwatched(place);
    }

    /// The store cannot be asked: what this node itself has on the channel.
    pub(super) fn answer_from_own(&mut self, id: QueryId, query: &Query) {
        let mut roster = Roster::default();
        let incarnation = self.lease.incarnation().clone();
        roster.replace(self.own.present(&query.place).map(|row| (incarnation.clone(), row.clone())));
        let answer = answer(&roster, query, true);
        self.effects.push_back(Effect::Answer { query: id, answer });
    }

    pub(super) fn answer_counts_from_own(&mut self, id: QueryId, place: &Place) {
        let query = Query { place: place.clone(), audience: None, snapshot: false, after: None, limit: 0, bytes: 0 };
        self.answer_from_own(id, &query);
    }
}

pub(super) fn answer(roster: &Roster, query: &Query, stale: bool) -> Answer {
    let members = (query.limit > 0).then(|| roster.page(query.after.as_ref(), query.limit, query.bytes));
    let (users, connections) = (roster.users() as u64, roster.connections() as u64);
    Answer { users, connections, members, version: None, stale }
}
