//! What only Redis has to show about history: epochs, the function library, who may use it, and replicas.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfare_broker::{
    BrokerError, BrokerEvent, BrokerOptions, HistoryPage, HistoryRange, HistoryRead, Publish, open, redis::FUNCTIONS,
};
use fanfare_protocol::{Channel, Position, Tenant};
use fanfare_testkit::{
    RedisSentinel, RedisServer,
    redis::{Fsync, Reply},
    wait_for,
};
use futures_util::future::join_all;

use crate::{
    fixture::{SOON, kept},
    node::{Node, Wanted, number, numbered},
};

/// A failover: 2 s until the master counts as dead, a vote, and where it was split another one after 6 s.
const FAILOVER: Duration = Duration::from_secs(40);

/// All that a node needs, as docs/subjects.md has it.
const ACL: &str = "user node on >secret resetkeys ~rt:hist:* ~rt:meta:* ~rt:id:* ~rt:live:* resetchannels &rt:pub:* \
     &rt:live:* &rt:pub:acme:log:* &rt:live:{acme:log:* -@all +hello +ping +client|info +client|setname +client|id \
     +publish +subscribe +unsubscribe +psubscribe +punsubscribe +fcall +wait +config|get +get +psetex +hmget +hset \
     +hdel +pexpire +pttl +unlink +xadd +xrange +xrevrange +xtrim +info +time";

fn options(url: String) -> BrokerOptions {
    BrokerOptions { history: kept(), connect_timeout: SOON, ..BrokerOptions::new(url) }
}

async fn connect(url: String) -> Node {
    Node::over(open(&options(url)).await.unwrap())
}

fn publication(channel: &str, body: impl Into<Bytes>, id: Option<&str>) -> Publish {
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap());
    Publish { tenant, channel, body: body.into(), id: id.map(str::to_owned), ephemeral: false }
}

/// Publishes and says where it stands.
async fn publish(node: &Node, channel: &str, number: u64) -> Position {
    let published = node.broker.publish(publication(channel, numbered(number), None)).await;
    published.unwrap().position.unwrap()
}

async fn read(node: &Node, channel: &str, range: HistoryRange) -> HistoryPage {
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap());
    let read = HistoryRead { tenant, channel, range, max_publications: 10_000, max_bytes: 1 << 24 };
    node.broker.history(read).await.unwrap()
}

async fn standing(node: &Node, channel: &str) -> Result<Position, BrokerError> {
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap());
    node.broker.positions(&[(tenant, channel)]).await.map(|mut standings| standings.remove(0).position)
}

fn numbers(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|recorded| number(&recorded.body.bytes)).collect()
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|recorded| recorded.offset).collect()
}

/// What is written comes to the replica. The server calls it online already when it has its copy, and sends it what comes behind that
/// only once the replica has said so, up to a second later.
async fn is_followed(server: &RedisServer, replica: &RedisServer) {
    assert_eq!(server.command(&["SET", "probe", "here"]).await, Reply::Status("OK".to_owned()));
    wait_for("the replica", SOON, async || {
        (replica.command(&["GET", "probe"]).await == Reply::Bulk(b"here".to_vec())).then_some(())
    })
    .await;
    // The copy may have had it already.
    assert_eq!(server.command(&["SET", "probe", "there"]).await, Reply::Status("OK".to_owned()));
    wait_for("what comes behind the copy", SOON, async || {
        (replica.command(&["GET", "probe"]).await == Reply::Bulk(b"there".to_vec())).then_some(())
    })
    .await;
}

/// Where a channel stands once the node is connected again.
async fn standing_again(node: &Node, channel: &str, deadline: Duration) -> Position {
    wait_for("the node to be back", deadline, async || standing(node, channel).await.ok()).await
}

