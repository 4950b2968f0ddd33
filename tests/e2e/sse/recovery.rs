//! Streams that come back: with the id of the last event nothing is missing, and nothing comes twice.

use serde_json::json;

use super::{SharedBroker, event_stream::EventStream, node, node_of_small_outboxes, publish};
use crate::node::Node;

#[tokio::test]
async fn on_another_node_with_nats() {
    two_channels_on_another_node(SharedBroker::nats().await).await;
}

#[tokio::test]
async fn on_another_node_with_redis() {
    two_channels_on_another_node(SharedBroker::redis().await).await;
}

fn numbers(events: &[(String, u64)], channel: &str) -> Vec<u64> {
    events.iter().filter(|(own, _)| own == channel).map(|(_, number)| *number).collect()
}

async fn publish_numbers(node: &Node, channels: &[&str], numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        for channel in channels {
            publish(node, channel, number).await;
        }
    }
}

async fn two_channels_on_another_node(broker: SharedBroker) {
    let (first, second) = (node(&broker.url()).start().await, node(&broker.url()).start().await);
    let target = "/sse?channels=log:a,live:x,log:b&rewind=2";
    publish_numbers(&first, &["log:a", "log:b"], 1..=5).await;
    let mut stream = EventStream::open(&first, target, "").await;
    let before = stream.numbers(4).await;
    for channel in ["log:a", "log:b"] {
        assert_eq!(numbers(&before, channel), [4, 5], "{before:?}");
    }
    publish_numbers(&second, &["log:a"], 6..=6).await;
    assert_eq!(stream.publication().await.number(), ("log:a".into(), 6));
    let last_id = stream.last_id().to_owned();
    first.kill();
    drop(stream);

    publish_numbers(&second, &["log:a", "log:b"], 7..=30).await;
    let mut back = EventStream::come_back(&second, target, &last_id).await;
    back.expect("system:connected").await;
    let mut events = Vec::new();
    let mut recovered = 0;
    while events.len() < 24 + 25 {
        let event = back.event().await;
        if event.name == "system:subscribed" {
            let answer = &event.object["data"];
            assert_eq!(answer["channel"] != "live:x", answer["recovered"] == json!(true), "{answer}");
            assert!(answer.get("publications").is_none(), "they are events of their own: {answer}");
            recovered += usize::from(answer["recovered"] == json!(true));
        } else {
            events.push(event.number());
        }
        if events.len() == 20 {
            // Live ones come after those that were missed.
            publish(&second, "log:b", 31).await;
        }
    }
    assert_eq!(recovered, 2);
    assert_eq!(numbers(&events, "log:a"), (7..=30).collect::<Vec<_>>());
    // 6 went to log:a alone.
    assert_eq!(numbers(&events, "log:b"), (7..=31).collect::<Vec<_>>());

    // Every id on the way is one to come back with.
    let mut third = EventStream::come_back(&second, target, back.last_id()).await;
    let answers = third.subscribed(3).await;
    assert_eq!(answers.iter().filter(|answer| answer["recovered"] == json!(true)).count(), 2, "{answers:?}");
    publish(&second, "log:a", 32).await;
    assert_eq!(third.publication().await.number(), ("log:a".into(), 32));
}

/// Three channels of which each alone is larger than the outbox.
#[tokio::test]
async fn a_recovery_larger_than_the_outbox_comes_in_pages() {
    const EVENTS: u64 = 100;
    let node = node_of_small_outboxes().start().await;
    let channels = ["log:a", "log:b", "log:c"];
    let target = "/sse?channels=log:a,log:b,log:c";
    let mut stream = EventStream::open(&node, target, "").await;
    stream.subscribed(3).await;
    let last_id = stream.last_id().to_owned();
    drop(stream);
    for number in 1..=EVENTS {
        for channel in channels {
            publish(&node, channel, json!({ "n": number, "fill": "x".repeat(2_000) })).await;
        }
    }
    // A client that is cut off again and again gets on all the same.
    let (mut id, mut got, mut visits) = (last_id, Vec::new(), 0);
    while got.len() < 3 * EVENTS as usize {
        let mut stream = EventStream::come_back(&node, target, &id).await;
        let some = 70.min(3 * EVENTS as usize - got.len());
        got.extend(stream.numbers(some).await);
        stream.last_id().clone_into(&mut id);
        visits += 1;
    }
    println!("{} events of 2,000 bytes through an outbox of 32 KiB in {visits} visits", got.len());
    for channel in channels {
        assert_eq!(numbers(&got, channel), (1..=EVENTS).collect::<Vec<_>>(), "{channel}");
    }
    assert_eq!(node.metrics().await.sum("fanfare_slow_consumers_total"), 0.0);
}

#[tokio::test]
async fn what_cannot_be_recovered_is_said() {
    let node = node("memory:").start().await;
    publish_numbers(&node, &["log:a"], 1..=3).await;
    let mut stream = EventStream::come_back(&node, "/sse?channels=log:a&rewind=1", "1;of-another-life.7").await;
    stream.expect("system:connected").await;
    let answer = stream.expect("system:subscribed").await;
    assert_eq!(answer["recovered"], json!(false), "{answer}");
    assert_eq!(stream.publication().await.number(), ("log:a".into(), 3), "it gets what it would get anew");
    publish(&node, "log:a", 4).await;
    assert_eq!(stream.publication().await.number(), ("log:a".into(), 4));
    let mut back = EventStream::come_back(&node, "/sse?channels=log:a&rewind=1", stream.last_id()).await;
    assert_eq!(back.subscribed(1).await[0]["recovered"], json!(true));
}
