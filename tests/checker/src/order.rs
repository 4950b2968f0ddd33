//! What is on a channel, in order, as far as anybody knows: publishers, clients, and the broker's history.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::Position;

/// One numbering of a channel.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    places: BTreeMap<u64, Place>,
}

/// The publication at one offset.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: Arc<str>,
    /// When it was sent.
    pub(crate) begun: Duration,
    pub(crate) bytes: usize,
}

/// Everything that is known to have been published on a channel.
#[derive(Debug, Default)]
pub(crate) struct Order {
    numberings: HashMap<Arc<str>, Numbering>,
    positions: HashMap<Arc<str>, Position>,
}

/// A publication is claimed to be where another is, or in two places.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Another id is there.
    Taken(Arc<str>),
    /// The same id is elsewhere.
    Elsewhere(Position),
}

impl Numbering {
    pub(crate) fn at(&self, offset: u64) -> Option<&Place> {
        self.places.get(&offset)
    }

    /// What lies behind an offset, in order.
    pub(crate) fn behind(&self, offset: u64) -> impl Iterator<Item = (u64, &Place)> {
        self.places.range(offset.saturating_add(1)..).map(|(offset, place)| (*offset, place))
    }

    /// What lies behind an offset, before another.
    pub(crate) fn between(&self, offset: u64, end: u64) -> impl Iterator<Item = (u64, &Place)> {
        self.behind(offset).take_while(move |(at, _)| *at < end)
    }

    /// When the first of it was sent.
    pub(crate) fn begun(&self) -> Duration {
        self.places.values().map(|place| place.begun).min().unwrap_or(Duration::MAX)
    }
}

impl Order {
    /// Somebody knows that a publication is at a position.
    pub(crate) fn claim(&mut self, position: &Position, place: Place) -> Result<(), Conflict> {
        if let Some(other) = self.positions.get(&place.id) {
            return if other == position { Ok(()) } else { Err(Conflict::Elsewhere(other.clone())) };
        }
        let places = &mut self.numberings.entry(Arc::clone(&position.epoch)).or_default().places;
        if let Some(other) = places.get(&position.offset) {
            return Err(Conflict::Taken(Arc::clone(&other.id)));
        }
        self.positions.insert(Arc::clone(&place.id), position.clone());
        places.insert(position.offset, place);
        Ok(())
    }

    /// Where a publication is, if anybody knows.
    pub(crate) fn position(&self, id: &str) -> Option<&Position> {
        self.positions.get(id)
    }

    /// All publications of one numbering.
    pub(crate) fn numbering(&self, epoch: &str) -> Option<&Numbering> {
        self.numberings.get(epoch)
    }

    /// The epochs there are, the oldest first.
    pub(crate) fn epochs(&self) -> Vec<&Arc<str>> {
        let mut epochs: Vec<_> = self.numberings.iter().map(|(epoch, own)| (own.begun(), epoch)).collect();
        epochs.sort();
        epochs.into_iter().map(|(_, epoch)| epoch).collect()
    }
}
