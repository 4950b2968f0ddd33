//! A node's presence, without IO: what it writes, reads, reaps and tells, and when.
//!
//! `handle_*` what happens, then [`Keeper::poll_effect`] until it gives nothing, then [`Keeper::poll_timeout`].

mod call;
mod effect;
mod lease;
mod mirror;
mod mirroring;
mod own;
mod pauses;
mod question;
mod reaper;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::value::RawValue;

use crate::{
    Announcement, Audience, ConnectionKey, Incarnation, Leases, Place, PlaceMap, Reap, Reaped, Renewal, Row, RowChange,
    RowPage, Standing, State, StoreError, StoreEvent,
};
pub use call::{Call, Outcome};
pub use effect::{Effect, Told};
pub use question::{Answer, Query, QueryId};

use lease::{Lease, Renewed};
use mirror::{Mirror, Waiting};
use own::OwnRows;
use pauses::Pauses;
use question::PATIENCE;
use reaper::Reaper;

/// What a keeper is told by the configuration.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// The node's name, part of its incarnations.
    pub node: String,
    /// How long a lease lasts; it is renewed at a third.
    pub lease: Duration,
    /// How long a leave waits.
    pub grace: Duration,
    /// How long changes of a channel are gathered before they are told.
    pub batch: Duration,
    /// Members above which those who watch are told counts instead of names.
    pub max_named: usize,
    /// Calls at the store at one time.
    pub calls: usize,
    /// Bytes of members in a snapshot that is told to everybody.
    pub snapshot_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    now: Duration,
    lease: Lease,
    own: OwnRows,
    mirrors: PlaceMap<Mirror>,
    reaper: Reaper,
    /// Own incarnations before this one, until all of their rows are written anew.
    left: Vec<Incarnation>,
    /// Where those may have rows, whatever the store has kept of their notes: it may have lost those and got rows since.
    left_places: BTreeSet<Place>,
    effects: VecDeque<Effect>,
    timers: BTreeSet<(Duration, Timer)>,
    /// Mirrors that need a call: to listen, or to be read.
    calls: VecDeque<Place>,
    /// How often a mirror was read.
    readings: u64,
    /// Channels that have to be asked where they stand: mirrors in doubt, and questions for counts.
    standings: VecDeque<Place>,
    counting: HashMap<Place, Vec<QueryId>>,
    unlisten: BTreeSet<Place>,
    /// Those of which a call that unlistens is under way.
    unlistening: HashSet<Place>,
    in_flight: usize,
    /// The store tells of changes.
    is_connected: bool,
    pauses: Pauses,
    /// Whose turn it is, see [`next_call`](Self::next_call).
    turn: usize,
    drain: Drain,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Leave(Place, ConnectionKey),
    Announce(Place),
    Patience(Place),
    Linger(Place),
    Unproven(Place),
    Retry(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    Resigning,
    Done,
}

impl Keeper {
    /// A node without connections. `random` has to be another for every life of every node.
    pub fn new(config: KeeperConfig, random: u64, now: Duration) -> Self {
        Self {
            lease: Lease::new(config.node.clone(), config.lease, random, now),
            config,
            now,
            own: OwnRows::default(),
            mirrors: PlaceMap::default(),
            reaper: Reaper::default(),
            left: Vec::new(),
            left_places: BTreeSet::new(),
            effects: VecDeque::new(),
            timers: BTreeSet::new(),
            calls: VecDeque::new(),
            readings: 0,
            standings: VecDeque::new(),
            counting: HashMap::new(),
            unlisten: BTreeSet::new(),
            unlistening: HashSet::new(),
            in_flight: 0,
            is_connected: true,
            pauses: Pauses::new(now),
            turn: 0,
            drain: Drain::No,
        }
    }

    /// Connections × channels of this node, those that wait for their grace included.
    pub fn rows(&self) -> usize {
        self.own.rows()
    }

    /// Channels with something that the store does not have yet.
    pub fn unwritten(&self) -> usize {
        self.own.waiting()
    }

    /// Channels that are mirrored.
    pub fn mirrored(&self) -> usize {
        self.mirrors.len()
    }

    /// Whether this node's lease is held.
    pub fn holds_lease(&self) -> bool {
        self.lease.may_write(self.now)
    }

    /// Which life of the node this is.
    pub fn incarnation(&self) -> &Incarnation {
        self.lease.incarnation()
    }

