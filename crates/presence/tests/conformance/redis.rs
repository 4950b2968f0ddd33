//! The Redis store at one server.

use std::{fs, slice, sync::Arc, time::Duration};

use fanfare_presence::{
    PresenceStore, REDIS_FUNCTIONS, Reap, Renewal, StoreError, StoreEvent, StoreEvents, StoreOptions, open,
};
use fanfare_testkit::{
    RedisServer,
    redis::{RedisBuilder, Reply},
    wait_for,
};

use crate::{
    fixture::{Fixture, Outage, SOON},
    node::{Node, connection, incarnation, place, row, with_info, write},
};

const LONG: Duration = Duration::from_secs(600);

pub(crate) struct RedisFixture(pub(crate) RedisServer);

impl RedisFixture {
    /// A number that a command answers with.
    async fn number(&self, words: &[&str]) -> i64 {
        match self.0.command(words).await {
            Reply::Integer(number) => number,
            other => panic!("{words:?}: {other:?}"),
        }
    }
}

impl Fixture for RedisFixture {
    async fn start() -> Self {
        Self(RedisServer::start().await)
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        open(&StoreOptions::new(self.0.url())).await.unwrap()
    }

    async fn remembers(&self, incarnation: &str) -> bool {
        remembers(slice::from_ref(&self.0), "rt", incarnation).await
    }
}

impl Outage for RedisFixture {
    async fn go_away(&self) {
        kill(slice::from_ref(&self.0)).await;
    }

    async fn come_back(&self, with_data: bool) {
        if !with_data {
            forget(slice::from_ref(&self.0));
        }
        self.0.restart().await;
    }
}

/// Whether any of the servers has anything of an incarnation. Those that answer with an error have not what is asked for.
pub(crate) async fn remembers(servers: &[RedisServer], prefix: &str, incarnation: &str) -> bool {
    for server in servers.iter().filter(|server| server.process().is_running()) {
        for kind in ["", "dead:", "due:"] {
            let key = format!("{prefix}:presence:leases:{kind}{{leases}}");
            if matches!(server.command(&["ZSCORE", &key, incarnation]).await, Reply::Bulk(_)) {
                return true;
            }
        }
        let key = format!("{prefix}:presence:node:{incarnation}");
        if server.command(&["EXISTS", &key]).await == Reply::Integer(1) {
            return true;
        }
    }
    false
}

/// All at once; what they have stays on their disks.
pub(crate) async fn kill(servers: &[RedisServer]) {
    for server in servers {
        assert_eq!(server.command(&["SAVE"]).await, Reply::Status("OK".to_owned()));
    }
    servers.iter().for_each(RedisServer::kill);
}

/// They come back empty.
pub(crate) fn forget(servers: &[RedisServer]) {
    for server in servers {
        fs::remove_file(server.process().directory().join("dump.rdb")).unwrap();
    }
}

/// Waits for the interruption, and for its end.
pub(crate) async fn interrupted_and_resumed(node: &mut Node) {
    node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
    node.until(|event| matches!(event, StoreEvent::Resumed)).await;
}

/// A change of this channel is told.
pub(crate) async fn is_told(node: &mut Node, channel: &str) {
    let connection = fastrand::u128(..);
    let number = node.put(channel, "told", &[connection]).await.version.number;
    let (told, version, _) = node.changed().await;
    assert_eq!((told, version.number), (place(channel), number));
    node.remove(channel, "told", &[connection]).await;
    node.changed().await;
}

mod one {
    crate::every_store!(super::RedisFixture);
    crate::every_outage!(super::RedisFixture);
}

