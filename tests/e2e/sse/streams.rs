//! What a stream is: events as they come, signs of life, and its end.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpSocket;

use super::{TENANT, event_stream::EventStream, node, node_of_small_outboxes, publish};
use crate::{SOON, broker::Broker, node::Node};

const BOTH_LOGS: &str = "/sse?channels=log:a,log:b";

#[tokio::test]
async fn events_come_as_they_are_published() {
    let broker = Broker::redis().await;
    let node = node(&broker.url()).start().await;
    let mut stream = EventStream::open(&node, "/sse?channels=live:a,log:b", "").await;
    for header in ["cache-control: no-store, no-transform", "x-accel-buffering: no", "connection: close"] {
        assert!(stream.head.contains(header), "{}", stream.head);
    }
    let connected = stream.expect("system:connected").await;
    assert!(connected["session"].is_string() && connected["tenant"] == TENANT, "{connected}");
    let retry = stream.retry().expect("a time to wait at the beginning");
    assert!((1_000..=2_000).contains(&retry), "{retry}");
    let mut channels = Vec::new();
    for _ in 0..2 {
        channels.push(stream.expect("system:subscribed").await);
    }
    let history = channels.iter().find(|answer| answer["channel"] == "log:b").expect("both are answered");
    let begin = &history["position"];
    assert_eq!(
        stream.last_id(),
        format!("1;,{}.{}", begin["epoch"].as_str().expect("a position"), begin["offset"]),
        "a stream that is cut off now comes back to here"
    );

    // A plain publisher, whose JSON has several lines.
    let body = "{\"event\":\"project:funded\",\n \"data\": {\r\n\t\"n\": 1 },\n\"timestamp\":5}";
    broker.publish(TENANT, "live:a", body).await;
    let event = stream.event().await;
    let expected = json!({ "event": "project:funded", "channel": "live:a", "data": { "n": 1 }, "timestamp": 5 });
    assert_eq!((event.name.as_str(), &event.object), ("project:funded", &expected));
    let before = stream.last_id().to_owned();
    publish(&node, "log:b", 2).await;
    let event = stream.event().await;
    assert_eq!(event.number(), ("log:b".into(), 2));
    let (offset, epoch) = (&event.object["offset"], event.object["epoch"].as_str().expect("a position"));
    assert_eq!(event.id, format!("1;,{epoch}.{offset}"));
    assert_ne!(before, event.id);

    let metrics = node.metrics().await;
    for (gauge, value) in [("connections", 1.0), ("sessions", 1.0), ("subscriptions", 2.0)] {
        assert_eq!(metrics.sum(&format!("fanfare_{gauge}")), value, "{gauge}");
    }
    drop(stream);
    node.wait_for_metrics("nothing to be left", |metrics| {
        ["connections", "sessions", "subscriptions"].iter().all(|gauge| metrics.sum(&format!("fanfare_{gauge}")) == 0.0)
    })
    .await;
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let node = node("memory:").set("timeouts.ping_interval", "200ms").set("timeouts.pong", "200ms").start().await;
    let mut stream = EventStream::open(&node, "/sse?channels=live:a", "").await;
    stream.subscribed(1).await;
    // Nobody answers, and nobody is closed for it.
    let begun = Instant::now();
    while stream.comments() < 8 {
        assert!(begun.elapsed() < SOON, "{} heartbeats in {SOON:?}", stream.comments());
        assert!(stream.is_silent(Duration::from_millis(100)).await);
    }
    let took = begun.elapsed();
    println!("8 heartbeats in {took:?}, one every 200 ms");
    assert!(took >= Duration::from_millis(7 * 200), "{took:?}");
    publish(&node, "live:a", 1).await;
    assert_eq!(stream.publication().await.number(), ("live:a".into(), 1));
}