    /// A connection of this node is on a channel.
    pub fn handle_join(&mut self, now: Duration, place: &Place, row: Row) {
        self.now = now;
        if self.drain == Drain::No {
            self.own.join(place, row);
        }
    }

    /// A connection of this node is doing something else, or says something else of itself. Passed over where it is not there.
    pub fn handle_update(
        &mut self,
        now: Duration,
        place: &Place,
        connection: ConnectionKey,
        state: State,
        info: Option<Arc<RawValue>>,
    ) {
        self.now = now;
        if self.drain == Drain::No {
            self.own.update(place, connection, state, info);
        }
    }

    /// A connection of this node is not on the channel any more. Its row goes after the grace.
    pub fn handle_leave(&mut self, now: Duration, place: &Place, connection: ConnectionKey) {
        self.now = now;
        if self.drain == Drain::No
            && let Some(at) = self.own.leave(now + self.config.grace, place, connection)
        {
            self.timers.insert((at, Timer::Leave(place.clone(), connection)));
        }
    }

    /// The first of an audience on this node.
    pub fn handle_watch(&mut self, now: Duration, place: &Place, audience: Audience) {
        self.now = now;
        let mirror = self.mirror(place);
        mirror.watch(audience);
        self.go_on(place);
    }

    /// The last of an audience on this node is gone.
    pub fn handle_unwatch(&mut self, now: Duration, place: &Place, audience: Audience) {
        self.now = now;
        let Some(mirror) = self.mirrors.get_mut(place) else { return };
        if !mirror.unwatch(audience) {
            // They often come back.
            let until = now + self.config.grace;
            mirror.lingers_until = Some(until);
            self.timers.insert((until, Timer::Linger(place.clone())));
        }
    }

    /// A question. It is answered once, by [`Effect::Answer`].
    pub fn handle_query(&mut self, now: Duration, id: QueryId, query: Query) {
        self.now = now;
        let place = query.place.clone();
        if query.limit == 0 && !self.mirrors.contains_key(&place) {
            if self.is_away() {
                return self.answer_from_own(id, &query);
            }
            let asking = self.counting.entry(place.clone()).or_default();
            asking.push(id);
            if asking.len() == 1 {
                self.standings.push_back(place);
            }
            return;
        }
        let awaited = self.own.awaited(&place);
        let until = now + PATIENCE;
        let linger = now + self.config.grace;
        let mirror = self.mirror(&place);
        if !mirror.is_watched() && mirror.lingers_until.is_none() {
            // Whoever asks once asks again.
            mirror.lingers_until = Some(linger);
            self.timers.insert((linger, Timer::Linger(place.clone())));
        }
        let Some(mirror) = self.mirrors.get_mut(&place) else { return };
        mirror.waiting.push(Waiting { id, query, awaited, until });
        self.timers.insert((until, Timer::Patience(place.clone())));
        self.go_on(&place);
        self.answer_waiting(&place);
    }

    /// Takes what the store tells unasked.
    pub fn handle_event(&mut self, now: Duration, event: StoreEvent) {
        self.now = now;
        match event {
            StoreEvent::Changed { place, version, changes } => {
                let Some(mirror) = self.mirrors.get_mut(&place) else { return };
                // What the dead have written too late is nobody's, as in pages.
                let is_late = |change: &RowChange| matches!(change, RowChange::Put(by, row) if self.lease.is_dead(by) && !mirror.roster.has(row.connection));
                let share = |change| match change {
                    RowChange::Put(by, row) => RowChange::Put(by, self.own.share(&place, row)),
                    removed @ RowChange::Removed { .. } => removed,
                };
                let changes = changes.into_iter().filter(|change| !is_late(change)).map(share).collect();
                if !mirror.handle_change(now, version, changes) {
                    mirror.set_confirmed(false);
                }
                self.go_on(&place);
                self.answer_waiting(&place);
            }
            StoreEvent::Interrupted => {
                self.is_connected = false;
                self.mirrors.values_mut().for_each(|mirror| mirror.set_confirmed(false));
                self.answer_all();
            }
            // A node that only did not keep up does not write everything anew, too.
            StoreEvent::Relistened => {
                self.is_connected = true;
                self.pauses.end(now).for_each(|place| self.release(&place));
                self.read_all_anew();
            }
            StoreEvent::Resumed => {
                self.is_connected = true;
                self.pauses.end(now).for_each(|place| self.release(&place));
                // What it has is not known: it may have lost anything, removals too, and have come to the same version in another way.
                let left = self.lease.leave(now);
                self.begin_anew(Some(left));
                self.read_all_anew();
            }
        }
    }