#[tokio::test]
async fn a_library_that_was_taken_away_is_loaded_again() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    assert_eq!(node.put("crew:1", "a", &[1]).await.version.number, 1);
    assert_eq!(fixture.0.command(&["FUNCTION", "FLUSH"]).await, Reply::Status("OK".to_owned()));
    assert_eq!(node.put("crew:1", "a", &[2]).await.version.number, 2);
    // One of a smaller revision is replaced, one of a greater stays.
    for (revision, stays) in [(0, false), (1_000, true)] {
        let line = REDIS_FUNCTIONS.lines().find(|line| line.starts_with("local REVISION = ")).unwrap();
        let other = REDIS_FUNCTIONS.replace(line, &format!("local REVISION = {revision}"));
        fixture.0.command(&["FUNCTION", "LOAD", "REPLACE", &other]).await;
        Node::connect(&fixture).await.put("crew:1", "a", &[3]).await;
        let found = fixture.0.command(&["FCALL", "fanfare_presence_v1_check", "0"]).await;
        let Reply::Array(found) = found else { panic!("{found:?}") };
        assert_eq!(found[0] == Reply::Integer(revision), stays, "{found:?}");
    }
}

#[tokio::test]
async fn either_connection_that_ends_is_an_interruption() {
    let fixture = RedisFixture::start().await;
    let mut node = Node::connect(&fixture).await;
    node.listen(&[place("crew:1")]).await;
    is_told(&mut node, "crew:1").await;
    for kind in ["pubsub", "normal"] {
        let killed = fixture.number(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        assert_eq!(killed, 1, "{kind}");
        if kind == "normal" {
            interrupted_and_resumed(&mut node).await;
        } else {
            // The server that functions are called at is the same all the time.
            node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
            node.until(|event| matches!(event, StoreEvent::Relistened)).await;
        }
        is_told(&mut node, "crew:1").await;
    }
}

/// Its sockets stay open, but it says nothing.
#[tokio::test]
async fn a_server_that_is_frozen_is_an_interruption() {
    let fixture = RedisFixture::start().await;
    let options = StoreOptions { request_timeout: Duration::from_millis(500), ..StoreOptions::new(fixture.0.url()) };
    let mut node = Node::over(open(&options).await.unwrap());
    node.listen(&[place("crew:1")]).await;
    fixture.0.pause();
    let refused = node.store.write(write("crew:1", "a", vec![row(1, "alice")], vec![])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
    fixture.0.resume();
    node.until(|event| matches!(event, StoreEvent::Resumed)).await;
    is_told(&mut node, "crew:1").await;
}

/// Nothing is dropped without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_take_its_events_is_told_so() {
    let fixture = RedisFixture::start().await;
    let (mut slow, other) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    slow.listen(&[place("crew:1")]).await;
    let info = format!("\"{}\"", "x".repeat(50_000));
    let mut written = 0;
    let connections = async || match fixture.0.command(&["PUBSUB", "NUMSUB", "rt:presence:change:{acme:crew:1}"]).await
    {
        Reply::Array(reply) => reply[1] == Reply::Integer(1),
        other => panic!("{other:?}"),
    };
    while connections().await {
        for _ in 0..100 {
            let changed = with_info(row(written, "alice"), &info);
            other.store.write(write("crew:1", "b", vec![changed], vec![])).await.unwrap();
            other.remove("crew:1", "b", &[written]).await;
            written += 1;
        }
        assert!(written < 20_000, "the listener was not ended");
    }
    let mut last = 0;
    loop {
        match slow.event().await {
            StoreEvent::Changed { version, .. } => {
                assert_eq!(version.number, last + 1);
                last = version.number;
            }
            StoreEvent::Interrupted => break,
            StoreEvent::Resumed | StoreEvent::Relistened => panic!("it was not interrupted"),
        }
    }
    assert!(last < 2 * written as u64);
    // It is the node that was slow, not the server that was away.
    slow.until(|event| matches!(event, StoreEvent::Relistened)).await;
    is_told(&mut slow, "crew:1").await;
}

#[tokio::test]
async fn the_numbering_outlives_the_last_row_by_an_hour() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    let meta = ["PTTL", "rt:presence:meta:{acme:crew:1}"];
    let first = node.put("crew:1", "a", &[1, 2]).await.version;
    assert_eq!(fixture.number(&meta).await, -1);
    assert!(node.remove("crew:1", "a", &[1, 2]).await.vacated);
    let left = fixture.number(&meta).await;
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    let Reply::Array(keys) = fixture.0.command(&["KEYS", "*"]).await else { panic!() };
    assert_eq!(keys, [Reply::Bulk(b"rt:presence:meta:{acme:crew:1}".to_vec())]);
    let again = node.put("crew:1", "a", &[3]).await.version;
    assert_eq!((again.epoch, again.number, fixture.number(&meta).await), (first.epoch, 3, -1));
    assert_eq!(node.reap("crew:1", "a").await, (vec![3], 1));
    assert!(fixture.number(&meta).await > 3_590_000);
}