/// The next publication, whatever interruptions come before it.
async fn next_publication(node: &mut Node) -> fanfare_broker::Publication {
    loop {
        if let BrokerEvent::Publication(publication) = node.event().await {
            return publication;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_writes_before_it_answers_loses_nothing() {
    let server = RedisServer::builder().append_only(Fsync::Always).start().await;
    let mut node = connect(server.url()).await;
    node.add("acme", "log:a").await;
    let before = standing(&node, "log:unused").await.unwrap();
    let mut positions = Vec::new();
    for round in 0..3 {
        for n in 1..=10 {
            let id = format!("{round}-{n}");
            let publish = publication("log:a", numbered(10 * round + n), Some(&id));
            positions.push(node.broker.publish(publish).await.unwrap().position.unwrap());
        }
        server.kill();
        server.restart().await;
        node.until(Wanted::Resumed).await;
        assert_eq!(standing_again(&node, "log:a", SOON).await, positions[positions.len() - 1]);
        // An id is still known.
        let again = node.broker.publish(publication("log:a", "again", Some(&format!("{round}-10")))).await;
        assert_eq!(again.unwrap().position.as_ref(), positions.last());
    }
    let page = read(&node, "log:a", HistoryRange::After(0)).await;
    assert!(page.whole && numbers(&page) == (1..=30).collect::<Vec<_>>(), "{page:?}");
    assert!(positions.iter().zip(1..).all(|(at, offset)| at.offset == offset && at.epoch == positions[0].epoch));
    assert_eq!(standing(&node, "log:unused").await.unwrap(), before);
    // The numbering goes on for those who listen.
    let next = publish(&node, "log:a", 31).await;
    let live = node.publication().await.position.unwrap();
    assert_eq!((live.position, live.previous), (next, Some(30)));
}

/// Whatever the server has after such a start, some of it may be missing, and nobody can say what.
/// A server that was not ready when the node came back, such as one that still loads its data, is asked again what it
/// promises; here its user is not yet allowed to call the functions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_ready_later_than_its_connection_keeps_its_epoch() {
    let denied = "user node on >secret ~* &* +@all -fcall";
    let server = RedisServer::builder().append_only(Fsync::Always).line(denied).start().await;
    let allow = async || {
        let answer = server.command(&["ACL", "SETUSER", "node", "+fcall"]).await;
        assert_eq!(answer, Reply::Status("OK".to_owned()));
    };
    allow().await;
    let node = connect(format!("redis://node:secret@{}", server.address())).await;
    let first = publish(&node, "log:a", 1).await;
    server.kill();
    server.restart().await;
    wait_for("the node to be back", SOON, async || node.publish("live:a", "x").await.ok()).await;
    assert!(matches!(standing(&node, "log:a").await, Err(BrokerError::Refused { .. })));
    allow().await;
    assert_eq!(standing(&node, "log:a").await.unwrap(), first);
    assert!(first.is_before(&publish(&node, "log:a", 2).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_something_begins_a_new_epoch() {
    let builders = [
        RedisServer::builder().append_only(Fsync::EverySecond),
        RedisServer::builder().append_only(Fsync::Never),
        RedisServer::builder().append_only(Fsync::Always).line("no-appendfsync-on-rewrite yes"),
        RedisServer::builder(),
    ];
    for (kind, builder) in builders.into_iter().enumerate() {
        let server = builder.start().await;
        let mut node = connect(server.url()).await;
        for n in 1..=3 {
            publish(&node, "log:a", n).await;
            publish(&node, "log:b", n).await;
        }
        let old = standing(&node, "log:a").await.unwrap();
        server.kill();
        server.restart().await;
        // A look notices it as well as a publication does.
        let new = standing_again(&node, "log:a", SOON).await;
        assert_ne!(new.epoch, old.epoch, "kind {kind}");
        node.until(Wanted::Resumed).await;
        node.add_all("acme", &["log:a", "log:b"]).await;
        for channel in ["log:a", "log:b"] {
            let kept = if kind == 3 { 0 } else { 3 };
            let first = publish(&node, channel, 4).await;
            assert!(first.epoch != old.epoch && first.offset == kept + 1, "kind {kind}: {first:?}");
            let live = next_publication(&mut node).await.position.unwrap();
            let previous = if kept == 0 { Some(0) } else { None };
            assert_eq!((&live.position, live.previous), (&first, previous), "kind {kind}");
            publish(&node, channel, 5).await;
            assert_eq!(next_publication(&mut node).await.position.unwrap().previous, Some(kept + 1));
            // What belongs to the old epoch is no part of this one.
            for range in [HistoryRange::After(0), HistoryRange::Before(None)] {
                let page = read(&node, channel, range).await;
                assert_eq!((numbers(&page), offsets(&page)), (vec![4, 5], vec![kept + 1, kept + 2]), "kind {kind}");
                assert!(!page.more && page.position.epoch == first.epoch, "kind {kind}: {page:?}");
            }
            assert!(read(&node, channel, HistoryRange::After(kept)).await.whole);
            if kept > 0 {
                assert!(!read(&node, channel, HistoryRange::After(kept - 1)).await.whole);
                assert_eq!(read(&node, channel, HistoryRange::Before(Some(kept + 1))).await.publications.len(), 0);
            }
        }
        node.close().await;
    }
}

#[tokio::test]
async fn a_snapshot_is_another_epoch() {
    let server = RedisServer::start().await;
    let node = connect(server.url()).await;
    let old = publish(&node, "log:a", 1).await;
    server.command(&["SAVE"]).await;
    publish(&node, "log:a", 2).await;
    server.kill();
    server.restart().await;
    let new = standing_again(&node, "log:a", SOON).await;
    assert!(new.epoch != old.epoch && new.offset == 1, "{new:?} after {old:?}");
}

/// A server that writes before it answers, but which others follow: one of them may take its place, and comes without what
/// it had not got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_replicas_is_not_taken_at_its_word() {
    let server = RedisServer::builder().append_only(Fsync::Always).start().await;
    let node = connect(server.url()).await;
    let alone = publish(&node, "log:a", 1).await;
    let (ip, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let replica =
        RedisServer::builder().append_only(Fsync::Always).line(&format!("replicaof {ip} {port}")).start().await;
    is_followed(&server, &replica).await;
    // The replication id changes when the first replica comes.
    let followed = publish(&node, "log:a", 2).await;
    assert_ne!(followed.epoch, alone.epoch);
    assert_eq!(publish(&node, "log:a", 3).await.epoch, followed.epoch);
    // The replica takes over, is alone, and starts again: it looks like a server that was always alone.
    server.kill();
    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]).await, Reply::Status("OK".to_owned()));
    assert_eq!(replica.command(&["CONFIG", "REWRITE"]).await, Reply::Status("OK".to_owned()));
    replica.restart().await;
    let node = connect(replica.url()).await;
    let new = standing(&node, "log:a").await.unwrap();
    assert!(new.epoch != followed.epoch && new.offset == 3, "{new:?} after {followed:?}");
    let page = read(&node, "log:a", HistoryRange::Before(None)).await;
    assert!(page.publications.is_empty() && page.position == new, "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_means_that_a_replica_has_it() {
    let server = RedisServer::start().await;
    let replica = format!("replicaof {} {}", server.address().ip(), server.address().port());
    let replica = RedisServer::builder().line(&replica).start().await;
    let hasty = BrokerOptions { request_timeout: Duration::from_millis(1_000), ..options(server.url()) };
    let node = Node::over(open(&hasty).await.unwrap());
    is_followed(&server, &replica).await;
    let stream = ["XLEN", "rt:hist:{acme:log:a}"];
    for n in 1..=20 {
        publish(&node, "log:a", n).await;
        assert_eq!(replica.command(&stream).await, Reply::Integer(n as i64));
    }
    // Many at a time share their waits.
    let began = Instant::now();
    join_all((0..500).map(|n| publish(&node, "deep:a", n))).await;
    println!("500 publications with a replica: {:?}", began.elapsed());
    replica.pause();
    let began = Instant::now();
    let publishing = (0..20).map(|n| node.broker.publish(publication("log:a", numbered(n), Some(&format!("id{n}")))));
    for published in join_all(publishing).await {
        assert!(matches!(published, Err(BrokerError::Timeout { .. })), "{published:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    replica.resume();
    // Once more with the same id: accepted now, and not published again.
    let first = publication("log:a", numbered(0), Some("id0"));
    let first = wait_for("the replica to follow", SOON, async || node.broker.publish(first.clone()).await.ok()).await;
    assert_eq!(first.position.unwrap().offset, 21);
    assert_eq!(replica.command(&stream).await, server.command(&stream).await);
}

/// A master that is made a replica takes nothing any more, and what it takes when it is one again is another epoch.
#[tokio::test]
async fn a_server_that_is_no_master_is_unavailable() {
    let server = RedisServer::builder().append_only(Fsync::Always).start().await;
    let node = connect(server.url()).await;
    let old = publish(&node, "log:a", 1).await;
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", "1"]).await, Reply::Status("OK".to_owned()));
    let refused = node.broker.publish(publication("log:a", "x", None)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable { .. } | BrokerError::Timeout { .. })), "{refused:?}");
    assert!(standing(&node, "log:a").await.is_err());
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]).await, Reply::Status("OK".to_owned()));
    let new = standing_again(&node, "log:a", SOON).await;
    assert!(new.epoch != old.epoch && new.offset == 1, "{new:?} after {old:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_another_epoch() {
    let group = RedisSentinel::start().await;
    let mut node = connect(group.url()).await;
    node.add_all("acme", &["log:a", "log:*"]).await;
    for n in 1..=3 {
        publish(&node, "log:a", n).await;
    }
    let old = publish(&node, "log:b", 1).await;
    let before = standing(&node, "log:a").await.unwrap();
    let master = group.kill_master().await;
    group.wait_for_failover(master).await;
    let after = standing_again(&node, "log:a", FAILOVER).await;
    // With a replica that had everything, as `accepted` promises, nothing is missing; but nobody can prove it.
    assert!(after.epoch != before.epoch && after.offset <= 3, "{after:?} after {before:?}");
    let next = wait_for("publishing to work", FAILOVER, async || {
        node.broker.publish(publication("log:a", numbered(4), None)).await.ok()?.position
    })
    .await;
    assert!(next.epoch == after.epoch && next.offset > after.offset, "{next:?} after {after:?}");
    let page = read(&node, "log:a", HistoryRange::Before(None)).await;
    assert!(page.publications.iter().all(|recorded| recorded.offset > after.offset), "{page:?}");
    // A channel that nobody has looked at since.
    assert_ne!(standing(&node, "log:b").await.unwrap().epoch, old.epoch);
}

/// Each node's own order is the channel's, and no offset is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publishers_give_one_order() {
    const EACH: u64 = 500;
    const ALL: u64 = 4 * EACH;
    let server = RedisServer::start().await;
    let mut reader = connect(server.url()).await;
    let ids = reader.add_all("acme", &["deep:a", "deep:*"]).await;
    let mut publishing = Vec::new();
    for publisher in 0..4 {
        let node = connect(server.url()).await;
        publishing.push(tokio::spawn(async move {
            let mut positions = Vec::new();
            for n in 0..EACH {
                positions.push(publish(&node, "deep:a", publisher * EACH + n).await);
            }
            assert!(positions.windows(2).all(|pair| pair[0].is_before(&pair[1])));
            positions
        }));
    }
    let mut next = [1, 1];
    while next != [ALL + 1, ALL + 1] {
        let publication = reader.publication().await;
        let live = publication.position.unwrap();
        let next = &mut next[usize::from(publication.interest == ids[1])];
        assert_eq!((live.position.offset, live.previous), (*next, Some(*next - 1)));
        *next += 1;
    }
    let mut offsets = HashSet::new();
    for task in publishing {
        offsets.extend(task.await.unwrap().into_iter().map(|position| position.offset));
    }
    assert_eq!(offsets, (1..=ALL).collect());
    // As many reads as there are publications, all at once: one of each.
    let broker = &reader.broker;
    let reads = (0..ALL).map(|after| async move {
        let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("deep:a").unwrap());
        let range = HistoryRange::After(after);
        let read = HistoryRead { tenant, channel, range, max_publications: 1, max_bytes: 1 << 20 };
        let page = broker.history(read).await.unwrap();
        assert!(page.whole && page.more == (after + 1 < ALL));
        page.publications[0].offset
    });
    assert!(join_all(reads).await.into_iter().eq(1..=ALL));
    let page = read(&reader, "deep:a", HistoryRange::Before(None)).await;
    assert!(page.publications.iter().map(|recorded| recorded.offset).eq(1..=ALL));
}

