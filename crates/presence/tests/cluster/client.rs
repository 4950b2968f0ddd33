//! Somebody who watches a channel, and knows of it only what it is told.

use std::collections::BTreeMap;

use fanfare_presence::{Answer, Audience, Counts, Member, MemberChange, Place, QueryId, Roster, Told, User};

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) place: Place,
    pub(crate) audience: Audience,
    /// What was asked and is not answered.
    pub(crate) asked: Option<QueryId>,
    /// Of what was told last. `None`: nothing that it can go on from.
    version: Option<u64>,
    /// `None`: too many to be named.
    members: Option<BTreeMap<User, Known>>,
    counts: (u64, u64),
}

/// State, info, and number of connections.
type Known = (String, Option<String>, u32);

impl Client {
    pub(crate) fn new(place: Place, audience: Audience, asked: QueryId) -> Self {
        Self { place, audience, asked: Some(asked), version: None, members: None, counts: (0, 0) }
    }

    /// Takes the answer to its question. Whether it has to ask again.
    pub(crate) fn handle_answer(&mut self, answer: Answer) -> bool {
        self.asked = None;
        let Answer { version, stale, .. } = &answer;
        assert!(version.is_some() || *stale, "a client was shown what it cannot go on from: {answer:?}");
        let asks_again = version.is_none();
        self.show(answer);
        asks_again
    }

    pub(crate) fn handle_told(&mut self, told: &Told) -> Result<(), String> {
        let version = match told {
            Told::Change(change) => change.version,
            Told::Count(counts) => counts.version,
            Told::Snapshot(answer) => answer.version.ok_or("a snapshot without a version")?,
        };
        let Some(last) = self.version else { return Ok(()) };
        if version != last + 1 {
            return Err(format!("{version} was told after {last}"));
        }
        self.version = Some(version);
        match told {
            Told::Change(MemberChange { user, status, info, connections, .. }) => {
                let members = self.members.as_mut().ok_or("a name was told to one who knows only counts")?;
                if *connections == 0 {
                    assert!(&**status == "offline" && info.is_none());
                    members.remove(user);
                } else {
                    let info = info.as_ref().map(|info| info.get().to_owned());
                    members.insert(user.clone(), (status.to_string(), info, *connections));
                }
            }
            Told::Count(Counts { users, connections, .. }) => {
                if self.audience == Audience::Names {
                    return Err("a count was told to one who wants names".to_owned());
                }
                self.members = None;
                self.counts = (*users as u64, *connections as u64);
            }
            Told::Snapshot(answer) => {
                let Answer { users, connections, members, version, stale } = &**answer;
                let members = members.as_ref().ok_or("a snapshot without members")?;
                let (members, next) = (members.members.clone(), members.next.clone());
                let members = Some(fanfare_presence::MemberPage { members, next });
                self.show(Answer {
                    users: *users,
                    connections: *connections,
                    members,
                    version: *version,
                    stale: *stale,
                });
            }
        }
        Ok(())
    }

    fn show(&mut self, answer: Answer) {
        self.version = answer.version;
        self.counts = (answer.users, answer.connections);
        self.members = answer.members.map(|page| {
            assert!(page.next.is_none(), "all fit into a page here");
            page.members.iter().map(|member| (member.user.clone(), known(member))).collect()
        });
    }

    /// What it knows is what is.
    pub(crate) fn check(&self, roster: &Roster, max_named: usize) -> Result<(), String> {
        if self.asked.is_some() || self.version.is_none() {
            return Err("its question was not answered".to_owned());
        }
        match &self.members {
            Some(members) => {
                let page = roster.page(None, usize::MAX, usize::MAX);
                let truth: BTreeMap<_, _> =
                    page.members.iter().map(|member| (member.user.clone(), known(member))).collect();
                let too_many = self.audience == Audience::Auto && truth.len() > max_named;
                if *members != truth || too_many {
                    return Err(format!("it knows {members:?}; it is {truth:?}"));
                }
            }
            None => {
                let truth = (roster.users() as u64, roster.connections() as u64);
                if self.counts != truth || self.audience == Audience::Names {
                    return Err(format!("it knows counts {:?}; they are {truth:?}", self.counts));
                }
            }
        }
        Ok(())
    }
}

fn known(member: &Member) -> Known {
    let info = member.info.as_ref().map(|info| info.get().to_owned());
    (member.state.as_str().to_owned(), info, member.connections)
}
