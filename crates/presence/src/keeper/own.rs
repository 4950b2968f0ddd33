//! The rows of this node's own connections: what they should be, and what has still to be written. Pure; time is an argument.
//!
//! A write is not believed until it was acknowledged, and doing it twice is the same as once: whatever the store has lost, or may
//! not have done, is written again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{Call, ConnectionKey, Incarnation, Place, PlaceMap, Row, State, Version, Write, compact_map::CompactMap};

/// Rows in one write.
const ROWS_PER_WRITE: usize = 128;
/// Channels in one note.
const PLACES_PER_NOTE: usize = 128;
/// Calls a second by which all rows are written anew.
const REWRITES_PER_SECOND: u32 = 5_000;
/// Calls that may be made at once of those.
const REWRITE_BURST: f64 = 64.0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnRows {
    places: PlaceMap<OwnPlace>,
    /// Places whose rows have changed.
    fresh: VecDeque<Place>,
    /// Places all of whose rows are to be written anew.
    rewrite: VecDeque<Place>,
    /// Places without rows that are still noted.
    unnote: VecDeque<Place>,
    connections: usize,
    /// Places that were to be written anew and are not yet.
    unproven: usize,
    rewrites: f64,
    refilled: Duration,
}

#[derive(Debug, Default)]
struct OwnPlace {
    rows: CompactMap<ConnectionKey, OwnRow>,
    /// Rows to write, each once.
    dirty: Vec<ConnectionKey>,
    note: Note,
    /// A call for it is under way.
    busy: bool,
    /// The last call for it failed, and it is not time to try again.
    is_held: bool,
    /// What that call is about may have been lost since it was made.
    outdated: bool,
    /// It was to be written anew, which it is after so many writes.
    unproven: Option<u64>,
    queue: Option<Queue>,
    /// Writes that were begun, and that were done.
    begun: u64,
    done: u64,
    version: Option<Version>,
}

/// Whether the store knows that this incarnation may have rows here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Note {
    #[default]
    No,
    /// It was to be noted, or the note to be taken back, and nobody knows whether that was done.
    Perhaps,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Fresh,
    Rewrite,
    Unnote,
}

#[derive(Debug)]
struct OwnRow {
    row: Row,
    dirty: bool,
    /// When it is to go, if the connection is gone.
    leaves: Option<Duration>,
    gone: bool,
}

/// A write that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Awaited(u64);

impl OwnRows {
    /// Connections × channels.
    pub(super) fn rows(&self) -> usize {
        self.connections
    }