#[tokio::test]
async fn a_node_that_goes_away_says_when_to_come_back() {
    let node = node("memory:").start().await;
    let mut stream = EventStream::open(&node, "/sse?channels=log:a", "").await;
    stream.subscribed(1).await;
    publish(&node, "log:a", 1).await;
    assert_eq!(stream.publication().await.number(), ("log:a".into(), 1));
    let begun = Instant::now();
    let (status, events) = tokio::join!(node.stop(SOON), stream.end());
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{}", node.process().log());
    let [draining] = &events[..] else { panic!("{events:?}") };
    assert_eq!(draining.name, "system:draining");
    let after = draining.object["data"]["reconnect_after_ms"].as_u64().expect("a time to wait");
    assert_eq!(stream.retry(), Some(after), "the browser waits as long as it is told");
    println!("SIGTERM: the stream was told to come back after {after} ms, and the node ended in {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// The stream of a client whose own kernel takes little before it has to read.
async fn open_with_little_room(node: &Node) -> EventStream {
    let socket = TcpSocket::new_v4().expect("a socket can be had");
    socket.set_recv_buffer_size(4 * 1024).expect("a socket has a buffer");
    let mut stream = EventStream::open_by(socket, node.public(), BOTH_LOGS, "").await;
    stream.subscribed(2).await;
    stream
}

/// The stream ends, and by its id nothing is lost and nothing comes twice.
#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_comes_back_for_the_rest() {
    const BYTES: usize = 4 * 1024;
    let node = node_of_small_outboxes().start().await;
    let mut slow = open_with_little_room(&node).await;
    let mut published = 0;
    while node.metrics().await.sum("fanfare_slow_consumers_total") == 0.0 {
        published += 1;
        let channel = if published % 2 == 0 { "log:a" } else { "log:b" };
        publish(&node, channel, json!({ "n": published, "fill": "x".repeat(BYTES) })).await;
        assert!(published < 500, "a client that does not read is never closed");
    }
    let before: Vec<u64> = slow.end().await.iter().map(|event| event.number().1).collect();
    assert!(before.len() < published as usize, "all came");
    let mut back = EventStream::come_back(&node, BOTH_LOGS, slow.last_id()).await;
    let after = back.numbers(published as usize - before.len()).await;
    println!("{} of {published} events came before the end, {} after", before.len(), after.len());
    for channel in ["log:a", "log:b"] {
        let parity = u64::from(channel == "log:b");
        let mut got: Vec<u64> = before.iter().copied().filter(|number| number % 2 == parity).collect();
        got.extend(after.iter().filter(|(own, _)| own == channel).map(|(_, number)| *number));
        let expected: Vec<u64> = (1..=published).filter(|number| number % 2 == parity).collect();
        assert_eq!(got, expected, "{channel}");
    }
    let metrics = node.metrics().await;
    assert_eq!(metrics.labelled("fanfare_disconnections_total", "code", "slow_consumer"), 1.0, "{metrics:?}");
}

/// Where the namespace says so, it gets the newest of what it was too slow for.
#[tokio::test]
async fn a_client_that_does_not_read_gets_the_newest() {
    let node = node_of_small_outboxes().set("namespaces.log.slow_consumer", "conflate").start().await;
    let mut slow = open_with_little_room(&node).await;
    let mut published = 0;
    while node.metrics().await.sum("fanfare_conflated_total") < 20.0 {
        published += 1;
        for channel in ["log:a", "log:b"] {
            publish(&node, channel, json!({ "n": published, "fill": "x".repeat(4 * 1024) })).await;
        }
        assert!(published < 500, "nothing is ever conflated");
    }
    let mut last = [0, 0];
    let (mut got, mut gaps) = (0, 0);
    while last != [published, published] {
        let event = slow.event().await;
        if event.name == "system:gap" {
            assert_eq!(event.object["data"]["reason"], "conflated");
            gaps += 1;
            continue;
        }
        let (channel, number) = event.number();
        let last = &mut last[usize::from(channel == "log:b")];
        assert!(*last < number, "{number} after {last} on {channel}");
        *last = number;
        got += 1;
    }
    println!("{got} of {} events came, after {gaps} gaps the newest", 2 * published);
    assert!(gaps >= 2, "{gaps}");
    // It has all that it is going to get.
    let mut back = EventStream::come_back(&node, BOTH_LOGS, slow.last_id()).await;
    assert!(back.subscribed(2).await.iter().all(|answer| answer["recovered"] == json!(true)));
    assert!(back.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn a_full_node_tells_a_stream_when_to_come_back() {
    let node = node("memory:").set("limits.connections", 1).start().await;
    let mut first = EventStream::open(&node, "/sse?channels=live:a", "").await;
    first.subscribed(1).await;
    // An EventSource would never come again after 503.
    let mut second = EventStream::open(&node, "/sse?channels=live:a", "").await;
    let events = second.end().await;
    let [error] = &events[..] else { panic!("{events:?}") };
    assert_eq!((error.name.as_str(), &error.object["data"]["code"]), ("system:error", &json!("UNAVAILABLE")));
    assert_eq!(second.retry(), error.object["data"]["reconnect_after_ms"].as_u64());
    assert_eq!(node.metrics().await.labelled("fanfare_handshakes_refused_total", "reason", "full"), 1.0);
    drop(first);
    node.wait_for_metrics("room", |metrics| metrics.sum("fanfare_connections") == 0.0).await;
    EventStream::open(&node, "/sse?channels=live:a", "").await.subscribed(1).await;
}

/// What everyone is subscribed to stands in no request, so no id can say how far a stream has come there. The others of its
/// streams would else come back to where somebody else stood.
#[tokio::test]
async fn a_channel_that_nobody_asked_for_changes_no_id() {
    let node = node("memory:").set("auto_subscribe", vec!["log:all"]).start().await;
    let (mut first, mut second) = (
        EventStream::open(&node, "/sse?channels=log:a", "").await,
        EventStream::open(&node, "/sse?channels=log:b", "").await,
    );
    for stream in [&mut first, &mut second] {
        stream.subscribed(2).await;
    }
    for (channel, number) in [("log:a", 1), ("log:a", 2), ("log:b", 3)] {
        publish(&node, channel, number).await;
    }
    assert_eq!(first.numbers(2).await, [("log:a".into(), 1), ("log:a".into(), 2)]);
    assert_eq!(second.numbers(1).await, [("log:b".into(), 3)]);
    let ids = [first.last_id().to_owned(), second.last_id().to_owned()];
    assert_ne!(ids[0], ids[1]);
    publish(&node, "log:all", 4).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(stream.publication().await.number(), ("log:all".into(), 4));
    }
    assert_eq!([first.last_id(), second.last_id()], [&*ids[0], &*ids[1]]);
}