/// Counts that were left over of rows which are gone are counted anew.
#[tokio::test]
async fn counts_of_rows_that_are_lost_are_not_kept() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    node.put("crew:1", "a", &[1, 2]).await;
    assert_eq!(fixture.number(&["DEL", "rt:presence:{acme:crew:1}"]).await, 1);
    assert!(node.put("crew:1", "a", &[1]).await.occupied);
    let standing = node.standing("crew:1").await;
    assert_eq!((standing.users, standing.connections), (1, 1));
}

#[tokio::test]
async fn a_large_write_is_told_in_parts() {
    let fixture = RedisFixture::start().await;
    let mut node = Node::connect(&fixture).await;
    node.listen(&[place("crew:1")]).await;
    let all: Vec<u128> = (0..250).collect();
    let written = node.put("crew:1", "a", &all).await;
    assert!(written.occupied && !written.vacated && written.version.number == 3, "{written:?}");
    let mut told = 0;
    for number in 1..=3 {
        let (_, version, changes) = node.changed().await;
        assert_eq!((&version.epoch, version.number), (&written.version.epoch, number));
        told += changes.len();
    }
    assert_eq!(told, 250);
    let written = node.remove("crew:1", "a", &all).await;
    assert!(written.vacated && !written.occupied);
}

#[tokio::test]
async fn who_holds_a_lease_is_not_reaped() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    refuses_to_reap_the_living(&node).await;
}

pub(crate) async fn refuses_to_reap_the_living(node: &Node) {
    node.begin("a", LONG).await;
    node.put("crew:1", "a", &[1]).await;
    let reap = Reap { place: place("crew:1"), dead: incarnation("a") };
    let refused = node.store.reap(reap.clone()).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.contains("holds a lease")),
        "{refused:?}"
    );
    node.store.resign(&reap.dead, Duration::ZERO, false).await.unwrap();
    assert_eq!(node.reap("crew:1", "a").await, (vec![1], 1));
}

/// A node whose members sit still pays for this alone, three times a lease.
#[tokio::test]
async fn a_renewal_is_one_call_of_few_commands() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    for name in ["a", "b", "c"] {
        node.begin(name, LONG).await;
    }
    fixture.0.command(&["CONFIG", "RESETSTAT"]).await;
    node.renew("a", LONG, false, true).await;
    let Reply::Bulk(stats) = fixture.0.command(&["INFO", "commandstats"]).await else { panic!() };
    let stats = String::from_utf8(stats).unwrap();
    let commands: Vec<_> =
        stats.lines().filter(|line| line.starts_with("cmdstat_") && !line.contains("config")).collect();
    let calls = commands.iter().map(|line| {
        let calls = line.split_once("calls=").unwrap().1.split(',').next().unwrap();
        calls.parse::<u64>().unwrap()
    });
    assert!(calls.sum::<u64>() <= 5, "{commands:?}");
}

