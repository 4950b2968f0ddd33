//! How nodes and sessions begin and end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    SOON,
    broker::Broker,
    client::Received,
    handshake::TokenPlace,
    metrics::Metrics,
    node::Node,
    token::{claims, seconds_from_now, sign},
};

#[tokio::test]
async fn a_second_node_on_the_same_broker_serves_the_same_channels() {
    let broker = Broker::nats().await;
    let first = Node::start(&broker.url()).await;
    let mut early = first.client().connect("acme", "early", TokenPlace::Header).await;
    early.subscribe("project:1").await;
    let second = Node::start(&broker.url()).await;
    assert_ne!(first.public(), second.public());
    let mut late = second.client().connect("acme", "late", TokenPlace::Header).await;
    late.subscribe("project:1").await;
    for node in [&first, &second] {
        assert_eq!((node.ready().await, node.get("/healthz").await.0), (200, 200));
        // What one node takes, all deliver.
        node.publish("acme", "project:1", r#"{"event":"e"}"#).await;
        for client in [&mut early, &mut late] {
            assert_eq!(client.publication().await.event, "e");
        }
    }
    let log = first.process().log();
    assert_eq!(first.process().stdout().lines().count(), 1, "only the ready line is on standard output\n{log}");
}

#[tokio::test]
async fn sigterm_says_goodbye_to_every_client() {
    const CLIENTS: usize = 50;
    let broker = Broker::nats().await;
    let node = Node::start(&broker.url()).await;
    let connecting = (0..CLIENTS).map(async |index| {
        let handshake = node.client();
        let mut client = handshake.connect("acme", &format!("user{index}"), TokenPlace::Header).await;
        client.subscribe("project:1").await;
        client
    });
    let mut clients = join_all(connecting).await;
    let mut anonymous = node.client().open().await;

    let begun = Instant::now();
    let goodbyes = join_all(clients.iter_mut().map(|client| client.closed(4000)));
    let (status, goodbyes, _) = tokio::join!(node.stop(SOON), goodbyes, anonymous.closed(4000));
    let took = begun.elapsed();
    println!("SIGTERM: {CLIENTS} clients told and closed, and the node ended with {status}, in {took:?}");
    assert!(took < Duration::from_secs(4), "it waited for someone: {took:?}");
    assert_eq!(status.code(), Some(0), "{}", node.process().log());
    let mut waits = BTreeSet::new();
    for messages in goodbyes {
        let [draining] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(draining["event"], "system:draining");
        waits.insert(draining["data"]["reconnect_after_ms"].as_u64().unwrap_or_else(|| panic!("{draining}")));
    }
    assert!(waits.len() > 1, "all of {CLIENTS} come back after {waits:?} ms, at once");
    assert!(node.client().try_open().await.is_err(), "nobody listens any more");
}

/// A client that never answers the close does not hold up the end of its node for longer than it may.
#[tokio::test]
async fn sigterm_does_not_wait_for_clients_for_ever() {
    let node = Node::builder("memory:").set("timeouts.shutdown", "500ms").start().await;
    let deaf = node.client().connect("acme", "deaf", TokenPlace::Header).await;
    let begun = Instant::now();
    let status = node.stop(SOON).await;
    let took = begun.elapsed();
    println!("SIGTERM with a deaf client and a deadline of 500 ms: {status} in {took:?}");
    assert_eq!(status.code(), Some(1), "it ended by itself, and says that it had to cut someone");
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&took), "{took:?}");
    drop(deaf);
}

#[tokio::test]
async fn nothing_is_left_of_clients_that_went() {
    const CLIENTS: usize = 40;
    let broker = Broker::redis().await;
    let node = Node::builder(&broker.url()).set("timeouts.linger", "100ms").start().await;
    let connecting = (0..CLIENTS).map(async |index| {
        let handshake = node.client();
        let mut client = handshake.connect("acme", &format!("user{index}"), TokenPlace::Header).await;
        client.subscribe(&format!("project:{}", index % 7)).await;
        client.subscribe("project:*").await;
        client
    });
    let clients = join_all(connecting).await;
    let gauges = [("connections", 40.0), ("sessions", 40.0), ("subscriptions", 80.0), ("channels", 8.0)];
    let are = |metrics: &Metrics, share: f64| {
        gauges.iter().all(|(gauge, value)| metrics.sum(&format!("fanfare_{gauge}")) == value * share)
    };
    node.wait_for_metrics("everything to be counted", |metrics| are(metrics, 1.0)).await;
    for (index, mut client) in clients.into_iter().enumerate() {
        // Half of them say goodbye, which is answered; the others are just gone.
        if index % 2 == 0 {
            client.send_message(Message::Close(None)).await;
            assert!(matches!(client.next().await, Received::Close(_)));
        }
    }
    node.wait_for_metrics("nothing to be left", |metrics| are(metrics, 0.0)).await;
}

