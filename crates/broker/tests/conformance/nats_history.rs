//! History in the NATS adapter, as far as it is NATS' own: sequences of a whole stream, republished messages, replicas.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use fanfare_broker::{
    BrokerError, BrokerEvent, BrokerOptions, HistoryPage, HistoryRange, HistoryRead, LivePosition, Publish, Scope, open,
};
use fanfare_protocol::{Channel, Tenant};
use fanfare_testkit::{NatsServer, TcpProxy, wait_for};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    fixture::{Outside as _, SOON},
    nats::Plain,
    nats_streams::{api, jetstream, options},
    node::{Node, Wanted, number, numbered},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A server, and a node with a namespace `a` that keeps so much.
async fn start(size: u32, ttl: Duration) -> (NatsServer, Node) {
    let server = jetstream().await;
    let node = Node::over(Box::pin(open(&options(&server, size, ttl))).await.unwrap());
    (server, node)
}

fn offsets(page: &HistoryPage) -> Vec<u64> {
    page.publications.iter().map(|recorded| recorded.offset).collect()
}

async fn after(node: &Node, channel: &str, offset: u64) -> HistoryPage {
    node.read(channel, HistoryRange::After(offset), 10_000).await.unwrap()
}

async fn live(node: &mut Node) -> LivePosition {
    node.publication().await.position.unwrap()
}

#[tokio::test]
async fn positions_are_the_streams_sequences_and_holes_can_be_seen() {
    let (_server, mut node) = start(2, MINUTE).await;
    node.add_all("acme", &["a:b", "a:**"]).await;
    node.record("a:other", numbered(0)).await;
    let epoch = node.publication().await.position.unwrap().position.epoch;
    for (number, previous) in [(2, None), (3, Some(2)), (4, Some(3))] {
        assert_eq!(node.record("a:b", numbered(number)).await.offset, number);
        for _ in 0..2 {
            let publication = node.publication().await;
            assert_eq!(self::number(&publication.body.bytes), number);
            let place = publication.position.unwrap();
            assert_eq!((place.position.offset, place.previous), (number, previous));
            assert_eq!(place.position.epoch, epoch);
        }
    }
    // Of a channel whose last one is gone nothing is known.
    node.record("a:c", numbered(5)).await;
    let standing = node.standing("a:b").await.unwrap();
    assert_eq!((standing.position.offset, standing.empty), (4, false));
    let standing = node.standing("a:empty").await.unwrap();
    assert_eq!((standing.position.offset, standing.empty), (5, true));
    node.close().await;
}

#[tokio::test]
async fn headers_that_a_publisher_forges_do_not_count() {
    let (server, mut node) = start(100, MINUTE).await;
    node.add("acme", "a:b").await;
    let outside = Plain::connect(&server).await;
    let mut forged = HeaderMap::new();
    for (name, value) in [
        ("Nats-Sequence", "900"),
        ("Nats-Last-Sequence", "899"),
        ("Nats-Stream", "RT_other"),
        ("Fanfare-Event", "forged:not"),
    ] {
        forged.append(name, value);
    }
    for number in 1..=2 {
        let subject = outside.subject("acme", "a:b");
        outside.client.publish_with_headers(subject, forged.clone(), numbered(number)).await.unwrap();
        let publication = node.publication().await;
        assert_eq!(publication.body.event.as_deref(), Some("forged:not"));
        let place = publication.position.unwrap();
        assert_eq!((place.position.offset, place.previous), (number, (number > 1).then_some(number - 1)));
    }
    assert_eq!(offsets(&after(&node, "a:b", 0).await), [1, 2]);
    // What was not republished by the stream is not delivered: without its headers, and in another stream's name.
    let live = "rt.live.acme.a.b";
    outside.client.publish(live, numbered(3)).await.unwrap();
    outside.client.publish_with_headers(live, forged, numbered(4)).await.unwrap();
    assert!(outside.publish("acme", "a:b", numbered(5)).await);
    outside.flush().await;
    assert_eq!(number(&node.publication().await.body.bytes), 5);
}

