//! A channel's rows as this node mirrors them: listening first, then reading, then following. Pure; time is an argument.
//!
//! Versions are consecutive, so a change that was missed shows; then everything is read anew, and those who watch are told the
//! difference. Changes that come while pages are read are applied behind them: each says all of its row, so that the order of
//! pages and changes does not matter as long as no change after the first page is missing.
//!
//! Where the store has lost what it had, those who are missing are most likely there, and their nodes write them again: for the time of
//! a lease they stay, and answers are stale.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::own::Awaited;
use crate::{
    Announcer, Audience, Changed, ConnectionKey, Incarnation, Query, QueryId, Roster, Row, RowChange, RowPage, User,
    Version,
};

/// Changes of rows that may wait while pages are read; beyond it reading begins anew.
const BUFFERED_ROWS: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) roster: Roster,
    pub(super) phase: Phase,
    /// What it follows is what the store has, as far as anybody knows: nothing was interrupted since.
    is_confirmed: bool,
    /// What was followed last.
    followed: Option<Version>,
    /// Connections that the store had before it lost its data, and has not again; and until when they are believed.
    unproven: Option<Box<Unproven>>,
    /// A question or a call for it stands in a queue.
    pub(super) is_queued: bool,
    /// The last call for it failed, and it is not time to try again.
    pub(super) is_held: bool,
    /// Whom to tell; the announcer is there once there is something to compare with.
    watchers: [Watcher; 2],
    pub(super) waiting: Vec<Waiting>,
    /// When nobody watches any more, until when it is followed all the same.
    pub(super) lingers_until: Option<Duration>,
}

#[derive(Debug, Default)]
struct Unproven {
    connections: HashMap<ConnectionKey, User>,
    until: Duration,
}

#[derive(Debug, Default)]
struct Watcher {
    is_there: bool,
    announcer: Option<Box<Announcer>>,
    /// Somebody was shown what the node knew when it could not ask the store.
    is_owed: bool,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// The store has still to be asked to tell of changes.
    Unlistened,
    /// It is asked.
    Listening,
    /// It tells, and rows are to be read.
    Unread,
    /// They are being read.
    Reading(Box<Reading>),
    /// The roster is that of the version that was followed last.
    Following,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Which it is: an answer to one before, of a mirror that is gone, is none to this.
    number: u64,
    first: Option<Version>,
    rows: Vec<(Incarnation, Row)>,
    /// What was told meanwhile.
    changes: Vec<(Version, Vec<RowChange>)>,
    changed_rows: usize,
    /// Something has happened that makes it worthless.
    is_void: bool,
}

/// A question that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: QueryId,
    pub(super) query: Query,
    pub(super) awaited: Option<Awaited>,
    pub(super) until: Duration,
}

/// What a page came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PageRead {
    /// There is more; read on from here.
    More(u64),
    /// It is followed now.
    Done,
    /// Something was missed meanwhile: it has to be read anew.
    Again,
}

impl Mirror {
    pub(super) fn new() -> Self {
        Self {
            roster: Roster::default(),
            phase: Phase::Unlistened,
            is_confirmed: false,
            followed: None,
            unproven: None,
            is_queued: false,
            is_held: false,
            watchers: Default::default(),
            waiting: Vec::new(),
            lingers_until: None,
        }
    }

    pub(super) fn watch(&mut self, audience: Audience) {
        self.watchers[audience as usize].is_there = true;
        self.lingers_until = None;
    }