#[tokio::test]
async fn a_token_that_is_not_refreshed_ends_the_session() {
    let node = Node::builder("memory:").set("timeouts.token_expiring", "2s").start().await;
    let short = |user: &str, seconds: f64| {
        let mut claims = claims("acme", user);
        claims["exp"] = seconds_from_now(seconds).into();
        sign(&claims)
    };
    let begun = Instant::now();
    let token = short("alice", 4.0);
    let mut leaving = node.client().connect_with(&token, TokenPlace::Header).await;
    let mut staying = node.client().connect_with(&token, TokenPlace::Command).await;
    staying.subscribe("project:1").await;
    for client in [&mut leaving, &mut staying] {
        let push = client.expect("system:token_expiring").await;
        let left = push["data"]["expires_in_ms"].as_u64().unwrap_or_else(|| panic!("{push}"));
        assert!((1..=2_000).contains(&left), "{push}");
    }
    // Another user's token is refused, and the old one stays in force.
    let reply = staying.command(json!({ "type": "refresh", "token": short("bob", 60.0) })).await;
    assert_eq!(reply["code"], "FORBIDDEN", "{reply}");
    let reply = staying.command(json!({ "type": "refresh", "token": short("alice", 60.0) })).await;
    let left = reply["result"]["expires_in_ms"].as_u64().unwrap_or_else(|| panic!("{reply}"));
    assert!((4_001..=60_000).contains(&left), "{reply}");

    assert!(leaving.closed(4003).await.is_empty());
    let lasted = begun.elapsed();
    println!("a token of 4 s: closed after {lasted:?}");
    assert!(lasted >= Duration::from_millis(3_900), "{lasted:?}");
    node.publish("acme", "project:1", r#"{"event":"still here"}"#).await;
    assert_eq!(staying.publication().await.event, "still here");
    let metrics = node.metrics().await;
    assert_eq!(metrics.labelled("fanfare_disconnections_total", "code", "token_expired"), 1.0, "{metrics:?}");
}

#[tokio::test]
async fn silent_clients_are_pinged_and_dead_ones_closed() {
    const INTERVAL: Duration = Duration::from_millis(300);
    let node = Node::builder("memory:")
        .set("timeouts.ping_interval", "300ms")
        // Long enough for a client on a busy machine.
        .set("timeouts.pong", "2s")
        .start()
        .await;
    let begun = Instant::now();
    // Sent a command, and answers.
    let mut alive = node.client().connect("acme", "alive", TokenPlace::Command).await;
    // Sent a command, and does not answer, although it reads.
    let mut dead = node.client().connect("acme", "dead", TokenPlace::Command).await;
    // Sent no command, and leaves it to its library to answer.
    let mut listener = node.client().connect("acme", "listener", TokenPlace::Header).await;
    // Sent no command, and does not read.
    let mut deaf = node.client().connect("acme", "deaf", TokenPlace::Header).await;

    let answering = async {
        for _ in 0..8 {
            assert_eq!(alive.expect("system:ping").await["data"], json!({}));
            alive.send(r#"{"type":"pong"}"#).await;
        }
    };
    let dying = async {
        let messages = dead.closed(4002).await;
        let [ping] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(ping["event"], "system:ping");
        begun.elapsed()
    };
    let listening = async {
        // It gets nothing but pings until then.
        assert!(listener.next_within(8 * INTERVAL).await.is_none());
        listener.log().iter().filter(|received| matches!(received, Received::Ping)).count()
    };
    let ((), died_after, pings) = tokio::join!(answering, dying, listening);
    println!("pinged every {INTERVAL:?}: closed after {died_after:?} of silence; a listener was pinged {pings} times");
    assert!(died_after >= INTERVAL + Duration::from_secs(2), "{died_after:?}");
    assert!(pings >= 2, "{pings}");

    node.wait_for_metrics("the close of the deaf one", |metrics| {
        metrics.labelled("fanfare_disconnections_total", "code", "ping_timeout") >= 2.0
    })
    .await;
    assert!(deaf.closed(4002).await.is_empty());
    // Those who live are still served.
    for client in [&mut alive, &mut listener] {
        let reply = client.command(json!({ "type": "ping" })).await;
        assert_eq!(reply["result"], json!({}), "{reply}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_connect_in_time_is_closed() {
    let node = Node::builder("memory:").set("timeouts.connect", "300ms").start().await;
    let mut undecided = node.client().open().await;
    let mut connected = node.client().connect("acme", "alice", TokenPlace::Header).await;
    assert!(undecided.closed(4004).await.is_empty());
    connected.subscribe("project:1").await;
}
