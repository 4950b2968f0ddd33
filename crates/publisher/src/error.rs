//! What was and was not accepted, and why.

use std::{fmt, time::Duration};

use crate::Published;

/// What is known about a publication after a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acceptance {
    /// It was refused for good: the same publication would be refused again.
    Refused,
    /// It was not accepted, and the same publication may be later.
    NotAccepted,
    /// It was sent and no clear answer came: it may or may not have been accepted.
    Unknown,
}

/// Why an event was not published, or why that is not known.
///
/// [`acceptance`](Self::acceptance) says in one word what holds.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A name, a field or the data breaks a rule. Nothing was sent.
    #[error("the event for {channel:?} was not sent: {reason}")]
    Invalid {
        /// The channel as it was given.
        channel: String,
        /// The rule, and what is allowed.
        reason: String,
    },
    /// The broker or the node refused, and would again. It was not accepted.
    #[error("publication {id} on {channel} was refused by {by}: {reason}")]
    Refused {
        /// The publication's id.
        id: String,
        /// The channel.
        channel: String,
        /// Who refused: `nats`, `redis`, `http`.
        by: &'static str,
        /// What was said.
        reason: String,
    },
    /// No attempt within the deadline succeeded, and none may have been accepted.
    #[error("publication {id} on {channel} was not accepted by {by} within {waited:?} ({attempts} attempts): {reason}")]
    NotAccepted {
        /// The publication's id.
        id: String,
        /// The channel.
        channel: String,
        /// Who did not accept: `nats`, `redis`, `http`.
        by: &'static str,
        /// How many attempts were made.
        attempts: u32,
        /// How long the call took.
        waited: Duration,
        /// Why the last attempt failed.
        reason: String,
    },
    /// No attempt within the deadline succeeded, but at least one of them may have been accepted. Publishing again with
    /// the same id is a duplicate at most.
    #[error(
        "publication {id} on {channel} may or may not have been accepted by {by} within {waited:?} ({attempts} attempts): {reason}"
    )]
    Unknown {
        /// The publication's id.
        id: String,
        /// The channel.
        channel: String,
        /// Who did not answer clearly: `nats`, `redis`, `http`.
        by: &'static str,
        /// How many attempts were made.
        attempts: u32,
        /// How long the call took.
        waited: Duration,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The publisher is closed. Nothing was sent.
    #[error("the event for {channel} was not sent: the publisher is closed")]
    Closed {
        /// The channel.
        channel: String,
    },
}

impl PublishError {
    /// What is known about the publication.
    pub fn acceptance(&self) -> Acceptance {
        match self {
            Self::Invalid { .. } | Self::Refused { .. } => Acceptance::Refused,
            Self::NotAccepted { .. } | Self::Closed { .. } => Acceptance::NotAccepted,
            Self::Unknown { .. } => Acceptance::Unknown,
        }
    }

    /// The publication's id, to publish it again under; `None` where none was given out.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Refused { id, .. } | Self::NotAccepted { id, .. } | Self::Unknown { id, .. } => Some(id),
            Self::Invalid { .. } | Self::Closed { .. } => None,
        }
    }
}

/// A batch of which not everything was accepted. It holds the outcome of every publication, in the order given.
#[derive(Clone, Debug, thiserror::Error)]
pub struct BatchError {
    outcomes: Vec<Result<Published, PublishError>>,
}

impl BatchError {
    pub(crate) fn new(outcomes: Vec<Result<Published, PublishError>>) -> Self {
        Self { outcomes }
    }

    /// One outcome for each publication, in the order given.
    pub fn outcomes(&self) -> &[Result<Published, PublishError>] {
        &self.outcomes
    }

    /// The same, to keep.
    pub fn into_outcomes(self) -> Vec<Result<Published, PublishError>> {
        self.outcomes
    }

    /// How many were accepted.
    pub fn accepted(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    }

    /// How many ended like this.
    pub fn count(&self, acceptance: Acceptance) -> usize {
        self.errors().filter(|error| error.acceptance() == acceptance).count()
    }

    fn errors(&self) -> impl Iterator<Item = &PublishError> {
        self.outcomes.iter().filter_map(|outcome| outcome.as_ref().err())
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} publications {} were accepted, {} refused, {} not accepted, {} may or may not have been accepted",
            self.outcomes.len(),
            self.accepted(),
            self.count(Acceptance::Refused),
            self.count(Acceptance::NotAccepted),
            self.count(Acceptance::Unknown),
        )?;
        self.errors().next().map_or(Ok(()), |first| write!(f, "; the first: {first}"))
    }
}

/// Why a publisher could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option or the URL cannot be used. The secret parts of a URL are left out.
    #[error("{option}: {value:?} cannot be used: {allowed}")]
    Configuration {
        /// Which option.
        option: &'static str,
        /// Its value, without secrets.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The broker could not be reached within the deadline.
    #[error("{url} could not be reached within {waited:?}: {reason}")]
    Unreachable {
        /// The URL, without secrets.
        url: String,
        /// How long was tried.
        waited: Duration,
        /// What went wrong at last.
        reason: String,
    },
    /// The broker answered and refused.
    #[error("{url} refused: {reason}")]
    Refused {
        /// The URL, without secrets.
        url: String,
        /// What it said.
        reason: String,
    },
}
