//! Where rows are kept, as a node sees it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{Incarnation, Place, Row, RowChange};

/// How many writes a channel's rows have seen, in one numbering. Another epoch is another numbering: the store lost its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Random; goes with the channel's data.
    pub epoch: String,
    /// Grows by one with each write that changed anything. 0 where nothing was ever written: then the epoch is empty.
    pub number: u64,
}

/// A node's lease: begins one, or extends the one that it holds.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Whose.
    pub incarnation: Incarnation,
    /// For so long from now, on the store's own clock.
    pub lease: Duration,
    /// The incarnation is new. Else the lease is extended only if it has not ended.
    pub begin: bool,
    /// Whether this node may be given incarnations to reap.
    pub reaps: bool,
}

/// What a renewal came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// The lease is held now. `false`: it had ended, or the store knows nothing of it, and another incarnation is needed; this one
    /// is among the dead from now on.
    pub held: bool,
    /// All other incarnations that hold a lease, and how long each lasts from now on.
    pub others: Vec<(Incarnation, Duration)>,
    /// Incarnations whose lease was found to have ended within the last hour, and those that nobody has reaped since.
    pub dead: Vec<Incarnation>,
    /// Those of them that this node is to reap now; no other node is given them for [`REAP_CLAIM`](Self::REAP_CLAIM).
    pub reap: Vec<Incarnation>,
}

impl Leases {
    /// How long a node may take to reap before another is asked to.
    pub const REAP_CLAIM: Duration = Duration::from_secs(5);
    /// How long the dead are reaped again, for what they wrote too late.
    pub const REAP_AGAIN_FOR: Duration = Duration::from_secs(3_600);
}

/// Changes of one node's rows on one channel, done at once. Doing it twice is the same as once.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub place: Place,
    /// Whose rows.
    pub incarnation: Incarnation,
    /// Rows to write, each over what the connection had there before, unless that [is of a later](Incarnation::is_later_than)
    /// incarnation: then the write has been overtaken, and the row stays as it is.
    pub puts: Vec<Row>,
    /// Connections whose rows are to be removed, where they are of this incarnation.
    pub removes: Vec<crate::ConnectionKey>,
}

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the channel stands now.
    pub version: Version,
    /// There was nobody before, and there is somebody now.
    pub occupied: bool,
    /// There was somebody before, and there is nobody now.
    pub vacated: bool,
}

/// How many there are, and where the channel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where the channel stands.
    pub version: Version,
    /// Members, those of dead nodes included until they are reaped.
    pub users: u64,
    /// Their connections.
    pub connections: u64,
}

/// A part of a channel's rows.
#[derive(Clone, Debug)]
pub struct RowPage {
    /// Where the channel stood when the page was read.
    pub version: Version,
    /// Rows, in no order. One may come in two pages of the same reading; one that was there all the time comes at least once.
    pub rows: Vec<(Incarnation, Row)>,
    /// To read on; `None` at the end.
    pub next: Option<u64>,
}

/// Rows of a dead incarnation on one channel that are to go.
#[derive(Clone, Debug)]
pub struct Reap {
    /// Where.
    pub place: Place,
    /// Whose rows; it holds no lease.
    pub dead: Incarnation,
}

/// What reaping a part of a channel came to.
#[derive(Clone, Debug)]
pub struct Reaped {
    /// The rows that were removed by this very call.
    pub removed: Vec<Row>,
    /// There is nobody left.
    pub vacated: bool,
    /// Whether there may be more: call again.
    pub more: bool,
}

/// What a store tells unasked.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// Rows of a channel that is listened to have changed.
    Changed {
        /// Where.
        place: Place,
        /// Where the channel stands with it: by one higher than with the change before.
        version: Version,
        /// What has changed.
        changes: Vec<RowChange>,
    },
    /// The connection is gone: changes may be missed, and calls fail.
    Interrupted,
    /// It is back, and what was listened to is listened to again. What changed meanwhile was not told.
    Resumed,
    /// The same, where the store is certain to have all that it had.
    Relistened,
}

/// The stream of a store's events.
pub type StoreEvents = mpsc::Receiver<StoreEvent>;

/// Why a store did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// An option cannot be used.
    #[error("{what} is {value:?}; allowed: {allowed}")]
    Configuration {
        /// Which option.
        what: &'static str,
        /// What it is, without secrets.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// There is no connection, or no answer in time. Whether it was done is not known.
    #[error("the presence store {store} is away: {reason}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// Why, in its own words.
        reason: String,
    },
    /// The store has answered that it does not do this.
    #[error("the presence store {store} refused: {reason}")]
    Refused {
        /// Which store.
        store: &'static str,
        /// Its own words.
        reason: String,
    },
}

/// Keeps rows, leases and indexes. Every call is safe to make at the same time as any other. All stores pass one conformance suite.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// A word for logs and metrics: `memory`, `redis`, `redis-cluster`.
    fn name(&self) -> &'static str;

    /// Begins or extends a lease, by compare-and-extend on the store's own clock; says what it knows of all others, and gives
    /// dead ones to reap.
    async fn renew(&self, renewal: Renewal) -> Result<Leases, StoreError>;

    /// Ends a lease in `after` from now, for a node that goes away and leaves its rows to be reaped. Where `at_once` it has no rows
    /// any more, and nothing is left of it.
    async fn resign(&self, incarnation: &Incarnation, after: Duration, at_once: bool) -> Result<(), StoreError>;

    /// Writes and removes rows of one node on one channel, and tells those who listen.
    async fn write(&self, write: Write) -> Result<Written, StoreError>;

    /// Notes on which channels an incarnation has rows: before the first is written.
    async fn note(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError>;

    /// Takes the notes back: after the last was removed.
    async fn unnote(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError>;

    /// Where an incarnation may have rows; about `limit` places, and a cursor to read on. A place may come twice; one that is noted
    /// all the time comes, whatever is taken back meanwhile.
    async fn noted(
        &self,
        incarnation: &Incarnation,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Place>, Option<u64>), StoreError>;

    /// Reads rows of a channel: about `limit` of them, in bounded work.
    async fn read(&self, place: &Place, cursor: Option<u64>, limit: usize) -> Result<RowPage, StoreError>;

    /// Where channels stand, in the order asked for.
    async fn standings(&self, places: &[Place]) -> Result<Vec<Standing>, StoreError>;

    /// Removes rows of a dead incarnation from a channel, in bounded work, and tells those who listen. Each row is removed once,
    /// whoever reaps at the same time.
    async fn reap(&self, reap: Reap) -> Result<Reaped, StoreError>;

    /// All rows of a dead incarnation have been removed: it is given to somebody again only after `again`, and not before it
    /// has been dead for twice as long as now, for what it may have
    /// written too late. What it has noted is kept for that, and goes by itself when the incarnation has been dead for
    /// [`Leases::REAP_AGAIN_FOR`].
    async fn reaped(&self, dead: &Incarnation, again: Duration) -> Result<(), StoreError>;

    /// Listens to changes of channels. When it returns `Ok`, every change from now on comes, over reconnects, until
    /// [`unlisten`](Self::unlisten).
    async fn listen(&self, places: &[Place]) -> Result<(), StoreError>;

    /// Ends listening. Changes on their way may still come.
    async fn unlisten(&self, places: &[Place]);

    /// Ends connections and tasks, and waits for them. The stream of events ends.
    async fn close(&self);
}
