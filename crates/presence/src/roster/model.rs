//! The roster against a list of rows that is searched anew for each question.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

/// What others see of a user: state, info, connections; and since when.
type Seen = (State, Option<String>, u32, u64);

#[derive(Default)]
struct Model(Vec<(Incarnation, Row)>);

impl Model {
    fn put(&mut self, incarnation: Incarnation, row: Row) {
        self.remove(row.connection);
        self.0.push((incarnation, row));
    }

    fn remove(&mut self, connection: ConnectionKey) {
        self.0.retain(|(_, row)| row.connection != connection);
    }

    fn members(&self) -> BTreeMap<User, Seen> {
        let mut users = BTreeMap::<User, Vec<&Row>>::new();
        for (_, row) in &self.0 {
            users.entry(row.user.clone()).or_default().push(row);
        }
        users
            .into_iter()
            .map(|(user, rows)| {
                let activity = |row: &Row| match row.state {
                    State::Idle => 0,
                    State::Online => 1,
                    State::Own(_) => 2,
                };
                let shown = rows.iter().max_by_key(|row| (activity(row), row.since, row.connection)).unwrap();
                let info = shown.info.as_ref().map(|info| info.get().to_owned());
                let since = rows.iter().map(|row| row.since).min().unwrap();
                (user, (shown.state.clone(), info, rows.len() as u32, since))
            })
            .collect()
    }
}

fn seen(member: &Member) -> Seen {
    let info = member.info.as_ref().map(|info| info.get().to_owned());
    (member.state.clone(), info, member.connections, member.since)
}

#[derive(Clone, Debug)]
enum Step {
    Apply(RowChange),
    Replace(Vec<(Incarnation, Row)>),
}

fn rows() -> impl Strategy<Value = (Incarnation, Row)> {
    let info = prop_oneof![Just(None), Just(Some("1")), Just(Some("{}"))];
    (0..2_u64, 0..12_u128, 0..6_u8, 0..4_u8, info, 0..4_u64).prop_map(|(node, key, user, state, info, since)| {
        let connection = ConnectionKey(key);
        let user = if user == 5 { User::Anonymous(connection) } else { User::Named(format!("u{user}").into()) };
        let state = State::parse(["idle", "online", "editing", "away"][usize::from(state)]).unwrap();
        let info: Option<Arc<RawValue>> = info.map(|info| RawValue::from_string(info.to_owned()).unwrap().into());
        (Incarnation::new("n", node), Row { connection, user, state, info, since })
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let removed = (0..12_u128)
        .prop_map(|key| RowChange::Removed { connection: ConnectionKey(key), user: User::Named("u0".into()) });
    let step = prop_oneof![
        8 => rows().prop_map(|(incarnation, row)| Step::Apply(RowChange::Put(incarnation, row))),
        4 => removed.prop_map(Step::Apply),
        1 => prop::collection::vec(rows(), 0..12).prop_map(Step::Replace),
    ];
    prop::collection::vec(step, 1..60)
}

/// Who looks another to others, and what it was.
fn differences(before: &BTreeMap<User, Seen>, after: &BTreeMap<User, Seen>) -> BTreeMap<User, Option<Seen>> {
    let visible =
        |seen: Option<&Seen>| seen.map(|(state, info, connections, _)| (state.clone(), info.clone(), *connections));
    let users = before.keys().chain(after.keys());
    users
        .filter(|user| visible(before.get(*user)) != visible(after.get(*user)))
        .map(|user| (user.clone(), before.get(user).cloned()))
        .collect()
}

proptest! {
    #[test]
    fn is_what_its_rows_say(steps in steps(), limit in 1..5_usize, bytes in 0..400_usize) {
        let (mut roster, mut model) = (Roster::default(), Model::default());
        for step in steps {
            let before = model.members();
            let changed = match step {
                Step::Apply(change) => {
                    match change.clone() {
                        RowChange::Put(incarnation, row) => model.put(incarnation, row),
                        RowChange::Removed { connection, .. } => model.remove(connection),
                    }
                    roster.apply(change)
                }
                Step::Replace(rows) => {
                    model = Model::default();
                    for (incarnation, row) in rows.clone() {
                        model.put(incarnation, row);
                    }
                    roster.replace(rows)
                }
            };
            let members = model.members();
            let count = changed.len();
            let changed: BTreeMap<_, _> =
                changed.into_iter().map(|changed| (changed.user, changed.before.as_ref().map(seen))).collect();
            prop_assert_eq!(changed.len(), count);
            prop_assert_eq!(changed, differences(&before, &members));
            prop_assert_eq!((roster.users(), roster.connections()), (members.len(), model.0.len()));
            let mut paged = Vec::new();
            let mut after = None;
            loop {
                let page = roster.page(after.as_ref(), limit, bytes);
                let taken: usize = page.members.iter().map(Member::json_bytes).sum();
                prop_assert!(page.members.len() <= limit && (taken <= bytes || page.members.len() <= 1));
                paged.extend(page.members.iter().map(|member| (member.user.clone(), seen(member))));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(paged, members.into_iter().collect::<Vec<_>>());
            let mut kept: Vec<_> = roster.rows().map(|(incarnation, row)| (row.connection, incarnation.clone())).collect();
            let mut wanted: Vec<_> = model.0.iter().map(|(incarnation, row)| (row.connection, incarnation.clone())).collect();
            kept.sort();
            wanted.sort();
            prop_assert_eq!(kept, wanted);
        }
    }
}