    /// Takes what a call came to.
    pub fn handle_done(&mut self, now: Duration, call: Call, outcome: Outcome) {
        self.now = now;
        if let (Call::Renew(renewal), Outcome::Renewed(result)) = (&call, &outcome) {
            return self.handle_renewed(renewal, result.as_ref().ok());
        }
        self.in_flight -= 1;
        match outcome.failure() {
            None => self.pauses.handle_success(now, call.places()),
            Some(error) => {
                self.pauses.handle_failure(now, error, self.lease.fraction());
                self.hold(call.places());
            }
        }
        self.handle_outcome(call, outcome);
    }

    /// What has failed on a channel is not tried again at once.
    fn hold(&mut self, places: &[Place]) {
        for place in places {
            let at = self.pauses.hold(self.now, place, self.lease.fraction());
            self.own.hold(place);
            if let Some(mirror) = self.mirrors.get_mut(place) {
                mirror.is_held = true;
            }
            self.timers.insert((at, Timer::Retry(place.clone())));
        }
    }

    fn release(&mut self, place: &Place) {
        self.own.release(place);
        match self.mirrors.get_mut(place) {
            Some(mirror) => mirror.is_held = false,
            None if !self.own.has(place) => self.pauses.forget(place),
            None => {}
        }
        self.go_on(place);
    }

    fn handle_outcome(&mut self, call: Call, outcome: Outcome) {
        let is_done = outcome.failure().is_none();
        match (call, outcome) {
            (Call::Write(write), Outcome::Written(result)) => {
                let place = write.place.clone();
                self.own.handle_written(&write, result.as_ref().ok().map(|written| &written.version));
                if let Ok(written) = result {
                    if written.occupied {
                        self.effects.push_back(Effect::Occupied(place.clone()));
                    }
                    if written.vacated {
                        self.effects.push_back(Effect::Vacated(place.clone()));
                    }
                }
                self.answer_waiting(&place);
            }
            (Call::Note { places, .. }, _) => self.own.handle_noted(&places, is_done),
            (Call::Unnote { places, .. }, _) => self.own.handle_unnoted(&places, is_done),
            (Call::Reaped { dead, .. }, _) => self.reaper.handle_done(&dead, is_done),
            (Call::Noted { incarnation, .. }, Outcome::Noted(result)) => {
                self.reaper.handle_noted(&incarnation, result.ok());
            }
            (Call::Reap(reap), Outcome::Reaped(result)) => self.handle_reaped(reap, result.ok()),
            (Call::Listen(places), _) => places.iter().for_each(|place| self.handle_listened(place, is_done)),
            (Call::Read { place, reading, .. }, Outcome::Read(result)) => {
                self.handle_read(&place, reading, result.ok())
            }
            (Call::Standings(places), Outcome::Standings(result)) => self.handle_standings(&places, result),
            (Call::Resign { .. }, _) => self.drain = Drain::Done,
            (Call::Unlisten(places), _) => places.iter().for_each(|place| {
                self.unlistening.remove(place);
                self.go_on(place);
            }),
            (call, outcome) => debug_assert!(false, "{call:?} does not come to {outcome:?}"),
        }
    }

