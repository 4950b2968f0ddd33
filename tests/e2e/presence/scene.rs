//! Two nodes with one store, and what is true of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use fanfare_testkit::RedisServer;
use tokio::time::sleep;

use super::{crowd::Crowd, node, store::Store, watcher::Watcher};
use crate::node::{Node, NodeBuilder};

/// How often the nodes' view is held against the truth.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How many differences a failed test shows.
const SHOWN: usize = 20;

/// Nodes `a` and `b`, whose broker and store are one Redis.
pub(super) struct Scene {
    pub(super) first: Node,
    pub(super) second: Node,
    pub(super) redis: RedisServer,
}

/// Who is on which channel with how many connections, and the rows that say so: what follows from the open sockets.
#[derive(Debug, Default)]
pub(super) struct Truth {
    members: BTreeMap<String, BTreeMap<String, u64>>,
    /// Channel and session.
    rows: BTreeSet<(String, String)>,
}

impl Scene {
    /// Nodes with more configuration.
    pub(super) async fn start(configure: impl Fn(NodeBuilder) -> NodeBuilder) -> Self {
        let redis = RedisServer::start().await;
        let url = redis.url();
        let [first, second] = ["a", "b"].map(|name| configure(node(name, &url, &url)).start());
        let (first, second) = tokio::join!(first, second);
        Self { first, second, redis }
    }

    /// What lies in Redis.
    pub(super) fn store(&self) -> Store<'_> {
        Store(&self.redis)
    }
}

impl Truth {
    /// What follows from these.
    pub(super) fn of(crowds: &[&Crowd], watchers: &[&Watcher]) -> Self {
        let mut truth = Self::default();
        for (session, seat) in crowds.iter().flat_map(|crowd| crowd.sessions()) {
            truth.add(session, &seat.user, &seat.channels);
        }
        for watcher in watchers {
            truth.add(&watcher.session(), watcher.user(), watcher.channels());
        }
        truth
    }

    /// How many rows it has.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Members of a channel, with their connections.
    pub(super) fn members(&self, channel: &str) -> BTreeMap<String, u64> {
        self.members.get(channel).cloned().unwrap_or_default()
    }

    /// Waits until all these see it so.
    pub(super) async fn wait_seen(&self, watchers: &[&Watcher], within: Duration) {
        wait_without("what clients know is the truth", within, async || {
            watchers.iter().flat_map(|watcher| self.unlike(watcher)).collect()
        })
        .await;
    }

    /// Waits until exactly its rows are in the store, and users are counted so.
    pub(super) async fn wait_stored(&self, store: &Store<'_>, within: Duration) {
        wait_without("the store holds the truth", within, async || {
            let rows: BTreeSet<_> = store.rows().await.into_iter().map(|row| (row.channel, row.connection)).collect();
            let ghosts = rows.difference(&self.rows).map(|row| format!("a ghost {row:?}"));
            let missing = self.rows.difference(&rows).map(|row| format!("a missing {row:?}"));
            let users = store.users().await;
            let channels: BTreeSet<_> = users.keys().chain(self.members.keys()).collect();
            let counts = channels.into_iter().filter(|channel| users.get(*channel) != self.members.get(*channel));
            let counts = counts.map(|channel| format!("{channel}: users are counted as {:?}", users.get(channel)));
            ghosts.chain(missing).chain(counts).collect()
        })
        .await;
    }

    fn add(&mut self, session: &str, user: &str, channels: &[String]) {
        for channel in channels {
            *self.members.entry(channel.clone()).or_default().entry(user.to_owned()).or_default() += 1;
            self.rows.insert((channel.clone(), session.to_owned()));
        }
    }

    fn unlike(&self, watcher: &Watcher) -> Vec<String> {
        let known = watcher.known();
        if let Some(end) = known.end() {
            return vec![format!("{}'s session has ended: {end:?}", watcher.user())];
        }
        let mut unlike = Vec::new();
        for channel in watcher.channels() {
            let (seen, truth) = (known.view(channel).connections(), self.members(channel));
            let users: BTreeSet<_> = seen.keys().chain(truth.keys()).collect();
            let differing = users.into_iter().filter(|user| seen.get(*user) != truth.get(*user));
            unlike.extend(differing.map(|user| {
                let (seen, truth) = (seen.get(user), truth.get(user));
                format!("{} on {channel}: {user} is seen with {seen:?}, is there with {truth:?}", watcher.user())
            }));
        }
        unlike
    }
}

/// Waits until there is nothing that speaks against it.
async fn wait_without(what: &str, within: Duration, mut against: impl AsyncFnMut() -> Vec<String>) {
    let begun = Instant::now();
    loop {
        let differences = against().await;
        if differences.is_empty() {
            return;
        }
        let shown = &differences[..differences.len().min(SHOWN)];
        let count = differences.len();
        assert!(begun.elapsed() < within, "waited {within:?} in vain until {what}; {count} differ: {shown:#?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// How long a lease lasts in tests that take it from here: half of the default, or what the variable says, in seconds.
pub(super) fn lease() -> Duration {
    Duration::from_secs(setting("PRESENCE_LEASE", 5))
}

/// A number from the environment, for longer runs than the usual.
pub(super) fn setting(variable: &str, usual: u64) -> u64 {
    env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

/// As many seats' users: `{prefix}{number}`.
pub(super) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// As many channels: `crew:{number}`.
pub(super) fn channels(count: usize) -> Vec<String> {
    names("crew:", count)
}
