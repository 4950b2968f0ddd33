//! Which connections a user has on a channel, by how active they are.

use crate::{ConnectionKey, State};

/// Nearly all users have one.
#[derive(Debug)]
pub(super) enum Connections {
    One(ConnectionKey),
    Several(Several),
}

/// In order. A change moves what lies behind it, which is microseconds for thousands.
#[derive(Debug)]
pub(super) struct Several(Vec<Rank>);

/// The greatest is what others see of the user. A rule about rows alone, so that all nodes come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    activity: u8,
    since: u64,
    connection: ConnectionKey,
}

impl Rank {
    pub(super) fn of(state: &State, since: u64, connection: ConnectionKey) -> Self {
        let activity = match state {
            State::Idle => 0,
            State::Online => 1,
            State::Own(_) => 2,
        };
        Self { activity, since, connection }
    }
}

impl Connections {
    pub(super) fn count(&self) -> u32 {
        match self {
            Self::One(_) => 1,
            Self::Several(several) => u32::try_from(several.0.len()).unwrap_or(u32::MAX),
        }
    }

    /// One more. `rank_of` says what the only one so far is.
    pub(super) fn add(&mut self, rank: Rank, rank_of: impl FnOnce(ConnectionKey) -> Rank) {
        match self {
            Self::One(only) => {
                let mut both = Vec::with_capacity(2);
                both.extend([rank_of(*only), rank]);
                both.sort();
                *self = Self::Several(Several(both));
            }
            Self::Several(several) => several.insert(rank),
        }
    }

    /// One is doing something else.
    pub(super) fn rank_again(&mut self, old: Rank, new: Rank) {
        if let Self::Several(several) = self
            && old != new
        {
            several.remove(old);
            several.insert(new);
        }
    }

    /// One less. Whether any is left.
    pub(super) fn remove(&mut self, rank: Rank) -> bool {
        let Self::Several(several) = self else { return false };
        several.remove(rank);
        if several.0.len() == 1 {
            *self = Self::One(several.most_active());
        }
        true
    }
}

impl Several {
    pub(super) fn most_active(&self) -> ConnectionKey {
        self.0.last().expect("there are several").connection
    }

    pub(super) fn first_since(&self) -> u64 {
        self.0.iter().map(|rank| rank.since).min().expect("there are several")
    }

    fn insert(&mut self, rank: Rank) {
        if let Err(place) = self.0.binary_search(&rank) {
            self.0.insert(place, rank);
        }
    }

    fn remove(&mut self, rank: Rank) {
        if let Ok(place) = self.0.binary_search(&rank) {
            self.0.remove(place);
        }
    }
}