#[tokio::test]
async fn a_plain_publish_is_live_only() {
    let server = RedisServer::start().await;
    let mut node = connect(server.url()).await;
    let ids = node.add_all("acme", &["log:a", "log:*"]).await;
    assert_eq!(server.command(&["PUBLISH", "rt:pub:acme:log:a", "plain"]).await, Reply::Integer(2));
    for _ in &ids {
        let publication = node.publication().await;
        assert_eq!((publication.position, &publication.body.bytes[..]), (None, &b"plain"[..]));
    }
    assert!(read(&node, "log:a", HistoryRange::After(0)).await.publications.is_empty());
    assert_eq!(publish(&node, "log:a", 1).await.offset, 1);
}

#[tokio::test]
async fn what_no_function_published_is_not_delivered_as_if() {
    let server = RedisServer::start().await;
    let mut node = connect(server.url()).await;
    node.add_all("acme", &["log:a", "log:*"]).await;
    let live = "rt:live:{acme:log:a}";
    for forged in ["{}", "", "\n{}", "e 1\n{}", "e 1 1\n{}", "e x 0\n{}", "e. 1 0\n{}"] {
        assert_eq!(server.command(&["PUBLISH", live, forged]).await, Reply::Integer(2));
    }
    server.command(&["PUBLISH", "rt:live:{acme:log:not a channel}", "e 1 0\n{}"]).await;
    publish(&node, "log:a", 7).await;
    for _ in 0..2 {
        assert_eq!(number(&node.publication().await.body.bytes), 7);
    }
}

