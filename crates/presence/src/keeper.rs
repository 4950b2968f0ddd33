//! A node's presence, without IO: what it writes, reads, reaps and tells, and when.
//!
//! `handle_*` what happens, then [`Keeper::poll_effect`] until it gives nothing, then [`Keeper::poll_timeout`].

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{
    Announcement, Audience, ConnectionKey, Incarnation, Leases, MemberPage, Place, Reap, Reaped, Renewal, Row, RowPage,
    Standing, State, StoreError, StoreEvent, User, Write, Written,
};

/// What a keeper is told by the configuration.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// The node's name, part of its incarnations.
    pub node: String,
    /// How long a lease lasts; it is renewed at a third.
    pub lease: Duration,
    /// How long a leave waits.
    pub grace: Duration,
    /// How long changes of a channel are gathered before they are told.
    pub batch: Duration,
    /// Members above which those who watch are told counts instead of names.
    pub max_named: usize,
    /// Calls at the store at one time.
    pub calls: usize,
}

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

/// Who is there?
#[derive(Clone, Debug)]
pub struct Query {
    /// On which channel.
    pub place: Place,
    /// For one who watches: the version that its announcements go on from.
    pub audience: Option<Audience>,
    /// Members behind this one.
    pub after: Option<User>,
    /// At most so many; 0 for counts alone.
    pub limit: usize,
    /// At most so many bytes of them, as JSON.
    pub bytes: usize,
}

/// Who is there.
#[derive(Debug)]
pub struct Answer {
    /// How many members.
    pub users: u64,
    /// How many connections.
    pub connections: u64,
    /// Members; `None` where only counts were asked for, or there are too many to be named unasked.
    pub members: Option<MemberPage>,
    /// The version of what was announced last, for one who watches.
    pub version: Option<u64>,
    /// The store is away, or was a moment ago: this is what the node knew last.
    pub stale: bool,
}

/// What has to be done.
#[derive(Debug)]
pub enum Effect {
    /// Have the store do it, and give what it came to to [`Keeper::handle_done`]. Those that are given one after the other
    /// may be done at the same time.
    Call(Call),
    /// Tell those who watch.
    Announce {
        /// Which channel.
        place: Place,
        /// Which of them.
        audience: Audience,
        /// What, in this order.
        announcements: Vec<Announcement>,
    },
    /// Answer a question.
    Answer {
        /// Which.
        query: QueryId,
        /// The answer.
        answer: Result<Answer, StoreError>,
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

/// Something that the store is to do.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a method of PresenceStore with its arguments")]
pub enum Call {
    Renew(Renewal),
    Resign { incarnation: Incarnation, after: Duration, at_once: bool },
    Write(Write),
    Note { incarnation: Incarnation, places: Vec<Place> },
    Unnote { incarnation: Incarnation, places: Vec<Place> },
    Noted { incarnation: Incarnation, cursor: Option<u64>, limit: usize },
    Read { place: Place, cursor: Option<u64>, limit: usize },
    Standings(Vec<Place>),
    Reap(Reap),
    Reaped { dead: Incarnation, again: Duration },
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

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    _config: KeeperConfig,
}

impl Keeper {
    /// A node without connections. `random` has to be another for every life of every node.
    pub fn new(config: KeeperConfig, _random: u64, _now: Duration) -> Self {
        Self { _config: config }
    }

    /// A connection of this node is on a channel.
    pub fn handle_join(&mut self, _now: Duration, _place: &Place, _row: Row) {}

    /// A connection of this node is doing something else, or says something else of itself. Passed over where it is not there.
    pub fn handle_update(
        &mut self,
        _now: Duration,
        _place: &Place,
        _connection: ConnectionKey,
        _state: State,
        _info: Option<Arc<RawValue>>,
    ) {
    }

    /// A connection of this node is not on the channel any more. Its row goes after the grace.
    pub fn handle_leave(&mut self, _now: Duration, _place: &Place, _connection: ConnectionKey) {}

    /// The first of an audience on this node.
    pub fn handle_watch(&mut self, _now: Duration, _place: &Place, _audience: Audience) {}

    /// The last of an audience on this node is gone.
    pub fn handle_unwatch(&mut self, _now: Duration, _place: &Place, _audience: Audience) {}

    /// A question. It is answered once, by [`Effect::Answer`].
    pub fn handle_query(&mut self, _now: Duration, _id: QueryId, _query: Query) {}

    /// Takes what the store tells unasked.
    pub fn handle_event(&mut self, _now: Duration, _event: StoreEvent) {}

    /// Takes what a call came to.
    pub fn handle_done(&mut self, _now: Duration, _call: Call, _outcome: Outcome) {}

    /// Time has reached what `poll_timeout` said. Earlier calls are harmless.
    pub fn handle_timeout(&mut self, _now: Duration) {}

    /// The node goes away: rows stay, the lease is shortened to the grace, nothing more is written.
    pub fn handle_drain(&mut self, _now: Duration) {}

    /// Whether nothing is left to be done after [`handle_drain`](Self::handle_drain).
    pub fn is_drained(&self) -> bool {
        true
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }
}
