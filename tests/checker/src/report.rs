//! What a check found.

use std::{collections::BTreeMap, error::Error, fmt, time::Duration};

use crate::client_log::Event;

/// How many violations a report shows in full.
const SHOWN: usize = 12;

/// How much of what came before and after a violation is shown.
const CONTEXT_BEFORE: usize = 5;
const CONTEXT_AFTER: usize = 2;

/// What a run was, where nothing was wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Publications that the broker accepted.
    pub accepted: usize,
    /// Publications without an answer.
    pub unknown: usize,
    /// Of those, how many were published after all.
    pub unknown_published: usize,
    /// Publications that the broker refused.
    pub refused: usize,
    /// Logical clients.
    pub clients: usize,
    /// Sessions of them that ended.
    pub disconnects: usize,
    /// Publications that were pushed.
    pub pushed: usize,
    /// Publications that came inside a reply to a subscribe.
    pub in_replies: usize,
    /// Replies with `recovered: true`.
    pub recovered: usize,
    /// Replies with `recovered: false`, all of them proven.
    pub not_recovered: usize,
    /// Gaps, all of them proven.
    pub gaps: usize,
    /// Publications that clients missed and were told so.
    pub excused: usize,
}

/// What was wrong, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An accepted publication, or one that others saw, never came.
    Lost,
    /// The same, in or right behind a reply that said `recovered: true`.
    HoleInRecovery,
    /// A publication came again.
    Duplicate,
    /// A publication came behind one that is newer.
    Disorder,
    /// Something is said to be missing, which was still to be had as far as can be proven.
    UnprovenMiss,
    /// The data is not what was published.
    WrongData,
    /// A publication of another channel.
    ForeignChannel,
    /// Nobody published it.
    NeverPublished,
    /// The broker said that it does not have it.
    RefusedButPublished,
    /// A publication or a subscription has no position.
    NoPosition,
    /// A publication is in two places, or two are in one.
    Conflict,
    /// The numbering began anew, and the client was not told.
    EpochChanged,
    /// A publication came without a subscription.
    NotSubscribed,
    /// The client came back with a position, and was not told whether that is recovered.
    NotAnswered,
    /// The broker accepted it, should still retain it, and does not.
    LostByBroker,
    /// The test's own client came back with another position than its last.
    ClientFault,
}

/// One thing that was wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub kind: Kind,
    /// Which client saw it; nobody, where it is between publishers and the broker.
    pub client: Option<String>,
    /// On which channel.
    pub channel: String,
    /// Ids, offsets and numbers.
    pub detail: String,
    /// What came to the client around it.
    pub context: Vec<String>,
}

/// All that was wrong.
#[derive(Clone)]
pub struct Report {
    /// In no particular order.
    pub violations: Vec<Violation>,
    /// What the run was nevertheless.
    pub summary: Summary,
}

impl Report {
    /// The kinds of what was wrong, in order, with how often each was.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for violation in &self.violations {
            *kinds.entry(violation.kind).or_default() += 1;
        }
        kinds
    }
}

/// What came around an event, each with its time; the event itself is marked.
pub(crate) fn context(events: &[(Duration, Event)], index: usize) -> Vec<String> {
    let first = index.saturating_sub(CONTEXT_BEFORE);
    let last = (index + CONTEXT_AFTER + 1).min(events.len());
    let line = |number: usize| {
        let (at, event) = &events[number];
        format!("{} {at:>10.3?} {event}", if number == index { '>' } else { ' ' })
    };
    (first..last).map(line).collect()
}

impl Error for Report {}

/// As readable as `Display`, since `unwrap` shows this one.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} violations: {:?}\n{}", self.violations.len(), self.kinds(), self.summary)?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "{violation}")?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "and {} more", self.violations.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, client, channel, detail, context } = self;
        write!(f, "{kind:?}: {} on {channel}: {detail}", client.as_deref().unwrap_or("the broker"))?;
        for line in context {
            write!(f, "\n      {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, unknown, unknown_published, refused, clients, disconnects, .. } = self;
        let Self { pushed, in_replies, recovered, not_recovered, gaps, excused, .. } = self;
        write!(
            f,
            "{accepted} publications accepted, {unknown} without an answer (of which {unknown_published} published), \
             {refused} refused; {clients} clients with {disconnects} disconnects got {pushed} pushed and {in_replies} in \
             replies; {recovered} times recovered, {not_recovered} times not and {gaps} gaps, of which {excused} missed"
        )
    }
}