#[tokio::test]
async fn an_id_published_three_times_is_one_publication() {
    let (server, mut node) = start(100, MINUTE).await;
    let other = Node::over(open(&options(&server, 100, MINUTE)).await.unwrap());
    node.add("acme", "a:b").await;
    let first = node.record_as("a:b", numbered(1), Some("x")).await.unwrap();
    node.record("a:c", numbered(0)).await;
    for node in [&node, &other] {
        assert_eq!(node.record_as("a:b", numbered(1), Some("x")).await.unwrap(), first);
    }
    // The window is the stream's; the id is the channel's.
    assert_ne!(node.record_as("a:c", numbered(1), Some("x")).await.unwrap(), first);
    node.record("a:b", numbered(2)).await;
    assert_eq!(number(&node.publication().await.body.bytes), 1);
    assert_eq!(number(&node.publication().await.body.bytes), 2);
}

#[tokio::test]
async fn publishing_fails_as_it_is() {
    let (server, node) = start(100, MINUTE).await;
    let line_break = node.record_as("a:b", "x", Some("1\r\n7")).await;
    assert!(matches!(line_break, Err(BrokerError::Refused { .. })), "{line_break:?}");
    let large = node.record_as("a:b", vec![b'x'; 3_000_000], None).await;
    assert!(matches!(large, Err(BrokerError::TooLarge { bytes: 3_000_000, .. })), "{large:?}");
    let outside = Plain::connect(&server).await;
    let mut config = api(&outside.client, "STREAM.INFO.RT_a", Value::Null).await["config"].take();
    config["max_msg_size"] = json!(10);
    assert_eq!(api(&outside.client, "STREAM.UPDATE.RT_a", config).await["error"], Value::Null);
    let refused = node.record_as("a:b", vec![b'x'; 11], None).await;
    assert!(
        matches!(&refused, Err(BrokerError::Refused { reason, .. }) if reason.contains("RT_a") && reason.contains("size")),
        "{refused:?}"
    );
    server.stop().await;
    let away = node.record_as("a:b", "x", None).await;
    assert!(matches!(away, Err(BrokerError::Unavailable { .. } | BrokerError::Timeout { .. })), "{away:?}");
}

/// Sequences belong to the whole stream, so that a channel's numbers alone prove nothing.
#[tokio::test]
async fn whole_is_what_is_proven() {
    let (_server, node) = start(3, MINUTE).await;
    for number in 1..=4 {
        node.record("a:busy", numbered(number)).await;
    }
    // 2, 3 and 4 are retained.
    for (from, whole) in [(0, false), (1, false), (2, true), (3, true), (4, true)] {
        let page = after(&node, "a:busy", from).await;
        assert_eq!((page.whole, page.position.offset, page.more), (whole, 4, false), "after {from}");
        assert_eq!(offsets(&page), ((from + 1).max(2)..=4).collect::<Vec<_>>(), "after {from}");
    }
    // A quiet channel of the same stream: its end is the stream's, and what comes behind it is whole.
    let empty = after(&node, "a:quiet", 4).await;
    assert_eq!((empty.whole, empty.position.offset), (true, 4));
    node.record("a:quiet", numbered(5)).await;
    node.record("a:busy", numbered(6)).await;
    let page = after(&node, "a:quiet", 4).await;
    assert_eq!((page.whole, page.position.offset, offsets(&page)), (true, 5, vec![5]));
    // From a place where the other channel was, while nothing had left the stream's front since.
    assert!(after(&node, "a:quiet", 3).await.whole);
    // Nothing of before the stream's first is known.
    assert!(!after(&node, "a:quiet", 1).await.whole);
    // Behind the end: of a stream that was another.
    let beyond = after(&node, "a:quiet", 7).await;
    assert_eq!((beyond.whole, beyond.position.offset, offsets(&beyond)), (false, 5, vec![]));
    // Full, and its first not there: something may have been lost.
    for number in 7..=8 {
        node.record("a:quiet", numbered(number)).await;
    }
    assert!(!after(&node, "a:quiet", 4).await.whole);
    assert!(after(&node, "a:quiet", 5).await.whole);
}

