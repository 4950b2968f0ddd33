//! What publishers were told.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::client_log::fingerprint;

/// The publications of one publisher. Ids are unique on their channel over all publishers.
#[derive(Debug, Default)]
pub struct PublisherLog {
    pub(crate) attempts: HashMap<(Box<str>, Box<str>), Attempt>,
}

/// One publication that was sent to the broker, once or again.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// When it was sent first: the broker cannot have had it before.
    pub(crate) begun: Duration,
    pub(crate) body: u64,
    pub(crate) bytes: usize,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No answer, or one that leaves it open.
    Unknown,
    /// The broker said that it does not have it.
    Refused,
    /// The broker has it, at these places; one, unless something is wrong.
    Accepted(Vec<(u64, Option<Arc<str>>)>),
}

impl PublisherLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// A publish is about to be sent. Its outcome is unknown until it is told. The same id may be sent again.
    pub fn attempted(&mut self, at: Duration, channel: &str, id: &str, data: &str) {
        let new = Attempt { begun: at, body: fingerprint(data), bytes: data.len(), outcome: Outcome::Unknown };
        let attempt = self.attempts.entry((channel.into(), id.into())).or_insert(new);
        if attempt.outcome == Outcome::Refused {
            attempt.outcome = Outcome::Unknown;
        }
    }

    /// The broker has it, at this offset; the epoch where the answer names one.
    pub fn accepted(&mut self, channel: &str, id: &str, offset: u64, epoch: Option<&str>) {
        let attempt = self.attempt(channel, id);
        let place = (offset, epoch.map(Arc::from));
        match &mut attempt.outcome {
            Outcome::Accepted(places) if places.contains(&place) => {}
            Outcome::Accepted(places) => places.push(place),
            outcome => *outcome = Outcome::Accepted(vec![place]),
        }
    }

    /// The answer says that it was not published, and no earlier try of it may have been.
    pub fn refused(&mut self, channel: &str, id: &str) {
        self.attempt(channel, id).outcome = Outcome::Refused;
    }

    /// How many were accepted.
    pub fn accepted_count(&self) -> usize {
        self.attempts.values().filter(|attempt| matches!(attempt.outcome, Outcome::Accepted(_))).count()
    }

    fn attempt(&mut self, channel: &str, id: &str) -> &mut Attempt {
        let attempt = self.attempts.get_mut(&(channel.into(), id.into()));
        attempt.unwrap_or_else(|| panic!("{id} on {channel} has an answer, but was never sent"))
    }
}