    /// Where there are rows, or were a moment ago.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Places with something to write.
    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.rewrite.len() + self.unnote.len()
    }

    pub(super) fn join(&mut self, place: &Place, row: Row) {
        let own = self.places.get_or_insert_with(place, OwnPlace::default);
        match own.rows.get_mut(&row.connection) {
            None => {
                let connection = row.connection;
                own.rows.insert(connection, OwnRow { row, dirty: true, leaves: None, gone: false });
                own.dirty.push(connection);
                self.connections += 1;
            }
            Some(present) => {
                // Who comes back in time has never been away for others, but services hear of two subscriptions.
                let since = if present.leaves.take().is_some() { row.since } else { present.row.since };
                let row = Row { since, ..row };
                if present.gone || present.row != row {
                    present.row = row;
                    present.gone = false;
                    mark(present, &mut own.dirty);
                }
            }
        }
        self.enqueue(place);
    }

    pub(super) fn update(
        &mut self,
        place: &Place,
        connection: ConnectionKey,
        state: State,
        info: Option<Arc<RawValue>>,
    ) {
        let Some(own) = self.places.get_mut(place) else { return };
        let Some(present) = own.rows.get_mut(&connection).filter(|present| !present.gone) else { return };
        let row = Row { state, info, ..present.row.clone() };
        if present.row != row {
            present.row = row;
            mark(present, &mut own.dirty);
            self.enqueue(place);
        }
    }

    /// Says when it is to go. `None` where it is not there, or is to go already.
    pub(super) fn leave(&mut self, at: Duration, place: &Place, connection: ConnectionKey) -> Option<Duration> {
        let present = self.places.get_mut(place)?.rows.get_mut(&connection)?;
        if present.gone || present.leaves.is_some() {
            return None;
        }
        present.leaves = Some(at);
        Some(at)
    }

    /// Its time to go may have come.
    pub(super) fn leave_due(&mut self, now: Duration, place: &Place, connection: ConnectionKey) {
        let Some(own) = self.places.get_mut(place) else { return };
        let Some(present) = own.rows.get_mut(&connection) else { return };
        if !present.gone && present.leaves.is_some_and(|at| at <= now) {
            present.gone = true;
            mark(present, &mut own.dirty);
            self.enqueue(place);
        }
    }

    /// There is a new incarnation: everything is written anew. What was to be removed is the left one's, and goes with it.
    pub(super) fn write_anew(&mut self) {
        let mut ended = Vec::new();
        // In an order that does not depend on how tables are laid out: what a keeper does follows from what it is told.
        let mut places: Vec<_> = self.places.iter_mut().collect();
        places.sort_unstable_by_key(|(place, _)| *place);
        for (place, own) in places {
            own.note = Note::No;
            own.outdated = own.busy;
            own.version = None;
            let before = own.rows.len();
            own.rows.retain(|_, present| !present.gone);
            self.connections -= before - own.rows.len();
            own.dirty = own.rows.keys().copied().collect();
            own.rows.values_mut().for_each(|present| present.dirty = true);
            self.unproven += usize::from(own.unproven.replace(own.writes_left()).is_none());
            if own.rows.is_empty() && !own.busy {
                ended.push(place.clone());
            } else if !own.busy && !own.is_held && own.queue.is_none_or(|queue| queue == Queue::Unnote) {
                own.queue = Some(Queue::Rewrite);
                self.rewrite.push_back(place.clone());
            }
        }
        self.unnote.clear();
        ended.iter().for_each(|place| self.forget(place));
    }

    /// Whether all that was to be written anew is written.
    pub(super) fn is_proven(&self) -> bool {
        self.unproven == 0
    }

    fn forget(&mut self, place: &Place) {
        if let Some(own) = self.places.remove(place) {
            self.unproven -= usize::from(own.unproven.is_some());
        }
    }

    /// The rows of this node on a channel, for when nobody else can be asked.
    pub(super) fn present<'a>(&'a self, place: &Place) -> impl Iterator<Item = &'a Row> + use<'a> {
        let rows = self.places.get(place).into_iter().flat_map(|own| own.rows.values());
        rows.filter(|present| !present.gone).map(|present| &present.row)
    }

    /// The row of a change or a page, which shares the texts of the row that it says the same as.
    pub(super) fn share(&self, place: &Place, row: Row) -> Row {
        let own = self.places.get(place).and_then(|own| own.rows.get(&row.connection));
        own.filter(|present| present.row == row).map_or(row, |present| present.row.clone())
    }

    /// What has to be done before a question sees what was joined before it. `None`: nothing.
    pub(super) fn awaited(&self, place: &Place) -> Option<Awaited> {
        let own = self.places.get(place)?;
        match (own.dirty.is_empty(), own.begun > own.done) {
            // They are written in the order in which they came.
            (false, _) => Some(Awaited(own.writes_left())),
            (true, true) => Some(Awaited(own.begun)),
            (true, false) => None,
        }
    }

    /// Where the channel stood after what was awaited, or after something later. `None`: it is not done.
    pub(super) fn came_to(&self, place: &Place, awaited: Awaited) -> Option<Option<&Version>> {
        match self.places.get(place) {
            Some(own) if own.done < awaited.0 => None,
            Some(own) => Some(own.version.as_ref()),
            None => Some(None),
        }
    }

    /// When [`next_call`](Self::next_call) has something again that it has not now, since rewriting is paced.
    pub(super) fn due(&self) -> Option<Duration> {
        let paced = !self.rewrite.is_empty() && self.fresh.is_empty() && self.unnote.is_empty();
        paced.then(|| {
            self.refilled + Duration::from_secs_f64((1.0 - self.rewrites).max(0.0) / f64::from(REWRITES_PER_SECOND))
        })
    }

    /// The next call, if any.
    pub(super) fn next_call(&mut self, now: Duration, incarnation: &Incarnation) -> Option<Call> {
        self.refill(now);
        loop {
            let (queue, place) = match self.fresh.pop_front() {
                Some(place) => (Queue::Fresh, place),
                None => match self.unnote.pop_front() {
                    Some(place) => (Queue::Unnote, place),
                    None if self.rewrites >= 1.0 => (Queue::Rewrite, self.rewrite.pop_front()?),
                    None => return None,
                },
            };
            let Some(own) = self.places.get_mut(&place) else { continue };
            // It may stand in another queue meanwhile.
            if own.queue != Some(queue) || own.busy {
                continue;
            }
            if queue == Queue::Rewrite {
                self.rewrites -= 1.0;
            }
            let incarnation = incarnation.clone();
            return Some(match (own.note, own.rows.is_empty()) {
                (Note::No | Note::Perhaps, false) => {
                    Call::Note { incarnation, places: self.take_alike(queue, place, false) }
                }
                (_, true) => Call::Unnote { incarnation, places: self.take_alike(queue, place, true) },
                (Note::Yes, false) => {
                    own.begin_call();
                    Call::Write(own.begin_write(place, incarnation))
                }
            });
        }
    }

    /// Takes those that follow in the queue and need the same call. `first` was taken out of it.
    fn take_alike(&mut self, queue: Queue, first: Place, is_empty: bool) -> Vec<Place> {
        let waiting = match queue {
            Queue::Fresh => &mut self.fresh,
            Queue::Rewrite => &mut self.rewrite,
            Queue::Unnote => &mut self.unnote,
        };
        // Each at once: one that stands in the queue twice is taken once, or its answer would be taken twice.
        if let Some(own) = self.places.get_mut(&first) {
            own.begin_call();
        }
        let mut alike = vec![first];
        while alike.len() < PLACES_PER_NOTE
            && let Some(place) = waiting.front()
            && let Some(own) = self.places.get_mut(place)
            && own.queue == Some(queue)
            && !own.busy
            && own.rows.is_empty() == is_empty
            && (is_empty || own.note != Note::Yes)
        {
            own.begin_call();
            alike.extend(waiting.pop_front());
        }
        alike
    }

    pub(super) fn handle_noted(&mut self, places: &[Place], done: bool) {
        for place in places {
            let Some(own) = self.places.get_mut(place) else { continue };
            own.busy = false;
            if !std::mem::take(&mut own.outdated) {
                own.note = if done { Note::Yes } else { Note::Perhaps };
            }
            self.enqueue(place);
        }
    }

    pub(super) fn handle_unnoted(&mut self, places: &[Place], done: bool) {
        for place in places {
            let Some(own) = self.places.get_mut(place) else { continue };
            own.busy = false;
            let is_outdated = std::mem::take(&mut own.outdated);
            // Where it failed nobody knows; whoever comes is noted, which twice is the same as once.
            own.note = if done || is_outdated { Note::No } else { Note::Perhaps };
            self.enqueue(place);
        }
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.places.contains_key(place)
    }

    /// Whether the store does not take what is to be written there.
    pub(super) fn is_held(&self, place: &Place) -> bool {
        self.places.get(place).is_some_and(|own| own.is_held)
    }

    /// Nothing is tried for a place until it is released.
    pub(super) fn hold(&mut self, place: &Place) {
        if let Some(own) = self.places.get_mut(place) {
            own.is_held = true;
            // Where it stands in a queue it is passed over.
            own.queue = None;
        }
    }

    pub(super) fn release(&mut self, place: &Place) {
        if let Some(own) = self.places.get_mut(place) {
            own.is_held = false;
        }
        self.enqueue(place);
    }

    /// `version` is what the channel stands at, where it was done.
    pub(super) fn handle_written(&mut self, write: &Write, version: Option<&Version>) {
        let Some(own) = self.places.get_mut(&write.place) else { return };
        own.busy = false;
        own.outdated = false;
        own.done = own.begun;
        if let Some(version) = version {
            own.version = Some(version.clone());
            for connection in &write.removes {
                if own.rows.get(connection).is_some_and(|present| present.gone && !present.dirty) {
                    own.rows.remove(connection);
                    self.connections -= 1;
                }
            }
        } else {
            let written = write.puts.iter().map(|row| row.connection).chain(write.removes.iter().copied());
            for connection in written {
                if let Some(present) = own.rows.get_mut(&connection) {
                    mark(present, &mut own.dirty);
                }
            }
            let left = own.writes_left();
            own.unproven = own.unproven.map(|_| left);
        }
        if own.unproven.is_some_and(|target| own.done >= target) {
            own.unproven = None;
            self.unproven -= 1;
        }
        self.enqueue(&write.place);
    }

    /// Puts a place into the queue where it belongs, if it does.
    fn enqueue(&mut self, place: &Place) {
        let Some(own) = self.places.get_mut(place) else { return };
        if own.busy || own.is_held {
            return;
        }
        let (wanted, waiting) = match (own.rows.is_empty(), own.dirty.is_empty()) {
            (true, _) if own.note == Note::No => return self.forget(place),
            (true, _) => (Queue::Unnote, &mut self.unnote),
            (false, true) => return,
            (false, false) => (Queue::Fresh, &mut self.fresh),
        };
        // Who comes does not wait for those that were there before.
        if own.queue.is_none() || (own.queue != Some(Queue::Fresh) && wanted == Queue::Fresh) {
            own.queue = Some(wanted);
            waiting.push_back(place.clone());
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        self.rewrites = (self.rewrites + passed * f64::from(REWRITES_PER_SECOND)).min(REWRITE_BURST);
        self.refilled = self.refilled.max(now);
    }
}

impl OwnPlace {
    fn begin_call(&mut self) {
        self.busy = true;
        self.queue = None;
    }

    /// How many writes are begun once all is written that is to be written now.
    fn writes_left(&self) -> u64 {
        self.begun + self.dirty.len().div_ceil(ROWS_PER_WRITE) as u64
    }

    fn begin_write(&mut self, place: Place, incarnation: Incarnation) -> Write {
        let mut write = Write { place, incarnation, puts: Vec::new(), removes: Vec::new() };
        let rest = self.dirty.split_off(self.dirty.len().min(ROWS_PER_WRITE));
        for connection in std::mem::replace(&mut self.dirty, rest) {
            let Some(present) = self.rows.get_mut(&connection) else { continue };
            present.dirty = false;
            match present.gone {
                true => write.removes.push(connection),
                false => write.puts.push(present.row.clone()),
            }
        }
        self.begun += 1;
        write
    }
}

fn mark(present: &mut OwnRow, dirty: &mut Vec<ConnectionKey>) {
    if !std::mem::replace(&mut present.dirty, true) {
        dirty.push(present.row.connection);
    }
}
