//! Seeing to the mirrors: which calls they need, what those came to, and what is told of them.

use std::collections::BTreeSet;

use super::{
    Announcement, Answer, Audience, Call, Effect, Keeper, Place, Query, RowPage, Standing, StoreError, Timer, Told,
    mirror::{Mirror, PageRead, Phase},
    question::answer,
};

/// Channels in one call that listens, or that asks where they stand.
const PLACES_PER_CALL: usize = 128;
/// Rows that are read with one call.
const ROWS_PER_READ: usize = 500;

impl Keeper {
    pub(super) fn next_standings(&mut self) -> Option<Call> {
        let count = self.standings.len().min(PLACES_PER_CALL);
        (count > 0).then(|| Call::Standings(self.standings.drain(..count).collect()))
    }

    pub(super) fn next_unlisten(&mut self) -> Option<Call> {
        let mut places = Vec::new();
        while places.len() < PLACES_PER_CALL
            && let Some(place) = self.unlisten.pop_first()
        {
            self.unlistening.insert(place.clone());
            places.push(place);
        }
        (!places.is_empty()).then_some(Call::Unlisten(places))
    }

    pub(super) fn next_mirror_call(&mut self) -> Option<Call> {
        let mut listen = Vec::new();
        while let Some(place) = self.calls.front() {
            let Some(mirror) = self.mirrors.get_mut(place) else {
                self.calls.pop_front();
                continue;
            };
            if mirror.is_held || self.unlistening.contains(place) {
                mirror.is_queued = false;
                self.calls.pop_front();
                continue;
            }
            match mirror.phase {
                Phase::Unlistened if listen.len() < PLACES_PER_CALL => {
                    mirror.phase = Phase::Listening;
                    mirror.is_queued = false;
                    listen.extend(self.calls.pop_front());
                }
                Phase::Unread if listen.is_empty() => {
                    self.readings += 1;
                    let reading = self.readings;
                    mirror.begin_reading(reading);
                    mirror.is_queued = false;
                    let place = self.calls.pop_front()?;
                    return Some(Call::Read { place, cursor: None, limit: ROWS_PER_READ, reading });
                }
                Phase::Unlistened | Phase::Unread => break,
                Phase::Listening | Phase::Reading(_) | Phase::Following => {
                    mirror.is_queued = false;
                    self.calls.pop_front();
                }
            }
        }
        (!listen.is_empty()).then_some(Call::Listen(listen))
    }

    pub(super) fn handle_listened(&mut self, place: &Place, is_done: bool) {
        let Some(mirror) = self.mirrors.get_mut(place) else {
            // Nobody watches any more; the store listens all the same.
            if is_done {
                self.unlisten.insert(place.clone());
            }
            return;
        };
        if matches!(mirror.phase, Phase::Listening) {
            mirror.phase = if is_done { Phase::Unread } else { Phase::Unlistened };
        }
        self.go_on(place);
        self.answer_waiting(place);
    }

    pub(super) fn handle_read(&mut self, place: &Place, reading: u64, page: Option<RowPage>) {
        let Some(mirror) = self.mirrors.get_mut(place).filter(|mirror| mirror.reads(reading)) else { return };
        match page {
            None => {
                mirror.phase = Phase::Unread;
            }
            Some(mut page) => {
                for (_, row) in &mut page.rows {
                    *row = self.own.share(place, row.clone());
                }
                let lease = &self.lease;
                if let PageRead::More(cursor) =
                    mirror.handle_page(self.now, self.config.lease, page, |incarnation| lease.is_dead(incarnation))
                {
                    self.in_flight += 1;
                    let call = Call::Read { place: place.clone(), cursor: Some(cursor), limit: ROWS_PER_READ, reading };
                    return self.effects.push_back(Effect::Call(call));
                }
            }
        }
        self.go_on(place);
        self.answer_waiting(place);
    }

    pub(super) fn handle_standings(&mut self, places: &[Place], result: Result<Vec<Standing>, StoreError>) {
        for (index, place) in places.iter().enumerate() {
            let standing = result.as_ref().ok().and_then(|standings| standings.get(index));
            for id in self.counting.remove(place).unwrap_or_default() {
                match standing {
                    Some(standing) => {
                        let Standing { users, connections, .. } = *standing;
                        let answer =
                            Answer { users, connections, members: None, version: None, stale: !self.holds_lease() };
                        self.effects.push_back(Effect::Answer { query: id, answer });
                    }
                    None => self.answer_counts_from_own(id, place),
                }
            }
            let Some(mirror) = self.mirrors.get_mut(place) else { continue };
            match standing {
                Some(standing) if mirror.version() == Some(&standing.version) => mirror.set_confirmed(true),
                _ => {
                    mirror.handle_doubt();
                }
            }
            self.go_on(place);
            self.answer_waiting(place);
        }
    }