/// What a smaller size has taken away is not proven to be there by a larger one.
#[tokio::test]
async fn raising_the_size_proves_nothing_of_before() {
    let (server, node) = start(3, MINUTE).await;
    node.record("a:front", numbered(1)).await;
    for number in 2..=9 {
        node.record("a:b", numbered(number)).await;
    }
    node.close().await;
    let node = Node::over(open(&options(&server, 100, MINUTE)).await.unwrap());
    // The front is where it was, and the channel has 3 of 100.
    let page = after(&node, "a:b", 1).await;
    assert_eq!((page.whole, offsets(&page)), (false, vec![7, 8, 9]));
    assert!(after(&node, "a:b", 7).await.whole);
    for number in 10..=15 {
        node.record("a:b", numbered(number)).await;
    }
    assert!(!after(&node, "a:b", 1).await.whole);
    assert!(after(&node, "a:c", 9).await.whole && !after(&node, "a:c", 8).await.whole);
}

#[tokio::test]
async fn what_has_expired_is_not_whole() {
    let (_server, node) = start(100, Duration::from_millis(1_500)).await;
    node.record("a:b", numbered(1)).await;
    node.record("a:b", numbered(2)).await;
    assert!(after(&node, "a:b", 1).await.whole);
    wait_for("both to expire", SOON, async || node.standing("a:b").await.unwrap().empty.then_some(())).await;
    let page = after(&node, "a:b", 1).await;
    assert_eq!((page.whole, page.position.offset, offsets(&page)), (false, 2, vec![]));
    assert!(after(&node, "a:b", 2).await.whole);
    node.record("a:b", numbered(3)).await;
    let page = after(&node, "a:b", 2).await;
    assert_eq!((page.whole, offsets(&page)), (true, vec![3]));
    assert!(!after(&node, "a:b", 1).await.whole);
}

/// A channel may be trimmed while it is read; what is then called whole has no hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_whole_is_whole_while_others_publish() {
    let (server, node) = start(40, MINUTE).await;
    let publisher = Node::over(open(&options(&server, 40, MINUTE)).await.unwrap());
    let publishing = tokio::spawn(async move {
        let mut published = Vec::new();
        for number in 0..3_000 {
            published.push(publisher.record("a:b", numbered(number)).await.offset);
            if number % 3 == 0 {
                publisher.record("a:c", numbered(number)).await;
            }
        }
        published
    });
    let (mut pages, mut from) = (Vec::new(), 0);
    while !publishing.is_finished() {
        let page = after(&node, "a:b", from).await;
        let last = page.publications.last().map_or(page.position.offset, |last| last.offset);
        pages.push((from, page));
        // Now and then so far back that it has to be trimmed meanwhile.
        from = if pages.len() % 3 == 0 { last } else { last.saturating_sub(45) };
    }
    let published = publishing.await.unwrap();
    let mut whole = 0;
    for (from, page) in &pages {
        let expected: Vec<u64> =
            published.iter().copied().filter(|offset| offset > from && *offset <= page.position.offset).collect();
        assert!(offsets(page).iter().all(|offset| expected.contains(offset)));
        if page.whole {
            whole += 1;
            assert_eq!(offsets(page), expected, "after {from}");
        }
    }
    println!("{whole} of {} pages were whole", pages.len());
    assert!(whole > 0 && whole < pages.len());
}

/// A channel may be trimmed while it is read; what is read then has no hole in its middle, whole or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_has_a_hole_while_others_publish() {
    const SIZE: u64 = 24;
    let (server, node) = start(SIZE as u32, MINUTE).await;
    let publisher = Node::over(open(&options(&server, SIZE as u32, MINUTE)).await.unwrap());
    let publishing = tokio::spawn(async move {
        let mut published = Vec::new();
        for first in (0..12_000).step_by(6) {
            let all = (first..first + 6).map(|number| publisher.record("a:b", numbered(number)));
            published.extend(futures_util::future::join_all(all).await.into_iter().map(|position| position.offset));
        }
        published.sort_unstable();
        published
    });
    let (mut pages, mut newest) = (Vec::new(), 0);
    while !publishing.is_finished() {
        // From where something is still retained, or was a moment ago.
        let back = pages.len() as u64 % (SIZE + 4);
        let range = match pages.len() % 4 {
            0 | 1 => HistoryRange::After(newest - back.min(newest)),
            2 => HistoryRange::Before(None),
            _ => HistoryRange::Before(Some(newest - (back / 2).min(newest))),
        };
        let limit = if pages.len() % 5 == 0 { 3 } else { 10_000 };
        let page = node.read("a:b", range, limit).await.unwrap();
        newest = page.position.offset;
        pages.push((range, page));
    }
    let published = publishing.await.unwrap();
    let place = |offset: &u64| published.binary_search(offset).expect("nothing else was published");
    let mut trimmed = 0;
    for (range, page) in &pages {
        let places: Vec<usize> = offsets(page).iter().map(place).collect();
        let read = offsets(page);
        assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{range:?}: {read:?} with a hole");
        let last = page.publications.last().map(|last| last.offset);
        match range {
            HistoryRange::After(_) => trimmed += usize::from(!page.whole),
            // The first read may have come before the first publication.
            HistoryRange::Before(None) => assert!(last.is_none_or(|last| last == page.position.offset), "{read:?}"),
            HistoryRange::Before(Some(before)) => {
                let next = last.map(|last| published.iter().copied().find(|offset| *offset > last));
                assert!(next.is_none_or(|next| next == Some(*before)), "before {before}: {read:?}");
            }
        }
    }
    println!("{trimmed} of {} pages were read while the channel was trimmed", pages.len());
    assert!(trimmed > 0);
}

