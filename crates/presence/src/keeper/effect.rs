//! What a keeper asks of its edge.

use crate::{Answer, Audience, Call, Counts, Incarnation, MemberChange, Place, QueryId, Row};

/// One event for those who watch.
#[derive(Debug)]
pub enum Told {
    /// `presence:change`
    Change(MemberChange),
    /// `presence:count`
    Count(Counts),
    /// `presence:snapshot`
    Snapshot(Box<Answer>),
}

/// What has to be done.
#[derive(Debug)]
pub enum Effect {
    /// Have the store do it, and give what it came to to [`Keeper::handle_done`](crate::Keeper::handle_done). Those that are given one after the other
    /// may be done at the same time.
    Call(Call),
    /// Tell those who watch.
    Announce {
        /// Which channel.
        place: Place,
        /// Which of them.
        audience: Audience,
        /// What, in this order.
        told: Vec<Told>,
    },
    /// Answer a question.
    Answer {
        /// Which.
        query: QueryId,
        /// The answer.
        answer: Answer,
    },
    /// Somebody is on the channel, where nobody was. In the whole cluster.
    Occupied(Place),
    /// Nobody is on the channel any more. In the whole cluster.
    Vacated(Place),
    /// A dead node's rows were found; the reaper tells of them.
    Lost {
        /// Where.
        place: Place,
        /// Whose.
        dead: Incarnation,
        /// The rows.
        rows: Vec<Row>,
    },
}
