//! All members of one channel, as a node mirrors them. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::value::RawValue;

use crate::{ConnectionKey, Incarnation, Row, RowChange, State, User};

/// Rows of one channel by connection, and what follows from them for each user.
#[derive(Debug, Default)]
pub struct Roster {
    rows: HashMap<ConnectionKey, (Incarnation, Row)>,
    users: BTreeMap<User, Vec<ConnectionKey>>,
}

/// A user who is there.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub user: User,
    /// What the most active connection is doing: an own word before `online` before `idle`; of several own words that of the
    /// connection whose row was written last.
    pub state: State,
    /// The info of that connection.
    pub info: Option<Arc<RawValue>>,
    /// How many connections.
    pub connections: u32,
    /// When the first of those that are there came, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// A part of a channel's members, in the order of users.
#[derive(Debug, Default)]
pub struct MemberPage {
    /// The members.
    pub members: Vec<Member>,
    /// Whom to go on behind; `None` at the end.
    pub next: Option<User>,
}

impl Roster {
    /// Members.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Their connections.
    pub fn connections(&self) -> usize {
        self.rows.len()
    }

    /// Takes a change. Says whose it was, where it changed anything.
    pub fn apply(&mut self, _change: RowChange) -> Option<User> {
        None
    }

    /// A member, if there.
    pub fn member(&self, _user: &User) -> Option<Member> {
        None
    }

    /// Members behind `after`: at most `limit`, and at most `bytes` of what they take as JSON, at least one.
    pub fn page(&self, _after: Option<&User>, _limit: usize, _bytes: usize) -> MemberPage {
        MemberPage::default()
    }

    /// Takes over what was read anew. Says whose membership is another now.
    pub fn replace(&mut self, _rows: impl IntoIterator<Item = (Incarnation, Row)>) -> Vec<User> {
        Vec::new()
    }
}