    /// Time has reached what `poll_timeout` said. Earlier calls are harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = now;
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, timer)) = self.timers.pop_first() else { break };
            match timer {
                Timer::Leave(place, connection) => {
                    if self.drain == Drain::No {
                        self.own.leave_due(now, &place, connection);
                    }
                }
                Timer::Announce(place) => self.announce(&place),
                Timer::Patience(place) => self.answer_waiting(&place),
                Timer::Linger(place) => self.drop_if_unwatched(&place),
                Timer::Retry(place) => self.release(&place),
                Timer::Unproven(place) => {
                    if let Some(mirror) = self.mirrors.get_mut(&place) {
                        mirror.end_unproven(now);
                    }
                    self.go_on(&place);
                    self.answer_waiting(&place);
                }
            }
        }
    }

    /// The node goes away: rows stay, the lease is shortened to the grace, nothing more is written. Those who are still there are told
    /// and answered as before.
    pub fn handle_drain(&mut self, now: Duration) {
        self.now = now;
        if self.drain == Drain::No {
            self.drain = Drain::Resigning;
            self.in_flight += 1;
            self.effects.push_back(Effect::Call(Call::Resign {
                incarnation: self.lease.incarnation().clone(),
                after: self.config.grace,
                at_once: self.own.is_empty(),
            }));
        }
    }

    /// Whether nothing is left to be done after [`handle_drain`](Self::handle_drain).
    pub fn is_drained(&self) -> bool {
        self.drain == Drain::Done
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.drain == Drain::No
            && let Some(renewal) = self.lease.renewal(self.now)
        {
            return Some(Effect::Call(Call::Renew(renewal)));
        }
        if self.in_flight >= self.config.calls || self.pauses.until(self.now).is_some() {
            return None;
        }
        let call = self.next_call()?;
        self.in_flight += 1;
        Some(Effect::Call(call))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let first = self.timers.first().map(|(at, _)| *at);
        let paused = self.pauses.until(self.now);
        let renewal = self.lease.due().filter(|_| self.drain == Drain::No);
        let is_free = self.in_flight < self.config.calls && paused.is_none();
        let paced = (is_free && self.may_write()).then(|| self.own.due()).flatten();
        [first, paused, renewal, paced].into_iter().flatten().min()
    }

    fn may_write(&self) -> bool {
        self.drain == Drain::No && self.lease.may_write(self.now)
    }

    /// What is done at the store next: renewals before all of it, the others in turn, so that none waits for all of another.
    fn next_call(&mut self) -> Option<Call> {
        const TURNS: usize = 5;
        for _ in 0..TURNS {
            self.turn = (self.turn + 1) % TURNS;
            let call = match self.turn {
                0 if self.may_write() => self.own.next_call(self.now, self.lease.incarnation()),
                1 => self.next_mirror_call(),
                2 => self.next_standings(),
                3 if self.may_write() => self.reaper.next_call(),
                4 => self.next_unlisten(),
                _ => None,
            };
            if call.is_some() {
                return call;
            }
        }
        None
    }

    fn handle_renewed(&mut self, renewal: &Renewal, leases: Option<&Leases>) {
        let Some(leases) = leases else { return self.lease.handle_failed(self.now) };
        self.pauses.handle_success(self.now, &[]);
        match self.lease.handle_renewed(self.now, renewal, leases) {
            Renewed::Held | Renewed::Begun => {
                for dead in &leases.reap {
                    if !self.left.contains(dead) {
                        self.reaper.begin(dead.clone(), VecDeque::new());
                    }
                }
            }
            Renewed::Lost => {
                self.begin_anew((!renewal.begin).then(|| renewal.incarnation.clone()));
                self.doubt_all();
            }
            Renewed::Left => {}
        }
        self.reap_left();
        self.answer_all();
    }

    /// There is a new incarnation, which has nothing yet. What the left one has that the new one does not write goes later.
    fn begin_anew(&mut self, left: Option<Incarnation>) {
        self.reaper.stop();
        self.left.extend(left);
        self.left_places.extend(self.own.places().cloned());
        self.own.write_anew();
    }

    /// Removes what own incarnations have left that were lost: not before everything is written anew, or all of it would go first.
    /// One whose lease has not ended is left to itself until it has.
    fn reap_left(&mut self) {
        if !self.left.is_empty() && self.own.is_proven() && self.lease.may_write(self.now) {
            let places: VecDeque<Place> = std::mem::take(&mut self.left_places).into_iter().collect();
            for left in self.left.drain(..) {
                if !self.lease.still_holds(&left) {
                    self.reaper.begin(left, places.clone());
                }
            }
        }
    }

    fn handle_reaped(&mut self, reap: Reap, result: Option<Reaped>) {
        let (place, dead) = (reap.place.clone(), reap.dead.clone());
        let Some(removed) = self.reaper.handle_reaped(reap, result) else { return };
        // A process that lives on tells of its connections itself.
        if !removed.rows.is_empty() && !self.lease.is_outlived(&dead) {
            self.effects.push_back(Effect::Lost { place: place.clone(), dead, rows: removed.rows });
        }
        if removed.vacated {
            self.effects.push_back(Effect::Vacated(place));
        }
    }
}

#[cfg(test)]
mod tests;