#[tokio::test]
async fn two_thousand_publications_are_read_in_both_directions() {
    const ALL: u64 = 2_000;
    let (_server, node) = start(5_000, MINUTE).await;
    let body = |number: u64| Bytes::from(format!("{}{number}", "x:".repeat(500)));
    let publish = |number| node.record("a:b", body(number));
    for first in (0..ALL).step_by(100) {
        futures_util::future::join_all((first..first + 100).map(publish)).await;
    }
    let began = Instant::now();
    let page = after(&node, "a:b", 0).await;
    println!("{ALL} publications of 1 KB read in {:?}", began.elapsed());
    assert_eq!(offsets(&page), (1..=ALL).collect::<Vec<_>>());
    assert!(page.whole && !page.more && page.publications.iter().all(|recorded| recorded.timestamp.is_some()));
    let mut numbers: Vec<u64> = page.publications.iter().map(|recorded| number(&recorded.body.bytes)).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..ALL));

    let (mut from, mut read) = (0, Vec::new());
    loop {
        let page = node.read("a:b", HistoryRange::After(from), 300).await.unwrap();
        assert!(page.whole && page.position.offset == ALL);
        read.extend(offsets(&page));
        from = *read.last().unwrap();
        assert_eq!(page.more, from < ALL);
        if !page.more {
            break;
        }
    }
    assert_eq!(read, (1..=ALL).collect::<Vec<_>>());
    let (mut before, mut read) = (None, Vec::new());
    loop {
        let page = node.read("a:b", HistoryRange::Before(before), 700).await.unwrap();
        let mut offsets = offsets(&page);
        before = offsets.first().copied();
        offsets.extend(read);
        read = offsets;
        if !page.more {
            break;
        }
    }
    assert_eq!(read, (1..=ALL).collect::<Vec<_>>());
    // Bounded in bytes.
    let range = HistoryRange::After(0);
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("a:b").unwrap());
    let few = HistoryRead { tenant, channel, range, max_publications: 10_000, max_bytes: 100_000 };
    let page = node.broker.history(few.clone()).await.unwrap();
    assert!(page.more && (95..100).contains(&page.publications.len()), "{}", page.publications.len());
    let page = node.broker.history(HistoryRead { range: HistoryRange::Before(None), ..few }).await.unwrap();
    assert!(page.more && (95..100).contains(&page.publications.len()), "{}", page.publications.len());
    assert_eq!(page.publications.last().unwrap().offset, ALL);
}

