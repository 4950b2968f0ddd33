//! All members of one channel, as a node mirrors them. Pure.

mod connections;
#[cfg(test)]
mod model;

use std::sync::Arc;

use serde_json::value::RawValue;

use self::connections::{Connections, Rank};
use crate::{ConnectionKey, Incarnation, Row, RowChange, State, User, compact_map::CompactMap};

/// Rows of one channel by connection, and what follows from them for each user. A row takes about 320 bytes with a user's name of 16
/// bytes (`tests/footprint.rs` measures it).
#[derive(Debug, Default)]
pub struct Roster {
    rows: CompactMap<ConnectionKey, Kept>,
    users: CompactMap<User, Connections>,
    /// With how many rows each has, so that all rows of one share its text.
    incarnations: CompactMap<Incarnation, usize>,
}

/// A row, without what it is found by.
#[derive(Debug)]
struct Kept {
    incarnation: Incarnation,
    user: User,
    state: State,
    info: Option<Arc<RawValue>>,
    since: u64,
}

/// A user who is there.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub user: User,
    /// What the most active connection is doing: an own word before `online` before `idle`; of several that are equal in this, the
    /// connection that came last.
    pub state: State,
    /// The info of that connection.
    pub info: Option<Arc<RawValue>>,
    /// How many connections.
    pub connections: u32,
    /// When the first of those that are there came, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// Somebody whose membership is another now, as others see it: state, info, or number of connections.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Who. What it is now says [`Roster::member`].
    pub user: User,
    /// What it was; `None` where it was not there.
    pub before: Option<Member>,
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

    /// Takes a change. Says whose membership is another now: nobody's where only the incarnation is, and two users' where a
    /// connection is another user's now.
    pub fn apply(&mut self, change: RowChange) -> Vec<Changed> {
        let mut changed = Vec::new();
        match change {
            RowChange::Put(incarnation, row) => {
                if self.rows.get(&row.connection).is_some_and(|kept| kept.user != row.user) {
                    changed.extend(self.take_out(row.connection));
                }
                let user = row.user.clone();
                let before = self.member(&user);
                self.put(incarnation, row);
                changed.extend(self.changed(user, before));
            }
            RowChange::Removed { connection, .. } => changed.extend(self.take_out(connection)),
        }
        changed
    }

    /// A member, if there.
    pub fn member(&self, user: &User) -> Option<Member> {
        let (user, connections) = self.users.get_key_value(user)?;
        Some(self.describe(user, connections))
    }

    /// Members behind `after`: at most `limit`, and at most `bytes` of what they take as JSON, but at least one.
    pub fn page(&self, after: Option<&User>, limit: usize, bytes: usize) -> MemberPage {
        let mut page = MemberPage::default();
        let mut taken = 0;
        for (user, connections) in self.users.behind(after) {
            let member = self.describe(user, connections);
            taken += member.json_bytes();
            if !page.members.is_empty() && (page.members.len() >= limit || taken > bytes) {
                page.next = page.members.last().map(|member| member.user.clone());
                break;
            }
            page.members.push(member);
        }
        page
    }

    /// Takes over what was read anew; of a connection that comes twice, what comes last. Says whose membership is another now.
    pub fn replace(&mut self, rows: impl IntoIterator<Item = (Incarnation, Row)>) -> Vec<Changed> {
        let old = std::mem::take(self);
        for (incarnation, row) in rows {
            self.apply(RowChange::Put(incarnation, row));
        }
        self.differences(&old)
    }

    /// Whose membership is another here than it was in `before`.
    pub fn differences(&self, before: &Self) -> Vec<Changed> {
        let gone = before.users.keys().filter(|user| !self.users.contains_key(*user));
        let users = gone.chain(self.users.keys());
        users.filter_map(|user| self.changed(user.clone(), before.member(user))).collect()
    }

    /// Whether a connection is there.
    pub fn has(&self, connection: ConnectionKey) -> bool {
        self.rows.contains_key(&connection)
    }

    /// All rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&Incarnation, Row)> {
        self.rows.iter().map(|(connection, kept)| {
            let Kept { incarnation, user, state, info, since } = kept;
            let (user, state, info) = (user.clone(), state.clone(), info.clone());
            (incarnation, Row { connection: *connection, user, state, info, since: *since })
        })
    }

    fn changed(&self, user: User, before: Option<Member>) -> Option<Changed> {
        let now = self.member(&user);
        let same = match (&before, &now) {
            (Some(before), Some(now)) => before.looks_like(now),
            (None, None) => true,
            _ => false,
        };
        (!same).then_some(Changed { user, before })
    }

    fn describe(&self, user: &User, connections: &Connections) -> Member {
        let (shown, since) = match connections {
            Connections::One(only) => (self.kept(only), None),
            Connections::Several(several) => (self.kept(&several.most_active()), Some(several.first_since())),
        };
        Member {
            user: user.clone(),
            state: shown.state.clone(),
            info: shown.info.clone(),
            connections: connections.count(),
            since: since.unwrap_or(shown.since),
        }
    }

    fn kept(&self, connection: &ConnectionKey) -> &Kept {
        self.rows.get(connection).expect("every connection of a user has a row")
    }

    /// Writes a row over one of the same user, or where there was none.
    fn put(&mut self, incarnation: Incarnation, row: Row) {
        let Row { connection, user, state, info, since } = row;
        let incarnation = self.share_incarnation(incarnation);
        if let Some(kept) = self.rows.get_mut(&connection) {
            let (old, new) = (Rank::of(&kept.state, kept.since, connection), Rank::of(&state, since, connection));
            let left = std::mem::replace(&mut kept.incarnation, incarnation);
            (kept.state, kept.info, kept.since) = (state, info, since);
            self.leave_incarnation(&left);
            let connections = self.users.get_mut(&user).expect("a row's user is known");
            connections.rank_again(old, new);
            return;
        }
        let rank = Rank::of(&state, since, connection);
        let user = self.users.get_key_value(&user).map_or(user, |(known, _)| known.clone());
        match self.users.get_mut(&user) {
            None => _ = self.users.insert(user.clone(), Connections::One(connection)),
            Some(connections) => {
                let rows = &self.rows;
                connections.add(rank, |only| rows.get(&only).expect("the only one has a row").rank(only));
            }
        }
        self.rows.insert(connection, Kept { incarnation, user, state, info, since });
    }

    fn take_out(&mut self, connection: ConnectionKey) -> Option<Changed> {
        let user = self.rows.get(&connection)?.user.clone();
        let before = self.member(&user);
        let kept = self.rows.remove(&connection)?;
        self.leave_incarnation(&kept.incarnation);
        let connections = self.users.get_mut(&user).expect("a row's user is known");
        if !connections.remove(kept.rank(connection)) {
            self.users.remove(&user);
        }
        self.changed(user, before)
    }

    fn share_incarnation(&mut self, incarnation: Incarnation) -> Incarnation {
        let shared = self.incarnations.get_key_value(&incarnation).map_or(incarnation, |(known, _)| known.clone());
        match self.incarnations.get_mut(&shared) {
            Some(rows) => *rows += 1,
            None => _ = self.incarnations.insert(shared.clone(), 1),
        }
        shared
    }

    fn leave_incarnation(&mut self, incarnation: &Incarnation) {
        let rows = self.incarnations.get_mut(incarnation).expect("a row's incarnation is counted");
        *rows -= 1;
        if *rows == 0 {
            self.incarnations.remove(incarnation);
        }
    }
}

