//! What those who watch a channel are told, and when. Pure; time is an argument.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{Member, Roster, User};

/// Who is told what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// Names, and counts alone where there are too many.
    Auto,
    /// Names, however many.
    Names,
}

/// What became of one member: `data` of `presence:change`.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// Who.
    pub user: User,
    /// `online`, `idle`, an own word, or `offline`.
    pub status: Arc<str>,
    /// The info of the connection whose state it is.
    pub info: Option<Arc<RawValue>>,
    /// How many connections; 0 when offline.
    pub connections: u32,
    /// By one higher than in the announcement before, for this audience.
    pub version: u64,
}

/// How many there are: `data` of `presence:count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Members.
    pub users: usize,
    /// Their connections.
    pub connections: usize,
    /// By one higher than in the announcement before, for this audience.
    pub version: u64,
}

/// One event to tell.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// `presence:change`
    Change(MemberChange),
    /// `presence:count`
    Count(Counts),
    /// There are few enough again to be named: everybody is to get a snapshot, whose version is this.
    Snapshot(u64),
}

/// Gathers changes of one channel for one audience, and says what is told after the batch time.
#[derive(Debug)]
pub struct Announcer {
    _audience: Audience,
}

impl Announcer {
    /// Tells nothing of what is there already. `batch` is how long changes are gathered; above `max_named` members
    /// [`Audience::Auto`] gets counts.
    pub fn new(audience: Audience, _batch: Duration, _max_named: usize, _roster: &Roster) -> Self {
        Self { _audience: audience }
    }

    /// A member is about to change, or has changed: `before` is what it was, `None` where it was not there.
    pub fn handle_change(&mut self, _now: Duration, _user: &User, _before: Option<Member>) {}

    /// When [`poll`](Self::poll) has something; `None` while nothing waits.
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// What is to be told now: nothing before the batch time is over. Changes that came to nothing are not told.
    pub fn poll(&mut self, _now: Duration, _roster: &Roster) -> Vec<Announcement> {
        Vec::new()
    }

    /// The version of the last announcement: what a snapshot carries.
    pub fn version(&self) -> u64 {
        0
    }

    /// Whether members are told by counts alone at the moment.
    pub fn counts_only(&self) -> bool {
        false
    }
}