    /// Says whether somebody still watches.
    pub(super) fn unwatch(&mut self, audience: Audience) -> bool {
        self.watchers[audience as usize] = Watcher::default();
        self.is_watched()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.is_there)
    }

    /// Whether what it has is what the store has, as far as anybody knows.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed && self.unproven.is_none() && self.version().is_some()
    }

    /// The store says that nothing was missed, or that something may have been.
    pub(super) fn set_confirmed(&mut self, is_confirmed: bool) {
        self.is_confirmed = is_confirmed;
    }

    /// Somebody of an audience without an announcer was shown what is known now: they are to be shown all of it later.
    pub(super) fn owe(&mut self, audience: Audience) {
        let watcher = &mut self.watchers[audience as usize];
        watcher.is_owed = watcher.is_there && watcher.announcer.is_none();
    }

    /// When those who are only believed to be there are believed no more.
    pub(super) fn unproven_until(&self) -> Option<Duration> {
        self.unproven.as_ref().map(|unproven| unproven.until)
    }

    /// The time of those may be over.
    pub(super) fn end_unproven(&mut self, now: Duration) {
        let Some(unproven) = self.unproven.take_if(|unproven| unproven.until <= now) else { return };
        for (connection, user) in unproven.connections {
            let changed = self.roster.apply(RowChange::Removed { connection, user });
            self.note(now, &changed);
        }
    }

    /// Where it stands; `None` where it does not follow.
    pub(super) fn version(&self) -> Option<&Version> {
        match &self.phase {
            Phase::Following => self.followed.as_ref(),
            _ => None,
        }
    }

    pub(super) fn announcer(&mut self, audience: Audience) -> Option<&mut Announcer> {
        self.watchers[audience as usize].announcer.as_deref_mut()
    }

    /// An announcer for each audience that has none, once there is something to compare with. Says which audiences are to be shown
    /// everything, and with which version.
    pub(super) fn prepare(&mut self, batch: Duration, max_named: usize) -> Vec<(Audience, u64)> {
        let mut owed = Vec::new();
        if !matches!(self.phase, Phase::Following) {
            return owed;
        }
        for (watcher, audience) in self.watchers.iter_mut().zip([Audience::Auto, Audience::Names]) {
            if watcher.is_there && watcher.announcer.is_none() {
                let announcer =
                    watcher.announcer.insert(Box::new(Announcer::new(audience, batch, max_named, &self.roster)));
                if std::mem::take(&mut watcher.is_owed) {
                    owed.push((audience, announcer.show()));
                }
            }
        }
        owed
    }

    /// When the next announcement is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.watchers.iter().filter_map(|watcher| watcher.announcer.as_ref()?.poll_timeout()).min()
    }

    /// Takes a change. `false`: one before it was missed, and everything has to be read anew.
    pub(super) fn handle_change(&mut self, now: Duration, version: Version, changes: Vec<RowChange>) -> bool {
        let at = match (&mut self.phase, &self.followed) {
            (Phase::Reading(reading), _) => {
                reading.note(version, changes);
                return true;
            }
            (Phase::Following, Some(at)) => at,
            // What happened before the first page is in the pages.
            _ => return true,
        };
        if version.epoch == at.epoch && version.number <= at.number {
            return true;
        }
        if !follows(at, &version) {
            self.phase = Phase::Unread;
            return false;
        }
        self.followed = Some(version);
        for change in changes {
            self.apply(now, change);
        }
        true
    }

    /// Everything has to be read anew. `true`: that has to be begun.
    pub(super) fn handle_doubt(&mut self) -> bool {
        match &mut self.phase {
            Phase::Following => {
                self.phase = Phase::Unread;
                true
            }
            Phase::Reading(reading) => {
                reading.is_void = true;
                false
            }
            Phase::Unlistened | Phase::Listening | Phase::Unread => false,
        }
    }

    pub(super) fn begin_reading(&mut self, number: u64) {
        self.phase = Phase::Reading(Box::new(Reading { number, ..Reading::default() }));
    }

    /// Whether this is the reading that is under way.
    pub(super) fn reads(&self, number: u64) -> bool {
        matches!(&self.phase, Phase::Reading(reading) if reading.number == number)
    }

    /// Takes a page of a reading. Rows of the dead are passed over, unless they were there before: those go when they are reaped, if
    /// their node does not write them again before.
    pub(super) fn handle_page(
        &mut self,
        now: Duration,
        lease: Duration,
        page: RowPage,
        is_dead: impl Fn(&Incarnation) -> bool,
    ) -> PageRead {
        let Phase::Reading(reading) = &mut self.phase else { return PageRead::Done };
        let first = reading.first.get_or_insert_with(|| page.version.clone());
        let is_void = reading.is_void || (first.epoch != page.version.epoch && first.number > 0);
        if is_void {
            self.phase = Phase::Unread;
            return PageRead::Again;
        }
        if first.number == 0 {
            // The numbering began while it was read; nothing was there before.
            *first = Version { epoch: page.version.epoch.clone(), number: 0 };
        }
        let is_there = |row: &Row| self.roster.has(row.connection);
        reading.rows.extend(page.rows.into_iter().filter(|(incarnation, row)| !is_dead(incarnation) || is_there(row)));
        match page.next {
            Some(cursor) => PageRead::More(cursor),
            None => self.take_over(now, lease),
        }
    }

    /// All pages are read: what they say, and what came meanwhile, is the roster.
    fn take_over(&mut self, now: Duration, lease: Duration) -> PageRead {
        let Phase::Reading(reading) = std::mem::replace(&mut self.phase, Phase::Unread) else { return PageRead::Again };
        let Reading { first, rows, changes: came, .. } = *reading;
        let mut version = first.unwrap_or(Version { epoch: String::new(), number: 0 });
        let mut roster = Roster::default();
        roster.replace(rows);
        let mut changed = HashSet::new();
        for (next, changes) in came {
            if next.epoch == version.epoch && next.number <= version.number {
                continue;
            }
            if !follows(&version, &next) {
                return PageRead::Again;
            }
            version = next;
            for change in changes {
                changed.insert(connection_of(&change));
                roster.apply(change);
            }
        }
        let is_lost = self.followed.as_ref().is_some_and(|at| at.epoch != version.epoch || at.number > version.number);
        let before = std::mem::take(&mut self.roster);
        let believed = self.unproven.take().map(|unproven| *unproven).unwrap_or_default();
        let until = if is_lost { now + lease } else { believed.until };
        let mut unproven = Unproven { connections: HashMap::new(), until };
        for (incarnation, row) in before.rows() {
            let connection = row.connection;
            let was_believed = is_lost || believed.connections.contains_key(&connection);
            // Incarnations whose leases were lost count as dead before they have written anything again.
            if was_believed && !changed.contains(&connection) && !roster.has(connection) {
                unproven.connections.insert(connection, row.user.clone());
                roster.apply(RowChange::Put(incarnation.clone(), row));
            }
        }
        self.unproven = (!unproven.connections.is_empty()).then(|| Box::new(unproven));
        self.roster = roster;
        self.followed = Some(version);
        self.phase = Phase::Following;
        self.is_confirmed = true;
        self.note_differences(now, &before);
        PageRead::Done
    }

    fn apply(&mut self, now: Duration, change: RowChange) {
        if let Some(unproven) = &mut self.unproven {
            unproven.connections.remove(&connection_of(&change));
        }
        self.unproven.take_if(|unproven| unproven.connections.is_empty());
        let changed = self.roster.apply(change);
        self.note(now, &changed);
    }

    fn note(&mut self, now: Duration, changed: &[Changed]) {
        for announcer in self.watchers.iter_mut().filter_map(|watcher| watcher.announcer.as_mut()) {
            changed.iter().for_each(|changed| announcer.handle_change(now, changed));
        }
    }

    fn note_differences(&mut self, now: Duration, before: &Roster) {
        if self.watchers.iter().any(|watcher| watcher.announcer.is_some()) {
            let changed = self.roster.differences(before);
            self.note(now, &changed);
        }
    }
}

impl Reading {
    fn note(&mut self, version: Version, changes: Vec<RowChange>) {
        self.changed_rows += changes.len();
        self.changes.push((version, changes));
        if self.changed_rows > BUFFERED_ROWS {
            self.is_void = true;
            self.changes = Vec::new();
            self.changed_rows = 0;
        }
    }
}

fn connection_of(change: &RowChange) -> ConnectionKey {
    match change {
        RowChange::Put(_, row) => row.connection,
        RowChange::Removed { connection, .. } => *connection,
    }
}

/// Whether nothing lies between the two. Where nothing was ever written there is no epoch yet.
fn follows(at: &Version, next: &Version) -> bool {
    next.number == at.number + 1 && (next.epoch == at.epoch || at.number == 0)
}
