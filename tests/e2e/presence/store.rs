//! What lies in Redis, read past the nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fanfare_testkit::{RedisServer, redis::Reply, wait_for};

use super::TENANT;

/// Keys of one look.
const SCAN_COUNT: &str = "1000";

/// The Redis of a test, as a store of presence.
pub(super) struct Store<'a>(pub(super) &'a RedisServer);

/// A row, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredRow {
    pub(super) channel: String,
    /// The session's id.
    pub(super) connection: String,
    pub(super) text: String,
}

/// Commands that Redis has carried out, by name; those inside of functions too.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands(BTreeMap<String, u64>);

impl Store<'_> {
    /// All rows of the tests' tenant.
    pub(super) async fn rows(&self) -> BTreeSet<StoredRow> {
        let mut rows = BTreeSet::new();
        for (channel, fields) in self.hashes("rt:presence:").await {
            let row = |(connection, text)| StoredRow { channel: channel.clone(), connection, text };
            rows.extend(fields.into_iter().map(row));
        }
        rows
    }

    /// How many connections each user is said to have on each channel.
    pub(super) async fn users(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let user = |(user, count): (String, String)| {
            let user = serde_json::from_str(&user).unwrap_or_else(|error| panic!("{user:?}: {error}"));
            (user, count.parse().expect("a number"))
        };
        let channels = self.hashes("rt:presence:users:").await;
        channels.into_iter().map(|(channel, fields)| (channel, fields.into_iter().map(user).collect())).collect()
    }

    /// Whether what incarnations of a node have noted goes by itself.
    pub(super) async fn notes_end(&self, node: &str) -> bool {
        for key in self.keys(&format!("rt:presence:node:{node}.*")).await {
            if self.0.command(&["EXPIRETIME", &key]).await == Reply::Integer(-1) {
                return false;
            }
        }
        true
    }

    /// The hashes of all channels of the tests' tenant, by channel.
    async fn hashes(&self, prefix: &str) -> BTreeMap<String, Vec<(String, String)>> {
        let mut hashes = BTreeMap::new();
        for key in self.keys(&format!("{prefix}{{{TENANT}:*")).await {
            let channel = key.split_once(&format!("{{{TENANT}:")).and_then(|(_, rest)| rest.strip_suffix('}'));
            let channel = channel.unwrap_or_else(|| panic!("{key} names no channel")).to_owned();
            let words = texts(self.0.command(&["HGETALL", &key]).await);
            let pairs = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            hashes.insert(channel, pairs.collect());
        }
        hashes
    }

    /// Rows of all incarnations of a node, by the node's name.
    pub(super) async fn rows_of(&self, node: &str) -> BTreeSet<StoredRow> {
        let rows = self.rows().await;
        rows.into_iter().filter(|row| row.node() == node).collect()
    }

    /// Waits until there are exactly so many rows.
    pub(super) async fn wait_for_rows(&self, count: usize, time: Duration) {
        wait_for(&format!("{count} rows in the store"), time, async || {
            (self.rows().await.len() == count).then_some(())
        })
        .await;
    }

    /// All keys of presence.
    pub(super) async fn keys(&self, pattern: &str) -> BTreeSet<String> {
        let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_owned());
        loop {
            let reply = self.0.command(&["SCAN", &cursor, "MATCH", pattern, "COUNT", SCAN_COUNT]).await;
            let Reply::Array(parts) = reply else { panic!("{reply:?}") };
            let [Reply::Bulk(next), found] = &parts[..] else { panic!("{parts:?}") };
            cursor = String::from_utf8(next.clone()).expect("a number");
            keys.extend(texts(found.clone()));
            if cursor == "0" {
                return keys;
            }
        }
    }

    /// What it has carried out so far.
    pub(super) async fn commands(&self) -> Commands {
        let info = self.info("commandstats").await;
        let lines = info.lines().filter_map(|line| {
            let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = counts.split(',').next()?.parse().ok()?;
            // Asking is what the test does.
            (name != "info").then(|| (name.to_owned(), calls))
        });
        Commands(lines.collect())
    }

    /// Bytes of memory in use.
    pub(super) async fn memory(&self) -> u64 {
        let info = self.info("memory").await;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_else(|| panic!("{info}"))
    }

    async fn info(&self, section: &str) -> String {
        match self.0.command(&["INFO", section]).await {
            Reply::Bulk(bytes) => String::from_utf8(bytes).expect("INFO is text"),
            other => panic!("{other:?}"),
        }
    }
}

impl StoredRow {
    /// Whose row it is: `{node}.{16 hexadecimal digits}`.
    pub(super) fn incarnation(&self) -> &str {
        self.text.split('\n').next().expect("a text has a first line")
    }

    /// The name of the node whose row it is.
    pub(super) fn node(&self) -> &str {
        let (node, random) = self.incarnation().rsplit_once('.').unwrap_or_else(|| panic!("{self:?} is nobody's"));
        assert!(random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{self:?}");
        node
    }
}

impl Commands {
    /// What was carried out since.
    pub(super) fn since(&self, before: &Self) -> Self {
        let rest = self.0.iter().map(|(name, calls)| (name.clone(), calls - before.0.get(name).unwrap_or(&0)));
        Self(rest.filter(|(_, calls)| *calls > 0).collect())
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Calls of functions.
    pub(super) fn functions(&self) -> u64 {
        self.0.get("fcall").unwrap_or(&0) + self.0.get("fcall_ro").unwrap_or(&0)
    }
}

/// The texts of a list.
fn texts(reply: Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { panic!("{reply:?} is no list") };
    items
        .into_iter()
        .map(|item| match item {
            Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("{other:?} is no text"),
        })
        .collect()
}
