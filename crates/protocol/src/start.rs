//! Where a subscription begins, and which part of the past is asked for.

use crate::{Position, Watch};

/// Which publications a new subscription begins with, before those that come. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// All that lie behind this position, where the client was subscribed before.
    pub since: Option<Position>,
    /// Where there is no `since`, or it cannot be recovered from: the newest so many.
    pub rewind: u32,
}

/// A channel that is asked for, and what the client wants of it first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its name, not yet checked.
    pub name: String,
    /// Which publications the subscription begins with.
    pub start: Start,
    /// Whether it wants to be told who is there.
    pub watch: Watch,
}

/// A part of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryRange {
    /// The oldest publications that lie behind this position.
    Since(Position),
    /// The newest publications that lie before this position, or of all.
    Before(Option<Position>),
}

impl Start {
    /// Whether the client asks for nothing but what comes.
    pub fn is_live(&self) -> bool {
        self.since.is_none() && self.rewind == 0
    }
}
