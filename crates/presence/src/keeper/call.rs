//! Calls at the store, and what they come to.

use std::time::Duration;

use crate::{
    Incarnation, Leases, Place, PresenceStore, Reap, Reaped, Renewal, RowPage, Standing, StoreError, Write, Written,
};

/// Something that the store is to do.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a method of PresenceStore with its arguments")]
pub enum Call {
    Renew(Renewal),
    Resign {
        incarnation: Incarnation,
        after: Duration,
        at_once: bool,
    },
    Write(Write),
    Note {
        incarnation: Incarnation,
        places: Vec<Place>,
    },
    Unnote {
        incarnation: Incarnation,
        places: Vec<Place>,
    },
    Noted {
        incarnation: Incarnation,
        cursor: Option<u64>,
        limit: usize,
    },
    /// `reading` tells which reading of the channel it belongs to.
    Read {
        place: Place,
        cursor: Option<u64>,
        limit: usize,
        reading: u64,
    },
    Standings(Vec<Place>),
    Reap(Reap),
    Reaped {
        dead: Incarnation,
        again: Duration,
    },
    Listen(Vec<Place>),
    Unlisten(Vec<Place>),
}

/// What a call came to.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is what the method of PresenceStore answers")]
pub enum Outcome {
    Renewed(Result<Leases, StoreError>),
    Written(Result<Written, StoreError>),
    Noted(Result<(Vec<Place>, Option<u64>), StoreError>),
    Read(Result<RowPage, StoreError>),
    Standings(Result<Vec<Standing>, StoreError>),
    Reaped(Result<Reaped, StoreError>),
    Done(Result<(), StoreError>),
}

impl Outcome {
    /// Why it was not done.
    pub fn failure(&self) -> Option<&StoreError> {
        match self {
            Self::Renewed(result) => result.as_ref().err(),
            Self::Written(result) => result.as_ref().err(),
            Self::Noted(result) => result.as_ref().err(),
            Self::Read(result) => result.as_ref().err(),
            Self::Standings(result) => result.as_ref().err(),
            Self::Reaped(result) => result.as_ref().err(),
            Self::Done(result) => result.as_ref().err(),
        }
    }
}

impl Call {
    /// A word for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Renew(_) => "renew",
            Self::Resign { .. } => "resign",
            Self::Write(_) => "write",
            Self::Note { .. } => "note",
            Self::Unnote { .. } => "unnote",
            Self::Noted { .. } => "noted",
            Self::Read { .. } => "read",
            Self::Standings(_) => "standings",
            Self::Reap(_) => "reap",
            Self::Reaped { .. } => "reaped",
            Self::Listen(_) => "listen",
            Self::Unlisten(_) => "unlisten",
        }
    }

    /// The channels that it is about, where it is this node's business whether it is done there.
    pub(super) fn places(&self) -> &[Place] {
        match self {
            Self::Write(write) => std::slice::from_ref(&write.place),
            Self::Read { place, .. } => std::slice::from_ref(place),
            Self::Note { places, .. } | Self::Unnote { places, .. } | Self::Listen(places) => places,
            Self::Renew(_)
            | Self::Resign { .. }
            | Self::Noted { .. }
            | Self::Standings(_)
            | Self::Reap(_)
            | Self::Reaped { .. }
            | Self::Unlisten(_) => &[],
        }
    }

    /// Has the store do it.
    pub async fn carry_out(&self, store: &dyn PresenceStore) -> Outcome {
        match self {
            Self::Renew(renewal) => Outcome::Renewed(store.renew(renewal.clone()).await),
            Self::Resign { incarnation, after, at_once } => {
                Outcome::Done(store.resign(incarnation, *after, *at_once).await)
            }
            Self::Write(write) => Outcome::Written(store.write(write.clone()).await),
            Self::Note { incarnation, places } => Outcome::Done(store.note(incarnation, places).await),
            Self::Unnote { incarnation, places } => Outcome::Done(store.unnote(incarnation, places).await),
            Self::Noted { incarnation, cursor, limit } => {
                Outcome::Noted(store.noted(incarnation, *cursor, *limit).await)
            }
            Self::Read { place, cursor, limit, .. } => Outcome::Read(store.read(place, *cursor, *limit).await),
            Self::Standings(places) => Outcome::Standings(store.standings(places).await),
            Self::Reap(reap) => Outcome::Reaped(store.reap(reap.clone()).await),
            Self::Reaped { dead, again } => Outcome::Done(store.reaped(dead, *again).await),
            Self::Listen(places) => Outcome::Done(store.listen(places).await),
            Self::Unlisten(places) => {
                store.unlisten(places).await;
                Outcome::Done(Ok(()))
            }
        }
    }
}
