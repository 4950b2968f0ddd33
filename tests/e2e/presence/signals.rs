//! Typing, and other signals: to others only, never kept, over by themselves.

use std::time::{Duration, Instant};

use fanfare_testkit::{NatsServer, RedisServer};
use serde_json::{Value, json};

use super::{node, watcher::Watcher};
use crate::node::{Node, NodeBuilder};

const CHANNEL: &str = "crew:1";
const EXPIRY: Duration = Duration::from_secs(2);

/// What a signal has beside its channel.
fn signal(event: &str) -> Value {
    json!({ "type": "signal", "channel": CHANNEL, "event": event })
}

/// Signals of a user with this event, in order.
fn signals(watcher: &Watcher, user: &str) -> Vec<String> {
    let known = watcher.known();
    let own = known.publications().iter().filter(|one| one["data"]["userId"] == user);
    own.map(|one| one["event"].as_str().expect("an event").to_owned()).collect()
}

fn with_history(builder: NodeBuilder) -> NodeBuilder {
    builder
        .set("namespaces.crew.history.size", 100)
        .set("namespaces.crew.history.ttl", "1m")
        .set("timeouts.signal", "2s")
}

#[tokio::test]
async fn nats_with_history() {
    let nats = NatsServer::builder().jetstream().start().await;
    let start = |name: &str| with_history(node(name, &nats.url(), "memory:")).start();
    let (first, second) = tokio::join!(start("a"), start("b"));
    typing(&first, &second, "NATS").await;
}

#[tokio::test]
async fn redis_with_history() {
    let redis = RedisServer::start().await;
    let start = |name: &str| with_history(node(name, &redis.url(), "memory:")).start();
    let (first, second) = tokio::join!(start("a"), start("b"));
    typing(&first, &second, "Redis").await;
}

#[tokio::test]
async fn memory_without_history() {
    let node = node("a", "memory:", "memory:").set("timeouts.signal", "2s").start().await;
    typing(&node, &node, "memory").await;
}

async fn typing(first: &Node, second: &Node, broker: &str) {
    let mut alice = Watcher::watch(first, "alice", &[CHANNEL]).await;
    let mut bob = Watcher::watch(second, "bob", &[CHANNEL]).await;
    let near = Watcher::watch(first, "near", &[CHANNEL]).await;
    let others = [&near];

    // Start and stop, as told; data goes with it.
    let mut start = signal("typing:start");
    start["data"] = json!({ "at": 7 });
    alice.ask(start).await;
    alice.ask(signal("typing:stop")).await;
    for watcher in [&bob, &near] {
        watcher.wait("start and stop", |known| known.publications().len() == 2).await;
        assert_eq!(signals(watcher, "alice"), ["typing:start", "typing:stop"], "{}", watcher.user());
        let known = watcher.known();
        let [start, stop] = known.publications() else { panic!("{:?}", known.publications()) };
        assert_eq!((&start["channel"], &start["data"]["data"]), (&json!(CHANNEL), &json!({ "at": 7 })), "{start}");
        assert_eq!(start["data"]["expires_in_ms"], json!(EXPIRY.as_millis() as u64), "{start}");
        assert!(start["offset"].is_null() && stop["offset"].is_null(), "{start} and {stop} have no position");
    }

    // Without a renewal it is over; with one it goes on.
    let begun = Instant::now();
    alice.ask(signal("typing:start")).await;
    while begun.elapsed() < EXPIRY + EXPIRY / 2 {
        tokio::time::sleep(EXPIRY / 2).await;
        alice.ask(signal("typing:start")).await;
    }
    let renewed = Instant::now();
    bob.wait("the end of typing", |known| known.count("typing:stop") == 2).await;
    let over = renewed.elapsed();
    assert!(over >= EXPIRY.mul_f32(0.9) && over < EXPIRY * 2, "{over:?} after the last renewal");
    let renewals = signals(&bob, "alice").iter().filter(|event| *event == "typing:start").count();
    assert!(renewals >= 4, "{renewals}");

    // Whoever leaves has stopped, whatever it was doing; a signal without an end has none.
    alice.ask(signal("typing:start")).await;
    alice.ask(signal("call:start")).await;
    alice.ask(signal("waved")).await;
    alice.ask(json!({ "type": "unsubscribe", "channel": CHANNEL })).await;
    bob.wait("the end by unsubscribing", |known| known.count("call:stop") == 1 && known.count("typing:stop") == 3)
        .await;
    assert_eq!(bob.known().count("waved"), 1);
    bob.ask(signal("typing:start")).await;
    near.wait("bob typing", |known| known.publications().last().is_some_and(|one| one["data"]["userId"] == "bob"))
        .await;
    assert!(signals(&bob, "bob").is_empty(), "nobody gets what is its own");
    let expected = signals(&bob, "alice");
    bob.cut().await;
    for watcher in others {
        watcher.wait("the end by a disconnect", |known| known.count("typing:stop") == 4).await;
        assert_eq!(signals(watcher, "bob"), ["typing:start", "typing:stop"]);
        assert_eq!(signals(watcher, "alice"), expected);
    }
    assert!(signals(&alice, "alice").is_empty() && alice.known().told("system:gap") == 0);

    // None of it is kept, and it left no hole.
    first.publish(super::TENANT, CHANNEL, r#"{"event":"kept","data":1}"#).await;
    near.wait("a publication", |known| known.count("kept") == 1).await;
    let has_history = near.known().publications().last().is_some_and(|one| !one["offset"].is_null());
    let mut reader = Watcher::connect(second, "reader").await;
    let page = reader.command(json!({ "type": "history", "channel": CHANNEL, "limit": 50 })).await;
    if has_history {
        let events: Vec<_> =
            page["result"]["publications"].as_array().expect("a page").iter().map(|one| &one["event"]).collect();
        assert_eq!(events, [&json!("kept")], "{page}");
    } else {
        assert_eq!(page["type"], "error", "{page}");
    }
    assert_eq!(near.known().told("system:gap"), 0, "{:?}", near.known().system());
    println!("{broker}: typing was over {over:.1?} after its last renewal, and at once when its connection was");
}

#[tokio::test]
async fn too_many_are_refused() {
    const PER_SECOND: usize = 10;
    const SENT: usize = 200;
    let node = node("a", "memory:", "memory:").start().await;
    let mut alice = Watcher::watch(&node, "alice", &[CHANNEL]).await;
    let bob = Watcher::watch(&node, "bob", &[CHANNEL]).await;
    let begun = Instant::now();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..SENT {
        let reply = alice.command(signal("waved")).await;
        match reply["code"].as_str() {
            None => accepted += 1,
            Some("RATE_LIMIT") => refused += 1,
            Some(_) => panic!("{reply}"),
        }
    }
    let allowed = PER_SECOND as f64 * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
    assert!(accepted >= PER_SECOND && accepted as f64 <= allowed && refused > 0, "{accepted} of {SENT}");
    // Signals have a limit of their own.
    alice.ask(json!({ "type": "set_presence", "state": "busy" })).await;
    bob.wait("all that were accepted", |known| known.count("waved") == accepted).await;
    bob.wait("another state", |known| known.view(CHANNEL).member("alice").is_some_and(|seen| seen.status == "busy"))
        .await;
    assert_eq!(bob.known().count("waved"), accepted);
    bob.assert_sound();
}
