//! Too much of everything: limits are told, memory is bounded, and the others do not wait.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::scene::{Count, Scene, done};
use crate::raw::{Raw, frame, text};
use crate::{client::Client, handshake::TokenPlace, node::Node, token::token};

/// Commands in one message; more are refused.
const PER_MESSAGE: usize = 1000;
const SLOW: Count<'_> = ("fanfare_slow_consumers_total", 1);
const DISCONNECTED: Count<'_> = (r#"fanfare_disconnections_total{code="slow_consumer"}"#, 1);

#[tokio::test]
async fn ten_thousand_subscriptions_are_answered_one_by_one() {
    // A client of this library does not read while it sends; all the replies together are 2 MB, each in a frame of its own.
    let node = Node::builder("memory:")
        .set("limits.subscriptions", 1000)
        .set("limits.outbox_bytes", "4MiB")
        .set("limits.outbox_frames", 20_000);
    let mut scene = Scene::start(node).await;
    let too_many = json!({
        "code": "LIMIT_EXCEEDED",
        "message": "the session has 1000 subscriptions; more are not allowed",
        "retryable": false,
    });
    let names: Vec<String> = (0..10_000).map(|number| format!("project:c{number}")).collect();
    let mut client = scene.node().client().connect("acme", "mallory", TokenPlace::Command).await;
    let lists = async |_: &Node| {
        for (round, names) in names.chunks(PER_MESSAGE).enumerate() {
            let reply = client.command(json!({ "type": "subscribe", "channels": names })).await;
            let outcome = |name: &String| match round {
                0 => json!({ "channel": name }),
                _ => json!({ "channel": name, "error": too_many }),
            };
            let outcomes: Vec<Value> = names.iter().map(outcome).collect();
            assert_eq!(reply["result"]["subscriptions"], json!(outcomes));
        }
    };
    let counts = [
        ("fanfare_subscriptions", 1000),
        ("fanfare_channels", 1000),
        (r#"fanfare_errors_total{code="LIMIT_EXCEEDED"}"#, 9000),
    ];
    scene.case("in lists", &counts, lists).await;

    // Those below the limit work, those above do not exist.
    for (name, event) in [("project:c999", "below"), ("project:c1000", "above"), ("project:c0", "last")] {
        let body = json!({ "tenant": "acme", "channel": name, "event": event }).to_string();
        assert_eq!(scene.node().post("/api/publish", body).await.0, 200);
    }
    assert_eq!(client.publication().await.event, "below");
    assert_eq!(client.publication().await.event, "last");
    drop(client);
    scene
        .node()
        .wait_for_metrics("the subscriptions' end", |metrics| metrics.sum("fanfare_subscriptions") == 4.0)
        .await;

    // The same, each in a command, and no reply is waited for.
    let mut client = scene.node().client().connect("acme", "mallory", TokenPlace::Command).await;
    let singles = async |_: &Node| {
        for (round, names) in names.chunks(PER_MESSAGE).enumerate() {
            let id = |place: usize| round * PER_MESSAGE + place;
            let commands: Vec<Value> = names
                .iter()
                .enumerate()
                .map(|(place, name)| json!({ "id": id(place), "type": "subscribe", "channel": name }))
                .collect();
            client.send(json!(commands).to_string()).await;
        }
        replies(&mut client, names.len()).await
    };
    let outcomes = scene.case("in commands", &[("fanfare_subscriptions", 1000)], singles).await;
    let made = outcomes.iter().filter(|(_, outcome)| outcome["type"] == "reply").count();
    let refused = outcomes.iter().filter(|(_, outcome)| outcome["code"] == "LIMIT_EXCEEDED").count();
    assert_eq!((made, refused), (1000, 9000));
}

#[tokio::test]
async fn a_node_with_all_its_channels_says_that_another_may_have_room() {
    // Two are the well-behaved one's in each of two tenants.
    let mut scene = Scene::start(Node::builder("memory:").set("limits.channels", 10)).await;
    let mut client = scene.node().client().connect("acme", "mallory", TokenPlace::Command).await;
    let names: Vec<String> = (0..10).map(|number| format!("project:c{number}")).collect();
    let act = async |_: &Node| client.command(json!({ "type": "subscribe", "channels": names })).await;
    let counts =
        [("fanfare_channels", 6), ("fanfare_subscriptions", 6), (r#"fanfare_errors_total{code="LIMIT_EXCEEDED"}"#, 4)];
    let reply = scene.case("10 of 6", &counts, act).await;
    let outcomes = reply["result"]["subscriptions"].as_array().expect("a list");
    for (place, outcome) in outcomes.iter().enumerate() {
        let full = json!({
            "code": "LIMIT_EXCEEDED",
            "message": "this node has 10 channels; that is its limit",
            "retryable": true,
        });
        assert_eq!(outcome.get("error"), Some(&full).filter(|_| place >= 6), "{outcome}");
    }
}

#[tokio::test]
async fn thousands_of_publishes_at_once_have_one_reply_each() {
    let mut scene = Scene::start(Node::builder("memory:").set("limits.pending_commands", 100)).await;
    let mut client = scene.node().client().connect("acme", "mallory", TokenPlace::Command).await;
    let mut reader = scene.node().client().connect("acme", "alice", TokenPlace::Command).await;
    reader.subscribe("board:1").await;
    let act = async |_: &Node| {
        for round in 0..5 {
            let publish =
                |number| json!({ "id": number, "type": "publish", "channel": "board:1", "event": "e", "data": number });
            let commands: Vec<Value> = (round * 500..(round + 1) * 500).map(publish).collect();
            client.send(json!(commands).to_string()).await;
        }
        replies(&mut client, 2500).await
    };
    let outcomes = scene.case("2,500 publishes", &[(r#"fanfare_commands_total{type="publish"}"#, 2500)], act).await;
    let accepted: Vec<u64> =
        outcomes.iter().filter(|(_, outcome)| outcome["type"] == "reply").map(|(id, _)| *id).collect();
    assert!(accepted.len() >= 100, "{}", accepted.len());
    for (id, outcome) in outcomes.iter().filter(|(_, outcome)| outcome["type"] != "reply") {
        assert_eq!((&outcome["code"], &outcome["retryable"]), (&json!("RATE_LIMIT"), &json!(true)), "{id}: {outcome}");
    }
    // What was accepted comes, in order; what was refused does not.
    for id in accepted {
        assert_eq!(reader.publication().await.data(), id.to_string());
    }
}

/// As many replies, by id.
async fn replies(client: &mut Client, count: usize) -> BTreeMap<u64, Value> {
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < count {
        let reply = client.message().await;
        let id = reply["id"].as_u64().unwrap_or_else(|| panic!("{reply} is no reply"));
        assert!(outcomes.insert(id, reply).is_none(), "a second reply to {id}");
    }
    outcomes
}

#[tokio::test]
async fn who_sends_and_does_not_read_is_closed_and_costs_what_the_limit_says() {
    const OUTBOX: usize = 64 * 1024;
    const FLOODERS: usize = 10;
    let mut scene = Scene::start(
        Node::builder("memory:")
            .set("limits.outbox_bytes", OUTBOX as i64)
            .set("limits.publication_bytes", OUTBOX as i64)
            .set("timeouts.connect", "1m"),
    )
    .await;
    let ping = |id: usize| json!({ "id": id, "type": "ping" });
    let whole = text(&json!((0..PER_MESSAGE).map(ping).collect::<Vec<_>>()).to_string());
    let single = text(&ping(7).to_string()).repeat(PER_MESSAGE);
    let control = frame(0x89, &[b'x'; 125]).repeat(PER_MESSAGE);
    let malformed = text("{").repeat(PER_MESSAGE);
    for (name, bytes) in [("in arrays", whole), ("in frames", single), ("WebSocket pings", control)] {
        // One that reads at last gets what was answered before it was closed, and then the close.
        let act = async |node: &Node| {
            let mut flooders = flood_together(node, &bytes, 1).await;
            flooders.pop().expect("one").closed().await
        };
        let closed = scene.case(name, &[SLOW, DISCONNECTED, ("fanfare_connections", 0)], act).await;
        assert_eq!(closed, (4001, "outbox limit reached".to_owned()), "{name}");

        let before = scene.node().process().resident_bytes();
        let act = async |node: &Node| {
            drop(flood_together(node, &bytes, FLOODERS).await);
            node.process().resident_bytes()
        };
        let counts = [(SLOW.0, FLOODERS as u32), (DISCONNECTED.0, FLOODERS as u32), ("fanfare_connections", 0)];
        let grown = scene.case(name, &counts, act).await.saturating_sub(before);
        assert!(grown < (FLOODERS * OUTBOX + (16 << 20)) as u64, "{name}: {grown} bytes more");
    }
    // Who sends what is malformed never gets that far.
    let act = async |node: &Node| {
        let mut raw = Raw::open(node.public(), "/ws", "").await;
        raw.write(&malformed).await;
        raw.closed().await.0
    };
    assert_eq!(scene.case("malformed", &[("fanfare_slow_consumers_total", 0)], act).await, 4503);
}

/// So many clients send commands and read nothing until the node has closed all of them.
async fn flood_together(node: &Node, bytes: &[u8], flooders: usize) -> Vec<Raw> {
    let base = node.metrics().await.sum(SLOW.0);
    let closed = AtomicBool::new(false);
    let watching = async {
        node.wait_for_metrics("slow consumers", |metrics| metrics.sum(SLOW.0) - base >= flooders as f64).await;
        closed.store(true, Ordering::Relaxed);
    };
    let flooding = join_all((0..flooders).map(|_| flood(node, bytes, &closed)));
    futures_util::join!(watching, flooding).1
}

async fn flood(node: &Node, bytes: &[u8], closed: &AtomicBool) -> Raw {
    let mut raw = Raw::open(node.public(), &format!("/ws?token={}", token("acme", "mallory")), "").await;
    while !closed.load(Ordering::Relaxed) {
        raw.write(bytes).await;
        tokio::task::yield_now().await;
    }
    raw
}

#[tokio::test]
async fn who_sends_much_and_reads_is_served() {
    let scene = Scene::start(Node::builder("memory:")).await;
    let mut client = scene.node().client().connect("acme", "alice", TokenPlace::Command).await;
    let frames = (0..5000).map(|id| json!({ "id": id, "type": "ping" }).to_string());
    for text in frames {
        client.send(text).await;
    }
    for id in 0..5000 {
        assert_eq!(client.message().await, done(id));
    }
    // As many frames as one read of the node takes: their answers are more than an outbox may hold at one time.
    let mut raw = Raw::open(scene.node().public(), "/ws", "").await;
    raw.write(frame(0x89, b"").repeat(20_000)).await;
    for _ in 0..20_000 {
        assert_eq!(raw.frame().await.map(|frame| frame.first), Some(0x8a));
    }
}