#[tokio::test]
async fn no_consumer_is_left_behind() {
    let (server, node) = start(5_000, MINUTE).await;
    for number in 0..100 {
        node.record("a:b", numbered(number)).await;
    }
    for _ in 0..3 {
        assert_eq!(after(&node, "a:b", 0).await.publications.len(), 100);
        assert_eq!(node.read("a:b", HistoryRange::Before(None), 20).await.unwrap().publications.len(), 20);
    }
    let outside = Plain::connect(&server).await;
    wait_for("the end of all consumers", Duration::from_secs(2), async || {
        let names = api(&outside.client, "CONSUMER.NAMES.RT_a", Value::Null).await;
        (names["total"] == json!(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_restarts_keeps_history_and_numbering() {
    let (server, mut node) = start(100, MINUTE).await;
    node.add("acme", "a:b").await;
    let before = node.record("a:b", numbered(1)).await;
    live(&mut node).await;
    server.stop().await;
    node.until(Wanted::Interrupted).await;
    let began = Instant::now();
    for refused in [node.standing("a:b").await.err(), node.read("a:b", HistoryRange::After(0), 1).await.err()] {
        assert!(matches!(refused, Some(BrokerError::Unavailable { .. })), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    server.restart().await;
    node.until(Wanted::Resumed).await;
    let standing = wait_for("the stream", SOON, async || node.standing("a:b").await.ok()).await;
    assert_eq!(standing.position, before);
    let second = node.record("a:b", numbered(2)).await;
    assert_eq!((second.offset, &second.epoch), (2, &before.epoch));
    let place = live(&mut node).await;
    assert_eq!((place.position, place.previous), (second, Some(1)));
    assert_eq!(offsets(&after(&node, "a:b", 1).await), [2]);
}

/// Calls that are on their way when the connection is lost end by it, and do not wait for their time.
#[tokio::test]
async fn a_lost_connection_ends_what_waits() {
    let server = jetstream().await;
    let proxy = TcpProxy::start(server.address());
    let options = BrokerOptions { url: format!("nats://{}", proxy.address()), ..options(&server, 100, MINUTE) };
    let node = Node::over(open(&options).await.unwrap());
    node.record("a:b", numbered(1)).await;
    proxy.latency(MINUTE);
    let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("a:b").unwrap());
    let publish =
        Publish { tenant: tenant.clone(), channel: channel.clone(), body: numbered(2), id: None, ephemeral: false };
    let (asks, publishes) = (Arc::clone(&node.broker), Arc::clone(&node.broker));
    let asking = tokio::spawn(async move { asks.positions(&[(tenant, channel)]).await });
    let publishing = tokio::spawn(async move { publishes.publish(publish).await });
    // This test has one thread, so each of them runs until it waits.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!asking.is_finished() && !publishing.is_finished());
    let began = Instant::now();
    proxy.cut();
    let (asked, published) = (asking.await.unwrap(), publishing.await.unwrap());
    assert!(matches!(asked, Err(BrokerError::Unavailable { .. })), "{asked:?}");
    assert!(matches!(published, Err(BrokerError::Timeout { .. })), "{published:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// The client library gives up its connection for a message whose header is not UTF-8. It comes again with a read by a
/// consumer; that must not go on for ever. Interests do not notice.
#[tokio::test]
async fn a_message_that_the_library_cannot_read_does_not_keep_others_from_being_read() {
    let (server, node) = start(1_000, MINUTE).await;
    for number in 1..=50 {
        node.record("a:b", numbered(number)).await;
    }
    let header = b"NATS/1.0\r\nA: \xff\r\n\r\n";
    let mut raw = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    raw.extend_from_slice(format!("HPUB rt.pub.acme.a.b {} {}\r\n", header.len(), header.len() + 1).as_bytes());
    raw.extend_from_slice(header);
    raw.extend_from_slice(b"x\r\n");
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&raw).await.unwrap();
    wait_for("the message", SOON, async || (node.standing("a:b").await.ok()?.position.offset == 51).then_some(()))
        .await;
    node.record("a:b", numbered(52)).await;
    let lost = node.read("a:b", HistoryRange::After(0), 1_000).await;
    assert!(matches!(lost, Err(BrokerError::Unavailable { .. })), "{lost:?}");
    let again = async || node.read("a:b", HistoryRange::After(0), 1_000).await.ok();
    let page = wait_for("the connection", SOON, again).await;
    assert_eq!(offsets(&page), (1..=52).collect::<Vec<_>>());
    assert_eq!(page.publications[50].body.bytes, "x");
}

fn clustered(servers: &[NatsServer]) -> BrokerOptions {
    let mut options = options(&servers[0], 10_000, MINUTE);
    options.url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    options.history.replicas = 3;
    options.connect_timeout = Duration::from_secs(30);
    options
}

async fn leader<'a>(client: &Client, servers: &'a [NatsServer]) -> Option<&'a NatsServer> {
    let answer = client.request("$JS.API.STREAM.INFO.RT_a", Bytes::new()).await.ok()?;
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    let name = info["cluster"]["leader"].as_str()?;
    servers.get(name.strip_prefix("test-")?.parse::<usize>().ok()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_publication_is_lost_with_a_leader() {
    let servers = NatsServer::builder().jetstream().start_cluster(3).await;
    let options = clustered(&servers);
    let mut node = Node::over(open(&options).await.unwrap());
    let interest = node.add("acme", "a:b").await;
    let publisher = Node::over(open(&options).await.unwrap());
    let mut acknowledged = HashSet::new();
    let epoch = publisher.record("a:b", numbered(0)).await.epoch;
    let outside = Plain::connect(&servers[0]).await;
    let mut killed = Instant::now();
    let mut number = 1;
    let mut after_kill = 0;
    while after_kill < 200 {
        assert!(killed.elapsed() < Duration::from_secs(60), "no publication is taken any more");
        let id = number.to_string();
        match publisher.record_as("a:b", numbered(number), Some(&id)).await {
            Ok(published) => {
                let position = published.position.unwrap();
                assert_eq!(position.epoch, epoch);
                acknowledged.insert(position.offset);
                after_kill += u64::from(number > 200);
                number += 1;
            }
            // It is published again with its id until it is taken.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        if number == 201 && after_kill == 0 {
            let leader = wait_for("a leader", SOON, async || leader(&outside.client, &servers).await).await;
            leader.kill();
            killed = Instant::now();
            number += 1;
        }
    }
    // It may have been the node's own server, or another.
    let mut looked = false;
    while !looked {
        looked = match node.event().await {
            BrokerEvent::Resumed(_) => true,
            BrokerEvent::Publication(publication) => {
                assert_eq!(publication.interest, interest);
                false
            }
            BrokerEvent::Interrupted(_) => false,
        };
    }
    for reader in [&node, &publisher] {
        let page = wait_for("a page", SOON, async || {
            let page = reader.read("a:b", HistoryRange::After(0), 10_000).await;
            page.ok().filter(|page| page.whole)
        })
        .await;
        let read: HashSet<u64> = offsets(&page).into_iter().collect();
        assert_eq!(page.position.epoch, epoch);
        let missing: Vec<_> = acknowledged.difference(&read).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged and are not there");
        let mut numbers: Vec<u64> =
            page.publications.iter().map(|recorded| self::number(&recorded.body.bytes)).collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "something was published twice");
    }
}

/// A leader may have taken a publication and not republished it, so positions are looked at when another is elected: those of
/// its stream only, and though no connection was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_elected_lets_positions_be_looked_at() {
    let servers = NatsServer::builder().jetstream().start_cluster(3).await;
    // All by one server: what has passed it before the node listens there does not come to the node.
    let options = BrokerOptions { url: servers[0].url(), ..clustered(&servers) };
    let outside = Plain::connect(&servers[0]).await;
    let elected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.RT_a";
    let mut elections = outside.client.subscribe(elected).await.unwrap();
    outside.flush().await;
    // The stream's first leader is elected when another node makes it, and told at any time after that.
    let maker = Node::over(open(&options).await.unwrap());
    let first = futures_util::StreamExt::next(&mut elections);
    tokio::time::timeout(SOON, first).await.expect("a leader in time").unwrap();
    maker.broker.close().await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "live:x").await;
    let interests = node.add_all("acme", &["a:b", "a:c"]).await;
    let before = node.record("a:b", numbered(1)).await;
    assert_eq!(live(&mut node).await.position, before);
    let stepped = api(&outside.client, "STREAM.LEADER.STEPDOWN.RT_a", Value::Null).await;
    assert_eq!(stepped["success"], json!(true), "{stepped}");
    let mut resumed = Vec::new();
    while resumed.len() < 2 {
        match node.event().await {
            BrokerEvent::Resumed(Scope::Interest(interest)) => resumed.push(interest),
            other => panic!("{other:?}"),
        }
    }
    resumed.sort();
    assert_eq!(resumed, interests);
    let second = wait_for("the new leader", SOON, async || {
        node.record_as("a:b", numbered(2), Some("2")).await.ok().and_then(|published| published.position)
    })
    .await;
    assert!(before.is_before(&second));
}
