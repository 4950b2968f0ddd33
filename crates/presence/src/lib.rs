//! Who is on which channel: membership and its diffs (pure), the [`PresenceStore`] trait, and the stores behind it.
//!
//! A *row* says that a connection is on a channel. Each node writes the rows of its own connections under its *incarnation*, for
//! which it holds a lease, and mirrors all rows of the channels that its clients watch in a [`Roster`].

mod announcer;
mod compact_map;
mod keeper;
pub mod memory;
mod open;
mod place_map;
mod redis;
mod roster;
mod row;
mod store;

pub use announcer::{Announcement, Announcer, Audience, Counts, MemberChange};
/// Which store, how to reach it, and as whom. The URL chooses the store, and is `memory:` or one of Redis'. It is the broker's own type,
/// since its connections are used; what is for history or for NATS alone counts for nothing.
pub use fanfare_broker::BrokerOptions as StoreOptions;
pub use keeper::{Answer, Call, Effect, Keeper, KeeperConfig, Outcome, Query, QueryId, Told};
pub use open::open;
pub use place_map::PlaceMap;
pub use redis::FUNCTIONS as REDIS_FUNCTIONS;
pub use roster::{Changed, Member, MemberPage, Roster};
pub use row::{ConnectionKey, Incarnation, Place, Row, RowChange, State, StateError, User};
pub use store::{
    Leases, PresenceStore, Reap, Reaped, Renewal, RowPage, Standing, StoreError, StoreEvent, StoreEvents, Version,
    Write, Written,
};
