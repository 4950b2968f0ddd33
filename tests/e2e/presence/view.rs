//! What one client knows of who is on a channel, put together from what it was told. Without IO.

use std::{collections::BTreeMap, time::Instant};

use serde_json::Value;

/// One channel, as a client sees it.
#[derive(Debug, Default)]
pub(super) struct View {
    members: BTreeMap<String, Seen>,
    /// Members and connections, where it was told no names.
    counts: Option<(u64, u64)>,
    version: Option<u64>,
    stale: bool,
    log: Vec<Change>,
    /// Versions that did not follow on the one before.
    holes: usize,
    /// What must not be told at all.
    faults: Vec<String>,
    events: Events,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) status: String,
    pub(super) connections: u64,
    /// `null` where there is none.
    pub(super) info: Value,
}

/// One `presence:change`.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) at: Instant,
    pub(super) user: String,
    pub(super) seen: Seen,
}

/// How many of each event came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events {
    pub(super) changes: usize,
    pub(super) counts: usize,
    pub(super) snapshots: usize,
}

impl Seen {
    fn read(member: &Value) -> Self {
        Self {
            status: member["status"].as_str().unwrap_or_else(|| panic!("no status in {member}")).to_owned(),
            connections: number(&member["connections"]),
            info: member["info"].clone(),
        }
    }
}

impl View {
    /// Takes a push that is of presence. Says whether it was told all that lies before it.
    pub(super) fn take(&mut self, at: Instant, push: &Value) -> bool {
        let data = &push["data"];
        match push["event"].as_str() {
            Some("presence:change") => {
                self.events.changes += 1;
                let whole = self.follow(data);
                self.change(at, data);
                whole
            }
            Some("presence:count") => {
                self.events.counts += 1;
                let whole = self.follow(data);
                self.members.clear();
                self.counts = Some((number(&data["users"]), number(&data["connections"])));
                whole
            }
            Some("presence:snapshot") => {
                self.events.snapshots += 1;
                self.replace(data);
                true
            }
            _ => panic!("{push} is not of presence"),
        }
    }

    /// Takes a snapshot, or the answer to `presence`, over all that it knew.
    pub(super) fn replace(&mut self, answer: &Value) {
        assert!(answer["next"].is_null(), "the tests' channels are small enough for one page: {answer}");
        let total = (number(&answer["users"]), number(&answer["connections"]));
        self.version = answer["version"].as_u64().or(self.version);
        self.stale = answer["stale"].as_bool().unwrap_or_else(|| panic!("no stale in {answer}"));
        let Some(members) = answer["members"].as_array() else {
            self.members.clear();
            self.counts = Some(total);
            return;
        };
        self.counts = None;
        self.members = members.iter().map(|member| (text(&member["userId"]), Seen::read(member))).collect();
        let connections = self.members.values().map(|seen| seen.connections).sum();
        if (members.len() as u64, connections) != total || members.len() != self.members.len() {
            self.faults.push(format!("a snapshot does not add up: {answer}"));
        }
    }

    /// What it knows of a member.
    pub(super) fn member(&self, user: &str) -> Option<&Seen> {
        self.members.get(user)
    }

    /// All members, where it was told their names.
    pub(super) fn members(&self) -> &BTreeMap<String, Seen> {
        &self.members
    }

    /// Who is there with how many connections.
    pub(super) fn connections(&self) -> BTreeMap<String, u64> {
        self.members.iter().map(|(user, seen)| (user.clone(), seen.connections)).collect()
    }

    /// Members and connections.
    pub(super) fn counts(&self) -> (u64, u64) {
        let named = || (self.members.len() as u64, self.members.values().map(|seen| seen.connections).sum());
        self.counts.unwrap_or_else(named)
    }

    /// Every `presence:change`, in order.
    pub(super) fn log(&self) -> &[Change] {
        &self.log
    }

    /// The statuses that were told of a user, from some place in the log on.
    pub(super) fn statuses(&self, from: usize, user: &str) -> Vec<&str> {
        let own = self.log[from..].iter().filter(|change| change.user == user);
        own.map(|change| &*change.seen.status).collect()
    }

    /// Whether it has been told who is there at all.
    pub(super) fn is_known(&self) -> bool {
        self.events.snapshots > 0
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    pub(super) fn events(&self) -> Events {
        self.events
    }

    pub(super) fn holes(&self) -> usize {
        self.holes
    }

    /// What must not have been told.
    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }

    fn follow(&mut self, data: &Value) -> bool {
        let version = number(&data["version"]);
        let whole = self.version.is_none_or(|last| version == last + 1);
        if let Some(last) = self.version.filter(|last| version <= *last) {
            self.faults.push(format!("version {version} after {last}: {data}"));
        }
        self.version = Some(version);
        self.holes += usize::from(!whole);
        whole
    }

    fn change(&mut self, at: Instant, data: &Value) {
        let (user, seen) = (text(&data["userId"]), Seen::read(data));
        if self.counts.is_some() {
            self.faults.push(format!("a name after counts, without a snapshot between them: {data}"));
        }
        if (seen.status == "offline") != (seen.connections == 0) {
            self.faults.push(format!("neither here nor there: {data}"));
        }
        // One that changes nothing is allowed: somebody was shown what came to nothing afterwards.
        match seen.status.as_str() {
            "offline" => self.members.remove(&user),
            _ => self.members.insert(user.clone(), seen.clone()),
        };
        self.log.push(Change { at, user, seen });
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