/// Old entries go one by one, at the next publication and with the next read.
#[tokio::test]
async fn age_takes_the_oldest_first() {
    let server = RedisServer::start().await;
    let node = connect(server.url()).await;
    let began = Instant::now();
    for n in 1..=8 {
        publish(&node, "brief:a", n).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let page = read(&node, "brief:a", HistoryRange::Before(None)).await;
    let kept = numbers(&page);
    // 1.6 s have passed or more: the first three are older than a second.
    assert!(kept.iter().all(|n| *n > 3), "{kept:?} after {:?}", began.elapsed());
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{kept:?}");
    wait_for("the stream to go", SOON, async || {
        (server.command(&["EXISTS", "rt:hist:{acme:brief:a}"]).await == Reply::Integer(0)).then_some(())
    })
    .await;
    assert_eq!(publish(&node, "brief:a", 9).await.offset, 9);
    assert_eq!(server.command(&["XLEN", "rt:hist:{acme:brief:a}"]).await, Reply::Integer(1));
}

/// Nothing stays for ever, and the numbering stays longer than what it numbers.
#[tokio::test]
async fn every_key_expires() {
    let server = RedisServer::start().await;
    let node = connect(server.url()).await;
    node.broker.publish(publication("log:a", "x", Some("id"))).await.unwrap();
    standing(&node, "log:unused").await.unwrap();
    let Reply::Array(keys) = server.command(&["KEYS", "*"]).await else { panic!() };
    assert_eq!(keys.len(), 4, "{keys:?}");
    let minutes = |minutes: i64| minutes * 60_000;
    for (key, least, most) in [
        ("rt:hist:{acme:log:a}", minutes(4), minutes(5)),
        ("rt:meta:{acme:log:a}", minutes(7 * 24 * 60), minutes(7 * 24 * 60 + 10)),
        ("rt:id:{acme:log:a}:id", minutes(1), minutes(2)),
        ("rt:meta:{acme:log:unused}", minutes(59), minutes(60)),
    ] {
        let Reply::Integer(left) = server.command(&["PTTL", key]).await else { panic!() };
        assert!((least..=most).contains(&left), "{key}: {left} ms");
    }
}

#[tokio::test]
async fn the_library_is_loaded_where_it_is_missing_or_old_and_left_where_it_is_newer() {
    const REVISION: &str = "local REVISION = ";
    let server = RedisServer::start().await;
    let revision = async || match server.command(&["FCALL", "fanfare_v1_check", "0"]).await {
        Reply::Array(fields) => fields[0].clone(),
        other => other,
    };
    let node = connect(server.url()).await;
    let own = revision().await;
    assert!(matches!(own, Reply::Integer(1..)), "{own:?}");
    let other = |number: &str| {
        let (before, rest) = FUNCTIONS.split_once(REVISION).unwrap();
        format!("{before}{REVISION}{number}\n{}", rest.split_once('\n').unwrap().1)
    };
    for (other_revision, then) in [("0", own.clone()), ("999", Reply::Integer(999))] {
        let loaded = server.command(&["FUNCTION", "LOAD", "REPLACE", &other(other_revision)]).await;
        assert_eq!(loaded, Reply::Bulk(b"fanfare_v1".to_vec()));
        let another = connect(server.url()).await;
        assert_eq!(revision().await, then);
        publish(&another, "log:a", 1).await;
    }
    // Whoever takes it away takes it away for a moment only.
    for _ in 0..2 {
        server.command(&["FUNCTION", "FLUSH"]).await;
        publish(&node, "log:a", 2).await;
        server.command(&["FUNCTION", "FLUSH"]).await;
        standing(&node, "log:a").await.unwrap();
    }
    assert_eq!(offsets(&read(&node, "log:a", HistoryRange::After(0)).await), [1, 2, 3, 4]);
    // Nodes that start together.
    server.command(&["FUNCTION", "FLUSH"]).await;
    for node in join_all((0..5).map(|_| connect(server.url()))).await {
        publish(&node, "log:a", 3).await;
    }
}

/// The rights that docs/subjects.md names are enough, over TLS too; one that is missing is told by its name.
#[tokio::test]
async fn an_acl_with_no_more_than_is_needed() {
    let server = RedisServer::builder().line(ACL).tls().start().await;
    let url = format!("rediss://node:secret@{}", server.address());
    let secure = BrokerOptions { tls_ca_file: server.authority_file().map(Into::into), ..options(url) };
    let refused = async || match open(&secure).await {
        Err(BrokerError::Refused { reason, .. }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    };
    // It may not load the library, so somebody else has to.
    let reason = refused().await;
    assert!(reason.contains("fanfare redis-functions | redis-cli -x FUNCTION LOAD REPLACE"), "{reason}");
    assert_eq!(server.command(&["FUNCTION", "LOAD", FUNCTIONS]).await, Reply::Bulk(b"fanfare_v1".to_vec()));
    let mut node = Node::over(open(&secure).await.unwrap());
    node.add_all("acme", &["log:a", "log:*"]).await;
    let position = publish(&node, "log:a", 1).await;
    node.broker.publish(publication("log:a", "x", Some("id"))).await.unwrap();
    for _ in 0..2 {
        assert_eq!(node.publication().await.position.unwrap().position, position);
    }
    assert_eq!(offsets(&read(&node, "log:a", HistoryRange::Before(None)).await), [1, 2]);
    assert_eq!(standing(&node, "log:a").await.unwrap().offset, 2);
    for command in ["xtrim", "info", "psetex", "wait", "publish", "fcall"] {
        server.command(&["ACL", "SETUSER", "node", &format!("-{command}")]).await;
        let reason = refused().await;
        assert!(reason.contains(command), "{reason}");
        server.command(&["ACL", "SETUSER", "node", &format!("+{command}")]).await;
    }
    // Without history none of it is asked for.
    server.command(&["ACL", "SETUSER", "node", "-fcall"]).await;
    let plain = BrokerOptions { history: Default::default(), ..secure.clone() };
    Node::over(open(&plain).await.unwrap()).publish("log:a", "x").await.unwrap();
}

/// The lines that docs/subjects.md gives for an ACL file.
#[tokio::test]
async fn the_users_that_the_documents_give_can_do_what_they_do() {
    const DOCUMENT: &str = include_str!("../../../../docs/subjects.md");
    let user = |begin: &str| {
        let mut lines = DOCUMENT.lines().filter(|line| line.starts_with(begin) && line.contains("+fcall"));
        lines.next().unwrap().replace("NODE_PASSWORD", "secret").replace("SERVICE_PASSWORD", "secret")
    };
    let server = RedisServer::builder().line(&user("user node on")).line(&user("user recorder on")).start().await;
    let mut node = connect(format!("redis://node:secret@{}", server.address())).await;
    node.add_all("acme", &["log:a", "log:*", "live:a", "live:**"]).await;
    let service = connect(format!("redis://recorder:secret@{}", server.address())).await;
    let publish = publication("log:a", numbered(1), Some("id"));
    let position = service.broker.publish(publish).await.unwrap().position.unwrap();
    for _ in 0..2 {
        assert_eq!(node.publication().await.position.unwrap().position, position);
    }
    service.publish("live:a", numbered(2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(number(&node.publication().await.body.bytes), 2);
    }
    assert_eq!(standing(&node, "log:a").await.unwrap(), position);
}

/// It may load it itself, and may not ask how the server writes to its disk: then every start is another epoch.
#[tokio::test]
async fn a_server_that_says_nothing_of_its_disk_is_not_trusted() {
    let acl = format!("{} +function|load", ACL.replace(" +config|get", ""));
    let server = RedisServer::builder().append_only(Fsync::Always).line(&acl).start().await;
    let node = connect(format!("redis://node:secret@{}", server.address())).await;
    let old = publish(&node, "log:a", 1).await;
    server.restart().await;
    let new = standing_again(&node, "log:a", SOON).await;
    assert!(new.epoch != old.epoch && new.offset == 1, "{new:?} after {old:?}");
}

/// A server that is killed in the middle of a write may carry out half a publication when it loads its file the time after
/// next: the offset, which was given to another, is there twice.
#[tokio::test]
async fn of_two_entries_with_one_offset_the_later_counts() {
    let server = RedisServer::start().await;
    let node = connect(server.url()).await;
    for number in 1..=3 {
        publish(&node, "log:a", number).await;
    }
    let entries = server.command(&["XRANGE", "rt:hist:{acme:log:a}", "3", "3"]).await;
    let Reply::Array(entries) = &entries else { panic!("{entries:?}") };
    let Reply::Array(entry) = &entries[0] else { panic!("{entries:?}") };
    let Reply::Bulk(id) = &entry[0] else { panic!("{entries:?}") };
    let time: u64 = String::from_utf8(id.clone()).unwrap().split_once('-').unwrap().1.parse().unwrap();
    let again = String::from_utf8(numbered(30).to_vec()).unwrap();
    server.command(&["XADD", "rt:hist:{acme:log:a}", &format!("3-{}", time + 1), "b", &again]).await;
    publish(&node, "log:a", 4).await;
    for (range, expected) in [
        (HistoryRange::After(0), vec![1, 2, 30, 4]),
        (HistoryRange::After(2), vec![30, 4]),
        (HistoryRange::Before(None), vec![1, 2, 30, 4]),
        (HistoryRange::Before(Some(4)), vec![1, 2, 30]),
    ] {
        assert_eq!(numbers(&read(&node, "log:a", range).await), expected, "{range:?}");
    }
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("log:a").unwrap());
    let three = HistoryRead { tenant, channel, range: HistoryRange::After(0), max_publications: 3, max_bytes: 1 << 20 };
    let page = node.broker.history(three.clone()).await.unwrap();
    assert_eq!((numbers(&page), page.more), (vec![1, 2, 30], true));
    let newest = HistoryRead { range: HistoryRange::Before(None), max_publications: 2, ..three };
    assert_eq!(numbers(&node.broker.history(newest).await.unwrap()), [30, 4]);
    node.broker.close().await;
}