impl Kept {
    fn rank(&self, connection: ConnectionKey) -> Rank {
        Rank::of(&self.state, self.since, connection)
    }
}

impl Member {
    /// Whether others see no difference. Info is compared byte for byte.
    pub fn looks_like(&self, other: &Self) -> bool {
        let (info, other_info) = (self.info.as_deref().map(RawValue::get), other.info.as_deref().map(RawValue::get));
        (&self.user, &self.state, self.connections, info) == (&other.user, &other.state, other.connections, other_info)
    }

    /// How many bytes it takes as JSON in an answer, at most.
    pub fn json_bytes(&self) -> usize {
        const AROUND: &str = r#"{"userId":"","anonymous":true,"status":"","info":,"connections":,"since":},"#;
        let user = match &self.user {
            User::Named(user) => user.bytes().map(escaped_bytes).sum(),
            User::Anonymous(_) => 32,
        };
        let info = self.info.as_ref().map_or(0, |info| info.get().len());
        AROUND.len()
            + user
            + self.state.as_str().len()
            + info
            + digits(u64::from(self.connections))
            + digits(self.since)
    }
}

/// What a byte of a text takes in a JSON string.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(node: &str) -> Incarnation {
        Incarnation::new(node, 1)
    }

    fn row(connection: u128, user: &str, state: &str, since: u64) -> Row {
        let user = User::Named(user.into());
        Row { connection: ConnectionKey(connection), user, state: State::parse(state).unwrap(), info: None, since }
    }

    fn with_info(mut row: Row, info: &str) -> Row {
        row.info = Some(RawValue::from_string(info.to_owned()).unwrap().into());
        row
    }

    fn put(row: Row) -> RowChange {
        RowChange::Put(incarnation("a"), row)
    }

    fn removed(connection: u128) -> RowChange {
        RowChange::Removed { connection: ConnectionKey(connection), user: User::Named("whoever".into()) }
    }

    fn alice() -> User {
        User::Named("alice".into())
    }

    /// State, info, connections, since.
    fn seen(roster: &Roster, user: &User) -> Option<(String, Option<String>, u32, u64)> {
        roster.member(user).map(|Member { state, info, connections, since, .. }| {
            (state.as_str().to_owned(), info.map(|info| info.get().to_owned()), connections, since)
        })
    }

    #[test]
    fn a_member_is_what_its_most_active_connection_is() {
        let mut roster = Roster::default();
        let mut check = |change: RowChange, wanted: Option<(&str, Option<&str>, u32, u64)>| {
            let changed = roster.apply(change);
            let wanted = wanted.map(|(state, info, n, since)| (state.to_owned(), info.map(str::to_owned), n, since));
            assert_eq!(seen(&roster, &alice()), wanted);
            changed.len()
        };
        assert_eq!(check(put(with_info(row(1, "alice", "idle", 10), "1")), Some(("idle", Some("1"), 1, 10))), 1);
        assert_eq!(check(put(row(2, "alice", "idle", 5)), Some(("idle", Some("1"), 2, 5))), 1);
        // Of two that are equally active, the one that came last.
        assert_eq!(check(put(with_info(row(3, "alice", "idle", 12), "3")), Some(("idle", Some("3"), 3, 5))), 1);
        assert_eq!(check(put(with_info(row(2, "alice", "online", 5), "2")), Some(("online", Some("2"), 3, 5))), 1);
        assert_eq!(check(put(row(3, "alice", "online", 12)), Some(("online", None, 3, 5))), 1);
        assert_eq!(check(put(row(1, "alice", "editing", 10)), Some(("editing", None, 3, 5))), 1);
        // What nobody sees is not told.
        assert_eq!(check(put(row(3, "alice", "idle", 12)), Some(("editing", None, 3, 5))), 0);
        assert_eq!(check(removed(1), Some(("online", Some("2"), 2, 5))), 1);
        assert_eq!(check(removed(1), Some(("online", Some("2"), 2, 5))), 0);
        assert_eq!(check(removed(2), Some(("idle", None, 1, 12))), 1);
        assert_eq!(check(removed(3), None), 1);
        assert_eq!((roster.users(), roster.connections(), roster.incarnations.len()), (0, 0, 0));
    }

    #[test]
    fn another_incarnation_is_no_change_and_another_user_is_two() {
        let mut roster = Roster::default();
        roster.apply(put(row(1, "alice", "online", 1)));
        assert!(roster.apply(RowChange::Put(incarnation("b"), row(1, "alice", "online", 1))).is_empty());
        assert_eq!(roster.rows().map(|(incarnation, _)| incarnation.node().to_owned()).collect::<Vec<_>>(), ["b"]);
        let changed = roster.apply(put(row(1, "bob", "online", 1)));
        let told: Vec<_> = changed.iter().map(|changed| (changed.user.clone(), changed.before.is_some())).collect();
        assert_eq!(told, [(alice(), true), (User::Named("bob".into()), false)]);
        assert_eq!((roster.users(), roster.connections()), (1, 1));
    }

    #[test]
    fn pages_are_bounded_in_members_and_in_bytes() {
        let mut roster = Roster::default();
        for n in 0..10 {
            roster.apply(put(with_info(row(n, &format!("u{n}"), "online", 1), "\"four\"")));
        }
        let names =
            |page: &MemberPage| page.members.iter().map(|member| member.user.to_cursor()).collect::<Vec<_>>().join(" ");
        let page = roster.page(None, 3, usize::MAX);
        assert_eq!(names(&page), "u:u0 u:u1 u:u2");
        assert_eq!(page.next, Some(User::Named("u2".into())));
        let each = page.members[0].json_bytes();
        let page = roster.page(page.next.as_ref(), 100, 2 * each);
        assert_eq!((names(&page), page.next), ("u:u3 u:u4".to_owned(), Some(User::Named("u4".into()))));
        let page = roster.page(Some(&User::Named("u4".into())), 5, usize::MAX);
        assert_eq!((names(&page), page.next), ("u:u5 u:u6 u:u7 u:u8 u:u9".to_owned(), None));
        // One at least, however little is allowed; somebody who has gone still says where to go on.
        let page = roster.page(Some(&User::Named("u4x".into())), 0, 0);
        assert_eq!((names(&page), page.next), ("u:u5".to_owned(), Some(User::Named("u5".into()))));
        assert!(roster.page(Some(&User::Named("u9".into())), 5, 5).members.is_empty());
    }

    #[test]
    fn a_members_bytes_are_never_more_than_said() {
        for (user, info) in [("alice", None), ("\"\\\n\u{1}\u{7f}ü", Some("{\"a\":[1,2]}"))] {
            let user = User::Named(user.into());
            let info: Option<Arc<RawValue>> = info.map(|info| RawValue::from_string(info.to_owned()).unwrap().into());
            let member = Member { user, state: State::Own("editing".into()), info, connections: 12, since: 1_234 };
            let User::Named(name) = &member.user else { unreachable!() };
            let json = serde_json::json!({
                "userId": &**name, "anonymous": true, "status": member.state.as_str(), "info": member.info.as_deref(),
                "connections": member.connections, "since": member.since,
            });
            // A comma behind it; `null` stands for info that is not there.
            let exact = json.to_string().len() + 1 - if member.info.is_none() { 4 } else { 0 };
            assert_eq!(member.json_bytes(), exact);
        }
    }

    #[test]
    fn what_was_read_anew_says_who_has_changed() {
        let mut roster = Roster::default();
        for (connection, user) in [(1, "same"), (2, "gone"), (3, "idle"), (4, "two"), (5, "info")] {
            roster.apply(put(row(connection, user, "online", 1)));
        }
        let rows = [
            // Of a connection that comes twice, what comes last.
            row(1, "same", "idle", 1),
            row(1, "same", "online", 1),
            row(3, "idle", "idle", 1),
            row(4, "two", "online", 1),
            row(14, "two", "online", 1),
            with_info(row(5, "info", "online", 1), "{}"),
            row(6, "new", "online", 1),
        ];
        let mut changed = roster.replace(rows.map(|row| (incarnation("b"), row)));
        changed.sort_by(|one, other| one.user.cmp(&other.user));
        let changed: Vec<_> = changed
            .iter()
            .map(|changed| (changed.user.to_cursor(), changed.before.as_ref().map(|member| member.connections)))
            .collect();
        let named = |name: &str, before| (format!("u:{name}"), before);
        assert_eq!(
            changed,
            [
                named("gone", Some(1)),
                named("idle", Some(1)),
                named("info", Some(1)),
                named("new", None),
                named("two", Some(1))
            ]
        );
        assert_eq!((roster.users(), roster.connections()), (5, 6));
    }

    #[test]
    fn rows_share_the_texts_of_users_and_incarnations_and_give_their_room_back() {
        let mut roster = Roster::default();
        for n in 0..1_000 {
            roster.apply(put(row(n, "alice", "online", n as u64)));
        }
        let (first, second) = (roster.kept(&ConnectionKey(1)), roster.kept(&ConnectionKey(2)));
        assert_eq!(first.incarnation.as_str().as_ptr(), second.incarnation.as_str().as_ptr());
        let (User::Named(first), User::Named(second)) = (&first.user, &second.user) else { unreachable!() };
        assert!(Arc::ptr_eq(first, second));
        for n in 0..990 {
            roster.apply(removed(n));
        }
        assert_eq!(seen(&roster, &alice()), Some(("online".to_owned(), None, 10, 990)));
    }
}