/// Where the server has no memory left, nothing new is kept; leases are, and what is there can go.
#[tokio::test]
async fn a_server_without_memory_keeps_leases() {
    let fixture = RedisFixture::start().await;
    let node = Node::connect(&fixture).await;
    node.begin("a", LONG).await;
    node.put("crew:1", "b", &[1]).await;
    fixture.0.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = node.store.write(write("crew:1", "a", vec![row(2, "bob")], vec![])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(node.renew("a", LONG, false, true).await.held);
    assert_eq!(node.reap("crew:1", "b").await, (vec![1], 1));
    fixture.0.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    node.store.write(write("crew:1", "a", vec![row(2, "bob")], vec![connection(9)])).await.unwrap();
}

/// What the documentation names is enough; what is missing is named at the start.
#[tokio::test]
async fn an_acl_with_no_more_than_is_needed() {
    const COMMANDS: &str = "+hello +ping +client|setname +fcall +function|load +subscribe +unsubscribe +hdel +hincrby +hlen \
        +hmget +hscan +hset +persist +pexpire +publish +sadd +srem +sscan +time +unlink +zadd +zrange +zrem +zscore";
    let user = |commands: &str| {
        format!("user node on >secret ~rt:presence:* resetchannels &rt:presence:change:* -@all {commands}")
    };
    let start = async |acl: String| RedisServer::builder().line(&acl).start().await;
    let server = start(user(COMMANDS)).await;
    let options = StoreOptions {
        user: Some("node".to_owned()),
        password: Some("secret".to_owned()),
        ..StoreOptions::new(server.url())
    };
    let mut node = Node::over(open(&options).await.unwrap());
    node.listen(&[place("crew:1")]).await;
    is_told(&mut node, "crew:1").await;
    node.begin("a", LONG).await;
    node.renew("b", LONG, false, false).await;
    node.renew("a", LONG, false, true).await;
    node.store.note(&incarnation("b"), &[place("crew:1")]).await.unwrap();
    node.put("crew:1", "b", &[1]).await;
    assert_eq!(node.reap("crew:1", "b").await, (vec![1], 1));
    node.rows("crew:1").await;
    node.standing("crew:1").await;
    node.store.noted(&incarnation("b"), None, 10).await.unwrap();
    node.store.unnote(&incarnation("b"), &[place("crew:1")]).await.unwrap();
    node.store.reaped(&incarnation("b"), LONG).await.unwrap();
    node.store.resign(&incarnation("a"), LONG, true).await.unwrap();
    node.store.unlisten(&[place("crew:1")]).await;

    // Names below another prefix are nobody's business.
    let elsewhere = StoreOptions { prefix: "other".to_owned(), ..options.clone() };
    let other = Node::over(open(&elsewhere).await.unwrap());
    let refused = other.store.listen(&[place("crew:1")]).await;
    assert!(matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.starts_with("NOPERM")), "{refused:?}");
    let renewal = Renewal { incarnation: incarnation("a"), lease: LONG, begin: true, reaps: false };
    assert!(matches!(other.store.renew(renewal).await, Err(StoreError::Refused { .. })));

    let server = start(user(&COMMANDS.replace(" +hincrby", ""))).await;
    let options = StoreOptions { url: server.url(), ..options };
    let refused = open(&options).await.err();
    assert!(matches!(&refused, Some(StoreError::Refused { reason, .. }) if reason.contains("hincrby")), "{refused:?}");
}

#[tokio::test]
async fn tls_with_user_and_password() {
    let server = RedisBuilder::default().tls().user("node", "p@ss,w/rd").start().await;
    let ca = server.authority_file().unwrap().to_path_buf();
    let options = StoreOptions { tls_ca_file: Some(ca), ..StoreOptions::new(server.url()) };
    let mut node = Node::over(open(&options).await.unwrap());
    node.listen(&[place("crew:1")]).await;
    is_told(&mut node, "crew:1").await;
    node.store.close().await;
    let wrong = StoreOptions { url: options.url.replace("p%40ss", "wrong"), ..options };
    let refused = open(&wrong).await.err();
    assert!(matches!(refused, Some(StoreError::Refused { .. })), "{refused:?}");
}

/// The master that a call was sent to is one no more.
#[tokio::test]
async fn a_replica_does_nothing() {
    let fixture = RedisFixture::start().await;
    let mut node = Node::connect(&fixture).await;
    fixture.0.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = node.store.write(write("crew:1", "a", vec![row(1, "alice")], vec![])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
    fixture.0.command(&["REPLICAOF", "NO", "ONE"]).await;
    wait_for("a write", SOON, async || {
        node.store.write(write("crew:1", "a", vec![row(1, "alice")], vec![])).await.ok()
    })
    .await;
}