    pub(super) fn mirror(&mut self, place: &Place) -> &mut Mirror {
        let unlisten = &mut self.unlisten;
        self.mirrors.get_or_insert_with(place, || {
            let mut mirror = Mirror::new();
            // Nobody has told the store yet that it was not wanted for a while.
            if unlisten.remove(place) {
                mirror.phase = Phase::Unread;
            }
            mirror
        })
    }

    /// Sees to it that a mirror gets the call that it needs, and is woken when it has something to tell.
    pub(super) fn go_on(&mut self, place: &Place) {
        let Some(mirror) = self.mirrors.get_mut(place) else { return };
        let owed = mirror.prepare(self.config.batch, self.config.max_named);
        if let Some(due) = mirror.unproven_until() {
            self.timers.insert((due, Timer::Unproven(place.clone())));
        }
        let wants_call = matches!(mirror.phase, Phase::Unlistened | Phase::Unread);
        if wants_call && !mirror.is_queued && !mirror.is_held && !self.unlistening.contains(place) {
            mirror.is_queued = true;
            self.calls.push_back(place.clone());
        }
        if let Some(due) = mirror.due() {
            self.timers.insert((due, Timer::Announce(place.clone())));
        }
        for (audience, version) in owed {
            let told = self.snapshot(place, version).into_iter().collect();
            self.effects.push_back(Effect::Announce { place: place.clone(), audience, told });
        }
    }

    pub(super) fn read_all_anew(&mut self) {
        for mirror in self.mirrors.values_mut() {
            mirror.set_confirmed(false);
            mirror.handle_doubt();
        }
        // In an order that does not depend on how tables are laid out: what a keeper does follows from what it is told.
        let places: BTreeSet<Place> = self.mirrors.keys().cloned().collect();
        places.iter().for_each(|place| self.go_on(place));
    }

    /// Each mirror is compared with the store, which costs one call for many.
    pub(super) fn doubt_all(&mut self) {
        self.mirrors.values_mut().for_each(|mirror| mirror.set_confirmed(false));
        let places: BTreeSet<&Place> = self.counting.keys().chain(self.mirrors.keys()).collect();
        self.standings = places.into_iter().cloned().collect();
    }

    pub(super) fn announce(&mut self, place: &Place) {
        for audience in [Audience::Auto, Audience::Names] {
            let Some(mirror) = self.mirrors.get_mut(place) else { return };
            let (now, roster) = (self.now, std::mem::take(&mut mirror.roster));
            let announced = mirror.announcer(audience).map(|announcer| announcer.poll(now, &roster));
            mirror.roster = roster;
            let mut told = Vec::new();
            for announcement in announced.unwrap_or_default() {
                told.push(match announcement {
                    Announcement::Change(change) => Told::Change(change),
                    Announcement::Count(counts) => Told::Count(counts),
                    Announcement::Snapshot(version) => match self.snapshot(place, version) {
                        Some(snapshot) => snapshot,
                        None => return,
                    },
                });
            }
            if !told.is_empty() {
                self.effects.push_back(Effect::Announce { place: place.clone(), audience, told });
            }
        }
        self.go_on(place);
    }

    /// What everybody who watches is shown.
    fn snapshot(&self, place: &Place, version: u64) -> Option<Told> {
        let limit = self.config.max_named;
        let query = Query {
            place: place.clone(),
            audience: None,
            snapshot: false,
            after: None,
            limit,
            bytes: self.config.snapshot_bytes,
        };
        let mirror = self.mirrors.get(place)?;
        let answer = Answer { version: Some(version), ..answer(&mirror.roster, &query, self.is_stale(place)) };
        Some(Told::Snapshot(Box::new(answer)))
    }

    /// A mirror that nobody watches lingers for a while.
    pub(super) fn drop_if_unwatched(&mut self, place: &Place) {
        let Some(mirror) = self.mirrors.get(place) else { return };
        let lingers = mirror.lingers_until.is_some_and(|until| until > self.now);
        if mirror.is_watched() || lingers || !mirror.waiting.is_empty() {
            return;
        }
        let is_listening = !matches!(mirror.phase, Phase::Unlistened | Phase::Listening);
        self.mirrors.remove(place);
        if is_listening {
            self.unlisten.insert(place.clone());
        }
    }
}
