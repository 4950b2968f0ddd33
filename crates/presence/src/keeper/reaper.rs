//! Removing the rows of nodes that have died. Pure.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use crate::{Call, Incarnation, Place, Reap, Reaped, Row};

/// Places that are read from a dead node's notes with one call.
const PLACES_PER_READ: usize = 100;
/// How long after a reaping that found something the dead are looked at again, and after one that found nothing, at the soonest: the
/// store sees to it that it is done less and less often. What they have noted stays for as long as they are known: what they wrote too
/// late is found by it.
const SOON: Duration = Duration::from_secs(3);
const LATER: Duration = Duration::from_secs(60);

/// What a node reaps, one dead incarnation after the other.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    jobs: VecDeque<Job>,
}

#[derive(Debug)]
struct Job {
    dead: Incarnation,
    stage: Stage,
    /// Places that may not have been noted, until they are among those to reap.
    unnoted: VecDeque<Place>,
    /// Places to reap.
    places: VecDeque<Place>,
    /// Places that are being reaped.
    reaping: usize,
    found: bool,
    busy: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Read the notes from here.
    Read(Option<u64>),
    /// Reap the places that were read; then read on from here, if there is more.
    Reap(Option<u64>),
    /// Say that it is done.
    Finish,
    /// Something failed. It goes when its last call is back: an answer must not be taken for one to a later reaping.
    Failed,
}

/// Rows that were removed.
pub(super) struct Removed {
    pub(super) rows: Vec<Row>,
    pub(super) vacated: bool,
}

impl Reaper {
    /// `unnoted` are reaped too, whatever is noted.
    pub(super) fn begin(&mut self, dead: Incarnation, unnoted: VecDeque<Place>) {
        if !self.jobs.iter().any(|job| job.dead == dead) {
            let (stage, places) = (Stage::Read(None), VecDeque::new());
            self.jobs.push_back(Job { dead, stage, unnoted, places, reaping: 0, found: false, busy: false });
        }
    }

    /// Nothing is reaped any more: this node may be the one that is dead.
    pub(super) fn stop(&mut self) {
        self.jobs.iter_mut().for_each(Job::fail);
        self.jobs.retain(Job::has_calls);
    }

    pub(super) fn next_call(&mut self) -> Option<Call> {
        self.jobs.iter_mut().find_map(Job::next_call)
    }

    pub(super) fn handle_noted(&mut self, dead: &Incarnation, result: Option<(Vec<Place>, Option<u64>)>) {
        let Some(job) = self.job(dead) else { return };
        job.busy = false;
        match result {
            Some((places, next)) if job.stage != Stage::Failed => {
                let noted: HashSet<&Place> = places.iter().collect();
                let unnoted = std::mem::take(&mut job.unnoted).into_iter();
                job.places.extend(unnoted.filter(|place| !noted.contains(place)));
                job.places.extend(places);
                job.stage = Stage::Reap(next);
            }
            _ => self.give_up(dead),
        }
    }

    pub(super) fn handle_reaped(&mut self, reap: Reap, result: Option<Reaped>) -> Option<Removed> {
        let job = self.job(&reap.dead)?;
        job.reaping -= 1;
        let has_failed = job.stage == Stage::Failed;
        let Some(reaped) = result else {
            self.give_up(&reap.dead);
            return None;
        };
        job.found |= !reaped.removed.is_empty();
        if has_failed {
            self.give_up(&reap.dead);
        } else if reaped.more {
            job.places.push_front(reap.place);
        }
        Some(Removed { rows: reaped.removed, vacated: reaped.vacated })
    }

    /// The end was told.
    pub(super) fn handle_done(&mut self, dead: &Incarnation, done: bool) {
        let Some(job) = self.job(dead) else { return };
        job.busy = false;
        if !done || matches!(job.stage, Stage::Finish | Stage::Failed) {
            self.give_up(dead);
        }
    }

    fn job(&mut self, dead: &Incarnation) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.dead == *dead)
    }

    /// It is done, or whoever is given it next has to do it.
    fn give_up(&mut self, dead: &Incarnation) {
        if let Some(job) = self.job(dead) {
            job.fail();
        }
        self.jobs.retain(|job| job.dead != *dead || job.has_calls());
    }
}

impl Job {
    fn fail(&mut self) {
        self.stage = Stage::Failed;
        self.places.clear();
    }

    fn has_calls(&self) -> bool {
        self.busy || self.reaping > 0
    }

    fn next_call(&mut self) -> Option<Call> {
        if self.busy || self.stage == Stage::Failed {
            return None;
        }
        if let Some(place) = self.places.pop_front() {
            self.reaping += 1;
            return Some(Call::Reap(Reap { place, dead: self.dead.clone() }));
        }
        if self.reaping > 0 {
            return None;
        }
        self.busy = true;
        let dead = self.dead.clone();
        Some(match self.stage {
            Stage::Read(cursor) => Call::Noted { incarnation: dead, cursor, limit: PLACES_PER_READ },
            Stage::Reap(Some(cursor)) => {
                self.stage = Stage::Read(Some(cursor));
                Call::Noted { incarnation: dead, cursor: Some(cursor), limit: PLACES_PER_READ }
            }
            // The last is never here.
            Stage::Reap(None) | Stage::Finish | Stage::Failed => {
                self.stage = Stage::Finish;
                let again = if self.found { SOON } else { LATER };
                Call::Reaped { dead, again }
            }
        })
    }
}
